"""SimpleTuner's `crepa_*` settings: what they mean, where they count from, what is refused."""

import json

import pytest
import torch
from torch import nn

from layersync import CREPA, CREPASettings, Neighbours, Schedule, find_blocks, read_crepa_settings

GIVEN = {
    "crepa_enabled": True,
    "crepa_feature_source": "backbone",
    "crepa_block_index": 1,
    "crepa_teacher_block_index": 3,
}
DEFAULTS = Schedule(weight=0.5, convention="simpletuner")


def changed(**changes):
    """GIVEN with some settings replaced, or left out if None."""
    settings = GIVEN | {f"crepa_{name}": value for name, value in changes.items()}
    return {name: value for name, value in settings.items() if value is not None}


class Model(nn.Module):
    def __init__(self, depth=4):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x).tanh()
        return x


def test_defaults_are_simpletuners():
    assert read_crepa_settings(GIVEN) == CREPASettings(1, 3, DEFAULTS, Neighbours())
    assert Neighbours() == Neighbours(1, 1.0, False, True, False, True)
    own = changed(feature_source=None, use_backbone_features=True, teacher_block_index=None)
    assert read_crepa_settings(own) == CREPASettings(1, 1, DEFAULTS, Neighbours())


EVERY = {
    "crepa_lambda": 0.4,
    "crepa_adjacent_distance": 2,
    "crepa_adjacent_tau": 0.5,
    "crepa_cumulative_neighbors": True,
    "crepa_normalize_by_frames": False,
    "crepa_normalize_neighbour_sum": True,
    "crepa_spatial_align": False,
    "crepa_scheduler": "polynomial",
    "crepa_warmup_steps": 3,
    "crepa_decay_steps": 12,
    "crepa_lambda_end": 0.1,
    "crepa_power": 2.0,
    "crepa_cutoff_step": 30,
    "crepa_similarity_threshold": 0.9,
    "crepa_similarity_ema_decay": 0.95,
    "crepa_threshold_mode": "recoverable",
}


def test_every_setting_is_read_from_numbers_and_from_texts(tmp_path):
    schedule = Schedule(
        0.4, "polynomial", 3, 12, 0.1, 2.0, 30, 0.9, 0.95, "recoverable", "simpletuner"
    )
    expected = CREPASettings(1, 3, schedule, Neighbours(2, 0.5, True, False, True, False))
    numbers = GIVEN | EVERY
    texts = {f"--{name}": str(value) for name, value in numbers.items()}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(texts))
    sources = numbers, texts, json.dumps(numbers), path, str(path), numbers | {"lr": "1e-4"}
    for source in sources:
        assert read_crepa_settings(source) == expected


def test_zero_steps_are_no_cutoff_and_a_decay_to_the_end_of_the_run():
    cosine = changed(scheduler="cosine", decay_steps=0, cutoff_step="0")
    assert read_crepa_settings(cosine, last_step=20).schedule.decay_steps == 20
    assert read_crepa_settings(cosine | {"max_train_steps": "30"}).schedule.decay_steps == 30
    assert read_crepa_settings(cosine, last_step=20).schedule.cutoff_step is None
    with pytest.raises(ValueError, match="crepa_decay_steps: 0 means the end of the run"):
        read_crepa_settings(cosine)


def test_settings_of_the_encoder_are_ignored_and_null_is_a_default():
    others = {"crepa_model": "dinov2_vitg14", "crepa_encoder_image_size": 518}
    others |= {"crepa_self_flow": False, "crepa_self_flow_mask_ratio": 0.1, "crepa_lambda": None}
    assert read_crepa_settings(GIVEN | others) == read_crepa_settings(GIVEN)


@pytest.mark.parametrize("settings", [{}, changed(enabled="false"), {"crepa_block_index": 2}])
def test_it_is_off_unless_enabled(settings):
    assert read_crepa_settings(settings) is None
    assert CREPA.from_settings(Model().blocks, settings) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (changed(feature_source="encoder"), "crepa_feature_source: 'encoder' needs decoded.*DINO"),
        (changed(feature_source=None), "crepa_feature_source: not given, which means 'encoder'"),
        (changed(feature_source="self_flow"), "crepa_feature_source: 'self_flow' needs a second"),
        (changed(self_flow="true"), "crepa_self_flow: True needs a second forward pass of the EMA"),
        (
            changed(feature_source="encoder", use_backbone_features=True),
            "crepa_feature_source: 'encoder' needs",
        ),
        (changed(feature_source="dino"), "'dino' is none of backbone, encoder, self_flow"),
        (changed(block_index=None), "crepa_block_index is missing.*counted from 0"),
        (changed(block_index=-1), "crepa_block_index: -1 .*count from 0"),
        (changed(block_index="1.0"), r"crepa_block_index: '1\.0'"),
        (changed(teacher_block_index=0), "crepa_teacher_block_index: 0 is not as deep as"),
        (changed(enabled="yes"), "crepa_enabled: 'yes' is neither true nor false"),
        (changed(spatial_align=1), "crepa_spatial_align: 1 is neither"),
        (changed(adjacent_distance=-1), "crepa_adjacent_distance: -1"),
        (changed(adjacent_tau="0"), r"crepa_adjacent_tau: 0\.0"),
        (changed(**{"lambda": 0}), "crepa_lambda: 0 .*crepa_enabled to false"),
        (changed(**{"lambda": "half"}), "crepa_lambda 'half': it must be"),
        (changed(lambda_end=-1.0), r"crepa_lambda_end -1\.0"),
        (changed(similarity_ema_decay=1.0), r"crepa_similarity_ema_decay 1\.0"),
        (changed(similarity_threshold="high"), "crepa_similarity_threshold 'high'"),
        (changed(scheduler="step"), "crepa_scheduler 'step': it must be one of constant"),
        (changed(threshold_mode="off"), "crepa_threshold_mode 'off'"),
        (changed(warmup_steps="-1"), "crepa_warmup_steps -1"),
        (changed(block_indx=3), "crepa_block_indx: 3 .*did you mean crepa_block_index"),
    ],
)
def test_other_settings_are_refused_by_name_and_value(settings, message):
    with pytest.raises(ValueError, match=message):
        read_crepa_settings(settings)


def test_indices_from_0_are_resolved_and_printed(capsys):
    model = Model()
    crepa = CREPA.from_settings(find_blocks(model, "blocks.*"), GIVEN, width=8, frames=2)
    assert crepa.pair == (2, 4)
    assert crepa._hidden.recorder.blocks == {2: model.blocks[1], 4: model.blocks[3]}
    assert capsys.readouterr().out == (
        "CREPA: crepa_block_index 1 is block 2 (blocks.1, Linear), crepa_teacher_block_index 3 is "
        "block 4 (blocks.3, Linear); indices count from 0, blocks from 1\n"
    )
    lines = []
    CREPA.from_settings(model.blocks, GIVEN, width=8, announce=lines.append)
    CREPA.from_settings(model.blocks, GIVEN, width=8, announce=None)
    assert len(lines) == 1 and capsys.readouterr().out == ""


def test_an_index_beyond_the_model_is_refused_as_it_is_searched_for():
    message = r"crepa_teacher_block_index: CREPA could not find layer 3.*0 to 2.*1-3 Linear"
    with pytest.raises(ValueError, match=message):
        CREPA.from_settings(Model(3).blocks, GIVEN)


def test_the_loss_is_that_of_the_class_with_the_same_options():
    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 6, 8)
    settings = GIVEN | EVERY | {"crepa_warmup_steps": 0}
    read = CREPA.from_settings(model.blocks, settings, width=8, frames=3, announce=None)
    plain = CREPA(
        model.blocks,
        (2, 4),
        width=8,
        frames=3,
        adjacent_distance=2,
        adjacent_tau=0.5,
        cumulative_neighbors=True,
        normalize_by_frames=False,
        normalize_neighbour_sum=True,
        spatial_align=False,
    )
    plain.load_state_dict(read.state_dict())
    losses = []
    for crepa in (read, plain):
        with crepa.capture():
            model(x)
        losses.append(crepa.loss(step=0))
    torch.testing.assert_close(losses[0], 0.4 * losses[1])
    assert set(read.logs()) == {
        "crepa_loss", "crepa_alignment_score", "crepa_similarity_self", "crepa_weight",
        "crepa_cutoff", "crepa_alignment_score_ema",
    }  # fmt: skip

"""SimpleTuner's settings: the same as pairs and weights, defaults, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from layersync import LayerSync, Settings, find_blocks, read_settings

GIVEN = {
    "layersync_enabled": True,
    "layersync_student_block": 2,
    "layersync_teacher_block": 4,
    "layersync_lambda": 0.3,
}


def changed(**changes):
    """GIVEN with some settings replaced, or left out if None."""
    settings = GIVEN | {f"layersync_{name}": value for name, value in changes.items()}
    return {name: value for name, value in settings.items() if value is not None}


def test_a_dict_json_and_a_file_are_the_same(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GIVEN))
    dashed = {f"--{name}": value for name, value in GIVEN.items()}
    text, others = json.dumps(GIVEN), GIVEN | {"model_family": "flux"}
    for source in (GIVEN, text, f"\n {text}", path, str(path), dashed, others):
        assert read_settings(source) == Settings(2, 4, 0.3)


def test_values_may_be_texts():
    texts = {"enabled": "true", "student_block": "2", "teacher_block": " 4 ", "lambda": "0.3"}
    assert read_settings(changed(**texts)) == Settings(2, 4, 0.3)
    assert read_settings(changed(**texts | {"enabled": "True"})) == Settings(2, 4, 0.3)
    assert read_settings(changed(**texts | {"enabled": "false"})) is None
    sync = LayerSync.from_settings([nn.Linear(4, 4) for _ in range(4)], changed(**texts))
    assert sync.pairs == ((2, 4),) and sync.weights == (0.3,)


def test_lambda_is_02_unless_given():
    assert read_settings(changed(**{"lambda": None})).lambda_ == 0.2
    assert read_settings(json.dumps(GIVEN | {"layersync_lambda": None})).lambda_ == 0.2


@pytest.mark.parametrize("settings", [{}, changed(enabled=False), {"layersync_student_block": 2}])
def test_it_is_off_unless_enabled(settings):
    assert read_settings(settings) is None
    assert LayerSync.from_settings([nn.Tanh()], settings) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (changed(student_block=None), "layersync_student_block is missing"),
        (changed(teacher_block=None), "layersync_teacher_block is missing"),
        (changed(teacher_block=2), r"layersync_teacher_block: 2 .*constant.*deeper"),
        (changed(teacher_block=1), r"layersync_teacher_block: 1 is not deeper than .*, 2;"),
        (changed(student_block=0), "layersync_student_block: 0 .*count from 1"),
        (changed(student_block="two"), "layersync_student_block: 'two'"),
        (changed(student_block="0"), "layersync_student_block: 0 "),
        (changed(teacher_block="4.0"), r"layersync_teacher_block: '4\.0'"),
        (changed(teacher_block=4.0), r"layersync_teacher_block: 4\.0"),
        (changed(teacher_block=True), "layersync_teacher_block: True"),
        (changed(**{"lambda": 0}), "layersync_lambda: 0 .*above 0.*layersync_enabled"),
        (changed(**{"lambda": -0.1}), r"layersync_lambda: -0\.1"),
        (changed(**{"lambda": float("nan")}), "layersync_lambda: nan"),
        (changed(**{"lambda": "much"}), "layersync_lambda: 'much'"),
        (changed(**{"lambda": "nan"}), "layersync_lambda: nan"),
        (changed(**{"lambda": "-0.2"}), r"layersync_lambda: -0\.2"),
        (changed(enabled=1), "layersync_enabled: 1 is neither"),
        (changed(enabled="yes"), "layersync_enabled: 'yes'"),
        (
            changed(techer_block=3),
            "layersync_techer_block: 3 .*did you mean layersync_teacher_block",
        ),
        (json.dumps(changed(**{"lambda": float("nan")})), "layersync_lambda: nan"),
        ("{", "'{' is not JSON"),
        ("[1]", r"'\[1\]' cannot be read \(No such file.*JSON that starts with \{"),
        ("layersync.json", "'layersync.json' cannot be read"),
        (Path("layersync.json"), "'layersync.json' cannot be read"),
    ],
)
def test_other_settings_are_refused_by_name_and_value(settings, message):
    with pytest.raises(ValueError, match=message):
        read_settings(settings)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json' is JSON, but not an object"):
        read_settings(str(path))


def test_settings_of_another_type_are_refused():
    with pytest.raises(TypeError, match="expected a dict, JSON text or a path, got int"):
        read_settings(4)


def test_a_teacher_beyond_the_model_is_refused_with_its_blocks():
    message = r"\(2, 4\).*LayerSync could not find layer 4.*3 blocks.*1-3 Linear"
    with pytest.raises(ValueError, match=message):
        LayerSync.from_settings([nn.Linear(4, 4) for _ in range(3)], GIVEN)


def test_the_loss_and_logs_are_those_of_the_pair_times_lambda():
    torch.manual_seed(0)
    model, x = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5))), torch.randn(2, 3, 4)
    sync = LayerSync.from_settings(find_blocks(model, "*"), GIVEN)
    plain = LayerSync(model, [(2, 4)])
    with pytest.raises(RuntimeError, match=r"call loss\(\)"):
        sync.logs()
    with sync.capture(), plain.capture():
        model(x)
    loss, similarity = sync.loss(), -plain.loss().item()
    assert loss.item() == pytest.approx(-0.3 * similarity)
    expected = {"layersync_loss": loss.item(), "layersync_similarity": similarity}
    assert sync.logs() == pytest.approx(expected)
    assert all(type(value) is float for value in sync.logs().values())

"""Every recipe: it can be read and resolved, and says what FACTS of the papers say."""

import re
import shlex

import numpy as np
import pytest
from launching import ROOT

from runtime.settings_file import inline_config
from sweeps import paper_rows
from sweeps.operations import network_passes
from sweeps.paper_cost import cost_line, hours_text, row_hours, training_hours
from sweeps.paper_pages import list_lines, show_lines
from sweeps.paper_rows import Variant, all_rows, find_rows, read_row
from sweeps.paper_settings import Added, changed_settings, settle
from training.checks import check_train_config
from training.config import TrainConfig
from training.methods.layer_sync import layer_sync_settings
from training.settings_record import RUN_SECTION

ROWS = all_rows()
PUBLISHED = {  # name: FID, steps, batch, loss, solver, as the papers have them
    "b2-vanilla": (36.19, 400_000, 256, "vanilla", "heun2"),
    "b2-dispersive": (32.45, 400_000, 256, "dispersive", "heun2"),
    "b2-layersync": (30.00, 400_000, 256, "layer_sync", "heun2"),
    "l2-vanilla": (21.41, 400_000, 256, "vanilla", "heun2"),
    "l2-dispersive": (16.68, 400_000, 256, "dispersive", "heun2"),
    "l2-layersync": (14.83, 400_000, 256, "layer_sync", "heun2"),
    "xl2-vanilla": (17.97, 400_000, 256, "vanilla", "heun2"),
    "xl2-dispersive": (15.95, 400_000, 256, "dispersive", "heun2"),
    "xl2-layersync": (11.24, 400_000, 256, "layer_sync", "heun2"),
    "xl2-200ep-vanilla": (12.18, 1_000_000, 256, "vanilla", "heun2"),
    "xl2-200ep-layersync": (8.28, 1_000_000, 256, "layer_sync", "heun2"),
    "xl2-800ep-vanilla": (8.99, 1_000_000, 1024, "vanilla", "heun2"),
    "xl2-800ep-dispersive": (8.08, 1_000_000, 1024, "dispersive", "heun2"),
    "xl2-800ep-layersync": (6.87, 1_000_000, 1024, "layer_sync", "heun2"),
    "xl2-sde": (6.32, 1_000_000, 1024, "layer_sync", "Euler"),
    "xl2-sde-curve": (6.32, 4_000_000, 256, "layer_sync", "Euler"),
    "xl2-guidance": (1.89, 1_000_000, 1024, "layer_sync", "Euler"),
    "xl2-guidance-interval": (1.49, 1_000_000, 1024, "layer_sync", "Euler"),
    "xl2-repa": (7.88, 400_000, 256, "repa", "Euler"),
    "xl2-repa-layersync": (7.01, 400_000, 256, "repa+layer_sync", "Euler"),
    "xl2-sra": (None, 400_000, 256, "sra", "heun2"),
    "xl2-random-pairs": (12.24, 400_000, 256, "layer_sync", "heun2"),
    "b2-weights": (None, 400_000, 256, "layer_sync", "heun2"),
    "b2-t-range": (None, 400_000, 256, "layer_sync", "heun2"),
    "sit-xl2-sde": (8.3, 7_000_000, 256, "vanilla", "Euler"),
    "sit-xl2-sde-cfg1.5": (2.06, 7_000_000, 256, "vanilla", "Euler"),
}
MODELS = {"b2": "SiT-B/2", "l2": "SiT-L/2", "xl2": "SiT-XL/2", "sit": "SiT-XL/2"}
PAIRS = {"b2": ([(4, 7)], 0.3), "l2": ([(8, 18)], 0.2), "xl2": ([(8, 16)], 0.2)}


def test_there_is_a_row_for_everything_that_was_published():
    assert ROWS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_what_was_published(name):
    row, (fid, steps, batch, loss, method) = ROWS[name], PUBLISHED[name]
    assert row.published.get("fid") == fid
    for variant in row.variants:
        c = settle(row, variant)
        check_train_config(c.train)
        assert (c.steps, c.train.global_batch_size) == (steps, batch)
        assert (c.train.loss_type, c.sample.sampling_method) == (loss, method)
        assert c.train.model == MODELS[name.split("-")[0]]
        assert (c.sample.num_fid_samples, c.sample.num_sampling_steps) == (50_000, 250)
        assert c.train.optim == TrainConfig().optim and c.train.vae in ("ema", None)
        assert (c.train.image_size, c.train.num_classes) == (256, 1000)
        if "layer_sync" in loss and not variant.train:
            assert layer_sync_settings(c.train) == PAIRS[name.split("-")[0]]
        assert c.evaluate.metrics.bootstrap == 100
    assert bool(row.curve) == (name == "xl2-sde-curve")
    assert set(row.curve) <= set(range(0, steps + 1, 50_000))
    assert row.checkpoint == ("SiT-XL-2-256x256.pt" if name.startswith("sit") else None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_head_of_a_recipe_is_a_command_and_its_cost(name):
    row = ROWS[name]
    text = row.path.read_text()
    head = re.sub(r"^# ?", "", text.split("\nextends")[0], flags=re.M).splitlines()
    fid = f": FID {row.value.split()[0]}" if "fid" in row.published else ""
    assert head[0] == row.title + fid
    assert cost_line(row) in head
    assert len(text.splitlines()) <= 45, "a recipe is readable on one screen"
    (command,) = re.findall(r"python scripts/reproduce\.py run (?:.*\\\n)?.*", "\n".join(head))
    words = shlex.split(command.replace("\\\n", " "))
    assert words[3] == name and ("--data-path" in words) != ("--from-checkpoint" in words)
    for option in (word for word in words if word.startswith("--")):
        assert option in {"--data-path", "--ref", "--processes", "--from-checkpoint", "--cluster",
                          "--nodes", "--gpus-per-node"}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_train_py_takes_a_recipe(name):
    words = inline_config(["--config", str(ROWS[name].path)], TrainConfig, RUN_SECTION)
    assert words == list(settle(ROWS[name], Variant()).train_words)


def test_only_what_differs_from_the_parent_and_the_defaults_is_written():
    for path in paper_rows.RECIPES.glob("*.toml"):
        content = paper_rows.read_content(path, paper_rows.PAPER)
        parent = path.with_name(content.get("extends", "none.toml"))
        if not parent.exists():
            continue
        above = inline_config(["--config", str(parent)], TrainConfig, RUN_SECTION)
        own = content.get("train", {})
        again = [
            key
            for key, value in own.items()
            if f"--{key}" in above and above[above.index(f"--{key}") + 1] == str(value)
        ]
        defaults = [key for key, value in own.items() if getattr(TrainConfig(), key, None) == value]
        assert not again, path
        assert not defaults or f"--{defaults[0]}" in above, path


def test_random_pairs_are_drawn_as_their_recipe_says():
    pairs = []
    for seed in range(5):
        drawn = sorted(np.random.default_rng(seed).choice(28, 2, replace=False) + 1)
        pairs.append((int(drawn[0]), int(drawn[1])))
    row = ROWS["xl2-random-pairs"]
    actual = [layer_sync_settings(settle(row, v).train)[0] for v in row.variants]
    assert actual == [[pair] for pair in pairs]
    assert row.published_spread == 0.8 and row.guessed


def test_sweeps_cover_what_is_not_published():
    for name in ("xl2-guidance", "xl2-guidance-interval"):
        row = ROWS[name]
        assert row.summary == "best" and row.guessed
        scales = {settle(row, v).sample.cfg_scale for v in row.variants}
        assert len(scales) > 2 or len(row.variants) > 4
    assert settle(ROWS["xl2-guidance"], ROWS["xl2-guidance"].variants[0]).sample.cfg_channels == "3"
    weights = {
        layer_sync_settings(settle(ROWS["b2-weights"], v).train)[1]
        for v in ROWS["b2-weights"].variants
    }
    assert weights == {0.1, 0.2, 0.3, 0.5, 1.0}


def test_heun_takes_498_evaluations():
    assert network_passes(settle(ROWS["b2-vanilla"], Variant()).sample) == 498


def test_hours_follow_from_the_operations():
    """0.712 TFLOP an image of XL/2, 390 images a second at 28 % of an H100's 990 TFLOP/s."""
    c = settle(ROWS["xl2-vanilla"], Variant()).train
    hours = training_hours(c, 400_000)
    assert hours == pytest.approx(400_000 * 256 / 390 / 3600, rel=0.01)
    train, sample = row_hours(ROWS["xl2-random-pairs"])
    assert train == pytest.approx(5 * hours)
    assert sample == pytest.approx(5 * row_hours(ROWS["xl2-vanilla"])[1])
    assert row_hours(ROWS["xl2-sde-curve"])[1] == pytest.approx(8 * row_hours(ROWS["xl2-sde"])[1])
    assert row_hours(ROWS["sit-xl2-sde"])[0] == 0
    texts = [hours_text(hours) for hours in (0.123, 2.34, 9.96, 14.2, 733.2, 1499)]
    assert texts == ["0.12", "2.3", "10", "14", "730", "1,500"]


def test_a_miniature_keeps_depth_pairs_loss_and_solver():
    for name in ("b2-layersync", "xl2-800ep-dispersive", "xl2-guidance-interval", "xl2-sra"):
        row = ROWS[name]
        for variant in row.variants:
            full, small = settle(row, variant), settle(row, variant, miniature=True)
            assert small.train.model == full.train.model.replace("/2", "-narrow/2")
            assert layer_sync_settings(small.train) == layer_sync_settings(full.train)
            assert small.train.loss_type == full.train.loss_type
            for setting in ("sampling_method", "cfg_scale", "guidance_interval", "cfg_channels"):
                assert getattr(small.sample, setting) == getattr(full.sample, setting)
            assert small.train.global_batch_size * 16 == full.train.global_batch_size
            check_train_config(small.train)


def test_what_the_user_adds_comes_last_and_is_told_from_the_recipe():
    row = ROWS["b2-layersync"]
    added = Added("--compile --lr 2e-4", "--num-fid-samples 10000 --per-proc-batch-size 64")
    c = settle(row, Variant(), added)
    assert (c.train.optim.lr, c.train.engine.compile) == (2e-4, True)
    assert (c.sample.num_fid_samples, c.sample.num_sampling_steps) == (10_000, 250)
    changed = changed_settings(row, Variant(), added)
    assert changed == ["lr 0.0002", "num_fid_samples 10000"]
    assert changed_settings(row, Variant(), Added("--num-workers 8 --fsdp")) == []


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (Added(train="--global-seed 3"), "--train: leave out --global-seed, which scripts/reprod"),
        (Added(train="--run_name=x"), "--train: leave out --run-name"),
        (Added(train="'--lr"), "--train: No closing quotation; check the quotes"),
        (Added(train="--lerning-rate 1"), "--train: train.py does not take this"),
        (Added(sample="--ckpt x.pt"), "--sample: leave out --ckpt"),
        (Added(sample="--num-sampling-steps 1"), "--num-sampling-steps 1: it must be"),
        (Added(evaluate="--ref x.npz"), "--evaluate: leave out --ref"),
    ],
)
def test_bad_additions_are_refused(added, message):
    with pytest.raises(ValueError, match=message):
        settle(ROWS["b2-layersync"], Variant(), added)


def test_rows_are_found_by_name_by_pattern_and_by_file():
    assert [row.name for row in find_rows(["b2-layersync", "recipes/b2-vanilla.toml"])] == [
        "b2-layersync",
        "b2-vanilla",
    ]
    assert len(find_rows(["b2-*"])) == 5 and len(find_rows(["*"])) == len(ROWS)
    with pytest.raises(ValueError, match=r"b2-layer-sync: .* did you mean b2-layersync or "):
        find_rows(["b2-layer-sync"])
    with pytest.raises(ValueError, match=r"zzz: there is no such row; see scripts/reproduce.py"):
        find_rows(["zzz"])


GOOD = '[paper]\ntitle = "a"\nsource = "b"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "no.toml"\n' + GOOD, r"a\.toml: extends = 'no\.toml': there is no file"),
        ('extends = "a.toml"\n' + GOOD, r"a\.toml: files extend each other in a circle"),
        (GOOD + "[train]\nlambada = 1\n", r"a\.toml: lambada: no setting of \[train\]"),
        (GOOD + '[train]\nlr = "fast"\n', r"a\.toml: lr: .* must be a number"),
        (GOOD + "publishd = {fid = 3}\n", r"a\.toml: publishd: .*did you mean published"),
        ('[paper]\nsource = "b"\n', r"a\.toml: \[paper\] title: None must be a text"),
        (GOOD + "curve = 3\n", r"a\.toml: \[paper\] curve: 3 must be a table"),
        (GOOD + 'variants = [{name = "x", tain = "--lr 1"}]\n', r"variants: .* must be {name"),
        (GOOD + "[train\n", r"a\.toml: not TOML"),
    ],
)
def test_bad_recipes_are_refused_by_file_and_key(tmp_path, text, message):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        row = read_row(tmp_path / "a.toml")
        settle(row, row.variants[0])


def test_pages_name_every_row_and_spell_its_commands_out():
    said = "\n".join(list_lines(list(ROWS.values())))
    assert all(re.search(rf"^{re.escape(row.name)} +{re.escape(row.value)}", said, re.M)
               for row in ROWS.values())  # fmt: skip
    page = "\n".join(show_lines(ROWS["sit-xl2-sde-cfg1.5"]))
    assert "FID 2.06, sFID 4.5, IS 270.3, precision 0.82, recall 0.59" in page
    assert "sample_ddp.py SDE --cfg-scale 1.5 --sampling-method Euler" in page
    assert "train.py" not in page and "--from-checkpoint SiT-XL-2-256x256.pt" in page
    page = "\n".join(show_lines(ROWS["b2-layersync"]))
    assert "FID 30.00" in page and "encoder_depth 4, gt_encoder_depth 7, reg_weight 0.3" in page
    page = "\n".join(show_lines(ROWS["xl2-random-pairs"]))
    assert "FID 12.24 +- 0.8" in page and "--encoder-depth 18 --gt-encoder-depth 23" in page
    assert "never called reproduced" in page


def test_the_page_has_the_table_of_all_rows():
    from sweeps.paper_pages import markdown_lines

    page = (ROOT / "docs" / "reproduce.md").read_text()
    assert "\n".join(markdown_lines(list(ROWS.values()))) in page

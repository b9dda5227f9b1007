"""--config FILE as users give it: a run, a set of samples and scores are repeated from files."""

import json

import numpy as np
import pytest
from launching import check, logged_rows, run

RECIPE = """
[train]
model = "SiT-Ti/2"
dataset-name = "digits"
image-size = 8
num-classes = 10
vae = "none"
global-batch-size = 8
max-steps = 2
log-every = 1
num-workers = 0
sample-every = 0
lr = 1e-2

[sample]
solver = "ODE"
sampling-method = "heun2"
num-sampling-steps = 4
num-fid-samples = 8
per-proc-batch-size = 4
guidance-interval = [0.2, 1.0]
cfg-scale = 1.5

[evaluate]
ref = "digits"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recipe, and what its three commands leave."""
    root = tmp_path_factory.mktemp("config")
    (root / "base.toml").write_text(RECIPE)
    recipe = root / "recipe.toml"
    recipe.write_text('extends = "base.toml"\n[train]\nreg-weight = 0.5\nlr = "None"\n')
    check("train.py", "--config", recipe, "--results-dir", root, "--run-name", "run")
    ckpt = root / "run" / "checkpoints" / "0000002.pt"
    check("sample_ddp.py", "--config", recipe, "--ckpt", ckpt, "--out", root / "a.npz")
    check("-m", "evaluation", root / "a.npz", "--config", recipe, "--out", root / "a.metrics.json")
    return root


def test_a_run_writes_what_was_in_force(folder):
    stored = json.loads((folder / "run" / "config.json").read_text())
    assert (stored["encoder_depth"], stored["reg_weight"], stored["lr"]) == (2, 0.5, 1e-4)
    assert stored["config"].endswith("recipe.toml") and stored["betas"] == [0.9, 0.999]


def test_a_run_is_repeated_from_its_config(folder):
    again = ["--config", folder / "run" / "config.json", "--results-dir", folder]
    check("train.py", *again, "--run-name", "again")
    assert logged_rows(folder / "again") == logged_rows(folder / "run")
    first, second = (json.loads((folder / n / "config.json").read_text()) for n in ("run", "again"))
    differing = {key for key in first | second if first.get(key) != second.get(key)}
    assert differing == {"config", "run_name"}
    assert "already holds a run" in run("train.py", *again, "--run-name", "run").stderr


def test_the_command_line_overrides_and_a_run_goes_on(folder):
    recipe = ["--config", folder / "recipe.toml", "--results-dir", folder, "--run-name", "on"]
    check("train.py", *recipe, "--max-steps", 1)
    assert "steps 1 to 2" in check("train.py", *recipe, "--resume", "latest")
    assert logged_rows(folder / "on") == logged_rows(folder / "run")


@pytest.mark.parametrize("source", ["a.npz", "a.metrics.json"])
def test_samples_are_made_again_from_their_recipe(folder, source, tmp_path):
    ckpt = folder / "run" / "checkpoints" / "0000002.pt"
    out = tmp_path / "b.npz"
    check("sample_ddp.py", "--config", folder / source, "--ckpt", ckpt, "--out", out)
    with np.load(folder / "a.npz") as first, np.load(out) as second:
        assert np.array_equal(first["arr_0"], second["arr_0"])
        assert str(first["recipe"]) == str(second["recipe"])
        assert json.loads(str(first["recipe"]))["guidance_interval"] == [0.2, 1.0]


def test_wrong_files_are_refused_before_any_work(folder, tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text("[train]\nmodle = 'SiT-B/2'\n[sample]\nref = 'x'\n[evaluate]\nref = 3\n")
    for words, says in [
        (["train.py"], "modle: no setting of [train]; did you mean model?"),
        (["sample_ddp.py"], "ref: no setting of [sample]"),
        (["-m", "evaluation", folder / "a.npz"], "ref: 3 must be a text"),
        (["sample_ddp.py", "--config=none.npz"], "none.npz: no such file"),
    ]:
        more = [] if len(words) == 2 and "none" in str(words[1]) else ["--config", bad]
        done = run(*words, *more)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1

"""The README's Python runs as it stands there, and its commands parse."""

import re
import shlex

import pytest
import torch
from launching import ROOT

from data.fitting import fitted
from runtime.command import parse_command
from sampling.picture_config import PictureODE, PictureSDE, check_picture_config
from sampling.presets import expand_preset, name_solver
from sampling.sample_config import ODE, SDE, check_sample_config
from scripts.cache_features import FeatureConfig
from training.checks import check_train_config
from training.config import TrainConfig
from training.methods.layer_sync import layer_sync_settings
from training.settings_record import resolved_settings

TEXT = (ROOT / "README.md").read_text()


def commands(page: str, script: str) -> list[list[str]]:
    """Arguments of each `... script ARGS` in a page's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index(script) + 1 :] for line in words if script in line]


def test_plugging_in_takes_six_lines_that_run():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    blocks = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(16)])

    def model(x, t, y):
        for block in blocks:
            x = block(x)
        return x

    data = torch.randn(2, 5, 8)
    scope = {
        "model": type("Model", (), {"blocks": blocks, "__call__": lambda self, *a: model(*a)})(),
        **dict(x=data, t=None, y=None, target=data, task_loss=torch.nn.functional.mse_loss),
    }
    exec(code, scope)
    assert len([line for line in code.splitlines() if line.strip()]) == 6
    assert blocks[0].weight.grad.abs().sum() > 0
    assert scope["sync"].similarity().keys() == {(8, 16)}


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
def test_training_commands_are_valid(page, monkeypatch):
    calls = [args for args in commands(page, "train.py") if args != ["--help"] and args != ["..."]]
    assert calls
    for args in calls:
        monkeypatch.setattr("sys.argv", ["train.py", *args])
        config = parse_command(TrainConfig)
        check_train_config(config)
        names_repa = "repa" in config.loss_type
        assert bool(layer_sync_settings(config)[0]) == (
            config.loss_type != "vanilla" and not names_repa
        )


def test_sit_and_repa_are_reproduced_by_the_lines_that_say_so(monkeypatch):
    page = (ROOT / "docs/training.md").read_text()
    section = page[page.index("## Commands of SiT and REPA") :]
    block = re.findall(r"```bash\n(.*?)```", section, re.S)[0].replace("\\\n", " ")
    configs = []
    for line in block.strip().splitlines():
        words = shlex.split(line)
        monkeypatch.setattr("sys.argv", words[words.index("train.py") :])
        configs.append(parse_command(TrainConfig))
    sit, repa = configs
    assert sit.loss_type == "vanilla" and sit.epochs == 1400 and sit.global_batch_size == 256
    assert sit.optim.lr == 1e-4 and sit.optim.ema_decay == 0.9999 and fitted(sit).vae == "ema"
    values = resolved_settings(repa)
    assert values["repa_depth"] == 8 and values["repa_weight"] == 0.5 and values["epochs"] == 800
    assert values["max_grad_norm"] == 1.0


def test_commands_of_the_comparisons_are_valid(monkeypatch):
    for args in commands("docs/comparisons.md", "train.py"):
        monkeypatch.setattr("sys.argv", ["train.py", *args])
        check_train_config(parse_command(TrainConfig))
    (args,) = commands("docs/comparisons.md", "scripts/cache_features.py")
    monkeypatch.setattr("sys.argv", ["cache_features.py", *args])
    assert parse_command(FeatureConfig).image_size == 256


@pytest.mark.parametrize("page", ["README.md", "docs/sampling.md"])
def test_sampling_commands_are_valid(page, monkeypatch):
    calls = [args for args in commands(page, "sample_ddp.py") if "--help" not in args]
    assert calls
    for args in calls:
        monkeypatch.setattr("sys.argv", ["sample_ddp.py", *args])
        check_sample_config(parse_command({"ODE": ODE, "SDE": SDE}, expand_preset(args)))


def test_commands_for_pictures_are_valid(monkeypatch):
    calls = [
        line for page in ("README.md", "docs/sampling.md") for line in commands(page, "sample.py")
    ]
    assert len(calls) >= 2
    for args in calls:
        monkeypatch.setattr("sys.argv", ["sample.py", *args])
        words = name_solver(expand_preset(args))
        check_picture_config(parse_command({"ODE": PictureODE, "SDE": PictureSDE}, words))


def test_pages_that_are_linked_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert link.startswith("http") or (ROOT / link).exists(), link

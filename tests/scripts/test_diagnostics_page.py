"""docs/diagnostics.md: its commands are valid."""

import re
import shlex

from launching import ROOT

from runtime.command import parse_command
from scripts.suggest_pair import PairConfig, check_pair_config
from training.checks import check_train_config
from training.config import TrainConfig
from training.methods.layer_sync import layer_sync_settings

TEXT = (ROOT / "docs" / "diagnostics.md").read_text()
CHECKS = {"train.py": (TrainConfig, check_train_config)}
CHECKS["scripts/suggest_pair.py"] = PairConfig, check_pair_config


def test_commands_are_valid():
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    configs = []
    for _, script, *args in map(shlex.split, filter(None, lines)):
        config, check = CHECKS[script]
        configs.append(parse_command(config, args))
        check(configs[-1])
    vanilla, _, layer_sync = configs
    assert layer_sync_settings(layer_sync) == ([(2, 5)], 0.3) and layer_sync.probe_every == 200
    assert layer_sync_settings(vanilla) == ([], 0)

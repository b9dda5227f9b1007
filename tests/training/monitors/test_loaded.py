"""A run loads at its start what it needs later, when its source may be of another version."""

import subprocess
import sys

import pytest
from forking import ENVIRONMENT
from launching import ROOT, TINY

RUN = """
import sys
from runtime.command import parse_command
from training.config import TrainConfig

def ours():
    return {name for name in sys.modules if (root / (name.split(".")[0])).is_dir()}

from pathlib import Path
root = Path(sys.argv.pop(1))
config = parse_command(TrainConfig)
from training.loop import Training
training = Training(config)
before = ours()
assert training.run() == 0
assert "training.monitors.fid" in before and len(before) > 50
print("later:", *sorted(ours() - before))
"""


@pytest.mark.slow  # a process that has loaded nothing yet
def test_every_module_is_loaded_at_the_start(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    every = "--sample-every 1 --diagnose-every 1 --probe-every 1 --eval-every 1"
    data = "--dataset-name digits --num-classes 10 --global-batch-size 8 --num-workers 0"
    best = "--keep-best eval_pixel_frechet"
    more = "--probe-samples 40 --max-steps 2 --eval-ref digits --eval-samples 16 --eval-steps 3"
    words = [
        *TINY,
        *every.split(),
        *data.split(),
        *more.split(),
        *best.split(),
        "--results-dir",
        tmp_path / "r",
    ]
    done = subprocess.run(
        [sys.executable, script, ROOT, *words],
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "later:"

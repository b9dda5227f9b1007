"""One pass for AdamW, average and norm: a kernel for GPUs, which Triton interprets here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT

PROGRAM = Path(__file__).with_name("interpreted_step.py")


def test_it_is_adamw_average_and_norm_and_the_update_of_a_network():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(PROGRAM)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("same:") == 6

"""One pass for AdamW, average and norm: a kernel for GPUs, which Triton interprets here."""

import pytest


def test_it_is_adamw_average_and_norm_and_the_update_of_a_network(fork_server):
    pytest.importorskip("triton")
    program = "tests/training/interpreted_step.py"
    done = fork_server.start([program], environment={"TRITON_INTERPRET": "1"})
    assert done.wait() == 0, done.stderr[-3000:]
    assert done.stdout.count("same:") == 6

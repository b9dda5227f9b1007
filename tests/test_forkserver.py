"""A forked command is a process as any other: exit code, output, signals, memory, ranks."""

import os
import signal
import time

import pytest

FLAGS = [
    "--model",
    "SiT-Ti/2",
    "--dataset-name",
    "digits",
    "--image-size",
    "8",
    "--num-classes",
    "10",
    "--vae",
    "none",
    "--global-batch-size",
    "8",
    "--log-every",
    "1",
    "--num-workers",
    "0",
    "--sample-every",
    "0",
]


def test_exit_codes_and_output(fork_server, tmp_path):
    refused = fork_server.start(["train.py", "--lr", "0"], folder=tmp_path)
    helped = fork_server.start(["-m", "evaluation", "--help"], folder=tmp_path)
    assert refused.wait() == 2 and "train.py: error: --lr 0.0" in refused.stderr
    assert helped.wait() == 0 and "--ref" in helped.stdout and not helped.stderr
    assert helped.peak_memory > 2**26 and 0 < helped.processor_time < 60
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user has none to lose")
def test_privileges_can_be_taken(fork_server, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    words = ["train.py", *FLAGS, "--max-steps", 1, "--results-dir", tmp_path / "closed" / "in"]
    assert fork_server.start(words, privileges=False).wait() == 2
    assert not any((tmp_path / "closed").iterdir())


def test_ranks_form_a_group_and_a_killed_one_is_dead(fork_server, tmp_path):
    words = ["train.py", *FLAGS, "--max-steps", 2, "--run-name", "pair", "--results-dir", tmp_path]
    ranks = fork_server.start_ranks(words, 2, folder=tmp_path)
    assert [rank.wait(60) for rank in ranks] == [0, 0], ranks[0].stderr
    assert "2 x cpu" in ranks[0].stdout and not ranks[1].stdout
    words = ["train.py", *FLAGS, "--run-name", "long", "--results-dir", tmp_path]
    long = fork_server.start(words, folder=tmp_path)
    while not (tmp_path / "long" / "metrics.jsonl").exists():
        assert long.poll() is None
        time.sleep(0.01)
    long.send_signal(signal.SIGKILL)
    assert long.wait() == -signal.SIGKILL


def test_memory_can_be_limited(fork_server, tmp_path):
    words = ["train.py", *FLAGS, "--max-steps", 1, "--results-dir", tmp_path]
    limited = fork_server.start(words, folder=tmp_path, memory=2**24)
    assert limited.wait() != 0
    # of another name: what the first one left would end this one before it is killed
    words = ["train.py", *FLAGS, "--results-dir", tmp_path, "--run-name", "endless"]
    endless = fork_server.start(words, folder=tmp_path)
    with pytest.raises(TimeoutError):
        endless.wait(0.01)
    endless.kill()
    assert endless.wait(10) == -signal.SIGKILL

"""Checkpoints on a thread: the copy is the step's, one at a time, and errors arrive."""

import time
from collections import OrderedDict
from threading import Event

import pytest
import torch

from training.checkpoint_writer import (
    Cancelled,
    CheckpointWriter,
    host_copy,
    torch_save,
)


class Disk:
    """Stands for a disk that takes until `release` for each file; keeps what was written."""

    def __init__(self):
        self.begun, self.release, self.files = Event(), Event(), {}

    def write(self, path, state, cancelled):
        self.begun.set()
        while not self.release.wait(0.001):
            if cancelled.is_set():
                raise Cancelled
        self.files[path.name] = state


@pytest.fixture
def disk():
    disk = Disk()
    yield disk
    disk.release.set()


def test_what_is_written_is_the_state_at_the_call(disk, tmp_path):
    weights, moments = torch.ones(3), torch.zeros(2)
    state = {"model": OrderedDict(a=weights), "opt": {"state": [moments, (1, 2)]}, "step": 4}
    writer = CheckpointWriter(disk.write)
    writer.submit(tmp_path / "4.pt", state)
    assert disk.begun.wait(10)
    weights += 1  # the training goes on while the disk is slow
    moments += 5
    state["step"] = 5
    disk.release.set()
    writer.wait()
    kept = disk.files["4.pt"]
    assert kept["step"] == 4 and kept["opt"]["state"][1] == (1, 2)
    assert kept["model"]["a"].tolist() == [1, 1, 1] and kept["opt"]["state"][0].tolist() == [0, 0]
    assert isinstance(kept["model"], OrderedDict) and writer.seconds > 0


def test_a_step_does_not_wait_for_the_disk_but_the_next_checkpoint_does(disk, tmp_path):
    writer = CheckpointWriter(disk.write)
    writer.submit(tmp_path / "1.pt", {"step": 1})
    for _ in range(100):
        writer.check()
    assert disk.begun.wait(10) and not disk.files  # still writing
    disk.release.set()
    writer.submit(tmp_path / "2.pt", {"step": 2})
    assert "1.pt" in disk.files  # at most one is on its way
    writer.wait()
    assert list(disk.files) == ["1.pt", "2.pt"]


def test_the_last_one_overtakes_an_older_write(disk, tmp_path):
    writer = CheckpointWriter(disk.write)
    writer.submit(tmp_path / "1.pt", {"step": 1})
    assert disk.begun.wait(10)
    start = time.monotonic()
    writer.submit(tmp_path / "2.pt", {"step": 2}, hurry=True)
    assert time.monotonic() - start < 5 and not disk.files  # the first never ends by itself
    disk.release.set()
    writer.wait()
    assert disk.files == {"2.pt": {"step": 2}}


@pytest.mark.parametrize("how", ["check", "wait", "submit"])
def test_an_error_of_the_thread_is_raised_where_the_training_is(how, tmp_path):
    def fail(path, state, cancelled):
        raise OSError(f"{path.name}: disk full")

    writer = CheckpointWriter(fail)
    writer.submit(tmp_path / "1.pt", {})
    writer.thread.join()
    act = {"check": writer.check, "wait": writer.wait}
    act["submit"] = lambda: writer.submit(tmp_path / "2.pt", {})
    with pytest.raises(OSError, match=r"1\.pt: disk full"):
        act[how]()
    writer.check()  # once


def test_a_copy_shares_no_memory_and_keeps_what_is_shared_in_it():
    one, half = torch.randn(4, 3), torch.randn(2).bfloat16()
    state = {"a": one, "again": one, "list": [half, {"n": None, "s": "text"}]}
    copy = host_copy(state)
    assert copy["a"] is copy["again"] and copy["a"].data_ptr() != one.data_ptr()
    assert torch.equal(copy["a"], one) and torch.equal(copy["list"][0], half)
    assert copy["list"][0].dtype == torch.bfloat16 and copy["list"][1] == {"n": None, "s": "text"}


def test_torch_stops_writing_to_a_cancelled_file(tmp_path):
    cancelled = Event()

    class Full:
        written = 0

        def write(self, data):
            self.written += len(data)
            cancelled.set()  # while the first bytes are written
            return len(data)

        def flush(self):
            pass

    file = Full()
    with pytest.raises(Cancelled):
        torch_save({i: torch.zeros(100_000) for i in range(50)}, file, cancelled)
    assert file.written < 1_000_000  # of 20 MB

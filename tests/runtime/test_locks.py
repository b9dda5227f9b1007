"""One launch at a time for an output, with real processes."""

import contextlib
import errno
import fcntl
import gc
import json
import multiprocessing
import os
import re
import signal
import socket
import time

import pytest

from runtime.locks import PATIENCE, InUse, launch_name, lock_output

FORK = multiprocessing.get_context("fork")


def hold(path, pipe):
    """Take the lock, say so, and keep it until told to go."""
    lock = lock_output("out", path, patience=0)
    pipe.send("taken")
    pipe.poll(30)
    lock.release()


@pytest.fixture
def holder(tmp_path):
    """(process, pipe that lets it release) of a process that has the lock."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(tmp_path / "lock", theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "taken"
    yield process, ours
    with contextlib.suppress(OSError):
        ours.send("go")
    process.join(30)


def test_busy_lock_is_refused_with_host_and_process(tmp_path, holder):
    process, _ = holder
    expected = rf"out: in use by process {process.pid} on {re.escape(socket.gethostname())}"
    with pytest.raises(InUse, match=expected):
        lock_output("out", tmp_path / "lock", patience=0.2)


def test_patience_is_of_the_environment(tmp_path, holder, monkeypatch):
    monkeypatch.setenv(PATIENCE, "0.3")
    start = time.monotonic()
    with pytest.raises(InUse):
        lock_output("out", tmp_path / "lock")
    assert 0.3 <= time.monotonic() - start < 5


def test_released_lock_is_taken_by_who_waits(tmp_path, holder, capsys):
    process, pipe = holder
    pipe.send("go")
    lock = lock_output("out", tmp_path / "lock", patience=30)
    process.join(30)
    assert process.exitcode == 0
    lock.release()
    assert not list(tmp_path.iterdir())


def test_lock_of_a_killed_process_is_free(tmp_path, holder):
    process, _ = holder
    os.kill(process.pid, signal.SIGKILL)
    lock_output("out", tmp_path / "lock", patience=10).release()


def test_a_lock_left_on_another_machine_is_free(tmp_path):
    """Its process number is this one's; only who holds the file counts."""
    word = {"host": "elsewhere", "pid": os.getpid(), "launch": launch_name(), "locked": True}
    (tmp_path / "lock").write_text(json.dumps(word))
    lock_output("out", tmp_path / "lock", patience=0).release()


def test_the_word_of_an_earlier_start_of_the_job_is_not_this_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("WORLD_SIZE", "2")
    word = {"host": "elsewhere", "pid": 7, "launch": launch_name(), "locked": True}
    (tmp_path / "lock").write_text(json.dumps(word))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("runtime.locks.GRACE_SECONDS", 0.2)
    lock_output("out", tmp_path / "lock", patience=0)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(InUse, match="the first process of this launch did not lock it"):
        lock_output("out", tmp_path / "lock", patience=0)


def test_same_process_has_it_already(tmp_path):
    first = lock_output("out", tmp_path / "lock", patience=0)
    assert lock_output("out", tmp_path / "lock", patience=0) is first
    first.release()
    first.release()
    assert lock_output("out", tmp_path / "lock", patience=0) is not first


def test_forgotten_lock_is_free(tmp_path):
    lock = lock_output("out", tmp_path / "lock", patience=0)
    del lock
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_forked_child_neither_holds_nor_frees(tmp_path):
    lock = lock_output("out", tmp_path / "lock", patience=0)

    def child():
        try:
            lock_output("out", tmp_path / "lock", patience=0.2)
        except InUse:
            lock.release()
            os._exit(7)

    process = FORK.Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 7 and (tmp_path / "lock").exists()
    lock.release()

    idle = FORK.Process(target=time.sleep, args=(30,))
    again = lock_output("out", tmp_path / "lock", patience=0)
    idle.start()
    again.forget()  # as when this process is killed while its data loader's workers live
    lock_output("out", tmp_path / "lock", patience=5).release()
    idle.kill()
    idle.join()


def test_many_take_turns(tmp_path):
    """Never two at once, though each removes the lock file when it is done."""

    def child():
        for _ in range(20):
            lock = lock_output("out", tmp_path / "lock", patience=60)
            os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
            os.unlink(tmp_path / "inside")
            lock.release()

    workers = [FORK.Process(target=child) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4


def launch(path, queue, rank, delay, first_waits=0.0):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    time.sleep(delay)
    asked = time.monotonic()
    lock = lock_output("out", path, done=(path.parent / "done").exists, patience=30)
    queue.put((rank, asked if rank == 0 else time.monotonic()))
    time.sleep(first_waits)
    if rank == 0:
        (path.parent / "done").write_bytes(b"")
    lock.release()


@pytest.mark.parametrize("delays", [(0.2, 0), (0, 0), (0, 0.1), (0, 0.5)])
def test_others_wait_for_the_first_of_their_launch(tmp_path, delays):
    """They may come in any order, also when the first is done before they look."""
    queue = FORK.Queue()
    ranks = [
        FORK.Process(target=launch, args=(tmp_path / "lock", queue, rank, delay, 0.2))
        for rank, delay in enumerate(delays)
    ]
    for rank in ranks:
        rank.start()
    times = dict(queue.get(timeout=30) for _ in ranks)
    for rank in ranks:
        rank.join(30)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert times[1] >= times[0]  # not before the first one asked


def test_word_of_another_launch_does_not_count(tmp_path, holder, monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("runtime.locks.GRACE_SECONDS", 0)
    later = time.monotonic() + 3
    with pytest.raises(InUse, match="first process of this launch"):
        lock_output("out", tmp_path / "lock", lambda: time.monotonic() > later, patience=0.3)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_gets_one_warning(tmp_path, monkeypatch, number, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = lock_output("out", tmp_path / "lock", patience=0)
    assert capsys.readouterr().err.count("without locks") == 1
    lock.release()

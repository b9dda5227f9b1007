"""Files that are whole or not there, after kills, on full disks, with many writers."""

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import signal
import socket
import time

import pytest

from runtime.files import (
    ABANDONED_SECONDS,
    check_file,
    check_folder_writable,
    check_writable,
    process_exists,
    remove_leftovers,
    replace_file,
    replacing,
    temporary_path,
    write_bytes,
    write_json,
    write_text,
)

FORK = multiprocessing.get_context("fork")


def rewrite(file) -> None:
    file.write(b"0")
    file.seek(0)
    file.write(b"7")


def in_child(function) -> int:
    """Call in a forked process; returns its exit code."""
    child = FORK.Process(target=function)
    child.start()
    child.join(30)
    return child.exitcode


def test_content_arrives(tmp_path):
    write_bytes(tmp_path / "new" / "a", b"12")
    write_text(tmp_path / "b", "grün")
    write_json(tmp_path / "c", {"x": [1, None]})
    replace_file(tmp_path / "d", rewrite)
    assert (tmp_path / "new" / "a").read_bytes() == b"12"
    assert (tmp_path / "b").read_text("utf-8") == "grün"
    assert json.loads((tmp_path / "c").read_text()) == {"x": [1, None]}
    assert (tmp_path / "d").read_bytes() == b"7"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c", "d", "new"]


def test_what_a_user_may_read_stays_readable(tmp_path):
    before = os.umask(0o022)
    write_bytes(tmp_path / "a", b"")
    os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_link_keeps_pointing_where_it_does(tmp_path):
    (tmp_path / "link").symlink_to("target")
    write_bytes(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"1"


def test_failed_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"new")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="middle"):
        replace_file(path, fail)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_full_disk_leaves_the_old_content_and_names_the_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_bytes(path, bytes(5000))
        except OSError as error:
            os._exit(7 if error.errno == errno.EFBIG and error.filename == str(path) else 8)

    assert in_child(child) == 7
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_killed_writer_leaves_the_old_content_and_its_leftover_is_removed(tmp_path):
    path = tmp_path / "a.b.pt"  # with dots, as the temporary name has
    path.write_bytes(b"old")

    def child():
        def write(file):
            file.write(b"new")
            os.kill(os.getpid(), signal.SIGKILL)

        replace_file(path, write)

    assert in_child(child) == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def leftover(folder, host, pid, age=0.0):
    path = folder / f"x.{host}-{pid}-{'0' * 16}.tmp"
    path.write_bytes(b"part")
    os.utime(path, (time.time() - age,) * 2)
    return path


def dead_pid() -> int:
    child = FORK.Process(target=os.getpid)
    child.start()
    child.join()
    assert not process_exists(child.pid)
    return child.pid


def test_only_the_dead_are_cleaned_up_after(tmp_path):
    here, dead = socket.gethostname(), dead_pid()
    removed = [leftover(tmp_path, here, dead), leftover(tmp_path, "b", dead, ABANDONED_SECONDS + 9)]
    kept = [
        leftover(tmp_path, here, os.getpid()),
        leftover(tmp_path, "elsewhere", dead),  # the number says nothing about another machine
        leftover(tmp_path, "elsewhere-2", dead, ABANDONED_SECONDS / 2),
        tmp_path / "foreign.tmp",
    ]
    kept[-1].write_bytes(b"")
    locked = leftover(tmp_path, "container", dead, 2 * ABANDONED_SECONDS)  # and its writer lives
    with open(locked, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_leftovers(tmp_path)
        assert locked.exists() and all(path.exists() for path in kept)
    assert not any(path.exists() for path in removed)
    remove_leftovers(tmp_path)
    assert not locked.exists()


def test_a_file_being_written_is_no_leftover(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        old = time.time() - 2 * ABANDONED_SECONDS
        os.utime(temporary, (old, old))
        remove_leftovers(tmp_path)
        temporary.write_bytes(b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_names_do_not_meet_and_fit(tmp_path):
    names = {temporary_path(tmp_path / "a").name for _ in range(1000)}
    assert len(names) == 1000
    write_bytes(tmp_path / ("ü" * 127), b"1")
    assert (tmp_path / ("ü" * 127)).read_bytes() == b"1"


def test_many_writers_of_one_file_with_the_same_process_number(tmp_path, monkeypatch):
    """As on several machines: every write succeeds and the file is always one of them, whole."""
    monkeypatch.setattr(os, "getpid", lambda: 4242)
    path, block = tmp_path / "shared", 20_000

    def child(digit):
        for _ in range(50):
            write_bytes(path, digit * block)

    writers = [FORK.Process(target=child, args=(bytes([65 + i]),)) for i in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert content == content[:1] * block
        time.sleep(0.002)
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/dev/null", "device"),
        ("/dev/full", "device"),
        ("/dev/null/x.npz", "/dev/null is a file"),
        ("/proc/1/nowhere/x.npz", "nothing can be written in /proc/1"),
        ("{}", "folder, where a file is meant"),
        ("{}/file/x.npz", "file is a file, where a folder is needed"),
        ("{}/loop/x", "file, where a folder|symbolic links"),
        ("{}/" + 256 * "x" + "/y", "too long"),
    ],
)
def test_what_cannot_be_written_is_told_before(tmp_path, path, expected):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    path = path.format(tmp_path)
    with pytest.raises((ValueError, OSError), match=expected):
        check_writable(path, f"--out {path}")
    with pytest.raises(OSError):
        write_bytes(path, b"1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "loop"]


def test_asking_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b.npz")
    check_folder_writable(tmp_path / "a" / "b")
    (tmp_path / "c").write_bytes(b"1")
    check_writable(tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_full_disk_is_told_before(tmp_path):
    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            check_writable(tmp_path / "a")
        except ValueError:
            os._exit(7)

    assert in_child(child) == 7 and not list(tmp_path.iterdir())


def test_a_folder_given_for_a_file_is_called_one(tmp_path):
    (tmp_path / "file").touch()
    check_file(tmp_path / "file")
    with pytest.raises(ValueError, match="--ckpt x: it is a folder, where a file is meant"):
        check_file(tmp_path, "--ckpt x")
    with pytest.raises(ValueError, match="gone: no such file"):
        check_file(tmp_path / "gone")


def test_text_with_a_name_that_is_not_utf8_is_written_all_the_same(tmp_path):
    write_text(tmp_path / "a", "λ " + os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "a").read_text(encoding="utf-8") == "λ caf\\udce9"


def test_names_that_are_not_utf8_can_be_written(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9")
    write_text(path, "a")
    assert path.read_text() == "a" and os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"]

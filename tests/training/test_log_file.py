"""metrics.jsonl on a disk that takes no line for a while: nothing is lost, nothing torn."""

import errno
import resource

import pytest

from training.log_file import LogFile, append


def test_lines_wait_until_there_is_room(tmp_path, capsys):
    log, full = LogFile(tmp_path / "metrics.jsonl"), tmp_path / "full"
    log.add("1")
    full.symlink_to("/dev/full")
    log.path, path = full, log.path
    log.add("2")
    log.add("3")
    assert path.read_text() == "1\n"
    log.path = path
    log.add("4")
    log.close()
    assert path.read_text() == "1\n2\n3\n4\n"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{full}: no space left on the disk" in said
    assert "the run goes on" in said


def test_what_is_lost_at_the_end_is_said(tmp_path, capsys):
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    log = LogFile(full)
    log.add("1")
    log.add("2")
    log.close()
    assert "its last 2 lines are lost" in capsys.readouterr().err


def test_a_line_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"0123456789")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15, limits[1]))
    try:
        with pytest.raises(OSError) as raised:
            append(b"0123456789", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    assert path.read_bytes() == b"0123456789"


def test_a_folder_that_was_removed_ends_the_run(tmp_path):
    with pytest.raises(FileNotFoundError):
        LogFile(tmp_path / "removed" / "metrics.jsonl").add("1")

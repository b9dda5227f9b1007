"""Files that are whole or not there: written under a name of their own, flushed, then renamed.

`replace_file` is the one way to write what is read again. A reader sees the old content or the
new one, never a part, after a kill and on a full disk too. `check_writable` says before any work
whether an output can be written at all.

A temporary file is called NAME.HOST-PID-RANDOM.tmp, so that no two writers meet on any machine,
and its writer holds a lock on it. `remove_leftovers` uses both to tell what a killed process left
from what is being written elsewhere.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

LEFTOVER = re.compile(r"\.(?P<host>[^.]+)-(?P<pid>\d+)-[0-9a-f]{16}\.tmp$")
LONGEST_NAME = 255  # bytes, of nearly every file system
ABANDONED_SECONDS = 24 * 3600  # without a write, by a process of another machine
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of a file system without flock
PROBE_BYTES = 4096


def temporary_path(path: Path) -> Path:
    """Return a new name beside `path` that no other process on any machine uses."""
    own = f".{host_name()}-{os.getpid()}-{secrets.token_hex(8)}.tmp"
    name = os.fsencode(path.name)[: LONGEST_NAME - len(own)].decode(errors="ignore")
    return path.with_name(name + own)


def host_name() -> str:
    """Return this machine's name without dots, which part the words of a temporary file's name."""
    return socket.gethostname().replace(".", "_")


@contextlib.contextmanager
def replacing(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the place of `path` when the block succeeds.

    For what must open the file itself by name; see `replace_file`. The folder is made when it is
    missing. An error removes the temporary file, leaves `path` as it was, and names `path`.

    Args:
        sync: flush to the disk before renaming; without, a crash of the machine may leave an empty
            file, which many small files that can be made again may risk.
    """
    place = Path(os.path.realpath(path))  # a link keeps pointing where it does
    refuse_special(place)
    temporary = temporary_path(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as held:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield temporary
            if sync:
                with open(temporary, "rb") as written:
                    os.fsync(written.fileno())
        os.replace(temporary, place)
        if sync:
            sync_folder(place.parent)
    except OSError as error:
        if error.filename in (None, str(temporary), temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` with an open binary file whose content becomes that of `path`, all or nothing.

    Raises `OSError` that names `path`; what was there is then still there.
    """
    with replacing(path) as temporary, open(temporary, "r+b") as file:
        write(file)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace the content of a file, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Replace the text of a file, UTF-8, all or nothing.

    Bytes that are none, as names of files may hold, are written as Python shows them: \\udce9.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | Path, value, indent: int | None = 2) -> None:
    """Replace a file by `value` as JSON, all or nothing."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, as a rename alone does not."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, *NO_LOCKS):  # file systems that cannot sync folders
            raise
    finally:
        os.close(handle)


def check_file(path: str | Path, name: str = "") -> None:
    """Raise `ValueError` unless there is a file at `path`; says when a folder is there instead.

    Args:
        name: what the error calls it, as "--ckpt FILE"; the path unless given.
    """
    if not Path(path).is_file():
        kind = "it is a folder, where a file is meant" if Path(path).is_dir() else "no such file"
        raise ValueError(f"{name or path}: {kind}")


def check_writable(path: str | Path, name: str = "") -> None:
    """Raise `ValueError` unless a file can be written at `path`; leaves nothing behind.

    Args:
        name: what the error calls it, as "--out FILE"; the path unless given.
    """
    name, place = name or str(path), Path(os.path.realpath(path))
    try:
        refuse_special(place)
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror}; give the name of a file") from None
    check_folder_writable(place.parent, name)


def check_folder_writable(folder: str | Path, name: str = "") -> None:
    """Raise `ValueError` unless files can be written in `folder`, or in one to be made there."""
    name, folder = name or str(folder), Path(os.path.realpath(folder))
    there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not there.is_dir():
        raise ValueError(f"{name}: {there} is a file, where a folder is needed; give another path")
    probe = temporary_path(there / "probe")
    try:
        with open(probe, "xb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(
            f"{name}: nothing can be written in {there} ({error.strerror}); give a path where you "
            f"may write, or make room"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def refuse_special(path: Path) -> None:
    """Raise `OSError` for a folder or a device, which must not be replaced by a file."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, where a file is meant", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file but a device or the like", str(path))


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes left in `folder`, never a living writer's.

    A file is a leftover when nobody holds its lock, and its process was on this machine and has
    ended, or nothing was written to it for a day.
    """
    for path in folder.glob("*.tmp"):
        named = LEFTOVER.search(path.name)
        if named and is_leftover(path, named["host"], int(named["pid"])):
            path.unlink(missing_ok=True)


def is_leftover(path: Path, host: str, pid: int) -> bool:
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            age = time.time() - os.fstat(file.fileno()).st_mtime
    except OSError as error:
        if error.errno not in NO_LOCKS:
            return False  # its writer is at work, or it has just been renamed
        age = time.time() - path.stat().st_mtime if path.exists() else 0.0
    if host == host_name() and not process_exists(pid):
        return True
    return age > ABANDONED_SECONDS


def process_exists(pid: int) -> bool:
    """Return whether a process of this machine has the number `pid`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""Files that are downloaded once, and compared with their first download ever after.

They lie in $LAYERSYNC_CACHE, else in ~/.cache/layersync (below $XDG_CACHE_HOME if that is set).
checksums.json there holds the SHA-256 of each at its first fetch. No checksum comes from anywhere
else: what a publisher has not said is not made up.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from runtime.files import NO_LOCKS, replacing, write_json
from runtime.launch import is_first_process
from runtime.progress import Progress
from runtime.schema import read_json

STALL_SECONDS = 30.0
CHUNK = 2**20
RECORD = "checksums.json"
BEGINNINGS = (
    b"PK\x03\x04",
    b"\x80",
)  # of what torch.save writes: a zip archive, before that a pickle


def cache_folder() -> Path:
    """Return the folder of downloaded files."""
    below = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LAYERSYNC_CACHE") or below / "layersync")


def download_once(name: str, url: str) -> Path:
    """Return the file NAME.pt of the cache, downloaded from `url` by the first that asks for it.

    Other processes of this machine wait for that one. Raises `ValueError` when it cannot be had.
    """
    path = cache_folder() / f"{name}.pt"
    try:
        with locked_folder(path.parent):
            if not path.exists():
                if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
                    raise OSError("HF_HUB_OFFLINE is set")
                download(name, url, path)
    except OSError as error:
        # URLError's, the system's, or our own, which `replacing` has given a file name
        reason = getattr(error, "reason", None) or error.strerror or error.args[0]
        raise ValueError(
            f"checkpoint {name}: it cannot be fetched from {url} ({reason}); on a machine without "
            f"a network, fetch it elsewhere and put it at {path}"
        ) from None
    return path


def download(name: str, url: str, path: Path) -> None:
    """Write what `url` gives to `path`, all of it or nothing."""
    print(f"checkpoint {name}: fetching {url} to {path}", file=sys.stderr)
    request = Request(url, headers={"User-Agent": "layersync"})
    with urlopen(request, timeout=STALL_SECONDS) as answer, replacing(path) as temporary:
        size = int(answer.headers.get("Content-Length") or 0)
        if size > shutil.disk_usage(path.parent).free:
            raise OSError(f"it has {size / 1e9:.1f} GB, more than are free in {path.parent}")
        with Progress(name, size // 2**20, "MB") as progress, open(temporary, "r+b") as file:
            while chunk := answer.read(CHUNK):
                if not file.tell() and not chunk.startswith(BEGINNINGS):
                    raise OSError("what came is no checkpoint, perhaps a page that says why")
                file.write(chunk)
                progress.reach(file.tell() // 2**20)
            if size and file.tell() != size:
                raise URLError(f"the connection ended after {file.tell()} of {size} bytes")


def confirm_checksum(name: str, path: Path, source: str) -> None:
    """Record the SHA-256 of a file at its first fetch, and compare with it every other time.

    Raises `ValueError` when the file is another one now. The first process does it for its launch.
    """
    if not is_first_process():
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = cache_folder() / RECORD
    with locked_folder(record.parent):
        known = read_json(record) if record.exists() else {}
        if name not in known:
            today = datetime.now(UTC).date().isoformat()
            known[name] = {"sha256": digest, "source": source, "first_fetched": today}
            write_json(record, known)
            print(f"checkpoint {name}: SHA-256 {digest}, recorded in {record}", file=sys.stderr)
    first = known[name]
    if first["sha256"] != digest:
        raise ValueError(
            f"checkpoint {name}: {path} has SHA-256 {digest[:12]}..., at its first fetch on "
            f"{first['first_fetched']} it had {first['sha256'][:12]}...; remove the file to fetch "
            f"it again or, if another one was published, its entry in {record}"
        )


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine out of a folder until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield

"""Errors in words for users: what the operating system and process groups mean, and what to do."""

import errno
import os


def ended_elsewhere(error: Exception) -> str:
    """Say it in a line if a process group has lost a process or cannot be made; else ""."""
    if "EADDRINUSE" in str(error):
        port = os.environ.get("MASTER_PORT")
        return f"another program of this machine has port {port}; give another (MASTER_PORT)"
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out")
    sign = next((sign for sign in signs if sign.lower() in str(error).lower()), "")
    torchs = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    if not isinstance(error, RuntimeError) or not (sign or torchs):
        return ""
    sign = sign or (str(error).splitlines() or [""])[0]
    return f"another process of this launch has ended or cannot be reached ({sign})"


PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOLCK, errno.EINTR, errno.EREMOTEIO)


def may_pass(error: Exception) -> bool:
    """Return whether the same command might succeed later: a network file system, a busy output."""
    return getattr(error, "errno", None) in PASSING or getattr(error, "may_pass", False)


def may_be_mended(error: Exception) -> bool:
    """Return whether a write might succeed later: `may_pass`, or somebody makes room."""
    return may_pass(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


REFUSALS = {  # what the operating system refuses: why, and what to do
    errno.EACCES: "no permission; give a path where you may read and write",
    errno.EPERM: "no permission; give a path where you may read and write",
    errno.EROFS: "on a file system that is read-only; give another path",
    errno.EISDIR: "it is a folder, where a file is meant; give the name of a file",
    errno.ENOTDIR: "a part of this path is a file, where a folder is needed; give another path",
    errno.ENOENT: "no such file or folder",
    errno.EEXIST: "it is there already; remove it, or give another name",
    errno.ENOSPC: "no space left on the disk; make room, or give a path on another disk",
    errno.EDQUOT: "the disk quota is used up; make room, or give a path on another disk",
    errno.EFBIG: "too large for its file system or for the limit of the shell (ulimit -f)",
    errno.EMFILE: "too many open files; raise the limit of the shell (ulimit -n)",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.ELOOP: "a symbolic link that leads back to itself; give the file that is meant",
    errno.EIO: "the disk reports an error",
    errno.ESTALE: "the network file system has lost it; look at the mount",
}


def in_one_line(error: Exception) -> str:
    """Say what an error is to a user: for the operating system's, which file and what to do."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    reason = REFUSALS.get(error.errno, error.strerror or os.strerror(error.errno))
    if error.filename is None:
        return reason[0].upper() + reason[1:]
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    if error.errno == errno.EINVAL and error.strerror != os.strerror(errno.EINVAL):
        reason = error.strerror or reason  # of this project, which says more
    return f"{name}: {reason}"

"""Checkpoints: complete, written atomically, read without trusting them.

A checkpoint is one file, `checkpoints/0050000.pt`, a dict of

    model, ema     state dicts, the official SiT layout
    opt            the optimizer's
    step           steps done
    config         every setting of the run, as a dict
    arch           what rebuilds the network: name, input_size, in_channels, num_classes
    data_length    images in the data set
    data_list      16 hex digits that change with their names and labels, "" of a stream
    meter          sums of the logging window in progress
    last_step      where the run is to end
    heads, heads_opt   of methods that train heads: their state dict, and their optimizer's
    regularizers   state of each: whether lambda has been switched off
    args           the settings as SiT's and LayerSync's train.py call them (training/originals.py)

`model`, `ema`, `opt` and `args` are where their scripts look for them; `opt` names parameters as
`model` does. A checkpoint does not depend on how many processes wrote it, or on their sharding.
"""

import shutil
from pathlib import Path
from threading import Event

import torch

from models.checkpoint_file import locate, read_checkpoint
from models.checkpoint_schema import check_finite
from runtime.command import warn
from runtime.files import remove_leftovers, replace_file
from runtime.launch import is_first_process
from runtime.outcome import progressed
from training.checkpoint_writer import torch_save
from training.originals import adopt_original, is_original

BEST = "best.pt"  # a link to the best checkpoint, where a run keeps one
known_finite: set[tuple[int, ...]] = set()  # files that this process has looked through


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder by name, without the link to the best one."""
    every = sorted(folder.glob("*.pt"))
    return [path for path in every if not (path.name == BEST and path.is_symlink())]


def best_file(folder: Path) -> Path | None:
    """Return the checkpoint in `folder` that best.pt links to, if it links to one."""
    link = folder / BEST
    if not link.is_symlink():
        return None
    path = folder / link.readlink().name
    return path if path.stem.isdecimal() and path.exists() else None


def save_checkpoint(
    path: Path, state: dict, min_free_disk: float = 0.0, cancelled: Event | None = None
) -> None:
    """Write a checkpoint, all of it or none of it.

    Args:
        cancelled: once it is set, writing ends with `Cancelled` and leaves no file.

    Raises `OSError` before writing anything when less than `min_free_disk` GB would remain free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    check_disk(path.parent, tensor_bytes(state), min_free_disk)
    try:
        replace_file(path, lambda file: torch_save(state, file, cancelled or Event()))
    except (OSError, RuntimeError) as error:  # torch wraps what the disk says
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        raise OSError(f"checkpoint {path}: cannot be written ({cause})") from error
    progressed()


def tensor_bytes(state) -> int:
    """Return the bytes of the tensors in nested dicts and lists."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    children = state.values() if isinstance(state, dict) else state
    return sum(map(tensor_bytes, children)) if isinstance(state, dict | list | tuple) else 0


def check_disk(folder: Path, needed: int, min_free_disk: float) -> None:
    free = shutil.disk_usage(folder).free
    if free - needed < min_free_disk * 1e9:
        raise OSError(
            f"{folder}: a checkpoint takes {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free and "
            f"--min-free-disk {min_free_disk:g} GB must remain; make room, or keep fewer with "
            f"--keep-last. The checkpoints already there are untouched"
        )


def prune_checkpoints(
    folder: Path, step: int, whole: set[str], keep_last: int | None, keep_every: int | None
) -> None:
    """Remove all before the newest `keep_last`, except multiples of `keep_every` steps.

    The one that best.pt links to stays too.

    Args:
        step: the step just written. Files of later steps are another run's or damaged: they are
            neither counted nor removed.
        whole: names of files that this run wrote, or read whole. Only these count as kept: none is
            removed in favour of a file that may not be readable.
    """
    if keep_last is None:
        return
    every, best = checkpoint_files(folder), best_file(folder)
    steps = {int(path.stem): path for path in every if path.stem.isdecimal()}
    kept = sorted(number for number in steps if number <= step and steps[number].name in whole)
    if len(kept) < keep_last:
        return
    for number, path in steps.items():
        spared = path == best or (keep_every and number % keep_every == 0)
        if number < kept[-keep_last] and not spared:
            path.unlink(missing_ok=True)


def read_for_resume(path: str | Path, heads: bool = False) -> dict:
    """Read a checkpoint with everything that continuing takes, one of the originals' too.

    Args:
        heads: whether the run trains heads.

    `ValueError` if something is missing. The first process of a launch looks for NaN and infinity
    too, once, which reads the whole file; the others then find it in memory.
    """
    checkpoint = read_checkpoint(path, mmap=True)  # no process needs it all in memory
    needed = (
        "model", "ema", "opt", "step", "config", "arch", "data_length", "meter", "last_step",
        "regularizers", *(("heads", "heads_opt") if heads else ()),
    )  # fmt: skip
    if is_original(checkpoint):
        checkpoint, needed = adopt_original(checkpoint, path), ()
    missing = [key for key in needed if key not in checkpoint]
    if missing:
        raise ValueError(
            f"checkpoint {path}: without {', '.join(missing)}, so a run cannot be continued from "
            f"it; to start a new run from its weights: --ckpt {path} --fine-tune"
        )
    stat = locate(path).stat()
    identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if is_first_process() and identity not in known_finite:
        try:
            check_finite(checkpoint)
        except ValueError as error:
            raise ValueError(f"checkpoint {path}: {error}") from None
        known_finite.add(identity)
    return checkpoint


def latest_checkpoint(folder: Path, heads: bool = False) -> Path | None:
    """Return the checkpoint of the highest step that a run can continue from, None without one.

    The step is read from inside. A file that is cut, altered or not finite is passed over, of which
    a line on standard error tells.
    """
    steps = {}
    for path in checkpoint_files(folder):
        try:
            steps[path] = read_checkpoint(path, mmap=True)["step"]
        except KeyError:
            warn(f"passed over: checkpoint {path}: without step")
        except ValueError as error:
            warn(f"passed over: {error}")
    for path in sorted(steps, key=steps.__getitem__, reverse=True):
        try:
            read_for_resume(path, heads)
        except ValueError as error:
            warn(f"passed over: {error}")
        else:
            return path
    return None

"""Checkpoints: complete, written atomically, read without trusting them.

A checkpoint is one file, `checkpoints/0050000.pt`, a dict of

    model, ema     state dicts, the official SiT layout
    opt            the optimizer's
    step           steps done
    config         every setting of the run, as a dict
    arch           what rebuilds the network: name, input_size, in_channels, num_classes
    data_length    images in the data set
    meter          sums of the logging window in progress
    last_step      where the run is to end
    heads, heads_opt   of methods that train heads: their state dict, and their optimizer's
    regularizers   state of each: whether lambda has been switched off

`model`, `ema` and `opt` are where SiT's scripts look for them; `opt` names parameters as `model`
does. A checkpoint does not depend on how many processes wrote it, or on their sharding.
"""

import os
import shutil
import warnings
from pathlib import Path

import torch

from models.checkpoint_file import read_checkpoint


def save_checkpoint(path: Path, state: dict, min_free_disk: float = 0.0) -> None:
    """Write to a temporary file, flush it to the disk, then rename: all of it or none of it.

    Raises `OSError` before writing anything when less than `min_free_disk` GB would remain free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob("*.tmp"):  # of a process killed while writing
        leftover.unlink()
    check_disk(path.parent, tensor_bytes(state), min_free_disk)
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch wraps what the disk says
        temporary.unlink()
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        raise OSError(f"checkpoint {path}: cannot be written ({cause})") from error
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # the rename itself
    os.close(folder)


def tensor_bytes(state) -> int:
    """Bytes of the tensors in nested dicts and lists."""
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


def prune_checkpoints(folder: Path, keep_last: int | None, keep_every: int | None) -> None:
    """Remove all but the newest `keep_last` and those at multiples of `keep_every` steps."""
    if keep_last is None:
        return
    paths = sorted(folder.glob("[0-9]*.pt"), key=lambda path: int(path.stem))
    for path in paths[:-keep_last]:
        if not (keep_every and int(path.stem) % keep_every == 0):
            path.unlink()


def read_for_resume(path: str | Path, heads: bool = False) -> dict:
    """A checkpoint with everything that continuing takes; `ValueError` if something is missing.

    Args:
        heads: whether the run trains heads.
    """
    checkpoint = read_checkpoint(path, mmap=True)  # no process needs it all in memory
    needed = (
        "model", "ema", "opt", "step", "config", "arch", "data_length", "meter", "last_step",
        "regularizers", *(("heads", "heads_opt") if heads else ()),
    )  # fmt: skip
    missing = [key for key in needed if key not in checkpoint]
    if missing:
        raise ValueError(
            f"checkpoint {path}: without {', '.join(missing)}, so a run cannot be continued from "
            f"it; to start a new run from its weights: --ckpt {path} --fine-tune"
        )
    return checkpoint


def latest_checkpoint(folder: Path) -> Path | None:
    """The readable checkpoint of the highest step, None if there is none.

    The step is read from inside. A file that cannot be read is passed over with a warning.
    """
    steps = {}
    for path in sorted(folder.glob("*.pt")):
        try:
            steps[path] = read_checkpoint(path, mmap=True)["step"]
        except (ValueError, KeyError) as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
    return max(steps, key=steps.get) if steps else None

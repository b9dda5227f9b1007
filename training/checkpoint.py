"""Checkpoints: complete, written atomically, read without trusting them.

A checkpoint is one file, `checkpoints/0050000.pt`, a dict of

    model, ema     state dicts, the official SiT layout
    opt            the optimizer's
    step           steps done
    config         every setting of the run, as a dict
    arch           what rebuilds the network: name, input_size, in_channels, num_classes
    data_length    images in the data set
    meter          sums of the logging window in progress

`model`, `ema` and `opt` are where SiT's scripts look for them. Files of SiT, REPA and LayerSync
(a raw state dict, or a dict with `ema` and `model`) are read too, as weights.
"""

import argparse
import os
import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

NOT_OURS = "it is not a checkpoint of train.py"
IGNORED_PREFIXES = ("projectors.",)  # REPA's alignment heads are not part of the network


def save_checkpoint(path: Path, state: dict) -> None:
    """Write to a temporary file, flush it to the disk, then rename: all of it or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob("*.tmp"):  # of a process killed while writing
        leftover.unlink()
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # the rename itself
    os.close(folder)


def read_checkpoint(path: str | Path, mmap: bool = False) -> dict:
    """The dict in a checkpoint file, on the CPU, without unpickling anything but tensors.

    `ValueError` for a missing, truncated or foreign file.
    """
    if not Path(path).is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    try:
        # official files hold their command line as a Namespace: plain data
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"checkpoint {path}: truncated, or not a PyTorch file ({reason[:100]})"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"checkpoint {path}: holds a {type(content).__name__}, not a dict")
    return content


def read_for_resume(path: str | Path) -> dict:
    """A checkpoint with everything that continuing takes; `ValueError` if something is missing."""
    checkpoint = read_checkpoint(path)
    needed = ("model", "ema", "opt", "step", "config", "arch", "data_length", "meter")
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


def weights_of(checkpoint: dict, path: str | Path, kind: str = "ema") -> dict[str, Tensor]:
    """The network's state dict: `kind` ("ema" or "model") of a dict that has it, else the whole.

    Prefixes left by DDP and torch.compile are removed and REPA's projector keys dropped.
    """
    weights = checkpoint.get(kind, checkpoint)
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f"checkpoint {path}: no state dict in it (neither {kind} nor weights)")
    named = {}
    for key, value in weights.items():
        key = key.removeprefix("module.").removeprefix("_orig_mod.")
        if not key.startswith(IGNORED_PREFIXES):
            named[key] = value
    dropped = len(weights) - len(named)
    if dropped:
        print(f"{path}: {dropped} projector tensors (REPA) are not part of the network, dropped")
    return named


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load all of `weights` into all of `model`; `ValueError` names the first few misfits."""
    own = model.state_dict()
    wrong = [f"{key} missing" for key in own if key not in weights]
    wrong += [f"{key} unknown" for key in weights if key not in own]
    wrong += [
        f"{key} is {tuple(weights[key].shape)} there and {tuple(own[key].shape)} here"
        for key in own
        if key in weights and own[key].shape != weights[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"checkpoint {path}: its weights are of another network than the flags describe "
            f"(--model, --image-size, --num-classes, --vae): {'; '.join(wrong[:3])}{more}"
        )
    model.load_state_dict(weights)

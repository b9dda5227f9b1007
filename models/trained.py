"""Weights of a network in files of this project, SiT, REPA and LayerSync."""

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint_file import read_checkpoint

PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
PROJECTORS = "projectors."  # REPA's alignment heads


def weights_of(checkpoint: dict, path: str | Path, kind: str = "ema") -> dict[str, Tensor]:
    """The network's state dict: `kind` ("ema" or "model") of a dict that has it, else the whole.

    Prefixes left by DDP and torch.compile are removed and REPA's projector keys dropped.
    """
    dicts = [key for key in ("ema", "model") if isinstance(checkpoint.get(key), dict)]
    if dicts and kind not in dicts:
        raise ValueError(f"checkpoint {path}: no {kind} in it, only {dicts[0]}")
    weights = checkpoint.get(kind, checkpoint)
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f"checkpoint {path}: no state dict in it (neither {kind} nor weights)")
    named = {PREFIXES.sub("", key): value for key, value in weights.items()}
    kept = {key: value for key, value in named.items() if not key.startswith(PROJECTORS)}
    if len(kept) < len(named):
        count = len(named) - len(kept)
        print(f"{path}: {count} projector tensors (REPA) are not part of the network, dropped")
    return kept


def reversed_time(checkpoint: dict) -> bool:
    """Whether the network's time runs from data to noise: REPA's, known by its projectors."""
    weights = checkpoint.get("ema") or checkpoint.get("model") or checkpoint
    projectors = any(PREFIXES.sub("", key).startswith(PROJECTORS) for key in weights)
    return projectors or bool(checkpoint.get("reversed_time"))


def hash_weights(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names and values: the same for the same weights in another file format."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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


def start_from_weights(model: nn.Module, path: str) -> None:
    """Load the EMA weights of a file to start a new run from."""
    checkpoint = read_checkpoint(path, mmap=True)
    if reversed_time(checkpoint):
        raise ValueError(
            f"checkpoint {path}: REPA's network, whose time runs the other way; it can be sampled, "
            f"but a run that starts from it would have to unlearn that"
        )
    load_weights(model, weights_of(checkpoint, path), path)

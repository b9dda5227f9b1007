"""The one way from a checkpoint file to a network: of this project, SiT, REPA and LayerSync.

    trained = load_trained("results/run/checkpoints/0400000.pt")
    v = trained.network(x, t, y)                 # (N, C, H, W), t = 0 is noise, t = 1 data
    trained.arch, trained.settings, trained.codec, trained.step, trained.weights_sha256

Weights stay in the mapped file until they are copied into a network, and an optimizer beside them
is never read: SiT-XL/2's checkpoint has 10.8 GB, its network 2.7.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from models.checkpoint_file import read_checkpoint
from models.checkpoint_schema import PATHS, check_finite
from models.sit import SiT
from models.zoo import build_model, describe_weights
from transport.reversed_time import ReversedTime

PREFIXES = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod)\."
)  # blocks compiled singly have it inside
PROJECTORS = "projectors."  # REPA's alignment heads

Kind = Literal["ema", "model"]


@dataclass(frozen=True)
class Trained:
    """A trained network, and everything that its file says of it.

    Args:
        path: where it was read, as it was given.
        kind: which of the run's networks: "ema", the average, or "model", the one trained.
        arch: what rebuilds the network: name, input_size, in_channels, num_classes, learn_sigma,
            and class_dropout_prob 0 where it has no null label.
        settings: those of the training run under the names of train.py's flags, groups of them
            nested ({"image_size": 256, "transport": {"path_type": "Linear"}}); empty where the
            file tells nothing.
        codec: name of the codec between images and what the network sees, None if unknown.
        step: training steps done, None if unknown.
        reversed_time: whether the network was trained with time from data (0) to noise (1).
        weights: its state dict, on the CPU and mapped.
    """

    path: str
    kind: Kind
    arch: dict
    settings: dict
    codec: str | None
    step: int | None
    reversed_time: bool
    weights: dict[str, Tensor] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of what the network takes and gives."""
        return self.arch["in_channels"], self.arch["input_size"], self.arch["input_size"]

    @cached_property
    def model(self) -> SiT:
        """The SiT in its own direction of time, on the CPU, in eval mode; always the same one.

        Raises `ValueError` when the weights are not all of that network's, or more, or not finite.
        """
        with torch.device("meta"):  # initial weights would be drawn for nothing
            model = build_model(self.arch)
        model = model.to_empty(device="cpu")
        load_weights(model, self.weights, self.path)
        try:
            check_finite(model.state_dict())
        except ValueError as error:
            raise ValueError(f"checkpoint {self.path}: {self.kind} {error}") from None
        return model.eval()

    @cached_property
    def network(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """`model` as called in this project's time: (x (N, C, H, W), t (N,), y (N,)) -> like x."""
        return ReversedTime(self.model) if self.reversed_time else self.model

    @cached_property
    def weights_sha256(self) -> str:
        """The hash of the weights that every record of this project holds, see `hash_weights`."""
        return hash_weights(self.weights)


def load_trained(path: str | Path, kind: Kind = "ema", num_classes: int | None = None) -> Trained:
    """Read a checkpoint of train.py, SiT, REPA or LayerSync, .pt or .safetensors.

    Args:
        path: a file, or another name that `read_checkpoint` knows: on the Hugging Face hub, or a
            published checkpoint's.
        kind: which weights, where the file has both.
        num_classes: tells a table of K labels from one of K - 1 and the null label, for files that
            do not say; without it a table is taken to have a null label.

    Raises `ValueError` for a file that is missing, damaged or of another network.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    if checkpoint.get("kept") == "model":  # a file of one network, which says which it is
        weights, kind = weights_of(checkpoint, path), "model"
    else:
        weights = weights_of(checkpoint, path, kind)
    settings = settings_of(checkpoint)
    classes = settings.get("num_classes", num_classes)
    return Trained(
        path=str(path),
        kind=kind,
        arch=describe_weights(weights, classes, f"checkpoint {path}"),
        settings=settings,
        codec=settings.get("vae"),
        step=checkpoint.get("step"),
        reversed_time=is_reversed(checkpoint),
        weights=weights,
    )


def weights_of(checkpoint: dict, path: str | Path, kind: Kind = "ema") -> dict[str, Tensor]:
    """Return the network's state dict: the entry `kind` ("ema" or "model"), else the whole.

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


def settings_of(checkpoint: dict) -> dict:
    """Return the training run's settings: our config, or what SiT's stored command line tells."""
    if "config" in checkpoint:
        codec = {"vae": checkpoint["codec"]} if "codec" in checkpoint else {}  # a folder, resolved
        return checkpoint["config"] | codec
    args = checkpoint.get("args")
    if args is None or getattr(args, "path_type", None) not in PATHS:
        return {}  # none, or of another program
    transport = {key: getattr(args, key, None) for key in ("path_type", "prediction", "sample_eps")}
    classes = {"num_classes": args.num_classes} if hasattr(args, "num_classes") else {}
    return {"image_size": args.image_size, "transport": transport} | classes


def is_reversed(checkpoint: dict) -> bool:
    """Return whether time runs from data to noise: in REPA's networks, known by projectors."""
    weights = checkpoint.get("ema") or checkpoint.get("model") or checkpoint
    projectors = any(PREFIXES.sub("", key).startswith(PROJECTORS) for key in weights)
    return projectors or bool(checkpoint.get("reversed_time"))


def hash_weights(weights: dict[str, Tensor]) -> str:
    """Return the SHA-256 over names and values: equal for equal weights in any file format."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
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


def start_from_weights(model: nn.Module, path: str) -> dict:
    """Load the EMA weights of a file to start a new run from; return the settings in the file."""
    trained = load_trained(path)
    if trained.reversed_time:
        raise ValueError(
            f"checkpoint {path}: REPA's network, whose time runs the other way; it can be sampled, "
            f"but a run that starts from it would have to unlearn that"
        )
    load_weights(model, trained.weights, path)
    return trained.settings

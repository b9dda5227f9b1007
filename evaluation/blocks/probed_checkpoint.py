"""A checkpoint whose blocks are probed, with its data: one way for every command that does."""

import dataclasses
import math
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import layersync
from data.data_config import DataLocation, TrainingData
from data.encoding import Encoding
from data.source_protocol import IndexedSource
from data.sources import open_source
from evaluation.blocks.blocks_config import ProbedData
from models.trained import load_trained
from sampling.checkpoint_settings import settings_in_force
from transport import create_transport

DATA = [field.name for field in dataclasses.fields(DataLocation)]


class ProbedCheckpoint:
    """A network of train.py, SiT, REPA or LayerSync in this project's time, and what it sees.

    Args:
        path: the checkpoint.
        flags: which of its networks, and data other than its run's.
        device: where the network goes.

    `encoding` turns items of `source` into x_1. Raises `ValueError` for a checkpoint or data that
    cannot be used, or that do not fit each other.
    """

    def __init__(self, path: str, flags: ProbedData, device: torch.device):
        self.path, self.flags, self.device = path, flags, device
        self.trained = trained = load_trained(path, flags.weights)
        given = {"vae": flags.vae, "image_size": flags.image_size}
        self.known = settings_in_force(trained, given)
        self.data = TrainingData(
            **data_settings(path, flags, trained.settings),
            image_size=self.known.get("image_size", 256),
            num_classes=trained.arch["num_classes"],
            vae=self.known["vae"],
        )
        self.transport = create_transport(self.known["path_type"], self.known["prediction"])
        self.model = trained.model.to(device)
        self.network: Any = trained.network

    @cached_property
    def source(self) -> IndexedSource:
        """Open the data of its run or of the flags; not every probe looks at it."""
        return open_once(self.data)

    @cached_property
    def encoding(self) -> Encoding:
        return self.encode(self.source)

    @property
    def codec_name(self) -> str:
        """Return the name of its codec as `encoding` has it, without loading it."""
        name = self.known["vae"]
        return str(Path(name).resolve()) if Path(name).is_dir() else name

    def encode(self, source: IndexedSource) -> Encoding:
        """Return the encoding of a source's items; `ValueError` if the network cannot see them."""
        c, arch = self.data, self.trained.arch
        encoding = Encoding(c, arch["name"], source, self.device)
        given_shape = encoding.latent_shape[0], encoding.latent_shape[-1]
        if given_shape != (arch["in_channels"], arch["input_size"]):
            raise ValueError(
                f"checkpoint {self.path} takes {arch['in_channels']} channels of side "
                f"{arch['input_size']}, the data through --vae {c.vae} at --image-size "
                f"{c.image_size} has {given_shape[0]} of side {given_shape[1]}: give the "
                f"flags of its run"
            )
        return encoding

    @property
    def blocks(self) -> list[nn.Module]:
        """Return all blocks of the network, in order."""
        return list(self.model.get_submodule("blocks").children())

    @property
    def tokens_side(self) -> int:
        """Return the side of the grid of its tokens."""
        return math.isqrt(self.model.get_parameter("pos_embed").shape[1])

    def check_null_label(self, otherwise: str = "") -> None:
        """Raise `ValueError` if the network has no null label; say what to do `otherwise`."""
        try:
            self.network.null_label  # noqa: B018 (asking is the check)
        except ValueError as error:
            raise ValueError(f"checkpoint {self.path}: {error}{otherwise}") from None

    def describe(self) -> dict:
        """Return what every record of its numbers holds, JSON-compatible."""
        return {
            "ckpt": self.path,
            "step": self.trained.step,
            "weights": self.trained.kind,
            "weights_sha256": self.trained.weights_sha256,
            "model": self.trained.arch["name"],
            "loss_type": self.trained.settings.get("loss_type"),
            "data": self.data.data_name,
        }


@lru_cache(maxsize=4)
def open_once(c: TrainingData, given: str | None = None) -> IndexedSource:
    """Open data as `open_source` does, once for several checkpoints: a listing takes minutes."""
    return open_source(c, given)


def versions() -> dict[str, str]:
    return {"layersync": layersync.__version__, "torch": torch.__version__}


def data_settings(path: str, flags: DataLocation, stored: dict) -> dict[str, Any]:
    """Return the settings of the flags' data if they name any, else of the checkpoint's run."""
    given = flags if flags.data_path or flags.dataset_name else None
    if stored.get("streaming") and not given:
        raise ValueError(
            f"checkpoint {path}: its run streamed its data, of which images cannot be chosen by "
            f"class: name data to read with --data-path or --dataset-name"
        )
    values = {key: getattr(given, key) if given else stored.get(key) for key in DATA}
    chosen = {key: getattr(flags, key) for key in DATA if getattr(flags, key) is not None}
    return values | chosen

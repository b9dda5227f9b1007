"""The feature cache on disk: REPA's features of every image and of its mirror image.

    FOLDER/manifest.json   FeatureSettings, once the cache is complete
    FOLDER/features.npy    (images, 2, T, D) float16: [as it is | mirrored]
    FOLDER/done.npy        (images,) booleans, until it is complete
    FOLDER/begun.json      until then: FeatureSettings, and the weights' fingerprint

Image i of the cache is image i of the source, or of the latents that were made from that source.
`scripts/cache_features.py` makes a cache. With DINOv2-B, an image takes 0.79 MB.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.latents import LatentSource
from data.source_protocol import NamedSource
from data.sources import list_fingerprint
from runtime.files import write_json
from runtime.npz import open_npy
from runtime.schema import from_dict, read_json

MANIFEST, FEATURES, DONE = "manifest.json", "features.npy", "done.npy"


@dataclass(frozen=True)
class FeatureSettings:
    """Settings that determine the content of a cache."""

    encoder: str  # timm's name
    image_size: int  # pixels, before the encoder's own resizing
    images: int
    side: int  # of the grid of patches
    width: int  # of a feature
    source_fingerprint: str  # of the list of images and labels

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images, 2, self.side**2, self.width


class CachedFeatures:
    """Features of chosen images, read from a complete cache; loaders' workers get copies of this.

    Args:
        mirrors: whether the data is mirrored at all.

    Raises `ValueError` when the cache is not of this data, encoder and grid.
    """

    def __init__(self, folder: str, expected: dict, mirrors: bool):
        self.folder, self.mirrors = Path(folder), mirrors
        self.settings = read_settings(self.folder)
        different = [
            f"{name} {getattr(self.settings, name)} there, {value} here"
            for name, value in expected.items()
            if getattr(self.settings, name) != value
        ]
        if different:
            raise ValueError(
                f"--repa-features {folder} are of something else: {'; '.join(different)}"
            )
        self.width = self.settings.width
        self.features: np.ndarray | None = None  # each process maps the file itself

    def __call__(self, images: list[int], mirrored: Tensor) -> Tensor:
        """Return features (N, T, D) float16 on the CPU, of the mirror image where `mirrored`."""
        if self.features is None:
            self.features = open_npy(self.folder / FEATURES)
        views = (mirrored & self.mirrors).int().tolist()
        rows = np.stack([self.features[i, view] for i, view in zip(images, views, strict=True)])
        return torch.from_numpy(rows)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "features": None}


def read_settings(folder: Path) -> FeatureSettings:
    """Return the settings of a cache; raise `ValueError` unless it is there and complete."""
    try:
        content = read_json(folder / MANIFEST)
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        settings = from_dict(FeatureSettings, content)
        features = open_npy(folder / FEATURES)
    except (OSError, ValueError) as error:
        reason = "" if isinstance(error, OSError) else f" ({error})"
        raise ValueError(
            f"--repa-features {folder}: no complete cache of scripts/cache_features.py{reason}; "
            f"give the command that makes it (again)"
        ) from None
    shape = features.shape
    if features.dtype != np.float16:
        raise ValueError(f"--repa-features {folder}: {FEATURES} is {features.dtype}, not float16")
    if shape != settings.shape:
        raise ValueError(
            f"--repa-features {folder}: {FEATURES} is {shape}, its manifest says {settings.shape}; "
            f"remove the folder and make it again"
        )
    return settings


def write_settings(folder: Path, settings: FeatureSettings) -> None:
    write_json(folder / MANIFEST, dataclasses.asdict(settings))


def data_of(source: LatentSource | NamedSource) -> dict:
    """Return the number of images of a source, and a fingerprint of the list of them."""
    if not isinstance(source, LatentSource):
        return dict(images=len(source), source_fingerprint=list_fingerprint(source))
    if len(source) != source.settings.images:
        raise ValueError(
            f"--repa-features: {source.settings.images - len(source)} unreadable images were left "
            f"out of the latents in {source.root}, so that features cannot be told apart; remove "
            f"those images and make both caches again"
        )
    return dict(images=len(source), source_fingerprint=source.settings.source_fingerprint)

"""The feature cache on disk: REPA's features of every image and of its mirror image.

    FOLDER/manifest.json   FeatureSettings, once the cache is complete
    FOLDER/features.npy    (images, 2, T, D) float16: [as it is | mirrored]
    FOLDER/done.npy        (images,) booleans, until it is complete

Image i of the cache is image i of the source, or of the latents that were made from that source.
`scripts/cache_features.py` makes a cache. With DINOv2-B, an image takes 0.79 MB.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.batch import Batch
from data.latents import LatentSource
from data.order import StepBatches
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
    """Features of a batch, read from a complete cache.

    Args:
        batches: the order in which the run sees the data.
        mirrors: whether the data is mirrored at all.

    Raises `ValueError` when the cache is not of this data, encoder and grid.
    """

    def __init__(self, folder: str, expected: dict, batches: StepBatches, mirrors: bool):
        self.batches, self.mirrors = batches, mirrors
        self.settings = read_settings(Path(folder))
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
        self.features = open_npy(Path(folder) / FEATURES)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the features (N, T, D) of a batch, of the mirror image where it is mirrored."""
        images = self.batches.indices(batch.step, batch.positions)
        views = (batch.mirrored & self.mirrors).int().tolist()
        rows = np.stack([self.features[i, view] for i, view in zip(images, views, strict=True)])
        return torch.from_numpy(rows).to(batch.mirrored.device)


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

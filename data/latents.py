"""The latent cache on disk: the autoencoder's posterior of every image and of its mirror image.

The cached means and standard deviations are not scaled: a latent is
(mean + std * noise) * scaling_factor, which is what `VAECodec.encode` computes.
`scripts/cache_latents.py` makes a cache, `LatentSource` reads it. The files are described in
data/latent_manifest.py.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.cached_codec import CachedCodec, weights_fingerprint
from data.latent_manifest import (
    MANIFEST,
    CacheSettings,
    check_array,
    damaged,
    differences,
    file_sha256,
    read_manifest,
)
from models.codecs import Codec, VAECodec
from runtime.schema import from_dict


class LatentSource(Dataset):
    """A source that reads a complete cache: (moments (2, 2, C, h, w), int label) of each image.

    Index i is image i of the source that the cache was made from, if no image was left out.
    Opening checks that every file is there with the right size and header, and raises `ValueError`
    for the first that is not. Each process that inherits or unpickles it opens the files itself.
    """

    latents = mirrors = True

    def __init__(self, root: str | Path, given: str = "--data-path"):
        self.root, self.given = Path(root), given
        self.manifest = manifest = read_manifest(self.root)
        self.settings = s = from_dict(CacheSettings, manifest)
        self.channels, self.latent_size = s.latent_channels, s.latent_size
        self.image_size, self.num_classes, self.shape = s.image_size, s.num_classes, s.row_shape
        self.codec, self.scale = s.codec, s.scaling_factor
        self.shards = manifest["shards"]
        self.first = np.array([shard["first"] for shard in self.shards])
        self.maps: list[np.ndarray] | None = None
        self.verify()
        columns = [self.read_labels(shard) for shard in self.shards]
        self.labels = torch.from_numpy(np.concatenate(columns))  # (N,)

    def __len__(self) -> int:
        return self.manifest["count"]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        moments, labels = self.__getitems__([index])
        return moments[0], int(labels[0])

    def __getitems__(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a batch: moments (N, 2, 2, C, h, w) in the cache's dtype, labels (N,) int64."""
        indices = np.asarray(positions)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(
                f"{self.root} holds {len(self)} latents, from 0: {indices.min()} to "
                f"{indices.max()} asked for"
            )
        self.maps = self.maps or self.open_maps()
        shards = np.searchsorted(self.first, indices, side="right") - 1
        rows = indices - self.first[shards]
        dtype = getattr(torch, self.settings.dtype)
        moments = torch.empty((len(indices), *self.settings.row_shape), dtype=dtype)
        # row by row is faster than shard by shard: few rows of a batch share a shard
        for out, shard, row in zip(moments.numpy(), shards.tolist(), rows.tolist(), strict=True):
            out[:] = self.maps[shard][row]
        return moments, self.labels[torch.from_numpy(indices).long()]

    def read_labels(self, shard: dict) -> np.ndarray:
        """Read a shard's labels, int64 (n,); raise `ValueError` if one is outside the classes."""
        labels = np.load(self.root / shard["labels"])
        outside = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if len(outside):
            raise damaged(
                self.root / shard["labels"],
                f"altered: label {labels[outside[0]]} in row {outside[0]}, and {self.num_classes} "
                f"classes in {MANIFEST}",
            )
        return labels

    def open_maps(self) -> list[np.ndarray]:
        # plain arrays index faster than memmap objects; the files stay mapped
        paths = [self.root / shard["moments"] for shard in self.shards]
        return [np.asarray(np.load(path, mmap_mode="r")) for path in paths]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "maps": None}

    def verify(self, checksums: bool = False) -> None:
        """Check every shard, with `checksums` every byte; raise `ValueError` for a bad file."""
        for shard in self.shards:
            self.check_shard(shard, checksums)

    def check_shard(self, shard: dict, checksums: bool) -> None:
        for name in ("moments", "labels"):
            path = self.root / shard[name]
            check_array(path, *self.settings.layout(name, shard["count"]))
            if checksums and file_sha256(path) != shard["sha256"][name]:
                raise damaged(path, "altered, its checksum is not the manifest's")

    def noise_shape(self, codec: Codec) -> tuple[int, ...]:
        return self.shape[2:]

    def encode(self, codec: Codec, items: Tensor, mirrored: Tensor, noise: Tensor | None) -> Tensor:
        """Draw x_1 (N, C, h, w) from moments (N, *shape), the same as from the images."""
        assert noise is not None
        return sample_posterior(items, mirrored, noise, self.scale)

    def own_codec(self, device: torch.device) -> CachedCodec:
        """Return the codec that the cache was made with."""
        return CachedCodec(self.settings, device)

    def check_codec(self, codec: Codec, image_size: int) -> None:
        """Raise `ValueError` unless the cache is of this autoencoder and this image size."""
        if not isinstance(codec, VAECodec | CachedCodec):
            raise ValueError(
                f"--vae {codec.name}: {self.given} {self.root} holds latents; give --vae "
                f"{self.codec}"
            )
        if isinstance(codec, CachedCodec):
            weights = codec.fingerprint
        else:
            weights = weights_fingerprint(codec.vae)
        here = dict(codec_fingerprint=weights, image_size=image_size)
        if different := differences(self.manifest, here | {"scaling_factor": codec.scale}):
            raise ValueError(
                f"{self.given} {self.root} holds latents of another codec or size ({different}): "
                f"change the flags (it was made with --vae {self.codec}), or make another cache"
            )


def sample_posterior(moments: Tensor, mirrored: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Draw latents x_1 (N, C, h, w), float32, as `VAECodec.encode` does.

    Args:
        moments: (N, 2, 2, C, h, w), [as it is | mirrored] x [mean | std].
        mirrored: (N,) bool, which samples are to be mirrored.
        noise: (N, C, h, w), standard-normal draws.
        scale: the autoencoder's scaling factor.
    """
    samples = torch.arange(len(moments), device=moments.device)
    mean, std = moments[samples, mirrored.long()].float().unbind(1)  # (N, C, h, w) each
    return (mean + std * noise) * scale


def encode_moments(codec, images: Tensor) -> Tensor:
    """Encode uint8 images (N, 3, H, W) as a `VAECodec`'s moments (N, 2, 2, C, h, w), float32."""
    return torch.stack([codec.moments(view) for view in (images, images.flip(-1))], 1)

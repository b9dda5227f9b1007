"""What every source of data has in common, whether it gives images or cached latents."""

from typing import Protocol

import torch
from torch import Tensor

from models.codecs import Codec
from runtime.randomness import Streams


class Source(Protocol):
    """Images, or what was made of them, with their labels. Nothing in a source is random.

    Item i is (a tensor of `shape`, an int label); a stream gives them in its own order only.
    Sources of images also have `labels`, int64 (N,), and `name(i)`, what to call image i.
    """

    shape: tuple[int, ...]
    """of an item: a uint8 image (C, H, W), or moments of latents (2, 2, C, h, w)"""
    image_size: int
    """side of the images, pixels"""
    channels: int
    """of the images, or of the latents"""
    num_classes: int | None
    """number of classes, None where the data does not say"""
    mirrors: bool
    """whether a mirrored image still shows its class"""
    latents: bool
    """whether items are moments of cached latents instead of images"""
    streams: bool
    """whether it can only be read in the order in which it comes (data/streams.py)"""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    def check_codec(self, codec: Codec, image_size: int) -> None:
        """Raise `ValueError` when items cannot become x_1 through this codec at this size."""

    def encode(self, codec: Codec, items: Tensor, mirrored: Tensor, draws: Streams) -> Tensor:
        """Make x_1 (N, channels, h, w), float32, of items (N, *shape).

        Args:
            mirrored: (N,) booleans, which samples to mirror.
            draws: the samples' own streams; the codec's noise is drawn from them.
        """


class ImageSource:
    """The side of a `Source` that all sources of images share; they set `channels`."""

    channels = 3
    mirrors, latents, streams = True, False, False
    image_size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.channels, self.image_size, self.image_size

    def check_codec(self, codec: Codec, image_size: int) -> None:
        """Raise `ValueError` unless the codec takes images of as many channels."""
        if codec.image_channels != self.channels:
            raise ValueError(
                f"--vae {codec.name} encodes images of {codec.image_channels} channels, the "
                f"data has {self.channels}: give --vae none for pixels, or other data"
            )

    def encode(self, codec: Codec, items: Tensor, mirrored: Tensor, draws: Streams) -> Tensor:
        """Mirror where drawn, then encode with draws of each sample's own stream."""
        images = mirror(items, mirrored) if self.mirrors else items
        return codec.encode(images, draws.normal)


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Return images (N, C, H, W), flipped left to right where `mirrored` (N,) is True."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)

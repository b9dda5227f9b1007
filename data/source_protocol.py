"""The interface of every source of data, whether it gives images or cached latents."""

from typing import Any, Protocol

import torch
from torch import Tensor

from models.codecs import Codec


class Source(Protocol):
    """Images, or latents of them, with their labels. Nothing in a source is random."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an item: a uint8 image (C, H, W), or moments of latents (2, 2, C, h, w)."""

    @property
    def image_size(self) -> int:
        """Side of the images, pixels."""

    @property
    def channels(self) -> int:
        """Number of channels of the images, or of the latents."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes, None where the data does not say."""

    @property
    def mirrors(self) -> bool:
        """True if a mirrored image still shows its class."""

    @property
    def latents(self) -> bool:
        """True if items are moments of cached latents instead of images."""

    def __len__(self) -> int: ...

    def check_codec(self, codec: Codec, image_size: int) -> None:
        """Raise `ValueError` when items cannot become x_1 through this codec at this size."""

    def noise_shape(self, codec: Codec) -> tuple[int, ...] | None:
        """Return the shape of the noise that `encode` takes for a sample, None for none."""

    def encode(self, codec: Codec, items: Tensor, mirrored: Tensor, noise: Tensor | None) -> Tensor:
        """Make x_1 (N, channels, h, w), float32, of items (N, *shape).

        Args:
            mirrored: (N,) booleans, which samples to mirror.
            noise: standard-normal draws (N, *noise_shape).
        """


class IndexedSource(Source, Protocol):
    """A source whose items can be read in any order, unlike those of a stream (data/streams.py)."""

    labels: Any
    """(N,), of all items: an array or a tensor of integers"""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the item (a tensor of `shape`) and its label."""


class NamedSource(IndexedSource, Protocol):
    """A source of images, each of which has a name for messages."""

    def name(self, index: int) -> str:
        """Return the name of an image in messages: its path, or its row."""


class ImageSource:
    """The part of a `Source` that all sources of images share; they set `channels`."""

    channels: int = 3
    mirrors: bool = True
    latents: bool = False
    image_size: int
    class_names: list[str] | None = None  # in the order of their numbers, where the data names them

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

    def noise_shape(self, codec: Codec) -> tuple[int, ...] | None:
        return codec.noise_shape(self.shape)

    def encode(self, codec: Codec, items: Tensor, mirrored: Tensor, noise: Tensor | None) -> Tensor:
        """Mirror images where `mirrored` is True, then encode them."""
        images = mirror(items, mirrored) if self.mirrors else items
        return codec.encode(images, noise)


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Return images (N, C, H, W), flipped left to right where `mirrored` (N,) is True."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)

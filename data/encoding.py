"""Conversion of a source's items into x_1, which the network learns to make."""

import torch
from torch import Tensor

from data.cached_codec import CachedCodec
from data.data_config import TrainingData
from data.latents import LatentSource
from data.source_protocol import Source
from models import find_model, load_codec
from models.codecs import PIXELS, Codec
from runtime.randomness import Streams


class Encoding:
    """A source and its codec; called with a batch of items, returns x_1.

    `codec` decodes what the network makes, `latent_shape` is the shape (C, h, w) of x_1.

    Raises `ValueError` when source, codec, image size and the model's patches do not fit.
    """

    def __init__(self, config: TrainingData, model: str, source: Source, device: torch.device):
        self.source = source
        if config.vae_bf16 and (source.latents or config.known_codec == PIXELS):
            what = (
                "the data holds latents already" if source.latents else "--vae none encodes nothing"
            )
            raise ValueError(f"--vae-bf16 has no effect: {what}; leave it out")
        self.codec = codec_of(source, config, device)
        size = config.known_size
        source.check_codec(self.codec, size)
        self.latent_shape = self.codec.latent_shape((self.codec.image_channels, size, size))
        patch = find_model(model).keywords["patch_size"]
        if self.latent_shape[-1] % patch:
            both = self.codec.factor * patch
            raise ValueError(
                f"--image-size {size} is not divisible by {both}, the codec's factor "
                f"{self.codec.factor} times the patch size {patch} of --model {model}"
            )

    def check_decoder(self) -> None:
        """Load what decodes, if that has not happened; `ValueError` where it cannot be."""
        if isinstance(self.codec, CachedCodec):
            _ = self.codec.loaded

    @property
    def advice(self) -> str | None:
        """Return what to tell a user whose run encodes each image in each epoch anew."""
        if self.source.latents or self.codec.name == PIXELS:
            return None
        return (
            "every step encodes its images, twice the arithmetic of training SiT-B/2: a cache of "
            "latents is made once, by scripts/cache_latents.py, and gives the same x_1 "
            "(docs/latents.md)"
        )

    def __call__(self, items: Tensor, mirrored: Tensor, draws: Streams) -> Tensor:
        """Return x_1 (N, *latent_shape), float32, of the source's items (N, *source.shape).

        The same draws give the same x_1 from images and from cached latents of these images.
        """
        return encode_drawing(self.source, self.codec, items, mirrored, draws)

    @property
    def noise_shape(self) -> tuple[int, ...] | None:
        """Shape of the noise that `encode` takes for each sample, None where it takes none."""
        return self.source.noise_shape(self.codec)

    def encode(self, items: Tensor, mirrored: Tensor, noise: Tensor | None) -> Tensor:
        """Return x_1 as a call does, from noise (N, *noise_shape) that was drawn before."""
        return self.source.encode(self.codec, items, mirrored, noise)


def encode_drawing(
    source: Source, codec: Codec, items: Tensor, mirrored: Tensor, draws: Streams
) -> Tensor:
    """Encode items as `source.encode` does, its noise drawn now from the samples' own streams."""
    shape = source.noise_shape(codec)
    noise = None if shape is None else draws.normal(shape)
    return source.encode(codec, items, mirrored, noise)


def codec_of(source: Source, config: TrainingData, device: torch.device) -> Codec:
    """Return the codec of a run; of cached latents their own, which need not be loaded."""
    if isinstance(source, LatentSource) and config.known_codec == source.codec:
        return source.own_codec(device)
    return load_codec(config.known_codec, device, source.channels, config.vae_bf16)

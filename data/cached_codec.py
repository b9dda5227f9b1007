"""The codec of a latent cache, known by the cache's manifest and loaded when it must decode."""

from functools import cached_property

import torch
from torch import Tensor

from data.latent_manifest import CacheSettings
from models.codecs import Codec, VAECodec
from models.trained import hash_weights


class CachedCodec(Codec):
    """An autoencoder of which a cache holds the latents; training on them does without its network.

    Args:
        settings: those in the cache's manifest.
        device: where it decodes.
    """

    image_channels = 3

    def __init__(self, settings: CacheSettings, device: torch.device | str = "cpu"):
        self.name, self.device = settings.codec, device
        self.factor = settings.image_size // settings.latent_size
        self.channels, self.scale = settings.latent_channels, settings.scaling_factor
        self.fingerprint = settings.codec_fingerprint

    @cached_property
    def loaded(self) -> VAECodec:
        """The autoencoder; `ValueError` if it cannot be loaded, or is not the one of the cache."""
        codec = VAECodec(self.name, self.device)
        if weights_fingerprint(codec.vae) != self.fingerprint or codec.scale != self.scale:
            raise ValueError(
                f"--vae {self.name}: its weights are no longer those of the latent cache; give "
                f"--vae with a copy of them, or make the cache again"
            )
        return codec

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        channels, height, width = image_shape
        return self.latent_shape((channels, height, width))

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        return self.loaded.encode(images, noise)

    def decode(self, latents: Tensor) -> Tensor:
        return self.loaded.decode(latents)


def weights_fingerprint(network: torch.nn.Module) -> str:
    """Return the first 16 hex digits of the SHA-256 of names and values of the weights."""
    return hash_weights(network.state_dict())[:16]

"""From what a source gives to x_1, which the network learns to make: images, or cached latents."""

import torch
from torch import Tensor

from data.latents import sample_posterior
from models import find_model, load_codec
from models.codecs import latent_size
from runtime.randomness import Streams
from training.config import TrainConfig


class Encoder:
    """Mirror where drawn, then encode with draws of each sample's own stream.

    Raises `ValueError` when source, codec and image size do not go together.
    """

    def __init__(self, config: TrainConfig, source, device: torch.device):
        self.source = source
        self.codec = load_codec(config.vae, device, source.channels)
        if source.latents:
            source.check_codec(self.codec, config.image_size)
        elif self.codec.image_channels != source.channels:
            raise ValueError(
                f"--vae {config.vae} encodes images of {self.codec.image_channels} channels, the "
                f"data has {source.channels}: give --vae none for pixels, or other data"
            )
        self.name, self.channels = self.codec.name, self.codec.channels
        self.latent_size = latent_size(config.image_size, self.codec)
        self.latent_shape = self.channels, self.latent_size, self.latent_size
        patch = find_model(config.model).keywords["patch_size"]
        if self.latent_size % patch:
            both = self.codec.factor * patch
            raise ValueError(
                f"--image-size {config.image_size} is not divisible by {both}, the codec's factor "
                f"{self.codec.factor} times the patch size {patch} of --model {config.model}"
            )

    def __call__(self, images: Tensor, mirrored: Tensor, draws: Streams) -> Tensor:
        """uint8 images (N, C, H, W) and booleans (N,) to x_1 (N, channels, h, w), float32.

        From a latent cache come moments instead of images, and the same draws give the same x_1.
        """
        if images.dim() == 6:  # (N, 2, 2, C, h, w)
            noise = draws.normal(self.latent_shape)
            return sample_posterior(images, mirrored, noise, self.codec.scale)
        if self.source.mirrors:
            images = mirror(images, mirrored)
        return self.codec.encode(images, draws.normal)


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Images (N, C, H, W), flipped left to right where `mirrored` (N,) is True."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)

"""From what a source gives to x_1, what the network learns to make: images through a codec."""

import torch
from torch import Tensor

from models import find_model, load_codec
from models.codecs import latent_size
from training.config import TrainConfig
from training.randomness import Streams


class Encoder:
    """Mirror where drawn, then encode with draws of each sample's own stream.

    Raises `ValueError` when source, codec and image size do not go together.
    """

    def __init__(self, config: TrainConfig, source, device: torch.device):
        self.source = source
        self.codec = load_codec(config.vae, device, source.channels)
        if self.codec.image_channels != source.channels:
            raise ValueError(
                f"--vae {config.vae} encodes images of {self.codec.image_channels} channels, the "
                f"data has {source.channels}: give --vae none for pixels, or other data"
            )
        self.name, self.channels = self.codec.name, self.codec.channels
        self.latent_size = latent_size(config.image_size, self.codec)
        patch = find_model(config.model).keywords["patch_size"]
        if self.latent_size % patch:
            both = self.codec.factor * patch
            raise ValueError(
                f"--image-size {config.image_size} is not divisible by {both}, the codec's factor "
                f"{self.codec.factor} times the patch size {patch} of --model {config.model}"
            )

    def __call__(self, images: Tensor, mirrored: Tensor, draws: Streams) -> Tensor:
        """uint8 images (N, C, H, W) and booleans (N,) to x_1 (N, channels, h, w), float32."""
        if self.source.mirrors:
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return self.codec.encode(images, draws.normal)

"""Codecs between images and what the network sees: SD's autoencoder, or the pixels themselves.

Images become [-1, 1] by x / 127.5 - 1, and bytes by truncating 127.5 x + 128, as in SiT. That is
an exact round trip for the bytes; it is not `round(127.5 (x + 1))`.
"""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from runtime.hub import connection_trouble, is_hub_name

PIXELS = "none"
STABILITY_VAES = {"ema": "stabilityai/sd-vae-ft-ema", "mse": "stabilityai/sd-vae-ft-mse"}


class Codec(Protocol):
    """Conversion between images and what the network sees of them, x_1."""

    name: str
    """as --vae names it"""
    factor: int
    """image side over latent side"""
    channels: int
    """of latents"""
    image_channels: int

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the shape of the noise that `encode` takes for an image (C, H, W), if any."""

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """Encode uint8 images (N, C, H, W) as float32 latents (N, channels, h, w).

        Args:
            noise: standard-normal draws (N, *noise_shape), None where it takes none.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (N, channels, h, w) to uint8 images (N, H, W, C)."""

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (channels, h, w) of the latents of an image (C, H, W).

        `ValueError` when the sides are no multiples of `factor`.
        """
        _, *sides = image_shape
        for side in sides:
            if side < 1 or side % self.factor:
                raise ValueError(
                    f"--image-size {side} is not divisible by {self.factor}, the factor by which "
                    f"--vae {self.name} shrinks an image; choose a multiple of {self.factor}"
                )
        height, width = (side // self.factor for side in sides)
        return self.channels, height, width


class PixelCodec(Codec):
    """The codec of pixels: the network sees them in [-1, 1]."""

    factor = 1
    name = PIXELS

    def __init__(self, channels: int = 3):
        self.channels = self.image_channels = channels

    def noise_shape(self, image_shape: tuple[int, ...]) -> None:
        return None

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return to_unit_range(images)

    def decode(self, latents: Tensor) -> Tensor:
        return to_bytes(latents)


class VAECodec(Codec):
    """A `diffusers.AutoencoderKL`: latents are posterior samples times its scaling factor.

    Args:
        name: "ema" or "mse" (Stability's fine-tuned SD autoencoders), a hub id or a folder.
        device: where to run it, in float32.
        bf16: encode in bfloat16 and channels-last, several times as fast on a GPU; decoding and
            the posterior's arithmetic stay in float32.

    Raises `ValueError` when nothing can be loaded from `name`.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu", bf16: bool = False):
        from diffusers import AutoencoderKL  # heavy, and pixel-space users do without

        source = STABILITY_VAES.get(name, name)
        # without a connection, only what was downloaded before is looked for
        trouble = connection_trouble() if is_hub_name(source) else ""
        try:
            vae = AutoencoderKL.from_pretrained(source, local_files_only=bool(trouble))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--vae {name}: cannot load an autoencoder from {source} "
                f"({trouble or str(error).splitlines()[0]}); give ema, mse, none, a hub id, "
                f"or a folder with config.json and weights"
            ) from error
        self.name = str(Path(name).resolve()) if Path(name).is_dir() else name
        self.vae, self.bf16 = vae.to(device).eval().requires_grad_(False), bf16
        for part in (vae.encoder, vae.quant_conv) if bf16 else ():
            if part is not None:
                part.to(torch.bfloat16, memory_format=torch.channels_last)
        self.scale = vae.config.scaling_factor
        self.channels = vae.config.latent_channels
        self.image_channels = vae.config.in_channels
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        channels, height, width = image_shape
        return self.latent_shape((channels, height, width))

    @torch.no_grad()
    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """Sample the posterior, with the same draws (N, *noise_shape) always the same."""
        assert noise is not None
        mean, std = self.moments(images).unbind(1)
        return (mean + std * noise) * self.scale

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """Return the posterior's mean and deviation, not scaled: float32 (N, 2, C, h, w)."""
        pixels = to_unit_range(images)
        if not self.bf16:
            posterior = self.vae.encode(pixels).latent_dist
            return torch.stack([posterior.mean, posterior.std], 1)
        pixels = pixels.to(torch.bfloat16, memory_format=torch.channels_last)
        posterior = self.vae.encode(pixels).latent_dist
        mean, log_variance = posterior.parameters.float().contiguous().chunk(2, dim=1)
        return torch.stack([mean, (log_variance.clamp(-30, 20) / 2).exp()], 1)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return to_bytes(self.vae.decode(latents / self.scale).sample)


def load_codec(
    name: str, device: torch.device | str = "cpu", channels: int = 3, bf16: bool = False
) -> Codec:
    """Load the codec called `name`: "none" for pixels with that many channels, or an autoencoder.

    Args:
        bf16: whether an autoencoder encodes in bfloat16.
    """
    return PixelCodec(channels) if name == PIXELS else VAECodec(name, device, bf16)


def latent_size(image_size: int, codec: Codec) -> int:
    """Return the side of a square image's latents; `ValueError` as `Codec.latent_shape`."""
    return codec.latent_shape((codec.image_channels, image_size, image_size))[-1]


def to_unit_range(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def to_bytes(x: Tensor) -> Tensor:
    """Convert (N, C, H, W) in [-1, 1] to uint8 (N, H, W, C)."""
    return (127.5 * x.float() + 128).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)

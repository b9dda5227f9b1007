"""Sample grids while training: EMA weights, the same noise and labels every time."""

import torch

from runtime.randomness import PREVIEW, image_streams
from transport import Guidance, Sampler, Transport

IMAGES = 16


@torch.no_grad()
def preview(ema, codec, transport: Transport, latent_shape, seed: int, cfg_scale: float, device):
    """Images (16, H, W, C) of classes spread evenly over 0..K-1, sampled with SiT's default ODE."""
    noise = image_streams(seed, range(IMAGES), device, PREVIEW).normal(latent_shape)
    labels = torch.arange(IMAGES, device=device) * ema.num_classes // IMAGES
    sample = Sampler(transport).sample_ode(trajectory=False)
    return codec.decode(sample(noise, Guidance(ema, cfg_scale), y=labels)[-1]).cpu().numpy()

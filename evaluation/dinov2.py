"""DINOv2 features for FD-DINOv2 (Stein et al., arXiv 2306.04675), through timm.

The Frechet distance between class tokens of DINOv2 ViT-L/14 at 224x224. Images are resized with
antialiased bicubic interpolation and normalised with ImageNet's mean and deviation.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation.options import DINOV2
from models.encoders import load_vision_transformer

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoV2(nn.Module):
    """Extractor of features {"dinov2": (N, D)} from uint8 images (N, 3, H, W); ViT-L: D = 1024.

    Args:
        weights: a local file; None takes timm's from the Hugging Face hub.
        model: a vision transformer of timm's.

    Raises `ValueError` when there are no such weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | None = None, model: str = DINOV2):
        super().__init__()
        network = load_vision_transformer(
            model, weights, "DINOv2", "--dinov2-weights", img_size=SIZE
        )
        self.network = network
        self.name = model
        self.sizes: dict[str, int] = {"dinov2": cast(int, network.num_features)}
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        images = F.interpolate(images.float(), (SIZE, SIZE), mode="bicubic", antialias=True)
        return {"dinov2": self.network((images / 255 - self.mean) / self.std)}

"""DINOv2 features for FD-DINOv2 (Stein et al., arXiv 2306.04675), through timm.

The Frechet distance between class tokens of DINOv2 ViT-L/14 at 224x224. Images are resized with
antialiased bicubic interpolation and normalised with ImageNet's mean and deviation.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation.options import DINOV2

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoV2(nn.Module):
    """uint8 images (N, 3, H, W) to {"dinov2": (N, D)}; D is 1024 for ViT-L.

    Args:
        weights: a local file; None takes timm's from the Hugging Face hub.
        model: a vision transformer of timm's.

    Raises `ValueError` when there are no such weights.
    """

    def __init__(self, weights: str | None = None, model: str = DINOV2):
        super().__init__()
        import timm

        if weights and not Path(weights).is_file():
            raise ValueError(f"--dinov2-weights {weights}: no such file")
        local = dict(pretrained_cfg_overlay=dict(file=weights)) if weights else {}
        try:
            network = timm.create_model(
                model, pretrained=True, img_size=SIZE, num_classes=0, **local
            )
        except Exception as error:  # the hub's, safetensors' and timm's own, of any kind
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            remedy = "" if weights else "; or give --dinov2-weights FILE"
            raise ValueError(f"DINOv2 {model}: cannot be loaded ({reason}){remedy}") from None
        self.network = network.eval().requires_grad_(False)
        self.name = model
        self.sizes = {"dinov2": network.num_features}
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        images = F.interpolate(images.float(), (SIZE, SIZE), mode="bicubic", antialias=True)
        return {"dinov2": self.network((images / 255 - self.mean) / self.std)}

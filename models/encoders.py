"""Pretrained vision transformers of timm's, frozen: loading them, and their patch features."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.files import check_file


def load_vision_transformer(
    name: str, weights: str | None, what: str, weights_flag: str, **settings
) -> nn.Module:
    """Load timm's network `name`, without a classifier, in eval mode, its weights frozen.

    Args:
        weights: a local file; None takes timm's from the Hugging Face hub.
        what: what messages call the network.
        weights_flag: the flag that names a local file.
        settings: more for `timm.create_model`.

    Raises `ValueError` when there are no such weights.
    """
    import timm

    if weights:
        check_file(weights, f"{weights_flag} {weights}")
    local: dict[str, Any] = dict(pretrained_cfg_overlay=dict(file=weights)) if weights else {}
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0, **settings, **local)
    except Exception as error:  # the hub's, safetensors' and timm's own, of any kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "" if weights else f"; or give {weights_flag} FILE"
        raise ValueError(f"{what} {name}: cannot be loaded ({reason}){remedy}") from None
    return network.eval().requires_grad_(False)


class PatchEncoder(nn.Module):
    """Network from images to features, float32 (N, side^2, D), of side x side patches.

    The images are uint8 (N, 1 or 3, H, W).

    Images are normalised with the network's mean and deviation and then resized, bicubic and
    without antialiasing, until its patches form that grid: 256 pixels to 224 for patches of 14 and
    a side of 16, as in REPA's code. Features are those after the network's last norm.

    Args:
        network: a vision transformer of timm's.
        side: of the grid of patches.

    Raises `AttributeError` when the network has no such grid.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, side: int):
        from timm.data import resolve_model_data_config

        super().__init__()
        try:
            patch_height, patch_width = network.patch_embed.patch_size
            self.size = side * patch_height, side * patch_width
            network.set_input_size(self.size)
            self.prefix, self.width = network.num_prefix_tokens, network.embed_dim
        except AttributeError:
            raise AttributeError(
                f"{type(network).__name__} has no grid of patches; give a plain vision "
                f"transformer, such as vit_base_patch14_dinov2.lvd142m"
            ) from None
        self.network = network.eval().requires_grad_(False)
        data = resolve_model_data_config(network)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(data["std"]).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        x = (images.expand(-1, 3, -1, -1) / 255 - self.mean) / self.std
        x = F.interpolate(x, self.size, mode="bicubic")
        return self.network.forward_features(x)[:, self.prefix :].float()  # (N, side^2, D)

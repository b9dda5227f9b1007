"""Features of images by any network of timm's, on the grid of a SiT's tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoders import PatchEncoder, load_vision_transformer


class ImageEncoder:
    """Network from images to features, float32 (N, side^2, D), at side x side places.

    The images are uint8 (N, 1 or 3, H, W).

    A vision transformer sees the images in the size at which its patches are that grid, as in
    REPA's code. Of another network the last feature map is resampled to the grid.

    Args:
        name: timm's.
        weights: a file, or None for timm's own.

    Raises `ValueError` when there are no such weights, or no map of features.
    """

    def __init__(self, name: str, weights: str | None, side: int, device: torch.device):
        self.name, self.side = name, side
        network: Any = load_vision_transformer(name, weights, "--encoder", "--encoder-weights")
        self.patches: PatchEncoder | None = None
        try:
            self.patches = PatchEncoder(network, side).to(device)
        except AttributeError:
            from timm.data import resolve_model_data_config

            data = resolve_model_data_config(network)
            self.network, self.size = network.to(device), data["input_size"][1:]
            numbers = (torch.tensor(data[key], device=device) for key in ("mean", "std"))
            self.mean, self.std = (values.view(3, 1, 1) for values in numbers)
            self.maps(torch.zeros(1, 3, *self.size, device=device))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if self.patches is not None:
            return self.patches(images)
        x = (images.expand(-1, 3, -1, -1) / 255 - self.mean) / self.std
        maps = self.maps(F.interpolate(x, self.size, mode="bicubic"))
        return resampled(maps.flatten(2).transpose(1, 2), self.side, maps.shape[-2:])

    @torch.no_grad()
    def maps(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, D, H, W) of images as the network takes them."""
        features, width = self.network.forward_features(x), self.network.num_features
        if features.dim() == 4 and features.shape[1] == width:
            return features
        if features.dim() == 4 and features.shape[3] == width:
            return features.permute(0, 3, 1, 2)
        raise ValueError(
            f"--encoder {self.name}: its features {tuple(features.shape)} are on no grid of places "
            f"that {self.side} x {self.side} tokens can be matched with; give a plain vision "
            f"transformer, such as vit_base_patch14_dinov2.lvd142m, or a convolutional network"
        )


def resampled(tokens: Tensor, side: int, grid: tuple[int, int] | torch.Size) -> Tensor:
    """Return tokens (N, T, D) of a grid of T places at side x side places, (N, side^2, D).

    A finer grid is averaged, a coarser one interpolated, as float32.
    """
    if tuple(grid) == (side, side):
        return tokens.float()
    maps = tokens.float().transpose(1, 2).unflatten(2, tuple(grid))
    if min(grid) > side:
        maps = F.adaptive_avg_pool2d(maps, side)
    else:
        maps = F.interpolate(maps, (side, side), mode="bilinear")
    return maps.flatten(2).transpose(1, 2)

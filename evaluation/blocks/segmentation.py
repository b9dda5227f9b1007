"""Linear segmentation: a linear map of each token, bilinear to the mask, and mean IoU.

    IoU of a class = pixels of it that are said to be so / pixels that are of it or said to be so

from one confusion matrix over all images; the mean is over the classes that occur in the masks or
in what is said. Pixels of `IGNORED` count nowhere.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evaluation.blocks.masked_images import IGNORED
from runtime.processes import Processes
from runtime.randomness import HEADS

START = 0.01


class Confusion:
    """Counts (times, blocks, K, K): pixels of a class (row) that are said to be of another."""

    def __init__(self, times: int, blocks: int, classes: int):
        self.classes = classes
        self.counts = torch.zeros(times, blocks, classes, classes, dtype=torch.int64)

    def add(self, time: int, block: int, said: Tensor, masks: Tensor) -> None:
        """Add classes that are said, and masks, int64 (N, H, W) both."""
        known = masks != IGNORED
        pairs = masks[known] * self.classes + said[known]
        counts = torch.bincount(pairs, minlength=self.classes**2)
        self.counts[time, block] += counts.view(self.classes, self.classes).cpu()

    def numbers(self, processes: Processes) -> dict[str, Tensor]:
        """Return {"miou": (times, blocks), "accuracy": ...} over all processes; a collective."""
        counts = processes.sum(self.counts).double()
        right = counts.diagonal(dim1=-2, dim2=-1)  # (times, blocks, K)
        accuracy = right.sum(dim=-1) / counts.sum(dim=(-2, -1)).clamp(min=1)
        return {"miou": mean_iou(counts), "accuracy": accuracy}


def mean_iou(counts: Tensor) -> Tensor:
    """Return the mean IoU (...) of confusion matrices (..., K, K); 0 where no pixel counts."""
    right = counts.diagonal(dim1=-2, dim2=-1)
    either = counts.sum(dim=-1) + counts.sum(dim=-2) - right
    occurs = either > 0
    iou = torch.where(occurs, right / either.clamp(min=1), 0.0)
    return iou.sum(dim=-1) / occurs.sum(dim=-1).clamp(min=1)


class SegmentationHeads(nn.Module):
    """`Heads`: a linear map D -> K of each token, for each block and time.

    Args:
        sizes: times, blocks, D and classes.
        seed: of the weights that they start from.

    `remember` keeps the weights of the epoch that was best for each head, `recall` takes them.
    """

    best: Tensor
    best_epoch: Tensor
    best_weight: Tensor
    best_bias: Tensor

    def __init__(self, sizes: tuple[int, int, int, int], seed: int = 0):
        super().__init__()
        times, blocks, dimensions, classes = sizes
        drawn = np.random.default_rng((HEADS, seed)).standard_normal((dimensions, classes))
        start = torch.from_numpy(START * drawn).float()
        self.weight = nn.Parameter(start.repeat(times, blocks, 1, 1))
        self.bias = nn.Parameter(torch.zeros(times, blocks, classes))
        self.register_buffer("best", torch.full((times, blocks), -1.0, dtype=torch.float64))
        self.register_buffer("best_epoch", torch.zeros(times, blocks, dtype=torch.int64))
        self.register_buffer("best_weight", self.weight.detach().clone())
        self.register_buffer("best_bias", self.bias.detach().clone())

    def reduce(self, tokens: Sequence[Tensor]) -> Tensor:
        """Return the tokens of every block, (blocks, N, T, D)."""
        return torch.stack(list(tokens))

    def losses(self, k: int, features: Tensor, target: Tensor, processes: Processes) -> Tensor:
        """Return the mean cross entropies (blocks,) over pixels that count, see `Heads`."""
        count = processes.sum((target != IGNORED).sum()).clamp(min=1)
        losses = []
        for tokens, weight, bias in zip(features, self.weight[k], self.bias[k], strict=True):
            # scores of every pixel are made again for the gradient, one block at a time
            loss = checkpoint(summed_loss, tokens, weight, bias, target, use_reentrant=False)
            losses.append(loss / count)
        return torch.stack(losses)

    @torch.no_grad()
    def add_to(self, confusion: Confusion, k: int, tokens: Sequence[Tensor], masks: Tensor) -> None:
        """Add what the heads at times[k] say of some images."""
        for i, (z, weight, bias) in enumerate(
            zip(tokens, self.weight[k], self.bias[k], strict=True)
        ):
            said = score_maps(z, weight, bias, masks.shape[-2:]).argmax(dim=1)
            confusion.add(k, i, said, masks)

    @torch.no_grad()
    def remember(self, scores: Tensor, epoch: int) -> None:
        """Keep the weights of the heads whose score (times, blocks) is the highest so far."""
        better = scores.to(self.best.device) > self.best
        self.best[better] = scores.to(self.best)[better]
        self.best_epoch[better] = epoch
        self.best_weight[better] = self.weight[better]
        self.best_bias[better] = self.bias[better]

    @torch.no_grad()
    def recall(self) -> None:
        """Take the weights that `remember` kept."""
        self.weight.copy_(self.best_weight)
        self.bias.copy_(self.best_bias)


def score_maps(
    tokens: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int] | torch.Size
) -> Tensor:
    """Return scores (N, K, H, W) of tokens (N, T, D) on a square grid, bilinear in between."""
    side = math.isqrt(tokens.shape[1])
    scores = (tokens @ weight + bias).transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(scores, tuple(size), mode="bilinear", align_corners=False)


def summed_loss(tokens: Tensor, weight: Tensor, bias: Tensor, masks: Tensor) -> Tensor:
    scores = score_maps(tokens, weight, bias, masks.shape[-2:])
    return F.cross_entropy(scores, masks, ignore_index=IGNORED, reduction="sum")

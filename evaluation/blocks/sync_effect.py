"""Effects of LayerSync on a step: similarity over time, collapse, and the pull of each loss term.

Pure functions of values that a step has anyway: a pair's tokens (N, T, D), the times t (N,), and
the gradients of each term of the loss. Nothing here draws random numbers, logs or changes anything.

    sums = similarity_by_time(student, teacher, t)          # add these over batches, processes
    values = bin_means(sums, "similarity_8_16")             # {"similarity_8_16_t0.0": 0.41, ...}
    values["rank_8"] = token_rank(student)
    norm_a, norm_b, angle = norms_and_angle(gradient_products(velocity_gradient, sync_gradient))
"""

import math

import torch
from torch import Tensor

from evaluation.blocks.token_statistics import effective_rank
from evaluation.moments import Moments
from layersync.alignment import sample_cosine

BINS = 10


@torch.no_grad()
def similarity_by_time(student: Tensor, teacher: Tensor, t: Tensor, bins: int = BINS) -> Tensor:
    """Return sums of the samples' similarity, and numbers of samples, by bins of t: (2, bins).

    A sample's similarity is the mean cosine over its tokens, which LayerSync maximises. Results are
    float64; those of several batches or processes are joined by adding them.

    Args:
        student, teacher: (N, T, D).
        t: (N,) in [0, 1]; bin i is [i / bins, (i + 1) / bins), the last one with its end.
    """
    check_tokens(student, teacher, t)
    cosine = sample_cosine(student, teacher).double()  # (N,)
    inside = torch.nn.functional.one_hot(time_bins(t, bins), bins).double()  # (N, bins)
    return torch.stack([cosine @ inside, inside.sum(dim=0)])


def time_bins(t: Tensor, bins: int = BINS) -> Tensor:
    """Return the number of the bin of each time, (N,), int64."""
    return (t.double() * bins).long().clamp(0, bins - 1)


def bin_means(sums: Tensor, name: str) -> dict[str, float]:
    """Return {"name_t0.0": mean of the first bin, ...} from (2, bins) sums and numbers.

    Bins without samples are left out.
    """
    totals, counts = sums.tolist()
    bins, digits = len(totals), 1 if len(totals) == 10 else 3
    return {
        f"{name}_t{i / bins:.{digits}f}": totals[i] / counts[i] for i in range(bins) if counts[i]
    }


@torch.no_grad()
def token_rank(tokens: Tensor) -> float:
    """Return the effective rank of tokens (N, T, D) over samples and positions, from 0 to D.

    See `effective_rank` in evaluation/blocks/token_statistics.py. It falls when features collapse:
    0 when all tokens are the same, 1 when they differ in one direction. At most N T - 1, so batches
    of different sizes compare only where N T is well above D.
    """
    if tokens.dim() != 3:
        raise ValueError(f"tokens: expected (N, T, D), got {tuple(tokens.shape)}")
    moments = Moments(tokens.shape[-1], tokens.device)
    moments.add(tokens.flatten(0, 1))
    return effective_rank(moments.squares)


@torch.no_grad()
def gradient_products(a: Tensor, b: Tensor) -> Tensor:
    """Return (|a|^2, |b|^2, a . b), (3,) float64, of two gradients of the same tensor.

    Results of several tensors, batches or processes are joined by adding them.
    """
    a, b = a.double().flatten(), b.double().flatten()
    return torch.stack([a @ a, b @ b, a @ b])


def norms_and_angle(products: Tensor) -> tuple[float, float, float]:
    """Return the norms of two gradients and the angle between them, in degrees from 0 to 180.

    Above 90 degrees two terms of a loss pull against each other. The angle is NaN where a gradient
    is zero, which has no direction, or not finite.
    """
    squares_a, squares_b, dot = products.tolist()
    norm_a, norm_b = math.sqrt(squares_a), math.sqrt(squares_b)
    if not (norm_a and norm_b and math.isfinite(dot)):
        return norm_a, norm_b, math.nan
    cosine = dot / (norm_a * norm_b)
    return norm_a, norm_b, math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def check_tokens(student: Tensor, teacher: Tensor, t: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (student, teacher, t)]
    if student.dim() != 3 or shapes[0] != shapes[1] or shapes[2] != shapes[0][:1]:
        raise ValueError(
            f"expected student and teacher (N, T, D) and t (N,), got {', '.join(map(str, shapes))}"
        )

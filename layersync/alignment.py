"""cos(z_k, stopgrad(z_k')), token by token, and its mean over the tokens of a sample."""

from collections.abc import Sequence

import torch
from torch import Tensor

Mask = Tensor | Sequence[Tensor]
SHORTEST = 1e-8


def sample_cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean over tokens of cos(student, stopgrad(teacher)), (N,), float32.

    Args:
        student, teacher: (N, T, D); half precision is widened first, for it has given NaN.
        mask: (N, T) bool, True where a token counts. A sample without any has the value 0.
    """
    teacher = teacher.detach()
    with torch.autocast(student.device.type, enabled=False):
        if mask is None:
            return token_cosine(student.float(), teacher.float()).mean(dim=1)
        # zeroed tokens have the cosine 0, and not even a NaN of theirs reaches the gradient
        kept = mask.unsqueeze(-1)
        student, teacher = student.where(kept, 0).float(), teacher.where(kept, 0).float()
        cosine = token_cosine(student, teacher)  # (N, T)
        return cosine.sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def token_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """The cosine of each token (N, T) of tokens (N, T, D).

    As `F.cosine_similarity`, but the products are divided and not the tokens: no copies of these
    are made, nor kept for the backward pass. A token shorter than 1e-8 counts as that long.
    """
    products = (student * teacher).sum(dim=-1)
    for tokens in (student, teacher):
        products = products / torch.linalg.vector_norm(tokens, dim=-1).clamp(min=SHORTEST)
    return products


def split_mask(mask: Mask | None, shapes: Sequence[tuple[int, int]]) -> list[Tensor | None]:
    """One mask (N, T) for each forward pass, whose tokens have the `shapes` (N, T).

    A single mask covers the passes one after the other; axes after the first are flattened, as
    they are in hidden states. Raises `TypeError` or `ValueError` for masks that do not fit.
    """
    if mask is None:
        return [None] * len(shapes)
    if isinstance(mask, Tensor):
        sizes = [n for n, _ in shapes]
        masks = mask.split(sizes) if mask.dim() and len(mask) == sum(sizes) else [mask]
    else:
        masks = list(mask)
    for given in masks:
        if not isinstance(given, Tensor) or given.dtype != torch.bool:
            kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise TypeError(
                f"mask: expected a bool tensor (N, T), True where a token counts, got {kind}; "
                f"mask.bool() makes one of numbers"
            )
    given_shapes = [tuple(given.shape) for given in masks]
    masks = [given.flatten(1) if given.dim() > 1 else given for given in masks]
    if [tuple(given.shape) for given in masks] != list(shapes):
        raise ValueError(
            f"mask: shapes {given_shapes} do not fit the tokens (N, T) {list(shapes)} of the "
            f"captured passes; give one mask for all of them, or a list with one for each"
        )
    return masks

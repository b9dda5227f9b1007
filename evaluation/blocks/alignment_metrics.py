"""Alignment of two sets of features of the same images: CKA, CKNNA, mutual nearest neighbours.

    K = A A',  L = B B'       linear kernels of features A (N, D) and B (N, D')
    HSIC unbiased = [tr(K~ L~) + 1'K~1 1'L~1 / ((N-1)(N-2)) - 2/(N-2) 1'K~ L~ 1] / (N(N-3))
                    K~, L~ without their diagonals         (Song et al., JMLR 2012)
    HSIC biased   = tr(K H L H) / (N-1)^2,  H = 1 - 11'/N  (Gretton et al., 2005)
    CKA           = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))           (Kornblith et al., 2019)
    CKNNA         the same with unbiased HSIC of K and L where j is among the k nearest neighbours
                  of i in both            (Huh et al., arXiv 2405.07987, "Platonic representation")
    mutual-knn    share of the k nearest neighbours that both have in common

CKA is computed from sums over samples, whose size does not depend on N. CKNNA and mutual-knn need
pairs: neighbours are found by blocks of rows, so that the N x N kernels are never whole in memory.
The masked kernels of CKNNA are not symmetric: its cross term is 1'K L 1, not a product of column
sums.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.processes import Processes

ROWS = 2048  # of the kernel at a time
CLAMPED = 0.95  # share of the absolute values that is left as it is


class CKASums:
    """Sums over samples from which the CKA of two sets of features follows, biased and unbiased.

    Each kernel's own sums are those of the features with themselves, so three make a CKA.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []

    def add(self, a: Tensor, b: Tensor) -> None:
        """Add samples a (n, D) and b (n, D'); sums are float64."""
        a, b = a.double(), b.double()
        a_squares, b_squares = a.square().sum(dim=1), b.square().sum(dim=1)  # (n,)
        own = [
            a.T @ b,
            a.sum(dim=0),
            b.sum(dim=0),
            a.T @ b_squares,
            b.T @ a_squares,
            torch.stack([a_squares.sum(), b_squares.sum(), a_squares @ b_squares]),
        ]
        self.sums = [s + o for s, o in zip(self.sums, own, strict=True)] if self.sums else own
        self.count += len(a)

    def join(self, processes: Processes) -> None:
        """Add the other processes' samples; a collective."""
        self.count = int(processes.sum(torch.tensor(self.count)))
        self.sums = [processes.sum(one) for one in self.sums]

    def hsic(self, unbiased: bool) -> float:
        """Return the HSIC of the two linear kernels; NaN for fewer than four samples."""
        n, (product, a, b, a_weighted, b_weighted, squares) = self.count, self.sums
        if n < 4:
            return math.nan
        a_trace, b_trace, both = squares.tolist()
        if not unbiased:
            return (product - torch.outer(a, b) / n).square().sum().item() / (n - 1) ** 2
        trace = product.square().sum().item() - both
        totals = (a @ a - a_trace).item() * (b @ b - b_trace).item()
        cross = (a @ product @ b - a @ a_weighted - b @ b_weighted).item() + both
        return (trace + totals / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))


def cka_of(cross: CKASums, a: CKASums, b: CKASums, unbiased: bool = True) -> float:
    """Return the CKA from the sums of both with each other and of each with itself.

    NaN where a set of features does not vary.
    """
    own = a.hsic(unbiased) * b.hsic(unbiased)
    return cross.hsic(unbiased) / math.sqrt(own) if own > 0 else math.nan


def cka(a: Tensor, b: Tensor, unbiased: bool = True) -> float:
    """Return the CKA of features (N, D) and (N, D') with linear kernels: 1 for the same up to
    rotation and scale, about 0 for independent ones if unbiased."""
    cross, own, other = CKASums(), CKASums(), CKASums()
    for one, (x, y) in ((cross, (a, b)), (own, (a, a)), (other, (b, b))):
        one.add(x, y)
    return cka_of(cross, own, other, unbiased)


def normalised(features: Tensor) -> Tensor:
    """Return features (N, D) of unit length."""
    return F.normalize(features, dim=-1)


def clamped(features: Tensor, share: float = CLAMPED) -> Tensor:
    """Return features whose absolute values stop at their quantile, against outliers."""
    values = features.abs().flatten()
    limit = values.kthvalue(min(len(values), int(share * len(values)) + 1)).values
    return features.clamp(-limit, limit)


@dataclass(frozen=True)
class Neighbours:
    """Each sample's k nearest others by inner product: similarities and numbers, (N, k)."""

    values: Tensor
    numbers: Tensor

    @property
    def rows(self) -> Tensor:
        return torch.arange(len(self.numbers), device=self.numbers.device)[:, None].expand_as(
            self.numbers
        )

    def kernel(self, where: Tensor | None = None):
        """Return the sparse kernel of the neighbours, or of those where `where` (N, k) is True."""
        if where is None:
            where = torch.ones_like(self.numbers, dtype=torch.bool)
        places = self.rows[where], self.numbers[where]
        return masked(*places, self.values[where], len(self.numbers))


def neighbours(features: Tensor, k: int, rows: int = ROWS) -> Neighbours:
    """Find the k nearest others of each sample (N, D), by blocks of rows of the kernel.

    Raises `ValueError` where there are not more than k samples.
    """
    count = len(features)
    if count <= k:
        raise ValueError(f"{count} images have no {k} neighbours each: use more images or a less k")
    values, numbers = [], []
    for start in range(0, count, rows):
        part = features[start : start + rows] @ features.T  # (rows, N)
        own = torch.arange(len(part), device=part.device)
        part[own, start + own] = -torch.inf
        top = part.topk(k, dim=1)
        values.append(top.values)
        numbers.append(top.indices)
    return Neighbours(torch.cat(values), torch.cat(numbers))


def mutual_knn(a: Neighbours, b: Neighbours) -> float:
    """Return the mean share, in [0, 1], of neighbours that two sets of features have in common."""
    return shared(a, b).double().mean().item()


def cknna(a: Neighbours, b: Neighbours) -> float:
    """Return the CKNNA of two sets of features of N >= 4 samples, with unbiased HSIC."""
    whole_a, whole_b = a.kernel(), b.kernel()
    own = masked_hsic(whole_a, whole_a) * masked_hsic(whole_b, whole_b)
    both = masked_hsic(a.kernel(shared(a, b)), b.kernel(shared(b, a)))
    return both / math.sqrt(own) if own > 0 else math.nan


def shared(a: Neighbours, b: Neighbours) -> Tensor:
    """Return which neighbours in `a` are neighbours in `b` too, (N, k) booleans."""
    return (a.numbers[:, :, None] == b.numbers[:, None, :]).any(dim=2)


def masked(rows: Tensor, columns: Tensor, values: Tensor, count: int):
    """Return a sparse kernel (N, N), zero but at these places."""
    from scipy.sparse import csr_array

    places = rows.cpu().numpy(), columns.cpu().numpy()
    return csr_array((values.double().cpu().numpy(), places), shape=(count, count))


def masked_hsic(k, l) -> float:  # noqa: E741 (the letters of the equation)
    """Return the unbiased HSIC of two sparse kernels without diagonals, symmetric or not."""
    n = k.shape[0]
    trace = k.multiply(l.T).sum()
    cross = (k.sum(axis=0) * l.sum(axis=1)).sum()  # 1'K L 1
    totals = k.sum() * l.sum() / ((n - 1) * (n - 2))
    return float(trace + totals - 2 * cross / (n - 2)) / (n * (n - 3))

"""How alike two sets of features of the same images are: linear CKA, CKNNA and mutual neighbours.

    CKA   = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),    K = X X', L = Y Y'

(Kornblith et al., arXiv 1905.00414), with the biased HSIC, tr(K H L H) where H centres,
or the unbiased one of Song et al. (2012): with K~, L~ of zero diagonal,

    HSIC_u = [tr(K~ L~) + 1'K~1 1'L~1 / ((n - 1)(n - 2)) - 2 1'K~ L~ 1 / (n - 2)] / (n (n - 3)).

CKNNA (Huh et al., arXiv 2405.07987) takes the unbiased one of K and L in which only entries remain
whose column is among the row's k nearest neighbours in both sets; such matrices are not symmetric.
All of these are 1 for features that are rotated and scaled. That paper's code adds 1e-6 to the
denominator, here `eps`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.processes import Alone

CLAMP = 0.95  # quantile of absolute values, as in the platonic-representation authors' code
ROWS = 512  # of the matrix of similarities at a time
MOST_ROWS = 50_000  # of features, whose pairs are compared


def normalise(features: Tensor, clamp: float | None = None) -> Tensor:
    """Return features (n, D) with rows of length 1.

    Args:
        clamp: first limit values to plus and minus this quantile of the absolute values of all.
    """
    if clamp is not None:
        sizes = features.abs().flatten()
        limit = sizes.kthvalue(min(int(clamp * len(sizes)), len(sizes) - 1) + 1).values
        features = features.clamp(-limit, limit)
    return F.normalize(features, dim=-1)


def hsic(product: float, sums: tuple[float, float], rows: float, n: int) -> float:
    """Return the unbiased HSIC of two matrices with zero diagonals.

    Args:
        product: tr(K~ L~).
        sums: 1'K~1 and 1'L~1.
        rows: 1'K~ L~ 1.
    """
    inner = product + sums[0] * sums[1] / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)
    return inner / (n * (n - 3))


def ratio(cross: float, own: tuple[float, float], eps: float = 0.0) -> float:
    """Return cross / sqrt(own own'), 0 where a set has no spread."""
    scale = max(own[0] * own[1], 0.0) ** 0.5 + eps
    return cross / scale if scale > 0 else 0.0


class PairSums:
    """Sums over images of two sets of features x and y, from which their HSIC follows.

    Nothing of the images is kept but sums of x y', of x, y, x y'y, y x'x, x'x, y'y and x'x y'y, in
    float64.
    """

    def __init__(self, sums: dict[str, Tensor] | None = None):
        self.sums = sums or {}

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add a batch, (N, D) and (N, D') in float64."""
        k, other = x.square().sum(dim=1), y.square().sum(dim=1)
        added = {
            "cross": x.T @ y, "x": x.sum(dim=0), "y": y.sum(dim=0), "x_weighted": other @ x,
            "y_weighted": k @ y, "k": k.sum(), "other": other.sum(), "both": k @ other,
        }  # fmt: skip
        self.sums = {name: self.sums.get(name, 0) + value for name, value in added.items()}

    def summed(self, processes) -> "PairSums":
        return PairSums({name: processes.sum(value) for name, value in self.sums.items()})

    def biased(self, n: int) -> float:
        s = self.sums
        centred = s["cross"] - torch.outer(s["x"], s["y"]) / n
        return centred.square().sum().item()

    def unbiased(self, n: int) -> float:
        s = {name: value.cpu() for name, value in self.sums.items()}
        product = s["cross"].square().sum() - s["both"]
        sums = s["x"].square().sum() - s["k"], s["y"].square().sum() - s["other"]
        # the sum over images of (x . sum of x - x'x) (y . sum of y - y'y)
        rows = s["x"] @ s["cross"] @ s["y"] - s["x"] @ s["x_weighted"] - s["y"] @ s["y_weighted"]
        return hsic(product.item(), (sums[0].item(), sums[1].item()), (rows + s["both"]).item(), n)


class LinearCKA:
    """Linear CKA of some sets of features with some others, from sums over batches of images.

    On several processes each one adds its share of the images.
    """

    def __init__(self, ones: int, others: int):
        self.n = torch.zeros((), dtype=torch.float64)
        self.ones = [PairSums() for _ in range(ones)]
        self.others = [PairSums() for _ in range(others)]
        self.pairs = [[PairSums() for _ in range(others)] for _ in range(ones)]

    def add(self, ones: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        """Add features (N, D) of the same images in each set; widths may differ between sets."""
        ones, others = [x.double() for x in ones], [y.double() for y in others]
        self.n += len(ones[0])
        for sums, sets in ((self.ones, ones), (self.others, others)):
            for own, z in zip(sums, sets, strict=True):
                own.add(z, z)
        for row, x in zip(self.pairs, ones, strict=True):
            for pair, y in zip(row, others, strict=True):
                pair.add(x, y)

    def values(self, processes=None, eps: float = 0.0) -> dict[str, Tensor]:
        """Return CKA (ones, others) over the images of all processes; a collective.

        By the HSIC it is of, {"unbiased": ..., "biased": ...}.
        """
        processes = processes or Alone()
        n = int(processes.sum(self.n))
        if n < 4:
            raise ValueError(f"{n} images: the unbiased CKA needs 4 or more")
        found: dict[str, list[list[float]]] = {"unbiased": [], "biased": []}
        ones, others = (
            [own.summed(processes) for own in part] for part in (self.ones, self.others)
        )
        for mine, row in zip(ones, self.pairs, strict=True):
            pairs = [pair.summed(processes) for pair in row]
            for name, values in found.items():
                of = attrgetter(name)
                values.append([
                    ratio(of(pair)(n), (of(mine)(n), of(own)(n)), eps)
                    for pair, own in zip(pairs, others, strict=True)
                ])  # fmt: skip
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def cka(x: Tensor, y: Tensor, eps: float = 0.0) -> tuple[float, float]:
    """Return linear CKA of features (n, D) and (n, D'): with the unbiased HSIC, and the biased."""
    sums = LinearCKA(1, 1)
    sums.add([x], [y])
    values = sums.values(eps=eps)
    return values["unbiased"].item(), values["biased"].item()


@torch.no_grad()
def nearest(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return each row's k nearest others by inner product: indices (n, k), and the products.

    Only a block of rows of the (n, n) matrix is held at a time.
    """
    check_rows(len(features), k)
    indices, products = [], []
    for start in range(0, len(features), ROWS):
        rows = features[start : start + ROWS] @ features.T
        own = torch.arange(len(rows), device=rows.device)
        rows[own, start + own] = float("-inf")
        top = rows.topk(k, dim=1)
        indices.append(top.indices)
        products.append(top.values)
    return torch.cat(indices), torch.cat(products)


def check_rows(n: int, k: int) -> None:
    """Raise `ValueError` unless each of n rows has k others, and pairs of n can be compared."""
    if not 1 <= k < n:
        raise ValueError(f"{k} neighbours of {n:,} rows of features: there must be more rows")
    if n > MOST_ROWS:
        raise ValueError(
            f"{n:,} rows of features: neighbours are looked for among {MOST_ROWS:,} at most"
        )


@dataclass(frozen=True)
class Neighbours:
    """A set of features (n, D) and the nearest neighbours of each, found once."""

    features: Tensor
    indices: Tensor
    products: Tensor

    @classmethod
    def of(cls, features: Tensor, k: int) -> "Neighbours":
        return cls(features, *nearest(features, k))

    @property
    def k(self) -> int:
        return self.indices.shape[1]


def shared(a: Neighbours, b: Neighbours) -> Tensor:
    """Return which neighbours in `a` are also neighbours in `b`, (n, k) of bool."""
    found = []
    for start in range(0, len(a.indices), ROWS):
        mine, theirs = a.indices[start : start + ROWS], b.indices[start : start + ROWS]
        found.append((mine[:, :, None] == theirs[:, None, :]).any(dim=2))
    return torch.cat(found)


def mutual_knn(a: Neighbours, b: Neighbours) -> float:
    """Return the share of neighbours that two sets have in common."""
    return shared(a, b).double().mean().item()


def cknna(a: Neighbours, b: Neighbours, eps: float = 0.0) -> float:
    """Return CKNNA of two sets of features, whose rows have length 1."""
    return ratio(masked_hsic(a, b), (masked_hsic(a, a), masked_hsic(b, b)), eps)


def masked_hsic(a: Neighbours, b: Neighbours) -> float:
    """Return the unbiased HSIC of both sets' products at their common neighbours, 0 elsewhere."""
    n = len(a.indices)
    chosen = shared(a, b)
    row = torch.arange(n, device=chosen.device)[:, None].expand_as(chosen)[chosen]
    column = a.indices[chosen]
    first = a.products[chosen].double()
    second = inner_products(b.features, row, column)
    # tr(K L): entries of K at (i, j) times those of L at (j, i), where both have one
    places, turned = row * n + column, column * n + row
    order = turned.argsort()
    found = torch.searchsorted(turned, places, sorter=order).clamp(max=max(len(order) - 1, 0))
    partner = order[found] if len(order) else order
    met = turned[partner] == places
    product = (first * second[partner] * met).sum().item()
    into = torch.zeros(n, dtype=torch.float64, device=row.device).index_add_(0, column, first)
    out = torch.zeros(n, dtype=torch.float64, device=row.device).index_add_(0, row, second)
    return hsic(product, (first.sum().item(), second.sum().item()), (into @ out).item(), n)


def inner_products(features: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the inner products of pairs of rows, float64."""
    found = [
        (features[i].double() * features[j].double()).sum(dim=1)
        for i, j in zip(row.split(ROWS * 64), column.split(ROWS * 64), strict=True)
    ]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=row.device)

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

import torch
import torch.nn.functional as F
from torch import Tensor

CLAMP = 0.95  # quantile of absolute values, as in the platonic-representation authors' code
ROWS = 512  # of the matrix of similarities at a time
MOST_IMAGES = 50_000  # whose pairs are compared


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


class LinearCKA:
    """Linear CKA of one set of features with several others, from sums over batches of images.

    It keeps (D, D) matrices and nothing of the images; in float64. On several processes each one
    adds its share of the images, and `summed` adds the sums up.
    """

    def __init__(self, others: int):
        self.n = torch.zeros((), dtype=torch.float64)
        self.one: Tensor | None = None  # X'X, of the one set
        self.cross: list[Tensor] = []  # X'Y, of each of the others
        self.own: list[Tensor] = []  # Y'Y
        self.vectors: list[dict[str, Tensor]] = [{} for _ in range(1 + others)]
        self.scalars = torch.zeros(others, 3, dtype=torch.float64)  # sums of xx, yy, xx yy
        self.squares = torch.zeros(1 + others, dtype=torch.float64)  # sums of xx^2 and yy^2

    def add(self, x: Tensor, others: Sequence[Tensor]) -> None:
        """Add a batch: features x (N, D), and those of the others for the same images (N, D')."""
        x = x.double()
        lengths = x.square().sum(dim=1)  # diagonal of K
        self.n += len(x)
        self._gather(0, x, {"": None, "own": lengths})
        self.squares[0] += lengths.square().sum().cpu()
        self.one = accumulate(self.one, x.T @ x)
        for i, y in enumerate(others):
            y = y.double()
            theirs = y.square().sum(dim=1)
            self._gather(1 + i, y, {"": None, "own": theirs, "other": lengths})
            self.vectors[0][f"other{i}"] = accumulate(self.vectors[0].get(f"other{i}"), theirs @ x)
            self.squares[1 + i] += theirs.square().sum().cpu()
            sums = torch.stack([lengths.sum(), theirs.sum(), (lengths * theirs).sum()])
            self.scalars[i] += sums.cpu()
            if len(self.cross) == i:
                self.cross.append(x.T @ y)
                self.own.append(y.T @ y)
            else:
                self.cross[i] += x.T @ y
                self.own[i] += y.T @ y

    def _gather(self, i: int, z: Tensor, weights: dict[str, Tensor | None]) -> None:
        for name, weight in weights.items():
            added = z.sum(dim=0) if weight is None else weight @ z
            self.vectors[i][name] = accumulate(self.vectors[i].get(name), added)

    def summed(self, processes) -> "LinearCKA":
        """Return the sums over all processes; a collective."""
        assert self.one is not None  # every process has images
        total = LinearCKA(len(self.cross))
        total.n, total.one = processes.sum(self.n), processes.sum(self.one)
        total.cross = [processes.sum(matrix) for matrix in self.cross]
        total.own = [processes.sum(matrix) for matrix in self.own]
        total.vectors = [
            {name: processes.sum(vector) for name, vector in sorted(vectors.items())}
            for vectors in self.vectors
        ]
        total.scalars = processes.sum(self.scalars)
        total.squares = processes.sum(self.squares)
        return total

    def values(self, eps: float = 0.0) -> tuple[list[float], list[float]]:
        """Return CKA with the unbiased HSIC, of each of the others, and with the biased one."""
        n = int(self.n)
        if n < 4:
            raise ValueError(f"{n} images, CKA needs 4")
        one = self.one
        assert one is not None
        mine = self.vectors[0]
        unbiased, biased = [], []
        first = PairSums(one, mine[""], mine[""], mine["own"], mine["own"])
        for i, (cross, own) in enumerate(zip(self.cross, self.own, strict=True)):
            theirs = self.vectors[1 + i]
            k, length, both = self.scalars[i].tolist()
            squares = self.squares[0].item(), self.squares[1 + i].item()
            pair = PairSums(cross, mine[""], theirs[""], mine[f"other{i}"], theirs["other"])
            second = PairSums(own, theirs[""], theirs[""], theirs["own"], theirs["own"])
            parts = (pair, (k, length, both)), (first, (k, k, squares[0])), (
                second, (length, length, squares[1])
            )  # fmt: skip
            u = [sums.unbiased(n, *diagonals) for sums, diagonals in parts]
            b = [sums.biased(n) for sums, _ in parts]
            unbiased.append(ratio(u[0], (u[1], u[2]), eps))
            biased.append(ratio(b[0], (b[1], b[2]), eps))
        return unbiased, biased


@dataclass(frozen=True)
class PairSums:
    """Sums over the images of two sets of features x and y.

    Args:
        cross: of x y', (D, D').
        x, y: of x and of y.
        x_weighted: of x times y'y.
        y_weighted: of y times x'x.
    """

    cross: Tensor
    x: Tensor
    y: Tensor
    x_weighted: Tensor
    y_weighted: Tensor

    def biased(self, n: int) -> float:
        centred = self.cross - torch.outer(self.x, self.y) / n
        return centred.square().sum().item()

    def unbiased(self, n: int, k: float, length: float, both: float) -> float:
        """Return the unbiased HSIC; `k`, `length`, `both`: sums of x'x, of y'y, of x'x y'y."""
        product = self.cross.square().sum().item() - both
        sums = self.x.square().sum().item() - k, self.y.square().sum().item() - length
        # the sum over rows of (x . sum of x - x'x)(y . sum of y - y'y)
        rows = (self.x @ self.cross @ self.y - self.x @ self.x_weighted).item()
        rows += both - (self.y @ self.y_weighted).item()
        return hsic(product, sums, rows, n)


def accumulate(total: Tensor | None, added: Tensor) -> Tensor:
    return added if total is None else total + added


def cka(x: Tensor, y: Tensor, eps: float = 0.0) -> tuple[float, float]:
    """Return linear CKA of features (n, D) and (n, D'): with the unbiased HSIC, and the biased."""
    sums = LinearCKA(1)
    sums.add(x, [y])
    unbiased, biased = sums.values(eps)
    return unbiased[0], biased[0]


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
    """Raise `ValueError` unless each of n images has k others, and pairs of n can be compared."""
    if not 1 <= k < n:
        raise ValueError(f"{k} neighbours of {n} images: it must be fewer than there are images")
    if n > MOST_IMAGES:
        raise ValueError(
            f"{n:,} images: neighbours are looked for among {MOST_IMAGES:,} at most; give fewer"
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

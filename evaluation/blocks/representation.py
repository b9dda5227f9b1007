"""What the blocks of a network know: a class probe, effective rank and similarity of each block.

Of the tokens z (N, T, D) that each block gives at time t of x_t = alpha_t x_1 + sigma_t x_0:

    accuracy         of a linear classifier of the tokens' mean, on images that it was not fitted to
                     (linear probes: Alain & Bengio, arXiv 1610.01644)
    effective rank   exp(H(p)), p the shares of the centred tokens' singular values, H their entropy
                     (Roy & Vetterli, EUSIPCO 2007)
    similarity       mean cosine of the tokens of two blocks at the same place

The network gets the null label, so that a probe reads the class off the image: given the label, it
would read back the label. The network is not changed. Sums are float64 and their size depends on
the width of the network, not on the number of images.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from evaluation.moments import Moments
from layersync.capture import BlockRecorder
from layersync.outputs import TokenReader

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # the middles of fifths of [0, 1]: their mean is one over t
RIDGES = torch.logspace(-4, 2, 25, dtype=torch.float64)  # tried, times the number of samples
CHUNK = 2**23  # float64 numbers in the working memory of a similarity, 64 MB

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class BlockReport:
    """What `probe_blocks` found, float64 on the CPU.

    Args:
        times: K times.
        classes: number of classes that the probe tells apart.
        correct: (K, depth, N), 1 where a held-out image's class was found, else 0.
        effective_rank: (K, depth), of the tokens of the images that the probe was fitted to.
        similarity: (K, depth, depth), of the same tokens.
    """

    times: tuple[float, ...]
    classes: int
    correct: Tensor
    effective_rank: Tensor
    similarity: Tensor

    @property
    def depth(self) -> int:
        return self.correct.shape[1]

    @property
    def accuracy(self) -> Tensor:
        """(K, depth), in [0, 1]; 1 / classes is chance."""
        return self.correct.mean(dim=-1)


class RidgeProbe:
    """A linear classifier: least squares on one-hot labels, in closed form.

    Features are standardised. The ridge is the one of `RIDGES` with the least generalised
    cross-validation error (Golub, Heath & Wahba, 1979), so there is nothing to tune and nothing
    random. Only sums are kept: D^2 + K D numbers.

    Args:
        dimensions: D.
        classes: K.
        device: where the sums are kept.
    """

    def __init__(self, dimensions: int, classes: int, device: torch.device | str = "cpu"):
        self.moments = Moments(dimensions, device)
        self.sums = torch.zeros(classes, dimensions, dtype=torch.float64, device=device)
        self.counts = torch.zeros(classes, dtype=torch.float64, device=device)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch (N, D) with labels (N,) in 0..K-1."""
        self.moments.add(features)
        # a product, because index_add_ adds in any order on a GPU
        chosen = F.one_hot(labels, len(self.counts)).to(self.sums)  # (N, K)
        self.sums += chosen.T @ features.to(self.sums)
        self.counts += chosen.sum(dim=0)

    def fit(self) -> tuple[Tensor, Tensor]:
        """Weights (D, K) and offsets (K,): the class of x is the largest of x @ weights + offsets.

        NaN when features were not finite.
        """
        count, mean = self.moments.count, self.moments.mean
        scale = (self.moments.squares.diag() / count).sqrt()
        scale = torch.where(scale > 0, scale, 1)  # a constant feature tells nothing, and stays 0
        gram = self.moments.squares / scale / scale[:, None]
        cross = (self.sums - self.counts[:, None] * mean).T / scale[:, None]  # (D, K)
        if not gram.isfinite().all():
            return torch.full_like(cross, math.nan), torch.full_like(self.counts, math.nan)
        values, vectors = torch.linalg.eigh(gram)
        values, cross = values.clamp(min=0), vectors.T @ cross
        total = count - self.counts.square().sum() / count  # of the centred labels' squares
        ridge = best_ridge(values, cross.square().sum(dim=1), total, count)
        weights = vectors @ (cross / (values + ridge)[:, None]) / scale[:, None]
        return weights, self.counts / count - mean @ weights


def best_ridge(values: Tensor, power: Tensor, total: Tensor, count: int) -> Tensor:
    """The ridge, of `RIDGES` times `count`, with the least generalised cross-validation error.

    Args:
        values: (D,), eigenvalues of X'X.
        power: (D,), the squares of U'X'Y summed over classes, U the eigenvectors.
        total: the sum of the squares of Y.
        count: rows of X and Y, both centred.
    """
    ridges = RIDGES.to(values.device)[:, None] * count
    freedom = 1 + (values / (values + ridges)).sum(dim=1)  # 1: the offset
    explained = power * (values + 2 * ridges) / (values + ridges) ** 2
    error = (total - explained.sum(dim=1)).clamp(min=0) / (1 - freedom / count) ** 2
    return ridges[error.argmin(), 0]


def linear_probe(
    features: Tensor, labels: Tensor, held_out_features: Tensor, held_out_labels: Tensor
) -> float:
    """Accuracy in [0, 1] on held-out features (M, D) of a `RidgeProbe` of features (N, D)."""
    classes = 1 + int(max(labels.max(), held_out_labels.max()))
    probe = RidgeProbe(features.shape[1], classes, features.device)
    probe.add(features, labels)
    return found(probe.fit(), held_out_features, held_out_labels).mean().item()


def found(classifier: tuple[Tensor, Tensor], features: Tensor, labels: Tensor) -> Tensor:
    """(N,) float64: 1 where the classifier is right, 0 where it is wrong, NaN if it has NaN."""
    weights, offsets = classifier
    scores = features.to(weights) @ weights + offsets  # (N, K)
    right = (scores.argmax(dim=1) == labels).double()
    return torch.where(scores.isfinite().all(dim=1), right, math.nan)


def effective_rank(covariance: Tensor) -> float:
    """Of centred features with this covariance (D, D): from 1 (one direction) to D (all alike).

    The singular values of the features are the roots of the covariance's eigenvalues, up to a
    factor. Features that do not vary at all have 0; NaN if the covariance is not finite.
    """
    if not covariance.isfinite().all():
        return math.nan
    singular = torch.linalg.eigvalsh(covariance.double()).clamp(min=0).sqrt()
    total = singular.sum()
    return torch.special.entr(singular / total).sum().exp().item() if total > 0 else 0.0


def block_similarity(tokens: Sequence[Tensor]) -> Tensor:
    """Mean cosine over samples and tokens of each two blocks, (depth, depth), float64.

    Args:
        tokens: (N, T, D) of each block.
    """
    depth, (samples, count, width) = len(tokens), tokens[0].shape
    total = torch.zeros(depth, depth, dtype=torch.float64, device=tokens[0].device)
    at_once = max(1, CHUNK // (depth * count * width))
    for part in zip(*(block.split(at_once) for block in tokens), strict=True):
        unit = F.normalize(torch.stack(part).double(), dim=-1).flatten(1)  # (depth, n * T * D)
        total += unit @ unit.T
    return total / (samples * count)


@torch.no_grad()
def probe_blocks(
    model,
    blocks: Sequence[nn.Module],
    fit: Sequence[Batch],
    held_out: Sequence[Batch],
    classes: int,
    path,
    times: Sequence[float] = TIMES,
    progress: bool = False,
) -> BlockReport:
    """Look into every block at each of `times`.

    Args:
        model: called as model(x_t, t, y), with a `null_label`; a SiT in eval mode.
        blocks: whose outputs are looked at, as in `model.blocks`.
        fit, held_out: batches (x_1 (N, ...), noise x_0 like it, labels (N,) in 0..classes-1), on
            any device; the probe is fitted to the ones and judged by the others.
        path: the interpolant, `transport.path`.
        progress: show a bar.

    The largest sums are 2 depth D^2 float64 numbers, and the tokens of all blocks for one batch.
    Raises `ValueError` if the model has no null label.
    """
    at = [BlocksAt(model, blocks, classes, path, t) for t in times]
    passes = len(times) * (len(fit) + len(held_out))
    bar = tqdm(total=passes, desc="blocks", unit="batch", disable=not progress)

    def shown(batches: Iterable[Batch]):
        for batch in batches:
            yield batch
            bar.update()

    with bar:
        rows = [one.look(shown(fit), shown(held_out)) for one in at]
    columns = (torch.stack(column).cpu() for column in zip(*rows, strict=True))
    return BlockReport(tuple(times), classes, *columns)


class BlocksAt:
    """The statistics of every block at one time."""

    def __init__(self, model, blocks, classes: int, path, time: float):
        self.model, self.path, self.time, self.classes = model, path, time, classes
        self.null_label = model.null_label
        self.recorder = BlockRecorder(dict(enumerate(blocks)))
        self.device = next(blocks[0].parameters()).device

    def look(self, fit: Iterable[Batch], held_out: Iterable[Batch]) -> tuple[Tensor, ...]:
        """`correct`, `effective_rank` and `similarity` of a `BlockReport`, at this time."""
        probes, moments, similarity, count = [], [], 0, 0
        for batch in fit:
            tokens, labels = self.tokens(batch)
            if not probes:
                widths = [block.shape[-1] for block in tokens]
                probes = [RidgeProbe(width, self.classes, self.device) for width in widths]
                moments = [Moments(width, self.device) for width in widths]
            for block, probe, moment in zip(tokens, probes, moments, strict=True):
                probe.add(block.mean(dim=1), labels)
                moment.add(block.flatten(0, 1))
            similarity = similarity + len(labels) * block_similarity(tokens)
            count += len(labels)
        ranks = [effective_rank(moment.squares) for moment in moments]
        classifiers = [probe.fit() for probe in probes]
        correct = []
        for batch in held_out:
            tokens, labels = self.tokens(batch)
            pairs = zip(classifiers, tokens, strict=True)
            correct.append(torch.stack([found(c, z.mean(dim=1), labels) for c, z in pairs]))
        ranks = torch.tensor(ranks, dtype=torch.float64)
        return torch.cat(correct, dim=1), ranks, similarity / count

    def tokens(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """The tokens (N, T, D) of every block in one pass without a label, and the labels (N,)."""
        x_1, x_0, labels = (tensor.to(self.device) for tensor in batch)
        t = torch.full((len(x_1),), self.time, device=self.device)
        with self.recorder.recording():
            self.model(self.path.x_t(t, x_0, x_1), t, torch.full_like(labels, self.null_label))
        outputs, read = self.recorder.take(), TokenReader().tokens
        return [read(outputs[k][0]).float() for k in range(len(outputs))], labels

"""Choice of a pair of blocks to align: the paper's rule, and a ranking by a `BlockReport`.

The rule (arXiv 2510.12581, Sec. 3.4) keeps the teacher out of the last 20 % of blocks, the student
out of the first few, and both apart. The paper gives no other numbers but a gap of 8 for 28 blocks;
here the first few are an eighth of the blocks, and the gap is 2 / 7 of them. All published pairs
pass.

The ranking is this project's reading of the rule's aim, a teacher that knows more than its student:
pairs are ordered by how much better a linear probe predicts the class from the teacher's tokens.
Differences within the noise of the held-out images do not count; among such pairs, the one nearest
to `layersync.suggest_pair` comes first. No training run has tested the order.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from evaluation.blocks.probes import BlockReport
from layersync import suggest_pair
from layersync.pairs import Pair

ERRORS = 2.0  # differences within this many standard errors are noise
ALIKE = 0.95  # mean cosine above which little is left to align


@dataclass(frozen=True)
class Rule:
    """The first student, the last teacher and the least gap for a number of blocks."""

    first_student: int
    last_teacher: int
    gap: int

    @classmethod
    def of(cls, depth: int) -> "Rule":
        return cls(math.ceil(depth / 8) + 1, depth * 4 // 5, max(1, depth * 2 // 7))

    def pairs(self) -> list[Pair]:
        students = range(self.first_student, self.last_teacher)
        return [(s, t) for s in students for t in range(s + self.gap, self.last_teacher + 1)]


def allowed_pairs(depth: int) -> list[Pair]:
    """Return the (student, teacher) pairs that the rule allows; raise `ValueError` if none."""
    pairs = Rule.of(depth).pairs()
    if not pairs:
        raise ValueError(
            f"the network has {depth} blocks, too few for the rule: without the first and the last "
            f"20 % there is no room for a pair; choose one yourself, teacher below {depth}"
        )
    return pairs


@dataclass(frozen=True)
class Candidate:
    """A pair and its numbers, each a mean over the report's times.

    Args:
        gain: the teacher's probe accuracy minus the student's.
        error: standard error of the gain, over held-out images.
        tied: whether the best pair's gain is larger only within the noise.
        similarity: mean cosine of the two blocks' tokens.
        ranks: effective ranks of student and teacher.
    """

    pair: Pair
    gain: float
    error: float
    tied: bool
    similarity: float
    ranks: tuple[float, float]

    def reasons(self) -> list[str]:
        """Return the reasons for and against the pair, in words."""
        (student, teacher), (low, high) = self.pair, self.ranks
        change = f"{100 * abs(self.gain):.1f} points (+- {100 * self.error:.1f})"
        better = "better" if self.gain >= 0 else "worse"
        words = [
            f"a linear probe reads the class {change} {better} off {teacher} than off {student}"
        ]
        if self.gain <= ERRORS * self.error:
            words.append("that may be noise: train longer, or use more --probe-samples")
        alike = f"their tokens' cosine is {self.similarity:.2f}"
        words.append(f"{alike}: little is left to align" * (self.similarity > ALIKE) or alike)
        ranks = f"effective rank {low:.1f} -> {high:.1f}"
        falls = ": the teacher's is lower, so watch the student's for collapse" * (high < low)
        return [*words, ranks + falls]


def rank_pairs(report: BlockReport) -> list[Candidate]:
    """Return all pairs that the rule allows, the proposal first; see the module's docstring.

    Raises `ValueError` when the rule allows none, or when the report's numbers are not finite.
    """
    pairs = allowed_pairs(report.depth)
    for name in ("correct", "effective_rank", "similarity"):
        if not getattr(report, name).isfinite().all():
            raise ValueError("the features of the network are not finite: use another checkpoint")
    correct = report.correct.mean(dim=0)  # (depth, N)
    similarity, ranks = report.similarity.mean(dim=0), report.effective_rank.mean(dim=0)
    gains = {(s, t): correct[t - 1] - correct[s - 1] for s, t in pairs}  # (N,) each
    best = max(pairs, key=lambda pair: gains[pair].mean().item())
    floor = min(0.0, gains[best].mean().item())  # a worse teacher does not tie with a better one
    candidates = [
        Candidate(
            (s, t),
            gains[s, t].mean().item(),
            standard_error(gains[s, t]),
            gains[s, t].mean().item() >= floor and within_noise(gains[best] - gains[s, t]),
            similarity[s - 1, t - 1].item(),
            (ranks[s - 1].item(), ranks[t - 1].item()),
        )
        for s, t in pairs
    ]

    def order(candidate: Candidate):
        if candidate.tied:
            return 0, distance(candidate.pair, report.depth), -candidate.gain
        return 1, -candidate.gain, 0

    return sorted(candidates, key=order)


def reasons(candidates: list[Candidate]) -> list[str]:
    """Return why the first pair of `rank_pairs` is the first, in words."""
    tied = sum(candidate.tied for candidate in candidates)
    words = [
        f"of {tied} pairs whose gains differ by no more than noise, it is the nearest to the "
        f"usual one for so many blocks"
    ]
    return words * (tied > 1) + candidates[0].reasons()


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of (N,) values, N >= 2."""
    return (values.std() / math.sqrt(len(values))).item()


def within_noise(lead: Tensor) -> bool:
    return lead.mean().item() <= ERRORS * standard_error(lead)


def distance(pair: Pair, depth: int) -> int:
    """Return how far a pair is from the usual one of this depth, in blocks."""
    return sum(abs(n - usual) for n, usual in zip(pair, suggest_pair(depth), strict=True))

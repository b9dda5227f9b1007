"""Points of a study of layer pairs: (student, teacher) x lambda x seed, and vanilla by seed."""

import math
from dataclasses import dataclass

from runtime.flags import require
from sweeps.grid_values import check_values, exact

Pair = tuple[int, int]  # (student, teacher), counted from 1


@dataclass(frozen=True)
class PairGrid:
    """The pairs, weights and seeds of a study."""

    pairs: str = "all"
    """"[(2,5),(3,6)]", or "all": every pair of the model that the three flags below leave"""
    min_gap: int = 1
    """with all: least distance of teacher and student; the paper has 8 for 28 blocks"""
    exclude_first: int = 0
    """with all: no student among this many first blocks"""
    exclude_last: float = 0.0
    """with all: no teacher in this last part of the model; the paper says about 0.2"""
    lambdas: tuple[float, ...] = ()
    """weights of the regulariser; the paper's for the model unless given"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """training seeds, each with a vanilla run of its own; intervals need two or more"""


@dataclass(frozen=True)
class PairPoint:
    """One training run: a pair with its weight, or vanilla."""

    pair: Pair | None
    weight: float
    seed: int

    @property
    def variant(self) -> str:
        """Return the point without its seed, which is what the report compares."""
        if self.pair is None:
            return "vanilla"
        return f"{self.pair[0]}-{self.pair[1]}-lambda{exact(self.weight)}"

    @property
    def name(self) -> str:
        return f"{self.variant}-seed{self.seed}"

    def settings(self) -> dict:
        return {"pair": self.pair, "lambda": self.weight, "seed": self.seed}

    @staticmethod
    def of(settings: dict) -> "PairPoint":
        pair = settings["pair"]
        return PairPoint(tuple(pair) if pair else None, settings["lambda"], settings["seed"])


def select_pairs(g: PairGrid, depth: int) -> tuple[Pair, ...]:
    """Return the pairs of a model of `depth` blocks; raise `ValueError` if none or outside."""
    from layersync.pairs import check_pairs, parse_pairs  # these import torch; --help does without

    if g.pairs.strip() != "all":
        for name, default in (("min_gap", 1), ("exclude_first", 0), ("exclude_last", 0.0)):
            if getattr(g, name) != default:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} {getattr(g, name)} has no effect without --pairs all")
        try:
            return check_pairs(parse_pairs(g.pairs), depth)
        except ValueError as error:
            raise ValueError(f"--pairs: {error}") from None
    require(g, "min_gap", g.min_gap >= 1, "at least 1")
    require(g, "exclude_first", g.exclude_first >= 0, "at least 0")
    require(g, "exclude_last", 0 <= g.exclude_last < 1, "a part of 1, as 0.2")
    last = math.floor(depth * (1 - g.exclude_last) + 1e-9)
    pairs = tuple(
        (student, teacher)
        for student in range(1 + g.exclude_first, last + 1)
        for teacher in range(student + g.min_gap, last + 1)
    )
    if not pairs:
        raise ValueError(
            f"the grid is empty: no pair of {depth} blocks has --min-gap {g.min_gap}, "
            f"--exclude-first {g.exclude_first} and --exclude-last {g.exclude_last:g}"
        )
    return pairs


def grid_points(g: PairGrid, depth: int, usual_weight: float) -> list[PairPoint]:
    """Return all points seed by seed, vanilla first in each, so that early reports make sense."""
    pairs, weights = select_pairs(g, depth), g.lambdas or (usual_weight,)
    check_values("--seeds", g.seeds, lambda seed: seed >= 0, "at least 0")
    positive = "finite and above 0; vanilla runs are made in any case"
    check_values("--lambdas", weights, lambda w: math.isfinite(w) and w > 0, positive)
    points = []
    for seed in g.seeds:
        points.append(PairPoint(None, 0.0, seed))
        points += [PairPoint(pair, weight, seed) for weight in weights for pair in pairs]
    return points

"""Points of a study against the rule written out, and grids that are refused."""

import pytest

from layersync import suggest_pair
from sweeps.pair_grid import PairGrid, PairPoint, grid_points, select_pairs
from sweeps.pair_study import loss_flags


def test_all_pairs_are_those_of_the_rule():
    pairs = select_pairs(PairGrid("all", min_gap=3, exclude_first=2, exclude_last=0.2), depth=12)
    expected = [
        (s, t) for s in range(1, 13) for t in range(1, 13) if t - s >= 3 and s > 2 and t <= 9
    ]
    assert list(pairs) == expected
    assert len(select_pairs(PairGrid("all"), depth=8)) == 8 * 7 // 2


@pytest.mark.parametrize("depth", [28, 24, 12])
def test_published_pairs_keep_the_papers_rule(depth):
    grid = PairGrid("all", min_gap=3, exclude_first=1, exclude_last=0.2)
    assert suggest_pair(depth) in select_pairs(grid, depth)


def test_every_seed_begins_with_its_vanilla_run():
    grid = PairGrid("[(2,5),(3,6)]", lambdas=(0.1, 0.3), seeds=(4, 7))
    points = grid_points(grid, 8, usual_weight=0.5)
    assert [p.name for p in points[:3]] == [
        "vanilla-seed4", "2-5-lambda0.1-seed4", "3-6-lambda0.1-seed4",
    ]  # fmt: skip
    assert len(points) == 2 * (1 + 2 * 2) == len({p.name for p in points})
    assert points[5].name == "vanilla-seed7"
    assert all(PairPoint.of(p.settings()) == p for p in points)


def test_the_models_own_weight_is_the_default():
    assert {p.weight for p in grid_points(PairGrid("[(2,5)]"), 8, 0.3)} == {0.0, 0.3}


def test_near_weights_and_large_seeds_are_told_apart():
    grid = PairGrid("[(2,5)]", lambdas=(0.3, 0.12345678, 0.12345679), seeds=(1000001, 1000002))
    points = grid_points(grid, 8, usual_weight=0.5)
    assert len({p.name for p in points}) == len(points) == 2 * 4
    assert points[1].name == "2-5-lambda0.3-seed1000001"
    for point in points[1:4]:
        assert float(loss_flags(point)[-1]) == point.weight


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (PairGrid("[(2,9)]"), r"--pairs: pair \(2, 9\): .*the model has 8 blocks"),
        (PairGrid("[(5,2)]"), r"--pairs: pair \(5, 2\): the student must be shallower"),
        (PairGrid("[]"), r"--pairs: LayerSync needs at least one"),
        (PairGrid("2-5"), r"--pairs: not a list of block pairs: '2-5'"),
        (PairGrid("all", min_gap=8), r"the grid is empty: no pair of 8 blocks has --min-gap 8"),
        (PairGrid("all", min_gap=0), r"--min-gap 0: it must be at least 1"),
        (PairGrid("all", exclude_first=-1), r"--exclude-first -1: it must be at least 0"),
        (PairGrid("all", exclude_last=20), r"--exclude-last 20: it must be a part of 1"),
        (PairGrid("[(2,5)]", min_gap=2), r"--min-gap 2 has no effect without --pairs all"),
        (PairGrid(seeds=()), r"the grid is empty: --seeds names none"),
        (PairGrid(seeds=(0, 0)), r"--seeds 0 0: one is given twice"),
        (PairGrid(seeds=(-1,)), r"--seeds -1: it must be at least 0"),
        (PairGrid(lambdas=(0.0,)), r"--lambdas 0.0: it must be finite and above 0; vanilla runs"),
        (PairGrid(lambdas=(float("nan"),)), r"--lambdas nan: it must be finite"),
        (PairGrid(lambdas=(0.1, 0.1)), r"--lambdas 0.1 0.1: one is given twice"),
    ],
)
def test_bad_grids_are_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        grid_points(grid, 8, 0.3)

"""The paper's rule against its published pairs, and the ranking of reports made by hand."""

import pytest
import torch

from evaluation.blocks.pair_ranking import Rule, allowed_pairs, rank_pairs, reasons
from evaluation.blocks.probes import BlockReport
from layersync import suggest_pair


def report(chances, images=400, depth=None, similarity=0.5, ranks=None):
    """Image i is found in a block if a fixed number of it is below the block's chance."""
    depth = depth or len(chances)
    level = (torch.arange(images) + 0.5) / images
    correct = torch.stack([(level < chance).double() for chance in chances])[None]
    ranks = torch.tensor([ranks or [10.0] * depth], dtype=torch.float64)
    return BlockReport(
        (0.5,), 10, correct, ranks, torch.full((1, depth, depth), similarity, dtype=torch.float64)
    )


@pytest.mark.parametrize("depth", [8, 12, 24, 28])
def test_the_usual_pairs_are_allowed(depth):
    assert suggest_pair(depth) in allowed_pairs(depth)


def test_the_rule_of_sit_xl():
    rule = Rule.of(28)
    assert rule == Rule(first_student=5, last_teacher=22, gap=8)
    assert min(t - s for s, t in rule.pairs()) == 8 and max(t for _, t in rule.pairs()) == 22


@pytest.mark.parametrize("depth", range(4, 60))
def test_every_allowed_pair_obeys_the_rule(depth):
    for student, teacher in allowed_pairs(depth):
        assert 1 < student < teacher <= 0.8 * depth and teacher - student >= int(depth * 2 / 7)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_too_few_blocks_are_refused(depth):
    with pytest.raises(ValueError, match=f"has {depth} blocks, too few for the rule"):
        allowed_pairs(depth)


def test_the_largest_gain_comes_first():
    chances = [0.1, 0.3, 0.5, 0.6, 0.8, 0.9, 1.0, 1.0]  # the last two are not allowed as teachers
    first, *rest = rank_pairs(report(chances))
    assert first.pair == (2, 6) and first.gain == pytest.approx(0.6)
    assert not any(candidate.tied for candidate in rest)
    assert [c.gain for c in rest] == sorted((c.gain for c in rest), reverse=True)
    assert len(rest) + 1 == len(allowed_pairs(8))
    assert reasons([first, *rest]) == first.reasons()


@pytest.mark.parametrize("depth", [8, 12, 24, 28])
def test_without_differences_the_usual_pair_is_the_first(depth):
    first, *rest = rank_pairs(report([0.5] * depth))
    assert first.pair == suggest_pair(depth) and first.tied and all(c.tied for c in rest)
    assert any("may be noise" in reason for reason in first.reasons())
    assert reasons([first, *rest])[0].startswith(f"of {len(rest) + 1} pairs whose gains differ")


def test_a_worse_teacher_is_no_tie_with_a_better_one():
    chances = [0.5, 0.5, 0.5, 0.495, 0.5, 0.5, 0.495, 0.5, 0.505, 0.5, 0.5, 0.5]
    ranked = rank_pairs(report(chances, images=200))
    assert ranked[0].pair == (4, 7) and ranked[0].gain == 0 and ranked[0].tied
    worse = [candidate for candidate in ranked if candidate.gain < 0]
    assert worse and not any(candidate.tied for candidate in worse)


def test_noise_is_a_tie_and_enough_images_are_not():
    chances = [0.5, 0.5, 0.5, 0.5, 0.51, 0.5, 0.5, 0.53, 0.5, 0.5, 0.5, 0.5]
    few, many = (rank_pairs(report(chances, images))[0] for images in (100, 100_000))
    assert few.pair == (4, 7) and many.pair[1] == 8


def test_errors_are_those_of_paired_differences():
    first = rank_pairs(report([0.1, 0.3, 0.5, 0.6, 0.8, 0.9, 1.0, 1.0], images=400))[0]
    assert first.error == pytest.approx((0.6 * 0.4 / 399) ** 0.5)


def test_reasons_warn_in_words():
    chances, ranks = [0.1, 0.3, 0.5, 0.6, 0.8, 0.9, 1.0, 1.0], [9, 9, 8, 7, 6, 5, 4, 3.0]
    words = " / ".join(rank_pairs(report(chances, similarity=0.97, ranks=ranks))[0].reasons())
    assert "reads the class 60.0 points" in words and "better off 6 than off 2" in words
    assert "cosine is 0.97: little is left to align" in words
    assert "effective rank 9.0 -> 5.0: the teacher's is lower" in words
    fine = " / ".join(rank_pairs(report(chances))[0].reasons())
    assert "cosine is 0.50" in fine and "little" not in fine and "collapse" not in fine


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        rank_pairs(report([0.5] * 8, ranks=[float("nan")] * 8))

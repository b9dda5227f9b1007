"""Pairs of block numbers: what is accepted, read from text, and suggested."""

import pytest

from layersync import check_pairs, parse_pairs, suggest_pair


@pytest.mark.parametrize("pairs", [[(1, 2)], [(1, 6)], [(5, 6)], [(2, 4), (3, 5), (2, 5)]])
def test_pairs_within_the_depth_are_kept_in_order(pairs):
    assert check_pairs(pairs, depth=6) == tuple(pairs)


def test_lists_become_tuples():
    assert check_pairs([[2, 4]], depth=6) == ((2, 4),)


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        ([], "at least one"),
        ([(3, 3)], "(3, 3)"),
        ([(2, 4), (5, 5)], "(5, 5)"),
        ([(4, 2)], "(2, 4)"),  # the pair that was meant
        ([(0, 4)], "(0, 4)"),
        ([(-1, 4)], "(-1, 4)"),
        ([(2, 7)], "6 blocks"),
        ([(2, 4), (1, 3), (2, 4)], "twice"),
        ([(2.0, 4)], "(2.0, 4)"),
        ([("2", "4")], "('2', '4')"),
        ([(True, 4)], "(True, 4)"),
        ([(2, None)], "(2, None)"),
    ],
)
def test_other_pairs_are_refused_with_their_numbers(pairs, named):
    with pytest.raises(ValueError) as error:
        check_pairs(pairs, depth=6)
    assert named in str(error.value)


@pytest.mark.parametrize("pairs", [(2, 4), [2, 4], [(1, 2, 3)], [(2,)], 8, None, "[(2, 4)]"])
def test_what_is_no_list_of_pairs_is_refused_with_its_value(pairs):
    with pytest.raises(ValueError) as error:
        check_pairs(pairs, depth=6)
    shown = pairs[0] if isinstance(pairs, tuple | list) else pairs
    assert str(pairs) in str(error.value) or str(shown) in str(error.value)


def test_equal_depths_are_refused_because_they_have_no_gradient():
    with pytest.raises(ValueError, match=r"\(8, 8\).*constant.*gradient"):
        check_pairs([(8, 8)], depth=28)


@pytest.mark.parametrize("pairs", [((4, 7),), ((4, 7), (3, 8))])
def test_text_that_python_writes_is_read_back(pairs):
    assert parse_pairs(str(list(pairs))) == pairs
    assert parse_pairs(f"  {pairs}\n") == pairs


@pytest.mark.parametrize(
    "text", ["", "4,7", "(4, 7)", "[4, 7]", "[(4, 7, 9)]", "[(4, 7)", "7", "f()", "[(4, x)]"]
)
def test_other_text_is_refused_as_it_stands(text):
    with pytest.raises(ValueError) as error:
        parse_pairs(text)
    assert repr(text) in str(error.value)


def test_text_is_not_executed():
    with pytest.raises(ValueError, match="not a list of block pairs"):
        parse_pairs("[(exit(), 1)]")


@pytest.mark.parametrize(
    ("depth", "pair"),
    [
        *((28, (8, 16)), (24, (8, 18)), (12, (4, 7))),  # published
        *((8, (2, 5)), (5, (2, 3)), (6, (2, 4)), (16, (5, 10)), (20, (6, 12)), (40, (12, 24))),
    ],
)
def test_suggestions_are_the_published_pairs_or_three_and_six_tenths(depth, pair):
    assert suggest_pair(depth) == pair


@pytest.mark.parametrize("depth", range(5, 100))
def test_a_suggestion_is_a_pair_whose_teacher_is_not_in_the_last_fifth(depth):
    student, teacher = suggest_pair(depth)
    assert check_pairs([(student, teacher)], depth) == ((student, teacher),)
    assert student > 1 and teacher <= 0.8 * depth


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_no_suggestion_without_room(depth):
    with pytest.raises(ValueError, match=str(depth)):
        suggest_pair(depth)

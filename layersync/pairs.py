"""Pairs (student, teacher) of block numbers: 1-based, student < teacher <= depth."""

import ast
import math
from collections.abc import Iterable, Sequence

Pair = tuple[int, int]

PUBLISHED_PAIRS: dict[int, Pair] = {28: (8, 16), 24: (8, 18), 12: (4, 7)}
"""By number of blocks: those of SiT-XL, L and B (arXiv 2510.12581, Sec. 4)."""


def check_pairs(pairs: Iterable[Pair], depth: int, summary: str = "") -> tuple[Pair, ...]:
    """Return `pairs` as a tuple, after checking them against a model of `depth` blocks.

    `summary` describes the blocks, for the message when a number is outside 1..depth.

    Raises `ValueError` for an empty list, a student that is not shallower than its teacher, a
    number outside 1..depth, or a pair given twice.
    """
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise ValueError(
            f"pairs: {pairs!r} is not a list of (student, teacher) pairs like [(8, 16)]; "
            f"parse_pairs reads one from text"
        )
    pairs = tuple(pairs)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"pairs {list(pairs)}: {pair!r} is not a (student, teacher) pair")
    pairs = tuple((student, teacher) for student, teacher in pairs)
    if not pairs:
        raise ValueError("LayerSync needs at least one (student, teacher) pair, got none")
    for pair in pairs:
        student, teacher = pair
        if not all(type(number) is int for number in pair):
            raise ValueError(f"pair {pair}: block numbers are integers, counted from 1")
        if student == teacher:
            raise ValueError(
                f"pair {pair}: student and teacher are the same block, so the loss is the constant "
                f"-1 without a gradient; choose a deeper teacher"
            )
        if student > teacher:
            raise ValueError(
                f"pair {pair}: the student must be shallower than its teacher; "
                f"did you mean {(teacher, student)}?"
            )
        if student < 1 or teacher > depth:
            raise ValueError(
                f"pair {pair}: LayerSync could not find layer {beyond(pair, depth)}: the model "
                f"has {depth} blocks, numbered 1 to {depth}; "
                f"1 <= student < teacher <= {depth} is needed{summary and f'. Found: {summary}'}"
            )
    if len(set(pairs)) < len(pairs):
        raise ValueError(f"pairs {list(pairs)}: a pair is given twice")
    return pairs


def check_crepa_pair(pair: Pair, depth: int, summary: str = "") -> Pair:
    """Return CREPA's `pair` after checking it against a model of `depth` blocks.

    Student and teacher may be one block, for a projector stands between them. `summary` is as in
    `check_pairs`. Raises `ValueError` for anything else.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"pair: {pair!r} is not a (student, teacher) pair like (8, 16)")
    pair = tuple(pair)  # type: ignore[assignment]  # of two: checked above
    student, teacher = pair
    if not all(type(number) is int for number in pair):
        raise ValueError(f"pair {pair}: block numbers are integers, counted from 1")
    if student > teacher:
        raise ValueError(
            f"pair {pair}: the student must not be deeper than its teacher; "
            f"did you mean {(teacher, student)}?"
        )
    if student < 1 or teacher > depth:
        raise ValueError(
            f"pair {pair}: CREPA could not find layer {beyond(pair, depth)}: the model has {depth} "
            f"blocks, numbered 1 to {depth}{summary and f'. Found: {summary}'}"
        )
    return pair


def beyond(pair: Pair, depth: int) -> int:
    """Return the first number of a pair that is outside 1..depth."""
    return next(number for number in pair if not 1 <= number <= depth)


def check_weights(weights: Iterable[float], pairs: Sequence[Pair]) -> tuple[float, ...]:
    """Return `weights` as a tuple of one positive number for each pair; `ValueError` otherwise."""
    if isinstance(weights, str) or not isinstance(weights, Iterable):
        raise ValueError(f"weights: {weights!r} is not a list with one number for each pair")
    weights = tuple(weights)
    if len(weights) != len(pairs):
        raise ValueError(
            f"weights {list(weights)}: {len(weights)} for {len(pairs)} pairs {list(pairs)}; "
            f"give one for each pair, or none for their mean"
        )
    for weight, pair in zip(weights, pairs, strict=True):
        if not is_positive(weight):
            raise ValueError(
                f"weight {weight!r} of pair {pair}: must be a finite number above 0; "
                f"leave out a pair that is not wanted"
            )
    return weights


def is_positive(number) -> bool:
    """Return whether this is a finite int or float above 0 (a bool is neither)."""
    return type(number) in (int, float) and math.isfinite(number) and number > 0


def parse_pairs(text: str) -> tuple[Pair, ...]:
    """Read a list of pairs written as Python writes it: "[(4, 7), (3, 8)]".

    Raises `ValueError` when `text` is anything else.
    """
    try:
        pairs = ast.literal_eval(text.strip())
        return tuple((student, teacher) for student, teacher in pairs)
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(f'not a list of block pairs: {text!r}; write "[(4, 7), (3, 8)]"') from None


def suggest_pair(depth: int) -> Pair:
    """Return a first choice of pair for a model of `depth` >= 5 blocks.

    Where the paper publishes a pair for that many blocks, it is that one. Elsewhere the student
    stands at three tenths of the depth and the teacher at six: clear of the first blocks and of
    the last 20 %, as Sec. 3.4 of the paper asks.

    Raises `ValueError` for fewer blocks.
    """
    if depth < 5:
        raise ValueError(
            f"a model of {depth} blocks is too shallow for a rule, which needs 5; choose the pair"
        )
    return PUBLISHED_PAIRS.get(depth, (round(0.3 * depth), round(0.6 * depth)))

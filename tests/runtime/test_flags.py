"""Numbers that no setting means are refused where the command line is read."""

import math
from dataclasses import dataclass

import pytest

from runtime.command import parse_command
from runtime.flags import Range, check_ranges


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    range: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Settings:
    steps: int | None = None
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--inner.rate nan", "--rate nan: it must be a finite number"),
        ("--inner.range 0 inf", "--range inf: it must be a finite number"),
        (f"--steps {2**63}", f"--steps {2**63}: it must be a number of 64 bits"),
        (f"--steps -{10**30}", "--steps -1"),
    ],
)
def test_numbers_that_nothing_means_are_refused(words, says, capsys):
    with pytest.raises(SystemExit) as refused:
        parse_command(Settings, words.split(), "command")
    assert refused.value.code == 2 and f": error: {says}" in capsys.readouterr().err


def test_other_numbers_pass():
    words = f"--steps {2**63 - 1} --inner.rate -1e300 --inner.range 0 1e-300".split()
    parsed = parse_command(Settings, words, "command")
    assert parsed == Settings(2**63 - 1, Inner(-1e300, (0.0, 1e-300)))


NUMBERS = {  # a range: what is in it, what is not and what is said of that
    Range(1, 9): ([1, 9, 2.5], {0: "at least 1", 10: "at most 9", math.nan: "at least 1"}),
    Range(0, 9, above=True): ([1e-9, 9], {0: "positive", -1: "positive", math.inf: "positive"}),
    Range(2, 9, above=True, below=True): ([2.1], {2: "more than 2", 9: "less than 9"}),
    Range(0, 1, below=True): ([0, 0.999], {1: "in [0, 1)", -0.1: "in [0, 1)"}),
    Range(1, 5, what="at least one"): ([1], {0: "at least one", 6: "at most 5"}),
}


@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
def test_ranges(numbers):
    inside, outside = NUMBERS[numbers]
    assert all(value in numbers for value in inside)
    for value, message in outside.items():
        assert value not in numbers and numbers.wanted(value) == message


@dataclass(frozen=True)
class Group:
    sizes: tuple[int, ...] = (1,)
    name: str = "x"
    given: int | None = None


@dataclass(frozen=True)
class Outer:
    inner: Group = Group()
    size: int = 1


def test_every_number_of_nested_settings_is_checked():
    ranges = dict.fromkeys(("sizes", "size", "name", "given", "other"), Range(1, 3))
    check_ranges(Outer(), ranges)
    for bad, message in {
        Outer(size=4): "--size 4: it must be at most 3",
        Outer(Group(sizes=(1, 0))): "--sizes 0: it must be at least 1",
        Outer(Group(given=9)): "--given 9: it must be at most 3",
    }.items():
        with pytest.raises(ValueError, match=message):
            check_ranges(bad, ranges)


ABSURD = ["--image-size 10000000", "--num-workers 100000", "--seed -1", "--min-free-disk 1e300"]


@dataclass(frozen=True)
class Command:
    image_size: int = 8
    num_workers: int = 0
    seed: int = 0
    min_free_disk: float = 1.0


@pytest.mark.parametrize("words", ABSURD)
def test_common_settings_have_their_range_in_every_command(words, capsys):
    with pytest.raises(SystemExit) as exit:
        parse_command(Command, words.split())
    said = capsys.readouterr().err
    assert exit.value.code == 2 and words.split()[0] in said and "it must be" in said

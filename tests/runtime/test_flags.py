"""Numbers that no setting means are refused where the command line is read."""

from dataclasses import dataclass

import pytest

from runtime.command import parse_command


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

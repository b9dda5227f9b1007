"""Switches with three positions, on the command line and from a file."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from runtime.command import parse_command
from runtime.switches import SWITCH


@dataclass(frozen=True)
class Settings:
    all_warm: Annotated[bool | None, SWITCH] = None
    """whether"""
    name: str = ""
    """of it"""
    plain: bool = False
    """a switch with two positions"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", (None, "", False)),
        ("--all-warm", (True, "", False)),
        ("--no-all-warm", (False, "", False)),
        ("--all_warm", (True, "", False)),
        ("--no_all_warm", (False, "", False)),
        ("--all-warm yes --name x", (True, "x", False)),
        ("--all-warm no", (False, "", False)),
        ("--all-warm None", (None, "", False)),
        ("--all-warm --name x", (True, "x", False)),
        ("--no-all-warm --plain", (False, "", True)),
        ("--all-warm --no-all-warm", (False, "", False)),
        ("--name no", (None, "no", False)),
    ],
)
def test_words_of_a_command_line(line, expected):
    settings = parse_command(Settings, line.split(), recorded=False)
    assert (settings.all_warm, settings.name, settings.plain) == expected


def test_another_word_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_command(Settings, ["--all-warm", "perhaps"], recorded=False)
    assert "perhaps" in capsys.readouterr().err

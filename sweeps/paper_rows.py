"""Rows of the paper's tables: recipes/NAME.toml, of which [paper] says what was published.

    rows = all_rows()                    # {name: PaperRow}, in the order of models and budgets
    rows = find_rows(["b2-*"])           # the rows that match; ValueError names the nearest ones

[train], [sample] and [evaluate] are settings of the three commands (runtime/settings_file.py); a
file without [paper] is only for others to extend. No torch here.
"""

import dataclasses
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from runtime.settings_chain import Section, named_settings, own_section, read_content

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
PAPER = Section("paper")
Summary = Literal["one", "mean", "best", "each"]
SUMMARIES = get_args(Summary)
LOSSES = ("vanilla", "dispersive", "sra", "layer_sync", "repa", "repa+layer_sync")


@dataclass(frozen=True)
class Variant:
    """One of several settings that a row tries."""

    name: str = ""
    train: tuple[str, ...] = ()
    """flags of train.py that differ from the row's"""
    sample: tuple[str, ...] = ()
    """flags of sample_ddp.py that differ"""


@dataclass(frozen=True, eq=False)
class PaperRow:
    """A row: what was published, and where its settings are. Each file is read once."""

    name: str
    path: Path
    title: str
    published: dict[str, float]
    """{metric: value} as the evaluation names metrics; empty where none was found"""
    source: str
    """where those stand"""
    published_spread: float | None = None
    """the +- that is published with it"""
    silent: tuple[str, ...] = ()
    """what the source does not say"""
    guessed: tuple[str, ...] = ()
    """settings that change the numbers, are not published and had to be chosen here"""
    curve: dict[int, float] = dataclasses.field(default_factory=dict)
    """{step: FID} of a published figure, whose checkpoints are all scored"""
    variants: tuple[Variant, ...] = (Variant(),)
    summary: Summary = "one"
    """how variants make the row's value: there is one, their mean, the best of a sweep, or none"""
    checkpoint: str | None = None
    """published weights that this row samples, instead of training"""

    @property
    def value(self) -> str:
        """Return the published FID as text: "36.19", "30.00", "12.24 +- 0.8", "-"."""
        if "fid" not in self.published:
            return "-"
        fid, spread = self.published["fid"], self.published_spread
        text = f"{fid:.2f}" if fid == int(fid) else f"{fid:g}"
        return f"{text} +- {spread:g}" if spread else text


def all_rows() -> dict[str, PaperRow]:
    """Return every row by name, by file name; `ValueError` for a file that cannot be read."""
    paths = sorted(RECIPES.glob("*.toml"))
    rows = [row for path in paths if (row := read_row(path))]
    return {row.name: row for row in rows}


def find_rows(names: Sequence[str]) -> list[PaperRow]:
    """Return the rows with these names, or that match patterns such as "b2-*".

    Raises `ValueError` with the nearest names for one that does not exist.
    """
    rows = all_rows()
    chosen: dict[str, PaperRow] = {}
    for name in names:
        name = Path(name).stem if name.endswith(".toml") else name
        matching = fnmatch.filter(rows, name)
        if not matching:
            near = get_close_matches(name, rows, n=3, cutoff=0.4)
            meant = (
                f"did you mean {' or '.join(near)}?" if near else "see scripts/reproduce.py list"
            )
            raise ValueError(f"{name}: there is no such row; {meant}")
        chosen |= {match: rows[match] for match in matching}
    return list(chosen.values())


@cache
def read_row(path: Path) -> PaperRow | None:
    """Read a recipe; return None if it has no [paper]. `ValueError` names file and key."""
    content = read_content(path, PAPER)
    content.pop("extends", None)
    facts = own_section(path, content, PAPER)
    if "paper" not in content:
        return None
    known = tuple(f.name for f in dataclasses.fields(PaperRow) if f.name not in ("name", "path"))
    given = {n: setting.value for n, setting in named_settings(path, facts, PAPER, known).items()}
    for name in ("title", "source"):
        check_kind(path, name, given.get(name), str, "a text")
    for name in ("published", "curve"):
        check_kind(path, name, given.get(name, {}), dict, "a table of numbers")
    check_kind(path, "variants", given.get("variants", []), list, "a list of tables")
    check_numbers(path, "published", given.get("published", {}))
    for name in ("silent", "guessed"):
        check_kind(path, name, given.get(name, []), list, "a list of texts")
    if given.get("summary", "one") not in SUMMARIES:
        raise ValueError(
            f"{path}: [paper] summary: {given['summary']!r} must be one of {', '.join(SUMMARIES)}"
        )
    curve = given.get("curve", {})
    check_numbers(path, "curve", curve)
    if not all(step.isdecimal() for step in curve):
        raise ValueError(f"{path}: [paper] curve: {', '.join(curve)} must be numbers of steps")
    given["curve"] = {int(step): value for step, value in curve.items()}
    given["variants"] = tuple(
        read_variant(path, variant) for variant in given.get("variants", [{"name": ""}])
    )
    for name in ("silent", "guessed"):
        given[name] = tuple(given.get(name, ()))
    return PaperRow(path.stem, path, **({"published": {}} | given))


def check_kind(path: Path, name: str, value: Any, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{path}: [paper] {name}: {value!r} must be {what}")


def check_numbers(path: Path, name: str, numbers: dict) -> None:
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{path}: [paper] {name}: {key}: {value!r} must be a number")


def read_variant(path: Path, table: Any) -> Variant:
    """Read a variant: {name = "0.1", train = "--reg-weight 0.1"}."""
    known = {field.name for field in dataclasses.fields(Variant)}
    texts = isinstance(table, dict) and all(isinstance(value, str) for value in table.values())
    if not texts or "name" not in table or set(table) - known:
        raise ValueError(
            f'{path}: [paper] variants: {table!r} must be {{name = "...", train = "--flag ...", '
            f'sample = "--flag ..."}}'
        )
    words = {key: tuple(table.get(key, "").split()) for key in ("train", "sample")}
    return Variant(table["name"], **words)

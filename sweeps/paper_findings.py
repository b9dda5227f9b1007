"""Findings of a folder of rows: the scored samples of each row, and its verdict."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeps.cells import Cell, results, state, to_do
from sweeps.metric_names import FID, PIXELS
from sweeps.paper_rows import PaperRow, find_rows
from sweeps.paper_settings import changed_settings
from sweeps.paper_verdict import Ours, Scored, ours, verdict

if TYPE_CHECKING:
    from sweeps.paper_study import PaperStudy


@dataclass(frozen=True)
class Finding:
    """A row with its results so far, of one origin: trained, or one checkpoint."""

    row: PaperRow
    origin: str
    """"" for trained rows, else the checkpoint"""
    scored: tuple[Scored, ...]
    cells: tuple[Cell, ...]
    metric: str
    changed: tuple[str, ...]
    """settings that are not the recipe's"""

    @property
    def states(self) -> list[str]:
        return [state(cell) for cell in self.cells]

    @property
    def ours(self) -> Ours | None:
        return ours(self.row, self.scored, self.metric) if self.scored else None

    @property
    def published(self) -> float | None:
        return self.row.published.get(FID)

    @property
    def difference(self) -> float | None:
        """Return ours minus the published value, where both are FIDs."""
        if self.ours is None or self.published is None or self.metric != FID:
            return None
        return self.ours.value - self.published

    @property
    def verdict(self) -> str:
        if not self.scored:
            return self.progress
        said = verdict(self.row, self.scored, self.changed, self.metric == PIXELS)
        return f"{said} ({self.progress})" if self.progress else said

    @property
    def progress(self) -> str:
        """Return what is not finished of it, empty when all is."""
        left = [cell for cell in self.cells if to_do(cell)]
        if not left:
            return ""
        failed = self.states.count("failed")
        words = f"{len(self.cells) - len(left)} of {len(self.cells)} cells finished"
        return f"{words}, {failed} failed" if failed else words


def find(study: "PaperStudy", cells: Sequence[Cell]) -> list[Finding]:
    """Return a finding for each row and origin, in the order of the rows."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        point = study.load_points([cell.settings])[0]
        groups.setdefault((point.row, point.checkpoint or ""), []).append(cell)
    metric = PIXELS if study.config.miniature else FID
    rows = {row.name: row for name, _ in groups for row in find_rows([name])}
    return [
        Finding(
            row=rows[name],
            origin=origin,
            scored=tuple(scored for cell in own for scored in scored_of(study, cell)),
            cells=tuple(own),
            metric=metric,
            changed=tuple(changed_of(study, rows[name])),
        )
        for (name, origin), own in groups.items()
    ]


def changed_of(study: "PaperStudy", row: PaperRow) -> list[str]:
    if study.config.miniature:
        return []
    return changed_settings(row, row.variants[0], study.config.added)


def scored_of(study: "PaperStudy", cell: Cell) -> list[Scored]:
    """Return the evaluated sets of samples of a cell that count as done."""
    point, scored = study.load_points([cell.settings])[0], []
    done = results(cell)
    for command in cell.commands:
        if command.name in done:
            record = json.loads(cell.path(command.outputs[0]).read_text())
            step = command.expects.get("step")
            scored.append(Scored(point.variant, point.seed, step, record))
    return scored

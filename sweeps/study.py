"""The interface of a kind of sweep, and the mechanism that plans, runs and reports all kinds.

    run_sweep(PairStudy, config, grid, pool=pool, cluster=cluster)    # -> exit code
    report_sweep(PairStudy, Path("results/sweep"))

A study defines its points, the commands of each and the report on their results. It is a class with
the methods of `Study`, in a file of its own, and a short script with its command line. Cells, their
folder, processes, SLURM and the overview are the same for all studies (sweeps/cells.py,
sweeps/sweep_folder.py, sweeps/pool.py, sweeps/slurm.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from runtime.command import usage_errors
from sweeps.cells import Cell, Command, to_do
from sweeps.command_launch import Launch
from sweeps.pool import PoolConfig
from sweeps.slurm import ClusterConfig, check_settings, work_through
from sweeps.slurm_nodes import ways_to_launch
from sweeps.sweep_folder import check_same_sweep, join_sweep, load_sweep


class Point(Protocol):
    """The place of a cell in a sweep: hashable, and equal after it was stored and loaded."""

    @property
    def name(self) -> str:
        """Return the name of the cell's folder."""

    def settings(self) -> dict:
        """Return the point as JSON, for sweep.json and cell.json."""


P = TypeVar("P", bound=Point)


class Study(Protocol[P]):
    """A kind of sweep: its commands, read and checked, and the cells of its points.

    It is made from its settings, as the command line gives them; raises `ValueError` for bad ones.

    Args:
        title: name of this kind of sweep in messages.
        flags: the command line's flag of each part of `recipe`, for messages.
        folder: everything is written in here.
    """

    title: ClassVar[str]
    flags: ClassVar[dict[str, str]]
    folder: Path

    def __init__(self, config: Any): ...

    def points(self, grid: Any) -> list[P]:
        """Return the points of a grid, each once; raise `ValueError` for a bad or empty grid."""

    def check_inputs(self) -> None:
        """Raise `ValueError` if a file that the cells read is missing."""

    def recipe(self) -> dict:
        """Return everything that sets the cells' numbers, {part: {setting: value} or value}."""

    def cell(self, point: P) -> Cell:
        """Return the cell of a point: its folder, settings and commands."""

    def cost(self, cells: Sequence[Cell], parallel: int) -> list[str]:
        """Return lines on the cost of the cells that are left."""

    def report(self, cells: Sequence[Cell]) -> list[str]:
        """Write a report on the results so far; return lines for the terminal."""

    def stored(self) -> dict:
        """Return the study as stored in sweep.json, JSON-compatible."""

    @classmethod
    def load(cls, stored: dict, folder: Path, *args: Any, **options: Any) -> "Study[P]":
        """Return the study that was stored as `stored`, now in `folder`.

        Args:
            options: options of the report, each None for the study's own.

        Raises `ValueError`, `KeyError` or `TypeError` for what another kind of study stored.
        """

    @classmethod
    def load_points(cls, cells: Sequence[dict]) -> list[P]:
        """Return the points with these settings, in the order in which they are shown."""


def run_sweep(
    kind: type[Study[P]],
    config,
    grid,
    *,
    pool: PoolConfig,
    cluster: ClusterConfig,
    dry_run: bool = False,
) -> int:
    """Run the unfinished points of a grid, then report; return the exit code.

    Bad input ends the program before anything is written.

    Args:
        config: the study's settings.
        grid: the points asked for, as `Study.points` takes them.
        dry_run: print every command that is left and what it costs, and run nothing.
    """
    with usage_errors():
        study = kind(config)
        study.check_inputs()
        points = study.points(grid)
        check_settings(pool, cluster)
        check_same_sweep(study)
        cells = [study.cell(point) for point in points]
        if dry_run:
            cost = study.cost(cells, pool.parallel)
            print(
                "\n".join(
                    [
                        *commands_left(cells, ways_to_launch(pool, cluster)[0]),
                        *([""] if cost else []),
                        *cost,
                    ]
                )
            )
            return 0
        join_sweep(study, points)
    code = work_through(cells, pool, cluster, study.folder)
    report_sweep(kind, study.folder)
    return code


def report_sweep(kind: type[Study[P]], folder: Path, **options) -> int:
    """Report the finished cells of the sweep in a folder; return the exit code."""
    with usage_errors():
        study, cells = load_sweep(kind, folder, **options)
        lines = study.report(cells)
    print("\n".join(["", *lines]))
    return 0


def commands_left(cells: Sequence[Cell], launch: Launch) -> list[str]:
    """Return the commands that must still run, as one would type them, under cells' names."""
    lines: list[str] = []
    earlier: set[Path] = set()
    for cell in cells:
        left = to_do(cell)
        lines.append(f"\n# {cell.name}{'' if left else ': finished'}")
        for command in left:
            outputs = {cell.path(name) for name in command.outputs}
            if command.shared and outputs <= earlier:
                lines.append(f"# {command.name}: as above")
                continue
            earlier |= outputs
            lines.append(launch.shown(cell.words(command)))
    return lines


def sample_and_evaluate(
    *,
    sample: Sequence,
    evaluate: Sequence,
    stem: str,
    expects: dict,
    inputs: tuple[str, ...] = (),
    keep_samples: bool = False,
    suffix: str = "",
) -> list[Command]:
    """Return the last two commands of every study, for STEM.npz and STEM.metrics.json.

    Args:
        sample: flags of sample_ddp.py with the checkpoint, and with {samples} for the .npz.
        evaluate: flags of `python -m evaluation` without samples and output.
        stem: name of the files inside the cell's folder.
        expects: values that the samples' recipe must hold.
        inputs: files inside the folder that sampling reads.
        keep_samples: whether the .npz stays when it is evaluated.
        suffix: end of the commands' names, which makes them unique in the cell: " 0000700".
    """
    samples, metrics = f"{stem}.npz", f"{stem}.metrics.json"
    words = [str(word).replace("{samples}", "{cell}/" + samples) for word in sample]
    flags = ["{cell}/" + samples, *map(str, evaluate), "--out", "{cell}/" + metrics]
    return [
        Command(f"sample{suffix}", ("sample_ddp.py", *words), inputs=inputs, outputs=(samples,)),
        Command(
            f"evaluate{suffix}",
            ("-m", "evaluation", *flags),
            inputs=(samples,),
            outputs=(metrics,),
            result=True,
            expects=expects,
            discards=() if keep_samples else (samples,),
        ),
    ]

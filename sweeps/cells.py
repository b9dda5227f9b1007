"""A cell of a sweep: commands that run one after another, in a folder of the cell's own.

    FOLDER/cell.json    settings and recipe, which commands are done, how the last one failed
    FOLDER/cell.log     what the commands printed
    FOLDER/cell.lock    held while a process works there, and by the commands it started

Words of commands contain {cell} for the folder, and inputs and outputs are paths inside it, so that
a sweep may be moved. A command counts as done when its record has the same recipe and its files are
there with the same bytes. Files that only later commands read (checkpoints, samples) may be removed
once those are done; the results (metrics) may not. A command may write for several cells, as a run
that all of them sample: it has a lock of its own, and is done when its files are there.
"""

import fcntl
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runtime.files import write_json

State = Literal["finished", "failed", "running", "waiting"]
HASHED_BYTES = 2**24  # larger files are known by their size


@dataclass(frozen=True)
class Command:
    """One program of a cell."""

    name: str
    """a name that is unique in its cell: "train", "sample 0000700" """
    words: tuple[str, ...]
    """its command line without the interpreter: a script of this project, or -m and a module"""
    inputs: tuple[str, ...] = ()
    """files inside the folder that an earlier command writes"""
    outputs: tuple[str, ...] = ()
    """files inside the folder that are there when it has succeeded"""
    result: bool = False
    """whether outputs are results: metrics files, with the `recipe` of the samples"""
    expects: dict = field(default_factory=dict)
    """values that this recipe must hold, as {"step": 700}"""
    discards: tuple[str, ...] = ()
    """files inside the folder that are removed when it has succeeded"""
    shared: str | None = None
    """lock file, as a path from the folder, of outputs that other cells want too"""
    progress: tuple[str, int] | None = None
    """a .jsonl inside the folder whose lines have a `step`, and the last step"""


@dataclass(frozen=True)
class Cell:
    """A folder, and the commands that are to run in it."""

    name: str
    folder: Path
    settings: dict
    """how it differs from the others of its sweep: {"pair": [2, 5], "lambda": 0.3, "seed": 0}"""
    recipe: dict
    """everything that determines its numbers, JSON-compatible; results of another one are stale"""
    commands: tuple[Command, ...]

    @property
    def log(self) -> Path:
        return self.folder / "cell.log"

    def path(self, name: str) -> Path:
        """Return the path of a command's file, which is elsewhere for "../../runs/a"."""
        return Path(os.path.normpath(self.folder / name))

    def words(self, command: Command) -> list[str]:
        """Return a command's words with the folder in place of {cell}."""
        return [self._filled(word) for word in command.words]

    def _filled(self, word: str) -> str:
        if word.startswith("{cell}/"):
            return str(self.path(word.removeprefix("{cell}/")))
        return word.replace("{cell}", str(self.folder))


def plain(value):
    """Return a value as JSON gives it back: tuples become lists, keys become texts."""
    return json.loads(json.dumps(value))


# --- the record


def read_record(cell: Cell) -> dict:
    """Read cell.json if it has this cell's recipe; return an empty record otherwise."""
    empty: dict = {"done": {}, "failure": None}
    try:
        record = json.loads((cell.folder / "cell.json").read_text())
        return record if record["recipe"] == plain(cell.recipe) else empty
    except (OSError, ValueError, KeyError, TypeError):
        return empty


def write_record(cell: Cell, record: dict) -> None:
    record |= {"name": cell.name, "settings": cell.settings, "recipe": cell.recipe}
    write_json(cell.folder / "cell.json", record, indent=1)


def fingerprint(path: Path) -> dict:
    size = path.stat().st_size
    if size > HASHED_BYTES:
        return {"bytes": size}
    return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def problem_with(cell: Cell, command: Command) -> str | None:
    """Return what is wrong with the files that a command should have written, else None."""
    for name in command.outputs:
        path = cell.path(name)
        if not path.is_file() and command.shared:
            return f"it ended well without writing {path}: perhaps it has gone on past that"
        if not path.is_file():
            return f"it ended well but did not write {path}"
        if not command.result:
            continue
        try:
            content = json.loads(path.read_text())
            metrics, recipe = content["metrics"], content.get("recipe") or {}
        except (ValueError, KeyError, TypeError):
            return f"{path} is no metrics file"
        if not metrics:
            return f"{path} has no metrics"
        for key, value in plain(command.expects).items():
            if recipe.get(key) != value:
                return f"{path} is of other samples: {key} {recipe.get(key)}, not {value}"
    return None


def is_done(cell: Cell, command: Command, record: dict) -> bool:
    """Return whether a command has succeeded and its files are unchanged."""
    if command.shared:
        return all(cell.path(name).is_file() for name in command.outputs)
    done = record["done"].get(command.name)
    if not done or set(done["outputs"]) != set(command.outputs) or problem_with(cell, command):
        return False
    return all(done["outputs"][n] == fingerprint(cell.folder / n) for n in command.outputs)


def to_do(cell: Cell) -> list[Command]:
    """Return the commands that must still run, in order; none when the cell is finished.

    A command that only makes files for other commands is left out unless one of those must run.
    """
    record = read_record(cell)
    needed: list[Command] = []
    wanted: set[str] = set()
    read = {name for command in cell.commands for name in command.inputs}
    for command in reversed(cell.commands):
        outputs = set(command.outputs)
        if (wanted & outputs or not read & outputs) and not is_done(cell, command, record):
            wanted |= set(command.inputs)
            needed.insert(0, command)
    return needed


def results(cell: Cell) -> dict[str, dict[str, float]]:
    """Return {name of command: metrics} of the commands that are done."""
    record, metrics = read_record(cell), {}
    for command in cell.commands:
        if command.result and is_done(cell, command, record):
            content = json.loads((cell.folder / command.outputs[0]).read_text())
            metrics[command.name] = content["metrics"]
    return metrics


def seconds(cell: Cell) -> dict[str, float]:
    """Return {name of command: seconds it took} of the commands that are done."""
    return {name: done["seconds"] for name, done in read_record(cell)["done"].items()}


def state(cell: Cell) -> State:
    """Return the state of a cell, as recorded in its folder."""
    if not to_do(cell):
        return "finished"
    if is_locked(cell):
        return "running"
    return "failed" if read_record(cell)["failure"] else "waiting"


# --- the lock


def lock(cell: Cell):
    """Lock a cell; return its open lock file, or None if another process has the lock.

    The lock belongs to the open file, so processes that inherit the file hold it too. It is free
    when all of them have closed the file or ended, in whatever way.
    """
    return lock_file(cell.folder / "cell.lock")


def lock_file(path: Path):
    """Lock a file, as `lock` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a")  # noqa: SIM115 (it stays open)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def is_locked(cell: Cell) -> bool:
    if not (cell.folder / "cell.lock").exists():
        return False
    file = lock(cell)
    if file:
        file.close()
    return file is None

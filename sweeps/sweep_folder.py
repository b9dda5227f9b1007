"""A sweep's folder: FOLDER/sweep.json holds the study and every cell that was asked for.

A later call may ask for other points in the same folder: they are added. The settings that
determine the numbers must be the same. Two calls that start at once take turns.
"""

import fcntl
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.files import write_json
from sweeps.cells import Cell, plain

if TYPE_CHECKING:  # study.py drives all this
    from sweeps.study import Point, Study

DEFAULT = "the default"  # of a setting that a recipe leaves out


def load_study(kind: type["Study"], folder: Path, **options) -> tuple["Study", list[dict]]:
    """Load the study in a folder, and the settings of all points that it was asked for.

    Args:
        options: options of its report, see `Study.load`.

    Raises `ValueError` if there is none, or one of another kind.
    """
    path = folder / "sweep.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no sweep is there (no sweep.json)")
    try:
        manifest = json.loads(path.read_text())
        study = kind.load(manifest, folder, **options)
        kind.load_points(manifest["cells"])
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: not the sweep.json of a {kind.title}") from None
    return study, manifest["cells"]


def load_sweep(kind: type["Study"], folder: Path, **options) -> tuple["Study", list[Cell]]:
    """Load the study in a folder and all of its cells; errors and options as in `load_study`."""
    study, settings = load_study(kind, folder, **options)
    return study, [study.cell(point) for point in kind.load_points(settings)]


def check_same_sweep(study: "Study") -> list[dict]:
    """Return settings of the folder's known cells; raise `ValueError` if of another sweep."""
    folder = study.folder
    if not (folder / "sweep.json").exists():
        check_free(folder)
        return []
    there, cells = load_study(type(study), folder)
    different = differences(plain(there.recipe()), plain(study.recipe()), study.flags)
    if different:
        raise ValueError(
            f"--folder {folder} holds a sweep of other settings ({'; '.join(different)}): give "
            f"another --folder"
        )
    return cells


def differences(there: dict, here: dict, flags: dict[str, str]) -> list[str]:
    """Return where recipes differ, by flag and setting; parts without settings only if alone."""
    details, whole = [], []
    for part in here:
        a, b = there.get(part, {}), here[part]
        if not isinstance(b, dict):
            whole += [f"{flags[part]}: {part} {a} there, {b} here"] if a != b else []
            continue
        details += [
            f"{flags[part]}: {key} {a.get(key, DEFAULT)} there, {b.get(key, DEFAULT)} here"
            for key in b | a
            if b.get(key) != a.get(key)
        ]
    return details or whole


def join_sweep(study: "Study", points: Sequence["Point"]) -> None:
    """Write sweep.json, or add points to it; raise `ValueError` if it is of another sweep."""
    check_same_sweep(study)
    study.folder.mkdir(parents=True, exist_ok=True)
    with open(study.folder / "sweep.lock", "a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        known = check_same_sweep(study)
        asked = [plain(point.settings()) for point in points]
        manifest = study.stored() | {"cells": known + [s for s in asked if s not in known]}
        write_json(study.folder / "sweep.json", manifest, indent=1)


def check_free(folder: Path) -> None:
    """Raise `ValueError` if the folder holds something that no sweep made."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--folder {folder} is a file: give another one")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if any(not name.startswith(("sweep.", "cells", "slurm")) for name in names):
        raise ValueError(f"--folder {folder} holds something else: give another one")

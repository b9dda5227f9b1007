"""The recipe that a set of samples carries, in the .npz and beside parts and pictures."""

import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

DAMAGED = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)
"""The exceptions that reading a damaged archive raises."""


def read_recipe(path: Path) -> dict:
    """Read the recipe of a set of samples; raise `ValueError` for any other file."""
    try:
        with np.load(path) as archive:
            recipe = json.loads(str(archive["recipe"]))
    except DAMAGED:
        recipe = None
    if not isinstance(recipe, dict):
        raise ValueError(
            f"{path} exists and is not of this program, or damaged: give another --out"
        )
    return recipe


def read_recipe_file(path: Path) -> dict:
    """Read the recipe beside parts or pictures; raise `ValueError` for a file without one."""
    try:
        recipe = json.loads(path.read_text())
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: damaged, or not a recipe of this program; remove {path.parent}")
    return recipe


def check_same_recipe(where: Path, there: dict, here: dict) -> None:
    for key, value in json.loads(json.dumps(here)).items():
        if there.get(key) != value:
            raise ValueError(
                f"{where} is of other settings ({key}: {there.get(key)} there, {value} here): "
                f"give another --out, or remove it"
            )

"""Checks of what rows are run with, before anything is written: data, weights, folder.

Every check raises a `ValueError` of one line, which names the flag and what to do.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.cells import Cell, plain
from sweeps.paper_rows import PaperRow
from sweeps.paper_settings import RowSettings

if TYPE_CHECKING:
    from sweeps.paper_points import PaperConfig, PaperGrid


def check_origin(row: PaperRow, settings: RowSettings, grid: "PaperGrid", c: "PaperConfig") -> None:
    """Refuse a row whose network has no origin, or more than one."""
    if c.miniature:
        for name in ("data_path", "checkpoint"):
            if given := getattr(grid, name):
                flag = "--data-path" if name == "data_path" else "--from-checkpoint"
                raise ValueError(f"{flag} {given}: a miniature trains its own, on the digits")
        return
    if grid.checkpoint:
        if row.curve:
            raise ValueError(
                f"{row.name}: a curve has many checkpoints, and --from-checkpoint is one: sample "
                f"it with another row"
            )
        if any(variant.train for variant in row.variants):
            raise ValueError(
                f"{row.name}: its variants are trained differently, and --from-checkpoint is one: "
                f"sample it with another row"
            )
        return
    if row.checkpoint:
        raise ValueError(
            f"{row.name}: it samples published weights, give --from-checkpoint {row.checkpoint} "
            f"(see recipes/{row.name}.toml)"
        )
    if not grid.data_path:
        raise ValueError(
            f"{row.name}: --data-path is missing, ImageNet or the latents that "
            f"scripts/cache_latents.py made of it; --from-checkpoint FILE samples weights instead"
        )
    check_data(row, settings, grid.data_path, c.repa_features)


def check_data(row: PaperRow, settings: RowSettings, data: str, features: str | None) -> None:
    """Refuse data of another resolution or number of classes than the row's."""
    folder, classes_wanted = Path(data), settings.train.num_classes
    if not folder.is_dir():
        if folder.exists() or "/" not in data or data.startswith(("/", ".", "~")):
            raise ValueError(f"--data-path {data}: no such folder")
        return  # a name on the hub
    manifest = folder / "manifest.json"
    if manifest.is_file():
        check_latents(row, settings, data, manifest)
        if "repa" in settings.train.loss_type and not features:
            raise ValueError(
                f"--data-path {data}: it holds latents, and {row.name} needs images or their "
                f"features: give --repa-features FOLDER, made by scripts/cache_features.py"
            )
        return
    if any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet")):
        return
    classes = sum(1 for path in folder.iterdir() if path.is_dir())
    if classes != classes_wanted:
        raise ValueError(
            f"--data-path {data}: {classes} folders of classes, and {row.name} trains on "
            f"{classes_wanted}: give ImageNet's folder train/"
        )


def check_latents(row: PaperRow, settings: RowSettings, data: str, manifest: Path) -> None:
    c = settings.train
    try:
        content = json.loads(manifest.read_text())
        there = {name: content[name] for name in ("image_size", "num_classes")}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"--data-path {data}: manifest.json is not of a latent cache") from None
    for name, what in (("image_size", "pixels"), ("num_classes", "classes")):
        if there[name] != getattr(c, name):
            raise ValueError(
                f"--data-path {data}: latents of {there[name]} {what}, and {row.name} has "
                f"{getattr(c, name)}"
            )


def describe_weights(row: PaperRow, settings: RowSettings, path: str) -> str:
    """Return the SHA-256 of a checkpoint's weights; `ValueError` if they are not of the row."""
    from sampling.checkpoint_settings import open_checkpoint

    trained, _ = open_checkpoint(dataclasses.replace(settings.sample, ckpt=path))
    c, there = settings.train, trained.arch
    for here, name, what in (
        (c.model, "name", "the model"),
        (c.num_classes, "num_classes", "classes"),
    ):
        if there[name] != here:
            raise ValueError(
                f"--from-checkpoint {path}: {what} {there[name]}, and {row.name} has {here}"
            )
    return trained.weights_sha256


def check_same_recipe(cell: Cell) -> None:
    """Refuse a folder whose results are of another recipe: nothing is written over them."""
    path = cell.folder / "cell.json"
    if not path.is_file():
        return
    try:
        there = json.loads(path.read_text())["recipe"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: damaged; remove {cell.folder} to start it anew") from None
    here = plain(cell.recipe)
    if there != here:
        what = "; ".join(differences(there, here)[:3])
        raise ValueError(
            f"{cell.folder} holds results of another recipe ({what}): give another --folder, or "
            f"remove it"
        )


def differences(there, here, name: str = "") -> list[str]:
    """Return where two recipes differ: "sample num_fid_samples 50000 there, 10000 here"."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        return [
            line
            for key in keys
            for line in differences(there.get(key), here.get(key), f"{name} {key}".strip())
        ]
    words = ["the default" if value is None else value for value in (there, here)]
    return [f"{name} {words[0]} there, {words[1]} here"]

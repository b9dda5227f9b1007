"""Outputs that cannot be written, or that something else is already."""

import os
import shutil
from pathlib import Path

from hostile.row import (
    CACHE,
    CKPT,
    CONVERT,
    FEATURES,
    ODE,
    PIXELS,
    REFERENCE,
    SUGGEST,
    TRAIN,
    Row,
)

# command: its words up to the output, and how the output is named
WRITERS = {
    "train": (TRAIN.replace("{here}/results", "OUT"), "results"),
    "sample": (ODE.replace("{here}/samples.npz", "OUT"), "samples.npz"),
    "score": (PIXELS.replace("{here}/a.metrics.json", "OUT"), "a.metrics.json"),
    "score line": (f"{PIXELS} --results OUT", "results.csv"),
    "reference": (REFERENCE.replace("{here}/ref.npz", "OUT"), "ref.npz"),
    "cache": (CACHE.replace("{here}/latents", "OUT"), "latents"),
    "features": (FEATURES.replace("{here}/features", "OUT"), "features"),
    "suggest": (SUGGEST.replace("{here}/pairs.json", "OUT"), "pairs.json"),
    "convert": (CONVERT.replace("{here}/weights.safetensors", "OUT"), "weights.safetensors"),
}
FOLDERS = ("train", "cache", "features")  # whose output is a folder
NO_FOLDER = r"(file|/dev/null|/dev/full) is a file, where a folder is needed; give another path"
LOCKED = r"nothing can be written in \S+locked \(Permission denied\); give a path where you may"
IS_FOLDER = (
    r"\S: it is a folder, where a file is meant; give the name|(ref|weights)\.\S+ exists: remove"
)


def below_a_file(here: Path, box: Path) -> None:
    (here / "file").write_text("a file, where a folder is meant\n")


def read_only(here: Path, box: Path) -> None:
    (here / "locked").mkdir()
    os.chmod(here / "locked", 0o555)


def make_folder(name: str):
    def prepare(here: Path, box: Path) -> None:
        (here / name).mkdir()
        (here / name / "notes.txt").write_text("somebody's\n")

    return prepare


def make_file(name: str, content: bytes):
    def prepare(here: Path, box: Path) -> None:
        (here / name).write_bytes(content)

    return prepare


def copy_of(source: str, name: str):
    def prepare(here: Path, box: Path) -> None:
        shutil.copy(box / source, here / name)

    return prepare


def output_rows() -> list[Row]:
    rows = []
    for command, (words, name) in WRITERS.items():
        folder = command in FOLDERS

        def row(what: str, path: str, says: str, prepare=None, *, to=command, words=words) -> None:
            rows.append(Row(f"{to} {what}", words.replace("OUT", path), says, prepare))

        row("below a file", f"{{here}}/file/{name}", NO_FOLDER, below_a_file)
        row("in a locked folder", f"{{here}}/locked/{name}", LOCKED, read_only)
        row("below /dev/null", f"/dev/null/{name}", NO_FOLDER)
        row("below /dev/full", f"/dev/full/{name}", NO_FOLDER)
        if folder:
            row("is a file", "{here}/file", NO_FOLDER, below_a_file)
        else:
            row("is a folder", f"{{here}}/{name}", IS_FOLDER, make_folder(name))
            row("is somebody's", f"{{here}}/{name}", name.split(".")[0], make_file(name, b"mine\n"))
    rows += [
        Row("sample out is empty", ODE, r"samples\.npz", make_file("samples.npz", b"")),
        Row("sample out is another set", ODE, r"samples\.npz", copy_of("rgb.npz", "samples.npz")),
        Row("sample beside a photo", ODE, r"samples\.png", make_file("samples.png", b"a photo")),
        Row("suggest beside a photo", SUGGEST, r"--out \S+pairs\.png: exists and is not a picture",
            make_file("pairs.png", b"a photo")),
        Row("suggest beside a picture of samples", SUGGEST, r"--out \S+pairs\.png: exists and is",
            copy_of("samples.png", "pairs.png")),
        Row("score over the samples", PIXELS.replace("{here}/a.metrics.json", "{here}/s.npz"),
            r"s\.npz", copy_of("samples.npz", "s.npz")),
        Row("score over a checkpoint", PIXELS.replace("{here}/a.metrics.json", "{here}/c.pt"),
            r"c\.pt", copy_of(CKPT.removeprefix("{box}/"), "c.pt")),
        Row("score line into another table", f"{PIXELS} --results {{here}}/t.csv", r"t\.csv",
            make_file("t.csv", b"name,grade\nAnna,1\n")),
        Row("reference over the samples", REFERENCE.replace("ref.npz", "s.npz"), r"s\.npz",
            copy_of("samples.npz", "s.npz")),
    ]  # fmt: skip
    return rows

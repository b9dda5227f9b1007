"""The files of `python -m evaluation blocks`: blocks.json with everything, blocks.csv for tables.

blocks.json is written whole after each measurement. A measurement that is there with the same
recipe is not made again, so that a killed command goes on; other measurements in it stay.
"""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.blocks.experiments import Measured, Subject
from evaluation.blocks.probed_checkpoint import versions
from evaluation.blocks.summary import mean_of
from runtime.command import RunError
from runtime.files import check_writable, write_json, write_text
from runtime.schema import read_json

JSON, CSV = "blocks.json", "blocks.csv"
COLUMNS = ("probe", "name", "headline", "mean", "model", "step", "loss_type", "data", "form",
           "times", "blocks", "seed", "weights_sha256", "date")  # fmt: skip


class BlocksRecord:
    """All measurements in a folder.

    Raises `ValueError` when the folder's blocks.json is not one of this program, or nothing can be
    written there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        for name in (JSON, CSV):
            check_writable(folder / name, f"--out {folder}")
        self.entries: list[dict] = []
        path = folder / JSON
        if not path.exists():
            return
        try:
            content = read_json(path)
            self.entries = content["measurements"]  # type: ignore[call-overload, index]
            assert all({"key", "probe", "values"} <= set(entry) for entry in self.entries)
        except (ValueError, KeyError, TypeError, AssertionError):
            raise ValueError(
                f"--out {folder}: its {JSON} is not a record of this program; give another folder"
            ) from None

    def find(self, word: str, key: str) -> list[dict]:
        """Return what was measured for a value of --probes with this key."""
        return [e for e in self.entries if e["word"] == word and e["key"] == key]

    def missing(self, words: Sequence[str], key: str) -> list[str]:
        """Return those of some words of which nothing is measured with this key."""
        return [word for word in words if not self.find(word, key)]

    def add(self, word: str, key: str, subject: Subject, recipe: dict, measurements: dict) -> None:
        """Add the measurements {probe: Measured} of a word, and write the files."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for probe, measured in measurements.items():
            entry = {
                "probe": probe,
                "word": word,
                "name": subject.name,
                "checkpoint": subject.checkpoint.describe(),
                "recipe": recipe,
                "headline": measured.headline,
                **{field.name: getattr(measured, field.name) for field in FIELDS},
                "versions": versions(),
                "date": now,
                "key": key,
            }
            self.entries.append(json.loads(json.dumps(entry)))
        write_json(self.folder / JSON, {"measurements": self.entries}, indent=1)
        write_text(self.folder / CSV, self.table())

    def table(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for entry in self.entries:
            line: dict[str, Any] = entry["checkpoint"] | entry["recipe"] | entry
            line = line | {key: " ".join(map(str, entry[key])) for key in ("times", "blocks")}
            writer.writerow(line | {"mean": f"{mean_of(entry):.6g}"})
        return text.getvalue()


FIELDS = dataclasses.fields(Measured)


def key_of(subject: Subject, recipe: dict) -> str:
    """Return what identifies a measurement of a checkpoint: a hash of all that determines it."""
    about = subject.checkpoint.describe()
    about.pop("ckpt")  # the file may be moved; its weights' hash is in it
    text = json.dumps(about | recipe, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def common_recipe(subject: Subject) -> dict:
    """Return the settings that all experiments share."""
    c, one = subject.config, subject.checkpoint
    return {
        "seed": c.seed,
        "labels": c.labels,
        "bf16": c.bf16,
        "blocks": subject.numbers,
        "image_size": one.data.image_size,
        "vae": one.codec_name,
        "path_type": one.known["path_type"],
        "prediction": one.known["prediction"],
        "samples": c.samples,
        "val_samples": c.val_samples,
        "device": one.device.type,
    }


def check_finite_numbers(measurements: dict[str, Measured], name: str) -> None:
    """Raise `RunError` where a headline is not finite: the network's features are not."""
    for measured in measurements.values():
        rows = measured.values[measured.headline]
        if not all(abs(value) < float("inf") for row in rows for value in row):
            raise RunError(
                f"{name}: numbers of its blocks are not finite: look at the weights, and leave "
                f"--bf16 out if it is given"
            )

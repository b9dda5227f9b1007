"""Comparisons, shapes, measurements of speed and shared folders: bad flags and altered records."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hostile.row import SHARE, Row

COMPARE = "scripts/compare.py {here}/run --out {here}/compare"
SHAPES = "scripts/make_shapes.py --out {here}/shapes --train 2 --val 2"
SPEED = "scripts/benchmark.py --parts blocks --models SiT-Ti/2:2 --out {here}/b.json"
STAGES = "scripts/benchmark_evaluation.py"


def run(settings: str | None = None, log: str | None = None):
    """Prepare run/, with the settings and the log of a good run, or others."""

    def prepare(here: Path, box: Path) -> None:
        (here / "run").mkdir()
        for name, given in (("config.json", settings), ("metrics.jsonl", log)):
            text = (box / "run" / name).read_text() if given is None else given
            (here / "run" / name).write_text(text)

    return prepare


def without(name: str):
    def prepare(here: Path, box: Path) -> None:
        run()(here, box)
        (here / "run" / name).unlink()

    return prepare


def comparison_rows() -> Iterator[Row]:
    for name in ("config.json", "metrics.jsonl"):
        yield Row(f"compare without {name}", COMPARE, rf"run: no {name} there; give the folder of",
                  without(name))  # fmt: skip
    for what, settings in {
        "cut": "{",
        "empty": "",
        "a list": "[]",
        "of a wrong type": '{"model": 3}',
        "nested too deep": "[" * 9999,
    }.items():
        yield Row(f"compare settings that are {what}", COMPARE,
                  r"config\.json: not of a training run", run(settings))  # fmt: skip
    for what, log in {"empty": "", "of texts": '"a"\n', "without steps": '{"loss": 1}\n',
                      "of text steps": '{"step": "a"}\n'}.items():  # fmt: skip
        yield Row(f"compare logs that are {what}", COMPARE,
                  r"metrics\.jsonl: nothing was logged yet", run(log=log))  # fmt: skip
    yield Row("compare logs without curves", COMPARE, "run: no number that has a curve was logged",
              run(log='{"step": 1, "other": 1.0}\n'))  # fmt: skip
    two = COMPARE.replace("run ", "run {here}/run/. ")
    yield Row("compare a run with itself", two, "a run is given twice", run())
    yield Row("compare nothing", COMPARE.replace("{here}/run", ""), "give the folder of a run")
    yield Row("compare smoothing 1", f"{COMPARE} --smoothing 1", "--smoothing 1.0: it must be in")
    yield Row("compare out is a file", COMPARE.replace("{here}/compare", "{here}/run/config.json"),
              "--out .*config.json", run())  # fmt: skip


def something(here: Path, box: Path) -> None:
    (here / "shapes").mkdir()
    (here / "shapes" / "notes.txt").write_text("mine")


def other_rows() -> Iterator[Row]:
    yield Row(
        "shapes in a full folder", SHAPES, "--out .*shapes: there is something in it", something
    )
    yield Row("shapes in a file", SHAPES, "--out .*shapes",
              lambda here, box: (here / "shapes").write_text(""))  # fmt: skip
    for flags, says in {
        "--train 0": "at least 1",
        "--val 0": "at least 1",
        "--size 4": "at least 8",
        "--size 9999": "at most 4,096",
        "--seed -1": "at least 0",
    }.items():
        yield Row(f"shapes {flags}", f"{SHAPES} {flags}", f"{flags}: it must be {says}")
    for flags, says in {
        "--models SiT-Ti/2": "--models SiT-Ti/2: write MODEL:BATCH",
        "--models SiT-Ti/2:0": "--models SiT-Ti/2:0: write MODEL:BATCH",
        "--sampling-models :4": "--sampling-models :4: write MODEL:BATCH",
        "--peer-models SiT-Ti/2:x": "--peer-models SiT-Ti/2:x: write MODEL:BATCH",
        "--parts peers": "--parts peers needs --peer FOLDER",
        "--peer {here}": "--parts peers needs --peer FOLDER",
        "--parts peers --peer {here}": "--peer .*: not a checkout of SiT, LayerSync or REPA",
        "--minutes 0": "--minutes 0: it must be positive",
        "--minutes 99999": "--minutes 99999: it must be positive",
        "--parts exchange": "--parts exchange is for several processes",
        "--parts npz --npz-images 99999999999": "--npz-images 99999999999: .* GB needed in",
    }.items():
        yield Row(f"benchmark {flags}", f"{SPEED} {flags}", says)
    yield Row("benchmark --table", f"{SPEED} --table --minutes 1e-6",
              "--table: its rows need a GPU", environment={"CUDA_VISIBLE_DEVICES": ""})  # fmt: skip
    for flags, says in {
        "--stages nope": "--stages nope: choose from",
        "--part 0": "--part 0.0: must be above 0",
        "--part 1.5": "--part 1.5: must be above 0",
    }.items():
        yield Row(f"stages {flags}", f"{STAGES} {flags}", says)


def record(metrics=None, **changes):
    """Prepare m.json, scores of the good checkpoint's samples with a recipe that was changed."""

    def prepare(here: Path, box: Path) -> None:
        with np.load(box / "samples.npz") as samples:
            recipe = json.loads(str(samples["recipe"])) | changes
        recipe = {key: value for key, value in recipe.items() if value is not None}
        content = {"metrics": metrics or {"fid": 1.0}, "recipe": recipe}
        (here / "m.json").write_text(json.dumps(content))

    return prepare


def share_rows() -> Iterator[Row]:
    metrics = f"{SHARE} --metrics {{here}}/m.json"
    origin = "does not tell which weights its samples are of"
    yield Row("share good scores", metrics, None, record())
    for what, prepare, says in (
        ("without a hash", record(weights_sha256=None), origin),
        ("with a number for a hash", record(weights_sha256=5), origin),
        ("of other weights", record(weights_sha256="0" * 64), r"of the weights 000000000000\.\.\."),
        ("without a solver", record(solver=None), r"--metrics \S*m\.json: .*solver"),
        ("with a text for a solver", record(solver="fast"), r"--metrics \S*m\.json: .*solver"),
        ("with a text for a score", record({"fid": "low"}), r"--metrics \S*m\.json: .*fid"),
    ):
        yield Row(f"share scores {what}", metrics, says, prepare)
    yield Row("share scores twice, of two weights", f"{metrics} {{here}}/none.json", r"none\.json",
              record())  # fmt: skip


def script_rows() -> list[Row]:
    return [*comparison_rows(), *other_rows(), *share_rows()]

"""The paper's rows and the folders of sweeps: data of other sizes, results of other settings."""

import json
from collections.abc import Iterator
from pathlib import Path

from hostile.row import CKPT, REPRODUCE, Row
from hostile.sweep_commands import BASE, EVALUATE, SAMPLE, guide, pairs

MANIFEST = "data/manifest.json"
RUN = "scripts/reproduce.py run {row} --folder {here}/reproduce --ref {box}/rgb.npz --dry-run"


def files(contents: dict):
    """Prepare files: {path: text, or what is written as JSON}."""

    def prepare(here: Path, box: Path) -> None:
        for name, content in contents.items():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text(content if isinstance(content, str) else json.dumps(content))

    return prepare


def paper(row: str, flags: str, says: str | None, prepare=None) -> Row:
    """A row of a full-size row of the paper, which only plans."""
    return Row(f"reproduce {row} {flags}", f"{RUN.replace('{row}', row)} {flags}", says, prepare)


SET = [
    "--global-seed 1", "--results-dir a", "--run_name=a", "--resume latest", "--data-path a",
    "--dataset-name digits", "--max-steps 3", "--epochs 3", "--config a.toml", "--ckpt a.pt",
    "--out a.npz", "--sample-dir a", "--ref a.npz", "--results a.csv",
]  # fmt: skip


def paper_rows() -> Iterator[Row]:
    """Rows of recipes: what they are given is not what they need."""
    for given in SET:
        name = given.replace("=", " ").split()[0].replace("_", "-")
        says = f"--train: leave out {name}, which scripts/reproduce.py sets"
        yield Row(f"reproduce adds {given}", REPRODUCE, says, more=(f"--train={given}",))
    for flag in ("--train", "--sample", "--evaluate"):
        yield Row(f"reproduce {flag} quotes", REPRODUCE, f"{flag}: .*check the quotes in",
                  more=(f"{flag}=--a 'open",))  # fmt: skip
    yield Row("reproduce sample scale below 1", REPRODUCE, "--sample: .*--cfg-scale 0.5",
              more=("--sample=--cfg-scale 0.5",))  # fmt: skip
    yield Row("reproduce miniature kid", REPRODUCE, "--kid: it has no effect in pixel space",
              more=("--evaluate=--kid",))  # fmt: skip
    for flags, says in {
        "--data-path {box}/images": r"--data-path \S*images: a miniature trains its own",
        f"--from-checkpoint {CKPT}": r"--from-checkpoint \S*pt: a miniature trains its own",
        "--ref {box}/rgb.npz": r"--ref \S*rgb.npz: a miniature is scored in pixel space",
        "--seeds": "the grid is empty: --seeds names none",
        "--seeds 1 1": "--seeds 1 1: one is given twice",
        f"--seeds {2**63}": f"--seeds {2**63}: it must be",
        "--hours 3": "--hours 3.0 has no effect without --cluster slurm",
    }.items():
        yield Row(f"reproduce miniature {flags}", f"{REPRODUCE} {flags}", says)
    yield Row("reproduce show nothing", "scripts/reproduce.py show", "show: name a row")
    yield Row("reproduce show unknown", "scripts/reproduce.py show b2-vanila", "did you mean")
    data = "--data-path {here}/data"
    whole = {"image_size": 256, "num_classes": 1000}
    of_another = "manifest.json is not of a latent cache"
    yield paper("b2-vanilla", "", "b2-vanilla: --data-path is missing, ImageNet or the latents")
    yield paper("sit-xl2-sde", "", "it samples published weights, give --from-checkpoint SiT-XL-2")
    yield paper("b2-vanilla", data, r"--data-path \S*data: no such folder")
    yield paper(
        "b2-vanilla", "--data-path {box}/rgb.npz", r"--data-path \S*rgb.npz: no such folder"
    )
    yield paper("b2-vanilla", "--data-path nothing", "--data-path nothing: no such folder")
    yield paper("b2-vanilla", "--data-path {box}/images", "2 folders of classes, and b2-.* on 1000")
    yield paper(
        "b2-vanilla", f"--from-checkpoint {CKPT}", r"\.pt: the model SiT-Ti/2, and b2-vanil"
    )
    yield paper("b2-vanilla", "--from-checkpoint {here}/none.pt", r"none\.pt")
    yield paper("xl2-sde-curve", f"--from-checkpoint {CKPT}", "a curve has many checkpoints")
    for row in ("b2-t-range", "b2-weights"):
        says = f"{row}: its variants are trained differently, and --from-checkpoint is one"
        yield paper(row, f"--from-checkpoint {CKPT}", says)
    yield paper("b2-vanilla", f"{data} --processes 0", "--processes-per-cell 0|--processes 0",
                files({MANIFEST: whole}))  # fmt: skip
    yield paper("b2-vanilla", f"{data} --parallel 1", None, files({MANIFEST: whole}))
    yield paper("xl2-repa", data, "it holds latents, and xl2-repa needs images or their features",
                files({MANIFEST: whole}))  # fmt: skip
    for i, (manifest, says) in enumerate((
        ("{", of_another), ("[]", of_another), ({"image_size": 256}, of_another),
        (whole | {"image_size": 512}, "latents of 512 pixels, and b2-vanilla has 256"),
        (whole | {"num_classes": 10}, "latents of 10 classes, and b2-vanilla has 1000"),
    )):  # fmt: skip
        yield paper("b2-vanilla", f"{data} --seeds {i}", says, files({MANIFEST: manifest}))
    missing = RUN.replace("{box}/rgb", "{here}/none").replace("{row}", "b2-vanilla")
    yield Row("reproduce no such reference", f"{missing} {data}", r"--ref \S*none.npz: no such fil",
              files({MANIFEST: whole}))  # fmt: skip
    cell = "reproduce/cells/b2-vanilla-seed0/cell.json"
    for what, content, says in (
        ("is cut", "{", r"cell\.json: damaged; remove \S*b2-vanilla-seed0 to start it anew"),
        ("is a list", [], r"cell\.json: damaged; remove"),
        ("has no recipe", {}, r"cell\.json: damaged; remove"),
        ("is of another recipe", {"recipe": {"seed": 1}}, "holds results of another recipe"),
    ):
        yield Row(f"reproduce: the cell's record {what}", REPRODUCE, says,
                  files({cell: content}))  # fmt: skip


STUDY = {
    "base": BASE, "sample": SAMPLE, "evaluate": EVALUATE, "metric": None, "checkpoints": "last",
    "folder": "elsewhere", "keep_samples": False,
}  # fmt: skip
NETWORK = {"model": "SiT-Ti/2", "step": 4, "weights_sha256": "0" * 64, "guidable": True}
GUIDANCE = {
    "ckpt": "a.pt", "sample": SAMPLE, "evaluate": EVALUATE, "metrics": None, "folder": "elsewhere",
    "keep_samples": False,
}  # fmt: skip
GUIDED = {"guidance": GUIDANCE, "recipe": {"ckpt": NETWORK}, "cells": []}
REPRODUCED = {
    "paper": {"ref": "a.npz", "added": {}}, "cells": [{"row": "b2-weights", "variant": "half"}],
}  # fmt: skip


def begun(content):
    """Prepare a sweep's folder with this sweep.json."""
    return files({"sweep/sweep.json": content})


def folder_rows() -> Iterator[Row]:
    """Rows of folders that hold another sweep, something else, or damage."""
    report = "scripts/sweep_layer_pairs.py report {here}/sweep"
    of_guidance = "scripts/guidance_sweep.py report {here}/sweep"
    for what, change, says in (
        (
            "base",
            {"base": BASE.replace("size 8 --max", "size 16 --max")},
            "--base: global_batch_si",
        ),
        ("sample", {"sample": SAMPLE.replace("steps 2", "steps 3")}, "--sample: .*3 there"),
        ("evaluate", {"evaluate": f"{EVALUATE} --array other"}, "--evaluate: array other there"),
        ("steps", {"checkpoints": "all"}, r"--checkpoints: steps \[2, 4\] there, \[4\] here"),
    ):
        yield pairs(f"in a sweep of other {what}", rf"holds a sweep of other settings \({says}",
                    prepare=begun({"study": STUDY | change, "cells": []}))  # fmt: skip
    yield pairs("good, in a sweep begun", None, prepare=begun({"study": STUDY, "cells": []}))
    yield guide("in a sweep of another checkpoint", "of other settings .*--ckpt: weights_sha256",
                prepare=begun(GUIDED))  # fmt: skip
    of_pairs = "not the sweep.json of a study of layer pairs"
    for what, content in {
        "is cut": "{", "is empty": "", "is a list": [], "is of guidance": GUIDED,
        "lacks a setting": {"study": {"base": BASE}, "cells": 1},
        "has one more setting": {"study": STUDY | {"more": 1}, "cells": []},
        "has no cells": {"study": STUDY}, "has a number for cells": {"study": STUDY, "cells": 3},
        "has a cell of nothing": {"study": STUDY, "cells": [{}]},
        "has a cell of text": {"study": STUDY, "cells": ["many"]},
        "has a number for a command": {"study": STUDY | {"base": 3}, "cells": []},
        "has a text for a study": {"study": "many", "cells": []},
    }.items():  # fmt: skip
        yield pairs(f"sweep.json {what}", of_pairs, prepare=begun(content))
        yield Row(f"report of pairs: sweep.json {what}", report, of_pairs, begun(content))
    yield pairs("in a folder of another program", "--folder .* holds something else: give another",
                prepare=files({"sweep/notes.txt": "mine"}))  # fmt: skip
    yield pairs(
        "in a file", "--folder .*sweep is a file: give another one", prepare=files({"sweep": ""})
    )
    good = begun({"study": STUDY, "cells": []})
    yield Row("report of pairs: none", report, "no sweep is there", None)
    for level in ("0", "1", "95", "-1"):
        says = rf"--level {level}(\.0)?: it must be between 0 and 1"
        yield Row(f"report of pairs: level {level}", f"{report} --level {level}", says, good)
    yield Row("report of pairs: metric of others", f"{report} --metric fid",
              "--metric fid: --evaluate gives pixel_frechet", good)  # fmt: skip
    yield Row("report of guidance: metrics of others", f"{of_guidance} --metrics fid pixel_recall",
              "--metrics fid: --evaluate gives pixel_frechet", begun(GUIDED))  # fmt: skip
    for what, content in {
        "is of pairs": {"study": STUDY, "cells": []},
        "lacks the checkpoint": GUIDED | {"recipe": {"ckpt": {}}},
        "has a text for a point": GUIDED | {"cells": ["many"]},
        "has a text for metrics": GUIDED | {"guidance": GUIDANCE | {"metrics": 3}},
    }.items():
        yield Row(f"report of guidance: sweep.json {what}", of_guidance,
                  "not the sweep.json of a guidance sweep", begun(content))  # fmt: skip
    yield Row("report of reproduction: of pairs", "scripts/reproduce.py report {here}/sweep",
              "not the sweep.json of a reproduction", good)  # fmt: skip
    yield Row("report of reproduction: of another variant",
              "scripts/reproduce.py report {here}/sweep",
              r"sweep: it holds b2-weights-half-seed0, and \S+ has no variant half: give another",
              begun(REPRODUCED))  # fmt: skip
    yield Row("list of reproduction: of pairs", "scripts/reproduce.py list --folder {here}/sweep",
              "not the sweep.json of a reproduction", good)  # fmt: skip


def recipe_rows() -> list[Row]:
    return [*paper_rows(), *folder_rows()]

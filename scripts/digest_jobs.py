"""Command lines whose results scripts/digests.py compares, their inputs, and readers of results.

Nothing of this project is imported: what is compared must not depend on where its modules are.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

STEPS = 20
# columns of metrics.jsonl that differ from run to run
SPEEDS = (
    "images_per_second", "images_per_second_per_device", "seconds_per_step",
    "seconds_waiting_for_data", "gpu_memory_gb", "share_of_peak",
)  # fmt: skip

TRAIN = (
    f"train.py --model SiT-Ti/2 --global-batch-size 8 --max-steps {STEPS} --log-every 1 "
    "--sample-every 0 --num-workers 0 --lr 1e-3 --ema-decay 0.9 --results-dir {out}"
)
DATA = {
    "digits": "--dataset-name digits --image-size 8 --num-classes 10 --vae none",
    "latents": "--data-path {out}/latents --image-size 16 --num-classes 2 --vae {inputs}/vae",
}
LOSSES = {
    "vanilla": "",
    "layer_sync": "{start} --encoder-depth 2 --gt-encoder-depth 5 --reg-weight 0.3",
    "multiple_sync": "{start} --multi-blocks-match [(2,5),(3,7)] --reg-weight 0.3",
    "dispersive": "--dispersive-depth 4",
    "sra": "--sra-student-depth 2 --sra-teacher-depth 5",
    "repa": "{repa}",
    "repa+layer_sync": "{start} {repa} --encoder-depth 2 --gt-encoder-depth 5 --reg-weight 0.3",
}
ENCODER = "test_vit"  # timm's, tiny
REPA = {  # latents have no images that could be encoded: their features are cached
    "digits": f"--repa-depth 2 --repa-encoder {ENCODER} "
    "--repa-encoder-weights {inputs}/encoder.pt",
    "latents": f"--repa-depth 2 --repa-encoder {ENCODER} --repa-features {{out}}/features",
}
# Fresh blocks change nothing, so LayerSync's first gradients are rounding errors, which Adam scales
# up: bits can be compared, numbers of another processor cannot. Weights of some steps have neither.
START = {
    "digits": f"--fine-tune --ckpt {{out}}/digits-vanilla/checkpoints/{STEPS:07d}.pt",
    "latents": "",
}
CACHED = "--data-path {inputs}/images --image-size 16 --num-workers 0 --batch-size 8"
SAMPLE = "--per-proc-batch-size 16 --num-fid-samples 96 --cfg-scale 1.5"
CHECKPOINT = f"--ckpt {{out}}/{{run}}/checkpoints/{STEPS:07d}.pt"
SWEEP = {
    "--base": "train.py --model SiT-Ti/2 --dataset-name digits --image-size 8 --num-classes 10 "
    "--vae none --global-batch-size 8 --max-steps 4 --log-every 1 --sample-every 0 "
    "--num-workers 0 --lr 1e-3 --ema-decay 0.5",
    "--sample": "sample_ddp.py ODE --sampling-method euler --num-sampling-steps 3 "
    "--num-fid-samples 96",
    "--evaluate": "python -m evaluation --pixels --ref {inputs}/reference.npz",
}


@dataclass(frozen=True)
class Job:
    """One command line, with {inputs} and {out} for its folders, and what it leaves there."""

    name: str
    words: tuple[str, ...]
    read: Callable[[Path], dict]
    """folder of the tree's outputs -> {row of the table: what is compared, JSON-compatible}"""
    quick: bool = False


def jobs(quick: bool = False) -> list[Job]:
    """Return all command lines in their order: later ones need files of earlier ones."""
    caches = [
        (
            "latent cache",
            f"scripts/cache_latents.py {CACHED} --vae {{inputs}}/vae --out {{out}}/latents "
            "--dtype float32 --shard-size 8",
        ),
        (
            "feature cache",
            f"scripts/cache_features.py {CACHED} --side 4 --out {{out}}/features "
            f"--encoder {ENCODER} --encoder-weights {{inputs}}/encoder.pt",
        ),
    ]
    made = [
        Job(
            name, tuple(line.split()), partial(read_cache, name, line.split("{out}/")[1].split()[0])
        )
        for name, line in caches
    ]
    made += [training(data, loss) for data in DATA for loss in LOSSES]
    for name, run, solver in [
        ("ODE", "digits-vanilla", "ODE --sampling-method heun2 --num-sampling-steps 5"),
        ("SDE", "digits-vanilla", "SDE --num-sampling-steps 8"),
        ("ODE of latents", "latents-layer_sync", "ODE --num-sampling-steps 5"),
    ]:
        out = name.replace(" ", "-") + ".npz"
        line = f"sample_ddp.py {solver} {SAMPLE} {CHECKPOINT.replace('{run}', run)}"
        words = (*line.split(), "--out", "{out}/" + out)
        made.append(Job(name, words, partial(read_samples, name, out), run.startswith("digits")))
    words = ("-m", "evaluation", "{out}/ODE.npz", "--ref", "digits")
    made.append(Job("evaluation", words, partial(read_scores, "evaluation", "ODE.metrics.json")))
    words = ("scripts/sweep_layer_pairs.py", "run", "--folder", "{out}/sweep")
    words += (*(word for pair in SWEEP.items() for word in pair), "--pairs", "[(2,5)]")
    words += ("--lambdas", "0.3", "--seeds", "0")
    cell = "sweep/cells/2-5-lambda0.3-seed0"
    made.append(Job("sweep", tuple(words), partial(read_cell, cell)))
    return [job for job in made if job.quick or not quick]


def training(data: str, loss: str) -> Job:
    run = f"{data}-{loss}"
    line = f"{TRAIN} {DATA[data]} --run-name {run} --loss-type {loss} {LOSSES[loss]}"
    words = line.replace("{repa}", REPA[data]).replace("{start}", START[data]).split()
    quick = data == "digits" and not loss.startswith("repa")
    return Job(run, tuple(words), partial(read_losses, f"losses {data} {loss}", run), quick)


# --- what commands leave


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_losses(row: str, run: str, out: Path) -> dict:
    """Read every column of metrics.jsonl, by step."""
    columns: dict[str, list] = {}
    for line in (out / run / "metrics.jsonl").read_text().splitlines():
        for name, value in json.loads(line).items():
            if name not in SPEEDS:
                columns.setdefault(name, []).append(value)
    return {row: columns}


def read_cache(row: str, folder: str, out: Path) -> dict:
    """Return digests of the arrays of a cache."""
    files = sorted((out / folder).glob("*.npy"))
    return {row: {file.name: {"sha256": sha256(file.read_bytes())} for file in files}}


def read_samples(row: str, name: str, out: Path) -> dict:
    """Return digests of the arrays of an .npz and of all its bytes, and its recipe.

    The recipe names versions, of this project too: they are not compared, and in the bytes only
    if a tree has the same ones.
    """
    import numpy as np

    with np.load(out / name) as archive:
        arrays = dict(archive)
    recipe = json.loads(str(arrays.pop("recipe")))
    images = arrays["arr_0"]
    rows: dict[str, dict[str, Any]]
    rows = {f"{row} {key}": {"sha256": sha256(value.tobytes())} for key, value in arrays.items()}
    rows[f"{row} arr_0"] |= {"mean": float(images.mean()), "std": float(images.std())}
    rows[f"{row} labels"]["values"] = arrays["labels"].tolist()
    versions = recipe.pop("versions", None)
    file = {"sha256": sha256((out / name).read_bytes()), "versions": versions}
    return rows | {f"{row} recipe": {"recipe": recipe}, f"{row} file": file}


def read_scores(row: str, name: str, out: Path) -> dict:
    return {row: json.loads((out / name).read_text())["metrics"]}


def read_cell(cell: str, out: Path) -> dict:
    losses = read_losses("sweep losses", f"{cell}/train", out)
    return losses | read_scores("sweep scores", f"{cell}/0000004.metrics.json", out)


# --- inputs, the same for both trees


def make_inputs(folder: Path) -> None:
    """Make images of two classes, an autoencoder and encoder with random weights, a reference."""
    import numpy as np
    import timm
    import torch
    from diffusers import AutoencoderKL
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(16):
        path = folder / "images" / f"class{i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(4, 0).repeat(4, 1)).save(path)
    reference = random.integers(0, 256, (96, 8, 8, 1), dtype=np.uint8)
    np.savez(folder / "reference.npz", arr_0=reference)  # no labels: no classifier is fitted
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=4,
    ).save_pretrained(folder / "vae")
    encoder = timm.create_model(ENCODER, num_classes=0)
    torch.save(encoder.state_dict(), folder / "encoder.pt")

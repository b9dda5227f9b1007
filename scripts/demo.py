"""Run the project's main job in a few minutes on two CPU cores, on scikit-learn's digits.

    make demo

Trains a tiny SiT twice, without and with LayerSync, same seed and budget, then samples and scores
both, all through the commands that ImageNet uses. It prints each command. Run again, it continues
where it was; `rm -r results/demo` starts it over.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.pixel_scores import PIXELS_ARE_NOT_FID
from runtime.png import save_grid
from sweeps.run_pictures import draw_curve, draw_picture
from sweeps.run_records import read_run

RESULTS = Path("results/demo")
RUNS = ("vanilla", "layer_sync")
STUDENT, TEACHER = 2, 5
STEPS = 700  # 50 epochs
TRAIN = (
    "--model SiT-Ti/2 --dataset-name digits --image-size 8 --num-classes 10 --vae none "
    f"--global-batch-size 128 --max-steps {STEPS} --lr 3e-3 --ema-decay 0.99 "
    f"--encoder-depth {STUDENT} --gt-encoder-depth {TEACHER} "
    f"--log-every 10 --sample-every 0 --num-workers 0 --results-dir {RESULTS} --resume latest"
)
SAMPLE = "--num-fid-samples 1000 --sampling-method heun2 --num-sampling-steps 26"
BIN = Path(os.path.relpath(sys.executable)).parent
TORCHRUN = f"{BIN}/torchrun --nproc_per_node=2"


def run(command: str) -> None:
    """Print a command so that it can be copied, then run it."""
    print(f"\n$ OMP_NUM_THREADS=1 {command}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # two processes, two cores
    code = subprocess.run(shlex.split(command), env=environment).returncode
    if code:
        sys.exit(f"demo: that command ended with exit code {code}")


def train_sample_score(name: str) -> None:
    folder = RESULTS / name
    run(f"{TORCHRUN} train.py --loss-type {name} --run-name {name} {TRAIN}")
    checkpoint = folder / "checkpoints" / f"{STEPS:07d}.pt"
    run(f"{TORCHRUN} sample_ddp.py ODE --ckpt {checkpoint} {SAMPLE} --out {folder}/samples.npz")
    run(f"{BIN}/python -m evaluation {folder}/samples.npz --ref digits")


def collect() -> dict[str, dict]:
    """Collect the scores of each run, and of the real digits, in one file."""
    files = {name: RESULTS / name / "samples.metrics.json" for name in RUNS}
    files["real digits"] = RESULTS / "real.metrics.json"
    records = {name: json.loads(path.read_text()) for name, path in files.items()}
    (RESULTS / "metrics.json").write_text(json.dumps(records, indent=2) + "\n")
    return {name: record["metrics"] for name, record in records.items()}


def print_table(metrics: dict[str, dict]) -> None:
    columns = list(metrics["vanilla"])
    print("\n" + "".ljust(12) + "".join(column.rjust(18) for column in columns))
    for name, row in metrics.items():
        print(name.ljust(12) + "".join(f"{row[column]:18.3f}" for column in columns))
    print(f"\nOne seed, {STEPS} steps: a demonstration, not a comparison. {PIXELS_ARE_NOT_FID}")


def draw(path: Path) -> None:
    """Draw loss and similarity over steps; below them samples of both runs and real digits."""
    above = ["loss"] * 3 + ["similarity"] * 3
    below = [RUNS[0]] * 2 + [RUNS[1]] * 2 + ["real digits"] * 2
    mosaic: list[Any] = [above, below]
    figure, axes = plt.subplot_mosaic(
        mosaic,
        figsize=(11, 7.2),
        height_ratios=[1, 1.25],
        layout="constrained",
    )
    for name, colour in zip(RUNS, ("C0", "C1"), strict=True):
        run = read_run(RESULTS / name)
        draw_curve(axes["loss"], run, "velocity_loss", name, smoothing=0, color=colour)
        key = f"similarity_{STUDENT}_{TEACHER}"
        draw_curve(axes["similarity"], run, key, name, smoothing=0, color=colour)
        draw_picture(axes[name], RESULTS / name / "samples.png", f"{name}: samples")
    draw_picture(axes["real digits"], RESULTS / "real.png", "real digits")
    axes["loss"].set(title="velocity loss", xlabel="step", ylim=(0.3, 1.2))
    axes["similarity"].set(
        title=f"similarity: cosine of blocks {STUDENT} and {TEACHER}", xlabel="step", ylim=(None, 1)
    )
    for name in ("loss", "similarity"):
        axes[name].grid(alpha=0.3)
        axes[name].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    start = time.time()
    for name in RUNS:
        train_sample_score(name)
    run(f"{BIN}/python -m evaluation digits --ref digits --out {RESULTS}/real.metrics.json")
    from data.sources import DigitsSource

    real = DigitsSource().images[:64].permute(0, 2, 3, 1)
    save_grid(np.asarray(real), RESULTS / "real.png")
    draw(RESULTS / "overview.png")
    print_table(collect())
    pictures = [*(f"{name}/samples.png" for name in RUNS), "overview.png"]
    print(f"\nIn {RESULTS}: {', '.join(pictures)}, metrics.json ({time.time() - start:.0f} s)")


if __name__ == "__main__":
    main()

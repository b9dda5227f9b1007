"""Rows in small: the embedded digits and width 32, but a row's own depth, pairs, loss and solver.

Every stage runs, in seconds to a minute on a laptop. What comes out says that a recipe works, and
nothing about the paper: it is scored in pixel space. REPA's encoder is a tiny one with random
weights (sweeps/random_encoder.py).
"""

from collections.abc import Sequence
from typing import TypeVar

from models.sizes import narrow
from sweeps.random_encoder import MODEL as ENCODER
from training.config import TrainConfig

SAYS = (
    "MINIATURE: the embedded digits, width 32, a few steps, pixel space. It shows that each stage "
    "of a recipe runs; its numbers are not FID and say nothing about the paper."
)
BATCH, FULL_BATCH = 16, 256  # a miniature's batch is to the first as its row's is to the second
STEPS, FULL_STEPS = 6, 400_000
MOST_STEPS = 16
MOST = 3  # variants of a row and points of a curve
IMAGES = 100
TRAIN = (
    "--dataset-name digits --image-size 8 --num-classes 10 --vae none --lr 1e-3 --ema-decay 0.9 "
    "--ckpt-every 1 --keep-last None --keep-every None "
    "--precision fp32 --log-every 1 --sample-every 0 --num-workers 0"
)
SAMPLE = f"--num-fid-samples {IMAGES} --per-proc-batch-size {IMAGES} --num-sampling-steps 5"
Item = TypeVar("Item")


def miniature_words(c: TrainConfig) -> dict[str, list[str]]:
    """Return the flags that make a miniature of training `c`, and of what follows it."""
    words = ["--model", narrow(c.model), *TRAIN.split()]
    words += ["--global-batch-size", str(BATCH * c.global_batch_size // FULL_BATCH)]
    words += ["--max-steps", str(few_steps(c.max_steps or FULL_STEPS))]
    words += ["--repa-encoder", ENCODER] if "repa" in c.loss_type else []
    return {"train": words, "sample": SAMPLE.split()}


def few_steps(steps: int) -> int:
    """Return the steps that stand for a row's: 6 for 400K, in proportion, from 1 to 16."""
    return min(MOST_STEPS, max(1, round(steps * STEPS / FULL_STEPS)))


def few(items: Sequence[Item]) -> list[Item]:
    """Return three of many: the first, the middle and the last."""
    if len(items) <= MOST:
        return list(items)
    return [items[0], items[len(items) // 2], items[-1]]

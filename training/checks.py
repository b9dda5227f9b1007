"""Checks of settings before data, model or device are touched.

Methods and monitors check their own settings (training/methods/, training/monitors/). Every check
raises a `ValueError` that names the flag, its value and the remedy.
"""

import importlib.util

from runtime.flags import COMMON, COUNT, EVERY, Range, check_ranges, flag
from training.config import EngineConfig, Precision, SaveConfig, TrainConfig
from training.methods.method import changed
from training.methods.methods import check_methods
from training.monitors.monitors import check_monitors

RANGES = COMMON | {  # numbers that have one, by the names of their fields
    "epochs": COUNT,
    "max_steps": COUNT,
    "global_batch_size": Range(1, 2**24),
    "log_every": COUNT,
    "sample_every": EVERY,
    "val_every": COUNT,
    "val_samples": COUNT,
    "probe_every": EVERY,
    "probe_samples": COUNT,
    "diagnose_every": EVERY,
    "lr": Range(0, 10**6, above=True),
    "warmup_steps": EVERY,
    "weight_decay": Range(0, 10**6),
    "betas": Range(0, 1, below=True, what="two numbers in [0, 1)"),
    "max_grad_norm": Range(0, 10**12, above=True),
    "ema_decay": Range(0, 1, below=True),
    "accumulation_steps": Range(1, 2**20),
    "checkpoint_activations": Range(0, 2**16),
    "ckpt_every": COUNT,
    "keep_last": COUNT,
    "keep_every": COUNT,
    "eval_every": EVERY,
    "eval_samples": Range(4, 10**9),
    "eval_steps": Range(2, 10**6),
    "eval_batch_size": Range(1, 2**16),
}


def check_train_config(c: TrainConfig) -> None:
    """Refuse what is wrong without data, model or device; `ValueError` names the flag."""
    c.check_location()
    check_ranges(c, RANGES)
    if c.data_path == "":
        raise ValueError("--data-path '': it is empty, perhaps a variable of the shell is not set")
    if c.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("--wandb: the package wandb is not installed; pip install wandb")
    for name in changed(c.tracking):
        if not c.wandb:
            raise ValueError(f"{flag(name)} has no effect without --wandb")
    check_methods(c)
    check_monitors(c)
    check_engine(c.engine)
    check_saving(c.saving)
    check_best(c)
    if c.fine_tune and not c.ckpt:
        raise ValueError("--fine-tune needs --ckpt FILE, the weights to start from")
    if c.resume not in (None, "latest") and c.ckpt and not c.fine_tune:
        raise ValueError("--resume and --ckpt both name a checkpoint: give one of them")


def check_engine(c: EngineConfig) -> None:
    if c.fsdp and c.shard == "optimizer":
        raise ValueError("--fsdp and --shard optimizer: --fsdp means --shard all; give one of them")
    check_precision(c, c.precision)


def check_precision(c: EngineConfig, precision: Precision) -> None:
    """Refuse options of bf16 with another precision, that of the settings or what "auto" means."""
    if precision in ("auto", "bf16"):
        return
    for name in ("bf16_weights", "bf16_residual"):
        if getattr(c, name):
            here = f"auto, which is {precision} here" if c.precision == "auto" else precision
            raise ValueError(f"{flag(name)} needs --precision bf16; it is {here}")


def check_saving(c: SaveConfig) -> None:
    if c.keep_every and not c.keep_last:
        raise ValueError("--keep-every has no effect without --keep-last: all are kept")


def check_best(c: TrainConfig) -> None:
    """Refuse --keep-best by a number that the run does not log."""
    best, pixels = c.saving.keep_best, c.evaluation.eval_ref == "digits"
    if best == "val_loss" and not c.val_data_path:
        raise ValueError("--keep-best val_loss needs --val-data-path, the held-out images")
    if best in ("eval_fid", "eval_pixel_frechet"):
        if not c.evaluation.eval_every:
            raise ValueError(f"--keep-best {best} needs --eval-every N and --eval-ref FILE")
        own = "eval_pixel_frechet" if pixels else "eval_fid"
        if best != own:
            raise ValueError(
                f"--keep-best {best}: --eval-ref {c.evaluation.eval_ref} gives {own}; name that"
            )

"""Checks of settings before data, model or device are touched.

Methods check their own settings (training/methods/). Every check raises a `ValueError` that names
the flag, its value and the remedy.
"""

import importlib.util

from runtime.flags import require
from training.config import (
    EngineConfig,
    EvalConfig,
    OptimConfig,
    SaveConfig,
    TrainConfig,
)
from training.methods.methods import check_methods


def check_train_config(c: TrainConfig) -> None:
    """Refuse what is wrong without data, model or device; `ValueError` names the flag."""
    c.check_location()
    for name in ("image_size", "num_classes", "epochs", "global_batch_size", "log_every"):
        require(c, name, getattr(c, name) >= 1, "at least 1")
    for name in ("val_every", "val_samples"):
        require(c, name, getattr(c, name) >= 1, "at least 1")
    require(c, "max_steps", c.max_steps is None or c.max_steps >= 1, "at least 1")
    for name in ("num_workers", "sample_every", "global_seed", "probe_every", "diagnose_every"):
        require(c, name, getattr(c, name) >= 0, "at least 0")
    if c.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("--wandb: the package wandb is not installed; pip install wandb")
    require(c, "cfg_scale", c.cfg_scale >= 1, "at least 1, which means no guidance")
    if (
        c.diagnose_every
        and "sync" not in c.loss_type
        and not (c.encoder_depth or c.gt_encoder_depth)
    ):
        raise ValueError(
            f"--diagnose-every {c.diagnose_every} needs a pair to look at: with --loss-type "
            f"{c.loss_type}, give --encoder-depth and --gt-encoder-depth"
        )
    if c.probe_every and c.streaming and not c.val_data_path:
        raise ValueError(
            f"--probe-every {c.probe_every}: streamed images cannot be chosen by class; give "
            f"--val-data-path FOLDER to probe its images, or --probe-every 0"
        )
    check_methods(c)
    check_optim(c.optim)
    check_engine(c.engine)
    check_saving(c.saving)
    check_evaluation(c.evaluation)
    if c.fine_tune and not c.ckpt:
        raise ValueError("--fine-tune needs --ckpt FILE, the weights to start from")
    if c.resume and c.ckpt and not c.fine_tune:
        raise ValueError("--resume and --ckpt both name a checkpoint: give one of them")


def check_optim(c: OptimConfig) -> None:
    require(c, "lr", c.lr > 0, "positive")
    require(c, "warmup_steps", c.warmup_steps >= 0, "at least 0")
    require(c, "weight_decay", c.weight_decay >= 0, "at least 0")
    require(c, "betas", all(0 <= beta < 1 for beta in c.betas), "two numbers in [0, 1)")
    positive = c.max_grad_norm is None or c.max_grad_norm > 0
    require(c, "max_grad_norm", positive, "positive")
    require(c, "ema_decay", 0 <= c.ema_decay < 1, "in [0, 1)")


def check_engine(c: EngineConfig) -> None:
    require(c, "accumulation_steps", c.accumulation_steps >= 1, "at least 1")
    require(c, "checkpoint_activations", c.checkpoint_activations >= 0, "at least 0")


def check_saving(c: SaveConfig) -> None:
    require(c, "ckpt_every", c.ckpt_every >= 1, "at least 1")
    require(c, "keep_last", c.keep_last is None or c.keep_last >= 1, "at least 1")
    require(c, "keep_every", c.keep_every is None or c.keep_every >= 1, "at least 1")
    require(c, "min_free_disk", c.min_free_disk >= 0, "at least 0")
    if c.keep_every and not c.keep_last:
        raise ValueError("--keep-every has no effect without --keep-last: all are kept")


def check_evaluation(c: EvalConfig) -> None:
    require(c, "eval_every", c.eval_every >= 0, "at least 0")
    require(c, "eval_samples", c.eval_samples >= 4, "at least 4")
    require(c, "eval_steps", c.eval_steps >= 2, "at least 2")
    require(c, "eval_batch_size", c.eval_batch_size >= 1, "at least 1")
    if c.eval_every and not c.eval_ref:
        raise ValueError("--eval-every needs --eval-ref FILE, the reference for FID")
    if c.eval_ref and not c.eval_every:
        raise ValueError("--eval-ref has no effect without --eval-every N")

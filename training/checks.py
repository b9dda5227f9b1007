"""What can be said of settings before data, model or device are touched, and defaults by model.

Every check raises a `ValueError` that names the flag, its value and the remedy.
"""

import importlib.util

from runtime.flags import flag, require
from training.config import (
    EngineConfig,
    EvalConfig,
    OptimConfig,
    RegScheduleConfig,
    SaveConfig,
    TrainConfig,
)
from training.methods.comparisons import check_comparisons

# Published pairs and weights, by model family (paper, Sec. 4). None is published for S: it has
# B's 12 blocks and takes B's. Ti is not from the paper.
LAYER_SYNC_DEFAULTS = {
    "XL": ((8, 16), 0.2),
    "L": ((8, 18), 0.2),
    "B": ((4, 7), 0.3),
    "S": ((4, 7), 0.3),
    "Ti": ((2, 5), 0.3),
}


def check_train_config(c: TrainConfig) -> None:
    """Everything that can be said without data, model or device; `ValueError` names the flag."""
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
    require(c, "reg_weight", c.reg_weight is None or c.reg_weight >= 0, "at least 0")
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
    check_loss_flags(c)
    check_reg_schedule(c.reg_schedule)
    check_comparisons(c)
    check_optim(c.optim)
    check_engine(c.engine)
    check_saving(c.saving)
    check_evaluation(c.evaluation)
    if c.fine_tune and not c.ckpt:
        raise ValueError("--fine-tune needs --ckpt FILE, the weights to start from")
    if c.resume and c.ckpt and not c.fine_tune:
        raise ValueError("--resume and --ckpt both name a checkpoint: give one of them")


def check_loss_flags(c: TrainConfig) -> None:
    """Refuse pairs that the chosen loss would ignore."""
    several = c.loss_type == "multiple_sync"
    if several and c.multi_blocks_match is None:
        raise ValueError('--loss-type multiple_sync needs --multi-blocks-match "[(4,7),(3,8)]"')
    ignored = ("encoder_depth", "gt_encoder_depth") if several else ("multi_blocks_match",)
    for name in ignored:
        value = getattr(c, name)
        if value is not None and value != "[]":  # the original's default
            raise ValueError(f"{flag(name)} {value} has no effect with --loss-type {c.loss_type}")


def check_reg_schedule(c: RegScheduleConfig) -> None:
    require(c, "reg_warmup_steps", c.reg_warmup_steps >= 0, "at least 0")
    require(c, "reg_weight_end", c.reg_weight_end >= 0, "at least 0")
    require(c, "reg_power", c.reg_power > 0, "positive")
    cutoff, threshold = c.reg_cutoff_step, c.reg_similarity_threshold
    require(c, "reg_cutoff_step", cutoff is None or cutoff >= 1, "at least 1")
    in_range = threshold is None or -1 <= threshold <= 1
    require(c, "reg_similarity_threshold", in_range, "a cosine, in [-1, 1]")
    require(c, "reg_similarity_decay", 0 <= c.reg_similarity_decay < 1, "in [0, 1)")
    low, high = c.reg_t_range
    require(c, "reg_t_range", 0 <= low < high <= 1, "LOW HIGH with 0 <= LOW < HIGH <= 1")
    decays = c.reg_decay_steps is None or c.reg_decay_steps > c.reg_warmup_steps
    require(c, "reg_decay_steps", decays, "more than --reg-warmup-steps")
    if c.reg_scheduler == "constant":
        for name in ("reg_decay_steps", "reg_weight_end"):
            value = getattr(c, name)
            if value:
                raise ValueError(
                    f"{flag(name)} {value} has no effect with --reg-scheduler constant"
                )


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


def layer_sync_settings(c: TrainConfig) -> tuple[list[tuple[int, int]], float]:
    """([(student, teacher), ...], lambda), flags first and then the model's defaults.

    Without LayerSync it is ([], 0), or one pair to be watched with weight 0. `ValueError` for
    an unknown model or for pairs that do not fit it.
    """
    from layersync.pairs import check_pairs, parse_pairs  # these import torch; --help does without
    from models import find_model

    depth = find_model(c.model).keywords["depth"]
    pair, weight = LAYER_SYNC_DEFAULTS[c.model.removeprefix("SiT-").split("/")[0]]
    weight = weight if c.reg_weight is None else c.reg_weight
    given = c.encoder_depth, c.gt_encoder_depth
    one = [tuple(p if g is None else g for g, p in zip(given, pair, strict=True))]
    names, pairs = "--encoder-depth, --gt-encoder-depth", one
    if c.loss_type == "multiple_sync":
        names, pairs = "--multi-blocks-match", parse_pairs(c.multi_blocks_match)
    elif "layer_sync" not in c.loss_type.split("+"):
        weight = 0.0
        if c.encoder_depth is None and c.gt_encoder_depth is None:
            return [], weight
    try:
        return list(check_pairs(pairs, depth)), weight
    except ValueError as error:
        raise ValueError(f"{names}: {error}") from None

"""What can be said of settings before data, model or device are touched, and defaults by model.

Every check raises a `ValueError` that names the flag, its value and the remedy.
"""

from training.config import EngineConfig, OptimConfig, SaveConfig, TrainConfig, flag

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
    if c.data_path and c.dataset_name:
        raise ValueError("--data-path and --dataset-name both name the data: give one of them")
    for name in ("image_size", "num_classes", "epochs", "global_batch_size", "log_every"):
        require(c, name, getattr(c, name) >= 1, "at least 1")
    for name in ("val_every", "val_samples"):
        require(c, name, getattr(c, name) >= 1, "at least 1")
    require(c, "max_steps", c.max_steps is None or c.max_steps >= 1, "at least 1")
    for name in ("num_workers", "sample_every", "global_seed"):
        require(c, name, getattr(c, name) >= 0, "at least 0")
    require(c, "cfg_scale", c.cfg_scale >= 1, "at least 1, which means no guidance")
    require(c, "reg_weight", c.reg_weight is None or c.reg_weight > 0, "positive")
    check_loss_flags(c)
    check_optim(c.optim)
    check_engine(c.engine)
    check_saving(c.saving)
    if c.fine_tune and not c.ckpt:
        raise ValueError("--fine-tune needs --ckpt FILE, the weights to start from")
    if c.resume and c.ckpt and not c.fine_tune:
        raise ValueError("--resume and --ckpt both name a checkpoint: give one of them")


def check_loss_flags(c: TrainConfig) -> None:
    """Refuse flags that the chosen loss would ignore."""
    one_pair = {"encoder_depth": c.encoder_depth, "gt_encoder_depth": c.gt_encoder_depth}
    used = {
        "vanilla": one_pair,
        "layer_sync": {**one_pair, "reg_weight": c.reg_weight},
        "multiple_sync": {
            "multi_blocks_match": c.multi_blocks_match,
            "reg_weight": c.reg_weight,
        },
    }[c.loss_type]
    every = {**one_pair, "multi_blocks_match": c.multi_blocks_match, "reg_weight": c.reg_weight}
    for name, value in every.items():
        if value is not None and name not in used:
            raise ValueError(f"{flag(name)} {value} has no effect with --loss-type {c.loss_type}")
    if c.loss_type == "multiple_sync" and c.multi_blocks_match is None:
        raise ValueError('--loss-type multiple_sync needs --multi-blocks-match "[(4,7),(3,8)]"')
    if (c.encoder_depth is None) != (c.gt_encoder_depth is None):
        raise ValueError("give --encoder-depth and --gt-encoder-depth together, or neither")


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


def layer_sync_settings(c: TrainConfig) -> tuple[list[tuple[int, int]], float]:
    """([(student, teacher), ...], lambda), flags first and then the model's defaults.

    Vanilla is ([], 0), or one pair to be watched with weight 0. `ValueError` for an unknown model.
    """
    from layersync.pairs import parse_pairs  # imports torch, which --help does without

    chosen = [(c.encoder_depth, c.gt_encoder_depth)] if c.encoder_depth is not None else []
    if c.loss_type == "vanilla":
        return chosen, 0.0
    family = c.model.removeprefix("SiT-").split("/")[0]
    if family not in LAYER_SYNC_DEFAULTS:
        raise ValueError(f"--model {c.model}: no such model")
    pair, weight = LAYER_SYNC_DEFAULTS[family]
    if c.loss_type == "multiple_sync":
        pairs = list(parse_pairs(c.multi_blocks_match))
    else:
        pairs = chosen or [pair]
    return pairs, weight if c.reg_weight is None else c.reg_weight


def require(config, name: str, holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{flag(name)} {getattr(config, name)}: it must be {what}")

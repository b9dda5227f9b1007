"""Every setting of a training run, its default and its check. No torch here: --help is instant.

Flags that the original train.py has keep their names and meaning. Hyphens and underscores are the
same thing on the command line.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

LOSS_TYPES = ("vanilla", "layer_sync", "multiple_sync")

# Published pairs and weights, by model family (paper, Sec. 4). None is published for S: it has
# B's 12 blocks and takes B's. Ti is not from the paper.
LAYER_SYNC_DEFAULTS = {
    "XL": ((8, 16), 0.2),
    "L": ((8, 18), 0.2),
    "B": ((4, 7), 0.3),
    "S": ((4, 7), 0.3),
    "Ti": ((2, 5), 0.3),
}


def free(default):
    """A field that may change when a run is resumed: it does not shape what the run computes."""
    return dataclasses.field(default=default, metadata={"free": True})


@dataclass(frozen=True)
class TransportConfig:
    """The path between noise and data, shared by training and sampling."""

    path_type: Literal["Linear", "GVP", "VP"] = "Linear"
    """interpolant between noise (t = 0) and data (t = 1)"""
    prediction: Literal["velocity", "score", "noise"] = "velocity"
    """what the network predicts"""
    loss_weight: Literal["velocity", "likelihood"] | None = None
    """weighting over time of score and noise losses"""
    train_eps: float | None = None
    """distance of training times from the singular ends; by path and prediction unless given"""
    sample_eps: float | None = None
    """distance of sampling times from the singular ends; by path and prediction unless given"""


@dataclass(frozen=True)
class TrainConfig:
    # --- data
    data_path: str | None = free(None)
    """folder of images in class folders (ImageFolder)"""
    dataset_name: str | None = None
    """"digits" (embedded), a name on the Hugging Face hub, or a local folder of parquet files;
    imagenet-1k if no data is named"""
    cache_dir: str | None = free(None)
    """where the hub's files are kept"""
    image_size: int = 256
    """side of the images after ADM's centre crop, pixels"""
    num_classes: int = 1000
    """number of classes"""
    vae: str = "ema"
    """codec: ema or mse (Stability's fine-tuned SD autoencoders), a hub id, a folder, or "none"
    for pixels"""
    num_workers: int = free(4)
    """data loading processes per training process"""

    # --- model
    model: str = "SiT-XL/2"
    """SiT-{S,B,L,XL}/{2,4,8}, or SiT-Ti/{1,2} (tiny, not from the paper)"""
    transport: Annotated[TransportConfig, tyro.conf.OmitArgPrefixes] = TransportConfig()

    # --- LayerSync
    loss_type: Literal["vanilla", "layer_sync", "multiple_sync"] = "layer_sync"
    """vanilla: velocity matching alone; layer_sync: one pair; multiple_sync: the mean over pairs"""
    encoder_depth: int | None = None
    """student block, counted from 1; the paper's for the model unless given. With vanilla: log the
    similarity of the two blocks, without acting on it"""
    gt_encoder_depth: int | None = None
    """teacher block, counted from 1; the paper's for the model unless given"""
    multi_blocks_match: str | None = None
    """pairs for multiple_sync, as in "[(4,7),(3,8)]" """
    reg_weight: float | None = None
    """lambda, the weight of the regulariser; the paper's for the model unless given"""

    # --- optimisation
    epochs: int = free(80)
    """passes over the data; 80 are 400K steps of ImageNet at batch 256"""
    max_steps: int | None = free(None)
    """stop after this many steps, whatever --epochs says"""
    global_batch_size: int = 256
    """samples per step over all processes"""
    global_seed: int = 0
    """seed of everything random"""
    lr: float = 1e-4
    """learning rate of AdamW, constant"""
    ema_decay: float = 0.9999
    """decay of the exponential moving average of the weights"""
    precision: Literal["fp32", "tf32", "bf16"] = "tf32"
    """fp32; tf32 matrix products (as the original; fp32 without such hardware); bf16 autocast"""

    # --- output
    results_dir: str = free("results")
    """the run's folder is made in here"""
    run_name: str | None = free(None)
    """name of the run's folder; made of model, loss, pairs and seed unless given"""
    log_every: int = free(100)
    """steps over which logged values are averaged"""
    ckpt_every: int = free(50_000)
    """steps between checkpoints; the last step always writes one"""
    sample_every: int = free(10_000)
    """steps between sample grids of the EMA model, 0 for none"""
    cfg_scale: float = free(4.0)
    """guidance scale of those sample grids"""
    wandb: bool = free(False)
    """log to Weights & Biases too"""
    wandb_run_name: str | None = free(None)
    """name of the run there; that of its folder unless given"""

    # --- start
    resume: str | None = free(None)
    """"latest" or a checkpoint: continue exactly where it was written"""
    ckpt: str | None = free(None)
    """a checkpoint: as --resume, or with --fine-tune its weights only"""
    fine_tune: bool = False
    """start a new run, with a new optimizer, from the EMA weights of --ckpt"""


def check_train_config(c: TrainConfig) -> None:
    """Everything that can be said without data, model or device; `ValueError` names the flag."""
    if c.data_path and c.dataset_name:
        raise ValueError("--data-path and --dataset-name both name the data: give one of them")
    for name in ("image_size", "num_classes", "epochs", "global_batch_size", "log_every"):
        require(c, name, getattr(c, name) >= 1, "at least 1")
    require(c, "max_steps", c.max_steps is None or c.max_steps >= 1, "at least 1")
    require(c, "ckpt_every", c.ckpt_every >= 1, "at least 1")
    for name in ("num_workers", "sample_every", "global_seed"):
        require(c, name, getattr(c, name) >= 0, "at least 0")
    require(c, "lr", c.lr > 0, "positive")
    require(c, "ema_decay", 0 <= c.ema_decay < 1, "in [0, 1)")
    require(c, "cfg_scale", c.cfg_scale >= 1, "at least 1, which means no guidance")
    require(c, "reg_weight", c.reg_weight is None or c.reg_weight > 0, "positive")
    check_loss_flags(c)
    if c.fine_tune and not c.ckpt:
        raise ValueError("--fine-tune needs --ckpt FILE, the weights to start from")
    if c.resume and c.ckpt:
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


def differences(config: TrainConfig, stored: dict) -> list[str]:
    """Settings in which a checkpoint's config differs, of those that shape what a run computes."""
    found = []
    for field in dataclasses.fields(config):
        if field.metadata.get("free"):
            continue
        now, before = getattr(config, field.name), stored.get(field.name)
        if dataclasses.is_dataclass(now):
            now = dataclasses.asdict(now)
            found += [
                f"{flag(key)}: {before.get(key)} there, {now[key]} here"
                for key in now
                if now[key] != before.get(key)
            ]
        elif now != before:
            found.append(f"{flag(field.name)}: {before} there, {now} here")
    return found


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def require(config, name: str, holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{flag(name)} {getattr(config, name)}: it must be {what}")

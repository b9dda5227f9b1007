"""Every setting of a training run and its default. No torch here: --help is instant.

Flags that the original train.py has keep their names and meaning. Hyphens and underscores are the
same thing on the command line.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import tyro

from data.data_config import TrainingData
from runtime.flags import free
from runtime.switches import SWITCH
from training.methods.dispersive import DispersiveConfig
from training.methods.repa import REPAConfig
from training.methods.schedule import RegScheduleConfig
from training.methods.sra import SRAConfig

Precision = Literal["auto", "fp32", "tf32", "bf16"]
Flat = tyro.conf.OmitArgPrefixes  # its settings are flags as they are called


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
class OptimConfig:
    """AdamW and its schedule; the paper's values are the defaults."""

    lr: float = 1e-4
    """learning rate"""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """after the warm-up: constant, or half a cosine down to 0 at the last step"""
    warmup_steps: int = 0
    """steps over which the learning rate rises linearly from 0"""
    weight_decay: float = 0.0
    """decoupled weight decay"""
    betas: tuple[float, float] = (0.9, 0.999)
    """decay of the moment estimates"""
    max_grad_norm: float | None = None
    """scale gradients down to this global norm"""
    ema_decay: float = 0.9999
    """decay of the exponential moving average of the weights"""


@dataclass(frozen=True)
class EngineConfig:
    """Engine of a step. Only --precision and --bf16-... change more than rounding."""

    precision: Precision = "auto"
    """auto: bf16 autocast on GPUs that have it, else fp32. tf32 is what the original uses"""
    accumulation_steps: int = free(1)
    """forward and backward passes per step, each on a part of the batch, to save memory"""
    checkpoint_activations: int = free(0)
    """recompute every n-th block in the backward pass, to save memory: 1 for all, 0 for none"""
    compile: Annotated[bool | None, SWITCH] = free(None)
    """--compile and --no-compile: blocks, final layer and losses by torch.compile; with neither, on
    GPUs only"""
    shard: Literal["none", "optimizer", "all"] = free("none")
    """over the processes: none (DDP, each has everything), optimizer (gradients, optimizer and EMA;
    weights are gathered once per step), or all (weights too, gathered block by block): FSDP2"""
    fsdp: bool = free(False)
    """the same as --shard all"""
    bf16_gradients: bool = False
    """changes numbers: gradients are rounded to bf16 when processes exchange them"""
    bf16_weights: bool = False
    """changes numbers: compute with weights that are kept in bf16; optimizer, EMA and checkpoints
    have them in fp32. All of them are rounded, embeddings too, which autocast leaves in fp32"""
    bf16_residual: bool = False
    """changes numbers: what blocks pass on to each other is kept in bf16 instead of fp32"""

    @property
    def sharding(self) -> Literal["none", "optimizer", "all"]:
        """The parts that are sharded where there is more than one process."""
        return "all" if self.fsdp else self.shard


@dataclass(frozen=True)
class SaveConfig:
    """Which checkpoints are kept. The last step and a preempted run always write one."""

    ckpt_every: int = free(50_000)
    """steps between checkpoints"""
    keep_last: int | None = free(None)
    """keep this many of the newest checkpoints; all unless given"""
    keep_every: int | None = free(None)
    """with --keep-last: checkpoints at multiples of this many steps are kept as well"""
    keep_best: Literal["eval_fid", "eval_pixel_frechet", "val_loss"] | None = free(None)
    """write and keep the checkpoint of the step where this logged number is lowest; best.pt links
    to it"""
    min_free_disk: float = free(1.0)
    """GB that must remain free on the disk after a checkpoint is written"""


@dataclass(frozen=True)
class EvalConfig:
    """FID while training, of the EMA model sampled without guidance. Off by default."""

    eval_every: int = free(0)
    """steps between evaluations of the EMA model, 0 for none"""
    eval_samples: int = free(10_000)
    """images that are sampled for one; FID at another number is not comparable"""
    eval_ref: str | None = free(None)
    """the reference, as --ref of python -m evaluation: an .npz in ADM's format, any set of images,
    or "digits" """
    eval_steps: int = free(50)
    """grid points of Heun's solver"""
    eval_batch_size: int = free(32)
    """images sampled at a time, on each process"""
    eval_inception_weights: str | None = free(None)
    """file with torch-fidelity's Inception weights; they are downloaded once unless given"""


@dataclass(frozen=True)
class TrackingConfig:
    """Place of a run at Weights & Biases."""

    wandb_project: str | None = free(None)
    """project there; that of WANDB_PROJECT, or layersync, unless given"""
    wandb_entity: str | None = free(None)
    """user or team there; that of WANDB_ENTITY, or your own, unless given"""
    wandb_group: str | None = free(None)
    """group of runs there; that of WANDB_RUN_GROUP unless given"""
    wandb_tags: tuple[str, ...] = free(())
    """tags there; those of WANDB_TAGS unless given"""


@dataclass(frozen=True)
class TrainConfig(TrainingData):
    """Everything that a training run is told."""

    ALTERNATIVES: ClassVar[tuple[tuple[str, ...], ...]] = (
        *TrainingData.ALTERNATIVES,
        ("epochs", "max_steps"),
    )

    config: str | None = free(None)
    """a .toml or .json file of settings by the names of flags, such as a recipe or the config.json
    of a run; what the command line gives overrides it"""

    # --- data: see TrainingData for the rest
    val_data_path: str | None = free(None)
    """held-out images, given as --data-path: their velocity loss by time is logged"""
    val_split: str | None = free(None)
    """split of a hub data set or of parquet files; validation, test, or the only one, unless
    given"""
    val_every: int = free(5_000)
    """steps between those"""
    val_samples: int = free(1024)
    """held-out images that are used"""
    diagnose_every: int = free(0)
    """steps between diagnoses of the pairs: similarity by time, effective rank of student and
    teacher, gradients of both terms of the loss and their angle; 0 for none"""
    probe_every: int = free(0)
    """steps between looks into the EMA network's blocks (linear probes, effective rank, similarity
    of neighbours), 0 for none; with --val-data-path at its images: see docs/diagnostics.md"""
    probe_samples: int = free(2000)
    """images at most for that, equally many of each class"""

    # --- model
    model: str = "SiT-XL/2"
    """SiT-{S,B,L,XL}/{2,4,8}; not from the paper: SiT-Ti/{1,2}, tiny, and SiT-{B,L,XL}-narrow/2, of
    width 32"""
    transport: Annotated[TransportConfig, Flat] = TransportConfig()

    # --- LayerSync
    loss_type: Literal[
        "vanilla", "layer_sync", "multiple_sync", "dispersive", "sra", "repa", "repa+layer_sync"
    ] = "layer_sync"
    """vanilla: velocity matching alone; layer_sync: one pair; multiple_sync: the mean over pairs;
    the others are what LayerSync is compared with (docs/comparisons.md)"""
    encoder_depth: int | None = None
    """student block, counted from 1; the paper's for the model unless given. With vanilla: log the
    similarity of the two blocks, without acting on it"""
    gt_encoder_depth: int | None = None
    """teacher block, counted from 1; the paper's for the model unless given"""
    multi_blocks_match: str | None = None
    """pairs for multiple_sync, as in "[(4,7),(3,8)]" """
    reg_weight: float | None = None
    """lambda, the weight of the regulariser; the paper's for the model unless given"""

    reg_schedule: Annotated[RegScheduleConfig, Flat] = field(default_factory=RegScheduleConfig)

    dispersive: Annotated[DispersiveConfig, Flat] = field(default_factory=DispersiveConfig)
    sra: Annotated[SRAConfig, Flat] = field(default_factory=SRAConfig)
    repa: Annotated[REPAConfig, Flat] = field(default_factory=REPAConfig)

    # --- length and engine
    epochs: int = free(80)
    """passes over the data; 80 are 400K steps of ImageNet at batch 256"""
    max_steps: int | None = free(None)
    """stop after this many steps, whatever --epochs says"""
    global_batch_size: int = 256
    """samples per step over all processes"""
    global_seed: int = 0
    """seed of everything random"""
    optim: Annotated[OptimConfig, Flat] = OptimConfig()
    engine: Annotated[EngineConfig, Flat] = EngineConfig()

    # --- output
    results_dir: str = free("results")
    """the run's folder is made in here"""
    run_name: str | None = free(None)
    """name of the run's folder; made of model, loss, pairs and seed unless given"""
    log_every: int = free(100)
    """steps over which logged values are averaged"""
    saving: Annotated[SaveConfig, Flat] = SaveConfig()
    sample_every: int = free(10_000)
    """steps between sample grids of the EMA model, 0 for none"""
    cfg_scale: float = free(4.0)
    """guidance scale of those sample grids"""
    evaluation: Annotated[EvalConfig, Flat] = EvalConfig()
    wandb: bool = free(False)
    """log to Weights & Biases too"""
    wandb_run_name: str | None = free(None)
    """name of the run there; that of its folder unless given"""
    tracking: Annotated[TrackingConfig, Flat] = TrackingConfig()

    # --- start
    resume: str | None = free(None)
    """"latest" or a checkpoint: continue exactly where it was written"""
    ckpt: str | None = free(None)
    """a checkpoint: as --resume, or with --fine-tune its weights only; --resume latest prefers the
    newest of the run's own"""
    fine_tune: bool = False
    """start a new run, with a new optimizer, from the EMA weights of --ckpt"""

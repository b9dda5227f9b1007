"""The flags of `python -m evaluation blocks`. No torch here: --help answers at once."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from data.data_config import DataLocation
from runtime.flags import COMMON, Range, check_ranges, flag

Word = Literal["linear", "cka", "cknna", "mutual-knn", "removal", "segmentation"]


@dataclass(frozen=True, kw_only=True)
class ProbedData(DataLocation):
    """Which network of a checkpoint is probed, and the images it sees: its run's unless given."""

    weights: Literal["ema", "model"] = "ema"
    """which of the checkpoint's networks: the average, or the one that was trained"""
    image_size: int | None = None
    """side of the images, pixels; for checkpoints that do not say, 256"""
    vae: str | None = None
    """codec, as in train.py; for checkpoints that do not say, ema"""


@dataclass(frozen=True, kw_only=True)
class LinearOptions:
    linear: Literal["ridge", "ddae", "repa"] = "ridge"
    """linear: ridge regression in closed form, or heads trained as in DDAE (bare, 30 epochs, batch
    128) or REPA (batch norm, 90 epochs, batch 16,384)"""
    epochs: int | None = None
    """linear: epochs of trained heads, the preset's unless given"""
    head_batch: int | None = None
    """linear: images in a step of trained heads, over all processes; the preset's unless given"""
    head_lr: float | None = None
    """linear: learning rate of trained heads, the preset's unless given; it falls as a cosine"""
    fixed_views: bool = False
    """linear: train heads on the images as they are, with the same noise in each epoch, instead of
    mirrored and cropped ones with new noise"""


@dataclass(frozen=True, kw_only=True)
class RemovalOptions:
    run_lengths: tuple[int, ...] = (1,)
    """removal: how many blocks in a row are removed at a time, several numbers are tried in turn"""
    ref: str | None = None
    """removal: score samples too, of the network without each run of blocks, against this set of
    images or statistics; in pixel space if it is "digits" """
    fid_samples: int = 10_000
    """removal: samples that are scored"""
    fid_steps: int = 50
    """removal: grid points of the sampler, Heun's method on the ODE, no guidance"""
    inception_weights: str | None = None
    """removal: file with torch-fidelity's Inception weights; downloaded once unless given"""


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions:
    encoder: str | None = None
    """cka, cknna, mutual-knn: what blocks are compared with, timm's name of a network of images,
    or a checkpoint, of which every block is compared"""
    encoder_weights: str | None = None
    """cka, cknna, mutual-knn: file with the encoder's weights; downloaded once unless given"""
    neighbours: int = 10
    """cknna, mutual-knn: k"""
    by_token: bool = False
    """cka: compare tokens at the same place instead of an image's mean of them"""


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions:
    masks: str | None = None
    """segmentation: images with masks, VOC2012's folder, or a folder of parquet files or a data set
    of the hub with a column of masks; heads are trained on train and tested on val"""
    mask_classes: int = 21
    """segmentation: classes in the masks, from 0; 255 is ignored"""
    protocol: Literal["validated", "paper"] = "validated"
    """segmentation: choose the epoch on a tenth of the training images, or on the test images as
    the paper's code does"""
    seg_epochs: int | None = None
    """segmentation: epochs, the paper's 25 unless given"""
    seg_batch: int | None = None
    """segmentation: images in a step, over all processes, the paper's 64 unless given"""
    seg_lr: float | None = None
    """segmentation: learning rate, the paper's 1e-3 unless given"""


@dataclass(frozen=True, kw_only=True)
class BlocksConfig(ProbedData):
    """Probe what the blocks of one or several checkpoints know, and compare them.

    Everything goes to a folder: blocks.json with each number and its recipe, blocks.csv with a line
    for each probe and checkpoint, summary.md, and a picture for each probe. The same command goes
    on where it was killed.
    """

    ckpt: tuple[str, ...]
    """checkpoints of train.py, SiT, REPA or LayerSync, or ORG/NAME/FILE on the hub; numbers are
    compared with the first one's"""
    probes: tuple[Word, ...]
    """what to measure, see docs/blocks.md"""
    names: tuple[str, ...] = ()
    """what tables and pictures call the checkpoints; those of one name are drawn as one line with a
    band, as seeds of one method. Their folders' names unless given"""
    out: str | None = None
    """folder to write; FILE.blocks beside the first checkpoint unless given"""

    # --- images
    val_data_path: str | None = None
    """held-out images, in any form that --data-path takes; unless given, a part of the images is
    held out, or val/ is taken where --data-path is a folder with train/ and val/"""
    samples: int | None = None
    """images at most, for a linear probe equally many of each class; 0 for all of them. 10,000
    unless given, 1,000 for removal, and all for the presets ddae and repa"""
    val_samples: int | None = None
    """images of --val-data-path at most, 0 for all of them; all unless given, 1,000 for removal"""
    held_out: float = 0.5
    """share of the images that is held out where there is no --val-data-path"""
    seed: int = 0
    """seed of the choice of images, of their noise, and of the order in which heads see them"""

    # --- tokens
    blocks: tuple[int, ...] = ()
    """numbers of the blocks, from 1; all of them unless given"""
    times: tuple[float, ...] | None = None
    """where on the path, t = 0 is noise and t = 1 is data; 0.1 0.3 0.5 0.7 0.9 0.999 unless given,
    0.999 for segmentation"""
    labels: Literal["null", "true"] = "null"
    """the label that the network gets: the null label, or the image's own"""
    bf16: bool = False
    """run the network in bfloat16 autocast"""
    batch_size: int = 64
    """images that go through the network at a time, on each process"""
    num_workers: int = 4
    """processes that read images, for each process"""

    linear_options: Annotated[LinearOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=LinearOptions
    )
    alignment_options: Annotated[AlignmentOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=AlignmentOptions
    )
    removal_options: Annotated[RemovalOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=RemovalOptions
    )
    segmentation_options: Annotated[SegmentationOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=SegmentationOptions
    )


USUAL_SAMPLES = 10_000
ALL = 0


def at_most(given: int | None, usual: int) -> int | None:
    """Return a number of images from a flag, `usual` where it is not given, None for all."""
    return (usual if given is None else given) or None


RANGES = COMMON | {
    "epochs": Range(1, 10**6),
    "head_batch": Range(2, 10**9),
    "head_lr": Range(0, 10**3, above=True),
    "mask_classes": Range(2, 255),
    "seg_epochs": Range(1, 10**6),
    "seg_batch": Range(1, 10**9),
    "seg_lr": Range(0, 10**3, above=True),
    "run_lengths": Range(1, 10**4),
    "fid_samples": Range(2, 10**9),
    "fid_steps": Range(2, 10**6),
    "samples": Range(0, 10**12),
    "val_samples": Range(0, 10**12),
    "neighbours": Range(1, 10**6),
    "held_out": Range(0, 1, above=True, below=True),
    "times": Range(0, 1),
    "blocks": Range(1, 10**4),
}
ALIGNMENT = ("cka", "cknna", "mutual-knn")
NEEDED_BY = {  # flags of one probe: the probe without which they have no effect
    "linear_options": {"linear"},
    "alignment_options": set(ALIGNMENT),
    "removal_options": {"removal"},
    "segmentation_options": {"segmentation"},
}


def check_blocks_config(c: BlocksConfig) -> None:
    """Check all that needs no files; raise `ValueError`, which names the flag."""
    c.check_location()
    check_ranges(c, RANGES)
    for name, least in (("ckpt", "a checkpoint"), ("probes", "a probe")):
        if not getattr(c, name):
            raise ValueError(f"--{name}: give {least} or more")
    if c.times == ():
        raise ValueError("--times: give a time or more, in [0, 1]")
    for name in ("probes", "blocks", "times"):
        values = getattr(c, name) or ()
        if len(set(values)) < len(values):
            raise ValueError(f"--{name} {' '.join(map(str, values))}: one of them is given twice")
    if c.names and len(c.names) != len(c.ckpt):
        raise ValueError(
            f"--names {' '.join(c.names)}: {len(c.names)} names for {len(c.ckpt)} checkpoints; "
            f"give one for each"
        )
    for group, probes in NEEDED_BY.items():
        check_used(getattr(c, group), probes, c.probes)
    check_linear(c.linear_options)
    if "segmentation" in c.probes and not c.segmentation_options.masks:
        raise ValueError("--probes segmentation: give --masks with VOC2012's folder, or the like")
    check_alignment(c.alignment_options, c.probes)


def check_used(options, probes: set[str], given: tuple[str, ...]) -> None:
    """Raise `ValueError` for an option of a probe that is not asked for."""
    if probes & set(given):
        return
    plain = type(options)()
    for name, value in vars(options).items():
        if value != getattr(plain, name):
            raise ValueError(
                f"{flag(name)} has no effect without --probes {' or '.join(sorted(probes))}"
            )


def check_linear(o: LinearOptions) -> None:
    if o.linear != "ridge":
        return
    for name in ("epochs", "head_batch", "head_lr", "fixed_views"):
        if getattr(o, name) not in (None, False):
            raise ValueError(
                f"{flag(name)} is of trained heads, and --linear ridge trains none; "
                f"give --linear ddae or repa"
            )


def check_alignment(o: AlignmentOptions, probes: tuple[str, ...]) -> None:
    asked = [word for word in probes if word in ALIGNMENT]
    if asked and not o.encoder:
        raise ValueError(
            f"--probes {' '.join(asked)}: --encoder says what blocks are compared with; give "
            f"timm's name of a network, such as vit_large_patch14_dinov2.lvd142m, or a checkpoint"
        )
    if o.by_token and "cka" not in asked:
        raise ValueError("--by-token is of cka; the others compare images, leave it out")

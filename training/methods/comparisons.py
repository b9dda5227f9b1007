"""The methods that LayerSync is compared with: their defaults by model, and bad flags.

No torch here: --help answers at once. Every check raises a `ValueError` that names the flag, its
value and the remedy.
"""

import dataclasses

from runtime.flags import flag
from training.config import TrainConfig

METHODS = ("dispersive", "sra", "repa")  # fields of the config, words of --loss-type

# SRA: published for XL and B. L's blocks are at the same fractions of the depth as XL's; S has B's
# depth and takes B's. Ti is of no paper.
SRA_DEPTHS = {"XL": (8, 20), "L": (7, 17), "B": (3, 8), "S": (3, 8), "Ti": (2, 5)}
# REPA: 4 for B and 8 for L and XL, as its authors say; S takes B's. Ti is of no paper.
REPA_DEPTHS = {"XL": 8, "L": 8, "B": 4, "S": 4, "Ti": 3}


def methods(c: TrainConfig) -> list[str]:
    """Those that the loss type names."""
    words = c.loss_type.split("+")
    return [name for name in METHODS if name in words]


def check_comparisons(c: TrainConfig) -> None:
    """What can be said of their flags without the model."""
    named = methods(c)
    for name in METHODS:
        settings = getattr(c, name)
        for field in changed(settings):
            if name not in named:
                raise ValueError(f"{flag(field)} {getattr(settings, field)}: {no_effect(c)}")
        for field in dataclasses.fields(settings):
            check_value(field.name, getattr(settings, field.name))
    if named and "layer_sync" not in c.loss_type.split("+"):
        if c.reg_weight is not None:
            own = f"its own is --{named[0]}-weight"
            raise ValueError(f"--reg-weight {c.reg_weight}: {no_effect(c)}; {own}")
        for field in changed(c.reg_schedule):
            raise ValueError(f"{flag(field)} {getattr(c.reg_schedule, field)}: {no_effect(c)}")
    if c.repa.repa_features and c.repa.repa_encoder_weights:
        raise ValueError(
            "--repa-encoder-weights has no effect with --repa-features: they were encoded already"
        )
    if c.repa.repa_features and c.streaming:
        raise ValueError(
            "--repa-features: streamed images have no numbers to find their features by; "
            "leave out --repa-features or --streaming"
        )


def changed(settings) -> list[str]:
    """The fields whose values are not the defaults."""
    fields = dataclasses.fields(settings)
    return [field.name for field in fields if getattr(settings, field.name) != field.default]


def no_effect(c: TrainConfig) -> str:
    return f"it has no effect with --loss-type {c.loss_type}"


def check_value(name: str, value) -> None:
    what, holds = "positive", True
    if name.endswith(("_weight", "_tau")):
        holds = value > 0
    elif name.endswith(("_beta", "_shift")):
        what, holds = "in [0, 1]", 0 <= value <= 1
    if not holds:
        raise ValueError(f"{flag(name)} {value}: it must be {what}")


def with_depths(c: TrainConfig) -> TrainConfig:
    """The same with the blocks of its method filled in, flags first and then the model's defaults.

    `ValueError` for blocks that the model does not have.
    """
    from models import find_model  # imports torch

    depth = find_model(c.model).keywords["depth"]
    family = c.model.removeprefix("SiT-").split("/")[0]
    student, teacher = SRA_DEPTHS[family]
    defaults = dict(
        dispersive_depth=depth,
        sra_student_depth=student,
        sra_teacher_depth=teacher,
        repa_depth=REPA_DEPTHS[family],
    )
    for name in methods(c):
        settings = getattr(c, name)
        for field, default in defaults.items():
            if hasattr(settings, field):
                value = (
                    getattr(settings, field) if getattr(settings, field) is not None else default
                )
                check_depth(field, value, depth, c.model)
                settings = dataclasses.replace(settings, **{field: value})
        c = dataclasses.replace(c, **{name: settings})
    if "sra" in methods(c) and c.sra.sra_student_depth > c.sra.sra_teacher_depth:
        raise ValueError(
            f"--sra-student-depth {c.sra.sra_student_depth} lies behind --sra-teacher-depth "
            f"{c.sra.sra_teacher_depth}: the student is the earlier block"
        )
    return c


def check_depth(name: str, value: int, depth: int, model: str) -> None:
    if not 1 <= value <= depth:
        raise ValueError(f"{flag(name)} {value}: {model} has blocks 1 to {depth}")


def folder_parts(c: TrainConfig) -> list[str]:
    """What a run's name says of its method: blocks and weight."""
    c, parts = with_depths(c), []
    for name in methods(c):
        settings = dataclasses.asdict(getattr(c, name))
        blocks = [str(value) for key, value in settings.items() if key.endswith("_depth")]
        parts += ["-".join(blocks), f"lambda{settings[f'{name}_weight']:g}"]
    return parts


def check_local_batch(c: TrainConfig, samples: int) -> None:
    """`samples` of a forward pass on one process."""
    if "dispersive" in methods(c) and samples < 2:
        raise ValueError(
            f"--global-batch-size {c.global_batch_size}: the dispersive loss compares the samples "
            f"that one process sees in one pass, which are {samples} here; give a larger batch, "
            f"fewer processes or fewer --accumulation-steps"
        )


def trains_heads(c: TrainConfig) -> bool:
    return bool({"sra", "repa"} & {*methods(c)})

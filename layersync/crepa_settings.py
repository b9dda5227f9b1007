"""CREPA as SimpleTuner's users configure it: the `crepa_*` settings, in a dict or in JSON.

    {"crepa_enabled": true, "crepa_feature_source": "backbone", "crepa_block_index": 8,
     "crepa_teacher_block_index": 16, "crepa_lambda": 0.5}

Names, meaning and defaults are SimpleTuner's. **Block numbers count from 0 there**:
`crepa_block_index` 8 is the output of the ninth block, 9 everywhere else in this package. Values
may be texts, "8", "0.5" or "true".
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from layersync.blocks import Blocks
from layersync.frames import Neighbours
from layersync.schedule import LEFT, Schedule
from layersync.settings import as_bool, load, number, pick

PREFIX = "crepa_"
DEFAULT_LAMBDA = 0.5
SOURCES = "backbone", "encoder", "self_flow"
# settings of the external encoder, without effect when the features are the model's own
UNUSED = (
    "drop_vae_encoder", "encoder", "encoder_frames_batch_size", "encoder_image_size", "model",
    "self_flow_mask_ratio", "use_tae",
)  # fmt: skip
READ = {
    "enabled": bool, "feature_source": str, "use_backbone_features": bool, "self_flow": bool,
    "block_index": int, "teacher_block_index": int, "lambda": float,
    **{field.name: field.type for field in fields(Neighbours)},
    "scheduler": str, "warmup_steps": int, "decay_steps": int, "lambda_end": float, "power": float,
    "cutoff_step": int, "similarity_threshold": float, "similarity_ema_decay": float,
    "threshold_mode": str,
}  # fmt: skip
RENAMED = {
    "lambda": "weight",
    "lambda_end": "weight_end",
    "similarity_ema_decay": "similarity_decay",
}


@dataclass(frozen=True)
class CREPASettings:
    """The settings as they were read; block indices count from 0, as they do there."""

    block_index: int
    teacher_block_index: int
    schedule: Schedule
    neighbours: Neighbours


def read_crepa_settings(
    source: Mapping[str, Any] | str | os.PathLike, last_step: int | None = None
) -> CREPASettings | None:
    """Return the `crepa_` settings in a dict, a JSON text, or a JSON file; None if off.

    As `read_settings`; null stands for a default. Settings of the external encoder are ignored
    where the features are the model's own.

    Args:
        last_step: the step at which a schedule with `crepa_decay_steps` 0 ends; the setting
            `max_train_steps` unless given.

    Raises `TypeError` or `ValueError` that names the setting, its value and the remedy; for
    features of an external encoder or of Self-Flow, with the reason.
    """
    loaded = load(source)
    known = [f"{PREFIX}{name}" for name in (*READ, *UNUSED)]
    given = pick(loaded, PREFIX, known, "CREPA")
    given = {k.removeprefix(PREFIX): v for k, v in given.items() if v is not None}
    values = {name: read(name, given[name]) for name in READ if name in given}
    if not values.get("enabled", False):
        return None
    check_source(values)
    if "block_index" not in values:
        raise ValueError(f"{PREFIX}block_index is missing: the student's index, counted from 0")
    student = index("block_index", values["block_index"])
    teacher = index("teacher_block_index", values.get("teacher_block_index", student))
    if teacher < student:
        raise ValueError(
            f"{PREFIX}teacher_block_index: {teacher} is not as deep as {PREFIX}block_index, "
            f"{student}; choose the same block or a deeper one"
        )
    frames = {f.name: values[f.name] for f in fields(Neighbours) if f.name in values}
    try:
        neighbours = Neighbours(**frames)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{PREFIX}{error}") from None
    return CREPASettings(student, teacher, read_schedule(values, loaded, last_step), neighbours)


def read(name: str, value: Any) -> Any:
    """Return a setting's value, also of a text; a value of another type is refused later."""
    kind: Any = READ[name]
    if kind is bool:
        return as_bool(f"{PREFIX}{name}", value)
    return str(value).strip().lower() if kind is str else number(value, kind)


def index(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{PREFIX}{name}: {value!r} is not a block index; they count from 0 here")
    return value


def check_source(values: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless the features are those of the model's own blocks."""
    own, source = values.get("use_backbone_features", False), values.get("feature_source")
    remedy = f"set {PREFIX}feature_source to backbone and {PREFIX}teacher_block_index to a block"
    if source is not None and source not in SOURCES:
        raise ValueError(
            f"{PREFIX}feature_source: {source!r} is none of {', '.join(SOURCES)}; {remedy}"
        )
    if source == "self_flow" or values.get("self_flow"):
        name = "feature_source: 'self_flow'" if source == "self_flow" else "self_flow: True"
        raise ValueError(
            f"{PREFIX}{name} needs a second forward pass of the EMA model on a cleaner view of the "
            f"batch, which a regulariser of one pass cannot make; {remedy}"
        )
    if source == "encoder" or (source is None and not own):
        given = "'encoder'" if source else "not given, which means 'encoder',"
        raise ValueError(
            f"{PREFIX}feature_source: {given} needs decoded frames and an external image encoder "
            f"(DINOv2), which this package has not; {remedy}"
        )


def read_schedule(
    values: Mapping[str, Any], loaded: Mapping[str, Any], last_step: int | None
) -> Schedule:
    """Return the course of lambda, in SimpleTuner's convention; 0 steps stand for none."""
    names = ("scheduler", "warmup_steps", "decay_steps", "lambda_end", "power", "cutoff_step",
             "similarity_threshold", "similarity_ema_decay", "threshold_mode")  # fmt: skip
    given = {RENAMED.get(n, n): values[n] for n in names if n in values}
    given["weight"] = values.get("lambda", DEFAULT_LAMBDA)
    if given["weight"] == 0:
        raise ValueError(
            f"{PREFIX}lambda: 0 switches CREPA off; set {PREFIX}enabled to false for that"
        )
    given["cutoff_step"] = given.get("cutoff_step") or None
    given["decay_steps"] = given.get("decay_steps") or None
    decays = given.get("scheduler") in set(LEFT) - {"constant"}
    if given["decay_steps"] is None and decays:
        whole = {str(k).removeprefix("--"): v for k, v in loaded.items()}.get("max_train_steps")
        given["decay_steps"] = last_step or number(whole, int) or None
        if given["decay_steps"] is None:
            raise ValueError(
                f"{PREFIX}decay_steps: 0 means the end of the run, which is not known; give "
                f"last_step, or max_train_steps in the settings"
            )
    try:
        return Schedule(**given, convention="simpletuner")
    except ValueError as error:
        text = str(error)
        for theirs, ours in RENAMED.items():
            if text.startswith(f"{ours} "):
                text = text.replace(ours, theirs, 1)
        raise ValueError(f"{PREFIX}{text}") from None


def resolved_blocks(settings: CREPASettings, blocks: Blocks) -> str:
    """Return one line on which modules the indices mean; `ValueError` for one beyond the model."""
    meanings = []
    for name in ("block_index", "teacher_block_index"):
        i = getattr(settings, name)
        if i >= len(blocks):
            raise ValueError(
                f"{PREFIX}{name}: CREPA could not find layer {i}: the model has {len(blocks)} "
                f"blocks, 0 to {len(blocks) - 1} as SimpleTuner counts; found, counted from 1: "
                f"{blocks.summary()}"
            )
        meanings.append(f"{PREFIX}{name} {i} is block {i + 1} ({blocks.describe(i + 1)})")
    return f"CREPA: {', '.join(meanings)}; indices count from 0, blocks from 1"

"""Runs of the originals' train.py (SiT, LayerSync) that go on here, and ours that go on there.

Their checkpoint is {"model", "ema", "opt", "args"}. Its optimizer numbers the parameters in the
model's order, the frozen `pos_embed` among them, and AdamW's count of steps is the only word of
where the run was. Nothing of what they draw can be drawn again: such a run is continued, not
exactly.

Ours has the same keys. Its optimizer lists `pos_embed` too, so that theirs finds as many parameters
as it has, and `args` are the settings under their names.
"""

import dataclasses
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from models.checkpoint_schema import check_optimizer
from models.trained import is_reversed, weights_of
from models.zoo import describe_weights
from runtime.flags import flag
from training.config import TrainConfig
from training.methods.layer_sync import layer_sync_settings
from training.settings_record import flat, resolved_settings

FROZEN = "pos_embed"  # a parameter of the model that is not trained
PARTS = ("model", "ema", "opt", "args")
SHAPING = (  # their flags that shape a run; here they have the same names
    "model", "image_size", "num_classes", "global_batch_size", "path_type", "prediction",
    "loss_weight", "train_eps", "sample_eps", "loss_type",
)  # fmt: skip
UNSHAPING = ("data_path", "dataset_name", "vae", "epochs", "global_seed")
PAIR = ("encoder_depth", "gt_encoder_depth", "reg_weight")
SHARED = (
    *SHAPING, *PAIR, "data_path", "dataset_name", "cache_dir", "results_dir", "epochs", "vae",
    "global_seed", "num_workers", "log_every", "ckpt_every", "sample_every", "cfg_scale", "wandb",
    "wandb_run_name",
)  # fmt: skip
ENGINE = {"fused": True, "foreach": None, "capturable": False, "differentiable": False}


def is_original(checkpoint: dict) -> bool:
    """Return whether a checkpoint is one of theirs that a run can be continued from."""
    known = all(part in checkpoint for part in PARTS) and "config" not in checkpoint
    return known and isinstance(checkpoint["args"], Namespace)


def original_settings(checkpoint: dict) -> dict:
    """Return the settings that shape a run of theirs, flat, by the names of our flags."""
    given = vars(checkpoint["args"])
    known = {"loss_type": "vanilla"} | {name: given[name] for name in SHAPING if name in given}
    if known["loss_type"] == "layer_sync":
        known |= {name: given[name] for name in PAIR if name in given}
    elif known["loss_type"] == "multiple_sync":
        known["pairs"] = ", ".join(f"{s} -> {t}" for s, t in given.get("multi_blocks_match", []))
    return known | optimizer_flags(checkpoint)


def optimizer_flags(checkpoint: dict) -> dict:
    """Return rate and weight decay of their optimizer; `ValueError` when they are not there."""
    try:
        group = checkpoint["opt"]["param_groups"][0]
        return {name: group[name] for name in ("lr", "weight_decay")}
    except (KeyError, IndexError, TypeError):
        raise ValueError(
            "the checkpoint to go on from is altered or damaged: its opt must have a list "
            "param_groups, with lr and weight_decay in the first"
        ) from None


def original_flags(checkpoint: dict) -> dict:
    """Return what continuing a run of theirs takes from its file, by the names of our flags."""
    given = vars(checkpoint["args"])
    own = original_settings(checkpoint) | {name: given.get(name) for name in UNSHAPING}
    if own.pop("pairs", None):
        own["multi_blocks_match"] = str(given["multi_blocks_match"])
    if own["data_path"]:
        own.pop("dataset_name")
    return {name: value for name, value in own.items() if value is not None}


def original_differences(config: TrainConfig, known: dict) -> list[str]:
    """Return the settings in which a run of theirs differs from `config`."""
    here = resolved_settings(config)
    return [
        f"{flag(name)}: {value} there, {here.get(name)} here"
        for name, value in known.items()
        if here.get(name) != value
    ]


def adopt_original(checkpoint: dict, path: str | Path) -> dict:
    """Return what continuing takes, made of a checkpoint of theirs.

    What it does not tell is None: the length of its data, where it was to end, the log's window
    and the state of regularisers. Raises `ValueError` for REPA's, whose time runs the other way,
    and for one whose optimizer is not its model's.
    """
    if is_reversed(checkpoint):
        raise ValueError(
            f"checkpoint {path}: REPA's network, whose time runs the other way; it can be sampled, "
            f"but no run can go on from it here"
        )
    model, ema = (weights_of(checkpoint, path, kind) for kind in ("model", "ema"))
    settings = original_settings(checkpoint)
    try:
        optimizer, step = named_optimizer(checkpoint["opt"], list(model))
        check_optimizer(optimizer, model, "opt")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"checkpoint {path}: its optimizer is not its model's: {error}") from None
    return {
        "model": model,
        "ema": ema,
        "opt": optimizer,
        "step": step,
        "original": settings,
        "arch": describe_weights(model, settings.get("num_classes"), f"checkpoint {path}"),
        **dict.fromkeys(("data_length", "last_step", "meter", "regularizers")),
    }


def named_optimizer(optimizer: dict, names: list[str]) -> tuple[dict, int]:
    """Return AdamW's state with parameters by name instead of by number, and the steps it made.

    Args:
        names: of the model's parameters, in its order.
    """
    (group,) = optimizer["param_groups"]
    trained = [name for name in names if name != FROZEN]
    numbers = group["params"]
    if len(numbers) not in (len(names), len(trained)):
        raise ValueError(f"{len(numbers)} parameters there, {len(names)} in the model")
    listed = names if len(numbers) == len(names) else trained
    states = {}
    for number, name in zip(numbers, listed, strict=True):
        if name != FROZEN:
            if number not in optimizer["state"]:
                raise ValueError(f"no state of {name}")
            states[name] = {**optimizer["state"][number]}
            states[name]["step"] = torch.as_tensor(states[name]["step"], dtype=torch.float32)
    step = max(int(state["step"]) for state in states.values())
    return {"state": states, "param_groups": [group | ENGINE | {"params": trained}]}, step


def with_frozen(optimizer: dict, names: list[str]) -> dict:
    """Return a state that names its parameters as one of all of the model's, in their order."""
    groups = optimizer.get("param_groups", [])
    for group in groups:
        group["params"] = [name for name in names if name in {*group["params"], FROZEN}]
    return optimizer


def original_args(config: TrainConfig) -> Any:
    """Return a run's settings as attributes that are called as their flags.

    They ask for attributes, as of a `Namespace`; an `OrderedDict` has them as well, and is what
    `torch.load` reads without being told to trust the file.
    """
    every = flat(dataclasses.asdict(config))
    values: dict[str, Any] = {name: every.get(name) for name in SHARED}
    pairs, weight = layer_sync_settings(config)
    values |= {"multi_blocks_match": pairs, "reg_weight": weight, "ckpt": None, "fine_tune": False}
    if len(pairs) == 1:
        ((values["encoder_depth"], values["gt_encoder_depth"]),) = pairs
    args: OrderedDict = OrderedDict()
    vars(args).update(values)
    return args

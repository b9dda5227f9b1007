"""Types of the parts of this project's checkpoints, checked where a file is read.

A file may have been altered, or cut and put together again: without these checks it would fail
somewhere in the middle, or train on from what is no number. Other projects' files have fewer parts;
of theirs only the weights are looked at (models/trained.py).
"""

import math
from collections.abc import Callable, Iterator

from torch import Tensor

LARGEST_STEP = 2**53
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # as large as their parameter
PATHS, PREDICTIONS = ("Linear", "GVP", "VP"), ("velocity", "score", "noise")


def check_content(content: dict) -> None:
    """Raise `ValueError`, without the file's name, for a part that is not what it should be.

    Missing parts are not looked for: what a reader needs differs.
    """
    for name, check in PARTS.items():
        if name in content:
            check(name, content[name])
    if "model" in content and "ema" in content:
        check_alike(content["ema"], content["model"])
    for optimizer, weights in (("opt", "model"), ("heads_opt", "heads")):
        if optimizer in content and weights in content:
            check_optimizer(content[optimizer], content[weights], optimizer)


def check_finite(content: dict) -> None:
    """Raise `ValueError` that names the first tensor with NaN or infinity in it; reads them all."""
    for name, tensor in tensors(content):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")


def tensors(value, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in nested dicts and lists, with its keys."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from tensors(item, f"{name}.{key}" if name else str(key))


def need(holds: bool, name: str, value, what: str) -> None:
    if not holds:
        shown = type(value).__name__ if isinstance(value, dict | list | Tensor) else repr(value)
        raise ValueError(f"its {name} is {shown[:60]}, it must be {what}")


def whole_number(least: int) -> Callable[[str, object], None]:
    def check(name: str, value) -> None:
        fits = type(value) is int and least <= value < LARGEST_STEP
        need(fits, name, value, f"a whole number of at least {least}")

    return check


def text(name: str, value) -> None:
    need(isinstance(value, str), name, value, "a text")


def truth(name: str, value) -> None:
    need(isinstance(value, bool), name, value, "true or false")


def state_dict(name: str, value) -> None:
    named = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    need(named and len(value) > 0, name, value, "a state dict")
    for key, tensor in value.items():
        floats = isinstance(tensor, Tensor) and tensor.is_floating_point()
        need(floats, f"{name} {key}", tensor, "a tensor of floating-point numbers")


def states(name: str, value) -> None:
    named = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    need(named, name, value, "a list of the methods' states")
    for key, tensor in ((key, tensor) for item in value for key, tensor in item.items()):
        need(isinstance(tensor, Tensor), f"{name} {key}", tensor, "a tensor")


def record(**fields: Callable[[str, object], None]) -> Callable[[str, object], None]:
    """Return a check of a dict by a check of each of these keys, which may be missing."""

    def check(name: str, value) -> None:
        named = isinstance(value, dict) and all(isinstance(key, str) for key in value)
        need(named, name, value, "a dict of settings")
        for key, check_field in fields.items():
            if key in value:
                check_field(f"{name} {key}", value[key])

    return check


def one_of(*known: str) -> Callable[[str, object], None]:
    def check(name: str, value) -> None:
        need(value in known, name, value, f"one of {', '.join(known)}")

    return check


def sums(name: str, value) -> None:
    numbers = isinstance(value, list) and all(
        isinstance(number, float) and math.isfinite(number) for number in value
    )
    need(numbers, name, value, "a list of finite numbers")


def meter(name: str, value) -> None:
    record(sums=sums, count=whole_number(0))(name, value)
    need(value.keys() >= {"sums", "count"}, name, value, "the sums and their count")


def network(name: str, value) -> None:
    sizes = dict.fromkeys(("input_size", "in_channels", "num_classes"), whole_number(1))
    record(name=text, learn_sigma=truth, **sizes)(name, value)
    missing = {"name", *sizes} - value.keys()
    need(not missing, name, value, f"complete, it lacks {', '.join(sorted(missing))}")


def check_alike(average: dict, weights: dict) -> None:
    """Raise `ValueError` unless the moving average has the names and shapes of its weights."""
    for key in average.keys() | weights.keys():
        if key not in average or key not in weights:
            raise ValueError(f"{key} is in one of its model and ema, and not in the other")
        here, there = tuple(average[key].shape), tuple(weights[key].shape)
        if here != there:
            raise ValueError(f"its ema has {key} of shape {here}, its model of {there}")


def check_optimizer(value, weights, name: str) -> None:
    """Raise `ValueError` unless the moments are those of the weights, name by name."""
    needed = isinstance(value, dict) and value.keys() >= {"state", "param_groups"}
    need(needed, name, value, "an optimizer's state and param_groups")
    groups, moments = value["param_groups"], value["state"]
    listed = isinstance(groups, list) and all(isinstance(group, dict) for group in groups)
    need(listed, f"{name} param_groups", groups, "a list of dicts")
    need(isinstance(moments, dict), f"{name} state", moments, "a dict")
    for key, state in moments.items():
        need(isinstance(state, dict), f"{name} state {key}", state, "a dict")
        for moment in MOMENTS:
            if moment not in state:
                continue
            tensor, like = state[moment], weights.get(key)
            fits = isinstance(tensor, Tensor) and (like is None or tensor.shape == like.shape)
            need(fits, f"{name} {moment} of {key}", tensor, "a tensor as large as its weights")


def cut_off(name: str, value) -> None:
    fits = value is None or (type(value) in (int, float) and 0 <= value < 0.5)
    need(fits, name, value, "a number in [0, 0.5)")


CONFIG = record(
    image_size=whole_number(1),
    num_classes=whole_number(1),
    vae=text,
    transport=record(path_type=one_of(*PATHS), prediction=one_of(*PREDICTIONS), sample_eps=cut_off),
)
PARTS: dict[str, Callable[[str, object], None]] = {
    "step": whole_number(0),
    "last_step": whole_number(1),
    "data_length": whole_number(1),
    "data_list": text,
    "model": state_dict,
    "ema": state_dict,
    "heads": state_dict,
    "config": CONFIG,
    "arch": network,
    "codec": text,
    "meter": meter,
    "regularizers": states,
}

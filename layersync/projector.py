"""CREPA's projector: p = Linear(LayerNorm(z)), D -> D, in float32, trained with the model."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from layersync.schedule import mean_over_processes

PREFIX = "projector."


class Projector(nn.Sequential):
    """LayerNorm, then Linear, made when the width is known.

    Where torch.distributed is in use, replicas have the first process's weights from the first
    projection in training on, and the mean of all processes' gradients, as DDP's have. Sharded
    parameters (DTensor) are left to `fully_shard`: there is one of each, and it averages.

    Args:
        width: D, or None to make the layers at the first projection or `load_state`.
        device: where they are made.
    """

    def __init__(self, width: int | None, device: torch.device | str):
        super().__init__()
        if width is not None and (type(width) is not int or width < 1):
            raise ValueError(f"width: {width!r} must be the width D of the student's tokens")
        self.made_on, self.shared = device, False
        if width is not None:
            self.make(width)

    def make(self, width: int) -> None:
        """Make the layers, with torch's initial weights."""
        made: dict[str, Any] = {"device": self.made_on, "dtype": torch.float32}
        self.append(nn.LayerNorm(width, **made)).append(nn.Linear(width, width, **made))
        self.average_gradients()

    def average_gradients(self) -> None:
        for parameter in self.parameters():
            parameter.register_hook(average_gradient)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.average_gradients()  # a copy of a parameter has no hooks

    def trained(self) -> Iterator[nn.Parameter]:
        """Return the parameters; `RuntimeError` before there are any."""
        if not len(self):
            raise RuntimeError(
                "the projector has no parameters yet, for the width of the tokens is not known: "
                "give CREPA(..., width=D), or take a first loss() before making the optimizer"
            )
        return self.parameters()

    def project(self, states: Tensor) -> Tensor:
        """Return Linear(LayerNorm(states)), (..., D); `ValueError` for another width."""
        width = states.shape[-1]
        if not len(self):
            self.made_on = states.device
            self.make(width)
        norm: Any = self[0]
        if norm.normalized_shape != (width,):
            raise ValueError(
                f"width: the projector has {norm.normalized_shape[0]}, but the student's "
                f"tokens have {width}, {tuple(states.shape)}; give CREPA(..., width={width})"
            )
        # the model may have moved since; never needlessly, for it breaks torch.func.grad
        moved = any(parameter.device != states.device for parameter in self.parameters())
        if moved and not self.shared and not any(map(sharded, self.parameters())):
            self.to(states.device)
        if not self.shared and torch.is_grad_enabled():  # evaluation may be one process's own
            share_weights(self)
            self.shared = True
        return self(states)

    def state(self) -> dict[str, Tensor]:
        """Return the weights, by names that start with "projector."."""
        return {PREFIX + name: value for name, value in self.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state` gave; `ValueError` for missing entries or another width."""
        given = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
        if not given and not len(self):
            return  # saved before the layers were made
        if not len(self) and given.get("0.weight") is not None:
            self.make(len(given["0.weight"]))
        expected = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        stored = {name: tuple(value.shape) for name, value in given.items()}
        if expected != stored:
            raise ValueError(
                f"the state of the projector holds {stored}, but this one needs {expected}; give "
                f"CREPA the width that it was saved with"
            )
        self.load_state_dict(given)


def sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, whose import takes long


def share_weights(module: nn.Module) -> None:
    """Give every process the first one's weights, a collective."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    for parameter in module.parameters():
        if not sharded(parameter):
            dist.broadcast(parameter.data, 0)


def average_gradient(gradient: Tensor) -> Tensor:
    """Return the mean of a parameter's gradient over all processes, a collective."""
    return gradient if sharded(gradient) else mean_over_processes(gradient)


def device_of(block: nn.Module) -> torch.device:
    """Return where a block's first parameter is; the CPU for none, or one without storage."""
    parameter = next(block.parameters(), None)
    if parameter is None or parameter.is_meta:
        return torch.device("cpu")
    return parameter.device

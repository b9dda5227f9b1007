"""Record what chosen blocks return, while and only while a `with` statement runs.

A recorder is an instance attribute `forward` that shadows the class's method and is deleted on
exit. `register_forward_hook` would read better, but `torch.compile` does not look for hooks that
come after the first call: a model compiled outside the `with` statement would then silently record
nothing. It does notice a shadowed `forward`, and because each recorder is made once, a compiled
model keeps two graphs (recording and not) and never recompiles after that.

A recorder is a bound method named `forward`, as the one it shadows, so that a model may be copied
or pickled in the middle of it: pickle stores the name, `deepcopy` binds it to the copy, and the
copy runs its own blocks and records nothing.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn

Outputs = dict[Hashable, list[Any]]


class BlockRecorder:
    """Records the outputs of `blocks[key]`; `outputs[key]` lists one entry per call."""

    def __init__(self, blocks: Mapping[Hashable, nn.Module]):
        self.blocks = dict(blocks)
        self.outputs: Outputs = {}
        self._recorders: dict[Hashable, tuple[Callable | None, Callable]] = {}
        self._active = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Start with no outputs, record, and leave the blocks as they were, whatever happens."""
        if self._active:
            raise RuntimeError("capture() is already active; leave it before entering it again")
        self.clear()
        shadowed = {key: vars(block).get("forward") for key, block in self.blocks.items()}
        self._active = True
        try:
            for key, block in self.blocks.items():
                block.forward = self._recorder(key, shadowed[key])
            yield
        except BaseException:
            self.clear()  # half a forward pass is no use to anybody, and it holds memory
            raise
        finally:
            for key, block in self.blocks.items():
                restore_forward(block, shadowed[key])
            self._active = False

    def take(self) -> Outputs:
        """Hand over what was recorded, keeping nothing."""
        taken = dict(self.outputs)
        self.clear()
        return taken

    def clear(self) -> None:
        """Let go of every recorded output."""
        self.outputs.clear()  # the recorders hold this very dict

    def missing(self) -> Iterable[Hashable]:
        """The keys of the blocks that have not run since recording started."""
        return [key for key in self.blocks if key not in self.outputs]

    def _recorder(self, key: Hashable, shadowed: Callable | None) -> Callable:
        """The recording `forward` of a block; kept, so that torch.compile meets it again."""
        known = self._recorders.get(key)
        if known is None or known[0] is not shadowed:
            known = (shadowed, make_recorder(self.blocks[key], shadowed, key, self.outputs))
            self._recorders[key] = known
        return known[1]


def make_recorder(
    block: nn.Module, shadowed: Callable | None, key: Hashable, outputs: Outputs
) -> MethodType:
    def forward(self, *args, **kwargs):
        if shadowed is None:
            output = type(self).forward(self, *args, **kwargs)
        else:
            output = shadowed(*args, **kwargs)
        if torch.compiler.is_compiling() or (self is block and not in_backward()):
            outputs.setdefault(key, []).append(output)
        return output

    return MethodType(forward, block)


def in_backward() -> bool:
    """Whether autograd is at work: then activation checkpointing repeats a pass, it is no new one.

    There is no public name for it; torch.utils.checkpoint asks the same function.
    """
    return torch._C._current_graph_task_id() != -1


def restore_forward(block: nn.Module, shadowed: Callable | None) -> None:
    if shadowed is not None:
        block.forward = shadowed
    else:
        vars(block).pop("forward", None)

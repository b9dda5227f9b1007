"""Record what chosen blocks return, while and only while a `with` statement runs.

A recorder is an instance attribute `forward` that shadows the class's method and is deleted on
exit. `register_forward_hook` would read better, but `torch.compile` does not look for hooks that
come after the first call: a model compiled outside the `with` statement would then silently record
nothing. It does notice a shadowed `forward`, and because each recorder is made once, a compiled
model keeps two graphs (recording and not) and never recompiles after that.

Under non-reentrant activation checkpointing the recomputation happens in the backward pass, after
the `with` statement, and so records nothing a second time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class BlockRecorder:
    """Records the outputs of `blocks[number]`; `outputs[number]` lists one entry per call."""

    def __init__(self, blocks: Mapping[int, nn.Module]):
        self.blocks = dict(blocks)
        self.outputs: dict[int, list[Tensor]] = {}
        self._recorders: dict[int, tuple[Callable | None, Callable]] = {}
        self._active = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Start with no outputs, record, and leave the blocks as they were, whatever happens."""
        if self._active:
            raise RuntimeError("capture() is already active; leave it before entering it again")
        self.clear()
        shadowed = {n: vars(block).get("forward") for n, block in self.blocks.items()}
        self._active = True
        try:
            for number, block in self.blocks.items():
                block.forward = self._recorder(number, shadowed[number])
            yield
        except BaseException:
            self.clear()  # half a forward pass is no use to anybody, and it holds memory
            raise
        finally:
            for number, block in self.blocks.items():
                restore_forward(block, shadowed[number])
            self._active = False

    def clear(self) -> None:
        """Let go of every recorded tensor."""
        self.outputs.clear()

    def missing(self) -> Iterable[int]:
        """The block numbers that have not run since recording started."""
        return [number for number in self.blocks if number not in self.outputs]

    def _recorder(self, number: int, shadowed: Callable | None) -> Callable:
        """The recording `forward` of a block; kept, so that torch.compile meets it again."""
        known = self._recorders.get(number)
        if known is None or known[0] is not shadowed:
            known = (shadowed, make_recorder(self.blocks[number].forward, number, self.outputs))
            self._recorders[number] = known
        return known[1]


def make_recorder(forward: Callable, number: int, outputs: dict[int, list[Tensor]]) -> Callable:
    def recorded_forward(*args, **kwargs):
        output = forward(*args, **kwargs)
        outputs.setdefault(number, []).append(output)
        return output

    return recorded_forward


def restore_forward(block: nn.Module, shadowed: Callable | None) -> None:
    if shadowed is not None:
        block.forward = shadowed
    else:
        vars(block).pop("forward", None)

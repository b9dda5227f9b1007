"""Record what chosen blocks return, while and only while a `with` statement runs.

A recorder is an instance attribute `forward` that shadows the class's method and is deleted on
exit. `register_forward_hook` would read better, but `torch.compile` does not look for hooks that
come after the first call: a model compiled outside the `with` statement would then silently record
nothing. It does notice a shadowed `forward`, and because each recorder is made once, a compiled
model keeps two graphs (recording and not) and never recompiles after that.

A block that was itself compiled in place, by `block.compile()`, is recorded around its compiled
call instead: its graph is the same with and without recording, and shared with all other blocks, of
however many pairs.

A recorder is a bound method named `forward`, as the one it shadows, so that a model may be copied
or pickled in the middle of it: pickle stores the name, `deepcopy` binds it to the copy, and the
copy runs its own blocks and records nothing. A copy of this object has recorded nothing either.

Outputs are kept as they were returned: of a dict, list or other object, which a later block may
fill anew, a copy, not of the tensors in it. That these are changed in place is noticed, where
nothing is compiled.
"""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from layersync.outputs import tensors_in

COMPILED = "_compiled_call_impl"  # where `nn.Module.compile` puts what is called from then on

Outputs = dict[Hashable, list[Any]]
Versions = dict[Hashable, list[tuple[Tensor, int]]]  # how often a tensor had been changed in place
Sinks = tuple[tuple[Outputs, Versions, Hashable], ...]  # where an output goes, under which key


class BlockRecorder:
    """Records the outputs of `blocks[key]`; `outputs[key]` lists one entry per call."""

    def __init__(self, blocks: Mapping[Hashable, nn.Module]):
        self.blocks = dict(blocks)
        self.outputs: Outputs = {}
        self.versions: Versions = {}
        self._forwards: dict[tuple, tuple[Callable | None, Callable]] = {}
        self._active = False

    def __getstate__(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {"outputs": {}, "versions": {}, "_forwards": {}, "_active": False}
        return vars(self) | fresh

    @contextmanager
    def recording(self, *others: "BlockRecorder") -> Iterator[None]:
        """Start with no outputs, record, and leave the blocks as they were, whatever happens.

        `others` record in the same passes. A block that several ask for is shadowed once, and
        each of them is handed the same output.

        Raises `RuntimeError` where one of them records already, or where what calls the block was
        replaced meanwhile.
        """
        together = list(dict.fromkeys([self, *others]))
        if any(recorder._active for recorder in together):
            raise RuntimeError("capture() is already active; leave it before entering it again")
        sinks: dict[nn.Module, list[tuple[Outputs, Versions, Hashable]]] = {}
        for recorder in together:
            recorder.clear()
            for key, block in recorder.blocks.items():
                sinks.setdefault(block, []).append((recorder.outputs, recorder.versions, key))
        names = {block: called_name(block) for block in sinks}
        shadowed = {block: vars(block).get(name) for block, name in names.items()}
        records: dict[nn.Module, Callable] = {}
        set_active(together, True)
        try:
            for block, wanted in sinks.items():
                record = self._forward(block, shadowed[block], tuple(wanted))
                setattr(block, names[block], record)
                records[block] = record
            yield
            check_in_place(records, names, shadowed)
        except BaseException:
            for recorder in together:  # half a forward pass is useless, and it holds memory
                recorder.clear()
            raise
        finally:
            for block, was in shadowed.items():
                restore(block, names[block], was)
            set_active(together, False)

    def take(self) -> Outputs:
        """Hand over what was recorded, keeping nothing."""
        taken = dict(self.outputs)
        self.clear()
        return taken

    def clear(self) -> None:
        """Forget every recorded output."""
        self.outputs.clear()  # the recording forwards hold these very dicts
        self.versions.clear()

    def changed(self) -> dict[Hashable, list[Tensor]]:
        """Return, for blocks of whose outputs a tensor was changed in place since, the others."""
        others = {
            key: [tensor for tensor, version in known if tensor._version == version]
            for key, known in self.versions.items()
        }
        return {key: same for key, same in others.items() if len(same) < len(self.versions[key])}

    def missing(self) -> Iterable[Hashable]:
        """The keys of the blocks that have not run since recording started."""
        return [key for key in self.blocks if key not in self.outputs]

    def _forward(self, block: nn.Module, shadowed: Callable | None, sinks: Sinks) -> Callable:
        """The recording `forward` of a block; kept, so that torch.compile meets it again."""
        key = (block, *((id(outputs), name) for outputs, _, name in sinks))
        known = self._forwards.get(key)
        if known is None or known[0] is not shadowed:
            known = (shadowed, make_forward(block, shadowed, sinks))
            self._forwards[key] = known
        return known[1]


def set_active(recorders: Iterable[BlockRecorder], active: bool) -> None:
    for recorder in recorders:
        recorder._active = active


def make_forward(block: nn.Module, shadowed: Callable | None, sinks: Sinks) -> MethodType:
    def forward(self, *args, **kwargs):
        if shadowed is None:
            output = type(self).forward(self, *args, **kwargs)
        else:
            output = shadowed(*args, **kwargs)
        if torch.compiler.is_compiling() or (self is block and not in_backward()):
            for outputs, versions, key in sinks:
                outputs.setdefault(key, []).append(as_returned(output))
                if not torch.compiler.is_compiling():
                    versions.setdefault(key, []).extend(versions_of(output))
        return output

    return MethodType(forward, block)


def as_returned(output: Any) -> Any:
    """Return an output that stays as it is when the model goes on to fill its container anew."""
    if type(output) in (dict, list):
        return output.copy()
    if torch.compiler.is_compiling() or isinstance(output, Tensor | tuple):
        return output
    try:
        return copy.copy(output)
    except TypeError:  # an object that cannot be copied
        return output


def versions_of(output: Any) -> list[tuple[Tensor, int]]:
    """Return the tensors in an output, and how often each was changed in place so far."""
    return [(tensor, tensor._version) for tensor in tensors_in(output) if not tensor.is_inference()]


def check_in_place(
    records: Mapping[nn.Module, Callable],
    names: Mapping[nn.Module, str],
    shadowed: Mapping[nn.Module, Callable | None],
) -> None:
    """Raise `RuntimeError` where a block is no longer called through its recorder."""
    for block, record in records.items():
        now = vars(block).get(names[block])
        if now is not record and now is not shadowed[block]:
            raise RuntimeError(
                f"{type(block).__name__}.{names[block]} was replaced inside capture(), and is put "
                f"back: wrap or hook blocks outside of it, and leave several captures in reverse "
                f"order"
            )


def in_backward() -> bool:
    """Return whether autograd runs: then activation checkpointing repeats a pass.

    Such a pass is not recorded as a new one. There is no public name for this question;
    torch.utils.checkpoint asks the same function.
    """
    return torch._C._current_graph_task_id() != -1


def called_name(block: nn.Module) -> str:
    """Return the attribute that a call of the block runs: its forward, or that one compiled."""
    return "forward" if vars(block).get(COMPILED) is None else COMPILED


def restore(block: nn.Module, name: str, shadowed: Callable | None) -> None:
    if shadowed is not None:
        setattr(block, name, shadowed)
    else:
        vars(block).pop(name, None)

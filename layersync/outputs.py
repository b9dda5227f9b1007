"""Reading the tokens that a block returns (N, T, D): choose a tensor, then arrange its axes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

Select = Callable[[Any], Tensor] | int | str

# what a field with the block's tokens is called; the other fields then do not matter
TOKEN_FIELDS = ("hidden_states", "last_hidden_state", "sample")


@dataclass(frozen=True)
class TokenReader:
    """A way to read a block's tokens off its output.

    Args:
        select: which tensor, if there are several: a position, a name, or a function of the
            output that returns a tensor.
        batch_first: whether hidden states are (N, T, D); if not, (T, N, D).
        channels_first: whether they are maps (N, D, H, W), or (N, D, T, H, W), or (N, D, T).

    Without `channels_first`, axes between the first and the last are flattened: (N, T, P, D) of a
    video is (N, T * P, D).
    """

    select: Select | None = None
    batch_first: bool = True
    channels_first: bool = False

    def __post_init__(self):
        for name in ("batch_first", "channels_first"):
            if type(getattr(self, name)) is not bool:
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if self.channels_first and not self.batch_first:
            raise ValueError(
                "channels_first=True with batch_first=False: there is no such layout of maps; "
                "arrange (N, T, D) in a function and pass it as select"
            )
        select = self.select
        if not (select is None or callable(select) or type(select) in (int, str)):
            raise TypeError(
                f"select: expected a position, a name or a function, got {select!r}, "
                f"of type {type(select).__name__}"
            )

    def tokens(self, output: Any) -> Tensor:
        """Return tokens (N, T, D); `ValueError` or `TypeError` says what `output` holds instead."""
        hidden = self.states(output)
        return hidden if hidden.dim() == 3 else hidden.flatten(1, 2)

    def states(self, output: Any) -> Tensor:
        """Return (N, T, P, D) where an axis stands for frames, else (N, S, D); errors as `tokens`.

        Axes between the second and the last are flattened.
        """
        hidden = choose(output, self.select)
        if hidden.dim() < 3:
            raise ValueError(
                f"returned {describe(hidden)}; tokens (N, T, D), or maps with channels_first=True, "
                f"have three axes or more"
            )
        if self.channels_first:
            if hidden.dim() < 5:
                return hidden.flatten(2).transpose(1, 2)  # (N, D, H, W) -> (N, H * W, D)
            return hidden.movedim(1, -1).flatten(2, -2)  # (N, D, T, H, W) -> (N, T, H * W, D)
        if not self.batch_first:
            hidden = hidden.transpose(0, 1)  # (T, N, D) -> (N, T, D)
        return hidden if hidden.dim() == 3 else hidden.flatten(2, -2)


def choose(output: Any, select: Select | None) -> Tensor:
    """Return the one tensor in `output` that holds the tokens."""
    if callable(select):
        chosen, how = select(output), "select(output)"
    elif select is not None:
        chosen, how = entry(output, select), f"select={select!r}"
    else:
        chosen, how = only_tensor(output), "the output"
    if not isinstance(chosen, Tensor):
        raise TypeError(f"returned {describe(output)}, of which {how} is {describe(chosen)}")
    if not chosen.is_floating_point():
        raise TypeError(f"returned {describe(output)}, of which {how} is of {chosen.dtype}")
    return chosen


def entry(output: Any, select: int | str) -> Any:
    entries = contents(output)
    if select in entries:
        return entries[select]
    if isinstance(select, int) and isinstance(output, tuple | list) and -len(output) <= select < 0:
        return output[select]
    raise ValueError(f"returned {describe(output)}, which has no entry select={select!r}")


def only_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    entries = contents(output)
    tensors = {
        key: value
        for key, value in entries.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    named = [key for key in TOKEN_FIELDS if key in tensors]
    if named or len(tensors) == 1:
        return tensors[named[0]] if named else next(iter(tensors.values()))
    if not tensors:
        raise ValueError(
            f"returned {describe(output)}, no tensor; pass select, a function from what the block "
            f"returns to its tokens (N, T, D)"
        )
    raise ValueError(
        f"returned {describe(output)}: several tensors, none named {' or '.join(TOKEN_FIELDS)}. "
        f"Say which is meant with {' or '.join(f'select={key!r}' for key in tensors)}, or pass a "
        f"function as select"
    )


def contents(output: Any) -> dict[int | str, Any]:
    """Return the entries of a tuple by position (and name), of a dict or dataclass by name."""
    if isinstance(output, Mapping):
        return dict(output)
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if hasattr(output, "_asdict"):
        return output._asdict()  # a named tuple
    return dict(enumerate(output)) if isinstance(output, tuple | list) else {}


def tensors_in(output: Any) -> list[Tensor]:
    """Return the tensors that an output is or holds."""
    entries = [output] if isinstance(output, Tensor) else contents(output).values()
    return [entry for entry in entries if isinstance(entry, Tensor)]


def describe(output: Any) -> str:
    """Return the type of an output and, of tensors, the shapes."""
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    entries = contents(output)
    kind = type(output).__name__
    if not entries:
        return f"{kind} {output!r:.60}"
    parts = (
        f"{key}: {describe(value) if isinstance(value, Tensor) else type(value).__name__}"
        for key, value in entries.items()
    )
    return f"{kind} of {', '.join(parts)}"

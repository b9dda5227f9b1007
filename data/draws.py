"""Draws that something asks for by declaring them, so that they can be made ahead of time.

No torch here: settings are declared beside them, and --help is instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from runtime.randomness import Streams


@dataclass(frozen=True)
class Draw:
    """A draw for each sample: from U[0, 1), or standard-normal where it has a shape."""

    name: str
    """under which a batch holds it"""
    shape: tuple[int, ...] | None = None

    def of(self, streams: Streams) -> Tensor:
        """Draw (N,) or (N, *shape), float32."""
        return streams.uniform() if self.shape is None else streams.normal(self.shape)

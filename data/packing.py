"""One block of memory for everything that a step needs, so that one copy brings it to a device.

The loader's workers pack, the loader pins where there is a GPU, and the run places:

    packed = Packed.of(7, {"images": ..., "labels": ..., "t": ...}).pin_memory()
    packed.to("cuda")["t"]
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes; the width of a cache line, and a multiple of every dtype's size


@dataclass(frozen=True)
class Place:
    """The place of a tensor in the block."""

    first: int
    """byte"""
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, block: Tensor) -> Tensor:
        return block[self.first : self.first + self.size].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Packed:
    """Named tensors of a step, one after the other in a block of bytes."""

    step: int
    """steps done before this one"""
    block: Tensor
    """(bytes,) uint8"""
    places: Mapping[str, Place]

    @classmethod
    def of(cls, step: int, tensors: Mapping[str, Tensor]) -> "Packed":
        """Copy CPU tensors of any dtypes and shapes into one block."""
        places, end = {}, 0
        for name, tensor in tensors.items():
            places[name] = Place(end, tensor.dtype, tuple(tensor.shape))
            end += -(-places[name].size // ALIGNMENT) * ALIGNMENT
        packed = cls(step, torch.zeros(end, dtype=torch.uint8), places)
        for name, tensor in tensors.items():
            packed[name].copy_(tensor)
        return packed

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor where it lies: a view of the block."""
        return self.places[name].view(self.block)

    def pin_memory(self) -> "Packed":
        """Return the same in page-locked memory; `DataLoader` calls this by its name."""
        return replace(self, block=self.block.pin_memory())

    def to(self, device: torch.device | str) -> dict[str, Tensor]:
        """Return all tensors on a device, in one copy; from pinned memory nobody waits for it."""
        block = self.block.to(device, non_blocking=True)
        return {name: place.view(block) for name, place in self.places.items()}

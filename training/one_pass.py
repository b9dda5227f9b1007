"""AdamW, the moving average and the gradients' norm in one pass over memory, a Triton kernel.

    m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
    w = (1 - lr wd) w - lr / (1 - b1^s) m / (sqrt(v / (1 - b2^s)) + eps)
    e = e + (1 - decay) (w - e)                                        (step s, average e)

Of each parameter g, w, m, v and e are read once and the last four written once: 36 bytes, where
norm, AdamW and average one after the other move 44. With weights in bf16, of which g and a copy of
w are, it is 36 instead of 56. Imported on CUDA only, where torch comes with Triton.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # elements of a program: 16 for each of its threads
ALIGNMENT = 16  # bytes that one instruction of a thread loads


@triton.jit
def make_step(
    pointers, gradients, sizes, owners, starts, squares, scale,
    rate, beta1, beta2, bias1, root_bias2, eps, shrink, weight,
    HALF: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Update the elements of one chunk, which lies in the parameter number `owners[chunk]`.

    `pointers` has a row for each parameter: addresses of w, m, v, e and the copy of w in bf16. All
    sizes are multiples of WIDTH, and all addresses of 16 bytes unless it is 1.
    """
    chunk = tl.program_id(0)
    owner = tl.load(owners + chunk)
    start, size = tl.load(starts + chunk), tl.load(sizes + owner)
    if WIDTH > 1:
        start, size = tl.multiple_of(start, 16), tl.multiple_of(size, WIDTH)
    offsets = start + tl.arange(0, SIZE)
    inside = offsets < size
    row = pointers + owner * 5
    w_at = tl.load(row).to(tl.pointer_type(tl.float32))
    m_at = tl.load(row + 1).to(tl.pointer_type(tl.float32))
    v_at = tl.load(row + 2).to(tl.pointer_type(tl.float32))
    e_at = tl.load(row + 3).to(tl.pointer_type(tl.float32))
    if HALF:
        g_at = tl.load(gradients + owner).to(tl.pointer_type(tl.bfloat16))
    else:
        g_at = tl.load(gradients + owner).to(tl.pointer_type(tl.float32))
    if WIDTH > 1:  # else every load is of one element
        g_at, w_at = tl.multiple_of(g_at, 16), tl.multiple_of(w_at, 16)
        m_at, v_at = tl.multiple_of(m_at, 16), tl.multiple_of(v_at, 16)
        e_at = tl.multiple_of(e_at, 16)

    g = tl.load(g_at + offsets, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(w_at + offsets, mask=inside, other=0.0)
    m = tl.load(m_at + offsets, mask=inside, other=0.0)
    v = tl.load(v_at + offsets, mask=inside, other=0.0)
    e = tl.load(e_at + offsets, mask=inside, other=0.0)
    tl.store(squares + chunk, tl.sum(g * g))
    g = g * tl.load(scale)
    m = m + (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    w = shrink * w - rate / bias1 * m / (tl.sqrt(v) / root_bias2 + eps)
    tl.store(w_at + offsets, w, mask=inside)
    tl.store(m_at + offsets, m, mask=inside)
    tl.store(v_at + offsets, v, mask=inside)
    tl.store(e_at + offsets, e + weight * (w - e), mask=inside)
    if HALF:
        copy_at = tl.load(row + 4).to(tl.pointer_type(tl.bfloat16))
        if WIDTH > 1:
            copy_at = tl.multiple_of(copy_at, 16)
        tl.store(copy_at + offsets, w.to(tl.bfloat16), mask=inside)


class OnePass:
    """The step of an AdamW with state, and of the average of its parameters.

    Args:
        optimizer: has one group; its state is changed in place and stays what checkpoints read.
        averages: like its parameters.
        decay: of the average.
        copies: of its parameters, in bf16; gradients are then those of the copies.

    Parameters may be DTensors: each process changes its own shards.
    """

    def __init__(
        self,
        optimizer: torch.optim.AdamW,
        averages: Sequence[Tensor],
        decay: float,
        copies: Sequence[Tensor] = (),
    ):
        (self.group,) = optimizer.param_groups
        parameters = self.group["params"]
        states = [optimizer.state[p] for p in parameters]
        self.counts = [state["step"] for state in states]
        self.steps = int(self.counts[0])
        self.decay, self.half = decay, bool(copies)
        self.learned = list(copies) or parameters  # what has the gradients
        self.sharded = hasattr(parameters[0], "to_local")
        columns = [parameters, *([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq"))]
        self.kept = [
            [own(t) for t in column] for column in (*columns, averages, copies or parameters)
        ]
        weights = self.kept[0]
        self.device = weights[0].device
        addresses = [[t.data_ptr() for t in row] for row in zip(*self.kept, strict=True)]
        # elements that one instruction loads: a shard may hold four numbers of a bias
        self.width = ALIGNMENT // self.learned[0].element_size()
        self.aligned = all(a % ALIGNMENT == 0 for row in addresses for a in row) and all(
            t.numel() % self.width == 0 for t in weights
        )
        self.pointers = self.numbers(addresses)
        self.sizes = self.numbers([t.numel() for t in weights])
        chunks = [(i, at) for i, t in enumerate(weights) for at in range(0, t.numel(), BLOCK)]
        self.owners, self.starts = (self.numbers(list(c)) for c in zip(*chunks, strict=True))
        self.squares = torch.empty(len(chunks), device=self.device)
        self.unscaled = torch.ones((), device=self.device)
        self.known: list[int] = []

    def numbers(self, values: list) -> Tensor:
        """Return integers on the device, without waiting for it."""
        tensor = torch.tensor(values, dtype=torch.int64)
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    @torch.no_grad()
    def __call__(self, scale: Tensor | None = None) -> Tensor:
        """Make a step; returns the norm of the gradients, a scalar, before they are scaled.

        Args:
            scale: a scalar, multiplies them.
        """
        addresses = [own(p.grad).data_ptr() for p in self.learned]
        if addresses != self.known:
            self.known, self.gradients = addresses, self.numbers(addresses)
        self.steps += 1
        torch._foreach_add_(self.counts, 1)
        rate, (beta1, beta2) = self.group["lr"], self.group["betas"]
        aligned = self.aligned and all(a % ALIGNMENT == 0 for a in addresses)
        launch: Any = make_step[(len(self.squares),)]
        launch(
            self.pointers, self.gradients, self.sizes, self.owners, self.starts, self.squares,
            self.unscaled if scale is None else scale,
            rate, beta1, beta2, 1 - beta1**self.steps, (1 - beta2**self.steps) ** 0.5,
            self.group["eps"], 1 - rate * self.group["weight_decay"], 1 - self.decay,
            HALF=self.half, WIDTH=self.width if aligned else 1, SIZE=BLOCK, num_warps=8,
        )  # fmt: skip
        if self.half:  # an optimizer empties the gradients of its own parameters only
            for p in self.learned:
                p.grad = None
        total = self.squares.sum()
        if self.sharded:
            torch.distributed.all_reduce(total)
        return total.sqrt()


def own(tensor: Any) -> Tensor:
    """Return this process's shard of a DTensor, or the tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor

"""Count what a training step asks of a GPU, on a machine without one, and print a table.

    python scripts/count_step.py                                       # SiT-XL/2, 32 images
    python scripts/count_step.py --model SiT-S/2 --losses vanilla layer_sync sra
    python scripts/count_step.py --losses vanilla layer_sync --compile

What is counted, and how: scripts/benchmarks/counting.py. "launches" are operations that are not
views, "elementwise" the bytes that all but products and attention read and write, "saved" what the
forward pass keeps for the backward pass, each also relative to a vanilla step. "copied" are the
bytes brought from the loader in a step, in how many copies, and how many of them are waited for;
"waits" are other operations at which the CPU waits for the device.

With --compile each loss has a second row, of the kernels that inductor plans for an H100
(scripts/benchmarks/counted_graphs.py), relative to the compiled vanilla step.
"""

# ruff: noqa: E402 (the command line is parsed before torch is imported)
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command

Loss = Literal[
    "vanilla", "layer_sync", "multiple_sync", "dispersive", "sra", "repa", "repa+layer_sync"
]


@dataclass(frozen=True)
class CountStep:
    model: str = "SiT-XL/2"
    """model, for latents of 256 x 256 images"""
    batch: int = 32
    """images on a GPU"""
    losses: tuple[Loss, ...] = get_args(Loss)[:-1]
    """loss types; repa is that of cached features"""
    compile: bool = False
    """count compiled steps as well, some 15 s each"""


if __name__ == "__main__":
    CONFIG = parse_command(CountStep)

from tqdm import tqdm

from scripts.benchmarks.counting import Counted, count_step
from scripts.benchmarks.tables import markdown
from training.config import EngineConfig

COLUMNS = dict(
    loss="", compiled="", launches=",d", elementwise_gb=".2f", over_vanilla="+.2%", saved_gb=".3f",
    saved_over_vanilla="+.2%", copied_mb=".2f", copies="d", waited_for="d", waits="d",
)  # fmt: skip


def rows(c: CountStep) -> list[dict]:
    """Count a step of each loss type, eager and then compiled."""
    # what is copied is copied before a graph begins
    ahead = {loss: count_step(c.model, loss, c.batch, device="cuda") for loss in c.losses}
    table: list[dict] = []
    for compiled in (False, True) if c.compile else (False,):
        engine = EngineConfig(compile=compiled)
        base = count_step(c.model, "vanilla", c.batch, engine=engine)
        for loss in tqdm(c.losses, desc="compiled" if compiled else "eager", unit="loss"):
            whole = base
            if loss != "vanilla":
                whole = count_step(c.model, loss, c.batch, engine=engine)
            table.append(
                row(whole, base, ahead[loss])
                | dict(loss=loss, compiled="yes" if compiled else "no")
            )
    return table


def row(whole: Counted, base: Counted, ahead: Counted) -> dict:
    """Return the numbers of a step, relative to a vanilla one, and of what it waits for."""
    relative = {} if whole is base else dict(
        over_vanilla=whole.traffic / base.traffic - 1,
        saved_over_vanilla=whole.saved / base.saved - 1,
    )  # fmt: skip
    return relative | dict(
        launches=whole.launches, elementwise_gb=whole.traffic / 1e9, saved_gb=whole.saved / 1e9,
        copied_mb=sum(n for n, _ in ahead.copies) / 1e6, copies=len(ahead.copies),
        waited_for=sum(waited for _, waited in ahead.copies), waits=len(ahead.waits),
    )  # fmt: skip


if __name__ == "__main__":
    print(f"{CONFIG.model}, {CONFIG.batch} images\n")
    print(markdown(rows(CONFIG), COLUMNS))

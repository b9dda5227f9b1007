"""Count what a training step asks of a GPU, on a machine without one, and print a table.

    python scripts/count_step.py                                       # SiT-XL/2, 32 images
    python scripts/count_step.py --model SiT-S/2 --losses vanilla layer_sync sra

What is counted, and how: scripts/benchmarks/counting.py. "launches" are operations that are not
views, "elementwise" the bytes that all but products and attention read and write, "saved" what the
forward pass keeps for the backward pass, each also relative to a vanilla step. "copied" are the
bytes brought from the loader in a step, in how many copies, and how many of them are waited for;
"waits" are other operations at which the CPU waits for the device.
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


if __name__ == "__main__":
    CONFIG = parse_command(CountStep)

from scripts.benchmarks.counting import count_step
from scripts.benchmarks.tables import markdown

COLUMNS = dict(
    loss="", launches=",d", elementwise_gb=".2f", over_vanilla="+.2%", saved_gb=".3f",
    saved_over_vanilla="+.2%", copied_mb=".2f", copies="d", waited_for="d", waits="d",
)  # fmt: skip


def rows(c: CountStep) -> list[dict]:
    """Count a step of each loss type."""
    counted: list[dict] = []
    base = count_step(c.model, "vanilla", c.batch)
    for loss in c.losses:
        whole = base if loss == "vanilla" else count_step(c.model, loss, c.batch)
        ahead = count_step(c.model, loss, c.batch, device="cuda")
        row = dict(
            loss=loss, launches=whole.launches, elementwise_gb=whole.traffic / 1e9,
            saved_gb=whole.saved / 1e9, copied_mb=sum(n for n, _ in ahead.copies) / 1e6,
            copies=len(ahead.copies), waited_for=sum(waited for _, waited in ahead.copies),
            waits=len(ahead.waits),
        )  # fmt: skip
        if loss != "vanilla":
            row["over_vanilla"] = whole.traffic / base.traffic - 1
            row["saved_over_vanilla"] = whole.saved / base.saved - 1
        counted.append(row)
    return counted


if __name__ == "__main__":
    print(f"{CONFIG.model}, {CONFIG.batch} images\n")
    print(markdown(rows(CONFIG), COLUMNS))

"""Probing of all blocks against the forward passes that it needs, alternating."""

import statistics
from collections.abc import Iterator

import torch

from evaluation.blocks.linear_probe import TopAccuracy
from evaluation.blocks.tokens import Batch, TokenExtractor
from models import find_model
from scripts.benchmarks.timing import DEVICE, alternate, autocast, ratio
from transport import create_transport

COLUMNS = {
    "model": "",
    "batch": "d",
    "precision": "",
    "forward_ms": ".0f",
    "tokens": ".3f",
    "ridge": ".3f",
}
CLASSES, TIME = 1000, 0.5


def run(c) -> Iterator[dict]:
    """Yield a row for each model and precision: ms of a bare pass, and ratios of times to it.

    `tokens`: extraction from all blocks. `ridge`: that, and the sums of a ridge probe of each.
    """
    for name, size in c.sizes():
        for precision in c.precisions:
            yield measure(name, size, precision, c.repeats, c.clock)


@torch.no_grad()
def measure(name: str, size: int, precision: str, repeats: int, clock: str) -> dict:
    model = find_model(name)(num_classes=CLASSES).to(DEVICE).eval()
    path = create_transport().path
    bf16 = precision == "bf16"
    extractor = TokenExtractor(model, list(model.blocks), path, bf16=bf16)
    x_1, x_0 = torch.randn(2, size, 4, 32, 32, device=DEVICE)
    labels = torch.arange(size, device=DEVICE) % CLASSES
    batch, probe = Batch(x_1, x_0, labels), TopAccuracy(CLASSES)
    t, null = torch.full((size,), TIME, device=DEVICE), torch.full_like(labels, CLASSES)

    def forward() -> None:
        with autocast(precision):
            model(path.x_t(t, x_0, x_1), t, null)

    def ridge() -> None:
        probe.fit(extractor.tokens(batch, TIME), labels)

    works = {"forward": forward, "tokens": lambda: extractor.tokens(batch, TIME), "ridge": ridge}
    times = alternate(works, repeats, clock=clock)
    return {
        "model": name,
        "batch": size,
        "precision": precision,
        "forward_ms": 1e3 * statistics.median(times["forward"]),
        **{work: ratio(times[work], times["forward"]) for work in ("tokens", "ridge")},
    }

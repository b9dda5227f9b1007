"""Benchmark of writing the parts of a set of samples and assembling them: seconds and memory.

Peak memory is the kernel's high-water mark of a process that does nothing else (Linux); what it
had before it began is taken off.
"""

import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sampling.parts import SampleParts

COLUMNS = dict(
    images=",d", gb=".2f", write_s=".1f", write_growth_mb=".0f", assemble_s=".1f",
    assemble_growth_mb=".0f",
)  # fmt: skip
PROC = Path("/proc/self/clear_refs")  # writing 5 to it resets the peak
SHAPE, BATCH = (256, 256, 3), 32


def run(c) -> list[dict]:
    """Return one row, of a set of samples in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-npz-"))
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return [pool.submit(measure, folder, c.npz_images).result()]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check(c) -> None:
    """Raise `ValueError` for a machine without /proc, or a disk that is too small."""
    if not PROC.exists():
        raise ValueError("--parts npz: peak memory is read from Linux's /proc; leave npz out")
    folder = Path(tempfile.gettempdir())
    needed, free = make_parts(folder, c.npz_images).bytes_needed(), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"--npz-images {c.npz_images}: {needed / 1e9:.3g} GB needed in {folder}, and "
            f"{free / 1e9:.3g} GB free; give fewer, or another folder in TMPDIR"
        )


def make_parts(folder: Path, images: int) -> SampleParts:
    return SampleParts(folder / "samples.npz", {"benchmark": True}, images, BATCH, SHAPE)


def measure(folder: Path, images: int) -> dict:
    """Write random images batch by batch, as a sampling run does, and assemble them."""
    parts, generator = make_parts(folder, images), np.random.default_rng(0)
    parts.prepare()
    before, written = start_watching_memory(), 0.0
    counts = {name: np.full(BATCH, 250) for name in ("labels", "nfe", "network_passes")}
    for k in tqdm(range(parts.batches), desc="writing parts", unit="batch"):
        batch = generator.integers(256, size=(BATCH, *SHAPE), dtype=np.uint8)
        start = time.perf_counter()
        parts.write(k, batch, **counts)
        written += time.perf_counter() - start
    write_growth, before = peak_memory() - before, start_watching_memory()
    start = time.perf_counter()
    parts.assemble()
    assembled, growth = time.perf_counter() - start, peak_memory() - before
    return dict(
        images=images, gb=parts.out.stat().st_size / 1e9, write_s=written,
        write_growth_mb=write_growth / 1e6, assemble_s=assembled, assemble_growth_mb=growth / 1e6,
    )  # fmt: skip


def start_watching_memory() -> int:
    """Reset the peak of memory; return the bytes resident now."""
    PROC.write_text("5")
    return status_bytes("VmRSS")


def peak_memory() -> int:
    """Return the largest number of bytes resident since the reset."""
    return status_bytes("VmHWM")


def status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} in /proc/self/status")

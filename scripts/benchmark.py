"""Measure this implementation on this machine: one command, one JSON file, one table for each part.

    python scripts/benchmark.py                                   # everything
    python scripts/benchmark.py --parts steps --models SiT-B/2:8 --precisions fp32 bf16
    python scripts/benchmark.py --parts steps --compiled both     # eager and compiled
    python scripts/benchmark.py --parts steps --losses layer_sync dispersive sra repa
    python scripts/benchmark.py --parts sampling npz --npz-images 10000
    python scripts/benchmark.py --parts peers --peer ../SiT ../REPA --peer-models SiT-S/2:4
    torchrun --nproc_per_node=2 scripts/benchmark.py --parts exchange --models SiT-S/2:4
    python scripts/benchmark.py --table                # docs/benchmarks.md on a GPU, in 8 minutes

steps        training without and with LayerSync and other losses, alternating: images/s from the
             median step, the cost of a loss from the median ratio of neighbouring steps.
             "of_peak" is the fraction of the matrix-product rate measured at the start in the same
             precision. Memory is the allocator's peak on a GPU, what a step saves for its backward
             pass on a CPU. REPA's encoder has random weights
checkpoints  writing, flushed to the disk, and reading
latents      reading a latent cache in shuffled order, with 0, 1 and 2 loading processes
sampling     each solver with few steps, alternating with as many bare evaluations of the network:
             "overhead" is the median of what a run takes longer, as a fraction of these. A guided
             evaluation is one with twice the batch, "passes" counts it twice; its "time_ratio" is
             to the same solver unguided. "network_ms" and "solver_ms" are of one evaluation, the
             latter with a network that costs nothing: a noisy machine leaves it alone
blocks       probing all blocks at one time of the path, alternating with bare passes of the
             network: "tokens" is the median ratio of extraction to the pass beside it, "ridge" with
             the sums of a ridge probe of every block
peers        training and sampling steps of original checkouts (--peer FOLDER) in turn with ours:
             ratio of medians, and the lowest and highest of neighbouring runs
exchange     steps of several processes (torchrun): DDP, sharded optimizer, everything sharded, with
             gradients exchanged in fp32 and bf16
options      training steps with the options that change numbers, of the first model, in bf16
originals    training that encodes its images in every step, eager TF32 (GPU)
presets      images/s of each preset of sample_ddp.py, compiled in bf16 and as it comes in others,
             and the hours of 50,000: the solver's number of evaluations times what one takes, and
             the decoding
caching      the autoencoder's images/s, and the hours of a latent cache of ImageNet
stall        how long training waits for a checkpoint
scoring      the seconds of FID of 50,000 images
npz          writing random 256 x 256 images as a sampling run does and assembling the .npz, with
             the growth of resident memory; in a temporary folder
"""

# ruff: noqa: E402 (the command line is parsed before torch is imported)
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command, usage_errors
from runtime.flags import flag
from runtime.launch import is_first_process, world_size

Part = Literal[
    "steps", "peers", "options", "originals", "presets", "caching", "stall", "scoring",
    "exchange", "checkpoints", "latents", "sampling", "blocks", "npz",
]  # fmt: skip
USUAL: tuple[Part, ...] = ("steps", "checkpoints", "latents", "sampling", "blocks", "npz")
# By which share of --minutes a part of --table begins nothing new. A cell that is under way ends,
# so the first parts, which compile, leave time for the others.
TABLE: dict[Part, float] = {
    "steps": 0.45, "peers": 0.55, "options": 0.63, "presets": 0.75, "caching": 0.8, "stall": 0.85,
    "originals": 0.9, "scoring": 0.93,
}  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    parts: tuple[Part, ...] = USUAL
    """what to measure"""
    models: tuple[str, ...] = ("SiT-S/2:8", "SiT-B/2:8", "SiT-XL/2:2")
    """models and their batch sizes, for latents of 256 x 256 images"""
    sampling_models: tuple[str, ...] = ("SiT-S/2:16",)
    """the same for sampling"""
    precisions: tuple[Literal["fp32", "tf32", "bf16"], ...] = ("fp32", "bf16")
    """fp32, tf32 (GPU) and bf16 autocast; what the device only emulates is left out"""
    losses: tuple[Literal["layer_sync", "dispersive", "sra", "repa", "repa+layer_sync"], ...] = (
        "layer_sync",
    )
    """what is compared with vanilla steps"""
    compiled: Literal["no", "yes", "both"] = "no"
    """whether blocks are compiled"""
    table: bool = False
    """fill the table of docs/benchmarks.md, what matters most first: other parts, models,
    precisions and --compiled than these defaults, on a GPU"""
    minutes: float | None = None
    """begin nothing new after this time; 7 with --table, else no limit unless given"""
    peer: tuple[str, ...] = ()
    """folders of original checkouts: SiT, LayerSync, REPA"""
    peer_models: tuple[str, ...] = ("SiT-S/2:4",)
    """models and batch sizes for these"""
    cache_batch: int = 32
    """images that the autoencoder encodes at a time"""
    score_images: int = 512
    """images whose features are timed"""
    repeats: int = 7
    """counted runs of each variant, after two that are not"""
    npz_images: int = 50_000
    """images of the .npz; each takes 0.4 MB of disk while it works"""
    clock: Literal["wall", "cpu"] = "wall"
    """for training steps and blocks: wall time, or on a CPU the processor time of this process,
    which other jobs on the machine hardly change; with OMP_NUM_THREADS=1, so that no threads wait
    in it"""
    out: str = "benchmark.json"
    """where to write the figures; the tables are written beside it, as .md"""

    def sizes(self, field: str = "models") -> list[tuple[str, int]]:
        """Return (model, batch size) pairs; raise `ValueError` for a text not MODEL:BATCH."""
        models = getattr(self, field)
        pairs = [model.rpartition(":") for model in models]
        wrong = [model for model, (name, _, n) in zip(models, pairs, strict=True)
                 if not name or not n.isdigit() or n == "0"]  # fmt: skip
        if wrong:
            raise ValueError(f"{flag(field)} {wrong[0]}: write MODEL:BATCH, as in SiT-B/2:8")
        return [(name, int(batch)) for name, _, batch in pairs]


if __name__ == "__main__":
    CONFIG = parse_command(Benchmark)

import json
from collections.abc import Callable, Iterable

import torch

from models import find_model
from scripts.benchmarks import (
    assembly,
    costs,
    exchange,
    extraction,
    peers,
    sampling,
    steps,
    storage,
)
from scripts.benchmarks.tables import device_name, markdown
from scripts.benchmarks.timing import DEVICE, FAILED, Deadline, matmul_peaks, native_precisions


def as_table(c: Benchmark) -> Benchmark:
    """Return the settings of --table: all that its rows say, the most important ones first."""
    if not c.table:
        return c
    sizes = tuple(f"SiT-{size}/2:32" for size in ("XL", "B", "L", "S"))
    return replace(
        c, parts=tuple(part for part in TABLE if part != "peers" or c.peer), models=sizes,
        sampling_models=("SiT-XL/2:64",), peer_models=("SiT-XL/2:32",),
        precisions=("bf16", "tf32"), compiled="both", minutes=c.minutes or 7,
    )  # fmt: skip


def check(c: Benchmark) -> None:
    """Refuse what cannot be measured here; `ValueError` names the flag."""
    if c.table and DEVICE.type != "cuda":
        raise ValueError("--table: its rows need a GPU; on a CPU choose some --parts")
    if c.clock == "cpu" and DEVICE.type == "cuda":
        raise ValueError("--clock cpu: a GPU's work takes no processor time; leave it out")
    for field in ("models", "sampling_models", "peer_models"):
        for name, _ in c.sizes(field):
            find_model(name)
    if ("peers" in c.parts) != bool(c.peer):
        raise ValueError("--parts peers needs --peer FOLDER, and --peer FOLDER needs that part")
    for folder in c.peer:
        peers.find_peer(folder)
    if c.minutes is not None and not 0 < c.minutes < 10_000:
        raise ValueError(f"--minutes {c.minutes:g}: it must be positive, or left out")
    if ("exchange" in c.parts) != (world_size() > 1) or (world_size() > 1 and len(c.parts) > 1):
        raise ValueError(
            "--parts exchange is for several processes and the other parts for one: start it with "
            "torchrun --nproc_per_node=N, the others without"
        )
    if "npz" in c.parts:
        assembly.check(c)


def silent(*words: object) -> None:
    """Print nothing: the first process speaks for all."""


def ways(
    c: Benchmark, peaks: dict[str, float], limits: dict[str, Deadline]
) -> dict[str, tuple[Callable[[], Iterable[dict]], dict[str, str]]]:
    """Return for each part, in order, what yields its rows, and their columns."""
    return {
        "steps": (lambda: steps.run(c, peaks, limits["steps"]), steps.COLUMNS),
        "peers": (lambda: peers.run(c, limits["peers"]), peers.COLUMNS),
        "options": (lambda: steps.run_options(c, peaks, limits["options"]), steps.COLUMNS),
        "presets": (lambda: costs.presets(c, limits["presets"]), costs.PRESET_COLUMNS),
        "caching": (lambda: costs.caching(c, limits["caching"]), costs.CACHE_COLUMNS),
        "stall": (lambda: costs.stall(c, limits["stall"]), costs.STALL_COLUMNS),
        "originals": (lambda: steps.run_originals(c, limits["originals"]), steps.COLUMNS),
        "scoring": (lambda: costs.scoring(c, limits["scoring"]), costs.SCORE_COLUMNS),
        "exchange": (lambda: exchange.run(c, limits["exchange"]), exchange.COLUMNS),
        "checkpoints": (lambda: storage.checkpoints(c), storage.CHECKPOINT_COLUMNS),
        "latents": (lambda: storage.latents(c), storage.LATENT_COLUMNS),
        "sampling": (lambda: sampling.run(c, peaks), sampling.COLUMNS),
        "blocks": (lambda: extraction.run(c), extraction.COLUMNS),
        "npz": (lambda: assembly.run(c), assembly.COLUMNS),
    }


def main(c: Benchmark) -> None:
    with usage_errors():
        c = as_table(c)
        check(c)
    seconds = None if c.minutes is None else 60 * c.minutes
    limits = {
        part: Deadline(seconds and seconds * (TABLE.get(part, 1) if c.table else 1))
        for part in get_args(Part)
    }
    heading = f"{device_name()}; torch {torch.__version__}, {torch.get_num_threads()} threads"
    first = is_first_process()
    say = print if first else silent
    say(heading)
    record: dict[str, Any] = dict(device=device_name(), torch=torch.__version__, settings=asdict(c))
    peaks: dict[str, float] = {}
    if {"steps", "options", "peers", "presets", "sampling"} & set(c.parts):
        native = native_precisions(c.precisions)
        c = replace(c, precisions=tuple(p for p in c.precisions if p in native))
    if {"steps", "options", "sampling"} & set(c.parts):
        peaks = record["matmul"] = matmul_peaks(c.precisions, c.clock)
    text = [heading, *(f"matrix products, {p}: {r / 1e12:.3g} TFLOP/s" for p, r in peaks.items())]
    if peaks:
        say("\n".join(text[1:]))
    out = Path(c.out)
    for name, (measure, columns) in ways(c, peaks, limits).items():
        if name not in c.parts:
            continue
        record[name] = []
        for row in measure():  # it may be stopped: what there is, is kept
            record[name].append(row)
            if not first:
                continue
            table = markdown(record[name], columns)
            out.write_text(json.dumps(record, indent=1) + "\n")
            out.with_suffix(".md").write_text("\n\n".join([*text, f"## {name}", table]) + "\n")
        if record[name] and first:
            text += [f"## {name}", table]
            print("\n" + table, flush=True)
    say(f"\nwritten to {out} and {out.with_suffix('.md')}")
    rows = [row for part in c.parts for row in record.get(part, ())]
    failed = sum(str(row.get("note", "")).startswith(FAILED) for row in rows)
    if failed:
        sys.exit(f"{failed} of the rows {FAILED}: their errors stand above")


if __name__ == "__main__":
    main(CONFIG)

"""Propose a pair of blocks for LayerSync from a short run without it, with reasons.

    python train.py --loss-type vanilla --max-steps 50000 ...        # then
    python scripts/suggest_pair.py --ckpt results/RUN/checkpoints/0050000.pt

Each block is probed at several times of the path (evaluation/blocks/probes.py), the paper's rule
allows some pairs, and these are ranked (evaluation/blocks/pair_ranking.py). Tables are printed;
0050000.pairs.json with every number and 0050000.pairs.png are written beside the checkpoint. The
data is the checkpoint's unless flags name other data. One process, on a GPU if there is one.
"""

# ruff: noqa: E402 (the command line is parsed before torch is imported)
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.blocks.blocks_config import ProbedData
from runtime.command import RunError, parse_command, run_errors, usage_errors


@dataclass(frozen=True, kw_only=True)
class PairConfig(ProbedData):
    ckpt: str
    """checkpoint of train.py (of SiT, REPA or LayerSync too), or ORG/NAME/FILE on the hub"""

    # --- probes
    probe_samples: int = 2000
    """images at most, equally many of each class; half of them judge the probes"""
    times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """where on the path blocks are probed; t = 0 is noise, t = 1 is data"""
    seed: int = 0
    """seed of the choice of images and of their noise"""
    out: str | None = None
    """the .json to write, with a .png beside it; FILE.pairs.json beside the checkpoint unless
    given"""


if __name__ == "__main__":
    CONFIG = parse_command(PairConfig)

import json

from evaluation.blocks.pair_ranking import allowed_pairs, rank_pairs, reasons
from evaluation.blocks.pair_report import PICTURE, draw, print_blocks, print_pairs
from evaluation.blocks.probed_checkpoint import ProbedCheckpoint, versions
from evaluation.blocks.probed_images import Probing
from evaluation.blocks.probes import BlockReport
from runtime.files import check_writable, write_json
from runtime.png import check_picture
from runtime.processes import choose_device


class Suggestion:
    """A suggestion of a pair. Making it loads and checks everything and probes nothing."""

    def __init__(self, config: PairConfig):
        check_pair_config(config)
        self.config = config
        self.one = one = ProbedCheckpoint(config.ckpt, config, choose_device())
        allowed_pairs(len(one.blocks))
        one.check_null_label()
        one.encoding  # noqa: B018 (made here, it refuses data that the network cannot see)
        self.probing = Probing(one.source, config.probe_samples, config.seed, one.device)
        self.about = one.describe() | {
            "images": [len(part) for part in self.probing.images],
            "classes": len(self.probing.classes),
            "seed": config.seed,
            "versions": versions(),
        }

    def report(self) -> BlockReport:
        one, times = self.one, self.config.times
        return self.probing.report(
            one.network, one.blocks, one.encoding, one.transport, times, progress=True
        )


def check_pair_config(c: PairConfig) -> None:
    c.check_location()
    if not c.times or not all(0 <= t <= 1 for t in c.times):
        raise ValueError(f"--times {' '.join(map(str, c.times))}: one or more numbers in [0, 1]")
    if c.out and Path(c.out).suffix != ".json":
        raise ValueError(f"--out {c.out}: the name must end in .json")


def write_record(path: Path, about: dict, report: BlockReport, candidates: list) -> None:
    record = about | {
        "proposed": candidates[0].pair,
        "reasons": reasons(candidates),
        "times": report.times,
        "accuracy": report.accuracy.tolist(),  # by time, then block
        "effective_rank": report.effective_rank.tolist(),
        "similarity": report.similarity.tolist(),
        "pairs": [dataclasses.asdict(candidate) for candidate in candidates],
    }
    write_json(path, record)


def record_path(config: PairConfig) -> Path:
    """Return the path of the record; raise `ValueError` if it cannot be written there."""
    beside = Path(config.ckpt if Path(config.ckpt).is_file() else Path(config.ckpt).name)
    path = Path(config.out or beside.with_suffix(".pairs.json"))
    for file in (path, path.with_suffix(".png")):
        check_writable(file, f"--out {file}")
    check_picture(path.with_suffix(".png"), PICTURE, f"--out {path.with_suffix('.png')}")
    if path.exists():
        try:
            own = {"proposed", "weights_sha256"} <= set(json.loads(path.read_text()))
        except (ValueError, TypeError):
            own = False
        if not own:
            raise ValueError(
                f"--out {path}: exists and is not a record of this program: give another name"
            )
    return path


def main(config: PairConfig) -> None:
    with usage_errors():
        path = record_path(config)
        suggestion = Suggestion(config)
    with run_errors("Nothing was written; repair that and give the command again"):
        report = suggestion.report()
        try:
            candidates = rank_pairs(report)
        except ValueError as error:
            raise RunError(f"checkpoint {config.ckpt}: {error}") from None
        path.parent.mkdir(parents=True, exist_ok=True)
        print_blocks(report, suggestion.about)
        print_pairs(candidates, report.depth)
        write_record(path, suggestion.about, report, candidates)
        draw(report, candidates[0].pair, path.with_suffix(".png"))
    print(f"\n{path} and {path.with_suffix('.png').name} hold all of it")


if __name__ == "__main__":
    main(CONFIG)

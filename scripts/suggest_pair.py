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
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.data_config import DataLocation, TrainingData
from runtime.command import RunError, parse_command, run_errors, usage_errors


@dataclass(frozen=True, kw_only=True)
class PairConfig(DataLocation):
    ckpt: str
    """checkpoint of train.py (of SiT, REPA or LayerSync too), or ORG/NAME/FILE on the hub"""
    weights: Literal["ema", "model"] = "ema"
    """which of the checkpoint's networks: the average, or the one that was trained"""

    # --- data: the checkpoint's unless given
    image_size: int | None = None
    """side of the images, pixels; for checkpoints that do not say, 256"""
    vae: str | None = None
    """codec, as in train.py; for checkpoints that do not say, ema"""

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

import torch

import layersync
from data.encoding import Encoding
from data.sources import open_source
from evaluation.blocks.pair_ranking import allowed_pairs, rank_pairs, reasons
from evaluation.blocks.pair_report import PICTURE, draw, print_blocks, print_pairs
from evaluation.blocks.probed_images import Probing
from evaluation.blocks.probes import BlockReport
from models import find_model
from models.trained import load_trained
from runtime.files import check_writable, write_json
from runtime.png import check_picture
from runtime.processes import choose_device
from sampling.checkpoint_settings import settings_in_force
from transport import create_transport

DATA = [field.name for field in dataclasses.fields(DataLocation)]


class Suggestion:
    """A suggestion of a pair. Making it loads and checks everything and probes nothing."""

    def __init__(self, config: PairConfig):
        check_pair_config(config)
        self.config, self.device = config, choose_device()
        trained = load_trained(config.ckpt, config.weights)
        arch, stored = trained.arch, trained.settings
        allowed_pairs(find_model(arch["name"]).keywords["depth"])
        known = settings_in_force(trained, dict(vae=config.vae, image_size=config.image_size))
        data = data_settings(config, stored)
        sizes = {"image_size": known.get("image_size", 256), "num_classes": arch["num_classes"]}
        settings = TrainingData(**data, **sizes, vae=known["vae"])
        source = open_source(settings)
        self.encoding = Encoding(settings, arch["name"], source, self.device)
        given_shape = self.encoding.latent_shape[0], self.encoding.latent_shape[-1]
        if given_shape != (arch["in_channels"], arch["input_size"]):
            raise ValueError(
                f"checkpoint {config.ckpt} takes {arch['in_channels']} channels of side "
                f"{arch['input_size']}, the data through --vae {settings.vae} at --image-size "
                f"{settings.image_size} has {given_shape[0]} of side {given_shape[1]}: give the "
                f"flags of its run"
            )
        self.probing = Probing(source, config.probe_samples, config.seed, self.device)
        self.transport = create_transport(known["path_type"], known["prediction"])
        self.model = trained.model.to(self.device)
        self.network = trained.network
        guided: Any = trained.network
        guided.null_label  # noqa: B018 (a model without one cannot be probed)
        self.about = {
            "ckpt": config.ckpt,
            "step": trained.step,
            "weights": config.weights,
            "weights_sha256": trained.weights_sha256,
            "model": arch["name"],
            "loss_type": stored.get("loss_type"),
            "data": settings.data_name,
            "images": [len(part) for part in self.probing.images],
            "classes": len(self.probing.classes),
            "seed": config.seed,
            "versions": {"layersync": layersync.__version__, "torch": torch.__version__},
        }

    def report(self) -> BlockReport:
        blocks, times = self.model.blocks, self.config.times
        return self.probing.report(
            self.network, blocks, self.encoding, self.transport, times, progress=True
        )


def check_pair_config(c: PairConfig) -> None:
    c.check_location()
    if not c.times or not all(0 <= t <= 1 for t in c.times):
        raise ValueError(f"--times {' '.join(map(str, c.times))}: one or more numbers in [0, 1]")
    if c.seed < 0:
        raise ValueError(f"--seed {c.seed}: it must be at least 0")
    if c.out and Path(c.out).suffix != ".json":
        raise ValueError(f"--out {c.out}: the name must end in .json")


def data_settings(c: PairConfig, stored: dict) -> dict:
    """Return the settings of the flags' data if they name any, else of the run's data."""
    given = c if c.data_path or c.dataset_name else None
    if stored.get("streaming") and not given:
        raise ValueError(
            f"checkpoint {c.ckpt}: its run streamed its data, of which images cannot be chosen by "
            f"class: name data to read with --data-path or --dataset-name"
        )
    values = {key: getattr(given, key) if given else stored.get(key) for key in DATA}
    flags = {key: getattr(c, key) for key in DATA if getattr(c, key) is not None}
    return values | flags


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

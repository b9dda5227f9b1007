"""Benchmark of what a study waits for besides training: hours of sampling, caching and scoring.

Rates are measured on a few batches and multiplied; weights are random, which does not change them.
"""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import get_args

import torch
from tqdm import tqdm

from models import VAECodec, find_model
from runtime.command import parse_command
from sampling.network import Network
from sampling.presets import Preset, expand_preset
from sampling.sample_config import ODE, SDE
from sampling.solver import is_sde, make_solver
from scripts.benchmarks import evaluation_stages
from scripts.benchmarks.sampling import LATENTS, Costless, Runs
from scripts.benchmarks.timing import DEVICE, Deadline, attempt, seconds, set_precision
from training.checkpoint_writer import CheckpointWriter
from transport import Guidance, Sampler, create_transport

IMAGES = 50_000  # of a set that is scored
IMAGENET = 1_281_167  # training images, each encoded as it is and mirrored
PRESET_COLUMNS = dict(
    model="", batch="d", preset="", how="", nfe="d", passes="d", images_per_second=".3g",
    hours_50k=".2f", note="",
)  # fmt: skip
CACHE_COLUMNS = dict(
    codec="", batch="d", precision="", images_per_second=".4g", hours_imagenet=".2f", note=""
)
STALL_COLUMNS = dict(model="", gb=".2f", stall_s=".2f", note="")
SCORE_COLUMNS = dict(what="", seconds_50k=".0f", note="")


def presets(c, deadline: Deadline) -> Iterator[dict]:
    """Yield the speed of each preset, in bf16 compiled, in other precisions as it comes."""
    for name, batch in c.sizes("sampling_models"):
        for precision in c.precisions:
            compiled = precision == "bf16"
            how = f"{precision}, compiled" if compiled else precision
            for row in attempt(lambda: preset_rows(name, batch, precision, compiled), deadline):  # noqa: B023
                yield dict(model=name, batch=batch, how=how) | row


def preset_rows(name: str, batch: int, precision: str, compiled: bool) -> list[dict]:
    """Return a row for each preset whose number of steps is fixed."""
    runs = Runs(name, batch, precision, compiled)
    plain, guided = (median_seconds(lambda n=n: runs.bare(1, n)) for n in (1, 2))
    decode = decoding_seconds(batch)
    rows = []
    for preset in get_args(Preset):
        nfe, passes = evaluations(preset)
        if nfe is None:
            continue
        taken = (2 * nfe - passes) * plain + (passes - nfe) * guided + decode
        rows.append(
            dict(
                preset=preset,
                nfe=nfe,
                passes=passes,
                images_per_second=batch / taken,
                hours_50k=IMAGES * taken / batch / 3600,
            )
        )
    return rows


def evaluations(preset: str) -> tuple[int | None, int]:
    """Return (evaluations, passes) of a preset's solver; None where it chooses its own steps."""
    words = expand_preset(["--preset", preset, "--ckpt", "none"])
    config = parse_command({"ODE": ODE, "SDE": SDE}, words, recorded=False)
    if config.sampling_method == "dopri5":
        return None, 0
    network = Network(Costless())
    channels = None if config.cfg_channels == "all" else int(config.cfg_channels)
    guided = Guidance(network, config.cfg_scale, channels, config.guidance_interval)
    noise = {"noise": lambda step: torch.zeros(1, 4, 1, 1)} if is_sde(config) else {}
    solve = make_solver(Sampler(create_transport()), config)
    solve(torch.zeros(1, 4, 1, 1), guided, y=torch.zeros(1, dtype=torch.long), **noise)
    return network.evaluations, network.passes


def median_seconds(work, repeats: int = 5) -> float:
    """Return the median time of `work`, after two runs that are not counted."""
    return statistics.median([seconds(work) for _ in range(2 + repeats)][2:])


def random_codec(folder: str, **settings: bool) -> VAECodec:
    """Return SD's autoencoder with random weights, which is written to `folder` once."""
    from diffusers import AutoencoderKL

    if not list(Path(folder).iterdir()):
        AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[128, 256, 512, 512],
            layers_per_block=2,
            latent_channels=4,
        ).save_pretrained(folder)
    return VAECodec(folder, DEVICE, **settings)


def decoding_seconds(batch: int) -> float:
    """Return the time of decoding a batch of 256 x 256 images in TF32, as sampling does."""
    set_precision("tf32")
    with tempfile.TemporaryDirectory() as folder:
        codec = random_codec(folder)
    z = torch.randn(batch, *LATENTS, device=DEVICE)
    return median_seconds(lambda: codec.decode(z), repeats=2)


def caching(c, deadline: Deadline) -> Iterator[dict]:
    """Yield the speed of making a latent cache: both orientations of each image are encoded."""
    batch = c.cache_batch
    images = torch.randint(256, (batch, 3, 256, 256), dtype=torch.uint8, device=DEVICE)
    ways = {"fp32": ("fp32", False), "tf32": ("tf32", False), "bf16, channels last": ("tf32", True)}
    if DEVICE.type != "cuda":
        del ways["tf32"]
    with tempfile.TemporaryDirectory() as folder:
        for label, (precision, bf16) in tqdm(ways.items(), desc="caching latents", unit="cell"):

            def work(precision=precision, bf16=bf16):
                set_precision(precision)
                codec = random_codec(folder, bf16=bf16)
                rate = batch / median_seconds(lambda: codec.moments(images), repeats=3)
                hours = 2 * IMAGENET / rate / 3600
                return [dict(images_per_second=rate, hours_imagenet=hours)]

            for row in attempt(work, deadline):
                yield dict(codec="SD, random weights", batch=batch, precision=label) | row


def stall(c, deadline: Deadline) -> Iterator[dict]:
    """Yield how long training waits for a checkpoint: its copy to the host's memory."""
    for name, _ in c.sizes():
        for row in attempt(lambda: [stalled(name)], deadline):  # noqa: B023
            yield dict(model=name) | row


def stalled(name: str) -> dict:
    """Return the time of handing a complete checkpoint to the writer, the second time."""
    with DEVICE:
        weights = find_model(name)(input_size=LATENTS[1]).state_dict()
    copies = [{key: value.clone() for key, value in weights.items()} for _ in range(3)]
    moments = {key: dict(exp_avg=copies[0][key], exp_avg_sq=copies[1][key]) for key in weights}
    state = {"model": weights, "ema": copies[2], "opt": {"state": moments}}
    taken = []
    with CheckpointWriter(write_nothing) as writer:
        for _ in range(2):
            taken.append(seconds(lambda: writer.submit(Path("none"), state)))
            writer.wait()
    total = 4 * sum(value.nbytes for value in weights.values())
    return dict(gb=total / 1e9, stall_s=taken[-1])


def write_nothing(path: Path, state: dict, cancelled: Event) -> None:
    """Stand in for the disk, which training does not wait for."""


def scoring(c, deadline: Deadline) -> Iterator[dict]:
    """Yield the seconds of FID of 50,000 images: features of Inception, then the distance."""
    part = evaluation_stages.StageConfig(images=c.score_images, batch_size=min(64, c.score_images))
    stages = {
        "features (Inception, random weights)": evaluation_stages.extraction,
        "distance of 2048 x 2048 covariances": evaluation_stages.root,
    }
    for what, stage in tqdm(stages.items(), desc="scoring", unit="stage"):

        def work(stage=stage):
            timing = stage(part)
            return [dict(seconds_50k=timing.seconds * timing.factor)]

        for row in attempt(work, deadline):
            yield dict(what=what) | row

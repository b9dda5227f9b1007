"""Measure what LayerSync and CREPA do to the smoothness between frames, on drifting squares.

    python examples/video_smoothness.py             # three seeds, on one core in some minutes

For each seed, a tiny Wan learns from squares that drift left or right, and from there LoRA adapters
learn squares that drift up or down: without a regulariser, with LayerSync, with CREPA, with both,
on the same batches (see wan_lora.py). Then, on the same noises:

    tokens   mean cosine of a student block's tokens with those at the same place in the next frame
    frames   mean cosine of neighbouring frames of 64 videos sampled with Euler's method

The latents of the squares are their pixels, so that there is nothing to decode. Neighbouring frames
of the real videos have the cosine 52 / 64 = 0.8125: of the 64 pixels, +1 in the square and -1
outside, a step changes six. Above that, videos move too little or are washed out.
"""

import argparse
import copy
import statistics

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from torch import Tensor
from wan_lora import (
    DEVICE,
    TINY,
    add_adapters,
    drifting_squares,
    flow_loss,
    make_crepa,
    train,
)

from layersync import LayerSync
from layersync.capture import BlockRecorder

VIDEOS, EULER_STEPS = 64, 20  # what is sampled
WAYS = {  # (lambda of LayerSync, lambda of CREPA)
    "neither": (0.0, 0.0),
    "LayerSync": (0.2, 0.0),
    "CREPA": (0.0, 0.5),
    "both": (0.2, 0.5),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--student", type=int, default=3, help="block number, counted from 1")
    parser.add_argument("--teacher", type=int, default=6, help="a deeper one")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--base-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    return parser.parse_args()


@torch.no_grad()
def token_smoothness(transformer: WanTransformer3DModel, number: int, data: dict) -> float:
    """Return the mean cosine of a block's tokens in neighbouring frames, at 64 fixed times."""
    recorder = BlockRecorder({number: transformer.blocks[number - 1]})
    with recorder.recording():
        torch.manual_seed(1)
        flow_loss(transformer, data["latents"][:64], data["texts"][:64])
    (tokens,) = recorder.take()[number]
    tokens = tokens.unflatten(1, (data["latents"].shape[2], -1))  # (B, F, N, D)
    return F.cosine_similarity(tokens[:, :-1], tokens[:, 1:], dim=-1).mean().item()


@torch.no_grad()
def sample(transformer: WanTransformer3DModel, texts: Tensor, shape: tuple) -> Tensor:
    """Sample videos (B, C, F, H, W) by Euler's method, from noise at sigma 1 to data at sigma 0."""
    torch.manual_seed(2)
    x = torch.randn(len(texts), *shape, device=DEVICE)
    for i in range(EULER_STEPS):
        timestep = torch.full((len(x),), 1000 * (1 - i / EULER_STEPS), device=DEVICE)
        x = x - transformer(x, timestep, texts.to(DEVICE), return_dict=False)[0] / EULER_STEPS
    return x


def frame_smoothness(videos: Tensor) -> float:
    """Return the mean cosine of neighbouring frames of videos (B, C, F, H, W), as vectors."""
    frames = videos.transpose(1, 2).flatten(2)  # (B, F, C H W)
    return F.cosine_similarity(frames[:, :-1], frames[:, 1:], dim=-1).mean().item()


def measure(seed: int, args: argparse.Namespace) -> dict[str, tuple[float | None, float]]:
    """Return {way: (tokens, frames)} of one seed."""
    torch.manual_seed(seed)
    base = WanTransformer3DModel(**TINY).to(DEVICE)
    sideways = drifting_squares([(0, 1), (0, -1)])
    upright = drifting_squares([(1, 0), (-1, 0)])
    pair = args.student, args.teacher
    train(base, LayerSync(base.blocks, [pair]), sideways, args, args.base_steps, weight=0)
    measured: dict[str, tuple[float | None, float]] = {
        "the real videos": (None, frame_smoothness(upright["latents"]))
    }
    for way, (weight, crepa_weight) in WAYS.items():
        print(f"seed {seed}, {way}")
        transformer = copy.deepcopy(base)
        torch.manual_seed(seed)
        add_adapters(transformer, args.rank)
        crepa = None
        if crepa_weight:
            crepa = make_crepa(transformer, pair, upright["latents"], crepa_weight)
        sync = LayerSync(transformer.blocks, [pair])
        torch.manual_seed(seed)  # the same batches, noises and times in each way
        train(transformer, sync, upright, args, args.steps, weight, crepa)
        videos = sample(transformer, upright["texts"][:VIDEOS], upright["latents"].shape[1:])
        tokens = token_smoothness(transformer, args.student, upright)
        measured[way] = tokens, frame_smoothness(videos)
    return measured


def main() -> None:
    args = parse_arguments()
    runs = [measure(seed, args) for seed in args.seeds]
    print(f"\n| | tokens of block {args.student} | frames |\n|---|---|---|")
    for way in runs[0]:
        cells = []
        for values in zip(*(run[way] for run in runs), strict=True):
            each = ", ".join(f"{value:.3f}" for value in values if value is not None)
            cells.append(f"{statistics.fmean(values):.3f} ({each})" if each else "")
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

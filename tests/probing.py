"""Small checkpoints of the digits, and commands that probe their blocks."""

import json

import pytest
from random_sit import save_random_sit

from evaluation.blocks.blocks_command import run_blocks
from evaluation.blocks.blocks_config import BlocksConfig

FLAGS = dict(dataset_name="digits", image_size=8, vae="none", num_workers=0, batch_size=16)
FEW = dict(samples=60, times=(0.3, 0.9), blocks=(2, 5, 8))


def save_network(path, seed, **settings):
    """A SiT of the digits with random weights, all blocks at work."""
    sizes = dict(in_channels=1, num_classes=10) | settings
    return save_random_sit(path, seed=seed, std=0.1, **sizes)


def config(checkpoints, out, probes=("linear",), **changes):
    return BlocksConfig(ckpt=checkpoints, probes=probes, out=str(out), **FLAGS | FEW | changes)


def measured(out):
    return json.loads((out / "blocks.json").read_text())["measurements"]


def probe(c: BlocksConfig) -> None:
    """`run_blocks` without its pictures, which take longer than small networks' numbers."""
    with pytest.MonkeyPatch.context() as patch:
        for draw in ("draw_probe", "draw_maps"):
            patch.setattr(f"evaluation.blocks.blocks_pictures.{draw}", lambda *args: None)
        run_blocks(c)

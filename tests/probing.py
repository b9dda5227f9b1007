"""Small checkpoints of the digits, and commands that probe their blocks."""

import json

import torch

from evaluation.blocks.blocks_config import BlocksConfig
from models import SiT_models

FLAGS = dict(dataset_name="digits", image_size=8, vae="none", num_workers=0, batch_size=16)
FEW = dict(samples=60, times=(0.3, 0.9), blocks=(2, 5, 8))


def save_network(path, seed, **settings):
    """A SiT of the digits with random weights, all blocks at work."""
    torch.manual_seed(seed)
    model = SiT_models["SiT-Ti/2"](**dict(input_size=8, in_channels=1, num_classes=10) | settings)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save({"ema": model.state_dict()}, path)
    return str(path)


def config(checkpoints, out, probes=("linear",), **changes):
    return BlocksConfig(ckpt=checkpoints, probes=probes, out=str(out), **FLAGS | FEW | changes)


def measured(out):
    return json.loads((out / "blocks.json").read_text())["measurements"]

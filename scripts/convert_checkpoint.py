"""Convert the weights of a checkpoint of train.py, SiT, REPA or LayerSync to safetensors.

    python scripts/convert_checkpoint.py 0400000.pt sit-xl.safetensors
    python scripts/convert_checkpoint.py 0400000.pt sit-xl.safetensors --weights model

The file holds the network alone, under the official names; the training run's settings, if the
checkpoint has them, are kept in its metadata. `train.py --ckpt` and `sample_ddp.py --ckpt` read it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command, usage_errors
from runtime.files import check_writable


@dataclass(frozen=True)
class Conversion:
    source: Annotated[str, tyro.conf.Positional]
    """checkpoint to read"""
    target: Annotated[str, tyro.conf.Positional]
    """.safetensors file to write; an existing one is not overwritten"""
    weights: Literal["ema", "model"] = "ema"
    """which weights, where the checkpoint has both"""


def convert(c: Conversion) -> dict:
    """Write the file, return its model's name and sizes; raise `ValueError` if impossible."""
    from models.safetensors_file import write_safetensors
    from models.trained import load_trained

    target = Path(c.target)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: the name must end in .safetensors")
    if target.exists():
        raise ValueError(f"{target} exists: remove it, or give another name")
    check_writable(target)
    trained = load_trained(c.source, c.weights)
    write_safetensors(target, trained)
    return trained.arch


def main() -> None:
    config = parse_command(Conversion)
    with usage_errors():
        arch = convert(config)
    size = Path(config.target).stat().st_size / 1e6
    print(f"{config.target}: {arch['name']}, {arch['num_classes']} classes, {size:.0f} MB")


if __name__ == "__main__":
    main()

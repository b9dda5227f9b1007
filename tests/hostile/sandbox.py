"""Good files, made once by the project's own commands; rows alter copies of them."""

from pathlib import Path

import numpy as np
import timm
import torch
from hostile.row import CACHE, DIGITS, ODE
from launching import save_tiny_vae
from PIL import Image


def make_sandbox(box: Path, server) -> None:
    """Write run/, samples.npz, rgb.npz, images/, vae/, vit.pth and latents/ into `box`."""
    random = np.random.default_rng(0)
    for name in ("apple", "pear"):
        (box / "images" / name).mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(0, 256, (20, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(box / "images" / name / f"{i}.png")
    rgb = random.integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)
    np.savez(box / "rgb.npz", arr_0=rgb, labels=np.arange(8) % 2)
    save_tiny_vae(box / "vae")
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save(vit.state_dict(), box / "vit.pth")

    def make(command: str) -> None:
        words = command.replace("{here}", str(box)).replace("{box}", str(box)).split()
        process = server.start(words, folder=box)
        assert process.wait() == 0, process.stderr

    run = DIGITS.replace("{here}/results", "{here}")
    make(f"train.py {run} --max-steps 4 --ckpt-every 2")
    make(ODE.replace("--num-fid-samples 4", "--num-fid-samples 6"))
    make(CACHE)

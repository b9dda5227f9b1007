"""Good input among the bad: a check that refuses too much fails here."""

import shutil
from pathlib import Path

import torch
from hostile.altered_checkpoints import alter_checkpoint
from hostile.altered_data import alter_cache
from hostile.altered_samples import npz
from hostile.row import (
    CACHE,
    CKPT,
    CONVERT,
    IMAGES,
    LATENTS,
    ODE,
    PIXELS,
    RESUME,
    SDE,
    SUGGEST,
    TRAIN,
    Row,
)


def official(here: Path, box: Path) -> None:
    """A state dict alone, as SiT publishes its weights."""
    content = torch.load(box / CKPT.removeprefix("{box}/"), weights_only=True)
    torch.save(content["ema"], here / "altered.pt")


def images_beside(here: Path, box: Path) -> None:
    """Class folders, one of them a link to a folder elsewhere."""
    shutil.copytree(box / "images", here / "images")
    shutil.move(here / "images" / "pear", here / "elsewhere")
    (here / "images" / "pear").symlink_to(here / "elsewhere")


def control_rows() -> list[Row]:
    altered = ODE.replace(CKPT, "{here}/altered.pt")
    return [
        Row("good training", TRAIN, None),
        Row("good training of images", f"{IMAGES} --data-path {{box}}/images", None),
        Row("good training of a linked class", f"{IMAGES} --data-path {{here}}/images", None,
            images_beside),
        Row("good training of latents", f"{LATENTS} --data-path {{box}}/latents", None),
        Row("good copy of latents", f"{LATENTS} --data-path {{here}}/latents", None,
            alter_cache(lambda manifest, folder: None)),
        Row("good resume", f"{RESUME} --resume {{here}}/altered.pt", None,
            alter_checkpoint(lambda content: None)),
        Row("good ODE", ODE, None),
        Row("good SDE", SDE, None),
        Row("good classes", f"{ODE} --num-classes 10 --image-size 8 --vae none", None),
        Row("good weights alone", f"{altered} --vae none --model SiT-Ti/2 --num-classes 10", None,
            official),
        Row("good scores", PIXELS, None),
        Row("good scores of another array",
            PIXELS.replace("{box}/samples", "{here}/altered") + " --array images", None,
            lambda here, box: npz(images=__import__("numpy").load(box / "samples.npz")["arr_0"])(
                here, box)),
        Row("good cache", CACHE, None),
        Row("good suggestion", SUGGEST, None),
        Row("good conversion", CONVERT, None),
    ]  # fmt: skip

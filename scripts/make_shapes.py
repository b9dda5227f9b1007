"""Make a small data set with segmentation masks, in VOC2012's folders: shapes on a noisy ground.

    python scripts/make_shapes.py --out shapes
    python -m evaluation blocks --ckpt A.pt --probes segmentation --masks shapes --mask-classes 4

Classes: 0 ground, 1 disc, 2 square, 3 triangle, of any colour; an edge of 255 around each shape.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command, usage_errors
from runtime.files import check_folder_writable
from runtime.flags import Range, check_ranges

COUNT = Range(1, 10**6)
RANGES = {"train": COUNT, "val": COUNT, "size": Range(8, 2**12)}
SHAPES = 3


@dataclass(frozen=True)
class Shapes:
    out: str
    """folder to make"""
    train: int = 400
    """images of the split train"""
    val: int = 200
    """images of the split val"""
    size: int = 32
    """side of the images, pixels"""
    seed: int = 0
    """image i is a function of it"""


def draw(seed: int, number: int, size: int):
    """Return an image (size, size, 3) and its mask (size, size), uint8, of one to three shapes."""
    import numpy as np

    random = np.random.default_rng((seed, number))
    ground = random.integers(0, 256, 3)
    image = np.clip(ground + random.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)
    mask = np.zeros((size, size), np.uint8)
    y, x = np.mgrid[:size, :size]
    for _ in range(random.integers(1, 4)):
        kind, radius = int(random.integers(1, SHAPES + 1)), random.uniform(0.15, 0.3) * size
        row, column = random.uniform(radius, size - radius, 2)
        down, right = y - row, x - column
        distance = {
            1: np.hypot(down, right),
            2: np.maximum(abs(down), abs(right)),
            3: np.maximum(down, abs(right) * 1.7 - down),
        }[kind]
        colour = (ground + random.integers(70, 186, 3)) % 256
        mask[distance < radius + 0.5] = 255
        inside = distance < radius - 0.5
        mask[inside], image[distance < radius] = kind, colour
    return image, mask


def make(c: Shapes) -> None:
    """Write the data set; raise `ValueError` where the folder holds something else already."""
    from PIL import Image

    check_ranges(
        c, {"train": COUNT, "val": COUNT, "size": Range(8, 2**12), "seed": Range(0, 2**63)}
    )
    root = Path(c.out)
    check_folder_writable(root, f"--out {root}")
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"--out {root}: there is something in it; give a new folder")
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, numbers in (("train", range(c.train)), ("val", range(c.train, c.train + c.val))):
        for i in numbers:
            image, mask = draw(c.seed, i, c.size)
            Image.fromarray(image).save(root / "JPEGImages" / f"{i:06d}.jpg", quality=95)
            Image.fromarray(mask).save(root / "SegmentationClass" / f"{i:06d}.png")
        names = "".join(f"{i:06d}\n" for i in numbers)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names)


if __name__ == "__main__":
    CONFIG = parse_command(Shapes)
    with usage_errors():
        make(CONFIG)
    print(f"{CONFIG.out}: {CONFIG.train} and {CONFIG.val} images with masks of 4 classes")

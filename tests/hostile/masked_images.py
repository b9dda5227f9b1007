"""Images with masks, for probes of blocks: masks that do not fit, folders and rows without them."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hostile.altered_checkpoints import alter_checkpoint
from hostile.probed_blocks import both, folders, probe, rgb
from hostile.row import CKPT, Row
from PIL import Image


def mask(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


GOOD = mask(np.zeros((8, 8), np.uint8))


def voc(content: bytes = GOOD, count: int = 2, lists=("train", "val"), names: str = ""):
    """Prepare data/, VOC2012's folders with these masks."""

    def prepare(here: Path, box: Path) -> None:
        root = here / "data"
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i, i, i)).save(root / "JPEGImages" / f"{i}.jpg")
            (root / "SegmentationClass" / f"{i}.png").write_bytes(content)
        for name in lists:
            text = names or "\n".join(map(str, range(count)))
            (root / "ImageSets/Segmentation" / f"{name}.txt").write_text(text)

    return prepare


def rows_of(folder: str = "data", file: str = "train-0.parquet", **columns):
    """Prepare a folder of rows, of which each has these bytes as pictures."""

    def prepare(here: Path, box: Path) -> None:
        import datasets

        (here / folder).mkdir(exist_ok=True)
        table = {name: [{"bytes": cell, "path": None}] * 2 for name, cell in columns.items()}
        features = datasets.Features({name: datasets.Image() for name in columns})
        datasets.Dataset.from_dict(table, features).to_parquet(here / folder / file)

    return prepare


def parquet_of_text(here: Path, box: Path) -> None:
    (here / "data").mkdir()
    (here / "data" / "train-0.parquet").write_bytes(b"PAR1 and more")


def masked_image_rows() -> Iterator[Row]:
    """Rows of images with masks."""
    command = probe("segmentation", "--masks {here}/data --mask-classes 4")
    network = command.replace(CKPT, "{here}/altered.pt")
    colours = mask(np.zeros((8, 8, 3), np.uint8))
    for what, content, says in (
        ("have colours", colours, r"--masks \S*data: the mask of \S*0\.jpg has colours \(mode RGB"),
        ("are smaller", mask(np.zeros((4, 8), np.uint8)), "has 8x4 pixels, its image 8x8"),
        ("have class 7", mask(np.full((8, 8), 7, np.uint8)), "has class 7, there are 4, 0 to 3"),
        ("are texts", b"text", r"--masks \S*data: .*mask of \S*0\.jpg"),
        ("are empty", b"", r"--masks \S*data: .*mask of \S*0\.jpg"),
    ):
        yield Row(f"masks {what}", network, says, both(alter_checkpoint(rgb), voc(content)))
    true = f"{network} --labels true --data-path {{box}}/images"
    yield Row("masks of true labels", true, "--labels true: images of --masks have no label",
              both(alter_checkpoint(rgb), voc()))  # fmt: skip
    yield Row("masks of one image used", f"{network} --samples 1", "--samples 1: too few images to",
              both(alter_checkpoint(rgb), voc()))  # fmt: skip
    yield Row("masks for one channel", command, "encodes images of|takes 1 channels", voc())
    for what, prepare, says in (
        ("of one image", voc(count=1), r"--masks \S*data: 1 images in train, 2 are needed"),
        ("without a list to train on", voc(lists=("val",)), "no ImageSets/Segmentation/train.txt"),
        ("without a list to test on", voc(lists=("train",)), "no ImageSets/Segmentation/val.txt"),
        ("that are missing", voc(names="0 5"), r"train.txt names \S*5\.jpg, which is missing"),
        ("of no folder's kind", folders("a", root="data"), "neither VOC2012's folders"),
        ("of rows that are damaged", parquet_of_text, r"--masks \S*data: cannot be loaded"),
        ("of rows without a test", rows_of(image=GOOD, mask=GOOD), "no split val or validation or"),
    ):
        yield Row(f"masks {what}", command, says, prepare)
    for what, columns in {"no mask": {"image": GOOD, "other": GOOD}, "one column": {"mask": GOOD},
                          "two masks": {"mask": GOOD, "label": GOOD}}.items():  # fmt: skip
        splits = [rows_of(file=f"{name}-0.parquet", **columns) for name in ("train", "test")]
        yield Row(f"masks of rows of {what}", command,
                  "it needs two columns of images, one of them called", both(*splits))  # fmt: skip

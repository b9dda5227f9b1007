"""Data that does not fit the flags, or that is not what its kind of data must be."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from hostile.altered_data import BROKEN
from hostile.row import CACHE, IMAGES, Row
from PIL import Image


def png(width: int = 8, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 99, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


STORED = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def pictures(content: bytes | None) -> pyarrow.Array:
    """Eight images of this content, as `datasets` stores them."""
    return pyarrow.array([{"bytes": content, "path": None}] * 8, STORED)


PICTURES = pictures(png())
LABELS = [0, 1] * 4
IMAGE, CLASS = {"_type": "Image"}, {"_type": "ClassLabel", "names": ["apple", "pear"]}


def parquet(path: str = "set/a.parquet", types: dict | None = None, **columns):
    """Prepare a parquet file of these columns, of which some have a type of `datasets`."""

    def prepare(here: Path, box: Path) -> None:
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.table(columns)
        plain = {
            key: {"_type": "Value", "dtype": str(table.schema.field(key).type)} for key in columns
        }
        features = json.dumps({"info": {"features": plain | (types or {})}})
        table = table.replace_schema_metadata({"huggingface": features})
        pyarrow.parquet.write_table(table, here / path)

    return prepare


GOOD = dict(types={"image": IMAGE, "label": CLASS}, image=PICTURES, label=LABELS)
INTEGERS = dict(types={"image": IMAGE}, image=PICTURES, label=LABELS)


def several(*prepares):
    """Prepare one after the other."""

    def prepare(here: Path, box: Path) -> None:
        for each in prepares:
            each(here, box)

    return prepare


def parquet_rows() -> list[Row]:
    train = f"{IMAGES} --data-path {{here}}/set --streaming"
    unnamed = train.replace(" --num-classes 2", "")
    splits = [parquet(f"set/data/{name}-0.parquet", **GOOD) for name in ("validation", "test")]
    held_out = f"{IMAGES} --data-path {{box}}/images --val-data-path {{here}}/set"
    twice = GOOD | dict(types={"image": IMAGE, "again": IMAGE, "label": CLASS}, again=PICTURES)

    def text(here: Path, box: Path) -> None:
        (here / "set").mkdir()
        (here / "set" / "a.parquet").write_text("hello")

    names = GOOD | dict(name=["a"] * 8)
    outside = GOOD | dict(label=[0, 1, -1, 1] * 2)
    return [
        Row("unfit: good parquet", train, None, parquet(**GOOD)),
        Row("unfit: no such split", f"{train} --split nope",
            r"--data-path \S+set: no split nope; give --split with one of train", parquet(**GOOD)),
        Row("unfit: no split to train on", train,
            "--data-path \\S+set: no split train; give --split with one of (validation, test|test, "
            "val)", several(*splits)),
        Row("unfit: no such split held out", f"{held_out} --val-split nope --val-every 1",
            "--val-data-path \\S+set: no split nope; give --val-split with one of",
            several(*splits)),
        Row("unfit: no such column of images", f"{train} --image-column nope",
            "has no column nope; give --image-column with one of image, label", parquet(**GOOD)),
        Row("unfit: no such column of labels", f"{train} --label-column nope",
            "has no column nope; give --label-column with one of image, label", parquet(**GOOD)),
        Row("unfit: no column of classes", train,
            "has 0 columns of type ClassLabel; give --label-column", parquet(**INTEGERS)),
        Row("unfit: neither images nor labels", train,
            "has 0 columns of type Image; .* and 0 columns of type ClassLabel",
            parquet(text=["a"] * 8)),
        Row("unfit: two columns of images", train,
            "has 2 columns of type Image; give --image-column", parquet(**twice)),
        Row("unfit: labels are texts", f"{train} --label-column name",
            r"--label-column name: \S+ \S+ has .*string.* there, not integers", parquet(**names)),
        Row("unfit: a label is missing", train.replace(" --streaming", ""),
            r"row 2 of the data: its label is missing \(2 of 8 are\); remove those rows",
            parquet(**GOOD | dict(label=[0, 1, None, 1] * 2))),
        Row("unfit: a label is missing in a stream", train, "row . of file 0: its label is missing",
            parquet(**GOOD | dict(label=[0, None] * 4))),
        Row("unfit: images are integers", f"{train} --image-column label",
            r"--image-column label: \S+ \S+ has .* there, not images", parquet(**GOOD)),
        Row("unfit: an image is not there", train, r"not a readable image \(empty\)",
            parquet(**GOOD | dict(image=pictures(None)))),
        Row("unfit: an image is a text", train, "not a readable image .*cannot identify",
            parquet(**GOOD | dict(image=pictures(b"hello")))),
        Row("unfit: labels are outside the classes", train.replace(" --streaming", ""),
            "row 2 of the data: label -1, its features say there are 2 classes; correct the labels",
            parquet(**outside)),
        Row("unfit: parquet is a text", train, r"--data-path \S+set: cannot be loaded \(", text),
        Row("unfit: a stream does not say its classes", f"{unnamed} --label-column label",
            r"--num-classes: \S+set does not say how many; give it", parquet(**INTEGERS)),
        Row("unfit: a stream has another class", f"{train} --label-column label",
            "label 7, --num-classes says 2",
            parquet(**INTEGERS | dict(label=[7] * 8))),
        Row("unfit: a stream has fewer classes", train.replace("classes 2", "classes 3"),
            "--num-classes 3: the data has 2; leave it out", parquet(**GOOD)),
    ]  # fmt: skip


def copied(change):
    """Prepare images/: the good class folders with a change."""

    def prepare(here: Path, box: Path) -> None:
        shutil.copytree(box / "images", here / "images")
        change(here / "images")

    return prepare


def lock_class(images: Path) -> None:
    os.chmod(images / "pear", 0)


def tiny(annotations: str):
    """Prepare val/ as Tiny-ImageNet has it, of one image."""

    def prepare(here: Path, box: Path) -> None:
        (here / "val" / "images").mkdir(parents=True)
        (here / "val" / "images" / "val_0.JPEG").write_bytes(png())
        (here / "val" / "val_annotations.txt").write_text(annotations)

    return prepare


def spoil(*names: str):
    """Make these images unreadable."""

    def change(images: Path) -> None:
        for name in names:
            (images / name).write_bytes(BROKEN["is a text"][0])

    return change


def keep_two_and_spoil_them(images: Path) -> None:
    for path in images.glob("*/[123].png"):
        path.unlink()
    spoil("apple/0.png", "pear/0.png")(images)


def folder_rows() -> list[Row]:
    good, own = (f"{IMAGES} --data-path {{{place}}}/images" for place in ("box", "here"))
    validation = f"{IMAGES} --data-path {{here}}/val"
    cache = CACHE.replace("{box}/images", "{here}/images")
    return [
        Row("unfit: images are smaller", good.replace("size 8", "size 64"),
            "--image-size 64: the first 8 images are smaller, at most 16x20; leave it out, or add"),
        Row("unfit: images of several sizes are smaller", own.replace("--image-size 8 ", ""),
            "--image-size is 256 for images of several sizes: .* give a smaller one, or add",
            copied(lambda images: (images / "pear" / "0.png").write_bytes(png(32, 32)))),
        Row("unfit: fewer classes", good.replace("classes 2", "classes 3"),
            "--num-classes 3: the data has 2; leave it out"),
        Row("unfit: an empty class", own.replace("classes 2", "classes 3"),
            "in the folders of the classes plum that",
            copied(lambda images: (images / "plum").mkdir())),
        Row("unfit: held-out data of another class",
            f"{good} --val-data-path {{here}}/images --val-every 1",
            r"--val-data-path \S+images: 1 of its 2 classes \(kiwi\) are not among the 2",
            copied(lambda images: (images / "pear").rename(images / "kiwi"))),
        Row("unfit: splits instead of classes", own.replace(" --num-classes 2", ""),
            "its folders are train, val, splits and not classes: give .*images/train",
            lambda here, box: [shutil.copytree(box / "images", here / "images" / name)
                               for name in ("train", "val")]),
        Row("unfit: a reference of splits", "-m evaluation reference {here}/images -o {here}/r.npz",
            "images: its folders are train, val, splits and not classes: give .*images/train",
            lambda here, box: [shutil.copytree(box / "images", here / "images" / name)
                               for name in ("train", "val")]),
        Row("unfit: no classes", own, "no folders in it",
            lambda here, box: (here / "images").mkdir()),
        Row("unfit: a class that cannot be read", own, r"images/pear.*[Pp]ermission",
            copied(lock_class)),
        Row("unfit: Tiny-ImageNet without annotations", validation,
            r"--data-path \S+val: val_annotations\.txt is empty; unpack", tiny("")),
        Row("unfit: Tiny-ImageNet without an image", validation,
            r"line 2 of val_annotations\.txt names no image in images/ and its class \(val_1",
            tiny("val_0.JPEG\tn1\nval_1.JPEG\tn2\n")),
        Row("unfit: Tiny-ImageNet without a class", validation,
            r"line 1 of val_annotations\.txt names no image",
            tiny("val_0.JPEG\n")),
        Row("unfit: a cache of greys",
            CACHE.replace("--data-path {box}/images", "--dataset-name digits").replace(
                "--image-size 16", "--image-size 8"),
            "digits: an autoencoder needs RGB images"),
        Row("unfit: a cache of latents", CACHE.replace("{box}/images", "{box}/latents"),
            "latents: an autoencoder needs RGB images"),
        Row("unfit: a cache of an unreadable image", cache,
            r"unreadable: \S+pear/2\.png: .*1 of 8 images cannot be read, listed above",
            copied(spoil("pear/2.png"))),
        Row("unfit: a cache of nothing that can be read", f"{cache} --skip-unreadable",
            "2 of 2 images cannot be read, listed above", copied(keep_two_and_spoil_them)),
    ]  # fmt: skip


def unfit_rows() -> list[Row]:
    return [*parquet_rows(), *folder_rows()]

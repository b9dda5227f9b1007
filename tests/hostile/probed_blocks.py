"""Probes of blocks: data and networks that do not fit, masks that are none, flags of no effect."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from hostile.altered_checkpoints import alter_checkpoint, put
from hostile.row import BLOCKS, CKPT, SUGGEST, Row
from hostile.sweep_commands import no_dropout
from PIL import Image

ALTERED = {name: words.replace(CKPT, "{here}/altered.pt") for name, words in
           {"blocks": BLOCKS, "suggest": SUGGEST}.items()}  # fmt: skip
Change = Callable[[dict], object]


def probe(word: str, flags: str = "", command: str = BLOCKS) -> str:
    return f"{command.replace('linear', word)} {flags}"


def rgb(content: dict) -> None:
    """Make the network one of images of three channels and two classes."""
    del content["opt"], content["model"]
    content["config"] |= {"num_classes": 2}
    weights, last = content["ema"], "final_layer.linear"
    for name, sizes in {"x_embedder.proj.weight": (1, 3, 1, 1), f"{last}.weight": (3, 1),
                        f"{last}.bias": (3,)}.items():  # fmt: skip
        weights[name] = weights[name].repeat(sizes)
    name = "y_embedder.embedding_table.weight"
    weights[name] = weights[name][:3].clone()


def enormous(content: dict) -> None:
    """Make weights that are finite, and features that are not."""
    for part in ("ema", "model"):
        name = "x_embedder.proj.weight"
        content[part][name] = torch.full_like(content[part][name], 3e38)


def nine_classes(content: dict) -> None:
    del content["opt"], content["model"]
    content["config"] |= {"num_classes": 9}
    name = "y_embedder.embedding_table.weight"
    content["ema"][name] = content["ema"][name][:10].clone()


def both(*steps):
    def prepare(here: Path, box: Path) -> None:
        for step in steps:
            step(here, box)

    return prepare


def folders(*names: str, root: str = "val", count: int = 2):
    """Prepare a folder of classes, each of some pictures."""

    def prepare(here: Path, box: Path) -> None:
        for name in names:
            (here / root / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(here / root / name / f"{i}.png")

    return prepare


def flag_rows() -> Iterator[Row]:
    """Rows whose flags contradict each other or the network."""
    against = f"--encoder {CKPT}"
    for name, command, says in (
        ("no time", f"{BLOCKS} --times", "--times: give a time or more"),
        ("no checkpoint", BLOCKS.replace(CKPT, ""), "--ckpt: give a checkpoint or more"),
        ("no probe", BLOCKS.replace("linear", ""), "--probes: give a probe or more"),
        ("probe twice", probe("linear linear"), "--probes linear linear: one of them is given tw"),
        ("block twice", f"{BLOCKS} --blocks 1 1", "--blocks 1 1: one of them is given twice"),
        ("by token, of images", probe("cknna", f"{against} --by-token"), "--by-token is of cka"),
        ("more neighbours than images", probe("cknna", f"{against} --neighbours 40"),
         "--neighbours 40: 40 images have no so many neighbours"),
        ("neighbours of three", probe("mutual-knn", f"{against} --samples 3 --neighbours 5"),
         "--neighbours 5: 3 images have no so many"),
        ("cka of three images", probe("cka", f"{against} --samples 3"),
         "--samples 3: unbiased CKA needs 4 images"),
        ("all blocks removed", probe("removal", "--run-lengths 8"),
         "--run-lengths 8: the network has 8 blocks, and one must stay; give 1 to 7"),
        ("more blocks removed than there are", probe("removal", "--run-lengths 2 9"),
         "--run-lengths 9: the network has 8 blocks"),
        ("longer run than from its block", probe("removal", "--blocks 8 --run-lengths 2"),
         "--run-lengths 2: the network has 8 blocks"),
        ("removal ref for nothing", f"{BLOCKS} --ref digits", "--ref has no effect without --prob"),
        ("masks for nothing", f"{BLOCKS} --masks a", "--masks has no effect without --probes segm"),
        ("epochs of ridge", f"{BLOCKS} --epochs 2", "--epochs is of trained heads"),
        ("fixed views of ridge", f"{BLOCKS} --fixed-views", "--fixed-views is of trained heads"),
        ("head batch of ridge", f"{BLOCKS} --head-batch 8", "--head-batch is of trained heads"),
        ("head lr of ridge", f"{BLOCKS} --head-lr 1", "--head-lr is of trained heads"),
        ("encoder weights for nothing", f"{BLOCKS} --encoder-weights a",
         "--encoder-weights has no effect without --probes cka or cknna or mutual-knn"),
        ("protocol for nothing", f"{BLOCKS} --protocol paper", "--protocol has no effect without"),
        ("two names of data", f"{BLOCKS} --data-path a --dataset-name digits",
         "--data-path and --dataset-name both name the data"),
        ("data of three channels", f"{BLOCKS} --data-path {{box}}/images",
         "encodes images|takes 1 channels"),
        ("another image size", f"{BLOCKS} --image-size 16", "--image-size"),
        ("too few images", f"{BLOCKS} --samples 4", "--samples 4"),
        ("less than no images", f"{BLOCKS} --samples -5", "--samples -5: it must be at least 0"),
        ("encoder of no weights", probe("cka", "--encoder vit_tiny_patch16_224 "
         "--encoder-weights {here}/none.pth"), r"--encoder-weights \S*none\.pth"),
        ("encoder of other weights", probe("cka", "--encoder vit_small_patch16_224 "
         "--encoder-weights {box}/vit.pth"), "--encoder vit_small_patch16_224: cannot be loaded"),
        ("unknown encoder", probe("cka", "--encoder vit_nope --encoder-weights {box}/vit.pth"),
         "--encoder vit_nope: cannot be loaded"),
        ("encoder checkpoint is none", probe("cka", "--encoder {here}/none.pt"), r"none\.pt"),
    ):  # fmt: skip
        yield Row(f"blocks: {name}", command, says)
    yield Row("suggest no time", f"{SUGGEST} --times", "--times .*: one or more numbers in")
    yield Row("suggest too few images", SUGGEST.replace("samples 40", "samples 4"),
              "--probe-samples 4")  # fmt: skip
    yield Row("suggest two names of data", f"{SUGGEST} --data-path a --dataset-name digits",
              "--data-path and --dataset-name both name the data")  # fmt: skip
    yield Row("suggest over a text", SUGGEST, "pairs.json: exists and is not a record of this prog",
              lambda here, box: (here / "pairs.json").write_text("mine"))  # fmt: skip


def network_rows() -> Iterator[Row]:
    """Rows whose checkpoints were altered to be of another kind."""
    for name, words in ALTERED.items():
        for what, change, says in (
            ("no null label", no_dropout, "altered.pt: .*null label"),
            ("streamed data", put("config", "streaming", True), "its run streamed its data"),
            ("features overflow", enormous, "not finite"),
            ("three channels", rgb, "altered.pt takes 3 channels of side 8, the data .* has 1"),
        ):
            yield Row(f"{name}: {what}", words, says, alter_checkpoint(change))
    yield Row("blocks: labels of nine classes", f"{ALTERED['blocks']} --labels true",
              "--labels true: digits has label 9, checkpoint .* knows 9 classes",
              alter_checkpoint(nine_classes))  # fmt: skip
    yield Row("blocks: encoder of another path", probe("cka", "--encoder {here}/altered.pt"),
              "--encoder .*altered.pt: it sees .*GVP.* give one of the same latents",
              alter_checkpoint(lambda content: content["config"]["transport"].update(
                  {"path_type": "GVP"})))  # fmt: skip
    own = f"{ALTERED['blocks']} --data-path {{here}}/data"
    three = f"{own} --val-data-path {{here}}/val"
    yield Row("blocks: held-out data of three classes", three,
              "--val-data-path .*: 3 classes, and the data of --data-path has 2",
              both(alter_checkpoint(rgb), folders("a", "b", root="data", count=20),
                   folders("a", "b", "c")))  # fmt: skip


# --- masks


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


def mask_rows() -> Iterator[Row]:
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


def probed_block_rows() -> list[Row]:
    return [*flag_rows(), *network_rows(), *mask_rows()]

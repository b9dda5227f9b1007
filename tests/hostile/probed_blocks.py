"""Probes of blocks: data and networks that do not fit each other, flags of no effect."""

from collections.abc import Callable, Iterator
from pathlib import Path

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


def of_channels(channels: int, classes: int = 2) -> Change:
    """A change that makes the network one of so many channels and classes."""

    def change(content: dict) -> None:
        del content["opt"], content["model"]
        content["config"] |= {"num_classes": classes}
        weights, last = content["ema"], "final_layer.linear"
        for name, sizes in {"x_embedder.proj.weight": (1, channels, 1, 1),
                            f"{last}.weight": (channels, 1),
                            f"{last}.bias": (channels,)}.items():  # fmt: skip
            weights[name] = weights[name].repeat(sizes)
        name = "y_embedder.embedding_table.weight"
        weights[name] = weights[name][: classes + 1].clone()

    return change


rgb = of_channels(3)


def latents(content: dict) -> None:
    """Make the network one of latents of 16 x 16 images."""
    of_channels(4)(content)
    content["config"]["image_size"] = 16
    for settings in (content, content["config"]):  # the flag says it
        settings.pop("vae", None), settings.pop("codec", None)


def single_pixels(content: dict) -> None:
    """Make the network one whose tokens are pixels, an 8 x 8 grid of them."""
    del content["opt"], content["model"]
    weights, last = content["ema"], "final_layer.linear"
    weights["x_embedder.proj.weight"] = weights["x_embedder.proj.weight"][..., :1, :1].clone()
    weights["pos_embed"] = torch.zeros(1, 64, weights["pos_embed"].shape[2])
    for name in (f"{last}.weight", f"{last}.bias"):
        weights[name] = weights[name][:2].clone()


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
    encoder = "--encoder vit_tiny_patch16_224 --encoder-weights {box}/vit.pth"
    yield Row("blocks: encoder of latents",
              probe("cka", f"{encoder} --data-path {{box}}/latents --vae {{box}}/vae "
                    "--image-size 16", ALTERED["blocks"]),
              "--encoder vit_tiny_patch16_224: it sees images, and the data holds latents",
              alter_checkpoint(latents))  # fmt: skip
    yield Row("blocks: encoder of two grids",
              probe("cka", encoder, BLOCKS.replace(CKPT, f"{CKPT} {{here}}/altered.pt")),
              "--ckpt: token grids of side 4 and 8; give those of one side at a time",
              alter_checkpoint(single_pixels))  # fmt: skip
    own = f"{ALTERED['blocks']} --data-path {{here}}/data"
    yield Row("blocks: data of one class", own, "the data has 1: use data with two classes",
              both(alter_checkpoint(rgb), folders("a", root="data", count=40)))  # fmt: skip
    yield Row("blocks: classes of few images", own,
              "of the 2 classes of the data, 1 have that many: use more data",
              both(alter_checkpoint(rgb), folders("a", root="data", count=20),
                   folders("b", root="data", count=19)))  # fmt: skip
    yield Row("blocks: held-out data of a class without a probe",
              f"{own} --val-data-path {{here}}/val",
              "--val-data-path .*: none of its images is of a class that the probe is fitted to",
              both(alter_checkpoint(of_channels(3, 3)), folders("a", root="data"),
                   folders("b", "c", root="data", count=20), folders("a")))  # fmt: skip
    yield Row("blocks: held-out data of another class", f"{own} --val-data-path {{here}}/val",
              r"--val-data-path \S+val: 1 of its 2 classes \(c\) are not among the 2 of the data",
              both(alter_checkpoint(rgb), folders("a", "b", root="data", count=20),
                   folders("a", "c")))  # fmt: skip
    three = f"{own} --val-data-path {{here}}/val"
    yield Row("blocks: held-out data of three classes", three,
              "--val-data-path .*: 3 classes, and the data of --data-path has 2",
              both(alter_checkpoint(rgb), folders("a", "b", root="data", count=20),
                   folders("a", "b", "c")))  # fmt: skip


def probed_block_rows() -> list[Row]:
    return [*flag_rows(), *network_rows()]

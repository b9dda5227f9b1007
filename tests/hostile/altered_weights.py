"""Weights, encoders and their features that were altered, or are of something else."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
from hostile.altered_checkpoints import ALTERED, alter_checkpoint, scale
from hostile.altered_data import alter_cache
from hostile.begun_outputs import array, both, file
from hostile.row import CACHE, CKPT, FEATURES, IMAGES, LATENTS, ODE, RESUME, TRAIN, Row

REPA = f"{IMAGES} --data-path {{box}}/images --loss-type repa"
CACHED = f"{REPA} --repa-encoder vit_tiny_patch16_224 --repa-features {{here}}/features"
MANIFEST = {
    "encoder": "vit_tiny_patch16_224", "image_size": 8, "images": 8, "side": 4, "width": 2,
    "source_fingerprint": "0" * 16,
}  # fmt: skip


def features(dtype=np.float16, shape=(8, 2, 16, 2), **changes):
    """Prepare features/: a cache with these changes to its manifest; None takes a key out."""
    manifest = {key: value for key, value in (MANIFEST | changes).items() if value is not None}
    return both(
        array("features/features.npy", *shape, dtype=dtype),
        file("features/manifest.json", json.dumps(manifest).encode()),
    )


def feature_rows() -> list[Row]:
    incomplete = r"--repa-features \S+features: no complete cache of scripts/cache_features\.py"
    other = r"--repa-features \S+features are of something else: .*"
    left_out = [{"index": 8, "image": "pear/9.png"}]
    latents = LATENTS.replace("--model", "--loss-type repa --data-path {here}/latents --model")
    return [
        Row("features: not there", CACHED, incomplete + "; give the command"),
        Row("features: the manifest is a list", CACHED, rf"{incomplete} \(no JSON object\)",
            both(features(), file("features/manifest.json", b"[1]"))),
        Row("features: the manifest is cut", CACHED, incomplete,
            both(features(), file("features/manifest.json", b"{"))),
        Row("features: the manifest lacks the width", CACHED, rf"{incomplete} \(.*width",
            features(width=None)),
        Row("features: the manifest has a text for the width", CACHED, rf"{incomplete} \(.*width",
            features(width="many")),
        Row("features: an array is not there", CACHED, incomplete + "; give the command",
            file("features/manifest.json", json.dumps(MANIFEST).encode())),
        Row("features: the array is a text", CACHED, rf"{incomplete} \(.*features\.npy",
            both(features(), file("features/features.npy", b"hello"))),
        Row("features: the array is a folder", CACHED,
            rf"{incomplete} \(\S+features\.npy: a folder, where an \.npy file is meant",
            both(file("features/manifest.json", json.dumps(MANIFEST).encode()),
                 file("features/features.npy/notes.txt", b"mine"))),
        Row("features: of another dtype", CACHED, r"features\.npy is float32, not float16",
            features(dtype=np.float32)),
        Row("features: of fewer images than said", CACHED,
            r"features\.npy is \(7, 2, 16, 2\), its manifest says \(8, 2, 16, 2\); remove",
            features(shape=(7, 2, 16, 2))),
        Row("features: of more images", CACHED, rf"{other}images 9 there, 8 here",
            features(shape=(9, 2, 16, 2), images=9)),
        Row("features: of another encoder", CACHED, rf"{other}encoder vit_small there, vit_tiny_p",
            features(encoder="vit_small")),
        Row("features: of another size", CACHED, rf"{other}image_size 16 there, 8 here",
            features(image_size=16)),
        Row("features: of another list", CACHED, rf"{other}source_fingerprint 0{{16}} there",
            features()),
        Row("features: of latents without some images",
            f"{latents} --repa-features {{here}}/features",
            "--repa-features: 1 unreadable images were left out of the latents in",
            both(features(), alter_cache(lambda m, f: m.update(images=9, unreadable=left_out)))),
    ]  # fmt: skip


def resnet(here: Path, box: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=0)
    torch.save(network.state_dict(), here / "resnet.pth")


def text(here: Path, box: Path) -> None:
    (here / "vit.pth").write_text("hello")


def spoiled_codec(here: Path, box: Path) -> None:
    """A codec whose latents are beyond float16."""
    shutil.copytree(box / "vae", here / "vae")
    (path,) = (here / "vae").glob("*.safetensors")
    weights = safetensors.torch.load_file(path)
    weights = {key: value * (1e9 if "quant" in key else 1) for key, value in weights.items()}
    safetensors.torch.save_file(weights, path)


def encoder_rows() -> list[Row]:
    other, own = FEATURES.replace("{box}/vit", "{here}/vit"), "--repa-encoder-weights {here}/"
    residual = FEATURES.replace("vit_tiny_patch16_224", "test_resnet").replace(
        "{box}/vit.pth", "{here}/resnet.pth"
    )
    return [
        Row("encoder: weights are a text", other, "--encoder vit_tiny_patch16_224: cannot be loa",
            text),
        Row("encoder: of no such name", FEATURES.replace("vit_tiny_patch16_224", "vit_none"),
            r"--encoder vit_none: cannot be loaded \(.*vit_none"),
        Row("encoder: weights of another", FEATURES.replace("vit_tiny", "vit_small"),
            "--encoder vit_small_patch16_224: cannot be loaded"),
        Row("encoder: without patches", residual, "--encoder test_resnet: ResNet has no grid of p",
            resnet),
        Row("encoder: REPA's without patches",
            f"{REPA} --repa-encoder test_resnet {own}resnet.pth",
            "--repa-encoder test_resnet: ResNet has no grid of patches", resnet),
        Row("encoder: REPA's weights are a text",
            f"{REPA} --repa-encoder vit_tiny_patch16_224 {own}vit.pth",
            "--repa-encoder vit_tiny_patch16_224: cannot be loaded", text),
        Row("encoder: features of latents",
            FEATURES.replace("{box}/images", "{box}/latents"),
            "latents: latents; give the images"),
        Row("encoder: an image below a patch", FEATURES.replace("-size 16", "-size 8"),
            "--image-size 8: it must be at least 16 without --side"),
        Row("encoder: a codec beyond float16", CACHE.replace("{box}/vae", "{here}/vae"),
            "vae: its latents are not finite in float16; try --dtype float32", spoiled_codec),
    ]  # fmt: skip


def original(change: Callable[[dict], object]):
    """Prepare altered.pt: the run's checkpoint in the originals' layout, with a change."""

    def rewrite(content: dict) -> dict:
        states, model = content["opt"]["state"], content["model"]
        numbered = {i: states[name] for i, name in enumerate(model) if name in states}
        group = {"lr": 1e-4, "weight_decay": 0, "betas": (0.9, 0.999), "eps": 1e-8}
        theirs = {
            "model": model,
            "ema": content["ema"],
            "opt": {"state": numbered,
                    "param_groups": [group | {"params": list(range(len(model)))}]},
            "args": argparse.Namespace(
                model="SiT-Ti/2", image_size=8, num_classes=10, global_batch_size=8,
                path_type="Linear", prediction="velocity", loss_weight=None, train_eps=None,
                sample_eps=None, loss_type="vanilla", data_path=None, dataset_name="digits",
            ),
        }  # fmt: skip
        change(theirs)
        return theirs

    return alter_checkpoint(rewrite)


def projector(content: dict) -> None:
    content["ema"]["projectors.0.weight"] = torch.zeros(2)


def fewer_parameters(content: dict) -> None:
    content["opt"]["param_groups"][0]["params"] = [0, 1, 2]


def without_last_block(content: dict) -> dict:
    """Weights alone, of a network that is one block shorter."""
    numbers = [int(key.split(".")[1]) for key in content["ema"] if key.startswith("blocks.")]
    last = f"blocks.{max(numbers)}."
    return {key: value for key, value in content["ema"].items() if not key.startswith(last)}


def rows_of_labels(count: int):
    """Weights alone, with so many labels."""

    def change(content: dict) -> dict:
        key = "y_embedder.embedding_table.weight"
        return content["ema"] | {key: content["ema"][key][:count]}

    return change


def weights_rows() -> list[Row]:
    theirs = f"{RESUME} --resume {ALTERED} --loss-type vanilla"
    sample = ODE.replace(CKPT, ALTERED)
    own = r"altered\.pt: its optimizer is not its model's: "
    alone = alter_checkpoint(lambda content: content["ema"])
    gone = "the solver gave NaN or infinity; look at the weights"
    return [
        Row("weights: of REPA's, to go on from", theirs,
            r"altered\.pt: REPA's network, whose time .* no run can go on", original(projector)),
        Row("weights: of REPA's, to start from", f"{TRAIN} --ckpt {ALTERED} --fine-tune",
            r"altered\.pt: REPA's network, .* a run that starts from it would have to unlearn that",
            original(projector)),
        Row("weights: theirs with fewer parameters", theirs, own + "3 parameters there",
            original(fewer_parameters)),
        Row("weights: theirs without a state", theirs, own + "no state of",
            original(lambda content: content["opt"]["state"].popitem())),
        Row("weights: theirs without groups", theirs,
            "its opt must have a list param_groups, with lr and weight_decay",
            original(lambda content: content["opt"].update(param_groups=[{}]))),
        Row("weights: too large to sample", sample, f"images 0 to 3: {gone}",
            alter_checkpoint(scale("ema", 1e20))),
        Row("weights: too large for small steps", sample.replace("euler", "dopri5"),
            "images 0 to 3: .*give a larger --atol and --rt", alter_checkpoint(scale("ema", 1e20))),
        Row("weights: of fewer blocks", f"{sample} --vae none --num-classes 10",
            r"altered\.pt: a SiT with depth \d+, .*which no model of the zoo has",
            alter_checkpoint(without_last_block)),
        Row("weights: seen through another codec",
            f"{sample} --vae {{box}}/vae --model SiT-Ti/2 --num-classes 10",
            r"--vae \S+vae: its latents have 4 channels, the checkpoint's 1", alone),
        Row("weights: of images of another size",
            f"{sample} --vae none --model SiT-Ti/2 --num-classes 10 --image-size 16",
            r"--image-size 16: checkpoint \S+altered\.pt makes images of 8 pixels", alone),
        Row("weights: guidance without a label for none",
            f"{sample} --vae none --model SiT-Ti/2 --num-classes 10 --cfg-scale 2",
            "no null label", alter_checkpoint(rows_of_labels(10))),
    ]  # fmt: skip


def altered_weights_rows() -> list[Row]:
    return [*feature_rows(), *encoder_rows(), *weights_rows()]

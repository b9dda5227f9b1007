"""Bad values of flags: generated from the settings' types, and those that need a thought."""

import dataclasses
import types
import typing
from collections.abc import Iterator

from hostile.row import (
    CACHE,
    CKPT,
    CONVERT,
    FEATURES,
    IMAGES,
    ODE,
    PIXELS,
    REFERENCE,
    SCORE,
    SDE,
    SUGGEST,
    TRAIN,
    Row,
)

HUGE = 10**20  # more than 64 bits hold, and than any size, count or seed
# they act only together with flags that give them a meaning
TOGETHER = {
    "reg-decay-steps": "--reg-scheduler linear",
    "reg-weight-end": "--reg-scheduler linear",
    "keep-every": "--keep-last 2",
    "eval-every": "--eval-ref digits",
    "eval-samples": "--eval-ref digits --eval-every 5",
    "eval-steps": "--eval-ref digits --eval-every 5",
    "eval-batch-size": "--eval-ref digits --eval-every 5",
    "val-every": "--val-data-path {box}/images",
    "val-samples": "--val-data-path {box}/images",
    "dispersive-weight": "--loss-type dispersive",
    "dispersive-tau": "--loss-type dispersive",
    "dispersive-depth": "--loss-type dispersive",
    "sra-weight": "--loss-type sra",
    "sra-beta": "--loss-type sra",
    "sra-shift": "--loss-type sra",
    "sra-student-depth": "--loss-type sra",
    "sra-teacher-depth": "--loss-type sra",
    "repa-weight": "--loss-type repa",
    "repa-depth": "--loss-type repa",
}


def numbers(config: type) -> Iterator[tuple[str, type, int]]:
    """The numeric flags of a settings class: name, type, and how many values it takes."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind, count = hints[field.name], 1
        if dataclasses.is_dataclass(kind):
            yield from numbers(kind)
            continue
        options = [kind]
        if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
            options = [option for option in typing.get_args(kind) if option is not type(None)]
        kind = options[0]
        if typing.get_origin(kind) is tuple:
            count = len(typing.get_args(kind))
            kind = typing.get_args(kind)[0]
        if kind in (int, float):
            yield field.name.replace("_", "-"), kind, count


REFUSED = {  # what is said of a value, whatever the flag
    "-1": r".*\b(must be|is needed|are needed|numbers in|has blocks|shallower|classes are)\b",
    "nan": " nan: it must be a finite number",
    "inf": " inf: it must be a finite number",
    str(HUGE): f" {HUGE}: it must be a number of 64 bits",
}


def bad_numbers(name: str, config: type, command: str, skip: tuple[str, ...] = ()) -> list[Row]:
    """Rows for every numeric flag of a command: NaN or infinity, minus one, and far too much."""
    rows = []
    for i, (flag, kind, count) in enumerate(numbers(config)):
        values = [("nan", "inf")[i % 2], "-1"] if kind is float else ["-1", str(HUGE)]
        for value in values:
            if f"{flag}={value}" in skip or flag in skip:
                continue
            words = f"{command} {TOGETHER.get(flag, '')} --{flag} {' '.join([value] * count)}"
            says = f"--{flag}{REFUSED.get(value, '')}"
            rows.append(Row(f"{name} {flag} {value}", words, says))
    return rows


def flag_rows() -> list[Row]:
    from evaluation.__main__ import Score
    from evaluation.make_reference import MakeReference
    from sampling.sample_config import ODE as ODESettings
    from sampling.sample_config import SDE as SDESettings
    from scripts.cache_features import FeatureConfig
    from scripts.cache_latents import CacheConfig
    from scripts.suggest_pair import PairConfig
    from training.config import TrainConfig

    shared = tuple(name for name, *_ in numbers(ODESettings))
    return [
        *bad_numbers("train", TrainConfig, TRAIN, skip=TRAIN_MAY),
        *bad_numbers("ode", ODESettings, ODE),
        *bad_numbers("sde", SDESettings, SDE, skip=shared),
        *bad_numbers("score", Score, SCORE),
        *bad_numbers("reference", MakeReference, REFERENCE),
        *bad_numbers("cache", CacheConfig, CACHE),
        *bad_numbers("features", FeatureConfig, FEATURES),
        *bad_numbers("suggest", PairConfig, SUGGEST),
        *ONE_BY_ONE,
    ]


# a cosine of -1 is one; REPA looks for its encoder first
TRAIN_MAY = ("repa-weight", "repa-depth", "reg-similarity-threshold=-1")

ONE_BY_ONE = [
    # --- words that are no values
    Row("train unknown flag", f"{TRAIN} --modle SiT-S/2", "--modle"),
    Row("train unknown model", f"{TRAIN} --model SiT-XXL/2", r"--model SiT-XXL/2: no such model"),
    Row("train text for a number", f"{TRAIN} --lr fast", "--lr"),
    Row("train unknown loss", f"{TRAIN} --loss-type layersync", "--loss-type"),
    Row("train empty data path", IMAGES, "--data-path", more=("--data-path", "")),
    Row("train equal blocks", f"{TRAIN} --encoder-depth 3 --gt-encoder-depth 3", "3"),
    Row("train teacher below", f"{TRAIN} --encoder-depth 5 --gt-encoder-depth 2", "5"),
    Row("train block 0", f"{TRAIN} --encoder-depth 0", "--encoder-depth"),
    Row("train block 99", f"{TRAIN} --gt-encoder-depth 99", "--gt-encoder-depth"),
    Row(
        "train pairs are code",
        f"{TRAIN} --loss-type multiple_sync",
        "--multi-blocks-match",
        more=("--multi-blocks-match", "__import__('os').system('true')"),
    ),
    Row("train pairs missing", f"{TRAIN} --loss-type multiple_sync", "--multi-blocks-match"),
    Row("train vae of no folder", IMAGES.replace("none", "{here}/no") + " --data-path {box}/images",
        "--vae"),
    Row("train data of no folder", f"{IMAGES} --data-path {{here}}/none", "--data-path"),
    Row("train data is a file", f"{IMAGES} --data-path {{box}}/rgb.npz", "--data-path"),
    Row("train two data sets", f"{TRAIN} --data-path {{box}}/images", "--data-path"),
    Row("train batch above the data", f"{TRAIN} --global-batch-size 4000", "--global-batch-size"),
    Row("train digits of another size", f"{TRAIN} --image-size 16", "--image-size 16"),
    Row("train too few classes", f"{TRAIN} --num-classes 9", "--num-classes 9"),
    Row("train patch does not divide", IMAGES.replace("size 8", "size 9")
        + " --data-path {box}/images", "--image-size 9"),
    Row("train resume and ckpt", f"{TRAIN} --resume a.pt --ckpt b.pt", "--resume"),
    Row("train fine-tune alone", f"{TRAIN} --fine-tune", "--ckpt"),
    Row("train resume no file", f"{TRAIN} --resume {{here}}/none.pt", "none.pt"),
    Row("train resume a folder", f"{TRAIN} --resume {{box}}/images", "images"),
    Row("train eval without reference", f"{TRAIN} --eval-every 1", "--eval-ref"),
    Row("train reference without eval", f"{TRAIN} --eval-ref digits", "--eval-every"),
    Row("train eval reference is none",
        f"{IMAGES} --data-path {{box}}/images --eval-every 1 --eval-ref {{here}}/none.npz",
        "none.npz"),
    Row("train held-out data is none", f"{TRAIN} --val-data-path {{here}}/none",
        "--val-data-path"),
    Row("train betas of one", f"{TRAIN} --betas 1 1", "--betas"),
    Row("train range of t reversed", f"{TRAIN} --reg-t-range 0.9 0.1", "--reg-t-range"),
    # --- sampling
    Row("sample no solver", ODE.replace(" ODE", ""), "ODE"),
    Row("sample unknown preset", f"{ODE} --preset nope", "preset.*nope|nope.*preset"),
    Row("sample unknown method", f"{ODE} --sampling-method rk99", "rk99"),
    Row("sample 11 classes of 10", f"{ODE} --num-classes 11", "--num-classes 11"),
    Row("sample 9 classes of 10", f"{ODE} --num-classes 9", "--num-classes 9"),
    Row("sample another model", f"{ODE} --model SiT-XL/2", "--model SiT-XL/2"),
    Row("sample another size", f"{ODE} --image-size 16", "--image-size 16"),
    Row("sample another path", f"{ODE} --path-type VP", "--path-type VP"),
    Row("sample another prediction", f"{ODE} --prediction noise", "--prediction noise"),
    Row("sample with a codec", f"{ODE} --vae ema", "--vae ema"),
    Row("sample interval reversed", f"{ODE} --cfg-scale 2 --guidance-interval 0.8 0.2",
        "--guidance-interval"),
    Row("sample interval without scale", f"{ODE} --guidance-interval 0.2 0.8",
        "--guidance-interval"),
    Row("sample tolerance below rounding", f"{ODE} --sampling-method dopri5 --atol 1e-300",
        "--atol"),
    Row("sample likelihood of guidance", f"{ODE} --likelihood --cfg-scale 2", "--likelihood"),
    Row("sample a batch beyond memory", f"{ODE} --per-proc-batch-size 99999999999",
        "--per-proc-batch-size"),
    Row("sample out of another kind", ODE.replace("samples.npz", "samples.png"), "--out"),
    Row("sample no checkpoint", ODE.replace(CKPT, "{here}/none.pt"), "none.pt"),
    Row("sample checkpoint is a folder", ODE.replace(CKPT, "{box}/run"), "run"),
    Row("sample checkpoint is samples", ODE.replace(CKPT, "{box}/samples.npz"), "samples.npz"),
    # --- evaluation
    Row("score no samples", PIXELS.replace("{box}/samples", "{here}/none"), "none.npz"),
    Row("score no reference", SCORE.replace("--ref {box}/rgb", "--ref {here}/none"), "none.npz"),
    Row("score greys by Inception", SCORE.replace("{box}/rgb.npz --ref", "{box}/samples.npz --ref"),
        "one channel"),
    Row("score pixels with kid", f"{PIXELS} --kid", "--kid"),
    Row("score pixels with bootstrap", f"{PIXELS} --bootstrap 10", "--bootstrap"),
    Row("score pixels with fid-at", f"{PIXELS} --fid-at 2", "--fid-at"),
    Row("score pixels per class", f"{PIXELS} --per-class", "--per-class"),
    Row("score pixels with dinov2", f"{PIXELS} --fd-dinov2", "--fd-dinov2"),
    Row("score another array", f"{PIXELS} --array nope", "nope"),
    Row("score more than there are", f"{SCORE} --fid-at 9999", "--fid-at|9999"),
    Row("score weights of no file", f"{SCORE} --inception-weights {{here}}/none.pth", "none.pth"),
    Row("table of no file", "-m evaluation table {here}/none.csv", "none.csv"),
    Row("reference of no data", REFERENCE.replace("{box}/rgb", "{here}/none"), "none.npz"),
    Row("reference out of another kind", REFERENCE.replace("ref.npz", "ref.txt"), "ref.txt"),
    # --- caches and other scripts
    Row("cache no data", CACHE.replace("{box}/images", "{here}/none"), "--data-path"),
    Row("cache without codec", CACHE.replace("{box}/vae", "none"), "--vae"),
    Row("cache codec of no folder", CACHE.replace("{box}/vae", "{here}/none"), "--vae"),
    Row("cache verify nothing", "scripts/cache_latents.py --out {here}/none --verify", "none"),
    Row("features of no weights", FEATURES.replace("vit.pth", "none.pth"), "none.pth"),
    Row("suggest times outside", f"{SUGGEST} --times 0.5 1.5", "--times"),
    Row("suggest out of another kind", SUGGEST.replace("pairs.json", "pairs.txt"), "--out"),
    Row("convert to another kind", CONVERT.replace(".safetensors", ".pt"), r"weights\.pt"),
    Row("convert no file", CONVERT.replace(CKPT, "{here}/none.pt"), "none.pt"),
]  # fmt: skip

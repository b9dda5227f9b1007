"""Scores and references: samples that do not fit, results of others, networks of others."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from hostile.altered_samples import npz, statistics
from hostile.row import REFERENCE, SCORE, SCORE_PIXELS, Row
from PIL import Image

RGB, GREY = np.zeros((6, 12, 12, 3), np.uint8), np.zeros((6, 12, 12, 1), np.uint8)
OWN = SCORE.replace("{box}/rgb.npz --ref", "{here}/altered.npz --ref")
AGAINST = SCORE.replace("--ref {box}/rgb.npz", "--ref {here}/altered.npz")
COLUMNS = "samples,images,reference_sha256"


def results(content: str, mode: int = 0o644):
    """Prepare results.csv."""

    def prepare(here: Path, box: Path) -> None:
        (here / "results.csv").write_text(content)
        (here / "results.csv").chmod(mode)

    return prepare


def weights(content):
    return lambda here, box: torch.save(content, here / "w.pth")


def pictures(*sizes: tuple[int, int], name: str = "p"):
    """Prepare a folder of pictures of these sizes."""

    def prepare(here: Path, box: Path) -> None:
        (here / name).mkdir()
        for i, size in enumerate(sizes):
            Image.new("RGB", size).save(here / name / f"{i}.png")

    return prepare


def npy(here: Path, box: Path) -> None:
    np.save(here / "a.npy", RGB)


def bad_parquet(here: Path, box: Path) -> None:
    (here / "a.parquet").write_bytes(b"PAR1 and more")


def sample_rows() -> Iterator[Row]:
    fitting = "{here}/a.npy --ref {box}/rgb.npz --pixels --out {here}/a.metrics.json"
    yield Row("score own digits with an array", "-m evaluation digits --ref digits --array images "
              "--out {here}/a.metrics.json", "--array images: digits is no .npz")  # fmt: skip
    yield Row("score array of an npy", f"-m evaluation {fitting} --array images",
              r"--array images: \S*a\.npy is no .npz", npy)  # fmt: skip
    yield Row("score array of a folder", SCORE_PIXELS.replace("{box}/rgb.npz --ref", "{box}/images "
              "--array images --ref"), "--array images: .*images is no .npz")  # fmt: skip
    yield Row("score by class without labels", f"{OWN} --per-class",
              r"--per-class needs labels, and \S*altered.npz has none", npz(arr_0=RGB))  # fmt: skip
    yield Row("score three images", OWN, "3 images, precision and recall needs 4",
              npz(arr_0=RGB[:3]))  # fmt: skip
    yield Row("score first 7 of 6", f"{OWN} --fid-at 7", "6 images, --fid-at needs 7",
              npz(arr_0=RGB))  # fmt: skip
    yield Row("score pictures of two sizes", SCORE_PIXELS.replace("{box}/rgb.npz --ref", "{here}/p "
              "--ref"), r"1\.png is 8x9 pixels and 0\.png 9x8: all images must have one size",
              pictures((9, 8), (8, 9)))  # fmt: skip
    yield Row("score one picture", SCORE_PIXELS.replace("{box}/rgb.npz --ref", "{here}/p --ref"),
              "p: 1 images in it, at least 2 are needed", pictures((9, 8)))  # fmt: skip
    yield Row("score pixels of another size", f"{OWN} --pixels",
              "give a reference of the same shape", npz(arr_0=RGB[:, :9]))  # fmt: skip
    large = np.zeros((4, 80, 80, 3), np.uint8)
    itself = SCORE_PIXELS.replace("{box}/rgb.npz", "{here}/altered.npz")
    yield Row("score pixels of large images", itself, "in pixel space they may have 12288 values",
              npz(arr_0=large))  # fmt: skip
    yield Row("score dinov2 for nothing", f"{SCORE} --dinov2-weights {{box}}/vit.pth",
              "--dinov2-weights is of no use without --fd-dinov2")  # fmt: skip


def output_rows() -> Iterator[Row]:
    one = f"{SCORE_PIXELS} --results {{here}}/results.csv"
    yield Row("score out is results", f"{SCORE_PIXELS} --results {{here}}/a.metrics.json",
              "--out .*: it is --results too; give another name")  # fmt: skip
    yield Row("score results are read-only", one, r"--results \S*results.csv: no permission",
              results(f"{COLUMNS}\n", 0o444))  # fmt: skip
    for what, content, says in (
        ("of other columns", "a,b\n1,2\n", "its columns are a, b"),
        ("lack a column", "samples,images\na,1\n", "its columns are samples, images"),
        ("have a column twice", f"{COLUMNS},images\n", "its columns are .*, images"),
        ("have a long line", f"{COLUMNS}\na,1,b,c\n", "a line has more cells than there are col"),
    ):
        yield Row(f"score results {what}", one, says, results(content))
        yield Row(f"table of results that {what}", "-m evaluation table {here}/results.csv", says,
                  results(content))  # fmt: skip
    yield Row("table of a folder", "-m evaluation table {box}/images", "images")


def text(value: dict) -> np.ndarray:
    return np.array(json.dumps(value))


def reference_rows() -> Iterator[Row]:
    yield Row("score against greys", AGAINST, r"reference \S*: images of one channel, Inception",
              npz(arr_0=GREY))  # fmt: skip
    yield Row("score against three images", AGAINST, "reference .*: 3 images, precision and recall",
              npz(arr_0=RGB[:3]))  # fmt: skip
    for flag in ("--kid", "--per-class", "--fd-dinov2"):
        yield Row(f"score {flag} against statistics", f"{AGAINST} {flag}",
                  f"{flag} needs images, and reference .* holds none", statistics())  # fmt: skip
    yield Row("score by class against no labels", f"{AGAINST} --per-class",
              "--per-class needs labels, and reference .* holds none", npz(arr_0=RGB))  # fmt: skip
    mean, covariance = np.zeros(4), np.eye(4)
    yield Row("score dinov2 against another network", f"{AGAINST} --fd-dinov2",
              "was made with another dinov2_model: vit_small, not",
              statistics(arr_0=RGB, mu_dinov2=mean, sigma_dinov2=covariance,
                         recipe=text({"dinov2_model": "vit_small"})))  # fmt: skip
    inception = "--inception-weights {here}/w.pth"
    one = torch.zeros(1)  # stored once, however large the tensor is that it is seen as
    for what, content, says in (
        ("of others", {"a": one}, "not such weights"),
        ("of another size", {"fc.weight": one.expand(10, 2048)}, "not torch-fidelity's weights"),
        ("of torchvision's", {"fc.weight": one.expand(1008, 2048)}, "not torch-fidelity's weights"),
        ("in a list", [one], "not such weights"),
    ):
        yield Row(f"score by weights {what}", f"{SCORE} {inception}", says, weights(content))
        yield Row(
            f"reference by weights {what}", f"{REFERENCE} {inception}", says, weights(content)
        )
    changed = REFERENCE.replace("{box}/rgb.npz", "{here}/altered.npz")
    yield Row("reference of greys", changed, "altered.npz: images of one channel, Inception",
              npz(arr_0=GREY))  # fmt: skip
    yield Row("reference of another size", f"{REFERENCE} --image-size 8",
              r"--image-size 8: \S*rgb.npz holds images of 12x12, which are not")  # fmt: skip
    yield Row("reference of rows without a size", REFERENCE.replace("{box}/rgb.npz", "{here}/a.pa"
              "rquet"), "a data set needs --image-size", bad_parquet)  # fmt: skip
    yield Row("reference of damaged rows", REFERENCE.replace("{box}/rgb.npz", "{here}/a.parquet "
              "--image-size 8"), r"a\.parquet: cannot be loaded as a da", bad_parquet)  # fmt: skip
    yield Row("reference of two sizes", REFERENCE.replace("{box}/rgb.npz", "{here}/p"),
              "all images must have one size", pictures((9, 8), (8, 9)))  # fmt: skip
    yield Row("reference array of a folder", f"{REFERENCE} --array images".replace("{box}/rgb.npz",
              "{box}/images"), "--array images: .*images is no .npz")  # fmt: skip
    yield Row("reference dinov2 for nothing", f"{REFERENCE} --dinov2-model vit_small",
              "--dinov2-model is of no use without --fd-dinov2")  # fmt: skip


def scoring_rows() -> list[Row]:
    return [*sample_rows(), *output_rows(), *reference_rows()]

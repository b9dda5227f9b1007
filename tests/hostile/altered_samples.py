"""Sets of samples and references that were altered, each met by the check that it is for."""

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hostile.row import PIXELS, SCORE, SCORE_PIXELS, Row

NAN = float("nan")


def npz(**arrays):
    """Prepare altered.npz of these arrays."""

    def prepare(here: Path, box: Path) -> None:
        np.savez(here / "altered.npz", **arrays)

    return prepare


def member(name: str, content: bytes, how: int = zipfile.ZIP_STORED, **others):
    """Prepare altered.npz with one member of these bytes."""

    def prepare(here: Path, box: Path) -> None:
        np.savez(here / "altered.npz", **others)
        with zipfile.ZipFile(here / "altered.npz", "a", how) as file:
            file.writestr(name, content)

    return prepare


def header(shape: str, descr: str = "'|u1'") -> bytes:
    """A .npy header of format 1.0 with this shape, and no data."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(-len(text) % 64 + len(text) + 53) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def flip(source: str, at: float):
    """Prepare altered.npz: a good file with one byte changed."""

    def prepare(here: Path, box: Path) -> None:
        content = bytearray((box / source).read_bytes())
        content[int(at * len(content))] ^= 0xFF
        (here / "altered.npz").write_bytes(content)

    return prepare


def cut_npz(source: str, share: float):
    def prepare(here: Path, box: Path) -> None:
        content = (box / source).read_bytes()
        (here / "altered.npz").write_bytes(content[: int(share * len(content))])

    return prepare


def npy(content: bytes):
    """Prepare altered.npz: an .npy of these bytes, whatever its name."""
    return lambda here, box: (here / "altered.npz").write_bytes(content)


def flip_in_large_images(here: Path, box: Path) -> None:
    """More than is read with the header, so that only reading it through finds the byte."""
    np.savez(here / "altered.npz", arr_0=np.zeros((8, 64, 64, 3), np.uint8))
    content = bytearray((here / "altered.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (here / "altered.npz").write_bytes(content)


def listed_as_larger(how: int):
    """Prepare altered.npz: header and directory claim ten times the images that are there."""

    def prepare(here: Path, box: Path) -> None:
        content = header("(60, 8, 8, 1)") + bytes(384)
        member("arr_0.npy", content, how)(here, box)
        packed = bytearray((here / "altered.npz").read_bytes())
        size = (
            packed.rindex(b"PK\x01\x02") + 24
        )  # in the directory's entry, after four dates and sums
        packed[size : size + 4] = struct.pack("<I", len(content) - 384 + 3840)
        (here / "altered.npz").write_bytes(packed)

    return prepare


IMAGES_8 = np.zeros((6, 8, 8, 1), np.uint8)
BAD_ARRAY = "arr_0 must be uint8 images"
BROKEN = "an array's header is broken"
OBJECTS = "an array of Python objects, which are not unpickled"
NOT_WHOLE = "and {} are there: truncated or altered"
OURS = header("(6, 8, 8, 1)") + IMAGES_8.tobytes()
SAMPLES = {
    "is empty": (lambda here, box: (here / "altered.npz").write_bytes(b""), "not an .npz file"),
    "is a text": (lambda here, box: (here / "altered.npz").write_bytes(b"PK?"), "not an .npz file"),
    "is a folder of nothing": (lambda here, box: (here / "altered.npz").mkdir(), "0 images in it"),
    "is a device": (lambda here, box: (here / "altered.npz").symlink_to("/dev/null"),
                    "neither a file nor a folder"),
    "has no arrays": (npz(), "no arr_0 in it"),
    "has another array": (npz(images=IMAGES_8), "no arr_0 in it, only images"),
    "has floats": (npz(arr_0=IMAGES_8.astype(np.float32)), f"{BAD_ARRAY}.*float32.*store"),
    "has wide integers": (npz(arr_0=IMAGES_8.astype(np.int64)), f"{BAD_ARRAY}.*int64"),
    "has objects": (npz(arr_0=np.array([{}, []], dtype=object)), OBJECTS),
    "has three dimensions": (npz(arr_0=IMAGES_8[..., 0]), BAD_ARRAY),
    "has two channels": (npz(arr_0=np.zeros((6, 8, 8, 2), np.uint8)), BAD_ARRAY),
    "has one image": (npz(arr_0=IMAGES_8[:1]), "1 images in it, at least 2 are needed"),
    "has images of no size": (npz(arr_0=np.zeros((6, 0, 8, 1), np.uint8)), "images of 0x8 pixels"),
    "is in Fortran order": (npz(arr_0=np.asfortranarray(np.zeros((6, 8, 8, 3), np.uint8))),
                            "an array in Fortran order"),
    "has too few labels": (npz(arr_0=IMAGES_8, labels=np.arange(5)), r"6 images and labels .*\(5,"),
    "has labels that are floats": (npz(arr_0=IMAGES_8, labels=np.arange(6.0)), "labels float64"),
    "has labels that are objects": (npz(arr_0=IMAGES_8, labels=np.array([{}] * 6)), OBJECTS),
    "has a recipe that is no JSON": (npz(arr_0=IMAGES_8, recipe=np.array("{")), "recipe is not JS"),
    "has a recipe that is a list": (npz(arr_0=IMAGES_8, recipe=np.array("[1]")), "is no JSON obje"),
    "has a recipe without an end": (
        member("recipe.npy", header("()", "'<U99999999'"), arr_0=IMAGES_8), NOT_WHOLE.format(0)),
    "is an .npy that is cut": (npy(header("(6, 8, 8, 1)") + bytes(99)), "99 bytes of the 384 that"),
    "is an .npy that is longer": (npy(OURS + b"more"), NOT_WHOLE.format(388)),
    "has no header": (member("arr_0.npy", b"hello"), "not an .npz file .*magic"),
    "has a header of another time": (member("arr_0.npy", b"\x93NUMPY\x07\x00" + OURS), "version"),
    "has an endless header": (
        member("arr_0.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f"), "header of 2,147,483,647 byt"),
    "has half a header": (member("arr_0.npy", header("(6, 8, 8, 1)")[:20]), BROKEN),
    "has a header that is code": (member("arr_0.npy", header("print(1)") + bytes(384)), BROKEN),
    "has a negative size": (member("arr_0.npy", header("(-6, 8, 8, 1)") + bytes(384)), "shape"),
    "has a size that is no number": (
        member("arr_0.npy", header("(6, 'a', 8, 1)") + bytes(384)), "header says shape"),
    "claims more than it holds": (
        member("arr_0.npy", header("(60, 8, 8, 1)") + bytes(384)), NOT_WHOLE.format(384)),
    "claims less than it holds": (
        member("arr_0.npy", header("(3, 8, 8, 1)") + bytes(384)), NOT_WHOLE.format(384)),
    "claims an enormous size": (
        member("arr_0.npy", header(f"({10**15}, 8, 8, 1)") + bytes(384)), NOT_WHOLE.format(384)),
    "is listed as larger": (
        listed_as_larger(zipfile.ZIP_STORED), r"truncated \(mmap length is greater than"),
    "is listed as larger, packed": (
        listed_as_larger(zipfile.ZIP_DEFLATED), r"truncated, .*\(it ends before row 60\)"),
    "has labels of an enormous size": (
        member("labels.npy", header(f"({10**15},)", "'<i8'") + bytes(48), arr_0=IMAGES_8),
        f"labels is int64 .*{NOT_WHOLE.format(48)}"),
    "has a recipe that unpacks to too much": (
        member("recipe.npy", bytes(2**24 + 1), zipfile.ZIP_DEFLATED, arr_0=IMAGES_8),
        "recipe takes 16,777,217 bytes unpacked, 16,777,216 are the most"),
}  # fmt: skip
TWICE = ("is empty", "has floats", "has objects", "claims more than it holds")  # by --ref too


def statistics(**changes):
    """Prepare altered.npz: statistics of a reference, with these arrays."""
    mean, covariance = np.zeros(4), np.eye(4)
    whole = dict(mu=mean, sigma=covariance, mu_s=mean, sigma_s=covariance) | changes
    return npz(**{name: array for name, array in whole.items() if array is not None})


STATISTICS = {
    "half of the statistics": (statistics(mu_s=None, sigma_s=None), "no mu_s, sigma_s in it"),
    "statistics of two sizes": (statistics(sigma_s=np.eye(5)), r"must be \(D,\) and \(D, D\)"),
    "statistics that are NaN": (statistics(mu_s=np.full(4, NAN)), "holds NaN or inf"),
    "statistics that are not symmetric": (
        statistics(sigma_s=np.triu(np.ones((4, 4)))),
        "sigma_s is no covariance: it is not symm",
    ),
    "statistics that are texts": (statistics(mu_s=np.array(["a"] * 4)), "must be floating-point"),
}


def sample_file_rows() -> Iterator[Row]:
    score = PIXELS.replace("{box}/samples.npz", "{here}/altered.npz")
    reference = PIXELS.replace("--ref digits", "--ref {here}/altered.npz --pixels")
    rgb = SCORE_PIXELS.replace("{box}/rgb.npz --ref", "{here}/altered.npz --ref")
    for what, (prepare, words) in SAMPLES.items():
        says = rf"altered\.npz: .*{words}"
        yield Row(f"score samples: {what}", score, says, prepare)
        if what in TWICE:
            yield Row(f"score reference: {what}", reference, says, prepare)
    for share in (0.1, 0.95):
        cut = cut_npz("samples.npz", share)
        yield Row(f"score samples: cut at {share}", score, r"altered\.npz: trunc.*not a zip", cut)
    yield Row("score samples: a byte in the recipe", score, r"altered\.npz: .*CRC.*recipe",
              flip("samples.npz", 0.5))  # fmt: skip
    yield Row("score rgb: a byte in the images", rgb, r"altered\.npz: .*arr_0",
              flip("rgb.npz", 0.5))  # fmt: skip
    yield Row("score rgb: a byte in large images", rgb, r"altered\.npz: damaged: arr_0 is not what",
              flip_in_large_images)  # fmt: skip
    for what, (prepare, words) in STATISTICS.items():
        words = rf"reference \S+altered\.npz: .*{words}"
        command = SCORE.replace("--ref {box}/rgb.npz", "--ref {here}/altered.npz")
        yield Row(f"score reference: {what}", command, words, prepare)

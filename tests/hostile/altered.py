"""Files that were altered after they were written: checkpoints, samples, caches, images."""

import io
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from hostile.rows import (
    CKPT,
    IMAGES,
    LATENTS,
    ODE,
    PIXELS,
    RESUME,
    SCORE,
    SCORE_PIXELS,
    SUGGEST,
    Row,
)

GOOD = CKPT.removeprefix("{box}/")
ALTERED = "{here}/altered.pt"
NAN = float("nan")


def alter_checkpoint(change: Callable[[dict], object]):
    """Prepare altered.pt: the good checkpoint with `change` made to its content."""

    def prepare(here: Path, box: Path) -> None:
        content = torch.load(box / GOOD, weights_only=True)
        other = change(content)
        torch.save(content if other is None else other, here / "altered.pt")

    return prepare


def put(*keys_and_value) -> Callable[[dict], None]:
    """A change: content[key][key]... = value."""
    *keys, last, value = keys_and_value

    def change(content: dict) -> None:
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def drop(*keys) -> Callable[[dict], None]:
    """A change: del content[key][key]..."""
    *path, last = keys

    def change(content: dict) -> None:
        for key in path:
            content = content[key]
        del content[last]

    return change


def scale(part: str, factor: float) -> Callable[[dict], None]:
    """A change: every tensor of a state dict times `factor`."""

    def change(content: dict) -> None:
        content[part] = {key: value * factor for key, value in content[part].items()}

    return change


def one_weight(part: str, value: Callable[[torch.Tensor], object]) -> Callable[[dict], None]:
    """A change to one tensor of a state dict."""

    def change(content: dict) -> None:
        content[part]["blocks.0.attn.qkv.weight"] = value(content[part]["blocks.0.attn.qkv.weight"])

    return change


def one_row(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight: weight.index_fill(0, torch.tensor(3), value)


def first_moment(value: Callable[[torch.Tensor], object]) -> Callable[[dict], None]:
    """A change to one moment estimate of the optimizer."""

    def change(content: dict) -> None:
        state = next(iter(content["opt"]["state"].values()))
        state["exp_avg"] = value(state["exp_avg"])

    return change


TYPES = {"text": "many", "none": None, "list": [1, 2], "number": 3.5}
RESUMED = {  # the parts that continuing needs, and which of `TYPES` are not theirs
    "model": TYPES, "ema": TYPES, "opt": TYPES, "config": TYPES, "arch": TYPES, "meter": TYPES,
    "step": TYPES, "data_length": TYPES, "last_step": TYPES,
    "regularizers": {"text": "many", "none": None, "number": 3.5},
}  # fmt: skip
WEIGHTS = {
    "without a tensor": drop("{part}", "blocks.0.attn.qkv.weight"),
    "with an unknown tensor": put("{part}", "blocks.0.extra", torch.zeros(2)),
}


def checkpoint_rows() -> Iterator[Row]:
    resume = f"{RESUME} --resume {ALTERED}"
    for part, types in RESUMED.items():
        yield Row(f"resume without {part}", resume, rf"altered\.pt.*{part}",
                  alter_checkpoint(drop(part)))  # fmt: skip
        for kind, value in types.items():
            yield Row(f"resume {part} is {kind}", resume, r"altered\.pt",
                      alter_checkpoint(put(part, value)))  # fmt: skip
    changes = {
        "step is negative": put("step", -3),
        "step is a flag": put("step", True),
        "step is beyond counting": put("step", 10**16),
        "data length is another": put("data_length", 5),
        "meter without sums": drop("meter", "sums"),
        "meter has too few sums": put("meter", "sums", [0.0]),
        "meter has a text": put("meter", "sums", ["a", "b", "c", "d"]),
        "meter counts a text": put("meter", "count", "many"),
        "arch without a name": drop("arch", "name"),
        "arch has another name": put("arch", "name", "SiT-XL/2"),
        "arch has no such name": put("arch", "name", "SiT-no"),
        "arch has a huge size": put("arch", "input_size", 10**9),
        "arch has a text for a size": put("arch", "num_classes", "ten"),
        "config without the seed": drop("config", "global_seed"),
        "config of another loss": put("config", "loss_type", "vanilla"),
        "optimizer without groups": drop("opt", "param_groups"),
        "optimizer without state": drop("opt", "state"),
        "optimizer has a text": put("opt", "state", "many"),
        "moment is NaN": first_moment(lambda moment: moment * NAN),
        "moment has another shape": first_moment(lambda moment: torch.zeros(2, 2)),
        "moment is a text": first_moment(lambda moment: "many"),
        "regularizers are one too few": put("regularizers", []),
    }
    for part in ("model", "ema"):
        changes |= {
            f"{part} is NaN": scale(part, NAN),
            f"{part} is infinite": scale(part, float("inf")),
            f"{part} without a tensor": drop(part, "blocks.0.attn.qkv.weight"),
            f"{part} with one more": put(part, "blocks.0.extra", torch.zeros(2)),
            f"{part} turned on its side": one_weight(part, lambda weight: weight.T),
            f"{part} has one NaN": one_weight(
                part, lambda w: w.index_fill(0, torch.tensor(3), NAN)
            ),
            f"{part} has integers": one_weight(part, lambda weight: weight.long()),
            f"{part} has a text": one_weight(part, lambda weight: "many"),
            f"{part} is empty": put(part, {}),
        }
    met_later = {"regularizers are one too few": "regularisers", "meter has too few sums": "meter"}
    for what, change in changes.items():
        says = met_later.get(what, r"altered\.pt")
        yield Row(f"resume {what}", resume, says, alter_checkpoint(change))


def sampled_rows() -> Iterator[Row]:
    sample = ODE.replace(CKPT, ALTERED)
    suggest = SUGGEST.replace(CKPT, ALTERED)
    changes = {
        "without ema": drop("ema"),
        "ema is NaN": scale("ema", NAN),
        "ema has one infinity": one_weight("ema", one_row(float("inf"))),
        "ema is a list": put("ema", [1, 2]),
        "ema is empty": put("ema", {}),
        "ema without a tensor": drop("ema", "final_layer.linear.weight"),
        "ema turned on its side": one_weight("ema", lambda weight: weight.T),
        "ema has integers": one_weight("ema", lambda weight: weight.long()),
        "ema without blocks": lambda content: put(
            "ema", {k: v for k, v in content["ema"].items() if "blocks" not in k}
        )(content),
        "config is a text": put("config", "many"),
        "config has another path": put("config", "transport", "path_type", "Curved"),
        "config has no such prediction": put("config", "transport", "prediction", "future"),
        "transport is a list": put("config", "transport", [1]),
        "image size is a text": put("config", "image_size", "large"),
        "image size is negative": put("config", "image_size", -8),
        "classes are a text": put("config", "num_classes", "ten"),
        "codec is a number": put("codec", 7),
        "codec is a folder that is none": put("codec", "/none/such"),
        "is a list": lambda content: [content["ema"]],
        "is a tensor": lambda content: torch.zeros(3),
        "holds nothing": lambda content: {"epoch": 3},
    }
    for what, change in changes.items():
        says = "--vae /none/such" if what == "codec is a folder that is none" else r"altered\.pt"
        yield Row(f"sample {what}", sample, says, alter_checkpoint(change))
    for what in ("without ema", "ema is NaN", "config is a text", "is a list"):
        yield Row(f"suggest {what}", suggest, r"altered\.pt", alter_checkpoint(changes[what]))


class Evil:
    """Pickled, it asks to run a command."""

    def __reduce__(self):
        return (print, ("this ran",))


def file_rows() -> Iterator[Row]:
    """Files that are no checkpoints, or only the first part of one."""

    def cut(share: float):
        def prepare(here: Path, box: Path) -> None:
            content = (box / GOOD).read_bytes()
            (here / "altered.pt").write_bytes(content[: int(share * len(content))])

        return prepare

    def evil(here: Path, box: Path) -> None:
        torch.save({"model": {}, "step": Evil()}, here / "altered.pt")

    def text(content: bytes):
        return lambda here, box: (here / "altered.pt").write_bytes(content)

    def loop(here: Path, box: Path) -> None:
        (here / "altered.pt").symlink_to(here / "altered.pt")

    def archive(here: Path, box: Path) -> None:
        with zipfile.ZipFile(here / "altered.pt", "w") as file:
            file.writestr("archive/data.pkl", b"no pickle")

    cases = {
        "is empty": text(b""), "is a text": text(b"hello"), "is another archive": archive,
        "would run something": evil, "links to itself": loop,
        **{f"ends at {share:.0%}": cut(share) for share in (0.001, 0.1, 0.5, 0.9, 0.999)},
    }  # fmt: skip
    for what, prepare in cases.items():
        says = r"altered\.pt"
        yield Row(f"resume file {what}", f"{RESUME} --resume {ALTERED}", says, prepare)
        yield Row(f"sample file {what}", ODE.replace(CKPT, ALTERED), says, prepare)


def latest_rows() -> Iterator[Row]:
    """`--resume latest` passes over what it cannot use, and ends where nothing is left."""

    def run(*changes: Callable[[Path], object], keep: bool = True):
        def prepare(here: Path, box: Path) -> None:
            shutil.copytree(box / "run", here / "results" / "run")
            folder = here / "results" / "run" / "checkpoints"
            for change in changes:
                change(folder)

        return prepare

    def rewrite(name: str, change: Callable[[dict], object]):
        def apply(folder: Path) -> None:
            content = torch.load(folder / name, weights_only=True)
            change(content)
            torch.save(content, folder / name)

        return apply

    latest = f"{RESUME} --resume latest"
    bad = {
        "step is a text": rewrite("0000004.pt", put("step", "four")),
        "is cut": lambda folder: (folder / "0000004.pt").write_bytes(b"PK"),
        "without model": rewrite("0000004.pt", drop("model")),
        "model is NaN": rewrite("0000004.pt", scale("model", NAN)),
    }
    for what, change in bad.items():
        yield Row(f"latest: the newest {what}", latest, None, run(change))
        older = rewrite("0000002.pt", drop("opt"))
        yield Row(f"latest: the newest {what}, the other too", latest, "checkpoints",
                  run(change, older))  # fmt: skip


# --- sets of samples


def npz(**arrays):
    """Prepare altered.npz of these arrays."""

    def prepare(here: Path, box: Path) -> None:
        np.savez(here / "altered.npz", **arrays)

    return prepare


def member(name: str, content: bytes, **others):
    """Prepare altered.npz with one member of these bytes."""

    def prepare(here: Path, box: Path) -> None:
        np.savez(here / "altered.npz", **others)
        with zipfile.ZipFile(here / "altered.npz", "a") as file:
            file.writestr(name, content)

    return prepare


def header(shape: str, descr: str = "'|u1'") -> bytes:
    """A .npy header of format 1.0 with this shape, and no data."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(-len(text) % 64 + len(text) + 53) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def bomb(gigabytes: float):
    """Prepare altered.npz: zeros that unpack to this size."""

    def prepare(here: Path, box: Path) -> None:
        count = int(gigabytes * 2**30) // (16 * 16 * 3)
        start = header(f"({count}, 16, 16, 3)")
        block = bytes(2**24)
        with (
            zipfile.ZipFile(here / "altered.npz", "w", zipfile.ZIP_DEFLATED) as file,
            file.open("arr_0.npy", "w", force_zip64=True) as stream,
        ):
            stream.write(start)
            for _ in range(int(gigabytes * 2**30) // len(block)):
                stream.write(block)

    return prepare


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


IMAGES_8 = np.zeros((6, 8, 8, 1), np.uint8)
SAMPLES = {
    "is empty": lambda here, box: (here / "altered.npz").write_bytes(b""),
    "is a text": lambda here, box: (here / "altered.npz").write_bytes(b"hello there"),
    "is a folder of nothing": lambda here, box: (here / "altered.npz").mkdir(),
    "has no arrays": npz(),
    "has another array": npz(images=IMAGES_8),
    "has floats": npz(arr_0=IMAGES_8.astype(np.float32)),
    "has wide integers": npz(arr_0=IMAGES_8.astype(np.int64)),
    "has objects": npz(arr_0=np.array([{}, []], dtype=object)),
    "has three dimensions": npz(arr_0=IMAGES_8[..., 0]),
    "has five dimensions": npz(arr_0=IMAGES_8[..., None]),
    "has two channels": npz(arr_0=np.zeros((6, 8, 8, 2), np.uint8)),
    "has channels first": npz(arr_0=np.zeros((6, 3, 8, 8), np.uint8)),
    "has no images": npz(arr_0=IMAGES_8[:0]),
    "has one image": npz(arr_0=IMAGES_8[:1]),
    "has images of no size": npz(arr_0=np.zeros((6, 0, 8, 1), np.uint8)),
    "has too few labels": npz(arr_0=IMAGES_8, labels=np.arange(5)),
    "has labels that are floats": npz(arr_0=IMAGES_8, labels=np.arange(6.0)),
    "has labels that are objects": npz(arr_0=IMAGES_8, labels=np.array([{}] * 6, dtype=object)),
    "has labels in a table": npz(arr_0=IMAGES_8, labels=np.zeros((6, 2), int)),
    "has a recipe that is no JSON": npz(arr_0=IMAGES_8, recipe=np.array("{")),
    "has a recipe that is a list": npz(arr_0=IMAGES_8, recipe=np.array("[1]")),
    "has a recipe that is a number": npz(arr_0=IMAGES_8, recipe=np.array(3)),
    "has no header": member("arr_0.npy", b"hello"),
    "has half a header": member("arr_0.npy", header("(6, 8, 8, 1)")[:20]),
    "has a negative size": member("arr_0.npy", header("(-6, 8, 8, 1)") + bytes(384)),
    "has a size that is no number": member("arr_0.npy", header("(6, 'a', 8, 1)") + bytes(384)),
    "has a header that is code": member("arr_0.npy", header("print(1)") + bytes(384)),
    "claims more than it holds": member("arr_0.npy", header("(60, 8, 8, 1)") + bytes(384)),
    "claims an enormous size": member("arr_0.npy", header(f"({10**15}, 8, 8, 1)") + bytes(384)),
    "has labels of an enormous size": member(
        "labels.npy", header(f"({10**15},)", "'<i8'") + bytes(48), arr_0=IMAGES_8
    ),
    "unpacks to too much": bomb(0.3),
}  # fmt: skip


def sample_file_rows() -> Iterator[Row]:
    score = PIXELS.replace("{box}/samples.npz", "{here}/altered.npz")
    reference = PIXELS.replace("--ref digits", "--ref {here}/altered.npz --pixels")
    for what, prepare in SAMPLES.items():
        yield Row(f"score samples: {what}", score, r"altered\.npz", prepare)
        if what != "has too few labels":  # of which the message speaks above already
            yield Row(f"score reference: {what}", reference, r"altered\.npz", prepare)
    for share in (0.1, 0.5, 0.95):
        cut = cut_npz("samples.npz", share)
        yield Row(f"score samples: cut at {share}", score, r"altered\.npz", cut)
    for at in (0.25, 0.5):  # in arr_0 and its neighbours
        yield Row(f"score samples: a byte at {at}", score, r"altered\.npz", flip("samples.npz", at))
        rgb = SCORE_PIXELS.replace("{box}/rgb.npz --ref", "{here}/altered.npz --ref")
        yield Row(f"score rgb: a byte at {at}", rgb, r"altered\.npz", flip("rgb.npz", at))
    half = {"mu": np.zeros(4), "sigma": np.eye(4)}
    for what, arrays in {
        "half of the statistics": half,
        "statistics of two sizes": half | {"mu_s": np.zeros(3), "sigma_s": np.eye(5)},
        "statistics that are NaN": half | {"mu_s": np.full(4, NAN), "sigma_s": np.eye(4)},
        "statistics that are texts": half | {"mu_s": np.array(["a"] * 4), "sigma_s": np.eye(4)},
    }.items():
        words = SCORE.replace("--ref {box}/rgb.npz", "--ref {here}/altered.npz")
        yield Row(f"score reference: {what}", words, r"altered\.npz", npz(**arrays))


# --- latent caches


def alter_cache(change: Callable[[dict, Path], object]):
    """Prepare latents/: the good cache with a change to its manifest or files."""

    def prepare(here: Path, box: Path) -> None:
        folder = here / "latents"
        shutil.copytree(box / "latents", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest, folder)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return prepare


SETTINGS = (
    "codec", "codec_fingerprint", "scaling_factor", "image_size", "latent_channels", "latent_size",
    "dtype", "num_classes", "images", "source", "source_fingerprint", "shard_size", "count",
    "unreadable", "shards", "version",
)  # fmt: skip


def set_labels(values: list[int]):
    def change(manifest: dict, folder: Path) -> None:
        path = folder / manifest["shards"][0]["labels"]
        labels = np.load(path)
        labels[: len(values)] = values
        np.save(path, labels)

    return change


def elsewhere(name: str, path: str):
    """The shard's file, said to lie outside the folder, where it does lie."""

    def change(manifest: dict, folder: Path) -> None:
        shard = manifest["shards"][0]
        target = folder.parent / "outside.npy"
        shutil.move(folder / shard[name], target)
        shard[name] = path.format(target=target)

    return change


def latent_rows() -> Iterator[Row]:
    train = f"{LATENTS} --data-path {{here}}/latents"
    for key in SETTINGS:
        yield Row(f"latents without {key}", train, "latents",
                  alter_cache(lambda m, f, key=key: m.pop(key)))  # fmt: skip
        for kind, value in {"a text": "many", "none": None, "a list": [{}]}.items():
            if kind == "a text" and key in ("codec", "source", "source_fingerprint"):
                continue
            change = alter_cache(lambda m, f, key=key, value=value: m.update({key: value}))
            yield Row(f"latents {key} is {kind}", train, "latents", change)
    shard = {
        "without moments": lambda m, f: m["shards"][0].pop("moments"),
        "without labels": lambda m, f: m["shards"][0].pop("labels"),
        "without a count": lambda m, f: m["shards"][0].pop("count"),
        "count is a text": lambda m, f: m["shards"][0].update(count="many"),
        "count is negative": lambda m, f: m["shards"][0].update(count=-8),
        "is twice there": lambda m, f: m["shards"].append(m["shards"][0]),
        "moments elsewhere": elsewhere("moments", "../outside.npy"),
        "moments far away": elsewhere("moments", "{target}"),
        "labels elsewhere": elsewhere("labels", "../outside.npy"),
        "moments are a folder": lambda m, f: m["shards"][0].update(moments="."),
        "moments are cut": lambda m, f: cut_file(f / m["shards"][0]["moments"]),
        "labels are cut": lambda m, f: cut_file(f / m["shards"][0]["labels"]),
        "moments are gone": lambda m, f: (f / m["shards"][0]["moments"]).unlink(),
        "labels are gone": lambda m, f: (f / m["shards"][0]["labels"]).unlink(),
        "labels out of range": set_labels([5]),
        "labels enormous": set_labels([2**62]),
        "labels negative": set_labels([0, -1]),
        "labels are floats": lambda m, f: np.save(f / m["shards"][0]["labels"], np.zeros(8)),
        "moments of another type": lambda m, f: np.save(
            f / m["shards"][0]["moments"], np.zeros((8, 2, 2, 4, 8, 8))
        ),
    }
    for what, change in shard.items():
        yield Row(f"latents: a shard {what}", train, "latents", alter_cache(change))

    def no_json(here: Path, box: Path) -> None:
        shutil.copytree(box / "latents", here / "latents")
        (here / "latents" / "manifest.json").write_text("{")

    yield Row("latents: the manifest is no JSON", train, "latents", no_json)
    yield Row("latents through another codec", train.replace("{box}/vae", "none"), "vae",
              alter_cache(lambda m, f: None))  # fmt: skip


def cut_file(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 9])


# --- images


def png(
    width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"", cut=None
) -> bytes:
    """A PNG with this header, whatever its data; of them the first `cut` bytes, compressed."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, 0)
    packed = zlib.compress(data)[:cut]
    parts = chunk(b"IHDR", head), chunk(b"IDAT", packed), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def float_tiff() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


BROKEN = {
    "is empty": b"",
    "is a text": b"hello",
    "is a bomb": png(50_000, 50_000),
    "is a larger bomb": png(2**31 - 1, 2**31 - 1),
    "has no width": png(0, 16),
    "has a negative width": png(-16, 16),
    "has no pixels": png(16, 16),
    "has half of its pixels": png(16, 16, data=bytes(range(1, 50)) * 16, cut=30),
    "has an unknown colour type": png(16, 16, colour=9, data=bytes(16 * 49)),
    "has pixels that are floats": float_tiff(),
}


def image_rows() -> Iterator[Row]:
    train = f"{IMAGES} --data-path {{here}}/images"
    score = SCORE_PIXELS.replace(
        "{box}/rgb.npz --ref {box}/rgb.npz", "{here}/images --ref {box}/images"
    )
    for what, content in BROKEN.items():

        def prepare(here: Path, box: Path, content: bytes = content) -> None:
            shutil.copytree(box / "images", here / "images")
            (here / "images" / "pear" / "1.png").write_bytes(content)

        says = r"pear/1\.png"
        yield Row(f"train: an image {what}", train, says, prepare)
        yield Row(f"score: an image {what}", score, says, prepare)


def altered_rows() -> list[Row]:
    return [
        *checkpoint_rows(), *sampled_rows(), *file_rows(), *latest_rows(), *sample_file_rows(),
        *latent_rows(), *image_rows(),
    ]  # fmt: skip

"""Outputs that were begun with other settings, damaged since, full, or in use by another launch."""

import fcntl
import json
import shutil
from pathlib import Path

import numpy as np
from hostile.row import CACHE, CKPT, FEATURES, ODE, PICTURE, RESUME, Row

AGAIN = ODE.replace("--num-fid-samples 4", "--num-fid-samples 6")  # what made samples.npz
HELD: list = []  # files whose locks these tests hold


def file(name: str, content: bytes):
    """Prepare a file, and the folders above it."""

    def prepare(here: Path, box: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)

    return prepare


def array(name: str, *shape: int, dtype=np.float16):
    def prepare(here: Path, box: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(here / name, np.zeros(shape, dtype))

    return prepare


def both(*prepares):
    def prepare(here: Path, box: Path) -> None:
        for each in prepares:
            each(here, box)

    return prepare


def in_use(name: str, word: bytes = b""):
    """Prepare a file that is locked, as by another launch."""

    def prepare(here: Path, box: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(word)
        HELD.append(open(here / name, "ab"))  # noqa: SIM115 - held to the end
        fcntl.flock(HELD[-1], fcntl.LOCK_EX)

    return prepare


def copied(source: str, to: str):
    def prepare(here: Path, box: Path) -> None:
        (here / to).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (box / source).is_dir() else shutil.copy
        copy(box / source, here / to)

    return prepare


def device(name: str):
    return lambda here, box: (here / name).symlink_to("/dev/null")


def damaged_set_with_its_parts(here: Path, box: Path) -> None:
    """As a run leaves it that was killed just before the end, and a byte of an image is altered."""
    content = bytearray((box / "samples.npz").read_bytes())
    content[content.index(np.load(box / "samples.npz")["arr_0"].tobytes())] ^= 0xFF
    (here / "samples.npz").write_bytes(content)
    (here / "samples.npz.parts").mkdir()


def recipe_of(folder: str, **changes):
    """Prepare a folder with the recipe of samples.npz, and these changes."""

    def prepare(here: Path, box: Path) -> None:
        (here / folder).mkdir()
        recipe = json.loads(str(np.load(box / "samples.npz")["recipe"])) | changes
        (here / folder / "recipe.json").write_text(json.dumps(recipe))

    return prepare


def sample_rows() -> list[Row]:
    pictures = f"{AGAIN} --save-png"
    busy = {"LAYERSYNC_LOCK_SECONDS": "0"}
    return [
        Row("begun: a damaged set with its parts", AGAIN,
            r"samples\.npz: damaged \(.*remove it, and the parts that are still in",
            damaged_set_with_its_parts),
        Row("begun: parts of another seed", AGAIN, r"npz\.parts is of other settings \(seed: 7 the",
            recipe_of("samples.npz.parts", seed=7)),
        Row("begun: pictures of another seed", pictures, r"samples is of other settings \(seed: 7 ",
            recipe_of("samples", seed=7)),
        *(
            Row(f"begun: parts whose recipe {what}", AGAIN,
                r"npz\.parts/recipe\.json: damaged, or not a recipe",
                file("samples.npz.parts/recipe.json", content))
            for what, content in {"is cut": b'{"seed": 0', "is a list": b"[1]",
                                  "is empty": b""}.items()
        ),
        Row("begun: pictures whose recipe is cut", pictures,
            r"samples/recipe\.json: damaged, or not a recipe", file("samples/recipe.json", b"{")),
        Row("begun: pictures among others", pictures,
            "samples: holds other files, and --save-png would add",
            file("samples/photo.jpg", b"a photo")),
        Row("begun: a set by another launch", AGAIN,
            r"samples\.npz: in use by .*; wait for it or end it", in_use("samples.npz.lock"),
            environment=busy),
        Row("begun: patience that is no number", AGAIN,
            "LAYERSYNC_LOCK_SECONDS=long: it must be a number of seconds",
            environment={"LAYERSYNC_LOCK_SECONDS": "long"}),
        Row("begun: features by another launch", FEATURES,
            r"--out \S+features: in use by .*; wait for it or end it",
            in_use("features/cache.lock"), environment=busy),
        Row("begun: latents by another launch", CACHE,
            r"--out \S+latents: in use by .*; wait for it or end it",
            in_use("latents/progress/lock"), environment=busy),
        Row("begun: more samples than the disk holds",
            ODE.replace("samples 4", "samples 1000000000").replace("{here}", "/dev/shm"),
            r"shm/samples\.npz: \S+ GB needed, for the parts and the \.npz, and"),
        Row("begun: a picture over a device", PICTURE, "no regular file .*; give the name of",
            device("a.png")),
    ]  # fmt: skip


def cache_rows() -> list[Row]:
    latents = copied("latents", "latents")
    begun = array("features/features.npy", 8, 2, 1, 192)
    done = array("features/done.npy", 8, dtype=bool)
    full = r"GB needed and \S+ GB free, of which --min-free-disk 1e\+06 GB must remain"
    return [
        Row("begun: latents among others", CACHE, r"--out \S+latents: holds other files; give a n",
            file("latents/notes.txt", b"mine")),
        Row("begun: latents of another dtype", f"{CACHE} --dtype float32",
            r"latents is a cache of other settings \(--dtype: float16 there, float32", latents),
        Row("begun: latents of another size", CACHE.replace("--image-size 16", "--image-size 8"),
            r"latents is a cache of other settings \(--image-size: 16 there", latents),
        Row("begun: latents of other shards", f"{CACHE} --shard-size 4",
            r"latents is a cache of other settings \(--shard-size: 4096 there", latents),
        Row("begun: latents on a full disk", f"{CACHE} --min-free-disk 1e6",
            rf"--out \S+latents: \S+ {full}"),
        Row("begun: features on a full disk", f"{FEATURES} --min-free-disk 1e6",
            rf"--out \S+features: \S+ {full}"),
        Row("begun: a shard that is being written", CACHE,
            r"moments-00000\.npy: another run is writing it", in_use(
                "latents/progress/moments-00000.npy")),
        Row("begun: features that are complete", FEATURES,
            r"--out \S+features: a complete cache is there", file("features/manifest.json", b"{}")),
        Row("begun: features of more images", FEATURES,
            r"features: begun as \(9, 2, 1, 192\) with other settings, \(8, 2, 1, 192\) here",
            both(array("features/features.npy", 9, 2, 1, 192),
                 array("features/done.npy", 9, dtype=bool))),
        *(
            Row(f"begun: features {what}", FEATURES, words,
                both(array("features/features.npy", 8, 2, 1, 192),
                     array("features/done.npy", 8, dtype=bool),
                     file("features/begun.json", content)))
            for what, content, words in (
                ("by another encoder", b'{"encoder": "vit_other"}',
                 r"features: begun with other settings \(encoder vit_other there, vit_tiny_"),
                ("whose settings are cut", b'{"enc',
                 r"features: begun\.json is not JSON; remove the folder"),
            )
        ),
        Row("begun: features of another width", FEATURES,
            r"features: begun as \(8, 2, 1, 64\) with other settings",
            both(array("features/features.npy", 8, 2, 1, 64), done)),
        Row("begun: features whose list is shorter", FEATURES,
            r"features: begun as \(5, 2, 1, 192\) with other settings",
            both(begun, array("features/done.npy", 5, dtype=bool))),
        Row("begun: features that were damaged", FEATURES,
            r"--out \S+features: begun, and damaged since \(.*remove it",
            both(file("features/features.npy", b"hello"), done)),
        Row("begun: features whose list was damaged", FEATURES,
            r"--out \S+features: begun, and damaged since \(.*remove it",
            both(begun, file("features/done.npy", b""))),
    ]  # fmt: skip


def run_rows() -> list[Row]:
    latest = f"{RESUME} --resume latest"
    config = copied("run/config.json", "results/run/config.json")
    run, earlier = copied("run", "results/run"), "{here}/results/run/checkpoints/0000002.pt"
    best = "--keep-best eval_pixel_frechet --eval-every 2 --eval-ref digits"
    return [
        Row("begun: a run of other settings", f"{latest} --lr 0.5",
            r"results/run holds another run; --lr: \S+ there, 0\.5 here", config),
        Row("begun: a run of another seed", f"{latest} --global-seed 9",
            r"results/run holds another run; --global-seed: 0 there, 9 here", config),
        Row("begun: a run that is not to be continued", RESUME,
            "results/run already holds a run: add --resume latest", run),
        Row("begun: a run, and another's checkpoint", f"{RESUME} --resume {CKPT}",
            r"results/run already holds a run, and \S+0000004\.pt is of another folder", run),
        Row("begun: a run that went on from there", f"{RESUME} --resume {earlier}",
            r"results/run holds later checkpoints than 0000002\.pt \(0000004\.pt\)", run),
        Row("begun: a run that is past its end", f"{latest} --max-steps 3",
            r"0000004\.pt: it is of step 4, and this run is to end at step 3; give larger", run),
        Row("begun: a run whose settings are cut", latest, r"run/config\.json",
            file("results/run/config.json", b'{"lr": 1')),
        Row("begun: a file in place of the link to the best", f"{latest} {best}",
            r"--keep-best eval_pixel_frechet: \S+best\.pt is a file, and a link",
            both(run, copied("run/checkpoints/0000002.pt", "results/run/checkpoints/best.pt"))),
    ]  # fmt: skip


def begun_rows() -> list[Row]:
    return [*sample_rows(), *cache_rows(), *run_rows()]

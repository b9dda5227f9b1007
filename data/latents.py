"""The latent cache: the autoencoder's posterior for every image and for its mirror, on disk.

    FOLDER/manifest.json         what it holds: CacheSettings, count, shards and their checksums
    FOLDER/moments-00000.npy     (n, 2, 2, C, h, w): [as it is | mirrored] x [mean | std]
    FOLDER/labels-00000.npy      (n,) int64
    FOLDER/progress/             until it is complete: the settings and a record of each shard

The moments are as the autoencoder gives them, not scaled: a latent is
(mean + std * noise) * scaling_factor, which is what `VAECodec.encode` computes.
`scripts/cache_latents.py` makes a cache, `LatentSource` reads it.
"""

import dataclasses
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor
from torch.utils.data import Dataset

from models.codecs import PIXELS, Codec
from models.trained import hash_weights
from runtime.randomness import Streams

FORMAT, VERSION = "latent cache", 1
MANIFEST, PROGRESS = "manifest.json", "progress"
AGAIN = "the scripts/cache_latents.py command that made the cache"


@dataclass(frozen=True)
class CacheSettings:
    """What determines the content of a cache, and the names of where it came from."""

    codec: str  # as --vae names it
    codec_fingerprint: str  # of the autoencoder's weights
    scaling_factor: float
    image_size: int
    latent_channels: int
    latent_size: int
    dtype: str  # float16 or float32
    num_classes: int
    images: int  # in the source, readable or not
    source: str
    source_fingerprint: str  # of the list of images and labels
    shard_size: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        return 2, 2, self.latent_channels, self.latent_size, self.latent_size

    def array_bytes(self, name: str, count: int) -> int:
        """Size of the moments' or labels' file of `count` images."""
        shape, dtype = self.layout(name, count)
        return len(npy_header(shape, dtype)) + int(np.prod(shape)) * dtype.itemsize

    def layout(self, name: str, count: int) -> tuple[tuple[int, ...], np.dtype]:
        if name == "labels":
            return (count,), np.dtype(np.int64)
        return (count, *self.row_shape), np.dtype(self.dtype)


COMPARED = {  # setting: how messages call it. Names and places may change, these may not.
    "codec_fingerprint": "--vae, its weights",
    "scaling_factor": "--vae, its scaling factor",
    "image_size": "--image-size",
    "dtype": "--dtype",
    "shard_size": "--shard-size",
    "images": "number of images",
    "num_classes": "number of classes",
    "source_fingerprint": "list of images and labels",
}


def differences(there: dict, here: dict) -> str:
    """In what settings differ, of those that `here` has; empty if in nothing."""
    found = [key for key in COMPARED if key in here and there.get(key) != here[key]]
    return "; ".join(f"{COMPARED[key]}: {there.get(key)} there, {here[key]} here" for key in found)


class LatentSource(Dataset):
    """A complete cache: (moments (2, 2, C, h, w), int label), for `sample_posterior`.

    Index i is image i of the source it was made of, as long as no image was left out. Opening
    checks that every file is there with the right size and header; `ValueError` names one that is
    not. Processes that inherit or unpickle it open the files for themselves.
    """

    latents = mirrors = True
    streams = False

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.manifest = manifest = read_manifest(self.root)
        fields = [field.name for field in dataclasses.fields(CacheSettings)]
        self.settings = s = CacheSettings(**{name: manifest[name] for name in fields})
        self.channels, self.latent_size = s.latent_channels, s.latent_size
        self.image_size, self.num_classes, self.shape = s.image_size, s.num_classes, s.row_shape
        self.codec, self.scale = s.codec, s.scaling_factor
        self.shards = manifest["shards"]
        self.first = np.array([shard["first"] for shard in self.shards])
        self.maps = None
        self.verify()
        columns = [np.load(self.root / shard["labels"]) for shard in self.shards]
        self.labels = torch.from_numpy(np.concatenate(columns))  # (N,)

    def __len__(self) -> int:
        return self.manifest["count"]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        moments, labels = self.__getitems__([index])
        return moments[0], int(labels[0])

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch: moments (N, 2, 2, C, h, w) in the cache's dtype, labels (N,) int64."""
        indices = np.asarray(indices)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"{self.root} holds {len(self)} latents: {indices.max()} asked for")
        self.maps = self.maps or self.open_maps()
        shards = np.searchsorted(self.first, indices, side="right") - 1
        rows = indices - self.first[shards]
        dtype = getattr(torch, self.settings.dtype)
        moments = torch.empty((len(indices), *self.settings.row_shape), dtype=dtype)
        # row by row is faster than shard by shard: few rows of a batch share a shard
        for out, shard, row in zip(moments.numpy(), shards.tolist(), rows.tolist(), strict=True):
            out[:] = self.maps[shard][row]
        return moments, self.labels[torch.from_numpy(indices).long()]

    def open_maps(self) -> list[np.ndarray]:
        # plain arrays index faster than memmap objects; the files stay mapped
        paths = [self.root / shard["moments"] for shard in self.shards]
        return [np.asarray(np.load(path, mmap_mode="r")) for path in paths]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "maps": None}

    def verify(self, checksums: bool = False) -> None:
        """Check every shard, its bytes too with `checksums`; `ValueError` names a bad file."""
        for shard in self.shards:
            self.check_shard(shard, checksums)

    def check_shard(self, shard: dict, checksums: bool) -> None:
        for name in ("moments", "labels"):
            path = self.root / shard[name]
            check_array(path, *self.settings.layout(name, shard["count"]))
            if checksums and file_sha256(path) != shard["sha256"][name]:
                raise damaged(path, "altered, its checksum is not the manifest's")

    def encode(self, codec: Codec, items: Tensor, mirrored: Tensor, draws: Streams) -> Tensor:
        """Draw x_1 (N, C, h, w) from moments (N, *shape), as encoding the images would."""
        noise = draws.normal(codec.latent_shape((3, self.image_size, self.image_size)))
        return sample_posterior(items, mirrored, noise, codec.scale)

    def check_codec(self, codec: Codec, image_size: int) -> None:
        """`ValueError` unless the cache was made with this autoencoder at this image size."""
        if codec.name == PIXELS:
            raise ValueError(
                f"--vae {PIXELS}: --data-path {self.root} holds latents; give --vae {self.codec}"
            )
        here = dict(codec_fingerprint=weights_fingerprint(codec.vae), image_size=image_size)
        if found := differences(self.manifest, here | {"scaling_factor": codec.scale}):
            raise ValueError(
                f"--data-path {self.root} holds latents of another codec or size ({found}): "
                f"change the flags (it was made with --vae {self.codec}), or make another cache"
            )


def sample_posterior(moments: Tensor, mirrored: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Latents x_1 (N, C, h, w), float32, as `VAECodec.encode` draws them.

    Args:
        moments: (N, 2, 2, C, h, w), [as it is | mirrored] x [mean | std].
        mirrored: (N,) bool, which samples are to be mirrored.
        noise: (N, C, h, w), standard-normal draws.
        scale: the autoencoder's scaling factor.
    """
    samples = torch.arange(len(moments), device=moments.device)
    mean, std = moments[samples, mirrored.long()].float().unbind(1)  # (N, C, h, w) each
    return (mean + std * noise) * scale


def encode_moments(codec, images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to moments (N, 2, 2, C, h, w), float32, of a `VAECodec`."""
    return torch.stack([codec.moments(view) for view in (images, images.flip(-1))], 1)


def weights_fingerprint(network: torch.nn.Module) -> str:
    """The first 16 hex digits of the SHA-256 over names and values of the weights."""
    return hash_weights(network.state_dict())[:16]


def is_latent_cache(root: str | Path) -> bool:
    """Whether a folder is a cache, complete or not."""
    return read_settings(Path(root)) is not None


def read_settings(root: Path) -> dict | None:
    # the manifest twice: the settings vanish once it has appeared
    files = root / MANIFEST, root / PROGRESS / "settings.json", root / MANIFEST
    return next((found for found in map(read_json, files) if found), None)


def read_manifest(root: Path) -> dict:
    """`ValueError` unless there is one, of this format and complete."""
    manifest = read_json(root / MANIFEST)
    if manifest is None:
        why = f"it is not complete: give {AGAIN} again" if is_latent_cache(root) else "not a cache"
        raise ValueError(f"latent cache {root}: no {MANIFEST} in it; {why}")
    if manifest["version"] != VERSION:
        raise ValueError(
            f"{root / MANIFEST}: version {manifest['version']} of the format, this program reads "
            f"version {VERSION}; make the cache again"
        )
    keys = {field.name for field in dataclasses.fields(CacheSettings)} | {"count", "unreadable"}
    missing = sorted((keys | {"shards"}) - manifest.keys())
    if missing or sum(shard["count"] for shard in manifest["shards"]) != manifest["count"]:
        raise damaged(root / MANIFEST, f"altered, without {missing}" if missing else "altered")
    return manifest


def check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """`ValueError` unless the file is there with exactly this header and size."""
    try:
        array = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; give {AGAIN} again, it makes it anew") from None
    except (ValueError, EOFError, OSError):
        raise damaged(path, "truncated, or not an array") from None
    if (array.shape, array.dtype) != (shape, dtype):
        raise damaged(path, f"{array.dtype} {array.shape}, it must be {dtype} {shape}")
    if file_size(path) != array.offset + array.nbytes:
        raise damaged(path, "longer than its header says")


def damaged(path: Path, how: str) -> ValueError:
    return ValueError(f"{path}: {how}; remove it and give {AGAIN} again, it makes it anew")


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def file_size(path: Path) -> int:
    """In bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict | None:
    """A JSON file of this module, None if there is none; `ValueError` if it is damaged."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise damaged(path, "not JSON") from None
    ours = isinstance(content, dict) and content.get("format") == FORMAT
    return content if ours else None


def to_json(content: dict) -> bytes:
    content = dict(format=FORMAT, version=VERSION) | content
    return (json.dumps(content, indent=2) + "\n").encode()

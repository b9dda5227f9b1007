"""The command that makes a reference batch in ADM's format, from any data set.

    python -m evaluation reference /path/to/imagenet/train --image-size 256 -o ref.npz
    torchrun --nproc_per_node=8 -m evaluation reference imagenet-1k --image-size 256 -o ref.npz

The statistics are of all images; `--images` of them, drawn at random, are stored with their labels
for precision and recall.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from evaluation.options import NetworkOptions, check_networks
from runtime.files import check_writable, replacing
from runtime.flags import COMMON, Range, check_ranges


@dataclass(frozen=True)
class MakeReference:
    """Make a reference: statistics of a data set, and some of its images."""

    data: Annotated[str, tyro.conf.Positional]
    """a folder with one folder of images for each class, any folder of images, a parquet file or a
    folder of these, the name of a data set on the hub (split "train"), an .npz or .npy"""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])]
    """the .npz to write"""
    image_size: int | None = None
    """crop and resize to this size as ADM does; images that have one size may go without"""
    images: int = 10_000
    """how many images are stored, drawn at random; all of them if there are fewer"""
    seed: int = 0
    """seed of that draw"""
    array: str = "arr_0"
    """name of the images in an .npz"""
    networks: Annotated[NetworkOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=NetworkOptions
    )


def make_reference(config: MakeReference) -> None:
    """Make the reference and write it; raise `ValueError` before any work if that cannot be."""
    check_networks(config.networks)
    out = Path(config.out)
    if out.suffix != ".npz":
        raise ValueError(f"--out {out}: the name must end in .npz")
    if out.exists():
        raise ValueError(f"--out {out} exists: remove it, or give another name")
    check_ranges(config, COMMON | {"images": Range(4, 10**9)})
    check_writable(out, f"--out {out}")
    from evaluation.data_sets import open_any_images
    from evaluation.evaluator import load_extractors
    from evaluation.features import extract
    from evaluation.reference import STATISTICS
    from runtime.processes import Processes, choose_device, join_group

    join_group()  # the first process lists the images, and tells the others
    source = open_any_images(config.data, config.image_size, config.array)
    if source.shape[2] != 3:
        raise ValueError(f"{config.data}: images of one channel, Inception needs RGB")
    extractors = load_extractors(config.networks)
    device, processes = choose_device(), Processes()
    for extractor in extractors:
        extractor.to(device)
    sizes = {name for extractor in extractors for name in extractor.sizes}
    wanted = sizes & set(STATISTICS)
    batches = processes.batches(source.images, config.networks.batch_size, "images")
    features = extract(extractors, batches, wanted, set(), device, processes)
    if features:
        statistics = {
            key: array
            for name in features.moments
            for key, array in zip(STATISTICS[name], features.statistics(name), strict=True)
        }
        write_reference(out, source, config, statistics, describe(config, source, extractors))
        stored = min(config.images, len(source))
        print(f"{out}: statistics of {len(source):,} images, {stored:,} of them stored")
    processes.close()


def describe(config: MakeReference, source, extractors) -> dict:
    """Return the recipe of the reference, which is checked when it is used."""
    import torch

    networks = config.networks
    about = {
        "data": config.data,
        "images": len(source),
        "image_size": list(source.shape[:2]),
        "preprocessing": "ADM's centre crop" if config.image_size else "none",
        "seed": config.seed,
        "inception_sha256": extractors[0].sha256,
        "versions": {"torch": torch.__version__},
    }
    return about | ({"dinov2_model": networks.dinov2_model} if networks.fd_dinov2 else {})


def write_reference(out: Path, source, config: MakeReference, statistics: dict, recipe: dict):
    """Write arr_0, arr_1 (labels, if there are any), the statistics, and the recipe."""
    import json
    import zipfile

    import numpy as np

    from runtime.npz import CompressedArray, write_array

    count = min(config.images, len(source))
    chosen = np.random.default_rng(config.seed).permutation(len(source))[:count]
    if isinstance(
        source.images, CompressedArray
    ):  # unpacked from the front: a random order would take forever
        chosen.sort()
    arrays = statistics | {"recipe": np.array(json.dumps(recipe))}
    if source.labels is not None:
        arrays["arr_1"] = source.labels[chosen]
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        one_by_one = (source.images[i : i + 1] for i in chosen.tolist())
        write_array(archive, "arr_0", (count, *source.shape), np.dtype(np.uint8), one_by_one)
        for name, array in arrays.items():
            write_array(archive, name, array.shape, array.dtype, [array])

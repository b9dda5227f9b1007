"""Reading a set of samples: an .npz with `arr_0`, as ADM's evaluator reads it."""

import json
import zipfile
from pathlib import Path

import numpy as np


def read_samples(path: str | Path) -> tuple[np.ndarray, np.ndarray | None, dict | None]:
    """(images uint8 (N, H, W, C), labels or None, recipe or None); `ValueError` for a bad file."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with np.load(path) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError(f"{path}: a single array; an .npz with arr_0 is needed")
            if "arr_0" not in archive:
                raise ValueError(f"{path}: no arr_0 in it, only {archive.files}")
            images = archive["arr_0"]
            labels = archive.get("labels")
            recipe = json.loads(str(archive["recipe"])) if "recipe" in archive else None
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: truncated, or not an .npz file ({error})") from None
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"{path}: arr_0 must be uint8 images (N, H, W, C), it is {images.dtype} {images.shape}"
        )
    if len(images) < 2 or (labels is not None and len(labels) != len(images)):
        count = "no" if labels is None else len(labels)
        raise ValueError(f"{path}: {len(images)} images and {count} labels in it")
    return images, labels, recipe

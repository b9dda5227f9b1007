"""Images and grids of them as files, for people to look at."""

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runtime.files import replacing

GAP = 6  # pixels between images
MARK = "Software", "layersync"  # a text in each file, by which it is known
SMALLEST_SIDE = 64  # smaller images are enlarged by whole pixels, so that one can see them


def save_image(image: np.ndarray, path: Path, **texts: str) -> None:
    """Write a uint8 image (H, W, C), C = 1 or 3, as a PNG, all of it or nothing.

    Args:
        texts: what the file holds besides, under these names.
    """
    marked = PngInfo()
    for name, text in (MARK, *texts.items()):
        marked.add_text(name, text)
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    with replacing(path, sync=False) as temporary:
        picture.save(temporary, format="PNG", pnginfo=marked)


def is_own_picture(path: Path) -> bool:
    """Return whether a file is a PNG that `save_image` or `save_grid` wrote."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get(MARK[0]) == MARK[1]
    except (OSError, ValueError, SyntaxError):  # as Pillow raises for what it cannot read
        return False


def save_grid(images: np.ndarray, path: Path, columns: int = 8, **texts: str) -> None:
    """Write uint8 images (N, H, W, C), C = 1 or 3, as a PNG grid, row by row; see `save_image`."""
    scale = max(1, -(-SMALLEST_SIDE // images.shape[1]))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    _, height, width, channels = images.shape
    rows, gap = -(-len(images) // columns), GAP
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255)
    canvas = canvas.astype(np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    save_image(canvas, path, **texts)

"""Images and grids of them as files, for people to look at."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runtime.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = 6  # pixels between images
MARK = "Software", "layersync"  # texts in each file: by which it is known,
KIND = "Title"  # and of which kind it is, unless it was made by a version before this text
SMALLEST_SIDE = 64  # smaller images are enlarged by whole pixels, so that one can see them


def save_image(image: np.ndarray, path: Path, kind: str = "image", **texts: str) -> None:
    """Write a uint8 image (H, W, C), C = 1 or 3, as a PNG, all of it or nothing.

    Args:
        kind: what sort of picture it is, see `check_picture`.
        texts: what the file holds besides, under these names.
    """
    marked = PngInfo()
    for name, text in (MARK, (KIND, kind), *texts.items()):
        marked.add_text(name, text)
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    with replacing(path, sync=False) as temporary:
        picture.save(temporary, format="PNG", pnginfo=marked)


def save_figure(figure: "Figure", path: Path, kind: str, dpi: int = 110) -> None:
    """Write a figure of matplotlib as a PNG, all of it or nothing; `kind` as in `save_image`."""
    with replacing(path, sync=False) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata=dict([MARK, (KIND, kind)]))


def check_picture(path: Path, kind: str, name: str = "") -> None:
    """Raise `ValueError` for a file there that is not a picture by this project of this kind.

    Args:
        kind: as the functions above were given it.
        name: what the error calls the file, as "--out FILE"; the path unless given.
    """
    if not path.exists():
        return
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            said = picture.info
    except (OSError, ValueError, SyntaxError):  # as Pillow raises for what it cannot read
        said = {}
    if said.get(MARK[0]) != MARK[1] or said.get(KIND, kind) != kind:
        raise ValueError(
            f"{name or path}: exists and is not a picture of the same kind by this program; give "
            f"another --out, or move it"
        )


def save_grid(
    images: np.ndarray, path: Path, columns: int = 8, kind: str = "grid", **texts: str
) -> None:
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
    save_image(canvas, path, kind, **texts)

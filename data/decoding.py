"""Decoding of image files to uint8 pixels, for training and evaluation, and ADM's centre crop.

The header of a file gives the size of the image. Pillow refuses one without pixels, or of more than
`LARGEST`, before it is decoded, so that no image fills the memory (a decompression bomb).
"""

import errno
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from runtime.command import RunError

# what data sets consist of; Pillow knows others, which start programs (EPS) or are of no use here
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# pixels, about 179 million: Pillow's own limit, which is None only where somebody set it so
LARGEST = 2 * Image.MAX_IMAGE_PIXELS  # type: ignore[operator]

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # LARGEST is the limit

# what Pillow's decoders raise when the bytes are not those of an image
NOT_AN_IMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImage(RunError):
    """An image that cannot be decoded. `str(error)` names it."""


def read_image(source: str | Path | bytes, size: int | None, name: str) -> Tensor:
    """Decode an image file, or its bytes, as a uint8 tensor (3, size, size).

    Without a size the image is not cropped: (3, H, W). Raises `UnreadableImage` with that name if
    the bytes are not those of an image, and `OSError` if the file cannot be read.
    """
    with opened(source, name) as image:
        image = to_rgb(image)
        return to_tensor(center_crop(image, size) if size else image)


def read_size(source: str | Path | bytes) -> tuple[int, int]:
    """Return the (width, height) in the header of an image file; errors as in `read_image`."""
    name = "an image" if isinstance(source, bytes) else str(source)
    with opened(source, name) as image:
        return image.size


def is_grey(path: str | Path) -> bool:
    """Return whether an image file has a single channel of greys; errors as in `read_image`."""
    with opened(path, str(path)) as image:
        return image.mode in ("1", "L") or image.mode.startswith("I")


@contextmanager
def opened(source: str | Path | bytes, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
        ) as image:
            yield image
    except NOT_AN_IMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # a failing disk or a dangling link must not pass for a bad image
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"{name}: not a readable image ({reason})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to three channels of 8 bits: 16-bit greys keep the upper byte, no transparency."""
    if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255
        greys = np.asarray(image)
        if greys.min() < 0 or greys.max() > 65535:
            raise ValueError(f"{greys.dtype} pixels from {greys.min()} to {greys.max()}")
        image = Image.fromarray((greys >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop as ADM does.

    The image is halved with a box filter while it is at least twice too large, then resized
    (bicubic) so that its short side has `size` pixels, then cut to the square in the centre.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > LARGEST:  # the image is a strip, thousands of times longer than wide
        raise ValueError(f"{image.width}x{image.height} pixels, too long for a crop of {size}")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

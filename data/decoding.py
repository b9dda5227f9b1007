"""From an image file to the uint8 square that a codec takes: decoding, and ADM's centre crop."""

import errno
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from runtime.command import RunError

# what Pillow's decoders raise when the bytes are not those of an image
NOT_AN_IMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImage(RunError):
    """An image that cannot be decoded. `str(error)` names it."""


def read_image(source: str | Path | bytes, size: int, name: str) -> Tensor:
    """An image file, or its bytes, as a uint8 tensor (3, size, size).

    Raises `UnreadableImage` with that name if the bytes are not those of an image, and `OSError` if
    the file system does not deliver them.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return to_tensor(center_crop(to_rgb(image), size))
    except NOT_AN_IMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # a failing disk or a dangling link must not pass for a bad image
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"{name}: not a readable image ({reason})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits; 16-bit greys keep their upper byte, transparency is dropped."""
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
    """ADM's preprocessing: halve with a box filter while at least twice too large, then bicubic
    to the short side, then the centre square."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

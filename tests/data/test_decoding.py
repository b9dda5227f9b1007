"""Decoding images of every kind, and ADM's centre crop."""

import io
import struct
import zlib

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from data.decoding import UnreadableImage, center_crop, read_image


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (100, 50), (31, 64)])
def test_center_crop_is_a_centred_square(size):
    """A horizontal ramp keeps its middle in the middle and its slope, whatever the size."""
    width, height = size
    ramp = np.tile(np.linspace(0, 255, width), (height, 1)).astype(np.uint8)
    cropped = np.asarray(center_crop(Image.fromarray(ramp).convert("RGB"), 8), dtype=float)
    assert cropped.shape == (8, 8, 3)
    row = cropped.mean(axis=(0, 2))
    assert abs(row.mean() - 127.5) < 255 / 8 and (np.diff(row) > 0).all()
    slope = 255 / width * min(size) / 8  # brightness per pixel of the crop
    assert np.diff(row)[2:5].mean() == pytest.approx(slope, rel=0.2)


def test_center_crop_halves_with_a_box_filter():
    """At exactly twice the size ADM's crop is the mean of 2x2 pixels, as a reshape computes it."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    means = image.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    cropped = np.asarray(center_crop(Image.fromarray(image), 8))
    assert np.abs(cropped - means).max() <= 1


def encoded(image: Image.Image, format: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


YCBCR = pytest.param(
    "YCbCr",
    marks=pytest.mark.skipif(
        int(PIL.__version__.split(".")[0]) < 13, reason="older Pillow calls such files truncated"
    ),
)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "1", "P", "RGBA", "CMYK", YCBCR])
def test_every_mode_becomes_rgb(mode):
    """A grey of 200 stays it: dithered in a palette, 255 in black and white."""
    image = Image.new("RGB", (12, 10), (200, 200, 200)).convert(mode)
    pixels = read_image(encoded(image, "tiff"), 8, "grey")
    assert pixels.shape == (3, 8, 8) and pixels.dtype == torch.uint8
    assert pixels.float().mean().item() == pytest.approx(200, abs=6)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_sixteen_bit_greys_keep_their_upper_byte(dtype):
    """Pillow's own conversion to 8 bits would make all but the darkest 255 greys white."""
    ramp = (np.arange(64) * 1024).astype(dtype).reshape(8, 8)
    pixels = read_image(encoded(Image.fromarray(ramp), "tiff"), 8, "ramp")
    assert torch.equal(pixels[0], torch.from_numpy((ramp // 256).astype(np.uint8)))


def test_a_palette_with_transparency_is_read_without_a_warning(recwarn):
    image = Image.new("P", (8, 8))
    image.putpalette([10, 20, 30] * 256)
    pixels = read_image(encoded(image, transparency=bytes(range(256))), 8, "palette")
    assert pixels[:, 0, 0].tolist() == [10, 20, 30] and not len(recwarn)


def bomb() -> bytes:
    """A PNG whose header promises a hundred thousand pixels squared."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
PNG, JPEG = (encoded(Image.fromarray(NOISE), kind) for kind in ("png", "jpeg"))
BROKEN = {
    "empty": b"",
    "text": b"not an image",
    "half a PNG": PNG[: len(PNG) // 2],
    "half a JPEG": JPEG[: len(JPEG) // 2],
    "corrupt PNG": PNG[:60] + b"x" * 40 + PNG[100:],
    "bomb": bomb(),
    "negative BMP": b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, -5, -5, 1, 24) + bytes(200),
    "empty BMP": b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 0, 9, 1, 24) + bytes(200),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "a strip": encoded(Image.new("L", (1_000_000, 2))),
    "range unknown": encoded(Image.fromarray(np.ones((8, 8), np.float32)), "tiff"),
    "too deep": encoded(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "tiff"),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_image_is_named(content):
    with pytest.raises(UnreadableImage, match=r"its name: not a readable image \(.+\)"):
        read_image(content, 64, "its name")


def test_without_a_size_nothing_is_cropped():
    assert np.array_equal(read_image(PNG, None, "x").permute(1, 2, 0), NOISE)


def test_a_dangling_link_is_not_taken_for_a_bad_image(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "gone.png", 8, "gone")

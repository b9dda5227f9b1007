"""Images whose masks are known: what is in a shape has one colour, and its class in the mask."""

import numpy as np
import pytest
from PIL import Image

from scripts.make_shapes import Shapes, draw, make


def test_masks_tell_the_shapes(tmp_path):
    seen = set()
    for number in range(20):
        image, mask = draw(0, number, 32)
        seen |= set(np.unique(mask))
        assert image.shape == (32, 32, 3) and (mask == 0).any() and (mask == 255).any()
        shapes = [image[mask == kind].astype(int) for kind in (1, 2, 3) if (mask == kind).any()]
        assert shapes and all(len(np.unique(pixels, axis=0)) <= 3 for pixels in shapes)
        assert (draw(0, number, 32)[0] == image).all() and (draw(1, number, 32)[0] != image).any()
    assert seen == {0, 1, 2, 3, 255}

    root = tmp_path / "shapes"
    make(Shapes(str(root), train=3, val=2, size=16))
    lists = [(root / "ImageSets" / "Segmentation" / f"{s}.txt").read_text().split()
             for s in ("train", "val")]  # fmt: skip
    assert [len(names) for names in lists] == [3, 2] and not {*lists[0]} & {*lists[1]}
    stored = np.asarray(Image.open(root / "SegmentationClass" / f"{lists[1][0]}.png"))
    assert (stored == draw(0, 3, 16)[1]).all()
    with pytest.raises(ValueError, match="there is something in it"):
        make(Shapes(str(root)))

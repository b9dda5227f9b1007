"""Tiny-ImageNet's validation folder: all images in images/, their classes in a file beside them.

    val/val_annotations.txt     a line for each image: name, WordNet id, and a box, between tabs
    val/images/val_0.JPEG

Classes are numbered in the order of their ids, as `FolderSource` numbers the folders of train/.
"""

from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from data.decoding import read_image
from data.source_protocol import ImageSource

ANNOTATIONS = "val_annotations.txt"


def is_tiny_validation(name: str) -> bool:
    return (Path(name) / ANNOTATIONS).is_file()


class TinyValidation(ImageSource, Dataset):
    """Images of Tiny-ImageNet's val/, in the order of the annotations.

    Raises `ValueError` for a line that is not an annotation, and for an image that is missing.
    """

    def __init__(self, given: str, root: str, image_size: int):
        self.root, self.image_size = Path(root), image_size
        rows = []
        lines = (self.root / ANNOTATIONS).read_text(errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            cells = line.split("\t")
            if len(cells) < 2 or not (self.root / "images" / cells[0]).is_file():
                raise ValueError(
                    f"{given} {root}: line {number} of {ANNOTATIONS} names no image in images/ and "
                    f"its class ({line:.60}); unpack Tiny-ImageNet again"
                )
            rows.append(cells[:2])
        if not rows:
            raise ValueError(f"{given} {root}: {ANNOTATIONS} is empty; unpack Tiny-ImageNet again")
        self.names = [name for name, _ in rows]
        classes, self.labels = np.unique([label for _, label in rows], return_inverse=True)
        self.num_classes, self.class_names = len(classes), classes.tolist()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = str(self.root / "images" / self.names[index])
        return read_image(path, self.image_size, path), int(self.labels[index])

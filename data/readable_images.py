"""Images in batches of which some may be unreadable: these are listed, and no error is raised."""

import torch
from torch.utils.data import Dataset

from data.decoding import UnreadableImage
from data.source_protocol import NamedSource


class ReadableImages(Dataset):
    """A data set of (image, label, None), or (None, index, error) of an unreadable image."""

    def __init__(self, source: NamedSource):
        self.source = source

    def __getitem__(self, index: int) -> tuple[torch.Tensor | None, int, str | None]:
        try:
            return (*self.source[index], None)
        except UnreadableImage as error:
            return None, index, " ".join(str(error.__cause__ or error).split())


def gather(items: list) -> tuple[torch.Tensor, list[int], list[tuple[int, str]]]:
    """Return readable images (n, 3, H, W), their labels, and (index, error) of the others."""
    good = [(image, int(label)) for image, label, error in items if error is None]
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0)
    errors = [(index, error) for _, index, error in items if error is not None]
    return images, [label for _, label in good], errors


def cut(images: range, size: int) -> list[range]:
    """Return consecutive slices of at most `size` images."""
    return [images[start : start + size] for start in range(0, len(images), size)]

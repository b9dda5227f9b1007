"""Image files of a folder as one array that is decoded when it is sliced."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data.decoding import UnreadableImage, is_grey, read_image, read_size
from data.folders import walk_images

READERS = 8  # threads that decode files


class FolderImages:
    """The images of some files as one array, RGB or greys, decoded when sliced."""

    dtype = np.dtype(np.uint8)

    def __init__(
        self, paths: list[Path], height_width: tuple[int, int], crop: int | None, channels: int = 3
    ):
        self.paths, self.crop = paths, crop
        self.shape = len(paths), *height_width, channels

    def are_greys(self) -> bool:
        """Return whether each file has a single channel without colours."""
        with ThreadPoolExecutor(READERS) as threads, named_images():
            return all(threads.map(is_grey, self.paths))

    def greys(self) -> "FolderImages":
        return FolderImages(self.paths, self.shape[1:3], self.crop, channels=1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: slice) -> np.ndarray:
        with ThreadPoolExecutor(READERS) as threads:
            return np.stack(list(threads.map(self._decode, self.paths[rows])))

    def _decode(self, path: Path) -> np.ndarray:
        with named_images():
            image = read_image(path, self.crop, str(path)).permute(1, 2, 0).numpy()
        image = image[..., : self.shape[3]]  # of greys, all three channels are the same
        if image.shape != self.shape[1:]:
            raise ValueError(f"{path}: it is {image.shape} now, and was {self.shape[1:]}")
        return image


def image_paths(folder: Path) -> list[Path]:
    """List the images below `folder`, sorted."""
    return sorted(
        Path(parent, name) for parent, names in walk_images(str(folder)) for name in names
    )


def common_size(paths: list[Path]) -> tuple[int, int]:
    """Return (H, W) of all images; raise `ValueError`, which names the first that differs."""
    with ThreadPoolExecutor(READERS) as threads:
        sizes = list(threads.map(image_file_size, paths))
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"{path} is {size[0]}x{size[1]} pixels and {paths[0].name} "
                f"{sizes[0][0]}x{sizes[0][1]}: all images must have one size"
            )
    width, height = sizes[0]
    return height, width


def image_file_size(path: Path) -> tuple[int, int]:
    with named_images():
        return read_size(path)


@contextmanager
def named_images() -> Iterator[None]:
    """Raise `ValueError` instead of `UnreadableImage`, like all other errors in a set."""
    try:
        yield
    except UnreadableImage as error:
        raise ValueError(f"{error}; repair or remove it") from None

"""Listing of the images in a folder and below it, the same for training and evaluation.

Links are followed, because class folders are often links to folders elsewhere. Each folder is
visited once: a link to the folder itself, or to one above it, adds nothing. What is hidden (its
name begins with a dot) is passed over, and so is __MACOSX of archives made on a Mac: copies that a
notebook left in .ipynb_checkpoints are not a class of their own.
"""

import os
from collections import deque
from collections.abc import Iterator

from runtime.launch import is_first_process
from runtime.progress import Progress

SPLITS = {"train", "val", "valid", "validation", "test"}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def walk_images(root: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder at or below `root` once, and the sorted names of the images in it.

    Folders come in no particular order. A folder that can be reached directly and through a link is
    visited directly; of several links to it, the first in the order of their paths counts.
    Raises `OSError`, which names the folder, when a folder cannot be listed.
    """
    own = os.path.realpath(root)
    visited, starts = {own, *folders_above(own)}, deque([root])
    while starts:
        start = starts.popleft()
        if start != root and not claim(start, visited):
            continue
        links = []
        for folder, below, names in os.walk(start, onerror=raise_it):
            below[:] = [name for name in below if not is_hidden(name)]
            paths = sorted(os.path.join(folder, name) for name in below)
            links += [path for path in paths if os.path.islink(path)]
            # a plain folder is known already where a link came before
            known = {p for p in paths if not os.path.islink(p) and not claim(p, visited)}
            below[:] = [name for name in below if os.path.join(folder, name) not in known]
            yield folder, sorted(name for name in names if is_image(name))
        starts.extend(sorted(links))


def class_images(root: str) -> tuple[list[str], list[tuple[str, int]]]:
    """Return the class names, and (path, label) of each image; each folder in `root` is a class.

    Classes are numbered in the order of their names. Images come class by class, then in the order
    of their folders' paths, then of their names. Raises `ValueError` for a class without images,
    when there are no classes, and when they are splits.
    """
    classes = class_names(root)
    refuse_splits(root, classes)
    folders_of: dict[str, list[tuple[str, list[str]]]] = {name: [] for name in classes}
    shown = is_first_process()
    with Progress("listing images", len(classes), "class", shown=shown, delay=2) as progress:
        for folder, names in walk_images(root):
            name = os.path.relpath(folder, root).split(os.sep)[0]
            if names and name in folders_of:
                progress.update(not folders_of[name])
                folders_of[name].append((folder, names))
    if empty := [name for name in classes if not folders_of[name]]:
        raise ValueError(
            f"no images ({', '.join(IMAGE_SUFFIXES)}) in the folders of the classes "
            f"{', '.join(empty[:5])}{', ...' * (len(empty) > 5)} that are not in another class "
            f"already"
        )
    if not classes:
        raise ValueError("no folders in it")
    images = [
        (os.path.join(folder, name), label)
        for label, key in enumerate(classes)
        for folder, names in sorted(folders_of[key])
        for name in names
    ]
    return classes, images


def class_names(root: str) -> list[str]:
    """Return the names of the folders in `root`, each of which is a class, in order."""
    above = {os.path.realpath(root), *folders_above(os.path.realpath(root))}
    with os.scandir(root) as entries:
        folders = sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))
    return [name for name in folders if os.path.realpath(os.path.join(root, name)) not in above]


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def refuse_splits(root: str, folders: list[str]) -> None:
    """Raise `ValueError` if the folders in `root` are train/ and others like it, not classes."""
    if "train" in folders and len(folders) > 1 and SPLITS.issuperset(folders):
        raise ValueError(
            f"its folders are {', '.join(folders)}, splits and not classes: give "
            f"{os.path.join(root, 'train')}"
        )


def folders_above(path: str) -> Iterator[str]:
    while path != (path := os.path.dirname(path)):
        yield path


def claim(folder: str, visited: set[str]) -> bool:
    """Add `folder` to those visited; return False if it was visited before."""
    place = os.path.realpath(folder)
    if place in visited:
        return False
    visited.add(place)
    return True


def raise_it(error: OSError) -> None:
    raise error

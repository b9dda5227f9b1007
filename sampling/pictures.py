"""Writing of every image of a set as a .png, in the folder NAME/ beside NAME.npz.

    NAME/recipe.json    the recipe of the set, as in the .npz
    NAME/000000.png     image 0

The folder belongs to one recipe: another one's images, or other files, are never mixed into it.
"""

from pathlib import Path

import numpy as np

from runtime.files import check_folder_writable, write_json
from runtime.png import save_image
from sampling.stored_recipe import check_same_recipe, read_recipe_file

RECIPE = "recipe.json"


class Pictures:
    """The folder of pictures of a set.

    Args:
        out: the .npz.
        recipe: everything that determines the samples, JSON-compatible.
    """

    def __init__(self, out: Path, recipe: dict):
        self.folder, self.recipe = out.with_suffix(""), recipe

    def check(self) -> None:
        """Raise `ValueError` if the folder is of something else, or cannot be written."""
        check_folder_writable(self.folder, f"--save-png, {self.folder}")
        if (self.folder / RECIPE).exists():
            check_same_recipe(self.folder, read_recipe_file(self.folder / RECIPE), self.recipe)
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(
                f"{self.folder}: holds other files, and --save-png would add images to them; give "
                f"another --out, or move that folder"
            )

    def prepare(self) -> None:
        """Make the folder; every process may call it."""
        if not (self.folder / RECIPE).exists():
            write_json(self.folder / RECIPE, self.recipe)

    def path(self, i: int) -> Path:
        return self.folder / f"{i:06d}.png"

    def missing(self, numbers: range) -> bool:
        """Return whether the file of any of these images is missing."""
        return not all(self.path(i).exists() for i in numbers)

    def write(self, numbers: range, images: np.ndarray) -> None:
        """Write uint8 images (n, H, W, C) as files."""
        for i, image in zip(numbers, images, strict=True):
            save_image(image, self.path(i))

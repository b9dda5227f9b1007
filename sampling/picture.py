"""Images of certain classes in one PNG, which holds its recipe as a text of the name "recipe"."""

import json
from pathlib import Path

import torch

from runtime.files import check_writable
from runtime.png import check_picture, save_grid
from runtime.progress import Progress
from sampling.images import ImageMaker
from sampling.picture_config import SIT_CLASSES, PictureConfig, check_picture_config, classes_of
from sampling.recipe import describe_images

KIND = "samples of classes"


class Picture:
    """A picture to be made: everything loaded and checked, nothing sampled yet.

    Raises `ValueError` for bad settings, for those that contradict the checkpoint, and when `--out`
    is a file of something else.
    """

    def __init__(self, config: PictureConfig):
        check_picture_config(config)
        self.config, self.out = config, Path(config.out)
        check_writable(self.out, f"--out {self.out}")
        check_picture(self.out, KIND, f"--out {self.out}")
        self.maker = ImageMaker(config, len(config.classes or SIT_CLASSES), "--classes")
        self.classes = classes_of(config, self.maker.settings["num_classes"])

    def write(self) -> None:
        """Sample the images, all at a time, and write the picture, all of it or nothing."""
        c = self.config
        with Progress(self.out.name, 1, "picture") as progress:

            def show(evaluations: int) -> None:
                progress.update(0, f"{evaluations} evaluations")

            self.maker.network.on_evaluation = show
            labels = torch.tensor(self.classes)
            images, values = self.maker.images(c.seed, range(len(labels)), labels)
        recipe = describe_images(self.maker, {"seed": c.seed, "classes": self.classes})
        recipe["nfe"] = int(values["nfe"][0])
        columns = min(c.columns, len(images))
        save_grid(images, self.out, columns, KIND, recipe=json.dumps(recipe))
        print(f"{self.out}: classes {', '.join(map(str, self.classes))}, NFE {recipe['nfe']}")

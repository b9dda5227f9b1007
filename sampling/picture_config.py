"""Settings of sample.py, a picture of images of certain classes. No torch here: --help is instant.

--ckpt, --cfg-scale and --seed are those of the original's sample.py, with its defaults; solvers,
guidance and all else are those of sample_ddp.py.
"""

from dataclasses import dataclass

from runtime.flags import COUNT, check_ranges, require
from runtime.launch import world_size
from sampling.solver_config import ODESolver, SDESolver, SolverConfig, check_solver_config

PICTURE = """Sample an image of each of some classes and write them into one .png. The first word is
the solver, ODE unless given; `ODE --help` and `SDE --help` show the flags."""
SIT_CLASSES = (207, 360, 387, 974, 88, 979, 417, 279)
"""ImageNet's classes in SiT's picture: golden retriever, otter, panda, geyser, macaw, valley,
balloon, arctic fox."""


@dataclass(frozen=True)
class PictureConfig(SolverConfig):
    cfg_scale: float = 4.0
    """guidance scale; 1 is no guidance"""
    classes: tuple[int, ...] | None = None
    """class of each image; SiT's eight of ImageNet unless given, or with another number of classes
    the first eight"""
    seed: int = 0
    """seed; image i has the noise of image i of sample_ddp.py with this --global-seed"""
    out: str = "sample.png"
    """the .png to write"""
    columns: int = 4
    """images in a row"""


@dataclass(frozen=True)
class PictureODE(ODESolver, PictureConfig):
    """The probability-flow ODE, solved by torchdiffeq."""


@dataclass(frozen=True)
class PictureSDE(SDESolver, PictureConfig):
    """The reverse SDE, on a uniform grid."""


def check_picture_config(c: PictureConfig) -> None:
    """Check all that needs no checkpoint; raise `ValueError`, which names the flag."""
    check_ranges(c, {"columns": COUNT})
    require(c, "out", c.out.endswith(".png"), "the name of a .png file")
    require(c, "classes", c.classes is None or len(c.classes) > 0, "one class or more")
    check_solver_config(c)
    if world_size() > 1:
        raise ValueError("sample.py is one process: start it with python, not torchrun")


def classes_of(c: PictureConfig, num_classes: int) -> tuple[int, ...]:
    """Return the class of each image; raise `ValueError` for a class the network does not have."""
    if c.classes is None:
        return SIT_CLASSES if num_classes == 1000 else tuple(range(min(8, num_classes)))
    for number in c.classes:
        if not 0 <= number < num_classes:
            raise ValueError(
                f"--classes {number}: the checkpoint's classes are 0 to {num_classes - 1}"
            )
    return c.classes

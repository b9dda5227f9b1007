"""Sample an image of each of some classes into one PNG.

    python sample.py --ckpt 0400000.pt
    python sample.py SDE --ckpt 0400000.pt --classes 207 360 --cfg-scale 1.8 \\
        --guidance-interval 0.3 1 --seed 3 --out two.png
    python sample.py --preset paper-ode-heun250 --ckpt 0400000.pt

Image i of a seed has the noise of image i of sample_ddp.py with this --global-seed.
"""

from runtime.command import parse_command, run_errors, usage_errors
from sampling.picture_config import PICTURE, PictureConfig, PictureODE, PictureSDE
from sampling.presets import expand_preset, name_solver

if __name__ == "__main__":  # before torch is loaded
    CONFIG = parse_command(
        {"ODE": PictureODE, "SDE": PictureSDE},
        description=PICTURE,
        prepare=lambda args: name_solver(expand_preset(args)),
    )

from sampling.picture import Picture


def main(config: PictureConfig) -> None:
    with usage_errors():
        picture = Picture(config)
    with run_errors("Nothing was written"):
        picture.write()


if __name__ == "__main__":
    main(CONFIG)

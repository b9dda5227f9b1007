"""Train a SiT with velocity matching and LayerSync, or what --loss-type names instead.

    torchrun --nproc_per_node=8 train.py --model SiT-XL/2 --data-path /path/to/imagenet/train
    torchrun --nproc_per_node=2 train.py --model SiT-Ti/2 --dataset-name digits --image-size 8 \\
        --num-classes 10 --vae none --global-batch-size 128 --epochs 40 --lr 1e-3
    python train.py ...                  # one process, CPU or GPU
    python train.py --config FILE ...    # settings from a file, or a run's config.json
    ... --resume latest                  # the same command again continues where it was

    L = mean of [ |model(x_t, t, y) - (x_1 - x_0)|^2  -  lambda cos(z_k, stopgrad(z_k')) ]

(LayerSync, arXiv 2510.12581, on SiT, arXiv 2401.08740). What a step draws is a function of the
seed, the step and the position in the global batch: resuming is exact, and the number of
processes changes nothing but float rounding (the dispersive loss, which compares the samples that a
process sees, excepted).
"""

from runtime.command import parse_command, run_errors, usage_errors
from training.config import TrainConfig
from training.resumed_settings import with_own_settings
from training.settings_record import RUN_SECTION

if __name__ == "__main__":
    # before torch is loaded: --help and typos answer at once
    CONFIG = parse_command(TrainConfig, section=RUN_SECTION, prepare=with_own_settings)

import sys

from runtime.outcome import finished
from training.loop import Training
from training.run_lines import announce


def main(config: TrainConfig) -> None:
    with usage_errors():
        training = Training(config)
    announce(training)
    checkpoints = training.folder / "checkpoints"
    with run_errors(f"What {checkpoints} holds is whole; --resume latest continues from there"):
        code = training.run()
    if code == 0:
        finished()
    sys.exit(code)


if __name__ == "__main__":
    main(CONFIG)

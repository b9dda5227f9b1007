"""Sample many images from a checkpoint into one .npz, for FID.

    torchrun --nproc_per_node=8 sample_ddp.py ODE --ckpt 0400000.pt --num-fid-samples 50000
    torchrun --nproc_per_node=8 sample_ddp.py SDE --ckpt 0400000.pt --cfg-scale 1.5
    python sample_ddp.py --preset paper-ode-heun250 --ckpt 0400000.pt
    python sample_ddp.py --config OTHER.npz --ckpt 0400000.pt    # as OTHER.npz was sampled

Label, noise and SDE draws of image i are a function of (seed, i), and batches are fixed slices of
i dealt out to the processes: the .npz is the same for any number of processes. They never wait for
each other; a run that was killed continues where it was when the same command is given again.
"""

from runtime.command import parse_command, run_errors, usage_errors
from runtime.launch import is_first_process, rank, world_size
from runtime.outcome import finished
from sampling.presets import expand_preset
from sampling.sample_config import ODE, SAMPLE, SDE
from sampling.sample_file import SAMPLE_SECTION

if __name__ == "__main__":  # before torch is loaded
    CONFIG = parse_command(
        {"ODE": ODE, "SDE": SDE}, description=SAMPLE, section=SAMPLE_SECTION, prepare=expand_preset
    )

from sampling.run import Sampling


def main(config: ODE | SDE) -> None:
    with usage_errors():
        sampling = Sampling(config)
        parts = sampling.parts
        lock = parts.lock()  # held to the end: one launch at a time writes this set
        unfinished = parts.check()
    with run_errors(f"What is finished in {parts.folder} is kept: the same command continues"):
        if unfinished:
            parts.prepare()
            sampling.run(rank(), world_size())
        else:
            sampling.finish_pictures(rank(), world_size())
            if is_first_process():
                parts.clean_up()
                print(f"{parts.out} is complete already")
    if lock:
        lock.release()
    finished()


if __name__ == "__main__":
    main(CONFIG)

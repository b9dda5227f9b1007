"""Settings of a checkpoint for its own continuation: `train.py --resume FILE` needs no others.

They come before all others, so that a flag or a settings file overrides them; one that shapes what
the run computes is then refused where the checkpoint is read. A checkpoint in a run's folder
continues in that folder. Nothing here imports torch, unless a checkpoint is named.
"""

from pathlib import Path

from runtime.settings_chain import Given
from runtime.settings_file import flag_names, put_before
from training.config import TrainConfig
from training.settings_record import settings_of_record

RESUMING = ("--resume", "--ckpt")  # the original's --ckpt too, without --fine-tune


def with_own_settings(args: list[str]) -> list[str]:
    """Return the command line with the settings of the checkpoint that it continues put first.

    `ValueError` for a file that is no checkpoint. Weights alone, as SiT's, have none to give.
    """
    flag, name = resumed_file(args)
    if flag is None or name is None or not Path(name).is_file():
        return args  # what is missing is refused where it is opened
    from models.checkpoint_file import read_checkpoint
    from training.originals import is_original, original_flags

    content = read_checkpoint(name, mmap=True)
    stored = content.get("config", {})
    if is_original(content):
        taken: dict | None = original_flags(content)
    else:
        taken = settings_of_record(stored) if isinstance(stored, dict) and stored else None
    if taken is None:
        return args
    if stored.get("wandb_run_name"):
        taken["wandb_run_name"] = stored["wandb_run_name"]
    path = Path(name).resolve()
    if path.parent.name == "checkpoints" and stored:
        taken |= {"results_dir": str(path.parents[2]), "run_name": path.parents[1].name}
    own = args
    if flag == "--ckpt":  # of a run that itself began from weights, --ckpt says which
        own = ["--resume" if word == flag else word for word in args]
        own = [f"--resume={name}" if word == f"{flag}={name}" else word for word in own]
    settings = {key: Given(value, f"checkpoint {name}: {key}") for key, value in taken.items()}
    return put_before(own, settings, TrainConfig)


def resumed_file(args: list[str]) -> tuple[str | None, str | None]:
    """Return the flag that names a checkpoint to continue from, and its file; else (None, None)."""
    if "fine_tune" in flag_names(args) and "--resume" not in " ".join(args):
        return None, None
    for flag in RESUMING:
        for i, word in enumerate(args):
            if word.startswith(f"{flag}="):
                return flag, word.partition("=")[2]
            if word == flag and i + 1 < len(args):
                return flag, args[i + 1]
    return None, None

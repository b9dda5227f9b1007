"""A run's folder, and where a run starts: at step 0, at a checkpoint, or from weights.

results/<run name>/ holds config.json, metrics.jsonl, checkpoints/0000400.pt, samples/0000400.png
"""

import dataclasses
import json
import os
from pathlib import Path

from runtime.command import warn
from runtime.files import check_folder_writable
from runtime.launch import is_first_process, restarted
from runtime.locks import OutputLock, lock_output
from training.checkpoint import checkpoint_files, latest_checkpoint, read_for_resume
from training.config import TrainConfig
from training.methods.methods import trains_heads
from training.originals import original_differences
from training.run_names import data_label, former_run_name, run_name
from training.settings_record import differences, in_force, restore, stored_in_force

LOCK = "run.lock"


def run_folder(config: TrainConfig) -> Path:
    """Return the folder of this run; the same settings always give the same one.

    A run that is continued may lie in a folder of the name that earlier versions gave.
    """
    results = Path(config.results_dir)
    if config.run_name:
        return results / config.run_name
    folder, former = results / run_name(config), results / former_run_name(config)
    if continues(config) and not holds_run(folder) and holds_same_run(config, former):
        return former
    return folder


def holds_same_run(config: TrainConfig, folder: Path) -> bool:
    """Return whether a run of these settings, on data of this name, is in a folder."""
    try:
        stored = restore(read_config(folder / "config.json"))
        differing = different_settings(config, dataclasses.asdict(stored))
        return not differing and data_label(stored.data_name) == data_label(config.data_name)
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def claim_folder(config: TrainConfig, folder: Path) -> OutputLock:
    """Make this launch the only one that writes the run's folder, before it is looked into.

    `ValueError` when the folder cannot be written, when another launch keeps it, or at once when
    it holds a run that this one is not meant to continue.
    """
    if not is_utf8(folder):  # TensorBoard can open no file there
        raise ValueError(f"{str(folder)!a}: not UTF-8; give another --run-name or --results-dir")
    if not continues(config) and is_first_process():  # others may see an old listing
        find_checkpoint(config, folder)
    check_folder_writable(folder, f"--results-dir {config.results_dir}")
    return lock_output(folder, folder / LOCK)


def continues(config: TrainConfig) -> bool:
    """Return whether a run goes on from its own newest checkpoint, if it has one.

    So does one that a launcher starts again, whatever the command said the first time.
    """
    return config.resume == "latest" or restarted()


def is_utf8(path: Path) -> bool:
    """Return whether a path is text in UTF-8, as the system's files need not be."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def find_checkpoint(config: TrainConfig, folder: Path) -> Path | None:
    """Return the checkpoint to continue from, None for a run at step 0.

    `ValueError` when the run would write over another one, or over what cannot be read.
    """
    start = None if config.fine_tune else config.ckpt
    named = start if config.resume in (None, "latest") else config.resume
    if continues(config):
        return find_latest(config, folder) or (Path(named) if named else None)
    if named:
        path = Path(os.path.realpath(named) if Path(named).is_symlink() else named)  # best.pt
        check_own_folder(path, folder)
        return path
    if holds_run(folder):
        raise ValueError(
            f"{folder} already holds a run: add --resume latest to continue it, or give another "
            f"--run-name or --results-dir"
        )
    return None


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds a run, also one without a checkpoint yet."""
    return (folder / "config.json").exists() or any(folder.glob("checkpoints/*.pt"))


def find_latest(config: TrainConfig, folder: Path) -> Path | None:
    paths = checkpoint_files(folder / "checkpoints")
    latest = latest_checkpoint(folder / "checkpoints", trains_heads(config))
    if paths and latest is None:
        raise ValueError(
            f"none of the {len(paths)} checkpoints in {folder / 'checkpoints'} can be read: "
            f"restore one, or give another --run-name to start anew"
        )
    if latest is None and holds_run(folder):  # killed before its first checkpoint
        differing = different_settings(config, read_config(folder / "config.json"))
        if differing:
            raise ValueError(f"{folder} holds another run; {'; '.join(differing)}")
    return latest


def different_settings(config: TrainConfig, stored: dict) -> list[str]:
    """Return where the settings of another start differ, both as they are in force."""
    before = stored_in_force(stored)
    return differences(in_force(config), before) + other_beginning(config, before)


def other_beginning(config: TrainConfig, stored: dict) -> list[str]:
    """Return the difference between the weights that two fine-tuned runs began from, if any."""
    now, before = config.ckpt, stored.get("ckpt")
    if not (config.fine_tune and stored.get("fine_tune") and now and before) or now == before:
        return []
    if Path(now).resolve() == Path(before).resolve():
        return []
    return [f"--ckpt, which --fine-tune began from: {before} there, {now} here"]


def read_config(path: Path) -> dict:
    """Read a run's config.json; `ValueError` if it is damaged."""
    try:
        config = json.loads(path.read_text())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(
            f"{path}: damaged, and there is no checkpoint beside it: remove {path.parent} to start "
            f"anew"
        )
    return config


def check_own_folder(path: Path, folder: Path) -> None:
    """Refuse a checkpoint by name, unless the folder is new or holds it as its newest."""
    if not path.exists() or not holds_run(folder):
        return
    if path.resolve().parent != (folder / "checkpoints").resolve():
        raise ValueError(
            f"{folder} already holds a run, and {path} is of another folder: give a new --run-name"
        )
    newer = [other.name for other in checkpoint_files(path.parent) if other.name > path.name]
    if newer:
        raise ValueError(
            f"{folder} holds later checkpoints than {path.name} ({newer[-1]}): remove them to go "
            f"on from there, or give a new --run-name"
        )


def schedules_to_the_end(config: TrainConfig) -> list[str]:
    """Return the names of schedules whose every value depends on where the run ends."""
    reg = config.reg_schedule
    names = ["cosine"] if config.optim.lr_schedule == "cosine" else []
    if reg.reg_scheduler != "constant" and reg.reg_decay_steps is None:
        names.append(f"{reg.reg_scheduler} of lambda")
    return names


def read_start(config: TrainConfig, path: Path) -> dict:
    """Read the checkpoint at `path`; `ValueError` when it is of a run with other settings.

    It needs no data, so that a file which is damaged or another run's is refused at once.
    """
    checkpoint = read_for_resume(path, heads=trains_heads(config))
    original = checkpoint.get("original")
    if original is None:
        refuse_others(path, different_settings(config, checkpoint["config"]))
    else:
        refuse_others(path, original_differences(config, original))
    return checkpoint


def check_start(
    config: TrainConfig, arch: dict, data_length: int, last_step: int, checkpoint: dict, path: Path
) -> None:
    """Raise `ValueError` when a checkpoint is of another network or data, or ends elsewhere."""
    differing, original = [], checkpoint.get("original")
    if arch != checkpoint["arch"]:
        differing = [f"network: {checkpoint['arch']} there, {arch} here"]
    for schedule in schedules_to_the_end(config):
        if original is None and last_step != checkpoint["last_step"]:
            differing.append(
                f"last step of the {schedule}: {checkpoint['last_step']} there, {last_step} here"
            )
    if original is None and data_length != checkpoint["data_length"]:
        differing.append(
            f"images in the data: {checkpoint['data_length']} there, {data_length} here"
        )
    refuse_others(path, differing)
    if checkpoint["step"] > last_step:
        raise ValueError(
            f"checkpoint {path}: it is of step {checkpoint['step']}, and this run is to end at "
            f"step {last_step}; give larger --max-steps or --epochs, or another --run-name"
        )


def warn_of_other_data(checkpoint: dict, path: Path, data_list: str | None) -> None:
    """Warn where a checkpoint has seen other images than those of `data_list`, if both are known.

    They may be the same under other names, so it is no error.
    """
    there = checkpoint.get("data_list")
    if there and data_list and there != data_list:
        warn(
            f"checkpoint {path} has seen other images, or the same with other names or labels; "
            f"the run goes on with those of now"
        )


def refuse_others(path: Path, differing: list[str]) -> None:
    """Raise `ValueError` if there are differences between a checkpoint's run and this one."""
    if differing:
        raise ValueError(f"checkpoint {path} is of another run; {'; '.join(differing)}")


def is_own(checkpoint: Path | None, folder: Path) -> bool:
    """Return whether a checkpoint lies in the folder of this run, and is not another run's."""
    return checkpoint is not None and checkpoint.parent.resolve() == (
        folder.resolve() / "checkpoints"
    )

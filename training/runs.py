"""A run's folder, and where a run starts: at step 0, at a checkpoint, or from weights.

results/<run name>/ holds config.json, metrics.jsonl, checkpoints/0000400.pt, samples/0000400.png
"""

from pathlib import Path

from training.checkpoint import latest_checkpoint, read_for_resume
from training.config import TrainConfig, differences


def run_folder(config: TrainConfig, pairs: list[tuple[int, int]], weight: float) -> Path:
    """The folder of this run; the same settings always give the same one."""
    parts = [config.model.replace("/", "-"), config.loss_type]
    if weight:
        parts += [*(f"{student}-{teacher}" for student, teacher in pairs), f"lambda{weight:g}"]
    name = config.run_name or "-".join([*parts, f"seed{config.global_seed}"])
    return Path(config.results_dir) / name


def find_checkpoint(config: TrainConfig, folder: Path) -> Path | None:
    """The checkpoint to continue from, None for a new run.

    `ValueError` when a new run would write into the folder of an old one.
    """
    checkpoints = folder / "checkpoints"
    if config.resume == "latest":
        return latest_checkpoint(checkpoints)
    if config.resume or (config.ckpt and not config.fine_tune):
        return Path(config.resume or config.ckpt)
    if any(checkpoints.glob("*.pt")):
        raise ValueError(
            f"{folder} already holds a run: add --resume latest to continue it, or give another "
            f"--run-name or --results-dir"
        )
    return None


def read_start(
    config: TrainConfig, arch: dict, data_length: int, last_step: int, path: Path
) -> dict:
    """Read the checkpoint at `path`; `ValueError` when it is of a run with other settings."""
    checkpoint = read_for_resume(path)
    found = differences(config, checkpoint["config"])
    if not found and arch != checkpoint["arch"]:
        found = [f"network: {checkpoint['arch']} there, {arch} here"]
    if config.optim.lr_schedule == "cosine" and last_step != checkpoint["last_step"]:
        found.append(f"last step of the cosine: {checkpoint['last_step']} there, {last_step} here")
    if data_length != checkpoint["data_length"]:
        found.append(f"images in the data: {checkpoint['data_length']} there, {data_length} here")
    if found:
        raise ValueError(f"checkpoint {path} is of another run; {'; '.join(found)}")
    return checkpoint

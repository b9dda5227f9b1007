"""Log of a run: averages over windows of steps, to metrics.jsonl and the trackers.

Averages are over all processes and over the steps since the last line. Resuming cuts the file back
to the checkpoint's step and takes the window in progress from the checkpoint, so that the file of
an interrupted run is that of an uninterrupted one (save for what training/speed.py measures).
"""

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from runtime.command import RunError, warn
from runtime.error_text import in_one_line
from runtime.files import remove_leftovers, write_json, write_text
from training.config import TrainConfig
from training.log_file import LogFile
from training.settings_record import resolved_settings, run_record


class Meter:
    """Sums of named scalars over the steps of a window, float64.

    Steps add to a sum of their own process without waiting for the device. `fold` joins the
    processes' sums; a checkpoint folds too, so that resuming adds in the same order. Every step
    has the same names in the same order; a checkpoint keeps the sums without them.

    Args:
        state: sums and count of a window in progress, as `fold` returned them.
        origin: what an error calls the file that the state comes from.
    """

    def __init__(self, accelerator, state: dict | None = None, origin: str = "the checkpoint"):
        self.accelerator, self.origin = accelerator, origin
        self.names: list[str] = []
        state = state or {"sums": [], "count": 0}
        self.folded, self.count = torch.tensor(state["sums"], dtype=torch.float64), state["count"]
        self.local: Tensor | None = None  # nothing was added since the last fold
        self.bad_step = torch.full((), float("inf"), device=accelerator.device)

    def add(self, values: dict[str, Tensor], step: int = 0) -> None:
        """Add one step's values, the loss first."""
        self.names = list(values)
        added = torch.stack([value.detach().double() for value in values.values()])
        self.local = added + (0.0 if self.local is None else self.local)
        self.count += 1
        finite = torch.isfinite(added[0])
        self.bad_step = torch.where(finite, self.bad_step, self.bad_step.clamp(max=step + 1))

    def first_not_finite(self) -> int:
        """Return the first step, from 1, of which any loss was not finite (a collective)."""
        return int(self.accelerator.gather(self.bad_step.reshape(1)).min())

    def fold(self) -> dict:
        """Join the processes' sums (a collective); returns what a checkpoint keeps."""
        if self.local is not None:
            joined = self.accelerator.reduce(self.local, "mean").cpu()
            if len(self.folded) not in (0, len(joined)):
                raise RunError(
                    f"{self.origin}: its meter has {len(self.folded)} sums, this run logs "
                    f"{len(joined)} numbers; the file was altered, resume from another one"
                )
            self.folded = joined + (self.folded if len(self.folded) else 0.0)
            self.local = None
        return {"sums": self.folded.tolist(), "count": self.count}

    def averages(self) -> dict[str, float]:
        """Return the means since the last call (a collective), and start a new window."""
        self.fold()
        means = dict(zip(self.names, (self.folded / self.count).tolist(), strict=True))
        self.folded, self.count = torch.zeros_like(self.folded), 0
        return means


MOST_SHOWN = 8  # values of a monitor in a line for reading


class RunLog:
    """metrics.jsonl, TensorBoard and, when asked, W&B; the first process writes.

    `say` prints a line for reading about what monitors log.
    """

    def __init__(
        self,
        accelerator,
        folder: Path,
        config,
        first_step: int,
        say: Callable[[str], None] = print,
    ):
        self.say = say
        self.seen: dict[str, float] = {}  # the latest values of monitors
        self.accelerator, self.path = accelerator, folder / "metrics.jsonl"
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            write_json(folder / "config.json", run_record(config))
            cut_back(self.path, first_step)
        self.file = LogFile(self.path)
        silence_writer_threads()
        if config.wandb:
            honour_old_variables()
        accelerator.init_trackers(
            project_of(config),
            config=resolved_settings(config),
            init_kwargs={
                "tensorboard": {"purge_step": first_step + 1},
                "wandb": wandb_options(config, folder) if config.wandb else {},
            },
        )

    def write(
        self, step: int, values: dict[str, float], about: Mapping[str, str | bool] | None = None
    ) -> None:
        """Log the running averages and what else a step has, without a line for reading.

        Args:
            about: how they were made, for metrics.jsonl alone.
        """
        if self.accelerator.is_main_process:
            self.file.add(json.dumps({"step": step, **values, **(about or {})}))
        with self.tracking():
            self.accelerator.log(values, step=step)

    @contextlib.contextmanager
    def tracking(self) -> Iterator[None]:
        """Do without trackers from now on if one meets an error of the disk."""
        try:
            yield
        except OSError as error:
            self.accelerator.trackers = []
            warn(
                f"the trackers cannot write ({in_one_line(error)}): their curves end here, until "
                f"the run is resumed; it goes on, and {self.path.name} has all numbers"
            )

    def write_extra(
        self, step: int, values: dict[str, float], about: Mapping[str, str | bool] | None = None
    ) -> None:
        """Log other values than the running averages; `about` as in `write`."""
        self.seen |= values
        self.write(step, values, about if values else None)
        shown = [f"{name} {value:.4g}" for name, value in list(values.items())[:MOST_SHOWN]]
        more = f", and {len(values) - MOST_SHOWN} more values" if len(values) > MOST_SHOWN else ""
        self.say(f"step {step}: {', '.join(shown)}{more}")

    def rows(self, step: int) -> list[dict]:
        """Return the lines of this step in metrics.jsonl."""
        rows = read_log(self.path) if self.path.exists() else []
        return [row for row in rows if row["step"] == step]

    def write_image(self, step: int, path: Path) -> None:
        """Show a picture in the trackers."""
        with Image.open(path) as picture:
            pixels = {"samples": np.asarray(picture.convert("RGB"))[None]}  # (1, H, W, 3)
        with self.tracking():
            for tracker in self.accelerator.trackers:
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images(pixels, step=step, **layout)
        self.say(f"step {step}: picture {path}")

    def close(self) -> None:
        """Have the trackers send what they still hold; the process group stays."""
        if self.accelerator.is_main_process:
            self.file.close()
            with self.tracking():
                for tracker in self.accelerator.trackers:
                    tracker.finish()


def silence_writer_threads() -> None:
    """Print no traceback of TensorBoard's thread for an error that `RunLog.tracking` tells of."""
    before = threading.excepthook

    def hook(error: threading.ExceptHookArgs) -> None:
        told = isinstance(error.exc_value, OSError)
        if not (told and type(error.thread).__name__ == "_AsyncWriterThread"):
            before(error)

    threading.excepthook = hook


SIT_VARIABLES = {"WANDB_KEY": "WANDB_API_KEY", "ENTITY": "WANDB_ENTITY", "PROJECT": "WANDB_PROJECT"}
"""Environment variables of SiT's scripts, and what Weights & Biases calls the same."""


def honour_old_variables() -> None:
    """Set W&B's own variables, which it reads by itself, from SiT's where they are not set."""
    for old, own in SIT_VARIABLES.items():
        if old in os.environ:
            os.environ.setdefault(own, os.environ[old])


def project_of(config: TrainConfig) -> str:
    """Return the project at W&B, after which TensorBoard's folder is called too."""
    if not config.wandb:
        return "layersync"
    return config.tracking.wandb_project or os.environ.get("WANDB_PROJECT", "layersync")


def wandb_options(config: TrainConfig, folder: Path) -> dict:
    """Return the arguments of `wandb.init`; its files lie in the run's folder, in wandb/.

    What no flag gives is left to W&B's own variables.
    """
    c = config.tracking
    given = {"entity": c.wandb_entity, "group": c.wandb_group, "tags": list(c.wandb_tags)}
    return {key: value for key, value in given.items() if value} | {
        "name": config.wandb_run_name or folder.name,
        "id": wandb_id(folder),
        "resume": "allow",
        "dir": str(folder),
    }


def wandb_id(folder: Path) -> str:
    """Return W&B's name of this run, drawn once, so that a resumed run continues its curves."""
    path = folder / "wandb_id.txt"
    known = path.read_text().strip() if path.exists() else ""
    if not known:  # or left empty when the disk was full
        known = uuid.uuid4().hex
        write_text(path, known)
    return known


def read_log(path: Path) -> list[dict]:
    """Read the lines of a metrics.jsonl, up to one that a kill or a full disk cut off."""
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            break
        rows.append(row)
    return rows


def cut_back(path: Path, step: int) -> None:
    """Keep the lines up to `step`, atomically."""
    if path.exists():
        kept = [json.dumps(row) + "\n" for row in read_log(path) if row["step"] <= step]
        write_text(path, "".join(kept))

"""The training loop: a run from its first step to its last, and each of its steps.

    draw -> loss -> backward, part by part -> update -> log -> checkpoint -> monitors

What a run consists of is made in training/building.py.
"""

import dataclasses
import math
import sys

from data.loader import make_step_loader
from data.order import StepBatches
from runtime.outcome import failed
from runtime.processes import told_by_first
from runtime.progress import Progress
from runtime.signals import StopRequest
from runtime.stopping import EXIT_PREEMPTED
from training.building import build_run
from training.checkpoint import tensor_bytes
from training.config import TrainConfig
from training.monitors.monitor import Moment, Watched
from training.monitors.monitors import Monitors
from training.objective import Objective
from training.run_checkpoints import RunCheckpoints
from training.run_lines import step_line
from training.runs import is_own
from training.speed import Speed
from training.step import TrainStep
from training.step_draws import BatchMaker
from training.tracking import Meter, RunLog
from training.update import Update

EXIT_NOT_FINITE = 3


class Training:
    """A run, checked and at its first step; `ValueError` for what is wrong with its settings."""

    def __init__(self, config: TrainConfig):
        built = build_run(config)
        self.config, self.folder, self.arch = built.config, built.folder, built.arch
        self.lock = built.lock
        self.accelerator, self.shard = built.accelerator, built.shard
        self.transport, self.encoding = built.transport, built.encoding
        self.source, self.last_step = built.encoding.source, built.last_step
        self.data_list = built.data_list
        self.parallel, self.network = built.parallel, built.parallel.network

        self.batches = BatchMaker(built.draws, self.encoding, self.accelerator.device)
        self.objective = Objective(self.transport, built.regularizers, built.compiled)
        self.update = Update(self.parallel, built.regularizers, config.optim, self.last_step)
        self.train_step = TrainStep(
            parallel=self.parallel,
            objective=self.objective,
            update=self.update,
            batches=self.batches,
            parts=config.engine.accumulation_steps,
        )
        self.step = 0
        if built.start:
            self.take_up(built.start, f"checkpoint {built.start_path}")
        self.monitors = Monitors(
            Watched(
                config=self.config,
                parallel=self.parallel,
                transport=self.transport,
                encoding=self.encoding,
                batches=self.batches,
                shard=self.shard,
            )
        )
        meter = built.start and built.start["meter"]
        self.meter = Meter(self.accelerator, meter, f"checkpoint {built.start_path}")
        self.stop = StopRequest(self.accelerator, 4 * tensor_bytes(self.network.state_dict()))
        self.progress = Progress(
            self.folder.name,
            self.last_step,
            unit="step",
            initial=self.step,
            shown=self.accelerator.is_main_process,
            lines=False,
        )
        self.checkpoints = RunCheckpoints(
            self.config,
            self.folder,
            self.step,
            start=built.start_path,
            took=self.stop.checkpoint_took,
            say=self.progress.say,
        )
        # the first that writes into the folder: nothing after it refuses to start
        self.log = RunLog(self.accelerator, self.folder, self.config, self.step, self.progress.say)
        self.speed = Speed(
            self.accelerator,
            batch=config.global_batch_size,
            precision=self.config.engine.precision,
            arch=self.arch,
            step=self.step,
        )
        # the folder may have another name on another node
        self.goes_on = told_by_first(lambda: is_own(built.start_path, self.folder))

    def take_up(self, start: dict, name: str) -> None:
        """Continue from a checkpoint, whose weights the network has; errors call it `name`."""
        try:
            self.update.load_state(start)
            self.objective.load_state(start["regularizers"])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        self.step = start["step"]

    def run(self) -> int:
        """Train to the last step, or until told to stop; returns the exit code."""
        with self.checkpoints.writer:  # the last checkpoint is waited for, however the run ends
            return self.steps()

    def steps(self) -> int:
        c = self.config
        sizes = len(self.source), c.global_batch_size
        order = StepBatches(*sizes, c.global_seed, self.step, self.last_step, self.shard)
        loader = make_step_loader(self.source, order, c.num_workers, self.batches.draws)
        self.network.train()
        stopping = False
        if self.goes_on:
            self.look_again(sizes)
        with self.progress as progress:
            for packed in self.speed.waiting(loader):
                self.checkpoints.writer.check()
                placed = self.batches.place(packed)
                self.meter.add(self.train_step(placed, self.step), self.step)
                self.step += 1
                progress.update()
                if (self.step % c.log_every == 0 or self.step == self.last_step) and (
                    not self.write_log()
                ):
                    return self.not_finite()
                stopping = self.stop.agreed(self.step)
                last = stopping or self.step == self.last_step
                due = last or self.step % c.saving.ckpt_every == 0
                if due and not self.save(hurry=stopping):
                    return self.not_finite()
                if stopping:
                    break
                self.monitors(Moment(self.step, placed["images"], placed["labels"]), self.log)
                best = self.checkpoints.best.improved(self.step, self.log)
                if best and not self.save_best(written=due):
                    return self.not_finite()
        unseen = stopping and bool(self.monitors.due(self.step))
        return self.ended(stopping and (self.step < self.last_step or unseen))

    def look_again(self, sizes: tuple[int, int]) -> None:
        """Let the monitors look that the stop after the last step left no time to (a collective).

        Args:
            sizes: numbers of images of the data and of the global batch.
        """
        missed = self.monitors.missed(self.step, self.log)
        if missed:
            seed, step = self.config.global_seed, self.step
            order = StepBatches(*sizes, seed, step - 1, step, self.shard)
            packed = next(iter(make_step_loader(self.source, order, 0, self.batches.draws)))
            placed = self.batches.place(packed)
            now = Moment(step, placed["images"], placed["labels"])
            self.monitors.look(missed, now, self.log)
        for row in told_by_first(lambda: self.log.rows(self.step)):
            self.log.seen |= row
        if self.checkpoints.best.improved(self.step, self.log):
            self.save_best(written=True)

    def write_log(self) -> bool:
        """Log the averages since the last time, unless a loss was not finite: then False."""
        values = {**self.meter.averages(), "lr": self.update.rate(self.step - 1)}
        if math.isfinite(values["loss"]):
            measured = self.speed.since(self.step)
            self.log.write(self.step, values | measured)
            speed, batch = measured["images_per_second"], self.config.global_batch_size
            self.progress.say(step_line(values, self.step, self.last_step, batch, speed))
        return math.isfinite(values["loss"])

    def ended(self, stopped: bool) -> int:
        """Say how and why the run ended, on all processes at once; return the exit code."""
        self.checkpoints.writer.wait()
        self.log.close()
        place = f"step {self.step} of {self.last_step}"
        if not stopped:
            self.progress.say(f"finished: {place}, results in {self.folder}")
        else:
            self.progress.say(
                f"stopped at {place} by {self.stop.reason}: its checkpoint is written, the same "
                f"command with --resume latest continues"
            )
        self.accelerator.wait_for_everyone()  # a launcher ends all when one of them has ended
        self.accelerator.state.destroy_process_group()
        return EXIT_PREEMPTED if stopped else 0

    def save(self, hurry: bool = False) -> bool:
        """Have a checkpoint written, unless a loss since the last look was not finite: then False.

        Args:
            hurry: give up an older one that is still being written.
        """
        meter = self.meter.fold()
        if not math.isfinite(meter["sums"][0]):
            return False
        state = self.update.state()
        if self.accelerator.is_main_process:
            state |= dict(
                step=self.step,
                config=dataclasses.asdict(self.config),
                arch=self.arch,
                codec=self.encoding.codec.name,
                data_length=len(self.source),
                data_list=self.data_list or "",
                last_step=self.last_step,
                meter=meter,
                regularizers=self.objective.state(),
            )
            self.checkpoints.submit(state, hurry)
        return True

    def save_best(self, written: bool) -> bool:
        """Save a step that is the best so far; only link its checkpoint if that is written."""
        if not written:
            return self.save()
        self.checkpoints.writer.wait()
        if self.accelerator.is_main_process:
            self.checkpoints.link_best(self.step)
        return True

    def not_finite(self) -> int:
        """Say at which step a loss was not finite; the last checkpoint is from before."""
        step = self.meter.first_not_finite()
        failed(f"the loss of step {step} is not finite", EXIT_NOT_FINITE)
        if self.accelerator.is_main_process:
            print(
                f"\nthe loss of step {step} is not finite: stopped. The last checkpoint in "
                f"{self.checkpoints.folder} is from before; resume from it with a lower --lr, "
                f"or with --max-grad-norm 1",
                file=sys.stderr,
                flush=True,
            )
        self.accelerator.wait_for_everyone()
        return EXIT_NOT_FINITE

"""The training loop: everything a run consists of, and its steps."""

import dataclasses
import math
import sys
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from data.batch import Batch
from data.encoding import Encoding
from data.loader import make_loader
from data.order import StepBatches, batch_shard
from data.sources import load_source
from models import find_model
from models.trained import load_weights, start_from_weights
from runtime.randomness import step_streams
from runtime.signals import EXIT_PREEMPTED, StopRequest
from training.checkpoint import prune_checkpoints, save_checkpoint
from training.checks import check_train_config, layer_sync_settings
from training.config import TrainConfig
from training.methods.build import make_regularizers
from training.methods.comparisons import check_local_batch
from training.monitors.diagnosis import Diagnosis
from training.monitors.monitors import Monitors, logged
from training.objective import Objective
from training.parallel import Parallel, resolve_precision, start_accelerator
from training.runs import find_checkpoint, read_start, run_folder
from training.tracking import Meter, RunLog
from training.update import Update
from transport import create_transport

EXIT_NOT_FINITE = 3


class Training:
    """Everything a run consists of, checked and at its first step."""

    def __init__(self, config: TrainConfig):
        check_train_config(config)
        precision = resolve_precision(config.engine.precision)
        engine = dataclasses.replace(config.engine, precision=precision)
        config = dataclasses.replace(config, engine=engine)  # as it is recorded
        pairs, weight = layer_sync_settings(config)
        self.config, self.folder = config, run_folder(config, pairs, weight)
        start = find_checkpoint(config, self.folder)
        self.transport = create_transport(**dataclasses.asdict(config.transport))
        self.accelerator = start_accelerator(config.engine, self.folder, config.wandb)
        ranks = self.accelerator.process_index, self.accelerator.num_processes
        self.shard = batch_shard(config.global_batch_size, *ranks, config.engine.accumulation_steps)
        check_local_batch(config, len(self.shard) // config.engine.accumulation_steps)
        self.source = load_source(config, config.global_batch_size)
        device = self.accelerator.device
        self.encoding = Encoding(config, config.model, self.source, device)
        epoch = len(self.source) // config.global_batch_size
        self.last_step = min(config.epochs * epoch, config.max_steps or sys.maxsize)

        self.arch = dict(
            name=config.model,
            input_size=self.encoding.latent_shape[-1],
            in_channels=self.encoding.latent_shape[0],
            num_classes=config.num_classes,
            learn_sigma=True,
        )
        self.network = build_network(self.arch, config.global_seed)
        state = None
        if start:
            state = read_start(config, self.arch, len(self.source), self.last_step, start)
            load_weights(self.network, state["model"], start)
        elif config.fine_tune:
            start_from_weights(self.network, config.ckpt)
        ema = deepcopy(self.network).eval().requires_grad_(False)
        self.parallel = Parallel(self.network, ema, self.accelerator, config.engine)
        parts = self.network, ema, self.transport, self.source, self.accelerator
        regularizers = make_regularizers(config, self.last_step, *parts)
        self.objective = Objective(self.transport, regularizers)
        self.update = Update(self.parallel, regularizers, config.optim, self.last_step)
        if state:
            self.update.load_state(state)
            self.objective.load_state(state["regularizers"])
        self.monitors = self.make_monitors()
        self.diagnosis = Diagnosis(
            self.network, self.transport, pairs, partial(self.accelerator.reduce, reduction="sum")
        )

        names = [*self.objective.names, "grad_norm"]
        self.meter = Meter(self.accelerator, names, state and state["meter"])
        self.step = state["step"] if state else 0
        self.stop = StopRequest(self.accelerator)
        self.log = RunLog(self.accelerator, self.folder, config, self.step)

    def run(self) -> int:
        """Train to the last step, or until told to stop; returns the exit code."""
        c = self.config
        sizes = len(self.source), c.global_batch_size
        batches = StepBatches(*sizes, c.global_seed, self.step, self.last_step, self.shard)
        progress = tqdm(
            make_loader(self.source, batches, c.num_workers),
            initial=self.step,
            total=self.last_step,
            desc=self.folder.name,
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        self.network.train()
        saved = stopping = False
        for images, labels in progress:
            self.meter.add(self.train_step(images, labels), self.step)
            self.step += 1
            if self.step % c.log_every == 0 or self.step == self.last_step:
                values = {**self.meter.averages(), "lr": self.update.rate(self.step - 1)}
                if not math.isfinite(values["loss"]):
                    return self.not_finite()
                self.log.write(self.step, values)
                progress.set_postfix(loss=f"{values['loss']:.4f}")
            stopping = self.stop.agreed(self.step)
            last = stopping or self.step == self.last_step
            saved = last or self.step % c.saving.ckpt_every == 0
            if saved and not self.save():
                return self.not_finite()
            if stopping:
                break
            self.monitors(self.step, self.log)
            if c.diagnose_every and self.step % c.diagnose_every == 0:
                self.log.write_extra(self.step, self.diagnose(images, labels))
        self.log.close()
        return EXIT_PREEMPTED if stopping and self.step < self.last_step else 0

    def train_step(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """One optimizer step; returns the values of `meter`, means over this process's share."""
        parts = self.config.engine.accumulation_steps
        size = len(labels) // parts
        sums = None
        for i in range(parts):
            rows = slice(i * size, (i + 1) * size)
            with self.update.accumulating(last=i == parts - 1):
                values = self.forward_backward(images[rows], labels[rows], self.shard[rows], parts)
            sums = values if sums is None else [a + b for a, b in zip(sums, values, strict=True)]
        values = [value / parts for value in sums]

        grad_norm = self.update(self.step)
        self.objective.finish_step(values)
        return [*values, grad_norm]

    def forward_backward(self, images, labels, positions: range, parts: int) -> list[Tensor]:
        """Add the gradients of the samples at `positions` of the global batch."""
        batch = self.draw(images, labels, positions)
        loss, values = self.objective(self.parallel.model, batch, self.parallel.autocast())
        self.accelerator.backward(loss / parts)
        return values

    def draw(self, images: Tensor, labels: Tensor, positions: range) -> Batch:
        """Everything random about these samples. The order of draws is part of a run."""
        device = self.accelerator.device
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        draws = step_streams(self.config.global_seed, self.step, positions, device)
        mirrored = draws.uniform() < 0.5
        dropped = draws.uniform() < self.network.class_dropout_prob
        t = self.transport.training_times(draws.uniform())  # (N,)
        x_1 = self.encoding(images, mirrored, draws)  # (N, C, H, W)
        x_0 = draws.normal(x_1.shape[1:])
        return Batch(self.step, positions, images, mirrored, labels, dropped, t, x_1, x_0, draws)

    def diagnose(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Of the step just made, on as much of its images as go through the network at once."""
        part = slice(len(labels) // self.config.engine.accumulation_steps)
        batch = self.draw(images[part], labels[part], self.shard[part])
        return self.diagnosis.values(batch, self.accelerator.autocast())

    def save(self) -> bool:
        """Write a checkpoint, unless a loss since the last look was not finite: then False."""
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
                last_step=self.last_step,
                meter=meter,
                regularizers=self.objective.state(),
            )
            saving, folder = self.config.saving, self.folder / "checkpoints"
            save_checkpoint(folder / f"{self.step:07d}.pt", state, saving.min_free_disk)
            prune_checkpoints(folder, saving.keep_last, saving.keep_every)
        return True

    def not_finite(self) -> int:
        """Say at which step a loss was not finite; the last checkpoint is from before."""
        step = self.meter.first_not_finite()
        if self.accelerator.is_main_process:
            print(
                f"\nthe loss of step {step} is not finite: stopped. The last checkpoint in "
                f"{self.folder / 'checkpoints'} is from before; resume from it with a lower --lr, "
                f"or with --max-grad-norm 1",
                file=sys.stderr,
            )
        return EXIT_NOT_FINITE

    def make_monitors(self) -> Monitors:
        c, ema = self.config, self.parallel.ema
        monitors = Monitors(c, self.encoding, self.transport, self.parallel)
        if c.evaluation.eval_every:
            from training.monitors.fid import InTraining  # much that other runs do not need

            evaluation = InTraining(c, self.encoding, self.transport)
            monitors.add(c.evaluation.eval_every, logged(evaluation, ema))
        if c.probe_every:
            from evaluation.blocks.probed_images import Probing

            # of held-out images if there are any
            source = monitors.validation.source if monitors.validation else self.source
            self.probing = Probing(source, c.probe_samples, c.global_seed, self.accelerator.device)
            values = logged(self.probing.values, ema, self.encoding, self.transport)
            monitors.add(c.probe_every, values)
        return monitors


def build_network(arch: dict, seed: int) -> torch.nn.Module:
    """The network that `arch` describes, its initial weights drawn from `seed`."""
    torch.manual_seed(seed)
    sizes = {key: value for key, value in arch.items() if key != "name"}
    return find_model(arch["name"])(**sizes)


def announce(training: Training) -> None:
    """Say what is about to run, once."""
    if not training.accelerator.is_main_process:
        return
    config, count = training.config, sum(p.numel() for p in training.network.parameters())
    print(f"{config.model}: {count / 1e6:.1f}M parameters, {len(training.source)} images")
    for regularizer in training.objective.regularizers:
        print(regularizer.announcement())
    print(
        f"{training.accelerator.num_processes} x {training.accelerator.device.type}, "
        f"{config.engine.precision}, steps {training.step} to "
        f"{training.last_step}, results in {training.folder}",
        flush=True,
    )

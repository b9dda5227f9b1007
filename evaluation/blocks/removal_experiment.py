"""`--probes removal`: what the network loses without a block, or without several in a row.

The loss is the plain squared error of the prediction, of held-out images where there are any; with
a reference, samples of the network without the blocks are scored too.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evaluation.blocks.experiments import Measured, Subject, as_rows
from evaluation.blocks.held_out import images_without_labels, lists_of
from evaluation.blocks.removal import Run, runs_of, without
from evaluation.blocks.tokens import Batch
from evaluation.options import MetricOptions
from evaluation.scorers import load_scorer
from layersync.capture import BlockRecorder
from layersync.outputs import TokenReader
from sampling.in_place import InPlaceSampler

USUAL = 1_000  # images: each goes through the network half as often as there are blocks
SCORES = ("fid", "pixel_frechet")  # the first of these that there is, is shown


class Removal:
    """An `Experiment`: each block, and each run of blocks, removed in turn."""

    def __init__(self, words: tuple[str, ...], subjects: Sequence[Subject]):
        self.options = subjects[0].config.removal_options
        self.runs = {}
        self.images = {}
        for subject in subjects:
            depth, numbers = len(subject.checkpoint.blocks), subject.numbers
            self.runs[id(subject)] = runs_of(depth, numbers, self.options.run_lengths)
            self.images[id(subject)] = images_without_labels(subject, USUAL)
        if self.options.ref:
            self.scorer(subjects[0])  # refused now rather than after hours

    def recipe(self, subject: Subject) -> dict:
        o, c = self.options, subject.config
        sampled = {"ref": o.ref, "samples": o.fid_samples, "steps": o.fid_steps} if o.ref else None
        return {
            "run_lengths": o.run_lengths,
            "images": len(self.images[id(subject)][1]),
            "lists": lists_of(self.images[id(subject)][0]),
            "held_out": c.val_data_path,
            "times": subject.times(),
            "sampled": sampled,
        }

    def measure(self, subject: Subject, scratch: Path) -> dict[str, Measured]:
        measured = {"removal": self.losses(subject)}
        if self.options.ref:
            measured["removal fid"] = self.scores(subject)
        return measured

    def losses(self, subject: Subject) -> Measured:
        source, numbers = self.images[id(subject)]
        runs, times = self.runs[id(subject)], subject.times()
        batches = subject.stream(subject.examples(source), numbers, no_target, "removal")
        sums = torch.zeros(len(times), 1 + len(runs), dtype=torch.float64)
        for batch in batches:
            for k, time in enumerate(times):
                sums[k] += losses_of(subject, batch.to(subject.checkpoint.device), time, runs)
        means = subject.processes.sum(sums) / len(numbers)  # (times, 1 + runs), the whole first
        whole, lost = means[:, :1], means[:, 1:]
        values = {}
        for length in self.options.run_lengths:
            chosen = [i for i, run in enumerate(runs) if run.length == length]
            suffix = "" if length == self.options.run_lengths[0] else f"_{length}"
            values[f"increase{suffix}"] = as_rows(lost[:, chosen] / whole - 1)
            values[f"loss{suffix}"] = as_rows(lost[:, chosen])
        return Measured(
            title="rise of the velocity loss without the block",
            values=values,
            times=times,
            blocks=subject.numbers,
            percent=True,
            chance=0.0,
            more={"loss_of_the_whole": whole.flatten().tolist()},
        )

    def scorer(self, subject: Subject):
        one = subject.checkpoint
        shape = (*2 * (one.data.known_size,), one.encoding.codec.image_channels)
        options = MetricOptions(inception_weights=self.options.inception_weights)
        assert self.options.ref is not None
        return load_scorer(self.options.ref, shape, subject.name, options)

    def scores(self, subject: Subject) -> Measured:
        """Score samples of the network, whole and without each run; a collective."""
        one, o = subject.checkpoint, self.options
        scorer, runs = self.scorer(subject), self.runs[id(subject)]
        sampler = InPlaceSampler(
            one.network,
            one.transport,
            one.encoding.codec,
            one.encoding.latent_shape,
            num_classes=one.trained.arch["num_classes"],
            steps=o.fid_steps,
            seed=subject.config.seed,
            batch=subject.config.batch_size,
            device=one.device,
        )
        labels = sampler.labels(range(o.fid_samples))
        metrics: list[dict[str, float]] = []
        for run in (Run(1, 0), *runs):
            name = f"{subject.name}, {len(metrics)} of {len(runs)} removed"
            with without(one.blocks, run):
                batches = sampler.batches(o.fid_samples, subject.processes, name)
                scores = scorer.evaluate(batches, labels if subject.processes.first else None)
            metrics.append(scores.metrics if scores else {})
        headline = next((name for name in SCORES if name in metrics[0]), SCORES[0])
        return Measured(
            title=f"{headline} without the block",
            values={
                f"{headline}{'' if length == o.run_lengths[0] else f'_{length}'}": [
                    [
                        scores.get(headline, float("nan"))
                        for scores, run in zip(metrics[1:], runs, strict=True)
                        if run.length == length
                    ]
                ]
                for length in o.run_lengths
            },
            times=(),
            blocks=subject.numbers,
            chance=metrics[0].get(headline),
            more={"whole": metrics[0], "without": metrics[1:]},
        )


@torch.no_grad()
def losses_of(subject: Subject, batch: Batch, time: float, runs: Sequence[Run]) -> Tensor:
    """Return the summed losses of some images, whole and without each run, (1 + runs,)."""
    one, extractor = subject.checkpoint, subject.extractor
    blocks, t = one.blocks, extractor.times(batch, time)
    recorder = BlockRecorder(dict(enumerate(blocks)))
    read = TokenReader().tokens

    def loss() -> Tensor:
        with extractor.autocast():
            return one.transport.training_losses(
                one.network, batch.x_1, dict(y=extractor.condition(batch)), t=t, x0=batch.x_0
            )["loss"].double().sum()  # fmt: skip

    with recorder.recording():
        losses = [loss()]
    outputs = recorder.take()
    known = [read(outputs[k][0]) for k in range(len(blocks))]
    for run in runs:
        with without(blocks, run, known):
            losses.append(loss())
    return torch.stack(losses).cpu()


def no_target(numbers: Sequence[int], items: Tensor) -> Tensor:
    return torch.zeros(len(numbers))

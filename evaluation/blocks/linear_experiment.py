"""`--probes linear`: how well the class is read off each block at each time of the path."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.source_protocol import IndexedSource
from evaluation.blocks.blocks_config import ALL, USUAL_SAMPLES, at_most
from evaluation.blocks.example_batches import label_target
from evaluation.blocks.experiments import Measured, Subject, as_rows
from evaluation.blocks.held_out import lists_of, open_held_out
from evaluation.blocks.linear_heads import NORMALISED, PRESETS, LinearHeads, judge_heads
from evaluation.blocks.linear_probe import RIDGES, TopAccuracy
from evaluation.blocks.probed_images import probe_images
from evaluation.blocks.probes import run_probes
from evaluation.blocks.trained_heads import HeadSettings, HeadTraining


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images to fit classifiers to, and others to judge them by.

    Args:
        classes: the labels that occur, which the probe numbers from 0.
    """

    source: IndexedSource
    fit: np.ndarray
    held_out_source: IndexedSource
    held_out: np.ndarray
    classes: np.ndarray

    def target(self, source: IndexedSource):
        labels = np.searchsorted(self.classes, np.asarray(source.labels))
        return label_target(torch.from_numpy(labels))


class Linear:
    """An `Experiment`: ridge regression in closed form, or heads trained as in the literature."""

    def __init__(self, words: tuple[str, ...], subjects: Sequence[Subject]):
        self.options = subjects[0].config.linear_options
        self.images = {id(subject): choose_labelled(subject) for subject in subjects}
        self.settings = self.head_settings(subjects[0].checkpoint.source.latents)

    def head_settings(self, latents: bool) -> HeadSettings | None:
        """Return the settings of trained heads, None for ridge regression."""
        o = self.options
        if o.linear == "ridge":
            return None
        given = {"epochs": o.epochs, "batch": o.head_batch, "lr": o.head_lr}
        changes: dict = {name: value for name, value in given.items() if value is not None}
        if o.fixed_views:
            changes |= {"flip": False, "crop": False}
        elif latents:
            changes |= {"crop": False}  # latents are kept of whole images
        return dataclasses.replace(PRESETS[o.linear], **changes)

    def recipe(self, subject: Subject) -> dict:
        images, c = self.images[id(subject)], subject.config
        how: dict = {"ridges": [RIDGES[0].item(), RIDGES[-1].item(), len(RIDGES)]}
        if self.settings is not None:
            how = dataclasses.asdict(self.settings)
            how |= {"preset": self.options.linear, "batch_norm": NORMALISED[self.options.linear]}
        return {
            "form": self.options.linear,
            "classes": len(images.classes),
            "images": [len(images.fit), len(images.held_out)],
            "lists": lists_of(images.source, images.held_out_source),
            "held_out": c.val_data_path or c.held_out,
            "times": subject.times(),
            **how,
        }

    def measure(self, subject: Subject, scratch: Path) -> dict[str, Measured]:
        images, times = self.images[id(subject)], subject.times()
        held_out = subject.stream(
            subject.examples(images.held_out_source),
            images.held_out,
            images.target(images.held_out_source),
            "held-out images",
        )
        more = {}
        if self.settings is None:
            examples = subject.examples(images.source)
            target = images.target(images.source)
            fit = subject.stream(examples, images.fit, target, "images to fit")
            numbers = run_probes(
                subject.extractor,
                fit,
                held_out,
                times,
                lambda: [TopAccuracy(len(images.classes))],
                subject.processes,
            )
        else:
            heads = self.heads(subject, images)
            training = self.training(subject, images, heads, scratch)
            more["losses"] = training.run()
            tokens = subject.extractor.each(held_out, times)
            numbers = judge_heads(heads, tokens, len(times), subject.processes)
        return {
            "linear": Measured(
                title="accuracy of a linear probe",
                values={name: as_rows(numbers[name]) for name in ("top1", "top5")},
                times=times,
                blocks=subject.numbers,
                percent=True,
                chance=1 / len(images.classes),
                more=more,
            )
        }

    def heads(self, subject: Subject, images: LabelledImages) -> LinearHeads:
        width = subject.checkpoint.model.get_parameter("pos_embed").shape[-1]
        sizes = len(subject.times()), len(subject.numbers), width, len(images.classes)
        heads = LinearHeads(sizes, NORMALISED[self.options.linear], subject.config.seed)
        return heads.to(subject.checkpoint.device)

    def training(
        self, subject: Subject, images: LabelledImages, heads: LinearHeads, scratch: Path
    ) -> HeadTraining:
        assert self.settings is not None
        about = subject.checkpoint.describe() | {"seed": subject.config.seed}
        return HeadTraining(
            heads=heads,
            settings=self.settings,
            extractor=subject.extractor,
            examples=subject.examples(images.source),
            numbers=images.fit.tolist(),
            target=images.target(images.source),
            times=subject.times(),
            processes=subject.processes,
            scratch=scratch,
            recipe=json.dumps(about | self.recipe(subject), sort_keys=True),
            name=f"{subject.name}, heads",
        )


def choose_labelled(subject: Subject) -> LabelledImages:
    """Choose the images of a linear probe; `ValueError` where there are too few or one class."""
    c, source = subject.config, subject.checkpoint.source
    many = at_most(c.samples, USUAL_SAMPLES if c.linear_options.linear == "ridge" else ALL)
    labels = np.asarray(source.labels)
    share = 0.0 if c.val_data_path else c.held_out
    fit, held_out = probe_images(labels, many, c.seed, share, "--samples")
    classes = np.unique(labels[fit])
    if not c.val_data_path:
        return LabelledImages(source, fit, source, held_out, classes)
    other, chosen = open_held_out(subject.checkpoint, c)
    known = np.isin(np.asarray(other.labels)[chosen], classes)
    if not known.any():
        raise ValueError(
            f"--val-data-path {c.val_data_path}: none of its images is of a class that the probe "
            f"is fitted to; give held-out images of the same classes"
        )
    return LabelledImages(source, fit, other, chosen[known], classes)

"""`--probes segmentation`: how well the class of each pixel is read off the tokens at its place.

The settings are the paper's code's: tokens at t = 0.999, a linear map, AdamW at 1e-3 with weight
decay 1e-4 and gradients of norm 1 at most, batches of 64, 25 epochs. That code reports the best
epoch on the test set; here the epoch is chosen on a part of the training set, which is not trained
on, unless --protocol paper.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from data.encoding import Encoding
from evaluation.blocks.blocks_config import ALL, at_most
from evaluation.blocks.example_batches import Examples
from evaluation.blocks.experiments import Measured, Numbers, Subject, as_rows
from evaluation.blocks.held_out import some_images
from evaluation.blocks.masked_images import IGNORED, MaskedImages, open_masked
from evaluation.blocks.segmentation import Confusion, SegmentationHeads
from evaluation.blocks.trained_heads import HeadSettings, HeadTraining
from runtime.command import RunError
from runtime.randomness import PROBE

PAPER = HeadSettings(
    epochs=25,
    batch=64,
    lr=1e-3,
    optimizer="adamw",
    weight_decay=1e-4,
    clip=1.0,
    schedule="constant",
)
TIMES = (0.999,)  # nearly the image itself
CHOOSING = 0.1  # share of the training set on which the epoch is chosen


@dataclasses.dataclass(frozen=True)
class Parts:
    """Images to train heads on, to choose their epoch on, and to test them on."""

    train: MaskedImages
    fit: np.ndarray
    choose: np.ndarray
    test: MaskedImages
    tested: np.ndarray
    chosen_on_test: bool


class Segmentation:
    """An `Experiment`: linear heads on tokens, judged by the mean IoU of the test masks."""

    def __init__(self, words: tuple[str, ...], subjects: Sequence[Subject]):
        self.options = subjects[0].config.segmentation_options
        assert self.options.masks is not None  # checked with the flags
        if subjects[0].config.labels == "true":
            raise ValueError("--labels true: images of --masks have no label of their own")
        given = {"epochs": self.options.seg_epochs, "batch": self.options.seg_batch,
                 "lr": self.options.seg_lr}  # fmt: skip
        changes: dict = {name: value for name, value in given.items() if value is not None}
        self.settings = dataclasses.replace(PAPER, **changes)
        self.encodings: dict[tuple[int, int], Encoding] = {}
        self.parts = {id(subject): self.open(subject) for subject in subjects}

    def open(self, subject: Subject) -> Parts:
        o, c, one = self.options, subject.config, subject.checkpoint
        assert o.masks is not None
        both = open_masked(o.masks, one.known.get("image_size", 256), o.mask_classes)
        train, test = both["train"], both["val"]
        for source in (train, test):
            # refuses channels that the network does not take
            self.encodings[id(subject), id(source)] = one.encode(source)
            check_first(source, o.masks)
        numbers = some_images(len(train), at_most(c.samples, ALL), c.seed)
        tested = some_images(len(test), at_most(c.val_samples, ALL), c.seed)
        if o.protocol == "paper":
            return Parts(train, numbers, tested, test, tested, chosen_on_test=True)
        order = np.random.default_rng((PROBE, c.seed)).permutation(numbers)
        count = max(1, round(CHOOSING * len(numbers)))
        if len(numbers) - count < 1:
            raise ValueError(f"--samples {len(numbers)}: too few images to train and to choose on")
        return Parts(train, np.sort(order[count:]), np.sort(order[:count]), test, tested, False)

    def recipe(self, subject: Subject) -> dict:
        parts, o = self.parts[id(subject)], self.options
        return {
            "form": o.protocol,
            "data": o.masks,
            "classes": o.mask_classes,
            "ignored": IGNORED,
            "images": [len(parts.fit), len(parts.choose), len(parts.tested)],
            "epoch_chosen_on": "the test set" if parts.chosen_on_test else "the training set",
            "times": subject.times(TIMES),
            **dataclasses.asdict(self.settings),
        }

    def measure(self, subject: Subject, scratch: Path) -> dict[str, Measured]:
        parts, times = self.parts[id(subject)], subject.times(TIMES)
        heads = self.heads(subject)
        chosen_in = parts.test if parts.chosen_on_test else parts.train

        def after_epoch(epoch: int) -> None:
            scores = self.judge(subject, heads, chosen_in, parts.choose, f"epoch {epoch + 1}")
            heads.remember(scores["miou"], epoch)

        training = self.training(subject, parts, heads, scratch)
        training.after_epoch = after_epoch
        losses = training.run()
        heads.recall()
        numbers = self.judge(subject, heads, parts.test, parts.tested, "test images")
        where = "test set, as in the paper's code" if parts.chosen_on_test else "training set"
        if subject.processes.first:
            print(f"{subject.name}, segmentation: the epoch was chosen on the {where}", flush=True)
        return {
            "segmentation": Measured(
                title="mean IoU of a linear segmentation",
                values={name: as_rows(numbers[name]) for name in ("miou", "accuracy")},
                times=times,
                blocks=subject.numbers,
                percent=True,
                more={
                    "losses": losses,
                    "epochs": (heads.best_epoch + 1).tolist(),
                    "best_of_an_epoch": as_rows(heads.best),
                },
            )
        }

    def examples(self, subject: Subject, source: MaskedImages) -> Examples:
        return subject.examples(source, self.encodings[id(subject), id(source)])

    def heads(self, subject: Subject) -> SegmentationHeads:
        width = subject.checkpoint.model.get_parameter("pos_embed").shape[-1]
        sizes = len(subject.times(TIMES)), len(subject.numbers), width, self.options.mask_classes
        return SegmentationHeads(sizes, subject.config.seed).to(subject.checkpoint.device)

    def training(
        self, subject: Subject, parts: Parts, heads: SegmentationHeads, scratch: Path
    ) -> HeadTraining:
        about = subject.checkpoint.describe() | {"seed": subject.config.seed}
        return HeadTraining(
            heads=heads,
            settings=self.settings,
            extractor=subject.extractor,
            examples=self.examples(subject, parts.train),
            numbers=parts.fit.tolist(),
            target=parts.train.masks,
            times=subject.times(TIMES),
            processes=subject.processes,
            scratch=scratch,
            recipe=json.dumps(about | self.recipe(subject), sort_keys=True),
            name=f"{subject.name}, heads",
        )

    def judge(
        self, subject: Subject, heads: SegmentationHeads, source: MaskedImages, numbers: Numbers,
        what: str,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the numbers (times, blocks) of heads on some images; a collective."""
        times = subject.times(TIMES)
        confusion = Confusion(len(times), len(subject.numbers), self.options.mask_classes)
        batches = subject.stream(self.examples(subject, source), numbers, source.masks, what)
        for k, tokens, batch in subject.extractor.each(batches, times):
            heads.add_to(confusion, k, tokens, batch.target)
        return confusion.numbers(subject.processes)


def check_first(source: MaskedImages, where: str) -> None:
    """Raise `ValueError` if the first image or its mask cannot be read, before any work."""
    try:
        source[0], source.mask(0)
    except RunError as error:
        raise ValueError(f"--masks {where}: {error}") from None

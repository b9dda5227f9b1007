"""`--probes cka cknna mutual-knn`: how alike blocks are to an encoder, or to another's blocks."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evaluation.blocks.alignment_metrics import (
    CLAMPED,
    CKASums,
    cka_of,
    cknna,
    clamped,
    mutual_knn,
    neighbours,
    normalised,
)
from evaluation.blocks.blocks_config import USUAL_SAMPLES
from evaluation.blocks.experiments import Measured, Subject, checkpoint_name
from evaluation.blocks.held_out import images_without_labels, lists_of
from evaluation.blocks.image_encoder import ImageEncoder, resampled
from evaluation.blocks.probed_checkpoint import ProbedCheckpoint
from evaluation.blocks.tokens import Batch, TokenExtractor
from models.trained import hash_weights
from runtime.processes import Processes

MOST = 20_000  # images of which pairs are compared: their pooled features stay in memory
PAIRS = {"cknna": cknna, "mutual-knn": mutual_knn}
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
Others = Callable[[int, Batch], list[Tensor]]


class AlignedAt:
    """Features of blocks, and of what they are compared with, at one time of the path.

    For CKA only sums are kept, D x D' for each pair; for the others the images' pooled features.
    """

    def __init__(self, words: Sequence[str], by_token: bool):
        self.words, self.by_token = words, by_token
        self.sums: dict[tuple, CKASums] = {}
        self.kept: tuple[list[list[Tensor]], list[list[Tensor]]] = ([], [])

    def add(self, blocks: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        """Add some images' tokens: of blocks (N, T, D), of the others (N, P, D')."""
        pooled = [[z.mean(dim=1) for z in side] for side in (blocks, others)]
        if {*self.words} & {*PAIRS}:
            for kept, side in zip(self.kept, pooled, strict=True):
                kept.append([z.float().cpu() for z in side])
        if "cka" not in self.words:
            return
        a, b = self.on_one_grid(blocks, others) if self.by_token else pooled
        a, b = ([normalised(z) for z in side] for side in (a, b))
        for i, x in enumerate(a):
            self.sums.setdefault(("a", i), CKASums()).add(x, x)
            for j, y in enumerate(b):
                self.sums.setdefault((i, j), CKASums()).add(x, y)
        for j, y in enumerate(b):
            self.sums.setdefault(("b", j), CKASums()).add(y, y)

    @staticmethod
    def on_one_grid(blocks: Sequence[Tensor], others: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return tokens as samples (N T, D), both sides on the coarser of their grids."""
        sides = [math.isqrt(z[0].shape[1]) for z in (blocks, others)]
        both = zip((blocks, others), sides, strict=True)
        least = min(sides)
        return [[resampled(z, least, (s, s)).flatten(0, 1) for z in side] for side, s in both]

    def matrices(self, k: int, processes: Processes) -> dict[str, Tensor]:
        """Return {name of a number: (blocks, others)}, over all processes' images."""
        matrices = {}
        if "cka" in self.words:
            for one in self.sums.values():
                one.join(processes)
            size = [1 + max(key[1] for key in self.sums if key[0] == side) for side in ("a", "b")]
            for name, unbiased in (("cka", True), ("cka_biased", False)):
                matrices[name] = torch.tensor(
                    [
                        [
                            cka_of(self.sums[i, j], self.sums["a", i], self.sums["b", j], unbiased)
                            for j in range(size[1])
                        ]
                        for i in range(size[0])
                    ],
                    dtype=torch.float64,
                )
        if {*self.words} & {*PAIRS}:
            a, b = ([self.nearest(z, k, processes) for z in zip(*side, strict=True)]
                    for side in self.kept)  # fmt: skip
            for word in [word for word in self.words if word in PAIRS]:
                numbers = [[PAIRS[word](x, y) for y in b] for x in a]
                matrices[word.replace("-", "_")] = torch.tensor(numbers, dtype=torch.float64)
        return matrices

    @staticmethod
    def nearest(parts: Sequence[Tensor], k: int, processes: Processes):
        features = torch.cat(processes.everyones(torch.cat(list(parts))))
        return neighbours(normalised(clamped(features)), k)


class Alignment:
    """An `Experiment`: CKA, CKNNA and mutual neighbours, from the same passes of the network."""

    def __init__(self, words: tuple[str, ...], subjects: Sequence[Subject]):
        c = subjects[0].config
        self.words, self.options = words, c.alignment_options
        self.images = {}
        for subject in subjects:
            source, numbers = images_without_labels(subject, USUAL_SAMPLES)
            self.check_count(len(numbers))
            self.images[id(subject)] = source, numbers
        assert self.options.encoder is not None  # checked with the flags
        self.encoder: ImageEncoder | None = None
        self.other: ProbedCheckpoint | None = None
        if self.options.encoder.endswith(SUFFIXES):
            self.open_checkpoint(subjects)
        else:
            self.open_encoder(subjects)

    def check_count(self, count: int) -> None:
        pairs = [word for word in self.words if word in PAIRS]
        if pairs and count <= self.options.neighbours:
            raise ValueError(
                f"--neighbours {self.options.neighbours}: {count} images have no so many "
                f"neighbours; give more --samples, or fewer neighbours"
            )
        if pairs and count > MOST:
            raise ValueError(
                f"--samples {count}: {' and '.join(pairs)} compare pairs of images, of {MOST:,} at "
                f"most; give --samples {MOST}"
            )
        if count < 4:
            raise ValueError(f"--samples {count}: unbiased CKA needs 4 images")

    def open_encoder(self, subjects: Sequence[Subject]) -> None:
        sides = {subject.checkpoint.tokens_side for subject in subjects}
        o = self.options
        if any(self.images[id(subject)][0].latents for subject in subjects):
            raise ValueError(
                f"--encoder {o.encoder}: it sees images, and the data holds latents; name the "
                f"images with --data-path"
            )
        if len(sides) > 1:
            raise ValueError(
                f"--ckpt: token grids of side {' and '.join(map(str, sorted(sides)))}; give those "
                f"of one side at a time, for which the encoder sees images of one size"
            )
        device = subjects[0].checkpoint.device
        self.encoder = ImageEncoder(str(o.encoder), o.encoder_weights, sides.pop(), device)

    def open_checkpoint(self, subjects: Sequence[Subject]) -> None:
        c = subjects[0].config
        self.other = ProbedCheckpoint(str(self.options.encoder), c, subjects[0].checkpoint.device)
        if c.labels == "null":
            self.other.check_null_label("; --labels true gives it the images' own")
        for one in (subject.checkpoint for subject in subjects):
            seen = [(x.encoding.latent_shape, x.encoding.codec.name, x.known["path_type"])
                    for x in (one, self.other)]  # fmt: skip
            if seen[0] != seen[1]:
                raise ValueError(
                    f"--encoder {self.options.encoder}: it sees {seen[1]}, and checkpoint "
                    f"{one.path} {seen[0]}; give one of the same latents, codec and path"
                )

    def recipe(self, subject: Subject) -> dict:
        o = self.options
        if self.other is not None:
            against = {"weights_sha256": self.other.trained.weights_sha256}
        else:
            assert self.encoder is not None
            network = self.encoder.patches or self.encoder.network
            against = {"weights_sha256": hash_weights(network.state_dict())}
        return {
            "words": self.words,
            "images": len(self.images[id(subject)][1]),
            "lists": lists_of(self.images[id(subject)][0]),
            "held_out": subject.config.val_data_path,
            "times": subject.times(),
            "against": {"encoder": o.encoder, **against},
            "features": "tokens" if o.by_token else "mean of the tokens",
            "length": "unit; for pairs clamped before",
            "clamped": CLAMPED,
            "neighbours": o.neighbours,
        }

    def measure(self, subject: Subject, scratch: Path) -> dict[str, Measured]:
        source, numbers = self.images[id(subject)]
        times, others = subject.times(), self.others(subject)
        at = [AlignedAt(self.words, self.options.by_token) for _ in times]
        stream = subject.stream(subject.examples(source), numbers, self.target, "alignment")
        for k, tokens, batch in subject.extractor.each(stream, times):
            at[k].add(tokens, others(k, batch))
        rows = [one.matrices(self.options.neighbours, subject.processes) for one in at]
        matrices = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return {word: self.measured(word, matrices, subject) for word in self.words}

    def target(self, numbers: Sequence[int], items: Tensor) -> Tensor:
        return torch.zeros(len(numbers)) if self.encoder is None else self.encoder(items)

    def others(self, subject: Subject) -> Others:
        """Return what gives the features that blocks are compared with, (N, P, D') each."""
        if self.other is None:
            return lambda k, batch: [batch.target]
        other, times = self.other, subject.times()
        labels = subject.config.labels == "true"
        extractor = TokenExtractor(
            other.network, other.blocks, other.transport.path, labels, subject.config.bf16
        )
        return lambda k, batch: extractor.tokens(batch, times[k])

    def measured(self, word: str, matrices: dict[str, Tensor], subject: Subject) -> Measured:
        """Return the numbers of a word; of several others, those of the most similar one."""
        names = ("cka", "cka_biased") if word == "cka" else (word.replace("-", "_"),)
        mean = matrices[names[0]].mean(dim=0)
        several = mean.shape[1] > 1
        name = str(self.options.encoder)
        name = name if self.other is None else checkpoint_name(name)
        return Measured(
            title=f"{word.replace('-', ' ')} with {'the nearest block of ' * several}{name}",
            values={one: matrices[one].max(dim=2).values.tolist() for one in names},
            times=subject.times(),
            blocks=subject.numbers,
            maps={f"{word} with the blocks of {name}": mean.tolist()} if several else {},
            more={"matrices": {n: matrices[n].tolist() for n in names}} if several else {},
        )

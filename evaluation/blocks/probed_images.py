"""The images that blocks are probed with, and the probes of a network in training.

The same images, with the same noise, each time: curves over training are smooth. Half of the
images of each class fit the linear probes, the other half judge them.
"""

import numpy as np
import torch

from evaluation.blocks.example_batches import Examples, label_target
from evaluation.blocks.probes import TIMES, BlockReport, probe_blocks
from evaluation.blocks.tokens import Batch
from runtime.randomness import PROBE
from transport import Transport

LEAST = 20  # images of a class: ten to fit a probe, ten to judge it
BATCH = 32


class Probing:
    """Probing of a network's blocks with a fixed set of a source's images.

    Every process does all of the work: that takes no longer than waiting for one that does, and a
    sharded network needs all of them. Encoded images stay in CPU memory: 32 KB an image, noise
    included, for 256 x 256 images through SD's autoencoder.

    Args:
        source: a data source with `labels`.
        samples: how many images to use at most, see `probe_images`.
        seed: images and noise are functions of it.
        device: where images are encoded.

    Raises `ValueError` when the source has too few images or classes for a probe.
    """

    def __init__(self, source, samples: int, seed: int, device: torch.device | str = "cpu"):
        self.source, self.seed, self.device = source, seed, device
        self.images = probe_images(np.asarray(source.labels), samples, seed)
        labels = [np.asarray(source.labels)[part] for part in self.images]
        self.classes, numbers = np.unique(np.concatenate(labels), return_inverse=True)
        self.labels = np.split(numbers, [len(labels[0])])  # 0..classes-1
        self.batches: list[list[Batch]] = []

    def values(self, network, blocks, encode, transport: Transport) -> dict[str, float]:
        """Return accuracy, effective rank and cosine with the next block, averaged over `TIMES`.

        Args:
            network: called as network(x_t, t, y), with a `null_label`; a SiT in eval mode.
            blocks: its blocks, as in `network.blocks`.
            encode: (images, mirrored, draws) -> x_1, as in the training step.
        """
        report = self.report(network, blocks, encode, transport)
        accuracy, rank = report.accuracy.mean(dim=0), report.effective_rank.mean(dim=0)
        similarity = report.similarity.mean(dim=0)
        values = {f"probe_accuracy_{k + 1}": accuracy[k] for k in range(report.depth)}
        values |= {f"probe_rank_{k + 1}": rank[k] for k in range(report.depth)}
        values |= {
            f"probe_similarity_{k}_{k + 1}": similarity[k - 1, k] for k in range(1, report.depth)
        }
        for name, numbers in report.more.items():
            mean = numbers.mean(dim=0)
            values |= {f"probe_{name}_{k + 1}": mean[k] for k in range(report.depth)}
        return {name: value.item() for name, value in values.items()}

    def report(
        self, network, blocks, encode, transport: Transport, times=TIMES, progress: bool = False
    ) -> BlockReport:
        """Return everything that `probe_blocks` measures on these images."""
        if not self.batches:
            self.batches = [self.encoded(part, encode) for part in (0, 1)]
        return probe_blocks(
            network,
            blocks,
            *self.batches,
            classes=len(self.classes),
            path=transport.path,
            times=times,
            progress=progress,
        )

    @torch.no_grad()
    def encoded(self, part: int, encode) -> list[Batch]:
        """Return the images that fit the probes (part 0) or judge them (part 1), in batches."""
        examples = Examples(
            self.source, encode, seed=self.seed, device=self.device, batch_size=BATCH
        )
        numbers = np.full(len(self.source), -1)
        numbers[self.images[part]] = self.labels[part]
        target = label_target(torch.from_numpy(numbers))
        cpu = torch.device("cpu")
        batches = examples.batches(self.images[part].tolist(), target)
        return [Batch(*batch[:3]).to(cpu) for batch in batches]


def probe_images(
    labels: np.ndarray,
    samples: int | None,
    seed: int,
    held_out: float = 0.5,
    name: str = "--probe-samples",
) -> tuple[np.ndarray, np.ndarray]:
    """Choose images; return the numbers of those that fit a probe and of those that judge it.

    At most `samples` in all, and equally many of each class if there are enough. Where that leaves
    less than `LEAST` images for each class, fewer classes are used.

    Args:
        labels: (N,) of all images.
        samples: None for all images of all classes that have `LEAST`.
        held_out: share of each class that judges, in [0, 1).
        name: the flag that says how many.

    Raises `ValueError` when there are less than two classes, or less than `LEAST` images of them.
    """
    random = np.random.default_rng((PROBE, seed))
    order = random.permutation(len(labels))
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2:
        raise ValueError(
            f"a linear probe tells classes apart, and the data has {len(present)}: use data with "
            f"two classes or more"
        )
    if samples is not None and samples < 2 * LEAST:
        raise ValueError(
            f"{name} {samples}: at least {2 * LEAST} are needed, {LEAST} images of each "
            f"of two classes"
        )
    enough = present[counts >= LEAST]
    if len(enough) < 2:
        raise ValueError(
            f"a linear probe needs {LEAST} images of each of two classes or more; of the "
            f"{len(present)} classes of the data, {len(enough)} have that many: use more data"
        )
    chosen = random.permutation(enough)[: None if samples is None else samples // LEAST]
    each = len(labels) if samples is None else samples // len(chosen)
    shuffled = labels[order]
    fit, judging = [], []
    for label in np.sort(chosen):
        own = order[shuffled == label][:each]
        first = int(len(own) * (1 - held_out))
        fit.append(own[:first])
        judging.append(own[first:])
    return random.permutation(np.concatenate(fit)), np.concatenate(judging)

"""Metrics of samples against one reference, on one process or many.

    evaluator = Evaluator("VIRTUAL_imagenet256_labeled.npz")       # on every process
    scores = evaluator.evaluate(batches)                           # on every process
    scores.metrics["fid"]                                          # on the first; None elsewhere

The features of the reference are computed once, so that an evaluator can score many sets of
samples, as in the evaluation of a network during training.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from evaluation.features import extract
from evaluation.inception import Inception
from evaluation.metric_inception_score import SPLIT
from evaluation.options import MetricOptions, NetworkOptions, check_metrics
from evaluation.reference import load_reference
from evaluation.scoring import K, Real, Scores, score
from runtime.processes import Processes, choose_device

if TYPE_CHECKING:
    from evaluation.dinov2 import DinoV2


class Evaluator:
    """Scorer of sets of samples against one reference, by the features of networks.

    Args:
        reference: an .npz in ADM's format, or any set of images.
        options: what else is wanted, and where the networks' weights are.
        device: where networks run; this process's GPU, if there is one, unless given.

    Raises `ValueError` when the reference or the weights cannot be used. Every process makes one.
    """

    def __init__(
        self,
        reference: str,
        options: MetricOptions | None = None,
        device: torch.device | str | None = None,
    ):
        self.options = options or MetricOptions()
        check_metrics(self.options)
        self.reference = load_reference(reference)
        self._check_reference()
        self.device = torch.device(device) if device else choose_device()
        self.extractors = load_extractors(self.options)
        self.inception = cast(Inception, self.extractors[0])
        self.warnings = [w for w in (self.inception.warning(),) if w]
        self._check_statistics()
        for extractor in self.extractors:
            extractor.to(self.device)
        self.processes = Processes()
        self.real: Real | None = None

    @property
    def pr_dtype(self) -> str:
        """Return the arithmetic of precision's and recall's distances."""
        return self.options.pr_dtype

    @property
    def features(self) -> set[str]:
        """Return the names of the features whose mean and covariance are wanted."""
        return {"pool", "spatial"} | ({"dinov2"} if self.options.fd_dinov2 else set())

    def _check_reference(self) -> None:
        where, images, o = f"reference {self.reference.path}", self.reference.images, self.options
        if images and images.shape[2] != 3:
            raise ValueError(f"{where}: images of one channel, Inception needs RGB")
        if images and len(images) < K + 1:
            raise ValueError(f"{where}: {len(images)} images, precision and recall need {K + 1}")
        dinov2 = o.fd_dinov2 and "dinov2" not in self.reference.statistics
        for flag, given in {
            "--kid": o.kid, "--per-class": o.per_class, "--fd-dinov2": dinov2,
        }.items():  # fmt: skip
            if given and not images:
                raise ValueError(f"{flag} needs images, and {where} holds none")
        if o.per_class and (not images or images.labels is None):
            raise ValueError(f"--per-class needs labels, and {where} holds none")
        if o.fd_dinov2 and "dinov2" in self.reference.statistics:
            self._check_recipe("dinov2_model", o.dinov2_model)

    def _check_recipe(self, key: str, here: str) -> None:
        """Raise `ValueError` if stored statistics were made with other settings than used here."""
        there = (self.reference.recipe or {}).get(key, here)
        if self.reference.statistics and there != here:
            raise ValueError(
                f"reference {self.reference.path} was made with another {key}: {there}, not {here}"
            )

    def _check_statistics(self) -> None:
        """Raise `ValueError` unless the stored statistics were made with these networks."""
        where, stored = f"reference {self.reference.path}", self.reference.statistics
        self._check_recipe("inception_sha256", self.inception.sha256)
        sizes = {name: size for e in self.extractors for name, size in e.sizes.items()}
        for name, (mean, _) in stored.items():
            if len(mean) != sizes.get(name, len(mean)):
                raise ValueError(
                    f"{where}: statistics of {len(mean)} {name} features, the network has "
                    f"{sizes[name]}"
                )

    def prepare(self) -> None:
        """Compute the needed features of the reference's images, once; a collective."""
        if self.real is not None:
            return
        images, statistics = self.reference.images, dict(self.reference.statistics)
        self.real = Real(statistics)
        if not images:
            return
        batches = self.processes.batches(images.images, self.options.batch_size, "reference")
        missing = self.features - set(statistics)
        features = extract(self.extractors, batches, missing, {"pool"}, self.device, self.processes)
        if features:
            statistics |= {name: features.statistics(name) for name in features.moments}
            computed = dict.fromkeys(features.moments, len(images))
            self.real = Real(statistics, features.kept["pool"], images.labels, computed)

    def evaluate(
        self, batches: Iterable[np.ndarray | Tensor], labels: np.ndarray | None = None
    ) -> Scores | None:
        """Return scores of samples on the first process, None on the others; a collective.

        Args:
            batches: this process's samples, uint8 (N, H, W, 3) with any N. Inception Score takes
                its splits in order of the processes, and batch by batch within each.
            labels: of all samples in that order (N,), to warn if they are sorted and for
                precision and recall within classes.

        Raises `ValueError` for images of another size than the reference's.
        """
        self.prepare()
        features = extract(
            self.extractors,
            self.checked(batches),
            self.features,
            {"pool", "logits"},
            self.device,
            self.processes,
        )
        if features is None:
            return None
        assert self.real is not None  # prepared on the first process
        scores = score(features, labels, self.real, self.options, self.device)
        scores.warnings += self.warnings
        return scores

    def checked(self, batches: Iterable[np.ndarray | Tensor]) -> Iterator[np.ndarray | Tensor]:
        """Yield the batches; raise `ValueError` for one of another size than the reference's."""
        for batch in batches:
            if len(batch):
                self.check_shape(tuple(batch.shape[1:]), "a batch of the samples")
            yield batch

    def check_shape(self, shape: tuple[int, int, int], name: str) -> None:
        """Raise `ValueError` unless samples of (H, W, C), called `name`, can be compared."""
        self.reference.check_shape(shape, name)

    def summary(self) -> str:
        """Return a line about the reference."""
        return self.reference.summary()

    def describe(self, scores: Scores) -> dict:
        """Return the reference and the protocol, for the record of these scores."""
        return {"reference": self.reference.describe(), "protocol": self.protocol()}

    def protocol(self) -> dict:
        """Return how the numbers were computed, for their record."""
        o = self.options
        about = {
            "inception_sha256": self.inception.sha256,
            "inception_score_split": SPLIT,
            "neighbours": K,
            "pr_dtype": o.pr_dtype,
            "batch_size": o.batch_size,
            "processes": self.processes.count,
            "device": self.device.type,
            "versions": {"torch": torch.__version__, "torch-fidelity": version("torch-fidelity")},
        }
        if o.fd_dinov2:
            about["dinov2"] = {"model": o.dinov2_model, "weights": o.dinov2_weights or "timm's"}
        return about | ({"bootstrap": o.bootstrap} if o.bootstrap else {})


def load_extractors(o: NetworkOptions) -> "list[Inception | DinoV2]":
    """Load the networks, Inception first; raise `ValueError` when weights cannot be loaded."""
    extractors: list = [Inception(o.inception_weights)]
    if o.fd_dinov2:
        from evaluation.dinov2 import DinoV2

        extractors.append(DinoV2(o.dinov2_weights, o.dinov2_model))
    return extractors

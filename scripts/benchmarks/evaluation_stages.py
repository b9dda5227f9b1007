"""The stages of an evaluation on features of real sizes, each timed on a part of its work.

Features are random and so are Inception's weights, unless a file of them is given: neither changes
the time.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

COUNT, REFERENCE = 50_000, 10_000  # samples, and images of the reference


@dataclass(frozen=True)
class StageConfig:
    stages: tuple[str, ...] = ()
    """which of extraction, moments, root, sqrtm, inception_score, precision_recall_float16,
    precision_recall_float32, bootstrap; all unless given"""
    part: float = 0.1
    """share of the 50,000 samples and 10,000 reference images that is measured"""
    images: int = 32
    """images of 256x256 that Inception is timed on"""
    batch_size: int = 16
    """images in a batch of Inception"""
    inception_weights: str | None = None
    """Inception's weights, random unless given"""


@dataclass(frozen=True)
class Timing:
    measured: str
    seconds: float
    factor: float = 1.0
    """how many times longer the whole stage takes"""


def random_features(count: int, size: int, seed: int = 0):
    import numpy as np

    return np.random.default_rng(seed).standard_normal((count, size), dtype=np.float32)


def clocked(work) -> float:
    """Return the seconds that `work` takes, on a GPU the second time it runs."""
    import torch

    if torch.cuda.is_available():
        work()
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def save_random_inception(path: str | Path) -> None:
    """Save random weights with which features keep their scale from layer to layer."""
    import torch
    from torch import nn
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    network_class = inception.FeatureExtractorInceptionV3
    with (
        patch.object(inception, "load_state_dict_from_url"),  # it loads weights when it is made
        patch.object(network_class, "load_state_dict"),
    ):
        network = network_class("inception-v3-compat", ["2048"])
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    nn.init.normal_(network.fc.weight, std=0.1)
    torch.save(network.state_dict(), path)


def extraction(b: StageConfig) -> Timing:
    import numpy as np

    from evaluation.features import FeaturePass
    from evaluation.inception import Inception
    from runtime.processes import choose_device

    device = choose_device()
    with TemporaryDirectory() as folder:
        weights = b.inception_weights or f"{folder}/random.pth"
        if b.inception_weights is None:
            save_random_inception(weights)
        network = Inception(weights).to(device)
    images = np.random.default_rng(0).integers(0, 256, (b.images, 256, 256, 3), dtype=np.uint8)

    def work():
        features = FeaturePass([network], set(), {"pool", "logits"}, device)
        for start in range(0, b.images, b.batch_size):
            features.add(images[start : start + b.batch_size])

    seconds = clocked(work)
    measured = f"{b.images:,} images of 256x256, {b.images / seconds:.1f} images/s"
    return Timing(measured, seconds, COUNT / b.images)


def moments(b: StageConfig) -> Timing:
    import torch

    from evaluation.moments import Moments
    from runtime.processes import choose_device

    device, count = choose_device(), int(COUNT * b.part)
    features = [torch.from_numpy(random_features(count, size)).to(device) for size in (2048, 2023)]

    def work():
        for feature in features:
            sums = Moments(feature.shape[1], device)
            for batch in feature.split(64):
                sums.add(batch)

    measured = f"{count:,} x (2048 + 2023), batches of 64, float64"
    return Timing(measured, clocked(work), COUNT / count)


def covariances():
    """Return two covariances of full rank, 2048 x 2048."""
    import numpy as np

    scales = np.linspace(0.1, 2, 2048)
    results = []
    for seed in (0, 1):
        features = random_features(6000, 2048, seed) * scales
        results.append(np.cov(features, rowvar=False, dtype=np.float64))
    return results


def root(b: StageConfig) -> Timing:
    import numpy as np

    from evaluation import frechet_distance

    (a, c), mean = covariances(), np.zeros(2048)
    return Timing(
        "2048 x 2048, by eigenvalues", clocked(lambda: frechet_distance(mean, a, mean, c))
    )


def sqrtm(b: StageConfig) -> Timing:
    from scipy import linalg

    a, c = covariances()
    return Timing("2048 x 2048, scipy.linalg.sqrtm", clocked(lambda: linalg.sqrtm(a @ c)))


def inception_score(b: StageConfig) -> Timing:
    import torch

    from evaluation import inception_score

    logits = torch.from_numpy(random_features(int(COUNT * b.part), 1008))
    seconds = clocked(lambda: inception_score(logits.softmax(dim=1).numpy()))
    return Timing(f"{len(logits):,} x 1008", seconds, COUNT / len(logits))


def precision_recall(b: StageConfig, dtype: str) -> Timing:
    from evaluation import precision_recall
    from runtime.processes import choose_device

    made, real = (random_features(int(n * b.part), 2048) for n in (COUNT, REFERENCE))
    seconds = clocked(lambda: precision_recall(real, made, 3, dtype, choose_device()))
    measured = f"{len(made):,} x {len(real):,} x 2048, {dtype}"
    return Timing(measured, seconds, (COUNT / len(made)) ** 2)


def bootstrap(b: StageConfig) -> Timing:
    import numpy as np

    from evaluation.bootstrap import weighted_statistics
    from evaluation.metric_frechet import distance_from_root
    from evaluation.metric_frechet import root as root_of
    from runtime.processes import choose_device

    features = random_features(int(COUNT * b.part), 2048)
    counts = np.ones(len(features), dtype=np.int64)
    seconds = clocked(lambda: weighted_statistics(features, counts, choose_device()))
    (a, c), mean = covariances(), np.zeros(2048)
    a_root = root_of(a)
    distance = clocked(lambda: distance_from_root(mean, a, a_root, mean, c))
    factor = (seconds * COUNT / len(features) + distance) / (seconds + distance)
    return Timing(f"{len(features):,} x 2048, one resample", seconds + distance, factor)


STAGES = {
    "extraction": extraction,
    "moments": moments,
    "root": root,
    "sqrtm": sqrtm,
    "inception_score": inception_score,
    "precision_recall_float16": lambda b: precision_recall(b, "float16"),
    "precision_recall_float32": lambda b: precision_recall(b, "float32"),
    "bootstrap": bootstrap,
}

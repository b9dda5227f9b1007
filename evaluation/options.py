"""What can be asked for beyond ADM's five numbers. No torch here: --help answers at once."""

from dataclasses import dataclass
from typing import Literal

DINOV2 = "vit_large_patch14_dinov2.lvd142m"  # of FD-DINOv2, by timm's name


@dataclass(frozen=True)
class NetworkOptions:
    inception_weights: str | None = None
    """file with torch-fidelity's Inception weights; they are downloaded once unless given"""
    fd_dinov2: bool = False
    """DINOv2 features too, for FD-DINOv2"""
    dinov2_weights: str | None = None
    """file with the DINOv2 network's weights; they are downloaded once unless given"""
    dinov2_model: str = DINOV2
    """timm's name of the DINOv2 network"""
    batch_size: int = 64
    """images that go through a network at a time, on each process"""


@dataclass(frozen=True)
class MetricOptions(NetworkOptions):
    pr_dtype: Literal["float16", "float32"] = "float16"
    """arithmetic of precision's and recall's distances; ADM's is float16"""
    kid: bool = False
    """Kernel Inception Distance too, between samples and the reference's images"""
    per_class: bool = False
    """precision and recall within each class too, into the metrics file; needs labels"""
    bootstrap: int = 0
    """resamples for 95% intervals of FID and IS; 0: none"""
    fid_at: tuple[int, ...] = ()
    """FID of the first N samples too, for each N given"""


def check_networks(o: NetworkOptions) -> None:
    """Everything that can be said without files; `ValueError` names the flag."""
    if o.batch_size < 1:
        raise ValueError(f"--batch-size {o.batch_size}: must be at least 1")
    if o.dinov2_weights and not o.fd_dinov2:
        raise ValueError("--dinov2-weights is of no use without --fd-dinov2")


def check_metrics(o: MetricOptions) -> None:
    check_networks(o)
    if o.bootstrap < 0 or o.bootstrap == 1:
        raise ValueError(f"--bootstrap {o.bootstrap}: must be 0 or at least 2")
    for count in o.fid_at:
        if count < 2:
            raise ValueError(f"--fid-at {count}: must be at least 2")

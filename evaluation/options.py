"""Options of an evaluation beyond ADM's five numbers. No torch here: --help answers at once."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from runtime.flags import COMMON, Range, check_ranges, flag

DINOV2 = "vit_large_patch14_dinov2.lvd142m"  # of FD-DINOv2, by timm's name
IN_PIXELS = ("batch_size",)  # options that act in pixel space too


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


RANGES = COMMON | {"fid_at": Range(2, 10**12)}


def check_networks(o: NetworkOptions) -> None:
    """Check all that needs no files; raise `ValueError`, which names the flag."""
    check_ranges(o, RANGES)
    for name in ("dinov2_weights", "dinov2_model"):
        if getattr(o, name) != getattr(NetworkOptions, name) and not o.fd_dinov2:
            raise ValueError(f"{flag(name)} is of no use without --fd-dinov2")


def check_metrics(o: MetricOptions, pixels: bool = False) -> None:
    """Check all that needs no files; in pixel space, refuse flags about networks."""
    if pixels:
        for field in dataclasses.fields(o):
            value = getattr(o, field.name)
            if field.name not in IN_PIXELS and value != field.default:
                words = value if isinstance(value, tuple) else (value,)
                given = "" if value is True else " " + " ".join(map(str, words))
                raise ValueError(
                    f"{flag(field.name)}{given}: it has no effect in pixel space (--pixels, or "
                    f"digits); leave it out"
                )
    check_networks(o)
    if o.bootstrap not in range(2, 2**20) and o.bootstrap != 0:
        raise ValueError(f"--bootstrap {o.bootstrap}: must be 0 or at least 2, under a million")

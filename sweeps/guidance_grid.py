"""Points of a sweep of guidance: scales x intervals, and one point without guidance."""

import dataclasses
from dataclasses import dataclass

from sampling.sample_config import ODE, SDE
from sweeps.cells import plain
from sweeps.grid_values import exact

EVERYWHERE = (0.0, 1.0)


@dataclass(frozen=True)
class GuidanceGrid:
    """The scales and intervals of a sweep."""

    scales: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    """guidance scales; 1 is no guidance"""
    intervals: tuple[str, ...] = ("0:1",)
    """LOW:HIGH, guided at these times only (t = 0 is noise); 0:1 is everywhere"""


@dataclass(frozen=True, order=True)
class GuidancePoint:
    """One set of samples: its guidance scale and interval."""

    scale: float
    interval: tuple[float, float] = EVERYWHERE

    @property
    def name(self) -> str:
        if self.interval == EVERYWHERE:
            return exact(self.scale)
        return f"{exact(self.scale)}-on-{exact(self.interval[0])}-{exact(self.interval[1])}"

    def settings(self) -> dict:
        return plain({"scale": self.scale, "interval": self.interval})

    @staticmethod
    def of(settings: dict) -> "GuidancePoint":
        return GuidancePoint(settings["scale"], tuple(settings["interval"]))

    def applied(self, c: ODE | SDE) -> ODE | SDE:
        interval = None if self.interval == EVERYWHERE else self.interval
        return dataclasses.replace(c, cfg_scale=self.scale, guidance_interval=interval)

    def flags(self, c: ODE | SDE) -> list[str]:
        """Return flags of sample_ddp.py, to come after those of `c`."""
        words = ["--cfg-scale", f"{self.scale!r}"]
        if self.interval != EVERYWHERE:
            words += ["--guidance-interval", *(f"{t!r}" for t in self.interval)]
        elif c.guidance_interval:  # a preset's, which is taken back
            words += ["--guidance-interval", "None"]
        return words


def guidance_points(g: GuidanceGrid) -> list[GuidancePoint]:
    """Return the grid's points, each once; raise `ValueError` for an empty grid."""
    for name in ("scales", "intervals"):
        if not getattr(g, name):
            raise ValueError(f"--{name}: none is given, so there is nothing to sample")
    for scale in g.scales:
        if not 1 <= scale < float("inf"):
            raise ValueError(f"--scales {scale:g}: each must be at least 1, which is no guidance")
    intervals = [read_interval(text) for text in g.intervals]
    points = [
        GuidancePoint(scale, interval if scale > 1 else EVERYWHERE)
        for scale in g.scales
        for interval in intervals
    ]
    return list(dict.fromkeys(points))


def read_interval(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise ValueError(f"--intervals {text}: write LOW:HIGH, as in 0.3:1") from None
    if not 0 <= low < high <= 1:
        raise ValueError(
            f"--intervals {text}: it must be two times LOW < HIGH in [0, 1]; t = 0 is noise"
        )
    return low, high

"""Points of the rows that are asked for, and the settings that their folder shares."""

import dataclasses
from dataclasses import dataclass, field

from sweeps.paper_settings import Added


@dataclass(frozen=True)
class PaperConfig:
    """Everything that all rows of a folder share."""

    ref: str | None = None
    """the reference: ADM's VIRTUAL_imagenet256_labeled.npz"""
    folder: str = "results/reproduce"
    """everything is written in here"""
    miniature: bool = False
    """small rows instead, on the embedded digits (sweeps/paper_miniature.py)"""
    added: Added = field(default_factory=Added)
    repa_features: str | None = None
    """cached features for the rows with REPA, as train.py's --repa-features"""
    keep_samples: bool = False
    """keep the samples' .npz, which is otherwise removed when it is evaluated"""


@dataclass(frozen=True)
class PaperGrid:
    """Rows that are asked for."""

    rows: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    data_path: str | None = None
    """what they train on, as train.py's --data-path"""
    checkpoint: str | None = None
    """weights to start from at sampling"""


@dataclass(frozen=True)
class PaperPoint:
    """A row's variant and seed, and where its network comes from."""

    row: str
    variant: str = ""
    seed: int = 0
    data: str | None = None
    checkpoint: str | None = None
    weights: str | None = None
    """SHA-256 of the checkpoint's weights"""

    @property
    def name(self) -> str:
        parts = [self.row, self.variant, f"seed{self.seed}"]
        return "-".join(filter(None, [*parts, self.weights and f"from-{self.weights[:8]}"]))

    def settings(self) -> dict:
        return dataclasses.asdict(self)

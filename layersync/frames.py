"""CREPA's alignment of frames: cosines of a frame with its own and its neighbours' (Eq. 6 there).

    c[i, j] = mean over tokens n of cos(p[i, n], f[j, n])
    S_i = c[i, i] + sum over neighbours j of exp(-|i - j| / tau) c[i, j]

p are the student's projected tokens, f the teacher's, both (B, T, N, D). The definitions are those
of SimpleTuner's CREPA with backbone features, the resampling to common frames and tokens included.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layersync.schedule import is_number


@dataclass(frozen=True)
class Neighbours:
    """The choice of frames that count, and how they are added up; the names are SimpleTuner's.

    Args:
        adjacent_distance: d, how many frames the neighbours are away; 0 for none. At most the
            number of frames less one is used.
        adjacent_tau: tau > 0; a neighbour at distance o has the weight exp(-o / tau).
        cumulative_neighbors: all distances 1..d instead of d alone.
        normalize_by_frames: the mean of S over a video's frames instead of the sum.
        normalize_neighbour_sum: S divided by the sum of its weights, which keeps it in [-1, 1].
        spatial_align: where the numbers of tokens differ, resample to the smaller one; else
            compare the mean tokens.

    Raises `ValueError` or `TypeError` that names the setting and its value.
    """

    adjacent_distance: int = 1
    adjacent_tau: float = 1.0
    cumulative_neighbors: bool = False
    normalize_by_frames: bool = True
    normalize_neighbour_sum: bool = False
    spatial_align: bool = True

    def __post_init__(self):
        distance, tau = self.adjacent_distance, self.adjacent_tau
        if type(distance) is not int or distance < 0:
            raise ValueError(f"adjacent_distance: {distance!r} must be a number of frames, 0 or up")
        if not is_number(tau) or tau <= 0:
            raise ValueError(f"adjacent_tau: {tau!r} must be a finite number above 0")
        for name, value in vars(self).items():
            if name not in ("adjacent_distance", "adjacent_tau") and type(value) is not bool:
                raise TypeError(f"{name}: expected True or False, got {value!r}")

    def offsets(self, frames: int) -> list[int]:
        """Return the distances of neighbours in a video of so many frames."""
        d = min(self.adjacent_distance, frames - 1)
        return list(range(1 if self.cumulative_neighbors else max(d, 1), d + 1))

    def scores(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return S and c[i, i] of each frame, both (B, T), of unit tokens (B, T, N, D)."""
        own = mean_cosine(student, teacher)  # (B, T)
        total, weights = own, torch.ones_like(own[:1])
        for o in self.offsets(own.shape[1]):
            weight = math.exp(-o / self.adjacent_tau)
            ahead = mean_cosine(student[:, :-o], teacher[:, o:])  # (B, T - o): c[i, i + o]
            behind = mean_cosine(student[:, o:], teacher[:, :-o])  # c[i, i - o]
            total = total + weight * (F.pad(ahead, (0, o)) + F.pad(behind, (o, 0)))
            there = weight * torch.ones_like(ahead[:1])
            weights = weights + F.pad(there, (0, o)) + F.pad(there, (o, 0))
        return (total / weights if self.normalize_neighbour_sum else total), own

    def per_video(self, scores: Tensor) -> Tensor:
        """Return the mean or sum over frames, (B,), of scores (B, T)."""
        return scores.mean(dim=1) if self.normalize_by_frames else scores.sum(dim=1)


def as_video(states: Tensor, frames: int | None, mode: str | None) -> Tensor:
    """Return states (B, T, N, D), or (B, T N, D), as (B, T, N, D).

    Args:
        frames: T, or None if the states say it, or `mode` does.
        mode: how (B, S, D) is read without `frames`: "image", (B, 1, S, D); "video", (B, S, 1, D).

    Raises `ValueError`, without the name of the block, where frames cannot be told.
    """
    shape = tuple(states.shape)
    if states.dim() == 4:
        if frames is not None and frames != shape[1]:
            raise ValueError(f"returned {shape[1]} frames, {shape}, not frames={frames}")
        return states
    if frames is not None:
        if shape[1] % frames:
            raise ValueError(
                f"returned {shape[1]} tokens, {shape}, which frames={frames} does not divide; "
                f"count latent frames, and drop text tokens with select"
            )
        return states.unflatten(1, (frames, -1))
    if mode is None:
        raise ValueError(
            f"returned {shape}, in which frames cannot be told from tokens; say how many latent "
            f"frames there are with frames=, 1 for images"
        )
    return states.unsqueeze(1 if mode == "image" else 2)


def mean_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over tokens of the products of unit tokens (B, T, N, D), (B, T)."""
    return (student * teacher).sum(dim=-1).mean(dim=-1)


def same_frames(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Choose as many frames, evenly spaced, of the longer one as the other has."""
    frames = min(student.shape[1], teacher.shape[1])
    return pick_frames(student, frames), pick_frames(teacher, frames)


def pick_frames(states: Tensor, frames: int) -> Tensor:
    """Return the frames trunc(linspace(0, T - 1, frames)) of (B, T, N, D), in float32."""
    if states.shape[1] == frames:
        return states
    index = torch.linspace(0, states.shape[1] - 1, frames).long()  # 17 -> 15: index 7 is 7
    return states.index_select(1, index.to(states.device))


def same_tokens(student: Tensor, teacher: Tensor, resample: bool) -> tuple[Tensor, Tensor]:
    """Bring both to the smaller number of tokens, or to their mean if not `resample`."""
    counts = student.shape[2], teacher.shape[2]
    if counts[0] == counts[1]:
        return student, teacher
    if not resample:
        return student.mean(dim=2, keepdim=True), teacher.mean(dim=2, keepdim=True)
    return resample_tokens(student, min(counts)), resample_tokens(teacher, min(counts))


def resample_tokens(states: Tensor, count: int) -> Tensor:
    """Interpolate (B, T, N, D) to `count` tokens: as square maps if both are, else in a row."""
    batch, frames, tokens, _ = states.shape
    if tokens == count:
        return states
    rows = states.flatten(0, 1).transpose(1, 2)  # (B T, D, N)
    side, new_side = math.isqrt(tokens), math.isqrt(count)
    if side**2 == tokens and new_side**2 == count:
        maps = rows.unflatten(2, (side, side))
        rows = F.interpolate(maps, size=(new_side, new_side), mode="bilinear").flatten(2)
    else:
        rows = F.interpolate(rows, size=count, mode="linear")
    return rows.transpose(1, 2).unflatten(0, (batch, frames))


def check_frames(frames: int | None) -> int | None:
    if frames is not None and (type(frames) is not int or frames < 1):
        raise ValueError(f"frames: {frames!r} must be a number of frames, 1 or more")
    return frames

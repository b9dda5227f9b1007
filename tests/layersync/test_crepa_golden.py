"""CREPA: SimpleTuner's own numbers, forward and backward."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from emitting import Emit

from layersync import CREPA, Schedule

GOLDEN = Path(__file__).parents[1] / "golden" / "crepa_small.npz"
with np.load(GOLDEN) as arrays:
    ARRAYS = dict(arrays)
CASES = {case["name"]: case for case in map(json.loads, ARRAYS["settings"])}
GRADIENTS = sorted({key.split("/")[1] for key in ARRAYS if "/grad/" in key})
PROJECTOR = {
    "norm_weight": "projector.0.weight",
    "norm_bias": "projector.0.bias",
    "linear_weight": "projector.1.weight",
    "linear_bias": "projector.1.bias",
}


def golden(key):
    return torch.from_numpy(np.array(ARRAYS[key]))


def with_weights(crepa, prefix="projector/"):
    weights = {theirs: golden(prefix + ours) for ours, theirs in PROJECTOR.items()}
    crepa.load_state_dict(weights | crepa.coefficient.state_dict())
    return crepa


def golden_crepa(case, **changes):
    """The CREPA of a golden case, and its student's states, which need a gradient."""
    student = golden(f"in/{case['in']}/student").requires_grad_()
    blocks = [Emit(student), Emit(golden(f"in/{case['in']}/teacher"))]
    schedule = Schedule(
        weight=case["lambda"],
        scheduler=case.get("scheduler", "constant"),
        warmup_steps=case.get("warmup_steps", 0),
        decay_steps=case.get("decay_steps"),
        weight_end=case.get("lambda_end", 0.0),
        convention="simpletuner",
    )
    options = dict(
        width=16,
        mode=case["mode"],
        adjacent_distance=case["distance"],
        adjacent_tau=case["tau"],
        cumulative_neighbors=case["cumulative"],
        normalize_by_frames=case["by_frames"],
        normalize_neighbour_sum=case["norm_sum"],
        spatial_align=case["spatial_align"],
        schedule=schedule,
    )
    crepa = with_weights(CREPA(blocks, (1, 2), **options | changes))
    with crepa.capture():
        _ = [block() for block in blocks]
    return crepa, student


def near(actual, expected, tolerance=1e-5):
    actual, expected = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
    assert (actual - expected).norm() <= tolerance * expected.norm().clamp(min=1e-3)


def test_every_golden_case_is_there():
    assert len(CASES) == 22 and len(GRADIENTS) == 5


@pytest.mark.parametrize("name", CASES)
def test_loss_and_logs_are_golden(name):
    crepa, _ = golden_crepa(CASES[name])
    loss = crepa.loss(step=CASES[name]["step"])
    logs, expected = crepa.logs(), f"case/{name}/"
    near(loss, golden(expected + "loss"))
    near(logs["crepa_loss"], golden(expected + "loss"))
    near(logs["crepa_alignment_score"], golden(expected + "alignment_score"))
    near(logs["crepa_similarity_self"], golden(expected + "similarity_self"))
    near(logs["crepa_weight"], golden(expected + "weight"))
    near(logs["crepa_alignment_score_ema"], golden(expected + "alignment_score"))  # the first
    near(crepa.similarity()[(1, 2)], golden(expected + "similarity_self"))
    assert logs["crepa_cutoff"] is False


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_golden(name):
    crepa, student = golden_crepa(CASES[name])
    crepa.loss(step=CASES[name]["step"]).backward()
    near(student.grad, golden(f"case/{name}/grad/student"), 1e-4)
    parameters = dict(crepa.projector.named_parameters(prefix="projector"))
    for ours, theirs in PROJECTOR.items():
        near(parameters[theirs].grad, golden(f"case/{name}/grad/{ours}"), 1e-4)


def test_frames_are_chosen_as_float32_rounds():
    from layersync.frames import pick_frames

    states = torch.arange(17.0).view(1, 17, 1, 1)
    chosen = pick_frames(states, 15).flatten().int().tolist()
    assert chosen[7] == 7 and len(chosen) == 15 and chosen[0] == 0 and chosen[-1] == 16

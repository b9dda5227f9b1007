"""lambda over training in the library: SimpleTuner's numbers, closed forms, the state."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from layersync import CREPA, LayerSync, Schedule, ScheduledWeight

with np.load(Path(__file__).parents[1] / "golden" / "crepa_small.npz") as arrays:
    ARRAYS = dict(arrays)
SETTINGS = json.loads(str(ARRAYS["schedule/settings"][0]))
CUTOFF = json.loads(str(ARRAYS["cutoff/settings"][0]))
KINDS = "constant", "linear", "cosine", "polynomial"


@pytest.mark.parametrize("whole_run", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_simpletuners_schedules_are_golden(kind, whole_run):
    schedule = Schedule(
        weight=SETTINGS["lambda"],
        scheduler=kind,
        warmup_steps=SETTINGS["warmup"],
        decay_steps=SETTINGS["max_train_steps" if whole_run else "decay"],
        weight_end=SETTINGS["lambda_end"],
        power=SETTINGS["power"],
        convention="simpletuner",
    )
    actual = [schedule.at(int(step)) for step in ARRAYS["schedule/steps"]]
    expected = ARRAYS[f"schedule/{kind}{'_whole_run' if whole_run else ''}"]
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)
    assert actual[0] == 0


@pytest.mark.parametrize("by", ["", "_step", "_both"])
@pytest.mark.parametrize("mode", ["permanent", "recoverable"])
def test_simpletuners_cutoffs_are_golden(mode, by):
    weight = ScheduledWeight(
        Schedule(
            weight=CUTOFF["lambda"],
            scheduler=CUTOFF["scheduler"],
            warmup_steps=CUTOFF["warmup"],
            decay_steps=CUTOFF["decay"],
            weight_end=CUTOFF["lambda_end"],
            cutoff_step=CUTOFF["cutoff_step"] if by else None,
            similarity_threshold=None if by == "_step" else CUTOFF["threshold"],
            similarity_decay=CUTOFF["ema_decay"],
            threshold_mode=mode,
            convention="simpletuner",
        )
    )
    actual, averages = [], []
    for step, similarity in enumerate(ARRAYS["cutoff/similarity"]):
        actual.append(float(weight.step(torch.tensor(similarity), step)))
        averages.append(weight.average.item())
    np.testing.assert_allclose(actual, ARRAYS[f"cutoff/{mode}{by}/weight"], rtol=1e-12, atol=1e-15)
    if not by:
        np.testing.assert_allclose(averages, ARRAYS[f"cutoff/{mode}/ema"], rtol=1e-12)
        assert 0 in actual[:-1] and actual[2] > 0  # or the threshold would not be tested


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("linear", lambda p: 1 - p),
        ("cosine", lambda p: (1 + math.cos(math.pi * p)) / 2),
        ("polynomial", lambda p: (1 - p) ** 3),
    ],
)
def test_this_projects_warm_up_is_one_step_ahead_and_the_decay_alike(kind, form):
    schedule = Schedule(0.5, kind, warmup_steps=2, decay_steps=6, weight_end=0.1, power=3.0)
    actual = [schedule.at(step) for step in range(9)]
    assert actual[:2] == [0.25, 0.5]
    assert actual[2:] == pytest.approx([0.1 + 0.4 * form(min(1, p / 4)) for p in range(7)])


@pytest.mark.parametrize(
    ("convention", "threshold", "expected"),
    [("layersync", 0.5, [1, 1, 0, 0]), ("simpletuner", 0.5, [1, 0, 0, 1])],
)
def test_the_average_counts_from_the_next_step_or_in_the_same(convention, threshold, expected):
    """With decay 0 the average is the last similarity; 0.5 is over the threshold in one only."""
    weight = ScheduledWeight(
        Schedule(
            similarity_threshold=threshold,
            similarity_decay=0.0,
            threshold_mode="recoverable",
            convention=convention,
        )
    )
    similarities = torch.tensor([0.4, 0.6, 0.7, 0.3])
    assert [float(weight.step(s, None)) for s in similarities] == expected
    at = ScheduledWeight(Schedule(similarity_threshold=0.5, convention=convention))
    at.update(torch.tensor(0.5))
    assert float(at.at(None)) == (1 if convention == "layersync" else 0)


def test_this_projects_average_is_unbiased_from_the_first_value():
    weight = ScheduledWeight(Schedule(similarity_threshold=0.9, similarity_decay=0.9))
    values = [0.2, 0.8, 0.5]
    for value in values:
        weight.update(torch.tensor(value))
    powers = [0.9**2, 0.9, 1.0]
    expected = sum(p * v for p, v in zip(powers, values, strict=True)) / sum(powers)
    assert weight.average.item() == pytest.approx(expected, rel=1e-6)


def test_the_state_is_three_numbers_that_a_new_one_goes_on_from():
    schedule = Schedule(similarity_threshold=0.5, similarity_decay=0.5)
    first, second = ScheduledWeight(schedule), ScheduledWeight(schedule)
    first.update(torch.tensor(0.9))
    state = first.state_dict()
    assert state.keys() == {"similarity_stop"}
    assert state["similarity_stop"].dtype == torch.float64
    torch.testing.assert_close(state["similarity_stop"], torch.tensor([0.45, 0.5, 0.0]).double())
    second.load_state_dict(state)
    for weight in (first, second):
        weight.update(torch.tensor(0.0))
    assert second.state.equal(first.state) and float(second.at(None)) == 0  # permanently
    assert ScheduledWeight(Schedule()).state_dict() == {}
    ScheduledWeight(Schedule()).load_state_dict({})
    with pytest.raises(ValueError, match="'similarity_stop' is missing"):
        second.load_state_dict({})
    with pytest.raises(ValueError, match="three numbers"):
        second.load_state_dict({"similarity_stop": torch.zeros(2)})


def test_the_mean_over_processes_is_what_counts():
    """Processes are those of the given collective; test_processes.py has real ones."""
    schedule = Schedule(similarity_threshold=0.5)
    weight = ScheduledWeight(schedule, reduce=lambda mean: (mean + 1.0) / 2)
    weight.update(torch.tensor(0.2))
    assert weight.average.item() == pytest.approx(0.6) and float(weight.at(None)) == 0


def captured(sync, x):
    with sync.capture():
        y = x
        for block in sync.blocks:
            y = block(y)
    return sync


@pytest.mark.parametrize("kind", [LayerSync, CREPA])
def test_both_regularisers_follow_a_schedule(kind):
    torch.manual_seed(0)
    blocks, x = [nn.Linear(8, 8) for _ in range(3)], torch.randn(2, 4, 8)
    schedule = Schedule(0.4, "linear", decay_steps=4, weight_end=0.0)
    options = dict(schedule=schedule)
    plain = {}
    if kind is CREPA:
        options |= dict(width=8, frames=2)
        plain = dict(width=8, frames=2)
    pair = (1, 3) if kind is CREPA else [(1, 3)]
    torch.manual_seed(1)
    scheduled = kind(blocks, pair, **options)
    torch.manual_seed(1)
    constant = kind(blocks, pair, **plain)
    whole = captured(constant, x).loss()
    for step, weight in enumerate([0.4, 0.3, 0.2, 0.1, 0.0]):
        loss = captured(scheduled, x).loss(step=step)
        torch.testing.assert_close(loss, weight * whole)
        name = f"{kind.__name__.lower()}_weight"
        assert scheduled.logs()[name] == pytest.approx(weight)
    loss.backward()  # lambda 0: of every parameter as well
    assert blocks[0].weight.grad.norm() == 0
    captured(scheduled, x)
    with pytest.raises(ValueError, match=r"step is missing.*loss\(step="):
        scheduled.loss()
    assert scheduled.loss(step=0).isfinite()  # the outputs are still there


@pytest.mark.parametrize("kind", [LayerSync, CREPA])
def test_a_threshold_switches_off_and_evaluation_does_not_count(kind):
    torch.manual_seed(0)
    blocks, x = [nn.Linear(8, 8) for _ in range(3)], torch.randn(2, 4, 8)
    schedule = Schedule(similarity_threshold=-2.0, convention="simpletuner")
    options = dict(width=8, frames=2) if kind is CREPA else {}
    pair = (1, 3) if kind is CREPA else [(1, 3)]
    sync = kind(blocks, pair, schedule=schedule, **options)
    with torch.no_grad():
        assert captured(sync, x).loss() != 0
    assert sync.state_dict()["similarity_stop"].tolist() == [0, 0, 1]
    assert captured(sync, x).loss() == 0
    assert sync.state_dict()["similarity_stop"][2] == 0
    other = kind(blocks, pair, schedule=schedule, **options)
    other.load_state_dict(sync.state_dict())
    with torch.no_grad():
        assert captured(other, x).loss() == 0
    if kind is CREPA:
        assert other.logs()["crepa_cutoff"] is True and other.logs()["crepa_loss"] == 0


def test_warm_up_from_zero_is_a_cutoff_at_step_0_in_simpletuners_logs():
    blocks, x = [nn.Linear(8, 8) for _ in range(3)], torch.randn(2, 4, 8)
    schedule = Schedule(warmup_steps=2, convention="simpletuner")
    crepa = CREPA(blocks, (1, 3), width=8, frames=2, schedule=schedule)
    logged = []
    for step in range(3):
        captured(crepa, x).loss(step=step)
        logged.append((crepa.logs()["crepa_weight"], crepa.logs()["crepa_cutoff"]))
    assert logged == [(0, True), (0.5, False), (1, False)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(weight=-1.0), r"weight -1\.0: it must be a finite"),
        (dict(weight=float("nan")), "weight nan"),
        (dict(weight="0.5"), "weight '0.5'"),
        (dict(scheduler="step"), "scheduler 'step'.*constant, linear, cosine, polynomial"),
        (dict(scheduler="linear"), "decay_steps is missing: the linear"),
        (dict(warmup_steps=-1), "warmup_steps -1"),
        (dict(warmup_steps=None), "warmup_steps None"),
        (dict(decay_steps=2.0), r"decay_steps 2\.0"),
        (dict(cutoff_step=-1), "cutoff_step -1"),
        (dict(power=0.0), r"power 0\.0"),
        (dict(similarity_threshold=float("inf")), "similarity_threshold inf"),
        (dict(similarity_decay=1.0), r"similarity_decay 1\.0"),
        (dict(threshold_mode="never"), "threshold_mode 'never'"),
        (dict(convention="other"), "convention 'other'"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**settings)


def test_a_step_below_0_is_refused_and_counts_for_nothing():
    """It gave a weight below 0: tokens that are driven apart."""
    blocks, x = nn.Sequential(*(nn.Linear(8, 8) for _ in range(2))), torch.ones(2, 3, 8)
    sync = LayerSync(blocks, [(1, 2)], schedule=Schedule(weight=0.5, warmup_steps=4))
    with sync.capture():
        blocks(x)
    with pytest.raises(ValueError, match="step -3: it must be a number of steps done"):
        sync.loss(step=-3)
    loss, similarity = sync.loss(step=3), sync.similarity()  # nothing was lost
    assert loss.item() == pytest.approx(-0.5 * similarity[1, 2])


@pytest.mark.parametrize("convention", ["layersync", "simpletuner"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_similarity_that_is_not_finite_does_not_count(convention, wrong):
    """One NaN, of a step that overflowed in float16, switched lambda off for ever."""
    settings = dict(weight=0.5, similarity_threshold=0.9, convention=convention)
    values = [0.5, 0.6, 0.7]
    expected, other = (ScheduledWeight(Schedule(**settings)) for _ in range(2))
    for value in values:
        expected.step(torch.tensor(value), None)
    for value in (wrong, *values[:2], wrong, values[2], wrong):
        weight = other.step(torch.tensor(value), None)
    assert other.average == expected.average and weight == 0.5

"""lambda over training: closed forms, the stop by similarity, and that a resumed run goes on."""

import dataclasses
import itertools
import math

import pytest
import torch
from launching import TINY_DIGITS, logged_rows

import train
from layersync import ScheduledWeight
from training.checks import check_train_config
from training.config import SaveConfig
from training.methods.schedule import RegScheduleConfig, reg_schedule
from training.tracking import read_log


def weights(steps=8, weight=0.5, **settings):
    c = RegScheduleConfig(**settings)
    schedule = reg_schedule(c, weight, last_step=steps)
    return [schedule.at(step) for step in range(steps + 1)]


def test_constant_is_the_default():
    assert weights() == [0.5] * 9


@pytest.mark.parametrize(
    ("scheduler", "form"),
    [
        ("linear", lambda p: 1 - p),
        ("cosine", lambda p: (1 + math.cos(math.pi * p)) / 2),
        ("polynomial", lambda p: (1 - p) ** 3),
    ],
)
def test_decays_from_warm_up_to_end_value(scheduler, form):
    actual = weights(
        reg_scheduler=scheduler, reg_warmup_steps=2, reg_decay_steps=6, reg_weight_end=0.1,
        reg_power=3.0,
    )  # fmt: skip
    assert actual[:3] == [0.25, 0.5, 0.5]
    expected = [0.1 + 0.4 * form((step - 2) / 4) for step in range(2, 7)]
    assert actual[2:7] == pytest.approx(expected)
    assert actual[7:] == pytest.approx([0.1, 0.1])


def test_reaches_the_end_with_the_run_unless_told_otherwise_and_can_be_cut_off():
    assert weights(steps=4, weight=1.0, reg_scheduler="linear") == [1, 0.75, 0.5, 0.25, 0]
    assert weights(steps=3, reg_cutoff_step=2) == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize(("mode", "expected"), [("permanent", "10000"), ("recoverable", "10011")])
def test_stops_over_a_threshold(mode, expected):
    """With decay 0.5 the averages of 0.2, 1, 0.4, 0, 0 are 0.2, 0.73, 0.55, 0.26, 0.13."""
    c = RegScheduleConfig(
        reg_similarity_threshold=0.5, reg_similarity_decay=0.5, reg_threshold_mode=mode
    )
    coefficient = ScheduledWeight(reg_schedule(c, 1.0, 5), lambda mean: mean, "cpu")
    assert coefficient.at(0) == 1
    actual = ""
    for similarity in (0.2, 1.0, 0.4, 0.0, 0.0):
        coefficient.update(torch.tensor(similarity))
        actual += str(int(coefficient.at(0)))
    assert actual == expected


def written_out(c, weight, step, last_step):
    """lambda as runs before the library had a schedule computed it, operation by operation."""
    if c.reg_cutoff_step is not None and step >= c.reg_cutoff_step:
        return 0.0
    if step < c.reg_warmup_steps:
        return weight * (step + 1) / c.reg_warmup_steps
    end = last_step if c.reg_decay_steps is None else c.reg_decay_steps
    done = min(1.0, (step - c.reg_warmup_steps) / max(1, end - c.reg_warmup_steps))
    left = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "polynomial": (1 - done) ** c.reg_power,
    }[c.reg_scheduler]
    end_weight = weight if c.reg_scheduler == "constant" else c.reg_weight_end
    return end_weight + (weight - end_weight) * left


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine", "polynomial"])
def test_the_numbers_of_earlier_runs_are_kept_bit_for_bit(scheduler):
    decays = scheduler != "constant"
    grid = itertools.product((0, 3, 7), (None, 11) if decays else (None,), (None, 13))
    for warmup, decay, cutoff in grid:
        c = RegScheduleConfig(
            reg_scheduler=scheduler, reg_warmup_steps=warmup, reg_decay_steps=decay,
            reg_cutoff_step=cutoff, reg_weight_end=0.07 if decays else 0.0, reg_power=1.7,
        )  # fmt: skip
        for last_step in (5, 17):
            schedule = reg_schedule(c, 0.3, last_step)
            steps = range(20)
            expected = [written_out(c, 0.3, step, last_step) for step in steps]
            assert [schedule.at(step) for step in steps] == expected


@pytest.mark.parametrize("mode", ["permanent", "recoverable"])
def test_the_average_of_earlier_runs_is_kept_bit_for_bit_and_their_state_is_read(mode):
    c = RegScheduleConfig(
        reg_similarity_threshold=0.5, reg_similarity_decay=0.9, reg_threshold_mode=mode
    )
    coefficient = ScheduledWeight(reg_schedule(c, 0.3, 9), lambda mean: mean, "cpu")
    state = torch.tensor([0.02, 0.1, 1.0], dtype=torch.float64)  # of a checkpoint
    coefficient.load_state_dict({"similarity_stop": state})
    for similarity in torch.rand(30, generator=torch.Generator().manual_seed(0)):
        average = 0.9 * state[0] + (1 - 0.9) * similarity.double()
        weights = 0.9 * state[1] + (1 - 0.9)
        active = (average / weights <= 0.5).double()
        if mode == "permanent":
            active = active * state[2]
        state = torch.stack([average, weights, active])
        coefficient.update(similarity)
        assert coefficient.state.equal(state)
        assert coefficient.at(0).to(torch.float32).equal((0.3 * state[2]).to(torch.float32))


def run(folder, **changes):
    common = dict(run_name="run", results_dir=str(folder), encoder_depth=1, gt_encoder_depth=2)
    training = train.Training(dataclasses.replace(TINY_DIGITS, **(common | changes)))
    training.run()
    return training


def reg_weights(training):
    return [row["reg_weight"] for row in read_log(training.folder / "metrics.jsonl")]


def test_a_run_follows_its_schedule(tmp_path):
    schedule = RegScheduleConfig(reg_scheduler="linear")
    assert reg_weights(run(tmp_path, reg_schedule=schedule, reg_weight=0.4)) == pytest.approx(
        [0.4, 0.3, 0.2, 0.1]
    )


def test_weight_zero_by_schedule_is_vanilla(tmp_path):
    off = RegScheduleConfig(reg_similarity_threshold=-1.0)  # any similarity is over it
    stopped = logged_rows(run(tmp_path / "a", reg_schedule=off).folder)
    vanilla = logged_rows(run(tmp_path / "b", reg_weight=0.0).folder)
    plain = logged_rows(run(tmp_path / "c").folder)
    # the first step is still aligned, so only its velocity loss is vanilla's
    assert stopped[0] == plain[0] != vanilla[0]
    assert stopped[0][1] == vanilla[0][1] and stopped[3][1] != plain[3][1]
    stopped_loss, stopped_velocity = stopped[2][:2]
    assert stopped_loss == stopped_velocity


def test_a_stop_survives_a_resumed_run(tmp_path):
    off = RegScheduleConfig(reg_similarity_threshold=0.0, reg_similarity_decay=0.9)
    whole = run(tmp_path / "whole", reg_schedule=off)
    run(tmp_path / "parts", reg_schedule=off, max_steps=2)
    resumed = run(tmp_path / "parts", reg_schedule=off, resume="latest")
    assert reg_weights(resumed) == reg_weights(whole)
    assert logged_rows(resumed.folder) == logged_rows(whole.folder)
    coefficient = whole.objective.regularizers[0].coefficient
    torch.testing.assert_close(
        resumed.objective.regularizers[0].coefficient.state, coefficient.state, rtol=0, atol=0
    )
    assert coefficient.state[1] == pytest.approx(1 - 0.9**4)


def test_only_samples_in_the_range_of_t_are_aligned(tmp_path):
    """loss - velocity loss = -lambda mean(1[t in range] cos), with that step's own t."""
    half = RegScheduleConfig(reg_t_range=(0.5, 1.0))
    training = train.Training(
        dataclasses.replace(TINY_DIGITS, reg_schedule=half, results_dir=str(tmp_path))
    )
    images, labels = zip(*(training.source[i] for i in range(8)), strict=True)
    batch = training.batches.again(torch.stack(list(images)), torch.tensor(labels), 0, range(8))
    training.network.train()
    loss, values = training.objective(training.network, batch, training.parallel.autocast())
    sync = training.objective.regularizers[0].sync
    with sync.capture():
        training.transport.training_losses(
            training.network, batch.x_1, batch.conditions, t=batch.t, x0=batch.x_0
        )
    inside = (batch.t >= 0.5) * sync.loss(reduction="none")
    assert 0 < (batch.t >= 0.5).sum() < 8
    torch.testing.assert_close(
        loss - values["velocity_loss"], 0.3 * inside.mean(), rtol=1e-4, atol=1e-6
    )


def test_a_schedule_to_the_end_cannot_be_resumed_to_another_end(tmp_path):
    linear = RegScheduleConfig(reg_scheduler="linear")
    run(tmp_path, reg_schedule=linear, max_steps=2, saving=SaveConfig(ckpt_every=2))
    with pytest.raises(ValueError, match="last step of the linear of lambda: 2 there, 4 here"):
        run(tmp_path, reg_schedule=linear, resume="latest")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(reg_warmup_steps=-1), "--reg-warmup-steps -1: it must be at least 0"),
        (dict(reg_similarity_threshold=2.0), "--reg-similarity-threshold 2.0: it must be a cosine"),
        (dict(reg_similarity_decay=1.0), r"--reg-similarity-decay 1.0: it must be in \[0, 1\)"),
        (dict(reg_t_range=(0.8, 0.2)), r"--reg-t-range \(0.8, 0.2\): it must be LOW HIGH"),
        (dict(reg_cutoff_step=0), "--reg-cutoff-step 0: it must be at least 1"),
        (dict(reg_scheduler="polynomial", reg_power=0.0), "--reg-power 0.0: it must be positive"),
        (dict(reg_weight_end=0.1), "--reg-weight-end 0.1 has no effect with --reg-scheduler const"),
        (dict(reg_decay_steps=3, reg_warmup_steps=3), "--reg-decay-steps 3: it must be more than"),
    ],
)
def test_bad_schedules_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_train_config(
            dataclasses.replace(TINY_DIGITS, reg_schedule=RegScheduleConfig(**settings))
        )

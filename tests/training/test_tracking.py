"""Averages over windows, and a log that resuming does not tear."""

import json

import pytest
import torch

from training.tracking import Meter, cut_back, read_log


class OneProcess:
    device = torch.device("cpu")

    def reduce(self, tensor, reduction):
        return tensor


def test_meter_averages_over_the_window():
    meter = Meter(OneProcess())
    for step in range(1, 5):
        meter.add({"a": torch.tensor(float(step)), "b": torch.tensor(10.0)})
    assert meter.averages() == {"a": 2.5, "b": 10.0}
    meter.add({"a": torch.tensor(7.0), "b": torch.tensor(1.0)})
    assert meter.averages() == {"a": 7.0, "b": 1.0}


def test_meter_continues_a_window_from_its_state():
    values = [{"a": torch.tensor(v)} for v in (0.1, 0.2, 0.3, 0.4)]
    whole, before = Meter(OneProcess()), Meter(OneProcess())
    for meter in (whole, before):
        meter.add(values[0])
        meter.add(values[1])
    whole.fold()
    after = Meter(OneProcess(), json.loads(json.dumps(before.fold())))
    for meter in (whole, after):
        meter.add(values[2])
        meter.add(values[3])
    assert whole.averages() == after.averages()


def test_cut_back_keeps_lines_up_to_the_step(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps({"step": s, "loss": s / 3}) + "\n" for s in range(1, 6)))
    with open(log, "a") as file:
        file.write('{"step": 6, "lo')  # a process was killed here
    cut_back(log, 4)
    assert read_log(log) == [{"step": s, "loss": s / 3} for s in range(1, 5)]
    assert log.read_text().endswith("\n")


@pytest.mark.parametrize("step", [0, 9])
def test_cut_back_at_the_ends(tmp_path, step):
    log = tmp_path / "metrics.jsonl"
    cut_back(log, step)
    assert not log.exists()
    log.write_text('{"step": 5}\n')
    cut_back(log, step)
    assert len(read_log(log)) == (1 if step else 0)

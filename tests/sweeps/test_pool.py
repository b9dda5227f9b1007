"""Working through cells with real processes: side by side, twice at once, stopped, killed."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
from launching import ROOT

from sweeps import pool
from sweeps.cells import Command, read_record, results, state, to_do
from sweeps.command_launch import Launch
from sweeps.pool import PoolConfig, check_pool, launches, run_cells
from sweeps.process import CellRun


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(pool, "SECONDS_UNTIL_NEXT_LOOK", 0.2)


def test_cells_run_side_by_side_and_failures_are_retried_on_request(toy, capfd):
    cells = [toy("a", seconds=1.5), toy("b", seconds=1.5), toy("bad", "bad")]
    assert run_cells(cells, PoolConfig(parallel=3)) == 1
    assert [state(cell) for cell in cells] == ["finished", "finished", "failed"]
    said = capfd.readouterr().out
    assert said.index("running  b") < said.index("finished a: m 30")  # not one after the other
    assert "failed   bad: work: toy.py: error: no good" in said
    assert said.splitlines()[-1].endswith(" 2 finished, 1 failed")

    assert run_cells(cells, PoolConfig()) == 1  # reported, not run
    assert cells[2].log.read_text().count("$ python") == 1
    assert "failed   bad: work: toy.py: error: no good" in capfd.readouterr().out
    assert run_cells(cells, PoolConfig(retry_failed=True)) == 1
    assert cells[2].log.read_text().count("$ python") == 2


def start_pool(toy, *cells) -> subprocess.Popen:
    """`run_cells` in a process of its own, on toy("...", "saves", 1.5) of each name."""
    folder, program = toy("x").folder.parent, toy("x").commands[0].words[0]
    code = f"""
import sys
from pathlib import Path
from sweeps import pool
from sweeps.cells import Cell, Command
pool.POLL_SECONDS, pool.SECONDS_UNTIL_NEXT_LOOK = 0.05, 0.2
def cell(name):
    words = ({program!r}, "saves", "{{cell}}/m.json", "1.5")
    command = Command("work", words, outputs=("m.json",), result=True, expects={{"step": 3}})
    return Cell(name, Path({str(folder)!r}) / name, {{"name": name}}, {{"name": name}}, (command,))
sys.exit(pool.run_cells([cell(name) for name in {cells!r}], pool.PoolConfig()))
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def attempts(cell) -> int:
    return cell.log.read_text().count("$ python") if cell.log.exists() else 0


def test_two_sweeps_share_the_cells(toy):
    names = ["a", "b", "c"]
    both = [start_pool(toy, *names) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(attempts(toy(name)) == 1 for name in names)
    assert "busy" in said[0] + said[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_goes_on_where_it_was(toy, number):
    """Also one that is killed: its command is told, saves, and gives the lock back."""
    cell = toy("a", "saves", 1.5)
    process = start_pool(toy, "a")
    until(lambda: cell.log.exists() and "at 5\n" in cell.log.read_text())
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 75)
    until(lambda: state(cell) == "waiting")
    assert read_record(cell)["failure"] is None
    saved = int((cell.folder / "m.json.saved").read_text())
    assert 5 <= saved < 30
    assert run_cells([cell], PoolConfig()) == 0
    counted = [line for line in cell.log.read_text().splitlines() if line.startswith("at ")]
    assert counted == [f"at {n}" for n in range(1, 31)]  # nothing twice, nothing left out


def test_a_command_preempted_by_others_is_started_again(toy):
    cell = toy("a", "saves", 1.0)
    run = CellRun(cell, Launch())
    until(lambda: "at 3\n" in cell.log.read_text())
    run.process.send_signal(signal.SIGTERM)  # as a scheduler does
    until(run.poll)
    assert run.outcome == "finished" and attempts(cell) == 2
    assert results(cell) == {"work": {"m": 20}}


def test_a_killed_command_fails_with_the_reason(toy):
    cell = toy("a", seconds=30)
    run = CellRun(cell, Launch())
    until(lambda: "at 1\n" in cell.log.read_text())
    run.process.kill()
    until(run.poll)
    assert run.outcome == "failed"
    assert (
        "SIGKILL from outside, often for want of memory" in read_record(cell)["failure"]["reason"]
    )


def test_gpus_are_dealt_out_in_turn_and_cores_evenly(monkeypatch):
    monkeypatch.setattr(pool, "cores", lambda: 16)
    assert [launch.threads for launch in launches(PoolConfig(3, 2))] == [2, 2, 2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    devices = [launch.devices for launch in launches(PoolConfig(3, 2))]
    assert devices == [("4", "5"), ("6", "7"), ("4", "5")]
    with pytest.raises(ValueError, match="--processes-per-cell 5: each process takes a GPU, and"):
        check_pool(PoolConfig(1, 5))
    with pytest.raises(ValueError, match="--parallel 0: it must be at least 1"):
        check_pool(PoolConfig(0))


def test_threads_are_the_users_if_they_are_set(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Launch(threads=3).environment()["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    environment = Launch(threads=3, devices=("1", "2")).environment()
    assert environment["OMP_NUM_THREADS"] == "5" and environment["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    words = Launch(2).argv(("train.py", "--lr", "1"))
    assert words[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert words[5:] == [str(ROOT / "train.py"), "--lr", "1"]


def sharing(toy, tmp_path, name):
    """A cell whose first command makes what two cells want."""
    cell, made = toy(name), "../../runs/made"
    program = cell.commands[0].words[0]
    words = (program, "good", "{cell}/" + made, "1.0")
    first = Command("make", words, outputs=(made,), shared="../../runs/lock")
    own = dataclasses.replace(cell.commands[0], inputs=(made,))
    return dataclasses.replace(cell, commands=(first, own))


def test_what_two_cells_want_is_made_once(toy, tmp_path, capfd):
    cells = [sharing(toy, tmp_path, name) for name in ("a", "b")]
    assert [command.name for command in to_do(cells[0])] == ["make", "work"]
    assert run_cells(cells, PoolConfig(parallel=2)) == 0
    made = [cell.log.read_text().count("runs/made") for cell in cells]
    assert sorted(made) == [0, 1] and "busy" in capfd.readouterr().out
    assert [state(cell) for cell in cells] == ["finished"] * 2
    (tmp_path / "runs" / "made").unlink()
    assert [to_do(cell) for cell in cells] == [[], []]  # nothing that remains needs it
    (cells[0].folder / "m.json").unlink()
    assert [command.name for command in to_do(cells[0])] == ["make", "work"]


def test_what_is_shared_stays_locked_while_its_command_lives(toy, tmp_path):
    first, second = (sharing(toy, tmp_path, name) for name in ("a", "b"))
    run = CellRun(first, Launch())
    assert CellRun(second, Launch()).outcome == "busy" and not second.log.exists()
    assert state(second) == "waiting"
    until(run.poll)
    late = CellRun(second, Launch())
    assert late.command.name == "work"
    until(late.poll)
    assert [run.outcome, late.outcome] == ["finished"] * 2

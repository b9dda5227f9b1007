"""Commands that count as done: by content, recipe and commands, not the presence of a file."""

import dataclasses
import json

import pytest

from sweeps.cells import is_locked, lock, read_record, results, state, to_do
from sweeps.command_launch import Launch
from sweeps.process import CellRun


def work(cell) -> str:
    run = CellRun(cell, Launch())
    while not run.poll():
        pass
    return run.outcome


def chain(toy):
    """A cell of three commands: each reads what the one before has written."""
    base = toy("chain")
    program = base.commands[0].words[0]

    def command(name, output, *inputs, **more):
        words = (program, "good", "{cell}/" + output, "0")
        command = dataclasses.replace(base.commands[0], name=name, words=words, result=False)
        return dataclasses.replace(command, inputs=inputs, outputs=(output,), **more)

    commands = (
        command("train", "checkpoint"),
        command("sample", "samples", "checkpoint"),
        command("evaluate", "m.json", "samples", result=True, discards=("samples",)),
    )
    return dataclasses.replace(base, commands=commands)


def names(commands) -> list[str]:
    return [command.name for command in commands]


def test_a_cell_runs_once(toy):
    cell = chain(toy)
    assert names(to_do(cell)) == ["train", "sample", "evaluate"] and state(cell) == "waiting"
    assert work(cell) == "finished"
    assert to_do(cell) == [] and state(cell) == "finished"
    assert results(cell) == {"evaluate": {"m": 0}}
    assert not (cell.folder / "samples").exists()  # nobody needs it any more
    log = cell.log.read_text()
    assert work(cell) == "finished" and cell.log.read_text() == log


def test_only_what_is_missing_is_made_again(toy):
    cell = chain(toy)
    work(cell)
    path = cell.folder / "m.json"
    content = path.read_text()
    path.write_text(content.replace('"m": 0', '"m": 9'))  # a changed result is no result
    assert results(cell) == {} and names(to_do(cell)) == ["sample", "evaluate"]
    assert work(cell) == "finished" and path.read_text() == content
    path.unlink()
    (cell.folder / "checkpoint").unlink()
    assert names(to_do(cell)) == ["train", "sample", "evaluate"]


@pytest.mark.parametrize("content", ["", "[]", '{"metrics": {}}', '{"metrics": {"m": 1}}'])
def test_files_that_hold_something_else_do_not_count(toy, content):
    """The last one is of samples with another recipe."""
    cell = chain(toy)
    work(cell)
    (cell.folder / "m.json").write_text(content)
    assert state(cell) == "waiting" and results(cell) == {}


def test_results_of_another_recipe_or_without_a_record_do_not_count(toy):
    cell = chain(toy)
    work(cell)
    assert state(dataclasses.replace(cell, recipe={"name": "other"})) == "waiting"
    (cell.folder / "cell.json").write_text("{")  # as a full disk may leave it
    assert state(cell) == "waiting" and read_record(cell)["done"] == {}


def test_a_command_must_write_what_it_promises(toy):
    cell = toy("one")
    promised = dataclasses.replace(cell.commands[0], outputs=("m.json", "more.json"))
    assert work(dataclasses.replace(cell, commands=(promised,))) == "failed"
    failure = read_record(cell)["failure"]
    assert "did not write" in failure["reason"] and failure["exit_code"] == 0
    wrong = dataclasses.replace(cell.commands[0], expects={"step": 4})
    assert work(dataclasses.replace(cell, commands=(wrong,))) == "failed"
    assert "of other samples: step 3, not 4" in read_record(cell)["failure"]["reason"]


def test_a_moved_sweep_stays_finished(toy, tmp_path):
    cell = chain(toy)
    work(cell)
    cell.folder.rename(tmp_path / "elsewhere")
    assert state(dataclasses.replace(cell, folder=tmp_path / "elsewhere")) == "finished"


def test_the_lock_is_held_once(toy):
    cell = toy("locked")
    held = lock(cell)
    assert lock(cell) is None and is_locked(cell) and state(cell) == "running"
    assert CellRun(cell, Launch()).outcome == "busy"
    held.close()
    assert not is_locked(cell) and state(cell) == "waiting"


def test_failures_are_kept_with_the_last_line(toy):
    cell = toy("bad", "bad")
    assert work(cell) == "failed" and state(cell) == "failed"
    assert read_record(cell)["failure"] == {
        "command": "work",
        "exit_code": 1,
        "reason": "toy.py: error: no good (exit code 1)",
    }
    assert json.loads((cell.folder / "cell.json").read_text())["settings"] == {"name": "bad"}

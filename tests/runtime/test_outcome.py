"""The file by which commands tell a launcher that they have ended for good."""

import json
import signal
import time

import pytest

from runtime.command import RunError, parse_command, run_errors, usage_errors
from runtime.locks import InUse
from runtime.outcome import VARIABLE, failed, finished, progressed, read_outcome
from training.config import TrainConfig

WORDS = (
    "train.py --model SiT-Ti/2 --dataset-name digits --image-size 8 --num-classes 10 --vae none "
    "--global-batch-size 8 --num-workers 0 --sample-every 0 --log-every 1 --run-name run "
    "--results-dir"
)
TRAIN = WORDS.split()


@pytest.fixture
def outcome(tmp_path, monkeypatch):
    path = tmp_path / "outcome.json"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def raised(context, error) -> None:
    with pytest.raises(SystemExit), context:
        raise error


def test_finished(outcome):
    finished()
    assert read_outcome(outcome).outcome == "finished" and read_outcome(outcome).exit_code == 0
    assert [path.name for path in outcome.parent.iterdir()] == [outcome.name]


def test_the_first_process_alone_says_finished(outcome, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    finished()
    assert read_outcome(outcome) is None
    failed("of any process", 1)
    assert read_outcome(outcome).outcome == "failed"


def test_the_first_reason_stays(outcome):
    failed("the first\nof two", 3)
    failed("second", 1)
    record = read_outcome(outcome)
    assert (record.reason, record.exit_code) == ("the first of two", 3)


@pytest.mark.parametrize(
    ("context", "code"), [(usage_errors, 2), (lambda: run_errors("All is kept"), 1)]
)
def test_errors_are_recorded(outcome, context, code):
    raised(context(), RunError("--lr -1: too low"))
    record = read_outcome(outcome)
    assert (record.outcome, record.exit_code, record.reason) == ("failed", code, "--lr -1: too low")


@pytest.mark.parametrize("error", [OSError(116, "Stale file handle", "/net/x"), InUse("busy")])
def test_what_may_pass_is_not_for_good(outcome, error):
    raised(usage_errors(), error)
    assert read_outcome(outcome) is None


def test_ctrl_c_is_not_for_good(outcome, capsys):
    with pytest.raises(SystemExit) as exit, run_errors("All is kept"):
        raise KeyboardInterrupt
    assert exit.value.code == 130 and read_outcome(outcome) is None
    assert "stopped by Ctrl-C" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "kind"), [(["--help"], "finished"), (["--modle"], "failed")])
def test_command_lines(outcome, words, kind):
    with pytest.raises(SystemExit):
        parse_command(TrainConfig, words, recorded=False)
    assert read_outcome(outcome) is None
    with pytest.raises(SystemExit):
        parse_command(TrainConfig, words)
    assert read_outcome(outcome).outcome == kind


def test_progress_is_a_file_beside(outcome):
    progressed()
    assert [path.name for path in outcome.parent.iterdir()] == ["outcome.json.progress"]


def test_without_a_name_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    finished(), failed("x", 1), progressed()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_costs_a_warning_only(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "/proc/none/outcome.json")
    finished(), progressed()
    assert capsys.readouterr().err.count("warning: $LAYERSYNC_OUTCOME") == 2


def test_the_commands_record_their_ends(fork_server, outcome, tmp_path):
    """Preempted: nothing; continued to the end, sampled, scored: finished; bad flags: failed."""

    def run(words) -> dict | None:
        outcome.unlink(missing_ok=True)
        process = fork_server.start(words, environment={VARIABLE: str(outcome)})
        code = process.wait()
        record = json.loads(outcome.read_text()) if outcome.exists() else None
        assert record is None or record["exit_code"] == code, process.stderr
        return record

    metrics = tmp_path / "run" / "metrics.jsonl"
    long = [*TRAIN, tmp_path, "--max-steps", "100000"]
    process = fork_server.start(long, environment={VARIABLE: str(outcome)})
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None, process.stderr
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75 and not outcome.exists()
    assert outcome.with_name("outcome.json.progress").exists()  # its checkpoint

    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*.pt")
    last = str(int(checkpoint.stem) + 1)
    assert run([*TRAIN, tmp_path, "--max-steps", last, "--resume", "latest"]) == {
        "outcome": "finished", "exit_code": 0, "reason": "", "command": "train.py",
    }  # fmt: skip
    assert "already holds a run" in run([*TRAIN, tmp_path, "--max-steps", last])["reason"]

    samples = tmp_path / "samples.npz"
    sample = ["sample_ddp.py", "ODE", "--ckpt", checkpoint, "--sampling-method", "euler"]
    sample += ["--num-sampling-steps", "2", "--num-fid-samples", "16", "--out", samples]
    assert run(sample)["outcome"] == "finished"
    assert run([*sample, "--cfg-scale", "2"])["outcome"] == "failed"  # another set is there
    assert run(["-m", "evaluation", samples, "--ref", "digits"])["outcome"] == "finished"
    assert run(["-m", "evaluation", tmp_path / "none", "--ref", "digits"])["outcome"] == "failed"

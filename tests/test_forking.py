"""Programs that are forked behave as those that an interpreter starts."""

import json
import resource
import signal
import subprocess
import sys

import psutil
import pytest
from forking import ENVIRONMENT, forked, forked_python
from forkserver import ROOT
from launching import wait_until

PROGRAM = """
import json, os, signal, sys
facts = dict(
    argv=sys.argv, name=__name__, path=sys.path[0], folder=os.getcwd(), read=sys.stdin.read(),
    environment=dict(os.environ), main=sys.modules["__main__"].__dict__["MARK"] if "MARK" in
    sys.modules["__main__"].__dict__ else None,
    usr2=signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN, limit=LIMIT,
)
print(json.dumps(facts))
print("said", file=sys.stderr)
sys.exit(CODE)
"""
CODES = {"0": 0, "3": 3, "None": 0, "'why'": 1, "-1": 255}


def program(code: str = "0") -> str:
    limit = "__import__('resource').getrlimit(__import__('resource').RLIMIT_FSIZE)[0]"
    return "MARK = 5" + PROGRAM.replace("CODE", code).replace("LIMIT", limit)


def both(*words, **rest) -> list[subprocess.CompletedProcess]:
    """Return what a forked process makes of these words, and what a new interpreter does."""
    start = dict(capture_output=True, text=True, timeout=60, env=ENVIRONMENT) | rest
    return [
        subprocess.run([python, *words], **start) for python in (forked_python(), sys.executable)
    ]


def same(done: list[subprocess.CompletedProcess]) -> dict:
    facts = [json.loads(each.stdout) for each in done]
    for each in facts:
        for name in ("_", "PWD", "SHLVL", "OLDPWD"):  # a shell's
            each["environment"].pop(name, None)
    assert facts[0] == facts[1]
    assert done[0].returncode == done[1].returncode and done[0].stderr == done[1].stderr
    return facts[0]


def test_script_module_and_code_see_what_a_new_interpreter_shows_them(tmp_path):
    (tmp_path / "program.py").write_text(program())
    start = dict(cwd=tmp_path, input="to read", env=ENVIRONMENT | {"COLOUR": "red"})
    facts = same(both("program.py", "-a", "b c", **start))
    assert facts["environment"]["COLOUR"] == "red" and facts["main"] == 5
    assert facts["argv"] == ["program.py", "-a", "b c"] and facts["read"] == "to read"
    assert same(both("-m", "program", "--x", **start))["path"] == str(tmp_path)
    assert same(both("-u", "-c", program(), "--x", **start))["argv"] == ["-c", "--x"]


@pytest.mark.parametrize("code", CODES)
def test_exit_codes(code):
    done = both("-c", f"import sys; sys.exit({code})")
    assert [each.returncode for each in done] == [CODES[code]] * 2
    assert done[0].stderr == done[1].stderr


HELPED = ["train.py", "scripts/sweep_layer_pairs.py run", "sample_ddp.py SDE"]


@pytest.mark.parametrize("command", HELPED)
def test_parsers_that_were_made_before_say_what_new_ones_say(command):
    program, *words = command.split()
    forked, fresh = both(str(ROOT / program), *words, "--help")
    assert forked.returncode == fresh.returncode == 0
    assert forked.stdout == fresh.stdout and len(fresh.stdout.splitlines()) > 50


def test_an_error_says_so_and_ends_with_1():
    done = both("-c", "1 / 0")
    assert [each.returncode for each in done] == [1, 1]
    assert all(each.stderr.endswith("ZeroDivisionError: division by zero\n") for each in done)


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def test_limits_and_ignored_signals_are_taken_over():
    facts = same(both("-c", program(), input="", preexec_fn=limited))
    assert facts["limit"] == 5000 and facts["usr2"]


WAITING = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
Path(sys.argv[1]).touch()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGTERM, -15), (signal.SIGKILL, -9)]
)
def test_signals_reach_the_process_and_it_dies_with_its_client(tmp_path, number, code):
    client = subprocess.Popen([forked_python(), "-c", WAITING, str(tmp_path / "ready")])
    wait_until((tmp_path / "ready").exists, client)
    worker = forked(client.pid)
    client.send_signal(number)
    assert client.wait(30) == code
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_the_end_of_the_process_is_the_end_of_its_client(tmp_path):
    client = subprocess.Popen([forked_python(), "-c", WAITING, str(tmp_path / "ready")])
    wait_until((tmp_path / "ready").exists, client)
    forked(client.pid).kill()
    assert client.wait(30) == -signal.SIGKILL


def test_what_a_forked_process_starts_is_forked():
    start = "import subprocess; subprocess.run([sys.executable, '-c', {!r}], check=True)"
    code = "import sys; print('torch' in sys.modules, flush=True);"
    code += start.format(code)
    assert (
        subprocess.check_output([forked_python(), "-c", code], env=ENVIRONMENT, text=True)
        == "True\nTrue\n"
    )


def test_settings_that_libraries_read_while_importing_are_refused():
    other = ENVIRONMENT | {"HF_HUB_OFFLINE": "no"}
    done = subprocess.run([forked_python(), "-c", ""], env=other, capture_output=True, text=True)
    assert done.returncode == 97 and "HF_HUB_OFFLINE is read while importing" in done.stderr

"""Running a cell: its commands as processes of their own, one after another, under its lock.

Commands get SIGTERM when they are to stop, and also when whoever started them dies (on Linux):
train.py then saves a checkpoint and ends with exit code 75, sample_ddp.py has its finished parts.
Ctrl-C reaches only the sweep, because commands have sessions of their own.
"""

import re
import signal
import subprocess
import time
from datetime import datetime
from typing import Literal

from runtime.outcome import TRIES, VARIABLE, progress_path, read_outcome
from runtime.stopping import EXIT_PREEMPTED
from sweeps.cells import (
    Cell,
    Command,
    fingerprint,
    is_done,
    lock,
    lock_file,
    problem_with,
    read_record,
    to_do,
    write_record,
)
from sweeps.command_launch import SECONDS_TO_SAVE, Launch, before_command, signal_group

End = Literal["finished", "failed", "stopped", "busy"]


class CellRun:
    """A cell at work. Call `poll` from time to time until it returns an outcome.

    `outcome` is "busy" at once if another process works on the cell, and later if one works on what
    the cell shares with others.
    """

    def __init__(self, cell: Cell, launch: Launch):
        self.cell, self.launch, self.started = cell, launch, time.monotonic()
        self.outcome: End | None = None
        self.kill_at: float | None = None  # while it is being stopped: the time to kill it at
        self.told = cell.folder / "outcome.json"  # where a command says how it ended
        self.tries = 0  # starts that ended without an outcome and without progress
        self.lock = lock(cell)
        self.shared = None  # lock of what the running command writes for other cells too
        if self.lock is None:
            self.outcome = "busy"
            return
        self.record, self.waiting = read_record(cell), to_do(cell)
        if self.record["failure"]:
            self.record["failure"] = None
            write_record(cell, self.record)
        self._start()

    @property
    def command(self) -> Command | None:
        """Return the command that is running."""
        return self.waiting[0] if self.waiting and not self.outcome else None

    def poll(self) -> End | None:
        """Return the outcome, None while it works; start the next command when one has ended."""
        if self.outcome:
            return self.outcome
        code = self.process.poll()
        if code is None:
            if self.kill_at and time.monotonic() > self.kill_at:
                signal_group(self.process, signal.SIGKILL)
            return None
        signal_group(self.process, signal.SIGKILL)  # processes of it that are left
        command = self.waiting[0]
        name, spent = command.name, self.record.setdefault("spent", {})
        spent[name] = spent.get(name, 0) + time.monotonic() - self.clock
        problem = f"exit code {code}" if code else problem_with(self.cell, command)
        if not problem:
            self._done()
        if self.kill_at and self.waiting:
            self._end("stopped")
        elif not problem or self._continues(code):
            self._start()
        else:
            self._failed(code, problem)
        return self.outcome

    def stop(self) -> None:
        """Ask the command to save and end; a second call kills it."""
        if self.outcome:
            return
        if self.kill_at:
            signal_group(self.process, signal.SIGKILL)
        elif self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.kill_at = self.kill_at or time.monotonic() + SECONDS_TO_SAVE

    def _start(self) -> None:
        if not self._may_start():
            return
        words = self.cell.words(self.waiting[0])
        with open(self.cell.log, "a") as log:
            log.write(f"\n{datetime.now():%Y-%m-%d %H:%M:%S} $ {self.launch.shown(words)}\n")
            log.flush()
            self.told.unlink(missing_ok=True)
            self.log_start, self.clock = self.cell.log.stat().st_size, time.monotonic()
            self.process = subprocess.Popen(
                self.launch.argv(words),
                env=self.launch.environment() | {VARIABLE: str(self.told)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # what is locked stays so while the command lives
                pass_fds=[file.fileno() for file in (self.lock, self.shared) if file],
                preexec_fn=before_command,
            )

    def _may_start(self) -> bool:
        """Return whether the next command is to run now; end the cell if there is none, or busy."""
        self._release_shared()
        while self.waiting and (name := self.waiting[0].shared):
            command = self.waiting[0]
            self.shared = lock_file(self.cell.path(name))
            if self.shared is None:
                self._end("busy")
                return False
            if not is_done(self.cell, command, self.record):
                return True
            self.waiting.pop(0)  # by another cell, in the meantime
            self._release_shared()
        if not self.waiting:
            self._end("finished")
        return bool(self.waiting)

    def _release_shared(self) -> None:
        if self.shared:
            self.shared.close()
        self.shared = None

    def _done(self) -> None:
        command, cell = self.waiting.pop(0), self.cell
        self.tries = 0
        self.record["done"][command.name] = {
            "words": list(command.words),
            "seconds": round(self.record["spent"].pop(command.name), 1),
            "outputs": {name: fingerprint(cell.path(name)) for name in command.outputs},
        }
        write_record(self.cell, self.record)
        for name in command.discards:
            cell.path(name).unlink(missing_ok=True)

    def _failed(self, code: int, problem: str) -> None:
        self.record["failure"] = {
            "command": self.waiting[0].name,
            "exit_code": code,
            "reason": self._reason(code, problem),
        }
        self._end("failed")

    def _reason(self, code: int, problem: str) -> str:
        """Return a line about a failure: the last line that the command printed."""
        told = read_outcome(self.told)
        if told and told.outcome == "failed":
            return f"{told.command}: error: {told.reason} (exit code {told.exit_code})"
        if code < 0:
            name = signal.Signals(-code).name
            memory = ", often for want of memory" if code == -signal.SIGKILL else ""
            return f"ended by {name} from outside{memory}"
        if code == 0:
            return problem
        lines = [line.strip() for line in re.split(r"[\r\n]+", self._said()) if line.strip()]
        errors = [line for line in lines if ": error: " in line]  # as the project's programs say it
        return f"{[problem, *lines, *errors[:1]][-1]} ({problem})"

    def _continues(self, code: int) -> bool:
        """Return whether the same command must continue: somebody else told it to stop.

        Of several processes torchrun ends with 1, whatever theirs ended with. One that stopped or
        was killed has then written no outcome; what it does not know how to end neither, so that
        without progress this is believed a few times only.
        """
        if code == EXIT_PREEMPTED:
            return True
        if code != 1 or self.launch.processes == 1 or read_outcome(self.told):
            return False
        progressed = progress_path(self.told)
        self.tries = 0 if progressed.exists() else self.tries + 1
        progressed.unlink(missing_ok=True)
        return self.tries <= TRIES

    def _said(self) -> str:
        """Return everything that the command has printed."""
        return self.cell.log.read_bytes()[self.log_start :].decode(errors="replace")

    def _end(self, outcome: End) -> None:
        write_record(self.cell, self.record)
        self._release_shared()
        self.lock.close()
        self.outcome = outcome

"""Stopping in good order when the scheduler says so.

SLURM announces a preemption or the end of the time limit by SIGTERM, or by the signal that
`--signal=USR1@120` asks for. The run then finishes its step, writes a checkpoint and ends with
exit code 75 ("temporary failure, try again"); the same command with --resume latest continues.
"""

import os
import signal
import threading

import torch

EXIT_PREEMPTED = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STEPS_BETWEEN_CHECKS = 8  # with several processes, which must agree and so wait for each other


class StopRequest:
    """Remembers that a signal came, and lets the processes agree on it."""

    def __init__(self, accelerator):
        self.accelerator, self.signalled = accelerator, False
        for number in SIGNALS:
            signal.signal(number, self._remember)

    def _remember(self, number, frame) -> None:
        self.signalled = True

    def agreed(self, step: int) -> bool:
        """Whether any process was signalled; a collective at every 8th step, else False."""
        if self.accelerator.num_processes == 1:
            return self.signalled
        if step % STEPS_BETWEEN_CHECKS:
            return False
        flag = torch.tensor(float(self.signalled), device=self.accelerator.device)
        return self.accelerator.reduce(flag, "sum").item() > 0


def obey_parent_only(worker: int) -> None:
    """For data loading workers: a signal to the whole job must not end them before the run does."""
    if not hasattr(signal, "sigwaitinfo"):  # macOS, which has no such schedulers either
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != parent:
        pass
    os._exit(0)  # or a run that ends by an error would wait for its workers for ever

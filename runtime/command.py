"""Starting up: command lines, and errors said once by whichever process is the first.

What ends a run later through no fault of the program is said by the process that meets it.

All processes of a launch meet the same bad flag. The first one says so; the others keep quiet and
hold back for a moment, because the launcher stops the first when another one exits before it. What
is said here also goes to the launcher's outcome file (runtime/outcome.py), unless it may pass.
"""

import io
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from runtime.error_text import ended_elsewhere, in_one_line, may_pass
from runtime.flags import COMMON, check_numbers, check_ranges
from runtime.launch import check_launch, is_first_process, rank
from runtime.outcome import failed, finished
from runtime.settings_chain import Section
from runtime.settings_file import expand_config, types_of
from runtime.stopping import EXIT_INTERRUPTED, Stopped, signals_raise
from runtime.streams import make_streams_lossy
from runtime.switches import spell_switches

EXIT_USAGE = 2
EXIT_FAILED = 1
HOLD_BACK_SECONDS = 20
NARROWEST = 40  # columns
FRAME = set(" -─╭╮╰╯│|")  # what the parser draws around its messages


class RunError(Exception):
    """End of a run through no fault of the program; `str(error)` is for the user."""


def program_name() -> str:
    """Return the name of this program as it was called: train.py, or python -m evaluation."""
    path = Path(sys.argv[0])
    return f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name


def parse_command(
    config: Callable | dict[str, Callable],
    args: list[str] | None = None,
    program: str | None = None,
    description: str | None = None,
    recorded: bool = True,
    section: Section | None = None,
    prepare: Callable[[list[str]], list[str]] | None = None,
):
    """Build `config` from the command line, or the one that its first word names.

    Args:
        args: the command line's words, `sys.argv[1:]` unless given.
        program: what --help calls it, as it is called unless given.
        description: what --help says first, the docstring of `config` unless given.
        recorded: whether this is the program's own command line, of which the outcome file tells.
        section: the part of a settings file that --config FILE is read for.
        prepare: makes another command line, after the file's settings have been put into it.

    A bad flag ends the program with one line and exit code 2.
    """
    import tyro

    program = program or program_name()
    make_streams_lossy(program)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = say_interrupt
    args = sys.argv[1:] if args is None else args
    with usage_errors():
        check_launch()
        args = expand_config(args, config, section) if section else args
        args = [at_home(word) for word in args]
        args = prepare(args) if prepare else args
        kinds = types_of(config, None)
        switches = [name for name, type in kinds.items() if type.kind == bool | None]
        args = spell_switches(args, switches)
    cli: Any = tyro.extras.subcommand_cli_from_dict if isinstance(config, dict) else tyro.cli
    framed = io.StringIO()
    try:
        with redirect_stderr(framed), wide_enough():
            parsed = cli(
                config,
                prog=program,
                args=args,
                description=description,
                console_outputs=is_first_process(),
            )
    except SystemExit as exit:
        if exit.code in (None, 0):
            if recorded:
                finished()  # --help
            raise
        reason = f"{complaint(framed.getvalue())}; see {program} --help"
        if is_first_process():
            print(f"{program}: error: {reason}", file=sys.stderr, flush=True)
        if recorded and is_first_process():  # the parser tells the others nothing
            failed(reason, EXIT_USAGE)
        hold_back()
        raise
    print(framed.getvalue(), end="", file=sys.stderr)  # a warning
    with usage_errors():
        check_numbers(parsed)
        check_ranges(parsed, COMMON)
    return parsed


@contextmanager
def wide_enough() -> Iterator[None]:
    """Let the parser think of the terminal as wider than a few columns, where it takes minutes."""
    columns = os.environ.get("COLUMNS")
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    try:
        yield
    finally:
        if columns is not None:
            os.environ["COLUMNS"] = columns
        else:
            os.environ.pop("COLUMNS", None)


def at_home(word: str) -> str:
    """Return a word with ~/ at its start, or after --flag=, as shells would replace it.

    They do not in quotes, after a = and in settings files; a folder of that name would be made,
    which nobody removes without fear.
    """
    begins = re.fullmatch(r"(--[\w-]+=)?~(/.*)?", word, re.DOTALL)
    if not begins:
        return word
    home = os.path.expanduser("~")
    if home == "~":  # in a container, by a user whom it does not know
        raise ValueError(f"{word}: neither $HOME nor the system says where that is; give a path")
    return f"{begins[1] or ''}{home}{begins[2] or ''}"


def complaint(framed: str) -> str:
    """Return the parser's message in one line, out of the frame in which it is printed.

    Args:
        framed: a title, sections between rules (the message, flags that may be meant, a hint), and
            the frame around them.
    """
    sections: list[list[str]] = [[]]
    for line in framed.strip().splitlines()[1:]:
        if set(line) <= FRAME:
            sections.append([])
        else:
            sections[-1].append(line.strip(" │|"))
    message, *others = [" ".join(lines).rstrip(".") for lines in sections if lines] or [""]
    meant = next((text for text in others if text.startswith("Perhaps you meant")), "")
    flags = re.findall(r"--[\w-]+(?= [A-Z{\[])", meant)
    known = [text for text in others if text.startswith("Available subcommands")]
    return "; ".join([message, *known] + [f"perhaps you meant {' or '.join(flags)}"] * bool(flags))


def say_interrupt(kind: type[BaseException], error: BaseException, trace) -> None:
    """Show an error that ends the program; Ctrl-C while modules are loaded is one line.

    torch and the rest take seconds, from a busy file system half a minute.
    """
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    elif is_first_process():
        print(f"\n{program_name()}: stopped by Ctrl-C", file=sys.stderr, flush=True)


@contextmanager
def interrupts(remedy: str = "") -> Iterator[None]:
    """Turn Ctrl-C, and SIGTERM, SIGUSR1 or SIGHUP, into one line and exit code 130 or 75.

    Args:
        remedy: what the line adds, a sentence without its full stop.
    """
    try:
        with signals_raise():
            yield
    except (KeyboardInterrupt, Stopped) as stop:
        if is_first_process():
            more = f". {remedy}" if remedy else ""
            said = f"stopped by {str(stop) or 'Ctrl-C'}{more}"
            print(f"\n{program_name()}: {said}", file=sys.stderr, flush=True)
        raise SystemExit(getattr(stop, "exit_code", EXIT_INTERRUPTED)) from None


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn bad input or what the operating system refuses while setting up into one line.

    A `ValueError`, `RunError` or `OSError` ends the program with exit code 2.
    """
    try:
        with interrupts():
            yield
    except RuntimeError as error:
        if not (gone := ended_elsewhere(error)):
            raise
        print(f"[rank {rank()}] {program_name()}: error: {gone}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_FAILED) from None
    except (ValueError, RunError, OSError) as error:
        if not is_first_process():
            hold_back()  # not ended by the launcher: the first one has no such error
            print(f"[rank {rank()}] ", end="", file=sys.stderr)
        print(f"{program_name()}: error: {in_one_line(error)}", file=sys.stderr, flush=True)
        if not may_pass(error):
            failed(in_one_line(error), EXIT_USAGE)
        raise SystemExit(EXIT_USAGE) from None


@contextmanager
def run_errors(remedy: str) -> Iterator[None]:
    """Turn bad data, a failing disk or a killed worker into one line and exit code 1."""
    try:
        with interrupts(remedy):
            yield
        return
    except (RunError, OSError, RuntimeError) as error:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises wherever the program is
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # of a run, which would finish a step
        passes = may_pass(error)
        killed = isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
        if gone := ended_elsewhere(error):
            reason, passes = gone, True
        elif isinstance(error, RuntimeError) and "Too many open files" in str(error):
            reason = "too many open files; raise the limit of the shell (ulimit -n)"
        elif killed or isinstance(error, ConnectionError):
            passes = True  # it might have been for the signal that ends all processes of a job
            said = (str(error).splitlines() or [""])[0].rstrip(". ")
            reason = (
                f"{said}: a data loading process was killed from outside, often "
                f"for want of memory; fewer --num-workers need less"
            )
        elif isinstance(error, RunError | OSError):
            first, *more = in_one_line(error).strip().splitlines() or [type(error).__name__]
            # from a loader's process it comes with the traceback there, the error in the last line
            reason = re.sub(r"^[\w.]+: ", "", more[-1]) if more else first
        else:
            raise
    who = "" if is_first_process() else f"[rank {rank()}] "
    print(f"\n{who}{program_name()}: error: {reason}. {remedy}", file=sys.stderr, flush=True)
    if not passes:
        failed(reason, EXIT_FAILED)
    raise SystemExit(EXIT_FAILED)


def warn(text: str) -> None:
    """Say in one line on standard error what a user should know of, from the first process only."""
    if is_first_process():
        print(f"{program_name()}: warning: {text}", file=sys.stderr, flush=True)


def hold_back() -> None:
    if not is_first_process():
        time.sleep(HOLD_BACK_SECONDS)

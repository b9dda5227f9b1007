"""Starting up: command lines, and errors said once by whichever process is the first.

What ends a run later through no fault of the program is said by the process that meets it.

Under torchrun every process meets the same bad flag. The first one says so; the others keep quiet
and hold back for a moment, because the launcher stops the first when another one exits before it.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.launch import is_first_process, rank

EXIT_USAGE = 2
EXIT_FAILED = 1
HOLD_BACK_SECONDS = 20


class RunError(Exception):
    """What ends a run through no fault of the program; `str(error)` is for the user."""


def program_name() -> str:
    """As it is called: train.py, or python -m evaluation."""
    path = Path(sys.argv[0])
    return f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name


def parse_command(
    config: Callable | dict[str, Callable],
    args: list[str] | None = None,
    program: str | None = None,
    description: str | None = None,
):
    """Build `config` from the command line, or the one that its first word names.

    Args:
        args: the command line's words, `sys.argv[1:]` unless given.
        program: what --help calls it, as it is called unless given.
        description: what --help says first, the docstring of `config` unless given.

    A bad flag ends the program with exit code 2.
    """
    import tyro

    cli = tyro.extras.subcommand_cli_from_dict if isinstance(config, dict) else tyro.cli
    try:
        name = program or program_name()
        return cli(
            config,
            prog=name,
            args=args,
            description=description,
            console_outputs=is_first_process(),
        )
    except SystemExit as exit:
        if exit.code not in (None, 0):
            hold_back()
        raise


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a `ValueError` or a missing file while setting up into one line and exit code 2."""
    try:
        yield
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        if not is_first_process():
            hold_back()  # still here after that: the first one has no such error
            print(f"[rank {rank()}] ", end="", file=sys.stderr)
        print(f"{program_name()}: error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_USAGE) from None


@contextmanager
def run_errors(remedy: str) -> Iterator[None]:
    """Turn bad data, a failing disk or a killed worker into one line and exit code 1."""
    try:
        yield
    except (RunError, OSError) as error:
        first, *more = str(error).strip().splitlines()
        # from a loader's process it comes with the traceback there, the error in the last line
        reason = re.sub(r"^[\w.]+: ", "", more[-1]) if more else first
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = (
            f"{str(error).splitlines()[0].rstrip('. ')}: a data loading process was killed from "
            f"outside, often for want of memory; fewer --num-workers need less"
        )
    else:
        return
    who = "" if is_first_process() else f"[rank {rank()}] "
    print(f"\n{who}{program_name()}: error: {reason}. {remedy}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_FAILED)


def hold_back() -> None:
    if not is_first_process():
        time.sleep(HOLD_BACK_SECONDS)

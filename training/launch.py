"""Starting up: command lines, and errors said once by whichever process is the first.

Under torchrun every process meets the same bad flag. The first one says so; the others keep quiet
and hold back for a moment, because the launcher stops the first when another one exits before it.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_USAGE = 2
HOLD_BACK_SECONDS = 20


def is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def program_name() -> str:
    """As it is called: train.py, or python -m evaluation."""
    path = Path(sys.argv[0])
    return f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name


def parse_command(config: Callable | dict[str, Callable], word: str | None = None):
    """Build `config` from the command line, or the one that its first word names.

    A bad flag ends the program with exit code 2.

    Args:
        word: the command line's first word, where it has told the caller which `config` to build.
    """
    import tyro

    cli = tyro.extras.subcommand_cli_from_dict if isinstance(config, dict) else tyro.cli
    program, args = (f"{program_name()} {word}", sys.argv[2:]) if word else (program_name(), None)
    try:
        return cli(config, prog=program, args=args, console_outputs=is_first_process())
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
            print(f"[rank {os.environ['RANK']}] ", end="", file=sys.stderr)
        print(f"{program_name()}: error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_USAGE) from None


def hold_back() -> None:
    if not is_first_process():
        time.sleep(HOLD_BACK_SECONDS)

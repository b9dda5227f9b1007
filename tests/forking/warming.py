"""Preparations of the fork server, so that each forked process has less to do.

Parsers of the commands' flags are made, which takes a command three times as long as to parse; and
what a fork copies and the end of a process gives back is kept small.
"""

import atexit
import ctypes
import gc
import importlib
import inspect
import io
import runpy
import sys
import typing
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import psutil

SMALL_OBJECTS = 280 * 2**20  # bytes: what the imports take, which Python asks for by the MiB
HUGE, MADV_COLLAPSE = 2**21, 25  # bytes of a huge page; madvise(2)
STATISTICS = [  # of torch's compiler, which are logged at exit for its developers
    ("torch._dynamo.utils", "dump_compile_times"),
    ("torch._dynamo.eval_frame", "_log_traced_frames"),
    ("torch._subclasses.fake_tensor", "dump_cache_stats"),
]
COMMANDS = [  # whose --help is asked for once
    "train.py", "sample.py ODE", "sample.py SDE", "sample_ddp.py ODE", "sample_ddp.py SDE",
    "scripts/sweep_layer_pairs.py run", "scripts/sweep_layer_pairs.py report",
    "scripts/guidance_sweep.py run", "scripts/reproduce.py run", "scripts/cache_features.py",
    "scripts/cache_latents.py", "scripts/suggest_pair.py", "scripts/share.py",
    "evaluation/__main__.py", "evaluation/__main__.py blocks", "evaluation/__main__.py reference",
]  # fmt: skip


def reserve() -> list[bytes]:
    """Take the memory of small objects in one piece, and free it for what will be imported.

    Otherwise it lies in the gaps between libraries, in pages too small to be huge ones.

    Returns one object for each MiB, which keeps it from being given back.
    """
    size = 470  # of the largest kind that Python puts there
    objects: list[bytes] = [b""] * (SMALL_OBJECTS // size)  # grown, the list would leave gaps too
    for i in range(len(objects)):
        objects[i] = bytes(size)
    return objects[:: 2**20 // size // 2]


def remember_parsers() -> None:
    """Make tyro build the parser of a class and its defaults once; it keeps none from call to call.

    The parsers do not change when they are used. Where tyro has another shape, nothing is gained.
    """
    try:
        from tyro._fields import global_context_markers
        from tyro._parsers import ParserSpecification

        build = ParserSpecification.from_callable_or_type
    except (ImportError, AttributeError):
        return
    known: dict[tuple, object] = {}

    def remembered(f: Callable, **how):
        key = f, repr(global_context_markers), described(how)
        try:
            if key not in known:
                known[key] = build(f, **how)
        except TypeError:  # f cannot be a key
            return build(f, **how)
        return known[key]

    ParserSpecification.from_callable_or_type = staticmethod(remembered)


def described(how: dict) -> tuple[str, ...]:
    """Return what distinguishes one parser of a class from another, in words."""
    said = {name: value() if callable(value) else value for name, value in how.items()}
    said["markers"] = sorted(map(repr, how["markers"]))
    del said["parent_classes"]  # only against circles
    return tuple(f"{name} {value!r}" for name, value in sorted(said.items()))


@contextmanager
def unseen() -> Iterator[io.StringIO]:
    """Keep what commands say and change to themselves."""
    words, path = sys.argv[:], sys.path[:]
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            yield said
    finally:
        sys.argv[:], sys.path[:] = words, path


def warm_up(root: Path) -> None:
    """Ask every command for its help once, which imports more and fills caches."""
    from PIL import Image

    from evaluation.__main__ import Score
    from runtime.command import parse_command

    remember_parsers()
    with unseen() as said:
        for command in COMMANDS:
            program, *words = command.split()
            sys.argv[:] = [str(root / program), *words, "--help"]
            with ended(said):
                runpy.run_path(sys.argv[0], run_name="__main__")
        with ended(said):
            parse_command(Score, ["--help"])  # as the sweeps import it
    Image.init()
    # torchrun asks for its callers' names; whose file is that of no module, each time costs a look
    # at all modules there are, in sum a second of each launch
    inspect.modulesbyfile.update({"<frozen runpy>": "runpy", sys.argv[0]: "__main__"})


@contextmanager
def ended(said: io.StringIO) -> Iterator[None]:
    """Expect a program to end without an error."""
    try:
        yield
    except SystemExit as end:
        if not end.code:
            return
    raise RuntimeError(f"{sys.argv}: {said.getvalue()}")


def settle() -> None:
    """Make forks cheap, and what ends a forked process its own affairs alone."""
    # what torch's operators do at the end of a process, one by one, takes longer than the fork; and
    # temporary folders of the server are not its children's to remove
    weakref.finalize._registry.clear()
    typing._cleanups.clear()  # a library empties these at exit, in shared pages
    for module, name in STATISTICS:
        atexit.unregister(getattr(importlib.import_module(module), name, None))
    gc.collect()
    gc.freeze()
    # a fork copies the tables of pages, which are a third as long to copy for huge ones
    libc = ctypes.CDLL(None)
    for area in psutil.Process().memory_maps(grouped=False):
        if area.perms.startswith("rw") and area.path in ("[anon]", "[heap]"):
            first, last = (int(end, 16) for end in area.addr.split("-"))
            for start in range(-(-first // HUGE) * HUGE, last // HUGE * HUGE, HUGE):
                # refused by older kernels, and for memory that was never used
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(HUGE), MADV_COLLAPSE)

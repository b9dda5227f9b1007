"""Run a program of the project without one of its checks, or note which errors it raised.

    altered_program.py without PATH:LINE PROGRAM ...      the check that begins there is removed
    altered_program.py noting FILE PROGRAM ...            lines PATH:LINE of what raised, to FILE

It works in a forked process, where most modules are there already: their functions get other code.
"""

import os
import runpy
import sys
import threading
import types
from functools import cache, cached_property, partial
from importlib.machinery import SourceFileLoader
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hostile.checks import ROOMS, ROOT, code_without


def without(check: str) -> None:
    """Remove a check from the module that is loaded, and from it where it will be."""
    name, line = check.rsplit(":", 1)
    path = ROOT / name
    code = code_without(path, int(line))
    usual = SourceFileLoader.get_code

    def get_code(self, module):
        return code if self.path == str(path) else usual(self, module)

    SourceFileLoader.get_code = get_code
    MAIN[path] = code
    others = {(c.co_qualname, c.co_firstlineno): c for c in nested(code)}
    modules = list(sys.modules.values())
    for module in (m for m in modules if getattr(m, "__file__", "") == str(path)):
        for function in functions(vars(module), str(path), set()):
            mine = function.__code__
            function.__code__ = others.get((mine.co_qualname, mine.co_firstlineno), mine)


CACHED = type(cache(id))
WRAPPERS = (
    staticmethod, classmethod, property, types.MethodType, partial, cached_property, CACHED,
)  # fmt: skip
MAIN: dict[Path, types.CodeType] = {}  # code of a program that is run as a file


def nested(code: types.CodeType):
    """Yield the code of the functions in a file, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from nested(constant)


def functions(thing, path: str, seen: set[int]):
    """Yield the functions of a file that a name, a class or a table of its module leads to."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, types.FunctionType):
        if thing.__code__.co_filename == path:
            yield thing
        inner = [thing.__dict__, *(cell_content(cell) for cell in thing.__closure__ or ())]
    elif isinstance(thing, type) and sys.modules[thing.__module__].__dict__.get("__file__") == path:
        inner = list(vars(thing).values())
    elif isinstance(thing, dict):
        inner = list(thing.values())
    elif isinstance(thing, list | tuple):
        inner = thing
    elif isinstance(thing, WRAPPERS):
        names = ("__func__", "fget", "fset", "func", "__wrapped__")
        inner = [getattr(thing, name, None) for name in names]
    else:
        return
    for one in inner:
        if one is not None:
            yield from functions(one, path, seen)


def cell_content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def noting(file: str) -> None:
    """Write the lines of the project at which an exception was seen."""
    rooms = tuple(f"{ROOT / room}{os.sep}" for room in ROOMS)
    out = open(file, "a", buffering=1)  # noqa: SIM115 - to the end

    def in_frame(frame, event, value):
        if event == "exception":
            path = os.path.relpath(frame.f_code.co_filename, ROOT)
            out.write(f"{path}:{frame.f_lineno}\n")
        return in_frame

    def trace(frame, event, value):
        path = frame.f_code.co_filename
        if not path.startswith(rooms) and os.path.dirname(path) != str(ROOT):
            return None
        frame.f_trace_lines = False
        return in_frame

    threading.settrace(trace)
    sys.settrace(trace)


def run(words: list[str]) -> None:
    """Run a program as the interpreter would."""
    if words[0] == "-m":
        sys.argv[:] = words[1:]
        sys.path[0] = os.getcwd()
        sys.modules.pop(f"{words[1]}.__main__", None)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    path = Path(words[0])
    sys.argv[:] = words
    sys.path[0] = str(path.parent)
    if path not in MAIN:
        runpy.run_path(str(path), run_name="__main__")
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = str(path)
    exec(MAIN[path], main.__dict__)


if __name__ == "__main__":
    how, value, *program = sys.argv[1:]
    if program[0] != "-m":
        program[0] = str(ROOT / program[0])
    sys.path.pop(0)
    {"without": without, "noting": noting}[how](value)
    run(program)

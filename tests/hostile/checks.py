"""The checks of the project's source: every statement that raises an error of its own.

An AssertionError is none: it stands for what cannot happen.
"""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "runtime", "data", "models", "transport", "layersync", "sampling", "evaluation", "training",
    "sweeps", "scripts",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """A `raise` statement, from its first to its last line."""

    path: str  # from the root
    first: int
    last: int
    place: str  # path:function, which does not change with what stands above it

    def __str__(self) -> str:
        return f"{self.path}:{self.first}"

    @property
    def lines(self) -> list[str]:
        return [f"{self.path}:{line}" for line in range(self.first, self.last + 1)]


class Visitor(ast.NodeVisitor):
    """Collects the checks of a file."""

    def __init__(self, path: str):
        self.path, self.names, self.checks = path, [], []

    def visit_scope(self, node):
        self.names.append(node.name)
        self.generic_visit(node)
        self.names.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_scope

    def visit_Raise(self, node):
        called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if called is not None and getattr(called, "id", "") != "AssertionError":
            place = f"{self.path}:{'.'.join(self.names)}"
            self.checks.append(Check(self.path, node.lineno, node.end_lineno, place))


@cache
def all_checks() -> tuple[Check, ...]:
    """Return the checks of all rooms and of the scripts at the root."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    found = []
    for path in [*files, *sorted(ROOT.glob("*.py"))]:
        visitor = Visitor(str(path.relative_to(ROOT)))
        visitor.visit(ast.parse(path.read_text()))
        found += visitor.checks
    return tuple(found)


class Remover(ast.NodeTransformer):
    """Takes the check of a line out of a file: execution goes on, or its cause goes through."""

    def __init__(self, line: int):
        self.line, self.handlers = line, 0

    def visit_ExceptHandler(self, node):
        self.handlers += 1
        self.generic_visit(node)
        self.handlers -= 1
        return node

    def visit_Raise(self, node):
        if node.lineno != self.line:
            return node
        instead = ast.Raise() if self.handlers else ast.Pass()
        # what was raised stays where nothing gets to it, so that the function's variables do
        never = ast.If(ast.Constant(False), [node], [instead])
        return ast.fix_missing_locations(ast.copy_location(never, node))


def code_without(path: Path, line: int):
    """Compile a file without the check that begins in this line."""
    tree = Remover(line).visit(ast.parse(path.read_text()))
    return compile(tree, str(path), "exec")

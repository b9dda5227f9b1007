"""Choice of a model's blocks: given as lists, or by their names in the model."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn


class Blocks(Sequence):
    """Modules in the order in which they run, numbered from 1 in messages, and their names."""

    def __init__(self, modules: Sequence[nn.Module], names: Sequence[str] = ()):
        self.modules, self.names = tuple(modules), tuple(names)

    def __len__(self) -> int:
        return len(self.modules)

    def __getitem__(self, index):
        return self.modules[index]

    def describe(self, number: int) -> str:
        """Return the place of block `number`: its name in the model if known, and its class."""
        name = f"{self.names[number - 1]}, " if self.names else ""
        return f"{name}{type(self.modules[number - 1]).__name__}"

    def summary(self) -> str:
        """Describe what stands where: "1-2 JointBlock, 3-8 SingleBlock"."""
        classes = [type(module).__name__ for module in self.modules]
        starts = [i for i, name in enumerate(classes) if i == 0 or name != classes[i - 1]]
        stops = [*starts[1:], len(classes)]
        return ", ".join(
            f"{span(start + 1, stop)} {classes[start]}"
            for start, stop in zip(starts, stops, strict=True)
        )


def span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def as_blocks(blocks: Iterable) -> Blocks:
    """Return modules, or lists of modules one after the other, as one sequence.

    A ModuleList, list or tuple within `blocks` is opened; any other module, an nn.Sequential too,
    is one block. Raises `TypeError` for what is no sequence of modules, `ValueError` for none.
    """
    if isinstance(blocks, Blocks):
        return blocks
    if isinstance(blocks, nn.Module) and not isinstance(blocks, nn.ModuleList | nn.Sequential):
        raise TypeError(
            f"blocks: expected a list of modules, got one module. {module_tree(blocks)} Pass one "
            f"of those lists, or use LayerSync.from_names(model, names, pairs)"
        )
    if isinstance(blocks, str) or not isinstance(blocks, Iterable):
        raise TypeError(
            f"blocks: expected a list of modules, as in model.blocks, got {blocks!r}; to find "
            f"them by name use LayerSync.from_names(model, names, pairs)"
        )
    modules = list(flatten(blocks))
    if not modules:
        raise ValueError(f"blocks: expected a list of modules, got an empty {kind(blocks)}")
    for number, module in enumerate(modules, start=1):
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"blocks: number {number} of {len(modules)} is {module!r}, of type {kind(module)}; "
                f"every block must be a torch.nn.Module"
            )
    return Blocks(modules)


def find_blocks(model: nn.Module, names: str | Iterable[str]) -> Blocks:
    """Return the blocks of `model` whose names match, in the order of `names`, then of the model.

    Args:
        model: any module, wrapped or not; names are those of `model.named_modules()`.
        names: glob patterns. `*`, `?` and `[...]` match within one part of a dotted name, so that
            "blocks.*" means the blocks and not what they consist of. A ModuleList that is named
            stands for its modules.

    Raises `TypeError` if `model` is no module, `ValueError` for a name that matches nothing, with
    the lists of modules and the names nearest to it, or for a module that is matched twice.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {model!r}, of type {kind(model)}")
    if not isinstance(names, Iterable):
        raise TypeError(f"names: expected glob patterns, got {names!r}, of type {kind(names)}")
    patterns = [names] if isinstance(names, str) else list(names)
    if not patterns:
        raise ValueError(f"names: got none. {module_tree(model)} Name one or more of them")
    modules = dict(model.named_modules(remove_duplicate=False))
    chosen: dict[str, nn.Module] = {}
    for pattern in patterns:
        matched = [name for name in modules if name and matches(name, pattern)]
        if not matched:
            raise ValueError(no_match(model, pattern, list(modules)))
        for name in open_lists(matched, modules):
            if name in chosen:
                raise ValueError(
                    f"names {patterns}: {name!r} is matched twice; every block has one number"
                )
            chosen[name] = modules[name]
    return Blocks(list(chosen.values()), list(chosen))


def flatten(blocks: Iterable) -> Iterable:
    for block in blocks:
        if isinstance(block, nn.ModuleList | list | tuple | Blocks):
            yield from flatten(block)
        else:
            yield block


def matches(name: str, pattern: str) -> bool:
    parts, wanted = str(name).split("."), str(pattern).split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def open_lists(names: Iterable[str], modules: dict[str, nn.Module]) -> Iterable[str]:
    """Return `names`, with the modules of a ModuleList in place of the list."""
    for name in names:
        if isinstance(modules[name], nn.ModuleList):
            children = [f"{name}.{child}" for child, _ in modules[name].named_children()]
            yield from open_lists(children, modules)
        else:
            yield name


def no_match(model: nn.Module, pattern: str, names: list[str]) -> str:
    globs = [f"{name.removesuffix('.0')}.*" for name in names if name.endswith(".0")]
    near = get_close_matches(str(pattern), [*globs, *names], n=3, cutoff=0.5)
    nearest = f" Nearest names: {', '.join(near)}." if near else ""
    return f"names: {pattern!r} matches no module. {module_tree(model)}{nearest} Name one of these"


def module_tree(model: nn.Module) -> str:
    """Return a sentence on what a model consists of: its lists of modules, else its children."""
    lists: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in lists)
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1 and not inside:
            lists[name] = module
    what = "lists of modules" if lists else "children"
    shown = lists or dict(model.named_children())
    parts = [
        f"{name}.* ({Blocks(list(child.children())).summary()})"
        if lists
        else f"{name} ({kind(child)})"
        for name, child in shown.items()
    ]
    return f"{kind(model)} has the {what}: {', '.join(parts)}." if parts else f"{kind(model)}."


def kind(thing) -> str:
    return type(thing).__name__

"""Settings files and recipes that were altered, each met by the check that it is for."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile.row import ODE, PIXELS, REPRODUCE, TRAIN, Row

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
ALTERED = "tests/hostile/other_recipes.py {here}/recipes"
DEEP = 100_000  # brackets, more than Python's stack holds

# content of c.toml: what is said of it
TOML = {
    "is no TOML": (b"lr = = 1", r"c\.toml: not TOML"),
    "has NUL bytes": (b"lr = 1e-3\n\0\0\0", r"c\.toml: not TOML"),
    "is not UTF-8": (b"\xff\xfelr = 1", r"c\.toml: not TOML"),
    "is a checkpoint's bytes": (b"PK\x03\x04" + bytes(range(256)), r"c\.toml: not TOML"),
    "nests too deep": (b"betas = " + b"[" * DEEP, r"c\.toml: not TOML"),
    "says a key twice": (b"lr = 1\nlr = 2", r"c\.toml: not TOML"),
    "says a key in two spellings": (b"max-steps = 1\nmax_steps = 1", "max_steps: given twice"),
    "has an unknown key": (b"leaning-rate = 1", "leaning-rate: no setting of .train"),
    "has a text for a number": (b'lr = "fast"', r"c\.toml: lr: "),
    "has a fraction for a whole number": (b"encoder-depth = 1.5", r"c\.toml: encoder-depth: "),
    "has a number for a text": (b"reg-scheduler = 3", r"c\.toml: reg-scheduler: "),
    "has a day for a number": (b"lr = 2020-01-01", r"c\.toml: lr: "),
    "has a table for a list": (b"betas = { a = 1 }", r"c\.toml: betas: "),
    "has a list too short": (b"betas = [0.9]", r"c\.toml: betas: |--betas"),
    "has NaN": (b"lr = nan", "lr"),
    "has an enormous number": (b"seed-not = 1" + b"0" * 5000, r"c\.toml: "),
    "extends itself": (b'extends = "c.toml"', "in a circle, c.toml -> c.toml"),
    "extends a number": (b"extends = 3", "extends: 3 must be a text"),
    "extends no file": (b'extends = "none.toml"', "there is no file .*none.toml"),
    "extends a folder": (b'extends = "."', "there is no file"),
    "has settings outside of its sections": (b"lr = 1\n[train]\nseed = 1", r"c\.toml: lr: "),
}  # fmt: skip
JSON = {
    "is empty": (b"", r"c\.json: not JSON"),
    "is a list": (b"[1, 2]", r"c\.json: it must hold settings by name"),
    "is null": (b"null", r"c\.json: it must hold settings by name"),
    "nests too deep": (b"[" * DEEP, r"c\.json: not JSON"),
    "has a list for a number": (b'{"lr": [1]}', r"c\.json: lr: "),
    "has infinity": (b'{"lr": Infinity}', "lr"),
}
# content of common.toml in a copy of the recipes: what is said of it
RECIPE = {
    "is no TOML": (b"[", r"common\.toml: not TOML"),
    "is NUL bytes": (bytes(100), r"common\.toml: not TOML"),
    "nests too deep": (b"a = " + b"[" * DEEP, r"common\.toml: not TOML"),
    "extends a child": (b'extends = "b2-vanilla.toml"', "in a circle"),
    "has an unknown setting": (b"[train]\nlearn = 1", r"common\.toml: learn: no setting"),
}
ROW = {
    "has no title": (b'[paper]\nsource = "a"', r"row\.toml: .*title"),
    "has an unknown fact": (b'[paper]\nttle = "a"', r"row\.toml: ttle: "),
    "has a text for a table": (
        b'[paper]\ntitle = "a"\nsource = "b"\npublished = "36"', "published: '36' must be"),
    "has a text for a value": (
        b'[paper]\ntitle = "a"\nsource = "b"\npublished = { fid = "36" }', r"row\.toml: .*fid"),
    "has a curve by names": (
        b'[paper]\ntitle = "a"\nsource = "b"\ncurve = { first = 3.0 }', r"row\.toml: .*curve"),
    "has a number for a list": (
        b'[paper]\ntitle = "a"\nsource = "b"\nsilent = 3', r"row\.toml: .*silent"),
    "has a number for a variant's flags": (
        b'[paper]\ntitle = "a"\nsource = "b"\nvariants = [{ name = "x", train = 3 }]',
        r"row\.toml: .*variants"),
    "has an unknown summary": (
        b'[paper]\ntitle = "a"\nsource = "b"\nsummary = "median"', r"row\.toml: .*summary"),
}  # fmt: skip


def write(name: str, content: bytes) -> Callable[[Path, Path], object]:
    return lambda here, box: (here / name).write_bytes(content)


def write_recipe(name: str, content: bytes) -> Callable[[Path, Path], None]:
    """Prepare recipes/ with this file beside or in place of the project's."""

    def prepare(here: Path, box: Path) -> None:
        (here / "recipes").mkdir()
        for recipe in ("common.toml", "b2-vanilla.toml"):
            shutil.copy(RECIPES / recipe, here / "recipes")
        (here / "recipes" / name).write_bytes(content)

    return prepare


def config_rows() -> Iterator[Row]:
    for suffix, contents in {"toml": TOML, "json": JSON}.items():
        train = f"{TRAIN} --config {{here}}/c.{suffix}"
        for what, (content, says) in contents.items():
            yield Row(f"{suffix}: {what}", train, says, write(f"c.{suffix}", content))

    def circle(here: Path, box: Path) -> None:
        for name, parent in ("ab", "bc", "ca"):
            (here / f"{name}.toml").write_text(f'extends = "{parent}.toml"')

    def chain(here: Path, box: Path) -> None:
        for i in range(200):
            (here / f"{i}.toml").write_text(f'extends = "{i + 1}.toml"')
        (here / "200.toml").write_text("")

    yield Row("toml: three in a circle", f"{TRAIN} --config {{here}}/a.toml",
              "in a circle, a.toml -> b.toml -> c.toml -> a.toml", circle)  # fmt: skip
    yield Row(
        "toml: a chain of 200",
        f"{TRAIN} --config {{here}}/0.toml",
        "more than 50 files extend",
        chain,
    )
    yield Row("toml: is empty", f"{TRAIN} --config {{here}}/c.toml", None, write("c.toml", b""))
    folder = f"{TRAIN} --config {{here}}/c.toml"
    yield Row("toml: is a folder", folder, r"c\.toml", lambda here, box: (here / "c.toml").mkdir())
    yield Row("toml: of another format", f"{TRAIN} --config {{here}}/c.yaml", r"c\.yaml",
              write("c.yaml", b"lr: 1"))  # fmt: skip
    sample = ODE.replace("sample_ddp.py ODE", "sample_ddp.py")
    yield Row("samples' toml: unknown solver", f"{sample} --config {{here}}/c.toml",
              "solver: 'PDE' must be one", write("c.toml", b'solver = "PDE"'))  # fmt: skip
    yield Row("samples' npz: cut", f"{sample} --config {{here}}/c.npz", r"c\.npz: damaged, or",
              write("c.npz", b"PK\x03\x04"))  # fmt: skip
    yield Row("scores' toml: text for a number", f"{PIXELS} --config {{here}}/c.toml",
              r"c\.toml: batch-size: ", write("c.toml", b'batch-size = "many"'))  # fmt: skip


def recipe_rows() -> Iterator[Row]:
    show, run = f"{ALTERED} show b2-vanilla", REPRODUCE.replace("scripts/reproduce.py", ALTERED)
    for what, (content, says) in RECIPE.items():
        yield Row(f"common recipe: {what}", run, says, write_recipe("common.toml", content))
    for what, (content, says) in ROW.items():
        yield Row(f"recipe: {what}", show, says, write_recipe("row.toml", content))


def settings_rows() -> list[Row]:
    return [*config_rows(), *recipe_rows()]

"""The package stands alone: the wheel holds nothing else, and importing it imports only torch."""

import subprocess
import sys
import zipfile

import pytest
from forking import ENVIRONMENT
from launching import ROOT

LOADED = """
import sys
import torch
before = set(sys.modules)
import layersync
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(layersync.__file__)
print(sorted(new - set(sys.stdlib_module_names) - {"layersync", "torch"}))
"""


def run(*command, **rest) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, **rest)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_wheel_installs_alone_and_imports_torch_only(tmp_path):
    pytest.importorskip("pip")  # which an environment made by uv has not
    source = tmp_path / "source"  # so that no build folder is left here
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "layersync", "training"):
        (source / name).symlink_to(ROOT / name)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run(sys.executable, "-m", "pip", *build, "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("layersync-*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    modules = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    ours = {f"layersync/{path.name}" for path in (ROOT / "layersync").glob("*.py")}
    assert modules == ours | {"layersync/py.typed"}
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert [line for line in required if "extra ==" not in line] == ["Requires-Dist: torch>=2.6"]

    environment = {**ENVIRONMENT, "PYTHONPATH": str(installed)}
    file, others = run(sys.executable, "-c", LOADED, cwd=tmp_path, env=environment).splitlines()
    assert file == str(installed / "layersync" / "__init__.py")
    assert others == "[]"

"""Settings from files: order, parents, types, and one clear line for what is wrong."""

import json
import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import pytest
import tyro

from runtime.command import parse_command
from runtime.settings_chain import Section
from runtime.settings_file import expand_config


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    """a number"""
    betas: tuple[float, float] = (0.9, 0.99)
    """two"""
    steps: tuple[int, ...] = ()
    """any number"""


@dataclass(frozen=True)
class Settings:
    ALTERNATIVES: ClassVar[tuple[tuple[str, ...], ...]] = (("path", "name"),)

    config: str | None = None
    """a file"""
    samples: Annotated[str, tyro.conf.Positional] = "."
    """a word that is no flag"""
    path: str | None = None
    """a place"""
    name: str | None = None
    """a name"""
    data_size: int | None = 3
    """a whole number or none"""
    kind: Literal["3", "all"] = "3"
    """a choice"""
    quick: bool = True
    """a switch"""
    text: str = "default"
    """a text"""
    inner: Annotated[Inner, tyro.conf.OmitArgPrefixes] = field(default_factory=Inner)


@dataclass(frozen=True)
class Other:
    config: str | None = None
    """a file"""
    weight: float = 1.0
    """a number"""


SECTION = Section("train")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write files into the folder in which the command is given."""
    monkeypatch.chdir(tmp_path)

    def write(**contents: str) -> None:
        for name, content in contents.items():
            path = tmp_path / name.replace("__", ".")
            path.write_text(content)

    return write


def parse(line: str, config=Settings, section: Section = SECTION, prepare=None):
    return parse_command(config, line.split(), "train.py", section=section, prepare=prepare)


def refused(line: str, capsys, **more) -> str:
    with pytest.raises(SystemExit) as exit:
        parse(line, **more)
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.count("\n") == 1
    return said


def test_all_types_from_toml_and_json(files):
    values = {
        "data-size": 7, "--rate": 1, "betas": [0.1, 1e-3], "kind": 3, "quick": False,
        "text": "-a b", "steps": [4, 5], "path": "x y",
    }  # fmt: skip
    toml = '"--rate" = 1\ndata-size = 7\nbetas = [0.1, 1e-3]\nkind = 3\nquick = false\n'
    files(a__json=json.dumps(values), a__toml=toml + 'text = "-a b"\nsteps = [4, 5]\npath = "x y"')
    inner = Inner(rate=1.0, betas=(0.1, 1e-3), steps=(4, 5))
    for name in ("a.json", "a.toml"):
        settings = parse(f"samples.npz --config {name}")
        assert settings == Settings(
            config=name, samples="samples.npz", path="x y", data_size=7, kind="3", quick=False,
            text="-a b", inner=inner,
        )  # fmt: skip


def test_defaults_preset_file_command_line(files):
    files(a__toml="rate = 0.2\ndata_size = 4")

    def preset(args):
        return ["--rate", "0.1", "--data-size", "9", "--text", "preset", *args]

    settings = parse("--data-size 5 --config a.toml", prepare=preset)
    assert (settings.text, settings.inner.rate, settings.data_size) == ("preset", 0.2, 5)
    assert settings.inner.betas == Inner().betas


def test_a_parent_is_overridden_and_taken_back(files, tmp_path):
    (tmp_path / "below").mkdir()
    files(grand__toml='text = "grand"\nrate = 0.1\nquick = false')
    (tmp_path / "parent.toml").write_text('extends = "grand.toml"\nrate = 0.2\ndata-size = 8')
    child = tmp_path / "below" / "child.toml"
    child.write_text('extends = "../parent.toml"\ntext = "None"\ndata_size = "None"\n')
    settings = parse(f"--config {child}")
    assert (settings.inner.rate, settings.quick) == (0.2, False)
    assert settings.text == "default"  # that it is unset
    assert settings.data_size is None  # which is one of its values


def test_an_alternative_replaces_what_a_parent_or_file_says(files):
    files(parent__toml='path = "a"\nrate = 1.0', child__toml='extends = "parent.toml"\nname = "b"')
    assert (parse("--config child.toml").path, parse("--config child.toml").name) == (None, "b")
    settings = parse("--config child.toml --path c")
    assert (settings.path, settings.name, settings.inner.rate) == ("c", None, 1.0)


def test_each_command_takes_its_own_section(files):
    files(recipe__toml="[train]\nrate = 0.3\n[sample]\nweight = 2\n[paper]\nfid = 1.5")
    assert parse("--config recipe.toml").inner.rate == 0.3
    assert parse("--config recipe.toml", Other, Section("sample")).weight == 2.0
    assert parse("--config recipe.toml", Other, Section("evaluate")).weight == 1.0


def test_the_first_word_may_be_in_the_file(files, capsys):
    both, section = {"A": Settings, "B": Other}, Section("sample", word="solver")
    files(b__toml='solver = "B"\nweight = 3', a__toml='solver = "A"\nweight = 3')
    assert parse("--config b.toml", both, section) == Other("b.toml", 3.0)
    assert parse("B --weight 4 --config b.toml", both, section).weight == 4.0
    said = refused("A --config b.toml", capsys, config=both, section=section)
    assert "b.toml: solver: it is B, not A" in said
    said = refused("--config a.toml", capsys, config=both, section=section)
    assert "a.toml: weight: A has no such flag" in said


def test_records_of_the_command_itself(files):
    section = Section("train", from_record=lambda content: content.get("record"))
    files(run__json='{"record": {"rate": 0.7}, "more": 1}', plain__json='{"rate": 0.8}')
    assert parse("--config run.json", section=section).inner.rate == 0.7
    assert parse("--config plain.json", section=section).inner.rate == 0.8


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("ratte = 1", r"a\.toml: ratte: no setting of \[train\]; did you mean rate\?"),
        ("zzz = 1", r"a\.toml: zzz: no setting of \[train\]; the flags of --help are known"),
        ("config = 'b.toml'", r"a\.toml: config: no setting"),
        ("samples = 'b'", r"a\.toml: samples: no setting"),
        ("rate = '1'", r"a\.toml: rate: '1' must be a number"),
        ("rate = nan", r"a\.toml: rate: nan must be a number"),
        ("data-size = 1.5", r"a\.toml: data-size: 1\.5 must be a whole number"),
        ("data-size = true", r"a\.toml: data-size: True must be a whole number"),
        ("quick = 1", r"a\.toml: quick: 1 must be true or false"),
        ("kind = 'some'", r"a\.toml: kind: 'some' must be one of 3, all"),
        ("betas = [1.0]", r"a\.toml: betas: \[1\.0\] must be a list of 2 values, each a number"),
        ("betas = 0.5", r"a\.toml: betas: 0\.5 must be a list of 2 values"),
        ("text = {a = 1}", r"a\.toml: text: \{'a': 1\} must be a text"),
        ("rate = 1\n'--rate' = 2", r"a\.toml: --rate: given twice"),
        ("[train]\nrate = 1\n[smaple]\nb = 1", r"a\.toml: smaple: did you mean sample\?"),
        ("rate = 1\n[train]\nquick = true", r"a\.toml: rate: .*nothing outside of \[train\]"),
        ("rate = ", r"a\.toml: not TOML \("),
        ("extends = 3", r"a\.toml: extends: 3 must be a text"),
        ("extends = 'b.toml'", r"a\.toml: extends = 'b\.toml': there is no file b\.toml"),
        ("extends = 'a.toml'", r"a\.toml: files extend each other in a circle, a\.toml -> a\.toml"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_key(files, content, says, capsys):
    files(a__toml=content)
    line = refused("--config a.toml", capsys)
    assert re.search(says, line), line


def test_a_circle_of_three_files_is_shown(files, capsys):
    files(a__toml="extends = 'b.toml'", b__toml="extends = 'c.toml'", c__toml="extends = 'a.toml'")
    assert "a.toml -> b.toml -> c.toml -> a.toml" in refused("--config a.toml", capsys)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--config none.toml", "none.toml: no such file or folder"),
        ("--config a.yaml", "--config a.yaml: the name of its format must end it: .toml, .json"),
        ("--config", "--config: give it the name of a .toml or .json file"),
        ("--config=", "--config: give it the name"),
        ("--config a.json --config a.json", "--config is given 2 times (a.json, a.json)"),
        ("--config a.json", "a.json: it must hold settings by name"),
        ("--config folder.toml", "folder.toml: it is a folder"),
    ],
)
def test_files_that_are_no_settings(files, line, says, tmp_path, capsys):
    (tmp_path / "folder.toml").mkdir()
    files(a__json="[1]")
    assert says in refused(line, capsys)


def test_no_file_leaves_the_command_line_alone():
    words = ["a", "--config-x", "b"]
    assert expand_config(words, Settings, SECTION) is words

"""Checkpoints on the hub, from a cache that the test lays out as the hub's client does."""

import time

import huggingface_hub
import pytest
import torch
from fake_hub import FakeHub

from models import published
from models.checkpoint_file import read_checkpoint
from runtime.command import RunError
from runtime.hub import check_push, is_hub_name, push

REVISION = "0" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """org/tiny with weights.pt and README.md, org/two with two files of weights; no network."""
    for name, files in {"tiny": ["weights.pt"], "two": ["a.pt", "sub/b.safetensors"]}.items():
        root = tmp_path / f"models--org--{name}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text(REVISION)
        for file in files:
            path = root / "snapshots" / REVISION / file
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"ema": {"w": torch.ones(2)}}, path)
    listed = {"org/tiny": ["README.md", "weights.pt"], "org/two": ["a.pt", "sub/b.safetensors"]}
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda source: listed[source])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    download = huggingface_hub.hf_hub_download
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda source, file: download(source, file, cache_dir=str(tmp_path)),
    )


@pytest.mark.parametrize("name", ["org/tiny", "org/tiny/weights.pt", "org/two/a.pt"])
def test_a_file_is_found_by_name_or_as_the_only_one(cache, name):
    assert torch.equal(read_checkpoint(name)["ema"]["w"], torch.ones(2))


def test_what_is_not_there_is_said_in_one_line(cache):
    with pytest.raises(ValueError, match=r"2 files of weights there, name one: org/two/a\.pt, org"):
        read_checkpoint("org/two")
    with pytest.raises(ValueError, match=r"^checkpoint org/tiny/gone\.pt: no such file, and not"):
        read_checkpoint("org/tiny/gone.pt")


def test_a_file_that_a_repository_lacks_is_answered_with_those_it_has(cache, monkeypatch):
    class Gone(OSError, huggingface_hub.errors.EntryNotFoundError):
        """As the client says it, on the network."""

    def gone(*_, **__):
        raise Gone("404 Client Error. Entry Not Found")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gone)
    said = (
        r"two/c\.pt: no such file, and .*\(org/two has org/two/a\.pt, org/two/sub/b\.safetensors\)$"
    )
    with pytest.raises(ValueError, match=said):
        read_checkpoint("org/two/c.pt")


def test_local_names_are_not_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    assert is_hub_name("org/name") and is_hub_name("org/name/sub/file.pt")
    deep = "results/run/checkpoints/0000700.pt"
    for name in ("gone.pt", "./org/gone.pt", "/org/name", "results/gone.pt", deep, "../a/b"):
        assert not is_hub_name(name)
        with pytest.raises(ValueError, match=r"no such file$"):
            read_checkpoint(name)


def test_without_a_connection_one_look_is_enough(monkeypatch, capsys):
    """Nobody listens at that port: refused at once, where the client would try for 24 s."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(
        ValueError, match=r"resuls/run/1\.pt: no such file, and not .*no connection"
    ):
        read_checkpoint("resuls/run/1.pt")
    assert "looking on the Hugging Face hub" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda source: pytest.fail("asked"))
    said = r"org/new: no such file, .*no connection: .*; a file .* is had as org/new/FILE\)$"
    with pytest.raises(ValueError, match=said):
        read_checkpoint("org/new")
    with pytest.raises(ValueError, match="--push-to-hub a/b: the Hugging Face hub is out of"):
        check_push("a/b")
    assert time.monotonic() - started < 10


def test_a_published_name_that_cannot_be_had_says_where_it_would_be(cache, monkeypatch):
    place = published.Published("org/two/gone.pt", "a test")
    monkeypatch.setitem(published.PUBLISHED, "sit-xl-2", place)
    said = r"^checkpoint sit-xl-2, org/two/gone\.pt: no such file, and not on the Hugging Face hub"
    with pytest.raises(ValueError, match=said):
        read_checkpoint("sit-xl-2")


def test_what_the_hub_refuses_to_publish_is_one_line(tmp_path, monkeypatch):
    """A token that it does not know; at the end, where it was withdrawn meanwhile."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "another")
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "README.md").write_text("A page.")
    with FakeHub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        with pytest.raises(ValueError, match=r"org/a: the hub does not know who you are \(.*hf a"):
            check_push("org/a")
        said = rf"^--push-to-hub org/a: refused \(.*401.*\); {folder} is whole, the same command"
        with pytest.raises(RunError, match=said):
            push(folder, "org/a", private=False)
        assert not hub.repos
        monkeypatch.setenv("HF_TOKEN", "secret")
        check_push("org/a")
        assert push(folder, "org/a", private=False) == f"{hub.url}/org/a"
        assert hub.repos["org/a"] == {"README.md": b"A page."}

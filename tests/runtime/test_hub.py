"""Checkpoints on the hub, from a cache that the test lays out as the hub's client does."""

import time

import huggingface_hub
import pytest
import torch

from models.checkpoint_file import read_checkpoint
from runtime.hub import is_hub_name

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
    assert time.monotonic() - started < 10
    assert "looking on the Hugging Face hub" in capsys.readouterr().err

"""Many processes, one of which lists the images: what others would find does not count."""

import json
import shutil

import numpy as np
import pytest
from launching import save_tiny_vae
from PIL import Image


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """(the images, the same under another name, where a listing shows one more)."""
    folder, generator = tmp_path_factory.mktemp("seen") / "images", np.random.default_rng(0)
    for i in range(12):
        path = folder / f"class{i % 3}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    other = tmp_path_factory.mktemp("other") / "images"
    shutil.copytree(folder, other)
    shutil.copy(path, other / "class0" / "more.png")
    return folder, other


def run(server, *words) -> None:
    """Run two processes with words of their own to their ends."""
    ranks = server.start_ranks(list(words), 2)
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.stderr for rank in ranks]


def test_latents(fork_server, images, tmp_path):
    vae = save_tiny_vae(tmp_path / "vae")

    def words(folder, out) -> list:
        return [
            "scripts/cache_latents.py", "--data-path", folder, "--vae", vae, "--image-size", 16,
            "--shard-size", 3, "--batch-size", 3, "--num-workers", 0, "--min-free-disk", 0,
            "--out", out,
        ]  # fmt: skip

    seen, other = images
    alone = fork_server.start(words(seen, tmp_path / "alone"))
    run(fork_server, words(seen, tmp_path / "out"), words(other, tmp_path / "out"))
    assert alone.wait() == 0
    files = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "out").iterdir())
    for name in files:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_scores(fork_server, images, tmp_path):
    seen, other = images

    def words(folder) -> list:
        return ["-m", "evaluation", folder, "--ref", seen, "--pixels", "--out", tmp_path / "m.json"]

    run(fork_server, words(seen), words(other))
    assert json.loads((tmp_path / "m.json").read_text())["counts"]["samples"] == 12

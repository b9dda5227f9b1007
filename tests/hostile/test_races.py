"""Two of a kind at once, and a killed one beside a living one: real processes, several delays.

Whoever comes second waits for the first or is refused by name; what is written is always what one
process alone writes.
"""

import re
import socket
import time

import numpy as np
import pytest
import torch
from launching import TINY, logged_rows, save_tiny_vae
from PIL import Image
from random_sit import save_random_sit

from runtime.locks import PATIENCE

DELAYS = [0.0, pytest.param(0.1, marks=pytest.mark.slow), 0.4]
PATIENT, HASTY = {PATIENCE: "60"}, {PATIENCE: "0"}
HOST = re.escape(socket.gethostname())
IN_USE = rf"error: .*in use by (process \d+ on {HOST}|another process); wait for it or end it"
DONE = "already holds a run|a complete cache is there"  # when the other one was that much earlier


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_random_sit(path, in_channels=3, num_classes=5)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for i in range(24):
        path = folder / f"class{i % 3}" / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


def sampler(checkpoint, out) -> list:
    return [
        "sample_ddp.py", "ODE", "--ckpt", checkpoint, "--vae", "none", "--num-fid-samples", 40,
        "--per-proc-batch-size", 2, "--num-sampling-steps", 3, "--sampling-method", "heun2",
        "--out", out,
    ]  # fmt: skip


def trainer(results, *more) -> list:
    return [
        "train.py", *TINY, "--dataset-name", "digits", "--num-classes", 10, "--max-steps", 12,
        "--global-batch-size", 8, "--num-workers", 0, "--log-every", 1, "--ckpt-every", 3,
        "--sample-every", 0, "--results-dir", results, "--run-name", "run", *more,
    ]  # fmt: skip


def latent_cacher(images, vae, out) -> list:
    return [
        "scripts/cache_latents.py", "--data-path", images, "--vae", vae, "--image-size", 16,
        "--shard-size", 3, "--batch-size", 3, "--num-workers", 0, "--min-free-disk", 0,
        "--out", out,
    ]  # fmt: skip


def feature_cacher(images, weights, out) -> list:
    return [
        "scripts/cache_features.py", "--data-path", images, "--image-size", 16, "--side", 4,
        "--encoder", "test_vit", "--encoder-weights", weights, "--batch-size", 1,
        "--num-workers", 0, "--min-free-disk", 0, "--out", out,
    ]  # fmt: skip


def contents(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def race(server, words, delay: float, environment: dict) -> list:
    """Start the same command twice, `delay` seconds apart, and wait for both."""
    first = server.start(words, environment=environment)
    time.sleep(delay)
    both = [first, server.start(words, environment=environment)]
    for process in both:
        process.wait(120)
    return both


def wait_for(condition, *processes) -> None:
    """Wait until the condition holds, or one of the processes has ended well before it was seen."""
    deadline = time.monotonic() + 60
    while not condition() and all(process.poll() is None for process in processes):
        assert time.monotonic() < deadline, [process.stderr for process in processes]
        time.sleep(0.005)
    assert not any(process.poll() for process in processes), [p.stderr for p in processes]


def check_one_was_refused(both, repeatable: bool = False) -> None:
    """On a busy machine one may end before the other looks: a repeatable work is then accepted."""
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 2] or (repeatable and codes == [0, 0]), [p.stderr for p in both]
    for process in both:
        if process.returncode:
            assert re.search(f"{IN_USE}|{DONE}", process.stderr), process.stderr


@pytest.fixture(scope="module")
def samples(fork_server, checkpoint, tmp_path_factory):
    """The .npz that one sampler alone writes."""
    out = tmp_path_factory.mktemp("alone") / "a.npz"
    assert fork_server.start(sampler(checkpoint, out)).wait() == 0
    return out.read_bytes()


@pytest.mark.parametrize("delay", DELAYS)
def test_two_samplers(fork_server, checkpoint, samples, tmp_path, delay):
    both = race(fork_server, sampler(checkpoint, tmp_path / "a.npz"), delay, PATIENT)
    assert [process.returncode for process in both] == [0, 0], [p.stderr for p in both]
    assert sorted("complete already" in process.stdout for process in both) == [False, True]
    assert (tmp_path / "a.npz").read_bytes() == samples
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.png"]


def test_a_sampler_that_does_not_wait_is_refused(fork_server, checkpoint, samples, tmp_path):
    both = race(fork_server, sampler(checkpoint, tmp_path / "a.npz"), 0.1, HASTY)
    check_one_was_refused(both, repeatable=True)
    assert (tmp_path / "a.npz").read_bytes() == samples


def test_two_launches_of_two_samplers(fork_server, checkpoint, samples, tmp_path):
    words = sampler(checkpoint, tmp_path / "a.npz")
    ranks = [*fork_server.start_ranks(words, 2, environment=PATIENT)]
    ranks += fork_server.start_ranks(words, 2, environment=PATIENT)
    assert [rank.wait(120) for rank in ranks] == [0] * 4, [rank.stderr for rank in ranks]
    assert (tmp_path / "a.npz").read_bytes() == samples
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.png"]


@pytest.mark.parametrize("parts", [1, pytest.param(8, marks=pytest.mark.slow), 20])
def test_a_killed_sampler_beside_one_that_waits(fork_server, checkpoint, samples, tmp_path, parts):
    """The second one takes over what the first has finished."""
    words, folder = sampler(checkpoint, tmp_path / "a.npz"), tmp_path / "a.npz.parts"
    killed = fork_server.start(words)
    second = fork_server.start(words, environment=PATIENT)
    wait_for(lambda: len(list(folder.glob("*.npz"))) >= parts, killed, second)
    killed.kill()
    assert second.wait(120) == 0, second.stderr
    if not (tmp_path / "a.npz").exists():  # the second one was first, and the killed one idle
        assert fork_server.start(words).wait(120) == 0
    assert (tmp_path / "a.npz").read_bytes() == samples and not folder.exists()


@pytest.fixture(scope="module")
def rows(fork_server, tmp_path_factory):
    """Return what one training alone logs."""
    results = tmp_path_factory.mktemp("alone")
    assert fork_server.start(trainer(results)).wait(120) == 0
    return logged_rows(results / "run")


@pytest.mark.parametrize("delay", DELAYS)
def test_two_trainings(fork_server, rows, tmp_path, delay):
    check_one_was_refused(race(fork_server, trainer(tmp_path), delay, HASTY))
    assert logged_rows(tmp_path / "run") == rows


def test_a_training_that_continues_waits_for_the_one_at_work(fork_server, rows, tmp_path):
    words = trainer(tmp_path, "--resume", "latest")
    both = race(fork_server, words, 0.1, PATIENT)
    assert [process.returncode for process in both] == [0, 0], [p.stderr for p in both]
    assert logged_rows(tmp_path / "run") == rows


def test_a_killed_training_beside_one_that_continues(fork_server, rows, tmp_path):
    words = trainer(tmp_path, "--resume", "latest")
    killed = fork_server.start(words)
    wait_for(lambda: list(tmp_path.glob("run/checkpoints/*3.pt")), killed)
    second = fork_server.start(words, environment=PATIENT)
    time.sleep(0.2)
    killed.kill()
    assert second.wait(120) == 0, second.stderr
    np.testing.assert_allclose(logged_rows(tmp_path / "run"), rows, rtol=1e-6)


@pytest.fixture(scope="module")
def caches(fork_server, images, tmp_path_factory):
    """{kind: (command up to the folder, what one process alone writes)}."""
    import timm

    folder = tmp_path_factory.mktemp("caches")
    vae, weights = save_tiny_vae(folder / "vae"), folder / "vit.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), weights)
    made = {}
    for kind, command, needs in (
        ("latents", latent_cacher, vae),
        ("features", feature_cacher, weights),
    ):
        words = command(images, needs, folder / kind)
        process = fork_server.start(words)
        assert process.wait(120) == 0, process.stderr
        made[kind] = words[:-1], contents(folder / kind)
    return made


@pytest.mark.parametrize("kind", ["latents", "features"])
@pytest.mark.parametrize("delay", DELAYS)
def test_two_caches(fork_server, caches, tmp_path, kind, delay):
    words, alone = caches[kind]
    both = race(fork_server, [*words, tmp_path / "out"], delay, HASTY)
    check_one_was_refused(both, repeatable=kind == "latents")
    assert contents(tmp_path / "out") == alone


@pytest.mark.parametrize("kind", ["latents", "features"])
def test_a_killed_cache_beside_one_that_waits(fork_server, caches, tmp_path, kind):
    words, alone = caches[kind]
    begun = {"latents": "**/00002.json", "features": "done.npy"}[kind]
    killed = fork_server.start([*words, tmp_path / "out"])
    wait_for(lambda: list((tmp_path / "out").glob(begun)), killed)
    second = fork_server.start([*words, tmp_path / "out"], environment=PATIENT)
    time.sleep(0.05)
    killed.kill()
    second.wait(120)
    if second.returncode == 2:  # the first one was done already
        assert "a complete cache is there" in second.stderr
    else:
        assert second.returncode == 0, second.stderr
    assert contents(tmp_path / "out") == alone

"""A file system that several nodes share: listings of different age, and processes that die.

The second process of a launch is given copies of the folders as they were some time ago. What the
first process sees must decide.
"""

import multiprocessing
import os
import shutil
import signal
import socket
import time

import numpy as np
import pytest
import torch.distributed as dist
from launching import TINY, logged_rows
from PIL import Image

from runtime.processes import told_by_first
from training.building import check_same_data

FORK = multiprocessing.get_context("fork")


def trainer(images, results, steps: int, *more) -> list:
    return [
        "train.py", *TINY, "--data-path", images, "--num-classes", 3, "--max-steps", steps,
        "--global-batch-size", 8, "--num-workers", 0, "--log-every", 1, "--ckpt-every", 4,
        "--sample-every", 0, "--results-dir", results, "--run-name", "run", *more,
    ]  # fmt: skip


def two_nodes(server, *words) -> list:
    """Start one process on each of two nodes, each with words of its own."""
    return server.start_ranks(
        list(words), 2, environment={"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(24):
        path = folder / f"class{i % 3}" / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def older_images(images, tmp_path_factory):
    """The same folder before some images were removed."""
    older = tmp_path_factory.mktemp("older") / "images"
    shutil.copytree(images, older)
    for path in list(older.glob("class1/*"))[:3]:
        shutil.copy(path, path.with_name(f"more{path.name}"))
    return older


@pytest.fixture(scope="module")
def whole(fork_server, images, tmp_path_factory):
    """Results of a run of 12 steps on two processes that see the same."""
    results = tmp_path_factory.mktemp("whole")
    words = trainer(images, results, 12)
    for rank in two_nodes(fork_server, words, words):
        assert rank.wait() == 0, rank.stderr
    return results


def share_lock(results, other) -> None:
    """Give a shared folder's file another name here: there it is one file."""
    (other / "run").mkdir(parents=True, exist_ok=True)
    (other / "run" / "run.lock").symlink_to(results / "run" / "run.lock")


def test_the_first_process_decides_which_checkpoint_is_resumed(
    fork_server, whole, images, older_images, tmp_path
):
    """The second one does not see the newest checkpoint, and still sees images that are gone."""
    results, older = tmp_path / "now", tmp_path / "before"
    for folder, unseen in ((results, ["12"]), (older, ["12", "08"])):
        shutil.copytree(whole, folder)
        for step in unseen:
            (folder / "run" / "checkpoints" / f"00000{step}.pt").unlink()
    share_lock(results, older)
    ranks = two_nodes(
        fork_server,
        trainer(images, results, 12, "--resume", "latest"),
        trainer(older_images, older, 12, "--resume", "latest"),
    )
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.stderr for rank in ranks]
    assert "steps 8 to 12" in ranks[0].stdout
    assert logged_rows(results / "run") == logged_rows(whole / "run")


def test_the_first_process_decides_whether_the_folder_is_new(fork_server, whole, images, tmp_path):
    """The second one still sees a run there that was removed."""
    older = tmp_path / "before"
    shutil.copytree(whole, older)
    share_lock(tmp_path / "now", older)
    ranks = two_nodes(
        fork_server, trainer(images, tmp_path / "now", 12), trainer(images, older, 12)
    )
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.stderr for rank in ranks]
    assert logged_rows(tmp_path / "now" / "run") == logged_rows(whole / "run")


def test_a_process_that_dies_ends_the_others_within_a_minute(fork_server, images, tmp_path):
    """Without a launcher that would; what killed it may not happen again."""
    words, outcome = trainer(images, tmp_path, 100_000), tmp_path / "outcome"
    environment = {"LAYERSYNC_OUTCOME": str(outcome)}
    first, second = fork_server.start_ranks(words, 2, environment=environment)
    log = tmp_path / "run" / "metrics.jsonl"
    while not log.exists() or not log.read_text():
        assert first.poll() is None, first.stderr
        time.sleep(0.01)
    os.kill(second.pid, signal.SIGKILL)
    assert first.wait(timeout=60) == 1 and not outcome.exists()
    assert "train.py: error: another process of this launch has ended" in first.stderr
    assert "Traceback" not in first.stderr


def tell(rank: int, port: int, queue) -> None:
    place = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    heard: list = [told_by_first(lambda: {"step": rank}), told_by_first(lambda: None)]
    for error in (ValueError("first: it is bad"), FileNotFoundError(2, "gone", "/net/x")):
        try:
            told_by_first(lambda e=error: refuse(e) if rank == 0 else "good here")
        except (ValueError, OSError) as raised:
            heard.append((type(raised), str(raised)))
    queue.put(heard)
    dist.destroy_process_group()


def refuse(error: Exception):
    raise error


def test_what_the_first_process_finds_is_what_all_find():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = FORK.Queue()
    both = [FORK.Process(target=tell, args=(rank, port, queue)) for rank in range(2)]
    for process in both:
        process.start()
    heard = [queue.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    refused = [
        (ValueError, "first: it is bad"),
        (FileNotFoundError, "[Errno 2] gone: '/net/x'"),
    ]
    assert heard == [[{"step": 0}, None, *refused]] * 2
    assert told_by_first(lambda: "alone") == "alone"


def test_a_process_that_sees_less_of_the_data_is_refused(monkeypatch):
    monkeypatch.setattr("training.building.told_by_first", lambda find: 7)
    with pytest.raises(ValueError, match="--data-path: 5 images here and 7 on the first process"):
        check_same_data(range(5))
    check_same_data(range(7))

"""train.py on data that says what it is: sizes, run names, caches with their codec; resuming."""

import json
import shutil

import numpy as np
import pytest
from forking import ENVIRONMENT
from launching import check, logged_rows, run, save_tiny_vae
from PIL import Image

SHORT = [
    "--model", "SiT-Ti/2", "--global-batch-size", "4", "--max-steps", "2", "--log-every", "1",
    "--num-workers", "0",
]  # fmt: skip
NO_PICTURES = ["--sample-every", "0"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight noise images of 16 pixels in two classes."""
    root = tmp_path_factory.mktemp("root") / "photos" / "train"
    generator = np.random.default_rng(0)
    for i in range(8):
        path = root / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A run on the digits without any flag about them, and its folder."""
    results = tmp_path_factory.mktemp("results")
    said = check("train.py", *SHORT, *NO_PICTURES, "--dataset-name", "digits",
                 "--results-dir", results, "--lr", "1e-2", "--ckpt-every", 1)  # fmt: skip
    (folder,) = results.iterdir()
    return folder, said


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_size_classes_and_codec_come_from_the_data(digits_run):
    folder, said = digits_run
    stored = config_of(folder)
    assert (stored["image_size"], stored["num_classes"], stored["vae"]) == (8, 10, "none")
    assert folder.name == "SiT-Ti-2-layer_sync-2-5-lambda0.3-digits-8px-seed0"
    assert str(folder) in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--image-size 256", "--image-size 256: the first 8 images are smaller, at most 16x16"),
        ("--num-classes 1000", "--num-classes 1000: the data has 2; leave it out"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_any_work(photos, flags, says, tmp_path):
    words = [*SHORT, "--data-path", photos, "--vae", "none", "--results-dir", tmp_path / "r"]
    done = run("train.py", *words, *flags.split())
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_resize_takes_smaller_images(photos, tmp_path):
    words = [*SHORT, *NO_PICTURES, "--data-path", photos, "--vae", "none", "--max-steps", 1]
    check("train.py", *words, "--image-size", 24, "--resize", "--results-dir", tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith("-photos-24px-seed0") and config_of(folder)["image_size"] == 24


def test_a_folder_of_the_former_name_is_continued(digits_run, tmp_path):
    folder, _ = digits_run
    former = tmp_path / "SiT-Ti-2-layer_sync-2-5-lambda0.3-seed0"
    shutil.copytree(folder, former)
    (former / "checkpoints" / "0000002.pt").unlink()
    words = [*SHORT, *NO_PICTURES, "--dataset-name", "digits", "--lr", "1e-2", "--ckpt-every", 1]
    again = [*words, "--results-dir", tmp_path, "--resume", "latest"]
    assert f"steps 1 to 2, results in {former}" in check("train.py", *again)
    assert logged_rows(former) == logged_rows(folder)
    # another run there, which only had the same name, is left alone
    said = check("train.py", *again, "--global-batch-size", 8)
    assert f"results in {tmp_path / folder.name}" in said


def test_a_launch_that_is_started_again_goes_on_whatever_its_command_says(
    digits_run, tmp_path, monkeypatch
):
    """As torchrun's --max-restarts and a job that SLURM queued again start it."""
    folder, words = tmp_path / "run", [*SHORT, *NO_PICTURES, "--dataset-name", "digits"]
    shutil.copytree(digits_run[0], folder)
    last, first = (folder / "checkpoints" / f"000000{step}.pt" for step in (2, 1))
    last.unlink()
    new = [*words, "--lr", "1e-2", "--results-dir", tmp_path, "--run-name", "run"]
    assert "already holds a run" in run("train.py", *new).stderr
    monkeypatch.setitem(ENVIRONMENT, "SLURM_RESTART_COUNT", "1")
    assert f"steps 1 to 2, results in {folder}" in check("train.py", *new)
    # from a file for as long as the run has no checkpoint of its own, then from the newest
    file = tmp_path / "first.pt"
    shutil.copy(first, file)
    for steps in ("1 to 2", "2 to 2"):
        there = ["--resume", file, "--results-dir", tmp_path, "--run-name", "other"]
        assert f"steps {steps}, results in {tmp_path / 'other'}" in check("train.py", *there)


def test_resume_of_a_file_needs_no_other_flag(digits_run, tmp_path):
    folder, _ = digits_run
    run_folder = tmp_path / "moved" / "run"
    shutil.copytree(folder, run_folder)
    (run_folder / "checkpoints" / "0000002.pt").unlink()
    first = run_folder / "checkpoints" / "0000001.pt"
    for flag in ("--resume", "--ckpt"):
        assert f"steps 1 to 2, results in {run_folder}" in check("train.py", flag, first)
        assert logged_rows(run_folder) == logged_rows(folder)
        (run_folder / "checkpoints" / "0000002.pt").unlink()
    done = run("train.py", "--resume", first, "--lr", 1)
    assert done.returncode == 2 and "--lr: 0.01 there, 1.0 here" in done.stderr


def test_resume_of_a_fine_tuned_run_needs_no_other_flag(digits_run, tmp_path):
    base = digits_run[0] / "checkpoints" / "0000002.pt"
    tune = [*SHORT, *NO_PICTURES, "--dataset-name", "digits", "--ckpt", base, "--fine-tune"]
    check("train.py", *tune, "--results-dir", tmp_path, "--run-name", "tuned", "--ckpt-every", 1)
    rows = logged_rows(tmp_path / "tuned")
    (tmp_path / "tuned" / "checkpoints" / "0000002.pt").unlink()
    for flag in ("--resume", "--ckpt"):
        check("train.py", flag, tmp_path / "tuned" / "checkpoints" / "0000001.pt")
        assert logged_rows(tmp_path / "tuned") == rows
        (tmp_path / "tuned" / "checkpoints" / "0000002.pt").unlink()


def test_a_latent_cache_brings_its_codec(photos, tmp_path):
    vae = save_tiny_vae(tmp_path / "vae")
    cache = tmp_path / "latents"
    check("scripts/cache_latents.py", "--data-path", photos, "--vae", vae, "--out", cache,
          "--num-workers", 0)  # fmt: skip
    words = [*SHORT, "--data-path", cache, "--results-dir", tmp_path]
    check("train.py", *words, *NO_PICTURES, "--run-name", "with", "--vae", vae)
    shutil.move(vae, tmp_path / "away")
    check("train.py", *words, *NO_PICTURES, "--run-name", "without")
    assert logged_rows(tmp_path / "without") == logged_rows(tmp_path / "with")
    assert config_of(tmp_path / "without")["vae"] == vae
    done = run("train.py", *words, "--sample-every", 2, "--run-name", "pictures")
    assert done.returncode == 2 and f"--vae {vae}: cannot load an autoencoder" in done.stderr

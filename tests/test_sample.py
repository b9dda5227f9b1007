"""sample.py: its images are those of sample_ddp.py with the same seed, classes and settings."""

import json

import numpy as np
import pytest
from PIL import Image
from random_sit import save_random_sit

import sample_ddp
from evaluation.samples import read_samples
from runtime.command import parse_command
from runtime.png import save_grid
from sampling.picture import Picture
from sampling.picture_config import SIT_CLASSES, PictureODE, PictureSDE, classes_of
from sampling.presets import expand_preset, name_solver
from sampling.sample_config import ODE, SDE

COUNT = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny pixel-space SiT with random weights everywhere."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    return save_random_sit(path, in_channels=3, num_classes=5)


def settings(checkpoint, method):
    return dict(
        ckpt=checkpoint, vae="none", cfg_scale=2.0, guidance_interval=(0.2, 1.0),
        num_sampling_steps=6, sampling_method=method,
    )  # fmt: skip


@pytest.fixture(scope="module")
def many(checkpoint, tmp_path_factory):
    """Images and labels of sample_ddp.py, by solver."""
    sets, folder = {}, tmp_path_factory.mktemp("many")
    for kind, method in ((ODE, "heun2"), (SDE, "Euler")):
        out = folder / f"{kind.__name__}.npz"
        options = dict(num_fid_samples=COUNT, per_proc_batch_size=COUNT, global_seed=3)
        config = kind(**settings(checkpoint, method), **options, out=str(out))
        sampling = sample_ddp.Sampling(config)
        assert sampling.parts.check()
        sampling.parts.prepare()
        sampling.run(0, 1)
        sets[kind.__name__] = read_samples(out)[:2]
    return sets


def expected_grid(images, path, columns) -> np.ndarray:
    save_grid(images, path, columns)
    return np.asarray(Image.open(path))


def test_the_command_writes_the_images_of_sample_ddp(fork_server, checkpoint, many, tmp_path):
    images, labels = many["ODE"]
    process = fork_server.start(
        [
            "sample.py", "--ckpt", checkpoint, "--vae", "none", "--cfg-scale", 2,
            "--guidance-interval", 0.2, 1, "--num-sampling-steps", 6,
            "--sampling-method", "heun2", "--seed", 3, "--classes", *labels, "--columns", 3,
        ],
        folder=tmp_path,
    )  # fmt: skip
    assert process.wait() == 0, process.stderr
    assert "sample.png: classes " in process.stdout and "NFE 10" in process.stdout
    with Image.open(tmp_path / "sample.png") as picture:
        recipe, grid = json.loads(picture.text["recipe"]), np.asarray(picture)
    assert np.array_equal(grid, expected_grid(images, tmp_path / "expected.png", 3))
    assert recipe["classes"] == labels.tolist() and recipe["seed"] == 3 and recipe["nfe"] == 10
    assert recipe["guidance_interval"] == [0.2, 1.0] and recipe["model"] == "SiT-Ti/2"


def test_the_sde_writes_the_images_of_sample_ddp(checkpoint, many, tmp_path):
    images, labels = many["SDE"]
    config = PictureSDE(
        **settings(checkpoint, "Euler"),
        classes=tuple(labels.tolist()),
        seed=3,
        out=str(tmp_path / "a.png"),
    )
    Picture(config).write()
    grid = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(grid, expected_grid(images, tmp_path / "expected.png", 4))


def test_a_picture_of_this_project_is_replaced_and_no_other_file(checkpoint, tmp_path):
    out = tmp_path / "a.png"
    config = PictureODE(**settings(checkpoint, "euler"), classes=(1, 2), out=str(out))
    Picture(config).write()
    before = out.read_bytes()
    Picture(config).write()
    assert out.read_bytes() == before
    Image.new("RGB", (4, 4)).save(out)
    with pytest.raises(ValueError, match=r"a\.png: exists and is not a picture of the same kind"):
        Picture(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(classes=(1, 5)), "--classes 5: the checkpoint's classes are 0 to 4"),
        (dict(classes=(-1,)), "--classes -1"),
        (dict(seed=-1), "--seed -1: it must be at least 0"),
        (dict(out="a.npz"), r"--out a\.npz: it must be the name of a \.png file"),
        (dict(cfg_scale=0.5), "--cfg-scale 0.5"),
        (dict(cfg_scale=1.0), "--guidance-interval 0.2 1 has no effect"),
        (dict(num_classes=7), "--num-classes 7: the checkpoint says 5"),
        (dict(ckpt="none.pt"), r"none\.pt: no such file"),
        (dict(columns=0), "--columns 0"),
    ],
)
def test_bad_settings_are_refused(checkpoint, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        Picture(PictureODE(**{**settings(checkpoint, "euler"), **changes}))
    assert not any(tmp_path.iterdir())


def test_more_than_one_process_is_refused(checkpoint, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process: start it with python"):
        Picture(PictureODE(**settings(checkpoint, "euler")))


def test_classes_are_the_originals_unless_given():
    assert classes_of(PictureODE(), 1000) == SIT_CLASSES
    assert classes_of(PictureODE(), 5) == (0, 1, 2, 3, 4)
    assert classes_of(PictureODE(classes=(2, 2)), 5) == (2, 2)


def parsed(*args):
    words = name_solver(expand_preset(list(args)))
    return parse_command({"ODE": PictureODE, "SDE": PictureSDE}, words)


def test_the_originals_command_line_and_presets_parse():
    line = "ODE --model SiT-XL/2 --vae mse --image-size 256 --num-classes 1000 --ckpt x.pt"
    config = parsed(*line.split(), "--num-sampling-steps", "250", "--seed", "1")
    assert config.seed == 1 and config.cfg_scale == 4.0 and config.sampling_method == "dopri5"
    assert isinstance(parsed("--ckpt", "x.pt"), PictureODE)
    unguided = parsed("--preset", "sit-sde-em250")
    assert isinstance(unguided, PictureSDE) and unguided.cfg_scale == 1.0
    assert parsed("--preset", "sit-sde-em250", "--cfg-scale", "3").cfg_scale == 3.0

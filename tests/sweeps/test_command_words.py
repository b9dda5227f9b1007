"""Commands as users write them: what is refused, in one line, and what they mean."""

import numpy as np
import pytest

from sweeps.command_words import (
    check_reference,
    evaluated_steps,
    read_base,
    read_evaluate,
    read_sample,
)
from sweeps.metric_names import RISING, check_metric, known_metrics
from sweeps.pair_study import PairStudy

SWEPT = [
    "--encoder-depth 2", "--gt_encoder_depth 5", "--reg-weight=0.1", "--loss-type vanilla",
    "--multi-blocks-match [(1,2)]", "--global-seed 1", "--results-dir x", "--run-name x",
    "--resume latest", "--wandb-run-name x",
]  # fmt: skip


def test_settings_of_files_stand_in_the_cells_commands(tmp_path):
    """But for those that the sweep sets, so that a recipe serves."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[train]\nloss-type = 'layer_sync'\nreg-weight = 0.5\nlr = 0.01\ndataset-name = 'digits'\n"
        "[sample]\nsolver = 'SDE'\nglobal-seed = 3\nnum-sampling-steps = 9\n"
        "[evaluate]\nref = 'digits'\nout = 'x'\n"
    )
    words, config = read_base(f"train.py --config {recipe} --max-steps 3")
    assert words == ["--lr", "0.01", "--dataset-name", "digits", "--max-steps", "3"]
    assert config.optim.lr == 0.01 and config.reg_weight is None
    words, _ = read_sample(f"sample_ddp.py --config {recipe} --num-fid-samples 8")
    assert words == ["SDE", "--num-sampling-steps", "9", "--num-fid-samples", "8"]
    words, _ = read_evaluate(f"python -m evaluation --config {recipe}")
    assert words == ["--ref", "digits"]
    with pytest.raises(ValueError, match=r"--base: none\.toml: no such file"):
        read_base("train.py --config none.toml --max-steps 3")


@pytest.mark.parametrize("words", SWEPT)
def test_flags_that_the_sweep_sets_are_refused(words, study_config):
    name = words.replace("=", " ").split()[0].replace("_", "-")
    with pytest.raises(ValueError, match=f"--base: leave out {name}, which the sweep sets"):
        read_base(f"{study_config().base} {words}")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("torchrun train.py", r"--base 'torchrun train.py': it must be a command of train.py"),
        ("--model SiT-B/2", r"it must be a command of train.py, as in --base 'train.py ...'"),
        ("train.py --vae 'ema", r"--base: No closing quotation; check the quotes"),
        ("train.py --modle x", r"train.py does not take this command: Unrecognized options: --m"),
        ("train.py --max-steps many", r"does not take this command: .*--max-steps"),
        ("train.py --help", r"--base: train.py does not take this command: leave out --help"),
        ("train.py", r"--base: --max-steps is missing"),
        ("train.py --epochs 3 --max-steps 9", r"leave out --epochs, and give --max-steps"),
        ("train.py --max-steps 9 --lr 0", r"--base: --lr 0.0: it must be positive"),
        ("train.py --max-steps 9 --ckpt a.pt", r"--base: --ckpt resumes one run"),
    ],
)
def test_bad_training_commands_are_refused_in_one_line(base, message):
    with pytest.raises(ValueError, match=message) as refusal:
        read_base(base)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("sample_ddp.py", r"--sample: give ODE, SDE or --preset"),
        ("sample_ddp.py ODE --ckpt a.pt", r"--sample: leave out --ckpt, which is each cell's"),
        ("sample_ddp.py ODE --out=a.npz", r"--sample: leave out --out"),
        ("sample_ddp.py ODE --global-seed 1", r"--sample: leave out --global-seed"),
        ("sample_ddp.py ODE --cfg-scale 0", r"--sample: .*--cfg-scale 0.0: it must be at least 1"),
        ("sample_ddp.py SDE --preset sit-ode-dopri5", r"--sample: --preset sit-ode-dopri5 is for"),
        ("sample_ddp.py PDE", r"--sample: sample_ddp.py does not take this command: .*PDE"),
    ],
)
def test_bad_sampling_commands_are_refused(sample, message):
    with pytest.raises(ValueError, match=message):
        read_sample(sample)


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ("python -m evaluation", r"python -m evaluation does not take this command: .*--ref"),
        ("python -m evaluation --ref digits --out x", r"--evaluate: leave out --out"),
        ("python -m evaluation --ref r.npz --bootstrap 1", r"--evaluate: --bootstrap 1"),
    ],
)
def test_bad_evaluation_commands_are_refused(evaluate, message):
    with pytest.raises(ValueError, match=message):
        read_evaluate(evaluate)


def test_a_reference_that_is_not_there_is_named():
    _, config = read_evaluate("python -m evaluation --ref nowhere.npz")
    with pytest.raises(ValueError, match=r"--ref nowhere.npz: no such file"):
        check_reference(config)


def test_presets_mean_their_flags():
    words, config = read_sample("sample_ddp.py --preset paper-ode-heun250")
    assert (config.sampling_method, config.num_sampling_steps) == ("heun2", 250)
    assert words == ["--preset", "paper-ode-heun250"]


def test_known_metrics_are_those_that_the_evaluation_gives():
    """Pixel-space names are from an evaluation here; those of the others are its tables'."""
    from evaluation.pixel_scores import pixel_metrics
    from evaluation.results import TITLES

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (40, 2, 2, 1), dtype=np.uint8)
    labelled = images, np.arange(40) % 2, None
    _, digits = read_evaluate("python -m evaluation --ref digits")
    assert known_metrics(digits) == list(pixel_metrics(labelled, labelled))
    flags = "--ref r.npz --kid --fd-dinov2 --fid-at 100"
    _, everything = read_evaluate(f"python -m evaluation {flags}")
    inception = set(TITLES) - set(known_metrics(digits))
    assert set(known_metrics(everything)) == {*inception, "fid_at_100"}
    assert set(RISING) == {
        "inception_score", "precision", "recall", "pixel_precision", "pixel_recall",
        "classifier_score", "label_agreement",
    }  # fmt: skip


def test_an_unknown_metric_is_refused_with_the_known_ones():
    _, config = read_evaluate("python -m evaluation --ref digits")
    assert check_metric(None, config) == "pixel_frechet"
    with pytest.raises(ValueError, match=r"--metric fid: --evaluate gives pixel_frechet, pixel_p"):
        check_metric("fid", config)


def test_evaluated_checkpoints_are_those_that_training_writes(study_config):
    _, config = read_base(study_config().base.replace("--max-steps 4", "--max-steps 5"))
    assert evaluated_steps(config, "all") == [2, 4, 5]
    assert evaluated_steps(config, "last") == [5]
    _, pruned = read_base(study_config().base + " --keep-last 1")
    with pytest.raises(ValueError, match="--checkpoints all: leave out --keep-last"):
        evaluated_steps(pruned, "all")


def test_unknown_models_are_refused(study_config):
    base = study_config().base.replace("SiT-Ti/2", "SiT-X/2")
    with pytest.raises(ValueError, match=r"--base: --model SiT-X/2: no such model"):
        PairStudy(study_config(base=base))

"""Reading and checking of a study's commands, as the user writes them.

Every check raises a `ValueError` of one line, which names the flag and what to do.
"""

import contextlib
import io
import shlex
from pathlib import Path

from runtime.command import parse_command
from runtime.error_text import in_one_line
from runtime.settings_chain import Section
from runtime.settings_file import inline_config
from sampling.presets import expand_preset
from sampling.sample_config import ODE, SDE, check_sample_config
from sampling.sample_file import SAMPLE_SECTION
from training.checks import check_train_config
from training.config import TrainConfig
from training.settings_record import RUN_SECTION

BEFORE_PROGRAM = ("python", "python3", "-m")


def read_words(flag: str, text: str, program: str) -> list[str]:
    """Return the words after the program, from "train.py ..." or "python -m evaluation ..."."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}; check the quotes in {text!r}") from None
    start = next((i for i, word in enumerate(words) if Path(word).name == program), None)
    if start is None or any(Path(word).name not in BEFORE_PROGRAM for word in words[:start]):
        raise ValueError(
            f"{flag} {text!r}: it must be a command of {program}, as in {flag} '{program} ...'; "
            f"--processes-per-cell sets torchrun's processes"
        )
    return words[start + 1 :]


def parse_quietly(flag: str, config, words: list[str], program: str):
    """Return `config` made from a command's words; raise its parser's complaint as one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return parse_command(config, words, program, recorded=False)
    except SystemExit as exit:
        _, _, reason = said.getvalue().strip().partition(": error: ")
        reason = reason if exit.code else "leave out --help"
        raise ValueError(f"{flag}: {program} does not take this command: {reason}") from None


def refuse(flag: str, words: list[str], refused: dict[str, str]) -> None:
    """Raise `ValueError` if a word is one of the `refused` flags, with its reason."""
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if name in refused:
            raise ValueError(f"{flag}: leave out {name}, {refused[name]}")


def in_place(
    flag: str, words: list[str], config, section: Section, refused: dict[str, str]
) -> list[str]:
    """Return a command's words with the settings of its --config FILE in place of that flag.

    The `refused` flags are not taken from the file, so that a recipe or a run's config.json serves.
    """
    ignored = [name.removeprefix("--").replace("-", "_") for name in refused]
    try:
        return inline_config(words, config, section, ignored)
    except (ValueError, OSError) as error:
        raise ValueError(f"{flag}: {in_one_line(error)}") from None


# --- training

SWEPT = {
    name: "which the sweep sets"
    for name in (
        "--encoder-depth", "--gt-encoder-depth", "--reg-weight", "--loss-type",
        "--multi-blocks-match", "--global-seed", "--results-dir", "--run-name", "--resume",
        "--wandb-run-name",
    )
} | {"--epochs": "and give --max-steps, the budget of every cell"}  # fmt: skip


def read_base(text: str) -> tuple[list[str], TrainConfig]:
    """Return the flags of the training command that all cells share, and their settings."""
    words = read_words("--base", text, "train.py")
    words = in_place("--base", words, TrainConfig, RUN_SECTION, SWEPT)
    refuse("--base", words, SWEPT)
    config = parse_quietly("--base", TrainConfig, words, "train.py")
    if config.max_steps is None:
        raise ValueError("--base: --max-steps is missing, the budget of every cell")
    if config.ckpt and not config.fine_tune:
        raise ValueError("--base: --ckpt resumes one run; with --fine-tune all cells start from it")
    try:
        check_train_config(config)
    except ValueError as error:
        raise ValueError(f"--base: {error}") from None
    return words, config


def evaluated_steps(config: TrainConfig, which: str) -> list[int]:
    """Return the steps whose checkpoints are evaluated: the last, or all that are written."""
    assert config.max_steps is not None  # read_base has seen to it
    last, every = config.max_steps, config.saving.ckpt_every
    if which == "last":
        return [last]
    if config.saving.keep_last:
        raise ValueError("--checkpoints all: leave out --keep-last in --base, it removes them")
    return [*range(every, last, every), last]


# --- sampling

SAMPLED = {
    "--ckpt": "which is each cell's",
    "--out": "which is in each cell's folder",
    "--sample-dir": "which is each cell's folder",
    "--global-seed": "which is each cell's, so that seeds differ in their samples too",
}


def read_sample(text: str, refused: dict[str, str] = SAMPLED) -> tuple[list[str], ODE | SDE]:
    """Return the words of a sampling command without checkpoint and output, and its settings."""
    words = read_words("--sample", text, "sample_ddp.py")
    words = in_place("--sample", words, {"ODE": ODE, "SDE": SDE}, SAMPLE_SECTION, refused)
    refuse("--sample", words, refused)
    if not words:
        raise ValueError("--sample: give ODE, SDE or --preset after sample_ddp.py")
    try:
        expanded = expand_preset(words)
    except ValueError as error:
        raise ValueError(f"--sample: {error}") from None
    config = parse_quietly("--sample", {"ODE": ODE, "SDE": SDE}, expanded, "sample_ddp.py")
    try:
        check_sample_config(config)
    except ValueError as error:
        raise ValueError(f"--sample: {error}") from None
    return words, config


# --- evaluation

EVALUATED = {
    "--out": "which is in each cell's folder",
    "--results": "which is in each cell's folder",
}


def read_evaluate(text: str):
    """Return the words of `python -m evaluation` without files, and its settings."""
    from evaluation.__main__ import EVALUATE_SECTION, Score
    from evaluation.options import check_metrics

    words = read_words("--evaluate", text, "evaluation")
    words = in_place("--evaluate", words, Score, EVALUATE_SECTION, EVALUATED)
    refuse("--evaluate", words, EVALUATED)
    config = parse_quietly("--evaluate", Score, ["X.npz", *words], "python -m evaluation")
    try:
        check_metrics(config.metrics)
    except ValueError as error:
        raise ValueError(f"--evaluate: {error}") from None
    return words, config


def check_reference(config, flag: str = "--evaluate: --ref") -> None:
    """Raise `ValueError` that names `flag` if the reference of an evaluation is missing."""
    if config.ref != "digits" and not Path(config.ref).exists():
        raise ValueError(f"{flag} {config.ref}: no such file or folder")

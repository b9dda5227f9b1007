"""Score a set of samples against a reference, as ADM's evaluator does.

    python -m evaluation samples.npz --ref VIRTUAL_imagenet256_labeled.npz
    torchrun --nproc_per_node=8 -m evaluation samples.npz --ref VIRTUAL_imagenet256_labeled.npz
    python -m evaluation reference DATA -o ref.npz         # make a reference
    python -m evaluation table results.csv                 # Markdown of many evaluations
    python -m evaluation samples.npz --ref digits          # small images, in pixel space
    python -m evaluation blocks --ckpt A.pt B.pt --probes linear    # what the blocks know

Prints a table, writes samples.metrics.json beside the samples, with their recipe, and adds a line
to results.csv in the same folder.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from evaluation.blocks.blocks_config import BlocksConfig
from evaluation.make_reference import MakeReference
from evaluation.options import MetricOptions, check_metrics
from runtime.command import parse_command, program_name, usage_errors
from runtime.launch import is_first_process
from runtime.outcome import finished
from runtime.settings_chain import Section

Positional = tyro.conf.Positional
EVALUATE_SECTION = Section("evaluate")


@dataclass(frozen=True)
class Score:
    """Score samples: FID, sFID, Inception Score, precision and recall.

    Three more commands have a --help of their own: `python -m evaluation reference` makes a
    reference of a data set, `python -m evaluation table` renders results.csv as Markdown, and
    `python -m evaluation blocks` probes what the blocks of checkpoints know.
    """

    samples: Annotated[str, Positional]
    """.npz or .npy with uint8 images (N, H, W, 3), or a folder of image files"""
    ref: str
    """the reference: ADM's .npz, one of `python -m evaluation reference`, or any set of images;
    or "digits", scikit-learn's handwritten digits, which are compared in pixel space"""
    config: str | None = None
    """a .toml or .json file of settings by the names of flags; other flags override it"""
    array: str = "arr_0"
    """name of the images in the samples' .npz"""
    out: str | None = None
    """where to write everything; NAME.metrics.json beside NAME.npz unless given"""
    results: str | None = None
    """where to add one line; results.csv beside the samples unless given"""
    pixels: bool = False
    """compare small images in pixel space instead, which gives no FID"""
    metrics: Annotated[MetricOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=MetricOptions
    )


@dataclass(frozen=True)
class Table:
    """Render a file of results as a Markdown table."""

    results: Annotated[str, Positional]
    """results.csv"""


def run_score(config: Score) -> None:
    from evaluation.results import check_outputs, metrics_path
    from evaluation.scorers import DIGITS, load_scorer
    from runtime.processes import join_group

    pixels = config.pixels or DIGITS in (config.samples, config.ref)
    check_metrics(config.metrics, pixels)
    out = Path(config.out) if config.out else metrics_path(config.samples)
    results = Path(config.results) if config.results else out.with_name("results.csv")
    check_outputs(out, results)
    join_group()  # the first process lists a folder, and tells the others
    samples = open_samples(config)
    if pixels:
        samples = samples.in_channels(reference_channels(config.ref))
    scorer = load_scorer(
        config.ref,
        shape=samples.shape,
        name=config.samples,
        options=config.metrics,
        pixels=pixels,
    )
    if is_first_process():
        size = "x".join(map(str, samples.shape[:2]))
        print(f"samples    {samples.name}: {len(samples):,} images of {size}")
        print(f"reference  {scorer.summary()}", flush=True)
    batches = scorer.processes.batches(samples.images, config.metrics.batch_size, "samples")
    scores = scorer.evaluate(batches, samples.labels)
    if scores:
        report(config, samples=samples, scorer=scorer, scores=scores, out=out, results=results)
    scorer.processes.close()


def reference_channels(ref: str) -> int:
    """Return how many channels the images of a reference in pixel space have."""
    from evaluation.image_sets import open_images
    from evaluation.scorers import DIGITS

    return 1 if ref == DIGITS else open_images(ref).shape[2]


def open_samples(config: Score):
    """Open the samples; raise `ValueError` if the scores cannot be computed from them."""
    from evaluation.image_sets import ARRAY, open_images
    from evaluation.scorers import DIGITS, digits_set
    from evaluation.scoring import K

    if config.samples == DIGITS:
        if config.array != ARRAY:
            raise ValueError(
                f"--array {config.array}: {DIGITS} is no .npz, whose arrays have names"
            )
        return digits_set()
    samples = open_images(config.samples, config.array)
    for needed, flag in [
        (K + 1, "precision and recall"),
        *((n, "--fid-at") for n in config.metrics.fid_at),
    ]:
        if len(samples) < needed:
            raise ValueError(f"{config.samples}: {len(samples)} images, {flag} needs {needed}")
    if config.metrics.per_class and samples.labels is None:
        raise ValueError(f"--per-class needs labels, and {config.samples} has none")
    return samples


def report(config: Score, *, samples, scorer, scores, out: Path, results: Path) -> None:
    """Print the scores, write their record, and add a line to the results."""
    from evaluation.image_sets import ARRAY
    from evaluation.results import append_line, format_scores, result_line, write_record

    about = scorer.describe(scores)
    where = {"path": config.samples, "array": config.array}
    write_record(out, scores, **about, samples=where, recipe=samples.recipe)
    print(*format_scores(scores), sep="\n")
    for warning in scores.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if "note" in about:
        print(about["note"])
    how = {"pr_dtype": scorer.pr_dtype, "recipe": samples.recipe}
    name = config.samples if config.array == ARRAY else f"{config.samples}[{config.array}]"
    append_line(results, result_line(name, scores, about["reference"], **how))
    print(f"written to {out}, and a line to {results}")


def run_table(config: Table) -> None:
    from evaluation.results import markdown_table, read_lines

    print(markdown_table(read_lines(Path(config.results))))


def run_reference(config: MakeReference) -> None:
    from evaluation.make_reference import make_reference

    make_reference(config)


def run_blocks(config: BlocksConfig) -> None:
    from evaluation.blocks.blocks_command import run_blocks

    run_blocks(config)


COMMANDS: dict[str, tuple[type, Callable]] = {
    "blocks": (BlocksConfig, run_blocks),
    "reference": (MakeReference, run_reference),
    "table": (Table, run_table),
}


def main() -> None:
    word = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] in COMMANDS else None
    config_class, run = COMMANDS[word] if word else (Score, run_score)
    program = f"{program_name()} {word}" if word else None
    args = sys.argv[2:] if word else None
    section = None if word else EVALUATE_SECTION
    config = parse_command(config_class, args, program, section=section)
    with usage_errors():
        run(config)
    finished()


if __name__ == "__main__":
    main()

"""Pages about the paper's rows: the list, one row in full, and the table of docs/reproduce.md."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from sampling.presets import expand_preset
from sweeps.paper_cost import BASIS, cost_line, hours_text, row_hours
from sweeps.paper_findings import Finding
from sweeps.paper_rows import PaperRow
from sweeps.paper_settings import settle
from sweeps.report_text import aligned_table
from sweeps.seed_statistics import rounded

METRICS = {
    "fid": "FID",
    "sfid": "sFID",
    "inception_score": "IS",
    "precision": "precision",
    "recall": "recall",
}


def ordered(rows: Sequence[PaperRow]) -> list[PaperRow]:
    """Return rows by cost of training, so that models and budgets stay together."""
    groups = ("b2", "l2", "xl2", "sit")

    def key(row: PaperRow) -> tuple:
        settings = settle(row, row.variants[0])
        images = settings.steps * settings.train.global_batch_size
        weight = list(row.published.values())[:1] or [0.0]
        plain = row.summary == "one" and not row.curve
        return groups.index(row.name.split("-")[0]), not plain, images, -weight[0], row.name

    return sorted(rows, key=key)


def our_value(row: PaperRow, findings: Sequence[Finding]) -> str:
    """Return our value of a row with its verdict, or what it would take."""
    own = [f for f in findings if f.row.name == row.name and f.scored]
    if not own:
        return f"not run: needs {hours_text(sum(row_hours(row)))} GPU hours"
    mine = own[-1].ours
    value = f"{rounded(mine.value, mine.half_width)}, " if mine else ""
    return f"{value}{own[-1].verdict}"


def list_lines(rows: Sequence[PaperRow], findings: Sequence[Finding] = ()) -> list[str]:
    """Return the list of rows for a terminal."""
    cells = [["row", "published", "GPU hours", "what"]]
    cells += [[r.name, r.value, hours_text(sum(row_hours(r))), r.title] for r in ordered(rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    done = [f"  {f.row.name}: {our_value(f.row, [f])}" for f in findings if f.scored]
    return [
        *lines,
        "",
        f"FID without guidance unless the row says so. GPU hours: {BASIS};",
        "rows that share a run train it once.",
        "",
        *(["ours so far:", *done, ""] if done else []),
        "python scripts/reproduce.py show ROW               what a row is, and its commands",
        "python scripts/reproduce.py run ROW --miniature    all of its stages, in about a minute",
    ]


def markdown_lines(rows: Sequence[PaperRow], findings: Sequence[Finding] = ()) -> list[str]:
    """Return the table of docs/reproduce.md."""
    head = ["row", "what", "published FID", "GPU hours: training + sampling", "ours"]
    lines = [head]
    for row in ordered(rows):
        train, sample = row_hours(row)
        hours = f"{hours_text(train)} + {hours_text(sample)}" if train else hours_text(sample)
        name = f"[{row.name}](../recipes/{row.name}.toml)"
        lines.append([name, row.title, row.value, hours, our_value(row, findings)])
    return aligned_table(lines)


def show_lines(row: PaperRow) -> list[str]:
    """Return everything about a row: what was published, its settings and its commands."""
    lines = [row.title, "=" * len(row.title), ""]
    facts = [
        f"{METRICS.get(name, name)} {row.value if name == 'fid' else f'{value:g}'}"
        for name, value in row.published.items()
    ]
    lines += [
        f"published   {', '.join(facts) or 'no value was found'}",
        f"source      {row.source}",
    ]
    lines += [f"{'curve' if not i else '':12s}{part}" for i, part in enumerate(curve_parts(row))]
    lines += [f"{'not said' if not i else '':12s}{text}" for i, text in enumerate(row.silent)]
    lines += [f"{'guessed' if not i else '':12s}{text}" for i, text in enumerate(row.guessed)]
    if row.guessed:
        lines += ["            so it can agree with the paper, and is never called reproduced"]
    if not row.variants[0].train and (at_work := loss_settings(row)):
        lines += [f"in force    {at_work}"]
    lines += [
        f"cost        {cost_line(row).removeprefix('Cost: ')}",
        f"recipe      {shown(row.path)}",
        "",
    ]
    if row.summary != "one":
        what = {"mean": "their mean", "best": "the best of them", "each": "each by itself"}
        lines += [f"{len(row.variants)} variants, the row's value is {what[row.summary]}:"]
        lines += [
            f"  {v.name:18s} {' '.join([*v.train, *v.sample]) or 'as it is'}" for v in row.variants
        ]
        lines += [""]
    return [*lines, *command_lines(row)]


def loss_settings(row: PaperRow) -> str:
    """Return the loss's settings that are left to the model: blocks and weights."""
    from training.methods.methods import methods_of

    c = settle(row, row.variants[0]).train
    resolved = [method.resolved(c.model) for method in methods_of(c)]
    numbers = {name: value for part in resolved for name, value in part.items() if name != "pairs"}
    return ", ".join(f"{name} {value}" for name, value in numbers.items())


def curve_parts(row: PaperRow) -> list[str]:
    points = [f"{step:,}: {value:g}" for step, value in row.curve.items()]
    return ["   ".join(points[i : i + 4]) for i in range(0, len(points), 4)]


def command_lines(row: PaperRow) -> list[str]:
    """Return the three commands with every flag that is not at its default, presets spelt out."""
    settings = settle(row, row.variants[0])
    variant = row.variants[0].name
    lines = [f"The commands{f' of {variant}' if variant else ''}, presets spelt out:", ""]
    if not row.checkpoint:
        lines += [f"  python train.py {shlex.join(settings.train_words)} --data-path DATA"]
    sample = last_of_each_flag(expand_preset(list(settings.sample_words)))
    lines += [
        f"  python sample_ddp.py {shlex.join(sample)} --ckpt {row.checkpoint or 'CHECKPOINT'}"
    ]
    lines += [
        f"  python -m evaluation SAMPLES {shlex.join(settings.evaluate_words)} --ref REFERENCE"
    ]
    origin = f"--from-checkpoint {row.checkpoint}" if row.checkpoint else "--data-path DATA"
    return [*lines, "", "All of it:", "",
            f"  python scripts/reproduce.py run {row.name} {origin} --ref REFERENCE --processes 8",
            "",
            "What every row shares, and why: recipes/common.toml"]  # fmt: skip


def last_of_each_flag(words: Sequence[str]) -> list[str]:
    """Return a command line without --preset, and with only the last of each flag."""
    flags: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word
            flags[name] = [word]
        else:
            flags.setdefault(name, []).append(word)
    return [word for name, own in flags.items() if name != "--preset" for word in own]


def shown(path: Path) -> str:
    return f"recipes/{path.name}"

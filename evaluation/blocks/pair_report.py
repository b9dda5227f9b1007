"""A `BlockReport` and the pairs ranked by it, as tables on the terminal and as a picture."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from evaluation.blocks.pair_ranking import Candidate, Rule, allowed_pairs, reasons
from evaluation.blocks.probes import BlockReport
from runtime.png import save_figure

SHOWN = 8  # pairs on the terminal
PICTURE = "pairs"  # kind of the picture


def print_blocks(report: BlockReport, about: dict) -> None:
    """Print a line for each block; `about` is the run's description by scripts/suggest_pair.py."""
    fit, held_out = about["images"]
    step = "" if about["step"] is None else f", step {about['step']:,}"
    print(
        f"\n{about['model']}{step}: linear probes of {about['classes']} classes fitted to {fit} "
        f"images and judged by {held_out}, means over t = {', '.join(map(str, report.times))}\n"
    )
    accuracy, rank = report.accuracy.mean(dim=0), report.effective_rank.mean(dim=0)
    similarity = report.similarity.mean(dim=0)
    print("block   accuracy   effective rank   cosine with the next")
    for k in range(report.depth):
        after = f"{similarity[k, k + 1]:.3f}" if k + 1 < report.depth else ""
        print(f"{k + 1:5d}{100 * accuracy[k]:9.1f} %{rank[k]:17.1f}{after:>23s}")
    print(f"chance {100 / report.classes:7.1f} %")
    if about["loss_type"] not in (None, "vanilla"):
        print(
            f"\nThis run was trained with --loss-type {about['loss_type']}, which has drawn blocks "
            f"together: a pair is better chosen from a vanilla run"
        )


def print_pairs(candidates: list[Candidate], depth: int) -> None:
    """Print the first pairs of `rank_pairs`, and why the first is the first."""
    rule = Rule.of(depth)
    count = f"{len(candidates)} pairs"
    shown = f"{count}, the first {SHOWN}" if len(candidates) > SHOWN else count
    print(
        f"\nThe rule: students from block {rule.first_student}, teachers to block "
        f"{rule.last_teacher}, {rule.gap} or more apart. {shown}:\n"
    )
    print("     pair     gain in accuracy   cosine   effective rank")
    for candidate in candidates[:SHOWN]:
        pair = "{} -> {}".format(*candidate.pair)
        gain = f"{100 * candidate.gain:+.1f} +- {100 * candidate.error:.1f}"
        ranks = "{:.1f} -> {:.1f}".format(*candidate.ranks)
        tie = "   (a tie with the best)" * candidate.tied
        print(f"{pair:>9s}{gain:>21s}{candidate.similarity:9.3f}{ranks:>17s}{tie}")
    student, teacher = candidates[0].pair
    print(f"\nProposed: --encoder-depth {student} --gt-encoder-depth {teacher}")
    for reason in reasons(candidates):
        print(f"  - {reason}")


def draw(report: BlockReport, proposed: tuple[int, int], path: Path) -> None:
    """Draw accuracy, effective rank and similarity over blocks, one line for each time."""
    similarity = report.similarity.numpy()
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.4), layout="constrained")
    blocks = range(1, report.depth + 1)
    ticks = blocks if report.depth < 13 else blocks[3::4]
    panels = {
        "accuracy of a linear probe, %": 100 * report.accuracy.numpy(),
        "effective rank": report.effective_rank.numpy(),
        "cosine with the next block": similarity.diagonal(1, 1, 2),
    }
    colours = plt.cm.viridis(np.linspace(0, 0.9, len(report.times)))
    for axis, (title, rows) in zip(axes.flat, panels.items(), strict=False):
        for time, row, colour in zip(report.times, rows, colours, strict=True):
            axis.plot(blocks[: len(row)], row, ".-", color=colour, label=f"t = {time:g}")
        for number, name, style in zip(proposed, ("student", "teacher"), ("--", "-"), strict=True):
            axis.axvline(number, color="tab:red", linestyle=style, linewidth=1, label=name)
        axis.set(title=title, xlabel="block", xlim=(0.5, report.depth + 0.5), xticks=ticks)
        axis.grid(alpha=0.3)
    axes[0, 0].axhline(100 / report.classes, color="grey", linestyle=":", label="chance")
    lines, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=5)

    axis, edge = axes[1, 1], report.depth + 0.5
    mean = similarity.mean(axis=0)  # the same both ways
    picture = axis.imshow(mean, origin="lower", extent=(0.5, edge, 0.5, edge), cmap="magma", vmax=1)
    figure.colorbar(picture, ax=axis)
    axis.plot(*zip(*allowed_pairs(report.depth), strict=True), "w.", markeredgecolor="black")
    axis.plot(*proposed, "w*", markeredgecolor="black", markersize=16)
    axis.set(
        title="cosine, mean over t; dots: allowed, star: proposed",
        xlabel="student",
        ylabel="teacher",
        xticks=ticks,
        yticks=ticks,
    )
    save_figure(figure, path, PICTURE)
    plt.close(figure)

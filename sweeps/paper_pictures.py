"""Pictures of the paper's rows: ours beside the published values, and FID over steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeps.metric_names import PIXELS, label
from sweeps.paper_findings import Finding

PAPERS, OURS = "#888888", "C0"


def draw_rows(findings: Sequence[Finding], path: Path) -> Path | None:
    """Draw how far rows lie from the published FID; return the picture, or None without one."""
    rows = [f for f in findings if f.difference is not None]
    if not rows:
        return None
    figure, axes = new_figure(figsize=(8, 1.4 + 0.38 * len(rows)))
    for y, f in enumerate(rows):
        mine, first = f.ours, y == 0
        assert mine is not None and f.published is not None
        percent = 100 / f.published
        spread = (f.row.published_spread or 0) * percent
        style: dict[str, Any] = dict(color=PAPERS, linewidth=7, alpha=0.5, solid_capstyle="butt")
        axes.plot(
            [-spread, spread], [y, y], label="published +- its spread" if first else None, **style
        )
        axes.errorbar(
            (mine.value - f.published) * percent, y, fmt="o", color=OURS, capsize=3,
            xerr=None if mine.half_width is None else mine.half_width * percent,
            label="ours +- the interval that it is judged by" if first else None,
        )  # fmt: skip
        axes.annotate(
            f.verdict, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8
        )
    names = [f"{f.row.name}: {f.ours.value:.2f}, paper {f.row.value}" for f in rows if f.ours]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color=PAPERS, linewidth=1)
    axes.set(xlabel="FID above (worse) or below the published one, %")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    return save(figure, path)


def draw_curves(findings: Sequence[Finding], path: Path) -> Path | None:
    """Draw our curves beside the paper's points; return the picture, or None without a curve."""
    curves = [f for f in findings if f.row.curve and f.scored]
    if not curves:
        return None
    miniature = curves[0].metric == PIXELS
    figure, both = new_figure(2 if miniature else 1, figsize=(11 if miniature else 7, 4.8))
    papers, ours = (both[0], both[1]) if miniature else (both, both)
    for f in curves:
        steps = sorted(f.row.curve)
        papers.plot(
            steps, [f.row.curve[step] for step in steps], "s--", color=PAPERS, markersize=6,
            markerfacecolor="none", label="the paper's figure, read to 2 %",
        )  # fmt: skip
        draw_ours(ours, f)
    papers.set(xlabel="training step", ylabel="FID ↓", xscale="log", yscale="log")
    plain_ticks(papers.yaxis)
    papers.set_xticks(steps, [in_short(step) for step in steps], rotation=45)
    papers.minorticks_off()
    if miniature:
        ours.set(xlabel="training step", ylabel=f"{label(PIXELS)} (not FID)")
        ours.set_title("ours: a miniature, which says nothing about the paper", fontsize=10)
    papers.set_title("SiT-XL/2 with LayerSync, SDE", fontsize=10)
    for axes in {papers, ours}:
        axes.grid(which="both", alpha=0.25)
        axes.legend()
    return save(figure, path)


def draw_ours(axes, f: Finding) -> None:
    """Draw each seed's values over steps, with the bootstrap's intervals where there are any."""
    for seed in sorted({s.seed for s in f.scored}):
        own = sorted((s for s in f.scored if s.seed == seed), key=lambda s: s.step or 0)
        steps = [s.step for s in own]
        numbers = [s.value(f.metric) for s in own]
        halves = [half_width(s.record, f.metric) for s in own]
        whiskers = halves if any(halves) else None
        name = f"ours, seed {seed}" + (" (bootstrap's 95 %)" if any(halves) else "")
        axes.errorbar(
            steps, numbers, yerr=whiskers, fmt="o-", capsize=3, label=name, color=f"C{seed % 10}"
        )


def in_short(step: int) -> str:
    """Write a step as 50K or 4M."""
    return f"{step // 10**6}M" if step % 10**6 == 0 else f"{step // 1000}K"


def half_width(record: dict, metric: str) -> float:
    low, high = record.get("intervals", {}).get(metric, (0, 0))
    return (high - low) / 2


def plain_ticks(axis) -> None:
    """Label a logarithmic axis 2, 5, 10, 20 instead of by powers."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def new_figure(columns: int = 1, **options):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(1, columns, layout="constrained", **options)


def save(figure, path: Path) -> Path:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path

"""Learning curves: interquartile mean with its 95 % bootstrap interval, and a thin line per seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from covey.experiment.folder import atomically
from covey.experiment.statistics import bootstrap_interval, iqm

# Okabe and Ito's colours, which differ for colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")


@dataclass(frozen=True)
class Curve:
    """One method's returns.

    label: what the legend says.
    steps: [P], environment steps per seed at each evaluation.
    returns: [S, P].
    """

    label: str
    steps: np.ndarray
    returns: np.ndarray


def save_figure(
    path: Path,
    curves: Sequence[Curve],
    title: str,
    x_label: str = "environment steps per seed",
    y_label: str = "episode return, mean over agents",
    seed_lines: bool = False,
) -> None:
    """Draw the curves to a PNG (or whatever `path`'s suffix says)."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = Figure(figsize=(7, 4.2), layout="constrained")  # no pyplot: no window, no global state
    axes = figure.add_subplot()
    for i, curve in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        marker = "o" if len(curve.steps) == 1 else None
        if seed_lines and len(curve.returns) > 1:
            axes.plot(
                curve.steps, curve.returns.T, color=colour, alpha=0.25, linewidth=0.6, marker=marker, markersize=3
            )
        low, high = bootstrap_interval(curve.returns)
        axes.fill_between(curve.steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(curve.steps, iqm(curve.returns), color=colour, linewidth=2, label=curve.label, marker=marker)
    fewest, most = min(len(c.returns) for c in curves), max(len(c.returns) for c in curves)
    seeds = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    what = "one seed" if most == 1 else f"interquartile mean and 95 % interval, {seeds}"
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=20)
    axes.text(0, 1.02, what, transform=axes.transAxes, fontsize=9, color="0.35")
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=9)
    atomically(Path(path), lambda file: figure.savefig(file, dpi=150))

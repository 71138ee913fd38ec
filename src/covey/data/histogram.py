"""Histograms of a dataset, as a PNG: returns, episode lengths, rewards, actions, observations, the state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from covey.data.dataset import Dataset, episode_returns, step_rows
from covey.experiment.folder import atomically
from covey.experiment.plot import COLOURS

PANELS = ("returns", "lengths", "rewards", "actions", "obs", "state")
MOST_STEPS = 200_000  # Of more, an even choice is drawn: the eye sees no difference.
MOST_LINES = 12  # Dimensions in one panel.


def save_histograms(
    dataset: Dataset,
    path: Path,
    what: Sequence[str] = ("returns", "lengths", "actions"),
    bins: int = 50,
    title: str = "",
) -> None:
    """Draw a panel for each of `what` (of `PANELS`); actions and obs have one per agent, with a line per dimension.

    Raises ValueError for an unknown panel or bins below 1. Needs matplotlib.
    """
    unknown = [name for name in what if name not in PANELS]
    if unknown or not what:
        raise ValueError(f"what is {list(what)}; allowed: some of {', '.join(PANELS)}")
    if bins < 1:
        raise ValueError(f"bins is {bins}; allowed: an integer of at least 1")
    from matplotlib.figure import Figure

    panels = [panel for name in what for panel in _panels(dataset, name)]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows + 0.3), layout="constrained")  # no pyplot: no window
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        _draw(axes, *panel, bins)
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    figure.suptitle(title, fontsize=11, fontweight="bold")
    atomically(path, lambda file: figure.savefig(file, dpi=120))


def _panels(dataset: Dataset, name: str) -> list[tuple[str, str, np.ndarray]]:
    """Title, unit of what is counted, and values [count, lines] of each panel."""
    if name == "returns":
        return [("return, mean over agents", "episodes", episode_returns(dataset).mean(axis=1, keepdims=True))]
    if name == "lengths":
        return [("episode length", "episodes", np.asarray(dataset.length)[:, None])]
    steps = np.flatnonzero(step_rows(dataset))
    steps = steps[:: -(-len(steps) // MOST_STEPS)]
    if name == "state":
        return [("state", "steps", np.asarray(dataset.state)[steps])]
    if name == "rewards":
        return [("reward, a line per agent", "steps", np.asarray(dataset.reward)[steps])]
    leaf, mask = ("action", dataset.action_mask) if name == "actions" else ("obs", dataset.obs_mask)
    values = np.asarray(getattr(dataset, leaf))[steps]
    return [(f"{leaf} of agent {i}", "steps", values[:, i, np.asarray(own)]) for i, own in enumerate(mask)]


def _draw(axes: Any, title: str, unit: str, values: np.ndarray, bins: int) -> None:
    shown = values[:, :MOST_LINES]
    note = f" (first {MOST_LINES} of {values.shape[1]} dimensions)" if values.shape[1] > MOST_LINES else ""
    low, high = float(shown.min()), float(shown.max())
    pad = 0.02 * (high - low) or 0.5
    edges = np.linspace(low - pad, high + pad, bins + 1)
    for i, column in enumerate(shown.T):
        counts, _ = np.histogram(column, edges)
        label = str(i) if shown.shape[1] > 1 else None
        axes.stairs(counts, edges, fill=shown.shape[1] == 1, color=COLOURS[i % len(COLOURS)], alpha=0.8, label=label)
    axes.set_title(title + note, loc="left", fontsize=9)
    axes.set_ylabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if shown.shape[1] > 1:
        axes.legend(fontsize=6, frameon=False, ncols=2)

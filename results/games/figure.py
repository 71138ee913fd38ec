"""The figure and the table of the matching games, from their study's table (`make reproduce-games`)."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from covey.experiment.statistics import bootstrap_interval, iqm
from envs_jax.games.matching import Specialisation, Synchronisation

HERE = Path(__file__).parent
RETURNS = HERE.parent / "studies/toy-small/results.csv"
STEPS = 32
"""Of an episode, in the study."""
AGENTS = (2, 4, 8, 16)
SCHEMES = {
    "fups": "FuPS (no id)",
    "fups_id": "FuPS+ID",
    "fups_id_only": "FuPS, ids alone",
    "nops": "NoPS",
    "hyper_linear": "linear hypernetwork",
    "hyper_mlp": "MLP hypernetwork",
}
GAMES = {"specialisation": Specialisation, "synchronisation": Synchronisation}


def final_returns() -> dict[tuple[str, int, str], np.ndarray]:
    """Each seed's return per agent at the last greedy evaluation, [S], by game, number of agents and scheme."""
    found: dict[tuple[str, int, str], dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    with RETURNS.open(newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            if row["metric"] == "eval/return":
                cell = (row["game"], int(row["agents"]), row["sharing"])
                found[cell][int(row["env_steps"])][row["seed"]] = float(row["value"])
    return {cell: np.array([*at[max(at)].values()]) for cell, at in found.items()}


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, returns = [], final_returns()
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.3), sharey=True)
    for axis, (game, rules) in zip(axes, GAMES.items(), strict=True):
        for i, (scheme, label) in enumerate(SCHEMES.items()):
            points = []
            for n in AGENTS:
                rewards = returns[game, n, scheme] / STEPS
                low, high = bootstrap_interval(rewards)
                points.append((float(iqm(rewards)), float(low), float(high)))
                rows.append((game, n, scheme, len(rewards), *points[-1], rules.random_reward(n)))
            y, low, high = np.array(points).T
            x = np.arange(len(AGENTS)) + 0.06 * (i - 2.5)
            axis.errorbar(x, y, [y - low, high - y], marker="o", capsize=3, label=label)
        axis.plot([rules.random_reward(n) for n in AGENTS], "k:", label="uniformly random")
        if game == "specialisation":
            axis.plot([rules.greedy_collapse_reward(n) for n in AGENTS], "k--", label="all choose the same")
        axis.set(
            title=game.capitalize(), xlabel="agents", xticks=range(len(AGENTS)), xticklabels=AGENTS, ylim=(0, 1.05)
        )
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("greedy reward per step and agent")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="lower center", ncol=4, frameon=False)
    figure.suptitle("IQM over 10 seeds with 95 % intervals; the optimum is 1", fontsize=10)
    figure.tight_layout(rect=(0, 0.11, 1, 1))
    figure.savefig(HERE / "games.png", dpi=110)
    with (HERE / "games.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["game", "agents", "sharing", "seeds", "iqm", "low", "high", "random"])
        writer.writerows([[*row[:4], *(f"{value:.4f}" for value in row[4:])] for row in rows])
    for row in rows:
        print(f"{row[0]:16} n={row[1]:<3} {row[2]:13} {row[4]:.3f} [{row[5]:.3f}, {row[6]:.3f}]  random {row[7]:.3f}")


if __name__ == "__main__":
    main()

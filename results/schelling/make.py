"""Schelling diagrams of the social dilemmas, per role: what an agent gets if it cooperates or defects, by how many of
the others cooperate (`make reproduce-schelling`).

    python results/schelling/make.py [--games GAME ...] [--episodes 48]

Cooperators and defectors are the scripted ones of `envs_jax.ssd.scripted`. In each episode agents join the cooperators
in a random order, and one episode is played for each number of cooperators. A game is a dilemma where the defector's
line is above the cooperator's, and the average return (grey) is highest at the right end.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import envs_jax
from covey.experiment.plot import COLOURS
from covey.experiment.statistics import bootstrap_interval
from envs_jax.ssd.scripted import returns_of

HERE = Path(__file__).parent
GAMES: dict[str, dict[str, Any]] = {
    "harvest": {"env_id": "harvest"},
    "harvest_5high_5low": {"env_id": "harvest", "map": "diamonds", "roles": "5high_5low"},
    "harvest_5standard_5wide_zapper": {"env_id": "harvest", "map": "diamonds", "roles": "5standard_5wide_zapper"},
    "coins": {"env_id": "coins"},
    "coins_1high_1low": {"env_id": "coins", "roles": "1high_1low"},
    "coins_1standard_1spawn_biased": {"env_id": "coins", "roles": "1standard_1spawn_biased"},
    "cleanup": {"env_id": "cleanup"},
    "cleanup_high_low": {"env_id": "cleanup", "num_agents": 7, "roles": "high_low"},
}


@dataclass(frozen=True)
class Args:
    """Settings."""

    games: tuple[str, ...] = tuple(GAMES)
    """Which games to draw."""
    episodes: int = 48
    """Episodes for each number of cooperators."""
    seed: int = 0
    """Seed of all of them."""


def play(env: Any, episodes: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """`(cooperates bool[E, N + 1, N], returns float32[E, N + 1, N])`, the second index being the number of
    cooperators."""
    n = env.num_agents
    key_order, key_play = jax.random.split(key)
    places = jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key_order, episodes))  # [E, N]
    cooperates = places[:, None] < jnp.arange(n + 1)[:, None]
    keys = jax.random.split(key_play, (episodes, n + 1))
    returns = jax.jit(jax.vmap(jax.vmap(partial(returns_of, env))))(cooperates, keys)
    return np.asarray(cooperates), np.asarray(returns)


def diagram(env: Any, cooperates: np.ndarray, returns: np.ndarray) -> list[dict[str, Any]]:
    """A row per role, choice and number of other cooperators, and one per number of cooperators for the average."""
    number = np.arange(env.num_agents + 1)
    rows = []

    def add(role: str, choice: str, others: int, per_episode: np.ndarray) -> None:
        low, high = bootstrap_interval(per_episode, statistic=np.mean)
        row = {"role": role, "choice": choice, "cooperators": others, "episodes": len(per_episode)}
        rows.append(row | {"mean": float(np.mean(per_episode)), "low": float(low), "high": float(high)})

    for role, agents in env.agent_classes.items():
        member = np.isin(env.agents, agents)
        for choice, chosen in (("cooperate", cooperates), ("defect", ~cooperates)):
            others = number[:, None] - cooperates  # [E, N + 1, N], cooperators beside oneself
            for k in range(env.num_agents):
                here = chosen & member & (others == k)
                played = here.any(axis=(1, 2))
                add(role, choice, k, (returns * here).sum((1, 2))[played] / here.sum((1, 2))[played])
    for k in number:
        add("all", "average", int(k), returns[:, k].mean(axis=1))
    return rows


def draw(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(4, len(tables))
    lines = -(-len(tables) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.1 * lines), layout="constrained")
    for axes, (game, rows) in zip(figure.subplots(lines, columns, squeeze=False).flat, tables.items(), strict=False):
        roles = list(dict.fromkeys(row["role"] for row in rows if row["role"] != "all"))
        for role, choice in [("all", "average"), *((r, c) for r in roles for c in ("cooperate", "defect"))]:
            points = [row for row in rows if (row["role"], row["choice"]) == (role, choice)]
            x, mean, low, high = (np.array([p[k] for p in points]) for k in ("cooperators", "mean", "low", "high"))
            colour = "0.6" if role == "all" else COLOURS[roles.index(role)]
            label = "average of all" if role == "all" else f"{role}, {choice}s"
            style = "--" if choice == "defect" else "-"
            axes.plot(x, mean, style, color=colour, marker="o", markersize=3, label=label)
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set_title(game.replace("_", " "), fontsize=10)
        axes.set(xlabel="others that cooperate (grey: all that do)", ylabel="return")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.92")
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def main(args: Args) -> None:
    if unknown := set(args.games) - set(GAMES):
        raise SystemExit(f"error: --games has {', '.join(sorted(unknown))}; allowed: {', '.join(GAMES)}")
    tables = {}
    for game in args.games:
        env = envs_jax.make(**GAMES[game])
        tables[game] = diagram(env, *play(env, args.episodes, jax.random.key(args.seed)))
        for row in tables[game]:
            if row["cooperators"] in (0, env.num_agents // 2, env.num_agents - 1, env.num_agents):
                print(game, *row.values(), flush=True)
    with (HERE / "schelling.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["game", *next(iter(tables.values()))[0]])
        writer.writeheader()
        for game, rows in tables.items():
            writer.writerows(
                {"game": game} | {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
            )
    draw(tables, HERE / "schelling.png")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))

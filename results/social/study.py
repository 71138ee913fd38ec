"""Studies of social rewards on the social dilemmas, at laptop scale: `make reproduce-social`.

    python results/social/study.py claims|ablation|crossing [--games GAME ...] [--methods METHOD ...]

claims    each game and composition under each social reward: do raw ones lose in asymmetric games what they gain in
          symmetric ones, and is Fair&Local there sooner?
ablation  Fair&Local inequity aversion on Harvest with high and low agents, with every subset of its three changes
crossing  Fair&Local inequity aversion and selfishness on asymmetric Cleanup under each way of sharing weights

Every cell has the same budget, and learns with its game's small preset. First `FACTORS` times the paper's number that
sets a method's strength are tried with 2 seeds each; then the best one, by collective return over the last fifth of
training, runs with 8 other seeds. Both are one compiled program of 8 lanes. Selfish and common reward have no such
number: they run with 8 seeds and 8 others, of which only the latter are compared. (To tune the selfish baseline's
learning rate by collective return picks the rate at which it has not yet learnt to harm.) A cell writes a table of its
own and is skipped if it is there, so that a study goes on where it was stopped, and several processes can share it:
one on each core trains twice as fast as one on two cores. Then the summary and figures are drawn.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Compiles in a quarter of the time and runs as fast.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from algos.dilemmas import TASKS, SocialConfig, build
from covey.experiment import make_train, seed_keys
from covey.experiment.plot import COLOURS
from covey.experiment.statistics import bootstrap_interval, iqm, probability_of_improvement

HERE = Path(__file__).parent
FACTORS = (0.1, 0.3, 1.0, 3.0)
TUNING_SEEDS, SEEDS = 2, 8
STRENGTH = {"inequity": ("alpha", "beta"), "orientation": ("orientation_weight",)}
GAMES = (
    "harvest", "harvest_5high_5low", "harvest_5standard_5wide_zapper", "coins", "coins_1high_1low",
    "coins_1standard_1spawn_biased", "cleanup", "cleanup_high_low",
)  # fmt: skip
METHODS = (
    "selfish", "common", "inequity_aversion", "social_value_orientation", "fair_local_ia", "fair_local_svo",
)  # fmt: skip
Study = Literal["claims", "ablation", "crossing"]


@dataclass(frozen=True)
class Args:
    """Settings."""

    study: tyro.conf.Positional[Study]
    """Which study."""
    games: tuple[str, ...] = ()
    """Only these games."""
    methods: tuple[str, ...] = ()
    """Only these methods (or variants, or ways of sharing)."""
    total_steps: int | None = None
    """Environment steps of each lane; None for those of the games' presets."""
    core: int | None = None
    """Run on this core of the machine only, beside others of the kind."""
    only_draw: bool = False
    """Train nothing; draw what is there."""


@dataclass(frozen=True)
class Cell:
    """One line of a figure: a game, what agents learn on, and what they share."""

    game: str
    label: str
    social: SocialConfig
    sharing: str = "nops"


def cells(study: Study) -> Iterator[Cell]:
    """All cells of a study."""
    if study == "claims":
        for game in GAMES:
            for method in METHODS:
                yield Cell(game, method, SocialConfig(method, numbers=game))  # type: ignore[arg-type]
    if study == "ablation":
        for bits in range(8):
            on = [bool(bits & bit) for bit in (1, 2, 4)]
            names = [name for name, there in zip(("range", "weights", "local"), on, strict=True) if there]
            social = SocialConfig(
                "fair_local_ia",
                numbers="harvest_5high_5low",
                normalise="running" if on[0] else "none",
                weighting="given" if on[1] else "none",
                feedback="gossip" if on[2] else "global",
            )
            yield Cell("harvest_5high_5low", "+".join(names) or "none", social)
    if study == "crossing":
        for sharing in ("fups", "fups_id", "nops", "hyper_linear", "hyper_mlp"):
            for method in ("selfish", "fair_local_ia"):
                social = SocialConfig(method, numbers="cleanup_high_low")  # type: ignore[arg-type]
                yield Cell("cleanup_high_low", f"{sharing}, {method}", social, sharing)


def train(cell: Cell, total_steps: int | None) -> list[dict[str, Any]]:
    """All rows of a cell: a row per stage, lane and evaluation."""
    args = TASKS[cell.game]["small"]
    args = dataclasses.replace(args, social=cell.social, policy=dataclasses.replace(args.policy, sharing=cell.sharing))
    if total_steps is not None:
        args = dataclasses.replace(args, run=dataclasses.replace(args.run, total_steps=total_steps))
    learner, hp, _ = build(args)
    updates = args.run.updates(learner.steps_per_update)
    lanes = len(FACTORS) * TUNING_SEEDS
    assert lanes == SEEDS, "both stages share a program"
    strength = STRENGTH.get(learner.social.term, ())
    factors = np.repeat(FACTORS if strength else np.ones(len(FACTORS)), TUNING_SEEDS)
    program = jax.jit(make_train(learner, num_updates=updates, num_evaluations=args.run.num_evaluations))

    def lanes_of(factors: np.ndarray) -> Any:
        numbers = jax.tree.map(lambda x: jnp.full(lanes, x, jnp.float32), hp)
        changed = {name: getattr(numbers.social, name) * jnp.asarray(factors, jnp.float32) for name in strength}
        return dataclasses.replace(numbers, social=dataclasses.replace(numbers.social, **changed))

    def run(stage: str, factors: np.ndarray, first_seed: int) -> list[dict[str, Any]]:
        began = time.perf_counter()
        _, metrics = jax.block_until_ready(program(seed_keys(first_seed, lanes), lanes_of(factors)))
        metrics = {name: np.asarray(value) for name, value in metrics.items()}
        seconds = time.perf_counter() - began
        print(
            f"  {stage}: {seconds:.0f} s, {lanes * updates * learner.steps_per_update / seconds:.0f} env steps/s",
            flush=True,
        )
        rows = []
        due = np.flatnonzero(np.isfinite(metrics["eval/episode_length"]).all(axis=1))
        for lane in range(lanes):
            for update in due:
                row = {"stage": stage, "factor": factors[lane], "seed": first_seed + lane}
                row["env_steps"] = (update + 1) * learner.steps_per_update
                for name, value in metrics.items():
                    if name.startswith("eval/"):
                        row[name.removeprefix("eval/")] = float(np.mean(value[update, lane]))
                rows.append(row)
        return rows

    tuned = run("tune", factors, 0)
    best = max(
        factors, key=lambda factor: np.mean([last(tuned, row["seed"]) for row in tuned if row["factor"] == factor])
    )
    return tuned + run("final", np.full(lanes, best), 100)


def last(rows: list[dict[str, Any]], seed: int, name: str = "collective_return") -> float:
    """A lane's mean of a metric over the last fifth of its evaluations."""
    values = [float(row[name]) for row in rows if int(row["seed"]) == seed]
    return float(np.mean(values[-max(1, len(values) // 5) :]))


def table(study: Study, cell: Cell) -> Path:
    label = cell.label.replace(", ", "-").replace("+", "_")
    if study == "crossing" and cell.sharing == "nops":  # a run of the claims as well
        study, label = "claims", cell.social.method
    return HERE / study / f"{cell.game}-{label}.csv"


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether no other process is busy with this table; none is until the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_suffix(".lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        lock.unlink()


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    unfinished.rename(path)


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return [{k: v if k == "stage" else float(v or "nan") for k, v in row.items()} for row in csv.DictReader(file)]


PARENT = {"fair_local_ia": "inequity_aversion", "fair_local_svo": "social_value_orientation"}
_ENDS = ("collective_return_low", "collective_return_high")
_CHANCES = ("end_above_base", "end_above_parent", "mean_above_parent", "worst_role_above_parent")
# What a game is judged by beside collective return.
SHOWN = ("equality_items", "sustainability", "peace", "own_coin_share", "cleaned", "zaps_fired")


def summarise(study: Study) -> None:
    """The summary over all cells that are there, and a figure of learning curves."""
    there = {cell: read(table(study, cell)) for cell in cells(study) if table(study, cell).exists()}
    if not there:
        return
    lines, curves = [], defaultdict(dict)
    ends: dict[tuple[str, str], np.ndarray] = {}  # by game and label, [seeds]
    means: dict[tuple[str, str], np.ndarray] = {}
    worst: dict[tuple[str, str], np.ndarray] = {}  # return per agent of the role that has least, [seeds]
    for cell, rows in there.items():
        final = [row for row in rows if row["stage"] == "final"]
        seeds = sorted({int(row["seed"]) for row in final})
        curve = np.array([[row["collective_return"] for row in final if row["seed"] == seed] for seed in seeds])
        steps = np.array([row["env_steps"] for row in final if row["seed"] == seeds[0]])
        curves[cell.game][cell.label] = steps, curve
        this = cell.game, cell.label
        ends[this], means[this] = np.array([last(final, seed) for seed in seeds]), curve.mean(axis=1)
        line = {"game": cell.game, "label": cell.label, "factor": final[0]["factor"], "seeds": len(seeds)}
        # Learning slowly delays a tragedy, too; a method that prevents it is above what selfish agents ever had.
        best = np.array([np.convolve(lane, np.ones(3) / 3, "valid").max() for lane in curve])
        roles = [name for name in final[0] if name.startswith("return/")]
        worst[this] = np.array([min((last(final, seed, role) for role in roles), default=np.nan) for seed in seeds])
        values_of = {
            "collective_return": ends[this],
            "mean_over_training": means[this],
            "best": best,
            "worst_role": worst[this],
        }
        for name, values in values_of.items():
            low, high = bootstrap_interval(values)
            line |= {name: iqm(values), f"{name}_low": low, f"{name}_high": high}
        line |= {n: np.mean([last(final, s, n) for s in seeds]) if n in final[0] else np.nan for n in SHOWN}
        # Probabilities that a seed of this cell is better than one of another: selfish agents (or, in the ablation, raw
        # inequity aversion), and the raw form of the same method.
        others = {"base": ("selfish", "none"), "parent": (PARENT.get(cell.label, ""),)}
        for what, labels in others.items():
            other = next((key for key in ends if key[0] == cell.game and key[1] in labels), None)
            for name, values in (("end", ends), ("mean", means), ("worst_role", worst)):
                chance = probability_of_improvement(values[this], values[other]) if other else np.nan
                line[f"{name}_above_{what}"] = chance
        lines.append({k: float(v) if isinstance(v, np.ndarray | np.floating) else v for k, v in line.items()})
    write(HERE / study / "summary.csv", lines)
    for line in lines:
        value, low, high, best, role = (line[name] for name in ("collective_return", *_ENDS, "best", "worst_role"))
        interval = f"{value:8.1f} [{low:.1f}, {high:.1f}]"
        chances = " ".join(f"{line[name]:5.2f}" for name in _CHANCES)
        name = f"{line['game']:32} {line['label']:26} x{line['factor']:<4g}"
        print(f"{name} {interval:24} {best:7.1f} {role:6.1f}  {chances}")
    draw(study, curves)


def draw(study: Study, curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]) -> None:
    from matplotlib.figure import Figure

    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    for axes, (game, labels) in zip(panels, curves.items(), strict=False):
        for i, (label, (steps, curve)) in enumerate(labels.items()):
            colour, style = COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else "--"
            low, high = bootstrap_interval(curve, num_resamples=500)
            steps = steps / 1000
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(steps, iqm(curve), style, color=colour, label=label.replace("_", " "))
        axes.set_title(game.replace("_", " "), fontsize=10)
        axes.set(xlabel="thousand environment steps per seed", ylabel="collective return")
        axes.grid(color="0.92")
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(HERE / study / "curves.png", dpi=100)


def main(args: Args) -> None:
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    for cell in cells(args.study):
        path = table(args.study, cell)
        if (args.games and cell.game not in args.games) or (args.methods and cell.label not in args.methods):
            continue
        with alone(path) as free:
            if free and not path.exists() and not args.only_draw:
                print(f"{cell.game}: {cell.label}", flush=True)
                write(path, train(cell, args.total_steps))
    summarise(args.study)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))

"""Whether a policy trained under `fast` keeps its return under `faithful`: the test of the coarser presets.

    python benchmarks/mamujoco_transfer.py RUN [RUN ...] [--episodes 16] [--out FILE]

Each RUN is the folder of a run, finished or under way, of any program on a robot. Every seed's last policy plays,
without noise, the same starts under both presets. `loss_percent` is that of the mean over seeds, `loss_error` its
standard error over seeds (of paired differences), in percent, too. A row per run, after one per seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from timing import write_table

from covey.experiment import load_run


@dataclass(frozen=True)
class Args:
    """Settings of the comparison."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs."""
    episodes: int = 16
    """Episodes per seed and preset."""
    out: Path = Path("results/benchmarks/mamujoco_transfer.csv")
    """Table to write."""


def robots_of(path: Path) -> tuple[Any, Any]:
    """The learner of a run on a robot, and its carries [S, ...]; of `offline_data.py` those that it remembers from."""
    run = load_run(path)
    return getattr(run.learner, "inner", run.learner), getattr(run.carries, "inner", run.carries)


def returns(learner: Any, carries: Any, physics: str, episodes: int) -> np.ndarray:
    """Each seed's mean return, [S], over the same starts whatever the physics."""
    config = replace(learner.config, eval_episodes=episodes)
    learner = replace(learner, env=replace(learner.env, physics=physics), config=config)
    key = jax.random.key(20_000)
    metrics = jax.jit(jax.vmap(lambda carry: learner.evaluate(carry, key)))(carries)
    return np.asarray(metrics["episode_return"]).mean(axis=1)


def compare(path: Path, episodes: int) -> list[dict[str, Any]]:
    """The rows of one run."""
    learner, carries = robots_of(path)
    fast, faithful = (returns(learner, carries, physics, episodes) for physics in ("fast", "faithful"))
    lost, scale = fast - faithful, abs(fast.mean())
    error = 100 * lost.std(ddof=1) / np.sqrt(len(lost)) / scale if len(lost) > 1 else np.nan
    robot = {"run": path.name, "robot": learner.env.robot, "episodes": episodes}
    rows = [
        robot | {"seed": i, "fast": round(float(a), 1), "faithful": round(float(b), 1)}
        | {"loss_percent": round(100 * float(a - b) / abs(float(a)), 2), "loss_error": ""}
        for i, (a, b) in enumerate(zip(fast, faithful, strict=True))
    ]  # fmt: skip
    whole = {"seed": "all", "fast": round(float(fast.mean()), 1), "faithful": round(float(faithful.mean()), 1)}
    whole |= {"loss_percent": round(100 * float(lost.mean()) / float(scale), 2), "loss_error": round(float(error), 2)}
    return [*rows, robot | whole]


def main(args: Args) -> None:
    names = " ".join(path.name for path in args.runs)
    rows = (row for path in args.runs for row in compare(path, args.episodes))
    write_table(args.out, rows, f"python benchmarks/mamujoco_transfer.py {names} --episodes {args.episodes}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))

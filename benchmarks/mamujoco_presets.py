"""How far `fast` is from `faithful` after one and after ten environment steps.

    python benchmarks/mamujoco_presets.py [--robots hopper ant] [--out FILE]
    python benchmarks/mamujoco_presets.py --robots hopper --run RUN [--out FILE]

States are those that `faithful` reaches under random actions, episode by episode, or, with the folder of a run, those
of episodes that its seeds' policies play under the preset that they were trained under; from each, both presets take
the same random actions. Per state, the largest error of a joint; over states, median, 95th percentile and maximum.
States whose episode would end within the ten steps stay in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from mamujoco_transfer import robots_of
from timing import write_table

import envs_jax
from envs_jax.mamujoco.ids import NAMED


@dataclass(frozen=True)
class Args:
    """Settings of the comparison."""

    robots: tuple[str, ...] = tuple(NAMED)
    """Robots, each with its first partition."""
    preset: str = "fast"
    """What to compare with `faithful`."""
    states: int = 256
    """Number of states."""
    before: int = 40
    """Random steps that lead to them."""
    run: Path | None = None
    """A finished run on the (only) robot, whose policies lead to them instead."""
    out: Path = Path("results/benchmarks/mamujoco_presets.csv")
    """Table to write."""

    def __post_init__(self) -> None:
        for name in self.robots:
            if name not in NAMED:
                raise ValueError(f"robots holds '{name}'; allowed: {', '.join(NAMED)}")
        if self.run is not None and len(self.robots) != 1:
            raise ValueError(f"robots is {self.robots}; allowed with run: the robot that it is of")


def visited(path: Path, robot: str, count: int) -> Any:
    """`count` states, evenly from an episode of each seed's policy."""
    learner, carries = robots_of(path)
    if learner.env.robot != robot:
        raise ValueError(f"run is of {learner.env.robot}; allowed: one of {robot}")
    states, valid = jax.jit(jax.vmap(lambda carry: learner.episode(carry, jax.random.key(3))))(carries)
    flat = np.flatnonzero(np.asarray(valid & ~states.done))  # [S x T], those from which there is a next step.
    chosen = flat[np.linspace(0, len(flat) - 1, count).astype(int)]
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[chosen], states)


def compare(args: Args, robot: str) -> Iterator[dict[str, Any]]:
    """The rows of one robot."""
    rng = np.random.default_rng(0)

    def step_of(preset: str) -> Any:
        env = envs_jax.make(f"mamujoco/{robot}", physics=preset)
        return env, jax.jit(jax.vmap(env.advance_and_reset))

    (env, faithful), (_, other) = step_of("faithful"), step_of(args.preset)
    low, high = (float(bound.min()) for bound in env.action_space().bounds())

    def draw(step: int) -> tuple[jax.Array, jax.Array]:
        actions = rng.uniform(low, high, (args.states, env.num_agents, *env.action_space().shape))
        return jax.random.split(jax.random.key(step), args.states), jnp.asarray(actions, jnp.float32)

    if args.run is not None:
        state = visited(args.run, robot, args.states)
    else:
        state = jax.vmap(env.init)(jax.random.split(jax.random.key(0), args.states))
        for step in range(args.before):
            keys, actions = draw(step)
            state = faithful(keys, state, actions)[0]
    a = b = state
    policy = "trained" if args.run else "random"
    for step in range(1, 11):
        keys, actions = draw(args.before + step)
        # The states before a reset, so that both go on alike.
        a, b = faithful(keys, a, actions)[2], other(keys, b, actions)[2]
        if step not in (1, 10):
            continue
        found: dict[str, Any] = {
            "robot": robot,
            "preset": args.preset,
            "policy": policy,
            "steps": step,
            "states": args.states,
        }
        for name in ("qpos", "qvel"):
            error = np.abs(np.asarray(getattr(a, name)) - np.asarray(getattr(b, name))).max(axis=1)
            for label, value in zip(("median", "p95", "max"), np.quantile(error, [0.5, 0.95, 1]), strict=True):
                found[f"{name}_{label}"] = float(f"{value:.2g}")
        found["qvel_scale"] = float(f"{np.median(np.abs(np.asarray(a.qvel)).max(axis=1)):.2g}")
        yield found


def main(args: Args) -> None:
    command = f"python benchmarks/mamujoco_presets.py --preset {args.preset} --robots {' '.join(args.robots)}"
    rows = (row for robot in args.robots for row in compare(args, robot))
    write_table(args.out, rows, command + (f" --run {args.run.name}" if args.run else ""))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))

"""Random steps of the robots: no number that is not finite gets out, and what diverges is counted.

    python benchmarks/mamujoco_soak.py [--robots hopper ant] [--steps 100000] [--out FILE]

Random actions over the whole range, auto-reset on. Per robot: episodes by how they ended, those that the physics ended
(`diverged`: not finite, or positions or velocities of 1e6 and more), steps with an observation, reward, state or
`info` that is not finite, and the fastest joint. A number that is not finite makes the exit status 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from timing import write_table

import envs_jax
from envs_jax.mamujoco.ids import NAMED


@dataclass(frozen=True)
class Args:
    """Settings of the soak."""

    robots: tuple[str, ...] = tuple(NAMED)
    """Robots, each with its first partition."""
    physics: str = "fast"
    """Physics preset."""
    steps: int = 100_000
    """Environment steps per robot, of all environments together, at least."""
    envs: int = 64
    """Environments in parallel."""
    seed: int = 0
    """Seed of the actions."""
    out: Path = Path("results/benchmarks/mamujoco_soak.csv")
    """Table to write."""

    def __post_init__(self) -> None:
        for name in self.robots:
            if name not in NAMED:
                raise ValueError(f"robots holds '{name}'; allowed: {', '.join(NAMED)}")


def finite(tree: Any) -> jax.Array:
    """Whether all numbers of each environment are finite, bool[E]."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x).reshape(x.shape[0], -1), axis=1) for x in leaves]), axis=0)


def soak(args: Args, robot: str) -> dict[str, Any]:
    """The row of one robot."""
    env: Any = envs_jax.make(f"mamujoco/{robot}", physics=args.physics)
    low, high = (float(bound.min()) for bound in env.action_space().bounds())
    shape, chunk = (args.envs, env.num_agents, *env.action_space().shape), 50

    def step(state: Any, key: jax.Array) -> Any:
        key_act, key_step = jax.random.split(key)
        actions = jax.random.uniform(key_act, shape, jnp.float32, low, high)
        keys = jax.random.split(key_step, args.envs)
        state, outcome, last = jax.vmap(env.advance_and_reset)(keys, state, actions)
        seen = jax.vmap(env.observe)(state), jax.vmap(env.observe)(last), outcome.reward, outcome.info, state, last
        counts = {
            "diverged": outcome.info["diverged"][:, 0],
            "terminated": outcome.terminated,
            "truncated": outcome.truncated,
            "not_finite": ~finite(seen),
        }
        sums = {name: jnp.sum(count, dtype=jnp.int32) for name, count in counts.items()}
        return state, (sums, jnp.max(jnp.abs(last.qvel)))

    @jax.jit
    def run(key: jax.Array, state: Any) -> Any:
        state, (counts, speed) = jax.lax.scan(step, state, jax.random.split(key, chunk))
        return state, jax.tree.map(jnp.sum, counts), jnp.max(speed)

    key = jax.random.key(args.seed)
    state = jax.jit(jax.vmap(env.init))(jax.random.split(key, args.envs))
    total, fastest, steps, began = {}, 0.0, 0, time.perf_counter()
    while steps < args.steps:
        key, key_run = jax.random.split(key)
        state, counts, speed = run(key_run, state)
        total = {name: total.get(name, 0) + int(count) for name, count in counts.items()}
        fastest, steps = max(fastest, float(speed)), steps + chunk * args.envs
    found = {"robot": robot, "physics": args.physics, "env_steps": steps, **total, "largest_qvel": round(fastest, 1)}
    found["seconds"] = round(time.perf_counter() - began)
    return found


def main(args: Args) -> None:
    rows: list[dict[str, Any]] = []

    def soaked() -> Iterator[dict[str, Any]]:
        for robot in args.robots:
            rows.append(soak(args, robot))
            yield rows[-1]

    write_table(args.out, soaked(), " ".join(["python", *sys.argv]))
    sys.exit(int(any(found["not_finite"] for found in rows)))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))

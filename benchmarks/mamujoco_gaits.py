"""Whether a coarser physics moves a robot as `faithful` does: the same open-loop gaits under each.

    python benchmarks/mamujoco_gaits.py [--robots ant hopper] [--physics fast rk4/2/4/8] [--out FILE]

It needs no trained policy, and looks at whole stretches where `mamujoco_presets.py` looks at ten steps. Each of the
`--gaits` random gaits (every actuator a sine around an offset, all of one frequency) is one episode of `--steps` steps.
Single episodes are chaotic, so that they are compared as a population: the share that is still going at the end, the
deviation of what they have run (summed forward reward), and the correlation of that with `faithful`'s episodes. What
chaos alone makes of that correlation is in the row of `faithful` from other starts.

A physics is a preset's name, or integrator/iterations/line-search steps/contacts, and /substeps where not 1.
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
from timing import write_table

import envs_jax
from envs_jax.mamujoco import Physics

RUNNERS = ("halfcheetah", "ant", "hopper", "walker2d", "humanoid")


@dataclass(frozen=True)
class Args:
    """Settings of the comparison."""

    robots: tuple[str, ...] = RUNNERS
    """Robots that are rewarded for running."""
    physics: tuple[str, ...] = ("fast",)
    """What to compare with `faithful`."""
    gaits: int = 256
    """Random gaits, an episode each."""
    steps: int = 200
    """Environment steps of an episode."""
    out: Path = Path("results/benchmarks/mamujoco_gaits.csv")
    """Table to write."""

    def __post_init__(self) -> None:
        for name in self.robots:
            if name not in RUNNERS:
                raise ValueError(f"robots holds '{name}'; allowed: {', '.join(RUNNERS)}")


def physics_of(text: str) -> Any:
    """What `envs_jax.make` takes for a word of the command line."""
    if "/" not in text:
        return text
    integrator, iterations, ls_iterations, contacts, *substeps = text.split("/")
    return Physics(
        integrator,  # type: ignore[arg-type]
        int(iterations),
        int(ls_iterations),
        max_contact_points=int(contacts),
        substeps=int(*substeps or [1]),
    )


def played(robot: str, physics: str, args: Args, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each gait, whether its episode is still going after `steps`, and its summed forward reward up to its end."""
    env: Any = envs_jax.make(f"mamujoco/{robot}", physics=physics_of(physics), max_steps=args.steps + 1)
    low, high = (float(bound.min()) for bound in env.action_space().bounds())
    shape = (env.num_agents, *env.action_space().shape)
    rng = np.random.default_rng(0)  # The same gaits whatever the seed, which is that of the starts.
    amplitude = np.tanh(rng.normal(size=(args.gaits, *shape)))
    offset = 0.5 * np.tanh(rng.normal(size=(args.gaits, *shape)))
    turn = rng.uniform(0, 2 * np.pi, (args.gaits, *shape))
    hertz = 1.5 * np.exp(0.5 * rng.normal(size=args.gaits))

    def episode(gait: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        amplitude, offset, turn, hertz = gait

        def step(carry: tuple, t: jax.Array) -> tuple[tuple, None]:
            state, going, forward = carry
            wave = jnp.clip(offset + amplitude * jnp.sin(2 * jnp.pi * hertz * env.dt * t + turn), -1.0, 1.0)
            state, outcome = env.transition(key, state, 0.5 * (low + high) + 0.5 * (high - low) * wave)
            forward += jnp.where(going, outcome.info["reward_forward"][0], 0.0)
            return (state, going & ~outcome.terminated, forward), None

        start = (env.init(key), jnp.bool_(True), jnp.float32(0))
        (_, going, forward), _ = jax.lax.scan(step, start, jnp.arange(args.steps))
        return going, forward

    gaits = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (amplitude, offset, turn, hertz))
    going, forward = jax.jit(jax.vmap(episode))(gaits, jax.random.split(jax.random.key(seed), args.gaits))
    return np.asarray(going), np.asarray(forward, np.float64)


def compare(args: Args) -> Iterator[dict[str, Any]]:
    """A row per robot and physics."""
    for robot in args.robots:
        reference = None
        for physics, seed in (("faithful", 0), ("faithful", 1), *((physics, 0) for physics in args.physics)):
            going, forward = played(robot, physics, args, seed)
            reference = forward if reference is None else reference
            row: dict[str, Any] = {"robot": robot, "physics": physics, "starts": seed}
            row |= {"gaits": args.gaits, "steps": args.steps, "still_going": round(going.mean(), 3)}
            row |= {"forward_mean": round(forward.mean(), 2), "forward_deviation": round(forward.std(), 2)}
            row["correlation"] = round(np.corrcoef(reference, forward)[0, 1], 3)
            yield row


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    names = f"--robots {' '.join(args.robots)} --physics {' '.join(args.physics)}"
    write_table(args.out, compare(args), f"python benchmarks/mamujoco_gaits.py {names}")

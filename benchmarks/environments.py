"""Random-action speed of environments, beside JaxMARL's MPE at equal numbers of agents.

    python benchmarks/environments.py --out results/benchmarks/environments.csv

Auto-reset on, observations of all agents summed into the result so that none is left out, actions drawn inside. Steps
are environment steps (all agents act once). Programs take turns within one process; compile time is apart.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from timing import compile_once, spread, time_calls, write_table

import envs_jax


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    envs: tuple[int, ...] = (1, 256, 4096)
    """Numbers of environments in parallel."""
    agents: tuple[int, ...] = (4, 8)
    """Numbers of agents."""
    steps: int = 100
    """Steps per call."""
    repeats: int = 7
    """Timed calls of each program."""
    out: Path = Path("results/benchmarks/environments.csv")
    """Table to write."""


def ours(env: Any, num_envs: int, steps: int) -> Callable[[jax.Array], jax.Array]:
    """`steps` random steps of `num_envs` environments, through the stacked interface."""
    space = env.action_space()

    def rollout(key: jax.Array) -> jax.Array:
        def step(loop, key):
            state, total = loop
            key_act, key_env = jax.random.split(key)
            keys = jax.random.split(key_act, num_envs * env.num_agents).reshape(num_envs, env.num_agents)
            actions = jax.vmap(jax.vmap(space.sample))(keys)
            state, outcome, _ = jax.vmap(env.advance_and_reset)(jax.random.split(key_env, num_envs), state, actions)
            obs = jax.vmap(env.observe)(state)
            return (state, total + jnp.sum(obs) + jnp.sum(outcome.reward)), None

        key_init, key_run = jax.random.split(key)
        state = jax.vmap(env.init)(jax.random.split(key_init, num_envs))
        return jax.lax.scan(step, (state, jnp.float32(0)), jax.random.split(key_run, steps))[0][1]

    return rollout


def jaxmarls(env: Any, num_envs: int, steps: int) -> Callable[[jax.Array], jax.Array]:
    """The same through JaxMARL's interface, as its own speed notebook does it."""

    def rollout(key: jax.Array) -> jax.Array:
        def step(loop, key):
            state, total = loop
            key_act, key_env = jax.random.split(key)
            keys = jax.random.split(key_act, num_envs * env.num_agents).reshape(env.num_agents, num_envs)
            actions = {a: jax.vmap(env.action_space(a).sample)(keys[i]) for i, a in enumerate(env.agents)}
            obs, state, reward, _, _ = jax.vmap(env.step)(jax.random.split(key_env, num_envs), state, actions)
            total = total + sum(jnp.sum(obs[a]) + jnp.sum(reward[a]) for a in env.agents)
            return (state, total), None

        key_init, key_run = jax.random.split(key)
        _, state = jax.vmap(env.reset)(jax.random.split(key_init, num_envs))
        return jax.lax.scan(step, (state, jnp.float32(0)), jax.random.split(key_run, steps))[0][1]

    return rollout


def measure(args: Args) -> Iterator[dict[str, Any]]:
    """A row per environment, number of agents and of environments."""
    import jaxmarl

    for agents in args.agents:
        candidates = {
            "jaxmarl MPE_simple_spread_v3": (
                jaxmarls,
                jaxmarl.make("MPE_simple_spread_v3", num_agents=agents, num_landmarks=agents),
            ),
            "dispersion": (ours, envs_jax.make("dispersion", num_agents=agents)),
            "dispersion (JaxMARL interface)": (jaxmarls, envs_jax.make("dispersion", num_agents=agents)),
            "navigation": (ours, envs_jax.make("navigation", num_agents=agents)),
            "specialisation": (ours, envs_jax.make("specialisation", num_agents=agents)),
            "synchronisation": (ours, envs_jax.make("synchronisation", num_agents=agents)),
        }
        for num_envs in args.envs:
            key = jax.random.key(0)
            programs = {
                name: compile_once(make(env, num_envs, args.steps), key) for name, (make, env) in candidates.items()
            }
            seconds: dict[str, list[float]] = {name: [] for name in programs}
            for _ in range(args.repeats):
                for name, program in programs.items():
                    seconds[name] += time_calls(lambda p=program, k=key: p.call(k), 1)
            peer = statistics.median(seconds["jaxmarl MPE_simple_spread_v3"])
            for name, program in programs.items():
                median = statistics.median(seconds[name])
                row = {"environment": name, "agents": agents, "envs": num_envs}
                row |= {
                    "steps_per_s": round(num_envs * args.steps / median),
                    "to_simple_spread": round(peer / median, 2),
                }
                row |= spread(seconds[name]) | {"compile_s": round(program.compile_seconds, 2)}
                yield row


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    write_table(args.out, measure(args), " ".join(["python", *sys.argv]))

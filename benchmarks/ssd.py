"""Random-action speed of the social dilemmas, beside SocialJax at equal map, agents and horizon.

    python benchmarks/ssd.py [--socialjax PATH] [--meltingpot PATH] --out results/benchmarks/ssd.csv

Auto-reset on, every observation read (added up, number by number), actions and keys of a whole call drawn at its
start, programs taking turns within one process, compile time apart. `step` is the whole loop; the other parts are the
same loop with less in it, so that the differences say what the step spends its time on. PATH is a checkout of
cooperativex/SocialJax; its `step` (what its own speed test calls, and which builds observations twice) and its
`step_env` are measured. One environment step is one action of all agents; agent steps are environment steps times
agents. The engine of Melting Pot runs one environment on one core, resets not counted.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from timing import Compiled, compile_once, spread, time_calls, write_table

import envs_jax

GAMES = {"cleanup": "clean_up", "harvest": "harvest_common_open", "coins": "coin_game"}
"""Our ids, and SocialJax's."""

DETAILED = 256
"""Number of environments at which the step is taken apart and SocialJax's `step_env` measured, too."""

PARTS = ("step", "without observe", "without observe and reset")


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    envs: tuple[int, ...] = (1, 256, 1024, 4096)
    """Numbers of environments in parallel."""
    agents: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Numbers of agents of the scaling table (on large orchards and rivers, 256 environments)."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Map widths of the scaling table (square orchards, 8 agents, 256 environments)."""
    env_steps: int = 6400
    """Environment steps per call, of all environments together; from 4 to 1000 steps of each."""
    repeats: int = 5
    """Timed calls of each program."""
    socialjax: Path | None = None
    """A checkout of cooperativex/SocialJax to measure in the same run."""
    meltingpot: Path | None = None
    """A checkout of google-deepmind/meltingpot whose engine (pip install dmlab2d) to measure in the same run."""
    out: Path = Path("results/benchmarks/ssd.csv")
    """Table to write; the scaling table goes beside it, with _scaling in its name."""


def draw(key: jax.Array, steps: int, num_envs: int, num_agents: int, num_actions: int) -> tuple[jax.Array, jax.Array]:
    """Keys [T, E] and random actions int32[T, E, N] of a whole call."""
    key_act, key_env = jax.random.split(key)
    actions = jax.random.randint(key_act, (steps, num_envs, num_agents), 0, num_actions)
    return jax.random.split(key_env, (steps, num_envs)), actions


def ours(env: Any, num_envs: int, steps: int, part: str = "step") -> Callable[[jax.Array], Any]:
    """`steps` random steps of `num_envs` environments."""

    def rollout(key: jax.Array) -> Any:
        def step(loop: tuple, drawn: tuple) -> tuple:
            state, seen, total = loop
            keys, actions = drawn
            if part == "without observe and reset":
                state, outcome = jax.vmap(env.advance)(keys, state, actions)
            else:
                state, outcome, _ = jax.vmap(env.advance_and_reset)(keys, state, actions)
            if part == "step":
                seen += jax.vmap(env.observe)(state)
            return (state, seen, total + outcome.reward), None

        state = jax.vmap(env.init)(jax.random.split(key, num_envs))
        start = (state, jax.vmap(env.observe)(state), jnp.zeros((num_envs, env.num_agents)))
        return jax.lax.scan(step, start, draw(key, steps, num_envs, env.num_agents, env.num_actions))[0]

    return rollout


def socialjaxs(env: Any, num_envs: int, steps: int, method: str) -> Callable[[jax.Array], Any]:
    """The same with SocialJax's `step` (what its own speed test calls) or `step_env`."""

    def rollout(key: jax.Array) -> Any:
        def step(loop: tuple, drawn: tuple) -> tuple:
            state, seen, total = loop
            keys, actions = drawn
            obs, state, reward, _, _ = jax.vmap(getattr(env, method))(keys, state, list(actions.T))
            return (state, seen + obs, total + reward), None

        obs, state = jax.vmap(env.reset)(jax.random.split(key, num_envs))
        start = (state, obs, jnp.zeros((num_envs, env.num_agents)))
        return jax.lax.scan(step, start, draw(key, steps, num_envs, env.num_agents, env.action_space(0).n))[0]

    return rollout


def take_turns(programs: dict[str, Compiled], repeats: int) -> dict[str, list[float]]:
    """Seconds of each program's calls, one after the other, so that a slow spell hits all."""
    key = jax.random.key(1)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program.call(key))
            if turn > 0:  # the first call warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def bytes_of(tree: Any) -> int:
    """Bytes that the arrays of a tree (or of their shapes) take."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compare(args: Args, game: str, num_envs: int) -> Iterator[dict[str, Any]]:
    """Rows of one game at one number of environments."""
    env = envs_jax.make(game, max_steps=1000, **({"map": "socialjax"} if game == "coins" else {}))
    steps = min(max(args.env_steps // num_envs, 4), 1000)
    key = jax.random.key(0)
    detail = num_envs == DETAILED
    parts = PARTS if detail else PARTS[:1]
    programs = {part: compile_once(ours(env, num_envs, steps, part), key) for part in parts}
    if args.socialjax is not None:
        import socialjax  # pyright: ignore[reportMissingImports]

        theirs = socialjax.make(GAMES[game], num_agents=env.num_agents, num_inner_steps=1000)
        for method in ("step", "step_env") if detail else ("step",):
            programs[f"SocialJax {method}"] = compile_once(socialjaxs(theirs, num_envs, steps, method), key)
    seconds = take_turns(programs, args.repeats)
    state = jax.eval_shape(env.init, key)
    obs = bytes_of(jax.eval_shape(env.observe, state))
    for name, program in programs.items():
        median = statistics.median(seconds[name])
        rate = num_envs * steps / median
        row = {"environment": game, "agents": env.num_agents, "envs": num_envs, "program": name}
        row |= {"env_steps_per_s": round(rate), "agent_steps_per_s": round(rate * env.num_agents)}
        row |= {"step_to_this": round(median / statistics.median(seconds["step"]), 2)}
        row |= spread(seconds[name]) | {"compile_s": round(program.compile_seconds, 2)}
        mine = name in PARTS
        row |= {"state_bytes": bytes_of(state) if mine else "", "obs_bytes_per_step": obs if mine else ""}
        row |= {"obs_gb_256x1000": round(256 * 1000 * obs / 1e9, 2) if mine else ""}
        yield row


def engine(args: Args, game: str, step_seconds: float | None) -> dict[str, Any]:
    """The row of Melting Pot's engine; `step_seconds`: of one of our steps with 1 environment, if measured."""
    import meltingpot_engine

    steps = 250
    substrate = {"cleanup": "CLEANUP", "harvest": "OPEN", "coins": "COINS"}[game]
    agents, seconds, _ = meltingpot_engine.time_engine(getattr(meltingpot_engine, substrate), steps, args.repeats)
    rate = steps / statistics.median(seconds)
    row = {"environment": game, "agents": agents, "envs": 1, "program": "Melting Pot's engine"}
    row |= {"env_steps_per_s": round(rate), "agent_steps_per_s": round(rate * agents)}
    return row | {"step_to_this": round(1 / rate / step_seconds, 2) if step_seconds else ""} | spread(seconds)


def orchard(width: int, agents: int) -> str:
    """A square orchard of patches of five apples, with spawn cells for all agents in its last rows."""
    rows = max(1, -(-agents // width))
    cells = [["P" if r >= width - rows else " " for _ in range(width)] for r in range(width)]
    for r in range(2, width - rows - 2, 5):
        for c in range(2, width - 2, 5):
            for down, right in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
                cells[r + down][c + right] = "A"
    return "\n".join("".join(row) for row in cells)


def scaling(args: Args) -> Iterator[dict[str, Any]]:
    """How speed follows the number of agents and the size of the map."""
    settings = [("agents", 24, agents) for agents in args.agents] + [("map", width, 8) for width in args.widths]
    for what, width, agents in settings:
        map_text = orchard(width, agents)
        env = envs_jax.make("harvest", map=map_text, num_agents=agents, max_steps=1000)
        program = compile_once(ours(env, 256, 25), jax.random.key(0))
        seconds = time_calls(lambda p=program: p.call(jax.random.key(1)), args.repeats)
        rate = 256 * 25 / statistics.median(seconds)
        row = {"scaled": what, "agents": agents, "map_cells": width * width, "apple_cells": map_text.count("A")}
        row |= {"env_steps_per_s": round(rate), "agent_steps_per_s": round(rate * agents)}
        row |= spread(seconds) | {"compile_s": round(program.compile_seconds, 2)}
        row |= {"state_bytes": bytes_of(jax.eval_shape(env.init, jax.random.key(0)))}
        yield row


def games(args: Args) -> Iterator[dict[str, Any]]:
    """Rows of all games, each followed by Melting Pot's engine."""
    for game in GAMES:
        single = None
        for num_envs in args.envs:
            for row in compare(args, game, num_envs):
                if row["envs"] == 1 and row["program"] == "step":
                    single = 1 / row["env_steps_per_s"]
                yield row
        if args.meltingpot is not None:
            yield engine(args, game, single)


def main(args: Args) -> None:
    if args.socialjax is not None:
        if not (args.socialjax / "socialjax").is_dir():
            sys.exit(f"error: --socialjax is {args.socialjax}; allowed: a checkout of cooperativex/SocialJax")
        sys.path.insert(0, str(args.socialjax))
    if args.meltingpot is not None:
        import meltingpot_engine

        meltingpot_engine.load(args.meltingpot)
    command = " ".join(["python", *sys.argv])
    for path in filter(None, (args.socialjax, args.meltingpot)):
        command = command.replace(str(path), "PATH")
    write_table(args.out, games(args), command)
    write_table(args.out.with_stem(args.out.stem + "_scaling"), scaling(args), command)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))

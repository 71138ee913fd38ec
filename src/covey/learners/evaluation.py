"""Episodes of a learner's policy: to measure, to draw, and what a rollout says of those that it finished.

Here `step(env_state, memory, key) -> (env_state, memory, outcome)` is a step of E environments, without reset, by the
policy; `memory` is whatever it carries along. Letters: E envs, T time, N agents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from covey.learners.base import Metrics
from covey.metrics import social

Step: TypeAlias = Callable[[Any, Any, jax.Array], tuple[Any, Any, Any]]


def episode_steps(env: Any, steps: int | None) -> int:
    """Steps after which an evaluation episode is cut: `steps`, or the environment's time limit."""
    steps = steps or env.max_steps
    if steps is None:
        raise ValueError("eval_steps is None and the environment has no time limit; give eval_steps a number")
    return steps


def evaluate(
    env: Any, step: Step, memory: Any, count: int, num_steps: int, key: jax.Array, dilemma: bool = False
) -> Metrics:
    """Means over `count` episodes, whose starts depend on `key` alone: returns, lengths, and of what steps report (the
    outcome's `info`) sums, or in a mixed-motive game the metrics of `covey.metrics.social`. The sum of `won`, which is
    true at most once an episode, is called `win_rate`.

    dilemma: treat it as such a game even if what it reports does not say so.
    """

    def add(loop: tuple, key_step: jax.Array) -> tuple[tuple, jax.Array]:
        env_state, memory, alive, totals, outcomes = loop
        env_state, memory, outcome = step(env_state, memory, key_step)
        seen = {"episode_return": outcome.reward} | outcome.info  # Each [E, N].
        totals = {
            name: total + jnp.where(alive[:, None], seen[name], 0.0).astype(jnp.float32)
            for name, total in totals.items()
        }
        if outcomes is not None:
            outcomes = jax.vmap(social.add, in_axes=(0, 0, 0, None, 0))(
                outcomes, outcome.reward, outcome.info, None, alive
            )
        return (env_state, memory, alive & ~outcome.done, totals, outcomes), alive

    key_init, key_steps = jax.random.split(key)
    env_state = jax.vmap(env.init)(jax.random.split(key_init, count))
    info = jax.eval_shape(lambda: step(env_state, memory, key)[2]).info
    dilemma = dilemma or not {*social.COUNTED, "removed"}.isdisjoint(info)
    outcomes = None
    if dilemma:
        cells = getattr(getattr(env, "board", None), "num_cells", None) if "cell" in info else None
        outcomes = jax.tree.map(lambda x: jnp.stack([x] * count), social.init(env.num_agents, info, cells))
    zeros = jnp.zeros((count, env.num_agents), jnp.float32)
    totals = dict.fromkeys(["episode_return", *([] if dilemma else info)], zeros)
    loop = (env_state, memory, jnp.ones(count, jnp.bool_), totals, outcomes)
    (_, _, _, totals, outcomes), alive = jax.lax.scan(add, loop, jax.random.split(key_steps, num_steps))
    length = jnp.sum(alive, axis=0).astype(jnp.float32)  # [E]
    names = {"won": "win_rate"}
    metrics = {names.get(name, name): jnp.mean(total, axis=0) for name, total in totals.items()} | {
        "episode_length": jnp.mean(length),
        "reward": jnp.mean(totals["episode_return"] / length[:, None], axis=0),
    }
    return metrics if outcomes is None else metrics | _social_metrics(env, outcomes)


def _social_metrics(env: Any, outcomes: Any) -> Metrics:
    """Social metrics of episodes [E], averaged; also per role, where the environment has several."""
    classes = getattr(env, "agent_classes", None) or {"agent": env.agents}
    roles = np.array([[agent in group for group in classes.values()].index(True) for agent in env.agents])
    names = tuple(classes) if len(classes) > 1 else ()
    scale = getattr(getattr(env, "own_roles", None), "apple_reward", None)
    finish = jax.vmap(lambda episode: social.finish(episode, roles, names, scale))
    metrics = {name: jnp.mean(value, axis=0) for name, value in finish(outcomes).items()}
    metrics.pop("return")  # That is `episode_return`.
    return metrics


def play(env: Any, step: Step, memory: Any, num_steps: int, key: jax.Array) -> tuple[Any, jax.Array]:
    """One episode to draw: `(states [T, ...], valid bool[T])`, as in `covey.learners.base.Learner.episode`."""

    def advance(loop: tuple, key_step: jax.Array) -> tuple[tuple, tuple]:
        env_state, memory, alive = loop
        next_state, memory, outcome = step(env_state, memory, key_step)
        return (next_state, memory, alive & ~outcome.done), (env_state, alive)

    key_init, key_steps = jax.random.split(key)
    loop = (jax.vmap(env.init)(key_init[None]), memory, jnp.ones(1, jnp.bool_))
    (last, _, _), (states, valid) = jax.lax.scan(advance, loop, jax.random.split(key_steps, num_steps))
    # The state that ends the episode is worth seeing: shift it in after the last valid one.
    states = jax.tree.map(lambda s, end: jnp.concatenate([s, end[None]])[:, 0], states, last)
    return states, jnp.concatenate([jnp.ones((1, 1), jnp.bool_), valid])[:, 0]


def finished(returned: jax.Array, length: jax.Array) -> Metrics:
    """What a rollout says of the episodes that ended in it: returned [T, N, E] and length int32[T, ..., E], both 0
    where none did. Means are NaN where none did at all."""
    ended = jnp.sum(length > 0)
    return {
        "episode_return": jnp.sum(returned, axis=(0, 2)) / ended,
        "episode_length": jnp.sum(length) / ended,
        "episodes": ended.astype(jnp.float32),
    }

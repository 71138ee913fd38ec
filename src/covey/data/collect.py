"""Datasets made here: any policy in any environment, and joint actions of games of one step.

`rollout` is pure and can be part of a larger program; `collect` compiles it and cuts what comes out into episodes on
the host, since how many there are is only known then. Letters: K environments, T steps, and those of
`covey.data.dataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from covey.data.dataset import Dataset, from_transitions
from covey.experiment.folder import describe

Policy: TypeAlias = Callable[[Any, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
"""`(params, key, obs[N, ...], memory) -> (actions[N, ...], memory)`, for one environment."""


class Rollout(NamedTuple):
    """What happened in K environments side by side over T steps, [T, K, ...]; JAX's arrays or NumPy's."""

    state: Any  # [T, K, S]
    obs: Any  # [T, K, N, O]
    action: Any  # [T, K, N, A]
    reward: Any  # [T, K, N]
    terminated: Any  # [T, K]
    truncated: Any  # [T, K]
    last_state: Any  # [T, K, S], after the step and before a reset
    last_obs: Any  # [T, K, N, O], likewise


def rollout(
    env: Any, policy: Policy, params: Any, key: jax.Array, num_envs: int, num_steps: int, memory: Any = None
) -> Rollout:
    """`num_steps` steps of `num_envs` fresh environments of the contract in `envs_jax.base` with auto-reset. Pure.

    memory: the policy's at the start of an episode, a pytree; it starts anew at each reset. Actions are kept as they
    are played: in their box's bounds, padding 0; a discrete one as one float. Observations are flattened to [N, O].
    """
    action_mask, low, high = _action_box(env)

    def see(env_state: Any) -> tuple[jax.Array, jax.Array]:
        obs = env.observe(env_state)
        return env.global_state(env_state).astype(jnp.float32), obs.reshape(obs.shape[0], -1).astype(jnp.float32)

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], Rollout]:
        env_state, recall = carry
        key_act, key_env = jax.random.split(key)
        state, obs = see(env_state)
        action, recall = policy(params, key_act, env.observe(env_state), recall)
        if low is not None:
            action = jnp.where(action_mask, jnp.clip(action, low, high), 0.0)
        next_state, outcome, last_state = env.advance_and_reset(key_env, env_state, action)
        recall = jax.tree.map(lambda fresh, old: jnp.where(outcome.done, fresh, old), memory, recall)
        flat = action.reshape(action.shape[0], -1).astype(jnp.float32)
        ends = outcome.terminated, outcome.truncated
        return (next_state, recall), Rollout(state, obs, flat, outcome.reward, *ends, *see(last_state))

    def one(key: jax.Array) -> Rollout:
        key_init, key_steps = jax.random.split(key)
        start = env.init(key_init), jax.tree.map(jnp.asarray, memory)
        return jax.lax.scan(step, start, jax.random.split(key_steps, num_steps))[1]

    return jax.vmap(one, out_axes=1)(jax.random.split(key, num_envs))


_compiled = jax.jit(rollout, static_argnums=(0, 1, 4, 5))


def collect(
    env: Any,
    policy: Policy,
    key: jax.Array,
    num_envs: int,
    num_steps: int,
    *,
    params: Any = None,
    memory: Any = None,
    keep_unfinished: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Dataset:
    """`num_envs` x `num_steps` transitions of a policy in an environment; see `rollout`. Episodes by environment.

    keep_unfinished: whether the episodes that are under way at the end are kept, as truncated ones, or left out.
    Give the same `policy` object again, and nothing is compiled anew. Raises ValueError for numbers below 1, actions
    that are no vectors, or if all episodes are left out.
    """
    for name, value in (("num_envs", num_envs), ("num_steps", num_steps)):
        if value < 1:
            raise ValueError(f"{name} is {value}; allowed: an integer of at least 1")
    about = {
        "source": "collect",
        "env": env.name,
        "settings": describe(env),
        "num_envs": num_envs,
        "num_steps": num_steps,
    }
    played: Rollout = jax.tree.map(np.asarray, _compiled(env, policy, params, key, num_envs, num_steps, memory))
    return from_rollout(env, played, keep_unfinished, about | dict(provenance or {}))


def from_rollout(
    env: Any, played: Rollout, keep_unfinished: bool = True, provenance: Mapping[str, Any] | None = None
) -> Dataset:
    """The episodes of a rollout of `env`. On the host; see `collect`."""
    num_steps, num_envs = played.terminated.shape
    flat = Rollout(*(np.swapaxes(np.asarray(x), 0, 1).reshape(num_envs * num_steps, *x.shape[2:]) for x in played))
    done = flat.terminated | flat.truncated
    end = done.copy()
    end[num_steps - 1 :: num_steps] = True
    last = np.flatnonzero(end)
    length = np.diff(last, prepend=-1)
    kept = done[last] | keep_unfinished
    if not kept.any():
        raise ValueError(f"num_steps is {num_steps}; allowed without unfinished episodes: enough to end one")
    step = np.repeat(kept, length)
    last = last[kept]
    return from_transitions(
        length[kept],
        flat.terminated[last],
        state=flat.state[step],
        obs=flat.obs[step],
        action=flat.action[step],
        reward=flat.reward[step],
        final_state=flat.last_state[last],
        final_obs=flat.last_obs[last],
        action_mask=_action_box(env)[0],
        obs_mask=_obs_mask(env),
        provenance=provenance,
    )


def _action_box(env: Any) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Which action entries are no padding, bool[N, A], and their bounds [N, A], None for discrete actions."""
    space = env.action_space()
    if hasattr(space, "n"):
        return np.ones((env.num_agents, 1), bool), None, None
    if len(space.shape) != 1:
        raise ValueError(f"{env.name} has actions in {space}; allowed: vectors, or discrete ones")
    own = [env.action_space(agent).bounds() for agent in env.agents]
    size = space.shape[0]
    mask = np.arange(size) < np.array([len(low) for low, _ in own])[:, None]
    low, high = (np.stack([np.pad(b[i], (0, size - len(b[i]))) for b in own]) for i in (0, 1))
    return mask, low, high


def _obs_mask(env: Any) -> np.ndarray:
    """Which entries of flattened observations are no padding, bool[N, O]; all, unless they are vectors."""
    shape = env.observation_space().shape
    own = [env.observation_space(agent).shape for agent in env.agents]
    if len(shape) != 1:
        return np.ones((env.num_agents, int(np.prod(shape))), bool)
    return np.arange(shape[0]) < np.array([s[0] for s in own])[:, None]

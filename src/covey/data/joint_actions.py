"""Datasets of games of one step: joint actions drawn from a law, each with its payoff.

Laws over joint actions are small frozen values with a pure `sample(key, count) -> float32[count, N]`, so that a dataset
with a known mean and spread can be made to measure: uniform ones as for CODA's polynomial games (arXiv 2604.23308,
section 6.1), Gaussians of any spread and point masses as in Tilbury et al. (arXiv 2407.01343).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from covey.data.dataset import Dataset, from_transitions
from covey.experiment.folder import describe

Bound: TypeAlias = float | tuple[float, ...]


class Law(Protocol):
    """A distribution of joint actions."""

    @property
    def num_agents(self) -> int: ...

    def sample(self, key: jax.Array, count: int) -> jax.Array:
        """float32[count, N], independent draws. Pure; `count` is static."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Each agent's action uniform in [low, high], independently. Bounds: for all agents, or one for each."""

    num_agents: int = 2
    low: Bound = -1.0
    high: Bound = 1.0

    def __post_init__(self) -> None:
        if self.num_agents < 1:
            raise ValueError(f"num_agents is {self.num_agents}; allowed: an integer of at least 1")
        _check_box(self.low, self.high, self.num_agents)

    def sample(self, key: jax.Array, count: int) -> jax.Array:
        low, high = (jnp.asarray(bound, jnp.float32) for bound in (self.low, self.high))
        return jax.random.uniform(key, (count, self.num_agents), jnp.float32, low, high)


@dataclass(frozen=True)
class Gaussian:
    """Independent normal actions, conditioned on lying in [low, high].

    Conditioned and not clipped, so that the law has a density; where the box cuts off much of it, mean and spread of
    the samples are not these. Use infinite bounds for the plain law.
    """

    mean: tuple[float, ...]
    std: float | tuple[float, ...]
    low: Bound = -1.0
    high: Bound = 1.0

    def __post_init__(self) -> None:
        _check_box(self.low, self.high, len(self.mean))
        std = self.std if isinstance(self.std, tuple) else (self.std,) * len(self.mean)
        if not self.mean or len(std) != len(self.mean) or not all(0 < s < math.inf for s in std):
            raise ValueError(f"std is {self.std}; allowed: a number above 0, or one for each of mean {self.mean}")
        if not all(math.isfinite(m) for m in self.mean):
            raise ValueError(f"mean is {self.mean}; allowed: finite numbers")

    @property
    def num_agents(self) -> int:
        return len(self.mean)

    def sample(self, key: jax.Array, count: int) -> jax.Array:
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        low, high = (np.asarray(bound, np.float32) for bound in (self.low, self.high))
        shape = (count, self.num_agents)
        z = jax.random.truncated_normal(key, (low - mean) / std, (high - mean) / std, shape, jnp.float32)
        return jnp.clip(mean + std * z, low, high)  # rounding may step out of the box


@dataclass(frozen=True)
class PointMass:
    """One joint action always."""

    at: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.at or not all(math.isfinite(a) for a in self.at):
            raise ValueError(f"at is {self.at}; allowed: a finite number for each agent")

    @property
    def num_agents(self) -> int:
        return len(self.at)

    def sample(self, key: jax.Array, count: int) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(self.at, jnp.float32), (count, self.num_agents))


@dataclass(frozen=True)
class Mixture:
    """A draw from one of several laws, chosen anew each time with probability proportional to its weight."""

    laws: tuple[Law, ...]
    weights: tuple[float, ...] | None = None
    """One per law; None for equal ones."""

    def __post_init__(self) -> None:
        if not self.laws or len({law.num_agents for law in self.laws}) != 1:
            raise ValueError(f"laws is {self.laws}; allowed: at least one, all for the same number of agents")
        weights = self.weights
        if weights is not None and (len(weights) != len(self.laws) or not all(0 < w < math.inf for w in weights)):
            raise ValueError(f"weights is {weights}; allowed: a number above 0 for each of {len(self.laws)} laws")

    @property
    def num_agents(self) -> int:
        return self.laws[0].num_agents

    def sample(self, key: jax.Array, count: int) -> jax.Array:
        key_choice, *keys = jax.random.split(key, len(self.laws) + 1)
        weights = np.asarray(self.weights or (1.0,) * len(self.laws), np.float32)
        choice = jax.random.choice(key_choice, len(self.laws), (count,), p=weights / weights.sum())
        draws = jnp.stack([law.sample(k, count) for law, k in zip(self.laws, keys, strict=True)])
        return draws[choice, jnp.arange(count)]


def joint_action_samples(
    law: Law,
    payoff: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    count: int,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> Dataset:
    """`count` episodes of one step, with joint actions from `law` and rewards `payoff(actions[M, N]) -> [M, N]`.

    There is nothing to see: observations and state are the constant 0, as in `envs_jax`'s polynomial games, and every
    episode terminates. Name the game in `provenance`. Raises ValueError for a count below 1 or payoffs that don't fit.
    """
    if count < 1:
        raise ValueError(f"count is {count}; allowed: an integer of at least 1")
    actions = law.sample(key, count)
    rewards = payoff(actions)
    if rewards.shape != actions.shape:
        raise ValueError(f"payoff gives shape {rewards.shape}; allowed: {actions.shape}, a payoff for each agent")
    agents = law.num_agents
    nothing: Any = np.zeros((count, agents, 1), np.float32)
    return from_transitions(
        np.ones(count, np.int64),
        np.ones(count, bool),
        state=nothing[:, 0],
        obs=nothing,
        action=np.asarray(actions)[:, :, None],
        reward=np.asarray(rewards),
        final_state=nothing[:, 0],
        final_obs=nothing,
        provenance={"source": "joint_action_samples", "law": describe(law), "count": count} | dict(provenance or {}),
    )


def _check_box(low: Bound, high: Bound, num_agents: int) -> None:
    for name, bound in (("low", low), ("high", high)):
        if np.shape(bound) not in ((), (num_agents,)):
            raise ValueError(f"{name} is {bound}; allowed: a number, or one for each of {num_agents} agents")
    if not np.less(low, high).all():
        raise ValueError(f"low is {low}; allowed: a number below high, which is {high}")

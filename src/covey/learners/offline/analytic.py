"""MADDPG where the payoff is known and nothing is seen: one number per agent and action, moved by plain gradients.

    theta_i <- clip(theta_i + eta clip_1(mean_B d R(a_1, ..., theta_i, ..., a_N) / d theta_i), low, high)

The setting in which CODA (2604.23308, table 4 and appendix C) studies polynomial games: a policy is one bias, the
payoff takes the critic's place, the optimiser is SGD. The others' actions are the batch's (BRUD), which may be the
dataset's or made up; only they are read of a segment, and only its first row.

Letters: B batch, N agents, A actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covey.learners.base import Metrics
from covey.learners.offline.base import OfflineHyperparameters, OfflineState, as_arrays
from covey.learners.offline.segments import Segments, Team


@dataclass(frozen=True)
class AnalyticMADDPG:
    """The learner of this module; see `covey.learners.offline.base` for its functions.

    payoff: joint actions [..., N, A] in the environment's units -> payoffs [..., N], differentiable.
    start_at: each agent's action at the start, for all its dimensions; empty for random ones within the bounds.
    Of the hyper-parameters it reads `ascent_rate` and `ascent_clip` alone.
    """

    team: Team
    payoff: Callable[[jax.Array], jax.Array]
    start_at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.start_at:
            return
        if len(self.start_at) != self.team.num_agents:
            raise ValueError(
                f"start_at is {self.start_at}; allowed: a number for each of {self.team.num_agents} agents"
            )
        low, high = self._bounds
        start = np.array(self.start_at, np.float32)[:, None]
        if (((start < low) | (start > high)) & self.team.own_actions).any():
            raise ValueError(f"start_at is {self.start_at}; allowed: {low.tolist()} to {high.tolist()}")

    def check(self) -> None:
        """Nothing can be wrong with networks that are not there."""

    def init(self, key: jax.Array, hp: OfflineHyperparameters) -> OfflineState:
        low, high = self._bounds
        theta = jax.random.uniform(key, low.shape, minval=low, maxval=high)
        if self.start_at:
            theta = jnp.broadcast_to(jnp.asarray(self.start_at, jnp.float32)[:, None], low.shape)
        params = {"actor": jnp.clip(theta, low, high)}
        return OfflineState(params, jax.tree.map(jnp.copy, params), (), as_arrays(hp), key)

    def learn(self, carry: OfflineState, segments: Segments) -> tuple[OfflineState, Metrics]:
        """One step up the payoff, given the others' actions in the first rows of segments [B, L, ...].

        Metrics, one number per agent: `theta`, its action after the step (the mean over its dimensions, as in those of
        the batch), `actor_grad_norm`, and `batch_mean` and `batch_std` of its actions in the batch.
        """
        theta, hp, action = carry.params["actor"], carry.hp, segments.action[:, 0]
        grad = self.gradient(theta, action)
        norm = jnp.linalg.norm(grad, axis=-1)  # [N]
        scale = jnp.minimum(1.0, hp.ascent_clip / (norm + 1e-9))
        theta = jnp.clip(theta + hp.ascent_rate * scale[:, None] * grad, *self._bounds)
        own = self.team.own_actions
        mean = lambda x: jnp.sum(jnp.where(own, x, 0.0), axis=-1) / own.sum(axis=-1)  # noqa: E731
        metrics = {
            "theta": mean(theta),
            "actor_grad_norm": norm,
            "batch_mean": mean(jnp.mean(action, axis=0)),
            "batch_std": mean(jnp.std(action, axis=0)),
        }
        params = {"actor": theta}
        return replace(carry, params=params, target=params), metrics

    def gradient(self, theta: jax.Array, action: jax.Array) -> jax.Array:
        """BRUD's gradients [N, A] at theta [N, A], the others acting as in joint actions [B, N, A]."""

        def mine(theta: jax.Array) -> jax.Array:
            own = jnp.eye(self.team.num_agents, dtype=bool)[:, None, :, None]
            joint = jnp.where(own, theta, action)  # [N, B, N, A]
            return jnp.sum(jnp.mean(jnp.diagonal(self.payoff(joint), axis1=0, axis2=2), axis=0))

        return jax.grad(mine)(theta)

    def policy(self, carry: OfflineState) -> Any:
        return carry.params

    def hyperparameters(self, carry: OfflineState) -> OfflineHyperparameters:
        return carry.hp

    def start(self) -> jax.Array:
        """An empty memory, [N, 0]."""
        return jnp.zeros((self.team.num_agents, 0), jnp.float32)

    def act(self, params: Any, obs: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The actions [N, A], whatever is seen."""
        return params["actor"], memory

    def actions(self, params: Any, obs: jax.Array) -> jax.Array:
        """The actions along a segment of obs [H, N, O], [H, N, A]."""
        return jnp.broadcast_to(params["actor"], (obs.shape[0], *params["actor"].shape))

    def distance(self, carry: OfflineState, segments: Segments) -> jax.Array:
        """How far segments' first actions are from the policies', [B], in units of half an action's range."""
        gap = jnp.abs(self.team.to_unit(segments.action[:, 0]) - self.team.to_unit(carry.target["actor"]))
        return jnp.sum(gap, axis=(1, 2)) / self.team.own_actions.sum()

    @property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest actions, float32[N, A]."""
        return np.array(self.team.low, np.float32), np.array(self.team.high, np.float32)

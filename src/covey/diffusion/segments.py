"""Segments of joint trajectories as rows of channels, the form in which they are diffused.

Letters: B batch, H horizon, N agents, S state, O obs, A actions, R rewards (1 for a team, or N), C channels, M rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covey.diffusion import normaliser
from covey.diffusion.normaliser import Normaliser, NormaliserName


class Segment(NamedTuple):
    """Segments, [B, H, ...] each."""

    state: jax.Array  # [B, H, S]
    obs: jax.Array  # [B, H, N, O]
    action: jax.Array  # [B, H, N, A]
    reward: jax.Array  # [B, H, R]
    done: jax.Array  # [B, H], 1 where the step ended the episode, else 0

    @property
    def mask(self) -> jax.Array:
        """float32[B, H], 1 up to the step that ends the episode and 0 after it."""
        ended = jnp.cumsum(self.done, axis=1) - self.done
        return (ended == 0).astype(jnp.float32)


@dataclass(frozen=True)
class Layout:
    """Which channels of a row are what: state, every agent's observation, every agent's action, reward, done."""

    num_agents: int
    obs_size: int
    action_size: int
    state_size: int = 0
    reward_size: int = 1
    own_actions: tuple[int, ...] = ()
    """How many of its action_size actions each agent has; the others are padding. Empty for all."""

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Channels of each field of `Segment`."""
        n = self.num_agents
        return self.state_size, n * self.obs_size, n * self.action_size, self.reward_size, 1

    @property
    def num_channels(self) -> int:
        return sum(self.sizes)

    @cached_property
    def action_channels(self) -> np.ndarray:
        """Channels that are actions, agent by agent, int[N·A]."""
        first = self.sizes[0] + self.sizes[1]
        return np.arange(first, first + self.sizes[2])

    @cached_property
    def reward_channels(self) -> np.ndarray:
        """Channels that are rewards, int[R]."""
        first = sum(self.sizes[:3])
        return np.arange(first, first + self.reward_size)

    @cached_property
    def action_mask(self) -> np.ndarray:
        """Which actions are not padding, bool[N, A]."""
        own = self.own_actions or (self.action_size,) * self.num_agents
        return np.arange(self.action_size) < np.asarray(own)[:, None]

    def split(self, rows: jax.Array) -> Segment:
        """Fields of rows [B, H, C]."""
        ends = [int(end) for end in np.cumsum(self.sizes)[:-1]]
        state, obs, action, reward, done = jnp.split(rows, ends, axis=-1)
        shape = (*rows.shape[:-1], self.num_agents)
        obs, action = obs.reshape(*shape, self.obs_size), action.reshape(*shape, self.action_size)
        return Segment(state, obs, action, reward, done[..., 0])

    def join(self, segment: Segment) -> jax.Array:
        """Rows [..., C] of fields."""
        lead = segment.done.shape
        fields = (*segment[:4], segment.done[..., None])
        return jnp.concatenate([jnp.asarray(field).reshape(*lead, -1) for field in fields], axis=-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OfflineData:
    """A dataset as all seeds share it: rows once as they are and once diffused, and where segments start."""

    rows: jax.Array  # float32[M, C]
    diffused: jax.Array  # float32[M, V]
    starts: jax.Array  # int32[E], first rows of segments to learn from
    held_out: jax.Array  # int32[F], of segments for the validation loss alone
    normaliser: Normaliser

    def segments(self, starts: jax.Array, horizon: int) -> jax.Array:
        """Rows [B, H, C] of the segments that begin at rows `starts` [B]."""
        return self.rows[starts[:, None] + jnp.arange(horizon)]

    def diffused_segments(self, starts: jax.Array, horizon: int) -> jax.Array:
        """The same, diffused: [B, H, V]."""
        return self.diffused[starts[:, None] + jnp.arange(horizon)]


def offline_data(
    rows: np.ndarray, starts: np.ndarray, held_out: np.ndarray, kind: NormaliserName = "probit", knots: int = 1024
) -> OfflineData:
    """A dataset of rows [M, C] with segments at `starts` [E] and, never learned from, at `held_out` [F]."""
    rows = np.asarray(rows, np.float32)
    fitted = normaliser.fit(rows, kind, knots)
    return OfflineData(
        rows=jnp.asarray(rows),
        diffused=fitted.forward(jnp.asarray(rows)),
        starts=jnp.asarray(starts, jnp.int32),
        held_out=jnp.asarray(held_out, jnp.int32),
        normaliser=fitted,
    )


def from_arrays(
    segments: np.ndarray, kind: NormaliserName = "probit", knots: int = 1024, validation: float = 0.05, seed: int = 0
) -> OfflineData:
    """A dataset of plain segments [E, H, C]; a share `validation` of them, drawn with `seed`, is held out (at least
    one). Raises ValueError for another shape, fewer than two segments or a share outside [0, 1)."""
    segments = np.asarray(segments, np.float32)
    if segments.ndim != 3 or len(segments) < 2:
        raise ValueError(f"segments has shape {segments.shape}; allowed: [E, H, C] with E of at least 2")
    if not 0 <= validation < 1:
        raise ValueError(f"validation is {validation}; allowed: a number in [0, 1)")
    count, horizon, channels = segments.shape
    starts = np.random.default_rng(seed).permutation(count) * horizon
    held = min(max(1, round(validation * count)), count - 1)
    return offline_data(segments.reshape(-1, channels), np.sort(starts[held:]), np.sort(starts[:held]), kind, knots)

"""Segments of joint trajectories as rows of channels, the form in which they are diffused.

Letters: B batch, H horizon, N agents, S state, O obs, A actions, R rewards (1 for a team, or N), C channels, V varying
ones, M rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covey.data.dataset import Dataset
from covey.diffusion import normaliser
from covey.diffusion.normaliser import Normaliser, NormaliserName
from covey.learners.offline.segments import Segments, Team, from_rows, full_starts


class Fields(NamedTuple):
    """What rows of channels hold, [B, H, ...] each."""

    state: jax.Array  # [B, H, S]
    obs: jax.Array  # [B, H, N, O]
    action: jax.Array  # [B, H, N, A]
    reward: jax.Array  # [B, H, R]
    done: jax.Array  # [B, H], 1 where the step ended the episode for good, else 0

    def segments(self) -> Segments:
        """What an offline learner is given of them, [B, H + 1, ...]: see `from_rows`."""
        return from_rows(*self[:4], self.done > 0.5)


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

    @classmethod
    def of(cls, team: Team, common_reward: bool = True) -> Layout:
        """That of a team's rows, with one reward for all agents, or one for each."""
        own = tuple(int(n) for n in team.own_actions.sum(axis=1))
        rewards = 1 if common_reward else team.num_agents
        return cls(team.num_agents, team.obs_size, team.action_size, team.state_size, rewards, own)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Channels of each of `Fields`."""
        n = self.num_agents
        return self.state_size, n * self.obs_size, n * self.action_size, self.reward_size, 1

    @property
    def num_channels(self) -> int:
        return sum(self.sizes)

    @cached_property
    def seen_channels(self) -> np.ndarray:
        """Channels that are state or observations, int[S + N·O]."""
        return np.arange(self.sizes[0] + self.sizes[1])

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

    def split(self, rows: jax.Array) -> Fields:
        """Fields of rows [B, H, C]."""
        ends = [int(end) for end in np.cumsum(self.sizes)[:-1]]
        state, obs, action, reward, done = jnp.split(rows, ends, axis=-1)
        shape = (*rows.shape[:-1], self.num_agents)
        obs, action = obs.reshape(*shape, self.obs_size), action.reshape(*shape, self.action_size)
        return Fields(state, obs, action, reward, done[..., 0])

    def join(self, fields: Fields) -> jax.Array:
        """Rows [..., C] of fields."""
        lead = fields.done.shape
        columns = (*fields[:4], fields.done[..., None])
        return jnp.concatenate([jnp.asarray(x).reshape(*lead, -1) for x in columns], axis=-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DiffusedData:
    """What the denoiser is fitted to, as all seeds share it: diffused rows, and where segments of them start."""

    diffused: jax.Array  # float32[M, V]
    starts: jax.Array  # int32[E], first rows of segments to learn from
    held_out: jax.Array  # int32[F], of segments for the validation loss alone
    normaliser: Normaliser

    def segments(self, starts: jax.Array, horizon: int) -> jax.Array:
        """Diffused segments [B, H, V] that begin at rows `starts` [B]."""
        return self.diffused[starts[:, None] + jnp.arange(horizon)]


def diffuse(
    dataset: Dataset,
    team: Team,
    horizon: int,
    *,
    stride: int = 1,
    kind: NormaliserName = "probit",
    knots: int = 1024,
    validation: float = 0.05,
    seed: int = 0,
) -> tuple[Layout, DiffusedData]:
    """A dataset as the denoiser sees it, with all its segments of `horizon` transitions. On the host.

    An observation that always repeats a number of the state, or of another observation, is not diffused but copied.
    Segments never cross an end of an episode. A share `validation` of the episodes (at least one, if there are two),
    drawn with `seed`, is held out. The reward is one channel if all agents' rewards are always equal.

    Raises ValueError if no episode has so many transitions, for a share outside [0, 1), or if nothing varies.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"validation is {validation}; allowed: a number in [0, 1)")
    starts = full_starts(dataset, horizon, stride)
    reward = np.asarray(dataset.reward)
    common = bool((reward == reward[:, :1]).all())
    layout = Layout.of(team, common)
    columns = (
        dataset.state, dataset.obs, dataset.action, reward[:, :1] if common else reward, dataset.terminated
    )  # fmt: skip
    rows = np.concatenate([np.asarray(x, np.float32).reshape(len(reward), -1) for x in columns], axis=1)
    first = np.asarray(dataset.start)
    episode = np.searchsorted(first, starts, side="right") - 1
    usable = np.unique(episode)
    held = min(max(1, round(validation * len(usable))), len(usable) - 1)
    chosen = np.random.default_rng(seed).permutation(usable)[:held]
    out = np.isin(episode, chosen)
    mask = np.asarray(dataset.mask)
    judged = starts[out] if held else starts
    return layout, diffused_data(rows, starts[~out], judged, kind, knots, mask, layout.seen_channels)


def from_arrays(
    segments: np.ndarray, kind: NormaliserName = "probit", knots: int = 1024, validation: float = 0.05, seed: int = 0
) -> DiffusedData:
    """The same of plain segments [E, H, C]; a share `validation` of them, drawn with `seed`, is held out (at least
    one). Raises ValueError for another shape, fewer than two segments or a share outside [0, 1)."""
    segments = np.asarray(segments, np.float32)
    if segments.ndim != 3 or len(segments) < 2:
        raise ValueError(f"segments has shape {segments.shape}; allowed: [E, H, C] with E of at least 2")
    if not 0 <= validation < 1:
        raise ValueError(f"validation is {validation}; allowed: a number in [0, 1)")
    count, horizon, channels = segments.shape
    starts = np.random.default_rng(seed).permutation(count) * horizon
    held = min(max(1, round(validation * count)), count - 1)
    return diffused_data(segments.reshape(-1, channels), np.sort(starts[held:]), np.sort(starts[:held]), kind, knots)


def diffused_data(
    rows: np.ndarray,
    starts: np.ndarray,
    held_out: np.ndarray,
    kind: NormaliserName = "probit",
    knots: int = 1024,
    mask: np.ndarray | None = None,
    may_be_copies: Sequence[int] | np.ndarray = (),
) -> DiffusedData:
    """The same of rows [M, C] with segments at `starts` [E] and, never learned from, at `held_out` [F]. The normaliser
    is fitted to the rows where `mask` bool[M] holds (by default all). may_be_copies: see `normaliser.fit`."""
    rows = np.asarray(rows, np.float32)
    fitted = normaliser.fit(rows if mask is None else rows[mask], kind, knots, may_be_copies)
    return DiffusedData(
        diffused=fitted.forward(jnp.asarray(rows)),
        starts=jnp.asarray(starts, jnp.int32),
        held_out=jnp.asarray(held_out, jnp.int32),
        normaliser=fitted,
    )

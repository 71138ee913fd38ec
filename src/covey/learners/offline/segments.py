"""What offline learners learn from: segments of trajectories, and the team that they are about.

A segment has L rows of one episode. Row t is a transition where its mask says so, and then row t + 1 holds what came
after it: the last row of a segment only ever gives that. So L rows hold at most H = L - 1 transitions, an episode's
last observation is a row of its own, and an episode that was cut off is bootstrapped from where it was cut.

Letters: B batch, L rows, H transitions, S state, N agents, O obs, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covey.data.dataset import Dataset, window_starts, windows

Rows = tuple[tuple[float, ...], ...]


class Segments(NamedTuple):
    """A batch of segments, recorded or made up.

    Actions are in the environment's units. After the first row whose mask is False anything finite may follow.
    """

    state: jax.Array  # float32[B, L, S]
    obs: jax.Array  # float32[B, L, N, O]
    action: jax.Array  # float32[B, L, N, A]
    reward: jax.Array  # float32[B, L, N]
    terminated: jax.Array  # bool[B, L], the transition of this row ended the episode for good
    mask: jax.Array  # bool[B, L], this row is a transition; never the last one
    real: jax.Array  # bool[B], from the dataset; not from a model or a generator


@dataclass(frozen=True)
class Team:
    """Sizes, padding and bounds of agents: all that an offline learner needs to know of an environment.

    state_size: S. obs_mask, action_mask: rows [N][O] and [N][A], True where an entry is no padding. low, high: smallest
    and largest actions, rows [N][A], 0 in the padding. (Tuples, so that a team can be hashed.)
    """

    state_size: int
    obs_mask: Rows
    action_mask: Rows
    low: Rows
    high: Rows

    @classmethod
    def of(cls, env: Any) -> Team:
        """The team of an environment of the contract in `envs_jax.base`.

        Raises ValueError unless its actions are vectors with finite bounds.
        """
        space = env.action_space()
        if hasattr(space, "n") or len(space.shape) != 1:
            raise ValueError(f"offline learners need vectors of continuous actions; {env.name} has {space}")
        obs_shape = env.observation_space().shape
        obs_size, action_size = int(np.prod(obs_shape)), space.shape[0]
        bounds = [env.action_space(agent).bounds() for agent in env.agents]
        low, high = (np.stack([np.pad(b[i], (0, action_size - len(b[i]))) for b in bounds]) for i in (0, 1))
        if not np.isfinite([low, high]).all():
            raise ValueError(f"offline learners need actions with finite bounds; {env.name} has {space}")
        own_obs = [int(np.prod(env.observation_space(agent).shape)) for agent in env.agents]
        own_actions = [len(bound[0]) for bound in bounds]
        state = jax.eval_shape(lambda: env.global_state(env.init(jax.random.key(0))))
        return cls(
            int(np.prod(state.shape)),
            _rows(np.arange(obs_size) < np.array(own_obs)[:, None]),
            _rows(np.arange(action_size) < np.array(own_actions)[:, None]),
            _rows(low.astype(np.float32)),
            _rows(high.astype(np.float32)),
        )

    @property
    def num_agents(self) -> int:
        return len(self.action_mask)

    @property
    def obs_size(self) -> int:
        return len(self.obs_mask[0])

    @property
    def action_size(self) -> int:
        return len(self.action_mask[0])

    @cached_property
    def own_obs(self) -> np.ndarray:
        """Which entries of observations are not padding, bool[N, O]."""
        return np.array(self.obs_mask, bool)

    @cached_property
    def own_actions(self) -> np.ndarray:
        """Which entries of actions are not padding, bool[N, A]."""
        return np.array(self.action_mask, bool)

    @cached_property
    def _middle(self) -> tuple[np.ndarray, np.ndarray]:
        """Middles of the actions' ranges and half their widths (1 in the padding), float32[N, A]."""
        low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
        return (low + high) / 2, np.where(self.own_actions, (high - low) / 2, 1.0).astype(np.float32)

    def to_unit(self, action: jax.Array) -> jax.Array:
        """Actions [..., N, A] in the environment's units as learners see them: in [-1, 1], padding 0."""
        middle, half = self._middle
        return jnp.where(self.own_actions, jnp.clip((action - middle) / half, -1.0, 1.0), 0.0)

    def from_unit(self, action: jax.Array) -> jax.Array:
        """The way back, within the bounds."""
        middle, half = self._middle
        low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
        return jnp.clip(middle + half * jnp.where(self.own_actions, action, 0.0), low, high)

    def joint_obs(self, obs: jax.Array) -> jax.Array:
        """Observations [..., N, O] in one vector without padding."""
        return obs.reshape(*obs.shape[:-2], -1)[..., np.flatnonzero(self.own_obs)]

    def joint_action(self, action: jax.Array) -> jax.Array:
        """Actions [..., N, A] in one vector without padding."""
        return action.reshape(*action.shape[:-2], -1)[..., np.flatnonzero(self.own_actions)]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Source:
    """A dataset as all seeds share it, and what of it is drawn; see `source`."""

    dataset: Dataset
    starts: jax.Array  # int32[K], first rows of the segments to learn from
    rows: jax.Array  # int32[M], transitions of the same episodes
    held_out: jax.Array  # int32[V], transitions of episodes that a world model is judged by and never fitted to


def source(
    dataset: Dataset, team: Team, horizon: int, *, stride: int = 1, held_out: float = 0.0, seed: int = 0
) -> Source:
    """A dataset ready for `Offline.update`. On the host.

    horizon: H, transitions per segment; stride: rows between the first rows of two segments of an episode. Episodes
    shorter than the horizon are one segment each. held_out: share of episodes that are not learned from (at least one,
    unless it is 0: then nothing is held out, and a world model is judged by what it was fitted to).

    Raises ValueError if the dataset is not of such a team, or no episode has `horizon` transitions.
    """
    check_dataset(dataset, team)
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out is {held_out}; allowed: a number in [0, 1)")
    starts = full_starts(dataset, horizon, stride)
    first, mask = np.asarray(dataset.start, np.int64), np.asarray(dataset.mask)
    usable = np.add.reduceat(mask, first, dtype=np.int64)
    starts = np.union1d(starts, first[(usable > 0) & (usable < horizon)])
    episodes, held = len(first), np.zeros(len(first), bool)
    if held_out:
        count = min(max(round(held_out * episodes), 1), episodes - 1)
        held[np.random.default_rng(seed).permutation(episodes)[:count]] = True
    row_held = np.repeat(held, np.asarray(dataset.length) + 1)
    rows, judged = np.flatnonzero(mask & ~row_held), np.flatnonzero(mask & row_held)
    starts = starts[~row_held[starts]]
    if not len(starts):
        raise ValueError(f"held_out is {held_out}; allowed: a share that leaves segments to learn from")
    judged = judged if len(judged) else rows
    return Source(dataset, *(x.astype(np.int32) for x in (starts, rows, judged)))  # type: ignore[arg-type]


def full_starts(dataset: Dataset, horizon: int, stride: int) -> np.ndarray:
    """`window_starts`, whose complaint names the settings that it is about."""
    try:
        return window_starts(dataset, horizon, stride)
    except ValueError as error:
        raise ValueError(f"horizon {horizon} with stride {stride}: {error}") from None


def check_dataset(dataset: Dataset, team: Team) -> None:
    """Raise ValueError, one line, unless the dataset is of such a team and its actions within their bounds."""
    sizes = {
        "agents": (dataset.num_agents, team.num_agents),
        "numbers of a state": (dataset.state_size, team.state_size),
        "numbers of an observation": (dataset.obs_size, team.obs_size),
        "numbers of an action": (dataset.action_size, team.action_size),
    }
    for name, (found, wanted) in sizes.items():
        if found != wanted:
            raise ValueError(f"dataset and environment do not fit: the dataset has {found} {name}, not {wanted}")
    for name, found, wanted in (
        ("observations", dataset.obs_mask, team.own_obs), ("actions", dataset.action_mask, team.own_actions)
    ):  # fmt: skip
        if not np.array_equal(found, wanted):
            owned = [int(n) for n in np.sum(found, axis=1)], [int(n) for n in wanted.sum(axis=1)]
            raise ValueError(
                f"dataset and environment do not fit: the dataset's agents have {owned[0]} {name}, not {owned[1]}"
            )


def gather(data: Source, starts: jax.Array, horizon: int) -> Segments:
    """The dataset's segments with `horizon` transitions from rows `starts` [B] on."""
    part = windows(data.dataset, starts, horizon + 1)
    mask = part.mask.at[:, -1].set(False)
    real = jnp.ones(mask.shape[0], jnp.bool_)
    return Segments(part.state, part.obs, part.action, part.reward, part.terminated, mask, real)


def from_rows(
    state: jax.Array, obs: jax.Array, action: jax.Array, reward: jax.Array, terminated: jax.Array
) -> Segments:
    """Made-up segments of H rows [B, H, ...] as those of the dataset with horizon H are, [B, H + 1, ...].

    reward: [B, H, N], or [B, H, 1] for the team. Nothing is known after the last row, so its transition counts only
    where it terminated. Rows after one that terminated are masked out.
    """
    batch, horizon = terminated.shape

    def longer(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x, x[:, -1:]], axis=1)

    ended = jnp.cumsum(terminated, axis=1) - terminated > 0
    mask = ~ended & (terminated | (jnp.arange(horizon) < horizon - 1))
    return Segments(
        state=longer(state),
        obs=longer(obs),
        action=longer(action),
        reward=longer(jnp.broadcast_to(reward, (batch, horizon, obs.shape[2]))),
        terminated=longer(terminated),
        mask=jnp.concatenate([mask, jnp.zeros((batch, 1), jnp.bool_)], axis=1),
        real=jnp.zeros(batch, jnp.bool_),
    )


def mix(key: jax.Array, share: jax.Array | float, real: Segments, synthetic: Segments) -> Segments:
    """Of each pair of segments the synthetic one with probability `share`, else the real one; both [B, L, ...].

    A share of 0 gives `real` bit by bit, one of 1 `synthetic`; it may be traced, and differ between seeds.
    """
    chosen = jax.random.bernoulli(key, share, real.real.shape)

    def pick(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(-1, *[1] * (one.ndim - 1)), other, one)

    return jax.tree.map(pick, real, synthetic)


def _rows(array: np.ndarray) -> Rows:
    return tuple(tuple(row) for row in array.tolist())

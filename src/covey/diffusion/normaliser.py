"""Maps between data and the space that is diffused: per channel, monotone, and fitted on the host.

A quantile map makes every channel's distribution the same: a value's rank among the data, as a number of (0, 1), goes
through the normal quantile function (`probit`), the logistic one (`logit`) or onto [-1, 1] (`uniform`). It is kept as a
table of the value at each of K evenly spaced points of that space, so that the way back is an index and a straight
line, and both ways are exact inverses. Ranks are mid-ranks, and tails are capped, since the rank of the largest value
is otherwise 1, and its logit infinite. `zscore` subtracts the mean and divides by the standard deviation.

Channels that never change are not diffused at all: they are left out and put back. Source: CODA (2604.23308), appendix
E.2, which has "an empirical CDF transform" and a logit; probit is our default because it makes channels exactly normal.

Letters: M rows, C channels, V of them that vary, K knots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, ndtr, ndtri

NormaliserName = Literal["probit", "logit", "uniform", "zscore"]
SIGMA_DATA: dict[str, float] = {"probit": 1.0, "logit": float(np.pi / 3**0.5), "uniform": 3**-0.5, "zscore": 1.0}
"""Standard deviation of the data in each diffused space."""
CAP = 4.5
"""Tails are capped at so many standard deviations."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Normaliser:
    """A fitted map of rows [..., C] to diffused rows [..., V] and back; see `fit`."""

    table: jax.Array  # float32[V, K], the value at each knot; for zscore [V, 2], mean and standard deviation
    limit: jax.Array  # float32[], the knots lie evenly from -limit to limit
    low: jax.Array  # float32[C], smallest value in the data
    high: jax.Array  # float32[C], largest value in the data
    kind: NormaliserName = field(metadata={"static": True})
    varying: tuple[int, ...] = field(metadata={"static": True})
    copies: tuple[tuple[int, int], ...] = field(default=(), metadata={"static": True})
    """Channels that are not diffused because in the data they always equal another one, which is: `(copy, other)`."""

    @property
    def sigma_data(self) -> float:
        """Standard deviation of diffused data."""
        return SIGMA_DATA[self.kind]

    def forward(self, rows: jax.Array, which: tuple[int, ...] | None = None) -> jax.Array:
        """Diffused [..., V] of rows [..., C]; or of values [..., W] of the varying channels at positions `which`.

        Values outside the data's range are taken as its ends.
        """
        values = rows[..., np.asarray(self.varying)] if which is None else rows
        table, low, high = self._tables(which)
        if self.kind == "zscore":
            return (jnp.clip(values, low, high) - table[:, 0]) / table[:, 1]
        return jax.vmap(self._rank, in_axes=(0, -1), out_axes=-1)(table, values)

    def inverse(self, diffused: jax.Array, which: tuple[int, ...] | None = None) -> jax.Array:
        """Rows [..., C] of diffused [..., V], constants put back, all within the data's range; or with `which`, only
        values [..., W] of these varying channels."""
        table, low, high = self._tables(which)
        if self.kind == "zscore":
            values = jnp.clip(table[:, 0] + diffused * table[:, 1], low, high)
        else:
            values = jax.vmap(self._value, in_axes=(0, -1), out_axes=-1)(table, diffused)
        if which is not None:
            return values
        rows = jnp.broadcast_to(self.low, (*values.shape[:-1], self.low.shape[0]))
        rows = rows.at[..., np.asarray(self.varying)].set(values)
        if not self.copies:
            return rows
        copy, other = np.array(self.copies).T
        return rows.at[..., copy].set(rows[..., other])

    def _tables(self, which: tuple[int, ...] | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Table and range of these varying channels (None for all)."""
        positions = np.arange(len(self.varying)) if which is None else np.asarray(which, int)
        channels = np.asarray(self.varying, int)[positions]
        return self.table[positions], self.low[channels], self.high[channels]

    def _rank(self, table: jax.Array, x: jax.Array) -> jax.Array:
        """Where in one channel's table [K] x is; in the middle of all knots that equal it."""
        last = table.shape[0] - 1
        x = jnp.clip(x, table[0], table[last])
        left, right = (jnp.searchsorted(table, x, side=side) for side in ("left", "right"))  # type: ignore[arg-type]
        # Strictly between two knots left = right is the upper one; on knots they are its first and one past its last.
        above = jnp.clip(left, 1, last)
        rise = table[above] - table[above - 1]
        between = above - 1 + (x - table[above - 1]) / jnp.where(rise > 0, rise, 1.0)
        index = jnp.where(left == right, between, 0.5 * (left + right - 1))
        return (index * (2.0 / last) - 1.0) * self.limit

    def _value(self, table: jax.Array, z: jax.Array) -> jax.Array:
        """What one channel's table [K] holds at z."""
        last = table.shape[0] - 1
        index = jnp.clip((z / self.limit + 1.0) * (0.5 * last), 0.0, last)
        below = jnp.clip(index.astype(jnp.int32), 0, last - 1)
        fraction = index - below
        return table[below] * (1.0 - fraction) + table[below + 1] * fraction


def fit(
    rows: np.ndarray, kind: NormaliserName = "probit", knots: int = 1024, may_be_copies: Sequence[int] | np.ndarray = ()
) -> Normaliser:
    """The map for data `rows` [M, C], on the host.

    may_be_copies: channels that are left out, too, where they always equal an earlier one of them.

    Raises ValueError for another shape, values that are not finite, no varying channel, an unknown kind, or too few
    knots.
    """
    rows = np.asarray(rows)
    if kind not in get_args(NormaliserName):
        raise ValueError(f"normaliser is {kind!r}; allowed: {', '.join(get_args(NormaliserName))}")
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"rows has shape {rows.shape}; allowed: [M, C] with M of at least 1")
    if not np.isfinite(rows).all():
        raise ValueError(f"rows has values that are not finite in channels {np.flatnonzero(~np.isfinite(rows).all(0))}")
    if knots < 2:
        raise ValueError(f"knots is {knots}; allowed: an integer of at least 2")
    rows = rows.astype(np.float64)
    low, high = rows.min(axis=0).astype(np.float32), rows.max(axis=0).astype(np.float32)
    copies: dict[int, int] = {}
    first: dict[bytes, int] = {}
    for channel in may_be_copies:
        other = first.setdefault(rows[:, channel].tobytes(), int(channel))
        if other != channel and low[channel] < high[channel]:
            copies[int(channel)] = other
    varying = tuple(int(c) for c in np.flatnonzero(low < high) if c not in copies)
    if not varying:
        raise ValueError(f"rows has {rows.shape[1]} channels, all constant; allowed: at least one that varies")
    if kind == "zscore":
        table, limit = np.stack([rows[:, varying].mean(axis=0), rows[:, varying].std(axis=0)], axis=1), 1.0
    else:
        to_rank, from_rank = {
            "probit": (ndtr, ndtri),
            "logit": (expit, lambda u: np.log(u) - np.log1p(-u)),
            "uniform": (lambda z: 0.5 * (z + 1.0), lambda u: 2.0 * u - 1.0),
        }[kind]
        count = len(rows)
        limit = min(float(from_rank(1.0 - 0.5 / count)), CAP * SIGMA_DATA[kind]) if count > 1 else 1.0
        ranks = to_rank(np.linspace(-limit, limit, knots)) * count - 0.5  # of the middle of each row, counted from 0
        ordered = np.sort(rows[:, varying], axis=0)
        table = np.stack([np.interp(ranks, np.arange(count), column) for column in ordered.T])
        table[:, 0], table[:, -1] = ordered[0], ordered[-1]  # capped tails end where the data ends
    return Normaliser(
        table=jnp.asarray(table, jnp.float32),
        limit=jnp.float32(limit),
        low=jnp.asarray(low),
        high=jnp.asarray(high),
        kind=kind,
        varying=varying,
        copies=tuple(copies.items()),
    )

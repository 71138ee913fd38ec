"""Are generated segments near the policy, near the data, and true? Pure functions of arrays.

Letters: B batch, H horizon, N agents, A actions, M rows of data, D dimensions, K guidance scales.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def policy_distance(policy: jax.Array, action: jax.Array, mask: Any = None) -> jax.Array:
    """Mean over segments and steps of the distance ||a - mu(o)|| of joint actions; both [B, H, N, A]."""
    difference = _masked(action - policy, mask)
    return jnp.mean(jnp.sqrt(jnp.sum(jnp.square(difference), axis=(2, 3))))


def action_log_prob(policy: jax.Array, action: jax.Array, mask: Any = None) -> jax.Array:
    """Mean over segments of sum_{t, i} log N(a; mu(o), 1), which figure 3 of CODA shows; both [B, H, N, A].

    At most `log_prob_ceiling`, where all actions are the policy's.
    """
    difference = _masked(action - policy, mask)
    count = action.shape[1] * _own(action.shape, mask)
    squares = jnp.sum(jnp.square(difference), axis=(1, 2, 3))
    return jnp.mean(-0.5 * squares) - 0.5 * count * math.log(2.0 * math.pi)


def log_prob_ceiling(horizon: int, num_actions: int) -> float:
    """-(H N A / 2) ln 2 pi for num_actions = N A, padding not counted."""
    return -0.5 * horizon * num_actions * math.log(2.0 * math.pi)


def collapse_scale(scales: np.ndarray, log_probs: np.ndarray) -> tuple[float, bool]:
    """`(peak, collapses)`: the guidance scale with the highest log-probability, and whether that falls again after it.

    scales: [K] in rising order. log_probs: [K]. It collapses if the fall is a tenth of the rise or more.
    """
    best = int(np.argmax(log_probs))
    rise, fall = log_probs[best] - log_probs[0], log_probs[best] - np.min(log_probs[best:])
    return float(scales[best]), bool(fall > 0.1 * rise > 0)


def reward_error(generated: jax.Array, true: jax.Array) -> jax.Array:
    """Mean |r - R(s, a)|: how wrong generated rewards are; [B, H, R] and [B, H, R'], where R or R' may be 1, and then
    is a team's, to be compared with the other's mean."""
    if generated.shape[-1] != true.shape[-1]:
        generated, true = (jnp.mean(x, axis=-1, keepdims=True) for x in (generated, true))
    return jnp.mean(jnp.abs(generated - true))


def support_distance(samples: jax.Array, data: jax.Array, scale: jax.Array | float = 1.0) -> jax.Array:
    """Distance [B] of each of samples [B, D] to the nearest row of data [M, D], coordinates divided by scale [D] first
    (the data's deviations, say, which makes it a number of deviations). Takes B x M memory."""
    samples, data = samples / scale, data / scale
    # Differences rather than |x|^2 - 2 x y + |y|^2, which loses all digits where a sample is a datum.
    squares = jax.lax.map(lambda x: jnp.min(jnp.sum(jnp.square(data - x), axis=-1)), samples, batch_size=64)
    return jnp.sqrt(squares)


def done_rate(done: jax.Array) -> jax.Array:
    """Share of segments that end somewhere, from done [B, H] in {0, 1}."""
    return jnp.mean(jnp.any(done > 0.5, axis=1).astype(jnp.float32))


def _masked(x: jax.Array, mask: Any) -> jax.Array:
    return x if mask is None else x * jnp.asarray(mask, x.dtype)


def _own(shape: tuple[int, ...], mask: Any) -> int:
    """Actions of one step that are not padding."""
    return shape[2] * shape[3] if mask is None else int(np.sum(mask))

"""The mathematics of social rewards, as functions of arrays of one environment.

Letters: N agents. [N, N] arrays are indexed [i, j]: what agent i knows, or thinks, of agent j.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

SMOOTHED_FLOOR = 1e-7
"""What clamped smoothed rewards start at and never go below."""
NORMALISED_OFFSET = 1e-8
"""Added to normalised rewards, so that none is 0 and every reward angle is defined."""


def smooth(smoothed: jax.Array, rewards: jax.Array, decay: jax.Array | float, clamp: bool = False) -> jax.Array:
    """Smoothed rewards e [N] after a step with rewards r [N] (Hughes et al. 2018, eq. 4).

        e_i <- gamma lambda e_i + r_i,      if clamp:   e_i <- max(gamma lambda e_i + r_i, 1e-7)

    decay: gamma lambda. The clamp is that of the SVO baseline in the code of "Fairness over Equality" (2602.15407).
    """
    smoothed = decay * smoothed + rewards
    return jnp.maximum(smoothed, SMOOTHED_FLOOR) if clamp else smoothed


def normalise(smoothed: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """Smoothed rewards relative to each agent's own range, [N]; 0 is its worst, 1 its best (2602.15407).

        (e_i - m_i) / (M_i - m_i) + 1e-8,      or 1 + 1e-8 where M_i = m_i

    lower, upper: m, M [N]. Values outside of the bounds, possible where those are given or fixed, are not clipped.
    """
    span = upper - lower
    return jnp.where(span > 0, (smoothed - lower) / jnp.where(span > 0, span, 1.0), 1.0) + NORMALISED_OFFSET


def inequity(
    own: jax.Array, others: jax.Array, counted: jax.Array, divisor: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """`(envy, guilt)` [N] before their weights alpha and beta (Hughes et al. 2018, eq. 3).

        envy_i = sum_j max(V_ij - v_i, 0) / d_i        guilt_i = sum_j max(v_i - V_ij, 0) / d_i

    own: v [N]; others: V [N, N]; counted: bool[N, N], the j of each sum; divisor: d, usually N - 1.
    """
    gap = jnp.where(counted, others - own[:, None], 0.0)
    envy, guilt = (jnp.sum(jnp.maximum(side, 0.0), axis=1) / divisor for side in (gap, -gap))
    return envy, guilt


def orientation(
    own: jax.Array, others: jax.Array, counted: jax.Array, divisor: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Reward angles in degrees [N] (McKee et al. 2020), and where they are defined, bool[N].

        theta_i = arctan2(sum_j V_ij / d_i, v_i)

    Arguments as for `inequity`. For v_i > 0, which holds with clamped or normalised rewards, arctan2 is the paper's
    arctan of the ratio. The angle of (0, 0), or to nobody, is undefined.
    """
    mean = jnp.sum(jnp.where(counted, others, 0.0), axis=1) / divisor
    defined = jnp.any(counted, axis=1) & ((mean != 0) | (own != 0))
    return jnp.rad2deg(jnp.arctan2(mean, jnp.where(defined, own, 1.0))), defined

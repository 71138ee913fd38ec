"""Which way the current joint policy pulls a denoised segment, and how hard at each step of the sampler.

    g_t = grad_{a_t} log pi(a_t | o_t),   g <- g / ||g|| over the whole segment,   actions <- actions + lambda_n g

of CODA (2604.23308), equation 14 and Algorithm 1: the gradient by actions alone, all agents at once, at the denoised
segment. A *score* here is a function `(obs [B, H, N, O], action [B, H, N, A]) -> g [B, H, N, A]`. A deterministic
policy mu stands for a Gaussian of deviation 1 around it, whose score is mu(o) - a: no gradient is taken at all.
Policies with a probability give theirs through `score_of`. Recurrent ones are unrolled over the segment from an empty
memory.

Letters: B batch, H horizon, N agents, O obs, A actions (padded to the same number), K sampler steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

Score: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
Act: TypeAlias = Callable[[jax.Array], jax.Array]
"""Deterministic joint policy: obs [B, H, N, O] -> actions [B, H, N, A]."""
LogProb: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""`(obs, action)` -> log-probability of each action [B, H, N], or of each dimension [B, H, N, A]."""


def schedule(num_steps: int, cosine: float = 0.3) -> np.ndarray:
    """What lambda is multiplied with at each step, float32[K]: a line down to 0 plus a wave, and 0 at the last.

    (1 - n / K) + 0.3 sin(pi (n + 1) / K). The last is 0, for the normalised gradient does not fade where a sample has
    arrived, and would leave it beside the policy by lambda_n. Source: policy-guided diffusion (2404.06356).
    """
    n = np.arange(num_steps)
    scale = (1.0 - n / num_steps) + cosine * np.sin(np.pi * (n + 1) / num_steps)
    scale[-1] = 0.0
    return scale.astype(np.float32)


def unit_variance(act: Act) -> Score:
    """The score of a Gaussian with deviation 1 around a deterministic policy: mu(o) - a."""
    return lambda obs, action: act(obs) - action


def score_of(log_prob: LogProb) -> Score:
    """The gradient of a policy's log-probability by the action."""

    def score(obs: jax.Array, action: jax.Array) -> jax.Array:
        return jax.grad(lambda a: jnp.sum(log_prob(obs, a)))(action)

    return score


def unroll(step: Callable[[Any, jax.Array], tuple[Any, jax.Array]], memory: Any) -> Act:
    """A recurrent policy over segments: `step(memory, obs [B, N, O]) -> (memory, outputs [B, N, ...])` from `memory`,
    which is empty, as it is where base learners unroll segments."""

    def act(obs: jax.Array) -> jax.Array:
        _, outputs = jax.lax.scan(step, memory, jnp.swapaxes(obs, 0, 1))
        return jnp.swapaxes(outputs, 0, 1)

    return act


def gaussian_log_prob(mean: jax.Array, std: jax.Array | float, action: jax.Array) -> jax.Array:
    """log N(action; mean, std^2) of each dimension."""
    return norm.logpdf(action, mean, std)


def tanh_gaussian_log_prob(
    mean: jax.Array, std: jax.Array | float, action: jax.Array, margin: float = 1e-6
) -> jax.Array:
    """Of a = tanh(u), u ~ N(mean, std^2), each dimension: log N(atanh a) - log(1 - a^2).

    Actions are taken to lie within 1 - margin of 0, where both terms are finite.
    """
    action = jnp.clip(action, -1.0 + margin, 1.0 - margin)
    return norm.logpdf(jnp.arctanh(action), mean, std) - jnp.log1p(-jnp.square(action))


def clipped_gaussian_log_prob(
    mean: jax.Array, std: jax.Array | float, action: jax.Array, low: Any = -1.0, high: Any = 1.0
) -> jax.Array:
    """Of a = clip(u, low, high), u ~ N(mean, std^2), each dimension: a density inside, a probability at the bounds.

    Its gradient at a bound is 0, as a sample there cannot become more likely by a small move.
    """
    inside = norm.logpdf(action, mean, std)
    at_low, at_high = norm.logcdf(low, mean, std), norm.logsf(high, mean, std)
    return jnp.where(action <= low, at_low, jnp.where(action >= high, at_high, inside))


def unit_direction(g: jax.Array, mask: Any = None) -> jax.Array:
    """g [B, ...] with norm 1 for each trajectory b, and 0 where g is 0 (or not finite, or ruled out by mask)."""
    g = jnp.where(jnp.isfinite(g), g, 0.0)
    g = g if mask is None else g * jnp.asarray(mask, g.dtype)
    axes = tuple(range(1, g.ndim))
    # By the largest entry first: squares of small numbers would be 0.
    largest = jnp.max(jnp.abs(g), axis=axes, keepdims=True)
    g = g / jnp.where(largest > 0, largest, 1.0)
    length = jnp.sqrt(jnp.sum(jnp.square(g), axis=axes, keepdims=True))
    return g / jnp.where(length > 0, length, 1.0)

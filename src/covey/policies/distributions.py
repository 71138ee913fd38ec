"""Action distributions as functions of the policy's outputs, one row per sample."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

MASKED = -1e9
"""Logit of an action that is not available: its probability is exactly 0 in float32."""


def mask_logits(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Logits [..., A] with unavailable actions ruled out; mask bool[..., A]."""
    return jnp.where(mask, logits, MASKED)


def categorical_log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
    """log softmax(logits)[action]: logits [..., A], action int[...] -> [...]."""
    chosen = jax.nn.one_hot(
        action, logits.shape[-1], dtype=logits.dtype
    )  # Cheaper than a gather, and than its gradient.
    return jnp.sum(jnp.where(chosen > 0, jax.nn.log_softmax(logits), 0.0), axis=-1)


def categorical_entropy(logits: jax.Array) -> jax.Array:
    """-sum_a p_a log p_a in nats: logits [..., A] -> [...]; unavailable actions count as 0 log 0 = 0."""
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def gaussian_log_prob(
    mean: jax.Array, log_std: jax.Array, action: jax.Array, own: jax.Array | None = None
) -> jax.Array:
    """log N(action; mean, diag(exp(2 log_std))): all [..., A] -> [...]. own: bool[..., A], which dimensions count (not
    those that pad an agent's action to the size of others'); None for all."""
    z = (action - mean) * jnp.exp(-log_std)
    each = -0.5 * jnp.square(z) - log_std - 0.5 * np.log(2.0 * np.pi)
    return jnp.sum(each if own is None else jnp.where(own, each, 0.0), axis=-1)


def gaussian_entropy(log_std: jax.Array, own: jax.Array | None = None) -> jax.Array:
    """0.5 log(2 pi e sigma^2) summed over action dimensions, in nats: [..., A] -> [...]. own: likewise."""
    each = log_std + 0.5 * np.log(2.0 * np.pi * np.e)
    return jnp.sum(each if own is None else jnp.where(own, each, 0.0), axis=-1)

"""Means over pairs of agents, which diversity, gradient conflict and embeddings have in common."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def mean_over_pairs(matrix: jax.Array) -> jax.Array:
    """Mean over the pairs i < j of a symmetric matrix [N, N], float32[].

    Raises ValueError unless it is square with at least two rows.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] < 2:
        raise ValueError(f"matrix has shape {matrix.shape}; allowed: [N, N] of at least 2 agents")
    return jnp.mean(matrix[np.triu_indices(matrix.shape[0], k=1)])


def cosine_similarities(vectors: jax.Array) -> jax.Array:
    """cos(x_i, x_j) of the rows of [N, D], float32[N, N]; a row of zeros has cosine 0 with all."""
    # By the largest entry first, so that squares of small numbers do not vanish.
    scale = jnp.max(jnp.abs(vectors), axis=-1, keepdims=True)
    vectors = vectors / jnp.where(scale > 0, scale, 1.0)
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    unit = vectors / jnp.where(norm > 0, norm, 1.0)
    return jnp.matmul(unit, unit.T, precision="highest")

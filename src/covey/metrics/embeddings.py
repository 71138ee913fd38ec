"""How far apart hypernetworks hold agents: cosine distances of their embeddings (HyperMARL, 2412.04233, §6.2).

    distance_test(state.carries.params["embedding"])     # [S, N, E], after a run of `covey.experiment.program`

Embeddings start orthogonal, at distance 1, where N <= E; with more agents than dimensions they cannot.

Letters: S seeds, N agents, E embedding size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covey.metrics.pairs import cosine_similarities, mean_over_pairs


class DistanceTest(NamedTuple):
    """Mean and standard deviation over seeds, and the two-sided p-value of a one-sample t-test of that mean."""

    mean: float
    deviation: float
    p_value: float


def cosine_distances(embeddings: jax.Array) -> jax.Array:
    """1 - cos(e_i, e_j) of embeddings [N, E], float32[N, N]: 0 same direction, 1 orthogonal, 2 opposite."""
    return 1.0 - cosine_similarities(embeddings)


def mean_cosine_distance(embeddings: jax.Array) -> jax.Array:
    """Mean over pairs of agents, float32[]; embeddings [N, E]."""
    return mean_over_pairs(cosine_distances(embeddings))


def distance_test(embeddings: np.ndarray | jax.Array, reference: float = 1.0) -> DistanceTest:
    """Whether the mean cosine distance differs from `reference`, over seeds; embeddings [S, N, E]. Runs on the host.

    Raises ValueError unless there are at least two seeds.
    """
    from scipy import stats

    shape = np.shape(embeddings) if not isinstance(embeddings, dict) else sorted(embeddings)
    if len(shape) != 3 or isinstance(embeddings, dict) or shape[0] < 2:
        raise ValueError(f"embeddings has shape {shape}; allowed: one table [S, N, E] of at least 2 seeds")
    distances = np.asarray(jax.vmap(mean_cosine_distance)(jnp.asarray(embeddings)), np.float64)
    p_value = np.asarray(stats.ttest_1samp(distances, reference))[1]
    return DistanceTest(float(distances.mean()), float(distances.std(ddof=1)), float(p_value))

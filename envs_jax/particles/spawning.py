"""Random starting positions that keep a distance, with a fixed amount of work: auto-reset draws them at every step."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

_LARGEST_POOL = 256
# Odd, so that what is kept is apart for certain; see `_keep_first`.
_ROUNDS = 7


def pool_size(num_points: int, min_distance: float, semidim: tuple[float, float]) -> int:
    """How many candidates `spawn_apart` draws: enough in about 99.9 % of calls (99.5 % near the largest pool, 256)."""
    # Of k points placed, each makes a share `crowding` of the space too close. The growth of the expected number of
    # draws with k, and the margin over it, are fitted to simulated rejection sampling.
    width, height = (2 * s + min_distance for s in semidim)
    crowding = math.pi * min_distance**2 / (width * height)
    size = math.ceil(1.4 * sum(math.exp(min(2 * crowding * k, 20.0)) for k in range(num_points))) + 2
    words = math.ceil(size / 32)
    return words * math.ceil(size / words)


def can_spawn_apart(num_points: int, min_distance: float, semidim: tuple[float, float]) -> bool:
    """Whether `spawn_apart` can place that many points."""
    columns, rows = _lattice_shape(min_distance, semidim)
    return columns * rows >= num_points and pool_size(num_points, min_distance, semidim) <= _LARGEST_POOL


def spawn_apart(key: jax.Array, num_points: int, min_distance: float, semidim: tuple[float, float]) -> jax.Array:
    """Random points, float32[num_points, 2], with |x|, |y| within `semidim` and no two closer than `min_distance`.

    VMAS draws each point again until it is far enough from those before it, that is, it keeps a point of a uniform
    stream where it fits to all that were kept. Here the stream has a fixed length, `pool_size`. The points are
    distributed as in VMAS (on a grid of 65536 values per axis), but for the rare call in which the stream ends too
    early: then they are those of a fixed lattice, which keep the distance too.
    Raises ValueError where the space is too crowded for that (`can_spawn_apart`).
    """
    if not can_spawn_apart(num_points, min_distance, semidim):
        raise ValueError(f"num_points is {num_points}; allowed: fewer, at least {min_distance:g} apart in ±{semidim}")
    size = pool_size(num_points, min_distance, semidim)
    # Drawing random bits is most of the cost: one word gives both coordinates.
    bits = jax.random.bits(key, (size,), jnp.uint32)
    cell = jnp.stack([bits >> 16, bits & 0xFFFF], axis=-1).astype(jnp.float32)
    points = (cell + 0.5) * np.array([2 * s / 65536 for s in semidim], np.float32) - np.array(semidim, np.float32)

    kept = _keep_first(points, min_distance)
    rank = _ranks(kept)
    slot = np.arange(num_points, dtype=np.int32)
    # A loop over candidates with few operations each compiles to long vectors; a sum or a gather is slow on a CPU.
    spawned = jnp.zeros((num_points, 2), jnp.float32)
    for i in range(size):
        spawned = jnp.where(((rank[i] == slot) & kept[i])[:, None], points[i], spawned)
    enough = rank[-1] + kept[-1] >= num_points
    return jnp.where(enough, spawned, _lattice(num_points, min_distance, semidim))


def _keep_first(points: jax.Array, min_distance: float) -> jax.Array:
    """Which points [P, 2] to keep, bool[P]: each that is not close to an earlier one that is kept."""
    size = points.shape[0]
    per_word = size // math.ceil(size / 32)
    x, y = points[:, 0], points[:, 1]
    conflicts = []  # uint32[P] for each word of 32 (or fewer) points: which of them are close
    for first in range(0, size, per_word):
        word = jnp.zeros(size, jnp.uint32)
        for bit in range(per_word):
            j = first + bit
            close = (x - x[j]) ** 2 + (y - y[j]) ** 2 < min_distance**2
            word = word | jnp.where(close, np.uint32(1 << bit), np.uint32(0))
        conflicts.append(word)
    conflicts_before = jnp.stack(conflicts, axis=-1) & _earlier(size, per_word)  # [P, words]

    # Start from "keep all" and apply the rule again and again: each round settles one more link of the chains in which
    # points depend on each other, and chains of more than seven are next to impossible. Rounds alternate between
    # keeping too many and too few, so an odd number of them never keeps two that are close.
    kept = jnp.ones(size, jnp.bool_)
    for _ in range(_ROUNDS):
        kept = jnp.all((conflicts_before & _pack(kept, per_word)) == 0, axis=-1)
    return kept


def _ranks(flags: jax.Array) -> jax.Array:
    """How many flags are set before each, bool[P] -> int32[P]."""
    per_word = flags.shape[0] // math.ceil(flags.shape[0] / 32)
    before = _pack(flags, per_word) & _earlier(flags.shape[0], per_word)
    return jnp.sum(jax.lax.population_count(before).astype(jnp.int32), axis=-1, dtype=jnp.int32)


def _pack(flags: jax.Array, per_word: int) -> jax.Array:
    """bool[P] as bit masks, uint32[words]."""
    bits = np.left_shift(np.uint32(1), np.arange(per_word, dtype=np.uint32))
    return jnp.sum(jnp.where(flags.reshape(-1, per_word), bits, np.uint32(0)), axis=-1, dtype=jnp.uint32)


def _earlier(size: int, per_word: int) -> np.ndarray:
    """Bit masks of the points before each point, uint32[P, words]."""
    bits = np.left_shift(np.uint32(1), np.arange(per_word, dtype=np.uint32))
    flags = np.tri(size, k=-1, dtype=bool).reshape(size, -1, per_word)
    return np.where(flags, bits, np.uint32(0)).sum(axis=-1, dtype=np.uint32)


def _lattice_shape(min_distance: float, semidim: tuple[float, float]) -> tuple[int, int]:
    """The most columns and rows of points `min_distance` apart."""
    columns, rows = (int(2 * s / min_distance + 1e-6) + 1 for s in semidim)
    return columns, rows


def _lattice(num_points: int, min_distance: float, semidim: tuple[float, float]) -> np.ndarray:
    """Points of an even grid over the space in a fixed mixed order, float32[num_points, 2]."""
    x, y = (
        np.linspace(-s, s, n) if n > 1 else np.zeros(1)
        for s, n in zip(semidim, _lattice_shape(min_distance, semidim), strict=True)
    )
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return points[np.random.default_rng(0).permutation(len(points))[:num_points]].astype(np.float32)

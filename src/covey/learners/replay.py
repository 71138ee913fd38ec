"""A replay of sequences on the device: a ring of fixed size, as pure functions.

    replay = init(example, capacity)             example: one sequence, arrays or their shapes, [T, ...]
    replay = add(replay, sequences)              [E, T, ...], the oldest go first
    batch = sample(replay, key, count)           [count, T, ...], uniform, with replacement

A sequence goes in and comes out whole, so what is in it stays in order; where episodes end inside, it has to say so.
Leaves keep their types: observations of uint8 take one byte each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Replay:
    """sequences: [capacity, T, ...]. position: int32[], where the next one goes. size: int32[], how many there are."""

    sequences: Any
    position: jax.Array
    size: jax.Array

    @property
    def capacity(self) -> int:
        return jax.tree.leaves(self.sequences)[0].shape[0]


def init(example: Any, capacity: int) -> Replay:
    """An empty replay for sequences like `example`. Raises ValueError unless it has room for one."""
    if capacity < 1:
        raise ValueError(f"capacity is {capacity}; allowed: an integer of at least 1")
    sequences = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), example)
    return Replay(sequences, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(replay: Replay, sequences: Any) -> Replay:
    """The replay with `sequences` [E, T, ...] in place of its E oldest, or of empty places.

    Raises ValueError while tracing if they are more than it holds, or not like those in it.
    """
    count, capacity = jax.tree.leaves(sequences)[0].shape[0], replay.capacity
    if count > capacity:
        raise ValueError(f"sequences are {count}; allowed: at most the replay's capacity, {capacity}")
    where = (replay.position + jnp.arange(count, dtype=jnp.int32)) % capacity

    def put(path: tuple, ring: jax.Array, new: jax.Array) -> jax.Array:
        if new.shape[1:] != ring.shape[1:] or new.dtype != ring.dtype:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            got, allowed = (f"{x.dtype}{list(x.shape[1:])}" for x in (new, ring))
            raise ValueError(f"sequences {name} is {got} each; allowed: {allowed}")
        return ring.at[where].set(new, unique_indices=True, mode="promise_in_bounds")

    return Replay(
        jax.tree_util.tree_map_with_path(put, replay.sequences, sequences),
        (replay.position + count) % capacity,
        jnp.minimum(replay.size + count, capacity),
    )


def sample(replay: Replay, key: jax.Array, count: int) -> Any:
    """`count` sequences, each drawn uniformly from those there are. Nothing sensible comes out of an empty replay."""
    index = jax.random.randint(key, (count,), 0, jnp.maximum(replay.size, 1))
    return jax.tree.map(lambda x: jnp.take(x, index, axis=0, mode="clip"), replay.sequences)


def replay_bytes(example: Any, capacity: int, num_seeds: int = 1) -> int:
    """Memory of the replays of `num_seeds` seeds, in bytes; `example` as for `init`."""
    one = sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(example))
    return num_seeds * (capacity * one + 8)


def planned(what: str, one_seed: int, num_seeds: int) -> str:
    """A line for the start of a run: what the replay holds and the memory it takes; one_seed: `replay_bytes` of one."""
    each, all_ = (f"{size / 2**20:.3g} MiB" for size in (one_seed, num_seeds * one_seed))
    return f"replay: {what}, {each} per seed, {all_} in all (checkpoints hold it, too)"

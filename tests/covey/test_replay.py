"""The ring of sequences: what goes in comes out whole, and the oldest goes first."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.learners import replay

EXAMPLE = {
    "obs": jax.ShapeDtypeStruct((4, 3), jnp.uint8),
    "reward": jax.ShapeDtypeStruct((4,), jnp.float32),
    "none": None,
}


def numbered(numbers):
    """Sequences [E, ...] that hold their number at every step, in every leaf."""
    n = jnp.asarray(numbers)
    return {
        "obs": jnp.broadcast_to(n[:, None, None], (len(numbers), 4, 3)).astype(jnp.uint8),
        "reward": n[:, None] * 1.0 + jnp.arange(4) / 8,
        "none": None,
    }


@pytest.mark.parametrize("capacity,counts", [(6, [2] * 7), (5, [2] * 9), (7, [3, 1, 4, 2, 7, 5]), (4, [4, 4, 1])])
def test_the_ring_holds_the_newest(capacity, counts):
    ring, kept, number = replay.init(EXAMPLE, capacity), deque(maxlen=capacity), 0
    for count in counts:
        numbers = list(range(number, number + count))
        number += count
        ring = jax.jit(replay.add)(ring, numbered(numbers))
        kept.extend(numbers)
        assert int(ring.size) == len(kept) and ring.capacity == capacity
        held = np.asarray(ring.sequences["obs"][:, 0, 0])[: len(kept)]
        assert sorted(held) == sorted(kept)
    oldest = int(ring.position) if len(kept) == capacity else 0
    assert int(ring.sequences["obs"][oldest, 0, 0]) == kept[0]


def test_samples_are_whole_and_uniform_over_what_is_there():
    ring = replay.add(replay.init(EXAMPLE, 10), numbered([1, 2, 3, 4]))
    batch = jax.jit(replay.sample, static_argnums=2)(ring, jax.random.key(0), 4000)
    assert batch["obs"].dtype == jnp.uint8 and batch["obs"].shape == (4000, 4, 3)
    number = np.asarray(batch["obs"][:, 0, 0])
    assert (np.asarray(batch["obs"]) == number[:, None, None]).all()
    np.testing.assert_array_equal(batch["reward"], number[:, None] + np.arange(4) / 8)
    values, counts = np.unique(number, return_counts=True)
    assert values.tolist() == [1, 2, 3, 4] and (np.abs(counts - 1000) < 5 * np.sqrt(750)).all()


def test_seeds_have_replays_of_their_own():
    def run(start):
        ring = replay.init(EXAMPLE, 3)
        for i in range(2):
            ring = replay.add(ring, numbered(start + 2 * i + jnp.arange(2)))
        return ring

    rings = jax.vmap(run)(jnp.array([10, 20]))
    for i, start in enumerate((10, 20)):
        alone = run(jnp.int32(start))
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), rings, alone)


def test_planned_memory_is_what_it_takes():
    ring = jax.vmap(lambda _: replay.init(EXAMPLE, 9))(jnp.arange(3))
    assert replay.replay_bytes(EXAMPLE, 9, num_seeds=3) == sum(x.nbytes for x in jax.tree.leaves(ring))
    assert replay.replay_bytes(EXAMPLE, 9) == 9 * (12 + 16) + 8


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: replay.init(EXAMPLE, 0), "capacity is 0; allowed: an integer of at least 1"),
        (lambda: replay.add(replay.init(EXAMPLE, 2), numbered([1, 2, 3])), "sequences are 3; allowed: at most"),
        (
            lambda: replay.add(replay.init(EXAMPLE, 2), numbered([1]) | {"reward": jnp.zeros((1, 5))}),
            r"reward is float32\[5\] each; allowed: float32\[4\]",
        ),
        (
            lambda: replay.add(replay.init(EXAMPLE, 2), numbered([1]) | {"obs": jnp.zeros((1, 4, 3))}),
            r"obs is float32\[4, 3\] each; allowed: uint8\[4, 3\]",
        ),
    ],
)
def test_bad_input_says_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()

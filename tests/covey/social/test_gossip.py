"""Gossip on random graphs: vectors against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.social.gossip import hear


def by_loop(known, age, values, visible, gossip):
    """The rules word for word, one agent and one value at a time, from tables of the step before."""
    n = len(values)
    new_known, new_age = known.copy(), age.copy()
    for i in range(n):
        for k in range(n):
            if k == i:
                continue
            for j in range(n):
                if gossip and visible[i, j] and j not in (i, k) and age[j, k] < new_age[i, k]:
                    new_known[i, k], new_age[i, k] = known[j, k], age[j, k]
        for k in range(n):
            if k == i or visible[i, k]:
                new_known[i, k], new_age[i, k] = values[k], 0
            else:
                new_age[i, k] += 1
    return new_known, new_age


@pytest.mark.parametrize("gossip", [True, False])
def test_vectors_equal_loops(gossip):
    rng = np.random.default_rng(0)
    for n in range(2, 17):
        known, age = np.zeros((n, n), np.float32), np.zeros((n, n), np.int32)
        steps, density = 25, rng.uniform(0.02, 0.4)
        values = rng.normal(size=(steps, n)).astype(np.float32)
        visible = rng.random((steps, n, n)) < density  # Not symmetric; the diagonal at random.
        _, tables = jax.lax.scan(
            lambda tables, x, gossip=gossip: (hear(*tables, *x, gossip),) * 2,
            (jnp.asarray(known), jnp.asarray(age)),
            (jnp.asarray(values), jnp.asarray(visible)),
        )
        for t in range(steps):
            known, age = by_loop(known, age, values[t], visible[t], gossip)
            np.testing.assert_array_equal(tables[0][t], known)
            np.testing.assert_array_equal(tables[1][t], age)
            # An age says exactly from when a value is.
            for i, k in zip(*np.nonzero(age <= t), strict=True):
                assert known[i, k] == values[t - age[i, k], k]


def test_news_travel_one_agent_per_step():
    """On a line 0 - 1 - 2 - 3, what 3 was in the first step arrives at 0 two steps later than at 2."""
    n = 4
    index = np.arange(n)
    visible = jnp.asarray(np.abs(index[:, None] - index) == 1)
    known, age = jnp.zeros((n, n)), jnp.zeros((n, n), jnp.int32)
    seen = []
    for t in range(4):
        known, age = hear(known, age, jnp.full(n, 10.0 + t), visible)
        seen.append([float(x) for x in known[:, 3]])
    assert seen == [[0, 0, 10, 10], [0, 10, 11, 11], [10, 11, 12, 12], [11, 12, 13, 13]]
    np.testing.assert_array_equal(age[0], [0, 0, 1, 2])


def test_nobody_tells_of_itself_what_is_not_seen():
    """Sight in one direction: 0 sees 1, who does not see 0."""
    visible = jnp.array([[False, True], [False, False]])
    known, age = hear(jnp.zeros((2, 2)), jnp.zeros((2, 2), jnp.int32), jnp.array([1.0, 2.0]), visible)
    np.testing.assert_array_equal(known, [[1.0, 2.0], [0.0, 2.0]])
    np.testing.assert_array_equal(age, [[0, 0], [1, 0]])

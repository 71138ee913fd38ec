"""What agents know of each other when they see only those near them, and tell each other (2602.15407).

Letters: N agents. `known[i, k]` is the last value of agent k that i heard of, `age[i, k]` how many steps old it is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def hear(
    known: jax.Array, age: jax.Array, values: jax.Array, visible: jax.Array, gossip: bool = True
) -> tuple[jax.Array, jax.Array]:
    """The tables `(known [N, N], age int32[N, N])` after one step in which agents have `values` [N].

    1. Gossip: from the agents j that i sees, i takes over the newest of their values of each k not in {i, j}, if it is
       newer than its own. Tables are those before the step, so that news travel one agent per step.
    2. Of itself, and of those that it sees, an agent knows the value of now, with age 0. All other ages grow by 1.

    visible: bool[N, N], [i, j] where i sees j; the diagonal does not matter. Without gossip only 2 happens.
    Equally old values of the same agent are equal, so it does not matter whose is taken.
    """
    self = np.eye(known.shape[0], dtype=bool)
    if gossip:
        speaks = visible & ~self
        never = jnp.iinfo(age.dtype).max
        # [i, j, k], the age of what j tells i of k.
        told = jnp.where(speaks[:, :, None] & ~self[None], age[None], never)
        source = jnp.argmin(told, axis=1)  # [i, k]
        newest = jnp.min(told, axis=1)
        take = (newest < age) & ~self
        known = jnp.where(take, jnp.take_along_axis(known, source, axis=0), known)
        age = jnp.where(take, newest, age)
    fresh = visible | self
    return jnp.where(fresh, values, known), jnp.where(fresh, 0, age + 1)

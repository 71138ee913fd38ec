"""Apples on a board: who stands on them, who takes them, how they show. Shared by Harvest and Cleanup.

Letters: N agents, A apple cells.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.ssd import grid, maps


def count_near(apple: jax.Array, neighbours: np.ndarray) -> jax.Array:
    """How many neighbours hold an apple, int32[A], for apple bool[A] and the table of `Board.neighbours`."""
    return jnp.sum(grid.pick(jnp.append(apple, False), neighbours), axis=1, dtype=jnp.int32)


def occupied(state: Any, cells: np.ndarray) -> jax.Array:
    """On which of `cells` an agent stands, bool[len(cells)]."""
    return jnp.any((state.cell[:, None] == cells) & state.present[:, None], axis=0)


def collect(state: Any, cells: np.ndarray) -> tuple[Any, jax.Array, dict[str, jax.Array]]:
    """State, reward float32[N] and info after everyone takes the apple under it; `cells`: int32[A]."""
    on = (state.cell[:, None] == cells) & state.present[:, None] & state.apple
    ate = jnp.any(on, axis=1)
    state = state.replace(apple=state.apple & ~jnp.any(on, axis=0), items=state.items + ate)
    return state, ate * state.roles.apple_reward, {"apples": ate.astype(jnp.int32)}


def codes(apple: jax.Array) -> jax.Array:
    """uint8[A + kinds of ground], the observation codes that `Board.slots` of the apple cells points to."""
    return jnp.concatenate([jnp.where(apple, np.uint8(maps.APPLE), np.uint8(maps.FLOOR)), maps.BARE])

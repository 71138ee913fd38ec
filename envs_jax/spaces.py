"""Spaces: what an agent may observe and do. Frozen and hashable, so that environments that hold them stay so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Bound: TypeAlias = float | tuple[float, ...]


@dataclass(frozen=True)
class Discrete:
    """The integers `0 ... n - 1`; one action or observation is an int32 scalar."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"Discrete: n is {self.n}; allowed: an integer of at least 1")

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int32)

    def sample(self, key: jax.Array) -> jax.Array:
        """One uniform draw, int32[]."""
        return jax.random.randint(key, (), 0, self.n, dtype=jnp.int32)

    def contains(self, x: jax.Array) -> jax.Array:
        """Whether shape, dtype kind and values of `x` fit, bool[]."""
        x = jnp.asarray(x)
        if x.shape != () or not jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.asarray(False)
        return (x >= 0) & (x < self.n)


@dataclass(frozen=True)
class Box:
    """Arrays of a fixed shape between `low` and `high` (scalars, or one value per element in row-major order)."""

    low: Bound
    high: Bound
    shape: tuple[int, ...]
    dtype: np.dtype = np.dtype(np.float32)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        for name in ("low", "high"):
            bound = getattr(self, name)
            if not isinstance(bound, int | float):
                bound = tuple(float(b) for b in np.asarray(bound).reshape(-1))
                if len(bound) != int(np.prod(self.shape)):
                    raise ValueError(f"Box: {name} holds {len(bound)} values; allowed: one, or {np.prod(self.shape)}")
                object.__setattr__(self, name, bound)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """`(low, high)` as NumPy arrays of the box's shape."""

        def expand(bound: Bound) -> np.ndarray:
            return np.broadcast_to(
                np.asarray(bound, self.dtype).reshape(self.shape if np.ndim(bound) else ()), self.shape
            )

        return expand(self.low), expand(self.high)

    def sample(self, key: jax.Array) -> jax.Array:
        """One uniform draw of the box's shape; an unbounded side is drawn as if it ended at ±1."""
        low, high = self.bounds()
        if np.issubdtype(self.dtype, np.integer):
            low, high = low.astype(np.int32), high.astype(np.int32)
            return jax.random.randint(key, self.shape, low, high + 1, dtype=jnp.int32).astype(self.dtype)
        low, high = np.where(np.isfinite(low), low, -1.0), np.where(np.isfinite(high), high, 1.0)
        return jax.random.uniform(key, self.shape, self.dtype, low, high)

    def contains(self, x: jax.Array) -> jax.Array:
        """Whether shape, dtype and values of `x` fit, bool[]."""
        x = jnp.asarray(x)
        if x.shape != self.shape or x.dtype != self.dtype:
            return jnp.asarray(False)
        low, high = self.bounds()
        return jnp.all((x >= low) & (x <= high))


Space: TypeAlias = Discrete | Box

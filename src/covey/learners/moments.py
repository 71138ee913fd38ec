"""Running mean and deviation, so that a critic can learn numbers of one size whatever the rewards' size.

    m <- d m + (1 - d) mean(x),   q <- d q + (1 - d) mean(x^2),   w <- d w + (1 - d),   from 0
    centre = m / w,   scale = sqrt(q / w - centre^2)

As in the value normalisation of MAPPO (Yu et al. 2022, 2103.01955, section 5.1; PopArt without its change of weights).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

DECAY = 0.99
"""d: about the last hundred updates count."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Of numbers [N, ...], one centre and one scale for each of N; 0 and 1 before the first update."""

    mean: jax.Array  # m, [N]
    square: jax.Array  # q, [N]
    weight: jax.Array  # w, []

    @staticmethod
    def start(size: int) -> Moments:
        zeros = jnp.zeros(size, jnp.float32)
        return Moments(zeros, zeros, jnp.zeros((), jnp.float32))

    def update(self, x: jax.Array) -> Moments:
        """After numbers [T, N, ...]."""
        rest = tuple(axis for axis in range(x.ndim) if axis != 1)
        new = Moments(jnp.mean(x, axis=rest), jnp.mean(jnp.square(x), axis=rest), jnp.ones((), jnp.float32))
        return jax.tree.map(lambda a, b: DECAY * a + (1 - DECAY) * b, self, new)

    def normalize(self, x: jax.Array) -> jax.Array:
        """Numbers [..., N, B] minus their centre, over their scale."""
        centre, scale = self._centre_and_scale()
        return (x - centre) / scale

    def denormalize(self, x: jax.Array) -> jax.Array:
        """The inverse of `normalize`."""
        centre, scale = self._centre_and_scale()
        return centre + scale * x

    def _centre_and_scale(self) -> tuple[jax.Array, jax.Array]:
        """[N, 1] each."""
        weight = jnp.maximum(self.weight, 1e-8)
        centre = self.mean / weight
        # At least a ten-thousandth of the numbers' size: below, the difference of two squares is rounding.
        square = self.square / weight
        scale = jnp.sqrt(jnp.maximum(square - jnp.square(centre), 1e-8 * jnp.maximum(square, 1.0)))
        return centre[:, None], jnp.where(self.weight > 0, scale, 1.0)[:, None]

"""The denoiser of CODA: a U-Net over the time of a segment, all agents' channels side by side.

Noise level, place in the segment and condition are embedded, added up, and projected into every block. There is no
attention, and agents are not told apart but by their channels (CODA, section 5.1).

Convolutions are written as one matrix product over shifted copies: mapped over seeds it stays a batched product, where
a convolution would become a grouped one, which is slow on CPUs. Segments of one step leave out the taps that never meet
them. Letters: B batch, H horizon, C channels, F features, D condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from covey.learners.base import check_numbers


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the denoiser."""

    features: int = 16
    """Features at full length, doubled at each level, and the size of embeddings ("U-Net embedding")."""
    levels: int = 2
    """Lengths at which the net works, each half of the one before ("blocks")."""
    kernel: int = 3
    """Steps that a convolution sees; odd."""
    norm_groups: int = 4
    """Groups of the normalisation; divides features."""

    def __post_init__(self) -> None:
        names = ("features", "levels", "kernel", "norm_groups")
        check_numbers(self, names, lambda x: x >= 1, "an integer of at least 1")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; allowed: an odd number")
        if self.features % 2 or self.features % self.norm_groups:
            raise ValueError(
                f"features is {self.features}; allowed: an even multiple of norm_groups = {self.norm_groups}"
            )


class TemporalUNet(nn.Module):
    """`(x [B, H, C], noise [] or [B], condition [B, D] or None, known bool[B] or None) -> [B, H, C]`.

    noise: ln(sigma) / 4. condition: what the segment is conditioned on, where `known`; elsewhere a learned vector
    stands for "anything".
    """

    config: UNetConfig
    horizon: int

    @nn.compact
    def __call__(
        self, x: jax.Array, noise: jax.Array, condition: jax.Array | None = None, known: jax.Array | None = None
    ) -> jax.Array:
        features, channels = self.config.features, x.shape[-1]
        place = self.param("place", nn.initializers.zeros, (self.horizon, features))  # (H, F)
        level = nn.Dense(features, name="noise")(_waves(noise, features))  # ([B], F)
        embedding = place + jnp.broadcast_to(level[..., None, :], (x.shape[0], 1, features))
        if condition is not None:
            anything = self.param("anything", nn.initializers.zeros, (features,))
            given = nn.Dense(features, name="condition")(condition)
            given = nn.Dense(features, name="condition_2")(nn.silu(given))
            given = given if known is None else jnp.where(known[:, None], given, anything)
            embedding = embedding + given[:, None]
        embedding = nn.silu(nn.Dense(features, name="embedding")(nn.silu(embedding)))  # (B, H, F)

        x = nn.Dense(features, name="enter")(x)
        skips, embeddings = [], [embedding]
        for i in range(self.config.levels):
            x = self._block(x, embeddings[-1], i, f"down_{i}")
            skips.append(x)
            if i + 1 < self.config.levels:
                x, halved = (_halve(value) for value in (x, embeddings[-1]))
                embeddings.append(halved)
        for i in reversed(range(self.config.levels)):
            skip = skips[i]
            if x.shape[1] != skip.shape[1]:
                x = jnp.repeat(x, 2, axis=1)[:, : skip.shape[1]]
            x = self._block(jnp.concatenate([x, skip], axis=-1), embeddings[i], i, f"up_{i}")
        x = nn.silu(nn.GroupNorm(self.config.norm_groups, name="leave_norm")(x))
        return nn.Dense(channels, name="leave")(x)

    def _block(self, x: jax.Array, embedding: jax.Array, level: int, name: str) -> jax.Array:
        """A residual block of two convolutions, told the embedding in between."""
        width, groups = self.config.features * 2**level, self.config.norm_groups
        convolve = lambda i: Convolution(width, self.config.kernel, name=f"{name}_conv_{i}")  # noqa: E731
        y = convolve(1)(nn.silu(nn.GroupNorm(groups, name=f"{name}_norm_1")(x)))
        y = y + nn.Dense(width, name=f"{name}_embedding")(embedding)
        y = convolve(2)(nn.silu(nn.GroupNorm(groups, name=f"{name}_norm_2")(y)))
        return y + (x if x.shape[-1] == width else nn.Dense(width, use_bias=False, name=f"{name}_skip")(x))


class Convolution(nn.Module):
    """A convolution along H, padded with zeros to the same length: [B, H, F] -> [B, H, width]."""

    width: int
    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        length = x.shape[1]
        reach = min(self.kernel // 2, length - 1)
        padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
        shifted = [padded[:, i : i + length] for i in range(2 * reach + 1)]
        return nn.Dense(self.width, name="taps")(jnp.concatenate(shifted, axis=-1))


def init_unet(network: TemporalUNet, key: jax.Array, channels: int, condition_size: int = 0) -> Any:
    """Parameters: kernels normal with variance 1 / fan-in, but 0 at the exit; embeddings with deviation 0.1.

    One draw serves them all, since compiling a draw for each takes longer than compiling the network.
    """
    x, noise = jnp.zeros((1, network.horizon, channels)), jnp.zeros(1)
    condition = jnp.zeros((1, condition_size)) if condition_size else None
    shapes = jax.eval_shape(network.init, key, x, noise, condition)
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    draw = jax.random.normal(key, (sum(leaf.size for _, leaf in leaves),))
    params, used = [], 0
    for path, leaf in leaves:
        layer, name = path[-2].key, path[-1].key
        value = draw[used : used + leaf.size].reshape(leaf.shape)
        used += leaf.size
        if name == "kernel":
            value = jnp.zeros_like(value) if layer == "leave" else value * leaf.shape[0] ** -0.5
        elif name in ("bias", "scale"):
            value = jnp.full_like(value, float(name == "scale"))
        else:
            value = 0.1 * value
        params.append(value)
    return jax.tree.unflatten(tree, params)


def _halve(x: jax.Array) -> jax.Array:
    """Means of neighbouring steps; an odd last one stays as it is: [B, H, F] -> [B, ceil(H / 2), F]."""
    if x.shape[1] == 1:
        return x
    if x.shape[1] % 2:
        x = jnp.concatenate([x, x[:, -1:]], axis=1)
    return x.reshape(x.shape[0], -1, 2, x.shape[2]).mean(axis=2)


def _waves(x: jax.Array, size: int) -> jax.Array:
    """Sines and cosines of x [...] at frequencies from 1 / 4 to 8, [..., size]."""
    frequencies = np.exp(np.linspace(np.log(0.25), np.log(8.0), size // 2)).astype(np.float32)
    angles = x[..., None] * (2.0 * np.pi * frequencies)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

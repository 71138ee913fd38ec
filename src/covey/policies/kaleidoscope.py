"""Kaleidoscope: one set of weights for all agents, and a learned mask on it for each.

    theta_i = sign(theta) relu(|theta| - sigmoid(s_i)),   M_i = 1[|theta| > sigmoid(s_i)]
    D = sum_l c_l sum_{i != j} | M_i - M_j | |theta|  /  (N (N - 1) sum_l size_l)

Li, Pan, Zhang: Kaleidoscope: Learnable Masks for Heterogeneous Multi-agent Reinforcement Learning (2410.08540): soft
threshold reparametrisation (Kusupati et al. 2020) with a threshold per agent and weight, in matrices; vectors are the
same for all. A learner adds -D, so that masks move apart, and now and then revives weights that every mask has
switched off. In D a mask's gradient passes through the step as tanh of what arrives, |theta| holds still, and c_l
doubles from layer to layer, as in the authors' code. So D has no gradient where two masks agree (|0| has none): it
keeps masks that the start, learning or a reset made different from growing together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from covey.policies.networks import Network, Weights
from covey.policies.sharing import FullSharing, Networks, SharingScheme, keyed_leaves, keyed_networks


@dataclass(frozen=True)
class MaskConfig:
    """Kaleidoscope's sizes and switches."""

    num_critics: int = 5
    """Masked copies of one team critic, of which targets take the least; 0 for MATD3's own two critics."""
    threshold_bias: float = 5.0
    """Thresholds start (and restart) as the sigmoid of -(bias + scale u), u uniform in [0, 1]."""
    threshold_scale: float = 5.0
    """See threshold_bias."""
    layer_growth: float = 2.0
    """How much more each layer counts in the distance of masks than the one before."""
    reset_interval: int = 200_000
    """Environment steps between resets of weights that all masks have switched off; 0 for never. None in the last such
    interval of a run."""

    def __post_init__(self) -> None:
        if self.num_critics < 0:
            raise ValueError(f"num_critics is {self.num_critics}; allowed: an integer of at least 0")
        if self.threshold_scale < 0:
            raise ValueError(f"threshold_scale is {self.threshold_scale}; allowed: a number of at least 0")
        if self.layer_growth <= 0:
            raise ValueError(f"layer_growth is {self.layer_growth}; allowed: a number above 0")
        if self.reset_interval < 0:
            raise ValueError(f"reset_interval is {self.reset_interval}; allowed: an integer of at least 0")


@dataclass(frozen=True)
class Kaleidoscope(SharingScheme):
    """Weights {"shared": name -> leaf -> [...], "threshold": name -> matrix -> [N, ...]}; the latter before the
    sigmoid. A slice of the thresholds along N has the weights of those agents alone."""

    config: MaskConfig = MaskConfig()

    def init(self, key: jax.Array, networks: Networks) -> Any:
        thresholds = {
            name: {
                leaf: self._thresholds(jax.random.fold_in(k, self.num_agents), spec.shape)
                for leaf, spec, k in keyed_leaves(key_network, network)
                if len(spec.shape) == 2
            }
            for name, network, key_network in keyed_networks(key, networks)
        }
        return {"shared": FullSharing(self.num_agents).init(key, networks), "threshold": thresholds}

    def weights(self, params: Any, networks: Networks) -> dict[str, Weights]:
        return {
            name: {
                leaf: soft_threshold(w, params["threshold"][name][leaf]) if w.ndim == 2 else w[None]
                for leaf, w in leaves.items()
            }
            for name, leaves in params["shared"].items()
        }

    def _thresholds(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        uniform = jax.random.uniform(key, (self.num_agents, *shape))
        return -(self.config.threshold_bias + self.config.threshold_scale * uniform)

    def distance(self, params: Any, networks: Networks) -> jax.Array:
        """D [], the mean distance between two agents' masks."""
        total, size = jnp.zeros(()), 0
        for name, network in networks.items():
            for layer, leaf in enumerate(_matrices(network)):
                w, s = params["shared"][name][leaf], params["threshold"][name][leaf]
                magnitude = jax.lax.stop_gradient(jnp.abs(w))
                masked = _step(magnitude - jax.nn.sigmoid(s)) * magnitude  # [N, I, O]
                apart = jnp.sum(jnp.abs(masked[:, None] - masked[None]))
                total, size = total + self.config.layer_growth**layer * apart, size + w.size
        return total / (max(1, self.num_agents * (self.num_agents - 1)) * size)

    def sparsity(self, params: Any) -> jax.Array:
        """Share of the matrices' weights that each agent's mask switches off, [N]."""
        pairs = [
            (params["shared"][name][leaf], s) for name, own in params["threshold"].items() for leaf, s in own.items()
        ]
        off = sum(jnp.sum(jnp.abs(w) <= jax.nn.sigmoid(s), axis=(1, 2)) for w, s in pairs)
        return jnp.asarray(off, jnp.float32) / sum(w.size for w, _ in pairs)

    def revive(self, params: Any, networks: Networks, key: jax.Array, ratio: jax.Array | float) -> Any:
        """New weights and thresholds, with probability `ratio`, where every mask is off; not in a network's first
        layer, as in the authors' code. New weights are uniform in +-1 / sqrt(inputs), PyTorch's default, as there."""
        shared = {name: dict(leaves) for name, leaves in params["shared"].items()}
        thresholds = {name: dict(leaves) for name, leaves in params["threshold"].items()}
        for name, network, key_network in keyed_networks(key, networks):
            for layer, leaf in list(enumerate(_matrices(network)))[1:]:
                key_which, key_weight, key_threshold = jax.random.split(jax.random.fold_in(key_network, layer), 3)
                w, s = shared[name][leaf], thresholds[name][leaf]
                dead = jnp.all(jnp.abs(w) <= jax.nn.sigmoid(s), axis=0)
                chosen = dead & (jax.random.uniform(key_which, w.shape) < ratio)
                bound = w.shape[0] ** -0.5
                fresh = jax.random.uniform(key_weight, w.shape, minval=-bound, maxval=bound)
                shared[name][leaf] = jnp.where(chosen, fresh, w)
                thresholds[name][leaf] = jnp.where(chosen, self._thresholds(key_threshold, w.shape), s)
        return {"shared": shared, "threshold": thresholds}


def soft_threshold(w: jax.Array, s: jax.Array) -> jax.Array:
    """sign(w) relu(|w| - sigmoid(s)), [N, ...], from w [...] and s [N, ...]; w itself as s goes to minus infinity."""
    return jnp.sign(w) * jax.nn.relu(jnp.abs(w) - jax.nn.sigmoid(s))


def _matrices(network: Network) -> list[str]:
    return [name for name, leaf in network.leaves().items() if len(leaf.shape) == 2]


@jax.custom_vjp
def _step(x: jax.Array) -> jax.Array:
    """1 where x > 0, else 0."""
    return (x > 0).astype(jnp.float32)


_step.defvjp(lambda x: (_step(x), None), lambda _, gradient: (jnp.tanh(gradient),))

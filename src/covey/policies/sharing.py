"""Who shares which weights. One interface, so that learners do not know the scheme.

A scheme turns trainable parameters into per-agent weights of the networks it is given:

    params  = scheme.init(key, networks)        networks: name -> specification, e.g. "actor" and "critic"
    weights = scheme.weights(params, networks)  once per rollout and once per gradient step, never per sample
    outputs = scheme.unroll(network, weights["actor"], scheme.identify(obs), ...)

| scheme                          | class        |                                                              |
|---------------------------------|--------------|--------------------------------------------------------------|
| `fups`                          | FullSharing  | one network for all, which cannot tell agents apart          |
| `fups_id`                       | FullSharing  | one network, one-hot id appended to the observation          |
| `fups_id_only`                  | FullSharing  | one network that sees the one-hot id and nothing else        |
| `fups_matched`                  | FullSharing  | `fups_id` widened to the parameter count of `hyper_mlp`      |
| `nops`                          | NoSharing    | one network and one optimiser per agent                      |
| `hyper_linear`, `hyper_mlp`     | Hypernetwork | weights generated from an agent embedding (`hypernet.py`)    |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from covey.policies.networks import Leaf, Network, Weights, dense

Networks: TypeAlias = Mapping[str, Network]


@dataclass(frozen=True)
class SharingScheme:
    """Base of all schemes: no identity in the inputs, weights used as they are."""

    num_agents: int

    def separate(self, networks: Networks) -> bool:
        """Whether no parameter of these networks serves two agents, so that each agent has its own loss, gradient
        clipping and Adam. Then every parameter has the agent axis first."""
        return False

    def init(self, key: jax.Array, networks: Networks) -> Any:
        """Trainable parameters of all networks."""
        raise NotImplementedError

    def weights(self, params: Any, networks: Networks) -> dict[str, Weights]:
        """Each network's weights with a leading agent axis, N or 1."""
        raise NotImplementedError

    def input_size(self, obs_size: int) -> int:
        """Size of `identify`'s result."""
        return obs_size

    def identify(self, obs: jax.Array) -> jax.Array:
        """What the network of an agent is fed, from observations [..., N, B, O]."""
        return obs

    def unroll(
        self, network: Network, weights: Weights, x: jax.Array, memory: jax.Array, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """`network.unroll` with these weights."""
        return network.unroll(weights, x, memory, reset, dense)


@dataclass(frozen=True)
class FullSharing(SharingScheme):
    """One set of weights for all agents (FuPS), which may see a one-hot agent id."""

    identity: Literal["none", "append", "only"] = "none"

    def init(self, key: jax.Array, networks: Networks) -> Any:
        return {
            name: {leaf: spec.init(k) for leaf, spec, k in keyed_leaves(key_network, network)}
            for name, network, key_network in keyed_networks(key, networks)
        }

    def weights(self, params: Any, networks: Networks) -> dict[str, Weights]:
        return jax.tree.map(lambda w: w[None], params)

    def input_size(self, obs_size: int) -> int:
        return {"none": obs_size, "append": obs_size + self.num_agents, "only": self.num_agents}[self.identity]

    def identify(self, obs: jax.Array) -> jax.Array:
        if self.identity == "none":
            return obs
        ids = jnp.broadcast_to(jnp.eye(self.num_agents, dtype=obs.dtype)[:, None], (*obs.shape[:-1], self.num_agents))
        return ids if self.identity == "only" else jnp.concatenate([obs, ids], axis=-1)


@dataclass(frozen=True)
class NoSharing(SharingScheme):
    """Every agent has its own weights (NoPS): arrays with the agent axis first, one batched product for all."""

    def separate(self, networks: Networks) -> bool:
        return True

    def init(self, key: jax.Array, networks: Networks) -> Any:
        return {
            name: {leaf: per_agent(spec, k, self.num_agents) for leaf, spec, k in keyed_leaves(key_network, network)}
            for name, network, key_network in keyed_networks(key, networks)
        }

    def weights(self, params: Any, networks: Networks) -> dict[str, Weights]:
        return params


def per_agent(leaf: Leaf, key: jax.Array, count: int) -> jax.Array:
    """`count` independent initialisations, [count, *shape]."""
    return jax.vmap(leaf.init)(jax.random.split(key, count))


def keyed_networks(key: jax.Array, networks: Networks) -> list[tuple[str, Network, jax.Array]]:
    """Each network with its name and its own key."""
    return [(name, networks[name], jax.random.fold_in(key, i)) for i, name in enumerate(sorted(networks))]


def keyed_leaves(key: jax.Array, network: Network) -> list[tuple[str, Leaf, jax.Array]]:
    return [(name, leaf, jax.random.fold_in(key, i)) for i, (name, leaf) in enumerate(network.leaves().items())]


def count_parameters(scheme: SharingScheme, networks: Networks) -> int:
    """How many trainable numbers the scheme holds for these networks."""
    shapes = jax.eval_shape(lambda: scheme.init(jax.random.key(0), networks))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))

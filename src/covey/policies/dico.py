"""Diversity control: one policy for all agents plus each agent's deviation from it, scaled to a desired diversity.

    mu_i(o) = f(o) + (d / D) g_i(o),   D = 2 / (N (N - 1) |O|)  sum_{i < j}  sum_{o in O}  |g_i(o) - g_j(o)|

f is shared and g_i is agent i's own network. The shared part cancels in a difference of two agents' means, so that
their mean distance over the observations O, the system neural diversity, is d, whatever the networks learn. Bettini,
Kortvelesy, Prorok: Controlling Behavioral Diversity in Multi-Agent Reinforcement Learning (2405.15054).

O is the minibatch of a gradient step, all agents' observations in one pool (or some of them, evenly spaced), and D
follows it softly:

    D <- (1 - tau) D_before + tau D(O),   at the first step D(O);   while acting, the D of the last gradient step.

As in the authors' code (and as the equations say), D(O) is part of the loss: gradients flow through it, tau times as
much as if there were no memory, and D_before is a constant. D is kept among the parameters, as a number without
gradient, so that whoever has the parameters has the policy.

f ends in tanh, and means are of actions scaled to [-1, 1]: d is in units of half an action's range.

What is not as in the authors' code: the standard deviations do not depend on the observation; deviations start with the
gain of a value function instead of that of PyTorch's layers; there is no second loss against means outside the bounds
of actions. With discrete actions, which they do not have, mu are logits: deviations then have mean 0 over actions,
since adding a number to all logits changes no policy, and f is not squashed.

Letters: T time, N agents, B batch, I inputs, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from covey.policies.networks import MLP, Network, Weights, dense
from covey.policies.sharing import Networks, SharingScheme, keyed_leaves, keyed_networks, per_agent

UNCONSTRAINED = -1.0
Bounds: TypeAlias = tuple[float | tuple[float, ...], float | tuple[float, ...]]
"""The lowest and highest actions, numbers or one per dimension each."""


@dataclass(frozen=True)
class DiversityControl(SharingScheme):
    """The actor as above; of every other network each agent has its own (their critics share nothing, either), but the
    log standard deviations are one vector for all.

    desired: d, the distance between two agents' means, in units of half an action's range (or of logits); 0 for equal
        policies, -1 for deviations that are added as they are.
    rate: tau.
    observations: the most that O may hold; 0 for no limit.
    bounds: of actions; None for logits.
    """

    desired: float = UNCONSTRAINED
    rate: float = 0.01
    observations: int = 0
    bounds: Bounds | None = (-1.0, 1.0)

    # --- Parameters ---

    def init(self, key: jax.Array, networks: Networks) -> Any:
        params: dict[str, Any] = {}
        for name, network, key_network in keyed_networks(key, networks):
            if name == "log_std":
                params[name] = {leaf: spec.init(k) for leaf, spec, k in keyed_leaves(key_network, network)}
            elif name == "actor":
                key_shared, key_own = jax.random.split(key_network)
                params[name] = {
                    "shared": {leaf: spec.init(k) for leaf, spec, k in keyed_leaves(key_shared, network)},
                    "deviation": self._own(key_own, _deviation(network)),
                    "diversity": jnp.zeros((), jnp.float32),  # D; 0 before it has been measured.
                }
            else:
                params[name] = self._own(key_network, network)
        return params

    def _own(self, key: jax.Array, network: Network) -> Weights:
        return {leaf: per_agent(spec, k, self.num_agents) for leaf, spec, k in keyed_leaves(key, network)}

    def measure(self, params: Any, networks: Networks, x: jax.Array) -> Any:
        """`params` with D brought up to a minibatch's inputs x [T, N, B, I]. The old D passes on no gradient."""
        if self.desired <= 0 or self.num_agents == 1:
            return params
        actor = params["actor"]
        before = jax.lax.stop_gradient(actor["diversity"])
        pool = jnp.moveaxis(x, 1, 0).reshape(1, 1, -1, x.shape[-1])  # All agents' observations, for every agent.
        if 0 < self.observations < (size := pool.shape[2]):
            pool = pool[:, :, np.arange(self.observations) * size // self.observations]
        now = diversity(self._deviations(networks["actor"], actor["deviation"], pool)[0])
        now = jnp.where(before > 0, (1.0 - self.rate) * before + self.rate * now, now)
        return params | {"actor": actor | {"diversity": now}}

    # --- Weights ---

    def weights(self, params: Any, networks: Networks) -> dict[str, Weights]:
        weights = {name: own for name, own in params.items() if name not in ("actor", "log_std")}
        if "log_std" in params:
            weights["log_std"] = {leaf: value[None] for leaf, value in params["log_std"].items()}
        actor = params["actor"]
        shared = {f"shared/{leaf}": value[None] for leaf, value in actor["shared"].items()}
        own = {f"deviation/{leaf}": value for leaf, value in actor["deviation"].items()}
        return weights | {"actor": shared | own | {"scale": self._scale(actor["diversity"])[None]}}

    def _scale(self, measured: jax.Array) -> jax.Array:
        """d / D, float32[]; 1 where D has not been measured."""
        if self.desired <= 0 or self.num_agents == 1:
            return jnp.float32(0.0 if self.desired == 0 else 1.0)
        return jnp.where(measured > 0, self.desired / jnp.where(measured > 0, measured, 1.0), 1.0)

    def unroll(
        self, network: Network, weights: Weights, x: jax.Array, memory: jax.Array, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        if "scale" not in weights:
            return super().unroll(network, weights, x, memory, reset)
        shared, _ = network.unroll(_part(weights, "shared/"), x, memory, reset, dense)
        own = weights["scale"] * self._deviations(network, _part(weights, "deviation/"), x)
        if self.bounds is None:
            return shared + own, memory
        low, high = (jnp.asarray(bound, shared.dtype) for bound in self.bounds)
        return (low + high) / 2 + (high - low) / 2 * (jnp.tanh(shared) + own), memory

    def _deviations(self, network: Network, weights: Weights, x: jax.Array) -> jax.Array:
        """g_i of inputs x [T, N or 1, B, I], [T, N, B, A]."""
        batch = x.shape[2]
        memory, reset = network.start(self.num_agents, batch), jnp.zeros((x.shape[0], 1, batch), jnp.bool_)
        own, _ = network.unroll(weights, x, memory, reset, dense)
        return own if self.bounds else own - jnp.mean(own, axis=-1, keepdims=True)


def diversity(means: jax.Array) -> jax.Array:
    """The mean distance of two agents' means [N, B, A] over pairs and observations, float32[].

    As `covey.metrics.diversity` has it (`snd(wasserstein(means))`), which policies cannot import: it imports them.
    """
    agents = means.shape[0]

    def add(total: jax.Array, own: jax.Array) -> tuple[jax.Array, None]:
        squares = jnp.sum(jnp.square(own - means), axis=-1)
        distance = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
        return total + jnp.sum(jnp.mean(distance, axis=-1)), None

    total, _ = jax.lax.scan(add, jnp.float32(0.0), means)  # N copies of the pool at a time, not N^2.
    return total / (agents * (agents - 1))


def _deviation(network: Network) -> Network:
    """The actor's network with outputs of order 1, so that the scale is, too."""
    if not isinstance(network, MLP):
        raise ValueError(f"sharing is 'dico'; allowed with feed-forward networks on numbers only; got {network}")
    return replace(network, output_gain=1.0)


def _part(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}

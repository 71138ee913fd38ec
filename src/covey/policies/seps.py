"""SePS, selective parameter sharing: agents that behave alike share weights, found before training.

    q(z | i) = N(mu_i, diag sigma_i^2),   (o', r) ~ f(z, o, a)     fitted to transitions of random policies
    L = |f(z, o, a) - (o', r)|^2 + kl_weight KL(q(. | i) || N(0, 1)),   groups: k-means of mu_1, ..., mu_N

Christianos, Papoudakis, Rahman, Albrecht: Scaling Multi-Agent Reinforcement Learning with Selective Parameter Sharing
(2102.07475). The encoder sees nothing but who acts, so z holds what the decoder cannot see otherwise: how this agent's
observations and rewards differ from the others'. The number of groups is given, or that with the lowest Davies-Bouldin
index from 2 on (it has no value for one).

Letters: N agents, B transitions, O obs, A actions, K groups, Z size of z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from covey.policies.networks import Weights
from covey.policies.sharing import Networks, SharingScheme, keyed_leaves, keyed_networks, per_agent


@dataclass(frozen=True)
class GroupConfig:
    """How groups are found."""

    num_groups: int | None = None
    """How many; None for the number with the lowest Davies-Bouldin index."""
    max_groups: int = 8
    """The largest number that is tried (fewer than agents)."""
    pretraining_steps: int = 2000
    """Steps of the environment with random actions, before training and beside its steps."""
    pretraining_envs: int = 10
    """Environments that take them, in parallel."""
    fit_steps: int = 3000
    """Gradient steps of the encoder and decoder."""
    fit_batch: int = 64
    """Time steps in each, with all agents."""
    fit_hidden_size: int = 64
    """Units of the decoder's two layers."""
    z_size: int = 5
    """Size of what stands for an agent."""

    def __post_init__(self) -> None:
        names = (
            "pretraining_steps", "pretraining_envs", "fit_steps", "fit_batch", "fit_hidden_size", "z_size",
        )  # fmt: skip
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: an integer of at least 1")
        if self.num_groups is not None and self.num_groups < 1:
            raise ValueError(f"num_groups is {self.num_groups}; allowed: an integer of at least 1, or None")
        if self.max_groups < 2:
            raise ValueError(f"max_groups is {self.max_groups}; allowed: an integer of at least 2")

    def most(self, num_agents: int) -> int:
        """K: the largest number of groups for so many agents. Raises ValueError if there is none."""
        if self.num_groups is not None:
            if self.num_groups > num_agents:
                raise ValueError(f"num_groups is {self.num_groups}; allowed: 1 to num_agents = {num_agents}, or None")
            return self.num_groups
        if num_agents < 3:
            raise ValueError(f"num_groups is None with {num_agents} agents; allowed with fewer than 3: 1 or 2")
        return min(self.max_groups, num_agents - 1)


@dataclass(frozen=True)
class GroupSharing(SharingScheme):
    """K sets of weights, and which one each agent has. Parameters are {"group": float32[N, K], one-hot, not trained;
    network -> leaf -> [K, ...]}, so that groups may differ between seeds."""

    num_groups: int = 1

    def init(self, key: jax.Array, networks: Networks) -> Any:
        weights = {
            name: {leaf: per_agent(spec, k, self.num_groups) for leaf, spec, k in keyed_leaves(key_network, network)}
            for name, network, key_network in keyed_networks(key, networks)
        }
        return self.with_groups(weights, jnp.zeros(self.num_agents, jnp.int32))

    def with_groups(self, params: Any, groups: jax.Array) -> Any:
        """Parameters with these groups, int32[N]."""
        return params | {"group": jax.nn.one_hot(groups, self.num_groups)}

    def weights(self, params: Any, networks: Networks) -> dict[str, Weights]:
        group = jnp.argmax(params["group"], axis=1)  # An integer: it has no gradient, so Adam never moves it.
        return {name: jax.tree.map(lambda w: w[group], params[name]) for name in networks}


class Transitions(NamedTuple):
    """What random policies met, [N, M, ...]."""

    obs: jax.Array  # [N, M, O]
    action: jax.Array  # [N, M, A], one-hot if discrete
    next_obs: jax.Array  # [N, M, O]
    reward: jax.Array  # [N, M]


def fit(key: jax.Array, data: Transitions, config: GroupConfig, learning_rate: Any, kl_weight: Any) -> tuple:
    """Fits encoder and decoder. Returns the means of z [N, Z] and the loss of each gradient step [fit_steps].

    Inputs and targets are scaled to mean 0 and deviation 1 over agents and transitions together, rewards to the weight
    of all of an observation, since they alone tell groups apart in many tasks (ours).
    """
    agents, count = data.reward.shape
    targets = jnp.concatenate([_scaled(data.next_obs - data.obs), _scaled(data.reward[..., None])], axis=-1)
    inputs = jnp.concatenate([_scaled(data.obs), data.action], axis=-1)  # [N, M, O + A]
    size, outputs = inputs.shape[-1], targets.shape[-1]
    importance = jnp.full(outputs, 0.5 / max(1, outputs - 1)).at[-1].set(0.5)
    keys = jax.random.split(key, 5)
    hidden = config.fit_hidden_size

    def dense(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
        kernel = jax.random.normal(key, (inputs, outputs)) * (2.0 / inputs) ** 0.5
        return {"kernel": kernel, "bias": jnp.zeros(outputs)}

    layers = ((config.z_size + size, hidden), (hidden, hidden), (hidden, outputs))
    params = {
        # One-hot ids make a linear encoder a table.
        "mean": 0.1 * jax.random.normal(keys[0], (agents, config.z_size)),
        "log_std": jnp.full((agents, config.z_size), -2.0),
        "layers": [dense(k, *sizes) for k, sizes in zip(keys[1:4], layers, strict=True)],
    }

    def loss(params: Any, key: jax.Array) -> jax.Array:
        key_time, key_z = jax.random.split(key)
        chosen = jax.random.randint(key_time, (config.fit_batch,), 0, count)
        noise = jax.random.normal(key_z, (agents, config.fit_batch, config.z_size))
        z = params["mean"][:, None] + jnp.exp(params["log_std"])[:, None] * noise
        x = jnp.concatenate([z, inputs[:, chosen]], axis=-1)
        for i, layer in enumerate(params["layers"]):
            x = x @ layer["kernel"] + layer["bias"]
            x = jax.nn.relu(x) if i < 2 else x
        error = jnp.mean(jnp.square(x - targets[:, chosen]), axis=(0, 1)) @ importance
        variance = jnp.exp(2.0 * params["log_std"])
        divergence = 0.5 * jnp.sum(jnp.square(params["mean"]) + variance - 1.0 - 2.0 * params["log_std"], axis=1)
        return error + kl_weight * jnp.mean(divergence)

    optimizer = optax.adam(learning_rate)

    def step(loop: tuple, key: jax.Array) -> tuple[tuple, jax.Array]:
        params, state = loop
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(keys[4], config.fit_steps)
    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return params["mean"], losses


def find_groups(means: jax.Array, config: GroupConfig) -> tuple[jax.Array, jax.Array]:
    """Groups int32[N] of z's means [N, Z], and how many there are, int32[]."""
    agents = means.shape[0]
    most = config.most(agents)
    if config.num_groups is not None:
        return k_means(means, most)[0], jnp.int32(most)
    tried = [k_means(means, k) for k in range(2, most + 1)]
    index = jnp.stack([davies_bouldin(means, *each) for each in tried])
    best = jnp.argmin(index)
    return jnp.stack([groups for groups, _ in tried])[best], (best + 2).astype(jnp.int32)


def k_means(x: jax.Array, k: int, iterations: int = 20) -> tuple[jax.Array, jax.Array]:
    """Groups int32[N] and centres [K, Z] of points [N, Z], by Lloyd's iteration.

    It starts from each point in turn, with the point furthest from those chosen as the next centre, and keeps the best
    result, so that it needs no random numbers.
    """

    def distances(centres: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(x[:, None] - centres[None]), axis=-1)  # [N, K]

    def run(first: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        centres = jnp.broadcast_to(first, (k, x.shape[1]))
        for j in range(1, k):
            centres = centres.at[j].set(x[jnp.argmax(jnp.min(distances(centres), axis=1))])

        def iterate(_: int, centres: jax.Array) -> jax.Array:
            member = jax.nn.one_hot(jnp.argmin(distances(centres), axis=1), k)  # [N, K]
            size = jnp.sum(member, axis=0)[:, None]
            return jnp.where(size > 0, member.T @ x / jnp.maximum(size, 1.0), centres)

        centres = jax.lax.fori_loop(0, iterations, iterate, centres)
        apart = distances(centres)
        return jnp.argmin(apart, axis=1).astype(jnp.int32), centres, jnp.sum(jnp.min(apart, axis=1))

    groups, centres, spread = jax.vmap(run)(x)
    best = jnp.argmin(spread)
    return groups[best], centres[best]


def davies_bouldin(x: jax.Array, groups: jax.Array, centres: jax.Array) -> jax.Array:
    """Davies and Bouldin's index [] (1979): the mean over groups of the largest (s_i + s_j) / d_ij, where s is the mean
    distance to the centre and d that of centres; low if groups are tight and far apart. Infinite with an empty one."""
    k = centres.shape[0]
    member = jax.nn.one_hot(groups, k)
    size = jnp.sum(member, axis=0)
    own = jnp.sqrt(jnp.sum(jnp.square(x - centres[groups]), axis=-1))
    spread = own @ member / jnp.maximum(size, 1.0)  # [K]
    apart = jnp.sqrt(jnp.sum(jnp.square(centres[:, None] - centres[None]), axis=-1))
    ratio = (spread[:, None] + spread[None]) / jnp.maximum(apart, 1e-12)
    ratio = jnp.where(jnp.eye(k, dtype=bool), 0.0, ratio)
    return jnp.where(jnp.all(size > 0), jnp.mean(jnp.max(ratio, axis=1)), jnp.inf)


def _scaled(x: jax.Array) -> jax.Array:
    """Each entry to mean 0 and deviation 1 over agents and transitions; one that never changes to 0."""
    mean, deviation = jnp.mean(x, axis=(0, 1)), jnp.std(x, axis=(0, 1))
    return (x - mean) / jnp.where(deviation > 1e-6, deviation, jnp.inf)

"""OMIGA: offline learning with one global value that is made of local ones (Wang et al., 2307.11620).

    Q_tot(s, a) = sum_i w_i(s) Q_i(o_i, a_i) + b(s),   V_tot(s) = sum_i w_i(s) V_i(o_i) + b(s),   w_i(s) >= 0

    z_i = w'_i(s) (Q'_i(o_i, a_i) - V_i(o_i)) / alpha
    L_V = mean exp(z_i) + w'_i(s) V_i(o_i) / alpha
    L_Q = mean (r + gamma (1 - terminated) V'_tot(s') - Q_tot(s, a))^2
    L_i = -mean exp(z_i) log pi_i(a_i | o_i)

Primes are slow copies. A policy that maximises the team's return less alpha times its divergence from the dataset's
joint policy is a product of local ones of this form, if the data's is one: what holds the team to the data holds each
agent to it. L_V is least where exp(w_i V_i / alpha) = E exp(w_i Q_i / alpha) over the data's own actions, a soft
maximum of values that never asks about an action that was not taken. r is the agents' mean reward.

Where z_i is above log 100 the exponential in L_V goes on as its tangent, and the weight in L_i is 100. (The authors'
code cuts z_i off at 10, where the exponential has no gradient, and what is left in L_V pushes V_i further down.)

Local networks see no history and are each agent's own, or `critic="as_actor"` the actors' scheme makes them, which with
`fups_id` is the paper's choice. Policies are those of IQL: Gaussians around tanh of a network.

Letters: B batch, L rows, H transitions, T rows of either, S state, N agents, O obs, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covey.learners import gradients
from covey.learners.base import Metrics
from covey.learners.offline.base import (
    Acting,
    Batch,
    OfflineHyperparameters,
    OfflineState,
    as_arrays,
    masked_mean,
    step,
)
from covey.learners.offline.maddpg import CriticConfig
from covey.learners.offline.regression import IQL, LARGEST_WEIGHT
from covey.learners.offline.segments import Segments
from covey.policies.actor_critic import make_scheme
from covey.policies.hypernet import Hypernetwork
from covey.policies.networks import MLP
from covey.policies.sharing import FullSharing, NoSharing, SharingScheme, count_parameters

MIXER_HIDDEN_SIZES = (64,)
"""Units in the hidden layer of the network that weighs local values, as in the authors' code."""
LARGEST_EXPONENT = float(np.log(LARGEST_WEIGHT))
"""Where the exponential becomes its tangent."""


@dataclass(frozen=True)
class OMIGA(Acting):
    """The learner of this module; see `covey.learners.offline.base` for its functions.

    `critic` "per_agent" or "as_actor" is about local values; `critic_input` is what the weights of the sum see.
    `others` and BC's switches do not apply. Raises ValueError for other `critic` or `critic_input`.
    """

    config: CriticConfig = CriticConfig(critic="per_agent")

    def __post_init__(self) -> None:
        if self.config.critic == "team" or self.config.critic_input == "own":
            raise ValueError(
                f"critic, critic_input are {self.config.critic!r}, {self.config.critic_input!r}; allowed with omiga: "
                "'per_agent' or 'as_actor' with 'state' or 'obs'"
            )
        if self.config.critic == "as_actor" and self.policy_config.sharing == "fups_id_only":
            raise ValueError("critic is 'as_actor' with sharing fups_id_only, which sees ids alone; allowed: others")

    def check(self) -> None:
        super().check()
        for name in ("q", "v"):
            count_parameters(self.local_scheme, {"critic": self.local_network(name)})

    # --- Policies ---

    @cached_property
    def policies(self) -> IQL:
        """IQL with the same policies: what they are, and the loss that they follow."""
        return IQL(self.team, self.policy_config, replace(self.config, critic="team"))

    def unroll(self, params: Any, obs: jax.Array, memory: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The policies' means; see `Acting.unroll`."""
        return self.policies.unroll(params, obs, memory)

    def log_prob(self, params: Any, obs: jax.Array, action: jax.Array) -> jax.Array:
        """log pi_i(a_i | o_i) along a segment, [H, N], of actions [H, N, A] scaled to [-1, 1], for obs [H, N, O]."""
        return self.policies.log_prob(params, obs, action)

    # --- Values ---

    @cached_property
    def local_scheme(self) -> SharingScheme:
        """Who shares local values."""
        if self.config.critic == "per_agent":
            return NoSharing(self.team.num_agents)
        scheme = make_scheme(self.policy_config, self.team.num_agents)
        return replace(scheme, generate=("critic",)) if isinstance(scheme, Hypernetwork) else scheme

    def local_network(self, name: str) -> MLP:
        """Q_i ("q") of an observation and an action, or V_i ("v") of an observation."""
        size = self.team.obs_size + (self.team.action_size if name == "q" else 0)
        inputs, hidden = self.local_scheme.input_size(size), self.config.critic_hidden_sizes
        return MLP(inputs, 1, hidden, self.policy_config.activation, layer_norm=self.policy_config.layer_norm)

    @cached_property
    def mixer(self) -> MLP:
        """The weights and the offset of a sum of local values, before the weights are made positive."""
        return MLP(self.policies.seen_size, self.team.num_agents + 1, MIXER_HIDDEN_SIZES, self.policy_config.activation)

    def init(self, key: jax.Array, hp: OfflineHyperparameters) -> OfflineState:
        key_actor, key_q, key_v, key_mix, key_learn = jax.random.split(key, 5)
        scheme = self.local_scheme
        params = {
            "actor": self.policies.init_policies(key_actor),
            "critic": {
                "local": scheme.init(key_q, {"critic": self.local_network("q")}),
                "mixer": FullSharing(1).init(key_mix, {"mixer": self.mixer}),
            },
            "value": scheme.init(key_v, {"critic": self.local_network("v")}),
        }
        learned = {**params["actor"], "critic": params["critic"], "value": params["value"]}
        optimizer = {name: gradients.adam(hp).init(own) for name, own in learned.items()}
        return OfflineState(params, jax.tree.map(jnp.copy, params), optimizer, as_arrays(hp), key_learn)

    def local(self, name: str, params: Any, *inputs: jax.Array) -> jax.Array:
        """Local values [T, N, B]: "q" of obs [T, N, B, O] and actions [T, N, B, A], "v" of obs."""
        network, scheme = self.local_network(name), self.local_scheme
        x = jnp.concatenate(inputs, axis=-1)
        time, agents, batch, _ = x.shape
        weights = scheme.weights(params, {"critic": network})["critic"]
        memory, reset = network.start(agents, batch), jnp.zeros((time, 1, batch), jnp.bool_)
        return scheme.unroll(network, weights, scheme.identify(x), memory, reset)[0][..., 0]

    def mix(self, params: Any, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Weights [T, N, B], at least 0, and offsets [T, B] of the sum, for states or all observations [T, B, ...]."""
        weights = FullSharing(1).weights(params, {})["mixer"]
        nothing = jnp.zeros((1, 1), jnp.float32)
        outputs = self.mixer.unroll(weights, seen[:, None], nothing, nothing)[0][:, 0]
        return jnp.moveaxis(jnp.abs(outputs[..., :-1]), -1, 1), outputs[..., -1]

    # --- Learning ---

    def learn(self, carry: OfflineState, segments: Segments) -> tuple[OfflineState, Metrics]:
        """One step of values, critics, policies and targets, on segments [B, L, ...]."""
        hp, agents = carry.hp, self.team.num_agents
        params, optimizer = dict(carry.params), dict(carry.optimizer)
        batch = self.batch(segments)
        goal = self.target_value(carry.target, batch, hp)
        weight, q = self.weighted_q(carry.target, batch, hp)
        value = self.local("v", params["value"], batch.obs[:-1])
        regression = jax.lax.stop_gradient(jnp.exp(jnp.minimum(weight * (q - value), LARGEST_EXPONENT)))

        grads, metrics = jax.grad(self.value_loss, has_aux=True)(params["value"], weight, q, batch, hp)
        separate = self.local_scheme.separate({"critic": self.local_network("v")})
        params["value"], optimizer["value"], value_norm = step(
            params["value"], grads, optimizer["value"], hp.critic_learning_rate, hp, separate, agents
        )
        # All agents' Q have one error, so that they are clipped as one.
        grads, critic_metrics = jax.grad(self.critic_loss, has_aux=True)(params["critic"], goal, batch)
        params["critic"], optimizer["critic"], critic_norm = step(
            params["critic"], grads, optimizer["critic"], hp.critic_learning_rate, hp, False, agents
        )
        params["actor"], improved, actor_metrics = self.policies.improve(
            params["actor"], optimizer, jnp.swapaxes(regression, 0, 1), batch, hp
        )
        target = jax.tree.map(lambda t, p: t + hp.target_rate * (p - t), carry.target, params)
        metrics |= critic_metrics | actor_metrics
        metrics |= {"value_grad_norm": value_norm, "critic_grad_norm": critic_norm}
        return replace(carry, params=params, target=target, optimizer=optimizer | improved), metrics

    def target_value(self, target: Any, batch: Batch, hp: OfflineHyperparameters) -> jax.Array:
        """r + gamma (1 - terminated) V'_tot(s'), [H, B]."""
        weights, offset = self.mix(target["critic"]["mixer"], self.policies.seen(batch)[1:])
        total = jnp.sum(weights * self.local("v", target["value"], batch.obs[1:]), axis=1) + offset
        reward = jnp.mean(batch.reward, axis=1)
        return jax.lax.stop_gradient(reward + jnp.where(batch.terminated, 0.0, hp.discount * total))

    def weighted_q(self, target: Any, batch: Batch, hp: OfflineHyperparameters) -> tuple[jax.Array, jax.Array]:
        """w'_i / alpha and Q'_i of what was done, [H, N, B] each: z_i is the first times (the second - V_i)."""
        weights, _ = self.mix(target["critic"]["mixer"], self.policies.seen(batch)[:-1])
        q = self.local("q", target["critic"]["local"], batch.obs[:-1], batch.action)
        return jax.lax.stop_gradient((weights / hp.omiga_alpha, q))

    def value_loss(
        self, params: Any, weight: jax.Array, q: jax.Array, batch: Batch, hp: OfflineHyperparameters
    ) -> tuple[jax.Array, Metrics]:
        """The mean over agents of L_V, and what to watch; weight and q as from `weighted_q`."""
        value = self.local("v", params, batch.obs[:-1])
        z = weight * (q - value)
        above = jnp.maximum(z - LARGEST_EXPONENT, 0.0)
        each = jnp.exp(jnp.minimum(z, LARGEST_EXPONENT)) + LARGEST_WEIGHT * above + weight * value
        each, value, z = (masked_mean(jnp.swapaxes(x, 0, 1), batch.mask) for x in (each, value, z))  # [N]
        loss = jnp.mean(each)
        mixed = masked_mean(jnp.swapaxes(weight, 0, 1), batch.mask) * hp.omiga_alpha
        return loss, {"value_loss": loss, "value": value, "exponent": z, "mixing": mixed}

    def critic_loss(self, params: Any, goal: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """mean (Q_tot - goal)^2, and what to watch."""
        weights, offset = self.mix(params["mixer"], self.policies.seen(batch)[:-1])
        q = jnp.sum(weights * self.local("q", params["local"], batch.obs[:-1], batch.action), axis=1) + offset
        loss = masked_mean(jnp.square(q - goal), batch.mask)
        return loss, {"critic_loss": loss, "q": masked_mean(q, batch.mask)}

"""Offline learners whose policies only ever regress on actions that they were given: BC and implicit Q-learning.

BC:   L_i = mean (a_i - pi_i(o_i))^2

IQL, for a team (Kostrikov et al., 2110.06169, with one value of the state and the joint action, in the manner of the
centralised critics of MADDPG; the paper is about one agent):

    L_V = mean |tau - 1[u < 0]| u^2,   u = min_k Q'_k(s, a) - V(s)
    L_Q = sum_k mean (r + gamma (1 - terminated) V(s') - Q_k(s, a))^2
    L_i = -mean min(exp(beta u), 100) log pi_i(a_i | o_i)

Actions that were not taken are never asked about. A policy is a Gaussian around tanh of its network, cut to the bounds
when it acts, with one learned deviation per action; greedily it is its mean. r is the agents' mean reward.

Letters: B batch, L rows, H transitions, S state, N agents, O obs, A actions.
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
from covey.learners.matd3 import TwinCritic
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
from covey.learners.offline.segments import Segments
from covey.policies.networks import MLP
from covey.policies.sharing import FullSharing

LARGEST_WEIGHT = 100.0
"""Of an action in IQL's regression."""
LOG_STD = (-5.0, 2.0)
"""Smallest and largest logarithm of a deviation."""


@dataclass(frozen=True)
class BC(Acting):
    """Behaviour cloning: every policy imitates its agent's actions."""

    config: CriticConfig = CriticConfig()
    """Only `bc_on` is read."""

    def init(self, key: jax.Array, hp: OfflineHyperparameters) -> OfflineState:
        key_actor, key_learn = jax.random.split(key)
        params = {"actor": self.actor.init(key_actor)}
        optimizer = {"actor": gradients.adam(hp).init(params["actor"])}
        return OfflineState(params, jax.tree.map(jnp.copy, params), optimizer, as_arrays(hp), key_learn)

    def learn(self, carry: OfflineState, segments: Segments) -> tuple[OfflineState, Metrics]:
        """One step of the policies, on segments [B, L, ...]."""
        hp = carry.hp
        (loss, each), grads = jax.value_and_grad(self.loss, has_aux=True)(carry.params["actor"], self.batch(segments))
        actor, optimizer, norm = step(
            carry.params["actor"], grads, carry.optimizer["actor"], hp.learning_rate, hp, self.actor.separate,
            self.team.num_agents,
        )  # fmt: skip
        params = {"actor": actor}
        target = jax.tree.map(lambda t, p: t + hp.target_rate * (p - t), carry.target, params)
        carry = replace(carry, params=params, target=target, optimizer={"actor": optimizer})
        return carry, {"actor_loss": loss, "bc_loss": each, "actor_grad_norm": norm}

    def loss(self, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The mean over agents of L_i, and each L_i [N]."""
        own = self.unroll(params, batch.obs)[0][:-1]
        gap = jnp.swapaxes(self.per_action(jnp.square(own - batch.action)), 0, 1)  # [N, H, B]
        each = masked_mean(gap, batch.mask & (batch.real | (self.config.bc_on == "all")))
        return jnp.mean(each), each


@dataclass(frozen=True)
class IQL(Acting):
    """Implicit Q-learning for a team. `critic_input` "own", `critic`, `others` and BC's switches do not apply."""

    config: CriticConfig = CriticConfig()

    def __post_init__(self) -> None:
        if self.config.critic != "team" or self.config.critic_input == "own":
            raise ValueError(
                f"critic, critic_input are {self.config.critic!r}, {self.config.critic_input!r}; allowed with iql: "
                "'team' with 'state' or 'obs'"
            )

    @cached_property
    def seen_size(self) -> int:
        """How many numbers critics and values see besides actions."""
        return self.team.state_size if self.config.critic_input == "state" else int(self.team.own_obs.sum())

    @cached_property
    def critic(self) -> TwinCritic:
        """The critics' networks."""
        size = self.seen_size + int(self.team.own_actions.sum())
        return TwinCritic("team", self.policy_config, self.team.num_agents, size, self.config.critic_hidden_sizes)

    @cached_property
    def value_network(self) -> MLP:
        """The value of a state."""
        policy = self.policy_config
        return MLP(self.seen_size, 1, self.config.critic_hidden_sizes, policy.activation, layer_norm=policy.layer_norm)

    def init(self, key: jax.Array, hp: OfflineHyperparameters) -> OfflineState:
        key_actor, key_critic, key_value, key_learn = jax.random.split(key, 4)
        params = {
            "actor": self.init_policies(key_actor),
            "critic": self.critic.init(key_critic),
            "value": FullSharing(1).init(key_value, {"value": self.value_network}),
        }
        target = {"actor": params["actor"], "critic": params["critic"]}
        learned = {**params["actor"], "critic": params["critic"], "value": params["value"]}
        optimizer = {name: gradients.adam(hp).init(own) for name, own in learned.items()}
        return OfflineState(params, jax.tree.map(jnp.copy, target), optimizer, as_arrays(hp), key_learn)

    def init_policies(self, key: jax.Array) -> dict[str, Any]:
        """Parameters of the policies: their means' networks, and a log deviation for each action."""
        return {
            "network": self.actor.init(key),
            "log_std": jnp.zeros(self.team.own_actions.shape, jnp.float32),
        }

    def unroll(self, params: Any, obs: jax.Array, memory: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The policies' means; see `Acting.unroll`."""
        return super().unroll(params["network"], obs, memory)

    def log_prob(self, params: Any, obs: jax.Array, action: jax.Array) -> jax.Array:
        """log pi_i(a_i | o_i) along a segment, [H, N], of actions [H, N, A] scaled to [-1, 1], for obs [H, N, O]."""
        mean, _ = self.unroll(params["actor"], obs[:, :, None])
        return self._log_prob(params["actor"], mean, action[:, :, None])[..., 0]

    def _log_prob(self, params: Any, mean: jax.Array, action: jax.Array) -> jax.Array:
        """Log densities [H, N, B] of actions [H, N, B, A]; padding counts nothing."""
        log_std = jnp.clip(params["log_std"], *LOG_STD)[:, None]
        each = -0.5 * jnp.square((action - mean) * jnp.exp(-log_std)) - log_std - 0.5 * np.log(2 * np.pi)
        return jnp.sum(jnp.where(self.team.own_actions[:, None], each, 0.0), axis=-1)

    def learn(self, carry: OfflineState, segments: Segments) -> tuple[OfflineState, Metrics]:
        """One step of value, critics, policies and targets, on segments [B, L, ...]."""
        hp, agents, params = carry.hp, self.team.num_agents, dict(carry.params)
        optimizer = dict(carry.optimizer)
        batch = self.batch(segments)
        seen = self.seen(batch)  # [L, B, ...]
        taken = jnp.concatenate([seen[:-1], self.team.joint_action(jnp.swapaxes(batch.action, 1, 2))], axis=-1)
        q = jnp.min(self.q(carry.target["critic"], taken), axis=0)  # [H, B]

        grads, value_metrics = jax.grad(self.value_loss, has_aux=True)(params["value"], q, seen, batch, hp)
        params["value"], optimizer["value"], _ = step(
            params["value"], grads, optimizer["value"], hp.critic_learning_rate, hp, False, agents
        )
        value = self.value(params["value"], seen)  # [L, B]
        reward = jnp.mean(batch.reward, axis=1)
        goal = jax.lax.stop_gradient(reward + jnp.where(batch.terminated, 0.0, hp.discount * value[1:]))
        grads, critic_metrics = jax.grad(self.critic_loss, has_aux=True)(params["critic"], goal, taken, batch)
        params["critic"], optimizer["critic"], critic_norm = step(
            params["critic"], grads, optimizer["critic"], hp.critic_learning_rate, hp, self.critic.separate, agents, 1
        )
        weight = jax.lax.stop_gradient(jnp.minimum(jnp.exp(hp.temperature * (q - value[:-1])), LARGEST_WEIGHT))
        params["actor"], improved, metrics = self.improve(params["actor"], optimizer, weight, batch, hp)
        target = jax.tree.map(
            lambda t, p: t + hp.target_rate * (p - t), carry.target, {k: params[k] for k in carry.target}
        )
        metrics |= value_metrics | critic_metrics | {"critic_grad_norm": critic_norm}
        return replace(carry, params=params, target=target, optimizer=optimizer | improved), metrics

    def seen(self, batch: Batch) -> jax.Array:
        """What critics and values see besides actions, [L, B, ...]."""
        if self.config.critic_input == "state":
            return batch.state
        return self.team.joint_obs(jnp.swapaxes(batch.obs, 1, 2))

    def improve(
        self, params: Any, optimizer: Any, weight: jax.Array, batch: Batch, hp: OfflineHyperparameters
    ) -> tuple[dict[str, Any], dict[str, Any], Metrics]:
        """One step of the policies: their parameters, Adam's states of these, and what to watch. weight: of
        `actor_loss`."""
        agents = self.team.num_agents
        grads, metrics = jax.grad(self.actor_loss, has_aux=True)(params, weight, batch)
        network, network_adam, norm = step(
            params["network"], grads["network"], optimizer["network"], hp.learning_rate, hp, self.actor.separate, agents
        )
        log_std, log_std_adam, _ = step(
            params["log_std"], grads["log_std"], optimizer["log_std"], hp.learning_rate, hp, False, agents
        )
        improved = {"network": network_adam, "log_std": log_std_adam}
        return {"network": network, "log_std": log_std}, improved, metrics | {"actor_grad_norm": norm}

    def value(self, params: Any, seen: jax.Array) -> jax.Array:
        """V(s), [T, B], for what the critics see, [T, B, ...]."""
        weights = FullSharing(1).weights(params, {})["value"]
        nothing = jnp.zeros((1, 1), jnp.float32)
        outputs, _ = self.value_network.unroll(weights, seen[:, None], nothing, nothing)
        return outputs[:, 0, :, 0]

    def q(self, params: Any, taken: jax.Array) -> jax.Array:
        """Both critics' values [2, H, B] of what they see with joint actions, [H, B, ...]."""
        values = self.critic.values(params, taken.reshape(1, -1, taken.shape[-1]))
        return values.reshape(2, *taken.shape[:2])

    def value_loss(
        self, params: Any, q: jax.Array, seen: jax.Array, batch: Batch, hp: OfflineHyperparameters
    ) -> tuple[jax.Array, Metrics]:
        """The expectile regression of V on Q', and what to watch."""
        value = self.value(params, seen[:-1])
        error = q - value
        loss = masked_mean(jnp.where(error > 0, hp.expectile, 1 - hp.expectile) * jnp.square(error), batch.mask)
        return loss, {"value_loss": loss, "value": masked_mean(value, batch.mask)}

    def critic_loss(self, params: Any, goal: jax.Array, taken: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """sum_k mean (Q_k - goal)^2, and what to watch."""
        values = self.q(params, taken)
        loss = jnp.sum(masked_mean(jnp.square(values - goal), batch.mask))
        return loss, {"critic_loss": loss, "q": jnp.mean(masked_mean(values, batch.mask))}

    def actor_loss(self, params: Any, weight: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """The mean over agents of L_i, and what to watch; weight [H, B], or one for each
        agent, [N, H, B]."""
        mean = self.unroll(params, batch.obs)[0][:-1]
        each = masked_mean(-weight * jnp.swapaxes(self._log_prob(params, mean, batch.action), 0, 1), batch.mask)
        gap = jnp.swapaxes(self.per_action(jnp.abs(mean - batch.action)), 0, 1)
        return jnp.mean(each), {
            "actor_loss": jnp.mean(each),
            "weight": masked_mean(weight, batch.mask),
            "distance": masked_mean(gap, batch.mask),
        }

"""HAPPO: agents take their PPO steps one after the other, each told what those before it changed.

For agents i_1, ..., i_N in an order drawn anew in every update, with the joint advantage A(s, a) of the team:

    M_1 = A,   M_{m+1} = M_m  pi_new^{i_m}(a^{i_m} | o^{i_m}) / pi_old^{i_m}(a^{i_m} | o^{i_m})
    L_{i_m} = -E[min(rho M_m, clip(rho, 1 - eps, 1 + eps) M_m)] - c_e H,   rho = pi^{i_m} / pi_old^{i_m}
    L_V     = as in PPO, by one critic V(s) that sees the global state

Kuba et al., Trust Region Policy Optimisation in Multi-Agent Reinforcement Learning (2109.11251), section 4 and
algorithm 4; Zhong et al., Heterogeneous-Agent Reinforcement Learning (2304.09870). Ratios are positive, so M is the
normalised advantage times the product of ratios, before or after clipping alike.

Every agent has its own network, gradient clipping and Adam; the critic has its own, too. An agent's epochs are over
before the next one's begin, all on the same minibatches. The loop over agents is a scan over a permutation: one
compiled body, however many agents there are. The team's reward is the mean of its agents' rewards, which is each
agent's own where they are all the same.

With one agent this is MAPPO, but that gradients of actor and critic are clipped apart.

Letters: as in `covey.learners.ppo`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from covey.learners import gradients
from covey.learners.base import Metrics
from covey.learners.ppo import PPO, Batch, PPOCarry, PPOHyperparameters, Step
from covey.policies.actor_critic import PolicyConfig


@dataclass(frozen=True)
class HAPPO(PPO):
    """One seed's HAPPO; as `covey.learners.ppo.PPO`, with its settings and hyper-parameters."""

    policy_config: PolicyConfig = field(default_factory=lambda: PolicyConfig(sharing="nops_actors"))
    centralised_critic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy_config.sharing != "nops_actors":
            raise ValueError(
                f"sharing is {self.policy_config.sharing!r}; allowed with HAPPO: nops_actors, agents that learn in turn"
            )
        if not self.centralised_critic:
            raise ValueError("centralised_critic is False; allowed with HAPPO: True, as advantages are the team's")

    def _init_optimizer(self, params: Any, hp: PPOHyperparameters) -> Any:
        actors, critic = _split(params)
        adam = gradients.adam(hp)
        return {"actors": jax.vmap(adam.init)(actors), "critic": adam.init(critic)}

    def _learnt_from(self, rollout: Step) -> jax.Array:
        reward = super()._learnt_from(rollout)
        return jnp.broadcast_to(jnp.mean(reward, axis=1, keepdims=True), reward.shape)

    def agent_order(self, key: jax.Array) -> jax.Array:
        """Who is updated first, second, ...: int32[N]."""
        return jax.random.permutation(key, self.env.num_agents)

    def _optimise(self, carry: PPOCarry, batch: Batch, key: jax.Array) -> tuple[Any, Any, Metrics]:
        """All agents' epochs over one rollout, one agent after the other, and the critic's."""
        agents = self.agent_order(jax.random.fold_in(key, self.config.update_epochs))  # No number of a split key.
        batch, order = self._minibatches(batch, key)
        actors, critic = _split(carry.params)
        learning_rate, critic_learning_rate = self._learning_rates(carry)
        loop = (actors, carry.optimizer["actors"], jnp.ones_like(batch.advantage[:, :1]))

        def one_agent(loop: tuple, agent: jax.Array) -> tuple[tuple, Metrics]:
            actors, optimizers, factor = loop
            own, optimizer = jax.tree.map(lambda x: x[agent], (actors, optimizers))
            part = _agents_part(batch, agent, self.env.num_agents)._replace(factor=factor)
            own, optimizer, metrics = self._train_actor(own, optimizer, part, order, carry.hp, learning_rate)
            factor = factor * jnp.exp(self.log_ratio(_as_weights(own), part)[1])
            actors, optimizers = jax.tree.map(
                lambda every, new: every.at[agent].set(new), (actors, optimizers), (own, optimizer)
            )
            return (actors, optimizers, factor), metrics

        (actors, optimizers, factor), metrics = jax.lax.scan(one_agent, loop, agents)
        critic, critic_optimizer, critic_metrics = self._train_critic(
            critic, carry.optimizer["critic"], batch, order, carry.hp, critic_learning_rate
        )
        metrics = {name: jnp.mean(value) for name, value in (metrics | critic_metrics).items()}
        metrics["loss"] = metrics["actor_loss"] + carry.hp.value_coefficient * metrics["value_loss"]
        metrics["compound_ratio_change"] = jnp.mean(jnp.abs(factor - 1.0))  # Of all agents: the joint policy's change.
        return actors | critic, {"actors": optimizers, "critic": critic_optimizer}, metrics

    def _train_actor(
        self, own: Any, optimizer: Any, part: Batch, order: jax.Array, hp: PPOHyperparameters, learning_rate: Any
    ) -> tuple[Any, Any, Metrics]:
        """One agent's epochs: its parameters without agent axis, its Adam, and metrics [steps]."""

        def loss(own: Any, minibatch: Batch) -> tuple[jax.Array, Metrics]:
            policy_loss, metrics = self.policy_loss(_as_weights(own), minibatch, hp)
            total = policy_loss - hp.entropy_coefficient * metrics["entropy"]
            return total, metrics | {"actor_loss": total}

        def step(loop: tuple, index: jax.Array) -> tuple[tuple, Metrics]:
            minibatch = jax.tree.map(lambda x: x[:, :, index], part)
            (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(loop[0], minibatch)
            loop, norm = _adam_step(loop, grads, hp, learning_rate)
            return loop, metrics | {"grad_norm": norm}

        (own, optimizer), metrics = jax.lax.scan(step, (own, optimizer), order)
        return own, optimizer, metrics

    def _train_critic(
        self, critic: Any, optimizer: Any, batch: Batch, order: jax.Array, hp: PPOHyperparameters, learning_rate: Any
    ) -> tuple[Any, Any, Metrics]:
        """The critic's epochs, likewise."""

        def loss(critic: Any, minibatch: Batch) -> tuple[jax.Array, Metrics]:
            value_loss = self.value_loss(_as_weights(critic), minibatch, hp)
            return hp.value_coefficient * value_loss, {"value_loss": value_loss}

        def step(loop: tuple, index: jax.Array) -> tuple[tuple, Metrics]:
            minibatch = jax.tree.map(lambda x: x[:, :, index], batch)
            (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(loop[0], minibatch)
            loop, norm = _adam_step(loop, grads, hp, learning_rate)
            return loop, metrics | {"critic_grad_norm": norm}

        (critic, optimizer), metrics = jax.lax.scan(step, (critic, optimizer), order)
        return critic, optimizer, metrics


def _split(params: Any) -> tuple[Any, Any]:
    """What agents have each, and what they share."""
    return {name: own for name, own in params.items() if name != "critic"}, {"critic": params["critic"]}


def _as_weights(params: Any) -> Any:
    """Parameters of one network as weights with an agent axis, of 1."""
    return jax.tree.map(lambda x: x[None], params)


def _agents_part(batch: Batch, agent: jax.Array, num_agents: int) -> Batch:
    """The rollout of one agent: axis 1 of everything that has one row per agent."""
    return jax.tree.map(lambda x: x[:, agent][:, None] if x.shape[1] == num_agents else x, batch)


def _adam_step(loop: tuple, grads: Any, hp: PPOHyperparameters, learning_rate: Any) -> tuple[tuple, jax.Array]:
    """Clip, then one step of Adam, on `(params, optimizer)`; and the norm before clipping."""
    params, optimizer = loop
    grads, norm = gradients.clip(grads, hp.max_grad_norm, separate=False, num_agents=1)
    updates, optimizer = gradients.adam(hp).update(grads, optimizer)
    return (jax.tree.map(lambda p, u: p - learning_rate * u, params, updates), optimizer), norm

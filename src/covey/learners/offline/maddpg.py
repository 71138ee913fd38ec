"""Offline multi-agent actor-critics: MADDPG, MADDPG+BC, MADDPG+CQL and independent TD3+BC, one learner.

    a'  = clip(pi'_i(o'_i) + clip(eps, -c, c), -1, 1) for every agent i,   eps ~ N(0, sigma'^2)
    y   = r + gamma (1 - terminated) min_k Q'_k(s', a'),   L_critic = sum_k mean (Q_k(s, a) - y)^2
    L_i = -mean min_k Q_k(s, a_1, ..., pi_i(o_i), ..., a_N)

The others' actions a_j are the dataset's: an agent improves on what the others did, not on what they do now. That is
"best response under data" (BRUD), grad_i = E[grad pi_i(o_i) grad_{a_i} Q(s, pi_i(o_i), a_-i)] (CODA, 2604.23308, eq. 7,
after Tilbury et al., 2407.01343). `others="policy"` makes the joint action on-policy instead, where it is easily out of
the dataset's reach.

    maddpg_bc   L_i = mean (a_i - pi_i(o_i))^2 - alpha / mean |Q| mean Q      (Fujimoto & Gu, 2106.06860, per agent)
    maddpg_cql  L_critic += w (mean log sum_a exp Q_k(s, a) - mean Q_k(s, a_data)), the sum over uniformly random joint
                actions and over those of the policies with noise            (Kumar et al., 2006.04779, as OG-MARL does)
    td3_bc      maddpg_bc where a critic sees its own agent's observation and action alone

The factor alpha / mean |Q| is a constant here. Where it is not (`detach_q_norm=False`), values of one sign make
mean Q / mean |Q| a constant instead: no gradient is left but that of imitation. OG-MARL's own code is so.

Policies with memory are unrolled along segments from an empty one. Twin critics see no history. One step of policies
and targets comes with each step of the critics, on the same batch.

Letters: B batch, L rows, H transitions, S state, N agents, O obs, A actions, R rows of values: N, or 1 for a team.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from covey.learners import gradients
from covey.learners.base import Metrics
from covey.learners.matd3 import CriticName, TwinCritic
from covey.learners.offline.base import (
    Acting,
    Batch,
    OfflineHyperparameters,
    OfflineState,
    as_arrays,
    masked_mean,
    step,
)
from covey.learners.offline.segments import Segments

Regulariser = Literal["none", "bc", "cql"]
CriticInput = Literal["state", "obs", "own"]
Others = Literal["data", "policy"]
BcOn = Literal["real", "all"]


@dataclass(frozen=True)
class CriticConfig:
    """Offline critics, and the policies' losses that they make."""

    critic: CriticName = "team"
    """Who shares critics: `team` one pair for the agents' mean reward; `per_agent` a pair each; `as_actor` a pair from
    the scheme that makes the actors (hypernetworks then generate it)."""
    critic_input: CriticInput = "state"
    """What critics see: the state and the joint action; all observations and the joint action; or their own agent's
    observation and action (independent learners)."""
    critic_hidden_sizes: tuple[int, ...] = (128, 128)
    """Units in each hidden layer of the critics."""
    others: Others = "data"
    """The other agents' actions in an agent's loss: the dataset's (BRUD), or those that their policies take now."""
    detach_q_norm: bool = True
    """maddpg_bc, td3_bc: hold alpha / mean |Q| constant in the gradient. False as in OG-MARL's code, see above."""
    bc_on: BcOn = "all"
    """maddpg_bc, td3_bc, bc: imitate the actions of all segments, or only those of the dataset's own."""
    cql_samples: int = 10
    """maddpg_cql: random joint actions per state, and as many of the policies'."""

    def __post_init__(self) -> None:
        kinds = {"critic": CriticName, "critic_input": CriticInput, "others": Others, "bc_on": BcOn}
        for name, kind in kinds.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(get_args(kind))}")
        if self.cql_samples < 1:
            raise ValueError(f"cql_samples is {self.cql_samples}; allowed: an integer of at least 1")
        if any(size < 1 for size in self.critic_hidden_sizes):
            raise ValueError(f"critic_hidden_sizes is {self.critic_hidden_sizes}; allowed: integers of at least 1")
        if self.critic == "team" and self.critic_input == "own":
            raise ValueError("critic_input is 'own' with critic 'team'; allowed: state, obs")


@dataclass(frozen=True)
class MADDPG(Acting):
    """The learner of this module; see `covey.learners.offline.base` for its functions."""

    config: CriticConfig = CriticConfig()
    regulariser: Regulariser = "none"

    def __post_init__(self) -> None:
        if self.regulariser not in get_args(Regulariser):
            raise ValueError(f"regulariser is {self.regulariser!r}; allowed: {', '.join(get_args(Regulariser))}")
        if self.config.critic == "as_actor" and self.policy_config.sharing == "fups_id_only":
            raise ValueError("critic is 'as_actor' with sharing fups_id_only, which sees ids alone; allowed: others")

    def check(self) -> None:
        super().check()
        self.critic.count_parameters()

    @cached_property
    def critic(self) -> TwinCritic:
        """The critics' networks."""
        team, kind = self.team, self.config.critic_input
        sizes = {
            "state": team.state_size + int(team.own_actions.sum()),
            "obs": int(team.own_obs.sum() + team.own_actions.sum()),
            "own": team.obs_size + team.action_size,
        }
        hidden = self.config.critic_hidden_sizes
        return TwinCritic(self.config.critic, self.policy_config, team.num_agents, sizes[kind], hidden)

    def init(self, key: jax.Array, hp: OfflineHyperparameters) -> OfflineState:
        key_actor, key_critic, key_learn = jax.random.split(key, 3)
        params = {"actor": self.actor.init(key_actor), "critic": self.critic.init(key_critic)}
        target = jax.tree.map(jnp.copy, params)  # Its own arrays: the carry is donated.
        optimizer = {name: gradients.adam(hp).init(own) for name, own in params.items()}
        return OfflineState(params, target, optimizer, as_arrays(hp), key_learn)

    def learn(self, carry: OfflineState, segments: Segments) -> tuple[OfflineState, Metrics]:
        """One step of critics, policies and targets, on segments [B, L, ...]."""
        hp, agents = carry.hp, self.team.num_agents
        key, key_target, key_penalty = jax.random.split(carry.key, 3)
        batch = self.batch(segments)
        params, optimizer = dict(carry.params), dict(carry.optimizer)

        goal = self.target_value(carry.target, batch, key_target, hp)
        critic_grad = jax.grad(self.critic_loss, has_aux=True)
        grads, critic_metrics = critic_grad(params["critic"], params["actor"], goal, batch, key_penalty, hp)
        params["critic"], optimizer["critic"], critic_norm = step(
            params["critic"], grads, optimizer["critic"], hp.critic_learning_rate, hp, self.critic.separate, agents, 1
        )
        grads, metrics = jax.grad(self.actor_loss, has_aux=True)(params["actor"], params["critic"], batch, hp)
        params["actor"], optimizer["actor"], norm = step(
            params["actor"], grads, optimizer["actor"], hp.learning_rate, hp, self.actor.separate, agents
        )
        target = jax.tree.map(lambda t, p: t + hp.target_rate * (p - t), carry.target, params)
        metrics = critic_metrics | metrics | {"critic_grad_norm": critic_norm, "actor_grad_norm": norm}
        return replace(carry, params=params, target=target, optimizer=optimizer, key=key), metrics

    def target_value(self, target: Any, batch: Batch, key: jax.Array, hp: OfflineHyperparameters) -> jax.Array:
        """y = r + gamma (1 - terminated) min_k Q'_k(s', a'), [R, H, B], with smoothed actions a'."""
        action = self.unroll(target["actor"], batch.obs)[0][1:]
        noise = hp.target_noise * jax.random.normal(key, action.shape)
        noise = jnp.clip(noise, -hp.target_noise_clip, hp.target_noise_clip)
        action = jnp.where(self.team.own_actions[:, None], jnp.clip(action + noise, -1.0, 1.0), 0.0)
        value = jnp.min(self.values(target["critic"], batch.obs[1:], batch.state[1:], action[None]), axis=0)
        reward = jnp.swapaxes(batch.reward, 0, 1)  # [N, H, B]
        if self.config.critic == "team":
            reward = jnp.mean(reward, axis=0, keepdims=True)
        return jax.lax.stop_gradient(reward + jnp.where(batch.terminated, 0.0, hp.discount * value))

    def critic_loss(
        self, params: Any, actor: Any, goal: jax.Array, batch: Batch, key: jax.Array, hp: OfflineHyperparameters
    ) -> tuple[jax.Array, Metrics]:
        """sum_k mean (Q_k(s, a) - y)^2, with CQL's penalty where it is asked for, and what to watch."""
        values = self.values(params, batch.obs[:-1], batch.state[:-1], batch.action[None])  # [2, R, H, B]
        error = values - goal
        total = jnp.sum(jnp.mean(masked_mean(jnp.square(error), batch.mask), axis=1))
        metrics = {
            "critic_loss": total,
            "q": jnp.mean(masked_mean(values, batch.mask), axis=0),
            "td_error": jnp.mean(masked_mean(jnp.abs(error), batch.mask), axis=0),
        }
        if self.regulariser == "cql":
            gap = jnp.mean(masked_mean(self._log_sum_exp(params, actor, batch, key, hp) - values, batch.mask), axis=1)
            total = total + hp.cql_weight * jnp.sum(gap)
            metrics["cql_gap"] = jnp.mean(gap)
        return total, metrics

    def _log_sum_exp(
        self, params: Any, actor: Any, batch: Batch, key: jax.Array, hp: OfflineHyperparameters
    ) -> jax.Array:
        """log sum exp Q_k over random joint actions and over the policies' with noise, [2, R, H, B]."""
        key_uniform, key_noise = jax.random.split(key)
        own, shape = self.team.own_actions[:, None], (self.config.cql_samples, *batch.action.shape)
        uniform = jax.random.uniform(key_uniform, shape, minval=-1.0, maxval=1.0)
        policy = jax.lax.stop_gradient(self.unroll(actor, batch.obs)[0][:-1])
        policy = jnp.clip(policy + hp.cql_noise * jax.random.normal(key_noise, shape), -1.0, 1.0)
        actions = jnp.where(own, jnp.concatenate([uniform, policy]), 0.0)  # [2K, H, N, B, A]

        def value(action: jax.Array) -> jax.Array:
            return self.values(params, batch.obs[:-1], batch.state[:-1], action[None])

        return jax.nn.logsumexp(jax.vmap(value)(actions), axis=0)

    def actor_loss(
        self, params: Any, critic: Any, batch: Batch, hp: OfflineHyperparameters
    ) -> tuple[jax.Array, Metrics]:
        """The mean over agents of L_i, where critics hold still, and what to watch."""
        agents = self.team.num_agents
        own = self.unroll(params, batch.obs)[0][:-1]  # [H, N, B, A]
        others = batch.action if self.config.others == "data" else jax.lax.stop_gradient(own)
        mine = jnp.eye(agents, dtype=bool)[:, None, :, None, None]
        actions = jnp.where(mine, own[None], others[None])  # [N, H, N, B, A]: row i has agent i's own action anew.
        q = jnp.min(self.values(critic, batch.obs[:-1], batch.state[:-1], actions), axis=0)  # [N, H, B]
        q_mean, q_size = masked_mean(q, batch.mask), masked_mean(jnp.abs(q), batch.mask)  # [N]
        metrics = {"policy_q": q_mean, "distance": masked_mean(self._gap(own, batch, jnp.abs), batch.mask)}
        if self.regulariser != "bc":
            loss = -jnp.mean(q_mean)
            return loss, metrics | {"actor_loss": loss}
        if self.config.critic == "team":  # One critic for all: one scale.
            q_size = jnp.mean(q_size)
        factor = hp.bc_alpha / (q_size + 1e-8)
        factor = jax.lax.stop_gradient(factor) if self.config.detach_q_norm else factor
        imitated = batch.mask & (batch.real | (self.config.bc_on == "all"))
        imitation = masked_mean(self._gap(own, batch, jnp.square), imitated)  # [N]
        loss = jnp.mean(imitation - factor * q_mean)
        return loss, metrics | {"actor_loss": loss, "bc_loss": imitation}

    def _gap(self, own: jax.Array, batch: Batch, size: Any) -> jax.Array:
        """The size of pi(o) - a for each agent, [N, H, B], averaged over its actions."""
        return jnp.swapaxes(self.per_action(size(own - batch.action)), 0, 1)

    def values(self, params: Any, obs: jax.Array, state: jax.Array, actions: jax.Array) -> jax.Array:
        """Values [2, R, T, B] by both critics (a team's: as many rows as `actions` has).

        obs [T, N, B, O], state [T, B, S]; actions [1 or N, T, N, B, A]: one joint action, or one for each agent.
        """
        rows, time, agents, batch, _ = actions.shape
        if self.config.critic_input == "own":
            index = jnp.arange(agents)
            mine = actions[0] if rows == 1 else jnp.moveaxis(actions[index, :, index], 0, 1)  # [T, N, B, A]
            x = jnp.swapaxes(jnp.concatenate([obs, mine], axis=-1), 0, 1)  # [N, T, B, I]
        else:
            joint = self.team.joint_action(jnp.swapaxes(actions, 2, 3))  # [rows, T, B, sum of A]
            seen = state if self.config.critic_input == "state" else self.team.joint_obs(jnp.swapaxes(obs, 1, 2))
            x = jnp.concatenate([jnp.broadcast_to(seen, (rows, *seen.shape)), joint], axis=-1)
        values = self.critic.values(params, x.reshape(x.shape[0], time * batch, -1))
        return values.reshape(*values.shape[:2], time, batch)

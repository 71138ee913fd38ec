"""SePS on PPO: before the first update, find which agents behave alike; then those share actor and critic.

Christianos et al. 2021 (2102.07475); how groups are found: `covey.policies.seps`. All of it is part of the run's one
program: random policies collect transitions, the encoder is fitted, its means are clustered, and each seed goes on with
groups of its own. There are always K sets of weights, of which a seed with fewer groups leaves some untouched.

The steps of random policies are not counted among the run's environment steps.
What deviates: the authors' learner is A2C; PPO's settings can make it that (`algos/tasks.py`, blind particle spread).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covey.learners.base import Metrics, check_numbers
from covey.learners.ppo import PPO, PPOCarry, PPOHyperparameters
from covey.policies.actor_critic import ActorCritic
from covey.policies.seps import GroupConfig, GroupSharing, Transitions, find_groups, fit


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SePSHyperparameters(PPOHyperparameters):
    """PPO's numbers and those of the encoder."""

    fit_learning_rate: float = 1e-3
    """Adam's step size for encoder and decoder."""
    kl_weight: float = 1e-3
    """Weight of the encoder's distance from a standard normal distribution."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, ("fit_learning_rate",), lambda x: x > 0, "a number above 0")
        check_numbers(self, ("kl_weight",), lambda x: x >= 0, "a number of at least 0")


@dataclass(frozen=True)
class GroupedActorCritic(ActorCritic):
    """Actors and critics that groups of agents share."""

    num_groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scheme", GroupSharing(self.num_agents, self.num_groups))


@dataclass(frozen=True)
class SePSPPO(PPO):
    """PPO with groups that are found first; `hp` is `SePSHyperparameters`."""

    groups: GroupConfig = GroupConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.groups.most(self.env.num_agents)
        space = self.env.action_space()
        if self._continuous and not np.isfinite(np.stack(space.bounds())).all():
            raise ValueError(f"SePS explores by uniform actions, which need finite bounds; {self.env.name} has {space}")
        if self.policy_config.sharing != "fups":
            raise ValueError(f"sharing is {self.policy_config.sharing!r}; allowed with SePS: fups, within each group")
        if self.policy_config.recurrent:
            raise ValueError("recurrent is True; allowed with SePS: False")

    @cached_property
    def actor_critic(self) -> GroupedActorCritic:
        plain = super().actor_critic
        return GroupedActorCritic(
            plain.config, plain.num_agents, plain.obs_size, plain.num_outputs, plain.continuous, plain.global_size,
            plain.obs_space, num_groups=self.groups.most(plain.num_agents),
        )  # fmt: skip

    def prepare(self, carry: PPOCarry, data: Any = None) -> PPOCarry:
        """The carry with groups that were found; once, before the first update."""
        key, key_collect, key_fit = jax.random.split(carry.key, 3)
        hp: Any = carry.hp
        means, _ = fit(key_fit, self.collect(key_collect), self.groups, hp.fit_learning_rate, hp.kl_weight)
        groups, _ = find_groups(means, self.groups)
        scheme: Any = self.actor_critic.scheme
        params = scheme.with_groups(carry.params, groups)
        # An encoder that diverged has found nothing: so that the run says so, the groups are not finite, either.
        params["group"] = jnp.where(jnp.all(jnp.isfinite(means)), params["group"], jnp.nan)
        return replace(carry, key=key, params=params)

    def update(self, carry: PPOCarry, data: Any = None) -> tuple[PPOCarry, Metrics]:
        carry, metrics = super().update(carry, data)
        group = carry.params["group"]
        metrics["group"] = jnp.argmax(group, axis=1).astype(jnp.float32)
        metrics["num_groups"] = jnp.sum(jnp.any(group > 0, axis=0)).astype(jnp.float32)
        return carry, metrics

    def collect(self, key: jax.Array) -> Transitions:
        """Transitions [N, M, ...] of random actions, uniform over those that are available; M is all steps."""
        config, space = self.groups, self.env.action_space()
        key_init, key_run = jax.random.split(key)
        steps = -(-config.pretraining_steps // config.pretraining_envs)

        def step(state: Any, key: jax.Array) -> tuple[Any, Transitions]:
            key_act, key_env = jax.random.split(key)
            obs, _, mask = self._observe(state)
            shape = obs.shape[:2]
            if self._continuous:
                low, high = space.bounds()
                action = shown = jax.random.uniform(key_act, (*shape, *space.shape), minval=low, maxval=high)
            else:
                logits = jnp.zeros((*shape, space.n)) if mask is None else jnp.where(mask, 0.0, -jnp.inf)
                action = jax.random.categorical(key_act, logits).astype(jnp.int32)
                shown = jax.nn.one_hot(action, space.n)
            keys = jax.random.split(key_env, config.pretraining_envs)
            state, outcome, last = jax.vmap(self.env.advance_and_reset)(keys, state, self._to_env(action))
            next_obs = self._observe(last)[0]
            kept = Transitions(obs, shown, next_obs, outcome.reward.T)
            return state, jax.tree.map(lambda x: x.astype(jnp.float32), kept)

        state = jax.vmap(self.env.init)(jax.random.split(key_init, config.pretraining_envs))
        _, kept = jax.lax.scan(step, state, jax.random.split(key_run, steps))
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]), kept)

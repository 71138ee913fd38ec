"""Proximal policy optimisation for many agents: IPPO and MAPPO under any sharing scheme.

    L_clip  = -E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)],   rho = pi(a | o) / pi_old(a | o)   (Schulman et al. 2017)
    L_value = 0.5 E[max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2)]
    L       = L_clip + c_v L_value - c_e H

IPPO (de Witt et al. 2020): each agent's critic sees its observation. MAPPO (Yu et al. 2022): it sees the global state.
An episode that was cut off is bootstrapped from the value of the state it was cut at; one that ended is not.
Where agents share no parameter (NoPS) each has its own loss, gradient clipping and Adam.
With a social reward (`covey.social`) agents learn on it; `episode_return` and all of an evaluation is of the
environment's own. What an agent does while removed from a board is learned from like the rest, as in 2602.15407.

Letters: E envs, T rollout steps, N agents, M minibatch, O obs, A actions, G global state.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from covey.learners.base import Metrics
from covey.learners.losses import (
    AdvantageScale,
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantage,
    normalize,
)
from covey.metrics import social as social_metrics
from covey.policies.actor_critic import ActorCritic, PolicyConfig
from covey.policies.distributions import (
    categorical_entropy,
    categorical_log_prob,
    gaussian_entropy,
    gaussian_log_prob,
    mask_logits,
)
from covey.social import SocialParameters, SocialReward


@dataclass(frozen=True)
class PPOConfig:
    """PPO's sizes and switches: what shapes the compiled program."""

    num_envs: int = 16
    """Environments stepped in parallel."""
    num_steps: int = 128
    """Steps of each environment between updates."""
    update_epochs: int = 4
    """Passes over the rollout per update."""
    num_minibatches: int = 2
    """Minibatches per pass; each holds every agent equally often. Must divide num_envs x num_steps (if recurrent,
    num_envs)."""
    normalize_advantages: AdvantageScale = "minibatch"
    """Advantages to mean 0 and deviation 1: over a minibatch, over each agent's part of it, or not at all."""
    clip_values: bool = True
    """Clip the value loss, too, with the same range as the policy's."""
    anneal_learning_rate: bool = False
    """Lower the learning rate to 0, linearly over updates."""
    eval_episodes: int = 32
    """Episodes per evaluation; always the same starts."""
    eval_greedy: bool = True
    """Evaluate with the most likely actions; else with sampled ones, as in training."""
    eval_steps: int | None = None
    """Steps after which an evaluation episode is cut; by default the environment's time limit."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_steps", "update_epochs", "num_minibatches", "eval_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: an integer of at least 1")
        if self.eval_steps is not None and self.eval_steps < 1:
            raise ValueError(f"eval_steps is {self.eval_steps}; allowed: an integer of at least 1, or None")
        if self.normalize_advantages not in ("minibatch", "agent", "none"):
            raise ValueError(f"normalize_advantages is {self.normalize_advantages!r}; allowed: minibatch, agent, none")

    @property
    def steps_per_update(self) -> int:
        """Environment steps between two updates."""
        return self.num_envs * self.num_steps


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PPOHyperparameters:
    """PPO's numbers: array leaves of the compiled program, so that changing or sweeping them compiles nothing anew."""

    learning_rate: float = 5e-4
    """Adam's step size."""
    discount: float = 0.99
    """Discount per step, gamma."""
    gae_lambda: float = 0.95
    """Decay of generalised advantage estimation, lambda."""
    clip_epsilon: float = 0.2
    """Clip range of the probability ratio, eps (and of the value loss)."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus, c_e."""
    value_coefficient: float = 0.5
    """Weight of the value loss, c_v."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm (each agent's own where nothing is shared)."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "max_grad_norm", "adam_epsilon"):
            _check(name, getattr(self, name), lambda x: x > 0, "a number above 0")
        for name in ("discount", "gae_lambda"):
            _check(name, getattr(self, name), lambda x: 0 <= x <= 1, "a number in [0, 1]")
        for name in ("clip_epsilon", "entropy_coefficient", "value_coefficient"):
            _check(name, getattr(self, name), lambda x: x >= 0, "a number of at least 0")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SocialPPOHyperparameters(PPOHyperparameters):
    """PPO's numbers and those of a social reward, which are array leaves as well."""

    social: SocialParameters = field(default_factory=SocialParameters)
    """Numbers of the social reward."""


def _check(name: str, value: Any, holds: Any, allowed: str) -> None:
    if isinstance(value, float | int) and not holds(value):  # Not while JAX flattens it with other leaves.
        raise ValueError(f"{name} is {value}; allowed: {allowed}")


class Step(NamedTuple):
    """What a rollout keeps of each step; a rollout is [T, N, E, ...], time first."""

    obs: jax.Array  # [N, E, O], uint8 where an encoder reads it
    global_state: jax.Array | None  # [1, E, G], for a centralised critic
    mask: jax.Array | None  # bool[N, E, A], where the environment masks actions
    reset: jax.Array  # bool[1, E], a new episode begins here
    action: jax.Array  # [N, E] or [N, E, A]
    log_prob: jax.Array  # [N, E]
    value: jax.Array  # [N, E]
    reward: jax.Array  # [N, E]
    done: jax.Array  # bool[1, E]
    last_value: jax.Array  # [N, E], value of the state that an episode was cut at, else 0
    returned: jax.Array  # [N, E], return of the episode that ended here, else 0
    length: jax.Array  # int32[1, E], its length, else 0
    shaped: jax.Array | None  # [N, E], the social reward, where there is one; likewise
    shaped_returned: jax.Array | None  # [N, E], its return
    diagnostics: Metrics | None  # name -> [N, E]


class Batch(NamedTuple):
    """What a gradient step sees; [T, N or 1, M, ...] (feed-forward networks: T = 1 and time is part of M)."""

    obs: jax.Array
    global_state: jax.Array | None
    mask: jax.Array | None
    reset: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array
    memory: tuple[jax.Array, jax.Array]  # [1, N or 1, M, H] of actor and critic


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PPOCarry:
    """Everything that changes during training."""

    params: Any
    optimizer: Any
    hp: PPOHyperparameters
    key: jax.Array
    update: jax.Array  # int32[], updates done
    env_state: Any  # [E, ...]
    reset: jax.Array  # bool[1, E], the next step begins an episode
    memory: tuple[jax.Array, jax.Array]
    running_return: jax.Array  # [N, E], of the episode under way
    running_length: jax.Array  # int32[1, E]
    social: Any = None  # [E, ...], the social reward's state
    running_shaped: Any = None  # [N, E], return of the social reward


@dataclass(frozen=True)
class PPO:
    """One seed's PPO run on an environment of the contract in `envs_jax.base`; see `covey.learners.base.Learner`."""

    env: Any
    policy_config: PolicyConfig = PolicyConfig()
    config: PPOConfig = PPOConfig()
    centralised_critic: bool = False
    """MAPPO if true, IPPO if false."""
    num_updates: int | None = None
    """Length of the run, over which the learning rate is annealed."""
    social: SocialReward = SocialReward()
    """What agents learn on; if it is not selfish, `SocialPPOHyperparameters` hold its numbers."""

    def __post_init__(self) -> None:
        config, count = self.config, self.config.num_minibatches
        samples = config.num_envs if self.policy_config.recurrent else config.steps_per_update
        if samples % count:
            what = "num_envs" if self.policy_config.recurrent else "num_envs x num_steps"
            raise ValueError(f"num_minibatches is {count}; allowed: a divisor of {what} = {samples}")
        if config.anneal_learning_rate and self.num_updates is None:
            raise ValueError("anneal_learning_rate needs num_updates, the length of the run")
        _ = self.eval_steps  # Raises where there is no number.

    @property
    def steps_per_update(self) -> int:
        return self.config.steps_per_update

    @property
    def eval_steps(self) -> int:
        """Steps after which an evaluation episode is cut."""
        steps = self.config.eval_steps or self.env.max_steps
        if steps is None:
            raise ValueError("eval_steps is None and the environment has no time limit; give eval_steps a number")
        return steps

    @cached_property
    def actor_critic(self) -> ActorCritic:
        """The networks, sized for this environment."""
        space = self.env.action_space()
        self._check_spaces()
        state = jax.eval_shape(self.env.init, jax.random.key(0))
        global_size = None
        if self.centralised_critic:
            global_size = int(np.prod(jax.eval_shape(self.env.global_state, state).shape))
        return ActorCritic(
            self.policy_config,
            num_agents=self.env.num_agents,
            obs_size=int(np.prod(self.env.observation_space().shape)),
            num_outputs=space.shape[0] if self._continuous else space.n,
            continuous=self._continuous,
            global_size=global_size,
            obs_space=self.env.observation_space(),
        )

    @property
    def _shapes(self) -> bool:
        """Whether rewards are shaped."""
        return self.social.term != "none"

    @property
    def _continuous(self) -> bool:
        return not hasattr(self.env.action_space(), "n")

    @cached_property
    def _masks_actions(self) -> bool:
        return not self._continuous and self.env.masks_actions

    def _check_spaces(self) -> None:
        space = self.env.action_space()
        if self._continuous and len(space.shape) != 1:
            raise ValueError(f"PPO needs discrete actions or vectors; {self.env.name} has {space}")

    # --- The three functions of a learner ---

    def init(self, key: jax.Array, hp: PPOHyperparameters) -> PPOCarry:
        key_params, key_env, key_run = jax.random.split(key, 3)
        num_envs, num_agents = self.config.num_envs, self.env.num_agents
        social = running_shaped = None
        if self._shapes:
            if not isinstance(hp, SocialPPOHyperparameters):
                raise ValueError(f"hp is {type(hp).__name__}; allowed with a social reward: SocialPPOHyperparameters")
            self.social.check(num_agents, hp.social)
            social = jax.tree.map(lambda x: jnp.stack([x] * num_envs), self.social.init(num_agents))
            running_shaped = jnp.zeros((num_agents, num_envs), jnp.float32)
        params = self.actor_critic.init(key_params)
        return PPOCarry(
            params=params,
            optimizer=_adam(hp).init(params),
            hp=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hp),
            key=key_run,
            update=jnp.zeros((), jnp.int32),
            env_state=jax.vmap(self.env.init)(jax.random.split(key_env, num_envs)),
            reset=jnp.ones((1, num_envs), jnp.bool_),
            memory=self.actor_critic.start(num_envs),
            running_return=jnp.zeros((num_agents, num_envs), jnp.float32),
            running_length=jnp.zeros((1, num_envs), jnp.int32),
            social=social,
            running_shaped=running_shaped,
        )

    def update(self, carry: PPOCarry, data: Any = None) -> tuple[PPOCarry, Metrics]:
        key, key_rollout, key_shuffle = jax.random.split(carry.key, 3)
        memory = carry.memory
        carry, rollout, next_value = self._rollout(carry, key_rollout)
        advantage = generalised_advantage(
            rollout.reward if rollout.shaped is None else rollout.shaped,
            rollout.value, next_value, rollout.done, rollout.last_value,
            carry.hp.discount, carry.hp.gae_lambda,
        )  # fmt: skip
        batch = Batch(
            obs=rollout.obs,
            global_state=rollout.global_state,
            mask=rollout.mask,
            reset=rollout.reset,
            action=rollout.action,
            log_prob=rollout.log_prob,
            value=rollout.value,
            advantage=advantage,
            target=advantage + rollout.value,
            memory=jax.tree.map(lambda m: m[None], memory),
        )
        params, optimizer, losses = self._optimise(carry, batch, key_shuffle)
        ended = jnp.sum(rollout.length > 0)
        metrics = losses | {
            "episode_return": jnp.sum(rollout.returned, axis=(0, 2)) / ended,  # 0 / 0 is NaN: no episode ended.
            "episode_length": jnp.sum(rollout.length) / ended,
            "episodes": ended.astype(jnp.float32),
            "reward": jnp.mean(rollout.reward, axis=(0, 2)),
        }
        if rollout.shaped_returned is not None and rollout.diagnostics is not None:
            metrics["shaped_return"] = jnp.sum(rollout.shaped_returned, axis=(0, 2)) / ended
            means = {name: jnp.mean(value, axis=(0, 2)) for name, value in rollout.diagnostics.items()}
            last = {name: jnp.mean(rollout.diagnostics[name][-1], axis=1) for name in social_metrics.LAST}
            metrics |= means | last
            carry = replace(carry, social=self.social.pool(carry.social))
        if self._continuous:
            low, high = self.env.action_space().bounds()
            metrics["clipped_actions"] = jnp.mean((rollout.action < low) | (rollout.action > high))
        return replace(carry, params=params, optimizer=optimizer, key=key, update=carry.update + 1), metrics

    def evaluate(self, carry: PPOCarry, key: jax.Array) -> Metrics:
        weights = self.actor_critic.weights(carry.params)
        count, agents = self.config.eval_episodes, self.env.num_agents

        def step(loop: tuple, key_step: jax.Array) -> tuple[tuple, jax.Array]:
            env_state, memory, alive, totals, outcomes = loop
            env_state, memory, outcome = self._eval_step(weights, env_state, memory, key_step)
            seen = {"episode_return": outcome.reward} | outcome.info  # Each [E, N].
            totals = {
                name: total + jnp.where(alive[:, None], seen[name], 0.0).astype(jnp.float32)
                for name, total in totals.items()
            }
            if outcomes is not None:
                outcomes = jax.vmap(social_metrics.add, in_axes=(0, 0, 0, None, 0))(
                    outcomes, outcome.reward, outcome.info, None, alive
                )
            return (env_state, memory, alive & ~outcome.done, totals, outcomes), alive

        key_init, key_steps = jax.random.split(key)
        env_state = jax.vmap(self.env.init)(jax.random.split(key_init, count))
        zeros = jnp.zeros((count, agents), jnp.float32)
        start = (env_state, self.actor_critic.start(count)[0])
        info = jax.eval_shape(lambda: self._eval_step(weights, *start, key)[2]).info
        outcomes = None
        if dilemma := not {*social_metrics.COUNTED, "removed"}.isdisjoint(info):
            cells = getattr(getattr(self.env, "board", None), "num_cells", None) if "cell" in info else None
            outcomes = jax.tree.map(lambda x: jnp.stack([x] * count), social_metrics.init(agents, info, cells))
        totals = dict.fromkeys(["episode_return", *([] if dilemma else info)], zeros)
        keys = jax.random.split(key_steps, self.eval_steps)
        loop = (*start, jnp.ones(count, jnp.bool_), totals, outcomes)
        (_, _, _, totals, outcomes), alive = jax.lax.scan(step, loop, keys)
        length = jnp.sum(alive, axis=0).astype(jnp.float32)  # [E]
        metrics = {name: jnp.mean(total, axis=0) for name, total in totals.items()} | {
            "episode_length": jnp.mean(length),
            "reward": jnp.mean(totals["episode_return"] / length[:, None], axis=0),
        }
        return metrics if outcomes is None else metrics | self._outcomes(outcomes)

    def _outcomes(self, outcomes: Any) -> Metrics:
        """Social metrics of episodes [E], averaged; also per role, where the environment has several."""
        classes = getattr(self.env, "agent_classes", {})
        names = tuple(classes) if len(classes) > 1 else ()
        roles = np.array([[agent in group for group in classes.values()].index(True) for agent in self.env.agents])
        scale = getattr(getattr(self.env, "own_roles", None), "apple_reward", None)
        finish = jax.vmap(lambda episode: social_metrics.finish(episode, roles, names, scale))
        metrics = {name: jnp.mean(value, axis=0) for name, value in finish(outcomes).items()}
        metrics.pop("return")  # That is `episode_return`.
        return metrics

    def policy(self, carry: PPOCarry) -> Any:
        return carry.params

    def episode(self, carry: PPOCarry, key: jax.Array) -> tuple[Any, jax.Array]:
        weights = self.actor_critic.weights(carry.params)

        def step(loop: tuple, key_step: jax.Array) -> tuple[tuple, tuple]:
            env_state, memory, alive = loop
            next_state, memory, outcome = self._eval_step(weights, env_state, memory, key_step)
            return (next_state, memory, alive & ~outcome.done), (env_state, alive)

        key_init, key_steps = jax.random.split(key)
        env_state = jax.vmap(self.env.init)(key_init[None])
        loop = (env_state, self.actor_critic.start(1)[0], jnp.ones(1, jnp.bool_))
        (last, _, alive), (states, valid) = jax.lax.scan(step, loop, jax.random.split(key_steps, self.eval_steps))
        # The state that ends the episode is worth seeing: shift it in after the last valid one.
        states = jax.tree.map(lambda s, end: jnp.concatenate([s, end[None]])[:, 0], states, last)
        valid = jnp.concatenate([jnp.ones((1, 1), jnp.bool_), valid])[:, 0]
        return states, valid

    # --- Acting ---

    def _observe(self, env_state: Any) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        """`(obs [N, E, O], global_state [1, E, G] or None, mask [N, E, A] or None)` of E environments."""
        obs = jax.vmap(self.env.observe)(env_state)
        obs = jnp.swapaxes(obs.reshape(*obs.shape[:2], -1), 0, 1).astype(self.actor_critic.obs_dtype)
        global_state = mask = None
        if self.centralised_critic:
            global_state = jax.vmap(self.env.global_state)(env_state)
            global_state = global_state.reshape(1, global_state.shape[0], -1).astype(jnp.float32)
        if self._masks_actions:
            mask = jnp.swapaxes(jax.vmap(self.env.action_mask)(env_state), 0, 1)
        return obs, global_state, mask

    def _outputs(
        self, weights: Any, obs: jax.Array, mask: jax.Array | None, memory: jax.Array, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The actor's (masked) outputs [T, N, B, A] and its next memory."""
        outputs, memory = self.actor_critic.policy(weights, obs, memory, reset)
        return (outputs if mask is None else mask_logits(outputs, mask)), memory

    def _log_prob(self, weights: Any, outputs: jax.Array, action: jax.Array) -> jax.Array:
        if self._continuous:
            return gaussian_log_prob(outputs, self.actor_critic.log_std(weights), action)
        return categorical_log_prob(outputs, action)

    def _sample(self, weights: Any, outputs: jax.Array, key: jax.Array) -> jax.Array:
        if self._continuous:
            noise = jax.random.normal(key, outputs.shape, jnp.float32)
            return outputs + jnp.exp(self.actor_critic.log_std(weights)) * noise
        return jax.random.categorical(key, outputs).astype(jnp.int32)

    def _to_env(self, action: jax.Array) -> jax.Array:
        """Actions [N, E, ...] as the environments take them, [E, N, ...], inside their bounds."""
        action = jnp.swapaxes(action, 0, 1)
        return jnp.clip(action, *self.env.action_space().bounds()) if self._continuous else action

    def _eval_step(self, weights: Any, env_state: Any, memory: jax.Array, key: jax.Array) -> tuple[Any, Any, Any]:
        """One step of E environments with the most likely or with sampled actions, without reset."""
        obs, _, mask = self._observe(env_state)
        num_envs = obs.shape[1]
        reset = jnp.zeros((1, 1, num_envs), jnp.bool_)
        outputs, memory = self._outputs(weights, obs[None], None if mask is None else mask[None], memory, reset)
        if not self.config.eval_greedy:
            action = self._sample(weights, outputs, jax.random.fold_in(key, num_envs))[0]  # No number of a split key.
        else:
            action = outputs[0] if self._continuous else jnp.argmax(outputs[0], axis=-1).astype(jnp.int32)
        keys = jax.random.split(key, num_envs)
        env_state, outcome = jax.vmap(self.env.advance)(keys, env_state, self._to_env(action))
        return env_state, memory, outcome

    def _rollout(self, carry: PPOCarry, key: jax.Array) -> tuple[PPOCarry, Step, jax.Array]:
        """T steps of E environments: the carry after them, the rollout [T, N, E, ...], next state's values [N, E]."""
        weights = self.actor_critic.weights(carry.params)

        def values(obs: jax.Array, global_state: Any, memory: jax.Array, reset: jax.Array) -> tuple[jax.Array, Any]:
            critic_input = obs if global_state is None else global_state
            value, memory = self.actor_critic.value(weights, critic_input[None], memory, reset[None])
            return value[0], memory

        def step(loop: tuple, key_step: jax.Array) -> tuple[tuple, Step]:
            env_state, seen, reset, (actor_memory, critic_memory), running_return, running_length, social = loop
            obs, global_state, mask = seen
            key_act, key_env = jax.random.split(key_step)
            outputs, actor_memory = self._outputs(
                weights, obs[None], None if mask is None else mask[None], actor_memory, reset[None]
            )
            value, critic_memory = values(obs, global_state, critic_memory, reset)
            action = self._sample(weights, outputs, key_act)
            log_prob = self._log_prob(weights, outputs, action)[0]
            keys = jax.random.split(key_env, self.config.num_envs)
            env_state, outcome, last_state = jax.vmap(self.env.advance_and_reset)(
                keys, env_state, self._to_env(action[0])
            )
            done = outcome.done[None]  # [1, E]
            last_obs, last_global, _ = self._observe(last_state)
            last_value, _ = values(last_obs, last_global, critic_memory, jnp.zeros_like(done))
            last_value = jnp.where(outcome.truncated, last_value, 0.0)
            reward = jnp.swapaxes(outcome.reward, 0, 1)
            running_return, running_length = running_return + reward, running_length + 1
            social, shaped, shaped_returned, diagnostics = self._shape(carry.hp, social, outcome, last_state)
            kept = Step(
                obs, global_state, mask, reset, action[0], log_prob, value, reward, done, last_value,
                returned=jnp.where(done, running_return, 0.0),
                length=jnp.where(done, running_length, 0),
                shaped=shaped,
                shaped_returned=shaped_returned,
                diagnostics=diagnostics,
            )  # fmt: skip
            running_return, running_length = jnp.where(done, 0.0, running_return), jnp.where(done, 0, running_length)
            seen = self._observe(env_state)
            return (env_state, seen, done, (actor_memory, critic_memory), running_return, running_length, social), kept

        loop = (
            carry.env_state, self._observe(carry.env_state), carry.reset, carry.memory,
            carry.running_return, carry.running_length, (carry.social, carry.running_shaped),
        )  # fmt: skip
        keys = jax.random.split(key, self.config.num_steps)
        loop, rollout = jax.lax.scan(step, loop, keys)
        env_state, seen, reset, memory, running_return, running_length, (social, running_shaped) = loop
        next_value, _ = values(seen[0], seen[1], memory[1], reset)
        carry = replace(
            carry, env_state=env_state, reset=reset, memory=memory,
            running_return=running_return, running_length=running_length, social=social, running_shaped=running_shaped,
        )  # fmt: skip
        return carry, rollout, next_value

    def _shape(
        self, hp: Any, social: tuple[Any, Any], outcome: Any, last_state: Any
    ) -> tuple[tuple[Any, Any], jax.Array | None, jax.Array | None, Metrics | None]:
        """The social reward of one step: its state and running return, then what `Step` keeps; all None if selfish."""
        if not self._shapes:
            return social, None, None, None
        states, running = social
        visible = jax.vmap(self.env.visible)(last_state) if hasattr(self.env, "visible") else None
        axes = (0, 0, None if visible is None else 0, 0, None)
        step = jax.vmap(self.social.step, in_axes=axes)
        states, shaped, diagnostics = step(states, outcome.reward, visible, outcome.done, hp.social)
        shaped, diagnostics = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (shaped, diagnostics))
        diagnostics.pop("smoothed_reward")
        running = running + shaped
        done = outcome.done[None]
        returned = jnp.where(done, running, 0.0)
        return (states, jnp.where(done, 0.0, running)), shaped, returned, diagnostics

    # --- Learning ---

    def _optimise(self, carry: PPOCarry, batch: Batch, key: jax.Array) -> tuple[Any, Any, Metrics]:
        """All epochs over one rollout: new parameters, new optimiser state, metrics averaged over gradient steps."""
        if not self.policy_config.recurrent:
            memory = batch.memory
            batch = jax.tree.map(_merge_time, batch._replace(memory=None))
            size = batch.obs.shape[2]
            batch = batch._replace(memory=jax.tree.map(lambda m: jnp.zeros((*m.shape[:2], size, 0)), memory))
        samples = batch.obs.shape[2]
        keys = jax.random.split(key, self.config.update_epochs)
        order = jax.vmap(lambda k: jax.random.permutation(k, samples))(keys)
        order = order.reshape(self.config.update_epochs * self.config.num_minibatches, -1)
        learning_rate = carry.hp.learning_rate
        if self.config.anneal_learning_rate:
            assert self.num_updates is not None
            learning_rate = learning_rate * (1.0 - carry.update / self.num_updates)

        def gradient_step(loop: tuple, index: jax.Array) -> tuple[tuple, Metrics]:
            params, optimizer = loop
            minibatch = jax.tree.map(lambda x: x[:, :, index], batch)
            (_, metrics), grads = jax.value_and_grad(self.loss, has_aux=True)(params, minibatch, carry.hp)
            grads, norm = self._clip(grads, jnp.asarray(carry.hp.max_grad_norm))
            updates, optimizer = _adam(carry.hp).update(grads, optimizer)
            params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
            return (params, optimizer), metrics | {"grad_norm": norm}

        (params, optimizer), metrics = jax.lax.scan(gradient_step, (carry.params, carry.optimizer), order)
        return params, optimizer, {name: jnp.mean(value) for name, value in metrics.items()}

    def loss(self, params: Any, batch: Batch, hp: PPOHyperparameters) -> tuple[jax.Array, Metrics]:
        """PPO's loss on one minibatch, averaged over agents and samples, and its parts."""
        weights = self.actor_critic.weights(params)
        actor_memory, critic_memory = jax.tree.map(lambda m: m[0], batch.memory)
        outputs, _ = self._outputs(weights, batch.obs, batch.mask, actor_memory, batch.reset)
        critic_input = batch.obs if batch.global_state is None else batch.global_state
        value, _ = self.actor_critic.value(weights, critic_input, critic_memory, batch.reset)
        log_ratio = self._log_prob(weights, outputs, batch.action) - batch.log_prob
        if self._continuous:
            entropy = jnp.mean(gaussian_entropy(self.actor_critic.log_std(weights)))
        else:
            entropy = jnp.mean(categorical_entropy(outputs))
        advantage = normalize(batch.advantage, self.config.normalize_advantages)
        policy_loss = clipped_policy_loss(log_ratio, advantage, hp.clip_epsilon)
        value_loss = clipped_value_loss(
            value, batch.value, batch.target, hp.clip_epsilon if self.config.clip_values else None
        )
        total = policy_loss + hp.value_coefficient * value_loss - hp.entropy_coefficient * entropy
        ratio = jnp.exp(log_ratio)
        return total, {
            "loss": total,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": jnp.mean(ratio - 1.0 - log_ratio),
            "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > hp.clip_epsilon),
        }

    def _clip(self, grads: Any, max_norm: jax.Array) -> tuple[Any, jax.Array]:
        """Gradients scaled down to a global norm, and the norm before; each agent's own where nothing is shared."""
        if not self.actor_critic.scheme.separate:
            norm = optax.tree.norm(grads)
            return jax.tree.map(lambda g: g * jnp.minimum(1.0, max_norm / (norm + 1e-9)), grads), norm
        num_agents = self.env.num_agents
        # The loss is a mean over agents; an agent that learns alone has the mean over its own samples.
        grads = jax.tree.map(lambda g: g * num_agents, grads)
        norm = jax.vmap(optax.tree.norm)(grads)  # [N]
        scale = jnp.minimum(1.0, max_norm / (norm + 1e-9))
        return jax.tree.map(lambda g: g * scale.reshape(-1, *[1] * (g.ndim - 1)), grads), jnp.mean(norm)


def _adam(hp: PPOHyperparameters) -> optax.GradientTransformation:
    return optax.scale_by_adam(eps=hp.adam_epsilon)


def _merge_time(x: jax.Array) -> jax.Array:
    """[T, N, E, ...] -> [1, N, T·E, ...]: to a feed-forward network, time is more batch."""
    return jnp.swapaxes(x, 0, 1).reshape(1, x.shape[1], -1, *x.shape[3:])

"""Proximal policy optimisation for many agents: IPPO and MAPPO under any sharing scheme.

    L_clip  = -E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)],   rho = pi(a | o) / pi_old(a | o)   (Schulman et al. 2017)
    L_value = 0.5 E[max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2)]
    L       = L_clip + c_v L_value - c_e H

IPPO (de Witt et al. 2020): each agent's critic sees its observation. MAPPO (Yu et al. 2022): it sees the global state.
An episode that was cut off is bootstrapped from the value of the state it was cut at; one that ended is not.
With `normalize_values` V, V_old and R in L_value are in deviations of the returns (see `moments`).
Where agents share no parameter (NoPS) each has its own loss, gradient clipping and Adam.
With a social reward (`covey.social`) agents learn on it; `episode_return` and all of an evaluation is of the
environment's own. What an agent does while removed from a board is learned from like the rest, as in 2602.15407.

Letters: E envs, T rollout steps, N agents, M minibatch, O obs, A actions, G global state.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covey.learners import evaluation, gradients, shaping
from covey.learners.base import Metrics, check_numbers, own_entries
from covey.learners.losses import (
    AdvantageScale,
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantage,
    normalize,
)
from covey.learners.moments import Moments
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
    """Clip the value loss, too, with the same range as the policy's. Where returns are far larger than that range, the
    critic then hardly moves, unless values are normalised."""
    normalize_values: bool = False
    """The critic learns returns minus their running mean, over their running deviation, for each agent."""
    value_loss: Literal["squared", "huber"] = "squared"
    """Loss of a value's error: its square, or Huber's with `huber_delta`."""
    anneal_learning_rate: bool = False
    """Lower learning rates to 0, linearly over updates."""
    clip_critic_apart: bool = False
    """Scale the critic's gradient down on its own, as where actor and critic have an optimiser each (JaxMARL's MAPPO,
    HARL), instead of together with the actor's."""
    eval_episodes: int = 32
    """Episodes per evaluation; always the same starts."""
    eval_greedy: bool = True
    """Evaluate with the most likely actions; else with sampled ones, as in training."""
    eval_steps: int | None = None
    """Steps after which an evaluation episode is cut; by default the environment's time limit."""

    def __post_init__(self) -> None:
        names = ("num_envs", "num_steps", "update_epochs", "num_minibatches", "eval_episodes")
        check_numbers(self, names, lambda x: x >= 1, "an integer of at least 1")
        if self.eval_steps is not None and self.eval_steps < 1:
            raise ValueError(f"eval_steps is {self.eval_steps}; allowed: an integer of at least 1, or None")
        if self.value_loss not in ("squared", "huber"):
            raise ValueError(f"value_loss is {self.value_loss!r}; allowed: squared, huber")
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
    critic_learning_rate: float | None = None
    """Adam's step size of what is the critic's alone; None for `learning_rate`."""
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
    huber_delta: float = 10.0
    """Where Huber's value loss turns from a square into a line, in the critic's units."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm (each agent's own of networks that agents do not share)."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""

    def __post_init__(self) -> None:
        names = ("learning_rate", "critic_learning_rate", "huber_delta", "max_grad_norm", "adam_epsilon")
        check_numbers(self, names, lambda x: x > 0, "a number above 0")
        check_numbers(self, ("discount", "gae_lambda"), lambda x: 0 <= x <= 1, "a number in [0, 1]")
        names = ("clip_epsilon", "entropy_coefficient", "value_coefficient")
        check_numbers(self, names, lambda x: x >= 0, "a number of at least 0")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SocialPPOHyperparameters(PPOHyperparameters):
    """PPO's numbers and those of a social reward, which are array leaves as well."""

    social: SocialParameters = field(default_factory=SocialParameters)
    """Numbers of the social reward."""


class Step(NamedTuple):
    """What a rollout keeps of each step; a rollout is [T, N, E, ...], time first."""

    obs: jax.Array  # [N, E, O], uint8 where an encoder reads it
    global_state: jax.Array | None  # [1, E, G], for a centralised critic
    mask: jax.Array | None  # bool[N, E, A], available actions, or an agent's own dimensions, where not all are
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
    factor: jax.Array | None = None  # What advantages are multiplied by once they are normalised (HAPPO)


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
    returns: Moments | None = None  # What the critic learns is normalised by these


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
        return evaluation.episode_steps(self.env, self.config.eval_steps)

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
            action_bounds=(space.low, space.high) if self._continuous else None,
        )

    @property
    def _continuous(self) -> bool:
        return not hasattr(self.env.action_space(), "n")

    @cached_property
    def _masks_actions(self) -> bool:
        return not self._continuous and self.env.masks_actions

    @cached_property
    def _act_mask(self) -> np.ndarray | None:
        """Which dimensions of continuous actions are not padding, bool[N, A]; None where all are an agent's own."""
        if not self._continuous:
            return None
        own = own_entries(self.env.action_space, self.env.agents)
        return None if own.all() else own

    def _check_spaces(self) -> None:
        space = self.env.action_space()
        if self._continuous and len(space.shape) != 1:
            raise ValueError(f"PPO needs discrete actions or vectors; {self.env.name} has {space}")
        if self.policy_config.sharing != "dico":
            return
        if self._continuous and not np.all(np.isfinite(space.bounds())):
            raise ValueError(f"sharing is 'dico'; allowed: bounded actions only; {self.env.name} has {space}")
        # The distance between two agents' actions, of which diversity is made, needs the same actions.
        sizes = {agent: self.env.action_space(agent) for agent in self.env.agents}
        sizes = {agent: own.shape[0] if self._continuous else own.n for agent, own in sizes.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"sharing is 'dico'; allowed: as many actions for each agent; {self.env.name} has {sizes}")

    # --- The three functions of a learner ---

    def init(self, key: jax.Array, hp: PPOHyperparameters) -> PPOCarry:
        key_params, key_env, key_run = jax.random.split(key, 3)
        num_envs, num_agents = self.config.num_envs, self.env.num_agents
        shaping.check(self.social, num_agents, hp, SocialPPOHyperparameters)
        social = shaping.begin(self.social, num_agents, num_envs)
        params = self.actor_critic.init(key_params)
        return PPOCarry(
            params=params,
            optimizer=self._init_optimizer(params, hp),
            hp=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hp),
            key=key_run,
            update=jnp.zeros((), jnp.int32),
            env_state=jax.vmap(self.env.init)(jax.random.split(key_env, num_envs)),
            reset=jnp.ones((1, num_envs), jnp.bool_),
            memory=self.actor_critic.start(num_envs),
            running_return=jnp.zeros((num_agents, num_envs), jnp.float32),
            running_length=jnp.zeros((1, num_envs), jnp.int32),
            social=social,
            running_shaped=None if social is None else jnp.zeros((num_agents, num_envs), jnp.float32),
            returns=Moments.start(num_agents) if self.config.normalize_values else None,
        )

    def update(self, carry: PPOCarry, data: Any = None) -> tuple[PPOCarry, Metrics]:
        key, key_rollout, key_shuffle = jax.random.split(carry.key, 3)
        memory = carry.memory
        carry, rollout, next_value = self._rollout(carry, key_rollout)
        advantage = generalised_advantage(
            self._learnt_from(rollout), rollout.value, next_value, rollout.done, rollout.last_value,
            carry.hp.discount, carry.hp.gae_lambda,
        )  # fmt: skip
        value, target, returns = rollout.value, advantage + rollout.value, carry.returns
        if returns is not None:
            value, returns = returns.normalize(value), returns.update(target)  # As the critic gave it.
            target = returns.normalize(target)
        batch = Batch(
            obs=rollout.obs,
            global_state=rollout.global_state,
            mask=rollout.mask,
            reset=rollout.reset,
            action=rollout.action,
            log_prob=rollout.log_prob,
            value=value,
            advantage=advantage,
            target=target,
            memory=jax.tree.map(lambda m: m[None], memory),
        )
        params, optimizer, losses = self._optimise(carry, batch, key_shuffle)
        metrics = losses | evaluation.finished(rollout.returned, rollout.length)
        metrics["reward"] = jnp.mean(rollout.reward, axis=(0, 2))
        if rollout.shaped_returned is not None and rollout.diagnostics is not None:
            metrics |= shaping.summary(rollout.shaped_returned, rollout.diagnostics, metrics["episodes"])
            carry = replace(carry, social=self.social.pool(carry.social))
        if self._continuous:
            low, high = self.env.action_space().bounds()
            outside = (rollout.action < low) | (rollout.action > high)
            metrics["clipped_actions"] = jnp.mean(outside, where=rollout.mask)
        carry = replace(carry, params=params, optimizer=optimizer, key=key, update=carry.update + 1, returns=returns)
        return carry, metrics

    def evaluate(self, carry: PPOCarry, key: jax.Array) -> Metrics:
        count = self.config.eval_episodes
        memory = self.actor_critic.start(count)[0]
        return evaluation.evaluate(self.env, self._policy_step(carry), memory, count, self.eval_steps, key)

    def policy(self, carry: PPOCarry) -> Any:
        return carry.params

    def episode(self, carry: PPOCarry, key: jax.Array) -> tuple[Any, jax.Array]:
        return evaluation.play(self.env, self._policy_step(carry), self.actor_critic.start(1)[0], self.eval_steps, key)

    def _policy_step(self, carry: PPOCarry) -> evaluation.Step:
        return partial(self._eval_step, self.actor_critic.weights(carry.params))

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
        elif self._act_mask is not None:
            mask = jnp.broadcast_to(self._act_mask[:, None], (*obs.shape[:2], self._act_mask.shape[1]))
        return obs, global_state, mask

    def _outputs(
        self, weights: Any, obs: jax.Array, mask: jax.Array | None, memory: jax.Array, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The actor's (masked) logits, or means, [T, N, B, A] and its next memory."""
        outputs, memory = self.actor_critic.policy(weights, obs, memory, reset)
        return (outputs if mask is None or self._continuous else mask_logits(outputs, mask)), memory

    def _log_prob(self, weights: Any, outputs: jax.Array, action: jax.Array, mask: jax.Array | None) -> jax.Array:
        if self._continuous:
            return gaussian_log_prob(outputs, self.actor_critic.log_std(weights), action, mask)
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
            return (value[0] if carry.returns is None else carry.returns.denormalize(value[0])), memory

        def step(loop: tuple, key_step: jax.Array) -> tuple[tuple, Step]:
            env_state, seen, reset, (actor_memory, critic_memory), running_return, running_length, social = loop
            obs, global_state, mask = seen
            key_act, key_env = jax.random.split(key_step)
            outputs, actor_memory = self._outputs(
                weights, obs[None], None if mask is None else mask[None], actor_memory, reset[None]
            )
            value, critic_memory = values(obs, global_state, critic_memory, reset)
            action = self._sample(weights, outputs, key_act)
            log_prob = self._log_prob(weights, outputs, action, None if mask is None else mask[None])[0]
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
            states, running_shaped = social
            states, shaped, diagnostics = shaping.shape(self.social, self.env, states, outcome, last_state, carry.hp)
            shaped, diagnostics = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (shaped, diagnostics))
            shaped_returned = None
            if running_shaped is not None:
                running_shaped = running_shaped + shaped
                shaped_returned = jnp.where(done, running_shaped, 0.0)
                running_shaped = jnp.where(done, 0.0, running_shaped)
            kept = Step(
                obs, global_state, mask, reset, action[0], log_prob, value, reward, done, last_value,
                returned=jnp.where(done, running_return, 0.0),
                length=jnp.where(done, running_length, 0),
                shaped=None if shaped_returned is None else shaped,
                shaped_returned=shaped_returned,
                diagnostics=None if shaped_returned is None else diagnostics,
            )  # fmt: skip
            running_return, running_length = jnp.where(done, 0.0, running_return), jnp.where(done, 0, running_length)
            seen, social = self._observe(env_state), (states, running_shaped)
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

    # --- Learning ---

    def _init_optimizer(self, params: Any, hp: PPOHyperparameters) -> Any:
        return gradients.adam(hp).init(params)

    def _learnt_from(self, rollout: Step) -> jax.Array:
        """What agents learn the sum of, [T, N, E]."""
        return rollout.reward if rollout.shaped is None else rollout.shaped

    def _optimise(self, carry: PPOCarry, batch: Batch, key: jax.Array) -> tuple[Any, Any, Metrics]:
        """All epochs over one rollout: new parameters, new optimiser state, metrics averaged over gradient steps."""
        batch, order = self._minibatches(batch, key)
        rates = self._learning_rates(carry)

        def gradient_step(loop: tuple, index: jax.Array) -> tuple[tuple, Metrics]:
            params, optimizer = loop
            minibatch = jax.tree.map(lambda x: x[:, :, index], batch)

            def loss(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
                params = self.actor_critic.measure(params, minibatch.obs)  # What has no gradient but follows the data.
                total, metrics = self.loss(params, minibatch, carry.hp)
                return total, (params, metrics)

            (_, (params, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
            grads, norm = self._clip(grads, carry.hp)
            updates, optimizer = gradients.adam(carry.hp).update(grads, optimizer)
            params = jax.tree_util.tree_map_with_path(
                lambda path, p, u: p - rates[_is_critic(path)] * u, params, updates
            )
            return (params, optimizer), metrics | {"grad_norm": norm}

        (params, optimizer), metrics = jax.lax.scan(gradient_step, (carry.params, carry.optimizer), order)
        return params, optimizer, {name: jnp.mean(value) for name, value in metrics.items()}

    def _clip(self, grads: Any, hp: PPOHyperparameters) -> tuple[Any, jax.Array]:
        """Gradients scaled down to a length, each agent's of networks that are its own and the rest as one; and the
        length before."""
        leaves, tree = jax.tree_util.tree_flatten_with_path(grads)
        clipped, parts, own_networks = [leaf for _, leaf in leaves], {}, self.actor_critic.own
        for i, (path, _) in enumerate(leaves):
            part = path[0].key in own_networks, self.config.clip_critic_apart and _is_critic(path)
            parts.setdefault(part, []).append(i)
        norms = []
        for (own, _), where in parts.items():
            part, norm = gradients.clip(
                [clipped[i] for i in where], jnp.asarray(hp.max_grad_norm), own, self.env.num_agents
            )
            for i, leaf in zip(where, part, strict=True):
                clipped[i] = leaf
            norms.append(norm)
        return tree.unflatten(clipped), jnp.linalg.norm(jnp.stack(norms))

    def _minibatches(self, batch: Batch, key: jax.Array) -> tuple[Batch, jax.Array]:
        """The rollout with samples on axis 2, and which of them each gradient step sees, int32[steps, M]."""
        if not self.policy_config.recurrent:
            memory = batch.memory
            batch = jax.tree.map(_merge_time, batch._replace(memory=None))
            size = batch.obs.shape[2]
            batch = batch._replace(memory=jax.tree.map(lambda m: jnp.zeros((*m.shape[:2], size, 0)), memory))
        samples = batch.obs.shape[2]
        keys = jax.random.split(key, self.config.update_epochs)
        order = jax.vmap(lambda k: jax.random.permutation(k, samples))(keys)
        return batch, order.reshape(self.config.update_epochs * self.config.num_minibatches, -1)

    def _learning_rates(self, carry: PPOCarry) -> tuple[jax.Array | float, jax.Array | float]:
        """Adam's step sizes in this update: the actor's, with all that it shares with the critic, and the critic's."""
        actor = carry.hp.learning_rate
        critic = actor if carry.hp.critic_learning_rate is None else carry.hp.critic_learning_rate
        if not self.config.anneal_learning_rate:
            return actor, critic
        assert self.num_updates is not None
        left = 1.0 - carry.update / self.num_updates
        return actor * left, critic * left

    def loss(self, params: Any, batch: Batch, hp: PPOHyperparameters) -> tuple[jax.Array, Metrics]:
        """PPO's loss on one minibatch, averaged over agents and samples, and its parts."""
        weights = self.actor_critic.weights(params)
        policy_loss, metrics = self.policy_loss(weights, batch, hp)
        value_loss = self.value_loss(weights, batch, hp)
        total = policy_loss + hp.value_coefficient * value_loss - hp.entropy_coefficient * metrics["entropy"]
        return total, {"loss": total, "value_loss": value_loss} | metrics

    def policy_loss(self, weights: Any, batch: Batch, hp: PPOHyperparameters) -> tuple[jax.Array, Metrics]:
        """L_clip of the agents whose weights these are, and what to watch, their entropy among it."""
        outputs, log_ratio = self.log_ratio(weights, batch)
        if self._continuous:
            entropy = jnp.mean(gaussian_entropy(self.actor_critic.log_std(weights), batch.mask))
        else:
            entropy = jnp.mean(categorical_entropy(outputs))
        advantage = normalize(batch.advantage, self.config.normalize_advantages)
        if batch.factor is not None:
            advantage = advantage * batch.factor
        policy_loss = clipped_policy_loss(log_ratio, advantage, hp.clip_epsilon)
        ratio = jnp.exp(log_ratio)
        return policy_loss, {
            "policy_loss": policy_loss,
            "entropy": entropy,
            "approx_kl": jnp.mean(ratio - 1.0 - log_ratio),
            "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > hp.clip_epsilon),
        }

    def log_ratio(self, weights: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The actor's outputs [T, N, M, A], and log rho [T, N, M] of the actions taken."""
        outputs, _ = self._outputs(weights, batch.obs, batch.mask, batch.memory[0][0], batch.reset)
        return outputs, self._log_prob(weights, outputs, batch.action, batch.mask) - batch.log_prob

    def value_loss(self, weights: Any, batch: Batch, hp: PPOHyperparameters) -> jax.Array:
        """L_value, float32[]."""
        critic_input = batch.obs if batch.global_state is None else batch.global_state
        value, _ = self.actor_critic.value(weights, critic_input, batch.memory[1][0], batch.reset)
        epsilon = hp.clip_epsilon if self.config.clip_values else None
        delta = hp.huber_delta if self.config.value_loss == "huber" else None
        return clipped_value_loss(value, batch.value, batch.target, epsilon, delta)


def _is_critic(path: tuple) -> bool:
    """Whether the parameter at this place is the critic's alone: its network's, its embeddings."""
    return any(entry.key == "critic" for entry in path)


def _merge_time(x: jax.Array) -> jax.Array:
    """[T, N, E, ...] -> [1, N, T·E, ...]: to a feed-forward network, time is more batch."""
    return jnp.swapaxes(x, 0, 1).reshape(1, x.shape[1], -1, *x.shape[3:])

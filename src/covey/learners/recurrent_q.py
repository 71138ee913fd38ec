"""Independent recurrent Q-learning with a replay of sequences, under any sharing scheme and social reward.

    y_t = u_t + gamma (1 - done_t) max_a Q'(h_{t+1}, a)            u: the reward that the agent is trained on
    L   = mean over agents, sequences and time of (y_t - Q(h_t, a_t))^2,      Q' <- (1 - tau) Q' + tau Q

The IQL of "Fairness over Equality" (2602.15407), whose settings are the defaults: sequences of 125 steps, replayed from
a memory of zeros, 20 gradient steps on 3 sequences each per 16 x 125 steps, a soft target after each, time limits as
ends. What deviates, and why:
* a gated recurrent unit in place of the LSTM (whose dropout, with a single layer, did nothing);
* agents replay the same sequences in a gradient step, where theirs draw their own: same distribution, one read;
* symbols of cells in place of their pictures (`covey.policies.encoders`), so that the replay of 20 000 steps takes
  5 MB per agent and seed, and not 470 MB.

Collection, replay and gradient steps are one program: the replay lies on the device, in the carry. Where agents share
no parameter (NoPS) each has its own loss, gradient clipping and Adam.

Letters: E envs, T steps of a sequence, N agents, B sequences of a minibatch, O obs, A actions, H memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from covey.learners import evaluation, gradients, replay, shaping
from covey.learners.base import Metrics, check_numbers
from covey.learners.replay import Replay
from covey.policies.actor_critic import PolicyConfig
from covey.policies.distributions import mask_logits
from covey.policies.q_network import QNetwork
from covey.social import SocialParameters, SocialReward, SocialState

Loss = Literal["squared", "huber"]
TimeLimit = Literal["terminal", "bootstrap"]


@dataclass(frozen=True)
class RecurrentQConfig:
    """Sizes and switches of recurrent Q-learning: what shapes the compiled program."""

    num_envs: int = 16
    """Environments stepped in parallel."""
    num_steps: int = 125
    """Steps of each environment between updates: the length of a replayed sequence."""
    buffer_sequences: int = 160
    """Sequences that the replay holds, on the device, for each seed."""
    gradient_steps: int = 20
    """Gradient steps per update."""
    batch_sequences: int = 3
    """Sequences per gradient step, drawn uniformly."""
    burn_in: int = 0
    """Steps at the start of a replayed sequence that only fill the memory, and are not learnt from."""
    stored_memory: bool = False
    """Replay from the memory that the agents had when they began the sequence; else from zeros."""
    double_q: bool = False
    """The network picks the next action and its target values it; else the target does both."""
    loss: Loss = "squared"
    """Loss of the difference to the target: its square, or Huber's with `huber_delta`."""
    time_limit: TimeLimit = "terminal"
    """At a time limit nothing follows, or the value of the state that the episode was cut at, which doubles the
    replay."""
    eval_episodes: int = 10
    """Greedy episodes per evaluation; always the same starts."""
    eval_steps: int | None = None
    """Steps after which an evaluation episode is cut; by default the environment's time limit."""

    def __post_init__(self) -> None:
        names = ("num_envs", "num_steps", "gradient_steps", "batch_sequences", "eval_episodes")
        check_numbers(self, names, lambda x: x >= 1, "an integer of at least 1")
        if self.buffer_sequences < self.num_envs:
            raise ValueError(
                f"buffer_sequences is {self.buffer_sequences}; allowed: at least num_envs = {self.num_envs}"
            )
        if not 0 <= self.burn_in < self.num_steps:
            raise ValueError(f"burn_in is {self.burn_in}; allowed: 0 to num_steps - 1 = {self.num_steps - 1}")
        if self.eval_steps is not None and self.eval_steps < 1:
            raise ValueError(f"eval_steps is {self.eval_steps}; allowed: an integer of at least 1, or None")
        for name, allowed in (("loss", get_args(Loss)), ("time_limit", get_args(TimeLimit))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")

    @property
    def steps_per_update(self) -> int:
        """Environment steps between two updates."""
        return self.num_envs * self.num_steps


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RecurrentQHyperparameters:
    """Recurrent Q-learning's numbers: array leaves of the compiled program."""

    learning_rate: float = 5e-5
    """Adam's step size."""
    discount: float = 0.99
    """Discount per step, gamma."""
    max_grad_norm: float = 5.0
    """Gradients are scaled down to this global norm (each agent's own where nothing is shared)."""
    adam_epsilon: float = 1e-6
    """Adam's epsilon."""
    target_rate: float = 0.005
    """How far the target moves to the network after each gradient step, tau."""
    epsilon_start: float = 0.8
    """Probability of a random action at first."""
    epsilon_end: float = 0.1
    """Probability of a random action in the end."""
    epsilon_steps: float = 1e6
    """Environment steps over which that probability changes, linearly."""
    huber_delta: float = 1.0
    """Difference to the target above which Huber's loss is linear."""

    def __post_init__(self) -> None:
        names = ("learning_rate", "max_grad_norm", "adam_epsilon", "epsilon_steps", "huber_delta")
        check_numbers(self, names, lambda x: x > 0, "a number above 0")
        names = ("discount", "target_rate", "epsilon_start", "epsilon_end")
        check_numbers(self, names, lambda x: 0 <= x <= 1, "a number in [0, 1]")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SocialRecurrentQHyperparameters(RecurrentQHyperparameters):
    """The numbers of recurrent Q-learning on a social reward."""

    social: SocialParameters = field(default_factory=SocialParameters)
    """Numbers of the social reward."""


class Sequence(NamedTuple):
    """T steps of one environment as the replay keeps them; [B, ...] in a minibatch.

    Observations keep the environment's type. An episode's end inside is told by `done`: the next step begins another.
    """

    obs: jax.Array  # [T + 1, N, O], the last one is what follows
    mask: jax.Array | None  # bool[T + 1, N, A], where the environment masks actions
    action: jax.Array  # uint8 or int32 [T, N]
    reward: jax.Array  # float32[T, N], shaped
    done: jax.Array  # bool[T]
    truncated: jax.Array | None  # bool[T]; this and the next two where time limits are bootstrapped
    last_obs: jax.Array | None  # [T, N, O], after the step and before a reset
    last_mask: jax.Array | None  # bool[T, N, A]
    memory: jax.Array | None  # float32[N, H], before the first step, where it is stored


class Statistics(NamedTuple):
    """What metrics need of a rollout, [T, ...]."""

    reward: jax.Array  # [N, E], the environment's
    returned: jax.Array  # [N, E], return of the episode that ended here, else 0
    length: jax.Array  # int32[E], its length, else 0
    shaped_returned: jax.Array | None  # [N, E], the same of the social reward, where there is one; likewise
    diagnostics: Metrics | None  # name -> [N, E]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RecurrentQCarry:
    """Everything that changes during training."""

    params: Any
    target: Any
    optimizer: Any
    hp: RecurrentQHyperparameters
    key: jax.Array
    update: jax.Array  # int32[], updates done
    replay: Replay
    env_state: Any  # [E, ...]
    reset: jax.Array  # bool[1, E], the next step begins an episode
    memory: jax.Array  # [N, E, H]
    running_return: jax.Array  # [N, E], of the episode under way
    running_length: jax.Array  # int32[E]
    social: SocialState | None = None  # [E, ...], the social reward's state
    running_shaped: jax.Array | None = None  # [N, E], return of the social reward


@dataclass(frozen=True)
class RecurrentQ:
    """One seed's recurrent Q-learning on an environment of the contract in `envs_jax.base` with discrete actions; see
    `covey.learners.base.Learner`.

    Agents are trained on `social`'s rewards; episode returns and social metrics are of the environment's own. An
    environment with `visible(state) -> bool[N, N]` tells who sees whom; in others all see all.
    """

    env: Any
    policy_config: PolicyConfig = PolicyConfig(sharing="nops", recurrent=True, recurrent_size=64)
    config: RecurrentQConfig = RecurrentQConfig()
    social: SocialReward = SocialReward()
    """What agents learn on; if it is not selfish, `SocialRecurrentQHyperparameters` hold its numbers."""

    def __post_init__(self) -> None:
        if not hasattr(self.env.action_space(), "n"):
            raise ValueError(f"Q-learning needs discrete actions; {self.env.name} has {self.env.action_space()}")
        _ = self.eval_steps  # Raises where there is no number.

    def check(self, hp: RecurrentQHyperparameters) -> None:
        """Raise ValueError unless these hyper-parameters and networks fit the environment."""
        self.network.count_parameters()
        shaping.check(self.social, self.env.num_agents, hp, SocialRecurrentQHyperparameters)

    @property
    def steps_per_update(self) -> int:
        return self.config.steps_per_update

    @property
    def eval_steps(self) -> int:
        """Steps after which an evaluation episode is cut."""
        return evaluation.episode_steps(self.env, self.config.eval_steps)

    @cached_property
    def network(self) -> QNetwork:
        """The networks, sized for this environment."""
        space = self.env.observation_space()
        return QNetwork(
            self.policy_config,
            num_agents=self.env.num_agents,
            obs_size=int(np.prod(space.shape)),
            num_outputs=self.env.action_space().n,
            obs_space=space,
        )

    @property
    def sequence(self) -> Sequence:
        """Shapes and types of one replayed sequence."""
        config, agents, actions = self.config, self.env.num_agents, self.env.action_space().n
        obs = jax.eval_shape(lambda: self.env.observe(self.env.init(jax.random.key(0))))
        size = self.network.obs_size
        bootstraps = config.time_limit == "bootstrap"

        def shape(dtype: Any, *shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

        masks = self.env.masks_actions
        hidden = jax.eval_shape(lambda: self.network.memory(1)).shape[-1]
        return Sequence(
            obs=shape(obs.dtype, config.num_steps + 1, agents, size),
            mask=shape(bool, config.num_steps + 1, agents, actions) if masks else None,
            action=shape(self._action_dtype, config.num_steps, agents),
            reward=shape(jnp.float32, config.num_steps, agents),
            done=shape(bool, config.num_steps),
            truncated=shape(bool, config.num_steps) if bootstraps else None,
            last_obs=shape(obs.dtype, config.num_steps, agents, size) if bootstraps else None,
            last_mask=shape(bool, config.num_steps, agents, actions) if bootstraps and masks else None,
            memory=shape(jnp.float32, agents, hidden) if config.stored_memory else None,
        )

    @property
    def _action_dtype(self) -> Any:
        return jnp.uint8 if self.env.action_space().n <= 256 else jnp.int32

    def replay_bytes(self, num_seeds: int = 1) -> int:
        """Memory that the replays of so many seeds take on their device, in bytes."""
        return replay.replay_bytes(self.sequence, self.config.buffer_sequences, num_seeds)

    # --- The functions of a learner ---

    def init(self, key: jax.Array, hp: RecurrentQHyperparameters) -> RecurrentQCarry:
        key_params, key_env, key_run = jax.random.split(key, 3)
        num_envs, num_agents = self.config.num_envs, self.env.num_agents
        self.check(hp)
        params = self.network.init(key_params)
        zeros = jnp.zeros((num_agents, num_envs), jnp.float32)
        social = shaping.begin(self.social, num_agents, num_envs)
        return RecurrentQCarry(
            params=params,
            target=jax.tree.map(jnp.copy, params),  # Its own arrays: the carry is donated.
            optimizer=gradients.adam(hp).init(params),
            hp=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hp),
            key=key_run,
            update=jnp.zeros((), jnp.int32),
            replay=replay.init(self.sequence, self.config.buffer_sequences),
            env_state=jax.vmap(self.env.init)(jax.random.split(key_env, num_envs)),
            reset=jnp.ones((1, num_envs), jnp.bool_),
            memory=self.network.memory(num_envs),
            running_return=zeros,
            running_length=jnp.zeros(num_envs, jnp.int32),
            social=social,
            running_shaped=None if social is None else zeros,
        )

    def update(self, carry: RecurrentQCarry, data: Any = None) -> tuple[RecurrentQCarry, Metrics]:
        key, key_rollout, key_learn = jax.random.split(carry.key, 3)
        rate = epsilon(carry.hp, self.steps_per_update * carry.update.astype(jnp.float32))
        carry, sequences, seen = self._rollout(carry, key_rollout, rate)
        carry = replace(carry, key=key, update=carry.update + 1, replay=replay.add(carry.replay, sequences))
        carry, losses = self._learn(carry, key_learn)
        metrics = losses | evaluation.finished(seen.returned, seen.length)
        metrics |= {
            "reward": jnp.mean(seen.reward, axis=(0, 2)),
            "epsilon": rate,
            "replay_sequences": carry.replay.size.astype(jnp.float32),
        }
        if seen.shaped_returned is not None and seen.diagnostics is not None:
            metrics |= shaping.summary(seen.shaped_returned, seen.diagnostics, metrics["episodes"])
        return carry, metrics

    def evaluate(self, carry: RecurrentQCarry, key: jax.Array) -> Metrics:
        """Means over greedy episodes: of the sums of what the environment reports, or, of a mixed-motive game, the
        metrics of `covey.metrics.social`. Reward ranges of a social reward are those of the environments trained in."""
        count, social = self.config.eval_episodes, carry.social
        if social is not None:
            social = jax.tree.map(lambda x: x[jnp.arange(count) % self.config.num_envs], social)
            social = jax.vmap(self.social.restart)(social)
        weights = self.network.weights(carry.params)

        def step(env_state: Any, start: tuple, key: jax.Array) -> tuple[Any, tuple, Any]:
            memory, social = start
            env_state, memory, outcome = self._greedy_step(weights, env_state, memory, key)
            social, _, diagnostics = shaping.shape(self.social, self.env, social, outcome, env_state, carry.hp)
            return env_state, (memory, social), outcome._replace(info=outcome.info | diagnostics)

        start = (self.network.memory(count), social)
        return evaluation.evaluate(self.env, step, start, count, self.eval_steps, key, dilemma=social is not None)

    def policy(self, carry: RecurrentQCarry) -> Any:
        return carry.params

    def episode(self, carry: RecurrentQCarry, key: jax.Array) -> tuple[Any, jax.Array]:
        step = partial(self._greedy_step, self.network.weights(carry.params))
        return evaluation.play(self.env, step, self.network.memory(1), self.eval_steps, key)

    # --- Acting ---

    def _observe(self, env_state: Any) -> tuple[jax.Array, jax.Array | None]:
        """`(obs [N, E, O] in the environment's type, mask [N, E, A] or None)` of E environments."""
        obs = jax.vmap(self.env.observe)(env_state)
        obs = jnp.swapaxes(obs.reshape(*obs.shape[:2], -1), 0, 1)
        if not self.env.masks_actions:
            return obs, None
        return obs, jnp.swapaxes(jax.vmap(self.env.action_mask)(env_state), 0, 1)

    def _values(
        self, weights: Any, seen: tuple[jax.Array, jax.Array | None], memory: jax.Array, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """One step's values [N, E, A], lowest where an action is ruled out, and the next memory; reset bool[1, E]."""
        obs, mask = seen
        values, memory = self.network.q(weights, obs[None], memory, reset[None])
        return _masked(values[0], mask), memory

    def _greedy_step(self, weights: Any, env_state: Any, memory: jax.Array, key: jax.Array) -> tuple[Any, Any, Any]:
        """One step of E environments with the best actions, without reset."""
        seen = self._observe(env_state)
        num_envs = seen[0].shape[1]
        values, memory = self._values(weights, seen, memory, jnp.zeros((1, num_envs), jnp.bool_))
        action = jnp.argmax(values, axis=-1).astype(jnp.int32)
        keys = jax.random.split(key, num_envs)
        env_state, outcome = jax.vmap(self.env.advance)(keys, env_state, jnp.swapaxes(action, 0, 1))
        return env_state, memory, outcome

    def _rollout(
        self, carry: RecurrentQCarry, key: jax.Array, rate: jax.Array
    ) -> tuple[RecurrentQCarry, Sequence, Statistics]:
        """T steps of E environments with a share of random actions: the carry after them, sequences [E, T, ...]."""
        weights = self.network.weights(carry.params)
        bootstraps = self.config.time_limit == "bootstrap"

        def step(loop: tuple, key_step: jax.Array) -> tuple[tuple, tuple]:
            env_state, seen, reset, memory, (social, running_shaped), running_return, running_length = loop
            key_explore, key_random, key_env = jax.random.split(key_step, 3)
            values, memory = self._values(weights, seen, memory, reset)
            explore = jax.random.uniform(key_explore, values.shape[:2]) < rate
            anything = jax.random.categorical(key_random, _masked(jnp.zeros_like(values), seen[1]))
            action = jnp.where(explore, anything, jnp.argmax(values, axis=-1)).astype(jnp.int32)
            keys = jax.random.split(key_env, self.config.num_envs)
            env_state, outcome, last_state = jax.vmap(self.env.advance_and_reset)(
                keys, env_state, jnp.swapaxes(action, 0, 1)
            )
            social, shaped, diagnostics = shaping.shape(self.social, self.env, social, outcome, last_state, carry.hp)
            done, reward, shaped = outcome.done, outcome.reward.T, shaped.T  # [E], [N, E], [N, E]
            running_return, running_length = running_return + reward, running_length + 1
            statistics = Statistics(
                reward=reward,
                returned=jnp.where(done, running_return, 0.0),
                length=jnp.where(done, running_length, 0),
                shaped_returned=None,
                diagnostics=None,
            )
            if running_shaped is not None:
                running_shaped = running_shaped + shaped
                statistics = statistics._replace(
                    shaped_returned=jnp.where(done, running_shaped, 0.0),
                    diagnostics={name: value.T for name, value in diagnostics.items()},
                )
                running_shaped = jnp.where(done, 0.0, running_shaped)
            last_obs, last_mask = self._observe(last_state) if bootstraps else (None, None)
            kept = Sequence(
                obs=seen[0],
                mask=seen[1],
                action=action.astype(self._action_dtype),
                reward=shaped.astype(jnp.float32),
                done=done,
                truncated=outcome.truncated if bootstraps else None,
                last_obs=last_obs,
                last_mask=last_mask,
                memory=None,
            )
            running_return, running_length = jnp.where(done, 0.0, running_return), jnp.where(done, 0, running_length)
            seen = self._observe(env_state)
            loop = (
                env_state, seen, done[None], memory, (social, running_shaped), running_return, running_length,
            )  # fmt: skip
            return loop, (kept, statistics)

        loop = (
            carry.env_state, self._observe(carry.env_state), carry.reset, carry.memory,
            (carry.social, carry.running_shaped), carry.running_return, carry.running_length,
        )  # fmt: skip
        keys = jax.random.split(key, self.config.num_steps)
        loop, (kept, statistics) = jax.lax.scan(step, loop, keys)
        env_state, (obs, mask), reset, memory, (social, running_shaped), running_return, running_length = loop
        kept = kept._replace(
            obs=jnp.concatenate([kept.obs, obs[None]]),
            mask=None if mask is None else jnp.concatenate([kept.mask, mask[None]]),
        )
        done, truncated = kept.done, kept.truncated  # [T, E]; all else is [T, N, E, ...].
        sequences = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), kept._replace(done=None, truncated=None))
        start = jnp.where(carry.reset[..., None], 0.0, carry.memory)
        sequences = sequences._replace(
            done=done.T,
            truncated=None if truncated is None else truncated.T,
            memory=jnp.swapaxes(start, 0, 1) if self.config.stored_memory else None,
        )
        carry = replace(
            carry, env_state=env_state, reset=reset, memory=memory,
            running_return=running_return, running_length=running_length,
            social=None if social is None else self.social.pool(social), running_shaped=running_shaped,
        )  # fmt: skip
        return carry, sequences, statistics

    # --- Learning ---

    def _learn(self, carry: RecurrentQCarry, key: jax.Array) -> tuple[RecurrentQCarry, Metrics]:
        """All gradient steps of an update; metrics averaged over them."""
        hp = carry.hp

        def gradient_step(loop: tuple, key: jax.Array) -> tuple[tuple, Metrics]:
            params, target, optimizer = loop
            batch = replay.sample(carry.replay, key, self.config.batch_sequences)
            (_, metrics), grads = jax.value_and_grad(self.loss, has_aux=True)(params, target, batch, hp)
            grads, norm = gradients.clip(
                grads, jnp.asarray(hp.max_grad_norm), self.network.separate, self.env.num_agents
            )
            updates, optimizer = gradients.adam(hp).update(grads, optimizer)
            params = jax.tree.map(lambda p, u: p - hp.learning_rate * u, params, updates)
            target = jax.tree.map(lambda t, p: t + hp.target_rate * (p - t), target, params)
            return (params, target, optimizer), metrics | {"grad_norm": norm}

        loop = (carry.params, carry.target, carry.optimizer)
        keys = jax.random.split(key, self.config.gradient_steps)
        (params, target, optimizer), metrics = jax.lax.scan(gradient_step, loop, keys)
        carry = replace(carry, params=params, target=target, optimizer=optimizer)
        return carry, {name: jnp.mean(value, axis=0) for name, value in metrics.items()}

    def loss(
        self, params: Any, target: Any, batch: Sequence, hp: RecurrentQHyperparameters
    ) -> tuple[jax.Array, Metrics]:
        """The loss on sequences [B, T, ...], averaged over agents, sequences and time, and what to watch."""
        chosen, goal = self.differences(params, target, batch, hp)
        error = jax.lax.stop_gradient(goal) - chosen
        if self.config.loss == "huber":
            total = jnp.mean(optax.losses.huber_loss(error, delta=hp.huber_delta))  # type: ignore[arg-type]
        else:
            total = jnp.mean(jnp.square(error))
        return total, {
            "loss": total,
            "q": jnp.mean(chosen, axis=(0, 2)),
            "td_error": jnp.mean(jnp.abs(error), axis=(0, 2)),
        }

    def differences(
        self, params: Any, target: Any, batch: Sequence, hp: RecurrentQHyperparameters
    ) -> tuple[jax.Array, jax.Array]:
        """Values of the actions taken and what they are to become, each [T - burn_in, N, B]."""
        weights, target_weights = self.network.weights(params), self.network.weights(target)
        agents_last = jax.tree.map(  # [B, T, N, ...] -> [T, N, B, ...]
            lambda x: jnp.moveaxis(x, 0, 2), batch._replace(done=None, truncated=None, memory=None)
        )
        done = batch.done.T[:, None]  # [T, 1, B]
        # Where the sequence begins an episode the memory is zeros already.
        reset = jnp.concatenate([jnp.zeros_like(done[:1]), done])
        memory = self.network.memory(done.shape[-1]) if batch.memory is None else jnp.swapaxes(batch.memory, 0, 1)
        memories = (memory, memory)  # Of the network and of its target.
        begin = self.config.burn_in
        obs, mask = agents_last.obs, agents_last.mask
        if begin:
            memories = tuple(
                jax.lax.stop_gradient(self.network.q(w, obs[:begin], memory, reset[:begin])[1])
                for w in (weights, target_weights)
            )
        action, reward, done = agents_last.action[begin:], agents_last.reward[begin:], done[begin:]
        obs, reset, mask = obs[begin:], reset[begin:], None if mask is None else mask[begin:]

        values, _ = self.network.q(weights, obs, memories[0], reset)  # [T + 1, N, B, A]
        target_values, _ = self.network.q(target_weights, obs, memories[1], reset)
        after = self._state_value(values[1:], target_values[1:], None if mask is None else mask[1:])
        after = jnp.where(done, 0.0, after)
        if batch.truncated is not None:
            last = self._values_at_cuts(weights, target_weights, obs, memories, reset, agents_last.last_obs[begin:])
            last_mask = agents_last.last_mask
            last = self._state_value(*last, None if last_mask is None else last_mask[begin:])
            after = jnp.where(batch.truncated.T[begin:, None], last, after)
        return _pick(values[:-1], action), reward + hp.discount * after

    def _state_value(self, values: jax.Array, target_values: jax.Array, mask: jax.Array | None) -> jax.Array:
        """What the best action is worth, [T, N, B], from values [T, N, B, A]."""
        best = _masked(values if self.config.double_q else target_values, mask)
        return _pick(target_values, jnp.argmax(best, axis=-1))

    def _values_at_cuts(
        self, weights: Any, target_weights: Any, obs: jax.Array, memories: tuple, reset: jax.Array, last_obs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Values [T, N, B, A] by network and target of the states after each step, before a reset."""
        both = (weights, target_weights)

        def step(memories: tuple, inputs: tuple) -> tuple[tuple, tuple]:
            obs, reset, last_obs = inputs
            memories = tuple(
                self.network.q(w, obs[None], m, reset[None])[1] for w, m in zip(both, memories, strict=True)
            )
            goes_on = jnp.zeros_like(reset)[None]
            last = tuple(
                self.network.q(w, last_obs[None], m, goes_on)[0][0] for w, m in zip(both, memories, strict=True)
            )
            return memories, last

        inputs = (obs[:-1], reset[:-1], last_obs)
        return jax.lax.stop_gradient(jax.lax.scan(step, jax.lax.stop_gradient(memories), inputs)[1])


def epsilon(hp: RecurrentQHyperparameters, steps: jax.Array | float) -> jax.Array:
    """Probability of a random action after so many environment steps, float32[]."""
    done = jnp.minimum(jnp.asarray(steps, jnp.float32) / hp.epsilon_steps, 1.0)
    return hp.epsilon_start + (hp.epsilon_end - hp.epsilon_start) * done


def _masked(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    return values if mask is None else mask_logits(values, mask)


def _pick(values: jax.Array, action: jax.Array) -> jax.Array:
    """values[..., action]: [..., A] and int[...] -> [...]."""
    return jnp.take_along_axis(values, action[..., None].astype(jnp.int32), axis=-1)[..., 0]

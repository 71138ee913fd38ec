"""The frame of all offline learners: their numbers, their carry, and deterministic policies with or without memory.

An offline learner is a frozen value with pure functions, and learns from whatever segments it is given:

    carry = learner.init(key, hp)
    carry, metrics = learner.learn(carry, segments)              one gradient step of everything, on a batch
    params = learner.policy(carry)
    action, memory = learner.act(params, obs, memory)            [N, A] for obs [N, O], greedy
    actions = learner.actions(params, obs)                       [H, N, A] for obs [H, N, O], from an empty memory

Networks see actions scaled to [-1, 1]; all that goes in or comes out is in the environment's units. Memory starts
empty with each segment, as it does with each episode.

Letters: B batch, L rows, H transitions, S state, N agents, O obs, A actions, M memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from covey.learners import gradients
from covey.learners.base import Metrics, check_numbers
from covey.learners.matd3 import Actor
from covey.learners.offline.segments import Segments, Team
from covey.policies import PolicyConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OfflineHyperparameters:
    """Numbers of all offline learners: array leaves of the compiled program. Each reads those that it needs.

    Noises are standard deviations, for actions scaled to [-1, 1].
    """

    learning_rate: float = 3e-4
    """Adam's step size for policies."""
    critic_learning_rate: float = 3e-4
    """Adam's step size for critics and values."""
    discount: float = 0.99
    """Discount per step, gamma."""
    target_rate: float = 0.005
    """How far targets move to the networks at each step, tau."""
    target_noise: float = 0.2
    """Noise on the targets' actions (target policy smoothing); 0 for none."""
    target_noise_clip: float = 0.5
    """Largest such noise."""
    bc_alpha: float = 2.5
    """maddpg_bc, td3_bc: weight of the value, divided by its mean size, beside that of imitation, which is 1."""
    cql_weight: float = 5.0
    """maddpg_cql: weight of the critics' penalty on actions that are not the dataset's."""
    cql_noise: float = 0.2
    """maddpg_cql: noise on the policies' actions that are penalised."""
    expectile: float = 0.7
    """iql: which expectile of the values of the dataset's actions counts as a state's value."""
    temperature: float = 3.0
    """iql: weight of the advantage in the exponent, beta."""
    omiga_alpha: float = 10.0
    """omiga: weight alpha of staying with the dataset's actions, in units of the team's return."""
    ascent_rate: float = 0.1
    """analytic: step size of the plain ascent, in the environment's units."""
    ascent_clip: float = 1.0
    """analytic: each agent's gradient is scaled down to this norm."""
    max_grad_norm: float = 10.0
    """Gradients are scaled down to this global norm (each agent's own where nothing is shared)."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon."""
    synthetic_share: float = 0.5
    """Probability that a segment of a batch is a made-up one, where there are such; else it is the dataset's."""
    pjap_sharpness: float = 4.0
    """Sampling pjap: how fast a segment's priority falls with the distance of its actions from the policies'."""
    pjap_exponent: float = 0.99
    """Sampling pjap: power of the priority that probabilities are in proportion to; 0 for uniform ones."""
    pjap_floor: float = 1e-6
    """Sampling pjap: smallest priority."""
    model_learning_rate: float = 1e-3
    """World model: AdamW's step size."""
    model_weight_decay: float = 2.5e-5
    """World model: AdamW's weight decay."""
    uncertainty_penalty: float = 1.0
    """World model: what is taken from rewards, in their own units, per unit of uncertainty."""
    rollout_noise: float = 0.1
    """World model: noise on the policies' actions in rollouts."""

    def __post_init__(self) -> None:
        above = ("learning_rate", "critic_learning_rate", "ascent_rate", "ascent_clip", "max_grad_norm", "adam_epsilon",
                 "omiga_alpha", "pjap_floor", "model_learning_rate")  # fmt: skip
        check_numbers(self, above, lambda x: x > 0, "a number above 0")
        shares = ("discount", "target_rate", "synthetic_share")
        check_numbers(self, shares, lambda x: 0 <= x <= 1, "a number in [0, 1]")
        check_numbers(self, ("expectile",), lambda x: 0 < x < 1, "a number in (0, 1)")
        rest = ("target_noise", "target_noise_clip", "bc_alpha", "cql_weight", "cql_noise", "temperature",
                "pjap_sharpness", "pjap_exponent", "model_weight_decay", "uncertainty_penalty",
                "rollout_noise")  # fmt: skip
        check_numbers(self, rest, lambda x: x >= 0, "a number of at least 0")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OfflineState:
    """What changes while an offline learner learns.

    params, target, optimizer: dictionaries with "actor" and what else a learner has. key: for its noise.
    """

    params: Any
    target: Any
    optimizer: Any
    hp: OfflineHyperparameters
    key: jax.Array


class OfflineLearner(Protocol):
    """What `covey.learners.offline.Offline` and a generator of segments ask of a learner; see the module."""

    @property
    def team(self) -> Team: ...

    def init(self, key: jax.Array, hp: Any) -> Any: ...

    def learn(self, carry: Any, segments: Segments) -> tuple[Any, Metrics]: ...

    def policy(self, carry: Any) -> Any: ...

    def hyperparameters(self, carry: Any) -> Any: ...

    def start(self) -> jax.Array: ...

    def act(self, params: Any, obs: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array]: ...

    def actions(self, params: Any, obs: jax.Array) -> jax.Array: ...

    def distance(self, carry: Any, segments: Segments) -> jax.Array: ...


class Batch(NamedTuple):
    """Segments as networks take them: time first, agents before the batch, actions in [-1, 1]."""

    obs: jax.Array  # [L, N, B, O], padding 0
    state: jax.Array  # [L, B, S]
    action: jax.Array  # [H, N, B, A], in [-1, 1], padding 0
    reward: jax.Array  # [H, N, B]
    terminated: jax.Array  # bool[H, B]
    mask: jax.Array  # bool[H, B]
    real: jax.Array  # bool[B]


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean over the last axes of `x`, which are the mask's, where it holds; 0 where it holds nowhere."""
    axes = tuple(range(-mask.ndim, 0))
    return jnp.sum(jnp.where(mask, x, 0.0), axis=axes) / jnp.maximum(jnp.sum(mask), 1)


@dataclass(frozen=True)
class Acting:
    """Deterministic policies under any sharing scheme, and what all offline learners do with them."""

    team: Team
    policy_config: PolicyConfig = PolicyConfig(recurrent=True, recurrent_size=64)

    @cached_property
    def actor(self) -> Actor:
        """The policies' networks."""
        return Actor(
            self.policy_config,
            num_agents=self.team.num_agents,
            obs_size=self.team.obs_size,
            num_outputs=self.team.action_size,
        )

    def check(self) -> None:
        """Raise ValueError unless these networks fit together."""
        self.actor.count_parameters()

    # --- Acting ---

    def start(self) -> jax.Array:
        """An empty memory of all agents, [N, M] (M = 0 without recurrence)."""
        return self.actor.networks["actor"].start(self.team.num_agents, 1)[:, 0]

    def act(self, params: Any, obs: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Greedy actions [N, A] for obs [N, O], and the memory [N, M] after them."""
        action, memory = self.unroll(params["actor"], obs[None, :, None], memory[:, None])
        return self.team.from_unit(action[0, :, 0]), memory[:, 0]

    def actions(self, params: Any, obs: jax.Array) -> jax.Array:
        """Greedy actions [H, N, A] along a segment of obs [H, N, O], from an empty memory."""
        action, _ = self.unroll(params["actor"], obs[:, :, None])
        return self.team.from_unit(action[:, :, 0])

    def unroll(self, params: Any, obs: jax.Array, memory: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Actions [T, N, B, A] in [-1, 1], padding 0, for obs [T, N, B, O], and the memory [N, B, M] after them.

        params: the actor's. memory: an empty one by default.
        """
        network, scheme = self.actor.networks["actor"], self.actor.scheme
        time, agents, batch, _ = obs.shape
        memory = network.start(agents, batch) if memory is None else memory
        obs = jnp.where(self.team.own_obs[:, None], obs, 0.0).astype(jnp.float32)
        weights, reset = self.actor.weights(params)["actor"], jnp.zeros((time, 1, batch), jnp.bool_)
        outputs, memory = scheme.unroll(network, weights, scheme.identify(obs), memory, reset)
        return jnp.where(self.team.own_actions[:, None], jnp.tanh(outputs), 0.0), memory

    def policy(self, carry: OfflineState) -> Any:
        """What to act with and to export."""
        return carry.params

    def hyperparameters(self, carry: OfflineState) -> OfflineHyperparameters:
        return carry.hp

    # --- Learning ---

    def batch(self, segments: Segments) -> Batch:
        """Segments as networks take them."""
        obs = jnp.transpose(segments.obs, (1, 2, 0, 3))
        return Batch(
            obs=jnp.where(self.team.own_obs[:, None], obs, 0.0),
            state=jnp.swapaxes(segments.state, 0, 1),
            action=jnp.transpose(self.team.to_unit(segments.action), (1, 2, 0, 3))[:-1],
            reward=jnp.transpose(segments.reward, (1, 2, 0))[:-1],
            terminated=segments.terminated.T[:-1],
            mask=segments.mask.T[:-1],
            real=segments.real,
        )

    def per_action(self, x: jax.Array) -> jax.Array:
        """Means over each agent's own actions, [..., N, B], of x [..., N, B, A]."""
        own = self.team.own_actions[:, None]
        return jnp.sum(jnp.where(own, x, 0.0), axis=-1) / np.maximum(own.sum(axis=-1), 1)

    def distance(self, carry: OfflineState, segments: Segments) -> jax.Array:
        """How far segments' actions are from those of the target policies, [B]: mean |a - pi'(o)| over rows, agents and
        their actions, in units of half an action's range."""
        batch = self.batch(segments)
        action, _ = self.unroll(carry.target["actor"], batch.obs)
        gap = jnp.mean(self.per_action(jnp.abs(action[:-1] - batch.action)), axis=1)  # [H, B]
        return jnp.sum(jnp.where(batch.mask, gap, 0.0), axis=0) / jnp.maximum(jnp.sum(batch.mask, axis=0), 1)


def step(
    params: Any,
    grads: Any,
    optimizer: Any,
    learning_rate: jax.Array | float,
    hp: OfflineHyperparameters,
    separate: bool,
    num_agents: int,
    agent_axis: int = 0,
) -> tuple[Any, Any, jax.Array]:
    """One clipped step of Adam: parameters, Adam's state, and the gradients' norm before. See `gradients.clip`."""
    grads, norm = gradients.clip(grads, hp.max_grad_norm, separate, num_agents, agent_axis)
    updates, optimizer = gradients.adam(hp).update(grads, optimizer)
    return jax.tree.map(lambda p, u: p - learning_rate * u, params, updates), optimizer, norm


def as_arrays(hp: Any) -> Any:
    """Hyper-parameters as float32 arrays, for a carry."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hp)

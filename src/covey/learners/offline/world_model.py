"""A world model of the joint task, and segments that the current policies live through in it.

An ensemble of K networks predicts, from what is there before a joint action, how state and observations change, every
agent's reward, and whether the episode terminates:

    N(mu_k(x), diag sigma_k^2(x)),   x = [s, o, a]  ->  [s' - s, o' - o, r],      p_k(terminated | x)

each fitted by likelihood to batches of its own, all scaled to mean 0 and deviation 1. Log variances are held softly
between two learned bounds (Chua et al., 1805.12114). A rollout starts at a recorded row, and at each step a member
drawn from the elites (those with the smallest error on held-out episodes) says what comes next. Rewards are lowered by
how little the ensemble knows:

    r <- r - penalty u,   u = max_k rms sigma_k(x)  ("noise": MOPO, Yu et al., 2005.13239),
                          u = max_k rms (mu_k(x) - mean mu)  ("disagreement")

The root mean square is over the scaled predictions. This is MOPO for a team, with joint dynamics as in MOMA-PPO (Barde
et al., 2305.17198); from that it differs in that rollouts feed an offline learner's batches instead of PPO.

Letters: K members, B batch, L rows, S state, N agents, O obs, A actions, I inputs, D predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from covey.learners import gradients
from covey.learners.base import Metrics, check_numbers
from covey.learners.offline.base import OfflineHyperparameters
from covey.learners.offline.segments import Segments, Source, Team
from covey.policies.networks import MLP
from covey.policies.sharing import NoSharing

Uncertainty = Literal["noise", "disagreement"]
Act = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

FORGETTING = 0.1
"""How far a member's error moves to its newest measurement."""
MEASURED = 65_536
"""Transitions, at most, of which means and deviations are taken."""
FARTHEST = 10.0
"""Largest input and prediction, in deviations: a rollout that leaves the data stays finite."""


@dataclass(frozen=True)
class WorldModelConfig:
    """The world model's sizes, and how much is lived through in it."""

    rollouts: int = 0
    """Segments made by the world model in each update; 0 for no world model."""
    rollout_length: int = 5
    """Their transitions, at most the segments' horizon; longer ones go farther from the data."""
    uncertainty: Uncertainty = "noise"
    """What lowers rewards: the largest predicted deviation, or the largest distance of a member from the mean."""
    model_steps: int = 250
    """Gradient steps of the world model in each update."""
    warmup_updates: int = 4
    """Updates in which the world model is fitted and its segments not yet learned from."""
    model_members: int = 7
    """Networks of the ensemble."""
    model_elites: int = 5
    """How many of them, the best on held-out episodes, make rollouts."""
    model_hidden_sizes: tuple[int, ...] = (200, 200, 200, 200)
    """Units in each hidden layer of a member."""
    model_batch_size: int = 256
    """Transitions per gradient step and member."""

    def __post_init__(self) -> None:
        check_numbers(self, ("rollouts", "warmup_updates"), lambda x: x >= 0, "an integer of at least 0")
        names = ("rollout_length", "model_steps", "model_members", "model_elites", "model_batch_size")
        check_numbers(self, names, lambda x: x >= 1, "an integer of at least 1")
        if self.model_elites > self.model_members:
            raise ValueError(f"model_elites is {self.model_elites}; allowed: 1 to model_members = {self.model_members}")
        if any(size < 1 for size in self.model_hidden_sizes):
            raise ValueError(f"model_hidden_sizes is {self.model_hidden_sizes}; allowed: integers of at least 1")
        if self.uncertainty not in get_args(Uncertainty):
            raise ValueError(f"uncertainty is {self.uncertainty!r}; allowed: {', '.join(get_args(Uncertainty))}")


class Scale(NamedTuple):
    """Means and deviations of inputs [I] and predictions [D]; deviations of what does not vary are 1."""

    input_mean: jax.Array
    input_std: jax.Array
    output_mean: jax.Array
    output_std: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ModelState:
    """What changes of a world model.

    error: float32[K], squared error of scaled means on held-out transitions, averaged over the last fits; infinite
    before the first. scale: of the dataset.
    """

    params: Any
    optimizer: Any
    error: jax.Array
    scale: Scale


class Prediction(NamedTuple):
    """Of all members, scaled."""

    mean: jax.Array  # [K, B, D]
    log_var: jax.Array  # [K, B, D]
    terminated: jax.Array  # [K, B], log odds


@dataclass(frozen=True)
class WorldModel:
    """See the module."""

    team: Team
    config: WorldModelConfig = WorldModelConfig(rollouts=1)

    @cached_property
    def _members(self) -> NoSharing:
        return NoSharing(self.config.model_members)

    @cached_property
    def outputs(self) -> int:
        """D: the state, all observations, every agent's reward."""
        return self.team.state_size + int(self.team.own_obs.sum()) + self.team.num_agents

    @cached_property
    def network(self) -> MLP:
        """A member: means, log variances and the odds of an end."""
        inputs = self.team.state_size + int(self.team.own_obs.sum() + self.team.own_actions.sum())
        return MLP(inputs, 2 * self.outputs + 1, self.config.model_hidden_sizes)

    def init(self, key: jax.Array, hp: OfflineHyperparameters) -> ModelState:
        params = {
            "network": self._members.init(key, {"model": self.network})["model"],
            "largest": jnp.full(self.outputs, 0.5, jnp.float32),
            "smallest": jnp.full(self.outputs, -10.0, jnp.float32),
        }
        one = (jnp.zeros(self.network.inputs), jnp.ones(self.network.inputs))
        other = (jnp.zeros(self.outputs), jnp.ones(self.outputs))
        error = jnp.full(self.config.model_members, jnp.inf, jnp.float32)
        return ModelState(params, gradients.adam(hp).init(params), error, Scale(*one, *other))

    def predict(self, params: Any, x: jax.Array) -> Prediction:
        """What members predict from scaled inputs x [K or 1, B, I]."""
        nothing = jnp.zeros((1, 1), jnp.float32)
        outputs, _ = self.network.unroll(params["network"], x[None], nothing, nothing)
        mean, log_var = outputs[0, ..., : self.outputs], outputs[0, ..., self.outputs : -1]
        log_var = params["largest"] - jax.nn.softplus(params["largest"] - log_var)
        log_var = params["smallest"] + jax.nn.softplus(log_var - params["smallest"])
        return Prediction(mean, log_var, outputs[0, ..., -1])

    def fit(
        self, state: ModelState, data: Source, key: jax.Array, hp: OfflineHyperparameters
    ) -> tuple[ModelState, Metrics]:
        """`model_steps` gradient steps, and the members' errors measured anew."""
        key_fit, key_judge = jax.random.split(key)
        state = replace(state, scale=self.scale(data))

        def one(loop: tuple, key_step: jax.Array) -> tuple[tuple, jax.Array]:
            params, optimizer = loop
            shape = (self.config.model_members, self.config.model_batch_size)
            rows = jax.random.choice(key_step, data.rows, shape)
            loss, grads = jax.value_and_grad(self.loss)(params, *self._examples(data, rows, state.scale))
            updates, optimizer = gradients.adam(hp).update(grads, optimizer)
            decay = {**jax.tree.map(jnp.zeros_like, params), "network": params["network"]}
            params = jax.tree.map(
                lambda p, u, d: p - hp.model_learning_rate * (u + hp.model_weight_decay * d), params, updates, decay
            )
            return (params, optimizer), loss

        keys = jax.random.split(key_fit, self.config.model_steps)
        (params, optimizer), loss = jax.lax.scan(one, (state.params, state.optimizer), keys)
        rows = jax.random.choice(key_judge, data.held_out, (1, 1024))
        x, y, _ = self._examples(data, rows, state.scale)
        error = jnp.mean(jnp.square(self.predict(params, x).mean - y), axis=(1, 2))  # [K]
        error = jnp.where(jnp.isfinite(state.error), state.error + FORGETTING * (error - state.error), error)
        metrics = {"model_loss": jnp.mean(loss), "model_error": jnp.mean(jnp.sort(error)[: self.config.model_elites])}
        return replace(state, params=params, optimizer=optimizer, error=error), metrics

    def loss(self, params: Any, x: jax.Array, y: jax.Array, terminated: jax.Array) -> jax.Array:
        """The sum over members of mean negative log-likelihoods (twice that of the Gaussian, up to a constant), and
        1/100 of the distance between the bounds of log variances. x [K, B, I], y [K, B, D], terminated [K, B]."""
        found = self.predict(params, x)
        gaussian = jnp.square(found.mean - y) * jnp.exp(-found.log_var) + found.log_var
        ending = optax.sigmoid_binary_cross_entropy(found.terminated, terminated)
        likelihood = jnp.sum(jnp.mean(gaussian, axis=(1, 2)) + jnp.mean(ending, axis=1))
        return likelihood + 0.01 * jnp.sum(params["largest"] - params["smallest"])

    def reward(self, state: ModelState, segments: Segments) -> jax.Array:
        """What the elites take the rewards of segments' rows to be, on average, [B, L, N]."""
        x = self._input(segments.state, segments.obs, segments.action, state.scale)
        found = self.predict(state.params, x.reshape(1, -1, x.shape[-1])).mean[..., -self.team.num_agents :]
        elites = jnp.argsort(state.error)[: self.config.model_elites]
        mean = jnp.mean(jnp.clip(found, -FARTHEST, FARTHEST)[elites], axis=0).reshape(*x.shape[:-1], -1)
        count = self.team.num_agents
        return state.scale.output_mean[-count:] + state.scale.output_std[-count:] * mean

    def rollout(
        self, state: ModelState, act: Act, memory: jax.Array, data: Source, key: jax.Array, horizon: int,
        hp: OfflineHyperparameters,
    ) -> tuple[Segments, Metrics]:  # fmt: skip
        """Segments [B, L, ...] of the policies' lives in the model, with `horizon` = L - 1 (masked beyond their own).

        act: `(obs [N, O], memory [N, M]) -> (action [N, A], memory)`; memory: an empty one, [N, M].
        """
        count, team = self.config.rollouts, self.team
        key_start, key_steps = jax.random.split(key)
        rows = jax.random.choice(key_start, data.rows, (count,))
        world, obs = (jnp.take(x, rows, axis=0) for x in (data.dataset.state, data.dataset.obs))
        elites = jnp.argsort(state.error)[: self.config.model_elites]

        def one(loop: tuple, key_step: jax.Array) -> tuple[tuple, tuple]:
            world, obs, memory, alive = loop
            key_act, key_member, key_next = jax.random.split(key_step, 3)
            action, memory = jax.vmap(act)(obs, memory)
            noise = hp.rollout_noise * jax.random.normal(key_act, action.shape)
            action = team.from_unit(jnp.clip(team.to_unit(action) + noise, -1.0, 1.0))
            found = self.predict(state.params, self._input(world, obs, action, state.scale)[None])
            member = jax.random.choice(key_member, elites, (count,))
            mean, log_var, ending = (x[member, jnp.arange(count)] for x in found)
            change = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key_next, mean.shape)
            next_world, next_obs, reward = self._outcome(world, obs, change, state.scale)
            doubt = self.doubt(found)
            reward = reward - hp.uncertainty_penalty * doubt[:, None]
            terminated = ending > 0
            kept = (world, obs, action, reward, terminated, alive), jnp.where(alive, doubt, 0.0)
            return (next_world, next_obs, memory, alive & ~terminated), kept

        length = min(self.config.rollout_length, horizon)
        memory = jnp.broadcast_to(memory, (count, *memory.shape))
        loop = (world, obs, memory, jnp.ones(count, jnp.bool_))
        (world, obs, _, _), (kept, doubt) = jax.lax.scan(one, loop, jax.random.split(key_steps, length))
        # The row after the last step, as often as it takes to be as long as recorded segments are.
        nothing = jax.tree.map(lambda x: jnp.zeros_like(x[0]), kept[2:])
        rest = jax.tree.map(lambda x: jnp.stack([x] * (horizon + 1 - length)), (world, obs, *nothing))
        rows = jax.tree.map(lambda x, y: jnp.swapaxes(jnp.concatenate([x, y]), 0, 1), kept, rest)
        world, obs, action, reward, terminated, alive = rows  # [B, L, ...]
        lived = jnp.maximum(jnp.sum(alive), 1)
        metrics = {
            "rollout_uncertainty": jnp.sum(doubt) / lived,
            "rollout_reward": jnp.sum(jnp.where(alive[..., None], reward, 0.0), axis=(0, 1)) / lived,
            "rollout_length": lived / count,
        }
        return Segments(world, obs, action, reward, terminated, alive, jnp.zeros(count, jnp.bool_)), metrics

    def doubt(self, found: Prediction) -> jax.Array:
        """How little is known of what comes next, [B]; see the module."""
        if self.config.uncertainty == "noise":
            spread = jnp.mean(jnp.exp(found.log_var), axis=-1)
        else:
            spread = jnp.mean(jnp.square(found.mean - jnp.mean(found.mean, axis=0)), axis=-1)
        return jnp.sqrt(jnp.max(spread, axis=0))

    # --- Inputs and predictions as vectors ---

    def scale(self, data: Source) -> Scale:
        """Means and deviations over the transitions that are learned from, or evenly spaced ones of many."""
        x, y, _ = self._raw(data, data.rows[:: -(-data.rows.shape[0] // MEASURED)])

        def deviation(values: jax.Array) -> jax.Array:
            std = jnp.std(values, axis=0)
            return jnp.where(std > 1e-6, std, 1.0)

        return Scale(jnp.mean(x, axis=0), deviation(x), jnp.mean(y, axis=0), deviation(y))

    def _raw(self, data: Source, rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Inputs [..., I], what came of them [..., D], and whether the episode terminated, of transitions `rows`."""
        recorded = data.dataset
        world, obs = (jnp.take(x, rows, axis=0) for x in (recorded.state, recorded.obs))
        next_world, next_obs = (jnp.take(x, rows + 1, axis=0) for x in (recorded.state, recorded.obs))
        action, reward, terminated = (
            jnp.take(x, rows, axis=0) for x in (recorded.action, recorded.reward, recorded.terminated)
        )
        changes = (next_world - world, self.team.joint_obs(next_obs - obs), reward)
        return self._vector(world, obs, action), jnp.concatenate(changes, axis=-1), terminated

    def _vector(self, world: jax.Array, obs: jax.Array, action: jax.Array) -> jax.Array:
        joint = self.team.joint_action(self.team.to_unit(action))
        return jnp.concatenate([world, self.team.joint_obs(obs), joint], axis=-1)

    def _input(self, world: jax.Array, obs: jax.Array, action: jax.Array, scale: Scale) -> jax.Array:
        """Scaled inputs [..., I]."""
        x = (self._vector(world, obs, action) - scale.input_mean) / scale.input_std
        return jnp.clip(x, -FARTHEST, FARTHEST)

    def _examples(self, data: Source, rows: jax.Array, scale: Scale) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Scaled inputs and predictions of transitions `rows`, and whether they terminated."""
        x, y, terminated = self._raw(data, rows)
        x = jnp.clip((x - scale.input_mean) / scale.input_std, -FARTHEST, FARTHEST)
        return x, (y - scale.output_mean) / scale.output_std, terminated.astype(jnp.float32)

    def _outcome(
        self, world: jax.Array, obs: jax.Array, change: jax.Array, scale: Scale
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Next state [B, S] and observations [B, N, O], and rewards [B, N], from scaled predictions [B, D]."""
        change = scale.output_mean + scale.output_std * jnp.clip(change, -FARTHEST, FARTHEST)
        size, agents = self.team.state_size, self.team.num_agents
        own = jnp.zeros(obs.shape, jnp.float32).at[:, *self.team.own_obs.nonzero()].set(change[:, size:-agents])
        return world + change[:, :size], obs + own, change[:, -agents:]

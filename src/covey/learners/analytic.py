"""MADDPG where the payoff is known: an offline learner whose policies are one number per agent.

    J_i(theta_i) = E_{a ~ data} R_i(a_1, ..., theta_i, ..., a_N)        others' actions from the data ("BRUD")
    theta_i <- clip(theta_i + eta clip_norm(dJ_i / dtheta_i))

The critic is the payoff itself, so that all that goes wrong is what the data say of the other agents: the learner of
CODA's polynomial games (2604.23308, section 6.1 and table 4), after Tilbury et al. (2407.01343). Each agent has its own
plain gradient ascent and its own clipping, as separate optimisers have; the paper does not say.

Letters: B batch, H horizon, N agents; an action is one number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covey.learners import evaluation
from covey.learners.base import Metrics, check_numbers


@dataclass(frozen=True)
class AnalyticConfig:
    """Static settings."""

    initial: tuple[float, ...] = ()
    """Joint action at the start, one number per agent; empty for a random one within the bounds, for each seed."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AnalyticHyperparameters:
    """Numbers of the gradient ascent."""

    learning_rate: float = 0.1
    """Step size, eta."""
    max_grad_norm: float = 1.0
    """Each agent's gradient is scaled down to this norm."""

    def __post_init__(self) -> None:
        check_numbers(self, ("learning_rate", "max_grad_norm"), lambda x: x > 0, "a number above 0")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AnalyticCarry:
    """What changes."""

    theta: jax.Array  # float32[N], the joint action
    hp: AnalyticHyperparameters


def data_gradient(payoff: Callable[[jax.Array], jax.Array], theta: jax.Array, actions: jax.Array) -> jax.Array:
    """dJ_i / dtheta_i, float32[N], for joint actions of the data [B, N] and `payoff`: [..., N] -> [..., N]."""
    own = jnp.eye(theta.shape[0], dtype=bool)

    def value(theta: jax.Array) -> jax.Array:
        joint = jnp.where(own[:, None], theta, actions)  # (N, B, N): row i has agent i's action from its policy
        return jnp.sum(jnp.mean(jnp.einsum("ibi->ib", payoff(joint)), axis=1))

    return jax.grad(value)(theta)


@dataclass(frozen=True)
class AnalyticMADDPG:
    """One seed's learner of an environment of one step, whose `payoff` maps joint actions [..., N] to rewards [..., N].

    A base of `covey.diffusion.coda.Coda`.
    """

    env: Any
    payoff: Callable[[jax.Array], jax.Array]
    config: AnalyticConfig = AnalyticConfig()

    def __post_init__(self) -> None:
        low, high = self.bounds
        initial = np.asarray(self.config.initial)
        if initial.size and initial.shape != low.shape:
            raise ValueError(f"initial is {self.config.initial}; allowed: a number for each of {len(low)} agents")
        if initial.size and not ((low <= initial) & (initial <= high)).all():
            raise ValueError(f"initial is {self.config.initial}; allowed: {low.tolist()} to {high.tolist()}")

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest action of each agent, float32[N]."""
        bounds = [self.env.action_space(agent).bounds() for agent in self.env.agents]
        low, high = (np.array([np.reshape(b[i], ()) for b in bounds], np.float32) for i in (0, 1))
        return low, high

    # --- What a base of CODA is asked for ---

    def init(self, key: jax.Array, hp: AnalyticHyperparameters) -> AnalyticCarry:
        low, high = self.bounds
        anywhere = jax.random.uniform(key, low.shape, minval=low, maxval=high)
        theta = jnp.asarray(self.config.initial, jnp.float32) if self.config.initial else anywhere
        return AnalyticCarry(theta, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hp))

    def learn(self, carry: AnalyticCarry, segments: Any, key: jax.Array) -> tuple[AnalyticCarry, Metrics]:
        """One step on segments whose `action` is [B, H, N, 1] (`covey.diffusion.segments.Segment`)."""
        actions = segments.action[..., 0].reshape(-1, self.env.num_agents)  # (B·H, N)
        gradient = data_gradient(self.payoff, carry.theta, actions)
        step = gradient * jnp.minimum(1.0, carry.hp.max_grad_norm / (jnp.abs(gradient) + 1e-9))
        theta = jnp.clip(carry.theta + carry.hp.learning_rate * step, *self.bounds)
        metrics = {"gradient": gradient, "batch_mean": jnp.mean(actions, axis=0), "batch_std": jnp.std(actions, axis=0)}
        return replace(carry, theta=theta), metrics

    def act(self, carry: AnalyticCarry, obs: jax.Array) -> jax.Array:
        """The joint action [B, H, N, 1], whatever the obs [B, H, N, O]."""
        return jnp.broadcast_to(carry.theta[:, None], (*obs.shape[:3], 1))

    def descriptor(self, carry: AnalyticCarry) -> jax.Array:
        """What tells this joint policy from others: its parameters, as actions [N, 1]."""
        return carry.theta[:, None]

    def state_metrics(self, carry: AnalyticCarry) -> Metrics:
        """Where the joint action is, [N]."""
        return {"theta": carry.theta}

    def reward(self, segments: Any) -> jax.Array:
        """The true rewards of segments, [B, H, N]."""
        return self.payoff(segments.action[..., 0])

    def evaluate(self, carry: AnalyticCarry, key: jax.Array) -> Metrics:
        return evaluation.evaluate(self.env, self._step(carry), None, 1, 1, key)

    def policy(self, carry: AnalyticCarry) -> Any:
        return {"theta": carry.theta}

    def episode(self, carry: AnalyticCarry, key: jax.Array) -> tuple[Any, jax.Array]:
        return evaluation.play(self.env, self._step(carry), None, 1, key)

    def _step(self, carry: AnalyticCarry) -> evaluation.Step:
        def step(env_state: Any, memory: None, key: jax.Array) -> tuple[Any, None, Any]:
            count = env_state.step.shape[0]
            actions = jnp.broadcast_to(carry.theta[:, None], (count, self.env.num_agents, 1))
            env_state, outcome = jax.vmap(self.env.advance)(jax.random.split(key, count), env_state, actions)
            return env_state, memory, outcome

        return step

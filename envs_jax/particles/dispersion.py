"""Dispersion: agents that start at one point share out food items, each of which is eaten once.

Source: the scenario `dispersion` of `vmas` (1.4.2 to 1.5.2), which HyperMARL (arXiv 2412.04233) uses to test whether
agents with shared weights can still behave differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax import drawing
from envs_jax.base import Outcome, flat_box, pytree, start_clock
from envs_jax.drawing import Canvas
from envs_jax.particles import physics
from envs_jax.particles.base import ParticleEnv, ParticleState, draw_agents, require_positive
from envs_jax.spaces import Box

AGENT_RADIUS = 0.035
FOOD_COLOR = "#5f6368"


@pytree
class DispersionState(ParticleState):
    """Agents and food; F food items.

    position, velocity: see `ParticleState`.
    food: float32[F, 2], where the items are.
    eaten: bool[F], which of them are gone.
    """

    food: jax.Array
    eaten: jax.Array


def portions(position: jax.Array, state: DispersionState, reach: float) -> jax.Array:
    """What agents at `position` eat of the food that is left: float32[N, F].

    Every agent closer than `reach` to an item gets an equal portion of it, so a column sums to 1 where an item is
    eaten now, else to 0.
    """
    offset = state.food[None] - position[:, None]  # [N, F, 2]
    on_food = offset[..., 0] ** 2 + offset[..., 1] ** 2 < reach**2
    eaters = jnp.sum(on_food, axis=0, dtype=jnp.float32)
    return jnp.where(on_food & ~state.eaten, 1 / jnp.maximum(eaters, 1), 0.0)


@dataclass(frozen=True)
class Dispersion(ParticleEnv):
    """VMAS's dispersion in JAX.

    Observation, float32[4 + 3 F]: own position, own velocity, then per food item its offset and whether it is eaten.
    Agents do not see, nor touch, each other. Terminates when all food is eaten.
    `info`: `food_eaten`, what each agent ate at this step, with an item shared equally by those on it.
    """

    num_agents: int = 4
    """Number of agents, all of which start at the origin."""
    max_steps: int | None = 100
    """Steps after which an episode is truncated. The HyperMARL paper does not say what it used; VMAS has no limit."""
    continuous_actions: bool = False
    """Whether an action is a force, float32[2] in [-1, 1]; otherwise it is one of `discrete_actions`."""
    num_food: int | None = None
    """Number of food items; None for as many as agents."""
    share_reward: bool = False
    """Whether everyone gets 1 for each item eaten; otherwise 1 is split between the agents on the item."""
    penalise_by_time: bool = False
    """Whether a reward of 0 becomes -0.01."""
    food_radius: float = 0.05
    """Radius of an item, in world units; it is eaten by touch, at this plus the agent's radius of 0.035."""
    pos_range: float = 1.0
    """Food lies, and agents stay, within ± this on both axes, in world units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_food is not None and self.num_food < 1:
            raise ValueError(f"num_food is {self.num_food}; allowed: an integer of at least 1, or None")
        require_positive(food_radius=self.food_radius, pos_range=self.pos_range)

    @property
    def food_count(self) -> int:
        """Number of food items."""
        return self.num_agents if self.num_food is None else self.num_food

    def observation_space(self, agent: str | None = None) -> Box:
        return flat_box(4 + 3 * self.food_count)

    def init(self, key: jax.Array) -> DispersionState:
        reach = np.float32(self.pos_range)
        return DispersionState(
            **start_clock(),
            position=jnp.zeros((self.num_agents, 2), jnp.float32),
            velocity=jnp.zeros((self.num_agents, 2), jnp.float32),
            food=jax.random.uniform(key, (self.food_count, 2), jnp.float32, -reach, reach),
            eaten=jnp.zeros(self.food_count, jnp.bool_),
        )

    def transition(self, key: jax.Array, state: DispersionState, actions: jax.Array) -> tuple[DispersionState, Outcome]:
        wall = (self.pos_range, self.pos_range)
        position, velocity = physics.move(state.position, state.velocity, self.force(actions), semidim=wall)
        portion = portions(position, state, AGENT_RADIUS + self.food_radius)
        eaten_now = jnp.any(portion > 0, axis=0)
        food_eaten = jnp.sum(portion, axis=1)
        if self.share_reward:
            reward = jnp.broadcast_to(jnp.sum(eaten_now, dtype=jnp.float32), (self.num_agents,))
        else:
            reward = food_eaten
        if self.penalise_by_time:
            reward = jnp.where(reward == 0, -0.01, reward)
        state = state.replace(position=position, velocity=velocity, eaten=state.eaten | eaten_now)
        return state, Outcome(reward, jnp.all(state.eaten), jnp.zeros((), jnp.bool_), {"food_eaten": food_eaten})

    def observe(self, state: DispersionState) -> jax.Array:
        offset = state.food[None] - state.position[:, None]  # [N, F, 2]
        eaten = jnp.broadcast_to(state.eaten.astype(jnp.float32)[None, :, None], (*offset.shape[:2], 1))
        items = jnp.concatenate([offset, eaten], axis=-1).reshape(self.num_agents, -1)
        return jnp.concatenate([state.position, state.velocity, items], axis=-1)

    def render(self, state: DispersionState) -> np.ndarray:
        reach = self.pos_range
        edge = 1.08 * reach + AGENT_RADIUS
        canvas = Canvas((-edge, edge, -edge, edge))
        canvas.frame((-reach, -reach), (reach, reach), 2 * canvas.pixel, drawing.FAINT)
        for place, eaten in zip(np.asarray(state.food), np.asarray(state.eaten), strict=True):
            if eaten:
                canvas.ring(place, self.food_radius, 1.5 * canvas.pixel, FOOD_COLOR, alpha=0.35)
            else:
                canvas.disc(place, self.food_radius, FOOD_COLOR, alpha=0.3)
                canvas.disc(place, 0.62 * self.food_radius, FOOD_COLOR)
        draw_agents(canvas, np.asarray(state.position), np.asarray(state.velocity), AGENT_RADIUS)
        return canvas.image()

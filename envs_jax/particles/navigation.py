"""Navigation: every agent drives to its goal; goals may be all different, shared by some, or the same for all.

Source: the scenario `navigation` of `vmas` (1.4.2 to 1.5.2), with the settings that HyperMARL (arXiv 2412.04233) and
DiCo, whose task it follows, use as defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax import drawing
from envs_jax.base import Outcome, flat_box, pytree, start_clock
from envs_jax.drawing import Canvas
from envs_jax.particles import physics, spawning
from envs_jax.particles.base import ParticleEnv, ParticleState, draw_agents, require_positive, view_edge
from envs_jax.spaces import Box

GOAL_RADIUS = 0.05
"""An agent is on its goal closer than this; the episode already ends when all are within their own radius of it."""
MIN_COLLISION_DISTANCE = 0.005
"""Agents with a gap of at most this between their edges count as colliding."""


@pytree
class NavigationState(ParticleState):
    """Agents and goals.

    position, velocity: see `ParticleState`.
    goal: float32[N, 2], where each agent is to go.
    """

    goal: jax.Array


def goal_indices(num_agents: int, agents_with_same_goal: int, split_goals: bool = False) -> np.ndarray:
    """Which goal each agent has, int[N], numbered from 0 without gaps.

    The first `agents_with_same_goal` agents share goal 0 and all others have their own; with `split_goals`, the other
    half of the agents shares goal 1.
    """
    agent = np.arange(num_agents)
    if split_goals:
        return agent // agents_with_same_goal
    return np.maximum(agent - agents_with_same_goal + 1, 0)


def count_collisions(position: jax.Array, radius: float) -> jax.Array:
    """How many others each agent collides with, float32[N], for agents at `position` [N, 2]."""
    gap = physics.length(position[:, None] - position[None, :]) - 2 * radius
    others = ~np.eye(position.shape[0], dtype=bool)
    return jnp.sum((gap <= MIN_COLLISION_DISTANCE) & others, axis=1, dtype=jnp.float32)


@dataclass(frozen=True)
class Navigation(ParticleEnv):
    """VMAS's navigation in JAX.

    Observation, float32: own position and velocity (4), own position minus the goal (2; with `observe_all_goals` minus
    each agent's goal, 2 N), and with `collisions` how far another agent reaches into each lidar ray (`n_lidar_rays`).
    Reward: how much closer the goal came, times `pos_shaping_factor` (with `shared_rew` summed over agents), plus
    `final_reward` to all when all are on their goals, plus the collision penalty.
    Terminates when every agent is closer to its goal than its own radius.
    `info`: `pos_rew`, `final_rew`, `agent_collisions` (the reward's three parts) and `on_goal` (1 or 0).

    Deviations from VMAS: defaults are the papers' (each field says where VMAS's differs). Starting positions have a
    fixed amount of work, see `spawning.spawn_apart`, and goals that no agent has are not placed. VMAS counts a near
    collision (a gap of at most 0.005) only if that pair touches in any environment of its batch; here it counts always.
    """

    num_agents: int = 4
    """Number of agents."""
    max_steps: int | None = 100
    """Steps after which an episode is truncated; None for no limit, as in VMAS."""
    agents_with_same_goal: int = 1
    """How many agents, from the first on, share one goal: 1 for all different, `num_agents` for all the same."""
    split_goals: bool = False
    """Whether the second half of the agents shares a second goal; needs `agents_with_same_goal` = `num_agents` / 2."""
    observe_all_goals: bool = True
    """Whether each agent sees everyone's goal, and not only its own. VMAS: False."""
    shared_rew: bool = False
    """Whether all agents get the sum of the agents' shaping rewards. VMAS: True."""
    pos_shaping_factor: float = 1.0
    """Reward per world unit that an agent comes closer to its goal."""
    final_reward: float = 0.01
    """Reward to each agent at every step at which all are within 0.05 of their goals."""
    collisions: bool = False
    """Whether agents collide, are punished for it, and have a lidar; not possible with shared goals. VMAS: True."""
    agent_collision_penalty: float = -1.0
    """Reward for each other agent that one collides with."""
    agent_radius: float = 0.1
    """Radius of an agent, in world units."""
    lidar_range: float = 0.35
    """Reach of the lidar from an agent's centre, in world units."""
    n_lidar_rays: int = 12
    """Number of lidar rays."""
    world_spawning_x: float = 1.0
    """Agents and goals start with |x| at most this, in world units."""
    world_spawning_y: float = 1.0
    """Agents and goals start with |y| at most this, in world units."""
    enforce_bounds: bool = False
    """Whether agents cannot leave the area that they start in; otherwise the world has no end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        n, same = self.num_agents, self.agents_with_same_goal
        if not 1 <= same <= n:
            raise ValueError(f"agents_with_same_goal is {same}; allowed: 1 to num_agents ({n})")
        if self.split_goals and 2 * same != n:
            raise ValueError(f"split_goals is True; allowed: only where agents_with_same_goal ({same}) is half of {n}")
        if self.collisions and same > 1:
            raise ValueError(f"collisions is True; allowed: only with agents_with_same_goal 1, not {same}")
        if self.n_lidar_rays < 1:
            raise ValueError(f"n_lidar_rays is {self.n_lidar_rays}; allowed: an integer of at least 1")
        require_positive(
            agent_radius=self.agent_radius,
            lidar_range=self.lidar_range,
            world_spawning_x=self.world_spawning_x,
            world_spawning_y=self.world_spawning_y,
        )
        points, distance = n + self._num_goals, self.min_distance
        if not spawning.can_spawn_apart(points, distance, self._semidim):
            raise ValueError(
                f"num_agents is {n}; allowed: fewer, for {points} agents and goals at least {distance:g} apart do not "
                f"fit well within ±{self._semidim} (world_spawning_x, world_spawning_y; see also agent_radius)"
            )

    @property
    def min_distance(self) -> float:
        """Least distance between the centres of agents and goals at the start of an episode, in world units."""
        return 2 * self.agent_radius + 0.05

    @property
    def _goal_indices(self) -> np.ndarray:
        return goal_indices(self.num_agents, self.agents_with_same_goal, self.split_goals)

    @property
    def _num_goals(self) -> int:
        return int(self._goal_indices.max()) + 1

    @property
    def _semidim(self) -> tuple[float, float]:
        return self.world_spawning_x, self.world_spawning_y

    def observation_space(self, agent: str | None = None) -> Box:
        goals = self.num_agents if self.observe_all_goals else 1
        return flat_box(4 + 2 * goals + (self.n_lidar_rays if self.collisions else 0))

    def init(self, key: jax.Array) -> NavigationState:
        n = self.num_agents
        places = spawning.spawn_apart(key, n + self._num_goals, self.min_distance, self._semidim)
        return NavigationState(
            **start_clock(),
            position=places[:n],
            velocity=jnp.zeros((n, 2), jnp.float32),
            goal=places[n + self._goal_indices],
        )

    def transition(self, key: jax.Array, state: NavigationState, actions: jax.Array) -> tuple[NavigationState, Outcome]:
        n = self.num_agents
        position, velocity = physics.move(
            state.position,
            state.velocity,
            self.force(actions),
            substeps=2,
            semidim=self._semidim if self.enforce_bounds else (None, None),
            contact_radius=self.agent_radius if self.collisions else None,
        )
        before = physics.length(state.position - state.goal)
        after = physics.length(position - state.goal)
        pos_rew = before * self.pos_shaping_factor - after * self.pos_shaping_factor
        if self.shared_rew:
            pos_rew = jnp.broadcast_to(jnp.sum(pos_rew), (n,))
        on_goal = after < GOAL_RADIUS
        final_rew = jnp.all(on_goal).astype(jnp.float32) * self.final_reward
        agent_collisions = jnp.zeros(n, jnp.float32)
        if self.collisions:
            agent_collisions = count_collisions(position, self.agent_radius) * self.agent_collision_penalty
        info = {
            "pos_rew": pos_rew,
            "final_rew": jnp.broadcast_to(final_rew, (n,)),
            "agent_collisions": agent_collisions,
            "on_goal": on_goal.astype(jnp.float32),
        }
        reward = pos_rew + final_rew + agent_collisions
        terminated = jnp.all(after < self.agent_radius)
        state = state.replace(position=position, velocity=velocity)
        return state, Outcome(reward, terminated, jnp.zeros((), jnp.bool_), info)

    def observe(self, state: NavigationState) -> jax.Array:
        if self.observe_all_goals:
            offset = (state.position[:, None] - state.goal[None]).reshape(self.num_agents, -1)
        else:
            offset = state.position - state.goal
        parts = [state.position, state.velocity, offset]
        if self.collisions:
            reach = physics.lidar(state.position, self.agent_radius, self.n_lidar_rays, self.lidar_range)
            parts.append(self.lidar_range - reach)
        return jnp.concatenate(parts, axis=-1)

    def render(self, state: NavigationState) -> np.ndarray:
        position, goal = np.asarray(state.position), np.asarray(state.goal)
        # Agents may leave the area.
        edge = view_edge(1.2 * max(self._semidim), float(np.abs([position, goal]).max()) + 1.5 * self.agent_radius)
        canvas = Canvas((-edge, edge, -edge, edge))
        x, y = self._semidim
        canvas.frame((-x, -y), (x, y), 2 * canvas.pixel, drawing.FAINT)
        for i in range(self.num_agents):
            canvas.line(position[i], goal[i], 1.5 * canvas.pixel, drawing.agent_color(i), alpha=0.45)
        owners = np.bincount(self._goal_indices)[self._goal_indices]
        for i in range(self.num_agents):
            color = drawing.agent_color(i) if owners[i] == 1 else drawing.INK
            canvas.disc(goal[i], 1.4 * GOAL_RADIUS, drawing.PAPER)
            canvas.ring(goal[i], 1.2 * GOAL_RADIUS, 0.4 * GOAL_RADIUS, color)
            canvas.disc(goal[i], 0.5 * GOAL_RADIUS, color)
        draw_agents(canvas, position, np.asarray(state.velocity), self.agent_radius)
        return canvas.image()

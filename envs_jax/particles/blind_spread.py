"""Blind particle spread: every agent is to go to the landmark of its colour, but none sees its own colour.

Source: the scenario `large_spread` in the PettingZoo fork of SePS's authors (Christianos et al. 2021, 2102.07475;
github.com/semitable/PettingZoo at ce09c48), which HyperMARL (arXiv 2412.04233) uses at its largest numbers of agents.
One network for all agents, without their ids, cannot solve it: two agents at one place see the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax import drawing
from envs_jax.base import Outcome, flat_box, pytree, start_clock
from envs_jax.drawing import Canvas
from envs_jax.particles import physics
from envs_jax.particles.base import ParticleEnv, ParticleState, draw_agents, view_edge
from envs_jax.spaces import Box

AGENT_RADIUS = 0.15
LANDMARK_RADIUS = 0.05
FORCE = 5.0
"""Force of an action; with the drag, a speed of at most 2 world units per second and axis."""
AGENT_REACH = 1.0
"""Agents start with |x| and |y| at most this, in world units."""
LANDMARK_REACH = 3.0
"""Landmarks lie within this."""
REWARD_PER_DISTANCE = -0.5
"""Half of an agent's own reward, minus its distance, and half of a common one, which is 0 in this task."""


@pytree
class BlindSpreadState(ParticleState):
    """Agents and landmarks; G groups.

    position, velocity: see `ParticleState`.
    landmark: float32[G, 2], where the group of each colour is to go.
    """

    landmark: jax.Array


@dataclass(frozen=True)
class BlindParticleSpread(ParticleEnv):
    """Blind particle spread in JAX.

    Observation, float32[4 + 2 G]: own velocity, own position, then the offset to each group's landmark. Agents neither
    see nor touch each other, and the plane has no end.
    Reward: minus half the distance to the landmark of one's own group, after the step. Never terminates.
    `info`: `distance`, to that landmark.

    The motion is that of the older Multi-agent Particle Environment: velocity first, then position by the new velocity.
    JaxMARL's (and PettingZoo's later ones) move by the velocity from before the push, so they are a step behind.
    Deviation: the authors' landmarks have random colours; ours those of `envs_jax.drawing`. Nobody sees them but us.
    """

    num_agents: int = 0
    """Number of agents, the sum of `groups`; 0 takes it from there."""
    max_steps: int | None = 50
    """Steps after which an episode is truncated, as in SePS's experiments."""
    continuous_actions: bool = False
    """Whether an action is a force, float32[2] in [-1, 1] (times 5); otherwise it is one of `discrete_actions`."""
    discrete_actions: int = 5
    """Number of discrete actions: 5 (stay, or a push of 5 along one axis), as in the source, or 9 (both axes)."""
    groups: tuple[int, ...] = (5, 5, 5)
    """Agents of each colour; each colour has a landmark."""
    shuffle_obs: bool = False
    """Whether each group sees its numbers in an order of its own, as in the source's `v5` and `v6`."""

    as_given: ClassVar[dict[str, Any]]
    """Settings as they were before others filled them in; what a command line starts from."""

    def __post_init__(self) -> None:
        if not self.groups or any(size < 1 for size in self.groups):
            raise ValueError(f"groups is {self.groups}; allowed: integers of at least 1, one for each colour")
        agents = sum(self.groups)
        if self.num_agents not in (0, agents):
            raise ValueError(f"num_agents is {self.num_agents}; allowed: {agents}, the sum of groups, or 0")
        object.__setattr__(self, "as_given", {"num_agents": self.num_agents})
        object.__setattr__(self, "num_agents", agents)
        super().__post_init__()

    @property
    def group(self) -> np.ndarray:
        """Which group each agent is in, int[N]; groups come one after the other."""
        return np.repeat(np.arange(len(self.groups)), self.groups)

    @property
    def obs_order(self) -> np.ndarray:
        """Which of the observation's numbers each agent sees at each place, int[N, O]: the source's `random.shuffle`,
        which the group's number seeds."""
        size = 4 + 2 * len(self.groups)
        orders = []
        for number in range(len(self.groups)):
            orders.append(list(range(size)))
            if self.shuffle_obs:
                random.Random(number).shuffle(orders[-1])
        return np.array(orders)[self.group]

    def observation_space(self, agent: str | None = None) -> Box:
        return flat_box(4 + 2 * len(self.groups))

    def force(self, actions: jax.Array) -> jax.Array:
        return FORCE * super().force(actions)

    def init(self, key: jax.Array) -> BlindSpreadState:
        key_agents, key_landmarks = jax.random.split(key)
        agents, landmarks = (self.num_agents, 2), (len(self.groups), 2)
        return BlindSpreadState(
            **start_clock(),
            position=jax.random.uniform(key_agents, agents, jnp.float32, -AGENT_REACH, AGENT_REACH),
            velocity=jnp.zeros(agents, jnp.float32),
            landmark=jax.random.uniform(key_landmarks, landmarks, jnp.float32, -LANDMARK_REACH, LANDMARK_REACH),
        )

    def transition(
        self, key: jax.Array, state: BlindSpreadState, actions: jax.Array
    ) -> tuple[BlindSpreadState, Outcome]:
        position, velocity = physics.move(state.position, state.velocity, self.force(actions))
        distance = physics.length(position - state.landmark[self.group])
        never = jnp.zeros((), jnp.bool_)
        outcome = Outcome(REWARD_PER_DISTANCE * distance, never, never, {"distance": distance})
        return state.replace(position=position, velocity=velocity), outcome

    def observe(self, state: BlindSpreadState) -> jax.Array:
        offset = (state.landmark[None] - state.position[:, None]).reshape(self.num_agents, -1)
        obs = jnp.concatenate([state.velocity, state.position, offset], axis=-1)
        return jnp.take_along_axis(obs, self.obs_order, axis=-1) if self.shuffle_obs else obs

    def render(self, state: BlindSpreadState) -> np.ndarray:
        position, landmark = np.asarray(state.position), np.asarray(state.landmark)
        edge = view_edge(1.1 * LANDMARK_REACH, float(np.abs(position).max()) + AGENT_RADIUS)
        canvas = Canvas((-edge, edge, -edge, edge))
        canvas.frame((-AGENT_REACH, -AGENT_REACH), (AGENT_REACH, AGENT_REACH), 2 * canvas.pixel, drawing.FAINT)
        for number, place in enumerate(landmark):
            canvas.ring(place, 2 * AGENT_RADIUS, 2 * canvas.pixel, drawing.agent_color(number))
        draw_agents(canvas, position, np.asarray(state.velocity), 0.6 * AGENT_RADIUS, self.group)
        for number, place in enumerate(landmark):
            canvas.disc(place, LANDMARK_RADIUS, drawing.mix(drawing.agent_color(number), drawing.INK, 0.4))
        return canvas.image()

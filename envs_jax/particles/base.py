"""What the particle environments share: how an action becomes a force, and how agents are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from envs_jax import drawing
from envs_jax.base import MultiAgentEnv, State, pytree
from envs_jax.drawing import Canvas
from envs_jax.particles import physics
from envs_jax.spaces import Box, Discrete


@pytree
class ParticleState(State):
    """Agents on a plane.

    position: float32[N, 2], world units.
    velocity: float32[N, 2], world units per second.
    """

    position: jax.Array
    velocity: jax.Array


@dataclass(frozen=True)
class ParticleEnv(MultiAgentEnv):
    """Agents that push themselves over a plane with a force of at most 1 per axis."""

    continuous_actions: bool = True
    """Whether an action is a force, float32[2] in [-1, 1]; otherwise it is one of `discrete_actions`."""
    discrete_actions: int = 9
    """Number of discrete actions: 9 (stay, down or up on each axis: VMAS from 1.3.4 on) or 5 (stay, or one axis)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.discrete_actions not in physics.DISCRETE_FORCES:
            raise ValueError(f"discrete_actions is {self.discrete_actions}; allowed: 9, 5")

    def action_space(self, agent: str | None = None) -> Box | Discrete:
        return Box(-1.0, 1.0, (2,)) if self.continuous_actions else Discrete(self.discrete_actions)

    def force(self, actions: jax.Array) -> jax.Array:
        """The force that each agent's action applies, float32[N, 2]."""
        if self.continuous_actions:
            return physics.continuous_force(actions)
        return physics.discrete_force(actions, self.discrete_actions)


def require_positive(**settings: float) -> None:
    """Raise ValueError for the first setting that is not above 0."""
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; allowed: a number above 0")


def view_edge(usual: float, needed: float) -> float:
    """How far a picture reaches so that `needed` is in it. Beyond the `usual` it widens in steps, so that a film does
    not pump with every move."""
    return usual * 2 ** (np.ceil(4 * np.log2(max(needed / usual, 1.0))) / 4)


def draw_agents(
    canvas: Canvas, position: np.ndarray, velocity: np.ndarray, radius: float, colors: np.ndarray | None = None
) -> None:
    """Discs in the agents' colours, each with a short stroke towards where it is heading. `colors` are int[N], numbers
    of `agent_color`; by default each agent has its own."""
    numbers = np.arange(len(position)) if colors is None else colors
    for number, place, speed in zip(numbers, position, velocity, strict=True):
        color = drawing.agent_color(int(number))
        canvas.line(place, place + 0.35 * speed, 0.35 * radius, drawing.mix(color, drawing.INK, 0.3), alpha=0.8)
        canvas.disc(place, radius + 1.2 * canvas.pixel, drawing.PAPER)
        canvas.disc(place, radius, color)

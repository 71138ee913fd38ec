"""Matching games: Specialisation (be the only one to choose your action) and Synchronisation (all choose the same).

Source: HyperMARL (arXiv 2412.04233), section 3 and appendix E: neither sharing all weights nor sharing none wins both.
With c the number of agents that chose the same action as agent i, itself included, of n agents:

    Specialisation     r_i = 1 / c
    Synchronisation    r_i = 1 / (n - c + 1)

Both are 1 at the optimum. Read results beside `random_reward`: with 16 agents, uniformly random play already gets 0.644
in Specialisation. Shape letters: N agents, K actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import MultiAgentEnv, Outcome, State, flat_box, pytree, start_clock
from envs_jax.spaces import Box, Discrete


@pytree
class MatchingState(State):
    """State of a matching game.

    last_actions: int32[N], what each agent chose at the previous step; -1 before the first.
    """

    last_actions: jax.Array


# --- Rules ---


def count_same(actions: jax.Array) -> jax.Array:
    """How many agents chose the action that each agent chose, itself included: int32[N] for `actions` int32[N]."""
    return jnp.sum(actions[:, None] == actions[None, :], axis=1, dtype=jnp.int32)


def specialisation_reward(actions: jax.Array) -> jax.Array:
    """1 / c, float32[N] for `actions` int32[N]; 1 for an agent that is alone in its choice."""
    return 1.0 / count_same(actions).astype(jnp.float32)


def synchronisation_reward(actions: jax.Array) -> jax.Array:
    """1 / (n - c + 1), float32[N] for `actions` int32[N]; 1 where all agents agree."""
    return 1.0 / (actions.shape[0] - count_same(actions) + 1).astype(jnp.float32)


def joint_one_hot(last_actions: jax.Array, num_actions: int) -> jax.Array:
    """The joint action as one flat one-hot vector, float32[N*K]; all -1.0 where `last_actions` int32[N] is -1.

    No joint action gives the -1 vector, so the first observation of an episode never recurs.
    """
    chosen = (last_actions[:, None] == jnp.arange(num_actions, dtype=jnp.int32)).astype(jnp.float32)
    return jnp.where(last_actions[:, None] < 0, jnp.float32(-1.0), chosen).reshape(-1)


# --- Environments ---


@dataclass(frozen=True)
class MatchingGame(MultiAgentEnv):
    """What Specialisation and Synchronisation share. Source: HyperMARL, `MatrixGameWithState` and its stateless form.

    Temporal: every agent sees the same vector, the previous joint action as a one-hot of N*K values (all -1.0 at the
    start), and the episode is cut at `max_steps`. Normal form (`temporal=False`): one step, then the episode
    terminates, and the observation is the constant 0. The paper adds agent ids in the policy, so none is given here.

    Deviations: the paper's code ends a temporal episode at the horizon in the same way; its early stop at convergence
    is commented out there and left out here. Its horizon is not published (the class's default there is 100).
    """

    num_agents: int = 2
    """Number of agents (at least 2; the paper uses 2, 4, 8 and 16)."""
    num_actions: int | None = None
    """Number of actions; None for as many as agents, as in the paper."""
    temporal: bool = True
    """Whether agents see the previous joint action and play `max_steps` times; otherwise one step without memory."""
    max_steps: int | None = 100
    """Steps after which a temporal episode is truncated; None for no time limit. The paper's value is unknown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_agents < 2:
            raise ValueError(f"num_agents is {self.num_agents}; allowed: an integer of at least 2")
        if self.num_actions is not None and self.num_actions < 2:
            raise ValueError(f"num_actions is {self.num_actions}; allowed: an integer of at least 2, or None")

    @property
    def actions_each(self) -> int:
        """K: the number of actions that an agent has."""
        return self.num_agents if self.num_actions is None else self.num_actions

    def reward(self, actions: jax.Array) -> jax.Array:
        """The game's payoff, float32[N] for `actions` int32[N]."""
        raise NotImplementedError

    def is_converged(self, actions: jax.Array) -> jax.Array:
        """Whether the joint action is optimal (everybody gets 1), bool[] for `actions` int32[N]."""
        raise NotImplementedError

    def init(self, key: jax.Array) -> MatchingState:
        return MatchingState(**start_clock(), last_actions=jnp.full(self.num_agents, -1, jnp.int32))

    def transition(self, key: jax.Array, state: MatchingState, actions: jax.Array) -> tuple[MatchingState, Outcome]:
        actions = actions.astype(jnp.int32)
        converged = jnp.broadcast_to(self.is_converged(actions), (self.num_agents,)).astype(jnp.float32)
        outcome = Outcome(
            reward=self.reward(actions),
            terminated=jnp.asarray(not self.temporal),
            truncated=jnp.asarray(False),
            info={"converged": converged},
        )
        return state.replace(last_actions=actions), outcome

    def observe(self, state: MatchingState) -> jax.Array:
        row = self.global_state(state)
        return jnp.broadcast_to(row, (self.num_agents, row.shape[0]))

    def global_state(self, state: MatchingState) -> jax.Array:
        """The vector that every agent sees, once: float32[N*K], or float32[1] in normal form."""
        if not self.temporal:
            return jnp.zeros(1, jnp.float32)
        return joint_one_hot(state.last_actions, self.actions_each)

    def observation_space(self, agent: str | None = None) -> Box:
        return flat_box(self.num_agents * self.actions_each, -1.0, 1.0) if self.temporal else flat_box(1, 0.0, 0.0)

    def action_space(self, agent: str | None = None) -> Discrete:
        return Discrete(self.actions_each)

    def render(self, state: Any) -> np.ndarray:
        """A grid of agents (rows) by actions (columns), uint8[height, width, 3].

        A choice is blue where the agent is alone with it and orange where others share it, in which case its column
        is shaded. The frame is green where the joint action is optimal.
        """
        last = np.asarray(state.last_actions)
        chosen = last[:, None] == np.arange(self.actions_each)
        converged = last[0] >= 0 and bool(self.is_converged(jnp.asarray(last)))
        return draw_choices(chosen, frame=GREEN if converged else GREY)


@dataclass(frozen=True)
class Specialisation(MatchingGame):
    """Be the only one to choose your action: reward 1 / c, c agents having made the same choice. Optimum 1.

    `info["converged"]` float32[N]: 1 where all choices differ, which takes as many actions as agents. Source:
    HyperMARL, section 3 and appendix E.
    """

    def reward(self, actions: jax.Array) -> jax.Array:
        return specialisation_reward(actions)

    def is_converged(self, actions: jax.Array) -> jax.Array:
        return jnp.all(count_same(actions) == 1)

    @staticmethod
    def random_reward(num_agents: int, num_actions: int | None = None) -> float:
        """Expected reward per agent and step when all choose uniformly at random (exact).

        E[1/c] = K/n (1 - (1 - 1/K)^n) for c - 1 ~ Binomial(n - 1, 1/K); with K = n: 1 - (1 - 1/n)^n.
        """
        n, k = num_agents, num_actions or num_agents
        return k / n * (1 - (1 - 1 / k) ** n)

    @staticmethod
    def greedy_collapse_reward(num_agents: int) -> float:
        """Reward when one greedy policy without agent ids serves all: all choose the same, 1/n (exact)."""
        return 1 / num_agents


@dataclass(frozen=True)
class Synchronisation(MatchingGame):
    """All choose the same action: reward 1 / (n - c + 1), c of n agents having made the same choice. Optimum 1.

    `info["converged"]` float32[N]: 1 where all choices agree. Source: HyperMARL, section 3 and appendix E.
    """

    def reward(self, actions: jax.Array) -> jax.Array:
        return synchronisation_reward(actions)

    def is_converged(self, actions: jax.Array) -> jax.Array:
        return jnp.all(actions == actions[0])

    @staticmethod
    def random_reward(num_agents: int, num_actions: int | None = None) -> float:
        """Expected reward per agent and step when all choose uniformly at random (exact).

        E[1/(n-c+1)] = (1 - K^-n) / (n (1 - 1/K)) for n - c ~ Binomial(n - 1, 1 - 1/K); with K = n:
        (1 - n^-n) / (n - 1).
        """
        n, k = num_agents, num_actions or num_agents
        return (1 - k**-n) / (n * (1 - 1 / k))

    @staticmethod
    def greedy_collapse_reward(num_agents: int) -> float:
        """Reward when one greedy policy without agent ids serves all: all choose the same, which is optimal: 1."""
        return 1.0


# --- Drawing ---

WHITE, GREY, SHADE, LINE = (255, 255, 255), (150, 150, 150), (255, 240, 217), (221, 221, 221)
BLUE, ORANGE, GREEN = (0, 114, 178), (230, 145, 20), (0, 158, 115)


def draw_choices(chosen: np.ndarray, frame: tuple[int, int, int]) -> np.ndarray:
    """Agents (rows) by actions (columns), `chosen` bool[N, K], in a coloured frame: uint8[height, width, 3]."""
    cell, border = max(8, 256 // max(chosen.shape)), 8
    takers = chosen.sum(axis=0)  # (K,)
    colour = np.broadcast_to(np.array(WHITE, np.uint8), (*chosen.shape, 3)).copy()
    colour[:, takers > 1] = SHADE
    colour[chosen & (takers == 1)] = BLUE
    colour[chosen & (takers > 1)] = ORANGE
    image = colour.repeat(cell, axis=0).repeat(cell, axis=1)
    image[::cell], image[:, ::cell] = LINE, LINE
    picture = np.empty((image.shape[0] + 2 * border, image.shape[1] + 2 * border, 3), np.uint8)
    picture[:] = frame
    picture[border:-border, border:-border] = image
    return picture

"""Probe environments: each can be solved only if one part of the learner works (after Andy Jones, for many agents)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import MultiAgentEnv, Outcome, State, flat_box, pytree, start_clock
from envs_jax.spaces import Box, Discrete


@pytree
class ProbeState(State):
    """cue: float32[N], what each agent sees."""

    cue: jax.Array


@dataclass(frozen=True)
class Probe(MultiAgentEnv):
    """One of several one-idea tasks for 3 agents with 3 actions.

    "identity": agent i earns 1 for action i, and all see the same; only policies that differ solve it.
    "cue": an agent earns 1 for action 1 where its cue is +1, and for action 0 where it is -1.
    "delayed": the action of the first of two steps is rewarded at the second.
    "masked": as "identity", but action 0 is ruled out (so agent 0 earns nothing).
    "torque": continuous; an agent earns 1 - (a - i / 4)^2.
    "memory": the cue is seen at the first of three steps only, and asked for at the last.
    "endless": reward 1 at each step whatever is done, cut off after max_steps; "ending": the same, but it terminates.
    """

    num_agents: int = 3
    kind: str = "identity"
    max_steps: int | None = 1

    def init(self, key):
        cue = jnp.where(jax.random.bernoulli(key, shape=(self.num_agents,)), 1.0, -1.0).astype(jnp.float32)
        return ProbeState(**start_clock(), cue=cue if self.kind in ("cue", "memory", "delayed") else jnp.ones_like(cue))

    def observation_space(self, agent=None):
        return flat_box(2)

    def action_space(self, agent=None):
        return Box(-1.0, 1.0, (1,)) if self.kind == "torque" else Discrete(3)

    def observe(self, state):
        cue = jnp.where(state.step == 0, state.cue, 0.0) if self.kind == "memory" else state.cue
        time = state.step.astype(jnp.float32) if self.kind == "delayed" else jnp.float32(0.0)
        return jnp.stack([cue, jnp.full_like(cue, time)], axis=-1)

    def action_mask(self, state):
        mask = jnp.ones((self.num_agents, 3), bool)
        return mask.at[:, 0].set(False) if self.kind == "masked" else mask

    def transition(self, key, state, actions):
        ids = jnp.arange(self.num_agents)
        wanted = (state.cue > 0).astype(jnp.int32)
        reward = {
            "identity": lambda: actions == ids,
            "masked": lambda: actions == ids,
            "cue": lambda: actions == wanted,
            "memory": lambda: (actions == wanted) & (state.step == 2),
            "delayed": lambda: (state.cue > 1.5) & (state.step == 1),
            "torque": lambda: 1.0 - jnp.square(actions[:, 0] - ids / 4.0),
            "endless": lambda: jnp.ones(self.num_agents),
            "ending": lambda: jnp.ones(self.num_agents),
        }[self.kind]()
        if self.kind == "delayed":  # Remember in the cue whether the first action was right.
            state = state.replace(cue=jnp.where(state.step == 0, jnp.where(actions == 2, 2.0, 1.0), state.cue))
        ends = self.kind == "ending"
        terminated = (state.step + 1 >= self.max_steps) if ends else jnp.zeros((), bool)
        info = {"seen": jnp.ones(self.num_agents, jnp.float32)}
        return state, Outcome(reward.astype(jnp.float32), terminated, jnp.zeros((), bool), info)


UNEVEN_BOUNDS = np.array([[[-1.0, -1.0], [-0.5, 0.0]], [[1.0, 1.0], [1.5, 0.0]]])
"""Of `Uneven`, low and high; its padding is 0."""


@dataclass(frozen=True)
class Uneven(Probe):
    """Two agents; the second has one action of two and sees one number of two. `info` shows what it was given."""

    num_agents: int = 2

    def action_space(self, agent=None):
        return {"agent_1": Box(-0.5, 1.5, (1,)), None: Box(-1.0, 1.5, (2,))}.get(agent, Box(-1.0, 1.0, (2,)))

    def observation_space(self, agent=None):
        return flat_box(1 if agent == "agent_1" else 2)

    def observe(self, state):
        return jnp.stack([state.cue, jnp.array([1.0, 0.0])], axis=-1)

    def transition(self, key, state, actions):
        reward = 1.0 - jnp.sum(jnp.square(actions - 0.5), axis=-1)
        no = jnp.zeros((), bool)
        return state, Outcome(
            reward, no, no, {"given": actions[:, 1], "outside": 1.0 * (actions < UNEVEN_BOUNDS[0]).any(-1)}
        )

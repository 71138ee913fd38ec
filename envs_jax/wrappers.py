"""Wrappers: environments made from another environment, in the same contract, so that they compose in any order.

`EpisodeStatistics` reports returns and lengths of finished episodes, `PadObservations` gives all agents equal shapes,
`AgentID` tells each agent who it is. Rewards stay as the wrapped environment gives them. Shape letters: N agents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import MultiAgentEnv, Outcome, State, pytree, start_clock
from envs_jax.spaces import Box, Discrete, Space


@dataclass(frozen=True)
class Wrapper(MultiAgentEnv):
    """An environment that does what `env` does; subclasses change a part of it.

    Clock and time limit are those of `env`: `transition` here is its `advance`. Attributes that no environment has to
    have are looked up in `env`; where such a method takes a state, it takes the state of `env` (see `unwrap`).
    """

    env: MultiAgentEnv  # pyright: ignore[reportGeneralTypeIssues]  (the inherited default before it is not for __init__)
    """The environment to wrap."""
    num_agents: int = field(init=False)
    """Number of agents, as in `env`."""
    max_steps: int | None = field(init=False)
    """Time limit of `env`, which applies it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_agents", self.env.num_agents)
        object.__setattr__(self, "max_steps", self.env.max_steps)
        object.__setattr__(self, "name", self.env.name)  # scripts choose by name what to do with an environment
        super().__post_init__()

    def __getattr__(self, name: str) -> Any:
        # Only reached for what is not found here. While a copy is being made, `env` is not there yet either.
        if name == "env" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.env, name)

    def unwrap(self, state: Any) -> Any:
        """The state of `env` within a state of this wrapper."""
        return state

    def init(self, key: jax.Array, *data: Any) -> Any:
        """`env.init`, with what that takes beside the key (roles of a social dilemma, say)."""
        return self.env.init(key, *data)

    def restart(self, key: jax.Array, state: Any) -> Any:
        return self.env.restart(key, self.unwrap(state))

    def transition(self, key: jax.Array, state: Any, actions: jax.Array) -> tuple[Any, Outcome]:
        return self.env.advance(key, state, actions)

    def advance(self, key: jax.Array, state: Any, actions: jax.Array) -> tuple[Any, Outcome]:
        """One `transition`; `env` has advanced its clock and applied its time limit there."""
        return self.transition(key, state, actions)

    def observe(self, state: Any) -> jax.Array:
        return self.env.observe(self.unwrap(state))

    def observation_space(self, agent: str | None = None) -> Space:
        return self.env.observation_space(agent)

    def action_space(self, agent: str | None = None) -> Space:
        return self.env.action_space(agent)

    def global_state(self, state: Any) -> jax.Array:
        """The global state of `env`, without what wrappers add to observations."""
        return self.env.global_state(self.unwrap(state))

    def action_mask(self, state: Any) -> jax.Array:
        return self.env.action_mask(self.unwrap(state))

    @property
    def masks_actions(self) -> bool:
        return self.env.masks_actions

    def render(self, state: Any) -> np.ndarray:
        return self.env.render(self.unwrap(state))

    @property
    def agents(self) -> list[str]:
        return self.env.agents

    @property
    def agent_classes(self) -> dict[str, list[str]]:
        return self.env.agent_classes


@pytree
class EpisodeStatisticsState(State):
    """State of `EpisodeStatistics`; `done` and `step` are copies of the wrapped environment's.

    env_state: the wrapped environment's state.
    episode_return: float32[N], each agent's sum of rewards so far in this episode.
    episode_length: int32[N], steps so far in this episode.
    """

    env_state: Any
    episode_return: jax.Array
    episode_length: jax.Array


@dataclass(frozen=True)
class EpisodeStatistics(Wrapper):
    """Adds what finished episodes were worth to `info`, per agent, so that a learner forms sum / count itself.

    `info` gains, each float32[N]:
        episode_return: undiscounted return of the episode that ended at this step, 0 at other steps.
        episode_length: its number of steps, 0 at other steps.
        episode_ended: 1 where an episode ended, 0 at other steps.
    Over any stretch of steps and environments, `sum(episode_return) / sum(episode_ended)` is the mean return per
    finished episode; unlike a last-seen return that starts at 0 (JaxMARL's LogWrapper), nothing is averaged before an
    episode has ended. Raises ValueError where `env` records the statistics already.
    """

    def __post_init__(self) -> None:
        inner = self.env
        while isinstance(inner, Wrapper):
            if isinstance(inner, EpisodeStatistics):
                raise ValueError(f"env is {self.env}; allowed: an environment without EpisodeStatistics")
            inner = inner.env
        super().__post_init__()

    def unwrap(self, state: EpisodeStatisticsState) -> Any:
        return state.env_state

    def init(self, key: jax.Array, *data: Any) -> EpisodeStatisticsState:
        return self._start(self.env.init(key, *data))

    def restart(self, key: jax.Array, state: EpisodeStatisticsState) -> EpisodeStatisticsState:
        return self._start(self.env.restart(key, state.env_state))

    def _start(self, env_state: Any) -> EpisodeStatisticsState:
        return EpisodeStatisticsState(
            **start_clock(),  # not the wrapped state's own arrays: one buffer cannot be donated twice
            env_state=env_state,
            episode_return=jnp.zeros(self.num_agents, jnp.float32),
            episode_length=jnp.zeros(self.num_agents, jnp.int32),
        )

    def transition(
        self, key: jax.Array, state: EpisodeStatisticsState, actions: jax.Array
    ) -> tuple[EpisodeStatisticsState, Outcome]:
        env_state, outcome = self.env.advance(key, state.env_state, actions)
        state = EpisodeStatisticsState(
            done=env_state.done,
            step=env_state.step,
            env_state=env_state,
            episode_return=state.episode_return + outcome.reward,
            episode_length=state.episode_length + 1,
        )
        ended = jnp.broadcast_to(outcome.done, (self.num_agents,)).astype(jnp.float32)
        statistics = {
            "episode_return": jnp.where(outcome.done, state.episode_return, 0.0),
            "episode_length": ended * state.episode_length.astype(jnp.float32),
            "episode_ended": ended,
        }
        return state, outcome._replace(info=outcome.info | statistics)


@dataclass(frozen=True)
class PadObservations(Wrapper):
    """Gives every agent the stacked spaces as its own, for scripts that put all agents' arrays into one.

    Stacked observations are padded already, so only the dictionary interface changes: an agent's observation there is
    the padded row. With `pad_actions`, action spaces become equal, too: values beyond an agent's own box are ignored;
    `action_mask` rules out discrete actions beyond an agent's own, and one that is taken nevertheless (by a script
    without masks) becomes the agent's last action.
    """

    pad_actions: bool = True
    """Whether all agents get the stacked action space, too."""

    def observation_space(self, agent: str | None = None) -> Space:
        return self.env.observation_space()

    def action_space(self, agent: str | None = None) -> Space:
        return self.env.action_space() if self.pad_actions else self.env.action_space(agent)

    def transition(self, key: jax.Array, state: Any, actions: jax.Array) -> tuple[Any, Outcome]:
        own = [self.env.action_space(agent) for agent in self.agents]
        if self.pad_actions and isinstance(own[0], Discrete) and len(set(own)) > 1:
            last = np.array([space.n - 1 for space in own if isinstance(space, Discrete)], np.int32)
            actions = jnp.minimum(actions, last.astype(actions.dtype))
        return self.env.advance(key, state, actions)


@dataclass(frozen=True)
class AgentID(Wrapper):
    """Puts a one-hot agent id of N values in front of each agent's observation. Vector observations only.

    In front, as HyperMARL's policies have it, rather than behind: there the id has the same place for all agents, also
    where their own observations differ in size. `global_state` stays without ids. Raises ValueError where observations
    are not float vectors.
    """

    def __post_init__(self) -> None:
        space = self.env.observation_space()
        if not isinstance(space, Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"env has the observation space {space}; allowed: a Box of floats with one dimension")
        super().__post_init__()

    def observe(self, state: Any) -> jax.Array:
        obs = self.env.observe(self.unwrap(state))
        return jnp.concatenate([jnp.eye(self.num_agents, dtype=obs.dtype), obs], axis=1)

    def observation_space(self, agent: str | None = None) -> Box:
        space = self.env.observation_space(agent)
        assert isinstance(space, Box)  # __post_init__ saw to it
        low, high = space.bounds()
        return Box(
            low=tuple(np.concatenate([np.zeros(self.num_agents), low]).tolist()),
            high=tuple(np.concatenate([np.ones(self.num_agents), high]).tolist()),
            shape=(self.num_agents + space.shape[0],),
            dtype=space.dtype,
        )

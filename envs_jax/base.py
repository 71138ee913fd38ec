"""The environment contract: three pure functions over stacked agents, and everything else derived from them once.

An environment is a small frozen dataclass, so that equal configurations are equal, hash alike and share one compiled
program. It holds settings only; whatever changes lives in its state. To write one, give its fields, its spaces and

    init(key)                         -> state
    transition(key, state, actions)   -> state, Outcome(reward, terminated, truncated, info)
    observe(state)                    -> obs

with agents stacked on axis 0. `MultiAgentEnv` derives the clock and time limit (`advance`), auto-reset
(`advance_and_reset`) and the dictionary interface of JaxMARL (`reset`, `step`, `step_env`, `get_obs`, ...).

Nothing here is jitted: the caller compiles. Letters in shape comments: N agents, A actions, G size of the global state.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.spaces import Box, Discrete, Space

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass that JAX traverses field by field; a field is an array or a pytree of arrays."""
    return jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))


@pytree
class State:
    """What every environment's state holds. Subclass it, decorate with `@pytree`, and add fields.

    done: bool[], whether this state ended its episode.
    step: int32[], steps taken in this episode.
    """

    done: jax.Array
    step: jax.Array

    def replace(self, **changes: Any) -> Self:
        """A copy with the named fields changed."""
        return dataclasses.replace(self, **changes)


def start_clock() -> dict[str, jax.Array]:
    """The fields `done` and `step` at the start of an episode: `MyState(**start_clock(), position=...)`."""
    return {"done": jnp.zeros((), jnp.bool_), "step": jnp.zeros((), jnp.int32)}


class Outcome(NamedTuple):
    """What one step gives besides the next state.

    reward: float32[N].
    terminated: bool[], the episode ended by its rules: nothing follows, so its value is 0.
    truncated: bool[], the episode was cut off (time limit): a learner bootstraps from the state it was cut at.
    info: flat dictionary of arrays of shape [N], the same keys at each step.
    """

    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    info: dict[str, jax.Array]

    @property
    def done(self) -> jax.Array:
        """bool[], the episode is over, whichever way."""
        return self.terminated | self.truncated


def select(pred: jax.Array, on_true: T, on_false: T) -> T:
    """`on_true` where the scalar `pred` holds, else `on_false`, leaf by leaf; both must agree in shapes and dtypes."""
    return jax.tree.map(lambda a, b: jax.lax.select(pred, a, b), on_true, on_false)


@dataclass(frozen=True)
class MultiAgentEnv:
    """Base class of all environments; see the module's docstring for what a subclass provides."""

    num_agents: int
    """Number of agents."""
    max_steps: int | None = None
    """Steps after which an episode is truncated; None for no time limit."""

    # JaxMARL's scripts choose wrappers by substrings of the name: keep "mpe", "smax", "overcooked", "hanabi" out of it.
    name: ClassVar[str] = "MultiAgentEnv"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    def __post_init__(self) -> None:
        self._check_num_agents()
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}; allowed: an integer of at least 1, or None")

    def _check_num_agents(self) -> None:
        """Raise ValueError for what is no number of agents; for those to call first that compute with it."""
        if not isinstance(self.num_agents, int | np.integer) or self.num_agents < 1:
            raise ValueError(f"num_agents is {self.num_agents!r}; allowed: an integer of at least 1")

    # --- To implement ---

    def init(self, key: jax.Array) -> Any:
        """A state at the start of an episode. Cheap: auto-reset calls it at every step."""
        raise NotImplementedError

    def restart(self, key: jax.Array, state: Any) -> Any:
        """The start of the next episode after `state`: `init`, unless something is to outlive an episode (roles)."""
        return self.init(key)

    def transition(self, key: jax.Array, state: Any, actions: jax.Array) -> tuple[Any, Outcome]:
        """The rules: one step for `actions` [N, ...], without clock, time limit or reset."""
        raise NotImplementedError

    def observe(self, state: Any) -> jax.Array:
        """What each agent sees, [N, ...]; smaller observations are padded with zeros at the end."""
        raise NotImplementedError

    def observation_space(self, agent: str | None = None) -> Space:
        """The space of one agent, or without `agent` the one space of a row of the stacked observations."""
        raise NotImplementedError

    def action_space(self, agent: str | None = None) -> Space:
        """The space of one agent, or without `agent` the one space of a row of the stacked actions."""
        raise NotImplementedError

    def global_state(self, state: Any) -> jax.Array:
        """What a centralised critic sees, [G]; by default the agents' observations, one after the other."""
        return self.observe(state).reshape(-1).astype(jnp.float32)

    def action_mask(self, state: Any) -> jax.Array:
        """Which discrete actions each agent may take, bool[N, A]; by default all that its own space has."""
        space = self.action_space()
        if not isinstance(space, Discrete):
            raise ValueError(f"{self.name}: action_mask is for discrete actions; this environment has {space}")
        sizes = np.array([self.action_space(agent).n for agent in self.agents])  # type: ignore[union-attr]
        return jnp.asarray(np.arange(space.n) < sizes[:, None])

    @property
    def masks_actions(self) -> bool:
        """Whether `action_mask` ever rules out an action; if not, learners need not look at it."""
        own = {self.action_space(agent) for agent in self.agents}
        return type(self).action_mask is not MultiAgentEnv.action_mask or own != {self.action_space()}

    def render(self, state: Any) -> np.ndarray:
        """A picture of one (not batched) state, uint8[height, width, 3]. Runs on the host."""
        raise NotImplementedError(f"{self.name} has no render")

    # --- Derived: stacked interface, for learners ---

    def advance(self, key: jax.Array, state: Any, actions: jax.Array) -> tuple[Any, Outcome]:
        """One `transition`, then the clock and the time limit. Does not reset."""
        next_state, outcome = self.transition(key, state, actions)
        step = state.step + 1
        truncated = outcome.truncated
        if self.max_steps is not None:
            truncated = truncated | (step >= self.max_steps)
        outcome = outcome._replace(truncated=truncated & ~outcome.terminated)
        return next_state.replace(step=step, done=outcome.done), outcome

    def advance_and_reset(self, key: jax.Array, state: Any, actions: jax.Array) -> tuple[Any, Outcome, Any]:
        """One `advance`, then a fresh episode where this one ended.

        Returns `(next_state, outcome, last_state)`: `last_state` is the state before the reset, to bootstrap from at
        a truncation. Only states are selected; observe `next_state` once afterwards.
        """
        key_step, key_reset = jax.random.split(key)
        last_state, outcome = self.advance(key_step, state, actions)
        next_state = select(outcome.done, self.restart(key_reset, last_state), last_state)
        return next_state, outcome, last_state

    # --- Derived: JaxMARL's interface, dictionaries keyed by agent ---

    @property
    def agents(self) -> list[str]:
        """`["agent_0", ...]`."""
        return [f"agent_{i}" for i in range(self.num_agents)]

    @property
    def observation_spaces(self) -> dict[str, Space]:
        return {agent: self.observation_space(agent) for agent in self.agents}

    @property
    def action_spaces(self) -> dict[str, Space]:
        return {agent: self.action_space(agent) for agent in self.agents}

    @property
    def agent_classes(self) -> dict[str, list[str]]:
        """Agents by role."""
        return {"agent": self.agents}

    def reset(self, key: jax.Array) -> tuple[dict[str, jax.Array], Any]:
        """`(obs, state)` at the start of an episode."""
        state = self.init(key)
        return self.get_obs(state), state

    def step(self, key: jax.Array, state: Any, actions: dict[str, jax.Array], reset_state: Any = None) -> tuple:
        """`(obs, state, rewards, dones, infos)` of one step; at an episode's end `obs` and `state` are already the next
        one's, which starts from `reset_state` if given."""
        key_step, key_reset = jax.random.split(key)
        state, outcome = self.advance(key_step, state, self.stack_actions(actions))
        state = select(outcome.done, self.restart(key_reset, state) if reset_state is None else reset_state, state)
        return self.get_obs(state), state, *self._outcome_dicts(outcome)

    def step_env(self, key: jax.Array, state: Any, actions: dict[str, jax.Array]) -> tuple:
        """`(obs, state, rewards, dones, infos)` of one step, without auto-reset: the final observation is here."""
        state, outcome = self.advance(key, state, self.stack_actions(actions))
        return self.get_obs(state), state, *self._outcome_dicts(outcome)

    def get_obs(self, state: Any) -> dict[str, jax.Array]:
        """Each agent's observation, in its own space's shape."""
        obs = self.observe(state)
        return {agent: _trim(obs[i], self.observation_space(agent)) for i, agent in enumerate(self.agents)}

    def get_avail_actions(self, state: Any) -> dict[str, jax.Array]:
        """Each agent's mask over its own actions, bool[A]."""
        mask = self.action_mask(state)
        return {agent: mask[i, : self.action_space(agent).n] for i, agent in enumerate(self.agents)}  # type: ignore[union-attr]

    def world_state(self, state: Any) -> jax.Array:
        """`global_state`, by the name that JaxMARL's centralised critics use."""
        return self.global_state(state)

    def stack_actions(self, actions: dict[str, jax.Array]) -> jax.Array:
        """Actions by agent to one array [N, ...]; discrete ones have shape `()` or `(1,)`, smaller ones are padded."""
        space = self.action_space()
        return jnp.stack([_pad(jnp.asarray(actions[a]), self.action_space(a), space) for a in self.agents])

    def init_render(self, ax: Any, state: Any, *_: Any) -> Any:
        """JaxMARL's visualiser: draw the first frame on matplotlib's `ax`."""
        ax.axis("off")
        return ax.imshow(self.render(state))

    def update_render(self, image: Any, state: Any, *_: Any) -> Any:
        """JaxMARL's visualiser: draw a later frame."""
        image.set_data(self.render(state))
        return image

    def _outcome_dicts(self, outcome: Outcome) -> tuple[dict, dict, dict]:
        everyone = jnp.ones(self.num_agents, jnp.bool_)
        rewards = {agent: outcome.reward[i] for i, agent in enumerate(self.agents)}
        dones = dict.fromkeys([*self.agents, "__all__"], outcome.done)
        infos = outcome.info | {
            "terminated": outcome.terminated & everyone,
            "truncated": outcome.truncated & everyone,
        }
        return rewards, dones, infos


def _trim(row: jax.Array, space: Space) -> jax.Array:
    """The part of a stacked row that belongs to a (smaller) space."""
    return row[tuple(slice(size) for size in space.shape)]


def _pad(action: jax.Array, own: Space, stacked: Space) -> jax.Array:
    """One agent's action in the shape and dtype of a row of the stacked actions."""
    action = action.reshape(own.shape).astype(stacked.dtype)
    if own.shape == stacked.shape:  # always so for discrete actions, and `jnp.pad` refuses scalars
        return action
    return jnp.pad(action, [(0, to - size) for size, to in zip(own.shape, stacked.shape, strict=True)])


def flat_box(size: int, low: float = -np.inf, high: float = np.inf) -> Box:
    """A float32 vector space; unbounded unless said otherwise."""
    return Box(low, high, (size,))

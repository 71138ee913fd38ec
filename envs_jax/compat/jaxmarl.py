"""Both ways between this package and JaxMARL 0.2.

install()         JaxMARL's scripts find this package's environments: `jaxmarl.make("dispersion", num_agents=8)`
as_jaxmarl(env)   one of this package's environments as a `jaxmarl.environments.MultiAgentEnv`
from_jaxmarl(id)  one of JaxMARL's environments in this package's contract; `envs_jax.make("jaxmarl/<id>")` calls it

JaxMARL is imported when one of these is called, not before: its import takes seconds and starts the accelerator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import io
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import MultiAgentEnv, Outcome, State, pytree
from envs_jax.registry import make as make_ours
from envs_jax.registry import registered
from envs_jax.spaces import Box, Discrete, Space

# --- This package's environments for JaxMARL ---

_REPLACED = ("make", "registered_envs")
_ORIGINALS: dict[tuple[str, str], Any] = {}  # by (module, attribute); empty while not installed

# JaxMARL's scripts choose wrappers by these, wherever they stand in an id or a name: "competitive" would count as MPE.
_SWITCHES = ("mpe", "smax", "overcooked", "hanabi")


def install() -> None:
    """Make `jaxmarl.make` build this package's environments too; what JaxMARL itself has still comes from JaxMARL.

    Replaces `make` and `registered_envs` in `jaxmarl` and `jaxmarl.registration`; call it before a script runs
    `from jaxmarl import make`. Calling it again only lists ids registered since. `uninstall` undoes it.
    An id "a/b" is also known as "a_b": JaxMARL's scripts make file names of ids.
    Raises ImportError where JaxMARL is missing.
    """
    make_theirs, theirs = _jaxmarl_registry()

    def make(env_id: str, **env_kwargs: Any) -> Any:
        """`jaxmarl.make`, with this package's environments; settings given as lists become tuples."""
        ours = _our_ids()
        if env_id in theirs or env_id not in ours:
            return make_theirs(env_id, **env_kwargs)
        _check_name("environment id", env_id)
        return as_jaxmarl(make_ours(ours[env_id], **{name: _freeze(value) for name, value in env_kwargs.items()}))

    replacements = (make, [*theirs, *(env_id for env_id in _our_ids() if env_id not in theirs)])
    for module in ("jaxmarl", "jaxmarl.registration"):
        for name, replacement in zip(_REPLACED, replacements, strict=True):
            _ORIGINALS.setdefault((module, name), getattr(_import(module), name))
            setattr(_import(module), name, replacement)


def uninstall() -> None:
    """Put back the very objects that `install` replaced; does nothing where it was not called."""
    for (module, name), original in _ORIGINALS.items():
        setattr(_import(module), name, original)
    _ORIGINALS.clear()


def as_jaxmarl(env: MultiAgentEnv) -> Any:
    """`env` as an instance of `jaxmarl.environments.MultiAgentEnv`, with JaxMARL's spaces.

    Equal environments give equal, equally hashed results. Unlike in JaxMARL no method is jitted: the caller compiles.
    What JaxMARL's class does not have (`max_steps`, `world_state`, `render`, ...) is passed on from `env`. Undoes
    `from_jaxmarl`. Raises ValueError where `env.name` would make JaxMARL's scripts mistake it for another environment.
    """
    if isinstance(env, FromJaxMARL):
        return env.jaxmarl_env
    _check_name("name", env.name)
    return _adapter_class()(env)


@functools.cache
def _adapter_class() -> type:
    """The subclass of JaxMARL's base class; made on demand, so that this module does not import JaxMARL."""
    base = _import("jaxmarl.environments.multi_agent_env").MultiAgentEnv

    class EnvAsJaxMARL(base):
        """One of this package's environments (`.env`) behind JaxMARL's interface."""

        def __init__(self, env: MultiAgentEnv) -> None:
            super().__init__(env.num_agents)
            self.env = env
            self.agents = env.agents
            self.observation_spaces = {agent: _to_jaxmarl(space) for agent, space in env.observation_spaces.items()}
            self.action_spaces = {agent: _to_jaxmarl(space) for agent, space in env.action_spaces.items()}

        def reset(self, key: jax.Array) -> tuple:
            return self.env.reset(key)

        def step(self, key: jax.Array, state: Any, actions: dict[str, jax.Array], reset_state: Any = None) -> tuple:
            return self.env.step(key, state, actions, reset_state)

        def step_env(self, key: jax.Array, state: Any, actions: dict[str, jax.Array]) -> tuple:
            return self.env.step_env(key, state, actions)

        def get_obs(self, state: Any) -> dict[str, jax.Array]:
            return self.env.get_obs(state)

        def get_avail_actions(self, state: Any) -> dict[str, jax.Array]:
            return self.env.get_avail_actions(state)

        @property
        def name(self) -> str:
            return self.env.name

        @property
        def agent_classes(self) -> dict[str, list[str]]:
            return self.env.agent_classes

        def __getattr__(self, name: str) -> Any:
            if name == "env" or name.startswith("__"):  # not there yet while being copied or unpickled
                raise AttributeError(name)
            return getattr(self.env, name)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, EnvAsJaxMARL) and self.env == other.env

        def __hash__(self) -> int:
            return hash(self.env)

    return EnvAsJaxMARL


def _our_ids() -> dict[str, str]:
    """This package's ids by those under which JaxMARL knows them."""
    return {known_as: env_id for env_id in registered() for known_as in (env_id, env_id.replace("/", "_"))}


def _check_name(what: str, name: str) -> None:
    for switch in _SWITCHES:
        if switch in name.lower():
            raise ValueError(
                f"{what} is '{name}'; allowed: one without '{switch}', by which JaxMARL's scripts would choose the "
                f"wrappers of another environment"
            )


def _to_jaxmarl(space: Space) -> Any:
    """One of this package's spaces as JaxMARL's."""
    spaces = _import("jaxmarl.environments.spaces")
    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    scalar = isinstance(space.low, int | float) and isinstance(space.high, int | float)
    low, high = (space.low, space.high) if scalar else space.bounds()
    return spaces.Box(low, high, space.shape, space.dtype)


# --- JaxMARL's environments for this package ---


def from_jaxmarl(env: Any, **kwargs: Any) -> MultiAgentEnv:
    """One of JaxMARL's environments in this package's contract: `from_jaxmarl("MPE_simple_tag_v3")`.

    env: an id of `jaxmarl.make`, to which `kwargs` go, or a JaxMARL environment. Undoes `as_jaxmarl`.
    kwargs: must be hashable (lists become tuples). SMAX's `scenario` and Overcooked's `layout` may be names.
    Raises ValueError on an unknown id or keyword, NotImplementedError where a space is none of `Box`, `Discrete` (and
    `MultiDiscrete`, for observations), ImportError where JaxMARL is missing.
    """
    if not isinstance(env, str):
        if not isinstance(env, _import("jaxmarl.environments.multi_agent_env").MultiAgentEnv):
            raise ValueError(f"from_jaxmarl: env is {env!r}; allowed: an id of jaxmarl.make or a JaxMARL environment")
        if kwargs:
            raise ValueError(f"from_jaxmarl: kwargs are {sorted(kwargs)}; allowed: none beside an environment object")
        if isinstance(env, _adapter_class()):
            return env.env  # type: ignore[attr-defined]
    return FromJaxMARL(env, tuple(sorted((name, _freeze(value)) for name, value in kwargs.items())))


@pytree
class JaxMARLState(State):
    """The state of a wrapped environment.

    game: JaxMARL's own state.
    obs: [N, ...], the observations that came with it; not every JaxMARL environment can compute them from its state.
    world_state: float32[G] where JaxMARL gives one (SMAX), else None.
    """

    game: Any
    obs: jax.Array
    world_state: jax.Array | None


@dataclass(frozen=True)
class FromJaxMARL(MultiAgentEnv):
    """One of JaxMARL's environments, stepped exactly as JaxMARL steps it; made by `from_jaxmarl`.

    Equality and hash are those of (source, kwargs); equal ones share one JaxMARL object and so one compilation.

    Where an episode's end is the clock's, it is a truncation, else a termination: MPE's always is the clock's, SMAX's
    is unless a team is dead, Overcooked's, JaxNav's and the switch riddle's are at `max_steps`. JaxMARL's other
    environments have no `max_steps` to tell by, and end by termination. `max_steps` is the number of steps that an
    episode really has: MPE and SMAX test their clock before they advance it and so run one step longer than they say.

    Observations and actions of unequal sizes are padded with zeros at the end, unequal numbers of discrete actions
    are masked (and clipped to the agent's own). `info` keeps JaxMARL's leaves with one value per agent, repeats
    scalars for each agent, drops others, and adds `agent_done` (bool[N], JaxMARL's `dones` by agent: SMAX's dead) and
    in SMAX `won` (bool[N], true at the step that wins the battle; JaxMARL's logs infer it from a reward of at least 1).
    """

    num_agents: int = field(init=False, compare=False)
    max_steps: int | None = field(init=False, compare=False)
    source: Any
    """JaxMARL's id, or the environment object."""
    kwargs: tuple[tuple[str, Any], ...] = ()
    """Settings by name, sorted."""

    def __post_init__(self) -> None:
        for name, value in self.kwargs:
            try:
                hash(value)
            except TypeError:
                raise ValueError(f"{self.source}: {name} is {value!r}; allowed: a hashable value") from None
        env = self.jaxmarl_env
        object.__setattr__(self, "num_agents", int(env.num_agents))
        object.__setattr__(self, "max_steps", _episode_length(env))
        _spaces(env)  # an environment that does not fit fails here
        super().__post_init__()

    @property
    def jaxmarl_env(self) -> Any:
        """JaxMARL's environment object."""
        return _load(self.source, self.kwargs) if isinstance(self.source, str) else self.source

    @property
    def agents(self) -> list[str]:
        """JaxMARL's names, in its order."""
        return list(self.jaxmarl_env.agents)

    @property
    def agent_classes(self) -> dict[str, list[str]]:
        """Agents by role: their names without the number."""
        roles: dict[str, list[str]] = {}
        for agent in self.agents:
            roles.setdefault(re.sub(r"_?\d+$", "", agent) or "agent", []).append(agent)
        return roles

    def observation_space(self, agent: str | None = None) -> Space:
        return _spaces(self.jaxmarl_env)[0][agent]

    def action_space(self, agent: str | None = None) -> Space:
        return _spaces(self.jaxmarl_env)[1][agent]

    def init(self, key: jax.Array) -> JaxMARLState:
        obs, game = self.jaxmarl_env.reset(key)
        return JaxMARLState(
            done=jnp.zeros((), jnp.bool_),
            step=jnp.zeros((), jnp.int32),
            game=jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.asarray(leaf).dtype), game),  # no weak types
            **self._stacked_obs(obs),
        )

    def transition(self, key: jax.Array, state: JaxMARLState, actions: jax.Array) -> tuple[JaxMARLState, Outcome]:
        by_agent = {agent: _own_action(actions[i], self.action_space(agent)) for i, agent in enumerate(self.agents)}
        obs, game, rewards, dones, info = self.jaxmarl_env.step_env(key, state.game, by_agent)
        info = self._info(info)
        info["agent_done"] = jnp.stack([jnp.asarray(dones.get(a, dones["__all__"])).reshape(()) for a in self.agents])

        done = jnp.asarray(dones["__all__"]).reshape(())
        terminated = done if self.max_steps is None else done & (state.step + 1 < self.max_steps)
        units = getattr(getattr(game, "state", game), "unit_alive", None)  # SMAX, with or without a built-in enemy
        if units is not None:
            num_allies = self.jaxmarl_env.num_allies
            allies, enemies = units[:num_allies].any(), units[num_allies:].any()
            terminated = done & ~(allies & enemies)
            info["won"] = jnp.where(np.arange(self.num_agents) < num_allies, allies & ~enemies, enemies & ~allies)

        game = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), game, state.game)
        reward = jnp.stack([jnp.asarray(rewards[agent], jnp.float32).reshape(()) for agent in self.agents])
        next_state = state.replace(game=game, **self._stacked_obs(obs))
        return next_state, Outcome(reward, terminated, done & ~terminated, info)

    def observe(self, state: JaxMARLState) -> jax.Array:
        return state.obs

    def global_state(self, state: JaxMARLState) -> jax.Array:
        """JaxMARL's `world_state` where it has one (SMAX), else the agents' observations, one after the other."""
        return super().global_state(state) if state.world_state is None else state.world_state

    def action_mask(self, state: JaxMARLState) -> jax.Array:
        """JaxMARL's masks, bool[N, A]; where it has none, all actions that an agent's own space has."""
        default = super().action_mask(state)
        if self._masks is None:
            return default
        by_agent = self._masks(state.game)
        masks = [jnp.asarray(by_agent[agent]) > 0 for agent in self.agents]
        return jnp.stack([jnp.pad(mask, (0, default.shape[1] - mask.shape[0])) for mask in masks])

    @property
    def masks_actions(self) -> bool:
        space = self.action_space()
        unequal = any(self.action_space(agent) != space for agent in self.agents)
        return isinstance(space, Discrete) and (self._masks is not None or unequal)

    @property
    def _masks(self) -> Callable[[Any], Mapping[str, jax.Array]] | None:
        """JaxMARL's function from a state to masks by agent, where it has one."""
        env, base = self.jaxmarl_env, _import("jaxmarl.environments.multi_agent_env").MultiAgentEnv
        if type(env).get_avail_actions is not base.get_avail_actions:
            return env.get_avail_actions
        return getattr(env, "get_legal_moves", None)  # Hanabi's name for them

    def render(self, state: JaxMARLState) -> np.ndarray:
        """MPE by JaxMARL's own visualiser; NotImplementedError for the others."""
        env = self.jaxmarl_env
        if not isinstance(env, _import("jaxmarl.environments.mpe.simple").SimpleMPE):
            raise NotImplementedError(f"{self.source}: only JaxMARL's MPE environments can be rendered from here")
        from matplotlib import pyplot
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        with contextlib.redirect_stdout(io.StringIO()):  # the visualiser prints
            figure = _import("jaxmarl.environments.mpe.mpe_visualizer").MPEVisualizer(env, [state.game]).fig
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pyplot.close(figure)
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def _stacked_obs(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        """The fields `obs` and `world_state` of a state."""
        row = self.observation_space()
        rows = [jnp.asarray(obs[agent]).astype(row.dtype) for agent in self.agents]
        padded = [jnp.pad(x, [(0, to - size) for size, to in zip(x.shape, row.shape, strict=True)]) for x in rows]
        world_state = obs.get("world_state")
        if world_state is not None:
            world_state = jnp.asarray(world_state).astype(jnp.float32)
        return {"obs": jnp.stack(padded), "world_state": world_state}

    def _info(self, info: Mapping[str, Any]) -> dict[str, jax.Array]:
        """What of JaxMARL's info has a value for each agent, as arrays [N]."""
        stacked = {}
        for name, value in info.items():
            if isinstance(value, Mapping):
                value = [value[agent] for agent in self.agents] if set(self.agents) <= set(value) else None
            leaf = None if value is None else jnp.asarray(value)
            if leaf is not None and leaf.shape in ((), (self.num_agents,)):
                stacked[name] = jnp.broadcast_to(leaf, self.num_agents)
        return stacked


@functools.cache
def _load(env_id: str, kwargs: tuple[tuple[str, Any], ...]) -> Any:
    """JaxMARL's environment object, one for each configuration: JaxMARL compiles anew for each object."""
    make_theirs, theirs = _jaxmarl_registry()
    if env_id not in theirs:
        raise ValueError(f"unknown JaxMARL environment '{env_id}'; JaxMARL has: {', '.join(theirs)}")
    settings = dict(kwargs)
    # JaxMARL's scripts look these up by name, too; the objects they find cannot be hashed
    _look_up(settings, "scenario", env_id.endswith("SMAX"), "smax.smax_env", "MAP_NAME_TO_SCENARIO")
    _look_up(settings, "layout", env_id == "overcooked", "overcooked.layouts", "overcooked_layouts")
    try:
        # the constructors compute constants, which must not become tracers if the first use is inside a `jit`
        with jax.ensure_compile_time_eval():
            return make_theirs(env_id, **settings)
    except TypeError as error:
        raise ValueError(f"jaxmarl/{env_id}: {error}") from error


def _look_up(settings: dict[str, Any], name: str, applies: bool, module: str, table: str) -> None:
    """Replace the setting `name`, where it is a string, by what JaxMARL's `table` has for it."""
    value = settings.get(name)
    if applies and isinstance(value, str):
        known = getattr(_import(f"jaxmarl.environments.{module}"), table)
        if value not in known:
            raise ValueError(f"{name} is '{value}'; allowed: {', '.join(known)}")
        settings[name] = known[value]


@functools.cache
def _episode_length(env: Any) -> int | None:
    """Steps after which JaxMARL's environment ends an episode whatever happened; None where that cannot be told."""
    environments = _import("jaxmarl.environments")
    late = ("SimpleMPE", "SMAX", "HeuristicEnemySMAX", "LearnedPolicyEnemySMAX")  # done = step >= max_steps; step += 1
    if isinstance(env, tuple(getattr(environments, name) for name in late)):
        return int(env.max_steps) + 1
    punctual = ("Overcooked", "OvercookedV2", "JaxNav", "SwitchRiddle")
    if isinstance(env, tuple(getattr(environments, name) for name in punctual)):
        return int(env.max_steps)
    return None


@functools.cache
def _spaces(env: Any) -> tuple[dict[str | None, Space], dict[str | None, Space]]:
    """`(observation spaces, action spaces)` by agent, and by None that of a row of the stacked arrays."""
    observation: dict[str | None, Space] = {a: _from_jaxmarl(env.observation_space(a)) for a in env.agents}
    # Overcooked's spaces have height and width the wrong way round
    obs, _ = jax.eval_shape(env.reset, jax.random.key(0))
    if not isinstance(obs, Mapping):
        raise NotImplementedError("from_jaxmarl: observations that are not dictionaries by agent are not supported")
    for agent, space in observation.items():
        if isinstance(space, Box) and space.shape != obs[agent].shape:
            observation[agent] = dataclasses.replace(space, shape=obs[agent].shape)
    action: dict[str | None, Space] = {a: _from_jaxmarl(env.action_space(a)) for a in env.agents}
    return observation | {None: _row(list(observation.values()))}, action | {None: _row(list(action.values()))}


def _from_jaxmarl(space: Any) -> Space:
    """One of JaxMARL's spaces as this package's."""
    theirs = _import("jaxmarl.environments.spaces")
    if isinstance(space, theirs.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, theirs.MultiDiscrete):
        return Box(0, tuple(np.asarray(space.num_categories) - 1.0), space.shape, np.dtype(np.int32))
    if isinstance(space, theirs.Box):
        bounds = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
        low, high = (float(bound[0]) if (bound == bound[0]).all() else tuple(bound) for bound in bounds)
        shape = tuple(int(size) for size in np.ravel(space.shape))  # Hanabi's is a number
        return Box(low, high, shape, np.dtype(space.dtype))
    raise NotImplementedError(
        f"from_jaxmarl: spaces of type {type(space).__name__} are not supported, only Box and Discrete"
    )


def _row(spaces: list[Space]) -> Space:
    """The smallest space that holds each of `spaces`, padded with zeros."""
    discrete = [space for space in spaces if isinstance(space, Discrete)]
    boxes = [space for space in spaces if isinstance(space, Box)]
    if not boxes:
        return Discrete(max(space.n for space in discrete))
    if discrete or len({(len(box.shape), box.dtype) for box in boxes}) > 1:
        raise NotImplementedError("from_jaxmarl: agents whose spaces differ in more than size are not supported")
    if all(box == boxes[0] for box in boxes):
        return boxes[0]
    bounds = [np.append(bound, 0.0) for box in boxes for bound in box.bounds()]  # 0 for the padding
    shape = tuple(max(sizes) for sizes in zip(*(box.shape for box in boxes), strict=True))
    return Box(float(min(b.min() for b in bounds)), float(max(b.max() for b in bounds)), shape, boxes[0].dtype)


def _own_action(action: jax.Array, space: Space) -> jax.Array:
    """The part of a stacked action that JaxMARL's agent gets."""
    if isinstance(space, Discrete):
        return jnp.minimum(action.reshape(()), space.n - 1)
    return action[tuple(slice(size) for size in space.shape)]


# --- Both ---


def _import(module: str) -> Any:
    """JaxMARL or a module of it, without what it does to standard output at its first import."""
    if sys.modules.get(module) is not None:
        return sys.modules[module]
    # it prints, and before that points `stdout` and `stderr` at `__stdout__` and `__stderr__`
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr", "__stdout__")}
    sys.stdout = sys.__stdout__ = io.StringIO()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is missing; this needs JaxMARL: pip install 'jaxmarl>=0.2'") from error
    finally:
        for name, stream in streams.items():
            setattr(sys, name, stream)


def _jaxmarl_registry() -> tuple[Callable[..., Any], list[str]]:
    """JaxMARL's own `make` and ids, whether or not `install` has replaced them."""
    registration = _import("jaxmarl.registration")
    make, ids = (_ORIGINALS.get((registration.__name__, name), getattr(registration, name)) for name in _REPLACED)
    return make, ids


def _freeze(value: Any) -> Any:
    """Lists as tuples, so that what holds them can be hashed."""
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value

"""The environment: a robot whose joints are shared out among agents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import MultiAgentEnv, Outcome, State, flat_box, pytree, start_clock
from envs_jax.mamujoco import models, partitions, physics
from envs_jax.mamujoco import options as presets
from envs_jax.mamujoco.backends import require_backend
from envs_jax.mamujoco.graph import joint_graph
from envs_jax.mamujoco.options import Physics
from envs_jax.mamujoco.physics import Bodies
from envs_jax.mamujoco.robots import Places, Robot, Transition, robot_rules
from envs_jax.mamujoco.views import Views, make_views
from envs_jax.mamujoco.xla import prefer_whole_kernels
from envs_jax.spaces import Box

Randomise = Callable[[jax.Array, Any], Mapping[str, jax.Array]]


@pytree
class MaMujocoState(State):
    """A robot.

    qpos: float[nq]; qvel: float[nv]; warmstart: float[nv], where the solver starts.
    derived: further numbers that observations and rewards need, by name; see `physics.derive`.
    model: this environment's own fields of the model, by name; none without `randomise`.
    """

    qpos: jax.Array
    qvel: jax.Array
    warmstart: jax.Array
    derived: dict[str, jax.Array]
    model: dict[str, jax.Array]


class _Parts(NamedTuple):
    """What an environment's settings amount to."""

    rules: Robot
    views: Views
    sim: models.Simulation


@lru_cache(maxsize=256)
def _assemble(
    robot: str, partition: Any, segments: int | None, obsk: int | None, version: str, options: Physics, precision: str
) -> _Parts:
    rules = robot_rules(robot, version)
    count = partitions.segments(robot, partition, segments)
    # The partition is checked on the plain model, before anything goes to MJX.
    plain = models.mj_model(robot, count, version)
    graph = joint_graph(plain, rules.hub)
    parts = partitions.resolve(robot, partition, graph)
    shapes = {"qpos": (plain.nq,), "qvel": (plain.nv,)} | physics.derived_shapes(plain, rules.derived)
    computed = jax.eval_shape(rules.computed, {k: jax.ShapeDtypeStruct(v, np.float32) for k, v in shapes.items()})
    places = Places(shapes | {name: leaf.shape for name, leaf in computed.items()})
    views = make_views(rules, plain, graph, parts, obsk, places)
    return _Parts(rules, views, models.simulation(robot, count, version, options, precision))


@dataclass(frozen=True)
class MaMujoco(MultiAgentEnv):
    """MaMuJoCo (`mamujoco_v1` of Gymnasium-Robotics 1.4, on Gymnasium's `-v5` robots) on MJX.

    Observation, float32: with `obsk`, an agent's own joints (position, velocity, and what else the robot has: contact
    forces, inertias), the positions of joints up to `obsk` hops away, and the root's position and velocity; without,
    Gymnasium's observation. Joints are sorted by name in an observation, but in the partition's order in an action.
    Action, float32: torques; MuJoCo clips them to their range, the control cost does not.
    Reward: Gymnasium's, the same for all agents. Terminates as in Gymnasium (mostly, when the robot falls).
    Agents with less to see or to do are padded with zeros at the end in the stacked interface (`obs_mask`, `act_mask`);
    with dictionaries, sizes are exact.
    `info`: the parts of the reward, and `diverged`, 1 where the physics broke down: that episode ends with reward 0.

    Deviations from MaMuJoCo: CoupledHalfCheetah's and ManySegmentAnt's agents see and drive their own joints (there
    they do not), a humanoid's `abdomen_y` and `abdomen_z` show their own joints instead of each other's, Reacher's
    target is drawn in its disc directly, the humanoids' solver is Newton instead of PGS, Pusher is left out.
    On CPUs with few cores the first environment is best made before JAX's first computation: see `xla`.
    """

    num_agents: int = 0
    """Number of agents; 0 to take the partition's."""
    max_steps: int | None = 1000
    """Steps after which an episode is truncated; None for no limit. Gymnasium's Reacher has 50."""
    robot: str = "halfcheetah"
    """Which robot; `envs_jax.mamujoco.ids.NAMED` lists them."""
    partition: partitions.Partition = "2x3"
    """A factorisation's name ("2x3"; "10x2" is 10 agents of 2 segments; "single" is one agent), or the actuators of
    each agent, as numbers or joints' names."""
    obsk: int | None = 1
    """How many hops away an agent sees other joints; None for the whole state."""
    segments: int | None = None
    """Number of segments of ManySegmentSwimmer and ManySegmentAnt, where the partition's name does not say it."""
    version: str = "v5"
    """Gymnasium's version of reward and observation: "v5" or "v4"."""
    physics: str | Physics = "faithful"
    """ "faithful" (as C MuJoCo), "fast" (coarser, another physics), or a `Physics` of one's own."""
    precision: str = "float32"
    """ "float32", or "float64" of the physics, which needs `jax_enable_x64`."""
    backend: str = "jax"
    """What simulates: "jax" (MJX), or "warp" (MuJoCo Warp through MJX, on NVIDIA GPUs; see `warp`)."""
    randomise: Randomise | None = None
    """Domain randomisation: a function of a key and the `mjx.Model` that gives new values for some of the model's
    arrays, by field ("body_mass", "geom_friction"), drawn for each environment and episode."""

    def __post_init__(self) -> None:
        prefer_whole_kernels()
        object.__setattr__(self, "partition", partitions.freeze(self.partition))
        robot_rules(self.robot, self.version)
        if self.obsk is not None and self.obsk < 0:
            raise ValueError(f"obsk is {self.obsk}; allowed: an integer of at least 0, or None for the whole state")
        if self.precision not in ("float32", "float64"):
            raise ValueError(f"precision is '{self.precision}'; allowed: float32, float64")
        options = presets.resolve(self.physics, self.robot)
        require_backend(self.backend)
        if self.backend == "warp" and self.precision != "float32":
            raise ValueError(f"precision is '{self.precision}'; allowed with backend 'warp': float32")
        if self.backend == "warp" and options.integrator == "midpoint":
            raise ValueError(
                f"physics has the integrator 'midpoint', which backend 'warp' has not; allowed: 'faithful', or a "
                f"Physics(...) with {', '.join(name for name in presets.INTEGRATORS if name != 'midpoint')}"
            )
        if self.backend == "warp" and self.randomise is not None:
            raise ValueError("randomise is given; allowed with backend 'warp': None, for it shares one model")
        agents = len(self._parts.views.parts)
        if self.num_agents not in (0, agents):
            raise ValueError(f"num_agents is {self.num_agents}; allowed: {agents}, as partition has, or 0")
        object.__setattr__(self, "num_agents", agents)
        super().__post_init__()

    @property
    def _parts(self) -> _Parts:
        options = presets.resolve(self.physics, self.robot)
        settings = (self.robot, self.partition, self.segments, self.obsk, self.version, options, self.precision)
        return _assemble(*settings)

    # --- Sizes ---

    def observation_space(self, agent: str | None = None) -> Box:
        sizes = self._parts.views.obs_sizes
        return flat_box(max(sizes) if agent is None else sizes[self._index(agent)])

    def action_space(self, agent: str | None = None) -> Box:
        views = self._parts.views
        own = [a for part in views.parts for a in part] if agent is None else views.parts[self._index(agent)]
        size = max(views.act_sizes) if agent is None else len(own)
        return flat_box(size, float(views.low[list(own)].min()), float(views.high[list(own)].max()))

    @property
    def obs_mask(self) -> np.ndarray:
        """Which entries of the stacked observations are not padding, bool[N, O]."""
        views = self._parts.views
        return np.arange(max(views.obs_sizes)) < np.array(views.obs_sizes)[:, None]

    @property
    def act_mask(self) -> np.ndarray:
        """Which entries of the stacked actions are not padding, bool[N, A]."""
        views = self._parts.views
        return np.arange(max(views.act_sizes)) < np.array(views.act_sizes)[:, None]

    @property
    def dt(self) -> float:
        """Seconds per step."""
        return self._parts.rules.frame_skip * self._timestep

    @property
    def _timestep(self) -> float:
        """Seconds per physics step of the robot's own."""
        sim = self._parts.sim
        return float(sim.mj.opt.timestep) * sim.options.substeps

    def _index(self, agent: str) -> int:
        if agent not in self.agents:
            raise ValueError(f"agent is '{agent}'; allowed: {', '.join(self.agents)}")
        return self.agents.index(agent)

    # --- Rules ---

    def init(self, key: jax.Array) -> MaMujocoState:
        key_start, key_model = jax.random.split(key)
        rules, _, sim = self._parts
        with self._x64():
            model = jax.tree.map(jnp.asarray, sim.model)
            own = {} if self.randomise is None else self._draw(key_model, model)
            model = model.tree_replace(own)
            qpos, qvel = rules.start(key_start, model.qpos0, sim.mj.nv)
            data = jax.tree.map(jnp.asarray, sim.data)
            derived = physics.at_rest(sim.mj, model, data, rules.derived, qpos, qvel)
            return MaMujocoState(
                **start_clock(), qpos=qpos, qvel=qvel, warmstart=jnp.zeros_like(qvel), derived=derived, model=own
            )

    def transition(self, key: jax.Array, state: MaMujocoState, actions: jax.Array) -> tuple[MaMujocoState, Outcome]:
        rules, views, sim = self._parts
        with self._x64():
            model = jax.tree.map(jnp.asarray, sim.model).tree_replace(state.model)
            data = jax.tree.map(jnp.asarray, sim.data)
            before = Bodies(state.qpos, state.qvel, state.warmstart, state.derived)
            action = actions.reshape(-1)[views.drives].astype(state.qpos.dtype)
            if self.backend == "warp":
                from envs_jax.mamujoco import warp

                steps = rules.frame_skip * sim.options.substeps
                after = warp.advance(sim.mj, before, action, steps, rules.derived)
            else:
                after = physics.advance(
                    sim.mj, model, data, before, action, sim.options, rules.frame_skip, rules.derived
                )
            broken = physics.diverged(after)
            # The last sound state stays, so that nothing that is not a number gets out of here.
            after = jax.tree.map(lambda new, old: jnp.where(broken, old, new), after, before)
            step = Transition(
                before=_blocks(before),
                after=_blocks(after),
                action=action,
                dt=self.dt,
                timestep=self._timestep,
            )
            parts = {name: jnp.where(broken, 0, part) for name, part in rules.rewards(step).items()}
            terminated = broken | ~rules.healthy(step.after)
            everyone = jnp.ones(self.num_agents, jnp.float32)
            info = {name: part.astype(jnp.float32) * everyone for name, part in parts.items()}
            info["diverged"] = broken.astype(jnp.float32) * everyone
            reward = jnp.sum(jnp.stack(list(parts.values()))).astype(jnp.float32) * everyone
            state = state.replace(qpos=after.qpos, qvel=after.qvel, warmstart=after.warmstart, derived=after.derived)
            return state, Outcome(reward, terminated, jnp.zeros((), jnp.bool_), info)

    def observe(self, state: MaMujocoState) -> jax.Array:
        return self._all_numbers(state)[self._parts.views.obs]

    def global_state(self, state: MaMujocoState) -> jax.Array:
        """Gymnasium's observation, float32[G]."""
        return self._all_numbers(state)[self._parts.views.state]

    def render(self, state: MaMujocoState) -> np.ndarray:
        from envs_jax.mamujoco.rendering import render

        _, views, sim = self._parts
        return render(sim.mj, np.asarray(state.qpos), views.parts)

    def render_html(self, states: MaMujocoState, path: str | Path | None = None, title: str | None = None) -> str:
        """An episode as one HTML page that any browser plays, without OpenGL, network or other files.

        states: leaves [T, ...], as `learner.episode` or a scan over `transition` gives. Also written to `path`, where
        given. Limbs are in the colours of the agents that drive them. Of models changed by `randomise`, sizes are not
        shown. Raises ValueError on states of no or several episodes side by side.
        """
        from envs_jax.mamujoco.viewer import to_html

        _, views, sim = self._parts
        name = f"{self.robot} {self.partition}" if isinstance(self.partition, str) else self.robot
        return to_html(
            sim.mj, np.asarray(states.qpos), views.parts, self.dt, title or name, None if path is None else Path(path)
        )

    def _all_numbers(self, state: MaMujocoState) -> jax.Array:
        """All blocks, one after the other, and a zero for the padding; float32."""
        rules, views, _ = self._parts
        blocks = _blocks(Bodies(state.qpos, state.qvel, state.warmstart, state.derived))
        blocks |= rules.computed(blocks)
        flat = [blocks[name].reshape(-1).astype(jnp.float32) for name in views.places.shapes]
        return jnp.concatenate([*flat, jnp.zeros(1, jnp.float32)])

    def _draw(self, key: jax.Array, model: Any) -> dict[str, jax.Array]:
        """This episode's own fields of the model, checked against the model's."""
        assert self.randomise is not None
        own = {}
        for name, value in self.randomise(key, model).items():
            field = getattr(model, name, None)
            if not isinstance(field, jax.Array):
                raise ValueError(f"randomise gives '{name}'; allowed: arrays of mjx.Model, such as 'body_mass'")
            if jnp.shape(value) != field.shape:
                raise ValueError(f"randomise gives '{name}' of shape {jnp.shape(value)}; allowed: {field.shape}")
            own[name] = jnp.asarray(value, field.dtype)
        return own

    def _x64(self) -> Any:
        """Traces the physics in its own precision, whatever the caller's."""
        if self.precision == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            raise ValueError("precision is 'float64'; allowed: only under jax_enable_x64, else float32")
        return jax.enable_x64(self.precision == "float64")


def _blocks(bodies: Bodies) -> dict[str, jax.Array]:
    return {"qpos": bodies.qpos, "qvel": bodies.qvel, **bodies.derived}

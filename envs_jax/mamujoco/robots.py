"""The rules of each robot: what is observed, rewarded, terminal, and where an episode starts.

Facts are those of Gymnasium's `-v5` (or `-v4`) environments and of MaMuJoCo's observation categories. A robot's numbers
are laid out in blocks (`qpos`, `qvel`, what the physics gives besides, and what is computed of them); an observation is
a list of places in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

Arrays = Mapping[str, jax.Array]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Transition:
    """One environment step, as a robot's reward sees it.

    before, after: the blocks `qpos`, `qvel` and those in `Robot.derived`, at both ends.
    action: float[nu], as it was given: MuJoCo clips what it applies, the reward does not clip what it costs.
    dt: seconds per environment step.
    """

    before: Arrays
    after: Arrays
    action: jax.Array
    dt: float
    timestep: float


@dataclass(frozen=True)
class Robot:
    """A robot's rules; subclasses say what differs from a planar runner that never falls (HalfCheetah)."""

    name: str
    version: str
    frame_skip: int = 5
    hub: tuple[str, ...] = ()
    """Joints that count as one in the graph of neighbours."""
    skipped: int = 1
    """How many leading positions (x, or x and y) nobody observes."""
    position_noise: float = 0.1
    velocity_noise: float = 0.1
    normal_velocities: bool = True
    """Whether starting velocities are normal instead of uniform."""
    healthy_reward: float = 0.0
    ctrl_cost: float = 0.1
    forward_reward: float = 1.0

    derived: ClassVar[tuple[str, ...]] = ()
    """What the physics must give besides `qpos` and `qvel`; see `physics.derive`."""
    categories: ClassVar[tuple[str, ...]] = ("qpos", "qvel")
    """What an agent sees of its own joints; of others it sees `qpos`."""
    terms: ClassVar[tuple[str, ...]] = ("reward_forward", "reward_ctrl")
    """The parts of the reward."""

    # --- Observation ---

    def computed(self, blocks: Arrays) -> dict[str, jax.Array]:
        """Further blocks, computed from those of the state."""
        return {}

    def joint_view(self, joint: Any, category: str, places: Places) -> list[int]:
        """The places that show one category of one joint."""
        return [places[category, joint.qvel if category == "qfrc_actuator" else getattr(joint, category)]]

    def root_view(self, positions: list[int], velocities: list[int], places: Places) -> list[int]:
        """The places that all agents see, given the indices of the positions and velocities that nobody drives."""
        return [places["qpos", i] for i in positions if i >= self.skipped] + [places["qvel", i] for i in velocities]

    def state_view(self, places: Places) -> list[int]:
        """The places of Gymnasium's observation, which is the state here."""
        return places.all("qpos")[self.skipped :] + places.all("qvel")

    # --- Rules ---

    def rewards(self, t: Transition) -> dict[str, jax.Array]:
        """The parts of the reward, by name; their sum is the reward."""
        survive = {"reward_survive": self.survival(t)} if self.healthy_reward else {}
        cost = self.ctrl_cost * jnp.sum(jnp.square(t.action))
        return {"reward_forward": self.forward_reward * self.velocity(t), "reward_ctrl": -cost} | survive

    def velocity(self, t: Transition) -> jax.Array:
        return (t.after["qpos"][0] - t.before["qpos"][0]) / t.dt

    def survival(self, t: Transition) -> jax.Array:
        """v5 pays for survival only where the robot survives, v4 always."""
        paid = self.healthy_reward * jnp.ones_like(t.action[0])
        return paid if self.version == "v4" else jnp.where(self.healthy(t.after), paid, 0)

    def healthy(self, blocks: Arrays) -> jax.Array:
        """Whether the episode goes on, bool[]."""
        return jnp.ones((), bool)

    def start(self, key: jax.Array, qpos0: jax.Array, num_velocities: int) -> tuple[jax.Array, jax.Array]:
        """`qpos` and `qvel` at the start of an episode."""
        key_position, key_velocity = jax.random.split(key)
        noise, kind = self.position_noise, qpos0.dtype
        qpos = qpos0 + jax.random.uniform(key_position, qpos0.shape, kind, -noise, noise)
        if self.normal_velocities:
            return qpos, self.velocity_noise * jax.random.normal(key_velocity, (num_velocities,), kind)
        noise = self.velocity_noise
        return qpos, jax.random.uniform(key_velocity, (num_velocities,), kind, -noise, noise)


@dataclass(frozen=True)
class Places:
    """Where each number of each block lies in the concatenation of all blocks; `places["qvel", 3]`."""

    shapes: Shapes
    offsets: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        self.offsets.update(zip(self.shapes, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def __getitem__(self, place: tuple[str, int]) -> int:
        block, index = place
        return self.offsets[block] + index

    def all(self, block: str, rows_from: int = 0) -> list[int]:
        """All places of a block, or those from a row on."""
        shape = self.shapes[block]
        size, start = int(np.prod(shape)), rows_from * int(np.prod(shape[1:]))
        return [self.offsets[block] + i for i in range(start, size)]

    def row(self, block: str, row: int) -> list[int]:
        """The places of one row of a block with two axes."""
        width = self.shapes[block][1]
        return [self.offsets[block] + i for i in range(row * width, (row + 1) * width)]


@dataclass(frozen=True)
class _Walking(Robot):
    """Hopper and Walker2d: planar, and it ends when they fall."""

    terms = ("reward_forward", "reward_ctrl", "reward_survive")

    def computed(self, blocks: Arrays) -> dict[str, jax.Array]:
        return {"qvel_clipped": jnp.clip(blocks["qvel"], -10, 10)}

    def state_view(self, places: Places) -> list[int]:
        return places.all("qpos")[self.skipped :] + places.all("qvel_clipped")


@dataclass(frozen=True)
class Hopper(_Walking):
    def joint_view(self, joint: Any, category: str, places: Places) -> list[int]:
        return [places["qvel_clipped", joint.qvel]] if category == "qvel" else [places["qpos", joint.qpos]]

    def root_view(self, positions: list[int], velocities: list[int], places: Places) -> list[int]:
        return [places["qpos", i] for i in positions[1:]] + [places["qvel_clipped", i] for i in velocities]

    def healthy(self, blocks: Arrays) -> jax.Array:
        z, angle = blocks["qpos"][1], blocks["qpos"][2]
        rest = jnp.concatenate([blocks["qpos"][2:], blocks["qvel"]])
        return (z > 0.7) & (jnp.abs(angle) < 0.2) & jnp.all(jnp.abs(rest) < 100)


@dataclass(frozen=True)
class Walker2d(_Walking):
    """Agents see its velocities as they are; only the state clips them, as in MaMuJoCo."""

    def healthy(self, blocks: Arrays) -> jax.Array:
        z, angle = blocks["qpos"][1], blocks["qpos"][2]
        return (z > 0.8) & (z < 2) & (jnp.abs(angle) < 1)


@dataclass(frozen=True)
class Swimmer(Robot):
    """Who drives the first joint also sees how fast the whole moves in x, and the second in y."""

    def joint_view(self, joint: Any, category: str, places: Places) -> list[int]:
        if category == "qpos":
            return [places["qpos", joint.qpos]]
        return [places["qvel", joint.actuator], places["qvel", joint.qvel]]

    def root_view(self, positions: list[int], velocities: list[int], places: Places) -> list[int]:
        return [places["qpos", positions[2]], places["qvel", velocities[2]]]


@dataclass(frozen=True)
class ManySegmentSwimmer(Robot):
    """Nobody sees the root, as in MaMuJoCo; it is in the state."""

    def root_view(self, positions: list[int], velocities: list[int], places: Places) -> list[int]:
        return []


@dataclass(frozen=True)
class Ant(Robot):
    """Also ManySegmentAnt, which is several of it."""

    derived = ("torso", "cfrc_ext")

    @property
    def contacts(self) -> bool:
        """Whether contact forces are observed and cost something: v4 had them off."""
        return self.version != "v4"

    @property
    def categories(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("qpos", "qvel", "cfrc_ext") if self.contacts else ("qpos", "qvel")

    @property
    def terms(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("reward_forward", "reward_ctrl", "reward_survive") + ("reward_contact",) * self.contacts

    def computed(self, blocks: Arrays) -> dict[str, jax.Array]:
        return {"cfrc_ext_clipped": jnp.clip(blocks["cfrc_ext"], -1, 1)}

    def root_view(self, positions: list[int], velocities: list[int], places: Places) -> list[int]:
        return [places["qpos", i] for i in positions[2:]] + [places["qvel", i] for i in velocities]

    def state_view(self, places: Places) -> list[int]:
        return super().state_view(places) + (places.all("cfrc_ext_clipped", 1) if self.contacts else [])

    def velocity(self, t: Transition) -> jax.Array:
        return (t.after["torso"][0] - t.before["torso"][0]) / t.dt

    def rewards(self, t: Transition) -> dict[str, jax.Array]:
        parts = super().rewards(t)
        if self.contacts:
            force = jnp.clip(t.after["cfrc_ext"], -1, 1)
            parts["reward_contact"] = -5e-4 * jnp.sum(jnp.square(force))
        return parts

    def healthy(self, blocks: Arrays) -> jax.Array:
        z = blocks["qpos"][2]
        return (z >= 0.2) & (z <= 1.0)


@dataclass(frozen=True)
class Humanoid(Robot):
    derived = ("com", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
    categories = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")

    @property
    def terms(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("reward_forward", "reward_ctrl", "reward_survive") + ("reward_contact",) * (self.version != "v4")

    def state_view(self, places: Places) -> list[int]:
        # v4 also shows the world's rows and the root's actuator forces, all of them zeros.
        first, drives = (0, 0) if self.version == "v4" else (1, 6)
        bodies = [places.all(block, first) for block in ("cinert", "cvel")]
        forces = [places.all("qfrc_actuator", drives), places.all("cfrc_ext", first)]
        return super().state_view(places) + sum(bodies + forces, [])

    def velocity(self, t: Transition) -> jax.Array:
        return (t.after["com"][0] - t.before["com"][0]) / t.dt

    def impact(self, t: Transition) -> jax.Array:
        return jnp.minimum(5e-7 * jnp.sum(jnp.square(t.after["cfrc_ext"])), 10)

    def rewards(self, t: Transition) -> dict[str, jax.Array]:
        parts = super().rewards(t)
        if self.version != "v4":
            parts["reward_contact"] = -self.impact(t)
        return parts

    def healthy(self, blocks: Arrays) -> jax.Array:
        z = blocks["qpos"][2]
        return (z > 1) & (z < 2)


@dataclass(frozen=True)
class HumanoidStandup(Humanoid):
    terms = ("reward_linup", "reward_ctrl", "reward_impact", "reward_survive")  # type: ignore[assignment]

    def rewards(self, t: Transition) -> dict[str, jax.Array]:
        return {
            "reward_linup": t.after["qpos"][2] / t.timestep,
            "reward_ctrl": -0.1 * jnp.sum(jnp.square(t.action)),
            "reward_impact": -self.impact(t),
            "reward_survive": jnp.ones_like(t.action[0]),
        }

    def healthy(self, blocks: Arrays) -> jax.Array:
        return jnp.ones((), bool)


@dataclass(frozen=True)
class Reacher(Robot):
    derived = ("tip",)
    categories = ("qpos", "qvel", "fingertip_dist")
    terms = ("reward_dist", "reward_ctrl")

    def computed(self, blocks: Arrays) -> dict[str, jax.Array]:
        angles = blocks["qpos"][:2]
        return {"sin": jnp.sin(angles), "cos": jnp.cos(angles)}

    def joint_view(self, joint: Any, category: str, places: Places) -> list[int]:
        if category == "fingertip_dist":
            return places.all("tip") if joint.actuator == 1 else []
        if category == "qpos":
            return [places["sin", joint.qpos], places["cos", joint.qpos]]
        return [places["qvel", joint.qvel]]

    def root_view(self, positions: list[int], velocities: list[int], places: Places) -> list[int]:
        return [places["qpos", i] for i in positions]

    def state_view(self, places: Places) -> list[int]:
        angles = places.all("cos") + places.all("sin")
        tip = places.all("tip") if self.version == "v4" else places.all("tip")[:2]
        return angles + places.all("qpos")[2:] + places.all("qvel")[:2] + tip

    def rewards(self, t: Transition) -> dict[str, jax.Array]:
        # v4 rewards where the fingertip was before the step.
        tip = (t.before if self.version == "v4" else t.after)["tip"]
        return {"reward_dist": -jnp.linalg.norm(tip), "reward_ctrl": -jnp.sum(jnp.square(t.action))}

    def start(self, key: jax.Array, qpos0: jax.Array, num_velocities: int) -> tuple[jax.Array, jax.Array]:
        key_start, key_radius, key_angle = jax.random.split(key, 3)
        qpos, qvel = super().start(key_start, qpos0, num_velocities)
        # Uniform in the disc, without Gymnasium's rejections.
        radius = 0.2 * jnp.sqrt(jax.random.uniform(key_radius, (), qpos.dtype))
        angle = jax.random.uniform(key_angle, (), qpos.dtype, 0, 2 * np.pi)
        target = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return qpos.at[2:].set(target), qvel.at[2:].set(0)


@dataclass(frozen=True)
class InvertedPendulum(Robot):
    terms = ("reward_survive",)

    def rewards(self, t: Transition) -> dict[str, jax.Array]:
        return {"reward_survive": self.survival(t)}

    def healthy(self, blocks: Arrays) -> jax.Array:
        return jnp.abs(blocks["qpos"][1]) <= 0.2


@dataclass(frozen=True)
class InvertedDoublePendulum(Robot):
    derived = ("site", "qfrc_constraint")
    terms = ("reward_survive", "distance_penalty", "velocity_penalty")

    def computed(self, blocks: Arrays) -> dict[str, jax.Array]:
        qpos = blocks["qpos"]
        return {
            "sin": jnp.sin(qpos[1:]),
            "cos": jnp.cos(qpos[1:]),
            "qvel_clipped": jnp.clip(blocks["qvel"], -10, 10),
            "force_clipped": jnp.clip(blocks["qfrc_constraint"], -10, 10),
        }

    def state_view(self, places: Places) -> list[int]:
        forces = places.all("force_clipped")
        angles = places.all("sin") + places.all("cos")
        return [places["qpos", 0]] + angles + places.all("qvel_clipped") + forces[: 3 if self.version == "v4" else 1]

    def rewards(self, t: Transition) -> dict[str, jax.Array]:
        x, y = t.after["site"][0], t.after["site"][2]
        v1, v2 = t.after["qvel"][1], t.after["qvel"][2]
        return {
            "reward_survive": self.survival(t),
            "distance_penalty": -(0.01 * x**2 + (y - 2) ** 2),
            "velocity_penalty": -(1e-3 * v1**2 + 5e-3 * v2**2),
        }

    def healthy(self, blocks: Arrays) -> jax.Array:
        return blocks["site"][2] > 1


@dataclass(frozen=True)
class CoupledHalfCheetah(Robot):
    """Rewarded for the mean of both; each agent sees its own cheetah, the tendon, and both roots."""

    derived = ("ten_J", "ten_length", "ten_velocity")
    categories = ("qpos", "qvel", "ten_J", "ten_length", "ten_velocity")

    def _tendon(self, places: Places) -> list[int]:
        # How the tendon pulls on x and z of the two roots; everything else is zero.
        pulls = [places["ten_J", i] for i in (0, 1, 9, 10)]
        return pulls + places.all("ten_length") + places.all("ten_velocity")

    def joint_view(self, joint: Any, category: str, places: Places) -> list[int]:
        if not category.startswith("ten_"):
            return super().joint_view(joint, category, places)
        if not joint.name.startswith("bthigh"):
            return []
        return self._tendon(places)[:4] if category == "ten_J" else places.all(category)

    def root_view(self, positions: list[int], velocities: list[int], places: Places) -> list[int]:
        return [places["qpos", i] for i in positions if i not in (0, 9)] + [places["qvel", i] for i in velocities]

    def state_view(self, places: Places) -> list[int]:
        positions = [place for i, place in enumerate(places.all("qpos")) if i not in (0, 9)]
        return positions + places.all("qvel") + self._tendon(places)

    def velocity(self, t: Transition) -> jax.Array:
        moved = t.after["qpos"] - t.before["qpos"]
        return (moved[0] + moved[9]) / (2 * t.dt)

    def rewards(self, t: Transition) -> dict[str, jax.Array]:
        parts = super().rewards(t)
        return parts | {"reward_ctrl": parts["reward_ctrl"] / 2}


_UNIFORM: dict[str, Any] = {"normal_velocities": False}
_LEGGED: dict[str, Any] = _UNIFORM | {
    "frame_skip": 4,
    "position_noise": 5e-3,
    "velocity_noise": 5e-3,
    "healthy_reward": 1.0,
    "ctrl_cost": 1e-3,
}
_SWIMMING: dict[str, Any] = _UNIFORM | {"frame_skip": 4, "skipped": 2, "ctrl_cost": 1e-4}
_CRAWLING: dict[str, Any] = {"skipped": 2, "healthy_reward": 1.0, "ctrl_cost": 0.5}
_UPRIGHT: dict[str, Any] = _UNIFORM | {
    "hub": ("abdomen_x", "abdomen_y", "abdomen_z"),
    "skipped": 2,
    "position_noise": 0.01,
    "velocity_noise": 0.01,
    "healthy_reward": 5.0,
    "forward_reward": 1.25,
}
_ROBOTS: dict[str, tuple[type[Robot], dict[str, Any]]] = {
    "halfcheetah": (Robot, {}),
    "hopper": (Hopper, _LEGGED),
    "walker2d": (Walker2d, _LEGGED),
    "swimmer": (Swimmer, _SWIMMING),
    "manysegmentswimmer": (ManySegmentSwimmer, _SWIMMING),
    "ant": (Ant, _CRAWLING),
    "manysegmentant": (Ant, _CRAWLING),
    "humanoid": (Humanoid, _UPRIGHT),
    "humanoidstandup": (HumanoidStandup, _UPRIGHT),
    "reacher": (Reacher, _UNIFORM | {"frame_skip": 2, "velocity_noise": 5e-3, "skipped": 0}),
    "invertedpendulum": (
        InvertedPendulum,
        _UNIFORM
        | {"frame_skip": 2, "skipped": 0, "position_noise": 0.01, "velocity_noise": 0.01, "healthy_reward": 1.0},
    ),
    "inverteddoublependulum": (InvertedDoublePendulum, {"skipped": 0, "healthy_reward": 10.0}),
    "coupledhalfcheetah": (CoupledHalfCheetah, {}),
}


def robot_rules(name: str, version: str = "v5") -> Robot:
    """The rules of a robot; raises ValueError on a name or version that does not exist."""
    if name == "pusher":
        raise ValueError("robot is 'pusher'; left out: its cylinders make MJX a thousand times slower than MuJoCo")
    if name not in _ROBOTS:
        raise ValueError(f"robot is '{name}'; allowed: {', '.join(_ROBOTS)}")
    if version not in ("v4", "v5"):
        raise ValueError(f"version is '{version}'; allowed: v4, v5")
    kind, settings = _ROBOTS[name]
    return kind(name=name, version=version, **settings)

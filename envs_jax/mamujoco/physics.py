"""One environment step of MJX: a scan over physics steps, with one traced evaluation of the dynamics.

What is carried is `qpos`, `qvel`, `qacc_warmstart` and the few derived numbers that observations and rewards need, not
MJX's whole `Data` (100 to 1500 bytes per environment instead of 3 to 60 kB).

Derived numbers are those that MuJoCo leaves behind after its last physics step: computed before that step's
integration (with RK4: in its last stage), so they lag behind `qpos` and `qvel`. Gymnasium uses them so.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

with contextlib.redirect_stdout(io.StringIO()):  # MJX prints that it has no warp
    from mujoco import mjx
    from mujoco.mjx._src import collision_driver, constraint, scan, smooth, solver, support
    from mujoco.mjx._src.collision_primitive import _plane_sphere, collider

from envs_jax.mamujoco import dynamics, newton
from envs_jax.mamujoco.batching import as_one_batch
from envs_jax.mamujoco.library import mujoco
from envs_jax.mamujoco.options import Physics

_STAGES = {
    "midpoint": (np.array([0.0, 0.5]), np.array([0.0, 1.0])),
    "rk4": (np.array([0.0, 0.5, 0.5, 1.0]), np.array([1, 2, 2, 1]) / 6),
}
"""Of Runge and Kutta's integrators: per stage, how far it reaches from the start, and its weight in the sum."""
_AT_REST = ("cfrc_ext", "qfrc_actuator", "qfrc_constraint")
"""What Gymnasium shows as zeros at the start of an episode."""


class Bodies(NamedTuple):
    """What is carried from step to step.

    qpos: float[nq]; qvel: float[nv]; warmstart: float[nv], the last accelerations, where the solver starts.
    derived: by name, see `derive`.
    """

    qpos: jax.Array
    qvel: jax.Array
    warmstart: jax.Array
    derived: dict[str, jax.Array]


def derived_shapes(mj: Any, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of what `derive` gives."""
    shapes = {
        "torso": (3,),
        "com": (2,),
        "tip": (3,),
        "site": (3,),
        "cinert": (mj.nbody, 10),
        "cvel": (mj.nbody, 6),
        "cfrc_ext": (mj.nbody, 6),
        "qfrc_actuator": (mj.nv,),
        "qfrc_constraint": (mj.nv,),
        "ten_J": (mj.nv,),
        "ten_length": (1,),
        "ten_velocity": (1,),
    }
    return {name: shapes[name] for name in names}


def derive(mj: Any, model: Any, data: Any, names: Sequence[str]) -> dict[str, jax.Array]:
    """Numbers of an `mjx.Data`, by MuJoCo's names; of our own are

    torso: position of the first body; com: the mass centre's x and y; tip: from Reacher's target to its fingertip;
    site: position of the first site.
    """

    def one(name: str) -> jax.Array:
        match name:
            case "torso":
                return data.xpos[1]
            case "com":
                mass = model.body_mass[:, None]
                return (jnp.sum(mass * data.xipos, axis=0) / jnp.sum(mass))[:2]
            case "tip":
                return data.xpos[mj.body("fingertip").id] - data.xpos[mj.body("target").id]
            case "site":
                return data.site_xpos[0]
            case "cfrc_ext" if model.impl == mjx.Impl.WARP:
                return data._impl.cfrc_ext
            case "cfrc_ext":
                return mjx.rne_postconstraint(model, data)._impl.cfrc_ext  # type: ignore[union-attr]
            case "ten_J" if model.impl == mjx.Impl.WARP:  # of one tendon, without the zeros
                return jnp.zeros(mj.nv).at[mj.ten_J_colind].set(data._impl.ten_J.reshape(-1)[: mj.nJten])
            case "ten_J":
                return data._impl.ten_J[0]
            case "ten_length":
                return data.ten_length
            case "cinert" | "ten_velocity":
                return getattr(data._impl, name)
            case _:
                return getattr(data, name)

    return {name: one(name) for name in names}


@partial(jax.jit, static_argnums=(0, 3))
def at_rest(mj: Any, model: Any, data: Any, names: tuple[str, ...], qpos: jax.Array, qvel: jax.Array) -> dict:
    """Derived numbers at the start of an episode: positions and velocities of bodies, and no dynamics.

    Jitted for who calls `init` outside a program: operation by operation Humanoid's kinematics take a minute.
    """
    shapes = derived_shapes(mj, names)
    zeros = {name: jnp.zeros(shapes[name], qpos.dtype) for name in names if name in _AT_REST}
    moving = [name for name in names if name not in zeros and name != "torso"]
    found = {"torso": qpos[:3]} if "torso" in names else {}
    if moving:
        with _as_here():
            data = mjx.kinematics(model, data.replace(qpos=qpos, qvel=qvel))
            data = mjx.com_pos(model, data)
            if model.ntendon:
                data = mjx.tendon(model, data)
                velocity = data._impl.ten_J @ qvel
                data = data.tree_replace({"_impl.ten_velocity": velocity})
            data = mjx.com_vel(model, data)
        found |= derive(mj, model, data, moving)
    return {name: zeros[name] if name in zeros else found[name] for name in names}


def advance(
    mj: Any,
    model: Any,
    data: Any,
    bodies: Bodies,
    ctrl: jax.Array,
    options: Physics,
    frame_skip: int,
    names: tuple[str, ...],
) -> Bodies:
    """`frame_skip` of the robot's own physics steps under `ctrl` [nu], which MuJoCo clips to its range.

    Nested `vmap`s (seeds, environments) make one batch, which goes through in portions that a CPU's caches hold.
    """
    values, tree = jax.tree.flatten((model, data, bodies, ctrl))

    def one(*values: jax.Array) -> Bodies:
        return _advance(mj, *jax.tree.unflatten(tree, values), options, frame_skip * options.substeps, names)

    return as_one_batch(one)(*values)


@partial(jax.jit, static_argnums=(0, 5, 6, 7))
def _advance(
    mj: Any,
    model: Any,
    data: Any,
    bodies: Bodies,
    ctrl: jax.Array,
    options: Physics,
    steps: int,
    names: tuple[str, ...],
) -> Bodies:
    """Jitted, so that a program with several copies of this (training, evaluation; each traced more than once inside
    JAX's loops and conditions) traces MJX once: that is two seconds each time, and more under `vmap`."""
    data = data.replace(ctrl=ctrl)
    match options.integrator:
        case "euler":
            one_step = partial(_euler, options.eulerdamp)
        case "implicitfast":
            one_step = _mjx_step
        case _:
            one_step = partial(_runge_kutta, *_STAGES[options.integrator])

    def step(bodies: Bodies, last: jax.Array) -> tuple[Bodies, None]:
        def derived(at: Any, final: Any = True) -> dict[str, jax.Array]:
            if not names:
                return {}
            old = bodies.derived
            return jax.lax.cond(last & final, lambda: _like(derive(mj, model, at, names), old), lambda: old)

        return _like(one_step(mj, model, data, bodies, derived), bodies), None

    with _as_here():
        return jax.lax.scan(step, bodies, np.arange(steps) == steps - 1)[0]


Derived = Callable[..., dict[str, jax.Array]]
"""What is derived from an `mjx.Data`, or the old numbers where this is not the last step (or its final stage): what is
read only there is computed only there."""


def _mjx_step(mj: Any, model: Any, data: Any, bodies: Bodies, derived: Derived) -> Bodies:
    after = mjx.step(model, data.replace(qpos=bodies.qpos, qvel=bodies.qvel, qacc_warmstart=bodies.warmstart))
    return Bodies(after.qpos, after.qvel, after.qacc_warmstart, derived(after))


def _euler(implicit_damping: bool, mj: Any, model: Any, data: Any, bodies: Bodies, derived: Derived) -> Bodies:
    """Velocity first, then position at the new velocity.

    Joint damping at the new velocity: (M + dt D) a' = M a, where a are the solver's accelerations. MuJoCo has the sum
    of all forces on the right, which is the same where the solver has converged. Where it has not, that sum pushes
    bodies beyond where the solver had got to, and an Ant with two iterations falls over.
    """
    dt = model.opt.timestep
    at = data.replace(qpos=bodies.qpos, qvel=bodies.qvel, qacc_warmstart=bodies.warmstart)
    at = mjx.forward(model, at)
    qacc = at.qacc
    if implicit_damping and np.any(mj.dof_damping):
        damped = at.tree_replace({"_impl.M": at._impl.M + jnp.diag(dt * model.dof_damping)})
        qacc = smooth.solve_m(model, smooth.factor_m(model, damped), at._impl.M @ qacc)
    qvel = bodies.qvel + dt * qacc
    return Bodies(_move(mj, bodies.qpos, qvel, dt), qvel, at.qacc, derived(at))


def _runge_kutta(
    reaches: np.ndarray,
    weights: np.ndarray,
    mj: Any,
    model: Any,
    data: Any,
    bodies: Bodies,
    derived: Derived,
) -> Bodies:
    """A scan over stages. MJX's RK4 traces the dynamics twice and unrolls: twice the compile time."""
    dt = model.opt.timestep

    def stage(carry: tuple, coefficients: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[tuple, None]:
        qvel, qacc, sum_qvel, sum_qacc, _ = carry
        reach, weight, final = coefficients
        qpos = _move(mj, bodies.qpos, reach * qvel, dt)
        qvel = bodies.qvel + reach * qacc * dt
        at = data.replace(qpos=qpos, qvel=qvel, qacc_warmstart=bodies.warmstart)
        at = mjx.forward(model, at)
        numbers = derived(at, final)
        new = (qvel, at.qacc, sum_qvel + weight * qvel, sum_qacc + weight * at.qacc, numbers)
        return _like(new, carry), None

    zeros = jnp.zeros_like(bodies.qvel)
    first = (bodies.qvel, zeros, zeros, zeros, bodies.derived)
    reach, weight = (jnp.asarray(numbers, bodies.qpos.dtype) for numbers in (reaches, weights))
    final = jnp.arange(len(reaches)) == len(reaches) - 1
    (_, qacc, sum_qvel, sum_qacc, numbers), _ = jax.lax.scan(stage, first, (reach, weight, final))
    return Bodies(_move(mj, bodies.qpos, sum_qvel, dt), bodies.qvel + sum_qacc * dt, qacc, numbers)


def _move(mj: Any, qpos: jax.Array, qvel: jax.Array, dt: jax.Array) -> jax.Array:
    """`qpos` after `dt` at `qvel`; only a first joint may be free, all others are hinges and slides."""
    if mj.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE:
        return qpos + dt * qvel
    place = qpos[:3] + dt * qvel[:3]
    turn = dt * qvel[3:6]
    square = jnp.sum(jnp.square(turn))
    angle = jnp.sqrt(jnp.where(square > 0, square, 1))
    axis = jnp.where(square > 0, jnp.sin(angle / 2) / angle, 0.5) * turn
    w, v = jnp.where(square > 0, jnp.cos(angle / 2), 1), axis
    a, b = qpos[3], qpos[4:7]
    quat = jnp.concatenate([(a * w - jnp.dot(b, v))[None], a * v + w * b + jnp.cross(b, v)])
    quat = quat / jnp.linalg.norm(quat)
    return jnp.concatenate([place, quat, qpos[7:] + dt * qvel[6:]])


def _like(new: Any, old: Any) -> Any:
    """`new` in the dtypes of `old`, so that it can be carried by a scan."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)


def diverged(bodies: Bodies) -> jax.Array:
    """Whether positions, velocities or anything else ran away or is not a number, bool[]."""
    leaves = jax.tree.leaves(bodies)
    finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])
    bounded = jnp.stack([jnp.all(jnp.abs(leaf) < 1e6) for leaf in (bodies.qpos, bodies.qvel)])
    return ~(jnp.all(finite) & jnp.all(bounded))


# --- The contact frame of a capsule on a plane ---


def _plane_capsule(plane: Any, capsule: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Contacts at a capsule's two ends: distance [2], position [2, 3], frame [2, 3, 3].

    The first tangent is the capsule's axis along the plane, however steep the capsule. MJX takes a fixed direction
    beyond 60°, and a pyramidal friction cone then gives another force (an Ant's legs are that steep).
    """
    normal, axis = plane.mat[:, 2], capsule.mat[:, 2]
    along = axis - normal * jnp.dot(normal, axis)
    square = jnp.sum(jnp.square(along))
    upright = square < 1e-30
    tangent = jnp.where(upright, jnp.eye(3, dtype=along.dtype)[0], along / jnp.sqrt(jnp.where(upright, 1, square)))
    frame = jnp.stack([normal, tangent, jnp.cross(normal, tangent)])
    half = axis * capsule.size[1]
    ends = [_plane_sphere(normal, plane.pos, capsule.pos + end, capsule.size[0]) for end in (half, -half)]
    distance, position = (jnp.stack(parts) for parts in zip(*ends, strict=True))
    return distance, position, jnp.stack([frame, frame])


_LOCK = threading.RLock()


@lru_cache
def _corrected() -> Any:
    return collider(ncon=2)(_plane_capsule)


# --- MJX with other parts ---

_walk_theirs = scan.body_tree


def _walk(m: Any, f: Any, *args: Any, reverse: bool = False) -> Any:
    """MJX's `body_tree`, which walks along limbs, with a barrier behind each body.

    Without, XLA's CPU backend makes one kernel of several bodies that computes the first ones again for each number of
    the last: two steps per second of a swimmer with 20 joints, instead of thousands.
    """

    def one(*values: Any) -> Any:
        leaves, tree = jax.tree.flatten(f(*values))
        if all(isinstance(leaf, Tracer) for leaf in leaves):  # MJX also walks with NumPy's arrays
            leaves = jax.lax.optimization_barrier(leaves)
        return jax.tree.unflatten(tree, leaves)

    return _walk_theirs(m, one, *args, reverse=reverse)


@contextlib.contextmanager
def _as_here() -> Iterator[None]:
    """Traces MJX with the frame and the walk above and our solvers; others in this process keep their MJX."""
    table = collision_driver._COLLISION_FUNC
    ours: list[tuple[Any, str, Any]] = [
        (solver, "solve", newton.solve),
        (smooth, "factor_m", newton.factor_m),
        (smooth, "solve_m", newton.solve_m),
        (scan, "body_tree", _walk),
        (constraint, "_kbi", dynamics.response),
        (constraint, "_efc_contact_pyramidal", dynamics.pyramids),
        (support, "xfrc_accumulate", dynamics.no_push),
        (smooth, "rne", dynamics.bias),
    ]
    key = (mjx.GeomType.PLANE, mjx.GeomType.CAPSULE)
    with _LOCK:
        theirs, frame = [(module, name, getattr(module, name)) for module, name, _ in ours], table[key]
        table[key] = _corrected()
        for module, name, value in ours:
            setattr(module, name, value)
        try:
            yield
        finally:
            table[key] = frame
            for module, name, value in theirs:
                setattr(module, name, value)

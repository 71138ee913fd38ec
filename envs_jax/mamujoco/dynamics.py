"""Parts of MJX's dynamics laid out for CPUs: the same quantities by fewer and larger operations on vectors.

MJX makes a Jacobian for each body of each contact and each body that could be pushed, and multiplies many small
matrices, which XLA's CPU backend does a number at a time. `physics` puts these functions in their places.
Tests hold them to MJX's.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.mamujoco.library import mujoco

with contextlib.redirect_stdout(io.StringIO()):  # MJX prints that it has no warp
    from mujoco.mjx._src import constraint, math, scan

_pyramids_theirs = constraint._efc_contact_pyramidal


def no_push(m: Any, d: Any) -> jax.Array:
    """The generalised forces of `xfrc_applied`, which nothing here ever sets."""
    return jnp.zeros_like(d.qvel)


def bias(m: Any, d: Any) -> Any:
    """`d` with the generalised forces of gravity and of motion, by Newton's and Euler's equations body by body."""

    def faster(acceleration: jax.Array | None, change: jax.Array, qvel: jax.Array) -> jax.Array:
        if acceleration is None:
            acceleration = jnp.concatenate([jnp.zeros_like(m.opt.gravity), -m.opt.gravity])
        return sum((change[v] * qvel[v] for v in range(len(qvel))), acceleration)

    def force(inertia: jax.Array, acceleration: jax.Array, velocity: jax.Array) -> jax.Array:
        momentum = math.inert_mul(inertia, velocity)
        return math.inert_mul(inertia, acceleration) + math.motion_cross_force(velocity, momentum)

    def with_children(children: jax.Array | None, own: jax.Array) -> jax.Array:
        return own if children is None else own + children

    acceleration = scan.body_tree(m, faster, "vv", "b", d.cdof_dot, d.qvel)
    forces = jax.vmap(force)(d._impl.cinert, acceleration, d.cvel)
    forces = scan.body_tree(m, with_children, "b", "b", forces, reverse=True)
    forces = forces[np.asarray(m.dof_bodyid)]
    return d.replace(qfrc_bias=sum(d.cdof[:, i] * forces[:, i] for i in range(6)))


def response(m: Any, solref: jax.Array, solimp: jax.Array, pos: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A constraint's stiffness, damping and impedance, [] each, at a violation `pos` [].

    solref: [2], time constant and damping ratio, or minus stiffness and damping. solimp: [5], from `dmin` to `dmax`
    over `width`, by two powers that meet at `mid`. See "Solver parameters" in MuJoCo's documentation.
    """
    time, ratio = solref
    if not m.opt.disableflags & constraint.DisableBit.REFSAFE:
        time = jnp.maximum(time, 2 * m.opt.timestep)
    dmin, dmax, mid = (jnp.clip(solimp[i], mujoco.mjMINIMP, mujoco.mjMAXIMP) for i in (0, 1, 3))
    width, power = jnp.maximum(solimp[2], mujoco.mjMINVAL), jnp.maximum(solimp[4], 1)
    stiffness = jnp.where(solref[0] > 0, 1 / jnp.square(dmax * time * ratio), -solref[0] / jnp.square(dmax))
    damping = jnp.where(solref[1] > 0, 2 / (dmax * time), -solref[1] / dmax)
    x = jnp.minimum(jnp.abs(pos) / width, 1)
    first = x < mid
    side, way = jnp.where(first, mid, 1 - mid), jnp.where(first, x, 1 - x)
    # A power as MJX's: XLA's own calls the C library for each number.
    part = side * jnp.exp(power * jnp.log(way / side))
    return stiffness, damping, dmin + jnp.where(first, part, 1 - part) * (dmax - dmin)


def _moves(m: Any) -> np.ndarray:
    """Which degrees of freedom move which body, float[nbody, nv]: its own and its parents'."""
    table = np.zeros((m.nbody, m.nv), np.float32)
    for body in range(1, m.nbody):
        table[body] = table[m.body_parentid[body]]
        table[body, np.asarray(m.dof_bodyid) == body] = 1
    return table


def pyramids(m: Any, d: Any, condim: int) -> Any:
    """MJX's rows of contacts with two directions of friction, four for each: normal and tangents, forth and back.

    A contact's three rows are spatial forces times the joints' axes, which needs no Jacobian of a body.
    """
    contact = d._impl.contact
    (own,) = np.nonzero(contact.dim == condim)
    roots = {int(m.body_rootid[body]) for body in m.dof_bodyid}
    if condim != 3 or not own.size or len(roots) > 1:
        return _pyramids_theirs(m, d, condim)
    c = jax.tree.map(lambda x: x[own[0] : own[-1] + 1], contact)  # they are sorted by condim
    pos = c.dist - c.includemargin
    body1, body2 = (jnp.asarray(m.geom_bodyid)[c.geom[:, side]] for side in (0, 1))
    table = jnp.asarray(_moves(m), pos.dtype)
    moves = (table[body2] - table[body1]) * (pos < 0)[:, None]  # [C, V]

    turn = jnp.cross(c.pos[:, None] - d.subtree_com[roots.pop()], c.frame)  # [C, 3, 3]
    axes = d.cdof[None, None]  # [1, 1, V, 6]
    rows = sum(turn[:, :, i, None] * axes[..., i] + c.frame[:, :, i, None] * axes[..., 3 + i] for i in range(3))
    rows = jax.lax.optimization_barrier(rows * moves[:, None])  # [C, 3, V]
    slip = jnp.repeat(c.friction[:, :2], 2, axis=1) * np.array([1, -1, 1, -1], pos.dtype)
    edges = rows[:, :1] + slip[..., None] * jnp.repeat(rows[:, 1:], 2, axis=1)  # [C, 4, V]

    weight = m.body_invweight0[:, 0][body1] + m.body_invweight0[:, 0][body2]
    square = jnp.square(c.friction[:, 0])
    weight = weight * (1 + square) * 2 * square / m.opt.impratio

    def each(x: jax.Array) -> jax.Array:
        return jnp.repeat(x, 4, axis=0)

    return constraint._Efc(
        J=edges.reshape(-1, m.nv),
        pos_aref=each(jnp.minimum(pos, 0)),
        pos_imp=each(pos),
        invweight=each(weight),
        solref=each(c.solref),
        solimp=each(c.solimp),
        margin=each(c.includemargin),
        frictionloss=jnp.zeros(4 * own.size, pos.dtype),
    )

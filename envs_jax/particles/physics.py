"""The physics of VMAS for discs of mass 1 on a plane, as plain functions of arrays.

Source: the package `vmas` (read in 1.4.2, 1.5.0 and 1.5.2, which agree here): its world step, sphere-sphere contact,
holonomic dynamics, discrete actions and lidar. Rotation is left out, since nothing ever turns a disc there.
Lengths are in world units, times in seconds; N agents, R rays.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

DT = 0.1
"""Seconds per environment step."""
DRAG = 0.25
"""Share of the velocity that is lost per environment step."""
COLLISION_FORCE = 100.0
"""Contact force per unit of penetration."""
CONTACT_MARGIN = 1e-3
"""Softness of a contact: the penetration is a softplus of this width."""

# The push of each discrete action, in units of the largest force.
# 9: every pair (x, y), x changing slowest, each in the order stay, decrease, increase (VMAS from 1.3.4 on).
# 5: stay, x down, x up, y down, y up (VMAS before, and the MPE).
_STAY_DOWN_UP = (0.0, -1.0, 1.0)
DISCRETE_FORCES = {
    9: np.array([(x, y) for x in _STAY_DOWN_UP for y in _STAY_DOWN_UP], np.float32),
    5: np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], np.float32),
}


def discrete_force(actions: jax.Array, num_actions: int = 9) -> jax.Array:
    """The forces of discrete actions, int32[N] -> float32[N, 2]; `num_actions` is 9 or 5, see `DISCRETE_FORCES`."""
    table = DISCRETE_FORCES[num_actions]
    # A sum over the table's few non-zero rows compiles to arithmetic; indexing would be a gather, slow on a CPU.
    chosen = actions[..., None] == np.arange(num_actions, dtype=np.int32)
    return jnp.stack([_signed_any(chosen, table[:, axis]) for axis in (0, 1)], axis=-1)


def _signed_any(chosen: jax.Array, signs: np.ndarray) -> jax.Array:
    up = jnp.any(chosen & (signs > 0), axis=-1)
    down = jnp.any(chosen & (signs < 0), axis=-1)
    return up.astype(jnp.float32) - down.astype(jnp.float32)


def continuous_force(actions: jax.Array) -> jax.Array:
    """The forces of continuous actions, [N, 2], each component clipped to [-1, 1].

    VMAS raises an error on actions outside (or clips, with `clamp_actions=True`); compiled code cannot raise.
    """
    return jnp.clip(actions.astype(jnp.float32), -1.0, 1.0)


def clip_norm(vector: jax.Array, largest: float) -> jax.Array:
    """Vectors [..., 2] shortened to at most length `largest`."""
    return vector * (largest / jnp.maximum(length(vector), largest))[..., None]


def length(vector: jax.Array) -> jax.Array:
    """Euclidean lengths of vectors [..., 2]; the gradient at the zero vector is 0 instead of NaN."""
    x, y = vector[..., 0], vector[..., 1]
    square = x * x + y * y
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def contact_forces(
    position: jax.Array,
    radius: float | jax.Array,
    collision_force: float = COLLISION_FORCE,
    contact_margin: float = CONTACT_MARGIN,
) -> jax.Array:
    """The force on each disc from all discs that it touches, float32[N, 2].

    `position` is [N, 2]; `radius` is one number, or [N]. Discs whose centres coincide (closer than 1e-6) do not push.
    """
    n = position.shape[0]
    radius = jnp.broadcast_to(jnp.asarray(radius, jnp.float32), (n,))
    reach = radius[:, None] + radius[None, :]
    offset = position[:, None] - position[None, :]  # [N, N, 2]
    distance = length(offset)
    touching = (distance <= reach) & (distance >= 1e-6)
    # Safe values where nothing touches keep the exponential and the gradients finite.
    depth = jnp.where(touching, reach - distance, 0.0)
    strength = collision_force * contact_margin * jax.nn.softplus(depth / contact_margin)
    strength = jnp.where(touching, strength / jnp.where(touching, distance, 1.0), 0.0)
    return jnp.sum(offset * strength[..., None], axis=1)


def move(
    position: jax.Array,
    velocity: jax.Array,
    force: jax.Array,
    *,
    substeps: int = 1,
    dt: float = DT,
    drag: float = DRAG,
    max_force: float | None = None,
    force_range: float | None = None,
    max_speed: float | None = None,
    speed_range: float | None = None,
    semidim: tuple[float | None, float | None] = (None, None),
    contact_radius: float | jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One environment step of `dt` seconds: `(position, velocity)`, float32[N, 2] each, under a constant force.

    Semi-implicit Euler in `substeps` parts; drag acts once, at the first. `max_force` and `max_speed` bound lengths,
    `force_range` and `speed_range` each component, `semidim` the position's |x| and |y| (a wall stops the position but
    leaves the velocity, as in VMAS); None for no bound. Discs collide where `contact_radius` is given.
    """
    if max_force is not None:
        force = clip_norm(force, max_force)
    if force_range is not None:
        force = jnp.clip(force, -force_range, force_range)
    sub_dt = dt / substeps
    velocity = velocity * (1 - drag)
    for _ in range(substeps):
        push = force if contact_radius is None else force + contact_forces(position, contact_radius)
        velocity = velocity + push * sub_dt
        if max_speed is not None:
            velocity = clip_norm(velocity, max_speed)
        if speed_range is not None:
            velocity = jnp.clip(velocity, -speed_range, speed_range)
        position = position + velocity * sub_dt
        if semidim != (None, None):
            wall = np.array([np.inf if s is None else s for s in semidim], np.float32)
            position = jnp.clip(position, -wall, wall)
    return position, velocity


def lidar(position: jax.Array, radius: float, num_rays: int, max_range: float) -> jax.Array:
    """How far each agent's rays reach before they meet another agent, float32[N, R], at most `max_range`.

    Rays start at the centre and are spread evenly, the first along +x, counter-clockwise. Inside another disc the
    reach is negative, as in VMAS.
    """
    n = position.shape[0]
    angle = np.linspace(0, 2 * np.pi, num_rays, endpoint=False)
    ray_x, ray_y = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    offset = position[None, :] - position[:, None]  # [N, N, 2], from the first to the second
    x, y = offset[..., 0, None], offset[..., 1, None]
    along = x * ray_x + y * ray_y  # [N, N, R]
    aside = x * ray_y - y * ray_x
    chord = radius * radius - aside * aside
    hit = (chord > 0) & (along > 0) & ~np.eye(n, dtype=bool)[..., None]
    reach = jnp.where(hit, along - jnp.sqrt(jnp.where(hit, chord, 1.0)), max_range)
    return jnp.minimum(jnp.min(reach, axis=1), max_range)

"""The same environment step by MuJoCo Warp, which MJX drives: kernels for NVIDIA GPUs instead of XLA's.

In single precision, and with two differences from `physics`. Warp takes MJX's contact frame for a capsule steeper than
60 degrees, not C MuJoCo's, so that an Ant's friction differs; and it solves as many contacts as there is room for (see
`room`), whatever `max_contact_points` says. It leaves the solver early where it has converged.

Warp wants to know how much room all environments of a batch need together. A function under `vmap` cannot know that,
so batches are gathered here into one, however deep they are nested, before MJX sees them.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from envs_jax.mamujoco.physics import Bodies, derive, mjx


def room(mj: Any) -> tuple[int, int]:
    """Most contacts, and most rows of constraints, of one robot: pyramids have four rows."""
    contacts = max(16, 2 * mj.ngeom)
    return contacts, 4 * contacts + mj.njnt + mj.ntendon


@partial(jax.jit, static_argnames=("mj", "frame_skip", "names"))
def advance(mj: Any, bodies: Bodies, ctrl: jax.Array, frame_skip: int, names: tuple[str, ...]) -> Bodies:
    """`frame_skip` physics steps under `ctrl` [nu], as `physics.advance`, of a model that nothing was changed in."""
    one = jax.tree.map(lambda leaf: leaf[None], (bodies, ctrl))
    return jax.tree.map(lambda leaf: leaf[0], _gathered(mj, frame_skip, names)(*one))


@lru_cache
def _gathered(mj: Any, frame_skip: int, names: tuple[str, ...]) -> Any:
    """The step of bodies and controls [B, ...]; a `vmap` of it makes B larger."""
    with jax.ensure_compile_time_eval():
        model = mjx.put_model(mj, impl="warp")
    if "cfrc_ext" in names:  # else Warp does not compute it
        model = model.tree_replace({"opt._impl.run_rne_postconstraint": True})

    @jax.custom_batching.custom_vmap
    def steps(bodies: Bodies, ctrl: jax.Array) -> Bodies:
        contacts, rows = room(mj)
        with jax.ensure_compile_time_eval():
            start = mjx.make_data(mj, impl="warp", naconmax=contacts * ctrl.shape[0], njmax=rows)

        def step(bodies: Bodies, _: None, ctrl: jax.Array) -> tuple[Bodies, None]:
            data = start.replace(qpos=bodies.qpos, qvel=bodies.qvel, qacc_warmstart=bodies.warmstart, ctrl=ctrl)
            after = mjx.step(model, data)
            new = Bodies(after.qpos, after.qvel, after.qacc_warmstart, derive(mj, model, after, names))
            return jax.tree.map(lambda a, b: a.reshape(b.shape).astype(b.dtype), new, bodies), None

        return jax.vmap(lambda b, c: jax.lax.scan(partial(step, ctrl=c), b, None, frame_skip)[0])(bodies, ctrl)

    @steps.def_vmap
    def gather(size: int, batched: Any, bodies: Bodies, ctrl: jax.Array) -> tuple[Bodies, Any]:
        def wide(leaf: jax.Array, is_batched: bool) -> jax.Array:
            return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

        full = jax.tree.map(wide, (bodies, ctrl), tuple(batched))
        each = full[1].shape[1]
        out = steps(*jax.tree.map(lambda leaf: leaf.reshape(size * each, *leaf.shape[2:]), full))
        out = jax.tree.map(lambda leaf: leaf.reshape(size, each, *leaf.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return steps

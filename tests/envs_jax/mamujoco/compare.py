"""Our environment step beside C MuJoCo's, from the same states."""

import copy
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from envs_jax.base import start_clock
from envs_jax.mamujoco import models, physics
from envs_jax.mamujoco.env import MaMujoco, MaMujocoState

SMALL = {"manysegmentswimmer": "3x1", "manysegmentant": "2x1"}


def make(robot: str, precision: str = "float32", options: Any = "faithful") -> MaMujoco:
    return MaMujoco(robot=robot, partition=SMALL.get(robot, "single"), obsk=None, precision=precision, physics=options)


@lru_cache
def step_of(env: MaMujoco) -> Any:
    """The compiled step, one for all tests of a robot: states and actions [B, ...] to states and outcomes."""
    key = jax.random.key(0)
    return jax.jit(jax.vmap(lambda state, action: env.advance(key, state, action[None])))


def c_model(env: MaMujoco) -> Any:
    """The robot with the options of its MJCF, as Gymnasium runs it, but for the humanoids' solver: Newton, as ours."""
    parts = env._parts
    mj = models.mj_model(env.robot, parts.sim.mj.nu if "swimmer" in env.robot else 2 if "many" in env.robot else 0)
    if "humanoid" in env.robot:
        mj = copy.copy(mj)
        mj.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    return mj


def c_states(env: MaMujoco, count: int, seed: int = 0) -> tuple[list[Any], np.random.Generator]:
    """C states after a noisy start and a few random steps, rounded to float32 so that both sides can hold them."""
    rng = np.random.default_rng(seed)
    mj, rules = c_model(env), env._parts.rules
    out = []
    for i in range(count):
        data = mujoco.MjData(mj)
        data.qpos[:] += rng.uniform(-rules.position_noise, rules.position_noise, mj.nq)
        data.qvel[:] = rng.normal(size=mj.nv) * rules.velocity_noise
        mujoco.mj_forward(mj, data)
        for _ in range(2 + 3 * i):
            data.ctrl[:] = rng.uniform(*mj.actuator_ctrlrange.T)
            mujoco.mj_step(mj, data, rules.frame_skip)
        for field in (data.qpos, data.qvel, data.qacc_warmstart):
            field[:] = field.astype(np.float32)
        out.append(data)
    return out, rng


def c_derived(env: MaMujoco, data: Any) -> dict[str, np.ndarray]:
    """What `physics.derive` gives, from an `MjData` after a step."""
    mj = data.model
    mujoco.mj_rnePostConstraint(mj, data)
    found: dict[str, Any] = {}
    for name in env._parts.rules.derived:
        match name:
            case "torso":
                found[name] = data.xpos[1]
            case "com":
                found[name] = (mj.body_mass @ data.xipos / mj.body_mass.sum())[:2]
            case "tip":
                found[name] = data.body("fingertip").xpos - data.body("target").xpos
            case "site":
                found[name] = data.site_xpos[0]
            case "ten_J":  # sparse in C, and not compared
                continue
            case _:
                found[name] = getattr(data, name)
    return {name: np.array(value) for name, value in found.items()}


def ours(env: MaMujoco, datas: list[Any]) -> MaMujocoState:
    """C states as a batch of ours."""
    kind = env.precision

    def stack(name: str) -> jax.Array:
        return jnp.asarray(np.stack([getattr(data, name) for data in datas]), kind)

    shapes = physics.derived_shapes(env._parts.sim.mj, env._parts.rules.derived)
    known = [c_derived(env, data) for data in datas]
    derived = {
        name: jnp.asarray(np.stack([k.get(name, np.zeros(shape)) for k in known]), kind)
        for name, shape in shapes.items()
    }
    clock = {name: jnp.broadcast_to(value, (len(datas),)) for name, value in start_clock().items()}
    qpos, qvel, warm = (stack(name) for name in ("qpos", "qvel", "qacc_warmstart"))
    return MaMujocoState(**clock, qpos=qpos, qvel=qvel, warmstart=warm, derived=derived, model={})


def errors(env: MaMujoco, steps: int, count: int = 8) -> list[dict[str, np.ndarray]]:
    """Per environment step, the largest absolute errors of each state: float[B] by what they are of."""
    datas, rng = c_states(env, count)
    state, step = ours(env, datas), step_of(env)
    out = []
    for _ in range(steps):
        high = datas[0].model.actuator_ctrlrange[:, 1]
        actions = rng.uniform(-high, high, (count, high.size)).astype(np.float32)
        for data, action in zip(datas, actions, strict=True):
            data.ctrl[:] = action
            mujoco.mj_step(data.model, data, env._parts.rules.frame_skip)
        state, _ = step(state, jnp.asarray(actions))
        known = [c_derived(env, data) for data in datas]
        pairs = {"qpos": np.stack([d.qpos for d in datas]), "qvel": np.stack([d.qvel for d in datas])}
        pairs |= {name: np.stack([k[name] for k in known]) for name in known[0]}
        got = {"qpos": state.qpos, "qvel": state.qvel, **state.derived}
        gaps = {name: np.abs(np.asarray(got[name], np.float64) - value) for name, value in pairs.items()}
        out.append({name: gap.reshape(count, -1).max(axis=1) for name, gap in gaps.items()})
    return out

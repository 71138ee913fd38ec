"""Against Gymnasium-Robotics' MaMuJoCo, on transitions that `tests/parity/make_mamujoco_fixture.py` recorded of it."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.base import start_clock
from envs_jax.mamujoco.env import MaMujoco, MaMujocoState
from envs_jax.mamujoco.robots import Transition

FOLDER = Path(__file__).parents[2] / "parity"
FILES = [np.load(FOLDER / name) for name in ("mamujoco.npz", "mamujoco_coupled.npz")]
KEYS = {key: file for file in FILES for key in file.files if key != "versions"}
ROBOTS = sorted({key.split("/")[0] for key in KEYS})
PARTITIONS = sorted({tuple(key.split("/")[:2]) for key in KEYS if key.endswith("/drives")})
# What upstream gets wrong, so that ours must differ; see the tests at the end.
WRONG = {"coupledhalfcheetah", "manysegmentant"}


def recorded(key: str) -> np.ndarray:
    return KEYS[key][key]


def blocks(robot: str, when: str) -> dict[str, np.ndarray]:
    """The recorded numbers at one end of all transitions."""
    prefix = f"{robot}/{when}/"
    return {key.removeprefix(prefix): recorded(key) for key in KEYS if key.startswith(prefix)}


def make(robot: str, **settings: Any) -> MaMujoco:
    name, _, version = robot.partition("@")
    partitions = {"coupledhalfcheetah": "1p1", "manysegmentswimmer": "10x2", "manysegmentant": "2x2"}
    settings = {"partition": partitions.get(name, "single"), "version": version or "v5", **settings}
    return MaMujoco(robot=name, **settings)


def states(env: MaMujoco, robot: str, when: str) -> MaMujocoState:
    """The recorded states, as a batch of ours."""
    have = {name: jnp.asarray(value, jnp.float32) for name, value in blocks(robot, when).items()}
    count = len(have["qpos"])
    clock = {name: jnp.broadcast_to(value, (count,)) for name, value in start_clock().items()}
    derived = {name: have[name] for name in env._parts.rules.derived}
    return MaMujocoState(
        **clock, qpos=have["qpos"], qvel=have["qvel"], warmstart=have["warmstart"], derived=derived, model={}
    )


def swap_abdomen(env: MaMujoco, obs: np.ndarray) -> np.ndarray:
    """Upstream's node `abdomen_y` reads joint `abdomen_z`, and the other way round; ours read their own."""
    views, graph_order = env._parts.views, ("abdomen_y", "abdomen_z")
    mj, places = env._parts.sim.mj, env._parts.views.places
    obs = obs.copy()
    for block, adr in (("qpos", mj.jnt_qposadr), ("qvel", mj.jnt_dofadr), ("qfrc_actuator", mj.jnt_dofadr)):
        a, b = (places[block, int(adr[mj.joint(name).id])] for name in graph_order)
        for i, row in enumerate(views.obs.tolist()):
            if a in row:
                obs[:, i, [row.index(a), row.index(b)]] = obs[:, i, [row.index(b), row.index(a)]]
    return obs


@pytest.mark.parametrize("obsk", [0, 1, 2])
@pytest.mark.parametrize(("robot", "partition"), [case for case in PARTITIONS if case[0] not in WRONG])
def test_what_each_agent_sees(robot, partition, obsk):
    env = make(robot, partition=partition, obsk=obsk)
    got = np.asarray(jax.vmap(env.observe)(states(env, robot, "after")))
    if robot.startswith("humanoid"):
        got = swap_abdomen(env, got)
    for i, agent in enumerate(env.agents):
        expected = recorded(f"{robot}/{partition}/{obsk}/{i}")
        size = env.observation_space(agent).shape[0]
        assert expected.shape[1] == size
        np.testing.assert_allclose(got[:, i, :size], expected, rtol=2e-7, atol=1e-6)
        assert not got[:, i, size:].any()
        assert env.obs_mask[i].sum() == size


@pytest.mark.parametrize(("robot", "partition"), PARTITIONS)
def test_what_each_action_drives(robot, partition):
    env = make(robot, partition=partition)
    parts = env._parts.views.parts
    ours = np.empty(sum(map(len, parts)), int)
    ours[[a for part in parts for a in part]] = np.arange(ours.size)
    theirs = recorded(f"{robot}/{partition}/drives")
    if robot == "manysegmentant":  # upstream numbers each segment's second leg first; the model has it second
        assert (ours != theirs).all()
        theirs = theirs.reshape(-1, 2, 2)[:, ::-1].reshape(-1)
    np.testing.assert_array_equal(ours, theirs)


FINE = np.load(FOLDER / "mamujoco_fine.npz")


@pytest.mark.parametrize(("robot", "partition"), sorted({tuple(k.split("/")[:2]) for k in FINE if "drives" in k}))
def test_one_agent_per_joint_and_other_segments(robot, partition, monkeypatch):
    """HARL's `8x1` and `17x1`, which upstream takes as factorisations of one's own, and swimmers of other lengths."""
    monkeypatch.setattr(sys.modules[__name__], "KEYS", dict.fromkeys(set(FINE.files) - {"versions"}, FINE))
    for obsk in (0, 1, 2):
        env = MaMujoco(robot=robot.split("=")[0], partition=partition, obsk=obsk)
        after = states(env, robot, "after")
        if "humanoid" in robot:  # as `swap_abdomen`, where each joint has an agent of its own
            mj, force = env._parts.sim.mj, after.derived["qfrc_actuator"]
            q, v = (
                np.array([adr[mj.joint(f"abdomen_{x}").id] for x in "yz"]) for adr in (mj.jnt_qposadr, mj.jnt_dofadr)
            )
            after = after.replace(
                qpos=after.qpos.at[:, q].set(after.qpos[:, q[::-1]]),
                qvel=after.qvel.at[:, v].set(after.qvel[:, v[::-1]]),
                derived=after.derived | {"qfrc_actuator": force.at[:, v].set(force[:, v[::-1]])},
            )
        got = np.asarray(jax.vmap(env.observe)(after))
        for i, agent in enumerate(env.agents):
            expected = recorded(f"{robot}/{partition}/{obsk}/{i}")
            size = env.observation_space(agent).shape[0]
            assert expected.shape[1] == size
            np.testing.assert_allclose(got[:, i, :size], expected, rtol=2e-7, atol=1e-6)
    ours = np.argsort([a for part in env._parts.views.parts for a in part])
    np.testing.assert_array_equal(ours, recorded(f"{robot}/{partition}/drives"))


@pytest.mark.parametrize("robot", ROBOTS)
def test_state_reward_and_termination(robot):
    env = make(robot, obsk=None)
    _before, after = states(env, robot, "before"), states(env, robot, "after")
    expected = recorded(f"{robot}/state")
    np.testing.assert_allclose(jax.vmap(env.global_state)(after), expected, rtol=2e-7, atol=1e-6)
    # With `obsk` None each agent sees it all.
    views = np.asarray(jax.vmap(env.observe)(after))
    np.testing.assert_allclose(views, np.broadcast_to(expected[:, None], views.shape), rtol=2e-7, atol=1e-6)

    rules, action = env._parts.rules, recorded(f"{robot}/action")
    timestep = float(env._parts.sim.mj.opt.timestep)
    with jax.enable_x64(True):
        ends = [jax.tree.map(jnp.asarray, blocks(robot, when)) for when in ("before", "after")]
        parts = jax.vmap(lambda b, a, u: rules.rewards(Transition(b, a, u, env.dt, timestep)))(*ends, action)
        healthy = jax.vmap(rules.healthy)(ends[1])
        parts = {name: np.asarray(part) for name, part in parts.items()}
    assert set(parts) == set(rules.terms)
    np.testing.assert_allclose(sum(parts.values()), recorded(f"{robot}/reward"), rtol=1e-12, atol=1e-10)
    np.testing.assert_array_equal(~np.broadcast_to(healthy, len(action)), recorded(f"{robot}/terminated"))


def test_fixture_reaches_the_corners():
    """Or the tests above would prove less than they say."""
    for robot in ("ant", "hopper", "walker2d", "humanoid", "inverteddoublependulum"):
        assert recorded(f"{robot}/terminated").any() and not recorded(f"{robot}/terminated").all(), robot
    assert (np.abs(recorded("walker2d/after/qvel")) > 10).any() and (np.abs(recorded("hopper/after/qvel")) > 10).any()
    for robot in ("ant", "humanoid", "manysegmentant"):
        assert (np.abs(recorded(f"{robot}/after/cfrc_ext")) > 1).any(), robot
    assert (np.abs(recorded("halfcheetah/action")) > 1).any()


# --- Where upstream is wrong ---


def test_upstreams_coupled_cheetahs_see_the_same_and_ours_their_own():
    robot, partition = "coupledhalfcheetah", "1p1"
    theirs = [recorded(f"{robot}/{partition}/1/{i}") for i in (0, 1)]
    np.testing.assert_array_equal(theirs[0], theirs[1])
    env = make(robot, partition=partition)
    ours = np.asarray(jax.vmap(env.observe)(states(env, robot, "after")))
    assert np.abs(ours[:, 0] - ours[:, 1]).max() > 0.1

    # The corrected list: own joints by name, the tendon with the back thigh; then z and pitch, then x, z and pitch.
    after = blocks(robot, "after")
    q, v = after["qpos"], after["qvel"]
    tendon = np.concatenate([after["ten_J"][:, [0, 1, 9, 10]], after["ten_length"], after["ten_velocity"]], axis=1)
    roots = np.concatenate([q[:, [1, 2, 10, 11]], v[:, [0, 1, 2, 9, 10, 11]]], axis=1)
    for i in (0, 1):
        back_foot, back_shin, back_thigh, front_foot, front_shin, front_thigh = 9 * i + np.array([5, 4, 3, 8, 7, 6])
        own = [np.stack([q[:, j], v[:, j]], axis=1) for j in (back_foot, back_shin, back_thigh)] + [tendon]
        own += [np.stack([q[:, j], v[:, j]], axis=1) for j in (front_foot, front_shin, front_thigh)]
        np.testing.assert_allclose(ours[:, i], np.concatenate([*own, roots], axis=1), rtol=2e-7, atol=1e-6)


def test_upstreams_ant_segments_read_other_joints_and_ours_their_own():
    robot, partition = "manysegmentant", "2x2"
    env = make(robot, partition=partition, obsk=1)
    ours = np.asarray(jax.vmap(env.observe)(states(env, robot, "after")))
    after = blocks(robot, "after")
    q, v, force = after["qpos"], after["qvel"], np.clip(after["cfrc_ext"], -1, 1)
    for agent, own in ((0, (0, 1)), (1, (2, 3))):
        columns = []
        shown: set[int] = set()
        for joint, leg in (("ankle", 1), ("ankle", 2), ("hip", 1), ("hip", 2)):
            for segment in own:
                place = 4 * segment + 2 * (leg - 1) + (joint == "ankle")
                columns += [q[:, [7 + place]], v[:, [6 + place]]]
                torso, first = 1 + 7 * segment, 2 + 7 * segment + 3 * (leg - 1)
                for body in (torso, first) if joint == "hip" else (first, first + 1, first + 2):
                    columns += [force[:, body]] * (body not in shown)
                    shown.add(body)
        neighbour = 2 if agent == 0 else 1  # the hips of the segment next to one's own
        columns += [q[:, [7 + 4 * neighbour, 7 + 4 * neighbour + 2]], q[:, 2:7], v[:, :6]]
        expected = np.concatenate(columns, axis=1)
        size = env.observation_space(f"agent_{agent}").shape[0]
        np.testing.assert_allclose(ours[:, agent, :size], expected, rtol=2e-7, atol=1e-6)
    # Upstream's second agent, who owns the last segments, reads the root's position as if it were a joint of its own.
    theirs = recorded(f"{robot}/{partition}/0/1")
    height_and_quaternion = q[:, 2:7]
    assert any((theirs[:, :60] == column[:, None]).all(axis=0).any() for column in height_and_quaternion.T[:4])


def test_upstreams_abdomen_reads_the_other_joint():
    """The humanoids' swap, that `swap_abdomen` undoes above."""
    theirs = recorded("humanoid/9|8/0/0")
    q = recorded("humanoid/after/qpos")
    mj = make("humanoid", partition="9|8")._parts.sim.mj
    named = {axis: q[:, int(mj.jnt_qposadr[mj.joint(f"abdomen_{axis}").id])] for axis in "xyz"}
    place = {name: int(np.argmax((theirs == value[:, None]).all(axis=0))) for name, value in named.items()}
    assert place["x"] < place["z"] < place["y"]

"""Who sees and drives what, as tables of indices: computed once from a model, a partition and `obsk`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs_jax.mamujoco.graph import JointGraph
from envs_jax.mamujoco.robots import Places, Robot


@dataclass(frozen=True, eq=False)
class Views:
    """Tables for N agents, observations of up to O numbers, and actions of up to A.

    obs: int[N, O], places in the robot's blocks; the padding points behind the last one.
    state: int[G], places of the global state.
    drives: int[nu], where each actuator finds its action in the flattened stacked actions.
    obs_sizes, act_sizes: int[N].
    parts: the actuators of each agent, in the order of its action.
    low, high: float32[nu], the actuators' ranges.
    """

    places: Places
    obs: np.ndarray
    state: np.ndarray
    drives: np.ndarray
    obs_sizes: tuple[int, ...]
    act_sizes: tuple[int, ...]
    parts: tuple[tuple[int, ...], ...]
    low: np.ndarray
    high: np.ndarray


def make_views(
    robot: Robot, mj: Any, graph: JointGraph, parts: tuple[tuple[int, ...], ...], obsk: int | None, places: Places
) -> Views:
    """The tables; agents see the whole state where `obsk` is None."""
    state = robot.state_view(places)
    seen = [state] * len(parts)
    if obsk is not None:
        root = robot.root_view(*undriven(mj), places)
        seen = [local_view(robot, graph, part, obsk, places) + root for part in parts]
    act_sizes = tuple(len(part) for part in parts)
    drives = np.zeros(mj.nu, np.int32)
    for i, part in enumerate(parts):
        drives[list(part)] = i * max(act_sizes) + np.arange(len(part))
    return Views(
        places=places,
        obs=_pad(seen, places.size),
        state=np.array(state, np.int32),
        drives=drives,
        obs_sizes=tuple(len(view) for view in seen),
        act_sizes=act_sizes,
        parts=parts,
        low=mj.actuator_ctrlrange[:, 0].astype(np.float32),
        high=mj.actuator_ctrlrange[:, 1].astype(np.float32),
    )


def local_view(robot: Robot, graph: JointGraph, part: tuple[int, ...], obsk: int, places: Places) -> list[int]:
    """Places of one agent's joints with all categories, then, hop by hop, of its neighbours' positions.

    Joints of one level are sorted by name, and each body is shown once per category, both as in MaMuJoCo.
    """
    view: list[int] = []
    shown: set[tuple[str, int]] = set()
    for hop, joints in enumerate(graph.levels(part, obsk)):
        for joint in joints:
            for category in robot.categories if hop == 0 else ("qpos",):
                if category not in ("cinert", "cvel", "cfrc_ext"):
                    view += robot.joint_view(joint, category, places)
                    continue
                clipped = f"{category}_clipped"
                block = clipped if clipped in places.shapes else category
                for body in joint.bodies:
                    if (category, body) not in shown:
                        shown.add((category, body))
                        view += places.row(block, body)
    return view


def undriven(mj: Any) -> tuple[list[int], list[int]]:
    """The indices in `qpos` and in `qvel` of the joints without an actuator."""
    driven = {int(mj.actuator_trnid[a, 0]) for a in range(mj.nu)}
    positions = np.split(np.arange(mj.nq), mj.jnt_qposadr[1:])
    velocities = np.split(np.arange(mj.nv), mj.jnt_dofadr[1:])
    free = [j for j in range(mj.njnt) if j not in driven]
    return (
        [int(i) for j in free for i in positions[j]],
        [int(i) for j in free for i in velocities[j]],
    )


def _pad(rows: list[list[int]], filling: int) -> np.ndarray:
    width = max(len(row) for row in rows)
    return np.array([row + [filling] * (width - len(row)) for row in rows], np.int32)

"""An episode as one HTML file that any browser plays: no OpenGL, no network, no other file.

Limbs are thick lines with round ends on a canvas, which is just what capsules and spheres look like without
perspective. Brax's exporter would bring Brax with it, and its page loads three.js from the network.
"""

from __future__ import annotations

import base64
import html
import json
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from envs_jax.mamujoco.library import mujoco
from envs_jax.mamujoco.rendering import paint


def to_html(
    mj: Any, qpos: np.ndarray, parts: tuple[tuple[int, ...], ...], dt: float, title: str, path: Path | None = None
) -> str:
    """A page that plays a robot at `qpos` [T, nq], one every `dt` seconds; also written to `path`, where given.

    `parts` are the agents' actuators, whose limbs have the agents' colours. Drag to turn, scroll to come nearer.
    Raises ValueError where `qpos` has another shape, no steps, or numbers that are not finite.
    """
    qpos = np.asarray(qpos, np.float64)
    if qpos.ndim != 2 or qpos.shape[1] != mj.nq or not len(qpos):
        raise ValueError(f"qpos has shape {qpos.shape}; allowed: (steps, {mj.nq}), with at least one step")
    if not np.isfinite(qpos).all():
        raise ValueError("qpos is not finite; allowed: finite numbers")
    painted = paint(mj, parts)
    drawn = [g for g in range(mj.ngeom) if int(mj.geom_type[g]) in _ENDS]
    ends, middles = _poses(painted, qpos, drawn)
    floors = [g for g in range(mj.ngeom) if mj.geom_type[g] == mujoco.mjtGeom.mjGEOM_PLANE]
    moving = [i for i, g in enumerate(drawn) if mj.geom_bodyid[g]]
    extent = 1.8 * float(np.abs(ends[:, moving] - middles[:, None, None]).max())
    # What moves in the plane of the page alone is seen from the side, what lies on the floor from above.
    names = {mj.joint(j).name for j in range(mj.njnt)}
    flat = bool(floors) and float(np.ptp(ends[:, moving, :, 2])) < 0.3 * extent and "slider" not in names
    episode = {
        "steps": len(qpos),
        "dt": dt,
        "turn": 0.0 if mj.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE else 0.6,
        "tilt": 1.2 if flat else 0.25,
        "extent": extent,
        "grid": float(f"{extent / 5:.1g}"),
        "floor": float(mj.geom_pos[floors[0], 2]) if floors else None,
        "shapes": [
            {
                "radius": float(mj.geom_size[g, 0]),
                "color": _css(painted.geom_rgba[g]),
                "cap": "butt" if mj.geom_type[g] == mujoco.mjtGeom.mjGEOM_CYLINDER else "round",
            }
            for g in drawn
        ],
        "middles": middles.round(4).reshape(-1).tolist(),
        "places": base64.b64encode(ends.astype("<f4").tobytes()).decode(),
        "owners": [
            {"name": f"agent_{i}", "color": _owner_color(i), "joints": [_joint(mj, a) for a in part]}
            for i, part in enumerate(parts)
        ],
    }
    template = Template(files("envs_jax.mamujoco").joinpath("viewer.html").read_text("utf-8"))
    # `</` cannot end the script inside a JSON string then.
    data = json.dumps(episode).replace("</", "<\\/")
    page = template.safe_substitute(title=html.escape(title), episode=data)
    if path is not None:
        Path(path).write_text(page, "utf-8")
    return page


_ENDS = {
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): 1.0,
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): 1.0,
    int(mujoco.mjtGeom.mjGEOM_SPHERE): 0.0,
}
"""What is drawn: how much of a shape's half length its ends are from its middle. Planes are the floor's grid."""


def _poses(mj: Any, qpos: np.ndarray, drawn: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of each shape, [T, G, 2, 3], and where the camera looks, [T, 3]: the robot's mass centre."""
    data = mujoco.MjData(mj)
    half = np.array([_ENDS[int(mj.geom_type[g])] * mj.geom_size[g, 1] for g in drawn])[:, None]
    ends, middles = np.empty((len(qpos), len(drawn), 2, 3)), np.empty((len(qpos), 3))
    for t, place in enumerate(qpos):
        data.qpos[:] = place
        mujoco.mj_kinematics(mj, data)
        mujoco.mj_comPos(mj, data)
        axis = half * data.geom_xmat[drawn].reshape(-1, 3, 3)[:, :, 2]
        center = data.geom_xpos[drawn]
        ends[t] = np.stack([center - axis, center + axis], axis=1)
        middles[t] = data.subtree_com[0]
    middles[:, 2] = middles[:, 2].mean()  # so that hops are seen
    return ends, middles


def _css(rgba: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * float(value)):02x}" for value in rgba[:3])


def _owner_color(agent: int) -> str:
    from envs_jax import drawing

    return _css(drawing.to_rgb(drawing.agent_color(agent)))


def _joint(mj: Any, actuator: int) -> str:
    return mj.joint(int(mj.actuator_trnid[actuator, 0])).name

"""Robots' models: MJCF files or generated MJCF, compiled with a physics preset, for MuJoCo and for MJX.

MuJoCo is imported here, and this module only where an environment is made.
"""

from __future__ import annotations

import contextlib
import copy
import io
import xml.etree.ElementTree as ET
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import jax
import numpy as np

from envs_jax.mamujoco.library import mujoco
from envs_jax.mamujoco.options import Physics

_INTEGRATORS = {
    "euler": mujoco.mjtIntegrator.mjINT_EULER,
    "midpoint": mujoco.mjtIntegrator.mjINT_RK4,  # the nearest that MuJoCo has; see `physics`
    "rk4": mujoco.mjtIntegrator.mjINT_RK4,
    "implicitfast": mujoco.mjtIntegrator.mjINT_IMPLICITFAST,
}
_LEAST_INVWEIGHT = 1e-4
"""Of a tendon, in 1/kg. The coupled cheetahs' has 0, since it starts at a right angle to every joint: its limit weighs
1e16 against bodies of 7 kg, which double precision can bear and single cannot. At 1e-4 the limit is off by a
thousandth of the cheetahs' own inverse weight, and errors against C MuJoCo are the smallest."""


class Simulation(NamedTuple):
    """A compiled robot.

    mj: the `mujoco.MjModel` with the preset's options.
    model, data: its `mjx.Model` and an `mjx.Data` to start from, with NumPy arrays of the chosen precision as leaves.
    options: the preset, of which MuJoCo has not all.
    """

    mj: Any
    model: Any
    data: Any
    options: Physics


def mjcf(robot: str, segments: int = 0) -> str:
    """The robot's MJCF; `segments` for those that have any number."""
    if robot == "manysegmentswimmer":
        return _many_segment_swimmer(segments)
    if robot == "manysegmentant":
        return _many_segment_ant(segments)
    if robot == "coupledhalfcheetah":
        return _coupled_half_cheetah()
    return _file(robot)


@lru_cache
def mj_model(robot: str, segments: int = 0, version: str = "v5", physics: Physics | None = None) -> Any:
    """The robot's `mujoco.MjModel`; without `physics`, with the options of its MJCF, as Gymnasium runs it."""
    spec = mujoco.MjSpec.from_string(mjcf(robot, segments))
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1920, 1080
    if robot == "walker2d" and version == "v4":
        spec.geom("foot_geom").friction[0] = 0.9  # v5 made both feet's friction 1.9
    if physics is not None:
        option = spec.option
        option.timestep /= physics.substeps
        option.integrator = _INTEGRATORS[physics.integrator]
        option.solver = mujoco.mjtSolver.mjSOL_NEWTON  # MJX has no PGS, the humanoids' solver
        option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
        option.iterations, option.ls_iterations = physics.iterations, physics.ls_iterations
        if not physics.eulerdamp:
            option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_EULERDAMP)
        if physics.max_contact_points is not None:
            # The model's only numeric: MJX 3.17 reads a wrong number where another one precedes it.
            spec.add_numeric(name="max_contact_points", data=[physics.max_contact_points], size=1)
        if physics.floor_only:
            for geom in spec.geoms:
                geom.conaffinity = int(geom.name == "floor")
    return spec.compile()


@lru_cache
def simulation(robot: str, segments: int, version: str, physics: Physics, precision: str) -> Simulation:
    """The robot compiled for MJX."""
    with contextlib.redirect_stdout(io.StringIO()):  # MJX prints that it has no warp
        from mujoco import mjx

    mj = mj_model(robot, segments, version, physics)
    if precision == "float32":
        mj = copy.copy(mj)
        mj.tendon_invweight0[:] = np.maximum(mj.tendon_invweight0, _LEAST_INVWEIGHT)
    with jax.ensure_compile_time_eval(), jax.enable_x64(precision == "float64"):
        model, data = mjx.put_model(mj, impl="jax"), mjx.make_data(mj, impl="jax")
        model, data = jax.tree.map(np.asarray, (model, data))
    touching = [g for g in range(mj.ngeom) if mj.geom_contype[g] or mj.geom_conaffinity[g]]
    slots = data._impl.contact.dist.shape[0]
    if robot in ("halfcheetah", "ant", "hopper", "walker2d", "humanoid", "humanoidstandup") and not (
        touching and slots
    ):
        raise RuntimeError(f"{robot}: MJX has no room for contacts; is `max_contact_points` the model's only numeric?")
    return Simulation(mj, model, data, physics)


def _file(robot: str) -> str:
    return files("envs_jax.mamujoco").joinpath("models", f"{robot}.xml").read_text()


def _element(tag: str, **attributes: Any) -> ET.Element:
    return ET.Element(tag, {name: str(value) for name, value in attributes.items()})


def _coupled_half_cheetah() -> str:
    """Two HalfCheetahs side by side, 14 kg together, with an elastic tendon between their torsos."""
    root = ET.fromstring(_file("halfcheetah"))
    root.set("model", "coupled_cheetah")
    geom = root.find("default/geom")
    world, actuators = root.find("worldbody"), root.find("actuator")
    assert geom is not None and world is not None and actuators is not None
    geom.set("density", repr(float(geom.get("density", 0)) / 2))
    torso, motors = world.find("body"), list(actuators)
    assert torso is not None
    world.remove(torso)
    for motor in motors:
        actuators.remove(motor)
    for i, y in enumerate((-1, 1)):
        cheetah = copy.deepcopy(torso)
        for element in cheetah.iter():
            if "name" in element.attrib:
                element.set("name", f"{element.get('name')}{i}")
        cheetah.set("pos", f"0 {y} .7")
        cheetah.insert(0, _element("site", name=f"t{i}", pos="0 0 0", size=0.1))
        world.append(cheetah)
        for motor in motors:
            actuators.append(_element("motor", gear=motor.get("gear"), joint=f"{motor.get('joint')}{i}"))
    spatial = _element(
        "spatial", name="tendon0", width=0.05, rgba=".95 .3 .3 1", limited="true", range="1.5 3.5", stiffness=0.1
    )
    spatial.extend([_element("site", site="t0"), _element("site", site="t1")])
    tendon = _element("tendon")
    tendon.append(spatial)
    root.append(tendon)
    return ET.tostring(root, encoding="unicode")


def _many_segment_swimmer(segments: int) -> str:
    """Swimmer with `segments` actuated joints; two make the swimmer itself, up to the names."""
    root = ET.fromstring(_file("swimmer"))
    torso, actuators = root.find("worldbody/body"), root.find("actuator")
    assert torso is not None and actuators is not None
    free = torso.find("joint[@name='free_body_rot']")
    middle = torso.find("body")
    assert free is not None and middle is not None
    camera = torso.find("camera")
    assert camera is not None
    _show_all(camera, middle=1 - segments / 2, times=(1 + segments) / 3)
    free.set("name", "rot")
    torso.remove(middle)
    for motor in list(actuators):
        actuators.remove(motor)
    parent = torso
    for i in range(segments):
        # The joints between the first and the last alternate in direction.
        axis = -1 if 0 < i < segments - 1 and i % 2 == 0 else 1
        body = _element("body", name=f"segment_{i}", pos="0.5 0 0" if i == 0 else "-1 0 0")
        body.append(_element("geom", density=1000, fromto="0 0 0 -1 0 0", size=0.1, type="capsule"))
        joint = {"name": f"rot{i}", "axis": f"0 0 {axis}", "pos": "0 0 0", "range": "-100 100"}
        body.append(_element("joint", limited="true", type="hinge", **joint))
        parent.append(body)
        actuators.append(_element("motor", ctrllimited="true", ctrlrange="-1 1", gear=150.0, joint=f"rot{i}"))
        parent = body
    return ET.tostring(root, encoding="unicode")


def _many_segment_ant(segments: int) -> str:
    """A chain of rigidly joined torsos with two legs each."""
    root = ET.fromstring(_file("ant"))
    world, actuators = root.find("worldbody"), root.find("actuator")
    assert world is not None and actuators is not None
    ant = world.find("body")
    assert ant is not None
    camera, free = ant.find("camera"), ant.find("joint")
    assert camera is not None and free is not None
    _show_all(camera, middle=(1 - segments) / 2, times=(2 + segments) / 3)
    world.remove(ant)
    for motor in list(actuators):
        actuators.remove(motor)
    parent = world
    for i in range(segments):
        torso = _element("body", name=f"torso_{i}", pos="0 0 0.75" if i == 0 else "-1 0 0")
        if i == 0:
            torso.extend([camera, free])
        else:
            torso.append(_element("geom", density=100, fromto="1 0 0 0 0 0", size=0.1, type="capsule"))
        for leg, side in ((1, 1), (2, -1)):
            torso.append(_leg(i, leg, side))
            for joint in ("hip", "ankle"):
                motor = {"ctrllimited": "true", "ctrlrange": "-1.0 1.0", "joint": f"{joint}{leg}_{i}", "gear": 150}
                actuators.append(_element("motor", **motor))
        parent.append(torso)
        parent = torso
    return ET.tostring(root, encoding="unicode")


def _show_all(camera: ET.Element, middle: float, times: float) -> None:
    """Beside the middle of a long robot, and that many times as far away."""
    _, y, z = map(float, camera.get("pos", "").split())
    camera.set("pos", f"{middle} {y * times} {z * times}")


def _leg(segment: int, leg: int, side: int) -> ET.Element:
    """One leg: link, hip, ankle. The first segment's legs point forward from x = 0.2, the others' backward from 0."""
    first = segment == 0
    sign = 1 if first else -1
    at = f"{0.2 if first else 0.0} {0.2 * side} 0.0"
    knee, foot = f"{0.2 * sign} {0.2 * side} 0.0", f"{0.4 * sign} {0.4 * side} 0.0"
    bend = "30 70" if first else "-70 -30"
    # Across the leg, in the ground plane.
    axis = f"{-side * sign} 1 0"

    def limb(name: str, pos: str, to: str, joint: ET.Element | None = None) -> ET.Element:
        body = _element("body", name=f"{name}{leg}_{segment}", pos=pos)
        if joint is not None:
            body.append(joint)
        body.append(_element("geom", fromto=f"0.0 0.0 0.0 {to}", size=0.08, type="capsule"))
        return body

    hip = _element("joint", axis="0 0 1", name=f"hip{leg}_{segment}", pos="0 0 0", range="-30 30", type="hinge")
    ankle = _element("joint", axis=axis, name=f"ankle{leg}_{segment}", pos="0 0 0", range=bend, type="hinge")
    link, upper = limb("link", "0 0 0", at), limb("upper", at, knee, hip)
    upper.append(limb("foot", knee, foot, ankle))
    link.append(upper)
    return link

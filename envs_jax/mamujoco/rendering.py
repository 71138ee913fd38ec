"""Pictures by MuJoCo's own renderer, with each agent's limbs in its colour."""

from __future__ import annotations

import atexit
import os
import sys
from ctypes.util import find_library
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from envs_jax import drawing
from envs_jax.mamujoco.library import mujoco

_NO_GL = (
    "render: MuJoCo found no OpenGL ({error}). Without a screen it needs EGL (a GPU's driver, or the package libegl1)"
    " or OSMesa (the package libosmesa6); MUJOCO_GL=egl or MUJOCO_GL=osmesa, set before mujoco is imported, chooses"
)


def render(
    mj: Any, qpos: np.ndarray, parts: tuple[tuple[int, ...], ...], width: int = 480, height: int = 360
) -> np.ndarray:
    """A picture of a robot at `qpos` [nq], uint8[height, width, 3], in which `parts` are the agents' actuators.

    Raises NotImplementedError where MuJoCo cannot draw, saying what to install.
    """
    renderer, painted = _renderer(mj, parts, width, height)
    data = mujoco.MjData(painted)
    data.qpos[:] = qpos
    mujoco.mj_forward(painted, data)
    renderer.update_scene(data, camera=0 if painted.ncam else -1)
    return renderer.render()


def paint(mj: Any, parts: tuple[tuple[int, ...], ...]) -> Any:
    """A copy of the model with the bodies that a joint moves in the colour of the agent that drives it."""
    import copy

    painted = copy.copy(mj)
    owner = {int(mj.jnt_bodyid[mj.actuator_trnid[a, 0]]): i for i, part in enumerate(parts) for a in part}
    for geom in range(mj.ngeom):
        body = int(mj.geom_bodyid[geom])
        while body and body not in owner:
            body = int(mj.body_parentid[body])
        if body:
            painted.geom_rgba[geom, :3] = drawing.to_rgb(drawing.agent_color(owner[body]))
            painted.geom_matid[geom] = -1
    return painted


def _endless_floor(mj: Any) -> None:
    """Draws the floor as far as one sees, with squares as large as before: physics know no end of it, either, and a
    good runner comes to where the picture of it would end."""
    for plane in range(mj.ngeom):
        if mj.geom(plane).name == "floor":
            material, size = int(mj.geom_matid[plane]), mj.geom_size[plane, :2].copy()
            if material >= 0:
                mj.mat_texrepeat[material] /= size  # of two metres, where a plane has no (half) size
            mj.geom_size[plane, :2] = 0


@lru_cache(maxsize=8)
def _renderer(mj: Any, parts: tuple[tuple[int, ...], ...], width: int, height: int) -> tuple[Any, Any]:
    painted = paint(mj, parts)
    _endless_floor(painted)
    try:
        _draw_without_a_screen()
        renderer = mujoco.Renderer(painted, height, width)
    except Exception as error:  # each of GLFW, EGL and OSMesa fails in its own way
        # The kind of RuntimeError after which a run goes on without its video.
        raise NotImplementedError(_NO_GL.format(error=error)) from error
    atexit.register(_renderer.cache_clear)  # closes what is there, before EGL, which has registered already, ends
    return renderer, painted


def _draw_without_a_screen() -> None:
    """Where there is none and MUJOCO_GL is unset, MuJoCo would ask for a window all the same."""
    if sys.platform != "linux" or any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")):
        return
    for library, module in (("EGL", "mujoco.egl"), ("OSMesa", "mujoco.osmesa")):
        if find_library(library):
            contexts: Any = import_module("mujoco.rendering.classic.gl_context")
            contexts.GLContext = import_module(module).GLContext
            return

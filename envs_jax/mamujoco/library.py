"""MuJoCo itself, a C extension without types. On import it loads the OpenGL that `MUJOCO_GL` names."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any


def _load() -> Any:
    """Raises ValueError where MuJoCo cannot be imported with the OpenGL that was asked for."""
    try:
        return import_module("mujoco")
    except Exception as error:  # each of its ways to OpenGL fails in its own
        if not (chosen := os.environ.get("MUJOCO_GL")):
            raise
        raise ValueError(
            f"MUJOCO_GL is '{chosen}', with which MuJoCo cannot be imported ({error}); allowed: 'egl' (a GPU's driver, "
            f"or the package libegl1), 'osmesa' (the package libosmesa6), or leave it unset: whatever is there is taken"
        ) from error


mujoco: Any = _load()

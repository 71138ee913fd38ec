"""Which simulators can be had, with a clear word where one cannot."""

from __future__ import annotations

import importlib.util

BACKENDS = ("jax", "warp", "c")


def require_backend(backend: str) -> None:
    """Raises ValueError on an unknown backend, and on one that cannot work here, saying why."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is '{backend}'; allowed: {', '.join(BACKENDS)}")
    if backend == "c":
        raise ValueError("backend is 'c'; allowed: 'jax', for MJX 3.17's C implementation holds data but does not step")
    if backend == "warp":
        raise ValueError(f"backend is 'warp'; allowed: 'jax', for {_missing_for_warp()}")


def _missing_for_warp() -> str:
    if importlib.util.find_spec("warp") is None:
        return "MuJoCo Warp is not installed (pip install 'mujoco-mjx[warp]', and an NVIDIA GPU)"
    import jax

    if not any(device.platform == "gpu" for device in jax.devices()):
        return "JAX sees no NVIDIA GPU"
    return "this package does not drive MuJoCo Warp yet"

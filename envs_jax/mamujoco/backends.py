"""Which simulators can be had, with a clear word where one cannot."""

from __future__ import annotations

import importlib.util

BACKENDS = ("jax", "warp", "c")


def require_backend(backend: str) -> None:
    """Raises ValueError on an unknown backend, and on one that cannot work here, saying why."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is '{backend}'; allowed: {', '.join(BACKENDS)}")
    if backend == "c":
        raise ValueError(
            "backend is 'c'; allowed here: 'jax', for MJX 3.17's C implementation holds data but does not step"
        )
    if backend == "warp" and (missing := _missing_for_warp()):
        raise ValueError(f"backend is 'warp'; allowed here: 'jax', for {missing}")


def _missing_for_warp() -> str | None:
    """What MuJoCo Warp lacks here, None where it has all."""
    if importlib.util.find_spec("warp") is None:
        return "MuJoCo Warp is not installed (pip install 'mujoco-mjx[warp]'; it needs an NVIDIA GPU)"
    from jax.extend import backend

    return None if "cuda" in backend.backends() else "JAX sees no NVIDIA GPU (pip install 'jax[cuda13]')"

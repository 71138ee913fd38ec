"""Keeps XLA's CPU backend (seen with jaxlib 0.10.2) from a deadlock that MJX's nested loops run into on few cores.

Its parallel loops wait for other threads, and inside a loop inside a loop all threads can be waiting: the process then
sleeps for ever. Without the compiler pass that makes loops parallel, they do not wait, and one environment step takes
one core. A second one gave `faithful` nothing that we could measure, and `fast` at most 1.3 times the speed.
"""

from __future__ import annotations

import os
import warnings

PASS = "cpu-parallel-task-assigner"
FLAG = f"--xla_disable_hlo_passes={PASS}"
_ENOUGH = 8
"""Threads with which it was not seen any more."""


def threads() -> int:
    """How many threads XLA's CPU backend takes for its loops."""
    told = os.environ.get("NPROC", "")
    return int(told) if told.isdecimal() else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


def avoid_deadlock() -> None:
    """Adds `FLAG` to XLA_FLAGS on few cores, unless XLA_FLAGS disables passes already.

    XLA reads its flags when JAX starts its backend: where that has happened, and on a CPU, warns instead. The name of
    the pass means nothing to other platforms.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if not 0 < threads() < _ENOUGH or "xla_disable_hlo_passes" in flags:
        return
    from jax._src import xla_bridge  # nothing public says whether a backend has started

    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()
        return
    import jax

    if jax.default_backend() == "cpu":
        warnings.warn(
            "JAX had started before this process's first MuJoCo environment was made. On few cores XLA can then"
            f" deadlock with hundreds of environments. Make the environment before the first JAX computation, or set"
            f" XLA_FLAGS={FLAG}",
            RuntimeWarning,
            stacklevel=4,
        )

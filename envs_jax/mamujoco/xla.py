"""Turns off parallel loops of XLA's CPU backend where there are few cores, on which they make MJX slower.

With the compiler pass that makes loops parallel, XLA (seen with jaxlib 0.10.2) cuts MJX's kernels into smaller ones. On
two cores HalfCheetah's `fast` physics with 1024 environments then has two thirds of the speed, and uses no more of the
second core. To use all cores, share environments between as many devices (docs/mamujoco.md, Speed).
"""

from __future__ import annotations

import os

PASS = "cpu-parallel-task-assigner"
FLAG = f"--xla_disable_hlo_passes={PASS}"
_ENOUGH = 8
"""Threads with which it has not been measured."""


def threads() -> int:
    """How many threads XLA's CPU backend takes for its loops."""
    told = os.environ.get("NPROC", "")
    return int(told) if told.isdecimal() else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


def few_cores() -> bool:
    """Whether a CPU's programs are laid out for few cores."""
    return 0 < threads() < _ENOUGH


def prefer_whole_kernels() -> None:
    """Adds `FLAG` to XLA_FLAGS on few cores, unless XLA_FLAGS disables passes already.

    XLA reads its flags when JAX starts its backend: after that there is nothing to be done. The name of the pass means
    nothing to other platforms.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if not few_cores() or "xla_disable_hlo_passes" in flags:
        return
    from jax._src import xla_bridge  # nothing public says whether a backend has started

    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()

"""Turns off two passes of XLA's CPU backend that make MJX slower.

One makes loops parallel: XLA (seen with jaxlib 0.10.2) then cuts MJX's kernels into smaller ones. On two cores
HalfCheetah's `fast` physics with 1024 environments has two thirds of the speed with it, and uses no more of the second
core. To use all cores, share environments between as many devices (docs/mamujoco.md, Speed).

The other removes optimisation barriers before kernels are made, so that kernels of many steps compute the first steps
anew for each number of the last. With barriers left in place, Humanoid's solver is several times as fast. Results must
not hang on barriers: what has to be computed once stands in a loop (`newton._order`).
"""

from __future__ import annotations

import os
import warnings
from importlib.metadata import entry_points
from importlib.util import find_spec

_PARALLEL_LOOPS, _NO_BARRIERS = "cpu-parallel-task-assigner", "cse_barrier_expander"
_ENOUGH = 8
"""Threads with which parallel loops have not been measured."""


def threads() -> int:
    """How many threads XLA's CPU backend takes for its loops."""
    told = os.environ.get("NPROC", "")
    return int(told) if told.isdecimal() else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


def few_cores() -> bool:
    """Whether a CPU's programs are laid out for few cores."""
    return 0 < threads() < _ENOUGH


def only_cpus() -> bool:
    """Whether JAX can find no other devices than CPUs: other backends have the second pass, too, and may need it."""
    chosen = os.environ.get("JAX_PLATFORMS", "")
    return chosen == "cpu" or not (entry_points(group="jax_plugins") or find_spec("jax_plugins") or find_spec("libtpu"))


def prefer_whole_kernels() -> None:
    """Adds a flag to XLA_FLAGS that turns the passes off, unless XLA_FLAGS disables passes already.

    XLA reads its flags when JAX starts its backend: after that there is nothing to be done, but to warn. The first
    pass's name means nothing to other platforms.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    passes = [_PARALLEL_LOOPS] * few_cores() + [_NO_BARRIERS] * only_cpus()
    if not passes or "xla_disable_hlo_passes" in flags:
        return
    from jax._src import xla_bridge  # nothing public says whether a backend has started

    flag = f"--xla_disable_hlo_passes={','.join(passes)}"
    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
        return
    warnings.warn(
        "JAX started before the first robot was made: on CPUs their physics is up to three times slower so. Make one "
        f"before JAX's first computation, or start with XLA_FLAGS={flag}",
        stacklevel=2,
    )

"""How a batch of environments goes through the physics: all `vmap`s as one, in portions that a CPU's caches hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from envs_jax.mamujoco.xla import few_cores

_PORTION, _LARGE_PORTION, _LARGE = range(128, 257), range(32, 65), 512
"""How many environments a portion may have; how many where what is mapped has half a KiB and more for each environment.
All at once carry their numbers to memory and back with each operation. On two cores 1024 environments in portions of
256 are 1.3 times as fast (HalfCheetah) as all at once; Ant and Humanoid are 1.5 and 1.2 times as fast again in portions
of 64."""


def as_one_batch(one: Callable[..., Any]) -> Callable[..., Any]:
    """`one`, a function of arrays, so that nested `vmap`s of it become a single one, over portions on a CPU.

    What no `vmap` maps over stays as it is: a model is not copied for each environment.
    """

    @jax.custom_batching.custom_vmap
    def single(*values: jax.Array) -> Any:
        return one(*values)

    @single.def_vmap
    def _(size: int, mapped: Any, *values: jax.Array) -> tuple[Any, Any]:
        return _mapped(_batch(one, size, tuple(mapped))(*values))

    return single


def _batch(one: Callable[..., Any], size: int, mapped: tuple[bool, ...]) -> Callable[..., Any]:
    """`one` over a first axis of that size of those arrays that are mapped."""

    @jax.custom_batching.custom_vmap
    def several(*values: jax.Array) -> Any:
        each = sum(value.nbytes // size for value, m in zip(values, mapped, strict=True) if m)
        portion = _portion(size, each)
        if portion == size:
            return jax.vmap(one, in_axes=[0 if m else None for m in mapped])(*values)

        def some(own: list[jax.Array]) -> Any:
            rest = iter(own)
            return one(*(next(rest) if m else value for value, m in zip(values, mapped, strict=True)))

        return jax.lax.map(some, [value for value, m in zip(values, mapped, strict=True) if m], batch_size=portion)

    @several.def_vmap
    def _(outer: int, outer_mapped: Any, *values: jax.Array) -> tuple[Any, Any]:
        both = tuple(a or b for a, b in zip(mapped, outer_mapped, strict=True))
        merged = []
        for value, inside, outside in zip(values, mapped, outer_mapped, strict=True):
            if inside and not outside:
                value = jnp.broadcast_to(value, (outer, *value.shape))
            elif outside and not inside:
                value = jnp.broadcast_to(value[:, None], (outer, size, *value.shape[1:]))
            merged.append(value.reshape(outer * size, *value.shape[2:]) if inside or outside else value)
        out = _batch(one, outer * size, both)(*merged)
        return _mapped(jax.tree.map(lambda x: x.reshape(outer, size, *x.shape[1:]), out))

    return several


def _portion(size: int, each: int) -> int:
    """The largest portion that divides a batch of so many bytes each; all of it where none does, or on another device
    than a small CPU."""
    if jax.default_backend() != "cpu" or not few_cores():
        return size
    allowed = _PORTION if each < _LARGE else _LARGE_PORTION
    return max((portion for portion in allowed if size % portion == 0), default=size)


def _mapped(out: Any) -> tuple[Any, Any]:
    """What a rule for `vmap` gives: the results, and that all have a first axis."""
    return out, jax.tree.map(lambda _: True, out)

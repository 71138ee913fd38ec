"""What the checks share: the list of problems, shorter episodes, comparing trees."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import MultiAgentEnv
from envs_jax.spaces import Space

SHORT_EPISODE = 7
"""Steps of an episode in a test, where the environment lets its time limit be changed."""


class Problems:
    """Collects what is wrong, so that one run tells all of it.

    where: added to the name of each check, for checks that run under several conditions.
    """

    def __init__(self, where: str = "") -> None:
        self.found: list[str] = []
        self.where = where

    def expect(self, ok: Any, check: str, message: str) -> None:
        if not ok:
            self.found.append(f"{check}{self.where}: {message}")

    def expect_array(self, x: Any, check: str, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        """`x`, an array or a description of one, must have this shape and this dtype, and not weakly."""
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            self.expect(False, check, f"{name} is {type(x).__name__}; required: an array")
            return
        is_, required = f"{x.dtype}{list(x.shape)}", f"{np.dtype(dtype)}{list(shape)}"
        self.expect(x.shape == shape and x.dtype == dtype, check, f"{name} is {is_}; required: {required}")
        self.expect(not getattr(x, "weak_type", False), "no weak types", f"{name} is weakly typed")

    @contextlib.contextmanager
    def section(self, check: str) -> Iterator[None]:
        """What raises within is a problem of this check."""
        try:
            yield
        except Exception as error:
            self.found.append(f"{check}{self.where}: raised {type(error).__name__}: {str(error).strip()[:600]}")

    def raise_if_any(self, subject: str) -> None:
        if self.found:
            unique = list(dict.fromkeys(self.found))
            raise AssertionError(f"{subject} fails {len(unique)} check(s):\n" + "\n".join(f"  - {p}" for p in unique))


def window(space: Space) -> tuple[slice, ...]:
    """Which part of a stacked row belongs to an agent with this space."""
    return tuple(slice(size) for size in space.shape)


def twin(env: Any) -> Any:
    """Another object with the same settings."""
    if not dataclasses.is_dataclass(env):
        return copy.deepcopy(env)
    inner = {name: getattr(env, name) for name in _settings(env)}
    changes = {name: twin(value) for name, value in inner.items() if isinstance(value, MultiAgentEnv)}
    return dataclasses.replace(env, **changes)  # type: ignore[type-var]


def _settings(env: Any) -> set[str]:
    """The fields that `dataclasses.replace` may change."""
    return {field.name for field in dataclasses.fields(env) if field.init} if dataclasses.is_dataclass(env) else set()


def shorten(env: Any) -> Any:
    """`env`, or the environment inside its wrappers, with a time limit soon enough for a test; `env` if it has none."""
    settings = _settings(env)
    if "max_steps" in settings:
        with contextlib.suppress(ValueError):  # the environment may not allow so few
            return dataclasses.replace(env, max_steps=min(env.max_steps or SHORT_EPISODE, SHORT_EPISODE))
    elif "env" in settings and isinstance(env.env, MultiAgentEnv):
        return dataclasses.replace(env, env=shorten(env.env))
    return env


def steps_for_two_episodes(env: Any) -> int:
    """Enough steps for any environment that runs into its time limit to end twice."""
    return 2 * env.max_steps + 2 if env.max_steps is not None else 2 * SHORT_EPISODE + 2


def _numbers(leaf: jax.Array) -> jax.Array:
    """The bits of typed keys; other arrays as they are."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def finite(tree: Any) -> jax.Array:
    """Whether no float in the tree is infinite or NaN, bool[]."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])) if leaves else jnp.asarray(True)


def close(a: Any, b: Any, tolerance: float = 1e-5) -> jax.Array:
    """Whether two trees are equal up to rounding (the compiler may fuse the same formula in two ways), bool[]."""

    def compare(x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = _numbers(x), _numbers(y)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.all(x == y)
        return jnp.all((x == y) | (jnp.abs(x - y) <= tolerance * (1 + jnp.abs(y))) | (jnp.isnan(x) & jnp.isnan(y)))

    same = jax.tree.leaves(jax.tree.map(compare, a, b))
    return jnp.all(jnp.stack(same)) if same else jnp.asarray(True)


def equal_trees(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """The same on the host, exactly unless a tolerance is given."""

    def compare(x: Any, y: Any) -> bool:
        x, y = np.asarray(x), np.asarray(y)
        return x.dtype == y.dtype and np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)

    return jax.tree.structure(a) == jax.tree.structure(b) and all(map(compare, *map(jax.tree.leaves, (a, b))))


def jit_for_once(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` for a program that runs a few steps and is gone: on a CPU, compile fast rather than well."""
    return jax.jit(function, compiler_options=_quick_compiler_options(), **options)


@functools.cache
def _quick_compiler_options() -> dict[str, Any]:
    """Options that shorten compilation on a CPU to a third, as far as this version of XLA has them."""
    if jax.default_backend() != "cpu":
        return {}
    wanted = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    known = {}
    for name, value in wanted.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: np.zeros(())).lower().compile(compiler_options={name: value})
            known[name] = value
    return known

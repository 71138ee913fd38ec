"""Environments by id: `make("dispersion", num_agents=8)`, `register("mine", MyEnv)`, `registered()`."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from envs_jax.base import MultiAgentEnv

EntryPoint = str | Callable[..., MultiAgentEnv]

_REGISTRY: dict[str, tuple[EntryPoint, dict[str, Any]]] = {}


def register(env_id: str, entry_point: EntryPoint, **defaults: Any) -> None:
    """Make `make(env_id)` call `entry_point`, a class or function or its `"module:name"`, with `defaults`.

    Raises ValueError where the id is taken by something else.
    """
    if env_id.startswith("jaxmarl/"):
        raise ValueError(f"register: env_id is '{env_id}'; 'jaxmarl/...' is kept for JaxMARL's own environments")
    entry = (entry_point, defaults)
    if _REGISTRY.setdefault(env_id, entry) != entry:
        raise ValueError(f"register: env_id '{env_id}' is taken by {_REGISTRY[env_id]}; choose another")


def registered() -> list[str]:
    """All ids that `make` knows, sorted. (`make("jaxmarl/<id>")` wraps any of JaxMARL's, too.)"""
    return sorted(_REGISTRY)


def make(env_id: str, **kwargs: Any) -> MultiAgentEnv:
    """The environment registered as `env_id`, with its settings changed by `kwargs`.

    `make("jaxmarl/MPE_simple_spread_v3")` gives one of JaxMARL's environments in this package's contract.
    Raises ValueError on an unknown id or keyword; the message lists what exists.
    """
    if env_id.startswith("jaxmarl/"):
        from envs_jax.compat.jaxmarl import from_jaxmarl

        return from_jaxmarl(env_id.removeprefix("jaxmarl/"), **kwargs)
    if env_id not in _REGISTRY:
        close = difflib.get_close_matches(env_id, _REGISTRY, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(f"unknown environment '{env_id}'{hint}; registered: {', '.join(registered())}")
    entry_point, defaults = _REGISTRY[env_id]
    build: Callable[..., MultiAgentEnv]
    if isinstance(entry_point, str):
        module, _, attribute = entry_point.partition(":")
        build = getattr(importlib.import_module(module), attribute)
    else:
        build = entry_point
    allowed = _keywords(build)
    unknown = [name for name in kwargs if allowed is not None and name not in allowed]
    if unknown:
        raise ValueError(f"{env_id}: unknown keyword '{unknown[0]}'; allowed: {', '.join(allowed or [])}")
    return build(**(defaults | kwargs))


def _keywords(entry_point: Callable[..., Any]) -> list[str] | None:
    """The keywords that an entry point takes; None where it takes any."""
    if dataclasses.is_dataclass(entry_point):
        return [field.name for field in dataclasses.fields(entry_point) if field.init]
    parameters = inspect.signature(entry_point).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters]

"""Asymmetry as data: what each agent can do and what it is paid, one array per ability with a value per agent.

Sources: the published roles of "Fairness over Equality" (arXiv 2602.15407: low, high, wide_zapper, spawn_biased), and
those that its authors left in their code without publishing results (marked so below).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from envs_jax.base import pytree


@pytree
class Roles:
    """The abilities of N agents, each an array [N]. Lengths and distances are in cells, times in steps.

    apple_reward: float32, for each apple or coin taken.
    step_reward: float32, at each step while not removed.
    mismatch_penalty_to_other: float32, what a coin's owner gets when this agent takes it (negative).
    spawn_bias_steps: int32, for how long only this agent's colour of coin appears after it took another's.
    zap_length, zap_radius: int32, the zap beam's reach ahead, and its lanes to each side.
    zap_cooldown: int32, steps between two shots in which the agent cannot zap.
    zap_reward, zap_hit_reward, zapped_reward: float32, for a shot, for each agent it hits, and for being hit.
    can_zap: bool.
    clean_length, clean_radius, clean_cooldown: int32, the same for the clean beam; length 0: cannot clean.
    clean_shot_reward, clean_reward: float32, for a shot of it, and for each cell that it cleaned.
    speed: float32, probability that a move or turn is carried out.
    view: int32, how far the agent sees within its window, in the Chebyshev distance.
    spawn_group, respawn_group: int32, the spawn cells it starts on, and those it comes back on.
    role_id: int32, which role this is (its place in `ROLES`), for observations and statistics.
    """

    apple_reward: Any
    step_reward: Any
    mismatch_penalty_to_other: Any
    spawn_bias_steps: Any
    zap_length: Any
    zap_radius: Any
    zap_cooldown: Any
    zap_reward: Any
    zap_hit_reward: Any
    zapped_reward: Any
    can_zap: Any
    clean_length: Any
    clean_radius: Any
    clean_cooldown: Any
    clean_shot_reward: Any
    clean_reward: Any
    speed: Any
    view: Any
    spawn_group: Any
    respawn_group: Any
    role_id: Any


ABILITIES: dict[str, np.dtype] = {
    field.name: np.dtype(
        np.bool_
        if field.name == "can_zap"
        else np.float32
        if field.name.endswith(("_reward", "_to_other")) or field.name == "speed"
        else np.int32
    )
    for field in fields(Roles)
}
"""The abilities and their dtypes."""

ROLES: dict[str, dict[str, float]] = {
    # Published, in the order in which the paper's compositions list agents: the low-reward (blue) one comes first.
    "low": {"apple_reward": 0.5, "mismatch_penalty_to_other": -3.0},
    "standard": {},
    "high": {"apple_reward": 1.5, "mismatch_penalty_to_other": -1.0},
    "wide_zapper": {"zap_radius": 2},  # The paper gives no number; 2 is ours.
    "spawn_biased": {"spawn_bias_steps": 25},
    # From the authors' code, unpublished.
    "strong": {"zap_hit_reward": 0.5},
    "weak": {"clean_reward": -0.1},
    "short_clean": {"clean_length": 1},  # Length ours.
    "slow": {"speed": 0.5},  # Speed ours.
    "inside": {"spawn_group": 1},
    "cleaner": {"clean_shot_reward": -0.1},
    "cleaner_for_free": {},
    "consumer": {"clean_length": 0},  # That it cannot clean is our reading.
    "rich_consumer": {"clean_length": 0, "apple_reward": 10.0},
    "peaceful_consumer": {"clean_length": 0, "can_zap": False},
    "inside_consumer": {"clean_length": 0, "spawn_group": 1},
    # Ours.
    "strong_cleaner": {"clean_radius": 2},
    "weak_cleaner": {"clean_length": 1, "clean_radius": 0},
}
"""Roles by name: what differs from the rules' standard agent."""

HALVES = {
    "high_low": ("low", "high"),
    "strong_weak_cleaner": ("strong_cleaner", "weak_cleaner"),
    "cleaner_consumer": ("cleaner", "consumer"),
}
"""Compositions for any number of agents: the first role for the first half (rounded down), the second for the rest."""

_COUNTED = re.compile(r"(\d+)([a-z_]*[a-z])")


def count_agents(spec: Any) -> int | None:
    """How many agents a `roles` setting speaks of; None where it fits any number. Raises ValueError if it is wrong."""
    if isinstance(spec, str):
        if spec in ("default", *ROLES, *HALVES):
            return None
        return len(names(spec, 0))
    sizes = {name: np.asarray(value).size for name, value in as_pairs(spec) if np.ndim(value) > 0}
    return next(iter(sizes.values()), None)


def names(spec: str, num_agents: int) -> list[str]:
    """The role of each agent: of `"default"`; of one role for all; of `"3high,2low,wide_zapper"`, in the order
    written; of a composition as the paper names them, `"5high_5low"`, in the order of `ROLES`; of a key of `HALVES`.

    num_agents: 0 for as many as the composition has. Raises ValueError for an unknown role or a sum that differs.
    """
    if spec == "default":
        return ["standard"] * num_agents
    if spec in ROLES:
        return [spec] * num_agents
    if spec in HALVES:
        first, second = HALVES[spec]
        return [first] * (num_agents // 2) + [second] * (num_agents - num_agents // 2)
    counted = [_COUNTED.fullmatch(part) for part in re.split(r"_(?=\d)", spec)]
    listed: list[tuple[int, str]] = []
    if "," not in spec and all(counted):
        listed = [(int(part[1]), part[2]) for part in counted if part]
        listed.sort(key=lambda part: list(ROLES).index(part[1]) if part[1] in ROLES else -1)
    else:
        for part in spec.split(","):
            match = _COUNTED.fullmatch(part.strip())
            listed.append((int(match[1]), match[2]) if match else (1, part.strip()))
    for _, name in listed:
        if name not in ROLES:
            raise ValueError(
                f"roles is {spec!r} with the unknown role {name!r}; allowed: default, {', '.join(HALVES)}, or counts"
                f" such as 3high,2low of: {', '.join(ROLES)}"
            )
    result = [name for count, name in listed for _ in range(count)]
    if num_agents and len(result) != num_agents:
        raise ValueError(
            f"roles is {spec!r}, which makes {len(result)} agents; allowed: counts that add up to num_agents, which is"
            f" {num_agents}"
        )
    return result


def as_pairs(spec: Any) -> tuple[tuple[str, Any], ...]:
    """Explicit arrays, a mapping or a `Roles`, as a hashable, sorted tuple of (ability, number or tuple of numbers)."""
    if isinstance(spec, Roles):
        spec = {name: getattr(spec, name) for name in ABILITIES}
    pairs = []
    for name, value in sorted(dict(spec).items() if isinstance(spec, Mapping) else spec):
        if name not in ABILITIES:
            raise ValueError(f"roles has the unknown ability {name!r}; allowed: {', '.join(ABILITIES)}")
        try:
            array = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"roles: {name} is {value!r}; allowed: a number, or one per agent") from None
        if array.ndim > 1:
            raise ValueError(f"roles: {name} has shape {array.shape}; allowed: a number, or one per agent")
        pairs.append((name, tuple(array.tolist()) if array.ndim else float(array)))
    return tuple(pairs)


def build(spec: Any, num_agents: int, standard: Mapping[str, Any]) -> Roles:
    """The abilities of all agents, NumPy arrays [num_agents].

    spec: what `names` takes, or explicit arrays.
    standard: the abilities of the rules' standard agent: a number, or one per agent.
    Raises ValueError for an unknown role or ability, an array of the wrong length, or a value out of range.
    """
    columns = {name: np.zeros(num_agents, np.float64) for name in ABILITIES}

    def put(name: str, value: Any, agents: Any = slice(None)) -> None:
        array = np.asarray(value, np.float64)
        if array.ndim and array.size != num_agents:
            raise ValueError(
                f"roles: {name} has {array.size} values; allowed: one, or num_agents, which is {num_agents}"
            )
        columns[name][agents] = array

    for name, value in standard.items():
        put(name, value)
    columns["role_id"][:] = list(ROLES).index("standard")
    if isinstance(spec, str):
        for agent, role in enumerate(names(spec, num_agents)):
            for name, value in ROLES[role].items():
                put(name, value, agent)
            columns["role_id"][agent] = list(ROLES).index(role)
    else:
        for name, value in as_pairs(spec):
            put(name, value)
    return check({name: value.astype(ABILITIES[name]) for name, value in columns.items()}, columns)


def check(columns: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray] | None = None) -> Roles:
    """`Roles` of these arrays; ValueError for a value that is out of range, or not a whole number where one is due."""
    for name, dtype in ABILITIES.items():
        value = np.asarray((given or columns)[name], np.float64)
        low, high, what = -np.inf, np.inf, "finite numbers"
        if name == "speed":
            low, high, what = 0, 1, "probabilities in [0, 1]"
        elif dtype == np.bool_:
            low, high, what = 0, 1, "0 or 1"
        elif dtype == np.int32:
            low, high, what = 0, 30_000, "whole numbers of at least 0"
        whole = dtype == np.float32 or (value == np.floor(value)).all()
        if not (np.isfinite(value) & (value >= low) & (value <= high)).all() or not whole:
            raise ValueError(f"roles: {name} is {value.tolist()}; allowed: {what}")
    return Roles(**columns)


def is_concrete(roles: Roles) -> bool:
    """Whether all arrays are there to be looked at, none of them traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(roles))

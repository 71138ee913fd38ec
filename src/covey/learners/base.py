"""What the experiment runner asks of a learner.

Letters in shape comments, project-wide: S seeds, U updates, E envs, T time, N agents, B batch, O obs, A actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np

Metrics: TypeAlias = dict[str, jax.Array]
"""Scalars [] or one number per agent [N], float32. NaN where there is nothing to report (no episode ended, say)."""


class Learner(Protocol):
    """One seed's training: a frozen value of static settings with pure functions; `covey.experiment` maps it over
    seeds.

    `hp` is a pytree of scalar arrays (learning rate, discount, ...), so that seeds and hyper-parameters vmap together.
    `carry` is a pytree of arrays and holds everything that changes, `hp` included.
    """

    @property
    def steps_per_update(self) -> int:
        """Environment steps that one `update` takes (0 for an offline learner)."""
        ...

    def init(self, key: jax.Array, hp: Any) -> Any:
        """The carry before the first update."""
        ...

    def update(self, carry: Any, data: Any = None) -> tuple[Any, Metrics]:
        """One update; `data` is shared by all seeds (an offline dataset, say), or None."""
        ...

    def evaluate(self, carry: Any, key: jax.Array) -> Metrics:
        """Greedy episodes whose starts depend on `key` alone; the same keys in the result whatever the carry."""
        ...

    def policy(self, carry: Any) -> Any:
        """The pytree of parameters to export, and to watch for NaN."""
        ...

    def episode(self, carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        """One greedy episode to draw: `(states, valid)`, states stacked over time [T, ...], valid bool[T]: not yet
        over."""
        ...


def check_numbers(values: Any, names: tuple[str, ...], holds: Callable[[Any], bool], allowed: str) -> None:
    """Raise ValueError naming the first of these fields of `values` that is a number for which `holds` does not."""
    for name in names:
        value = getattr(values, name)
        if not isinstance(value, float | int):  # JAX flattens it with other leaves.
            continue
        if not holds(value) or not np.isfinite(value):
            raise ValueError(f"{name} is {value}; allowed: {allowed}" + (", finite" if holds(value) else ""))


def own_entries(space: Any, agents: list[str]) -> np.ndarray:
    """Which entries of stacked vectors belong to each agent's own space, bool[N, size]."""
    sizes = np.array([space(agent).shape[0] for agent in agents])
    return np.arange(space().shape[0]) < sizes[:, None]

"""The numbers that the literatures differ in; `envs_jax/ssd/{harvest,cleanup,coins}.py` hold the presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

R = TypeVar("R", bound="Rules")

Growth = Literal["before", "deferred", "after"]
Window = Literal["ahead", "centred"]


@dataclass(frozen=True)
class Rules:
    """What all three games have. Times are in steps, lengths in cells."""

    window: Window = "ahead"
    """Where the agent is in its window: in the middle ("centred"), or with one row of cells behind it ("ahead")."""
    view_size: int = 11
    """Width and height of the window, odd."""
    growth: Growth = "after"
    """When things grow: before the moves; after them, as decided on the board before them; or after them, as it is."""
    regrow_under_agents: bool = True
    """Whether things grow where an agent stands, who then has them at once."""

    probabilities: ClassVar[tuple[str, ...]] = ()
    """Which fields are probabilities."""

    def __post_init__(self) -> None:
        if self.window not in ("ahead", "centred"):
            raise ValueError(f"window is {self.window!r}; allowed: 'ahead', 'centred'")
        if self.growth not in ("before", "deferred", "after"):
            raise ValueError(f"growth is {self.growth!r}; allowed: 'before', 'deferred', 'after'")
        if self.view_size < 3 or self.view_size % 2 == 0:
            raise ValueError(f"view_size is {self.view_size}; allowed: an odd number of at least 3")
        for name in self.probabilities:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not 0 <= number <= 1:
                    raise ValueError(f"{name} is {value}; allowed: probabilities in [0, 1]")


@dataclass(frozen=True)
class BeamRules(Rules):
    """What the two games with beams have. The lengths and rewards are those of a standard agent."""

    zap_length: int = 3
    zap_radius: int = 1
    zap_cooldown: int = 2
    zap_reward: float = 0.0
    zapped_reward: float = 0.0
    removal_steps: int = 5
    """From how many observations an agent that is hit is missing; 0: it stays."""
    beam_side_start: int = 0
    """Where the side lanes of a beam begin: beside the shooter (0) or one cell ahead of that (1)."""
    beams_pass: bool = False
    """Whether nothing stops a beam; else walls do, agents a zap, and waste a clean beam."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beam_side_start not in (0, 1):
            raise ValueError(f"beam_side_start is {self.beam_side_start}; allowed: 0, 1")
        if not 0 <= self.removal_steps <= 30_000:
            raise ValueError(f"removal_steps is {self.removal_steps}; allowed: a whole number of at least 0")


def choose(presets: Mapping[str, R], name: str | R, overrides: Mapping[str, Any]) -> R:
    """The preset called `name` (or the given rules), with those of `overrides` that are not None.

    Raises ValueError for an unknown name, and what the rules raise.
    """
    if isinstance(name, Rules):
        rules = name
    elif name in presets:
        rules = presets[name]
    else:
        raise ValueError(f"rules is {name!r}; allowed: {', '.join(presets)}")
    given = {key: value for key, value in overrides.items() if value is not None}
    for key, value in given.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ValueError(f"{key} is {value}; allowed: finite numbers")
    return dataclasses.replace(rules, **given)

"""Harvest: apples grow where apples are, so that an orchard which is eaten bare stays bare.

Sources: Melting Pot's `commons_harvest` (default), the original sequential social dilemmas of Hughes et al. 2018
(1803.08884) in the code of E. Vinitsky and others, and SocialJax's `harvest_common_open`; the map `diamonds` is that of
the SocialJax fork by the author of "Fairness over Equality" (2602.15407). docs/social_dilemmas.md compares them.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import pytree
from envs_jax.ssd import grid, maps, orchard
from envs_jax.ssd.base import ArmedDilemma, ArmedState, Draws, Info
from envs_jax.ssd.rules import BeamRules, choose


@pytree
class HarvestState(ArmedState):
    """apple: bool[A], which apple cells hold one.

    apple_before: bool[A], the same one step earlier.
    grew: bool[A], where one appeared at the end of the last step.
    """

    apple: jax.Array
    apple_before: jax.Array
    grew: jax.Array


@dataclass(frozen=True)
class HarvestRules(BeamRules):
    """The numbers of Harvest."""

    growth: Any = "deferred"
    regrowth: tuple[float, ...] = (0.0, 0.0025, 0.005, 0.025)
    """Probability that an apple grows, by the number of apples near it; the last for all larger numbers."""
    neighbour_radius2: float = 4.0
    """Squared distance up to which an apple is near."""

    probabilities: ClassVar[tuple[str, ...]] = ("regrowth",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.regrowth:
            raise ValueError("regrowth is (); allowed: at least one probability")


_MELTINGPOT = HarvestRules()
_ROOMS = dataclasses.replace(
    _MELTINGPOT, regrowth=(0.0, 0.001, 0.005, 0.025), zap_length=4, zap_cooldown=1, removal_steps=101
)
RULES = {
    "meltingpot": _MELTINGPOT,
    "hughes2018": HarvestRules(
        window="centred",
        view_size=15,
        growth="after",
        regrow_under_agents=False,
        regrowth=(0.0, 0.005, 0.02, 0.05),
        neighbour_radius2=2.0,
        zap_length=5,
        zap_cooldown=0,
        zap_reward=-1.0,
        zapped_reward=-50.0,
        removal_steps=0,
    ),
    "socialjax": HarvestRules(
        growth="before",
        regrow_under_agents=False,
        regrowth=(0.0, 0.001, 0.005, 0.025),
        zap_length=2,
        zap_cooldown=0,
        removal_steps=1,
        beam_side_start=1,
        beams_pass=True,
    ),
}


@dataclass(frozen=True)
class Harvest(ArmedDilemma):
    """Harvest. Reward 1 per apple for a standard agent.

    Actions: 0 noop, 1 forward, 2 backward, 3 step left, 4 step right, 5 turn left, 6 turn right, 7 zap.
    `info`, each per agent: apples, zaps_fired, zap_hits, zapped, removed, cell, mean_distance.
    """

    regrowth: tuple[float, ...] | None = None
    """Probability that an apple grows by the number of apples near it; None as the rules have it."""
    removal_steps: int | None = None
    """Steps for which a zapped agent is gone; None as the rules have it."""

    game: ClassVar[str] = "harvest"
    usual_agents: ClassVar[int] = 7
    characters: ClassVar[str] = "W PQA"
    num_actions: ClassVar[int] = 8

    def usual_map(self) -> str:
        return "ssd" if self.rules == "hughes2018" else "open"

    def choose_rules(self) -> HarvestRules:
        if isinstance(self.regrowth, list):  # as from a command line
            object.__setattr__(self, "regrowth", tuple(self.regrowth))
        presets = RULES | ({"meltingpot": _ROOMS} if self.map in ("closed", "partnership") else {})
        return choose(presets, self.rules, {"regrowth": self.regrowth, "removal_steps": self.removal_steps})

    def standard(self) -> dict[str, Any]:
        # Melting Pot starts its first two agents close to the apples on its own maps.
        inside = self.rules == "meltingpot" and self.map in ("", "open", "closed", "partnership")
        starts = [1, 1, *[0] * self.num_agents][: self.num_agents] if inside else 0
        return super().standard() | {"spawn_group": starts}

    def words(self) -> dict[str, tuple[int, ...]]:
        return {"grow": (len(self.board.apple_cells),)}

    def set_up(self, agents: dict[str, Any]) -> HarvestState:
        full, none = np.ones(len(self.board.apple_cells), np.bool_), np.zeros(len(self.board.apple_cells), np.bool_)
        return HarvestState(
            **self.armed(agents), apple=jnp.array(full), apple_before=jnp.array(full), grew=jnp.array(none)
        )

    def grow(self, state: HarvestState, on: HarvestState, draws: Draws) -> HarvestState:
        rules, cells = self.numbers, self.board.apple_cells
        # "deferred", as Melting Pot's engine does it: counted one step back, for cells that were free then and since
        # (where an agent took an apple as soon as it appeared, one was there, too).
        deferred = rules.growth == "deferred"
        seen = on.apple_before if deferred else on.apple
        near = orchard.count_near(seen, self.board.neighbours(cells, rules.neighbour_radius2))
        last = len(rules.regrowth) - 1
        grows = grid.happens_by_table(draws["grow"], np.array(rules.regrowth), jnp.minimum(near, last))
        grows &= ~seen & ~on.apple & (~on.grew if deferred else True)
        if not rules.regrow_under_agents:
            grows &= ~orchard.occupied(state, cells)
        return state.replace(apple=state.apple | grows, apple_before=on.apple, grew=grows)

    def collect(self, state: HarvestState, before: jax.Array) -> tuple[HarvestState, jax.Array, Info]:
        return orchard.collect(state, self.board.apple_cells)

    @functools.cached_property
    def ground_slots(self) -> np.ndarray:
        return self.board.slots(self.board.apple_cells)

    def ground_codes(self, state: HarvestState) -> jax.Array:
        return orchard.codes(state.apple)

    @property
    def ground_kinds(self) -> tuple[int, ...]:
        return (maps.WALL, maps.APPLE)

"""Cleanup: apples grow only while the river is clean, and cleaning it feeds others.

Sources: Melting Pot's `clean_up` (default), the original sequential social dilemmas of Hughes et al. 2018 (1803.08884)
in the code of E. Vinitsky and others, and SocialJax's `clean_up`. docs/social_dilemmas.md sets them side by side.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import Outcome, pytree
from envs_jax.ssd import grid, maps, orchard
from envs_jax.ssd.base import ArmedDilemma, ArmedState, Draws, Info, wait_after
from envs_jax.ssd.rules import BeamRules, choose


@pytree
class CleanupState(ArmedState):
    """apple: bool[A], which apple cells hold one.

    waste: bool[D], which waste cells are dirty.
    clean_wait: int32[N], steps in which the agent cannot clean yet.
    """

    apple: jax.Array
    waste: jax.Array
    clean_wait: jax.Array


@dataclass(frozen=True)
class CleanupRules(BeamRules):
    """The numbers of Cleanup. Waste is counted as a share of the cells that can hold it."""

    growth: Any = "before"
    zap_cooldown: int = 10
    removal_steps: int = 51
    clean_length: int = 3
    clean_radius: int = 1
    clean_cooldown: int = 2
    agents_block_clean: bool = False
    """Whether agents stop a clean beam."""
    apple_growth: float = 0.05
    """Probability that an apple grows on a free cell per step, at a share of waste of `restoration` or less."""
    depletion: float = 0.4
    """Share of waste from which no apples grow; in between, growth is linear."""
    restoration: float = 0.0
    waste_probability: float = 0.5
    """Probability per step that one more cell becomes dirty."""
    waste_retries: bool = False
    """Whether that is tried on one clean cell after the other until it happens."""
    waste_delay: int = 50
    """Steps in an episode before waste appears."""
    waste_limit: float | None = None
    """Share of waste from which no more appears."""
    count_river: bool = False
    """Whether plain river cells count among those that waste is a share of."""

    probabilities: ClassVar[tuple[str, ...]] = ("apple_growth", "waste_probability", "depletion", "restoration")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restoration >= self.depletion:
            raise ValueError(f"restoration is {self.restoration}; allowed: below depletion, which is {self.depletion}")


RULES = {
    "meltingpot": CleanupRules(),
    "hughes2018": CleanupRules(
        window="centred",
        view_size=15,
        growth="after",
        regrow_under_agents=False,
        zap_length=5,
        zap_cooldown=0,
        zap_reward=-1.0,
        zapped_reward=-50.0,
        removal_steps=0,
        clean_length=5,
        clean_cooldown=0,
        agents_block_clean=True,
        waste_retries=True,
        waste_delay=0,
        waste_limit=0.4,
    ),
    "socialjax": CleanupRules(
        regrow_under_agents=False,
        zap_length=2,
        zap_cooldown=0,
        removal_steps=1,
        clean_length=2,
        clean_cooldown=0,
        beam_side_start=1,
        beams_pass=True,
        waste_delay=51,
        count_river=True,
    ),
}


@dataclass(frozen=True)
class Cleanup(ArmedDilemma):
    """Cleanup. Reward 1 per apple for a standard agent; cleaning pays nothing.

    Actions: 0 noop, 1 forward, 2 backward, 3 step left, 4 step right, 5 turn left, 6 turn right, 7 zap, 8 clean.
    `info`, each per agent: apples, zaps_fired, zap_hits, zapped, cleans_fired, cleaned, waste_share, removed, cell,
    mean_distance.
    """

    apple_growth: float | None = None
    """Probability that an apple grows on a free cell per step while there is no waste; None as the rules have it."""
    waste_probability: float | None = None
    """Probability per step that one more cell becomes dirty; None as the rules have it."""
    removal_steps: int | None = None
    """Steps for which a zapped agent is gone; None as the rules have it."""

    game: ClassVar[str] = "cleanup"
    usual_agents: ClassVar[int] = 7
    characters: ClassVar[str] = "W PQA~HF"
    num_actions: ClassVar[int] = 9

    def usual_map(self) -> str:
        return "ssd" if self.rules == "hughes2018" else "standard"

    def choose_rules(self) -> CleanupRules:
        own = ("apple_growth", "waste_probability", "removal_steps")
        return choose(RULES, self.rules, {name: getattr(self, name) for name in own})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.board.waste_cells):
            raise ValueError("map has no cell that can hold waste; allowed: at least one 'H' or 'F'")

    def standard(self) -> dict[str, Any]:
        names = ("clean_length", "clean_radius", "clean_cooldown")
        return super().standard() | {name: getattr(self.numbers, name) for name in names}

    def words(self) -> dict[str, tuple[int, ...]]:
        return {"grow": (len(self.board.apple_cells),), "waste": (), "waste_cell": ()}

    def set_up(self, agents: dict[str, Any]) -> CleanupState:
        return CleanupState(
            **self.armed(agents),
            apple=jnp.zeros(len(self.board.apple_cells), jnp.bool_),
            waste=jnp.asarray(self.board.starts_dirty),
            clean_wait=jnp.zeros(self.num_agents, jnp.int32),
        )

    def play(self, state: CleanupState, actions: jax.Array, draws: Draws) -> tuple[CleanupState, Outcome]:
        state, outcome = super().play(state, actions, draws)
        share = jnp.broadcast_to(self.waste_share(state), (self.num_agents,))
        return state, outcome._replace(info=outcome.info | {"waste_share": share})

    def waste_share(self, state: CleanupState) -> jax.Array:
        """The share of waste that growth depends on, float32[]."""
        return jnp.sum(state.waste, dtype=jnp.int32) / np.float32(self.capacity)

    @property
    def capacity(self) -> int:
        """Number of cells that waste is a share of."""
        board = self.board
        return int(np.sum(board.ground == maps.RIVER)) if self.numbers.count_river else len(board.waste_cells)

    def grow(self, state: CleanupState, on: CleanupState, draws: Draws) -> CleanupState:
        rules, cells = self.numbers, self.board.apple_cells
        total = len(self.board.waste_cells)
        dirty = jnp.sum(on.waste, dtype=jnp.int32)
        share = np.arange(total + 1) / self.capacity  # by number of dirty cells
        growth = np.clip((share - rules.depletion) / (rules.restoration - rules.depletion), 0, 1)
        grows = grid.happens_by_table(draws["grow"], rules.apple_growth * growth, dirty) & ~on.apple
        if not rules.regrow_under_agents:
            grows &= ~orchard.occupied(state, cells)

        left = total - np.arange(total + 1)
        chance = 1 - (1 - rules.waste_probability) ** left if rules.waste_retries else rules.waste_probability
        limit = np.inf if rules.waste_limit is None else rules.waste_limit
        chance = np.where((share < limit) & (left > 0), chance, 0.0)
        appears = grid.happens_by_table(draws["waste"], chance, dirty) & (state.step >= rules.waste_delay)
        clean = ~on.waste
        nth = grid.one_of(draws["waste_cell"], total - dirty)
        spot = clean & (jnp.cumsum(clean, dtype=jnp.int32) == nth + 1)
        return state.replace(apple=state.apple | grows, waste=state.waste | (spot & appears))

    def collect(self, state: CleanupState, before: jax.Array) -> tuple[CleanupState, jax.Array, Info]:
        return orchard.collect(state, self.board.apple_cells)

    def ready_to_clean(
        self, state: CleanupState, actions: jax.Array, active: jax.Array
    ) -> tuple[jax.Array, CleanupState]:
        cleans = active & (state.clean_wait == 0) & (actions == grid.CLEAN)
        wait = jnp.where(active, wait_after(state.clean_wait, cleans, state.roles.clean_cooldown), state.clean_wait)
        return cleans, state.replace(clean_wait=wait)

    def stops_beam(self, state: CleanupState, cells: jax.Array, occupied: jax.Array, cleans: jax.Array) -> jax.Array:
        stops_clean = self.waste_at(state, cells)
        if self.numbers.agents_block_clean:
            stops_clean |= occupied
        return jnp.where(cleans[:, None, None], stops_clean, occupied)

    def waste_at(self, state: CleanupState, cells: jax.Array) -> jax.Array:
        """Whether there is waste on `cells`, bool of their shape."""
        return grid.pick(jnp.append(state.waste, False), grid.pick(self.board.index_of(self.board.waste_cells), cells))

    def clean(
        self, state: CleanupState, spots: jax.Array, cleans: jax.Array, before: jax.Array
    ) -> tuple[CleanupState, jax.Array, Info]:
        # Where several reach the same waste, it counts for the first in order.
        same = spots[:, :, None, None] == spots  # [N, K, N, K]
        late = jnp.any(same & before[:, None, :, None], axis=(0, 1))
        counts = self.waste_at(state, jnp.where(spots < 0, self.board.num_cells, spots)) & ~late
        cleaned = jnp.sum(counts, axis=1, dtype=jnp.int32)
        small = self.board.small
        gone = jnp.any(spots.reshape(-1, 1).astype(small) == self.board.waste_cells.astype(small), axis=0)  # [D]
        reward = cleaned * state.roles.clean_reward + jnp.where(cleans, state.roles.clean_shot_reward, 0.0)
        info = {"cleans_fired": cleans.astype(jnp.int32), "cleaned": cleaned}
        return state.replace(waste=state.waste & ~gone), reward, info

    @functools.cached_property
    def ground_slots(self) -> np.ndarray:
        board = self.board
        slot = board.slots(board.apple_cells)
        slot[board.waste_cells] = len(board.apple_cells) + len(maps.BARE) + np.arange(len(board.waste_cells))
        return slot

    def ground_codes(self, state: CleanupState) -> jax.Array:
        waste = jnp.where(state.waste, np.uint8(maps.WASTE), np.uint8(maps.RIVER))
        return jnp.concatenate([orchard.codes(state.apple), waste])

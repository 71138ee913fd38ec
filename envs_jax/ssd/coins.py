"""Coins: whoever takes the other's coin gains what the other more than loses.

Sources: Melting Pot's `coins` (default) after Lerer and Peysakhovich 2017 (1707.01068), SocialJax's `coin_game`, and
the asymmetric roles of "Fairness over Equality" (2602.15407). docs/social_dilemmas.md sets them side by side.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import pytree
from envs_jax.ssd import grid, maps
from envs_jax.ssd.base import DilemmaState, Draws, Info, SocialDilemma
from envs_jax.ssd.rules import Rules, choose


@pytree
class CoinsState(DilemmaState):
    """coin: int8[C], 0 for none, k + 1 for a coin of agent k.

    bias_agent: int32[], whose coins alone appear while bias_left, int32[], is above 0.
    """

    coin: jax.Array
    bias_agent: jax.Array
    bias_left: jax.Array


@dataclass(frozen=True)
class CoinsRules(Rules):
    """The numbers of Coins."""

    growth: Any = "deferred"
    coin_rate: float = 0.0005
    """Probability that a coin appears on a free cell per step; whose it is, is then drawn uniformly."""

    probabilities: ClassVar[tuple[str, ...]] = ("coin_rate",)


RULES = {
    "meltingpot": CoinsRules(),
    "hughes2018": CoinsRules(window="centred", view_size=15),
    "socialjax": CoinsRules(coin_rate=1 - (1 - 0.0005) ** 2),
}


@dataclass(frozen=True)
class Coins(SocialDilemma):
    """Coins. Any coin pays its taker 1; another's coin costs that other 2, for standard agents.

    Actions: 0 noop, 1 forward, 2 backward, 3 step left, 4 step right, 5 turn left, 6 turn right.
    `info`, each per agent: coins_own, coins_other, robbed (how many of its coins others took), removed (never), cell,
    mean_distance. Coins' own rules do not differ between hughes2018, which has no Coins, and meltingpot but for the
    window.
    """

    max_steps: int | None = 500
    """Steps after which an episode is truncated."""
    coin_rate: float | None = None
    """Probability that a coin appears on a free cell per step; None as the rules have it."""

    game: ClassVar[str] = "coins"
    usual_agents: ClassVar[int] = 2
    characters: ClassVar[str] = "W PQC"
    num_actions: ClassVar[int] = 7

    def usual_map(self) -> str:
        return "socialjax" if self.rules == "socialjax" else "12x12"

    def choose_rules(self) -> CoinsRules:
        return choose(RULES, self.rules, {"coin_rate": self.coin_rate})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_agents > 100:
            raise ValueError(f"num_agents is {self.num_agents}; allowed: up to 100")

    def standard(self) -> dict[str, Any]:
        return {"mismatch_penalty_to_other": -2.0}

    def words(self) -> dict[str, tuple[int, ...]]:
        return {"grow": (len(self.board.coin_cells),)}

    def set_up(self, agents: dict[str, Any]) -> CoinsState:
        zero = jnp.zeros((), jnp.int32)
        coin = jnp.zeros(len(self.board.coin_cells), jnp.int8)
        return CoinsState(**agents, coin=coin, bias_agent=zero, bias_left=zero)

    def grow(self, state: CoinsState, on: CoinsState, draws: Draws) -> CoinsState:
        words = draws["grow"]
        grows = grid.happens(words, self.numbers.coin_rate) & (on.coin == 0)
        owner = (words % np.uint32(self.num_agents)).astype(jnp.int32)
        owner = jnp.where(state.bias_left > 0, state.bias_agent, owner)
        coin = jnp.where(grows, (owner + 1).astype(jnp.int8), state.coin)
        return state.replace(coin=coin, bias_left=jnp.maximum(state.bias_left - 1, 0))

    def collect(self, state: CoinsState, before: jax.Array) -> tuple[CoinsState, jax.Array, Info]:
        who, index = state.roles, np.arange(self.num_agents)
        on = (state.cell[:, None] == self.board.coin_cells) & state.present[:, None] & (state.coin > 0)  # [N, C]
        owner = jnp.sum(on * state.coin, axis=1, dtype=jnp.int32) - 1  # -1 where none is taken
        robs = (owner[:, None] == index) & (owner != index)[:, None]  # [taker, owner]
        took, other = owner >= 0, jnp.any(robs, axis=1)
        penalty = jnp.sum(jnp.where(robs, who.mismatch_penalty_to_other[:, None], 0.0), axis=0)
        reward = took * who.apple_reward + penalty

        biased = other & (who.spawn_bias_steps > 0)
        first = biased & ~jnp.any(biased[:, None] & before, axis=0)
        bias_agent = jnp.where(jnp.any(biased), jnp.argmax(first).astype(jnp.int32), state.bias_agent)
        bias_left = jnp.where(jnp.any(biased), jnp.sum(first * who.spawn_bias_steps, dtype=jnp.int32), state.bias_left)
        state = state.replace(
            coin=jnp.where(jnp.any(on, axis=0), 0, state.coin).astype(jnp.int8),
            items=state.items + took,
            bias_agent=bias_agent,
            bias_left=bias_left,
        )
        info = {
            "coins_own": (took & ~other).astype(jnp.int32),
            "coins_other": other.astype(jnp.int32),
            "robbed": jnp.sum(robs, axis=0, dtype=jnp.int32),
        }
        return state, reward, info

    @functools.cached_property
    def ground_slots(self) -> np.ndarray:
        return self.board.slots(self.board.coin_cells)

    def ground_codes(self, state: CoinsState) -> jax.Array:
        coin = jnp.where(state.coin > 0, state.coin + (maps.OWN_COIN - 1), maps.FLOOR).astype(jnp.uint8)
        return jnp.concatenate([coin, maps.BARE])

    def own_view(self, seen: jax.Array) -> jax.Array:
        own = jnp.arange(maps.OWN_COIN, maps.OWN_COIN + self.num_agents, dtype=jnp.uint8)[:, None, None]
        coin = jnp.where(seen == own, np.uint8(maps.OWN_COIN), np.uint8(maps.OTHER_COIN))
        return jnp.where((seen >= maps.OWN_COIN) & (np.arange(2) == 0), coin, seen)

    @property
    def ground_kinds(self) -> tuple[int, ...]:
        return (maps.WALL, *(maps.OWN_COIN + k for k in range(self.num_agents)))

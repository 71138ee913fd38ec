"""Scripted policies for the social dilemmas: yardsticks for learners, and the two sides of a Schelling diagram.

A policy is `policy(env, state, key) -> int32[N]`, the actions of all agents. It may read the whole state, draws from
`key`, and works under vmap over states and keys (`env` is static). What a beam would hit is asked of the game's own
`fire`, so the rules are written once.

Letters: N agents, K goals, A apple cells, C coin cells.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.ssd import grid
from envs_jax.ssd.base import ArmedDilemma, SocialDilemma
from envs_jax.ssd.cleanup import Cleanup
from envs_jax.ssd.coins import Coins
from envs_jax.ssd.harvest import Harvest
from envs_jax.ssd.maps import FLOOR, RIVER
from envs_jax.ssd.orchard import count_near

Policy: TypeAlias = Callable[[Any, Any, jax.Array], jax.Array]

WANDER = 0.1
"""Probability that a walking agent makes a random step, so that agents in each other's way get past."""
DIRTY, FILTHY = 0.2, 0.3
"""Shares of waste above which those cooperators of Cleanup clean who are nearer to waste than to apples, and above
which all do. At the first, half the usual `depletion`, apples grow at half speed."""
FAR = 9999
"""Steps to where there is no way, or to a goal that is not there."""

_SIDES = grid._TURNS_TO[[grid.FORWARD, grid.BACKWARD, grid.STEP_LEFT, grid.STEP_RIGHT]]


def random(env: SocialDilemma, state: Any, key: jax.Array) -> jax.Array:
    """Any action, all alike."""
    return jax.random.randint(key, (env.num_agents,), 0, env.num_actions, jnp.int32)


def greedy(env: SocialDilemma, state: Any, key: jax.Array) -> jax.Array:
    """Walks to the nearest apple or coin; wanders while there is none."""
    if isinstance(env, Coins):
        return walk(env, state, key, steps_to(env, state, env.board.coin_cells, state.coin > 0))
    return walk(env, state, key, steps_to(env, state, env.board.apple_cells, state.apple))


def restrained(env: SocialDilemma, state: Any, key: jax.Array, leave: int | None = None) -> jax.Array:
    """Takes only what it may; Harvest: an apple with enough others near it, Coins: its own coins.

    leave: Harvest, how many apples have to remain near one that is taken; None for the smallest number at which
        regrowth is fastest (3 in all presets). With one fewer the tree that was eaten grows back five times slower
        under Melting Pot's rules; with one more a patch of five, as on most maps, is never eaten below four.

    Agents do not step on what they may not take. Without anything to take they wait off the apple cells. Two who take
    from one patch at once may leave less than `leave`.
    """
    need(env, "restrained", Harvest, Coins)
    board = env.board
    if isinstance(env, Coins):
        own = state.coin == jnp.arange(1, env.num_agents + 1, dtype=state.coin.dtype)[:, None]  # [N, C]
        steps = steps_to(env, state, board.coin_cells, own)
        return walk(env, state, key, steps, at_options(env, state, board.coin_cells, (state.coin > 0) & ~own))
    if leave is None:
        leave = int(np.argmax(env.numbers.regrowth))
    near = count_near(state.apple, board.neighbours(board.apple_cells, env.numbers.neighbour_radius2))
    enough = near >= leave
    steps = steps_to(env, state, board.apple_cells, state.apple & enough)
    bare = np.setdiff1d(np.flatnonzero(board.ground[:-1] == FLOOR), board.apple_cells)
    aside = steps_to(env, state, bare, np.ones(len(bare), np.bool_))
    nothing = jnp.min(steps, axis=1, keepdims=True) >= FAR
    spared = jnp.broadcast_to(state.apple & ~enough, (env.num_agents, len(board.apple_cells)))
    return walk(env, state, key, jnp.where(nothing, aside, steps), at_options(env, state, board.apple_cells, spared))


def cleaner(env: SocialDilemma, state: Any, key: jax.Array) -> jax.Array:
    """Cleanup: cleans where its beam would reach waste, turns to where it would, else walks to the nearest waste; waits
    on the river while there is none."""
    need(env, "cleaner", Cleanup)
    board = env.board
    steps = steps_to(env, state, board.waste_cells, state.waste)
    river = np.flatnonzero(board.ground[:-1] == RIVER)
    aside = steps_to(env, state, river, np.ones(len(river), np.bool_))
    walks = walk(env, state, key, jnp.where(jnp.any(state.waste), steps, aside))
    return aim(env, state, grid.CLEAN, walks, chases=False)


def zapper(env: SocialDilemma, state: Any, key: jax.Array) -> jax.Array:
    """Harvest and Cleanup: zaps when that would hit somebody, turns to where it would, else runs after the nearest
    agent. (Agents move before beams go off, so some shots miss.)"""
    need(env, "zapper", ArmedDilemma)
    others = state.present & ~np.eye(env.num_agents, dtype=bool)
    apart = jnp.asarray(env.board.distances)[options(env, state)[:, :, None], state.cell]  # [N, 5, N]
    steps = jnp.min(jnp.where(others[:, None], apart, FAR), axis=2)
    return aim(env, state, grid.ZAP, walk(env, state, key, steps), chases=True)


def cooperator(env: SocialDilemma, state: Any, key: jax.Array) -> jax.Array:
    """Harvest and Coins: `restrained`. Cleanup: for those who can clean, `cleaner` while the share of waste is above
    `FILTHY`, or above `DIRTY` and they are nearer to waste than to an apple; else `greedy`.

    With a single bound for all, agents would turn around on their way with every bit of waste that comes or goes.
    """
    if not isinstance(env, Cleanup):
        return restrained(env, state, key)
    to_waste = steps_to(env, state, env.board.waste_cells, state.waste)[:, 0]
    to_apple = steps_to(env, state, env.board.apple_cells, state.apple)[:, 0]
    share = env.waste_share(state)
    cleans = ((share > FILTHY) | ((share > DIRTY) & (to_waste < to_apple))) & (state.roles.clean_length > 0)
    return jnp.where(cleans, cleaner(env, state, key), greedy(env, state, key))


def defector(env: SocialDilemma, state: Any, key: jax.Array) -> jax.Array:
    """`greedy`."""
    return greedy(env, state, key)


def mixed(cooperates: jax.Array) -> Policy:
    """The policy of a population: `cooperator` where `cooperates` bool[N] (data), elsewhere `defector`."""

    def policy(env: SocialDilemma, state: Any, key: jax.Array) -> jax.Array:
        return jnp.where(cooperates, cooperator(env, state, key), defector(env, state, key))

    return policy


POLICIES: dict[str, Policy] = {
    "random": random,
    "greedy": greedy,
    "restrained": restrained,
    "cleaner": cleaner,
    "zapper": zapper,
    "cooperator": cooperator,
    "defector": defector,
}
"""All policies by name; `available` says which a game has."""

_ONLY = {"restrained": ("harvest", "coins"), "cleaner": ("cleanup",), "zapper": ("harvest", "cleanup")}


def available(env: SocialDilemma) -> list[str]:
    """Names of the policies that a game has."""
    return [name for name in POLICIES if env.game in _ONLY.get(name, (env.game,))]


def need(env: SocialDilemma, name: str, *games: type[SocialDilemma]) -> None:
    """Raise ValueError unless `env` is one of `games`."""
    if not isinstance(env, games):
        raise ValueError(f"policy is {name!r}; allowed in {env.game}: {', '.join(available(env))}")


def returns_by_cooperators(
    env: SocialDilemma, key: jax.Array, num_envs: int, order: Sequence[int] | None = None
) -> jax.Array:
    """Mean return of an episode of each agent where only the first k agents cooperate, float32[N + 1, N], k = 0..N.

    order: in which agents join the cooperators, N different indices; None for 0, 1, ...
    The difference of rows k and k + 1 is what the change of mind of agent `order[k]` did to each. All rows start from
    the same `num_envs` states and share their random words. One vmapped scan: compile it with `jax.jit`.
    """
    n = env.num_agents
    joins = np.arange(n) if order is None else np.asarray(order)
    if sorted(joins.tolist()) != list(range(n)):
        raise ValueError(f"order is {joins.tolist()}; allowed: each of the agents 0 to {n - 1} once")
    cooperates = np.argsort(joins) < np.arange(n + 1)[:, None]  # [N + 1, N]
    over_envs = jax.vmap(functools.partial(returns_of, env), in_axes=(None, 0))
    keys = jax.random.split(key, num_envs)
    return jnp.mean(jax.vmap(over_envs, in_axes=(0, None))(jnp.asarray(cooperates), keys), axis=1)


def returns_of(env: SocialDilemma, cooperates: jax.Array, key: jax.Array) -> jax.Array:
    """Returns of one episode with cooperators where `cooperates` bool[N], else defectors, float32[N]."""
    if env.max_steps is None:
        raise ValueError("max_steps is None; allowed here: an integer, the length of an episode")
    policy = mixed(cooperates)
    key_init, key_run = jax.random.split(key)

    def step(carry: tuple[Any, jax.Array], key: jax.Array) -> tuple[tuple[Any, jax.Array], None]:
        state, total = carry
        key_act, key_step = jax.random.split(key)
        state, outcome = env.advance(key_step, state, policy(env, state, key_act))
        return (state, total + outcome.reward), None

    start = (env.init(key_init), jnp.zeros(env.num_agents, jnp.float32))
    return jax.lax.scan(step, start, jax.random.split(key_run, env.max_steps))[0][1]


# --- Walking and aiming ---


def options(env: SocialDilemma, state: Any) -> jax.Array:
    """int32[N, 5]: where the actions 0 to 4, staying and the four steps, would bring each agent if nobody is there."""
    towards = (state.heading[:, None] + _SIDES) % 4
    steps = jnp.asarray(env.board.step_to)[towards, state.cell[:, None]]
    return jnp.concatenate([state.cell[:, None], steps], axis=1)


def at_options(env: SocialDilemma, state: Any, cells: np.ndarray, there: jax.Array) -> jax.Array:
    """bool[N, 5]: whether what each agent finds on `cells`, `there` bool[N, K], is where its `options` lead."""
    place = jnp.asarray(env.board.index_of(cells))[options(env, state)]
    padded = jnp.pad(there, ((0, 0), (0, 1)))
    return jnp.take_along_axis(padded, place, axis=1)


def steps_to(env: SocialDilemma, state: Any, goals: np.ndarray, wanted: jax.Array | np.ndarray) -> jax.Array:
    """int16[N, 5]: steps that are left to the nearest `wanted` bool[K] or [N, K] of the cells `goals` [K] (static)
    after each of the agents' `options`; `FAR` where there is none."""
    apart = jnp.asarray(env.board.distances[:, goals])[options(env, state)]  # [N, 5, K]
    wanted = jnp.broadcast_to(jnp.asarray(wanted), (env.num_agents, len(goals)))[:, None]
    return jnp.min(jnp.where(wanted, apart, FAR), axis=2, initial=FAR)


def walk(env: SocialDilemma, state: Any, key: jax.Array, steps: jax.Array, avoid: jax.Array | None = None) -> jax.Array:
    """Actions int32[N], each 0 to 4: the option with the fewest `steps` [N, 5] left, of several a free one, then any;
    sometimes a random one. Never one to `avoid`, bool[N, 5], other than staying."""
    key_tie, key_wander = jax.random.split(key)
    tie = jax.random.uniform(key_tie, steps.shape)
    wanders = jax.random.uniform(key_wander, (env.num_agents, 1)) < WANDER
    others = state.present & ~np.eye(env.num_agents, dtype=bool)
    taken = jnp.any((options(env, state)[:, :, None] == state.cell) & others[:, None], axis=2)
    cost = jnp.where(wanders, 0.0, 2.0 * steps + taken) + tie
    if avoid is not None:
        cost = jnp.where(avoid & (np.arange(5) > 0), jnp.inf, cost)
    return jnp.argmin(cost, axis=1).astype(jnp.int32)


def aim(env: SocialDilemma, state: Any, beam: int, walks: jax.Array, chases: bool) -> jax.Array:
    """Actions int32[N]: fire `beam`, grid.ZAP or grid.CLEAN, if that would hit; turn to where it would; else `walks`.

    chases: whether an agent that has to wait before it can fire walks on, rather than staying where it is.
    """
    hits = jnp.stack([would_hit(env, state, beam, turn) for turn in range(4)])  # [4, N], by turns to the right
    ready = (state.zap_wait if beam == grid.ZAP else state.clean_wait) == 0
    turn = jnp.where(hits[3] & ~hits[1], grid.TURN_LEFT, grid.TURN_RIGHT)
    fires = jnp.where(hits[0], beam, jnp.where(jnp.any(hits, axis=0), turn, walks))
    waits = walks if chases else jnp.where(hits[0], 0, fires)
    return jnp.where(ready, fires, waits).astype(jnp.int32)


def would_hit(env: SocialDilemma, state: Any, beam: int, turn: int) -> jax.Array:
    """Which agents' beams would hit somebody (grid.ZAP) or waste (grid.CLEAN), bool[N], if they had turned to the right
    `turn` times, nobody moved, and none had to wait."""
    assert isinstance(env, ArmedDilemma)
    rested = {name: jnp.zeros_like(state.away) for name in ("zap_wait", "clean_wait") if hasattr(state, name)}
    turned = state.replace(heading=(state.heading + turn) % 4, **rested)
    everyone = jnp.full(env.num_agents, beam, jnp.int32)
    nobody_first = jnp.zeros((env.num_agents, env.num_agents), jnp.bool_)
    _, _, info = env.fire(turned, everyone, state.present, nobody_first)
    return info["zap_hits" if beam == grid.ZAP else "cleaned"] > 0

"""What becomes of a mixed-motive game: welfare, equality, sustainability, peace, and who does what, per role.

An accumulator for one episode, pure and of a fixed size, for use inside a scan and vmapped over environments:

    acc = init(num_agents, info, num_cells)          info: what the environment's steps report, arrays or their shapes
    acc = add(acc, rewards, info)                    at each step
    metrics = finish(acc, roles, ("low", "high"))    names -> float32 [] or [N]

Rewards are the environment's own, never shaped ones. Metrics that need a name which `info` lacks are left out. Add the
diagnostics of a `covey.social` reward to `info` for those of its own (`info | diagnostics`).

Sources: Perolat et al. 2017 (1707.06600; efficiency, equality, sustainability, peace), Raffinetti et al. 2015
(equality where returns may be negative), and the authors' code of "Fairness over Equality" (2602.15407).
Letters: N agents, C cells of the board, R roles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Metrics = dict[str, jax.Array]

COUNTED = (
    "apples", "coins_own", "coins_other", "robbed", "zaps_fired", "zap_hits", "zapped", "cleans_fired", "cleaned",
)  # fmt: skip
"""Names of `info` that are counts of events, added up over an episode."""
AVERAGED = ("waste_share", "mean_distance", "information_age", "social_reward", "envy", "guilt", "reward_angle")
"""Names of `info` that are averaged over the steps of an episode."""
LAST = ("reward_range",)
"""Names of `info` whose last value counts."""
ITEMS = ("apples", "coins_own", "coins_other")
"""Counts of things that agents eat or take."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Accumulator:
    """An episode so far.

    returns: sum of rewards, float32[N].
    steps: int32[], steps so far.
    present: float32[N], steps on the board.
    meals, meal_time: float32[N], steps in which an agent took something, and the sum of their times (0 for the first).
    totals: name -> sum over steps, float32[N].
    last: name -> last value, float32[N].
    visited: bool[N, C], where an agent was; None if nothing tells.
    """

    returns: jax.Array
    steps: jax.Array
    present: jax.Array
    meals: jax.Array
    meal_time: jax.Array
    totals: dict[str, jax.Array]
    last: dict[str, jax.Array]
    visited: jax.Array | None


def init(num_agents: int, info: Iterable[str], num_cells: int | None = None) -> Accumulator:
    """The accumulator before an episode's first step.

    info: a step's information, or its names. num_cells: cells of the board, for `coverage`; None: not measured.
    """
    names = set(info)
    zeros = jnp.zeros(num_agents, jnp.float32)
    return Accumulator(
        returns=zeros,
        steps=jnp.zeros((), jnp.int32),
        present=zeros,
        meals=zeros,
        meal_time=zeros,
        totals={name: zeros for name in (*COUNTED, *AVERAGED, "removed") if name in names},
        last={name: zeros for name in LAST if name in names},
        visited=None if num_cells is None else jnp.zeros((num_agents, num_cells), jnp.bool_),
    )


def add(
    acc: Accumulator,
    rewards: jax.Array,
    info: Mapping[str, jax.Array],
    positions: jax.Array | None = None,
    alive: jax.Array | bool = True,
) -> Accumulator:
    """The accumulator after one more step.

    rewards: [N], the environment's. info: arrays [N]; at least the names given to `init`.
    positions: int[N], the cell that each agent is on, below 0 for none; by default info's `cell`.
    alive: bool[], whether the episode was still going on before this step; if not, the step is not counted.
    Raises ValueError if cells are to be counted and nothing tells them.
    """
    alive = jnp.asarray(alive)
    rewards = jnp.asarray(rewards, jnp.float32)
    columns = {name: jnp.asarray(info[name], jnp.float32) for name in (*acc.totals, *acc.last)}
    eaten = [columns[name] for name in ITEMS if name in columns]
    ate = (sum(eaten[1:], eaten[0]) if eaten else rewards) > 0
    ate &= alive
    here = 1.0 - columns["removed"] if "removed" in columns else jnp.ones_like(rewards)
    visited = acc.visited
    if visited is not None:
        positions = info.get("cell") if positions is None else positions
        if positions is None:
            raise ValueError("positions is None; allowed: cells [N], unless info has them as 'cell'")
        visited |= (positions[:, None] == jnp.arange(visited.shape[1])) & alive
    return dataclasses.replace(
        acc,
        returns=acc.returns + jnp.where(alive, rewards, 0.0),
        steps=acc.steps + alive,
        present=acc.present + jnp.where(alive, here, 0.0),
        meals=acc.meals + ate,
        meal_time=acc.meal_time + jnp.where(ate, acc.steps, 0),
        totals={name: total + jnp.where(alive, columns[name], 0.0) for name, total in acc.totals.items()},
        last={name: jnp.where(alive, columns[name], value) for name, value in acc.last.items()},
        visited=visited,
    )


def finish(
    acc: Accumulator,
    roles: Any = None,
    role_names: tuple[str, ...] = (),
    reward_scale: Any = None,
) -> Metrics:
    """The metrics of an episode, float32 [] or per agent [N].

    roles: int[N], the role of each agent, an index into role_names; for each name, all metrics of those agents alone
    are added as scalars `metric/name` (NaN where it has no agents).
    reward_scale: numbers [N] by which returns are comparable, such as the reward per apple; by default the
    range of smoothed rewards, if a social reward's diagnostics were added.
    Raises ValueError unless roles has one number per agent.

    Per agent, and where roles are given their mean over each role:
    * return: G_i, the sum of rewards
    * apples, coins_own, coins_other, robbed, zaps_fired, zap_hits, zapped, cleans_fired, cleaned: counts as in `info`
    * own_coin_share: own coins among those taken, 1/2 if none
    * zap_rate, clean_rate: shots per step on the board (plus 1); clean_accuracy: waste cleared per shot, 0 if none
    * coverage: distinct cells
    * mean_distance (over steps on the board), waste_share, social_reward, envy, guilt, reward_angle: means over steps
    * reward_range, information_age: e^avg and tau of 2602.15407, i.e. M_i - m_i at the end and the mean total age

    Of all agents together, and of each role alone:
    * average_return, collective_return, efficiency: mean and sum of returns, and the sum per step
    * equality, equality_safe: of returns (see the functions of these names)
    * equality_scaled, equality_scaled_safe: the same of G_i / reward_scale_i
    * equality_items: of the numbers of items taken
    * sustainability: mean over agents of the mean step (from 0) at which one takes something, 0 if it never does
    * peace: number of agents minus the mean number of them that are removed from the board
    """
    num_agents = acc.returns.shape[-1]
    if reward_scale is None:
        reward_scale = acc.last.get("reward_range")
    columns = _per_agent(acc)
    metrics = columns | _of_group(acc, columns, jnp.ones(num_agents), reward_scale)
    if role_names:
        roles = jnp.asarray(roles)
        if roles.shape != (num_agents,):
            raise ValueError(f"roles has shape {roles.shape}; allowed: ({num_agents},), a role for each agent")
        for index, name in enumerate(role_names):
            member = (roles == index).astype(jnp.float32)
            count = jnp.sum(member)
            own = {key: jnp.sum(member * column) / count for key, column in columns.items()}
            own |= _of_group(acc, columns, member, reward_scale)
            metrics |= {f"{key}/{name}": jnp.where(count > 0, value, jnp.nan) for key, value in own.items()}
    return metrics


def _per_agent(acc: Accumulator) -> Metrics:
    totals, steps = acc.totals, jnp.maximum(acc.steps, 1)
    columns: Metrics = {"return": acc.returns}
    columns |= {name: totals[name] for name in COUNTED if name in totals}
    columns |= {name: totals[name] / steps for name in AVERAGED if name in totals}
    columns |= acc.last
    if "mean_distance" in totals:  # It is 0 in steps off the board.
        columns["mean_distance"] = totals["mean_distance"] / jnp.maximum(acc.present, 1)
    if "coins_own" in totals and "coins_other" in totals:
        columns["own_coin_share"] = own_share(totals["coins_own"], totals["coins_other"])
    for shots, rate in (("zaps_fired", "zap_rate"), ("cleans_fired", "clean_rate")):
        if shots in totals:
            columns[rate] = totals[shots] / (acc.present + 1)
    if "cleaned" in totals and "cleans_fired" in totals:
        columns["clean_accuracy"] = totals["cleaned"] / jnp.maximum(totals["cleans_fired"], 1)
    if acc.visited is not None:
        columns["coverage"] = jnp.sum(acc.visited, axis=-1).astype(jnp.float32)
    return columns


def _of_group(acc: Accumulator, columns: Metrics, member: jax.Array, scale: Any) -> Metrics:
    """Metrics of the agents where `member` [N] is 1."""
    steps, count = jnp.maximum(acc.steps, 1), jnp.maximum(jnp.sum(member), 1)
    total = jnp.sum(member * acc.returns)
    meal = acc.meal_time / jnp.maximum(acc.meals, 1)
    metrics = {
        "average_return": total / count,
        "collective_return": total,
        "efficiency": total / steps,
        "equality": equality(acc.returns, member),
        "equality_safe": equality_safe(acc.returns, member),
        "sustainability": jnp.sum(member * meal) / count,
    }
    if scale is not None:
        scale = jnp.asarray(scale, jnp.float32)
        scaled = acc.returns / jnp.where(scale > 0, scale, 1.0)
        metrics["equality_scaled"] = equality(scaled, member)
        metrics["equality_scaled_safe"] = equality_safe(scaled, member)
    items = [columns[name] for name in ITEMS if name in columns]
    if items:
        metrics["equality_items"] = equality(sum(items[1:], items[0]), member)
    if "removed" in acc.totals:
        metrics["peace"] = jnp.sum(member) - jnp.sum(member * acc.totals["removed"]) / steps
    return metrics


def equality(returns: jax.Array, member: jax.Array | float = 1.0) -> jax.Array:
    """1 minus the Gini coefficient of returns G [N], float32[]; 1 is equal. Meaningless if some are negative.

        1 - sum_ij |G_i - G_j| / (2 N (sum_i G_i + 1e-5))

    member: [N], 1 for agents that count, else 0.
    """
    gaps, returns, count = _gaps(returns, member)
    return 1.0 - gaps / (2.0 * count * (jnp.sum(returns) + 1e-5))


def equality_safe(returns: jax.Array, member: jax.Array | float = 1.0) -> jax.Array:
    """Equality in [0, 1] for returns of any sign (Raffinetti et al. 2015), float32[]; T+ and T- are the sums of the
    positive and of the negative ones, both counted as positive.

        1 - sum_ij |G_i - G_j| / (2 (N - 1) (T+ + T-) + 1e-5)

    member: as for `equality`. It is stricter than `equality`, by N / (N - 1), where no return is negative.
    """
    gaps, returns, count = _gaps(returns, member)
    return 1.0 - gaps / (2.0 * (count - 1.0) * jnp.sum(jnp.abs(returns)) + 1e-5)


def own_share(own: jax.Array, other: jax.Array) -> jax.Array:
    """Share of one's own coins among those taken, 1/2 if none."""
    taken = own + other
    return jnp.where(taken > 0, own / jnp.maximum(taken, 1), 0.5)


def _gaps(returns: jax.Array, member: jax.Array | float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(sum_ij |G_i - G_j|, G, number of agents)` of the members; G is 0 for others."""
    member = jnp.broadcast_to(jnp.asarray(member, jnp.float32), returns.shape)
    returns = jnp.asarray(returns, jnp.float32)
    gaps = jnp.abs(returns[:, None] - returns) * member[:, None] * member
    return jnp.sum(gaps), returns * member, jnp.sum(member)

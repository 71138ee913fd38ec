"""Millions of random steps of the social dilemmas, with every invariant that we know checked at each of them.

    python benchmarks/ssd_soak.py [--steps 10000000] [--seconds 600] [--out results/benchmarks/ssd_soak.csv]

Cleanup, Harvest and Coins under all rules, on the usual map and on a crowded one, each with four compositions of roles
side by side (roles are data). Agents fire often. What a step may change is worked out anew from the states before and
after it, the actions and `info`, apart from the code that made the step. Violations are counted per environment step
and invariant; any makes the exit status 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from timing import write_table

import envs_jax
from envs_jax.ssd import maps
from envs_jax.ssd.grid import BACKWARD, CLEAN, FORWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT, ZAP
from envs_jax.ssd.orchard import count_near

RULES = ("meltingpot", "hughes2018", "socialjax")
MAPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cleanup": ({"num_agents": 7}, {"map": "small", "num_agents": 5}),
    "harvest": ({"num_agents": 7}, {"map": "small", "num_agents": 7}),
    "coins": ({"num_agents": 2}, {"map": "4x4", "num_agents": 2, "coin_rate": 0.05}),
}
"""Settings of each game: the usual map, and a crowded one."""

ODD = {
    "apple_reward": [1.0, 0.3, -0.7, 2.5, 0.0, 1.1, 3.0],
    "step_reward": [0.01, 0.0, -0.02, 0.03, 0.0, 0.5, 0.0],
    "mismatch_penalty_to_other": [-0.3, 1.7, -5.0, 0.0, -2.0, -1.0, -0.1],
    "spawn_bias_steps": [7, 30, 0, 1, 2, 3, 4],
    "zap_length": [0, 1, 2, 3, 4, 5, 5],
    "zap_radius": [2, 1, 0, 2, 1, 0, 2],
    "zap_cooldown": [0, 1, 2, 3, 5, 8, 13],
    "zap_reward": [-0.1, 0.2, 0.0, 0.0, 0.4, 0.0, 0.1],
    "zap_hit_reward": [0.5, 0.0, -0.3, 1.0, 0.0, 0.2, 0.6],
    "zapped_reward": [-1.0, -2.0, 0.0, 0.25, -0.5, 0.0, 1.0],
    "can_zap": [1, 1, 0, 1, 1, 0, 1],
    "clean_length": [5, 4, 3, 2, 1, 0, 5],
    "clean_radius": [0, 1, 2, 2, 1, 0, 2],
    "clean_cooldown": [0, 0, 1, 4, 2, 0, 3],
    "clean_shot_reward": [-0.1, 0.0, 0.3, 0.0, 0.0, 0.2, 0.1],
    "clean_reward": [0.7, 0.0, -0.2, 0.0, 0.1, 0.0, 0.3],
    "speed": [1.0, 0.9, 0.5, 0.0, 1.0, 0.75, 0.25],
    "view": [1, 2, 3, 0, 9, 5, 4],
}
"""Abilities all over the place."""

ACTIONS = np.array(
    [0, *[FORWARD] * 4, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT, *[ZAP] * 5, *[CLEAN] * 5]
)
"""Drawn from uniformly, as far as a game has them."""


@dataclass(frozen=True)
class Args:
    """Settings of the soak."""

    steps: int = 10_000_000
    """Environment steps of each game, over all its rules, maps and roles."""
    seconds: float = 600.0
    """Time for each game, compiling included; it stops short of its steps when that is over."""
    envs: int = 64
    """Environments in parallel, a multiple of the four compositions."""
    chunk: int = 1000
    """Steps per call."""
    max_steps: int = 400
    """Length of an episode."""
    seed: int = 0
    """Seed of the random actions and words."""
    games: tuple[str, ...] = tuple(MAPS)
    """Which games."""
    out: Path = Path("results/benchmarks/ssd_soak.csv")
    """Table to write."""


def compositions(env: Any) -> dict[str, Any]:
    """Four settings of `roles` by name."""
    n = env.num_agents
    if env.game == "coins":
        return {"default": "default", "low,high": "low,high", "2spawn_biased": "2spawn_biased"} | {"odd": cut(ODD, n)}
    mixed = ["high", "low", "wide_zapper", "slow", "strong", "weak", "peaceful_consumer"][:n]
    cleaners = ["strong_cleaner", "weak_cleaner", "short_clean", "consumer", "cleaner", "wide_zapper", "slow"][:n]
    return {"default": "default"} | {"+".join(m): ",".join(m) for m in (mixed, cleaners)} | {"odd": cut(ODD, n)}


def cut(table: dict[str, list[float]], n: int) -> dict[str, list[float]]:
    """The first n values of each ability."""
    return {name: values[:n] for name, values in table.items()}


# --- Invariants: bool[] each, true where violated ---


def of_state(env: Any, state: Any) -> dict[str, jax.Array]:
    """What holds in every state."""
    board, present, n = env.board, state.present, env.num_agents
    pair = present[:, None] & present & ~np.eye(n, dtype=bool)
    outside = (state.cell < 0) | (state.cell >= board.num_cells)
    wall = jnp.asarray(board.wall)[jnp.clip(state.cell, 0, board.num_cells)]
    bad = {
        "shared_cell": pair & (state.cell[:, None] == state.cell),
        "on_wall": present & (outside | wall),
        "heading": (state.heading < 0) | (state.heading > 3),
    }
    who = state.roles
    timers = (state.away < 0) | (state.away > getattr(env.numbers, "removal_steps", 0))
    if env.game != "coins":
        timers |= (state.zap_wait < 0) | (state.zap_wait > who.zap_cooldown)
    if env.game == "cleanup":
        timers |= (state.clean_wait < 0) | (state.clean_wait > who.clean_cooldown)
    if env.game == "coins":
        timers |= (state.bias_left < 0) | (state.bias_left > jnp.max(who.spawn_bias_steps))
        timers |= (state.bias_agent < 0) | (state.bias_agent >= n)
        left = jnp.any((state.coin < 0) | (state.coin > n)) | jnp.any(at(board.coin_cells, state.coin, state.cell) > 0)
    else:
        # Nobody stands on an apple: what was there, or grew there, has been taken.
        left = jnp.any((at(board.apple_cells, state.apple, state.cell) > 0) & present)
    return {name: jnp.any(value) for name, value in bad.items()} | {"timers": jnp.any(timers), "ground": left}


def at(cells: np.ndarray, there: jax.Array, cell: jax.Array) -> jax.Array:
    """int32[N]: what of `there` [K], on `cells` [K], is on each agent's cell; 0 elsewhere."""
    return jnp.sum((cell[:, None] == cells) * there.astype(jnp.int32), axis=1)


def of_motion(env: Any, old: Any, new: Any, actions: jax.Array) -> jax.Array:
    """Agents go and turn only as they said, and come back on the cells of their group."""
    active, board = old.present, env.board
    sides = np.array([0, 0, 2, 3, 1, 0, 0, 0, 0])
    moves = (actions >= FORWARD) & (actions <= STEP_RIGHT)
    target = jnp.asarray(board.step_to)[(old.heading + jnp.asarray(sides)[actions]) % 4, old.cell]
    turned = (old.heading + jnp.where(actions == TURN_RIGHT, 1, jnp.where(actions == TURN_LEFT, 3, 0))) % 4
    sure = old.roles.speed >= 1
    never = old.roles.speed <= 0
    goes = (new.cell == old.cell) | (moves & (new.cell == target) & ~never)
    turns = (new.heading == turned) & ~never | (new.heading == old.heading) & (~sure | (turned == old.heading))
    back = ~active & new.present
    group = jnp.max(jnp.where(new.cell[:, None] == board.spawn_cells, board.spawn_group + 1, 0), axis=1)
    returns = group == old.roles.respawn_group + 1
    same = (new.cell == old.cell) & (new.heading == old.heading)
    return jnp.any(jnp.where(active, ~(goes & turns), jnp.where(back, ~returns, ~same)))


def of_beams(env: Any, old: Any, new: Any, actions: jax.Array, info: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Shots are fired by those who can, hits and those hit agree, and waiting and being away take their time."""
    who, active = old.roles, old.present
    removal = env.numbers.removal_steps
    fires = active & (actions == ZAP) & (old.zap_wait == 0) & who.can_zap
    shots = info["zaps_fired"] != fires
    wait = jnp.where(fires, who.zap_cooldown, jnp.where(active, jnp.maximum(old.zap_wait - 1, 0), old.zap_wait))
    waits = new.zap_wait != wait
    n = env.num_agents
    shots |= (info["zap_hits"] > 0) & ~(fires & (who.zap_length > 0)) | (info["zap_hits"] > n - 1)
    shots |= (info["zapped"] > 0) & ~active | (info["zapped"] > jnp.sum(fires))
    shots |= jnp.sum(info["zap_hits"]) != jnp.sum(info["zapped"])
    if env.game == "cleanup":
        cleans = active & (actions == CLEAN) & (old.clean_wait == 0)
        shots |= (info["cleans_fired"] != cleans) | ((info["cleaned"] > 0) & ~(cleans & (who.clean_length > 0)))
        wait = jnp.where(
            cleans, who.clean_cooldown, jnp.where(active, jnp.maximum(old.clean_wait - 1, 0), old.clean_wait)
        )
        waits |= new.clean_wait != wait
    away = jnp.where(active, jnp.where(info["zapped"] > 0, removal, 0), old.away - 1)
    # Who finds no free spawn cell stays away; then as many cells of its group are taken as others came or stood there.
    stuck = ~active & (old.away == 1) & (new.away == 1)
    own = env.board.spawn_group == who.respawn_group[:, None]  # [N, S]
    there = jnp.any((new.cell[:, None] == env.board.spawn_cells) & new.present[:, None], axis=0)
    stays = (new.away != away) & ~(stuck & jnp.all(~own | there, axis=1))
    return {"shots": jnp.any(shots), "waits": jnp.any(waits | stays)}


def of_apples(env: Any, old: Any, new: Any, info: dict[str, jax.Array]) -> jax.Array:
    """Apples go only where an agent that was active stood, who then reports it, and grow only where they may."""
    rules, cells, active, ate = env.numbers, env.board.apple_cells, old.present, info["apples"]
    seen = at(cells, old.apple, new.cell)  # on the cell that each went to; who was hit still lies there
    on_apple_cell = at(cells, jnp.ones(len(cells)), new.cell)
    most = on_apple_cell
    if rules.growth == "before" and rules.regrow_under_agents:
        most += at(cells, ~old.apple, old.cell)
    if rules.growth == "after" and not rules.regrow_under_agents:
        most = seen
    bad = jnp.any((active & (ate < seen)) | (ate > most)) | jnp.any(~active & (ate > 0))
    gone, came = old.apple & ~new.apple, new.apple & ~old.apple
    visited = jnp.any((new.cell[:, None] == cells) & (active & (ate > 0))[:, None], axis=0)
    bad |= jnp.any(gone & ~visited)
    bad |= jnp.any(new.items != old.items + ate)
    if env.game == "harvest":
        near = old.apple_before if rules.growth == "deferred" else old.apple
        bad |= jnp.any(came & (count_near(near, env.board.neighbours(cells, rules.neighbour_radius2)) == 0))
        if rules.growth == "deferred":
            bad |= jnp.any(new.apple_before != old.apple) | jnp.any(came & old.apple_before)
        return bad
    decided = jnp.sum(old.waste) - (jnp.sum(info["cleaned"]) if rules.growth == "after" else 0)
    return bad | (jnp.any(came) & (decided >= rules.depletion * env.capacity))


def of_waste(env: Any, old: Any, new: Any, info: dict[str, jax.Array]) -> jax.Array:
    """Waste goes only where it is reported cleaned, and comes one at a time, when it may."""
    rules, cleaned = env.numbers, jnp.sum(info["cleaned"])
    appears = jnp.sum(new.waste) - jnp.sum(old.waste) + cleaned
    bad = (appears < 0) | (appears > 1) | (jnp.sum(old.waste & ~new.waste) > cleaned)
    bad |= (appears > 0) & (old.step < rules.waste_delay)
    bad |= jnp.any(info["waste_share"] != jnp.sum(new.waste) / np.float32(env.capacity))
    if rules.waste_limit is not None:
        decided = jnp.sum(old.waste) - (cleaned if rules.growth == "after" else 0)
        bad |= (appears > 0) & (decided >= rules.waste_limit * env.capacity)
    return bad


def of_coins(env: Any, old: Any, new: Any, info: dict[str, jax.Array]) -> jax.Array:
    """Coins go only where an agent took one, which is booked as its own or as robbed, and come as the bias has it."""
    cells, index = env.board.coin_cells, np.arange(env.num_agents)
    coin = at(cells, old.coin, new.cell)
    own, other = info["coins_own"], info["coins_other"]
    bad = jnp.any((coin > 0) & ((own != (coin == index + 1)) | (other != (coin != index + 1))))
    bad |= jnp.any((own < 0) | (other < 0) | (own + other > at(cells, jnp.ones(len(cells)), new.cell)))
    under = jnp.any(new.cell[:, None] == cells, axis=0)
    bad |= jnp.any((old.coin > 0) & (new.coin != jnp.where(under, 0, old.coin)))
    taken = jnp.sum((coin[:, None] == index + 1) & (coin[:, None] > 0) & ~np.eye(env.num_agents, dtype=bool), axis=0)
    bad |= jnp.any(info["robbed"] < taken) | (jnp.sum(info["robbed"]) != jnp.sum(other))
    bad |= jnp.any(new.items != old.items + own + other)
    came = (old.coin == 0) & (new.coin > 0)
    steady = (old.bias_left > 0) & (jnp.sum(other) == 0)
    bad |= steady & (jnp.any(came & (new.coin != old.bias_agent + 1)) | (new.bias_agent != old.bias_agent))
    return bad | ((jnp.sum(other) == 0) & (new.bias_left != jnp.maximum(old.bias_left - 1, 0)))


def of_rewards(env: Any, old: Any, reward: jax.Array, info: dict[str, jax.Array]) -> jax.Array:
    """Rewards are what `info` and the roles come to, and all numbers are finite."""
    who = old.roles
    due = jnp.where(old.present, who.step_reward, 0.0)
    if env.game == "coins":
        due += (info["coins_own"] + info["coins_other"]) * who.apple_reward
        # Two agents: what robs one is the other.
        due += info["robbed"] * jnp.flip(who.mismatch_penalty_to_other)
    else:
        due += info["apples"] * who.apple_reward + info["zaps_fired"] * who.zap_reward
        due += info["zap_hits"] * who.zap_hit_reward + info["zapped"] * who.zapped_reward
    if env.game == "cleanup":
        due += info["cleans_fired"] * who.clean_shot_reward + info["cleaned"] * who.clean_reward
    finite = jnp.all(jnp.isfinite(reward)) & jnp.all(jnp.isfinite(info["mean_distance"]))
    return ~finite | jnp.any(jnp.abs(reward - due) > 1e-4 * (1 + jnp.abs(due)))


def of_info(new: Any, info: dict[str, jax.Array]) -> jax.Array:
    """Whereabouts in `info` are those of the state."""
    present = new.away == 0
    return jnp.any(info["removed"] == present) | jnp.any(info["cell"] != jnp.where(present, new.cell, -1))


def of_observation(env: Any, state: Any) -> jax.Array:
    """Codes in range, each agent at its own cell of its window, each other one that it sees shown once, the removed
    blind, and the ground of the cells that agents stand on as the map has it."""
    codes = env.symbols(state)
    ground, agent = codes[..., 0], codes[..., 1]
    (ahead, across), n = env.view, env.num_agents
    here = (ahead == 0) & (across == 0)
    present = state.present
    top = maps.OTHER_COIN if env.game == "coins" else maps.APPLE
    low = maps.OWN_COIN if env.game == "coins" else maps.WASTE
    legal = (ground <= maps.FLOOR) | ((ground >= low) & (ground <= top))
    if env.game == "cleanup":
        legal |= ground == maps.RIVER
    if env.game == "harvest":
        legal &= ground != maps.WASTE
    bad = jnp.any(~legal) | jnp.any(agent > maps.CLEAN_BEAM)
    bad |= jnp.any((agent == maps.SELF) != (here & present[:, None, None]))
    bad |= jnp.any(((ground == maps.UNSEEN) & (agent > 0)) | (~present[:, None, None] & (ground > 0)))
    bad |= jnp.any(((ground == maps.WALL) | (ground == maps.OUTSIDE)) & (agent > 0))
    shown = jnp.sum((agent >= maps.OTHER) & (agent < maps.ZAP_BEAM), axis=(1, 2))
    sees = env.visible(state) & ~np.eye(n, dtype=bool)
    bad |= jnp.any(shown != jnp.sum(sees, axis=1))
    far = np.maximum(np.abs(ahead), np.abs(across)) > state.roles.view[:, None, None]
    return bad | jnp.any((ground == maps.UNSEEN) != (far | ~present[:, None, None]))


INVARIANTS = ("shared_cell", "on_wall", "heading", "timers", "motion", "shots", "waits", "ground", "rewards", "info")
INVARIANTS += ("observation", "ends")


def violations(env: Any, old: Any, actions: jax.Array, outcome: Any, last: Any, new: Any) -> jax.Array:
    """Which of `INVARIANTS` a step violated, bool[I]: from `old` to `last` and, where that ends an episode, `new`."""
    info = outcome.info
    none = jnp.zeros((), jnp.bool_)
    bad = {"shots": none, "waits": none} | of_state(env, last)
    started = of_state(env, new)
    bad = {name: bad[name] | started[name] if name in started else bad[name] for name in bad}
    if env.game == "coins":
        bad["ground"] |= of_coins(env, old, last, info)
    else:
        bad |= of_beams(env, old, last, actions, info)
        bad["ground"] |= of_apples(env, old, last, info)
    if env.game == "cleanup":
        bad["ground"] |= of_waste(env, old, last, info)
    bad["motion"] = of_motion(env, old, last, actions)
    bad["rewards"] = of_rewards(env, old, outcome.reward, info)
    bad["info"] = of_info(last, info)
    bad["observation"] = of_observation(env, new)
    due = old.step + 1 == env.max_steps
    ends = outcome.terminated | (outcome.truncated != due) | (last.step != old.step + 1) | (last.done != due)
    ends |= new.step != jnp.where(due, 0, old.step + 1)
    same = jax.tree.map(lambda a, b: jnp.any(a != b), old.roles, new.roles)
    bad["ends"] = ends | jnp.any(jnp.stack(jax.tree.leaves(same)))
    return jnp.stack([bad[name] for name in INVARIANTS])


def soak(env: Any, key: jax.Array, state: Any, steps: int) -> tuple[Any, jax.Array, jax.Array]:
    """`(state, counts, events)` after `steps` random steps of environments [R, E]: violations int32[R, I], and per
    composition how many things were taken, agents hit, and episodes ended, int32[R, 3]."""
    shape = state.step.shape
    allowed = ACTIONS[env.num_actions > ACTIONS]

    def one(key: jax.Array, state: Any, actions: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        new, outcome, last = env.advance_and_reset(key, state, actions)
        info = outcome.info
        names = [name for name in ("apples", "coins_own", "coins_other") if name in info]
        took = jnp.sum(jnp.stack([info[name] for name in names]))
        hit = jnp.sum(info["zapped"]) if "zapped" in info else jnp.zeros((), jnp.int32)
        events = jnp.stack([took, hit, outcome.done.astype(jnp.int32)])
        return new, violations(env, state, actions, outcome, last, new), events

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        state, counts, events = carry
        key_act, key_step = jax.random.split(key)
        actions = jnp.asarray(allowed)[jax.random.randint(key_act, (*shape, env.num_agents), 0, len(allowed))]
        keys = jax.random.split(key_step, shape)
        state, bad, seen = jax.vmap(jax.vmap(one))(keys, state, actions)
        return (state, counts + jnp.sum(bad, axis=1, dtype=jnp.int32), events + jnp.sum(seen, axis=1)), None

    zeros = jnp.zeros((shape[0], len(INVARIANTS)), jnp.int32), jnp.zeros((shape[0], 3), jnp.int32)
    (state, counts, events), _ = jax.lax.scan(step, (state, *zeros), jax.random.split(key, steps))
    return state, counts, events


def run(
    args: Args, game: str, rules: str, settings: dict[str, Any], steps: int, seconds: float
) -> list[dict[str, Any]]:
    """Rows of one setting, one per composition of roles."""
    began = time.perf_counter()
    env: Any = envs_jax.make(game, rules=rules, max_steps=args.max_steps, **settings)
    board = settings.get("map", env.usual_map())
    named = compositions(env)
    who = jax.tree.map(lambda *leaves: np.stack(leaves), *(env.make_roles(spec) for spec in named.values()))
    per = args.envs // len(named)
    key = jax.random.key(args.seed)
    start = jax.vmap(jax.vmap(env.init, in_axes=(0, None)))
    state = start(jax.random.split(key, (len(named), per)), who)
    program = jax.jit(lambda key, state: soak(env, key, state, args.chunk)).lower(key, state).compile()
    compiled = time.perf_counter() - began
    counts, events = np.zeros((len(named), len(INVARIANTS)), np.int64), np.zeros((len(named), 3), np.int64)
    calls = 0
    while calls * args.chunk * args.envs < steps and (calls == 0 or time.perf_counter() - began < seconds):
        state, more, seen = program(jax.random.fold_in(key, calls + 1), state)
        counts, events, calls = counts + np.asarray(more), events + np.asarray(seen), calls + 1
    spent = time.perf_counter() - began
    print(
        f"{game} {rules} {board}: {calls * args.chunk * args.envs} steps in {spent:.1f} s, "
        f"{compiled:.1f} s of it compiling; violations {counts.sum()}",
        flush=True,
    )
    rows = []
    for i, name in enumerate(named):
        row = {"environment": game, "rules": rules, "map": board, "roles": name}
        row |= {"agents": env.num_agents, "steps": calls * args.chunk * per, "seconds": round(spent / len(named), 1)}
        row |= dict(zip(("taken", "hits", "episodes"), events[i].tolist(), strict=True))
        rows.append(row | dict(zip(INVARIANTS, counts[i].tolist(), strict=True)))
    return rows


def main(args: Args) -> None:
    if args.envs % 4 or args.envs < 4:
        sys.exit(f"error: --envs is {args.envs}; allowed: a multiple of 4, the number of compositions")
    rows: list[dict[str, Any]] = []

    def soaked() -> Iterator[dict[str, Any]]:
        for game in args.games:
            began, settings = time.perf_counter(), [(rules, options) for rules in RULES for options in MAPS[game]]
            for i, (rules, options) in enumerate(settings):
                left = args.seconds - (time.perf_counter() - began)
                found = run(args, game, rules, options, -(-args.steps // len(settings)), left / (len(settings) - i))
                rows.extend(found)
                yield from found
            done = sum(row["steps"] for row in rows if row["environment"] == game)
            print(f"{game}: {done} steps of {args.steps} in {time.perf_counter() - began:.0f} s", flush=True)

    write_table(args.out, soaked(), " ".join(["python", *sys.argv]))
    found = {name: sum(row[name] for row in rows) for name in INVARIANTS}
    if any(found.values()):
        sys.exit(f"violations: {', '.join(f'{name} {count}' for name, count in found.items() if count)}")
    print(f"no violations in {sum(row['steps'] for row in rows)} steps")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))

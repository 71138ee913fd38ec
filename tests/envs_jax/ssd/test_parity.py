"""`envs_jax.ssd` step by step against the oracle, given the same words and actions, for every game and set of rules.

One program per environment plays many episodes, with other roles and other mixtures of actions; the oracle follows on
the host.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import CLEAN_BEAM, ZAP_BEAM, World

import envs_jax
from envs_jax.testing.tools import jit_for_once

RULES = ("meltingpot", "hughes2018", "socialjax")
BLOCK = 10  # steps between two observations that are compared

# Crowded, open at the edge in places, with walls in the way of beams and few cells to come back on.
ORCHARD = """
WWWWWW  WWWWW
W PAAAAAP   W
 PAAWAAPAAQ W
W PAAAAAAWA W
W   AAQAAAP W
  PQAAAAAAP  
WWWPWWWPWWWWW
"""
RIVER_BANK = """
WWWW   WWWWW
W~FHF PAAAPW
~HFHPFHAAAP 
WFHWHPFHAWAW
 HFHPF~AAQAW
W~FQHPPAAA W
WWWW  WWWWWW
"""
COIN_ROOM = """
CCCCC
CPCWC
CCPC 
 CCCP
CWPCC
"""

MIXED = {  # for ten agents, cut to as many as there are
    "apple_reward": [0.5, 1, 1.5, 2, -1, 1, 1, 1, 1, 0.25],
    "step_reward": [0, -0.125, 0, 0.25, 0, 0, 0, -0.5, 0, 0],
    "zap_length": [0, 1, 2, 3, 4, 5, 7, 3, 5, 1],
    "zap_radius": [0, 1, 2, 0, 1, 2, 3, 4, 2, 1],
    "zap_cooldown": [0, 1, 2, 3, 0, 0, 1, 0, 5, 0],
    "zap_reward": [-1, 0, 0, -0.25, 0, 0, 0, 0, 0, -1],
    "zap_hit_reward": [0, 0.5, 0, 0.25, 0, 0, 1, 0, 0, 0],
    "zapped_reward": [-50, 0, -1, 0, 0, -2, 0, 0, -3, 0],
    "can_zap": [1, 1, 1, 1, 1, 1, 1, 1, 0, 1],
    "speed": [1, 0.5, 1, 0.9, 1, 0.25, 1, 1, 0, 1],
    "view": [1, 2, 3, 4, 5, 7, 9, 9, 0, 6],
    "spawn_group": [0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    "respawn_group": [0, 1, 1, 0, 1, 1, 0, 0, 1, 1],
    "role_id": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
}
CLEANERS = {
    "clean_length": [5, 1, 0, 3, 6, 2, 1, 3],
    "clean_radius": [2, 0, 1, 1, 3, 2, 1, 0],
    "clean_cooldown": [0, 1, 2, 3, 0, 0, 4, 0],
    "clean_shot_reward": [-0.1, 0, 0, -0.5, 0, 0, 0, 0],
    "clean_reward": [0, 1, 0, 0.5, -0.1, 0, 0, 0],
}
COLLECTORS = {
    "apple_reward": [1, 0.5, 1.5, 1],
    "mismatch_penalty_to_other": [-1, -3, -2, 0],
    "spawn_bias_steps": [3, 5, 0, 1],
    "step_reward": [0, 0, -0.25, 0],
    "speed": [1, 0.5, 1, 0.9],
    "view": [1, 3, 9, 0],
}


def cut(abilities, num_agents):
    return {name: values[:num_agents] for name, values in abilities.items()}


NEARER = {"zap_length": [0, 1, 2, 3, 4, 5, 5, 3, 5, 1], "zap_radius": [0, 1, 2, 0, 1, 2, 2, 1, 2, 1]}
LESS = cut(MIXED, 8) | cut(CLEANERS, 8)
HARVEST_ROLES = ["5high_5low", "5standard_5wide_zapper"]
CLEANUP_ROLES = ["high_low", "strong_weak_cleaner", "cleaner_consumer"]
COINS_ROLES = ["1high_1low", "1standard_1spawn_biased"]

# By name: game, settings, compositions, episodes for each, steps of an episode.
CASES = {
    "harvest, crowded": (
        "harvest",
        {"num_agents": 10, "map": ORCHARD, "roles": MIXED, "regrowth": (0.02, 0.1, 0.3, 1.0)},
        [*HARVEST_ROLES, MIXED],
        6,
        150,
    ),
    "harvest": ("harvest", {"num_agents": 10}, [*HARVEST_ROLES, MIXED | NEARER | {"spawn_group": 0}], 4, 100),
    "cleanup, crowded": (
        "cleanup",
        {"num_agents": 8, "map": RIVER_BANK, "roles": LESS, "apple_growth": 0.4},
        [*CLEANUP_ROLES, LESS],
        5,
        140,
    ),
    "cleanup": ("cleanup", {"num_agents": 8}, CLEANUP_ROLES, 4, 100),
    "coins, crowded": ("coins", {"num_agents": 2, "map": COIN_ROOM, "coin_rate": 0.08}, COINS_ROLES, 6, 150),
    "coins": ("coins", {"num_agents": 2, "coin_rate": 0.05}, COINS_ROLES, 4, 100),
    "coins, four agents": (
        "coins",
        {"num_agents": 4, "map": COIN_ROOM, "roles": COLLECTORS, "coin_rate": 0.3},
        [COLLECTORS],
        6,
        150,
    ),
}

# Actions 0 to 8 by weight; the last ones are left out where a game has fewer.
MIXTURES = np.array([[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 8, 1, 2, 2, 2, 2, 1, 1], [1, 3, 0, 1, 1, 2, 2, 6, 6]], np.float32)


@functools.partial(jit_for_once, static_argnums=(0, 3))
def play(env, who, keys, num_steps):
    """Episodes [E] with roles `who` [E, N], and what happened in them: words, actions, states, what agents saw."""

    def one(who, key, mixture):
        key_start, key_steps = jax.random.split(key)
        words = env.draw_start(key_start)
        state = env.start(who, words)

        def step(state, key):
            key_act, key_draw = jax.random.split(key)
            actions = jax.random.categorical(key_act, jnp.log(mixture), shape=(env.num_agents,))
            draws = env.draw(key_draw)
            state, outcome = env.play(state, actions, draws)
            state = state.replace(step=state.step + 1)
            return state, {
                "actions": actions,
                "draws": draws,
                "reward": outcome.reward,
                "info": outcome.info,
                "visible": env.visible(state),
                "beam": beam_board(env, state),
                "state": state.replace(roles=None),
            }

        def block(state, keys):
            state, record = jax.lax.scan(step, state, keys)
            return state, (record, env.observe(state))

        keys = jax.random.split(key_steps, (num_steps // BLOCK, BLOCK))
        _, (record, seen) = jax.lax.scan(block, state, keys)
        return {
            "start": {"words": words, "state": state.replace(roles=None), "seen": env.observe(state)},
            "steps": jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), record),
            "seen": seen,
        }

    return jax.vmap(one)(who, keys, jnp.asarray(MIXTURES)[np.arange(len(keys)) % 3, : env.num_actions])


def beam_board(env, state):
    """uint8[height, width]: where beams show, in the codes of an observation."""
    shown = jnp.asarray([0, CLEAN_BEAM, ZAP_BEAM])[env.beams(state)]
    return shown.reshape(env.board.height, env.board.width)


def oracle_of(env, who):
    """The oracle of this environment's map and rules, with these roles [N]."""
    absent = {"beams_pass": False, "agents_block_clean": False, "beam_side_start": 0, "removal_steps": 0}
    rules = absent | dataclasses.asdict(env.numbers)
    rules["window"] = env.window or rules["window"]
    if env.game == "cleanup":
        rules["max_growth"] = rules.pop("apple_growth")
        rules["denominator"] = "waste_and_river" if rules.pop("count_river") else "waste"
    abilities = {field.name: np.asarray(getattr(who, field.name)) for field in dataclasses.fields(who)}
    return World(env.game, env.board.text, rules, abilities)


def derived_info(world):
    """What `info` holds beside events."""
    n = world.num_agents
    here = [i for i in range(n) if world.away[i] == 0]
    apart = np.zeros(n)
    for i in here:
        (row, col), others = world.position[i], [world.position[j] for j in here if j != i]
        apart[i] = sum(abs(row - r) + abs(col - c) for r, c in others) / max(1, len(others))
    cells = [world.board.number(world.position[i]) if i in here else -1 for i in range(n)]
    extra = {"waste_share": np.full(n, world.pollution())} if world.game == "cleanup" else {}
    return {"cell": np.array(cells), "mean_distance": apart} | extra


def expect(where, name, got, expected):
    """Equal, or (for floats) nearly; the first difference in words."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, f"{where}, {name}: shape {got.shape}, and by the oracle {expected.shape}"
    if np.issubdtype(got.dtype, np.floating):
        same = np.abs(got - expected) <= 1e-4 + 1e-5 * np.abs(expected)
    else:
        same = got == expected
    if not np.all(same):
        at = tuple(np.argwhere(~same)[0].tolist())
        values = f"{got[at]}, and by the oracle {expected[at]}" if at else f"{got}, and by the oracle {expected}"
        raise AssertionError(f"{where}: {name}{list(at)} is {values}")


def expect_state(where, env, world, state):
    for name, value in world.state().items():
        unused = name in ("apple_before", "grew") and env.numbers.growth != "deferred"
        if name != "beam" and hasattr(state, name) and not unused:
            expect(where, f"state.{name}", getattr(state, name), value)


def follow(where, env, who, record, counts):
    """One episode in the oracle; `counts` adds up what happened."""
    world = oracle_of(env, who)
    world.start(record["start"]["words"])
    expect_state(f"{where}, start", env, world, record["start"]["state"])
    expect(f"{where}, start", "observation", record["start"]["seen"], world.observe())
    steps = record["steps"]
    items = np.zeros(env.num_agents, np.int64)
    for t in range(len(steps["actions"])):
        here = f"{where}, step {t}"
        now = jax.tree.map(lambda leaf, t=t: leaf[t], steps)
        rewards, info = world.step(now["actions"], now["draws"])
        expect_state(here, env, world, now["state"])
        expect(here, "beams", now["beam"], world.state()["beam"])
        expect(here, "reward", now["reward"], rewards)
        expected = info | derived_info(world)
        for name, value in now["info"].items():
            expect(here, f"info[{name}]", value, expected[name])
        items += info["apples"] + info["coins_own"] + info["coins_other"]
        expect(here, "state.items", now["state"].items, items)
        expect(here, "visible", now["visible"], world.visible())
        if (t + 1) % BLOCK == 0:
            expect(here, "observation", record["seen"][t // BLOCK], world.observe())
        for name, value in info.items():
            counts[name] = counts.get(name, 0) + int(value.sum())
    counts["steps"] = counts.get("steps", 0) + len(steps["actions"])


HAPPENS = {
    "harvest": ("apples", "zaps_fired", "zap_hits"),
    "cleanup": ("apples", "zaps_fired", "zap_hits", "cleans_fired", "cleaned"),
    "coins": ("coins_own", "coins_other", "robbed"),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("case", CASES)
def test_parity(case, rules):
    game, settings, compositions, episodes, num_steps = CASES[case]
    if (case, rules) == ("cleanup, crowded", "meltingpot"):
        settings = settings | {"removal_steps": 4}  # Of 51 steps, little would be seen in a short episode.
    env = envs_jax.make(game, rules=rules, **settings)
    roles = [env.make_roles(spec) for spec in compositions for _ in range(episodes)]
    who = jax.tree.map(lambda *leaves: np.stack(leaves), *roles)
    key = jax.random.key(list(CASES).index(case) * 10 + RULES.index(rules))
    record = jax.device_get(play(env, who, jax.random.split(key, len(roles)), num_steps))
    counts: dict[str, int] = {}
    for i, own in enumerate(roles):
        where = f"{case}, {rules}, roles {i // episodes}, episode {i % episodes}"
        follow(where, env, own, jax.tree.map(lambda leaf, i=i: leaf[i], record), counts)
    assert counts["steps"] == len(roles) * num_steps
    if "map" in settings:
        assert all(counts[name] > counts["steps"] // 50 for name in HAPPENS[game]), counts

"""The rules of Cleanup, Harvest and Coins: maps, moves, beams, frequencies, removal, observations, roles, bad input."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from scipy import stats

import envs_jax
from envs_jax.base import select
from envs_jax.ssd import grid, maps
from envs_jax.ssd.roles import ABILITIES, ROLES
from envs_jax.testing.tools import jit_for_once
from envs_jax.wrappers import EpisodeStatistics

NOOP, FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT, ZAP, CLEAN = range(9)
NORTH, EAST, SOUTH, WEST = range(4)
RULES = ("meltingpot", "hughes2018", "socialjax")
NEVER = 2**32 - 1
RARE = 1e-4  # how often a test of a frequency, with other seeds, would fail


@functools.partial(jit_for_once, static_argnums=0)
def step(env, state, actions, draws):
    state, outcome = env.play(state, actions, draws)
    return state.replace(step=state.step + 1), outcome


@functools.partial(jit_for_once, static_argnums=0)
def observe(env, state):
    return env.observe(state), env.visible(state)


@functools.partial(jit_for_once, static_argnums=0)
def step_often(env, state, keys):
    """The same state after one step in which nobody does anything, for each key."""
    nobody = jnp.zeros(env.num_agents, jnp.int32)
    return jax.vmap(lambda key: env.play(state, nobody, env.draw(key))[0].replace(roles=None))(keys)


@functools.partial(jit_for_once, static_argnums=(0, 3))
def random_play(env, who, keys, num_steps):
    """States [E, T + 1] and outcomes [E, T] of random episodes with roles `who` [N]."""

    def one(key):
        key_start, key_steps = jax.random.split(key)
        start = env.start(who, env.draw_start(key_start))

        def body(state, key):
            key_act, key_step = jax.random.split(key)
            actions = jax.random.randint(key_act, (env.num_agents,), 0, env.num_actions)
            state, outcome = env.play(state, actions, env.draw(key_step))
            state = state.replace(step=state.step + 1)
            return state, (state, outcome, env.visible(state))

        _, (states, outcomes, visible) = jax.lax.scan(body, start, jax.random.split(key_steps, num_steps))
        states = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)
        return states, outcomes, visible

    return jax.vmap(one)(keys)


def words(env, **given):
    """The words of a step: lower indices first, everybody moves, nothing happens by chance, unless `given`."""
    drawn = jax.eval_shape(env.draw, jax.random.key(0))
    draws = {name: np.full(word.shape, NEVER, np.uint32) for name, word in drawn.items()}
    draws |= {"order": np.arange(env.num_agents, dtype=np.uint32)[::-1]}
    draws |= {name: np.zeros(env.num_agents, np.uint32) for name in ("speed", "heading", "spawn")}
    return draws | {name: np.asarray(value, np.uint32) for name, value in given.items()}


def at(env, *poses, who=None, **fields):
    """A state at the start with agents at these (row, column, heading)."""
    draws = {name: np.zeros(env.num_agents, np.uint32) for name in ("spawn", "heading")}
    state = env.start(env.own_roles if who is None else who, draws)
    cells = [row * env.board.width + col for row, col, _ in poses]
    fields = {"cell": np.array(cells, np.int32), "heading": np.array([h for *_, h in poses], np.int32)} | fields
    return state.replace(**{name: jnp.asarray(value) for name, value in fields.items()})


def play(env, state, *actions, **given):
    return step(env, state, np.array(actions, np.int32), words(env, **given))


def likely(count, trials, probability, tests=1):
    """Whether a count lies where all of `tests` such counts lie with 99.99 %."""
    tail = RARE / tests / 2
    return stats.binom.ppf(tail, trials, probability) <= count <= stats.binom.isf(tail, trials, probability)


def uniform(counts):
    return stats.chisquare(counts).pvalue > RARE


# --- Maps ---


@pytest.mark.parametrize(
    ("game", "name", "counts"),
    [
        ("harvest", "open", {"A": 64, "P": 60, "Q": 2}),
        ("harvest", "closed", {"A": 64, "P": 60, "Q": 2}),
        ("harvest", "partnership", {"A": 64, "P": 60, "Q": 2}),
        ("harvest", "diamonds", {"A": 120, "P": 22, "Q": 0, "W": 0}),
        ("harvest", "ssd", {"A": 155, "P": 20, "Q": 0}),
        ("harvest", "grove", {"A": 57, "P": 15, "Q": 0}),
        ("cleanup", "standard", {"A": 122, "F": 79, "H": 68, "~": 20, "P": 19}),
        ("cleanup", "ssd", {"A": 103, "F": 56, "H": 63, "~": 12, "P": 10}),
        ("coins", "12x12", {"C": 142, "P": 2, "W": 52}),
        ("coins", "socialjax", {"C": 174, "P": 2, "W": 0}),
    ],
)
def test_shipped_maps(game, name, counts):
    text = maps.load(game, name)
    assert {character: text.count(character) for character in counts} == counts
    board, other = maps.parse(text), oracle.Board(text)
    assert (board.height, board.width) == (other.height, other.width)
    for mine, theirs in (
        (board.apple_cells, other.apple_cells),
        (board.waste_cells, other.waste_cells),
        (board.coin_cells, other.coin_cells),
        (board.spawn_cells, other.spawn_cells),
    ):
        assert mine.tolist() == [other.number(cell) for cell in theirs]
    assert board.starts_dirty.tolist() == other.starts_with_waste
    assert board.spawn_group.tolist() == other.spawn_groups
    assert {"A": len(board.apple_cells), "C": len(board.coin_cells)} == {c: text.count(c) for c in "AC"}


def test_a_map_may_have_one_row(tmp_path):
    (tmp_path / "row.txt").write_text("CCPPC\n")
    for text in ("CCPPC\n", str(tmp_path / "row.txt")):
        board = envs_jax.make("coins", map=text).board
        assert (board.height, board.width, board.coin_cells.tolist()) == (1, 5, [0, 1, 4])


def test_usual_maps_and_sizes_of_capacity():
    assert {(env := envs_jax.make("harvest", rules=rules)).num_agents for rules in RULES} == {7}
    assert len(env.board.apple_cells) == 64
    for rules, cells in (("meltingpot", 147), ("hughes2018", 119), ("socialjax", 167)):
        assert envs_jax.make("cleanup", rules=rules).capacity == cells


# --- Moves ---


def test_moves_on_random_boards():
    rng = np.random.default_rng(0)
    num_boards, n = 4000, 8
    board = maps.parse("W    \n  W  \n     \n   W ")
    floor = np.flatnonzero(~board.wall[:-1])
    cell = np.array([rng.permutation(floor)[:n] for _ in range(num_boards)], np.int32)
    target = board.step_to[rng.integers(0, 4, (num_boards, n)), cell]
    target = np.where(rng.random((num_boards, n)) < 0.2, cell, target).astype(np.int32)
    present = rng.random((num_boards, n)) < 0.9
    order = rng.integers(0, 2**32, (num_boards, n), np.uint32)

    @jit_for_once
    def resolve(cell, target, present, order):
        return jax.vmap(lambda c, t, p, o: grid.resolve_moves(c, t, p, grid.precedes(o)))(cell, target, present, order)

    result = np.array(resolve(cell, target, present, order))
    same = present[:, :, None] & present[:, None] & ~np.eye(n, dtype=bool)
    assert not (same & (result[:, :, None] == result[:, None])).any()  # nobody shares a cell
    swapped = (result[:, :, None] == cell[:, None]) & (result[:, None] == cell[:, :, None])
    assert not (same & swapped).any()
    wanted_swap = same & (target[:, :, None] == cell[:, None]) & (target[:, None] == cell[:, :, None])
    assert wanted_swap.any(axis=(1, 2)).mean() > 0.1
    assert ((result == cell) | (result == target)).all() and (result[~present] == cell[~present]).all()
    assert 0.3 < (result != cell)[present & (target != cell)].mean() < 0.9
    for b in range(num_boards):
        expected = oracle.resolve_moves(cell[b].tolist(), target[b].tolist(), present[b], oracle.ranked(order[b]))
        assert result[b].tolist() == expected


def test_trains_rings_and_swaps():
    cases = [
        ([0, 1, 2], [1, 2, 3], [1, 2, 3]),  # a train
        ([0, 1, 4], [1, 4, 0], [1, 4, 0]),  # a ring of three
        ([0, 1, 5], [1, 0, 6], [0, 1, 6]),  # a swap beside one that moves
        ([2, 0, 1], [2, 1, 2], [2, 0, 1]),  # a train behind one that stays
    ]
    before = np.triu(np.ones((3, 3), bool), 1)
    everyone = np.ones(3, bool)
    resolve = jit_for_once(jax.vmap(grid.resolve_moves, in_axes=(0, 0, None, None)))
    cell, target, expected = (np.array(part, np.int32) for part in zip(*cases, strict=True))
    np.testing.assert_array_equal(resolve(cell, target, everyone, before), expected)


def test_contested_cells_go_to_everyone_equally_often():
    """Three agents around a free cell, with the words of the environment's own draw."""
    env = envs_jax.make("harvest", map="   \nPPP\n P ", num_agents=3)
    cell, target = np.array([1, 3, 5], np.int32), np.full(3, 4, np.int32)
    keys = jax.random.split(jax.random.key(1), 30_000)

    @jit_for_once
    def winners(keys):
        def one(key):
            before = grid.precedes(env.draw(key)["order"])
            return grid.resolve_moves(cell, target, np.ones(3, bool), before) == 4

        return jax.vmap(one)(keys)

    won = np.array(winners(keys))
    assert (won.sum(axis=1) == 1).all() and uniform(won.sum(axis=0))


# --- Beams ---


@pytest.mark.parametrize("side_start", [0, 1])
def test_beams_reach_what_the_oracle_says(side_start):
    rng = np.random.default_rng(side_start)
    shape = grid.BeamShape(6, 3)
    board = maps.parse("\n".join(["A" * 9] * 8))
    cases = np.array(list(itertools.product(range(7), range(4), range(4))) * 20, np.int32)  # length, radius, heading
    length, radius, heading = cases.T
    count = len(cases)
    cell = rng.integers(0, board.num_cells, count, np.int32)
    blocked = rng.random((count, board.num_cells)) < rng.choice([0, 0.05, 0.2, 0.5], (count, 1))

    @jit_for_once
    def reach(cell, heading, length, radius, blocked):
        cells = grid.beam_cells(board, shape, cell, heading)
        stopping = jnp.pad(blocked, ((0, 0), (0, 1)), constant_values=True)  # so does the outside
        stops = jnp.take_along_axis(stopping, cells.reshape(count, -1), 1).reshape(cells.shape)
        return cells, grid.reached_by_beam(grid.first_stop(stops), stops.shape[2], length, radius, side_start)

    cells, hit = map(np.array, reach(cell, heading, length, radius, blocked))
    for i in range(count):
        row, col = divmod(int(cell[i]), board.width)
        blockers = {divmod(int(c), board.width) for c in np.flatnonzero(blocked[i])} - {(row, col)}
        expected = oracle.beam_cells(
            row, col, int(heading[i]), int(length[i]), int(radius[i]), side_start, board.height, board.width, blockers
        )
        got = [divmod(int(c), board.width) for c in cells[i][hit[i]] if c < board.num_cells]
        assert len(got) == len(set(got)) and set(got) == expected, (cases[i], row, col)


@pytest.mark.parametrize("width", [5, 32, 33, 70])
def test_what_beams_cover(width):
    """Also where a row takes more than one word, against the cells one by one."""
    rng = np.random.default_rng(width)
    board, shape, start = maps.parse("\n".join(["A" * width] * 9)), grid.BeamShape(4, 2), np.array([0, 0, 1, 0, 0])
    cell, heading = rng.integers(0, board.num_cells, (400, 3), np.int32), rng.integers(0, 4, (400, 3), np.int32)
    who, limit = rng.random((400, 3)) < 0.7, rng.integers(0, 6, (400, 3, 5))

    @jit_for_once
    @jax.vmap
    def lay(cell, heading, limit, who):
        cells = grid.beam_cells(board, shape, cell, heading)
        end = jnp.minimum(limit, jnp.sum(jnp.cumsum(cells == board.num_cells, axis=2) == 0, axis=2))  # inside the map
        return cells, end, grid.covered(board, cell, heading, start, end.astype(jnp.uint8), who)

    cells, end, got = map(np.array, lay(cell, heading, limit, who))
    ahead = np.arange(5)
    inside = (ahead >= start[:, None]) & (ahead < end[..., None]) & who[..., None, None]
    for i in range(len(cell)):
        assert set(np.flatnonzero(got[i])) == set(cells[i][inside[i]].tolist())


def test_spawn_cells_are_chosen_in_turn():
    """As by taking them off a list, and all arrangements equally often."""
    rng = np.random.default_rng(0)
    board = maps.parse("PQPPQPPQP\n" + "PP  P   Q")
    group = np.array([0, 1, 0, 0, 1, 0], np.int32)
    words = rng.integers(0, 2**32, (3000, 6), np.uint32)
    wanting, free = rng.random((3000, 6)) < 0.8, rng.random((3000, len(board.spawn_cells))) < 0.5
    place = jit_for_once(jax.vmap(lambda *args: grid.place(board, args[0], group, *args[1:])))
    placed, cell = map(np.array, place(words, wanting, free))
    for i in range(len(words)):
        left = [board.spawn_cells[free[i] & (board.spawn_group == g)].tolist() for g in (0, 1)]
        for agent in range(6):
            cells = left[group[agent]]
            assert placed[i, agent] == (wanting[i, agent] and bool(cells))
            if placed[i, agent]:
                assert cell[i, agent] == cells.pop(int(words[i, agent]) * len(cells) >> 32)
    three = maps.parse("P P\n P ")
    everyone = np.ones((6000, 3), bool)
    place = jit_for_once(jax.vmap(lambda *args: grid.place(three, args[0], np.zeros(3, np.int32), *args[1:])))
    _, cell = place(rng.integers(0, 2**32, (6000, 3), np.uint32), everyone, everyone)
    _, counts = np.unique(np.array(cell), axis=0, return_counts=True)
    assert len(counts) == 6 and uniform(counts)


# --- Frequencies ---


@pytest.mark.parametrize("rules", RULES)
def test_regrowth_by_number_of_neighbours(rules):
    env = envs_jax.make("harvest", map="\n".join(["P" + "A" * 9] + ["W" + "A" * 9] * 8), num_agents=1, rules=rules)
    board, chances = oracle.Board(env.board.text), env.numbers.regrowth
    apple = np.random.default_rng(0).random(len(board.apple_cells)) < 0.2
    alive = {cell for cell, there in zip(board.apple_cells, apple, strict=True) if there}
    near = np.array([sum(b in alive for b in cells) for cells in board.apple_neighbours(env.numbers.neighbour_radius2)])
    state = at(env, (0, 0, NORTH), apple=apple, apple_before=apple)
    after = np.array(step_often(env, state, jax.random.split(jax.random.key(2), 6000)).apple)
    assert after[:, apple].all()
    for k in range(4):
        cells = ~apple & (np.minimum(near, 3) == k)
        assert cells.sum() >= 2 and likely(after[:, cells].sum(), after[:, cells].size, chances[k], 4)
        assert k > 0 or not after[:, cells].any()


@pytest.mark.parametrize("rules", RULES)
def test_apple_growth_and_new_waste_by_share_of_waste(rules):
    env = envs_jax.make("cleanup", map="small", num_agents=2, rules=rules)
    total = len(env.board.waste_cells)
    rng = np.random.default_rng(3)
    for dirty in (0, 3, total // 3, total // 2, total):
        waste = rng.permutation(total) < dirty
        state = at(env, (3, 6, NORTH), (5, 6, NORTH), waste=waste, step=np.int32(100))
        after = jax.device_get(step_often(env, state, jax.random.split(jax.random.key(dirty), 3000)))
        share = dirty / (total + (env.board.text.count("~") if rules == "socialjax" else 0))
        chance = 0.05 * max(0, (0.4 - share) / 0.4)
        assert likely(np.sum(after.apple), after.apple.size, chance, 5)
        more = after.waste & ~waste
        chance = 0.5
        if rules == "hughes2018":
            chance = 1 - 0.5 ** (total - dirty) if share < 0.4 else 0
        assert likely(more.any(axis=1).sum(), len(more), chance if dirty < total else 0, 5)
        assert (more.sum(axis=1) <= 1).all() and after.waste[:, waste].all()
        if more.any():
            assert uniform(more.sum(axis=0)[~waste])


@pytest.mark.parametrize(("rules", "delay"), [("meltingpot", 50), ("hughes2018", 0), ("socialjax", 51)])
def test_waste_appears_from_its_step_on(rules, delay):
    env = envs_jax.make("cleanup", map="small", num_agents=2, rules=rules)
    for taken in range(max(0, delay - 1), delay + 2):
        clean = np.zeros(len(env.board.waste_cells), bool)
        state = at(env, (3, 6, NORTH), (5, 6, NORTH), waste=clean, step=np.int32(taken))
        state, _ = play(env, state, NOOP, NOOP, waste=0)
        assert state.waste.sum() == int(taken >= delay)


@pytest.mark.parametrize(
    ("word", "expected"),
    [(0, 0), (2**32 // 3, 0), (2**32 // 3 + 1, 1), (2**33 // 3, 1), (2**33 // 3 + 1, 2), (NEVER, 2)],
)
def test_waste_takes_the_clean_cell_that_its_whole_word_says(word, expected):
    env = envs_jax.make("cleanup", map="HHHHA\nPP   ", num_agents=2)
    state = at(env, (1, 0, NORTH), (1, 1, NORTH), waste=np.array([False, False, False, True]), step=np.int32(90))
    state, _ = play(env, state, NOOP, NOOP, waste=0, waste_cell=word)
    assert np.flatnonzero(state.waste).tolist() == [expected, 3]


@pytest.mark.parametrize(("rate", "rules"), [(None, "meltingpot"), (None, "socialjax"), (0.25, "meltingpot")])
def test_coins_appear_at_their_rate_and_in_both_colours(rate, rules):
    env = envs_jax.make("coins", rules=rules, coin_rate=rate)
    expected = {None: 0.0005 if rules == "meltingpot" else 1 - 0.9995**2}.get(rate, rate)
    state = env.init(jax.random.key(0))
    coin = np.array(step_often(env, state, jax.random.split(jax.random.key(4), 2000 if rate is None else 100)).coin)
    there = coin > 0
    assert likely(there.sum(), coin.size, expected, 2)
    assert likely((coin == 1).sum(), there.sum(), 0.5, 2) and (coin <= 2).all()


# --- Removal and waiting ---


def corridor():
    """Two rows, with a spawn cell at both ends of the first, and a third one out of reach."""
    text = "P    P\n      \nWWWWWW\nP     "
    return envs_jax.make("harvest", map=text, num_agents=3, removal_steps=4, roles={"step_reward": 0.5})


def test_removed_agents_neither_act_nor_block_nor_see_nor_are_seen():
    env = corridor()
    state = at(env, (0, 1, EAST), (0, 3, EAST), (1, 5, WEST))
    state, outcome = play(env, state, ZAP, NOOP, NOOP)
    assert outcome.info["zap_hits"].tolist() == [1, 0, 0] and outcome.info["zapped"].tolist() == [0, 1, 0]
    assert outcome.reward.tolist() == [0.5, 0.5, 0.5]
    for t in range(env.numbers.removal_steps):
        seen, visible = observe(env, state)
        assert state.away.tolist() == [0, 4 - t, 0] and outcome.info["removed"].tolist() == [False, True, False]
        assert outcome.info["cell"][1] == -1
        assert not seen[1].any() and seen[0].any() and not visible[1].any() and not visible[:, 1].any()
        others = {*np.unique(seen[0, ..., 1]), *np.unique(seen[2, ..., 1])}
        assert others <= {0, 1, 4, 6}  # itself, the other one, which faces it, and the beam at first
        # Agent 0 walks over the cell of the removed one, which wants to move and to zap.
        state, outcome = play(env, state, FORWARD, ZAP if t % 2 else FORWARD, NOOP, heading=[0, 7, 0])
        assert outcome.info["zaps_fired"].tolist() == [0, 0, 0] and outcome.reward.tolist() == [0.5, 0.0, 0.5]
    assert state.away.tolist() == [0, 0, 0] and state.heading.tolist() == [EAST, WEST, WEST]
    assert state.cell.tolist() == [5, 0, 11]  # agent 0 is on the other spawn cell
    seen, visible = observe(env, state)
    assert seen[1].any() and visible[1, 1]


def test_a_hit_agent_still_fires_in_that_step():
    env = corridor()
    state, outcome = play(env, at(env, (0, 1, EAST), (0, 3, WEST), (1, 5, WEST)), ZAP, ZAP, NOOP)
    assert outcome.info["zapped"].tolist() == [1, 1, 0] and state.away.tolist() == [4, 4, 0]


def test_cooldown():
    who = {"zap_cooldown": [0, 1, 2, 10], "clean_cooldown": [3, 2, 1, 0]}
    env = envs_jax.make("cleanup", map="PPPP\nF   \n", num_agents=4, roles=who | {"zap_radius": 0, "clean_radius": 0})
    for action, name in ((ZAP, "zap"), (CLEAN, "clean")):
        state = at(env, *[(0, i, NORTH) for i in range(4)])  # at the edge: nothing to hit
        fired = []
        for _ in range(12):
            state, outcome = play(env, state, *[action] * 4)
            fired.append(outcome.info[f"{name}s_fired"].tolist())
        assert fired == [[int(t % (wait + 1) == 0) for wait in who[f"{name}_cooldown"]] for t in range(12)]


# --- Observations ---


@functools.cache
def field(rules):
    """A wide open map with one apple in the middle and four agents."""
    lines = [[" "] * 41 for _ in range(41)]
    lines[20][20] = "A"
    lines[0][:4] = "PPPP"
    return envs_jax.make("harvest", map="\n".join(map("".join, lines)), num_agents=4, rules=rules)


@pytest.mark.parametrize(("rules", "size", "own_row"), [("meltingpot", 11, 9), ("hughes2018", 15, 7)])
def test_landmarks_look_the_same_in_four_headings(rules, size, own_row):
    env = field(rules)
    places = [(a, x) for a in (-1, 0, 1, 3, 7, 9) for x in (-5, -2, 0, 1, 5) if (a, x) != (0, 0) and own_row - a >= 0]
    poses = [(a, x, heading) for a, x in places for heading in range(4)]
    steps = {NORTH: (-1, 0), EAST: (0, 1), SOUTH: (1, 0), WEST: (0, -1)}
    states = []
    for a, x, heading in poses:
        (up, right), (down, left) = steps[heading], steps[(heading + 1) % 4]
        row, col = 20 - a * up - x * down, 20 - a * right - x * left  # the apple is a ahead and x to the right
        for agent in (0, 3):
            others = [(0, c, NORTH) for c in range(4)]
            others[agent] = (row, col, heading)
            states.append(others)
    cells = np.array([[row * 41 + col for row, col, _ in poses] for poses in states], np.int32)
    headings = np.array([[h for *_, h in poses] for poses in states], np.int32)
    base = at(env, *[(0, c, NORTH) for c in range(4)])
    stacked = jit_for_once(jax.vmap(lambda c, h: env.observe(base.replace(cell=c, heading=h))))(cells, headings)
    seen = np.array(stacked).reshape(len(poses), 2, 4, size, size, 2)
    for i, (a, x, _) in enumerate(poses):
        for k, agent in enumerate((0, 3)):
            ground, who = np.moveaxis(seen[i, k, agent], -1, 0)
            assert np.argwhere(ground == maps.APPLE).tolist() == [[own_row - a, size // 2 + x]]
            assert np.argwhere(who == maps.SELF).tolist() == [[own_row, size // 2]] and (who != 0).sum() == 1
            assert (ground == maps.FLOOR).sum() == size**2 - 1


def test_visible_is_symmetric_in_centred_windows():
    for env, symmetric in ((envs_jax.make("harvest", map="ssd", num_agents=6, window="centred"), True), (None, False)):
        env = env or envs_jax.make("harvest", map="ssd", num_agents=6)
        states, _, visible = random_play(env, env.own_roles, jax.random.split(jax.random.key(5), 8), 60)
        visible, present = np.array(visible), np.array(states.away[:, 1:]) == 0
        assert (np.diagonal(visible, axis1=2, axis2=3) == present).all()
        assert (visible == visible.swapaxes(2, 3)).all() == symmetric
        assert 0.05 < visible[..., ~np.eye(6, dtype=bool)].mean() < 0.6


def test_a_smaller_window_is_the_middle_of_a_larger_one():
    wide, narrow = (envs_jax.make("harvest", map="ssd", num_agents=6, window="centred", view_size=v) for v in (11, 5))
    states, _, _ = random_play(wide, wide.own_roles, jax.random.split(jax.random.key(5), 8), 60)
    states = jax.tree.map(lambda x: x[:, -1], states)
    seen = [np.array(jit_for_once(jax.vmap(env.observe))(states)) for env in (wide, narrow)]
    assert (seen[0][:, :, 3:8, 3:8] == seen[1]).all() and len(np.unique(seen[1])) > 4
    assert narrow.observation_space().shape == (5, 5, 2)


def test_self_features_are_constant_planes():
    roles = {"role_id": [3, 0, 7], "zap_cooldown": [5, 0, 0], "clean_cooldown": [0, 4, 0]}
    env = envs_jax.make("cleanup", map="F P P P\n       ", num_agents=3, roles=roles, self_features=True)
    state = at(env, (0, 2, NORTH), (0, 4, NORTH), (0, 6, NORTH), items=np.array([2, 0, 300], np.int32))
    state, _ = play(env, state, ZAP, CLEAN, NOOP)
    state = state.replace(away=jnp.zeros(3, jnp.int32))
    seen = np.array(observe(env, state)[0])
    assert seen.dtype == np.uint8 and seen.shape == (3, 11, 11, 6)
    expected = np.array([[3, 2, 5, 0], [0, 0, 0, 4], [7, 255, 0, 0]])
    assert (seen[..., 2:] == expected[:, None, None]).all()
    gone = np.array(observe(env, state.replace(away=jnp.array([1, 0, 0], jnp.int32)))[0])
    assert not gone[0].any() and (gone[1:, ..., 2:] == seen[1:, ..., 2:]).all()


def test_rgb_is_a_picture_of_each_symbol():
    sprites = pytest.importorskip("envs_jax.ssd.sprites")
    table = np.array(sprites.sprite_table())
    settings = {"map": "small", "num_agents": 3, "roles": {"view": [9, 3, 1]}}
    env, drawn = (envs_jax.make("cleanup", observation=kind, **settings) for kind in ("symbols", "rgb"))
    state = env.init(jax.random.key(0))
    for actions in ([ZAP, CLEAN, NOOP], [TURN_LEFT, NOOP, CLEAN]):
        state, _ = play(env, state, *actions)
        symbols, pixels = np.array(observe(env, state)[0]), np.array(observe(drawn, state)[0])
        assert pixels.shape == (3, 88, 88, 3)
        for i, r, c in itertools.product(range(3), range(11), range(11)):
            expected = table[tuple(symbols[i, r, c])]
            assert (pixels[i, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8] == expected).all()


# --- Rewards ---


def test_coin_payoffs_by_pair_of_roles():
    """The taker's own numbers count: what it gets, and what it costs the owner."""
    env = envs_jax.make("coins", map="CCPPC\nWWWWW", num_agents=2)
    gets, costs = {"low": 0.5, "standard": 1, "high": 1.5}, {"low": -3, "standard": -2, "high": -1}
    for first, second in itertools.product(gets, gets):
        who = env.make_roles(f"{first},{second}")
        for owner in (0, 1):
            coin = np.array([0, owner + 1, 0], np.int8)
            state = at(env, (0, 2, WEST), (0, 3, WEST), who=who, coin=coin)
            state, outcome = play(env, state, FORWARD, NOOP)
            assert outcome.reward.tolist() == [gets[first], costs[first] * owner] and not state.coin.any()
            assert outcome.info["coins_own"].tolist() == [1 - owner, 0]
            assert outcome.info["coins_other"].tolist() == outcome.info["robbed"].tolist()[::-1] == [owner, 0]


def test_bias_of_who_takes_anothers_coin():
    env = envs_jax.make("coins", map="CCPPC\nWWWWW", num_agents=2, roles="standard,spawn_biased")
    state = at(env, (0, 2, WEST), (0, 3, EAST), coin=np.array([0, 0, 1], np.int8))
    state, _ = play(env, state, NOOP, FORWARD)
    assert (int(state.bias_agent), int(state.bias_left)) == (1, 24)  # 25 growth phases, this step's being the first
    for left in range(23, -1, -1):
        assert play(env, state, NOOP, NOOP, grow=[0, NEVER, NEVER])[0].coin.tolist() == [2, 0, 0]
        state, _ = play(env, state, NOOP, NOOP)
        assert state.bias_left == left
    assert play(env, state, NOOP, NOOP, grow=[0, NEVER, NEVER])[0].coin.tolist() == [1, 0, 0]


def test_equal_consumption_of_unequal_roles_is_an_equality_of_three_quarters():
    env = envs_jax.make("harvest", map="P" * 10 + "\n" + "A" * 10, num_agents=10, roles="5high_5low", regrowth=(0.0,))
    state = at(env, *[(0, c, SOUTH) for c in range(10)])
    state, outcome = play(env, state, *[FORWARD] * 10)
    gain = np.array(outcome.reward, np.float64)
    assert gain.tolist() == [0.5] * 5 + [1.5] * 5 and outcome.info["apples"].tolist() == [1] * 10
    assert 1 - np.abs(gain[:, None] - gain).sum() / (2 * 10 * gain.sum()) == 0.75


@pytest.mark.parametrize(
    ("game", "settings", "events"),
    [
        ("harvest", {"map": "small", "num_agents": 6, "regrowth": (0.0,)}, {"apple": ("apples",)}),
        (
            "cleanup",
            {"map": "small", "num_agents": 5, "apple_growth": 0.0, "waste_probability": 0.0},
            {"apple": ("apples",), "waste": ("cleaned",)},
        ),
        ("coins", {"map": "5x5", "num_agents": 2, "coin_rate": 0.0}, {"coin": ("coins_own", "coins_other")}),
    ],
)
def test_nothing_vanishes_but_what_is_taken(game, settings, events):
    env = envs_jax.make(game, **settings)
    states, outcomes, _ = jax.device_get(random_play(env, env.own_roles, jax.random.split(jax.random.key(6), 6), 120))
    for field_, names in events.items():
        there = (getattr(states, field_) != 0).sum(axis=-1)
        taken = sum(outcomes.info[name].sum(axis=-1) for name in names)
        np.testing.assert_array_equal(there[:, :-1] - there[:, 1:], taken)
        assert game == "coins" or field_ == "apple" and game == "cleanup" or taken.sum() > 20


@pytest.mark.parametrize("game", ["harvest", "cleanup", "coins"])
def test_things_appear_on_their_own_cells_only_when_free(game):
    """What is new was not there; what is gone was taken; counts agree, with growth on."""
    more = {"harvest": {"regrowth": (0.1, 0.3)}, "cleanup": {"apple_growth": 0.5}, "coins": {"coin_rate": 0.1}}[game]
    small = {"harvest": "small", "cleanup": "small", "coins": "5x5"}[game]
    env = envs_jax.make(game, map=small, num_agents=2, **more)
    if game == "cleanup":  # never dirty enough to stop growth
        env = envs_jax.make(game, map="PAAAAA\nPAAAAA\n  AAAH\n", num_agents=2, waste_probability=0.0, **more)
    states, outcomes, _ = jax.device_get(random_play(env, env.own_roles, jax.random.split(jax.random.key(7), 6), 120))
    there = (states.coin if game == "coins" else states.apple) != 0
    gone = (there[:, :-1] & ~there[:, 1:]).sum(axis=-1)
    names = ("coins_own", "coins_other") if game == "coins" else ("apples",)
    taken = sum(outcomes.info[name].sum(axis=-1) for name in names)
    assert (gone <= taken).all() and gone.sum() > 20  # more are taken where they grow under agents
    np.testing.assert_array_equal(states.items[:, -1].sum(axis=-1), taken.sum(axis=-1))
    assert (there[:, 1:] & ~there[:, :-1]).any()


# --- Roles ---


def test_grammar_of_roles():
    def listed(spec, num_agents=0, game="harvest"):
        env = envs_jax.make(game, roles=spec, num_agents=num_agents)
        return [list(ROLES)[i] for i in env.own_roles.role_id]

    assert listed("3high,2low,wide_zapper") == ["high"] * 3 + ["low"] * 2 + ["wide_zapper"]  # as written
    assert listed("5high_5low") == listed("5low_5high") == ["low"] * 5 + ["high"] * 5  # low first
    assert listed("2high, low") == ["high", "high", "low"]
    assert listed("2standard_1wide_zapper") == ["standard"] * 2 + ["wide_zapper"]
    assert listed("high_low", 5) == ["low"] * 2 + ["high"] * 3
    assert listed("cleaner_consumer", 4, "cleanup") == ["cleaner"] * 2 + ["consumer"] * 2
    assert listed("strong_weak_cleaner", 4, "cleanup") == ["strong_cleaner"] * 2 + ["weak_cleaner"] * 2
    assert listed("wide_zapper", 3) == ["wide_zapper"] * 3
    assert listed("default") == ["standard"] * 7
    env = envs_jax.make("harvest", roles="2high,low,2standard")
    assert env.agent_classes == {
        "high": ["agent_0", "agent_1"],
        "low": ["agent_2"],
        "standard": ["agent_3", "agent_4"],
    }
    assert env.own_roles.apple_reward.tolist() == [1.5, 1.5, 0.5, 1, 1]


def test_explicit_roles():
    who = {"apple_reward": [1, 2, 3], "speed": 0.5, "can_zap": [1, 0, 1]}
    env = envs_jax.make("harvest", roles=who)
    assert env.num_agents == 3 and hash(env) == hash(envs_jax.make("harvest", roles=dict(reversed(who.items()))))
    own = env.own_roles
    assert own.apple_reward.tolist() == [1, 2, 3] and own.speed.tolist() == [0.5] * 3
    assert own.can_zap.tolist() == [True, False, True] and own.zap_length.tolist() == [3] * 3
    assert {name: getattr(own, name).dtype for name in ABILITIES} == ABILITIES
    assert envs_jax.make("harvest", roles=own).own_roles.speed.tolist() == [0.5] * 3


def test_roles_are_data_and_one_program_serves_all():
    env = envs_jax.make("harvest", map="small", num_agents=4, max_steps=5)
    specs = ["high_low", "default", "4wide_zapper", {"speed": [0, 0, 1, 1], "apple_reward": 3}]
    who = jax.tree.map(lambda *leaves: np.stack(leaves), *[env.make_roles(spec) for spec in specs])
    traces = []

    @jit_for_once
    def run(key, who):
        traces.append(1)
        state = env.init(key, who)
        return state, env.advance(key, state, jnp.full(4, FORWARD))

    states, (_, outcome) = jax.vmap(run, in_axes=(None, 0))(jax.random.key(0), who)
    jax.vmap(run, in_axes=(None, 0))(jax.random.key(1), jax.tree.map(lambda leaf: leaf[::-1], who))
    assert len(traces) == 1 and outcome.reward.shape == (4, 4)
    assert states.roles.zap_radius.tolist() == [[1] * 4, [1] * 4, [2] * 4, [1] * 4]


@pytest.mark.parametrize("wrap", [lambda env: env, EpisodeStatistics], ids=["bare", "EpisodeStatistics"])
def test_the_reset_keeps_roles(wrap):
    env = envs_jax.make("harvest", map="small", num_agents=4, max_steps=3)
    who, outer = env.make_roles("2low,2high"), wrap(env)

    @jit_for_once
    def run(key):
        state = outer.init(key, who)

        def body(state, key):
            actions = jax.random.randint(key, (4,), 0, 8)
            state, outcome, _ = outer.advance_and_reset(key, state, actions)
            dict_state = outer.step(key, state, dict(zip(env.agents, actions, strict=True)))[1]
            bare, other = (getattr(s, "env_state", s) for s in (state, dict_state))
            return state, (bare.roles, other.roles, bare.step, outcome.done)

        return jax.lax.scan(body, state, jax.random.split(key, 8))[1]

    roles, dict_roles, steps, done = jax.device_get(run(jax.random.key(0)))
    assert done.tolist() == [False, False, True] * 2 + [False] * 2 and steps.tolist() == [1, 2, 0, 1, 2, 0, 1, 2]
    for name in ABILITIES:
        expected = np.broadcast_to(getattr(who, name), (8, 4))
        np.testing.assert_array_equal(getattr(roles, name), expected)
        np.testing.assert_array_equal(getattr(dict_roles, name), expected)


def test_select_keeps_no_state_but_the_roles():
    env = envs_jax.make("coins", map="5x5")
    state = env.init(jax.random.key(0), env.make_roles("high,low")).replace(items=jnp.array([3, 4], jnp.int32))
    again = select(jnp.asarray(True), env.restart(jax.random.key(1), state), state)
    assert again.items.tolist() == [0, 0] and again.roles.apple_reward.tolist() == [1.5, 0.5]


# --- Bad input ---


@pytest.mark.parametrize(
    ("game", "settings", "field", "value", "allowed"),
    [
        ("harvest", {"map": "PPP\nPXP\nPPP"}, "map", "'X'", "'A'"),
        ("harvest", {"map": "PPPP\nPFPP\nPPPP"}, "map", "'F'", "'A'"),  # of another game
        ("coins", {"map": "PCC\nPAC"}, "map", "'A'", "'C'"),
        ("harvest", {"map": "PPPP\nPPP\nAAAA"}, "map", "3 characters in row 1", "equal rows"),
        ("harvest", {"map": "nowhere"}, "map", "'nowhere'", "open"),
        ("cleanup", {"map": "PP\nAA", "num_agents": 2}, "map", "no cell that can hold waste", "'H'"),
        ("harvest", {"map": "PPP\nAAA", "num_agents": 4}, "num_agents", "3", "at least 4"),
        ("harvest", {"map": "PPP\nAAA", "roles": {"spawn_group": [1, 0, 0]}}, "Q", "0", "at least 1"),
        ("harvest", {"map": "PPP\nAAA", "roles": {"respawn_group": [2, 0, 0]}}, "respawn_group", "2", "at least 1"),
        ("harvest", {"roles": "3high,2low", "num_agents": 7}, "roles", "'3high,2low'", "7"),
        ("harvest", {"roles": "3high,2giant"}, "roles", "'giant'", "high"),
        ("harvest", {"roles": "giant"}, "roles", "'giant'", "wide_zapper"),
        ("harvest", {"roles": {"strength": 3}}, "roles", "'strength'", "apple_reward"),
        ("harvest", {"roles": {"speed": [1, 1]}, "num_agents": 3}, "speed", "2 values", "3"),
        ("harvest", {"roles": {"speed": [1, 1], "view": [1, 2, 3]}}, "view", "3 values", "2"),
        ("harvest", {"roles": {"speed": 1.5}}, "speed", "1.5", "[0, 1]"),
        ("harvest", {"roles": {"speed": float("nan")}}, "speed", "nan", "[0, 1]"),
        ("harvest", {"roles": {"zap_length": 2.5}}, "zap_length", "2.5", "whole numbers"),
        ("harvest", {"roles": {"zap_length": -1}}, "zap_length", "-1", "at least 0"),
        ("harvest", {"roles": {"can_zap": 2}}, "can_zap", "2", "0 or 1"),
        ("harvest", {"roles": {"speed": "fast"}}, "speed", "'fast'", "a number"),
        ("harvest", {"roles": {"speed": [[1.0]]}}, "speed", "(1, 1)", "one per agent"),
        ("harvest", {"regrowth": (-0.1, 0.1)}, "regrowth", "-0.1", "[0, 1]"),
        ("harvest", {"regrowth": (0.0, float("nan"))}, "regrowth", "nan", "finite"),
        ("harvest", {"regrowth": ()}, "regrowth", "()", "at least one"),
        ("cleanup", {"apple_growth": 1.5}, "apple_growth", "1.5", "[0, 1]"),
        ("cleanup", {"waste_probability": -0.5}, "waste_probability", "-0.5", "[0, 1]"),
        ("coins", {"coin_rate": 2.0}, "coin_rate", "2.0", "[0, 1]"),
        ("coins", {"num_agents": 101, "map": "P" * 101 + "\n" + "C" * 101}, "num_agents", "101", "100"),
        ("cleanup", {"removal_steps": -1}, "removal_steps", "-1", "at least 0"),
        ("harvest", {"rules": "mine"}, "rules", "'mine'", "meltingpot, hughes2018, socialjax"),
        ("cleanup", {"observation": "pixels"}, "observation", "'pixels'", "'symbols'"),
        ("coins", {"window": "left"}, "window", "'left'", "'centred'"),
        ("cleanup", {"view_size": 8}, "view_size", "8", "odd"),
        ("harvest", {"view_size": 1}, "view_size", "1", "at least 3"),
        ("harvest", {"num_agents": -1}, "num_agents", "-1", "at least 1"),
        ("harvest", {"max_steps": 0}, "max_steps", "0", "at least 1"),
    ],
)
def test_bad_settings(game, settings, field, value, allowed):
    with pytest.raises(ValueError) as error:
        envs_jax.make(game, **settings)
    message = str(error.value)
    assert field in message and value in message and "allowed" in message and allowed in message.split("allowed")[1]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"speed": np.ones(3, np.float32)}, "speed"),
        ({"speed": np.full(4, 1.5, np.float32)}, "speed"),
        ({"zap_length": np.full(4, 6, np.int32)}, "zap_length"),
        ({"spawn_group": np.ones(4, np.int32)}, "num_agents"),
    ],
)
def test_bad_roles_given_to_init(change, field):
    env = envs_jax.make("harvest", map="small", num_agents=4)
    own = env.own_roles
    who = type(own)(**({name: getattr(own, name) for name in ABILITIES} | change))
    with pytest.raises(ValueError, match=field):
        env.init(jax.random.key(0), who)

"""The oracle itself, on cases worked out by hand, and its invariants under random play."""

import itertools

import numpy as np
import pytest
from oracle import (
    BACKWARD,
    CLEAN,
    FORWARD,
    STEP_LEFT,
    STEP_RIGHT,
    TURN_LEFT,
    TURN_RIGHT,
    ZAP,
    Board,
    World,
    beam_cells,
    egocentric,
    happens,
    one_of,
    ranked,
    resolve_moves,
)

NOOP = 0
NORTH, EAST, SOUTH, WEST = range(4)
NEVER = 2**32 - 1  # as a word: no event happens but those of probability 1

RULES = {
    "growth": "before",
    "beam_side_start": 0,
    "beams_pass": False,
    "agents_block_clean": False,
    "regrow_under_agents": True,
    "regrowth": [0.0, 0.25, 0.5, 1.0],
    "neighbour_radius2": 4,
    "removal_steps": 3,
    "waste_delay": 0,
    "waste_limit": None,
    "waste_retries": False,
    "denominator": "waste",
    "coin_rate": 0.5,
    "depletion": 0.4,
    "restoration": 0.0,
    "max_growth": 0.5,
    "waste_probability": 0.5,
    "window": "ahead",
    "view_size": 5,
}

ABILITIES = {
    "apple_reward": 1.0,
    "step_reward": 0.0,
    "mismatch_penalty_to_other": -2.0,
    "spawn_bias_steps": 0,
    "zap_length": 3,
    "zap_radius": 1,
    "zap_cooldown": 2,
    "zap_reward": 0.0,
    "zap_hit_reward": 0.0,
    "zapped_reward": 0.0,
    "can_zap": True,
    "clean_length": 3,
    "clean_radius": 1,
    "clean_cooldown": 2,
    "clean_reward": 0.0,
    "clean_shot_reward": 0.0,
    "speed": 1.0,
    "view": 100,
    "spawn_group": 0,
    "respawn_group": 0,
}


def make(game, lines, poses, rules=None, **abilities):
    """A world, not started, with agents at `poses`, (row, col, heading) each; an ability is one value, or one each."""
    n = len(poses)
    values = {name: np.broadcast_to(value, n) for name, value in (ABILITIES | abilities).items()}
    world = World(game, lines, RULES | ({"growth": "deferred"} if game == "coins" else {}) | (rules or {}), values)
    if game == "harvest":
        world.apples = set(world.board.apple_cells)
    world.position = [(row, col) for row, col, _ in poses]
    world.heading = [heading for _, _, heading in poses]
    return world


def words(world, **given):
    """The words of a step: lower indices first, everybody moves, nothing grows, unless `given` otherwise."""
    board, n = world.board, world.num_agents

    def descending(size):
        return np.arange(size, dtype=np.uint32)[::-1]

    things = len(board.coin_cells if world.game == "coins" else board.apple_cells)
    draws = {
        "order": descending(n),
        "speed": np.zeros(n, np.uint32),
        "heading": np.zeros(n, np.uint32),
        "spawn": np.zeros(n, np.uint32),
        "grow": np.full(things, NEVER, np.uint32),
        "waste": np.uint32(NEVER),
        "waste_cell": np.uint32(0),
    }
    return draws | given


def play(world, *actions, **given):
    return world.step(actions, words(world, **given))


# --- Words ---


def test_events_and_orders():
    assert happens(NEVER, 1.0) and not happens(0, 0.0)
    assert happens(2**31 - 1, 0.5) and not happens(2**31, 0.5)
    assert happens(0, 1.5 / 2**32) and happens(1, 1.5 / 2**32) and not happens(2, 1.5 / 2**32)  # 1.5 rounds to 2
    assert happens(1, 2.5 / 2**32) and not happens(2, 2.5 / 2**32)  # and so does 2.5
    assert ranked(np.array([5, 9, 5, NEVER], np.uint32)) == [3, 1, 0, 2]
    assert [one_of(word, [5, 6, 7]) for word in (0, 2**32 // 3, 2**32 // 3 + 1, 2**31, NEVER)] == [5, 5, 6, 6, 7]


# --- Moves ---


@pytest.mark.parametrize(
    ("positions", "targets", "order", "expected"),
    [
        pytest.param("ab", "ba", [0, 1], "ab", id="swap"),
        pytest.param("abc", "bcd", [0, 1, 2], "bcd", id="train"),
        pytest.param("abc", "bcc", [0, 1, 2], "abc", id="train behind one that stays"),
        pytest.param("abc", "bca", [2, 0, 1], "bca", id="three in a circle"),
        pytest.param("abcd", "bcda", [3, 1, 0, 2], "bcda", id="four in a circle"),
        pytest.param("ab", "cc", [0, 1], "cb", id="contested, the first wins"),
        pytest.param("ab", "cc", [1, 0], "ac", id="contested, the other first"),
        pytest.param("abz", "cca", [1, 0, 2], "acz", id="the loser blocks its follower"),
        pytest.param("abz", "cca", [0, 1, 2], "cba", id="the winner makes way"),
        pytest.param("abc", "bac", [0, 1, 2], "abc", id="swap beside one that stays"),
        pytest.param("abc", "bab", [2, 0, 1], "abc", id="nobody gets the cell of one that swaps"),
        pytest.param("abcd", "bcab", [0, 1, 2, 3], "bcad", id="circle before an outsider"),
        pytest.param("abcd", "bcab", [3, 0, 1, 2], "abcd", id="an outsider first breaks the circle, and gets nothing"),
        # The first wants a cell whose agent is blocked: no one gets it, the second neither.
        pytest.param("abcz", "bzbz", [0, 2, 1, 3], "abcz", id="a blocked cell is not passed on"),
    ],
)
def test_moves(positions, targets, order, expected):
    assert "".join(resolve_moves(positions, targets, [True] * len(positions), order)) == expected


def test_removed_agents_neither_move_nor_block():
    assert resolve_moves("abc", "bbd", [True, False, False], [2, 1, 0]) == ["b", "b", "c"]


def test_moves_are_the_most_that_the_rules_allow():
    """Against a search over all sets of movers, for 4 agents on a ring of 5 cells and for random ones."""
    rng = np.random.default_rng(0)
    cases = [([0, 1, 2, 3], list(targets)) for targets in itertools.product(range(5), repeat=4)]
    cases += [(list(rng.permutation(6)[:5]), list(rng.integers(0, 6, 5))) for _ in range(300)]
    for positions, targets in cases:
        n = len(positions)
        order = list(rng.permutation(n))
        swaps = {
            i
            for i, j in itertools.permutations(range(n), 2)
            if targets[i] == positions[j] and targets[j] == positions[i]
        }
        wanting = [i for i in range(n) if targets[i] != positions[i] and i not in swaps]
        rivals = {i: [j for j in wanting if targets[j] == targets[i]] for i in wanting}
        winners = [i for i in wanting if i == min(rivals[i], key=order.index)]
        best: tuple[int, ...] = ()
        for size in range(len(winners) + 1):
            for movers in itertools.combinations(winners, size):
                stayers = [positions[i] for i in range(n) if i not in movers]
                if all(targets[i] not in stayers for i in movers):
                    best = movers
        result = resolve_moves(positions, targets, [True] * n, order)
        assert result == [targets[i] if i in best else positions[i] for i in range(n)]
        assert len(set(result)) == n


def test_moves_are_relative_to_the_heading_and_stop_at_walls_and_at_the_edge():
    lines = ["   ", "  W", "   "]
    for heading in range(4):
        ends = {}
        for action in (FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT):
            world = make("harvest", lines, [(1, 1, heading)])
            play(world, action)
            ends[action] = world.position[0]
        clockwise = [(0, 1), (1, 1), (2, 1), (1, 0)]  # north, east (the wall: stays), south, west
        for action, turn in ((FORWARD, 0), (STEP_RIGHT, 1), (BACKWARD, 2), (STEP_LEFT, 3)):
            assert ends[action] == clockwise[(heading + turn) % 4]
    world = make("harvest", lines, [(0, 0, NORTH)])
    play(world, FORWARD)
    assert world.position == [(0, 0)]
    for action, heading in ((TURN_LEFT, WEST), (TURN_RIGHT, NORTH), (TURN_RIGHT, EAST)):
        play(world, action)
        assert (world.position, world.heading) == ([(0, 0)], [heading])


def test_slow_agents_move_only_when_their_word_says_so():
    world = make("harvest", ["     "], [(0, 0, EAST)], speed=0.25)
    play(world, FORWARD, speed=[2**30])
    assert world.position == [(0, 0)]
    play(world, FORWARD, speed=[2**30 - 1])
    assert world.position == [(0, 1)]
    play(world, TURN_RIGHT, speed=[2**30])
    assert world.heading == [EAST]
    _, info = play(world, ZAP, speed=[NEVER])  # only movement is slow
    assert info["zaps_fired"].tolist() == [1]


def test_a_follower_of_a_slow_agent_is_blocked_and_the_order_decides_contests():
    world = make("harvest", ["     "], [(0, 0, EAST), (0, 1, EAST)], speed=0.5)
    play(world, FORWARD, FORWARD, speed=[0, NEVER])
    assert world.position == [(0, 0), (0, 1)]
    world = make("harvest", ["     "], [(0, 0, EAST), (0, 2, WEST)])
    play(world, FORWARD, FORWARD, order=[1, 2])
    assert world.position == [(0, 0), (0, 1)]
    world = make("harvest", ["     "], [(0, 0, EAST), (0, 2, WEST)])
    play(world, FORWARD, FORWARD, order=[7, 7])  # a tie goes to the lower index
    assert world.position == [(0, 1), (0, 2)]


# --- Beams ---


def drawn(pictures, row, col):
    """Cells marked x in a picture, moved so that the shooter (^ > v <) is at (row, col)."""
    cells = [(r, c, mark) for r, line in enumerate(pictures) for c, mark in enumerate(line) if mark != "."]
    ((r0, c0),) = [(r, c) for r, c, mark in cells if mark in "^>v<"]
    return {(row + r - r0, col + c - c0) for r, c, mark in cells if mark == "x"}


@pytest.mark.parametrize(
    ("length", "radius", "start", "count", "pictures"),
    [
        (
            3,
            1,
            0,
            9,
            {
                NORTH: [".x.", "xxx", "xxx", "x^x"],
                EAST: ["xxx.", ">xxx", "xxx."],
                SOUTH: ["xvx", "xxx", "xxx", ".x."],
                WEST: [".xxx", "xxx<", ".xxx"],
            },
        ),
        (
            3,
            1,
            1,
            7,
            {
                NORTH: [".x.", "xxx", "xxx", ".^."],
                EAST: [".xx.", ">xxx", ".xx."],
                SOUTH: [".v.", "xxx", "xxx", ".x."],
                WEST: [".xx.", "xxx<", ".xx."],
            },
        ),
        (
            5,
            2,
            0,
            23,
            {
                NORTH: ["..x..", ".xxx.", "xxxxx", "xxxxx", "xxxxx", "xx^xx"],
                EAST: ["xxxx..", "xxxxx.", ">xxxxx", "xxxxx.", "xxxx.."],
                SOUTH: ["xxvxx", "xxxxx", "xxxxx", "xxxxx", ".xxx.", "..x.."],
                WEST: ["..xxxx", ".xxxxx", "xxxxx<", ".xxxxx", "..xxxx"],
            },
        ),
        # 2 ahead, 2 in each of the next lanes, 1 in each of those after, none in the last.
        (2, 3, 0, 8, {NORTH: ["...x...", "..xxx..", ".xx^xx."]}),
        (4, 0, 0, 4, {EAST: [">xxxx"]}),
        (0, 2, 0, 0, {NORTH: ["^"]}),
    ],
)
def test_beam_shape(length, radius, start, count, pictures):
    for heading, picture in pictures.items():
        expected = drawn(picture, 10, 10)
        got = beam_cells(10, 10, heading, length, radius, start, 21, 21)
        assert got == expected and len(got) == count


@pytest.mark.parametrize(
    ("start", "picture"),
    [
        # 5 long, 2 lanes to each side, 23 cells if free. # stops and is reached, o stops and is not, . is not reached.
        (0, ["..o..", "...x.", "x.#xx", "x#xxx", "xxxxx", "xx^xx"]),  # each lane stops for itself
        (0, ["..x..", "..xx.", "..xxx", "..xxx", "..xxx", ".#^xx"]),  # beside the shooter: both lanes of that side
        (0, ["..x..", ".xxx.", "xxxx.", "xxxx.", "xxxx.", "xx^x#"]),
        (1, ["..x..", "..xx.", "..xxx", "..xxx", "..xxx", ".o^.."]),  # not part of the beam, but on the way
        (1, ["..x..", ".xxx.", ".xxxx", ".xxxx", ".xxxx", "o.^.."]),
    ],
)
def test_blocked_lanes(start, picture):
    for heading in range(4):
        turned = [list(line) for line in picture]
        for _ in range(heading):
            turned = [list(line) for line in zip(*turned[::-1], strict=True)]  # a quarter turn clockwise
        ((r0, c0),) = [(r, c) for r, line in enumerate(turned) for c, mark in enumerate(line) if mark == "^"]
        at = {(10 + r - r0, 10 + c - c0): mark for r, line in enumerate(turned) for c, mark in enumerate(line)}
        blockers = {cell for cell, mark in at.items() if mark in "#o"}
        expected = {cell for cell, mark in at.items() if mark in "x#"}
        assert beam_cells(10, 10, heading, 5, 2, start, 21, 21, blockers) == expected


def test_beams_end_at_the_edge_of_the_map():
    assert beam_cells(0, 0, NORTH, 3, 1, 0, 5, 5) == {(0, 1)}
    assert beam_cells(0, 0, EAST, 3, 1, 0, 5, 5) == {(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)}
    assert beam_cells(4, 4, WEST, 9, 0, 0, 5, 5) == {(4, 0), (4, 1), (4, 2), (4, 3)}


# --- Zapping ---


def test_hits_removal_respawn_and_rewards():
    world = make(
        "harvest",
        ["P    P"],
        [(0, 1, EAST), (0, 3, WEST)],
        zap_reward=-1.0,
        zap_hit_reward=[5.0, 7.0],
        zapped_reward=[-50.0, -40.0],
        step_reward=0.5,
    )
    rewards, info = play(world, ZAP, NOOP)
    assert rewards.tolist() == [0.5 - 1 + 5, 0.5 - 40]
    assert info["zaps_fired"].tolist() == [1, 0] and info["zap_hits"].tolist() == [1, 0]
    assert info["zapped"].tolist() == [0, 1] and info["removed"].tolist() == [0, 1]
    assert world.away == [0, 3]
    assert world.observe()[1].max() == 0 and world.visible().tolist() == [[True, False], [False, False]]
    for left in (2, 1):
        rewards, info = play(world, NOOP, FORWARD)
        assert rewards.tolist() == [0.5, 0] and info["removed"].tolist() == [0, 1] and world.away == [0, left]
    # 3 steps away: back at the end of the third after the shot, on the spawn cell that its word says.
    rewards, info = play(world, NOOP, FORWARD, spawn=[0, NEVER], heading=[0, 6])
    assert rewards.tolist() == [0.5, 0] and info["removed"].tolist() == [0, 0]
    assert world.position == [(0, 1), (0, 5)] and world.heading == [EAST, SOUTH]
    assert world.visible()[1].tolist() == [False, True]


def test_no_removal():
    world = make("harvest", ["P    P"], [(0, 1, EAST), (0, 3, WEST)], {"removal_steps": 0}, zapped_reward=-50.0)
    rewards, info = play(world, ZAP, ZAP)
    assert rewards.tolist() == [-50, -50] and info["zapped"].tolist() == [1, 1] and world.away == [0, 0]


def test_shots_at_each_other_both_count_and_agents_shield_those_behind():
    world = make("harvest", ["P      "], [(0, 1, EAST), (0, 3, WEST), (0, 4, WEST)])
    _, info = play(world, ZAP, ZAP, NOOP)
    assert info["zapped"].tolist() == [1, 1, 0] and world.away == [3, 3, 0]
    world = make("harvest", ["P      "], [(0, 1, EAST), (0, 3, WEST), (0, 4, WEST)], {"beams_pass": True})
    _, info = play(world, ZAP, ZAP, NOOP)
    assert info["zap_hits"].tolist() == [2, 1, 0] and info["zapped"].tolist() == [1, 1, 1]


def test_walls_stop_zaps_unless_beams_pass_and_are_never_shown_as_beam():
    for beams_pass in (False, True):
        world = make("harvest", ["P  W   "], [(0, 1, EAST), (0, 4, WEST)], {"beams_pass": beams_pass})
        _, info = play(world, ZAP, NOOP)
        assert info["zapped"].tolist() == [0, int(beams_pass)]
        assert world.zap_beam == ({(0, 2), (0, 4)} if beams_pass else {(0, 2)})


def test_beams_come_from_the_pose_after_the_moves():
    world = make("harvest", ["P     ", "      "], [(0, 1, EAST), (1, 3, NORTH)], zap_radius=0)
    _, info = play(world, ZAP, FORWARD)
    assert info["zapped"].tolist() == [0, 1]


def test_two_shooters_hit_twice():
    world = make("harvest", ["P     "], [(0, 1, EAST), (0, 3, WEST), (0, 5, WEST)], zapped_reward=-50.0)
    rewards, info = play(world, ZAP, NOOP, ZAP)
    assert rewards.tolist() == [0, -100, 0] and info["zapped"].tolist() == [0, 2, 0]


@pytest.mark.parametrize(("cooldown", "fired"), [(0, [1] * 8), (1, [1, 0] * 4), (2, [1, 0, 0, 1, 0, 0, 1, 0])])
def test_cooldown(cooldown, fired):
    for action, name in ((ZAP, "zap"), (CLEAN, "clean")):
        world = make("cleanup", ["  H"], [(0, 0, EAST)], **{f"{name}_cooldown": cooldown})
        assert [int(play(world, action)[1][f"{name}s_fired"][0]) for _ in range(8)] == fired


def test_waiting_goes_on_with_other_actions_and_stands_still_while_away():
    world = make("harvest", ["P      "], [(0, 1, EAST), (0, 3, WEST)], zap_cooldown=[5, 9])
    play(world, ZAP, ZAP)
    assert world.zap_wait == [5, 9] and world.away == [3, 3]
    for _ in range(3):  # comes back at the end of the third, with the one spawn cell for the lower index
        play(world, NOOP, NOOP)
    assert world.zap_wait == [5, 9] and world.away == [0, 1] and world.position[0] == (0, 0)
    play(world, STEP_RIGHT, NOOP)  # north by its word; it makes room for the other
    assert world.zap_wait == [4, 9] and world.away == [0, 0] and world.position == [(0, 1), (0, 0)]
    play(world, NOOP, NOOP)
    assert world.zap_wait == [3, 8]


def test_agents_without_the_ability_do_not_fire():
    world = make("harvest", ["P   "], [(0, 1, EAST), (0, 2, EAST)], can_zap=False, zap_reward=-1.0)
    rewards, info = play(world, ZAP, ZAP)
    assert rewards.tolist() == [0, 0] and info["zaps_fired"].tolist() == [0, 0] and world.zap_wait == [0, 0]


def test_start_and_respawn_groups():
    lines = ["PQP", "QPQ"]
    world = make("harvest", lines, [(0, 0, 0)] * 4, spawn_group=[1, 0, 1, 0])
    # In turn: the second of three Q, the second of three P, the second of the two Q left, the second of the two P left.
    world.start(words(world, spawn=[2**31, 2**31, 2**31, NEVER], heading=[4, 5, 6, 7]))
    assert world.position == [(1, 0), (0, 2), (1, 2), (1, 1)] and world.heading == [0, 1, 2, 3]
    world.away = [1, 1, 1, 0]
    world.position[3] = (0, 0)  # all respawn in group 0, of which two cells are free
    play(world, NOOP, NOOP, NOOP, NOOP, spawn=[NEVER, 5, 0, 0])
    assert world.position[:2] == [(1, 1), (0, 2)] and world.away == [0, 0, 1, 0]


def test_a_spawn_cell_is_free_when_its_agent_has_just_been_hit():
    world = make("harvest", ["P   "], [(0, 0, EAST), (0, 2, WEST), (0, 3, WEST)])
    world.away[2] = 1
    play(world, NOOP, ZAP, NOOP)
    assert world.away == [3, 0, 0] and world.position[2] == (0, 0)


# --- Apples ---


def test_neighbours_on_a_full_board():
    board = Board(["AAAAA"] * 5)
    for radius2, expected in ((4, 12), (2, 8)):
        neighbours = dict(zip(board.apple_cells, board.apple_neighbours(radius2), strict=True))
        assert len(neighbours[2, 2]) == expected
    # In the corner, within squared distance 4: 2 to the right, 2 down, 1 across. Within 2: 1, 1 and 1.
    assert set(board.apple_neighbours(4)[0]) == {(0, 1), (0, 2), (1, 0), (2, 0), (1, 1)}
    assert set(board.apple_neighbours(2)[0]) == {(0, 1), (1, 0), (1, 1)}


def test_regrowth_counts_live_neighbours():
    world = make("harvest", ["AAAAA"] * 5, [(4, 4, NORTH)])
    halves = np.full(25, 2**31 - 1, np.uint32)
    world.apples = {(0, 0), (0, 1), (4, 0)}
    play(world, NOOP, grow=halves)
    # Two or more live neighbours: (0,2) has (0,0) and (0,1); (1,0) and (1,1) likewise; (2,0) has (0,0) and (4,0).
    assert world.apples == {(0, 0), (0, 1), (4, 0), (0, 2), (1, 0), (1, 1), (2, 0)}
    world.apples = {(0, 0), (0, 2), (0, 4)}
    play(world, NOOP, grow=np.full(25, NEVER, np.uint32))
    # Three or more are certain (probability 1) but nowhere: (0,1) and (0,3) have 2, (0,2) is alive.
    assert world.apples == {(0, 0), (0, 2), (0, 4)}
    world.apples = {(1, 2), (2, 1), (2, 3), (3, 2)}
    play(world, NOOP, grow=np.full(25, NEVER, np.uint32))
    # (2,2) has all 4; (1,1) has (1,2), (2,1) at distance 1, and of the others, (2,3) is at squared distance 5: 2.
    assert world.apples == {(1, 2), (2, 1), (2, 3), (3, 2), (2, 2)}
    world.apples = set()
    play(world, NOOP, grow=np.zeros(25, np.uint32))
    assert world.apples == set()  # nothing grows from nothing


@pytest.mark.parametrize(
    ("growth", "under", "reward", "left"),
    [
        # The agent walks onto (0,3), which is empty and certain to grow, as are (0,0) and (0,2).
        ("before", True, 1, {0, 1, 2}),
        ("before", False, 1, {0, 1, 2}),
        ("deferred", True, 1, {0, 1, 2}),
        ("deferred", False, 0, {0, 1, 2}),
        ("after", True, 1, {0, 1, 2}),
        ("after", False, 0, {0, 1, 2}),
    ],
)
def test_when_apples_grow(growth, under, reward, left):
    rules = {"growth": growth, "regrow_under_agents": under, "regrowth": [0.0, 1.0]}
    world = make("harvest", ["AAAA "], [(0, 4, WEST)], rules)
    world.apples = world.apples_before = {(0, 1)}
    given, info = play(world, FORWARD)
    assert given.tolist() == info["apples"].tolist() == [reward]
    assert world.apples == {(0, c) for c in left}


def test_two_apples_in_one_step():
    """One grew under the agent before it moved, another lay where it went."""
    rules = {"growth": "before", "regrowth": [0.0, 1.0]}
    world = make("harvest", ["AA "], [(0, 0, EAST)], rules, apple_reward=0.5)
    world.apples = {(0, 1)}
    rewards, info = play(world, FORWARD)
    assert rewards.tolist() == [1.0] and info["apples"].tolist() == [2] and world.apples == set()


def test_deferred_growth_looks_one_step_back():
    # The agent takes (0,1), next to which (0,0) is certain to grow, if that was empty for as long as is looked at.
    for growth, before, apples in (
        ("before", set(), {(0, 0)}),
        ("after", set(), set()),
        ("deferred", {(0, 1)}, {(0, 0)}),
        ("deferred", {(0, 0), (0, 1)}, set()),  # not empty a step earlier
        ("deferred", set(), set()),  # no neighbour a step earlier
    ):
        world = make("harvest", ["AA "], [(0, 2, WEST)], {"growth": growth, "regrowth": [0.0, 1.0]})
        world.apples, world.apples_before = {(0, 1)}, before
        rewards, info = play(world, FORWARD)
        assert rewards.tolist() == [1] and info["apples"].tolist() == [1] and world.apples == apples
        assert world.apples_before == {(0, 1)}
    # What was taken in a step still counts in the next one, and only cells that are empty now can grow.
    play(world, NOOP)
    assert world.apples == {(0, 0)} and world.apples_before == set()
    play(world, NOOP)
    assert world.apples == {(0, 0)}
    play(world, BACKWARD)
    assert world.apples == {(0, 0), (0, 1)}


def test_an_episode_starts_as_if_full_one_step_earlier():
    world = make("harvest", ["PAA"], [(0, 0, EAST)], {"growth": "deferred", "regrowth": [1.0]})
    world.start(words(world, heading=[1]))
    for apples in ({2}, {2}, {1, 2}):  # taken in the first step; empty at its start nor before; empty twice
        play(world, FORWARD if len(apples) == 1 and world.steps_taken == 0 else BACKWARD)
        assert world.apples == {(0, c) for c in apples}


def test_growth_under_agents():
    for under, growth in itertools.product((True, False), ("before", "after", "deferred")):
        rules = {"growth": growth, "regrowth": [1.0], "regrow_under_agents": under}
        world = make("harvest", ["AAA"], [(0, 0, EAST), (0, 2, EAST)], rules)
        world.apples = world.apples_before = set()
        world.away[1] = 9
        rewards, _ = play(world, NOOP, NOOP)
        assert rewards.tolist() == [int(under), 0]  # taken at once
        assert world.apples == {(0, 1), (0, 2)}


def test_who_stands_on_an_apple_takes_it_and_who_is_removed_does_not():
    world = make("harvest", ["AA  "], [(0, 0, EAST), (0, 1, EAST)])
    world.away[1] = 9
    rewards, _ = play(world, NOOP, NOOP)
    assert rewards.tolist() == [1, 0] and world.apples == {(0, 1)}


# --- Cleanup ---


def test_cleanup_starts_without_apples_and_with_the_map_s_waste():
    world = make("cleanup", ["FHF~AP"], [(0, 0, WEST)])
    world.start(words(world, heading=[2]))
    assert world.position == [(0, 5)] and world.heading == [SOUTH]
    assert world.apples == set() and world.waste == {(0, 0), (0, 2)}
    assert world.pollution() == 2 / 3
    world.rules["denominator"] = "waste_and_river"
    assert world.pollution() == 0.5


def test_apples_grow_less_the_more_waste_there_is():
    world = make("cleanup", ["HHHHHHHHHHAA"], [(0, 0, WEST)])
    for count, chance in ((0, 0.5), (1, 0.375), (2, 0.25), (3, 0.125), (4, 0.0), (10, 0.0)):
        world.waste = {(0, c) for c in range(count)}
        assert world.apple_chance() == pytest.approx(chance)
    world.waste = {(0, 8), (0, 9)}
    play(world, NOOP, grow=[2**30 - 2, 2**30 + 2])
    assert world.apples == {(0, 10)}


def test_waste_appears_on_one_of_the_clean_cells():
    world = make("cleanup", ["HHHH "], [(0, 2, WEST)], {"waste_delay": 1})
    play(world, NOOP, waste=0)
    assert world.waste == set()  # too early
    # Also under the agent, on cell 2; a full river stays as it is.
    steps = [(2**30, {1}), (NEVER, {1, 3}), (2**31, {1, 2, 3}), (NEVER, {0, 1, 2, 3}), (0, {0, 1, 2, 3})]
    for word, expected in steps:
        play(world, NOOP, waste=2**31, waste_cell=word)
        play(world, NOOP, waste=2**31 - 1, waste_cell=word)
        assert world.waste == {(0, c) for c in expected}


def test_waste_limit_and_retries():
    world = make("cleanup", ["HHHHH"], [(0, 0, WEST)], {"waste_limit": 0.4, "waste_retries": True})
    world.waste = {(0, 0)}
    assert world.waste_chance() == 1 - 0.5**4
    play(world, NOOP, waste=15 * 2**28 - 1)
    assert world.waste == {(0, 0), (0, 1)}
    assert world.waste_chance() == 0  # 2 / 5 is the limit
    play(world, NOOP, waste=0)
    assert len(world.waste) == 2


def test_apples_and_waste_are_decided_on_the_same_board():
    for growth in ("before", "after"):
        world = make("cleanup", ["HHA"], [(0, 0, WEST)], {"growth": growth})
        play(world, NOOP, grow=[2**31 - 1], waste=0)  # 0.5 with a clean river, 0 when half of it is dirty
        assert world.apples == {(0, 2)} and world.waste == {(0, 0)}


def test_cleaning_counts_for_the_first_in_the_order():
    world = make("cleanup", [" HHH "], [(0, 0, EAST), (0, 4, WEST)], clean_reward=[1.0, 10.0], clean_shot_reward=-0.5)
    world.waste = {(0, 2)}
    rewards, info = play(world, CLEAN, CLEAN, order=[1, 2])
    assert rewards.tolist() == [-0.5, 9.5] and info["cleaned"].tolist() == [0, 1]
    assert info["cleans_fired"].tolist() == [1, 1] and world.waste == set()


def test_what_stops_a_clean_beam():
    lines = ["HHHHH"]
    full = {(0, c) for c in range(5)}
    cases = [
        ({}, full - {(0, 1)}),  # waste stops it
        ({"beams_pass": True, "agents_block_clean": True}, {(0, 0), (0, 4)}),
    ]
    for rules, left in cases:
        world = make("cleanup", lines, [(0, 0, EAST), (0, 2, WEST)], rules)
        world.waste = set(full)
        play(world, CLEAN, NOOP)
        assert world.waste == left
    for blocks, left in ((False, set()), (True, {(0, 3)})):  # an agent on clean water, waste behind it
        world = make("cleanup", lines, [(0, 0, EAST), (0, 2, WEST)], {"agents_block_clean": blocks})
        world.waste = {(0, 3)}
        play(world, CLEAN, NOOP)
        assert world.waste == left
    # Waste under an agent, and the lanes beside: (1,0) is beside the shooter and stops its whole lane.
    world = make("cleanup", ["HHHH", "HHHH"], [(0, 0, EAST), (0, 2, WEST)], {"agents_block_clean": True})
    world.waste = {(0, 2), (1, 0), (1, 1)}
    _, info = play(world, CLEAN, NOOP)
    assert world.waste == {(1, 1)} and info["cleaned"].tolist() == [2, 0]
    assert world.clean_beam == {(0, 1)}  # hit are also (0,2) and (1,0), which are not shown


# --- Coins ---


def test_coin_payoffs():
    world = make("coins", ["C C"], [(0, 1, WEST), (0, 1, WEST)], mismatch_penalty_to_other=[-2.0, -3.0])
    world.position = [(0, 1), (0, 2)]
    world.coins = {(0, 0): 0, (0, 2): 0}
    rewards, info = play(world, FORWARD, NOOP)  # its own coin; the other stands on one of the first
    assert rewards.tolist() == [1 - 3, 1] and info["coins_own"].tolist() == [1, 0] and world.coins == {}
    assert info["coins_other"].tolist() == [0, 1] and info["robbed"].tolist() == [1, 0]
    assert world.bias_left == 0


def test_coins_grow_on_empty_cells_with_the_owner_of_the_word():
    world = make("coins", ["CCC   "], [(0, 3, EAST), (0, 4, EAST), (0, 5, EAST)])
    world.coins = {(0, 0): 2}
    play(world, NOOP, NOOP, NOOP, grow=[0, 2**31 - 1, 2**31])
    assert world.coins == {(0, 0): 2, (0, 1): (2**31 - 1) % 3}
    assert world.state()["coin"].tolist() == [3, (2**31 - 1) % 3 + 1, 0]


@pytest.mark.parametrize(
    ("growth", "own", "coins"),
    [
        # Agent 0 takes its coin from (0,0), on which one would grow, and another grows under agent 1, on (0,2).
        ("before", [1, 1], {}),  # not on (0,0), which is not empty
        ("deferred", [1, 1], {}),
        ("after", [2, 1], {}),  # there, too, and at once
    ],
)
def test_when_coins_grow(growth, own, coins):
    world = make("coins", ["C C"], [(0, 1, WEST), (0, 2, WEST)], {"growth": growth})
    world.coins = {(0, 0): 0}
    rewards, info = play(world, FORWARD, NOOP, grow=[0, 1])
    assert rewards.tolist() == info["coins_own"].tolist() == own and world.coins == coins


def test_a_coin_that_grows_under_an_agent_starts_a_whole_bias():
    world = make("coins", ["C C"], [(0, 0, WEST), (0, 1, WEST)], spawn_bias_steps=4)
    rewards, _ = play(world, NOOP, NOOP, grow=[1, NEVER])
    assert rewards.tolist() == [1, -2] and (world.bias_agent, world.bias_left) == (0, 4)


def test_spawn_bias():
    world = make("coins", ["CC CC"], [(0, 2, WEST), (0, 2, EAST)], spawn_bias_steps=[0, 2])
    world.position = [(0, 2), (0, 1)]
    world.coins = {(0, 0): 0}
    play(world, NOOP, BACKWARD)  # the second faces east; it takes the first one's coin
    assert (world.bias_agent, world.bias_left) == (1, 1) and world.position[1] == (0, 0)
    play(world, NOOP, NOOP, grow=[NEVER, 2, NEVER, NEVER])  # the word says 0, the bias 1; the last step of it
    assert world.coins == {(0, 1): 1} and world.bias_left == 0
    play(world, NOOP, NOOP, grow=[NEVER, NEVER, 2, NEVER])
    assert world.coins == {(0, 1): 1, (0, 3): 0} and world.bias_left == 0
    play(world, FORWARD, NOOP, grow=[NEVER, NEVER, NEVER, 3])  # a mismatch of one without bias changes nothing
    assert (world.bias_agent, world.bias_left) == (1, 0) and world.coins == {(0, 3): 0, (0, 4): 1}


def test_spawn_bias_of_the_first_in_the_order_and_at_once():
    world = make("coins", ["C  C C"], [(0, 1, WEST), (0, 2, EAST)], spawn_bias_steps=[3, 5])
    for order, expected in (([2, 1], (0, 2)), ([1, 2], (1, 4))):
        world.position = [(0, 1), (0, 2)]
        world.coins = {(0, 0): 1, (0, 3): 0}
        play(world, FORWARD, FORWARD, order=order, grow=[NEVER, NEVER, 1 - expected[0]])
        assert (world.bias_agent, world.bias_left) == expected and world.coins == {(0, 5): expected[0]}


# --- Observations ---


def test_egocentric_window():
    cells = egocentric(10, 10, NORTH, "ahead", 11)
    assert cells[9][5] == (10, 10) and cells[0][0] == (1, 5) and cells[10][10] == (11, 15)
    cells = egocentric(10, 10, EAST, "ahead", 11)
    assert cells[9][5] == (10, 10) and cells[0][5] == (10, 19) and cells[9][6] == (11, 10)
    cells = egocentric(10, 10, SOUTH, "centred", 15)
    assert cells[7][7] == (10, 10) and cells[0][7] == (17, 10) and cells[7][8] == (10, 9)
    assert egocentric(10, 10, WEST, "centred", 15)[7][8] == (9, 10)


LANDMARKS = [
    "      A",
    "       ",
    "   ~   ",
    "       ",
    "     W ",
    "       ",
]


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        # The agent is at (3, 3), in row 3, column 2 of a window of 5: 3 ahead, 1 behind, 2 to each side.
        (NORTH, ["33333", "33333", "33433", "33333", "33332"]),
        (EAST, ["33333", "33323", "33333", "34333", "33333"]),
        (SOUTH, ["11111", "33333", "23333", "33333", "33433"]),
        (WEST, ["33333", "33333", "33333", "33343", "33333"]),
    ],
)
def test_landmarks_in_four_headings(heading, expected):
    world = make("harvest", LANDMARKS, [(3, 3, heading)])
    seen = world.observe()[0]
    assert ["".join(map(str, line)) for line in seen[..., 0].tolist()] == expected
    assert seen[3, 2, 1] == 1 and (seen[..., 1] != 0).sum() == 1
    world.abilities["view"] = [1]
    near = world.observe()[0]
    np.testing.assert_array_equal(near[2:5, 1:4], seen[2:5, 1:4])
    assert (near[..., 0] != 0).sum() == 9


def test_other_agents_headings_and_visibility():
    world = make("harvest", ["     "] * 5, [(3, 2, EAST)] + [(2, 3, heading) for heading in range(4)])
    codes = {}
    for j in range(1, 5):
        world.away = [0] + [int(i != j) for i in range(1, 5)]
        codes[world.heading[j]] = world.observe()[0, 2, 1, 1]  # 1 ahead (east), 1 to the left (north)
    assert codes == {EAST: 2, SOUTH: 3, WEST: 4, NORTH: 5}
    # Agent 3 looks south: agent 0 is 1 ahead. Agent 1 looks north: agent 0 is 1 behind. Both see it.
    world.away = [0, 0, 1, 1, 1]
    assert world.visible()[:2, :2].all() and not world.visible()[2:].any() and not world.visible()[:, 2:].any()
    world.position[1] = (1, 2)  # 2 behind agent 0's back when that looks south
    world.heading[0] = SOUTH
    assert world.visible()[:2, :2].tolist() == [[True, False], [False, True]]
    world.heading = [NORTH, SOUTH, 0, 0, 0]
    assert world.visible()[:2, :2].all()
    world.abilities["view"] = [1] + [2] * 4
    assert world.visible()[:2, :2].tolist() == [[True, False], [True, True]]


def test_beams_coins_waste_and_apples_in_observations():
    world = make("cleanup", ["FH~A "], [(0, 4, WEST), (0, 1, EAST)], zap_radius=0, clean_radius=0, clean_length=1)
    world.apples = {(0, 3)}
    play(world, ZAP, CLEAN)
    seen = world.observe()[0]  # 3 ahead: cells 1, 2, 3 and its own
    assert seen[:4, 2].tolist() == [[4, 0], [4, 6], [6, 6], [3, 1]]  # zap over clean; not where agent 1 was hit
    play(world, NOOP, NOOP)
    assert world.observe()[0, :4, 2].tolist() == [[4, 0], [4, 0], [6, 0], [3, 1]]
    world.away = [0, 0]
    world.zap_wait, world.clean_wait = [9, 0], [0, 0]
    world.heading = [WEST, WEST]
    play(world, NOOP, CLEAN)
    assert world.observe()[1, 2, 2].tolist() == [4, 7] and world.observe()[1, 3, 2].tolist() == [4, 1]

    world = make("coins", ["CC "], [(0, 2, WEST), (0, 1, WEST)])
    world.coins = {(0, 0): 1, (0, 1): 1}
    seen = world.observe()
    assert seen[0, 1:4, 2].tolist() == [[8, 0], [8, 2], [3, 1]]
    assert seen[1, 2:5, 2].tolist() == [[7, 0], [7, 1], [3, 2]]


# --- Long runs ---

PRESETS = {
    "meltingpot": {"view_size": 11},
    "hughes2018": {
        "growth": "after",
        "agents_block_clean": True,
        "regrow_under_agents": False,
        "neighbour_radius2": 2,
        "removal_steps": 0,
        "waste_limit": 0.4,
        "waste_retries": True,
        "window": "centred",
        "view_size": 15,
    },
    "socialjax": {
        "beam_side_start": 1,
        "beams_pass": True,
        "regrow_under_agents": False,
        "removal_steps": 1,
        "denominator": "waste_and_river",
        "view_size": 11,
    },
}

MAP = [
    "WWWWWWWWWWWWWWWWWWWW",
    "W P  FHHFFHHF~  P  W",
    "W    HHHHHFFH~    CW",
    "W P   W    W    P  W",
    "WCC P      W  P   QW",
    "W     AAAAAAAA   CCW",
    "W P  AAAAAAAAAA P  W",
    "W     AAAAAAAA   Q W",
    "WWWWWWWWWWWWWWWWWWWW",
]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("game", ["cleanup", "harvest", "coins"])
def test_random_play_keeps_the_state_in_order(game, preset):
    rng = np.random.default_rng(1)
    n = 8
    rules = PRESETS[preset] | ({"growth": "deferred"} if (game, preset) == ("harvest", "meltingpot") else {})
    world = make(game, MAP, [(1, 1, 0)] * n, rules, spawn_bias_steps=[3, 0] * 4, speed=0.9)
    sizes = {name: np.shape(value) for name, value in words(world).items()}

    def random_words():
        return {name: rng.integers(0, 2**32, size, np.uint32) for name, size in sizes.items()}

    world.start(random_words())
    last = {"coins": 7, "harvest": 8, "cleanup": 9}[game]
    totals: dict[str, int] = {}
    for step in range(250):
        rewards, info = world.step(rng.integers(0, last, n), random_words())
        present = [i for i in range(n) if world.away[i] == 0]
        assert len({world.position[i] for i in present}) == len(present)
        assert all(world.board.walkable(cell) for cell in world.position)
        assert rewards.shape == (n,) and rewards.dtype == np.float64
        assert info["zap_hits"].sum() == info["zapped"].sum()
        assert all(values.shape == (n,) for values in info.values())
        for name, values in info.items():
            totals[name] = totals.get(name, 0) + int(values.sum())
        if step % 50 == 0:
            seen = world.observe()
            assert seen.shape == (n, *[world.rules["view_size"]] * 2, 2) and seen.dtype == np.uint8
            assert [bool(s) for s in seen.reshape(n, -1).any(1)] == [a == 0 for a in world.away]
            for i, j in itertools.permutations(range(n), 2):
                if world.visible()[i, j]:
                    assert 2 + (world.heading[j] - world.heading[i]) % 4 in seen[i, ..., 1]
            copy = make(game, MAP, [(1, 1, 0)] * n, PRESETS[preset])
            copy.load(world.state())
            for name, value in world.state().items():
                if name != "beam":
                    np.testing.assert_array_equal(copy.state()[name], value)
    happening = {
        "cleanup": ["apples", "zap_hits", "cleaned"],
        "harvest": ["apples", "zap_hits"],
        "coins": ["coins_own", "coins_other"],
    }
    assert all(totals[name] > 0 for name in happening[game])

"""Covey's `rules="meltingpot"` beside Melting Pot's own engine: the same scripts in both, compared.

    pip install dmlab2d dm-env dm-tree ml-collections immutabledict reactivex
    python benchmarks/meltingpot_parity.py --meltingpot PATH_TO_A_CHECKOUT

What has no randomness is compared step by step ("equal"); rates and returns by 95 % intervals ("within interval" where
they overlap, "apart" where not, which chance alone does once in 180 times); where Covey's rules depart on purpose, the
table says "differs by choice" and how. Any row with "DIFFERS" makes the program end with an error. Steps are
environment steps (all agents act once).
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from meltingpot_engine import (
    ACTIONS,
    CLEANUP,
    CLOSED,
    COINS,
    GAMES,
    OPEN,
    PARTNERSHIP,
    Board,
    Engine,
    Game,
    Ours,
    Scene,
    load,
    room,
    time_engine,
    window,
)
from scipy import stats
from timing import write_table

Check = Literal["maps", "moves", "beams", "timers", "eating", "rates", "observations", "returns", "speed"]
ZAP, CLEAN = ACTIONS["zap"], ACTIONS["clean"]


@dataclass(frozen=True)
class Args:
    """Settings of the comparison."""

    meltingpot: Path
    """A checkout of google-deepmind/meltingpot."""
    checks: tuple[Check, ...] = (
        "maps", "moves", "beams", "timers", "eating", "rates", "observations", "returns", "speed",
    )  # fmt: skip
    """What to compare."""
    quick: bool = False
    """A tenth of the samples, to see whether all runs."""
    seed: int = 0
    """Seed of both sides."""
    out: Path = Path("results/benchmarks/meltingpot_parity.csv")
    """Table to write."""


class Row(NamedTuple):
    """A line of the table."""

    environment: str
    check: str
    ours: str
    meltingpot: str
    agrees: str
    note: str = ""


def equal(environment: str, check: str, pair: Sequence[Any], note: str = "") -> Row:
    """A row of what has to be the same here and there."""
    ours, theirs = pair
    return Row(environment, check, str(ours), str(theirs), "equal" if ours == theirs else "DIFFERS", note)


def count(environment: str, check: str, same: Sequence[bool], what: str, note: str = "") -> Row:
    """A row of many single comparisons, each of which has to hold."""
    agrees = "equal" if all(same) else "DIFFERS"
    return Row(environment, check, f"{sum(same)} of {len(same)} {what}", "the reference", agrees, note)


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def share(events: float, trials: float) -> Interval:
    """A probability from counts, with Wilson's interval."""
    p, z = events / trials, 1.96
    middle, width = p + z * z / 2 / trials, z * math.sqrt(p * (1 - p) / trials + z * z / 4 / trials**2)
    scale = 1 + z * z / trials
    return Interval(p, max(0.0, (middle - width) / scale), (middle + width) / scale)


def average(values: Sequence[float] | np.ndarray) -> Interval:
    """A mean with Student's interval."""
    values = np.asarray(values, float)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Interval(values.mean(), values.mean() - half, values.mean() + half)


def overlap(environment: str, check: str, pair: Sequence[Interval], note: str = "") -> Row:
    """A row of two estimates, here and there, which agree where their intervals overlap."""
    ours, theirs = pair
    agrees = ours.low <= theirs.high and theirs.low <= ours.high
    return Row(environment, check, str(ours), str(theirs), "within interval" if agrees else "apart", note)


# --- Policies: from observations, with NumPy, so that they play on both sides ---


def approach(views: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int[...]: the step towards the nearest wanted cell, a random move where there is none, and one step in ten."""
    ahead, right = 9 - np.arange(11)[:, None], np.arange(11)[None] - 5
    distance = np.where(wanted, np.abs(ahead) + np.abs(right) + 0.5 * rng.random(wanted.shape), np.inf)
    flat = distance.reshape(*distance.shape[:-2], -1)
    best = flat.argmin(-1)
    f, x = 9 - best // 11, best % 11 - 5
    sideways = (x != 0) & ((f <= 0) | (rng.random(f.shape) < 0.5))
    step = np.where(sideways, np.where(x < 0, ACTIONS["left"], ACTIONS["right"]), ACTIONS["forward"])
    step = np.where((f < 0) & (x == 0), ACTIONS["backward"], step)
    wander = rng.choice([1, 1, 1, 3, 4, 5, 6], f.shape)
    lost = ~np.isfinite(flat.min(-1)) | (rng.random(f.shape) < 0.1)
    return np.where(lost, wander, step)


REACH = np.zeros((11, 11), bool)
"""The window's cells that a beam of length 3 and radius 1 covers."""
REACH[6:9, 5] = REACH[7:10, 4] = REACH[7:10, 6] = True


def in_reach(targets: np.ndarray) -> np.ndarray:
    """bool[...]: whether a beam would cover one of the targets."""
    return np.any(targets & REACH, axis=(-2, -1))


Policy = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def gather(views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """To the nearest apple or coin."""
    return approach(views, np.isin(views[..., 0], (6, 7, 8)), rng)


def gather_own(views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """To the nearest coin of one's own."""
    return approach(views, views[..., 0] == 7, rng)


def restrain(views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """To the nearest apple that has at least three others in the eight cells around it."""
    apple = np.pad((views[..., 0] == 6).astype(int), [(0, 0)] * (views.ndim - 3) + [(1, 1), (1, 1)])
    around = sum(apple[..., 1 + i : 12 + i, 1 + j : 12 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))
    return approach(views, (views[..., 0] == 6) & (around >= 3), rng)


def fight(views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As `gather`, but zap who is right ahead, every other time."""
    others = (views[..., 1] >= 2) & (views[..., 1] < 6)
    zap = in_reach(others) & (rng.random(views.shape[:-3]) < 0.5)
    return np.where(zap, ZAP, gather(views, rng))


def share_work(views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first three agents clean, the others gather."""
    waste = views[..., 0] == 5
    shoot = in_reach(waste) & (rng.random(views.shape[:-3]) < 0.5)
    cleaning = np.where(shoot, CLEAN, approach(views, waste, rng))
    return np.where(np.arange(views.shape[-4]) < 3, cleaning, gather(views, rng))


# --- Maps and starts ---


def compare_maps(args: Args) -> Iterator[Row]:
    """The maps cell by cell, and where agents start."""
    for game in GAMES:
        ours, theirs = Ours(game, args.seed), Engine(game.substrate, seed=args.seed)
        episodes, kinds, headings = 8 if args.quick else 40, [], []
        for side in (ours, theirs):
            seen, facing = [set() for _ in range(side.num_agents)], []
            for _ in range(episodes):
                side.reset()
                board, cells = side.board(), "".join(side.cells())
                for agent, cell in enumerate(board.cell):
                    seen[agent].add(cells[cell])
                facing += list(board.heading)
            kinds.append(" ".join("".join(sorted(found)) for found in seen))
            headings.append(facing)
        mine, other = ours.cells(), theirs.cells()
        if game is COINS:  # Every build draws a room of its own, on a sheet of one size.
            other = [row.rstrip() for row in other if row.strip()]
            room_here = f"{len(other[0]) - 2}x{len(other) - 2}"
            mine = Ours(COINS._replace(map=room_here), args.seed).cells()
        pairs = list(zip("".join(mine), "".join(other), strict=True))
        yield count(game.name, "map", [a == b for a, b in pairs], "cells", f"{len(other[0])} x {len(other)}")
        if game is not COINS:
            a, b = ours.board(), theirs.board()
            same = [bool((a.apple == b.apple).all()), bool((a.waste == b.waste).all())]
            yield count(game.name, "apples and waste at the start", same, "grids")
        yield equal(game.name, "cells that agents start on, agent by agent", kinds)
        for heading, name in enumerate(("north", "east", "south", "west")):
            shares = [share(facing.count(heading), len(facing)) for facing in headings]
            yield overlap(game.name, f"share of starts facing {name}", shares)


# --- Moves ---

PILLARS = ("       ", "  W  W ", "       ", " W   W ", "       ")
HALL = ("     ",) * 3


def compare_moves(args: Args) -> Iterator[Row]:
    """Turns, moves and blocked moves of one agent; then what happens where several want the same cell."""
    rng = np.random.default_rng(args.seed)
    for game in (CLEANUP, OPEN, COINS):
        # Coins is a game for two: the other one stays in the strip.
        scene = Scene(game, room(PILLARS, game), [(3, 4), (7, 1)][: 2 if game is COINS else 1], [0, 0])
        scene = scene._replace(headings=scene.headings[: len(scene.starts)])
        ours, theirs, same = scene.ours(args.seed), scene.theirs(args.seed), []
        for action in rng.integers(0, 7, 60 if args.quick else 1000):
            actions = [int(action), 0][: len(scene.starts)]
            ours.step(actions)
            theirs.step(actions)
            a, b = ours.board(), theirs.board()
            same.append(bool((a.cell == b.cell).all() and (a.heading == b.heading).all()))
        yield count(game.name, "poses on a random walk among walls", same, "poses")
    east, west, south, north = ACTIONS["right"], ACTIONS["left"], ACTIONS["backward"], ACTIONS["forward"]
    conflicts: tuple[tuple[str, list[tuple[int, int]], list[int]], ...] = (
        ("two want one cell", [(1, 1), (1, 3)], [east, west]),
        ("a move into one that stays", [(1, 1), (1, 2)], [east, 0]),
        ("a move into one that turns", [(1, 1), (1, 2)], [east, ACTIONS["turn_left"]]),
        ("two that would swap", [(1, 1), (1, 2)], [east, west]),
        ("three in a row move on", [(1, 1), (1, 2), (1, 3)], [east, east, east]),
        ("four in a circle move on", [(1, 1), (1, 2), (2, 2), (2, 1)], [east, south, west, north]),
    )
    for name, starts, actions in conflicts:
        scene, attempts = Scene(OPEN, room(HALL, OPEN), starts, [0] * len(starts)), 10 if args.quick else 100
        ours, found = scene.ours(args.seed), (Counter[str](), Counter[str]())
        for attempt in range(attempts):
            ours.pose(starts, scene.headings)
            for outcomes, side in zip(found, (ours, scene.theirs(args.seed + attempt)), strict=True):
                side.step(actions)
                moved = side.board().cell != [row * side.width + column for row, column in starts]
                outcomes["".join("+" if m else "-" for m in moved)] += 1
        text = [", ".join(f"{k} {v / c.total():.0%}" for k, v in sorted(c.items(), reverse=True)) for c in found]
        if name == "two want one cell":
            yield overlap(OPEN.name, name + ": share of the first", [share(c["+-"], c.total()) for c in found])
        elif name in ("three in a row move on", "four in a circle move on"):
            note = "(+ moved) all at once here; there one after the other in random order"
            yield Row(OPEN.name, name, *text, agrees="differs by choice", note=note)
        else:
            yield equal(OPEN.name, name, text, note="(+ moved)")


# --- Beams ---


def compare_beams(args: Args) -> Iterator[Row]:
    """Footprints in the open, then everybody shooting at once among walls, waste and each other."""
    open_field = (" " * 13,) * 13
    for game, action in ((CLEANUP, ZAP), (CLEANUP, CLEAN), (OPEN, ZAP), (CLOSED, ZAP)):
        same, cells = [], 0
        for heading in range(4):
            scene = Scene(game, room(open_field, game), [(7, 7)], [heading])
            shown = []
            for side in (scene.ours(args.seed), scene.theirs(args.seed)):
                side.step([action])
                board = side.board()
                shown.append(board.zap if action == ZAP else board.clean)
            cells = int(shown[1].sum())
            same.append(bool((shown[0] == shown[1]).all()))
        name = "zap" if action == ZAP else "clean"
        yield count(game.name, f"{name}: footprint", same, "headings", f"{cells} cells")
    rng = np.random.default_rng(args.seed)
    for game in (CLEANUP, OPEN, CLOSED):
        hits, cleaned, shown = [], [], []
        for _ in range(3):
            walls = rng.random((8, 9)) < 0.12
            floor = "H" if game is CLEANUP else " "
            layout = room(["".join("W" if w else floor for w in row) for row in walls], game)
            free = np.argwhere(~walls) + 1
            for attempt in range(2 if args.quick else 15):
                starts = [(int(r), int(c)) for r, c in rng.permutation(free)[:6]]
                headings = [int(h) for h in rng.integers(0, 4, 6)]
                waste = [(int(r), int(c)) for r, c in rng.permutation(free)[: 20 if game is CLEANUP else 0]]
                shots = rng.choice([ZAP, CLEAN] if game is CLEANUP else [ZAP], 6)
                scene = Scene(game, layout, starts, headings)
                dirty = tuple(
                    "".join("F" if (r, c) in waste else x for c, x in enumerate(row)) for r, row in enumerate(layout)
                )
                theirs = scene._replace(layout=dirty).theirs(args.seed + attempt)
                if attempt == 0:
                    ours = scene.ours(args.seed)
                ours.pose(starts, headings, waste if game is CLEANUP else None)
                ours.step(shots)
                theirs.step(shots)
                a, b = ours.board(), theirs.board()
                hits.append(bool(((a.cell < 0) == (b.cell < 0)).all()))
                cleaned.append(bool((a.waste == b.waste).all()))
                shown.append(bool((a.zap == b.zap).all() and (a.clean == b.clean).all()))
        yield count(game.name, "six agents shoot at once among walls: who is hit", hits, "scenes")
        if game is CLEANUP:
            yield count(game.name, "the same: which waste is left", cleaned, "scenes")
        yield count(game.name, "the same: which cells show a beam", shown, "scenes")


# --- Waiting times ---


def compare_timers(args: Args) -> Iterator[Row]:
    """How long agents are away, and how often they can shoot."""
    for game in (CLEANUP, OPEN):
        starts, back = [(9, 4), (10, 4)] if game is CLEANUP else [(7, 7), (8, 7)], [set(), set()]
        for attempt in range(2 if args.quick else 12):
            ours, theirs = (
                Ours(game, args.seed + attempt, num_agents=2),
                Engine(game.substrate, seed=args.seed + attempt, num_agents=2, starts=starts, north=True),
            )
            theirs.reset()
            ours.pose(starts, [0, 0])
            for kinds, side in zip(back, (ours, theirs), strict=True):
                side.step([0, ZAP])
                while side.board().cell[0] < 0:
                    side.step([0, 0])
                kinds.add("".join(side.cells())[side.board().cell[0]])
        yield equal(game.name, "cells that agents come back on", [" ".join(sorted(kinds)) for kinds in back])
    for game in GAMES[:4]:
        duel = Scene(game, room(HALL, game), [(2, 2), (2, 3)], [1, 0])
        away = []
        for side in (duel.ours(args.seed), duel.theirs(args.seed)):
            side.step([ZAP, 0])
            absent = [side.board().cell[1] < 0]
            while absent[-1] and len(absent) < 200:
                side.step([0, 0])
                absent.append(side.board().cell[1] < 0)
            away.append(sum(absent))
        yield equal(game.name, "observations without an agent that was hit", away)
        for action in (ZAP, CLEAN) if game is CLEANUP else (ZAP,):
            alone, shots = Scene(game, room(HALL, game), [(2, 2)], [0]), []
            for side in (alone.ours(args.seed), alone.theirs(args.seed)):
                found = []
                for step in range(36):
                    side.step([action])
                    board = side.board()
                    if (board.zap | board.clean).any():
                        found.append(step)
                shots.append(" ".join(map(str, found)))
            name = "zap" if action == ZAP else "clean"
            yield equal(game.name, f"steps of 36 in which a held {name} fires", shots)


# --- Eating and growing ---

CERTAIN_THERE: dict[Game, dict[str, Any]] = {
    CLEANUP: {"potential_apple": {"AppleGrow": {"maxAppleGrowthRate": 1.0}}},
    OPEN: {"apple": {"DensityRegrow": {"regrowthProbabilities": [0.0, 1.0]}}},
    COINS: {"coin": {"ChoiceCoinRegrow": {"regrowRate": 1.0}}},
}
"""Settings of Melting Pot's prefabs under which everything grows as soon as it can."""
ERRANDS = {
    "come and stay": [3] + [0] * 8,
    "come, stay a step, go": [3, 0, 4, 0, 0, 0],
    "come, go, come back": [3, 4, 3, 4, 0, 3, 4, 0, 0, 3, 0, 0],
    "come on, then back": [3, 3, 4, 4, 3, 0, 3, 0, 0],
    "come and turn about": [3, 5, 5, 6, 6, 0, 0],
}
"""What an agent does that starts to the right of two cells on which something grows."""


def compare_eating(args: Args) -> Iterator[Row]:
    """What an agent gets where growth is certain, reward by reward, and what the board shows."""
    for game in (CLEANUP, OPEN, COINS):
        kind = "C" if game is COINS else "A"
        layout = room([f"{kind}{kind}    ", " " * 6], game)
        starts = [(1, 3), (4, 1)][: 2 if game is COINS else 1]
        scene = Scene(game, layout, starts, [0] * len(starts))
        for name, actions in ERRANDS.items():
            traces = []
            for side in (scene.ours(args.seed, certain=True), scene.theirs(args.seed, prefabs=CERTAIN_THERE[game])):
                trace = []
                for action in actions:
                    reward = side.step([action, 0][: len(starts)])[0]
                    board = side.board()
                    there = (board.apple | (board.coin > 0))[1, 1:3]
                    trace.append(f"{reward:g}" + "".join("o" if grown else "." for grown in there))
                traces.append(" ".join(trace))
            yield equal(game.name, f"certain growth: {name}", traces, "each step's reward, and what the cells show")
    scene, gains = Scene(CLEANUP, room(["A     ", " " * 6], CLEANUP), [(1, 2)], [0]), []
    for side in (scene.ours(args.seed, certain=True), scene.theirs(args.seed, prefabs=CERTAIN_THERE[CLEANUP])):
        side.step([ACTIONS["left"]])
        gains.append(f"{side.step([ACTIONS['left']])[0]:g}")
    note = "the engine lets an agent that is blocked enter its cell once more; it then has the same apple twice"
    yield Row(
        CLEANUP.name,
        "gain of a blocked move while an apple grows underfoot",
        gains[0],
        gains[1],
        "differs by choice",
        note,
    )


# --- Rates ---


def newly(side: Ours | Engine, what: str, steps: int) -> list[tuple[int, int]]:
    """(appeared, could have) of each step in which nobody acts: cells that were empty and now hold something."""
    holders = {"apple": ["A"], "coin": ["C"], "waste": ["H", "F"]}[what]
    could = np.isin(np.array([list(row) for row in side.cells()]), holders)
    found, before = [], getattr(side.board(), what) > 0
    for _ in range(steps):
        side.step([0] * side.num_agents)
        after = getattr(side.board(), what) > 0
        found.append((int((after & ~before).sum()), int((could & ~before).sum())))
        before = after
    return found


NEIGHBOURS = ((0, 1), (0, -1), (-1, 0), (0, 2), (-1, 1))


def regrowth_scene(game: Game, neighbours: int) -> Scene:
    """Seven apple cells, far apart, with so many neighbours each, and an agent south of each."""
    grid = np.full((15, 31), " ")
    centres = [(r, c) for r in (3, 11) for c in (3, 11, 19, 27)][:7]
    for row, column in centres:
        for down, right in ((0, 0), *NEIGHBOURS[:neighbours]):
            grid[row + down, column + right] = "A"
    return Scene(game, room(["".join(row) for row in grid], game), [(r + 2, c + 1) for r, c in centres], [0] * 7)


def regrown(side: Ours | Engine, steps: int) -> Interval:
    """The rate at which apples come back under agents, which eat them at once."""
    side.step([ACTIONS["forward"]] * side.num_agents)
    events = sum(float(side.step([0] * side.num_agents).sum()) for _ in range(steps))
    # An apple eaten in one step cannot come back in the next.
    return share(events, side.num_agents * (steps - 1) - events)


def neighbour_scenes() -> Iterator[tuple[tuple[int, int], Scene]]:
    """By (rows down, columns right), an apple cell with one other that far away, and an agent north of the first."""
    for down, right in itertools.product(range(4), range(4)):
        if (down, right) != (0, 0):
            grid = np.full((6, 6), " ")
            grid[1, 1] = grid[1 + down, 1 + right] = "A"
            yield (down, right), Scene(OPEN, room(["".join(row) for row in grid], OPEN), [(1, 2)], [0])


def is_neighbour(side: Ours | Engine) -> bool:
    """Whether the first apple comes back, where one with a neighbour surely does."""
    side.step([ACTIONS["backward"]])
    return sum(float(side.step([0]).sum()) for _ in range(6)) > 0


def compare_rates(args: Args) -> Iterator[Row]:
    """Waste over time, apples against the share of waste, apples against their neighbours, coins."""
    few = args.quick
    found = []
    for side in (Ours(CLEANUP, args.seed, num_agents=1), Engine(CLEANUP.substrate, seed=args.seed, num_agents=1)):
        runs = []
        for _ in range(3 if few else 20):
            side.reset()
            runs.append([new for new, _ in newly(side, "waste", 110)])
        found.append(np.array(runs))
    yield equal(CLEANUP.name, "first step (from 0) with new waste", [int(f.any(0).argmax()) for f in found])
    yield equal(CLEANUP.name, "most new waste in a step", [int(f.max()) for f in found])
    rates = [share(f[:, 50:].sum(), f[:, 50:].size) for f in found]
    yield overlap(CLEANUP.name, "new waste per step, from step 50", rates, note="Melting Pot's setting: 0.5")

    for dirty in (0, 2, 4, 6, 7, 8, 12):
        field = room(["A" * 20] * 12 + ["F" * dirty + "H" * (19 - dirty) + " "], CLEANUP)  # and one more H
        scene, shares = Scene(CLEANUP, field, [(13, 20)], [0]), []
        for make in (scene.ours, scene.theirs):
            counts = np.zeros(2)
            for run in range(1 if few else 6):
                counts += np.sum(newly(make(args.seed + 11 * dirty + run), "apple", 45), axis=0)
            shares.append(share(*counts))
        nominal = 0.05 * max(0.0, 1 - dirty / 20 / 0.4)
        name = f"apple growth per cell and step, waste share {dirty / 20:g}"
        yield overlap(CLEANUP.name, name, shares, note=f"Melting Pot's formula: {nominal:g}")

    for game in (OPEN, CLOSED):
        for many in range(5):
            scene, seed = regrowth_scene(game, many), args.seed + 31 * many + 7 * GAMES.index(game)
            rates = [regrown(side, 600 if few else 6000) for side in (scene.ours(seed), scene.theirs(seed))]
            yield overlap(game.name, f"regrowth per step with {many} neighbours", rates)

    near: tuple[list[str], list[str]] = ([], [])
    for (down, right), scene in neighbour_scenes():
        sides = scene.ours(args.seed, certain=True), scene.theirs(args.seed, prefabs=CERTAIN_THERE[OPEN])
        for found_near, side in zip(near, sides, strict=True):
            found_near += [f"{down}/{right}"] if is_neighbour(side) else []
    name = "neighbours of an apple cell, as rows down/columns right of it"
    yield equal(OPEN.name, name, [" ".join(found_near) for found_near in near])

    coins, owners = [], []
    for make in ("ours", "theirs"):
        counts, mine, total = np.zeros(2), 0, 0
        for run in range(3 if few else 25):
            layout = room(["C" * 15] * 15, COINS)
            scene = Scene(COINS, layout, [(17, 1), (17, 2)], [0, 0])
            side = getattr(scene, make)(args.seed + run)
            counts += np.sum(newly(side, "coin", 250), axis=0)
            coin = side.board().coin
            mine, total = mine + int((coin == 1).sum()), total + int((coin > 0).sum())
        coins.append(share(*counts))
        owners.append(share(mine, total))
    yield overlap(COINS.name, "coin growth per empty cell and step", coins, note="Melting Pot's setting: 0.0005")
    yield overlap(COINS.name, "share of coins that belong to the first agent", owners)


# --- Observations ---


def tiles(picture: np.ndarray) -> np.ndarray:
    """uint8[rows, columns, 192]: a picture cut into its 8 x 8 cells."""
    rows, columns = picture.shape[0] // 8, picture.shape[1] // 8
    return picture.reshape(rows, 8, columns, 8, 3).transpose(0, 2, 1, 3, 4).reshape(rows, columns, 192)


def compare_observations(args: Args) -> Iterator[Row]:
    """Covey's observation of the engine's board beside the engine's picture of it: one symbol for each picture."""
    rng = np.random.default_rng(args.seed)
    lively: dict[Game, dict[str, Any]] = {
        CLEANUP: {"potential_apple": {"AppleGrow": {"thresholdDepletion": 1.0}}},
        OPEN: {},
        COINS: {"coin": {"ChoiceCoinRegrow": {"regrowRate": 0.01}}},
    }
    for game, prefabs in lively.items():
        theirs = Engine(game.substrate, seed=args.seed, prefabs=prefabs)
        theirs.reset()
        ours = Ours(game, args.seed, layout=theirs.cells())
        ours.reset()
        meanings: dict[tuple[int, bytes], set[tuple[int, int]]] = {}
        for _ in range(20 if args.quick else 150):
            theirs.step(rng.integers(0, ZAP, theirs.num_agents))  # Beams are compared above.
            board = theirs.board()
            symbols = ours.observe(board)
            for agent in np.flatnonzero(board.cell >= 0).tolist():
                view = tiles(theirs.picture(agent))
                view = view[theirs.height - 9 : theirs.height + 2, theirs.width - 5 : theirs.width + 6]
                for row, column in itertools.product(range(11), range(11)):
                    ground, who = (int(x) for x in symbols[agent, row, column])
                    if game is COINS and ground == 1:
                        ground = 3  # There, floor and outside are both black.
                    key = (agent if game is COINS else 0, view[row, column].tobytes())
                    meanings.setdefault(key, set()).add((ground, who))
        same = [len(found) == 1 for found in meanings.values()]
        kinds = len(set().union(*meanings.values()))
        yield count(game.name, "pictures of a cell that stand for one symbol", same, "pictures", f"{kinds} symbols")
        ahead, across = ours.env.view
        mine = {"forward": ahead.max(), "backward": -ahead.min(), "left": -across.min(), "right": across.max()}
        sides = [" ".join(str(view[side]) for side in mine) for view in (mine, theirs.usual_view)]
        yield equal(game.name, "cells seen ahead, behind, to the left and right", sides)


# --- Returns and speed ---

POLICIES: tuple[tuple[Game, Policy | None], ...] = (
    (CLEANUP, None),
    (CLEANUP, share_work),
    (OPEN, None),
    (OPEN, gather),
    (OPEN, restrain),
    (OPEN, fight),
    (CLOSED, restrain),
    (CLOSED, fight),
    (PARTNERSHIP, gather),
    (COINS, None),
    (COINS, gather),
    (COINS, gather_own),
)
"""Who plays what; None acts at random."""
EPISODE = 1000


def choose(policy: Policy | None, game: Game, views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int[..., N]: actions for observations [..., N, 11, 11, 2]."""
    return rng.integers(0, game.actions, views.shape[:-3]) if policy is None else policy(views, rng)


def left_over(board: Board, game: Game) -> int:
    """How much waste, or how many apples or coins, are on the board."""
    return int((board.waste if game is CLEANUP else board.apple | (board.coin > 0)).sum())


def play_here(game: Game, policy: Policy | None, episodes: int, seed: int) -> np.ndarray:
    """float[episodes, 2]: all agents' rewards together, and what is left at the end."""
    rng, side = np.random.default_rng(seed), Ours(game, seed, copies=episodes)
    side.reset()
    total = np.zeros(episodes)
    for _ in range(EPISODE):
        total += side.step(choose(policy, game, side.observations(), rng)).sum(-1)
    kind = {"cleanup": "waste", "harvest": "apple", "coins": "coin"}[game.game]
    left = np.asarray(getattr(side.state, kind) > 0).sum(-1)
    return np.stack([total, left], axis=1)


def play_there(game: Game, policy: Policy | None, episodes: int, seed: int) -> np.ndarray:
    """The same in Melting Pot; of Coins' rooms, the one that Covey has."""
    layout = Ours(COINS, seed).cells() if game is COINS else None
    rng, side, results = np.random.default_rng(seed + 1), Engine(game.substrate, seed=seed + 1, layout=layout), []
    for _ in range(episodes):
        side.reset()
        cells, total = side.cells(), 0.0
        for _ in range(EPISODE):
            total += side.step(choose(policy, game, window(side.board(), cells), rng)).sum()
        results.append((total, left_over(side.board(), game)))
    return np.array(results, float)


def compare_returns(args: Args) -> Iterator[Row]:
    """The same policies on both sides."""
    episodes = 3 if args.quick else 12
    for game, policy in POLICIES:
        name = policy.__name__ if policy else "random"
        values = [play(game, policy, episodes, args.seed) for play in (play_here, play_there)]
        note = f"{episodes} episodes of {EPISODE} steps"
        yield overlap(game.name, f"{name}: collective return", [average(v[:, 0]) for v in values], note=note)
        what = "waste" if game is CLEANUP else "coins" if game is COINS else "apples"
        yield overlap(game.name, f"{name}: {what} at the end", [average(v[:, 1]) for v in values], note=note)


def compare_speed(args: Args) -> Iterator[Row]:
    """Melting Pot's steps per second, random actions, with the observations that its users get."""
    for game in (CLEANUP, OPEN, COINS):
        steps = 50 if args.quick else 250
        agents, seconds, resets = time_engine(game, steps, 5, args.seed)
        rates = [steps / s for s in seconds]
        spread = f"{min(rates):.0f} to {max(rates):.0f}"
        note = f"{agents} agents, one process, {spread}; a reset takes {statistics.median(resets):.2f} s besides"
        yield Row(game.name, "env steps/s of the engine", "", f"{statistics.median(rates):.0f}", "", note)


CHECKS: dict[Check, Callable[[Args], Iterator[Row]]] = {
    "maps": compare_maps,
    "moves": compare_moves,
    "beams": compare_beams,
    "timers": compare_timers,
    "eating": compare_eating,
    "rates": compare_rates,
    "observations": compare_observations,
    "returns": compare_returns,
    "speed": compare_speed,
}


def main(args: Args) -> None:
    load(args.meltingpot)
    rows: list[Row] = []

    def checked() -> Iterator[dict[str, Any]]:
        for check in args.checks:
            for row in CHECKS[check](args):
                rows.append(row)
                yield row._asdict()

    write_table(args.out, checked(), " ".join(["python", *sys.argv]).replace(str(args.meltingpot), "PATH"))
    tally = Counter(row.agrees for row in rows if row.agrees)
    print(", ".join(f"{number} {status}" for status, number in tally.most_common()) or "nothing to agree on")
    wrong = [f"{row.environment}: {row.check}" for row in rows if row.agrees == "DIFFERS"]
    if wrong:
        sys.exit("\n".join(["The two differ in:", *wrong]))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))

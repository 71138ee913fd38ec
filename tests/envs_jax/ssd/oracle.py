"""The rules of Cleanup, Harvest and Coins in slow plain Python, to hold `envs_jax.ssd` against.

Written from the rules alone and sharing nothing with the package: cells are `(row, col)` pairs, boards are dictionaries
and sets, agents act in loops. Randomness comes from outside, as the words (uint32) that each step consumes.

Letters: N agents, S spawn cells, A apple cells, D cells that can hold waste, C coin cells, V window size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Cell = tuple[int, int]

FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT, ZAP, CLEAN = range(1, 9)
LAST_ACTION = {"coins": TURN_RIGHT, "harvest": ZAP, "cleanup": CLEAN}

OUTSIDE, WALL, FLOOR, RIVER, WASTE, APPLE, OWN_COIN, OTHER_COIN = range(1, 9)  # ground plane; 0 is unseen
SELF, OTHER, ZAP_BEAM, CLEAN_BEAM = 1, 2, 6, 7  # agent plane; another agent is OTHER + its heading relative to mine


# --- Words ---


def happens(word: int, probability: float) -> bool:
    """Whether an event of this probability happens; Python rounds half to even, exactly."""
    return int(word) < round(float(probability) * 2**32)


def ranked(words: Iterable[int]) -> list[int]:
    """Indices in the order of their words: larger first, of equal ones the lower index."""
    words = [int(word) for word in words]
    return sorted(range(len(words)), key=lambda i: (-words[i], i))


def one_of(word: int, things: list[Any]) -> Any:
    """The one of `things` that a word says."""
    return things[int(word) * len(things) // 2**32]


# --- Geometry ---


def place(row: int, col: int, heading: int, ahead: int, right: int) -> Cell:
    """The cell so far ahead and to the right of an agent at (row, col); negative numbers are behind and to the left."""
    if heading == 0:  # north: ahead is up, right is east
        return row - ahead, col + right
    if heading == 1:  # east: ahead is east, right is down
        return row + right, col + ahead
    if heading == 2:  # south: ahead is down, right is west
        return row + ahead, col - right
    if heading == 3:  # west: ahead is west, right is up
        return row - right, col - ahead
    raise ValueError(f"heading is {heading}; allowed: 0 to 3")


def egocentric(row: int, col: int, heading: int, window: str, size: int) -> list[list[Cell]]:
    """The cells of an agent's window, [size][size], the row farthest ahead first; some may lie outside the map.

    window: "ahead" (all but one row of what is not the agent's own lies ahead) or "centred".
    """
    ahead = {"ahead": size - 2, "centred": size // 2}[window]
    return [[place(row, col, heading, ahead - r, c - size // 2) for c in range(size)] for r in range(size)]


def beam_cells(
    row: int,
    col: int,
    heading: int,
    length: int,
    radius: int,
    side_start: int,
    height: int,
    width: int,
    blockers: Iterable[Cell] = (),
) -> set[Cell]:
    """The cells that a beam of the agent at (row, col) reaches: on the map, and including blockers that end it.

    blockers: cells that stop a beam (walls among them, if they do). The outside of the map always stops it.
    """
    blockers = set(blockers)
    reached: set[Cell] = set()

    def inside(cell: Cell) -> bool:
        return 0 <= cell[0] < height and 0 <= cell[1] < width

    for ahead in range(1, length + 1):
        cell = place(row, col, heading, ahead, 0)
        if not inside(cell):
            break
        reached.add(cell)
        if cell in blockers:
            break

    for side in (-1, 1):
        for lane in range(1, radius + 1):
            # The way to the lane's last cell: sideways from beside the agent, then straight on. A cell on the way is
            # reached by this lane only if it belongs to it; with side_start 1 the sideways part does not.
            way = [(0, side * x) for x in range(1, lane + 1)]
            way += [(ahead, side * lane) for ahead in range(1, length - lane + 1)]
            for ahead, right in way:
                cell = place(row, col, heading, ahead, right)
                if not inside(cell):
                    break
                if abs(right) == lane and side_start <= ahead <= length - lane:
                    reached.add(cell)
                if cell in blockers:
                    break
    return reached


def resolve_moves(
    positions: Sequence[Any], targets: Sequence[Any], present: Sequence[bool], order: Sequence[int]
) -> list[Any]:
    """Where everybody is after all moved at once; an agent whose target is its own cell stays.

    order: indices of the agents, the first one first (what `ranked` gives). Cells may be anything hashable.
    """
    agents = [i for i in range(len(positions)) if present[i]]
    occupant = {positions[i]: i for i in agents}
    wants = {i: targets[i] for i in agents if targets[i] != positions[i]}

    swapping = []
    for i in wants:
        j = occupant.get(wants[i])
        if j in wants and wants[j] == positions[i]:
            swapping.append(i)
    for i in swapping:
        del wants[i]

    may_have: dict[Any, int] = {}
    for i in order:
        if i in wants and wants[i] not in may_have:
            may_have[wants[i]] = i

    # All of these move, except those whose target somebody keeps, and then those who wanted the cells that these keep,
    # and so on. Taking away what is blocked, instead of adding what is free, lets closed cycles move.
    moving = set(may_have.values())
    while True:
        blocked = {i for i in moving if wants[i] in occupant and occupant[wants[i]] not in moving}
        if not blocked:
            break
        moving -= blocked
    return [wants[i] if i in moving else positions[i] for i in range(len(positions))]


# --- The board ---


class Board:
    """A map: what is where, each kind of cell numbered in row-major order."""

    def __init__(self, text: str | Sequence[str]) -> None:
        lines = text.strip("\n").split("\n") if isinstance(text, str) else list(text)
        self.height, self.width = len(lines), len(lines[0])
        if any(len(line) != self.width for line in lines):
            raise ValueError("the lines of the map differ in length")
        self.walls: set[Cell] = set()
        self.plain_river: list[Cell] = []
        self.apple_cells: list[Cell] = []
        self.waste_cells: list[Cell] = []
        self.starts_with_waste: list[bool] = []
        self.coin_cells: list[Cell] = []
        self.spawn_cells: list[Cell] = []
        self.spawn_groups: list[int] = []
        for row, line in enumerate(lines):
            for col, character in enumerate(line):
                cell = (row, col)
                if character == "W":
                    self.walls.add(cell)
                elif character == "~":
                    self.plain_river.append(cell)
                elif character == "A":
                    self.apple_cells.append(cell)
                elif character in "HF":
                    self.waste_cells.append(cell)
                    self.starts_with_waste.append(character == "F")
                elif character == "C":
                    self.coin_cells.append(cell)
                elif character in "PQ":
                    self.spawn_cells.append(cell)
                    self.spawn_groups.append("PQ".index(character))
                elif character != " ":
                    raise ValueError(f"the map has {character!r} at row {row}, column {col}")
        self.river: set[Cell] = {*self.plain_river, *self.waste_cells}

    def inside(self, cell: Cell) -> bool:
        """Whether the map has this cell."""
        return 0 <= cell[0] < self.height and 0 <= cell[1] < self.width

    def walkable(self, cell: Cell) -> bool:
        """Whether an agent could be there."""
        return self.inside(cell) and cell not in self.walls

    def number(self, cell: Cell) -> int:
        """The cell as one number."""
        return cell[0] * self.width + cell[1]

    def apple_neighbours(self, radius2: int) -> list[list[Cell]]:
        """For each apple cell, the other apple cells within this squared distance."""
        return [
            [b for b in self.apple_cells if b != a and (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 <= radius2]
            for a in self.apple_cells
        ]


# --- The games ---


class World:
    """One episode of a game: `start(draws)`, then `step(actions, draws)` again and again.

    game: "cleanup", "harvest" or "coins". text: the map. rules: numbers by name. abilities: arrays [N] by name.
    Attributes are the state, and may be set between steps: `position`, `heading`, `away`, `zap_wait`, `clean_wait` are
    lists over agents; `apples` and `waste` are the sets of cells that have one, and `apples_before` those that had one
    a step earlier; `coins` is owner by cell; `bias_agent`, `bias_left`, `steps_taken` are numbers; `zap_beam` and
    `clean_beam` are the cells on which the last shots show.
    """

    def __init__(
        self, game: str, text: str | Sequence[str], rules: Mapping[str, Any], abilities: Mapping[str, Any]
    ) -> None:
        if game not in LAST_ACTION:
            raise ValueError(f"game is {game!r}; allowed: {sorted(LAST_ACTION)}")
        self.game = game
        self.board = Board(text)
        self.rules = dict(rules)
        self.abilities = {name: np.asarray(values).tolist() for name, values in abilities.items()}
        self.num_agents = len(self.abilities["speed"])
        self.speed_limit = [round(float(np.float32(speed)) * 2**32) for speed in self.abilities["speed"]]
        self.neighbours = self.board.apple_neighbours(rules["neighbour_radius2"]) if game == "harvest" else []
        self.windows: dict[tuple[int, int, int], list[list[Cell]]] = {}
        n = self.num_agents
        self.position: list[Cell] = [(0, 0)] * n
        self.heading = [0] * n
        self._clear()

    def _clear(self) -> None:
        n = self.num_agents
        self.away, self.zap_wait, self.clean_wait = [0] * n, [0] * n, [0] * n
        self.apples: set[Cell] = set()
        self.apples_before: set[Cell] = set(self.board.apple_cells)
        self.grew: set[Cell] = set()  # where apples appeared at the end of the last step
        self.waste: set[Cell] = set()
        self.coins: dict[Cell, int] = {}
        self.bias_agent = self.bias_left = self.steps_taken = 0
        self.zap_beam: set[Cell] = set()
        self.clean_beam: set[Cell] = set()

    def start(self, draws: Mapping[str, Any]) -> None:
        """Begin an episode; draws: `spawn` [N], `heading` [N]."""
        self._clear()
        groups = self.abilities["spawn_group"]
        for i in range(self.num_agents):
            cells = self._spawn_cells(groups[i], set(self.position[:i]))
            if not cells:
                raise ValueError(f"the map has too few spawn cells of group {groups[i]} for its agents")
            self.position[i] = one_of(draws["spawn"][i], cells)
            self.heading[i] = int(draws["heading"][i]) % 4
        if self.game == "harvest":
            self.apples = set(self.board.apple_cells)
        if self.game == "cleanup":
            starts = zip(self.board.waste_cells, self.board.starts_with_waste, strict=True)
            self.waste = {cell for cell, dirty in starts if dirty}

    def step(self, actions: Iterable[int], draws: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """One step: rewards float64[N], and a dictionary of what happened, int64[N] each."""
        n, can = self.num_agents, self.abilities
        actions = [int(action) for action in actions]
        if any(not 0 <= action <= LAST_ACTION[self.game] for action in actions):
            raise ValueError(f"actions are {actions}; allowed in {self.game}: 0 to {LAST_ACTION[self.game]}")
        order = ranked(draws["order"])
        active = [self.away[i] == 0 for i in range(n)]
        growth = self.rules["growth"]
        rewards = [can["step_reward"][i] if active[i] else 0.0 for i in range(n)]
        names = ["apples", "coins_own", "coins_other", "robbed", "zaps_fired", "zap_hits", "zapped", "cleans_fired"]
        info = {name: [0] * n for name in [*names, "cleaned"]}

        apples_at_start = set(self.apples)
        plan: tuple[dict[Cell, int], Cell | None] = ({}, None)
        if growth != "after":
            plan = self._plan_growth(draws)
        if growth == "before":
            self._grow(plan, order, rewards, info)

        self._move(actions, draws, active, order)
        self._collect(order, rewards, info)
        self._beams(actions, active, order, rewards, info)
        self._respawn(active, draws)

        if growth == "after":
            plan = self._plan_growth(draws)
        if growth != "before":
            self._grow(plan, order, rewards, info)

        self.apples_before = apples_at_start
        self.steps_taken += 1
        info["removed"] = [int(away > 0) for away in self.away]
        return np.array(rewards, np.float64), {name: np.array(values, np.int64) for name, values in info.items()}

    # --- The phases of a step ---

    def _move(self, actions: list[int], draws: Mapping[str, Any], active: list[bool], order: list[int]) -> None:
        """Turn and move."""
        targets = list(self.position)
        for i in range(self.num_agents):
            if not active[i] or int(draws["speed"][i]) >= self.speed_limit[i]:
                continue
            (row, col), heading = self.position[i], self.heading[i]
            target = (row, col)
            if actions[i] == FORWARD:
                target = place(row, col, heading, 1, 0)
            elif actions[i] == BACKWARD:
                target = place(row, col, heading, -1, 0)
            elif actions[i] == STEP_LEFT:
                target = place(row, col, heading, 0, -1)
            elif actions[i] == STEP_RIGHT:
                target = place(row, col, heading, 0, 1)
            elif actions[i] == TURN_LEFT:
                self.heading[i] = (heading + 3) % 4
            elif actions[i] == TURN_RIGHT:
                self.heading[i] = (heading + 1) % 4
            if self.board.walkable(target):
                targets[i] = target
        self.position = resolve_moves(self.position, targets, active, order)

    def _collect(self, order: list[int], rewards: list[float], info: dict[str, list[int]]) -> None:
        """Agents on the board take what is on their cells."""
        can = self.abilities
        biased = False
        for i in order:
            cell = self.position[i]
            if self.away[i] > 0:
                continue
            if cell in self.apples:
                self.apples.remove(cell)
                info["apples"][i] += 1
                rewards[i] += can["apple_reward"][i]
            if cell in self.coins:
                owner = self.coins.pop(cell)
                rewards[i] += can["apple_reward"][i]
                if owner == i:
                    info["coins_own"][i] += 1
                    continue
                info["coins_other"][i] += 1
                info["robbed"][owner] += 1
                rewards[owner] += can["mismatch_penalty_to_other"][i]
                if can["spawn_bias_steps"][i] > 0 and not biased:  # of several at once, the first in the order
                    self.bias_agent, self.bias_left, biased = i, can["spawn_bias_steps"][i], True

    def _beams(
        self,
        actions: list[int],
        active: list[bool],
        order: list[int],
        rewards: list[float],
        info: dict[str, list[int]],
    ) -> None:
        """Fire, all at once: who and what is reached is found first, and only then changed."""
        n, can = self.num_agents, self.abilities
        self.zap_beam, self.clean_beam = set(), set()
        agent_on = {self.position[i]: i for i in range(n) if active[i]}
        zap_blockers: set[Cell] = set()
        clean_blockers: set[Cell] = set()
        if not self.rules["beams_pass"]:
            zap_blockers = self.board.walls | set(agent_on)
            clean_blockers = self.board.walls | self.waste
            if self.rules["agents_block_clean"]:
                clean_blockers |= set(agent_on)

        hit: set[int] = set()
        if self.game != "coins":
            for i in self._shooters(actions, active, ZAP, self.zap_wait, can["zap_cooldown"], can["can_zap"]):
                info["zaps_fired"][i] += 1
                rewards[i] += can["zap_reward"][i]
                reached = self._reach(i, can["zap_length"][i], can["zap_radius"][i], zap_blockers)
                self.zap_beam |= reached - self.board.walls - zap_blockers
                for cell in reached:
                    if cell in agent_on:
                        target = agent_on[cell]
                        hit.add(target)
                        info["zap_hits"][i] += 1
                        info["zapped"][target] += 1
                        rewards[i] += can["zap_hit_reward"][i]
                        rewards[target] += can["zapped_reward"][target]

        cleaned_by: dict[Cell, int] = {}
        if self.game == "cleanup":
            shooters = self._shooters(actions, active, CLEAN, self.clean_wait, can["clean_cooldown"], [True] * n)
            for i in sorted(shooters, key=order.index):
                info["cleans_fired"][i] += 1
                rewards[i] += can["clean_shot_reward"][i]
                reached = self._reach(i, can["clean_length"][i], can["clean_radius"][i], clean_blockers)
                self.clean_beam |= reached - self.board.walls - clean_blockers
                for cell in reached:
                    if cell in self.waste and cell not in cleaned_by:
                        cleaned_by[cell] = i
        for cell, i in cleaned_by.items():
            self.waste.remove(cell)
            info["cleaned"][i] += 1
            rewards[i] += can["clean_reward"][i]

        for i in hit:
            if self.rules["removal_steps"] > 0:
                self.away[i] = self.rules["removal_steps"]

    def _shooters(
        self,
        actions: list[int],
        active: list[bool],
        action: int,
        wait: list[int],
        cooldown: list[int],
        allowed: list[bool],
    ) -> list[int]:
        """Who fires one of the two beams; `wait` is changed in place."""
        shooters = []
        for i in range(self.num_agents):
            if not active[i]:
                continue
            if wait[i] > 0:
                wait[i] -= 1
            elif actions[i] == action and allowed[i]:
                wait[i] = cooldown[i]
                shooters.append(i)
        return shooters

    def _reach(self, i: int, length: int, radius: int, blockers: set[Cell]) -> set[Cell]:
        row, col = self.position[i]
        start, board = self.rules["beam_side_start"], self.board
        return beam_cells(row, col, self.heading[i], length, radius, start, board.height, board.width, blockers)

    def _respawn(self, active: list[bool], draws: Mapping[str, Any]) -> None:
        """Bring back those whose time away is over, each on one of the free spawn cells of its group."""
        groups = self.abilities["respawn_group"]
        taken = {self.position[i] for i in range(self.num_agents) if active[i] and self.away[i] == 0}
        for i in range(self.num_agents):
            if active[i]:
                continue
            self.away[i] -= 1
            if self.away[i] > 0:
                continue
            free = self._spawn_cells(groups[i], taken)
            if not free:
                self.away[i] = 1  # tries again in the next step
                continue
            self.position[i] = one_of(draws["spawn"][i], free)
            self.heading[i] = int(draws["heading"][i]) % 4
            taken.add(self.position[i])

    def _spawn_cells(self, group: int, taken: set[Cell]) -> list[Cell]:
        """The spawn cells of a group that are not taken, row by row."""
        cells = zip(self.board.spawn_cells, self.board.spawn_groups, strict=True)
        return [cell for cell, its_group in cells if its_group == group and cell not in taken]

    # --- Growth ---

    def _plan_growth(self, draws: Mapping[str, Any]) -> tuple[dict[Cell, int], Cell | None]:
        """What the board as it is now makes grow: apples or coins, by cell with its word, and where waste appears."""
        things: dict[Cell, int] = {}
        new_waste: Cell | None = None
        words = [int(word) for word in draws["grow"]]

        if self.game == "coins":
            for cell, word in zip(self.board.coin_cells, words, strict=True):
                if cell not in self.coins and happens(word, self.rules["coin_rate"]):
                    things[cell] = word

        if self.game == "harvest":
            chances = self.rules["regrowth"]
            counted = self.apples_before if self.rules["growth"] == "deferred" else self.apples
            for cell, word, neighbours in zip(self.board.apple_cells, words, self.neighbours, strict=True):
                if cell in self.apples or cell in counted:
                    continue
                if self.rules["growth"] == "deferred" and cell in self.grew:
                    continue  # taken as soon as it appeared; the engine needs a step to notice
                alive = 0
                for neighbour in neighbours:
                    if neighbour in counted:
                        alive += 1
                if happens(word, chances[min(alive, len(chances) - 1)]):
                    things[cell] = word

        if self.game == "cleanup":
            chance = self.apple_chance()
            for cell, word in zip(self.board.apple_cells, words, strict=True):
                if cell not in self.apples and happens(word, chance):
                    things[cell] = word
            clean = [cell for cell in self.board.waste_cells if cell not in self.waste]
            if clean and happens(int(draws["waste"]), self.waste_chance()):
                new_waste = one_of(draws["waste_cell"], clean)
        return things, new_waste

    def _grow(
        self,
        plan: tuple[dict[Cell, int], Cell | None],
        order: list[int],
        rewards: list[float],
        info: dict[str, list[int]],
    ) -> None:
        """Put on the board what was planned; what grows under an agent, if anything does, is the agent's at once."""
        things, new_waste = plan
        agents = {self.position[i] for i in range(self.num_agents) if self.away[i] == 0}
        self.grew = set()
        for cell, word in things.items():
            if self.game == "coins":
                self.coins[cell] = self.bias_agent if self.bias_left > 0 else word % self.num_agents
            elif self.rules["regrow_under_agents"] or cell not in agents:
                self.apples.add(cell)
                self.grew.add(cell)
        if self.game == "coins" and self.bias_left > 0:
            self.bias_left -= 1
        if new_waste is not None:
            self.waste.add(new_waste)
        if self.rules["regrow_under_agents"]:
            self._collect(order, rewards, info)

    def pollution(self) -> float:
        """d of the rules: waste to what there could be (Cleanup)."""
        total = len(self.board.waste_cells)
        if self.rules["denominator"] == "waste_and_river":
            total += len(self.board.plain_river)
        return len(self.waste) / total

    def apple_chance(self) -> float:
        """Probability that an apple grows on an empty apple cell, on the board as it is now (Cleanup)."""
        depletion, restoration = self.rules["depletion"], self.rules["restoration"]
        share = (self.pollution() - depletion) / (restoration - depletion)
        return self.rules["max_growth"] * min(max(share, 0.0), 1.0)

    def waste_chance(self) -> float:
        """Probability that waste appears in this step, on the board as it is now (Cleanup)."""
        limit = self.rules["waste_limit"]
        if self.steps_taken < self.rules["waste_delay"] or (limit is not None and self.pollution() >= limit):
            return 0.0
        clean = len(self.board.waste_cells) - len(self.waste)
        tries = clean if self.rules["waste_retries"] else 1
        return 1 - (1 - self.rules["waste_probability"]) ** tries

    # --- What agents see ---

    def _window(self, i: int) -> list[list[Cell]]:
        """The cells of an agent's window; remembered, as there are few different ones."""
        pose = (*self.position[i], self.heading[i])
        if pose not in self.windows:
            self.windows[pose] = egocentric(*pose, self.rules["window"], self.rules["view_size"])
        return self.windows[pose]

    def observe(self) -> np.ndarray:
        """What each agent sees, uint8[N, V, V, 2]: ground, and agents and beams."""
        n, size = self.num_agents, self.rules["view_size"]
        present = [away == 0 for away in self.away]
        agent_on = {self.position[i]: i for i in range(n) if present[i]}
        ground: dict[Cell, int] = {}
        for row in range(self.board.height):
            for col in range(self.board.width):
                ground[row, col] = self._ground((row, col))
        observations = np.zeros((n, size, size, 2), np.uint8)
        for i in range(n):
            if not present[i]:
                continue
            for r, line in enumerate(self._window(i)):
                for c, cell in enumerate(line):
                    if self._distance(i, cell) > self.abilities["view"][i]:
                        continue
                    what = ground.get(cell, OUTSIDE)
                    if cell in self.coins:
                        what = OWN_COIN if self.coins[cell] == i else OTHER_COIN
                    who = 0
                    if cell in agent_on:
                        j = agent_on[cell]
                        who = SELF if j == i else OTHER + (self.heading[j] - self.heading[i]) % 4
                    elif cell in self.zap_beam:
                        who = ZAP_BEAM
                    elif cell in self.clean_beam:
                        who = CLEAN_BEAM
                    observations[i, r, c] = what, who
        return observations

    def visible(self) -> np.ndarray:
        """bool[N, N], whether the agent of the row sees that of the column; on the diagonal, whether it is present."""
        n = self.num_agents
        sees = np.zeros((n, n), bool)
        present = [i for i in range(n) if self.away[i] == 0]
        for i in present:
            window = {cell for line in self._window(i) for cell in line}
            for j in present:
                near = self._distance(i, self.position[j]) <= self.abilities["view"][i]
                sees[i, j] = i == j or (near and self.position[j] in window)
        return sees

    def _ground(self, cell: Cell) -> int:
        """What lies on a cell of the map, but for coins, which look different to different agents."""
        if cell in self.board.walls:
            return WALL
        if cell in self.waste:
            return WASTE
        if cell in self.board.river:
            return RIVER
        return APPLE if cell in self.apples else FLOOR

    def _distance(self, i: int, cell: Cell) -> int:
        row, col = self.position[i]
        return max(abs(row - cell[0]), abs(col - cell[1]))

    # --- The state as arrays ---

    def state(self) -> dict[str, np.ndarray]:
        """The state under the names and in the form of the specification; of removed agents, where they last were."""
        board = self.board
        beam = np.zeros((board.height, board.width), np.uint8)
        for cell in self.clean_beam:
            beam[cell] = CLEAN_BEAM
        for cell in self.zap_beam:
            beam[cell] = ZAP_BEAM
        return {
            "step": np.array(self.steps_taken, np.int32),
            "cell": np.array([board.number(cell) for cell in self.position], np.int32),
            "heading": np.array(self.heading, np.int32),
            "away": np.array(self.away, np.int32),
            "zap_wait": np.array(self.zap_wait, np.int32),
            "clean_wait": np.array(self.clean_wait, np.int32),
            "apple": np.array([cell in self.apples for cell in board.apple_cells], bool),
            "grew": np.array([cell in self.grew for cell in board.apple_cells], bool),
            "apple_before": np.array([cell in self.apples_before for cell in board.apple_cells], bool),
            "waste": np.array([cell in self.waste for cell in board.waste_cells], bool),
            "coin": np.array([self.coins.get(cell, -1) + 1 for cell in board.coin_cells], np.int8),
            "bias_agent": np.array(self.bias_agent, np.int32),
            "bias_left": np.array(self.bias_left, np.int32),
            "beam": beam,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from the arrays that `state` gives; names that are absent, and `beam`, keep what they are."""
        board = self.board
        if "step" in state:
            self.steps_taken = int(state["step"])
        if "cell" in state:
            self.position = [divmod(int(cell), board.width) for cell in state["cell"]]
        for name in ("heading", "away", "zap_wait", "clean_wait"):
            if name in state:
                setattr(self, name, [int(value) for value in state[name]])
        if "apple" in state:
            self.apples = {cell for cell, there in zip(board.apple_cells, state["apple"], strict=True) if there}
        if "grew" in state:
            cells = zip(board.apple_cells, state["grew"], strict=True)
            self.grew = {cell for cell, there in cells if there}
        if "apple_before" in state:
            cells = zip(board.apple_cells, state["apple_before"], strict=True)
            self.apples_before = {cell for cell, there in cells if there}
        if "waste" in state:
            self.waste = {cell for cell, there in zip(board.waste_cells, state["waste"], strict=True) if there}
        if "coin" in state:
            coins = zip(board.coin_cells, state["coin"], strict=True)
            self.coins = {cell: int(coin) - 1 for cell, coin in coins if coin > 0}
        for name in ("bias_agent", "bias_left"):
            if name in state:
                setattr(self, name, int(state[name]))

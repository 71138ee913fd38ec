"""Maps: text files, and what is precomputed from them once per map, as NumPy arrays.

A map is a rectangle of characters, row 0 on top; cells are numbered `row * width + column`, and `num_cells` stands for
"outside". The same alphabet serves all three games:

    W  wall                  A  apple cell            ~  plain river
    (space)  floor           C  coin cell             H  river that can hold waste and starts clean
    P  spawn cell, group 0   Q  spawn cell, group 1   F  river that starts with waste

Write your own: any text file with these characters is a map, `envs_jax.make("harvest", map="my_map.txt")`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NORTH, EAST, SOUTH, WEST = range(4)
STEPS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)], np.int32)
"""Row and column that one step in each heading adds; the heading to the right of h is h + 1."""

UNSEEN, OUTSIDE, WALL, FLOOR, RIVER, WASTE, APPLE, OWN_COIN, OTHER_COIN = range(9)
"""What the ground plane of an observation holds."""
NOBODY, SELF, OTHER, ZAP_BEAM, CLEAN_BEAM = 0, 1, 2, 6, 7
"""What the agent plane holds; another agent is `OTHER` + its heading relative to the observer's."""
NUM_GROUNDS, NUM_AGENTS = 9, 8
"""How many codes there are for the ground, and for who is there."""

ALPHABET = "W PQAC~HF"
BARE = np.arange(RIVER + 1, dtype=np.uint8)
"""What bare ground can be, with the code 0."""
_FOLDER = Path(__file__).parent / "maps"


@dataclass(frozen=True, eq=False)
class Board:
    """A parsed map. Kinds of cells are listed in row-major order.

    step_to: int32[4, cells], the cell that a step in each heading leads to; the cell itself where that is blocked.
    wall: bool[cells + 1], walls and the outside.
    apple_cells, waste_cells, coin_cells, spawn_cells: int32[...], their numbers.
    starts_dirty: bool[D], which waste cells start with waste.
    spawn_group: int32[S], the group of each spawn cell.
    ground: uint8[cells + 1], the observation code of the bare ground.
    """

    text: str
    height: int
    width: int
    step_to: np.ndarray
    wall: np.ndarray
    apple_cells: np.ndarray
    waste_cells: np.ndarray
    coin_cells: np.ndarray
    spawn_cells: np.ndarray
    starts_dirty: np.ndarray
    spawn_group: np.ndarray
    ground: np.ndarray

    @property
    def num_cells(self) -> int:
        return self.height * self.width

    @property
    def small(self) -> type[np.signedinteger]:
        """The smallest type that can count the cells; twice as many of those fit into a vector register."""
        return np.int16 if self.num_cells < 30_000 else np.int32

    def index_of(self, cells: np.ndarray) -> np.ndarray:
        """int32[cells + 1]: the place in `cells` of each cell of the board, or `len(cells)` where it is not in it."""
        index = np.full(self.num_cells + 1, len(cells), np.int32)
        index[cells] = np.arange(len(cells), dtype=np.int32)
        return index

    def slots(self, cells: np.ndarray) -> np.ndarray:
        """int32[cells + 1]: where each cell's code is in a list of those of `cells`, then those of each bare ground."""
        slot = len(cells) + self.ground.astype(np.int32)
        slot[cells] = np.arange(len(cells))
        return slot

    def neighbours(self, cells: np.ndarray, squared_distance: float) -> np.ndarray:
        """int32[len(cells), K]: for each of `cells`, the places in `cells` of the others within that squared
        distance, whatever is between; filled up with `len(cells)`."""
        rows, columns = np.divmod(cells, self.width)
        apart = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
        near = (apart <= squared_distance) & (apart > 0)
        table = np.full((len(cells), max(1, int(near.sum(axis=1).max(initial=0)))), len(cells), np.int32)
        for row, others in zip(table, near, strict=True):
            found = np.flatnonzero(others)
            row[: len(found)] = found
        return table

    @functools.cached_property
    def distances(self) -> np.ndarray:
        """int16[cells, cells]: steps from one cell to another around walls; 9999 where there is no way."""
        open_ = ~self.wall[:-1]
        far = np.full((self.num_cells, self.num_cells), 9999, np.int16)
        edge, steps = np.diag(open_), 0
        while edge.any():  # from all cells at once, one step further each time
            far[edge] = steps
            steps += 1
            edge = edge[:, self.step_to].any(axis=1) & open_ & (far == 9999)
        return far


def shipped(game: str) -> list[str]:
    """Names of the maps that come with a game, sorted."""
    return sorted(path.stem for path in (_FOLDER / game).glob("*.txt"))


def load(game: str, name: str) -> str:
    """The text of a map: the name of a shipped one, the path of a text file, or the text itself; for Coins also
    "WIDTHxHEIGHT", a `room` of that size.

    Raises ValueError if there is no such map or file.
    """
    if "\n" in name:
        return name.strip("\n")
    size = re.fullmatch(r"(\d+)x(\d+)", name)
    if game == "coins" and size:
        return room(int(size[1]), int(size[2]))
    path = _FOLDER / game / f"{name}.txt"
    if not path.is_file():
        path = Path(name)
        if not path.is_file():
            sizes = "WIDTHxHEIGHT, " if game == "coins" else ""
            raise ValueError(f"map is {name!r}; allowed: {sizes}{', '.join(shipped(game))}, or the path of a text file")
    return path.read_text(encoding="utf-8").strip("\n")


@functools.lru_cache(maxsize=256)
def parse(text: str, characters: str = ALPHABET) -> Board:
    """The board of a map's text, made of these `characters`.

    Raises ValueError for an empty map, rows of unequal length, an unknown character, or one of another game.
    """
    lines = text.split("\n")
    width = len(lines[0])
    if not text.strip():
        raise ValueError("map is empty; allowed: at least one row of characters")
    for row, line in enumerate(lines):
        if len(line) != width:
            raise ValueError(
                f"map has {len(line)} characters in row {row} ({line!r}) and {width} in row 0; allowed: equal rows"
            )
        for column, character in enumerate(line):
            if character not in characters:
                allowed = ", ".join(repr(c) for c in characters)
                raise ValueError(f"map has {character!r} in row {row}, column {column}; allowed: {allowed}")
    grid = np.array([list(line) for line in lines]).reshape(-1)
    height = len(lines)
    cells = np.arange(height * width, dtype=np.int32)

    def listed(kinds: Iterable[str]) -> np.ndarray:
        return cells[np.isin(grid, list(kinds))]

    rows, columns = np.divmod(cells, width)
    step_to = np.empty((4, len(cells)), np.int32)
    for heading, (down, right) in enumerate(STEPS):
        r, c = rows + down, columns + right
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        target = np.where(inside, r * width + c, cells)
        step_to[heading] = np.where(grid[target] == "W", cells, target)
    waste_cells, spawn_cells = listed("HF"), listed("PQ")
    ground = np.full(len(cells) + 1, FLOOR, np.uint8)
    ground[listed("W")], ground[listed("~HF")], ground[-1] = WALL, RIVER, OUTSIDE
    return Board(
        text=text,
        height=height,
        width=width,
        step_to=step_to,
        wall=np.append(grid == "W", True),
        apple_cells=listed("A"),
        waste_cells=waste_cells,
        coin_cells=listed("C"),
        spawn_cells=spawn_cells,
        starts_dirty=grid[waste_cells] == "F",
        spawn_group=(grid[spawn_cells] == "Q").astype(np.int32),
        ground=ground,
    )


def room(width: int, height: int) -> str:
    """A walled room full of coin cells with two spawn cells, as Melting Pot generates it: near the top right and the
    bottom left corner, one cell away from both walls. Raises ValueError unless both sizes are from 3 to 100."""
    if not (3 <= width <= 100 and 3 <= height <= 100):
        raise ValueError(f"map is '{width}x{height}'; allowed: 3 to 100 cells each way")
    inside = [["C"] * width for _ in range(height)]
    inside[1][width - 2] = inside[height - 2][1] = "P"
    wall = "W" * (width + 2)
    return "\n".join([wall, *(f"W{''.join(row)}W" for row in inside), wall])

"""The grid that all social dilemmas share, as plain functions on arrays: moves, beams, placing, views.

Nothing here knows a game. Randomness comes in as words, independent uniform uint32: an event of probability p happens
where `word < round(p * 2**32)`, and a set of things is put in a random order by their words, larger ones first.

Letters: N agents, S spawn cells, X lanes of a beam, F cells ahead (with 0 beside the shooter), V view size.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.ssd.maps import EAST, NORTH, SOUTH, STEPS, WEST, Board

FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT, ZAP, CLEAN = range(1, 9)
"""Actions; 0 does nothing."""

_TURNS_TO = np.array([0, 0, 2, 3, 1, 0, 0, 0, 0], np.int32)  # heading of a move, relative to the agent's own
_TURNS_BY = np.array([0, 0, 0, 0, 0, 3, 1, 0, 0], np.int32)


def pick(table: Any, index: Any) -> jax.Array:
    """`table[index]` for an index that is surely in range: without the checks, which cost as much as the reading."""
    return jnp.asarray(table).at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def happens(words: jax.Array, probability: float) -> jax.Array:
    """Whether an event of this (static) probability happens, bool of the shape of `words`."""
    threshold = round(probability * 2**32)
    if threshold >= 2**32:
        return jnp.ones(words.shape, jnp.bool_)
    return words < np.uint32(threshold)


def happens_by_table(words: jax.Array, probabilities: np.ndarray, index: jax.Array) -> jax.Array:
    """The same with the probability at `index` of a static table; `index` broadcasts against `words`."""
    thresholds = np.round(np.asarray(probabilities, np.float64) * 2**32)
    last = np.maximum(thresholds - 1, 0).astype(np.uint32)  # 2**32 itself is no uint32
    if len(thresholds) <= 8:  # a few selections beat a gather
        below = jnp.zeros(jnp.broadcast_shapes(words.shape, jnp.shape(index)), jnp.bool_)
        for i, (limit, possible) in enumerate(zip(last, thresholds > 0, strict=True)):
            if possible:
                below |= (index == i) & (words <= limit)
        return below
    return (words <= pick(last, index)) & pick(thresholds > 0, index)


def happens_with(words: jax.Array, probability: jax.Array) -> jax.Array:
    """The same with a probability that is data, float32 in [0, 1]."""
    threshold, always = jnp.round(probability * np.float32(2**32)), probability >= 1
    return always | (words < jnp.where(always, np.float32(0), threshold).astype(jnp.uint32))


def precedes(words: jax.Array) -> jax.Array:
    """bool[K, K]: whether the first of two comes before the second in the order of their words [K]; ties by index."""
    index = np.arange(words.shape[0])
    tie = index[:, None] < index
    return (words[:, None] > words) | ((words[:, None] == words) & tie)


def one_of(words: jax.Array, number: Any) -> jax.Array:
    """int32: `floor(word * number / 2**32)`, uniform on 0 ... number - 1; `number` is below 2**16."""
    number = jnp.asarray(number).astype(jnp.uint32)
    low = (words & np.uint32(0xFFFF)) * number
    return (((words >> 16) * number + (low >> 16)) >> 16).astype(jnp.int32)


def turn_and_move(
    board: Board,
    cell: jax.Array,
    heading: jax.Array,
    actions: jax.Array,
    able: jax.Array,
    present: jax.Array,
    before: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """`(cell, heading)` int32[N] after everybody's move at once.

    able: bool[N], who may move or turn; present: bool[N], who stands on the board.
    before: bool[N, N], from `precedes`: who gets a cell that several want.
    """
    actions = jnp.where(able, actions, 0)
    moves = (actions >= FORWARD) & (actions <= STEP_RIGHT)
    towards = (heading + jnp.asarray(_TURNS_TO)[actions]) % 4
    target = jnp.where(moves, pick(board.step_to.reshape(-1), towards * board.num_cells + cell), cell)
    heading = (heading + jnp.asarray(_TURNS_BY)[actions]) % 4
    return resolve_moves(cell, target, present, before), heading


def resolve_moves(cell: jax.Array, target: jax.Array, present: jax.Array, before: jax.Array) -> jax.Array:
    """int32[N]: where agents are after moving from `cell` to `target` all at once, as far as they can.

    Two that would swap both stay. Of several that want one cell, the first in order may have it, and does if it is
    free in the end: empty, or left by its occupant. So trains and rings of three or more move, and whoever stays makes
    those behind it stay.
    """
    n = cell.shape[0]
    moves = present & (target != cell)
    wants_cell_of = moves[:, None] & present & (target[:, None] == cell)  # [i, j]: i moves to where j is
    contested = moves[:, None] & moves & (target[:, None] == target)
    loses = jnp.any(contested & before.T, axis=1)
    swaps = jnp.any(wants_cell_of & wants_cell_of.T, axis=1)
    succeeds = moves & ~loses & ~swaps
    # An agent moves if all whom it pushes along do: an "and" along a chain (or ring), by doubling.
    index = np.arange(n, dtype=np.int32)
    ahead = jnp.max(jnp.where(wants_cell_of, index, -1), axis=1)
    ahead = jnp.where(ahead < 0, index, ahead)
    for _ in range(math.ceil(math.log2(n)) if n > 1 else 0):
        succeeds, ahead = succeeds & pick(succeeds, ahead), pick(ahead, ahead)
    return jnp.where(succeeds, target, cell)


class BeamShape(NamedTuple):
    """How far any agent's beam may reach, so that all share one shape."""

    length: int
    radius: int

    @property
    def lanes(self) -> int:
        return 2 * self.radius + 1

    @property
    def mask(self) -> np.ndarray:
        """bool[X, F]: which cells of that box any beam can reach."""
        across = np.abs(np.arange(-self.radius, self.radius + 1))[:, None]
        ahead = np.arange(self.length + 1)
        return (ahead + across > 0) & (ahead <= self.length - across)


def beam_cells(board: Board, shape: BeamShape, cell: jax.Array, heading: jax.Array) -> jax.Array:
    """int32[N, X, F]: the cells of the largest beam, by lane from left to right and cells ahead from 0; outside the
    map, `board.num_cells`."""
    across = np.arange(-shape.radius, shape.radius + 1, dtype=np.int32)[:, None]
    ahead = np.arange(shape.length + 1, dtype=np.int32)
    return look(board, cell, heading, ahead, across)


def look(board: Board, cell: jax.Array, heading: jax.Array, ahead: np.ndarray, across: np.ndarray) -> jax.Array:
    """int32[N, ...]: the cells that are `ahead` of each agent and `across` to its right; outside, `num_cells`."""
    shape = np.broadcast_shapes(ahead.shape, across.shape)
    table = _look_table(board, ahead.tobytes(), across.tobytes(), ahead.shape, across.shape)
    if table is None:
        cells = _look(board.height, board.width, cell, heading, ahead, across)
    else:  # reading the answer costs half of working it out
        cells = pick(table, heading * board.num_cells + cell).astype(jnp.int32)
    return cells.reshape(-1, *shape)


def _look(height: int, width: int, cell: Any, heading: Any, ahead: np.ndarray, across: np.ndarray) -> Any:
    """`look` by arithmetic, int32[N, cells seen], for JAX or NumPy arrays."""
    ahead, across = (np.ravel(part) for part in np.broadcast_arrays(ahead, across))
    where = jnp.where if isinstance(cell, jax.Array) else np.where
    row, column = (cell // width)[:, None], (cell % width)[:, None]
    down = where(heading == NORTH, -1, where(heading == SOUTH, 1, 0))[:, None]
    right = where(heading == EAST, 1, where(heading == WEST, -1, 0))[:, None]
    row = row + down * ahead + right * across  # what is right of (down, right) is (right, -down)
    column = column + right * ahead - down * across
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return where(inside, row * width + column, height * width).astype(np.int32)


@functools.lru_cache(maxsize=64)
def _look_table(board: Board, ahead: bytes, across: bytes, *shapes: tuple[int, ...]) -> np.ndarray | None:
    """int16[4 * cells, cells seen]: `look` for every pose; None where that would be more than two megabytes."""
    lines = [np.frombuffer(part, np.int32).reshape(shape) for part, shape in zip((ahead, across), shapes, strict=True)]
    if 4 * board.num_cells * np.broadcast(*lines).size > 2**20:
        return None
    heading, cell = np.divmod(np.arange(4 * board.num_cells, dtype=np.int32), board.num_cells)
    return _look(board.height, board.width, cell, heading, lines[0], lines[1]).astype(np.int16)


def first_stop(stops: jax.Array) -> jax.Array:
    """int32[N, X]: how far ahead in each lane is the first cell of `stops` bool[N, X, F], F where there is none.

    What is at 0 of the centre lane, the shooter itself, does not count.
    """
    lanes, depth = stops.shape[1:]
    shooter = (np.arange(lanes) == lanes // 2)[:, None] & (np.arange(depth) == 0)
    return jnp.min(jnp.where(stops & ~shooter, np.arange(depth, dtype=np.int32), depth), axis=2)


def reached_by_beam(first: jax.Array, depth: int, length: jax.Array, radius: jax.Array, side_start: int) -> jax.Array:
    """bool[N, X, F]: the cells that each agent's beam hits.

    first: int32[N, X], from `first_stop`: where each lane ends; that cell is still hit.
    depth: F. length, radius: int32[N], of the beam that the agent fires; 0 for length is no beam.
    side_start: where side lanes begin to hit, 0 beside the shooter or 1 one ahead of that.

    The centre lane goes ahead from the shooter. The lane at x runs along the cells beside the shooter, up to x, then
    ahead as far as `length - |x|`. Whatever stops it on the way stops what comes after.
    """
    lanes = first.shape[1]
    reach = lanes // 2
    gets_to = {reach: jnp.ones(first.shape[0], jnp.bool_)}  # whether the beam gets to the cell beside it, by lane
    for x in range(1, reach + 1):
        for lane, inner in ((reach - x, reach - x + 1), (reach + x, reach + x - 1)):
            gets_to[lane] = gets_to[inner] & (first[:, inner] > 0)
    reached = jnp.stack([gets_to[lane] for lane in range(lanes)], axis=1)[:, :, None]
    across, ahead = np.abs(np.arange(-reach, reach + 1))[:, None], np.arange(depth)
    lengths, radii = length[:, None, None], radius[:, None, None]
    inside = (across <= radii) & (ahead <= lengths - across) & (lengths > 0)
    return reached & inside & (ahead <= first[:, :, None]) & (ahead >= np.where(across == 0, 1, side_start))


def covered(
    board: Board, cell: jax.Array, heading: jax.Array, start: np.ndarray, end: jax.Array, who: jax.Array
) -> jax.Array:
    """bool[cells]: which cells are covered by the lanes of the beams of `who` bool[N].

    start: int32[X], end: int32[N, X]: a lane covers the cells from `start` ahead up to before `end`.
    """
    across = np.arange(len(start), dtype=np.int32) - len(start) // 2
    step = jnp.asarray(STEPS)[heading]
    down, right = step[:, :1], step[:, 1:]
    end = end.astype(jnp.int32)
    # A lane is a rectangle. Its columns are the bits of words, which are laid into each row that it covers.
    row, column = (cell // board.width)[:, None], (cell % board.width)[:, None]
    rows = [row + right * across + down * at for at in (start, end - 1)]
    columns = [column - down * across + right * at for at in (start, end - 1)]
    word = 32 * np.arange(-(-board.width // 32), dtype=np.int32)
    before = jnp.clip(jnp.minimum(*columns)[..., None] - word, 0, 32).astype(jnp.uint32)
    after = jnp.clip(31 - (jnp.maximum(*columns)[..., None] - word), 0, 32).astype(jnp.uint32)
    every = np.uint32(0xFFFFFFFF)
    bits = jnp.where((who[:, None] & (end > start))[..., None], (every << before) & (every >> after), 0)
    top, bottom = (line.reshape(-1, 1) for line in (jnp.minimum(*rows), jnp.maximum(*rows)))  # [N X, 1]
    within = (top <= np.arange(board.height)) & (np.arange(board.height) <= bottom)
    laid = jnp.where(within[..., None], bits.reshape(-1, 1, len(word)), np.uint32(0))  # [N X, height, words]
    laid = jnp.bitwise_or.reduce(laid, axis=0)
    spread = (laid[..., None] >> np.arange(32, dtype=np.uint32)) & 1
    return spread.reshape(board.height, -1)[:, : board.width].reshape(-1) > 0


def place(
    board: Board, words: jax.Array, group: jax.Array, wanting: jax.Array, free: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`(placed bool[N], cell int32[N])`: a spawn cell of its group for each agent that is `wanting` one.

    They choose in turn, by index: each gets the one of the `free` bool[S] cells of its group still left, in the order
    of the board, that its word uint32[N] says (`one_of`). Who is left without one is not placed.
    """
    n = group.shape[0]
    same_group = board.spawn_group[:, None] == board.spawn_group
    first = np.arange(len(same_group))[:, None] < np.arange(len(same_group))
    # [S], which of its group's free cells each is: counted as a product of zeros and ones, which is exact and fast.
    number = (free.astype(jnp.float32) @ (first & same_group).astype(np.float32)).astype(jnp.int32)
    mine = (group[:, None] == board.spawn_group) & free  # [N, S]
    rivals = (group[:, None] == group) & wanting[:, None] & (np.arange(n)[:, None] < np.arange(n))  # [earlier, later]
    left = jnp.sum(mine, axis=1, dtype=jnp.int32) - jnp.sum(rivals, axis=0, dtype=jnp.int32)
    choice = one_of(words, jnp.maximum(left, 1))
    # From a number among the cells that are left to one among all: past each that went before, the last one first.
    for i in reversed(range(n)):
        choice = choice + (rivals[i] & (choice >= choice[i]))
    gets = mine & (number == choice[:, None]) & wanting[:, None]
    return wanting & (left > 0), jnp.sum(gets * board.spawn_cells, axis=1, dtype=jnp.int32)


@functools.cache
def window(kind: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`(ahead, across)` int32[V, V]: where each cell of a window lies from its agent; row 0 is farthest ahead.

    "centred": the agent in the middle; "ahead": one row of cells behind it.
    """
    behind = size // 2 if kind == "centred" else 1
    ahead = (size - 1 - behind - np.arange(size, dtype=np.int32))[:, None]
    across = (np.arange(size, dtype=np.int32) - size // 2)[None]
    return ahead, across

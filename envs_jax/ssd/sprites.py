"""Small pictures in NumPy: a painter of tiles, the 8x8 cells that agents see with observation="rgb", and a font."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from envs_jax.drawing import Color, to_rgb
from envs_jax.ssd import maps

SPRITE = 8
"""Pixels along the edge of a cell in an observation."""

FINE = 6
"""A letter is painted with so many points along each pixel's edge, then averaged."""

ZAP_COLOR, CLEAN_COLOR = "#ffd21f", "#19d3e6"
"""Yellow and cyan, of the two beams."""


class Tile:
    """A square picture in the making, transparent at first; `x` and `y` run from -0.5 to 0.5, y downwards.

    x: float32[1, M], y: float32[M, 1], the coordinates of the points to paint on, some for each pixel's edge.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._fine = int(np.clip(96 // size, 3, 8))
        count = size * self._fine
        points = (np.arange(count, dtype=np.float32) + 0.5) / count - 0.5
        self.x, self.y = points[None], points[:, None]
        self._layer = np.zeros((count, count, 4), np.float32)  # colours times their opacity, and opacity

    def paint(self, where: Any, color: Color, alpha: float = 1.0) -> Tile:
        """Put a colour on the points `where`, bool or opacity, broadcast to [M, M]; returns the tile."""
        cover = np.broadcast_to(np.asarray(where, np.float32) * alpha, self._layer.shape[:2])[..., None]
        paint = np.append(to_rgb(color), 1.0).astype(np.float32)
        self._layer += cover * (paint - self._layer)
        return self

    def disc(self, x: float, y: float, radius: float, color: Color, alpha: float = 1.0) -> Tile:
        """A filled circle; returns the tile."""
        return self.paint(np.hypot(self.x - x, self.y - y) < radius, color, alpha)

    def line(
        self, start: tuple[float, float], end: tuple[float, float], width: float, color: Color, alpha: float = 1.0
    ) -> Tile:
        """A stroke with round ends; returns the tile."""
        return self.paint(from_segment(self.x, self.y, start, end) < width / 2, color, alpha)

    def rgba(self) -> np.ndarray:
        """float32[size, size, 4]: colours from 0 to 255 times their opacity, and the opacity from 0 to 1."""
        pixels = self._layer.reshape(self.size, self._fine, self.size, self._fine, 4).mean(axis=(1, 3))
        return pixels * np.array([255, 255, 255, 1], np.float32)

    def rgb(self) -> np.ndarray:
        """uint8[size, size, 3], on black where nothing was painted."""
        return np.rint(self.rgba()[..., :3]).astype(np.uint8)


def over(below: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """uint8[..., 3]: `layer` float32[..., 4], as `Tile.rgba` gives it, put on `below` uint8[..., 3]."""
    return np.rint(below * (1 - layer[..., 3:]) + layer[..., :3]).astype(np.uint8)


def from_segment(x: Any, y: Any, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Distances of points to a straight stroke."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
    return np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)


def from_pin(x: Any, y: Any, big: float, small: float, length: float) -> np.ndarray:
    """Signed distances of points to a pin that points up: a circle of radius `big` around (0, 0), one of radius `small`
    that is `length` above it, and what lies between their tangents. Negative inside."""
    x, y = np.broadcast_arrays(np.abs(x), -np.asarray(y))
    slope = (big - small) / length
    flank = np.sqrt(1 - slope * slope)
    along = flank * y - slope * x
    side = flank * x + slope * y - big
    return np.where(
        along < 0, np.hypot(x, y) - big, np.where(along > flank * length, np.hypot(x, y - length) - small, side)
    )


@functools.cache
def sprite_table() -> np.ndarray:
    """uint8[9, 8, 8, 8, 3]: the picture of a cell by what is on the ground and who is there (codes in
    `envs_jax.ssd.maps`). All differ, except that an unseen cell is black whoever is there."""
    table = np.zeros((9, 8, SPRITE, SPRITE, 3), np.uint8)
    for ground in range(maps.OUTSIDE, maps.OTHER_COIN + 1):
        for agent in range(maps.CLEAN_BEAM + 1):
            table[ground, agent] = over(_ground(ground), _agent(agent))
    return table


def _ground(code: int) -> np.ndarray:
    """The 8x8 picture of a ground. Each kind has its own colour in the corners, which no agent covers."""
    tile = Tile(SPRITE)
    x, y, all_over = tile.x, tile.y, np.True_
    if code == maps.OUTSIDE:
        tile.paint(all_over, "#20242c").paint((x + y) % 0.5 < 0.25, "#2b303a")
    elif code == maps.WALL:
        tile.paint(all_over, "#6f7683").paint((y < -0.37) | (x < -0.37), "#9aa1ad").paint(
            (y > 0.37) | (x > 0.37), "#4b515c"
        )
    elif code == maps.FLOOR:
        tile.paint(all_over, "#cfc7a8").disc(-0.19, -0.06, 0.07, "#bdb491").disc(0.19, 0.19, 0.07, "#bdb491")
    elif code == maps.RIVER:
        tile.paint(all_over, "#2f78bd").paint(np.abs(y - 0.1 * np.sin(2 * np.pi * x) + 0.05) < 0.08, "#7db4e6")
    elif code == maps.WASTE:
        tile.paint(all_over, "#4a5a2b").disc(-0.12, -0.1, 0.26, "#7a5a23").disc(0.2, 0.22, 0.17, "#7a5a23")
        tile.disc(-0.12, -0.12, 0.1, "#b9a044")
    elif code == maps.APPLE:
        tile.paint(all_over, "#8fb35a").disc(0, 0.06, 0.33, "#c8201f").disc(-0.12, -0.06, 0.09, "#ff9c8f")
        tile.paint((np.abs(x) < 0.07) & (y < -0.22) & (y > -0.45), "#4d3317")
    else:
        own = code == maps.OWN_COIN
        tile.paint(all_over, "#a9c3e0" if own else "#e0b5a0")
        tile.disc(0, 0, 0.4, "#0a5aa8" if own else "#b8461b").disc(0, 0, 0.25, "#6fb4f2" if own else "#ffb28c")
    return tile.rgb()


def _agent(code: int) -> np.ndarray:
    """The 8x8 layer of who is there: float32[8, 8, 4]."""
    tile = Tile(SPRITE)
    if code in (maps.ZAP_BEAM, maps.CLEAN_BEAM):
        color = ZAP_COLOR if code == maps.ZAP_BEAM else CLEAN_COLOR
        return tile.paint(np.True_, color, 0.5).paint(np.abs(tile.x) < 0.13, color, 0.8).rgba()
    if code == maps.NOBODY:
        return tile.rgba()
    distance = from_pin(tile.x, tile.y - 0.1, 0.33, 0.1, 0.43)
    tile.paint(distance < 0, "#101418").paint(distance < -0.08, "#ffffff" if code == maps.SELF else "#e0409a")
    tile.disc(0, -0.22, 0.1, "#18a558" if code == maps.SELF else "#ffe9f5")
    turns = 0 if code == maps.SELF else code - maps.OTHER
    return np.rot90(tile.rgba(), -turns)


# --- A font ---

_ROWS = 9  # of a letter: seven above the line, two below
_LETTERS = """
abcdefghijklm
..... #.... ..... ....# ..... ..## ..... #.... # ...# #... # .....
..... #.... ..... ....# ..... .#.. ..... #.... . .... #... # .....
.###. ####. .#### .#### .###. #### .#### ####. # ...# #..# # ####.
....# #...# #.... #...# #...# .#.. #...# #...# # ...# #.#. # #.#.#
.#### #...# #.... #...# ##### .#.. #...# #...# # ...# ##.. # #.#.#
#...# #...# #.... #...# #.... .#.. #...# #...# # ...# #.#. # #.#.#
.#### ####. .#### .#### .#### .#.. .#### #...# # ...# #..# # #.#.#
..... ..... ..... ..... ..... .... ....# ..... . #..# .... . .....
..... ..... ..... ..... ..... .... .###. ..... . .##. .... . .....
nopqrstuvwxyz
..... ..... ..... ..... .... ..... .#.. ..... ..... ..... ..... ..... .....
..... ..... ..... ..... .... ..... .#.. ..... ..... ..... ..... ..... .....
####. .###. ####. .#### #.## .#### #### #...# #...# #...# #...# #...# #####
#...# #...# #...# #...# ##.. #.... .#.. #...# #...# #.#.# .#.#. #...# ...#.
#...# #...# #...# #...# #... .###. .#.. #...# #...# #.#.# ..#.. #...# ..#..
#...# #...# #...# #...# #... ....# .#.. #...# .#.#. #.#.# .#.#. #...# .#...
#...# .###. ####. .#### #... ####. ..## .#### ..#.. .#.#. #...# .#### #####
..... ..... #.... ....# .... ..... .... ..... ..... ..... ..... ....# .....
..... ..... #.... ....# .... ..... .... ..... ..... ..... ..... .###. .....
0123456789/%:.-+
.###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###. ....# ##..# . . .... .....
#...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...# ...#. ##.#. . . .... ..#..
#...# ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...# ...#. ...#. # . .... ..#..
#...# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .#### ..#.. ..#.. . . #### #####
#...# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....# .#... .#... . . .... ..#..
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#. .#... .#.## # . .... ..#..
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .##.. #.... #..## . # .... .....
..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... . . .... .....
..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... . . .... .....
"""


@functools.cache
def _bitmaps() -> dict[str, np.ndarray]:
    """bool[9, width] of each letter."""
    lines = _LETTERS.strip().split("\n")
    bitmaps = {" ": np.zeros((_ROWS, 3), bool)}
    for start in range(0, len(lines), _ROWS + 1):
        columns = zip(*(line.split() for line in lines[start + 1 : start + 1 + _ROWS]), strict=True)
        for letter, rows in zip(lines[start], columns, strict=True):
            bitmaps[letter] = np.array([[point == "#" for point in row] for row in rows])
    return bitmaps


@functools.lru_cache(maxsize=4096)
def _glyph(letter: str, height: int) -> np.ndarray:
    """Opacity float32[H, W] of a letter whose digits are `height` pixels high: round strokes between the points of its
    bitmap that touch; touching corners only where there is no way around."""
    bitmap = _bitmaps()[letter]
    unit = height / 7
    tall, wide = round(_ROWS * unit + 1), max(1, round((bitmap.shape[1] + 1.1) * unit))
    y = ((np.arange(tall * FINE) + 0.5) / FINE / unit - 0.5)[:, None]
    x = ((np.arange(wide * FINE) + 0.5) / FINE / unit - 0.5)[None]
    apart = np.full((tall * FINE, wide * FINE), np.inf)
    points = [(int(r), int(c)) for r, c in zip(*np.nonzero(bitmap), strict=True)]
    for r, c in points:
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1)):
            row, column = r + down, c + right
            if (row, column) in points and not (down and right and (bitmap[r, column] or bitmap[row, c])):
                apart = np.minimum(apart, from_segment(x, y, (c, r), (column, row)))
    ink = (apart < 0.56).astype(np.float32)
    return ink.reshape(tall, FINE, wide, FINE).mean(axis=(1, 3))


@functools.lru_cache(maxsize=4096)
def text_mask(text: str, height: int) -> np.ndarray:
    """Opacity float32[H, W] of a line of text whose digits are `height` pixels high. Letters are lower case; what the
    font does not have is left blank."""
    letters = [letter if letter in _bitmaps() else " " for letter in text.lower()]
    return np.concatenate([_glyph(letter, height) for letter in letters or " "], axis=1)

"""A small anti-aliased canvas in NumPy: world coordinates in, `uint8` picture out. What environments render with.

Each shape is drawn from its signed distance: a pixel is covered by how far its centre lies inside the edge, within one
pixel. That gives smooth edges at any size without drawing a larger picture first.
"""

from __future__ import annotations

import colorsys
from typing import TypeAlias

import numpy as np

Color: TypeAlias = str | tuple[float, float, float]
Point: TypeAlias = tuple[float, float] | np.ndarray

PAPER = "#fafaf7"
"""Background of a picture."""
INK = "#3c4043"
"""Outlines, and things that belong to no agent."""
FAINT = "#e4e4de"
"""Walls, grids and other things that should stay in the back."""

# Okabe and Ito's palette, which stays distinct for the common kinds of colour blindness; black is left for the ink.
_AGENT_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8c6bb1")


def to_rgb(color: Color) -> np.ndarray:
    """A colour as float64[3] in [0, 1], from "#rrggbb" or three numbers; raises ValueError on anything else."""
    if isinstance(color, str):
        digits = color.removeprefix("#")
        if len(digits) != 6 or not set(digits.lower()) <= set("0123456789abcdef"):
            raise ValueError(f"color is '{color}'; allowed: '#rrggbb', or three numbers in [0, 1]")
        return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    rgb = np.asarray(color, np.float64)
    if rgb.shape != (3,) or rgb.min() < 0 or rgb.max() > 1:
        raise ValueError(f"color is {color}; allowed: '#rrggbb', or three numbers in [0, 1]")
    return rgb


def mix(color: Color, other: Color, weight: float) -> tuple[float, float, float]:
    """`color` with the share `weight` of `other` in it: `mix(agent_color(0), PAPER, 0.8)` is a pale blue."""
    r, g, b = to_rgb(color) * (1 - weight) + to_rgb(other) * weight
    return float(r), float(g), float(b)


def agent_color(index: int) -> Color:
    """The colour of an agent, the same in every environment; eight distinct ones, then darker and paler rounds."""
    turn, place = divmod(index, len(_AGENT_COLORS))
    if turn == 0:
        return _AGENT_COLORS[place]
    hue, light, saturation = colorsys.rgb_to_hls(*to_rgb(_AGENT_COLORS[place]))
    light = light * 0.6 if turn % 2 else 1 - (1 - light) * 0.5
    return colorsys.hls_to_rgb((hue + 0.03 * (turn // 2)) % 1, light, saturation)


class Canvas:
    """A picture of the world between `bounds` = (left, right, bottom, top), `width` pixels wide, with square pixels.

    Coordinates, radii and widths are in world units; `pixel` is one pixel's size in them. A `top` below `bottom` makes
    y grow downwards, as the rows of a grid do. Shapes may reach over the edge; what lies outside is not drawn.
    Raises ValueError on empty bounds or no pixels.
    """

    def __init__(self, bounds: tuple[float, float, float, float], width: int = 288, background: Color = PAPER) -> None:
        left, right, bottom, top = (float(b) for b in bounds)
        if right <= left or top == bottom:
            raise ValueError(f"bounds is {bounds}; allowed: (left, right, bottom, top) around an area, left < right")
        if width < 1:
            raise ValueError(f"width is {width}; allowed: at least 1 pixel")
        self.pixel = (right - left) / width
        height = max(1, round(abs(top - bottom) / self.pixel))
        self._x = left + (np.arange(width) + 0.5) * self.pixel
        self._y = top + (np.arange(height) + 0.5) * (bottom - top) / height
        self._pixels = np.broadcast_to(to_rgb(background), (height, width, 3)).copy()

    def disc(self, center: Point, radius: float, color: Color, alpha: float = 1.0) -> None:
        """A filled circle."""
        x, y, where = self._around(center, center, radius)
        self._paint(where, np.hypot(x - center[0], y - center[1]) - radius, color, alpha)

    def ring(self, center: Point, radius: float, width: float, color: Color, alpha: float = 1.0) -> None:
        """A circle's outline; `radius` is to the middle of the stroke."""
        x, y, where = self._around(center, center, radius + width / 2)
        distance = np.abs(np.hypot(x - center[0], y - center[1]) - radius)
        self._paint(where, distance - width / 2, color, alpha)

    def line(self, start: Point, end: Point, width: float, color: Color, alpha: float = 1.0) -> None:
        """A straight stroke with round ends."""
        x, y, where = self._around(start, end, width / 2)
        dx, dy = float(end[0] - start[0]), float(end[1] - start[1])
        along = ((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-12)
        along = np.clip(along, 0, 1)
        distance = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
        self._paint(where, distance - width / 2, color, alpha)

    def rect(self, corner: Point, opposite: Point, color: Color, alpha: float = 1.0, rounding: float = 0.0) -> None:
        """A filled rectangle between two opposite corners, its own corners rounded by a radius of `rounding`."""
        x, y, where = self._around(corner, opposite, 0)
        self._paint(where, self._rect_distance(x, y, corner, opposite, rounding), color, alpha)

    def frame(
        self, corner: Point, opposite: Point, width: float, color: Color, alpha: float = 1.0, rounding: float = 0.0
    ) -> None:
        """A rectangle's outline; the corners lie in the middle of the stroke."""
        x, y, where = self._around(corner, opposite, width / 2)
        distance = np.abs(self._rect_distance(x, y, corner, opposite, rounding))
        self._paint(where, distance - width / 2, color, alpha)

    def image(self) -> np.ndarray:
        """What has been drawn, uint8[height, width, 3]."""
        return np.rint(self._pixels * 255).astype(np.uint8)

    def _around(self, a: Point, b: Point, margin: float) -> tuple[np.ndarray, np.ndarray, tuple[slice, slice]]:
        """Pixel centres near a shape, x[1, W'] and y[H', 1], and where they are in the picture."""
        margin += self.pixel
        columns = np.flatnonzero((self._x >= min(a[0], b[0]) - margin) & (self._x <= max(a[0], b[0]) + margin))
        rows = np.flatnonzero((self._y >= min(a[1], b[1]) - margin) & (self._y <= max(a[1], b[1]) + margin))
        where = _span(rows), _span(columns)
        return self._x[None, where[1]], self._y[where[0], None], where

    @staticmethod
    def _rect_distance(x: np.ndarray, y: np.ndarray, corner: Point, opposite: Point, rounding: float) -> np.ndarray:
        """Signed distance to a rectangle's edge, negative inside."""
        outside_x = np.abs(x - (corner[0] + opposite[0]) / 2) - abs(opposite[0] - corner[0]) / 2 + rounding
        outside_y = np.abs(y - (corner[1] + opposite[1]) / 2) - abs(opposite[1] - corner[1]) / 2 + rounding
        inside = np.minimum(np.maximum(outside_x, outside_y), 0)
        return np.hypot(np.maximum(outside_x, 0), np.maximum(outside_y, 0)) + inside - rounding

    def _paint(self, where: tuple[slice, slice], distance: np.ndarray, color: Color, alpha: float) -> None:
        """Blend a colour in where the signed distance is negative."""
        cover = (np.clip(0.5 - distance / self.pixel, 0, 1) * alpha)[..., None]
        self._pixels[where] += cover * (to_rgb(color) - self._pixels[where])


def _span(indices: np.ndarray) -> slice:
    """The slice of consecutive indices."""
    return slice(int(indices[0]), int(indices[-1]) + 1) if indices.size else slice(0, 0)

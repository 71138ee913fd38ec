"""Pictures and films of the social dilemmas, for people: the board with a scoreboard, and an agent's view drawn large.

A board is put together cell by cell from tiles that are painted once per size and colours.

Letters: H rows and W columns of cells, N agents, P pixels along a cell's edge, T states of a film, K kinds of ground.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from envs_jax.drawing import FAINT, INK, PAPER, Color, agent_color, mix, to_rgb
from envs_jax.ssd import grid, maps
from envs_jax.ssd.base import ArmedDilemma, SocialDilemma
from envs_jax.ssd.roles import ROLES
from envs_jax.ssd.sprites import CLEAN_COLOR, ZAP_COLOR, Tile, from_pin, over, text_mask

PLAIN, START, INSIDE_START, ORCHARD = range(4)
"""What a floor cell is for: nothing, spawn group 0, spawn group 1, apples."""

_ROLE_COLORS = {
    # Published compositions first; the two roles of a pair are far apart in Okabe and Ito's palette.
    "low": "#0072b2",
    "standard": "#009e73",
    "high": "#d55e00",
    "wide_zapper": "#cc79a7",
    "spawn_biased": "#e69f00",
    "strong": "#d55e00",
    "weak": "#56b4e9",
    "short_clean": "#8c6bb1",
    "slow": "#e69f00",
    "inside": "#56b4e9",
    "cleaner": "#0072b2",
    "cleaner_for_free": "#56b4e9",
    "consumer": "#e69f00",
    "rich_consumer": "#d55e00",
    "peaceful_consumer": "#cc79a7",
    "inside_consumer": "#8c6bb1",
    "strong_cleaner": "#0072b2",
    "weak_cleaner": "#e69f00",
}
_MUTED = "#7a7f85"


# --- What there is to show ---


@dataclass(frozen=True)
class Scene:
    """A board or a window as it is shown, its row 0 on top.

    ground: uint8[H, W], observation codes; any coin is `OWN_COIN`.
    owner: int32[H, W], whose coin it is, or -1.
    site: uint8[H, W], what a floor cell is for.
    beam, towards: uint8[H, W], 0 none, 1 clean, 2 zap; and the heading of its shooter.
    row, column, heading: int32[N], of agents; rows and columns are -1 where an agent is not in the picture.
    away: int32[N], steps until an agent comes back, 0 where it is present.
    """

    ground: np.ndarray
    owner: np.ndarray
    site: np.ndarray
    beam: np.ndarray
    towards: np.ndarray
    row: np.ndarray
    column: np.ndarray
    heading: np.ndarray
    away: np.ndarray


def board_scene(env: SocialDilemma, state: Any) -> Scene:
    """The whole board of a state of NumPy or JAX arrays, not batched."""
    board = env.board
    cells = np.arange(board.num_cells, dtype=np.int32).reshape(board.height, board.width)
    return _scene(env, state, cells, maps.NORTH)


def view_scene(env: SocialDilemma, state: Any, agent: int) -> Scene:
    """The window of one agent as it sees it, looking up; everything unseen while it is removed. Raises ValueError for
    an unknown agent."""
    if not 0 <= agent < env.num_agents:
        raise ValueError(f"agent is {agent}; allowed: 0 to {env.num_agents - 1}")
    board, (ahead, across) = env.board, env.view
    cell, heading = np.asarray(state.cell)[[agent]], np.asarray(state.heading)[[agent]]
    far = np.maximum(np.abs(ahead), np.abs(across))
    cells = grid._look(board.height, board.width, cell, heading, ahead, across).reshape(far.shape)
    sees = (far <= np.asarray(state.roles.view)[agent]) & (np.asarray(state.away)[agent] == 0)
    return _scene(env, state, np.where(sees, cells, -1), int(heading[0]))


def _scene(env: SocialDilemma, state: Any, cells: np.ndarray, up: int) -> Scene:
    """The scene that shows these `cells` int32[H, W] (-1 for unseen) with heading `up` pointing up."""
    board = env.board
    ground, owner = board.ground.copy(), np.full(board.num_cells + 1, -1, np.int32)
    site = np.full(board.num_cells + 1, PLAIN, np.uint8)
    site[board.spawn_cells] = START + np.minimum(board.spawn_group, 1)
    site[board.apple_cells] = ORCHARD
    if hasattr(state, "apple"):
        ground[board.apple_cells[np.asarray(state.apple)]] = maps.APPLE
    if hasattr(state, "waste"):
        ground[board.waste_cells[np.asarray(state.waste)]] = maps.WASTE
    if hasattr(state, "coin"):
        coin = np.asarray(state.coin).astype(np.int32)
        ground[board.coin_cells[coin > 0]] = maps.OWN_COIN
        owner[board.coin_cells] = coin - 1
    beam, towards = np.zeros(board.num_cells + 1, np.uint8), np.zeros(board.num_cells + 1, np.uint8)
    cell, heading, away = (np.asarray(part) for part in (state.cell, state.heading, state.away))
    if isinstance(env, ArmedDilemma):
        shape, end, shot = env.beam_shape, np.asarray(state.beam), np.asarray(state.shot)
        across = np.arange(-shape.radius, shape.radius + 1, dtype=np.int32)[:, None]
        ahead = np.arange(shape.length + 1, dtype=np.int32)
        cells_of = grid._look(board.height, board.width, cell, heading, ahead, across)
        cells_of = cells_of.reshape(env.num_agents, *np.broadcast_shapes(ahead.shape, across.shape))
        covers = (ahead >= env.lane_starts[:, None]) & (ahead < end[..., None])
        for kind in (1, 2):  # where several are, a zap shows
            where = covers & (shot == kind)[:, None, None]
            beam[cells_of[where]] = kind
            towards[cells_of[where]] = np.broadcast_to(heading[:, None, None], where.shape)[where]
        beam[board.wall] = 0

    def cut(array: np.ndarray, unseen: int) -> np.ndarray:
        return np.where(cells < 0, array.dtype.type(unseen), array[cells])

    shown = cells.reshape(-1) == cell[:, None]  # [N, H * W]
    place, found = shown.argmax(axis=1), shown.any(axis=1)
    return Scene(
        ground=cut(ground, maps.UNSEEN),
        owner=cut(owner, -1),
        site=cut(site, PLAIN),
        beam=cut(beam, 0),
        towards=((cut(towards, 0) - up) % 4).astype(np.uint8),
        row=np.where(found, place // cells.shape[1], -1),
        column=np.where(found, place % cells.shape[1], -1),
        heading=(heading - up) % 4,
        away=away,
    )


def role_names(state: Any) -> list[str]:
    """The role of each agent, in words."""
    known = list(ROLES)
    ids = np.asarray(state.roles.role_id).tolist()
    return [known[i].replace("_", " ") if i < len(known) else f"role {i}" for i in ids]


def agent_colors(state: Any) -> tuple[Color, ...]:
    """The colour of each agent: of its role; where all have one role, its own."""
    ids = tuple(np.asarray(state.roles.role_id).tolist())
    return _colors(ids)


@functools.lru_cache(maxsize=256)
def _colors(ids: tuple[int, ...]) -> tuple[Color, ...]:
    kinds = sorted(set(ids))
    if len(kinds) == 1:
        return tuple(agent_color(i) for i in range(len(ids)))
    known, colors = list(ROLES), dict[int, Color]()
    spare = [agent_color(i) for i in range(len(kinds) + len(known))]
    for kind in kinds:
        wanted = _ROLE_COLORS.get(known[kind]) if kind < len(known) else None
        free = [color for color in (wanted, *spare) if color is not None and color not in colors.values()]
        colors[kind] = free[0]
    return tuple(colors[kind] for kind in ids)


# --- Tiles ---


class Land:
    """What a board is made of, P pixels wide: `ground` uint8[K, P, P, 3], and layers float32[P, P, 4] to put on it. Use
    `land`, which keeps them."""

    VARIANTS = 4

    # Where tiles are in `ground`, after that of an unseen cell and one outside:
    FLOOR = 2  # [dark, variant, site]
    WALL = FLOOR + 2 * VARIANTS * 4  # by which sides are bare, of 16
    RIVER = WALL + 16  # [sides, variant]

    def __init__(self, size: int, meadow: bool) -> None:
        self.size, self.meadow = size, meadow

    @functools.cached_property
    def ground(self) -> np.ndarray:
        variants = range(self.VARIANTS)
        floors = [self._floor(bool(dark), variant) for dark in (0, 1) for variant in variants]
        marks = [self._mark(site) for site in (PLAIN, START, INSIDE_START, ORCHARD)]
        water, banks = [self._water(variant) for variant in variants], [self._bank(sides) for sides in range(16)]
        tiles = [Tile(self.size).paint(np.True_, "#000000").rgb(), self._outside()]
        tiles += [over(floor, mark) for floor in floors for mark in marks]
        tiles += [self._wall(sides) for sides in range(16)]
        tiles += [over(below, bank) for bank in banks for below in water]
        return np.stack(tiles)

    @functools.cached_property
    def shade(self) -> np.ndarray:
        """What a wall throws on the cell below it."""
        tile = Tile(self.size)
        return tile.paint(np.clip((-0.2 - tile.y) / 0.3, 0, 1), "#1b2530", 0.35).rgba()

    @functools.cached_property
    def waste(self) -> list[np.ndarray]:
        return [self._waste(variant) for variant in range(self.VARIANTS)]

    @functools.cached_property
    def apple(self) -> np.ndarray:
        return self._apple()

    @functools.cached_property
    def beams(self) -> dict[int, list[np.ndarray]]:
        """By kind, 1 clean or 2 zap, and heading."""
        lights = {1: self._beam(CLEAN_COLOR), 2: self._beam(ZAP_COLOR)}
        return {kind: [np.rot90(light, -turns) for turns in range(4)] for kind, light in lights.items()}

    def _floor(self, dark: bool, variant: int) -> np.ndarray:
        """Grass, or flagstones in Coins; neighbours differ a little, so that cells can be counted."""
        tile, draw = Tile(self.size), np.random.default_rng(variant)
        if self.meadow:
            base = "#d3e0b4" if dark else "#d9e5bc"
            tile.paint(np.True_, base)
            for _ in range(4):
                x, y = draw.uniform(-0.38, 0.38, 2)
                for lean in (-0.05, 0.05):
                    tile.line((x, y + 0.06), (x + lean, y - 0.05), 0.035, "#b7cc8f", 0.9)
            return tile.rgb()
        base = "#dcd8ce" if dark else "#e4e0d7"
        tile.paint(np.True_, mix(base, "#a49c8c", 0.5))
        rounded = np.maximum(np.abs(tile.x), np.abs(tile.y)) < 0.475
        tile.paint(rounded, base).paint(rounded & (tile.y < -0.44), "#f1eee7")
        for _ in range(3):
            x, y = draw.uniform(-0.36, 0.36, 2)
            tile.disc(x, y, 0.025, "#c6c0b3")
        return tile.rgb()

    def _mark(self, site: int) -> np.ndarray:
        """What shows what a floor cell is for: a ring where agents appear, earth where apples grow."""
        tile = Tile(self.size)
        away = np.hypot(tile.x, tile.y)
        if site in (START, INSIDE_START):
            tile.paint(np.abs(away - 0.27) < 0.03, "#5c6b45" if self.meadow else "#7d7566", 0.35)
        if site == INSIDE_START:
            tile.paint(away < 0.09, "#5c6b45", 0.35)
        if site == ORCHARD:
            tile.paint(np.hypot(tile.x, (tile.y - 0.16) * 1.5) < 0.34, "#a9835a", 0.3)
            tile.line((0, 0.2), (0, 0.04), 0.05, "#6d9a3e", 0.8)
            tile.line((0, 0.1), (-0.09, 0.0), 0.05, "#6d9a3e", 0.8).line((0, 0.07), (0.09, -0.03), 0.05, "#6d9a3e", 0.8)
        return tile.rgba()

    def _outside(self) -> np.ndarray:
        tile = Tile(self.size).paint(np.True_, "#20242c")
        return tile.paint((tile.x + tile.y) % 0.25 < 0.125, "#272c35").rgb()

    def _wall(self, sides: int) -> np.ndarray:
        """Stone seen slightly from the south; `sides`: 1 north, 2 east, 4 south, 8 west is bare."""
        tile = Tile(self.size)
        x, y = tile.x, tile.y
        tile.paint(np.True_, "#828a98")
        tile.paint((np.hypot(x + 0.2, y + 0.15) < 0.035) | (np.hypot(x - 0.17, y - 0.08) < 0.03), "#767e8c")
        if sides & 8:
            tile.paint(x < -0.41, "#a3abb8")
        if sides & 2:
            tile.paint(x > 0.41, "#697180")
        if sides & 1:
            tile.paint(y < -0.4, "#b3bac5")
        if sides & 4:
            joints = (np.abs(y - 0.33) < 0.018) | (np.abs(x) < 0.018) & (y < 0.33)
            joints = joints | (np.abs(np.abs(x) - 0.28) < 0.018) & (y > 0.33)
            front = y > 0.16
            tile.paint(front, "#5a6270").paint(front & joints, "#4a515e").paint(np.abs(y - 0.15) < 0.03, "#aeb5c0")
        return tile.rgb()

    def _water(self, variant: int) -> np.ndarray:
        tile = Tile(self.size).paint(np.True_, "#4a9bd6")
        x, y = tile.x, tile.y
        for height, shift in ((-0.22, 0.08 * variant - 0.12), (0.2, 0.12 - 0.08 * variant)):
            wave = y - height - 0.045 * np.sin(4 * np.pi * (x + shift))
            tile.paint((np.abs(wave) < 0.028) & (np.abs(x + shift) < 0.28), "#86c3ec")
        return tile.rgb()

    def _bank(self, sides: int) -> np.ndarray:
        """What borders the water on its bare sides."""
        tile = Tile(self.size)
        x, y = tile.x, tile.y
        depth = np.full(np.broadcast_shapes(x.shape, y.shape), 1.0)
        for bit, edge in ((1, y + 0.5), (2, 0.5 - x), (4, 0.5 - y), (8, x + 0.5)):
            if sides & bit:
                depth = np.minimum(depth, edge)
        return tile.paint(depth < 0.17, "#a8d8f0", 0.75).paint(depth < 0.1, "#b59b6d").rgba()

    def _waste(self, variant: int) -> np.ndarray:
        """Sludge on the water, of a different shape in each variant."""
        tile, draw = Tile(self.size), np.random.default_rng(10 + variant)
        x, y = tile.x, tile.y
        angle = np.arctan2(y, x)
        radius = 0.38 + 0.05 * np.sin(3 * angle + variant * 1.7) + 0.03 * np.sin(5 * angle + variant)
        away = np.hypot(x, y)
        tile.paint(away < radius, "#4d4a20").paint(away < radius - 0.05, "#7b7431")
        tile.paint((np.hypot(x + 0.06, y + 0.08) < radius * 0.55), "#8f873c")
        for _ in range(3):
            angle, away = draw.uniform(0, 2 * np.pi), draw.uniform(0.05, 0.24)
            spot = float(away * np.cos(angle)), float(away * np.sin(angle))
            tile.disc(*spot, 0.075, "#4d4a20").disc(*spot, 0.045, "#c0b765")
        return tile.rgba()

    def _apple(self) -> np.ndarray:
        tile = Tile(self.size)
        x, y = tile.x, tile.y
        tile.paint(np.hypot(x, (y - 0.3) * 2.4) < 0.27, "#2c3a17", 0.3)
        for grow, color in ((0.035, "#7a1414"), (0.0, "#d7261e")):
            tile.disc(-0.085, 0.05, 0.2 + grow, color).disc(0.085, 0.05, 0.2 + grow, color)
            tile.disc(0, 0.12, 0.2 + grow, color)
        tile.disc(0.0, 0.03, 0.19, "#d7261e").disc(-0.11, 0.0, 0.06, "#ff9d8e")
        tile.line((0, -0.1), (0.03, -0.26), 0.055, "#5a3a18")
        return tile.paint(np.hypot(x - 0.13, y + 0.24) + np.abs(x - 0.13 + (y + 0.24)) < 0.13, "#4e9a2d").rgba()

    def _beam(self, color: Color) -> np.ndarray:
        """Light that goes north."""
        tile = Tile(self.size)
        tile.paint(np.True_, color, 0.5)
        tile.paint(np.clip(1 - np.abs(tile.x) / 0.5, 0, 1), color, 0.5)
        for y in (-0.22, 0.22):
            for side in (-1, 1):
                tile.line((0, y - 0.1), (side * 0.2, y + 0.1), 0.07, "#ffffff", 0.75)
        return tile.rgba()


class Figures:
    """Who is on the board, P pixels wide: layers float32[P, P, 4] for each agent, numbered. Use `figures`, which keeps
    them."""

    def __init__(self, size: int, colors: tuple[Color, ...]) -> None:
        self.size, self.colors = size, colors

    @functools.cached_property
    def agents(self) -> list[list[np.ndarray]]:
        """By agent and heading."""
        return [self._agent(color, str(i)) for i, color in enumerate(self.colors)]

    @functools.cached_property
    def ghosts(self) -> list[np.ndarray]:
        return [self._ghost(color) for color in self.colors]

    @functools.cached_property
    def coins(self) -> list[np.ndarray]:
        return [self._coin(color, str(i)) for i, color in enumerate(self.colors)]

    @functools.cached_property
    def me(self) -> np.ndarray:
        return self._me()

    def _agent(self, color: Color, label: str) -> list[np.ndarray]:
        """An agent for each heading: a pin that points ahead, with two eyes, its number upright."""
        tile = Tile(self.size)
        distance = from_pin(tile.x, tile.y - 0.1, 0.39, 0.11, 0.48)
        tile.paint(distance < 0, "#ffffff", 0.85).paint(distance < -0.03, "#15191d").paint(distance < -0.075, color)
        tile.paint((distance < -0.075) & (distance > -0.12), mix(color, "#ffffff", 0.3))
        for side in (-1, 1):
            tile.disc(side * 0.105, -0.22, 0.08, "#ffffff").disc(side * 0.095, -0.245, 0.044, "#15191d")
        shadow = Tile(self.size)
        shadow = shadow.paint(np.hypot(shadow.x, (shadow.y - 0.14) * 1.1) < 0.4, "#10200a", 0.25).rgba()
        layers = []
        for turns, (down, right) in enumerate(maps.STEPS):
            layer = np.rot90(tile.rgba(), -turns)
            layer = layer + shadow * (1 - layer[..., 3:])
            layers.append(self._label(layer, label, color, (-0.1 * right, -0.1 * down), 0.34))
        return layers

    def _ghost(self, color: Color) -> np.ndarray:
        """Where a removed agent was: a faint disc with a cross below it; the steps left are written on it later."""
        tile = Tile(self.size)
        away = np.hypot(tile.x, tile.y)
        tile.paint(away < 0.42, "#ffffff", 0.45).paint(np.abs(away - 0.38) < 0.03, color, 0.7)
        for side in (-1, 1):
            tile.line((-0.26, -0.26 * side), (0.26, 0.26 * side), 0.07, color, 0.45)
        return tile.rgba()

    def _me(self) -> np.ndarray:
        """Corners around the agent whose view it is."""
        tile = Tile(self.size)
        x, y = np.abs(tile.x), np.abs(tile.y)
        edge = np.maximum(x, y)
        corner = (edge > 0.43) & (edge < 0.48) & (np.minimum(x, y) > 0.26)
        return tile.paint(corner, INK).rgba()

    def _label(self, layer: np.ndarray, text: str, on: Color, at: tuple[float, float], share: float) -> np.ndarray:
        """`layer` with a number in black or white, centred `at`, with digits of that share of the tile's height."""
        height = max(5, round(self.size * share / (1 if len(text) == 1 else 1.3)))
        mask = _tight(text, height)
        bright = to_rgb(on) @ [0.299, 0.587, 0.114] > 0.55
        ink = np.append(to_rgb("#101418" if bright else "#ffffff") * 255, 1).astype(np.float32)
        result, (tall, wide) = layer.copy(), mask.shape
        top = round((at[1] + 0.5) * self.size - tall / 2)
        left = round((at[0] + 0.5) * self.size - wide / 2)
        if top < 0 or left < 0 or top + tall > self.size or left + wide > self.size:
            return result  # no room
        area = result[top : top + tall, left : left + wide]
        area += mask[..., None] * (ink - area)
        return result

    def _coin(self, color: Color, label: str) -> np.ndarray:
        """A coin in its owner's colour, with the owner's number."""
        tile = Tile(self.size)
        tile.disc(0.02, 0.05, 0.36, "#3a3222", 0.3)
        tile.disc(0, 0, 0.36, mix(color, "#000000", 0.45)).disc(0, 0, 0.325, mix(color, "#ffffff", 0.55))
        tile.disc(0, 0, 0.25, mix(color, "#000000", 0.15)).disc(0, 0, 0.225, color)
        return self._label(tile.rgba(), label, color, (0, 0), 0.3)


def _tight(text: str, height: int) -> np.ndarray:
    """`text_mask` without its empty border."""
    mask = text_mask(text, height)
    rows, columns = np.flatnonzero(mask.max(axis=1)), np.flatnonzero(mask.max(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@functools.lru_cache(maxsize=16)
def land(size: int, meadow: bool) -> Land:
    """The ground in tiles of this size, painted once."""
    return Land(size, meadow)


@functools.lru_cache(maxsize=32)
def figures(size: int, colors: tuple[Color, ...]) -> Figures:
    """The agents of these colours in this size, painted once."""
    return Figures(size, colors)


# --- Putting a picture together ---


def _cell_size(height: int, width: int, room: int = 640) -> int:
    """Pixels along a cell's edge: even, and such that the board is at most `room` wide and about 640 high."""
    return int(np.clip(2 * (min(room // width, 660 // height) // 2), 8, 64))


def _sides(kind: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Which neighbours of each cell are not of its kind, bool[H, W]: 1 north + 2 east + 4 south + 8 west."""
    same = np.pad(kind | unseen, 1, constant_values=True)
    north, east, south, west = same[:-2, 1:-1], same[1:-1, 2:], same[2:, 1:-1], same[1:-1, :-2]
    return ~north * 1 + ~east * 2 + ~south * 4 + ~west * 8


def _paint(scene: Scene, art: Land, who: Figures, me: int | None = None) -> np.ndarray:
    """The picture of a scene, uint8[H * P, W * P, 3]; `me`: the agent to mark."""
    ground = scene.ground
    row, column = np.indices(ground.shape)
    variant = (row * 7 + column * 13 + row * column * 5) % art.VARIANTS
    wall, unseen = ground == maps.WALL, ground == maps.UNSEEN
    river = (ground == maps.RIVER) | (ground == maps.WASTE)
    index = art.FLOOR + (((row + column) % 2) * art.VARIANTS + variant) * 4 + scene.site
    index = np.where(wall, art.WALL + _sides(wall, unseen), index)
    index = np.where(river, art.RIVER + _sides(river, unseen) * art.VARIANTS + variant, index)
    index = np.where(ground <= maps.OUTSIDE, ground, index)
    cells = art.ground[index]  # [H, W, P, P, 3]

    def put(where: np.ndarray, layer: np.ndarray) -> None:
        if where.any():
            cells[where] = over(cells[where], layer)

    if (ground == maps.WASTE).any():
        for i, layer in enumerate(art.waste):
            put((ground == maps.WASTE) & (variant == i), layer)
    below_wall = np.zeros_like(wall)
    below_wall[1:] = wall[:-1] & ~wall[1:] & (ground[1:] > maps.OUTSIDE)
    put(below_wall, art.shade)
    if (ground == maps.APPLE).any():
        put(ground == maps.APPLE, art.apple)
    for owner in np.unique(scene.owner[scene.owner >= 0]).tolist():
        put(scene.owner == owner, who.coins[owner])
    if scene.beam.any():
        for kind, layers in art.beams.items():
            for heading in range(4):
                put((scene.beam == kind) & (scene.towards == heading), layers[heading])
    shown = np.flatnonzero(scene.row >= 0).tolist()
    for removed in (True, False):  # agents on top of the marks of others
        for agent in shown:
            if bool(scene.away[agent] > 0) == removed:
                at = int(scene.row[agent]), int(scene.column[agent])
                layer = who.ghosts[agent] if removed else who.agents[agent][int(scene.heading[agent])]
                cells[at] = over(cells[at], layer)
                if agent == me:
                    cells[at] = over(cells[at], who.me)
    height, width = ground.shape
    picture = cells.transpose(0, 2, 1, 3, 4).reshape(height * art.size, width * art.size, 3)
    present = {(int(scene.row[i]), int(scene.column[i])) for i in shown if scene.away[i] == 0}
    for agent in shown:
        at = int(scene.row[agent]), int(scene.column[agent])
        if scene.away[agent] > 0 and at not in present:
            mask = _tight(str(int(scene.away[agent])), max(5, round(art.size * 0.34)))
            y = at[0] * art.size + (art.size - mask.shape[0]) // 2
            x = at[1] * art.size + (art.size - mask.shape[1]) // 2
            _blend(picture, x, y, mask, INK)
    return picture


def _blend(picture: np.ndarray, x: int, y: int, mask: np.ndarray, color: Color) -> None:
    """Put a colour on the picture where the mask, float32[h, w], is opaque; what reaches over the edge is left out."""
    area = picture[max(y, 0) : y + mask.shape[0], max(x, 0) : x + mask.shape[1]]
    mask = mask[max(-y, 0) :, max(-x, 0) :][: area.shape[0], : area.shape[1], None]
    area[...] = np.rint(area + mask * (to_rgb(color) * 255 - area)).astype(np.uint8)


def _write(picture: np.ndarray, x: int, y: int, text: str, height: int = 11, color: Color = INK) -> int:
    """Write a line whose digits are `height` pixels high, with their top at `y`; returns where it ends."""
    mask = text_mask(text, height)
    _blend(picture, x, y, mask, color)
    return x + mask.shape[1]


def _fill(picture: np.ndarray, x: int, y: int, width: int, height: int, color: Color) -> None:
    picture[y : y + height, x : x + width] = np.rint(to_rgb(color) * 255).astype(np.uint8)


def _page(height: int, width: int) -> np.ndarray:
    """An empty picture, of even size for video."""
    picture = np.empty((height + height % 2, width + width % 2, 3), np.uint8)
    picture[:] = np.tile(np.rint(to_rgb(PAPER) * 255).astype(np.uint8), (picture.shape[1], 1))  # row by row is faster
    return picture


_MARGIN, _LINE, _ICON = 12, 28, 24


def facts(env: Any, state: Any) -> list[tuple[str, float | None]]:
    """What a scoreboard tells of the game, each text with the share that a bar beside it shows, if any."""
    step = f"step {int(state.step)}" + ("" if env.max_steps is None else f" / {env.max_steps}")
    lines: list[tuple[str, float | None]] = [(env.game, None), (step, None)]
    if hasattr(state, "waste"):
        share = float(np.sum(np.asarray(state.waste)) / env.capacity)
        lines.append((f"waste {round(100 * share)}%", share))
    elif hasattr(state, "apple"):
        apple = np.asarray(state.apple)
        lines.append((f"apples {int(apple.sum())} / {apple.size}", None))
    elif hasattr(state, "coin"):
        lines.append((f"coins {int(np.sum(np.asarray(state.coin) > 0))}", None))
    return lines


def _bar(picture: np.ndarray, x: int, y: int, share: float, mark: float) -> int:
    """How dirty the river is, with a mark where apples stop growing; returns where the bar ends."""
    width, height = 120, 13
    _fill(picture, x, y, width, height, "#4a9bd6")
    _fill(picture, x, y, round(width * min(share, 1)), height, "#7b7431")
    _fill(picture, x + round(width * mark) - 1, y - 3, 2, height + 6, INK)
    return x + width


@functools.lru_cache(maxsize=64)
def _entry_width(names: tuple[str, ...]) -> int:
    """Pixels for an agent's line on the scoreboard."""
    longest = max(text_mask(name, 11).shape[1] for name in names)
    return _ICON + 8 + longest + 8 + 20 + text_mask("0000", 11).shape[1] + text_mask("back in 000", 9).shape[1] + 14


def _scores(picture: np.ndarray, x: int, y: int, columns: int, state: Any, names: Sequence[str], coins: bool) -> None:
    """A line per agent, in columns: picture, role, items taken, and for how long it is away."""
    width, rows = _entry_width(tuple(names)), -(-len(names) // columns)
    who, ground = figures(_ICON, agent_colors(state)), land(_ICON, True)
    items, away = np.asarray(state.items).tolist(), np.asarray(state.away).tolist()
    longest = max(text_mask(name, 11).shape[1] for name in set(names))
    for agent, name in enumerate(names):
        left, top = x + agent // rows * width, y + agent % rows * _LINE
        gone = away[agent] > 0
        area = picture[top : top + _ICON, left : left + _ICON]
        area[...] = over(area, who.agents[agent][maps.NORTH] * (0.35 if gone else 1))
        _write(picture, left + _ICON + 8, top + 7, name, 11, _MUTED if gone else INK)
        left += _ICON + 8 + longest + 8
        mark = _small(who.coins[agent] if coins else ground.apple)
        area = picture[top + 4 : top + 4 + len(mark), left : left + len(mark)]
        area[...] = over(area, mark)
        left = _write(picture, left + 20, top + 7, str(items[agent]), 11, _MUTED if gone else INK)
        if gone:
            _write(picture, left + 8, top + 8, f"back in {away[agent]}", 9, _MUTED)


def _small(layer: np.ndarray) -> np.ndarray:
    """Two thirds of an icon's size, float32[16, 16, 4]."""
    fine = np.repeat(np.repeat(layer, 2, axis=0), 2, axis=1)
    return fine.reshape(16, 3, 16, 3, 4).mean(axis=(1, 3))


def draw_board(env: SocialDilemma, state: Any) -> np.ndarray:
    """The board with a scoreboard, uint8[height, width, 3], both even; of a state of NumPy or JAX arrays, not batched.

    Agents have the colours of their roles and point where they look; rings mark spawn cells, crosses where removed
    agents were, with the steps until they come back.
    """
    scene, colors, names = board_scene(env, state), agent_colors(state), role_names(state)
    coins = env.game == "coins"
    rows, columns = scene.ground.shape
    told, entry = facts(env, state), _entry_width(tuple(names))
    size = _cell_size(rows, columns, 800 - entry - 2 * _MARGIN)
    needed = 2 * _MARGIN + _LINE * (len(told) + 1 + len(names))
    beside = rows >= 0.85 * columns and needed <= rows * size
    if not beside:
        size = _cell_size(rows, columns)
    depletion = float(getattr(env.numbers, "depletion", 0.0))
    board = _paint(scene, land(size, not coins), figures(size, colors))
    height, width = board.shape[:2]
    if beside:
        page = _page(height, width + 2 * _MARGIN + entry)
        page[:height, :width] = board
        x, y = width + _MARGIN, _MARGIN
        for i, (text, share) in enumerate(told):
            end = _write(page, x, y + 6, text, 14 if i == 0 else 11, INK)
            if share is not None:
                _bar(page, end + 8, y + 5, share, depletion)
            y += _LINE
        _fill(page, x, y + 4, entry, 2, FAINT)
        _scores(page, x, y + 18, 1, state, names, coins)
        return page
    page_width = max(width, 480)
    across = max(1, min(len(names), (page_width - 2 * _MARGIN) // entry))
    lines = -(-len(names) // across)
    page = _page(height + 2 * _MARGIN + _LINE * (lines + 1) + 4, max(page_width, entry + 2 * _MARGIN))
    left = (page.shape[1] - width) // 2
    page[:height, left : left + width] = board
    x, y = _MARGIN, height + _MARGIN
    for i, (text, share) in enumerate(told):
        x = _write(page, x, y + (0 if i == 0 else 2), text, 14 if i == 0 else 11, INK)
        if share is not None:
            x = _bar(page, x + 8, y + 1, share, depletion)
        x += 22
    _fill(page, _MARGIN, y + 23, page.shape[1] - 2 * _MARGIN, 2, FAINT)
    _scores(page, _MARGIN, y + _LINE + 4, across, state, names, coins)
    return page


def draw_view(env: SocialDilemma, state: Any, agent: int) -> np.ndarray:
    """What one agent sees, drawn large, as it sees it: looking up. uint8[height, width, 3], both even.

    Below: its role, items taken, and what it has to wait for. A removed agent sees nothing. Raises ValueError for an
    unknown agent.
    """
    scene, colors = view_scene(env, state, agent), agent_colors(state)
    coins, (rows, columns) = env.game == "coins", scene.ground.shape
    size = _cell_size(rows, columns)
    picture = _paint(scene, land(size, not coins), figures(size, colors), agent)
    height, width = picture.shape[:2]
    page = _page(height + 2 * _MARGIN + _LINE, max(width, 480))
    left = (page.shape[1] - width) // 2
    page[:height, left : left + width] = picture
    icons, away = figures(_ICON, colors), int(np.asarray(state.away)[agent])
    if away:
        text = f"removed: back in {away}"
        mask = text_mask(text, 18)
        _blend(page, (page.shape[1] - mask.shape[1]) // 2, (height - mask.shape[0]) // 2, mask, PAPER)
    y, x = height + _MARGIN, _MARGIN
    area = page[y : y + _ICON, x : x + _ICON]
    area[...] = over(area, icons.agents[agent][maps.NORTH])
    x = _write(page, x + _ICON + 8, y + 7, f"{role_names(state)[agent]}", 11, INK)
    mark = _small(icons.coins[agent] if coins else land(_ICON, True).apple)
    area = page[y + 4 : y + 4 + len(mark), x + 14 : x + 14 + len(mark)]
    area[...] = over(area, mark)
    x = _write(page, x + 34, y + 7, f"{int(np.asarray(state.items)[agent])}", 11, INK)
    x = _write(page, x + 18, y + 7, f"step {int(state.step)}", 11, _MUTED)
    for name in ("zap", "clean"):
        wait = int(np.asarray(getattr(state, f"{name}_wait", np.zeros(env.num_agents)))[agent])
        if wait:
            x = _write(page, x + 18, y + 7, f"{name} in {wait}", 11, _MUTED)
    return page


# --- Films ---


def animate(env: SocialDilemma, states: Any, path: str | Path, fps: float = 15, view: int | None = None) -> Path:
    """Write a film of a trajectory, `states` with leaves [T, ...], as .gif or .mp4; returns its path.

    view: the agent whose view is shown; None for the whole board.
    Raises ValueError for another suffix, no states, an `fps` that is not positive, or .mp4 without imageio-ffmpeg.
    """
    path = check_film(path, fps)
    states = jax.tree.map(np.asarray, states)
    length = len(states.step) if np.ndim(states.step) else 0
    if not length:
        raise ValueError(
            f"states.step has shape {np.shape(states.step)}; allowed: leaves [T, ...] of at least one state"
        )

    def frame(t: int) -> np.ndarray:
        state = jax.tree.map(lambda x: x[t], states)
        return draw_board(env, state) if view is None else draw_view(env, state, view)

    if path.suffix == ".mp4":
        first = frame(0)
        writer = importlib.import_module("imageio_ffmpeg").write_frames(
            str(path), (first.shape[1], first.shape[0]), fps=fps, macro_block_size=2, quality=8
        )
        writer.send(None)
        for t in range(length):
            writer.send(np.ascontiguousarray(frame(t)))
        writer.close()
        return path

    from PIL import Image

    # One palette for all frames, from a few of them side by side: colours do not flicker and frames compress well.
    sample = np.concatenate([frame(t) for t in range(0, length, max(1, length // 6))], axis=1)
    palette = Image.fromarray(sample).quantize(256)
    pictures = [Image.fromarray(frame(t)).quantize(palette=palette, dither=Image.Dither.NONE) for t in range(length)]
    # GIF counts in hundredths of a second, and players slow down below two of them.
    duration = max(20, round(100 / fps) * 10)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, disposal=1)
    return path


def check_film(path: str | Path, fps: float = 15) -> Path:
    """The path of a film that can be written here; ValueError as `animate` has it."""
    path = Path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"path is '{path}'; allowed: a name that ends in .gif or .mp4")
    if not fps > 0:
        raise ValueError(f"fps is {fps}; allowed: a number above 0")
    if not path.parent.is_dir():
        raise ValueError(f"path is '{path}', in a folder that does not exist; allowed: an existing folder")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ValueError(f"path is '{path}', and .mp4 needs ffmpeg: pip install imageio-ffmpeg, or write a .gif")
    return path

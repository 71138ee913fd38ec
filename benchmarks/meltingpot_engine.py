"""The two sides of `meltingpot_parity.py`: Melting Pot's own engine and Covey's environments, behind the same methods.

Nothing of Melting Pot is kept here: configurations, maps and Lua files are read from a checkout at run time, and the
engine is the wheel `dmlab2d`. Its board is read from the `LAYER` observations, which say what lies on which layer of a
cell, and not from pictures: so one also sees what lies under an agent or a beam. To that end the view of every avatar
is widened to the whole map, which changes nothing else.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import random
import sys
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import envs_jax

NEEDED = {
    "dmlab2d": "dmlab2d",
    "dm_env": "dm-env",
    "tree": "dm-tree",
    "ml_collections": "ml-collections",
    "immutabledict": "immutabledict",
    "reactivex": "reactivex",
}
"""Modules that Melting Pot's substrates import, and the packages that hold them."""
ACTIONS = {
    "noop": 0,
    "forward": 1,
    "backward": 2,
    "left": 3,
    "right": 4,
    "turn_left": 5,
    "turn_right": 6,
    "zap": 7,
    "clean": 8,
}
"""Numbers of the actions, the same here and in Melting Pot's action sets."""
TRANSLATION = {"clean_up": {"A": "B", "~": "S"}, "commons_harvest": {}, "coins": {"P": "_"}}
"""Covey's map characters in Melting Pot's, where they differ."""
KINDS = {
    "wall": "W",
    "actual_dirt": "F",
    "potential_dirt": "H",
    "potential_apple": "A",
    "apple": "A",
    "coin": "C",
    "inside_spawn_point": "Q",
    "spawn_point": "P",
    "river": "~",
}
"""Melting Pot's prefabs as Covey's map characters; of several in a cell, the first in this order counts."""


STEPS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
"""Row and column that one step in each heading adds."""


class Game(NamedTuple):
    """A game as both sides name it."""

    name: str
    game: str
    substrate: str
    map: str
    actions: int


GAMES = (
    Game("cleanup", "cleanup", "clean_up", "standard", 9),
    Game("harvest open", "harvest", "commons_harvest__open", "open", 8),
    Game("harvest closed", "harvest", "commons_harvest__closed", "closed", 8),
    Game("harvest partnership", "harvest", "commons_harvest__partnership", "partnership", 8),
    Game("coins", "coins", "coins", "", 7),
)
CLEANUP, OPEN, CLOSED, PARTNERSHIP, COINS = GAMES


class Board(NamedTuple):
    """What there is to see. Grids are bool[height, width] unless said otherwise.

    cell, heading: int[N]: row * width + column, and 0 north, 1 east, 2 south, 3 west; -1 while an agent is removed.
    coin: int[height, width]: 0 nothing, k + 1 a coin of agent k.
    zap, clean: cells shown as beams of the last step.
    """

    cell: np.ndarray
    heading: np.ndarray
    apple: np.ndarray
    waste: np.ndarray
    coin: np.ndarray
    zap: np.ndarray
    clean: np.ndarray


# --- Melting Pot's side ---


def load(checkout: Path) -> None:
    """Make `meltingpot` importable from a checkout; end with one line where something is missing.

    Its `__init__` is passed over: it imports the saved bots, and with them TensorFlow, which no substrate needs.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(f"Melting Pot's engine is not installed here: pip install {' '.join(missing)}")
    folder = checkout.resolve() / "meltingpot"
    if not (folder / "lua").is_dir():
        sys.exit(f"{checkout} is no checkout of google-deepmind/meltingpot: it has no folder meltingpot/lua")
    package = types.ModuleType("meltingpot")
    package.__path__ = [str(folder)]
    sys.modules["meltingpot"] = package


def build_substrate(name: str) -> Any:
    """The substrate as its users get it, with all its observations, for timing."""
    module = importlib.import_module("meltingpot.substrate")
    return module.build(name, roles=module.get_config(name).default_player_roles)


def time_engine(game: Game, steps: int, repeats: int, seed: int = 0) -> tuple[int, list[float], list[float]]:
    """`(number of agents, seconds of `steps` random steps, seconds of a reset)`, the times `repeats` times; with the
    observations that its users get. Episodes have 300 steps at least: fewer steps than that never reset."""
    rng, env = np.random.default_rng(seed), build_substrate(game.substrate)
    agents, seconds, resets = len(env.action_spec()), [], []
    env.reset()  # The first is cheap: it builds nothing.
    for _ in range(repeats):
        began = time.perf_counter()
        env.reset()
        resets.append(time.perf_counter() - began)
        actions = rng.integers(0, game.actions, (steps, agents))
        began = time.perf_counter()
        for action in actions:
            env.step(action)
        seconds.append(time.perf_counter() - began)
    env.close()
    return agents, seconds, resets


def component(game_object: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of a game object's first component of that name."""
    return next(part for part in game_object["components"] if part["component"] == name).setdefault("kwargs", {})


def prefabs_of(table: Mapping[str, Any], character: str) -> list[str]:
    """The prefabs that a map character stands for."""
    found = table.get(character, [])
    return list(found["list"]) if isinstance(found, Mapping) else [found] if found else []


class Engine:
    """One substrate with a map, places and settings of our choice.

    layout: a map in Covey's characters; without it, the substrate's own.
    starts: the first cell (row, column) of each agent; without it they start as the substrate has it. With `north` all
        face north then, else at random as in the substrate; with `return_to_start` they also come back to that cell.
    avatar, prefabs, scene: settings by component (of a prefab), `{"Zapper": {"cooldownTime": 0}}`.
    """

    def __init__(
        self,
        substrate: str,
        *,
        seed: int,
        num_agents: int | None = None,
        layout: Sequence[str] | None = None,
        starts: Sequence[tuple[int, int]] | None = None,
        north: bool = False,
        return_to_start: bool = False,
        avatar: Mapping[str, Mapping[str, Any]] | None = None,
        prefabs: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        scene: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self._config = importlib.import_module("meltingpot.configs.substrates").get_config(substrate)
        family = substrate.split("__")[0]
        roles = tuple(self._config.default_player_roles)
        random.seed(seed)  # Coins draws its room and colours with it.
        self.num_agents = len(roles) if num_agents is None else num_agents
        if family != "coins":
            roles = (roles[0],) * self.num_agents
        settings = self._config.lab2d_settings_builder(roles=roles, config=self._config)
        self._settings: dict[str, Any] = copy.deepcopy(dict(settings))
        self._settings["maxEpisodeLengthFrames"] = 10**9
        simulation = self._settings["simulation"]
        if layout is not None:
            table = str.maketrans(TRANSLATION[family])
            simulation["map"] = "\n".join(row.translate(table) for row in layout)
        rows = simulation["map"].strip("\n").split("\n")
        self.height, self.width = len(rows), max(map(len, rows))
        self._rows = [row.ljust(self.width) for row in rows]
        avatars = simulation["gameObjects"]
        self.usual_view: dict[str, Any] = dict(component(avatars[0], "Avatar")["view"])
        if starts is not None:
            self._place(simulation, starts, return_to_start)
        for game_object in avatars:
            for name, values in (avatar or {}).items():
                component(game_object, name).update(values)
            if north:
                component(game_object, "Avatar")["randomizeInitialOrientation"] = False
            view = {"left": self.width, "right": self.width, "forward": self.height, "backward": self.height}
            component(game_object, "Avatar")["view"] = view | {"centered": False}
            where = {"objectIsAvatar": True, "alsoReportOrientation": True}
            game_object["components"].append({"component": "LocationObserver", "kwargs": where})
        for prefab, components in (prefabs or {}).items():
            for name, values in components.items():
                component(simulation["prefabs"][prefab], name).update(values)
        endless = {"StochasticIntervalEpisodeEnding": {"minimumFramesPerEpisode": 10**9}}
        for name, values in (endless | dict(scene or {})).items():
            component(simulation["scene"], name).update(values)
        self._coins = [component(a, "PlayerCoinType")["coinType"] for a in avatars] if family == "coins" else []
        self._sprites = self._number_sprites(simulation, family)
        own = ["Self" if "Self" in self._sprites else f"Avatar{i + 1}" for i in range(self.num_agents)]
        self._own_sprite = [self._sprites[name] for name in own]
        self._seed = seed
        self._raw: Any = None

    def _place(self, simulation: dict[str, Any], starts: Sequence[tuple[int, int]], return_to_start: bool) -> None:
        """Give every agent a spawn group of its own, at one cell."""
        grid = [list(row) for row in self._rows]
        table = dict(simulation["charPrefabMap"])
        used = set("".join(self._rows)) | set(table)
        free = (c for c in map(chr, range(ord("0"), ord("~"))) if c not in used and c not in "\"'\\$.")
        for agent, (row, column) in enumerate(starts):
            prefab = copy.deepcopy(simulation["prefabs"]["spawn_point"])
            state = component(prefab, "StateManager")["stateConfigs"][0]
            # A layer of its own: the usual one would bar the waste or coin that waits on that layer of the same cell.
            state["groups"], state["layer"] = [f"startOfAgent{agent}"], "starts"
            simulation["prefabs"][f"start_{agent}"] = prefab
            character = next(free)
            table[character] = {"type": "all", "list": [*prefabs_of(table, grid[row][column]), f"start_{agent}"]}
            grid[row][column] = character
            settings = component(simulation["gameObjects"][agent], "Avatar")
            settings["spawnGroup"] = state["groups"][0]
            settings["postInitialSpawnGroup"] = state["groups"][0] if return_to_start else "spawnPoints"
        simulation["charPrefabMap"] = table
        simulation["map"] = "\n".join("".join(row) for row in grid)

    @staticmethod
    def _number_sprites(simulation: Mapping[str, Any], family: str) -> dict[str, int]:
        """The first number of each sprite: the engine numbers them by name, four (one per heading) each, from 1."""
        beams = {"clean_up": {"BeamZap", "BeamClean"}, "commons_harvest": {"BeamZap"}, "coins": set()}[family]
        table = simulation["charPrefabMap"]
        used = {name for c in set(simulation["map"]) for name in prefabs_of(table, c)}
        names = {"OutOfBounds", "OutOfView"} | beams
        for game_object in [*simulation["gameObjects"], *(simulation["prefabs"][name] for name in used)]:
            for part in game_object["components"]:
                if part["component"] == "StateManager":
                    names |= {s["sprite"] for s in part["kwargs"]["stateConfigs"] if "sprite" in s}
                elif part["component"] == "AdditionalSprites":
                    names |= set(part["kwargs"]["customSpriteNames"])
        return {name: 1 + 4 * i for i, name in enumerate(sorted(names))}

    def cells(self) -> list[str]:
        """The map in Covey's characters, from the prefabs that the engine puts in each cell."""
        table = self._settings["simulation"]["charPrefabMap"]

        def kind(character: str) -> str:
            prefabs = prefabs_of(table, character)
            return next((KINDS[name] for name in KINDS if name in prefabs), " ")

        return ["".join(map(kind, row)) for row in self._rows]

    def reset(self) -> np.ndarray:
        """A new episode, in a new engine with the next seed, as Melting Pot does it. Returns the rewards."""
        dmlab2d = importlib.import_module("dmlab2d")
        runfiles = importlib.import_module("dmlab2d.runfiles_helper")
        builder = importlib.import_module("meltingpot.utils.substrates.builder")
        config_dict = importlib.import_module("ml_collections.config_dict")
        settings = config_dict.ConfigDict(copy.deepcopy(self._settings)).unlock()
        builder.locate_and_overwrite_level_directory(settings)
        flat = builder.parse_python_settings_for_dmlab2d(settings) | {"env_seed": str(self._seed)}
        self._raw = dmlab2d.Lab2d(runfiles.find(), flat)
        self._slots = {name: i for i, name in enumerate(self._raw.action_discrete_names())}
        self._raw.start(0, seed=self._seed)
        self._seed += 1
        return self.rewards()

    def step(self, actions: Iterable[int]) -> np.ndarray:
        """All agents act once. Returns the rewards."""
        discrete = np.zeros(len(self._slots), np.int32)
        for agent, action in enumerate(actions):
            for part, value in self._config.action_set[int(action)].items():
                discrete[self._slots[f"{agent + 1}.{part}"]] = value
        self._raw.act_discrete(discrete)
        self._raw.advance()
        return self.rewards()

    def rewards(self) -> np.ndarray:
        """float[N]: the rewards of the last step."""
        return np.array([float(self._raw.observation(f"{i + 1}.REWARD")) for i in range(self.num_agents)])

    def events(self) -> list[tuple[str, dict[str, int]]]:
        """What the engine says has happened, as names with numbers (agents from 1)."""
        found = []
        for name, items in self._raw.events():
            words = [item.decode() if isinstance(item, bytes) else item for item in items][1:]
            pairs = zip(words[::2], words[1::2], strict=False)
            found.append((name, {key: int(value) for key, value in pairs if isinstance(value, np.ndarray)}))
        return found

    def picture(self, agent: int | None = None) -> np.ndarray:
        """uint8[height, width, 3]: what an agent is shown (around it as much as the map is large), or the whole map."""
        return np.asarray(self._raw.observation("WORLD.RGB" if agent is None else f"{agent + 1}.RGB"))

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """int[N, 2] and int[N]: (row, column) and heading, also those of removed agents."""
        numbers = range(1, self.num_agents + 1)
        place = np.array([np.asarray(self._raw.observation(f"{i}.POSITION"))[::-1] for i in numbers])
        return place, np.array([int(self._raw.observation(f"{i}.ORIENTATION")) for i in numbers])

    def board(self) -> Board:
        """Read the board, through the eyes of any agent that is on it."""
        h, w = self.height, self.width
        place, heading = self.poses()
        cell, layers = np.full(self.num_agents, -1), None
        for agent, (row, column) in enumerate(place):
            seen = np.asarray(self._raw.observation(f"{agent + 1}.LAYER"))
            own = self._own_sprite[agent]
            if not ((seen[h, w] >= own) & (seen[h, w] < own + 4)).any():
                continue  # Removed.
            cell[agent] = row * w + column
            if layers is None:
                layers = seen[h - row : 2 * h - row, w - column : 2 * w - column]
        view = np.zeros((h, w, 1), int) if layers is None else layers

        def shown(name: str) -> np.ndarray:
            first = self._sprites.get(name, 0)  # 0 is "nothing", and names no sprite.
            return np.any((view >= first) & (view < first + 4) & (first > 0), axis=-1)

        coin = np.zeros((h, w), int)
        for agent, kind in enumerate(self._coins):
            coin[shown(kind)] = agent + 1
        heading = np.where(cell < 0, -1, heading)
        return Board(cell, heading, shown("Apple"), shown("Dirt"), coin, shown("BeamZap"), shown("BeamClean"))


# --- Covey's side ---

CERTAIN_HERE: dict[str, dict[str, Any]] = {
    "cleanup": {"apple_growth": 1.0},
    "harvest": {"regrowth": (0.0, 1.0)},
    "coins": {"coin_rate": 1.0},
}
"""Covey's settings under which everything grows as soon as it can."""


@functools.partial(jax.jit, static_argnums=0)
def _start(env: Any, key: jax.Array, episode: jax.Array, copies: jax.Array) -> Any:
    return jax.vmap(lambda i: env.init(jax.random.fold_in(jax.random.fold_in(key, episode), i)))(copies)


@functools.partial(jax.jit, static_argnums=0)
def _step(env: Any, key: jax.Array, step: jax.Array, states: Any, actions: jax.Array) -> tuple[Any, jax.Array]:
    keys = jax.random.split(jax.random.fold_in(key, step), actions.shape[0])
    states, outcome = jax.vmap(env.advance)(keys, states, actions)
    return states, outcome.reward


@functools.partial(jax.jit, static_argnums=0)
def _observe(env: Any, states: Any) -> jax.Array:
    return jax.vmap(env.observe)(states)


class Ours:
    """An environment of Covey: `copies` of it at once, of which the single-board methods look at the first.

    layout: a map; without it, the game's own. certain: everything grows as soon as it can.
    """

    def __init__(
        self,
        game: Game,
        seed: int,
        *,
        layout: Sequence[str] | None = None,
        num_agents: int = 0,
        certain: bool = False,
        copies: int = 1,
    ):
        settings: dict[str, Any] = {"map": game.map}
        if layout is not None:
            usual: Any = envs_jax.make(game.game, map=game.map)
            settings = {"map": "\n".join(layout), "rules": usual.numbers}  # Harvest's rules depend on its map.
        settings |= CERTAIN_HERE[game.game] if certain else {}
        self.env: Any = envs_jax.make(game.game, num_agents=num_agents, max_steps=None, **settings)
        self.num_agents, self.height, self.width = self.env.num_agents, self.env.board.height, self.env.board.width
        self._key, self._clock, self._episode = jax.random.key(seed), 0, 0
        self._copies = np.arange(copies)
        self.state: Any = None

    def cells(self) -> list[str]:
        """The map."""
        return self.env.board.text.split("\n")

    def reset(self) -> None:
        """New episodes."""
        self.state = _start(self.env, self._key, jnp.int32(self._episode), self._copies)
        self._episode += 1

    def pose(
        self,
        starts: Sequence[tuple[int, int]],
        headings: Sequence[int],
        waste: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """A new episode in which everybody is at a place of our choice, and waste too if it is given."""
        self.reset()
        cell = np.array([[row * self.width + column for row, column in starts]], np.int32)
        self.state = self.state.replace(cell=jnp.asarray(cell), heading=jnp.asarray([headings], jnp.int32))
        if waste is not None:
            dirty = np.isin(self.env.board.waste_cells, [row * self.width + column for row, column in waste])
            self.state = self.state.replace(waste=jnp.asarray(dirty[None]))

    def step(self, actions: Any) -> np.ndarray:
        """All agents act once. float[N], or [copies, N] where `actions` are that: the rewards."""
        actions = np.asarray(actions, np.int32)
        batch = actions if actions.ndim == 2 else actions[None]
        self.state, reward = _step(self.env, self._key, jnp.int32(self._clock), self.state, batch)
        self._clock += 1
        return np.asarray(reward) if actions.ndim == 2 else np.asarray(reward[0])

    def observations(self) -> np.ndarray:
        """uint8[copies, N, 11, 11, 2]."""
        return np.asarray(_observe(self.env, self.state))

    def board(self) -> Board:
        """The first copy's board."""
        state, board = jax.tree.map(lambda leaf: np.asarray(leaf[0]), self.state), self.env.board

        def drawn(cells: np.ndarray, values: Any) -> np.ndarray:
            grid = np.zeros(self.height * self.width, np.asarray(values).dtype)
            grid[cells] = values
            return grid.reshape(self.height, self.width)

        zap = clean = drawn(np.zeros(0, int), np.zeros(0, bool))
        if hasattr(state, "beam"):
            # Not `env.beams`, in which a zap hides a clean beam.
            zap, clean = (
                drawn(np.flatnonzero(np.asarray(self.env.covered(state, kind)) & ~board.wall[:-1]), True)
                for kind in (2, 1)
            )
        apple = drawn(board.apple_cells, getattr(state, "apple", False))
        waste = drawn(board.waste_cells, getattr(state, "waste", False))
        coin = drawn(board.coin_cells, getattr(state, "coin", 0))
        away = state.away > 0
        return Board(np.where(away, -1, state.cell), np.where(away, -1, state.heading), apple, waste, coin, zap, clean)

    def observe(self, board: Board) -> np.ndarray:
        """uint8[N, 11, 11, 2]: what agents observe of a board without beams."""
        state, kinds = self.state, self.env.board
        changes = {"cell": board.cell, "heading": board.heading, "away": board.cell < 0}
        if hasattr(state, "apple"):
            changes["apple"] = board.apple.reshape(-1)[kinds.apple_cells]
        if hasattr(state, "waste"):
            changes["waste"] = board.waste.reshape(-1)[kinds.waste_cells]
        if hasattr(state, "coin"):
            changes["coin"] = board.coin.reshape(-1)[kinds.coin_cells]
        like = {name: getattr(state, name).dtype for name in changes}
        state = state.replace(**{name: jnp.asarray(value[None], like[name]) for name, value in changes.items()})
        return np.asarray(_observe(self.env, state))[0]


# --- Both: small maps with everybody at a place of our choice, and boards as observations ---


def room(rows: Sequence[str], game: Game) -> tuple[str, ...]:
    """A map with a wall around it, and below a closed strip of spawn cells, where removed agents come back. In Cleanup
    the last cell of the strip is one of clean water: there must be water."""
    width = len(rows[0])
    wall = "W" * (width + 2)
    strip = "P" * (width - 1) + ("H" if game.game == "cleanup" else "P")
    return (wall, *(f"W{row}W" for row in rows), wall, f"W{strip}W", wall)


class Scene(NamedTuple):
    """A game on a map, and everybody's place (row, column) and heading at the start."""

    game: Game
    layout: tuple[str, ...]
    starts: Sequence[tuple[int, int]]
    headings: Sequence[int]

    def theirs(self, seed: int, **settings: Any) -> Engine:
        """Melting Pot's side. All start facing north there, and turn to the right until they face as they should."""
        engine = Engine(
            self.game.substrate,
            seed=seed,
            num_agents=len(self.starts),
            layout=self.layout,
            starts=self.starts,
            north=True,
            **settings,
        )
        engine.reset()
        for turned in range(max(self.headings)):
            engine.step([ACTIONS["turn_right"] if turned < heading else 0 for heading in self.headings])
        return engine

    def ours(self, seed: int, **settings: Any) -> Ours:
        """Covey's side."""
        side = Ours(self.game, seed, layout=self.layout, num_agents=len(self.starts), **settings)
        side.reset()
        side.pose(self.starts, self.headings)
        return side


def window(board: Board, cells: Sequence[str]) -> np.ndarray:
    """uint8[N, 11, 11, 2]: the symbols of Covey's observation, of any side's board."""
    height, width = len(cells), len(cells[0])
    ground = np.array([[{"W": 2, "~": 4, "H": 4, "F": 4}.get(c, 3) for c in row] for row in cells])
    ground[board.waste], ground[board.apple] = 5, 6
    agents = np.where(board.zap, 6, np.where(board.clean, 7, 0))
    present = np.flatnonzero(board.cell >= 0)
    agents.reshape(-1)[board.cell[present]] = 2 + board.heading[present]
    ahead, right = 9 - np.arange(11)[:, None], np.arange(11)[None] - 5
    views = np.zeros((len(board.cell), 11, 11, 2), np.uint8)
    for agent in present:
        heading = board.heading[agent]
        forward, sideways = STEPS[heading], STEPS[(heading + 1) % 4]
        row = board.cell[agent] // width + ahead * forward[0] + right * sideways[0]
        column = board.cell[agent] % width + ahead * forward[1] + right * sideways[1]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        row, column = row.clip(0, height - 1), column.clip(0, width - 1)
        coin = board.coin[row, column]
        here = np.where(coin == 0, ground[row, column], np.where(coin == agent + 1, 7, 8))
        who = agents[row, column]
        who = np.where((who >= 2) & (who < 6), 2 + (who - 2 - heading) % 4, who)
        views[agent, ..., 0], views[agent, ..., 1] = np.where(inside, here, 1), np.where(inside, who, 0)
        views[agent, 9, 5, 1] = 1
    return views

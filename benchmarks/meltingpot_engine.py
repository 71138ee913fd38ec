"""Melting Pot's own engine, driven with scripted actions and read back into symbols.

Nothing of Melting Pot is kept here: configurations, maps and Lua files are read from a checkout at run time, and the
engine is the wheel `dmlab2d`. The board is read from the engine's `LAYER` observations, which say what lies on which
layer of a cell, and not from pictures: so one also sees what lies under an agent or a beam. To that end the view of
every avatar is widened to the whole map, which changes nothing else.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
    whole_view: without it, avatars keep the substrate's view, `board` cannot be read and `picture` can.
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
        whole_view: bool = True,
    ):
        self._config = importlib.import_module("meltingpot.configs.substrates").get_config(substrate)
        family = substrate.split("__")[0]
        roles = tuple(self._config.default_player_roles)
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
        if starts is not None:
            self._place(simulation, starts, return_to_start)
        for game_object in avatars:
            for name, values in (avatar or {}).items():
                component(game_object, name).update(values)
            if north:
                component(game_object, "Avatar")["randomizeInitialOrientation"] = False
            if whole_view:
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
        """uint8[height, width, 3]: what an agent is shown, or the whole map."""
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

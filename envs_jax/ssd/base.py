"""What the social dilemmas share: from words to a step, roles in the state, observations, who sees whom.

A step is `play(state, actions, draws)`: a deterministic function of the random words that `draw(key)` gives, so that
another implementation can be fed the same words. Letters: N agents, S spawn cells, X lanes and F cells of a beam, V
view size, B ground slots.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import MultiAgentEnv, Outcome, State, flat_box, pytree, start_clock
from envs_jax.spaces import Box, Discrete
from envs_jax.ssd import grid, maps, roles
from envs_jax.ssd.grid import BeamShape
from envs_jax.ssd.maps import Board
from envs_jax.ssd.roles import Roles
from envs_jax.ssd.rules import Rules, Window, choose

Draws: TypeAlias = dict[str, jax.Array]
Info: TypeAlias = dict[str, jax.Array]

ITEMS_SHOWN = 255
"""The most items (and steps to wait) that an observation tells apart."""
NUM_FEATURES = 4
"""How many numbers `self_features` adds."""


@pytree
class DilemmaState(State):
    """Agents on the board.

    cell: int32[N], row * width + column; kept while removed.
    heading: int32[N], 0 north, 1 east, 2 south, 3 west.
    away: int32[N], steps until a removed agent comes back; 0 where it is present.
    items: int32[N], apples or coins taken in this episode.
    roles: the abilities of each agent, the same throughout an episode and kept by the reset after it.
    """

    cell: jax.Array
    heading: jax.Array
    away: jax.Array
    items: jax.Array
    roles: Roles

    @property
    def present(self) -> jax.Array:
        """bool[N], who is on the board."""
        return self.away == 0


@dataclass(frozen=True)
class SocialDilemma(MultiAgentEnv):
    """Base of Cleanup, Harvest and Coins. Observations are uint8, rewards per agent, episodes end by the clock."""

    num_agents: int = 0
    """Number of agents; 0 for as many as `roles` makes, else as many as the game usually has."""
    max_steps: int | None = 1000
    """Steps after which an episode is truncated."""
    map: str = ""
    """Name of a map that comes with the game, path of a text file, or its text; empty for the usual one."""
    rules: str = "meltingpot"
    """Whose numbers: meltingpot, hughes2018 or socialjax."""
    roles: str = "default"
    """Who can do what and is paid what: "default", one role for all, "3high,2low,wide_zapper" in this order, or a
    composition such as "5high_5low" (low first). From Python also a mapping of abilities to numbers or arrays."""
    observation: Literal["symbols", "rgb", "onehot"] = "symbols"
    """What agents see: two planes of codes, 8x8 pixels per cell, or the codes as one flat vector of ones and zeros, for
    networks that take nothing else."""
    window: Window | None = None
    """Where an agent is in its window: "centred" or "ahead" (one row behind it); None as the rules have it."""
    view_size: int | None = None
    """Width and height of the window in cells, odd; None as the rules have it."""
    self_features: bool = False
    """Whether four more planes tell an agent its role, items taken, and steps until it can zap and clean."""

    game: ClassVar[str]
    usual_agents: ClassVar[int]
    characters: ClassVar[str]
    num_actions: ClassVar[int]

    def __post_init__(self) -> None:
        set_ = functools.partial(object.__setattr__, self)
        if not isinstance(self.roles, str):
            set_("roles", roles.as_pairs(self.roles))
        set_("as_given", {"num_agents": self.num_agents})
        if self.num_agents == 0:
            set_("num_agents", roles.count_agents(self.roles) or self.usual_agents)
        super().__post_init__()
        if self.observation not in ("symbols", "rgb", "onehot"):
            raise ValueError(f"observation is {self.observation!r}; allowed: 'symbols', 'rgb', 'onehot'")
        _ = self.numbers
        if self.map and self.map not in maps.shipped(self.game):
            # The text, so that an edited file is another environment; the line's end says that it is no name.
            set_("map", maps.load(self.game, self.map) + "\n")
        _ = self.board
        self.check_spawns(self.own_roles)

    # --- To implement: a game ---

    def usual_map(self) -> str:
        """Name of the map where none is given."""
        raise NotImplementedError

    def choose_rules(self) -> Rules:
        """The rules in force."""
        raise NotImplementedError

    def standard(self) -> dict[str, Any]:
        """Abilities of the rules' standard agent that differ from those of a harmless one."""
        raise NotImplementedError

    def words(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the words that a step of this game needs beside those of all games."""
        raise NotImplementedError

    def set_up(self, agents: dict[str, Any]) -> Any:
        """A state with these fields at the start of an episode."""
        raise NotImplementedError

    def grow(self, state: Any, on: Any, draws: Draws) -> Any:
        """`state` after growth that was decided on the board of `on`."""
        raise NotImplementedError

    def collect(self, state: Any, before: jax.Array) -> tuple[Any, jax.Array, Info]:
        """State, reward and info after agents on the board take what is on their cells.

        before: bool[N, N], the order of agents in this step.
        """
        raise NotImplementedError

    def fire(self, state: Any, actions: jax.Array, active: jax.Array, before: jax.Array) -> tuple[Any, jax.Array, Info]:
        """State, reward and info after the beams."""
        return state, jnp.zeros(self.num_agents, jnp.float32), {}

    @property
    def ground_slots(self) -> np.ndarray:
        """int32[cells + 1]: the observation code of each cell is `ground_codes(state)[ground_slots[cell]]`."""
        raise NotImplementedError

    def ground_codes(self, state: Any) -> jax.Array:
        """uint8[B], what is on the ground: of the cells where that changes, and of each kind of bare ground."""
        raise NotImplementedError

    # --- Set-up ---

    as_given: ClassVar[dict[str, Any]]
    """Settings as they were before others filled them in; what a command line starts from."""

    @functools.cached_property
    def numbers(self) -> Any:
        """The rules in force."""
        return choose({}, self.choose_rules(), {"window": self.window, "view_size": self.view_size})

    @functools.cached_property
    def board(self) -> Board:
        """The map, parsed."""
        return maps.parse(maps.load(self.game, self.map or self.usual_map()), self.characters)

    @functools.cached_property
    def own_roles(self) -> Roles:
        """The abilities that `roles` sets, NumPy arrays [N]."""
        return self.make_roles(self.roles)

    def make_roles(self, spec: Any) -> Roles:
        """The abilities of `num_agents` agents by a `roles` setting, NumPy arrays [N], to give to `init`.

        Stack several with `jax.tree.map` and vmap `init` over them: one program serves every composition.
        """
        view = max(self.numbers.view_size - 2, self.numbers.view_size // 2)  # The farthest cell of any window.
        harmless = {"apple_reward": 1.0, "speed": 1.0, "view": view}
        return roles.build(spec, self.num_agents, harmless | self.standard())

    @property
    def view(self) -> tuple[np.ndarray, np.ndarray]:
        """`(ahead, across)`, where the cells of a window lie from its agent."""
        return grid.window(self.numbers.window, self.numbers.view_size)

    def check_spawns(self, who: Roles) -> None:
        """Raise ValueError unless each spawn group has a cell for each of its agents."""
        for name in ("spawn_group", "respawn_group"):
            groups, counts = np.unique(np.asarray(getattr(who, name)), return_counts=True)
            for group, agents in zip(groups.tolist(), counts.tolist(), strict=True):
                cells = int(np.sum(self.board.spawn_group == group))
                needed = agents if name == "spawn_group" else 1
                if cells < needed:
                    letter = "PQ"[group] if group < 2 else f"of {name} {group}"
                    raise ValueError(
                        f"map has {cells} spawn cells {letter!r}, and {agents} of {self.num_agents} agents (num_agents)"
                        f" use them; allowed: at least {needed}"
                    )

    @property
    def agent_classes(self) -> dict[str, list[str]]:
        """Agents by role."""
        groups: dict[str, list[str]] = {}
        for agent, role in zip(self.agents, self.own_roles.role_id, strict=True):
            groups.setdefault(list(roles.ROLES)[role], []).append(agent)
        return groups

    # --- Episodes ---

    def init(self, key: jax.Array, who: Roles | None = None) -> Any:
        """A state at the start of an episode.

        who: abilities as data (see `make_roles`), instead of those of the environment's own `roles`. Raises ValueError
        if they are there to look at and do not fit the map.
        """
        if who is not None and roles.is_concrete(who):
            self.check_roles(who)
        return self.start(self.own_roles if who is None else who, self.draw_start(key))

    def restart(self, key: jax.Array, state: Any) -> Any:
        """The start of the next episode, with the same roles."""
        return self.start(state.roles, self.draw_start(key))

    def draw_start(self, key: jax.Array) -> Draws:
        """The words of an episode's start."""
        return _draw(key, {"spawn": (self.num_agents,), "heading": (self.num_agents,)})

    def draw(self, key: jax.Array) -> Draws:
        """The words of one step."""
        shared = dict.fromkeys(("order", "speed", "heading", "spawn"), (self.num_agents,))
        return _draw(key, shared | self.words())

    def start(self, who: Roles, draws: Draws) -> Any:
        """`init` with given words."""
        who = jax.tree.map(jnp.asarray, who)
        everyone = jnp.ones(self.num_agents, jnp.bool_)
        free = jnp.ones(len(self.board.spawn_cells), jnp.bool_)
        _, cell = grid.place(self.board, draws["spawn"], who.spawn_group, everyone, free)
        zeros = jnp.zeros(self.num_agents, jnp.int32)
        heading = (draws["heading"] % 4).astype(jnp.int32)
        return self.set_up(
            start_clock() | {"cell": cell, "heading": heading, "away": zeros, "items": zeros, "roles": who}
        )

    def check_roles(self, who: Roles) -> None:
        """Raise ValueError unless these (concrete) abilities are in range and fit the map."""
        columns = {name: np.asarray(getattr(who, name)) for name in roles.ABILITIES}
        for name, column in columns.items():
            if column.shape != (self.num_agents,):
                raise ValueError(f"roles: {name} has shape {column.shape}; allowed: ({self.num_agents},)")
        self.check_spawns(roles.check(columns))

    def transition(self, key: jax.Array, state: Any, actions: jax.Array) -> tuple[Any, Outcome]:
        return self.play(state, actions, self.draw(key))

    def play(self, state: Any, actions: jax.Array, draws: Draws) -> tuple[Any, Outcome]:
        """One step with given words: growth, moves, taking, beams, coming back, growth."""
        board, start, active = self.board, state, state.present
        growth = self.numbers.growth
        before = grid.precedes(draws["order"])
        reward, info = jnp.zeros(self.num_agents, jnp.float32), {}
        if growth == "before":
            state, reward, info = self.grow_and_collect(state, state, draws, before)

        able = active & grid.happens_with(draws["speed"], state.roles.speed)
        cell, heading = grid.turn_and_move(board, state.cell, state.heading, actions, able, active, before)
        state, gain, taken = self.collect(state.replace(cell=cell, heading=heading), before)
        reward, info = reward + gain + jnp.where(active, state.roles.step_reward, 0.0), _add(info, taken)

        state, gain, shots = self.fire(state, actions, active, before)
        reward = reward + gain
        state = self.come_back(state, active, draws)
        if growth != "before":
            on = start if growth == "deferred" else state
            state, gain, taken = self.grow_and_collect(state, on, draws, before)
            reward, info = reward + gain, _add(info, taken)

        info = info | shots | self.whereabouts(state)
        over = jnp.zeros((), jnp.bool_)
        return state, Outcome(reward, over, over, info)

    def grow_and_collect(self, state: Any, on: Any, draws: Draws, before: jax.Array) -> tuple[Any, jax.Array, Info]:
        """Growth; what grows under an agent is the agent's at once."""
        state = self.grow(state, on, draws)
        if self.numbers.regrow_under_agents:
            return self.collect(state, before)
        return state, jnp.zeros(self.num_agents, jnp.float32), {}

    def come_back(self, state: Any, active: jax.Array, draws: Draws) -> Any:
        """Those who were away at the start of the step wait one step less, and come back after the last."""
        away = jnp.where(active, state.away, state.away - 1)
        due = ~active & (away == 0)
        spawn_cells = jnp.asarray(self.board.spawn_cells)
        taken = jnp.any((state.cell[:, None] == spawn_cells) & (active & (state.away == 0))[:, None], axis=0)
        placed, cell = grid.place(self.board, draws["spawn"], state.roles.respawn_group, due, ~taken)
        heading = (draws["heading"] % 4).astype(jnp.int32)
        return state.replace(
            cell=jnp.where(placed, cell, state.cell),
            heading=jnp.where(placed, heading, state.heading),
            away=jnp.where(due & ~placed, 1, away),
        )

    def whereabouts(self, state: Any) -> Info:
        """Where agents are, for metrics: int32 `cell` (-1 while removed), `removed`, and `mean_distance`, the mean
        number of rows plus columns to the others on the board."""
        present = state.present
        pair = present[:, None] & present & ~np.eye(self.num_agents, dtype=bool)
        row, column = state.cell // self.board.width, state.cell % self.board.width
        apart = jnp.abs(row[:, None] - row) + jnp.abs(column[:, None] - column)
        total = jnp.sum(jnp.where(pair, apart, 0), axis=1, dtype=jnp.int32).astype(jnp.float32)
        others = jnp.sum(pair, axis=1, dtype=jnp.int32).astype(jnp.float32)
        return {
            "removed": ~present,
            "cell": jnp.where(present, state.cell, -1),
            "mean_distance": total / jnp.maximum(others, 1),
        }

    # --- What agents see ---

    def action_space(self, agent: str | None = None) -> Discrete:
        return Discrete(self.num_actions)

    def observation_space(self, agent: str | None = None) -> Box:
        features, size = NUM_FEATURES if self.self_features else 0, self.numbers.view_size
        if self.observation == "onehot":
            return flat_box(size**2 * (maps.NUM_GROUNDS + maps.NUM_AGENTS) + features, 0.0, 1.0)
        if self.observation == "rgb":
            return Box(0, 255, (8 * size, 8 * size, 3 + features), np.dtype(np.uint8))
        return Box(0, 255, (size, size, 2 + features), np.dtype(np.uint8))

    def observe(self, state: Any) -> jax.Array:
        """What each agent sees of its window, turned so that it looks up: row 0 is farthest ahead.

        Symbols, uint8[N, V, V, 2]: what is on the ground, and who is there (codes in `envs_jax.ssd.maps`). RGB,
        uint8[N, 8V, 8V, 3]: the same drawn. A removed agent sees nothing, 0 everywhere.
        One-hot, float32[N, V V 17]: the symbols, cell by cell, 9 numbers for the ground and 8 for who is there.
        With `self_features` four planes more, each constant: role id, items taken (up to 255), and how many steps the
        agent has to wait before it can zap and clean (one-hot: four numbers more, divided by 255).
        """
        symbols = self.symbols(state)
        if self.observation == "onehot":
            ground, agent = (symbols[..., i, None] for i in (0, 1))
            parts = [ground == np.arange(maps.NUM_GROUNDS), agent == np.arange(maps.NUM_AGENTS)]
            obs = jnp.concatenate(parts, axis=-1).reshape(self.num_agents, -1).astype(jnp.float32)
            if not self.self_features:
                return obs
            return jnp.concatenate([obs, self.features(state) / np.float32(ITEMS_SHOWN)], axis=-1)
        if self.observation == "rgb":
            from envs_jax.ssd.sprites import sprite_table

            ground, agent = symbols[..., 0].astype(jnp.int32), symbols[..., 1].astype(jnp.int32)
            obs = jnp.asarray(sprite_table())[ground, agent]  # [N, V, V, 8, 8, 3]
            size = 8 * self.numbers.view_size
            obs = jnp.transpose(obs, (0, 1, 3, 2, 4, 5)).reshape(self.num_agents, size, size, 3)
        else:
            obs = symbols
        if not self.self_features:
            return obs
        planes = jnp.broadcast_to(self.features(state)[:, None, None], (*obs.shape[:3], NUM_FEATURES))
        return jnp.concatenate([obs, planes], axis=-1)

    def features(self, state: Any) -> jax.Array:
        """What `self_features` adds, uint8[N, 4]."""
        waits = (getattr(state, name, jnp.zeros_like(state.away)) for name in ("zap_wait", "clean_wait"))
        features = jnp.stack([state.roles.role_id, state.items, *waits], axis=1)
        features = jnp.minimum(features, ITEMS_SHOWN).astype(jnp.uint8)
        return jnp.where(state.present[:, None], features, 0)

    def symbols(self, state: Any) -> jax.Array:
        """The two planes of codes, uint8[N, V, V, 2]."""
        # Who is there: 0 nobody, 1 clean beam, 2 zap beam, 3 + heading of an agent; the larger shows.
        mark = jnp.append(self.beams(state), np.uint8(0))
        nowhere = self.board.num_cells
        mark = mark.at[jnp.where(state.present, state.cell, nowhere)].max(
            (state.heading + 3).astype(jnp.uint8), mode="promise_in_bounds", wrap_negative_indices=False
        )
        # All codes that a window can show, agents as seen by each of the four headings.
        relative = ((mark - 3 - np.arange(4, dtype=np.uint8)[:, None]) & 3) + maps.OTHER
        beam = jnp.where(mark == 0, np.uint8(maps.NOBODY), maps.CLEAN_BEAM + 1 - mark)
        agent = jnp.where(mark >= 3, relative, beam).astype(jnp.uint8)  # [4, cells + 1]
        fixed = np.array([maps.SELF, maps.NOBODY], np.uint8)
        shown = jnp.concatenate([self.ground_codes(state), fixed, agent.reshape(-1)])
        table = self._window_table
        if table is None:
            where = self._where_shown(state.cell, state.heading)
        else:  # reading the answer costs half of working it out
            where = grid.pick(table, state.heading * self.board.num_cells + state.cell).astype(jnp.int32)
        seen = self.own_view(grid.pick(shown, where).reshape(self.num_agents, -1, 2))
        ahead, across = self.view
        far = np.maximum(np.abs(ahead), np.abs(across)).reshape(-1, 1)
        sight = jnp.where(state.present, state.roles.view, -1)[:, None, None]
        seen = jnp.where(far <= sight, seen, np.uint8(maps.UNSEEN))
        return seen.reshape(self.num_agents, *[self.numbers.view_size] * 2, 2)

    def _where_shown(self, cell: Any, heading: Any) -> Any:
        """Where `symbols` finds each code of the window of an agent that stands so, int32[N, V V 2], for JAX or NumPy
        arrays."""
        ahead, across = self.view
        np_ = jnp if isinstance(cell, jax.Array) else np
        cells = grid._look(self.board.height, self.board.width, cell, heading, ahead, across)  # [N, V V]
        itself, nobody = self._num_codes, self._num_codes + 1
        agent = nobody + 1 + heading[:, None] * (self.board.num_cells + 1) + cells
        agent = np_.where(cells == self.board.num_cells, nobody, agent)
        agent = np_.where(((ahead == 0) & (across == 0)).reshape(-1), itself, agent)
        ground = grid.pick(self.ground_slots, cells) if np_ is jnp else self.ground_slots[cells]
        return np_.stack([ground, agent], axis=-1).reshape(len(cells), -1).astype(np.int32)

    @functools.cached_property
    def _num_codes(self) -> int:
        return jax.eval_shape(lambda key: self.ground_codes(self.init(key)), jax.random.key(0)).shape[0]

    @functools.cached_property
    def _window_table(self) -> np.ndarray | None:
        """[4 cells, V V 2]: `_where_shown` for every pose; None where that would take more than 4 megabytes."""
        if 4 * self.board.num_cells * 2 * self.numbers.view_size**2 > 2**21:
            return None
        heading, cell = np.divmod(np.arange(4 * self.board.num_cells, dtype=np.int32), self.board.num_cells)
        where = self._where_shown(cell, heading)
        return where.astype(np.int16 if where.max() < 2**15 else np.int32)

    def own_view(self, seen: jax.Array) -> jax.Array:
        """Codes uint8[N, V V, 2] as each agent is to see them; Coins tells own coins from others'."""
        return seen

    def beams(self, state: Any) -> jax.Array:
        """Where beams show, uint8[cells]: 1 for a clean beam, 2 for a zap (which shows where both are)."""
        return jnp.zeros(self.board.num_cells, jnp.uint8)

    def positions(self, state: Any) -> jax.Array:
        """Row and column of each agent, int32[N, 2]; of a removed one, where it was last."""
        return jnp.stack([state.cell // self.board.width, state.cell % self.board.width], axis=1)

    def visible(self, state: Any) -> jax.Array:
        """Who sees whom, bool[N, N]: [i, j] where j is within i's window and view, both being on the board.

        With a centred window that is symmetric: the locality of "Fairness over Equality".
        """
        ahead, across = self.view
        place = self.positions(state)
        offset = place[None] - place[:, None]  # [i, j], from i to j
        step = jnp.asarray(maps.STEPS)[state.heading][:, None]  # [N, 1, 2]
        forward = offset[..., 0] * step[..., 0] + offset[..., 1] * step[..., 1]
        right = offset[..., 0] * step[..., 1] - offset[..., 1] * step[..., 0]
        inside = (forward >= ahead.min()) & (forward <= ahead.max()) & (jnp.abs(right) <= across.max())
        near = jnp.maximum(jnp.abs(forward), jnp.abs(right)) <= state.roles.view[:, None]
        return inside & near & state.present[:, None] & state.present

    def global_state(self, state: Any) -> jax.Array:
        """The whole board for a centralised critic, float32[G]: the ground as one-hot planes, then where each agent
        is, then its heading as one-hot and whether it is present."""
        ground = grid.pick(self.ground_codes(state), self.ground_slots[:-1])
        kinds = np.array(self.ground_kinds, np.uint8)
        place = (state.cell[:, None] == np.arange(self.board.num_cells)) & state.present[:, None]
        pose = (state.heading[:, None] == np.arange(4)) & state.present[:, None]
        parts = [ground == kinds[:, None], place, pose, state.present]
        return jnp.concatenate([part.reshape(-1).astype(jnp.float32) for part in parts])

    @property
    def ground_kinds(self) -> tuple[int, ...]:
        """The ground codes that this game's whole board can hold."""
        return (maps.WALL, maps.RIVER, maps.WASTE, maps.APPLE)

    def render(self, state: Any) -> np.ndarray:
        """The board with agents in the colours of their roles and a scoreboard, uint8[height, width, 3]."""
        from envs_jax.ssd.rendering import draw_board

        return draw_board(self, state)

    def render_view(self, state: Any, agent: int) -> np.ndarray:
        """What one agent sees, drawn large, uint8[height, width, 3]."""
        from envs_jax.ssd.rendering import draw_view

        return draw_view(self, state, agent)


@pytree
class ArmedState(DilemmaState):
    """State of a game with beams.

    zap_wait: int32[N], steps in which the agent cannot zap yet.
    shot: uint8[N], what each fired in the last step: 0 nothing, 1 clean, 2 zap.
    beam: uint8[N, X], up to how far ahead each lane of that shot shows, exclusive (see `grid.covered`): to what stopped
        it.
    """

    zap_wait: jax.Array
    shot: jax.Array
    beam: jax.Array


@dataclass(frozen=True)
class ArmedDilemma(SocialDilemma):
    """A social dilemma in which agents fire beams."""

    @functools.cached_property
    def beam_shape(self) -> BeamShape:
        """The largest beam that roles given as data may have: length 5 and radius 2, or that of the own roles."""
        who = self.own_roles
        lengths = [5, int(np.max(who.zap_length)), int(np.max(who.clean_length))]
        radii = [2, int(np.max(who.zap_radius)), int(np.max(who.clean_radius))]
        return BeamShape(max(lengths), max(radii))

    def standard(self) -> dict[str, Any]:
        names = ("zap_length", "zap_radius", "zap_cooldown", "zap_reward", "zapped_reward")
        return {"can_zap": True} | {name: getattr(self.numbers, name) for name in names}

    def check_roles(self, who: Roles) -> None:
        super().check_roles(who)
        for name, limit in (("length", self.beam_shape.length), ("radius", self.beam_shape.radius)):
            for beam in ("zap", "clean"):
                values = np.asarray(getattr(who, f"{beam}_{name}"))
                if values.max() > limit:
                    raise ValueError(
                        f"roles: {beam}_{name} is {values.tolist()}; allowed here: up to {limit} (give longer beams in"
                        " the environment's own roles, which set the room for them)"
                    )

    def armed(self, agents: dict[str, Any]) -> dict[str, Any]:
        """The fields of an `ArmedState` at the start of an episode."""
        return agents | {
            "zap_wait": jnp.zeros(self.num_agents, jnp.int32),
            "shot": jnp.zeros(self.num_agents, jnp.uint8),
            "beam": jnp.zeros((self.num_agents, self.beam_shape.lanes), jnp.uint8),
        }

    def fire(self, state: Any, actions: jax.Array, active: jax.Array, before: jax.Array) -> tuple[Any, jax.Array, Info]:
        """All shots at once, from where agents are after the moves; shots of those who are hit count, too."""
        who, rules, board, shape = state.roles, self.numbers, self.board, self.beam_shape
        zaps = active & (state.zap_wait == 0) & (actions == grid.ZAP) & who.can_zap
        zap_wait = jnp.where(active, wait_after(state.zap_wait, zaps, who.zap_cooldown), state.zap_wait)
        cleans, state = self.ready_to_clean(state, actions, active)
        length = jnp.where(cleans, who.clean_length, jnp.where(zaps, who.zap_length, 0))
        radius = jnp.where(cleans, who.clean_radius, who.zap_radius)

        cells = grid.beam_cells(board, shape, state.cell, state.heading)  # [N, X, F]
        if rules.beams_pass:
            stops = cells == board.num_cells
        else:
            agents = jnp.zeros(board.num_cells + 1, jnp.bool_)
            agents = agents.at[jnp.where(active, state.cell, board.num_cells)].set(True)
            stops = grid.pick(board.wall, cells) | self.stops_beam(state, cells, grid.pick(agents, cells), cleans)
        first = grid.first_stop(stops)  # [N, X]
        hit = grid.reached_by_beam(first, shape.length + 1, length, radius, rules.beam_side_start)
        is_end = np.arange(shape.length + 1) == first[:, :, None]
        # [N, K], the cells where a beam can have done something: where its lanes end, or all if nothing ends them.
        if rules.beams_pass:
            spots = jnp.where(hit, cells, -1)[:, shape.mask]
        else:
            spots = jnp.max(jnp.where(hit & is_end, cells, -1), axis=2)

        hits = jnp.any(spots[:, :, None] == state.cell, axis=1) & active & zaps[:, None]  # [shooter, target]
        landed, taken = (jnp.sum(hits, axis=axis, dtype=jnp.int32) for axis in (1, 0))
        reward = jnp.where(zaps, who.zap_reward, 0.0) + landed * who.zap_hit_reward + taken * who.zapped_reward
        shows = jnp.max(jnp.where(hit & ~is_end, np.arange(1, shape.length + 2), 0), axis=2)
        state = state.replace(
            zap_wait=zap_wait,
            shot=jnp.where(zaps, 2, jnp.where(cleans, 1, 0)).astype(jnp.uint8),
            beam=shows.astype(jnp.uint8),
            away=jnp.where((taken > 0) & active, rules.removal_steps, state.away),
        )
        info = {"zaps_fired": zaps.astype(jnp.int32), "zap_hits": landed, "zapped": taken}
        state, more, cleaning = self.clean(state, jnp.where(cleans[:, None], spots, -1), cleans, before)
        return state, reward + more, info | cleaning

    def ready_to_clean(self, state: Any, actions: jax.Array, active: jax.Array) -> tuple[jax.Array, Any]:
        """Who fires a clean beam, bool[N], and the state with their waiting times; nobody in most games."""
        return jnp.zeros(self.num_agents, jnp.bool_), state

    def stops_beam(self, state: Any, cells: jax.Array, occupied: jax.Array, cleans: jax.Array) -> jax.Array:
        """What beside walls ends a beam, bool[N, X, F]: agents. `occupied`: where agents are on the beam's `cells`."""
        return occupied

    def clean(self, state: Any, spots: jax.Array, cleans: jax.Array, before: jax.Array) -> tuple[Any, jax.Array, Info]:
        """State, reward and info after the clean beams of `cleans` reached the cells `spots` int32[N, K] (-1: none)."""
        return state, jnp.zeros(self.num_agents, jnp.float32), {}

    @property
    def lane_starts(self) -> np.ndarray:
        """int32[X], how far ahead each lane of a beam starts."""
        start = np.full(self.beam_shape.lanes, self.numbers.beam_side_start, np.int32)
        start[len(start) // 2] = 1
        return start

    def beams(self, state: Any) -> jax.Array:
        clean, zap = (self.covered(state, kind).astype(jnp.uint8) for kind in (1, 2))
        return jnp.where(self.board.wall[:-1], np.uint8(0), jnp.maximum(clean, 2 * zap))

    def covered(self, state: Any, kind: int) -> jax.Array:
        """Which cells shots of a kind cover, bool[cells]: 1 clean, 2 zap."""
        return grid.covered(self.board, state.cell, state.heading, self.lane_starts, state.beam, state.shot == kind)


def _add(one: Info, other: Info) -> Info:
    """What two phases of a step report, added up."""
    return one | {name: one[name] + count if name in one else count for name, count in other.items()}


def wait_after(wait: jax.Array, fires: jax.Array, cooldown: jax.Array) -> jax.Array:
    """Steps to wait after this one."""
    return jnp.where(fires, cooldown, jnp.maximum(wait - 1, 0))


def _draw(key: jax.Array, shapes: Mapping[str, tuple[int, ...]]) -> Draws:
    """One draw of random bits, cut up."""
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    bits = jax.random.bits(key, (sum(sizes),), jnp.uint32)
    ends = np.cumsum(sizes).tolist()
    return {
        name: bits[end - size : end].reshape(shape)
        for (name, shape), size, end in zip(shapes.items(), sizes, ends, strict=True)
    }

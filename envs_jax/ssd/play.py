"""Play a social dilemma in a terminal: one agent follows the keyboard, a scripted policy moves the others.

    python -m envs_jax.ssd.play harvest --roles 5high_5low
    python -m envs_jax.ssd.play cleanup --ego --others cooperator --record out.gif

Works over SSH; the terminal has to know 24-bit colours. The game waits for keys, unless `--live` gives it a pace.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np

from envs_jax.drawing import Color, mix, to_rgb
from envs_jax.ssd import grid, maps
from envs_jax.ssd.base import SocialDilemma
from envs_jax.ssd.rendering import (
    INSIDE_START,
    ORCHARD,
    START,
    agent_colors,
    animate,
    board_scene,
    check_film,
    facts,
    role_names,
    view_scene,
)
from envs_jax.ssd.sprites import CLEAN_COLOR, ZAP_COLOR

ACTIONS = {
    ".": 0,
    "w": grid.FORWARD,
    "s": grid.BACKWARD,
    "a": grid.STEP_LEFT,
    "d": grid.STEP_RIGHT,
    "up": grid.FORWARD,
    "down": grid.BACKWARD,
    "left": grid.STEP_LEFT,
    "right": grid.STEP_RIGHT,
    "q": grid.TURN_LEFT,
    "e": grid.TURN_RIGHT,
    " ": grid.ZAP,
    "c": grid.CLEAN,
}
"""Keys that act; x quits, r starts the next episode when one is over."""

_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
_POINTS = "▲▶▼◀"
_RESET = "\x1b[0m"
_WIDE = 80  # columns that the text below a board may take


# --- What is shown ---


def frame_text(env: SocialDilemma, state: Any, me: int, ego: bool, returns: np.ndarray | None = None) -> str:
    """A state as lines of text with ANSI colours: the board, or with `ego` what agent `me` sees; scores; keys.

    Two columns for each cell. Agents are an arrow and their number, `me` an arrow and @.
    returns: float[N], the sum of each agent's rewards; None to leave it out.
    """
    scene = view_scene(env, state, me) if ego else board_scene(env, state)
    colors = agent_colors(state)
    lines = []
    agents = {}
    for removed in (True, False):
        for agent in np.flatnonzero((scene.row >= 0) & ((scene.away > 0) == removed)).tolist():
            agents[int(scene.row[agent]), int(scene.column[agent])] = agent
    height, width = scene.ground.shape
    for row in range(height):
        line, last = [], None
        for column in range(width):
            at = row, column
            paper, ink, text = _ground(env, scene.ground[at], scene.site[at], scene.owner[at], sum(at) % 2, colors)
            if scene.beam[at]:
                paper = mix(paper, CLEAN_COLOR if scene.beam[at] == 1 else ZAP_COLOR, 0.7)
            if at in agents:
                agent = agents[at]
                wait = int(scene.away[agent])
                if wait:
                    ink, text = colors[agent], f"x{wait}" if wait < 10 else "xx"
                else:
                    name = "@" if agent == me else _digit(agent)
                    paper, text = colors[agent], _POINTS[int(scene.heading[agent])] + name
                    ink = _readable(paper)
            same = last is not None and last[1] == paper and (last[0] == ink or text.isspace())
            line.append(text if same else _paint(text, ink, paper))
            last = last if same else (ink, paper)
        lines.append("".join(line) + _RESET)

    shares = "   ".join(text for text, _ in facts(env, state))
    lines.append(shares)
    lines += _score_lines(env, state, me, colors, returns)
    lines.append(_key_line(env))
    if bool(state.done):
        lines.append("The episode is over: r starts the next one, x quits.")
    elif int(np.asarray(state.away)[me]):
        lines.append(f"You are removed; back in {int(np.asarray(state.away)[me])}.")
    return "\n".join(lines)


def _ground(
    env: SocialDilemma, code: int, site: int, owner: int, odd: int, colors: tuple[Color, ...]
) -> tuple[Color, Color, str]:
    """Colours of paper and ink, and two characters, of a cell without agents."""
    if code in (maps.UNSEEN, maps.OUTSIDE):
        return ("#000000" if code == maps.UNSEEN else "#20242c"), "#000000", "  "
    if code == maps.WALL:
        return "#7a8290", "#7a8290", "  "
    if code == maps.RIVER:
        return "#4a9bd6", "#86c3ec", "~ " if odd else " ~"
    if code == maps.WASTE:
        return "#6b652b", "#a89f4b", "▒▒"
    paper = "#e4e0d7" if env.game == "coins" else "#d5e1b6"
    if code == maps.APPLE:
        return paper, "#d7261e", "▗▖"
    if code == maps.OWN_COIN:
        return paper, colors[owner], f"●{_digit(owner)}"
    mark = {START: "()", INSIDE_START: "<>", ORCHARD: "··"}.get(int(site), "  ")
    return paper, "#a9835a" if site == ORCHARD else mix(paper, "#000000", 0.2), mark


def _digit(agent: int) -> str:
    return "0123456789abcdefghijklmnopqrstuvwyz"[agent] if agent < 35 else "+"


def _readable(paper: Color) -> Color:
    return "#101418" if to_rgb(paper) @ [0.299, 0.587, 0.114] > 0.55 else "#ffffff"


@functools.lru_cache(maxsize=4096)
def _paint(text: str, ink: Color, paper: Color) -> str:
    """Text in 24-bit colours."""
    front, back = (";".join(str(round(255 * part)) for part in to_rgb(color)) for color in (ink, paper))
    return f"\x1b[38;2;{front};48;2;{back}m{text}"


def _score_lines(
    env: SocialDilemma, state: Any, me: int, colors: tuple[Color, ...], returns: np.ndarray | None
) -> list[str]:
    """A line per agent, in as many columns as fit: number, role, items taken, return, steps away."""
    what = "coins" if env.game == "coins" else "apples"
    items, away = np.asarray(state.items).tolist(), np.asarray(state.away).tolist()
    entries, sizes = [], []
    names = role_names(state)
    wide = max(len(name) for name in names)
    for agent, name in enumerate(names):
        text = f" {name:{wide}} {items[agent]:3d} {what}"
        text += "" if returns is None else f", {returns[agent]:+.1f}"
        text += f", back in {away[agent]}" if away[agent] else ""
        label = f" {'@' if agent == me else _digit(agent)} "
        entries.append(_paint(label, _readable(colors[agent]), colors[agent]) + _RESET + text)
        sizes.append(len(label) + len(text))
    column = max(*sizes, 36) + 2 if len(sizes) > 1 else sizes[0]
    rows = -(-len(entries) // max(1, _WIDE // column))
    padded = [entry + " " * (column - size) for entry, size in zip(entries, sizes, strict=True)]
    return ["".join(padded[row::rows]).rstrip() for row in range(rows)]


def _key_line(env: SocialDilemma) -> str:
    parts = ["w a s d or arrows walk", "q e turn"]
    parts += ["space zaps"] if env.num_actions > grid.ZAP else []
    parts += ["c cleans"] if env.num_actions > grid.CLEAN else []
    return ", ".join([*parts, ". waits", "x quits"])


# --- The game ---


@functools.lru_cache(maxsize=16)
def _start(env: SocialDilemma) -> Callable[[jax.Array], Any]:
    return jax.jit(env.init)


@functools.lru_cache(maxsize=16)
def _stepper(env: SocialDilemma, me: int, others: str) -> Callable[[jax.Array, Any, Any], tuple[Any, jax.Array]]:
    """One step, compiled: `(key, state, action of me) -> state, reward`."""
    from envs_jax.ssd.scripted import POLICIES

    @jax.jit
    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, jax.Array]:
        key_act, key_step = jax.random.split(key)
        actions = POLICIES[others](env, state, key_act).at[me].set(action)
        state, outcome = env.advance(key_step, state, actions)
        return state, outcome.reward

    return step


class Game:
    """An episode after another, in which a person plays agent `me` and the policy named `others` all the rest.

    Raises ValueError for an unknown agent or policy.
    """

    def __init__(self, env: SocialDilemma, me: int = 0, others: str = "greedy", seed: int = 0) -> None:
        from envs_jax.ssd.scripted import available

        if not 0 <= me < env.num_agents:
            raise ValueError(f"me is {me}; allowed: 0 to {env.num_agents - 1}")
        if others not in available(env):
            raise ValueError(f"others is {others!r}; allowed in {env.game}: {', '.join(available(env))}")

        self.env, self.me = env, me
        self._key = jax.random.key(seed)
        self.state = jax.device_get(_start(env)(self._next_key()))
        self.returns = np.zeros(env.num_agents)
        self._step = _stepper(env, me, others)
        self._step(self._key, self.state, np.int32(0))  # compiles now, so that the first key is not followed by a wait

    def _next_key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key

    def act(self, action: int) -> None:
        """One step, in which `me` does this."""
        state, reward = jax.device_get(self._step(self._next_key(), self.state, np.int32(action)))
        self.state, self.returns = state, self.returns + reward

    def restart(self) -> None:
        """The next episode."""
        self.state = jax.device_get(self.env.restart(self._next_key(), self.state))
        self.returns = np.zeros(self.env.num_agents)

    def text(self, ego: bool) -> str:
        return frame_text(self.env, self.state, self.me, ego, self.returns)


def play(
    env: SocialDilemma,
    keys: Iterable[str],
    write: Callable[[str], object],
    me: int = 0,
    others: str = "greedy",
    seed: int = 0,
    ego: bool = False,
    seen: list[Any] | None = None,
) -> Game:
    """Play by `keys`, until there are no more or one is "x", and `write` a frame's text at first and after each step.

    keys: those of `ACTIONS`, "r" and "x"; others do nothing.
    seen: a list that all states are added to, NumPy pytrees.
    Returns the game as it stands. Raises ValueError as `Game` does.
    """
    game = Game(env, me, others, seed)
    seen = [] if seen is None else seen
    seen.append(game.state)
    write(game.text(ego))
    for key in keys:
        if key == "x":
            break
        over = bool(game.state.done)
        if over and key == "r":
            game.restart()
        elif not over and ACTIONS.get(key, env.num_actions) < env.num_actions:
            game.act(ACTIONS[key])
        else:
            continue
        seen.append(game.state)
        write(game.text(ego))
    return game


# --- The terminal ---


@contextlib.contextmanager
def terminal(stdin: int) -> Iterator[None]:
    """A terminal that gives keys as they are pressed and shows frames on a screen of their own; as it was afterwards,
    whatever happens."""
    import termios
    import tty

    def leave(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = termios.tcgetattr(stdin)
    handlers = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(stdin)
        mode = termios.tcgetattr(stdin)
        mode[6][termios.VSUSP] = b"\x00"  # ctrl-z would leave the shell with a terminal in this state
        termios.tcsetattr(stdin, termios.TCSANOW, mode)
        sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J")  # other screen, no cursor, no line wrapping
        sys.stdout.flush()
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.write(f"{_RESET}\x1b[?7h\x1b[?25h\x1b[?1049l")
            sys.stdout.flush()
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def show(text: str) -> None:
    """Put a frame on the terminal; what is too long for it is cut."""
    rows = shutil.get_terminal_size().lines
    lines = text.split("\n")
    if len(lines) > rows:
        lines = [*lines[: rows - 1], f"The terminal has {rows} rows and this needs {len(lines)}; --ego needs fewer."]
    sys.stdout.write("\x1b[H" + "\r\n".join(line + "\x1b[K" for line in lines) + "\x1b[J")
    sys.stdout.flush()


def read_key(stdin: int) -> str | None:
    """The next key that is pressed, "up" and the like for arrows; None when the terminal has gone."""
    try:
        byte = os.read(stdin, 1)
        if byte == b"\x1b" and select.select([stdin], [], [], 0.05)[0]:
            rest = os.read(stdin, 8).decode("ascii", "replace")
            return _ARROWS.get(rest[1:2], "escape") if rest[:1] in ("[", "O") else "escape"
    except OSError:
        return None
    if byte in (b"\x03", b"\x04"):  # ctrl-c, ctrl-d, where they come as keys
        return "x"
    return byte.decode("ascii", "replace").lower() if byte else None


def pressed(stdin: int, live: float | None) -> Iterator[str]:
    """Keys as they are pressed. With `live` so many a second, each the last one pressed meanwhile, or "." for none."""
    while live is None:
        key = read_key(stdin)
        if key is None:
            return
        yield key
    due = time.monotonic()
    while True:
        due = max(due + 1 / live, time.monotonic())
        latest: str | None = "."
        while latest != "x" and (left := due - time.monotonic()) > 0:
            if select.select([stdin], [], [], left)[0]:
                latest = read_key(stdin)
                if latest is None:
                    return
        yield latest or "."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = _Parser(prog="python -m envs_jax.ssd.play", description="Play a social dilemma in a terminal.")
    add = result.add_argument
    add("game", choices=("cleanup", "harvest", "coins"), help="which game")
    add("--roles", default="default", help="who can do what, such as 5high_5low or 3high,2low (default: all alike)")
    add("--map", default="", help="name of one of the game's maps, or the path of a text file (default: the usual one)")
    add("--rules", default="meltingpot", help="meltingpot, hughes2018 or socialjax (default: meltingpot)")
    add("--agents", type=int, default=0, help="number of agents (default: as many as the roles make, or as usual)")
    add("--steps", type=int, default=None, help="steps of an episode (default: as usual)")
    add("--me", type=int, default=0, help="which agent you are (default: 0)")
    add("--others", default="greedy", help="policy of the others, such as random or cooperator (default: greedy)")
    add("--seed", type=int, default=0, help="of all random draws (default: 0)")
    add("--ego", action="store_true", help="show only what your agent sees, instead of the board")
    add("--live", type=float, default=None, metavar="FPS", help="steps a second, also while no key is pressed")
    add("--record", default=None, metavar="FILE", help="write a film of the game, a .gif or .mp4")
    return result


def main(argv: list[str] | None = None) -> int:
    """Play as the command line says; returns the exit status."""
    import envs_jax

    args = parser().parse_args(argv)
    seen: list[Any] = []
    try:
        if args.record is not None:
            check_film(args.record)
        if args.live is not None and not 0 < args.live <= 100:
            raise ValueError(f"live is {args.live}; allowed: steps per second, above 0 and up to 100")
        steps = {} if args.steps is None else {"max_steps": args.steps}
        env = envs_jax.make(
            args.game, num_agents=args.agents, map=args.map, rules=args.rules, roles=args.roles, **steps
        )
        assert isinstance(env, SocialDilemma)
        stdin = sys.stdin.fileno()
        if not (os.isatty(stdin) and sys.stdout.isatty()):
            raise ValueError("this needs a terminal for its input and output; over SSH, log in with ssh -t")
        with terminal(stdin), contextlib.suppress(KeyboardInterrupt):
            show("Compiling the game ...")
            play(env, pressed(stdin, args.live), show, args.me, args.others, args.seed, args.ego, seen)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.record is not None and seen:
        path = animate(env, jax.tree.map(lambda *leaves: np.stack(leaves), *seen), args.record, fps=args.live or 8)
        print(f"wrote {path}, {len(seen)} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())

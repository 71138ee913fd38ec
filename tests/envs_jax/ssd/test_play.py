"""Playing in a terminal: keys in, text out; and the real command on a pseudo-terminal."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

import envs_jax
from envs_jax.ssd import grid
from envs_jax.ssd.play import ACTIONS, Game, frame_text, main, play

HARVEST = "WWWWWWW\nW PPP W\nW     W\nW AAA W\nWWWWWWW"
CLEANUP = "WWWWWWW\nWHFF~ W\nWFHF~PW\nW  AAPW\nWWWWWWW"


@pytest.fixture(scope="module")
def env():
    return envs_jax.make("harvest", map=HARVEST, roles="low,2high", max_steps=6)


def plain(text: str) -> list[str]:
    """Lines without their colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")


def test_keys_move_the_agent_and_each_step_is_shown(env):
    seen, frames = [], []
    game = play(env, ["e", "?", "e", "w", "c", "."], frames.append, me=1, others="random", seen=seen)
    assert len(frames) == len(seen) == 5  # "?" does nothing, and nobody cleans in Harvest
    assert int(game.state.step) == 4 and game.state is seen[-1]
    assert [int(state.heading[1] - seen[0].heading[1]) % 4 for state in seen] == [0, 1, 2, 2, 2]
    assert plain(frames[-1])[5].startswith("harvest   step 4 / 6")


def test_x_quits_and_keys_can_run_out(env):
    frames = []
    assert int(play(env, iter(["w", "x", "w", "w"]), frames.append).state.step) == 1
    assert len(frames) == 2
    assert int(play(env, [], frames.append).state.step) == 0


def test_next_episode(env):
    frames = []
    game = play(env, [*"......", "w", "r", "."], frames.append, others="random")
    assert int(game.state.step) == 1
    assert "over" in plain(frames[6])[-1] and len(frames) == 9  # "w" was of no use
    assert game.state.roles.apple_reward.tolist() == [0.5, 1.5, 1.5]


def test_others_are_scripted(env):
    greedy = play(env, "." * 6, lambda _: None, others="greedy")
    assert greedy.state.items[1:].sum() > 0 and greedy.state.items[0] == 0
    np.testing.assert_allclose(greedy.returns, [0, *1.5 * greedy.state.items[1:]])
    again = play(env, "." * 6, lambda _: None, others="greedy")
    np.testing.assert_array_equal(again.state.cell, greedy.state.cell)
    for settings, match in (({"others": "cleaner"}, "others is 'cleaner'; allowed in harvest"), ({"me": 3}, "me is 3")):
        with pytest.raises(ValueError, match=match):
            Game(env, **settings)


def test_frame_shows_agents_scores_and_keys(env):
    state = Game(env).state
    cell = np.array([row * 7 + column for row, column in ((1, 2), (2, 2), (2, 4))], np.int32)
    away = np.array([0, 0, 12], np.int32)
    state = state.replace(cell=cell, heading=np.array([1, 3, 0], np.int32), away=away)
    lines = plain(frame_text(env, state, 0, False, np.array([0.5, -2.0, 0.0])))
    assert all(len(line) == 14 for line in lines[:5])
    assert lines[1] == "    ▶@()()    " and lines[2] == "    ◀1  xx    " and lines[3] == "    ▗▖▗▖▗▖    "
    scores = " ".join(lines[6:])
    assert "@  low " in scores and "+0.5" in scores and "-2.0" in scores and "back in 12" in scores
    assert "space zaps" in scores and "cleans" not in scores and "x quits" in lines[-1]
    assert plain(frame_text(env, state, 2, False))[-1] == "You are removed; back in 12."
    ego = plain(frame_text(env, state, 0, True))
    assert all(len(line) == 22 for line in ego[:11]) and "▲@" in ego[9]
    assert "◀1" not in ego[9] and any("▼1" in line for line in ego[:11])  # one that looks the other way


def test_beams_and_coins_have_colours():
    env = envs_jax.make("cleanup", map=CLEANUP, num_agents=2)
    frames, seen = [], []
    play(env, "c..qc..qc", frames.append, others="random", seen=seen)
    lit = [bool(state.shot[0] == 1) for state in seen]
    papers = [{re.search(r"48;2;(.*)m", code)[1] for code in re.findall(r"\x1b\[38[^m]*m", frame)} for frame in frames]
    assert any(lit) and papers[lit.index(True)] - papers[0]
    coins = envs_jax.make("coins", map="4x4", coin_rate=1.0)
    frames = []
    play(coins, ["w"], frames.append)
    assert "●0" in "".join(plain(frames[1])) and "●1" in "".join(plain(frames[1]))
    assert "zaps" not in frames[0]


def test_every_action_has_a_key():
    assert set(ACTIONS.values()) == set(range(grid.CLEAN + 1))


# --- The command ---


@pytest.mark.parametrize(
    "arguments, match",
    [
        (["chess"], "invalid choice: 'chess'"),
        (["harvest", "--agents", "many"], "invalid int value"),
        (["harvest", "--roles", "3tall"], "unknown role 'tall'"),
        (["harvest", "--map", "nowhere"], "map is 'nowhere'"),
        (["harvest", "--live", "0"], "live is 0"),
        (["harvest", "--record", "film.avi"], "film.avi"),
        (["harvest"], "needs a terminal"),
    ],
)
def test_errors_are_one_line(arguments, match, capsys, monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and match in captured.err and captured.err.count("\n") == 1


class Terminal:
    """The command, with a pseudo-terminal for a person's."""

    def __init__(self, *arguments: str) -> None:
        self.here, self.there = pty.openpty()
        self.before = termios.tcgetattr(self.there)
        command = [sys.executable, "-m", "envs_jax.ssd.play", *arguments]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUTF8": "1", "LINES": "40", "COLUMNS": "100"}
        self.process = subprocess.Popen(
            command, stdin=self.there, stdout=self.there, stderr=self.there, env=environment
        )
        self.text = ""

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < end, self.text[-2000:]
            self.read(0.1)

    def read(self, seconds: float) -> None:
        if select.select([self.here], [], [], seconds)[0]:
            self.text += os.read(self.here, 65536).decode("utf-8", "replace")

    def press(self, keys: str) -> None:
        os.write(self.here, keys.encode())

    def end(self) -> int:
        """Exit status, once all it wrote is read."""
        status = None
        for _ in range(600):
            status = self.process.poll()
            self.read(0.05)
            if status is not None and not select.select([self.here], [], [], 0)[0]:
                break
        assert status is not None, "still running"
        assert termios.tcgetattr(self.there) == self.before, "the terminal is not as it was"
        assert self.text.count("\x1b[?1049h") == self.text.count("\x1b[?1049l")
        assert self.text.rstrip().rfind("\x1b[?25h") > self.text.rfind("\x1b[?25l")
        return status

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self.here)
        os.close(self.there)


def test_the_command_on_a_terminal(tmp_path):
    (tmp_path / "map.txt").write_text(HARVEST)
    film = tmp_path / "out.gif"
    session = Terminal(
        "harvest", "--map", str(tmp_path / "map.txt"), "--roles", "low,high", "--seed", "1", "--record", str(film)
    )
    try:
        session.wait_for("step 0 / 1000")
        session.press("q\x1b[A")
        session.wait_for("step 2 / 1000")
        session.press("x")
        assert session.end() == 0
        assert "3 frames" in session.text
    finally:
        session.close()
    from PIL import Image

    with Image.open(film) as opened:
        assert opened.n_frames == 3


def test_live_and_interrupted(tmp_path):
    (tmp_path / "map.txt").write_text(HARVEST)
    session = Terminal("harvest", "--map", str(tmp_path / "map.txt"), "--agents", "2", "--live", "20", "--ego")
    try:
        session.wait_for("step 3 / 1000")  # by itself
        session.process.send_signal(signal.SIGINT)
        assert session.end() == 0
    finally:
        session.close()


def test_an_error_leaves_the_terminal_as_it_was(tmp_path):
    session = Terminal("harvest", "--agents", "2", "--others", "cleaner")
    try:
        assert session.end() == 2
        assert "others is 'cleaner'" in session.text.split("\x1b[?1049l")[-1]
    finally:
        session.close()

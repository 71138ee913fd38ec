"""Pictures of the social dilemmas: sizes, what can be told apart, films."""

import importlib.util
import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest

import envs_jax
from envs_jax.drawing import agent_color, to_rgb
from envs_jax.ssd import maps
from envs_jax.ssd.rendering import agent_colors, animate, board_scene, draw_board, draw_view, view_scene
from envs_jax.ssd.sprites import sprite_table, text_mask

HARVEST = "WWWWWWW\nW PPP W\nW     W\nW AAA W\nWWWWWWW"
CLEANUP = "WWWWWWW\nWHFF~ W\nWFHF~PW\nW  AAPW\nWWWWWWW"
MADE = {}
COINS = "WWWWW\nWPCCW\nWCCPW\nWWWWW"


def made(game: str, **settings):
    """An environment and its first state; made once, as nobody writes to a state."""
    key = repr((game, settings))
    if key not in MADE:
        MADE[key] = make(game, settings)
    return MADE[key]


def make(game: str, settings: dict):
    usual = {"harvest": {"num_agents": 3}, "cleanup": {"num_agents": 2}, "coins": {"num_agents": 2}}[game]
    layout = {"harvest": HARVEST, "cleanup": CLEANUP, "coins": COINS}[game]
    env = envs_jax.make(game, **({"map": layout, "max_steps": 20} | usual | settings))
    return env, jax.device_get(jax.jit(env.init)(jax.random.key(0)))


def placed(env, state, *poses):
    """`state` with agents at these (row, column, heading)."""
    cell = np.array([row * env.board.width + column for row, column, _ in poses], np.int32)
    return state.replace(cell=cell, heading=np.array([heading for *_, heading in poses], np.int32))


def has(picture: np.ndarray, color) -> bool:
    return bool((picture == np.rint(to_rgb(color) * 255).astype(np.uint8)).all(axis=-1).any())


# --- What agents see in pixels ---


def test_sprites_are_all_distinct():
    table = sprite_table()
    assert table.dtype == np.uint8 and table.shape == (9, 8, 8, 8, 3)
    assert not table[maps.UNSEEN].any()
    sprites = table[1:].reshape(64, -1).astype(int)
    for one, other in itertools.combinations(sprites, 2):
        assert np.abs(one - other).max() > 40 and np.abs(one - other).mean() > 5


def test_headings_are_turned_sprites():
    """Where the ground is plain, an agent that looks right is one that looks up, turned right."""
    up, right, down, left = (sprite_table()[maps.OUTSIDE, maps.OTHER + turn].astype(int) for turn in range(4))
    for turns, sprite in enumerate((up, right, down, left)):
        assert np.abs(np.rot90(up, -turns) - sprite)[1:-1, 1:-1].max() < 60
    assert (up[:3] != down[:3]).any() and (left != right).any()


def test_rgb_observations_are_made_of_sprites():
    env, state = made("cleanup", observation="rgb")
    observed = np.asarray(jax.jit(env.observe)(state))
    assert observed.shape == (2, *env.observation_space().shape) and observed.dtype == np.uint8
    ahead, across = env.view
    row, column = int(np.argmax(ahead[:, 0] == 0)), int(np.argmax(across[0] == 0))
    own = observed[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
    assert any((own == sprite).all() for sprite in sprite_table()[:, maps.SELF])


def test_importing_draws_nothing():
    script = (
        "import sys, envs_jax.ssd.rendering, envs_jax.ssd.play\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a backend was started'\n"
        "assert not {'matplotlib', 'PIL'} & set(sys.modules)\n"
        "from envs_jax.ssd import rendering\n"
        "assert not rendering.land.cache_info().currsize\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# --- The board ---


@pytest.mark.parametrize("game", ["harvest", "cleanup", "coins"])
def test_picture_of_the_board(game):
    env, state = made(game)
    picture = env.render(state)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0
    assert 320 <= picture.shape[1] <= 800
    for color in (agent_color(0), agent_color(1)):  # all have one role
        assert has(picture, color)
    np.testing.assert_array_equal(picture, draw_board(env, jax.tree.map(jax.numpy.asarray, state)))


@pytest.mark.parametrize(
    "game, layout",
    [("harvest", "ssd"), ("harvest", "small"), ("cleanup", "standard"), ("cleanup", "ssd"), ("coins", "30x3")],
)
def test_maps_make_pictures_of_a_good_size(game, layout):
    env, state = made(game, map=layout, num_agents=2)
    height, width = env.render(state).shape[:2]
    assert 500 <= width <= 800 and 150 <= height <= 900 and width % 2 == height % 2 == 0


def test_roles_have_their_colours():
    env, state = made("harvest", roles="low,2high")
    low, high, same = agent_colors(state)
    assert low != high and high == same
    picture = env.render(state)
    assert has(picture, low) and has(picture, high) and not has(picture, agent_color(1))
    wide = HARVEST.replace("W     W", "WPPPPPW")
    _, many = made("harvest", map=wide, num_agents=7, roles="low,high,standard,slow,strong,weak,consumer")
    assert len(set(agent_colors(many))) == 7  # though two of them would have the same, if alone


def test_unknown_role_ids_are_drawn():
    env, state = made("coins")
    state = state.replace(roles=env.make_roles({"role_id": [99, 3]}))
    assert env.render(state).shape[2] == 3 and len(set(agent_colors(state))) == 2


def test_heading_and_place_show():
    env, state = made("harvest")
    pictures = [env.render(placed(env, state, (2, 2, turn), (1, 2, 0), (1, 3, 0))) for turn in range(4)]
    pictures.append(env.render(placed(env, state, (2, 4, 0), (1, 2, 0), (1, 3, 0))))
    assert all((one != other).any() for one, other in itertools.combinations(pictures, 2))


def test_beams_show_where_they_are():
    env, state = made("cleanup")
    state = placed(env, state, (3, 1, 0), (2, 5, 0))
    step = jax.jit(env.play)
    clean, zap = (step(state, np.array([action, 0]), env.draw(jax.random.key(0)))[0] for action in (8, 7))
    scene = board_scene(env, zap)
    assert (scene.beam == 2).any() and not (scene.beam == 1).any() and not scene.beam[scene.ground == maps.WALL].any()
    assert (scene.towards[scene.beam == 2] == 0).all()
    # The same cells that agents see, as the environment itself works them out.
    assert (np.asarray(env.beams(zap)) == scene.beam.reshape(-1)).all()
    for fired, sign in ((zap, 1), (clean, -1)):
        shine = env.render(fired).astype(int) - env.render(fired.replace(beam=np.zeros_like(fired.beam)))
        changed = shine[shine.any(axis=-1)]
        assert len(changed) > 1000 and sign * np.mean(changed[:, 0] - changed[:, 2]) > 10  # yellow, cyan


def test_removed_agents_show_and_the_others_hide_nothing():
    env, state = made("harvest")
    state = placed(env, state, (2, 2, 0), (1, 2, 0), (1, 3, 0))
    away = state.replace(away=np.array([4, 0, 0], np.int32))
    longer, absent = away.replace(away=away.away + [1, 0, 0]), away.replace(cell=away.cell + [2, 0, 0])
    pictures = [env.render(each) for each in (state, away, longer, absent)]
    assert all((one != other).any() for one, other in itertools.combinations(pictures, 2))
    covered = placed(env, away, (1, 2, 0), (1, 2, 0), (1, 3, 0))
    assert has(env.render(covered), agent_color(1))


def test_waste_apples_coins_and_items_change_the_picture():
    env, state = made("cleanup")
    before = env.render(state)
    assert (env.render(state.replace(waste=~state.waste)) != before).any()
    assert (env.render(state.replace(apple=~state.apple)) != before).any()
    assert (env.render(state.replace(items=state.items + 1)) != before).any()
    env, state = made("coins", roles="high,low")
    colors = agent_colors(state)
    for owner in (1, 2):
        scene = board_scene(env, state.replace(coin=np.full_like(state.coin, owner)))
        assert (scene.owner[scene.ground == maps.OWN_COIN] == owner - 1).all() and (scene.owner >= 0).any()
    both = [env.render(state.replace(coin=np.full_like(state.coin, owner))) for owner in (1, 2)]
    counts = [[(p == np.rint(to_rgb(c) * 255).astype(np.uint8)).all(-1).sum() for c in colors] for p in both]
    assert counts[0][0] > 2 * counts[1][0] and counts[1][1] > 2 * counts[0][1]


# --- A view ---


def test_view_has_the_shape_of_the_window():
    env, state = made("harvest")
    size = env.numbers.view_size
    scene = view_scene(env, state, 1)
    assert scene.ground.shape == (size, size)
    picture = env.render_view(state, 1)
    assert picture.dtype == np.uint8 and picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert picture.shape[1] >= 500 and picture.shape[1] // size * size <= picture.shape[0]
    with pytest.raises(ValueError, match="agent is 3; allowed: 0 to 2"):
        draw_view(env, state, 3)


@pytest.mark.parametrize("game", ["harvest", "cleanup", "coins"])
def test_view_is_what_the_observation_says(game):
    """The ground, and who looks where, for every agent and heading; also for agents that are short-sighted."""
    env, state = made(game, roles={"view": [2, 9, 3][: {"harvest": 3}.get(game, 2)]})
    if game == "coins":
        state = state.replace(coin=np.array([1, 0, 2, 1], np.int8))
    observe = jax.jit(env.observe)
    for turn in range(4):
        turned = state.replace(heading=(state.heading + turn) % 4)
        symbols = np.asarray(observe(turned))
        for agent in range(env.num_agents):
            scene = view_scene(env, turned, agent)
            ground = np.where((scene.owner >= 0) & (scene.owner != agent), maps.OTHER_COIN, scene.ground)
            np.testing.assert_array_equal(ground, symbols[agent, ..., 0])
            seen = np.zeros_like(ground)
            for other in np.flatnonzero(scene.row >= 0):
                code = maps.SELF if other == agent else maps.OTHER + scene.heading[other]
                seen[scene.row[other], scene.column[other]] = code
            np.testing.assert_array_equal(seen, symbols[agent, ..., 1])


def test_a_removed_agent_sees_nothing():
    env, state = made("harvest")
    away = state.replace(away=np.array([4, 0, 0], np.int32))
    assert (view_scene(env, away, 0).ground == maps.UNSEEN).all()
    assert (draw_view(env, away, 0) != draw_view(env, state, 0)).any()


# --- Films ---


def trajectory(env, state, length: int):
    step = jax.jit(lambda key, state: env.advance(key, state, np.zeros(env.num_agents, np.int32))[0])
    states = [state]
    for t in range(length - 1):
        states.append(step(jax.random.key(t), states[-1]))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


@pytest.mark.parametrize("view", [None, 1])
def test_animate_writes_a_gif(tmp_path, view):
    from PIL import Image

    env, state = made("coins")
    states = trajectory(env, state, 5)
    path = animate(env, states, tmp_path / "film.gif", fps=10, view=view)
    with Image.open(path) as film:
        assert film.n_frames == 5 and film.info["duration"] == 100
        shape = (draw_board(env, state) if view is None else draw_view(env, state, view)).shape
        assert film.size == (shape[1], shape[0])


def test_what_cannot_be_filmed(tmp_path):
    env, state = made("coins")
    states = trajectory(env, state, 2)
    with pytest.raises(ValueError, match=r"ends in \.gif or \.mp4"):
        animate(env, states, tmp_path / "film.avi")
    with pytest.raises(ValueError, match="fps is 0"):
        animate(env, states, tmp_path / "film.gif", fps=0)
    with pytest.raises(ValueError, match=r"states.step has shape \(\)"):
        animate(env, state, tmp_path / "film.gif")
    with pytest.raises(ValueError, match="folder that does not exist"):
        animate(env, states, tmp_path / "none" / "film.gif")


def test_mp4_or_what_to_install(tmp_path):
    env, state = made("coins")
    states, path = trajectory(env, state, 3), tmp_path / "film.mp4"
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        with pytest.raises(ValueError, match="pip install imageio-ffmpeg"):
            animate(env, states, path)
    else:
        assert animate(env, states, path).stat().st_size > 1000


def test_text():
    assert text_mask("step 12", 11).shape == text_mask("STEP 12", 11).shape
    assert text_mask("", 9).shape[1] > 0 and not text_mask("?", 9).any()
    assert text_mask("high", 11).max() == 1

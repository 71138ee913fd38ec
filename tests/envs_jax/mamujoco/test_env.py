"""The contract, ids, partitions, sizes, starts, pictures and wrong settings; little or no physics is compiled."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import envs_jax
from envs_jax.mamujoco.env import MaMujoco
from envs_jax.mamujoco.graph import joint_graph
from envs_jax.mamujoco.ids import ALIASES, IDS, NAMED
from envs_jax.mamujoco.models import mj_model
from envs_jax.testing import check_env


def test_contract():
    """Unequal observations and actions, on a robot without contacts: the check compiles the physics four times."""
    env = MaMujoco(
        robot="manysegmentswimmer", segments=3, partition=((0, 2), (1,)), physics="fast", obsk=0, max_steps=5
    )
    assert not env.obs_mask.all() and not env.act_mask.all()
    check_env(env, num_steps=14, render=False)


def test_every_id():
    for name, settings in {**IDS, **ALIASES}.items():
        env = envs_jax.make(name)
        assert isinstance(env, MaMujoco) and env.robot == settings["robot"], name
        state = jax.eval_shape(env.init, jax.random.key(0))
        assert jax.eval_shape(env.observe, state).shape == (env.num_agents, *env.observation_space().shape), name
    assert envs_jax.make("ant_4x2") == envs_jax.make("mamujoco/ant_4x2")
    assert envs_jax.make("mamujoco/reacher").max_steps == 50
    assert envs_jax.make("mamujoco/halfcheetah_6x1", obsk=0).observation_space().shape == (7,)
    assert {name.split("/")[-1].split("_")[0] for name in IDS} >= set(NAMED)


def test_importing_envs_jax_does_not_import_mujoco():
    script = "import sys, envs_jax, envs_jax.mamujoco; assert not {'mujoco', 'gymnasium'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def disabled(*passes: str) -> str:
    return f"--xla_disable_hlo_passes={','.join(passes)}"


LOOPS, BARRIERS = "cpu-parallel-task-assigner", "cse_barrier_expander"


@pytest.mark.parametrize(
    ("first", "environ", "flags"),
    [
        ("", {"NPROC": "2"}, disabled(LOOPS, BARRIERS)),
        (
            "",
            {"NPROC": "2", "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"},
            "--xla_cpu_use_fusion_emitters=false " + disabled(LOOPS, BARRIERS),
        ),
        ("", {"NPROC": "2", "XLA_FLAGS": disabled("fusion")}, disabled("fusion")),
        ("", {"NPROC": "8"}, disabled(BARRIERS)),
        ("envs_jax.mamujoco.xla.find_spec = lambda name: name", {"NPROC": "2", "JAX_PLATFORMS": ""}, disabled(LOOPS)),
        ("envs_jax.mamujoco.xla.find_spec = lambda name: name", {"NPROC": "8", "JAX_PLATFORMS": ""}, ""),
        ("jax.devices()", {"NPROC": "2"}, ""),
    ],
)
def test_flags_keep_kernels_whole_on_few_cores_and_barriers_on_cpus_alone(first, environ, flags):
    script = (
        f"import os, jax, envs_jax, envs_jax.mamujoco.env\n{first}\nbefore = os.environ.get('XLA_FLAGS')\n"
        f"assert before == {environ.get('XLA_FLAGS')!r}, 'importing sets no flag'\n"
        "for _ in range(2):\n    envs_jax.make('mamujoco/swimmer')\n"
        f"assert os.environ.get('XLA_FLAGS', '') == {flags!r}, os.environ['XLA_FLAGS']\n"
    )
    clean = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    env = clean | {"JAX_PLATFORMS": "cpu"} | environ
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Where it is too late for a flag, one warning says so.
    assert done.stderr.count("UserWarning: JAX started before the first robot") == (first == "jax.devices()")


def test_default_kernels_of_many_segments_are_right():
    """These tests compile by XLA's older emitters. The default ones agree with them, also where JAX started first and
    drops barriers: with 20 segments a pivot's row that is computed twice, in two roundings, is enough to go wrong."""
    script = (
        "import jax, envs_jax\njax.devices()\nenv = envs_jax.make('mamujoco/manysegmentswimmer_10x2', physics='fast')\n"
        "state = env.init(jax.random.key(0))\nactions = jax.random.uniform(jax.random.key(5), (10, 2), minval=-1.0)\n"
        "print(jax.jit(env.advance)(jax.random.key(1), state, actions)[0].qvel.tolist())"
    )
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    older = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    seen = [
        json.loads(subprocess.run([sys.executable, "-c", script], check=True, env=env, capture_output=True).stdout)
        for env in (clean, clean | {"XLA_FLAGS": older})
    ]
    # Rounding makes 0.01 of a step with one iteration; wrong kernels hardly move it, where speeds are up to 3 rad/s.
    np.testing.assert_allclose(*seen, atol=0.05)
    assert np.abs(seen[0]).max() > 1


# --- Neighbours ---


def pairs(robot: str, segments: int = 0) -> set[frozenset[str]]:
    hub = ("abdomen_x", "abdomen_y", "abdomen_z") if robot == "humanoid" else ()
    graph = joint_graph(mj_model(robot, segments), hub)
    assert all((b, a) in graph.edges and a != b for a, b in graph.edges)
    return {frozenset(graph.joints[i].name for i in edge) for edge in graph.edges}


def cliques(*groups: str) -> set[frozenset[str]]:
    found = set()
    for group in groups:
        names = group.split()
        found |= {frozenset((a, b)) for a in names for b in names if a != b}
    return found


def test_neighbours_are_those_that_mamujoco_writes_down():
    chain = ("bfoot bshin", "bshin bthigh", "bthigh fthigh", "fthigh fshin", "fshin ffoot")
    assert pairs("halfcheetah") == cliques(*chain)
    assert pairs("ant") == cliques("hip_1 hip_2 hip_3 hip_4", *(f"hip_{i} ankle_{i}" for i in range(1, 5)))
    legs = [
        f"{a}{side}_joint {b}{side}_joint" for side in ("", "_left") for a, b in (("foot", "leg"), ("leg", "thigh"))
    ]
    assert pairs("walker2d") == cliques("thigh_joint thigh_left_joint", *legs)
    waist = "abdomen_x abdomen_y abdomen_z"
    sides = [
        group
        for side in ("left", "right")
        for group in (
            f"{waist} {side}_hip_x {side}_hip_y {side}_hip_z",
            f"{side}_knee {side}_hip_x {side}_hip_y {side}_hip_z",
            f"{waist} {side}_shoulder1 {side}_shoulder2",
            f"{side}_elbow {side}_shoulder1 {side}_shoulder2",
        )
    ]
    assert pairs("humanoid") == cliques(*sides)
    hips = [f"hip1_{i} hip2_{i} hip1_{i + 1} hip2_{i + 1}" for i in range(3)]
    ankles = [f"hip{leg}_{i} ankle{leg}_{i}" for leg in (1, 2) for i in range(4)]
    assert pairs("manysegmentant", 4) == cliques(*hips, *ankles)
    halves = [" ".join(f"{joint}{i}" for joint in group.split()) for i in (0, 1) for group in chain]
    assert pairs("coupledhalfcheetah") == cliques(*halves)


# --- Partitions and sizes ---


def test_partitions_of_ones_own():
    by_name = MaMujoco(robot="ant", partition=[["hip_1", "ankle_1"], ["hip_2", 5], [6, 7, 0, 1]])
    assert by_name == MaMujoco(robot="ant", partition=((2, 3), (4, 5), (6, 7, 0, 1))) or by_name.num_agents == 3
    assert [by_name.action_space(agent).shape for agent in by_name.agents] == [(2,), (2,), (4,)]
    np.testing.assert_array_equal(by_name.act_mask.sum(axis=1), [2, 2, 4])
    np.testing.assert_array_equal(
        by_name.obs_mask.sum(axis=1), [by_name.observation_space(a).shape[0] for a in by_name.agents]
    )
    long = envs_jax.make("mamujoco/manysegmentswimmer", partition="7x3")
    assert long.num_agents == 7 and long._parts.sim.mj.nu == 21
    own = MaMujoco(robot="manysegmentant", segments=2, partition=((0, 1, 2), (3, 4, 5, 6, 7)))
    assert own.num_agents == 2


def test_actions_reach_their_actuators():
    env = MaMujoco(robot="walker2d", partition="2x3")
    stacked = env.stack_actions({"agent_0": jnp.array([0.0, 1.0, 2.0]), "agent_1": jnp.array([3.0, 4.0, 5.0])})
    # From the foot up, against the order of the model.
    np.testing.assert_array_equal(stacked.reshape(-1)[env._parts.views.drives], [2, 1, 0, 5, 4, 3])


def test_dictionaries_are_exact_and_arrays_padded():
    env = MaMujoco(robot="humanoid", partition="9|8", obsk=1)
    obs, state = jax.jit(env.reset)(jax.random.key(0))
    assert {agent: row.shape for agent, row in obs.items()} == {"agent_0": (242,), "agent_1": (170,)}
    stacked = env.observe(state)
    assert stacked.shape == (2, 242) and not np.asarray(stacked[1, 170:]).any()
    assert env.action_space("agent_1").shape == (8,) and env.action_space().bounds()[1].max() == np.float32(0.4)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(MaMujoco().init(jax.random.key(0))))
    assert size < 250


# --- Starts ---


def test_starts_are_gymnasiums():
    keys = jax.random.split(jax.random.key(0), 4000)
    env = MaMujoco(robot="halfcheetah")
    state = jax.jit(jax.vmap(env.init))(keys)
    qpos, qvel = np.asarray(state.qpos), np.asarray(state.qvel)
    assert np.abs(qpos).max() <= 0.1 and qpos.std() == pytest.approx(0.2 / np.sqrt(12), rel=0.02)
    assert qvel.std() == pytest.approx(0.1, rel=0.02) and np.abs(qvel).max() > 0.3
    env = MaMujoco(robot="reacher", partition="2x1")
    state = jax.jit(jax.vmap(env.init))(keys)
    target = np.asarray(state.qpos)[:, 2:]
    radius = np.linalg.norm(target, axis=1)
    assert radius.max() < 0.2 and (radius**2).mean() == pytest.approx(0.02, rel=0.05) and not np.any(state.qvel[:, 2:])


def test_starts_have_c_mujocos_derived_numbers():
    """Humanoid's mass centre, inertias and velocities, Reacher's fingertip, the coupled cheetahs' tendon."""
    import compare
    import mujoco

    for robot in ("humanoid", "reacher", "coupledhalfcheetah", "inverteddoublependulum", "ant"):
        env = compare.make(robot)
        state = jax.jit(env.init)(jax.random.key(1))
        mj = compare.c_model(env)
        data = mujoco.MjData(mj)
        data.qpos[:], data.qvel[:] = state.qpos, state.qvel
        mujoco.mj_forward(mj, data)
        for name, value in compare.c_derived(env, data).items():
            if name in ("cfrc_ext", "qfrc_constraint", "qfrc_actuator"):  # zeros at a start
                assert not np.asarray(state.derived[name]).any()
            else:
                np.testing.assert_allclose(state.derived[name], value, rtol=1e-5, atol=2e-6, err_msg=f"{robot} {name}")


# --- Pictures ---


@pytest.mark.parametrize("chosen", [{}, {"MUJOCO_GL": "egl"}], ids=["by itself", "egl"])
def test_picture(chosen):
    """By whatever OpenGL there is, without a screen."""
    pytest.importorskip("OpenGL")
    script = (
        "import jax, numpy as np, envs_jax\n"
        "env = envs_jax.make('mamujoco/halfcheetah_2x3')\n"
        "try:\n    picture = env.render(env.init(jax.random.key(0)))\n"
        "except RuntimeError as error:\n    assert 'MUJOCO_GL' in str(error) and 'libegl1' in str(error)\n"
        "else:\n"
        "    assert picture.shape == (360, 480, 3) and picture.dtype == np.uint8 and picture.std() > 10\n"
    )
    environ = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MUJOCO_GL")} | chosen
    subprocess.run([sys.executable, "-c", script], check=True, env=environ)


def test_no_gl_says_what_to_install():
    script = (
        "import jax, envs_jax\n"
        "env = envs_jax.make('mamujoco/halfcheetah_2x3')\n"
        "try:\n    env.render(env.init(jax.random.key(0)))\n"
        "except RuntimeError as error:\n    assert 'libosmesa6' in str(error), error\n"
        "else:\n    raise SystemExit('drew without a screen')\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "DISPLAY"} | {"MUJOCO_GL": "glfw"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environ)


def test_opengl_that_mujoco_does_not_know_says_what_is_allowed():
    """MuJoCo fails on import then (as it does by an OpenGL that is not there), and so before anything compiles."""
    script = (
        "import envs_jax\n"
        "try:\n    envs_jax.make('mamujoco/hopper_3x1')\n"
        "except ValueError as error:\n    assert str(error).startswith(\"MUJOCO_GL is 'vulkan'\"), error\n"
        "else:\n    raise SystemExit('imported MuJoCo')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"MUJOCO_GL": "vulkan"})


def test_agents_have_their_colours():
    from envs_jax import drawing
    from envs_jax.mamujoco.rendering import paint

    env = MaMujoco(partition="2x3")
    painted = paint(env._parts.sim.mj, env._parts.views.parts)
    for geom, agent in (("bfoot", 0), ("bthigh", 0), ("fshin", 1)):
        np.testing.assert_allclose(painted.geom(geom).rgba[:3], drawing.to_rgb(drawing.agent_color(agent)), atol=1e-6)


def test_pictures_have_a_floor_without_end():
    """HalfCheetah's ends after 40 m in its MJCF, which a trained one passes in 200 steps."""
    from envs_jax.mamujoco.rendering import _endless_floor, paint

    env = MaMujoco(partition="2x3")
    mj, painted = env._parts.sim.mj, paint(env._parts.sim.mj, env._parts.views.parts)
    _endless_floor(painted)
    assert list(painted.geom("floor").size[:2]) == [0, 0] and list(mj.geom("floor").size[:2]) == [40, 40]
    floor = mj.geom("floor").matid[0]
    np.testing.assert_allclose(painted.mat_texrepeat[floor] * 40, mj.mat_texrepeat[floor])


# --- Pages ---

DRAW = """
const page = require("fs").readFileSync(0, "utf8");
let strokes = 0, frames = 0;
const lineTo = (x, y) => { if (!isFinite(x + y)) throw new Error("not finite"); };
const pen = { stroke() { strokes++; }, fillRect() {}, beginPath() {}, moveTo() {}, lineTo };
const element = () => ({ addEventListener() {}, append() {}, style: { setProperty() {} }, value: "1", clientWidth: 300,
  clientHeight: 200, getContext: () => pen });
const elements = {};
globalThis.document = { getElementById: (id) => elements[id] ||= element(), createElement: element };
globalThis.window = {};
globalThis.requestAnimationFrame = (draw) => { if (frames++ < 3) draw(40 * frames); };
new Function(page.match(/<script>([^]*)<\\/script>/)[1])();
console.log(JSON.stringify([strokes, elements.clock.textContent]));
"""


def test_page_of_an_episode(tmp_path, monkeypatch):
    monkeypatch.delattr(mujoco, "Renderer", raising=False)  # it needs OpenGL
    env = MaMujoco(robot="ant", partition="4x2")
    first = jax.jit(env.init)(jax.random.key(0))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), first)
    states = states.replace(qpos=states.qpos.at[:, 0].add(jnp.arange(5)))  # it slides along x
    page = env.render_html(states, tmp_path / "ant.html", title="<Ant> & co")
    assert (tmp_path / "ant.html").read_text() == page and "&lt;Ant&gt; &amp; co" in page
    # Nothing from anywhere else, and every placeholder filled.
    assert not re.search(r"https?:|src=|@import|\$(title|episode)", page)
    episode = json.loads(re.search(r"const episode = (.*);\n", page)[1])
    mj = env._parts.sim.mj
    ends = np.frombuffer(base64.b64decode(episode["places"]), "<f4").reshape(5, len(episode["shapes"]), 2, 3)
    data = mujoco.MjData(mj)
    data.qpos[:] = states.qpos[3]
    mujoco.mj_kinematics(mj, data)
    solid = [g for g in range(mj.ngeom) if mj.geom_type[g] != mujoco.mjtGeom.mjGEOM_PLANE]
    np.testing.assert_allclose(ends[3].mean(axis=1), data.geom_xpos[solid], atol=1e-5)
    lengths = np.linalg.norm(ends[3, :, 1] - ends[3, :, 0], axis=1)
    np.testing.assert_allclose(lengths[1:], 2 * mj.geom_size[solid[1:], 1], atol=1e-5)
    assert lengths[0] == 0  # the torso is a ball
    colours = {owner["color"] for owner in episode["owners"]}
    assert len(colours) == 4 and colours <= {shape["color"] for shape in episode["shapes"]}
    assert episode["owners"][0]["joints"] == ["hip_1", "ankle_1"]
    node = shutil.which("node")
    if node:  # the page's own drawing, with a canvas that counts
        out = subprocess.run([node, "-e", DRAW], input=page, text=True, check=True, capture_output=True).stdout
        strokes, clock = json.loads(out)
        assert strokes == 3 * (2 * 25 + 3 * len(solid)) and clock.endswith("of 4, 0.10 s")


def test_page_of_what_is_no_episode():
    env = MaMujoco()
    state = env.init(jax.random.key(0))
    with pytest.raises(ValueError, match="qpos has shape"):
        env.render_html(state)
    with pytest.raises(ValueError, match="not finite"):
        env.render_html(jax.tree.map(lambda leaf: leaf[None] * np.nan if leaf.dtype == np.float32 else leaf, state))


# --- Wrong settings ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"robot": "spider"}, "robot is 'spider'.*halfcheetah"),
        ({"robot": "pusher"}, "left out"),
        ({"partition": "5x5"}, "partition is '5x5'.*2x3, 6x1"),
        ({"partition": ((0, 1, 2), (3, 4))}, "5 .ffoot. are missing"),
        ({"partition": ((0, 1, 2), (2, 3, 4, 5))}, "2 .bfoot. repeat"),
        ({"partition": ((0, 1, 2, 3, 4, 5), ())}, "at least one actuator"),
        ({"partition": ((0, 1, 2), (3, 4, 6))}, "holds 6; allowed: 0 to 5"),
        ({"partition": ((0, 1, 2), (3, 4, "tail"))}, "'tail'.*ffoot"),
        ({"robot": "manysegmentswimmer", "partition": "ten"}, "AxS"),
        ({"robot": "manysegmentswimmer", "partition": ((0,), (1,))}, "segments is None"),
        ({"segments": 3}, "segments is 3"),
        ({"obsk": -1}, "obsk is -1"),
        ({"version": "v3"}, "version is 'v3'.*v4, v5"),
        ({"physics": "quick"}, "physics is 'quick'.*faithful, fast"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"backend": "cuda"}, "backend is 'cuda'.*jax, warp, c"),
        ({"backend": "c"}, "does not step"),
        ({"num_agents": 3}, "num_agents is 3; allowed: 2"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        MaMujoco(**settings)


def test_float64_needs_x64():
    with pytest.raises(ValueError, match="jax_enable_x64"):
        MaMujoco(precision="float64").init(jax.random.key(0))


@pytest.mark.parametrize(
    ("installed", "platforms", "message"),
    [(False, {"cuda"}, "not installed.*mujoco-mjx.warp"), (True, {"cpu"}, "no NVIDIA GPU"), (True, {"cuda"}, None)],
)
def test_warp_says_what_is_missing(installed, platforms, message, monkeypatch):
    from jax.extend import backend

    from envs_jax.mamujoco import backends

    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(backend, "backends", lambda: dict.fromkeys(platforms))
    if message is None:
        assert MaMujoco(backend="warp").num_agents == 2  # nothing of Warp is imported before the first step
        with pytest.raises(ValueError, match="precision.*warp"):
            MaMujoco(backend="warp", precision="float64")
        with pytest.raises(ValueError, match="midpoint.*warp.*euler, rk4, implicitfast"):
            MaMujoco(robot="walker2d", physics="fast", backend="warp")
        with pytest.raises(ValueError, match="randomise.*warp"):
            MaMujoco(backend="warp", randomise=lambda key, model: {})
    else:
        with pytest.raises(ValueError, match=f"backend is 'warp'; allowed here: 'jax'.*{message}"):
            MaMujoco(backend="warp")

"""`faithful` against C MuJoCo, what breaks and what may vary. One compiled step per robot, shared by its tests."""

import copy

import compare
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import envs_jax
from envs_jax.mamujoco import dynamics, models, newton, physics
from envs_jax.mamujoco.env import MaMujoco
from envs_jax.mamujoco.options import FAITHFUL, FAST, Physics

# Largest errors in float32 after one and after ten environment steps, about five times what was measured.
BOUNDS = {
    "halfcheetah": (1e-5, 4e-4, 1e-2, 4e-1),  # after ten steps rounding alone makes that
    "ant": (2e-6, 2e-5, 2e-4, 4e-3),
    "hopper": (1e-6, 2e-5, 2e-6, 3e-5),
    "walker2d": (5e-6, 1e-3, 3e-5, 1e-3),
    "swimmer": (1e-6, 1e-5, 5e-6, 2e-5),
    "reacher": (1e-6, 5e-6, 2e-6, 5e-5),
    "inverteddoublependulum": (2e-6, 2e-5, 3e-5, 2e-4),
    "coupledhalfcheetah": (5e-6, 2e-4, 1e-3, 1e-1),
    "manysegmentswimmer": (1e-6, 3e-5, 2e-5, 5e-5),
    "manysegmentant": (1e-6, 5e-5, 2e-2, 3e0),  # one state of the eight meets a contact within the ten steps
    "invertedpendulum": (5e-7, 2e-6, 6e-6, 3e-5),
    "humanoid": (3e-6, 3e-4, 3e-5, 1e-3),
    "humanoidstandup": (1e-6, 6e-5, 4e-6, 2e-4),
}


@pytest.mark.parametrize("robot", BOUNDS)
def test_faithful_is_c_mujoco(robot):
    errors = compare.errors(compare.make(robot), steps=10)
    one, ten = errors[0], errors[9]
    # Contact forces are hundreds of newtons where the humanoids stand.
    bounds = dict(zip(("qpos", "qvel"), BOUNDS[robot][:2], strict=True)) | {"cfrc_ext": 5e-2}
    for name, error in one.items():  # derived numbers too, as they stand after the last physics step
        assert error.max() < bounds.get(name, 5e-3), (name, error)
    assert ten["qpos"].max() < BOUNDS[robot][2] and ten["qvel"].max() < BOUNDS[robot][3], ten


@pytest.mark.parametrize("robot", ["halfcheetah", "ant"])
def test_faithful_is_c_mujoco_to_rounding_in_float64(robot):
    with jax.enable_x64(True):
        errors = compare.errors(compare.make(robot, "float64"), steps=1)
    for name, error in errors[0].items():
        assert error.max() < 1e-10, (name, error)


def test_fast_ant_is_nearer_to_c_mujoco_than_whole_steps_of_eulers():
    """Under those, most ants fall over. Measured: 0.56 of 1.74 rad/s."""
    whole = Physics("euler", 2, 3, max_contact_points=8)
    fast, whole = (compare.errors(compare.make("ant", options=o), steps=1)[0]["qvel"] for o in ("fast", whole))
    assert np.median(fast) < 0.5 * np.median(whole), (fast, whole)


def test_substeps_are_c_mujocos_shorter_steps():
    """With joint damping at the new velocity, which C MuJoCo adds to the forces and we to the solver's result."""
    with jax.enable_x64(True):
        env = compare.make("ant", "float64", Physics("euler", 30, 30, substeps=2))
        assert env.dt == pytest.approx(0.05)
        datas, rng = compare.c_states(env, 4)
        actions = rng.uniform(-1, 1, (4, env._parts.sim.mj.nu)).astype(np.float32)
        state, _ = compare.step_of(env)(compare.ours(env, datas), jnp.asarray(actions))
    for i, data in enumerate(datas):
        mj, data.ctrl[:] = copy.copy(data.model), actions[i]
        mj.opt.integrator, mj.opt.timestep = mujoco.mjtIntegrator.mjINT_EULER, data.model.opt.timestep / 2
        mujoco.mj_step(mj, data, 2 * env._parts.rules.frame_skip)
        np.testing.assert_allclose(state.qpos[i], data.qpos, atol=1e-9)
        np.testing.assert_allclose(state.qvel[i], data.qvel, atol=1e-7)


@pytest.mark.parametrize("robot", ["hopper", "humanoid"])
def test_our_parts_of_the_dynamics_are_mjxs(robot):
    from mujoco.mjx._src import constraint, forward, smooth

    with jax.enable_x64(True):
        env = compare.make(robot, "float64")
        state = compare.ours(env, compare.c_states(env, 12)[0])
        model, data = jax.tree.map(jnp.asarray, (env._parts.sim.model, env._parts.sim.data))
        solref, solimp = (
            jnp.array([[0.02, 1], [-300.0, -20]]),
            jnp.array([[0.9, 0.95, 1e-3, 0.5, 2], [0, 0.8, 1, 0.3, 3]]),
        )

        def both(qpos, qvel):
            d = smooth.com_vel(model, forward.fwd_position(model, data.replace(qpos=qpos, qvel=qvel)))
            rows = [f(model, d, 3) for f in (dynamics.pyramids, constraint._efc_contact_pyramidal)]
            bias = [f(model, d).qfrc_bias for f in (dynamics.bias, smooth.rne)]
            return rows, bias

        rows, bias = jax.jit(jax.vmap(both))(state.qpos, state.qvel)
        assert (jnp.abs(rows[1].J).sum((1, 2)) > 0).any(), "no contact"
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), *rows)
        np.testing.assert_allclose(*bias, atol=1e-9)
        for pos in (0.0, -1e-4, 5e-4, -0.2, 2.0):
            for pair in zip(solref, solimp, strict=True):
                ours, theirs = (f(model, *pair, jnp.float64(pos)) for f in (dynamics.response, constraint._kbi))
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, err_msg=f"{pos} {pair}")


def test_midpoint_has_two_stages_of_c_mujocos_forces():
    """Of a robot with a free joint, so that orientations are moved as they should be, too; to rounding in float64."""
    with jax.enable_x64(True):
        env = compare.make("ant", "float64", Physics("midpoint", 6, 8, max_contact_points=8))
        datas, rng = compare.c_states(env, 4)
        actions = rng.uniform(-1, 1, (4, env._parts.sim.mj.nu)).astype(np.float32)
        state, _ = compare.step_of(env)(compare.ours(env, datas), jnp.asarray(actions))
    for i, data in enumerate(datas):
        mj, data.ctrl[:] = data.model, actions[i]
        for _ in range(env._parts.rules.frame_skip):
            qpos, qvel, warm = data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy()
            mujoco.mj_forward(mj, data)
            half = qvel + 0.5 * mj.opt.timestep * data.qacc
            mujoco.mj_integratePos(mj, data.qpos, qvel, 0.5 * mj.opt.timestep)
            data.qvel[:], data.qacc_warmstart[:] = half, warm
            mujoco.mj_forward(mj, data)
            data.qpos[:], data.qvel[:] = qpos, qvel + mj.opt.timestep * data.qacc
            mujoco.mj_integratePos(mj, data.qpos, half, mj.opt.timestep)
            data.qacc_warmstart[:] = data.qacc
        np.testing.assert_allclose(state.qpos[i], data.qpos, atol=1e-10)
        np.testing.assert_allclose(state.qvel[i], data.qvel, atol=1e-9)


def test_a_capsule_on_end_has_mujocos_contact_frame():
    """MJX's own frame is another one beyond 60 degrees, and an Ant's friction with it."""
    from mujoco.mjx._src.collision_primitive import plane_capsule
    from mujoco.mjx._src.collision_types import GeomInfo

    def gap(angle: float, ours: bool) -> float:
        xml = f"""<mujoco><worldbody><geom name="floor" type="plane" size="1 1 1"/>
            <body pos="0 0 .05" euler="20 {angle} 0"><freejoint/><geom type="capsule" size=".1 .2"/></body>
            </worldbody></mujoco>"""
        mj = mujoco.MjModel.from_xml_string(xml)
        data = mujoco.MjData(mj)
        mujoco.mj_forward(mj, data)
        assert data.ncon
        plane, capsule = (
            GeomInfo(jnp.asarray(data.geom_xpos[i]), jnp.asarray(data.geom_xmat[i].reshape(3, 3)), mj.geom_size[i])
            for i in (0, 1)
        )
        if not ours:
            distance, _, frame = jax.tree.leaves(_raw(plane_capsule, plane, capsule))
        else:
            distance, _, frame = physics._plane_capsule(plane, capsule)
        deepest = int(np.argmin(distance))
        lowest = int(np.argmin(data.contact.dist))
        return float(np.abs(np.asarray(frame)[deepest].reshape(-1) - data.contact.frame[lowest]).max())

    for angle in (10, 40, 70, 88):
        assert gap(angle, ours=True) < 1e-6, angle
    assert max(gap(angle, ours=False) for angle in (10, 40, 70, 88)) > 0.1


def _raw(collide, plane, capsule):
    """MJX's collision function on one pair: it is wrapped for a model and its data."""
    import types

    stacked = [jnp.stack([getattr(plane, name), getattr(capsule, name)]) for name in ("pos", "mat")]
    data = types.SimpleNamespace(geom_xpos=stacked[0], geom_xmat=stacked[1])
    model = types.SimpleNamespace(geom_size=jnp.stack([jnp.asarray(plane.size), jnp.asarray(capsule.size)]))
    return collide(model, data, None, jnp.array([[0, 1]]))


def test_mjx_keeps_its_own_frame_for_others():
    from mujoco import mjx
    from mujoco.mjx._src import collision_driver, scan, solver
    from mujoco.mjx._src.collision_primitive import plane_capsule

    with physics._as_here():
        assert collision_driver._COLLISION_FUNC[mjx.GeomType.PLANE, mjx.GeomType.CAPSULE] is not plane_capsule
        assert solver.solve is newton.solve and scan.body_tree is physics._walk
    assert solver.solve is not newton.solve and scan.body_tree is not physics._walk
    assert collision_driver._COLLISION_FUNC[mjx.GeomType.PLANE, mjx.GeomType.CAPSULE] is plane_capsule


@pytest.mark.parametrize("robot", ["hopper", "ant"])  # contacts that couple any joints, and those of one leg
def test_our_newton_is_mjxs(robot):
    """Of one environment, of several and of several times several, at any number of iterations; to rounding."""
    from mujoco import mjx
    from mujoco.mjx._src import smooth, solver

    with jax.enable_x64(True):
        env = compare.make(robot, "float64")
        state = compare.ours(env, compare.c_states(env, 6)[0])
        model, data = jax.tree.map(jnp.asarray, (env._parts.sim.model, env._parts.sim.data))

        def forward(qpos, qvel, warm):
            return mjx.forward(model, data.replace(qpos=qpos, qvel=qvel, ctrl=jnp.ones(model.nu), qacc_warmstart=warm))

        datas = jax.jit(jax.vmap(forward))(state.qpos, state.qvel, state.warmstart)
        assert (datas._impl.efc_force > 1).any(), "no contact"
        for iterations, ls_iterations in ((1, 4), (2, 4), (6, 8)):
            m = model.replace(opt=model.opt.replace(iterations=iterations, ls_iterations=ls_iterations))
            ours, theirs = (jax.jit(jax.vmap(lambda d, f=f, m=m: f(m, d))) for f in (newton.solve, solver.solve))
            got, expected = ours(datas), theirs(datas)
            for name in ("qacc", "qfrc_constraint"):
                a, b = getattr(got, name), getattr(expected, name)
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * np.abs(b).max(), err_msg=f"{name} {iterations}")
        inertia = [
            jax.jit(jax.vmap(lambda d, by=by: by.solve_m(model, by.factor_m(model, d), d.qvel)))(datas)
            for by in (newton, smooth)
        ]
        np.testing.assert_allclose(*inertia, rtol=1e-9, atol=1e-9)
        one = jax.jit(lambda d: newton.solve(model, d).qacc)(jax.tree.map(lambda x: x[0], datas))
        several = jax.vmap(jax.vmap(lambda d: newton.solve(model, d).qacc))
        many = jax.jit(several)(jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), datas))
        expected = jax.jit(jax.vmap(lambda d: solver.solve(model, d).qacc))(datas)
        np.testing.assert_allclose(one, expected[0], rtol=1e-8, atol=1e-6)
        np.testing.assert_allclose(many.reshape(6, -1), expected, rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("loop", [False, True])
def test_equations_are_solved(loop):
    rng = np.random.default_rng(0)
    factors, vectors = rng.normal(size=(3, 12, 12)), rng.normal(size=(3, 12))
    matrices = factors @ factors.swapaxes(1, 2) + 0.1 * np.eye(12)
    order = None if loop else tuple(range(-1, 11))
    with jax.enable_x64(True):
        solve = jax.jit(lambda m, v: newton._solve_spd([m[i, : i + 1] for i in range(12)], v, order))
        found = solve(np.moveaxis(matrices, 0, -1), vectors.T).T
    np.testing.assert_allclose(found, np.linalg.solve(matrices, vectors[..., None])[..., 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "robot,loop",
    [
        ("swimmer", False),
        ("manysegmentswimmer_6x1", False),
        ("manysegmentswimmer_10x2", True),
        ("humanoid", False),
        ("manysegmentant", False),
    ],
)
def test_only_long_swimmers_are_solved_in_a_loop(robot, loop):
    model = envs_jax.make(f"mamujoco/{robot}")._parts.sim.model
    assert (newton._order(model, newton._coupled(model)) is None) == loop


@pytest.mark.parametrize("robot", ["halfcheetah", "ant"])
def test_no_lapack_is_called(robot):
    """Two batched LAPACK calls at a time lock up a program on two cores (see `envs_jax.mamujoco.newton`)."""
    env = envs_jax.make(f"mamujoco/{robot}")
    states = jax.eval_shape(jax.vmap(env.init), jax.random.split(jax.random.key(0), 64))
    actions = jnp.zeros((64, env.num_agents, *env.action_space().shape))
    step = jax.jit(jax.vmap(env.transition)).lower(jax.random.split(jax.random.key(1), 64), states, actions)
    assert "lapack" not in step.as_text()


def test_a_long_chain_is_walked_body_by_body():
    """Without a barrier behind each body, XLA's CPU backend computes the first ones anew for all that hang on them: a
    swimmer with 20 joints made two steps per second."""
    env = envs_jax.make("mamujoco/manysegmentswimmer_10x2")
    key = jax.random.key(0)
    step = jax.jit(env.transition).lower(key, jax.eval_shape(env.init, key), jnp.zeros((10, 2)))
    assert step.as_text().count("optimization_barrier") > 2 * env._parts.sim.mj.nbody  # to and fro


def test_other_constraints_are_left_to_mjx(monkeypatch):
    asked = []
    monkeypatch.setattr(newton, "_theirs", lambda m, d: asked.append(m) or d)
    from mujoco import mjx

    body = '<body pos="0 0 1"><joint type="hinge" {}/><geom size=".1"/></body>'
    for joint, option in (('frictionloss="1"', ""), ("", 'cone="elliptic"'), ("", 'solver="CG"')):
        xml = f"<mujoco><option {option}/><worldbody>{body.format(joint)}</worldbody></mujoco>"
        mj = mujoco.MjModel.from_xml_string(xml)
        model = mjx.put_model(mj, impl="jax")
        newton.solve(model, mjx.make_data(mj, impl="jax"))
        assert asked.pop() is model


@pytest.mark.parametrize("physics_name", ["faithful", "fast"])
def test_presets(physics_name):
    """Contacts exist (MJX reads a wrong number of them where another one comes first); no default is left in."""
    table = {"faithful": FAITHFUL, "fast": FAST}[physics_name]
    for robot in ("halfcheetah", "ant", "hopper", "walker2d", "humanoid"):
        env = MaMujoco(robot=robot, partition="single", physics=physics_name)
        sim = env._parts.sim
        slots = sim.data._impl.contact.dist.shape[0]
        # One limit for each kind of friction; a robot that touches itself has two kinds.
        assert 0 < slots <= 2 * (table[robot].max_contact_points or 100), robot
        assert sim.model.opt.ls_iterations == table[robot].ls_iterations <= 8
        assert sim.model.opt.iterations == table[robot].iterations <= 6

        damped = not sim.mj.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_EULERDAMP
        assert damped == table[robot].eulerdamp
    assert FAITHFUL["halfcheetah"].eulerdamp and FAITHFUL["ant"].integrator == "rk4"


def test_models_have_gymnasiums_parameters():
    gymnasium = pytest.importorskip("gymnasium")
    from pathlib import Path

    folder = Path(gymnasium.__file__).parent / "envs/mujoco/assets"
    fields = "body_mass body_inertia body_pos body_quat body_ipos geom_size geom_pos geom_quat geom_friction"
    fields += (
        " geom_solref geom_solimp geom_margin geom_condim geom_contype geom_conaffinity jnt_range jnt_axis jnt_pos"
    )
    fields += " jnt_stiffness jnt_margin dof_damping dof_armature actuator_gear actuator_ctrlrange actuator_trnid qpos0"
    files = {"half_cheetah": "halfcheetah", "walker2d_v5": "walker2d", "walker2d": "walker2d"}
    files |= {name: name for name in ("ant", "hopper", "swimmer", "humanoid", "humanoidstandup", "reacher")}
    files |= {f"inverted_{name}": f"inverted{name.replace('_', '')}" for name in ("pendulum", "double_pendulum")}
    for file, robot in files.items():
        theirs = mujoco.MjModel.from_xml_path(str(folder / f"{file}.xml"))
        ours = models.mj_model(robot, 0, "v4" if file == "walker2d" else "v5")
        for field in fields.split():
            a, b = getattr(ours, field), getattr(theirs, field)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12, err_msg=f"{file} {field}")
        for field in ("timestep", "integrator", "gravity", "density", "viscosity", "solver", "iterations", "cone"):
            np.testing.assert_array_equal(
                getattr(ours.opt, field), getattr(theirs.opt, field), err_msg=f"{file} {field}"
            )


def test_generated_robots_grow():
    for segments in (1, 2, 7):
        swimmer, ant = (models.mj_model(f"manysegment{name}", segments) for name in ("swimmer", "ant"))
        assert (swimmer.nu, ant.nu) == (segments, 4 * segments)
    two, plain = models.mj_model("manysegmentswimmer", 2), models.mj_model("swimmer")
    for field in ("body_mass", "body_pos", "jnt_range", "dof_armature", "actuator_gear", "jnt_axis"):
        np.testing.assert_array_equal(getattr(two, field), getattr(plain, field))


# --- Divergence ---


def test_broken_physics_ends_that_episode_only():
    env = compare.make("halfcheetah")
    datas, _ = compare.c_states(env, 8)
    state = compare.ours(env, datas)
    broken = np.array([1, 4, 6])
    qvel = np.array(state.qvel)
    qvel[1, 3], qvel[4], qvel[6, 0] = np.nan, np.inf, 3e38
    actions = jnp.zeros((8, 6))
    sound, expected = compare.step_of(env)(state, actions)
    after, outcome = compare.step_of(env)(state.replace(qvel=jnp.asarray(qvel)), actions)
    np.testing.assert_array_equal(outcome.info["diverged"][:, 0].nonzero()[0], broken)
    assert outcome.terminated[broken].all() and not outcome.reward[broken].any()
    assert all(not leaf[broken].any() for leaf in outcome.info.values() if leaf is not outcome.info["diverged"])
    others = np.setdiff1d(np.arange(8), broken)
    assert not outcome.terminated[others].any()
    np.testing.assert_array_equal(outcome.reward[others], expected.reward[others])
    np.testing.assert_array_equal(after.qpos[others], sound.qpos[others])


def test_actions_that_are_not_numbers_do_not_stay():
    env = compare.make("halfcheetah")
    state = compare.ours(env, compare.c_states(env, 8)[0])
    actions = np.zeros((8, 6), np.float32)
    actions[2, 1] = np.nan
    after, outcome = compare.step_of(env)(state, jnp.asarray(actions))
    assert outcome.terminated[2] and outcome.reward[2, 0] == 0 and outcome.info["diverged"].sum() == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, outcome)))


@pytest.mark.parametrize("physics_name", ["faithful", "fast"])
def test_the_coupled_cheetahs_tendon_holds_them(physics_name):
    """Running apart, they come to the end of it: MuJoCo gives its limit no inverse weight (it starts at a right angle
    to all joints), and in single precision the solver's matrix then has no factor."""
    env = compare.make("coupledhalfcheetah", options=physics_name)
    datas, _ = compare.c_states(env, 8)
    for data, apart in zip(datas, np.linspace(2.7, 2.85, 8), strict=True):
        data.qpos[9], data.qpos[0], data.qvel[9], data.qvel[0] = np.float32(apart), 0, 3, -1
        mujoco.mj_forward(data.model, data)
        data.qacc_warmstart[:] = data.qacc_warmstart.astype(np.float32)
    state, hit, actions = compare.ours(env, datas), np.zeros(8, bool), jnp.zeros((8, 12))
    for _ in range(8):
        for data in datas:
            data.ctrl[:] = 0
            mujoco.mj_step(data.model, data, 5)
        state, outcome = compare.step_of(env)(state, actions)
        assert not outcome.info["diverged"].any()
        hit |= np.array([data.ten_length[0] > 3.499 for data in datas])
    assert hit.all() and max(data.ten_length[0] for data in datas) < 3.6
    error = np.abs(state.qvel - np.stack([data.qvel for data in datas])).max(axis=1)
    assert np.median(error) < {"faithful": 5e-2, "fast": 1.0}[physics_name], error


# --- Own models ---


def heavier(key, model):
    return {"body_mass": model.body_mass * jax.random.uniform(key, (), minval=0.5, maxval=2.0)}


def test_each_environment_can_have_its_own_model():
    env = MaMujoco(partition="single", obsk=None, physics="fast", randomise=heavier)
    plain = MaMujoco(partition="single", obsk=None, physics="fast")
    keys = jax.random.split(jax.random.key(0), 3)
    state = jax.vmap(env.init)(keys)
    masses = np.asarray(state.model["body_mass"]).sum(axis=1)
    assert np.ptp(masses) > 1
    same = state.replace(qpos=jnp.tile(state.qpos[:1], (3, 1)), qvel=jnp.tile(state.qvel[:1], (3, 1)))
    after, _ = compare.step_of(env)(same, jnp.ones((3, 6)))
    assert np.ptp(np.asarray(after.qvel), axis=0).max() > 1e-3
    unit = same.replace(model={"body_mass": jnp.tile(plain._parts.sim.model.body_mass, (3, 1))})
    ours, _ = compare.step_of(env)(unit, jnp.ones((3, 6)))
    theirs, _ = compare.step_of(plain)(same.replace(model={}), jnp.ones((3, 6)))
    np.testing.assert_allclose(ours.qvel, theirs.qvel, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("give", "message"),
    [(lambda key, model: {"mass": 1.0}, "'mass'"), (lambda key, model: {"body_mass": jnp.ones(3)}, "of shape")],
)
def test_wrong_randomisation(give, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(MaMujoco(physics="fast", randomise=give).init, jax.random.key(0))


@pytest.mark.parametrize(
    "settings", [{"integrator": "verlet"}, {"iterations": 0}, {"ls_iterations": 0}, {"max_contact_points": 0}]
)
def test_wrong_physics(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        Physics(**settings)

"""Dispersion and navigation: parity with real VMAS trajectories, physics in closed form, and the rules by hand."""

import json
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax.drawing import Canvas, agent_color, to_rgb
from envs_jax.particles import physics, spawning
from envs_jax.particles.dispersion import Dispersion, DispersionState
from envs_jax.particles.navigation import Navigation, NavigationState, goal_indices

FIXTURE = np.load(Path(__file__).parents[1] / "parity" / "vmas_trajectories.npz")
CASES = sorted({name.split("/")[0] for name in FIXTURE.files if "/" in name})


# --- Parity with VMAS ---


class Recording:
    """One case of the fixture: the environment, its actions, and what VMAS made of them. See make_vmas_fixture.py."""

    def __init__(self, name: str) -> None:
        config = json.loads(str(FIXTURE[f"{name}/config"]))
        self.env = envs_jax.make(config.pop("id"), max_steps=None, **config)
        for key in ("position", "velocity", "target", "obs", "reward", "done"):
            setattr(self, key, FIXTURE[f"{name}/{key}"])
        stored = FIXTURE[f"{name}/actions"]
        self.actions = stored.astype(np.float32) / 64 if self.env.continuous_actions else stored.astype(np.int32)

    def state(self, position, velocity, target, eaten=None):
        """The state of one environment."""
        fields = {"position": jnp.asarray(position), "velocity": jnp.asarray(velocity), **envs_jax.base.start_clock()}
        if isinstance(self.env, Navigation):
            return NavigationState(**fields, goal=jnp.asarray(target))
        eaten = jnp.zeros(self.env.food_count, bool) if eaten is None else eaten
        return DispersionState(**fields, food=jnp.asarray(target), eaten=eaten)


@lru_cache
def recording(name: str) -> Recording:
    return Recording(name)


@pytest.mark.parametrize("name", CASES)
def test_trajectories_are_those_of_vmas(name):
    rec = recording(name)
    env = rec.env

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, 0, 1), out_axes=1)
    def rollout(position, velocity, target, actions):
        def step(state, action):
            state, outcome = env.transition(jax.random.key(0), state, action)
            return state, (state, outcome, env.observe(state))

        start = rec.state(position, velocity, target)
        states, outcomes, obs = jax.lax.scan(step, start, actions)[1]
        return states, outcomes, jnp.concatenate([env.observe(start)[None], obs])

    states, outcomes, obs = rollout(rec.position[0], rec.velocity[0], rec.target, rec.actions)
    assert len(rec.actions) > 100
    # Contacts are stiff, so that two ways to round drift apart: a step at a time is compared below.
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-3 if "collisions" in name else 5e-6)
    close(states.position, rec.position[1:])
    close(states.velocity, rec.velocity[1:])
    close(obs[:: int(FIXTURE["obs_every"])], rec.obs)
    close(outcomes.reward, rec.reward)
    np.testing.assert_array_equal(outcomes.terminated, rec.done)
    assert rec.done.any() and not rec.done.all()
    assert obs.shape[2:] == (env.num_agents, *env.observation_space().shape)


@pytest.mark.parametrize("name", [name for name in CASES if "collisions" in name])
def test_each_collision_step_is_that_of_vmas(name):
    """From each of VMAS's own states, one step."""
    rec = recording(name)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None, 0))
    @partial(jax.vmap, in_axes=(0, 0, 0, 0))
    def step(position, velocity, target, actions):
        state, outcome = rec.env.transition(jax.random.key(0), rec.state(position, velocity, target), actions)
        return state.position, state.velocity, outcome.reward

    position, velocity, reward = step(rec.position[:-1], rec.velocity[:-1], rec.target, rec.actions)
    np.testing.assert_allclose(position, rec.position[1:], rtol=0, atol=1e-6)
    np.testing.assert_allclose(velocity, rec.velocity[1:], rtol=0, atol=2e-5)
    np.testing.assert_allclose(reward, rec.reward, rtol=0, atol=1e-6)
    assert (rec.reward < -0.4).mean() > 0.1  # collisions did happen


def test_fixture_covers_what_it_should():
    assert "vmas 1.5" in str(FIXTURE["versions"])
    together = FIXTURE["dispersion_discrete/reward"]
    assert 0.5 in together and 1.0 in together  # an item shared by two, and one eaten alone
    assert np.abs(FIXTURE["dispersion_discrete/position"]).max() == 1  # a wall was hit


# --- Physics ---


def test_free_motion_follows_its_closed_form():
    """v[t] = k v[t-1] + dt f, so v[t] = k^t v[0] + dt f (1 - k^t) / (1 - k) with k = 1 - drag, and x sums dt v."""
    start, velocity, force = np.array([[0.3, -0.2]]), np.array([[0.5, -1.0]]), np.array([[1.0, 0.25]])
    x, v = jnp.float32(start), jnp.float32(velocity)
    expected_x = start.copy()
    for t in range(1, 21):
        x, v = physics.move(x, v, jnp.float32(force))
        expected_v = 0.75**t * velocity + 0.1 * force * (1 - 0.75**t) / 0.25
        expected_x += 0.1 * expected_v
        np.testing.assert_allclose(v, expected_v, atol=1e-6)
        np.testing.assert_allclose(x, expected_x, atol=1e-6)
    assert x.dtype == v.dtype == jnp.float32


def test_drag_acts_once_however_many_substeps():
    zero, v = jnp.zeros((1, 2)), jnp.array([[1.0, -2.0]])
    for substeps in (1, 2, 4):
        x, after = physics.move(zero, v, zero, substeps=substeps)
        np.testing.assert_allclose(after, 0.75 * v, rtol=1e-6)
        np.testing.assert_allclose(x, 0.075 * v, rtol=1e-6)


def test_clamps():
    zero = jnp.zeros((1, 2))
    push = jnp.array([[30.0, -40.0]])
    np.testing.assert_allclose(physics.move(zero, zero, push, max_force=5.0)[1], [[0.3, -0.4]], rtol=1e-6)
    np.testing.assert_allclose(physics.move(zero, zero, push, force_range=35.0)[1], [[3.0, -3.5]], rtol=1e-6)
    np.testing.assert_allclose(physics.move(zero, zero, push, max_speed=1.0)[1], [[0.6, -0.8]], rtol=1e-6)
    np.testing.assert_allclose(physics.move(zero, zero, push, speed_range=3.5)[1], [[3.0, -3.5]], rtol=1e-6)
    x, v = physics.move(zero, zero, push, semidim=(0.2, None))
    np.testing.assert_allclose(x, [[0.2, -0.4]], rtol=1e-6)  # the wall stops the position on its axis only,
    np.testing.assert_allclose(v, [[3.0, -4.0]], rtol=1e-6)  # and not the velocity


def test_contact_pushes_pairs_apart_with_opposite_forces():
    position = jnp.array([[0.0, 0.0], [0.15, 0.0], [5.0, 5.0], [5.0, 5.0]])
    contact = jax.jit(partial(physics.contact_forces, radius=0.1))
    force = np.asarray(contact(position))
    np.testing.assert_allclose(force[0], [-100 * 0.05, 0], rtol=1e-5)  # deep: the penetration itself
    np.testing.assert_allclose(force[1], -force[0])
    assert not force[2:].any()  # coinciding discs have no direction to push in
    edge = np.asarray(contact(jnp.array([[0.0, 0.0], [0.0, 0.2]])))
    np.testing.assert_allclose(edge[1], [0, 100 * 1e-3 * np.log(2)], rtol=1e-2)  # at touch: half-way up the softplus
    assert not np.asarray(contact(jnp.array([[0.0, 0.0], [0.0, 0.201]]))).any()


def test_gradients_are_finite_where_discs_coincide():
    def travelled(force):
        x, _ = physics.move(jnp.zeros((3, 2)), jnp.zeros((3, 2)), force, substeps=2, contact_radius=0.1, max_speed=1.0)
        return jnp.sum(physics.length(x - jnp.zeros((3, 2))))

    gradient = jax.jit(jax.grad(travelled))
    assert np.isfinite(gradient(jnp.zeros((3, 2)))).all()
    assert np.isfinite(gradient(jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))).all()


def test_discrete_actions():
    nine = np.asarray(physics.discrete_force(jnp.arange(9), 9))
    np.testing.assert_array_equal(nine[:3], [[0, 0], [0, -1], [0, 1]])
    np.testing.assert_array_equal(nine, physics.DISCRETE_FORCES[9])
    five = np.asarray(physics.discrete_force(jnp.arange(5), 5))
    np.testing.assert_array_equal(five, [[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])


def test_continuous_actions_are_clipped():
    np.testing.assert_array_equal(physics.continuous_force(jnp.array([[2.0, -0.5]])), [[1.0, -0.5]])


def test_lidar_by_hand():
    position = jnp.array([[0.0, 0.0], [0.3, 0.0], [0.0, 2.0]])
    reach = np.asarray(jax.jit(lambda p: physics.lidar(p, 0.1, 4, 0.35))(position))
    np.testing.assert_allclose(reach[0], [0.2, 0.35, 0.35, 0.35], rtol=1e-6)  # rays along +x, +y, -x, -y
    np.testing.assert_allclose(reach[1], [0.35, 0.35, 0.2, 0.35], rtol=1e-6)
    np.testing.assert_allclose(reach[2], [0.35] * 4, rtol=1e-6)


# --- Rules ---


def transition(env, state, actions):
    return jax.jit(env.transition)(jax.random.key(0), state, actions)


def dispersion_state(env, position, food, eaten=None):
    return DispersionState(
        **envs_jax.base.start_clock(),
        position=jnp.asarray(position, jnp.float32),
        velocity=jnp.zeros((env.num_agents, 2), jnp.float32),
        food=jnp.asarray(food, jnp.float32),
        eaten=jnp.zeros(len(food), bool) if eaten is None else jnp.asarray(eaten),
    )


STAY = jnp.zeros(3, jnp.int32)


@pytest.mark.parametrize(
    ("settings", "reward"),
    [
        ({}, [0.5, 1.5, 0.0]),
        ({"penalise_by_time": True}, [0.5, 1.5, -0.01]),
        ({"share_reward": True, "penalise_by_time": True}, [2.0, 2.0, 2.0]),
    ],
)
def test_dispersion_rewards(settings, reward):
    """Agents 0 and 1 are on item 0, agent 1 also on item 1, agent 2 on item 2 that is gone; item 3 is far away."""
    env = Dispersion(num_agents=3, num_food=4, **settings)
    place = [[0.0, 0.0], [0.08, 0.0], [-0.5, -0.5]]
    food = [[0.04, 0.0], [0.12, 0.0], [-0.5, -0.5], [0.9, 0.9]]
    state = dispersion_state(env, place, food, [False, False, True, False])
    state, outcome = transition(env, state, STAY)
    np.testing.assert_allclose(outcome.reward, reward, rtol=1e-6)
    np.testing.assert_allclose(outcome.info["food_eaten"], [0.5, 1.5, 0.0])
    assert state.eaten.tolist() == [True, True, True, False] and not outcome.terminated
    again = transition(env, state, STAY)[1]  # what is gone stays gone
    assert not again.info["food_eaten"].any()


def test_dispersion_terminates_when_all_is_eaten_and_observes_it():
    env = Dispersion(num_agents=3, num_food=2)
    state = dispersion_state(env, [[0.0, 0.0]] * 3, [[0.0, 0.05], [0.5, -0.5]], [False, True])
    state, outcome = transition(env, state, STAY)
    assert outcome.terminated
    np.testing.assert_allclose(env.observe(state)[1], [0, 0, 0, 0, 0, 0.05, 1, 0.5, -0.5, 1], atol=1e-7)


def test_dispersion_starts_at_the_origin_with_food_in_range():
    env = Dispersion(num_agents=2, num_food=5, pos_range=0.4)
    state = jax.vmap(env.init)(jax.random.split(jax.random.key(0), 500))
    assert not state.position.any() and not state.velocity.any() and not state.eaten.any()
    assert state.food.shape == (500, 5, 2)
    assert 0.39 < np.abs(state.food).max() <= 0.4 and abs(float(state.food.mean())) < 0.02
    assert env.observation_space().shape == (4 + 3 * 5,) and Dispersion(num_agents=4).observation_space().shape == (16,)


def test_goal_sharing():
    assert goal_indices(4, 1).tolist() == [0, 1, 2, 3]
    assert goal_indices(4, 4).tolist() == [0, 0, 0, 0]
    assert goal_indices(8, 4).tolist() == [0, 0, 0, 0, 1, 2, 3, 4]
    assert goal_indices(8, 4, split_goals=True).tolist() == [0] * 4 + [1] * 4
    goal = np.asarray(jax.jit(Navigation(num_agents=4, agents_with_same_goal=2).init)(jax.random.key(0)).goal)
    assert (goal[0] == goal[1]).all() and len(np.unique(goal, axis=0)) == 3


def test_navigation_rewards_and_end():
    """Agent 0 drives towards its goal, agent 1 waits on its own."""
    env = Navigation(num_agents=2, pos_shaping_factor=2.0, final_reward=0.3)
    start = NavigationState(
        **envs_jax.base.start_clock(),
        position=jnp.array([[0.0, 0.0], [0.5, 0.5]]),
        velocity=jnp.zeros((2, 2)),
        goal=jnp.array([[0.08, 0.0], [0.5, 0.5]]),
    )
    actions = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    moved = 0.05 * 0.05 + 0.05 * 0.1  # two half-steps of 0.05 s, with velocities 0.05 and 0.1
    state, outcome = transition(env, start, actions)
    np.testing.assert_allclose(state.position[0], [moved, 0], rtol=1e-5)
    np.testing.assert_allclose(outcome.reward, [2 * moved, 0], atol=1e-6)
    assert outcome.terminated  # all are within an agent's radius (0.1), although
    assert outcome.info["on_goal"].tolist() == [0, 1]  # being on the goal takes 0.05
    near = start.replace(goal=jnp.array([[0.05, 0.0], [0.5, 0.5]]))
    outcome = transition(env, near, actions)[1]
    np.testing.assert_allclose(outcome.reward, [2 * moved + 0.3, 0.3], atol=1e-6)
    shared = transition(Navigation(num_agents=2, shared_rew=True), start, actions)[1]
    np.testing.assert_allclose(shared.reward, [moved, moved], atol=1e-6)
    far = start.replace(goal=jnp.array([[0.2, 0.0], [0.5, 0.5]]))
    assert not transition(env, far, actions)[1].terminated


def test_navigation_observations():
    env = Navigation(num_agents=2)
    p, g = np.float32([[0.1, 0.2], [-0.3, 0.4]]), np.float32([[0.5, -0.6], [0.7, 0.8]])
    state = NavigationState(**envs_jax.base.start_clock(), position=p, velocity=np.zeros_like(p), goal=g)
    expected = [[*p[i], 0, 0, *(p[i] - g[0]), *(p[i] - g[1])] for i in range(2)]
    np.testing.assert_allclose(env.observe(state), expected, atol=1e-7)
    own = Navigation(num_agents=2, observe_all_goals=False).observe(state)
    np.testing.assert_allclose(own, [[*p[i], 0, 0, *(p[i] - g[i])] for i in range(2)], atol=1e-7)


# --- Starting positions ---


def stream_rejection(rng, num_points, distance, semidim):
    """VMAS's way: draw each point until it is far enough from those before."""
    points = np.zeros((0, 2))
    while len(points) < num_points:
        point = rng.uniform(-1, 1, 2) * semidim
        if (np.linalg.norm(points - point, axis=1) >= distance).all():
            points = np.vstack([points, point])
    return points


@pytest.mark.parametrize(("num_agents", "same"), [(4, 1), (8, 8)])
def test_starting_positions_keep_their_distance_and_are_spread_as_in_vmas(num_agents, same):
    env = Navigation(num_agents=num_agents, agents_with_same_goal=same)
    state = jax.jit(jax.vmap(env.init))(jax.random.split(jax.random.key(1), 3000))
    places = np.concatenate([state.position, state.goal[:, : 1 if same > 1 else None]], axis=1)
    m = places.shape[1]
    apart = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)[:, ~np.eye(m, dtype=bool)]
    assert apart.min() >= 0.25 - 1e-5 and np.abs(places).max() <= 1
    rng = np.random.default_rng(0)
    theirs = np.stack([stream_rejection(rng, m, 0.25, (1.0, 1.0)) for _ in range(1500)])
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(
        np.quantile(places[:, 0], quantiles), 2 * quantiles - 1, atol=0.05
    )  # free to be anywhere
    ours_last, theirs_last = (np.quantile(np.abs(p[:, -1]), quantiles) for p in (places, theirs))
    np.testing.assert_allclose(ours_last, theirs_last, atol=0.05)  # squeezed in, so more often near the walls
    theirs_apart = np.linalg.norm(theirs[:, :, None] - theirs[:, None], axis=-1)[:, ~np.eye(m, dtype=bool)]
    np.testing.assert_allclose(np.quantile(apart, quantiles), np.quantile(theirs_apart, quantiles), atol=0.02)


def test_spawning_keeps_the_points_that_rejection_sampling_keeps():
    points = np.random.default_rng(0).uniform(-1, 1, (40, 2)).astype(np.float32)
    kept = []
    for i, point in enumerate(points):
        if all(np.linalg.norm(points[j] - point) >= 0.25 for j in kept):
            kept.append(i)
    flags = jax.jit(partial(spawning._keep_first, min_distance=0.25))(points)
    assert np.flatnonzero(flags).tolist() == kept
    np.testing.assert_array_equal(spawning._ranks(flags), np.cumsum(flags) - flags)


def test_spawning_falls_back_to_points_that_keep_their_distance(monkeypatch):
    monkeypatch.setattr(spawning, "pool_size", lambda *_: 7)  # fewer candidates than points
    places = np.asarray(jax.jit(lambda key: spawning.spawn_apart(key, 8, 0.25, (1.0, 0.5)))(jax.random.key(0)))
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)[~np.eye(8, dtype=bool)]
    assert apart.min() >= 0.25 - 1e-6 and (np.abs(places) <= [1.0, 0.5]).all()


# --- The contract ---


@pytest.mark.parametrize(
    "env",
    [Dispersion(max_steps=5), Navigation(num_agents=3, max_steps=5, collisions=True, continuous_actions=False)],
    ids=["dispersion", "navigation"],
)
def test_steps_are_deterministic_typed_and_reset(env):
    actions = jnp.zeros((env.num_agents,), jnp.int32)
    step, init = jax.jit(env.advance_and_reset), jax.jit(env.init)
    results = []
    for key in (jax.random.key(7), jax.random.PRNGKey(7)):
        state = init(key)
        for i in range(5):
            state, outcome, last = step(jax.random.fold_in(key, i), state, actions)
        results.append((state, outcome, last))
    for new_style, old_style in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(new_style, old_style)
    state, outcome, last = results[0]
    assert outcome.truncated and not outcome.terminated and last.step == 5 and state.step == 0
    start, end = init(jax.random.key(0)), step(jax.random.key(0), state, actions)[0]
    for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(end), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype) and not a.weak_type and not b.weak_type
    assert all(leaf.shape == (env.num_agents,) and leaf.dtype == jnp.float32 for leaf in outcome.info.values())
    assert env.observation_space().contains(env.observe(state)[0])
    assert outcome.reward.dtype == jnp.float32 and not outcome.reward.weak_type


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_agents": 4, "agents_with_same_goal": 5}, "agents_with_same_goal is 5; allowed: 1 to num_agents"),
        ({"agents_with_same_goal": 4, "collisions": True}, "collisions is True"),
        ({"split_goals": True}, "split_goals is True"),
        ({"lidar_range": 0.0}, "lidar_range is 0.0"),
        ({"n_lidar_rays": 0}, "n_lidar_rays is 0"),
        ({"num_agents": 40}, "num_agents is 40"),
        ({"discrete_actions": 4}, "discrete_actions is 4; allowed: 9, 5"),
        ({"world_spawning_y": -1.0}, "world_spawning_y is -1.0"),
    ],
)
def test_bad_navigation_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        Navigation(**settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"num_food": 0}, "num_food is 0"), ({"food_radius": 0.0}, "food_radius"), ({"pos_range": -1.0}, "pos_range")],
)
def test_bad_dispersion_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        Dispersion(**settings)


# --- Pictures ---


def test_render_shows_agents_where_they_are():
    env = Navigation(num_agents=2)
    state = NavigationState(
        **envs_jax.base.start_clock(),
        position=jnp.array([[0.6, 0.6], [-0.6, -0.6]]),
        velocity=jnp.zeros((2, 2)),
        goal=jnp.array([[-0.6, 0.6], [0.6, -0.6]]),
    )
    picture = env.render(state)
    assert picture.dtype == np.uint8 and picture.shape == (288, 288, 3)
    near, far = 144 - 72, 144 + 72  # 0.6 of 1.2 world units in 144 pixels; y grows upwards
    assert np.abs(picture[near, far] / 255 - to_rgb(agent_color(0))).max() < 0.01
    assert np.abs(picture[far, near] / 255 - to_rgb(agent_color(1))).max() < 0.01
    away = env.render(state.replace(position=jnp.array([[3.0, 0.0], [0.0, 0.0]])))  # the view widens
    assert (np.abs(away / 255 - to_rgb(agent_color(0))).max(axis=-1) < 0.01).any()


def test_render_of_eaten_food_differs():
    env = Dispersion()
    state = env.init(jax.random.key(0))
    assert env.render(state).shape == (288, 288, 3)
    assert (env.render(state) != env.render(state.replace(eaten=jnp.ones(4, bool)))).any()


def test_canvas_covers_the_right_area_and_smooths_edges():
    canvas = Canvas((0, 2, 0, 1), width=200, background="#ffffff")
    canvas.disc((0.5, 0.5), 0.3, "#000000")
    canvas.rect((1.2, 0.2), (1.8, 0.8), "#000000")
    picture = canvas.image()
    assert picture.shape == (100, 200, 3)
    ink = 1 - picture[..., 0] / 255
    assert ink[:, :100].sum() / 100**2 == pytest.approx(np.pi * 0.3**2, rel=0.01)
    assert ink[:, 100:].sum() / 100**2 == pytest.approx(0.36, rel=0.01)
    assert ((ink > 0.1) & (ink < 0.9)).any()
    ring = Canvas((0, 1, 0, 1), width=100, background="#ffffff")
    ring.ring((0.5, 0.5), 0.3, 0.1, "#000000")
    ring.line((-1.0, 0.05), (2.0, 0.05), 0.04, "#000000")  # over both edges
    ring.disc((9.0, 9.0), 0.1, "#000000")  # outside
    ink = 1 - ring.image()[..., 0] / 255
    assert ink.sum() / 100**2 == pytest.approx(2 * np.pi * 0.3 * 0.1 + 0.04, rel=0.01)
    assert ink[-5, 0] > 0.9  # y grows upwards: 0.05 is near the bottom row
    down = Canvas((0, 1, 1, 0), width=10)
    down.rect((0, 0), (1, 0.2), "#000000")
    assert down.image()[0, 0, 0] == 0  # unless the bounds say otherwise


def test_agent_colors_differ():
    colors = [to_rgb(agent_color(i)) for i in range(24)]
    gaps = [np.abs(a - b).max() for i, a in enumerate(colors) for b in colors[:i]]
    assert min(gaps) > 0.04
    with pytest.raises(ValueError, match="color is 'blue'"):
        to_rgb("blue")

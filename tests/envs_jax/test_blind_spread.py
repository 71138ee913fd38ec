"""Blind particle spread: parity with its authors' trajectories, its motion beside JaxMARL's, and the rules by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax.base import start_clock
from envs_jax.drawing import agent_color, to_rgb
from envs_jax.particles import BPS_GROUPS
from envs_jax.particles.blind_spread import BlindParticleSpread, BlindSpreadState
from envs_jax.spaces import Discrete
from envs_jax.testing import check_env

FIXTURE = np.load(Path(__file__).parents[1] / "parity" / "blind_spread_trajectories.npz")
CASES = sorted({name.split("/")[0] for name in FIXTURE.files if "/" in name})


def state_of(env, position, landmark, velocity=None):
    position = jnp.asarray(position, jnp.float32)
    return BlindSpreadState(
        **start_clock(),
        position=position,
        velocity=jnp.zeros_like(position) if velocity is None else jnp.asarray(velocity, jnp.float32),
        landmark=jnp.asarray(landmark, jnp.float32),
    )


def rollout(env, start, actions):
    """States, outcomes and observations after each of the actions [T, N]."""

    def step(state, action):
        state, outcome = env.advance(jax.random.key(0), state, action)
        return state, (state, outcome, env.observe(state))

    return jax.jit(lambda start: jax.lax.scan(step, start, jnp.asarray(actions, jnp.int32))[1])(start)


@pytest.mark.parametrize("name", CASES)
def test_trajectories_are_those_of_the_authors(name):
    theirs = {key: FIXTURE[f"{name}/{key}"] for key in ("actions", "landmark", "position", "velocity", "obs", "reward")}
    env = BlindParticleSpread(
        groups=tuple(int(size) for size in FIXTURE[f"{name}/groups"]), shuffle_obs=bool(FIXTURE[f"{name}/shuffle_obs"])
    )
    start = state_of(env, theirs["position"][0], theirs["landmark"])
    states, outcomes, obs = rollout(env, start, theirs["actions"])
    np.testing.assert_allclose(states.position, theirs["position"][1:], rtol=0, atol=2e-5)
    np.testing.assert_allclose(states.velocity, theirs["velocity"][1:], rtol=0, atol=2e-6)
    np.testing.assert_allclose(outcomes.reward, theirs["reward"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(outcomes.info["distance"], -2 * theirs["reward"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(env.observe(start), theirs["obs"][0], rtol=0, atol=1e-6)
    every = int(FIXTURE["obs_every"])
    np.testing.assert_allclose(obs[every - 1 :: every], theirs["obs"][1:], rtol=0, atol=2e-5)
    assert len(theirs["actions"]) == 50 and set(np.unique(theirs["actions"])) == {0, 1, 2, 3, 4}
    assert outcomes.truncated.tolist() == [False] * 49 + [True] and not outcomes.terminated.any()


def test_groups_are_those_of_the_authors_versions():
    for name, bps in (("v1", "bps-1"), ("v3", "bps-3"), ("v4", "bps-4")):
        assert FIXTURE[f"{name}/groups"].tolist() == list(BPS_GROUPS[bps])
    agents = {name: envs_jax.make(name).num_agents for name in BPS_GROUPS}
    assert agents == {"bps-1": 15, "bps-2": 30, "bps-3": 30, "bps-4": 30}
    assert envs_jax.make("blind_particle_spread") == envs_jax.make("bps-1")
    env = BlindParticleSpread(groups=(1, 3))
    assert env.group.tolist() == [0, 1, 1, 1] and env.num_agents == 4 and env.max_steps == 50
    assert env.observation_space().shape == (8,) and env.action_space() == Discrete(5)


def test_jaxmarl_moves_one_step_later():
    """Its MPE has the same velocities, and positions that follow the velocity from before the push."""
    simple = pytest.importorskip("jaxmarl.environments.mpe.simple")
    agents, landmarks = 3, 2
    entities = agents + landmarks
    theirs = simple.SimpleMPE(
        num_agents=agents,
        num_landmarks=landmarks,
        rad=jnp.full(entities, 0.15),
        collide=jnp.zeros(entities, bool),
        silent=jnp.ones(agents, jnp.int32),
    )
    ours = BlindParticleSpread(groups=(1, 2))
    state = ours.init(jax.random.key(3))
    actions = np.random.default_rng(0).integers(0, 5, (12, agents))
    _, world = theirs.reset(jax.random.key(0))
    world = world.replace(
        p_pos=jnp.concatenate([state.position, state.landmark]), p_vel=jnp.zeros((entities, 2), jnp.float32)
    )
    states, _, _ = rollout(ours, state, actions)
    step = jax.jit(theirs.step_env)
    before = state.position
    for t, action in enumerate(actions):
        world = step(jax.random.key(0), world, {a: jnp.int32(u) for a, u in zip(theirs.agents, action, strict=True)})[1]
        np.testing.assert_allclose(world.p_vel[:agents], states.velocity[t], rtol=0, atol=1e-6)
        np.testing.assert_allclose(world.p_pos[:agents], before, rtol=0, atol=2e-6)
        before = states.position[t]


def test_agents_cannot_tell_their_colour_and_do_not_touch():
    """Two agents of different groups at one place see the same and stay together, but are paid for different places."""
    env = BlindParticleSpread(groups=(1, 2))
    state = state_of(env, [[0.5, 0.5], [0.5, 0.5], [0.52, 0.5]], [[0.5, 1.5], [3.5, 0.5]])
    np.testing.assert_allclose(env.observe(state)[0], [0, 0, 0.5, 0.5, 0, 1, 3, 0])
    np.testing.assert_array_equal(env.observe(state)[0], env.observe(state)[1])
    state, outcome = jax.jit(env.advance)(jax.random.key(0), state, jnp.array([0, 0, 2]))
    np.testing.assert_allclose(outcome.reward, [-0.5, -1.5, -0.5 * 2.93], rtol=1e-6)
    np.testing.assert_allclose(state.position, [[0.5, 0.5], [0.5, 0.5], [0.57, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(state.velocity, [[0, 0], [0, 0], [0.5, 0]], rtol=1e-6)


def test_starts_cover_their_areas():
    env = BlindParticleSpread(groups=(4, 4))
    state = jax.jit(jax.vmap(env.init))(jax.random.split(jax.random.key(0), 500))
    assert not state.velocity.any()
    for places, reach in ((state.position, 1), (state.landmark, 3)):
        assert 0.99 * reach < np.abs(places).max() <= reach and abs(float(places.mean())) < 0.05 * reach


def drive(env, state):
    """An action per agent that knows its colour: push along the axis on which it would coast to rest further off."""
    off = state.landmark[env.group] - state.position - 0.3 * state.velocity
    axis = jnp.argmax(jnp.abs(off), axis=-1)
    ahead = jnp.take_along_axis(off, axis[:, None], axis=1)[:, 0]
    return jnp.where(jnp.abs(ahead) < 0.05, 0, 1 + 2 * axis + (ahead > 0)).astype(jnp.int32)


@pytest.mark.parametrize(("name", "paper"), [("bps-1", -216.8), ("bps-4", -410.8)])
def test_scripted_play_reaches_the_papers_returns(name, paper):
    """The return of all agents of one that knows its colour is about what the paper's separate networks reach (table 8,
    NoPS), so the unit of the reward is theirs."""
    env = envs_jax.make(name)

    def play(key):
        def step(state, key_step):
            state, outcome = env.advance(key_step, state, drive(env, state))
            return state, jnp.sum(outcome.reward)

        return jnp.sum(jax.lax.scan(step, env.init(key), jax.random.split(key, 50))[1])

    returns = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 200))
    assert float(returns.mean()) == pytest.approx(paper, rel=0.08)


def test_the_contract_is_kept_with_uneven_groups_and_shuffled_observations():
    check_env(BlindParticleSpread(groups=(1, 3), shuffle_obs=True))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"groups": ()}, r"groups is \(\); allowed: integers of at least 1"),
        ({"groups": (3, 0)}, r"groups is \(3, 0\); allowed: integers of at least 1"),
        ({"num_agents": 7}, "num_agents is 7; allowed: 15, the sum of groups, or 0"),
        ({"max_steps": 0}, "max_steps is 0; allowed"),
        ({"discrete_actions": 4}, "discrete_actions is 4; allowed: 9, 5"),
    ],
)
def test_bad_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        BlindParticleSpread(**settings)


def test_render_shows_groups_in_their_colours_also_when_agents_leave():
    env = BlindParticleSpread(groups=(1, 2))
    near = env.render(state_of(env, [[-2.0, 2.0], [2.0, 2.0], [2.0, -2.0]], [[0.0, 0.0], [1.0, 0.0]]))
    assert near.dtype == np.uint8 and near.shape[0] == near.shape[1]

    def pixel(x, y):
        size, edge = near.shape[0], 3.3
        return near[int((edge - y) / (2 * edge) * size), int((x + edge) / (2 * edge) * size)] / 255

    for (x, y), number in (((-2.0, 2.0), 0), ((2.0, 2.0), 1), ((2.0, -2.0), 1)):
        np.testing.assert_allclose(pixel(x, y), to_rgb(agent_color(number)), atol=0.02)
    far = env.render(state_of(env, [[9.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]))
    blue = np.abs(far / 255 - to_rgb(agent_color(0))).max(-1) < 0.02
    assert blue[:, far.shape[1] * 3 // 4 :].any()

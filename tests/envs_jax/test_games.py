"""Specialisation and Synchronisation: payoffs, observations, episodes, reference values, pictures."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax.games.matching import BLUE, GREEN, ORANGE, Specialisation, Synchronisation

KEY = jax.random.key(0)
GAMES = [Specialisation, Synchronisation]


def rule(game, actions):
    """The payoffs as the paper words them, in plain Python."""
    n = len(actions)
    same = [sum(other == mine for other in actions) for mine in actions]
    if game is Specialisation:
        return [1.0 if c == 1 else 1 / c for c in same]
    return [1.0 if c == n else 1 / (n - c + 1) for c in same]


@pytest.mark.parametrize(("game", "same", "different"), [(Specialisation, 0.5, 1.0), (Synchronisation, 1.0, 0.5)])
def test_two_player_matrix(game, same, different):
    env = game()
    for a, b in itertools.product(range(2), repeat=2):
        reward = env.reward(jnp.array([a, b]))
        np.testing.assert_array_equal(reward, [same if a == b else different] * 2)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize(("n", "k"), [(3, 3), (4, 4), (5, 2), (3, 5)])
def test_rewards_and_random_reward_over_all_joint_actions(game, n, k):
    env = game(num_agents=n, num_actions=k)
    joint = np.array(list(itertools.product(range(k), repeat=n)), np.int32)
    rewards = jax.jit(jax.vmap(env.reward))(joint)
    np.testing.assert_allclose(rewards, [rule(game, list(row)) for row in joint], rtol=1e-6)
    assert rewards.dtype == jnp.float32
    assert game.random_reward(n, k) == pytest.approx(float(np.mean(rewards)), rel=1e-5)


def test_reference_values():
    got = [[round(game.random_reward(n), 3) for n in (2, 4, 8, 16)] for game in GAMES]
    assert got == [[0.75, 0.684, 0.656, 0.644], [0.75, 0.332, 0.143, 0.067]]
    for game, n in itertools.product(GAMES, (2, 4, 8, 16)):
        collapsed = game(num_agents=n).reward(jnp.zeros(n, jnp.int32))
        np.testing.assert_allclose(collapsed, game.greedy_collapse_reward(n), rtol=1e-6)


@pytest.mark.parametrize("game", GAMES)
def test_temporal_observation_is_the_last_joint_action(game):
    env = game(num_agents=3, num_actions=4)
    state = env.init(KEY)
    np.testing.assert_array_equal(env.observe(state), -np.ones((3, 12), np.float32))
    state, outcome = env.advance(KEY, state, jnp.array([2, 0, 3]))
    expected = np.eye(4, dtype=np.float32)[[2, 0, 3]].reshape(-1)
    np.testing.assert_array_equal(env.observe(state), np.stack([expected] * 3))
    np.testing.assert_array_equal(env.global_state(state), expected)
    assert not outcome.done


def test_temporal_episode_is_truncated_at_the_horizon_and_starts_over():
    env = Specialisation(num_agents=2, max_steps=3)
    state = env.init(KEY)
    for step in range(3):
        state, outcome, last = env.advance_and_reset(KEY, state, jnp.array([0, 1]))
        assert bool(outcome.truncated) == (step == 2) and not outcome.terminated
    np.testing.assert_array_equal(state.last_actions, [-1, -1])
    np.testing.assert_array_equal(last.last_actions, [0, 1])


@pytest.mark.parametrize("game", GAMES)
def test_normal_form_has_no_memory_and_terminates_at_once(game):
    env = game(num_agents=3, temporal=False)
    state = env.init(KEY)
    np.testing.assert_array_equal(env.observe(state), np.zeros((3, 1)))
    state, outcome = env.advance(KEY, state, jnp.array([0, 1, 1]))
    np.testing.assert_array_equal(env.observe(state), np.zeros((3, 1)))
    assert outcome.terminated and not outcome.truncated


def test_converged():
    for game, good, bad in ((Specialisation, [2, 0, 1], [2, 0, 2]), (Synchronisation, [1, 1, 1], [1, 1, 0])):
        env = game(num_agents=3)
        for actions, expected in ((good, 1.0), (bad, 0.0)):
            _, outcome = env.advance(KEY, env.init(KEY), jnp.array(actions))
            np.testing.assert_array_equal(outcome.info["converged"], np.full(3, expected, np.float32))


def test_sixty_four_agents_play_optimally():
    spec, sync = Specialisation(num_agents=64), Synchronisation(num_agents=64)
    np.testing.assert_array_equal(spec.reward(jnp.arange(64)), np.ones(64))
    np.testing.assert_array_equal(sync.reward(jnp.full(64, 7)), np.ones(64))
    assert spec.observation_space().shape == (4096,)


def test_render_tells_choices_apart():
    def has(picture, colour):
        return bool((picture == np.array(colour, np.uint8)).all(-1).any())

    env = Specialisation(num_agents=3)
    start, _ = env.init(KEY), None
    mixed, _ = env.advance(KEY, start, jnp.array([0, 2, 2]))
    distinct, _ = env.advance(KEY, start, jnp.array([0, 1, 2]))
    pictures = [env.render(state) for state in (start, mixed, distinct)]
    assert [has(p, BLUE) for p in pictures] == [False, True, True]
    assert [has(p, ORANGE) for p in pictures] == [False, True, False]
    assert [has(p, GREEN) for p in pictures] == [False, False, True]
    assert all(p.dtype == np.uint8 and p.ndim == 3 and p.shape[2] == 3 for p in pictures)


@pytest.mark.parametrize(("field", "value"), [("num_agents", 1), ("num_actions", 1), ("max_steps", 0)])
def test_wrong_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"{field} is {value}; allowed"):
        envs_jax.make("specialisation", **{field: value})

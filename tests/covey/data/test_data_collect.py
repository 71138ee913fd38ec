"""Collection in an environment that tells in its observations what should be in the dataset; and joint-action laws."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from covey.data import (
    Gaussian,
    Mixture,
    PointMass,
    Uniform,
    check,
    collect,
    joint_action_samples,
    rollout,
    statistics,
    window_starts,
)
from covey.data.collect import _compiled
from envs_jax.base import MultiAgentEnv, Outcome, State, flat_box, pytree, start_clock
from envs_jax.games.polynomial import Multiplication, payoff


@pytree
class WalkState(State):
    episode: jax.Array  # float32[], a random name
    end: jax.Array  # int32[], the step that terminates
    position: jax.Array  # float32[2]


@dataclass(frozen=True)
class Walk(MultiAgentEnv):
    """Agents of unequal sizes add up their actions. Episodes terminate at step 2, 3 or 9, and are cut at 4."""

    num_agents: int = 2
    max_steps: int | None = 4

    def init(self, key):
        key_name, key_end = jax.random.split(key)
        end = jax.random.choice(key_end, jnp.array([2, 3, 9]))
        return WalkState(**start_clock(), episode=jax.random.uniform(key_name), end=end, position=jnp.zeros(2))

    def transition(self, key, state, actions):
        state = state.replace(position=state.position + actions.sum(axis=1))
        return state, Outcome(state.position, state.step + 1 == state.end, jnp.asarray(False), {})

    def observe(self, state):
        return jnp.array([[state.step, *state.position], [state.step, state.position[1], 0]], jnp.float32)

    def global_state(self, state):
        return jnp.stack([state.episode, state.step.astype(jnp.float32)])

    def observation_space(self, agent=None):
        return flat_box(2 if agent == "agent_1" else 3)

    def action_space(self, agent=None):
        return flat_box(1, -0.5, 0.5) if agent == "agent_1" else flat_box(2, -1.0, 1.0)


def counting(params, key, obs, count):
    """Acts on how often it was asked since the episode began; out of bounds and into the padding, too."""
    return params * jnp.array([[count, 5.0], [count, 7.0]]), count + 1.0


def gather(num_steps=50, **options):
    return collect(Walk(), counting, jax.random.key(0), 3, num_steps, params=0.25, memory=0.0, **options)


def test_episodes_are_whole_through_resets_terminations_and_truncations():
    data = gather()
    check(data)
    assert data.num_transitions == 150 and data.action_mask.tolist() == [[True, True], [True, False]]
    assert data.obs_mask.tolist() == [[True] * 3, [True, True, False]]
    names, kinds = set(), set()
    for start, length in zip(data.start, data.length, strict=True):
        rows = slice(start, start + length + 1)
        state, obs, steps = data.state[rows], data.obs[rows], np.arange(length + 1, dtype=np.float32)
        np.testing.assert_array_equal(state[:, 1], steps)  # from the start to after the last step
        np.testing.assert_array_equal(obs[..., 0], np.stack([steps, steps], axis=1))
        assert (state[:, 0] == state[0, 0]).all()  # one episode, and the final row is not the next one's
        action = data.action[rows][:-1]  # as played
        np.testing.assert_array_equal(action[:, 0, 0], np.minimum(0.25 * steps[:-1], 1))  # memory starts anew
        np.testing.assert_array_equal(action[:, 1, 0], np.minimum(0.25 * steps[:-1], 0.5))
        np.testing.assert_array_equal(action[:, :, 1], np.tile([1.0, 0.0], (length, 1)))
        position = np.cumsum(action.sum(axis=2), axis=0)
        np.testing.assert_allclose(obs[1:, 0, 1:], position, rtol=1e-6)
        np.testing.assert_allclose(data.reward[rows][:-1], position, rtol=1e-6)
        ended = "terminated" if data.terminated[rows].any() else "truncated"
        names.add(float(state[0, 0]))
        kinds.add((ended, int(length)))
    assert len(names) == data.num_episodes
    assert {("terminated", 2), ("terminated", 3), ("truncated", 4)} <= kinds
    assert kinds - {("terminated", 2), ("terminated", 3), ("truncated", 4)} <= {("truncated", n) for n in (1, 2, 3)}
    assert sum(kind == "truncated" and n < 4 for kind, n in kinds) > 0  # under way at the end
    assert data.provenance["env"] == "Walk" and data.provenance["num_envs"] == 3


def test_unfinished_episodes_can_be_left_out():
    whole, all_ = gather(keep_unfinished=False), gather()
    assert 1 <= all_.num_episodes - whole.num_episodes <= 3
    assert not (np.asarray(whole.truncated[whole.start + whole.length - 1]) & (whole.length < 4)).any()
    with pytest.raises(ValueError, match="num_steps is 1; allowed without unfinished"):
        gather(num_steps=1, keep_unfinished=False)


def test_same_policy_compiles_once_and_keys_decide():
    before = _compiled._cache_size()
    assert gather().state.tobytes() == gather().state.tobytes()
    assert _compiled._cache_size() <= before + 1
    other = collect(Walk(), counting, jax.random.key(1), 3, 50, params=0.25, memory=0.0)
    assert other.length.tolist() != gather().length.tolist()


def test_rollout_is_pure_and_maps():
    """Inside a program, over seeds and parameters."""
    keys, params = jax.random.split(jax.random.key(0)), jnp.array([0.0, 0.25])
    run = jax.jit(jax.vmap(lambda key, p: rollout(Walk(), counting, p, key, 2, 4, 0.0)))
    played = run(keys, params)
    assert played.obs.shape == (2, 4, 2, 2, 3) and not played.action[0].any() and played.action[1].any()


def test_discrete_actions_and_flattened_observations():
    env = envs_jax.make("specialisation", num_agents=2, max_steps=3)
    data = collect(env, lambda p, key, obs, m: (jax.random.randint(key, (2,), 0, 2), m), jax.random.key(0), 2, 6)
    assert data.length.tolist() == [3] * 4 and data.action.shape == (16, 2, 1)
    assert set(np.unique(data.action)) <= {0.0, 1.0}


def test_polynomial_game_collected_equals_the_game():
    env = Multiplication(num_agents=3)
    policy = lambda p, key, obs, m: (jax.random.uniform(key, (3, 1), minval=-1.5, maxval=1.5), m)  # noqa: E731
    data = collect(env, policy, jax.random.key(0), 4, 8)
    assert data.length.tolist() == [1] * 32 and np.asarray(data.terminated).sum() == 32
    step = np.asarray(data.mask)
    assert np.abs(data.action).max() <= 1
    expected = np.prod(data.action[step, :, 0].astype(np.float64), axis=1)
    np.testing.assert_allclose(data.reward[step], np.repeat(expected[:, None], 3, axis=1), rtol=1e-5)


def test_bad_collection():
    with pytest.raises(ValueError, match="num_envs is 0"):
        collect(Walk(), counting, jax.random.key(0), 0, 5)
    with pytest.raises(ValueError, match="num_steps is 0"):
        collect(Walk(), counting, jax.random.key(0), 1, 0)


# --- Joint-action laws ---

MANY = 20_000


def moments(law):
    draws = np.asarray(law.sample(jax.random.key(0), MANY), np.float64)
    assert draws.shape == (MANY, law.num_agents)
    return draws, draws.mean(axis=0), draws.std(axis=0)


def test_laws_have_their_moments():
    draws, mean, std = moments(Uniform(3, -0.5, 1.0))
    assert draws.min() >= -0.5 and draws.max() <= 1.0
    np.testing.assert_allclose(mean, 0.25, atol=0.02)
    np.testing.assert_allclose(std, 1.5 / np.sqrt(12), atol=0.01)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.03

    _, mean, std = moments(Gaussian((0.6, -0.2), (0.05, 0.1)))
    np.testing.assert_allclose(mean, [0.6, -0.2], atol=0.004)
    np.testing.assert_allclose(std, [0.05, 0.1], rtol=0.03)

    draws, mean, std = moments(Gaussian((0.6, 0.6), 1.0))  # cut off by the box: moments of the conditioned law
    from scipy.stats import truncnorm

    exact = truncnorm(-1.6, 0.4, loc=0.6)
    assert draws.min() >= -1 and draws.max() <= 1 and (np.abs(draws) == 1).mean() < 1e-3
    np.testing.assert_allclose(mean, exact.mean(), atol=0.015)
    np.testing.assert_allclose(std, exact.std(), atol=0.015)
    assert moments(Gaussian((0.0,), 2.0, -np.inf, np.inf))[2] == pytest.approx(2.0, rel=0.03)

    assert (moments(PointMass((0.61, -0.3)))[0] == np.float32([0.61, -0.3])).all()


def test_mixture_draws_each_law_by_weight_and_jointly():
    law = Mixture((PointMass((1.0, 1.0)), PointMass((-1.0, -1.0))), (3.0, 1.0))
    draws, mean, _ = moments(law)
    assert (draws[:, 0] == draws[:, 1]).all()  # one law for the joint action, not one per agent
    np.testing.assert_allclose(mean, 0.5, atol=0.02)
    spread = Mixture((Gaussian((0.5, 0.0), 0.01), Uniform(2)))
    same = np.asarray(jax.jit(spread.sample, static_argnums=1)(jax.random.key(3), 10))
    np.testing.assert_array_equal(same, spread.sample(jax.random.key(3), 10))


def test_joint_action_samples():
    game = Multiplication()
    law = Gaussian((0.3, -0.4), 0.05)
    data = joint_action_samples(law, partial(payoff, game), jax.random.key(0), 500, provenance={"game": game.name})
    check(data)
    step = np.asarray(data.mask)
    assert (data.num_rows, data.num_episodes, data.action_size) == (1000, 500, 1)
    assert data.terminated[step].all() and not data.obs.any() and window_starts(data, 1).size == 500
    product = data.action[step, :, 0].astype(np.float64).prod(axis=1)
    np.testing.assert_allclose(data.reward[step], np.stack([product, product], axis=1), atol=1e-6)
    np.testing.assert_array_equal(data.action[step, :, 0], law.sample(jax.random.key(0), 500))
    assert data.provenance["law"]["type"] == "Gaussian" and data.provenance["game"] == "Multiplication"
    found = statistics(data)
    assert found.obs.constant.all() and not found.action.constant.any() and not found.action.discrete.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(2, 1.0, 1.0), "low is 1.0; allowed: a number below high"),
        (lambda: Uniform(0), "num_agents is 0"),
        (lambda: Gaussian((0.0, 0.0), (1.0,)), r"std is \(1.0,\)"),
        (lambda: Gaussian((0.0,), 0.0), "std is 0.0"),
        (lambda: Gaussian((np.nan,), 1.0), "mean is"),
        (lambda: PointMass(()), "at is"),
        (lambda: Mixture((PointMass((1.0,)), Uniform(2))), "laws is"),
        (lambda: Mixture((Uniform(2),), (0.0,)), "weights is"),
        (lambda: joint_action_samples(Uniform(2), lambda a: a, jax.random.key(0), 0), "count is 0"),
        (
            lambda: joint_action_samples(Uniform(2), lambda a: a[:, 0], jax.random.key(0), 3),
            r"payoff gives shape \(3,\)",
        ),
    ],
)
def test_bad_laws(make, message):
    with pytest.raises(ValueError, match=message):
        make()

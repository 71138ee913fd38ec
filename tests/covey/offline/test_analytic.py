"""The learner with a known payoff, against closed forms of polynomial games and NumPy."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.learners.offline import AnalyticMADDPG, OfflineHyperparameters, Team
from envs_jax.games import polynomial
from envs_jax.games.polynomial import Multiplication, PolynomialGame, TwinPeaks

RNG = np.random.default_rng(0)


def learner(game, *start_at):
    return AnalyticMADDPG(Team.of(game), lambda actions: polynomial.payoff(game, actions[..., 0]), start_at)


def gradient(game, theta, data):
    """BRUD's gradients [N] at theta [N], the others acting as in data [B, N]."""
    return learner(game).gradient(theta[:, None], data[..., None])[:, 0]


def ascend(game, initial, batches, hp=None):
    """Joint action after a step on each of batches(key, theta) [B, N]."""
    base = learner(game, *initial)

    def step(carry, key):
        actions = batches(key, carry.params["actor"][:, 0])
        carry, metrics = base.learn(carry, SimpleNamespace(action=actions[:, None, :, None]))
        return carry, metrics["theta"]

    def run():
        carry = base.init(jax.random.key(0), hp or OfflineHyperparameters())
        return jax.lax.scan(step, carry, jax.random.split(jax.random.key(1), 2000))[1]

    return np.asarray(jax.jit(run)())


def test_gradient_on_multiplication_is_the_mean_of_the_others():
    data = RNG.uniform(-1, 1, (1000, 2)).astype(np.float32) + 0.1
    got = gradient(Multiplication(), jnp.array([0.3, -0.9]), jnp.asarray(data))
    assert np.allclose(got, data.mean(axis=0)[::-1], atol=1e-6)


@pytest.mark.parametrize(
    "game",
    [
        TwinPeaks(a=0.5, b=2.0, c=3.0),
        Multiplication(num_agents=3),
        PolynomialGame(exponents=((1, 2), (3, 1)), coefficients=((1.0, -2.0), (0.5, 3.0))),  # general-sum
    ],
)
def test_gradient_is_the_games_closed_form(game):
    n = game.num_agents
    data, theta = (jnp.asarray(RNG.uniform(-1, 1, shape), jnp.float32) for shape in ((200, n), (n,)))
    got = gradient(game, theta, data)
    assert np.allclose(got, polynomial.expected_gradient(game, theta, data), atol=1e-5)


@pytest.mark.parametrize("a,b,c", [(1.0, 4.0, 5.0), (0.5, 2.0, 3.0)])
def test_data_alone_end_where_theory_says(a, b, c):
    """Twin Peaks: C m / (2 A + 2 B (m^2 + s^2)) within 1 %, from minibatches of 64."""
    data = jnp.asarray(np.clip(RNG.normal([0.4, 0.2], 0.3, (4000, 2)), -1, 1), jnp.float32)
    path = ascend(TwinPeaks(a=a, b=b, c=c), (-0.64, 0.65), lambda k, _: data[jax.random.randint(k, (64,), 0, 4000)])
    d = np.asarray(data, np.float64)[:, ::-1]
    exact = c * d.mean(axis=0) / (2 * a + 2 * b * np.square(d).mean(axis=0))
    assert np.allclose(path[500:].mean(axis=0), exact, rtol=0.01)


@pytest.mark.parametrize("spread", [0.0, 0.2, 0.4])
def test_on_policy_samples_end_at_the_root_of_three_eighths_less_their_variance(spread):
    noisy = lambda key, theta: theta + spread * jax.random.normal(key, (256, 2))  # noqa: E731
    path = ascend(TwinPeaks(), (-0.64, 0.65), noisy)
    assert np.allclose(np.abs(path[1000:].mean(axis=0)), np.sqrt(3 / 8 - spread**2), rtol=0.01)


def test_on_policy_samples_solve_multiplication_and_stop_at_the_bounds():
    path = ascend(Multiplication(), (-0.64, 0.65), lambda key, theta: jnp.broadcast_to(theta, (4, 2)))
    assert np.array_equal(path[-1], [1.0, 1.0]) and np.abs(path).max() == 1.0
    step = np.diff(path[:20].astype(np.float64), axis=0)
    assert np.allclose(step[3], 0.1 * path[3][::-1], atol=1e-6), "plain gradient ascent"


def test_each_agent_clips_its_own_gradient():
    game = PolynomialGame(exponents=((1, 0), (0, 1)), coefficients=((5.0, 0.0), (0.0, 0.5)))
    path = ascend(
        game, (0.0, 0.0), lambda k, t: jnp.zeros((2, 2)), OfflineHyperparameters(ascent_rate=0.01, ascent_clip=1.0)
    )
    assert np.allclose(path[0], [0.01, 0.005], atol=1e-7)


def test_random_starts_lie_within_the_bounds_and_differ_between_seeds():
    game = PolynomialGame(low=(-3.0, 2.0), high=(-2.0, 4.0))
    starts = jax.vmap(lambda k: learner(game).init(k, OfflineHyperparameters()).params["actor"][:, 0])(
        jax.random.split(jax.random.key(0), 50)
    )
    assert (
        (starts >= np.array([-3, 2])).all()
        and (starts <= np.array([-2, 4])).all()
        and np.ptp(starts, axis=0).min() > 0.5
    )


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"start_at is \(0.5,\); allowed: a number for each of 2 agents"):
        learner(Multiplication(), 0.5)
    with pytest.raises(ValueError, match=r"start_at is \(0.5, 1.5\); allowed: \[\[-1.0\], \[-1.0\]\] to"):
        learner(Multiplication(), 0.5, 1.5)
    with pytest.raises(ValueError, match="ascent_rate is 0.0"):
        OfflineHyperparameters(ascent_rate=0.0)

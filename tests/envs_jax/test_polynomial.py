"""Polynomial games against float64 NumPy, finite differences, SciPy's optimisers and the paper's closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import envs_jax
from envs_jax.games.polynomial import (
    ActionAgreement,
    Multiplication,
    PolynomialGame,
    TwinPeaks,
    best_response,
    expected_best_response,
    expected_gradient,
    gradient_field,
    heat_map,
    maximise_polynomial,
    optimum,
    payoff,
)

KEY = jax.random.key(0)

# Three players, general sum, degree up to 4 in a player's own action, unequal boxes, a constant and a lone monomial.
THREE = PolynomialGame(
    num_agents=3,
    exponents=((0, 0, 0), (1, 1, 1), (4, 0, 1), (2, 1, 0), (0, 3, 2), (1, 0, 4), (0, 2, 0), (3, 0, 0)),
    coefficients=(
        (0.5, 2.0, -1.5, 0.7, 0.3, -0.2, 1.0, 0.9),
        (-1.0, 1.0, 0.4, -2.0, 1.6, 0.8, -0.9, 0.0),
        (0.0, -1.2, 0.6, 0.3, -1.1, -0.7, 0.2, 0.5),
    ),
    low=(-1.0, -2.0, -0.5),
    high=(1.0, 0.5, 1.5),
)
NAMED = [Multiplication(), TwinPeaks(), ActionAgreement()]
GAMES = [*NAMED, Multiplication(num_agents=3), ActionAgreement(num_agents=4), THREE]


def reference(game, actions):
    """Payoffs in float64, straight from the definition."""
    rows = np.broadcast_to(np.asarray(game.coefficients, float), (game.num_agents, len(game.exponents)))
    total = np.zeros(game.num_agents)
    for k, powers in enumerate(game.exponents):
        total += rows[:, k] * np.prod([float(a) ** e for a, e in zip(actions, powers, strict=True)])
    return total


def draw(game, count, seed=0):
    low, high = game.bounds()
    return np.random.default_rng(seed).uniform(low, high, (count, game.num_agents))


@pytest.mark.parametrize("game", GAMES, ids=lambda game: f"{type(game).__name__}{game.num_agents}")
def test_payoff_and_gradients_against_float64(game):
    joint = draw(game, 20)
    joint[0, 0], joint[1] = 0.0, 0.0  # where a power rule that divides would fail
    expected = np.array([reference(game, a) for a in joint])
    np.testing.assert_allclose(payoff(game, jnp.asarray(joint)), expected, rtol=1e-5, atol=1e-5)

    step = 1e-5
    differences = np.zeros_like(joint)
    for i in range(game.num_agents):
        shift = np.eye(game.num_agents)[i] * step
        up, down = (np.array([reference(game, a + s)[i] for a in joint]) for s in (shift, -shift))
        differences[:, i] = (up - down) / (2 * step)
    one_by_one = jax.jit(jax.vmap(jax.jacobian(lambda a: payoff(game, a))))
    field, automatic = gradient_field(game, jnp.asarray(joint)), one_by_one(jnp.asarray(joint, jnp.float32))
    np.testing.assert_allclose(field, differences, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(field, jnp.diagonal(automatic, axis1=1, axis2=2), rtol=1e-4, atol=1e-5)
    assert field.dtype == jnp.float32


@pytest.mark.parametrize("game", GAMES, ids=lambda game: f"{type(game).__name__}{game.num_agents}")
def test_best_response_is_as_good_as_a_fine_grid(game):
    joint = draw(game, 12, seed=1)
    for i in range(game.num_agents):
        respond = jax.jit(jax.vmap(lambda a, i=i: best_response(game, a, i)))
        answers = np.asarray(respond(jnp.asarray(joint)), float)
        low, high = game.bounds()[0][i], game.bounds()[1][i]
        assert (answers >= low - 1e-6).all() and (answers <= high + 1e-6).all()
        for actions, answer in zip(joint, answers, strict=True):

            def value(x, actions=actions, i=i):
                return reference(game, [*actions[:i], x, *actions[i + 1 :]])[i]

            grid = np.linspace(low, high, 401)
            start = max(grid, key=value)
            width = grid[1] - grid[0]
            polished = optimize.minimize_scalar(
                lambda x: -value(x), bounds=(max(low, start - width), min(high, start + width)), method="bounded"
            )
            best = max(value(start), -polished.fun)
            assert value(answer) >= best - 1e-5


@pytest.mark.parametrize("degree", range(8))
def test_maximise_polynomial_against_numpy_roots(degree):
    rng = np.random.default_rng(degree)
    coefficients = rng.normal(size=(60, degree + 1))
    coefficients[::5, -1] = 0.0  # a leading zero lowers the degree
    bounds = np.sort(rng.uniform(-2, 2, (60, 2)), axis=1)
    found = jax.jit(jax.vmap(maximise_polynomial))(
        jnp.asarray(coefficients, jnp.float32), *jnp.asarray(bounds.T, jnp.float32)
    )
    for c, (low, high), x in zip(coefficients, bounds, np.asarray(found, float), strict=True):
        polynomial = np.polynomial.Polynomial(c)
        roots = polynomial.deriv().roots() if degree else np.array([])
        candidates = [low, high, *(r.real for r in roots if abs(r.imag) < 1e-9 and low < r.real < high)]
        best = max(polynomial(np.array(candidates)))
        assert polynomial(x) == pytest.approx(best, rel=1e-5, abs=1e-5)
        assert low - 1e-6 <= x <= high + 1e-6


def test_maximise_polynomial_finds_places_and_breaks_ties_downwards():
    # -(x - 0.3)^2 (x + 0.5)^2 has two maxima worth 0, with a minimum between them; the box decides which is in reach
    maximise = jax.jit(maximise_polynomial)
    quartic = -(np.polynomial.Polynomial([-0.3, 1]) ** 2) * np.polynomial.Polynomial([0.5, 1]) ** 2
    coefficients = jnp.asarray(quartic.coef, jnp.float32)
    assert float(maximise(coefficients, 0.0, 1.0)) == pytest.approx(0.3, abs=2e-3)
    assert float(maximise(coefficients, -1.0, 0.0)) == pytest.approx(-0.5, abs=2e-3)
    cubic = jnp.array([0.0, -3.0, 0.0, 1.0])  # x^3 - 3x: maximum at -1 inside [-1.5, 1.9], border at 3
    assert float(maximise(cubic, -1.5, 1.9)) == pytest.approx(-1.0, abs=1e-3)
    assert float(maximise(cubic, -1.5, 3.0)) == 3.0
    for degree in range(1, 6):
        assert float(maximise(jnp.zeros(degree + 1), -1.0, 2.0)) == -1.0


@pytest.mark.parametrize(
    "game", [*NAMED, TwinPeaks(a=0.5, b=1.0, c=2.0), TwinPeaks(a=1.0, b=0.5, c=9.0), Multiplication(num_agents=3)]
)
def test_optima_against_global_search(game):
    best = optimum(game)
    bounds = list(zip(*game.bounds(), strict=True))
    searched = optimize.differential_evolution(
        lambda a: -reference(game, a)[0], bounds, seed=0, popsize=10, maxiter=60, tol=1e-10
    )
    assert best.payoff == pytest.approx(-searched.fun, abs=1e-6)
    for actions in best.actions:
        assert reference(game, actions)[0] == pytest.approx(best.payoff, abs=1e-12)
        for i in range(game.num_agents):  # an optimum of a common payoff is an equilibrium
            response = np.array(actions)
            response[i] = best_response(game, jnp.asarray(actions), i)
            assert reference(game, response)[0] == pytest.approx(best.payoff, abs=1e-6)
    if best.connected:
        for weight in np.linspace(0, 1, 7):
            between = weight * best.actions[0] + (1 - weight) * best.actions[1]
            assert reference(game, between)[0] == pytest.approx(best.payoff)


def test_numbers_of_the_paper():
    best = optimum(TwinPeaks())
    assert best.payoff == pytest.approx(0.5625)
    np.testing.assert_allclose(np.abs(best.actions), np.sqrt(3 / 8))
    assert float(payoff(TwinPeaks(), jnp.array([1.0, -1.0]))[0]) == -11
    np.testing.assert_array_equal(gradient_field(TwinPeaks(), jnp.zeros(2)), [0, 0])
    assert float(payoff(TwinPeaks(), jnp.array([-0.5, 0.5]))[0]) == -2
    assert sorted(map(tuple, optimum(Multiplication()).actions)) == [(-1, -1), (1, 1)]
    with pytest.raises(ValueError, match="allowed: Multiplication"):
        optimum(THREE)


# --- What a learner sees of a dataset ---


def test_expected_gradient_is_the_mean_of_the_gradients_at_others_samples():
    samples, policies = draw(THREE, 50, seed=2), draw(THREE, 1, seed=3)[0]
    expected = np.zeros(3)
    for i in range(3):
        joint = samples.copy()
        joint[:, i] = policies[i]
        expected[i] = np.asarray(gradient_field(THREE, jnp.asarray(joint)), float)[:, i].mean()
    np.testing.assert_allclose(expected_gradient(THREE, policies, samples), expected, rtol=1e-4, atol=1e-5)
    # on a dataset of the policies themselves it is the on-policy field
    on_policy = np.tile(policies, (7, 1))
    np.testing.assert_allclose(
        expected_gradient(THREE, policies, on_policy), gradient_field(THREE, policies), rtol=1e-5, atol=1e-6
    )


def test_closed_forms_of_the_paper_under_a_dataset():
    rng = np.random.default_rng(4)
    data = rng.normal([0.2, -0.3], [0.3, 0.5], (400, 2))
    mean, square = data.mean(0), (data**2).mean(0)
    theta = np.array([-0.64, 0.65])
    np.testing.assert_allclose(expected_gradient(Multiplication(), theta, data), mean[::-1], rtol=1e-5)
    a, b, c = 1, 4, 5
    field = -2 * a * theta - 2 * b * theta * square[::-1] + c * mean[::-1]
    np.testing.assert_allclose(expected_gradient(TwinPeaks(), theta, data), field, rtol=1e-5)
    fixed = c * mean[::-1] / (2 * a + 2 * b * square[::-1])
    np.testing.assert_allclose(expected_best_response(TwinPeaks(), data), fixed, rtol=1e-5)
    np.testing.assert_allclose(expected_gradient(TwinPeaks(), fixed, data), 0, atol=1e-5)
    # the means' signs decide where multiplication drifts to
    np.testing.assert_array_equal(expected_best_response(Multiplication(), data), np.sign(mean[::-1]))
    # centred data: (0, 0), however wide they are
    for spread in (0.1, 1.0):
        centred = np.array([[spread, spread], [-spread, -spread], [spread, -spread], [-spread, spread]])
        np.testing.assert_allclose(expected_best_response(TwinPeaks(), centred), 0, atol=1e-7)


def test_ascent_on_data_stays_and_on_policy_reaches_the_optimum():
    data = draw(TwinPeaks(), 1000, seed=5)

    def ascend(field):
        start = jnp.array([-0.64, 0.65])
        return jax.lax.fori_loop(0, 300, lambda _, x: jnp.clip(x + 0.1 * field(x), -1, 1), start)

    stuck = jax.jit(lambda: ascend(lambda x: expected_gradient(TwinPeaks(), x, data)))()
    free = jax.jit(lambda: ascend(lambda x: gradient_field(TwinPeaks(), x)))()
    np.testing.assert_allclose(stuck, expected_best_response(TwinPeaks(), data), atol=1e-4)
    assert np.abs(stuck).max() < 0.1
    np.testing.assert_allclose(np.abs(free), np.sqrt(3 / 8), atol=1e-4)


# --- The environment ---


def test_one_step_episodes_of_clipped_actions():
    env = envs_jax.make("polynomial/twin_peaks")
    state = env.init(KEY)
    np.testing.assert_array_equal(env.observe(state), np.zeros((2, 1)))
    state, outcome = env.advance(KEY, state, jnp.array([[3.0], [-1.0]]))
    np.testing.assert_array_equal(state.actions, [1, -1])
    np.testing.assert_array_equal(outcome.reward, [-11, -11])
    assert outcome.terminated and not outcome.truncated
    _, _, rewards, dones, _ = env.step(KEY, env.init(KEY), {"agent_0": jnp.array([0.5]), "agent_1": jnp.array([0.5])})
    assert float(rewards["agent_1"]) == pytest.approx(0.5) and dones["__all__"]


def test_each_player_keeps_its_own_box():
    assert [space.bounds()[0].item() for space in THREE.action_spaces.values()] == [-1.0, -2.0, -0.5]
    assert (THREE.action_space().low, THREE.action_space().high) == (-2.0, 1.5)
    state, _ = THREE.advance(KEY, THREE.init(KEY), jnp.full((3, 1), -9.0))
    np.testing.assert_array_equal(state.actions, [-1.0, -2.0, -0.5])


def test_registered_ids():
    assert envs_jax.make("polynomial") == PolynomialGame()
    assert envs_jax.make("polynomial/multiplication", num_agents=3) == Multiplication(num_agents=3)
    assert envs_jax.make("polynomial/twin_peaks", c=6.0) == TwinPeaks(c=6.0) != TwinPeaks()
    assert envs_jax.make("polynomial/action_agreement") == ActionAgreement()
    lists = envs_jax.make("polynomial", exponents=[[1, 1]], coefficients=[[1.0], [-1.0]], low=[-1.0, 0.0])
    assert hash(lists) == hash(PolynomialGame(coefficients=((1.0,), (-1.0,)), low=(-1.0, 0.0)))


@pytest.mark.parametrize(
    ("game", "settings", "message"),
    [
        (PolynomialGame, {"exponents": ((1, 1, 1),)}, "exponents is"),
        (PolynomialGame, {"exponents": ((1, -1),)}, "exponents is"),
        (PolynomialGame, {"exponents": ((1, 0.5),)}, "exponents is"),
        (PolynomialGame, {"coefficients": (1.0, 2.0)}, "coefficients is"),
        (PolynomialGame, {"coefficients": ((1.0,), (1.0, 2.0))}, "coefficients is"),
        (PolynomialGame, {"coefficients": (float("nan"),)}, "coefficients is"),
        (PolynomialGame, {"low": (-1.0, -1.0, -1.0)}, "low is"),
        (PolynomialGame, {"low": 1.0}, "allowed: numbers below high"),
        (PolynomialGame, {"high": float("inf")}, "high is inf"),
        (TwinPeaks, {"num_agents": 3}, "num_agents is 3; allowed: 2"),
        (TwinPeaks, {"b": 0.0}, "allowed: numbers above 0"),
        (TwinPeaks, {"c": 2.0}, "c is 2.0; allowed"),
        (ActionAgreement, {"num_agents": 1}, "num_agents is 1; allowed"),
        (ActionAgreement, {"num_agents": "3"}, "num_agents is '3'; allowed"),
        (Multiplication, {"num_agents": 2.0}, "num_agents is 2.0; allowed"),
    ],
)
def test_wrong_settings_are_refused(game, settings, message):
    with pytest.raises(ValueError, match=message):
        game(**settings)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="player is 2; allowed: 0 to 1"):
        best_response(TwinPeaks(), jnp.zeros(2), 2)
    with pytest.raises(ValueError, match="allowed: 2, for a heat map"):
        heat_map(THREE)
    with pytest.raises(ValueError, match="player is 2; allowed: 0 or 1"):
        heat_map(TwinPeaks(), player=2)
    with pytest.raises(ValueError, match="trajectories holds one of shape"):
        heat_map(TwinPeaks(), trajectories=np.zeros((2, 5, 3)))
    with pytest.raises(NotImplementedError, match="this one has 3"):
        THREE.render(THREE.init(KEY))


def test_heat_map_shows_trajectories():
    plain = heat_map(TwinPeaks(), resolution=41)
    assert plain.dtype == np.uint8 and plain.shape == (500, 600, 3)
    path = np.linspace([-0.64, 0.65], [0.6, 0.6], 9)
    one, nested = heat_map(TwinPeaks(), path, resolution=41), heat_map(TwinPeaks(), path[None], resolution=41)
    np.testing.assert_array_equal(one, nested)
    assert (one != plain).any(axis=-1).mean() > 0.002
    general = PolynomialGame(exponents=((2, 0), (1, 1)), coefficients=((-1.0, 1.0), (0.0, -1.0)))
    assert (heat_map(general, player=0, resolution=41) != heat_map(general, player=1, resolution=41)).any()


def test_render_marks_the_joint_action():
    env = Multiplication()
    start = env.init(KEY)
    pictures = [env.render(start)]
    for x, y in itertools.product((-0.5, 0.5), repeat=2):
        state, _ = env.advance(KEY, start, jnp.array([[x], [y]]))
        pictures.append(env.render(state))
    assert all(picture.shape == pictures[0].shape for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 5

"""Guidance: scores against float64 and finite differences, directions, schedule, recurrent policies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from covey.diffusion import guidance

RNG = np.random.default_rng(0)


def test_schedule_by_hand_and_zero_at_the_end():
    got = guidance.schedule(40)
    by_hand = [(1 - n / 40) + 0.3 * np.sin(np.pi * (n + 1) / 40) for n in range(39)]
    assert np.allclose(got, [*by_hand, 0.0], atol=1e-6)
    assert abs(got.sum() - 28.1) < 0.1


def test_unit_variance_is_the_gradient_of_a_unit_gaussian():
    obs = jnp.asarray(RNG.normal(size=(3, 5, 2, 4)), jnp.float32)
    action = jnp.asarray(RNG.normal(size=(3, 5, 2, 3)), jnp.float32)
    weights = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    act = lambda obs: jnp.tanh(obs @ weights)  # noqa: E731
    by_grad = guidance.score_of(lambda o, a: guidance.gaussian_log_prob(act(o), 1.0, a))
    assert np.allclose(guidance.unit_variance(act)(obs, action), by_grad(obs, action), atol=1e-5)


def test_log_probs_against_scipy():
    mean, std = 0.3, 0.7
    a = np.linspace(-0.95, 0.95, 21)
    assert np.allclose(
        guidance.gaussian_log_prob(mean, std, jnp.asarray(a)), stats.norm.logpdf(a, mean, std), atol=1e-5
    )
    got = np.asarray(guidance.tanh_gaussian_log_prob(mean, std, jnp.asarray(a)))
    assert np.allclose(got, stats.norm.logpdf(np.arctanh(a), mean, std) - np.log(1 - a**2), atol=1e-4)
    fine = np.linspace(-1 + 1e-5, 1 - 1e-5, 200_001)
    density = np.exp(np.asarray(guidance.tanh_gaussian_log_prob(mean, std, jnp.asarray(fine, jnp.float32)), np.float64))
    assert abs(np.trapezoid(density, fine) - 1) < 1e-3, "a density: it sums to 1"
    got = np.asarray(guidance.clipped_gaussian_log_prob(mean, std, jnp.array([-1.0, 0.2, 1.0])))
    want = [stats.norm.logcdf(-1, mean, std), stats.norm.logpdf(0.2, mean, std), stats.norm.logsf(1, mean, std)]
    assert np.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("name", ["gaussian", "tanh_gaussian", "clipped_gaussian"])
def test_scores_are_finite_differences_of_log_probs(name):
    log_prob = getattr(guidance, f"{name}_log_prob")
    a = jnp.asarray(RNG.uniform(-0.9, 0.9, (4, 2, 1, 3)), jnp.float32)
    g = np.asarray(guidance.score_of(lambda o, x: log_prob(0.2 * o, 0.5, x))(jnp.ones_like(a), a))
    step = 1e-2
    up, down = (np.asarray(log_prob(0.2, 0.5, a + d), np.float64) for d in (step, -step))
    assert np.allclose(g, (up - down) / (2 * step), atol=3e-2, rtol=3e-2)


def test_scores_do_not_explode_at_the_bounds():
    edge = jnp.array([[[[-1.0, 1.0]]]])
    for name in ("tanh_gaussian", "clipped_gaussian"):
        g = guidance.score_of(lambda o, a, n=name: getattr(guidance, f"{n}_log_prob")(0.0, 0.5, a))(edge, edge)
        assert np.isfinite(g).all(), name


def test_directions_have_norm_one_per_trajectory_and_vanish_safely():
    g = (
        jnp.asarray(RNG.normal(size=(4, 5, 2, 3)), jnp.float32)
        * jnp.array([1.0, 1e-25, 0.0, 1e25])[:, None, None, None]
    )
    got = np.asarray(guidance.unit_direction(g))
    assert np.allclose(np.sqrt((got**2).sum(axis=(1, 2, 3))), [1, 1, 0, 1], atol=1e-5)
    cosine = (got[0] * np.asarray(g[0])).sum() / np.linalg.norm(g[0])
    assert cosine == pytest.approx(1.0, abs=1e-5)
    mask = np.array([[True, True, False], [True, False, False]])
    masked = np.asarray(guidance.unit_direction(g, mask))
    assert (masked[:, :, ~mask] == 0).all() and np.allclose(np.linalg.norm(masked[0]), 1, atol=1e-5)
    assert np.isfinite(guidance.unit_direction(g.at[0, 0, 0, 0].set(jnp.nan))).all()


def test_recurrent_policies_start_empty_and_remember():
    obs = jnp.asarray(RNG.normal(size=(3, 6, 2, 4)), jnp.float32)
    step = lambda memory, o: (memory + o.sum(-1, keepdims=True), memory + o.sum(-1, keepdims=True))  # noqa: E731
    got = guidance.unroll(step, jnp.zeros((3, 2, 1)))(obs)
    assert np.allclose(got[..., 0], np.cumsum(np.asarray(obs).sum(-1), axis=1), atol=1e-5)


def test_no_gradient_is_taken_through_a_deterministic_policy():
    text = str(
        jax.make_jaxpr(guidance.unit_variance(lambda o: jnp.tanh(o[..., :1])))(
            jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))
        )
    )
    assert text.count("tanh") == 1

"""EDM against closed forms: for normal data the best denoiser is known, and so is what the sampler must give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.diffusion import edm
from covey.diffusion.edm import EDMConfig

MEAN, STD = 0.7, 0.5


def denoiser(x, sigma):
    """E[x0 | x] for data N(0.7, 0.5^2)."""
    return (MEAN * sigma**2 + x * STD**2) / (sigma**2 + STD**2)


def test_levels_follow_the_rho_schedule():
    config = EDMConfig(num_steps=5, rho=3.0, sigma_min=0.1, sigma_max=8.0)
    levels = edm.noise_levels(config)
    by_hand = [(2.0 + i / 4 * (0.1 ** (1 / 3) - 2.0)) ** 3 for i in range(5)]
    assert np.allclose(levels, [*by_hand, 0.0], rtol=1e-6) and levels.dtype == np.float32


@pytest.mark.parametrize("solver,steps,error", [("heun", 40, 0.008), ("euler", 40, 0.05), ("heun", 10, 0.15)])
def test_solver_follows_the_flow(solver, steps, error):
    """The flow of normal data in closed form: a sample that starts at z sigma_max ends at its quantile."""
    config = EDMConfig(num_steps=steps, solver=solver)
    x = np.asarray(edm.sample(denoiser, jax.random.key(0), (2000,), config))
    key_start, _ = jax.random.split(jax.random.key(0))
    start = 80.0 * np.asarray(jax.random.normal(key_start, (2000,)))
    exact = MEAN + (start - MEAN) * STD / np.sqrt(80.0**2 + STD**2)
    assert np.sqrt(np.mean(np.square(x - exact))) < error
    assert np.isfinite(x).all()


def test_heun_is_of_second_order_and_euler_of_first():
    def worst(solver, steps):
        key, levels = jax.random.key(1), EDMConfig(num_steps=steps, solver=solver)
        start = 80.0 * jax.random.normal(jax.random.split(key)[0], (500,))
        exact = MEAN + (start - MEAN) * STD / np.sqrt(80.0**2 + STD**2)
        return float(jnp.abs(edm.sample(denoiser, key, (500,), levels) - exact).max())

    assert worst("heun", 40) < worst("heun", 20) / 3
    assert 1.5 < worst("euler", 20) / worst("euler", 40) < 2.6


def test_churn_keeps_the_distribution():
    config = EDMConfig(num_steps=40, churn=20.0, churn_noise=1.0)
    assert np.isfinite(jax.jit(lambda: edm.sample(denoiser, jax.random.key(2), (64, 2), EDMConfig(churn=80.0)))()).all()
    still, moved = (
        np.asarray(edm.sample(denoiser, jax.random.key(2), (20000,), c)) for c in (EDMConfig(num_steps=40), config)
    )
    assert abs(moved.mean() - MEAN) < 0.02 and abs(moved.std() - STD) < 0.02
    assert np.abs(np.corrcoef(still, moved)[0, 1]) < 0.9, "noise was put back"
    factors = edm.churn_factors(EDMConfig(churn=80.0))
    levels = edm.noise_levels(EDMConfig())[:-1]
    assert np.allclose(factors[(levels > 0.05) & (levels < 50)], min(2.0, 2**0.5 - 1))
    assert (factors[(levels < 0.05) | (levels > 50)] == 0).all()


def test_preconditioning_by_hand():
    network = lambda x, noise: 2.0 * x + noise.reshape(-1, *[1] * (x.ndim - 1))  # noqa: E731
    x, sigma, data = np.array([[1.0], [-3.0]]), np.array([0.5, 2.0]), 0.6
    got = edm.precondition(network, jnp.asarray(x), jnp.asarray(sigma), data)
    s = sigma[:, None]
    inner = 2.0 * x / np.sqrt(s**2 + data**2) + np.log(s) / 4
    assert np.allclose(got, data**2 / (s**2 + data**2) * x + s * data / np.sqrt(s**2 + data**2) * inner, atol=1e-6)


def test_weighted_loss_of_no_network_is_one():
    """F = 0 leaves c_skip x: with unit data, the weighted loss is 1 at every noise level; the plain one is less."""
    zero = lambda x, noise: jnp.zeros_like(x)  # noqa: E731
    x = jax.random.normal(jax.random.key(0), (200_000, 1))
    weighted = edm.loss(zero, jax.random.key(1), x, EDMConfig(), 1.0)
    assert abs(weighted - 1.0) < 0.02
    sigma = np.asarray(edm.sample_sigma(jax.random.key(5), (200_000,), EDMConfig()))
    plain = edm.loss(zero, jax.random.key(1), x, EDMConfig(loss_weighting=False), 1.0)
    assert abs(plain - np.mean(sigma**2 / (sigma**2 + 1))) < 0.01


def test_noise_levels_to_fit_at():
    sigma = np.asarray(edm.sample_sigma(jax.random.key(0), (50_000,), EDMConfig(sigma_min=0.1, sigma_max=1.0)))
    assert sigma.min() == pytest.approx(0.1) and sigma.max() == pytest.approx(1.0), "clipped, not redrawn"
    log = np.log(np.asarray(edm.sample_sigma(jax.random.key(0), (50_000,), EDMConfig())))
    assert abs(log.mean() + 1.2) < 0.02 and abs(log.std() - 1.2) < 0.02


def test_guide_enters_after_the_slope_and_before_the_step():
    """One Euler step by hand (Algorithm 1): the slope is that of the unguided sample, the start the guided one."""
    config = EDMConfig(num_steps=2, solver="euler", sigma_max=3.0, sigma_min=1.0, rho=1.0)
    guide = lambda denoised: 10.0 * denoised  # noqa: E731
    got = edm.sample(denoiser, jax.random.key(3), (4,), config, guide, jnp.array([0.5, 0.0]))
    x = 3.0 * np.asarray(jax.random.normal(jax.random.split(jax.random.key(3))[0], (4,)), np.float64)
    d = (x - denoiser(x, 3.0)) / 3.0
    x = x + 0.5 * 10.0 * denoiser(x, 3.0) - 2.0 * d
    assert np.allclose(got, x - 1.0 * (x - denoiser(x, 1.0)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"sigma_min": 0.0}, "sigma_min is 0.0; allowed: a number above 0"),
        ({"sigma_max": 0.001}, "sigma_max is 0.001; allowed: above sigma_min = 0.002"),
        ({"num_steps": 1}, "num_steps is 1; allowed: an integer of at least 2"),
        ({"solver": "rk4"}, "solver is 'rk4'; allowed: heun, euler"),
        ({"churn": -1.0}, "churn is -1.0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        EDMConfig(**change)

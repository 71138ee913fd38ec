"""Diffusion after Karras et al., "Elucidating the design space of diffusion-based generative models" (2206.00364).

    D(x; sigma) = c_skip x + c_out F(c_in x; ln(sigma) / 4)                                    (preconditioning)
    loss        = E weight(sigma) ||D(x + sigma n; sigma) - x||^2,   ln sigma ~ N(P_mean, P_std^2), sigma clipped
    dx/dsigma   = (x - D(x; sigma)) / sigma                                        solved from sigma_max down to 0

Samplers take a `guide`: what to add to a noised sample, from its denoised version. It enters as in Algorithm 1 of CODA
(2604.23308): after the slope was taken and before the step, which then starts from the guided sample.

Letters: B batch, N steps of the sampler. Samples are [B, ...].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from covey.learners.base import check_numbers

Solver = Literal["heun", "euler"]
Denoiser: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""`(noised [B, ...], sigma [])` -> denoised [B, ...]."""


@dataclass(frozen=True)
class EDMConfig:
    """Noise levels, loss and solver; the defaults are CODA's (tables 2 and 3)."""

    sigma_min: float = 0.002
    """Smallest noise level, in units of the diffused values."""
    sigma_max: float = 80.0
    """Largest noise level, at which samples start."""
    rho: float = 7.0
    """How much the sampler's levels crowd at the low end."""
    num_steps: int = 40
    """Steps of the sampler."""
    solver: Solver = "heun"
    """`heun` asks the denoiser twice per step, `euler` once."""
    sigma_log_mean: float = -1.2
    """Mean of ln(noise level) in fitting."""
    sigma_log_std: float = 1.2
    """Its standard deviation; levels are clipped to [sigma_min, sigma_max]."""
    loss_weighting: bool = True
    """Weigh the loss by 1 / c_out^2, so that every noise level counts the same; else plain squared errors."""
    churn: float = 0.0
    """S_churn, noise put back while sampling; 0 for none. Policy-guided diffusion has 80. It weakens guidance."""
    churn_min: float = 0.05
    """Smallest noise level at which noise is put back."""
    churn_max: float = 50.0
    """Largest such level."""
    churn_noise: float = 1.003
    """Standard deviation of that noise, S_noise."""

    def __post_init__(self) -> None:
        check_numbers(self, ("sigma_min", "rho", "sigma_log_std", "churn_noise"), lambda x: x > 0, "a number above 0")
        check_numbers(self, ("churn", "churn_min", "churn_max"), lambda x: x >= 0, "a number of at least 0")
        check_numbers(self, ("num_steps",), lambda x: x >= 2, "an integer of at least 2")
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max is {self.sigma_max}; allowed: above sigma_min = {self.sigma_min}")
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver is {self.solver!r}; allowed: {', '.join(get_args(Solver))}")

    @property
    def evaluations(self) -> int:
        """Times that a sample asks the denoiser."""
        return self.num_steps * (2 if self.solver == "heun" else 1)


def noise_levels(config: EDMConfig) -> np.ndarray:
    """The sampler's levels float32[N + 1], from sigma_max down to sigma_min, then 0."""
    high, low = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
    levels = (high + np.linspace(0.0, 1.0, config.num_steps) * (low - high)) ** config.rho
    return np.append(levels, 0.0).astype(np.float32)


def churn_factors(config: EDMConfig) -> np.ndarray:
    """By how much each step raises the noise level first, relative to it; float32[N]."""
    levels = noise_levels(config)[:-1]
    within = (levels >= config.churn_min) & (levels <= config.churn_max)
    return np.where(within, min(config.churn / config.num_steps, math.sqrt(2.0) - 1.0), 0.0).astype(np.float32)


def precondition(network: Denoiser, x: jax.Array, sigma: jax.Array, sigma_data: float) -> jax.Array:
    """The denoised x: `network(c_in x, ln(sigma) / 4)` mixed with x itself; sigma [] or [B]."""
    shaped = jnp.reshape(sigma, sigma.shape + (1,) * (x.ndim - sigma.ndim)) if sigma.ndim else sigma
    total = jnp.square(shaped) + sigma_data**2
    output = network(x * jax.lax.rsqrt(total), 0.25 * jnp.log(sigma))
    return x * (sigma_data**2 / total) + output * (shaped * sigma_data * jax.lax.rsqrt(total))


def sample_sigma(key: jax.Array, shape: tuple[int, ...], config: EDMConfig) -> jax.Array:
    """Noise levels to fit at."""
    log_sigma = config.sigma_log_mean + config.sigma_log_std * jax.random.normal(key, shape)
    return jnp.clip(jnp.exp(log_sigma), config.sigma_min, config.sigma_max)


def loss(network: Denoiser, key: jax.Array, x: jax.Array, config: EDMConfig, sigma_data: float) -> jax.Array:
    """Mean squared error of denoising x [B, ...], weighted or not, float32[]."""
    key_sigma, key_noise = jax.random.split(key)
    sigma = sample_sigma(key_sigma, x.shape[:1], config)
    shaped = sigma.reshape(-1, *[1] * (x.ndim - 1))
    noised = x + shaped * jax.random.normal(key_noise, x.shape)
    error = jnp.square(precondition(network, noised, sigma, sigma_data) - x)
    if config.loss_weighting:
        error = error * ((jnp.square(shaped) + sigma_data**2) / jnp.square(shaped * sigma_data))
    return jnp.mean(error)


def sample(
    denoiser: Denoiser,
    key: jax.Array,
    shape: tuple[int, ...],
    config: EDMConfig,
    guide: Callable[[jax.Array], jax.Array] | None = None,
    scales: jax.Array | None = None,
) -> jax.Array:
    """Samples of `shape` [B, ...], as one scan over the noise levels.

    guide: denoised [B, ...] -> what to add, [B, ...]; multiplied with scales [N], one number for each step.
    """
    levels = noise_levels(config)
    steps = (levels[:-1], levels[1:], churn_factors(config))
    key_start, key_churn = jax.random.split(key)
    start = levels[0] * jax.random.normal(key_start, shape)

    def step(x: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        (sigma, next_sigma, churn), scale, key_step = inputs
        if config.churn > 0:
            noise = config.churn_noise * jax.random.normal(key_step, shape)
            # sqrt(raised^2 - sigma^2) in a form that rounding cannot make the root of less than 0.
            x = x + sigma * jnp.sqrt(churn * (2.0 + churn)) * noise
            sigma = sigma * (1.0 + churn)
        denoised = denoiser(x, sigma)
        slope = (x - denoised) / sigma
        if guide is not None:
            x = x + scale * guide(denoised)
        result = x + (next_sigma - sigma) * slope
        if config.solver == "heun":
            # The last level is 0: ask at the smallest one instead, and leave the answer out.
            at = jnp.maximum(next_sigma, config.sigma_min)
            next_slope = (result - denoiser(result, at)) / at
            corrected = x + (next_sigma - sigma) * 0.5 * (slope + next_slope)
            result = jnp.where(next_sigma > 0, corrected, result)
        return result, None

    scales = jnp.zeros(config.num_steps) if scales is None else scales
    keys = jax.random.split(key_churn, config.num_steps)
    return jax.lax.scan(step, start, (tuple(map(jnp.asarray, steps)), scales, keys))[0]

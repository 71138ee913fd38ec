"""The generator: fits the denoiser to a dataset's segments, and samples segments under guidance.

Fitting is Adam with a linear warm-up over the first 5 % of steps and a cosine down to 0 after it; what samples is an
exponential moving average of the parameters. With a condition, a share of segments is fitted without it, so that one
network knows both distributions, and sampling mixes them (classifier-free guidance, equation 3 of CODA):

    D = (1 + w) D(x; sigma | y) - w D(x; sigma)

Both come from one call on a doubled batch. Letters: B batch, H horizon, C channels, V varying ones, D condition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from covey.diffusion import edm, guidance
from covey.diffusion.edm import EDMConfig
from covey.diffusion.guidance import Score
from covey.diffusion.normaliser import SIGMA_DATA, Normaliser, NormaliserName
from covey.diffusion.segments import DiffusedData, Layout
from covey.diffusion.unet import TemporalUNet, UNetConfig, init_unet
from covey.learners.base import check_numbers

CURVE_POINTS = 20
"""At how many places of the fit its losses are kept."""


@dataclass(frozen=True)
class GeneratorConfig:
    """What is diffused, how the denoiser is fitted, and how guidance enters."""

    normaliser: NormaliserName = "probit"
    """The space that is diffused: quantiles through `probit`, `logit` or onto `uniform` [-1, 1]; or `zscore`."""
    knots: int = 1024
    """Knots of the quantile tables."""
    fit_steps: int = 10_000
    """Gradient steps of the denoiser."""
    fit_batch_size: int = 1000
    """Segments in each of them."""
    chain_rule: bool = False
    """Guide along the gradient by diffused actions, rather than by actions (which is Algorithm 1 to the letter)."""

    def __post_init__(self) -> None:
        names = ("fit_steps", "fit_batch_size")
        check_numbers(self, names, lambda x: x >= 1, "an integer of at least 1")
        if not 2 <= self.knots <= 65536:
            raise ValueError(f"knots is {self.knots}; allowed: 2 to 65536")
        if self.normaliser not in SIGMA_DATA:
            raise ValueError(f"normaliser is {self.normaliser!r}; allowed: {', '.join(SIGMA_DATA)}")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FitHyperparameters:
    """Numbers of the fit."""

    fit_learning_rate: float = 1e-2
    """Adam's largest step size for the denoiser."""
    ema_decay: float = 0.999
    """Decay per step of the moving average of its parameters."""
    condition_dropout: float = 0.1
    """Share of segments fitted without their condition, where there is one."""

    def __post_init__(self) -> None:
        check_numbers(self, ("fit_learning_rate",), lambda x: x > 0, "a number above 0")
        check_numbers(self, ("ema_decay",), lambda x: 0 <= x < 1, "a number in [0, 1)")
        check_numbers(self, ("condition_dropout",), lambda x: 0 <= x <= 1, "a number in [0, 1]")


@dataclass(frozen=True)
class Generator:
    """A denoiser of segments of this layout and of `horizon` steps.

    varying: the channels that vary in the data, `normaliser.varying`. condition_size: D, 0 for none. condition_of:
    diffused segments [B, H, V] -> what each is conditioned on, [B, D].
    """

    layout: Layout
    varying: tuple[int, ...]
    horizon: int = 20
    config: GeneratorConfig = GeneratorConfig()
    unet: UNetConfig = UNetConfig()
    edm: EDMConfig = EDMConfig()
    condition_size: int = 0
    condition_of: Callable[[jax.Array], jax.Array] | None = None

    @property
    def sigma_data(self) -> float:
        """Standard deviation of what is diffused."""
        return SIGMA_DATA[self.config.normaliser]

    @cached_property
    def network(self) -> TemporalUNet:
        return TemporalUNet(self.unet, self.horizon)

    @cached_property
    def guided(self) -> tuple[np.ndarray, np.ndarray]:
        """Which diffused channels guidance may move, int[W], and which of the N·A actions these are, int[W]. Padding
        and constant actions are none of them."""
        place = {channel: i for i, channel in enumerate(self.varying)}
        actions = enumerate(self.layout.action_channels)
        own = self.layout.action_mask.reshape(-1)
        pairs = [(place[int(c)], j) for j, c in actions if own[j] and int(c) in place]
        columns = np.array(pairs, int).reshape(-1, 2).T
        return columns[0], columns[1]

    @property
    def curve_shape(self) -> tuple[int, int]:
        """Shape [P, 2] of the losses that `fit` gives."""
        return min(CURVE_POINTS, self.config.fit_steps), 2

    # --- Fitting ---

    def init(self, key: jax.Array) -> Any:
        """Parameters before the fit."""
        return init_unet(self.network, key, len(self.varying), self.condition_size)

    def loss(self, params: Any, key: jax.Array, segments: jax.Array, dropout: jax.Array | float) -> jax.Array:
        """The denoiser's loss on diffused segments [B, H, V]."""
        key_drop, key_loss = jax.random.split(key)
        condition, known = None, None
        if self.condition_of is not None:
            condition = self.condition_of(segments)
            known = ~jax.random.bernoulli(key_drop, dropout, segments.shape[:1])
        network = lambda x, noise: self.network.apply(params, x, noise, condition, known)  # noqa: E731
        return edm.loss(network, key_loss, segments, self.edm, self.sigma_data)  # type: ignore[arg-type]

    def fit(self, key: jax.Array, hp: FitHyperparameters, data: DiffusedData) -> tuple[Any, jax.Array]:
        """`(parameters, curve [P, 2])`: the moving average after the fit, and at P places of it the losses on what it
        learns from (mean since the last place) and on what is held out (by the average)."""
        config = self.config
        points = self.curve_shape[0]
        key_init, key_steps, key_held = jax.random.split(key, 3)
        params = self.init(key_init)
        adam = optax.scale_by_adam()
        draw = jax.random.randint(key_held, (min(1024, max(64, config.fit_batch_size)),), 0, data.held_out.shape[0])
        held_out = data.segments(data.held_out[draw], self.horizon)

        def step(loop: tuple, i: jax.Array) -> tuple[tuple, jax.Array]:
            params, average, state = loop
            key_batch, key_loss = jax.random.split(jax.random.fold_in(key_steps, i))
            draw = jax.random.randint(key_batch, (config.fit_batch_size,), 0, data.starts.shape[0])
            segments = data.segments(data.starts[draw], self.horizon)
            loss, grads = jax.value_and_grad(self.loss)(params, key_loss, segments, hp.condition_dropout)
            updates, state = adam.update(grads, state)
            rate = hp.fit_learning_rate * self._rate(i)
            params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
            # Early on a shorter memory: the start is not worth remembering.
            decay = jnp.minimum(hp.ema_decay, (1.0 + i) / (10.0 + i))
            average = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, average, params)
            return (params, average, state), loss

        def stretch(loop: tuple, steps: Any) -> tuple[tuple, jax.Array]:
            first, num = steps

            def body(i: jax.Array, inner: tuple) -> tuple:
                loop, total = inner
                loop, loss = step(loop, first + i)
                return loop, total + loss

            loop, total = jax.lax.fori_loop(0, num, body, (loop, jnp.float32(0.0)))
            return loop, jnp.stack([total / num, self.loss(loop[1], key_held, held_out, hp.condition_dropout)])

        ends = np.arange(1, points + 1) * config.fit_steps // points
        starts = np.append(0, ends[:-1])
        loop = (params, params, adam.init(params))
        steps = (jnp.asarray(starts, jnp.int32), jnp.asarray(ends - starts, jnp.int32))
        (_, average, _), curve = jax.lax.scan(stretch, loop, steps)
        return average, curve

    def _rate(self, step: jax.Array) -> jax.Array:
        """Step size relative to the largest."""
        warm_up = max(1, self.config.fit_steps // 20)
        left = jnp.clip((step - warm_up) / max(1, self.config.fit_steps - warm_up), 0.0, 1.0)
        return jnp.minimum((step + 1) / warm_up, 1.0) * 0.5 * (1.0 + jnp.cos(jnp.pi * left))

    # --- Sampling ---

    def sample(
        self,
        params: Any,
        key: jax.Array,
        num: int,
        normaliser: Normaliser,
        *,
        score: Score | None = None,
        guidance_scale: jax.Array | float = 0.0,
        condition: jax.Array | None = None,
        cfg_scale: jax.Array | float = 0.0,
    ) -> jax.Array:
        """Rows [num, H, C] of generated segments: within the data's range, done 0 or 1, constants as in the data.

        score: see `covey.diffusion.guidance`, with guidance_scale lambda; no guidance without it, and the same samples
        bit by bit with lambda 0. condition: [D], what to condition on, with cfg_scale w.
        """
        guide = None if score is None else self._guide(score, normaliser)
        scales = guidance_scale * jnp.asarray(guidance.schedule(self.edm.num_steps))
        shape = (num, self.horizon, len(self.varying))
        denoiser = self._denoiser(params, condition, cfg_scale)
        diffused = edm.sample(denoiser, key, shape, self.edm, guide, scales)
        rows = normaliser.inverse(diffused)
        return rows.at[..., -1].set((rows[..., -1] > 0.5).astype(rows.dtype))

    def _denoiser(self, params: Any, condition: jax.Array | None, w: jax.Array | float) -> edm.Denoiser:
        """Denoised diffused segments, with or without classifier-free guidance."""

        def plain(x: jax.Array, sigma: jax.Array) -> jax.Array:
            network = lambda x, noise: self.network.apply(params, x, noise)  # noqa: E731
            return edm.precondition(network, x, sigma, self.sigma_data)  # type: ignore[arg-type]

        def mixed(x: jax.Array, sigma: jax.Array) -> jax.Array:
            num = x.shape[0]
            known = jnp.arange(2 * num) < num
            given = jnp.broadcast_to(condition, (2 * num, self.condition_size))  # type: ignore[arg-type]
            network = lambda x, noise: self.network.apply(params, x, noise, given, known)  # noqa: E731
            both = edm.precondition(network, jnp.concatenate([x, x]), sigma, self.sigma_data)  # type: ignore[arg-type]
            return (1.0 + w) * both[:num] - w * both[num:]

        return plain if condition is None else mixed

    def _guide(self, score: Score, normaliser: Normaliser) -> Callable[[jax.Array], jax.Array]:
        """Denoised diffused segments [B, H, V] -> the unit direction in which the policy pulls, 0 for all channels
        that are not actions."""
        channels, actions = self.guided

        def guide(diffused: jax.Array) -> jax.Array:
            fields = self.layout.split(normaliser.inverse(diffused))
            g = score(fields.obs, fields.action) * self.layout.action_mask
            pull = g.reshape(*g.shape[:2], -1)[..., actions]  # (B, H, W)
            if self.config.chain_rule:
                which = tuple(int(c) for c in channels)
                _, back = jax.vjp(lambda z: normaliser.inverse(z, which), diffused[..., channels])
                (pull,) = back(pull)
            return jnp.zeros_like(diffused).at[..., channels].set(guidance.unit_direction(pull))

        return guide

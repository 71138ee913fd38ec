"""CODA: an offline learner trains on trajectories that a diffusion model generates for its current joint policy.

    once:   fit the denoiser to the dataset
    round:  D_syn = segments sampled under guidance by the policies as they are now
            R times: one step of the base on a minibatch, a share alpha of it from D_syn and the rest from the dataset

Algorithm 2 of "Coordination via on-policy diffusion for multi-agent offline RL" (2604.23308). One `update` is one
round, so that nothing is generated under a condition: the sampler stands once in the program, in the loop over rounds.
How D_syn follows the policy is the `mode`:

    none           there is no D_syn: the base on the dataset alone
    unconditional  it does not: samples are those of the dataset
    policy         the score of the joint policy moves samples' actions (equation 14)
    cfg            the denoiser is conditioned on the joint action, and asked for the policies' (equation 3)
    q              it is conditioned on the reward instead, and asked for a high one

What describes a policy in `cfg` the paper does not say; where a policy is one action per agent, each datum is taken as
made by the policy that always gives its action, so the condition is a segment's mean action.

Letters: B batch, H horizon, N agents, A actions, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np

from covey.diffusion import diagnostics, guidance
from covey.diffusion.edm import EDMConfig
from covey.diffusion.generator import FitHyperparameters, Generator, GeneratorConfig
from covey.diffusion.segments import Layout, OfflineData, Segment
from covey.diffusion.unet import UNetConfig
from covey.learners.base import Metrics, check_numbers

Mode = Literal["none", "unconditional", "policy", "cfg", "q"]


class Base(Protocol):
    """The offline learner that CODA trains: a frozen value of pure functions.

    It may also have `score(carry, obs, action)`, where its policies have a probability (see
    `covey.diffusion.guidance`); `descriptor(carry) -> [N, A]`, which `cfg` needs; and `reward(segments) -> [B, H, N]`,
    the true rewards, to report by how much generated ones are wrong.
    """

    def init(self, key: jax.Array, hp: Any) -> Any: ...

    def learn(self, carry: Any, segments: Segment, key: jax.Array) -> tuple[Any, Metrics]:
        """One gradient step on a minibatch."""
        ...

    def act(self, carry: Any, obs: jax.Array) -> jax.Array:
        """What the policies do, without noise, [B, H, N, A] for obs [B, H, N, O]; from an empty memory."""
        ...

    def state_metrics(self, carry: Any) -> Metrics: ...

    def evaluate(self, carry: Any, key: jax.Array) -> Metrics: ...

    def policy(self, carry: Any) -> Any: ...

    def episode(self, carry: Any, key: jax.Array) -> tuple[Any, jax.Array]: ...


@dataclass(frozen=True)
class CodaConfig:
    """What a round is."""

    mode: Mode = "policy"
    """How generated segments follow the policies: `policy` by their score, `cfg` by classifier-free guidance on the
    joint action, `q` not at all but by high rewards, `unconditional` not at all; `none` generates nothing."""
    num_samples: int = 1000
    """Segments generated in each round."""
    updates_per_round: int = 1
    """Steps of the base learner in each round, R."""
    batch_size: int = 64
    """Segments in each of these steps."""
    burn_in: int = 2
    """Rounds at the start that learn from the dataset alone."""

    def __post_init__(self) -> None:
        names = ("num_samples", "updates_per_round", "batch_size")
        check_numbers(self, names, lambda x: x >= 1, "an integer of at least 1")
        check_numbers(self, ("burn_in",), lambda x: x >= 0, "an integer of at least 0")
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode is {self.mode!r}; allowed: {', '.join(get_args(Mode))}")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CodaHyperparameters:
    """Numbers of the guidance and of the mix."""

    guidance_scale: float = 0.6
    """How far the policies' score moves samples, lambda, in the diffused space; 0 gives unconditional samples. It is
    spread over all actions of a segment: scale it with sqrt(horizon x agents x actions)."""
    cfg_scale: float = 1.0
    """Weight of classifier-free guidance, w; 0 for the conditional denoiser as it is."""
    mix: float = 1.0
    """Share of generated segments in a minibatch, alpha."""
    return_target: float = 1.5
    """The reward that mode `q` asks for, in standard deviations above the data's median."""

    def __post_init__(self) -> None:
        check_numbers(self, ("guidance_scale", "cfg_scale"), lambda x: x >= 0, "a number of at least 0")
        check_numbers(self, ("mix",), lambda x: 0 <= x <= 1, "a number in [0, 1]")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hyperparameters:
    """All numbers of a run of CODA."""

    coda: CodaHyperparameters
    fit: FitHyperparameters
    base: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CodaCarry:
    """Everything that changes."""

    base: Any
    denoiser: Any  # the fitted parameters; () without a generator
    fit_curve: jax.Array  # [P, 2], see `Generator.fit`; NaN before
    coda: CodaHyperparameters
    fit: FitHyperparameters
    key: jax.Array
    update: jax.Array  # int32[], rounds done


@dataclass(frozen=True)
class Coda:
    """One seed's run, a learner as in `covey.learners.base`; `update` takes an `OfflineData`.

    varying: the data's varying channels (`Normaliser.varying`), which say what is diffused.
    """

    base: Any
    layout: Layout
    varying: tuple[int, ...]
    config: CodaConfig = CodaConfig()
    generator_config: GeneratorConfig = GeneratorConfig()
    unet: UNetConfig = UNetConfig()
    edm: EDMConfig = EDMConfig()

    def __post_init__(self) -> None:
        if self.config.mode == "cfg" and not hasattr(self.base, "descriptor"):
            raise ValueError(f"mode is 'cfg'; {type(self.base).__name__} has no descriptor of its policies")
        if self.config.mode == "q" and not self._positions(self.layout.reward_channels).size:
            raise ValueError("mode is 'q', but all rewards in the data are the same")
        if self.config.mode in ("policy", "cfg") and not self._positions(self.layout.action_channels).size:
            raise ValueError(f"mode is {self.config.mode!r}, but all actions in the data are the same")

    @property
    def steps_per_update(self) -> int:
        return 0

    def _positions(self, channels: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.isin(self.varying, channels))

    @cached_property
    def generator(self) -> Generator:
        """The denoiser and its sampler, conditioned as the mode wants it."""
        plain = Generator(self.layout, self.varying, self.generator_config, self.unet, self.edm)
        if self.config.mode not in ("cfg", "q"):
            return plain
        if self.config.mode == "cfg":
            where = plain.guided[0]
            condition: Callable = lambda z: jnp.mean(z[..., where], axis=1)  # noqa: E731
            size = len(where)
        else:
            where = self._positions(self.layout.reward_channels)
            condition = lambda z: jnp.mean(z[..., where], axis=(1, 2))[:, None]  # noqa: E731
            size = 1
        return replace(plain, condition_size=size, condition_of=condition)

    # --- The functions of a learner ---

    def init(self, key: jax.Array, hp: Hyperparameters) -> CodaCarry:
        key_base, key_denoiser, key_run = jax.random.split(key, 3)
        denoiser, curve = (), jnp.zeros((0, 2))
        if self.config.mode != "none":
            denoiser = self.generator.init(key_denoiser)
            curve = jnp.full(self.generator.curve_shape, jnp.nan)
        to_array = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)  # noqa: E731
        base = self.base.init(key_base, hp.base)
        return CodaCarry(base, denoiser, curve, to_array(hp.coda), to_array(hp.fit), key_run, jnp.int32(0))

    def prepare(self, carry: CodaCarry, data: OfflineData) -> CodaCarry:
        """Fit the denoiser."""
        if self.config.mode == "none":
            return carry
        key, key_fit = jax.random.split(carry.key)
        denoiser, curve = self.generator.fit(key_fit, carry.fit, data)
        return replace(carry, denoiser=denoiser, fit_curve=curve, key=key)

    def generate(self, carry: CodaCarry, data: OfflineData, key: jax.Array, num: int) -> Segment:
        """`num` segments as the mode would have them now."""
        options: dict[str, Any] = {}
        if self.config.mode == "policy":
            options = {"score": self.score(carry), "guidance_scale": carry.coda.guidance_scale}
        if self.config.mode in ("cfg", "q"):
            options = {"condition": self._condition(carry, data), "cfg_scale": carry.coda.cfg_scale}
        return self.layout.split(self.generator.sample(carry.denoiser, key, num, data.normaliser, **options))

    def update(self, carry: CodaCarry, data: OfflineData | None = None) -> tuple[CodaCarry, Metrics]:
        if data is None:
            raise ValueError("data is None; CODA learns from an OfflineData")
        config, horizon = self.config, self.generator_config.horizon
        key, key_sample, key_learn = jax.random.split(carry.key, 3)
        synthetic, metrics = None, {}
        if config.mode != "none":
            synthetic = self.generate(carry, data, key_sample, config.num_samples)
            metrics = self.sample_metrics(carry, synthetic)
        mix = jnp.where(carry.update < config.burn_in, 0.0, carry.coda.mix)

        def learn(base: Any, key: jax.Array) -> tuple[Any, Metrics]:
            key_real, key_synthetic, key_mix, key_step = jax.random.split(key, 4)
            draw = jax.random.randint(key_real, (config.batch_size,), 0, data.starts.shape[0])
            batch = self.layout.split(data.segments(data.starts[draw], horizon))
            if synthetic is not None:
                # A coin for each row, for numbers of rows would have to be known when compiling.
                made = jax.random.bernoulli(key_mix, mix, (config.batch_size,))
                draw = jax.random.randint(key_synthetic, (config.batch_size,), 0, config.num_samples)
                pick = lambda s, r: jnp.where(made.reshape(-1, *[1] * (r.ndim - 1)), s[draw], r)  # noqa: E731
                batch = jax.tree.map(pick, synthetic, batch)
            return self.base.learn(base, batch, key_step)

        base, learned = jax.lax.scan(learn, carry.base, jax.random.split(key_learn, config.updates_per_round))
        metrics |= jax.tree.map(lambda x: jnp.mean(x, axis=0), learned) | self.base.state_metrics(base)
        return replace(carry, base=base, key=key, update=carry.update + 1), metrics

    def evaluate(self, carry: CodaCarry, key: jax.Array) -> Metrics:
        return self.base.evaluate(carry.base, key)

    def policy(self, carry: CodaCarry) -> Any:
        return {"base": self.base.policy(carry.base), "denoiser": carry.denoiser}

    def episode(self, carry: CodaCarry, key: jax.Array) -> tuple[Any, jax.Array]:
        return self.base.episode(carry.base, key)

    # --- Inside ---

    def score(self, carry: CodaCarry) -> guidance.Score:
        """The pull of the policies as they are: their own score, or that of a unit Gaussian around them."""
        if hasattr(self.base, "score"):
            return partial(self.base.score, carry.base)
        return guidance.unit_variance(partial(self.base.act, carry.base))

    def _condition(self, carry: CodaCarry, data: OfflineData) -> jax.Array:
        """What the denoiser is asked for, [D]."""
        if self.config.mode == "q":
            return jnp.reshape(carry.coda.return_target * self.generator.sigma_data, 1)
        where, actions = self.generator.guided
        described = self.base.descriptor(carry.base).reshape(-1)[actions]
        return data.normaliser.forward(described, tuple(int(i) for i in where))

    def sample_metrics(self, carry: CodaCarry, segments: Segment) -> Metrics:
        """What to know of generated segments: how close to the policies, how far from the truth."""
        mask = self.layout.action_mask
        act = self.base.act(carry.base, segments.obs)
        losses = carry.fit_curve[-1]
        metrics = {
            "policy_distance": diagnostics.policy_distance(act, segments.action, mask),
            "action_log_prob": diagnostics.action_log_prob(act, segments.action, mask),
            "done_rate": diagnostics.done_rate(segments.done),
            "fit_loss": losses[0],
            "fit_validation_loss": losses[1],
        }
        if hasattr(self.base, "reward"):
            metrics["reward_error"] = diagnostics.reward_error(segments.reward, self.base.reward(segments))
        return metrics

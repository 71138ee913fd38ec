"""CODA: an offline learner trains on trajectories that a diffusion model generates for its current joint policy.

    once:   fit the denoiser to the dataset
    round:  D_syn = segments sampled under guidance by the policies as they are now
            R times: one step of the learner on a minibatch, a share alpha of it from D_syn, the rest from the dataset

Algorithm 2 of "Coordination via on-policy diffusion for multi-agent offline RL" (2604.23308), around any learner of
`covey.learners.offline`, with its world model if it has one. One `update` is one round, so that nothing is generated
under a condition: the sampler stands once in the program, in the loop over rounds. How D_syn follows the policy is the
`mode`:

    none           there is no D_syn: the learner on the dataset alone
    unconditional  it does not: samples are those of the dataset
    policy         the score of the joint policy moves samples' actions (equation 14)
    cfg            the denoiser is conditioned on the joint action, and asked for the policies' (equation 3)
    q              it is conditioned on the reward instead, and asked for a high one

What describes a policy in `cfg` the paper does not say. Here it is the policies' mean action over segments of the
dataset, and a segment of the dataset is taken as made by policies with its mean action. (Where a policy is one action
per agent, that is the policy itself.)

Guidance pushes actions alone, and a segment's rewards lag behind; `relabel` puts other rewards in their place.

Letters: B batch, H horizon, L = H + 1 rows, N agents, A actions, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from covey.diffusion import diagnostics, guidance
from covey.diffusion.edm import EDMConfig
from covey.diffusion.generator import FitHyperparameters, Generator, GeneratorConfig
from covey.diffusion.segments import DiffusedData, Fields, Layout
from covey.diffusion.unet import UNetConfig
from covey.learners.base import Metrics, check_numbers
from covey.learners.offline import Made, Offline, OfflineCarry, OfflineHyperparameters, Segments, Source, WorldModel
from covey.learners.offline.segments import gather

Mode = Literal["none", "unconditional", "policy", "cfg", "q"]
Relabel = Literal["none", "model", "true"]

PROBES = 64
"""Segments of the dataset, at most, over which policies are described."""


@dataclass(frozen=True)
class CodaConfig:
    """What a round is."""

    mode: Mode = "policy"
    """How generated segments follow the policies: `policy` by their score, `cfg` by classifier-free guidance on the
    joint action, `q` not at all but by high rewards, `unconditional` not at all; `none` generates nothing."""
    num_samples: int = 1000
    """Segments generated in each round."""
    burn_in: int = 2
    """Rounds at the start that learn from the dataset alone."""
    relabel: Relabel = "none"
    """Rewards of generated segments: as they were generated, those that a model fitted to the dataset predicts, or the
    true ones, where they are known."""
    relabel_steps: int = 10_000
    """Relabel model: gradient steps of that model, before the first round."""

    def __post_init__(self) -> None:
        check_numbers(self, ("num_samples", "relabel_steps"), lambda x: x >= 1, "an integer of at least 1")
        check_numbers(self, ("burn_in",), lambda x: x >= 0, "an integer of at least 0")
        for name, allowed in (("mode", get_args(Mode)), ("relabel", get_args(Relabel))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")


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
    distrust: float = 0.0
    """How fast that share falls with the error e of generated rewards: alpha exp(-distrust e), anew in each round. e is
    the mean |r - R| over deviations of the data's rewards, and R is true or the model's, see `relabel`; without either,
    and with 0, the share is constant."""
    return_target: float = 1.5
    """The reward that mode `q` asks for, in standard deviations above the data's median."""

    def __post_init__(self) -> None:
        check_numbers(self, ("guidance_scale", "cfg_scale", "distrust"), lambda x: x >= 0, "a number of at least 0")
        check_numbers(self, ("mix",), lambda x: 0 <= x <= 1, "a number in [0, 1]")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hyperparameters:
    """All numbers of a run of CODA."""

    coda: CodaHyperparameters
    fit: FitHyperparameters
    base: OfflineHyperparameters


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CodaData:
    """A dataset as all seeds share it: as the learner sees it, and as the denoiser does."""

    source: Source
    diffused: DiffusedData


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CodaCarry:
    """Everything that changes."""

    offline: OfflineCarry
    denoiser: Any  # the fitted parameters; () without a generator
    fit_curve: jax.Array  # [P, 2], see `Generator.fit`; NaN before
    reward_model: Any  # the state of the model that relabels, or ()
    coda: CodaHyperparameters
    fit: FitHyperparameters
    key: jax.Array


@dataclass(frozen=True)
class Coda:
    """One seed's run, a learner as in `covey.learners.base`; `data` of `update` is a `CodaData`.

    offline: the learner and how it is fed and judged; its horizon is that of generated segments. layout, varying: of
    the diffused data (`covey.diffusion.diffuse`, `normaliser.varying`). reward: true rewards [B, L, N] of segments,
    where they are known: for `relabel`, and to report by how much generated ones are wrong. reward_model: for
    `relabel="model"`; of its settings the networks' sizes count.
    """

    offline: Offline
    layout: Layout
    varying: tuple[int, ...]
    config: CodaConfig = CodaConfig()
    generator_config: GeneratorConfig = GeneratorConfig()
    unet: UNetConfig = UNetConfig()
    edm: EDMConfig = EDMConfig()
    reward: Callable[[Segments], jax.Array] | None = None
    reward_model: WorldModel | None = None

    def __post_init__(self) -> None:
        if self.config.mode == "q" and not self._positions(self.layout.reward_channels).size:
            raise ValueError("mode is 'q', but all rewards in the data are the same")
        if self.config.mode in ("policy", "cfg") and not self._positions(self.layout.action_channels).size:
            raise ValueError(f"mode is {self.config.mode!r}, but all actions in the data are the same")
        if self.config.relabel == "true" and self.reward is None:
            raise ValueError("relabel is 'true'; allowed where rewards are a known function of segments: in games")
        if self.config.relabel == "model" and self.reward_model is None:
            raise ValueError("relabel is 'model', and reward_model is None; allowed: a WorldModel")

    @property
    def steps_per_update(self) -> int:
        return 0

    def _positions(self, channels: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.isin(self.varying, channels))

    @cached_property
    def generator(self) -> Generator:
        """The denoiser and its sampler, conditioned as the mode wants it."""
        horizon = self.offline.config.horizon
        plain = Generator(self.layout, self.varying, horizon, self.generator_config, self.unet, self.edm)
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
        key_offline, key_denoiser, key_model, key_run = jax.random.split(key, 4)
        denoiser, curve, model = (), jnp.zeros((0, 2)), ()
        if self.config.mode != "none":
            denoiser = self.generator.init(key_denoiser)
            curve = jnp.full(self.generator.curve_shape, jnp.nan)
        if self._fitted_rewards is not None:
            model = self._fitted_rewards.init(key_model, hp.base)
        to_array = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)  # noqa: E731
        offline = self.offline.init(key_offline, hp.base)
        return CodaCarry(offline, denoiser, curve, model, to_array(hp.coda), to_array(hp.fit), key_run)

    def prepare(self, carry: CodaCarry, data: CodaData) -> CodaCarry:
        """Fit the denoiser, and the model that relabels."""
        if self.config.mode == "none":
            return carry
        key, key_fit, key_model = jax.random.split(carry.key, 3)
        denoiser, curve = self.generator.fit(key_fit, carry.fit, data.diffused)
        carry = replace(carry, denoiser=denoiser, fit_curve=curve, key=key)
        if self._fitted_rewards is None:
            return carry
        hp = self.offline.base.hyperparameters(carry.offline.base)
        model, _ = self._fitted_rewards.fit(carry.reward_model, data.source, key_model, hp)
        return replace(carry, reward_model=model)

    def generate(self, carry: CodaCarry, data: CodaData, key: jax.Array, num: int) -> Fields:
        """`num` segments as the mode would have them now, with the rewards that were generated."""
        options: dict[str, Any] = {}
        if self.config.mode == "policy":
            options = {"score": self.score(carry), "guidance_scale": carry.coda.guidance_scale}
        if self.config.mode in ("cfg", "q"):
            options = {"condition": self._condition(carry, data), "cfg_scale": carry.coda.cfg_scale}
        normaliser = data.diffused.normaliser
        return self.layout.split(self.generator.sample(carry.denoiser, key, num, normaliser, **options))

    def update(self, carry: CodaCarry, data: CodaData | None = None) -> tuple[CodaCarry, Metrics]:
        if data is None:
            raise ValueError("data is None; CODA learns from a CodaData")
        key, key_sample = jax.random.split(carry.key)
        made, metrics = [], {}
        if self.config.mode != "none":
            fields = self.generate(carry, data, key_sample, self.config.num_samples)
            segments = fields.segments()
            rewards = self.rewards(carry, segments)
            metrics = self.sample_metrics(carry, fields, rewards)
            judged = "reward_error" if "true" in rewards else "reward_disagreement"
            error = metrics[judged] if rewards else 0.0
            # Of transitions: the row after an episode's last has no reward.
            spread = jnp.maximum(jnp.std(data.source.dataset.reward[data.source.rows]), 1e-6)
            share = carry.coda.mix * jnp.exp(-carry.coda.distrust * error / spread)
            share = jnp.where(carry.offline.update < self.config.burn_in, 0.0, share)
            metrics["generated_share"] = share
            made = [Made(self._relabelled(segments, rewards), share)]
        # The barrier keeps the compiler from rounding the learner's step otherwise from mode to mode.
        offline, made = jax.lax.optimization_barrier((carry.offline, made))
        offline, learned = self.offline.update(offline, data.source, made)
        return replace(carry, offline=offline, key=key), metrics | learned

    def evaluate(self, carry: CodaCarry, key: jax.Array) -> Metrics:
        return self.offline.evaluate(carry.offline, key)

    def policy(self, carry: CodaCarry) -> Any:
        return {"base": self.offline.policy(carry.offline), "denoiser": carry.denoiser}

    def episode(self, carry: CodaCarry, key: jax.Array) -> tuple[Any, jax.Array]:
        return self.offline.episode(carry.offline, key)

    # --- Inside ---

    def act(self, carry: CodaCarry, obs: jax.Array) -> jax.Array:
        """What the policies do, without noise, [B, H, N, A] for obs [B, H, N, O]; from an empty memory."""
        params = self.offline.policy(carry.offline)
        return jax.vmap(lambda segment: self.offline.base.actions(params, segment))(obs)

    def score(self, carry: CodaCarry) -> guidance.Score:
        """The pull of the policies as they are: the gradient of their log-probability where the learner has one
        (`log_prob(params, obs [H, N, O], action [H, N, A])`, actions in [-1, 1]), else that of a Gaussian of deviation
        1 around them."""
        base, params = self.offline.base, self.offline.policy(carry.offline)
        own: Callable | None = getattr(base, "log_prob", None)
        if own is None:
            return guidance.unit_variance(partial(self.act, carry))
        return guidance.score_of(
            lambda obs, action: jax.vmap(lambda o, a: own(params, o, base.team.to_unit(a)))(obs, action)
        )

    def rewards(self, carry: CodaCarry, segments: Segments) -> dict[str, jax.Array]:
        """What else is known of segments' rewards, [B, L, N] each: by `true` and by `model`, where there is such."""
        known = {}
        if self.reward is not None:
            known["true"] = self.reward(segments)
        if self._fitted_rewards is not None:
            known["model"] = self._fitted_rewards.reward(carry.reward_model, segments)
        return known

    @cached_property
    def _fitted_rewards(self) -> WorldModel | None:
        """The model that relabels, whose `fit` is the whole of it."""
        if self.config.mode == "none" or self.config.relabel != "model" or self.reward_model is None:
            return None
        config = replace(self.reward_model.config, model_steps=self.config.relabel_steps)
        return replace(self.reward_model, config=config)

    def _relabelled(self, segments: Segments, rewards: dict[str, jax.Array]) -> Segments:
        relabel = self.config.relabel
        return segments if relabel == "none" else segments._replace(reward=rewards[relabel])

    def _condition(self, carry: CodaCarry, data: CodaData) -> jax.Array:
        """What the denoiser is asked for, [D]."""
        if self.config.mode == "q":
            return jnp.reshape(carry.coda.return_target * self.generator.sigma_data, 1)
        starts = data.source.starts
        probes = starts[:: -(-starts.shape[0] // PROBES)]
        seen = gather(data.source, probes, self.offline.config.horizon)
        acted = self.act(carry, seen.obs)[:, :-1]
        weights = jnp.broadcast_to(seen.mask[:, :-1, None, None], acted.shape)
        where, actions = self.generator.guided
        described = jnp.average(acted, axis=(0, 1), weights=weights).reshape(-1)[actions]
        return data.diffused.normaliser.forward(described, tuple(int(i) for i in where))

    def sample_metrics(self, carry: CodaCarry, fields: Fields, rewards: dict[str, jax.Array]) -> Metrics:
        """What to know of generated segments: how close to the policies, how far from the truth, or from the model if
        that is all that is known. rewards: see there."""
        mask = self.layout.action_mask
        act = self.act(carry, fields.obs)
        losses = carry.fit_curve[-1]
        metrics = {
            "policy_distance": diagnostics.policy_distance(act, fields.action, mask),
            "action_log_prob": diagnostics.action_log_prob(act, fields.action, mask),
            "done_rate": diagnostics.done_rate(fields.done),
            "fit_loss": losses[0],
            "fit_validation_loss": losses[1],
        }
        for known, name in (("true", "reward_error"), ("model", "reward_disagreement")):
            if known in rewards:
                metrics[name] = diagnostics.reward_error(fields.reward, rewards[known][:, :-1])
                break
        return metrics

"""Kaleidoscope on MATD3: one actor with a learned mask per agent, and one critic with a learned mask per copy.

    L_actor  = L_MATD3 - beta_a [|L_MATD3| / D_a] D_a,    y = r + gamma (1 - terminated) min_{k <= K} Q'_k
    L_critic = L_MATD3 - beta_c [|L_MATD3| / D_c] D_c     [x]: no gradient; D: `covey.policies.kaleidoscope`

Li, Pan, Zhang 2024 (2410.08540). Every `reset_interval` steps some of the weights that all masks have switched off are
drawn anew, with their thresholds.

What deviates: the factor in front of D is scaled by the present loss, where the authors take means over the last 100
(and it is beta alone where D is 0, as there). Actors follow the first critic, as in MATD3. The authors' settings for
MuJoCo could not be had: thresholds, growth over layers, interval and ratio are those of their code for StarCraft.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from covey.learners.base import Metrics, check_numbers
from covey.learners.matd3 import MATD3, Actor, MATD3Carry, MATD3Hyperparameters, TwinCritic
from covey.policies.actor_critic import PolicyConfig
from covey.policies.kaleidoscope import Kaleidoscope, MaskConfig
from covey.policies.networks import Network


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KaleidoscopeHyperparameters(MATD3Hyperparameters):
    """MATD3's numbers and Kaleidoscope's."""

    diversity: float = 0.1
    """Weight of the distance between actors' masks, as a share of the actors' loss, beta_a."""
    critic_diversity: float = 0.1
    """The same of critics, beta_c."""
    reset_ratio: float = 0.1
    """Probability that a reset draws a switched-off weight anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, ("diversity", "critic_diversity"), lambda x: x >= 0, "a number of at least 0")
        check_numbers(self, ("reset_ratio",), lambda x: 0 <= x <= 1, "a number in [0, 1]")


@dataclass(frozen=True)
class MaskedActor(Actor):
    """One actor, a mask of it for each agent."""

    masks: MaskConfig = MaskConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scheme", Kaleidoscope(self.num_agents, self.masks))

    def _networks(self, config: PolicyConfig) -> dict[str, Network]:
        # The small outputs that MATD3 starts with lie below the thresholds, where nothing is learnt.
        return {name: replace(network, output_gain=1.0) for name, network in super()._networks(config).items()}  # type: ignore[call-arg]


@dataclass(frozen=True)
class MaskedCritics(TwinCritic):
    """One critic of a team, K masks of it. Parameters are those of `Kaleidoscope` with K for N."""

    masks: MaskConfig = field(default_factory=MaskConfig)

    @cached_property
    def scheme(self) -> Kaleidoscope:
        return Kaleidoscope(self.masks.num_critics, self.masks)

    def count_parameters(self) -> int:
        return super().count_parameters() // 2

    def init(self, key: jax.Array) -> Any:
        return self.scheme.init(key, self.networks)

    def first(self, params: Any) -> Any:
        return params | {"threshold": jax.tree.map(lambda s: s[:1], params["threshold"])}

    def values(self, params: Any, x: jax.Array) -> jax.Array:
        return self.value(params, x)[:, None]  # [K, 1, B]


@dataclass(frozen=True)
class KaleidoscopeMATD3(MATD3):
    """MATD3 with masked actors and critics; `hp` is `KaleidoscopeHyperparameters`."""

    masks: MaskConfig = MaskConfig()
    num_updates: int | None = None
    """Length of the run, whose last interval has no reset; None for resets to the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy_config.sharing != "fups":
            raise ValueError(f"sharing is {self.policy_config.sharing!r}; allowed with masks: fups")
        if self.masks.num_critics and self.config.critic != "team":
            raise ValueError(
                f"critic is {self.config.critic!r} with num_critics = {self.masks.num_critics}; allowed: team, or "
                "num_critics = 0"
            )

    @cached_property
    def actor(self) -> MaskedActor:
        plain = super().actor
        return MaskedActor(
            plain.config, plain.num_agents, obs_size=plain.obs_size, num_outputs=plain.num_outputs, masks=self.masks
        )

    @cached_property
    def critic(self) -> TwinCritic:
        plain = super().critic
        if not self.masks.num_critics:
            return plain
        return MaskedCritics(
            plain.kind, plain.policy_config, plain.num_agents, plain.input_size, plain.hidden_sizes, self.masks
        )

    def update(self, carry: MATD3Carry, data: Any = None) -> tuple[MATD3Carry, Metrics]:
        carry, metrics = super().update(carry, data)
        params = carry.trained.params
        metrics["sparsity"] = self._masks.sparsity(params["actor"])
        interval = self.masks.reset_interval
        if not interval:
            return carry, metrics
        done = carry.update * self.steps_per_update
        due = done // interval > (done - self.steps_per_update) // interval
        if self.num_updates is not None:
            due &= done <= self.num_updates * self.steps_per_update - interval
        key, key_actor, key_critic = jax.random.split(carry.key, 3)
        hp: Any = carry.hp
        ratio = jnp.where(due, hp.reset_ratio, 0.0)
        params = params | {"actor": self._masks.revive(params["actor"], self.actor.networks, key_actor, ratio)}
        if isinstance(self.critic, MaskedCritics):
            critic = self.critic.scheme.revive(params["critic"], self.critic.networks, key_critic, ratio)
            params = params | {"critic": critic}
        return replace(carry, key=key, trained=carry.trained._replace(params=params)), metrics

    @property
    def _masks(self) -> Kaleidoscope:
        return self.actor.scheme  # type: ignore[return-value]

    def regularise(
        self, which: str, params: Any, loss: jax.Array, hp: KaleidoscopeHyperparameters
    ) -> tuple[jax.Array, Metrics]:
        if which == "critic" and not isinstance(self.critic, MaskedCritics):
            return loss, {}
        networks, weight = {
            "actor": (self.actor, hp.diversity), "critic": (self.critic, hp.critic_diversity)
        }[which]  # fmt: skip
        distance = networks.scheme.distance(params, networks.networks)  # type: ignore[attr-defined]
        return _with_distance(loss, distance, weight), {f"{which}_mask_distance": distance}


def _with_distance(loss: jax.Array, distance: jax.Array, weight: jax.Array | float) -> jax.Array:
    """loss - weight [|loss| / distance] distance, [x] without gradient; the factor is `weight` where distance is 0."""
    factor = jnp.where(distance > 0, jnp.abs(loss) / jnp.maximum(distance, 1e-12), 1.0)
    return loss - weight * jax.lax.stop_gradient(factor) * distance

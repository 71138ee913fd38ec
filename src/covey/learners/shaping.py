"""Social rewards inside a learner: one state of the reward per environment, beside the environment's own.

Letters: E envs, T time, N agents.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from covey.learners.base import Metrics
from covey.metrics import social as social_metrics
from covey.social import SocialReward, SocialState


def shapes(reward: SocialReward) -> bool:
    """Whether agents learn on anything but their own rewards."""
    return reward.term != "none"


def check(reward: SocialReward, num_agents: int, hp: Any, kind: type) -> None:
    """Raise ValueError unless the hyper-parameters are of the `kind` that has a social reward's, and they fit."""
    if shapes(reward):
        if not isinstance(hp, kind):
            raise ValueError(f"hp is {type(hp).__name__}; allowed with a social reward: {kind.__name__}")
        reward.check(num_agents, hp.social)  # type: ignore[attr-defined]


def begin(reward: SocialReward, num_agents: int, num_envs: int) -> SocialState | None:
    """States [E] before the first step; None where nothing is shaped."""
    if not shapes(reward):
        return None
    return jax.tree.map(lambda x: jnp.stack([x] * num_envs), reward.init(num_agents))


def shape(
    reward: SocialReward, env: Any, states: SocialState | None, outcome: Any, last_state: Any, hp: Any
) -> tuple[SocialState | None, jax.Array, Metrics]:
    """A step's next states [E], what agents learn on [E, N], and diagnostics [E, N].

    last_state: the environments' states after the step and before a reset, which tell who sees whom; where they do
    not, all see all.
    """
    if states is None:
        return None, outcome.reward, {}
    visible = jax.vmap(env.visible)(last_state) if hasattr(env, "visible") else None
    step = jax.vmap(reward.step, in_axes=(0, 0, None if visible is None else 0, 0, None))
    states, shaped, diagnostics = step(states, outcome.reward, visible, outcome.done, hp.social)
    diagnostics.pop("smoothed_reward")
    return states, shaped, diagnostics


def summary(returned: jax.Array, diagnostics: Metrics, ended: jax.Array) -> Metrics:
    """Metrics of a rollout: shaped returns [T, N, E] of the episodes that `ended`, and diagnostics [T, N, E]."""
    means = {name: jnp.mean(value, axis=(0, 2)) for name, value in diagnostics.items()}
    last = {name: jnp.mean(diagnostics[name][-1], axis=1) for name in social_metrics.LAST}
    return {"shaped_return": jnp.sum(returned, axis=(0, 2)) / ended} | means | last

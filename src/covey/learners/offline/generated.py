"""An offline learner as `covey.diffusion.coda.Coda` asks for one: fed with segments that a generator has mixed already.

Those have H rows and no row after the last, so a segment's last transition counts only where it terminated. They don't
say which of them are the dataset's: all are taken as such, and `bc_on="real"` is refused.

Letters: B batch, H rows, N agents, O obs, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from covey.learners import evaluation
from covey.learners.base import Metrics
from covey.learners.offline.base import OfflineLearner
from covey.learners.offline.learner import policy_step
from covey.learners.offline.segments import from_rows


class Generated(Protocol):
    """Segments of rows, [B, H, ...]: `covey.diffusion.segments.Segment`."""

    state: jax.Array  # [B, H, S]
    obs: jax.Array  # [B, H, N, O]
    action: jax.Array  # [B, H, N, A]
    reward: jax.Array  # [B, H, N] or [B, H, 1]
    done: jax.Array  # [B, H], 1 where the step ended the episode


@dataclass(frozen=True)
class GeneratedBase:
    """A base of `Coda`; carries are the learner's own.

    eval_episodes, eval_steps: as in `OfflineConfig`.
    """

    env: Any
    learner: OfflineLearner
    eval_episodes: int = 10
    eval_steps: int | None = None

    def __post_init__(self) -> None:
        if getattr(getattr(self.learner, "config", None), "bc_on", "all") == "real":
            raise ValueError("bc_on is 'real'; allowed where a generator mixes segments: all")
        evaluation.episode_steps(self.env, self.eval_steps)  # Raises where there is no number.

    def init(self, key: jax.Array, hp: Any) -> Any:
        return self.learner.init(key, hp)

    def learn(self, carry: Any, segments: Generated, key: jax.Array) -> tuple[Any, Metrics]:
        """One gradient step on a minibatch; noise comes from the carry's own key."""
        done = jnp.asarray(segments.done) > 0.5
        made = from_rows(segments.state, segments.obs, segments.action, segments.reward, done)
        return self.learner.learn(carry, made._replace(real=jnp.ones_like(made.real)))

    def act(self, carry: Any, obs: jax.Array) -> jax.Array:
        """What the policies do, [B, H, N, A] for obs [B, H, N, O], from an empty memory."""
        params = self.learner.policy(carry)
        return jax.vmap(lambda segment: self.learner.actions(params, segment))(obs)

    def state_metrics(self, carry: Any) -> Metrics:
        return {}

    def evaluate(self, carry: Any, key: jax.Array) -> Metrics:
        step, memory = policy_step(self.env, self.learner, self.policy(carry), self.eval_episodes)
        steps = evaluation.episode_steps(self.env, self.eval_steps)
        return evaluation.evaluate(self.env, step, memory, self.eval_episodes, steps, key)

    def policy(self, carry: Any) -> Any:
        return self.learner.policy(carry)

    def episode(self, carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        step, memory = policy_step(self.env, self.learner, self.policy(carry), 1)
        return evaluation.play(self.env, step, memory, evaluation.episode_steps(self.env, self.eval_steps), key)

"""Evaluation of policies: what steps report, summed over episodes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from covey.learners import evaluation
from envs_jax.base import MultiAgentEnv, Outcome, State, flat_box, start_clock
from envs_jax.spaces import Discrete


@dataclass(frozen=True)
class Duel(MultiAgentEnv):
    """Ends at step 3, where even episodes (by a coin of their start) are won."""

    num_agents: int = 2
    max_steps: int | None = 5

    def init(self, key):
        return State(**start_clock()).replace(step=3 * jax.random.bernoulli(key).astype(jnp.int32))

    def observation_space(self, agent=None):
        return flat_box(1)

    def action_space(self, agent=None):
        return Discrete(2)


def test_won_battles_become_a_win_rate():
    """Episodes that begin late are won one step later; what comes after an episode's end does not count."""
    env = Duel()

    def step(state, memory, key):
        ends = (state.step == 2) | (state.step == 3)
        ones = jnp.ones((state.step.shape[0], 2))
        won = (state.step == 3)[:, None] & jnp.array([True, False])
        outcome = Outcome(ones, ends, jnp.zeros_like(ends), {"won": won, "hits": 2.0 * ones})
        return state.replace(step=state.step + 1), memory, outcome

    key = jax.random.key(3)
    metrics = evaluation.evaluate(env, step, None, 64, 5, key)
    starts = jax.vmap(env.init)(jax.random.split(jax.random.split(key)[0], 64)).step
    late = float(np.mean(np.asarray(starts) == 3))
    assert 0.2 < late < 0.8 and "won" not in metrics
    np.testing.assert_allclose(metrics["win_rate"], [late, 0.0], rtol=1e-6)
    np.testing.assert_allclose(metrics["hits"], 2.0 * (late + 3.0 * (1.0 - late)), rtol=1e-6)

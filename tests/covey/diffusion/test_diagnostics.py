"""Diagnostics against NumPy and against samples whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from covey.diffusion import diagnostics

RNG = np.random.default_rng(0)


def test_ceiling_is_the_papers():
    assert diagnostics.log_prob_ceiling(20, 6) == pytest.approx(-110.27, abs=0.01)


def test_log_prob_and_distance_by_hand():
    policy, action = (RNG.normal(size=(7, 4, 2, 3)).astype(np.float32) for _ in range(2))
    got = diagnostics.action_log_prob(jnp.asarray(policy), jnp.asarray(action))
    by_hand = (-0.5 * (action - policy) ** 2 - 0.5 * np.log(2 * np.pi)).sum(axis=(1, 2, 3)).mean()
    assert got == pytest.approx(by_hand, rel=1e-5)
    assert diagnostics.action_log_prob(policy, policy) == pytest.approx(diagnostics.log_prob_ceiling(4, 6), rel=1e-6)
    distance = np.linalg.norm((action - policy).reshape(7, 4, 6), axis=-1).mean()
    assert diagnostics.policy_distance(jnp.asarray(policy), jnp.asarray(action)) == pytest.approx(distance, rel=1e-5)
    mask = np.array([[True, True, False], [True, False, False]])
    spoilt = np.where(mask, action, 99.0)
    assert diagnostics.policy_distance(policy, spoilt, mask) == pytest.approx(
        np.linalg.norm(((action - policy) * mask).reshape(7, 4, 6), axis=-1).mean(), rel=1e-5
    )
    assert diagnostics.action_log_prob(policy, np.where(mask, policy, 99.0), mask) == pytest.approx(
        diagnostics.log_prob_ceiling(4, 3), rel=1e-6
    )


def test_nearest_neighbours_by_brute_force():
    samples, data = RNG.normal(size=(70, 3)).astype(np.float32), RNG.normal(size=(50, 3)).astype(np.float32)
    samples[0] = data[3]
    scale = np.array([1.0, 2.0, 0.5], np.float32)
    want = np.linalg.norm((samples[:, None] - data) / scale, axis=-1).min(axis=1)
    assert np.allclose(diagnostics.support_distance(jnp.asarray(samples), jnp.asarray(data), scale), want, atol=1e-5)


def test_rewards_of_a_team_are_compared_with_the_agents_mean():
    generated, true = np.array([[[1.0]]]), np.array([[[1.0, 2.0]]])
    assert diagnostics.reward_error(jnp.asarray(generated), jnp.asarray(true)) == pytest.approx(0.5)
    assert diagnostics.reward_error(jnp.asarray(true), jnp.asarray(true[..., ::-1])) == pytest.approx(1.0)


def test_done_rate_counts_segments():
    assert diagnostics.done_rate(jnp.array([[0, 0], [0, 1], [1, 1], [0, 0]])) == pytest.approx(0.5)


def test_peak_and_collapse():
    scales = np.array([0.1, 1.0, 10.0])
    assert diagnostics.collapse_scale(scales, np.array([-160.0, -111.0, -150.0])) == (1.0, True)
    assert diagnostics.collapse_scale(scales, np.array([-160.0, -130.0, -111.0])) == (10.0, False)
    assert diagnostics.collapse_scale(scales, np.array([-160.0, -111.0, -111.5])) == (1.0, False)

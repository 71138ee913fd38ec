"""Noise and conflict of gradients, and distances of embeddings, against plain NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe
from scipy import stats

from covey.learners.ppo import PPO, Batch, PPOConfig, PPOHyperparameters
from covey.metrics.embeddings import cosine_distances, distance_test, mean_cosine_distance
from covey.metrics.gradients import coordinate_variance_compat, gradient_conflict, gradient_noise
from covey.policies import PolicyConfig

RNG = np.random.default_rng(0)


def tree(rows):
    """The same gradients [M, 7] as a pytree of two leaves."""
    return {"a": jnp.asarray(rows[:, :6].reshape(-1, 2, 3), jnp.float32), "b": jnp.asarray(rows[:, 6], jnp.float32)}


def test_noise_is_the_trace_of_the_covariance():
    rows = RNG.normal(size=(9, 7)) + 2.0
    noise = gradient_noise(tree(rows))
    trace = np.trace(np.cov(rows.T))
    signal = np.sum(rows.mean(0) ** 2) - trace / 9
    np.testing.assert_allclose([noise.trace, noise.signal, noise.ratio], [trace, signal, trace / signal], rtol=1e-5)


def test_both_estimates_are_unbiased():
    """g = mu + sigma z: tr Cov = 7 sigma^2 and |E g|^2 = |mu|^2, from only two minibatches at a time."""
    mu = np.linspace(-0.5, 0.5, 7)
    rows = jnp.asarray(mu + 0.8 * RNG.normal(size=(20_000, 2, 7)), jnp.float32)
    noise = jax.vmap(gradient_noise)(rows)
    assert np.mean(noise.trace) == pytest.approx(7 * 0.64, rel=0.03)
    assert np.mean(noise.signal) == pytest.approx(np.sum(mu**2), abs=0.06)
    assert np.isinf(noise.ratio).any() and (np.asarray(noise.ratio) > 0).all()


def test_equal_minibatches_have_no_noise_but_a_variance_over_coordinates():
    rows = np.tile(RNG.normal(size=7), (4, 1))
    noise = gradient_noise(tree(rows))
    assert noise.trace < 1e-10 and noise.ratio < 1e-10
    assert coordinate_variance_compat(tree(rows)) == pytest.approx(np.var(rows[0]), rel=1e-5)


def test_the_authors_figure_falls_with_the_number_of_parameters():
    rows = RNG.normal(size=(5, 7))
    assert coordinate_variance_compat(tree(rows)) == pytest.approx(np.mean([np.var(row) for row in rows]), rel=1e-5)
    padded = tree(rows) | {"critic": jnp.zeros((5, 63))}
    assert coordinate_variance_compat(padded) < 0.2 * coordinate_variance_compat(tree(rows))
    np.testing.assert_allclose(gradient_noise(padded), gradient_noise(tree(rows)), rtol=1e-5)


def test_conflict_is_the_mean_cosine_with_its_sign():
    g = np.array([1.0, 2.0, -1.0, 0.5, 0.0, 3.0, 1.0])
    assert gradient_conflict(tree(np.stack([g, 3 * g]))) == pytest.approx(1, abs=1e-6)
    assert gradient_conflict(tree(np.stack([g, -g]))) == pytest.approx(-1, abs=1e-6)
    assert gradient_conflict(tree(np.stack([g, -g, 2 * g]))) == pytest.approx(-1 / 3, abs=1e-6)
    rows = RNG.normal(size=(4, 7))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.mean([unit[i] @ unit[j] for i in range(4) for j in range(i)])
    assert gradient_conflict(tree(rows)) == pytest.approx(expected, abs=1e-6)
    assert gradient_conflict(tree(rows * 1e-30)) == pytest.approx(expected, abs=1e-6)  # squares would be 0
    assert gradient_conflict(tree(np.stack([g, 0 * g, g]))) == pytest.approx(1 / 3, abs=1e-6)


def test_bad_gradients_are_refused():
    with pytest.raises(ValueError, match="grads have 1 minibatch; allowed: at least 2"):
        gradient_noise(tree(np.ones((1, 7))))
    with pytest.raises(ValueError, match="allowed: leaves with the same first axis"):
        gradient_conflict({"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))})
    with pytest.raises(ValueError, match="allowed: leaves with the same first axis"):
        coordinate_variance_compat({"a": jnp.ones(())})


def test_the_docstrings_way_to_gradients_of_a_learner():
    """Minibatches average to the whole gradient; with separate networks agents share nothing, with one network all."""
    env, agents, samples, parts = Probe(), 3, 8, 4

    def ppo(sharing):
        config = PPOConfig(num_envs=2, num_steps=4, num_minibatches=1, normalize_advantages="none")
        return PPO(env, PolicyConfig(sharing=sharing, hidden_sizes=(4,), hypernet_hidden_sizes=(4,)), config)

    shape = (1, agents, samples)
    keys = jax.random.split(jax.random.key(0), 3)
    batch = Batch(
        obs=jax.random.normal(keys[0], (*shape, 2)), global_state=None, mask=None,
        reset=jnp.zeros((1, 1, samples), bool), action=jax.random.randint(keys[1], shape, 0, 3),
        log_prob=jnp.full(shape, -np.log(3.0)), value=jnp.zeros(shape), advantage=jax.random.normal(keys[2], shape),
        target=jnp.zeros(shape), memory=(jnp.zeros((1, agents, samples, 0)),) * 2,
    )  # fmt: skip
    for sharing in ("nops", "hyper_mlp"):
        learner = ppo(sharing)
        carry = learner.init(jax.random.key(0), PPOHyperparameters())

        @jax.jit
        def measure(carry, learner=learner):
            def policy_loss(params, batch):
                return learner.loss(params, batch, carry.hp)[1]["policy_loss"]

            def part(x):
                return jnp.stack(jnp.split(x, parts, axis=2))

            whole = jax.grad(policy_loss)(carry.params, batch)
            each = jax.vmap(jax.grad(policy_loss), in_axes=(None, 0))(carry.params, jax.tree.map(part, batch))
            advantages = batch.advantage * jnp.eye(agents)[:, None, :, None]
            grads = jax.vmap(lambda a: jax.grad(policy_loss)(carry.params, batch._replace(advantage=a)))(advantages)
            return whole, each, grads

        whole, each, grads = measure(carry)
        for name, combine in ((each, jnp.mean), (grads, jnp.sum)):
            jax.tree.map(
                lambda g, w, combine=combine: np.testing.assert_allclose(combine(g, axis=0), w, atol=1e-6), name, whole
            )
        assert gradient_noise(each).trace > 0
        assert (gradient_conflict(grads) == 0) == (sharing == "nops")


# --- Embeddings ---


def test_cosine_distances():
    embeddings = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    np.testing.assert_allclose(cosine_distances(embeddings), [[0, 1, 2], [1, 0, 1], [2, 1, 0]], atol=1e-6)
    assert mean_cosine_distance(embeddings) == pytest.approx(4 / 3)


def test_distance_test_over_seeds():
    orthogonal = np.stack([np.linalg.qr(RNG.normal(size=(4, 4)))[0] for _ in range(6)])
    close = orthogonal + RNG.choice([-1, 1], size=(6, 1, 4)) * RNG.uniform(0.3, 0.5, size=(6, 1, 1))
    unit = close / np.linalg.norm(close, axis=-1, keepdims=True)
    distances = np.array([np.mean([1 - e[i] @ e[j] for i in range(4) for j in range(i)]) for e in unit])
    test = distance_test(close)
    assert test.mean == pytest.approx(distances.mean(), rel=1e-5)
    assert test.deviation == pytest.approx(distances.std(ddof=1), rel=1e-4)
    assert test.p_value == pytest.approx(stats.ttest_1samp(distances, 1.0)[1], rel=1e-3) and test.p_value < 0.05
    assert distance_test(orthogonal + 1e-3 * RNG.normal(size=orthogonal.shape)).p_value > 0.01
    allowed = r"allowed: one table \[S, N, E\] of at least 2 seeds"
    with pytest.raises(ValueError, match=rf"embeddings has shape \(1, 4, 4\); {allowed}"):
        distance_test(close[:1])
    with pytest.raises(ValueError, match=rf"embeddings has shape \['actor', 'critic'\]; {allowed}"):  # Tables of each.
        distance_test({"actor": close, "critic": close})  # type: ignore[arg-type]

"""Kaleidoscope: its masks against NumPy, equality with full sharing, what moves masks, resets, learning."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs_jax
from covey.experiment import make_train, seed_keys
from covey.learners.kaleidoscope import KaleidoscopeHyperparameters, KaleidoscopeMATD3, _with_distance
from covey.learners.matd3 import MATD3Config
from covey.policies import PolicyConfig
from covey.policies.kaleidoscope import Kaleidoscope, MaskConfig
from covey.policies.networks import MLP
from covey.policies.sharing import FullSharing

ROOT = Path(__file__).parents[2]
NETWORKS = {"actor": MLP(3, 2, (8, 8), "relu", 1.0)}
MATRICES = ("hidden_0/kernel", "hidden_1/kernel", "output/kernel")
CONFIG = MATD3Config(
    num_envs=8, num_steps=4, buffer_size=1024, gradient_steps=8, batch_size=32, critic_hidden_sizes=(16,),
    critic="team", others="policy", eval_episodes=1,
)  # fmt: skip
HP = KaleidoscopeHyperparameters(learning_rate=3e-3, critic_learning_rate=3e-3, target_rate=0.05, warmup_steps=64.0)


def learner(masks, **changes):
    env = envs_jax.make("polynomial/multiplication")
    return KaleidoscopeMATD3(env, PolicyConfig("fups", hidden_sizes=(16,)), replace(CONFIG, **changes), masks)


def params_of(scheme, seed=0):
    return scheme.init(jax.random.key(seed), NETWORKS)


def test_weights_distance_and_sparsity_are_the_papers():
    scheme = Kaleidoscope(3, MaskConfig(threshold_bias=0.5, threshold_scale=2.0))
    params = params_of(scheme)
    weights, total, size, off = scheme.weights(params, NETWORKS)["actor"], 0.0, 0, np.zeros(3)
    for layer, name in enumerate(MATRICES):
        w = np.asarray(params["shared"]["actor"][name], np.float64)
        sigma = 1 / (1 + np.exp(-np.asarray(params["threshold"]["actor"][name], np.float64)))
        assert sigma.shape == (3, *w.shape)
        expected = np.sign(w) * np.maximum(np.abs(w) - sigma, 0)
        np.testing.assert_allclose(weights[name], expected, atol=1e-6)
        mask = np.abs(w) > sigma
        for i in range(3):
            for j in range(3):
                total += 2.0**layer * np.sum(np.abs(mask[i] ^ mask[j]) * np.abs(w))
        size, off = size + w.size, off + (~mask).sum(axis=(1, 2))
    np.testing.assert_allclose(scheme.distance(params, NETWORKS), total / 6 / size, rtol=1e-5)
    np.testing.assert_allclose(scheme.sparsity(params), off / size, rtol=1e-6)
    assert 0.1 < np.mean(off / size) < 0.9  # else this proves little


def test_without_thresholds_it_is_full_sharing():
    masked, plain = Kaleidoscope(4, MaskConfig(threshold_bias=200.0, threshold_scale=0.0)), FullSharing(4)
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 3))
    outputs = []
    for scheme in (masked, plain):
        weights = scheme.weights(params_of(scheme), NETWORKS)["actor"]
        memory, reset = jnp.zeros((4, 5, 0)), jnp.zeros((1, 1, 5), bool)
        outputs.append(scheme.unroll(NETWORKS["actor"], weights, scheme.identify(x), memory, reset)[0])
        for name in MATRICES:
            np.testing.assert_array_equal(weights[name], jnp.broadcast_to(weights[name][:1], weights[name].shape))
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)
    masked_weights, plain_weights = (s.weights(params_of(s), NETWORKS)["actor"] for s in (masked, plain))
    for name in masked_weights:
        np.testing.assert_array_equal(masked_weights[name][:1], plain_weights[name])


def test_sparsity_grows_with_the_threshold():
    sparsities = []
    for bias in (8.0, 4.0, 2.0, 1.0, 0.0):
        scheme = Kaleidoscope(2, MaskConfig(threshold_bias=bias, threshold_scale=0.0))
        sparsities.append(float(scheme.sparsity(params_of(scheme)).mean()))
    assert sparsities == sorted(sparsities) and sparsities[0] < 0.02 and sparsities[-1] > 0.7


def test_the_distance_drives_apart_masks_that_differ_and_touches_nothing_else():
    scheme = Kaleidoscope(2, MaskConfig(threshold_bias=1.0, threshold_scale=2.0))
    params = params_of(scheme)
    gradient = jax.jit(jax.grad(lambda p: scheme.distance(p, NETWORKS)))(params)
    assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(gradient["shared"]))
    compared = 0
    for name in MATRICES:
        w, s = np.asarray(params["shared"]["actor"][name]), np.asarray(params["threshold"]["actor"][name])
        mask = np.abs(w) > 1 / (1 + np.exp(-s))
        differ = mask[0] != mask[1]
        compared += differ.sum()
        # A mask that lets a weight through gets a lower threshold, the other one a higher.
        np.testing.assert_array_equal(np.sign(gradient["threshold"]["actor"][name]), np.where(mask, -1, 1) * differ)
    assert compared > 5


@pytest.mark.parametrize(("distance", "factor"), [(0.5, 4.0), (0.0, 1.0)])
def test_the_weight_of_the_distance_follows_the_loss(distance, factor):
    loss, d = jnp.float32(-2.0), jnp.float32(distance)
    value, (by_loss, by_distance) = jax.value_and_grad(_with_distance, argnums=(0, 1))(loss, d, 0.1)
    np.testing.assert_allclose([value, by_loss, by_distance], [-2.0 - 0.1 * factor * distance, 1.0, -0.1 * factor])


def test_a_reset_draws_anew_only_what_every_mask_switched_off():
    scheme = Kaleidoscope(2, MaskConfig(threshold_bias=0.5, threshold_scale=1.0))
    params = params_of(scheme)
    revived = jax.jit(lambda p, r: scheme.revive(p, NETWORKS, jax.random.key(3), r))(params, 0.5)
    for name in MATRICES:
        w, s = np.asarray(params["shared"]["actor"][name]), np.asarray(params["threshold"]["actor"][name])
        dead = (np.abs(w) <= 1 / (1 + np.exp(-s))).all(axis=0)
        changed = np.asarray(revived["shared"]["actor"][name]) != w
        moved = (np.asarray(revived["threshold"]["actor"][name]) != s).any(axis=0)
        assert not (changed & ~dead).any()
        np.testing.assert_array_equal(changed, moved)
        if name == MATRICES[0]:
            assert not changed.any() and dead.any()
        else:
            assert 0.2 < changed.sum() / dead.sum() < 0.8
    none = scheme.revive(params, NETWORKS, jax.random.key(3), 0.0)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), none, params)))


def test_masks_stay_different_where_the_distance_counts():
    """All agents are to have the same dense weights: alone, masks open for all; with the distance, they do not."""
    scheme = Kaleidoscope(3, MaskConfig(threshold_bias=0.0, threshold_scale=3.0, layer_growth=1.0))
    goal = {name: 0.7 * leaf.init(jax.random.key(7)) for name, leaf in NETWORKS["actor"].leaves().items()}

    def loss(params, weight):
        weights = scheme.weights(params, NETWORKS)["actor"]
        error = sum(jnp.mean(jnp.square(weights[name] - goal[name])) for name in MATRICES)
        return _with_distance(error, scheme.distance(params, NETWORKS), weight)

    @jax.jit
    def descend(params, weight):
        optimizer = optax.adam(0.02)

        def step(loop, _):
            params, state = loop
            updates, state = optimizer.update(jax.grad(loss)(params, weight), state)
            return (optax.apply_updates(params, updates), state), scheme.distance(params, NETWORKS)

        return jax.lax.scan(step, (params, optimizer.init(params)), length=300)[1]

    start, alone, along = descend(params_of(scheme), 0.0)[0], *(descend(params_of(scheme), w)[-1] for w in (0.0, 10.0))
    assert alone < 0.6 * start and along > 2.0 * alone


@pytest.fixture(scope="module")
def trained():
    """A run without and one with the weight of the distance, seeds alike: the state and metrics [U, 2]."""
    hp = replace(HP, diversity=jnp.array([0.0, 5.0]), critic_diversity=jnp.array([0.0, 5.0]))
    keys = jnp.concatenate([seed_keys(0, 1)] * 2)
    masks = MaskConfig(num_critics=3, threshold_bias=1.0, threshold_scale=2.0, reset_interval=320)
    train = jax.jit(make_train(learner(masks), num_updates=30, num_evaluations=2))
    return train(keys, hp)


def test_training_reports_masks_and_depends_on_their_distance(trained):
    _, metrics = trained
    assert np.isfinite(metrics["train/critic_loss"][-1]).all() and metrics["train/sparsity"].shape == (30, 2, 2)
    for name in ("train/actor_mask_distance", "train/critic_mask_distance"):
        assert (np.asarray(metrics[name][-1]) > 0).all()
    assert metrics["train/critic_loss"][-1, 0] != metrics["train/critic_loss"][-1, 1]


def test_critics_are_masks_of_one(trained):
    state, _ = trained
    critic = state.carries.trained.params["critic"]
    assert {leaf.shape[1] for leaf in jax.tree.leaves(critic["threshold"])} == {3}
    own = learner(MaskConfig(num_critics=3))
    params = jax.tree.map(lambda x: x[0], critic)
    x = jax.random.normal(jax.random.key(0), (1, 6, own.critic.input_size))
    values = own.critic.values(params, x)
    assert values.shape == (3, 1, 6) and float(jnp.std(values, axis=0).max()) > 0
    np.testing.assert_allclose(own.critic.value(own.critic.first(params), x), values[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: MaskConfig(num_critics=-1), "num_critics is -1"),
        (lambda: MaskConfig(layer_growth=0.0), "layer_growth is 0.0"),
        (lambda: MaskConfig(reset_interval=-5), "reset_interval is -5"),
        (lambda: replace(HP, diversity=-1.0), "diversity is -1.0"),
        (lambda: replace(HP, reset_ratio=2.0), "reset_ratio is 2.0"),
        (lambda: learner(MaskConfig(), critic="per_agent"), "critic is 'per_agent'.*num_critics = 0"),
        (lambda: replace(learner(MaskConfig()), policy_config=PolicyConfig("nops")), "sharing is 'nops'.*fups"),
    ],
)
def test_bad_settings(change, said):
    with pytest.raises(ValueError, match=said):
        change()


def test_command_line(tmp_path):
    """A typo is one line; a run leaves its folder."""

    def call(*argv):
        command = [sys.executable, str(ROOT / "baselines" / "kaleidoscope.py"), *argv]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)

    wrong = call("multiplication", "--diversty", "1")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "--diversity" in wrong.stderr
    small = ["--num-updates", "4", "--num-evaluations", "2", "--chunks", "2", "--num-seeds", "1", "--no-video"]
    small += ["--hidden-sizes", "8", "--critic-hidden-sizes", "8", "--num-envs", "4", "--eval-episodes", "1"]
    done = call("multiplication", *small, "--warmup-steps", "64", "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    assert "train/sparsity/agent_1" in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]

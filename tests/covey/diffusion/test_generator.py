"""The generator on small data: guidance moves what it should and nothing else, and samples are like the data."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.diffusion import (
    EDMConfig,
    FitHyperparameters,
    Generator,
    GeneratorConfig,
    Layout,
    UNetConfig,
    diffused_data,
    from_arrays,
    guidance,
)

# Two agents; the second has one action, and its other one is padding.
LAYOUT = Layout(num_agents=2, obs_size=2, action_size=2, state_size=1, own_actions=(2, 1))
H, N_SEGMENTS = 3, 400


def toy_data(kind="probit"):
    """Segments whose actions 0 and 1 are correlated, and whose reward is their product; the state is constant."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(N_SEGMENTS, H, 4))
    action = np.clip(0.4 * rng.normal(size=(N_SEGMENTS, H, 4)), -1, 1)
    action[..., 1] = np.clip(0.8 * action[..., 0] + 0.1 * rng.normal(size=(N_SEGMENTS, H)), -1, 1)
    action[..., 3] = 0.0
    reward = action[..., :1] * action[..., 1:2]
    done = np.zeros((N_SEGMENTS, H, 1))
    done[::4, -1] = 1.0
    rows = np.concatenate([np.full((N_SEGMENTS, H, 1), 0.5), obs, action, reward, done], axis=-1)
    return from_arrays(rows, kind), rows


def make(horizon=H, **config):
    data, _ = toy_data()
    edm = EDMConfig(num_steps=6)
    return Generator(
        LAYOUT,
        data.normaliser.varying,
        horizon,
        GeneratorConfig(fit_steps=2, fit_batch_size=8, **config),
        UNetConfig(features=4, levels=1, norm_groups=1),
        edm,
    ), data


def test_layout_splits_what_it_joins():
    rows = np.arange(2 * 3 * 11, dtype=np.float32).reshape(2, 3, 11)
    segment = LAYOUT.split(jnp.asarray(rows))
    assert LAYOUT.num_channels == 11 and np.array_equal(LAYOUT.join(segment), rows)
    assert segment.action.shape == (2, 3, 2, 2) and (segment.action[0, 0].reshape(-1) == rows[0, 0, 5:9]).all()
    assert LAYOUT.action_channels.tolist() == [5, 6, 7, 8] and LAYOUT.reward_channels.tolist() == [9]
    done = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    made = segment._replace(done=done).segments()
    assert made.mask.tolist() == [[True, True, False, False], [True, True, True, False]]


def test_flat_rows_and_plain_segments_are_the_same_data():
    data, rows = toy_data()
    starts = np.arange(N_SEGMENTS) * H
    flat = diffused_data(rows.reshape(-1, 11), starts[20:], starts[:20])
    for start in (0, 60):
        back = flat.normaliser.inverse(flat.segments(jnp.array([start]), H)[0])
        assert np.allclose(back, rows[start // H], atol=1e-2)
    assert np.array_equal(flat.diffused, data.diffused)
    both = np.concatenate([data.starts, data.held_out])
    assert sorted(both.tolist()) == starts.tolist() and len(data.held_out) == N_SEGMENTS // 20


def test_guidance_moves_actions_alone_and_padding_never():
    """cos(g, mu - a) = 1 and norm 1 on actions; exactly 0 elsewhere. No padding: it is not even diffused."""
    generator, data = make()
    mu = jnp.array([[0.3, -0.2], [0.5, 99.0]])  # what the policy says of the padding must not matter
    score = guidance.unit_variance(lambda obs: jnp.broadcast_to(mu, (*obs.shape[:2], 2, 2)))
    z = jax.random.normal(jax.random.key(0), (5, H, len(generator.varying)))
    moved = np.asarray(generator._guide(score, data.normaliser)(z))
    where, which = generator.guided
    assert which.tolist() == [0, 1, 2] and 8 not in generator.varying
    others = np.setdiff1d(np.arange(len(generator.varying)), where)
    assert (moved[..., others] == 0).all()
    action = np.asarray(LAYOUT.split(data.normaliser.inverse(z)).action).reshape(5, H, 4)[..., :3]
    want = np.asarray(mu).reshape(-1)[:3] - action
    want /= np.linalg.norm(want.reshape(5, -1), axis=1)[:, None, None]
    assert np.allclose(moved[..., where], want, atol=1e-5)


def test_chain_rule_is_the_derivative_through_the_map():
    generator, data = make(chain_rule=True)
    score = lambda obs, action: jnp.ones_like(action)  # noqa: E731
    z = 0.5 * jax.random.normal(jax.random.key(0), (2, H, len(generator.varying)))
    where, _ = generator.guided
    slope = jax.jacfwd(lambda x: data.normaliser.inverse(x, tuple(map(int, where))))(z[0, 0, where])
    moved = np.asarray(generator._guide(score, data.normaliser)(z))[0, 0, where]
    diagonal = np.diagonal(slope)
    assert np.allclose(moved / np.linalg.norm(moved), diagonal / np.linalg.norm(diagonal), atol=1e-4)


def test_no_guidance_equals_lambda_zero_bit_by_bit_and_constants_survive():
    generator, data = make()
    params = jax.jit(generator.init)(jax.random.key(0))
    params["params"]["leave"]["kernel"] += 0.3
    score = guidance.unit_variance(lambda obs: jnp.zeros((*obs.shape[:2], 2, 2)))
    sample = partial(generator.sample, params, jax.random.key(1), 16, data.normaliser)
    plain = np.asarray(jax.jit(sample)())
    guided = jax.jit(lambda scale: sample(score=score, guidance_scale=scale))
    assert np.array_equal(plain, guided(0.0)) and not np.array_equal(plain, guided(0.5))
    assert (plain[..., 0] == 0.5).all() and (plain[..., 8] == 0).all()
    assert set(np.unique(plain[..., -1])) <= {0.0, 1.0} and np.isfinite(plain).all()


def test_classifier_free_guidance_mixes_two_denoisers():
    generator, data = make()
    generator = replace(generator, condition_size=1, condition_of=lambda z: z[:, 0, :1])
    params = jax.jit(generator.init)(jax.random.key(0))
    params["params"]["leave"]["kernel"] += 0.3
    params["params"]["anything"] += 1.0
    x, sigma, y = jax.random.normal(jax.random.key(1), (4, H, 9)), jnp.float32(0.7), jnp.array([2.0])

    def ask(known):
        network = lambda x, noise: generator.network.apply(  # noqa: E731
            params, x, noise, jnp.broadcast_to(y, (4, 1)), jnp.full(4, known)
        )
        from covey.diffusion import edm

        return np.asarray(edm.precondition(network, x, sigma, 1.0))

    conditional, unconditional = ask(True), ask(False)
    assert np.abs(conditional - unconditional).max() > 1e-3
    for w in (0.0, 1.0):
        got = generator._denoiser(params, y, w)(x, sigma)
        assert np.allclose(got, (1 + w) * conditional - w * unconditional, atol=1e-5)


def test_fit_learns_the_distribution_of_segments():
    """Mean, deviation and correlation of samples after a short fit; the losses fall, on held-out data too."""
    data, rows = toy_data()
    config = GeneratorConfig(fit_steps=400, fit_batch_size=64)
    generator = Generator(
        LAYOUT, data.normaliser.varying, H, config, UNetConfig(features=16, levels=1), EDMConfig(num_steps=12)
    )
    hp = FitHyperparameters(ema_decay=0.99)

    def run(key):
        params, curve = generator.fit(key, hp, data)
        return generator.sample(params, key, 1000, data.normaliser), curve

    samples, curve = jax.jit(run)(jax.random.key(0))
    assert curve.shape == generator.curve_shape and (curve[-1] < 0.9 * curve[0]).all()
    samples = np.asarray(samples)
    truth = rows.reshape(-1, 11)
    got = samples.reshape(-1, 11)
    scale = truth.std(axis=0)[1:8]
    assert (np.abs(got.mean(axis=0) - truth.mean(axis=0))[1:8] < 0.12 * scale).all()
    assert (np.abs(got.std(axis=0) - truth.std(axis=0))[1:8] < 0.15 * scale).all()
    assert abs(np.corrcoef(got[:, 5], got[:, 6])[0, 1] - np.corrcoef(truth[:, 5], truth[:, 6])[0, 1]) < 0.1
    assert 0.1 < samples[:, -1, -1].mean() < 0.4 and samples[:, 0, -1].mean() < 0.05, "done at the end, in a quarter"


def test_learning_rate_warms_up_and_cools_down():
    generator, _ = make()
    generator = replace(generator, config=replace(generator.config, fit_steps=1000))
    rate = np.array([float(generator._rate(jnp.float32(i))) for i in (0, 24, 49, 525, 999)])
    assert np.allclose(rate, [0.02, 0.5, 1.0, 0.5, 0.0], atol=2e-3)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"fit_steps": 0}, "fit_steps is 0"),
        ({"normaliser": "cdf"}, "normaliser is 'cdf'; allowed: probit, logit, uniform, zscore"),
        ({"knots": 1}, "knots is 1"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**change)


def test_bad_segments_are_named():
    with pytest.raises(ValueError, match=r"segments has shape \(1, 3, 2\)"):
        from_arrays(np.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match="condition_dropout is 2.0"):
        FitHyperparameters(condition_dropout=2.0)

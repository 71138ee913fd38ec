"""The denoiser's network: any horizon, convolution as a convolution, conditions that can be left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.diffusion.unet import Convolution, TemporalUNet, UNetConfig, init_unet


def make(horizon, channels=3, condition=0, **sizes):
    network = TemporalUNet(UNetConfig(**({"features": 4, "norm_groups": 1} | sizes)), horizon)
    params = jax.jit(lambda key: init_unet(network, key, channels, condition))(jax.random.key(0))
    # The exit starts at 0, which would hide all else.
    params["params"]["leave"]["kernel"] = jax.random.normal(
        jax.random.key(1), params["params"]["leave"]["kernel"].shape
    )
    return jax.jit(network.apply), params


@pytest.mark.parametrize("horizon", [1, 5, 20])
def test_works_at_every_horizon_and_sees_all_of_it(horizon):
    apply, params = make(horizon)
    x = jax.random.normal(jax.random.key(2), (2, horizon, 3))
    function = lambda x: apply(params, x, jnp.zeros(2))  # noqa: E731
    y, moved = jax.jvp(function, (x,), (jnp.zeros_like(x).at[0, 0].set(1.0),))
    assert y.shape == x.shape and np.isfinite(y).all()
    assert (np.abs(moved[0]).sum(-1) > 0).all(), "the first step reaches all steps, through norms and halved lengths"
    assert (moved[1] == 0).all(), "samples do not meet"


def test_starts_at_zero_and_embeds_place_and_noise():
    config = UNetConfig(features=4, norm_groups=2)
    network = TemporalUNet(config, 6)
    params = jax.jit(lambda key: init_unet(network, key, 3))(jax.random.key(0))
    x = jnp.ones((2, 6, 3))
    assert (jax.jit(network.apply)(params, x, jnp.zeros(2)) == 0).all()
    apply, params = make(6)
    y = np.asarray(apply(params, x, jnp.array([0.0, 1.0])))
    assert np.abs(y[0, 1] - y[0, 2]).max() > 1e-4, "equal steps at different places"
    assert np.abs(y[0] - y[1]).max() > 1e-4, "equal segments at different noise"


def test_convolution_is_one():
    """Against numpy's, for one channel in and one out."""
    convolution, x = Convolution(width=1, kernel=3), jax.random.normal(jax.random.key(0), (1, 7, 1))
    variables = jax.jit(convolution.init)(jax.random.key(1), x)
    kernel = np.asarray(variables["params"]["taps"]["kernel"])[:, 0]
    got = np.asarray(convolution.apply(variables, x))[0, :, 0]
    assert np.allclose(got, np.correlate(np.pad(np.asarray(x)[0, :, 0], 1), kernel, "valid"), atol=1e-6)
    one_step = jax.eval_shape(convolution.init, jax.random.key(1), x[:, :1])
    assert one_step["params"]["taps"]["kernel"].shape == (1, 1), "no taps that meet nothing but padding"


def test_unknown_conditions_do_not_matter_and_known_ones_do():
    apply, params = make(1, condition=2)
    params["params"]["anything"] = jnp.ones(4)
    x, noise = jnp.ones((3, 1, 3)), jnp.zeros(3)
    known = jnp.array([True, False, False])
    y = apply(params, x, noise, jnp.array([[0.0, 1.0], [5.0, 5.0], [0.0, 1.0]]), known)
    assert np.array_equal(y[1], y[2]) and np.abs(y[0] - y[2]).max() > 1e-4
    all_known = apply(params, x, noise, jnp.array([[0.0, 1.0], [5.0, 5.0], [0.0, 1.0]]))
    assert np.allclose(all_known[0], y[0], atol=1e-6) and np.abs(all_known[1] - y[1]).max() > 1e-4


def test_parameters_start_at_their_scale():
    init = lambda features: init_unet(TemporalUNet(UNetConfig(features=features), 20), jax.random.key(0), 49)  # noqa: E731
    params = jax.jit(lambda: init(64))()["params"]
    for layer in ("enter", "down_1_embedding", "up_0_skip"):
        kernel = np.asarray(params[layer]["kernel"])
        assert abs(kernel.std() * kernel.shape[0] ** 0.5 - 1) < 0.05
    assert (params["down_0_norm_1"]["scale"] == 1).all() and (params["enter"]["bias"] == 0).all()
    count = sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda: init(16))))
    assert 10_000 < count < 50_000, "of the paper's order"


@pytest.mark.parametrize(
    "change,message",
    [
        ({"features": 18}, "features is 18; allowed: an even multiple of norm_groups = 4"),
        ({"kernel": 2}, "kernel is 2; allowed: an odd number"),
        ({"levels": 0}, "levels is 0"),
    ],
)
def test_bad_sizes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**change)

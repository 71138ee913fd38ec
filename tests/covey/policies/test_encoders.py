"""Encoders of grids: equal to convolutions on one-hots and on pixels, agents apart, ids around, never generated."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.policies import ActorCritic, PolicyConfig
from covey.policies.encoders import GridEncoder, make_encoder
from envs_jax.spaces import Box

N, B, V, CODES = 3, 5, 5, (9, 8)
SYMBOLS = Box(0, 255, (V, V, 2), np.dtype(np.uint8))
SMALL = PolicyConfig(
    hidden_sizes=(8,), hypernet_hidden_sizes=(6,), recurrent_size=8, encoder_channels=4, encoder_size=7
)


def random_weights(encoder, agents=1, key=0):
    leaves = encoder.leaves()
    keys = jax.random.split(jax.random.key(key), len(leaves))
    return {
        name: jax.random.normal(k, (agents, *leaf.shape)) * 0.3
        for (name, leaf), k in zip(leaves.items(), keys, strict=True)
    }


def random_symbols(agents=N, batch=B, planes=2, seed=0):
    rng = np.random.default_rng(seed)
    grid = [rng.integers(0, count, (agents, batch, V, V)) for count in (*CODES, 256, 256)[:planes]]
    return np.stack(grid, -1).astype(np.uint8)


def one_hot(symbols):
    parts = [symbols[..., p, None] == np.arange(count) for p, count in enumerate(CODES)]
    return np.concatenate(parts, -1).astype(np.float32)  # [..., V, V, 17]


def convolve(x, kernel, bias, size, stride=1):
    """ReLU of XLA's own convolution of [B, V, V, I] with a kernel [size^2 I, O]."""
    kernel = kernel.reshape(size, size, x.shape[-1], -1)
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    return jax.nn.relu(y + bias)


def flat(x):
    return x.reshape(*x.shape[:2], -1)


@pytest.mark.parametrize("agents", [1, N])
@pytest.mark.parametrize("conv_channels,size", [((), 0), ((), 7), ((6,), 0), ((6, 3), 7)])
def test_symbols_equal_convolutions_on_one_hots(conv_channels, size, agents):
    encoder = GridEncoder((V, V, 2), CODES, 4, conv_channels, size)
    weights, symbols = random_weights(encoder, agents), random_symbols()
    ours = encoder.encode(weights, jnp.asarray(flat(symbols)))
    for agent in range(N):
        own = {name: w[agent % agents] for name, w in weights.items()}
        x = convolve(one_hot(symbols[agent]), own["cells/kernel"], own["cells/bias"], 1)
        for i in range(len(conv_channels)):
            x = convolve(x, own[f"conv_{i}/kernel"], own[f"conv_{i}/bias"], 3)
        x = x.reshape(B, -1)
        if size:
            x = jax.nn.relu(x @ own["all/kernel"] + own["all/bias"])
        np.testing.assert_allclose(ours[agent], x, rtol=2e-5, atol=1e-5)
    assert ours.shape == (N, B, encoder.features)


def test_symbols_equal_one_dense_layer_on_the_flat_one_hot():
    """The same matrix for each cell, on the diagonal of one that takes all cells."""
    encoder = GridEncoder((V, V, 2), CODES, 4, size=0)
    weights, symbols = random_weights(encoder), random_symbols()
    diagonal = np.kron(np.eye(V * V), np.asarray(weights["cells/kernel"][0]))
    expected = one_hot(symbols).reshape(N, B, -1) @ diagonal + np.tile(weights["cells/bias"][0], V * V)
    ours = encoder.encode(weights, jnp.asarray(flat(symbols)))
    np.testing.assert_allclose(ours, np.maximum(expected, 0.0), rtol=2e-5, atol=1e-6)


def test_gradients_equal_those_of_the_product_with_one_hots():
    encoder = GridEncoder((V, V, 2), CODES, 4, size=7)
    weights, symbols = random_weights(encoder, N), random_symbols()
    obs, cells = jnp.asarray(flat(symbols)), jnp.asarray(one_hot(symbols).reshape(N, B * V * V, -1))

    def product(weights):
        x = jax.nn.relu(jnp.einsum("nbi,nio->nbo", cells, weights["cells/kernel"]) + weights["cells/bias"][:, None])
        x = jnp.einsum("nbi,nio->nbo", x.reshape(N, B, -1), weights["all/kernel"]) + weights["all/bias"][:, None]
        return jnp.sum(jax.nn.relu(x) ** 2)

    ours = jax.grad(lambda w: jnp.sum(encoder.encode(w, obs) ** 2))(weights)
    for name, expected in jax.grad(product)(weights).items():
        np.testing.assert_allclose(ours[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_pixels_equal_a_strided_convolution():
    encoder = GridEncoder((8 * V, 8 * V, 3), (), 4, (6,), 7)
    weights = random_weights(encoder)
    pixels = np.random.default_rng(0).integers(0, 256, (N, B, 8 * V, 8 * V, 3)).astype(np.uint8)
    ours = encoder.encode(weights, jnp.asarray(flat(pixels)))
    own = {name: w[0] for name, w in weights.items()}
    for agent in range(N):
        x = convolve(pixels[agent] / np.float32(255), own["cells/kernel"], own["cells/bias"], 8, stride=8)
        x = convolve(x, own["conv_0/kernel"], own["conv_0/bias"], 3)
        x = jax.nn.relu(x.reshape(B, -1) @ own["all/kernel"] + own["all/bias"])
        np.testing.assert_allclose(ours[agent], x, rtol=1e-4, atol=1e-4)


def test_further_planes_and_ids_pass_around():
    encoder = GridEncoder((V, V, 4), CODES, 4, size=7)
    symbols = random_symbols(planes=4)
    symbols[..., 2:] = symbols[:, :, :1, :1, 2:]  # One number for the whole grid.
    features = encoder.encode(random_weights(encoder), jnp.asarray(flat(symbols)))
    assert features.shape[-1] == encoder.features == 7 + 2
    np.testing.assert_allclose(features[..., 7:], symbols[:, :, 0, 0, 2:] / np.float32(255), rtol=1e-6)

    ac = make(sharing="fups_id")
    assert ac.networks["actor"].body.inputs == 7 + N
    weights = ac.weights(ac.init(jax.random.key(0)))
    same = jnp.broadcast_to(flat(random_symbols())[:1], (N, B, V * V * 2))[None]
    logits, _ = ac.policy(weights, same, ac.start(B)[0], jnp.zeros((1, 1, B), bool))
    assert len(np.unique(np.asarray(logits[0, :, 0, 0]))) == N  # Told apart by their ids alone.


def test_codes_out_of_range_count_as_the_last():
    encoder = GridEncoder((V, V, 2), CODES, 4, size=0)
    weights, symbols = random_weights(encoder), random_symbols()
    last = np.minimum(symbols * 0 + 255, np.array([8, 7])).astype(np.uint8)
    strange = encoder.encode(weights, jnp.full(flat(symbols).shape, 255, jnp.uint8))
    np.testing.assert_array_equal(strange, encoder.encode(weights, jnp.asarray(flat(last))))


# --- In a network ---


def make(space=SYMBOLS, **changes):
    config = replace(SMALL, **changes)
    return ActorCritic(config, N, int(np.prod(space.shape)), 5, obs_space=space)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("sharing", ["fups", "fups_id", "fups_id_only", "fups_matched", "nops", "hyper_mlp"])
def test_every_scheme_takes_grids(sharing, recurrent):
    ac = make(sharing=sharing, recurrent=recurrent)
    params = ac.init(jax.random.key(0))
    obs = jnp.asarray(flat(random_symbols())).astype(ac.obs_dtype)
    obs, reset = jnp.stack([obs, obs[:, ::-1]]), jnp.zeros((2, 1, B), bool)

    def outputs(params):
        weights, (actor, critic) = ac.weights(params), ac.start(B)
        return ac.policy(weights, obs, actor, reset)[0], ac.value(weights, obs, critic, reset)[0]

    logits, values = jax.jit(outputs)(params)
    assert logits.shape == (2, N, B, 5) and values.shape == (2, N, B)
    assert jnp.isfinite(logits).all() and jnp.isfinite(values).all()
    assert ac.obs_dtype == (jnp.float32 if sharing == "fups_id_only" else jnp.uint8)


def test_agents_without_sharing_are_separate():
    ac = make(sharing="nops")
    params = ac.init(jax.random.key(0))
    obs, reset = jnp.asarray(flat(random_symbols()))[None], jnp.zeros((1, 1, B), bool)

    def values(params):
        return ac.value(ac.weights(params), obs, ac.start(B)[1], reset)[0]

    grads = jax.grad(lambda p: jnp.sum(values(p)[0, 1]))(params)["critic"]  # Of agent 1 alone.
    for name in ("encoder/cells/kernel", "encoder/all/kernel", "hidden_0/kernel"):
        assert jnp.any(grads[name][1] != 0.0) and not jnp.any(grads[name][jnp.array([0, 2])])
    kernel = params["critic"]["encoder/cells/kernel"]
    assert not jnp.allclose(kernel[0], kernel[1])


@pytest.mark.parametrize("sharing", ["hyper_linear", "hyper_mlp"])
def test_hypernetworks_do_not_generate_encoders(sharing):
    ac = make(sharing=sharing)
    weights = ac.weights(ac.init(jax.random.key(0)))["actor"]
    for name, weight in weights.items():
        assert weight.shape[0] == (1 if name.startswith("encoder/") else N), name


def test_features_start_at_unit_scale():
    for space, encoder in ((SYMBOLS, "symbols"), (Box(0, 255, (8 * V, 8 * V, 3), np.dtype(np.uint8)), "pixels")):
        ac = make(space, encoder=encoder, encoder_size=0, sharing="fups", encoder_channels=16)
        weights = ac.weights(ac.init(jax.random.key(0)))["actor"]
        own = {name.removeprefix("encoder/"): w for name, w in weights.items() if name.startswith("encoder/")}
        obs = random_symbols(batch=64) if encoder == "symbols" else np.full((N, 64, *space.shape), 255, np.uint8)
        x = ac.encoder.encode(own, jnp.asarray(flat(obs)))
        if encoder == "symbols":
            assert 0.6 < float(jnp.sqrt(jnp.mean(x**2))) < 1.6
        assert jnp.any(x > 0)


def test_the_space_chooses_the_encoder():
    def chosen(shape, dtype=np.uint8, **kwargs):
        settings = {"name": "auto", "codes": CODES, "channels": 4, "conv_channels": (), "size": 7} | kwargs
        return make_encoder(space=Box(0, 255, shape, np.dtype(dtype)), **settings)

    assert chosen((11, 11, 2)).codes == CODES and chosen((11, 11, 2)).cells == (11, 11)
    assert chosen((11, 11, 6)).features == 7 + 4
    assert chosen((88, 88, 3)).codes == () and chosen((88, 88, 3)).cells == (11, 11)
    assert chosen((88, 88, 7)).features == 7 + 4
    assert chosen((11, 11, 2), np.float32) is None and chosen((30,)) is None and chosen((11, 11, 1)) is None
    assert chosen((11, 11, 2), name="flat") is None
    for message, shape, changes in (
        ("encoder is 'pixels'; allowed", (11, 11, 2), {"name": "pixels"}),
        ("encoder is 'symbols'; allowed", (30,), {"name": "symbols"}),
        ("conv_channels is .*at most 5 layers", (11, 11, 2), {"conv_channels": (8,) * 6}),
    ):
        with pytest.raises(ValueError, match=message):
            chosen(shape, **changes)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"encoder": "cnn"}, "encoder is 'cnn'; allowed: auto"),
        ({"encoder_channels": 0}, "encoder_channels is 0"),
        ({"encoder_size": -1}, "encoder_size is -1"),
        ({"encoder_codes": (9, 300)}, "encoder_codes"),
        ({"conv_channels": (0,)}, "conv_channels"),
    ],
)
def test_bad_settings_say_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        PolicyConfig(**changes)

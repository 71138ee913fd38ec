"""All `vmap`s of a function as one batch, in portions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax.mamujoco import batching


def weigh(x, y, shared):
    return {"product": x * y + shared.sum(), "row": jnp.outer(x, shared)}


@pytest.fixture
def portions(monkeypatch):
    """On a small CPU, portions of two or three."""
    monkeypatch.setattr(batching, "few_cores", lambda: True)
    monkeypatch.setattr(batching, "_PORTION", range(2, 4))


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ((0, 0, None), (0, 0, None)),
        ((0, None, None), (None, 0, None)),
        ((1, 0, 0), (0, None, None)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_nested_vmaps_give_what_they_give(portions, inner, outer):
    rng = np.random.default_rng(0)
    sizes = {"inner": 5, "outer": 6}
    args = []
    for i, width in enumerate((3, 3, 2)):
        shape = [width]
        if inner[i] is not None:
            shape.insert(inner[i], sizes["inner"])
        if outer[i] is not None:
            shape.insert(outer[i], sizes["outer"])
        args.append(jnp.asarray(rng.normal(size=shape), jnp.float32))
    expected = jax.vmap(jax.vmap(weigh, inner), outer)(*args)
    got = jax.jit(jax.vmap(jax.vmap(batching.as_one_batch(weigh), inner), outer))(*args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)
    alone = batching.as_one_batch(weigh)(jnp.ones(3), jnp.ones(3), jnp.ones(2))
    np.testing.assert_array_equal(alone["product"], 3)


def test_portions_share_what_is_not_mapped(portions):
    seen = []

    def one(x, shared):
        seen.append((x.shape, shared.shape))
        return x * jnp.sin(shared).sum()

    run = jax.vmap(jax.vmap(batching.as_one_batch(one), (0, None)), (0, None))
    text = str(jax.make_jaxpr(run)(jnp.ones((4, 3)), jnp.ones(1000)))
    assert set(seen) == {((), (1000,))}
    assert "scan" in text and "f32[12,1000]" not in text and "f32[3,1000]" not in text


def test_batches_without_a_divisor_are_not_cut(portions):
    run = jax.vmap(batching.as_one_batch(lambda x: x + 1))
    assert "scan" not in str(jax.make_jaxpr(run)(jnp.ones(7)))
    assert "scan" in str(jax.make_jaxpr(run)(jnp.ones(9)))
    np.testing.assert_array_equal(run(jnp.arange(9.0)), np.arange(1, 10))


@pytest.mark.parametrize(
    ("size", "each", "portion"), [(1024, 511, 256), (1024, 512, 64), (96, 1024, 48), (64, 9999, 64)]
)
def test_large_states_have_small_portions(monkeypatch, size, each, portion):
    monkeypatch.setattr(batching, "few_cores", lambda: True)
    assert batching._portion(size, each) == portion
    monkeypatch.setattr(batching, "few_cores", lambda: False)
    assert batching._portion(size, each) == size


@pytest.mark.parametrize(("robot", "portion"), [("halfcheetah", 256), ("humanoid", 64)])
def test_portions_of_the_robots(monkeypatch, robot, portion):
    seen = []
    monkeypatch.setattr(batching, "few_cores", lambda: True)
    monkeypatch.setattr(jax.lax, "map", lambda f, xs, batch_size: seen.append(batch_size) or jax.vmap(f)(xs))
    env = envs_jax.make(f"mamujoco/{robot}", physics="fast")
    states = jax.eval_shape(jax.vmap(env.init), jax.random.split(jax.random.key(0), 1024))
    actions = jax.ShapeDtypeStruct((1024, env.num_agents, *env.action_space().shape), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1024))
    jax.eval_shape(jax.vmap(env.transition), keys, states, actions)
    assert set(seen) == {portion}

"""Distances between policies against SciPy and numerical integrals; the pool against environments stepped by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from probes import Probe
from scipy import integrate, stats
from scipy.spatial.distance import jensenshannon

from covey.metrics.diversity import (
    Pool,
    collect_pool,
    hellinger,
    jensen_shannon,
    join_pools,
    policy_outputs,
    sampling,
    snd,
    total_variation,
    wasserstein,
)
from covey.metrics.pairs import mean_over_pairs
from covey.policies import ActorCritic, PolicyConfig

N, P, A = 3, 5, 4
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(N, P, A)).astype(np.float32) * 3
MASK = RNG.random((P, A)) < 0.6
MASK[:, 1] = True
PAIRS = [(0, 1), (0, 2), (1, 2)]


def probabilities(mask=None):
    weights = np.exp(LOGITS.astype(np.float64)) * (1 if mask is None else mask)
    return weights / weights.sum(-1, keepdims=True)


def assert_matrix(ours, of_pair):
    """A symmetric matrix [N, N] with 0 on the diagonal, and in it the mean over observations of a pair's distance."""
    ours = np.asarray(ours)
    np.testing.assert_array_equal(np.diag(ours), 0)
    np.testing.assert_allclose(ours, ours.T, atol=1e-6)
    for i, j in PAIRS:
        assert ours[i, j] == pytest.approx(np.mean([of_pair(i, j, o) for o in range(P)]), rel=2e-5)
    assert float(snd(jnp.asarray(ours))) == pytest.approx(np.mean([ours[pair] for pair in PAIRS]), rel=1e-5)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_distances_of_discrete_policies_are_those_of_scipy(mask):
    p = probabilities(mask)
    assert_matrix(jensen_shannon(LOGITS, mask), lambda i, j, o: jensenshannon(p[i, o], p[j, o], base=2))
    assert_matrix(total_variation(LOGITS, mask), lambda i, j, o: np.abs(p[i, o] - p[j, o]).sum() / 2)


def test_constant_opposite_policies_are_as_far_apart_as_can_be():
    """The authors' figure of this is 0: they compare over observations instead of actions."""
    constant = jnp.broadcast_to(jnp.array([[40.0, -40.0], [-40.0, 40.0]])[:, None], (2, 6, 2))
    assert jensen_shannon(constant)[0, 1] == pytest.approx(1, abs=1e-6)
    assert total_variation(constant)[0, 1] == pytest.approx(1, abs=1e-6)
    probability = np.asarray(jax.nn.softmax(constant))
    np.testing.assert_array_equal(jensenshannon(probability[0], probability[1]), 0)


def test_a_ruled_out_action_makes_no_difference():
    other = LOGITS.copy()
    other[:, :, 0] += RNG.normal(size=(N, P)) * 50
    mask = np.ones((P, A), bool)
    mask[:, 0] = False
    for distance in (jensen_shannon, total_variation):
        np.testing.assert_allclose(distance(other, mask), distance(LOGITS, mask), atol=1e-6)
        assert np.abs(np.asarray(distance(other) - distance(LOGITS))).max() > 0.1


def test_close_policies_keep_their_digits():
    """The distance of p = (1/2 + e, 1/2 - e) and q = (1/2 - e, 1/2 + e) is e sqrt(2 / ln 2) for small e."""
    for e in (1e-2, 1e-4, 1e-6):
        logits = jnp.array([[[2 * e, -2 * e]], [[-2 * e, 2 * e]]])
        assert jensen_shannon(logits)[0, 1] == pytest.approx(e * np.sqrt(2 / np.log(2)), rel=2e-2)


MEAN = RNG.normal(size=(N, P, 2)).astype(np.float32)
STD = np.exp(RNG.normal(size=(N, P, 2)) * 0.7).astype(np.float32)


def integrated_hellinger(i, j, o):
    """By quadrature of sqrt(p q) along each dimension."""
    overlap = 1.0
    for a in range(2):
        p, q = (stats.norm(MEAN[k, o, a], STD[k, o, a]) for k in (i, j))
        peaks = [p.mean(), q.mean()]
        overlap *= integrate.quad(lambda x, p=p, q=q: np.sqrt(p.pdf(x) * q.pdf(x)), -40, 40, points=peaks, limit=200)[0]
    return np.sqrt(1 - overlap)


def test_distances_of_gaussian_policies():
    assert_matrix(hellinger(MEAN, np.log(STD)), integrated_hellinger)

    def quantile_wasserstein(i, j, o):
        """Along each dimension, from quantiles: W^2 = integral of (F^-1 - G^-1)^2."""
        u = (np.arange(200_000) + 0.5) / 200_000
        z = stats.norm.ppf(u)
        gaps = [(MEAN[i, o, a] - MEAN[j, o, a] + (STD[i, o, a] - STD[j, o, a]) * z) ** 2 for a in range(2)]
        return np.sqrt(np.sum([gap.mean() for gap in gaps]))

    assert_matrix(wasserstein(MEAN, STD), quantile_wasserstein)
    assert_matrix(wasserstein(MEAN), lambda i, j, o: np.linalg.norm(MEAN[i, o] - MEAN[j, o]))
    shared = np.log(STD[:, :1])  # one deviation for all observations, as PPO's policies have
    np.testing.assert_array_equal(hellinger(MEAN, shared), hellinger(MEAN, np.broadcast_to(shared, MEAN.shape)))


DISTANCES = {
    "jensen_shannon": jensen_shannon,
    "total_variation": total_variation,
    "hellinger": lambda x: hellinger(x, jnp.zeros_like(x)),
    "wasserstein": wasserstein,
}


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_distances_can_be_differentiated(distance):
    """As terms of a loss: by finite differences, and finite where agents agree, as each does with itself."""
    with jax.enable_x64(True):
        x = jnp.asarray(LOGITS, jnp.float64)
        jax.test_util.check_grads(lambda x: snd(distance(x)), (x,), order=1, modes=["rev"], rtol=1e-5)
        np.testing.assert_array_equal(jax.grad(lambda x: snd(distance(x)))(jnp.zeros_like(x)), 0)


def test_gradients_are_finite_between_certain_policies():
    """Where a probability is 0 in float32, and where deviations are e^60 apart."""
    gaps = jnp.array([[[0.0, 0.0]], [[30.0, 0.0]], [[0.0, 200.0]], [[200.0, 0.0]]])
    for distance in (jensen_shannon, total_variation):
        assert jnp.all(jnp.isfinite(jax.grad(lambda x, d=distance: snd(d(x)))(gaps)))
    assert float(jensen_shannon(gaps)[2, 3]) == pytest.approx(1.0, abs=1e-6)
    log_std = jnp.array([0.0, 60.0]).reshape(2, 1, 1)
    mean = jnp.zeros((2, 1, 1))
    grads = jax.grad(lambda m, s: snd(hellinger(m, s)), (0, 1))(mean, log_std)
    assert all(jnp.all(jnp.isfinite(g)) for g in grads) and float(hellinger(mean, log_std)[0, 1]) == 1.0


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match=r"policies have shape \(3, 4\); allowed: \[N, P, A\]"):
        jensen_shannon(jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"mask has shape \(3, 5, 4\); allowed: \(5, 4\)"):
        total_variation(LOGITS, np.ones((N, P, A), bool))
    for shape in [(1, 1), (2, 3), (4,)]:
        with pytest.raises(ValueError, match=r"matrix has shape .*; allowed: \[N, N\] of at least 2 agents"):
            mean_over_pairs(jnp.zeros(shape))


# --- The pool ---


def networks_for(env, **config):
    space = env.action_space()
    continuous = not hasattr(space, "n")
    config = PolicyConfig(**{"hidden_sizes": (8,), **config})
    return ActorCritic(config, env.num_agents, 2, space.shape[0] if continuous else space.n, continuous)


def pool_of(env, networks, params, num_envs=4, num_steps=6):
    act = sampling(networks, params, env.action_space())
    collect = partial(collect_pool, env, act, networks.start(num_envs)[0], num_envs, num_steps)
    return jax.jit(collect)(jax.random.key(1))


def test_pool_holds_what_every_agent_saw_and_where_episodes_began():
    env = Probe(kind="cue", max_steps=2)
    networks = networks_for(env, sharing="fups")
    pool = pool_of(env, networks, networks.init(jax.random.key(0)))
    assert pool.obs.shape == (6, 3 * 4, 2) and pool.reset.shape == (6, 12) and pool.flat_mask.all()
    np.testing.assert_array_equal(pool.reset, np.broadcast_to([[True], [False]] * 3, (6, 12)))
    np.testing.assert_array_equal(pool.obs[::2, :, 0], pool.obs[1::2, :, 0])  # a cue lasts for an episode,
    assert len(np.unique(pool.obs[::2, :, 0], axis=0)) == 3  # and the next has others
    joined = join_pools(pool, pool)
    assert joined.obs.shape == (6, 24, 2) and joined.mask.shape == (6, 24, 3)


def test_masks_come_along_and_are_obeyed():
    env = Probe(kind="masked", max_steps=2)
    networks = networks_for(env, sharing="nops")
    params = networks.init(jax.random.key(0))
    pool = pool_of(env, networks, params)
    assert pool.flat_mask.shape == (6 * 12, 3) and not pool.flat_mask[:, 0].any() and pool.flat_mask[:, 1:].all()
    act = sampling(networks, params, env.action_space())
    actions, _ = act(
        jnp.zeros((3, 200, 2)), jnp.ones((3, 200, 3), bool).at[..., 0].set(False), networks.start(200)[0],
        jnp.zeros((1, 200), bool), jax.random.key(0),
    )  # fmt: skip
    assert set(np.unique(actions)) == {1, 2}


@pytest.mark.parametrize(("sharing", "recurrent"), [("nops", False), ("hyper_mlp", False), ("nops", True)])
def test_every_agent_is_asked_about_all_observations(sharing, recurrent):
    """Agent i's answer about stream b is what it gives where all agents see that stream."""
    env = Probe(kind="memory", max_steps=3)
    networks = networks_for(env, sharing=sharing, recurrent=recurrent, recurrent_size=8)
    params = networks.init(jax.random.key(0))
    pool = pool_of(env, networks, params)
    outputs = policy_outputs(networks, params, pool)
    assert outputs.shape == (3, 6 * 12, 3)
    weights = networks.weights(params)
    for stream in (0, 7):
        same = jnp.broadcast_to(pool.obs[:, None, stream, None], (6, 3, 1, 2))
        alone, _ = networks.policy(weights, same, networks.start(1)[0], pool.reset[:, None, stream, None])
        np.testing.assert_allclose(outputs.reshape(3, 6, 12, 3)[:, :, stream], alone[:, :, 0].swapaxes(0, 1), atol=1e-6)
    distance = jensen_shannon(outputs, pool.flat_mask)
    assert snd(distance) > 1e-4
    if not recurrent:  # one network for all has no diversity
        one = networks_for(env, sharing="fups")
        answers = policy_outputs(one, one.init(jax.random.key(0)), pool)
        assert snd(jensen_shannon(answers)) == 0


def test_continuous_policies_are_sampled_inside_their_bounds():
    env = Probe(kind="torque")
    networks = networks_for(env, sharing="nops")
    params = networks.init(jax.random.key(0))
    act = sampling(networks, params, env.action_space())
    actions, _ = act(jnp.zeros((3, 400, 2)), None, networks.start(400)[0], jnp.zeros((1, 400), bool), jax.random.key(0))
    assert actions.shape == (3, 400, 1) and np.abs(actions).max() == 1 and 0.4 < np.std(actions) < 0.9
    pool = pool_of(env, networks, params, num_envs=2, num_steps=2)
    assert isinstance(pool, Pool) and pool.mask is None
    means = policy_outputs(networks, params, pool)
    log_std = networks.log_std(networks.weights(params))
    assert 0 < snd(hellinger(means, log_std)) < snd(wasserstein(means, jnp.exp(log_std))) < 1

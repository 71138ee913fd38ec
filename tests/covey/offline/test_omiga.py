"""OMIGA's targets and losses against float64 NumPy, its soft maximum, sharing, memory, padding and bad settings."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_offline_losses import SMALL, TEAM, TINY, Exact, batch_first, noisy, random_carry, same, segments, with_junk

from covey.learners.offline import OMIGA, OfflineHyperparameters, make_base
from covey.policies import PolicyConfig

HP = OfflineHyperparameters(omiga_alpha=0.4)
OWN = replace(SMALL, critic="per_agent")


class ExactValues:
    """Local values without sharing, and their sum, in float64; time is the second axis here, agents the last."""

    def __init__(self, params, data, critic_input):
        as_float = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        self.q_weights, self.v_weights = as_float["critic"]["local"]["critic"], as_float["value"]["critic"]
        self.mixer = {k: w for k, w in as_float["critic"]["mixer"]["mixer"].items()}
        obs, state = np.asarray(data.obs, np.float64), np.asarray(data.state, np.float64)
        low, high = np.array(TEAM.low), np.array(TEAM.high)
        half = np.where(TEAM.own_actions, (high - low) / 2, 1)
        action = (np.asarray(data.action, np.float64) - (low + high) / 2) / half * TEAM.own_actions
        self.obs, self.both = obs, np.concatenate([obs, action], axis=-1)
        self.seen = state if critic_input == "state" else obs.reshape(*obs.shape[:2], 4)[..., :3]

    def _local(self, weights, x):
        own = [Exact._mlp({k: w[i] for k, w in weights.items()}, x[:, :, i])[..., 0] for i in range(2)]
        return np.stack(own, axis=-1)

    def parts(self):
        """Q_i, V_i and w_i [B, L, N], b [B, L]."""
        mixed = Exact._mlp(self.mixer, self.seen)
        q, v = self._local(self.q_weights, self.both), self._local(self.v_weights, self.obs)
        return q, v, np.abs(mixed[..., :2]), mixed[..., 2]


@pytest.mark.parametrize("critic_input", ["state", "obs"])
def test_targets_and_losses_equal_numpy(critic_input):
    learner, data = OMIGA(TEAM, TINY, replace(OWN, critic_input=critic_input)), segments()
    carry, batch = random_carry(learner, HP), learner.batch(data)
    now, slow = (ExactValues(p, data, critic_input).parts() for p in (carry.params, carry.target))
    mask, ended = np.asarray(data.mask)[:, :-1], np.asarray(data.terminated)[:, :-1]

    def mean(x):
        return (x * mask).sum() / mask.sum()

    _, v_slow, w_slow, b_slow = slow
    after = ((w_slow * v_slow).sum(axis=-1) + b_slow)[:, 1:]
    expected_goal = np.asarray(data.reward, np.float64)[:, :-1].mean(axis=-1) + 0.99 * ~ended * after
    goal = learner.target_value(carry.target, batch, HP)
    np.testing.assert_allclose(batch_first(goal), expected_goal, rtol=1e-4, atol=1e-5)

    q_now, v_now, w_now, b_now = now
    total = ((w_now * q_now).sum(axis=-1) + b_now)[:, :-1]
    loss, _ = learner.critic_loss(carry.params["critic"], goal, batch)
    np.testing.assert_allclose(loss, mean(np.square(total - expected_goal)), rtol=1e-4)

    q, v, w = slow[0][:, :-1], v_now[:, :-1], w_slow[:, :-1]
    z = w * (q - v) / 0.4
    assert (z[mask] > np.log(100)).any() and (z[mask] < np.log(100)).any()
    size = np.where(z > np.log(100), 100 * (1 + z - np.log(100)), np.exp(z)) + w * v / 0.4
    weight, found = learner.weighted_q(carry.target, batch, HP)
    loss, metrics = learner.value_loss(carry.params["value"], weight, found, batch, HP)
    np.testing.assert_allclose(loss, np.mean([mean(size[..., i]) for i in range(2)]), rtol=1e-4)
    np.testing.assert_allclose(metrics["mixing"], [mean(w[..., i]) for i in range(2)], rtol=1e-4)

    # Policies: what `learn` regresses with, by one step with a known gradient.
    regression = np.minimum(np.exp(z), 100.0)
    exact = Exact({"actor": carry.params["actor"]["network"]}, data, "team")
    log_std = np.asarray(carry.params["actor"]["log_std"], np.float64)
    gap = (exact.action - exact.act())[:, :-1]
    density = (-0.5 * (gap / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)) * TEAM.own_actions
    expected = -np.mean([mean(regression[..., i] * density[:, :, i].sum(axis=-1)) for i in range(2)])
    _, metrics = jax.jit(learner.learn)(carry, data)
    np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["weight"], [mean(regression[..., i]) for i in range(2)], rtol=1e-4)


def test_local_weights_multiply_to_the_teams():
    """exp(z_1) exp(z_2) = exp((Q_tot - V_tot) / alpha): the global regularisation is the local ones together."""
    learner, data = OMIGA(TEAM, TINY, OWN), segments()
    q, v, w, b = ExactValues(random_carry(learner, HP).params, data, "state").parts()
    q_tot, v_tot = (w * q).sum(axis=-1) + b, (w * v).sum(axis=-1) + b
    carry, batch = random_carry(learner, HP), learner.batch(data)
    weight, local = learner.weighted_q(carry.params, batch, HP)
    z = weight * (local - learner.local("v", carry.params["value"], batch.obs[:-1]))
    np.testing.assert_allclose(batch_first(jnp.sum(z, axis=1)), ((q_tot - v_tot) / 0.4)[:, :-1], rtol=1e-3, atol=1e-4)


def test_value_is_the_soft_maximum_of_the_datas_values():
    """L_V's gradient is 0 where exp(w V / alpha) = mean exp(w Q / alpha), and pulls there from far off, too."""
    learner, data = OMIGA(TEAM, TINY, OWN), segments()
    batch = learner.batch(data._replace(mask=data.mask.at[0, 2:].set(True).at[:, -1].set(False)))
    q = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 4)), jnp.float32)
    weight = jnp.full_like(q, 1.5)
    best = np.log(np.mean(np.exp(1.5 * np.asarray(q, np.float64)), axis=(0, 2))) / 1.5
    flat = jax.tree.map(jnp.zeros_like, random_carry(learner, HP).params["value"])  # Its output bias is V_i alone.

    def slope(shift):
        params = jax.tree.map(jnp.copy, flat)
        params["critic"]["output/bias"] = jnp.asarray(best + shift, jnp.float32)[:, None]
        grad = jax.grad(lambda p: learner.value_loss(p, weight, q, batch, HP)[0])(params)
        return np.asarray(grad["critic"]["output/bias"])[:, 0]

    np.testing.assert_allclose(slope(0.0), 0.0, atol=1e-5)
    assert (slope(2.0) > 0.1).all() and (slope(-2.0) < -0.1).all()
    assert (slope(-100.0) < -50.0).all()  # All exponents are past what is exponential.


def one_update(policy=TINY, **config):
    """A learner, and `segments -> (carry, carry after an update, metrics)` from the same start, compiled once."""
    learner = make_base("omiga", TEAM, policy, replace(SMALL, **config))

    @jax.jit
    def run(data):
        carry = learner.init(jax.random.key(0), OfflineHyperparameters())
        return carry, *learner.learn(carry, data)

    return learner, run


def test_padding_and_masked_rows_do_not_leak():
    data = segments()
    junk = with_junk(data)
    _, run = one_update(replace(TINY, sharing="fups_id"), critic_input="obs")
    (_, one, metrics), (_, other, _) = run(data), run(junk)
    assert same(one.params, other.params) and same(one.target, other.target)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((metrics, one.params)))


@pytest.mark.parametrize("sharing", ["fups_id", "nops", "hyper_mlp"])
def test_sharing_schemes_learn_with_memory(sharing):
    """Local values shared as the policies are; with `fups_id` one network for all, as in the paper."""
    policy = PolicyConfig(sharing=sharing, recurrent=True, recurrent_size=4, hypernet_hidden_sizes=(3,))
    learner, run = one_update(policy, critic="as_actor")
    first, carry, _ = run(segments())
    for name in ("actor", "critic", "value"):
        assert not same(carry.params[name], first.params[name]) and not same(carry.target[name], first.target[name])
    if sharing == "fups_id":  # Two observations and an id.
        assert carry.params["value"]["critic"]["hidden_0/kernel"].shape == (2 + 2, 6)
    whole = jax.jit(learner.actions)(noisy(carry.params), segments().obs[1])
    assert (whole >= np.array(TEAM.low)).all() and (whole <= np.array(TEAM.high)).all()
    assert (whole[:, 1, 1] == 0).all() and np.ptp(whole[:, 0, 1]) > 0.1


BAD = [
    (lambda: OfflineHyperparameters(omiga_alpha=0.0), "omiga_alpha is 0.0; allowed: a number above 0"),
    (lambda: OMIGA(TEAM, TINY, SMALL), "critic, critic_input are 'team', 'state'; allowed with omiga"),
    (lambda: make_base("omiga", TEAM, TINY, replace(OWN, critic_input="own")), "allowed with omiga"),
    (
        lambda: make_base("omiga", TEAM, replace(TINY, sharing="fups_id_only"), replace(SMALL, critic="as_actor")),
        "fups_id_only",
    ),
]


@pytest.mark.parametrize("make,message", BAD)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)

"""PPO: its mathematics against float64 NumPy, equalities between sharing schemes, and learning on probe problems."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import Probe, Uneven

from covey.experiment import make_train, seed_keys
from covey.learners import gradients
from covey.learners.happo import HAPPO
from covey.learners.losses import clipped_policy_loss, clipped_value_loss, generalised_advantage, normalize
from covey.learners.moments import DECAY, Moments
from covey.learners.ppo import PPO, Batch, PPOConfig, PPOHyperparameters
from covey.policies import PolicyConfig

TINY = PolicyConfig(hidden_sizes=(16,), hypernet_hidden_sizes=(8,), recurrent_size=16)
CONFIG = PPOConfig(num_envs=16, num_steps=8, update_epochs=4, num_minibatches=2, eval_episodes=4)
HP = PPOHyperparameters(learning_rate=5e-3)


def learner(kind="identity", max_steps=1, sharing="nops", policy=TINY, config=CONFIG, **kwargs):
    return PPO(Probe(kind=kind, max_steps=max_steps), replace(policy, sharing=sharing), config, **kwargs)


def train(learner, num_updates, num_seeds=2, hp=HP):
    return jax.jit(make_train(learner, num_updates, num_evaluations=1))(seed_keys(0, num_seeds), hp)


# --- Mathematics ---


def test_generalised_advantage_equals_numpy():
    """Against a float64 loop that follows the definition, with ended and cut-off episodes."""
    rng = np.random.default_rng(0)
    time, agents, envs, gamma, lam = 12, 3, 5, 0.97, 0.9
    reward, value, last_value = rng.normal(size=(3, time, agents, envs))
    next_value = rng.normal(size=(agents, envs))
    done = rng.random((time, 1, envs)) < 0.3
    truncated = done & (rng.random(done.shape) < 0.5)
    last_value = np.where(truncated, last_value, 0.0)
    expected = np.zeros_like(reward)
    running = np.zeros((agents, envs))
    for t in reversed(range(time)):
        after = value[t + 1] if t + 1 < time else next_value
        after = np.where(done[t], last_value[t], after)
        delta = reward[t] + gamma * after - value[t]
        running = delta + gamma * lam * np.where(done[t], 0.0, running)
        expected[t] = running
    args = [jnp.asarray(x, jnp.float32) for x in (reward, value, next_value)]
    ours = generalised_advantage(*args, jnp.asarray(done), jnp.asarray(last_value, jnp.float32), gamma, lam)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_advantage_with_lambda_one_is_the_discounted_return():
    reward = jnp.ones((3, 1, 1))
    zeros, done = jnp.zeros((3, 1, 1)), jnp.array([False, False, True]).reshape(3, 1, 1)
    advantage = generalised_advantage(reward, zeros, jnp.ones((1, 1)) * 7.0, done, zeros, 0.5, 1.0)
    np.testing.assert_allclose(advantage[:, 0, 0], [1.75, 1.5, 1.0])
    cut = zeros.at[2].set(4.0)  # Cut off at a state worth 4: the return goes on from there.
    advantage = generalised_advantage(reward, zeros, jnp.ones((1, 1)) * 7.0, done, cut, 0.5, 1.0)
    np.testing.assert_allclose(advantage[:, 0, 0], [2.25, 2.5, 3.0])


def numpy_loss(params, batch, hp, num_agents, clip_values, over):
    """PPO's loss for NoPS with one hidden layer of ReLU, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    b = {k: np.asarray(v, np.float64) for k, v in batch._asdict().items() if k in FLOATS}
    action = np.asarray(batch.action)

    def forward(net, i, x):
        x = np.maximum(x @ net["hidden_0/kernel"][i] + net["hidden_0/bias"][i], 0.0)
        return x @ net["output/kernel"][i] + net["output/bias"][i]

    x = b["obs"][0]
    logits = np.stack([forward(p["actor"], i, x[i]) for i in range(num_agents)])
    values = np.stack([forward(p["critic"], i, x[i])[..., 0] for i in range(num_agents)])
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    log_prob = np.take_along_axis(log_probs, action[0][..., None], -1)[..., 0]
    entropy = -(np.exp(log_probs) * log_probs).sum(-1).mean()
    ratio = np.exp(log_prob - b["log_prob"][0])
    advantage = b["advantage"][0]
    if over != "none":
        axis = 1 if over == "agent" else None
        keep = {"axis": axis, "keepdims": True}
        advantage = (advantage - advantage.mean(**keep)) / (advantage.std(**keep) + 1e-8)
    policy = -np.minimum(ratio * advantage, np.clip(ratio, 1 - hp.clip_epsilon, 1 + hp.clip_epsilon) * advantage).mean()
    error = (values - b["target"][0]) ** 2
    if clip_values:
        near = b["value"][0] + np.clip(values - b["value"][0], -hp.clip_epsilon, hp.clip_epsilon)
        error = np.maximum(error, (near - b["target"][0]) ** 2)
    value = 0.5 * error.mean()
    return policy + hp.value_coefficient * value - hp.entropy_coefficient * entropy, policy, value, entropy


FLOATS = ("obs", "log_prob", "value", "advantage", "target")


def random_batch(learner, size=40):
    agents = learner.env.num_agents
    keys = jax.random.split(jax.random.key(3), 6)
    floats = [jax.random.normal(k, (1, agents, size)) for k in keys[:4]]
    return Batch(
        obs=jax.random.normal(keys[4], (1, agents, size, 2)),
        global_state=None,
        mask=None,
        reset=jnp.zeros((1, 1, size), bool),
        action=jax.random.randint(keys[5], (1, agents, size), 0, 3),
        log_prob=-1.1 + 0.3 * floats[0],
        value=floats[1],
        advantage=floats[2],
        target=floats[1] + floats[3],
        memory=jax.tree.map(lambda m: m[None], learner.actor_critic.start(size)),
    )


class Unmasked(Probe):
    masks_actions = False  # type: ignore[assignment]


@pytest.mark.parametrize("over", ["minibatch", "agent", "none"])
@pytest.mark.parametrize("clip_values", [True, False])
def test_loss_equals_numpy(clip_values, over):
    config = replace(CONFIG, clip_values=clip_values, normalize_advantages=over)
    ppo = PPO(Unmasked(), replace(TINY, sharing="nops"), config)
    params = ppo.actor_critic.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(2), p.shape), params)
    batch, hp = random_batch(ppo), PPOHyperparameters(clip_epsilon=0.15, value_coefficient=0.7)
    total, metrics = jax.jit(ppo.loss)(params, batch, hp)
    expected = numpy_loss(params, batch, hp, 3, clip_values, over)
    ours = (total, metrics["policy_loss"], metrics["value_loss"], metrics["entropy"])
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-6)
    assert 0.1 < float(metrics["clip_fraction"]) < 0.9  # Both branches of the clip are at work.


def test_loss_parts_by_hand():
    log_ratio, advantage = jnp.log(jnp.array([1.5, 0.5, 1.5, 0.5])), jnp.array([1.0, 1.0, -1.0, -1.0])
    # min(1.5, 1.2), min(0.5, 0.8), min(-1.5, -1.2), min(-0.5, -0.8)
    np.testing.assert_allclose(clipped_policy_loss(log_ratio, advantage, 0.2), -(1.2 + 0.5 - 1.5 - 0.8) / 4, rtol=1e-6)
    # value 1, old 0, target 2: clipped to 0.2, error 3.24; unclipped error 1.
    np.testing.assert_allclose(clipped_value_loss(jnp.ones(1), jnp.zeros(1), 2 * jnp.ones(1), 0.2), 1.62, rtol=1e-6)
    np.testing.assert_allclose(clipped_value_loss(jnp.ones(1), jnp.zeros(1), 2 * jnp.ones(1), None), 0.5, rtol=1e-6)
    # Huber's with delta 0.5: 0.5 (1.8 - 0.25) clipped, 0.5 (1 - 0.25) not.
    huber = (jnp.ones(1), jnp.zeros(1), 2 * jnp.ones(1))
    np.testing.assert_allclose(clipped_value_loss(*huber, 0.2, 0.5), 0.775, rtol=1e-6)
    np.testing.assert_allclose(clipped_value_loss(*huber, None, 0.5), 0.375, rtol=1e-6)
    np.testing.assert_allclose(clipped_value_loss(*huber, 0.2, 10.0), 1.62, rtol=1e-6)
    x = jnp.arange(12.0).reshape(1, 3, 4)
    np.testing.assert_allclose(normalize(x, "agent").mean((0, 2)), 0.0, atol=1e-6)
    np.testing.assert_allclose(normalize(x, "agent").std((0, 2)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(normalize(x, "minibatch").std(), 1.0, rtol=1e-5)


# --- Equalities ---


def test_linear_hypernetwork_without_bias_trains_exactly_as_nops():
    """Outputs, losses and, after Adam steps with per-agent clipping, parameters."""
    nops, linear = (
        learner("cue", 2, sharing=s, policy=replace(TINY, hypernet_bias=False)) for s in ("nops", "hyper_linear")
    )
    hp = replace(HP, max_grad_norm=0.05)  # Clips for sure.
    (a, m), (b, k) = train(nops, 6, hp=hp), train(linear, 6, hp=hp)
    for name in ("loss", "grad_norm", "entropy", "value_loss", "approx_kl"):
        np.testing.assert_allclose(m[f"train/{name}"], k[f"train/{name}"], rtol=1e-4, atol=1e-6)
    assert (np.asarray(m["train/grad_norm"]) > 0.05).all()
    for net in ("actor", "critic"):
        for leaf, value in a.carries.params[net].items():
            np.testing.assert_allclose(value, b.carries.params[net][f"{leaf}/head"], rtol=1e-4, atol=1e-6)


def test_agents_that_share_nothing_learn_as_if_alone():
    """One gradient step of three NoPS agents equals three learners with one agent each (same data, same start)."""
    together = PPO(Unmasked(), replace(TINY, sharing="nops"), replace(CONFIG, normalize_advantages="agent"))
    alone = PPO(Unmasked(num_agents=1), replace(TINY, sharing="nops"), replace(CONFIG, normalize_advantages="agent"))
    params, batch = together.actor_critic.init(jax.random.key(0)), random_batch(together)
    grads = jax.grad(lambda p: together.loss(p, batch, HP)[0])(params)
    clipped, _ = gradients.clip(grads, jnp.float32(0.1), together.actor_critic.separate, 3)
    for i in range(3):
        own = jax.tree.map(lambda x, i=i: x[i : i + 1], params)
        part = jax.tree.map(lambda x, i=i: x[:, i : i + 1] if x.shape[1] == 3 else x, batch)
        grads_alone = jax.grad(lambda p, part=part: alone.loss(p, part, HP)[0])(own)
        clipped_alone, _ = gradients.clip(grads_alone, jnp.float32(0.1), alone.actor_critic.separate, 1)
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i : i + 1], y, rtol=1e-4, atol=1e-7), clipped, clipped_alone
        )


CLIPPED = {  # Which networks' gradients are clipped together, and whether each agent's own.
    ("fups_id", False): [({"actor", "critic", "log_std"}, False)],
    ("fups_id", True): [({"actor", "log_std"}, False), ({"critic"}, False)],
    ("nops", False): [({"actor", "critic", "log_std"}, True)],
    ("nops", True): [({"actor", "log_std"}, True), ({"critic"}, True)],
    ("nops_actors", False): [({"actor", "log_std"}, True), ({"critic"}, False)],
    ("hyper_linear", False): [({"actor", "critic"}, True), ({"log_std"}, False)],  # Without an offset for all.
    ("hyper_mlp", True): [({"actor", "log_std"}, False), ({"critic"}, False)],
}


@pytest.mark.parametrize(("sharing", "apart"), CLIPPED)
def test_networks_that_are_agents_own_are_clipped_apart_from_shared_ones(sharing, apart):
    config = replace(TINY, sharing=sharing, hypernet_bias=False, separate_embeddings=True)
    ppo = PPO(Uneven(max_steps=4), config, replace(CONFIG, clip_critic_apart=apart), True)
    params = ppo.actor_critic.init(jax.random.key(0))

    def growing(x):  # Ten times as large with each place on the first axis.
        return jnp.ones_like(x) * 10.0 ** jnp.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1))

    clipped, norm = ppo._clip(jax.tree.map(growing, params), replace(HP, max_grad_norm=0.1))
    flat, before = (jax.tree_util.tree_flatten_with_path(tree)[0] for tree in (clipped, jax.tree.map(growing, params)))
    for names, own in CLIPPED[sharing, apart]:
        part = [leaf for path, leaf in flat if path[path[0].key == "embedding"].key in names]
        for i in range(ppo.env.num_agents) if own else [slice(None)]:
            assert float(optax.tree.norm([leaf[i] for leaf in part])) == pytest.approx(0.1)
    ratios = [np.ptp(np.log(x / y)) for (_, x), (_, y) in zip(flat, before, strict=True)]
    assert all(np.isfinite(ratios)) and float(norm) > 0.1


def test_critic_learning_rate_moves_the_critic_alone():
    """At a millionth of the rate the critic stays and the actor goes where it went; None is the actor's rate."""
    after = {}
    for name, rate in {"none": None, "same": HP.learning_rate, "low": 1e-6 * HP.learning_rate}.items():
        ppo = learner(config=replace(CONFIG, update_epochs=1, num_minibatches=1), sharing="hyper_mlp")
        carry = ppo.init(jax.random.key(0), replace(HP, critic_learning_rate=rate))
        before, after[name] = carry.params, jax.jit(ppo.update)(carry)[0].params
    jax.tree.map(np.testing.assert_array_equal, after["none"], after["same"])
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    for part in ("actor", "embedding"):
        jax.tree.map(close, after["none"][part], after["low"][part])
    jax.tree.map(close, before["critic"], after["low"]["critic"])
    moved = jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x - y))), before["critic"], after["none"]["critic"])
    assert max(jax.tree.leaves(moved)) > 0.1 * HP.learning_rate


@pytest.mark.parametrize("learner_type", [PPO, HAPPO])
def test_padding_of_actions_changes_nothing(learner_type):
    """What an agent with fewer dimensions drew for the others has no part in ratios, entropy or clipped actions."""
    sharing = "nops_actors" if learner_type is HAPPO else "nops"
    ppo = learner_type(Uneven(max_steps=4), replace(TINY, sharing=sharing), CONFIG, learner_type is HAPPO)
    carry = ppo.init(jax.random.key(0), HP)

    def learnt(shift):
        def moved(carry, key, rollout=ppo._rollout):
            after, seen, value = rollout(carry, key)
            pad = jnp.zeros_like(seen.action).at[:, 1, :, 1].set(shift)
            return after, seen._replace(action=seen.action + pad), value

        shifted = learner_type(ppo.env, ppo.policy_config, ppo.config, ppo.centralised_critic)
        object.__setattr__(shifted, "_rollout", moved)
        return jax.jit(shifted.update)(carry)

    (near, metrics), (far, others) = learnt(0.0), learnt(50.0)
    jax.tree.map(np.testing.assert_array_equal, near.params, far.params)
    assert metrics["clipped_actions"] == others["clipped_actions"] and metrics["entropy"] == others["entropy"]
    own = (2 + 1) / 2 * 0.5 * np.log(2 * np.pi * np.e)  # Two dimensions and one; deviations start at 1.
    assert float(metrics["entropy"]) == pytest.approx(own, abs=0.2)


def test_linear_without_bias_updates_networks_of_which_it_generates_a_part():
    for env, config in ((Uneven(max_steps=4), TINY), (Probe(max_steps=4), replace(TINY, recurrent=True))):
        ppo = PPO(env, replace(config, sharing="hyper_linear", hypernet_bias=False), CONFIG)
        carry = jax.eval_shape(ppo.init, jax.random.key(0), HP)
        assert jax.eval_shape(ppo.update, carry)[0].params == carry.params


def test_learning_rate_anneals_to_zero_and_hyperparameters_are_leaves():
    config = replace(CONFIG, anneal_learning_rate=True)
    ppo = learner(config=config, num_updates=4)
    hp = replace(HP, learning_rate=jnp.array([1e-3, 0.0]))
    state, _ = jax.jit(make_train(ppo, 4, 1))(seed_keys(0, 2), hp)
    initial = jax.vmap(ppo.init)(seed_keys(0, 2), jax.tree.map(lambda x: jnp.broadcast_to(x, (2,)), hp))
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(axis=tuple(range(1, a.ndim))), state.carries.params, initial.params
    )
    for change in jax.tree.leaves(moved["actor"]):
        assert change[0] > 1e-4 and change[1] < 1e-6  # One seed learns with 1e-3, the other with 0.
    # Adam moves a parameter by at most about the learning rate per step: 8 steps at 1, 3/4, 1/2, 1/4 of it.
    assert max(float(change[0]) for change in jax.tree.leaves(moved)) < 1e-3 * 8 * (1 + 0.75 + 0.5 + 0.25) * 1.3


def test_minibatches_hold_every_agent_equally_and_every_sample_once():
    ppo = learner("cue", 2)
    seen = []

    class Spy(PPO):
        def loss(self, params, batch, hp):
            jax.debug.callback(lambda o: seen.append(np.asarray(o)), batch.advantage)
            return super().loss(params, batch, hp)

    spy = Spy(ppo.env, ppo.policy_config, replace(CONFIG, update_epochs=1))
    carry = spy.init(jax.random.key(0), HP)
    spy.update(carry)
    jax.effects_barrier()
    assert [x.shape for x in seen] == [(1, 3, 64)] * 2
    values = np.concatenate([x[0] for x in seen], axis=1)
    assert all(len(np.unique(row)) > 1 for row in values)


# --- Learning: what is learnt tells which part works ---


@pytest.mark.parametrize("sharing", ["nops", "hyper_linear", "hyper_mlp", "fups_id", "fups_id_only"])
def test_schemes_with_identity_tell_agents_apart(sharing):
    _, metrics = train(learner(sharing=sharing, kind="identity"), 40)
    assert (np.asarray(metrics["eval/episode_return"][-1]) == 1.0).all()


def test_full_sharing_without_identity_cannot():
    _, metrics = train(learner(sharing="fups", kind="identity"), 40)
    np.testing.assert_allclose(np.asarray(metrics["eval/episode_return"][-1]).sum(-1), 1.0)  # One agent of three.


@pytest.mark.parametrize("centralised", [False, True])
@pytest.mark.parametrize("sharing", ["fups", "nops", "hyper_mlp"])
def test_policies_follow_observations(sharing, centralised):
    _, metrics = train(learner("cue", sharing=sharing, centralised_critic=centralised), 40)
    assert (np.asarray(metrics["eval/episode_return"][-1]) == 1.0).all()


def test_reward_that_comes_later_is_credited():
    hp = replace(HP, discount=0.9)
    _, metrics = train(learner("delayed", 2, sharing="nops"), 40, hp=hp)
    assert (np.asarray(metrics["eval/episode_return"][-1]) == 1.0).all()


def test_masked_actions_are_never_taken():
    ppo = learner("masked", sharing="nops")
    state, metrics = train(ppo, 40)
    np.testing.assert_allclose(np.asarray(metrics["eval/episode_return"][-1]), [[0.0, 1.0, 1.0]] * 2)
    carry = jax.tree.map(lambda x: x[0], state.carries)
    _, rollout, _ = ppo._rollout(carry, jax.random.key(0))
    assert int(rollout.action.min()) >= 1


@pytest.mark.parametrize("sharing", ["nops", "fups_id", "hyper_mlp"])
def test_continuous_actions(sharing):
    _, metrics = train(learner("torque", sharing=sharing), 120)
    assert (np.asarray(metrics["eval/episode_return"][-1]) > 0.97).all()
    clipped = np.asarray(metrics["train/clipped_actions"])
    assert ((clipped >= 0) & (clipped <= 1)).all() and clipped[0].mean() > 0.2  # sigma = 1 in [-1, 1] at first.


@pytest.mark.parametrize("sharing", ["nops", "hyper_mlp"])
def test_recurrent_policies_remember(sharing):
    policy = replace(TINY, recurrent=True)
    config = replace(CONFIG, num_steps=12)
    _, metrics = train(learner("memory", 3, sharing=sharing, policy=policy, config=config), 100)
    assert (np.asarray(metrics["eval/episode_return"][-1]) == 1.0).all()
    _, metrics = train(learner("memory", 3, sharing=sharing, config=config), 100)
    assert (np.asarray(metrics["eval/episode_return"][-1]) < 1.0).any()  # Without memory it is a guess.


@pytest.mark.parametrize("kind,value", [("endless", 2.0), ("ending", 1.25)])
def test_values_at_the_end_of_an_episode(kind, value):
    """gamma = 1/2, reward 1, episodes of two steps. Cut off: V = 1 / (1 - gamma) = 2. Ended: 1.5, then 1."""
    hp = replace(HP, discount=0.5, value_coefficient=1.0, max_grad_norm=10.0)
    ppo = learner(kind, 2, sharing="fups", config=replace(CONFIG, clip_values=False))
    state, _ = train(ppo, 60, hp=hp)
    carry = jax.tree.map(lambda x: x[0], state.carries)
    _, rollout, _ = ppo._rollout(carry, jax.random.key(0))
    np.testing.assert_allclose(
        np.asarray(rollout.value).mean(), value, atol=0.06
    )  # Steps look alike: the mean of both.


@dataclass(frozen=True)
class Loud(Probe):
    """Rewards a thousand times as large for agent 0, ten thousand times for agent 1, and so on."""

    def transition(self, key, state, actions):
        state, outcome = super().transition(key, state, actions)
        return state, outcome._replace(reward=outcome.reward * 1000.0 * 10.0 ** jnp.arange(self.num_agents))


@pytest.mark.parametrize("normalized", [True, False])
def test_critics_follow_large_returns_if_these_are_normalised(normalized):
    """Values of 1250, 12500, 125000 (see above), with the clipped loss that moves a critic by 0.2 at a time."""
    hp = replace(HP, discount=0.5, value_coefficient=1.0, max_grad_norm=10.0)
    config = replace(CONFIG, normalize_values=normalized)
    ppo = PPO(Loud(kind="ending", max_steps=2), replace(TINY, sharing="fups"), config)
    state, _ = train(ppo, 60, hp=hp)
    carry = jax.tree.map(lambda x: x[0], state.carries)
    value = np.asarray(ppo._rollout(carry, jax.random.key(0))[1].value).mean(axis=(0, 2)) / (
        1250.0 * 10.0 ** np.arange(3)
    )
    assert (np.abs(value - 1) < 0.05).all() if normalized else (value < 0.05).all()


def test_moments_equal_numpy():
    rng = np.random.default_rng(0)
    batches = [rng.normal(loc=(-50.0, 3.0), scale=(2.0, 1e-3), size=(6, 4, 2)).swapaxes(1, 2) for _ in range(5)]
    moments = Moments.start(2)
    np.testing.assert_array_equal(moments.denormalize(moments.normalize(batches[0])), np.float32(batches[0]))
    for batch in batches:
        moments = moments.update(jnp.asarray(batch, jnp.float32))
    weights = np.array([DECAY ** (4 - i) for i in range(5)])
    weights /= weights.sum()
    centre = sum(w * b.mean(axis=(0, 2)) for w, b in zip(weights, batches, strict=True))
    square = sum(w * np.square(b).mean(axis=(0, 2)) for w, b in zip(weights, batches, strict=True))
    expected = (batches[0] - centre[:, None]) / np.sqrt(square - centre**2)[:, None]
    found = np.asarray(moments.normalize(jnp.asarray(batches[0], jnp.float32)))
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-2, atol=1e-3)
    assert np.isfinite(found).all()  # Where all numbers are nearly the same, too.
    np.testing.assert_allclose(moments.denormalize(jnp.asarray(found)), batches[0], rtol=1e-5)


# --- Statistics ---


def test_episode_statistics_count_only_what_ended():
    config = replace(CONFIG, num_steps=2)
    _, metrics = train(learner("endless", 5, config=config), 5)
    episodes = np.asarray(metrics["train/episodes"])[:, 0]
    returns = np.asarray(metrics["train/episode_return"])[:, 0, 0]
    assert episodes.tolist() == [0, 0, 16, 0, 16]  # Ends after 5 and 10 steps; 2 per update.
    assert np.isnan(returns[[0, 1, 3]]).all() and (returns[[2, 4]] == 5.0).all()
    assert (np.asarray(metrics["train/episode_length"])[[2, 4]] == 5.0).all()


def test_evaluation_plays_the_same_episodes_for_all_seeds():
    ppo = learner("cue", sharing="fups")
    carry = ppo.init(jax.random.key(0), HP)
    other = ppo.init(jax.random.key(1), HP)
    same = replace(other, params=carry.params)
    key = jax.random.key(9)
    for name, value in ppo.evaluate(carry, key).items():
        np.testing.assert_array_equal(value, ppo.evaluate(same, key)[name])
    assert set(ppo.evaluate(carry, key)) == {"episode_return", "episode_length", "reward", "seen"}


def test_episode_for_drawing_includes_its_last_state():
    ppo = learner("endless", 3)
    states, valid = ppo.episode(ppo.init(jax.random.key(0), HP), jax.random.key(1))
    assert valid.tolist() == [True] * 4 and states.step.tolist() == [0, 1, 2, 3] and bool(states.done[-1])


# --- Bad input ---


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: learner(config=replace(CONFIG, num_minibatches=3)), "num_minibatches is 3; allowed: a divisor of"),
        (
            lambda: learner(policy=replace(TINY, recurrent=True), config=replace(CONFIG, num_minibatches=5)),
            "num_envs = 16",
        ),
        (lambda: learner(max_steps=None), "eval_steps"),
        (lambda: PPOConfig(num_envs=0), "num_envs is 0"),
        (lambda: PPOConfig(normalize_advantages="all"), "normalize_advantages"),  # type: ignore[arg-type]
        (lambda: PPOHyperparameters(learning_rate=-1.0), "learning_rate is -1.0"),
        (lambda: PPOHyperparameters(discount=1.5), "discount is 1.5"),
        (lambda: learner(config=replace(CONFIG, anneal_learning_rate=True)), "num_updates"),
    ],
)
def test_bad_settings_say_what_is_allowed(build, message):
    with pytest.raises(ValueError, match=message):
        build()

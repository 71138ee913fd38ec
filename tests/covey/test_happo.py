"""HAPPO: the compound factor against NumPy, one agent against MAPPO, the order of agents, and learning together."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

from covey.experiment import make_train, seed_keys
from covey.learners import gradients
from covey.learners.happo import HAPPO
from covey.learners.ppo import PPO, PPOConfig, PPOHyperparameters
from covey.policies import PolicyConfig
from envs_jax.base import MultiAgentEnv, Outcome, State, flat_box, pytree, start_clock
from envs_jax.spaces import Discrete

OWN = PolicyConfig(sharing="nops_actors", hidden_sizes=(8,), recurrent_size=8)
CONFIG = PPOConfig(num_envs=4, num_steps=4, update_epochs=2, num_minibatches=2, eval_episodes=2)
HP = PPOHyperparameters(learning_rate=1e-2)


def numpy_mlp(net, i, x):
    x = np.maximum(x @ net["hidden_0/kernel"][i] + net["hidden_0/bias"][i], 0.0)
    return x @ net["output/kernel"][i] + net["output/bias"][i]


def numpy_log_prob(actors, i, obs, action):
    """log pi_i(a | o) of NoPS actors with one hidden layer, in float64: obs [B, O], action [B]."""
    logits = numpy_mlp(actors, i, obs)
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return np.take_along_axis(log_probs, action[:, None], -1)[:, 0]


class Unmasked(Probe):
    masks_actions = False  # type: ignore[assignment]


@pytest.fixture(scope="module")
def spied():
    """Everything of one update of three agents: the carries around it, and each agent's part as it was given."""
    seen = []

    class Spy(HAPPO):
        def _train_actor(self, own, optimizer, part, order, hp, learning_rate):
            jax.debug.callback(lambda p: seen.append(jax.tree.map(np.asarray, p)), part, ordered=True)
            return super()._train_actor(own, optimizer, part, order, hp, learning_rate)

    spy = Spy(Unmasked(kind="cue", max_steps=2), OWN, CONFIG)
    # Steps so large that ratios leave the clip range.
    before = spy.init(jax.random.key(0), PPOHyperparameters(learning_rate=0.05))
    after, metrics = jax.jit(spy.update)(before)
    jax.effects_barrier()
    return before, after, metrics, seen


def test_factor_is_the_product_of_ratios_of_agents_already_updated(spied):
    before, after, metrics, seen = spied
    old, new = (jax.tree.map(lambda x: np.asarray(x, np.float64), c.params["actor"]) for c in (before, after))
    key = jax.random.split(before.key, 3)[2]
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, CONFIG.update_epochs), 3))
    assert len(seen) == 3
    factor = np.ones(16)
    for agent, part in zip(order, seen, strict=True):
        assert part.factor.shape == (1, 1, 16)
        np.testing.assert_allclose(part.factor[0, 0], factor, rtol=2e-4)
        obs, action = np.asarray(part.obs[0, 0], np.float64), part.action[0, 0]
        old_log_prob = numpy_log_prob(old, agent, obs, action)
        np.testing.assert_allclose(part.log_prob[0, 0], old_log_prob, rtol=1e-4)  # It is this agent's part.
        factor = factor * np.exp(numpy_log_prob(new, agent, obs, action) - old_log_prob)
        assert np.abs(factor - 1.0).max() > 0.05  # Otherwise nothing was shown.
    np.testing.assert_allclose(metrics["compound_ratio_change"], np.abs(factor - 1.0).mean(), rtol=1e-3)


def test_factor_multiplies_the_normalised_advantage(spied):
    """min(rho M, clip(rho) M) with M = factor times normalised A, in NumPy, on the last agent's part."""
    _, after, _, seen = spied
    ppo, part = HAPPO(Unmasked(kind="cue", max_steps=2), OWN, CONFIG), jax.tree.map(jnp.asarray, seen[-1])
    weights = {"actor": jax.tree.map(lambda x: x[:1], after.params["actor"])}
    loss, _ = ppo.policy_loss(weights, part, HP)
    actors = jax.tree.map(lambda x: np.asarray(x, np.float64), after.params["actor"])
    obs, action = np.asarray(part.obs[0, 0], np.float64), np.asarray(part.action[0, 0])
    ratio = np.exp(numpy_log_prob(actors, 0, obs, action) - np.asarray(part.log_prob[0, 0], np.float64))
    advantage = np.asarray(part.advantage[0, 0], np.float64)
    m = (advantage - advantage.mean()) / (advantage.std() + 1e-8) * np.asarray(part.factor[0, 0], np.float64)
    expected = -np.minimum(ratio * m, np.clip(ratio, 1 - HP.clip_epsilon, 1 + HP.clip_epsilon) * m).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_first_agent_takes_ppos_own_step(spied):
    """Who comes first has factor 1: its parameters after the update are those of PPO steps on its part alone."""
    before, after, _, seen = spied
    key = jax.random.split(before.key, 3)[2]
    first = int(jax.random.permutation(jax.random.fold_in(key, CONFIG.update_epochs), 3)[0])
    ppo = PPO(Unmasked(kind="cue", max_steps=2), OWN, CONFIG, centralised_critic=True)
    hp, part = before.hp, jax.tree.map(jnp.asarray, seen[0])
    own = jax.tree.map(lambda x: x[first], before.params["actor"])
    state = gradients.adam(hp).init(own)
    keys = jax.random.split(key, CONFIG.update_epochs)
    order = jax.vmap(lambda k: jax.random.permutation(k, 16))(keys).reshape(4, 8)

    def loss(own, minibatch):
        policy_loss, metrics = ppo.policy_loss({"actor": jax.tree.map(lambda x: x[None], own)}, minibatch, hp)
        return policy_loss - hp.entropy_coefficient * metrics["entropy"]

    for index in order:
        grads = jax.grad(loss)(own, jax.tree.map(lambda x, index=index: x[:, :, index], part))
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g, norm=norm: g * jnp.minimum(1.0, hp.max_grad_norm / norm), grads)
        updates, state = gradients.adam(hp).update(grads, state)
        own = jax.tree.map(lambda p, u: p - hp.learning_rate * u, own, updates)
    for name, value in own.items():
        np.testing.assert_allclose(after.params["actor"][name][first], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind,recurrent", [("cue", False), ("torque", True)])
def test_one_agent_is_mappo(kind, recurrent):
    """With nothing to clip, one agent's HAPPO and MAPPO go through the same parameters."""
    hp = replace(HP, max_grad_norm=1e6)
    env, policy = Probe(num_agents=1, kind=kind, max_steps=2), replace(OWN, recurrent=recurrent)
    results = []
    for kind_of in (HAPPO, PPO):
        learner = kind_of(env, policy, CONFIG, centralised_critic=True)
        carry, update = learner.init(jax.random.key(0), hp), jax.jit(learner.update)
        for _ in range(3):
            carry, metrics = update(carry)
        results.append((carry, metrics))
    (a, m), (b, k) = results
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-5), a.params, b.params)
    for name in ("loss", "policy_loss", "value_loss", "entropy", "approx_kl"):
        np.testing.assert_allclose(m[name], k[name], rtol=1e-3, atol=1e-5)


def test_order_is_random_and_each_agent_comes_once():
    learner = HAPPO(Probe(), OWN, CONFIG)
    orders = np.asarray(jax.vmap(learner.agent_order)(jax.random.split(jax.random.key(0), 600)))
    assert (np.sort(orders, axis=1) == np.arange(3)).all()
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6 and counts.min() > 60 and counts.max() < 140  # 100 each, deviation 9.


def test_agents_learn_the_teams_mean_reward_by_one_value():
    learner = HAPPO(Probe(kind="identity"), OWN, CONFIG)
    carry = learner.init(jax.random.key(0), HP)
    _, rollout, _ = learner._rollout(carry, jax.random.key(1))
    learnt = np.asarray(learner._learnt_from(rollout))
    np.testing.assert_allclose(learnt, np.broadcast_to(np.asarray(rollout.reward).mean(1, keepdims=True), learnt.shape))
    assert (np.asarray(rollout.reward).std(1) > 0).any()  # They differ before.
    assert (np.asarray(rollout.value) == np.asarray(rollout.value)[:, :1]).all()
    assert carry.params["critic"]["output/kernel"].shape == (8, 1)
    assert carry.params["actor"]["output/kernel"].shape == (3, 8, 3)
    assert learner.actor_critic.count_parameters() == 3 * (2 * 8 + 8 + 8 * 3 + 3) + (6 * 8 + 8 + 8 + 1)


@pytree
class Step(State):
    pass


@dataclass(frozen=True)
class Parity(MultiAgentEnv):
    """Everyone earns 1 if an odd number of agents takes action 1, else 0: what is best depends on all the others, and
    agents that change their minds at the same time undo each other's change."""

    num_agents: int = 2
    max_steps: int | None = 1

    def init(self, key):
        return Step(**start_clock())

    def observation_space(self, agent=None):
        return flat_box(1)

    def action_space(self, agent=None):
        return Discrete(2)

    def observe(self, state):
        return jnp.ones((self.num_agents, 1), jnp.float32)

    def transition(self, key, state, actions):
        reward = (jnp.sum(actions) % 2).astype(jnp.float32)
        return state, Outcome(jnp.full(self.num_agents, reward), jnp.zeros((), bool), jnp.zeros((), bool), {})


def test_agents_in_turn_do_not_undo_each_other():
    """From a joint policy that is wrong and sure of itself, with steps large enough to turn it round: agents that
    move at once all flip and earn nothing again; in turn, the second sees what the first has done. With the same
    settings, over seeds, the joint policy improves far more often in turn."""
    env = Parity()
    config = PPOConfig(num_envs=128, num_steps=1, update_epochs=8, num_minibatches=1, normalize_advantages="none")
    hp = PPOHyperparameters(
        learning_rate=0.05, entropy_coefficient=0.0, clip_epsilon=10.0, max_grad_norm=1e3, value_coefficient=0.0
    )

    def after_one_update(kind):
        learner = kind(env, OWN, config, centralised_critic=True)

        def one(key):
            carry = learner.init(key, hp)
            head = carry.params["actor"]["output/bias"].at[:, 0].set(0.5)  # p(action 1) = 0.38 for both.
            carry = replace(carry, params=carry.params | {"actor": carry.params["actor"] | {"output/bias": head}})
            carry, _ = learner.update(carry)
            weights = learner.actor_critic.weights(carry.params)
            obs = jnp.ones((1, 2, 1, 1))
            reset = jnp.zeros((1, 1, 1), bool)
            logits, _ = learner.actor_critic.policy(weights, obs, learner.actor_critic.start(1)[0], reset)
            p = jax.nn.softmax(logits[0, :, 0])[:, 1]
            return p[0] * (1 - p[1]) + p[1] * (1 - p[0])  # The probability of an odd number.

        return np.asarray(jax.jit(jax.vmap(one))(seed_keys(0, 32)))

    in_turn, at_once = after_one_update(HAPPO), after_one_update(PPO)
    assert in_turn.mean() > at_once.mean() + 0.1, (in_turn.mean(), at_once.mean())


def test_agents_learn_what_only_they_together_are_paid_for():
    config = replace(CONFIG, num_envs=16, num_steps=8, update_epochs=4)
    learner = HAPPO(Probe(kind="identity"), OWN, config)
    _, metrics = jax.jit(make_train(learner, 40, 1))(seed_keys(0, 2), HP)
    assert (np.asarray(metrics["eval/episode_return"][-1]) == 1.0).all()


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: HAPPO(Probe(), replace(OWN, sharing="nops")), "sharing is 'nops'; allowed with HAPPO: nops_actors"),
        (lambda: HAPPO(Probe(), OWN, centralised_critic=False), "centralised_critic is False"),
    ],
)
def test_bad_settings_say_what_is_allowed(build, message):
    with pytest.raises(ValueError, match=message):
        build()

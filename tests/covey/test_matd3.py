"""MATD3: targets, losses and update against float64 NumPy, padding, equalities between schemes, learning on probes."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe, Uneven

import envs_jax
from covey.experiment import checkpoint, make_train, seed_keys
from covey.experiment.program import Program
from covey.learners import gradients, replay
from covey.learners.matd3 import (
    MATD3,
    Batch,
    MATD3Config,
    MATD3Hyperparameters,
    Trained,
    n_step_returns,
)
from covey.policies import PolicyConfig
from envs_jax.base import flat_box
from envs_jax.spaces import Box

ROOT = Path(__file__).parents[2]
TINY = PolicyConfig(hidden_sizes=(16,), hypernet_hidden_sizes=(8,))
CONFIG = MATD3Config(
    num_envs=16, num_steps=4, buffer_size=4096, gradient_steps=32, batch_size=64, critic_hidden_sizes=(32,),
    eval_episodes=2,
)  # fmt: skip
HP = MATD3Hyperparameters(learning_rate=3e-3, critic_learning_rate=5e-3, target_rate=0.05, warmup_steps=256.0)


@dataclass(frozen=True)
class Clock(Probe):
    """An agent sees its number and the time, and earns its number plus one at every step; "ending" terminates."""

    kind: str = "endless"
    max_steps: int | None = 3

    def action_space(self, agent=None):
        return Box(-1.0, 1.0, (1,))

    def observe(self, state):
        ids = jnp.arange(self.num_agents, dtype=jnp.float32)
        return jnp.stack([ids, jnp.full_like(ids, state.step.astype(jnp.float32))], axis=-1)

    def transition(self, key, state, actions):
        _, outcome = super().transition(key, state, actions)
        return state, outcome._replace(reward=1.0 + jnp.arange(self.num_agents, dtype=jnp.float32))


def learner(env=None, sharing="nops", policy=TINY, **config):
    return MATD3(env or Probe(kind="torque"), replace(policy, sharing=sharing), replace(CONFIG, **config))


def train(learner, num_updates, num_seeds=2, hp=HP):
    return jax.jit(make_train(learner, num_updates, num_evaluations=1))(seed_keys(0, num_seeds), hp)


def rollout(learner, hp=HP, warming_up=True):
    """A first rollout: the carry after it, what the replay is given, statistics."""

    def first(key):
        return learner._rollout(learner.init(key, hp), jax.random.key(1), jnp.bool_(warming_up))

    return jax.jit(first)(jax.random.key(0))


def final_return(metrics):
    return np.asarray(metrics["eval/episode_return"][-1])


def noisy(params, seed=1):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        tree, [p + 0.4 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    )


def random_params(learner, seed=0):
    """Parameters of actors and critics, away from where they start, so that nothing is small or symmetric."""

    def make(key):
        keys = jax.random.split(key)
        return {"actor": noisy(learner.actor.init(keys[0]), seed), "critic": noisy(learner.critic.init(keys[1]), seed)}

    return jax.jit(make)(jax.random.key(seed))


# --- Mathematics ---


def random_batch(learner, size=7, seed=0):
    rng = np.random.default_rng(seed)
    (obs, state), _ = learner._shapes
    agents, actions = learner.act_mask.shape

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    seen = [normal(agents, size, obs.shape[1]) for _ in range(2)]
    states = [None if state is None else normal(size, state.shape[0]) for _ in range(2)]
    action = jnp.asarray(rng.uniform(-1, 1, (agents, size, actions)) * learner.act_mask[:, None], jnp.float32)
    bootstrap = jnp.asarray(np.where(rng.random(size) < 0.4, 0.0, 0.9), jnp.float32)
    return Batch(seen[0], states[0], action, normal(agents, size), bootstrap, seen[1], states[1])


class NumPy:
    """Actors without sharing and critics (per agent or a team's), with one hidden layer of ReLU, in float64."""

    def __init__(self, learner, params):
        self.learner, self.team = learner, learner.config.critic == "team"
        self.p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    @staticmethod
    def forward(w, x):
        return np.maximum(x @ w["hidden_0/kernel"] + w["hidden_0/bias"], 0) @ w["output/kernel"] + w["output/bias"]

    def act(self, obs):
        own = [
            np.tanh(self.forward({k: v[i] for k, v in self.p["actor"]["actor"].items()}, np.float64(o)))
            for i, o in enumerate(obs)
        ]
        return np.stack(own) * self.learner.act_mask[:, None]

    def q(self, k, i, obs, state, action):
        """Value [B] by critic k of agent i, of a joint action [N, B, A]."""
        if state is None:
            state = np.concatenate([o[:, m] for o, m in zip(obs, self.learner._obs_mask, strict=True)], axis=-1)
        joint = [a[:, m] for a, m in zip(action, self.learner.act_mask, strict=True)]
        w = {n: v[k] if self.team else v[k, i] for n, v in self.p["critic"]["critic"].items()}
        return self.forward(w, np.concatenate([np.float64(state), *joint], axis=-1))[:, 0]

    def actor_loss(self, i, batch, others):
        action = np.array(self.act(batch.obs) if others == "policy" else batch.action, np.float64)
        action[i] = self.act(batch.obs)[i]
        return -self.q(0, i, batch.obs, batch.state, action).mean()


CASES = [
    ("per_agent", "state", "replay"),
    ("per_agent", "obs", "policy"),
    ("team", "obs", "replay"),
    ("team", "state", "policy"),
]


@pytest.mark.parametrize("critic,critic_input,others", CASES)
def test_target_and_losses_equal_numpy(critic, critic_input, others):
    """Values, and the gradient of each agent's loss along its own parameters."""
    own = learner(Uneven(), critic=critic, critic_input=critic_input, others=others)
    params, target = random_params(own, 1), random_params(own, 2)
    batch, key, hp = random_batch(own), jax.random.key(5), replace(HP, target_noise=0.6, target_noise_clip=0.5)
    rows = range(1 if critic == "team" else 2)

    raw = 0.6 * np.asarray(jax.random.normal(key, batch.action.shape), np.float64)
    assert 0.1 < (np.abs(raw) > 0.5).mean() < 0.9  # Both sides of the clip are at work.
    old = NumPy(own, target)
    action = np.clip(old.act(batch.next_obs) + np.clip(raw, -0.5, 0.5), -1, 1) * own.act_mask[:, None]
    both = np.array([[old.q(k, i, batch.next_obs, batch.next_state, action) for i in rows] for k in (0, 1)])
    bias = target["critic"]["critic"]["output/bias"]  # Shifted so that now one critic is lower and now the other.
    shift = both.mean(-1)
    target["critic"]["critic"]["output/bias"] = bias - jnp.asarray(shift, jnp.float32).reshape(bias.shape)
    both = both - shift[..., None]
    assert 0.1 < (both[0] < both[1]).mean() < 0.9
    reward = np.asarray(batch.reward, np.float64)
    reward = reward.mean(0, keepdims=True) if critic == "team" else reward
    expected = reward + np.asarray(batch.bootstrap) * both.min(0)
    goal = jax.jit(own.target_value)(target, batch, key, hp)
    np.testing.assert_allclose(goal, expected, rtol=1e-4, atol=1e-5)

    ours = NumPy(own, params)
    q = np.array([[ours.q(k, i, batch.obs, batch.state, batch.action) for i in rows] for k in (0, 1)])
    total, metrics = jax.jit(own.critic_loss)(params["critic"], goal, batch)
    np.testing.assert_allclose(total, ((q - expected) ** 2).mean(axis=(1, 2)).sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["q"], q.mean(axis=(0, 2)), rtol=1e-4, atol=1e-6)

    differentiate = jax.jit(jax.value_and_grad(own.actor_loss, has_aux=True))
    (_, metrics), grads = differentiate(params["actor"], params["critic"], batch)
    losses = [ours.actor_loss(i, batch, others) for i in range(2)]
    np.testing.assert_allclose(metrics["actor_loss"], np.mean(losses), rtol=1e-4, atol=1e-6)
    for i in range(2):
        for name, place in (("output/bias", (i, 0)), ("hidden_0/kernel", (i, 0, 3))):
            moved = []
            for step in (1e-5, -1e-5):
                ours.p["actor"]["actor"][name][place] += step
                moved.append(ours.actor_loss(i, batch, others))
                ours.p["actor"]["actor"][name][place] -= step
            slope = (moved[0] - moved[1]) / 2e-5 / 2  # The loss is the mean over two agents.
            np.testing.assert_allclose(grads["actor"][name][place], slope, rtol=2e-3, atol=1e-5)


def test_returns_of_several_steps_equal_numpy():
    rng = np.random.default_rng(0)
    time, agents, envs, gamma = 9, 2, 5, 0.9
    reward, done = rng.normal(size=(time, agents, envs)), rng.random((time, envs)) < 0.3
    terminated = done & (rng.random(done.shape) < 0.5)
    for n in (1, 3, 20):
        total, bootstrap, end = n_step_returns(
            jnp.asarray(reward), jnp.asarray(terminated), jnp.asarray(done), gamma, n
        )
        for t in range(time):
            for e in range(envs):
                value, m = np.zeros(agents), 0
                while m < n and t + m < time:
                    value += gamma**m * reward[t + m, :, e]
                    m += 1
                    if done[t + m - 1, e]:
                        break
                np.testing.assert_allclose(total[t, :, e], value, rtol=1e-4, atol=1e-5)
                assert int(end[t, e]) == t + m - 1
                expected = 0.0 if terminated[t + m - 1, e] else gamma**m
                np.testing.assert_allclose(bootstrap[t, e], expected, rtol=1e-5)


def test_policies_and_targets_move_once_in_several_critic_steps():
    """All gradient steps of an update, against a plain loop over the public losses with the same keys."""
    own = learner(Uneven(), gradient_steps=4, policy_delay=2, batch_size=8)
    hp = replace(HP, max_grad_norm=0.05, target_rate=0.3)
    carry, stored, _ = rollout(own, hp)
    ring, key = replay.add(carry.replay, stored), jax.random.key(2)
    ours, metrics = jax.jit(own._learn)(carry.trained, ring, hp, key)

    critic_grads, actor_grads = (jax.jit(jax.grad(f, has_aux=True)) for f in (own.critic_loss, own.actor_loss))
    target_value, sample = jax.jit(own.target_value), jax.jit(own._sample)
    params, target, optimizer = carry.trained
    critic, actor, critic_state, actor_state = (
        params["critic"],
        params["actor"],
        optimizer["critic"],
        optimizer["actor"],
    )
    for pair in jax.random.split(key, (2, 2, 2)):
        for key_batch, key_noise in pair:
            batch = sample(ring, key_batch)
            goal = target_value(target, batch, key_noise, hp)
            grads, _ = critic_grads(critic, goal, batch)
            grads, _ = gradients.clip(grads, 0.05, own.critic.separate, own.env.num_agents, 1)
            step, critic_state = gradients.adam(hp).update(grads, critic_state)
            critic = jax.tree.map(lambda p, s: p - 5e-3 * s, critic, step)
        grads, _ = actor_grads(actor, critic, batch)
        grads, norm = gradients.clip(grads, 0.05, own.actor.separate, own.env.num_agents)
        step, actor_state = gradients.adam(hp).update(grads, actor_state)
        actor = jax.tree.map(lambda p, s: p - 3e-3 * s, actor, step)
        now = {"actor": actor, "critic": critic}
        target = jax.tree.map(lambda t, p: 0.7 * t + 0.3 * p, target, now)
    expected = Trained(now, target, {"actor": actor_state, "critic": critic_state})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), ours, expected)
    assert int(ours.optimizer["critic"].count) == 4 and int(ours.optimizer["actor"].count) == 2
    assert float(norm) > 0.05 and float(metrics["critic_grad_norm"]) > 0.05  # Both were clipped.


def test_gradients_are_clipped_for_each_agent_where_nothing_is_shared():
    own = learner()
    grads = jax.tree.map(lambda x: jnp.ones_like(x) * 1e-4, random_params(own)["critic"])
    grads = jax.tree.map(lambda g: g.at[:, 1].mul(1000.0), grads)
    clipped, _ = gradients.clip(grads, 1.0, own.critic.separate, own.env.num_agents, 1)
    norms = [float(jnp.sqrt(sum(jnp.sum(g[:, i] ** 2) for g in jax.tree.leaves(clipped)))) for i in range(3)]
    alone = float(jnp.sqrt(sum(jnp.sum((3 * g[:, 0]) ** 2) for g in jax.tree.leaves(grads))))  # 3 agents in the mean.
    np.testing.assert_allclose(norms, [alone, 1.0, alone], rtol=1e-5)
    shared = learner(critic="team")
    _, norm = gradients.clip(random_params(shared)["critic"], 1.0, shared.critic.separate, shared.env.num_agents, 1)
    assert norm.shape == ()


# --- Padding, bounds, exploration ---


@pytest.mark.parametrize("sharing,critic", [("nops", "per_agent"), ("hyper_mlp", "as_actor")])
def test_padding_changes_nothing(sharing, critic):
    own = learner(Uneven(), sharing=sharing, critic=critic, critic_input="obs")
    params, batch = random_params(own), random_batch(own)
    odd = batch._replace(action=batch.action.at[1, :, 1].set(7.0))

    @jax.jit
    def gradients(batch):
        critic = jax.grad(own.critic_loss, has_aux=True)(params["critic"], batch.reward, batch)[0]
        return critic, jax.grad(own.actor_loss, has_aux=True)(params["actor"], params["critic"], batch)[0]["actor"]

    jax.tree.map(np.testing.assert_array_equal, gradients(batch), gradients(odd))
    if sharing == "nops":
        grads = gradients(batch)[1]
        assert (np.asarray(grads["output/kernel"][1, :, 1]) == 0).all() and float(grads["output/bias"][1, 1]) == 0
        assert (np.asarray(grads["output/bias"][0]) != 0).all()
    assert own.critic.input_size == 3 + 3  # Two numbers and one to see, two actions and one.
    unseen = batch._replace(
        next_obs=batch.next_obs.at[1, :, 1].set(9.0)
    )  # Only the actor could see it: it pads with 0.
    x, y = (own._critic_input(b.next_obs, None, b.action[None]) for b in (batch, unseen))
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("warming_up", [True, False])
def test_actions_are_explored_within_each_agents_bounds(warming_up):
    own = learner(Uneven(max_steps=50), num_steps=32)
    hp = replace(HP, exploration_noise=0.1)
    carry, stored, _ = rollout(own, hp, warming_up)
    action = np.asarray(stored.action)  # [T·E, N, A]
    assert (action[:, 1, 1] == 0).all() and np.abs(action).max() <= 1
    real = action[:, [0, 0, 1], [0, 1, 0]]
    np.testing.assert_allclose(real.std(0), 1 / np.sqrt(3) if warming_up else 0.1, rtol=0.15)
    # Rewards are of scaled actions: 1 - sum (a - 1/2)^2, where agent 1's one action is in [-0.5, 1.5].
    scaled = np.stack([action[:, 0, 0], action[:, 0, 1], 0.5 + action[:, 1, 0]], axis=-1)
    expected = [1 - ((scaled[:, :2] - 0.5) ** 2).sum(-1), 1 - (scaled[:, 2] - 0.5) ** 2 - 0.25]
    np.testing.assert_allclose(stored.reward, np.stack(expected, -1), rtol=1e-4, atol=1e-5)
    metrics = own.evaluate(carry, jax.random.key(2))
    assert float(metrics["given"][1]) == 0.0 and float(jnp.sum(metrics["outside"])) == 0.0


def test_warm_up_neither_learns_nor_follows_the_policy():
    own = learner(gradient_steps=2)
    hp = replace(HP, warmup_steps=100.0)  # Updates of 64 steps: two of them.
    state, metrics = train(own, 3, hp=hp)
    assert np.isnan(metrics["train/critic_loss"])[:, 0].tolist() == [True, True, False]
    assert np.asarray(metrics["train/warming_up"])[:, 0].tolist() == [1.0, 1.0, 0.0]
    assert np.asarray(metrics["train/replay_transitions"])[:, 0].tolist() == [64.0, 128.0, 192.0]
    assert (np.asarray(state.carries.trained.optimizer["critic"].count) == 2).all()


# --- Replay ---


@pytest.mark.parametrize("kind,n_step", [("endless", 1), ("endless", 2), ("ending", 2)])
def test_transitions_end_where_episodes_do(kind, n_step):
    """What follows is the state before a reset; it counts nothing only where the episode terminated."""
    own = learner(Clock(kind=kind), num_steps=8, n_step=n_step, critic_input="obs")
    hp = replace(HP, discount=0.5)
    _, stored, _ = rollout(own, hp)
    time = np.asarray(stored.before[0][:, 0, 1])
    np.testing.assert_array_equal(time.reshape(8, 16)[:, 0], [0, 1, 2, 0, 1, 2, 0, 1])
    steps = np.minimum(n_step, 3 - time).reshape(8, 16)
    steps[-1] = 1  # The rollout ends.
    steps = steps.reshape(-1)
    np.testing.assert_array_equal(stored.after[0][:, 0, 1], time + steps)
    np.testing.assert_array_equal(stored.after[0][:, 2, 0], 2.0)
    ends = (time + steps == 3) & (kind == "ending")
    np.testing.assert_allclose(stored.bootstrap, np.where(ends, 0.0, 0.5**steps))
    gain = np.where(steps == 1, 1.0, 1.5)
    np.testing.assert_allclose(stored.reward, gain[:, None] * [1.0, 2.0, 3.0])


@pytest.mark.parametrize("critic_input", ["state", "obs"])
def test_replayed_states_are_observed_as_they_were(critic_input):
    kept = []
    for replay_of in ("observations", "states"):
        own = learner(Clock(), n_step=2, replay_of=replay_of, critic_input=critic_input)
        carry, stored, _ = rollout(own)
        kept.append(jax.jit(own._sample)(replay.add(carry.replay, stored), jax.random.key(2)))
    jax.tree.map(np.testing.assert_array_equal, *kept)
    assert kept[0].obs.shape == (3, 64, 2) and float(kept[0].obs[..., 1].max()) == 2.0


@pytest.mark.parametrize("replay_of", ["observations", "states"])
def test_replay_keeps_the_newest_and_its_memory_is_planned(replay_of):
    own = learner(Clock(), buffer_size=96, replay_of=replay_of)
    carry, stored, _ = rollout(own)
    assert own.replay_bytes() == sum(x.nbytes for x in jax.tree.leaves(carry.replay))
    assert own.replay_bytes(3) == 3 * own.replay_bytes()
    other = jax.tree.map(lambda x: x[::-1], stored)
    ring = replay.add(replay.add(carry.replay, stored), other)
    assert int(ring.size) == 96 and int(ring.position) == 32
    np.testing.assert_array_equal(ring.sequences.action[:32], other.action[32:])
    np.testing.assert_array_equal(ring.sequences.action[32:64], stored.action[32:])


# --- Sharing ---


@pytest.mark.parametrize("sharing", ["fups", "fups_id", "fups_matched", "nops", "hyper_linear", "hyper_mlp"])
def test_agents_act_as_if_run_one_by_one(sharing):
    own = learner(Uneven(), sharing=sharing, critic="as_actor", critic_input="obs")
    params, batch = random_params(own), random_batch(own)
    weights, critic = own.actor.weights(params["actor"]), params["critic"]
    together = own._act(weights, batch.obs)
    values = own.critic.values(critic, own._critic_input(batch.obs, None, batch.action[None]))
    assert values.shape == (2, 2, 7)
    joint = np.concatenate([batch.obs[0], batch.obs[1, :, :1], batch.action[0], batch.action[1, :, :1]], axis=-1)
    for i in range(2):
        identity = [np.tile(np.eye(2)[i], (7, 1))] if sharing in ("fups_id", "fups_matched") else []
        mine = {k: np.asarray(w[i % w.shape[0]], np.float64) for k, w in weights["actor"].items()}
        alone = np.tanh(NumPy.forward(mine, np.concatenate([batch.obs[i], *identity], axis=-1))) * own.act_mask[i]
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-5)
        for k in range(2):
            w = own.critic.scheme.weights(jax.tree.map(lambda p, k=k: p[k], critic), own.critic.networks)["critic"]
            mine = {name: np.asarray(x[i % x.shape[0]], np.float64) for name, x in w.items()}
            alone = NumPy.forward(mine, np.concatenate([joint, *identity], axis=-1))[:, 0]
            np.testing.assert_allclose(values[k, i], alone, rtol=1e-4, atol=1e-4)


def test_linear_hypernetwork_without_bias_trains_exactly_as_nops():
    policy = replace(TINY, hypernet_bias=False)
    hp = replace(HP, max_grad_norm=0.05, warmup_steps=0.0)
    (a, m), (b, k) = (
        train(learner(sharing=s, policy=policy, gradient_steps=4), 4, hp=hp) for s in ("nops", "hyper_linear")
    )
    for name in ("critic_loss", "actor_loss", "actor_grad_norm"):
        np.testing.assert_allclose(m[f"train/{name}"], k[f"train/{name}"], rtol=1e-3, atol=1e-6)
    for leaf, value in a.carries.trained.params["actor"]["actor"].items():
        np.testing.assert_allclose(
            value, b.carries.trained.params["actor"]["actor"][f"{leaf}/head"], rtol=1e-3, atol=1e-5
        )


# --- Learning ---


@pytest.mark.parametrize(
    "sharing,config",
    [("nops", {}), ("fups_id", {"critic_input": "obs"}), ("hyper_mlp", {"critic": "as_actor", "replay_of": "states"})],
)
def test_agents_find_their_own_targets(sharing, config):
    """One step, reward 1 - (a - i / 4)^2 for agent i."""
    _, metrics = train(learner(sharing=sharing, **config), 30, num_seeds=3)
    assert (final_return(metrics) > 0.97).all()


@pytest.mark.parametrize(
    "sharing,config", [("nops", {"critic": "team", "others": "policy"}), ("hyper_mlp", {"others": "replay"})]
)
def test_agents_coordinate(sharing, config):
    """a_1 a_2 on [-1, 1]^2: 0 wherever one of them is undecided, 1 in two opposite corners."""
    own = learner(envs_jax.make("polynomial/multiplication"), sharing=sharing, **config)
    _, metrics = train(own, 60, num_seeds=4)
    assert (final_return(metrics) > 0.7).all()


@pytest.mark.parametrize("kind,value", [("endless", 2.0), ("ending", 1.25)])
def test_values_at_the_end_of_an_episode(kind, value):
    """gamma = 1/2, episodes of two steps, which look alike. Cut off: 1 / (1 - gamma) = 2. Ended: the mean of 1.5 and 1.
    Agent i earns i + 1 times as much."""

    @dataclass(frozen=True)
    class Blind(Clock):
        def observe(self, state):
            return jnp.ones((3, 2))

    hp = replace(HP, discount=0.5, target_rate=0.2)
    _, metrics = train(learner(Blind(kind=kind, max_steps=2)), 30, num_seeds=1, hp=hp)
    np.testing.assert_allclose(metrics["train/q"][-1, 0], np.array([1.0, 2.0, 3.0]) * value, rtol=0.08)


# --- Program ---


def test_training_is_one_program_and_repeats_itself():
    own = learner(gradient_steps=2)
    program = Program(own, 4, 2)
    state = jax.eval_shape(program.init, seed_keys(0, 2), HP)
    text = jax.jit(lambda s, n: program.advance(s, n, length=4)).lower(state, jnp.int32(4)).as_text()
    assert "callback" not in text and "stablehlo.while" in text
    carry, *_ = rollout(own)
    states, valid = own.episode(carry, jax.random.key(1))
    assert valid.tolist() == [True, True] and states.step.tolist() == [0, 1] and bool(states.done[-1])
    assert set(own.evaluate(carry, jax.random.key(0))) == {"episode_return", "episode_length", "reward", "seen"}


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path):
    # Through a checkpoint on disk, in the middle of replays that have gone round and of learning.
    own = learner(envs_jax.make("polynomial/multiplication"), gradient_steps=4, buffer_size=128, n_step=2)
    program = Program(own, 6, 2)
    advance = jax.jit(partial(program.advance, length=4))
    start = jax.jit(program.init)(seed_keys(0, 2), replace(HP, warmup_steps=64.0))
    whole, first_metrics = advance(start, jnp.int32(4))
    checkpoint.save(tmp_path, 4, whole)
    whole, metrics = advance(whole, jnp.int32(2))
    template = jax.eval_shape(program.init, seed_keys(0, 2), HP)
    again, metrics_again = advance(jax.device_put(checkpoint.load(tmp_path, template)), jnp.int32(2))
    assert np.isfinite(first_metrics["train/critic_loss"][1:4]).all()  # It had learned before it was cut off.
    for tree, other in ((whole, again), (metrics, metrics_again)):
        arrays, others = checkpoint.to_arrays(tree), checkpoint.to_arrays(other)
        assert arrays.keys() == others.keys()
        assert all(arrays[name].tobytes() == others[name].tobytes() for name in arrays)
    before, after = (np.concatenate([x.ravel() for x in jax.tree.leaves(s.carries.trained)]) for s in (start, whole))
    assert not np.array_equal(before, after)


TINY_RUN = (  # noqa: SIM905
    "--preset-scale small --num-envs 4 --num-steps 8 --gradient-steps 2 --batch-size 8 --buffer-size 64 --n-step 2 "
    "--hidden-sizes 8 --critic-hidden-sizes 8 --eval-episodes 1 --num-seeds 2 --num-updates 3 --num-evaluations 1 "
    "--chunks 1 --warmup-steps 32 --no-video"
).split()


@pytest.mark.parametrize(
    "program,task",
    [
        ("algos/hypermarl_matd3.py", ["multiplication", "--hypernet-hidden-sizes", "6", "--critic", "as_actor"]),
        ("algos/hypermarl_matd3.py", ["navigation", "--env.max-steps", "8", "--sharing", "hyper_linear"]),
        ("baselines/matd3.py", ["hopper_3x1", "--env.max-steps", "4", "--replay-of", "states"]),
    ],
)
def test_programs_train_and_leave_everything(program, task, tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "COLUMNS": "120"}
    command = [sys.executable, program, *task, *TINY_RUN, "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "replay: 64 steps" in done.stdout and "IQM" in done.stdout
    with np.load(tmp_path / "run/metrics.npz") as found:
        assert np.isfinite(found["train/critic_loss"][1:]).all() and np.isnan(found["train/critic_loss"][0]).all()
        assert np.isfinite(found["eval/episode_return"][-1]).all() and found["finite"].all()
    assert (tmp_path / "run/policy.safetensors").exists() and (tmp_path / "run/curve.png").exists()


def test_robots_are_built_only_when_asked_for():
    script = (
        "import sys, algos.hypermarl_matd3, algos.hypermarl_ippo as ippo\n"
        "names = list(algos.hypermarl_matd3.PRESETS)\n"
        "assert {'halfcheetah_2x3', 'humanoid_17x1'} <= set(names) and 'humanoid_17x1' in ippo.PRESETS\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends and 'mujoco' not in sys.modules\n"
        "for presets in (algos.hypermarl_matd3.PRESETS, ippo.PRESETS):\n"
        "    for scales in presets.values():\n"
        "        for args in scales.values():\n"
        "            assert args.env.num_agents >= 2 and args.policy.sharing == 'hyper_mlp'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


# --- Bad input ---


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: learner(Probe()), "MATD3 needs vectors of continuous actions; Probe has Discrete"),
        (lambda: learner(Probe(kind="torque", max_steps=None)), "eval_steps is None"),
        (lambda: learner(policy=replace(TINY, recurrent=True)), "recurrent is True; allowed with MATD3: False"),
        (lambda: learner(sharing="fups_id_only", critic="as_actor"), "critic is 'as_actor' with sharing fups_id_only"),
        (lambda: learner(sharing="dico").check(), "sharing is 'dico'; allowed with deterministic policies"),
        (lambda: MATD3Hyperparameters(learning_rate=np.inf), "learning_rate is inf; allowed: a number above 0, finite"),
        (lambda: learner(gradient_steps=5), "policy_delay is 2; allowed: a divisor of gradient_steps = 5"),
        (lambda: learner(buffer_size=63), "buffer_size is 63; allowed: at least num_envs x num_steps = 64"),
        (lambda: learner(n_step=5), "n_step is 5; allowed: 1 to num_steps = 4"),
        (lambda: learner(critic="both"), "critic is 'both'; allowed: per_agent, team, as_actor"),
        (lambda: learner(others="none"), "others is 'none'; allowed: replay, policy"),
        (lambda: learner(critic_hidden_sizes=(0,)), "critic_hidden_sizes is"),
        (lambda: MATD3Config(num_envs=0), "num_envs is 0"),
        (lambda: MATD3Hyperparameters(target_rate=2.0), r"target_rate is 2.0; allowed: a number in \[0, 1\]"),
        (lambda: MATD3Hyperparameters(target_noise=-0.1), "target_noise is -0.1; allowed: a number of at least 0"),
        (lambda: MATD3Hyperparameters(critic_learning_rate=0.0), "critic_learning_rate is 0.0"),
    ],
)
def test_bad_settings_say_what_is_allowed(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_unbounded_actions_are_refused():
    @dataclass(frozen=True)
    class Unbounded(Probe):
        def action_space(self, agent=None):
            return flat_box(1)

    with pytest.raises(ValueError, match="finite bounds"):
        learner(Unbounded())

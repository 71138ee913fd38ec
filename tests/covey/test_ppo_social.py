"""PPO with social rewards: what it learns on, what it measures, and that it costs nothing where there is none."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

import envs_jax
from covey import social
from covey.experiment import make_train, seed_keys
from covey.learners.ppo import PPO, PPOConfig, PPOHyperparameters, SocialPPOHyperparameters
from covey.policies import PolicyConfig

TINY = PolicyConfig(sharing="nops", hidden_sizes=(8,), encoder_channels=2, encoder_size=6)
CONFIG = PPOConfig(num_envs=4, num_steps=9, update_epochs=2, num_minibatches=2, eval_episodes=2)


@dataclass(frozen=True)
class Seen(Probe):
    """A probe in which who sees whom depends on the time."""

    def visible(self, state):
        return jnp.roll(jnp.eye(3, dtype=bool), state.step % 3, axis=1)


def make(env, method="fair_local_ia", config=CONFIG, **settings):
    reward, numbers = social.make(method, **settings)
    return PPO(env, TINY, config, social=reward), SocialPPOHyperparameters(learning_rate=5e-3, social=numbers)


def train(learner, hp, num_updates=3, num_seeds=2):
    return jax.jit(make_train(learner, num_updates, num_evaluations=1))(seed_keys(0, num_seeds), hp)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_selfish_is_ppo_itself():
    """Bitwise: the default, `selfish` by name, and inequity aversion that weighs nothing."""
    env = Probe(max_steps=4)
    state, metrics = train(PPO(env, TINY, CONFIG), PPOHyperparameters(learning_rate=5e-3))
    assert "shaped_return" not in metrics and state.carries.social is None
    selfish, _ = train(*make(env, "selfish"))
    assert_equal(state.carries.params, selfish.carries.params)
    weightless, more = train(*make(env, "inequity_aversion", alpha=0.0, beta=0.0))
    assert_equal(state.carries.params, weightless.carries.params)
    assert_equal(metrics, {name: more[name] for name in metrics})
    np.testing.assert_array_equal(more["train/shaped_return"], more["train/episode_return"])


@pytest.mark.parametrize("env", [Probe(max_steps=4), Seen(max_steps=4)])
@pytest.mark.parametrize("method", ["fair_local_ia", "fair_local_svo", "common"])
def test_shaped_rewards_equal_stepping_by_hand(method, env):
    """Two rollouts, so that states and returns outlive one; episodes of 4 steps in rollouts of 9."""
    learner, hp = make(env, method, agent_weights=(1.0, 2.0, 3.0))
    carry = learner.init(jax.random.key(0), hp)
    rollouts = []
    for i in range(2):
        carry, rollout, _ = jax.jit(learner._rollout)(carry, jax.random.key(i))
        rollouts.append(rollout)
    reward, done, shaped, returned = (
        np.concatenate([np.asarray(getattr(r, name)) for r in rollouts])
        for name in ("reward", "done", "shaped", "shaped_returned")
    )
    step = jax.jit(learner.social.step)
    for e in range(CONFIG.num_envs):
        state, total = learner.social.init(3), np.zeros(3, np.float32)
        for t in range(len(reward)):
            visible = None
            if isinstance(env, Seen):  # The clock stands at 1 to 4 in the states that steps lead to.
                visible = jnp.roll(jnp.eye(3, dtype=bool), (t % 4 + 1) % 3, axis=1)
            state, own, _ = step(state, reward[t, :, e], visible, done[t, 0, e], hp.social)
            np.testing.assert_allclose(shaped[t, :, e], own, rtol=1e-6, atol=1e-6)
            total = total + np.asarray(own)
            if done[t, 0, e]:
                np.testing.assert_allclose(returned[t, :, e], total, rtol=1e-5, atol=1e-5)
                total = np.zeros(3, np.float32)
    assert done.any() and np.abs(shaped - reward).max() > 0.1


def test_returns_are_the_environments_own():
    env = Probe(max_steps=4)
    _, metrics = train(*make(env, "common"), num_updates=1)
    per_agent = metrics["train/episode_return"]
    np.testing.assert_allclose(
        metrics["train/shaped_return"], np.broadcast_to(per_agent.sum(-1, keepdims=True), per_agent.shape), rtol=1e-5
    )


def test_numbers_are_swept_in_one_program():
    """One alpha per seed gives what each gives alone."""
    learner, hp = make(Probe(max_steps=4), "inequity_aversion")
    both = replace(hp, social=replace(hp.social, alpha=jnp.array([0.5, 2.0]), beta=jnp.array([0.0, 1.0])))
    state, _ = train(learner, both)
    for i, (alpha, beta) in enumerate([(0.5, 0.0), (2.0, 1.0)]):
        alone, _ = train(learner, replace(hp, social=replace(hp.social, alpha=alpha, beta=beta)))
        for x, y in zip(jax.tree.leaves(state.carries.params), jax.tree.leaves(alone.carries.params), strict=True):
            np.testing.assert_allclose(x[i], y[i], rtol=1e-4, atol=1e-6)


def test_a_social_reward_needs_its_numbers():
    learner, _ = make(Probe())
    with pytest.raises(ValueError, match="SocialPPOHyperparameters"):
        learner.init(jax.random.key(0), PPOHyperparameters())


@pytest.fixture(scope="module")
def harvest():
    env = envs_jax.make("harvest", map="small", roles="2high_2low", max_steps=6)
    learner, hp = make(env, config=replace(CONFIG, eval_greedy=False))
    assert jax.eval_shape(learner._rollout, learner.init(jax.random.key(0), hp), jax.random.key(0))[1].obs.dtype == (
        jnp.uint8
    )
    return train(learner, hp, num_updates=2)[1]


def test_metrics_are_per_agent_and_per_role(harvest):
    for name in ("social_reward", "reward_range", "information_age", "envy", "guilt", "shaped_return"):
        assert harvest[f"train/{name}"].shape == (2, 2, 4), name
        assert np.isfinite(harvest[f"train/{name}"]).all()
    for name in ("episode_return", "apples", "zaps_fired", "coverage", "mean_distance"):
        assert harvest[f"eval/{name}"].shape == (2, 2, 4), name
        role = "return" if name == "episode_return" else name
        low = harvest[f"eval/{name}"][-1, :, :2].mean(-1)  # Low-reward agents come first.
        np.testing.assert_allclose(harvest[f"eval/{role}/low"][-1], low, rtol=1e-5, atol=1e-6)
    for name in ("collective_return", "equality", "equality_scaled", "sustainability", "peace"):
        assert harvest[f"eval/{name}"].shape == harvest[f"eval/{name}/high"].shape == (2, 2)
    assert "eval/return" not in harvest and "eval/cell" not in harvest
    paid = np.array([0.5, 0.5, 1.5, 1.5])
    np.testing.assert_allclose(harvest["eval/episode_return"][-1], harvest["eval/apples"][-1] * paid, rtol=1e-5)


def test_other_environments_are_evaluated_as_before():
    _, metrics = train(PPO(Probe(), TINY, CONFIG), PPOHyperparameters(), num_updates=1)
    names = {name for name in metrics if name.startswith("eval/")}
    assert names == {"eval/episode_return", "eval/episode_length", "eval/reward", "eval/seen"}


def test_sampled_evaluation_follows_the_policy():
    """Before training the policy is close to uniform: sampled, agents of "identity" earn 1 in 3 steps; greedy, one
    action is always the same."""
    env = Probe(max_steps=50)
    config = replace(CONFIG, eval_episodes=20)
    for greedy in (True, False):
        learner = PPO(env, TINY, replace(config, eval_greedy=greedy))
        metrics = jax.jit(learner.evaluate)(learner.init(jax.random.key(0), PPOHyperparameters()), jax.random.key(1))
        rate = metrics["episode_return"] / 50
        assert np.all((rate == 0.0) | (rate == 1.0)) if greedy else np.all(np.abs(rate - 1 / 3) < 0.06)

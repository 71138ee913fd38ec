"""Qualities of datasets: which of a run's policies are of a level, and that they are kept as they were."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from baselines.offline_data import Player, Playing, Remembering, choose, first_trained
from covey.learners.matd3 import MATD3, MATD3Config, MATD3Hyperparameters
from covey.learners.ppo import PPO, PPOConfig, PPOHyperparameters
from covey.policies import PolicyConfig
from envs_jax.particles.navigation import Navigation
from envs_jax.spaces import Box

# Two seeds, five evaluations; the second seed breaks down at the end. Good's median is 950, the worst 0.
RETURNS = np.array([[0.0, 50.0], [180.0, 210.0], [500.0, 400.0], [900.0, 1000.0], [800.0, 190.0]])


@pytest.mark.parametrize(
    "level,chosen",
    [
        ("last", [[4], [4]]),
        ("good", [[3], [3]]),
        ("medium", [[2], [2]]),  # Nearest to 475.
        ("poor", [[1], [1]]),  # Nearest to 190; the second seed's last policy has just that, but after its best.
        ("replay", [[0, 2, 4], [0, 2, 4]]),
    ],
)
def test_levels_are_fractions_of_the_way_up(level, chosen):
    assert choose(level, RETURNS, 3) == chosen


def test_what_has_not_been_trained_is_of_no_level():
    """A first policy that stands, and is better than all others for it, is not the good one."""
    standing = np.concatenate([np.full((1, 2), 2000.0), RETURNS])
    first = first_trained(np.arange(1, 7) * 100, 60.0)
    assert first == 1 and first_trained(np.arange(1, 7) * 100, 0.0) == 0 == first_trained(np.array([10]), 60.0)
    for level in ("good", "medium", "poor"):
        assert choose(level, standing, 3) == [[0], [0]]
        assert choose(level, standing, 3, first) == [[1 + k for k in seed] for seed in choose(level, RETURNS, 3)]


def test_replay_has_no_policy_twice():
    assert choose("replay", RETURNS, 40) == [[0, 1, 2, 3, 4]] * 2


def test_actors_are_kept_as_they_were_and_training_is_the_same():
    env = envs_jax.make("polynomial/multiplication")
    config = MATD3Config(num_envs=4, num_steps=4, buffer_size=64, gradient_steps=2, batch_size=8, eval_episodes=1)
    matd3 = MATD3(env, PolicyConfig(hidden_sizes=(4,)), replace(config, critic_hidden_sizes=(4,)))
    learner, hp = Remembering(matd3, (1, 3)), MATD3Hyperparameters(warmup_steps=0.0)
    carry = jax.jit(learner.init)(jax.random.key(0), hp)
    plain = jax.jit(matd3.init)(jax.random.key(0), hp)
    update, update_plain, seen = jax.jit(learner.update), jax.jit(matd3.update), []
    for _ in range(4):
        carry, plain = update(carry)[0], update_plain(plain)[0]
        seen.append(plain.trained.params["actor"])
    kept = jax.tree.map(lambda *x: jnp.stack(x), seen[0], seen[2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), carry.kept, kept)
    assert any((np.abs(x[0] - x[1]) > 1e-5).any() for x in jax.tree.leaves(carry.kept))


class Wide(Navigation):
    """Navigation with forces of -2 to 2."""

    def action_space(self, agent=None):
        return Box(-2.0, 2.0, (2,))


def test_mappo_is_played_at_its_means_with_noise_in_units():
    env = Wide(num_agents=2, max_steps=4)
    config = PPOConfig(num_envs=2, num_steps=4, num_minibatches=1, update_epochs=1, eval_episodes=1)
    policy = PolicyConfig(sharing="nops", hidden_sizes=(4,), initial_std=0.5)
    learner = Remembering(PPO(env, policy, config, centralised_critic=True), (1, 2))
    carry = jax.jit(jax.vmap(learner.init, (0, None)))(jax.random.split(jax.random.key(0), 2), PPOHyperparameters())
    update = jax.jit(jax.vmap(learner.update))
    first = update(carry)[0]
    carry = update(first)[0]
    for k, params in enumerate((first.inner.params, carry.inner.params)):
        jax.tree.map(lambda x, y, k=k: np.testing.assert_array_equal(x[:, k], y), carry.kept, params)

    returns = np.array([[0.0, 1.0], [2.0, 3.0]])
    player = Player(learner, Playing(play_steps=8, play_envs=2, play_noise=0.0))
    data = player.play("last", carry.kept, returns, (1, 2))
    assert [part["policy"] for part in data.provenance["of"]] == ["mappo"] * 2
    # The first episode of seed 0 again.
    networks, obs = learner.inner.actor_critic, jnp.swapaxes(data.obs[:4], 0, 1)[None]  # [1, N, 4, O]
    weights = networks.weights(jax.tree.map(lambda x: x[0], carry.inner.params))
    means = networks.policy(weights, obs, networks.start(4)[0], jnp.zeros((1, 1, 4), bool))[0][0]
    np.testing.assert_allclose(data.action[:4], np.clip(np.swapaxes(means, 0, 1), -2, 2), rtol=1e-5, atol=1e-6)
    # Training's own noise: a deviation of about 0.5, a quarter of the way from the middle of the range to its end.
    replayed = player.play("replay", carry.kept, returns, (1, 2))
    assert [part["noise"] for part in replayed.provenance["of"]] == pytest.approx([0.25] * 2, rel=0.02)


def test_names_and_mistakes(tmp_path):
    several = Playing(levels=("poor", "good"))
    assert several.paths(Path("data/x")) == {"poor": Path("data/x-poor"), "good": Path("data/x-good")}
    assert Playing().paths(Path("data/x")) == {"last": Path("data/x")}
    with pytest.raises(ValueError, match=r"levels is \('best',\); allowed: some of last, good, medium, poor, replay"):
        Playing(levels=("best",))
    (tmp_path / "x-poor").mkdir()
    with pytest.raises(ValueError, match="x-poor; allowed: a path with nothing there"):
        Playing(levels=("poor", "good"), dataset=tmp_path / "x").check_absent()

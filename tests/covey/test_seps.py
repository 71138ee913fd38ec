"""SePS: k-means and the index against NumPy, planted groups, what groups share, the whole program."""

import csv
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

import envs_jax
from covey.experiment import make_train, seed_keys
from covey.learners.ppo import PPO, PPOConfig, PPOHyperparameters
from covey.learners.seps import SePSHyperparameters, SePSPPO
from covey.policies import PolicyConfig
from covey.policies.seps import GroupConfig, GroupSharing, Transitions, davies_bouldin, find_groups, fit, k_means
from envs_jax.base import flat_box

ROOT = Path(__file__).parents[2]
POLICY = PolicyConfig("fups", hidden_sizes=(8,))
CONFIG = PPOConfig(num_envs=4, num_steps=8, update_epochs=1, num_minibatches=1, eval_episodes=2)
GROUPS = GroupConfig(
    pretraining_steps=40, pretraining_envs=4, fit_steps=3, fit_batch=4, fit_hidden_size=8, max_groups=3
)


def same_partition(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


def blobs(sizes, seed=0, spread=0.1):
    rng = np.random.default_rng(seed)
    planted = np.repeat(np.arange(len(sizes)), sizes)
    centres = 3.0 * np.eye(5)[: len(sizes)]
    return jnp.asarray(centres[planted] + spread * rng.normal(size=(sum(sizes), 5)), jnp.float32), planted


# --- Clusters ---


@pytest.mark.parametrize("sizes", [(4, 4), (1, 5, 2), (2, 2, 9, 3)])
def test_k_means_and_the_index_find_planted_clusters(sizes):
    x, planted = blobs(sizes)
    groups, centres = jax.jit(k_means, static_argnums=1)(x, len(sizes))
    assert same_partition(groups, planted)
    for k in range(len(sizes)):
        np.testing.assert_allclose(centres[k], np.asarray(x)[np.asarray(groups) == k].mean(axis=0), atol=1e-5)
    found, count = jax.jit(lambda x: find_groups(x, GroupConfig(max_groups=6)))(x)
    assert int(count) == len(sizes) and same_partition(found, planted)
    given, count = find_groups(x, GroupConfig(num_groups=2))
    assert int(count) == 2 and len(np.unique(given)) == 2


def test_the_index_equals_numpy():
    x, planted = blobs((3, 4, 5), spread=1.0)
    x64 = np.asarray(x, np.float64)
    centres = np.stack([x64[planted == k].mean(axis=0) for k in range(3)])
    spread = [np.linalg.norm(x64[planted == k] - centres[k], axis=1).mean() for k in range(3)]
    ratios = [
        max((spread[i] + spread[j]) / np.linalg.norm(centres[i] - centres[j]) for j in range(3) if j != i)
        for i in range(3)
    ]
    index = davies_bouldin(x, jnp.asarray(planted), jnp.asarray(centres, jnp.float32))
    np.testing.assert_allclose(index, np.mean(ratios), rtol=1e-5)
    empty = jnp.concatenate([jnp.asarray(centres, jnp.float32), jnp.ones((1, 5))])
    assert davies_bouldin(x, jnp.asarray(planted), empty) == jnp.inf


# --- Groups from behaviour ---


@pytest.mark.parametrize("differ", ["reward", "observation"])
def test_recovers_planted_groups(differ):
    """Agents of three kinds are paid for (or pushed by) different things; nothing that they see tells them apart."""
    planted, count = np.array([0, 1, 2, 0, 1, 2, 2, 0, 1, 2, 0, 1]), 200
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(12, count, 3))
    action = np.eye(2)[rng.integers(2, size=(12, count))]
    own = np.take_along_axis(obs, planted[:, None, None] * np.ones((12, count, 1), int), axis=2)[..., 0]
    reward, push = (own, 0.0) if differ == "reward" else (obs[..., 0], own[..., None])
    next_obs = 0.9 * obs + 0.1 * action[..., :1] + push * np.array([0.0, 0.5, 0.5])
    data = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), Transitions(obs, action, next_obs, reward))
    config = GroupConfig(fit_steps=800, fit_batch=32, fit_hidden_size=32, max_groups=4)
    means, losses = jax.jit(lambda key: fit(key, data, config, 5e-3, 1e-4))(jax.random.key(0))
    groups, number = find_groups(means, config)
    assert int(number) == 3 and same_partition(groups, planted)
    assert losses[-50:].mean() < 0.2 * losses[:5].mean()


# --- Sharing ---


def test_members_of_a_group_share_weights_and_gradients():
    scheme = GroupSharing(4, num_groups=3)
    own = replace(CONFIG, num_envs=2)
    learner = SePSPPO(envs_jax.make("specialisation", num_agents=4, max_steps=8), POLICY, own, groups=GROUPS)
    networks = learner.actor_critic.networks
    params = scheme.with_groups(scheme.init(jax.random.key(0), networks), jnp.array([0, 2, 0, 2]))
    kernel = scheme.weights(params, networks)["actor"]["hidden_0/kernel"]
    assert kernel.shape[0] == 4
    np.testing.assert_array_equal(kernel[0], kernel[2])
    np.testing.assert_array_equal(kernel[1], kernel[3])
    assert (kernel[0] != kernel[1]).any()
    gradient = jax.grad(lambda p: jnp.sum(scheme.weights(p, networks)["actor"]["hidden_0/kernel"] ** 2))(params)
    assert not jnp.any(gradient["group"]) and not jnp.any(gradient["actor"]["hidden_0/kernel"][1])
    np.testing.assert_allclose(
        gradient["actor"]["hidden_0/kernel"][0], 4.0 * params["actor"]["hidden_0/kernel"][0], rtol=1e-6
    )


def test_one_group_learns_as_full_sharing_does():
    """From the same weights, a step of PPO with one group is one with full sharing."""
    env = envs_jax.make("specialisation", num_agents=3, max_steps=8)
    grouped = SePSPPO(env, POLICY, CONFIG, groups=replace(GROUPS, num_groups=1))
    plain = PPO(env, POLICY, CONFIG)
    carry = grouped.init(jax.random.key(0), SePSHyperparameters())
    params = {name: jax.tree.map(lambda w: w[0], own) for name, own in carry.params.items() if name != "group"}
    other = replace(plain.init(jax.random.key(0), PPOHyperparameters()), params=params)
    mine, theirs = jax.jit(grouped.update)(carry)[0], jax.jit(plain.update)(other)[0]
    for name, own in theirs.params.items():
        for leaf, value in own.items():
            np.testing.assert_allclose(mine.params[name][leaf][0], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(mine.params["group"], carry.params["group"])


def test_groups_are_found_once_per_seed_and_then_stay():
    env = envs_jax.make("specialisation", num_agents=5, max_steps=8)
    learner = SePSPPO(env, POLICY, CONFIG, groups=GROUPS)
    train = jax.jit(make_train(learner, num_updates=3, num_evaluations=1))
    state, metrics = train(seed_keys(0, 2), SePSHyperparameters())
    groups = np.asarray(metrics["train/group"])
    assert groups.shape == (3, 2, 5) and (groups == groups[:1]).all()
    assert all(len(np.unique(row)) == n for row, n in zip(groups[0], metrics["train/num_groups"][0], strict=True))
    assert (metrics["train/num_groups"] >= 2).all() and np.asarray(metrics["finite"]).all()


def test_a_fit_that_diverged_is_not_taken_for_groups():
    env = envs_jax.make("specialisation", num_agents=5, max_steps=8)
    learner = SePSPPO(env, POLICY, CONFIG, groups=GROUPS)
    carry = learner.init(jax.random.key(0), SePSHyperparameters())
    broken = replace(carry, hp=replace(carry.hp, kl_weight=jnp.float32(np.nan)))
    groups = [jax.jit(learner.prepare)(each).params["group"] for each in (carry, broken)]
    assert np.isfinite(groups[0]).all() and not np.isfinite(groups[1]).any()


def test_exploring_needs_bounded_actions():
    @dataclass(frozen=True)
    class Unbounded(Probe):
        def action_space(self, agent=None):
            return flat_box(1)

    with pytest.raises(ValueError, match="uniform actions, which need finite bounds"):
        SePSPPO(Unbounded(num_agents=3), POLICY, CONFIG, groups=GROUPS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: GroupConfig(z_size=0), "z_size is 0"),
        (lambda: GroupConfig(num_groups=0), "num_groups is 0"),
        (lambda: GroupConfig(max_groups=1), "max_groups is 1"),
        (lambda: GroupConfig(num_groups=5).most(4), "num_groups is 5; allowed: 1 to num_agents = 4"),
        (lambda: GroupConfig().most(2), "num_groups is None with 2 agents"),
        (lambda: SePSHyperparameters(kl_weight=-1.0), "kl_weight is -1.0"),
        (lambda: SePSPPO(envs_jax.make("dispersion"), PolicyConfig("nops"), CONFIG), "sharing is 'nops'.*fups"),
    ],
)
def test_bad_settings(change, said):
    with pytest.raises(ValueError, match=said):
        change()


def test_command_line(tmp_path):
    """A typo is one line; a run reports its groups; killed and resumed, it keeps them and is the same run."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    program = [sys.executable, str(ROOT / "baselines" / "seps.py")]

    def call(*argv):
        return subprocess.run([*program, *argv], capture_output=True, text=True, env=env, cwd=tmp_path)

    wrong = call("bps-1", "--num-group", "3")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "--num-groups" in wrong.stderr
    tiny = (  # noqa: SIM905
        "specialisation --preset-scale small --env.max-steps 8 --num-seeds 2 --num-envs 4 --num-steps 4 --no-video "
        "--eval-episodes 2 --hidden-sizes 8 --pretraining-steps 50 --fit-steps 5 --num-groups 2 "
        "--num-updates 6 --num-evaluations 3 --chunks 6"
    ).split()
    done = call(*tiny, "--run-dir", "whole")
    assert done.returncode == 0, done.stderr
    command = [*program, *tiny, "--run-dir", "killed"]
    killed = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while killed.poll() is None and not list(tmp_path.glob("killed/checkpoints/*/sha256sums")):
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "killed" / "metrics.npz").exists(), "it finished before it was killed"
    resumed = call("--resume", "killed")
    assert resumed.returncode == 0 and "resuming after update" in resumed.stdout, resumed.stderr
    tables = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "killed")]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert {row["train/num_groups"] for row in rows} == {"2"} and "train/group/agent_3" in rows[0]

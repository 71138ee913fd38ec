"""The offline program: learners reach known optima on probes, memory, sampling by priority, seeds, and bad data."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

import envs_jax
from covey.data.collect import collect
from covey.data.joint_actions import Gaussian, joint_action_samples
from covey.experiment import make_train, seed_keys
from covey.learners.offline import (
    AnalyticMADDPG,
    CriticConfig,
    Offline,
    OfflineConfig,
    OfflineHyperparameters,
    Team,
    WorldModel,
    WorldModelConfig,
    gather,
    make_base,
    source,
)
from covey.policies import PolicyConfig
from envs_jax.base import Outcome, flat_box
from envs_jax.games.polynomial import expected_best_response, payoff
from envs_jax.spaces import Box

POLICY = PolicyConfig(sharing="nops", hidden_sizes=(16,))
CRITIC = CriticConfig(critic_hidden_sizes=(32, 32))
HP = OfflineHyperparameters(learning_rate=3e-3, critic_learning_rate=3e-3, target_rate=0.02)
CONFIG = OfflineConfig(horizon=1, batch_size=128, gradient_steps=1000, eval_episodes=1)
WANTED = np.array([0.0, 0.25, 0.5])  # What the probe "torque" rewards.


@dataclass(frozen=True)
class Recall(Probe):
    """The cue is seen at the first of three steps, and 1 - (action - 0.8 cue)^2 is earned at the last."""

    num_agents: int = 2
    kind: str = "memory"
    max_steps: int | None = 3

    def action_space(self, agent=None):
        return Box(-1.0, 1.0, (1,))

    def observe(self, state):
        cue = jnp.where(state.step == 0, state.cue, 0.0)
        return jnp.stack([cue, jnp.full_like(cue, state.step == 2)], axis=-1)

    def observation_space(self, agent=None):
        return flat_box(2)

    def global_state(self, state):
        return jnp.concatenate([state.cue, state.step[None].astype(jnp.float32)])

    def transition(self, key, state, actions):
        reward = jnp.where(state.step == 2, 1.0 - jnp.square(actions[:, 0] - 0.8 * state.cue), 0.0)
        no = jnp.zeros((), bool)
        return state, Outcome(reward.astype(jnp.float32), no, no, {})


def uniform(params, key, obs, memory):
    return jax.random.uniform(key, (obs.shape[0], 1), minval=-1.0, maxval=1.0), memory


@pytest.fixture(scope="module")
def torque():
    env = Probe(kind="torque")
    return env, collect(env, uniform, jax.random.key(0), 64, 32)


def train(learner, data, hp=HP, num_seeds=1, num_updates=1):
    run = jax.jit(make_train(learner, num_updates, num_evaluations=1))
    return run(seed_keys(0, num_seeds), hp, jax.tree.map(jnp.asarray, data))


def final_actions(learner, state):
    carry = jax.tree.map(lambda x: x[0], state.carries)
    return np.asarray(
        learner.base.actions(learner.policy(carry), learner.env.observe(learner.env.init(carry.key))[None])
    )


def played(name, env, dataset, hp=HP, policy=POLICY, critic=CRITIC, **config):
    base = make_base(name, Team.of(env), policy, critic)
    learner = Offline(env, base, replace(CONFIG, **config))
    state, metrics = train(learner, source(dataset, base.team, learner.config.horizon), hp)
    return final_actions(learner, state)[0, :, 0], metrics


@pytest.mark.parametrize("name", ["maddpg", "maddpg_cql", "td3_bc", "iql", "omiga", "bc"])
def test_known_optima(torque, name):
    """Actions of data are uniform, so that BC plays 0, and each method's optimum is known."""
    env, dataset = torque
    mean = np.mean(np.asarray(dataset.action)[np.asarray(dataset.mask)], axis=0)[:, 0]
    # Steps are cut off and not ended, so that without a discount of 0 values would be a hundred times as large.
    hp = replace(HP, discount=0.0, cql_weight=0.02, omiga_alpha=1 / HP.temperature)
    actions, metrics = played(name, env, dataset, hp, critic=replace(CRITIC, cql_samples=2))
    expected, tolerance = WANTED, 0.13
    if name == "bc":
        expected, tolerance = mean, 0.05
    elif name == "td3_bc":  # (mean + factor wanted) / (1 + factor), the factor alpha / |Q| of what is then earned
        factor = np.full(3, HP.bc_alpha)
        for _ in range(50):
            expected = (mean + factor * WANTED) / (1 + factor)
            factor = HP.bc_alpha / (1 - np.square(expected - WANTED))
        tolerance = 0.08
    elif name in ("iql", "omiga"):  # The mean of actions weighted by exp(temperature x mean reward)
        grid = np.linspace(-1, 1, 2001)[:, None]
        weight = np.exp(-HP.temperature / 3 * np.square(grid - WANTED))
        expected, tolerance = (grid * weight).sum(axis=0) / weight.sum(axis=0), 0.08
    np.testing.assert_allclose(actions, expected, atol=tolerance)
    earned = metrics["eval/episode_return"][-1, 0]
    np.testing.assert_allclose(earned, 1 - np.square(actions - WANTED), atol=1e-5)


@pytest.mark.parametrize("recurrent", [True, False])
def test_only_memory_solves_recall(recurrent):
    env = Recall()
    dataset = collect(env, uniform, jax.random.key(0), 128, 12)
    policy = PolicyConfig(sharing="fups_id", hidden_sizes=(16,), recurrent=recurrent, recurrent_size=16)
    base = make_base("maddpg", Team.of(env), policy, replace(CRITIC, critic="per_agent"))
    config = replace(CONFIG, horizon=3, batch_size=64, gradient_steps=800, eval_episodes=16)
    learner = Offline(env, base, config)
    hp = replace(HP, discount=0.5, learning_rate=5e-3)
    _, metrics = train(learner, source(dataset, base.team, 3), hp)
    earned = float(np.mean(metrics["eval/episode_return"][-1]))
    assert earned > 0.8 if recurrent else earned < 0.55  # Without memory 1 - 0.8^2 is best.


# --- Polynomial games with a known payoff ---


def test_analytic_learner_ends_at_bruds_fixed_point():
    """In Twin Peaks where theory says, whatever the policies do: C m / (2 A + 2 B E[a^2]), here off the centre."""
    env = envs_jax.make("polynomial/twin_peaks")
    dataset = joint_action_samples(Gaussian((0.4, 0.3), 0.2), lambda a: payoff(env, a), jax.random.key(0), 1000)
    base = AnalyticMADDPG(Team.of(env), lambda a: payoff(env, a[..., 0]), (-0.64, 0.65))
    learner = Offline(env, base, replace(CONFIG, batch_size=1000, gradient_steps=300))
    hp = OfflineHyperparameters(ascent_rate=0.02)
    state, metrics = train(learner, source(dataset, base.team, 1), hp, num_updates=2)
    expected = expected_best_response(env, jnp.asarray(np.asarray(dataset.action)[::2, :, 0]))
    np.testing.assert_allclose(final_actions(learner, state)[0, :, 0], expected, atol=0.02)
    np.testing.assert_allclose(metrics["eval/episode_return"][-1, 0], payoff(env, expected), atol=0.02)


def test_priority_is_pjaps_and_draws_follow_it():
    """A segment whose actions are far from the policies' is drawn in proportion to its priority."""
    env = envs_jax.make("polynomial/multiplication")
    dataset = joint_action_samples(Gaussian((0.0, 0.0), 0.5), lambda a: payoff(env, a), jax.random.key(0), 40)
    base = AnalyticMADDPG(Team.of(env), lambda a: payoff(env, a[..., 0]), (0.2, 0.3))
    data = jax.tree.map(jnp.asarray, source(dataset, base.team, 1))
    learner = Offline(env, base, replace(CONFIG, sampling="pjap", refresh=2000, batch_size=50_000), num_segments=40)
    carry = learner.init(jax.random.key(0), HP)
    priority = learner._refreshed(carry.base, carry.priority, data, jax.random.key(1))
    gap = np.abs(np.asarray(dataset.action)[::2, :, 0] - np.array([0.2, 0.3])).mean(axis=1)
    expected = np.maximum(np.exp(-np.square(4 * gap)), 1e-6)
    np.testing.assert_allclose(priority, expected, rtol=1e-4)
    drawn = np.bincount(learner._draw(carry.base, priority, data, jax.random.key(2)), minlength=40) / 50_000
    np.testing.assert_allclose(drawn, expected**0.99 / np.sum(expected**0.99), atol=0.01)
    flat = replace(carry.base, hp=replace(carry.base.hp, pjap_exponent=jnp.float32(0.0)))
    drawn = np.bincount(learner._draw(flat, priority, data, jax.random.key(2)), minlength=40) / 50_000
    np.testing.assert_allclose(drawn, 1 / 40, atol=0.01)


# --- The program ---


def test_seeds_alone_equal_seeds_together(torque):
    """With a world model and priorities."""
    env, dataset = torque
    policy = replace(POLICY, hidden_sizes=(4,))
    base = make_base("maddpg_bc", Team.of(env), policy, replace(CRITIC, critic_hidden_sizes=(4,)))
    data = source(dataset, base.team, 1, held_out=0.1)
    model = WorldModel(
        base.team,
        WorldModelConfig(
            rollouts=8, rollout_length=1, model_steps=3, warmup_updates=1, model_members=3, model_elites=2,
            model_hidden_sizes=(5,), model_batch_size=8,
        ),
    )  # fmt: skip
    config = OfflineConfig(horizon=1, batch_size=4, gradient_steps=3, sampling="pjap", refresh=4, eval_episodes=1)
    learner = Offline(env, base, config, model, num_segments=len(data.starts))
    together, metrics = train(learner, data, num_seeds=2, num_updates=3)
    np.testing.assert_allclose(metrics["train/synthetic_share"][:, 0], [0.0, 0.5, 0.5])
    run = jax.jit(make_train(learner, 3, num_evaluations=1))
    alone, _ = run(seed_keys(1, 1), HP, jax.tree.map(jnp.asarray, data))
    params = (jax.tree.leaves(learner.policy(s.carries)) for s in (together, alone))
    for one, other in zip(*params, strict=True):
        np.testing.assert_allclose(one[1], other[0], rtol=2e-3, atol=2e-5)
    assert all(np.isfinite(x).all() for name, x in metrics.items() if name.startswith("train/"))


def test_segments_of_short_and_held_out_episodes():
    """An episode shorter than the horizon is one segment; held-out ones are only judged by."""
    env = Recall()
    dataset = collect(env, uniform, jax.random.key(0), 4, 11)  # Lengths 3, 3, 3, 2 four times.
    team = Team.of(env)
    data = source(dataset, team, 3)
    np.testing.assert_array_equal(np.isin(dataset.start, data.starts), True)
    assert len(data.starts) == 16 and len(data.rows) == 44 and np.array_equal(data.rows, data.held_out)
    part = gather(jax.tree.map(jnp.asarray, data), jnp.asarray(data.starts), 3)
    np.testing.assert_array_equal(np.sum(part.mask, axis=1), np.asarray(dataset.length))
    split = source(dataset, team, 3, held_out=0.25)
    assert len(split.starts) == 12 and set(split.rows).isdisjoint(split.held_out)
    assert len(split.rows) + len(split.held_out) == 44


def test_what_does_not_fit_is_named(torque):
    env, dataset = torque
    team = Team.of(env)
    other = Team.of(envs_jax.make("polynomial/multiplication"))
    narrow = replace(team, action_mask=((True,), (True,), (False,)))
    base = make_base("bc", team, POLICY, CRITIC)
    cases = [
        (lambda: source(dataset, other, 1), "the dataset has 3 agents, not 2"),
        (lambda: source(dataset, narrow, 1), "the dataset's agents have [1, 1, 1] actions, not [1, 1, 0]"),
        (lambda: source(dataset, team, 2), "horizon 2 with stride 1: length is 2; allowed: at most 1"),
        (lambda: source(dataset, team, 1, held_out=1.0), "held_out is 1.0"),
        (lambda: Offline(env, base, replace(CONFIG, sampling="pjap")), "num_segments is 0"),
        (lambda: Offline(env, base, CONFIG, WorldModel(team)), "rollout_length is 5; allowed: 1 to horizon = 1"),
        (lambda: OfflineConfig(sampling="best"), "sampling is 'best'; allowed: uniform, pjap"),
        (lambda: WorldModelConfig(model_elites=9), "model_elites is 9; allowed: 1 to model_members = 7"),
    ]
    for make, message in cases:
        with pytest.raises(ValueError) as error:
            make()
        assert message in str(error.value)

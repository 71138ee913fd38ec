"""Offline learners' targets and losses against float64 NumPy, BRUD's direction, padding, memory, and one update."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from covey.diffusion.segments import Fields
from covey.learners.offline import (
    BC,
    IQL,
    MADDPG,
    AnalyticMADDPG,
    CriticConfig,
    OfflineHyperparameters,
    Segments,
    Team,
    from_rows,
    make_base,
    mix,
)
from covey.policies import PolicyConfig
from envs_jax.games.polynomial import expected_gradient, payoff

HP = OfflineHyperparameters(target_noise=0.0)
TEAM = Team(  # The second of two agents has one action and one number to see; the others are padding.
    state_size=3,
    obs_mask=((True, True), (True, False)),
    action_mask=((True, True), (True, False)),
    low=((-1.0, -2.0), (0.0, 0.0)),
    high=((1.0, 2.0), (4.0, 0.0)),
)
TINY = PolicyConfig(sharing="nops", hidden_sizes=(5,))
SMALL = CriticConfig(critic_hidden_sizes=(6,))


def segments(batch=4, rows=5, team=TEAM, seed=0):
    """Random segments: the first is cut after two transitions, the second terminates with its last, the third is not
    real."""
    rng = np.random.default_rng(seed)
    shape, agents = (batch, rows), team.num_agents
    obs = rng.normal(size=(*shape, agents, team.obs_size)) * team.own_obs
    low, high = np.array(team.low), np.array(team.high)
    action = low + rng.random((*shape, agents, team.action_size)) * (high - low)
    mask = np.ones(shape, bool)
    mask[:, -1] = False
    mask[0, 2:] = False
    terminated = np.zeros(shape, bool)
    terminated[1, rows - 2] = True
    real = np.arange(batch) != 2
    parts = [rng.normal(size=(*shape, team.state_size)), obs, action, rng.normal(size=(*shape, agents))]
    return Segments(*(jnp.asarray(x, jnp.float32) for x in parts), *map(jnp.asarray, (terminated, mask, real)))


def noisy(params, seed=1):
    """Parameters away from where they start, so that nothing is small or symmetric."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [p + 0.4 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def random_carry(learner, hp=HP, seed=0):
    carry = jax.jit(learner.init)(jax.random.key(seed), hp)
    return replace(carry, params=noisy(carry.params, 1), target=noisy(carry.target, 2))


class Exact:
    """Two feed-forward policies without sharing and twin critics of the team or of each agent, in float64."""

    def __init__(self, params, data, critic):
        self.params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        self.data = jax.tree.map(lambda x: np.asarray(x, np.float64), data)
        self.mask, self.critic = np.asarray(data.mask)[:, :-1], critic
        low, high = np.array(TEAM.low), np.array(TEAM.high)
        half = np.where(TEAM.own_actions, (high - low) / 2, 1)
        self.action = (self.data.action - (low + high) / 2) / half * TEAM.own_actions

    @staticmethod
    def _mlp(weights, x):
        hidden = np.maximum(x @ weights["hidden_0/kernel"] + weights["hidden_0/bias"], 0)
        return hidden @ weights["output/kernel"] + weights["output/bias"]

    def act(self):
        """[B, L, N, A]"""
        weights = self.params["actor"]["actor"]
        each = [self._mlp({k: w[i] for k, w in weights.items()}, self.data.obs[:, :, i]) for i in range(2)]
        return np.tanh(np.stack(each, axis=2)) * TEAM.own_actions

    def q(self, state, action):
        """[2, R, B, T] for joint actions [B, T, N, A]"""
        joint = action.reshape(*action.shape[:2], 4)[..., [0, 1, 2]]
        x, weights = np.concatenate([state, joint], axis=-1), self.params["critic"]["critic"]
        if self.critic == "team":
            return np.stack([[self._mlp({k: w[i] for k, w in weights.items()}, x)[..., 0]] for i in range(2)])
        return np.stack(
            [[self._mlp({k: w[i, n] for k, w in weights.items()}, x)[..., 0] for n in range(2)] for i in range(2)]
        )

    def mean(self, x, mask=None):
        mask = self.mask if mask is None else mask
        return (x * mask).sum(axis=(-2, -1)) / mask.sum()

    def goal(self, discount=0.99):
        """By a target's parameters, [R, B, H]."""
        value = self.q(self.data.state[:, 1:], self.act()[:, 1:]).min(axis=0)
        reward = np.moveaxis(self.data.reward[:, :-1], -1, 0)
        reward = reward.mean(axis=0, keepdims=True) if self.critic == "team" else reward
        return reward + discount * (1 - self.data.terminated[:, :-1]) * value

    def brud(self, others):
        """min_k Q_k where each agent in turn acts anew, [N, B, H]."""
        own, values = self.act()[:, :-1], []
        for i in range(2):
            joint = (self.action[:, :-1] if others == "data" else own).copy()
            joint[:, :, i] = own[:, :, i]
            q = self.q(self.data.state[:, :-1], joint).min(axis=0)
            values.append(q[0] if self.critic == "team" else q[i])
        return np.stack(values)

    def imitation(self, mask=None):
        gap = np.square(self.act() - self.action)[:, :-1].sum(axis=-1) / TEAM.own_actions.sum(axis=-1)
        return self.mean(np.moveaxis(gap, -1, 0), mask)


def batch_first(x):
    """[..., H, B] -> [..., B, H]"""
    return np.swapaxes(np.asarray(x), -1, -2)


@pytest.mark.parametrize("critic", ["team", "per_agent"])
@pytest.mark.parametrize("others", ["data", "policy"])
def test_targets_and_losses_equal_numpy(critic, others):
    config = replace(SMALL, critic=critic, others=others, bc_on="real")
    learner, data = MADDPG(TEAM, TINY, config, "bc"), segments()
    carry, batch = random_carry(learner), learner.batch(data)
    now, target = Exact(carry.params, data, critic), Exact(carry.target, data, critic)

    goal = learner.target_value(carry.target, batch, jax.random.key(0), HP)
    np.testing.assert_allclose(batch_first(goal), target.goal(), rtol=1e-4, atol=1e-5)

    loss, _ = learner.critic_loss(carry.params["critic"], carry.params["actor"], goal, batch, jax.random.key(0), HP)
    q = now.q(now.data.state[:, :-1], now.action[:, :-1])
    expected = now.mean(np.square(q - target.goal())).mean(axis=1).sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)

    loss, metrics = learner.actor_loss(carry.params["actor"], carry.params["critic"], batch, HP)
    q = now.brud(others)
    size = now.mean(np.abs(q))
    size = size.mean() if critic == "team" else size
    imitation = now.imitation(now.mask & np.asarray(data.real)[:, None])
    np.testing.assert_allclose(metrics["bc_loss"], imitation, rtol=1e-4)
    np.testing.assert_allclose(loss, (imitation - HP.bc_alpha / size * now.mean(q)).mean(), rtol=1e-4, atol=1e-5)


def test_truncation_is_bootstrapped_and_termination_not():
    """Only the row that terminated has no value behind it; the row where the first segment was cut has one."""
    learner, data = MADDPG(TEAM, TINY, SMALL), segments()
    carry, batch = random_carry(learner), learner.batch(segments())
    worthless = replace(HP, discount=0.0)
    gap = np.array(learner.target_value(carry.target, batch, jax.random.key(0), HP)) - np.array(
        learner.target_value(carry.target, batch, jax.random.key(0), worthless)
    )
    np.testing.assert_array_equal(batch_first(gap)[0] == 0, np.asarray(data.terminated)[:, :-1])


def test_cql_penalty_equals_numpy():
    """With one sample of each kind and no noise the log-sum-exp is over two known joint actions."""
    learner = MADDPG(TEAM, TINY, replace(SMALL, cql_samples=1), "cql")
    hp, data, key = replace(HP, cql_noise=0.0, cql_weight=2.0), segments(), jax.random.key(3)
    carry, batch = random_carry(learner), learner.batch(data)
    goal = learner.target_value(carry.target, batch, key, hp)
    loss, metrics = learner.critic_loss(carry.params["critic"], carry.params["actor"], goal, batch, key, hp)
    now, state = Exact(carry.params, data, "team"), np.asarray(data.state[:, :-1], np.float64)
    uniform = jax.random.uniform(jax.random.split(key)[0], (1, *batch.action.shape), minval=-1.0, maxval=1.0)[0]
    uniform = np.transpose(uniform, (2, 0, 1, 3)) * TEAM.own_actions
    q, random, policy = (now.q(state, a)[:, 0] for a in (now.action[:, :-1], uniform, now.act()[:, :-1]))
    gap = now.mean(np.logaddexp(random, policy) - q)
    np.testing.assert_allclose(metrics["cql_gap"], gap.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss, metrics["critic_loss"] + 2.0 * gap.sum(), rtol=1e-5)


def test_undetached_factor_leaves_imitation_alone():
    """The trap: where all values have one sign, mean Q / mean |Q| is a constant, and no gradient of Q is left."""
    data = segments()
    for sign in (1.0, -1.0):
        grads = {}
        for detached, regulariser in ((True, "bc"), (False, "bc")):
            config = replace(SMALL, detach_q_norm=detached)
            learner = MADDPG(TEAM, TINY, config, regulariser)
            carry, batch = random_carry(learner), learner.batch(data)
            critic = jax.tree.map(lambda x: x, carry.params["critic"])
            critic["critic"]["output/bias"] = jnp.full_like(critic["critic"]["output/bias"], 50.0 * sign)
            loss = jax.grad(lambda p, c, a: learner.actor_loss(p, c, batch, replace(HP, bc_alpha=a))[0])  # noqa: B023
            grads[detached] = jax.tree.leaves(loss(carry.params["actor"], critic, 2.5))
            alone = jax.tree.leaves(loss(carry.params["actor"], critic, 0.0))
        assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(grads[False], alone, strict=True))
        assert max(np.abs(a - b).max() for a, b in zip(grads[True], alone, strict=True)) > 1e-3


def test_iql_equals_numpy():
    learner, data = IQL(TEAM, TINY, SMALL), segments()
    carry, batch = random_carry(learner), learner.batch(data)
    seen = batch.state
    taken = jnp.concatenate([seen[:-1], TEAM.joint_action(jnp.swapaxes(batch.action, 1, 2))], axis=-1)
    flat = {"actor": carry.params["actor"]["network"], "critic": carry.target["critic"]}
    exact = Exact(flat, data, "team")
    q = exact.q(exact.data.state[:, :-1], exact.action[:, :-1]).min(axis=0)[0]
    np.testing.assert_allclose(batch_first(jnp.min(learner.q(carry.target["critic"], taken), axis=0)), q, rtol=1e-4)
    weights = {k: np.asarray(w, np.float64) for k, w in carry.params["value"]["value"].items()}
    value = exact._mlp(weights, exact.data.state)[..., 0]
    u = q - value[:, :-1]
    expected = exact.mean(np.where(u > 0, 0.7, 0.3) * u**2)
    loss, _ = learner.value_loss(carry.params["value"], jnp.asarray(q.T, jnp.float32), seen, batch, HP)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    weight = np.minimum(np.exp(3.0 * u), 100.0)
    log_std = np.asarray(carry.params["actor"]["log_std"], np.float64)
    gap = (exact.action - exact.act())[:, :-1]
    density = (-0.5 * (gap / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)) * TEAM.own_actions
    expected = -np.mean([exact.mean(weight * density[:, :, i].sum(axis=-1)) for i in range(2)])
    loss, _ = learner.actor_loss(carry.params["actor"], jnp.asarray(weight.T, jnp.float32), batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    alone = learner.log_prob(carry.params, data.obs[1], exact.action[1].astype(np.float32))
    np.testing.assert_allclose(alone[:-1], density[1].sum(axis=-1), rtol=1e-4)


# --- BRUD ---


@pytest.mark.parametrize("game", ["multiplication", "twin_peaks"])
def test_analytic_gradient_is_brud(game):
    """The measured gradient is the closed form of appendix C: in multiplication (mean a_y, mean a_x)."""
    env = envs_jax.make(f"polynomial/{game}")
    actions = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (64, 2)), jnp.float32)
    learner = AnalyticMADDPG(Team.of(env), lambda a: payoff(env, a[..., 0]))
    theta = jnp.array([[-0.64], [0.65]])
    found = learner.gradient(theta, actions[:, :, None])[:, 0]
    np.testing.assert_allclose(found, expected_gradient(env, theta[:, 0], actions), rtol=1e-5)
    if game == "multiplication":
        np.testing.assert_allclose(found, np.mean(actions, axis=0)[::-1], rtol=1e-5)


def test_learned_critic_pulls_in_bruds_direction():
    """With Q = a_1 a_2 as critic (fitted here), policies follow the data's means and not each other."""
    team = Team(1, ((True,),) * 2, ((True,),) * 2, ((-1.0,),) * 2, ((1.0,),) * 2)
    learner = MADDPG(team, replace(TINY, activation="tanh"), replace(SMALL, critic_hidden_sizes=(32,)))
    hp = replace(HP, critic_learning_rate=1e-2, learning_rate=1e-9)
    rng = np.random.default_rng(0)

    def made(count):
        action = rng.uniform(-1, 1, (count, 1, 2, 1)).astype(np.float32)
        nothing = np.zeros((count, 1, 1), np.float32)
        reward = np.broadcast_to(action.prod(axis=2), (count, 1, 2))
        return from_rows(nothing, nothing[:, :, None].repeat(2, 2), action, reward, np.ones((count, 1), bool))

    @jax.jit
    def fit(carry, data):
        def one(carry, key):
            index = jax.random.randint(key, (256,), 0, 2000)
            return learner.learn(carry, jax.tree.map(lambda x: x[index], data))[0], None

        return jax.lax.scan(one, carry, jax.random.split(jax.random.key(1), 1000))[0]

    carry = fit(jax.jit(learner.init)(jax.random.key(0), hp), made(2000))
    data = made(500)
    data = data._replace(action=jnp.abs(data.action) * jnp.array([1.0, -0.5])[:, None])  # a_1 > 0 > a_2
    actor = jax.tree.map(jnp.zeros_like, carry.params["actor"])  # Acts 0, and its output bias moves that alone.
    loss = jax.grad(lambda p: learner.actor_loss(p, carry.params["critic"], learner.batch(data), hp)[0])
    pull = -2 * np.asarray(loss(actor)["actor"]["output/bias"])[:, 0]
    np.testing.assert_allclose(pull, np.mean(data.action[:, 0, :, 0], axis=0)[::-1], atol=0.1)
    on_policy = replace(learner, config=replace(learner.config, others="policy"))
    loss = jax.grad(lambda p: on_policy.actor_loss(p, carry.params["critic"], on_policy.batch(data), hp)[0])
    assert np.abs(np.asarray(loss(actor)["actor"]["output/bias"])).max() < 0.05  # (theta_2, theta_1) = 0.


# --- Padding, memory, rows that do not count ---

BASES = ["maddpg", "maddpg_bc", "maddpg_cql", "td3_bc", "iql", "bc"]


def learned(name, data, policy=TINY, hp=None, **config):
    """A learner after one update from the same start."""
    learner = make_base(name, TEAM, policy, replace(SMALL, **config))

    @jax.jit
    def run(data):
        carry, metrics = learner.learn(learner.init(jax.random.key(0), hp or OfflineHyperparameters()), data)
        return carry, metrics

    return learner, *run(data)


def with_junk(data):
    """`data` with other numbers in the padding, in masked rows and in last actions and rewards."""
    return data._replace(
        obs=jnp.where(TEAM.own_obs, data.obs, 9.0),
        action=jnp.where(TEAM.own_actions, data.action, 9.0).at[0, 3:].set(7.0).at[:, -1].set(7.0),
        reward=data.reward.at[0, 3:].set(50.0).at[:, -1].set(50.0),
        state=data.state.at[0, 4:].set(5.0),
    )


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.mark.parametrize("name", BASES)
def test_padding_and_masked_rows_do_not_leak(name):
    data = segments()
    junk = with_junk(data)
    (_, one, metrics), (_, other, _) = (learned(name, d, replace(TINY, sharing="fups_id")) for d in (data, junk))
    assert same(one.params, other.params) and same(one.target, other.target)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((metrics, one.params)))


@pytest.mark.parametrize("sharing", ["fups_id", "nops", "hyper_mlp"])
def test_every_sharing_scheme_learns_with_memory(sharing):
    policy = PolicyConfig(sharing=sharing, recurrent=True, recurrent_size=4, hypernet_hidden_sizes=(3,))
    learner, carry, _ = learned("maddpg_bc", segments(), policy)
    first = jax.jit(learner.init)(jax.random.key(0), OfflineHyperparameters())
    assert not same(carry.params["actor"], first.params["actor"])
    obs = segments().obs[1]

    @jax.jit
    def both(params):
        def one(memory, obs):
            action, memory = learner.act(params, obs, memory)
            return memory, action

        return learner.actions(params, obs), jax.lax.scan(one, learner.start(), obs)[1]

    whole, stepped = both(noisy(carry.params))
    np.testing.assert_allclose(whole, stepped, rtol=1e-5, atol=1e-6)
    low, high = np.array(TEAM.low), np.array(TEAM.high)
    assert (whole >= low).all() and (whole <= high).all() and (whole[:, 1, 1] == 0).all()
    assert np.ptp(whole[:, 0, 1]) > 0.1


def test_synthetic_rows_are_imitated_only_where_asked():
    data = segments()
    other = data._replace(action=data.action.at[2].set(0.5))  # The third is not real.
    for bc_on, equal in (("real", True), ("all", False)):
        runs = [learned("bc", d, bc_on=bc_on)[1].params for d in (data, other)]
        assert same(*runs) is equal


def test_mix_draws_each_row_alone():
    real, made = segments(batch=512), segments(batch=512, seed=1)
    made = made._replace(real=jnp.zeros(512, bool))
    assert same(mix(jax.random.key(0), 0.0, real, made), real)
    assert same(mix(jax.random.key(0), 1.0, real, made), made)
    half = mix(jax.random.key(0), 0.25, real._replace(real=jnp.ones(512, bool)), made)
    assert 0.68 < np.mean(half.real) < 0.82
    np.testing.assert_array_equal(np.where(half.real, real.state[:, 0, 0], made.state[:, 0, 0]), half.state[:, 0, 0])


def test_made_up_rows_end_where_they_terminate():
    nothing = jnp.zeros((3, 4, 2, 1))
    ends = jnp.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    made = from_rows(nothing[:, :, 0], nothing, nothing, jnp.ones((3, 4, 1)), ends)
    expected = [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
    np.testing.assert_array_equal(made.mask, np.array(expected, bool))
    assert made.obs.shape == (3, 5, 2, 1) and made.reward.shape == (3, 5, 2) and not made.real.any()


def test_generated_rows_are_segments_without_a_row_after_the_last():
    data, done = segments(), jnp.zeros((4, 5)).at[0, 2].set(1.0)
    made = Fields(data.state, data.obs, data.action, data.reward, done).segments()
    assert made.mask.shape == (4, 6) and int(made.mask.sum()) == 3 + 3 * 4
    expected = from_rows(data.state, data.obs, data.action, data.reward, done > 0)
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_behaviour_cloning_is_one_step_of_adam_on_its_loss():
    learner, data = BC(TEAM, TINY, SMALL), segments()
    carry = jax.jit(learner.init)(jax.random.key(0), HP)
    after, _ = jax.jit(learner.learn)(carry, data)
    grads = jax.grad(lambda p: learner.loss(p, learner.batch(data))[0])(carry.params["actor"])
    for g, p, q in zip(*map(jax.tree.leaves, (grads, carry.params["actor"], after.params["actor"])), strict=True):
        moved = np.abs(g) > 1e-5  # The first step of Adam is the gradient's sign.
        np.testing.assert_allclose((q - p)[moved], -3e-4 * np.sign(g)[moved], rtol=2e-2)


BAD = [
    (lambda: OfflineHyperparameters(expectile=1.0), "expectile is 1.0; allowed: a number in (0, 1)"),
    (lambda: OfflineHyperparameters(synthetic_share=1.5), "synthetic_share is 1.5"),
    (lambda: CriticConfig(critic="team", critic_input="own"), "critic_input is 'own'"),
    (lambda: CriticConfig(bc_on="synthetic"), "bc_on is 'synthetic'; allowed: real, all"),
    (lambda: make_base("qmix", TEAM, TINY, SMALL), "base is 'qmix'; allowed: maddpg_bc"),
    (lambda: make_base("iql", TEAM, TINY, replace(SMALL, critic="per_agent")), "allowed with iql"),
    (lambda: Team.of(envs_jax.make("specialisation")), "continuous actions"),
    (lambda: AnalyticMADDPG(TEAM, lambda a: a, (0.0,)), "start_at is (0.0,)"),
]


@pytest.mark.parametrize("make,message", BAD)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)

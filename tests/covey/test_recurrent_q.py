"""Recurrent Q-learning: targets against float64 NumPy, the replay's contents, equalities, learning on probes."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

from covey import social
from covey.experiment import make_train, seed_keys
from covey.learners import gradients
from covey.learners.recurrent_q import (
    RecurrentQ,
    RecurrentQConfig,
    RecurrentQHyperparameters,
    Sequence,
    SocialRecurrentQHyperparameters,
    epsilon,
)
from covey.policies import PolicyConfig
from covey.social import SocialParameters, SocialReward

TINY = PolicyConfig(hidden_sizes=(16,), hypernet_hidden_sizes=(8,), recurrent=True, recurrent_size=12)
CONFIG = RecurrentQConfig(
    num_envs=8, num_steps=6, buffer_sequences=64, gradient_steps=8, batch_sequences=16, eval_episodes=4
)
HP = RecurrentQHyperparameters(
    learning_rate=1e-2, target_rate=0.05, epsilon_start=1.0, epsilon_steps=800.0, adam_epsilon=1e-5
)


class Unmasked(Probe):
    masks_actions = False  # type: ignore[assignment]


def learner(kind="identity", max_steps=1, sharing="nops", recurrent=True, config=CONFIG, env=Probe, **kwargs):
    policy = replace(TINY, sharing=sharing, recurrent=recurrent)
    return RecurrentQ(env(kind=kind, max_steps=max_steps), policy, config, **kwargs)


def train(learner, num_updates, num_seeds=2, hp=HP):
    return jax.jit(make_train(learner, num_updates, num_evaluations=1))(seed_keys(0, num_seeds), hp)


def final_return(metrics):
    return np.asarray(metrics["eval/episode_return"][-1])


# --- Mathematics ---


def random_batch(learner, seed=0, size=3):
    """Sequences of random numbers; episodes end at random inside them, half of the ends being time limits."""
    rng = np.random.default_rng(seed)
    shapes, agents = learner.sequence, learner.env.num_agents
    time = learner.config.num_steps
    done = rng.random((size, time)) < 0.3
    done[0, 1], done[0, 2] = True, False  # One inside and one at the end of every burn-in that is tried here.
    batch = {
        "obs": rng.normal(size=(size, time + 1, agents, 2)),
        "mask": rng.random((size, time + 1, agents, 3)) < 0.7,
        "action": rng.integers(0, 3, (size, time, agents)),
        "reward": rng.normal(size=(size, time, agents)),
        "done": done,
        "truncated": done & (rng.random(done.shape) < 0.6),
        "last_obs": rng.normal(size=(size, time, agents, 2)),
        "last_mask": rng.random((size, time, agents, 3)) < 0.7,
        "memory": 0.5 * rng.normal(size=(size, agents, 12)),
    }
    batch["mask"][..., 0] = batch["last_mask"][..., 0] = True  # Some action is always allowed.
    own = {
        name: None if like is None else jnp.asarray(batch[name], like.dtype)
        for name, like in zip(Sequence._fields, shapes, strict=True)
    }
    return Sequence(**own)


class NumpyGRU:
    """NoPS's recurrent network in float64, one agent and one step at a time."""

    def __init__(self, params):
        self.w = {k: np.asarray(v, np.float64) for k, v in params["q"].items()}

    def step(self, i, x, h):
        w = {k: v[i] for k, v in self.w.items()}
        x = np.maximum(x @ w["embed/kernel"] + w["embed/bias"], 0)
        xr, xz, xn = np.split(x @ w["cell/kernel"] + w["cell/bias"], 3, axis=-1)
        hr, hz, hn = np.split(h @ w["cell/recurrent"], 3, axis=-1)
        new = np.tanh(xn + _sigmoid(xr + hr) * (hn + w["cell/recurrent_bias"]))
        update = _sigmoid(xz + hz)
        h = (1 - update) * new + update * h
        y = np.maximum(h @ w["hidden_0/kernel"] + w["hidden_0/bias"], 0)
        return y @ w["output/kernel"] + w["output/bias"], h


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_differences(params, target, batch, config, discount, agents):
    """Chosen values and targets [T - burn_in, N, B], by following one sequence and agent at a time."""
    nets = NumpyGRU(params), NumpyGRU(target)
    b = {k: None if v is None else np.asarray(v) for k, v in batch._asdict().items()}
    size, time = b["done"].shape
    chosen, goal = np.zeros((2, time, agents, size))
    for s in range(size):
        for i in range(agents):
            start = np.zeros(12) if b["memory"] is None else b["memory"][s, i].astype(np.float64)
            memories, values, after_step = [start, start], [], []
            for t in range(time + 1):
                if t and b["done"][s, t - 1]:
                    memories = [np.zeros(12), np.zeros(12)]
                steps = [
                    net.step(i, b["obs"][s, t, i].astype(np.float64), m) for net, m in zip(nets, memories, strict=True)
                ]
                values.append([q for q, _ in steps])
                memories = [m for _, m in steps]
                after_step.append(memories)

            def worth(both, mask):
                q, q_target = both
                by = q if config.double_q else q_target
                return q_target[np.argmax(by if mask is None else np.where(mask, by, -np.inf))]

            for t in range(time):
                mask = None if b["mask"] is None else b["mask"][s, t + 1, i]
                value = 0.0 if b["done"][s, t] else worth(values[t + 1], mask)
                if b["truncated"] is not None and b["truncated"][s, t]:
                    mask = None if b["last_mask"] is None else b["last_mask"][s, t, i]
                    x = b["last_obs"][s, t, i].astype(np.float64)
                    value = worth([n.step(i, x, m)[0] for n, m in zip(nets, after_step[t], strict=True)], mask)
                chosen[t, i, s] = values[t][0][b["action"][s, t, i]]
                goal[t, i, s] = b["reward"][s, t, i] + discount * value
    return chosen[config.burn_in :], goal[config.burn_in :]


def noisy(params, key):
    return jax.tree.map(lambda p: p + 0.4 * jax.random.normal(key, p.shape), params)


@pytest.mark.parametrize(
    "env,changes",
    [
        (Unmasked, {}),
        (Unmasked, {"double_q": True, "burn_in": 2}),
        (Probe, {"burn_in": 3, "stored_memory": True, "loss": "huber"}),
        (Probe, {"time_limit": "bootstrap", "double_q": True, "burn_in": 2}),
        (Unmasked, {"time_limit": "bootstrap", "stored_memory": True}),
    ],
)
def test_targets_and_loss_equal_numpy(env, changes):
    q = learner(env=env, max_steps=3, config=replace(CONFIG, **changes))
    params, target = (noisy(q.network.init(jax.random.key(i)), jax.random.key(i + 5)) for i in range(2))
    batch, hp = random_batch(q), replace(HP, discount=0.93, huber_delta=0.7)
    chosen, goal = numpy_differences(params, target, batch, q.config, hp.discount, 3)
    ours = jax.jit(q.differences)(params, target, batch, hp)
    np.testing.assert_allclose(ours[0], chosen, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[1], goal, rtol=1e-4, atol=1e-5)
    error = goal - chosen
    size = np.abs(error)
    huber = np.where(size <= 0.7, 0.5 * error**2, 0.7 * (size - 0.35))
    expected = (huber if q.config.loss == "huber" else error**2).mean()
    loss, metrics = jax.jit(q.loss)(params, target, batch, hp)
    np.testing.assert_allclose([loss, metrics["loss"]], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["td_error"], size.mean((0, 2)), rtol=1e-4)


def test_burn_in_and_targets_pass_no_gradient():
    """The gradient is that of (constant - Q)^2 from a constant memory."""
    q = learner(env=Unmasked, max_steps=3, config=replace(CONFIG, burn_in=2, double_q=True))
    params, batch = q.network.init(jax.random.key(0)), random_batch(q)
    grads = jax.jit(jax.grad(lambda p: q.loss(p, params, batch, HP)[0]))(params)
    begin, goal = 2, jax.jit(q.differences)(params, params, batch, HP)[1]
    obs, done = jnp.moveaxis(batch.obs, 0, 2), batch.done.T[:, None]
    reset = jnp.concatenate([jnp.zeros_like(done[:1]), done])
    memory = q.network.q(q.network.weights(params), obs[:begin], q.network.memory(3), reset[:begin])[1]

    @jax.jit
    @jax.grad
    def plain(p):
        values = q.network.q(q.network.weights(p), obs[begin:-1], memory, reset[begin:-1])[0]
        action = jnp.moveaxis(batch.action, 0, 2)[begin:, ..., None].astype(jnp.int32)
        return jnp.mean(jnp.square(goal - jnp.take_along_axis(values, action, -1)[..., 0]))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, plain(params))
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads)) > 1e-3


def test_epsilon_falls_linearly_and_then_stays():
    hp = RecurrentQHyperparameters()
    steps = np.array([0, 250_000, 1e6, 7e6])
    np.testing.assert_allclose([epsilon(hp, s) for s in steps], [0.8, 0.625, 0.1, 0.1], rtol=1e-6)


# --- What the replay holds ---


@pytest.mark.parametrize("stored", [True, False])
def test_sequences_follow_each_other_and_tell_where_episodes_end(stored):
    """Episodes of 5 steps in sequences of 6: the memory that is replayed leads to the actions that were taken."""
    q = learner("memory", 5, config=replace(CONFIG, stored_memory=stored, time_limit="bootstrap"))
    carry = q.init(jax.random.key(0), HP)
    big = jax.tree.map(lambda p: 3 * p + jax.random.normal(jax.random.key(1), p.shape), carry.params)
    carry = replace(carry, params=big)
    rollout = jax.jit(q._rollout)
    parts = []
    for i in range(3):
        carry, sequences, _ = rollout(carry, jax.random.key(i), jnp.float32(0.0))
        assert jax.tree.map(lambda x: (x.shape[1:], x.dtype), sequences) == jax.tree.map(
            lambda x: (x.shape, x.dtype), q.sequence
        )
        parts.append(sequences)
    done = np.concatenate([p.done for p in parts], axis=1)
    expected = (np.arange(18) + 1) % 5 == 0
    assert (done == expected).all() and (np.concatenate([p.truncated for p in parts], axis=1) == expected).all()
    for before, after in zip(parts, parts[1:], strict=False):
        np.testing.assert_array_equal(before.obs[:, -1], after.obs[:, 0])
    # The cue shows at an episode's first step only: never in the state that was cut, but in the one after the reset.
    first = np.concatenate([p.obs[:, :-1, :, 0] for p in parts], axis=1) != 0
    assert (first == (np.arange(18) % 5 == 0)[None, :, None]).all()
    last = np.concatenate([p.last_obs[..., 0] for p in parts], axis=1)
    assert (last[:, expected] == 0).all()

    # Sequence 1 starts at step 6, in the middle of an episode; sequence 0 starts one.
    agree = []
    for part in parts:
        memory = jnp.swapaxes(part.memory, 0, 1) if stored else q.network.memory(8)
        resets = jnp.concatenate([jnp.zeros((1, 1, 8), bool), part.done.T[:-1, None]])
        obs = jnp.moveaxis(part.obs[:, :-1], 0, 2)
        values, _ = q.network.q(q.network.weights(big), obs, memory, resets)
        agree.append((values.argmax(-1) == jnp.moveaxis(part.action, 0, 2)).mean())
    assert agree[0] == 1.0 and (all(a == 1.0 for a in agree) if stored else agree[1] < 1.0)


def test_agents_learn_on_social_rewards_and_are_measured_by_their_own():
    q = learner("identity", 2, social=SocialReward("shared"), env=Unmasked)
    hp = social_hp(SocialParameters())
    carry, metrics = jax.jit(q.update)(q.init(jax.random.key(0), hp))
    own = np.asarray(carry.replay.sequences.action[:8]) == np.arange(3)
    np.testing.assert_array_equal(carry.replay.sequences.reward[:8], own.sum(-1, keepdims=True) * np.ones(3))
    np.testing.assert_allclose(metrics["reward"], own.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(metrics["episode_return"], 2 * own.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(metrics["shaped_return"], 2 * own.sum(-1).mean() * np.ones(3), rtol=1e-6)
    np.testing.assert_allclose(metrics["social_reward"], own.sum(-1).mean() - own.mean((0, 1)), rtol=1e-5, atol=1e-6)


def social_hp(parameters):
    numbers = {name: getattr(HP, name) for name in HP.__dataclass_fields__}
    return SocialRecurrentQHyperparameters(**numbers, social=parameters)


class SeenAtTheEnd(Unmasked):
    """All see all in states that end an episode, and nobody sees anybody in others."""

    def visible(self, state):
        return jnp.broadcast_to(state.done, (self.num_agents, self.num_agents))


def test_who_sees_whom_is_asked_of_the_state_before_the_reset():
    reward, parameters = social.make("inequity_aversion", feedback="visible", alpha=1.0, beta=0.0, smoothing=0.0)
    q = learner("identity", 2, social=reward, env=SeenAtTheEnd)
    carry, _ = jax.jit(q.update)(q.init(jax.random.key(0), social_hp(parameters)))
    own = (np.asarray(carry.replay.sequences.action[:8]) == np.arange(3)).astype(float)  # [E, T, N]
    envy = np.maximum(own[..., None, :] - own[..., :, None], 0).sum(-1) / 2
    ends = (np.arange(6) % 2 == 1)[None, :, None]
    np.testing.assert_allclose(carry.replay.sequences.reward[:8], own - envy * ends, atol=1e-6)
    assert (envy[:, 1::2] > 0).any()


# --- Equalities ---


def test_a_social_reward_that_costs_nothing_is_none():
    plain, free = learner("cue", 2), learner("cue", 2, social=SocialReward("inequity"))
    a, m = jax.jit(plain.update)(plain.init(jax.random.key(0), HP))
    b, k = jax.jit(free.update)(free.init(jax.random.key(0), social_hp(SocialParameters())))
    jax.tree.map(np.testing.assert_array_equal, a.replay, b.replay)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a.params, b.params)
    np.testing.assert_allclose(k["loss"], m["loss"], rtol=1e-5)
    np.testing.assert_allclose(k["shaped_return"], m["episode_return"], rtol=1e-6)  # Means of two programs.


def test_linear_hypernetwork_without_bias_trains_exactly_as_nops():
    """Values and, after Adam steps with per-agent clipping, parameters; the GRU itself is shared, so without one."""
    nops, linear = (learner("cue", 2, sharing=s, recurrent=False) for s in ("nops", "hyper_linear"))
    linear = replace(linear, policy_config=replace(linear.policy_config, hypernet_bias=False))
    hp = replace(HP, max_grad_norm=0.05)  # Clips for sure.
    (a, m), (b, k) = train(nops, 3, hp=hp), train(linear, 3, hp=hp)
    for name in ("loss", "grad_norm", "q", "td_error"):
        np.testing.assert_allclose(m[f"train/{name}"], k[f"train/{name}"], rtol=1e-4, atol=1e-6)
    assert (np.asarray(m["train/grad_norm"]) > 0.05).all()
    for part in ("params", "target"):
        for leaf, value in getattr(a.carries, part)["q"].items():
            np.testing.assert_allclose(value, getattr(b.carries, part)["q"][f"{leaf}/head"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sharing", ["nops", "fups", "hyper_mlp"])
def test_values_are_those_of_agents_run_one_by_one(sharing):
    """Each agent's network alone, with its own weights; and where nothing is shared its clipped gradient."""
    together = learner(sharing=sharing, env=Unmasked, max_steps=3)
    params, batch = together.network.init(jax.random.key(0)), random_batch(together)
    target = jax.tree.map(lambda p: 0.9 * p, params)
    obs = jnp.moveaxis(batch.obs, 0, 2)
    reset = jnp.zeros((obs.shape[0], 1, 3), bool)
    weights = together.network.weights(params)
    values, _ = together.network.q(weights, obs, together.network.memory(3), reset)
    alone = RecurrentQ(Unmasked(num_agents=1), replace(TINY, sharing="nops"), CONFIG)
    for i in range(3):
        own = {"q": {n: w[i if w.shape[0] > 1 else 0][None] for n, w in weights["q"].items()}}
        one, _ = alone.network.q(own, obs[:, i : i + 1], alone.network.memory(3), reset)
        np.testing.assert_allclose(values[:, i], one[:, 0], rtol=1e-4, atol=1e-6)
    if sharing != "nops":
        return

    def clipped(q, *args):
        grads = jax.grad(lambda p, *rest: q.loss(p, *rest, HP)[0])(*args)
        return gradients.clip(grads, jnp.float32(0.1), q.network.separate, q.env.num_agents)

    grads, _ = jax.jit(lambda *args: clipped(together, *args))(params, target, batch)
    one = jax.jit(lambda *args: clipped(alone, *args))
    for i in range(3):
        own, old = (jax.tree.map(lambda x, i=i: x[i : i + 1], tree) for tree in (params, target))
        part = jax.tree.map(lambda x, i=i: x[:, :, i : i + 1] if x.ndim > 2 else x, batch)
        grad, norm = one(own, old, part)
        assert float(norm) > 0.1
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i : i + 1], y, rtol=1e-4, atol=1e-7), grads, grad)


def test_the_target_follows_the_network():
    q = learner("cue", 2, config=replace(CONFIG, gradient_steps=1))
    carry = q.init(jax.random.key(0), replace(HP, target_rate=0.25))
    new, _ = jax.jit(q.update)(carry)
    jax.tree.map(
        lambda old, target, params: np.testing.assert_allclose(target, 0.75 * old + 0.25 * params, atol=1e-6),
        carry.target,
        new.target,
        new.params,
    )
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (carry.params, new.params)), strict=True))


# --- Learning: what is learnt tells which part works ---


@pytest.mark.parametrize("sharing,recurrent", [("nops", False), ("hyper_mlp", True)])
def test_schemes_with_identity_tell_agents_apart(sharing, recurrent):
    _, metrics = train(learner(sharing=sharing, recurrent=recurrent), 25)
    assert (final_return(metrics) == 1.0).all()


def test_full_sharing_is_matched_to_the_generated_network():
    """In parameters; all of the network counts, and its head is generated whatever `generate` says."""
    count = {s: learner(sharing=s).network.count_parameters() for s in ("fups_id", "fups_matched", "hyper_mlp")}
    assert count["fups_id"] < 0.5 * count["fups_matched"]
    assert abs(count["fups_matched"] / count["hyper_mlp"] - 1) < 0.05
    policy = replace(TINY, sharing="hyper_mlp", generate="actor")
    assert RecurrentQ(Unmasked(), policy, CONFIG).network.count_parameters() == count["hyper_mlp"]


def test_full_sharing_without_identity_cannot():
    _, metrics = train(learner(sharing="fups", recurrent=False), 25)
    np.testing.assert_allclose(final_return(metrics).sum(-1), 1.0)  # One agent of three.


def test_reward_that_comes_later_is_credited():
    _, metrics = train(learner("delayed", 2, recurrent=False, config=replace(CONFIG, double_q=True)), 30)
    assert (final_return(metrics) == 1.0).all()


def test_agents_remember_what_they_saw():
    _, metrics = train(learner("memory", 3), 40, num_seeds=3)
    assert (final_return(metrics) == 1.0).all()
    _, metrics = train(learner("memory", 3, recurrent=False), 40, num_seeds=3)
    assert (final_return(metrics) < 1.0).any()  # Without memory it is a guess.


def test_actions_that_are_ruled_out_are_never_taken():
    state, metrics = train(learner("masked"), 25)
    np.testing.assert_allclose(final_return(metrics), [[0.0, 1.0, 1.0]] * 2)
    sequences = state.carries.replay.sequences
    assert int(sequences.action.min()) == 1 and sequences.action.dtype == jnp.uint8


@pytest.mark.parametrize(
    "kind,time_limit,value",
    [("endless", "bootstrap", 2.0), ("endless", "terminal", 4 / 3), ("ending", "bootstrap", 4 / 3)],
)
def test_values_at_the_end_of_an_episode(kind, time_limit, value):
    """gamma = 1/2, reward 1, episodes of two steps that look alike. Cut off: Q = 1 + Q / 2 = 2. Ended: in half of the
    steps nothing follows, Q = 1 + Q / 4 = 4/3."""
    config = replace(CONFIG, time_limit=time_limit, gradient_steps=16)
    hp = replace(HP, discount=0.5, target_rate=0.2, max_grad_norm=50.0)
    _, metrics = train(learner(kind, 2, recurrent=False, sharing="fups", config=config), 40, hp=hp)
    np.testing.assert_allclose(np.asarray(metrics["train/q"])[-1], value, atol=0.03)


# --- Statistics ---


@dataclass(frozen=True)
class Orchard(Unmasked):
    """Agents in two roles that report what they eat."""

    @property
    def agent_classes(self):
        return {"low": ["agent_0"], "high": ["agent_1", "agent_2"]}

    def transition(self, key, state, actions):
        state, outcome = super().transition(key, state, actions)
        return state, outcome._replace(info={"apples": outcome.reward})


def test_evaluation_of_a_dilemma_tells_what_becomes_of_it():
    q = learner("identity", 4, env=Orchard, config=replace(CONFIG, eval_episodes=10))
    state, metrics = train(q, 25)
    carry = jax.tree.map(lambda x: x[0], state.carries)
    for name, value in {
        "average_return": 4,
        "equality": 1,
        "apples/high": 4,
        "efficiency": 3,
        "episode_length": 4,
    }.items():
        np.testing.assert_allclose(metrics[f"eval/{name}"][-1], value, rtol=1e-4, err_msg=name)
    assert "eval/return" not in metrics and "eval/equality/low" in metrics
    np.testing.assert_allclose(metrics["eval/sustainability"][-1], 1.5)  # Each agent eats at 0, 1, 2, 3.
    states, valid = q.episode(carry, jax.random.key(1))
    assert valid.tolist() == [True] * 5 and states.step.tolist() == [0, 1, 2, 3, 4] and bool(states.done[-1])
    assert q.replay_bytes(2) == sum(x.nbytes for x in jax.tree.leaves(state.carries.replay))


def test_evaluation_goes_on_with_the_ranges_of_training():
    reward, parameters = social.make("fair_local_ia", alpha=0.1)
    q = learner("identity", 2, env=Orchard, social=reward)
    hp = social_hp(parameters)
    carry, metrics = jax.jit(q.update)(q.init(jax.random.key(0), hp))
    seen = q.evaluate(carry, jax.random.key(0))
    ranges = np.asarray(carry.social.upper - carry.social.lower)[: CONFIG.eval_episodes].mean(0)
    assert (np.asarray(seen["reward_range"]) >= ranges - 1e-6).all()
    assert {"envy", "guilt", "information_age", "social_reward", "envy/high"} <= set(seen)
    assert np.isfinite(np.asarray(metrics["reward_range"])).all()


# --- Bad input ---


def check(q, hp):
    return q.check(hp)


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: learner("torque"), "discrete actions"),
        (lambda: learner(max_steps=None), "eval_steps is None"),
        (lambda: replace(CONFIG, num_envs=0), "num_envs is 0; allowed: an integer of at least 1"),
        (lambda: replace(CONFIG, buffer_sequences=7), "buffer_sequences is 7; allowed: at least num_envs = 8"),
        (lambda: replace(CONFIG, burn_in=6), "burn_in is 6; allowed: 0 to num_steps - 1 = 5"),
        (lambda: replace(CONFIG, loss="l2"), "loss is 'l2'; allowed: squared, huber"),
        (lambda: replace(CONFIG, time_limit="cut"), "time_limit is 'cut'; allowed: terminal, bootstrap"),
        (lambda: replace(HP, target_rate=1.5), r"target_rate is 1.5; allowed: a number in \[0, 1\]"),
        (lambda: replace(HP, epsilon_steps=0), "epsilon_steps is 0; allowed: a number above 0"),
        (lambda: check(learner(social=SocialReward("shared")), HP), "hp is RecurrentQHyperparameters; allowed"),
        (
            lambda: check(learner(social=SocialReward("inequity")), social_hp(SocialParameters(agent_weights=(1, 2)))),
            "agent_weights is",
        ),
    ],
)
def test_bad_settings_say_what_is_allowed(build, message):
    with pytest.raises(ValueError, match=message):
        build()

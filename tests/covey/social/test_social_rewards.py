"""Social rewards against plain Python loops and numbers worked out by hand; invariances; bad input."""

from dataclasses import replace
from math import atan, atan2, degrees, radians

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.social import METHODS, SocialParameters, SocialReward, make
from covey.social.terms import inequity, normalise

DECAY = 0.99 * 0.9
# Three steps of three agents: rewards, and who sees whom. Agent 0 meets 1 in the first step and 2 never; 1 meets 2 in
# the second step, and tells 0 in the third, when they meet again.
REWARDS = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
MEETINGS = [[(0, 1)], [(1, 2)], [(0, 1)]]
HAND = {
    "alpha": (0.5, 1.0, 2.0),
    "beta": 0.25,
    "orientation_weight": 0.02,
    "target_angle": (45.0, 30.0, 60.0),
    "agent_weights": (1.0, 2.0, 3.0),
}


def sight(pairs, num_agents=3):
    visible = np.eye(num_agents, dtype=bool)
    for i, j in pairs:
        visible[i, j] = visible[j, i] = True
    return visible


def roll(reward, hp, rewards, visible=None, done=None, state=None):
    """`(shaped [T, N], diagnostics [T, ...], state)` of T steps of one environment."""
    rewards = jnp.asarray(rewards, jnp.float32)
    length, num_agents = rewards.shape
    done = jnp.zeros(length, bool) if done is None else jnp.asarray(done)
    visible = None if visible is None else jnp.asarray(visible)

    def step(state, x):
        state, shaped, diagnostics = reward.step(state, x[0], x[1], x[2], hp)
        return state, (shaped, diagnostics)

    start = reward.init(num_agents) if state is None else state
    state, (shaped, diagnostics) = jax.lax.scan(step, start, (rewards, visible, done))
    return np.asarray(shaped), jax.tree.map(np.asarray, diagnostics), state


def loop_gossip(known, age, values, visible, gossip=True):
    """One step of the tables, by the words of the reference: agent by agent, value by value."""
    n = len(values)
    known_before, age_before = [list(row) for row in known], [list(row) for row in age]
    known, age = [list(row) for row in known], [list(row) for row in age]
    for i in range(n):
        for j in range(n):
            for k in range(n):
                if gossip and visible[i][j] and j != i and k not in (i, j) and age_before[j][k] < age[i][k]:
                    known[i][k], age[i][k] = known_before[j][k], age_before[j][k]
        for j in range(n):
            if j == i or visible[i][j]:
                known[i][j], age[i][j] = values[j], 0
            else:
                age[i][j] += 1
    return known, age


def reference(reward, hp, rewards, visible):
    """Shaped rewards [T, N] by plain Python, for running bounds or none."""
    n = rewards.shape[1]
    per_agent = {name: np.broadcast_to(getattr(hp, name), n) for name in HAND}
    start = 1e-7 if reward.clamp and reward.normalise == "none" else 0.0
    e, low, high = [start] * n, [np.inf] * n, [-np.inf] * n
    known, age = np.zeros((n, n)).tolist(), np.zeros((n, n)).tolist()
    result = []
    for r, sees in zip(rewards, visible, strict=True):
        v = []
        for i in range(n):
            e[i] = hp.discount * hp.smoothing * e[i] + r[i]
            if reward.clamp and reward.normalise == "none":
                e[i] = max(e[i], 1e-7)
            low[i], high[i] = min(low[i], e[i]), max(high[i], e[i])
            share = (e[i] - low[i]) / (high[i] - low[i]) if high[i] > low[i] else 1.0
            v.append(e[i] if reward.normalise == "none" else share + 1e-8)
        known, age = loop_gossip(known, age, v, sees, reward.feedback == "gossip")
        u = []
        for i in range(n):
            others = [j for j in range(n) if j != i]
            view, divisor = {j: v[j] if reward.feedback == "global" else known[i][j] for j in others}, n - 1
            if reward.feedback == "visible":
                others = [j for j in others if sees[i][j]]
                view, divisor = {j: v[j] for j in others}, max(len(others), 1)
            weight = 1.0 if reward.weighting == "none" else per_agent["agent_weights"][i]
            if reward.term == "inequity":
                envy = sum(max(view[j] - v[i], 0) for j in others)
                guilt = sum(max(v[i] - view[j], 0) for j in others)
                cost = (per_agent["alpha"][i] * envy + per_agent["beta"][i] * guilt) / divisor
            elif not others:
                cost = 0.0
            else:
                angle = degrees(atan(sum(view[j] for j in others) / divisor / v[i]))
                cost = per_agent["orientation_weight"][i] * abs(per_agent["target_angle"][i] - angle)
            u.append(r[i] - weight * cost)
        result.append(u)
    return np.array(result)


# --- Worked out by hand ---


def test_selfish_common_and_group_shared():
    rewards = [[1.0, 2.0, 4.0], [0.0, -1.0, 3.0]]
    np.testing.assert_array_equal(roll(*make("selfish"), rewards)[0], rewards)
    np.testing.assert_array_equal(roll(*make("common"), rewards)[0], [[7.0] * 3, [2.0] * 3])
    shaped, diagnostics, _ = roll(*make("group_shared", groups=(0, 1, 0)), rewards)
    np.testing.assert_array_equal(shaped, [[2.5, 2.0, 2.5], [1.5, -1.0, 1.5]])
    np.testing.assert_array_equal(diagnostics["social_reward"], shaped - rewards)


def test_inequity_aversion_by_hand():
    """Two agents, alpha 3, beta 0.05; e = (1, 0), (0.891, 1), (0.793881, 0.891)."""
    shaped, diagnostics, _ = roll(*make("inequity_aversion", "harvest"), [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    gap1, gap2 = 1.0 - DECAY, DECAY - DECAY**2
    expected = [
        [1.0 - 0.05, 0.0 - 3.0],
        [0.0 - 3.0 * gap1, 1.0 - 0.05 * gap1],
        [0.0 - 3.0 * gap2, 0.0 - 0.05 * gap2],
    ]
    np.testing.assert_allclose(shaped, expected, atol=1e-6)
    np.testing.assert_allclose(diagnostics["envy"][:, 1], [3.0, 0.0, 0.0])
    np.testing.assert_allclose(diagnostics["smoothed_reward"][2], [DECAY**2, DECAY], rtol=1e-6)


def test_social_value_orientation_by_hand():
    """In degrees, smoothed, and what is negative clamped to 1e-7."""
    shaped, diagnostics, _ = roll(*make("social_value_orientation", "coins"), [[1.0, -2.0], [0.0, 1.0], [0.0, 0.0]])
    second = degrees(atan(1 / DECAY))  # Without the clamp, agent 1 would be at 1 - 2 * 0.891 < 0.
    np.testing.assert_allclose(diagnostics["reward_angle"][0], [0.0, 90.0], atol=1e-4)
    np.testing.assert_allclose(diagnostics["reward_angle"][1], [second, 90 - second], rtol=1e-5)
    # The largest cost in Coins is 0.004 * 45 = 0.18 per step.
    np.testing.assert_allclose(shaped[0], [1.0 - 0.18, -2.0 - 0.18], atol=1e-6)
    np.testing.assert_allclose(shaped[1], [-0.004 * (second - 45), 1.0 - 0.004 * (second - 45)], atol=1e-6)
    np.testing.assert_allclose(shaped[2], [-0.004 * (second - 45), -0.004 * (second - 45)], atol=1e-6)


def test_mckee_orientation_by_hand():
    """In radians, of the step's own rewards; nothing where nobody gets anything."""
    reward, hp = make("mckee_social_value_orientation", target_angle=45.0, orientation_weight=0.2)
    shaped, _, _ = roll(reward, hp, [[3.0, 1.0], [0.0, 0.0], [-1.0, 1.0]])
    off = radians(45) - atan2(1, 3)
    np.testing.assert_allclose(shaped[0], [3 - 0.2 * off, 1 - 0.2 * off], rtol=1e-5)
    np.testing.assert_array_equal(shaped[1], [0.0, 0.0])
    np.testing.assert_allclose(shaped[2], [-1 - 0.2 * radians(90), 1 - 0.2 * radians(90)], rtol=1e-5)


def test_fair_local_ia_by_hand():
    """Three steps of three agents, as in `REWARDS` and `MEETINGS`."""
    reward, hp = make("fair_local_ia", alpha=1.0, beta=1.0, agent_weights=(1.0, 2.0, 3.0))
    shaped, diagnostics, _ = roll(reward, hp, REWARDS, [sight(m) for m in MEETINGS])
    # Step 1: each has its first value, so all are 1. Agents 0 and 1 know each other; the unmet count as 0.
    np.testing.assert_allclose(shaped[0], [1 - 0.5, 0 - 2 * 0.5, 0.5 - 3 * 1.0], atol=1e-6)
    # Step 2: 0 fell to its lowest (0), 1 rose to its highest (1), 2 fell to its lowest (0). 0 remembers 1 at 1.
    # 1 remembers 0 at 1 and sees 2 at 0. 2 sees 1 at 1, who could only tell what it knew before: 0 at 1, age 0.
    np.testing.assert_allclose(shaped[1], [0 - 0.5, 1 - 2 * 0.5, 0 - 3 * (0.5 + 0.5)], atol=1e-6)
    # Step 3: 0 at 1, 2 at 1, 1 at 0.891. 0 sees 1 (now 0.891), who tells it of 2 (0 in step 2). 1 sees 0, and has 2 at
    # 0 from step 2. 2 sees nobody; it knows 1 at 1 from step 2, and 0 at 1 by hearsay.
    gap = 1 - DECAY
    expected = [2 - (gap + 1) / 2, 0 - 2 * (gap + DECAY) / 2, 1.0]
    np.testing.assert_allclose(shaped[2], expected, atol=1e-6)
    # Ages: in the end 0 knows of 2 what was 1 step old; 2 knows of 1 as of step 2, and of 0 as of step 1.
    np.testing.assert_array_equal(diagnostics["information_age"], [[1, 1, 2], [3, 1, 1], [1, 1, 3]])


@pytest.mark.parametrize("term", ["inequity", "orientation"])
@pytest.mark.parametrize("normalise", ["none", "running"])
@pytest.mark.parametrize("weighting", ["none", "given"])
@pytest.mark.parametrize("feedback", ["global", "gossip", "memory", "visible"])
def test_every_switch_equals_a_plain_loop(term, normalise, weighting, feedback):
    """The 2^3 ablation, and the alternatives to gossip, with per-agent parameters."""
    reward = SocialReward(term, normalise, weighting, feedback, clamp=True)
    visible = [sight(m) for m in MEETINGS]
    hp = SocialParameters(**HAND)
    np.testing.assert_allclose(
        roll(reward, hp, REWARDS, visible)[0], reference(reward, hp, REWARDS, visible), rtol=1e-4, atol=1e-5
    )


def test_presets_have_the_paper_s_numbers():
    reward, hp = make("fair_local_ia", "harvest_5high_5low")
    assert (reward.normalise, reward.weighting, reward.feedback) == ("running", "given", "gossip")
    assert (hp.alpha, hp.beta, hp.agent_weights) == (3.0, 0.05, (4.0,) * 5 + (6.0,) * 5)
    assert hp.decay == pytest.approx(0.891)
    _, hp = make("fair_local_svo", "coins_1standard_1spawn_biased")
    assert (hp.orientation_weight, hp.target_angle, hp.agent_weights) == (0.004, 45.0, (4.5, 1.5))
    _, hp = make("inequity_aversion", "coins")
    assert (hp.alpha, hp.beta) == (0.05, 0.1)


# --- Why raw equality fails ---


def test_raw_inequity_aversion_charges_the_poor_and_the_fair_form_nobody():
    """All eat c apples per step, worth 0.5 to half of the agents and 1.5 to the others (§2.4 of the reference)."""
    c, steps = 0.1, 400
    rewards = np.tile(np.repeat([0.5 * c, 1.5 * c], 5), (steps, 1))
    raw, _, _ = roll(*make("inequity_aversion", "harvest"), rewards)
    charge = rewards[-1] - raw[-1]
    np.testing.assert_allclose(charge[:5], 3 / 9 * 5 * c / (1 - DECAY), rtol=1e-4)
    np.testing.assert_allclose(charge[:5] / c, 15.3, atol=0.05)
    np.testing.assert_allclose(charge[5:] / c, 0.25, atol=0.01)
    rewards[::3] = 0.0  # Now and then nobody eats, so that there is a range.
    fair, diagnostics, _ = roll(*make("fair_local_ia", "harvest_5high_5low"), rewards)
    np.testing.assert_allclose(fair, rewards, atol=1e-4)
    np.testing.assert_allclose(diagnostics["reward_range"][-1][5:], 3 * diagnostics["reward_range"][-1][:5], rtol=1e-5)


# --- Invariances ---


@pytest.mark.parametrize("name", ["inequity_aversion", "social_value_orientation", "fair_local_ia", "fair_local_svo"])
def test_agents_have_no_order(name):
    rng = np.random.default_rng(0)
    length, n = 6, 5
    rewards, visible = rng.integers(0, 3, (length, n)) / 2.0, rng.random((length, n, n)) < 0.3
    weights, order = rng.random(n) + 0.5, rng.permutation(n)
    reward, hp = make(name, agent_weights=tuple(weights))
    shaped, _, _ = roll(reward, hp, rewards, visible)
    hp = replace(hp, agent_weights=tuple(weights[order]))
    permuted, _, _ = roll(reward, hp, rewards[:, order], visible[:, order][:, :, order])
    np.testing.assert_allclose(permuted, shaped[:, order], atol=1e-5)


@pytest.mark.parametrize("name", ["fair_local_ia", "fair_local_svo"])
def test_scale_of_an_agents_rewards_does_not_matter_to_the_fair_term(name):
    rng = np.random.default_rng(1)
    rewards, visible = rng.integers(-1, 3, (8, 4)).astype(float), rng.random((8, 4, 4)) < 0.5
    reward, hp = make(name)
    social_reward = roll(reward, hp, rewards, visible)[1]["social_reward"]
    scaled = roll(reward, hp, rewards * [1, 4, 0.5, 1], visible)[1]["social_reward"]
    assert np.abs(social_reward).max() > 0.1
    np.testing.assert_allclose(scaled, social_reward, atol=1e-5)
    raw = replace(reward, normalise="none")
    difference = roll(raw, hp, rewards * [1, 4, 0.5, 1], visible)[1]["social_reward"]
    assert not np.allclose(difference, roll(raw, hp, rewards, visible)[1]["social_reward"], atol=1e-2)


def test_all_see_all_where_nothing_says_who_sees_whom():
    for feedback in ("gossip", "memory", "visible"):
        reward, hp = make("fair_local_ia", feedback=feedback)
        everywhere = roll(replace(reward, feedback="global"), hp, REWARDS, [sight([])] * 3)[0]
        np.testing.assert_array_equal(roll(reward, hp, REWARDS)[0], everywhere)


def test_who_is_off_the_board_neither_sees_nor_is_seen_nor_tells():
    visible = np.array([sight([(0, 1), (1, 2)])] * 2)
    visible[1, 1] = visible[1, :, 1] = False
    reward, hp = make("fair_local_ia")
    _, diagnostics, state = roll(reward, hp, REWARDS[:2], visible)
    np.testing.assert_array_equal(state.age, [[0, 1, 2], [1, 0, 1], [2, 1, 0]])
    np.testing.assert_array_equal(diagnostics["information_age"][1], [3, 2, 3])


# --- State, bounds and alternatives ---


def test_bounds_outlive_episodes_and_nothing_else_does():
    reward, hp = make("fair_local_ia")
    visible = [sight(m) for m in MEETINGS]
    shaped, diagnostics, state = roll(reward, hp, REWARDS, visible, done=[False, False, True])
    np.testing.assert_array_equal(shaped, roll(reward, hp, REWARDS, visible)[0])  # The last step counts.
    assert diagnostics["smoothed_reward"][2].max() > 2
    for name in ("smoothed", "elapsed", "known", "age"):
        np.testing.assert_array_equal(getattr(state, name), 0)
    np.testing.assert_allclose(state.upper, [2 + DECAY**2, 1.0, 1 + 0.5 * DECAY**2], rtol=1e-6)
    np.testing.assert_allclose(state.lower, [DECAY, 0.0, 0.5 * DECAY], rtol=1e-6)
    assert state.steps == 3
    # In the next episode a first reward is worth what it is worth in those bounds, not 1.
    _, _, state = roll(reward, hp, REWARDS[1:2], visible[:1], state=state)
    np.testing.assert_allclose(state.known[1, 1], 1.0, atol=1e-6)
    np.testing.assert_allclose(state.known[0, 0], 0.0, atol=1e-6)


def test_pool_shares_bounds_over_environments():
    reward, hp = make("fair_local_ia", normalise="shared")
    rewards = jnp.array([[1.0, 0.0], [3.0, -1.0]])  # [E, N]
    states = jax.vmap(lambda _: reward.init(2))(jnp.arange(2))
    done = jnp.zeros(2, bool)
    states, _, _ = jax.vmap(reward.step, in_axes=(0, 0, None, 0, None))(states, rewards, None, done, hp)
    pooled = reward.pool(states)
    np.testing.assert_array_equal(pooled.lower, [[1.0, -1.0]] * 2)
    np.testing.assert_array_equal(pooled.upper, [[3.0, 0.0]] * 2)
    np.testing.assert_array_equal(pooled.smoothed, states.smoothed)
    running = replace(reward, normalise="running")
    assert running.pool(states) is states


def test_analytic_and_warmup_bounds():
    high = (0.5, 1.5)
    reward, hp = make("fair_local_ia", normalise="analytic", reward_high=high, alpha=1.0, beta=1.0)
    # Agent 0 gets all it ever can, agent 1 half of it: at most 1 and 0.5 of their ranges.
    shaped, diagnostics, _ = roll(reward, hp, np.tile([0.5, 0.75], (200, 1)))
    np.testing.assert_allclose(shaped[-1], [0.5 - 0.5, 0.75 - 0.5], atol=1e-4)
    np.testing.assert_allclose(diagnostics["guilt"][0], [(1 - DECAY) / 2, 0.0], atol=1e-5)

    reward, hp = make("fair_local_ia", normalise="warmup", warmup_steps=2.0)
    _, diagnostics, state = roll(reward, hp, [[0.0, 0.0], [1.0, 2.0], [5.0, 5.0]])
    np.testing.assert_array_equal(state.upper, [1.0, 2.0])
    np.testing.assert_allclose(state.known[0], [5 + DECAY, (5 + 2 * DECAY) / 2], rtol=1e-5)


def test_weights_in_proportion_to_the_range():
    reward, hp = make("fair_local_ia", weighting="range", alpha=0.0, beta=1.0, agent_weights=2.0)
    assert np.all(roll(reward, hp, [[1.0, 1.0]])[1]["guilt"] == 0)  # No range yet: no division by 0.
    # Ranges 1 and 3: weights 2 * 1/2 and 2 * 3/2. Who comes second is the one ahead.
    for rewards, weights in (([[0, 0], [0, 3], [1, 0]], (1.0, 0.0)), ([[0, 0], [1, 0], [0, 3]], (0.0, 3.0))):
        guilt = roll(reward, hp, rewards)[1]["guilt"][2]
        np.testing.assert_allclose(guilt, np.multiply(weights, 1 - DECAY), rtol=1e-4)


def test_strangers_may_be_left_out():
    alone = [sight([])]
    for name in ("fair_local_ia", "fair_local_svo"):
        reward, hp = make(name)
        paper = roll(reward, hp, [[1.0, 0.0, 0.0]], alone)[1]["social_reward"]
        assert np.all(paper < 0)
        skip = replace(reward, unmet="skip")
        np.testing.assert_array_equal(roll(skip, hp, [[1.0, 0.0, 0.0]], alone)[0], [[1.0, 0.0, 0.0]])
    # Of two others one is known: the divisor of inequity stays 2, the mean of an orientation is over one.
    reward, hp = make("fair_local_ia", unmet="skip", normalise="none", alpha=1.0, beta=1.0)
    np.testing.assert_allclose(roll(reward, hp, [[1.0, 0.0, 0.0]], [sight([(0, 1)])])[0], [[0.5, -0.5, 0.0]])
    reward, hp = make("fair_local_svo", unmet="skip", normalise="none")
    angle = roll(reward, hp, [[1.0, 1.0, 0.0]], [sight([(0, 1)])])[1]["reward_angle"]
    np.testing.assert_allclose(angle, [[45.0, 45.0, 45.0]], rtol=1e-5)


def test_old_news_may_be_discounted():
    reward, hp = make("fair_local_ia", normalise="none", alpha=1.0, beta=0.0, age_discount=0.5)
    rewards = [[0.0, 4.0], [0.0, 0.0], [0.0, 0.0]]
    _, diagnostics, _ = roll(reward, hp, rewards, [sight([(0, 1)], 2), sight([], 2), sight([], 2)])
    np.testing.assert_allclose(diagnostics["envy"][:, 0], [4.0, 2.0, 1.0])


def test_parameters_sweep_and_batch_without_compiling_again():
    """Every parameter is a scalar leaf, also those of single agents."""
    reward, hp = make("fair_local_ia", alpha=2.0, agent_weights=(1.0, 2.0, 3.0))
    assert len({reward, make("fair_local_ia", alpha=2.0)[0]}) == 1
    assert all(jnp.shape(leaf) == () for leaf in jax.tree.leaves(hp))
    traced = []

    @jax.jit
    def shape(hp):
        traced.append(1)
        return roll_one(hp)

    def roll_one(hp):
        return reward.step(reward.init(3), jnp.array(REWARDS[0]), None, jnp.array(False), hp)[1]

    sweep = jax.tree.map(lambda *x: jnp.array(x), hp, replace(hp, agent_weights=(0.0, 2.0, 5.0)))
    both = jax.vmap(roll_one)(sweep)
    np.testing.assert_allclose(both[0], shape(hp), rtol=1e-6)
    np.testing.assert_allclose(both[1], shape(replace(hp, agent_weights=(0.0, 2.0, 5.0))), rtol=1e-6)
    assert len(traced) == 1


def test_methods_share_one_interface():
    for name, method in METHODS.items():
        extra = {"groups": (0, 0, 1)} if name == "group_shared" else {}
        reward, hp = make(name, **extra)
        assert hash(reward) == hash(make(name, **extra)[0])
        state = reward.init(3)
        after, shaped, diagnostics = reward.step(state, jnp.ones(3), None, jnp.array(True), hp)
        assert jax.tree.structure(after) == jax.tree.structure(state) and shaped.dtype == jnp.float32
        assert all(value.shape == (3,) and value.dtype == jnp.float32 for value in diagnostics.values()), name
        for preset in method.presets:
            make(name, preset, **extra)


def test_terms_alone():
    np.testing.assert_allclose(
        normalise(jnp.array([1.0, 2.0]), jnp.array([0.0, 2.0]), jnp.array([4.0, 2.0])), [0.25, 1]
    )
    envy, guilt = inequity(jnp.array([1.0, 3.0]), jnp.array([[0.0, 4.0], [1.0, 0.0]]), ~jnp.eye(2, dtype=bool), 1)
    np.testing.assert_array_equal(envy, [3.0, 0.0])
    np.testing.assert_array_equal(guilt, [0.0, 2.0])


# --- Bad input ---


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"alpha": -1.0}, "alpha is -1.0; allowed"),
        ({"beta": (0.1, -0.1)}, r"beta is \(0.1, -0.1\); allowed"),
        ({"target_angle": 100.0}, r"target_angle is 100.0; allowed: numbers in \[0, 90\]"),
        ({"discount": 1.5}, "discount is 1.5"),
        ({"smoothing": -0.1}, "smoothing is -0.1"),
        ({"agent_weights": (1.0, float("nan"))}, "agent_weights is"),
        ({"reward_low": 1.0}, "reward_high is 1.0; allowed: above reward_low"),
        ({"normalise": "mean"}, "normalise is 'mean'; allowed: none, running"),
        ({"feedback": "rumour"}, "feedback is 'rumour'"),
        ({"unit": "gon"}, "unit is 'gon'"),
        ({"gamma": 0.9}, "setting is 'gamma'; allowed"),
        ({"preset": "chess"}, "preset is 'chess'; allowed for fair_local_ia: default"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make("fair_local_ia", **settings)


def test_wrong_settings_for_these_agents():
    with pytest.raises(ValueError, match="social reward is 'envy'; allowed: selfish, common"):
        make("envy")
    with pytest.raises(ValueError, match="groups is None"):
        make("group_shared")
    reward, hp = make("fair_local_ia", "coins_1high_1low")
    with pytest.raises(ValueError, match=r"agent_weights is \(4.0, 12.0\).*one for each of 3 agents"):
        reward.check(3, hp)
    with pytest.raises(ValueError, match="agent_weights"):  # While tracing: nothing was compiled.
        jax.eval_shape(lambda: reward.step(reward.init(3), jnp.zeros(3), None, jnp.array(False), hp))
    with pytest.raises(ValueError, match="num_agents is 1; allowed: at least 2"):
        reward.check(1, make("fair_local_ia")[1])
    with pytest.raises(ValueError, match=r"groups is \(0, 1\)"):
        SocialReward("shared", groups=(0, 1)).check(3, SocialParameters())
    with pytest.raises(ValueError, match="smoothing is 1.0; allowed for analytic bounds"):
        bad, hp = make("fair_local_ia", normalise="analytic", discount=1.0, smoothing=1.0)
        bad.check(2, hp)


def test_wrong_arrays():
    reward, hp = make("fair_local_ia")
    state, done = reward.init(3), jnp.array(False)
    with pytest.raises(ValueError, match=r"rewards has shape \(\); allowed: \(3,\), one reward per agent"):
        reward.step(state, jnp.array(1.0), None, done, hp)
    with pytest.raises(ValueError, match=r"visible has shape \(2, 2\); allowed: \(3, 3\)"):
        reward.step(state, jnp.zeros(3), jnp.ones((2, 2), bool), done, hp)
    with pytest.raises(ValueError, match=r"done has shape \(3,\); allowed: \(\)"):
        reward.step(state, jnp.zeros(3), None, jnp.zeros(3, bool), hp)

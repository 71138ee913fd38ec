"""Social metrics against plain Python on short streams, alone and batched in a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.metrics import social
from covey.metrics.social import equality, equality_safe, own_share

T, N, C = 12, 4, 9
ROLES, NAMES = np.array([0, 0, 1, 1]), ("low", "high")


def stream(seed=0, length=T):
    """A random episode: rewards [T, N] and infos of Harvest, Cleanup and Coins at once."""
    rng = np.random.default_rng(seed)
    removed = rng.random((length, N)) < 0.3
    counts = {name: rng.integers(0, 2, (length, N)) * ~removed for name in social.COUNTED}
    info = counts | {
        "removed": removed,
        "cell": np.where(removed, -1, rng.integers(0, C, (length, N))),
        "mean_distance": rng.random((length, N)) * ~removed,
        "waste_share": np.repeat(rng.random((length, 1)), N, axis=1),
        "information_age": rng.integers(0, 9, (length, N)),
        "reward_range": np.sort(rng.random((length, N)), axis=0) + 0.1,
        "unknown_to_us": rng.random((length, N)),
    }
    return rng.normal(size=(length, N)), info


def measure(rewards, info, alive=None, positions=None, num_cells=C, **kwargs):
    rewards = jnp.asarray(rewards, jnp.float32)
    alive = jnp.ones(len(rewards), bool) if alive is None else jnp.asarray(alive)
    info = jax.tree.map(jnp.asarray, info)

    def step(acc, x):
        rewards, info, alive, positions = x
        return social.add(acc, rewards, info, positions, alive), None

    acc = social.init(rewards.shape[1], info, num_cells)
    acc, _ = jax.lax.scan(step, acc, (rewards, info, alive, positions))
    return jax.tree.map(np.asarray, social.finish(acc, **kwargs))


def plain_equality(returns, safe=False):
    n = len(returns)
    gaps = sum(abs(a - b) for a in returns for b in returns)
    if safe:
        return 1 - gaps / (2 * (n - 1) * sum(abs(a) for a in returns) + 1e-5)
    return 1 - gaps / (2 * n * (sum(returns) + 1e-5))


def test_every_metric_equals_plain_python():
    rewards, info = stream()
    ours = measure(rewards, info, roles=ROLES, role_names=NAMES, reward_scale=np.array([0.5, 0.5, 1.5, 1.5]))
    returns = rewards.sum(0)
    present = (~info["removed"]).sum(0)
    items = info["apples"] + info["coins_own"] + info["coins_other"]
    meal = [np.mean([t for t in range(T) if items[t, i]]) if items[:, i].any() else 0.0 for i in range(N)]
    per_agent = {name: info[name].sum(0) for name in social.COUNTED}
    coins = per_agent["coins_own"] + per_agent["coins_other"]
    per_agent |= {
        "return": returns,
        "own_coin_share": per_agent["coins_own"] / coins,
        "zap_rate": per_agent["zaps_fired"] / (present + 1),
        "clean_rate": per_agent["cleans_fired"] / (present + 1),
        "clean_accuracy": per_agent["cleaned"] / np.maximum(per_agent["cleans_fired"], 1),
        "coverage": np.array([len(set(info["cell"][:, i]) - {-1}) for i in range(N)]),
        "mean_distance": info["mean_distance"].sum(0) / present,
        "waste_share": info["waste_share"].mean(0),
        "information_age": info["information_age"].mean(0),
        "reward_range": info["reward_range"][-1],
    }
    expected = dict(per_agent)
    for suffix, agents in (("", range(N)), ("/low", [0, 1]), ("/high", [2, 3])):
        own = [returns[i] for i in agents]
        scaled = [returns[i] / (0.5, 0.5, 1.5, 1.5)[i] for i in agents]
        group = {
            "average_return": np.mean(own),
            "collective_return": sum(own),
            "efficiency": sum(own) / T,
            "equality": plain_equality(own),
            "equality_safe": plain_equality(own, safe=True),
            "equality_scaled": plain_equality(scaled),
            "equality_scaled_safe": plain_equality(scaled, safe=True),
            "equality_items": plain_equality([items[:, i].sum() for i in agents]),
            "sustainability": np.mean([meal[i] for i in agents]),
            "peace": len(own) - sum(info["removed"][:, i].sum() for i in agents) / T,
        }
        if suffix:
            group |= {name: np.mean([column[i] for i in agents]) for name, column in per_agent.items()}
        expected |= {name + suffix: value for name, value in group.items()}
    assert set(ours) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        assert ours[name].dtype == np.float32 and ours[name].shape == np.shape(value), name


def test_steps_after_the_end_do_not_count():
    rewards, info = stream()
    short = measure(rewards[:7], {name: value[:7] for name, value in info.items()})
    full = measure(rewards, info, alive=np.arange(T) < 7)
    for name, value in short.items():
        np.testing.assert_allclose(full[name], value, rtol=1e-6, err_msg=name)


def test_batch_of_environments():
    episodes = [stream(seed) for seed in range(3)]
    alone = [measure(rewards, info, roles=ROLES, role_names=NAMES) for rewards, info in episodes]
    rewards, info = jax.tree.map(lambda *x: jnp.stack(x), *episodes)  # [E, T, ...]

    def episode(rewards, info):
        acc, _ = jax.lax.scan(
            lambda acc, x: (social.add(acc, *x), None), social.init(N, info, C), (rewards.astype(jnp.float32), info)
        )
        return social.finish(acc, ROLES, NAMES)

    together = jax.vmap(episode)(rewards, info)
    for e in range(3):
        for name, value in alone[e].items():
            np.testing.assert_allclose(together[name][e], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_equality_of_half_and_one_and_a_half_is_three_quarters():
    rewards = np.tile(np.repeat([0.5, 1.5], 5), (200, 1))
    info = {"apples": np.ones((200, 10), int)}
    roles = np.repeat([0, 1], 5)
    ours = measure(rewards, info, num_cells=None, roles=roles, role_names=NAMES, reward_scale=rewards[0])
    assert ours["equality"] == 0.75
    assert ours["equality_items"] == 1.0 and ours["equality_scaled"] == 1.0 and ours["equality_scaled_safe"] == 1.0
    assert ours["equality/low"] == 1.0 and ours["equality/high"] == 1.0
    assert ours["return/low"] == 100.0 and ours["collective_return/high"] == 1500.0


def test_equality_at_its_ends():
    assert equality(jnp.array([3.0, 3.0, 3.0])) == 1.0
    np.testing.assert_allclose(equality(jnp.array([5.0, 0.0])), 0.5, rtol=1e-5)  # One of N has all: 1 / N.
    np.testing.assert_allclose(equality_safe(jnp.array([5.0, 0.0])), 0.0, atol=1e-5)
    np.testing.assert_allclose(equality_safe(jnp.array([5.0, -5.0])), 0.0, atol=1e-5)
    np.testing.assert_allclose(equality_safe(jnp.array([-2.0, -2.0, -2.0])), 1.0)
    assert equality_safe(jnp.zeros(3)) == 1.0 and equality(jnp.zeros(3)) == 1.0
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert -1e-5 <= equality_safe(jnp.asarray(rng.normal(size=5))) <= 1


def test_sustainability_and_peace_by_hand():
    """Agent 0 eats in steps 1 and 3, agent 1 never; agent 1 is away for two of four steps."""
    info = {"apples": np.array([[0, 0], [1, 0], [0, 0], [1, 0]]), "removed": np.array([[0, 0], [0, 1], [0, 1], [0, 0]])}
    ours = measure(np.full((4, 2), -0.1), info, num_cells=None)
    assert ours["sustainability"] == 1.0  # (mean(1, 3) + 0) / 2; the rewards do not matter.
    assert ours["peace"] == 1.5
    rewards = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    assert measure(rewards, {}, num_cells=None)["sustainability"] == 1.0  # Without names of things: reward above 0.


def test_only_what_the_environment_tells():
    names = set(measure(np.ones((3, 2)), {}, num_cells=None))
    assert names == {
        "return", "average_return", "collective_return", "efficiency", "equality", "equality_safe", "sustainability",
    }  # fmt: skip
    positions = jnp.array([[0, 1], [0, 2], [3, -1]])
    ours = measure(np.ones((3, 2)), {}, positions=positions, num_cells=4)
    np.testing.assert_array_equal(ours["coverage"], [2, 2])


def test_own_share_without_coins_is_a_half():
    np.testing.assert_allclose(own_share(jnp.array([0.0, 3.0, 1.0]), jnp.array([0.0, 1.0, 0.0])), [0.5, 0.75, 1.0])


def test_a_role_without_agents_is_nan():
    ours = measure(np.ones((3, 2)), {}, num_cells=None, roles=np.array([0, 0]), role_names=NAMES)
    assert ours["return/low"] == 3.0 and np.isnan(ours["return/high"]) and np.isnan(ours["equality/high"])


def test_wrong_input():
    with pytest.raises(ValueError, match=r"roles has shape \(3,\); allowed: \(2,\)"):
        measure(np.ones((3, 2)), {}, num_cells=None, roles=np.zeros(3, int), role_names=NAMES)
    with pytest.raises(ValueError, match="positions is None; allowed: cells"):
        measure(np.ones((3, 2)), {}, num_cells=4)

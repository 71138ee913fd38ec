"""The container against plain loops over episodes."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.data import (
    DataError,
    check,
    episode_returns,
    from_transitions,
    merge,
    split,
    statistics,
    step_rows,
    subsample,
    take_episodes,
    team_reward,
    to_device,
    window_starts,
    windows,
)
from covey.data import dataset as module
from covey.data.dataset import LEAVES

AGENTS, OBS, ACTIONS, STATE = 2, 3, 2, 4


def episodes(lengths, seed=0):
    """Random episodes as lists of arrays: state [T+1, S], obs [T+1, N, O], action [T, N, A], reward [T, N]."""
    rng = np.random.default_rng(seed)
    shapes = lambda t: ((t + 1, STATE), (t + 1, AGENTS, OBS), (t, AGENTS, ACTIONS), (t, AGENTS))  # noqa: E731
    return [[rng.normal(size=s).astype(np.float32) for s in shapes(t)] for t in lengths]


def make(lengths, terminated, final=True, seed=0, **changes):
    parts = episodes(lengths, seed)
    cat = lambda i, cut: np.concatenate([e[i][:-1] if cut else e[i] for e in parts])  # noqa: E731
    last = {"final_state": np.stack([e[0][-1] for e in parts]), "final_obs": np.stack([e[1][-1] for e in parts])}
    arrays = {"state": cat(0, True), "obs": cat(1, True), "action": cat(2, False), "reward": cat(3, False)}
    arrays |= last if final else {}
    return from_transitions(np.array(lengths), np.array(terminated), **(arrays | changes))


LENGTHS, TERMINATED = [3, 1, 5], [True, False, False]


def test_rows_are_episodes_side_by_side():
    data = make(LENGTHS, TERMINATED)
    assert (data.num_rows, data.num_episodes, data.num_transitions) == (12, 3, 9)
    assert data.start.tolist() == [0, 4, 6] and data.length.tolist() == LENGTHS
    for (state, obs, action, reward), start, length, ended in zip(
        episodes(LENGTHS), data.start, LENGTHS, TERMINATED, strict=True
    ):
        rows = slice(start, start + length + 1)
        np.testing.assert_array_equal(data.state[rows], state)
        np.testing.assert_array_equal(data.obs[rows], obs)
        np.testing.assert_array_equal(data.action[rows], np.concatenate([action, np.zeros((1, AGENTS, ACTIONS))]))
        np.testing.assert_array_equal(data.reward[rows], np.concatenate([reward, np.zeros((1, AGENTS))]))
        assert data.mask[rows].tolist() == [True] * length + [False]
        assert data.terminated[rows].tolist() == [False] * (length - 1) + [ended, False]
        assert data.truncated[rows].tolist() == [False] * (length - 1) + [not ended, False]
    assert step_rows(data).tolist() == data.mask.tolist()
    for name, (dtype, _) in LEAVES.items():
        assert getattr(data, name).dtype == dtype


def test_unknown_final_observation_is_repeated_and_masked_unless_terminated():
    data, known = make(LENGTHS, TERMINATED, final=False), make(LENGTHS, TERMINATED)
    assert data.mask.tolist() == [True] * 3 + [False] + [False, False] + [True] * 4 + [False] * 2
    last = data.start + data.length
    np.testing.assert_array_equal(data.obs[last], data.obs[last - 1])
    np.testing.assert_array_equal(data.state[last], data.state[last - 1])
    assert (known.obs[last] != known.obs[last - 1]).all()
    np.testing.assert_array_equal(episode_returns(data), episode_returns(known))  # rewards stay
    np.testing.assert_array_equal(data.reward, known.reward)


def test_state_by_default_is_what_agents_see_without_padding():
    mask = np.array([[True, True, True], [True, False, False]])
    data = make([2], [True], state=None, obs_mask=mask)
    assert data.state_size == 4 and not data.obs[:, 1, 1:].any()
    np.testing.assert_array_equal(data.state, np.concatenate([data.obs[:, 0], data.obs[:, 1, :1]], axis=1))


def test_windows_are_slices_and_never_cross_an_episode():
    data = make(LENGTHS, TERMINATED)
    episode = np.repeat(np.arange(3), data.length + 1)
    for length in (1, 2, 4, 14):
        got = jax.jit(windows, static_argnums=2)(data, jnp.arange(12), length)
        for start, i in itertools.product(range(12), range(length)):
            row = start + i
            within = row < 12 and episode[row] == episode[start] and data.mask[row]
            assert bool(got.mask[start, i]) == within, (length, start, i)
            if within:
                for name in ("state", "obs", "action", "reward", "terminated", "truncated"):
                    np.testing.assert_array_equal(getattr(got, name)[start, i], getattr(data, name)[row])
    np.testing.assert_allclose(team_reward(got)[0, :3], data.reward[:3].mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize(("length", "stride"), [*itertools.product((1, 3, 5), (1, 2, 7))])
def test_window_starts_against_a_loop(length, stride, final):
    data = make([3, 1, 6, 5], [True, False, True, False], final=final)
    usable = [3, 1, 6, 5] if final else [3, 0, 6, 4]
    expected = []
    for start, count in zip(data.start, usable, strict=True):
        if count >= length:
            inside = set(range(0, count - length + 1, stride)) | {count - length}
            expected += [int(start) + i for i in sorted(inside)]
    starts = window_starts(data, length, stride)
    assert starts.tolist() == expected and starts.dtype == np.int32
    assert windows(data, starts, length).mask.all()
    if final:  # and the row after is the same episode's, to bootstrap from
        after = windows(data, starts, length + 1)
        assert after.mask[:, :length].all()
        np.testing.assert_array_equal(after.obs[:, -1], data.obs[starts + length])


def test_window_too_long():
    data = make(LENGTHS, TERMINATED)
    with pytest.raises(ValueError, match="length is 6; allowed: at most 5, the transitions of the longest episode"):
        window_starts(data, 6)
    with pytest.raises(ValueError, match="at most 4"):
        window_starts(make(LENGTHS, TERMINATED, final=False), 5)
    with pytest.raises(ValueError, match="stride is 0"):
        window_starts(data, 1, 0)
    with pytest.raises(ValueError, match="length is 0"):
        windows(data, jnp.zeros(1, jnp.int32), 0)


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_statistics_in_float64_over_steps(monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    parts = episodes([4, 6])
    obs = np.concatenate([e[1] for e in parts])
    obs[:, 0, 0], obs[:, 1, 1], obs[:, 1, 0] = 0.1, np.arange(12) % 3 - 1, 1e6 + obs[:, 1, 0]
    cut = np.array([0, 1, 2, 3, 5, 6, 7, 8, 9, 10])
    data = make([4, 6], [True, False], obs=obs[cut], final_obs=np.full((2, AGENTS, OBS), 1e9, np.float32))
    got = statistics(data).obs  # the final observations do not count
    wide = obs[cut].astype(np.float64)
    np.testing.assert_array_equal(got.mean, np.where(got.constant, np.float32(0.1), wide.mean(0).astype(np.float32)))
    np.testing.assert_allclose(got.std, wide.std(axis=0), rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(got.min, obs[cut].min(axis=0))
    np.testing.assert_array_equal(got.max, obs[cut].max(axis=0))
    assert np.argwhere(got.constant).tolist() == [[0, 0]] and got.std[0, 0] == 0
    assert np.argwhere(got.discrete).tolist() == [[1, 1]]


def test_split_by_episode_keeps_each_episode_whole_and_once():
    data = make([1, 2, 3, 4, 5], [True] * 5)
    first, second = split(data, 0.6, seed=1)
    assert first.num_episodes == 3 and sorted([*first.length, *second.length]) == [1, 2, 3, 4, 5]
    for part in (first, second):
        check(part)
        for start, length in zip(part.start, part.length, strict=True):
            old = data.start[length - 1]
            np.testing.assert_array_equal(part.obs[start : start + length + 1], data.obs[old : old + length + 1])
    assert split(data, 0.6, seed=1)[0].length.tolist() == first.length.tolist()
    assert any(split(data, 0.6, seed=s)[0].length.tolist() != first.length.tolist() for s in range(5))
    assert split(data, 0.01)[0].num_episodes == 1 and split(data, 0.99)[1].num_episodes == 1
    with pytest.raises(ValueError, match="fraction is 1.0"):
        split(data, 1.0)
    with pytest.raises(ValueError, match="has 1 episode"):
        split(take_episodes(data, [0]), 0.5)


def test_subsample_and_merge():
    data = make([1, 2, 3, 4, 5], [True] * 5)
    some = subsample(data, episodes=3, seed=2)
    assert some.num_episodes == 3 and (np.diff(some.length) > 0).all()  # in their old order
    for wanted in (1, 7, 15):
        least = subsample(data, transitions=wanted, seed=2)
        assert least.num_transitions >= wanted
        assert least.num_transitions - least.length.max() < wanted
    both = merge([some, replace(data, provenance={"name": "all"})])
    check(both)
    assert both.length.tolist() == [*some.length, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(both.obs, np.concatenate([some.obs, data.obs]))
    assert both.provenance["of"][1] == {"name": "all"} and both.provenance["of"][0]["episodes"] == 3
    for bad in ({}, {"episodes": 1, "transitions": 1}, {"episodes": 6}, {"transitions": 16}):
        with pytest.raises(ValueError, match="allowed"):
            subsample(data, **bad)
    with pytest.raises(DataError, match=r"dataset 1: state: expected rows of shape \[4\].*found \[6\]"):
        merge([data, make([2], [True], state=None)])
    with pytest.raises(ValueError, match="episodes holds 0 to 5"):
        take_episodes(data, [0, 5])


def test_provenance_neither_compiles_anew_nor_comes_out_of_a_program():
    traces = []

    @jax.jit
    def shift(data):
        traces.append(1)
        return replace(data, obs=data.obs + 1)

    data = to_device(replace(make(LENGTHS, TERMINATED), provenance={"seed": 1}))
    assert isinstance(data.obs, jax.Array) and data.provenance == {"seed": 1}
    out = shift(data)
    shift(replace(data, provenance={"seed": [2]}))
    assert len(traces) == 1 and out.provenance == {}


@pytest.mark.parametrize(
    ("leaf", "change", "message"),
    [
        ("obs", lambda x: x.astype(np.float64), r"obs: expected float32\[R, N, O\], found float64\[12, 2, 3\]"),
        ("action", lambda x: x[:-1], r"action: expected float32\[12, 2, A\]"),
        ("obs_mask", lambda x: x[:, :1], r"obs_mask: expected bool\[2, 3\]"),
        ("start", lambda x: x + 1, "start: expected episodes side by side in 12 rows"),
        ("terminated", lambda x: ~x, "terminated: expected one of terminated and truncated"),
        ("mask", lambda x: np.ones_like(x), "mask: expected False on each episode's last row"),
        ("mask", lambda x: x & (np.arange(12) != 1), "mask: .* True up to some row"),
        ("reward", lambda x: x + 1, "reward: expected 0 on each episode's last row"),
        ("state", lambda x: np.where(np.arange(48).reshape(12, 4) == 6, np.nan, x), r"state: .* found nan at \[1, 2\]"),
        ("obs", lambda x: np.where(np.arange(72).reshape(12, 2, 3) == 70, np.inf, x), r"found inf at \[11, 1, 1\]"),
    ],
)
def test_check_names_the_leaf(monkeypatch, leaf, change, message):
    monkeypatch.setattr(module, "CHUNK", 5)
    data = make(LENGTHS, TERMINATED)
    with pytest.raises(DataError, match=message):
        check(replace(data, **{leaf: change(getattr(data, leaf))}))


def test_from_transitions_names_what_does_not_fit():
    with pytest.raises(DataError, match=r"reward: expected shape \[3, 2\], found \[2, 2\]"):
        make([3], [True], reward=np.zeros((2, 2)))
    with pytest.raises(DataError, match="length: expected at least one episode"):
        make([3, 0], [True, True])
    with pytest.raises(DataError, match=r"final_obs|obs: expected shape \[1, 2, 3\]"):
        make([3], [True], final_obs=np.zeros((1, 2, 4)))

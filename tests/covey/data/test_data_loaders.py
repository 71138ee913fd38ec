"""Loaders on tiny files in each project's own layout, written here with tensorstore, h5py and NumPy directly."""

import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorstore as ts

from covey.data import DataError, check, detect, load_madiff, load_minari, load_omar, load_omiga, load_vault, read

AGENTS, OBS, ACTIONS, STATE = 2, 3, 2, 4


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rows_of(data, episode):
    """First row and number of transitions."""
    return int(data.start[episode]), int(data.length[episode])


# --- Flashbax vaults ---


def write_vault(path: Path, arrays: dict, index: int | None = None) -> None:
    """As flashbax does: a zarr array per leaf in an OCDBT store, its time axis declared 1e13 long; and metadata."""

    def spec(name):
        return {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": f"file://{path}", "path": name},
            "metadata": {},
        }

    path.mkdir(parents=True)
    steps = next(iter(arrays.values())).shape[1]
    shapes, dtypes = {}, {}
    for name, x in arrays.items():
        *parents, last = name.split(".")
        for tree, value in ((shapes, str(x.shape)), (dtypes, x.dtype.name)):
            for parent in parents:
                tree = tree.setdefault(parent, {})
            tree[last] = value
        one = spec(f"{name}.")
        one["metadata"]["compressor"] = {"id": "gzip", "level": 5}
        chunks = ts.ChunkLayout(chunk_shape=(1, 64, *x.shape[2:]))
        shape = (x.shape[0], int(10e12), *x.shape[2:])
        store = ts.open(one, shape=shape, dtype=x.dtype, chunk_layout=chunks, create=True).result()
        store[:, :steps].write(x).result()
    store = ts.open(spec("vault_index"), shape=(1,), dtype=np.int32, create=True).result()
    store.write(np.array([steps if index is None else index], np.int32)).result()
    about = {"version": 1.2, "structure_shape": shapes, "structure_dtype": dtypes, "algorithm": "matd3"}
    (path / "metadata.json").write_text(json.dumps(about))


def vault_arrays(streams=1):
    """Episodes of 4 (terminal), 5 (truncated) and 3 steps (the data end), in each stream; 12 steps of 16 are valid."""
    arrays = {
        "observations": random(streams, 16, AGENTS, OBS),
        "actions": random(streams, 16, AGENTS, ACTIONS, seed=1),
        "rewards": random(streams, 16, AGENTS, seed=2),
        "terminals": np.zeros((streams, 16, AGENTS), np.float32),
        "truncations": np.zeros((streams, 16, AGENTS), np.float32),
        "infos.state": random(streams, 16, STATE, seed=3),
    }
    arrays["terminals"][:, 3], arrays["truncations"][:, 8] = 1, 1
    arrays["terminals"][:, 6, 0] = 1  # of one agent alone: the episode goes on
    return arrays


@pytest.mark.parametrize("streams", [1, 3])
def test_vault(tmp_path, streams):
    arrays = vault_arrays(streams)
    path = tmp_path / "2halfcheetah.vlt" / "Good"
    write_vault(path, arrays, index=12)
    data = load_vault(tmp_path / "2halfcheetah.vlt")
    assert data.length.tolist() == [4, 5, 3] * streams
    for e in range(3 * streams):
        stream, part = divmod(e, 3)
        begin, steps = [(0, 4), (4, 5), (9, 3)][part]
        row, length = rows_of(data, e)
        assert length == steps
        for leaf, name in (
            ("obs", "observations"),
            ("action", "actions"),
            ("reward", "rewards"),
            ("state", "infos.state"),
        ):
            stored = getattr(data, leaf)[row : row + steps]
            np.testing.assert_array_equal(stored, arrays[name][stream, begin : begin + steps], leaf)
        np.testing.assert_array_equal(data.obs[row + steps], data.obs[row + steps - 1])
        assert data.terminated[row + steps - 1] == (part == 0) and data.truncated[row + steps - 1] == (part != 0)
        assert data.mask[row : row + steps + 1].tolist() == [True] * (steps - 1) + [part == 0, False]
    assert data.provenance["metadata"] == {"version": 1.2, "algorithm": "matd3"}
    assert data.provenance["vault"] == "2halfcheetah.vlt" and str(tmp_path) not in json.dumps(dict(data.provenance))


def test_vault_with_time_limits_flagged_as_terminals_discrete_actions_and_no_state(tmp_path):
    arrays = vault_arrays()
    arrays["terminals"][:, 8], arrays["actions"] = 1, np.arange(32, dtype=np.int32).reshape(1, 16, 2)
    del arrays["infos.state"], arrays["truncations"]
    write_vault(tmp_path / "v", arrays)
    as_flagged, limited = load_vault(tmp_path / "v"), load_vault(tmp_path / "v", time_limit=7)
    assert as_flagged.length.tolist() == [4, 5, 7]
    assert as_flagged.terminated[as_flagged.start + as_flagged.length - 1].tolist() == [True, True, False]
    assert limited.terminated.sum() == 2
    assert load_vault(tmp_path / "v", time_limit=7).truncated.sum() == 1
    assert as_flagged.action.shape == (19, 2, 1) and as_flagged.state_size == AGENTS * OBS
    with pytest.raises(
        DataError, match=r"terminals: expected at most 5 transitions per episode .* found 7 in episode 2"
    ):
        load_vault(tmp_path / "v", time_limit=5)


def test_vault_errors(tmp_path):
    write_vault(tmp_path / "a" / "Good", vault_arrays())
    write_vault(tmp_path / "a" / "Poor", vault_arrays())
    with pytest.raises(DataError, match="expected one vault here or below, found Good, Poor"):
        load_vault(tmp_path / "a")
    with pytest.raises(DataError, match="expected one vault here or below, found none"):
        load_vault(tmp_path / "b")
    arrays = vault_arrays()
    arrays["rewards"] = arrays["rewards"][..., None]
    write_vault(tmp_path / "c", arrays)
    with pytest.raises(
        DataError, match=r"rewards: expected numbers of shape \[1, 16, 2\], found float32\[1, 16, 2, 1\]"
    ):
        load_vault(tmp_path / "c")
    arrays = vault_arrays()
    arrays["actions"][0, 5, 1, 0] = np.nan
    write_vault(tmp_path / "d", arrays)
    with pytest.raises(DataError, match=r"actions: expected finite numbers, found nan at \[5, 1, 0\]"):
        load_vault(tmp_path / "d")
    arrays = vault_arrays()
    del arrays["terminals"]
    write_vault(tmp_path / "e", arrays)
    with pytest.raises(DataError, match="metadata.json: structure_shape: expected the leaf terminals"):
        load_vault(tmp_path / "e")
    good = tmp_path / "a" / "Good"
    for file in good.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(
        DataError, match="expected a zarr array in an OCDBT store, found none that can be read"
    ) as error:
        load_vault(good)
    assert "\n" not in str(error.value)
    (good / "manifest.ocdbt").unlink()
    with pytest.raises(DataError, match="vault_index: expected a zarr array"):
        load_vault(good)


# --- OMIGA ---


def omiga_arrays(rows=13):
    """Episodes of 3 steps, 6 steps (the limit) and 1 step; each has a row more, with d = 1."""
    d = np.zeros((rows, 1), bool)
    d[[3, 10, 12]] = True
    ids = np.tile(np.eye(AGENTS, dtype=np.float32), (rows, 1, 1))
    state = np.repeat(random(rows, 1, STATE), AGENTS, axis=1)
    arrays = {"s": np.concatenate([state, ids], axis=-1), "o": random(rows, AGENTS, OBS, seed=1)}
    return arrays | {"a": 2 * random(rows, AGENTS, ACTIONS, seed=2), "r": random(rows, 1, seed=3), "d": d}


def write_hdf5(path: Path, arrays: dict) -> Path:
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            file[name] = x
    return path


def test_omiga(tmp_path):
    arrays = omiga_arrays()
    data = load_omiga(write_hdf5(tmp_path / "HalfCheetah-v2-2x3-expert.hdf5", arrays), time_limit=6)
    # Rows are kept as they are: an episode's last row is its row with d = 1, only without action and reward.
    assert data.length.tolist() == [3, 6, 1] and data.num_rows == 13
    np.testing.assert_array_equal(data.obs, arrays["o"])
    np.testing.assert_array_equal(data.state, arrays["s"][:, 0])
    step = ~arrays["d"][:, 0]
    np.testing.assert_array_equal(data.action[step], np.clip(arrays["a"][step], -1, 1))
    assert np.abs(arrays["a"]).max() > 1 and not data.action[~step].any()
    np.testing.assert_array_equal(data.reward[step], np.repeat(arrays["r"][step], AGENTS, axis=1))
    np.testing.assert_array_equal(data.mask, step)
    assert np.flatnonzero(data.terminated).tolist() == [2, 11] and np.flatnonzero(data.truncated).tolist() == [9]


def test_omiga_flags_as_they_are_and_an_episode_cut_by_the_file(tmp_path):
    arrays = {name: x[:9] for name, x in omiga_arrays().items()}
    data = load_omiga(write_hdf5(tmp_path / "a.hdf5", arrays), time_limit=None, clip=None)
    assert data.length.tolist() == [3, 4]  # the file's last row is what was seen after the last step
    assert np.flatnonzero(data.terminated).tolist() == [2] and np.flatnonzero(data.truncated).tolist() == [7]
    assert data.mask[7] and not data.mask[8]
    np.testing.assert_array_equal(data.action[~np.isin(np.arange(9), [3, 8])], arrays["a"][[0, 1, 2, 4, 5, 6, 7]])


def test_omiga_leaves_out_an_episode_of_one_row(tmp_path):
    arrays = {name: x[:12] for name, x in omiga_arrays().items()}
    data = load_omiga(write_hdf5(tmp_path / "a.hdf5", arrays), time_limit=6)
    assert data.length.tolist() == [3, 6]
    np.testing.assert_array_equal(data.obs, arrays["o"][:11])


def test_omiga_errors(tmp_path):
    good = omiga_arrays()
    cases = {
        "r: expected an array of this name": {k: v for k, v in good.items() if k != "r"},
        r"a: expected numbers of shape \[13, 2, A\], found float32\[12, 2, 2\]": good | {"a": good["a"][:-1]},
        r"d: expected at least one row with d = 0 before each end, found none before row 3": good
        | {"d": good["d"] | (np.arange(13) == 2)[:, None]},
        "d: expected 0 and 1 alone": good | {"d": good["d"] * 0.5},
        r"o: expected finite numbers, found nan at \[4, 0, 0\]": good
        | {"o": np.where(np.arange(78).reshape(13, 2, 3) == 30, np.nan, good["o"])},
        "d: expected at most 5 transitions per episode": good,
    }
    for i, (message, arrays) in enumerate(cases.items()):
        file = write_hdf5(tmp_path / f"{i}.hdf5", arrays)
        with pytest.raises(DataError, match=message) as error:
            load_omiga(file, time_limit=5 if "at most 5" in message else 6)
        assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)
    os.truncate(file, 3000)
    with pytest.raises(DataError, match="expected a whole HDF5 file"):
        load_omiga(file)
    with pytest.raises(DataError, match="expected a whole HDF5 file"):
        load_omiga(tmp_path / "absent.hdf5")


# --- OMAR and MADiff ---


def write_omar(folder: Path, seed=0, states=False, lengths=(4, 3, 4), done=(0, 1, 0), sizes=(3, 2)) -> dict:
    """Agents of unequal sizes; what follows a step is the next row's, but at an episode's end."""
    folder.mkdir(parents=True)
    steps, last = sum(lengths), np.cumsum(lengths) - 1
    flags = np.zeros(steps)
    flags[last] = done
    written = {"dones": flags}

    def write(name, values):
        written[name] = values
        np.save(folder / f"{name}.npy", values)

    for i, size in enumerate(sizes):
        obs = random(steps, size, seed=10 * seed + i)
        following = np.concatenate([obs[1:], obs[:1]])
        following[last] = random(len(last), size, seed=10 * seed + i + 5)
        for name, x in (("obs", obs), ("next_obs", following), ("acs", random(steps, size - 1, seed=i + 20))):
            write(f"{name}_{i}", x)
        write(f"rews_{i}", random(steps, seed=i + 30))
        np.save(folder / f"dones_{i}.npy", flags)
        if states:
            state = random(steps, STATE, seed=40)
            following = np.concatenate([state[1:], state[:1]])
            following[last] += 1
            write(f"states_{i}", state)
            write(f"next_states_{i}", following)
    return written


def test_omar(tmp_path):
    written = write_omar(tmp_path / "expert" / "seed_0_data", states=True)
    data = load_omar(tmp_path / "expert")
    assert data.length.tolist() == [4, 3, 4]
    assert data.obs_mask.tolist() == [[True] * 3, [True, True, False]]
    assert data.action_mask.tolist() == [[True] * 2, [True, False]]
    step = np.ones(14, bool)
    step[data.start + data.length] = False
    last = np.cumsum(data.length) - 1
    for i, size in enumerate((3, 2)):
        np.testing.assert_array_equal(data.obs[step, i, :size], written[f"obs_{i}"])
        np.testing.assert_array_equal(data.obs[~step, i, :size], written[f"next_obs_{i}"][last])
        np.testing.assert_array_equal(data.action[step, i, : size - 1], written[f"acs_{i}"])
        np.testing.assert_array_equal(data.reward[step, i], written[f"rews_{i}"])
    assert not data.obs[:, 1, 2].any() and not data.action[:, 1, 1].any()
    np.testing.assert_array_equal(data.state[step], written["states_0"])
    np.testing.assert_array_equal(data.state[~step], written["next_states_0"][last])
    np.testing.assert_array_equal(data.mask, step)
    assert np.flatnonzero(data.terminated).tolist() == [data.start[1] + 2]


def test_omar_several_seeds_and_limits_flagged_as_done(tmp_path):
    for seed in (10, 2):
        write_omar(tmp_path / f"seed_{seed}_data", seed, done=(1, 1, 1))
    data = load_omar(tmp_path, time_limit=4)
    assert data.length.tolist() == [4, 3, 4] * 2 and data.terminated.sum() == 2 and data.truncated.sum() == 4
    assert data.provenance["of"][0]["name"] == "seed_2_data"
    np.testing.assert_array_equal(data.state[:4], np.concatenate([data.obs[:4, 0], data.obs[:4, 1, :2]], axis=1))


def write_madiff(folder: Path, **changes) -> dict:
    folder.mkdir(parents=True)
    arrays = {"obs": random(9, AGENTS, OBS), "actions": random(9, AGENTS, ACTIONS, seed=1)}
    arrays |= {"rewards": random(9, AGENTS, seed=2), "path_lengths": np.array([5, 4])} | changes
    for name, x in arrays.items():
        np.save(folder / f"{name}.npy", x)
    return arrays


def test_madiff(tmp_path):
    arrays = write_madiff(tmp_path / "Good")
    data = load_madiff(tmp_path / "Good", time_limit=5)
    assert data.length.tolist() == [5, 4]
    step = ~np.isin(np.arange(11), [5, 10])
    for leaf, name in (("obs", "obs"), ("action", "actions"), ("reward", "rewards")):
        np.testing.assert_array_equal(getattr(data, leaf)[step], arrays[name])
    assert np.flatnonzero(data.truncated).tolist() == [4] and np.flatnonzero(data.terminated).tolist() == [9]
    assert np.flatnonzero(~data.mask).tolist() == [4, 5, 10]
    discounts = np.ones((9, AGENTS))
    discounts[4] = 0
    write_madiff(tmp_path / "Poor", discounts=discounts, states=random(9, STATE))
    data = load_madiff(tmp_path / "Poor")
    assert np.flatnonzero(data.terminated).tolist() == [4] and data.state_size == STATE


def test_npy_errors(tmp_path):
    write_madiff(tmp_path / "a", path_lengths=np.array([5, 5]))
    with pytest.raises(DataError, match="path_lengths.npy: path_lengths: expected lengths .* sum to 9"):
        load_madiff(tmp_path / "a")
    write_madiff(tmp_path / "b", rewards=random(8, AGENTS))
    with pytest.raises(
        DataError, match=r"rewards.npy: rewards: expected numbers of shape \[9, 2\], found float32\[8, 2\]"
    ):
        load_madiff(tmp_path / "b")
    write_madiff(tmp_path / "c", obs=np.array(["x"] * 3))
    with pytest.raises(DataError, match="obs.npy: obs: expected numbers"):
        load_madiff(tmp_path / "c")
    write_omar(tmp_path / "d")
    (tmp_path / "d" / "acs_1.npy").unlink()
    with pytest.raises(DataError, match="acs_1.npy: acs: cannot be read: No such file"):
        load_omar(tmp_path / "d")
    write_omar(tmp_path / "e")
    os.truncate(tmp_path / "e" / "rews_0.npy", 140)
    with pytest.raises(DataError, match="rews_0.npy: rews: expected a whole .npy file"):
        load_omar(tmp_path / "e")
    np.save(tmp_path / "d" / "acs_1.npy", np.array([{}], object))
    with pytest.raises(DataError, match="acs_1.npy: acs: expected a whole .npy file"):
        load_omar(tmp_path / "d")


# --- Minari ---


def write_minari(folder: Path, lengths=(4, 2), nested=True, **metadata) -> None:
    """Agents "agent_2" and "agent_10", the first's observation a dictionary; a state in infos."""
    folder.mkdir(parents=True)
    with h5py.File(folder / "main_data.hdf5", "w", track_order=True) as file:
        for k, steps in enumerate(lengths):
            group = file.create_group(f"episode_{k}")
            group.attrs["total_steps"] = steps
            for name, rows, base in (("observations", steps + 1, 0), ("actions", steps, 1000)):
                where = np.arange(rows, dtype=np.float64)[:, None] + base + 100 * k
                if nested:
                    group[f"{name}/agent_10"] = where + 0.5
                    if name == "observations":
                        group["observations/agent_2/arm"] = where + np.array([0.1, 0.2])
                        group["observations/agent_2/leg"] = where[:, 0] + 0.3
                    else:
                        group["actions/agent_2"] = where + np.array([0.1, 0.2])
                else:
                    group[name] = where
            group["rewards"] = np.arange(steps) + 0.25
            group["terminations"] = np.arange(steps) == (steps - 1 if k == 0 else -1)
            group["truncations"] = np.arange(steps) == (steps - 1 if k == 1 else -1)
            group["infos/state"] = np.arange(2 * (steps + 1)).reshape(-1, 2) + 7.0
    about = {
        "total_episodes": len(lengths),
        "total_steps": sum(lengths),
        "data_format": "hdf5",
        "dataset_id": "toy/a-v0",
    }
    (folder / "metadata.json").write_text(json.dumps(about | metadata))


def test_minari(tmp_path):
    write_minari(tmp_path / "toy" / "data")
    data = load_minari(tmp_path / "toy")
    assert data.length.tolist() == [4, 2] and data.provenance["agents"] == ["agent_2", "agent_10"]
    time = np.concatenate([np.arange(5), np.arange(3) + 100.0]).astype(np.float32)
    expected = np.zeros((8, 2, 3), np.float32)
    expected[:, 0] = time[:, None] + np.array([0.1, 0.2, 0.3])
    expected[:, 1, 0] = time + 0.5
    np.testing.assert_allclose(data.obs, expected, rtol=1e-6)
    step = data.mask
    assert step.tolist() == [True] * 4 + [False] + [True] * 2 + [False]
    np.testing.assert_allclose(data.action[step, 0], (time[step, None] + np.array([1000.1, 1000.2])), rtol=1e-6)
    np.testing.assert_allclose(data.action[step, 1, 0], time[step] + 1000.5, rtol=1e-6)
    assert data.action_mask.tolist() == [[True, True], [True, False]]
    assert data.obs_mask.tolist() == [[True] * 3, [True, False, False]]
    np.testing.assert_array_equal(data.reward[step], np.tile([[0.25, 1.25, 2.25, 3.25, 0.25, 1.25]], (2, 1)).T)
    assert np.flatnonzero(data.terminated).tolist() == [3] and np.flatnonzero(data.truncated).tolist() == [6]
    np.testing.assert_array_equal(data.state[:5], np.arange(10).reshape(5, 2) + 7)
    np.testing.assert_array_equal(load_minari(tmp_path / "toy/data/main_data.hdf5").obs, data.obs)
    write_minari(tmp_path / "single" / "data", nested=False)
    single = load_minari(tmp_path / "single")
    assert (single.num_agents, single.obs_size, single.action_size) == (1, 1, 1)


def test_more_than_ten_minari_episodes_stay_in_order(tmp_path):
    write_minari(tmp_path / "data", lengths=tuple(range(1, 13)))
    assert load_minari(tmp_path).length.tolist() == list(range(1, 13))


def test_minari_errors(tmp_path):
    write_minari(tmp_path / "a", total_steps=7)
    with pytest.raises(DataError, match="total_steps: expected 7, as metadata.json says, found 6"):
        load_minari(tmp_path / "a")
    write_minari(tmp_path / "b", data_format="arrow")
    with pytest.raises(DataError, match="data_format: expected 'hdf5', found 'arrow'"):
        load_minari(tmp_path / "b")

    def change(name, edit):
        write_minari(tmp_path / name)
        with h5py.File(tmp_path / name / "main_data.hdf5", "a") as file:
            edit(file["episode_1"])
        return tmp_path / name

    def put(leaf, values):
        def edit(group):
            del group[leaf]
            if values is not None:
                group[leaf] = values

        return edit

    cases = [
        (put("observations/agent_10", np.zeros((2, 1))), r"episode_1/observations/agent_10: .* shape \[3, 1\]"),
        (put("observations/agent_10", np.zeros((3, 2))), r"episode_1/observations: expected sizes \[3, 1\]"),
        (put("observations/agent_10", None), "episode_1/observations: expected a member for each of"),
        (put("rewards", None), "episode_1/rewards: expected an array or a group"),
        (put("rewards", np.zeros((2, 3))), "episode_1/rewards: expected 1 or 2 columns, found 3"),
        (put("rewards", np.array([0, np.nan])), "rewards: expected finite numbers"),
        (put("truncations", np.array([True, True])), "episode_1/truncations: expected False before the last step"),
        (put("infos/state", None), "episode_1/infos/state: expected an array in all episodes or in none"),
    ]
    for i, (edit, message) in enumerate(cases):
        with pytest.raises(DataError, match=message):
            load_minari(change(f"c{i}", edit))
    os.truncate(tmp_path / "a" / "main_data.hdf5", 2000)
    with pytest.raises(DataError, match="main_data.hdf5: content: expected a whole HDF5 file"):
        load_minari(tmp_path / "a")


# --- Telling them apart ---


def test_formats_are_told_by_their_files(tmp_path):
    write_vault(tmp_path / "vault.vlt" / "Good", vault_arrays())
    write_omar(tmp_path / "omar" / "seed_3_data")
    write_madiff(tmp_path / "madiff")
    write_minari(tmp_path / "minari" / "data")
    omiga = write_hdf5(tmp_path / "omiga.hdf5", omiga_arrays())
    expected = {
        "vault.vlt": "vault", "vault.vlt/Good": "vault", "omar": "omar", "omar/seed_3_data": "omar", "madiff": "madiff",
        "minari": "minari", "minari/data": "minari", "minari/data/main_data.hdf5": "minari", "omiga.hdf5": "omiga",
    }  # fmt: skip
    for name, format in expected.items():
        assert detect(tmp_path / name) == format, name
        check(read(tmp_path / name))
    assert read(omiga, time_limit=6).truncated.sum() == 1  # options go through
    with pytest.raises(ValueError, match="format is 'zip'; allowed: covey, vault"):
        read(omiga, "zip")
    with pytest.raises(DataError, match="expected a file or folder, found nothing"):
        read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="format: expected one of covey, vault"):
        read(tmp_path / "empty")
    with pytest.raises(DataError, match="found \\['x'\\]"):
        read(write_hdf5(tmp_path / "x.hdf5", {"x": np.zeros(3)}))
    with pytest.raises(DataError, match="vault_index|metadata.json|one vault"):
        read(tmp_path / "madiff", "vault")


@pytest.mark.parametrize("package", ["h5py", "tensorstore"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package):
    write_vault(tmp_path / "v", vault_arrays())
    file = write_hdf5(tmp_path / "a.hdf5", omiga_arrays())
    monkeypatch.setitem(sys.modules, package, None)  # makes importing it fail
    with pytest.raises(DataError, match=rf"needs {package}; pip install 'covey\[data\]'"):
        read(file if package == "h5py" else tmp_path / "v")

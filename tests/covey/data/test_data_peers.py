"""Files that Flashbax and Minari themselves write. Skipped where they are not installed:

pip install --no-deps --target PEERS flashbax minari && PYTHONPATH=PEERS pytest tests/covey/data/test_data_peers.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.data import detect, read, step_rows


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_vault_by_flashbax(tmp_path, monkeypatch):
    fbx = pytest.importorskip("flashbax")
    monkeypatch.setattr(jax, "tree_map", jax.tree.map, raising=False)  # Flashbax uses it, JAX has it no more
    monkeypatch.chdir(tmp_path)
    from flashbax.vault import Vault

    shapes = {"observations": (2, 3), "actions": (2, 2), "rewards": (2,), "terminals": (2,), "truncations": (2,)}
    data = {name: random(1, 37, *shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    data |= {"infos": {"state": random(1, 37, 4, seed=9)}}
    for name, row in (("terminals", 9), ("truncations", 29)):
        data[name][:] = 0
        data[name][:, row] = 1
    sizes = {"add_batch_size": 1, "sample_batch_size": 1, "sample_sequence_length": 1, "period": 1}
    buffer = fbx.make_trajectory_buffer(**sizes, min_length_time_axis=1, max_length_time_axis=200)
    state = buffer.init(jax.tree.map(lambda x: jnp.zeros(x.shape[2:]), data))
    state = buffer.add(state, jax.tree.map(jnp.asarray, data))
    Vault("2halfcheetah.vlt", state.experience, rel_dir="vaults", vault_uid="Good").write(state)

    path = tmp_path / "vaults" / "2halfcheetah.vlt"
    loaded = read(path)
    assert detect(path) == "vault" and loaded.length.tolist() == [10, 20, 7]
    assert (loaded.terminated.sum(), loaded.truncated.sum()) == (1, 2)
    step = step_rows(loaded)
    for leaf, name in (("obs", "observations"), ("action", "actions"), ("reward", "rewards")):
        np.testing.assert_array_equal(getattr(loaded, leaf)[step], data[name][0])
    np.testing.assert_array_equal(loaded.state[step], data["infos"]["state"][0])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dataset_by_minari(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    second = Dict({"a": Box(-9, 9, (2,)), "b": Box(-9, 9, (1,))})
    spaces = {
        "observation_space": Dict({"agent_0": Box(-9, 9, (3,)), "agent_1": second}),
        "action_space": Dict({"agent_0": Box(-1, 1, (2,)), "agent_1": Box(-1, 1, (1,))}),
    }
    buffers = [
        EpisodeBuffer(
            observations={"agent_0": random(t + 1, 3), "agent_1": {"a": random(t + 1, 2), "b": random(t + 1, 1)}},
            actions={"agent_0": random(t, 2), "agent_1": random(t, 1)},
            rewards=list(range(t)),
            terminations=[False] * (t - 1) + [t == 4],
            truncations=[False] * (t - 1) + [t == 3],
            infos={"state": random(t + 1, 5)},
        )
        for t in (4, 3)
    ]
    minari.create_dataset_from_buffers("toy/walk-v0", buffers, algorithm_name="random", **spaces)

    loaded = read(tmp_path / "toy" / "walk-v0")
    assert detect(tmp_path / "toy" / "walk-v0") == "minari" and loaded.length.tolist() == [4, 3]
    assert loaded.action_mask.tolist() == [[True, True], [True, False]]
    for start, t in zip(loaded.start, (4, 3), strict=True):
        rows = slice(start, start + t + 1)
        np.testing.assert_array_equal(loaded.obs[rows, 0], random(t + 1, 3))
        np.testing.assert_array_equal(loaded.obs[rows, 1], np.concatenate([random(t + 1, 2), random(t + 1, 1)], axis=1))
        np.testing.assert_array_equal(loaded.action[rows, 0][:-1], random(t, 2))
        np.testing.assert_array_equal(loaded.state[rows], random(t + 1, 5))
        np.testing.assert_array_equal(loaded.reward[rows, 1], [*range(t), 0])
    assert np.flatnonzero(loaded.terminated).tolist() == [3] and np.flatnonzero(loaded.truncated).tolist() == [7]

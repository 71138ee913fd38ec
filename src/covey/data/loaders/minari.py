"""Minari datasets in HDF5: a folder `data` with `main_data.hdf5` and `metadata.json`.

    episode_<k>/observations (T + 1 rows), actions (T), rewards (T), terminations (T), truncations (T), infos (T + 1)

A dictionary space is a group with a member per key, a tuple space one with `_index_0`, `_index_1`, ... Where actions
are such a group, its members are the agents; what is below an agent is laid side by side. Source: Minari's HDF5
storage.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from covey.data.dataset import DataError, Dataset, wrong
from covey.data.loaders.common import apply_time_limit, build, check_shape, clip_actions, optional, stack_agents
from covey.data.storage import read_json

NAMES = {"state": "infos/state", "obs": "observations", "action": "actions", "reward": "rewards"}
COUNTS = ("total_episodes", "total_steps")


def load_minari(path: str | Path, *, time_limit: int | None = None, clip: float | None = None) -> Dataset:
    """A Minari dataset; `path` is its folder, the folder `data` in it, or the file `main_data.hdf5`.

    Agents are in natural order of their names ("agent_2" before "agent_10"). Rewards and flags may be one for all, a
    column or a group member for each agent; an episode ended by its rules if it did for all. The state is
    `infos/state` if there, else all observations. time_limit: in steps; episodes of that length are truncated even if
    flagged as terminations. clip: actions are clipped to [-clip, clip]. Discrete actions become one float.
    Raises DataError; needs h5py.
    """
    path = Path(path)
    candidates = (path / "data" / "main_data.hdf5", path / "main_data.hdf5", path)
    file_path = next((c for c in candidates if c.is_file()), None)
    if file_path is None:
        raise wrong(path, "data/main_data.hdf5", "a file", "none")
    metadata: dict[str, Any] = {}
    if (file_path.parent / "metadata.json").exists():
        metadata = read_json(file_path.parent / "metadata.json")
        if metadata.get("data_format", "hdf5") != "hdf5":
            raise wrong(file_path.parent / "metadata.json", "data_format", "'hdf5'", repr(metadata["data_format"]))
    h5py = optional("h5py", path)
    try:
        with h5py.File(file_path, "r") as file:
            names = sorted((n for n in file if re.fullmatch(r"episode_\d+", n)), key=_natural)
            if not names:
                raise wrong(file_path, "episode_0", "a group for each episode", f"only {sorted(file)[:5]}")
            episodes = [_Episode(h5py, file_path, name, file[name]) for name in names]
    except DataError:
        raise
    except (OSError, RuntimeError) as error:
        raise wrong(file_path, "content", "a whole HDF5 file", f"one that can't be read ({error})") from None

    length = np.array([len(e.reward) for e in episodes])
    for name, count in zip(COUNTS, (len(episodes), int(length.sum())), strict=True):
        if metadata.get(name, count) != count:
            raise wrong(file_path, name, f"{metadata[name]}, as metadata.json says", count)
    for e in episodes[1:]:
        for leaf in ("obs", "action"):
            sizes, first = ([x.shape[1] for x in getattr(one, leaf)] for one in (e, episodes[0]))
            if sizes != first:
                raise wrong(file_path, f"{e.name}/{NAMES[leaf]}", f"sizes {first} as in {names[0]}", sizes)
        if (e.state is None) != (episodes[0].state is None):
            raise wrong(file_path, f"{e.name}/infos/state", "an array in all episodes or in none", "it in some")

    agents = range(len(episodes[0].obs))
    obs, obs_mask = stack_agents([np.concatenate([e.obs[i][:-1] for e in episodes]) for i in agents])
    final_obs, _ = stack_agents([np.stack([e.obs[i][-1] for e in episodes]) for i in agents])
    action, action_mask = stack_agents([np.concatenate([e.action[i] for e in episodes]) for i in agents])
    states = [e.state for e in episodes if e.state is not None]
    terminated = np.array([e.terminated for e in episodes])
    about = {name: metadata.get(name) for name in ("dataset_id", "minari_version", "algorithm_name", "env_spec")}
    return build(
        file_path,
        NAMES,
        "minari",
        length,
        apply_time_limit(file_path, "terminations", length, terminated, time_limit),
        state=np.concatenate([s[:-1] for s in states]) if states else None,
        final_state=np.stack([s[-1] for s in states]) if states else None,
        obs=obs,
        final_obs=final_obs,
        action=clip_actions(action, clip),
        reward=np.concatenate([e.reward for e in episodes]),
        action_mask=action_mask,
        obs_mask=obs_mask,
        provenance={"agents": episodes[0].agents, "time_limit": time_limit, "clip": clip, "metadata": about},
    )


class _Episode:
    """One episode's arrays, checked: obs and action by agent, reward [T, N], terminated, state [T + 1, S] or None."""

    def __init__(self, h5py: Any, path: Path, name: str, group: Any) -> None:
        self.name = name

        def member(leaf: str) -> Any:
            if leaf not in group:
                raise wrong(path, f"{name}/{leaf}", "an array or a group of them", f"only {sorted(group)}")
            return group[leaf]

        def columns(leaf: str, node: Any, rows: int | str) -> np.ndarray:
            """All arrays at or below `node`, side by side, [rows, D]."""
            if isinstance(node, h5py.Dataset):
                array = node[()]
                shape = (rows, *array.shape[1:]) if array.ndim else (rows,)
                check_shape(path, f"{name}/{leaf}", array, shape)
                return array.reshape(len(array), -1)
            parts = [columns(f"{leaf}/{key}", node[key], rows) for key in sorted(node, key=_natural)]
            if not parts or len({len(p) for p in parts}) > 1:
                raise wrong(path, f"{name}/{leaf}", "arrays of equal length", [list(p.shape) for p in parts])
            return np.concatenate(parts, axis=1)

        actions, observations = member("actions"), member("observations")
        self.agents = None
        if isinstance(actions, h5py.Group):
            self.agents = sorted(actions, key=_natural)
            if not isinstance(observations, h5py.Group) or sorted(observations, key=_natural) != self.agents:
                found = sorted(observations) if isinstance(observations, h5py.Group) else "one array"
                raise wrong(path, f"{name}/observations", f"a member for each of {self.agents}", found)
            self.action = [columns(f"actions/{a}", actions[a], "T") for a in self.agents]
        else:
            self.action = [columns("actions", actions, "T")]
        steps, agents = len(self.action[0]), len(self.action)
        if any(len(a) != steps for a in self.action):
            raise wrong(path, f"{name}/actions", f"{steps} rows for each agent", [len(a) for a in self.action])
        nodes = [observations[a] for a in self.agents] if self.agents else [observations]
        labels = [f"observations/{a}" for a in self.agents] if self.agents else ["observations"]
        self.obs = [columns(label, node, steps + 1) for label, node in zip(labels, nodes, strict=True)]

        def per_agent(leaf: str) -> np.ndarray:
            array = columns(leaf, member(leaf), steps)
            if array.shape[1] not in (1, agents):
                raise wrong(path, f"{name}/{leaf}", f"1 or {agents} columns", array.shape[1])
            return array

        self.reward = np.broadcast_to(per_agent("rewards"), (steps, agents))
        ends = [np.all(per_agent(leaf), axis=1) for leaf in ("terminations", "truncations")]
        for leaf, flags in zip(("terminations", "truncations"), ends, strict=True):
            if flags[:-1].any():
                raise wrong(path, f"{name}/{leaf}", "False before the last step", f"True at step {int(flags.argmax())}")
        self.terminated = bool(ends[0][-1])
        infos = group.get("infos")
        has_state = isinstance(infos, h5py.Group) and "state" in infos
        self.state = columns("infos/state", infos["state"], steps + 1) if has_state else None


def _natural(name: str) -> list[tuple[int, str]]:
    """A key to sort by in which numbers count as such."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

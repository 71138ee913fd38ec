"""Folders of `.npy` files: OMAR's, one file per agent, and MADiff's, episodes one after the other.

    OMAR      <quality>/seed_<k>_data/{obs,acs,rews,next_obs,dones}_<agent>.npy, some {states,next_states}_<agent>.npy
    MADiff    <quality>/{obs,actions,rewards,path_lengths}.npy, some {discounts,states}.npy

Sources: the loaders in OMAR's replay buffer, and scripts/transform_og_marl_dataset.py of zbzhu99/madiff.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from covey.data.dataset import Dataset, merge, wrong
from covey.data.loaders.common import apply_time_limit, build, check_shape, clip_actions, stack_agents
from covey.data.storage import read_npy

MADIFF_NAMES = {"state": "states", "obs": "obs", "action": "actions", "reward": "rewards"}
OMAR_NAMES = {"state": "states", "obs": "obs", "action": "acs", "reward": "rews"}


def load_omar(path: str | Path, *, time_limit: int | None = None, clip: float | None = None) -> Dataset:
    """OMAR's files as a dataset; `path` holds `obs_0.npy` and its like, or folders `seed_<k>_data` that do.

    An episode ends where `dones` is set, or where `next_obs` is not what the next row holds, for particle worlds never
    set it; the latter, and the end of the file, count as truncations. time_limit: in steps; episodes of that length are
    truncated even if flagged (MuJoCo: 1000). clip: actions are clipped to [-clip, clip]. Without `states_0.npy` the
    state is all observations. Raises DataError.
    """
    path = Path(path)
    seeds = sorted(path.glob("seed_*_data"), key=lambda p: int(re.sub(r"\D", "", p.name) or 0))
    if seeds:
        return merge([load_omar(seed, time_limit=time_limit, clip=clip) for seed in seeds])
    agents = len(list(path.glob("obs_*.npy")))
    if agents == 0:
        raise wrong(path, "obs_0.npy", "a file for each agent", "none")

    def read(name: str, agent: int, shape: tuple[int | str, ...]) -> np.ndarray:
        file = path / f"{name}_{agent}.npy"
        array = read_npy(file, name)
        array = array.reshape(len(array), -1) if array.ndim and len(shape) == 2 else array.reshape(-1)
        check_shape(file, name, array, shape)
        return array

    own_obs = [read("obs", 0, ("T", "O"))]
    steps = len(own_obs[0])
    own_obs += [read("obs", i, (steps, "O")) for i in range(1, agents)]
    own_next = [read("next_obs", i, x.shape) for i, x in enumerate(own_obs)]
    obs, obs_mask = stack_agents(own_obs)
    next_obs, _ = stack_agents(own_next)
    action, action_mask = stack_agents([read("acs", i, (steps, "A")) for i in range(agents)])
    reward = np.stack([read("rews", i, (steps,)) for i in range(agents)], axis=1)
    done = np.all([read("dones", i, (steps,)) for i in range(agents)], axis=0)
    state = next_state = None
    if (path / "states_0.npy").exists():
        state = read("states", 0, (steps, "S"))
        next_state = read("next_states", 0, state.shape)

    end = done.copy()
    end[:-1] |= (next_obs[:-1] != obs[1:]).any(axis=(1, 2))
    end[-1] = True
    last = np.flatnonzero(end)
    length = np.diff(last, prepend=-1)
    return build(
        path,
        OMAR_NAMES,
        "omar npy",
        length,
        apply_time_limit(path, "dones", length, done[last], time_limit),
        state=state,
        obs=obs,
        action=clip_actions(action, clip),
        reward=reward,
        final_state=None if next_state is None else next_state[last],
        final_obs=next_obs[last],
        action_mask=action_mask,
        obs_mask=obs_mask,
        provenance={"quality": path.parent.name, "time_limit": time_limit, "clip": clip},
    )


def load_madiff(path: str | Path, *, time_limit: int | None = None, clip: float | None = None) -> Dataset:
    """MADiff's files as a dataset.

    They don't hold what was seen after an episode's last step. Where `discounts.npy` is there, an episode terminated if
    its last discount is 0; else every episode counts as terminated. time_limit: in steps; episodes of that length are
    truncated either way (MuJoCo: 1000). clip: actions are clipped to [-clip, clip]. Discrete actions become one float.
    Without `states.npy` the state is all observations. Raises DataError.
    """
    path = Path(path)

    def read(name: str, *shapes: tuple[int | str, ...]) -> np.ndarray:
        array = read_npy(path / f"{name}.npy", name)
        check_shape(path / f"{name}.npy", name, array, next((s for s in shapes if len(s) == array.ndim), shapes[0]))
        return array

    obs = read("obs", ("T", "N", "O"))
    steps, agents = obs.shape[:2]
    action = read("actions", (steps, agents, "A"), (steps, agents)).reshape(steps, agents, -1)
    reward = read("rewards", (steps, agents))
    length = read("path_lengths", ("E",)).astype(np.int64)
    if length.min() < 1 or length.sum() != steps:
        found = f"{len(length)} of {length.min()} to {length.max()}, {length.sum()} in all"
        raise wrong(path / "path_lengths.npy", "path_lengths", f"lengths of at least 1 that sum to {steps}", found)
    terminated = np.ones(len(length), bool)
    if (path / "discounts.npy").exists():
        discount = read("discounts", (steps, agents), (steps,)).reshape(steps, -1)
        terminated = np.all(discount[np.cumsum(length) - 1] == 0, axis=1)
    state = read("states", (steps, "S")) if (path / "states.npy").exists() else None
    return build(
        path,
        MADIFF_NAMES,
        "madiff npy",
        length,
        apply_time_limit(path, "path_lengths", length, terminated, time_limit),
        state=state,
        obs=obs,
        action=clip_actions(action, clip),
        reward=reward,
        provenance={"scenario": path.parent.name, "time_limit": time_limit, "clip": clip},
    )

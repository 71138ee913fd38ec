"""OMIGA's HDF5 files of multi-agent MuJoCo: one file with arrays `s`, `o`, `a`, `r`, `d`.

Rows follow one another in time. A row with d = 1 holds what was seen after an episode's last step, and no step: an
episode of 1000 steps has 1001 rows. Time limits are flagged as if they were ends by the rules, so they are told by the
episode's length. Source: datasets/offline_dataset.py of ZhengYinan-AIR/OMIGA.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from covey.data.dataset import DataError, Dataset, wrong
from covey.data.loaders.common import apply_time_limit, build, check_shape, clip_actions, optional

NAMES = {"state": "s", "obs": "o", "action": "a", "reward": "r"}


def load_omiga(path: str | Path, *, time_limit: int | None = 1000, clip: float | None = 1.0) -> Dataset:
    """An OMIGA file as a dataset.

    time_limit: in steps; episodes of that length are truncated, all others that end with d = 1 terminated. None takes
    every d = 1 for a termination. A last episode without d = 1 is truncated, and its last row is what was seen after
    its last step; if that is its only row, it is left out. clip: actions, of which some exceed the bounds, are clipped
    to [-clip, clip]. The state is agent 0's `s`, which differs between agents by their ids alone. Raises DataError;
    needs h5py.
    """
    path = Path(path)
    h5py = optional("h5py", path)
    try:
        with h5py.File(path, "r") as file:
            for name in "soard":
                if not isinstance(file.get(name), h5py.Dataset):
                    raise wrong(path, name, "an array of this name", f"only {sorted(file)}")
            s, o, a, r, d = (file[name][()] for name in "soard")
    except DataError:
        raise
    except (OSError, RuntimeError) as error:
        raise wrong(path, "content", "a whole HDF5 file", f"one that can't be read ({error})") from None
    check_shape(path, "o", o, ("T", "N", "O"))
    rows, agents = o.shape[:2]
    s = s[:, None] if s.ndim == 2 else s
    check_shape(path, "s", s, (rows, "N", "S"))
    check_shape(path, "a", a, (rows, agents, "A"))
    r, d = (x.reshape(len(x), -1) for x in (r, d))
    check_shape(path, "r", r, (rows, agents if r.shape[1] != 1 else 1))
    check_shape(path, "d", d, (rows, "1"))
    if not np.isin(d, (0, 1)).all():
        raise wrong(path, "d", "0 and 1 alone", np.unique(d)[:5])

    final = d[:, 0].astype(bool)
    if rows > 1 and final[-2] and not final[-1]:  # an episode of which the file holds the first row alone
        s, o, a, r, final = (x[:-1] for x in (s, o, a, r, final))
    flagged_last = bool(final[-1])
    final[-1] = True
    last = np.flatnonzero(final)
    length = np.diff(last, prepend=-1) - 1
    if length.min() < 1:
        row = int(last[length.argmin()])
        raise wrong(path, "d", "at least one row with d = 0 before each end", f"none before row {row}")
    terminated = np.ones(len(last), bool)
    terminated[-1] = flagged_last
    return build(
        path,
        NAMES,
        "omiga hdf5",
        length,
        apply_time_limit(path, "d", length, terminated, time_limit),
        state=s[~final, 0],
        obs=o[~final],
        action=clip_actions(a[~final], clip),
        reward=np.broadcast_to(r[~final], (int(length.sum()), agents)),
        final_state=s[final, 0],
        final_obs=o[final],
        provenance={"time_limit": time_limit, "clip": clip},
    )

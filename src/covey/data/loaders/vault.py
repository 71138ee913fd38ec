"""OG-MARL's vaults: folders that Flashbax writes, zarr arrays in TensorStore's OCDBT key-value store.

    <scenario>.vlt/<uid>/metadata.json        version 1.x, structure_shape, structure_dtype, anything else
    <scenario>.vlt/<uid>/manifest.ocdbt, d/   an array per leaf, named by its dotted path and a dot ("infos.state.")

Leaves have shape [B, T, ...], where T is declared as 1e13 and the array `vault_index` says how much of it is written.
Observations after an episode's last step are not stored. Source: flashbax/vault/vault.py and OG-MARL's datasets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from covey.data.dataset import DataError, Dataset, wrong
from covey.data.loaders.common import apply_time_limit, build, check_shape, clip_actions, optional
from covey.data.storage import read_json

NAMES = {"state": "infos.state", "obs": "observations", "action": "actions", "reward": "rewards"}


def load_vault(path: str | Path, *, time_limit: int | None = None, clip: float | None = None) -> Dataset:
    """A vault as a dataset; `path` is the folder with metadata.json, or one above it that holds no other.

    Streams (axis B) follow one another. An episode ends where all agents' `terminals` or `truncations` do, or its
    stream does. time_limit: in steps; episodes of that length count as truncated even if flagged as terminals, as the
    first version of OG-MARL did. clip: actions are clipped to [-clip, clip]. Discrete actions become one float.
    Padding of unequal agents isn't told from data. Raises DataError; needs tensorstore.
    """
    path = find_vault(Path(path))
    metadata = read_json(path / "metadata.json")
    shapes = metadata.get("structure_shape")
    if not isinstance(shapes, Mapping):
        raise wrong(path / "metadata.json", "structure_shape", "an object", shapes)
    if int(float(metadata.get("version", 0))) != 1:
        raise wrong(path / "metadata.json", "version", "1.x", metadata.get("version"))
    leaves = set(_dotted(shapes))
    missing = {"observations", "actions", "rewards", "terminals"} - leaves
    if missing:
        raise wrong(path / "metadata.json", "structure_shape", f"the leaf {sorted(missing)[0]}", sorted(leaves))

    ts = optional("tensorstore", path)
    steps = int(_read(ts, path, "vault_index")[0])
    if steps < 1:
        raise wrong(path, "vault_index", "at least 1 step", steps)

    def flat(leaf: str, *shapes: tuple[int | str, ...]) -> np.ndarray:
        """A leaf's streams, one after the other."""
        array = _read(ts, path, f"{leaf}.", steps)
        shape = next((s for s in shapes if len(s) == array.ndim), shapes[0])
        check_shape(path, leaf, array, shape)
        return array.reshape(-1, *array.shape[2:])

    obs = flat("observations", ("B", steps, "N", "O"))
    streams, agents = obs.shape[0] // steps, obs.shape[1]
    action = flat("actions", (streams, steps, agents, "A"), (streams, steps, agents)).reshape(len(obs), agents, -1)
    reward = flat("rewards", (streams, steps, agents))
    state_leaf = next((leaf for leaf in ("infos.state", "state", "states") if leaf in leaves), None)
    state = flat(state_leaf, (streams, steps, "S")) if state_leaf else None
    flags = (streams, steps, agents), (streams, steps)
    terminal = np.all(flat("terminals", *flags).reshape(len(obs), -1), axis=1)
    cut = np.zeros_like(terminal)
    if "truncations" in leaves:
        cut = np.all(flat("truncations", *flags).reshape(len(obs), -1), axis=1)

    end = np.asarray(terminal | cut)
    end[steps - 1 :: steps] = True
    last = np.flatnonzero(end)
    length = np.diff(last, prepend=-1)
    terminated = apply_time_limit(path, "terminals", length, terminal[last], time_limit)
    about = {k: v for k, v in metadata.items() if not k.startswith("structure_")}
    return build(
        path,
        NAMES | {"state": state_leaf or "observations"},
        "og-marl vault",
        length,
        terminated,
        state=state,
        obs=obs,
        action=clip_actions(action, clip),
        reward=reward,
        provenance={"vault": path.parent.name, "time_limit": time_limit, "clip": clip, "metadata": about},
    )


def find_vault(path: Path) -> Path:
    """The folder of the one vault at or below `path`. Raises DataError if there is none, or several."""
    if (path / "metadata.json").is_file():
        return path
    found = sorted(file.parent for file in path.rglob("metadata.json") if (file.parent / "manifest.ocdbt").is_file())
    if len(found) != 1:
        listed = ", ".join(str(f.relative_to(path)) for f in found) or "none"
        raise wrong(path, "metadata.json", "one vault here or below", listed)
    return found[0]


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _read(ts: Any, path: Path, name: str, steps: int | None = None) -> np.ndarray:
    """An array of the store, of its first `steps` of axis 1 if given."""
    base = {"driver": "file", "path": f"{path.resolve()}/"}
    kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    leaf = name.rstrip(".")
    try:
        array = ts.open({"driver": "zarr", "kvstore": kvstore}, open=True, read=True).result()
        if steps is None:
            return np.asarray(array.read().result())
        if array.rank < 2 or array.shape[1] < steps:
            raise wrong(path, leaf, f"shape [B, T, ...] with T of at least {steps}, the vault_index", list(array.shape))
        return np.asarray(array[:, :steps].read().result())
    except DataError:
        raise
    except (ValueError, OSError, RuntimeError) as error:  # TensorStore tells of missing and damaged files by these
        reason = str(error).split("\n", 1)[0].split(" [", 1)[0][:160]
        raise wrong(path, leaf, "a zarr array in an OCDBT store", f"none that can be read ({reason})") from None

"""What loaders of other projects' files share: optional packages, per-agent arrays, ends of episodes, clipping."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from covey.data.dataset import DataError, Dataset, check_finite, from_transitions, wrong


def optional(module: str, path: Path) -> Any:
    """An optional package. Raises DataError saying how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"{path}: reading it needs {module}; pip install 'covey[data]'") from None


def check_shape(path: Any, leaf: str, array: np.ndarray, shape: Sequence[int | str]) -> None:
    """Raise DataError unless `array` is numeric and of this shape; a letter stands for any size of at least 1."""
    fits = array.ndim == len(shape) and all(
        size == want if isinstance(want, int) else size >= 1 for size, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.kind not in "fiub":
        expected = f"numbers of shape [{', '.join(map(str, shape))}]"
        raise wrong(path, leaf, expected, f"{array.dtype}{list(array.shape)}")


def stack_agents(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One array [T, D_i] per agent as [T, N, D] padded with zeros, and which of it is no padding, bool[N, D]."""
    size = max(x.shape[1] for x in arrays)
    stacked = np.stack([np.pad(x, ((0, 0), (0, size - x.shape[1]))) for x in arrays], axis=1)
    return stacked, np.arange(size) < np.array([x.shape[1] for x in arrays])[:, None]


def apply_time_limit(path: Any, leaf: str, length: np.ndarray, terminated: np.ndarray, limit: int | None) -> np.ndarray:
    """`terminated` [E] without the episodes that are as long as the limit: those were cut off.

    Raises DataError if an episode is longer, since then the limit is another one.
    """
    if limit is None:
        return terminated
    if limit < 1:
        raise ValueError(f"time_limit is {limit}; allowed: an integer of at least 1, or None")
    if length.max() > limit:
        found = f"{int(length.max())} in episode {int(length.argmax())}"
        raise wrong(path, leaf, f"at most {limit} transitions per episode (the time limit)", found)
    return terminated & (length < limit)


def clip_actions(action: np.ndarray, clip: float | None) -> np.ndarray:
    """Actions clipped to [-clip, clip]; as they are for None."""
    if clip is None:
        return action
    if not clip > 0:
        raise ValueError(f"clip is {clip}; allowed: a number above 0, or None")
    return np.clip(action, -clip, clip)


def build(
    path: Path,
    names: Mapping[str, str],
    source: str,
    length: np.ndarray,
    terminated: np.ndarray,
    *,
    provenance: Mapping[str, Any],
    **arrays: Any,
) -> Dataset:
    """`from_transitions`, with errors that name the source's file and its own names of the arrays.

    names: the source's name for state, obs, action, reward.
    """
    for leaf in ("state", "obs", "action", "reward"):
        if arrays.get(leaf) is not None:
            check_finite(arrays[leaf], path, names.get(leaf, leaf))
    about = {"source": source, "name": path.name} | dict(provenance)
    try:
        return from_transitions(length, terminated, **arrays, provenance=about)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None

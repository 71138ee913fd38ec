"""Statistics over seeds: interquartile mean, stratified bootstrap intervals, probability of improvement.

After Agarwal et al. 2021 (arXiv 2108.13264). Plain NumPy; a run is one seed's number, or its curve [P].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Statistic = Callable[..., np.ndarray]


def iqm(x: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean along `axis`: the mean without the lowest and the highest floor(n / 4) of the n values.

    As `scipy.stats.trim_mean(x, 0.25)`, which the paper's code uses. NaN entries are left out, so n is the number of
    the others; where there are none the result is NaN.
    """
    x = np.sort(np.moveaxis(np.asarray(x, np.float64), axis, 0), axis=0)  # NaN sort to the end
    count = np.sum(~np.isnan(x), axis=0)
    cut = count // 4
    rank = np.arange(x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))
    kept = (rank >= cut) & (rank < count - cut)
    with np.errstate(invalid="ignore"):
        return np.sum(np.where(kept, x, 0.0), axis=0) / np.sum(kept, axis=0)


def bootstrap_interval(
    x: np.ndarray | Sequence[np.ndarray],
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval `(low, high)` of `statistic(runs, axis=0)`.

    x: runs of one task, [R] or curves [R, P]; or a list of those, one per task. Runs are drawn with replacement within
    each task (stratified), whole curves at a time, and then pooled. The interval has shape [] or [P]; it is NaN where
    a task has fewer than two runs that are not NaN, since one run says nothing of the spread.
    Raises ValueError unless 0 < confidence < 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; allowed: between 0 and 1, both excluded")
    tasks = [np.asarray(t, np.float64) for t in (x if _several(x) else [x])]
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(t), size=(num_resamples, len(t))) for t in tasks]
    shape = tasks[0].shape[1:]
    curves = [t.reshape(len(t), int(np.prod(shape))) for t in tasks]
    tail = 100 * (1 - confidence) / 2
    interval = np.full((2, curves[0].shape[1]), np.nan)
    for point in range(interval.shape[1]):  # one point at a time bounds memory at [resamples, runs]
        columns = [c[:, point] for c in curves]
        if min(np.sum(~np.isnan(c)) for c in columns) >= 2:
            pooled = np.concatenate([c[draw].T for c, draw in zip(columns, draws, strict=True)])
            interval[:, point] = np.nanpercentile(statistic(pooled, axis=0), [tail, 100 - tail])
    low, high = interval.reshape(2, *shape)
    return low, high


def probability_of_improvement(x: np.ndarray | Sequence[np.ndarray], y: np.ndarray | Sequence[np.ndarray]) -> float:
    """How likely a run of x [R] is better than a run of y [Q], ties counting half.

    Lists of arrays are tasks, to be averaged over. NaN runs are left out.
    """
    pairs = zip(x, y, strict=True) if _several(x) else [(x, y)]

    def one(a: Any, b: Any) -> float:
        a, b = (np.asarray(v, np.float64) for v in (a, b))
        a, b = a[~np.isnan(a), None], b[~np.isnan(b)]
        return float(np.mean((a > b) + 0.5 * (a == b))) if a.size and b.size else float("nan")

    return float(np.mean([one(a, b) for a, b in pairs]))


def _several(x: Sequence | np.ndarray) -> bool:
    """Whether `x` is a list of tasks rather than one task's runs."""
    return isinstance(x, (list, tuple)) and np.ndim(x[0]) > 0

"""Offline data in one container: rows of steps, one episode after the other, and what is gathered from them.

An episode of T transitions is T + 1 rows. Row t holds what was seen before step t, the joint action and its reward; the
last row holds what was seen after the last step, with action and reward 0. So the transition of row r leads to row
r + 1, nothing is stored twice, and a segment is a range of rows: `windows` gathers it by its first row alone.

Every episode ends at its last transition in one of two ways. `terminated`: by its rules, and nothing follows.
`truncated`: it was cut off, by a time limit or because the data end there, and a learner bootstraps. Some sources don't
say what was seen after the last step. Then the last row repeats the one before it, and the last transition is masked
out, unless it terminated (where what follows counts for nothing).

Letters: R rows, E episodes, T transitions, N agents, O obs, A actions, S state, B batch, L length of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LEAVES: dict[str, tuple[str, str]] = {
    "state": ("float32", "RS"),
    "obs": ("float32", "RNO"),
    "action": ("float32", "RNA"),
    "reward": ("float32", "RN"),
    "terminated": ("bool", "R"),
    "truncated": ("bool", "R"),
    "mask": ("bool", "R"),
    "start": ("int32", "E"),
    "length": ("int32", "E"),
    "action_mask": ("bool", "NA"),
    "obs_mask": ("bool", "NO"),
}
"""Each array of a dataset: its type and its axes."""

CHUNK = 65_536  # Rows read at a time, so that a memory-mapped dataset need not fit into memory.


class DataError(ValueError):
    """A dataset or a file of one is not what it should be; one line that says where, what was expected and found."""


def wrong(where: Any, leaf: str, expected: str, found: Any) -> DataError:
    """The error for a `leaf` (an array, a key) of the file or object `where`."""
    return DataError(f"{where}: {leaf}: expected {expected}, found {found}")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Episodes as flat rows; a JAX pytree of its arrays, which may be JAX's, NumPy's or memory-mapped ones.

    Agents with smaller observations or actions than others are padded with zeros at the end; `obs_mask` and
    `action_mask` say what is no padding. Units are the environment's own.

    `provenance` says where the data come from, in JSON's types. It belongs to the host: it is no part of the pytree, so
    that it never compiles anything anew, and what comes out of a JAX transformation has none.
    """

    state: Any  # float32[R, S]
    obs: Any  # float32[R, N, O]
    action: Any  # float32[R, N, A]
    reward: Any  # float32[R, N]
    terminated: Any  # bool[R], on the row whose step ended the episode
    truncated: Any  # bool[R], likewise; never both
    mask: Any  # bool[R], whether this row and the next are a transition to learn from
    start: Any  # int32[E], first row of each episode
    length: Any  # int32[E], its transitions; its rows are one more
    action_mask: Any  # bool[N, A]
    obs_mask: Any  # bool[N, O]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return self.obs.shape[0]

    @property
    def num_episodes(self) -> int:
        return self.start.shape[0]

    @property
    def num_transitions(self) -> int:
        """Steps taken, those that are masked out included."""
        return self.num_rows - self.num_episodes

    @property
    def num_agents(self) -> int:
        return self.obs.shape[1]

    @property
    def state_size(self) -> int:
        return self.state.shape[1]

    @property
    def obs_size(self) -> int:
        return self.obs.shape[2]

    @property
    def action_size(self) -> int:
        return self.action.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


jax.tree_util.register_dataclass(Dataset, data_fields=list(LEAVES), meta_fields=[], drop_fields=["provenance"])


class Windows(NamedTuple):
    """Segments of `length` rows, [B, L, ...]; fields as in `Dataset`.

    mask: bool[B, L], which steps are transitions to learn from, all before them in the segment being so, too.
    """

    state: jax.Array  # [B, L, S]
    obs: jax.Array  # [B, L, N, O]
    action: jax.Array  # [B, L, N, A]
    reward: jax.Array  # [B, L, N]
    terminated: jax.Array  # [B, L]
    truncated: jax.Array  # [B, L]
    mask: jax.Array  # [B, L]


def windows(dataset: Dataset, starts: jax.Array, length: int) -> Windows:
    """The segments of `length` rows from the rows `starts` int[B] on. Pure; `length` is static.

    From a start of `window_starts(dataset, length)` the mask holds throughout, and one row more (`length + 1`) holds
    what was seen after the last step. From any other row the mask is False from the end of the episode on.
    Raises ValueError for a length below 1.
    """
    if length < 1:
        raise ValueError(f"length is {length}; allowed: an integer of at least 1")
    rows = jnp.asarray(starts)[:, None] + jnp.arange(length, dtype=jnp.int32)  # (B, L)
    names = Windows._fields
    part = Windows(*(jnp.take(jnp.asarray(getattr(dataset, name)), rows, axis=0, mode="clip") for name in names))
    # An episode's last row is masked out, so no segment goes on into the next one; nor past the end, by clipping.
    return part._replace(mask=jnp.cumsum(~part.mask, axis=1) == 0)


def window_starts(dataset: Dataset, length: int, stride: int = 1) -> np.ndarray:
    """First rows of all segments of `length` transitions, every `stride` of an episode; int32[B], ascending.

    No segment crosses an episode's end. An episode's last segment is always among them, so that its end is seen with
    any stride. Episodes shorter than `length` have none. On the host.
    Raises ValueError if length or stride is below 1, or no episode has so many transitions.
    """
    for name, value in (("length", length), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name} is {value}; allowed: an integer of at least 1")
    first = np.asarray(dataset.start, np.int64)
    usable = np.add.reduceat(np.asarray(dataset.mask), first, dtype=np.int64)  # (E,)
    last = usable - length
    if not (last >= 0).any():
        raise ValueError(f"length is {length}; allowed: at most {usable.max()}, the transitions of the longest episode")
    first, last = first[last >= 0], last[last >= 0]
    count = -(-last // stride) + 1
    offset = stride * _ranges(count)
    return (np.repeat(first, count) + np.minimum(offset, np.repeat(last, count))).astype(np.int32)


def team_reward(data: Dataset | Windows) -> jax.Array:
    """The mean of the agents' rewards, float32[R] or [B, L]."""
    return jnp.mean(jnp.asarray(data.reward), axis=-1)


def episode_returns(dataset: Dataset) -> np.ndarray:
    """Each episode's sum of rewards per agent, float64[E, N]."""
    return np.add.reduceat(np.asarray(dataset.reward), np.asarray(dataset.start), axis=0, dtype=np.float64)


def to_device(dataset: Dataset, device: Any = None) -> Dataset:
    """The dataset as JAX arrays on a device, with its provenance."""
    return replace(jax.device_put(jax.tree.map(np.asarray, dataset), device), provenance=dataset.provenance)


# --- Statistics ---


class LeafStatistics(NamedTuple):
    """Of each dimension of one array over all steps; arrays of a row's shape.

    constant: one value throughout. discrete: several, all of them whole numbers.
    """

    mean: np.ndarray  # float32
    std: np.ndarray  # float32
    min: np.ndarray  # float32
    max: np.ndarray  # float32
    constant: np.ndarray  # bool
    discrete: np.ndarray  # bool


class Statistics(NamedTuple):
    """`LeafStatistics` of each array that a generator may model."""

    state: LeafStatistics  # [S]
    obs: LeafStatistics  # [N, O]
    action: LeafStatistics  # [N, A]
    reward: LeafStatistics  # [N]


def statistics(dataset: Dataset) -> Statistics:
    """Per dimension, over all rows that hold a step (episodes' last rows are left out), in float64. On the host.

    Padding is constant 0.
    """
    return Statistics(*(_leaf_statistics(dataset, name) for name in Statistics._fields))


def _leaf_statistics(dataset: Dataset, name: str) -> LeafStatistics:
    def chunks() -> Iterator[np.ndarray]:
        values = getattr(dataset, name)
        for begin, step in _step_chunks(dataset):
            yield np.asarray(values[begin : begin + CHUNK])[step].astype(np.float64)

    count, shape = dataset.num_transitions, getattr(dataset, name).shape[1:]
    mean, low, high = np.zeros(shape), np.full(shape, np.inf), np.full(shape, -np.inf)
    whole = np.ones(shape, bool)
    for x in chunks():
        mean += x.sum(axis=0) / count
        low, high = np.minimum(low, x.min(axis=0, initial=np.inf)), np.maximum(high, x.max(axis=0, initial=-np.inf))
        whole &= (x == np.rint(x)).all(axis=0)
    constant = low == high
    mean = np.where(constant, low, mean)  # exactly, so that the deviation is 0
    variance = sum(((x - mean) ** 2).sum(axis=0) / count for x in chunks())
    mean, std, low, high = (x.astype(np.float32) for x in (mean, np.sqrt(variance), low, high))
    return LeafStatistics(mean, std, low, high, constant, whole & ~constant)


def _step_chunks(dataset: Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """The first row of each chunk of rows, and which of its rows hold a step."""
    step = step_rows(dataset)
    for begin in range(0, dataset.num_rows, CHUNK):
        yield begin, step[begin : begin + CHUNK]


def step_rows(dataset: Dataset) -> np.ndarray:
    """Which rows hold a step, masked out or not: all but episodes' last ones; bool[R]. On the host."""
    step = np.ones(dataset.num_rows, bool)
    step[np.asarray(dataset.start) + np.asarray(dataset.length)] = False
    return step


# --- Whole episodes ---


def take_episodes(dataset: Dataset, episodes: Sequence[int] | np.ndarray) -> Dataset:
    """The given episodes, in the given order. On the host; keeps the provenance as it is."""
    episodes = np.asarray(episodes, np.int64)
    if episodes.size == 0:
        raise ValueError(f"episodes is empty; allowed: some of 0 to {dataset.num_episodes - 1}")
    if episodes.min() < 0 or episodes.max() >= dataset.num_episodes:
        raise ValueError(
            f"episodes holds {episodes.min()} to {episodes.max()}; allowed: 0 to {dataset.num_episodes - 1}"
        )
    length = np.asarray(dataset.length)[episodes]
    rows = np.repeat(np.asarray(dataset.start, np.int64)[episodes], length + 1) + _ranges(length + 1)
    by_row = {name: np.asarray(getattr(dataset, name))[rows] for name, (_, axes) in LEAVES.items() if axes[0] == "R"}
    return replace(dataset, **by_row, start=_starts(length), length=length)


def split(dataset: Dataset, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Two datasets of whole episodes: `fraction` of them, drawn at random, and the others; both keep their order.

    Raises ValueError unless 0 < fraction < 1 and there are two episodes; neither part is ever empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; allowed: a number between 0 and 1")
    if dataset.num_episodes < 2:
        raise ValueError(f"the dataset has {dataset.num_episodes} episode; allowed to split: at least 2")
    count = min(max(round(fraction * dataset.num_episodes), 1), dataset.num_episodes - 1)
    order = np.random.default_rng(seed).permutation(dataset.num_episodes)
    about = {"operation": "split", "fraction": fraction, "seed": seed, "of": dict(dataset.provenance)}
    first, second = (take_episodes(dataset, np.sort(part)) for part in (order[:count], order[count:]))
    return replace(first, provenance=about | {"part": 0}), replace(second, provenance=about | {"part": 1})


def subsample(
    dataset: Dataset, *, episodes: int | None = None, transitions: int | None = None, seed: int = 0
) -> Dataset:
    """Whole episodes drawn at random without replacement, in their old order.

    Give one of: `episodes`, how many; `transitions`, of which to have at least so many, and no episode too many.
    Raises ValueError unless exactly one is given, and the dataset has as much.
    """
    if (episodes is None) == (transitions is None):
        raise ValueError(
            f"episodes and transitions are {episodes}, {transitions}; allowed: one of them, the other None"
        )
    order = np.random.default_rng(seed).permutation(dataset.num_episodes)
    if episodes is not None:
        if not 1 <= episodes <= dataset.num_episodes:
            raise ValueError(f"episodes is {episodes}; allowed: 1 to {dataset.num_episodes}")
        order = order[:episodes]
    elif transitions is not None:
        if not 1 <= transitions <= dataset.num_transitions:
            raise ValueError(f"transitions is {transitions}; allowed: 1 to {dataset.num_transitions}")
        total = np.cumsum(np.asarray(dataset.length, np.int64)[order])
        order = order[: int(np.searchsorted(total, transitions)) + 1]
    about = {"operation": "subsample", "episodes": episodes, "transitions": transitions, "seed": seed}
    part = take_episodes(dataset, np.sort(order))
    return replace(part, provenance=about | {"of": dict(dataset.provenance)})


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """All episodes of all datasets, in order. Raises ValueError naming the leaf whose shape or padding differs."""
    if not datasets:
        raise ValueError("datasets is empty; allowed: at least one")
    first = datasets[0]
    for i, other in enumerate(datasets[1:], 1):
        for name, (_, axes) in LEAVES.items():
            a, b = getattr(first, name), getattr(other, name)
            if axes[0] == "R" and a.shape[1:] != b.shape[1:]:
                raise wrong(
                    f"dataset {i}", name, f"rows of shape {list(a.shape[1:])} as in dataset 0", list(b.shape[1:])
                )
            if axes[0] == "N" and not np.array_equal(a, b):
                raise wrong(f"dataset {i}", name, "the padding of dataset 0", "another")
    by_row = {
        name: np.concatenate([np.asarray(getattr(d, name)) for d in datasets])
        for name, (_, axes) in LEAVES.items()
        if axes[0] == "R"
    }
    length = np.concatenate([np.asarray(d.length) for d in datasets])
    about = {"operation": "merge", "of": [dict(d.provenance) for d in datasets]}
    return replace(first, **by_row, start=_starts(length), length=length, provenance=about)


# --- Making one ---


def from_transitions(
    length: np.ndarray,
    terminated: np.ndarray,
    *,
    state: np.ndarray | None,
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    final_state: np.ndarray | None = None,
    final_obs: np.ndarray | None = None,
    action_mask: np.ndarray | None = None,
    obs_mask: np.ndarray | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Dataset:
    """A dataset from transitions, one episode after the other. On the host.

    length: int[E]; terminated: bool[E], whether an episode ended by its rules, else it is truncated.
    state [T, S] (None: the observations that are no padding, side by side), obs [T, N, O], action [T, N, A], reward
    [T, N]: before and of each step. final_state [E, S], final_obs [E, N, O]: after the last steps, if known.
    Padding is set to 0. Raises DataError if shapes don't fit or there is a number that is not finite.
    """
    length, terminated = np.asarray(length, np.int64), np.asarray(terminated, bool)
    if length.ndim != 1 or length.size == 0 or length.min() < 1 or terminated.shape != length.shape:
        raise wrong("transitions", "length", "at least one episode, of at least one transition each", length)
    count, episodes = int(length.sum()), length.size
    if obs.shape[:1] != (count,) or obs.ndim != 3:
        raise wrong("transitions", "obs", f"shape [{count}, N, O]", list(obs.shape))
    obs_mask = np.ones(obs.shape[1:], bool) if obs_mask is None else np.asarray(obs_mask, bool)
    action_mask = np.ones(action.shape[1:], bool) if action_mask is None else np.asarray(action_mask, bool)
    if state is None:
        state, final_state = obs[:, obs_mask], None if final_obs is None else final_obs[:, obs_mask]

    first, last = _starts(length), _starts(length) + length
    step = np.ones(count + episodes, bool)
    step[last] = False

    def rows(leaf: str, values: np.ndarray, final: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        for x, n in ((values, count), (final, episodes)):
            if x is not None and x.shape != (n, *shape):
                raise wrong("transitions", leaf, f"shape {[n, *shape]}", list(x.shape))
        out = np.empty((count + episodes, *shape), np.float32)
        out[step] = values
        out[last] = out[last - 1] if final is None else final
        return out

    agents = obs.shape[1]
    ends = {"terminated": np.zeros(count + episodes, bool), "truncated": np.zeros(count + episodes, bool)}
    ends["terminated"][last - 1], ends["truncated"][last - 1] = terminated, ~terminated
    mask = step.copy()
    if final_obs is None or final_state is None:
        mask[last - 1] = terminated
    nothing = np.zeros((), np.float32)
    dataset = Dataset(
        state=rows("state", state, final_state, state.shape[1:]),
        obs=np.where(obs_mask, rows("obs", obs, final_obs, obs.shape[1:]), nothing),
        action=rows(
            "action",
            np.where(action_mask, action, nothing),
            np.zeros((episodes, *action.shape[1:])),
            (agents, *action.shape[2:]),
        ),
        reward=rows("reward", reward, np.zeros((episodes, agents)), (agents,)),
        mask=mask,
        start=first.astype(np.int32),
        length=length.astype(np.int32),
        action_mask=action_mask,
        obs_mask=obs_mask,
        provenance=dict(provenance or {}),
        **ends,
    )
    check(dataset)
    return dataset


def check(dataset: Dataset, where: Any = "dataset", name: Callable[[str], str] = str, finite: bool = True) -> None:
    """Raise DataError unless the dataset is as this module says; `where` and `name(leaf)` are for the message.

    finite: whether to look for numbers that are not, which reads all of the data.
    """
    sizes: dict[str, int] = {}
    for leaf, (dtype, axes) in LEAVES.items():
        x = getattr(dataset, leaf)
        if x.ndim != len(axes) or x.dtype != dtype:
            raise wrong(where, name(leaf), f"{dtype}[{', '.join(axes)}]", f"{x.dtype}{list(x.shape)}")
        for axis, size in zip(axes, x.shape, strict=True):
            if size < 1 or sizes.setdefault(axis, size) != size:
                wanted = ", ".join(str(sizes[a]) if a in sizes else a for a in axes)
                raise wrong(where, name(leaf), f"{dtype}[{wanted}], no axis empty", f"{x.dtype}{list(x.shape)}")
    start, length = (np.asarray(x, np.int64) for x in (dataset.start, dataset.length))
    if length.min() < 1 or not np.array_equal(start, _starts(length)) or start[-1] + length[-1] + 1 != sizes["R"]:
        raise wrong(where, name("start"), f"episodes side by side in {sizes['R']} rows", "gaps, overlaps or empty ones")
    terminated, truncated, mask = (np.asarray(x) for x in (dataset.terminated, dataset.truncated, dataset.mask))
    last = start + length
    ends = np.zeros(sizes["R"], bool)
    ends[last - 1] = True
    if (terminated & truncated).any() or not np.array_equal(terminated | truncated, ends):
        raise wrong(
            where, name("terminated"), "one of terminated and truncated on each last transition alone", "others"
        )
    if mask[last].any() or (mask[1:] & ~mask[:-1] & ~np.isin(np.arange(1, mask.size), start)).any():
        raise wrong(
            where, name("mask"), "False on each episode's last row, and True up to some row before it", "others"
        )
    for leaf in ("action", "reward"):
        if np.asarray(getattr(dataset, leaf)[last]).any():
            raise wrong(where, name(leaf), "0 on each episode's last row", "another number")
    if finite:
        for leaf in ("state", "obs", "action", "reward"):
            check_finite(getattr(dataset, leaf), where, name(leaf))


def check_finite(values: Any, where: Any, leaf: str) -> None:
    """Raise DataError naming the first element that is NaN or infinite."""
    for begin in range(0, len(values), CHUNK):
        bad = ~np.isfinite(values[begin : begin + CHUNK])
        if bad.any():
            at = np.argwhere(bad)[0] + np.array([begin] + [0] * (bad.ndim - 1))
            raise wrong(where, leaf, "finite numbers", f"{values[tuple(at)]} at {[int(i) for i in at]}")


def _starts(length: np.ndarray) -> np.ndarray:
    """First rows of episodes of these lengths, side by side."""
    return np.concatenate([[0], np.cumsum(length[:-1] + 1)]).astype(length.dtype)


def _ranges(count: np.ndarray) -> np.ndarray:
    """0 ... count[0] - 1, 0 ... count[1] - 1, and so on."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)

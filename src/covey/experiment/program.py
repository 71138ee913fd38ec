"""The compiled program: a learner over all seeds and updates, evaluation included.

    train = make_train(learner, num_updates=100)
    state, metrics = jax.jit(train)(seed_keys(0, 64), hp)

The loop over updates is outside and the map over seeds inside, so one evaluation test and one loop counter serve all
seeds, and metrics come out as [U, S, ...]. Nothing calls back to the host, so the program can be cached and sharded.

A learner may also have `prepare(carry, data) -> carry`, pure like the rest: what happens once, before the first update
and inside the same program (an offline learner fits a model to its data, say).

Metrics are named `train/<name>` (every update), `eval/<name>` (NaN where no evaluation was due) and `finite` (bool:
every parameter of that seed's policy is finite).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from covey.experiment.checkpoint import RunError
from covey.learners.base import Learner, Metrics

SEEDS = "seeds"


class State(NamedTuple):
    """A run between two updates.

    update: int32[], updates done.
    carries: the learner's carries, leading axis S.
    """

    update: jax.Array
    carries: Any


def seed_keys(seed: int, num_seeds: int) -> jax.Array:
    """The keys [S] of a run; number i is `jax.random.key(seed + i)`, however many there are."""
    return jax.vmap(jax.random.key)(seed + jnp.arange(num_seeds))


def evaluation_schedule(num_updates: int, num_evaluations: int) -> np.ndarray:
    """Numbers of updates done [<= num_evaluations] at which to evaluate: evenly spaced, the last update included."""
    if num_updates < 1 or num_evaluations < 1:
        raise ValueError(f"num_updates and num_evaluations are {num_updates}, {num_evaluations}; allowed: at least 1")
    count = min(num_updates, num_evaluations)
    return np.array([num_updates * (i + 1) // count for i in range(count)], np.int32)


@dataclass(frozen=True)
class Program:
    """`init` and `advance` of a whole run, pure and ready for `jax.jit`."""

    learner: Learner
    num_updates: int
    """Updates of the whole run; the evaluation schedule follows from it, whatever the chunks."""
    num_evaluations: int = 20
    """Evaluations, evenly spaced, the last one after the last update."""
    seeds_per_batch: int | None = None
    """Seeds computed at the same time on a device, to bound memory; divides the device's seeds. None for all."""
    mesh: Mesh | None = None
    """One axis of devices to share the seeds between; None for one device."""

    def init(self, keys: jax.Array, hp: Any) -> State:
        """The state before the first update, for keys [S] and `hp` leaves of shape [] or [S, ...].

        Raises RunError if a leaf's leading axis is not S, or seeds_per_batch does not divide the seeds.
        """
        num_seeds = keys.shape[0]

        def per_seed(path: tuple, leaf: Any) -> jax.Array:
            leaf = _strong(jnp.asarray(leaf))
            if leaf.ndim and leaf.shape[0] != num_seeds:
                name = jax.tree_util.keystr(path, simple=True, separator=".")
                raise RunError(
                    f"hp {name} has shape {leaf.shape}; allowed: a scalar, or {num_seeds} values, one per seed"
                )
            return leaf if leaf.ndim else jnp.broadcast_to(leaf, (num_seeds,))

        hp = jax.tree_util.tree_map_with_path(per_seed, hp)

        def init(keys: jax.Array, hp: Any) -> Any:
            return jax.tree.map(_strong, self._map(lambda pair: self.learner.init(*pair), (keys, hp)))

        spec = PartitionSpec(SEEDS)
        return State(jnp.int32(0), self._shard(init, in_specs=(spec, spec), out_specs=spec)(keys, hp))

    def advance(self, state: State, num: jax.Array, data: Any = None, *, length: int) -> tuple[State, Metrics]:
        """`num` more updates (traced, so that one compilation serves every chunk; at most the static `length`).

        Returns the state and metrics [length, S, ...], of which the first `num` rows are written.
        """
        spec = state_spec()
        advance = self._shard(
            lambda state, num, data: self._advance(state, num, data, length),
            in_specs=(spec, PartitionSpec(), PartitionSpec()),
            out_specs=(spec, PartitionSpec(None, SEEDS)),
        )
        return advance(state, num, data)

    def _advance(self, state: State, num: jax.Array, data: Any, length: int) -> tuple[State, Metrics]:
        if prepare := getattr(self.learner, "prepare", None):
            # As below: a condition without seed axis, so that later chunks skip it.
            run = lambda carries: self._map(lambda carry: prepare(carry, data), carries)  # noqa: E731
            carries = jax.lax.cond((state.update == 0) & (num > 0), run, lambda carries: carries, state.carries)
            state = state._replace(carries=carries)
        shapes = jax.eval_shape(self._step, state, data)[1]
        buffers = jax.tree.map(lambda x: jnp.full((length, *x.shape), _nothing(x.dtype), x.dtype), shapes)

        def body(i: jax.Array, loop: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, buffers = loop
            state, metrics = self._step(state, data)
            return state, jax.tree.map(lambda b, x: jax.lax.dynamic_update_index_in_dim(b, x, i, 0), buffers, metrics)

        return jax.lax.fori_loop(0, num, body, (state, buffers))

    def _step(self, state: State, data: Any) -> tuple[State, Metrics]:
        """One update of all seeds, and an evaluation if the schedule has one here."""
        carries, train = self._update(state.carries, data)
        update = state.update + 1
        finite = jax.vmap(lambda carry: _all_finite(self.learner.policy(carry)))(carries)

        def evaluate(carries: Any) -> Metrics:
            # One key for all: each seed plays the same episodes at each evaluation, so curves and seeds compare.
            key = jax.random.fold_in(jax.random.key(0), 2**31 - 1)
            metrics = self._map(lambda carry: self.learner.evaluate(carry, key), carries)
            return jax.tree.map(lambda x: x.astype(jnp.float32), metrics)

        def skip(carries: Any) -> Metrics:
            shapes = jax.eval_shape(evaluate, carries)
            return jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, jnp.float32), shapes)

        # The condition has no seed axis and stands outside the map over seeds, so it is a branch and not a select.
        schedule = jnp.asarray(evaluation_schedule(self.num_updates, self.num_evaluations))
        evaluation = jax.lax.cond(jnp.any(update == schedule), evaluate, skip, carries)

        metrics = {f"train/{name}": value for name, value in train.items()}
        metrics |= {f"eval/{name}": value for name, value in evaluation.items()}
        return State(update, carries), metrics | {"finite": finite}

    def _update(self, carries: Any, data: Any) -> tuple[Any, Metrics]:
        """One update of each seed: at once, or in batches that replace their part of `carries` in place."""
        update = jax.vmap(lambda carry: self.learner.update(carry, data))
        num_seeds, batch = self._batch(carries)
        if batch == num_seeds:
            return update(carries)

        def body(carries: Any, start: jax.Array) -> tuple[Any, Metrics]:
            part, metrics = update(jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, batch), carries))
            replace = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
            return jax.tree.map(replace, carries, part), metrics

        carries, metrics = jax.lax.scan(body, carries, jnp.arange(0, num_seeds, batch))
        return carries, jax.tree.map(lambda x: x.reshape(num_seeds, *x.shape[2:]), metrics)

    def _map(self, function: Callable[[Any], Any], seeds: Any) -> Any:
        """`function` of each seed: at once, or in batches."""
        num_seeds, batch = self._batch(seeds)
        if batch == num_seeds:
            return jax.vmap(function)(seeds)
        batches = jax.tree.map(lambda x: x.reshape(num_seeds // batch, batch, *x.shape[1:]), seeds)
        results = jax.lax.map(jax.vmap(function), batches)
        return jax.tree.map(lambda x: x.reshape(num_seeds, *x.shape[2:]), results)

    def _batch(self, seeds: Any) -> tuple[int, int]:
        """How many seeds there are (on this device), and how many of them to compute at the same time."""
        num_seeds = jax.tree.leaves(seeds)[0].shape[0]
        batch = min(self.seeds_per_batch or num_seeds, num_seeds)
        if num_seeds % batch:
            divisors = ", ".join(str(n) for n in range(1, num_seeds + 1) if num_seeds % n == 0)
            raise RunError(
                f"seeds_per_batch is {batch}; allowed: a divisor of the {num_seeds} seeds per device: {divisors}"
            )
        return num_seeds, batch

    def _shard(self, function: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`function` on each device's share of the seeds; nothing is exchanged between devices."""
        if self.mesh is None:
            return function
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def make_train(
    learner: Learner,
    num_updates: int,
    num_evaluations: int = 20,
    seeds_per_batch: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[State, Metrics]]:
    """A whole run as one pure function `train(keys [S], hp, data=None) -> (state, metrics [U, S, ...])`, for `jax.jit`.

    `hp` leaves are scalars, or [S] for one value per seed. See the module's docstring for the metrics' names.
    """
    program = Program(learner, num_updates, num_evaluations, seeds_per_batch, mesh)

    def train(keys: jax.Array, hp: Any, data: Any = None) -> tuple[State, Metrics]:
        return program.advance(program.init(keys, hp), jnp.int32(num_updates), data, length=num_updates)

    return train


def seed_mesh(num_seeds: int, devices: Sequence[Any] | None = None) -> Mesh | None:
    """A mesh of the largest number of `devices` (all local ones) that divides `num_seeds`; None if that number is 1."""
    devices = list(devices or jax.local_devices())
    count = max(n for n in range(1, len(devices) + 1) if num_seeds % n == 0)
    return Mesh(np.array(devices[:count]), (SEEDS,)) if count > 1 else None


def state_spec() -> State:
    """Which part of a `State` lies on which device: the counter on all, the carries split by seed."""
    return State(PartitionSpec(), PartitionSpec(SEEDS))  # type: ignore[arg-type]


def place(state: State, mesh: Mesh | None) -> State:
    """A state of host arrays on the device(s), as `Program.advance` expects it."""
    if mesh is None:
        return jax.device_put(state)
    spec = state_spec()
    shardings = State(
        NamedSharding(mesh, spec.update),  # type: ignore[arg-type]
        jax.tree.map(lambda _: NamedSharding(mesh, spec.carries), state.carries),
    )
    return jax.device_put(state, shardings)


def replicate(data: Any, mesh: Mesh | None) -> Any:
    """Arrays that all seeds share, on every device."""
    return jax.device_put(data, NamedSharding(mesh, PartitionSpec()) if mesh else None)


def _all_finite(tree: Any) -> jax.Array:
    """bool[], no NaN or infinity in any floating leaf."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats])) if floats else jnp.bool_(True)


def _nothing(dtype: Any) -> Any:
    """What fills a metric's row that is not written."""
    return jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0


def _strong(x: jax.Array) -> jax.Array:
    """`x` without weak type, so that a state from `init` and one from a checkpoint have the same type."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(x, x.dtype)

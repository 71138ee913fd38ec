"""MJX's Newton solver laid out for vectors: the same steps, with environments last and sums in another order.

Under `vmap`, MJX's solver works on arrays [B, rows, ...] of small matrices, which XLA's CPU backend adds up one number
at a time, calls LAPACK for one matrix at a time, and carries everything through loops with a choice per environment.
Here the environments are the last axis of all arrays, so that each operation is one of whole vectors; the loop ends
when all environments are done, and computes no Hessian that it does not use. The steps are those of MJX 3.17
(`solve` and `_linesearch` in its `solver.py`, Apache-2.0) for limits and pyramidal cones; tests hold the results to
MJX's. With other constraints MJX's own solver runs.

The inertia's equations are solved the same way, in place of MJX's `factor_m` and `solve_m`: each factor of theirs is
used once. That no LAPACK is left is also what keeps programs alive: jaxlib's batched LAPACK calls (seen with 0.10.2)
hand their batch to the thread pool that they run in and wait for it, so that on two cores two at a time wait for ever.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

with contextlib.redirect_stdout(io.StringIO()):  # MJX prints that it has no warp
    from mujoco import mjx
    from mujoco.mjx._src import collision_driver, smooth, solver, support

_MINVAL = 1e-15  # mujoco.mjMINVAL
_LONG = 9
"""Degrees of freedom of a chain that is written out at most."""
_theirs = solver.solve
_factor_theirs, _solve_theirs = smooth.factor_m, smooth.solve_m


def solve(m: Any, d: Any) -> Any:
    """`d` with the accelerations and constraint forces that solve its constraints."""
    friction = m._impl.dof_hasfrictionloss.any() or m._impl.tendon_hasfrictionloss.any()
    plain = m.opt.cone == mjx.ConeType.PYRAMIDAL and m.opt.solver == mjx.SolverType.NEWTON
    if not plain or friction or d._impl.ne or d._impl.nf or support.is_sparse(m):
        return _theirs(m, d)
    warm = not m.opt.disableflags & mjx.DisableBit.WARMSTART
    problem = _Problem(
        jacobian=d._impl.efc_J,
        weight=d._impl.efc_D,
        aref=d._impl.efc_aref,
        inertia=d._impl.M,
        force=d.qfrc_smooth,
        free=d.qacc_smooth,
        start=d.qacc_warmstart if warm else d.qacc_smooth,
        tolerance=jnp.asarray(m.opt.tolerance, d.qpos.dtype),
        ls_tolerance=jnp.asarray(m.opt.tolerance * m.opt.ls_tolerance, d.qpos.dtype),
    )
    qacc, qfrc, rows = _solver(m.opt.iterations, m.opt.ls_iterations, _order(m, _coupled(m)))(*problem)
    return d.tree_replace({"qacc": qacc, "qfrc_constraint": qfrc, "_impl.efc_force": rows})


def factor_m(m: Any, d: Any) -> Any:
    """`d` ready for `solve_m`: its inertia itself in the place of a factor."""
    return _factor_theirs(m, d) if support.is_sparse(m) else d.tree_replace({"_impl.qLD": d._impl.M})


def solve_m(m: Any, d: Any, x: jax.Array) -> jax.Array:
    """The inverse inertia [V, V] times x [V]."""
    return _solve_theirs(m, d, x) if support.is_sparse(m) else _inertia(_order(m, _limbs(m)))(d._impl.qLD, x)[0]


Tree = tuple[int, ...]
"""Of each degree of freedom, the next one on the way to the root, -1 for none."""


def _limbs(m: Any) -> Tree:
    """Which degrees of freedom share entries of the inertia: those of one line from a limb's end to the root."""
    return tuple(int(parent) for parent in m.dof_parentid)


def _coupled(m: Any) -> Tree:
    """As `_limbs`, with the constraints: contacts with the floor couple no limbs, others may couple any."""
    fixed = m.body_weldid == 0
    among = any(not fixed[m.geom_bodyid[[a, b]]].any() for a, b, _ in collision_driver.geom_pairs(m))
    return tuple(range(-1, m.nv - 1)) if among or m.ntendon else _limbs(m)


def _order(m: Any, parents: Tree) -> Tree | None:
    """The tree that the inertia's equations, with constraints' or without, are eliminated along; None for a loop over
    pivots, which one long chain of joints has.

    Such an inertia's condition number grows with the fourth power of the length (20 segments of a swimmer: 4e5), and
    elimination then stands or falls with all numbers of a pivot's row being used as they were rounded. Written out
    along a tree, a compiler is free to compute some of them again, in another rounding: where XLA had dropped the
    barriers between the rows, 14 segments had errors of 8 times the accelerations, 6 segments none.
    """
    chain = _limbs(m) == tuple(range(-1, m.nv - 1))
    return None if chain and m.nv > _LONG else parents


class _Problem(NamedTuple):
    """Accelerations that minimise the Gauss cost and that of constraints, for R rows and V degrees of freedom.

    jacobian: [R, V]; weight, aref: [R]; inertia: [V, V]; force, free, start: [V] (smooth forces, the accelerations
    without constraints, and where to begin); tolerances: []. Then the environments.
    """

    jacobian: jax.Array
    weight: jax.Array
    aref: jax.Array
    inertia: jax.Array
    force: jax.Array
    free: jax.Array
    start: jax.Array
    tolerance: jax.Array
    ls_tolerance: jax.Array


@lru_cache
def _solver(iterations: int, ls_iterations: int, order: Tree | None) -> Any:
    """The solver as a function of a problem's parts."""
    return _last(lambda *values: _solve_last(iterations, ls_iterations, order, _Problem(*values)))


def _last(run: Callable[..., tuple[jax.Array, ...]]) -> Any:
    """`run`, a `vmap` of which puts the environments last."""

    @jax.custom_batching.custom_vmap
    def one(*values: jax.Array) -> tuple[jax.Array, ...]:
        return run(*values)

    @one.def_vmap
    def many(size: int, batched: Any, *values: jax.Array) -> tuple[Any, Any]:
        last = [
            jnp.moveaxis(x, 0, -1) if b else jnp.broadcast_to(jnp.asarray(x)[..., None], (*jnp.shape(x), size))
            for x, b in zip(values, batched, strict=True)
        ]
        # Else XLA would move the axes in each kernel that reads them.
        last = jax.lax.optimization_barrier(last)
        found = tuple(jnp.moveaxis(x, -1, 0) for x in run(*last))
        return found, (True,) * len(found)

    return one


class _Place(NamedTuple):
    """Where the solver is: accelerations [V], inertia times them [V], and how far each row is violated [R]."""

    qacc: jax.Array
    momentum: jax.Array
    at: jax.Array


def _solve_last(
    iterations: int, ls_iterations: int, order: Tree | None, p: _Problem
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def place(qacc: jax.Array) -> _Place:
        now = _Place(qacc, _times(p.inertia, qacc), _times(p.jacobian, qacc) - p.aref)
        return jax.lax.optimization_barrier(now)

    def gauss(now: _Place) -> jax.Array:
        return 0.5 * _dot(now.momentum - p.force, now.qacc - p.free)

    def cost(now: _Place) -> jax.Array:
        return 0.5 * _dot(jnp.where(now.at < 0, p.weight * now.at, 0), now.at) + gauss(now)

    def forces(now: _Place) -> tuple[jax.Array, jax.Array]:
        rows = jnp.where(now.at < 0, -p.weight * now.at, 0)
        return rows, _combined(p.jacobian, jax.lax.optimization_barrier(rows))

    def gradient(now: _Place) -> jax.Array:
        return jax.lax.optimization_barrier(now.momentum - p.force - forces(now)[1])

    trace = jnp.maximum(sum(p.inertia[v, v] for v in range(len(p.inertia))), _MINVAL)

    def finished(now: _Place, gained: jax.Array) -> jax.Array:
        slope = gradient(now)
        return (gained / trace < p.tolerance) | (jnp.sqrt(_dot(slope, slope)) / trace < p.tolerance)

    def step(carry: tuple) -> tuple:
        count, now, before, done = carry
        active = jnp.where(now.at < 0, p.weight, 0)
        hessian = [p.inertia[v, : v + 1] + row for v, row in enumerate(_gram(p.jacobian, active))]
        search = -_solve_spd(hessian, gradient(now), order)
        along, slope = _times(p.inertia, search), _times(p.jacobian, search)
        line = gauss(now), _dot(search, now.momentum - p.force), 0.5 * _dot(search, along)
        tolerance = p.ls_tolerance * jnp.sqrt(_dot(search, search)) * trace
        length = jnp.where(done, 0, _line_search(ls_iterations, now.at, slope, p.weight, line, tolerance))
        now = _Place(now.qacc + length * search, now.momentum + length * along, now.at + length * slope)
        after = cost(now)
        return count + 1, now, after, done | finished(now, before - after)

    warm, free = place(p.start), place(p.free)
    warmer = cost(warm) < cost(free)
    now = _Place(*(jnp.where(warmer, a, b) for a, b in zip(warm, free, strict=True)))
    before = cost(now)
    carry = (0, now, before, finished(now, jnp.full_like(before, jnp.inf)))
    if iterations == 1:  # without a look at the tolerance, as MJX
        now = step((*carry[:3], jnp.zeros_like(carry[3])))[1]
    else:
        now = jax.lax.while_loop(lambda c: (c[0] < iterations) & ~jnp.all(c[3]), step, carry)[1]
    rows, qfrc = forces(now)
    return now.qacc, qfrc, rows


# Sums are written out: XLA's CPU backend makes one kernel of a sum of products of vectors, and is slow at reductions
# over few numbers.


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b, axis=0)


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """[M, N, ...] times [N, ...]."""
    return sum((matrix[:, n] * vector[n] for n in range(1, len(vector))), matrix[:, 0] * vector[0])


def _combined(matrix: jax.Array, weight: jax.Array) -> jax.Array:
    """The rows of [M, N, ...], weighted by [M, ...] and added up, [N, ...]."""
    return sum((matrix[m] * weight[m] for m in range(1, len(weight))), matrix[0] * weight[0])


def _gram(jacobian: jax.Array, weight: jax.Array) -> list[jax.Array]:
    """J' diag(weight) J of a matrix J [R, V, ...]: of each row v the part up to the diagonal, [v + 1, ...]."""
    weighted = jax.lax.optimization_barrier(jacobian * weight[:, None])
    return [_combined(jacobian[:, : v + 1], weighted[:, v]) for v in range(jacobian.shape[1])]


def _solve_spd(matrix: Sequence[jax.Array], vector: jax.Array, order: Tree | None) -> jax.Array:
    """A symmetric positive matrix's inverse times `vector` [V, ...].

    matrix: of each row v at least the part up to the diagonal, [v + 1, ...].
    """
    return _eliminate_in_a_loop(matrix, vector) if order is None else _eliminate_along_tree(matrix, vector, order)


def _eliminate_in_a_loop(matrix: Sequence[jax.Array], vector: jax.Array) -> jax.Array:
    """By Gauss and Jordan: each pivot's row is taken off all others, which leaves the diagonal."""
    size, others = len(matrix), [1] * (vector.ndim - 1)
    lower = jnp.stack(
        [jnp.concatenate([row[: v + 1], jnp.zeros_like(vector[v + 1 :])]) for v, row in enumerate(matrix)]
    )
    strict = np.tri(size, k=-1, dtype=bool).reshape(size, size, *others)
    whole = jnp.concatenate([lower + jnp.where(strict, lower, 0).swapaxes(0, 1), vector[:, None]], axis=1)
    pivot = np.arange(size).reshape(size, *others)

    def eliminate(v: jax.Array, rows: jax.Array) -> jax.Array:
        row, column = rows[v], rows[:, v]
        share = jnp.where(pivot == v, 0, column / column[v])
        return rows - share[:, None] * row[None]

    rows = jax.lax.fori_loop(0, size, eliminate, whole)
    return jnp.stack([rows[v, -1] / rows[v, v] for v in range(size)])


def _eliminate_along_tree(matrix: Sequence[jax.Array], vector: jax.Array, parents: Tree) -> jax.Array:
    """From the leaves of a tree to its root.

    Only entries of a degree of freedom with those between it and the root are read; the others are zeros, and stay so.
    """
    size = len(parents)
    line: list[list[int]] = []  # from the root to each
    for v, parent in enumerate(parents):
        line.append([*(line[parent] if parent >= 0 else []), v])
    rows: list[jax.Array] = [vector] * size
    taken: dict[int, jax.Array] = {}  # from the rows of one's line, by all that hang on it
    for v in reversed(range(size)):
        row = jnp.concatenate([vector[v][None], *(matrix[v][run] for run in _runs(line[v]))])
        if v in taken:
            row = row - taken[v][-1]
        scaled = row / row[-1]
        # Without barriers, XLA makes one kernel of it all, which does the first ones again and again.
        row, rows[v] = jax.lax.optimization_barrier((row, scaled))
        if (parent := parents[v]) >= 0:
            more = rows[v][1:-1, None] * row[:-1]
            if v in taken:
                more = more + taken[v][:-1, :-1]
            if parent in taken:
                more = more + taken[parent]
            taken[parent] = jax.lax.optimization_barrier(more)

    x: list[jax.Array] = []
    for v in range(size):
        known = sum((rows[v][1 + i] * x[a] for i, a in enumerate(line[v][:-1])), jnp.zeros_like(vector[0]))
        x.append(rows[v][0] - known)
        if v % 4 == 3:
            x = list(jax.lax.optimization_barrier(tuple(x)))
    return jnp.stack(x)


def _runs(numbers: list[int]) -> list[slice]:
    """Ascending numbers as slices of neighbours."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n + 1 for n in numbers if n + 1 not in numbers]
    return [slice(a, b) for a, b in zip(starts, ends, strict=True)]


@lru_cache
def _inertia(order: Tree | None) -> Any:
    return _last(lambda matrix, vector: (_solve_spd(list(matrix), vector, order),))


# --- Along a line ---


class _Point(NamedTuple):
    """A place on the line, the cost there and its two derivatives, each [...]."""

    alpha: jax.Array
    cost: jax.Array
    first: jax.Array
    second: jax.Array


def _line_search(
    iterations: int,
    at: jax.Array,
    slope: jax.Array,
    weight: jax.Array,
    gauss: tuple[jax.Array, jax.Array, jax.Array],
    tolerance: jax.Array,
) -> jax.Array:
    """The step's length [...]; at, slope, weight: [R, ...]; gauss: the Gauss cost's quadratic; tolerance: [...]."""
    quad = weight * 0.5 * at * at, weight * at * slope, weight * 0.5 * slope * slope

    def point(alpha: jax.Array) -> _Point:
        active = at + alpha * slope < 0
        a, b, c = (gauss[i] + jnp.sum(jnp.where(active, quad[i], 0), axis=0) for i in range(3))
        return _Point(alpha, alpha * alpha * c + alpha * b + a, 2 * alpha * c + b, 2 * c + (c == 0) * _MINVAL)

    def newton(p: _Point) -> _Point:
        return point(p.alpha - p.first / p.second)

    start = point(jnp.zeros_like(tolerance))
    # No less than rounding leaves of the slope at the start (Cauchy-Schwarz over the active rows).
    rows = jnp.maximum(start.cost - gauss[0], 0) * jnp.maximum(0.5 * start.second - gauss[2], 0)
    scale = 2 * jnp.sqrt(rows) + jnp.abs(gauss[1])
    tolerance = jnp.maximum(tolerance, 8 * jnp.finfo(scale.dtype).eps * scale)

    def good(p: _Point) -> jax.Array:
        return (jnp.abs(p.first) < tolerance) & (p.cost < start.cost)

    def narrow(_: int, carry: tuple[_Point, _Point, jax.Array]) -> tuple[_Point, _Point, jax.Array]:
        lo, hi, moved = carry
        going = moved & ~good(lo) & ~good(hi)
        tried = newton(lo), newton(hi), point(0.5 * (lo.alpha + hi.alpha))
        after_lo, after_hi, middle = tried
        new_lo, new_hi, moved = lo, hi, jnp.zeros_like(moved)
        for p in (after_lo, middle, after_hi):
            better = _nearer(new_lo.first, p.first)
            new_lo, moved = _choose(better, p, new_lo), moved | better
        for p in (after_hi, middle, after_lo):
            better = _nearer(new_hi.first, p.first)
            if p is after_hi:  # a step over the minimum makes a bracket of a search from one side
                better = better | ((hi.first < 0) & (p.first > 0))
            new_hi, moved = _choose(better, p, new_hi), moved | better
        best, found = lo, jnp.zeros_like(moved)
        for p in tried:  # the cheapest that is good ends the search
            cheaper = good(p) & (~found | (p.cost < best.cost))
            best, found = _choose(cheaper, p, best), found | cheaper
        new_lo, new_hi = _choose(found, best, new_lo), _choose(found, best, new_hi)
        return _choose(going, new_lo, lo), _choose(going, new_hi, hi), going & moved & ~found

    first = newton(start)
    lower = first.first < start.first
    carry = _choose(lower, first, start), _choose(lower, start, first), jnp.ones_like(lower)
    lo, hi, _ = jax.lax.fori_loop(0, iterations, narrow, carry)
    improved = (lo.cost < start.cost) | (hi.cost < start.cost)
    return jnp.where(improved, jnp.where(lo.cost < hi.cost, lo.alpha, hi.alpha), 0)


def _nearer(old: jax.Array, new: jax.Array) -> jax.Array:
    """Whether a slope has the old one's sign and is smaller."""
    return ((old < new) & (new < 0)) | ((old > new) & (new > 0))


def _choose(which: jax.Array, yes: _Point, no: _Point) -> _Point:
    return _Point(*(jnp.where(which, a, b) for a, b in zip(yes, no, strict=True)))

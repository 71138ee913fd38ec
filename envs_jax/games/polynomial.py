"""Polynomial games: continuous actions in a box, and payoffs that are polynomials of the joint action.

One step per episode and nothing to see, so that all of a learner's behaviour is in where it moves the joint action.
Everything is known exactly here: payoffs, each player's gradient and best response, the optimum, and the fixed point
that a learner reaches when it believes the other players to act as a fixed dataset does.

Source: CODA (arXiv 2604.23308), section 6.1 and appendix C, after Tilbury et al., "Coordination failure in cooperative
offline MARL" (arXiv 2407.01343). Shape letters: N players, M samples, D degree in a player's own action.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import MultiAgentEnv, Outcome, State, flat_box, pytree, start_clock
from envs_jax.spaces import Box

Numbers = tuple[float, ...]
Rows = tuple[Numbers, ...]


@pytree
class PolynomialState(State):
    """State of a polynomial game.

    actions: float32[N], the joint action played last; the middle of the box before the first.
    """

    actions: jax.Array


@dataclass(frozen=True)
class PolynomialGame(MultiAgentEnv):
    """Any polynomial payoff of N players: payoff_i(a) = sum_k coefficients[i][k] prod_j a_j ** exponents[k][j].

    One step, then the episode terminates. The observation is the constant 0, an action has shape (1,) and is clipped
    to its player's box. Equal coefficients for all make it a common-payoff game, a row for each player a general-sum
    one. The settings' default is multiplication of two.
    """

    num_agents: int = 2
    """Number of players."""
    max_steps: int | None = field(default=1, init=False)
    """Every episode has one step."""
    exponents: tuple[tuple[int, ...], ...] = ((1, 1),)
    """For each monomial, the exponent of each player's action."""
    coefficients: Numbers | Rows = (1.0,)
    """A coefficient for each monomial; or for each player, such a row."""
    low: float | Numbers = -1.0
    """Smallest action, for all players or for each."""
    high: float | Numbers = 1.0
    """Largest action, for all players or for each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("exponents", "coefficients", "low", "high"):  # lists, as from a command line, cannot be hashed
            object.__setattr__(self, name, _as_tuples(getattr(self, name)))
        n, exponents, rows = self.num_agents, self.exponents, self.coefficients
        if not exponents or any(len(row) != n or any(e < 0 or e != int(e) for e in row) for row in exponents):
            raise ValueError(f"exponents is {exponents}; allowed: rows of {n} (num_agents) integers of at least 0")
        if _shape(rows) not in ((len(exponents),), (n, len(exponents))) or not np.isfinite(rows).all():
            raise ValueError(
                f"coefficients is {rows}; allowed: {len(exponents)} finite numbers, one for each of the exponents,"
                f" or a row of these for each of the {n} players"
            )
        for name in ("low", "high"):
            if _shape(getattr(self, name)) not in ((), (n,)) or not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: a finite number, or one for each player")
        if not (self.bounds()[0] < self.bounds()[1]).all():
            raise ValueError(f"low is {self.low}; allowed: numbers below high, which is {self.high}")

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """`(low, high)` of each player's actions, float64[N]."""
        low, high = (np.broadcast_to(np.asarray(x, np.float64), self.num_agents) for x in (self.low, self.high))
        return low, high

    def init(self, key: jax.Array) -> PolynomialState:
        return PolynomialState(**start_clock(), actions=jnp.asarray(np.mean(self.bounds(), axis=0), jnp.float32))

    def transition(self, key: jax.Array, state: PolynomialState, actions: jax.Array) -> tuple[PolynomialState, Outcome]:
        low, high = (bound.astype(np.float32) for bound in self.bounds())
        played = jnp.clip(actions[:, 0], low, high).astype(jnp.float32)
        outcome = Outcome(payoff(self, played), jnp.asarray(True), jnp.asarray(False), info={})
        return state.replace(actions=played), outcome

    def observe(self, state: PolynomialState) -> jax.Array:
        return jnp.zeros((self.num_agents, 1), jnp.float32)

    def global_state(self, state: PolynomialState) -> jax.Array:
        """The constant 0, float32[1]."""
        return jnp.zeros(1, jnp.float32)

    def observation_space(self, agent: str | None = None) -> Box:
        return flat_box(1, 0.0, 0.0)

    def action_space(self, agent: str | None = None) -> Box:
        """A player's own box; for all players together, the smallest that holds each."""
        low, high = self.bounds()
        if agent is None:
            return flat_box(1, float(low.min()), float(high.max()))
        player = self.agents.index(agent)
        return flat_box(1, float(low[player]), float(high[player]))

    def render(self, state: PolynomialState) -> np.ndarray:
        """Two players' joint action on the surface of the (first player's) payoff; NotImplementedError for others."""
        if self.num_agents != 2:
            raise NotImplementedError(f"render shows games of 2 players; this one has {self.num_agents}")
        played = np.asarray(state.actions)[None, None] if int(state.step) else None  # nothing yet in a new episode
        return heat_map(self, trajectories=played, size=(4.0, 3.4))


@dataclass(frozen=True)
class Multiplication(PolynomialGame):
    """R = a_1 a_2 ... a_N on [-1, 1], common payoff: players must agree on signs. Optimum 1.

    Source: CODA section 6.1 ("sign agreement") for two players; more are this package's extension.
    """

    exponents: tuple[tuple[int, ...], ...] = field(init=False)
    coefficients: Numbers = field(default=(1.0,), init=False)
    low: float = field(default=-1.0, init=False)
    high: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        self._check_num_agents()
        object.__setattr__(self, "exponents", ((1,) * self.num_agents,))
        super().__post_init__()


@dataclass(frozen=True)
class TwinPeaks(PolynomialGame):
    """R = -A (x^2 + y^2) - B (x y)^2 + C x y on [-1, 1]^2, common payoff: two peaks and a saddle at 0.

    With A, B > 0 and C > 2A the peaks are at x = y = ±sqrt((C - 2A) / 2B) and worth (C - 2A)^2 / 4B, unless that lies
    outside the box. Source: CODA section 6.1. Raises ValueError for other coefficients.
    """

    a: float = 1.0
    """A, the weight of each player's own action squared."""
    b: float = 4.0
    """B, the weight of the product squared."""
    c: float = 5.0
    """C, the weight of the product."""
    exponents: tuple[tuple[int, ...], ...] = field(default=((2, 0), (0, 2), (2, 2), (1, 1)), init=False)
    coefficients: Numbers = field(init=False)
    low: float = field(default=-1.0, init=False)
    high: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        if self.num_agents != 2:
            raise ValueError(f"num_agents is {self.num_agents}; allowed: 2, for which Twin Peaks is defined")
        if self.a <= 0 or self.b <= 0:
            raise ValueError(f"a, b are {self.a}, {self.b}; allowed: numbers above 0")
        if self.c <= 2 * self.a:
            raise ValueError(f"c is {self.c}; allowed: a number above 2 a = {2 * self.a}, for there to be two peaks")
        object.__setattr__(self, "coefficients", (-self.a, -self.a, -self.b, self.c))
        super().__post_init__()


@dataclass(frozen=True)
class ActionAgreement(PolynomialGame):
    """R = -sum_{i<j} (a_i - a_j)^2 on [-1, 1], common payoff: players must agree, on whatever. Optimum 0.

    Source: Tilbury et al., for two players, as the CODA notes recall it; more are this package's extension.
    """

    exponents: tuple[tuple[int, ...], ...] = field(init=False)
    coefficients: Numbers = field(init=False)
    low: float = field(default=-1.0, init=False)
    high: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        self._check_num_agents()
        # the sum of all (a_i - a_j)^2 is (N - 1) sum_i a_i^2 - 2 sum_{i<j} a_i a_j
        n, one = self.num_agents, np.eye(self.num_agents, dtype=int)
        if n < 2:
            raise ValueError(f"num_agents is {n}; allowed: an integer of at least 2")
        pairs = list(itertools.combinations(range(n), 2))
        exponents = [*(2 * one), *(one[i] + one[j] for i, j in pairs)]
        object.__setattr__(self, "exponents", tuple(tuple(int(e) for e in row) for row in exponents))
        object.__setattr__(self, "coefficients", (-float(n - 1),) * n + (2.0,) * len(pairs))
        super().__post_init__()


# --- Rules and calculus: plain functions of a game and a joint action ---


def payoff(game: PolynomialGame, actions: jax.Array) -> jax.Array:
    """What each player gets, float32[..., N] for `actions` [..., N]."""
    powers = _powers(game, actions)  # (..., K, N)
    monomials = jnp.prod(powers, axis=-1)
    # not a matrix product, which accelerators may round to fewer digits
    return jnp.sum(monomials[..., None, :] * _coefficients(game), axis=-1)


def gradient_field(game: PolynomialGame, actions: jax.Array) -> jax.Array:
    """The derivative of each player's payoff by its own action, float32[..., N] for `actions` [..., N].

    The field that independent gradient ascent follows on-policy; for a common payoff, its gradient.
    """
    powers, slopes = _powers(game, actions), _slopes(game, actions)
    return _own_derivative(game, slopes, _products_of_others(powers))


def expected_gradient(game: PolynomialGame, actions: jax.Array, others_samples: jax.Array) -> jax.Array:
    """`gradient_field` where each player's own action is its policy's and the others' are the dataset's.

    actions: [N], the deterministic policies. others_samples: [M, N], joint actions of a dataset; for player i, the
    expectation is over all columns but the i-th, jointly, so that others' monomials become their sample moments.
    Returns float32[N]. This is "best response under data" (BRUD), what an offline multi-agent actor follows: it sees
    of the others only their moments, and so is blind to how they change. Source: CODA appendix C, for any polynomial.
    """
    return _own_derivative(game, _slopes(game, actions), _others_moments(game, others_samples))


def best_response(game: PolynomialGame, actions: jax.Array, player: int) -> jax.Array:
    """The action in `player`'s box with the highest own payoff, others acting as in `actions` [N]; float32[].

    The payoff is a polynomial in the own action alone. Up to degree 2 its maximum is in closed form; above, all points
    where the slope vanishes are found by bisection, to float32 precision (see `maximise_polynomial`). The player's own
    entry in `actions` is ignored; ties go to the lowest action. Raises ValueError where there is no such player.
    """
    if not 0 <= player < game.num_agents:
        raise ValueError(f"player is {player}; allowed: 0 to {game.num_agents - 1}")
    return _maximise_own(game, _products_of_others(_powers(game, actions)), player)


def expected_best_response(game: PolynomialGame, others_samples: jax.Array) -> jax.Array:
    """Each player's best action in its box when the others act as the dataset `others_samples` [M, N]; float32[N].

    The fixed point of ascent on `expected_gradient` (the highest, if there are several), since there no player's field
    depends on the others' policies. In Twin Peaks: x = C E[y] / (2A + 2B E[y^2]), (0, 0) for centred data.
    """
    moments = _others_moments(game, others_samples)
    return jnp.stack([_maximise_own(game, moments, player) for player in range(game.num_agents)])


def maximise_polynomial(coefficients: jax.Array, low: Any, high: Any) -> jax.Array:
    """Where in [low, high] the polynomial sum_d coefficients[d] x^d is largest; scalar, ties go to the lowest x.

    coefficients: float32[D+1], D static. For D > 2 it works up from the last derivative that is linear: between the
    roots of one derivative, the derivative before it is monotone, so that bisection finds its root there, if any.
    Only real arithmetic, no eigenvalues: it runs on any device, vmaps, and does not mind leading zeros. The error of
    the maximum's place is that of float32 where the slope changes sign, so up to about 1e-3 where maxima are very flat
    (the payoff is as good there).
    """
    degree = coefficients.shape[0] - 1
    low, high = jnp.asarray(low, coefficients.dtype), jnp.asarray(high, coefficients.dtype)
    points = [low, high]
    if degree == 2:
        slope, curve = coefficients[1], 2 * coefficients[2]
        peak = -slope / jnp.where(curve < 0, curve, 1)
        points.insert(1, jnp.where(curve < 0, jnp.clip(peak, low, high), low))
    elif degree > 2:
        derivatives = [coefficients]
        for _ in range(degree - 1):
            last = derivatives[-1]
            derivatives.append(last[1:] * jnp.arange(1, last.shape[0], dtype=last.dtype))
        for derivative in reversed(derivatives[1:]):
            roots = [_bisect(derivative, left, right) for left, right in itertools.pairwise(points)]
            points = [low, *roots, high]
    candidates = jnp.stack(points)
    return candidates[jnp.argmax(_evaluate(coefficients, candidates))]


class Optimum(NamedTuple):
    """The best joint actions of a common-payoff game.

    payoff: what each player gets there.
    actions: float64[M, N], the maximisers.
    connected: whether all points between them are maximisers, too (else they are isolated).
    """

    payoff: float
    actions: np.ndarray
    connected: bool


def optimum(game: PolynomialGame) -> Optimum:
    """The optimum of a named game in closed form; ValueError for a `PolynomialGame` given by its coefficients."""
    if isinstance(game, Multiplication):
        corners = np.array(list(itertools.product((-1.0, 1.0), repeat=game.num_agents)))
        return Optimum(1.0, corners[corners.prod(axis=1) > 0], connected=False)
    if isinstance(game, TwinPeaks):
        # On x y = p, x = y is best, with value (C - 2A) p - B p^2; p is in [0, 1] there.
        product = min((game.c - 2 * game.a) / (2 * game.b), 1.0)
        peak = float(np.sqrt(product))
        value = (game.c - 2 * game.a) * product - game.b * product**2
        return Optimum(value, np.array([[-peak, -peak], [peak, peak]]), connected=False)
    if isinstance(game, ActionAgreement):
        ends = np.ones((2, game.num_agents)) * np.array([[-1.0], [1.0]])
        return Optimum(0.0, ends, connected=True)
    raise ValueError(
        f"game is {game}; allowed: Multiplication, TwinPeaks, ActionAgreement (best_response has no limit)"
    )


# --- Inside ---


def _as_tuples(x: Any) -> Any:
    """Nested lists and arrays as nested tuples."""
    return tuple(_as_tuples(item) for item in x) if isinstance(x, list | tuple | np.ndarray) else x


def _shape(rows: Any) -> tuple[int, ...] | None:
    """The shape of nested tuples; None where they are ragged."""
    if not isinstance(rows, tuple):
        return ()
    inner = {_shape(row) for row in rows}
    return None if len(inner) != 1 or None in inner else (len(rows), *inner.pop())  # type: ignore[misc]


def _coefficients(game: PolynomialGame) -> np.ndarray:
    """A row for each player, float32[N, K]."""
    return np.broadcast_to(np.asarray(game.coefficients, np.float32), (game.num_agents, len(game.exponents)))


def _power_table(game: PolynomialGame, actions: jax.Array) -> jax.Array:
    """a_j ** d for all d that occur, float32[..., N, D+1]; products rather than `**`, exact at 0 and for negatives."""
    actions = jnp.asarray(actions, jnp.float32)
    table = [jnp.ones_like(actions)]
    for _ in range(int(np.max(game.exponents))):
        table.append(table[-1] * actions)
    return jnp.stack(table, axis=-1)


def _powers(game: PolynomialGame, actions: jax.Array) -> jax.Array:
    """Each player's factor in each monomial, float32[..., K, N]."""
    return _power_table(game, actions)[..., np.arange(game.num_agents), np.asarray(game.exponents)]


def _slopes(game: PolynomialGame, actions: jax.Array) -> jax.Array:
    """The derivative of each player's factor in each monomial, float32[..., K, N]."""
    exponents = np.asarray(game.exponents)
    lower = _power_table(game, actions)[..., np.arange(game.num_agents), np.maximum(exponents - 1, 0)]
    return lower * exponents.astype(np.float32)


def _products_of_others(powers: jax.Array) -> jax.Array:
    """For each monomial and player, the product of the other players' factors, [..., K, N]."""
    others = ~np.eye(powers.shape[-1], dtype=bool)
    return jnp.prod(jnp.where(others, powers[..., None, :], 1.0), axis=-1)


def _others_moments(game: PolynomialGame, samples: jax.Array) -> jax.Array:
    """For each monomial and player, the mean over samples [M, N] of the others' part, float32[K, N]."""
    return jnp.mean(_products_of_others(_powers(game, samples)), axis=0)


def _own_derivative(game: PolynomialGame, slopes: jax.Array, others: jax.Array) -> jax.Array:
    """[..., N] from each monomial's own slope and others' part [..., K, N]."""
    return jnp.sum(_coefficients(game).T * slopes * others, axis=-2)


def _maximise_own(game: PolynomialGame, others: jax.Array, player: int) -> jax.Array:
    """Where in its box `player`'s payoff is largest, given the others' part of each monomial [K, N]."""
    own = np.asarray(game.exponents)[:, player]
    terms = _coefficients(game)[player] * others[:, player]  # (K,)
    by_degree = jnp.stack([jnp.sum(terms * (own == d)) for d in range(int(own.max()) + 1)])
    low, high = game.bounds()
    return maximise_polynomial(by_degree.astype(jnp.float32), np.float32(low[player]), np.float32(high[player]))


def _evaluate(coefficients: jax.Array, x: jax.Array) -> jax.Array:
    """The polynomial at `x`, by Horner's scheme."""
    value: jax.Array = jnp.zeros_like(x)
    for d in reversed(range(coefficients.shape[0])):
        value = value * x + coefficients[d]
    return value


def _bisect(coefficients: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    """The root in [left, right] of a polynomial that is monotone there; one of the ends where there is none."""
    at_left = _evaluate(coefficients, left)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, right = ends
        middle = 0.5 * (left + right)
        same_side = (_evaluate(coefficients, middle) > 0) == (at_left > 0)
        return jnp.where(same_side, middle, left), jnp.where(same_side, right, middle)

    left, right = jax.lax.fori_loop(0, 40, halve, (left, right))  # 2^-40: past float32's resolution
    return 0.5 * (left + right)


# --- Drawing ---


def heat_map(
    game: PolynomialGame,
    trajectories: Any = None,
    player: int = 0,
    *,
    labels: list[str] | None = None,
    title: str | None = None,
    size: tuple[float, float] = (6.0, 5.0),
    resolution: int = 201,
) -> np.ndarray:
    """A two-player game's payoff over the joint actions, with paths of joint actions on it: uint8[height, width, 3].

    trajectories: [T, 2], or several as [S, T, 2] or a list of [T, 2]; a circle marks the start, a cross the end.
    player: whose payoff. labels: one for each trajectory, for a legend. title: None for the game's name.
    size: in inches, of 100 pixels. resolution: points per axis. White stars, or a white line, mark the optimum: in
    closed form for the named games, otherwise the best point of the grid.
    Raises ValueError for more or fewer than two players, or no such player. Needs matplotlib.
    """
    if game.num_agents != 2:
        raise ValueError(f"num_agents is {game.num_agents}; allowed: 2, for a heat map")
    if player not in (0, 1):
        raise ValueError(f"player is {player}; allowed: 0 or 1")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    low, high = game.bounds()
    x, y = (np.linspace(low[i], high[i], resolution) for i in (0, 1))
    joint = np.stack(np.meshgrid(x, y), axis=-1)  # (y, x, 2)
    rows = np.asarray(_coefficients(game), np.float64)
    factors = joint[..., None, :] ** np.asarray(game.exponents)
    surface = factors.prod(axis=-1) @ rows[player]

    figure = Figure(figsize=size, dpi=100, layout="tight")
    canvas = FigureCanvasAgg(figure)
    ax = figure.subplots()
    picture = ax.pcolormesh(x, y, surface, cmap="viridis", shading="gouraud")
    levels = np.unique(np.quantile(surface, np.linspace(0.05, 0.98, 14)))  # by area, so that flat tops show, too
    if len(levels) > 1:
        ax.contour(x, y, surface, levels=levels, colors="white", linewidths=0.6, alpha=0.5)
    beside = make_axes_locatable(ax).append_axes("right", size="5%", pad=0.15)  # as tall as the picture
    common = bool((rows[0] == rows[1]).all())
    figure.colorbar(picture, cax=beside, label="payoff" if common else f"payoff of player {player}")
    _mark_optimum(ax, game, joint, surface)
    for i, path in enumerate(_paths(trajectories)):
        color = ("#e41a1c", "#000000", "#ffffff", "#d100d1", "#1f4fff")[i % 5]
        ax.plot(path[:, 0], path[:, 1], color=color, linewidth=1.8, label=labels[i] if labels else None)
        ends = {"color": color, "markeredgecolor": "black", "zorder": 5, "clip_on": False}
        if len(path) > 1:
            ax.plot(*path[0], "o", markersize=7, **ends)
        ax.plot(*path[-1], "X", markersize=10, **ends)
    if labels:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=3, fontsize=8, frameon=False)
    ax.set(xlabel="action of player 0", ylabel="action of player 1", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    ax.set_title(_words(type(game).__name__) if title is None else title)
    ax.set_aspect("equal")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _paths(trajectories: Any) -> list[np.ndarray]:
    """Each trajectory as [T, 2]."""
    if trajectories is None:
        return []
    paths = [np.asarray(path, np.float64) for path in trajectories]
    if paths and paths[0].ndim == 1:
        paths = [np.stack(paths)]
    for path in paths:
        if path.ndim != 2 or path.shape[1] != 2 or len(path) == 0:
            raise ValueError(f"trajectories holds one of shape {path.shape}; allowed: [T, 2] with T of at least 1")
    return paths


def _mark_optimum(ax: Any, game: PolynomialGame, joint: np.ndarray, surface: np.ndarray) -> None:
    try:
        best = optimum(game)
    except ValueError:
        best = Optimum(float(surface.max()), joint[np.unravel_index(surface.argmax(), surface.shape)][None], False)
    if best.connected:
        ax.plot(best.actions[:, 0], best.actions[:, 1], "--", color="white", linewidth=2)
    else:
        x, y = best.actions.T
        ax.plot(x, y, "*", color="white", markeredgecolor="black", markersize=16, linestyle="none", clip_on=False)


def _words(name: str) -> str:
    """`TwinPeaks` as `Twin peaks`."""
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    return spaced.capitalize()

"""Normalisers: exact ways back, normal on the other side, and nothing lost on constants, ties and tails."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from covey.diffusion import normaliser
from covey.diffusion.normaliser import SIGMA_DATA

RNG = np.random.default_rng(0)
M = 5000
ROWS = np.stack(
    [
        RNG.normal(size=M) * 3 - 7,
        RNG.uniform(-1, 1, M),
        np.full(M, 2.5),  # constant
        RNG.exponential(size=M) ** 2,  # heavy tail
        (RNG.random(M) < 0.03).astype(float),  # done
        RNG.integers(0, 5, M) / 4,  # discrete
        np.clip(RNG.normal(size=M), -0.5, 0.5),  # two atoms and a density
    ],
    axis=1,
)


@pytest.mark.parametrize("kind", SIGMA_DATA)
def test_round_trip_is_exact_to_a_thousandth_of_the_range(kind):
    fitted = normaliser.fit(ROWS, kind)
    assert fitted.varying == (0, 1, 3, 4, 5, 6) and fitted.table.shape[1] <= 1024
    z = fitted.forward(jnp.asarray(ROWS, jnp.float32))
    back = np.asarray(fitted.inverse(z))
    spread = np.ptp(ROWS, axis=0)
    assert np.all(np.abs(back - ROWS).max(axis=0) <= 1e-3 * spread + 1e-6)
    assert np.array_equal(back[:, 2], ROWS[:, 2]), "constants come back exactly"
    assert np.isfinite(z).all()


@pytest.mark.parametrize("kind,cdf", [("probit", stats.norm.cdf), ("logit", stats.logistic.cdf)])
def test_quantile_maps_give_their_distribution(kind, cdf):
    fitted = normaliser.fit(ROWS, kind)
    z = np.asarray(fitted.forward(jnp.asarray(ROWS, jnp.float32)))
    for channel in (0, 1, 2):  # those without ties
        assert stats.kstest(z[:, channel], cdf).statistic < 2e-3
        assert abs(z[:, channel].std() / SIGMA_DATA[kind] - 1) < 0.02
    assert np.abs(z).max() <= normaliser.CAP * SIGMA_DATA[kind] + 1e-4, "tails are capped"
    assert np.allclose(-z[:, 0].min(), z[:, 0].max(), atol=1e-3), "and alike: mid-ranks, not ranks"


def test_ties_sit_in_the_middle_of_their_ranks():
    """A channel that is 0 in 97 of 100 rows and 1 in the others: mid-ranks 0.485 and 0.985."""
    rows = np.repeat([[0.0], [1.0]], [97, 3], axis=0)
    z = np.asarray(normaliser.fit(rows, "probit").forward(jnp.asarray(rows, jnp.float32)))[:, 0]
    half = stats.norm.ppf([0.5 / 100, 0.97, 1 - 0.5 / 100])
    assert abs(z[0] - half[:2].mean()) < 0.05 and abs(z[-1] - half[1:].mean()) < 0.05


def test_generated_values_stay_within_the_data():
    for kind in SIGMA_DATA:
        fitted = normaliser.fit(ROWS, kind)
        back = np.asarray(fitted.inverse(jnp.asarray(RNG.normal(size=(100, 6)) * 20, jnp.float32)))
        slack = 1e-6 * np.ptp(ROWS, axis=0)
        assert (back >= ROWS.min(axis=0) - slack).all() and (back <= ROWS.max(axis=0) + slack).all()


def test_some_channels_alone_are_mapped_like_all_together():
    fitted = normaliser.fit(ROWS, "probit")
    rows = jnp.asarray(ROWS[:50], jnp.float32)
    z = fitted.forward(rows)
    assert np.array_equal(fitted.forward(rows[:, np.array([1, 4])], (1, 3)), z[:, np.array([1, 3])])
    assert np.array_equal(fitted.inverse(z[:, np.array([1, 3])], (1, 3)), fitted.inverse(z)[:, np.array([1, 4])])


@pytest.mark.parametrize(
    "rows,kind,message",
    [
        (ROWS, "cdf", "normaliser is 'cdf'; allowed: probit"),
        (ROWS[0], "probit", r"rows has shape \(7,\)"),
        (np.where(ROWS == 1.0, np.nan, ROWS), "probit", r"not finite in channels \[4 5\]"),
        (np.ones((3, 2)), "probit", "2 channels, all constant"),
    ],
)
def test_bad_data_is_named(rows, kind, message):
    with pytest.raises(ValueError, match=message):
        normaliser.fit(rows, kind)


@pytest.mark.parametrize("kind", ["probit", "zscore"])
def test_copies_are_left_out_and_put_back(kind):
    """Of the channels that may be: 2 repeats 0, 4 is constant, 3 repeats 1 but has to be diffused all the same."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 5)).astype(np.float32)
    rows[:, 2], rows[:, 3], rows[:, 4] = rows[:, 0], rows[:, 1], 2.0
    fitted = normaliser.fit(rows, kind, may_be_copies=(0, 1, 2, 4))
    assert fitted.varying == (0, 1, 3) and fitted.copies == ((2, 0),)
    back = np.asarray(fitted.inverse(fitted.forward(jnp.asarray(rows))))
    assert np.array_equal(back[:, 2], back[:, 0]) and np.allclose(back, rows, atol=0.05)
    moved = np.asarray(fitted.inverse(jnp.full((1, 3), 0.7)))
    assert moved[0, 2] == moved[0, 0] and moved[0, 4] == 2.0

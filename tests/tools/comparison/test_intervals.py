"""Intervals and what they tell, against scipy and by hand."""

import math

import numpy as np
import pytest
from comparison.intervals import Estimate, estimate, outcome, seeds_needed, t_quantile
from scipy import stats


def test_quantiles_are_scipys():
    probabilities = [*np.linspace(0.6, 0.9995, 25).tolist(), 0.001, 0.025, 0.4]
    for degrees in [*range(1, 201), 9_999]:
        expected = stats.t.ppf(probabilities, degrees)
        found = [t_quantile(probability, degrees) for probability in probabilities]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_quantiles_by_hand():
    """One degree is Cauchy's distribution: tan(pi (p - 1/2)). Two: (2p - 1) / sqrt(2 p (1 - p))."""
    assert t_quantile(0.75, 1) == pytest.approx(1, rel=1e-14)
    assert t_quantile(0.9, 2) == pytest.approx(0.8 / math.sqrt(0.18), rel=1e-14)
    assert t_quantile(0.5, 7) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(('probability', 'degrees'), [(0, 3), (1, 3), (math.nan, 3), (0.9, 0)])
def test_quantiles_that_do_not_exist(probability, degrees):
    with pytest.raises(ValueError, match=f'>= 1, got {probability} and {degrees}'):
        t_quantile(probability, degrees)


def test_estimate_by_hand():
    """Mean 0.4; deviation sqrt((0.01 + 0 + 0.01) / 2) = 0.1; t(0.975, 2) = 4.302653.

    The half of the interval is 4.302653 * 0.1 / sqrt(3) = 0.248414.
    """
    found = estimate([0.3, 0.4, 0.5])
    assert found.count == 3
    assert (found.mean, found.deviation) == pytest.approx((0.4, 0.1))
    assert (found.low, found.high) == pytest.approx((0.151586, 0.648414), abs=1e-6)


def test_equal_values_are_an_interval_of_one_point():
    assert estimate([0.1] * 3) == Estimate(3, 0.1, 0, 0.1, 0.1)
    assert outcome(estimate([0.1] * 3)) == 'higher'
    assert outcome(estimate([-0.1] * 2)) == 'lower'
    assert outcome(estimate([0.0] * 3)) == 'no difference seen'


@pytest.mark.parametrize(
    ('values', 'mean', 'text'),
    [
        ([], math.nan, 'not measured'),
        ([0.5], 0.5, 'one seed: cannot tell'),
        ([0.5, math.nan, 0.5], math.nan, 'not measured'),
        ([math.inf], math.nan, 'not measured'),
    ],
)
def test_values_without_an_interval(values, mean, text):
    found = estimate(values)
    expected = (len(values), mean, math.nan, math.nan, math.nan)
    assert np.array_equal(list(vars(found).values()), expected, equal_nan=True)
    assert outcome(found) == text
    assert seeds_needed(values) is None


def test_intervals_and_outcomes_are_those_of_scipy():
    """The outcome is 'no difference seen' where the paired t test has p >= 0.05, else its sign."""
    random, counts = np.random.default_rng(0), {}
    for _ in range(2000):
        n = int(random.integers(2, 8))
        first = random.normal(0.4, 0.02, n)
        second = first + random.normal(random.choice([-0.02, 0, 0.02]), 0.01, n)
        differences = (second - first).tolist()
        found, test = estimate(differences), stats.ttest_rel(second, first)
        spread = dict(loc=np.mean(differences), scale=stats.sem(differences))
        np.testing.assert_allclose(
            (found.low, found.high), stats.t.interval(0.95, n - 1, **spread), rtol=1e-9, atol=1e-12
        )
        sign = 'higher' if test.statistic > 0 else 'lower'
        expected = 'no difference seen' if test.pvalue >= 0.05 else sign
        assert outcome(found) == expected
        counts[expected] = counts.get(expected, 0) + 1
    assert min(counts.values()) > 200


@pytest.mark.parametrize(
    ('differences', 'seeds'),
    [
        ([0.01, 0.03], 7),  # (2.571 + 0.920)^2 / 2 = 6.09 > 6; (2.447 + 0.906)^2 / 2 = 5.6 <= 7
        ([0.02, 0.02, 0.02], 2),
        ([0.0, 0.0], None),
        ([-0.01, 0.01], None),
        ([1.0, 1.0 + 1e-9], 2),
    ],
)
def test_seeds_needed_by_hand(differences, seeds):
    assert seeds_needed(differences) == seeds


def test_seeds_needed_have_the_power_of_the_noncentral_t():
    least = {2: 0.73, 3: 0.76, 4: 0.78}

    def power(n: int) -> float:
        return stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, math.sqrt(n) / ratio)

    for ratio in np.geomspace(0.1, 20, 150):
        n = seeds_needed([1 - ratio / math.sqrt(2), 1 + ratio / math.sqrt(2)])
        assert power(n) >= least.get(n, 0.79)
        assert n < 4 or power(n - 2) < 0.8


def test_seeds_needed_stop_at_10_000():
    """At large n the condition is n >= ((1.960 + 0.842) ratio)^2: ratio 35.69 at 10,000."""
    for ratio, expected in ((35.6, True), (35.8, False)):
        found = seeds_needed([1 - ratio / math.sqrt(2), 1 + ratio / math.sqrt(2)])
        assert (found is not None) == expected

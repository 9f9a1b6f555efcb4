"""Means over seeds with intervals, and what their differences tell, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, mean, stdev

_MOST_SEEDS = 10_000
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """The mean of some values and its 95 % interval.

    `deviation` is the standard deviation of the values, with n - 1. It and the interval are nan
    for fewer than two values; all are nan for no value, or if one is not finite.
    """

    count: int
    mean: float
    deviation: float
    low: float
    high: float


@cache
def t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t with so many degrees of freedom, an integer from 1.

    Raises:
        ValueError: the probability is not between 0 and 1, or the degrees are below 1.
    """
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError(
            'expected a probability between 0 and 1 and degrees of freedom >= 1, '
            f'got {probability} and {degrees}'
        )
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    # Newton's method: the probability is concave in the angle, so steps from below stay below.
    gammas = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    slope = 2 * math.exp(gammas) / math.sqrt(math.pi)
    angle = math.atan(_NORMAL.inv_cdf(probability) / math.sqrt(degrees))
    step = math.inf
    while step > 1e-15 * angle:
        missing = 2 * probability - 1 - _central_probability(angle, degrees)
        step = missing / (slope * math.cos(angle) ** (degrees - 1))
        angle += max(step, 0)
    return math.sqrt(degrees) * math.tan(angle)


def _central_probability(angle: float, degrees: int) -> float:
    """P(|t| < sqrt(degrees) * tan(angle)), Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd, square = degrees % 2, math.cos(angle) ** 2
    term = math.cos(angle) if odd else 1.0
    terms = [term] if degrees > 1 else []
    for power in range(2 + odd, degrees - 1, 2):
        term *= square * (power - 1) / power
        terms.append(term)
    total = math.sin(angle) * math.fsum(terms)
    return 2 / math.pi * (angle + total) if odd else total


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean with its 95 % interval, mean ± t(0.975, n - 1) * deviation / sqrt(n)."""
    count = len(values)
    if not count or not all(map(math.isfinite, values)):
        return Estimate(count, *[math.nan] * 4)
    middle = mean(values)  # exact: of equal values it is the value, and the deviation 0
    if count < 2:
        return Estimate(count, middle, *[math.nan] * 3)
    deviation = stdev(values)
    half = t_quantile(0.975, count - 1) * deviation / math.sqrt(count)
    return Estimate(count, middle, deviation, middle - half, middle + half)


def seeds_needed(differences: Sequence[float]) -> int | None:
    """Return how many seeds would show a mean difference as large as this one, from 2 up.

    It is the smallest n >= ((t(0.975, n - 1) + t(0.8, n - 1)) * deviation / mean)^2, for a power of
    80 % of the paired t test at the 5 % level. The exact power is at least 0.79 from n = 5 up
    (0.73, 0.76 and 0.78 at 2, 3 and 4), and below 0.8 with two seeds fewer. None: fewer than two
    differences, one that is not finite, a mean of 0, or more than 10,000 seeds.
    """
    found = estimate(differences)
    if math.isnan(found.deviation) or found.mean == 0:
        return None
    ratio = found.deviation / abs(found.mean)
    root = ratio * (_NORMAL.inv_cdf(0.975) + _NORMAL.inv_cdf(0.8))  # of n, but for t's larger tails
    if root * root > _MOST_SEEDS:
        return None
    for count in range(max(2, math.ceil(root * root)), _MOST_SEEDS + 1):
        quantiles = t_quantile(0.975, count - 1) + t_quantile(0.8, count - 1)
        if count >= (quantiles * ratio) ** 2:
            return count
    return None


def outcome(difference: Estimate) -> str:
    """Return what an interval of differences tells, a two-sided t test at the 5 % level.

    'higher' or 'lower' (0 is outside), 'no difference seen', 'one seed: cannot tell', or 'not
    measured' (no pair, or a value that is not finite).
    """
    if math.isnan(difference.mean):
        return 'not measured'
    if difference.count < 2:
        return 'one seed: cannot tell'
    if difference.low > 0 or difference.high < 0:
        return 'higher' if difference.low > 0 else 'lower'
    return 'no difference seen'

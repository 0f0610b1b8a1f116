"""Statistics over few seeds: mean, spread, paired t-test and Holm's correction.

The test is Student's t on the differences of equal seeds: two methods that share a seed share
classes, hospitals, images and first weights, so most of the spread between seeds cancels. With
three seeds a rank test could never fall below p = 0.25 (all signs equal: 2 of 2^3), which is why
Wilcoxon's is not used; the t test leans on differences being roughly normal, which three numbers
cannot show. So n is always printed, p values are corrected for the number of comparisons (Holm),
and "not distinguished" never means "equal".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, cos, pi, sin, sqrt

LEVEL = 0.05
_BISECTIONS = 200


@dataclass(frozen=True)
class Spread:
    """Mean and spread over seeds.

    Args:
        mean: Of the values.
        deviation: Sample standard deviation (n - 1); none for a single value.
        count: Number of values, n.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class PairedTest:
    """A method against the reference, seed by seed.

    Args:
        difference: Mean of method minus reference.
        low: Lower end of the 95 % interval of the difference; none with a single pair.
        high: Its upper end.
        probability: Two-sided p of "no difference"; none with a single pair.
        count: Number of pairs, n.
    """

    difference: float
    low: float | None
    high: float | None
    probability: float | None
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and spread; nothing where nothing was measured."""
    if not values:
        return None
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Spread(mean, None, 1)
    return Spread(
        mean, sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)), len(values)
    )


def paired_test(method: Sequence[float], reference: Sequence[float]) -> PairedTest | None:
    """Compare two methods over the seeds that both have.

    Args:
        method: One value per seed.
        reference: The reference's value of the same seed at each place.

    Returns:
        Difference, interval and p; nothing without a pair.
    """
    differences = spread([one - other for one, other in zip(method, reference, strict=True)])
    if differences is None or differences.deviation is None:
        return None if differences is None else PairedTest(differences.mean, None, None, None, 1)
    freedom = differences.count - 1
    error = differences.deviation / sqrt(differences.count)
    reach = student_quantile(1 - LEVEL / 2, freedom) * error
    if error == 0:  # not a sign of certainty but of identical runs, or of rounded numbers
        probability = 1.0 if differences.mean == 0 else 0.0
    else:
        probability = 2 * (1 - student_cumulative(abs(differences.mean) / error, freedom))
    return PairedTest(
        differences.mean,
        differences.mean - reach,
        differences.mean + reach,
        probability,
        differences.count,
    )


def holm(probabilities: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for their number, step-down after Holm (1979); none stays none."""
    known = sorted((value, place) for place, value in enumerate(probabilities) if value is not None)
    corrected: list[float | None] = [None] * len(probabilities)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        corrected[place] = largest
    return corrected


def student_cumulative(statistic: float, freedom: int) -> float:
    """Return P(T <= statistic) of Student's t.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, equations 26.7.3 and 26.7.4:
    a finite sum for whole degrees of freedom, so no library is needed.

    Args:
        statistic: t.
        freedom: Degrees of freedom, 1 or more.
    """
    angle = atan(statistic / sqrt(freedom))
    square = cos(angle) ** 2
    term, total = (cos(angle), 0.0) if freedom % 2 else (1.0, 0.0)
    for step in range(freedom // 2):
        total += term
        term *= square * (
            (2 * step + 2) / (2 * step + 3) if freedom % 2 else (2 * step + 1) / (2 * step + 2)
        )
    within = 2 / pi * (angle + sin(angle) * total) if freedom % 2 else sin(angle) * total
    return (1 + within) / 2


def student_quantile(probability: float, freedom: int) -> float:
    """Return the t below which a share of Student's distribution lies, by bisection.

    ``probability`` in [0.5, 1).
    """
    if not 0.5 <= probability < 1:
        raise ValueError(
            f"probability is {probability}; allowed: 0.5 to below 1; the quantile of 1 is infinite"
        )
    low, high = 0.0, 1.0
    while student_cumulative(high, freedom) < probability:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if student_cumulative(middle, freedom) < probability else (low, middle)
        )
    return (low + high) / 2

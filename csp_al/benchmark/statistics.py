"""Success rates, medians and ratios of runs of which some never find what they look for.

A run that never found it counts as one that took infinitely long: it is not dropped, and a median is finite only where
more than half of the runs succeeded. Of an even number of campaigns the upper of the two middle ones is taken, which
favours the control. Where the control's median is not reached within its pools, the ratio of medians is a lower bound
and says so. Beside the median stands the expected number of evaluations until success when runs are repeated, all that
was spent over the number of successes (N. Hansen et al., Optim. Methods Softw. 36, 114 (2021),
doi:10.1080/10556788.2020.1808977), which is finite as soon as one run succeeded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from csp_al.structures import Floats, Ints

ORDERS = 1000
"""Random orders of a pool, over which the control is averaged."""
RESAMPLES = 2000
LEVEL = 0.95
FEWEST = 6
"""Seeds that an interval of medians or expectations needs: the range of fewer holds the median less often than `LEVEL`
says (`holds_median`)."""


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval of confidence (`LEVEL`); ``bound``: the value is at least this."""

    value: float
    low: float
    high: float
    bound: bool = False


@dataclass(frozen=True)
class Runs:
    """Evaluations until success (n, m), infinite where there was none, and in all (n, m) where there was none.

    A row for each seed; several columns are repetitions that the seeds are resampled with.
    """

    first: Floats
    all: Floats

    def of(self, rows: Ints) -> Runs:
        """The seeds in these rows."""
        return Runs(self.first[rows], self.all[rows])

    @property
    def spent(self) -> Floats:
        """Evaluations until success, or until the run gave up."""
        return np.minimum(self.first, self.all)

    @property
    def median(self) -> float:
        """Evaluations until more than half of the runs have succeeded."""
        return upper_median(self.first)

    @property
    def median_at_least(self) -> float:
        """The same, where a run without success might have succeeded at its next evaluation."""
        return upper_median(self.spent)

    @property
    def expected(self) -> float:
        """Evaluations until success on average, when runs are repeated until one succeeds."""
        successes = np.isfinite(self.first).sum()
        return float(self.spent.sum() / successes) if successes else np.inf

    @property
    def expected_at_least(self) -> float:
        """The same, had one run of one seed more succeeded where none did."""
        return self.expected if np.isfinite(self.expected) else float(self.spent.mean(axis=1).sum())


def campaigns(first_hits: Floats, evaluations: Floats) -> Runs:
    """One run for each seed: evaluations to the first hit (n,), and in all (n,)."""
    return Runs(first_hits[:, None], evaluations.astype(float)[:, None])


def random_orders(pools: list[tuple[Ints, NDArray[np.bool_]]], seed: int) -> Runs:
    """Random searches, `ORDERS` for each pool: evaluations (c,) of its candidates, and which of them are hits."""
    rng = np.random.default_rng(seed)
    first = np.full((len(pools), ORDERS), np.inf)
    for row, (evaluations, hits) in enumerate(pools):
        order = rng.permuted(np.tile(np.arange(len(hits)), (ORDERS, 1)), axis=1)
        if hits.any():
            at = np.argmax(hits[order], axis=1)
            first[row] = np.take_along_axis(np.cumsum(evaluations[order], axis=1), at[:, None], axis=1)[:, 0]
    everything = np.array([evaluations.sum() for evaluations, _ in pools], dtype=float)
    return Runs(first, np.repeat(everything[:, None], ORDERS, axis=1))


def upper_median(values: Floats) -> float:
    """The median; of an even number of values the upper of the two in the middle, so that it is never NaN."""
    return float(np.sort(values, axis=None)[values.size // 2])


def holds_median(seeds: int) -> float:
    """The chance that the median lies between the least and the most of so many values, whatever their distribution."""
    return float(1 - 0.5 ** (seeds - 1))


def told(interval: Interval, seeds: int) -> dict[str, Any]:
    """An interval for a result, whose ends are NaN where the seeds are too few to know them."""
    return asdict(interval if seeds >= FEWEST else replace(interval, low=np.nan, high=np.nan))


def proportion(successes: int, runs: int) -> Interval:
    """A share with Wilson's interval."""
    ends = binomtest(successes, runs).proportion_ci(LEVEL, method="wilson")
    return Interval(successes / runs, float(ends.low), float(ends.high))


def success_curve(runs: Runs, at: Floats) -> Floats:
    """Share of the runs that had succeeded after so many evaluations, and its interval: (3, k), value, low, high.

    Wilson's interval where there is one run for each seed; else resampled over seeds.
    """
    shares = np.array([(row[None, :] <= at[:, None]).mean(axis=1) for row in runs.first])
    value = shares.mean(axis=0)
    if runs.first.shape[1] == 1:
        counts = np.rint(shares.sum(axis=0)).astype(int)
        ends = [proportion(count, len(shares)) for count in counts.tolist()]
        return np.array([value, [end.low for end in ends], [end.high for end in ends]])
    drawn = np.array([shares[rows].mean(axis=0) for rows in _resamples(len(shares))])
    return np.array([value, *np.quantile(drawn, _tail_quantiles(), axis=0)])


def median_of(runs: Runs) -> Interval:
    """Median evaluations to success, infinite where half of the runs have none."""
    return _bootstrap(len(runs.first), lambda rows: runs.of(rows).median)


def expected_of(runs: Runs) -> Interval:
    """Expected evaluations to success with restarts, infinite where there was none."""
    return _bootstrap(len(runs.first), lambda rows: runs.of(rows).expected)


def ratio_of_medians(control: Runs, ours: Runs) -> Interval:
    """Control over campaign, on the same pools: 0 where half of the campaigns have no success."""
    return _ratio(control, ours, lambda runs: runs.median, lambda runs: runs.median_at_least)


def ratio_of_expected(control: Runs, ours: Runs) -> Interval:
    """Control over campaign, on the same pools: 0 where no campaign succeeded."""
    return _ratio(control, ours, lambda runs: runs.expected, lambda runs: runs.expected_at_least)


def _ratio(control: Runs, ours: Runs, figure: Callable[[Runs], float], at_least: Callable[[Runs], float]) -> Interval:
    """Control over campaign: the low end from what the control took at least, the high end infinite where it never did.

    The value is that of the two figures, or a bound where the control's is infinite; 0 for what neither ever found.
    """
    low = _bootstrap(len(ours.first), lambda rows: at_least(control.of(rows)) / figure(ours.of(rows)))
    high = _bootstrap(len(ours.first), lambda rows: _divide(figure(control.of(rows)), figure(ours.of(rows))))
    reached = bool(np.isfinite(figure(control)))
    return Interval(high.value if reached else low.value, low.low, high.high, bound=not reached)


def _divide(control: float, ours: float) -> float:
    return control / ours if np.isfinite(ours) else 0.0


def _bootstrap(seeds: int, statistic: Callable[[Ints], float]) -> Interval:
    drawn = np.sort([statistic(rows) for rows in _resamples(seeds)])
    low, high = (float(drawn[round(end * (len(drawn) - 1))]) for end in _tail_quantiles())
    return Interval(statistic(np.arange(seeds)), low, high)


def _resamples(seeds: int) -> Ints:
    """Rows drawn with replacement, the same at every call, so that ratios and curves belong together."""
    return np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))


def _tail_quantiles() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2

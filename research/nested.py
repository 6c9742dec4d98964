"""Choices made inside a training span: held-out losses by block, ties to the simpler.

Nothing that is chosen here sees a row outside of those that it is given; and each loss is that of
rows that the fit behind it did not see, with purge of the labels' spans on both sides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from catalog.arrays import Float64Array, Int64Array

BATCHES = 50
"""Stretches of time that a standard error is made of; losses within one may depend freely."""


@dataclass(frozen=True, slots=True)
class MethodLoss:
    """What one method cost on rows that it had not seen.

    Parameters
    ----------
    name : str
        Of the method.
    n_parameters : int
        Numbers that it fitted on all rows.
    log_loss : float
        Weighted mean over held-out rows, nats.
    excess : float
        `log_loss` less that of the best method.
    standard_error : float
        Of `excess`, row by row (paired), with rows of one stretch of time depending on each
        other; 0 for the best.
    """

    name: str
    n_parameters: int
    log_loss: float
    excess: float
    standard_error: float

    def as_dict(self) -> dict[str, str | int | float]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Losses of several methods on the same held-out rows.

    Parameters
    ----------
    names : tuple of str
        The methods, the simplest first.
    losses : (n_methods, n_rows) float64
        Log losses in nats.
    weight : (n_rows,) float64
        Positive.
    ts_init : (n_rows,) int64
        When each row became known, UTC nanoseconds.
    """

    names: tuple[str, ...]
    losses: Float64Array
    weight: Float64Array
    ts_init: Int64Array

    def measured(self, n_parameters: tuple[int, ...]) -> tuple[MethodLoss, ...]:
        """Return every method's loss beside the best one's, in the order of `names`."""
        means = [float(np.sum(self.weight * row) / np.sum(self.weight)) for row in self.losses]
        best = int(np.argmin(means))
        found = []
        for name, count, mean, row in zip(
            self.names, n_parameters, means, self.losses, strict=True
        ):
            error = paired_standard_error(row - self.losses[best], self.weight, self.ts_init)
            excess = mean - means[best]
            found.append(MethodLoss(name, count, mean, excess, error))
        return tuple(found)


def simplest_within_error(found: tuple[MethodLoss, ...]) -> str:
    """Return the first method whose loss is within one standard error of the best one's.

    The one-standard-error rule (Breiman et al., 1984, section 3.4.3), with the error of the
    paired difference in place of that of the loss itself, most of which both share.
    """
    return next(method.name for method in found if method.excess <= method.standard_error)


def paired_standard_error(
    difference: Float64Array, weight: Float64Array, ts_init: Int64Array
) -> float:
    """Return the standard error of a weighted mean of differences that depend on time.

    By batch means: rows are cut into `BATCHES` stretches of about equally many times, all
    instruments of a time together, and the stretches' sums are taken as independent.

    Parameters
    ----------
    difference, weight : (n_rows,) float64
        Values and their positive weights.
    ts_init : (n_rows,) int64
        UTC nanoseconds, in any order.

    Returns
    -------
    float
        Infinite where there is one time only.
    """
    times, position = np.unique(ts_init, return_inverse=True)
    n_batches = min(BATCHES, len(times))
    if n_batches < 2:
        return float("inf")
    batch = position * n_batches // len(times)
    mean = np.sum(weight * difference) / np.sum(weight)
    sums = np.bincount(batch, weight * (difference - mean), n_batches)
    spread = np.sum(sums**2) * n_batches / (n_batches - 1.0)
    return float(np.sqrt(spread) / np.sum(weight))

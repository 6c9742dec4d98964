"""From the outputs of all members of an ensemble to one answer; no torch here.

Columns of a sequence model's output: `LOGIT_UP`, `MU`, `LOG_SIGMA`, `LOG_NU` (location, scale and
degrees of freedom of the return's Student-t distribution), then quantiles of the return.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array
from catalog.errors import DataError
from research.experts import ExpertOutput

LOGIT_UP, MU, LOG_SIGMA, LOG_NU = range(4)
N_DISTRIBUTION = 4
"""Columns before the quantiles."""


def combine(
    outputs: NDArray[np.floating[Any]], turned: NDArray[np.bool_] | None = None
) -> ExpertOutput:
    """Join the members' outputs.

    Parameters
    ----------
    outputs : (n_samples, n_rows, n_outputs) float
        Of each member, for the same rows.
    turned : (n_samples,) bool, optional
        Members that were shown the mirror image, whose answers are turned round; none if absent.

    Returns
    -------
    ExpertOutput
        `prob_up` and `mu` are means over the members, `epistemic` the standard deviation of their
        probabilities (NaN with one member). `sigma` is the root of the mean of their variances,
        ``sigma**2 nu / (nu - 2)``: the aleatoric part alone, for their means' spread is the
        other part (Kendall and Gal, 2017, section 2.2). A row with a NaN is NaN.

    Raises
    ------
    DataError
        If the array has not the shape above.
    """
    if outputs.ndim != 3 or outputs.shape[0] < 1 or outputs.shape[2] < N_DISTRIBUTION:
        raise DataError(
            f"outputs must have shape (n_samples, n_rows, at least {N_DISTRIBUTION}), "
            f"was {outputs.shape}"
        )
    exact = outputs.astype(np.float64)
    pairs = turned is not None and bool(turned.any())
    if turned is not None and pairs:
        for column in (LOGIT_UP, MU):
            exact[turned, :, column] *= -1.0
    probabilities = 1.0 / (1.0 + np.exp(-exact[:, :, LOGIT_UP]))
    freedom = np.exp(exact[:, :, LOG_NU])
    variance = np.exp(2.0 * exact[:, :, LOG_SIGMA]) * freedom / (freedom - 2.0)
    alone = len(exact) == (2 if pairs else 1)
    prob_up = _mean(probabilities)
    spread = np.sqrt(_mean((probabilities - prob_up) ** 2))
    return ExpertOutput(
        prob_up=prob_up,
        mu=_mean(exact[:, :, MU]),
        sigma=np.sqrt(_mean(variance)),
        epistemic=np.full(exact.shape[1], np.nan) if alone else spread,
    )


def _mean(numbers: Float64Array) -> Float64Array:
    """Return the mean over the members; numpy's own takes five times as long for a row."""
    total: Float64Array = np.add.reduce(numbers, axis=0)
    return total / len(numbers)

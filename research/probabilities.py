"""Probabilities, log-odds and what a probability costs when the outcome is known.

Nothing here depends on how many rows are asked at once: a row alone gives the same bits as the
row in a batch, so that what is served equals what was evaluated.
"""

from __future__ import annotations

import numpy as np

from catalog.arrays import Float64Array

SMALLEST = 1e-6
"""No probability is served nearer to 0 or 1 than this: one miss at 0 would cost infinite loss."""
LARGEST_LOG_ODDS = float(np.log((1.0 - SMALLEST) / SMALLEST))


def inside(probability: Float64Array) -> Float64Array:
    """Clip probabilities into [SMALLEST, 1 - SMALLEST], NaN stays NaN."""
    return np.asarray(np.clip(probability, SMALLEST, 1.0 - SMALLEST))


def log_odds(probability: Float64Array, limit: float = LARGEST_LOG_ODDS) -> Float64Array:
    """Return ``ln(p / (1 - p))`` within ``[-limit, limit]``; NaN stays NaN."""
    # Contiguous, since numpy may take another path (with other last bits) through a strided view.
    safe = np.ascontiguousarray(inside(probability))
    return np.asarray(np.clip(np.log(safe / (1.0 - safe)), -limit, limit))


def from_log_odds(value: Float64Array) -> Float64Array:
    """Return the probability of log-odds, inside [SMALLEST, 1 - SMALLEST]; NaN stays NaN."""
    clipped = np.clip(value, -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)
    return inside(1.0 / (1.0 + np.exp(-np.ascontiguousarray(clipped))))


def log_losses(probability: Float64Array, label: Float64Array) -> Float64Array:
    """Return each row's log loss in nats.

    Parameters
    ----------
    probability : (n_rows,) float64
        Inside (0, 1); NaN where there is none, which gives NaN.
    label : (n_rows,) float64
        1 for up, 0 for down.
    """
    return -np.log(np.where(label > 0.5, probability, 1.0 - probability))


def equal_mean_weights(weight: Float64Array | None, count: int) -> Float64Array:
    """Return weights with a mean of one: no fit may depend on their scale. Equal if absent."""
    if weight is None:
        return np.ones(count)
    return np.asarray(weight / weight.mean())

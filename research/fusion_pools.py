"""How the probabilities of several experts become one, row by row: the arithmetic of serving.

Arrays are expert-major here, (n_experts, n_rows), and sums over the experts are written out: a
row alone must give the same bits as the row in a batch, which numpy's own sums do not promise.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array


def total(columns: Float64Array) -> Float64Array:
    """Sum over the experts, one after the other: (n_experts, n_rows) to (n_rows,)."""
    return reduce(np.add, columns)


def shares(weights: Float64Array, fallback: Float64Array) -> Float64Array:
    """Divide weights by their sum; where that is zero, the fallback's by theirs; else zero.

    Parameters
    ----------
    weights, fallback : (n_experts, n_rows) float64
        Not negative; zero for what is missing.
    """
    chosen = np.where(total(weights) > 0.0, weights, fallback)
    whole = total(chosen)
    return np.divide(chosen, whole, out=np.zeros_like(chosen), where=whole > 0.0)


def linear_pool(share: Float64Array, probabilities: Float64Array) -> Float64Array:
    """Return the weighted mean of the probabilities that have a share, (n_rows,) (Stone, 1961)."""
    return total(share * np.where(share > 0.0, probabilities, 0.0))


def first_of(ranking: Float64Array, present: NDArray[np.bool_]) -> Float64Array:
    """Return a weight of one for the best-ranked expert that is present, zero for the others.

    Parameters
    ----------
    ranking : (n_experts,) float64
        The larger, the better.
    present : (n_experts, n_rows) bool
        Who has answered.
    """
    best = np.argmax(np.where(present, ranking[:, np.newaxis], -np.inf), axis=0)
    chosen = np.zeros(present.shape)
    chosen[best, np.arange(present.shape[1])] = 1.0
    return chosen * present


def pooled_log_odds(
    weights: Float64Array, available: Float64Array, log_odds: Float64Array, moments: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return the logarithmic pool of what is there.

    Where every expert is there and fresh, the sum of ``weight * log-odds``. Elsewhere the
    weights of the rest keep their proportions, and their common factor is the one with which the
    rest foretells the whole pool best: ``d' M w / d' M d`` for weights w, the rest d of them and
    the experts' second moments M. For copies of one expert this is plain renormalisation (the
    sum of the weights stays), for independent experts the weights stay as they are; it is never
    more than renormalisation and never negative.

    Parameters
    ----------
    weights : (n_experts, n_rows) float64
        Of the pool with everyone; may be negative (stacking).
    available : (n_experts, n_rows) float64
        Freshness in [0, 1], zero for what is missing.
    log_odds : (n_experts, n_rows) float64
        Less their centre; zero for what is missing.
    moments : (n_experts, n_experts) float64
        Mean products of the experts' log-odds in training.

    Returns
    -------
    pooled : (n_rows,) float64
        Log-odds, less their centre; zero where nobody is there.
    rest : (n_experts, n_rows) float64
        Weights before their common factor.
    """
    rest = weights * available
    nobody = total(np.abs(rest)) == 0.0
    rest = np.where(nobody, available, rest)
    factor = np.ones(rest.shape[1])
    partial = np.flatnonzero((rest != weights).any(axis=0))
    if len(partial):
        factor[partial] = _factor(weights[:, partial], rest[:, partial], moments)
    return factor * total(rest * log_odds), rest


def _factor(weights: Float64Array, rest: Float64Array, moments: Float64Array) -> Float64Array:
    known = total(rest * _product(moments, weights))
    power = total(rest * _product(moments, rest))
    kept = total(np.abs(rest))
    most = np.divide(total(np.abs(weights)), kept, out=np.zeros_like(kept), where=kept > 0.0)
    # Without any second moment to go by (an expert never seen in training) nothing is claimed.
    factor = np.divide(known, power, out=np.zeros_like(kept), where=power > 0.0)
    return np.clip(factor, 0.0, most)


def _product(moments: Float64Array, columns: Float64Array) -> Float64Array:
    """Multiply (n_experts, n_experts) with (n_experts, n_rows) in an order of its own."""
    found = np.zeros_like(columns)
    for row, column in zip(moments, columns, strict=True):  # symmetric: rows are columns
        found += row[:, np.newaxis] * column
    return found

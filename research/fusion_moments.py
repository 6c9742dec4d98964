"""What the experts say beside their probabilities: return, scale, and what more data could remove.

The experts' distributions are taken as a mixture with the fusion's weights: its variance holds
their own and their disagreement. A row alone gives the same bits as the row in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from catalog.arrays import Float64Array
from research.fusion_pools import linear_pool, shares

if TYPE_CHECKING:
    from research.experts import ExpertOutput
    from research.fusion import FusionResult


def combine_moments(
    outputs: Sequence[ExpertOutput],
    result: FusionResult,
    probabilities: Float64Array | None = None,
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Combine what experts know of the return and of themselves, by their shares in a fusion.

    Parameters
    ----------
    outputs : sequence of ExpertOutput
        n_rows answers of each expert, in the fusion's order.
    result : FusionResult
        Of the same rows. An expert that is missing there (no answer, or one made of inputs that
        are too old) is left out here.
    probabilities : (n_rows, n_experts) float64, optional
        The experts' calibrated probabilities, by which they disagree; the raw ones if absent.

    Returns
    -------
    mu, sigma, epistemic : (n_rows,) float64
        See `mixture_moments` and `mixture_epistemic`.
    """
    mu, sigma, epistemic, raw = (
        np.where(result.missing, np.nan, np.column_stack([getattr(out, name) for out in outputs]))
        for name in ("mu", "sigma", "epistemic", "prob_up")
    )
    said = raw if probabilities is None else np.where(result.missing, np.nan, probabilities)
    mean, scale = mixture_moments(result.weights, mu, sigma)
    return mean, scale, mixture_epistemic(result.weights, said, epistemic)


def mixture_moments(
    weights: Float64Array, mu: Float64Array, sigma: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return mean and scale of the mixture of the experts' return distributions.

    Parameters
    ----------
    weights : (n_rows, n_experts) float64
        Shares, as in `research.fusion.FusionResult`.
    mu, sigma : (n_rows, n_experts) float64
        Expected returns and their scales, in the same units; NaN where an expert gives none.

    Returns
    -------
    mu, sigma : (n_rows,) float64
        Over the experts that give one, their weights renormalised; the variance is the mean of
        ``sigma^2 + (mu - mean)^2``. NaN where no expert that has a weight gives one: what the
        fusion does not listen to for the sign is not to size a position either.
    """
    mean = _mixture_mean(weights, np.where(weights > 0.0, mu, np.nan))
    both = sigma**2 + (mu - mean[:, np.newaxis]) ** 2
    return mean, np.sqrt(_mixture_mean(weights, np.where(weights > 0.0, both, np.nan)))


def mixture_epistemic(
    weights: Float64Array, probabilities: Float64Array, epistemic: Float64Array
) -> Float64Array:
    """Return the standard deviation of the probability over experts and their dropout members.

    The experts' disagreement is part of it; an expert without members adds only that.

    Parameters
    ----------
    weights, probabilities, epistemic : (n_rows, n_experts) float64
        Shares; probabilities, NaN where missing; standard deviations, NaN where unknown.

    Returns
    -------
    (n_rows,) float64
        NaN where one expert without members is all that counts.
    """
    mean = _mixture_mean(weights, probabilities)
    inner = np.where(np.isnan(epistemic), 0.0, epistemic) ** 2
    apart = (probabilities - mean[:, np.newaxis]) ** 2
    # One without weight says nothing, unless none has any: then all count alike.
    counts = (weights != 0.0) | ~(weights != 0.0).any(axis=1, keepdims=True)
    present = ~np.isnan(probabilities) & counts
    known = (present & ~np.isnan(epistemic)).any(axis=1) | (present.sum(axis=1) > 1)
    return np.where(known, np.sqrt(_mixture_mean(weights, inner + apart)), np.nan)


def _mixture_mean(weights: Float64Array, values: Float64Array) -> Float64Array:
    """Return the weighted mean over the experts with a value, (n_rows,); NaN where none has."""
    there = np.ascontiguousarray(np.isfinite(values).T)
    share = shares(np.where(there, weights.T, 0.0), there.astype(np.float64))
    mean = linear_pool(share, np.ascontiguousarray(values.T))
    return np.where(there.any(axis=0), mean, np.nan)

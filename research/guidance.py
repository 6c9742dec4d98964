"""What held-out rows say to those who trade on a prediction: how sure it is, and when it pays.

Both are found on the last part of the training span, on probabilities by experts and curves that
had not seen its rows. The weights of the fusion were chosen on the same rows; with a handful of
weights against thousands of rows that flatters by little.

How sure it is comes as one of two intervals. The default is a band of 95 %: a binomial interval
for the sum of the labels' weights, so that labels that overlap count once. The other are the
Venn-Abers bounds (Vovk and Petej, 2014): the two isotonic values of the probability with its own
row counted as a fall and as a rise. One of them is calibrated whatever the distribution, but for
rows that are exchangeable, and they say nothing of 95 %: they are narrow where there are many rows.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from catalog.arrays import Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import IntegrityError
from research.calibrators.venn_abers import VennAbersCalibration

_BINS = 10
_Z_95 = 1.959963984540054
_BPS = 1e-4


class ThresholdConfig(Config):
    """How the entry threshold is found.

    Parameters
    ----------
    cost_bps : float, optional
        What a round trip costs, basis points of the traded value. None: no threshold is looked
        for, and predictions carry none.
    candidates : tuple of float
        Thresholds tried, ascending, in [0.5, 1).
    min_trades : int
        Thresholds with fewer trades are not judged.
    """

    cost_bps: float | None = Field(default=None, ge=0.0, le=1_000.0)
    candidates: tuple[float, ...] = tuple(round(0.51 + 0.005 * step, 3) for step in range(39))
    min_trades: int = Field(default=20, ge=1)

    @field_validator("candidates")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if (
            not values
            or list(values) != sorted(set(values))
            or not 0.5 <= values[0] <= values[-1] < 1
        ):
            raise ValueError(f"candidates must ascend within [0.5, 1), were {values}")
        return values


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutRows:
    """Rows that nothing was fitted on.

    Parameters
    ----------
    prob_up : (n_rows,) float64
        Fused probability; NaN where none of the fusion answered.
    value, weight : (n_rows,) float64
        Label (0, 1 or NaN) and how much the row counts: overlapping labels share their weight.
    forward_return : (n_rows,) float64
        Log return over the horizon.
    ts_init, ts_end : (n_rows,) int64
        When each is known, and when its outcome is.
    instrument : (n_rows,) int64
        Code.
    """

    prob_up: Float64Array
    value: Float64Array
    weight: Float64Array
    forward_return: Float64Array
    ts_init: Int64Array
    ts_end: Int64Array
    instrument: Int64Array


@dataclass(frozen=True, slots=True)
class Guidance:
    """How far a probability may be off, and from where on it pays.

    Parameters
    ----------
    centres, half_widths : tuple of float, equally long
        Half of the 95 % interval of what happens where a probability is said, at some
        probabilities; linear between them. Empty: unknown.
    entry_threshold : float
        Least probability of a side that paid for its costs; NaN if none did, or none was looked
        for.
    bounds : VennAbersCalibration, optional
        Where it is there, its bounds take the place of the band.
    """

    centres: tuple[float, ...] = ()
    half_widths: tuple[float, ...] = ()
    entry_threshold: float = math.nan
    bounds: VennAbersCalibration | None = None

    @classmethod
    def of(cls, rows: HeldOutRows, config: ThresholdConfig, *, bounds: bool = False) -> Self:
        """Find both on held-out rows; `bounds` asks for Venn-Abers bounds.

        Raises
        ------
        DataError
            If bounds are asked for and there are too few rows with an answer and a label.
        """
        centres, half_widths = calibration_band(rows)
        threshold = sweep(rows, config) if config.cost_bps is not None else math.nan
        fitted = None
        if bounds:
            known = _known(rows)
            fitted = VennAbersCalibration.fit(
                rows.prob_up[known], rows.value[known], rows.weight[known]
            )
        return cls(tuple(centres.tolist()), tuple(half_widths.tolist()), threshold, fitted)

    def interval(self, prob_up: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the ends of the interval of each probability, in [0, 1]; NaN if unknown.

        Parameters
        ----------
        prob_up : (n_rows,) float64
            Calibrated probabilities.

        Returns
        -------
        low, high : (n_rows,) float64
            They hold `prob_up` between them.
        """
        if self.bounds is not None:
            low, high = self.bounds.bounds(prob_up)
            return np.minimum(low, prob_up), np.maximum(high, prob_up)
        if not self.centres:
            unknown = np.full(len(prob_up), np.nan)
            return unknown, unknown.copy()
        half = np.interp(prob_up, self.centres, self.half_widths)
        return np.maximum(prob_up - half, 0.0), np.minimum(prob_up + half, 1.0)

    def to_json(self) -> str:
        """Return all of it as JSON; NaN as null."""
        content = asdict(replace(self, bounds=None))
        del content["bounds"]
        if self.bounds is not None:
            content["bounds"] = json.loads(self.bounds.to_json())
        if math.isnan(self.entry_threshold):
            content["entry_threshold"] = None
        return json.dumps(content, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        IntegrityError
            If it is anything else.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            centres, widths = (
                tuple(map(float, content[name])) for name in ("centres", "half_widths")
            )
            threshold = content["entry_threshold"]
            bounds = content.get("bounds")
            found = cls(
                centres,
                widths,
                math.nan if threshold is None else float(threshold),
                None if bounds is None else VennAbersCalibration.from_json(json.dumps(bounds)),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"guidance of a bundle must be what was saved, was not: {error}; use another copy"
            ) from error
        if len(centres) != len(widths) or list(centres) != sorted(centres):
            raise IntegrityError("guidance of a bundle must have a width for each ascending centre")
        return found


def calibration_band(rows: HeldOutRows) -> tuple[Float64Array, Float64Array]:
    """Return how far the frequency may be from the probability said, by that probability.

    Rows are put into ten bins of equal weight. In each the half-width is that of the binomial
    interval (Wald, 95 %) for the sum of its weights, which counts overlapping labels once, and
    not less than the distance between what was said there and what happened.

    Returns
    -------
    centres, half_widths : (n_bins,) float64
        Weighted mean probability of each bin, ascending, and half the interval; empty where no
        row has an answer and a label.
    """
    known = _known(rows)
    order = np.flatnonzero(known)[np.argsort(rows.prob_up[known], kind="stable")]
    if not len(order):
        return np.empty(0), np.empty(0)
    weight = rows.weight[order]
    share = np.cumsum(weight) / weight.sum()
    bins = np.minimum((share * _BINS).astype(np.int64), _BINS - 1)
    total = np.bincount(bins, weight, _BINS)
    filled = total > 0.0
    total = total[filled]
    said = np.bincount(bins, weight * rows.prob_up[order], _BINS)[filled] / total
    happened = np.bincount(bins, weight * rows.value[order], _BINS)[filled] / total
    wald = _Z_95 * np.sqrt(said * (1.0 - said) / total)
    # Equal probabilities fill several bins: the mean of theirs, so that centres ascend strictly.
    centres, place = np.unique(said, return_inverse=True)
    widths = np.bincount(place, np.maximum(wald, np.abs(happened - said))) / np.bincount(place)
    return centres, widths


def _known(rows: HeldOutRows) -> NDArray[np.bool_]:
    """Return which rows have an answer, an outcome and a weight, (n_rows,)."""
    known: NDArray[np.bool_] = ~np.isnan(rows.prob_up) & ~np.isnan(rows.value) & (rows.weight > 0.0)
    return known


def sweep(rows: HeldOutRows, config: ThresholdConfig) -> float:
    """Return the entry threshold with the largest net result on held-out rows.

    A trade is entered where a side's probability reaches the threshold and the instrument has no
    trade open, is left at the end of the label's span, and pays a round trip. Each candidate is
    judged by the mean of its total and its neighbours', which keeps a lone lucky one from winning.

    Parameters
    ----------
    rows : HeldOutRows
        Sorted by time within each instrument.
    config : ThresholdConfig
        Costs and candidates.

    Returns
    -------
    float
        NaN if no candidate with trades enough earns anything.
    """
    assert config.cost_bps is not None
    totals = np.full(len(config.candidates), np.nan)
    for place, threshold in enumerate(config.candidates):
        gains = net_trades(rows, threshold, config.cost_bps)
        if len(gains) >= config.min_trades:
            totals[place] = gains.sum()
    padded = np.pad(totals, 1, constant_values=np.nan)
    around = np.stack([padded[:-2], padded[1:-1], padded[2:]])
    count = np.maximum((~np.isnan(around)).sum(axis=0), 1)
    smooth = np.where(np.isnan(totals), -np.inf, np.nansum(around, axis=0) / count)
    # Of equals the last: the more careful one.
    best = len(smooth) - 1 - int(np.argmax(smooth[::-1]))
    return config.candidates[best] if smooth[best] > 0.0 and totals[best] > 0.0 else math.nan


def net_trades(rows: HeldOutRows, threshold: float, cost_bps: float) -> Float64Array:
    """Return the net result of each trade that a threshold takes, as fractions of its value.

    Parameters
    ----------
    rows : HeldOutRows
        Sorted by time within each instrument.
    threshold : float
        Least probability of the side taken.
    cost_bps : float
        Of a round trip.
    """
    side = (rows.prob_up >= threshold).astype(np.int64) - (1.0 - rows.prob_up >= threshold)
    usable = (side != 0) & ~np.isnan(rows.forward_return)
    taken: list[int] = []
    for code in np.unique(rows.instrument):
        places = np.flatnonzero(usable & (rows.instrument == code))
        starts = rows.ts_init[places]
        at = 0
        while at < len(places):
            taken.append(int(places[at]))
            at = max(at + 1, int(np.searchsorted(starts, rows.ts_end[places[at]])))
    chosen = np.array(taken, dtype=np.int64)
    gross: Float64Array = np.expm1(rows.forward_return[chosen]) * side[chosen].astype(np.float64)
    return gross - cost_bps * _BPS

"""What the models learn to foretell, the span it looks at, and how much each example counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from catalog.arrays import BarArrays, Float64Array, Int64Array
from catalog.config import Config
from research.panel import Panel


class LabelConfig(Config):
    """What to foretell.

    Parameters
    ----------
    kind : {"forward_sign"}
        Whether the close `horizon_bars` later is higher (1) or lower (0).
    horizon_bars : int
        How far ahead, in bars of the panel's interval.
    """

    kind: Literal["forward_sign"] = "forward_sign"
    horizon_bars: int = Field(ge=1, le=10_000)


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of a panel, row by row as in `research.features.FeatureMatrix`.

    A label may be used for fitting only where its whole span, up to `ts_end`, lies in the past.

    Parameters
    ----------
    value : (n_rows,) float64
        1 up, 0 down; NaN where the return is zero or its last bar is missing.
    forward_return : (n_rows,) float64
        ``close(ts_end) / close(ts_init) - 1`` (fraction); NaN where that bar is missing.
    ts_end : (n_rows,) int64
        End of the span looked at, UTC nanoseconds, also where the label is NaN.
    weight : (n_rows,) float64
        Average uniqueness in (0, 1]: 1 where no other label of the instrument looks at the same
        time, about 1 / horizon where every bar has one.
    """

    value: Float64Array
    forward_return: Float64Array
    ts_end: Int64Array
    weight: Float64Array


def compute_labels(panel: Panel, config: LabelConfig) -> Labels:
    """Label every bar of a panel.

    The horizon is a length of time, not a count of rows: the bar at exactly
    ``ts_init + horizon_bars * interval`` must exist, else the label is NaN. Bars missing in
    between change nothing. Only the last `horizon_bars` bars' time of labels and weights can
    change when the future does.
    """
    ahead = config.horizon_bars * panel.interval_ns
    returns = [_forward_return(bars, ahead) for bars in panel.bars]
    forward_return = np.concatenate(returns)
    value = np.where(forward_return > 0.0, 1.0, 0.0)
    value[np.isnan(forward_return) | (forward_return == 0.0)] = np.nan
    return Labels(
        value=value,
        forward_return=forward_return,
        ts_end=np.concatenate([bars.ts_init for bars in panel.bars]) + ahead,
        weight=np.concatenate([average_uniqueness(bars.ts_init, ahead) for bars in panel.bars]),
    )


def _forward_return(bars: BarArrays, ahead: int) -> Float64Array:
    """Return the simple return to the bar `ahead` nanoseconds later, NaN where there is none."""
    result = np.full(len(bars), np.nan)
    later = np.searchsorted(bars.ts_init, bars.ts_init + ahead)
    inside = np.flatnonzero(later < len(bars))
    rows = inside[bars.ts_init[later[inside]] == bars.ts_init[inside] + ahead]
    result[rows] = bars.close[later[rows]] / bars.close[rows] - 1.0
    return result


def average_uniqueness(ts_init: Int64Array, ahead: int) -> Float64Array:
    """Return how much of its span each label has to itself.

    Parameters
    ----------
    ts_init : (n_bars,) int64
        Times of one instrument's bars, sorted; every bar has a span ``(ts_init, ts_init + ahead]``.
    ahead : int
        Length of a span in nanoseconds.

    Returns
    -------
    (n_bars,) float64
        Mean over the span of one by the number of spans that cover the moment.

    Notes
    -----
    López de Prado (2018), "Advances in Financial Machine Learning", sections 4.3 and 4.4.
    Deviations: moments are weighted by time, so a gap costs no work; and every bar's span counts,
    whether or not its label turns out to be known, so that a weight depends on nothing after the
    end of its own span.
    """
    if not len(ts_init):
        return np.empty(0)
    edges = np.unique(np.concatenate([ts_init, ts_init + ahead]))
    started = np.searchsorted(ts_init, edges[:-1], side="right")
    ended = np.searchsorted(ts_init + ahead, edges[:-1], side="right")
    covering = started - ended
    lengths = np.diff(edges)
    share = np.divide(lengths, covering, out=np.zeros(len(lengths)), where=covering > 0)
    total = np.concatenate([[0.0], np.cumsum(share)])
    first = np.searchsorted(edges, ts_init)
    last = np.searchsorted(edges, ts_init + ahead)
    # A difference of running sums may exceed the span by a rounding error.
    weight: Float64Array = np.minimum((total[last] - total[first]) / ahead, 1.0)
    return weight

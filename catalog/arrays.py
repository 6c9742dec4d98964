"""Market data as numpy columns: what research reads, and what kernels are fed.

All times are UTC nanoseconds. A span is always ``(start, end]`` on ``ts_init``: a record belongs
to it when it became known after `start` and no later than `end`. For bars this means that the
whole bar, from its open to its close, lies between the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

type Int64Array = NDArray[np.int64]
type Float64Array = NDArray[np.float64]


class Ohlcv(NamedTuple):
    """One bar's numbers: prices in quote units, volume in base units."""

    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, slots=True)
class BarArrays:
    """The bars of one instrument, sorted by time, without duplicates.

    Parameters
    ----------
    instrument_id : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    interval_ns : int
        Length of a bar in nanoseconds.
    ts_init : (n_bars,) int64
        When each bar became known: its close, UTC nanoseconds.
    open, high, low, close : (n_bars,) float64
        Prices in quote units.
    volume : (n_bars,) float64
        Traded volume in base units.
    """

    instrument_id: str
    interval_ns: int
    ts_init: Int64Array
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Float64Array

    def __len__(self) -> int:
        return len(self.ts_init)

    def between(self, start: int | None, end: int | None) -> Self:
        """Return the bars with ``start < ts_init <= end`` (views, not copies)."""
        rows = span_slice(self.ts_init, start, end)
        return replace(
            self,
            ts_init=self.ts_init[rows],
            open=self.open[rows],
            high=self.high[rows],
            low=self.low[rows],
            close=self.close[rows],
            volume=self.volume[rows],
        )


@dataclass(frozen=True, slots=True)
class SeriesArrays:
    """A slow series (funding, an on-chain metric, an index), sorted by `ts_init`.

    Parameters
    ----------
    name : str
        Such as ``BTCUSDT-PERP.BINANCE`` for funding or ``coinmetrics.btc.AdrActCnt``.
    unit : str
        Unit of `value`, such as ``fraction``, ``USD`` or ``count``.
    ts_event : (n_records,) int64
        When what each record describes happened or ended, UTC nanoseconds.
    ts_init : (n_records,) int64
        When each record could be known, UTC nanoseconds.
    value : (n_records,) float64
        The values in `unit`.
    """

    name: str
    unit: str
    ts_event: Int64Array
    ts_init: Int64Array
    value: Float64Array

    def __len__(self) -> int:
        return len(self.ts_init)

    def between(self, start: int | None, end: int | None) -> Self:
        """Return the records with ``start < ts_init <= end`` (views, not copies)."""
        rows = span_slice(self.ts_init, start, end)
        return replace(
            self, ts_event=self.ts_event[rows], ts_init=self.ts_init[rows], value=self.value[rows]
        )


def span_slice(ts_init: Int64Array, start: int | None, end: int | None) -> slice:
    """Return the rows of a sorted time column with ``start < ts_init <= end``.

    ``None`` leaves a side open.
    """
    first = 0 if start is None else int(np.searchsorted(ts_init, start, side="right"))
    last = len(ts_init) if end is None else int(np.searchsorted(ts_init, end, side="right"))
    return slice(first, max(first, last))

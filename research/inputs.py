"""What features are made of: checked at the door, and laid out for the kernels."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from catalog.arrays import BarArrays, Float64Array, Int64Array, Ohlcv
from catalog.errors import DataError
from catalog.timestamps import format_time
from research.group_drivers import Records
from research.groups.registry import flow_input, funding_input, minute_input
from research.panel import Panel
from research.panel_series import NEWS_PREFIX

FLOW_FIELDS = ("quote_volume", "trade_count", "taker_buy_volume", "taker_buy_quote_volume")
"""The numbers of a bar's order flow in the order in which kernels and streams take them."""


def panel_records(panel: Panel, names: Collection[str]) -> dict[str, Records]:
    """Return what groups listen to, by the names of `research.groups.registry`.

    Raises
    ------
    DataError
        If the panel does not hold one of them, or a number in it is not sound.
    """
    found: dict[str, Records] = {}
    for instrument_id in panel.instruments():
        if funding_input(instrument_id) in names and instrument_id in panel.funding:
            series = panel.funding[instrument_id]
            found[funding_input(instrument_id)] = Records(series.ts_init, (series.value,))
        if flow_input(instrument_id) in names and instrument_id in panel.flow:
            flow = panel.flow[instrument_id]
            columns = [np.asarray(getattr(flow, field), np.float64) for field in FLOW_FIELDS]
            _check_flow(instrument_id, flow.ts_init, columns)
            found[flow_input(instrument_id)] = Records(flow.ts_init, tuple(columns))
        if minute_input(instrument_id) in names and instrument_id in panel.minutes:
            bars = panel.minutes[instrument_id]
            check_bars(bars)
            columns = [getattr(bars, field) for field in Ohlcv._fields]
            found[minute_input(instrument_id)] = Records(bars.ts_init, tuple(columns))
    for name, events in panel.series.items():
        if name in names:
            bad = np.flatnonzero(~np.isfinite(events.value))
            for row in bad.tolist():
                check_value(name, int(events.ts_init[row]), float(events.value[row]))
            columns = [events.value] if events.extra is None else [events.value, events.extra]
            found[name] = Records(events.ts_init, tuple(columns))
    missing = sorted(set(names) - found.keys())
    if missing:
        raise DataError(
            f"panel must hold what the features look at, there is no {', '.join(missing)}; load "
            "it with `load_panel(..., needs=panel_needs(features))` or switch those features off"
        )
    return found


def _check_flow(name: str, ts_init: Int64Array, columns: Sequence[Float64Array]) -> None:
    """Refuse order flow that no bar can have."""
    bad = np.flatnonzero(~np.all([np.isfinite(one) & (one >= 0.0) for one in columns], axis=0))
    if len(bad):
        check_flow(name, int(ts_init[bad[0]]), [float(column[bad[0]]) for column in columns])


def check_flow(name: str, ts_init: int, values: Sequence[float]) -> None:
    """Refuse the order flow of one bar that no bar can have."""
    expected = len(FLOW_FIELDS)
    if len(values) != expected or not all(0.0 <= value < math.inf for value in values):
        raise DataError(
            f"order flow of {name} at {format_time(ts_init)} must be {expected} finite numbers "
            f"that are not negative ({', '.join(FLOW_FIELDS)}), was {tuple(values)}"
        )


def check_value(name: str, ts_init: int, value: float) -> None:
    """Refuse a value that no record of a slow series can have."""
    if math.isinf(value) or (math.isnan(value) and not name.startswith(NEWS_PREFIX)):
        raise DataError(f"{name} at {format_time(ts_init)} must be a finite number, was {value}")


def check_bars(bars: BarArrays) -> None:
    """Refuse bars whose logarithms do not exist or whose extremes contradict them."""
    sound = (
        (bars.low > 0.0)
        & (bars.low <= np.minimum(bars.open, bars.close))
        & (bars.high >= np.maximum(bars.open, bars.close))
        & np.isfinite(bars.high)
        & (bars.volume >= 0.0)
        & np.isfinite(bars.volume)
    )
    if not np.all(sound):
        row = int(np.flatnonzero(~sound)[0])
        bar = Ohlcv(*(float(getattr(bars, name)[row]) for name in Ohlcv._fields))
        raise DataError(_unsound(bars.instrument_id, int(bars.ts_init[row]), bar))


def check_bar(name: str, ts_init: int, bar: Ohlcv) -> None:
    """Refuse what `check_bars` refuses."""
    first, high, low, last, volume = bar
    if not (0.0 < low <= first <= high < math.inf and low <= last <= high):
        raise DataError(_unsound(name, ts_init, bar))
    if not 0.0 <= volume < math.inf:
        raise DataError(_unsound(name, ts_init, bar))


def _unsound(name: str, ts_init: int, bar: Ohlcv) -> str:
    return (
        f"bar of {name} at {format_time(ts_init)} must have finite numbers with "
        f"0 < low <= open, close <= high and volume >= 0, was {Ohlcv(*bar)}; "
        "see `levibot data check`"
    )


def not_one_of(what: str, name: str, instruments: Sequence[str]) -> str:
    """Return the message that something is of no known instrument."""
    return f"{what} must be of one of {', '.join(instruments)}, was of {name}"

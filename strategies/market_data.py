"""From stored columns to the records that the engine replays, and back to exact numbers.

Everything is built in bulk: columns become 128-bit decimals with integer arithmetic in numpy, and
the engine's own wranglers make the objects.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from nautilus_trader.model import (
    AggressorSide,
    Bar,
    FundingRateUpdate,
    InstrumentId,
    MarkPriceUpdate,
    Price,
    Quantity,
    QuoteTick,
    TradeId,
    TradeTick,
)
from nautilus_trader.persistence import BarDataWrangler, QuoteTickDataWrangler

from catalog.arrays import BarArrays, Float64Array, Int64Array, SeriesArrays, span_slice
from catalog.errors import DataError
from catalog.timestamps import format_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RAW_DECIMALS = 16
_RAW_SCALE = 10**_RAW_DECIMALS
_SCALES = tuple(10.0**decimals for decimals in range(_RAW_DECIMALS + 1))
_EXACT = 2.0**50
_ROUNDER = 1.5 * 2.0**52
_QUOTE_SIZE = 1e9
"""Size on both sides of a quote: the fill model, not the quote's depth, prices an order."""
_LEAST_UNITS = 4
"""Of the last decimal of size: the engine looks at a bar as at four trades of a quarter each."""
_TOLERANCE = 1e-3
"""Of a unit of the last decimal: above binary noise, below anything that was ever written."""


def price_number(value: Any) -> float:
    """Return the float nearest to a Nautilus price or quantity.

    ``float(price)`` is not: it is off by a bit for about half of all prices with one decimal,
    which would make the streamed features differ from the batch.
    """
    # ``value.raw / 10**16`` in less time. A count of units below 2**50 is found exactly although
    # the engine's double is a bit off (adding and subtracting 1.5 x 2**52 rounds to an integer),
    # and a division of two exact doubles is rounded correctly.
    scale = _SCALES[value.precision]
    units = value.as_double() * scale + _ROUNDER - _ROUNDER
    return units / scale if -_EXACT < units < _EXACT else float(value.raw / _RAW_SCALE)


@dataclass(frozen=True, slots=True)
class OpenQuotes:
    """The prices at which market orders fill, of one instrument.

    Parameters
    ----------
    instrument_id : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    ts_init : (n_quotes,) int64
        Open of each bar plus the latency, UTC nanoseconds.
    price : (n_quotes,) float64
        The bar's open.
    previous : (n_quotes,) float64
        The close of the bar before, NaN for the first.
    """

    instrument_id: str
    ts_init: Int64Array
    price: Float64Array
    previous: Float64Array

    def between(self, after: int | None, until: int | None) -> OpenQuotes:
        """Return the quotes of ``(after, until]``; None does not limit."""
        rows = span_slice(self.ts_init, after, until)
        return OpenQuotes(
            self.instrument_id, self.ts_init[rows], self.price[rows], self.previous[rows]
        )

    def next_time(self, ts: int) -> int | None:
        """Return the time of the first quote at or after `ts`, None if there is none."""
        row = bisect_left(self.ts_init.data, ts)
        return int(self.ts_init[row]) if row < len(self.ts_init) else None

    def at(self, ts: int) -> tuple[float, float] | None:
        """Return the close before a quote and the quote of a time, None if it has none."""
        row = bisect_left(self.ts_init.data, ts)
        if row == len(self.ts_init) or self.ts_init[row] != ts:
            return None
        return float(self.previous[row]), float(self.price[row])

    def last(self, ts: int) -> float:
        """Return the last quote at or before `ts`.

        Raises
        ------
        LookupError
            If there is none.
        """
        # A tenth of what numpy takes to look up a single number.
        row = bisect_right(self.ts_init.data, ts) - 1
        if row < 0:
            raise LookupError(f"{self.instrument_id} has no quote until {format_time(ts)}")
        return float(self.price[row])


@dataclass(frozen=True, slots=True)
class BarVolumes:
    """What was traded in each bar of one instrument, of which fills know the completed ones.

    Parameters
    ----------
    ts_init : (n_bars,) int64
        Close of each bar, UTC nanoseconds.
    volume : (n_bars,) float64
        Base units.
    """

    ts_init: Int64Array
    volume: Float64Array

    def before(self, ts: int) -> float:
        """Return the volume of the last bar that closed before `ts`, NaN if there is none.

        A stop that a bar's range reached is stamped with that bar's close, but filled within it.
        """
        row = self.row_before(ts)
        return float(self.volume[row]) if row >= 0 else math.nan

    def closes_at(self, ts: int) -> bool:
        """Return whether a bar closes at a time."""
        row = bisect_left(self.ts_init.data, ts)
        return row < len(self.ts_init) and bool(self.ts_init[row] == ts)

    def row_before(self, ts: int) -> int:
        """Return the place of the last bar that closed before `ts`, -1 if there is none."""
        return bisect_left(self.ts_init.data, ts) - 1


def exact_bars(bars: BarArrays, instrument: Any) -> BarArrays:
    """Return bars whose numbers are the floats nearest to their decimals.

    A store that keeps decimals may hand out ``39317.299999999996`` for ``39317.3``; the engine's
    records hold the decimal, and what is computed from the columns must equal what is computed
    from the records.

    Raises
    ------
    DataError
        If a price is not above 0, or a price or volume has more decimals than the instrument
        allows: rounding it would change the data unnoticed.
    """
    columns = {}
    for name in ("open", "high", "low", "close", "volume"):
        precision = instrument.size_precision if name == "volume" else instrument.price_precision
        values = getattr(bars, name)
        units = np.rint(values * 10.0**precision)
        _check_exact(values, units, precision, bars, name)
        if name != "volume" and not np.all(units > 0.0):
            raise DataError(
                f"{name} of {bars.instrument_id} must be above 0, was 0 at "
                f"{format_time(int(bars.ts_init[np.flatnonzero(units <= 0.0)[0]]))}; correct the "
                f"data or leave the bar out: nothing trades for nothing"
            )
        columns[name] = units / 10.0**precision
    return replace(bars, **columns)


def open_quotes(bars: Sequence[BarArrays], latency_ns: int) -> tuple[OpenQuotes, ...]:
    """Return one quote per bar, at the bar's open plus the latency.

    A missing bar has none, whatever other instruments have: an order waits for the next open.
    """
    return tuple(
        OpenQuotes(
            one.instrument_id,
            one.ts_init - one.interval_ns + latency_ns,
            one.open,
            np.concatenate([[math.nan], one.close[:-1]])[: len(one)],
        )
        for one in bars
    )


def bar_records(bars: BarArrays, bar_type: str, instrument: Any) -> list[Bar]:
    """Return the engine's bars; `ts_event` and `ts_init` are the close.

    Raises
    ------
    DataError
        If a price or volume has more decimals than the instrument allows: rounding it would
        change the data unnoticed.
    """
    price, size = instrument.price_precision, instrument.size_precision
    columns = {
        name: _decimals(getattr(bars, name), price, bars, name)
        for name in ("open", "high", "low", "close")
    }
    columns["volume"] = _decimals(bars.volume, size, bars, "volume")
    wrangler = BarDataWrangler(bar_type, price, size)
    return wrangler.process_record_batch_bytes(_record_batch(columns, bars.ts_init))


def range_records(bars: BarArrays, instrument: Any) -> list[TradeTick]:
    """Return open, high, low and close as trades, for bars too thin for the engine to look at.

    It takes a bar for four trades of a quarter of its volume each, and where such a quarter rounds
    to nothing it looks at none of them: a stop inside the range would stay. These trades, given
    just before their bar, follow the same path. The bar itself keeps the volume that it has.
    """
    # The high comes before the low, as in every bar of this replay.
    return _thin_trades(bars, instrument, (bars.open, bars.high, bars.low, bars.close))


def close_records(bars: BarArrays, instrument: Any) -> list[TradeTick]:
    """Return the closes of bars that are too thin as trades, to be given just after their bar.

    Of two or three units the engine makes trades for open, high and low, for which there is enough
    when each is rounded up, and none for the close: it would go on with the low as the last price.
    """
    return _thin_trades(bars, instrument, (bars.close,))


def _thin_trades(bars: BarArrays, instrument: Any, path: Sequence[Float64Array]) -> list[TradeTick]:
    unit = 10.0**-instrument.size_precision
    thin = (bars.volume < (_LEAST_UNITS - 0.5) * unit) & (bars.high > bars.low)
    rows = np.flatnonzero(thin)
    if not len(rows):
        return []
    identity, size = instrument.id, Quantity(_QUOTE_SIZE, instrument.size_precision)
    prices_of = np.stack([prices[rows] for prices in path], axis=1)
    return [
        TradeTick(
            identity,
            Price(price, instrument.price_precision),
            size,
            AggressorSide.NO_AGGRESSOR,
            TradeId(f"{ts}-{len(path)}-{place}"),
            ts,
            ts,
        )
        for ts, prices in zip(bars.ts_init[rows].tolist(), prices_of.tolist(), strict=True)
        for place, price in enumerate(prices)
    ]


def quote_records(quotes: OpenQuotes, bars: BarArrays, instrument: Any) -> list[QuoteTick]:
    """Return the engine's quotes: bid and ask are the price, both sides are deep."""
    price = _decimals(quotes.price, instrument.price_precision, bars, "open")
    size = np.full(len(quotes.price), _QUOTE_SIZE)
    depth = _decimals(size, instrument.size_precision, bars, "quote size")
    columns = {"bid_price": price, "ask_price": price, "bid_size": depth, "ask_size": depth}
    wrangler = QuoteTickDataWrangler(
        quotes.instrument_id, instrument.price_precision, instrument.size_precision
    )
    return wrangler.process_record_batch_bytes(_record_batch(columns, quotes.ts_init))


def funding_records(funding: SeriesArrays, *, booked: bool) -> list[FundingRateUpdate]:
    """Return settlements; the engine books one only if `next_funding_ns` says that it is due."""
    identity = InstrumentId.from_str(funding.name)
    rows = zip(
        funding.value.tolist(), funding.ts_event.tolist(), funding.ts_init.tolist(), strict=True
    )
    return [
        FundingRateUpdate(
            identity,
            Decimal(repr(rate)),
            event,
            init,
            next_funding_ns=event if booked else None,
        )
        for rate, event, init in rows
    ]


def mark_records(bars: BarArrays, funding: SeriesArrays, instrument: Any) -> list[MarkPriceUpdate]:
    """Return the mark price of each settlement: the last close known by then.

    A settlement before the first close has none; nothing can be held by then.
    """
    identity = InstrumentId.from_str(bars.instrument_id)
    row = np.searchsorted(bars.ts_init, funding.ts_init, side="right") - 1
    known = row >= 0
    closes, times = bars.close[row[known]].tolist(), funding.ts_init[known].tolist()
    precision = instrument.price_precision
    return [
        MarkPriceUpdate(identity, Price(close, precision), ts, ts)
        for close, ts in zip(closes, times, strict=True)
    ]


def _record_batch(columns: dict[str, pa.Array], ts_init: Int64Array) -> bytes:
    # Not `pa.array`, which imports Pandas: a live engine would wait for it at its start.
    buffer = pa.py_buffer(np.ascontiguousarray(ts_init, dtype=np.uint64))
    times = pa.Array.from_buffers(pa.uint64(), len(ts_init), [None, buffer])
    batch = pa.record_batch({**columns, "ts_event": times, "ts_init": times})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _decimals(values: Float64Array, precision: int, bars: BarArrays, name: str) -> pa.Array:
    """Return floats as the engine's 128-bit decimals with 16 places."""
    units = np.rint(values * 10.0**precision)
    _check_exact(values, units, precision, bars, name)
    raw = _multiply_128(units.astype(np.uint64), 10 ** (_RAW_DECIMALS - precision))
    buffer = pa.py_buffer(raw)
    return pa.Array.from_buffers(pa.decimal128(38, _RAW_DECIMALS), len(values), [None, buffer])


def _check_exact(
    values: Float64Array, units: Float64Array, precision: int, bars: BarArrays, name: str
) -> None:
    wrong = ~(np.abs(values * 10.0**precision - units) <= np.maximum(_TOLERANCE, 1e-15 * units))
    wrong |= ~(units >= 0.0)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        when = format_time(int(bars.ts_init[min(row, len(bars) - 1)]))
        raise DataError(
            f"{name} of {bars.instrument_id} must be a number of at least 0 with at most "
            f"{precision} decimals, was {float(values[row])!r} at {when}; correct the instrument's "
            f"definition or the data, a rounded price would be another price"
        )


def _multiply_128(units: NDArray[np.uint64], factor: int) -> NDArray[np.uint64]:
    """Return ``units x factor`` as (n, 2) little-endian halves of unsigned 128-bit integers."""
    low_bits, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    units_low, units_high = units & low_bits, units >> half
    factor_low, factor_high = np.uint64(factor & 0xFFFFFFFF), np.uint64(factor >> 32)
    low = units_low * factor_low
    cross_one, cross_two = units_low * factor_high, units_high * factor_low
    middle = (low >> half) + (cross_one & low_bits) + (cross_two & low_bits)
    product = np.empty((len(units), 2), dtype=np.uint64)
    product[:, 0] = (low & low_bits) | (middle << half)
    product[:, 1] = (
        units_high * factor_high + (cross_one >> half) + (cross_two >> half) + (middle >> half)
    )
    return product

"""The market of a test exchange: a catalog's bars and settlements as one sequence of records.

The order is that of a replay (`strategies.replay_data`): by time; at equal times the mark prices of
settlements, the settlements, the bars, then the quotes of opens, and within each kind the
instruments in their order. A quote is a bar's open, one latency after it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from catalog.arrays import BarArrays, Int64Array, SeriesArrays
from catalog.errors import DataError
from catalog.instruments import bar_type
from catalog.store import Catalog, FlowArrays
from catalog.timestamps import format_time
from strategies.execution import InstrumentTerms
from strategies.market_data import exact_bars
from tests.exchange.settings import ExchangeSettings


class Kind(IntEnum):
    """What a record is about, in the order in which records of one time come."""

    MARK = 0
    FUNDING = 1
    BAR = 2
    QUOTE = 3


class Record(NamedTuple):
    """One thing that the market does.

    `row` is a bar's place in its columns (BAR, QUOTE), or a settlement's (MARK, FUNDING).
    """

    ts: int
    kind: Kind
    symbol: str
    row: int


@dataclass(frozen=True, slots=True)
class Listing:
    """An instrument as the exchange lists it.

    Parameters
    ----------
    symbol : str
        Such as ``BTCUSDT``.
    base : str
        Such as ``BTC``.
    terms : InstrumentTerms
        Ticks and steps, under the symbol's name.
    size_decimals : int
        Decimals of a quantity.
    bars : BarArrays
        Of the whole catalog, history and what is to come.
    funding : SeriesArrays
        Settlements; none where the catalog has none.
    flow : FlowArrays, optional
        The order flow of the bars, where the catalog has it.
    """

    symbol: str
    base: str
    terms: InstrumentTerms
    size_decimals: int
    bars: BarArrays
    funding: SeriesArrays
    flow: FlowArrays | None = None

    def price(self, value: float) -> str:
        """Return a price as the exchange writes it."""
        return f"{value:.{self.terms.price_decimals}f}"

    def volumes(self, row: int) -> tuple[float, int, float, float]:
        """Return quote volume, trades, and what takers bought in base and quote units."""
        if self.flow is not None:
            at = bisect_right(self.flow.ts_init.data, int(self.bars.ts_init[row])) - 1
            if at >= 0 and self.flow.ts_init[at] == self.bars.ts_init[row]:
                return (
                    float(self.flow.quote_volume[at]),
                    int(self.flow.trade_count[at]),
                    float(self.flow.taker_buy_volume[at]),
                    float(self.flow.taker_buy_quote_volume[at]),
                )
        return float(self.bars.volume[row] * self.bars.close[row]), 1, 0.0, 0.0

    def size(self, value: float) -> str:
        """Return a quantity as the exchange writes it."""
        return f"{value:.{self.size_decimals}f}"


class Market:
    """What a test exchange replays, and what it remembers.

    Parameters
    ----------
    settings : ExchangeSettings
        Which catalog, instruments and span.

    Attributes
    ----------
    listings : dict of Listing
        By symbol.
    interval_ns : int
        Length of a bar.

    Raises
    ------
    DataError
        If there is no bar to replay.
    """

    def __init__(self, settings: ExchangeSettings) -> None:
        store = Catalog.open(settings.catalog)
        self.listings: dict[str, Listing] = {}
        for name in settings.instruments:
            listing = _listing(store, name, settings)
            self.listings[listing.symbol] = listing
        self.interval_ns = next(iter(self.listings.values())).bars.interval_ns
        booked = settings.execution.funding == "recorded"
        latency = settings.execution.latency_ns
        self._symbols = list(self.listings)
        self._sort(settings.start, settings.end, latency, booked=booked)

    def _sort(self, start: int, end: int | None, latency: int, *, booked: bool) -> None:
        parts: list[tuple[Int64Array, Kind, int, Int64Array]] = []
        last = max(int(one.bars.ts_init[-1]) for one in self.listings.values())
        end = last if end is None else min(end, last)
        for place, one in enumerate(self.listings.values()):
            times, interval = one.bars.ts_init, one.bars.interval_ns
            rows = np.flatnonzero((times - interval >= start) & (times <= end))
            parts.append((times[rows], Kind.BAR, place, rows))
            parts.append((times[rows] - interval + latency, Kind.QUOTE, place, rows))
            if booked:
                times = one.funding.ts_init
                rows = np.flatnonzero((times > start) & (times <= end))
                parts.append((times[rows], Kind.MARK, place, rows))
                parts.append((times[rows], Kind.FUNDING, place, rows))
        ts = np.concatenate([one[0] for one in parts])
        if not len(ts):
            raise DataError(
                f"the span must hold a bar, had none after {format_time(start)}: begin earlier"
            )
        kind = np.concatenate([np.full(len(one[0]), int(one[1])) for one in parts])
        place_of = np.concatenate([np.full(len(one[0]), one[2]) for one in parts])
        row = np.concatenate([one[3] for one in parts])
        order = np.lexsort((place_of, kind, ts))
        self._columns = tuple(one[order].tolist() for one in (ts, kind, place_of, row))

    def __len__(self) -> int:
        """Return how many records there are."""
        return len(self._columns[0])

    def record(self, position: int) -> Record:
        """Return a record by its place."""
        ts, kind, place, row = (one[position] for one in self._columns)
        return Record(ts, Kind(kind), self._symbols[place], row)

    def time_of(self, position: int) -> int | None:
        """Return the time of a record; None past the end."""
        return self._columns[0][position] if position < len(self) else None

    def known_bars(self, symbol: str, clock: int) -> int:
        """Return how many of an instrument's bars are complete."""
        return bisect_right(self.listings[symbol].bars.ts_init.data, clock)

    def known_funding(self, symbol: str, clock: int) -> int:
        """Return how many of an instrument's settlements are over."""
        return bisect_right(self.listings[symbol].funding.ts_init.data, clock)

    def rate(self, symbol: str, clock: int) -> tuple[float, int]:
        """Return the last settled rate and when the next settlement is due, UTC nanoseconds.

        A settlement that the catalog does not know is expected at the next full eight hours.
        """
        funding, row = self.listings[symbol].funding, self.known_funding(symbol, clock)
        rate = float(funding.value[row - 1]) if row else 0.0
        eight_hours = 8 * 3_600 * 1_000_000_000
        due = int(funding.ts_init[row]) if row < len(funding) else 0
        return rate, due or (clock // eight_hours + 1) * eight_hours


def _listing(store: Catalog, name: str, settings: ExchangeSettings) -> Listing:
    instrument = store.instrument(name)
    symbol = str(instrument.raw_symbol)
    bars = exact_bars(store.bars(name, settings.interval), instrument)
    if not len(bars):
        raise DataError(f"bars of {name} must be in the catalog, were none: import them")
    none = np.zeros(0, dtype=np.int64)
    funding = SeriesArrays(name, "fraction", none, none, np.zeros(0))
    if settings.execution.funding == "recorded" and any(
        one.series == name for one in store.series("funding")
    ):
        funding = store.funding(name)
    terms = replace(InstrumentTerms.of(instrument), instrument_id=symbol)
    base = str(instrument.base_currency)
    series = bar_type(name, settings.interval)
    flow = None
    if any(one.series == series for one in store.series("bar_flow")):
        flow = store.bar_flow(name, settings.interval)
    return Listing(symbol, base, terms, instrument.size_precision, bars, funding, flow)

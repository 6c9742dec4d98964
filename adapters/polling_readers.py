"""Readers of funding, implied volatility, Fear & Greed and on-chain metrics from their APIs.

A reader turns answers into the tables that the batch importers read and hands them to the same
code, so that a record that comes live is the record that an import of the same days would store.
Its `ts_init` is then what an importer would assume; when it really came is for the poller to say.

The forms of the answers are those that the vendors document:

- Binance ``GET /fapi/v1/premiumIndex`` (`nextFundingTime`, `time`) and ``GET
  /fapi/v1/fundingRate`` (`fundingTime`, `fundingRate`; ascending, at most 1,000);
- Deribit ``GET /api/v2/public/get_volatility_index_data`` (candles by their start in milliseconds,
  `continuation` as the end of the next request);
- alternative.me ``GET /fng/`` (`value` and `timestamp` as texts, newest first);
- Coin Metrics ``GET /v4/timeseries/asset-metrics`` (a row a day with texts, `next_page_token`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from adapters.binance_archive import Market, funding_batch
from adapters.checks import Place
from adapters.coinmetrics import COMPLETION, batches_of
from adapters.indices import dvol_batch, fear_greed_batch
from adapters.options import ImportOptions
from adapters.polling_config import (
    DvolSource,
    FearGreedSource,
    FundingSource,
    OnchainSource,
    Source,
)
from adapters.polling_http import HttpAnswer, PollHttp
from adapters.sources import SourceFile, TextTable
from catalog.errors import DataError
from catalog.records import Batch
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, format_time

_NS_PER_MS = 1_000_000
_MOST_PAGES = 200
_FUNDING_PAGE = 1_000
_ONCHAIN_PAGE = 1_000
_LEAST_DVOL = 2.0
"""Percent a year; a smaller level is a fraction, which the test exchange has been seen to send."""


class Reader(Protocol):
    """Asks one address for the records of one or more series.

    `poll` asks for what may be new; `history` for all of a span. Both return the records of each
    series in order, as an importer would store them, and may return some that are known already.
    """

    @property
    def name(self) -> str:
        """Of the reader, for people: ``funding BTCUSDT-PERP.BINANCE``."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its series, as predictors name them."""

    @property
    def source(self) -> Source:
        """Its settings."""

    def poll(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return what happened at `since_ns` or later, as far as it may be new."""

    def history(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return all that happened at `since_ns` or later, as far as the vendor keeps it."""


class FundingReader:
    """The settled rates of one perpetual.

    The rate that the premium index states is the estimate of the settlement to come, which no
    catalog holds. What it is asked for is when that settlement is due: the history of rates, whose
    requests are limited, is asked for only once something has been settled.
    """

    def __init__(self, source: FundingSource, instrument_id: str) -> None:
        self.source = source
        self.instrument_id = instrument_id
        self.name = f"funding {instrument_id}"
        self.names = (f"funding.{instrument_id}",)
        self._symbol = instrument_id.partition("-")[0]
        self._due_ns: int | None = None

    def poll(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return the settlements since `since_ns`, or nothing where none was due."""
        next_ns = self._next_settlement(http)
        if self._due_ns is not None and next_ns <= self._due_ns:
            self._due_ns = next_ns
            return []
        batches = self.history(http, since_ns, options)
        settled = int(batches[-1].columns["ts_event"][-1]) if batches else 0
        # What was due is not always there at once: it is asked for until it is.
        if self._due_ns is None or settled >= self._due_ns:
            self._due_ns = next_ns
        return batches

    def history(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return the settlements since `since_ns`."""
        url = f"{self.source.base_url}/fapi/v1/fundingRate"
        rows: list[Any] = []
        start = max(0, since_ns) // _NS_PER_MS
        for _ in range(_MOST_PAGES):
            answer = http.get(
                url, {"symbol": self._symbol, "startTime": start, "limit": _FUNDING_PAGE}
            )
            page = _list(answer, answer.json())
            rows += page
            if len(page) < _FUNDING_PAGE:
                return self._batches(answer, rows, options)
            start = _later(answer, start, _whole(answer, page[-1], "fundingTime") + 1)
        raise _endless(url)

    def _next_settlement(self, http: PollHttp) -> int:
        answer = http.get(f"{self.source.base_url}/fapi/v1/premiumIndex", {"symbol": self._symbol})
        content = _object(answer, answer.json())
        self._require_symbol(answer, content)
        http.note_server_time(_whole(answer, content, "time") * _NS_PER_MS)
        return _whole(answer, content, "nextFundingTime") * _NS_PER_MS

    def _require_symbol(self, answer: HttpAnswer, row: Any) -> None:
        if _object(answer, row).get("symbol") != self._symbol:
            raise DataError(
                f"{answer.name}: symbol must be {self._symbol}, was {row.get('symbol')!r}"
            )

    def _batches(
        self, answer: HttpAnswer, rows: Sequence[Any], options: ImportOptions
    ) -> list[Batch]:
        if not rows:
            return []
        for row in rows:
            self._require_symbol(answer, row)
        columns = {
            "calc_time": [str(_whole(answer, row, "fundingTime")) for row in rows],
            "last_funding_rate": [_text(answer, row, "fundingRate") for row in rows],
        }
        table = _table(answer, columns)
        market = Market(self.instrument_id, "fundingRate", ())
        return [funding_batch(Place(table.source, table.lines), market, table, options)]


class DvolReader:
    """The hours of one currency's volatility index that are over."""

    def __init__(self, source: DvolSource, currency: str) -> None:
        self.source = source
        self.name = f"dvol {currency}"
        self.names = (f"index.dvol.{currency}",)
        self._currency = currency

    def poll(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return the hours that ended at `since_ns` or later."""
        return self.history(http, since_ns, options)

    def history(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return the hours that ended at `since_ns` or later."""
        now = options.clock_ns()
        # Candles are asked for by their start.
        first = max(0, since_ns - NS_PER_HOUR) // _NS_PER_MS
        rows: dict[int, list[float]] = {}
        for answer, page in self._pages(http, first, now // _NS_PER_MS):
            # An hour is over by the later of both clocks only if neither is ahead.
            now = min(now, _server_clock(answer, http) or now)
            for row in page:
                start, levels = _candle(answer, row)
                if rows.setdefault(start, levels) != levels:
                    raise DataError(
                        f"{answer.name}: an hour must have one candle, had two that differ at "
                        f"{format_time(start * _NS_PER_MS)}"
                    )
        finished = sorted(start for start in rows if start * _NS_PER_MS + NS_PER_HOUR <= now)
        if not finished:
            return []
        columns = np.array([rows[start] for start in finished]).T
        table = pa.table(
            {
                "timestamp": pa.array(finished, pa.timestamp("ms", tz="UTC")),
                **dict(zip(("open", "high", "low", "close"), columns, strict=True)),
            }
        )
        return [dvol_batch(self.name, self._currency, table, options)]

    def _pages(
        self, http: PollHttp, first_ms: int, last_ms: int
    ) -> Iterator[tuple[HttpAnswer, list[Any]]]:
        url = f"{self.source.base_url}/api/v2/public/get_volatility_index_data"
        for _ in range(_MOST_PAGES):
            answer = http.get(
                url,
                {
                    "currency": self._currency.upper(),
                    "start_timestamp": first_ms,
                    "end_timestamp": last_ms,
                    "resolution": 3_600,
                },
            )
            result = _object(answer, _object(answer, answer.json()).get("result"), "result")
            page = _list(answer, result.get("data"), "result.data")
            yield answer, page
            continuation = result.get("continuation")
            if continuation is None or not page:
                return
            if not isinstance(continuation, int) or continuation >= last_ms:
                raise DataError(
                    f"{answer.name}: continuation must be earlier than the end asked for "
                    f"({last_ms}), was {continuation!r}"
                )
            if continuation < first_ms:
                return
            last_ms = continuation
        raise _endless(url)


class FearGreedReader:
    """The days of the Fear & Greed index."""

    name = "fear_greed"
    names = ("index.fear_greed",)

    def __init__(self, source: FearGreedSource) -> None:
        self.source = source

    def poll(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return the days that began at `since_ns` or later."""
        return self.history(http, since_ns, options)

    def history(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return the days that began at `since_ns` or later."""
        days = max(0, options.clock_ns() - since_ns) // NS_PER_DAY + 2
        answer = http.get(f"{self.source.base_url}/fng/", {"limit": days, "format": "json"})
        content = _object(answer, answer.json())
        fault = _object(answer, content.get("metadata") or {}, "metadata").get("error")
        if fault is not None:
            raise DataError(f"{answer.name}: must answer without an error, was {fault!r}")
        found: dict[int, str] = {}
        for row in _list(answer, content.get("data"), "data"):
            value = _text(answer, row, "value")
            # The day counts: the documentation's own example is stamped five hours into it.
            day = _whole(answer, row, "timestamp") // 86_400
            if found.setdefault(day, value) != value:
                raise DataError(
                    f"{answer.name}: a day must have one value, had {found[day]} and {value}"
                )
        days_kept = sorted(day for day in found if day * NS_PER_DAY >= since_ns)
        if not days_kept:
            return []
        columns = {
            "date": [str(np.datetime64(day, "D")) for day in days_kept],
            "fear_greed_index": [found[day] for day in days_kept],
        }
        return [fear_greed_batch(_table(answer, columns), options)]


class OnchainReader:
    """The days of one asset's metrics."""

    def __init__(self, source: OnchainSource, asset: str) -> None:
        self.source = source
        self.name = f"onchain {asset}"
        self.names = tuple(f"onchain.coinmetrics.{asset}.{name}" for name in source.metrics)
        self._asset = asset

    def poll(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return the days that ended at `since_ns` or later."""
        return self.history(http, since_ns, options)

    def history(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return the days that ended at `since_ns` or later."""
        source = self.source
        metrics = (*source.metrics, *((COMPLETION,) if source.completion else ()))
        rows, answer = self._rows(http, metrics, max(0, since_ns - NS_PER_DAY))
        # A day without any value is one that is not computed yet, and a metric that the vendor
        # stamps at a day's start may be there before the day is over.
        today = format_time(options.clock_ns())[:10]
        kept = [
            row
            for row in rows
            if any(row.get(name) is not None for name in source.metrics)
            and _text(answer, row, "time")[:10] != today
        ]
        if not kept:
            return []
        columns = {"time": [_text(answer, row, "time") for row in kept]}
        columns["asset"] = [_text(answer, row, "asset") for row in kept]
        for name in metrics:
            columns[name] = ["" if row.get(name) is None else str(row[name]) for row in kept]
        if set(columns["asset"]) != {self._asset}:
            raise DataError(
                f"{answer.name}: asset must be {self._asset}, was {sorted(set(columns['asset']))}"
            )
        table = _table(answer, columns)
        file = SourceFile(Path("answer"), table.source, "csv", "answer", tuple(columns))
        return batches_of(file, table, options)

    def _rows(
        self, http: PollHttp, metrics: Sequence[str], start_ns: int
    ) -> tuple[list[Mapping[str, Any]], HttpAnswer]:
        url = f"{self.source.base_url}/v4/timeseries/asset-metrics"
        params: dict[str, str | int] = {
            "assets": self._asset,
            "metrics": ",".join(metrics),
            "frequency": "1d",
            "start_time": format_time(start_ns)[:10],
            "paging_from": "start",
            "page_size": _ONCHAIN_PAGE,
        }
        rows: list[Mapping[str, Any]] = []
        for _ in range(_MOST_PAGES):
            answer = http.get(url, params)
            content = _object(answer, answer.json())
            page = _list(answer, content.get("data"), "data")
            rows += [_object(answer, row, "a row of data") for row in page]
            token = content.get("next_page_token")
            # The token and not `next_page_url`, which would lead away from a base address.
            if not token or not page:
                return rows, answer
            params = {**params, "next_page_token": _token(answer, token)}
        raise _endless(url)


def _candle(answer: HttpAnswer, row: Any) -> tuple[int, list[float]]:
    numbers = row if isinstance(row, list) and len(row) == 5 else None
    if numbers is None or not all(type(one) in (int, float) for one in numbers):
        raise DataError(
            f"{answer.name}: a candle must be [milliseconds, open, high, low, close], was "
            f"{row!r:.80}"
        )
    start, *levels = numbers
    if start != int(start):
        raise DataError(f"{answer.name}: a candle must start at a whole millisecond, was {start!r}")
    if min(levels) < _LEAST_DVOL:
        raise DataError(
            f"{answer.name}: a level must be percent a year, at least {_LEAST_DVOL:g}, was "
            f"{min(levels)!r}: a fraction, or another index"
        )
    return int(start), [float(one) for one in levels]


def _server_clock(answer: HttpAnswer, http: PollHttp) -> int | None:
    """Return the server's clock: by its body to the microsecond, else by its header."""
    stated = answer.json().get("usOut")
    if not isinstance(stated, int):
        return answer.server_ns
    http.note_server_time(stated * 1_000)
    return stated * 1_000


def _table(answer: HttpAnswer, columns: Mapping[str, list[str]]) -> TextTable:
    arrays = {name: pa.array(texts, pa.string()) for name, texts in columns.items()}
    count = len(next(iter(arrays.values())))
    return TextTable(answer.name, arrays, np.arange(1, count + 1, dtype=np.int64))


def _list(answer: HttpAnswer, value: Any, what: str = "the answer") -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{answer.name}: {what} must be a list, was {value!r:.80}")
    return value


def _object(answer: HttpAnswer, value: Any, what: str = "the answer") -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{answer.name}: {what} must be an object, was {value!r:.80}")
    return value


def _text(answer: HttpAnswer, row: Any, key: str) -> str:
    value = _object(answer, row, "a row").get(key)
    if not isinstance(value, str):
        raise DataError(f"{answer.name}: {key} must be a text, was {value!r:.80}")
    return value


def _whole(answer: HttpAnswer, row: Any, key: str) -> int:
    """Return a whole number that is written as one or as a text of digits."""
    value = _object(answer, row, "a row").get(key)
    if isinstance(value, str) and value.isdecimal() and len(value) <= 18:
        return int(value)
    if type(value) is not int or not 0 <= value < 10**18:
        raise DataError(f"{answer.name}: {key} must be a whole number, was {value!r:.80}")
    return value


def _token(answer: HttpAnswer, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 4_096:
        raise DataError(f"{answer.name}: next_page_token must be a text, was {value!r:.80}")
    return value


def _later(answer: HttpAnswer, previous: int, following: int) -> int:
    if following <= previous:
        raise DataError(f"{answer.name}: pages must lead on, the next began at {following}")
    return following


def _endless(url: str) -> DataError:
    return DataError(f"{url}: an answer must have at most {_MOST_PAGES} pages, had more")

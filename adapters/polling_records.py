"""What a poller hands on: records with the time at which they came, and what is said of inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from nautilus_trader.model import CustomData, DataType, FundingRateUpdate, InstrumentId

from catalog.records import COLUMNS, Batch, Kind
from catalog.types import IndexLevel, NewsArrival, NewsSentiment, OnchainMetrics

# The decorator adds ts_event and ts_init in front, unseen by the type checker.
_index: Callable[..., IndexLevel] = IndexLevel
_onchain: Callable[..., OnchainMetrics] = OnchainMetrics
_sentiment: Callable[..., NewsSentiment] = NewsSentiment
_arrival: Callable[..., NewsArrival] = NewsArrival


@dataclass(frozen=True, slots=True)
class Polled:
    """One record that came.

    Parameters
    ----------
    kind : Kind
        ``funding``, ``index``, ``onchain`` or ``news``.
    series : str
        The catalog's series: an instrument id for funding.
    name : str
        As predictors and ages name it: ``index.dvol.btc``, ``onchain.coinmetrics.btc.AdrActCnt``,
        ``funding.BTCUSDT-PERP.BINANCE``.
    ts_event, ts_init : int
        When it happened, and when it came, UTC nanoseconds.
    fields : mapping
        The columns of its kind (`catalog.records.COLUMNS`).
    novelty : float
        Of a headline; NaN where nobody measures it.
    """

    kind: Kind
    series: str
    name: str
    ts_event: int
    ts_init: int
    fields: Mapping[str, Any]
    novelty: float = math.nan

    @property
    def value(self) -> float:
        """The number that counts: rate, close, value or score."""
        return float(self.fields[_NUMBER[self.kind]])

    @property
    def data_type(self) -> DataType | None:
        """The engine's type by which a predictor subscribes to it; None for funding."""
        name = _TYPES.get(self.kind)
        return None if name is None else DataType(name, None, self.series)

    def data(self) -> CustomData | FundingRateUpdate:
        """Return the record as a predictor takes it (`strategies.slow_records.pass_on`).

        Call it on the node's thread: the engine's objects belong there.
        """
        times, values = (self.ts_event, self.ts_init), self.fields
        if self.kind == "funding":
            # As in the replay: the settlement that the rate is of is the one that is due.
            return FundingRateUpdate(
                InstrumentId.from_str(self.series),
                Decimal(repr(float(values["rate"]))),
                *times,
                next_funding_ns=self.ts_event,
            )
        record: Any
        if self.kind == "index":
            levels = (values[name] for name in ("open", "high", "low", "close"))
            record = _index(*times, self.series, *levels, values["unit"])
        elif self.kind == "onchain":
            asset = self.series.rpartition(".")[2]
            record = _onchain(*times, asset, values["metric"], values["value"], values["unit"])
        else:
            record = _arrival(*times, self.series, values["score"], self.novelty)
        kind = self.data_type
        assert kind is not None
        return CustomData(kind, record)

    def sentiment(self) -> CustomData:
        """Return a headline as the catalog stores it, text included."""
        names = ("asset", "source", "headline", "score", "ts_published")
        record = _sentiment(self.ts_event, self.ts_init, *(self.fields[name] for name in names))
        return CustomData(DataType("NewsSentiment", None, self.series), record)


_NUMBER: Mapping[str, str] = {
    "funding": "rate",
    "index": "close",
    "onchain": "value",
    "news": "score",
}
_TYPES: Mapping[str, str] = {
    "index": "IndexLevel",
    "onchain": "OnchainMetrics",
    "news": "NewsArrival",
}


@dataclass(frozen=True, slots=True)
class InputStatus:
    """How one input fares: plain data, safe to hand to another thread or to write as JSON.

    Parameters
    ----------
    name : str
        See `Polled.name`.
    reader : str
        Who reads it; several inputs may share a reader and then share its counts.
    last_event_ns, last_init_ns : int
        Of the newest record, UTC nanoseconds; 0 if there is none yet.
    last_value : float or None
        Its value; None if there is none, or it is unscored.
    age_secs : float or None
        Time since the newest record became known.
    stale : bool
        Whether what it speaks of is longer ago than `Source.stale_secs`, or there is none: the
        server may answer and yet have nothing new to say.
    records, duplicates, restated, late, left_out : int
        Published; repeated by the vendor; changed by it after the fact, which a backtest could
        not have known either; older than one already published; unusable items of a feed.
    polls, failures, failures_in_row : int
        Requests for news of it, and how many failed.
    last_ok_ns, next_poll_ns : int
        When the reader was last answered, and when it asks next, UTC nanoseconds.
    skew_secs : float or None
        How far the server's clock is ahead of ours.
    skewed : bool
        Whether that is more than `PollLimits.max_skew_secs`, in either direction.
    last_error : str
        Why the last poll failed; empty if it did not.
    """

    name: str
    reader: str
    last_event_ns: int = 0
    last_init_ns: int = 0
    last_value: float | None = None
    age_secs: float | None = None
    stale: bool = True
    records: int = 0
    duplicates: int = 0
    restated: int = 0
    late: int = 0
    left_out: int = 0
    polls: int = 0
    failures: int = 0
    failures_in_row: int = 0
    last_ok_ns: int = 0
    next_poll_ns: int = 0
    skew_secs: float | None = None
    skewed: bool = False
    last_error: str = ""


def rows_of(batch: Batch) -> list[Polled]:
    """Return a batch's records one by one, with the times that it gives them."""
    names = [column.name for column in COLUMNS[batch.kind]]
    columns = {name: np.asarray(batch.columns[name]).tolist() for name in names}
    times = zip(batch.columns["ts_event"].tolist(), batch.columns["ts_init"].tolist(), strict=True)
    found = []
    for row, (event, init) in enumerate(times):
        values = {name: column[row] for name, column in columns.items()}
        name = _name(batch, values)
        found.append(Polled(batch.kind, batch.series, name, event, init, values))
    return found


def batches_of_rows(rows: list[Polled]) -> list[Batch]:
    """Return records as batches for a catalog, one for each series, in order of `ts_init`."""
    grouped: dict[tuple[Kind, str], list[Polled]] = {}
    for row in rows:
        grouped.setdefault((row.kind, row.series), []).append(row)
    return [_batch(kind, series, group) for (kind, series), group in grouped.items()]


def _batch(kind: Kind, series: str, rows: list[Polled]) -> Batch:
    rows = sorted(rows, key=lambda row: (row.ts_init, row.ts_event))
    types = {"float": np.float64, "int": np.int64, "text": object}
    columns: dict[str, Any] = {
        "ts_event": np.array([row.ts_event for row in rows], dtype=np.int64),
        "ts_init": np.array([row.ts_init for row in rows], dtype=np.int64),
    }
    for column in COLUMNS[kind]:
        values = [row.fields[column.name] for row in rows]
        columns[column.name] = np.array(values, dtype=types[column.dtype])
    # The times tell one such batch from the next: a catalog knows a source by its name.
    source = f"polled-{series}-{rows[0].ts_init}-{rows[-1].ts_init}"
    return Batch(kind, series, columns, source)


def _name(batch: Batch, values: Mapping[str, Any]) -> str:
    if batch.kind == "onchain":
        return f"onchain.{batch.series}.{values['metric']}"
    return f"{batch.kind}.{batch.series}"

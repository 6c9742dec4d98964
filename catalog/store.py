"""The catalog: open it, see what it holds, read it as known at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from catalog.arrays import BarArrays, Float64Array, Int64Array, SeriesArrays
from catalog.progress import Progress, no_progress
from catalog.records import Batch, Kind

if TYPE_CHECKING:
    import pandas as pd
    from nautilus_trader.model import Bar, FundingRateUpdate

    from catalog.ingest import IngestReport


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """One line of `Catalog.series`: times in UTC nanoseconds, both ends inclusive."""

    kind: Kind
    series: str
    start: int
    end: int
    rows: int
    vintages: tuple[str, ...]
    synthetic: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class Restatement:
    """A later vintage that says something else about an interval that was already known."""

    kind: Kind
    series: str
    vintage: str
    known_at: int
    start: int
    end: int
    rows: int


@dataclass(frozen=True, slots=True)
class FlowArrays:
    """The `BarFlow` columns of one instrument, sorted by time; see `catalog.types.BarFlow`."""

    instrument_id: str
    interval_ns: int
    ts_init: Int64Array
    quote_volume: Float64Array
    trade_count: Int64Array
    taker_buy_volume: Float64Array
    taker_buy_quote_volume: Float64Array


class Catalog:
    """A folder of Parquet files with a commit record that says which of them count.

    Reads take `start` and `end` as ``start < ts_init <= end``. Prices and volumes are bit for bit
    ``float(bar.close)`` of the engine's bars, so that a kernel fed with columns and one fed with
    live bars agree. Where a series has several vintages a read returns the first (what was known
    at the time); `vintage="latest"` or `as_of` say otherwise.
    """

    path: Path

    @classmethod
    def open(cls, path: Path | str, *, create: bool = False) -> Self: ...
    def series(self, kind: Kind | None = None) -> list[SeriesInfo]: ...
    def info(self) -> dict[str, Any]: ...
    def ingest(
        self, batches: Iterable[Batch], *, progress: Progress = no_progress
    ) -> IngestReport: ...
    def bars(
        self,
        instrument_id: str,
        interval: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = "first",
    ) -> BarArrays: ...
    def bar_flow(
        self,
        instrument_id: str,
        interval: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = "first",
    ) -> FlowArrays: ...
    def funding(
        self,
        instrument_id: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = "first",
    ) -> SeriesArrays: ...
    def metrics(self, series: str) -> list[str]: ...
    def onchain(
        self,
        series: str,
        metric: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = "first",
    ) -> SeriesArrays: ...
    def index(
        self,
        series: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = "first",
    ) -> SeriesArrays: ...
    def news(
        self,
        series: str | None = None,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = "first",
    ) -> pd.DataFrame: ...
    def restated(self, kind: Kind, series: str) -> list[Restatement]: ...
    def nautilus_bars(
        self, instrument_id: str, interval: str, start: int | None = None, end: int | None = None
    ) -> list[Bar]: ...
    def nautilus_funding(
        self, instrument_id: str, start: int | None = None, end: int | None = None
    ) -> list[FundingRateUpdate]: ...
    def instrument(self, instrument_id: str) -> Any: ...
    def instruments(self) -> list[str]: ...
    def data_hash(self, requests: Sequence[tuple[Kind, str, int | None, int | None]]) -> str: ...
    def is_synthetic(self, instrument_ids: Sequence[str]) -> bool: ...

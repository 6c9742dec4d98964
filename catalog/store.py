"""The catalog: open it, see what it holds, read it as known at a time."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from catalog.arrays import BarArrays, Float64Array, Int64Array
from catalog.encoding import Records, update_digest
from catalog.errors import ConfigError, DataError, IntegrityError
from catalog.ingest import IngestReport, ingest
from catalog.instruments import KNOWN, bar_type, definition
from catalog.inventory import SeriesInfo, instrument_of, inventory, series_info
from catalog.manifest import Manifest
from catalog.mirror import fetch_catalog, remote_url
from catalog.progress import Progress, no_progress
from catalog.reading import Query, Reader
from catalog.records import Batch, Kind
from catalog.timestamps import interval_ns
from catalog.transactions import (
    LOCK_TIMEOUT_SECS,
    STAGING,
    locked,
    newest,
    require_free,
    settle,
)
from catalog.vintages import FIRST, Choice, PointInTimeSeries, Restatement

if TYPE_CHECKING:
    import pandas as pd
    from nautilus_trader.model import Bar, CryptoPerpetual, CurrencyPair, FundingRateUpdate

__all__ = ["Catalog", "FlowArrays", "Request", "Restatement", "SeriesInfo"]

type Request = tuple[Kind, str, int | None, int | None]
"""Kind, series, start and end of data that a run uses."""


@dataclass(frozen=True, slots=True)
class FlowArrays:
    """The order flow of one instrument's bars, sorted by time; see `catalog.types.BarFlow`.

    Parameters
    ----------
    instrument_id : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    interval_ns : int
        Length of a bar in nanoseconds.
    ts_init : (n_bars,) int64
        The bar's close, UTC nanoseconds.
    quote_volume, taker_buy_quote_volume : (n_bars,) float64
        Quote units.
    trade_count : (n_bars,) int64
        Trades.
    taker_buy_volume : (n_bars,) float64
        Base units.
    """

    instrument_id: str
    interval_ns: int
    ts_init: Int64Array
    quote_volume: Float64Array
    trade_count: Int64Array
    taker_buy_volume: Float64Array
    taker_buy_quote_volume: Float64Array

    def __len__(self) -> int:
        return len(self.ts_init)


class Catalog:
    """A folder of Parquet files with a commit record that says which of them count.

    Reads take `start` and `end` as ``start < ts_init <= end``, and return one consistent state:
    the newest when the catalog was opened or refreshed. Prices and volumes are the
    doubles nearest to the stored decimals, bit for bit ``bar.close.raw / 10**16`` of the engine's
    bars, so that a kernel fed with columns and one fed with live bars agree.

    Where a series has several vintages a read returns the first, which is what was known at the
    time; ``vintage="latest"`` (or a label), or `as_of` in UTC nanoseconds, say otherwise. See
    `catalog.vintages`. All reads raise DataError if the series or the span holds nothing, saying
    what there is instead, and IntegrityError if a file is missing or its bytes have changed.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.reader = Reader(path, manifest)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        create: bool = False,
    ) -> Self:
        """Open a catalog, finishing or clearing away what an interrupted writer left.

        Parameters
        ----------
        path : Path or str
            The folder; or the URL of a pushed catalog, which is read through a mirror on this
            machine (see `catalog.mirror`), the newest state that there is now.
        create : bool
            Take an absent or empty folder for a new catalog. It is made by the first import that
            stores something, so that a refused one leaves nothing behind.

        Raises
        ------
        DataError
            If there is no catalog (and `create` is false), or the folder holds something else; of
            a URL as `fetch_catalog`, and always if it is to be created.
        IntegrityError
            If the commit record is damaged.
        """
        url = remote_url(path)
        if url is not None and create:
            raise DataError(
                f"a catalog that is written must be a folder, was {url}; write it to a folder and "
                "then send it with `levibot data push`"
            )
        root = Path(path) if url is None else fetch_catalog(url)
        manifest = newest(root)
        if manifest is None:
            if not create:
                state = "is absent" if not root.exists() else "holds none"
                raise DataError(
                    f"catalog must be a folder made by `levibot data import`, `data fetch` or "
                    f"`data synth`, was {str(root)!r}, which {state}"
                )
            require_free(root)
            return cls(root, Manifest())
        # Another writer at work, or a disk mounted for reading only: reading needs neither.
        with contextlib.suppress(DataError, OSError), locked(root, 0.0):
            manifest = newest(root) or manifest
            settle(root, manifest)
        return cls(root, manifest)

    def refresh(self) -> None:
        """Look at the newest commit, for instance after another process imported something."""
        self.reader.refresh()

    @property
    def is_stored(self) -> bool:
        """Whether the folder holds a commit; a new catalog has none before its first import."""
        return newest(self.path) is not None

    @property
    def manifest(self) -> Manifest:
        """The state that reads return."""
        return self.reader.manifest

    def ingest(
        self,
        batches: Iterable[Batch],
        *,
        progress: Progress = no_progress,
        lock_timeout_secs: float = LOCK_TIMEOUT_SECS,
        now: int | None = None,
    ) -> IngestReport:
        """Add what is new in these batches, in one commit; see `catalog.ingest.ingest`."""
        report = ingest(
            self.path,
            batches,
            progress=progress,
            lock_timeout_secs=lock_timeout_secs,
            now=now,
            create=not self.manifest.commits,
        )
        self.refresh()
        return report

    def series(self, kind: Kind | None = None) -> list[SeriesInfo]:
        """Return what the catalog holds, of one kind or of all."""
        return [
            series_info(record)
            for record in self.manifest.series
            if kind is None or record.kind == kind
        ]

    def info(self) -> dict[str, Any]:
        """Return what the catalog holds and where it came from, for JSON."""
        return inventory(self.path, self.manifest)

    def instruments(self) -> list[str]:
        """Return the ids of the instruments that the catalog defines."""
        return sorted(self.manifest.instruments)

    def instrument(self, instrument_id: str) -> CryptoPerpetual | CurrencyPair:
        """Return the engine's definition of an instrument, with the precisions of its data.

        Raises
        ------
        ConfigError
            If neither the catalog nor the built-in table defines it.
        """
        spec = self.manifest.instruments.get(instrument_id) or KNOWN.get(instrument_id)
        if spec is None:
            raise ConfigError(
                f"instrument must be one of {', '.join(self.instruments()) or '(none)'}, was "
                f"{instrument_id!r}; import its bars first"
            )
        return definition(spec)

    def is_synthetic(self, instrument_ids: Sequence[str]) -> bool:
        """Return whether any series of these instruments is made up."""
        wanted = set(instrument_ids)
        return any(
            record.synthetic and instrument_of(record) in wanted for record in self.manifest.series
        )

    def restated(self, kind: Kind, series: str, *, as_of: int | None = None) -> list[Restatement]:
        """Return what later vintages changed (known by `as_of`, if given); empty if nothing."""
        return self.reader.changes(Query(kind, series, choice=Choice(as_of=as_of)))

    def bars(
        self,
        instrument_id: str,
        interval: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = FIRST,
    ) -> BarArrays:
        """Return the bars of an instrument."""
        series = bar_type(instrument_id, interval)
        rows = self.reader.records(Query("bars", series, start, end, Choice(vintage, as_of)))
        return BarArrays(
            instrument_id=instrument_id,
            interval_ns=interval_ns(interval),
            ts_init=rows["ts_init"],
            open=rows["open"],
            high=rows["high"],
            low=rows["low"],
            close=rows["close"],
            volume=rows["volume"],
        )

    def bar_flow(
        self,
        instrument_id: str,
        interval: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = FIRST,
    ) -> FlowArrays:
        """Return the order flow of an instrument's bars."""
        series = bar_type(instrument_id, interval)
        rows = self.reader.records(Query("bar_flow", series, start, end, Choice(vintage, as_of)))
        return FlowArrays(
            instrument_id=instrument_id,
            interval_ns=interval_ns(interval),
            ts_init=rows["ts_init"],
            quote_volume=rows["quote_volume"],
            trade_count=rows["trade_count"],
            taker_buy_volume=rows["taker_buy_volume"],
            taker_buy_quote_volume=rows["taker_buy_quote_volume"],
        )

    def funding(
        self,
        instrument_id: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = FIRST,
    ) -> PointInTimeSeries:
        """Return a perpetual's settled funding rates, fractions of the notional."""
        choice = Choice(vintage, as_of)
        return self._slow(Query("funding", instrument_id, start, end, choice), "rate")

    def metrics(self, series: str) -> list[str]:
        """Return the metrics of an on-chain series, over all its vintages."""
        return self.reader.metrics(series)

    def onchain(
        self,
        series: str,
        metric: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = FIRST,
    ) -> PointInTimeSeries:
        """Return one on-chain metric, such as ``AdrActCnt`` of ``coinmetrics.btc``."""
        choice = Choice(vintage, as_of)
        return self._slow(Query("onchain", series, start, end, choice, metric), "value")

    def index(
        self,
        series: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = FIRST,
    ) -> PointInTimeSeries:
        """Return the closing levels of an index, such as ``dvol.btc``."""
        return self._slow(Query("index", series, start, end, Choice(vintage, as_of)), "close")

    def news(
        self,
        series: str | None = None,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = FIRST,
    ) -> pd.DataFrame:
        """Return headlines of one source or of all, sorted by `ts_init`.

        Columns: ts_event, ts_init, ts_published (int64, UTC nanoseconds), series, source, asset,
        headline, score (NaN: not scored). Without `series`, sources that are silent in the span
        are left out, and it is an error only if all are.
        """
        import pandas as pd

        names = [info.series for info in self.series("news")] if series is None else [series]
        frames, silent = [], ""
        for name in names:
            query = Query("news", name, start, end, Choice(vintage, as_of))
            try:
                frames.append(pd.DataFrame(self.reader.records(query)).assign(series=name))
            except DataError as error:
                silent = str(error)
        if not frames:
            raise DataError(silent or f"the catalog {self.path} holds no news; import some first")
        frame = pd.concat(frames).sort_values(["ts_init", "ts_event", "series"], kind="stable")
        order = ["ts_event", "ts_init", "ts_published", "series", "source", "asset"]
        return frame[[*order, "headline", "score"]].reset_index(drop=True)

    def nautilus_bars(
        self, instrument_id: str, interval: str, start: int | None = None, end: int | None = None
    ) -> list[Bar]:
        """Return the first vintage's bars as the engine's objects, read by the engine itself."""
        from nautilus_trader.persistence import ParquetDataCatalog

        series = bar_type(instrument_id, interval)
        rows = self._prepare_engine(Query("bars", series, start, end))
        engine = ParquetDataCatalog(str(self.path.absolute()))
        found = engine.query_bars([series], None if start is None else start + 1, end)
        return _complete(found, rows, f"bars {series}")

    def nautilus_funding(
        self, instrument_id: str, start: int | None = None, end: int | None = None
    ) -> list[FundingRateUpdate]:
        """Return the first vintage's settlements for the engine: ``next_funding_ns = ts_event``."""
        from nautilus_trader.model import NautilusDataType
        from nautilus_trader.persistence import ParquetDataCatalog

        rows = self._prepare_engine(Query("funding", instrument_id, start, end))
        engine = ParquetDataCatalog(str(self.path.absolute()))
        first = None if start is None else start + 1
        found: list[FundingRateUpdate] = engine.query(
            NautilusDataType.FundingRateUpdate, [instrument_id], first, end
        )
        return _complete(found, rows, f"funding {instrument_id}")

    def data_hash(self, requests: Sequence[Request]) -> str:
        """Return the SHA-256 of the content that these reads return, as 64 hex digits.

        It depends on the records alone: not on the order of the requests, on how the records are
        spread over files, on when or from what they were imported, or on later vintages.
        """
        digest = hashlib.sha256()
        for kind, series, start, end in sorted(set(requests), key=_request_order):
            digest.update(f"{kind}/{series};".encode())
            update_digest(digest, kind, self.records(kind, series, start, end))
        return digest.hexdigest()

    def records(
        self,
        kind: Kind,
        series: str,
        start: int | None = None,
        end: int | None = None,
        *,
        as_of: int | None = None,
        vintage: str = FIRST,
    ) -> Records:
        """Return a series' columns (`catalog.records.COLUMNS`), sorted by `ts_init`."""
        return self.reader.records(Query(kind, series, start, end, Choice(vintage, as_of)))

    def settle(self) -> None:
        """Bring the newest commit's files to their places, for readers other than this one.

        Only an interrupted import leaves some in ``staging/``.

        Raises
        ------
        DataError
            If another process is writing.
        """
        if (self.path / STAGING).exists():
            with locked(self.path, LOCK_TIMEOUT_SECS):
                self.refresh()
                settle(self.path, self.manifest)

    def _prepare_engine(self, query: Query) -> int:
        """Check what the engine is about to read (it would not notice damage); count it."""
        self.settle()
        rows = len(self.reader.records(query)["ts_init"])
        strays = self.reader.strays(self.reader.series(query.kind, query.series))
        if strays:
            raise IntegrityError(
                f"folder of {query.kind} {query.series} must hold the catalog's files alone, also "
                f"held {', '.join(strays[:3])}, which the engine would read as well; move them away"
            )
        return rows

    def _slow(self, query: Query, column: str) -> PointInTimeSeries:
        rows, changes = self.reader.records_and_changes(query)
        name = query.series if query.metric is None else f"{query.series}.{query.metric}"
        units = sorted(set(rows["unit"].tolist())) if "unit" in rows else ["fraction"]
        return PointInTimeSeries(
            name=name,
            unit=" / ".join(units),
            ts_event=rows["ts_event"],
            ts_init=rows["ts_init"],
            value=rows[column],
            shown=str(query.choice),
            restatements=changes,
        )


def _complete[T](found: list[T], rows: int, what: str) -> list[T]:
    """Return the engine's records if they are as many as ours."""
    if len(found) != rows:
        raise DataError(
            f"{what} must lie in the first vintage to be replayed, was {len(found)} of {rows} "
            f"records there; the others came with a later vintage. Import a first download that "
            f"holds them, into a new catalog"
        )
    return found


def _request_order(request: Request) -> tuple[str, str, int, int]:
    kind, series, start, end = request
    return (kind, series, -1 if start is None else start, -1 if end is None else end)

"""Fetch months of candles and funding from the exchange's public archive.

The archive holds one zip for each symbol and month with a ``.CHECKSUM`` file beside it::

    data/futures/um/monthly/klines/BTCUSDT/15m/BTCUSDT-15m-2023-01.zip
    data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2023-01.zip
    data/spot/monthly/klines/BTCUSDT/15m/BTCUSDT-15m-2023-01.zip

Each month is downloaded under a temporary name, its checksum verified, then imported with one
commit; a ledger inside the catalog says which months are in. A run that was stopped goes on where
it was. One month that fails does not stop the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from adapters.errors import AdapterError, NotFoundError, RefusedError
from adapters.http import HttpClient, HttpConfig
from adapters.importing import import_file, refuse_skipped
from adapters.options import ImportOptions, Market
from adapters.report import FileOutcome, ImportReport
from catalog.config import Config
from catalog.errors import ConfigError, DataError, IntegrityError
from catalog.progress import Progress, no_progress
from catalog.store import Catalog
from catalog.timestamps import NS_PER_DAY, interval_ns, parse_time
from catalog.transactions import FETCHED

DEFAULT_BASE_URL = "https://data.binance.vision"
PUBLICATION_DAYS = 35
"""A month appears in the archive within days of its end; after this it will not come by waiting."""
UNREACHABLE_AFTER = 4
"""After so many files in a row that failed for good, the rest is not tried."""

type Stream = Literal["klines", "fundingRate"]

_MONTH = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])")
_SYMBOL = re.compile(r"[A-Z0-9]{2,30}")
_FOLDERS: dict[Market, str] = {"um": "data/futures/um/monthly", "spot": "data/spot/monthly"}


class FetchConfig(Config):
    """What to fetch and how politely.

    Parameters
    ----------
    symbols : tuple of str
        The exchange's symbols, such as ``BTCUSDT``.
    interval : str
        Length of a candle, such as ``15m``.
    start_month, end_month : str
        First and last month, ``2023-01``, both included.
    base_url : str
        Where the archive is.
    market : {"um", "spot"}
        USDT-margined perpetuals or spot.
    funding : bool
        Whether to fetch funding settlements too (perpetuals only).
    concurrency : int
        Downloads at a time.
    timeout_secs, retries, backoff_secs, max_wait_secs, requests_per_second
        See `adapters.http.HttpConfig`.
    recheck : bool
        Whether to compare the checksums of months that are in the catalog with the archive's, and
        import those that the exchange has restated since.
    """

    symbols: tuple[str, ...] = Field(min_length=1)
    interval: str
    start_month: str
    end_month: str
    base_url: str = DEFAULT_BASE_URL
    market: Market = "um"
    funding: bool = True
    concurrency: int = Field(default=4, ge=1, le=16)
    timeout_secs: float = Field(default=30.0, gt=0.0)
    retries: int = Field(default=5, ge=0)
    backoff_secs: float = Field(default=0.5, ge=0.0)
    max_wait_secs: float = Field(default=60.0, ge=0.0)
    requests_per_second: float = Field(default=10.0, gt=0.0)
    recheck: bool = False

    @field_validator("symbols")
    @classmethod
    def _known_form(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
        for symbol in symbols:
            if _SYMBOL.fullmatch(symbol) is None:
                raise ValueError(
                    f"a symbol must be in the exchange's form, such as BTCUSDT, was {symbol!r}"
                )
        if len(set(symbols)) != len(symbols):
            raise ValueError(f"symbols must differ, was {', '.join(symbols)}")
        return symbols

    @field_validator("base_url")
    @classmethod
    def _is_web_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(
                f"base_url must be a web address such as {DEFAULT_BASE_URL}, was {url!r}"
            )
        return url

    @field_validator("interval")
    @classmethod
    def _known_interval(cls, interval: str) -> str:
        try:
            interval_ns(interval)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return interval

    @field_validator("start_month", "end_month")
    @classmethod
    def _is_month(cls, month: str) -> str:
        if _MONTH.fullmatch(month) is None:
            raise ValueError(f"a month must look like 2023-01, was {month!r}")
        return month

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start_month > self.end_month:
            raise ValueError(
                f"start_month must not be after end_month, was {self.start_month} > "
                f"{self.end_month}"
            )
        return self

    def http(self) -> HttpConfig:
        """Return the settings of the HTTP client."""
        return HttpConfig(
            timeout_secs=self.timeout_secs,
            retries=self.retries,
            backoff_secs=self.backoff_secs,
            max_wait_secs=self.max_wait_secs,
            requests_per_second=self.requests_per_second,
        )


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One month of one symbol in the archive."""

    symbol: str
    stream: Stream
    month: str
    path: str
    """Below the base address, and the name under which it is imported."""

    @property
    def group(self) -> tuple[str, Stream]:
        """What the months of one series have in common."""
        return self.symbol, self.stream


@dataclass(slots=True)
class _Month:
    """What became of one month of the plan."""

    file: ArchiveFile
    outcome: FileOutcome | None = None
    """None: the archive does not have it."""

    @property
    def is_there(self) -> bool:
        return self.outcome is not None and self.outcome.status in {"took", "unchanged"}


@dataclass(slots=True)
class _Download:
    path: Path
    sha256: str


@dataclass(slots=True)
class _Watch:
    """Notices when the server cannot be reached at all, so that the rest is not tried."""

    failures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, *, failed: bool) -> None:
        with self.lock:
            self.failures = self.failures + 1 if failed else 0

    @property
    def hopeless(self) -> bool:
        return self.failures >= UNREACHABLE_AFTER


def plan(config: FetchConfig) -> list[ArchiveFile]:
    """Return the files that a fetch asks for, in order of symbol, stream and month."""
    streams: tuple[Stream, ...] = ("klines",)
    if config.funding and config.market == "um":
        streams = ("klines", "fundingRate")
    folder = _FOLDERS[config.market]
    files = []
    for symbol in config.symbols:
        for stream in streams:
            for month in months(config.start_month, config.end_month):
                if stream == "klines":
                    part = f"klines/{symbol}/{config.interval}/{symbol}-{config.interval}"
                else:
                    part = f"fundingRate/{symbol}/{symbol}-fundingRate"
                files.append(ArchiveFile(symbol, stream, month, f"{folder}/{part}-{month}.zip"))
    return files


def months(first: str, last: str) -> list[str]:
    """Return the months from `first` to `last`, both ``2023-01`` and included."""
    year, month = int(first[:4]), int(first[5:])
    found = []
    while (text := f"{year:04d}-{month:02d}") <= last:
        found.append(text)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    return found


def fetch(
    config: FetchConfig,
    catalog: Catalog,
    *,
    progress: Progress = no_progress,
    cache: Path | None = None,
    now_ns: int | None = None,
    sleep: Callable[[float], object] | None = None,
) -> ImportReport:
    """Download what the catalog does not have yet, verify it and import it.

    Parameters
    ----------
    config : FetchConfig
        What to fetch.
    catalog : Catalog
        Where the records go, one commit for each month.
    progress : Progress
        Told after each month, stage ``fetch``.
    cache : Path or None
        Where to keep the downloaded zips. None: inside the catalog, until each is imported.
    now_ns : int or None
        The clock, UTC nanoseconds; None: the machine's. Months that have not ended are skipped.
    sleep : callable or None
        Waits for some seconds; tests pass their own. None: the client's.

    Returns
    -------
    ImportReport
        One line for each month: took, unchanged, skipped (not published) or refused.
    """
    now = time.time_ns() if now_ns is None else now_ns
    started = time.perf_counter()
    ledger = _Ledger(catalog)
    folder = cache if cache is not None else ledger.folder / "downloads"
    options = ImportOptions(market=config.market, now_ns=now)
    results = []
    files = plan(config)
    progress("fetch", 0, len(files))
    with _nothing_left_behind(catalog), HttpClient(config.http(), sleep) as client:
        fetcher = _Fetcher(config, client, folder, ledger, now)
        for done, (file, got) in enumerate(fetcher.run(files), start=1):
            month = _Month(file)
            if isinstance(got, FileOutcome):
                month.outcome = got
            elif got is not None:
                outcome = import_file(got.path, file.path, catalog, options)
                month.outcome = refuse_skipped(outcome)
                if month.is_there:
                    ledger.add(file, got.sha256)
                    if cache is None:
                        got.path.unlink()
            results.append(month)
            progress("fetch", done, len(files))
    outcomes = tuple(_classified(month, results, now) for month in results)
    return ImportReport(outcomes, time.perf_counter() - started)


@contextlib.contextmanager
def _nothing_left_behind(catalog: Catalog) -> Iterator[None]:
    """Remove the downloads of a new catalog into which nothing came, and its folder."""
    was_there = catalog.path.exists()
    try:
        yield
    finally:
        if not catalog.is_stored:
            shutil.rmtree(catalog.path / FETCHED, ignore_errors=True)
            if not was_there:
                with contextlib.suppress(OSError):
                    catalog.path.rmdir()


class _Fetcher:
    """Downloads the files of a plan in parallel and yields them in order."""

    def __init__(
        self, config: FetchConfig, client: HttpClient, folder: Path, ledger: _Ledger, now: int
    ) -> None:
        self._config = config
        self._client = client
        self._folder = folder
        self._ledger = ledger
        self._now = now
        self._watch = _Watch()

    def run(
        self, files: Sequence[ArchiveFile]
    ) -> Iterator[tuple[ArchiveFile, _Download | FileOutcome | None]]:
        """Yield each file with its download, its outcome if there is none, or None (absent)."""
        pool = ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="fetch")
        waiting: list[Future[_Download | FileOutcome | None]] = []
        try:
            waiting.extend(pool.submit(self._one, file) for file in files)
            for file, future in zip(files, waiting, strict=True):
                yield file, future.result()
        finally:
            if not all(future.done() for future in waiting):
                self._client.cancel()
            pool.shutdown(cancel_futures=True)

    def _one(self, file: ArchiveFile) -> _Download | FileOutcome | None:
        if _month_end(file.month) > self._now:
            reason = f"not yet published: the month {file.month} has not ended"
            return FileOutcome(file.path, "skipped", reason=reason)
        committed = self._ledger.sha256(file)
        if committed is not None and not self._config.recheck:
            return FileOutcome(file.path, "unchanged", notes=("fetched before",))
        if self._watch.hopeless:
            reason = "not tried: the files before it failed one after the other"
            return FileOutcome(file.path, "refused", reason=reason)
        try:
            found = self._download(file, committed)
        except NotFoundError:
            self._watch.note(failed=False)
            return None
        except AdapterError as error:
            self._watch.note(failed=True)
            return FileOutcome(file.path, "refused", reason=str(error))
        self._watch.note(failed=False)
        return found

    def _download(self, file: ArchiveFile, committed: str | None) -> _Download | FileOutcome:
        url = f"{self._config.base_url.rstrip('/')}/{file.path}"
        expected = _parse_checksum(url, self._client.text(f"{url}.CHECKSUM"))
        if expected == committed:
            return FileOutcome(
                file.path, "unchanged", notes=("the archive's checksum is the same",)
            )
        target = self._folder / file.path
        if not target.is_file() or _sha256(target) != expected:
            self._client.download(url, target, expected)
        return _Download(target, expected)


class _Ledger:
    """Which archive files are in the catalog, with their hashes.

    The catalog itself never adds a record twice; the ledger only saves the download. It is written
    after each month's commit: a stop in between costs one more download. An entry counts only
    while the catalog holds the month's series.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.folder = catalog.path / FETCHED
        self._path = self.folder / "committed.json"
        self._entries: dict[str, str] = {}
        if self._path.is_file():
            self._entries = self._read()
        self._spans = [(info.kind, info.series, info.start, info.end) for info in catalog.series()]

    def _read(self) -> dict[str, str]:
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise IntegrityError(
                f"{self._path.name} in the catalog's folder .fetch must be JSON, was damaged "
                f"({error}); delete it: its months are then downloaded and compared again"
            ) from error
        return {str(path): str(sha256) for path, sha256 in dict(entries).items()}

    def sha256(self, file: ArchiveFile) -> str | None:
        """Return the hash of a file that is in the catalog, or None."""
        found = self._entries.get(file.path)
        return found if found is not None and self._is_stored(file) else None

    def add(self, file: ArchiveFile, sha256: str) -> None:
        """Remember a file that was committed."""
        self._entries[file.path] = sha256
        part = self._path.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as out:
                json.dump(self._entries, out, indent=0, sort_keys=True)
                out.flush()
                os.fsync(out.fileno())
            part.replace(self._path)
        except OSError as error:
            raise DataError(
                f"writing the list of fetched months failed: {error.strerror or error}; the data "
                "are stored, but would be downloaded again"
            ) from error

    def _is_stored(self, file: ArchiveFile) -> bool:
        kind = "bars" if file.stream == "klines" else "funding"
        perpetual = "/um/" in file.path
        start = f"{file.symbol}{'-PERP' if perpetual else ''}."
        first, last = parse_time(file.month), _month_end(file.month)
        return any(
            stored == kind and series.startswith(start) and begin <= last and end > first
            for stored, series, begin, end in self._spans
        )


def _classified(month: _Month, results: Sequence[_Month], now: int) -> FileOutcome:
    """Say of a month that the archive does not have whether it is to come, too old or a hole."""
    if month.outcome is not None:
        return month.outcome
    file = month.file
    present = [
        other.file.month for other in results if other.file.group == file.group and other.is_there
    ]
    failed = any(
        other.file.group == file.group
        and other.outcome is not None
        and other.outcome.status == "refused"
        for other in results
    )
    recent = now - _month_end(file.month) <= PUBLICATION_DAYS * NS_PER_DAY
    after_last = not present or file.month > max(present)
    if recent and after_last:
        return FileOutcome(file.path, "skipped", reason=f"not yet published: {file.month}")
    if not present:
        blame = "" if failed else f"; is {file.symbol} a symbol of this market?"
        reason = f"not in the archive, nor is another month that was asked for{blame}"
        return FileOutcome(file.path, "refused", reason=reason)
    if file.month < min(present):
        reason = f"not in the archive: its first month is {min(present)} (listed later?)"
        return FileOutcome(file.path, "skipped", reason=reason)
    if after_last:
        reason = f"not in the archive: its last month is {max(present)} (delisted or renamed?)"
        return FileOutcome(file.path, "skipped", reason=reason)
    reason = (
        f"a hole in the archive: months before and after {file.month} are there; "
        "the catalog has no data for it"
    )
    return FileOutcome(file.path, "refused", reason=reason)


def _month_end(month: str) -> int:
    year, number = int(month[:4]), int(month[5:])
    following = (year + 1, 1) if number == 12 else (year, number + 1)
    return parse_time(datetime(*following, 1, tzinfo=UTC))


def _parse_checksum(url: str, text: str) -> str:
    """Return the hash of a checksum file: ``<64 hex digits>  <file name>``."""
    words = text.split()
    if not words or re.fullmatch(r"[0-9a-fA-F]{64}", words[0]) is None:
        raise RefusedError(
            f"{url}.CHECKSUM: must start with 64 hex digits, was {text[:80]!r}; "
            "is the base address that of the archive?"
        )
    return words[0].lower()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

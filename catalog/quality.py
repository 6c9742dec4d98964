"""Faults of what is stored: a table for people, JSON for programs, an error for runs.

Fatal faults make a series unusable: damaged files, impossible prices, a clock that runs
backwards. The importer refuses most of them at the door; they are checked again here because disks
decay and files can be changed. Warnings are for eyes: gaps, candles without volume, returns and
wicks far outside the series' own distribution, prices that stand still while trades go on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from catalog.checks import Mask, key_order, same_key, take
from catalog.encoding import Records
from catalog.errors import DataError, IntegrityError
from catalog.instruments import parse_bar_type
from catalog.inventory import instrument_of
from catalog.manifest import SeriesRecord
from catalog.progress import Progress, no_progress
from catalog.reading import Query
from catalog.records import COLUMNS, Kind
from catalog.store import Catalog, Request
from catalog.timestamps import format_time, interval_ns
from catalog.transactions import read_file

type Severity = Literal["fatal", "warn", "info"]
type Subject = Kind | Literal["instrument"]
"""What a finding is about: a series of a kind, or the stored definition of an instrument."""

SHOWN = 3
"""How many places a finding names."""

OUTLIER_ROBUST_Z = 40.0
"""How many robust standard deviations (1.4826 times the median absolute deviation) from the
median a change must be to count as an outlier. Crypto's tails are fat: in 83,327 returns of BTC
over 15 minutes 16 lie beyond 20 and one beyond 40 (the crash of 2023-08-17)."""

WICK_ROBUST_Z = 100.0
"""The same for how far a bar's high or low reaches beyond its open and close. Wicks have fatter
tails than returns: of 880,000 bars of 16 coins 16 lie beyond 100, none beyond 250."""

STALE_BARS = 8
"""From how many bars in a row with equal prices, and volume, a feed counts as stuck. Quiet coins
reach four."""

GAP_FACTOR = 1.5
"""A step between two records longer than this many usual ones is a gap (slow series)."""

_PRICES = ("open", "high", "low", "close")
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault in one series.

    Parameters
    ----------
    kind, series
        Where; see `catalog.records.Batch`. Of a damaged definition: ``instrument`` and its id.
    check : str
        Which check, such as ``gaps``.
    severity : Severity
        ``fatal``: a run must not use the series; ``warn``: look at it; ``info``: know it.
    count : int
        How many records (or missing records) are concerned.
    first : tuple of str
        The first places.
    detail : str
        What was found, in words.
    """

    kind: Subject
    series: str
    check: str
    severity: Severity
    count: int
    first: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What `check` found.

    Parameters
    ----------
    findings : tuple of Finding
        By series, the fatal ones of a series first.
    series : int
        How many series were looked at.
    records : int
        How many records were.
    """

    findings: tuple[Finding, ...]
    series: int
    records: int

    @property
    def fatal(self) -> tuple[Finding, ...]:
        """The findings that must stop a run."""
        return tuple(finding for finding in self.findings if finding.severity == "fatal")

    def to_json(self) -> str:
        """Return the report for programs."""
        return json.dumps(
            {
                "sound": not self.fatal,
                "series": self.series,
                "records": self.records,
                "findings": [asdict(finding) for finding in self.findings],
            },
            indent=2,
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Return the findings as texts: severity, kind, series, check, count, detail, first."""
        return [
            (
                finding.severity,
                finding.kind,
                finding.series,
                finding.check,
                f"{finding.count:,}",
                finding.detail,
                "; ".join(finding.first),
            )
            for finding in self.findings
        ]

    def __str__(self) -> str:
        counts = dict.fromkeys(("fatal", "warn", "info"), 0)
        for finding in self.findings:
            counts[finding.severity] += 1
        lines = [
            f"{self.series} series, {self.records:,} records: {counts['fatal']} fatal, "
            f"{counts['warn']} warnings, {counts['info']} notes"
        ]
        rows = [row[:5] for row in self.rows()]
        header = ("severity", "kind", "series", "check", "count")
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        if rows:
            lines.append(_aligned(header, widths))
        for row, finding in zip(rows, self.findings, strict=True):
            lines.append(_aligned(row, widths))
            places = f": {'; '.join(finding.first)}" if finding.first else ""
            lines.append(f"    {finding.detail}{places}")
        return "\n".join(lines)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [text.ljust(width) for text, width in zip(row[:-1], widths[:-1], strict=True)]
    return "  ".join([*cells, row[-1].rjust(widths[-1])])


def check(catalog: Catalog, *, progress: Progress = no_progress) -> QualityReport:
    """Look at every record of the catalog's first vintages, and at every file.

    Parameters
    ----------
    catalog : Catalog
        What to look at.
    progress : Progress
        Told after each series, stage ``check``.
    """
    requests: list[Request] = [(info.kind, info.series, None, None) for info in catalog.series()]
    return _check(catalog, requests, progress)


def require_sound(catalog: Catalog, requests: Sequence[Request]) -> QualityReport:
    """Look at what a run would use; return the report if nothing in it is fatal.

    Parameters
    ----------
    catalog : Catalog
        What to look at.
    requests : sequence of (kind, series, start, end)
        What the run would read.

    Raises
    ------
    IntegrityError
        If a file of a series is missing or damaged; the message names it.
    DataError
        If a series has another fatal fault, or does not exist.
    """
    report = _check(catalog, requests, no_progress)
    damaged = [finding for finding in report.fatal if finding.check == "files"]
    if damaged:
        raise IntegrityError("; ".join(_in_words(finding) for finding in damaged))
    if report.fatal:
        faults = "; ".join(_in_words(finding) for finding in report.fatal)
        raise DataError(
            f"data of a run must be free of fatal faults, was not: {faults}. Look at "
            f"`levibot data check`, put the source right and import it into a new catalog"
        )
    return report


def _in_words(finding: Finding) -> str:
    places = f" ({'; '.join(finding.first)})" if finding.first else ""
    return f"{finding.kind} {finding.series}: {finding.count} x {finding.detail}{places}"


def _check(catalog: Catalog, requests: Sequence[Request], progress: Progress) -> QualityReport:
    findings: list[Finding] = []
    records = 0
    for done, (kind, series, start, end) in enumerate(requests, start=1):
        found, rows = _check_series(catalog, kind, series, (start, end))
        rank = {"fatal": 0, "warn": 1, "info": 2}
        findings += sorted(found, key=lambda finding: rank[finding.severity])
        records += rows
        progress("check", done, len(requests))
    return QualityReport((*_definitions(catalog, requests), *findings), len(requests), records)


def _definitions(catalog: Catalog, requests: Sequence[Request]) -> list[Finding]:
    """Return which stored definitions of the requests' instruments are missing or damaged."""
    records = [catalog.reader.series(kind, series) for kind, series, _, _ in requests]
    wanted = {instrument_of(record) for record in records}
    findings = []
    for name, file in sorted(catalog.manifest.instrument_files.items()):
        if name not in wanted:
            continue
        try:
            read_file(catalog.path, catalog.manifest, file)
        except FileNotFoundError:
            place = f"file {file.path} of the catalog must exist, was missing"
        except IntegrityError as error:
            place = str(error)
        else:
            continue
        findings.append(Finding("instrument", name, "files", "fatal", 1, (place,), _DAMAGED))
    return findings


def _check_series(
    catalog: Catalog, kind: Kind, series: str, span: tuple[int | None, int | None]
) -> tuple[list[Finding], int]:
    record = catalog.reader.series(kind, series)
    look = _Look(kind, series)
    _look_at_files(catalog, record, look)
    if look.findings:
        return look.findings, 0
    strays = catalog.reader.strays(record)
    if strays:
        look.add("files", "fatal", len(strays), tuple(strays[:SHOWN]), _STRAY)
    rows = catalog.reader.records(Query(kind, series, *span))
    look.at(rows)
    for change in catalog.restated(kind, series):
        look.add("restated", "info", change.rows, (), str(change))
    return look.findings, len(rows["ts_init"])


def _look_at_files(catalog: Catalog, record: SeriesRecord, look: _Look) -> None:
    damaged, disordered = [], []
    for layer in record.layers:
        last = -1
        for file in layer.files:
            try:
                ts_init = catalog.reader.file(record.kind, file)["ts_init"]
            except IntegrityError as error:
                damaged.append(str(error))
                continue
            if int(ts_init[0]) < last or bool(np.any(np.diff(ts_init) < 0)):
                disordered.append(file.path)
            last = int(ts_init[-1])
    for paths, check, detail in (
        (damaged, "files", _DAMAGED),
        (disordered, "clock", "files whose records do not run forward in time"),
    ):
        if paths:
            look.add(check, "fatal", len(paths), tuple(paths[:SHOWN]), detail)


_DAMAGED = "files are missing or damaged"
_STRAY = (
    "files lie beside the catalog's own, which the engine would read as well; no commit put them "
    "there, so move them away"
)


class _Look:
    """Collects the findings of one series."""

    def __init__(self, kind: Kind, series: str) -> None:
        self.kind = kind
        self.series = series
        self.findings: list[Finding] = []

    def add(
        self, check: str, severity: Severity, count: int, first: tuple[str, ...], detail: str
    ) -> None:
        """Note a finding."""
        self.findings.append(Finding(self.kind, self.series, check, severity, count, first, detail))

    def where(
        self, check: str, severity: Severity, broken: Mask, ts_init: Int64Array, detail: str
    ) -> None:
        """Note a finding if any record is concerned."""
        rows = np.flatnonzero(broken)
        if len(rows):
            first = tuple(format_time(int(ts_init[row])) for row in rows[:SHOWN])
            self.add(check, severity, len(rows), first, detail)

    def at(self, rows: Records) -> None:
        """Check records."""
        self._clock(rows)
        self._finite(rows)
        self._duplicates(rows)
        if self.kind == "bars":
            self._prices(rows)
            self._candles(rows)
            self._volume(rows)
            self._wicks(rows)
            self._stale(rows)
        if self.kind == "index":
            self._candles(rows)
        if self.kind == "bar_flow":
            for name in ("quote_volume", "trade_count", "taker_buy_volume"):
                broken = rows[name] < 0
                self.where("negative", "fatal", broken, rows["ts_init"], f"{name} is negative")
        self._steps(rows)

    def _clock(self, rows: Records) -> None:
        ts_init = rows["ts_init"]
        detail = "known before it happened (ts_init earlier than ts_event)"
        self.where("clock", "fatal", ts_init < rows["ts_event"], ts_init, detail)
        if self.kind in ("bars", "bar_flow"):
            length = interval_ns(parse_bar_type(self.series)[1])
            off_grid = ts_init % length != 0
            self.where("clock", "fatal", off_grid, ts_init, "close is off the interval's grid")

    def _finite(self, rows: Records) -> None:
        for column in COLUMNS[self.kind]:
            if column.dtype == "float" and not column.nan_allowed:
                broken = ~np.isfinite(rows[column.name])
                detail = f"{column.name} is not a finite number"
                self.where("finite", "fatal", broken, rows["ts_init"], detail)

    def _duplicates(self, rows: Records) -> None:
        order = key_order(self.kind, rows, np.arange(len(rows["ts_init"])))
        ordered = take(rows, order)
        repeated = same_key(self.kind, ordered)
        detail = "records have the time and key of another one"
        self.where("duplicates", "fatal", repeated, ordered["ts_init"], detail)

    def _prices(self, rows: Records) -> None:
        lowest = np.minimum.reduce([rows[name] for name in _PRICES])
        self.where("prices", "fatal", lowest <= 0, rows["ts_init"], "price is zero or negative")

    def _candles(self, rows: Records) -> None:
        high, low = rows["high"], rows["low"]
        top = np.maximum(rows["open"], rows["close"])
        bottom = np.minimum(rows["open"], rows["close"])
        broken = (high < low) | (top > high) | (bottom < low)
        detail = "high and low contradict each other or open and close"
        self.where("candles", "fatal", broken, rows["ts_init"], detail)

    def _volume(self, rows: Records) -> None:
        ts_init, volume = rows["ts_init"], rows["volume"]
        self.where("volume", "fatal", volume < 0, ts_init, "volume is negative")
        self.where("volume", "warn", volume == 0, ts_init, "bars without volume")

    def _wicks(self, rows: Records) -> None:
        """Look for highs and lows far beyond the body: a bad print leaves open and close alone."""
        prices = {name: np.where(rows[name] > 0, rows[name], np.nan) for name in _PRICES}
        body = prices["open"], prices["close"]
        above = np.log(prices["high"] / np.maximum(*body))
        below = np.log(np.minimum(*body) / prices["low"])
        scores = np.fmax(robust_z(above), robust_z(below))
        broken = scores > WICK_ROBUST_Z
        if broken.any():
            detail = (
                f"highs or lows beyond {WICK_ROBUST_Z:g} robust standard deviations from the "
                f"body, the largest at {float(np.nanmax(scores)):.0f}"
            )
            self.where("wicks", "warn", broken, rows["ts_init"], detail)

    def _stale(self, rows: Records) -> None:
        """Look for prices that stand still although volume is reported."""
        repeats = rows["volume"][1:] > 0
        for name in _PRICES:
            repeats &= np.diff(rows[name]) == 0
        edges = np.flatnonzero(np.diff(np.concatenate(([0], repeats, [0]))))
        # A run of n equal bars is n - 1 repeats of its first one.
        starts, lengths = edges[::2], np.diff(edges)[::2] + 1
        long = lengths >= STALE_BARS
        if long.any():
            first = tuple(format_time(int(rows["ts_init"][row])) for row in starts[long][:SHOWN])
            detail = (
                f"bars in runs of {STALE_BARS} and more with equal prices in spite of volume, the "
                f"longest of {int(lengths.max())}"
            )
            self.add("stale", "warn", int(lengths[long].sum()), first, detail)

    def _steps(self, rows: Records) -> None:
        """Look for gaps and outliers from one record to the next."""
        if self.kind == "news":
            return
        if self.kind == "onchain":
            self._metric_gaps(rows)
            return
        ts_event = np.sort(rows["ts_event"])
        usual = None
        if self.kind in ("bars", "bar_flow"):
            usual = interval_ns(parse_bar_type(self.series)[1])
        missing, places = _gaps(ts_event, usual)
        if missing:
            self.add("gaps", "warn", missing, places, "records are missing")
        if self.kind == "bars":
            positive = np.where(rows["close"] > 0, rows["close"], np.nan)
            self._outliers(np.diff(np.log(positive)), rows["ts_init"][1:], "returns")
        elif self.kind == "index":
            self._outliers(np.diff(rows["close"]), rows["ts_init"][1:], "changes")
        elif self.kind == "funding":
            self._outliers(rows["rate"], rows["ts_init"], "rates")

    def _outliers(self, values: Float64Array, ts_init: Int64Array, what: str) -> None:
        scores = robust_z(values)
        broken = np.abs(scores) > OUTLIER_ROBUST_Z
        if broken.any():
            worst = float(np.nanmax(np.abs(scores)))
            detail = (
                f"{what} beyond {OUTLIER_ROBUST_Z:g} robust standard deviations, "
                f"the largest at {worst:.0f}"
            )
            self.where("outliers", "warn", broken, ts_init, detail)

    def _metric_gaps(self, rows: Records) -> None:
        total, places, metrics = 0, [], []
        names = np.unique(rows["metric"].astype(str))
        for name in names.tolist():
            missing, found = _gaps(np.sort(rows["ts_event"][rows["metric"] == name]), None)
            if missing:
                total += missing
                metrics.append(name)
                places += [f"{name} {place}" for place in found]
        if total:
            detail = f"days are missing in {len(metrics)} of {len(names)} metrics"
            self.add("gaps", "warn", total, tuple(places[:SHOWN]), detail)


def _gaps(ts_event: Int64Array, usual: int | None) -> tuple[int, tuple[str, ...]]:
    """Return how many records are missing, and the first missing one of the first gaps."""
    if len(ts_event) < 3:
        return 0, ()
    steps = np.diff(ts_event)
    step = int(np.median(steps)) if usual is None else usual
    if step <= 0:
        return 0, ()
    wide = np.flatnonzero(steps > GAP_FACTOR * step)
    missing = int(np.sum(np.rint(steps[wide] / step).astype(np.int64) - 1))
    return missing, tuple(format_time(int(ts_event[row]) + step) for row in wide[:SHOWN])


def robust_z(values: Float64Array) -> NDArray[np.float64]:
    """Return each value's distance from the median in robust standard deviations.

    The scale is 1.4826 times the median absolute deviation (Hampel, 1974); where more than half
    of the values are equal, 1.2533 times the mean absolute deviation takes its place. NaN stays
    NaN; a constant series has no outliers.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.full(len(values), np.nan)
    median = np.median(finite)
    distance = np.abs(finite - median)
    scale = _MAD_TO_SIGMA * float(np.median(distance)) or 1.2533 * float(np.mean(distance))
    if scale == 0.0:
        return np.where(np.isfinite(values), 0.0, np.nan)
    return np.asarray((values - median) / scale, dtype=np.float64)

"""Slow inputs of a live engine: what the catalog holds, what vendors have since, what comes.

The catalog ends some time ago, and the readers begin now. What lies between is asked of the vendors
once, before the first poll, with the times at which an import would say that it became known, so
that the features of the first bar are those of a backtest whose catalog ends now. Headlines run
through one meter of novelty from the catalog on, as they do in research.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from adapters.polling import PollService
from adapters.polling_config import Polling
from adapters.polling_news import Scorer
from adapters.polling_records import Polled, rows_of
from catalog.records import COLUMNS, Batch
from catalog.store import Catalog
from research.events import EventArrays
from research.groups.slow import HISTORY_NS
from research.novelty import NoveltyMeter
from research.predictor import PredictorSpec
from strategies.slow_data import SlowInputs

if TYPE_CHECKING:
    from catalog.records import Kind
    from live.history import StoredHistory


@dataclass(frozen=True, slots=True)
class SlowFeed:
    """A poll service that knows what is past, and the past.

    Parameters
    ----------
    service : PollService
        Not started: the data client does that (`adapters.polling_client`).
    stored : StoredHistory
        With the slow series completed up to now.
    faults : mapping of str to str
        Readers whose history could not be had, and why: the catalog's part stands, and they poll
        all the same.
    """

    service: PollService
    stored: StoredHistory
    faults: Mapping[str, str]


def open_slow_feed(
    polling: Polling,
    spec: PredictorSpec,
    catalog: Path | None,
    stored: StoredHistory,
    *,
    scorer: Scorer | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
) -> SlowFeed | None:
    """Return what a predictor needs of slow inputs; None if it looks at none. Blocks.

    Parameters
    ----------
    polling : Polling
        As configured; readers that are needed beside are added (`Polling.for_predictor`).
    spec : PredictorSpec
        What the predictor looks at.
    catalog : Path, optional
        Folder of the catalog that `stored` was read from.
    stored : StoredHistory
        Its bars and rates are kept as they are.
    scorer : callable, optional
        Scores headlines without a score; see `PollService`.
    clock_ns : callable
        The wall clock, UTC nanoseconds.

    Raises
    ------
    ConfigError
        If the predictor looks at a series that nobody reads.
    DataError, IntegrityError
        If the catalog cannot be read.
    """
    if not spec.series:
        return None
    config = polling.for_predictor(spec.series, ())
    meter = NoveltyMeter()
    service = PollService(config, novelty=meter.measure, scorer=scorer, clock_ns=clock_ns)
    now = clock_ns()
    held = _held(catalog, spec, now)
    service.remember(held)
    newest: dict[str, int] = {}
    rows: dict[str, list[Polled]] = {name: [] for name in spec.series}
    for row in (row for batch in held for row in rows_of(batch)):
        if row.name in rows:
            rows[row.name].append(row)
            newest[row.name] = max(newest.get(row.name, 0), row.ts_event)
    history = service.history({name: newest.get(name, now - HISTORY_NS) for name in spec.series})
    for row in (row for batch in history.batches for row in rows_of(batch)):
        if row.name in rows and not _is_held(row, rows[row.name], newest):
            rows[row.name].append(row)
    series = _series(rows, meter)
    lacking = tuple(name for name in spec.series if name not in series)
    completed = replace(stored, slow=SlowInputs(series), lacking=lacking)
    return SlowFeed(service, completed, history.faults)


def _held(catalog: Path | None, spec: PredictorSpec, now: int) -> list[Batch]:
    """Return what a catalog holds of a predictor's series, as far back as features look."""
    if catalog is None or not catalog.exists():
        return []
    store = Catalog.open(catalog)
    stored = {(str(one.kind), one.series) for one in store.series()}
    first = now - HISTORY_NS - spec.warmup_bars * spec.interval_ns
    found = []
    for kind, series in dict.fromkeys(_place(name) for name in spec.series):
        if (kind, series) in stored:
            columns: dict[str, Any] = dict(store.records(kind, series, first, now))
            names = ("ts_event", "ts_init", *(one.name for one in COLUMNS[kind]))
            kept = {name: columns[name] for name in names}
            found.append(Batch(kind, series, kept, "the catalog"))
    return found


def _place(name: str) -> tuple[Kind, str]:
    """Return kind and series of the catalog of a predictor's series."""
    kind, _, series = name.partition(".")
    if kind == "onchain":
        series = series.rpartition(".")[0]
    return cast("Kind", kind), series


def _is_held(row: Polled, rows: list[Polled], newest: Mapping[str, int]) -> bool:
    """Return whether a record of history is one that the catalog has."""
    last = newest.get(row.name)
    if last is None or row.ts_event > last:
        return False
    if row.kind != "news":
        return True
    text = row.fields["headline"]
    return any(one.ts_event == row.ts_event and one.fields["headline"] == text for one in rows)


def _series(rows: Mapping[str, list[Polled]], meter: NoveltyMeter) -> dict[str, EventArrays]:
    """Return columns by name, in order of when their records became known."""
    news = [row for found in rows.values() for row in found if row.kind == "news"]
    news.sort(key=lambda row: row.ts_init)
    novelty = {id(row): meter.measure(row.ts_init, row.fields["headline"]) for row in news}
    series: dict[str, EventArrays] = {}
    for name, found in rows.items():
        if not found:
            continue
        found.sort(key=lambda row: (row.ts_init, 0 if row.kind == "news" else row.ts_event))
        stamps = np.array([row.ts_init for row in found], dtype=np.int64)
        values = np.array([row.value for row in found], dtype=np.float64)
        extra = None
        if found[0].kind == "news":
            extra = np.array([novelty[id(row)] for row in found], dtype=np.float64)
        series[name] = EventArrays(name, stamps, values, extra)
    return series

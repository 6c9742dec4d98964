"""Batches in, one commit out.

`ingest` first checks every batch without holding the lock (an importer may be downloading), then
takes the lock, compares with what is stored (`catalog.merging`), stages the new files and
publishes them with one commit record. One call is one commit: all accepted sources of the call
become visible together or not at all. A refused source refuses itself only; the report says why.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterable, Sized
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from catalog.checks import CheckedBatch, check_batch
from catalog.encoding import content_digest
from catalog.errors import ConfigError, DataError
from catalog.instruments import KNOWN, infer_instrument, parse_bar_type
from catalog.manifest import Manifest
from catalog.merging import Counts, Workspace, merge
from catalog.progress import Progress, no_progress
from catalog.records import Batch, Kind
from catalog.timestamps import format_time
from catalog.transactions import (
    LOCK_TIMEOUT_SECS,
    commit,
    create_catalog,
    discard,
    locked,
    newest,
    settle,
)


@dataclass(frozen=True, slots=True)
class SourceResult:
    """What became of one source's records of one series.

    Parameters
    ----------
    source, kind, series, vintage
        As in `catalog.records.Batch`.
    offered : int
        Records that the source held; `duplicates` + `added` + `known` + `restated` of an
        accepted one.
    duplicates : int
        Exact repetitions within the source, dropped.
    added : int
        Records whose key was new.
    known : int
        Records that the catalog held already.
    restated : int
        Records whose content differs from the known; kept as a vintage.
    retimed : int
        Those of `known` whose `ts_init` differs; the first stamp stays.
    superseded : int
        Those of `known` that a later import has changed since this source last said the same.
    start, end : int
        First and last `ts_init` offered, UTC nanoseconds.
    notes : tuple of str
        What was put right or left out.
    refused : str
        Why the source was refused; empty when it was accepted.
    """

    source: str
    kind: Kind
    series: str
    vintage: str
    offered: int
    duplicates: int = 0
    added: int = 0
    known: int = 0
    restated: int = 0
    retimed: int = 0
    superseded: int = 0
    start: int = 0
    end: int = 0
    notes: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one call of `ingest` did.

    Parameters
    ----------
    results : tuple of SourceResult
        One per source, series and batch, in the order of arrival.
    commit : int or None
        Number of the commit; None when nothing was new.
    seconds : float
        Wall-clock time, reading the importers included.
    """

    results: tuple[SourceResult, ...]
    commit: int | None
    seconds: float

    @property
    def rows(self) -> int:
        """Number of records offered."""
        return sum(result.offered for result in self.results)

    @property
    def added(self) -> int:
        """Number of new records."""
        return sum(result.added for result in self.results)

    @property
    def restated(self) -> int:
        """Number of changed records, kept as vintages."""
        return sum(result.restated for result in self.results)

    @property
    def refused(self) -> tuple[SourceResult, ...]:
        """Return the refused sources' results, each with its reason."""
        return tuple(result for result in self.results if result.refused)

    def to_json(self) -> str:
        """Return the report for programs."""
        return json.dumps(asdict(self), indent=2)


@dataclass(slots=True)
class _Source:
    """The batches of one source, and the first reason to refuse them."""

    name: str
    batches: list[Batch] = field(default_factory=list)
    checked: list[CheckedBatch] = field(default_factory=list)
    refused: str = ""


def ingest(
    root: Path,
    batches: Iterable[Batch],
    *,
    progress: Progress = no_progress,
    lock_timeout_secs: float = LOCK_TIMEOUT_SECS,
    now: int | None = None,
    create: bool = False,
) -> IngestReport:
    """Check batches and add what is new to the catalog at `root`, in one commit.

    Parameters
    ----------
    root : Path
        A catalog's folder.
    batches : iterable of Batch
        Those of one source are taken or refused together.
    progress : Progress
        Told about the stages ``check`` (where `batches` has a length) and ``write``.
    lock_timeout_secs : float
        How long to wait for another writer, seconds.
    now : int or None
        The present, UTC nanoseconds; None: the clock's. For tests and replays.
    create : bool
        Whether to make the catalog if there is none; only done when a source is accepted.

    Raises
    ------
    DataError
        If another writer holds the catalog, or the disk is full or fails; nothing has changed
        then. Faulty batches do not raise: the report lists them.
    """
    started = time.perf_counter()
    moment = time.time_ns() if now is None else now
    state = newest(root)
    if state is None and create:
        state = Manifest()
    if state is None:
        raise DataError(f"{root} must be a catalog, was a folder without a commit record")
    sources = _collect(batches, state, moment, progress)
    counts: dict[int, Counts] = {}
    number = None
    if any(not source.refused for source in sources):
        if create and newest(root) is None:
            create_catalog(root, lock_timeout_secs)
        with locked(root, lock_timeout_secs):
            number = _publish(root, sources, moment, counts, progress)
    results = [result for source in sources for result in _results(source, counts)]
    return IngestReport(tuple(results), number, time.perf_counter() - started)


def _collect(
    batches: Iterable[Batch], state: Manifest, now: int, progress: Progress
) -> list[_Source]:
    sources: dict[str, _Source] = {}
    # What comes from a generator has no known end, so that nobody could say how far it is.
    total = len(batches) if isinstance(batches, Sized) else 0
    for number, batch in enumerate(batches, start=1):
        source = sources.setdefault(batch.source, _Source(batch.source))
        source.batches.append(batch)
        if not source.refused:
            try:
                source.checked.append(_checked(batch, state, now))
            except DataError as error:
                source.refused = str(error)
        if total:
            progress("check", number, total)
    return list(sources.values())


def _checked(batch: Batch, state: Manifest, now: int) -> CheckedBatch:
    spec = None
    if batch.kind == "bars":
        instrument_id = batch.series.rsplit("-", 4)[0]
        spec = state.instruments.get(instrument_id) or KNOWN.get(instrument_id)
    checked = check_batch(batch, now, spec)
    if checked.decimals is not None and spec is None:
        try:
            infer_instrument(parse_bar_type(batch.series)[0], *checked.decimals)
        except ConfigError as error:
            raise DataError(str(error)) from error
    return checked


def _publish(
    root: Path,
    sources: list[_Source],
    now: int,
    counts: dict[int, Counts],
    progress: Progress,
) -> int | None:
    """Merge and commit under the lock; return the commit's number if anything was new."""
    state = newest(root)
    if state is None:
        raise DataError(f"{root} must be a catalog, lost its commit record while data were read")
    settle(root, state)
    workspace = Workspace(root, replace(state, sequence=state.sequence + 1, retired=()), now)
    try:
        _merge_all(workspace, sources, counts, progress)
        if not any(count.added or count.restated for count in counts.values()):
            discard(root, workspace.state.sequence)
            return None
        entry = _provenance(workspace, sources, counts)
        manifest = replace(
            workspace.state,
            commits=(*workspace.state.commits, entry),
            retired=tuple(sorted(workspace.replaced)),
        )
        commit(root, manifest)
    except OSError as error:
        discard(root, workspace.state.sequence)
        raise DataError(_write_failed(root, error)) from error
    except BaseException:
        discard(root, workspace.state.sequence)
        raise
    settle(root, manifest)
    return manifest.sequence


def _write_failed(root: Path, error: OSError) -> str:
    what = "the disk is full" if error.errno == errno.ENOSPC else f"{error.strerror or error}"
    return (
        f"writing to the catalog {root} failed: {what}. Nothing was changed; free some space or "
        f"repair the disk, then import again"
    )


def _merge_all(
    workspace: Workspace, sources: list[_Source], counts: dict[int, Counts], progress: Progress
) -> None:
    groups: dict[tuple[str, str, str], list[CheckedBatch]] = {}
    for source in sources:
        if not source.refused:
            source.refused = _contradiction(workspace.state, source, groups)
        if source.refused:
            continue
        for checked in source.checked:
            key = (checked.batch.kind, checked.batch.series, checked.batch.vintage)
            groups.setdefault(key, []).append(checked)
    for done, group in enumerate(groups.values()):
        progress("write", done, len(groups))
        for checked in group:
            batch = checked.batch
            if batch.kind in ("bars", "funding"):
                is_bars = batch.kind == "bars"
                instrument_id = parse_bar_type(batch.series)[0] if is_bars else batch.series
                workspace.use_instrument(instrument_id, checked.decimals)
        for checked, count in zip(group, merge(workspace, group), strict=True):
            counts[id(checked)] = count
    progress("write", len(groups), len(groups))


def _contradiction(
    state: Manifest, source: _Source, groups: dict[tuple[str, str, str], list[CheckedBatch]]
) -> str:
    """Return why a source cannot live beside what is stored or accepted before it, or ''."""
    for checked in source.checked:
        batch = checked.batch
        stored = state.find(batch.kind, batch.series)
        earlier = [
            other.batch
            for (kind, series, _), others in groups.items()
            if (kind, series) == (batch.kind, batch.series)
            for other in others
        ]
        flags = {other.synthetic for other in earlier} | ({stored.synthetic} if stored else set())
        if flags - {batch.synthetic}:
            held, given = ("synthetic", "real") if not batch.synthetic else ("real", "synthetic")
            return (
                f"{batch.kind} {batch.series} must be either real or synthetic: the catalog's are "
                f"{held}, the source's are {given}. Use a catalog of its own for the latter"
            )
        known = stored.layer(batch.vintage) if stored else None
        moments = {other.known_at for other in earlier if other.vintage == batch.vintage}
        moments |= {known.known_at} if known else set()
        if batch.known_at is not None and moments - {batch.known_at, None}:
            (moment,) = list(moments - {batch.known_at, None})[:1]
            return (
                f"vintage {batch.vintage!r} of {batch.series} must have one time of knowledge: "
                f"it is {format_time(moment or 0)}, was given as {format_time(batch.known_at)}. "
                f"Give the new download a label of its own"
            )
    return ""


def _provenance(
    workspace: Workspace, sources: list[_Source], counts: dict[int, Counts]
) -> dict[str, Any]:
    taken = [
        {
            "source": checked.batch.source,
            "kind": checked.batch.kind,
            "series": checked.batch.series,
            "vintage": checked.batch.vintage,
            "known_at": checked.batch.known_at,
            "synthetic": checked.batch.synthetic,
            "rows": len(checked.records["ts_init"]),
            "added": counts[id(checked)].added,
            "restated": counts[id(checked)].restated,
            "first_init": int(checked.records["ts_init"].min()),
            "last_init": int(checked.records["ts_init"].max()),
            "content_sha256": content_digest(checked.batch.kind, checked.records),
        }
        for source in sources
        if not source.refused
        for checked in source.checked
    ]
    return {"sequence": workspace.state.sequence, "time": workspace.now, "sources": taken}


def _results(source: _Source, counts: dict[int, Counts]) -> list[SourceResult]:
    if source.refused:
        return [
            SourceResult(
                source=source.name,
                kind=batch.kind,
                series=batch.series,
                vintage=batch.vintage,
                offered=len(batch),
                refused=source.refused,
            )
            for batch in source.batches
        ]
    results = []
    for checked in source.checked:
        batch, count = checked.batch, counts[id(checked)]
        results.append(
            SourceResult(
                source=source.name,
                kind=batch.kind,
                series=batch.series,
                vintage=batch.vintage,
                offered=checked.offered,
                duplicates=checked.duplicates,
                start=int(checked.records["ts_init"].min()),
                end=int(checked.records["ts_init"].max()),
                notes=checked.notes,
                **asdict(count),
            )
        )
    return results

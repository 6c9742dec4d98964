"""Reading the logs: several engines and days in the order of time, filtered, and as they grow."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from catalog.errors import DataError
from live.engine_log import LINKS, LogFile, LogLevel, log_files

_RANK = {"info": 0, "warning": 1, "error": 2}
_POLL_SECS = 0.25


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines are wanted; what is empty or None does not choose.

    Parameters
    ----------
    engines, kinds : tuple of str
        Names of engines, and kinds of lines.
    level : {"info", "warning", "error"}
        At least so grave.
    since, until : int or None
        UTC nanoseconds, inclusive.
    links : frozenset of str
        Any of these identifiers in any of the keys that link lines.
    text : str
        Part of a line's text, whatever its case.
    """

    engines: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    level: LogLevel = "info"
    since: int | None = None
    until: int | None = None
    links: frozenset[str] = frozenset()
    text: str = ""

    def wants(self, record: dict[str, Any]) -> bool:
        """Return whether a line is wanted."""
        ts = record.get("ts", 0)
        return (
            (not self.kinds or record.get("kind") in self.kinds)
            and _RANK.get(str(record.get("level")), 0) >= _RANK[self.level]
            and (self.since is None or ts >= self.since)
            and (self.until is None or ts <= self.until)
            and (not self.links or any(record.get(key) in self.links for key in LINKS))
            and (not self.text or self.text.lower() in str(record.get("text", "")).lower())
        )

    def reads(self, file: LogFile) -> bool:
        """Return whether a file may have lines that are wanted."""
        return not self.engines or file.engine in self.engines


def read_logs(folder: Path, chosen: LogFilter) -> Iterator[dict[str, Any]]:
    """Yield the lines that are wanted, of all engines in the order of time.

    A line that is no JSON, such as one that a killed process left unfinished, is left out.

    Raises
    ------
    DataError
        If there is no log at all.
    """
    files = [one for one in log_files(folder) if chosen.reads(one)]
    if not files:
        wanted = f" of {', '.join(chosen.engines)}" if chosen.engines else ""
        raise DataError(f"there must be logs{wanted} in {folder}, were none: check --state")
    by_engine: dict[str, list[LogFile]] = {}
    for one in files:
        by_engine.setdefault(one.stem, []).append(one)
    streams = [_records(ones, chosen) for ones in by_engine.values()]
    yield from heapq.merge(*streams, key=lambda record: int(record["ts"]))


def chain_of(folder: Path, identifier: str, chosen: LogFilter) -> LogFilter:
    """Return a filter for all lines of the bars to which an identifier belongs.

    Raises
    ------
    DataError
        If no line has it.
    """
    found = replace(chosen, links=frozenset({identifier}), kinds=(), level="info")
    bars = {str(one["bar"]) for one in read_logs(folder, found) if "bar" in one}
    if not bars:
        raise DataError(f"a line must have the identifier {identifier!r}, none has: check it")
    return replace(chosen, links=frozenset(bars))


def follow_logs(
    folder: Path, chosen: LogFilter, stopped: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, Any]]:
    """Yield the wanted lines that are written from now on, until `stopped` says so.

    New days and new engines are found as they come. Waits between two looks.
    """
    places = {one.path: one.path.stat().st_size for one in log_files(folder) if chosen.reads(one)}
    while not stopped():
        fresh: list[dict[str, Any]] = []
        for one in log_files(folder):
            if chosen.reads(one):
                records, places[one.path] = _grown(one.path, places.get(one.path, 0))
                fresh += [record for record in records if chosen.wants(record)]
        yield from sorted(fresh, key=lambda record: int(record["ts"]))
        time.sleep(_POLL_SECS)


def line_of(record: dict[str, Any]) -> str:
    """Return a record for people, on one line."""
    links = record.get("fill") or record.get("order") or record.get("bar") or ""
    grave = "" if record.get("level") == "info" else f"{str(record.get('level')).upper()} "
    parts = (record.get("time"), record.get("engine"), record.get("kind"), record.get("text"))
    head = "  ".join(str(one) for one in parts[:3])
    return f"{head}  {grave}{parts[3]}" + (f"  [{links}]" if links else "")


def _records(files: list[LogFile], chosen: LogFilter) -> Iterator[dict[str, Any]]:
    for one in files:
        try:
            with one.path.open("rb") as lines:
                for line in lines:
                    record = _parsed(line)
                    if record is not None and chosen.wants(record):
                        yield record
        except FileNotFoundError:
            # Its thirty days ended while it was waited for.
            continue


def _grown(path: Path, place: int) -> tuple[list[dict[str, Any]], int]:
    """Return the whole lines behind a place in a file, and the place behind them."""
    try:
        with path.open("rb") as file:
            file.seek(place)
            content = file.read()
    except FileNotFoundError:
        return [], place
    whole = content.rpartition(b"\n")[0]
    if not whole:
        return [], place
    found = (_parsed(line) for line in whole.split(b"\n"))
    return [one for one in found if one is not None], place + len(whole) + 1


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("ts"), int) else None

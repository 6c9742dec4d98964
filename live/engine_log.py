"""The log of an engine: JSON lines, one file for each UTC day, written beside trading.

Whoever tells something never waits and never sees an error: lines go through a bounded queue to a
thread. What does not fit is dropped and counted, and the next line that does says how many were.
Secrets of the environment are masked.

Each line has ``time`` (UTC, for people), ``ts`` (nanoseconds), ``level``, ``engine``, ``kind`` and
``text``; more keys follow by kind. Of these some link what belongs together (`LINKS`)::

    bar         BTCUSDT-PERP.BINANCE@1763596800000000000    instrument and close of the bar
    prediction  the bar's, with /P behind it
    decision    the bar's, with /D behind it
    order       the client order id
    fill        the order's, with /1, /2 ... behind it

A prediction names its bar; a decision its prediction and its order; an order its decision; a fill
its order. All of them name the bar, so that one filter shows the whole chain.
"""

from __future__ import annotations

import json
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from catalog.timestamps import NS_PER_DAY, NS_PER_SECOND
from live.engine_status import check_engine_name
from live.masking import Mask

type LogLevel = Literal["info", "warning", "error"]

LINKS = ("bar", "prediction", "decision", "order", "fill")
"""Keys that link the lines of one chain."""
KEEP_DAYS = 30
ERRORS = frozenset({"error", "naked", "crashed", "given_up", "kill", "killed"})
WARNINGS = frozenset({"guard", "stale", "silent", "leaking", "reject", "gap", "refused", "global"})
"""Kinds whose lines are errors and warnings; all others inform."""

_MOST_QUEUED = 20_000
_FLUSH_SECS = 0.25
_FILE = re.compile(r"^(?P<stem>.+)-(?P<day>\d{4}-\d{2}-\d{2})\.jsonl$")


def bar_id(instrument_id: str, ts: int) -> str:
    """Return the name of a bar: its instrument and its close, UTC nanoseconds."""
    return f"{instrument_id}@{ts}"


def log_file(folder: Path, stem: str, ts: int) -> Path:
    """Return the file that takes the lines of a moment, such as ``engine-X-2026-11-20.jsonl``."""
    day = datetime.fromtimestamp(ts // NS_PER_SECOND, tz=UTC).strftime("%Y-%m-%d")
    return folder / f"{stem}-{day}.jsonl"


class LogFile(NamedTuple):
    """A log file by the parts of its name."""

    path: Path
    stem: str
    day: str

    @property
    def engine(self) -> str:
        """Return the engine's name; that of the supervisor's log is ``supervisor``."""
        return self.stem.removeprefix("engine-")


def log_files(folder: Path) -> list[LogFile]:
    """Return the log files of a folder, the oldest day first."""
    found = []
    for path in folder.glob("*.jsonl"):
        match = _FILE.match(path.name)
        if match is not None:
            found.append(LogFile(path, match["stem"], match["day"]))
    return sorted(found, key=lambda one: (one.day, one.stem))


class DayFiles:
    """Appends lines to the file of their day, and removes files that are too old.

    Parameters
    ----------
    folder : Path
        Made at the first line.
    stem : str
        First part of the files' names.
    keep_days : int
        Days that stay, the present one included.
    """

    def __init__(self, folder: Path, stem: str, keep_days: int = KEEP_DAYS) -> None:
        self._folder = folder
        self._stem = stem
        self._keep_days = keep_days
        self._day = -1
        self._file: IO[bytes] | None = None

    def write(self, ts: int, line: bytes) -> None:
        """Append a line, without its end, stamped `ts` (UTC ns). A day never goes back."""
        day = max(ts // NS_PER_DAY, self._day)
        if day != self._day or self._file is None:
            self._open(day)
        assert self._file is not None
        self._file.write(line + b"\n")

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Flush and close; the next line opens the file again."""
        file, self._file = self._file, None
        if file is not None:
            # It is closed, and of no use any more, also where its last lines find no room.
            file.close()

    def _open(self, day: int) -> None:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = log_file(self._folder, self._stem, day * NS_PER_DAY)
        file = path.open("a+b")
        # A process that was killed within a line must not spoil the next one.
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        self._day, self._file = day, file
        self._prune(day)

    def _prune(self, day: int) -> None:
        oldest = log_file(self._folder, self._stem, max(day - self._keep_days + 1, 0) * NS_PER_DAY)
        for one in log_files(self._folder):
            if one.stem == self._stem and one.path.name < oldest.name:
                one.path.unlink(missing_ok=True)


class EngineLog:
    """Takes what happens in an engine; never raises, never waits.

    Parameters
    ----------
    folder : Path
        Of the logs.
    engine : str
        Its name.
    keep_days : int
        Days that are kept.
    clock : callable
        Returns UTC nanoseconds.
    stem : str
        First part of the files' names; ``engine-<engine>`` if empty.

    Attributes
    ----------
    dropped : int
        Lines for which there was no room.
    failures : int
        Writes that failed.
    """

    def __init__(
        self,
        folder: Path,
        engine: str,
        keep_days: int = KEEP_DAYS,
        clock: Callable[[], int] = time.time_ns,
        stem: str = "",
    ) -> None:
        self.dropped = 0
        self.failures = 0
        self._engine = check_engine_name(engine)
        self._clock = clock
        self._mask = Mask()
        self._files = DayFiles(folder, stem or f"engine-{engine}", keep_days)
        self._queue: queue.Queue[tuple[int, dict[str, Any]] | None] = queue.Queue(_MOST_QUEUED)
        self._told_dropped = 0
        self._thread = threading.Thread(target=self._run, name="engine-log", daemon=True)
        self._thread.start()

    def event(self, kind: str, text: str = "", **fields: object) -> None:
        """Tell one thing.

        Parameters
        ----------
        kind : str
            What it is about, such as ``fill``.
        text : str
            For people.
        **fields
            Further keys, plain values; see `LINKS`. ``level`` replaces that of the kind.
        """
        record = {
            "level": "error" if kind in ERRORS else "warning" if kind in WARNINGS else "info",
            "engine": self._engine,
            "kind": kind,
            "text": text,
            **fields,
        }
        try:
            self._queue.put_nowait((self._clock(), record))
        except queue.Full:
            self.dropped += 1

    def close(self, timeout_secs: float = 2.0) -> None:
        """Write what was told so far, and end. What is told later is lost."""
        try:
            self._queue.put(None, timeout=timeout_secs)
        except queue.Full:
            return
        self._thread.join(timeout_secs)

    def _run(self) -> None:
        for batch in self._batches():
            try:
                for ts, record in batch:
                    self._files.write(ts, _encoded(ts, self._masked(record)))
                if self.dropped > self._told_dropped:
                    self._tell_dropped()
                self._files.flush()
            except OSError:
                # The disk may come back; what has failed is gone.
                self.failures += 1
                self._abandon()
        self._abandon()

    def _batches(self) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """Yield what was told in a quarter of a second, until the end."""
        while True:
            batch: list[tuple[int, dict[str, Any]]] = []
            item = self._queue.get()
            deadline = time.monotonic() + _FLUSH_SECS
            while item is not None:
                batch.append(item)
                left = deadline - time.monotonic()
                if left <= 0.0 or len(batch) >= 1_000:
                    break
                try:
                    item = self._queue.get(timeout=left)
                except queue.Empty:
                    break
            if batch:
                yield batch
            if item is None:
                return

    def _masked(self, record: dict[str, Any]) -> dict[str, Any]:
        mask = self._mask
        return {key: mask(one) if isinstance(one, str) else one for key, one in record.items()}

    def _tell_dropped(self) -> None:
        lost, self._told_dropped = self.dropped - self._told_dropped, self.dropped
        record = {"level": "warning", "engine": self._engine, "kind": "dropped"}
        text = f"{lost} line(s) were dropped: they came faster than the disk takes them"
        ts = self._clock()
        self._files.write(ts, _encoded(ts, {**record, "text": text}))

    def _abandon(self) -> None:
        try:
            self._files.close()
        except OSError:
            self.failures += 1


def _encoded(ts: int, record: dict[str, Any]) -> bytes:
    seconds, rest = divmod(ts, NS_PER_SECOND)
    moment = datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    content = {"time": f"{moment}.{rest // 1_000:06d}Z", "ts": ts, **record}
    for key, value in content.items():
        if isinstance(value, float) and not math.isfinite(value):
            # JSON knows no other numbers.
            content[key] = None
    return json.dumps(content, default=str, separators=(",", ":")).encode()

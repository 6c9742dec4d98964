"""Slow inputs of a live node: polled, checked, stamped with their arrival, handed on once.

A `PollService` has a reader for each input (`adapters.polling_readers`, `adapters.polling_news`)
and a thread for each kind of them, so that a silent server keeps nobody waiting but its own
readers. Threads touch nothing of the engine. What they found is taken by `drain` on whatever
thread asks, or handed to a callback on theirs; `adapters.polling_client` brings it into a node.

`ts_init` is when a record came, by our clock: after the answer was read, checked and scored, never
before what it speaks of, never decreasing. Before the first poll, `history` returns what the
vendors have of the past with the `ts_init` that an import would assume, for a warm start; what it
returned is not published again.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import SystemRandom

import numpy as np

from adapters.asked import Asked
from adapters.errors import NotFoundError, RefusedError, RetryableError
from adapters.http import plain_reason
from adapters.options import ImportOptions
from adapters.polling_config import Polling, PollLimits, Source
from adapters.polling_http import PollHttp
from adapters.polling_memory import SeriesMemory
from adapters.polling_news import NewsReader, Scorer
from adapters.polling_readers import (
    DvolReader,
    FearGreedReader,
    FundingReader,
    OnchainReader,
    Reader,
)
from adapters.polling_records import InputStatus, Polled, rows_of
from catalog.errors import ConfigError, DataError
from catalog.records import Batch
from catalog.timestamps import NS_PER_DAY, NS_PER_SECOND

logger = logging.getLogger(__name__)

type Novelty = Callable[[int, str], float]
"""Novelty of a headline from 0 to 1, told its `ts_init` and text in order of arrival."""

_MOST_WAITING = 100_000
"""Records that nobody takes; older ones are dropped then."""
_LONGEST_WAIT_SECS = 86_400.0
_LONGEST_SINCE_NS = 40 * NS_PER_DAY
_HISTORY_TRIES = 4
_SPREAD = SystemRandom()
"""Keeps the requests of many apart; no result depends on it."""


def readers_of(config: Polling) -> list[list[Reader]]:
    """Return the readers of polling settings, those that share a thread together."""
    groups: list[list[Reader]] = []
    if (funding := config.funding) is not None:
        groups.append([FundingReader(funding, name) for name in funding.instruments])
    if (dvol := config.dvol) is not None:
        groups.append([DvolReader(dvol, name) for name in dvol.currencies])
    if config.fear_greed is not None:
        groups.append([FearGreedReader(config.fear_greed)])
    if (onchain := config.onchain) is not None:
        groups.append([OnchainReader(onchain, name) for name in onchain.assets])
    groups += [[NewsReader(one)] for one in config.news]
    return groups


@dataclass(frozen=True, slots=True)
class History:
    """What the vendors have of the past.

    Parameters
    ----------
    batches : tuple of Batch
        As an import would store them.
    faults : mapping of str to str
        Readers that failed, by name, and why.
    """

    batches: tuple[Batch, ...]
    faults: Mapping[str, str]


class _Poller:
    """One reader with its clockwork: when it asks next, and how it fared."""

    def __init__(self, reader: Reader, limits: PollLimits, clock_ns: Callable[[], int]) -> None:
        self.reader = reader
        self.http = PollHttp(limits, reader.source, clock_ns)
        self.due_ticks = 0
        self.polls = self.failures = self.failures_in_row = 0
        self.last_ok_ns = self.next_poll_ns = 0
        self.last_error = ""
        # A question for the past may still be under way when the first poll is due.
        self.asking = threading.Lock()
        self._limits = limits

    def succeeded(self, now_ns: int) -> float:
        """Note a success; return the seconds until the next poll."""
        if self.failures_in_row:
            logger.info(
                "%s is read again after %d failures", self.reader.name, self.failures_in_row
            )
        self.failures_in_row, self.last_error, self.last_ok_ns = 0, "", now_ns
        return _until_next(self.reader.source, now_ns)

    def failed(self, error: Exception) -> float:
        """Note a failure; return the seconds until the next poll."""
        self.failures += 1
        self.failures_in_row += 1
        expected = isinstance(error, ConfigError | DataError)
        self.last_error = self.http.hide(str(error) if expected else plain_reason(error))
        if self.failures_in_row == 1:
            logger.warning("%s cannot be read: %s", self.reader.name, self.last_error)
        return self.patience(error)

    def patience(self, error: Exception) -> float:
        """Return how long to wait after a failure, seconds."""
        limits = self._limits
        wait = limits.backoff_secs * 2.0 ** min(self.failures_in_row - 1, 30)
        if isinstance(error, RefusedError | NotFoundError | ConfigError):
            wait = limits.max_backoff_secs
        wait = min(wait, limits.max_backoff_secs)
        if isinstance(error, RetryableError) and error.retry_after_secs is not None:
            wait = max(wait, min(error.retry_after_secs, _LONGEST_WAIT_SECS))
        return wait * (1.0 + limits.jitter_frac * _SPREAD.random())


class PollService:
    """Reads slow inputs as its settings say.

    Parameters
    ----------
    config : Polling
        What, where and how often.
    novelty : callable, optional
        Measures headlines, such as ``research.novelty.NoveltyMeter().measure`` of a meter that
        has measured the last three days; None leaves the novelty NaN.
    scorer : callable, optional
        Scores headlines that come without a score. It must be the one that scored the headlines
        which a model was trained on; None leaves them unscored.
    options : ImportOptions, optional
        What is assumed of history; its clock is not used.
    clock_ns, ticks_ns : callable
        The wall clock, UTC nanoseconds, and the clock that waits are measured by. Tests pass
        their own.
    """

    def __init__(
        self,
        config: Polling,
        *,
        novelty: Novelty | None = None,
        scorer: Scorer | None = None,
        options: ImportOptions | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        ticks_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.config = config
        self._novelty = novelty
        self._scorer = scorer
        self._options = options or ImportOptions()
        self._clock_ns = clock_ns
        self._ticks_ns = ticks_ns
        self._groups = [
            [_Poller(reader, config.limits, clock_ns) for reader in group]
            for group in readers_of(config)
        ]
        self._memories = {
            name: SeriesMemory(name, orders=not name.startswith("news.")) for name in config.names
        }
        self._lock = threading.Lock()
        self._waiting: deque[Polled] = deque(maxlen=_MOST_WAITING)
        self._last_init = 0
        self._on_records: Callable[[Sequence[Polled]], None] | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs, as predictors name them; funding as ``funding.<instrument id>``."""
        return tuple(self._memories)

    def history(self, since: int | Mapping[str, int]) -> History:
        """Return what the vendors have since a time, and take it as known; blocks.

        Call it before `start`. All readers are asked side by side, and those that have not answered
        within `PollLimits.history_secs` are faults: what they say later is not used. What comes
        back carries the `ts_init` that an import would assume, never later than now.

        Parameters
        ----------
        since : int or mapping of str to int
            UTC nanoseconds on `ts_event`, inclusive; by name of the input, or one for all. Inputs
            that are not named are not asked for.
        """
        batches: list[Batch] = []
        faults: dict[str, str] = {}
        limit, over = self.config.limits.history_secs, threading.Event()
        give_up = time.monotonic() + limit
        asked = [
            (poller.reader.name, Asked(partial(self._patiently, poller, start, over)))
            for poller in self._pollers
            if (start := _earliest(poller.reader.names, since)) is not None
        ]
        for name, one in asked:
            one.join(max(0.0, give_up - time.monotonic()))
            if one.is_alive():
                faults[name] = f"must have answered within {limit:g} s, had not"
            elif isinstance(one.error, ConfigError | DataError):
                faults[name] = str(one.error)
            elif one.error is not None:
                raise one.error
            else:
                batches += [self._kept(batch, since) for batch in one.answer or ()]
        over.set()
        return History(tuple(one for one in batches if len(one)), faults)

    def remember(self, batches: Sequence[Batch]) -> None:
        """Take records as known, such as those of a catalog: they are not published."""
        for batch in batches:
            for row in rows_of(batch):
                if row.name in self._memories:
                    with self._lock:
                        self._memories[row.name].remember(row)

    def start(self, on_records: Callable[[Sequence[Polled]], None] | None = None) -> None:
        """Begin to poll, the first time at once.

        Parameters
        ----------
        on_records : callable, optional
            Told of new records on the reader's thread, in order of `ts_init`; it must be quick.
            None: they wait for `drain`.
        """
        if self._threads:
            raise ConfigError("a poll service must be started once, was started already")
        self._on_records = on_records
        for group in self._groups:
            name = f"poll-{group[0].reader.name}"
            # Daemons: a read that waits for a silent server must not keep a process alive.
            thread = threading.Thread(target=self._run, args=(group,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, wait_secs: float = 1.0) -> None:
        """Ask the threads to end and wait a little; a read under way is left to its time-out."""
        self._stopping.set()
        give_up = time.monotonic() + wait_secs
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, give_up - time.monotonic()))

    def poll_due(self) -> list[Polled]:
        """Poll on this thread whatever is due, and return what waits; for lock-step and tests."""
        for poller in self._pollers:
            if poller.due_ticks <= self._ticks_ns():
                self._poll(poller)
        return self.drain()

    def drain(self) -> list[Polled]:
        """Return the records that came since the last call, in order of `ts_init`."""
        with self._lock:
            found = list(self._waiting)
            self._waiting.clear()
        return found

    def ages(self) -> dict[str, float]:
        """Return the seconds since the newest record of each input became known, by name."""
        return {one.name: one.age_secs for one in self.status() if one.age_secs is not None}

    def status(self) -> tuple[InputStatus, ...]:
        """Return how each input fares; from any thread."""
        now = self._clock_ns()
        with self._lock:
            return tuple(
                self._status(self._memories[name], poller, now)
                for poller in self._pollers
                for name in poller.reader.names
            )

    @property
    def _pollers(self) -> list[_Poller]:
        return [poller for group in self._groups for poller in group]

    def _run(self, group: list[_Poller]) -> None:
        while not self._stopping.is_set():
            poller = min(group, key=lambda one: one.due_ticks)
            wait = (poller.due_ticks - self._ticks_ns()) / NS_PER_SECOND
            if wait > 0 and self._stopping.wait(wait):
                break
            self._poll(poller)
        for poller in group:
            poller.http.close()

    def _poll(self, poller: _Poller) -> None:
        """Ask once; whatever happens, the next time is set."""
        now = self._clock_ns()
        poller.polls += 1
        try:
            with poller.asking:
                rows = self._read(poller, now)
                self._publish(rows, now - round(poller.reader.source.first_secs * NS_PER_SECOND))
                poller.http.confirm()
        except Exception as error:  # an unforeseen answer must not end the reading
            wait = poller.failed(error)
        else:
            wait = poller.succeeded(self._clock_ns())
        poller.due_ticks = self._ticks_ns() + round(wait * NS_PER_SECOND)
        poller.next_poll_ns = self._clock_ns() + round(wait * NS_PER_SECOND)

    def _read(self, poller: _Poller, now: int) -> list[Polled]:
        batches = poller.reader.poll(poller.http, self._since(poller, now), self._import(now))
        return [self._scored(row) for batch in batches for row in rows_of(batch)]

    def _since(self, poller: _Poller, now: int) -> int:
        """Return from when on records may be new: the last one is read again, as a check."""
        first = now - round(poller.reader.source.first_secs * NS_PER_SECOND)
        newest = [self._memories[name].newest for name in poller.reader.names]
        starts = [first if one is None else one.ts_event for one in newest]
        return max(min(starts), now - _LONGEST_SINCE_NS)

    def _import(self, now: int) -> ImportOptions:
        # A server whose clock is a little ahead speaks of what is, by ours, to come.
        skew = round(self.config.limits.max_skew_secs * NS_PER_SECOND)
        return self._options.model_copy(update={"now_ns": now + skew})

    def _scored(self, row: Polled) -> Polled:
        if row.kind != "news" or self._scorer is None or not math.isnan(row.value):
            return row
        score = float(self._scorer(row.fields["headline"]))
        if abs(score) > 1.0:
            raise DataError(f"a scorer must answer from -1 to 1, was {score:g}")
        return replace(row, fields={**row.fields, "score": score})

    def _publish(self, rows: Sequence[Polled], earliest_ns: int) -> None:
        """Stamp what is new and hand it on, in order."""
        with self._lock:
            arrival = max(self._clock_ns(), self._last_init)
            fresh: list[Polled] = []
            for row in sorted(rows, key=lambda one: one.ts_event):
                memory = self._memories[row.name]
                if memory.judge(row, earliest_ns) != "new":
                    continue
                stamped = replace(row, ts_init=max(arrival, row.ts_event))
                memory.remember(stamped)
                fresh.append(self._measured(stamped))
            if not fresh:
                return
            self._last_init = fresh[-1].ts_init
            if self._on_records is None:
                self._waiting.extend(fresh)
            else:
                self._on_records(fresh)

    def _measured(self, row: Polled) -> Polled:
        if row.kind != "news" or self._novelty is None:
            return row
        return replace(row, novelty=self._novelty(row.ts_init, row.fields["headline"]))

    def _patiently(self, poller: _Poller, since_ns: int, over: threading.Event) -> list[Batch]:
        """Read history, with a few repetitions, until it is over."""
        for tries in range(1, _HISTORY_TRIES + 1):
            now = self._clock_ns()
            try:
                with poller.asking:
                    return poller.reader.history(poller.http, since_ns, self._import(now))
            except RetryableError as error:
                if tries == _HISTORY_TRIES:
                    raise
                limits = self.config.limits
                wait = max(limits.backoff_secs * 2.0 ** (tries - 1), error.retry_after_secs or 0.0)
                if wait > limits.max_backoff_secs or over.wait(wait):
                    raise
        raise AssertionError("unreachable")

    def _kept(self, batch: Batch, since: int | Mapping[str, int]) -> Batch:
        """Return the rows since their input's start, known by now, and take them as known."""
        now = self._clock_ns()
        keep = []
        for place, row in enumerate(rows_of(batch)):
            start = since if isinstance(since, int) else since.get(row.name)
            if start is None or row.ts_event < start or row.name not in self._memories:
                continue
            keep.append(place)
            with self._lock:
                self._memories[row.name].remember(replace(row, ts_init=min(row.ts_init, now)))
        columns = {name: column[keep] for name, column in batch.columns.items()}
        columns["ts_init"] = np.maximum(np.minimum(columns["ts_init"], now), columns["ts_event"])
        lines = None if batch.lines is None else batch.lines[keep]
        return replace(batch, columns=columns, lines=lines)

    def _status(self, memory: SeriesMemory, poller: _Poller, now: int) -> InputStatus:
        newest, counts, source = memory.newest, memory.counts, poller.reader.source
        skew = poller.http.skew_ns
        value = None if newest is None or not math.isfinite(newest.value) else newest.value
        old = newest is None or now - newest.ts_event > source.stale_secs * NS_PER_SECOND
        limit = self.config.limits.max_skew_secs * NS_PER_SECOND
        return InputStatus(
            name=memory.name,
            reader=poller.reader.name,
            last_event_ns=0 if newest is None else newest.ts_event,
            last_init_ns=0 if newest is None else newest.ts_init,
            last_value=value,
            age_secs=None if newest is None else max(0, now - newest.ts_init) / NS_PER_SECOND,
            stale=old,
            records=counts["new"],
            duplicates=counts["duplicate"],
            restated=counts["restated"],
            late=counts["late"],
            left_out=poller.reader.left_out if isinstance(poller.reader, NewsReader) else 0,
            polls=poller.polls,
            failures=poller.failures,
            failures_in_row=poller.failures_in_row,
            last_ok_ns=poller.last_ok_ns,
            next_poll_ns=poller.next_poll_ns,
            skew_secs=None if skew is None else skew / NS_PER_SECOND,
            skewed=skew is not None and abs(skew) > limit,
            last_error=poller.last_error,
        )


def _earliest(names: Sequence[str], since: int | Mapping[str, int]) -> int | None:
    """Return from when on a reader is asked for its inputs; None if for none of them."""
    if isinstance(since, int):
        return since
    return min((since[name] for name in names if name in since), default=None)


def _until_next(source: Source, now_ns: int) -> float:
    """Return the seconds until the next poll on the grid, spread at random."""
    now = now_ns / NS_PER_SECOND
    step, offset = source.every_secs, source.offset_secs % source.every_secs
    until = step - (now - offset) % step
    return until + min(source.spread_secs, step / 2.0) * _SPREAD.random()

"""What lies before the first live bar, and in gaps: the catalog first, the exchange for the rest.

`stored_history` reads what a catalog holds. `HistoryDesk` asks an exchange for the rest: page by
page, one request at a time for each instrument, no more in a second than are allowed, again with
growing pauses where no answer comes. It is pure: it is told the time and the answers, and says what
to ask; `live.market_feed` sends it through the engine's ``request_bars``, which every venue has.

An answer of the engine names no request, and an empty one not even an instrument. So an answer is
judged by what it brings: the next request is for what is still missing, and an answer with nothing
new is the exchange's word that there is nothing. Each request reaches back to a bar that is known,
so that the answer of an exchange in good order is never empty; where an empty one could belong to
several requests, they are sent again one after the other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from pydantic import Field

from catalog.arrays import BarArrays, SeriesArrays
from catalog.config import Config
from catalog.instruments import bar_type
from catalog.store import Catalog
from catalog.timestamps import NS_PER_SECOND, interval_name
from live.bar_gate import Gap
from research.events import EventArrays
from research.groups.slow import HISTORY_NS
from research.novelty import novelties
from research.predictor import PredictorSpec
from strategies.market_data import bar_records, exact_bars
from strategies.slow_data import SlowInputs

if TYPE_CHECKING:
    from catalog.records import Kind

MAX_PAGE_BARS = 1_500
"""Bars that the reference venue gives for one request, at most."""
_MOST_OWED = 3
"""Answers that may still come to requests that were given up: an exchange that is away has none."""
MAX_SETTLEMENTS = 1_000
"""Settlements that the reference venue gives for one request, at most."""
_VAIN = 2
"""Pauses that do not grow yet, after answers in a row that bring nothing new."""
_EARLIER = 3
"""Bars asked for in front of those that are missing: venues differ in which ends they include."""


class HistoryConfig(Config):
    """How an exchange's history is asked for.

    Parameters
    ----------
    page_bars : int
        Bars in one request.
    timeout_secs : float
        How long an answer is waited for, seconds of the wall clock.
    retry_secs, max_retry_secs : float
        Pause after a request without an answer; it doubles each time, up to the second, and is
        drawn between half and all of that, so that many engines do not ask at once. Seconds.
    requests_per_second : float
        Requests sent in a second, over all instruments.
    funding_days : float
        How long before the first bar that is needed settled funding rates are asked for, days:
        features look back four days.
    """

    page_bars: int = Field(default=1_000, ge=1, le=MAX_PAGE_BARS - 2 * _EARLIER)
    timeout_secs: float = Field(default=15.0, gt=0.0)
    retry_secs: float = Field(default=1.0, gt=0.0)
    max_retry_secs: float = Field(default=60.0, gt=0.0)
    requests_per_second: float = Field(default=20.0, gt=0.0)
    funding_days: float = Field(default=5.0, gt=0.0)


class Ask(NamedTuple):
    """A request to send.

    Parameters
    ----------
    instrument_id : str
        Whose.
    start, end : int
        UTC nanoseconds: from the open of a bar before the first to the close of the last.
    limit : int
        Records, at most.
    gap : Gap
        The closes that it is about.
    """

    instrument_id: str
    start: int
    end: int
    limit: int
    gap: Gap


class Answer(NamedTuple):
    """What came of a request, as far as the answer tells.

    Parameters
    ----------
    instrument_id : str
        Whose records came.
    new : int
        How many of them were missing.
    earliest : int
        Stamp of the first of them, UTC nanoseconds.
    """

    instrument_id: str
    new: int
    earliest: int


@dataclass(slots=True)
class _Talk:
    """What is going on about one instrument. Times in nanoseconds of the wall clock.

    `owed` counts answers to requests that were given up, `vain` those in a row that brought nothing
    new about what begins at `first`.
    """

    sent: Ask | None = None
    sent_at: int = 0
    next_at: int = 0
    failures: int = 0
    owed: int = 0
    vain: int = 0
    first: int = 0


@dataclass(slots=True)
class HistoryCounts:
    """Requests sent, answered, and without an answer in time."""

    sent: int = 0
    answered: int = 0
    failed: int = 0


class HistoryDesk:
    """Says what to ask an exchange, and when.

    Parameters
    ----------
    interval_ns : int
        Length of a bar.
    config : HistoryConfig
        Its manners.
    rng : random.Random, optional
        Draws the pauses.
    page : int, optional
        Records in one request; None: `HistoryConfig.page_bars`.

    Attributes
    ----------
    counts : HistoryCounts
        What became of the requests.
    """

    def __init__(
        self,
        interval_ns: int,
        config: HistoryConfig,
        rng: random.Random | None = None,
        *,
        page: int | None = None,
    ) -> None:
        self.config = config
        self._page = page or config.page_bars
        self.counts = HistoryCounts()
        self._interval = interval_ns
        self._rng = rng or random.SystemRandom()
        self._talks: dict[str, _Talk] = {}
        self._next_start = 0
        self._serial = False

    def due(self, gaps: Sequence[Gap], wall: int) -> Iterator[Ask]:
        """Yield the requests to send now for what is missing; each counts as sent.

        Parameters
        ----------
        gaps : sequence of Gap
            What is missing now, one for each instrument at most.
        wall : int
            The wall clock, nanoseconds.
        """
        for talk in self._talks.values():
            if talk.sent is not None and wall - talk.sent_at >= self._timeout_ns:
                self._failed(talk, wall)
        for gap in gaps:
            talk = self._talks.setdefault(gap.instrument_id, _Talk())
            if talk.first != gap.first:
                talk.first, talk.vain = gap.first, 0
            free = talk.sent is None and not (self._serial and self.waiting)
            if free and wall >= talk.next_at and wall >= self._next_start:
                yield self._send(talk, gap, wall)

    def answered(self, answer: Answer | None, wall: int) -> Gap | None:
        """Take an answer; return the closes about which the exchange has nothing more, if so.

        Parameters
        ----------
        answer : Answer, optional
            What came; None for an empty one.
        wall : int
            The wall clock, nanoseconds.
        """
        talk = self._answering(answer)
        if talk is None or talk.sent is None:
            return None
        if answer is not None and answer.earliest < talk.sent.start:
            # What was asked for earlier and came late says nothing about this request.
            talk.owed = max(0, talk.owed - 1)
            return None
        new = 0 if answer is None else answer.new
        asked, talk.sent = talk.sent, None
        # As long as an answer is owed this one may be that: it came late, and another is to come.
        doubtful = talk.owed > 0 and not new
        talk.owed -= doubtful
        self.counts.answered += 1
        if answer is None:
            self._pause_after(talk, wall)
        else:
            # Something new is progress: the rest is asked for at once. Nothing new is asked again
            # only where it is doubtful, or the patience of the gate is not over, or for as long as
            # a market stands still: ever less, or many engines would use up what they may ask for.
            talk.failures = 0
            talk.next_at = wall if new else wall + self._pause(max(0, talk.vain - _VAIN))
            talk.vain = 0 if new else talk.vain + 1
        return None if new or doubtful else asked.gap

    def _answering(self, answer: Answer | None) -> _Talk | None:
        if answer is not None:
            return self._talks.get(answer.instrument_id)
        asked = [talk for talk in self._talks.values() if talk.sent is not None]
        if len(asked) > 1:
            self._serial = True
            for talk in asked:
                talk.sent = None
            # The other answers first, so that they are not taken for those to the next requests.
            self._next_start += round(NS_PER_SECOND * self.config.retry_secs)
            return None
        return asked[0] if asked else None

    def failed(self, instrument_id: str, wall: int) -> None:
        """Take note that a request was refused or could not be sent."""
        talk = self._talks.get(instrument_id)
        if talk is not None and talk.sent is not None:
            self._failed(talk, wall)

    def hurry(self) -> None:
        """Forget the pauses: the connection is back."""
        for talk in self._talks.values():
            talk.next_at = talk.vain = 0

    def stirred(self) -> None:
        """Ask at once what was asked in vain: a market that stood still goes on."""
        for talk in self._talks.values():
            if talk.vain:
                talk.next_at = talk.vain = 0

    @property
    def failures(self) -> int:
        """Requests in a row without an answer that says something, of who fares worst."""
        return max((talk.failures for talk in self._talks.values()), default=0)

    @property
    def waiting(self) -> bool:
        """Whether an answer is waited for."""
        return any(talk.sent is not None for talk in self._talks.values())

    @property
    def _timeout_ns(self) -> int:
        return round(self.config.timeout_secs * NS_PER_SECOND)

    def _send(self, talk: _Talk, gap: Gap, wall: int) -> Ask:
        last = min(gap.last, gap.first + (self._page - 1) * self._interval)
        count = (last - gap.first) // self._interval + 1
        asked = Gap(gap.instrument_id, gap.first, last)
        start = gap.first - (1 + _EARLIER) * self._interval
        talk.sent = Ask(gap.instrument_id, start, last, count + 2 * _EARLIER, asked)
        talk.sent_at = wall
        self._next_start = wall + round(NS_PER_SECOND / self.config.requests_per_second)
        self.counts.sent += 1
        return talk.sent

    def _failed(self, talk: _Talk, wall: int) -> None:
        talk.sent = None
        talk.owed = min(talk.owed + 1, _MOST_OWED)
        self.counts.failed += 1
        self._pause_after(talk, wall)

    def _pause_after(self, talk: _Talk, wall: int) -> None:
        talk.next_at = wall + self._pause(talk.failures)
        talk.failures += 1

    def _pause(self, failures: int) -> int:
        longest = min(self.config.retry_secs * 2.0 ** min(failures, 30), self.config.max_retry_secs)
        return round(longest * (0.5 + 0.5 * self._rng.random()) * NS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """What a catalog holds of the time before the first live bar.

    Parameters
    ----------
    bars : mapping of str to BarArrays
        By instrument; may be empty.
    funding : mapping of str to SeriesArrays
        Settled rates by instrument.
    slow : SlowInputs
        Slow series that the predictor asks for.
    lacking : tuple of str
        Slow series that it asks for and that are not stored.
    """

    bars: Mapping[str, BarArrays] = field(default_factory=dict)
    funding: Mapping[str, SeriesArrays] = field(default_factory=dict)
    slow: SlowInputs = field(default_factory=SlowInputs)
    lacking: tuple[str, ...] = ()

    def records(self, instruments: Sequence[Any], interval_ns: int) -> dict[str, list[Any]]:
        """Return the bars as the engine's, by instrument.

        Raises
        ------
        DataError
            If a number has more decimals than the instrument allows.
        """
        interval = interval_name(interval_ns)
        found = {}
        for one in instruments:
            name = str(one.id)
            if name in self.bars and len(self.bars[name]):
                exact = exact_bars(self.bars[name], one)
                found[name] = bar_records(exact, bar_type(name, interval), one)
        return found


def first_needed(spec: PredictorSpec, now: int) -> int:
    """Return the first close that a predictor must be fed to predict at the next one after `now`.

    The number of bars comes from the feature table (`spec.warmup_bars`): a predictor that has seen
    as many gives the numbers of one that has seen everything.
    """
    last = now // spec.interval_ns * spec.interval_ns
    return last - spec.warmup_bars * spec.interval_ns


def stored_history(
    catalog: Path | None, spec: PredictorSpec, since: int, *, until: int | None = None
) -> StoredHistory:
    """Read what a catalog holds from the close `since` on; nothing where there is no catalog.

    A catalog that ends before now is completed by the exchange, as far as that has a history. It
    has none of slow series: what a catalog lacks of those is for their pollers to bring, and until
    then the features that look at them are undefined (`StoredHistory.lacking`).

    Parameters
    ----------
    catalog : Path, optional
        Folder.
    spec : PredictorSpec
        What the predictor needs.
    since : int
        The first close that is needed, UTC nanoseconds.
    until : int, optional
        Nothing later is read, UTC nanoseconds.

    Raises
    ------
    DataError, IntegrityError
        If the catalog cannot be read.
    """
    if catalog is None or not catalog.exists():
        return StoredHistory(lacking=spec.series)
    store = Catalog.open(catalog)
    held = {(str(one.kind), one.series) for one in store.series()}
    interval = interval_name(spec.interval_ns)
    bars: dict[str, BarArrays] = {}
    funding: dict[str, SeriesArrays] = {}
    for name in spec.instruments:
        if ("bars", bar_type(name, interval)) in held:
            bars[name] = store.bars(name, interval, since - spec.interval_ns, until)
        if ("funding", name) in held:
            # All of it: features look back further on rates than on bars, and it is little.
            funding[name] = store.funding(name, None, until)
    # No feature remembers a slow series for longer.
    series = _stored_series(store, spec.series, since - spec.interval_ns - HISTORY_NS, until)
    lacking = tuple(name for name in spec.series if name not in series)
    return StoredHistory(bars, funding, SlowInputs(series), lacking)


def _stored_series(
    store: Catalog, names: Sequence[str], since: int, until: int | None
) -> dict[str, EventArrays]:
    """Return the slow series that are stored, from `since` on."""
    held = {(str(one.kind), one.series) for one in store.series()}
    found: dict[str, EventArrays] = {}
    headlines: dict[str, Any] = {}
    for name in names:
        kind, _, series = name.partition(".")
        metric = ""
        if kind == "onchain":
            series, _, metric = series.rpartition(".")
        if (kind, series) not in held:
            continue
        rows = store.records(cast("Kind", kind), series, since, until)
        if kind == "news":
            headlines[name] = rows
        elif kind == "onchain":
            chosen = rows["metric"] == metric
            if chosen.any():
                found[name] = EventArrays(name, rows["ts_init"][chosen], rows["value"][chosen])
        else:
            found[name] = EventArrays(name, rows["ts_init"], rows["close"])
    return found | _scored(headlines)


def _scored(headlines: Mapping[str, Any]) -> dict[str, EventArrays]:
    """Return headlines with their scores, and their novelty among those of all sources."""
    if not headlines:
        return {}
    ts_init = np.concatenate([rows["ts_init"] for rows in headlines.values()])
    texts = np.concatenate([rows["headline"] for rows in headlines.values()])
    order = np.argsort(ts_init, kind="stable")
    novelty = np.empty(len(ts_init))
    novelty[order] = novelties(ts_init[order], texts[order])
    ends = np.cumsum([len(rows["ts_init"]) for rows in headlines.values()])[:-1]
    return {
        name: EventArrays(name, rows["ts_init"], rows["score"], part)
        for (name, rows), part in zip(headlines.items(), np.split(novelty, ends), strict=True)
    }

"""From bars as they arrive to bars as they closed: each once, in order, complete or marked missing.

An exchange sends bars twice, late, in any order, before they are finished, stamped a millisecond
before their close, and not at all while a connection is down. What comes out of a `BarGate` is what
a catalog would hold: for each close, in order, the bars of all instruments.

A close is let through once every instrument's bar is there, or once the exchange has said that one
is not (`BarGate.lacks`). Its word counts when the close is `patience_secs` old, because its history
may be a little behind its stream, and once its history has shown any bar of the instrument at all
(`BarGate.proves`), because one that is out of order may answer that there is nothing. A close at
which no instrument has a bar is passed over once a later bar shows that the exchange goes on.

An exchange that says nothing holds everything back: bars that follow a gap wait until the gap is
filled. A source without a history (`has_history=False`) is different: there a bar counts as missing
when the patience is over.

The gate is pure: it is told the time, and it asks for nothing. Times are UTC nanoseconds of the
data, which need not be those of the wall clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field

from catalog.config import Config
from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_SECOND, format_time

_REMEMBERED = 128
"""Closes whose bars are remembered after they were let through, to tell a duplicate from one that
is late."""

type Verdict = Literal[
    "taken", "late", "duplicate", "unfinished", "off_grid", "unknown", "overlap", "wrong"
]
"""What became of a bar. ``overlap``: history that is known already, which is no fault."""


class GateConfig(Config):
    """How patient the gate is.

    Parameters
    ----------
    ask_after_secs : float
        After a close, how long its bars are waited for before the history is asked, seconds.
    patience_secs : float
        After a close, how long until the exchange's word that a bar does not exist is believed,
        seconds.
    stamp_slack_secs : float
        By how much the stamp of a bar may lie before its close (the reference venue's is x:59.999),
        seconds.
    ahead_secs : float
        How far in the future a streamed bar may close, by our clock: more than the clocks differ,
        less than an exchange's updates of an unfinished bar are apart, seconds.
    history_lag_secs : float
        How old the close of a bar must be before the history is believed about it, seconds.
    decide_within_secs : float, optional
        How old a close may be for decisions to be made on it, seconds; None: a tenth of a bar.
    has_history : bool
        Whether the source can be asked for what is missing.
    """

    ask_after_secs: float = Field(default=2.0, ge=0.0)
    patience_secs: float = Field(default=10.0, ge=0.0)
    stamp_slack_secs: float = Field(default=0.999, ge=0.0)
    ahead_secs: float = Field(default=0.5, ge=0.0)
    history_lag_secs: float = Field(default=1.0, ge=0.0)
    decide_within_secs: float | None = Field(default=None, gt=0.0)
    has_history: bool = True

    def at_speed(self, speed: float) -> Self:
        """Return the same patience by the wall clock for data that run `speed` times as fast.

        Decisions are then made on every close that is the latest.
        """
        waits = ("ask_after_secs", "patience_secs", "ahead_secs", "history_lag_secs")
        scaled = {name: getattr(self, name) * speed for name in waits}
        return self.model_copy(update={**scaled, "decide_within_secs": 86_400.0})


@dataclass(slots=True)
class GateCounts:
    """What arrived and what became of it.

    Parameters
    ----------
    bars : int
        Let through since the first of which decisions could be made, the filled ones included.
    warmup : int
        Let through before that.
    late : int
        Streamed after their time had been let through without them: dropped.
    duplicate : int
        Streamed again: dropped.
    unfinished : int
        Of an interval that was not over: dropped.
    out_of_order : int
        Streamed after a later bar of their instrument, but in time: taken.
    gaps : int
        Times that bars had to be asked for after the warm-up.
    backfilled : int
        Those of `bars` that came from the history.
    missing : int
        Bars that do not exist, of a time at which others do; after the warm-up.
    restated : int
        Bars that came again with other numbers: the first count.
    refused : int
        Of an unknown instrument, off the grid of the interval, or of impossible numbers.
    """

    bars: int = 0
    warmup: int = 0
    late: int = 0
    duplicate: int = 0
    unfinished: int = 0
    out_of_order: int = 0
    gaps: int = 0
    backfilled: int = 0
    missing: int = 0
    restated: int = 0
    refused: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


class RawBar(NamedTuple):
    """A bar as it arrived.

    Parameters
    ----------
    instrument_id : str
        Whose.
    stamp : int
        When the exchange says that it ended, UTC nanoseconds.
    numbers : tuple of float
        Open, high, low, close, volume.
    bar : object
        What is handed on; the gate does not look at it.
    streamed : bool
        False where it is an answer to a request for history.
    seen : int, optional
        When it was sent at the earliest, UTC nanoseconds of the data: a bar that was under way then
        is unfinished, although its close may have passed until it is looked at. None: now.
    """

    instrument_id: str
    stamp: int
    numbers: tuple[float, ...]
    bar: Any = None
    streamed: bool = True
    seen: int | None = None


class BarSet(NamedTuple):
    """The bars of one close.

    Parameters
    ----------
    ts : int
        The close, UTC nanoseconds.
    bars : dict of str to RawBar
        By instrument, in the gate's order; at least one.
    missing : tuple of str
        Instruments that have none.
    fresh : bool
        Whether the close is so young that decisions may be made on it.
    """

    ts: int
    bars: dict[str, RawBar]
    missing: tuple[str, ...]
    fresh: bool


class Gap(NamedTuple):
    """Closes of an instrument that have to be asked for: `first` to `last`, both inclusive."""

    instrument_id: str
    first: int
    last: int


class BarGate:
    """Let bars through in order; see the module.

    Parameters
    ----------
    instruments : sequence of str
        In the order in which the bars of a close are handed on.
    interval_ns : int
        Length of a bar.
    first : int
        The first close to let through, UTC nanoseconds; a multiple of the interval.
    config : GateConfig
        Its patience.

    Attributes
    ----------
    next_ts : int
        The close that is let through next, UTC nanoseconds.
    counts : GateCounts
        What became of the bars.

    Raises
    ------
    ConfigError
        If there is no instrument or `first` is no close.
    """

    def __init__(
        self, instruments: Sequence[str], interval_ns: int, first: int, config: GateConfig
    ) -> None:
        if not instruments:
            raise ConfigError("instruments of a gate must name at least one, were none")
        if first % interval_ns:
            raise ConfigError(
                f"first close of a gate must be a multiple of {interval_ns} ns, was "
                f"{format_time(first)}: round it down to the interval"
            )
        self.config = config
        self.counts = GateCounts()
        self.next_ts = first
        self._instruments = tuple(instruments)
        self._interval = interval_ns
        self._waiting: dict[int, dict[str, RawBar]] = {}
        self._absent: dict[int, set[str]] = {}
        self._latest = dict.fromkeys(self._instruments, 0)
        self._passed: OrderedDict[int, dict[str, RawBar]] = OrderedDict()
        self._proved: set[str] = set()
        self._searched: dict[str, int] = {}
        self._gap_until = 0
        self._begun = False
        self._slack = round(config.stamp_slack_secs * NS_PER_SECOND)
        self._ahead = round(config.ahead_secs * NS_PER_SECOND)
        self._lag = round(config.history_lag_secs * NS_PER_SECOND)
        self._ask_after = round(config.ask_after_secs * NS_PER_SECOND)
        self._patience = round(config.patience_secs * NS_PER_SECOND)
        within = config.decide_within_secs
        within_ns = interval_ns // 10 if within is None else round(within * NS_PER_SECOND)
        # When the next bar is over there is something newer to decide on.
        self._within = min(within_ns, interval_ns - 1)

    def close_of(self, stamp: int) -> int | None:
        """Return the close that a stamp means, None if it is off the grid."""
        close = -(-stamp // self._interval) * self._interval
        return close if close - stamp <= self._slack else None

    def last_close(self, now: int) -> int:
        """Return the latest close at or before a time."""
        return now // self._interval * self._interval

    def take(self, raw: RawBar, now: int) -> Verdict:
        """Take a bar in; say what became of it.

        Parameters
        ----------
        raw : RawBar
            The bar.
        now : int
            The time of the data, UTC nanoseconds.
        """
        verdict = self._judge(raw, now)
        counts = self.counts
        if verdict in ("off_grid", "unknown", "wrong"):
            counts.refused += 1
        elif verdict in ("late", "duplicate", "unfinished"):
            setattr(counts, verdict, getattr(counts, verdict) + 1)
        return verdict

    def _judge(self, raw: RawBar, now: int) -> Verdict:
        name = raw.instrument_id
        if name not in self._latest:
            return "unknown"
        close = self.close_of(raw.stamp)
        if close is None:
            return "off_grid"
        if not _sound(raw.numbers):
            return "wrong"
        seen = now if raw.seen is None else min(raw.seen, now)
        if close > seen + (self._ahead if raw.streamed else -self._lag):
            # What a history says of a bar that is not over is no fault of the stream.
            return "unfinished" if raw.streamed else "overlap"
        known = (self._waiting if close >= self.next_ts else self._passed).get(close, {})
        if name in known:
            self.counts.restated += known[name].numbers != raw.numbers
            return "duplicate" if raw.streamed else "overlap"
        if close < self.next_ts:
            return "late" if raw.streamed else "overlap"
        self._waiting.setdefault(close, {})[name] = raw
        if raw.streamed:
            self.counts.out_of_order += close < self._latest[name]
            self._latest[name] = max(self._latest[name], close)
        return "taken"

    def lacks(self, gap: Gap, asked: int) -> None:
        """Take note that the exchange, asked for these closes at a time, had nothing new.

        Those for which the patience was not over then are asked for again, and those after which
        there is no bar of anything.
        """
        name = gap.instrument_id
        newest = max(self._waiting, default=0)
        if name not in self._proved or newest < gap.first:
            # The next page may show more: an instrument may be younger than the warm-up.
            self._searched[name] = gap.last
            return
        last = min(gap.last, newest, self.last_close(asked - self._patience))
        for close in range(max(gap.first, self.next_ts), last + 1, self._interval):
            if name not in self._waiting.get(close, ()):
                self._absent.setdefault(close, set()).add(name)

    def proves(self, instrument_id: str) -> None:
        """Take note that the exchange's history has shown a bar of an instrument."""
        if instrument_id not in self._proved:
            self._proved.add(instrument_id)
            self._searched.pop(instrument_id, None)

    def is_proved(self, instrument_id: str) -> bool:
        """Return whether the exchange's history has shown a bar of an instrument."""
        return instrument_id in self._proved

    def complete(self, ts: int) -> None:
        """Take note that nothing more will come for closes up to `ts`: recorded data know it."""
        for close in self._closes(ts):
            self._absent[close] = set(self._instruments) - set(self._waiting.get(close, ()))

    def gaps(self, now: int) -> list[Gap]:
        """Return what has to be asked for now, at most one span for each instrument.

        A span may hold bars that are known: one request is cheaper than two.
        """
        due = self.last_close(now - self._ask_after)
        found = []
        for name in self._instruments:
            # A bar of its own that follows tells of a gap at once.
            until = max(due, min(self._latest[name], self.last_close(now - self._lag)))
            lacking = [ts for ts in self._closes(until) if self._lacking(ts, name)]
            if lacking:
                first = self._beyond_search(name, lacking)
                found.append(Gap(name, first, lacking[-1]))
        if found and self._begun and self.next_ts > self._gap_until:
            self.counts.gaps += 1
            self._gap_until = max(gap.last for gap in found)
        return found

    def _beyond_search(self, name: str, lacking: list[int]) -> int:
        """Return the first close to ask for: behind what was searched in vain, or all again."""
        searched = self._searched.get(name, 0)
        if searched >= lacking[-1]:
            del self._searched[name]
            return lacking[0]
        return next(ts for ts in lacking if ts > searched)

    def _closes(self, until: int) -> range:
        return range(self.next_ts, until + 1, self._interval)

    def _lacking(self, ts: int, name: str) -> bool:
        return name not in self._waiting.get(ts, ()) and name not in self._absent.get(ts, ())

    def ready(self, now: int) -> Iterator[BarSet]:
        """Yield the closes that can be let through, in order; bars may be taken in between."""
        while (found := self.pop(now)) is not None:
            yield found

    def next_ready(self, now: int) -> int | None:
        """Return the next close that can be let through, UTC nanoseconds; None if it must wait.

        Closes at which nothing traded anywhere are passed over: a catalog has no row for them.
        """
        while self.next_ts <= now + self._ahead and self._waiting:
            ts = self.next_ts
            if not self.config.has_history and ts + self._patience <= now:
                self.complete(ts)
            if any(self._lacking(ts, name) for name in self._instruments):
                return None
            if ts in self._waiting:
                return ts
            self._absent.pop(ts, None)
            self.next_ts = ts + self._interval
        return None

    def pop(self, now: int) -> BarSet | None:
        """Let the next close through; None if it must wait."""
        ts = self.next_ready(now)
        if ts is None:
            return None
        self._absent.pop(ts, None)
        self.next_ts = ts + self._interval
        return self._passing(ts, self._waiting.pop(ts), now)

    def _passing(self, ts: int, held: dict[str, RawBar], now: int) -> BarSet:
        bars = {name: held[name] for name in self._instruments if name in held}
        missing = tuple(name for name in self._instruments if name not in held)
        fresh = now - ts <= self._within
        self._begun = self._begun or fresh
        if self._begun:
            self.counts.bars += len(bars)
            self.counts.missing += len(missing)
            self.counts.backfilled += sum(not raw.streamed for raw in bars.values())
        else:
            self.counts.warmup += len(bars)
        self._passed[ts] = bars
        if len(self._passed) > _REMEMBERED:
            self._passed.popitem(last=False)
        return BarSet(ts, bars, missing, fresh)


def _sound(numbers: tuple[float, ...]) -> bool:
    """Whether prices are above 0 and in order, and a volume is there; False for NaN."""
    open_, high, low, close, volume = numbers
    within = 0.0 < low <= min(open_, close) and max(open_, close) <= high < float("inf")
    return within and 0.0 <= volume < float("inf")

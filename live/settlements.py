"""Funding as it is settled, from a stream that mostly guesses it.

An exchange streams the rate that the next settlement is expected to have, every second or so, and
says afterwards, in its history, what was paid. A backtest knows the latter alone. So a streamed
rate is only a fallback here: when its settlement is due, the history is asked, and bars that close
at or after it wait, until the history has answered or the patience is over. Then the expected rate
counts, and the history is asked on: what was paid by another rate is corrected. Recorded data
stream settlements themselves; those count at once.

A stream may be silent while bars come by history, or begin a moment after a settlement. So the next
one is expected as far from the last as that is from the one before, until the stream says when it
is. Where that turns out to be no settlement, none is booked.

Exchanges stamp a settlement some milliseconds late; here it is put on its hour, as on import.
Times are UTC nanoseconds of the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from catalog.timestamps import NS_PER_HOUR, NS_PER_SECOND
from live.bar_gate import Gap

_SLACK_NS = NS_PER_SECOND
"""How late a settlement may be stamped; as in the import of the archive."""


class Settlement(NamedTuple):
    """A rate (a fraction of the notional, positive: longs pay) and when it was paid."""

    instrument_id: str
    ts: int
    rate: float


class Expected(NamedTuple):
    """When a settlement is expected, and its rate; NaN where only the time is guessed."""

    due: int
    rate: float


@dataclass(slots=True)
class SettlementCounts:
    """Settlements passed on; those of which only a guess was known; rates that are no numbers."""

    settled: int = 0
    estimated: int = 0
    refused: int = 0


class Settlements:
    """Collect what is known of settlements; hand them on in order.

    Parameters
    ----------
    instruments : sequence of str
        Whose.
    since : int
        From when on settlements are needed, UTC nanoseconds.
    patience_ns : int
        How long bars wait for the rate of a settlement, nanoseconds.
    has_history : bool
        Whether the source can be asked.

    Attributes
    ----------
    counts : SettlementCounts
        What became of the rates.
    """

    def __init__(
        self, instruments: Sequence[str], since: int, patience_ns: int, *, has_history: bool = True
    ) -> None:
        self.counts = SettlementCounts()
        self._since = since
        self._patience = patience_ns
        self._has_history = has_history
        self._last = dict.fromkeys(instruments, 0)
        self._expected: dict[str, Expected] = {}
        self._due: dict[str, Expected] = {}
        self._unasked = set(instruments) if has_history else set()
        self._blocking: dict[str, int] = {}
        self._searched: dict[str, int] = {}
        self._ready: list[Settlement] = []
        self._guessed: dict[str, dict[int, float]] = {}
        self._corrected: list[Settlement] = []

    def last(self, instrument_id: str) -> int:
        """Return when the last known settlement was, UTC nanoseconds; 0 if none is known."""
        return self._last[instrument_id]

    def stored(self, instrument_id: str, settled: Iterable[tuple[int, float]]) -> None:
        """Take note of settlements that a catalog holds, as pairs of time and rate."""
        for ts, rate in settled:
            self._settle(instrument_id, ts, rate)

    def take(self, instrument_id: str, rate: float, ts: int, next_ts: int | None) -> None:
        """Take a streamed rate.

        Parameters
        ----------
        instrument_id : str
            Whose.
        rate : float
            A fraction.
        ts : int
            Of when it is, UTC nanoseconds.
        next_ts : int, optional
            When it will be settled. None or not after `ts`: it was, at `ts`.
        """
        if instrument_id not in self._last:
            return
        if not math.isfinite(rate):
            self.counts.refused += 1
            return
        if next_ts is None or next_ts <= ts:
            self._settle(instrument_id, _hour(ts), rate)
            return
        next_ts = _hour(next_ts)
        before = self._expected.get(instrument_id)
        if before is not None and before.due < next_ts and before.due <= ts + _SLACK_NS:
            self._now_due(instrument_id, before)
        self._expected[instrument_id] = Expected(next_ts, rate)

    def answered(self, instrument_id: str, settled: Sequence[tuple[int, float]]) -> int:
        """Take settlements that a history told of; return how many were new."""
        new = sum(self._settle(instrument_id, _hour(ts), rate) for ts, rate in sorted(settled))
        guessed = self._guessed.get(instrument_id, {})
        newest = max((ts for ts, _ in settled), default=0)
        for ts in [one for one in guessed if one < newest]:
            # The history goes on after it and does not have it.
            del guessed[ts]
        return new

    def corrected(self) -> list[Settlement]:
        """Return, once, the settlements whose expected rate had to do and was another."""
        found, self._corrected = self._corrected, []
        return found

    def lacks(self, gap: Gap, now: int) -> None:
        """Take note that the history has nothing more in a span.

        Where that reaches to the present, the warm-up need not wait for it any longer, unless no
        settlement is known at all: then all is asked for again.
        """
        name = gap.instrument_id
        self._searched[name] = gap.last
        if gap.last < now // NS_PER_HOUR * NS_PER_HOUR:
            return
        if self._last[name]:
            self._unasked.discard(name)
        else:
            del self._searched[name]

    def gaps(self, now: int) -> list[Gap]:
        """Return what the history has to be asked for now, at most one span an instrument."""
        if not self._has_history:
            return []
        self._look(now)
        hour = now // NS_PER_HOUR * NS_PER_HOUR
        found = []
        for name in self._last:
            guessed = min(self._guessed.get(name, ()), default=0)
            if name in self._unasked or name in self._due or guessed:
                since = max(self._last[name], self._since)
                if name not in self._due:
                    since = max(since, self._searched.get(name, 0))
                since = min(since, guessed or since)
                found.append(Gap(name, since // NS_PER_HOUR * NS_PER_HOUR, hour))
        return found

    def holds_back(self, ts: int, now: int) -> bool:
        """Return whether the bars of a close, which are all there, have to wait for a settlement.

        One for which bars have waited as long as the patience is settled at the expected rate,
        for now.
        """
        # A bar that has closed proves its time, though our clock may be a little late.
        self._look(max(now, ts))
        for name, expected in list(self._due.items()):
            if expected.due <= ts:
                since = self._blocking.setdefault(name, now)
                if now - since < self._patience and self._has_history:
                    continue
                if math.isnan(expected.rate):
                    # Perhaps it is none; asked for on, until the history tells of a later one.
                    del self._due[name], self._blocking[name]
                else:
                    self.counts.estimated += 1
                    self._settle(name, expected.due, expected.rate)
                self._guessed.setdefault(name, {})[expected.due] = expected.rate
        return self.is_waiting(ts)

    def is_waiting(self, ts: int) -> bool:
        """Return whether a settlement is not known that was due at or before `ts`."""
        return bool(self._unasked) or any(one.due <= ts for one in self._due.values())

    def up_to(self, ts: int) -> list[Settlement]:
        """Return what was settled at or before `ts` and not handed on before, in order."""
        places = {name: place for place, name in enumerate(self._last)}
        due = [one for one in self._ready if one.ts <= ts]
        found = sorted(due, key=lambda one: (one.ts, places[one.instrument_id]))
        if found:
            self._ready = [one for one in self._ready if one.ts > ts]
        return found

    def _look(self, now: int) -> None:
        for name, expected in list(self._expected.items()):
            if expected.due <= now:
                self._now_due(name, self._expected.pop(name))

    def _now_due(self, name: str, expected: Expected) -> None:
        if expected.due > self._last[name]:
            self._due[name] = expected

    def _settle(self, name: str, ts: int, rate: float) -> bool:
        if not math.isfinite(rate):
            return False
        guess = self._guessed.get(name, {}).pop(ts, math.nan)
        if not math.isnan(guess):
            handed = Settlement(name, ts, guess)
            if handed in self._ready:
                self._ready[self._ready.index(handed)] = Settlement(name, ts, rate)
            elif rate != guess:
                self._corrected.append(Settlement(name, ts, rate))
            return True
        last = self._last[name]
        if ts <= last:
            return False
        self._last[name] = ts
        expected = self._expected.get(name)
        if self._has_history and last and (expected is None or expected.due <= ts):
            self._expected[name] = Expected(2 * ts - last, math.nan)
        due = self._due.get(name)
        if due is not None and due.due <= ts:
            del self._due[name]
            self._blocking.pop(name, None)
        self._ready.append(Settlement(name, ts, rate))
        self.counts.settled += 1
        return True


def _hour(ts: int) -> int:
    late = ts % NS_PER_HOUR
    return ts - late if late < _SLACK_NS else ts

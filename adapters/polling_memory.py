"""What came of one input already: new records are told from repeated, changed and late ones."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, Literal

from adapters.polling_records import Polled

type Verdict = Literal["new", "duplicate", "restated", "late"]

_MOST_KEYS = 20_000
"""Far more than any answer holds, so that nothing that may be repeated is forgotten."""
_NOT_CONTENT = frozenset({"headline", "source", "asset", "metric", "unit"})


class SeriesMemory:
    """What came of one input.

    A record is known again by its time, a headline by time, outlet, asset and text, as in the
    catalog. The first value of a record counts: what a vendor changes afterwards was not known
    when it mattered, and a catalog keeps it as a vintage of its own. Numbers come in order of
    what they speak of: an older one that comes late would stand as the current one.

    Parameters
    ----------
    name : str
        See `Polled.name`.
    orders : bool
        Whether records must come in order; headlines need not.

    Attributes
    ----------
    newest : Polled or None
        The last record that was published or remembered.
    counts : mapping of str to int
        Of each verdict since the start.
    """

    def __init__(self, name: str, *, orders: bool) -> None:
        self.name = name
        self.newest: Polled | None = None
        self.counts: dict[Verdict, int] = dict.fromkeys(("new", "duplicate", "restated", "late"), 0)
        self._orders = orders
        self._seen: dict[Hashable, tuple[Any, ...]] = {}

    def judge(self, row: Polled, earliest_ns: int) -> Verdict:
        """Return what a record is, counted; a new one is remembered with `remember`.

        Parameters
        ----------
        row : Polled
            As it came.
        earliest_ns : int
            Headlines published before count as late, UTC nanoseconds.
        """
        verdict = self._verdict(row, earliest_ns)
        self.counts[verdict] += 1
        if verdict in {"late", "restated"}:
            # It is counted once and then a duplicate.
            self._note(row)
        return verdict

    def remember(self, row: Polled) -> None:
        """Take a record as known: published just now, or part of a history."""
        self._note(row)
        if self.newest is None or row.ts_event >= self.newest.ts_event:
            self.newest = row

    def _verdict(self, row: Polled, earliest_ns: int) -> Verdict:
        known = self._seen.get(_key(row))
        if known is not None:
            return "duplicate" if _same(known, _content(row)) else "restated"
        if not self._orders:
            return "late" if row.ts_event < earliest_ns else "new"
        newest = self.newest
        return "late" if newest is not None and row.ts_event < newest.ts_event else "new"

    def _note(self, row: Polled) -> None:
        self._seen[_key(row)] = _content(row)
        while len(self._seen) > _MOST_KEYS:
            del self._seen[next(iter(self._seen))]


def _key(row: Polled) -> Hashable:
    if row.kind != "news":
        return row.ts_event
    values: Mapping[str, Any] = row.fields
    return row.ts_event, values["source"], values["asset"], values["headline"]


def _content(row: Polled) -> tuple[Any, ...]:
    if row.kind == "news":
        # A score may be our own, made anew at each poll.
        return ()
    return tuple(value for name, value in row.fields.items() if name not in _NOT_CONTENT)


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs)

"""The two drivers of groups of features: over a whole panel, and bar by bar.

The batch driver runs each group's compiled loop (`research.groups.driver`) over the rows that the
base kernel has written; a stream runs the same loop over one timestamp, or calls the same
functions as plain Python on lists. All three give the same bits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from research import kernel_tools
from research.groups import driver
from research.groups.registry import GroupUse

VALUES = 5
"""How many numbers a record has that is no bar; those an input does not use are NaN."""
RECORDS_AHEAD = 4_096
"""Records of a group that are laid out beyond what is needed: as many as stay in the cache."""


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one input, sorted by time: `ts_init` (n,) int64, up to five columns (n,)."""

    ts_init: Int64Array
    columns: tuple[Float64Array | Int64Array, ...]


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """A group of features placed in a table.

    Parameters
    ----------
    use : GroupUse
        Which group, with its options.
    settings : (n_settings,) int64
        The kernel's settings, the first being the group's first column.
    inputs : tuple of (str, int)
        What it listens to beside bars, and the row of its state that each belongs to.
    count : int
        Number of instruments.
    """

    use: GroupUse
    settings: Int64Array
    inputs: tuple[tuple[str, int], ...]
    count: int

    @classmethod
    def of(
        cls, use: GroupUse, instruments: Sequence[str], interval_ns: int, first_column: int
    ) -> GroupLayout:
        """Lay a group out; ConfigError if it cannot work on these instruments or this interval."""
        settings = np.array(
            use.module.settings(tuple(instruments), interval_ns, use.options), dtype=np.int64
        )
        settings[0] = first_column
        return cls(use, settings, use.inputs(instruments), len(instruments))

    def state(self) -> tuple[Float64Array, Int64Array]:
        """Return `floats` and `ints` as they are before the first bar."""
        rows = max([self.count, *(row + 1 for _, row in self.inputs)])
        floats = np.zeros((rows, self.use.module.FLOATS))
        ints = np.full((rows, self.use.module.INTS), kernel_tools.NEVER, dtype=np.int64)
        return floats, ints


@dataclass(frozen=True, slots=True)
class Recorded:
    """The bars of a panel as the kernels' loops take them, and the rows that they fill.

    Parameters
    ----------
    interval_ns : int
        Length of a bar in nanoseconds.
    ts_init, bars : (n_rows,) int64, (n_rows, 5) float64
        Instrument after instrument.
    counts : (n_instruments,) int64
        Rows of each instrument.
    values, valid : (n_rows, n_features) float64, (n_rows,) bool
        As the base kernel left them; groups add their columns.
    """

    interval_ns: int
    ts_init: Int64Array
    bars: Float64Array
    counts: Int64Array
    values: Float64Array
    valid: Any


class GroupBatch:
    """One group over a panel, a stretch of timestamps at a time.

    Parameters
    ----------
    layout : GroupLayout
        The group, placed.
    recorded : Recorded
        The bars and rows, which the base kernel is to fill a stretch ahead.
    records : Mapping of str to Records
        What the group listens to, at least.
    """

    def __init__(
        self, layout: GroupLayout, recorded: Recorded, records: Mapping[str, Records]
    ) -> None:
        from research.kernel_cache import compiled_group

        self._run = compiled_group(layout.use.name)
        ends = np.cumsum(recorded.counts, dtype=np.int64)
        self._feed = (recorded.ts_init, recorded.bars)
        self._interval_ns = recorded.interval_ns
        self._cursors = np.stack([ends - recorded.counts, ends])
        self._others = RecordFeed([records[name] for name, _ in layout.inputs], layout.inputs)
        self._rest = (
            layout.state(),
            layout.settings,
            (np.zeros(layout.count, dtype=np.int64), np.zeros((layout.count + 1, 5))),
            recorded.values,
            recorded.valid,
        )

    def advance(self, limit: int, until: int) -> None:
        """Write the columns of the next `limit` timestamps, the last of which is `until`."""
        others, cursors = self._others.until(until)
        self._run(limit, self._interval_ns, self._feed, others, self._cursors, cursors, *self._rest)


class RecordFeed:
    """Hands a group's records over as its loop takes them: those known by a time, and some more.

    A year of minutes laid out at once would be gigabytes; some thousand records stay in the cache.
    To lay out a few for every stretch of bars would take as long as to work with them.
    """

    def __init__(self, parts: Sequence[Records], inputs: Sequence[tuple[str, int]]) -> None:
        self._parts = parts
        self._rows = np.array([row for _, row in inputs], dtype=np.int64)
        self._ts_init = np.empty(0, dtype=np.int64)
        self._columns = np.empty((VALUES, 0))
        # Where each input's records begin in its part, and in what is laid out of all of them.
        self._skipped = np.zeros(len(parts), dtype=np.int64)
        self._first = np.zeros(len(parts), dtype=np.int64)
        self._cursors = np.zeros((2, len(parts)), dtype=np.int64)
        known = [part.ts_init for part in parts if len(part.ts_init)]
        self._known_by = kernel_tools.NEVER if known else _FAR
        self._ahead = 0
        if known:
            span = max(int(ts[-1]) for ts in known) - min(int(ts[0]) for ts in known)
            self._ahead = span * RECORDS_AHEAD // sum(len(ts) for ts in known)

    def until(self, ts: int) -> tuple[tuple[Int64Array, Float64Array, Int64Array], Int64Array]:
        """Return records that hold all that are known by `ts` and not taken, and their cursors."""
        if ts > self._known_by:
            self._known_by = ts + self._ahead
            self._lay_out()
        return (self._ts_init, self._columns, self._rows), self._cursors

    def _lay_out(self) -> None:
        """Lay out what is known by then, behind what the loop has taken."""
        self._skipped += self._cursors[0] - self._first
        ends = [np.searchsorted(part.ts_init, self._known_by, "right") for part in self._parts]
        counts = np.array(ends, dtype=np.int64) - self._skipped
        np.cumsum(counts, out=self._cursors[1])
        self._first = self._cursors[1] - counts
        self._cursors[0] = self._first
        total = int(counts.sum())
        if total > len(self._ts_init):
            self._ts_init = np.empty(2 * total, dtype=np.int64)
            self._columns = np.empty((VALUES, 2 * total))
        for place, part in enumerate(self._parts):
            if counts[place]:
                room = slice(int(self._first[place]), int(self._cursors[1, place]))
                fresh = slice(int(self._skipped[place]), int(ends[place]))
                self._ts_init[room] = part.ts_init[fresh]
                for column, numbers in enumerate(part.columns):
                    self._columns[column, room] = numbers[fresh]
                self._columns[len(part.columns) :, room] = np.nan


_FAR = int(np.iinfo(np.int64).max)


type _Pending = tuple[int, int, int, tuple[float, ...]]


def _by_row(due: Sequence[_Pending]) -> dict[int, tuple[list[int], list[tuple[float, ...]]]]:
    """Return stamps and numbers of the records of each row, in their order."""
    found: dict[int, tuple[list[int], list[tuple[float, ...]]]] = {}
    for ts, _, row, values in due:
        stamps, records = found.setdefault(row, ([], []))
        stamps.append(ts)
        records.append(values)
    return found


_BEGIN_AND_END = np.array([[0], [1]])
_STAMP, _BY_TIME = itemgetter(0), itemgetter(0, 1)


@dataclass(slots=True)
class GroupStream:
    """One group in a stream: keeps its state, takes records and bars as they come.

    Parameters
    ----------
    layout : GroupLayout
        The group, placed.
    interval_ns : int
        Length of a bar in nanoseconds.
    compiled : bool
        False runs plain Python on lists.
    """

    layout: GroupLayout
    interval_ns: int
    compiled: bool
    _pending: list[_Pending] = field(default_factory=list)
    _is_sorted: bool = True
    _advance: Callable[[int, Any, Any, Any, Any], None] = field(init=False)

    def __post_init__(self) -> None:
        self._advance = self._compiled_step() if self.compiled else self._plain_step()

    def put(self, ts_init: int, order: int, row: int, values: tuple[float, ...]) -> None:
        """Remember a record until the first bar that may know it.

        Parameters
        ----------
        ts_init : int
            When it became known, UTC nanoseconds.
        order, row : int
            Place of its input among `GroupLayout.inputs`, and the row of the state.
        values : (5,) tuple of float
            Its numbers; those an input does not use are NaN.
        """
        pending = self._pending
        if pending and self._is_sorted:
            before = pending[-1]
            if ts_init < before[0] or (ts_init == before[0] and order < before[1]):
                self._is_sorted = False
        pending.append((ts_init, order, row, values))

    def advance(self, slot: int, present: Any, bars: Any, rows: Any, valid: Any) -> None:
        """Take in the bars of a slot; write the group's columns of the warm rows."""
        self._advance(slot, present, bars, rows, valid)

    def _due(self, ts: int) -> list[_Pending]:
        """Return the records known by `ts` in the order of the batch; keep the later ones."""
        pending = self._pending
        if not self._is_sorted:
            pending.sort(key=_BY_TIME)  # stable, as in the batch
            self._is_sorted = True
        if not pending or pending[-1][0] <= ts:
            self._pending = []
            return pending
        late = bisect_right(pending, ts, key=_STAMP)
        self._pending = pending[late:]
        return pending[:late]

    def _plain_step(self) -> Callable[[int, Any, Any, Any, Any], None]:
        module, interval_ns = self.layout.use.module, self.interval_ns
        floats, ints = (array.tolist() for array in self.layout.state())
        settings, at = self.layout.settings.tolist(), list(range(self.layout.count))
        take = getattr(module, "take", driver.take_nothing)
        take_run = getattr(module, "take_run", None)

        def advance(slot: int, present: Any, bars: Any, rows: Any, valid: Any) -> None:
            if self._pending and take_run is not None:
                for row, (stamps, records) in _by_row(self._due(slot * interval_ns)).items():
                    columns = list(zip(*records, strict=True))
                    take_run(stamps, columns, 0, len(stamps), row, floats, ints, settings)
            elif self._pending:
                for ts, _, row, values in self._due(slot * interval_ns):
                    take(ts, row, values, floats, ints, settings)
            module.step(slot, interval_ns, present, bars, floats, ints, settings, rows, at, valid)

        return advance

    def _compiled_step(self) -> Callable[[int, Any, Any, Any, Any], None]:
        from research.kernel_cache import compiled_group

        run = compiled_group(self.layout.use.name)
        state, width = self.layout.state(), self.layout.count
        scratch = np.zeros(width, dtype=np.int64), np.zeros((width + 1, 5))
        ts_init = np.zeros(width, dtype=np.int64)
        first, cursors = np.arange(width), np.zeros((2, width), dtype=np.int64)
        # Each record is an input of its own: the loop takes them in the order of `_due`.
        no_cursors = np.zeros((2, 0), dtype=np.int64)
        nothing = (np.empty(0, np.int64), np.empty((VALUES, 0)), np.empty(0, np.int64))

        def advance(slot: int, present: Any, bars: Any, rows: Any, valid: Any) -> None:
            ts_init[:] = slot * self.interval_ns
            cursors[0] = first
            np.add(first, present, out=cursors[1])
            records, record_cursors = nothing, no_cursors
            if self._pending and (due := self._due(slot * self.interval_ns)):
                count = len(due)
                columns = chain.from_iterable(
                    zip(*[values for _, _, _, values in due], strict=True)
                )
                records = (
                    np.fromiter([ts for ts, _, _, _ in due], np.int64, count),
                    np.fromiter(columns, np.float64, VALUES * count).reshape(VALUES, count),
                    np.fromiter([row for _, _, row, _ in due], np.int64, count),
                )
                record_cursors = np.arange(count) + _BEGIN_AND_END
            run(
                1,
                self.interval_ns,
                (ts_init, bars),
                records,
                cursors,
                record_cursors,
                state,
                self.layout.settings,
                scratch,
                rows,
                valid,
            )

        return advance

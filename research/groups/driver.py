"""The one loop which runs any group of features over recorded bars or over a stream's next bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from research.kernels import NEVER, Row, Table, gather, passed


def take_nothing(ts: int, row: int, values: Row, floats: Table, ints: Table, settings: Row) -> None:
    """Stand in for the `take` of groups that listen to bars alone."""


def make_run(take: Callable[..., None], step: Callable[..., None]) -> Callable[..., int]:
    """Return the loop for one group; `take` and `step` are inlined when it is compiled."""

    def run(
        limit: int,
        interval_ns: int,
        feed: Any,
        records: Any,
        cursors: Table,
        next_record: Row,
        state: Any,
        settings: Row,
        scratch: Any,
        rows: Table,
        valid: Row,
    ) -> int:
        """Loop over up to `limit` timestamps of bars; return how many rows are done.

        Parameters
        ----------
        limit : int
            Most timestamps to take in this call.
        interval_ns : int
            Length of a bar in nanoseconds.
        feed : tuple of (n_rows,) int64 and (n_rows, 5) float64
            `ts_init` and the bars, instrument after instrument.
        records : tuple of (n,) int64, (n,) int64 and (n, 5) float64
            What is no bar, sorted by time: `ts_init`, row of the state, values.
        cursors : (2, n_instruments) int64
            Next row and end of each instrument's bars; changed in place.
        next_record : (1,) int64
            Next of `records`; changed in place.
        state : tuple
            The group's `floats` and `ints`.
        settings : (n_settings,) int64
            The group's own.
        scratch : tuple
            `present` and `bars` of the step.
        rows, valid : arrays
            Receive the group's columns; say which rows are warm. One row per bar.
        """
        ts_init, recorded = feed
        record_ts, record_row, record_values = records
        floats, ints = state
        present, bars = scratch
        done = 0
        for _ in range(limit):
            ts = gather(ts_init, recorded, cursors, present, bars)
            if ts == NEVER:
                break
            at = next_record[0]
            # What became known at the bar's own stamp counts.
            while at < len(record_ts) and record_ts[at] <= ts:
                take(record_ts[at], record_row[at], record_values[at], floats, ints, settings)
                at += 1
            next_record[0] = at
            slot = ts // interval_ns
            step(slot, interval_ns, present, bars, floats, ints, settings, rows, cursors[0], valid)
            done += passed(cursors, present)
        return done

    return run

"""The one loop which runs any group of features over recorded bars or over a stream's next bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from research.kernel_tools import NEVER, Row, Table
from research.kernels import gather, passed


def take_nothing(ts: int, row: int, values: Row, floats: Table, ints: Table, settings: Row) -> None:
    """Stand in for the `take` of groups that listen to bars alone."""


def take_no_run(
    record_ts: Row,
    record_columns: Table,
    first: int,
    end: int,
    row: int,
    floats: Table,
    ints: Table,
    settings: Row,
) -> None:
    """Stand in for the `take_run` of groups that take one record at a time."""


def known_end(record_ts: Row, first: int, end: int, ts: int) -> int:
    """Return the first of the records `first` to `end` that is later than `ts`, else `end`."""
    at = first
    while at < end and record_ts[at] <= ts:
        at += 1
    return at


def next_input(record_ts: Row, cursors: Table, ts: int) -> int:
    """Return the input with the earliest record known by `ts`, NEVER if there is none left.

    Of equal stamps the one of the first input comes first.
    """
    found: int = NEVER
    earliest = ts
    for source in range(len(cursors[0])):
        at = cursors[0][source]
        if at < cursors[1][source] and record_ts[at] <= earliest:
            # The first of equals is kept: what comes later must be earlier than it.
            found, earliest = source, record_ts[at] - 1
    return found


def make_run(
    take: Callable[..., None], take_run: Callable[..., None], step: Callable[..., None]
) -> Callable[..., int]:
    """Return the loop for one group; its functions are inlined when it is compiled.

    Parameters
    ----------
    take, take_run, step : callable
        See `research.groups.registry.Group`; one of the first two is `take_nothing` or
        `take_no_run`.
    """
    in_runs = take_run is not take_no_run

    def run(
        limit: int,
        interval_ns: int,
        feed: Any,
        records: Any,
        cursors: Table,
        record_cursors: Table,
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
        records : tuple of (n,) int64, (5, n) float64 and (n_inputs,) int64
            What is no bar: `ts_init` and columns, input after input and sorted by time within;
            the row of the state that each input belongs to.
        cursors : (2, n_instruments) int64
            Next row and end of each instrument's bars; changed in place.
        record_cursors : (2, n_inputs) int64
            Next of `records` and end for each input; changed in place.
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
        record_ts, record_columns, record_row = records
        floats, ints = state
        present, bars = scratch
        done = 0
        for _ in range(limit):
            ts = gather(ts_init, recorded, cursors, present, bars)
            if ts == NEVER:
                break
            # What became known at the bar's own stamp counts.
            if in_runs:
                for source in range(len(record_row)):
                    at, row = record_cursors[0][source], record_row[source]
                    end = known_end(record_ts, at, record_cursors[1][source], ts)
                    if end > at:
                        take_run(record_ts, record_columns, at, end, row, floats, ints, settings)
                        record_cursors[0][source] = end
            else:
                source = next_input(record_ts, record_cursors, ts)
                while source != NEVER:
                    at, row = record_cursors[0][source], record_row[source]
                    take(record_ts[at], row, record_columns[:, at], floats, ints, settings)
                    record_cursors[0][source] = at + 1
                    source = next_input(record_ts, record_cursors, ts)
            slot = ts // interval_ns
            step(slot, interval_ns, present, bars, floats, ints, settings, rows, cursors[0], valid)
            done += passed(cursors, present)
        return done

    return run

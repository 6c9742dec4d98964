"""Checks of imported columns that name the file, the line, the value and the rule.

The catalog checks batches at its own door; these checks run first, because only here the source's
own words are still at hand: its line numbers and the text as it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, format_time

type Mask = NDArray[np.bool_]
type FloatColumn = NDArray[np.float64]
type IntColumn = NDArray[np.int64]
type Texts = Sequence[str] | pa.Array

EARLIEST_NS = 1_230_768_000 * 10**9
"""2009-01-01: no record of a crypto market can be older; an older stamp is a wrong unit."""
MAX_FUNDING_RATE = 0.1
"""Exchanges cap a settlement at a few percent; more is a percentage or another column."""

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
_WHOLE_NUMBER = r"^-?(\d{1,18}|[1-8]\d{18})$"
_MOST_MICROSECONDS = (2**63 - 1) // 1_000 - 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows of a source are, for messages.

    Parameters
    ----------
    source : str
        Name of the file.
    lines : (n_rows,) int64 array
        Line (text) or row (table file) of each record, counted from 1.
    word : str
        What the numbers count: ``line`` or ``row``.
    """

    source: str
    lines: IntColumn
    word: str = "line"

    def __getitem__(self, rows: slice | Mask | IntColumn) -> Place:
        """Return the place of some of the rows."""
        return Place(self.source, self.lines[rows], self.word)

    def refuse(
        self, bad: Mask, rule: str, value: Callable[[int], object], advice: str = ""
    ) -> None:
        """Raise a DataError for the first bad row, if there is one.

        Parameters
        ----------
        bad : (n_rows,) bool array
            True where the rule is broken.
        rule : str
            Such as ``open must be above 0``.
        value : callable of int
            Returns what the row has instead.
        advice : str
            What to do.
        """
        count = int(np.count_nonzero(bad))
        if count == 0:
            return
        first = int(np.argmax(bad))
        more = f" (and {count - 1} more)" if count > 1 else ""
        tail = f"; {advice}" if advice else ""
        raise DataError(
            f"{self.source}, {self.word} {self.lines[first]}: {rule}, "
            f"was {value(first)}{more}{tail}"
        )


def numbers(place: Place, name: str, texts: Texts, *, empty: bool = False) -> FloatColumn:
    """Return texts as float64.

    Parameters
    ----------
    place : Place
        Where the texts are.
    name : str
        Name of the column.
    texts : (n_rows,) sequence of str or Arrow array
        Numbers as written.
    empty : bool
        Whether an empty field is allowed; it becomes NaN.

    Raises
    ------
    DataError
        If a text is not a finite number.
    """
    trimmed = _trimmed(texts)
    is_number = pc.match_substring_regex(trimmed, _NUMBER)
    filled = pc.if_else(is_number, trimmed, None).cast(pa.float64()).fill_null(np.nan)
    values = np.array(filled, dtype=np.float64)
    bad = ~np.isfinite(values)
    if empty:
        bad &= np.array(pc.not_equal(trimmed, ""), dtype=np.bool_)
    place.refuse(bad, f"{name} must be a finite number", _quoted(texts))
    return values


def whole_numbers(place: Place, name: str, texts: Texts) -> IntColumn:
    """Return texts as int64, exactly (a float would lose digits of a nanosecond stamp).

    Raises
    ------
    DataError
        If a text is not a whole number, or one that 64 bits cannot hold.
    """
    trimmed = _trimmed(texts)
    is_whole = pc.match_substring_regex(trimmed, _WHOLE_NUMBER)
    bad = np.array(pc.invert(is_whole), dtype=np.bool_)
    place.refuse(bad, f"{name} must be a whole number", _quoted(texts))
    return np.array(trimmed.cast(pa.int64()), dtype=np.int64)


def times(place: Place, name: str, texts: Texts, format_: str = "ISO8601") -> IntColumn:
    """Return written times as UTC nanoseconds; a time that names no zone is UTC.

    Raises
    ------
    DataError
        If a text is not a time in the given format (strptime, or ``ISO8601``).
    """
    # Imported where written times are read: a live engine need not wait for it at its start.
    import pandas as pd

    try:
        written = pd.Series(strings(texts), dtype=object)
        parsed = pd.to_datetime(written, format=format_, utc=True, errors="coerce")
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{place.source}: {name} must be times of the form {format_}, was {_quoted(texts)(0)} "
            f"({error})"
        ) from error
    index = pd.DatetimeIndex(parsed)
    # Pandas reads years that nanoseconds since 1970 in 64 bits cannot hold.
    micros = index.as_unit("us").asi8
    bad = np.asarray(index.isna() | (np.abs(micros) > _MOST_MICROSECONDS))
    example = "an ISO 8601 time such as 2024-01-31 00:15:00" if format_ == "ISO8601" else format_
    place.refuse(bad, f"{name} must be {example}", _quoted(texts))
    return np.asarray(index.as_unit("ns").asi8, dtype=np.int64)


def shown(
    column: FloatColumn, relation: str = "", other: FloatColumn | None = None
) -> Callable[[int], str]:
    """Return a function that prints a row's value, or two values and how they stand."""
    if other is None:
        return lambda row: f"{column[row]:g}"
    return lambda row: f"{column[row]} {relation} {other[row]}"


def known_by_now(ts_init: IntColumn, ts_event: IntColumn, now_ns: int) -> IntColumn:
    """Return assumed times of knowledge, none of them later than now: who has it knows it.

    Parameters
    ----------
    ts_init, ts_event : (n_rows,) int64 array
        When each record is assumed to be known and when it happened, UTC nanoseconds.
    now_ns : int
        The clock, UTC nanoseconds.
    """
    return np.where(ts_init > now_ns, np.maximum(np.int64(now_ns), ts_event), ts_init)


def check_times(place: Place, ts_event: IntColumn, now_ns: int, what: str) -> None:
    """Refuse stamps before 2009 (a wrong unit) or after the clock.

    Parameters
    ----------
    place : Place
        Where the rows are.
    ts_event : (n_rows,) int64 array
        The times, UTC nanoseconds.
    now_ns : int
        The clock, UTC nanoseconds.
    what : str
        What the time is, such as ``the close of a candle``.
    """
    place.refuse(
        ts_event < EARLIEST_NS,
        f"{what} must be after 2009-01-01",
        lambda row: _time(ts_event[row]),
        "is the unit of the stamps another one?",
    )
    place.refuse(
        ts_event > now_ns,
        f"{what} must not lie in the future (it is {_time(now_ns)} now)",
        lambda row: _time(ts_event[row]),
        "drop the unfinished rows or set the clock",
    )


def check_ascending(place: Place, stamps: IntColumn, what: str) -> None:
    """Refuse rows that are not strictly ascending in time: duplicated or shuffled ones."""
    steps = np.diff(stamps)
    repeated = np.concatenate(([False], steps == 0))
    place.refuse(
        repeated,
        f"{what} must come once",
        lambda row: f"{_time(stamps[row])} again, as {place.word} {place.lines[row - 1]}",
        "remove the duplicated rows",
    )
    backwards = np.concatenate(([False], steps < 0))
    place.refuse(
        backwards,
        f"{what} must be in time order",
        lambda row: (
            f"{_time(stamps[row])} after {_time(stamps[row - 1])} "
            f"on {place.word} {place.lines[row - 1]}"
        ),
        "sort the file by time and look for duplicates",
    )


def check_candles(
    place: Place, open_ns: IntColumn, prices: Mapping[str, FloatColumn], interval: int
) -> None:
    """Refuse candles that cannot be: off the grid, not positive, or with crossed extremes.

    Parameters
    ----------
    place : Place
        Where the rows are.
    open_ns : (n_rows,) int64 array
        When each candle opens, UTC nanoseconds.
    prices : mapping
        Columns `open`, `high`, `low`, `close` (quote units) and `volume` (base units).
    interval : int
        Length of a candle in nanoseconds.
    """
    place.refuse(
        open_ns % interval != 0,
        f"a candle must open on a multiple of its interval ({_length(interval)})",
        lambda row: _time(open_ns[row]),
        "the interval in the name is another one than the candles'",
    )
    for name in ("open", "high", "low", "close"):
        column = prices[name]
        place.refuse(~np.isfinite(column), f"{name} must be a number", lambda row: "empty")
        place.refuse(column <= 0.0, f"{name} must be above 0", shown(column))
    volume = prices["volume"]
    place.refuse(
        ~(np.isfinite(volume) & (volume >= 0.0)), "volume must be 0 or more", shown(volume)
    )
    check_extremes(place, prices)


def check_extremes(place: Place, prices: Mapping[str, FloatColumn]) -> None:
    """Refuse rows whose high is not the highest or whose low is not the lowest."""
    high, low = prices["high"], prices["low"]
    place.refuse(high < low, "high must not be below low", shown(high, "<", low))
    for name in ("open", "close"):
        column = prices[name]
        place.refuse(column > high, f"high must not be below {name}", shown(high, "<", column))
        place.refuse(column < low, f"low must not be above {name}", shown(low, ">", column))


def check_funding(place: Place, rate: FloatColumn) -> None:
    """Refuse settlement rates that are no fractions of the notional."""
    place.refuse(
        ~(np.abs(rate) <= MAX_FUNDING_RATE),
        f"a funding rate must be a fraction between -{MAX_FUNDING_RATE} and {MAX_FUNDING_RATE}",
        shown(rate),
        "percentages must be divided by 100",
    )


def check_spacing(place: Place, open_ns: IntColumn, interval: int) -> None:
    """Refuse candles that all lie further apart than their interval: its name is wrong."""
    if len(open_ns) < 2:
        return
    smallest = int(np.abs(np.diff(open_ns)).min())
    if smallest > interval:
        raise DataError(
            f"{place.source}: candles of {_length(interval)} must lie that far apart, was "
            f"{_length(smallest)} everywhere; the interval in the name is another one than "
            "the candles'"
        )


def require_rows(source: str, count: int) -> None:
    """Refuse a file that has columns but no rows."""
    if count == 0:
        raise DataError(f"{source}: must hold at least one record, held none")


def require_columns(source: str, present: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a file that lacks a column."""
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataError(
            f"{source}: must have the columns {', '.join(wanted)}; "
            f"missing: {', '.join(missing)}, present: {', '.join(present)}"
        )


def strings(texts: Texts) -> list[str]:
    """Return texts as a list of str."""
    return texts.to_pylist() if isinstance(texts, pa.Array) else list(texts)


def _trimmed(texts: Texts) -> pa.Array:
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    return pc.utf8_trim_whitespace(array)


def _quoted(texts: Texts) -> Callable[[int], str]:
    if isinstance(texts, pa.Array):
        return lambda row: repr(texts[row].as_py())
    return lambda row: repr(texts[row])


def _time(ts: int | np.int64) -> str:
    return format_time(int(ts)) + " UTC"


def _length(length_ns: int) -> str:
    if length_ns % NS_PER_DAY == 0:
        return f"{length_ns // NS_PER_DAY}d"
    minutes, rest = divmod(length_ns, 60 * 10**9)
    return f"{minutes}m" if rest == 0 else f"{length_ns / 1e9:g}s"

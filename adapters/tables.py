"""Typed columns out of a feather or Parquet table, checked row by row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from adapters import checks
from adapters.checks import FloatColumn, IntColumn, Place
from catalog.errors import DataError


def rows_of(source: str, table: pa.Table) -> Place:
    """Return the place of a table's rows, counted from 1."""
    return Place(source, np.arange(1, len(table) + 1, dtype=np.int64), "row")


def times_of(place: Place, table: pa.Table, name: str) -> IntColumn:
    """Return a column of times as UTC nanoseconds; a time that names no zone is UTC.

    Raises
    ------
    DataError
        If the column is none of times, a row is empty, or a time cannot be held.
    """
    column = table.column(name)
    if not is_time(column.type) or column.null_count:
        raise DataError(
            f"{place.source}: {name} must be a time on every row, was {column.type} with "
            f"{column.null_count} empty"
        )
    zone = getattr(column.type, "tz", None)
    try:
        stamps = column.cast(pa.timestamp("ns", tz=zone)).cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{place.source}: {name} must be times between 1678 and 2261, was not: {error}"
        ) from error
    return np.array(stamps.to_numpy(), dtype=np.int64)


def numbers_of(place: Place, table: pa.Table, name: str) -> FloatColumn:
    """Return a column of numbers as float64, NaN where it is empty; texts must be numbers.

    Raises
    ------
    DataError
        If a text is not a finite number.
    """
    column = table.column(name)
    if is_number(column.type):
        numbers = column.cast(pa.float64(), safe=False).fill_null(np.nan)
        return np.array(numbers.to_numpy(), dtype=np.float64)
    return checks.numbers(place, name, texts_of(place, table, name))


def texts_of(place: Place, table: pa.Table, name: str) -> tuple[str, ...]:
    """Return a column as texts, empty where it has no value."""
    try:
        values = table.column(name).to_pylist()
    except (UnicodeDecodeError, ValueError, OverflowError) as error:
        raise DataError(f"{place.source}: {name} must be readable, was damaged: {error}") from error
    return tuple("" if value is None else str(value) for value in values)


def is_time(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds times or dates."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds integers or floats."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))

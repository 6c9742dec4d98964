"""A ring of the last records of a slow series, and what groups read from it.

One row of a group's state holds one series: in `ints` the number of the last record at `LAST` and
the stamps from `STAMPS` on, in `floats` the values from `VALUES` on and a second number of each
record from `EXTRAS` on. All that is read lies within a span of time before the last record, so
that a ring which began to listen that long ago reads the same as one that always did.
"""

from __future__ import annotations

import math

from research.kernel_tools import NEVER, Row
from research.kernels import NAN

SIZE = 512
"""Records that are kept: what is further back does not exist, however short the time."""
MASK = SIZE - 1

# Behind the three ints that every group has; see `research.kernels`.
LAST = 3
STAMPS = 8
RING_INTS = STAMPS + SIZE

VALUES = 16
EXTRAS = VALUES + SIZE
RING_FLOATS = EXTRAS + SIZE


def append(f: Row, k: Row, ts: int, value: float, extra: float) -> None:
    """Put a record behind the last one."""
    k[LAST] += 1
    at = k[LAST] & MASK
    k[STAMPS + at] = ts
    f[VALUES + at] = value
    f[EXTRAS + at] = extra


def last_stamp(k: Row) -> int:
    """Return when the last record became known, NEVER if there is none."""
    if k[LAST] == NEVER:
        return NEVER
    stamp: int = k[STAMPS + (k[LAST] & MASK)]
    return stamp


def last_value(f: Row, k: Row) -> float:
    """Return the value of the last record, which there must be."""
    value: float = f[VALUES + (k[LAST] & MASK)]
    return value


def known_before(k: Row, span: int, slack: int) -> int:
    """Return the place of the newest record that is at least `span` older than the last.

    NEVER if there is none, or if it is older still by more than `slack` (nanoseconds both).
    """
    latest = last_stamp(k) - span
    oldest = max(k[LAST] - MASK, 0)
    for number in range(k[LAST] - 1, oldest - 1, -1):
        stamp = k[STAMPS + (number & MASK)]
        if stamp <= latest:
            place: int = number & MASK
            return place if stamp >= latest - slack else NEVER
    return NEVER


def change(f: Row, k: Row, span: int, slack: int) -> float:
    """Return the last value less what was known `span` before it; see `known_before`."""
    place = known_before(k, span, slack)
    return last_value(f, k) - f[VALUES + place] if place != NEVER else NAN


def count_since(k: Row, span: int) -> int:
    """Return how many records became known within `span` up to the last, itself included."""
    first = last_stamp(k) - span
    oldest = max(k[LAST] - MASK, 0)
    count = 0
    for number in range(k[LAST], oldest - 1, -1):
        if k[STAMPS + (number & MASK)] <= first:
            break
        count += 1
    return count


def mean(f: Row, k: Row, column: int, count: int) -> float:
    """Return the mean of the last `count` numbers of a column (`VALUES` or `EXTRAS`)."""
    # From the last one back: where the ring began must not decide the order of additions.
    total = 0.0
    for back in range(count):
        total += f[column + ((k[LAST] - back) & MASK)]
    return total / count


def zscore(f: Row, k: Row, column: int, count: int) -> float:
    """Return the last number of a column in standard deviations from the mean of `count`."""
    now = f[column + (k[LAST] & MASK)]
    total = 0.0
    squares = 0.0
    for back in range(count):
        # Differences from the last one are exactly zero where nothing moved.
        difference = f[column + ((k[LAST] - back) & MASK)] - now
        total += difference
        squares += difference * difference
    average = total / count
    variance = squares / count - average * average
    return -average / math.sqrt(variance) if variance > 0.0 else NAN


def log_or_nan(value: float) -> float:
    """Return the logarithm, NaN where there is none."""
    return math.log(value) if value > 0.0 else NAN


HELPERS = (
    *(append, last_stamp, last_value, known_before, change, count_since, mean, zscore),
    log_or_nan,
)
"""What groups that keep rings call; to be listed among their own."""

"""Times and intervals: parsing what people write, printing what they read."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

from catalog.errors import ConfigError

NS_PER_SECOND = 1_000_000_000
NS_PER_MINUTE = 60 * NS_PER_SECOND
NS_PER_HOUR = 60 * NS_PER_MINUTE
NS_PER_DAY = 24 * NS_PER_HOUR
DAYS_PER_YEAR = 365
"""Crypto trades every day: everything is annualised with 365 days."""

_INTERVAL = re.compile(r"^(\d+)(m|h|d)$")
_UNIT_NS = {"m": NS_PER_MINUTE, "h": NS_PER_HOUR, "d": NS_PER_DAY}
INTERVALS = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d")
"""The bar intervals that LeviBot accepts."""


def interval_ns(interval: str) -> int:
    """Return the length of an interval such as ``15m`` in nanoseconds.

    Raises
    ------
    ConfigError
        If the interval is not one of `INTERVALS`.
    """
    match = _INTERVAL.match(interval)
    if match is None or interval not in INTERVALS:
        raise ConfigError(f"interval must be one of {', '.join(INTERVALS)}, was {interval!r}")
    return int(match.group(1)) * _UNIT_NS[match.group(2)]


def interval_name(length_ns: int) -> str:
    """Return the name of an interval (``15m``) from its length in nanoseconds."""
    for name in INTERVALS:
        if interval_ns(name) == length_ns:
            return name
    raise ConfigError(f"no interval is {length_ns} ns long; known are {', '.join(INTERVALS)}")


def parse_time(value: str | date | datetime | int) -> int:
    """Return UTC nanoseconds for a date, an ISO 8601 time (UTC if it names no zone) or nanoseconds.

    Raises
    ------
    ConfigError
        If the text is not a date or time.
    """
    if isinstance(value, int):
        return value
    if isinstance(value, date) and not isinstance(value, datetime):
        value = value.isoformat()
    if isinstance(value, str):
        try:
            # `2023-01` is how people name a month.
            text = f"{value}-01" if re.fullmatch(r"\d{4}-\d{2}", value) else value
            value = datetime.fromisoformat(text)
        except ValueError:
            raise ConfigError(
                f"time must be a date (2024-01-31) or an ISO 8601 time, was {value!r}"
            ) from None
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    delta = value - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * NS_PER_SECOND + delta.microseconds * 1_000


def format_time(ts: int) -> str:
    """Return UTC nanoseconds as ``2024-01-31 00:15:00`` (sub-seconds only where there are any)."""
    seconds, rest = divmod(ts, NS_PER_SECOND)
    text = datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{rest:09d}".rstrip("0") if rest else text

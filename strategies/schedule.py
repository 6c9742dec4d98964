"""When something regular is due: cron expressions in UTC, as pure functions of a time.

Five fields, ``minute hour day-of-month month day-of-week``, as cron reads them since Vixie (1987):
where both days are restricted, either one suffices. Weekdays are 0 to 7 (0 and 7 are Sunday) or
``SUN`` to ``SAT``. The default of the policy file, ``0 2 * * MON``, is Monday 02:00 UTC.

Refused although `croniter` reads them: fields of seconds and years (a decision is made at most
once per bar), aliases such as ``@weekly``, and the random and hashed fields ``R`` and ``H``, which
would make a replay depend on chance.
"""

from __future__ import annotations

import re
from functools import lru_cache

from croniter import CroniterError, croniter

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_SECOND

MONDAY_MORNING = "0 2 * * MON"
"""Monday 02:00 UTC."""

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
# L is the last day of a month.
_NAMES = frozenset((*_MONTHS, *_WEEKDAYS, "L"))
_WORDS = re.compile(r"[^\W\d_]+")


def check_schedule(text: str) -> str:
    """Return a schedule as it is stored: five fields, one blank between them, names in capitals.

    Raises
    ------
    ConfigError
        If it is no cron expression of five fields, or one that never comes true.
    """
    fields = text.upper().split()
    if len(fields) != 5 or not set(_WORDS.findall(text.upper())) <= _NAMES:
        raise _refused(text)
    schedule = " ".join(fields)
    if not croniter.is_valid(schedule, strict=True):
        raise _refused(text)
    # Only the search finds out that some never come true, such as a 29th that is a first Monday.
    next_time(schedule, 0)
    return schedule


@lru_cache(maxsize=256)
def next_time(text: str, after_ns: int) -> int:
    """Return the first time of a schedule strictly after `after_ns`, in UTC nanoseconds.

    Cached: it is asked at every bar for the same two arguments.

    Parameters
    ----------
    text : str
        As `check_schedule` returns it.
    after_ns : int
        UTC nanoseconds.

    Raises
    ------
    ConfigError
        If the text is no schedule.
    """
    # Whole seconds: a float holds them exactly, and the times of a schedule are whole minutes.
    seconds = after_ns // NS_PER_SECOND
    try:
        following: float = croniter(text, float(seconds)).get_next(float)
    except CroniterError as error:
        raise _refused(text) from error
    return round(following) * NS_PER_SECOND


def is_due(text: str, ts_ns: int, last_ns: int) -> bool:
    """Return whether the schedule has come true in ``(last_ns, ts_ns]``.

    Several times missed (the system was down) are one that is due; a clock that stands still or
    has jumped back is due for nothing.

    Parameters
    ----------
    text : str
        As `check_schedule` returns it.
    ts_ns : int
        Now, UTC nanoseconds.
    last_ns : int
        When it was last acted upon, or the start of the run where it never was.
    """
    return next_time(text, last_ns) <= ts_ns


def _refused(text: str) -> ConfigError:
    return ConfigError(
        "schedule must be a cron expression of five fields that comes true (minute hour "
        f"day-of-month month day-of-week, in UTC), was {text!r}; write such as '{MONDAY_MORNING}'"
    )

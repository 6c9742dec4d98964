"""Schedules against a literal reading of cron, minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY, NS_PER_MINUTE, NS_PER_SECOND, parse_time
from strategies.schedule import MONDAY_MORNING, check_schedule, is_due, next_time

TIMES = st.integers(parse_time("2019-01-01"), parse_time("2031-01-01"))


def literal_next(minute: int, hour: int, weekday: int, after_ns: int) -> int:
    """Step through minutes; weekdays as cron counts them (Sunday 0)."""
    start = datetime.fromtimestamp(after_ns // NS_PER_SECOND, UTC)
    at = start.replace(second=0) + timedelta(minutes=1)
    while (at.minute, at.hour, at.isoweekday() % 7) != (minute, hour, weekday):
        at += timedelta(minutes=1)
    return int(at.timestamp()) * NS_PER_SECOND


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 59), st.integers(0, 23), st.integers(0, 6), TIMES)
def test_weekly_times_are_those_of_a_literal_search(
    minute: int, hour: int, weekday: int, after_ns: int
) -> None:
    schedule = check_schedule(f"{minute} {hour} * * {weekday}")
    assert next_time(schedule, after_ns) == literal_next(minute, hour, weekday, after_ns)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([MONDAY_MORNING, "*/7 * * * *", "0 0 29 2 *", "0 2 1 * MON"]), TIMES)
def test_the_next_time_is_strictly_later_and_nothing_lies_between(
    schedule: str, after_ns: int
) -> None:
    following = next_time(schedule, after_ns)
    assert following > after_ns
    assert following % NS_PER_MINUTE == 0
    # Asked a nanosecond before, it is the same; at the time itself, a later one.
    assert next_time(schedule, following - 1) == following
    assert next_time(schedule, following) > following


def test_monday_at_two() -> None:
    monday = parse_time("2024-01-08T02:00:00")
    assert next_time(MONDAY_MORNING, parse_time("2024-01-01T02:00:00")) == monday
    assert next_time(MONDAY_MORNING, monday - 1) == monday


def test_either_day_suffices_where_both_are_given() -> None:
    first = next_time("0 2 1 * MON", parse_time("2024-01-29T02:00:00"))
    assert first == parse_time("2024-02-01T02:00:00")  # a Thursday


def test_text_is_normalised() -> None:
    assert check_schedule("  0  2 * *   mon ") == MONDAY_MORNING


@pytest.mark.parametrize(
    "text",
    [
        "",
        "monday at two",
        "0 2 * *",
        "0 25 * * *",
        "60 2 * * 1",
        "0 2 * * 8",
        "0 2 * * MONDAY",
        "0 2 31 2 *",
        "0 2 29 2 MON#1",
        "*/0 * * * *",
        "* * * * * *",
        "@weekly",
        "R R * * *",
        "R(0-5) 2 * * *",
        "H H * * *",
        "0 2 * * 1; rm",
    ],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be a cron expression of five fields"):
        check_schedule(text)


def test_an_unchecked_text_is_refused_by_next_time_too() -> None:
    with pytest.raises(ConfigError, match="was '0 2'"):
        next_time("0 2", 0)


def test_due_is_a_half_open_span() -> None:
    monday = parse_time("2024-01-08T02:00:00")
    assert is_due(MONDAY_MORNING, monday, monday - 1)
    assert not is_due(MONDAY_MORNING, monday - 1, monday - NS_PER_DAY)
    assert not is_due(MONDAY_MORNING, monday + NS_PER_DAY, monday)


def test_missed_times_are_due_once() -> None:
    monday = parse_time("2024-01-08T02:00:00")
    now = monday + 30 * NS_PER_DAY
    assert is_due(MONDAY_MORNING, now, monday)
    assert not is_due(MONDAY_MORNING, now + NS_PER_DAY, now)


def test_a_clock_that_jumps_back_is_due_for_nothing() -> None:
    monday = parse_time("2024-01-08T02:00:00")
    assert not is_due("* * * * *", monday - NS_PER_DAY, monday)
    assert not is_due("* * * * *", monday, monday)

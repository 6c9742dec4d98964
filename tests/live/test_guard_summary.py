"""A run's summary says that the risk guard ended trading, and whether anything followed."""

from __future__ import annotations

from typing import Any

from catalog.timestamps import NS_PER_DAY
from live.guard_summary import guard_lines, guard_metrics
from strategies.recorder import GUARD_COLUMNS, frame_of
from strategies.risk_policy import RiskPolicy

DAY = 19_723 * NS_PER_DAY  # 2024-01-01
POLICY = RiskPolicy()


def found(*events: tuple[int, str, str]) -> dict[str, Any]:
    rows = [
        (DAY + day * NS_PER_DAY, kind, "halted", reason, "made up") for day, kind, reason in events
    ]
    return guard_metrics(frame_of(rows, GUARD_COLUMNS), POLICY, ("BTCUSDT-PERP.BINANCE",))


def test_without_a_hold_nothing_is_said() -> None:
    assert found() == {"holds": {}, "waits_since": None, "idle_groups": []}
    assert guard_lines(found()) == guard_lines(None) == []


def test_days_that_ended_early_are_counted_by_reason() -> None:
    days = found(
        (0, "hold", "daily_loss"),
        (0, "flat", "daily_loss"),
        (1, "release", "daily_loss"),
        (1, "hold", "stale_data"),
        (2, "release", "stale_data"),
        (2, "hold", "daily_loss"),
    )
    assert guard_lines(days) == ["", "the risk guard ended trading: daily_loss 2, stale_data 1"]


def test_what_only_a_person_releases_is_told_with_its_day() -> None:
    ended = found((0, "hold", "daily_loss"), (1, "release", "daily_loss"), (3, "hold", "drawdown"))
    assert guard_lines(ended)[1].endswith(
        "drawdown 1; since 2024-01-04 00:00:00 it waits for a person, and nothing is traded"
    )


def test_a_person_who_released_is_not_waited_for() -> None:
    assert found((3, "hold", "drawdown"), (4, "release", "drawdown"))["waits_since"] is None


def test_a_group_that_limits_nothing_is_told() -> None:
    names = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")
    groups = {"majors": names, "typo": ("BTCUSDT-PERP.BINANCE", "ETHUSD-PERP.BINANCE")}
    policy = RiskPolicy(correlation_groups=groups)
    idle = guard_metrics(frame_of([], GUARD_COLUMNS), policy, names)
    assert idle["idle_groups"] == ["typo"]
    assert guard_lines(idle)[1].endswith("fewer than two members are traded: typo")

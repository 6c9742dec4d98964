"""What a soak draws and demands; `make soak` runs one, and `make test-all` ends with one."""

from __future__ import annotations

from typing import Any

import pytest

from live.engine_status import EngineCounters, EngineStatus, GuardLevel
from tests.soak.chaos import ChaosPlan
from tests.soak.fleet import TruthTail, Watched
from tests.soak.run import SoakConfig, SoakReport, failures

FIGURES: dict[str, Any] = {
    "slowest_recovery_s": 5.0,
    "slowest_recovery_mishap_s": 12.0,
    "longest_without_stop_s": 0.1,
    "longest_without_stop_mishap_s": 6.0,
    "uptime": 0.995,
    "given_up": [],
    "held": {},
    "supervisor_exit": 0,
}


def test_the_same_seed_is_the_same_soak() -> None:
    plan = ChaosPlan(seconds=600.0, engines=("AAA", "BBB"), seed=4)
    found = plan.mishaps()
    assert found == plan.mishaps()
    assert found != ChaosPlan(seconds=600.0, engines=("AAA", "BBB"), seed=5).mishaps()
    assert len({one.name for one in found}) == 15
    assert [one.at for one in found] == sorted(one.at for one in found)


def report(*idle: float, **figures: Any) -> SoakReport:
    engines = {
        str(number): {"recoveries_s": [] if number else [5.0], "idle_s": one}
        for number, one in enumerate(idle or (8.0,))
    }
    mishaps = [{"name": "SIGKILL"}]
    return SoakReport(SoakConfig(), {**FIGURES, **figures}, engines, mishaps)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            report(300.0, 8.0, 200.0),
            "half of the engines must trade in the last 120 s, last did 8, 200, 300 s before",
        ),
        (report(held={"AAA": "rejected_orders"}), "held must be {}, was {'AAA': 'rejected_orders"),
        (report(given_up=["AAA"]), "given_up must be [], was ['AAA']"),
        (report(uptime=0.9), "uptime must be at least 99.0%, was 90.00%"),
        (report(slowest_recovery_s=12.0), "slowest_recovery_s must be at most 10, was 12.00"),
        (
            report(slowest_recovery_mishap_s=42.2),
            "slowest_recovery_mishap_s must be at most 15, was 42.20",
        ),
    ],
)
def test_engines_must_do_more_than_live(found: SoakReport, words: str) -> None:
    assert failures(report()) == failures(report(300.0, 8.0, 9.0)) == []
    (told,) = failures(found)
    assert told.startswith(words)


def test_an_engine_that_is_halted_is_not_up() -> None:
    one = Watched()
    one.take(EngineStatus(pid=1, state="trading", counters=EngineCounters(bars=1)), 0.0)
    one.count(1.0, 0.0, outage=False)
    assert (one.up_s, one.down_s, one.held) == (1.0, 0.0, "")
    guard = GuardLevel("halted", ("rejected_orders",))
    halted = EngineStatus(pid=1, state="halted", guard=guard, counters=EngineCounters(bars=1))
    one.take(halted, 0.0)
    for outage in (True, False):
        one.count(1.0, 0.0, outage=outage)
    assert (one.up_s, one.excused_s, one.down_s, one.held) == (1.0, 0.0, 2.0, "rejected_orders")


def test_when_each_symbol_was_traded_last(tmp_path: Any) -> None:
    def event(symbol: str, what: str) -> dict[str, Any]:
        return {"events": [{"e": "ORDER_TRADE_UPDATE", "o": {"s": symbol, "x": what}}]}

    lines = [(1.0, event("AAA", "TRADE")), (2.0, event("BBB", "TRADE"))]
    lines += [(3.0, event("AAA", "TRADE")), (4.0, event("BBB", "NEW")), (5.0, {"note": {}})]
    assert TruthTail(tmp_path, lines).last_trades() == {"AAA": 3.0, "BBB": 2.0}

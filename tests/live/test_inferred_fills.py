"""A fill that the engine has made up is not booked: what was really traded is asked for."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.accounts import AccountState
from live import account_watch
from live.account_watch import AccountWatch
from strategies.callbacks import event_time, is_inferred
from strategies.order_reports import OrderReport, TradeReport

DAY = 86_400_000_000_000


@pytest.mark.parametrize(
    ("reconciliation", "trade_id", "inferred"),
    [
        (True, "fd56d02d-0c56-5acc-a8ce-837e05034b18", True),
        # The exchange's own, told late.
        (True, "1000493", False),
        (False, "1000493", False),
    ],
)
def test_made_up_fills_are_known_by_their_names(
    reconciliation: bool, trade_id: str, inferred: bool
) -> None:
    assert is_inferred(SimpleNamespace(reconciliation=reconciliation, trade_id=trade_id)) is (
        inferred
    )


def test_the_engines_own_stamps_do_not_count_in_recorded_data() -> None:
    event: Any = SimpleNamespace(ts_event=20_000 * DAY)
    assert event_time(event, None) == 20_000 * DAY
    assert event_time(event, lambda: 20_000 * DAY - 5) == 20_000 * DAY
    assert event_time(event, lambda: 19_000 * DAY) == 19_000 * DAY


def test_the_account_is_asked_until_it_tells_the_trades(monkeypatch: pytest.MonkeyPatch) -> None:
    trades = (TradeReport("7", 1, 0.5, 100.0, 0.02),)
    answers = [(), (), trades]
    booked: list[OrderReport] = []
    row = SimpleNamespace(instrument_id="X", status="SUBMITTED")

    def book(report: OrderReport) -> None:
        booked.append(report)
        row.status = report.status

    strategy = SimpleNamespace(
        alive=list,
        inferred=None,
        unanswered=set(),
        cache=SimpleNamespace(order=lambda name: None),
        recovered=book,
        protection=SimpleNamespace(wanted=set),
    )
    parts: Any = SimpleNamespace(
        store=SimpleNamespace(read=lambda section: None),
        recorder=SimpleNamespace(fills=[], orders={"A": row}),
        strategy=strategy,
        prepared=SimpleNamespace(policy=SimpleNamespace(exit_rules=None)),
        request=SimpleNamespace(traded=()),
    )
    account: Any = SimpleNamespace(
        state=lambda instruments: AccountState(1.0, (), ()),
        lookup=lambda name, instrument: name,
    )
    monkeypatch.setattr(
        account_watch, "report_of", lambda _, name: OrderReport(name, "FILLED", answers.pop(0))
    )
    monkeypatch.setattr(account_watch, "differences", lambda *_: ())
    watch = AccountWatch(parts, account, lambda: 0, SimpleNamespace(event=print))
    assert strategy.inferred == set()
    strategy.inferred.add("A")
    watch.start()
    began = time.monotonic()
    try:
        while not booked and time.monotonic() < began + 10.0:
            watch.look(0)
            time.sleep(0.02)
    finally:
        watch.close()
    assert [one.trades for one in booked] == [trades]
    assert strategy.inferred == set()
    # Not with the next regular question, which comes after 15 s.
    assert time.monotonic() - began < 6.0

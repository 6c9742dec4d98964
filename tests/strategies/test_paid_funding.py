"""Settlements are paid for what was held at their time, whenever the news of them come."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.timestamps import NS_PER_HOUR
from strategies.execution import BUY, SELL
from strategies.ledger import Ledger, LedgerFill
from strategies.paid_funding import PaidFunding
from strategies.recorder import FillRow
from strategies.snapshots import FundingSnapshot, LedgerSnapshot

NAME = "A"
HOUR = NS_PER_HOUR


class Books:
    """A ledger and what was paid, which can be carried to another process."""

    def __init__(self) -> None:
        self.ledger = Ledger(10_000.0)
        self.paid = PaidFunding(self.ledger)

    def fill(self, ts: int, quantity: float, price: float = 100.0) -> None:
        side = BUY if quantity > 0.0 else SELL
        row = FillRow(ts, "x", NAME, side, abs(quantity), price, 0.0, "enter_long")
        self.ledger.apply_fill(LedgerFill(ts, NAME, side, abs(quantity), price, 0.0, ""))
        self.paid.moved(row)

    def settle(self, ts: int, rate: float, price: float = 100.0) -> None:
        self.ledger.mark(NAME, price)
        self.paid.settle(NAME, rate, ts)

    def restarted(self) -> Books:
        found = Books()
        found.ledger.restore(self.ledger.snapshot())
        found.paid.restore(self.paid.snapshot())
        return found


def test_what_was_closed_before_the_news_came_is_paid() -> None:
    books = Books()
    books.fill(1 * HOUR, 2.0)
    # A stop fills a quarter of an hour after the settlement, of which the history tells later.
    books.fill(8 * HOUR + HOUR // 4, -2.0)
    books.settle(8 * HOUR, 0.001)
    assert books.ledger.cash == 10_000.0 - 0.2
    assert books.ledger.closed[0].funding == -0.2
    assert [row.payment for row in books.ledger.settlements] == [-0.2]


def test_what_was_opened_or_enlarged_after_it_pays_nothing_for_that() -> None:
    books = Books()
    books.fill(9 * HOUR, 2.0)
    books.settle(8 * HOUR, 0.001)
    assert books.ledger.cash == 10_000.0
    assert books.ledger.settlements == []
    books.fill(17 * HOUR, 1.0)
    books.settle(16 * HOUR, 0.001)
    assert books.ledger.cash == 10_000.0 - 0.2


def test_a_trade_that_is_told_late_changes_what_was_paid() -> None:
    books = Books()
    books.settle(8 * HOUR, 0.001)
    books.fill(8 * HOUR - 1, -3.0)
    assert books.ledger.cash == 10_000.0 + 0.3
    assert books.ledger.positions[NAME].funding == 0.3
    books.fill(8 * HOUR, 3.0)
    assert books.ledger.cash == 10_000.0


def test_another_rate_than_was_expected_is_booked_once() -> None:
    books = Books()
    books.fill(HOUR, 2.0)
    books.settle(8 * HOUR, 0.001)
    books = books.restarted()
    assert not books.paid.correct(NAME, 0.001, 8 * HOUR)
    assert books.paid.correct(NAME, -0.002, 8 * HOUR)
    assert not books.paid.correct(NAME, -0.002, 8 * HOUR)
    assert not books.paid.correct(NAME, 0.5, 16 * HOUR)
    assert books.ledger.cash == 10_000.0 + 0.4


def test_what_is_too_old_is_forgotten() -> None:
    books = Books()
    for hour in range(1, 200):
        books.fill(hour * HOUR, 1.0)
        if hour % 8 == 0:
            books.settle(hour * HOUR, 0.001)
    kept = books.paid.snapshot()
    assert len(kept.moves[NAME]) < 22
    assert len(kept.paid[NAME]) == 2


def test_a_snapshot_of_an_earlier_release_has_none_of_it() -> None:
    books = Books()
    books.fill(HOUR, 2.0)
    again = Books()
    again.ledger.restore(books.ledger.snapshot())
    again.paid.restore(FundingSnapshot())
    again.settle(8 * HOUR, 0.001)
    assert again.ledger.cash == 10_000.0 - 0.2


@st.composite
def _days(draw: st.DrawFn) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Trades and settlements of a day in order, and the news of them in another."""
    quarters = st.integers(1, 60)
    trades = draw(st.lists(st.tuples(quarters, st.integers(-5, 5)), max_size=12))
    told: list[tuple[Any, ...]] = [
        ("fill", at * HOUR // 4, float(quantity)) for at, quantity in trades if quantity
    ]
    told += [
        ("settle", ts, draw(st.integers(-9, 9)) / 10_000.0, ts / HOUR + 90.0)
        for ts in (8 * HOUR, 14 * HOUR)
    ]
    in_order = sorted(told, key=lambda one: (one[1], one[0] == "settle"))
    return in_order, draw(st.permutations(told))


@settings(max_examples=150, deadline=None)
@given(_days(), st.integers(0, 13), st.booleans())
def test_the_order_of_the_news_changes_nothing(
    days: tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]], killed: int, guessed: bool
) -> None:
    in_order, told = days
    expected = 0.0
    held = 0.0
    for what, _, *rest in in_order:
        if what == "fill":
            held += rest[0]
        else:
            expected -= round(held * rest[1] * rest[0], 8)
    books = Books()
    for number, (what, ts, *rest) in enumerate(told):
        if number == killed:
            books = books.restarted()
        if what == "fill":
            books.fill(ts, rest[0])
        elif guessed:
            books.settle(ts, 0.01, rest[1])
            books.paid.correct(NAME, rest[0], ts)
        else:
            books.settle(ts, rest[0], rest[1])
    # All trades are at one price: what is left is funding.
    assert abs(books.ledger.cash - 10_000.0 - expected) < 1e-6
    kept: LedgerSnapshot = books.ledger.snapshot()
    assert kept.cash == books.ledger.cash

"""Random markets, accounts and accidents against the guard: nothing may go beyond a limit.

A scenario is a tape of bytes, which hypothesis draws and shrinks: four of them are one event. The
market at hand here is a small account that does what it is told, with an independent idea (plain
sums, no code of the guard) of what is held, what the limits are and when a day began.
"""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY, NS_PER_MINUTE, NS_PER_SECOND
from strategies.execution import InstrumentTerms
from strategies.guard import Guard
from strategies.guard_orders import Allowed, Book, OrderIntent, Refused
from strategies.guard_state import FlattenAll
from strategies.guard_store import _decode, _encode
from strategies.risk_policy import RiskPolicy

START = 19_723 * NS_PER_DAY + 11 * NS_PER_MINUTE
NAMES = tuple(f"COIN{number}-PERP.BINANCE" for number in range(8))
GROUP = frozenset(NAMES[2:7])
NAMED = frozenset(NAMES[2:5])
STEP = 0.01
TERMS = {
    name: InstrumentTerms(name, Decimal("0.1"), Decimal("0.01"), Decimal("0.01"), Decimal(5))
    for name in NAMES
}
POLICY = RiskPolicy(
    max_daily_loss=0.03,
    max_drawdown=0.08,
    max_symbol_share=0.2,
    max_positions=4,
    max_correlated=2,
    correlation_groups={"some": tuple(sorted(NAMED))},
    found_groups=None,
    max_position_usd=25_000.0,
    max_orders_per_second=6,
    max_orders_per_minute=9,
    max_consecutive_losses=4,
    max_rejected_orders=3,
    max_data_age_secs=7_200.0,
)
TIGHT = POLICY.model_copy(update={"max_symbol_share": 0.1, "max_positions": 2})
BAD = (math.nan, 0.0, -1.0, math.inf)
ROUNDING = 1e-9


class Scenario:
    """An account, a market and a guard; `events` checks every rule after each of them."""

    def __init__(self) -> None:
        self.ts = START
        self.cash = 100_000.0
        self.prices = dict.fromkeys(NAMES, 100.0)
        self.held: dict[str, float] = {}
        self.opened: dict[str, float] = {}
        self.under_way: list[tuple[str, int, float]] = []
        self.guard = Guard(POLICY)
        self.killed = self.found = False
        self.day = -1
        self.day_start = self.peak = math.nan
        self.ended_on: int | None = None
        self.needs_person = False
        self.sent: list[int] = []
        self.mark()
        self.settle()

    def equity(self) -> float:
        return self.cash + sum(
            size * (self.prices[name] - self.opened[name]) for name, size in self.held.items()
        )

    def mark(self) -> None:
        """Tell the guard, and find out for ourselves whether a limit has been reached."""
        for name in NAMES:
            self.guard.on_data(self.ts, name, self.prices[name])
        equity = self.equity()
        self.guard.on_equity(self.ts, equity)
        if not equity > 0.0:
            self.needs_person = True
            return
        if self.day != self.ts // NS_PER_DAY:
            self.day, self.day_start = self.ts // NS_PER_DAY, equity
        self.peak = equity if math.isnan(self.peak) else max(self.peak, equity)
        if equity < self.day_start * (1.0 - 0.03 - ROUNDING):
            self.ended_on = self.day
        if equity < self.peak * (1.0 - 0.08 - ROUNDING):
            self.needs_person = True

    def settle(self) -> None:
        """Do what the guard asks for; prices in the market are what they are."""
        self.guard.on_positions(self.ts, len(self.held), len(self.under_way))
        for action in self.guard.actions(self.ts):
            if isinstance(action, FlattenAll):
                self.under_way.clear()
                for name in list(self.held):
                    self.close(name)
        self.guard.on_positions(self.ts, len(self.held), len(self.under_way))
        if self.guard.level != "normal":
            assert not self.held, "what is halted is flat"

    def book(self) -> Book:
        sums: tuple[dict[str, float], dict[str, float]] = ({}, {})
        for name, side, size in self.under_way:
            sums[side < 0][name] = sums[side < 0].get(name, 0.0) + size
        return Book(self.equity(), dict(self.held), *sums)

    # ---- events: an instrument and two numbers of a byte each

    def move(self, name: str, first: int, second: int) -> None:
        self.prices[name] *= math.exp((first - 127) / 4000.0)
        self.ts += second * NS_PER_SECOND
        self.mark()

    def gap(self, name: str, first: int, second: int) -> None:
        for one in NAMES if second % 2 else (name,):
            self.prices[one] = max(self.prices[one] * (1.0 + (first - 127) / 260.0), 0.1)
        self.mark()

    def open(self, name: str, first: int, second: int) -> None:
        side = 1 if first % 2 else -1
        size = round((1 + second) * (STEP if first % 3 else 3.0), 2)
        self.send(name, side, size, self.prices[name])

    def send(self, name: str, side: int, size: float, price: float) -> None:
        book = self.book()
        normal = self.guard.level == "normal"
        intent = OrderIntent(self.ts, name, side, size, price, TERMS[name])
        ruling = self.guard.check(intent, book)
        if isinstance(ruling, Refused):
            return
        assert normal, "no order that adds risk leaves a guard that is not normal"
        self.allowed_to(name, side, ruling.quantity, book.equity)
        assert ruling.quantity <= size
        assert isinstance(ruling, Allowed) == (ruling.quantity == size)
        assert isinstance(ruling, Allowed) or ruling.quantity * price >= 5.0
        self.under_way.append((name, side, ruling.quantity))
        self.sent = [one for one in [*self.sent, self.ts] if one > self.ts - 60 * NS_PER_SECOND]
        assert len(self.sent) <= 9
        assert sum(one > self.ts - NS_PER_SECOND for one in self.sent) <= 6

    def allowed_to(self, name: str, side: int, size: float, equity: float) -> None:
        """Assert every limit, were all that is under way to fill."""
        policy = self.guard.policy
        assert not self.killed
        assert not self.needs_person
        assert self.ended_on != self.ts // NS_PER_DAY
        same = [one for other, way, one in self.under_way if (other, way) == (name, side)]
        worth = (max(side * self.held.get(name, 0.0), 0.0) + sum(same) + size) * self.prices[name]
        cap = min(policy.max_symbol_share * equity, policy.max_position_usd)
        assert worth <= cap * (1.0 + ROUNDING)
        others = {*self.held, *(other for other, _, _ in self.under_way)} - {name}
        assert len(others) < policy.max_positions
        for group in (NAMED, GROUP if self.found else frozenset()):
            if name in group:
                assert len(others & group) < policy.max_correlated

    def fill(self, name: str, first: int, second: int) -> None:
        if self.under_way:
            name, side, size = self.under_way.pop(first % len(self.under_way))
            held = self.held.get(name, 0.0)
            if held * side < 0.0:
                self.close(name)
                held = 0.0
            now = round(held + side * size, 2)
            price = self.prices[name]
            self.opened[name] = (held * self.opened.get(name, 0.0) + side * size * price) / now
            self.held[name] = now
            self.cash -= 5e-4 * size * price
            self.guard.on_fill(self.ts, name, size, price)
        self.mark()

    def close(self, name: str) -> None:
        size, price = self.held.pop(name), self.prices[name]
        intent = OrderIntent(0, name, -1 if size > 0 else 1, abs(size), price, TERMS[name], True)
        assert self.guard.check(intent, self.book()) == Allowed(abs(size))
        pnl = size * (price - self.opened[name]) - 5e-4 * abs(size) * price
        self.cash += pnl
        self.guard.on_closed(self.ts, pnl)

    def reduce(self, name: str, first: int, second: int) -> None:
        if name in self.held:
            self.close(name)
            self.mark()

    def wait(self, name: str, first: int, second: int) -> None:
        self.ts += (first * 16 + second // 16) * NS_PER_MINUTE // 30
        self.guard.on_clock(self.ts)
        self.mark()

    def skip_a_day(self, name: str, first: int, second: int) -> None:
        self.ts += NS_PER_DAY
        self.mark()

    def go_back(self, name: str, first: int, second: int) -> None:
        before = self.guard.state.ts
        self.guard.on_clock(self.ts - (61 + first) * NS_PER_SECOND)
        late = OrderIntent(self.ts - 61 * NS_PER_SECOND, name, 1, 1.0, 100.0, TERMS[name])
        assert isinstance(self.guard.check(late, self.book()), Refused)
        assert self.guard.state.ts == before

    def reject(self, name: str, first: int, second: int) -> None:
        self.guard.on_reject(self.ts, "margin")

    def nonsense(self, name: str, first: int, second: int) -> None:
        value = BAD[second % 4]
        if first % 4 == 0:
            self.guard.on_data(self.ts, name, value)
        elif first % 4 == 1:
            self.guard.on_equity(self.ts, value)
        elif first % 4 == 2 and self.guard.level == "normal":
            self.send(name, 1, 1.0, value)
        else:
            before = len(self.under_way)
            self.send(name, 1, value, 100.0)
            assert len(self.under_way) == before
            return
        self.needs_person = True

    def kill(self, name: str, first: int, second: int) -> None:
        self.killed = first % 4 < 2
        self.guard.on_kill_switch(self.ts, self.killed)
        self.needs_person = self.needs_person or self.killed

    def restart(self, name: str, first: int, second: int) -> None:
        level, reasons = self.guard.level, self.guard.reasons
        self.guard = Guard(self.guard.policy, _decode(_encode(self.guard.state)))
        self.guard.set_found_groups([GROUP] if self.found else [])
        assert self.guard.reasons == reasons
        assert (self.guard.level == "normal") == (level == "normal")
        self.mark()

    def release(self, name: str, first: int, second: int) -> None:
        try:
            self.guard.release(self.ts, "Ada")
        except ConfigError:
            assert self.killed or self.held or self.under_way
            return
        assert not self.killed
        self.needs_person, self.ended_on = False, None
        self.peak = self.day_start = self.guard.state.equity
        self.sent.clear()
        self.mark()

    def change_policy(self, name: str, first: int, second: int) -> None:
        self.guard.adopt(self.ts, TIGHT if first % 2 else POLICY)
        self.found = second % 2 == 1
        self.guard.set_found_groups([GROUP] if self.found else [])

    def play(self, tape: bytes) -> None:
        events = EVENTS
        for at in range(0, len(tape) - 3, 4):
            kind, which, first, second = tape[at : at + 4]
            events[kind % len(events)](self, NAMES[which % 8], first, second)
            self.settle()
            assert "guard_failure" not in self.guard.reasons
            if self.ended_on == self.ts // NS_PER_DAY or self.needs_person or self.killed:
                assert self.guard.level == "halted"


EVENTS = (
    *[Scenario.open] * 36,
    *[Scenario.fill] * 28,
    *[Scenario.move] * 18,
    *[Scenario.gap] * 3,
    *[Scenario.reduce] * 6,
    *[Scenario.wait] * 8,
    *[Scenario.skip_a_day] * 2,
    *[Scenario.change_policy] * 3,
    *[Scenario.restart] * 2,
    *[Scenario.release] * 12,
    *[Scenario.reject] * 2,
    Scenario.go_back,
    Scenario.nonsense,
    Scenario.kill,
)


tapes = st.binary(max_size=80) | st.binary(min_size=160, max_size=400)


@settings(max_examples=300, deadline=None)
@given(tapes)
def test_nothing_goes_beyond_a_limit(tape):
    Scenario().play(tape)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tapes)
def test_nothing_goes_beyond_a_limit_in_ten_thousand_scenarios(tape):
    Scenario().play(tape)

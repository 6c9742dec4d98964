"""Reconciliation while an engine runs: the account is asked at intervals, and soon after each fill.

A thread asks, so that a slow exchange delays no decision; what it was told is judged on the node's
thread. A difference counts once two answers in a row show it and our books have not moved between:
what is on its way is no difference.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from adapters.accounts import AccountReader, AccountState
from catalog.errors import LeviBotError
from live.engine_parts import EngineParts
from live.reconcile import Discrepancy
from live.start_books import (
    differences,
    follow,
    read_foreign,
    report_of,
    under_way,
    write_foreign,
)
from strategies.order_reports import OrderReport

PERIOD_SECS = 15.0
AFTER_FILL_SECS = 1.0
LEAST_PAUSE_SECS, MOST_PAUSE_SECS = 2.0, 120.0
"""The first and the longest pause after answers that did not come, seconds; it doubles."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the account said, and how far our books were when it was asked."""

    state: AccountState
    reports: dict[str, OrderReport | None]
    moved: tuple[int, int]


@dataclass(slots=True)
class _Question:
    """Orders that we take for open, by name: their instruments; and how far our books are."""

    orders: dict[str, str] = field(default_factory=dict)
    moved: tuple[int, int] = (0, 0)


class AccountWatch:
    """Compare our books with the account's, again and again.

    Parameters
    ----------
    parts : EngineParts
        Whose books; touched on the node's thread only.
    account : AccountReader
        Who is asked, from a thread.
    now : callable
        The time at which our books change, UTC nanoseconds.
    teller : Teller
        Told differences and failures.
    """

    def __init__(
        self, parts: EngineParts, account: AccountReader, now: Callable[[], int], teller: Any
    ) -> None:
        self._parts = parts
        self._account = account
        self._now = now
        self._teller = teller
        self._foreign = read_foreign(parts)
        self._question = _Question()
        self._answer: _Answer | None = None
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="account", daemon=True)
        self._before: tuple[Discrepancy, ...] = ()
        self._fills = 0
        self._ask_at = time.monotonic() + AFTER_FILL_SECS
        self._asked_at = 0.0
        # From now on what was only inferred is asked for here, and not booked as it is.
        parts.strategy.inferred = set()
        self._pause = 0.0
        self.asked = 0
        self.failures = 0
        self.found: list[str] = []
        """Differences that counted, in words."""

    def foreign(self) -> dict[str, float]:
        """Return what is somebody else's, signed base units by instrument."""
        return self._foreign

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._ending = True
        self._wake.set()
        self._thread.join(1.0)

    # ---- on the node's thread

    def look(self, wall_ns: int) -> None:
        """Judge the newest answer, and ask again when it is time."""
        answer, self._answer = self._answer, None
        if answer is not None:
            self._book_inferred(answer)
        if answer is not None and answer.moved == self._moved():
            self._judge(answer)
        clock = time.monotonic()
        fills = len(self._parts.recorder.fills)
        if fills != self._fills:
            self._fills = fills
            self._ask_at = min(self._ask_at, clock + max(AFTER_FILL_SECS, self._pause))
        inferred = self._parts.strategy.inferred or ()
        if inferred:
            self._ask_at = min(self._ask_at, self._asked_at + max(AFTER_FILL_SECS, self._pause))
        if clock >= self._ask_at:
            self._asked_at = clock
            again = AFTER_FILL_SECS if self._before else PERIOD_SECS
            self._ask_at = clock + max(again, self._pause)
            alive = {one.client_order_id: one.instrument_id for one in self._parts.strategy.alive()}
            orders = self._parts.recorder.orders
            alive |= {name: orders[name].instrument_id for name in inferred}
            self._question = _Question(alive, self._moved())
            self._wake.set()

    def _book_inferred(self, answer: _Answer) -> None:
        """Book what was really traded of orders whose fill the engine has only inferred."""
        inferred = self._parts.strategy.inferred
        for name in sorted(inferred or ()):
            report = answer.reports.get(name)
            if report is not None and report.trades and inferred is not None:
                self._parts.strategy.recovered(report)
                inferred.discard(name)

    def _moved(self) -> tuple[int, int]:
        recorder = self._parts.recorder
        return len(recorder.fills), len(recorder.orders)

    def _judge(self, answer: _Answer) -> None:
        found = differences(self._parts, self._foreign, answer.state)
        told = {str(one) for one in self._before}
        lasting = [one for one in found if str(one) in told]
        self._before = found
        for one in lasting:
            self._follow(one, answer)
        if any(one.kind in ("position", "foreign_position") for one in lasting):
            unsure = under_way(self._parts)
            follow(self._parts, self._foreign, answer.state, self._now(), unsure)
            write_foreign(self._parts, self._foreign)

    def _follow(self, one: Discrepancy, answer: _Answer) -> None:
        text = str(one)
        if text not in self.found:
            self.found.append(text)
            self._teller.event("reconcile", text, difference=one.kind, what=one.what)
        if one.kind != "lost_order" or one.what not in answer.reports:
            return
        report = answer.reports[one.what]
        if report is not None:
            self._parts.strategy.recovered(report)
        else:
            self._parts.strategy.lost(one.what, self._now())

    # ---- on a thread of its own

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._ending:
                return
            question = self._question
            try:
                self._answer = self._ask(question)
                self.asked += 1
                self._pause = 0.0
            except (LeviBotError, OSError, ValueError, KeyError) as error:
                self.failures += 1
                # An exchange that refuses to answer bans for longer those that go on asking.
                self._pause = min(max(2.0 * self._pause, LEAST_PAUSE_SECS), MOST_PAUSE_SECS)
                self._ask_at = max(self._ask_at, time.monotonic() + self._pause)
                self._teller.event("account", f"the account did not answer: {error}")

    def _ask(self, question: _Question) -> _Answer:
        state = self._account.state(self._parts.request.traded)
        there = {one.client_order_id for one in state.orders}
        reports: dict[str, OrderReport | None] = {}
        for name, instrument_id in question.orders.items():
            if name not in there:
                found = self._account.lookup(name, instrument_id)
                reports[name] = None if found is None else report_of(self._account, found)
        return _Answer(state, reports, question.moved)

"""Reconciliation while an engine runs: the account is asked at intervals, and soon after each fill.

A thread asks, so that a slow exchange delays no decision; what it was told is judged on the node's
thread. What it says of an order of ours is booked at once: trades have names, and none is booked
twice. A difference of positions counts once two answers in a row show it, our books have not moved
between, and the outcome of each order is known: what is on its way is no difference. Orders that
nobody has answered (`live.silent_orders`) are asked for at once; so is the account where an exit
has ended that we did not end: somebody may have closed the position.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nautilus_trader.model import ClientOrderId

from adapters.accounts import AccountOrder, AccountReader, AccountState
from adapters.errors import TooManyRequestsError
from live.account_stream import StreamWatch, cut_connections
from live.engine_parts import EngineParts
from live.reconcile import Discrepancy
from live.silent_orders import SilentOrders
from live.start_books import (
    differences,
    filled_further,
    follow,
    is_listed,
    read_foreign,
    report_of,
    strays,
    uncovered,
    under_way,
    write_foreign,
)
from strategies.order_reports import OrderReport
from strategies.recorder import FINAL_STATUSES, OrderRow

PERIOD_SECS = 15.0
AFTER_FILL_SECS = 1.0
TELL_SECS = 30.0
"""How often it is told that an account still does not answer."""
_UNFILLED = frozenset(FINAL_STATUSES) - {"FILLED"}
_OURS = ("position", "lost_order")
LEAST_PAUSE_SECS, MOST_PAUSE_SECS = 2.0, 120.0
"""The pause after an answer that did not come, seconds. While we are told that we ask too often it
doubles, up to the longest."""
LISTED_SECS = 30.0
"""For how long the trades of an order that has ended may be fewer than it says. An exchange lists
them later than it ends the order; of an order that is older than its lists they never come."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What the account is asked.

    `orders` are those that we take for open, by name: their instruments. Of `doubtful` ones it is
    asked what became of them, whether they are open there or not. `strays` are taken back first.
    `moved` says how far our books are: how many fills they have. `asked_at` is a monotonic clock's.
    """

    orders: dict[str, str] = field(default_factory=dict)
    doubtful: frozenset[str] = frozenset()
    strays: tuple[AccountOrder, ...] = ()
    moved: int = 0
    asked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the account said to a question."""

    question: _Question
    state: AccountState
    reports: dict[str, OrderReport | None]


@dataclass(slots=True)
class _Seen:
    """What the newest answer has shown, and what counts because two in a row have."""

    found: tuple[Discrepancy, ...] = ()
    strays: tuple[AccountOrder, ...] = ()
    short: frozenset[str] = frozenset()
    uncovered: frozenset[str] = frozenset()


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
    cancel : callable, optional
        Takes an order back at the exchange, from the thread; None leaves strays alone.
    """

    def __init__(
        self,
        parts: EngineParts,
        account: AccountReader,
        now: Callable[[], int],
        teller: Any,
        cancel: Callable[[AccountOrder], None] | None = None,
    ) -> None:
        self._parts = parts
        self._account = account
        self._now = now
        self._teller = teller
        self._cancel = cancel
        self._silent = SilentOrders(parts, now, teller)
        self._foreign = read_foreign(parts)
        self._question = _Question()
        self._answer: _Answer | None = None
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="account", daemon=True)
        self._seen = _Seen()
        self._gone: tuple[AccountOrder, ...] = ()
        self._unlisted: dict[str, float] = {}
        self._unsure = False
        self._busy = False
        self._fills = 0
        self._alive: dict[str, OrderRow] = {}
        self._partly: frozenset[str] = frozenset()
        self._booked = len(parts.recorder.fills)
        self.stream = StreamWatch(self._heard, self._say, cut_connections)
        """Whether the account's stream still speaks."""
        self._ask_at = time.monotonic() + AFTER_FILL_SECS
        self._asked_at = 0.0
        # From now on what was only inferred is asked for here, and not booked as it is.
        parts.strategy.inferred = set()
        self._pause = self._tell_at = 0.0
        self.asked = 0
        self.failures = 0
        self.each_answer: list[Callable[[AccountState, bool], None]] = []
        """Told each answer on the node's thread, and whether our books stood still meanwhile."""
        self.found: list[str] = []
        """Differences that counted, in words."""

    def foreign(self) -> dict[str, float]:
        """Return what is somebody else's, signed base units by instrument."""
        return self._foreign

    def uncovered(self) -> frozenset[str]:
        """Return the instruments whose stops are too small by the exchange's own word."""
        return self._seen.uncovered

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
        if len(self._parts.recorder.fills) > self._booked:
            self.stream.told()
        answer, self._answer = self._answer, None
        if answer is not None:
            self._silent.accept(answer.state)
            self._silent.settle(answer.reports, answer.question.doubtful, answer.question.asked_at)
            self._book(answer)
            settled = answer.question.moved == self._moved()
            for call in self.each_answer:
                call(answer.state, settled)
            if settled:
                self._judge(answer)
        clock = time.monotonic()
        self.stream.look(clock)
        doubtful = self._silent.look(clock) | self._partly
        soon = max(AFTER_FILL_SECS, self._pause)
        self._booked = fills = len(self._parts.recorder.fills)
        if fills != self._fills:
            self._fills = fills
            self._ask_at = min(self._ask_at, clock + soon)
        if self._has_lost_exit() or doubtful or self._unsure or self._unlisted:
            self._ask_at = min(self._ask_at, self._asked_at + soon)
        if clock >= self._ask_at and not self._busy:
            self._asked_at = clock
            self._ask_at = clock + max(PERIOD_SECS, self._pause)
            self._put(doubtful)

    def _put(self, doubtful: frozenset[str]) -> None:
        """Put the next question."""
        orders = self._parts.recorder.orders
        asked = {one.client_order_id: one.instrument_id for one in self._parts.strategy.alive()}
        asked |= {name: orders[name].instrument_id for name in doubtful if name in orders}
        gone, self._gone = self._gone, ()
        self._question = _Question(asked, doubtful, gone, self._moved(), self._asked_at)
        self._busy = True
        self._wake.set()

    def _moved(self) -> int:
        # Not orders: one that is refused again and again would put every comparison off.
        return len(self._parts.recorder.fills)

    def _has_lost_exit(self) -> bool:
        """Return whether an order that reduces has ended unfilled since, and not by us."""
        before, self._alive = self._alive, {}
        for row in self._parts.strategy.alive():
            self._alive[row.client_order_id] = row
        return any(
            row.reduce_only and not row.ts_cancel and row.status in _UNFILLED
            for row in before.values()
        )

    def _book(self, answer: _Answer) -> None:
        """Book what the account says of our orders: what nobody has told, and what has ended."""
        strategy, rows = self._parts.strategy, self._parts.recorder.orders
        for name, report in answer.reports.items():
            row = rows.get(name)
            if report is None or row is None:
                continue
            self.stream.learnt(name, (one.trade_id for one in report.trades), time.monotonic())
            if row.status not in FINAL_STATUSES and (report.trades or report.status in _UNFILLED):
                if report.status in _UNFILLED and not row.ts_cancel:
                    text = f"order {name} is {report.status} at the exchange, and nobody had told"
                    self._teller.event("reconcile", text, client_order_id=name)
                strategy.recovered(report)
        self._partly = filled_further(self._parts, answer.state)

    # ---- the account's stream

    def _heard(self, name: str) -> frozenset[str]:
        order = self._parts.strategy.cache.order(ClientOrderId(name))
        return frozenset() if order is None else frozenset(str(one) for one in order.trade_ids)

    def _say(self, text: str, level: str) -> None:
        self._teller.event("account", text, level=level)

    def _judge(self, answer: _Answer) -> None:
        before, parts, state = self._seen, self._parts, answer.state
        stops = parts.prepared.policy.exit_rules is not None
        short = uncovered(parts, state) if stops else frozenset[str]()
        unsure = under_way(parts, state)
        found = tuple(
            one for one in differences(parts, self._foreign, state) if one.what not in unsure
        )
        self._seen = _Seen(found, strays(parts, state), short, short & before.short)
        # What somebody else leaves there for days is no reason to ask every second.
        news = any(one.kind in _OURS or str(one) not in self.found for one in found)
        self._unsure = bool(news or self._seen.strays or short - before.short)
        self._leave(before)
        told = {str(one) for one in before.found}
        lasting = [one for one in found if str(one) in told]
        for one in lasting:
            self._follow(one, answer)
        if any(one.kind in ("position", "foreign_position") for one in lasting):
            follow(parts, self._foreign, state, self._now(), unsure)
            write_foreign(parts, self._foreign)

    def _leave(self, before: _Seen) -> None:
        """Have what nobody wants taken back, once two answers have shown it."""
        known = {one.client_order_id for one in before.strays}
        self._gone = tuple(one for one in self._seen.strays if one.client_order_id in known)
        for one in self._gone:
            text = f"order {one.client_order_id} rests at the exchange, is not wanted any more and "
            self._teller.event("account", text + "is taken back there")

    def _follow(self, one: Discrepancy, answer: _Answer) -> None:
        text = str(one)
        if text not in self.found:
            self.found.append(text)
            self._teller.event("reconcile", text, difference=one.kind, what=one.what)
        if one.kind != "lost_order" or one.what not in answer.reports:
            return
        if answer.reports[one.what] is None:
            self._parts.strategy.lost(one.what, self._now())

    # ---- on a thread of its own

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._ending:
                return
            try:
                self._answer = self._ask(self._question)
                self.asked += 1
                self._pause = self._tell_at = 0.0
            except Exception as error:
                # Whatever it was: without another question nobody would notice that none is put.
                self._failed(error)
            self._busy = False

    def _failed(self, error: Exception) -> None:
        """Wait before the next question: an exchange bans those for longer that go on asking.

        One that cannot be reached may be back at any moment.
        """
        self.failures += 1
        pause = LEAST_PAUSE_SECS
        if isinstance(error, TooManyRequestsError):
            pause = min(max(2.0 * self._pause, LEAST_PAUSE_SECS), MOST_PAUSE_SECS)
            pause = max(pause, error.retry_after_secs or 0.0)
            self._ask_at = max(self._ask_at, time.monotonic() + pause)
        else:
            self._ask_at = time.monotonic() + pause
        self._pause = pause
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + TELL_SECS
            self._teller.event("account", f"the account did not answer: {error}")

    def _ask(self, question: _Question) -> _Answer:
        if self._cancel is not None:
            for one in question.strays:
                self._cancel(one)
        state = self._account.state(self._parts.request.traded)
        there = {one.client_order_id: one for one in state.orders}
        reports: dict[str, OrderReport | None] = {}
        for name, instrument_id in question.orders.items():
            if name in there and name not in question.doubtful:
                continue
            found = there.get(name) or self._account.lookup(name, instrument_id)
            report = None if found is None else report_of(self._account, found)
            if found is None or report is None or self._is_listed(found, report):
                reports[name] = report
        return _Answer(question, state, reports)

    def _is_listed(self, order: AccountOrder, report: OrderReport) -> bool:
        """Return whether all trades of an order are listed, or have had time to be.

        One that was filled ends with its trades; any other with the word of its end, and is not
        asked for again.
        """
        if report.status not in _UNFILLED or is_listed(order, report):
            self._unlisted.pop(report.client_order_id, None)
            return True
        since = self._unlisted.setdefault(report.client_order_id, time.monotonic())
        return time.monotonic() - since > LISTED_SECS

"""Orders that were sent and of which nobody has said a word.

Where an engine is cut off from its exchange, its orders stay on their way until it gives them up
after half a minute, and so long nothing is sent in their place. The account is asked for them after
two seconds: what it knows of an order is booked. An exchange refuses what is older than five
seconds: what it does not know after a little more, it never will. A market order that is known and
trades nothing is asked for as well: its fill may be what nobody has told.

One that only reduces and that the exchange does not know is given up at once, so that guard, naked
watch and protection send another: should it come late after all, there is nothing that it reduces.
An entry is given up only after the engine has given it up as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from adapters.accounts import AccountState
from live.engine_parts import EngineParts
from strategies.kept import UNANSWERED
from strategies.order_reports import OrderReport
from strategies.recorder import FINAL_STATUSES, OrderRow

ASK_SECS = 2.0
"""After how long without a word an order is asked for."""
SILENT_SECS = 6.0
"""After how long one that the exchange does not know has never arrived there."""
GIVE_UP_SECS = 60.0
"""After so long without any answer another exit may leave: maybe only the account is not asked."""
_WAITING = ("INITIALIZED", "SUBMITTED")


class Silence:
    """Remembers since when each order has been without a word. Pure.

    Parameters
    ----------
    patience_secs : float
        How long that is nothing strange, seconds.
    """

    def __init__(self, patience_secs: float = ASK_SECS) -> None:
        self._patience_secs = patience_secs
        self._since: dict[str, float] = {}

    def look(self, clock: float, waiting: Collection[str]) -> frozenset[str]:
        """Return the orders that have been without a word for too long.

        Parameters
        ----------
        clock : float
            Of a clock that only goes forward, seconds.
        waiting : collection of str
            Orders that have left, and of which nothing is known.
        """
        self._since = {name: self._since.get(name, clock) for name in waiting}
        return frozenset(one for one in waiting if self.secs(one, clock) > self._patience_secs)

    def secs(self, name: str, clock: float) -> float:
        """Return for how long an order has been without a word, seconds; 0 for others."""
        return clock - self._since.get(name, clock)


class SilentOrders:
    """Finds an engine's orders that nobody has answered, and does what the account says of them.

    On the node's thread only.

    Parameters
    ----------
    parts : EngineParts
        Whose orders.
    now : callable
        The time at which our books change, UTC nanoseconds.
    teller : Teller
        Told what became of an order.
    """

    def __init__(self, parts: EngineParts, now: Callable[[], int], teller: Any) -> None:
        self._parts = parts
        self._now = now
        self._teller = teller
        self._silence = Silence()

    def look(self, clock: float) -> frozenset[str]:
        """Return the orders to ask for, by the monotonic clock in seconds.

        That is those without a word for too long, those that the engine has given up, and those of
        which it has made a fill up.
        """
        strategy = self._parts.strategy
        alive = [one for one in strategy.alive() if one.status in _WAITING or one.type == "MARKET"]
        unsent = strategy.outbox.unsent() if alive else set()
        names = [one.client_order_id for one in alive if one.client_order_id not in unsent]
        silent = self._silence.look(clock, names)
        for row in alive:
            name = row.client_order_id
            exits = row.reduce_only and row.type == "MARKET" and row.status in _WAITING
            if exits and self._silence.secs(name, clock) > GIVE_UP_SECS:
                self._lost(row, "neither it nor the account was answered")
        return silent | strategy.unanswered | (strategy.inferred or set())

    def accept(self, state: AccountState) -> None:
        """Take note of orders that rest at the exchange, though nobody has told us that they do."""
        rows = self._parts.recorder.orders
        for one in state.orders:
            row = rows.get(one.client_order_id)
            if row is not None and row.status in _WAITING and one.filled == 0.0:
                report = OrderReport(one.client_order_id, "ACCEPTED", ts_event=one.ts_ns)
                self._parts.strategy.recovered(report)

    def settle(
        self, reports: Mapping[str, OrderReport | None], asked: Collection[str], asked_at: float
    ) -> None:
        """Do what the account says of orders that `look` had named; asked at a monotonic clock."""
        strategy = self._parts.strategy
        for name in sorted(asked):
            row = self._parts.recorder.orders.get(name)
            if row is None or name not in reports:
                continue
            report = reports[name]
            if strategy.inferred is not None and name in strategy.inferred:
                if report is not None and report.trades:
                    strategy.recovered(report)
                    strategy.inferred.discard(name)
            elif name in strategy.unanswered:
                self._given_up(row, report)
            elif row.status in _WAITING:
                self._silent(row, report, self._silence.secs(name, asked_at))

    def _silent(self, row: OrderRow, report: OrderReport | None, secs: float) -> None:
        strategy = self._parts.strategy
        if report is None and secs <= SILENT_SECS:
            # It may still be on its way.
            return
        if report is None and row.reduce_only:
            self._lost(row, "the exchange does not know it")
        elif report is None:
            strategy.desk.silent.add(row.client_order_id)
        else:
            self._tell(row, f"is {report.status} at the exchange")
            strategy.recovered(report)

    def _given_up(self, row: OrderRow, report: OrderReport | None) -> None:
        """Settle an order that has ended for the engine, whatever became of it."""
        strategy, name = self._parts.strategy, row.client_order_id
        if report is not None:
            strategy.recovered(report)
            if report.status == "FILLED" and row.status not in FINAL_STATUSES:
                # Its trades are not told yet.
                return
        strategy.unanswered.discard(name)
        if row.status in FINAL_STATUSES:
            self._tell(row, f"is {row.status} at the exchange")
            return
        # The engine could not take back what rests there: whoever asks the account does.
        known = "does not know it" if report is None else f"has it as {report.status}"
        self._lost(row, f"the exchange {known}")
        if not row.reduce_only and strategy.guard is not None:
            strategy.guard.on_reject(self._now(), UNANSWERED)

    def _lost(self, row: OrderRow, why: str) -> None:
        self._tell(row, f"is given up: {why}")
        self._parts.strategy.lost(row.client_order_id, self._now())

    def _tell(self, row: OrderRow, what: str) -> None:
        name = row.client_order_id
        text = f"order {name}, which nobody had answered, {what}"
        self._teller.event("account", text, client_order_id=name)

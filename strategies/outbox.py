"""Orders leave a live strategy only after they have been written down: a transactional outbox.

While a callback of the strategy runs, what it wants sent is collected. When the callback has ended,
the new orders, what is known of older ones, and the whole state of the strategy are committed
together; only then do the commands leave, one by one, each marked before it does. So whatever
instant a process dies at, the next one finds a state that fits its orders, and knows of each order
whether it may have left:

========  =========================================================================
planned   committed; nothing has left unless the machine itself lost power
sent      committed, and handed to the exchange's client, or about to be
========  =========================================================================

A replay has no outbox: its orders go straight to the engine. Where orders travel to an exchange, an
entry waits for the exit of its reversal (`strategies.exits_first`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from catalog.errors import DataError
from strategies.exits_first import turn_of
from strategies.recorder import Decision, FillRow, OrderRow
from strategies.snapshots import StrategySnapshot


class BookedFill(NamedTuple):
    """A fill as it was booked, and the exchange's name of the trade."""

    trade_id: str
    fill: FillRow


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One transaction of a strategy.

    Parameters
    ----------
    snapshot : StrategySnapshot
        The state after it.
    planned : sequence of OrderRow
        Orders that leave once it is committed.
    changed : sequence of OrderRow
        Orders of which something has become known.
    fills : sequence of BookedFill
        In the order of booking.
    decisions : sequence of Decision
        In the order in which they were made.
    """

    snapshot: StrategySnapshot
    planned: Sequence[OrderRow] = ()
    changed: Sequence[OrderRow] = ()
    fills: Sequence[BookedFill] = ()
    decisions: Sequence[Decision] = ()


class Journal(Protocol):
    """Where a strategy's transactions are kept."""

    def commit(self, entry: JournalEntry) -> None:
        """Write all of an entry or nothing; planned orders are on the disk when it returns.

        Raises
        ------
        DataError
            If it cannot be written, or a planned order was planned before.
        """

    def sending(self, client_order_id: str) -> None:
        """Note that an order is about to leave.

        Raises
        ------
        DataError
            If that cannot be written.
        """


class Sender(Protocol):
    """The strategy as its outbox sees it."""

    desk: Any
    recorder: Any

    def snapshot(self) -> StrategySnapshot:
        """Return the state now."""

    def new_decisions(self) -> Sequence[Decision]:
        """Return the decisions since the last call."""

    def unjournalled(self, rows: Sequence[OrderRow], detail: str) -> None:
        """Take note that the journal failed, and that orders which add risk do not leave."""

    def unsent(self, what: str, client_order_id: str, detail: str) -> None:
        """Take note that the engine did not take a command."""

    def has_ended(self, client_order_id: str) -> bool:
        """Return whether an order has an outcome."""

    def lost(self, client_order_id: str, ts: int) -> None:
        """Take note that an order never reached the exchange, and never will."""


type _Command = tuple[Literal["submit", "cancel"], str]


class Outbox:
    """What one strategy has to send, and has to write down before.

    Parameters
    ----------
    journal : Journal
        Where it is written.
    strategy : Sender
        Whose orders; a weak proxy, for the strategy holds the outbox.

    Attributes
    ----------
    touched : bool
        Whether the state has changed since the last commit.
    exits_first : bool
        Whether an entry leaves only after the exchange has answered the exit before it: messages
        to an exchange may overtake each other, calls within a process do not.
    """

    def __init__(self, journal: Journal, strategy: Sender) -> None:
        self._journal = journal
        self._strategy = strategy
        self._depth = 0
        self._flushing = False
        self._held = False
        self._commands: deque[_Command] = deque()
        self._planned: dict[str, OrderRow] = {}
        self._changed: dict[str, OrderRow] = {}
        self._fills: list[BookedFill] = []
        self._decisions: list[Decision] = []
        self.touched = False
        self.exits_first = False

    # ---- the callbacks of the strategy

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        # After an exception as well: a stop that was decided on must not stay behind.
        self._depth -= 1
        if self._depth == 0:
            self.flush()

    def submit(self, row: OrderRow) -> None:
        """Take an order; it leaves after the next commit."""
        self._planned[row.client_order_id] = row
        self._take("submit", row.client_order_id)

    def cancel(self, client_order_id: str) -> None:
        """Take a cancel, which leaves in its turn."""
        self._take("cancel", client_order_id)

    def resume(self, client_order_id: str) -> None:
        """Let an order leave that an earlier process had committed and not sent."""
        self._take("submit", client_order_id)

    def changed(self, row: OrderRow) -> None:
        """Take note that something has become known of an order."""
        self._changed[row.client_order_id] = row

    def filled(self, trade_id: str, fill: FillRow) -> None:
        """Take note of a fill that was booked."""
        self._fills.append(BookedFill(trade_id, fill))

    # ---- what leaves

    def hold(self) -> None:
        """Let nothing leave until `release`: it is committed all the same."""
        self._held = True

    def release(self) -> None:
        """Let leave what was held."""
        self._held = False
        if self._depth == 0:
            self.flush()

    def waiting(self) -> int:
        """Return how many commands have not left."""
        return len(self._commands)

    def unsent(self) -> set[str]:
        """Return the orders that have not left."""
        return {name for what, name in self._commands if what == "submit"}

    def flush(self) -> None:
        """Commit what has changed, then send what is due; callbacks in between add to both."""
        if self._flushing:
            return
        self._flushing = True
        try:
            self._commit()
            while (command := self._next()) is not None:
                what, name = command
                try:
                    self._leave(what, name)
                except Exception as error:
                    # What comes after it, such as a stop, leaves all the same.
                    self._strategy.unsent(what, name, f"{type(error).__name__}: {error}")
                self._commit()
        finally:
            self._flushing = False

    def _next(self) -> _Command | None:
        """Take the first command that is not to wait, None if there is none."""
        waiting: set[str] = set()
        for command in () if self._held else self._commands:
            what, name = command
            if name in waiting or (what == "submit" and self._turn(name) == "wait"):
                waiting.add(name)
                continue
            self._commands.remove(command)
            return command
        return None

    def _turn(self, client_order_id: str) -> str:
        if not self.exits_first or self._strategy.has_ended(client_order_id):
            return "leave"
        return turn_of(client_order_id, self._strategy.desk, self._strategy.recorder)

    def _take(self, what: Literal["submit", "cancel"], client_order_id: str) -> None:
        self._commands.append((what, client_order_id))
        self.touched = True
        if self._depth == 0:
            self.flush()

    def _commit(self) -> None:
        if not (self.touched or self._planned or self._changed or self._fills):
            return
        self.touched = False
        self._decisions.extend(self._strategy.new_decisions())
        changed = [row for name, row in self._changed.items() if name not in self._planned]
        entry = JournalEntry(
            self._strategy.snapshot(),
            tuple(self._planned.values()),
            changed,
            tuple(self._fills),
            tuple(self._decisions),
        )
        try:
            self._journal.commit(entry)
        except DataError as error:
            # What was not written stays to be written with the next entry.
            self._give_up(str(error))
            return
        self._planned.clear()
        self._changed.clear()
        self._fills.clear()
        self._decisions.clear()

    def _give_up(self, detail: str) -> None:
        """Keep back what adds risk; what reduces it leaves without a journal."""
        risky = [row for row in self._planned.values() if not row.reduce_only]
        for row in risky:
            del self._planned[row.client_order_id]
            self._commands.remove(("submit", row.client_order_id))
        self._strategy.unjournalled(risky, detail)

    def _leave(self, what: Literal["submit", "cancel"], client_order_id: str) -> None:
        desk = self._strategy.desk
        if self._strategy.has_ended(client_order_id):
            # It was told while this waited, such as by what a restart asked for.
            return
        if what == "cancel":
            desk.recall(client_order_id)
            return
        if self._turn(client_order_id) == "end":
            row = self._strategy.recorder.orders[client_order_id]
            self._strategy.lost(client_order_id, row.ts_cancel or row.ts_init)
            return
        unwritten = self._planned.get(client_order_id)
        if unwritten is None:
            try:
                self._journal.sending(client_order_id)
            except DataError as error:
                self._strategy.unjournalled((), str(error))
        else:
            # Once it can be written it must not look as though it had never left.
            unwritten.status = "SUBMITTED"
        desk.leave(client_order_id)

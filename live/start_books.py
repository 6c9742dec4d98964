"""How our books begin on an exchange's account: what it holds, what of it is ours, what is not.

An account of one-way positions holds one position for each instrument, whoever traded it. What the
exchange holds beyond our own books is somebody else's, unless the engine was told to claim it: its
size is remembered, and left out of every later comparison. What the exchange holds less than our
books say is gone, and our books follow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from adapters.accounts import AccountOrder, AccountReader, AccountState
from catalog.errors import ConfigError
from live.account_margin import require_margin
from live.engine_parts import EngineParts, Prepared
from live.naked_watch import Stop, covered
from live.own_view import STOP
from live.reconcile import Books, Discrepancy, Resting, compare_books
from live.recovery import Lookup, Recovered
from strategies.order_reports import OrderReport, TradeReport
from strategies.recorder import EXIT_TYPES, FINAL_STATUSES, MAKER, TAKER

FOREIGN = "foreign"
"""Section of the engine's database with what is somebody else's, by instrument."""
UNLISTED_SECS = 10.0
"""How long a start waits for trades that an exchange has made and does not list yet, seconds."""
_PAUSE_SECS = 0.5
_DECIMALS = 9
_DUST = 1e-9


def report_of(account: AccountReader, order: AccountOrder) -> OrderReport:
    """Return an exchange's order in our words, its trades included.

    Raises
    ------
    AdapterError
        If its trades cannot be asked for.
    """
    fills = account.fills(order) if order.filled > 0.0 else ()
    trades = tuple(
        TradeReport(
            one.trade_id,
            one.ts_ns,
            one.quantity,
            one.price,
            one.commission,
            MAKER if one.maker else TAKER,
        )
        for one in fills
    )
    return OrderReport(order.client_order_id, order.status, trades, order.ts_ns)


def is_listed(order: AccountOrder, report: OrderReport) -> bool:
    """Return whether the trades that an exchange lists are all that an order has made."""
    return sum(one.quantity for one in report.trades) >= order.filled - _DUST


def own_books(parts: EngineParts, foreign: dict[str, float]) -> Books:
    """Return what the exchange should hold by our books, somebody else's positions included."""
    positions = dict(foreign)
    for name, one in parts.recorder.ledger.positions.items():
        positions[name] = round(positions.get(name, 0.0) + one.quantity, _DECIMALS)
    orders = tuple(
        Resting(row.client_order_id, row.instrument_id, row.side, row.quantity, row.type)
        for row in parts.strategy.alive()
        if row.status in ("ACCEPTED", "PARTIALLY_FILLED")
    )
    return Books({name: held for name, held in positions.items() if held}, orders)


def their_books(state: AccountState, instruments: Iterable[str]) -> Books:
    """Return what the exchange says of the instruments that are traded."""
    mine = set(instruments)
    positions = {
        one.instrument_id: one.quantity for one in state.positions if one.instrument_id in mine
    }
    orders = tuple(
        Resting(one.client_order_id, one.instrument_id, one.side, one.quantity, one.type)
        for one in state.orders
        if one.instrument_id in mine
    )
    return Books(positions, orders)


def under_way(parts: EngineParts, state: AccountState | None = None) -> frozenset[str]:
    """Return the instruments of which orders of ours may have traded what our books do not have.

    Those have no outcome, and trade at once, or the account does not have them as we do: they are
    gone, or filled further. What they have traded is nobody else's, and will be booked as theirs.
    """
    alive = parts.strategy.alive()
    found = {
        row.instrument_id
        for row in alive
        if row.type == "MARKET" or row.status in ("INITIALIZED", "SUBMITTED")
    }
    if state is not None:
        open_there = {one.client_order_id for one in state.orders}
        found |= {one.instrument_id for one in alive if one.client_order_id not in open_there}
        ahead = filled_further(parts, state)
        found |= {one.instrument_id for one in alive if one.client_order_id in ahead}
    return frozenset(found)


def filled_further(parts: EngineParts, state: AccountState) -> frozenset[str]:
    """Return the open orders of ours of which the account has traded more than our books."""
    rows = parts.recorder.orders
    return frozenset(
        one.client_order_id
        for one in state.orders
        if one.client_order_id in rows
        and one.filled > rows[one.client_order_id].filled_quantity + _DUST
    )


def follow(
    parts: EngineParts,
    foreign: dict[str, float],
    state: AccountState,
    ts: int,
    unsure: Collection[str] = (),
) -> None:
    """Bring our positions to the exchange's, where it holds less than they say.

    `foreign` is brought to what it holds beyond them. Of a position that has become smaller and is
    partly somebody else's, that part went first: a person closes what is the person's, and what is
    taken for closed would stay behind without its stop.

    Parameters
    ----------
    parts : EngineParts
        Whose books.
    foreign : dict of str to float
        What is somebody else's, by instrument; changed here.
    state : AccountState
        What the exchange says.
    ts : int
        At which our books change, UTC nanoseconds.
    unsure : collection of str
        Instruments that are left as they are.
    """
    held = {one.instrument_id: one for one in state.positions}
    for name in sorted({*parts.request.traded} - {*unsure}):
        theirs = held[name].quantity if name in held else 0.0
        ours = parts.recorder.ledger.quantity(name)
        rest = round(theirs - foreign.get(name, 0.0), _DECIMALS)
        if rest == ours:
            continue
        # Between nothing and what we think we hold.
        low, high = min(ours, 0.0), max(ours, 0.0)
        left = max((min(max(one, low), high) for one in (rest, theirs)), key=abs)
        mine = theirs if parts.request.claims else left
        if mine != ours:
            entry = held[name].entry_price if name in held else 0.0
            price = parts.recorder.ledger.marks.get(name) or entry
            parts.strategy.reconciled(name, mine, price or entry, ts)
        foreign[name] = round(theirs - mine, _DECIMALS)


@dataclass(slots=True)
class Start:
    """What an account holds when an engine starts.

    Parameters
    ----------
    account : AccountReader
        Who is asked.
    state : AccountState
        What it said.
    """

    account: AccountReader
    state: AccountState

    def lookup(self, parts: EngineParts) -> Lookup:
        """Return who asks the exchange for an order of ours, with all of its trades.

        One that has just filled may be told before its trades are listed. What is held without
        them would be taken for somebody else's.
        """

        def ask(client_order_id: str) -> OrderReport | None:
            row = parts.recorder.orders[client_order_id]
            over = time.monotonic() + UNLISTED_SECS
            while True:
                found = self.account.lookup(client_order_id, row.instrument_id)
                if found is None:
                    return None
                report = report_of(self.account, found)
                if is_listed(found, report) or time.monotonic() > over:
                    return report
                time.sleep(_PAUSE_SECS)

        return ask

    def adjust(self, parts: EngineParts, found: Recovered, ts: int, teller: Any) -> None:
        """Let our books follow the exchange's, and tell every difference."""
        # Asked again: settling may have taken seconds.
        self.state = self.account.state(parts.request.traded)
        foreign = read_foreign(parts)
        for one in differences(parts, foreign, self.state):
            teller.event("reconcile", str(one), difference=one.kind, what=one.what)
        follow(parts, foreign, self.state, max(ts, found.ts))
        write_foreign(parts, foreign)
        for name, held in sorted(foreign.items()):
            if held:
                teller.event("foreign", f"{held:g} {name} is not ours and is left alone")


def differences(
    parts: EngineParts, foreign: dict[str, float], state: AccountState
) -> tuple[Discrepancy, ...]:
    """Return what our books and the exchange's say differently.

    Orders of ours that have no outcome yet, or that have ended in our books, are no strange ones.
    """
    traded = parts.request.traded
    found = compare_books(
        own_books(parts, foreign), their_books(state, traded), traded, _mark(parts)
    )
    return tuple(
        one for one in found if one.kind != "unknown_order" or not _is_journalled(parts, one.what)
    )


def strays(parts: EngineParts, state: AccountState) -> tuple[AccountOrder, ...]:
    """Return the orders of ours that rest at the exchange, and that nothing wants any more.

    They have ended in our books, as one that was given up and came late; or they are stops and
    targets of a position that is gone. Orders that are not in our journal are not among them.
    """
    wanted = parts.strategy.protection.wanted()
    return tuple(
        one
        for one in state.orders
        if one.client_order_id not in wanted
        and one.client_order_id.startswith(_mark(parts))
        and _is_over(parts, one.client_order_id)
    )


def uncovered(parts: EngineParts, state: AccountState) -> frozenset[str]:
    """Return the instruments of which we hold more than our stops at the exchange reduce."""
    ledger, states = parts.recorder.ledger, parts.strategy.desk.states
    held = {name: one.quantity for name, one in ledger.positions.items()}
    stops = (
        # An order without a quantity closes whatever is held.
        Stop(one.instrument_id, one.side, one.quantity - one.filled or float("inf"))
        for one in state.orders
        if one.type == STOP and one.client_order_id.startswith(_mark(parts))
    )
    steps = {name: float(one.terms.step) for name, one in states.items()}
    return frozenset(held) - covered(held, stops, steps)


def require_known_orders(parts: EngineParts, state: AccountState) -> None:
    """Refuse to start beside open orders that bear our mark and are in no journal of ours.

    Raises
    ------
    ConfigError
        If there are any: whoever sent them protects something with them, or still trades.
    """
    strange = sorted(
        one.client_order_id
        for one in state.orders
        if one.client_order_id.startswith(_mark(parts))
        and not _is_journalled(parts, one.client_order_id)
    )
    if strange:
        raise ConfigError(
            f"open orders of engine {parts.request.name} at the exchange must be in the journal of "
            f"its state folder ({parts.store.path}), {', '.join(strange)} "
            f"{'is' if len(strange) == 1 else 'are'} not: go on with the state folder that sent "
            "them, end an engine of this name elsewhere, or cancel them at the exchange"
        )


def _mark(parts: EngineParts) -> str:
    """Return with what the names of our orders begin."""
    return f"{parts.request.order_tag}-"


def _is_journalled(parts: EngineParts, name: str) -> bool:
    return name in parts.recorder.orders or parts.store.order(name) is not None


def _is_over(parts: EngineParts, name: str) -> bool:
    row = parts.recorder.orders.get(name)
    if row is None:
        return parts.store.order(name) is not None
    # What rests may be on its way to be replaced; limits are taken back by who sent them.
    return row.status in FINAL_STATUSES or (row.status == "ACCEPTED" and row.type in EXIT_TYPES)


def begin_books(prepared: Prepared, account: AccountReader) -> Start:
    """Ask an account what it holds.

    Raises
    ------
    AdapterError
        If it cannot be asked.
    ConfigError
        If there is nothing to trade with, or positions would not be held as they must be.
    """
    state = account.state(prepared.request.traded)
    if state.balance <= 0.0:
        raise ConfigError(
            f"the account must have a balance in USDT to trade with, had {state.balance:,.2f}"
        )
    require_margin(prepared, state)
    return Start(account, state)


def balance_of(prepared: Prepared, start: Start) -> float:
    """Return what the engine may count as its own when its books are new, USDT."""
    equity = prepared.request.equity
    return start.state.balance if equity is None else equity


def read_foreign(parts: EngineParts) -> dict[str, float]:
    """Return what is remembered as somebody else's."""
    text = parts.store.read(FOREIGN)
    return {} if text is None else {str(k): float(v) for k, v in json.loads(text).items()}


def write_foreign(parts: EngineParts, foreign: dict[str, float]) -> None:
    """Remember what is somebody else's."""
    parts.store.write(FOREIGN, foreign)

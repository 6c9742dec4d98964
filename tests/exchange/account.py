"""An account of the exchange: its orders, trades and money, and what it is told of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from live.paper_book import (
    PaperAccept,
    PaperBook,
    PaperCancel,
    PaperEvent,
    PaperFill,
    PaperOrder,
    PaperReject,
)
from strategies.execution import ExecutionConfig, commission
from strategies.ledger import FundingRow, Ledger, LedgerFill
from tests.exchange.errors import ExchangeError
from tests.exchange.feed import Kind, Listing, Market, Record
from tests.exchange.messages import account_update, algo_update, order_update
from tests.exchange.orders import NO_EXECUTION, NS_PER_MS, Execution, Order, rest_trade
from tests.exchange.settings import AccountKeys

_MONEY = 8
_NEVER = 1 << 62
USDT_PER_BNB = 600.0
"""What a fee in BNB is reckoned by."""
_FORCED = re.compile(r"(^|^x-[A-Za-z0-9]+-R)[A-Za-z0-9]{1,6}-F[0-9a-z]{7}-[0-9a-z]{7}$")


class Due(NamedTuple):
    """A settlement that is paid once its time is over."""

    ts: int
    symbol: str
    rate: float


class Account:
    """One account: the paper exchange's book, and the venue's own words for what it does.

    Parameters
    ----------
    keys : AccountKeys
        Who it belongs to.
    market : Market
        What is listed.
    execution : ExecutionConfig
        Fees, latency, slippage.
    fill_parts : int
        Into how many trades a fill is divided.

    Attributes
    ----------
    orders : dict of Order
        By their name in the book.
    trades, income : list of dict
        As REST answers them.
    refusals : dict of ExchangeError
        What the book refused when it arrived, by the order's name there, until it is asked for.
    ledger : Ledger
        Cash and positions after each event that was told.
    leverage : dict of int
        By symbol; 20 where nobody has set it.
    isolated : set of str
        Symbols whose positions have a margin of their own. They are held and told, but liquidated
        as the others.
    requests : int
        Orders, amendments and cancels that were asked for, refused ones too.
    """

    def __init__(
        self, keys: AccountKeys, market: Market, execution: ExecutionConfig, fill_parts: int
    ) -> None:
        balance = execution.starting_balance if keys.balance is None else keys.balance
        execution = execution.model_copy(update={"starting_balance": balance})
        self.keys = keys
        self.book = PaperBook(
            {one.symbol: one.terms for one in market.listings.values()}, execution
        )
        self.ledger = Ledger(balance)
        self.orders: dict[str, Order] = {}
        self.trades: list[dict[str, Any]] = []
        self.income: list[dict[str, Any]] = []
        self.refusals: dict[str, ExchangeError] = {}
        self.leverage: dict[str, int] = {}
        self.isolated: set[str] = set()
        self.fee_asset = "USDT"
        self.requests = 0
        self._market = market
        self._execution = execution
        self._parts = fill_parts
        self._due: list[Due] = []
        self._quoted = _NEVER
        self._events: list[dict[str, Any]] = []
        self._next_id: Iterator[int] = iter(())
        self._wanted: dict[str, tuple[float, float]] = {}
        self._renamed: dict[str, str] = {}
        """By the name in the book of an amended order: the name that it was sent under."""
        self._current: dict[str, str] = {}
        self._by_client: dict[tuple[bool, str], str] = {}
        self._by_number: dict[int, str] = {}
        self._opens: dict[str, float] = {}
        self.changed: set[str] = set()
        """Orders of which something new is to be told to control."""

    # ---- what the market does

    def acts_on(self, record: Record) -> bool:
        """Return whether a record could make the account be told something."""
        if self._due and record.ts > self._due[0].ts and self.book.ledger.positions:
            return True
        if record.ts > self._quoted and self.book.liquidation() is not None:
            return True
        if self.book.next_arrival() < record.ts:
            return True
        bars, row = self._market.listings[record.symbol].bars, record.row
        if record.kind is Kind.QUOTE:
            return self.book.quote_would_act(record.symbol, float(bars.open[row]), record.ts)
        if record.kind is Kind.BAR:
            high, low = float(bars.high[row]), float(bars.low[row])
            return self.book.bar_would_act(record.symbol, high, low, record.ts)
        return False

    def on_record(self, record: Record, ids: Iterator[int]) -> list[dict[str, Any]]:
        """Take a record as the paper client does; return what the account is told."""
        self._next_id = ids
        book, symbol, ts = self.book, record.symbol, record.ts
        if ts > self._quoted:
            self._quoted = _NEVER
            self._liquidate(ts)
        self._settle(ts)
        self._tell(book.on_time(ts))
        listing = self._market.listings[symbol]
        bars, row = listing.bars, record.row
        if record.kind is Kind.QUOTE:
            price = float(bars.open[row])
            self._tell(book.on_quote(symbol, price, ts))
            self._quoted, self._opens[symbol] = ts, price
        elif record.kind is Kind.BAR:
            close = float(bars.close[row])
            high, low = float(bars.high[row]), float(bars.low[row])
            self._tell(book.on_bar(symbol, (float(bars.open[row]), high, low, close), ts))
            book.on_volume(symbol, float(bars.volume[row]))
            self.ledger.mark(symbol, close)
        elif record.kind is Kind.MARK:
            known = self._market.known_bars(symbol, ts)
            if known:
                book.on_mark(symbol, float(bars.close[known - 1]))
        else:
            self._due.append(Due(ts, symbol, float(listing.funding.value[row])))
        return self._told()

    def on_clock(self, ts: int, ids: Iterator[int]) -> list[dict[str, Any]]:
        """Let arrive what is due at a time of which there is no record."""
        self._next_id = ids
        self._settle(ts)
        self._tell(self.book.on_time(ts + 1))
        return self._told()

    def on_price(
        self, symbol: str, price: float, ts: int, ids: Iterator[int]
    ) -> list[dict[str, Any]]:
        """Let a market order that waits trade now, at the last price."""
        self._next_id = ids
        self._settle(ts)
        self._tell(self.book.on_quote(symbol, price, ts))
        return self._told()

    def _settle(self, now: int) -> None:
        while self._due and self._due[0].ts < now:
            due = self._due.pop(0)
            row = self.book.on_funding(due.symbol, due.rate, due.ts)
            if row is not None:
                self._pay(row)

    def set_margin(self, symbol: str, leverage: int, isolated: bool | None) -> None:
        """Set an instrument's leverage (0 for none) or margin type (None for none).

        Raises
        ------
        ExchangeError
            If the margin type is the same already, or a position is held.
        """
        if isolated is not None:
            if isolated == (symbol in self.isolated):
                raise ExchangeError(-4046, "No need to change margin type.")
            if self.quantity(symbol):
                raise ExchangeError(
                    -4048, "Margin type cannot be changed if there exists position."
                )
            self.isolated ^= {symbol}
        if leverage:
            self.leverage[symbol] = leverage

    def transfer(self, amount: float, ts: int, kind: str = "TRANSFER") -> list[dict[str, Any]]:
        """Pay in, or take out (below 0); return what the account is told."""
        self.book.ledger.transfer(amount)
        self.ledger.transfer(amount)
        self._note_income(kind, amount, ts // NS_PER_MS)
        why = "DEPOSIT" if amount > 0.0 else "WITHDRAW"
        self._events.append(account_update(self, why, (), ts // NS_PER_MS))
        return self._told()

    def _note_income(self, kind: str, amount: float, ts_ms: int, symbol: str = "") -> None:
        self.income.append(
            {
                "symbol": symbol,
                "incomeType": kind,
                "income": f"{amount:.8f}",
                "asset": "USDT",
                "info": kind,
                "time": ts_ms,
                "tranId": len(self.income) + 1,
                "tradeId": "",
            }
        )

    def _pay(self, row: FundingRow) -> None:
        self.ledger.mark(row.instrument_id, row.mark_price)
        self.ledger.apply_funding(row.instrument_id, row.rate, row.ts_event)
        ts_ms = row.ts_event // NS_PER_MS
        self._note_income("FUNDING_FEE", row.payment, ts_ms, row.instrument_id)
        self._events.append(account_update(self, "FUNDING_FEE", (), ts_ms))

    def _liquidate(self, ts: int) -> None:
        """Take every position away where the equity at the opens no longer carries them."""
        if self.book.liquidation() is None:
            return
        for symbol, held in list(self.book.ledger.positions.items()):
            number = next(self._next_id)
            order = Order(
                order_id=number,
                algo_id=0,
                client_id=f"autoclose-{ts // NS_PER_MS}{number}",
                symbol=symbol,
                side=-1 if held.quantity > 0.0 else 1,
                kind="LIQUIDATION",
                quantity=abs(held.quantity),
                price=None,
                trigger=None,
                time_in_force="IOC",
                reduce_only=True,
                time_ms=ts // NS_PER_MS,
                accepted=True,
            )
            self.submit(f"O{number}", order, ts - self._execution.latency_ns)
            self._tell(self.book.on_quote(symbol, self._opens[symbol], ts))

    # ---- what the client does

    def submit(self, name: str, order: Order, ts: int) -> None:
        """Send an order to the book; it arrives one latency later."""
        self.orders[name] = order
        self._by_client[(order.is_algo, order.client_id)] = name
        self._by_number[order.algo_id or order.order_id] = name
        self.changed.add(name)
        self._send(name, order, ts)

    def _send(self, name: str, order: Order, ts: int) -> None:
        resting = order.kind == "LIMIT"
        self.book.submit(
            PaperOrder(
                client_order_id=name,
                instrument_id=order.symbol,
                side=order.side,
                quantity=round(order.quantity - order.executed, 9),
                trigger=order.trigger,
                reduce_only=order.reduce_only or order.close_position,
                immediate=order.kind == "MARKET" and not is_forced(order.client_id),
                is_target=order.kind == "TAKE_PROFIT_MARKET",
                limit=order.price if resting else None,
                post_only=resting and order.time_in_force == "GTX",
            ),
            ts,
        )

    def is_taken(self, client_id: str, *, algo: bool) -> bool:
        """Return whether an open order has a name; names of ended orders are free again."""
        name = self._by_client.get((algo, client_id))
        return name is not None and self.orders[name].is_open

    def cancel(self, name: str, ts: int) -> None:
        """Ask the book for an order's end; it takes effect one latency later."""
        self.book.cancel(self._current.get(name, name), ts)

    def amend(self, name: str, wanted: tuple[float, float], ts: int) -> None:
        """Ask for another quantity and price: the order leaves its queue and joins it anew."""
        self._wanted[name] = wanted
        self.cancel(name, ts)

    def is_amending(self, name: str) -> bool:
        """Return whether an amendment of an order is on its way."""
        return name in self._wanted

    def _amended(self, name: str, order: Order, listing: Listing, ts: int) -> None:
        order.quantity, order.price = self._wanted.pop(name)
        again = f"{name}M{len(self._renamed)}"
        self._renamed[again], self._current[name] = name, again
        # It is at the exchange: nothing has to travel there again.
        self._send(again, order, ts - self._execution.latency_ns)
        self._events.append(order_update(order, listing, "AMENDMENT", ts // NS_PER_MS))

    def find(
        self, symbol: str, *, order_id: int = 0, client_id: str = "", algo: bool
    ) -> str | None:
        """Return the name in the book of the newest order that is meant; None for none.

        A stop that was triggered is an order of the matching engine, too.
        """
        name = self._by_number.get(order_id) if order_id else None
        if name is None and client_id:
            name = self._by_client.get((algo, client_id))
            if name is None and not algo:
                name = self._by_client.get((True, client_id))
        if name is None:
            return None
        order = self.orders[name]
        meant = not order_id or _number(order, algo=algo) == order_id
        known = order.is_algo if algo else bool(order.order_id)
        return name if meant and known and symbol in ("", order.symbol) else None

    def greet(self, order: Order, ts_ms: int) -> list[dict[str, Any]]:
        """Say that an order is known, which has met no price yet."""
        self._accept(order, self._market.listings[order.symbol], ts_ms)
        return self._told()

    # ---- what the book says

    def _told(self) -> list[dict[str, Any]]:
        events, self._events = self._events, []
        return events

    def _tell(self, events: list[PaperEvent]) -> None:
        for event in events:
            name = event.order.client_order_id
            name = self._renamed.get(name, name)
            order = self.orders[name]
            ts_ms = event.ts_event // NS_PER_MS
            order.update_ms = ts_ms
            self.changed.add(name)
            listing = self._market.listings[order.symbol]
            if isinstance(event, PaperFill):
                self._fill(order, event, listing)
            elif isinstance(event, PaperAccept):
                if not order.accepted:
                    self._accept(order, listing, ts_ms)
            elif isinstance(event, PaperCancel) and name in self._wanted:
                self._amended(name, order, listing, event.ts_event)
            elif isinstance(event, PaperCancel):
                self._end(order, listing, self._end_status(order), ts_ms)
            else:
                self._refuse(name, order, event, listing)

    def _end_status(self, order: Order) -> str:
        return "EXPIRED" if order.kind == "MARKET" else "CANCELED"

    def _accept(self, order: Order, listing: Listing, ts_ms: int) -> None:
        order.accepted = True
        if order.is_algo:
            self._events.append(algo_update(order, listing, "NEW", ts_ms))
        else:
            self._events.append(order_update(order, listing, "NEW", ts_ms))

    def _end(self, order: Order, listing: Listing, status: str, ts_ms: int) -> None:
        order.status = status
        if order.is_algo:
            self._events.append(algo_update(order, listing, status, ts_ms))
        else:
            self._events.append(order_update(order, listing, status, ts_ms))

    def _refuse(self, name: str, order: Order, event: PaperReject, listing: Listing) -> None:
        ts_ms = event.ts_event // NS_PER_MS
        order.reason = event.reason
        if order.accepted:
            # It was taken in before: it ends as a reduce-only order without a position does.
            self._end(order, listing, "EXPIRED", ts_ms)
            return
        order.status = "REJECTED"
        self.refusals[name] = _refusal(event)
        if order.is_algo:
            self._events.append(algo_update(order, listing, "REJECTED", ts_ms))

    def _fill(self, order: Order, fill: PaperFill, listing: Listing) -> None:
        ts_ms = fill.ts_event // NS_PER_MS
        if not order.accepted:
            self._accept(order, listing, ts_ms)
        if order.is_algo and not order.order_id:
            order.order_id, order.trigger_ms = next(self._next_id), ts_ms
            self._by_number[order.order_id] = self._by_number[order.algo_id]
            self._events.append(algo_update(order, listing, "TRIGGERED", ts_ms))
        if order.reduce_only or order.close_position:
            # What reduces covers what is held: the venue changes the quantity of the order.
            order.quantity = round(order.executed + fill.quantity + fill.left, 9)
        realized = self.ledger.apply_fill(
            LedgerFill(
                fill.ts_event,
                order.symbol,
                order.side,
                fill.quantity,
                fill.price,
                fill.commission if self.fee_asset == "USDT" else 0.0,
                "",
            )
        )
        parts = self._divide(fill, listing, realized)
        for part in parts:
            order.executed = round(order.executed + part.quantity, 9)
            order.quote += part.quantity * part.price
            order.status = (
                "FILLED" if order.executed >= order.quantity - 1e-12 else "PARTIALLY_FILLED"
            )
            self.trades.append(rest_trade(order, part, ts_ms))
            self._events.append(account_update(self, "ORDER", (order.symbol,), ts_ms))
            what = "CALCULATED" if order.kind == "LIQUIDATION" else "TRADE"
            self._events.append(order_update(order, listing, what, ts_ms, part))
        if order.is_algo and order.status == "FILLED":
            self._events.append(algo_update(order, listing, "FINISHED", ts_ms))

    def _divide(self, fill: PaperFill, listing: Listing, realized: float) -> list[Execution]:
        step = float(listing.terms.step)
        units = round(fill.quantity / step)
        count = max(1, min(self._parts, units))
        sizes = [units // count + (place < units % count) for place in range(count)]
        quantities = [round(size * step, 9) for size in sizes]
        if count == 1:
            quantities = [fill.quantity]
        left_fee, left_profit, parts = fill.commission, realized, []
        for place, quantity in enumerate(quantities):
            last = place == count - 1
            share = quantity / fill.quantity
            fee = left_fee if last else round(fill.commission * share, _MONEY)
            profit = left_profit if last else round(realized * share, _MONEY)
            left_fee, left_profit = (
                round(left_fee - fee, _MONEY),
                round(left_profit - profit, _MONEY),
            )
            trade_id = next(self._next_id)
            asset = self.fee_asset
            paid = fee if asset == "USDT" else round(fee / USDT_PER_BNB, _MONEY)
            part = Execution(quantity, fill.price, paid, trade_id, fill.made, profit, asset)
            parts.append(part)
        return parts

    # ---- money

    def quantity(self, symbol: str) -> float:
        """Return the signed position, base units."""
        return self.ledger.quantity(symbol)

    def margin_needed(self, symbol: str, quantity: float, price: float) -> float:
        """Return the margin, USDT, of all positions if a signed quantity were traded too."""
        total = 0.0
        names = {*self.ledger.positions, symbol}
        for name in names:
            held = self.quantity(name) + (quantity if name == symbol else 0.0)
            at = price if name == symbol else self.ledger.marks.get(name, price)
            total += abs(held) * at / self.leverage.get(name, 20)
        return total

    def fee(self, quantity: float, price: float) -> float:
        """Return what taking costs, USDT."""
        return commission(quantity, price, self._execution.taker_fee_bps)

    def finish(self, ts: int) -> list[dict[str, Any]]:
        """Pay the settlements that are still due: no further record follows."""
        self._settle(ts + 1)
        return self._told()


def _number(order: Order, *, algo: bool) -> int:
    return order.algo_id if algo else order.order_id


def is_forced(client_id: str) -> bool:
    """Return whether a market order must get out whole, however thin the market is.

    The compiled adapter does not send the time in force of a market order, so a venue cannot tell
    what may be left undone (immediate or cancel) from what may not. Ours are told apart by the
    kind in their names (`strategies.order_ids`); any other market order takes no more than
    `max_participation`, and the rest of it expires.
    """
    return _FORCED.match(client_id) is not None


def _refusal(event: PaperReject) -> ExchangeError:
    if event.would_take:
        return ExchangeError(
            -5022,
            "Due to the order could not be executed as maker, the Post Only order will be "
            "rejected. The order will not be recorded in the order history",
        )
    if event.order.trigger is not None and "in the market" in event.reason:
        return ExchangeError(-2021, "Order would immediately trigger.")
    return ExchangeError(-2022, "ReduceOnly Order is rejected.")


__all__ = ["NO_EXECUTION", "Account"]

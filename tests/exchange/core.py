"""The exchange itself, without a network: a market that goes on step by step, and accounts.

A step is what happens between two moments at which a client may act: records of one time, an order
that arrives, a settlement. Orders are stamped with the time of the last step. Everything follows
from the settings and the commands in their places between steps, so the truth log of commands is
also the exchange's state: `Exchange.recover` goes through the same steps again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count
from typing import Any

from catalog.errors import RunFailedError
from tests.exchange.account import Account
from tests.exchange.errors import ExchangeError, no_such_order, unknown_order
from tests.exchange.feed import Kind, Market
from tests.exchange.filters import check_notional
from tests.exchange.messages import market_messages, unfinished
from tests.exchange.orders import NS_PER_MS, Order
from tests.exchange.settings import ExchangeSettings
from tests.exchange.steps import Command, Flight, Message, Shown, Step, StepKind
from tests.exchange.truth import TruthLog

_FIRST_ID = 1_000_001
_NEVER = 1 << 62


class Exchange:
    """A venue: market, accounts and truth log.

    Parameters
    ----------
    settings : ExchangeSettings
        What it is made of.
    market : Market, optional
        The market, where it has been read before.
    """

    def __init__(self, settings: ExchangeSettings, market: Market | None = None) -> None:
        self.settings = settings
        self.market = Market(settings) if market is None else market
        self.accounts = {
            one.key: Account(one, self.market, settings.execution, settings.fill_parts)
            for one in settings.accounts
        }
        for one in self.accounts.values():
            one.fee_asset = settings.fee_asset
        self.clock = settings.start
        self.steps = 0
        self.prices: dict[str, float] = {}
        self.listen_keys: dict[str, str] = {}
        """By account; an exchange that was restarted still knows them."""
        self._position = 0
        self._ids: Iterator[int] = count(_FIRST_ID)
        self._flights: list[Flight] = []
        self._later = Shown()
        self._log = TruthLog(settings.state, settings.header())
        self._first_prices()
        try:
            self._recover()
        except BaseException:
            self.close()
            raise

    def _first_prices(self) -> None:
        for symbol, one in self.market.listings.items():
            known = self.market.known_bars(symbol, self.clock)
            self.prices[symbol] = float(one.bars.close[known - 1] if known else one.bars.open[0])

    # ---- time

    @property
    def clock_ms(self) -> int:
        """Market time, milliseconds."""
        return self.clock // NS_PER_MS

    @property
    def over(self) -> bool:
        """Whether the market has come to its end."""
        return self._position >= len(self.market) and not self._later.messages

    def next_time(self) -> int | None:
        """Return when the next step happens, market time; None at the end."""
        if self._later.messages:
            return self.clock
        ts = self.market.time_of(self._position)
        return None if ts is None else min(ts, max(self._next_due(), self.clock))

    def next_is_quote(self, symbol: str) -> bool:
        """Return whether an open of an instrument comes before any of its bars closes."""
        position = self._position
        end = self.clock + self.settings.execution.latency_ns
        while (ts := self.market.time_of(position)) is not None and ts <= end:
            record = self.market.record(position)
            if record.symbol == symbol and record.kind is Kind.QUOTE:
                return True
            position += 1
        return False

    def _next_due(self) -> int:
        return min((one.book.next_arrival() for one in self.accounts.values()), default=_NEVER)

    def step(self) -> Step | None:
        """Let the next thing happen; None at the end of the market."""
        step = self._step()
        return None if step is None else self._finished(step)

    def _finished(self, step: Step) -> Step:
        """Answer what has arrived, and take the step down."""
        step = replace(step, messages=(*step.messages, *self._land(closes=step.closes)))
        self._log.step(step.number, step.ts, step.messages)
        return step

    def _step(self) -> Step | None:
        if self._later.messages:
            messages, self._later.messages = self._later.messages, []
            return self._made("records", messages)
        while (ts := self.market.time_of(self._position)) is not None:
            due = self._next_due()
            if due < ts:
                return self._arrive(due)
            self.clock = ts
            found = self._records(ts)
            if found is not None:
                return found
        told: list[Message] = []
        for account in self.accounts.values():
            told += self._user(account, account.finish(self.clock))
        return self._made("events", told) if told else None

    def arrive(self) -> Step | None:
        """Let only orders arrive that do so before the next record; None if there are none."""
        ts, due = self.market.time_of(self._position), self._next_due()
        if due == _NEVER or self._later.messages or (ts is not None and due >= ts):
            return None
        return self._finished(self._arrive(due))

    def _arrive(self, due: int) -> Step:
        self.clock = max(self.clock, due)
        told: list[Message] = []
        for account in self.accounts.values():
            told += self._user(account, account.on_clock(self.clock, self._ids))
        return self._made("arrival", told)

    def meet_price(self) -> Step | None:
        """Let market orders that wait meet the last price, where no open is about to come."""
        met = [
            (account, symbol, price)
            for account in self.accounts.values()
            for symbol, price in self.prices.items()
            if account.book.quote_would_act(symbol, price, self.clock)
            and not self.next_is_quote(symbol)
        ]
        if not met:
            return None
        told: list[Message] = []
        for account, symbol, price in met:
            told += self._user(account, account.on_price(symbol, price, self.clock, self._ids))
        step = self._made("price", told)
        self._log.command(step.number - 1, {"do": "price"})
        return self._finished(step)

    def _records(self, ts: int) -> Step | None:
        shown: list[Message] = []
        while self.market.time_of(self._position) == ts:
            record = self.market.record(self._position)
            acting = any(one.acts_on(record) for one in self.accounts.values())
            if acting and shown:
                # What was shown before must be seen before the events of this record.
                return self._made("records", shown)
            self._position += 1
            told: list[Message] = []
            for account in self.accounts.values():
                told += self._user(account, account.on_record(record, self._ids))
            self._note_price(record.symbol, record.kind, record.row)
            interval = self.settings.interval
            after = [
                Message("market", name, payload)
                for name, payload in market_messages(self.market, record, interval)
            ]
            if told:
                self._later.messages = after
                return self._made("events", told)
            shown += after
        return self._made("records", shown) if shown else None

    def _note_price(self, symbol: str, kind: Kind, row: int) -> None:
        bars = self.market.listings[symbol].bars
        if kind is Kind.BAR:
            self.prices[symbol] = float(bars.close[row])
        elif kind is Kind.QUOTE:
            self.prices[symbol] = float(bars.open[row])

    def _user(self, account: Account, events: list[dict[str, Any]]) -> list[Message]:
        return [Message("user", account.keys.key, one) for one in events]

    def _made(self, kind: StepKind, messages: list[Message]) -> Step:
        self.steps += 1
        ahead = self.market.time_of(self._position) == self.clock
        closes = not ahead and not self._later.messages
        return Step(self.steps, self.clock, kind, tuple(messages), closes)

    def unfinished(self) -> list[Message]:
        """Return the klines of the bars that are being traded."""
        told = []
        for symbol, listing in self.market.listings.items():
            row, bars = self.market.known_bars(symbol, self.clock), listing.bars
            if row < len(bars) and int(bars.ts_init[row]) - bars.interval_ns <= self.clock:
                interval = self.settings.interval
                name = f"{symbol.lower()}@kline_{interval}"
                told.append(Message("market", name, unfinished(listing, row, interval, self.clock)))
        return told

    # ---- commands

    def place(self, account: Account, order: Order, *, algo: bool) -> Flight:
        """Take an order in; it arrives one latency later, and is answered then.

        Raises
        ------
        ExchangeError
            If an open order has its name, it is worth too little, or the margin is missing.
        """
        flight = self._place(account, order, algo=algo)
        self._log.command(
            self.steps,
            {"do": "place", "key": account.keys.key, "algo": algo, "order": asdict(order)},
        )
        return flight

    def _place(self, account: Account, order: Order, *, algo: bool) -> Flight:
        listing = self.market.listings[order.symbol]
        self._check_name(account, order, algo=algo)
        price = order.price or self.prices[order.symbol]
        if not algo:
            check_notional(listing, order, price)
            self._check_margin(account, order, price)
        number = next(self._ids)
        if algo:
            order.algo_id, name = number, f"A{number}"
            if order.close_position:
                order.quantity = abs(account.quantity(order.symbol))
        else:
            order.order_id, name = number, f"O{number}"
        order.client_id = order.client_id or f"web_{number}"
        account.submit(name, order, self.clock)
        return self._fly(account, name, "place")

    def _check_name(self, account: Account, order: Order, *, algo: bool) -> None:
        if order.client_id and account.is_taken(order.client_id, algo=algo):
            raise ExchangeError(-4116, "ClientOrderId is duplicated.")

    def _check_margin(self, account: Account, order: Order, price: float) -> None:
        if order.reduce_only:
            return
        signed = order.side * order.quantity
        before = account.margin_needed(order.symbol, 0.0, price)
        needed = account.margin_needed(order.symbol, signed, price)
        free = account.ledger.equity() - account.fee(order.quantity, price)
        if needed > before and needed > free:
            raise ExchangeError(-2019, "Margin is insufficient.")

    def cancel(self, account: Account, name: str | None) -> Flight:
        """Ask for an order's end; it takes effect one latency later.

        Raises
        ------
        ExchangeError
            If there is no such open order.
        """
        flight = self._cancel(account, name)
        self._log.command(self.steps, {"do": "cancel", "key": account.keys.key, "name": name})
        return flight

    def _cancel(self, account: Account, name: str | None) -> Flight:
        if name is None or not account.orders[name].is_open:
            raise unknown_order()
        account.cancel(name, self.clock)
        return self._fly(account, name, "cancel")

    def amend(self, account: Account, name: str, wanted: tuple[float, float]) -> Flight:
        """Change quantity and price of a limit order that is open.

        Raises
        ------
        ExchangeError
            If it is none, or less is asked for than was filled.
        """
        order = account.orders[name]
        if order.kind != "LIMIT" or wanted[0] <= order.executed:
            raise ExchangeError(-5027, "No need to modify the order.")
        flight = self._amend(account, name, wanted)
        self._log.command(
            self.steps, {"do": "amend", "key": account.keys.key, "name": name, "to": list(wanted)}
        )
        return flight

    def _amend(self, account: Account, name: str, wanted: tuple[float, float]) -> Flight:
        account.amend(name, wanted, self.clock)
        return self._fly(account, name, "amend")

    def _fly(self, account: Account, name: str, what: Command) -> Flight:
        arrival = self.clock + self.settings.execution.latency_ns
        done: asyncio.Future[Order] | None = None
        with contextlib.suppress(RuntimeError):
            # Without a loop nobody waits: a recovery, a test of the core.
            done = asyncio.get_running_loop().create_future()
        if done is not None:
            # Whoever asked may have left: nobody else needs to hear of a refusal.
            done.add_done_callback(lambda one: one.cancelled() or one.exception())
        flight = Flight(arrival, account, name, what, done)
        self._flights.append(flight)
        return flight

    def _land(self, *, closes: bool) -> list[Message]:
        """Answer the commands that have arrived; return what accounts are told of them.

        What arrives with a record is in the book once its instrument's record was taken.
        """
        waiting: list[Flight] = []
        told: list[Message] = []
        for flight in self._flights:
            order = flight.account.orders[flight.name]
            known = not order.is_open or (flight.what == "place" and order.accepted)
            known |= flight.what == "amend" and not flight.account.is_amending(flight.name)
            there = flight.arrival < self.clock or (flight.arrival == self.clock and closes)
            if known or there:
                told += self._answer(flight, order)
            else:
                waiting.append(flight)
        self._flights = waiting
        return told

    def _answer(self, flight: Flight, order: Order) -> list[Message]:
        account = flight.account
        told: list[Message] = []
        refusal = account.refusals.pop(flight.name, None)
        if flight.what == "cancel" and order.status not in ("CANCELED", "EXPIRED"):
            refusal = unknown_order()
        if flight.what == "place" and order.is_open and not order.accepted:
            # A market order that waits for an open is in the book, and known as new.
            told = self._user(account, account.greet(order, self.clock_ms))
        if flight.done is not None and not flight.done.done():
            if refusal is not None:
                flight.done.set_exception(refusal)
            else:
                flight.done.set_result(order)
        return told

    def transfer(self, account: Account, amount: float, kind: str = "TRANSFER") -> Step:
        """Let the account's owner pay in, or take out (below 0), in the venue's word for it."""
        told = self._user(account, account.transfer(amount, self.clock, kind))
        step = self._made("events", told)
        command = {"do": "transfer", "key": account.keys.key, "amount": amount, "kind": kind}
        self._log.command(step.number - 1, command)
        return self._finished(step)

    def set_margin(
        self, account: Account, symbol: str, *, leverage: int = 0, isolated: bool | None = None
    ) -> None:
        """Set an instrument's leverage or margin type; `ExchangeError` where nothing changes."""
        account.set_margin(symbol, leverage, isolated)
        command = {"symbol": symbol, "leverage": leverage, "isolated": isolated}
        self._log.command(self.steps, {"do": "margin", "key": account.keys.key, **command})

    def listen(self, account: Account, key: str) -> None:
        """Give an account a listen key; an empty one takes it away."""
        self._listen(account.keys.key, key)
        self._log.command(self.steps, {"do": "listen", "key": account.keys.key, "listen": key})

    def _listen(self, name: str, key: str) -> None:
        self.listen_keys.pop(name, None)
        if key:
            self.listen_keys[name] = key

    # ---- questions

    def order(self, account: Account, name: str | None) -> Order:
        """Return an order by its name in the book.

        Raises
        ------
        ExchangeError
            If there is none.
        """
        if name is None:
            raise no_such_order()
        return account.orders[name]

    def in_flight(self, account: Account) -> int:
        """Return how many of an account's commands have not arrived."""
        return sum(one.account is account for one in self._flights)

    def note(self, what: dict[str, Any]) -> None:
        """Note in the truth log what changes nothing: a refusal, a fault."""
        self._log.note(self.steps, what)

    def close(self) -> None:
        """Close the truth log."""
        self._log.close()

    # ---- its own restart

    def _recover(self) -> None:
        """Go through the steps and commands of an earlier life."""
        lines = self._log.read()
        if not lines:
            return
        self._log.replaying = True
        for line in lines:
            if "do" in line:
                self._again(line)
            while "ts" in line and self.steps < int(line["n"]):
                if self._replayed_step() is None:
                    raise RunFailedError(
                        f"the truth log must fit the catalog, which ended before step "
                        f"{line['n']}: use the catalog that the log was begun with"
                    )
        self._log.replaying = False
        for flight in self._flights:
            flight.done = None

    def _replayed_step(self) -> Step | None:
        step = self._step()
        if step is None and self._next_due() != _NEVER:
            # The last commands arrived after the last record.
            step = self._arrive(self._next_due())
        return None if step is None else self._finished(step)

    def _again(self, line: dict[str, Any]) -> None:
        what = line.get("do")
        if what == "place":
            account = self.accounts[line["key"]]
            order = Order(**line["order"])
            order.order_id = order.algo_id = 0
            self._place(account, order, algo=line["algo"])
        elif what == "cancel":
            self._cancel(self.accounts[line["key"]], line["name"])
        elif what == "amend":
            quantity, price = line["to"]
            self._amend(self.accounts[line["key"]], line["name"], (quantity, price))
        elif what == "listen":
            self._listen(line["key"], line["listen"])
        elif what == "transfer":
            self.transfer(self.accounts[line["key"]], line["amount"], line.get("kind", "TRANSFER"))
        elif what == "margin":
            account = self.accounts[line["key"]]
            account.set_margin(line["symbol"], line["leverage"], line["isolated"])
        elif what == "price":
            self.meet_price()


__all__ = ["Exchange", "Flight", "Message", "Step"]

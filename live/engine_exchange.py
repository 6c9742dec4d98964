"""An engine on the feed of an exchange: on paper, on its testnet, or with money.

The start is in this order, and nothing is sent before all of it is known: the exchange says what
time it has and how it defines its instruments; the account says what it holds; the strategy is
restored and told what became of each order that an earlier process journalled; our books are
brought to what the exchange holds. Then the node starts, the feed warms up, and the outbox opens.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from adapters.accounts import BinanceAccount
from adapters.connections import Connection
from adapters.polling_client import POLLING, polling_data_factory
from adapters.polling_config import Polling, load_polling
from adapters.venue_queries import load_definitions, market_time_ns
from catalog.errors import AwayError, LeviBotError
from live.account_claim import AccountClaim, claim_account
from live.account_margin import MarginCheck, needed_margin
from live.account_money import AccountGate, AccountMoney
from live.account_watch import AccountWatch
from live.bar_gate import BarSet
from live.book_owner import (
    Part,
    follow_equity,
    follow_model,
    require_own_account,
    require_own_books,
)
from live.clock_check import ClockCheck, require_clock
from live.engine import FAILED, Engine, Outcome, Teller
from live.engine_parts import PAPER_FILE, STATE_FILE, Prepared, Setting, assemble
from live.engine_request import EngineRequest
from live.feed_delivery import Receivers
from live.first_questions import FirstQuestions, first_questions
from live.foreign_gate import ForeignGate
from live.history import StoredHistory, first_needed, stored_history
from live.live_guard import LiveGuard
from live.market_clock import ClockTap, MarketClock, clock_for, wall_clock
from live.market_feed import FeedConfig, FeedWiring, MarketFeed
from live.node import NodeClients, exchange_node_config, first_to_end, run_clients
from live.paper import PaperExecutionClient, PaperWiring, paper_factory
from live.paper_quotes import LatePaper, PaperQuotes
from live.paper_store import PaperStore
from live.recovery import Recovered, RecoveryConfig, recover
from live.slow_feed import SlowFeed, open_slow_feed
from live.start_books import Start, balance_of, begin_books, require_known_orders
from live.state_store import StateStore
from live.stop_signals import StopSignals
from strategies.past_closes import PastCloses
from strategies.risk_guard import RiskGuard, RiskGuardConfig

_LOOK_MS = 1_000
_ANY_SECS = 86_400.0
_PRICELESS_NS = 5_000_000_000
"""How long orders wait for a first quote, of the wall clock: what reduces must leave some time."""
NS_PER_MS = 1_000_000


def run_exchange(
    prepared: Prepared,
    guard: LiveGuard,
    teller: Teller,
    last_words: Callable[[Outcome], None],
) -> Outcome:
    """Run an engine on an exchange's feed until it is stopped or fails.

    One whose orders reach an exchange does not return from a run: it hands its outcome to
    `last_words`, and its process ends with the outcome's code.

    Raises
    ------
    ConfigError, DataError
        Before anything is started, if the exchange or the account cannot be worked with.
    AwayError
        Before anything is started, if the exchange does not answer.
    """
    request = prepared.request
    with ExitStack() as open_files:
        with first_questions(request, teller) as questions:
            paper, claim, identity = None, None, ""
            if request.mode != "paper":
                reader = account_of(request)
                questions.ask(lambda: require_clock(reader))
                identity = questions.ask(reader.identity)
                claim = claim_account(request, request.order_connection(), identity)
                open_files.enter_context(claim)
            store = open_files.enter_context(closing(StateStore(request.folder / STATE_FILE)))
            require_own_books(store, request)
            require_own_account(store, request, identity)
            if request.mode == "paper":
                paper = open_files.enter_context(closing(PaperStore(request.folder / PAPER_FILE)))
            stores = Stores(store, paper, claim)
            engine = ExchangeEngine(prepared, guard, stores, questions, teller, last_words)
        return engine.run()


def account_of(request: EngineRequest) -> BinanceAccount:
    """Return who asks the account that an engine trades on.

    Raises
    ------
    ConfigError
        If its keys are missing.
    """
    return BinanceAccount(request.order_connection())


class Stores(NamedTuple):
    """What an engine has to itself.

    Its databases: journal and state, and the paper account where it has one; and its claim on an
    exchange's account, None where it shares that with nobody.
    """

    state: StateStore
    paper: PaperStore | None
    claim: AccountClaim | None = None


class ExchangeEngine:
    """One engine on one exchange, from the first question to the last status.

    Parameters
    ----------
    prepared : Prepared
        Loaded and checked.
    guard : LiveGuard
        Claimed.
    stores : Stores
        Claimed.
    questions : FirstQuestions
        Asks before the node runs.
    teller : Teller
        Takes what is worth a line in the log.
    last_words : callable
        Told the outcome where the process ends here.

    Attributes
    ----------
    shows_past : bool
        Whether the windows of a new strategy are filled from before its start.
    """

    shows_past = True

    def __init__(
        self,
        prepared: Prepared,
        guard: LiveGuard,
        stores: Stores,
        questions: FirstQuestions,
        teller: Teller,
        last_words: Callable[[Outcome], None],
    ) -> None:
        request = prepared.request
        self._prepared = prepared
        self._request = request
        self._questions = questions
        self._teller = teller
        self._last_words = last_words
        self._store, self._paper_store, claim = stores
        self._data = request.data_connection()
        self._account = account_of(request) if self._is_real else None
        self.clock = questions.ask(self._market_clock)
        self.now: Callable[[], int] = self.clock or wall_clock
        definitions = questions.ask(self._definitions)
        start = None
        if (account := self._account) is not None:
            start = questions.ask(lambda: begin_books(prepared, account))
        balance = None if start is None else balance_of(prepared, start)
        setting = Setting(definitions, fed=True, claims=True, balance=balance)
        self.parts = assemble(prepared, guard, stores.state, setting)
        follow_model(stores.state, str(prepared.bundle.manifest["digest"]), teller)
        self.parts.strategy.newest = self.clock
        strategy = self.parts.strategy
        strategy.outbox.exits_first = strategy.desk.expires = self._is_real
        self.engine = Engine(self.parts, self.now, teller)
        self._definitions_of_all = definitions
        self._paper = LatePaper()
        self._money: AccountMoney | None = None
        if claim is not None:
            asked = account_of(request)
            self._money = AccountMoney(self.parts, asked, claim, self.now, teller)
        self._slow: SlowFeed | None = None
        self.feed = self._feed(self._recover(start))
        self._held = True
        self._look_since = 0
        self._signals = StopSignals()
        self._stopped = False

    def close(self) -> None:
        """Let other processes have its databases."""
        self._store.close()
        if self._paper_store is not None:
            self._paper_store.close()

    @property
    def _is_real(self) -> bool:
        """Whether orders reach an exchange."""
        return self._request.mode != "paper"

    # ---- before the node

    def _market_clock(self) -> MarketClock | None:
        """Return the clock of an exchange that plays recorded data, None for the wall clock."""
        first = self._request.profile.data.instruments[0]
        found = market_time_ns(self._request.venue, self._data, first)
        return None if found is None else clock_for(found, self._request.speed)

    def _definitions(self) -> tuple[Any, ...]:
        names = self._prepared.instruments
        found = load_definitions(self._request.venue, self._data, names)
        return self._prepared.definitions() if found is None else found

    def _recover(self, start: Start | None) -> Recovered:
        """Restore the strategy, and learn what became of its orders."""
        if self._account is None or start is None:
            assert self._paper_store is not None
            lookup = self._paper_store.lookup
            found = recover(self._store, self.parts.strategy, lookup, self.now, _PAPER)
            given = self._prepared.execution.starting_balance
            follow_equity(self.parts, Part(given, paper=self._paper_store), self._teller)
            return found
        require_known_orders(self.parts, start.state)
        found = recover(self._store, self.parts.strategy, start.lookup(self.parts), self.now)
        start.adjust(self.parts, found, self.now(), self._teller)
        self._share_account(start.state.balance, is_new=not found.restored)
        return found

    def _share_account(self, balance: float, *, is_new: bool) -> None:
        """Bring the books to what the engine may count of its account."""
        money = self._money
        if money is not None:
            money.repair()
        part = Part(self._request.equity, balance)
        changed = follow_equity(self.parts, part, self._teller)
        if money is not None:
            self._questions.ask(lambda: money.begin(balance, fresh=is_new or changed))

    def _feed(self, found: Recovered) -> MarketFeed:
        prepared, parts, request = self._prepared, self.parts, self._request
        now = self.now()
        stored = stored_history(
            request.catalog,
            prepared.predictor.spec,
            first_needed(prepared.predictor.spec, now),
            until=now,
        )
        self._questions.alive()
        self._slow = self._slow_inputs(stored)
        if self._slow is not None:
            stored = self._slow.stored
        receivers = Receivers(
            actor=parts.actor,
            strategy=parts.strategy,
            traded=frozenset(request.traded),
            books_funding=prepared.execution.funding == "recorded",
            known_until=found.ts,
            past=PastCloses(parts.strategy).show if self.shows_past else None,
        )
        config = FeedConfig()
        if self.clock is not None:
            config = config.at_speed(self.clock.speed or 1.0)
            if self.clock.speed is None:
                # Time passes with the data only: a bar may come before the stamp that tells it.
                gate = config.gate.model_copy(update={"ahead_secs": _ANY_SECS})
                config = config.model_copy(update={"gate": gate})
        wiring = FeedWiring(
            receivers=receivers,
            client=request.venue.venue,
            instruments=self._definitions_of_all,
            stored=stored,
            slow_client=None if self._slow is None else POLLING,
            now=self.clock,
            on_handled=self._handled,
            on_error=lambda error: self.engine.fail(f"market feed: {error!r}"),
        )
        return MarketFeed(wiring, config)

    def _slow_inputs(self, stored: StoredHistory) -> SlowFeed | None:
        """Return the slow inputs of the predictor, with what is past; None if it has none.

        Beside recorded data the vendors' own servers speak of another time: only those that are
        named are asked.
        """
        named = self._request.inputs
        if named is None and self.clock is not None:
            return None
        polling = Polling() if named is None else load_polling(named)
        spec, catalog = self._prepared.predictor.spec, self._request.catalog
        found = open_slow_feed(polling, spec, catalog, stored, clock_ns=self.now)
        for reader, why in ({} if found is None else found.faults).items():
            self._teller.event("inputs", f"history of {reader} cannot be had: {why}")
        return found

    # ---- the node

    def run(self) -> Outcome:
        """Run the node; one may exist in a process."""
        engine, parts = self.engine, self.parts
        engine.view.feed_counters = self._counters
        engine.view.input_ages = lambda: self.feed.status().input_ages_s
        engine.each_look.append(self._look)
        if self._is_real:
            engine.end_in_order(self._signals)
        watcher = self._watch_account()
        engine.before_exit = self._leave
        actors = [
            *self._clock_tap(),
            parts.actor,
            self.feed,
            self._guard_actor(),
            *self._quotes(),
            engine.watch(),
        ]
        config = exchange_node_config(self._request.traded, asks=self._is_real)
        engine.asked = lambda: self._signals.seen or self._stopped
        engine.start("starting")
        error: BaseException | None = None
        with self._signals:
            try:
                run_clients(self._clients(), config, self._ready, actors, [parts.strategy])
            except LeviBotError as raised:
                error = raised
            finally:
                if watcher is not None:
                    watcher.close()
            return engine.ended(error)

    def _clients(self) -> NodeClients:
        venue = self._request.venue
        if not self._is_real:
            paper = self._paper_client()
            return NodeClients(venue.venue, venue.data(self._data), paper, self._others())
        order = self._request.order_connection()
        execution = venue.execution(order)
        return NodeClients(venue.venue, venue.data(self._data), execution, self._others())

    def _others(self) -> tuple[tuple[str, Any, Any], ...]:
        from nautilus_trader.config import DataClientConfig

        found = []
        if self._is_real:
            found.append(first_to_end(self._leave_unstarted))
        if self._slow is not None:
            found.append((POLLING, polling_data_factory(self._slow.service), DataClientConfig()))
        return tuple(found)

    def _paper_client(self) -> tuple[Any, Any]:
        from nautilus_trader.config import ExecutionClientConfig

        connection = Connection()
        wiring = PaperWiring(
            venue=self._request.venue.venue,
            account_id=self._request.venue.account_id(connection),
            instruments=self._definitions_of_all,
            execution=self._prepared.execution,
            # With recorded data an order is sent at the close that it was decided on.
            now=self.now if self.clock is None else self.clock.newest,
            note_reference=self.parts.recorder.reference,
            on_error=self._paper_failed,
            on_account_query=lambda parameters: None,
            store=self._paper_store,
        )
        return paper_factory(wiring, self._paper_made), ExecutionClientConfig()

    def _paper_made(self, client: PaperExecutionClient) -> None:
        self._paper.client = self.feed.exchange = client

    def _quotes(self) -> list[PaperQuotes]:
        if self._is_real:
            return []
        seen = None if self.clock is None else self._seen
        failed = self._paper_failed
        return [PaperQuotes(self.parts.instruments, self._paper, self.now, seen, failed)]

    def _paper_failed(self, error: BaseException) -> None:
        self.engine.fail(f"paper exchange: {type(error).__name__}: {error}")

    def _clock_tap(self) -> list[ClockTap]:
        return [] if self.clock is None else [ClockTap(self.clock, self._prepared.instruments)]

    def _seen(self, ts: int) -> None:
        if self.clock is not None:
            self.clock.seen(ts)

    def _guard_actor(self) -> RiskGuard:
        speed = 1.0 if self.clock is None else self.clock.speed or 1e6
        self.parts.guard.watch.wall = wall_clock
        if self.clock is not None and self.clock.speed is not None:
            self.parts.guard.guard.pace = max(self.clock.speed, 1.0)
        config = RiskGuardConfig(_LOOK_MS, self.parts.guard.watch, self.clock, speed)
        return RiskGuard(self.parts.strategy, config)

    def _watch_account(self) -> AccountWatch | None:
        if self._account is None:
            return None
        account = self._account
        watcher = AccountWatch(self.parts, account, self.now, self._teller, account.cancel)
        self.engine.each_look.append(watcher.look)
        self.engine.uncovered = watcher.uncovered
        desk = self.parts.strategy.guard
        assert desk is not None
        desk.gate = ForeignGate(watcher.foreign, desk.gate)
        if self._money is not None:
            self._money.is_steady = lambda: self.engine.view.state == "trading"
            watcher.each_answer.append(self._money.judge)
            self.engine.each_look.append(self._money.look)
            clock = ClockCheck(account_of(self._request), self._teller)
            margin = MarginCheck(needed_margin(self._prepared), self._teller)
            watcher.each_answer.append(margin.judge)
            self.engine.each_look.append(clock.look)
            gate = AccountGate(
                (self._money.refused, clock.refused, watcher.stream.refused, margin.refused),
                desk.gate,
            )
            desk.gate, self.engine.view.blocked = gate, gate.why
        watcher.start()
        return watcher

    def _ready(self, stop: Callable[[], None]) -> None:
        def stop_now() -> None:
            self._stopped = True
            stop()

        self.engine.stop = stop_now

    # ---- while it runs

    def _handled(self, found: BarSet, latency_ns: int | None) -> None:
        view = self.engine.view
        view.last_bar_ns = found.ts
        self._seen(found.ts)
        before = view.measured.seen_orders
        view.notice()
        if found.fresh and latency_ns is not None and view.measured.seen_orders > before:
            view.measured.latency(latency_ns / NS_PER_MS)

    def _look(self, wall_ns: int) -> None:
        """Open the outbox once everything has started, and say what the feed says."""
        self._look_since = self._look_since or wall_ns
        if self._held and self._can_send(wall_ns):
            self._held = False
            self.parts.strategy.outbox.release()
        status = self.feed.status()
        if self.engine.view.state != "stopping" and status.state != "failed":
            self.engine.say(status.state, status.reason)

    def _can_send(self, wall_ns: int) -> bool:
        """Return whether every instrument has a price: until then the engine denies its orders."""
        cache = self.parts.strategy.cache
        priced = all(cache.has_quote_ticks(one.id) for one in self.parts.instruments)
        return priced or wall_ns - self._look_since >= _PRICELESS_NS

    def _counters(self) -> dict[str, int]:
        shown = ("bars", "late", "duplicate", "unfinished", "out_of_order", "gaps", "backfilled")
        counters = self.feed.status().counters
        return {name: counters[name] for name in (*shown, "reconnects") if name in counters}

    def _leave_unstarted(self) -> None:
        """End at once where the node ends before its components have started; see `_leave`."""
        if self.engine.asked():
            self._leave()
            return
        where = self._request.exchange or self._request.venue.title
        text = f"{where} must answer a node that starts, did not within its time"
        self._leave(AwayError(f"{text}: the engine's console has its errors"))

    def _leave(self, error: LeviBotError | None = None) -> None:
        """End at once where orders reach an exchange.

        A node that stops in order ends the listen key, which is that of the account: it would
        silence whoever else trades on it. A key that nobody extends ends by itself.
        """
        if self._is_real:
            code = FAILED
            try:
                outcome = self.engine.ended(error)
                code = outcome.code
                self.close()
                self._teller.close()
                self._last_words(outcome)
                sys.stdout.flush()
            except Exception:
                traceback.print_exc()
            finally:
                # Also where the disk is full, or its terminal is gone and words cannot be written.
                os._exit(code)


_PAPER = RecoveryConfig(in_flight_secs=0.0)

"""A live strategy without a node: its callbacks are called in the order of a replay, its exchange
is a paper book that survives it, its state a real database. It can die between any two calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from nautilus_trader.model import (
    Bar,
    ClientOrderId,
    Currency,
    FundingRateUpdate,
    LiquiditySide,
    MarkPriceUpdate,
    Money,
    Price,
    Quantity,
    QuoteTick,
)

from catalog.types import FusionPrediction, register_types
from live.live_replay import sorted_records
from live.paper_book import PaperBook
from live.paper_orders import PaperAccept, PaperCancel, PaperFill, PaperOrder, PaperReject
from live.recovery import Recovered, RecoveryConfig, recover
from live.state_store import StateStore
from research.predictor import Prediction, Predictor
from strategies.backtest import ReplayInputs, expected_costs
from strategies.execution import ExecutionConfig, InstrumentTerms
from strategies.fusion import StrategySettings
from strategies.guard import Guard
from strategies.guard_store import GuardStore
from strategies.kept import KeptStrategy
from strategies.limit_orders import LimitStyle
from strategies.market_data import price_number
from strategies.order_reports import OrderReport, TradeReport
from strategies.policy_config import FusionPolicy
from strategies.recorder import MAKER, TAKER, RunRecorder
from strategies.sizing import confidence

PAPER = RecoveryConfig(in_flight_secs=0.0, fresh_secs=1e9)
"""Of an exchange to which nothing is on its way once the process is gone."""
USDT = Currency.from_str("USDT")


class Killed(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class Setting:
    """What is traded, and how."""

    inputs: ReplayInputs
    predictor: Callable[[], Predictor]
    policy: FusionPolicy
    execution: ExecutionConfig


class Exchange(Protocol):
    """What the strategy trades on; it survives the strategy."""

    now: int

    def submit(self, order: dict[str, Any]) -> None: ...
    def cancel(self, client_order_id: str) -> None: ...
    def advance(self, number: int) -> list[dict[str, Any]]: ...
    def lookup(self, client_order_id: str) -> OrderReport | None: ...


@dataclass
class BookExchange:
    """A paper book as an exchange: it takes each record once, and remembers every order.

    `truth` has every order and every trade in the order in which they happened.
    """

    setting: Setting
    records: Sequence[Any]
    truth: list[tuple[Any, ...]] = field(default_factory=list)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    applied: int = 0
    now: int = 0
    twice: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        terms = {str(one.id): InstrumentTerms.of(one) for one in self.setting.inputs.instruments}
        self.book = PaperBook(terms, self.setting.execution)
        self.due: list[Any] = []
        self.trades = 0

    def submit(self, order: dict[str, Any]) -> None:
        name = order["client_order_id"]
        self.truth.append(("order", *order.values()))
        if name in self.reports:
            self.twice.append(name)
            return
        self.reports[name] = {"status": "SUBMITTED", "trades": [], "ts": self.now, "detail": ""}
        self.book.submit(PaperOrder(**order), self.now)

    def cancel(self, client_order_id: str) -> None:
        self.book.cancel(client_order_id, self.now)

    def lookup(self, client_order_id: str) -> OrderReport | None:
        found = self.reports.get(client_order_id)
        if found is None:
            return None
        trades = tuple(TradeReport(*one) for one in found["trades"])
        status, ts, detail = found["status"], found["ts"], found["detail"]
        return OrderReport(client_order_id, status, trades, ts, detail)

    def advance(self, number: int) -> list[dict[str, Any]]:
        """Take record `number`, once, and return what it led to."""
        if number < self.applied:
            return []
        record = self.records[number]
        ts = self.now = record.ts_init
        told = []
        while self.due and self.due[0].ts_init < ts:
            funding = self.due.pop(0)
            name = str(funding.instrument_id)
            self.book.on_funding(name, float(funding.rate), funding.ts_event)
        told += self.book.on_time(ts)
        if isinstance(record, QuoteTick):
            name = str(record.instrument_id)
            told += self.book.on_quote(name, price_number(record.bid_price), ts)
        elif isinstance(record, Bar):
            name = str(record.bar_type.instrument_id)
            prices = tuple(
                price_number(one) for one in (record.open, record.high, record.low, record.close)
            )
            told += self.book.on_bar(name, prices, ts)  # type: ignore[arg-type]
            self.book.on_volume(name, price_number(record.volume))
        elif isinstance(record, MarkPriceUpdate):
            self.book.on_mark(str(record.instrument_id), price_number(record.value))
        elif isinstance(record, FundingRateUpdate):
            self.due.append(record)
        self.applied = number + 1
        return [self._tell(one) for one in told]

    def _tell(self, event: Any) -> dict[str, Any]:
        name = event.order.client_order_id
        report = self.reports[name]
        report["ts"] = event.ts_event
        found = {"client_order_id": name, "ts_event": event.ts_event}
        if isinstance(event, PaperFill):
            self.trades += 1
            trade = (
                f"T{self.trades}",
                event.ts_event,
                event.quantity,
                event.price,
                event.commission,
                MAKER if event.made else TAKER,
            )
            report["trades"].append(trade)
            report["status"] = "PARTIALLY_FILLED" if event.left > 0.0 else "FILLED"
            self.truth.append(("trade", name, *trade))
            return {**found, "what": "fill", "trade": trade}
        if isinstance(event, PaperAccept):
            report["status"] = "ACCEPTED"
            return {**found, "what": "accept"}
        if isinstance(event, PaperCancel):
            report["status"] = "CANCELED"
            return {**found, "what": "cancel"}
        assert isinstance(event, PaperReject)
        report["status"], report["detail"] = "REJECTED", event.reason
        return {**found, "what": "reject", "reason": event.reason, "post_only": event.would_take}


class _Factory:
    """Makes orders as plain data."""

    def market(self, identity: Any, side: Any, quantity: Any, duration: Any, **more: Any) -> Any:
        immediate = str(duration.name) == "IOC"
        return self._order(identity, side, quantity, more, immediate=immediate, trigger=None)

    def limit(self, identity: Any, side: Any, quantity: Any, price: Any, **more: Any) -> Any:
        limit, post_only = price_number(price), more["post_only"]
        return self._order(
            identity, side, quantity, more, trigger=None, limit=limit, post_only=post_only
        )

    def stop_market(self, identity: Any, side: Any, quantity: Any, at: Any, **more: Any) -> Any:
        return self._order(identity, side, quantity, more, trigger=price_number(at))

    def market_if_touched(
        self, identity: Any, side: Any, quantity: Any, at: Any, **more: Any
    ) -> Any:
        return self._order(identity, side, quantity, more, trigger=price_number(at), is_target=True)

    def _order(self, identity: Any, side: Any, quantity: Any, more: Any, **rest: Any) -> Any:
        return {
            "client_order_id": more["client_order_id"].value,
            "instrument_id": str(identity),
            "side": 1 if side.name == "BUY" else -1,
            "quantity": price_number(quantity),
            "reduce_only": more["reduce_only"],
            **rest,
        }


class Port:
    """What the strategy's order desk takes for the engine."""

    def __init__(self, exchange: Exchange) -> None:
        self.order_factory = _Factory()
        self._exchange = exchange
        # What the exchange knows, the engine does.
        self.cache = SimpleNamespace(order=lambda name: exchange.lookup(name.value))

    def submit_order(self, order: dict[str, Any]) -> None:
        self._exchange.submit(order)

    def cancel_order(self, client_order_id: Any) -> None:
        self._exchange.cancel(client_order_id.value)


class Life:
    """One life of the strategy: from its start, fresh or restored, to its end or its death.

    Parameters
    ----------
    setting : Setting
        What is traded, and how.
    records : sequence
        Of the replay.
    exchange : Exchange
        Survives it.
    path : Path
        Of the state.
    calls : int
        After how many callbacks it dies; negative for never.
    """

    def __init__(
        self,
        setting: Setting,
        records: Sequence[Any],
        exchange: Exchange,
        path: Path,
        calls: int = -1,
    ) -> None:
        register_types()
        inputs, policy, execution = setting.inputs, setting.policy, setting.execution
        names = tuple(str(one.id) for one in inputs.instruments)
        interval = inputs.bars[0].interval_ns
        self.store = StateStore(path)
        self.recorder = RunRecorder(names, execution.starting_balance)
        settings = StrategySettings(
            instruments=inputs.instruments,
            interval_ns=interval,
            books_funding=execution.funding == "recorded",
            costs=expected_costs(execution, interval),
            limits=LimitStyle.of(execution),
        )
        guards = GuardStore(path.with_name("guard.json"))
        guard = None if policy.risk is None else Guard(policy.risk, guards.load())
        self.strategy = KeptStrategy(policy, settings, self.recorder, guard, self.store)
        if guard is not None:
            assert self.strategy.guard is not None
            self.strategy.guard.on_news = lambda: guards.save(guard.state)
        self.port = Port(exchange)
        self.strategy.desk._strategy = self.port
        self.exchange = exchange
        self.records = records
        self.predictor = setting.predictor()
        self.found = Recovered()
        self.trading: Callable[[], None] = lambda: None
        self._calls = calls
        self._decimals = {str(one.id): one.price_precision for one in inputs.instruments}

    def run(self, config: RecoveryConfig = PAPER) -> None:
        """Recover, then live through the records that are left."""
        found = recover(
            self.store, self.strategy, self.exchange.lookup, lambda: self.exchange.now, config
        )
        self.found = found
        self.strategy.outbox.release()
        self.trading()
        self.exchange.now = max(self.exchange.now, found.ts)
        bars: dict[str, Any] = {}
        for number, record in enumerate(self.records):
            if record.ts_init < found.ts:
                continue
            told = self.exchange.advance(number)
            for event in told:
                self._tell(event)
            self._show(record)
            if isinstance(record, Bar):
                bars[str(record.bar_type.instrument_id)] = record
            last = number + 1 == len(self.records)
            if bars and (last or self.records[number + 1].ts_init > record.ts_init):
                self._predict(record.ts_init, bars)
                bars = {}
        assert self.recorder.errors == []

    def close(self) -> None:
        """Let go of the state, as the end of a process does."""
        self.store.close()

    def _call(self, callback: Callable[[Any], None], argument: Any) -> None:
        if self._calls == 0:
            raise Killed
        self._calls -= 1
        callback(argument)

    def _show(self, record: Any) -> None:
        strategy = self.strategy
        if isinstance(record, Bar):
            self._call(strategy.on_bar, record)
        elif isinstance(record, MarkPriceUpdate):
            self._call(strategy.on_mark_price, record)
        elif isinstance(record, FundingRateUpdate):
            self._call(strategy.on_funding_rate, record)

    def _predict(self, ts: int, bars: dict[str, Any]) -> None:
        missing = [one for one in self.predictor.spec.instruments if one not in bars]
        for one in self.predictor.update(ts, bars):
            record = fusion_prediction(one, bool(missing))
            self._call(self.strategy.on_data, SimpleNamespace(data=record))

    def _tell(self, event: dict[str, Any]) -> None:
        name = event["client_order_id"]
        told = SimpleNamespace(
            client_order_id=ClientOrderId(name),
            ts_event=event["ts_event"],
            reason=event.get("reason", ""),
            due_post_only=event.get("post_only", False),
        )
        strategy = self.strategy
        if event["what"] == "fill":
            trade, ts, quantity, price, fee, liquidity = event["trade"]
            told.trade_id, told.ts_event = trade, ts
            told.last_qty, told.last_px = Quantity(quantity, 6), Price(price, 6)
            told.commission, told.currency = Money(fee, USDT), USDT
            maker = liquidity == MAKER
            told.liquidity_side = LiquiditySide.MAKER if maker else LiquiditySide.TAKER
        callbacks = {
            "fill": strategy.on_order_filled,
            "accept": strategy.on_order_accepted,
            "cancel": strategy.on_order_canceled,
            "reject": strategy.on_order_rejected,
        }
        self._call(callbacks[event["what"]], told)


def fusion_prediction(one: Prediction, missing: bool) -> Any:
    """Return a prediction as the predictor's actor publishes it."""
    return FusionPrediction(
        one.ts_init,
        one.ts_init,
        one.instrument_id,
        one.prob_up,
        one.mu,
        one.sigma,
        one.epistemic,
        one.volatility,
        one.prob_low,
        one.prob_high,
        one.entry_threshold,
        confidence(one.prob_up),
        one.direction,
        one.regime,
        one.experts,
        one.horizon_bars,
        one.model_version,
        one.input_ages,
        one.degraded or missing,
        one.degraded_reason or ("missing" if missing else ""),
    )


def records_of(setting: Setting) -> list[Any]:
    """Return the records that a replay would see, in its order."""
    return sorted_records(setting.inputs, setting.execution)


@dataclass(frozen=True)
class Story:
    """What happened in all lives together: what the exchange saw, and what the journal holds."""

    truth: list[tuple[Any, ...]]
    orders: list[tuple[Any, ...]]
    fills: list[tuple[Any, ...]]
    decisions: list[tuple[Any, ...]]
    cash: float
    positions: dict[str, Any]
    closed: list[tuple[Any, ...]]


def story(life: Life, exchange: BookExchange, closed: Sequence[Any]) -> Story:
    """Read the story from the journal and the exchange."""
    db = life.store._db
    orders = [one[:1] + one[2:9] + one[11:] for one in life.store.orders()]
    fills = db.execute(
        "SELECT trade_id, client_order_id, ts_event, side, quantity, price, commission, liquidity "
        "FROM fills ORDER BY seq"
    ).fetchall()
    decisions = db.execute("SELECT * FROM decisions ORDER BY seq").fetchall()
    ledger = life.recorder.ledger
    truth = getattr(exchange, "truth", [])
    return Story(truth, orders, fills, decisions, ledger.cash, dict(ledger.positions), list(closed))


def live_through(
    setting: Setting, folder: Path, deaths: Sequence[int], config: RecoveryConfig = PAPER
) -> tuple[Story, BookExchange, list[Recovered]]:
    """Live through a market with deaths after so many callbacks each, and tell the story."""
    records = records_of(setting)
    exchange = BookExchange(setting, records)
    closed: list[Any] = []
    found = []
    for calls in (*deaths, -1):
        life = Life(setting, records, exchange, folder / "engine.db", calls)
        try:
            life.run(config)
        except Killed:
            continue
        finally:
            closed += life.recorder.ledger.closed
            found.append(life.found)
            told = story(life, exchange, closed)
            life.close()
        break
    return told, exchange, found

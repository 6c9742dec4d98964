"""Replay through the engine: one call from market data and a predictor to reconciled frames.

The engine with bars alone fills at closes. Here each bar's open is quoted at its time plus the
latency, the fill model prices every order from it, settled funding is replayed as due, and the run
ends with a reconciliation that fails it rather than let a silent fault pass (NAUTILUS.md 1-17).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from nautilus_trader.backtest import BacktestEngine, BacktestEngineConfig
from nautilus_trader.common import CacheConfig, LoggerConfig
from nautilus_trader.execution import ExecutionEngineConfig, StaticLatencyModel
from nautilus_trader.model import AccountType, Currency, Money, OmsType, Venue
from nautilus_trader.portfolio import PortfolioConfig
from nautilus_trader.risk import RiskEngineConfig

from catalog.errors import RunFailedError
from catalog.progress import Progress, no_progress
from research.predictor import Predictor
from strategies.edge import round_trip_cost_frac
from strategies.execution import ExecutionConfig, InstrumentTerms
from strategies.fees import FeeTier
from strategies.fill_check import FillCheck, FillRules
from strategies.fill_model import ReplayFeeModel, ReplayFillModel, ReplayMarket
from strategies.fusion import FUNDING_NS, FusionStrategy, StrategySettings
from strategies.intent import TradeCosts
from strategies.limit_orders import LimitStyle
from strategies.liquidation_check import LiquidationCheck
from strategies.market_data import (
    BarVolumes,
    open_quotes,
    price_number,
)
from strategies.outcome import BacktestOutcome, close_books, run_frames
from strategies.policy_config import FusionPolicy
from strategies.predictor_actor import PredictorActor, PredictorActorConfig
from strategies.reconciliation import Reconciliation
from strategies.recorder import EXIT_TYPES, FINAL_STATUSES, LIMIT, RunRecorder
from strategies.replay_data import RecordSource, ReplayInputs, check_inputs, settlements
from strategies.throttle import engine_rate, require_room

__all__ = [
    "BacktestOutcome",
    "ExecutionConfig",
    "FusionPolicy",
    "ReplayInputs",
    "run_backtest",
]

PART_RECORDS = 24_000
"""Bars and quotes that the engine is given at a time; a record takes about 500 bytes."""
_STAGE = "replay"


def run_backtest(
    inputs: ReplayInputs,
    predictor: Predictor,
    policy: FusionPolicy,
    execution: ExecutionConfig,
    *,
    progress: Progress = no_progress,
) -> BacktestOutcome:
    """Replay market data through predictor, strategy and engine.

    Raises
    ------
    ConfigError
        If the settings contradict each other or the data.
    DataError
        If bars or funding are missing or cannot be represented exactly.
    RunFailedError
        If a callback raised or the books do not balance at the end.
    """
    check_inputs(inputs, predictor, policy, execution)
    replay = Replay(inputs, predictor, policy, execution)
    return replay.run(progress)


class Replay:
    """One replay, from assembly to reconciliation; `run_backtest` is the way in.

    It is apart so that a test can break one of its parts and see that the run fails.
    """

    def __init__(
        self,
        inputs: ReplayInputs,
        predictor: Predictor,
        policy: FusionPolicy,
        execution: ExecutionConfig,
    ) -> None:
        inputs = inputs.for_predictor(predictor.spec)
        self.inputs = inputs
        self.predictor = predictor
        self.policy = policy
        self.execution = execution
        names = tuple(str(one.id) for one in inputs.instruments)
        self.terms = {one.instrument_id: one for one in map(InstrumentTerms.of, inputs.instruments)}
        self.recorder = RunRecorder(names, execution.starting_balance)
        self.source = RecordSource(inputs, execution)
        self.quotes = {
            one.instrument_id: one for one in open_quotes(inputs.bars, execution.latency_ns)
        }
        self.funding = settlements(inputs, execution)
        self.seconds = {"load": 0.0}

    def run(self, progress: Progress) -> BacktestOutcome:
        """Build, run, read, dispose: one engine may be alive per thread."""
        started = time.perf_counter()
        require_room(self.policy.risk, len(self.inputs.instruments))
        engine = BacktestEngine(engine_config())
        try:
            strategy = self.strategy()
            self.add_venue(engine, lambda: int(strategy.clock.timestamp_ns()))
            total = len(np.unique(np.concatenate([one.ts_init for one in self.inputs.bars])))
            engine.add_actor(self.actor(lambda done: progress(_STAGE, min(done, total), total)))
            engine.add_strategy(strategy)
            for watcher in self.watchers(strategy):
                engine.add_actor(watcher)
            records = self.feed(engine)
            progress(_STAGE, total, total)
            ran = time.perf_counter()
            reconciliation = self.reconcile(engine, records)
        finally:
            engine.dispose()
        reconciliation.check()
        close_books(self.recorder)
        frames = run_frames(self.recorder, self.inputs.bars, self.terms, self.execution)
        self.seconds["engine"] = ran - started - self.seconds["load"]
        self.seconds["frames"] = time.perf_counter() - ran
        return BacktestOutcome.of(frames, reconciliation, self.seconds)

    def strategy(self) -> Any:
        """Return the strategy, as it would be given to a live node but for the settle alerts."""
        settings = StrategySettings(
            instruments=self.inputs.instruments,
            interval_ns=self.inputs.bars[0].interval_ns,
            books_funding=self.execution.funding == "recorded",
            costs=expected_costs(self.execution, self.inputs.bars[0].interval_ns),
            settle_after_ns=self.execution.latency_ns,
            send_at=self.send_at,
            limits=LimitStyle.of(self.execution),
        )
        return FusionStrategy(self.policy, settings, self.recorder)

    def watchers(self, strategy: Any) -> Sequence[Any]:
        """Return further actors, such as a `RiskGuard` that looks by the replay's clock: none."""
        return ()

    def send_at(self, instrument_id: str, ts: int) -> int | None:
        """Return when an order decided at `ts` must be sent to arrive with its next open."""
        arrival = self.quotes[instrument_id].next_time(ts + self.execution.latency_ns)
        return None if arrival is None else arrival - self.execution.latency_ns

    def actor(self, heartbeat: Callable[[int], None]) -> Any:
        """Return the predictor's actor; recorded data need no patience."""
        config = PredictorActorConfig(timeout_ms=0, heartbeat=heartbeat)
        return PredictorActor(self.predictor, self.recorder, config)

    def add_venue(self, engine: BacktestEngine, now: Callable[[], int]) -> None:
        """Add the exchange: latency, fills, fees, account."""
        execution = self.execution
        volumes = {
            one.instrument_id: BarVolumes(one.ts_init, one.volume) for one in self.inputs.bars
        }
        market = ReplayMarket(execution, self.quotes, volumes, now)
        currency = Currency.from_str("USDT")
        engine.add_venue(
            self.inputs.instruments[0].id.venue,
            OmsType.NETTING,
            AccountType.MARGIN,
            [Money(execution.starting_balance, currency)],
            base_currency=currency,
            default_leverage=Decimal(repr(execution.leverage)),
            fill_model=ReplayFillModel(market, self.recorder),
            fee_model=ReplayFeeModel(execution, self.recorder),
            latency_model=StaticLatencyModel(base_latency_nanos=execution.latency_ns),
            liquidation_enabled=execution.liquidation,
            # The engine divides the maintenance margin by the leverage; exchanges do not.
            liquidation_trigger_ratio=execution.leverage,
        )
        for instrument in self.inputs.instruments:
            engine.add_instrument(_of_any_worth(instrument))

    def feed(self, engine: BacktestEngine) -> int:
        """Replay part by part and return how many records there were.

        The result is that of one piece; records exist only while they are replayed.
        """
        count = 0
        for part in self.source.parts(PART_RECORDS):
            started = time.perf_counter()
            count += self.add_data(engine, *part)
            self.seconds["load"] += time.perf_counter() - started
            self.run_engine(engine)
            engine.clear_data()
            if self.recorder.errors:
                break
        engine.end()
        return count

    def add_data(self, engine: BacktestEngine, after: int | None, until: int | None) -> int:
        """Hand the records of ``(after, until]`` to the engine and return how many."""
        count = 0
        for batch in self.source.groups(after, until, ranges=True):
            if batch:
                engine.add_data(batch, validate=False, sort=False)
                count += len(batch)
        engine.sort_data()
        return count

    def run_engine(self, engine: BacktestEngine) -> None:
        """Replay the records that the engine has, and be ready for more."""
        try:
            engine.run(streaming=True)
        except Exception as error:
            raise RunFailedError(f"the engine stopped: {error}") from error

    def reconcile(self, engine: BacktestEngine, records: int) -> Reconciliation:
        """Compare what went in with what came out, and our books with the engine's."""
        recorder = self.recorder
        check = self.fill_check()
        unfinished, open_at_end = _alive(recorder, check)
        refused, denied = check.refusals()
        venue = self.inputs.instruments[0].id.venue
        return Reconciliation(
            records=records,
            iterations=engine.get_result().iterations,
            bars=sum(map(len, self.inputs.bars)),
            actor_bars=recorder.actor_bars,
            strategy_bars=recorder.strategy_bars,
            late_bars=recorder.late_bars,
            predictions_expected=self.inputs.predictions_expected,
            predictions_published=recorder.published,
            predictions_received=recorder.received,
            decisions=recorder.decision_count,
            orders=len(recorder.orders),
            fills=len(recorder.fills),
            unfinished=unfinished,
            disagreeing=_disagreeing(engine, recorder, open_at_end),
            misfilled=check.market_faults(),
            unprotected=check.stop_faults(),
            mistaken=self.liquidation_faults(),
            refused=refused,
            denied=denied,
            open_at_end=open_at_end,
            settlements_due=self.settlements_due(),
            settlements_booked=len(recorder.ledger.settlements),
            ledger_cash=recorder.ledger.cash,
            engine_cash=_engine_cash(engine, venue),
            ledger_positions={
                name: position.quantity for name, position in recorder.ledger.positions.items()
            },
            engine_positions=_engine_positions(engine),
            errors=tuple(recorder.errors),
            ambiguous=check.ambiguous_bars,
        )

    def fill_check(self) -> FillCheck:
        """Return the check of the run's fills against its bars."""
        return FillCheck(self.recorder, self.fill_rules())

    def liquidation_faults(self) -> tuple[str, ...]:
        """Return what is wrong with the run's liquidations, in words."""
        return LiquidationCheck(self.recorder, self.fill_rules()).faults()

    def fill_rules(self) -> FillRules:
        """Return what the run's fills must follow."""
        return FillRules(self.inputs.bars, self.terms, self.execution, self.policy.exit_rules)

    def settlements_due(self) -> int:
        """Return how many settlements fell while a position was held, counted from the fills."""
        if self.execution.funding == "none":
            return 0
        due = 0
        for name, series in self.funding.items():
            fills = [row for row in self.recorder.fills if row.instrument_id == name]
            times = np.array([row.ts_event for row in fills], dtype=np.int64)
            changes = [0.0, *(row.side * row.quantity for row in fills)]
            held = np.round(np.cumsum(changes), 9)
            # A fill at a settlement's own stamp is a stop's, from the bar that ends there.
            row = np.searchsorted(times, series.ts_init, side="right")
            due += int(np.count_nonzero(held[row]))
        return due


def expected_costs(execution: ExecutionConfig, interval_ns: int) -> TradeCosts:
    """Return what a trade is expected to cost, for rules and sizes that ask.

    What its size adds follows at each decision: `strategies.edge.with_impact`.
    """
    funding = FUNDING_NS / interval_ns if execution.funding == "recorded" else math.nan
    paid = round_trip_cost_frac(execution.taker_fee_bps, execution.base_slippage_bps)
    limit = execution.max_participation
    return TradeCosts(
        paid,
        funding,
        execution.impact_bps,
        execution.impact_cap_bps,
        math.inf if limit is None else limit,
        FeeTier(execution.maker_fee_bps, execution.taker_fee_bps),
    )


def engine_config() -> BacktestEngineConfig:
    """Return the engine's settings: silent, stopping at the first error."""
    return BacktestEngineConfig(
        logging=LoggerConfig(bypass_logging=True),
        shutdown_on_error=True,
        run_analysis=False,
        # Nothing here reads the past from the cache.
        cache=CacheConfig(tick_capacity=1, bar_capacity=1),
        # The account keeps every event and is copied on every fill: without this the cost of an
        # order grows with the length of the run.
        exec_engine=ExecutionEngineConfig(
            purge_account_events_interval_mins=1440,
            purge_account_events_lookback_mins=0,
            # So do closed positions, each of which is looked at in every later fill.
            purge_closed_positions_interval_mins=60,
            purge_closed_positions_buffer_mins=0,
        ),
        # Equity is computed from our ledger, and margins follow fills, not prices.
        portfolio=PortfolioConfig(bar_updates=False, equity_curve=False),
        # A hundred orders a second would be denied although replayed seconds are not real ones.
        risk_engine=RiskEngineConfig(max_order_submit_rate=engine_rate()),
    )


def _of_any_worth(instrument: Any) -> Any:
    """Return an instrument whose orders the engine takes whatever they are worth.

    What is sent is worth enough at the close. The engine would look at the last quote, which in a
    replay is the open of a bar that is over.
    """
    return type(instrument).from_dict({**instrument.to_dict(), "min_notional": None})


def _alive(recorder: RunRecorder, check: FillCheck) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the orders alive at the end: those that nothing explains, and the others."""
    unfinished: list[str] = []
    explained: list[str] = []
    for row in recorder.orders.values():
        if row.status in FINAL_STATUSES:
            continue
        resting = row.type in EXIT_TYPES and row.status == "ACCEPTED"
        protects = resting and recorder.ledger.quantity(row.instrument_id) * row.side < 0.0
        waits = row.type == LIMIT and row.status in ("ACCEPTED", "PARTIALLY_FILLED")
        at_end = check.meets_no_price(row) and row.filled_quantity == 0.0
        if protects or waits or at_end:
            explained.append(row.client_order_id)
        else:
            unfinished.append(f"{row.client_order_id} ({row.status})")
    return tuple(unfinished), tuple(explained)


def _disagreeing(
    engine: BacktestEngine, recorder: RunRecorder, open_at_end: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the orders that our books and the engine's describe differently."""
    adopted = recorder.adopted
    theirs = {
        adopted.get(order.client_order_id.value, order.client_order_id.value): order
        for order in engine.cache.orders()
    }
    # Orders that no further open could fill are never sent to the engine.
    unsent = {name for name in open_at_end if recorder.orders[name].status == "INITIALIZED"}
    # Nor are those that were taken back while they waited for one, whoever did it.
    unsent |= {
        name
        for name, row in recorder.orders.items()
        if row.ts_cancel and row.status == "CANCELED" and name not in theirs
    }
    ours = recorder.orders.keys() - unsent
    found = [f"{name} (only in one of them)" for name in theirs.keys() ^ ours]
    for name, row in recorder.orders.items():
        order = theirs.get(name)
        if order is None:
            continue
        filled = price_number(order.filled_qty)
        same = order.status.name == row.status or name in open_at_end
        if not same or filled != row.filled_quantity:
            found.append(
                f"{name} ({row.status} {row.filled_quantity:g}, "
                f"engine {order.status.name} {filled:g})"
            )
    return tuple(sorted(found))


def _engine_cash(engine: BacktestEngine, venue: Venue) -> float:
    account = engine.cache.account_for_venue(venue)
    balance = None if account is None else account.balance_total(Currency.from_str("USDT"))
    return float("nan") if balance is None else float(balance.as_decimal())


def _engine_positions(engine: BacktestEngine) -> dict[str, float]:
    # The signed quantity is a sum of doubles, 37.470000000000006 for 37.47.
    return {
        str(one.instrument_id): math.copysign(price_number(one.quantity), one.signed_qty)
        for one in engine.cache.positions_open()
    }

"""The strategy of the backtest in a live node, on the records of the backtest.

`run_live_replay` takes what `strategies.backtest.run_backtest` takes and returns what it returns.
The actor and the strategy are the same classes with the same settings but two, which concern
waiting: the actor is told by the replay that a time is complete instead of by the engine's clock,
and the strategy needs no alerts to get its stops delivered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from adapters.replay import ReplayConfig, ReplayFeed, ReplaySession
from catalog.errors import LeviBotError, RunFailedError
from catalog.progress import Progress, no_progress
from live.node import fence_answer, run_node
from live.paper import PaperExecutionClient, PaperWiring, leveraged
from research.predictor import Predictor
from strategies.backtest import BacktestOutcome, Replay, ReplayInputs, expected_costs
from strategies.execution import ExecutionConfig
from strategies.fusion import FusionPolicy, FusionStrategy, StrategySettings
from strategies.limit_orders import LimitStyle
from strategies.outcome import close_books, run_frames
from strategies.predictor_actor import PredictorActor, PredictorActorConfig
from strategies.reconciliation import Reconciliation
from strategies.recorder import FINAL_STATUSES
from strategies.replay_data import check_inputs, record_groups
from strategies.throttle import require_room

_PATIENCE_MS = 24 * 3_600_000
"""The actor's own time-out: longer than any replay, whose session says when a time is complete."""


def run_live_replay(
    inputs: ReplayInputs,
    predictor_factory: Callable[[], Predictor],
    policy: FusionPolicy,
    execution: ExecutionConfig,
    *,
    config: ReplayConfig | None = None,
    progress: Progress = no_progress,
) -> BacktestOutcome:
    """Replay market data through predictor and strategy in a live node with a paper exchange.

    Call it on the main thread and outside a running event loop: the node takes both.

    Parameters
    ----------
    inputs, policy, execution
        As for `strategies.backtest.run_backtest`.
    predictor_factory : callable
        Makes a predictor that has seen nothing; one that served another run remembers it.
    config : ReplayConfig, optional
        The pace; the default waits half a minute for a node that no longer answers.
    progress : Progress
        Told how many records are done.

    Raises
    ------
    ConfigError, DataError
        As `run_backtest`.
    RunFailedError
        If a callback, a task or a hook raised (with the original exception as its cause where
        there is one), the node stopped or fell silent, or the books do not balance at the end.
    """
    return LiveReplay(inputs, predictor_factory(), policy, execution).run(
        config or ReplayConfig(), progress
    )


class LiveReplay:
    """One live replay, from assembly to reconciliation; `run_live_replay` is the way in.

    It is apart so that a test can break one of its parts and see that the run fails.
    """

    def __init__(
        self,
        inputs: ReplayInputs,
        predictor: Predictor,
        policy: FusionPolicy,
        execution: ExecutionConfig,
    ) -> None:
        check_inputs(inputs, predictor, policy, execution)
        # The backtest's own assembly: the recorder, the terms, what settlements are due.
        self.backtest = Replay(inputs, predictor, policy, execution)
        self.recorder = self.backtest.recorder
        self.records = sorted_records(self.backtest.inputs, execution)

    def run(self, config: ReplayConfig, progress: Progress) -> BacktestOutcome:
        """Build, run, read, drop: one live node may exist in a process."""
        started = time.perf_counter()
        replay = self.backtest
        require_room(replay.policy.risk, len(replay.inputs.instruments))
        venue = str(replay.inputs.instruments[0].id.venue)
        instruments = leveraged(replay.inputs.instruments, replay.execution.leverage)
        feed = ReplayFeed(venue, instruments, self.records)
        session = ReplaySession(feed, config, progress=progress)
        actor, strategy = self.actor(), self.strategy()
        session.on_timestamp = lambda ts: self.close_timestamp(actor, ts)
        client = run_node(session, self.wiring(session), [actor], [strategy])
        ran = time.perf_counter()
        self.require_finished(session)
        reconciliation = self.reconcile(session, client)
        reconciliation.check()
        close_books(self.recorder)
        frames = run_frames(self.recorder, replay.inputs.bars, replay.terms, replay.execution)
        seconds = {"node": ran - started, "frames": time.perf_counter() - ran}
        return BacktestOutcome.of(frames, reconciliation, seconds)

    def actor(self) -> PredictorActor:
        """Return the backtest's actor."""
        venue = str(self.backtest.inputs.instruments[0].id.venue)
        config = PredictorActorConfig(timeout_ms=_PATIENCE_MS, data_client=venue)
        return PredictorActor(self.backtest.predictor, self.recorder, config)

    def strategy(self) -> FusionStrategy:
        """Return the backtest's strategy."""
        inputs = self.backtest.inputs
        settings = StrategySettings(
            instruments=inputs.instruments,
            interval_ns=inputs.bars[0].interval_ns,
            books_funding=self.backtest.execution.funding == "recorded",
            costs=expected_costs(self.backtest.execution, inputs.bars[0].interval_ns),
            limits=LimitStyle.of(self.backtest.execution),
        )
        return FusionStrategy(self.backtest.policy, settings, self.recorder)

    def wiring(self, session: ReplaySession) -> PaperWiring:
        """Return the connections of the paper exchange."""
        venue = session.feed.venue
        return PaperWiring(
            venue=venue,
            account_id=f"{venue}-001",
            instruments=self.backtest.inputs.instruments,
            execution=self.backtest.execution,
            now=lambda: session.now,
            note_reference=self.recorder.reference,
            on_error=session.fail,
            on_account_query=lambda parameters: fence_answer(session, parameters),
        )

    def close_timestamp(self, actor: PredictorActor, ts: int) -> None:
        """Let the actor predict without the bars that are missing, and stop at the first error.

        The node itself would go on for a tenth of a second: hundreds of bars.
        """
        actor.close_timestamp(ts)
        if self.recorder.errors:
            raise RunFailedError(f"a callback raised {self.recorder.errors[0]}")

    def require_finished(self, session: ReplaySession) -> None:
        """Raise what ended the replay before its time, callbacks first: they are causes."""
        if self.recorder.errors:
            raise RunFailedError(
                f"the live replay failed: a callback raised {self.recorder.errors[0]}"
            ) from session.failure
        if isinstance(session.failure, LeviBotError):
            raise session.failure
        if session.failure is not None:
            raise RunFailedError(
                f"the live replay failed: {type(session.failure).__name__}: {session.failure}"
            ) from session.failure
        if not session.finished:
            raise RunFailedError(
                "the live replay must replay every record, but the node never started it: its "
                "log names the cause"
            )

    def reconcile(self, session: ReplaySession, client: PaperExecutionClient) -> Reconciliation:
        """Compare what went in with what came out, and the strategy's books with the exchange's."""
        recorder, inputs = self.recorder, self.backtest.inputs
        resting = {order.client_order_id for order in client.book.open_orders()}
        check = self.backtest.fill_check()
        refused, denied = check.refusals()
        alive = [row for row in recorder.orders.values() if row.status not in FINAL_STATUSES]
        return Reconciliation(
            records=len(self.records),
            iterations=session.done,
            bars=sum(map(len, inputs.bars)),
            actor_bars=recorder.actor_bars,
            strategy_bars=recorder.strategy_bars,
            late_bars=recorder.late_bars,
            predictions_expected=inputs.predictions_expected,
            predictions_published=recorder.published,
            predictions_received=recorder.received,
            decisions=recorder.decision_count,
            orders=len(recorder.orders),
            fills=len(recorder.fills),
            unfinished=tuple(
                f"{row.client_order_id} ({row.status})"
                for row in alive
                if row.client_order_id not in resting
            ),
            disagreeing=self._disagreeing(client),
            misfilled=check.market_faults(),
            unprotected=check.stop_faults(),
            mistaken=self.backtest.liquidation_faults(),
            refused=refused,
            denied=denied,
            open_at_end=tuple(
                row.client_order_id for row in alive if row.client_order_id in resting
            ),
            settlements_due=self.backtest.settlements_due(),
            settlements_booked=len(recorder.ledger.settlements),
            ledger_cash=recorder.ledger.cash,
            engine_cash=client.book.ledger.cash,
            ledger_positions=_quantities(recorder.ledger),
            engine_positions=_quantities(client.book.ledger),
            errors=tuple(recorder.errors),
            ambiguous=check.ambiguous_bars,
        )

    def _disagreeing(self, client: PaperExecutionClient) -> tuple[str, ...]:
        """Return the orders that the strategy's books and the exchange's describe differently."""
        ours = {name: row.filled_quantity for name, row in self.recorder.orders.items()}
        theirs = {name: client.book.filled.get(name, 0.0) for name in ours}
        strangers = client.book.filled.keys() - ours.keys()
        found = [name for name, quantity in ours.items() if quantity != theirs[name]]
        return tuple(sorted({*found, *strangers}))


def sorted_records(inputs: ReplayInputs, execution: ExecutionConfig) -> list[Any]:
    """Return the records of a replay in the order in which the engine would see them."""
    records = [record for group in record_groups(inputs, execution) for record in group]
    # Stable, as the engine's sort is: the order of the groups counts at equal stamps.
    records.sort(key=lambda record: int(record.ts_init))
    return records


def _quantities(ledger: Any) -> dict[str, float]:
    return {name: position.quantity for name, position in ledger.positions.items()}

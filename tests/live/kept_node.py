"""One engine in a live node with the paper exchange, on recorded data, whose state outlives it.

Run as a program: ``python -m tests.live.kept_node FOLDER [STOPS]``. It goes on where the one before
it in the folder was killed, and writes ``done.json`` there when it has come to the end of the
records. With STOPS it kills itself once that many stops and targets were sent, the last of them
still on its way.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.replay import ReplayConfig, ReplayFeed, ReplaySession
from live.live_replay import sorted_records
from live.node import fence_answer, run_node
from live.paper import PaperExecutionClient, PaperWiring, leveraged
from live.paper_orders import PaperOrder
from live.paper_state import PaperSnapshot
from live.paper_store import NamedEvent, PaperStore
from live.recovery import RecoveryConfig, recover
from live.state_store import StateStore
from strategies.backtest import expected_costs
from strategies.fusion import StrategySettings
from strategies.kept import KeptStrategy
from strategies.limit_orders import LimitStyle
from strategies.predictor_actor import PredictorActor, PredictorActorConfig
from strategies.recorder import RunRecorder
from tests.strategies.markets import BTC, ETH, INTERVAL, make_predictor, wild
from tests.strategies.settings import plain_execution, trailing_policy

BARS = 260
NAMES = (BTC, ETH)
ORDERS = (
    *("client_order_id", "instrument_id", "side", "quantity", "type", "reduce_only", "reason"),
    *("ts_init", "status", "filled_quantity", "detail"),
)
FILLS = ("client_order_id", "ts_event", "side", "quantity", "price", "commission")
DECISIONS = (
    *("ts_init", "instrument_id", "prob_up", "side", "target_weight", "reason", "quantity"),
    "client_order_id",
)
"""Columns of a backtest's frames, which the journal has as well."""


class MortalStore(PaperStore):
    """A paper account whose process dies once so many stops and targets are on their way to it."""

    stops = -1

    def keep(
        self,
        snapshot: PaperSnapshot,
        events: Sequence[NamedEvent] = (),
        received: tuple[PaperOrder, int] | None = None,
    ) -> None:
        super().keep(snapshot, events, received)
        self.stops -= received is not None and received[0].trigger is not None
        if self.stops == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path) -> dict[str, Any]:
    """Live once, from where the life before ended."""
    started = time.monotonic()
    inputs, signals = wild(7, BARS)
    execution = plain_execution(slippage_bps=1.0, max_participation=0.5)
    store, paper = StateStore(folder / "engine.db"), MortalStore(folder / "paper.db")
    recorder = RunRecorder(NAMES, execution.starting_balance)
    settings = StrategySettings(
        instruments=inputs.instruments,
        interval_ns=INTERVAL,
        books_funding=False,
        costs=expected_costs(execution, INTERVAL),
        limits=LimitStyle.of(execution),
        claims=True,
    )
    strategy = KeptStrategy(trailing_policy(), settings, recorder, None, store)
    actor = PredictorActor(
        make_predictor(signals, NAMES),
        recorder,
        PredictorActorConfig(3_600_000, data_client="BINANCE"),
    )
    config = RecoveryConfig(in_flight_secs=0.0, fresh_secs=1e9)
    found = recover(store, strategy, paper.lookup, lambda: 0, config)
    records = [one for one in sorted_records(inputs, execution) if one.ts_init >= found.ts]
    shown = leveraged(inputs.instruments, execution.leverage)
    session = ReplaySession(ReplayFeed("BINANCE", shown, records), ReplayConfig())

    def closed(ts: int) -> None:
        actor.close_timestamp(ts)
        if recorder.errors:
            raise RuntimeError(recorder.errors[0])
        # The engine has a price by now, without which it denies a market order.
        strategy.outbox.release()
        if not (folder / "trading").exists():
            (folder / "trading").write_text(str(time.monotonic() - started))

    session.on_timestamp = closed
    wiring = PaperWiring(
        venue="BINANCE",
        account_id="BINANCE-001",
        instruments=inputs.instruments,
        execution=execution,
        now=lambda: session.now,
        note_reference=recorder.reference,
        on_error=session.fail,
        on_account_query=lambda parameters: fence_answer(session, parameters),
        store=paper,
    )
    client: PaperExecutionClient = run_node(session, wiring, [actor], [strategy])
    if session.failure is not None:
        raise session.failure
    assert session.finished, "the replay did not come to its end"
    assert not recorder.errors, recorder.errors
    db = store._db
    orders = [one[:1] + one[2:9] + one[11:] for one in store.orders()]

    def rows(columns: tuple[str, ...], table: str) -> list[Any]:
        return db.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY seq").fetchall()

    return {
        "orders": orders,
        "fills": rows(FILLS, "fills"),
        "decisions": rows(DECISIONS, "decisions"),
        "cash": [recorder.ledger.cash, client.book.ledger.cash],
        "open": sorted(one.client_order_id for one in client.book.open_orders()),
        "alive": sorted(one.client_order_id for one in strategy.alive()),
        "foreign": strategy.foreign,
    }


if __name__ == "__main__":
    place, MortalStore.stops = Path(sys.argv[1]), int([*sys.argv, "-1"][2])
    (place / "done.tmp").write_text(json.dumps(run(place)))
    # At once: it may be killed here, too.
    (place / "done.tmp").rename(place / "done.json")

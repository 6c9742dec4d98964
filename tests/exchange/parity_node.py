"""One life of an engine on the test exchange in lock-step: a part of three-way parity.

`live.exchange_way` runs it as ``python -m tests.exchange.parity_node PLAN``; a live node is alone
in its process, and this one may be told to kill itself. The engine is the one of `levibot live
run`: warm start, feed, journal, recovery, reconciliation, the compiled adapter. Three things are
made to fit a market that stands still until everything has been handled:

- The risk guard looks at the closes only, as it does in a backtest, and not once a second at
  whatever has been quoted since.
- How long a position is without its stop is not judged by the wall clock.
- What predictor, guard and ledger say goes to a file of rows at once, because a killed process
  tells nothing. Orders, fills and decisions are in the engine's journal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import closing
from dataclasses import astuple, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TextIO

from catalog.errors import LeviBotError, RunFailedError
from catalog.instruments import symbol_of
from catalog.timestamps import NS_PER_SECOND, interval_name
from live import engine_exchange, engine_parts, engine_watch
from live.bar_gate import BarSet
from live.engine import Silent
from live.engine_exchange import ExchangeEngine, Stores
from live.engine_parts import STATE_FILE, claim_guard, prepare
from live.engine_request import EngineRequest
from live.exchange_plan import NodePlan
from live.first_questions import first_questions
from live.market_feed import MarketFeed
from live.naked_watch import NakedWatch
from live.profile import load_profile
from live.state_store import StateStore
from research.predictor import Prediction
from strategies.kept import KeptStrategy
from strategies.order_desk import StrategySettings
from strategies.order_reports import OrderReport
from strategies.prediction_log import PredictionLog
from strategies.recorder import FINAL_STATUSES, OrderRow, RunRecorder
from strategies.risk_guard import RiskGuard, RiskGuardConfig
from tests.exchange.lockstep import ClientView, LockStep, OrderView
from tests.exchange.runner import Remote

_NOT_YET = 1 << 62
_PATIENCE_S = 60.0
_OUTAGE_NS = 3 * NS_PER_SECOND
_TOLD_EVERY = 100


class Rows:
    """The file of rows, one JSON list a line: a kind and what belongs to it.

    Parameters
    ----------
    path : Path
        Added to.
    """

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")

    def add(self, kind: str, row: Any) -> None:
        """Write a row; it is with the operating system when this returns."""
        self._file.write(json.dumps([kind, row], default=_plain) + "\n")
        self._file.flush()


def _plain(value: Any) -> Any:
    is_row = is_dataclass(value) and not isinstance(value, type)
    return astuple(value) if is_row else value.item()


class _Told(list[Any]):
    """A list of rows that are written down as they come."""

    def __init__(self, rows: Rows, kind: str) -> None:
        super().__init__()
        self._write = partial(rows.add, kind)

    def append(self, row: Any) -> None:
        """Add a row."""
        self._write(row)
        super().append(row)

    def extend(self, rows: Any) -> None:
        """Add rows."""
        for row in rows:
            self.append(row)


class _ToldPredictions(PredictionLog):
    """Predictions that are written down as they come."""

    def __init__(self, rows: Rows, instruments: tuple[str, ...]) -> None:
        super().__init__(instruments)
        self._rows = rows

    def add(self, prediction: Prediction, missing: str) -> None:
        """Note a prediction."""
        self._rows.add("prediction", [prediction, missing])
        super().add(prediction, missing)


class ToldRecorder(RunRecorder):
    """A recorder whose rows outlive the process."""

    rows: Rows

    def __init__(self, instruments: tuple[str, ...], starting_balance: float) -> None:
        super().__init__(instruments, starting_balance)
        self.predictions = _ToldPredictions(self.rows, instruments)
        self.guard_events = _Told(self.rows, "guard")
        self.ledger.settlements = _Told(self.rows, "funding")

    def order(self, row: OrderRow) -> None:
        """Append an order, and note what the journal does not hold."""
        self.rows.add("order", [row.client_order_id, row.bound_by, row.stop_frac])
        super().order(row)


class WatchedStrategy(KeptStrategy):
    """The strategy of an engine, which says what it has heard and sent."""

    view: ClientView

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # What is past stays in memory: its rows are told as they are added.
        self.trims = False
        leave = self.desk.leave

        def left(client_order_id: str) -> None:
            # Known from now on: what is heard of it is waited for.
            self.see(client_order_id)
            leave(client_order_id)
            self.view.sent += 1

        self.desk.leave = left  # type: ignore[method-assign]

    def see(self, client_order_id: str) -> None:
        """Say what is known of an order."""
        row = self.recorder.orders.get(client_order_id)
        if row is not None:
            accepted = row.status not in ("INITIALIZED", "SUBMITTED")
            ended = row.status in FINAL_STATUSES
            self.view.orders[client_order_id] = OrderView(accepted, ended, row.filled_quantity)

    def on_order_event(self, event: Any) -> None:
        """Count a cancel that leaves."""
        if type(event).__name__ == "OrderPendingCancel":
            self.view.sent += 1

    def on_order_denied(self, event: Any) -> None:
        """Take an order back that never left."""
        super().on_order_denied(event)
        self.view.sent -= 1
        self.see(event.client_order_id.value)

    def on_order_filled(self, event: Any) -> None:
        """Take a fill, and say so once all that follows has left."""
        super().on_order_filled(event)
        self.see(event.client_order_id.value)

    def on_order_accepted(self, event: Any) -> None:
        """Take an acceptance."""
        super().on_order_accepted(event)
        self.see(event.client_order_id.value)

    def on_order_rejected(self, event: Any) -> None:
        """Take a refusal."""
        super().on_order_rejected(event)
        self.see(event.client_order_id.value)

    def on_order_canceled(self, event: Any) -> None:
        """Take a cancel."""
        super().on_order_canceled(event)
        self.see(event.client_order_id.value)

    def on_order_expired(self, event: Any) -> None:
        """Take the end of an order."""
        super().on_order_expired(event)
        self.see(event.client_order_id.value)

    def recovered(self, *reports: OrderReport) -> None:
        """Take what the exchange was asked."""
        super().recovered(*reports)
        for one in reports:
            self.see(one.client_order_id)


class _ClosesOnly(RiskGuard):
    """A risk guard that looks at nothing between two closes, as in a backtest."""

    def on_quote(self, quote: Any) -> None:
        """Leave a quote alone."""

    def on_mark_price(self, mark_price: Any) -> None:
        """Leave a mark price alone."""


class SeenFeed(MarketFeed):
    """A feed that says which bars it has seen."""

    newest: ClassVar[dict[str, int]] = {}
    """By stream, the newest stamp, UTC nanoseconds."""

    def on_bar(self, bar: Any) -> None:
        """Take a bar, and say so."""
        super().on_bar(bar)
        kind = bar.bar_type
        interval = interval_name(self._spec.interval_ns)
        self.newest[_stream(str(kind.instrument_id), interval)] = bar.ts_event


class ParityEngine(ExchangeEngine):
    """An engine that says which closes it has handled.

    Its strategy remembers no prices from before its start, for that of a backtest does not.
    """

    shows_past = False
    view: ClientView
    since = _NOT_YET

    def _handled(self, found: BarSet, latency_ns: int | None) -> None:
        super()._handled(found, latency_ns)
        if found.ts > self.since:
            interval = interval_name(self._prepared.interval_ns)
            for name in found.bars:
                self.view.saw(_stream(name, interval))

    def _guard_actor(self) -> RiskGuard:
        config = RiskGuardConfig(
            1_000, self.parts.guard.watch, lambda: self.engine.view.last_bar_ns or self.since, 1e9
        )
        return _ClosesOnly(self.parts.strategy, config)

    def _leave(self, error: LeviBotError | None = None) -> None:
        """Stay: nobody else is on its account, and what it did is read afterwards."""

    @property
    def is_ready(self) -> bool:
        """Whether it has handled what lies behind it, and what it wants leaves."""
        return self.engine.view.last_bar_ns >= self.since and not self._held


class Steps(LockStep):
    """Lock-step with an outage of the connections, or the end of the process, in its middle.

    Parameters
    ----------
    plan : NodePlan
        What happens when.
    engine : ParityEngine
        Whose market goes on.
    """

    def __init__(self, plan: NodePlan, engine: ParityEngine) -> None:
        super().__init__(plan.url, engine.view, timeout_s=_PATIENCE_S, settle_s=plan.settle_s)
        self._plan = plan
        self._engine = engine
        self._remote = Remote(plan.url)
        self.outages = 0

    def advance(self) -> bool:
        """Let one step happen, and whatever the plan says."""
        plan = self._plan
        outage = plan.drop_at and self._comes(plan.drop_at)
        if outage:
            self._remote.fault("drop")
        found = super().advance()
        if outage:
            self._come_back()
        return found

    def handled(self, step: dict[str, Any]) -> None:
        """Tell how far the market is; end the process where the plan says so.

        What it has decided at that close is committed and on its way, and nothing was answered. An
        order that dies between its journal and the exchange would be given up by the next process
        (`live.recovery`), and decided anew: that is no parity, and tested elsewhere.
        """
        if self._plan.kill_at == step["ts"] and step["market"] and step["closes"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps % _TOLD_EVERY == 0:
            print(f"AT {step['ts']}", flush=True)

    def unhandled(self) -> str:
        """Return which bars were not handled; a close of which only some are shown was not yet.

        The exchange shows some of a close's bars before the others where one of those hits a stop,
        whose events come first; the engine takes what it is shown and waits for the rest.
        """
        sent, newest = self._sent, SeenFeed.newest
        if len({sent[name] for name in self._view.handled}) <= 1:
            return super().unhandled()
        assert self.step is not None
        close = self.step["ts"] - NS_PER_SECOND
        late = [
            one for one in self.step["market"] if one in sent and newest.get(one, close) < close
        ]
        return f"{', '.join(late)} were not seen" if late else ""

    def _comes(self, close: int) -> bool:
        """Return whether the bars of a close come with the next step."""
        step = self.step
        near = step is not None and close - self._plan.interval_ns <= step["ts"] < close
        return near and self._remote.state()["next"] == close

    def _come_back(self) -> None:
        """Wait until the client listens again, and let its clock pass the close that it missed."""
        time.sleep(0.1)
        self.await_client(self._view.handled, seconds=_PATIENCE_S)
        assert self._engine.clock is not None
        self._engine.clock.seen(self._plan.drop_at + _OUTAGE_NS)
        self.outages += 1


def _stream(instrument_id: str, interval: str) -> str:
    return f"{symbol_of(instrument_id).lower()}@kline_{interval}"


def _request(plan: NodePlan) -> EngineRequest:
    profile = load_profile(plan.profile)
    return EngineRequest(
        profile=profile,
        bundle=Path(plan.bundle),
        state=Path(plan.state),
        traded=profile.data.instruments,
        mode="testnet",
        name=plan.name,
        catalog=Path(plan.catalog),
        exchange=plan.url,
        tag=str(StrategySettings.__dataclass_fields__["tag"].default),
        speed=None,
    )


def _drive(engine: ParityEngine, steps: Steps, failed: list[str]) -> None:
    """Let the market go on once the engine is ready, and stop the engine at its end."""
    try:
        end = time.monotonic() + _PATIENCE_S
        while not engine.is_ready:
            if time.monotonic() > end:
                status = engine.feed.status()
                raise RunFailedError(f"the engine must be ready, is {status}")
            time.sleep(0.01)
        steps.await_client(engine.view.handled, seconds=_PATIENCE_S)
        steps.run(on_step=steps.handled)
    except BaseException as error:
        failed.append(f"{type(error).__name__}: {error}; {engine.feed.status()}")
    finally:
        steps.close()
        engine.engine.stop()


def run(plan: NodePlan) -> dict[str, Any]:
    """Run one life of the engine to the end of the market; return what it says of itself."""
    ToldRecorder.rows = Rows(Path(plan.rows))
    WatchedStrategy.view = ParityEngine.view = view = ClientView()
    engine_parts.RunRecorder = ToldRecorder  # type: ignore[attr-defined]
    engine_parts.KeptStrategy = WatchedStrategy  # type: ignore[attr-defined]
    engine_exchange.MarketFeed = SeenFeed  # type: ignore[attr-defined]
    engine_watch.NakedWatch = partial(NakedWatch, 1 << 60)  # type: ignore[assignment, attr-defined]
    prepared = prepare(_request(plan))
    guard = claim_guard(prepared)
    failed: list[str] = []
    told = Silent()
    with closing(StateStore(prepared.request.folder / STATE_FILE)) as store:
        with first_questions(prepared.request, told) as asks:
            engine = ParityEngine(prepared, guard, Stores(store, None), asks, told, lambda _: None)
        assert engine.clock is not None
        engine.since = engine.now() // plan.interval_ns * plan.interval_ns
        # What closed at the beginning is history: a backtest decides from the next close on. Later
        # the latest close is fetched, which no exchange has at once.
        begins = engine.since == plan.start
        engine.clock.seen(engine.since + (plan.interval_ns if begins else _OUTAGE_NS))
        interval = interval_name(plan.interval_ns)
        view.expect(*(_stream(name, interval) for name in prepared.instruments))
        for name in engine.parts.recorder.orders:
            engine.parts.strategy.see(name)  # type: ignore[attr-defined]
        steps = Steps(plan, engine)
        driver = threading.Thread(target=_drive, args=(engine, steps, failed), daemon=True)
        driver.start()
        outcome = engine.run()
        driver.join(5.0)
    counters = engine.feed.status().counters
    return {
        "code": outcome.code,
        "reason": outcome.reason,
        "failed": failed,
        "errors": engine.parts.recorder.errors,
        "steps": steps.steps,
        "outages": steps.outages,
        "reconnects": counters.get("reconnects", 0),
        "backfilled": counters.get("backfilled", 0),
        "cash": engine.parts.recorder.ledger.cash,
    }


def main() -> None:
    """Run one life."""
    plan = NodePlan.from_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = run(plan)
    print("RESULT " + json.dumps(found), flush=True)
    # The compiled runtime may still have threads, which have nothing left to do.
    os._exit(0)


if __name__ == "__main__":
    main()

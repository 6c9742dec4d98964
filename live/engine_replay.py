"""An engine on recorded data: the catalog as its market, our paper exchange as its exchange.

The records pass in lock-step, at the pace that is asked for, so that an engine on a replay decides
and fills exactly as the backtest of the same span. Its clock is that of the data; only the kill
switch, a person's requests to the guard and the engine's own watch live by the wall clock.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import NamedTuple

from adapters.replay import ReplayConfig, ReplayFeed, ReplaySession
from catalog.errors import ConfigError, LeviBotError, RunFailedError
from catalog.progress import Progress, no_progress
from catalog.store import Catalog
from catalog.timestamps import format_time
from live.book_owner import require_own_books
from live.engine import Engine, Outcome, Teller
from live.engine_parts import (
    PAPER_FILE,
    STATE_FILE,
    EngineParts,
    Prepared,
    Setting,
    assemble,
)
from live.engine_request import ReplaySpan
from live.live_guard import LiveGuard
from live.live_replay import sorted_records
from live.node import fence_answer, run_node
from live.paper import PaperWiring, leveraged
from live.paper_store import PaperStore
from live.recovery import Recovered, RecoveryConfig, restore, settle_once
from live.state_store import StateStore
from live.warm_start import feed_history, slow_inputs
from research.features import panel_needs
from research.panel import Panel, load_panel
from strategies.replay_data import ReplayInputs

LOOK_NS = 50_000_000
"""Of a monotonic clock, between two looks at the files around the risk guard."""
_PAPER = RecoveryConfig(in_flight_secs=0.0, fresh_secs=1.0)
"""Nothing is on its way to a paper exchange once its process has ended."""


def run_replay(
    prepared: Prepared, guard: LiveGuard, teller: Teller, progress: Progress = no_progress
) -> Outcome:
    """Run an engine over recorded data until they end, or until it is stopped.

    Raises
    ------
    ConfigError
        If the model has seen the span.
    DataError
        If the catalog lacks a part of it.
    """
    replay = prepared.request.replay
    assert replay is not None
    _require_unseen(prepared, replay)
    folder = prepared.request.folder
    with (
        closing(StateStore(folder / STATE_FILE)) as store,
        closing(PaperStore(folder / PAPER_FILE)) as paper,
    ):
        require_own_books(store, prepared.request)
        setting = Setting(prepared.definitions(), fed=False, claims=True)
        parts = assemble(prepared, guard, store, setting)
        found = _recovered(parts, paper)
        inputs = _warm_inputs(prepared, replay, found.ts, progress)
        return ReplayEngine(parts, inputs, Account(paper, found.ts), teller).run(progress)


class Account(NamedTuple):
    """The paper account of an engine, and the last close that it and the strategy know."""

    store: PaperStore
    known_until: int


def _recovered(parts: EngineParts, paper: PaperStore) -> Recovered:
    """Restore the strategy, and learn of the paper exchange what became of its orders."""
    found = restore(parts.store, parts.strategy)
    if found.restored:
        settle_once(parts.store, parts.strategy, paper.lookup, found.ts, found, _PAPER)
    return found


def _warm_inputs(
    prepared: Prepared, replay: ReplaySpan, known_until: int, progress: Progress
) -> ReplayInputs:
    """Return what is replayed, the predictor fed all that lies before it.

    An engine that was interrupted goes on with the last close that it had seen.

    Raises
    ------
    ConfigError
        If it has seen all of them.
    """
    start = max(replay.start, known_until - prepared.interval_ns)
    if start >= replay.end - prepared.interval_ns and known_until:
        raise ConfigError(
            f"--replay must end after the last close that engine {prepared.request.name} has "
            f"seen, {format_time(known_until)}, ended {format_time(replay.end)}: give another "
            "--state or --name to begin anew"
        )
    panel = _load(prepared, replay, start)
    slow = slow_inputs(panel, start)
    predictor, bars, funding = prepared.predictor, panel.bars, panel.funding
    feed_history(predictor, bars, funding, start, slow=slow, progress=progress)
    inputs = ReplayInputs(
        instruments=prepared.definitions(),
        bars=tuple(one.between(start, replay.end) for one in panel.bars),
        funding=dict(panel.funding),
        slow=slow,
    )
    return inputs.for_predictor(prepared.predictor.spec)


class ReplayEngine:
    """One engine on one replay.

    Parameters
    ----------
    parts : EngineParts
        Its components, the predictor warmed up.
    inputs : ReplayInputs
        What is replayed.
    account : Account
        Its paper account.
    teller : Teller
        Takes what is worth a line in the log.
    """

    def __init__(
        self, parts: EngineParts, inputs: ReplayInputs, account: Account, teller: Teller
    ) -> None:
        replay = parts.request.replay
        assert replay is not None
        self.parts = parts
        self._inputs = inputs
        self._account = account
        self._held = True
        begin = min(int(one.ts_init[0]) for one in inputs.bars) - parts.prepared.interval_ns
        self._config = ReplayConfig(speed=replay.speed, paced_from=begin, may_stop=True)
        execution = parts.prepared.execution
        venue = parts.request.venue.venue
        shown = leveraged(inputs.instruments, execution.leverage)
        self._feed = ReplayFeed(venue, shown, sorted_records(inputs, execution))
        self._session: ReplaySession | None = None
        self._looked = 0
        self.engine = Engine(parts, self._now, teller)

    def _now(self) -> int:
        return self._inputs.ts_end if self._session is None else self._session.now

    def run(self, progress: Progress) -> Outcome:
        """Replay everything; one live node may exist in a process."""
        session = ReplaySession(self._feed, self._config, progress=progress)
        self._session = session
        session.on_timestamp = self._close
        engine, parts = self.engine, self.parts
        engine.stop = lambda: session.on_end() if session.on_end is not None else None
        parts.guard.watch.wall = time.time_ns
        engine.start("trading")
        error: BaseException | None = None
        try:
            actors = [parts.actor, engine.watch()]
            run_node(session, self._wiring(session), actors, [parts.strategy])
            error = self._fault(session)
        except LeviBotError as raised:
            error = raised
        return engine.ended(error)

    def _wiring(self, session: ReplaySession) -> PaperWiring:
        venue = self._feed.venue
        return PaperWiring(
            venue=venue,
            account_id=f"{venue}-001",
            instruments=self._inputs.instruments,
            execution=self.parts.prepared.execution,
            now=lambda: session.now,
            note_reference=self.parts.recorder.reference,
            on_error=session.fail,
            on_account_query=lambda parameters: fence_answer(session, parameters),
            store=self._account.store,
        )

    def _close(self, ts: int) -> None:
        """Let a time end: predict without the bars that are missing, look at the world."""
        self.parts.actor.close_timestamp(ts)
        if self.parts.recorder.errors:
            raise RunFailedError(f"a callback raised {self.parts.recorder.errors[0]}")
        if self._held and ts >= self._account.known_until:
            # What an earlier process had decided at this close leaves at this close.
            self._held = False
            self.parts.strategy.outbox.release()
        self.engine.view.last_bar_ns = ts
        self.engine.view.notice()
        now = time.monotonic_ns()
        if now - self._looked >= LOOK_NS:
            self._looked = now
            self._look(ts)

    def _look(self, ts: int) -> None:
        """See what people want: the guard's actor would judge the data's age by the wall clock."""
        desk = self.parts.strategy.guard
        assert desk is not None
        self.parts.guard.watch.look(ts)
        desk.act(ts)
        self.parts.guard.watch.save()

    def _fault(self, session: ReplaySession) -> BaseException | None:
        if self.parts.recorder.errors:
            return RunFailedError(f"a callback raised {self.parts.recorder.errors[0]}")
        if session.failure is not None:
            return session.failure
        if not (session.finished or session.stopped):
            return RunFailedError("the replay never started: the node's log names the cause")
        return None


def _require_unseen(prepared: Prepared, replay: ReplaySpan) -> None:
    # Imported here: an engine on an exchange needs none of it.
    from research.walkforward import check_unseen

    check_unseen(prepared.bundle.model, replay.start, replay.end)


def _load(prepared: Prepared, replay: ReplaySpan, start: int) -> Panel:
    profile, catalog = prepared.request.profile, prepared.request.catalog
    assert catalog is not None
    return load_panel(
        Catalog.open(catalog),
        profile.data.instruments,
        profile.data.interval,
        start,
        replay.end,
        needs=panel_needs(profile.features),
        funding=prepared.execution.funding == "recorded",
        warmup_bars=prepared.predictor.spec.warmup_bars,
    )

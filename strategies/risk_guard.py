"""The actor that watches while nothing is decided: files, the clock, prices between two closes.

The strategy tells its guard what happens at the stamps of data. A live process needs more: a
kill-switch file may appear, data may stay away, a policy may change, and a loss does not wait for
the close of a bar. `RiskGuard` looks once an interval of its clock, which is the wall clock in a
live node and the replay's in a replay.

What it does follows from no data but its own: a replay that is to equal a live run has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Self

from nautilus_trader.common import DataActor, DataActorConfig
from nautilus_trader.model import ActorId

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_SECOND
from strategies.fusion import FusionStrategy
from strategies.guard_desk import GuardDesk, Mark
from strategies.guard_watch import GuardWatch
from strategies.market_data import price_number

NS_PER_MS = 1_000_000
MARK_LIFE_NS = 10 * NS_PER_SECOND
"""A mark price counts for so long against newer quotes, which one trade may move."""
_LOOKS_MISSED = 10
_LEAST_PATIENCE_NS = 10 * NS_PER_SECOND
_TIMER = "risk-guard-look"
_KILL_TIMER = "risk-guard-kill"
_KILL_LOOK_NS = 100 * NS_PER_MS
"""The kill switch is looked for so often, whatever the interval of the other looks."""


@dataclass(frozen=True, slots=True)
class RiskGuardConfig:
    """How the actor looks.

    Parameters
    ----------
    look_interval_ms : int
        Milliseconds of its clock between two looks, 10 to 60,000 in a live node. Without a look
        for ten of them (ten seconds at least) the strategy's guard ends trading.
    watch : GuardWatch, optional
        The files around the guard. None in a replay, which reads and writes none.
    now : callable, optional
        The time of the data, UTC nanoseconds, where that is not the clock's: an exchange that
        plays recorded data. Quotes are then as old as the exchange says.
    speed : float
        Seconds of data that pass in a second of the clock.
    """

    look_interval_ms: int = 1_000
    watch: GuardWatch | None = None
    now: Callable[[], int] | None = None
    speed: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an interval at which nobody would be told in time.

        Raises
        ------
        ConfigError
            If it is too short or too long.
        """
        most = 60_000 if self.watch is not None else 86_400_000
        if not 10 <= self.look_interval_ms <= most:
            raise ConfigError(
                f"look_interval_ms must be 10 to {most}, was {self.look_interval_ms}: 1000 is usual"
            )


def _blocks[**P](
    callback: Callable[Concatenate[RiskGuard, P], None],
) -> Callable[Concatenate[RiskGuard, P], None]:
    """Let an exception in a callback, which the engine would only log, end trading."""

    @wraps(callback)
    def call(self: RiskGuard, /, *arguments: P.args, **keywords: P.kwargs) -> None:
        try:
            callback(self, *arguments, **keywords)
        except Exception as error:
            self.block(callback.__name__, error)

    return call


class RiskGuard(DataActor):
    """Look at the world for a strategy's guard, and see to it that the guard is heard.

    Parameters
    ----------
    strategy : FusionStrategy
        Whose guard it is; its policy must have a `risk`.
    config : RiskGuardConfig
        How.
    """

    def __new__(cls, strategy: FusionStrategy, config: RiskGuardConfig) -> Self:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls)

    def __init__(self, strategy: FusionStrategy, config: RiskGuardConfig) -> None:
        super().__init__(DataActorConfig(actor_id=ActorId(f"RISK-GUARD-{strategy.settings.tag}")))
        if strategy.guard is None:
            raise ConfigError(
                "a risk guard needs a risk policy, the strategy has none: name its file as risk: "
                "in the profile's strategy"
            )
        self._strategy = strategy
        self._desk: GuardDesk = strategy.guard
        self._watch = config.watch
        self._interval_ns = config.look_interval_ms * NS_PER_MS
        self._data_time = config.now
        self._speed = config.speed
        self._quotes: dict[str, Mark] = {}
        self._marks: dict[str, Mark] = {}
        self._logged = 0
        if self._watch is not None:
            self._desk.on_news = self._watch.save

    @_blocks
    def on_start(self) -> None:
        """Look for the first time, before anything is traded, and from then on regularly."""
        now = self._now()
        patience = max(_LOOKS_MISSED * self._interval_ns, _LEAST_PATIENCE_NS)
        self._desk.expect_looks(now, round(patience * max(self._speed, 1.0)))
        self.look(now)
        for instrument in self._strategy.settings.instruments:
            self.subscribe_quotes(instrument.id)
            self.subscribe_mark_prices(instrument.id)
        self.clock.set_timer_ns(_TIMER, self._interval_ns, callback=self._on_timer)
        if self._watch is not None and self._interval_ns > _KILL_LOOK_NS:
            self.clock.set_timer_ns(_KILL_TIMER, _KILL_LOOK_NS, callback=self._on_kill_timer)

    def on_stop(self) -> None:
        """Store what is known at the end."""
        if self._watch is not None:
            self._watch.save()

    @_blocks
    def on_quote(self, quote: Any) -> None:
        """Keep the middle of a quote."""
        bid, ask = price_number(quote.bid_price), price_number(quote.ask_price)
        # A side without a price must not be hidden by the other.
        price = math.nan if min(bid, ask) <= 0.0 else 0.5 * (bid + ask)
        self._quotes[str(quote.instrument_id)] = Mark(price, self._stamp(quote))

    @_blocks
    def on_mark_price(self, mark_price: Any) -> None:
        """Keep a mark price."""
        price = price_number(mark_price.value)
        self._marks[str(mark_price.instrument_id)] = Mark(price, self._stamp(mark_price))

    def _on_timer(self, event: Any) -> None:
        self.look(self._now())

    @_blocks
    def _on_kill_timer(self, event: Any) -> None:
        if self._watch is not None and self._watch.kill_switch_set():
            self.look(self._now())

    def _now(self) -> int:
        return self.clock.timestamp_ns() if self._data_time is None else self._data_time()

    def _stamp(self, record: Any) -> int:
        return int(record.ts_init if self._data_time is None else record.ts_event)

    def look(self, now: int) -> None:
        """See what there is to see, and do what follows. Never raises: a failure ends trading.

        Parameters
        ----------
        now : int
            UTC nanoseconds.
        """
        try:
            self._look(now)
        except Exception as error:
            self.block("look", error)
            self._flatten(now)
        self._desk.tell()
        if self._watch is not None:
            self._watch.save()
            self._desk.tell()
        self._log_news()

    def block(self, where: str, error: Exception) -> None:
        """End trading because of an exception."""
        guard = self._desk.guard
        guard.fail(guard.state.ts, f"{where}: {type(error).__name__}: {error}")

    def _look(self, now: int) -> None:
        policy = None if self._watch is None else self._watch.look(now)
        if policy is not None:
            self._strategy.adopt_risk(now, policy)
        self._desk.look(now, self._fresh(now))

    def _flatten(self, now: int) -> None:
        """Do what a guard that has failed says, even if looking fails."""
        try:
            self._desk.act(now)
        except Exception as error:
            self.block("act", error)

    def _fresh(self, now: int) -> dict[str, Mark]:
        """Return the prices that count now, without those that are too old to be data."""
        oldest = now - int(self._desk.guard.policy.max_data_age_secs * NS_PER_SECOND)
        found = {name: one for name, one in self._quotes.items() if one.ts >= oldest}
        for name, mark in self._marks.items():
            quote = found.get(name)
            if mark.ts >= oldest and (quote is None or mark.ts >= quote.ts - MARK_LIFE_NS):
                newest = mark.ts if quote is None else max(mark.ts, quote.ts)
                found[name] = Mark(mark.price, newest)
        return found

    def _log_news(self) -> None:
        events = self._strategy.recorder.guard_events
        for event in events[self._logged :]:
            text = f"risk guard {event.level}: {event.kind} {event.reason} {event.detail}"
            self.log.warning(text)
        self._logged = len(events)

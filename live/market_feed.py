"""The actor through which all market data of a live process come.

It subscribes to raw bars, funding and slow inputs, and hands them on as a replay would: each bar
once, stamped with its close, in order, complete over the instruments, after all that was known
by then. Predictor and strategy subscribe to nothing themselves (`fed` in their settings).

Warm start and gap are one thing to it: closes that are missing. They are taken from the catalog and
then from the exchange's history, page by page, and go through the predictor in order, whose next
prediction is then the one that a backtest has at that bar. While a close is missing nothing later
is handed on, so nothing is predicted and nothing entered; the history is asked again with
growing pauses, for ever. Decisions are made on a close only while it is young
(`GateConfig.decide_within_secs`), however it came.

What was tried of the engine (2.0.0rc6), in a node with Python clients:

- Calling ``on_bar`` of another actor and of a strategy from this actor's ``on_bar`` or from its
  clock's callbacks is sound: orders submitted from there reach the execution client at once, their
  events come back to the strategy, and a prediction published from there arrives before the call
  returns. (It must happen on the node's thread, as everything.)
- ``on_historical_bars`` is not told which request it answers, and of an empty answer not even the
  bar type. A request that fails is not answered at all, and where a Python client raises, a node
  with `shutdown_on_error` stops.
- Events of an execution client may reach the strategy after a clock's alert that was set behind
  them. So a paper exchange is shown a close first, and the close is handed on once the strategy has
  heard of every fill.
- An answer to `request_funding_rates` is cut to the span that was asked for by its `ts_init`, which
  is its arrival: with a start or an end nothing is left of it. Without them the latest come.
- A request that the exchange refuses is answered with an empty one by the compiled Binance client.
- An error in the log stops a node with `shutdown_on_error`, as those of replays have it; those on
  an exchange's feed have not (`live.node`).
- Components start in the order in which they were added, actors before strategies: bars that are
  handed to a strategy that has not started are lost to nobody but its orders. So the feed hands on
  from its first timer on, not from ``on_start``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from nautilus_trader.common import DataActor, DataActorConfig, SocketState
from nautilus_trader.model import ActorId, BarType, ClientId, InstrumentId

from catalog.errors import ConfigError, RunFailedError
from catalog.instruments import bar_type
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, NS_PER_SECOND, format_time, interval_name
from live.bar_gate import BarGate
from live.feed_delivery import Close, Delivery, Exchange, raw_bar
from live.feed_settings import FeedConfig, FeedState, FeedStatus, FeedWiring
from live.history import MAX_SETTLEMENTS, Answer, HistoryDesk, first_needed
from live.settlements import Settlements
from research.predictor import PredictorSpec
from strategies.slow_records import input_name, pass_on, subscriptions

_TIMER, _GO_ON = "market-feed", "market-feed-go-on"
_SETS_AT_ONCE = 64
"""Closes of history handed on in one go: the node's loop must not stand still for seconds."""

_POLL_NS = 1_000_000
_DEAF_NS = 5 * NS_PER_SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

__all__ = ["FeedConfig", "FeedState", "FeedStatus", "FeedWiring", "MarketFeed"]


class MarketFeed(DataActor):
    """Hand market data on as a replay would; see the module.

    Parameters
    ----------
    wiring : FeedWiring
        Its connections.
    config : FeedConfig
        Its patience.

    Attributes
    ----------
    exchange : Exchange or None
        The paper exchange, which is shown every close first; set it before the node runs. Quotes
        are not among what it is shown.

    Raises
    ------
    ConfigError
        If the predictor needs what no exchange's bars bring (order flow, one-minute bars).
    """

    def __new__(cls, wiring: FeedWiring, config: FeedConfig) -> Self:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls)

    def __init__(self, wiring: FeedWiring, config: FeedConfig) -> None:
        super().__init__(DataActorConfig(actor_id=ActorId("MARKET-FEED-001")))
        self._wiring = wiring
        self._config = config
        self._to = wiring.receivers
        self._spec = self._to.actor.predictor.spec
        _require_streamable(self._spec)
        self._client = ClientId(wiring.client)
        interval = interval_name(self._spec.interval_ns)
        self._types = {
            name: BarType.from_str(bar_type(name, interval)) for name in self._spec.instruments
        }
        self._is_wall = wiring.now is None
        self._kinds = frozenset(self._types.values())
        self._slow_client = ClientId(wiring.slow_client or wiring.client)
        self.exchange: Exchange | None = None
        self._delivery = Delivery(self._to, 0)
        self._asks_bars = HistoryDesk(self._spec.interval_ns, config.history)
        self._asks_funding = HistoryDesk(NS_PER_HOUR, config.history, page=MAX_SETTLEMENTS)
        self._gate: BarGate | None = None
        self._settlements: Settlements | None = None
        self._held: Close | None = None
        self._held_at = 0
        self._failure = ""
        self._ready = False
        self._warm = False
        # Until all that has closed by now was handed on for the first time.
        self._settling = True
        self._lost = False
        self._reconnects = 0
        self._received = 0
        self._last_bar = 0
        self._known: dict[str, int] = {}
        self._asked_at: dict[str, int] = {}
        self._fed = dict.fromkeys(self._spec.instruments, 0)

    def on_start(self) -> None:
        """Subscribe, and begin with what the catalog holds."""
        self._guarded(self._start)

    def on_bar(self, bar: Any) -> None:
        """Take a raw bar; hand on what is complete by it."""
        self._guarded(lambda: self._take_bar(bar))

    def on_funding_rate(self, funding_rate: Any) -> None:
        """Take a rate, mostly one that is only expected."""
        self._guarded(lambda: self._take_rate(funding_rate))

    def on_data(self, data: Any) -> None:
        """Pass a slow input on, which counts for the bars that close after it became known."""
        self._guarded(lambda: self._take_slow(data))

    def on_historical_bars(self, bars: Sequence[Any]) -> None:
        """Take an answer to a request for bars."""
        self._guarded(lambda: self._take_history(bars))

    def on_historical_funding_rates(self, funding_rates: Sequence[Any]) -> None:
        """Take an answer to a request for settlements."""
        self._guarded(lambda: self._take_settled(funding_rates))

    def on_socket_state(self, event: Any) -> None:
        """Ask at once for what was missed, where a connection is back."""
        self._guarded(lambda: self._take_socket(event))

    def complete(self, ts: int) -> None:
        """Take note that nothing more comes for closes up to `ts`: recorded data know it."""
        self._guarded(lambda: self._complete(ts))

    def status(self) -> FeedStatus:
        """Return what there is to say; call it on the node's thread."""
        now = self._now()
        state, reason = self._judge(now)
        counters = {} if self._gate is None else self._gate.counts.to_json()
        for name, desk in (("", self._asks_bars), ("funding_", self._asks_funding)):
            counters[f"{name}requests"] = desk.counts.sent
            counters[f"{name}requests_failed"] = desk.counts.failed
        if self._settlements is not None:
            counters["settlements"] = self._settlements.counts.settled
            counters["settlements_estimated"] = self._settlements.counts.estimated
        ages = {name: (now - ts) / NS_PER_SECOND for name, ts in self._known.items()}
        following = 0 if self._gate is None else self._gate.next_ts
        counters["reconnects"] = self._reconnects
        return FeedStatus(state, reason, self._last_bar, following, counters, ages)

    def _start(self) -> None:
        now = self._now()
        spec, interval = self._spec, self._spec.interval_ns
        first = first_needed(spec, now)
        known = self._to.known_until // interval * interval
        if known:
            # Strategy and paper exchange go on where an earlier process ended.
            first = min(first, known + interval)
        self._gate = BarGate(spec.instruments, interval, first, self._config.gate)
        self._delivery = Delivery(
            self._to, known or now // interval * interval - interval, self.exchange
        )
        if spec.uses_funding or self._to.books_funding:
            self._settlements = self._make_settlements(first, now)
        self._take_stored(now)
        for kind in self._types.values():
            self.subscribe_bars(kind, client_id=self._client)
        if self._settlements is not None:
            for name in spec.instruments:
                self.subscribe_funding_rates(InstrumentId.from_str(name), client_id=self._client)
        for data_type in subscriptions(spec):
            self.subscribe_data(data_type, client_id=self._slow_client)
        self.subscribe_socket_state()
        every = self._config.look_interval_ms * 1_000_000
        self.clock.set_timer_ns(_TIMER, every, callback=self._on_timer)

    def _make_settlements(self, first: int, now: int) -> Settlements:
        since = first - round(self._config.history.funding_days * NS_PER_DAY)
        found = Settlements(
            self._spec.instruments,
            since,
            round(self._config.funding_patience_secs * NS_PER_SECOND),
            has_history=self._config.gate.has_history,
        )
        for name, rates in self._wiring.stored.funding.items():
            known = rates.between(since, now)
            found.stored(name, zip(known.ts_init.tolist(), known.value.tolist(), strict=True))
        return found

    def _take_stored(self, now: int) -> None:
        """Take in what the catalog holds; its bars pass the gate as those of the exchange do."""
        assert self._gate is not None
        stored, predictor = self._wiring.stored, self._to.actor.predictor
        for ts, update, arguments in stored.slow.updates(predictor, None, now):
            update(*arguments)
            self._known[arguments[0]] = ts
        # A catalog has no unfinished bars: what it holds is believed at once.
        over = now + round(self._config.gate.history_lag_secs * NS_PER_SECOND)
        for bars in stored.records(self._wiring.instruments, self._spec.interval_ns).values():
            for bar in bars:
                self._gate.take(raw_bar(bar, streamed=False), over)

    def _on_timer(self, event: Any) -> None:
        self._guarded(self._look)

    def _look(self) -> None:
        """Hand on what can be, and ask for what cannot."""
        self._ready = True
        self._advance()
        if self._config.gate.has_history:
            self._ask_for_bars()
            self._ask_for_funding()

    def _ask_for_bars(self) -> None:
        assert self._gate is not None
        now = self._now()
        for ask in self._asks_bars.due(self._gate.gaps(now), self.clock.timestamp_ns()):
            start, end = _moment(ask.start), _moment(ask.end)
            kind = self._types[ask.instrument_id]
            self._asked_at[ask.instrument_id] = now
            self.request_bars(kind, start=start, end=end, limit=ask.limit, client_id=self._client)

    def _ask_for_funding(self) -> None:
        if self._settlements is None:
            return
        now = self._now()
        gaps = self._settlements.gaps(now)
        for ask in self._asks_funding.due(gaps, self.clock.timestamp_ns()):
            identity = InstrumentId.from_str(ask.instrument_id)
            hours = (now - ask.start) // NS_PER_HOUR + 1
            # Without limits in time: the engine would leave out all that arrives after the request.
            self.request_funding_rates(
                identity, limit=min(hours, MAX_SETTLEMENTS), client_id=self._client
            )

    def _take_bar(self, bar: Any) -> None:
        if self._gate is None or bar.bar_type not in self._kinds:
            return
        # Live, a bar's `ts_init` is when it arrived; recorded data have a time of their own.
        raw = raw_bar(bar, streamed=True, seen=bar.ts_init if self._is_wall else None)
        if self._gate.take(raw, self._now()) == "taken":
            self._received = self.clock.timestamp_ns()
            self._known["stream"] = max(self._known.get("stream", 0), bar.ts_event)
            self._asks_bars.stirred()
            self._advance()

    def _take_history(self, bars: Sequence[Any]) -> None:
        gate = self._gate
        assert gate is not None
        now, answer = self._now(), None
        if bars:
            name = str(bars[0].bar_type.instrument_id)
            seen = self._asked_at.get(name, now)
            raws = [raw_bar(bar, streamed=False, seen=seen) for bar in bars]
            verdicts = [gate.take(raw, now) for raw in raws]
            if "taken" in verdicts:
                self._received = self.clock.timestamp_ns()
            gate.proves(name)
            earliest = min(bar.ts_event for bar in bars)
            answer = Answer(name, verdicts.count("taken"), earliest)
        gap = self._asks_bars.answered(answer, self.clock.timestamp_ns())
        if gap is not None and (bars or not gate.is_proved(gap.instrument_id)):
            gate.lacks(gap, self._asked_at.get(gap.instrument_id, now))
        self._look()

    def _take_rate(self, rate: Any) -> None:
        if self._settlements is None:
            return
        name = str(rate.instrument_id)
        self._settlements.take(name, float(rate.rate), rate.ts_event, rate.next_funding_ns)
        self._known["funding"] = max(self._known.get("funding", 0), rate.ts_event)

    def _take_settled(self, rates: Sequence[Any]) -> None:
        settlements = self._settlements
        assert settlements is not None
        answer = None
        if rates:
            name = str(rates[0].instrument_id)
            pairs = [(rate.ts_event, float(rate.rate)) for rate in rates]
            answer = Answer(name, settlements.answered(name, pairs), self._now())
            self._delivery.correct(settlements.corrected())
        gap = self._asks_funding.answered(answer, self.clock.timestamp_ns())
        if gap is not None:
            settlements.lacks(gap, self._now())
        self._look()

    def _take_slow(self, data: Any) -> None:
        pass_on(self._to.actor.predictor, data)
        self._known[input_name(data)] = data.data.ts_init

    def _take_socket(self, event: Any) -> None:
        if event.state == SocketState.DISCONNECTED:
            self._lost = True
        elif self._lost:
            self._lost = False
            self._reconnects += 1
            self._asks_bars.hurry()
            self._asks_funding.hurry()

    def _complete(self, ts: int) -> None:
        assert self._gate is not None
        self._gate.complete(ts)
        self._advance()

    def _advance(self) -> None:
        """Hand on, in order, the closes that can be."""
        gate, settlements = self._gate, self._settlements
        assert gate is not None
        for _ in range(_SETS_AT_ONCE):
            if not self._ready or self._held is not None:
                return
            now = self._now()
            ts = gate.next_ready(now)
            if ts is None:
                return
            if settlements is not None and settlements.holds_back(ts, now):
                self._ask_for_funding()
                return
            found = gate.pop(now)
            assert found is not None
            settled = [] if settlements is None else settlements.up_to(found.ts)
            close = self._delivery.close(found, settled)
            if self._delivery.show(close):
                # The exchange's events first: they are on their way to the strategy.
                self._held, self._held_at = close, self.clock.timestamp_ns()
                self._go_on_later()
                return
            self._hand_on(close)
        self._go_on_later()

    def _go_on_later(self, after_ns: int = 0) -> None:
        self.clock.set_time_alert_ns(_GO_ON, self.clock.timestamp_ns() + after_ns, self._on_go_on)

    def _on_go_on(self, event: Any) -> None:
        self._guarded(self._go_on)

    def _go_on(self) -> None:
        if self._held is not None:
            if not self._delivery.heard():
                self._wait_for_events()
                return
            close, self._held = self._held, None
            self._hand_on(close)
        self._advance()

    def _wait_for_events(self) -> None:
        waited = self.clock.timestamp_ns() - self._held_at
        if waited > _DEAF_NS:
            raise RunFailedError(
                f"the strategy must hear of a fill within {_DEAF_NS // NS_PER_SECOND} s, but has "
                f"not in {waited / NS_PER_SECOND:.1f} s: an event was lost, or its callback raised"
            )
        self._go_on_later(_POLL_NS)

    def _hand_on(self, close: Close) -> None:
        self._last_bar = self._known["bars"] = close.ts
        self._warm = self._warm or close.bars.fresh
        for name in close.bars.bars:
            self._fed[name] += 1
        self._delivery.hand_on(close)
        latency = None
        if self._received and not self._settling:
            latency = max(0, self.clock.timestamp_ns() - self._received)
        self._wiring.on_handled(close.bars, latency)

    def _judge(self, now: int) -> tuple[FeedState, str]:
        """Return the state, and why it is not ``trading``."""
        gate, settlements = self._gate, self._settlements
        if self._failure:
            return "failed", self._failure
        if gate is None:
            return "starting", "the node has not started the feed"
        patience = 0 if self._settling else round(self._config.gate.ask_after_secs * NS_PER_SECOND)
        due = gate.last_close(now - patience)
        if gate.next_ts > due or (self._settling and self._warm):
            short = self._short_of_history()
            self._settling = len(short) == len(self._fed)
            return ("warming" if self._settling else "trading"), "; ".join(short)
        state: FeedState = "warming" if self._settling else "waiting"
        late = (due - gate.next_ts) // self._spec.interval_ns + 1
        reason = f"{late} closes are missing from {format_time(gate.next_ts)} on"
        failures = self._asks_bars.failures
        if failures:
            reason += f"; its history failed {failures} times in a row"
        if settlements is not None and settlements.is_waiting(gate.next_ts):
            reason += "; a settled funding rate is waited for"
        return state, reason

    def _short_of_history(self) -> list[str]:
        """Say of which instruments there are fewer bars than their features look back."""
        needed = self._spec.warmup_bars
        return [
            f"{name} has {count} of the {needed} bars that its features need"
            for name, count in self._fed.items()
            if count < needed
        ]

    def _now(self) -> int:
        now = self._wiring.now
        return self.clock.timestamp_ns() if now is None else now()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do some work; an exception, which the engine would only log, ends the feed."""
        if self._failure:
            return
        try:
            work()
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            # An error in the log would stop the node before anybody has said why.
            self.log.warning(f"market feed failed: {self._failure}")
            self._wiring.on_error(error)


def _moment(ts: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ts // 1_000)


def _require_streamable(spec: PredictorSpec) -> None:
    lacking = [
        option for option, asked in (("flow", spec.uses_flow), ("path", spec.uses_minutes)) if asked
    ]
    if lacking:
        raise ConfigError(
            f"a live predictor must get along with bars, funding and slow series, but asks for "
            f"features.{' and features.'.join(lacking)}: the engine's bars carry no order flow, "
            f"and one-minute bars are not streamed; train with "
            f"{', '.join(f'features.{name}: false' for name in lacking)}"
        )

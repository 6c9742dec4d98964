"""All engines as Prometheus metrics, made from the registry when they are asked for.

Names follow Prometheus: base units (seconds, bytes, ratio) and ``_total`` for what only grows.
Money is in USDT. Counters are those of an engine's process: they begin anew with it, which
``rate()`` and ``increase()`` expect. A value that is not known has no sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from catalog.timestamps import NS_PER_SECOND
from live.engine_status import EngineCounters, EngineStatus, PositionStatus, PredictionStatus
from live.overview import EngineView, Overview, Reading

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `render` returns."""

STATES = (
    "starting", "warming", "trading", "waiting", "halted", "stopping", "stopped", "failed",
    "unknown",
)  # fmt: skip
GUARD_LEVELS = ("normal", "reducing", "halted")
BREAKER_STATES = ("closed", "open", "half_open")

_MS_PER_SECOND = 1_000.0
_BPS_PER_ONE = 10_000.0

type Number = float | int | None


class Gauge(NamedTuple):
    """A value of one thing: name without prefix, help, and how to get it."""

    name: str
    help: str
    value: Callable[[EngineView], Number]


class OfPosition(NamedTuple):
    """A value of a position."""

    name: str
    help: str
    value: Callable[[PositionStatus], Number]


class OfPrediction(NamedTuple):
    """A value of a prediction."""

    name: str
    help: str
    value: Callable[[PredictionStatus], Number]


class Count(NamedTuple):
    """A counter of `EngineCounters`: its name without prefix and ``_total``, and help."""

    field: str
    name: str
    help: str


def _seconds(ts_ns: int) -> float | None:
    return ts_ns / NS_PER_SECOND if ts_ns else None


def _unrealised(position: PositionStatus) -> float | None:
    if position.entry_price is None or position.mark is None:
        return None
    return position.quantity * (position.mark - position.entry_price)


ENGINE_GAUGES = (
    Gauge("engine_up", "Whether the engine runs: it said so less than 10 s ago.",
          lambda view: float(view.running)),
    Gauge("engine_wanted", "Whether the engine is to run.", lambda view: float(view.wanted)),
    Gauge("engine_problems", "Number of problems that /healthz names.",
          lambda view: len(view.problems)),
    Gauge("engine_heartbeat_timestamp_seconds", "When the engine's thread last did something.",
          lambda view: _seconds(view.status.heartbeat_ns)),
    Gauge("engine_start_timestamp_seconds", "When the engine's process started.",
          lambda view: _seconds(view.status.started_ns)),
    Gauge("last_bar_timestamp_seconds", "Close of the newest bar.",
          lambda view: _seconds(view.status.last_bar_ns)),
    Gauge("bar_interval_seconds", "Length of the engine's bars.",
          lambda view: view.status.bar_interval_s or None),
    Gauge("last_trade_timestamp_seconds", "Newest fill.",
          lambda view: _seconds(view.status.last_trade_ns)),
    Gauge("equity_usdt", "Equity as the engine counts it.", lambda view: view.status.equity),
    Gauge("cash_usdt", "Cash as the engine counts it.", lambda view: view.status.cash),
    Gauge("allotted_equity_usdt", "Share of the account that the engine may trade with.",
          lambda view: view.status.allotted_equity),
    Gauge("realized_pnl_usdt", "Realised profit and loss.",
          lambda view: view.status.realized_pnl),
    Gauge("day_start_equity_usdt", "Equity at the start of the UTC day.",
          lambda view: view.status.day_start_equity),
    Gauge("peak_equity_usdt", "Highest equity.", lambda view: view.status.peak_equity),
    Gauge("drawdown_ratio", "How far equity is below its peak, of the peak.",
          lambda view: view.drawdown_frac),
    Gauge("day_loss_ratio", "Loss since the start of the UTC day, of the equity then.",
          lambda view: view.day_loss_frac),
    Gauge("open_positions", "Number of open positions.",
          lambda view: len(view.status.positions)),
    Gauge("model_trained_until_timestamp_seconds", "End of the model's training span.",
          lambda view: _seconds(view.status.model.trained_until)),
    Gauge("engine_cpu_cores", "Processor time of the engine's process per second.",
          lambda view: view.record.cpu_frac if view.record else None),
    Gauge("engine_resident_memory_bytes", "Resident memory of the engine's process.",
          lambda view: view.record.rss_bytes if view.record else None),
    Gauge("engine_proportional_memory_bytes", "Proportional share of memory (Pss).",
          lambda view: view.record.pss_bytes if view.record else None),
    Gauge("engine_failures_in_row", "Failures without a healthy hour between them.",
          lambda view: view.record.failures_in_row if view.record else None),
    Gauge("engine_given_up", "Whether the engine is not started again by itself.",
          lambda view: float(view.record.stage == "given_up") if view.record else None),
)  # fmt: skip
"""Gauges with the label `engine`."""

COUNTERS = (
    Count("bars", "bars", "Bars that counted."),
    Count("gaps", "bar_gaps", "Gaps found between bars."),
    Count("backfilled", "bars_backfilled", "Missing bars that were fetched."),
    Count("reconnects", "reconnects", "Connections that were made again."),
    Count("predictions", "predictions", "Predictions made."),
    Count("decisions", "decisions", "Decisions made."),
    Count("orders", "orders", "Orders sent."),
    Count("fills", "fills", "Fills received."),
    Count("rejects", "order_rejects", "Orders that were rejected."),
    Count("naked_alarms", "naked_position_alarms", "Positions found without their stop."),
    Count("errors", "errors", "Errors that the engine caught."),
    Count("alerts_failed", "alerts_failed", "Alerts that could not be delivered."),
)
"""Counters with the label `engine`."""

DROPPED_BARS = ("late", "duplicate", "unfinished", "out_of_order")
"""Counters of bars that did not count, by reason."""

POSITION_GAUGES = (
    OfPosition("position_quantity", "Signed base units.", lambda one: one.quantity),
    OfPosition("position_notional_usdt", "Signed value at the mark.",
               lambda one: None if one.mark is None else one.quantity * one.mark),
    OfPosition("position_unrealized_pnl_usdt", "Profit or loss at the mark.", _unrealised),
    OfPosition("position_stop_present", "Whether a stop rests at the exchange.",
               lambda one: float(one.stop is not None)),
)  # fmt: skip
"""Gauges with the labels `engine` and `instrument`."""

PREDICTION_GAUGES = (
    OfPrediction("prediction_timestamp_seconds", "Bar of the newest prediction.",
                 lambda one: _seconds(one.ts_ns)),
    OfPrediction("prediction_up_ratio", "Probability of up.", lambda one: one.prob_up),
    OfPrediction("prediction_confidence_ratio", "Confidence of the newest prediction.",
                 lambda one: one.confidence),
    OfPrediction("prediction_uncertainty_ratio",
                 "Epistemic uncertainty: spread of the experts' probabilities.",
                 lambda one: one.epistemic),
    OfPrediction("prediction_degraded", "Whether an expert or an input was missing.",
                 lambda one: float(one.degraded)),
)  # fmt: skip
"""Gauges with the labels `engine` and `instrument`."""


class OverviewCollector:
    """Metrics of one reading of the registry.

    Parameters
    ----------
    reading : Reading
        What was read, or why nothing could be.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        """Yield every family; of a registry that cannot be read only that."""
        overview = self._reading.overview
        yield _single("registry_up", "Whether the registry can be read.", not self._reading.problem)
        yield _single("kill_switch", "Whether the kill switch is set.", overview.kill is not None)
        if self._reading.problem:
            return
        yield _single("supervisor_up", "Whether a supervisor runs.", overview.supervised)
        failed = _counter("supervisor_alerts_failed", "Alerts of the supervisor that failed.", [])
        failed.add_metric([], overview.alerts_failed)
        yield failed
        yield _single("commands_pending", "Commands that nobody has answered.", overview.pending)
        for part in (_engines, _states, _counters, _positions, _predictions, _experts, _inputs):
            yield from part(overview)
        yield from _distributions(overview)


def render(reading: Reading, *further: CollectorRegistry) -> bytes:
    """Return the metrics in Prometheus's text format.

    Parameters
    ----------
    reading : Reading
        What was read.
    *further : CollectorRegistry
        Metrics of the serving process, put behind.
    """
    own = CollectorRegistry(auto_describe=False)
    own.register(OverviewCollector(reading))
    return b"".join(generate_latest(one) for one in (own, *further))


def _single(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"levibot_{name}", text, value=float(value))


def _family(name: str, text: str, labels: Iterable[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"levibot_{name}", text, labels=list(labels))


def _counter(name: str, text: str, labels: Iterable[str]) -> CounterMetricFamily:
    return CounterMetricFamily(f"levibot_{name}", text, labels=list(labels))


def _engines(overview: Overview) -> Iterator[Metric]:
    for gauge in ENGINE_GAUGES:
        family = _family(gauge.name, gauge.help, ["engine"])
        for view in overview.engines:
            value = gauge.value(view)
            if value is not None:
                family.add_metric([view.name], value)
        yield family
    yield _info(overview)
    quality = _family(
        "model_metric", "What was measured when the model was made.", ["engine", "metric"]
    )
    for view in overview.engines:
        for name, value in view.status.model.metrics.items():
            if value is not None:
                quality.add_metric([view.name, name], value)
    yield quality


def _info(overview: Overview) -> Metric:
    labels = ["engine", "profile", "mode", "model", "version"]
    family = _family("engine_info", "What the engine is; always 1.", labels)
    for view in overview.engines:
        one = view.status
        family.add_metric([one.engine, one.profile, one.mode, one.model.digest, one.version], 1.0)
    return family


def _states(overview: Overview) -> Iterator[Metric]:
    """Yield what has one of several values: 1 for the one that it has, 0 for the others."""
    state = _family("engine_state", "What the engine last said it does.", ["engine", "state"])
    guard = _family("guard_state", "What the risk guard lets be done.", ["engine", "level"])
    holds = _family("guard_hold", "Reasons of the risk guard, 1 each.", ["engine", "reason"])
    for view in overview.engines:
        for name in STATES:
            state.add_metric([view.name, name], float(view.status.state == name))
        for level in GUARD_LEVELS:
            guard.add_metric([view.name, level], float(view.status.guard.level == level))
        for reason in view.status.guard.reasons:
            holds.add_metric([view.name, reason], 1.0)
    yield from (state, guard, holds)


def _counters(overview: Overview) -> Iterator[Metric]:
    for count in COUNTERS:
        family = _counter(count.name, count.help, ["engine"])
        for view in overview.engines:
            family.add_metric([view.name], _count(view.status.counters, count.field))
        yield family
    dropped = _counter("bars_dropped", "Bars that did not count.", ["engine", "reason"])
    restarts = _counter("engine_restarts", "Times that the engine was started again.", ["engine"])
    for view in overview.engines:
        for reason in DROPPED_BARS:
            dropped.add_metric([view.name, reason], _count(view.status.counters, reason))
        if view.record is not None:
            restarts.add_metric([view.name], view.record.restarts)
    yield from (dropped, restarts)


def _positions(overview: Overview) -> Iterator[Metric]:
    for gauge in POSITION_GAUGES:
        family = _family(gauge.name, gauge.help, ["engine", "instrument"])
        for view in overview.engines:
            for name, position in view.status.positions.items():
                value = gauge.value(position)
                if value is not None:
                    family.add_metric([view.name, name], value)
        yield family


def _predictions(overview: Overview) -> Iterator[Metric]:
    for gauge in PREDICTION_GAUGES:
        family = _family(gauge.name, gauge.help, ["engine", "instrument"])
        for view in overview.engines:
            for name, prediction in view.status.predictions.items():
                value = gauge.value(prediction)
                if value is not None:
                    family.add_metric([view.name, name], value)
        yield family


def _experts(overview: Overview) -> Iterator[Metric]:
    labels = ["engine", "expert"]
    state = _family("expert_breaker_state", "Circuit breaker of the expert.", [*labels, "state"])
    trips = _counter("expert_trips", "Times that the breaker opened.", labels)
    failures = _counter("expert_failures", "Calls of the expert that failed.", labels)
    calls = _counter("expert_calls", "Calls of the expert.", labels)
    for view in overview.engines:
        for name, expert in view.status.experts.items():
            said = expert.state.replace("-", "_")
            for known in BREAKER_STATES:
                state.add_metric([view.name, name, known], float(said == known))
            trips.add_metric([view.name, name], expert.trips)
            failures.add_metric([view.name, name], expert.failures)
            calls.add_metric([view.name, name], expert.calls)
    yield from (state, trips, failures, calls)


def _inputs(overview: Overview) -> Iterator[Metric]:
    family = _family(
        "feature_age_seconds", "Age of the input's newest record.", ["engine", "input"]
    )
    for view in overview.engines:
        for name, age in view.input_ages_secs().items():
            if age is not None:
                family.add_metric([view.name, name], age)
    yield family


def _distributions(overview: Overview) -> Iterator[Metric]:
    latency = HistogramMetricFamily(
        "levibot_decision_latency_seconds",
        "From the receipt of a bar to the sending of its orders.",
        labels=["engine"],
    )
    slippage = SummaryMetricFamily(
        "levibot_slippage_ratio",
        "Fill against the decision's price; positive is worse, so the sum may fall.",
        labels=["engine"],
    )
    # What may fall cannot be put through rate(): the mean is what rules and panels need.
    mean = _family("slippage_mean_ratio", "Mean since the process started.", ["engine"])
    for view in overview.engines:
        buckets = _cumulative(view.status)
        if buckets:
            total = view.status.decision_latency_ms.sum / _MS_PER_SECOND
            latency.add_metric([view.name], buckets, total)
        moments = view.status.slippage_bps
        slippage.add_metric([view.name], moments.count, moments.sum / _BPS_PER_ONE)
        if moments.count:
            mean.add_metric([view.name], moments.sum / moments.count / _BPS_PER_ONE)
    yield from (latency, slippage, mean)


def _cumulative(status: EngineStatus) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus has them: upper bound in seconds, how many up to there."""
    found = status.decision_latency_ms
    bounds = [repr(bound / _MS_PER_SECOND) for bound in found.buckets]
    if len(found.counts) != len(bounds) + 1:
        return []
    return list(zip([*bounds, "+Inf"], map(float, accumulate(found.counts)), strict=True))


def _count(counters: EngineCounters, name: str) -> float:
    return float(getattr(counters, name))

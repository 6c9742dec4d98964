"""The actor between records and predictions: a barrier over instruments, then the predictor.

Features look across instruments, so predictions are made once the bars of all instruments of a
time are in. A bar that does not come in time degrades the predictions of that time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from nautilus_trader.common import DataActor, DataActorConfig
from nautilus_trader.model import ActorId, BarType, ClientId, CustomData, DataType, InstrumentId

from catalog.arrays import Ohlcv
from catalog.instruments import bar_type
from catalog.timestamps import interval_name
from catalog.types import FusionPrediction, register_types
from research.predictor import Prediction, Predictor
from strategies.callbacks import guarded
from strategies.market_data import price_number
from strategies.recorder import RunRecorder
from strategies.sizing import confidence
from strategies.slow_records import pass_on, subscriptions

PREDICTION_TYPE = DataType("FusionPrediction")
_ALERT = "bars-of-one-time"
_HEARTBEAT_EVERY = 500
# The decorator adds ts_event and ts_init in front, unseen by the type checker.
_new_record: Callable[..., FusionPrediction] = FusionPrediction


@dataclass(frozen=True, slots=True)
class PredictorActorConfig:
    """How the actor waits.

    Parameters
    ----------
    timeout_ms : int
        How long after the first bar of a time the others are waited for, milliseconds of the
        actor's clock. 0: until the clock moves on, which is right for recorded data.
    heartbeat : callable, optional
        Called with the number of times that were handled, now and then.
    data_client : str, optional
        Name of the live data client that has the slow inputs: without it a subscription to custom
        data never reaches a client. None where the records are in the engine already (replay).
    fed : bool
        Whether somebody hands the records to the actor by calling its handlers, in order and
        complete: it subscribes to nothing.
    """

    timeout_ms: int
    heartbeat: Callable[[int], None] | None = None
    data_client: str | None = None
    fed: bool = False


class PredictorActor(DataActor):
    """Collect the bars of a time, ask the predictor, publish a `FusionPrediction` for each answer.

    Parameters
    ----------
    predictor : Predictor
        Who predicts; its specification names instruments and interval.
    recorder : RunRecorder
        Where counts and errors go.
    config : PredictorActorConfig
        How it waits.
    """

    def __new__(
        cls, predictor: Predictor, recorder: RunRecorder, config: PredictorActorConfig
    ) -> Self:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls)

    def __init__(
        self, predictor: Predictor, recorder: RunRecorder, config: PredictorActorConfig
    ) -> None:
        super().__init__(DataActorConfig(actor_id=ActorId("PREDICTOR-001")))
        register_types()
        self.predictor = predictor
        self.recorder = recorder
        self._timeout_ns = config.timeout_ms * 1_000_000
        self._heartbeat = config.heartbeat
        client = config.data_client
        self._data_client = None if client is None else ClientId(client)
        self._fed = config.fed
        spec = predictor.spec
        interval = interval_name(spec.interval_ns)
        names = {name: BarType.from_str(bar_type(name, interval)) for name in spec.instruments}
        self._bar_types = tuple(names.values())
        self._instrument_of = {kind: name for name, kind in names.items()}
        self._count = len(names)
        self._ts = 0
        self._waiting: dict[str, Any] = {}
        self._handled = 0

    @guarded
    def on_start(self) -> None:
        """Subscribe to the bars and to whatever else the predictor needs."""
        if self._fed:
            return
        for kind in self._bar_types:
            self.subscribe_bars(kind)
        if self.predictor.spec.uses_funding:
            for name in self.predictor.spec.instruments:
                self.subscribe_funding_rates(InstrumentId.from_str(name))
        for data_type in subscriptions(self.predictor.spec):
            self.subscribe_data(data_type, client_id=self._data_client)

    @guarded
    def on_data(self, data: Any) -> None:
        """Pass a slow input on; at equal stamps it comes before the bars."""
        pass_on(self.predictor, data)

    @guarded
    def on_funding_rate(self, funding_rate: Any) -> None:
        """Pass a funding rate on; at equal stamps it comes before the bars."""
        update = self.predictor.update_funding
        update(str(funding_rate.instrument_id), float(funding_rate.rate), funding_rate.ts_init)

    @guarded
    def on_bar(self, bar: Any) -> None:
        """Collect a bar; the last one of its time lets the predictor run."""
        self.recorder.actor_bars += 1
        ts = bar.ts_init
        if ts <= self._ts and (ts < self._ts or not self._waiting):
            self.recorder.late_bars += 1
            return
        if ts > self._ts:
            self._begin(ts)
        self._waiting[self._instrument_of[bar.bar_type]] = bar
        if len(self._waiting) == self._count:
            self._predict()

    def close_timestamp(self, ts: int) -> None:
        """Stop waiting for bars of `ts`: what is in is predicted, marked degraded."""
        if self._waiting and ts >= self._ts:
            self._predict()

    def _begin(self, ts: int) -> None:
        if self._waiting:
            self._predict()
        self._ts = ts
        if self._count > 1:
            # The clock's time and not the bar's: when recorded data run through a live node,
            # a time-out counted from the bar would have passed years ago.
            due = self.clock.timestamp_ns() + self._timeout_ns
            self.clock.set_time_alert_ns(_ALERT, due, self._on_timeout)

    @guarded
    def _on_timeout(self, event: Any) -> None:
        self.close_timestamp(self._ts)

    def _predict(self) -> None:
        bars, self._waiting = self._waiting, {}
        missing = [name for name in self.predictor.spec.instruments if name not in bars]
        reason = f"no bar of {', '.join(missing)}" if missing else ""
        for prediction in self.predictor.update(self._ts, _LazyBars(bars)):
            self._publish(prediction, reason)
        self._handled += 1
        if self._heartbeat is not None and self._handled % _HEARTBEAT_EVERY == 0:
            self._heartbeat(self._handled)

    def _publish(self, prediction: Prediction, missing: str) -> None:
        self.recorder.predictions.add(prediction, missing)
        record = _new_record(
            prediction.ts_init,
            prediction.ts_init,
            prediction.instrument_id,
            prediction.prob_up,
            prediction.mu,
            prediction.sigma,
            prediction.epistemic,
            prediction.volatility,
            prediction.prob_low,
            prediction.prob_high,
            prediction.entry_threshold,
            confidence(prediction.prob_up),
            prediction.direction,
            prediction.regime,
            prediction.experts,
            prediction.horizon_bars,
            prediction.model_version,
            prediction.input_ages,
            prediction.degraded or bool(missing),
            prediction.degraded_reason or missing,
        )
        self.publish_data(PREDICTION_TYPE, CustomData(PREDICTION_TYPE, record))


class _LazyBars(Mapping[str, Ohlcv]):
    """Bars by instrument, as exact numbers only when asked for: stored predictions never ask."""

    def __init__(self, bars: dict[str, Any]) -> None:
        self._bars = bars

    def __getitem__(self, instrument_id: str) -> Ohlcv:
        bar = self._bars[instrument_id]
        return Ohlcv(
            price_number(bar.open),
            price_number(bar.high),
            price_number(bar.low),
            price_number(bar.close),
            price_number(bar.volume),
        )

    def __contains__(self, instrument_id: object) -> bool:
        return instrument_id in self._bars

    def __iter__(self) -> Iterator[str]:
        return iter(self._bars)

    def __len__(self) -> int:
        return len(self._bars)

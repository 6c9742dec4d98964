from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from adapters.replay import ReplayConfig
from catalog.arrays import BarArrays, Ohlcv, SeriesArrays
from catalog.errors import ConfigError, DataError, RunFailedError
from catalog.instruments import instrument
from catalog.progress import no_progress
from live.live_replay import LiveReplay, run_live_replay
from live.paper import PaperExecutionClient, PaperWiring
from live.paper_book import PaperBook
from live.parity import compare
from research.predictor import Prediction, PredictorSpec
from strategies.backtest import BacktestOutcome, ReplayInputs, run_backtest
from strategies.execution import ExecutionConfig
from strategies.fill_check import FillCheck
from strategies.fusion import FusionPolicy
from tests.strategies.settings import plain_execution

INTERVAL = 900 * 10**9
START = 1_704_067_200 * 10**9
BTC, ETH, SOL = NAMES = tuple(f"{one}USDT-PERP.BINANCE" for one in ("BTC", "ETH", "SOL"))
PRICES = (30_000.0, 2_000.0, 50.0)
POLICY = FusionPolicy(
    entry_threshold=0.56,
    exit_threshold=0.5,
    position_frac=0.3,
    stop_loss_frac=0.012,
    min_holding_bars=2,
)
EXECUTION = plain_execution(
    maker_fee_bps=2,
    taker_fee_bps=5,
    latency_ms=250,
    slippage_bps=1,
    impact_bps=20,
    impact_cap_bps=15,
    funding="recorded",
    starting_balance=100_000,
    leverage=5,
)


def market(bars: int, seed: int = 0, missing: Mapping[int, tuple[int, ...]] | None = None) -> Any:
    """Three random walks with gaps between closes and opens, and settlements every eight hours."""
    rng = np.random.default_rng(seed)
    columns = []
    funding = {}
    for code, name in enumerate(NAMES):
        decimals = instrument(name).price_precision
        close = PRICES[code] * np.exp(np.cumsum(rng.normal(0, 0.0033, bars)))
        gaps = np.where(rng.random(bars) < 0.3, rng.normal(0, 0.004, bars), 0.0)
        open_ = np.concatenate(([PRICES[code]], close[:-1])) * np.exp(gaps)
        high = np.maximum(open_, close) * np.exp(np.abs(rng.normal(0, 0.0033, bars)))
        low = np.minimum(open_, close) * np.exp(-np.abs(rng.normal(0, 0.0033, bars)))
        kept = ~np.isin(np.arange(bars), (missing or {}).get(code, ()))
        ts = START + INTERVAL * np.arange(1, bars + 1, dtype=np.int64)
        prices = [np.round(one, decimals)[kept] for one in (open_, high, low, close)]
        volume = np.round(rng.random(bars) * 100, instrument(name).size_precision)[kept]
        columns.append(BarArrays(name, INTERVAL, ts[kept], *prices, volume))
        times = START + 32 * INTERVAL * np.arange(bars // 32 + 1, dtype=np.int64)
        rates = np.round(rng.normal(0, 1e-4, len(times)), 8)
        funding[name] = SeriesArrays(name, "fraction", times, times, rates)
    return ReplayInputs(tuple(map(instrument, NAMES)), tuple(columns), funding)


class Noise:
    """Random probabilities that also depend on funding, prices and on which bars came."""

    def __init__(self, changed: int | None = None) -> None:
        self.spec = PredictorSpec(NAMES, INTERVAL, 4, 0, "noise", True, "0" * 64)
        self.changed = changed
        self.funding = 0.0

    def update_funding(self, instrument_id: str, rate: float, ts_init: int) -> None:
        self.funding += rate

    def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> list[Prediction]:
        number = (ts_init - START) // INTERVAL
        draws = np.random.default_rng([7, number]).normal(0.5, 0.06, len(NAMES))
        found = []
        for code, name in enumerate(NAMES):
            if name in bars:
                up = draws[code] + 0.1 * self.funding + 1e-9 * bars[name].close - 1e-4 * len(bars)
                if number == self.changed and name == ETH:
                    up += 1e-12
                up = float(np.clip(up, 0.01, 0.99))
                found.append(Prediction(name, ts_init, up, self.spec.horizon_bars, "noise"))
        return found


def backtest(inputs: ReplayInputs, execution: ExecutionConfig = EXECUTION) -> BacktestOutcome:
    return run_backtest(inputs, Noise(), POLICY, execution)


def live(inputs: ReplayInputs, execution: ExecutionConfig = EXECUTION) -> BacktestOutcome:
    return run_live_replay(inputs, Noise, POLICY, execution)


@pytest.fixture(scope="module")
def inputs() -> ReplayInputs:
    return market(400, seed=1)


@pytest.fixture(scope="module")
def reference(inputs: ReplayInputs) -> BacktestOutcome:
    return backtest(inputs)


def test_live_replay_is_identical_to_the_backtest(
    inputs: ReplayInputs, reference: BacktestOutcome
) -> None:
    reported: list[tuple[str, int, int]] = []
    outcome = run_live_replay(
        inputs, Noise, POLICY, EXECUTION, progress=lambda *state: reported.append(state)
    )
    report = compare(reference, outcome)
    report.require_identical()
    # It would mean little if nothing had happened.
    assert report.compared["predictions"] == 1_200
    assert report.compared["fills"] > 300
    assert report.compared["settlements"] > 10
    reasons = set(reference.fills["reason"])
    assert {
        "stop_loss",
        "enter_long",
        "enter_short",
        "reverse_to_long",
        "exit_threshold",
    } <= reasons
    gapped = reference.fills[
        (reference.fills["reason"] == "stop_loss") & (reference.fills["ts_event"] % INTERVAL != 0)
    ]
    assert len(gapped) > 0
    # An exit that met its stop at one open, and a stop in the bar that ends with a settlement.
    assert "REJECTED" in set(reference.orders["status"])
    stopped = reference.fills[reference.fills["reason"] == "stop_loss"]
    assert set(stopped["ts_event"]) & set(inputs.funding[BTC].ts_init)
    assert outcome.reconciliation.faults() == []
    assert reported[0][1] == 0
    assert reported[-1][1] == reported[-1][2] == outcome.reconciliation.records


def test_missing_bars_degrade_both_runs_alike() -> None:
    missing = {0: (80, 200, 201, 202), 1: (50, 51, 80), 2: (80, 82, 399)}
    data = market(400, seed=2, missing=missing)
    one, other = backtest(data), live(data)
    compare(one, other).require_identical()
    assert len(one.decisions) == 1_200 - 10
    reasons = set(one.decisions["reason"])
    assert reasons & {"degraded", "exit_opposite"}


def test_orders_wait_for_their_next_open_in_both_runs_alike() -> None:
    # Settlements (every 32 bars) fall into the gaps: of one instrument, and of all.
    everywhere = tuple(range(200, 240))
    missing = {0: (*range(60, 70), *everywhere), 1: everywhere, 2: (*everywhere, 399)}
    data = market(400, seed=3, missing=missing)
    one, other = backtest(data), live(data)
    compare(one, other).require_identical()
    last = START + INTERVAL * 200
    waited = one.orders[(one.orders.ts_init == last) & (one.orders.status == "FILLED")]
    assert len(waited) > 0
    fills = one.fills.set_index("client_order_id").ts_event[waited.client_order_id]
    assert set(fills) == {START + INTERVAL * 240 + EXECUTION.latency_ns}


def test_partial_fills_are_alike_in_both_runs() -> None:
    data = market(200, seed=4)
    thin = EXECUTION.model_copy(update={"max_participation": 0.02})
    one, other = backtest(data, thin), live(data, thin)
    compare(one, other).require_identical()
    orders = one.orders
    partly = orders[(orders.filled_quantity > 0) & (orders.filled_quantity < orders.quantity)]
    # The rest is cancelled; a stop whose position was made smaller is complete with less.
    assert set(partly[partly.type == "MARKET"].status) == {"CANCELED"}
    assert set(partly[partly.type == "STOP_MARKET"].status) == {"FILLED"}
    assert partly[partly.type == "MARKET"].reduce_only.nunique() == 2


def test_without_funding_nothing_is_settled_and_both_runs_agree() -> None:
    data = market(120)
    data = ReplayInputs(data.instruments, data.bars, {})
    free = EXECUTION.model_copy(update={"funding": "none"})
    one, other = backtest(data, free), live(data, free)
    compare(one, other).require_identical()
    assert len(one.funding) == 0


def test_one_changed_prediction_is_found_and_named(
    inputs: ReplayInputs, reference: BacktestOutcome
) -> None:
    outcome = run_live_replay(inputs, lambda: Noise(changed=150), POLICY, EXECUTION)
    report = compare(reference, outcome)
    assert report.first is not None
    assert report.first.kind == "predictions"
    assert report.first.ts == START + 150 * INTERVAL
    assert f"2024-01-02 13:30:00 {ETH}: prob_up is" in report.first.text


@pytest.mark.slow
def test_one_changed_fill_is_found_and_named(
    inputs: ReplayInputs, reference: BacktestOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = reference.fills.iloc[100]
    genuine = PaperBook._fill

    def cheaper(self: PaperBook, order: Any, price: float, ts_event: int) -> Any:
        if order.client_order_id == chosen["client_order_id"]:
            price *= 1.001
        return genuine(self, order, price, ts_event)

    monkeypatch.setattr(PaperBook, "_fill", cheaper)
    with pytest.raises(RunFailedError, match=chosen["client_order_id"]):
        live(inputs)
    # The comparison finds it by itself as well.
    for check in ("market_faults", "stop_faults"):
        monkeypatch.setattr(FillCheck, check, lambda self: ())
    report = compare(reference, live(inputs))
    assert report.first is not None
    assert report.first.kind == "fills"
    assert chosen["client_order_id"] in report.first.text
    assert "row 100" in report.first.text
    assert report.differing["predictions"] == 0


class Failing(Noise):
    def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> list[Prediction]:
        if ts_init == START + 40 * INTERVAL:
            raise ZeroDivisionError("planted in the predictor")
        return super().update(ts_init, bars)


def test_a_predictor_that_raises_fails_the_run_at_once(inputs: ReplayInputs) -> None:
    replay = LiveReplay(inputs, Failing(), POLICY, EXECUTION)
    match = r"PredictorActor.on_bar: ZeroDivisionError: planted in the predictor"
    with pytest.raises(RunFailedError, match=match):
        replay.run(ReplayConfig(), no_progress)
    assert replay.recorder.actor_bars == 3 * 40


def test_a_predictor_that_raises_when_the_replay_closes_a_time_fails_the_run() -> None:
    data = market(60, missing={1: (39,)})
    match = "planted in the predictor"
    with pytest.raises(RunFailedError, match=match):
        run_live_replay(data, Failing, POLICY, EXECUTION)


def test_a_task_that_dies_fails_the_run_and_carries_the_exception(
    inputs: ReplayInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def on_bar(self: PaperExecutionClient, bar: Any) -> None:
        seen.append(bar)
        if len(seen) == 100:
            raise OSError("planted in the data task")

    monkeypatch.setattr(PaperExecutionClient, "on_bar", on_bar)
    match = "the live replay failed: OSError: planted in the data task"
    with pytest.raises(RunFailedError, match=match) as caught:
        live(inputs)
    assert isinstance(caught.value.__cause__, OSError)
    assert len(seen) == 100


def test_an_order_that_the_exchange_forgets_fails_the_run(
    inputs: ReplayInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = PaperExecutionClient._take_order
    taken: list[str] = []

    def forgetful(self: PaperExecutionClient, order: Any) -> None:
        taken.append(str(order.client_order_id))
        if len(taken) == 20:
            self.generate_order_submitted(order)
        else:
            genuine(self, order)

    monkeypatch.setattr(PaperExecutionClient, "_take_order", forgetful)
    with pytest.raises(RunFailedError, match="orders neither closed nor explained") as caught:
        live(inputs)
    assert taken[19] in str(caught.value)


def test_an_account_that_disagrees_with_the_ledger_fails_the_run(
    inputs: ReplayInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PaperBook, "on_funding", lambda *arguments: None)
    with pytest.raises(RunFailedError, match="cash in our ledger"):
        live(inputs)


def test_a_node_that_falls_silent_is_given_up(
    inputs: ReplayInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(LiveReplay):
        def wiring(self, session: Any) -> PaperWiring:
            wiring = super().wiring(session)
            return PaperWiring(
                **{
                    name: getattr(wiring, name)
                    for name in PaperWiring.__slots__
                    if name != "on_account_query"
                },
                on_account_query=lambda parameters: None,
            )

    replay = Deaf(inputs, Noise(), POLICY, EXECUTION)
    with pytest.raises(RunFailedError, match=r"must be answered within 0\.2 s"):
        replay.run(ReplayConfig(timeout_secs=0.2), no_progress)


def test_inputs_are_checked_as_in_the_backtest(inputs: ReplayInputs) -> None:
    slow = EXECUTION.model_copy(update={"latency_ms": 500_000})
    with pytest.raises(ConfigError, match="latency_ms must be less than half a bar"):
        live(inputs, slow)
    bare = ReplayInputs(inputs.instruments, inputs.bars, {})
    with pytest.raises(DataError, match=r"funding of BTCUSDT-PERP\.BINANCE must be in"):
        live(bare)


@pytest.mark.slow
def test_a_quarter_of_three_symbols_is_identical_and_takes_less_than_two_minutes() -> None:
    data = market(8_832, seed=5)
    calm = POLICY.model_copy(update={"entry_threshold": 0.6, "stop_loss_frac": 0.03})
    one = run_backtest(data, Noise(), calm, EXECUTION)
    other = run_live_replay(data, Noise, calm, EXECUTION)
    report = compare(one, other)
    report.require_identical()
    assert report.compared["predictions"] == 3 * 8_832
    assert other.seconds["node"] < 120

"""Each silent failure of the engine, brought about on purpose, fails the run."""

import json
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from nautilus_trader.execution import StaticLatencyModel
from nautilus_trader.model import OrderBook, QuoteTick

import strategies.fill_model as fill_model
from catalog.errors import ConfigError, RunFailedError
from catalog.progress import no_progress
from strategies.backtest import FusionPolicy, Replay, run_backtest
from strategies.fusion import FusionStrategy
from strategies.ledger import Ledger
from strategies.predictor_actor import PredictorActor

HOUR = 3600 * 10**9
POLICY = FusionPolicy(
    entry_threshold=0.6, exit_threshold=0.5, position_frac=0.5, min_holding_bars=0
)
STOPPED = POLICY.model_copy(update={"stop_loss_frac": 0.002})


def _venue(**changes):
    """Return a replay whose exchange is set up differently, as the engine might let it be."""

    class Other(Replay):
        def add_venue(self, engine, now):
            class Proxy:
                def __getattr__(self, name):
                    return getattr(engine, name)

                def add_venue(self, *arguments, **keywords):
                    engine.add_venue(*arguments, **{**keywords, **changes})

            super().add_venue(Proxy(), now)

    return Other


@pytest.fixture
def run(market):
    """Run 70 bars with a long from the first to the last but ten, over two settlements."""

    def call(policy=POLICY, replay=None, expected=None):
        times = {market.START + hours * HOUR: 0.001 for hours in (0, 8, 16)}
        inputs = market.inputs(
            market.flat(70),
            funding={market.BTC: market.funding(times)},
            predictions_expected=expected,
        )
        execution = market.execution(funding="recorded")
        predictor = market.predictor({0: 0.7, 60: 0.4})
        if replay is None:
            return run_backtest(inputs, predictor, policy, execution)
        return replay(inputs, predictor, policy, execution).run(no_progress)

    return call


@pytest.fixture
def wild(market):
    """Run 200 bars that move and gap, with entries, exits and stops in the entry bar."""
    rng = np.random.default_rng(0)
    close = np.round(30_000 * np.exp(np.cumsum(rng.normal(0, 0.002, 200))), 1)
    opened = np.round(close * 1.001, 1)
    high = np.round(np.maximum(opened, close) * 1.001, 1)
    low = np.round(np.minimum(opened, close) * 0.999, 1)
    rows = list(zip(opened, high, low, close, strict=True))
    times = {market.START + hours * HOUR: 0.001 for hours in range(0, 56, 8)}

    def call(policy=POLICY, replay=Replay, funding="recorded"):
        inputs = market.inputs(
            market.bars(rows),
            funding={market.BTC: market.funding(times)},
            predictions_expected=199,
        )
        predictor = market.predictor({i: 0.7 if (i // 9) % 2 == 0 else 0.4 for i in range(199)})
        execution = market.execution(funding=funding)
        return replay(inputs, predictor, policy, execution).run(no_progress)

    return call


def test_an_undisturbed_run_balances(run):
    out = run(expected=2)
    assert out.reconciliation.faults() == []
    assert out.reconciliation.settlements_booked == 2


@pytest.mark.parametrize(
    ("owner", "callback"),
    [
        (FusionStrategy, "_decide"),
        (Ledger, "mark"),
        (Ledger, "apply_fill"),
        (Ledger, "apply_funding"),
        (PredictorActor, "_predict"),
        (PredictorActor, "on_start"),
    ],
)
def test_a_callback_that_raises_fails_the_run_and_its_words_are_told(
    run, monkeypatch, owner, callback
):
    from strategies.callbacks import guarded

    def boom(self, *_):
        raise ValueError("the original words")

    wrapped = guarded(boom) if callback == "on_start" else boom
    monkeypatch.setattr(owner, callback, wrapped)
    with pytest.raises(RunFailedError, match="ValueError: the original words"):
        run()


def test_a_fill_model_that_raises_fails_the_run(run, monkeypatch):
    def boom(*_):
        raise ZeroDivisionError("in the fill model")

    monkeypatch.setattr(fill_model, "slipped_price", boom)
    with pytest.raises(RunFailedError, match="ZeroDivisionError: in the fill model"):
        run()


def test_a_fee_model_that_raises_fails_the_run(run, monkeypatch):
    def boom(*_):
        raise ZeroDivisionError("in the fee model")

    monkeypatch.setattr(fill_model, "commission", boom)
    with pytest.raises(RunFailedError, match="ZeroDivisionError: in the fee model"):
        run()


def test_data_that_is_not_iterated_fails_the_run(run):
    class Short(Replay):
        def run_engine(self, engine):
            engine.run(end=self.inputs.ts_end - 20 * 900 * 10**9)

    with pytest.raises(RunFailedError, match=r"records handed over 145, iterated \d+"):
        run(replay=Short)


def test_an_order_for_ever_under_way_fails_the_run(run):
    slow = _venue(latency_model=StaticLatencyModel(168 * HOUR))  # a week
    with pytest.raises(RunFailedError, match="orders neither closed nor explained: F1-E"):
        run(replay=slow)


def test_an_order_that_fills_in_part_fails_the_run(run, monkeypatch):
    monkeypatch.setattr(fill_model, "takes", lambda *_: 0.5)
    with pytest.raises(RunFailedError, match=r"must be filled with .*, was with 0\.5"):
        run()


def test_settlements_that_the_engine_does_not_book_fail_the_run(run, monkeypatch):
    from nautilus_trader.model import FundingRateUpdate

    import strategies.market_data as market_data

    def not_due(identity, rate, event, init, next_funding_ns):
        return FundingRateUpdate(identity, rate, event, init)

    monkeypatch.setattr(market_data, "FundingRateUpdate", not_due)
    with pytest.raises(RunFailedError, match="cash in our ledger"):
        run()


def test_settlements_that_we_do_not_book_fail_the_run(run, monkeypatch):
    monkeypatch.setattr(FusionStrategy, "on_funding_rate", lambda *_: None)
    with pytest.raises(RunFailedError, match="settlements due 2, booked 0"):
        run()


def test_a_prediction_that_does_not_arrive_fails_the_run(run, monkeypatch):
    monkeypatch.setattr(PredictorActor, "publish_data", lambda *_: None)
    with pytest.raises(RunFailedError, match="predictions published 2, received 0"):
        run()


def test_a_prediction_that_was_never_made_fails_the_run(run):
    with pytest.raises(RunFailedError, match="predictions expected 3, published 2"):
        run(expected=3)


def test_bars_that_do_not_reach_the_strategy_fail_the_run(run, monkeypatch):
    monkeypatch.setattr(FusionStrategy, "subscribe_bars", lambda *_: None)
    with pytest.raises(RunFailedError, match="bars 70, bars at the strategy 0"):
        run()


def test_another_fee_than_ours_fails_the_run(run, monkeypatch):
    real = fill_model.commission
    calls = []

    def other(*arguments):
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(fill_model, "commission", other)
    original = Ledger.apply_fill
    monkeypatch.setattr(
        Ledger, "apply_fill", lambda self, fill: original(self, fill._replace(commission=0.0))
    )
    with pytest.raises(RunFailedError, match="cash in our ledger"):
        run()
    assert calls


def test_a_fill_after_the_last_record_would_fail_the_run(market):
    # The engine settles orders under way after the data have ended, at the last price.
    class Hasty(Replay):
        def send_at(self, instrument_id, ts):
            return ts

    arguments = (
        market.inputs(market.flat(3)),
        market.predictor({2: 0.7}),
        POLICY,
        market.execution(),
    )
    with pytest.raises(
        RunFailedError,
        match=r"ledger and engine disagree: F1-E\w+-\w+ \(SUBMITTED 0, engine FILLED",
    ):
        Hasty(*arguments).run(no_progress)


def test_an_order_that_finds_no_market_fails_the_run(market, monkeypatch):
    # An empty book: all of the order is cancelled.
    def empty(self, instrument, order, best_bid=None, best_ask=None):
        return OrderBook(instrument.id, fill_model.BookType.L2_MBP)

    monkeypatch.setattr(fill_model.ReplayFillModel, "get_orderbook_for_fill_simulation", empty)
    arguments = (
        market.inputs(market.flat(4)),
        market.predictor({0: 0.7}),
        POLICY,
        market.execution(),
    )
    match = (
        r"1 market or limit orders not filled as they must: F1-E.*must be filled with .*was with 0"
    )
    with pytest.raises(RunFailedError, match=match):
        run_backtest(*arguments)


def test_an_account_that_can_carry_nothing_fails_the_run(run):
    with pytest.raises(
        RunFailedError, match=r"orders denied or rejected: F1-E.*was DENIED: INITIAL_MARGIN"
    ):
        run(replay=_venue(default_leverage=Decimal("0.1")))


def test_a_rejected_stop_fails_the_run(run, monkeypatch):
    # Beyond the market when it arrives: the exchange refuses, the position goes unprotected.
    from strategies import protection

    monkeypatch.setattr(protection, "stop_trigger", lambda *_: 40_000.0)
    with pytest.raises(RunFailedError, match=r"F1-S.*was REJECTED"):
        run(policy=STOPPED)


@pytest.mark.parametrize(
    "changes",
    [
        {"latency_model": None},
        {"use_message_queue": False},
        {"latency_model": StaticLatencyModel(HOUR // 12)},
        {"latency_model": StaticLatencyModel(HOUR // 4)},
        {"fill_model": None},
    ],
    ids=["no latency", "no message queue", "five minutes", "one bar", "no fill model"],
)
@pytest.mark.parametrize("funding", ["none", "recorded"])
@pytest.mark.parametrize("policy", [POLICY, STOPPED], ids=["", "stop"])
def test_fills_at_any_other_time_or_price_than_the_next_open_fail_the_run(
    wild, changes, funding, policy
):
    with pytest.raises(
        RunFailedError, match="market or limit orders not filled as they must: F1-E"
    ):
        wild(policy=policy, replay=_venue(**changes), funding=funding)


@pytest.mark.parametrize("policy", [POLICY, STOPPED], ids=["", "stop"])
def test_a_replay_without_quotes_fails(wild, policy):
    class Unquoted(Replay):
        def add_data(self, engine, after, until):
            batches = [
                batch
                for batch in self.source.groups(after, until)
                if batch and not isinstance(batch[0], QuoteTick)
            ]
            for batch in batches:
                engine.add_data(batch, validate=False, sort=False)
            engine.sort_data()
            return sum(map(len, batches))

    with pytest.raises(
        RunFailedError, match="market or limit orders not filled as they must: F1-E"
    ):
        wild(policy=policy, replay=Unquoted)


def test_a_stop_that_is_dead_in_its_entry_bar_fails_the_run(wild):
    class Unsettled(Replay):
        def strategy(self):
            strategy = super().strategy()
            object.__setattr__(strategy.settings, "settle_after_ns", 0)
            return strategy

    match = (
        r"positions not protected by their stop: long of [\d.]+ BTCUSDT-PERP.BINANCE opened at "
        r"2024-01-\d\d [\d:.]+ for [\d.]+ reached its trigger [\d.]+ within the bar that closes "
        r"at 2024-01-\d\d [\d:]+, where its stop F1-S\w+-\w+ must fill, but"
    )
    with pytest.raises(RunFailedError, match=match):
        wild(policy=STOPPED, replay=Unsettled)


def test_a_stop_that_is_never_sent_fails_the_run(wild, monkeypatch):
    monkeypatch.setattr(FusionStrategy, "on_position_opened", lambda *_: None)
    with pytest.raises(RunFailedError, match=r"must have a stop \(stop_loss\) sent at .* had none"):
        wild(policy=STOPPED)


@pytest.mark.parametrize(
    ("trigger", "message"),
    [(1.0, "must cover it at"), (29_999.9, "must cover it at")],
)
def test_a_stop_at_another_price_fails_the_run(run, monkeypatch, trigger, message):
    from strategies import protection

    monkeypatch.setattr(protection, "stop_trigger", lambda *_: trigger)
    with pytest.raises(RunFailedError, match=message):
        run(policy=STOPPED)


def test_a_stop_that_fills_at_its_trigger_after_a_gap_fails_the_run(market, monkeypatch):
    monkeypatch.setattr(fill_model, "stop_reference", lambda side, trigger, open_: trigger)
    bars = market.bars([(30_000,) * 4, (30_000,) * 4, (28_000,) * 4, (28_000,) * 4])
    arguments = (market.inputs(bars), market.predictor({0: 0.7}), STOPPED, market.execution())
    with pytest.raises(RunFailedError, match=r"must fill for 28000.0 .* filled for 29940.0"):
        run_backtest(*arguments)


def test_the_record_for_programs_counts_and_cuts_lists_short(wild):
    found = wild(policy=STOPPED).reconciliation
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["balanced"] is True
    assert (record["bars"], record["predictions"]) == (200, 199)
    assert record["orders"] > record["fills"] > 100
    assert record["refused"] == len(found.refused) > 0
    assert record["refused_first"][0].startswith("F1-X")
    long = replace(found, refused=tuple(map(str, range(50))), open_at_end=("F1-E",))
    assert len(long.to_json()["refused_first"]) < long.to_json()["refused"] == 50
    assert long.to_json()["open_at_end_first"] == ["F1-E"]


def test_a_stop_within_the_slippage_is_refused_beforehand(market):
    with pytest.raises(ConfigError, match="stop_loss_frac must be more than the slippage"):
        run_backtest(
            market.inputs(market.flat(3)),
            market.predictor({}),
            STOPPED,
            market.execution(slippage_bps=20.0),
        )


def test_cash_of_billions_may_differ_by_its_last_digit(run):
    found = run().reconciliation
    large = replace(found, ledger_cash=5e9 + 3e-6, engine_cash=5e9)
    assert large.faults() == []
    assert "cash in our ledger" in replace(large, ledger_cash=5e9 + 0.01).faults()[0]
    assert replace(found, ledger_cash=found.engine_cash + 2e-6).faults() != []

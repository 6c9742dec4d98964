"""Each silent failure of the engine, brought about on purpose, fails the run."""

import pytest
from nautilus_trader.execution import StaticLatencyModel
from nautilus_trader.model import OrderBook

import strategies.backtest as backtest
import strategies.fill_model as fill_model
from catalog.errors import RunFailedError
from catalog.progress import no_progress
from strategies.backtest import FusionPolicy, Replay, run_backtest
from strategies.fusion import FusionStrategy
from strategies.ledger import Ledger
from strategies.predictor_actor import PredictorActor

HOUR = 3600 * 10**9
POLICY = FusionPolicy(
    entry_threshold=0.6, exit_threshold=0.5, position_frac=0.5, min_holding_bars=0
)


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
            engine.run(end=self.ts_end - 20 * 900 * 10**9)

    with pytest.raises(RunFailedError, match=r"records handed over 145, iterated \d+"):
        run(replay=Short)


def test_an_order_for_ever_under_way_fails_the_run(run):
    class Slow(Replay):
        def add_venue(self, engine, now):
            engine_add = engine.add_venue

            class Proxy:
                def __getattr__(self, name):
                    return getattr(engine, name)

                def add_venue(self, *arguments, **keywords):
                    # A week.
                    keywords["latency_model"] = StaticLatencyModel(168 * HOUR)
                    engine_add(*arguments, **keywords)

            super().add_venue(Proxy(), now)

    with pytest.raises(RunFailedError, match="orders neither closed nor explained: F1-E"):
        run(replay=Slow)


def test_an_order_that_fills_in_part_fails_the_run(run, monkeypatch):
    monkeypatch.setattr(fill_model, "_DEPTH", 0.5)
    with pytest.raises(RunFailedError, match=r"the run's books must balance"):
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


def test_a_fill_after_the_last_record_would_fail_the_run(market, monkeypatch):
    # The engine settles orders under way after the data have ended, at the last close.
    real = fill_model.ReplayMarket

    def endless(execution, quotes, ts_end, now):
        return real(execution, quotes, 2**62, now)

    monkeypatch.setattr(backtest, "ReplayMarket", endless)
    arguments = (
        market.inputs(market.flat(3)),
        market.predictor({2: 0.7}),
        POLICY,
        market.execution(),
    )
    with pytest.raises(RunFailedError, match="the run's books must balance"):
        run_backtest(*arguments)


def test_an_order_that_finds_no_market_is_listed(market, monkeypatch):
    # An empty book: the exchange refuses.
    def empty(self, instrument, order, best_bid=None, best_ask=None):
        return OrderBook(instrument.id, fill_model.BookType.L2_MBP)

    monkeypatch.setattr(fill_model.ReplayFillModel, "get_orderbook_for_fill_simulation", empty)
    arguments = (
        market.inputs(market.flat(4)),
        market.predictor({0: 0.7}),
        POLICY,
        market.execution(),
    )
    out = run_backtest(*arguments)
    (refused,) = out.reconciliation.refused
    assert refused.startswith("F1-E")
    assert out.orders.status.tolist() == ["REJECTED"]


def test_a_denied_order_is_listed_with_its_reason(market, monkeypatch):
    from decimal import Decimal

    from strategies.execution import InstrumentTerms

    real = InstrumentTerms.of

    def lax(instrument):
        found = real(instrument)
        return InstrumentTerms(found.instrument_id, found.tick, found.step, Decimal(0), Decimal(0))

    monkeypatch.setattr(InstrumentTerms, "of", lax)
    out = run_backtest(
        market.inputs(market.flat(4)),
        market.predictor({0: 0.7}),
        POLICY,
        market.execution(starting_balance=100.0),
    )
    (refused,) = out.reconciliation.refused
    assert "NOTIONAL" in refused.upper()
    assert out.fills.empty

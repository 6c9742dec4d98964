"""The market feed in a live node: what it hands on is what a backtest sees, whatever the exchange
does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from catalog.errors import ConfigError
from live.feed_delivery import Receivers
from live.market_feed import FeedConfig, FeedWiring, MarketFeed
from live.parity import compare
from live.warm_start import feed_history
from research.fitted import predict_rows
from research.training_table import build_table
from strategies.backtest import Replay, ReplayInputs, run_backtest
from strategies.fusion import FusionPolicy
from strategies.outcome import close_books, run_frames
from strategies.predictor_actor import PredictorActor, PredictorActorConfig
from strategies.recorder import RunRecorder
from strategies.stops import StopConfig
from tests.live.feed_market import UNTIL, FeedMarket
from tests.live.feed_world import HOUR, MILLISECOND, QUICK, World, run_world
from tests.strategies.settings import plain_execution

SECOND = 10**9
BTC, ETH, SOL = (f"{coin}USDT-PERP.BINANCE" for coin in ("BTC", "ETH", "SOL"))


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> FeedMarket:
    return FeedMarket.make(tmp_path_factory.mktemp("feed"))


def same_as_batch(world: World, batch: dict[tuple[str, int], Any]) -> dict[tuple[str, int], Any]:
    """Demand that every prediction made has the bits of the batch; return them by bar."""
    made = {(row.instrument_id, row.ts_init): row for row in world.predictions().itertuples()}
    for key, row in made.items():
        assert row.prob_up == batch[key].prob_up, key
        assert row.degraded_reason == batch[key].degraded_reason, key
    return made


def closes(made: dict[tuple[str, int], Any]) -> list[int]:
    return sorted({ts for _, ts in made})


@pytest.mark.parametrize(
    ("bar", "seconds", "stored_bars", "page"),
    [
        # A start just after a close, which is decided on; nothing stored, in small pages.
        (130, 3, None, 300),
        # A start within a bar; the catalog ends 200 bars before.
        (517, 400, 200, 1_500),
        # A start at a settlement; the catalog has everything but the last bar.
        (544, 2, 1, 1_500),
    ],
)
def test_the_first_predictions_are_those_of_the_batch(
    market: FeedMarket, bar: int, seconds: int, stored_bars: int | None, page: int
) -> None:
    last = UNTIL + bar * market.interval
    now = last + seconds * SECOND
    until = None if stored_bars is None else last - stored_bars * market.interval
    stored = None if until is None else market.stored(now, until)

    async def script(world: World) -> None:
        await world.warm()
        await world.play(last + market.interval, last + 3 * market.interval)

    world = run_world(market.world(now, page=page), market.predictor(), script, stored=stored)
    made = same_as_batch(world, market.batch)
    # What was there at the start was received before anybody could wait for it.
    streamed = [latency for latency in world.latencies if latency is not None]
    assert 1 <= len(streamed) <= 3
    assert max(streamed) < 60 * SECOND
    assert world.latencies[-len(streamed) :] == streamed
    first = last if seconds < 90 else last + market.interval
    assert closes(made) == list(range(first, last + 3 * market.interval + 1, market.interval))
    assert len(made) == 3 * len(closes(made))
    # What the catalog has is not asked for, but for three bars that an answer is known by.
    asked = min(start for _, start, _, _ in world.requests)
    warm = market.model.spec.warmup_bars + 1
    assert asked == last - ((warm if stored_bars is None else stored_bars) + 3) * market.interval
    assert max(limit for *_, limit in world.requests) <= 1_500
    assert world.counters["settlements_estimated"] == 0
    assert world.recorder.decision_count == len(made)


def test_a_bar_that_the_exchange_never_had_is_missing_as_in_the_batch(market: FeedMarket) -> None:
    last = UNTIL + 300 * market.interval
    lost = last + 2 * market.interval
    world = market.world(last + 100 * SECOND, hidden={(ETH, lost)})
    panel = replace(
        market.panel,
        bars=tuple(
            one if one.instrument_id != ETH else _without(one, lost) for one in market.panel.bars
        ),
    )
    table = build_table(panel, market.model.config)
    rows = np.flatnonzero(table.matrix.valid & (table.matrix.ts_init > last))
    frame = predict_rows(table, rows, market.model, 0)
    batch = {(row.instrument_id, row.ts_init): row for row in frame.itertuples()}

    async def script(world: World) -> None:
        await world.warm()
        await world.play(last + market.interval, last + market.interval)
        world.send_all(lost)
        world.now = lost + 9 * SECOND
        await world.until(lambda: len(world.requests) > 8, "asked")
        assert not world.done(lost)
        assert world.state == "waiting"
        world.now = lost + 11 * SECOND
        await world.until(lambda: world.done(lost), "handed on")
        await world.play(lost + market.interval, lost + 3 * market.interval)

    world = run_world(world, market.predictor(), script)
    made = {(row.instrument_id, row.ts_init): row for row in world.predictions().itertuples()}
    assert set(made) == {key for key in batch if key[1] <= lost + 3 * market.interval}
    assert (ETH, lost) not in made
    for key, row in made.items():
        assert row.prob_up == batch[key].prob_up, key
        assert row.degraded_reason == batch[key].degraded_reason or key[1] == lost
    assert {made[name, lost].degraded_reason for name in (BTC, SOL)} == {f"no bar of {ETH}"}
    assert world.counters["missing"] == 1
    assert world.counters["gaps"] == 1


def _without(bars: Any, ts: int) -> Any:
    kept = bars.ts_init != ts
    names = ("ts_init", "open", "high", "low", "close", "volume")
    return replace(bars, **{name: getattr(bars, name)[kept] for name in names})


def test_after_a_disconnect_nothing_is_decided_until_the_missing_bars_went_through(
    market: FeedMarket,
) -> None:
    last = UNTIL + 200 * market.interval
    back = last + 12 * market.interval

    async def script(world: World) -> None:
        await world.warm()
        await world.play(last + market.interval, last + 2 * market.interval)
        before = len(world.handled)
        world.silent = True
        world.now = back - market.interval + 60 * SECOND
        asked = len(world.requests)
        await world.until(lambda: "3 times in a row" in world.feed.status().reason, "failed")
        assert world.state == "waiting"
        assert "closes are missing from" in world.feed.status().reason
        # A bar comes while the history does not answer: it has to wait.
        world.now = back
        world.send_all(back)
        await world.until(lambda: world.counters["requests_failed"] >= 12, "failed again")
        assert len(world.handled) == before
        assert len(world.requests) - asked < 40
        world.silent = False
        world.expect_funding()
        await world.until(lambda: world.done(back), "caught up")
        assert world.state == "trading"
        assert [fresh for _, fresh in world.handled[before:]] == [False] * 9 + [True]
        await world.play(back + market.interval, back + 2 * market.interval)

    world = run_world(market.world(last + 100 * SECOND), market.predictor(), script)
    made = same_as_batch(world, market.batch)
    step = market.interval
    assert closes(made) == [last + step, last + 2 * step, back, back + step, back + 2 * step]
    handled = [ts for ts, _ in world.handled]
    assert handled == list(range(handled[0], back + 2 * step + 1, step))
    assert world.counters["gaps"] == 1
    assert world.counters["backfilled"] == 9 * 3
    # Positions are marked by the bars that were missed, and funding that fell due is booked.
    assert world.recorder.strategy_bars == 15 * 3


def test_a_history_that_does_not_answer_keeps_a_node_from_trading(market: FeedMarket) -> None:
    last = UNTIL + 200 * market.interval

    async def script(world: World) -> None:
        await world.until(lambda: world.counters["requests_failed"] >= 3, "failed")
        world.send_all(last + market.interval)
        await world.until(lambda: world.counters["requests_failed"] >= 6, "failed again")
        assert world.state == "warming"
        assert not world.handled
        world.silent, world.deaf = False, True
        await world.until(lambda: len(world.requests) > 20, "asked")
        # An exchange that has nothing at all is not believed.
        assert not world.handled
        assert world.state == "warming"

    world = market.world(last + 100 * SECOND, silent=True)
    run_world(world, market.predictor(), script)
    assert not world.recorder.orders
    assert len(world.predictions()) == 0


def test_a_disorderly_stream_is_put_in_order_and_counted(market: FeedMarket) -> None:
    last = UNTIL + 400 * market.interval
    step = market.interval

    async def script(world: World) -> None:
        await world.warm()
        world.now = last + step
        world.send(SOL, last + step)
        world.send(SOL, last + step)  # a duplicate
        world.send(BTC, last + step)
        world.send(ETH, last + 2 * step)  # not over yet
        world.send(ETH, last + step)
        await world.until(lambda: world.done(last + step), "first")
        world.send(ETH, last + step)  # a duplicate of what was handed on
        world.now = last + 3 * step
        for name in (BTC, ETH, SOL):
            world.send(name, last + 3 * step)
        for name in (SOL, ETH, BTC):
            world.send(name, last + 2 * step)  # behind a later one
        await world.until(lambda: world.done(last + 3 * step), "both")
        world.send(BTC, last - 300 * step)  # late beyond memory
        await world.until(lambda: world.counters["late"] == 1, "late")

    world = run_world(market.world(last + 100 * SECOND), market.predictor(), script)
    made = same_as_batch(world, market.batch)
    # The second close had become too old to be decided on when it came.
    assert closes(made) == [last + step, last + 3 * step]
    found = world.counters
    assert (found["duplicate"], found["unfinished"], found["out_of_order"]) == (2, 1, 3)
    assert (found["bars"], found["restated"], found["missing"]) == (9, 0, 0)


def test_trading_through_the_feed_is_the_backtest_bit_for_bit(market: FeedMarket) -> None:
    start, bars = UNTIL + 500 * market.interval, 60
    end = start + bars * market.interval
    execution = plain_execution(funding="recorded", slippage_bps=1.0)
    stops = StopConfig(stop_vol_multiple=2.0, target_vol_multiple=3.0, trailing=True)
    policy: dict[str, Any] = {"entry_threshold": 0.505, "stops": stops}
    world = market.world(start + 100 * SECOND)
    predictor = market.predictor()
    feed_history(predictor, list(world.bars.values()), world.funding, start)
    span = tuple(one.between(start, end) for one in world.bars.values())
    inputs = ReplayInputs(world.instruments, span, world.funding)
    rules = FusionPolicy(**{"exit_threshold": 0.5, "position_frac": 0.1, **policy})
    backtest = run_backtest(inputs, predictor, rules, execution)

    async def script(world: World) -> None:
        await world.warm()
        await world.trade(start + market.interval, end)

    run_world(world, market.predictor(), script, execution=execution, **policy)
    assert world.exchange is not None
    world.exchange.finish()
    close_books(world.recorder)
    terms = Replay(inputs, market.predictor(), rules, execution).terms
    report = compare(backtest, run_frames(world.recorder, inputs.bars, terms, execution))
    report.require_identical()
    assert {one.reason for one in world.recorder.fills} >= {"enter_long", "take_profit"}
    assert report.compared["settlements"] > 0
    assert report.compared["predictions"] == 3 * bars


def test_a_settlement_that_the_history_does_not_tell_is_taken_as_expected(
    market: FeedMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = (UNTIL + 320 * market.interval) // (8 * HOUR) * 8 * HOUR - 2 * market.interval
    due = last + 2 * market.interval

    async def script(world: World) -> None:
        await world.warm()
        await world.play(last + market.interval, last + market.interval)
        world.funding = {name: one.between(None, due - 1) for name, one in world.funding.items()}
        world.send_all(due)
        # The bars are there, the settlement is not: they wait as long as the patience.
        while not world.done(due) and world.now < due + 60 * SECOND:
            await asyncio.sleep(0.03)
            world.now += SECOND
        assert world.now >= due + 5 * SECOND
        await world.until(lambda: world.done(due), "handed on")

    predictor, told = market.predictor(), []
    update = predictor.update_funding

    def listen(name: str, rate: float, ts: int) -> None:
        told.append((name, rate, ts))
        update(name, rate, ts)

    monkeypatch.setattr(predictor, "update_funding", listen)
    world = run_world(market.world(last + 100 * SECOND), predictor, script)
    assert world.counters["settlements_estimated"] == 3
    assert [one for one in told if one[2] > last] == [(name, 7e-5, due) for name in (BTC, ETH, SOL)]
    # Before, the settled rates count, never those that the stream expected.
    assert len(told) > 40
    assert 7e-5 not in {rate for _, rate, ts in told if ts < due}


def test_what_no_stream_brings_is_refused_by_name(market: FeedMarket) -> None:
    predictor = market.predictor()
    recorder = RunRecorder(predictor.spec.instruments, 1.0)
    predictor._spec = replace(predictor.spec, uses_flow=True)
    actor = PredictorActor(predictor, recorder, PredictorActorConfig(1_000, fed=True))
    strategy: Any = None
    receivers = Receivers(actor, strategy, frozenset(), books_funding=False)
    with pytest.raises(ConfigError, match=r"asks for features\.flow"):
        MarketFeed(FeedWiring(receivers, "BINANCE"), FeedConfig())


def test_patience_runs_with_the_data() -> None:
    fast = QUICK.at_speed(60.0)
    assert fast.gate.ask_after_secs == 120.0
    assert fast.funding_patience_secs == 300.0
    assert fast.history == QUICK.history
    assert MILLISECOND * 1_000 == SECOND

"""What stands behind the tearsheet's pictures: sums that must add up, and nothing from later."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.arrays import BarArrays
from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR
from research.estimates import Estimate
from research.market_view import BAND, MarketView, ShuffledBand, thinned_prices
from research.metrics import BootstrapConfig, accuracy_by_coverage, prediction_metrics
from research.performance import TradingSpan, cost_waterfall, trading_metrics
from research.quantstats_tables import daily_returns
from research.report import curve_of
from research.sheet_numbers import (
    Activity,
    Luck,
    attribution,
    cumulated_costs,
    difference,
    entries,
    expert_shares,
    gross_curve,
)
from research.shuffled_signal import shuffled_paths, shuffled_trades
from research.signal_results import InformationRow
from research.trading_details import trade_results
from tests.research.test_tearsheet import BALANCE, INSTRUMENTS, START, example

DAYS = 45
END = START + DAYS * NS_PER_DAY


@pytest.fixture(scope="module")
def run() -> Any:
    return example(DAYS)


@pytest.fixture(scope="module")
def span(run: Any) -> TradingSpan:
    return TradingSpan.cut(run.frames, start=START, end=END, starting_balance=BALANCE)


def made_bars(n: int = 400, seed: int = 3) -> list[BarArrays]:
    """Hourly bars of two instruments."""
    random = np.random.default_rng(seed)
    ts = START + np.arange(1, n + 1) * NS_PER_HOUR
    found = []
    for name in INSTRUMENTS:
        path = 100.0 * np.exp(np.cumsum(0.01 * random.standard_normal(n + 1)))
        ends = np.stack([path[:-1], path[1:]])
        found.append(
            BarArrays(
                instrument_id=name,
                interval_ns=NS_PER_HOUR,
                ts_init=ts,
                open=ends[0],
                high=ends.max(axis=0),
                low=ends.min(axis=0),
                close=ends[1],
                volume=np.ones(n),
            )
        )
    return found


# -- equity and costs -----------------------------------------------------------------------------


def test_the_gross_curve_ends_where_the_waterfall_begins(run: Any, span: TradingSpan) -> None:
    net = curve_of("net", run.frames.equity, start=START, end=END, starting_balance=BALANCE)
    gross = gross_curve(net, run.frames, BALANCE)
    assert gross.level[0] == 1.0
    assert gross.last_return * BALANCE == pytest.approx(cost_waterfall(span).gross, abs=1e-6)
    half = int(net.ts[len(net.ts) // 2])
    part = curve_of("net", run.frames.equity, start=half, end=END, starting_balance=BALANCE)
    base = float(part.level[0]) * float(net.level[len(net.ts) // 2]) * BALANCE
    cut = TradingSpan.cut(run.frames, start=half, end=END, starting_balance=BALANCE)
    later = gross_curve(part, run.frames, base)
    assert later.last_return * base == pytest.approx(cost_waterfall(cut).gross, abs=1e-6)


def test_costs_count_from_the_start_of_the_span_only(run: Any) -> None:
    ts = np.array([START, START + 10 * NS_PER_DAY, END])
    paid = cumulated_costs(run.frames, ts, START)
    fills, funding = run.frames.fills, run.frames.funding
    whole = (fills["commission"] + fills["slippage_cost"]).sum() - funding["payment"].sum()
    assert paid[0] == 0.0
    assert paid[2] == pytest.approx(whole)
    assert cumulated_costs(run.frames, ts[2:], int(ts[1]))[0] == pytest.approx(paid[2] - paid[1])


# -- headline numbers against others --------------------------------------------------------------


def test_headline_numbers_agree_with_quantstats_and_by_hand(run: Any, span: TradingSpan) -> None:
    """Within 1e-9 wherever quantstats, the formulas of empyrical and ours mean the same."""
    import quantstats.stats as stats

    found = trading_metrics(run.frames, start=START, end=END, starting_balance=BALANCE, samples=0)
    returns = daily_returns(span.daily)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {
            "net_return": float(stats.comp(returns)),
            "net_sharpe": float(stats.sharpe(returns, periods=365)),
            "max_drawdown": float(stats.max_drawdown(returns)),
        }
    r = returns.to_numpy()
    level = np.cumprod(np.append(1.0, 1.0 + r))
    empyrical = {
        # empyrical: cum_returns_final, sharpe_ratio(annualization=365), max_drawdown
        "net_return": float(np.prod(1.0 + r) - 1.0),
        "net_sharpe": float(np.mean(r) / np.std(r, ddof=1) * np.sqrt(365.0)),
        "max_drawdown": float(np.min(level / np.fmax.accumulate(level) - 1.0)),
    }
    equity = [BALANCE]
    stamps, values = run.frames.equity["ts_init"].tolist(), run.frames.equity["equity"].tolist()
    for day in range(1, DAYS + 1):
        known = [v for t, v in zip(stamps, values, strict=True) if t <= START + day * NS_PER_DAY]
        equity.append(known[-1])
    by_hand = [after / before - 1.0 for before, after in pairwise(equity)]
    mean = math.fsum(by_hand) / DAYS
    spread = math.sqrt(math.fsum((one - mean) ** 2 for one in by_hand) / (DAYS - 1))
    peaks = [max(equity[: at + 1]) for at in range(len(equity))]
    hand = {
        "net_return": equity[-1] / BALANCE - 1.0,
        "net_sharpe": mean / spread * math.sqrt(365.0),
        "max_drawdown": min(one / peak - 1.0 for one, peak in zip(equity, peaks, strict=True)),
    }
    for name, value in hand.items():
        assert found[name].value == pytest.approx(value, abs=1e-9)
        assert found[name].value == pytest.approx(theirs[name], abs=1e-9)
        assert found[name].value == pytest.approx(empyrical[name], abs=1e-9)


def test_accuracy_by_coverage_is_that_of_the_headline(run: Any) -> None:
    frame = run.predictions
    told = prediction_metrics(frame, samples=200)
    config = BootstrapConfig(samples=200)
    one, ten, whole = accuracy_by_coverage(frame, (0.01, 0.1, 1.0), config=config)
    for found, name in (
        (one, "accuracy_at_1pct"),
        (ten, "accuracy_at_10pct"),
        (whole, "accuracy"),
    ):
        assert found.value == pytest.approx(told[name].value, abs=1e-12)
        # Draws of the whole are sums by day there, of merged groups here.
        assert found.low == pytest.approx(told[name].low, abs=1e-9)
        assert found.high == pytest.approx(told[name].high, abs=1e-9)
    with pytest.raises(DataError, match=r"shares must be in \(0, 1\], was 0"):
        accuracy_by_coverage(frame, (0.0,))


# -- activity and attribution ---------------------------------------------------------------------


def test_activity_is_that_of_each_day(run: Any, span: TradingSpan) -> None:
    found = Activity.of(span)
    equity, fills = run.frames.equity, run.frames.fills
    day = 7
    inside = equity[(equity["ts_init"] > START + day * NS_PER_DAY)].iloc[:24]
    assert found.gross[day] == pytest.approx((inside["gross_exposure"] / inside["equity"]).mean())
    assert found.net[day] == pytest.approx((inside["net_exposure"] / inside["equity"]).mean())
    assert found.most[day] == pytest.approx((inside["gross_exposure"] / inside["equity"]).max())
    own = fills[(fills["ts_event"] - START) // NS_PER_DAY == day]
    traded = (own["quantity"] * own["price"]).sum() / span.daily.equity[day]
    assert found.turnover[day] == pytest.approx(traded)


def fused(run: Any) -> pd.DataFrame:
    """Predictions with two experts that share the weight, and regimes."""
    random = np.random.default_rng(8)
    n = len(run.predictions)
    weight = random.random(n)
    return run.predictions.assign(
        regime=random.choice(["trend", "neutral"], n),
        weight_a=weight,
        weight_b=1.0 - weight,
        expert_a=random.random(n),
        expert_b=0.9,
    )


def test_every_attribution_adds_up_to_the_whole(run: Any) -> None:
    entered = entries(run.frames.positions, fused(run))
    net = math.fsum(trade_results(run.frames.positions)[0])
    groups = attribution(entered)
    assert {"Instrument", "Side", "Regime at the entry", "Hour of the entry (UTC)"} <= set(groups)
    for *parts, whole in groups.values():
        assert whole.net == pytest.approx(net)
        assert math.fsum(one.net for one in parts) == pytest.approx(net)
    shares = expert_shares(entered)
    assert [one.name for one in shares] == ["a", "b"]
    assert math.fsum(one.net for one in shares) == pytest.approx(net)
    always = shares[1]  # always long
    assert always.agreed == int((run.frames.positions["side"] > 0).sum())
    assert always.agreed + always.disagreed == len(run.frames.positions)
    assert always.agreed_net + always.disagreed_net == pytest.approx(net)


def test_an_entry_is_seen_with_what_was_known_then(run: Any) -> None:
    frame = fused(run)
    before = entries(run.frames.positions, frame)
    position = before.iloc[20]
    later = frame["ts_init"] > position["ts_opened"]
    changed = frame.assign(weight_a=frame["weight_a"].where(~later, 0.123))
    after = entries(run.frames.positions, changed)
    assert after["weight_a"].iloc[:21].tolist() == before["weight_a"].iloc[:21].tolist()
    own = frame[frame["instrument_id"] == position["instrument_id"]]
    known = own[own["ts_init"] <= position["ts_opened"]].iloc[-1]
    assert position["weight_a"] == known["weight_a"]


def test_regimes_that_were_not_kept_are_left_out(run: Any) -> None:
    entered = entries(run.frames.positions, run.predictions.assign(regime=""))
    assert "Regime at the entry" not in attribution(entered)


# -- luck -----------------------------------------------------------------------------------------


def test_luck_is_read_from_metrics_and_validation() -> None:
    metrics = {"trials": {"count": 3, "dsr": 0.4}}
    assert Luck.of(metrics, None, None) == Luck(trials=3.0, dsr=0.4)
    record = {
        "trials": {"count": 30, "dsr": None},
        "variants": {"tables": {"pbo": {"value": 0.61}, "spa_nothing": {"consistent": 0.2}}},
        "cpcv": {"spread": {"sharpe_mean": 0.5, "sharpe_least": -0.1, "sharpe_largest": 1.1}},
        "null": {"p_values": {"net_sharpe": 0.03, "log_loss_skill": 0.01}, "config": {"runs": 100}},
    }
    found = Luck.of(metrics, record, ShuffledBand(np.array([0]), np.zeros((3, 1)), 1.0, 0.25, 10))
    assert found == Luck(30.0, None, 0.61, 0.2, Estimate(0.5, -0.1, 1.1), 0.03, 0.01, 100.0, 0.25)
    partly = {"variants": {"tables": {"pbo": None}}, "null": None}
    assert Luck.of(metrics, partly, None) == Luck(trials=3.0, dsr=0.4)


def test_moved_trades_end_where_the_rotation_test_says() -> None:
    bars = made_bars()
    positions = example(14).frames.positions
    marks = np.array([START, int(bars[0].ts_init[99]), int(bars[0].ts_init[-1])])
    paths = shuffled_paths(positions, bars, marks, seed=4, rotations=20)
    drawn = shuffled_trades(positions, bars, seed=4, rotations=20).drawn
    assert paths.shape == (20, 3)
    assert paths[:, 0].tolist() == [0.0] * 20
    assert paths[:, 2] == pytest.approx(drawn, abs=1e-8)
    shift = int((1 + np.random.default_rng(4).permutation(399)[:20])[0])
    assert paths[0, 1] == pytest.approx(_walked(positions, bars, shift, 100), abs=1e-8)


def _walked(positions: pd.DataFrame, bars: list[BarArrays], shift: int, until: int) -> float:
    """Earn bar by bar what moved trades earn in the first bars: slow and literal."""
    total = 0.0
    for one in bars:
        opens, n = one.open, len(one.open)
        for trade in positions[positions["instrument_id"] == one.instrument_id].itertuples():
            first = (trade.ts_opened - START) // NS_PER_HOUR
            length = max((trade.ts_closed - START) // NS_PER_HOUR - first, 1)
            worth = trade.side * trade.quantity * trade.average_open
            value = 1.0
            for step in range(length):
                at = (first + shift + step) % n
                grown = value * (opens[at + 1] / opens[at] if at + 1 < n else 1.0)
                total += worth * (grown - value) if at < until else 0.0
                value = grown
    return total


def test_what_is_kept_of_the_market_comes_back() -> None:
    bars = made_bars()
    row = InformationRow("pooled", 4, 0, 90, Estimate(0.1, 0.05, 0.2), 0.01, 0.01)
    band = ShuffledBand(np.array([1, 2]), np.arange(6.0).reshape(3, 2), 7.5, 0.125, 40)
    held = {"buy and hold": pd.DataFrame({"ts_init": [5, 6], "equity": [1.0, 2.0]})}
    view = MarketView(thinned_prices(bars), band, (row,), 4, held)
    again = MarketView.read(view.to_frame(), view.to_json())
    assert list(again.prices) == list(INSTRUMENTS)
    for name, curve in view.prices.items():
        assert again.prices[name].ts.tolist() == curve.ts.tolist()
        assert again.prices[name].level.tolist() == curve.level.tolist()
    assert again.information == (row,)
    assert again.shuffled is not None
    assert again.shuffled.gained.tolist() == band.gained.tolist()
    assert (again.shuffled.p, again.shuffled.rotations) == (0.125, 40)
    pd.testing.assert_frame_equal(again.held["buy and hold"], held["buy and hold"])
    alone = MarketView(view.prices, None, (), 4)
    assert MarketView.read(alone.to_frame(), alone.to_json()).shuffled is None
    assert len(BAND) == 3


# -- differences ----------------------------------------------------------------------------------


def test_a_run_does_not_differ_from_itself(span: TradingSpan) -> None:
    found = difference(span, span, samples=50)
    assert found is not None
    assert found.days == DAYS
    assert found.net_return == found.sharpe == Estimate(0.0, 0.0, 0.0)


def test_differences_are_those_of_the_days_in_common(run: Any, span: TradingSpan) -> None:
    half = START + 20 * NS_PER_DAY
    part = TradingSpan.cut(run.frames, start=START, end=half, starting_balance=BALANCE)
    other = example(DAYS, seed=9).frames
    whole = TradingSpan.cut(other, start=START, end=END, starting_balance=BALANCE)
    found = difference(part, whole, samples=50)
    assert found is not None
    assert found.days == 20
    gap = whole.daily.returns[:20] - part.daily.returns
    assert found.net_return.value == pytest.approx(gap.sum())
    assert found.net_return.low < found.net_return.value < found.net_return.high

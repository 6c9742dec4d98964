"""Trading metrics: against literal loops, against quantstats, and where they are not defined."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.arrays import BarArrays, SeriesArrays
from catalog.errors import ConfigError, DataError, RunFailedError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, parse_time
from research.benchmarks import HoldingCosts, buy_and_hold
from research.performance import (
    TRADING_METRICS,
    DailyEquity,
    TradingFrames,
    TradingSpan,
    block_bootstrap_rows,
    cost_waterfall,
    daily_equity,
    max_drawdown,
    sharpe,
    trading_metrics,
    undefined_reasons,
)
from research.trading_details import probabilistic_sharpe, sortino, trading_details

START = parse_time("2024-03-01")
BALANCE = 10_000.0
FEW = {"samples": 200, "seed": 3}


@dataclass
class Account:
    """A literal account in one perpetual: one price, one position, everything booked by hand."""

    cash: float = BALANCE
    quantity: float = 0.0
    opened: float = 0.0
    price: float = 100.0
    costs: float = 0.0
    fills: list[dict] = field(default_factory=list)
    positions: list[dict] = field(default_factory=list)
    funding: list[dict] = field(default_factory=list)
    equity: list[dict] = field(default_factory=list)

    def trade(self, ts: int, change: float) -> None:
        side = 1 if change > 0 else -1
        price = self.price * (1.0 + side * 2e-4)
        commission = abs(change) * price * 5e-4
        self.cash -= change * price + commission
        self.fills.append(
            {
                "ts_event": ts,
                "instrument_id": "X-PERP.SIM",
                "side": side,
                "quantity": abs(change),
                "price": price,
                "reference_price": self.price,
                "commission": commission,
                "slippage_cost": abs(change) * abs(price - self.price),
                "reason": "entry" if self.quantity == 0.0 else "exit",
            }
        )
        if self.quantity == 0.0:
            self.opened, self.costs, self.entry_ts, self.received = price, commission, ts, 0.0
        else:
            self.positions.append(
                {
                    "instrument_id": "X-PERP.SIM",
                    "ts_opened": self.entry_ts,
                    "ts_closed": ts,
                    "side": int(math.copysign(1, self.quantity)),
                    "quantity": abs(self.quantity),
                    "average_open": self.opened,
                    "average_close": price,
                    "realized_pnl": self.quantity * (price - self.opened),
                    "commission": self.costs + commission,
                    "funding": self.received,
                    "reason": "exit",
                }
            )
        self.quantity += change

    def settle(self, ts: int, rate: float) -> None:
        if self.quantity:
            payment = -self.quantity * self.price * rate
            self.cash += payment
            self.received += payment
            self.funding.append({"ts_event": ts, "instrument_id": "X-PERP.SIM", "payment": payment})

    def mark(self, ts: int) -> None:
        held = self.quantity * self.price
        self.equity.append(
            {
                "ts_init": ts,
                "equity": self.cash + held,
                "cash": self.cash,
                "gross_exposure": abs(held),
                "net_exposure": held,
            }
        )

    def frames(self) -> TradingFrames:
        return TradingFrames(
            fills=pd.DataFrame(self.fills, columns=_columns(FILL, self.fills)),
            positions=pd.DataFrame(self.positions, columns=_columns(POSITION, self.positions)),
            funding=pd.DataFrame(self.funding, columns=_columns(PAYMENT, self.funding)),
            equity=pd.DataFrame(self.equity),
        )


FILL = [
    *("ts_event", "instrument_id", "side", "quantity", "price", "reference_price"),
    *("commission", "slippage_cost", "reason"),
]
POSITION = [
    *("instrument_id", "ts_opened", "ts_closed", "side", "quantity", "average_open"),
    *("average_close", "realized_pnl", "commission", "funding", "reason"),
]
PAYMENT = ["ts_event", "instrument_id", "payment"]


def _columns(names: list[str], rows: list[dict]) -> list[str]:
    assert not rows or set(names) == set(rows[0])
    return names


def simulate(days: float, seed: int, *, trades: bool = True, start: int = START) -> Account:
    """Hourly bars; a position is taken or given up at random, a moment after a close."""
    random = np.random.default_rng(seed)
    account = Account()
    for hour in range(1, round(days * 24) + 1):
        ts = start + hour * NS_PER_HOUR
        opened = ts - NS_PER_HOUR + 250_000_000
        if trades and random.random() < 0.2:
            size = account.price and BALANCE / account.price * random.uniform(0.1, 0.9)
            change = -account.quantity or float(random.choice([-1.0, 1.0])) * size
            account.trade(opened, change)
        account.price *= math.exp(0.01 * random.standard_normal())
        if ts % (8 * NS_PER_HOUR) == 0:
            account.settle(ts, 1e-4 * random.standard_normal())
        account.mark(ts)
    return account


def span_of(account: Account, days: float) -> TradingSpan:
    return TradingSpan.cut(
        account.frames(),
        start=START,
        end=START + round(days * NS_PER_DAY),
        starting_balance=BALANCE,
    )


def metrics_of(account: Account, days: float, **other: object) -> dict:
    arguments = {
        "start": START,
        "end": START + round(days * NS_PER_DAY),
        "starting_balance": BALANCE,
        **FEW,
    }
    return trading_metrics(account.frames(), **(arguments | other))


# -- against a literal account --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_a_literal_account(seed: int) -> None:
    days = 40
    account = simulate(days, seed)
    found = metrics_of(account, days)
    assert tuple(found) == TRADING_METRICS
    marks = [BALANCE] + [
        row["equity"] for row in account.equity if row["ts_init"] % NS_PER_DAY == 0
    ]
    returns, peak, fall = [], marks[0], 0.0
    for before, after in pairwise(marks):
        returns.append(after / before - 1.0)
        peak = max(peak, after)
        fall = min(fall, after / peak - 1.0)
    mean = sum(returns) / days
    deviation = math.sqrt(sum((value - mean) ** 2 for value in returns) / (days - 1))
    assert found["net_return"].value == pytest.approx(marks[-1] / BALANCE - 1.0, abs=1e-12)
    assert found["net_sharpe"].value == pytest.approx(mean / deviation * math.sqrt(365), rel=1e-9)
    assert found["max_drawdown"].value == pytest.approx(fall, abs=1e-12)
    assert found["trades"].value == len(account.positions)
    for name, rows, column in (
        ("fees", account.fills, "commission"),
        ("slippage", account.fills, "slippage_cost"),
        ("funding", account.funding, "payment"),
    ):
        assert found[name].value == pytest.approx(sum(row[column] for row in rows), rel=1e-12)
    for name, (value, low, high) in found.items():
        assert low <= high, name
        if name != "max_drawdown":  # a bootstrap of a maximum is not centred on it
            assert low <= value <= high, name


@pytest.mark.parametrize("seed", range(5))
def test_the_waterfall_adds_up_and_agrees_with_the_fills(seed: int) -> None:
    span = span_of(simulate(25, seed), 25)
    steps = cost_waterfall(span)
    total = steps.gross - steps.fees - steps.slippage + steps.funding
    assert total == pytest.approx(steps.net, abs=1e-9)
    assert abs(steps.unexplained) < 1e-6
    assert steps.fees > 0.0
    assert steps.slippage > 0.0
    steps.check(BALANCE)


@pytest.mark.parametrize("cut_hours", [7, 24, 301])
def test_the_waterfalls_of_two_halves_are_that_of_the_whole(cut_hours: int) -> None:
    account = simulate(25, 4)
    cut, end = START + cut_hours * NS_PER_HOUR, START + 25 * NS_PER_DAY
    parts = [
        cost_waterfall(
            TradingSpan.cut(account.frames(), start=start, end=stop, starting_balance=BALANCE)
        )
        for start, stop in ((START, cut), (cut, end), (START, end))
    ]
    for name in ("gross", "fees", "slippage", "funding", "net", "traded_value"):
        first, second, whole = (getattr(part, name) for part in parts)
        assert first + second == pytest.approx(whole, abs=1e-6), name
    assert max(abs(part.unexplained) for part in parts) < 1e-6


@pytest.mark.parametrize("column", ["reference_price", "quantity", "side", "slippage_cost"])
def test_books_that_disagree_with_equity_are_refused(column: str) -> None:
    frames = simulate(25, 1).frames()
    fills = frames.fills.copy()
    fills.loc[3, column] = -fills.loc[3, column] if column == "side" else fills.loc[3, column] * 1.1
    span = TradingSpan.cut(
        replace(frames, fills=fills),
        start=START,
        end=START + 25 * NS_PER_DAY,
        starting_balance=BALANCE,
    )
    with pytest.raises(RunFailedError, match="fills' profit must agree with the change of equity"):
        cost_waterfall(span).check(BALANCE)


def test_a_lost_fill_is_noticed() -> None:
    frames = simulate(25, 1).frames()
    span = TradingSpan.cut(
        replace(frames, fills=frames.fills.drop(index=2)),
        start=START,
        end=START + 25 * NS_PER_DAY,
        starting_balance=BALANCE,
    )
    with pytest.raises(RunFailedError, match="differed by"):
        cost_waterfall(span).check(BALANCE)


# -- against quantstats ---------------------------------------------------------------------------


def test_ratios_are_those_of_quantstats_with_365_days() -> None:
    stats = pytest.importorskip("quantstats").stats
    account = simulate(200, 9)
    span = span_of(account, 200)
    returns = span.daily.returns
    series = pd.Series(returns, index=pd.to_datetime(span.daily.ts[1:] - NS_PER_DAY))
    found = metrics_of(account, 200)
    details = {row.key: row.value for row in trading_details(span)}
    assert found["net_sharpe"].value == pytest.approx(stats.sharpe(series, periods=365))
    assert found["max_drawdown"].value == pytest.approx(stats.max_drawdown(series))
    assert found["net_return"].value == pytest.approx(stats.comp(series))
    assert details["sortino"] == pytest.approx(stats.sortino(series, periods=365))
    assert details["annual_volatility"] == pytest.approx(stats.volatility(series, periods=365))
    assert details["annual_growth"] == pytest.approx(stats.cagr(series, periods=365))
    assert details["calmar"] == pytest.approx(stats.calmar(series, periods=365))
    assert details["probabilistic_sharpe"] == pytest.approx(
        stats.probabilistic_sharpe_ratio(series, periods=365), abs=0.005
    )  # quantstats takes unbiased moments, the paper's sample moments are biased


# -- days and spans -------------------------------------------------------------------------------


def test_equity_is_marked_at_midnights_by_hand() -> None:
    hours = [1, 23, 24, 25, 47, 60]
    frame = pd.DataFrame(
        {"ts_init": [START + h * NS_PER_HOUR for h in hours], "equity": [1.0, 2, 3, 4, 5, 6]}
    )
    start, end = START + 12 * NS_PER_HOUR, START + 60 * NS_PER_HOUR
    daily = daily_equity(frame, start=start, end=end, starting_balance=0.5)
    assert daily.ts.tolist() == [start, START + NS_PER_DAY, START + 2 * NS_PER_DAY, end]
    assert daily.equity.tolist() == [1.0, 3.0, 5.0, 6.0]
    assert daily.day_of(np.array([start + 1, START + NS_PER_DAY, end])).tolist() == [0, 0, 2]
    before = daily_equity(frame, start=START, end=end, starting_balance=0.5)
    assert before.equity[0] == 0.5


@given(
    start=st.integers(0, 10**18),
    length=st.integers(1, 5 * NS_PER_DAY),
)
def test_marks_are_strictly_ascending_and_reach_from_start_to_end(start: int, length: int) -> None:
    frame = pd.DataFrame({"ts_init": [start + length], "equity": [1.0]})
    daily = daily_equity(frame, start=start, end=start + length, starting_balance=1.0)
    assert daily.ts[0] == start
    assert daily.ts[-1] == start + length
    assert (np.diff(daily.ts) > 0).all()
    assert (np.diff(daily.ts) <= NS_PER_DAY).all()
    assert (daily.ts[1:-1] % NS_PER_DAY == 0).all()


def test_a_fold_counts_what_happened_inside_it() -> None:
    account = simulate(30, 2)
    start, end = START + 10 * NS_PER_DAY, START + 20 * NS_PER_DAY
    found = metrics_of(account, 0, start=start, end=end)
    level = {row["ts_init"]: row["equity"] for row in account.equity}
    assert found["net_return"].value == pytest.approx(level[end] / level[start] - 1.0)
    fees = sum(row["commission"] for row in account.fills if start < row["ts_event"] <= end)
    assert found["fees"].value == pytest.approx(fees)
    assert found["trades"].value == sum(start < r["ts_closed"] <= end for r in account.positions)


def test_metrics_know_nothing_after_the_end() -> None:
    account, longer = simulate(20, 5), simulate(30, 5)
    assert longer.equity[: len(account.equity)] == account.equity
    assert metrics_of(account, 20) == metrics_of(longer, 20)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.01, 1000.0), seed=st.integers(0, 50))
def test_ratios_do_not_depend_on_the_currency_unit(scale: float, seed: int) -> None:
    frames = simulate(12, seed).frames()
    money = {
        "fills": ["price", "reference_price", "commission", "slippage_cost"],
        "positions": ["average_open", "average_close", "realized_pnl", "commission", "funding"],
        "funding": ["payment"],
        "equity": ["equity", "cash", "gross_exposure", "net_exposure"],
    }
    scaled = {}
    for name, columns in money.items():
        frame = getattr(frames, name).copy()
        frame[columns] = frame[columns] * scale
        scaled[name] = frame
    span = {"start": START, "end": START + 12 * NS_PER_DAY, **FEW}
    plain = trading_metrics(frames, starting_balance=BALANCE, **span)
    other = trading_metrics(TradingFrames(**scaled), starting_balance=BALANCE * scale, **span)
    for name in ("net_return", "net_sharpe", "max_drawdown", "trades"):
        assert other[name] == pytest.approx(plain[name], rel=1e-6, abs=1e-9), name
    for name in ("fees", "slippage", "funding"):
        wanted = [value * scale for value in plain[name]]
        assert other[name] == pytest.approx(wanted, rel=1e-6, abs=1e-9 * scale), name


# -- intervals ------------------------------------------------------------------------------------


def test_bootstrap_rows_are_blocks_of_the_wanted_mean_length() -> None:
    rows = block_bootstrap_rows(500, samples=400, mean_block=7.0, seed=1)
    assert rows.shape == (400, 500)
    assert rows.min() == 0
    assert rows.max() == 499
    goes_on = (np.diff(rows, axis=1) % 500 == 1).mean()
    assert goes_on == pytest.approx(1.0 - 1.0 / 7.0, abs=0.01)
    counts = np.bincount(rows.ravel(), minlength=500) / 400.0
    assert counts.std() < 0.3
    assert np.array_equal(rows, block_bootstrap_rows(500, samples=400, mean_block=7.0, seed=1))
    assert not np.array_equal(rows, block_bootstrap_rows(500, samples=400, mean_block=7.0, seed=2))


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    """Independent daily returns with a Sharpe ratio of 1: 95 % of intervals hold it, nearly."""
    random = np.random.default_rng(0)
    hits, trials, days = 0, 150, 200
    for trial in range(trials):
        returns = 0.01 * (random.standard_normal(days) + 1.0 / math.sqrt(365))
        account = Account()
        for day, value in enumerate(returns, 1):
            account.cash *= 1.0 + value
            account.mark(START + day * NS_PER_DAY)
        found = metrics_of(account, days, samples=300, seed=trial)
        hits += found["net_sharpe"].low <= 1.0 <= found["net_sharpe"].high
    assert 0.87 < hits / trials <= 1.0


def test_the_seed_decides_the_intervals_and_nothing_else() -> None:
    account = simulate(30, 6)
    first, again = metrics_of(account, 30), metrics_of(account, 30)
    other = metrics_of(account, 30, seed=4)
    assert first == again
    for name in TRADING_METRICS:
        assert first[name].value == other[name].value
    assert first["net_return"].low != other["net_return"].low


# -- where nothing can be said --------------------------------------------------------------------


def test_without_trades_there_is_no_sharpe_ratio_and_json_says_null() -> None:
    account = simulate(10, 1, trades=False)
    found = metrics_of(account, 10)
    assert math.isnan(found["net_sharpe"].value)
    text = json.dumps({name: value.as_dict() for name, value in found.items()}, allow_nan=False)
    assert json.loads(text)["net_sharpe"] == {"value": None, "low": None, "high": None}
    assert found["net_return"] == (0.0, 0.0, 0.0)
    assert found["trades"].value == 0.0
    span = span_of(account, 10)
    assert undefined_reasons(span) == {"net_sharpe": "no trades, so that equity never moved"}
    details = {row.key: row for row in trading_details(span)}
    for key in ("sortino", "calmar", "win_rate", "average_trade_bps", "break_even_cost_bps"):
        assert math.isnan(details[key].value)
        assert details[key].reason
    assert details["time_in_market"].value == 0.0
    assert cost_waterfall(span).net == 0.0


def test_one_day_gives_values_without_intervals() -> None:
    account = simulate(1, 3)
    found = metrics_of(account, 1)
    assert math.isfinite(found["net_return"].value)
    assert math.isnan(found["net_return"].low)
    assert undefined_reasons(span_of(account, 1)) == {"net_sharpe": "needs at least two days"}


def test_ruin_is_said_and_not_divided_by() -> None:
    account = Account()
    for day, cash in enumerate([9_000.0, -500.0, -500.0, 200.0], 1):
        account.cash = cash
        account.mark(START + day * NS_PER_DAY)
    found = metrics_of(account, 4)
    assert found["net_return"].value == pytest.approx(-0.98)
    assert found["max_drawdown"].value == pytest.approx(-1.05)
    assert math.isnan(found["net_sharpe"].value)
    assert math.isnan(found["net_return"].high)
    span = span_of(account, 4)
    assert undefined_reasons(span)["net_sharpe"] == "equity fell to zero or below"
    assert any(row.reason == "equity was zero or below" for row in trading_details(span))


@pytest.mark.parametrize("value", [0.0, 0.001, -0.02])
def test_equal_returns_have_no_sharpe_ratio(value: float) -> None:
    assert math.isnan(sharpe(np.full(30, value)))
    assert math.isnan(probabilistic_sharpe(np.full(30, value)))


def test_small_functions_by_hand() -> None:
    returns = np.array([0.01, -0.02, 0.03])
    assert sortino(returns) == pytest.approx(
        (0.02 / 3) * math.sqrt(365) / math.sqrt(0.0004 / 3), rel=1e-12
    )
    assert max_drawdown(np.array([100.0, 120.0, 90.0, 130.0, 117.0])) == pytest.approx(-0.25)
    daily = DailyEquity(np.array([0, 1, 2]), np.array([100.0, 110.0, 99.0]))
    assert daily.returns.tolist() == pytest.approx([0.1, -0.1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"end": START}, ConfigError, "end must be after start"),
        ({"starting_balance": 0.0}, ConfigError, "starting_balance must be positive, was 0.0"),
        (
            {"start": START - 5 * NS_PER_DAY, "end": START - NS_PER_DAY},
            DataError,
            "equity must have a row after 2024-02-25 .* had none",
        ),
    ],
)
def test_bad_spans_are_refused(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        metrics_of(simulate(3, 1), 3, **change)


def test_equity_out_of_order_is_refused() -> None:
    frames = simulate(3, 1).frames()
    shuffled = replace(frames, equity=frames.equity.iloc[::-1])
    with pytest.raises(DataError, match="equity must be in the order of ts_init, row 1 goes back"):
        TradingSpan.cut(shuffled, start=START, end=START + 3 * NS_PER_DAY, starting_balance=BALANCE)


# -- details --------------------------------------------------------------------------------------


def test_activity_is_that_of_a_literal_account() -> None:
    account = simulate(30, 8)
    span = span_of(account, 30)
    details = {row.key: row.value for row in trading_details(span)}
    traded = sum(row["quantity"] * row["price"] for row in account.fills)
    equity = [row["equity"] for row in account.equity]
    assert details["turnover"] == pytest.approx(traded / 30 / (sum(equity) / len(equity)))
    held = [row["gross_exposure"] > 0 for row in account.equity]
    assert details["time_in_market"] == pytest.approx(sum(held) / len(held))
    results = [
        row["realized_pnl"] - row["commission"] + row["funding"] for row in account.positions
    ]
    assert details["win_rate"] == pytest.approx(sum(r > 0 for r in results) / len(results))
    shares = [
        1e4 * result / (row["quantity"] * row["average_open"])
        for result, row in zip(results, account.positions, strict=True)
    ]
    assert details["average_trade_bps"] == pytest.approx(sum(shares) / len(shares))
    assert details["cost_bps"] == pytest.approx(7.0, abs=0.01)
    assert details["max_drawdown_bars"] <= metrics_of(account, 30)["max_drawdown"].value


def test_at_the_break_even_cost_nothing_is_left() -> None:
    span = span_of(simulate(30, 8), 30)
    steps = cost_waterfall(span)
    details = {row.key: row.value for row in trading_details(span)}
    allowed = details["break_even_cost_bps"] / 1e4 * steps.traded_value
    assert steps.gross + steps.funding - allowed == pytest.approx(0.0, abs=1e-9)


# -- benchmarks -----------------------------------------------------------------------------------


def _bars(name: str, prices: list[float], first: int = 0) -> BarArrays:
    close = np.array(prices[1:])
    opens = np.array(prices[:-1])
    ts = START + (first + 1 + np.arange(len(close))) * NS_PER_HOUR
    return BarArrays(name, NS_PER_HOUR, ts, opens, opens, opens, close, np.ones(len(close)))


def test_buy_and_hold_by_hand() -> None:
    bars = [_bars("A", [100.0, 110.0, 120.0]), _bars("B", [10.0, 9.0, 8.0])]
    rates = SeriesArrays(
        "A",
        "fraction",
        *(2 * (np.array([START, START + NS_PER_HOUR], dtype=np.int64),)),
        np.array([0.5, 0.001]),
    )
    costs = HoldingCosts(1_000.0, fee_bps=10.0, slippage_bps=20.0)
    frame = buy_and_hold(bars, {"A": rates}, costs, start=START, end=START + 2 * NS_PER_HOUR)
    a, b = 500.0 / (100.0 * 1.002 * 1.001), 500.0 / (10.0 * 1.002 * 1.001)
    first = a * 110.0 + b * 9.0 - a * 110.0 * 0.001
    last = (a * 120.0 + b * 8.0) * 0.998 * 0.999 - a * 110.0 * 0.001
    assert frame["equity"].tolist() == pytest.approx([first, last], rel=1e-12)
    assert frame["ts_init"].tolist() == [START + NS_PER_HOUR, START + 2 * NS_PER_HOUR]


def test_an_instrument_that_starts_later_waits_in_cash() -> None:
    bars = [_bars("A", [100.0] * 5), _bars("B", [10.0, 20.0, 20.0], first=2)]
    costs = HoldingCosts(1_000.0, fee_bps=0.0, slippage_bps=0.0)
    frame = buy_and_hold(bars, {}, costs, start=START, end=START + 4 * NS_PER_HOUR)
    assert frame["equity"].tolist() == pytest.approx([1000.0, 1000.0, 1500.0, 1500.0])


def test_a_benchmark_without_bars_is_refused() -> None:
    with pytest.raises(DataError, match=r"A must have bars after .* had none"):
        buy_and_hold([_bars("A", [1.0, 1.0])], {}, HoldingCosts(1.0, 0.0, 0.0), start=0, end=START)

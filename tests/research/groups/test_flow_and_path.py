from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.arrays import BarArrays, Ohlcv
from catalog.timestamps import NS_PER_MINUTE
from research.features import FeatureConfig, FeatureMatrix, FeatureStream, compute_features
from research.groups import path
from research.groups.path import MINUTE_NS
from research.panel import Panel
from tests.research.markets import BTC, Market, bars_by_time, furnished, take, told

FLOW = FeatureConfig(flow=True, funding=False, instrument_code=False)
PATH = FeatureConfig(path=True, funding=False, instrument_code=False)
WARM = 1_000


@pytest.fixture(scope="module")
def panel() -> Panel:
    full = furnished(Market(9, 1_200).panel(), 9, late=False)
    # A bar without trades has no trades in its flow either.
    flow = {
        name: replace(one, trade_count=np.where(one.quote_volume > 0.0, one.trade_count + 1, 0))
        for name, one in full.flow.items()
    }
    return replace(full, flow=flow)


def column(matrix: FeatureMatrix, name: str) -> np.ndarray[Any, Any]:
    """Return a feature of the first instrument, row by row of its bars."""
    rows = matrix.instrument == 0
    return np.asarray(matrix.values[rows, matrix.names.index(name)])


# ---------------------------------------------------------------------------------------------
# Order flow.


def windows(values: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Return the sums of the last `size` values, from the first full window on."""
    return np.convolve(values, np.ones(size), mode="valid")


def test_order_flow_matches_a_literal_reference(panel: Panel) -> None:
    matrix = compute_features(panel, FLOW)
    flow = panel.flow[BTC]
    quote, taker, trades = flow.quote_volume, flow.taker_buy_quote_volume, flow.trade_count
    warm = slice(WARM, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = {
            "flow_taker_share": taker / quote,
            "flow_signed_volume": (2 * taker - quote)[95:] / (windows(quote, 96) / 96),
            "flow_taker_share_20": windows(taker, 20) / windows(quote, 20),
            "flow_trade_count": np.log(trades[95:] / (windows(trades, 96) / 96)),
            "flow_trade_size": np.log(
                (quote / trades)[95:] / (windows(quote, 96) / windows(trades, 96))
            ),
        }
    for name, values in expected.items():
        values[np.isinf(values)] = np.nan
        wanted = values[len(values) - 200 :]
        np.testing.assert_allclose(column(matrix, name)[warm], wanted, rtol=1e-9, err_msg=name)
        assert np.isfinite(wanted).any()


def test_a_bar_whose_flow_is_missing_is_unknown_and_so_are_its_windows(panel: Panel) -> None:
    kept = np.ones(1_200, dtype=np.bool_)
    kept[1_050] = False
    flow = panel.flow[BTC]
    names = ("ts_init", "quote_volume", "trade_count", "taker_buy_volume", "taker_buy_quote_volume")
    holed = replace(flow, **{name: getattr(flow, name)[kept] for name in names})
    matrix = compute_features(replace(panel, flow={**panel.flow, BTC: holed}), FLOW)
    whole = compute_features(panel, FLOW)
    for name, reach in (("taker_share", 1), ("taker_share_20", 20), ("signed_volume", 96)):
        values = column(matrix, f"flow_{name}")
        assert np.isnan(values[1_050 : 1_050 + reach]).all()
        np.testing.assert_array_equal(
            values[1_050 + reach :], column(whole, f"flow_{name}")[1_050 + reach :]
        )


def test_a_missing_bar_is_one_without_trades(panel: Panel) -> None:
    kept = np.ones(1_200, dtype=np.bool_)
    kept[1_050:1_053] = False
    bars = (take(panel.bars[0], kept), *panel.bars[1:])
    flow = panel.flow[BTC]
    empty = replace(
        flow,
        quote_volume=np.where(kept, flow.quote_volume, 0.0),
        trade_count=np.where(kept, flow.trade_count, 0),
        taker_buy_volume=np.where(kept, flow.taker_buy_volume, 0.0),
        taker_buy_quote_volume=np.where(kept, flow.taker_buy_quote_volume, 0.0),
    )
    left_out = compute_features(replace(panel, bars=bars), FLOW)
    written = compute_features(replace(panel, flow={**panel.flow, BTC: empty}), FLOW)
    np.testing.assert_array_equal(
        column(left_out, "flow_trade_count"), column(written, "flow_trade_count")[kept]
    )


# ---------------------------------------------------------------------------------------------
# The path inside the bar.


def literal_path(panel: Panel, ts: int) -> dict[str, float]:
    minutes = panel.minutes[BTC].between(ts - panel.interval_ns, ts)
    assert len(minutes) == 15
    prices = np.concatenate([minutes.open[:1], minutes.close])
    squares = np.diff(np.log(prices)) ** 2
    rises = np.diff(prices) > 0
    high, low = int(np.argmax(minutes.high)), int(np.argmin(minutes.low))
    at_open_high = minutes.high.max() == minutes.open[0]
    at_open_low = minutes.low.min() == minutes.open[0]
    return {
        "path_variance": squares.sum(),
        "path_up_semivariance": squares[rises].sum(),
        "path_down_semivariance": squares[~rises].sum(),
        "path_late_volume": minutes.volume[-3:].sum() / minutes.volume.sum(),
        "path_high_at": 0.0 if at_open_high else (high + 0.5) / 15,
        "path_low_at": 0.0 if at_open_low else (low + 0.5) / 15,
    }


def test_the_path_matches_a_literal_reference(panel: Panel) -> None:
    matrix = compute_features(panel, PATH)
    volatility = column(matrix, "volatility_20") / column(matrix, "volatility_ratio")
    for row in range(WARM, 1_200):
        expected = literal_path(panel, int(panel.bars[0].ts_init[row]))
        for name, value in expected.items():
            scale = volatility[row] ** 2 if "variance" in name else 1.0
            assert column(matrix, name)[row] == pytest.approx(value / scale, rel=1e-9), name


@pytest.mark.parametrize("place", [0, 7, 14])
def test_a_bar_with_a_missing_minute_is_unknown(panel: Panel, place: int) -> None:
    minutes = panel.minutes[BTC]
    kept = np.ones(len(minutes), dtype=np.bool_)
    kept[15 * 1_100 + place] = False
    holed = replace(panel, minutes={**panel.minutes, BTC: take(minutes, kept)})
    matrix, whole = compute_features(holed, PATH), compute_features(panel, PATH)
    for name in matrix.names[-6:]:
        values = column(matrix, name)
        assert np.isnan(values[1_100])
        others = np.arange(1_200) != 1_100
        np.testing.assert_array_equal(values[others], column(whole, name)[others])


def test_a_minute_that_a_stream_is_told_too_late_or_twice_is_not_used(panel: Panel) -> None:
    stream = FeatureStream(panel.instruments(), panel.interval_ns, PATH)
    waiting = [one for one in told(panel, PATH) if one[1] == "minute"]
    late_bar = int(panel.bars[0].ts_init[1_100])
    rows = {}
    for ts_init, bars in bars_by_time(panel).items():
        late = []
        while waiting and waiting[0][0] <= ts_init:
            ts, _, name, values = waiting.pop(0)
            if ts == late_bar - 7 * MINUTE_NS and name == BTC:
                late.append((name, ts, Ohlcv(*values)))
            else:
                for _ in range(2):
                    stream.update_minute(name, ts, Ohlcv(*values))
        rows[ts_init] = stream.update(ts_init, bars).get(BTC)
        for name, ts, bar in late:
            stream.update_minute(name, ts, bar)
    matrix = compute_features(panel, PATH)
    values = matrix.values[matrix.instrument == 0]
    for place, ts in enumerate(panel.bars[0].ts_init.tolist()):
        row = rows[ts]
        if row is not None and ts == late_bar:
            assert np.isnan(row[-6:]).all()
        elif row is not None:
            assert row.tobytes() == values[place].tobytes()


def test_the_path_of_a_bar_of_five_minutes_has_a_last_minute() -> None:
    market = Market(10, 1_000, interval_ns=5 * NS_PER_MINUTE).panel()
    panel = furnished(market, 10, late=False)
    matrix = compute_features(panel, PATH)
    bars: BarArrays = panel.minutes[BTC]
    share = bars.volume[4::5] / bars.volume.reshape(-1, 5).sum(axis=1)
    np.testing.assert_allclose(column(matrix, "path_late_volume")[960:], share[960:], rtol=1e-12)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_however_many_minutes_come_at_a_time_the_state_is_the_same(seed: int) -> None:
    random = np.random.default_rng(seed)
    # A minute may be missing, and one comes twice.
    minutes = np.sort([*random.choice(60, 59, replace=False).tolist(), random.integers(60)])
    stamps = (1_900_000 * 15 + minutes) * MINUTE_NS
    close = np.exp(0.01 * random.normal(size=60).cumsum())
    columns = [close * scale for scale in (1.0, 1.01, 0.99, 1.0, 5.0)]
    state = [path.settings((BTC,), 15 * MINUTE_NS, ()), [0.0] * path.FLOATS, [-1] * path.INTS]
    results = []
    for cuts in (set[int](), set(random.choice(60, 9).tolist()), set(range(60))):
        rules, floats, ints = (list(part) for part in state)
        ends = sorted({0, *cuts, 60})
        for first, end in pairwise(ends):
            path.take_run(stamps, columns, first, end, 0, [floats], [ints], rules)
        results.append((floats, ints))
    assert results[0] == results[1] == results[2]
    assert results[0][1][path.BAR_TS] > 0

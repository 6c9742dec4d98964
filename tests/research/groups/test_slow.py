from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array, SeriesArrays
from catalog.timestamps import NS_PER_HOUR
from research.events import EventArrays
from research.features import FeatureConfig, FeatureMatrix, compute_features
from research.groups import rings, slow
from research.panel import Panel
from tests.research.groups.slow_references import as_of, rolling_zscore
from tests.research.markets import BTC, DVOL, FEAR_GREED, NEWS, ONCHAIN, SLOW, Market, furnished

DAY = 24 * NS_PER_HOUR


@pytest.fixture(scope="module")
def panel() -> Panel:
    return furnished(Market(3, 1_700, missing=0.02).panel(), 3, late=False)


@pytest.fixture(scope="module")
def matrix(panel: Panel) -> FeatureMatrix:
    return compute_features(panel, SLOW)


def column(
    matrix: FeatureMatrix, name: str, instrument: int = 0
) -> tuple[Int64Array, Float64Array]:
    rows = matrix.valid & (matrix.instrument == instrument)
    return matrix.ts_init[rows], matrix.values[rows, matrix.names.index(name)]


# ---------------------------------------------------------------------------------------------
# As of ts_init: against pandas.


@pytest.mark.parametrize(
    ("name", "series", "transform", "expires"),
    [
        ("onchain_mvrv", f"onchain.{ONCHAIN}.CapMVRVCur", np.log, 3 * DAY),
        ("dvol_eth_level", f"index.{DVOL[1]}", lambda x: np.log(x / 100.0), 12 * NS_PER_HOUR),
        ("fear_greed_level", f"index.{FEAR_GREED}", lambda x: x / 100.0, 3 * DAY),
    ],
)
@pytest.mark.parametrize("hours_late", [0, 5, 100])
def test_levels_are_those_of_an_as_of_join(
    panel: Panel, name: str, series: str, transform: object, expires: int, hours_late: int
) -> None:
    # The last two weeks are late, so that values grow old and expire.
    events = panel.series[series]
    late = events.ts_init > events.ts_init[-1] - 4 * DAY
    events = replace(events, ts_init=events.ts_init + np.where(late, hours_late * NS_PER_HOUR, 0))
    changed = replace(panel, series={**panel.series, series: events})
    matrix = compute_features(changed, SLOW)
    ts, found = column(matrix, name)
    joined = as_of(ts, events, transform(events.value))  # type: ignore[operator]
    age = ts - joined["known_at"].to_numpy()
    expected = np.where(age < expires, joined["value"], np.nan)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    age_name = name.removesuffix("_level") + "_age"
    _, ages = column(matrix, age_name)
    np.testing.assert_array_equal(ages, age / panel.interval_ns)
    assert np.isfinite(found).any()
    assert hours_late < 100 or np.isnan(found).any()


def test_changes_and_zscores_of_onchain_metrics(panel: Panel, matrix: FeatureMatrix) -> None:
    events = panel.series[f"onchain.{ONCHAIN}.AdrActCnt"]
    ts, _ = column(matrix, "onchain_addresses_zscore")
    logs = np.log(events.value)
    # Daily records: the change over a day is that to the record before.
    expected = {
        "onchain_addresses_change_1": np.append(np.nan, np.diff(logs)),
        "onchain_addresses_change_7": np.append([np.nan] * 7, logs[7:] - logs[:-7]),
        "onchain_addresses_zscore": rolling_zscore(logs, 30),
    }
    for name, values in expected.items():
        joined = as_of(ts, events, values)
        _, found = column(matrix, name)
        np.testing.assert_allclose(found, joined["value"], rtol=1e-9, err_msg=name)
        assert np.isfinite(found).all()


def test_flows_to_and_from_exchanges(panel: Panel) -> None:
    coming = panel.series[f"onchain.{ONCHAIN}.FlowInExUSD"]
    going = panel.series[f"onchain.{ONCHAIN}.FlowOutExUSD"]
    # Both become known together, as they do in truth.
    going = replace(going, ts_init=coming.ts_init)
    series = {**panel.series, going.name: going}
    matrix = compute_features(replace(panel, series=series), SLOW)
    net = (coming.value - going.value) / (coming.value + going.value)
    expected = {
        "onchain_inflow_zscore": rolling_zscore(np.log(coming.value), 30),
        "onchain_outflow_zscore": rolling_zscore(np.log(going.value), 30),
        "onchain_netflow": net,
        "onchain_netflow_zscore": rolling_zscore(net, 30),
    }
    for name, values in expected.items():
        ts, found = column(matrix, name)
        joined = as_of(ts, coming, values)
        np.testing.assert_allclose(found, joined["value"], rtol=1e-9, err_msg=name)


def test_implied_volatility_changes_and_terms(panel: Panel, matrix: FeatureMatrix) -> None:
    events = panel.series[f"index.{DVOL[0]}"]
    logs = np.log(events.value / 100.0)
    ts, found = column(matrix, "dvol_btc_change_1", instrument=2)
    joined = as_of(ts, events, np.append([np.nan] * 24, logs[24:] - logs[:-24]))
    np.testing.assert_allclose(found, joined["value"], rtol=1e-9, atol=1e-12)
    _, term = column(matrix, "dvol_btc_term", instrument=2)
    _, level = column(matrix, "dvol_btc_level", instrument=2)
    _, short = column(matrix, "volatility_20", instrument=2)
    _, ratio = column(matrix, "volatility_ratio", instrument=2)
    bars_a_year = 365.0 * DAY / panel.interval_ns
    own = np.log(short / ratio * math.sqrt(bars_a_year))
    np.testing.assert_allclose(term, level - own, rtol=1e-9, atol=1e-12)


def test_the_course_of_funding(panel: Panel, matrix: FeatureMatrix) -> None:
    series = panel.funding[BTC]
    ts, change = column(matrix, "funding_change")
    events = EventArrays(BTC, series.ts_init, series.value)
    steps = 1e4 * np.append(np.nan, np.diff(series.value))
    joined = as_of(ts, events, steps)
    np.testing.assert_allclose(change, joined["value"], rtol=1e-9)
    known = [
        series.value[(series.ts_init > at - 3 * DAY) & (series.ts_init <= at)].mean()
        for at in series.ts_init
    ]
    _, mean = column(matrix, "funding_mean")
    joined = as_of(ts, events, 1e4 * np.array(known))
    np.testing.assert_allclose(mean, joined["value"], rtol=1e-9)
    _, until = column(matrix, "funding_until")
    eight = 8 * NS_PER_HOUR
    np.testing.assert_array_equal(until, (eight - ts % eight) / eight)


# ---------------------------------------------------------------------------------------------
# News.


def literal_news(panel: Panel, ts: int) -> tuple[float, float, float, float]:
    """Return score, count, novelty and disagreement at a time, from all headlines anew."""
    parts = [panel.series[f"news.{source}"] for source in NEWS]
    stamp = np.concatenate([part.ts_init for part in parts])
    score = np.concatenate([part.value for part in parts])
    novelty = np.concatenate([part.extra for part in parts if part.extra is not None])
    inside = (stamp > ts - DAY) & (stamp <= ts) & (novelty != 0.0)
    stamp, score, novelty = stamp[inside], score[inside], novelty[inside]
    weight = 0.5 ** ((ts - stamp) / (6 * NS_PER_HOUR))
    scored = ~np.isnan(score)
    if not scored.any():
        return math.nan, float(len(stamp)), math.nan, math.nan
    mean = np.average(score[scored], weights=weight[scored])
    spread = np.sqrt(np.average((score[scored] - mean) ** 2, weights=weight[scored]))
    return (
        float(mean),
        float(len(stamp)),
        float(np.average(novelty, weights=weight)),
        float(spread) if scored.sum() > 1 else math.nan,
    )


def test_news_are_the_decayed_mean_of_a_day(panel: Panel, matrix: FeatureMatrix) -> None:
    names = ("news_score", "news_count", "news_novelty", "news_disagreement")
    ts, _ = column(matrix, names[0])
    found = np.column_stack([column(matrix, name)[1] for name in names])
    for row in range(0, len(ts), 7):
        np.testing.assert_allclose(found[row], literal_news(panel, int(ts[row])), rtol=1e-7)


def with_news(panel: Panel, records: list[tuple[int, float, float]]) -> Panel:
    """Return a panel with these headlines (stamp, score, novelty) of the first source alone."""
    columns = [np.array(column) for column in zip(*records, strict=True)] if records else []
    stamp, score, novelty = columns or (np.empty(0, np.int64), np.empty(0), np.empty(0))
    one = EventArrays(f"news.{NEWS[0]}", stamp.astype(np.int64), score, novelty)
    none = EventArrays(f"news.{NEWS[1]}", np.empty(0, np.int64), np.empty(0), np.empty(0))
    return replace(panel, series={**panel.series, one.name: one, none.name: none})


def news_row(panel: Panel, ts: int) -> dict[str, float]:
    matrix = compute_features(panel, FeatureConfig(news=NEWS))
    row = int(np.flatnonzero((matrix.ts_init == ts) & (matrix.instrument == 0))[0])
    return {
        name: float(value)
        for name, value in zip(matrix.names, matrix.values[row], strict=True)
        if name.startswith("news_")
    }


def test_headlines_without_a_score_count_but_have_no_say_in_the_mean(panel: Panel) -> None:
    ts = int(panel.bars[0].ts_init[1_000])
    scored = [(ts - NS_PER_HOUR, 0.5, 0.9), (ts, -0.5, 0.7)]
    one = news_row(with_news(panel, scored), ts)
    other = news_row(with_news(panel, [*scored, (ts, math.nan, 0.1)]), ts)
    assert (one["news_count"], other["news_count"]) == (2.0, 3.0)
    assert one["news_score"] == other["news_score"]
    assert other["news_novelty"] < one["news_novelty"]
    only = news_row(with_news(panel, [(ts, math.nan, 1.0)]), ts)
    assert only["news_count"] == 1.0
    assert math.isnan(only["news_score"])
    assert math.isnan(only["news_disagreement"])


def test_a_headline_that_was_there_before_is_left_out(panel: Panel) -> None:
    ts = int(panel.bars[0].ts_init[1_000])
    first = [(ts - NS_PER_HOUR, 0.5, 0.9)]
    repeated = [*first, (ts, 0.5, 0.0)]
    assert news_row(with_news(panel, first), ts) == pytest.approx(
        news_row(with_news(panel, repeated), ts), nan_ok=True
    )


def test_a_silent_source_is_unknown_and_not_zero(panel: Panel) -> None:
    ts = int(panel.bars[0].ts_init[1_250])
    for age, count in ((2 * DAY, 0.0), (4 * DAY, math.nan)):
        row = news_row(with_news(panel, [(ts - age, 0.5, 0.9)]), ts)
        assert math.isnan(row["news_score"])
        assert row["news_count"] == pytest.approx(count, nan_ok=True)
        assert row["news_age"] == age / panel.interval_ns
    assert all(math.isnan(value) for value in news_row(with_news(panel, []), ts).values())


def test_equal_scores_do_not_disagree_at_all(panel: Panel) -> None:
    ts = int(panel.bars[0].ts_init[1_000])
    records = [(ts - place * NS_PER_HOUR, 0.1, 0.9) for place in range(9, -1, -1)]
    row = news_row(with_news(panel, records), ts)
    assert row["news_disagreement"] == 0.0
    assert row["news_score"] == 0.1


# ---------------------------------------------------------------------------------------------
# Expiry, repetitions, records that come late.


def test_a_series_that_ends_grows_old_and_expires(panel: Panel) -> None:
    end = int(panel.bars[0].ts_init[1_150])
    ended = {name: one.between(None, end) for name, one in panel.series.items()}
    matrix = compute_features(replace(panel, series=ended), SLOW)
    rows = matrix.valid & (matrix.ts_init > end + 3 * DAY)
    assert rows.any()
    for position, name in enumerate(matrix.names):
        values = matrix.values[rows, position]
        if name.endswith("_age") and name != "funding_age":
            assert np.isfinite(values).all()
            assert (np.diff(values[: (matrix.instrument[rows] == 0).sum()]) > 0).all()
        elif name.startswith(("onchain_", "dvol_", "fear_", "news_")):
            assert np.isnan(values).all(), name


def test_a_repeated_record_changes_nothing(panel: Panel, matrix: FeatureMatrix) -> None:
    slow_ones = {name: one for name, one in panel.series.items() if not name.startswith("news")}
    repeated = {name: _twice(one) for name, one in slow_ones.items()}
    funding = {
        name: SeriesArrays(
            name, one.unit, *(np.repeat(x, 2) for x in (one.ts_event, one.ts_init, one.value))
        )
        for name, one in panel.funding.items()
    }
    changed = replace(panel, series={**panel.series, **repeated}, funding=funding)
    np.testing.assert_array_equal(compute_features(changed, SLOW).values, matrix.values)


def _twice(events: EventArrays) -> EventArrays:
    return replace(events, ts_init=np.repeat(events.ts_init, 2), value=np.repeat(events.value, 2))


@given(st.integers(1, 600), st.integers(0, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_ring_reads_the_same_wherever_it_began(count: int, skipped: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    stamps = np.cumsum(random.integers(1, 5, count + skipped)) * NS_PER_HOUR
    values = random.normal(0.0, 1.0, count + skipped)
    read = [_ring_of(stamps, values), _ring_of(stamps[skipped:], values[skipped:])]
    inside = int(np.searchsorted(stamps, stamps[-1] - 30 * NS_PER_HOUR))
    if inside > skipped:
        assert _readings(*read[0]) == pytest.approx(_readings(*read[1]), rel=0, abs=0, nan_ok=True)
    window = values[stamps > stamps[-1] - 30 * NS_PER_HOUR]
    window = window[-rings.SIZE :]
    number, mean, zscore, _ = _readings(*read[0])
    assert number == len(window)
    assert mean == pytest.approx(window.mean())
    if len(window) > 1:
        assert zscore == pytest.approx((window[-1] - window.mean()) / window.std())


def _ring_of(
    stamps: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[list[float], list[int]]:
    f, k = [0.0] * rings.RING_FLOATS, [-1] * rings.RING_INTS
    for stamp, value in zip(stamps.tolist(), values.tolist(), strict=True):
        rings.append(f, k, stamp, value, math.nan)
    return f, k


def _readings(f: list[float], k: list[int]) -> tuple[float, float, float, float]:
    count = rings.count_since(k, 30 * NS_PER_HOUR)
    return (
        count,
        rings.mean(f, k, rings.VALUES, count),
        rings.zscore(f, k, rings.VALUES, count),
        rings.change(f, k, 10 * NS_PER_HOUR, 10 * NS_PER_HOUR),
    )


def test_a_value_without_a_logarithm_is_unknown(panel: Panel) -> None:
    name = f"onchain.{ONCHAIN}.AdrActCnt"
    events = panel.series[name]
    value = events.value.copy()
    value[-1] = 0.0
    series = {**panel.series, name: replace(events, value=value)}
    _, found = column(
        compute_features(replace(panel, series=series), SLOW), "onchain_addresses_change_1"
    )
    assert np.isnan(found[-1])
    assert np.isfinite(found[0])


def test_the_history_that_a_stream_needs_covers_what_is_remembered() -> None:
    assert slow.HISTORY_NS >= slow.WINDOW_NS + slow.DAILY_EXPIRES_NS
    assert slow.HISTORY_NS >= slow.AGE_NS + 3 * DAY  # what novelty remembers
    assert slow.FUNDING_HISTORY_NS >= slow.FUNDING_WINDOW_NS + slow.FUNDING_EXPIRES_NS

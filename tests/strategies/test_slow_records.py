"""What a predictor is told through the engine's custom data is what the columns say."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nautilus_trader.model import CustomData, DataType

from catalog.arrays import BarArrays
from catalog.errors import ConfigError, DataError
from catalog.store import FlowArrays
from catalog.types import BarFlow, NewsSentiment, OnchainMetrics, register_types
from research.predictor import PredictorSpec
from strategies.slow_data import SlowInputs
from strategies.slow_records import pass_on, slow_records, subscriptions

MINUTE = 60 * 10**9
INTERVAL = 15 * MINUTE
BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"
ONCHAIN, INDEX, NEWS = "onchain.coinmetrics.btc.AdrActCnt", "index.dvol.btc", "news.first_seen"
SERIES = (ONCHAIN, INDEX, NEWS)
register_types()


def spec(series=SERIES, flow=True, minutes=True) -> PredictorSpec:
    identity = ((BTC, ETH), INTERVAL, 1, 0, "test", False, "0" * 64)
    return PredictorSpec(*identity, series=series, uses_flow=flow, uses_minutes=minutes)


class Told:
    """Writes down what a predictor is told."""

    def __init__(self, spec: PredictorSpec) -> None:
        self.spec = spec
        self.calls: list[tuple] = []

    def update_series(self, name, value, ts_init, extra=math.nan):
        self.calls.append(("series", name, ts_init, repr(value), repr(extra)))

    def update_flow(self, instrument_id, values, ts_init):
        assert all(type(value) is float for value in values)
        self.calls.append(("flow", instrument_id, ts_init, values))

    def update_minute(self, instrument_id, ts_init, bar):
        self.calls.append(("minute", instrument_id, ts_init, bar))


def events(times, values, extra=None) -> SimpleNamespace:
    second = None if extra is None else np.array(extra, dtype=np.float64)
    return SimpleNamespace(
        ts_init=np.array(times, dtype=np.int64), value=np.array(values, float), extra=second
    )


def inputs(after: int | None = None, seed: int = 0) -> SlowInputs:
    rng = np.random.default_rng(seed)

    def times(count: int, step: int) -> np.ndarray:
        return step * np.arange(1, count + 1, dtype=np.int64)

    def minutes(name: str) -> BarArrays:
        return BarArrays(name, MINUTE, times(120, MINUTE), *rng.random((5, 120)))

    def flow(name: str) -> FlowArrays:
        counts = rng.integers(0, 99, 8)
        return FlowArrays(name, INTERVAL, times(8, INTERVAL), *rng.random((1, 8)), counts, *rng.random((2, 8)))  # noqa: E501  # fmt: skip

    news = [float("nan"), *rng.uniform(-1, 1, 19)]
    return SlowInputs(
        {
            NEWS: events(np.sort(rng.integers(1, 120, 20)) * MINUTE, news, rng.random(20)),
            ONCHAIN: events([5 * MINUTE, 100 * MINUTE], [1.0, 0.1 + 0.2]),
            INDEX: events(times(2, 60 * MINUTE), [55.5, 56.5]),
        },
        {name: flow(name) for name in (BTC, ETH)},
        {name: minutes(name) for name in (BTC, ETH)},
        after,
    )


def through_records(slow: SlowInputs, wanted: PredictorSpec, *edges: int | None) -> list[tuple]:
    """Feed the records part by part, each sorted by time as the engine sorts them."""
    told = Told(wanted)
    held = set(subscriptions(wanted))
    for after, until in pairwise(edges):
        groups = list(slow_records(slow.needed_by(wanted), INTERVAL, after, until))
        found = [record for group in groups for record in group]
        for record in sorted(found, key=lambda record: record.ts_init):
            assert record.data_type in held
            assert record.data.ts_event == record.ts_init
            pass_on(told, record)
    return told.calls


def directly(slow: SlowInputs, wanted: PredictorSpec, until: int | None = None) -> list[tuple]:
    told = Told(wanted)
    for _, call, arguments in slow.needed_by(wanted).updates(told, None, until):
        call(*arguments)
    return told.calls


@given(
    st.lists(st.sampled_from(SERIES), unique=True).map(tuple),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(1, 130), max_size=4, unique=True).map(sorted),
    st.none() | st.integers(0, 120),
)
def test_records_say_what_the_columns_say_however_they_are_cut(series, flow, minutes, cuts, after):
    wanted = spec(series, flow, minutes)
    slow = inputs(None if after is None else after * MINUTE)
    edges = (None, *(cut * MINUTE for cut in cuts), None)
    found = through_records(slow, wanted, *edges)
    assert found == directly(slow, wanted)
    assert len(found) == len(slow.needed_by(wanted))
    assert [call[2] for call in found] == sorted(call[2] for call in found)


def test_every_number_arrives_and_only_what_is_after_the_warm_start():
    found = directly(inputs(), spec())
    count = {kind: sum(call[0] == kind for call in found) for kind in ("series", "flow", "minute")}
    assert count == {"series": 24, "flow": 16, "minute": 240}
    assert ("series", ONCHAIN, 100 * MINUTE, repr(0.1 + 0.2), "nan") in found
    news = [call for call in found if call[1] == NEWS]
    assert sorted(news[0][3:])[1] == "nan"
    assert all(0.0 <= float(call[4]) <= 1.0 for call in news)
    late = directly(inputs(after=60 * MINUTE), spec())
    assert late == [call for call in found if call[2] > 60 * MINUTE]
    early = directly(inputs(), spec(), until=60 * MINUTE)
    assert early + late == found


def test_a_predictor_gets_only_what_it_asks_for():
    slow = inputs().needed_by(spec((INDEX,), flow=False, minutes=False))
    assert (list(slow.series), dict(slow.flow), dict(slow.minutes)) == ([INDEX], {}, {})
    assert subscriptions(spec((), flow=False, minutes=False)) == []
    two = (ONCHAIN, "onchain.coinmetrics.btc.HashRate")
    # One series of the vendor, of which the other metrics are left out.
    assert subscriptions(spec(two, flow=False, minutes=False)) == [
        DataType("OnchainMetrics", None, "coinmetrics.btc")
    ]
    told = Told(spec((ONCHAIN,)))
    for metric in ("HashRate", "AdrActCnt"):
        record = OnchainMetrics(1, 2, asset="btc", metric=metric, value=3.0)
        pass_on(told, CustomData(DataType("OnchainMetrics", None, "coinmetrics.btc"), record))
    assert told.calls == [("series", ONCHAIN, 2, "3.0", "nan")]


@pytest.mark.parametrize(
    ("held", "match"),
    [
        (SlowInputs(inputs().series, inputs().flow), "one-minute bars that the predictor asks for"),
        (SlowInputs({}, inputs().flow, inputs().minutes), r"\(none\), lacked onchain.coinmetrics"),
        (
            SlowInputs(inputs().series, {BTC: inputs().flow[BTC]}, inputs().minutes),
            f"order flow .* lacked {ETH}: load them with the bars",
        ),
    ],
)
def test_what_is_not_there_is_named(held, match):
    with pytest.raises(DataError, match=match):
        held.needed_by(spec())


@pytest.mark.parametrize("name", ["onchain.btc", "index.", "news", "weather.rain", ""])
def test_a_series_of_an_unknown_kind_is_refused(name):
    with pytest.raises(ConfigError, match=r"must be onchain.<series>.<metric>, index.<se"):
        subscriptions(spec((name,)))


def test_a_record_that_no_predictor_asks_for_is_refused():
    record = CustomData(DataType("NewsSentiment"), NewsSentiment(1, 2, headline="x"))
    with pytest.raises(ConfigError, match=r"must be one of OnchainMetrics, .* was News"):
        pass_on(Told(spec()), record)


def test_order_flow_is_told_by_the_instrument_of_its_bars():
    told = Told(spec())
    name = f"{ETH}-15-MINUTE-LAST-EXTERNAL"
    record = BarFlow(1, 2, name, 10.0, 3, 0.5, 5.0)
    pass_on(told, CustomData(DataType("BarFlow", None, name), record))
    assert told.calls == [("flow", ETH, 2, (10.0, 3.0, 0.5, 5.0))]

"""What holds for every group of features, whoever wrote it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catalog.arrays import Ohlcv
from catalog.errors import ConfigError, DataError
from catalog.timestamps import NS_PER_MINUTE
from research import kernel_cache
from research.events import EventArrays
from research.features import (
    WARMUP_BARS,
    FeatureConfig,
    FeatureMatrix,
    FeatureStream,
    compute_features,
    feature_table,
    feature_table_hash,
)
from research.groups import slow
from research.groups.registry import groups_of
from research.lookahead import audit_features, choose_cuts
from research.panel import Panel
from tests.research.markets import BTC, FULL, SLOW, Market, furnished, since, stream_rows

INTERVAL = 15 * NS_PER_MINUTE
Rows = dict[tuple[str, int], NDArray[np.float64]]

ALONE = {
    "smc": FeatureConfig(smc=True),
    "timeframes": FeatureConfig(timeframes=("1h", "4h")),
    "cross": FeatureConfig(lead=BTC, cross=True),
    "regime": FeatureConfig(regime=True),
    "flow": FeatureConfig(flow=True),
    "path": FeatureConfig(path=True),
    "slow": SLOW,
}
TOGETHER = {**ALONE, "all together": FULL}


def batch_rows(matrix: FeatureMatrix) -> Rows:
    return {
        (matrix.instruments[code], int(ts)): matrix.values[row]
        for row, (code, ts) in enumerate(zip(matrix.instrument, matrix.ts_init, strict=True))
        if matrix.valid[row]
    }


def assert_same_bits(found: Rows, expected: Rows, names: tuple[str, ...]) -> None:
    assert found
    for key, row in found.items():
        if row.tobytes() != expected[key].tobytes():
            apart = [
                name
                for column, name in enumerate(names)
                if row[column : column + 1].tobytes()
                != expected[key][column : column + 1].tobytes()
            ]
            pytest.fail(f"{key}: {', '.join(apart)}")


def test_every_group_is_tried() -> None:
    assert tuple(use.name for use in groups_of(FULL)) == tuple(ALONE)
    for name, config in ALONE.items():
        assert [use.name for use in groups_of(config)] == [name]


@pytest.mark.parametrize("config", TOGETHER.values(), ids=TOGETHER.keys())
@pytest.mark.parametrize("seed", [1, 2])
def test_batch_compiled_and_plain_stream_give_the_same_bits(
    config: FeatureConfig, seed: int
) -> None:
    panel = furnished(Market(seed, 1_100, missing=0.05, gap=(1_000, 20)).panel(), seed)
    matrix = compute_features(panel, config)
    expected = batch_rows(matrix)
    for compiled in (True, False):
        found = stream_rows(panel, config, compiled=compiled)
        assert found.keys() == expected.keys()
        assert_same_bits(found, expected, matrix.names)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.02, 0.3]),
    gap=st.one_of(st.none(), st.tuples(st.integers(0, 1_300), st.integers(1, 200))),
    offset=st.integers(1, 400),
)
def test_a_stream_started_anywhere_equals_the_batch(
    seed: int, missing: float, gap: tuple[int, int] | None, offset: int
) -> None:
    panel = furnished(Market(seed, 1_450, missing=missing, gap=gap).panel(), seed)
    matrix = compute_features(panel, FULL)
    everything = batch_rows(matrix)
    start = int(panel.bars[0].ts_init[0]) + offset * panel.interval_ns
    listened = stream_rows(since(panel, start), FULL)
    warm_from = start + WARMUP_BARS * panel.interval_ns
    expected = {key for key in everything if key[1] >= warm_from}
    assert expected <= listened.keys() <= everything.keys()
    assume(listened)  # A late start and a long gap leave no bar with a whole history.
    assert_same_bits(listened, everything, matrix.names)


def test_a_batch_does_not_depend_on_how_far_its_data_goes_back() -> None:
    panel = furnished(Market(4, 2_600, missing=0.05).panel(), 4)
    matrix = compute_features(panel, FULL)
    part = since(panel, int(panel.bars[1].ts_init[700]))
    rows = batch_rows(compute_features(part, FULL))
    assert_same_bits(rows, batch_rows(matrix), matrix.names)


def test_records_of_the_same_time_may_come_in_any_order_of_sources() -> None:
    # What is pooled (news) is sorted by time and then by source, not by arrival.
    panel = furnished(Market(6, 1_100).panel(), 6)
    moved = {
        name: replace(one, ts_init=one.ts_init // INTERVAL * INTERVAL)
        for name, one in panel.series.items()
    }
    panel = replace(panel, series=moved)
    expected = batch_rows(compute_features(panel, SLOW))
    turned = replace(panel, series=dict(reversed(moved.items())))
    names = compute_features(panel, SLOW).names
    assert_same_bits(stream_rows(turned, SLOW), expected, names)
    assert_same_bits(batch_rows(compute_features(turned, SLOW)), expected, names)


def test_nothing_looks_ahead_with_all_features_on() -> None:
    panel = furnished(Market(1, 1_200).panel(), 1, late=False)
    cuts = choose_cuts(panel, after=int(panel.bars[0].ts_init[1_000]), count=3)
    assert any(cut + 1 in one.ts_init for cut in cuts for one in panel.series.values())
    assert audit_features(panel, FULL, cuts) == []


def _early(panel: Panel, what: str) -> Panel:
    """Return a panel in which one sort of record is known one bar too early."""
    early = panel.interval_ns
    if what == "flow":
        moved = {
            name: replace(one, ts_init=one.ts_init - early) for name, one in panel.flow.items()
        }
        return replace(panel, flow=moved)
    if what == "path":
        bars = {
            name: replace(one, ts_init=one.ts_init - early) for name, one in panel.minutes.items()
        }
        return replace(panel, minutes=bars)
    series = {name: replace(one, ts_init=one.ts_init - early) for name, one in panel.series.items()}
    return replace(panel, series=series)


@pytest.mark.parametrize("what", ["flow", "path", "slow"])
def test_records_that_are_used_before_they_are_known_are_caught(what: str) -> None:
    # The audit must be able to fail: it changes flow, minutes and slow series after the cut.
    config = ALONE[what].model_copy(update={"funding_terms": False})
    panel = furnished(Market(2, 1_200).panel(), 2, late=False)
    cuts = choose_cuts(panel, after=int(panel.bars[0].ts_init[1_000]), count=2)

    def compute(changed: Panel, config: FeatureConfig) -> FeatureMatrix:
        return compute_features(_early(changed, what), config)

    found = {one.name for one in audit_features(panel, config, cuts, compute=compute)}
    assert found
    prefixes = {"flow": "flow_", "path": "path_", "slow": ("onchain", "dvol", "fear", "news")}
    assert all(name.startswith(prefixes[what]) for name in found)


# ---------------------------------------------------------------------------------------------
# The table, the hash, what is refused.


@pytest.mark.parametrize("config", TOGETHER.values(), ids=TOGETHER.keys())
def test_the_table_says_what_there_is(config: FeatureConfig) -> None:
    table = feature_table(config)
    names = [feature.name for feature in table]
    assert len(set(names)) == len(names)
    assert names[-1] == "instrument_code"
    for feature in table:
        assert feature.description
        assert feature.inputs
        assert feature.unit
        assert 0 <= feature.warmup_bars <= WARMUP_BARS
    matrix = compute_features(furnished(Market(3, 1_000).panel(), 3, late=False), config)
    assert matrix.names == tuple(names)
    # Every column of a warm row is written: what the allocator left there would not be finite.
    assert (np.isnan(matrix.values[matrix.valid]).mean(axis=0) < 1.0).all()
    assert not np.isinf(matrix.values[matrix.valid]).any()


def test_the_hash_knows_the_sources_of_the_groups_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {name: feature_table_hash(config) for name, config in TOGETHER.items()}
    assert len(set(hashes.values())) == len(hashes)
    true_hash = kernel_cache.source_hash
    from research import feature_layout

    def changed(*modules: object) -> str:
        changes = "changed" if slow in modules else ""
        return true_hash(*modules) + changes  # type: ignore[arg-type]

    monkeypatch.setattr(feature_layout, "source_hash", changed)
    moved = {
        name for name, config in TOGETHER.items() if feature_table_hash(config) != hashes[name]
    }
    assert moved == {"slow", "all together"}


def test_a_group_is_compiled_under_all_its_sources() -> None:
    (use,) = groups_of(SLOW)
    assert {module.__name__ for module in use.sources} >= {
        *("research.groups.slow", "research.groups.rings"),
        *("research.groups.driver", "research.kernels"),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross": True}, "cross must have a lead"),
        ({"funding": False, "funding_terms": True}, "funding_terms must have funding: true"),
        ({"timeframes": ("1h", "1h")}, "timeframes must be distinct names, were 1h, 1h"),
        ({"timeframes": ("7m",)}, "timeframes must be of 1m"),
        ({"dvol": ("a.btc", "b.btc")}, "dvol must be distinct names"),
        ({"news": ("wire", "wire")}, "news must be distinct names"),
    ],
)
def test_senseless_groups_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureConfig.model_validate(options)


def test_a_panel_without_what_is_looked_at_is_refused() -> None:
    bare = Market(5, 50).panel()
    for name, missing in (
        ("flow", "there is no flow BTCUSDT"),
        ("path", "there is no minute BTCUSDT"),
        ("slow", "there is no index.dvol.btc, index.dvol.eth"),
    ):
        with pytest.raises(DataError, match=missing):
            compute_features(bare, ALONE[name])


def test_numbers_that_are_not_sound_are_refused_by_both_drivers() -> None:
    panel = furnished(Market(7, 60).panel(), 7, late=False)
    series = panel.series["index.dvol.btc"]
    broken = {"index.dvol.btc": replace(series, value=np.full(len(series), np.nan))}
    with pytest.raises(DataError, match=r"index\.dvol\.btc at .* must be a finite number, was nan"):
        compute_features(replace(panel, series={**panel.series, **broken}), SLOW)
    flow = panel.flow[BTC]
    flows = {**panel.flow, BTC: replace(flow, quote_volume=-flow.quote_volume - 1.0)}
    with pytest.raises(DataError, match=r"order flow of BTCUSDT.* not negative"):
        compute_features(replace(panel, flow=flows), ALONE["flow"])
    stream = FeatureStream((BTC,), INTERVAL, FULL.model_copy(update={"ratios": (), "peers": False}))
    with pytest.raises(DataError, match=r"order flow of BTCUSDT.* not negative"):
        stream.update_flow(BTC, (1.0, -1.0, 1.0, 1.0), INTERVAL)
    with pytest.raises(DataError, match="must be 4 finite numbers"):
        stream.update_flow(BTC, (1.0, 1.0), INTERVAL)
    with pytest.raises(DataError, match="must be a finite number, was inf"):
        stream.update_series("index.dvol.btc", np.inf, INTERVAL)
    with pytest.raises(DataError, match="must be a finite number, was nan"):
        stream.update_series("index.dvol.btc", np.nan, INTERVAL)
    stream.update_series("news.wire", np.nan, INTERVAL, 1.0)
    with pytest.raises(DataError, match=r"series must be one that features look at \(.*dvol"):
        stream.update_series("index.vix", 1.0, INTERVAL)
    with pytest.raises(DataError, match=r"must be of one of BTCUSDT.*, was of ETH"):
        stream.update_flow("ETH", (1.0, 1.0, 1.0, 1.0), INTERVAL)
    with pytest.raises(DataError, match=r"must be of one of BTCUSDT.*, was of ETH"):
        stream.update_minute("ETH", INTERVAL, panel_bar(panel))
    with pytest.raises(DataError, match="must be a whole minute"):
        stream.update_minute(BTC, INTERVAL + 1, panel_bar(panel))


def panel_bar(panel: Panel) -> Ohlcv:
    bars = panel.bars[0]
    return Ohlcv(*(float(getattr(bars, name)[0]) for name in Ohlcv._fields))


def test_the_path_needs_bars_that_can_be_cut_into_fifths() -> None:
    with pytest.raises(ConfigError, match=r"must have base bars of a multiple of 5m, were 3m"):
        FeatureStream((BTC,), 3 * NS_PER_MINUTE, ALONE["path"])


def test_panels_hold_what_fits_together() -> None:
    panel = furnished(Market(8, 60).panel(), 8, late=False)
    strange = {"XRP": panel.minutes[BTC]}
    with pytest.raises(DataError, match=r"1-minute bars must belong to an instrument"):
        replace(panel, minutes=strange)
    with pytest.raises(DataError, match=r"bars of BTCUSDT.* must be 1m long, were 15m"):
        replace(panel, minutes={BTC: panel.bars[0]})
    events = EventArrays("x", np.array([2, 1]), np.zeros(2))
    with pytest.raises(DataError, match="x must be sorted by ts_init"):
        replace(panel, series={"x": events})
    cut = int(panel.bars[0].ts_init[30])
    known = panel.truncated(cut)
    for held in (known.flow, known.minutes, known.series):
        assert held
        for one in held.values():
            assert (one.ts_init <= cut).all()
            assert len(one)

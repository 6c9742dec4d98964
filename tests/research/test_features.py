from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catalog.arrays import BarArrays, Ohlcv, SeriesArrays
from catalog.errors import ConfigError, DataError
from catalog.timestamps import INTERVALS, NS_PER_MINUTE, interval_ns
from research.feature_table import Feature
from research.features import (
    WARMUP_BARS,
    FeatureConfig,
    FeatureMatrix,
    FeatureStream,
    compute_features,
    feature_table,
    feature_table_hash,
)
from research.panel import Panel
from tests.research.markets import (
    BTC,
    COLUMNS,
    ETH,
    EVERYTHING,
    INSTRUMENTS,
    SOL,
    Market,
    bars_by_time,
    since,
    stream_rows,
    take,
)
from tests.research.reference_features import reference, relations

INTERVAL = 15 * NS_PER_MINUTE
Rows = dict[tuple[str, int], NDArray[np.float64]]


def batch_rows(matrix: FeatureMatrix) -> Rows:
    return {
        (matrix.instruments[code], int(ts)): matrix.values[row]
        for row, (code, ts) in enumerate(zip(matrix.instrument, matrix.ts_init, strict=True))
        if matrix.valid[row]
    }


def assert_same_bits(found: Rows, expected: Rows) -> None:
    assert found
    for key, row in found.items():
        assert row.tobytes() == expected[key].tobytes(), key


# ---------------------------------------------------------------------------------------------
# One kernel: batch, stream and plain Python agree to the last bit, wherever a stream starts.


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    interval=st.sampled_from(INTERVALS),
    missing=st.sampled_from([0.0, 0.02, 0.3]),
    gap=st.one_of(st.none(), st.tuples(st.integers(0, 1_300), st.integers(1, 200))),
    offset=st.integers(1, 400),
)
def test_a_stream_started_anywhere_equals_the_batch(
    seed: int, interval: str, missing: float, gap: tuple[int, int] | None, offset: int
) -> None:
    market = Market(seed, 1_600, interval_ns(interval), missing, gap)
    panel = market.panel()
    everything = batch_rows(compute_features(panel, EVERYTHING))
    start = int(panel.bars[0].ts_init[0]) + offset * panel.interval_ns
    listened = stream_rows(since(panel, start), EVERYTHING)
    warm_from = start + WARMUP_BARS * panel.interval_ns
    expected = {key: row for key, row in everything.items() if key[1] >= warm_from}
    # Rows that came earlier are allowed, but they must be right as well.
    assert expected.keys() <= listened.keys() <= everything.keys()
    assert_same_bits(listened, everything)


@pytest.mark.parametrize("market", [Market(1), Market(2, missing=0.2), Market(3, gap=(990, 40))])
def test_plain_python_equals_compiled(market: Market) -> None:
    panel = market.panel()
    expected = batch_rows(compute_features(panel, EVERYTHING))
    found = stream_rows(panel, EVERYTHING, compiled=False)
    assert found.keys() == expected.keys()
    assert_same_bits(found, expected)


def test_a_batch_does_not_depend_on_where_its_data_starts() -> None:
    panel = Market(4, 2_600, missing=0.05).panel()
    start = int(panel.bars[1].ts_init[700])
    everything = batch_rows(compute_features(panel, EVERYTHING))
    assert_same_bits(batch_rows(compute_features(since(panel, start), EVERYTHING)), everything)


@pytest.mark.parametrize("feature", feature_table(EVERYTHING), ids=lambda feature: feature.name)
def test_no_feature_remembers_more_than_its_table_says(feature: Feature) -> None:
    # Whatever happened before the warm-up of a feature began must leave its bits alone.
    matrix, other, row_slots = _two_pasts()
    column = matrix.names.index(feature.name)
    forgotten = matrix.valid & (row_slots >= _CHANGED + feature.warmup_bars)
    assert forgotten.sum() > 50
    np.testing.assert_array_equal(matrix.values[forgotten, column], other.values[forgotten, column])


_CHANGED = 400
_PASTS: list[tuple[FeatureMatrix, FeatureMatrix, NDArray[np.int64]]] = []


def _two_pasts() -> tuple[FeatureMatrix, FeatureMatrix, NDArray[np.int64]]:
    """Return features of one present with two pasts (kept: every feature asks for them)."""
    if not _PASTS:
        panel = Market(5, 1_500).panel()
        changed = []
        for bars in panel.bars:
            factor = np.ones(len(bars))
            factor[:_CHANGED] = np.random.default_rng(9).uniform(0.5, 2.0, _CHANGED)
            prices = {name: getattr(bars, name) * factor for name in COLUMNS[1:]}
            changed.append(replace(bars, **prices))
        first = min(int(bars.ts_init[0]) for bars in panel.bars)
        matrix = compute_features(panel, EVERYTHING)
        other = compute_features(replace(panel, bars=tuple(changed)), EVERYTHING)
        assert not np.array_equal(matrix.values, other.values)
        _PASTS.append((matrix, other, (matrix.ts_init - first) // panel.interval_ns))
    return _PASTS[0]


# ---------------------------------------------------------------------------------------------
# What the features are: a literal reference for each, and what must not matter to them.


def test_every_feature_matches_a_literal_reference() -> None:
    panel = Market(6, 1_400).panel()
    matrix = compute_features(panel, EVERYTHING)
    own = [reference(bars) for bars in panel.bars]
    for number in range(3):
        rows = (matrix.instrument == number) & matrix.valid
        expected = own[number].join(relations(panel, own, number))
        assert set(expected) == set(matrix.names)
        assert rows.sum() == 1_400 - 960
        for column, name in enumerate(matrix.names):
            # An EMA that was started 4 spans ago differs from an endless one by 0.03 %.
            tolerance = 5e-3 if name.startswith("ema") else 1e-7
            np.testing.assert_allclose(
                matrix.values[rows, column],
                expected[name].to_numpy()[-rows.sum() :],
                rtol=tolerance,
                atol=tolerance,
                err_msg=name,
            )


def test_features_do_not_know_the_unit_of_price_or_volume() -> None:
    panel = Market(7).panel()
    scaled = replace(
        panel,
        bars=tuple(
            replace(
                bars,
                open=bars.open * 7.0,
                high=bars.high * 7.0,
                low=bars.low * 7.0,
                close=bars.close * 7.0,
                volume=bars.volume * 1e-3,
            )
            for bars in panel.bars
        ),
    )
    one, other = compute_features(panel, EVERYTHING), compute_features(scaled, EVERYTHING)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-6, atol=1e-6)


def test_the_order_of_instruments_changes_nothing_but_their_codes() -> None:
    panel = Market(8, missing=0.05).panel()
    config = EVERYTHING.model_copy(update={"instrument_code": False})
    rows = batch_rows(compute_features(panel, config))
    turned = batch_rows(compute_features(replace(panel, bars=panel.bars[::-1]), config))
    assert rows.keys() == turned.keys()
    for key, row in rows.items():
        np.testing.assert_allclose(turned[key], row, rtol=1e-12, atol=1e-12)


def test_a_falling_market_is_the_mirror_of_a_rising_one() -> None:
    panel = Market(10).panel()
    mirrored = replace(
        panel,
        bars=tuple(
            replace(
                bars,
                open=1e4 / bars.open,
                high=1e4 / bars.low,
                low=1e4 / bars.high,
                close=1e4 / bars.close,
            )
            for bars in panel.bars
        ),
    )
    one, other = compute_features(panel, EVERYTHING), compute_features(mirrored, EVERYTHING)
    for column, name in enumerate(one.names):
        values, opposite = one.values[one.valid, column], other.values[one.valid, column]
        odd = any(part in name for part in ("return", "ema", "zscore", "body"))
        if odd and name != "volume_zscore":
            np.testing.assert_allclose(opposite, -values, rtol=1e-6, atol=1e-8, err_msg=name)
        elif name == "rsi_14":
            np.testing.assert_allclose(opposite, 1.0 - values, rtol=1e-6, atol=1e-8)
        elif name == "upper_wick":
            lower = other.values[one.valid, one.names.index("lower_wick")]
            np.testing.assert_allclose(lower, values, rtol=1e-6, atol=1e-8)


# ---------------------------------------------------------------------------------------------
# Edges: markets that stand still, gaps, missing instruments.


def test_a_market_that_stands_still_has_no_features_rather_than_infinite_ones() -> None:
    matrix = compute_features(Market(11, still=True).panel(), EVERYTHING)
    assert matrix.valid.any()
    assert not np.isinf(matrix.values).any()
    values = matrix.values[matrix.valid]
    assert np.isnan(values[:, matrix.names.index("return_1")]).all()
    assert np.isfinite(values[:, matrix.names.index("day_sine")]).all()


def test_moving_and_then_standing_still_leaves_nothing_behind() -> None:
    # Sums kept by subtraction would leave 1e-20 of volatility, and scaled returns of 1e8.
    panel = Market(12, 1_400).panel()
    bars = panel.bars[0]
    still = bars.close.copy()
    still[1_100:] = still[1_099]
    bars = replace(bars, close=still, open=still, high=still, low=still)
    matrix = compute_features(
        replace(panel, bars=(bars,), funding={}), FeatureConfig(funding=False)
    )
    column = matrix.names.index("volatility_20")
    assert matrix.values[1_118, column] > 0.0
    assert matrix.values[1_119, column] == 0.0
    assert np.isnan(matrix.values[1_200:, column]).all()
    assert not np.isinf(matrix.values).any()


def test_a_short_gap_is_carried_over_and_a_long_one_warms_up_again() -> None:
    panel = Market(13, 2_300).panel()
    own = FeatureConfig(funding=False)
    for missing, restarted in ((64 - 1, False), (64, True)):
        kept = np.ones(2_300, dtype=np.bool_)
        kept[1_000 : 1_000 + missing] = False
        bars = take(panel.bars[0], kept)
        matrix = compute_features(replace(panel, bars=(bars,), funding={}), own)
        after = matrix.valid[1_000:]
        assert after[-1]
        assert after[0] != restarted
        assert after.sum() == (2_300 - 1_000 - missing - (960 if restarted else 0))


def test_a_missing_bar_counts_as_one_without_trades() -> None:
    panel = Market(14).panel()
    bars = panel.bars[0]
    kept = np.ones(len(bars), dtype=np.bool_)
    kept[1_100:1_103] = False
    columns = {name: getattr(bars, name).copy() for name in COLUMNS[1:]}
    for name in ("open", "high", "low", "close"):
        columns[name][1_100:1_103] = bars.close[1_099]
    columns["volume"][1_100:1_103] = 0.0
    own = FeatureConfig(funding=False)
    left_out = compute_features(replace(panel, bars=(take(bars, kept),), funding={}), own)
    written = compute_features(replace(panel, bars=(replace(bars, **columns),), funding={}), own)
    np.testing.assert_array_equal(left_out.values, written.values[kept])


def test_others_are_unknown_until_they_have_history_and_after_they_stop() -> None:
    panel = Market(15).panel()
    bars = list(panel.bars)
    bars[0] = bars[0].between(int(bars[0].ts_init[1_000]), int(bars[0].ts_init[1_200]))
    matrix = compute_features(replace(panel, bars=tuple(bars)), EVERYTHING)
    lead = matrix.values[:, matrix.names.index("lead_return_1")]
    first_row = len(bars[0])
    known = np.isfinite(lead[first_row : first_row + 1_300])
    assert matrix.valid[first_row + 960 : first_row + 1_300].all()
    expected = np.zeros(1_300, dtype=np.bool_)
    expected[1_001 + 128 : 1_201 + 64] = True
    # Standing still for the 64 carried bars, it keeps the volatility of the bars before.
    np.testing.assert_array_equal(known, expected)


def test_rows_are_nan_and_invalid_during_warm_up() -> None:
    matrix = compute_features(Market(16, 1_000).panel(), EVERYTHING)
    for number in range(3):
        assert matrix.valid[matrix.instrument == number].tolist() == [False] * 960 + [True] * 40
    assert np.isnan(matrix.values[~matrix.valid]).all()


def test_a_panel_without_bars_has_no_rows() -> None:
    panel = Market(17, 100).panel()
    matrix = compute_features(panel.truncated(0), EVERYTHING)
    assert matrix.values.shape == (0, len(feature_table(EVERYTHING)))


# ---------------------------------------------------------------------------------------------
# Funding: as of ts_init.


def funded(panel: Panel, records: list[tuple[int, float]]) -> Panel:
    ts = np.array([slot for slot, _ in records], dtype=np.int64)
    rate = np.array([rate for _, rate in records])
    series = SeriesArrays(BTC, "fraction", ts, ts, rate)
    return replace(panel, bars=panel.bars[:1], funding={BTC: series})


def test_funding_counts_from_its_own_stamp_on_is_nan_before_and_expires() -> None:
    panel = Market(18).panel()
    ts_init = panel.bars[0].ts_init
    known_at = int(ts_init[1_000])
    matrix = compute_features(funded(panel, [(known_at, 2e-4)]), FeatureConfig())
    rate = matrix.values[:, matrix.names.index("funding_rate")]
    age = matrix.values[:, matrix.names.index("funding_age")]
    assert np.isnan(rate[:1_000]).all()
    assert rate[1_000:1_064] == pytest.approx(2.0)
    assert age[1_000] == 0.0
    assert age[1_032] == 1.0
    assert np.isnan(rate[1_064:]).all()  # 16 hours old
    assert matrix.valid[960:].all()


def test_the_last_of_two_rates_of_one_stamp_counts() -> None:
    panel = Market(19).panel()
    at = int(panel.bars[0].ts_init[1_000])
    matrix = compute_features(funded(panel, [(at, 1e-4), (at, 3e-4)]), FeatureConfig())
    assert matrix.values[1_000, matrix.names.index("funding_rate")] == pytest.approx(3.0)


def test_a_stream_does_not_use_a_rate_before_it_was_known_nor_an_older_one_after() -> None:
    panel = Market(20).panel()
    config = FeatureConfig()
    column = [feature.name for feature in feature_table(config)].index("funding_rate")
    stream = FeatureStream((BTC,), panel.interval_ns, config)
    rates = {}
    times = panel.bars[0].ts_init.tolist()
    for number, (ts_init, bars) in enumerate(bars_by_time(replace(panel, funding={})).items()):
        if number == 990:
            stream.update_funding(BTC, 5e-4, times[1_000])  # announced ahead of its time
            stream.update_funding(BTC, 1e-4, times[990])
        if number == 1_010:
            stream.update_funding(BTC, 9e-4, times[980])  # an old record, repeated by the feed
        row = stream.update(ts_init, {BTC: bars[BTC]}).get(BTC)
        if row is not None:
            rates[number] = round(float(row[column]), 9)
    assert np.isnan(rates[989])
    assert [rates[n] for n in (990, 999, 1_000, 1_010, 1_050)] == [1.0, 1.0, 5.0, 5.0, 5.0]


def test_absent_funding_is_refused_and_never_taken_as_zero() -> None:
    panel = replace(Market(21, 50).panel(), funding={})
    with pytest.raises(DataError, match=r"there is none for BTCUSDT-PERP.BINANCE, ETHUSDT"):
        compute_features(panel, FeatureConfig())
    compute_features(panel, FeatureConfig(funding=False))


@pytest.mark.parametrize("rate", [np.nan, np.inf])
def test_a_rate_that_is_no_number_is_refused(rate: float) -> None:
    panel = Market(22, 50).panel()
    at = int(panel.bars[0].ts_init[5])
    with pytest.raises(DataError, match=r"funding rate of BTCUSDT.* must be finite"):
        compute_features(funded(panel, [(at, rate)]), FeatureConfig())
    stream = FeatureStream(INSTRUMENTS, INTERVAL, FeatureConfig())
    with pytest.raises(DataError, match=r"funding rate of BTCUSDT.* must be finite"):
        stream.update_funding(BTC, rate, at)


# ---------------------------------------------------------------------------------------------
# The table, and what is refused.


def test_the_table_lists_the_columns_in_order_and_without_repetition() -> None:
    table = feature_table(EVERYTHING)
    names = [feature.name for feature in table]
    assert len(set(names)) == len(names)
    assert len(feature_table(FeatureConfig(funding=False, instrument_code=False))) == 27
    assert len(table) == 27 + 2 + 5 + 2 + 2 + 1
    assert {feature.role for feature in table} == {"observed", "known_ahead", "static"}
    for config in (EVERYTHING, FeatureConfig(funding=False, instrument_code=False)):
        # A caller who asks the table how much history is needed must get all of it.
        assert max(feature.warmup_bars for feature in feature_table(config)) == WARMUP_BARS
    for feature in table:
        assert feature.description
        assert feature.inputs
        assert feature.unit
        assert 0 <= feature.warmup_bars <= WARMUP_BARS


def test_the_hash_changes_with_the_features_and_is_stable() -> None:
    configs = [
        EVERYTHING,
        FeatureConfig(),
        FeatureConfig(funding=False),
        FeatureConfig(lead=BTC),
        FeatureConfig(lead=ETH),
        FeatureConfig(ratios=((BTC, ETH),)),
    ]
    hashes = [feature_table_hash(config) for config in configs]
    assert len(set(hashes)) == len(configs)
    assert hashes == [feature_table_hash(config) for config in configs]


@pytest.mark.parametrize(
    "config",
    [FeatureConfig(lead="XRP"), FeatureConfig(ratios=((BTC, "XRP"),))],
)
def test_an_instrument_that_is_not_there_cannot_be_a_feature(config: FeatureConfig) -> None:
    with pytest.raises(ConfigError, match=r"must be of one of BTCUSDT.*, was of XRP"):
        compute_features(Market(23, 50).panel(), config)
    with pytest.raises(ConfigError, match=r"must be of one of BTCUSDT.*, was of XRP"):
        FeatureStream(INSTRUMENTS, INTERVAL, config)


def test_senseless_ratios_are_refused() -> None:
    with pytest.raises(ValueError, match="must name two instruments"):
        FeatureConfig(ratios=((BTC, BTC),))
    with pytest.raises(ValueError, match="must be distinct pairs"):
        FeatureConfig(ratios=((BTC, ETH), (BTC, ETH)))


GOOD = Ohlcv(100.0, 101.0, 99.0, 100.5, 3.0)


@pytest.mark.parametrize(
    "bad",
    [
        GOOD._replace(low=0.0),
        GOOD._replace(low=-1.0),
        GOOD._replace(high=100.0),
        GOOD._replace(low=100.2),
        GOOD._replace(close=np.nan),
        GOOD._replace(high=np.inf),
        GOOD._replace(volume=-1.0),
        GOOD._replace(volume=np.nan),
    ],
)
def test_bars_that_are_not_sound_are_refused_by_both_drivers(bad: Ohlcv) -> None:
    stream = FeatureStream(INSTRUMENTS, INTERVAL, FeatureConfig())
    with pytest.raises(DataError, match=r"bar of ETHUSDT.* must have finite numbers"):
        stream.update(INTERVAL, {BTC: GOOD, ETH: bad})
    bars = tuple(
        BarArrays(name, INTERVAL, np.array([INTERVAL]), *(np.array([value]) for value in bar))
        for name, bar in ((BTC, GOOD), (ETH, bad))
    )
    with pytest.raises(DataError, match=r"bar of ETHUSDT.* must have finite numbers"):
        compute_features(Panel(INTERVAL, bars, {}, "", False), FeatureConfig(funding=False))


def test_a_refused_bar_leaves_the_stream_as_it_was() -> None:
    panel = Market(24, 1_000).panel()
    clean, disturbed = (FeatureStream(INSTRUMENTS, INTERVAL, FeatureConfig()) for _ in range(2))
    for number, (ts_init, bars) in enumerate(bars_by_time(panel).items()):
        if number % 50 == 7:
            with pytest.raises(DataError, match="must have finite numbers"):
                disturbed.update(ts_init, {**bars, SOL: GOOD._replace(low=-1.0)})
        expected, found = clean.update(ts_init, bars), disturbed.update(ts_init, bars)
        assert expected.keys() == found.keys()
        for name, row in expected.items():
            assert row.tobytes() == found[name].tobytes()


def test_a_stream_refuses_times_and_instruments_it_cannot_place() -> None:
    stream = FeatureStream((BTC,), INTERVAL, FeatureConfig())
    stream.update(10 * INTERVAL, {BTC: GOOD})
    with pytest.raises(DataError, match="must be later than the last one, 1970-01-01 02:30:00"):
        stream.update(10 * INTERVAL, {BTC: GOOD})
    with pytest.raises(DataError, match="must be a multiple of 15m"):
        stream.update(11 * INTERVAL - 1_000_000, {BTC: GOOD})
    with pytest.raises(DataError, match=r"bar must be of one of BTCUSDT.*, was of ETHUSDT"):
        stream.update(11 * INTERVAL, {ETH: GOOD})
    with pytest.raises(DataError, match=r"funding must be of one of BTCUSDT.*, was of ETHUSDT"):
        stream.update_funding(ETH, 1e-4, 11 * INTERVAL)


def test_rows_of_a_stream_are_the_callers_to_keep() -> None:
    rows = stream_rows(Market(25, 980).panel(), EVERYTHING)
    kept = [row.copy() for row in rows.values()]
    assert len({row.tobytes() for row in kept}) == len(kept)


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[str, int, int]] = []
    panel = Market(26, 100).panel()
    compute_features(panel, EVERYTHING, progress=lambda *state: told.append(state))
    assert told[-1] == ("features", 300, 300)


# ---------------------------------------------------------------------------------------------
# Real data.


@pytest.fixture(scope="module")
def real_panel(shared_data: Path) -> Panel:
    feather = pytest.importorskip("pyarrow.feather")
    bars, funding = [], {}
    for name in INSTRUMENTS:
        coin = name[:3]
        path = shared_data / "bars" / "perp" / f"{coin}_USDT_USDT-15m-futures.feather"
        frame = feather.read_table(path).slice(0, 6_000).to_pandas()
        ts_init = frame["date"].astype("datetime64[ns, UTC]").astype("int64") + INTERVAL
        columns = [frame[column].to_numpy(np.float64) for column in COLUMNS[1:]]
        bars.append(BarArrays(name, INTERVAL, ts_init.to_numpy(), *columns))
        path = shared_data / "funding" / f"{coin}_USDT_USDT-8h-funding_rate.feather"
        frame = feather.read_table(path).to_pandas()
        ts = frame["date"].astype("datetime64[ns, UTC]").astype("int64").to_numpy()
        series = SeriesArrays(name, "fraction", ts, ts, frame["open"].to_numpy(np.float64))
        funding[name] = series.between(int(bars[0].ts_init[0]), int(bars[0].ts_init[-1]))
    return Panel(INTERVAL, tuple(bars), funding, "shared data", False)


def test_real_bars_give_the_same_bits_in_batch_stream_and_plain_python(real_panel: Panel) -> None:
    everything = batch_rows(compute_features(real_panel, EVERYTHING))
    assert len(everything) == 3 * (6_000 - 960)
    assert_same_bits(stream_rows(real_panel, EVERYTHING), everything)
    part = since(real_panel, int(real_panel.bars[0].ts_init[4_321]))
    listened = stream_rows(part, EVERYTHING, compiled=False)
    assert len(listened) == 3 * (6_000 - 4_322 - 960)
    assert_same_bits(listened, everything)
    for key, row in everything.items():
        assert not np.isinf(row).any(), key

"""What features look at beside bars, from a real catalog on disk into a panel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters.importing import import_path
from catalog.errors import DataError
from catalog.instruments import bar_type
from catalog.records import Batch
from catalog.store import Catalog
from catalog.timestamps import NS_PER_HOUR, NS_PER_MINUTE, parse_time
from research.features import FeatureConfig, compute_features, feature_table, panel_needs
from research.groups import slow
from research.lookahead import audit_features
from research.panel import Panel, PanelNeeds, load_panel
from tests.research.markets import (
    BTC,
    ETH,
    INSTRUMENTS,
    ONCHAIN,
    SLOW,
    since,
    stream_rows,
)

DAY = 24 * NS_PER_HOUR
FIRST = parse_time("2023-01-01")
START, END = parse_time("2023-02-15"), parse_time("2023-02-18")
INTERVAL = 15 * NS_PER_MINUTE
EVERYTHING = FeatureConfig(
    onchain=ONCHAIN,
    dvol=("dvol.btc",),
    fear_greed="fear_greed",
    news=("wire", "paper"),
    funding_terms=True,
    flow=True,
    path=True,
)


def bars_of(series: str, step: int, first: int = FIRST) -> Batch:
    ts = np.arange(first + step, END + 1, step, dtype=np.int64)
    close = np.round(100.0 + np.sin(np.arange(len(ts))), 2)
    columns = {
        "ts_event": ts,
        "ts_init": ts,
        **dict.fromkeys(("open", "high", "low", "close"), close),
        "volume": np.ones(len(ts)),
    }
    return Batch("bars", series, columns, f"{series}.csv")


def onchain_of(first: int = FIRST, *, factor: float = 1.0, **fields: object) -> Batch:
    days = np.arange(first + DAY, END + 1, DAY, dtype=np.int64)
    ts = np.repeat(days, len(slow.METRICS))
    columns = {
        "ts_event": ts,
        "ts_init": ts + 12 * NS_PER_HOUR,
        "metric": np.array(list(slow.METRICS) * len(days), dtype=object),
        "value": factor * (2.0 + np.arange(len(ts)) % 7),
        "unit": np.array(["x"] * len(ts), dtype=object),
    }
    return Batch("onchain", ONCHAIN, columns, "onchain.csv", **fields)  # type: ignore[arg-type]


def index_of(series: str, step: int, end: int = END, first: int = FIRST) -> Batch:
    ts = np.arange(first, end + 1, step, dtype=np.int64)
    level = 40.0 + np.arange(len(ts)) % 11
    columns = {
        "ts_event": ts,
        "ts_init": ts,
        **dict.fromkeys(("open", "high", "low", "close"), level),
        "unit": np.array(["x"] * len(ts), dtype=object),
    }
    return Batch("index", series, columns, f"{series}.csv")


def news_of(series: str, first: int, headlines: tuple[str, ...]) -> Batch:
    ts = first + np.arange(len(headlines)) * 7 * NS_PER_HOUR
    columns = {
        "ts_event": ts,
        "ts_init": ts + NS_PER_MINUTE,
        "source": np.array([series] * len(ts), dtype=object),
        "asset": np.array(["btc"] * len(ts), dtype=object),
        "headline": np.array(headlines, dtype=object),
        "score": np.where(np.arange(len(ts)) % 3 == 0, np.nan, 0.25),
        "ts_published": ts,
    }
    return Batch("news", series, columns, f"{series}.csv")


def flow_of(series: str) -> Batch:
    ts = np.arange(FIRST + INTERVAL, END + 1, INTERVAL, dtype=np.int64)
    columns = {
        "ts_event": ts,
        "ts_init": ts,
        "quote_volume": np.full(len(ts), 100.0),
        "trade_count": np.arange(1, len(ts) + 1),
        "taker_buy_volume": np.full(len(ts), 0.25),
        "taker_buy_quote_volume": np.full(len(ts), 25.0),
    }
    return Batch("bar_flow", series, columns, f"{series}-flow.csv")


def batches() -> list[Batch]:
    funding = np.arange(FIRST, END + 1, 8 * NS_PER_HOUR, dtype=np.int64)
    rates = {"ts_event": funding, "ts_init": funding, "rate": np.full(len(funding), 1e-4)}
    words = tuple(f"headline number {n}" for n in range(170))
    return [
        bars_of(bar_type(BTC, "15m"), INTERVAL),
        bars_of(bar_type(BTC, "1m"), NS_PER_MINUTE, parse_time("2023-02-10")),
        flow_of(bar_type(BTC, "15m")),
        Batch("funding", BTC, rates, "funding.csv"),
        onchain_of(),
        index_of("dvol.btc", NS_PER_HOUR),
        index_of("fear_greed", DAY, end=START + DAY),
        news_of("wire", FIRST, words),
        news_of("paper", FIRST + NS_PER_HOUR, words),
    ]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    catalog = Catalog.open(tmp_path_factory.mktemp("series") / "catalog", create=True)
    assert not catalog.ingest(batches()).refused
    return catalog


def load(catalog: Catalog, config: FeatureConfig, **changes: int) -> Panel:
    span = {"start": START, "end": END} | changes
    needs = panel_needs(config)
    return load_panel(catalog, [BTC], "15m", span["start"], span["end"], needs=needs)


def test_a_panel_holds_what_features_look_at_with_its_history(stored: Catalog) -> None:
    panel = load(stored, EVERYTHING)
    assert set(panel.series) == set(panel_needs(EVERYTHING).series)
    for name, events in panel.series.items():
        assert events.ts_init[0] <= START - 34 * DAY, name
        assert events.ts_init[-1] <= END
    assert panel.funding[BTC].ts_init[0] <= START - 3 * DAY
    assert panel.minutes[BTC].ts_init[0] == panel.bars[0].ts_init[0] - 14 * NS_PER_MINUTE
    assert len(panel.flow[BTC]) == len(panel.bars[0])
    assert panel.series["index.fear_greed"].ts_init[-1] == START + DAY  # ends early, is taken
    matrix = compute_features(panel, EVERYTHING)
    assert matrix.names == tuple(feature.name for feature in feature_table(EVERYTHING))


def test_nothing_is_loaded_that_is_not_asked_for(stored: Catalog) -> None:
    panel = load(stored, FeatureConfig())
    assert not panel.series
    assert not panel.flow
    assert not panel.minutes
    assert panel.funding
    bare = load_panel(stored, [BTC], "15m", START, END)
    assert not bare.funding


def test_novelty_is_that_of_all_sources_together(stored: Catalog) -> None:
    panel = load(stored, EVERYTHING)
    wire, paper = panel.series["news.wire"], panel.series["news.paper"]
    assert wire.extra is not None
    assert paper.extra is not None
    # An hour later the paper tells what the wire told, in the same words.
    assert (paper.extra[1:] == 0.0).all()
    assert (wire.extra > 0.0).all()
    assert np.isnan(wire.value).any()
    only = load(stored, EVERYTHING.model_copy(update={"news": ("paper",)}))
    assert (only.series["news.paper"].extra > 0.0).all()  # type: ignore[operator]


def test_the_data_hash_knows_everything_that_was_read(stored: Catalog) -> None:
    configs = [
        FeatureConfig(),
        FeatureConfig(onchain=ONCHAIN),
        FeatureConfig(dvol=("dvol.btc",)),
        FeatureConfig(fear_greed="fear_greed"),
        FeatureConfig(news=("wire",)),
        FeatureConfig(flow=True),
        FeatureConfig(path=True),
        FeatureConfig(funding_terms=True),
    ]
    hashes = [load(stored, config).data_hash for config in configs]
    assert len(set(hashes)) == len(configs)
    assert hashes == [load(stored, config).data_hash for config in configs]


def test_restated_values_do_not_leak(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "catalog", create=True)
    assert not catalog.ingest([bars_of(bar_type(BTC, "15m"), INTERVAL), onchain_of()]).refused
    config = FeatureConfig(onchain=ONCHAIN, funding=False)
    before = load(catalog, config)
    # The download of a later day restates every value and holds days that the first did not.
    known_at = parse_time("2023-02-17")
    restated = onchain_of(FIRST - 5 * DAY, factor=3.0, vintage="2023-02", known_at=known_at)
    assert not catalog.ingest([restated]).refused
    after = load(catalog, config)
    assert after.data_hash != before.data_hash  # five days more, known since the download
    ahead = known_at - 1
    one, other = (compute_features(panel.truncated(ahead), config) for panel in (before, after))
    np.testing.assert_array_equal(one.values, other.values)
    for name, events in after.series.items():
        old = before.series[name]
        kept = np.isin(events.ts_init, old.ts_init)
        np.testing.assert_array_equal(events.value[kept], old.value)
        assert (events.ts_init[~kept] >= known_at).all()


@pytest.mark.parametrize(
    ("config", "span", "message"),
    [
        (FeatureConfig(onchain="coinmetrics.eth"), {}, r"onchain series must be one .*\(coinmet"),
        (
            FeatureConfig(dvol=("dvol.eth",)),
            {},
            r"index .* in the catalog \(dvol.btc, fear_greed\)",
        ),
        (FeatureConfig(news=("blog",)), {}, r"was blog; .*take it out of features.news"),
        (
            FeatureConfig(fear_greed="fear_greed"),
            {"start": START + 2 * DAY},
            r"fear_greed must reach into the span .* ends 2023-02-16",
        ),
        (
            FeatureConfig(path=True),
            {"start": parse_time("2023-02-01")},
            r"1-minute bars of BTC.* are there from 2023-02-10 .*features.path: false",
        ),
    ],
)
def test_what_does_not_reach_the_span_is_an_error(
    stored: Catalog, config: FeatureConfig, span: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(stored, config, **span)


def test_a_series_that_begins_after_the_span_is_an_error(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "catalog", create=True)
    bars = bars_of(bar_type(BTC, "15m"), INTERVAL)
    assert not catalog.ingest([bars, index_of("dvol.btc", NS_PER_HOUR, first=START + DAY)]).refused
    with pytest.raises(DataError, match=r"dvol.btc must begin no later than the span, 2023-02-15"):
        load(catalog, FeatureConfig(dvol=("dvol.btc",), funding=False))
    with pytest.raises(DataError, match=r"order flow of BTC.* are not there; import"):
        load(catalog, FeatureConfig(flow=True, funding=False))


def test_an_onchain_series_without_a_metric_is_an_error(stored: Catalog) -> None:
    needs = PanelNeeds(onchain=((ONCHAIN, ("HashRate",)),))
    with pytest.raises(DataError, match=r"must have the metric HashRate .* has AdrActCnt, Cap"):
        load_panel(stored, [BTC], "15m", START, END, needs=needs)


def levels(series: str, unit: str, values: list[float]) -> Batch:
    """Return an index of some levels, one a day, up to the end of the span."""
    batch = index_of(series, DAY, first=END - (len(values) - 1) * DAY)
    count = len(batch.columns["ts_event"])
    level = np.array(values)
    changed = dict.fromkeys(("open", "high", "low", "close"), level)
    columns = {**batch.columns, **changed, "unit": np.array([unit] * count, dtype=object)}
    return replace(batch, columns=columns)


@pytest.mark.parametrize(
    ("value", "config", "message"),
    [
        (
            56.25,
            FeatureConfig(fear_greed="some"),
            r"whole points from 0 to 100 .* was 56.25 points",
        ),
        (101.0, FeatureConfig(fear_greed="some"), r"whole points from 0 to 100 .* was 101 points"),
        (-1.0, FeatureConfig(fear_greed="some"), r"whole points from 0 to 100 .* was -1 points"),
        (0.0, FeatureConfig(dvol=("some",)), r"above 0 for features.dvol, was 0 points"),
        (0.0, FeatureConfig(fear_greed="some"), ""),
        (100.0, FeatureConfig(fear_greed="some"), ""),
        (56.25, FeatureConfig(dvol=("some",)), ""),
        (166.9, FeatureConfig(dvol=("some",)), ""),
    ],
)
def test_an_index_of_another_kind_is_refused(
    tmp_path: Path, value: float, config: FeatureConfig, message: str
) -> None:
    catalog = Catalog.open(tmp_path / "catalog", create=True)
    days = [50.0] * 5 + [value] + [50.0] * 4
    bars = bars_of(bar_type(BTC, "15m"), INTERVAL)
    assert not catalog.ingest([bars, levels("some", "points", days)]).refused
    wanted = config.model_copy(update={"funding": False})
    if not message:
        load(catalog, wanted)
        return
    with pytest.raises(DataError, match=f"index some must be {message}"):
        load(catalog, wanted)


@pytest.mark.parametrize(("late_days", "told"), [(2, False), (5, True)])
def test_a_series_that_ends_within_the_span_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, late_days: int, told: bool
) -> None:
    catalog = Catalog.open(tmp_path / "catalog", create=True)
    bars = bars_of(bar_type(BTC, "15m"), INTERVAL)
    ends = END - late_days * DAY
    assert not catalog.ingest([bars, index_of("fear_greed", DAY, end=ends)]).refused
    load(catalog, FeatureConfig(fear_greed="fear_greed", funding=False), start=ends - 2 * DAY)
    assert bool(caplog.records) == told
    if told:
        assert "index series fear_greed ends" in caplog.text
        assert "and predictions flat unless staleness.flat_bars says otherwise" in caplog.text


# ---------------------------------------------------------------------------------------------
# The shared data, over 2023.


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Panel:
    folder = tmp_path_factory.mktemp("real") / "catalog"
    for part in (
        *("bars/perp", "funding", "volatility"),
        *("onchain/coinmetrics_btc.csv", "onchain/fear_greed_daily.csv"),
        "news/bitcoin_news_2021_2023.csv",
    ):
        assert import_path(shared_data / part, Catalog.open(folder, create=True)).ok
    return load_panel(
        Catalog.open(folder),
        INSTRUMENTS,
        "15m",
        parse_time("2023-01-15"),
        parse_time("2024-01-01"),
        needs=panel_needs(REAL),
        warmup_bars=1_024,
    )


REAL = SLOW.model_copy(
    update={
        **dict.fromkeys(("smc", "cross", "regime"), True),
        "timeframes": ("1h", "4h"),
        "lead": BTC,
        "ratios": ((ETH, BTC),),
        "news": ("bitcoin_news_2021_2023",),
    }
)


@pytest.mark.slow
def test_slow_series_over_a_real_year(real: Panel) -> None:
    matrix = compute_features(real, REAL)
    rows = matrix.valid & (matrix.ts_init <= parse_time("2023-12-19"))
    shares = np.isfinite(matrix.values[rows]).mean(axis=0)
    scarce = {"onchain_netflow_zscore": 0.9}
    for name, share in zip(matrix.names, shares, strict=True):
        if name.startswith(("onchain", "dvol", "fear", "news", "funding")):
            assert share > scarce.get(name, 0.95), (name, share)
    assert not np.isinf(matrix.values[rows]).any()
    # The news end on 2023-12-19: three days later nothing is known of them but how old they are.
    late = matrix.ts_init > parse_time("2023-12-23")
    assert np.isnan(matrix.values[late, matrix.names.index("news_count")]).all()
    assert np.isfinite(matrix.values[late, matrix.names.index("news_age")]).all()
    fear = matrix.values[rows, matrix.names.index("fear_greed_level")]
    assert 0.0 <= np.nanmin(fear) < np.nanmax(fear) <= 1.0


@pytest.mark.slow
def test_a_stream_over_a_real_quarter_equals_the_batch(real: Panel) -> None:
    everything = compute_features(real, REAL)
    expected = {
        (everything.instruments[code], int(ts)): everything.values[row]
        for row, (code, ts) in enumerate(
            zip(everything.instrument, everything.ts_init, strict=True)
        )
    }
    part = since(real, parse_time("2023-09-01")).truncated(parse_time("2023-12-01"))
    for compiled in (True, False):
        found = stream_rows(part, REAL, compiled=compiled)
        assert len(found) > 3 * 7_000
        for key, row in found.items():
            assert row.tobytes() == expected[key].tobytes(), key


@pytest.mark.slow
def test_nothing_looks_ahead_over_a_real_quarter(real: Panel) -> None:
    part = since(real, parse_time("2023-09-01")).truncated(parse_time("2023-11-01"))
    assert audit_features(part, REAL) == []

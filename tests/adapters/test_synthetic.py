"""The synthetic market: deterministic, consistent, lifelike, and honest about its edge."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chi2, kurtosis
from sklearn.metrics import roc_auc_score

from adapters.synthetic import (
    FUNDING_INTERVAL_NS,
    ONCHAIN_DELAY_NS,
    SCORING_DELAY_NS,
    SyntheticConfig,
    generate,
    oracle_series,
)
from adapters.synthetic_market import Asset, Clock, simulate
from catalog.errors import ConfigError
from catalog.instruments import bar_type, instrument
from catalog.records import COLUMNS, Batch
from catalog.timestamps import NS_PER_DAY, NS_PER_MINUTE, parse_time

type Table = dict[tuple[str, str], Batch]

DEFAULT = SyntheticConfig()
BTC, ETH, SOL = DEFAULT.instruments


def table(config: SyntheticConfig) -> Table:
    return {(batch.kind, batch.series): batch for batch in generate(config)}


def bars(batches: Table, name: str, column: str, interval: str = "15m") -> np.ndarray:
    return batches["bars", bar_type(name, interval)].columns[column]


def oracle(batches: Table, name: str) -> np.ndarray:
    return batches["index", oracle_series(name)].columns["close"]


def outcomes(batches: Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Probability at each close and whether the next close was higher, unchanged ones left out."""
    close = bars(batches, name, "close")
    moved = np.diff(close) != 0.0
    return oracle(batches, name)[:-1][moved], (np.diff(close) > 0.0)[moved]


def same(left: Batch, right: Batch, rows: slice = slice(None)) -> bool:
    def column(batch: Batch, name: str) -> np.ndarray:
        return np.asarray(batch.columns[name])[rows]

    return all(
        np.array_equal(column(left, name), column(right, name), equal_nan=name == "score")
        for name in left.columns
    )


@pytest.fixture(scope="module")
def market() -> Table:
    return table(DEFAULT)


@pytest.fixture(scope="module")
def fair_market() -> Table:
    return table(SyntheticConfig(edge=0.0))


# -- what is delivered ----------------------------------------------------------------------------


def test_every_instrument_has_every_series_and_all_of_them_are_marked(market: Table) -> None:
    assert set(market) == {
        pair
        for name, asset in ((BTC, "btc"), (ETH, "eth"), (SOL, "sol"))
        for pair in (
            ("bars", bar_type(name, "15m")),
            ("index", oracle_series(name)),
            ("funding", name),
            ("onchain", f"synthetic.{asset}"),
            ("news", f"synthetic_news.{asset}"),
        )
    }
    assert all(batch.synthetic for batch in market.values())
    assert oracle_series(BTC) == "oracle.BTCUSDT-PERP"


def test_batches_have_the_columns_and_times_that_the_catalog_asks_for(market: Table) -> None:
    end = int(bars(market, BTC, "ts_init")[-1])
    for batch in market.values():
        wanted = {"ts_event", "ts_init", *(column.name for column in COLUMNS[batch.kind])}
        assert set(batch.columns) == wanted
        assert len({len(column) for column in batch.columns.values()}) == 1
        assert len(batch) > 100
        ts_event, ts_init = batch.columns["ts_event"], batch.columns["ts_init"]
        assert ts_event.dtype == ts_init.dtype == np.int64
        assert (ts_event <= ts_init).all()
        assert (np.diff(ts_init) >= 0).all()
        assert (ts_init > parse_time(DEFAULT.start))[1 if batch.kind == "funding" else 0 :].all()
        assert ts_init[-1] <= end
        for column in COLUMNS[batch.kind]:
            if column.dtype == "float" and not column.nan_allowed:
                assert np.isfinite(batch.columns[column.name]).all()


def test_bars_cover_the_span_without_gaps(market: Table) -> None:
    ts = bars(market, ETH, "ts_init")
    start = parse_time("2024-01-01")
    assert ts[0] == start + 15 * NS_PER_MINUTE
    assert ts[-1] == start + 182 * NS_PER_DAY
    assert (np.diff(ts) == 15 * NS_PER_MINUTE).all()


@pytest.mark.parametrize("gap_frac", [0.0, 0.4])
@pytest.mark.parametrize("interval", ["1m", "1h", "1d"])
def test_prices_are_consistent_and_on_the_tick_grid(interval: str, gap_frac: float) -> None:
    days = 2 if interval == "1m" else 90
    batches = table(SyntheticConfig(interval=interval, days=days, gap_frac=gap_frac, seed=3))
    for name in DEFAULT.instruments:
        columns = {key: bars(batches, name, key, interval) for key in ("open", "high", "low")}
        close = bars(batches, name, "close", interval)
        assert (columns["high"] >= np.maximum(columns["open"], close)).all()
        assert (columns["low"] <= np.minimum(columns["open"], close)).all()
        assert columns["low"].min() > 0.0
        definition = instrument(name)
        precision = definition.price_precision
        for values in (*columns.values(), close):
            assert np.array_equal(values, np.round(values, precision))
        volume = bars(batches, name, "volume", interval)
        assert np.array_equal(volume, np.round(volume, definition.size_precision))
        assert volume.min() > 0.0


def test_gaps_open_on_the_way_to_the_close_and_change_nothing_else(market: Table) -> None:
    gapped = table(SyntheticConfig(gap_frac=0.3))
    before, opens = bars(gapped, BTC, "close")[:-1], bars(gapped, BTC, "open")[1:]
    jumped = opens != before
    assert 0.25 < jumped.mean() < 0.3
    after = bars(gapped, BTC, "close")[1:]
    assert ((opens - before) * (after - opens))[jumped].min() >= 0.0
    assert np.array_equal(bars(gapped, BTC, "close"), bars(market, BTC, "close"))
    assert np.array_equal(oracle(gapped, BTC), oracle(market, BTC))
    whole = bars(market, BTC, "open")[1:]
    assert np.array_equal(whole, bars(market, BTC, "close")[:-1])


# -- determinism ----------------------------------------------------------------------------------


def test_the_same_settings_give_the_same_market(market: Table) -> None:
    again = table(SyntheticConfig())
    assert market.keys() == again.keys()
    assert all(same(market[key], again[key]) for key in market)


def test_another_seed_gives_another_market(market: Table) -> None:
    other = table(SyntheticConfig(seed=8))
    moves = [np.diff(np.log(bars(found, BTC, "close"))) for found in (market, other)]
    assert abs(np.corrcoef(*moves)[0, 1]) < 0.05


def test_a_longer_market_begins_with_the_shorter_one(market: Table) -> None:
    short = table(SyntheticConfig(days=40))
    for kind, series in short:
        if kind in {"bars", "index", "funding"}:
            rows = slice(0, len(short[kind, series]))
            assert same(short[kind, series], market[kind, series], rows), (kind, series)


def test_end_and_days_say_the_same() -> None:
    by_end, by_days = (
        table(SyntheticConfig(**span)) for span in ({"end": "2024-01-11"}, {"days": 10})
    )
    assert all(same(by_end[key], by_days[key]) for key in by_end)


# -- the edge -------------------------------------------------------------------------------------


def test_without_an_edge_every_probability_is_one_half_to_the_last_bit(fair_market: Table) -> None:
    for name in DEFAULT.instruments:
        assert set(oracle(fair_market, name).tolist()) == {0.5}


def test_without_an_edge_signs_are_fair_and_independent_of_what_was_seen(
    fair_market: Table,
) -> None:
    for name in DEFAULT.instruments:
        move = np.diff(np.log(bars(fair_market, name, "close")))
        lead = np.diff(np.log(bars(fair_market, BTC, "close")))
        volume = bars(fair_market, name, "volume")[1:]
        sign, n = np.sign(move), len(move)
        assert abs(sign.mean()) < 4.0 / np.sqrt(n)
        for seen in (sign, move, np.sign(lead), np.abs(move), np.log(volume)):
            for lag in (1, 2, 16):
                correlation = np.corrcoef(sign[lag:], seen[:-lag])[0, 1]
                assert abs(correlation) < 4.0 / np.sqrt(n), (name, lag)


def test_the_default_edge_gives_an_oracle_like_the_best_that_real_bars_allow() -> None:
    pooled = []
    for seed in (1, 2, 3):
        batches = table(SyntheticConfig(seed=seed, news_per_day=0.0))
        found = [outcomes(batches, name) for name in DEFAULT.instruments]
        probability, up = (np.concatenate(parts) for parts in zip(*found, strict=True))
        pooled.append(roc_auc_score(up, probability))
    assert 0.56 < np.mean(pooled) < 0.58
    assert max(pooled) - min(pooled) < 0.015


def test_a_larger_edge_is_more_predictable() -> None:
    aucs = []
    for edge in (0.5, 1.0, 2.0):
        batches = table(SyntheticConfig(edge=edge, days=90))
        probability, up = outcomes(batches, ETH)
        aucs.append(roc_auc_score(up, probability))
    assert aucs == sorted(aucs)
    assert aucs[-1] > aucs[0] + 0.03


@pytest.mark.parametrize("edge", [1.0, 3.0])
def test_the_oracle_is_calibrated(edge: float) -> None:
    batches = table(SyntheticConfig(edge=edge, days=365, seed=11, news_per_day=0.0))
    for name in DEFAULT.instruments:
        probability, up = outcomes(batches, name)
        bins = np.array_split(np.argsort(probability), 20)
        score = sum(
            (up[rows].sum() - probability[rows].sum()) ** 2
            / (probability[rows] * (1.0 - probability[rows])).sum()
            for rows in bins
        )
        assert score < chi2.ppf(0.9999, 20), name


def test_the_oracle_knows_a_coarse_tick() -> None:
    """A price of a few hundred ticks often stands still, which must not bias the oracle."""
    coarse = Asset(price=1.0, annual_volatility=0.8, daily_volume=1e6, tick=0.005, step=1.0)
    clock = Clock(parse_time("2024-01-01"), 15 * NS_PER_MINUTE, 96 * 200)
    market = simulate((coarse, coarse), clock, edge=1.0, gap_frac=0.0, seed=5)
    for number in range(2):
        move = np.diff(market.close[:, number])
        moved = move != 0.0
        assert 0.2 < moved.mean() < 0.8
        probability, up = market.probability_up[:-1, number][moved], (move > 0.0)[moved]
        spread = np.sqrt((probability * (1.0 - probability)).sum())
        assert abs(up.sum() - probability.sum()) < 4.0 * spread
        assert roc_auc_score(up, probability) > 0.55
    fair = simulate((coarse, coarse), clock, edge=0.0, gap_frac=0.0, seed=5)
    assert set(fair.probability_up.ravel().tolist()) == {0.5}


def test_the_edge_can_be_seen_in_what_features_are_made_of(market: Table) -> None:
    """A linear fit on the last returns in units of volatility finds much of the oracle's logit."""
    for name in (ETH, SOL):
        columns = []
        for other in (name, BTC):
            move = np.diff(np.log(bars(market, other, "close")))
            scale = np.sqrt(np.convolve(move**2, np.ones(20) / 20.0)[19 : len(move)])
            columns.append(np.tanh(move[19:] / scale))
        close = bars(market, name, "close")[20:]
        average = np.convolve(bars(market, name, "close"), np.ones(20) / 20.0)[20 : len(close) + 20]
        columns.append(close / average - 1.0)
        seen = np.stack([*columns, np.ones(len(close))], axis=1)
        target = oracle(market, name)[20:]
        fitted = seen @ np.linalg.lstsq(seen, target, rcond=None)[0]
        assert np.corrcoef(fitted, target)[0, 1] > 0.85


# -- stylised facts -------------------------------------------------------------------------------


def test_returns_have_fat_tails_clustered_volatility_and_no_plain_autocorrelation(
    fair_market: Table,
) -> None:
    for name in DEFAULT.instruments:
        move = np.diff(np.log(bars(fair_market, name, "close")))
        assert kurtosis(move, fisher=False) > 5.0
        size = np.abs(move)
        assert np.corrcoef(size[1:], size[:-1])[0, 1] > 0.15
        assert np.corrcoef(size[96:], size[:-96])[0, 1] > 0.05
        assert abs(np.corrcoef(move[1:], move[:-1])[0, 1]) < 0.04


def test_assets_move_together_and_volume_follows_volatility(market: Table) -> None:
    moves = np.array([np.diff(np.log(bars(market, name, "close"))) for name in DEFAULT.instruments])
    correlation = np.corrcoef(moves)
    assert correlation[np.triu_indices(3, 1)].min() > 0.6
    assert correlation[np.triu_indices(3, 1)].max() < 0.8
    for row, name in enumerate(DEFAULT.instruments):
        volume = np.log(bars(market, name, "volume")[1:])
        assert np.corrcoef(volume, np.abs(moves[row]))[0, 1] > 0.3


def test_the_afternoon_is_wilder_than_the_night_and_weekends_are_calm(market: Table) -> None:
    ts, close = bars(market, BTC, "ts_init")[1:], bars(market, BTC, "close")
    size = np.abs(np.diff(np.log(close)))
    hour = (ts - 1) % NS_PER_DAY // (60 * NS_PER_MINUTE)
    weekend = ((ts - 1) // NS_PER_DAY + 3) % 7 >= 5
    assert size[(hour >= 13) & (hour < 16)].mean() > 1.5 * size[(hour >= 1) & (hour < 4)].mean()
    assert size[weekend].mean() < 0.85 * size[~weekend].mean()


# -- slow series ----------------------------------------------------------------------------------


def test_funding_is_paid_at_settlements_and_follows_the_trend(market: Table) -> None:
    batch = market["funding", BTC]
    ts, rate = batch.columns["ts_init"], batch.columns["rate"]
    assert (ts % FUNDING_INTERVAL_NS == 0).all()
    assert len(ts) == 1 + 182 * 3
    assert ts[0] == parse_time(DEFAULT.start)
    assert np.abs(rate).max() <= 0.0075
    assert 0.0 < np.median(rate) < 0.0003
    close = bars(market, BTC, "close")
    row = np.searchsorted(bars(market, BTC, "ts_init"), ts)
    day = np.log(close[row[4:]] / close[row[4:] - 96])
    assert np.corrcoef(day, rate[4:])[0, 1] > 0.7


def test_a_day_of_metrics_is_known_after_its_end(market: Table) -> None:
    columns = market["onchain", "synthetic.btc"].columns
    assert (columns["ts_event"] % NS_PER_DAY == 0).all()
    assert set((columns["ts_init"] - columns["ts_event"]).tolist()) == {ONCHAIN_DELAY_NS}
    assert set(columns["metric"]) == {
        "AdrActCnt", "TxTfrCnt", "FlowInExUSD", "FlowOutExUSD", "CapMVRVCur",
    }  # fmt: skip
    assert (columns["value"] > 0.0).all()


def test_headlines_are_scored_after_publication_and_speak_of_the_past(market: Table) -> None:
    columns = market["news", "synthetic_news.eth"].columns
    assert np.array_equal(columns["ts_published"] + SCORING_DELAY_NS, columns["ts_init"])
    score = columns["score"]
    assert 0.0 < np.isnan(score).mean() < 0.1
    assert np.nanmax(np.abs(score)) <= 1.0
    ts, close = bars(market, ETH, "ts_init"), np.log(bars(market, ETH, "close"))
    row = np.searchsorted(ts, columns["ts_published"], side="right") - 1
    inside = (row >= 96) & (row + 96 < len(ts)) & ~np.isnan(score)
    row, score = row[inside], score[inside]
    assert np.corrcoef(close[row] - close[row - 96], score)[0, 1] > 0.7
    assert len(set(columns["headline"])) > 50


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": "7m"}, "interval must be one of .* was '7m'"),
        ({"end": "2024-02-01", "days": 3}, "end and days must not both be given"),
        ({"end": "2023-12-31"}, "end must be after start='2024-01-01', was '2023-12-31'"),
        ({"start": "2024-01-01 00:07"}, "start must lie on the grid of 15m bars"),
        ({"days": 10**9}, "days\n.*less than or equal to 3650"),
        ({"days": 3650, "interval": "1m"}, "at most 3,000,000 bars, was 15,768,000 of 1m for 3"),
        ({"end": "2099-01-01", "interval": "1m"}, "at most 3,000,000 bars"),
        ({"instruments": ()}, "instruments must name at least one"),
        ({"instruments": (BTC, BTC)}, "instruments must differ"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=message):
        SyntheticConfig.model_validate(settings)


def test_an_unknown_instrument_is_refused() -> None:
    with pytest.raises(ConfigError, match="NOSUCHUSDT-PERP"):
        list(generate(SyntheticConfig(instruments=("NOSUCHUSDT-PERP.BINANCE",), days=1)))


def test_one_instrument_alone_has_an_edge_too() -> None:
    batches = table(SyntheticConfig(instruments=(SOL,), days=60))
    probability, up = outcomes(batches, SOL)
    assert roc_auc_score(up, probability) > 0.54

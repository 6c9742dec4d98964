"""Commands with every slow input: what a bundle decides bar by bar is what it decides in batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.synthetic import SyntheticConfig, generate, oracle_series
from catalog.errors import DataError
from catalog.instruments import bar_type
from catalog.records import Batch
from catalog.store import Catalog
from catalog.timestamps import NS_PER_HOUR, parse_time
from live import pipeline
from live.audit import audit_parity
from live.pipeline import BacktestSource, evaluate_bundle, run_backtest_command, train_bundle
from live.profile import Profile, load_profile
from research.bundle import load_bundle
from research.features import compute_features
from tests.live.quick_page import quick_page

BTC = "BTCUSDT-PERP.BINANCE"
BARS = bar_type(BTC, "15m")
UNTIL, FROM, TO = "2024-01-26", parse_time("2024-01-26"), parse_time("2024-01-28")
OVERRIDES = (
    f"data.instruments=[{BTC}]",
    # The first day's metrics are known six hours after its end.
    "data.start=2024-01-03",
    "data.end=2024-01-29",
    f"features.lead={BTC}",
    "features.ratios=[]",
    "features.peers=false",
    "features.flow=true",
    "features.path=true",
    "features.onchain=synthetic.btc",
    "features.dvol=[dvol.btc]",
    "features.fear_greed=fear_greed",
    "features.news=[synthetic_news.btc]",
    "features.funding_terms=true",
    "features.regime=true",
    "experts.lightgbm.n_trees=12",
    "experts.sentiment={}",
    "experts.heuristic={}",
    "fusion.method=log_pool",
    "validation.n_folds=1",
    f"validation.test_start={UNTIL}",
    "bootstrap.samples=0",
    "strategy.entry_threshold=0.51",
)


@pytest.fixture(scope="module", autouse=True)
def _quick_page() -> Iterator[None]:
    with quick_page():
        yield


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A market made of 1-minute bars, with everything that a feature can look at."""
    config = SyntheticConfig(instruments=(BTC,), interval="1m", days=28, edge=5.0)
    folder = tmp_path_factory.mktemp("inputs") / "catalog"
    made = list(generate(config))
    store = Catalog.open(folder, create=True)
    report = store.ingest([*made, *_derived(made)])
    assert not report.refused
    return folder


def _derived(made: list[Batch]) -> Iterator[Batch]:
    """Yield bars of 15 minutes with their order flow, and two indices."""
    minutes = next(one for one in made if one.kind == "bars")
    rows = {name: column.reshape(-1, 15) for name, column in minutes.columns.items()}
    stamps = {"ts_event": rows["ts_init"][:, -1], "ts_init": rows["ts_init"][:, -1]}
    volume = np.round(rows["volume"].sum(axis=1), 3)
    bars = stamps | {
        "open": rows["open"][:, 0],
        "high": rows["high"].max(axis=1),
        "low": rows["low"].min(axis=1),
        "close": rows["close"][:, -1],
        "volume": volume,
    }
    yield replace(minutes, series=BARS, columns=bars)
    random = np.random.default_rng(11)
    share, quote = random.beta(5.0, 5.0, len(volume)), volume * rows["close"][:, -1]
    flow = stamps | {
        "quote_volume": quote,
        "trade_count": random.poisson(300.0, len(volume)),
        "taker_buy_volume": share * volume,
        "taker_buy_quote_volume": share * quote,
    }
    yield replace(minutes, kind="bar_flow", series=BARS, columns=flow)
    level = next(one for one in made if one.series == oracle_series(BTC))
    for series, hours, decimals in (("dvol.btc", 1, 2), ("fear_greed", 24, 0)):
        kept = level.columns["ts_init"] % (hours * NS_PER_HOUR) == 0
        columns: dict[str, Any] = {name: column[kept] for name, column in level.columns.items()}
        columns |= {
            name: np.round(100.0 * columns[name], decimals)
            for name in ("open", "high", "low", "close")
        }
        yield replace(level, series=series, columns=columns)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("synthetic", OVERRIDES)


@pytest.fixture(scope="module")
def bundle(catalog: Path, profile: Profile) -> Path:
    folder = catalog.parent / "bundle"
    train_bundle(profile, catalog, UNTIL, folder)
    return folder


def online(profile: Profile, catalog: Path, bundle: Path, out: Path) -> Path:
    source = BacktestSource(bundle=bundle, start=FROM, end=TO)
    return run_backtest_command(profile, catalog, out, source).folder


def test_every_input_has_values_where_it_is_tested(
    catalog: Path, profile: Profile, bundle: Path
) -> None:
    model = load_bundle(bundle).model
    assert len(model.spec.series) > 4
    assert model.spec.uses_flow
    assert model.spec.uses_minutes
    panel = pipeline.load_market(profile, catalog).panel
    matrix = compute_features(panel, profile.features)
    tested = matrix.values[(matrix.ts_init > FROM) & (matrix.ts_init <= TO)]
    for place, name in enumerate(matrix.names):
        assert np.isfinite(tested[:, place]).any(), name


@pytest.mark.slow
def test_a_bundle_decides_bar_by_bar_what_it_decides_in_batch(
    catalog: Path, profile: Profile, bundle: Path, tmp_path: Path
) -> None:
    batch = evaluate_bundle(bundle, catalog, tmp_path / "batch", (FROM, TO)).folder
    stream = online(profile, catalog, bundle, tmp_path / "stream")
    for table in ("decisions", "orders", "fills", "equity"):
        name = f"{table}.parquet"
        assert (stream / name).read_bytes() == (batch / name).read_bytes(), table


@pytest.mark.parametrize("part", ["series", "flow", "minutes"])
def test_a_replay_without_its_slow_inputs_is_refused(
    catalog: Path,
    profile: Profile,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    honest = pipeline.slow_inputs

    def lacking(panel: Any, after: int) -> Any:
        return replace(honest(panel, after), **{part: {}})

    monkeypatch.setattr(pipeline, "slow_inputs", lacking)
    with pytest.raises(DataError, match="that the predictor asks for must be among the inputs"):
        online(profile, catalog, bundle, tmp_path / "run")


def test_the_live_node_decides_as_the_backtest(catalog: Path, profile: Profile) -> None:
    report = audit_parity(profile, catalog, span=(FROM, TO))
    assert report.identical, str(report)
    assert report.tolerance == 0.0
    assert report.compared["fills"] > 0

"""What is promised of the shipped profiles, on the real data that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.importing import import_path
from catalog.store import Catalog
from catalog.timestamps import parse_time
from live.audit import audit_lookahead, audit_parity
from live.pipeline import load_market
from live.profile import load_profile
from research.walkforward import walk_forward

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def catalog(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "catalog"
    for part in ("bars/perp", "funding"):
        assert import_path(shared_data / part, Catalog.open(folder, create=True)).ok
    return folder


def test_the_reference_profile_predicts_as_well_as_promised(catalog: Path) -> None:
    # A half-year in two folds; `make bench` and the README run all six.
    span = ["validation.test_end=2024-07-01", "validation.n_folds=2", "bootstrap.samples=0"]
    profile = load_profile("perps-15m", span)
    panel = load_market(profile, catalog).panel
    result = walk_forward(panel, profile.walk_forward_config())
    assert len(result.folds) == 2
    assert len(result.predictions) == 3 * 182 * 96
    assert 0.545 <= result.metrics["auc"].value <= 0.60  # above, look for the leak
    assert result.metrics["ece"].value <= 0.015
    assert result.metrics["accuracy_at_10pct"].value > 0.577
    assert result.metrics["log_loss_skill"].value > 0.0024


def test_nothing_looks_ahead_in_the_reference_profile(catalog: Path) -> None:
    # Every expert is audited in test_real_experts; here it is the profile's features and rows.
    span = ["data.end=2023-07-01", "validation.test_start=2023-05-01", "validation.n_folds=2"]
    profile = load_profile("perps-15m", [*span, "experts.lstm=null"])
    report = audit_lookahead(profile, catalog, cuts=1)
    assert report.violations == []


BOLDER = (
    # As it is, the profile finds nothing worth its costs in most fortnights.
    "strategy.entry_threshold=0.56",
    "strategy.edge_margin_bps=null",
    "strategy.sizing={method: fixed, fixed_frac: 0.1}",
)


def test_the_trading_profile_decides_alike_in_backtest_and_live_node(catalog: Path) -> None:
    span = (parse_time("2025-04-15"), parse_time("2025-05-01"))
    report = audit_parity(load_profile("perps-swing", BOLDER), catalog, span=span)
    assert report.identical, str(report)
    assert report.compared["predictions"] == 3 * 16 * 96
    assert report.compared["fills"] > 0


EVERY_RULE = (
    "features.regime=true",
    "strategy.entry_threshold=swept",
    "thresholds.cost_bps=1",
    "strategy.regime_shift=0.02",
    "strategy.hysteresis=0.02",
    "strategy.cooldown_bars=8",
    "strategy.edge_margin_bps=0",
    "strategy.stops={stop_vol_multiple: 2, target_vol_multiple: 3, min_frac: 0.006}",
    "strategy.stops.trailing=true",
    "strategy.rebalance={drift_frac: 0.01}",
    "strategy.sizing={method: kelly, fraction: 1.0, max_position: 0.2, shrink_by_interval: false}",
    # Narrow limits and low costs, so that something is traded and the guard has something to say.
    "strategy.risk={max_daily_loss: 0.003, max_drawdown: 0.2, max_symbol_share: 0.1, sizing: {}}",
    "execution.fee_tier=explicit",
    "execution.taker_fee_bps=1",
    "execution.maker_fee_bps=1",
    "execution.impact_bps=5",
)


def test_every_rule_of_policy_sizing_and_guard_decides_alike_in_backtest_and_live_node(
    catalog: Path,
) -> None:
    span = (parse_time("2025-04-01"), parse_time("2025-05-01"))
    report = audit_parity(load_profile("perps-swing", EVERY_RULE), catalog, span=span)
    assert report.identical, str(report)
    assert report.compared["predictions"] == 3 * 30 * 96
    assert report.compared["fills"] > 50
    assert report.compared["guard"] > 0

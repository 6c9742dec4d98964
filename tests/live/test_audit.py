"""The fold part of the look-ahead audit must be able to fail: leaks are planted in the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from adapters.synthetic import SyntheticConfig
from catalog.errors import AuditFailedError, ConfigError
from catalog.timestamps import parse_time
from live import audit
from live.audit import audit_lookahead, audit_parity
from live.cli import app
from live.profile import Profile, load_profile
from live.synthesis import make_market
from research import fitted
from research.predictor import PrecomputedPredictions
from research.splits import ValidationConfig

SMALL = (
    "data.end=2024-02-25",
    "validation.test_start=2024-02-05",
    "validation.n_folds=2",
    "validation.embargo_bars=0",
    "label.horizon_bars=16",
    "experts.lightgbm.n_trees=10",
    "strategy.entry_threshold=0.505",
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "catalog"
    make_market(folder, SyntheticConfig(days=60))
    return folder


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("synthetic", SMALL)


def found(profile: Profile, catalog: Path) -> set[str]:
    return {violation.name for violation in audit_lookahead(profile, catalog, cuts=1).violations}


def test_the_honest_pipeline_passes(profile: Profile, catalog: Path) -> None:
    report = audit_lookahead(profile, catalog, cuts=1)
    assert not report.violations
    assert set(report.audited) == {"features", "label", "predictions, decisions"}
    assert "nothing looks ahead" in str(report)


@pytest.mark.slow
def test_a_fold_that_is_not_purged_is_found_and_fails_the_command(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_purged(
        ts_init: Any, ts_end: Any, config: ValidationConfig, interval_ns: int, until: int
    ) -> Any:
        return ts_init <= until

    for module in ("research.training", "research.splits"):
        monkeypatch.setattr(f"{module}.training_rows", not_purged)
    overrides = [f"--set={override}" for override in SMALL]
    command = ["audit", "lookahead", "-p", "synthetic", *overrides, "-c", str(catalog)]
    done = CliRunner().invoke(app, [*command, "--cuts", "1"])
    assert done.exit_code == AuditFailedError.exit_code
    assert "raw_prob looks ahead" in done.output


@pytest.mark.slow
def test_a_calibration_fitted_on_the_tested_block_is_found(
    profile: Profile, catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = fitted.predict_rows

    def peeking(table: Any, rows: Any, model: Any, fold: int) -> Any:
        frame = honest(table, rows, model, fold)
        known = frame["label"].dropna()  # of the tested block itself
        ups = known.mean() if len(known) else 0.5
        return frame.assign(prob_up=np.clip(frame["prob_up"] + ups - 0.5, 0.01, 0.99))

    monkeypatch.setattr("research.fold_runs.predict_rows", peeking)
    assert "prob_up" in found(profile, catalog)


@pytest.mark.slow
def test_a_size_scaled_by_the_tested_blocks_volatility_is_found(
    profile: Profile, catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = audit._FirstFold.replay

    def scaled(self: Any, panel: Any, frame: Any) -> Any:
        closes = panel.bars[0].between(self.profile.validation.test_start, None).close
        volatility = float(np.std(np.diff(np.log(closes)))) if len(closes) > 1 else 0.0
        policy = self.profile.strategy.model_copy(
            update={"position_frac": 0.2 / (1.0 + 10.0 * volatility)}
        )
        changed = self.profile.model_copy(update={"strategy": policy})
        return honest(audit.replace(self, profile=changed), panel, frame)

    monkeypatch.setattr(audit._FirstFold, "replay", scaled)
    assert "target_weight" in found(profile, catalog)


@pytest.mark.slow
def test_a_strategy_that_sees_the_next_prediction_is_found(
    profile: Profile, catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = PrecomputedPredictions.from_frame.__func__  # type: ignore[attr-defined]

    def early(cls: type, frame: Any, spec: Any) -> Any:
        attributes = frame.attrs
        shifted = frame.groupby("instrument_id", observed=True)["prob_up"].shift(-1)
        frame = frame.assign(prob_up=shifted.fillna(0.5))
        frame.attrs = attributes
        return honest(cls, frame, spec)

    monkeypatch.setattr(PrecomputedPredictions, "from_frame", classmethod(early))
    assert found(profile, catalog) & {"side", "target_weight", "reason", "quantity"}


@pytest.mark.slow
def test_a_fold_that_orders_nothing_proves_nothing(profile: Profile, catalog: Path) -> None:
    timid = load_profile("synthetic", [*SMALL, "strategy.entry_threshold=0.99"])
    with pytest.raises(AuditFailedError, match="must decide an order"):
        audit_lookahead(timid, catalog, cuts=1)
    span = (parse_time("2024-02-15"), parse_time("2024-02-25"))
    with pytest.raises(AuditFailedError, match="something is traded"):
        audit_parity(timid, catalog, span=span)


def test_without_a_cut_there_is_no_audit(profile: Profile, catalog: Path) -> None:
    with pytest.raises(ConfigError, match="--cuts must be at least 1"):
        audit_lookahead(profile, catalog, cuts=0)


def test_parity_outside_the_data_is_refused(profile: Profile, catalog: Path) -> None:
    span = (parse_time("2023-01-01"), None)
    with pytest.raises(ConfigError, match="must lie within the profile's data"):
        audit_parity(profile, catalog, span=span)

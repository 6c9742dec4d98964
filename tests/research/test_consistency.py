"""Configurations whose parts cannot work together are refused before any data is read."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.errors import ConfigError
from catalog.timestamps import interval_ns
from research.consistency import faults_of, require_consistent
from research.feature_layout import Layout
from research.features import FeatureConfig
from research.fusion import FIRST_WEIGHTS
from research.labels import LabelConfig
from research.models.registry import ExpertsConfig
from research.settings import WalkForwardConfig
from research.splits import ValidationConfig

BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"
QUARTER = interval_ns("15m")
LIGHTGBM: dict[str, Any] = {"lightgbm": {}}
TWO: dict[str, Any] = {"lightgbm": {}, "lstm": {}}


def configured(**changes: Any) -> WalkForwardConfig:
    parts = {
        "features": {"funding": False},
        "label": {"horizon_bars": 1},
        "validation": {"n_folds": 2, "test_start": "2024-02-01"},
        **changes,
    }
    return WalkForwardConfig.model_validate(parts)


def faults(instruments: tuple[str, ...] = (BTC, ETH), **changes: Any) -> tuple[str, ...]:
    return faults_of(configured(**changes), instruments, QUARTER)


def test_a_plain_configuration_has_no_fault() -> None:
    assert faults() == ()
    assert faults((BTC,)) == ()
    require_consistent(configured(), (BTC,), QUARTER)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"features": {"lead": "XRP"}},
            f"features.lead must be of one of {BTC}, {ETH}, was of XRP",
        ),
        ({"features": {"ratios": [[BTC, "XRP"]]}}, "features.ratios must be of one of"),
        ({"features": {"lead": "XRP", "cross": True}}, "features.lead must be of one of"),
        (
            {"features": {"timeframes": ["5m", "1h"]}},
            "features.timeframes must be multiples of the base bar (15m), were given 5m",
        ),
        ({"label": {"kind": "meta", "horizon_bars": 4}}, "label.kind must be forward_sign,"),
        ({"experts": {"lightgbm": None}}, "experts must hold at least one of"),
        (
            {"experts": {"sentiment": {}}},
            "experts.sentiment must have the features news_score, there are none",
        ),
        (
            {"staleness": {"flat_bars": {"news": 10}}},
            "staleness.flat_bars must name inputs with an age among the features (there are none)",
        ),
        (
            {"experts": TWO, "fusion": {"fixed_weights": {"lightgbm": 1, "lstmm": 1}}},
            "fusion.fixed_weights must name experts that are fused (lightgbm, lstm), named lstmm",
        ),
        (
            {
                "experts": {"lightgbm": {}, "heuristic": {}},
                "fusion": {"fixed_weights": {"heuristic": 1}},
            },
            "fusion.fixed_weights must name experts that are fused (lightgbm), named heuristic",
        ),
        (
            {"experts": {"lightgbm": None, "lstm": {}}, "fusion": {"method": "fixed"}},
            "fusion.fixed_weights must give one of the fused experts (lstm) a weight",
        ),
        (
            {"experts": TWO, "fusion": {"method": "regime"}},
            "fusion.method must be another than regime without features.regime",
        ),
        *(
            (
                {"features": {"regime": True}, "fusion": {"method": method}},
                "fusion.method must be auto where there is one expert to fuse (lightgbm), was "
                f"{method}",
            )
            for method in ("log_pool", "stacking", "regime")
        ),
    ],
)
def test_what_cannot_work_together_is_named(changes: dict[str, Any], text: str) -> None:
    (fault,) = faults(**changes)
    assert fault.startswith(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"features": {"lead": BTC, "cross": True, "peers": True, "ratios": [[BTC, ETH]]}},
        {"features": {"timeframes": ["1h", "4h"]}},
        {"features": {"news": ["wire"]}, "experts": {"sentiment": {}}},
        {"features": {"news": ["wire"]}, "staleness": {"flat_bars": {"news": 10}}},
        {"experts": TWO, "fusion": {"fixed_weights": {"lightgbm": 1, "lstm": 2}}},
        {"experts": TWO, "fusion": {"fixed_weights": FIRST_WEIGHTS}},
        {"features": {"regime": True}, "experts": TWO, "fusion": {"method": "regime"}},
        {"fusion": {"method": "equal"}},
        {"fusion": {"method": "fixed"}},
    ],
)
def test_what_can_work_together_is_not_refused(changes: dict[str, Any]) -> None:
    assert faults(**changes) == ()


def test_peers_of_one_instrument_alone_are_refused_by_the_layout() -> None:
    (fault,) = faults((BTC,), features={"peers": True})
    assert fault.startswith(
        f"features.peers must have other instruments to look at, was true for {BTC}"
    )
    with pytest.raises(ConfigError, match=r"features\.peers must have other instruments"):
        Layout.of((BTC,), QUARTER, FeatureConfig(peers=True))
    Layout.of((BTC, ETH), QUARTER, FeatureConfig(peers=True))


def test_all_faults_are_named_at_once() -> None:
    features = {"lead": "XRP", "timeframes": ["5m", "1m", "1h"], "peers": True}
    config = configured(
        features=features,
        label={"kind": "meta", "horizon_bars": 1},
        experts={"sentiment": {}},
        staleness={"flat_bars": {"news": 1}},
    )
    with pytest.raises(ConfigError) as caught:
        require_consistent(config, (BTC,), QUARTER)
    lines = str(caught.value).splitlines()
    keys = [line.split()[0] for line in lines]
    assert keys == [
        "features.lead",
        "features.peers",
        "features.timeframes",
        "features.timeframes",
        "label.kind",
        "experts.sentiment",
        "staleness.flat_bars",
    ]


def test_more_timeframes_than_fit_are_refused_as_a_whole() -> None:
    every = ["30m", "1h", "2h", "4h", "6h", "8h", "12h"]
    found = faults(features={"timeframes": every})
    assert found
    assert all(fault.startswith("features.timeframes must be at most") for fault in found)


def test_settings_alone_are_accepted_as_parts() -> None:
    config = WalkForwardConfig(
        label=LabelConfig(horizon_bars=1),
        experts=ExpertsConfig(),
        validation=ValidationConfig(n_folds=1, test_start="2024-01-01"),
    )
    assert faults_of(config, (BTC,), QUARTER) == ()

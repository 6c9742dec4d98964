"""Settings for tests: of the execution, with every key that a profile must state; of a policy."""

from __future__ import annotations

from typing import Any

import yaml

from strategies.execution import ExecutionConfig
from strategies.fees import EXPLICIT
from strategies.policy_config import FusionPolicy
from strategies.stops import StopConfig

PLAIN: dict[str, Any] = {
    "fee_tier": EXPLICIT,
    "maker_fee_bps": 2.0,
    "taker_fee_bps": 5.0,
    "latency_ms": 50,
    "latency_slippage_bps": 0.0,
    "slippage_bps": 0.0,
    "impact_bps": 0.0,
    "impact_cap_bps": 0.0,
    "max_participation": None,
    "funding": "none",
    "starting_balance": 100_000.0,
    "leverage": 10.0,
    "liquidation": False,
    "order_style": "market",
    "limit_offset_bps": 0.0,
    "limit_timeout_bars": 1,
    "post_only": False,
}
"""Every key, with values that leave a fill what a test can work out by hand."""


def plain_execution(**changes: Any) -> ExecutionConfig:
    """Return plain settings with changes."""
    return ExecutionConfig(**{**PLAIN, **changes})


def execution_yaml(**changes: Any) -> str:
    """Return plain settings with changes as a part of a profile."""
    return yaml.safe_dump({"execution": {**PLAIN, **changes}}, sort_keys=False)


def trailing_policy(**changes: Any) -> FusionPolicy:
    """Return rules that trade much, with stops that follow and targets, with changes."""
    stops = StopConfig(
        stop_vol_multiple=1.0,
        target_vol_multiple=1.5,
        min_frac=0.004,
        max_frac=0.004,
        trailing=True,
    )
    fields = {"entry_threshold": 0.6, "exit_threshold": 0.5, "position_frac": 0.3}
    return FusionPolicy(**{**fields, "min_holding_bars": 0, "stops": stops, **changes})

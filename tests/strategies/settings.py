"""Execution settings for tests: one place that knows every key that a profile must state."""

from __future__ import annotations

from typing import Any

import yaml

from strategies.execution import ExecutionConfig
from strategies.fees import EXPLICIT

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

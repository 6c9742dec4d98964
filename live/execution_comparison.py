"""The same predictions traded with market orders, with limits, and with limits that only rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.progress import Progress, no_progress
from live.profile import Profile
from live.variant_runs import Comparison, Page, VariantRequest, VariantRun, compare_variants
from research.estimates import Estimate
from strategies.execution import ExecutionConfig
from strategies.execution_quality import ExecutionRow, execution_quality

OFFSET_BPS = 2.0
"""Offset of the limits where the profile itself has none."""
TIMEOUT_BARS = 2
"""Time-out of the limits where the profile itself has none."""
_MEASURES = {
    "net_return": "net return",
    "net_sharpe": "Sharpe",
    "max_drawdown": "max drawdown",
    "turnover": "turnover a year",
    "cost_share": "costs / gross",
    "trades": "trades",
}
_COSTS = ("fee_bps", "slippage_bps", "shortfall_bps")
PAGE = Page(
    "execution",
    "Order styles",
    "Costs are of the orders that decisions sent, in basis points of the value traded: fee; "
    "slippage against the open, or the limit of what rested; and implementation shortfall against "
    "the close on which a trade was first decided. Filled at a limit is the share of limit orders "
    "of which anything filled, made the share of the value traded that rested.",
    (
        *("orders", *_MEASURES.values()),
        *("fee bp", "slippage bp", "shortfall bp", "filled at a limit", "made"),
    ),
)


@dataclass(frozen=True, slots=True)
class OrderStyleRow:
    """One order style: its name, measures, and what each sort of order cost."""

    name: str
    measures: Mapping[str, Estimate]
    execution: tuple[ExecutionRow, ...]

    @classmethod
    def of(cls, run: VariantRun) -> OrderStyleRow:
        """Return what is kept of a replay."""
        return cls(run.name, run.measures, execution_quality(run.outcome, run.bars))

    def to_json(self) -> dict[str, Any]:
        """Return the row for programs."""
        return {
            "name": self.name,
            "measures": {name: one.as_dict() for name, one in self.measures.items()},
            "execution": [one.to_json() for one in self.execution],
        }

    def cells(self) -> list[str]:
        """Return the row for people."""
        by_style = {one.style: one for one in self.execution}
        whole, limits = by_style.get("all decisions"), by_style.get("limit")
        costs = [math.nan if whole is None else getattr(whole, name) for name in _COSTS]
        filled = math.nan if limits is None else 1.0 - limits.missed_frac
        made = math.nan if whole is None else whole.maker_frac
        measured = (self.measures[name] for name in _MEASURES)
        return [
            self.name,
            *("" if math.isnan(one.value) else str(one) for one in measured),
            *("" if math.isnan(cost) else f"{cost:.2f}" for cost in costs),
            *("" if math.isnan(share) else f"{100.0 * share:.0f} %" for share in (filled, made)),
        ]


def order_styles(execution: ExecutionConfig) -> dict[str, ExecutionConfig]:
    """Return a profile's execution in each order style.

    Offset and time-out are the profile's own where it has limits, `OFFSET_BPS` and `TIMEOUT_BARS`
    otherwise.
    """
    offset, timeout = execution.limit_offset_bps, execution.limit_timeout_bars
    if not execution.uses_limits:
        offset, timeout = OFFSET_BPS, TIMEOUT_BARS
    market = {"order_style": "market", "limit_offset_bps": 0.0, "limit_timeout_bars": 1}
    limit = {"order_style": "limit", "limit_offset_bps": offset, "limit_timeout_bars": timeout}
    told = f"limit {offset:g} bp, {timeout} bars"
    styles = {
        "market": {**market, "post_only": False},
        told: {**limit, "post_only": False},
        f"{told}, post-only": {**limit, "post_only": True},
    }
    return {
        name: ExecutionConfig.model_validate({**execution.model_dump(), **changes})
        for name, changes in styles.items()
    }


def compare_execution(
    profile: Profile,
    catalog: Path,
    predictions: Path,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Comparison[OrderStyleRow]:
    """Replay a run's predictions in every order style, and write the table.

    Parameters
    ----------
    profile : Profile
        Strategy and execution; its question must be the one that the predictions answer.
    catalog : Path
        Data.
    predictions : Path
        Run whose out-of-sample predictions are traded.
    out : Path
        Folder to write: ``execution.json``, ``execution.md``, ``profile.yaml``.
    overwrite : bool
        Whether `out` may exist.
    progress : Progress
        Told of the stages ``execution`` and ``replay``.

    Raises
    ------
    ConfigError, DataError, IntegrityError, RunFailedError
        As `run_backtest_command`.
    """

    def variants(interval_ns: int) -> dict[str, Profile]:
        styles = order_styles(profile.execution)
        return {name: profile.model_copy(update={"execution": own}) for name, own in styles.items()}

    request = VariantRequest("execution", profile, catalog, predictions, variants)
    return compare_variants(request, OrderStyleRow.of, PAGE, (out, overwrite), progress)

"""From a run's frames to what the critic reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from catalog.arrays import BarArrays, Float64Array, SeriesArrays
from catalog.timestamps import interval_ns
from live.profile import Profile
from research.benchmarks import HoldingCosts, buy_and_hold
from research.critic import criticise
from research.critic_case import Case
from research.critic_evidence import ParameterSweep, tail_gap, threshold_sweep
from research.performance import DailyEquity, daily_equity
from research.shuffled_signal import shuffled_trades
from strategies.execution import ExecutionConfig

if TYPE_CHECKING:
    import pandas as pd

    from live.report import RunResult


def criticisms(
    run: RunResult, metrics: Mapping[str, Any], benchmarks: Mapping[str, pd.DataFrame]
) -> list[dict[str, Any]]:
    """Return what a sceptic would say about a run, the gravest first, for JSON.

    Parameters
    ----------
    run : RunResult
        The run.
    metrics : mapping
        As metrics.json, as far as it is known: see `research.critic_case.Case`.
    benchmarks : mapping of str to DataFrame
        ts_init and equity of what the strategy is held against, by name.
    """
    case = Case(
        metrics=metrics,
        horizon_ns=horizon_ns(run.profile),
        tail=tail_gap(run.predictions.frame, run.profile.bootstrap),
        daily=_daily(run, run.outcome.equity),
        benchmarks={name: _daily(run, frame) for name, frame in benchmarks.items()},
        shuffled=shuffled_trades(run.outcome.positions, run.bars, seed=run.profile.bootstrap.seed),
        sweeps=_sweeps(run),
    )
    return [one.as_dict() for one in criticise(case)]


class HoldingTerms(Protocol):
    """What of an execution's settings decides what buying and holding costs."""

    @property
    def starting_balance(self) -> float:
        """Equity at the start, USDT."""

    @property
    def taker_fee_bps(self) -> float:
        """Fee of a market order, basis points."""

    @property
    def base_slippage_bps(self) -> float:
        """Slippage of a small market order, basis points."""

    @property
    def funding(self) -> str:
        """``recorded`` where settlements are booked."""


def benchmarks_of(run: RunResult) -> dict[str, pd.DataFrame]:
    """Return ts_init and equity of what a run is held against, by name: buying and holding."""
    return held_against(run.profile.execution, run.bars, run.funding, start=run.start, end=run.end)


def held_against(
    execution: HoldingTerms,
    bars: Sequence[BarArrays],
    funding: Mapping[str, SeriesArrays],
    *,
    start: int,
    end: int,
) -> dict[str, pd.DataFrame]:
    """Return the same for any bars, over ``(start, end]``."""
    costs = HoldingCosts(
        starting_balance=execution.starting_balance,
        fee_bps=execution.taker_fee_bps,
        slippage_bps=execution.base_slippage_bps,
    )
    booked = funding if execution.funding == "recorded" else {}
    return {"buy and hold": buy_and_hold(bars, booked, costs, start=start, end=end)}


def critic_lines(found: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Return the objections as lines to print; nothing for a run older than the critic."""
    if found is None:
        return []
    if not found:
        return ["", "critic: no objection found"]
    return ["", "critic:", *(f"  {one['severity']}: {one['text']}" for one in found)]


def horizon_ns(profile: Profile) -> int:
    """Return how far ahead a profile's predictions look, nanoseconds."""
    return profile.label.horizon_bars * interval_ns(profile.data.interval)


def round_trip_bps(execution: ExecutionConfig) -> float:
    """Return what a round trip by market orders costs, basis points, without impact."""
    return 2.0 * (execution.taker_fee_bps + execution.base_slippage_bps)


def _daily(run: RunResult, equity: pd.DataFrame) -> DailyEquity:
    balance = run.profile.execution.starting_balance
    return daily_equity(equity, start=run.start, end=run.end, starting_balance=balance)


def _sweeps(run: RunResult) -> tuple[ParameterSweep, ...]:
    """Return what moving the entry threshold would have done, where one was used."""
    frame = run.predictions.frame
    threshold = _thresholds(run.profile, frame)
    cost = round_trip_bps(run.profile.execution)
    found = threshold_sweep(frame, threshold, horizon_ns(run.profile), cost)
    return () if found is None else (found,)


def _thresholds(profile: Profile, frame: pd.DataFrame) -> Float64Array:
    """Return the entry threshold in use at each row, NaN where nothing may be entered."""
    entry = profile.strategy.entry_threshold
    if not isinstance(entry, str):
        return np.full(len(frame), entry)
    if "entry_threshold" not in frame:
        return np.full(len(frame), np.nan)
    return frame["entry_threshold"].to_numpy(dtype=np.float64)

"""One replay of stored predictions, as a piece of work that another process can do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import DataError
from live.kept_jobs import Job, Result
from live.pipeline import Market, load_market
from live.runs import code_version, keep_large_blocks_apart, peak_memory_mb, release_memory
from research.code_identity import code_parts
from research.performance import (
    DailyEquity,
    OutcomeFrames,
    TradingSpan,
    daily_equity,
    max_drawdown,
    net_return,
    sharpe_rows,
)
from research.predictions import PrecomputedPredictions, read_predictions

if TYPE_CHECKING:
    from live.profile import Profile
    from research.prediction_types import PredictorSpec
    from strategies.policy_config import FusionPolicy


@dataclass(frozen=True, slots=True)
class Replayed:
    """Predictions in a file and the market that they are replayed on.

    Parameters
    ----------
    profile : Profile
        Data and execution.
    catalog : Path
        Data.
    predictions : Path
        File of stamped predictions.
    digest : str
        Hash of what the file says: predictions of one hash have the same replay.
    spec : PredictorSpec
        The question that they answer.
    data_hash : str
        Of the panel.
    start, end : int
        The replayed span ``(start, end]``, UTC nanoseconds.
    """

    profile: Profile
    catalog: Path
    predictions: Path
    digest: str
    spec: PredictorSpec
    data_hash: str
    start: int
    end: int

    def job(self, policy: FusionPolicy) -> Job:
        """Return the replay of a policy."""
        question = {
            "work": "replay",
            "predictions": self.digest,
            "data": self.data_hash,
            "span": [self.start, self.end],
            "policy": policy.model_dump(mode="json"),
            "execution": self.profile.execution.model_dump(mode="json"),
            **code_identity(self.profile),
        }
        return Job(question, replay, (self, policy))


def code_identity(profile: Profile) -> dict[str, str]:
    """Return what names the code and the libraries that decide a profile's results."""
    return {
        "code": code_version(),
        "libraries": code_parts(profile.walk_forward_config())["libraries"],
    }


def replay(request: tuple[Replayed, FusionPolicy]) -> Result:
    """Replay predictions with a policy and return what it earned.

    Returns
    -------
    dict
        ``returns`` by day, the numbers of `earned`, ``seconds`` and ``peak_memory_mb``.
    """
    from strategies.backtest import run_backtest

    keep_large_blocks_apart()
    started = time.perf_counter()
    source, policy = request
    market = market_of(source)
    frame = read_predictions(source.predictions, source.spec, source.data_hash)
    outcome = run_backtest(
        market.replay_inputs(source.start, source.end, len(frame)),
        PrecomputedPredictions.from_frame(frame, source.spec),
        policy,
        source.profile.execution,
    )
    balance = source.profile.execution.starting_balance
    found = earned(outcome, start=source.start, end=source.end, starting_balance=balance)
    del frame, outcome
    release_memory()
    spent = round(time.perf_counter() - started, 3)
    return {**found, "seconds": spent, "peak_memory_mb": peak_memory_mb()}


def earned(
    outcome: OutcomeFrames, *, start: int, end: int, starting_balance: float
) -> dict[str, object]:
    """Return daily returns of a replay and its headline.

    Returns
    -------
    dict
        returns
            Simple, net of all costs, (n_days,).
        net_return, max_drawdown
            Fractions.
        net_sharpe, gross_sharpe
            Annual, after all costs and before fees and slippage. 0 where nothing ever varied:
            who never trades earns what doing nothing does.
        trades
            Positions taken.
    """
    daily = daily_equity(outcome.equity, start=start, end=end, starting_balance=starting_balance)
    span = TradingSpan.cut(outcome, start=start, end=end, starting_balance=starting_balance)
    fills = span.frames.fills
    costs = span.daily_sum(fills, "ts_event", "commission")
    costs = costs + span.daily_sum(fills, "ts_event", "slippage_cost")
    return {
        "returns": daily.returns.tolist(),
        "net_return": net_return(daily),
        "max_drawdown": max_drawdown(daily.equity),
        "net_sharpe": _annual(_steps(daily, np.zeros(len(costs)))),
        "gross_sharpe": _annual(_steps(daily, costs)),
        "trades": len(span.frames.positions),
    }


def _steps(daily: DailyEquity, costs: Float64Array) -> Float64Array:
    """Return daily results with costs given back, as fractions of the equity of the morning.

    Of the first equity where it was used up on the way: fractions of nothing have no mean.
    """
    base = np.full(len(costs), daily.equity[0]) if daily.ruined else daily.equity[:-1]
    return np.asarray((np.diff(daily.equity) + costs) / base)


def _annual(returns: Float64Array) -> float:
    if len(returns) < 2 or returns.max() == returns.min():
        return 0.0
    return float(sharpe_rows(returns[None, :])[0])


_loaded: dict[str, Market] = {}


def market_of(source: Replayed) -> Market:
    """Return a market, which a process reads once for all replays that follow one another.

    Raises
    ------
    DataError
        If the catalog holds other data than the replay is asked of: its result is kept under the
        hash of those.
    """
    key = f"{source.profile.content_hash()} {source.catalog} {source.data_hash}"
    if key not in _loaded:
        _loaded.clear()
        market = load_market(source.profile, source.catalog)
        found = market.panel.data_hash
        if found != source.data_hash:
            raise DataError(
                f"catalog {source.catalog} must hold the data that a replay is asked of "
                f"({source.data_hash[:16]}), holds others ({found[:16]}): it was changed since; "
                "run the command again"
            )
        _loaded[key] = market
    return _loaded[key]

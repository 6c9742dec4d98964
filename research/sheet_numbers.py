"""The numbers behind a tearsheet's pictures and tables, computed before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.timestamps import NS_PER_HOUR
from research.estimates import Estimate
from research.market_view import ShuffledBand
from research.performance import (
    OutcomeFrames,
    TradingSpan,
    block_bootstrap_rows,
    estimate_of,
    sharpe,
    sharpe_rows,
)
from research.report import Curve, GroupRow, trade_groups
from research.trading_details import trade_results

if TYPE_CHECKING:
    import pandas as pd

SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Shares of the rows, the most confident first, whose accuracy is drawn."""


def cumulated_costs(frames: OutcomeFrames, ts: Int64Array, start: int) -> Float64Array:
    """Return fees and slippage less funding paid after `start` up to each time, (n,), USDT."""
    fills, booked = frames.fills, frames.funding
    paid = _cumulated(fills, fills["commission"] + fills["slippage_cost"], ts, start)
    return paid - _cumulated(booked, booked["payment"], ts, start)


def _cumulated(
    frame: pd.DataFrame, values: pd.Series[float], ts: Int64Array, start: int
) -> Float64Array:
    when = frame["ts_event"].to_numpy(dtype=np.int64)
    order = np.argsort(when, kind="stable")
    total = np.append(0.0, np.cumsum(values.to_numpy(dtype=np.float64)[order]))
    before = total[np.searchsorted(when[order], start, side="right")]
    found: Float64Array = total[np.searchsorted(when[order], ts, side="right")] - before
    return found


def gross_curve(net: Curve, frames: OutcomeFrames, balance: float) -> Curve:
    """Return equity as it had been without costs: net plus fees, slippage and funding paid.

    Parameters
    ----------
    net : Curve
        Of the strategy over the span; its first time is the span's start.
    frames : OutcomeFrames
        Of the whole run.
    balance : float
        Equity at the start of the span, USDT.

    Notes
    -----
    Its last level less one, times `balance`, is `research.performance.Waterfall.gross`.
    """
    costs = cumulated_costs(frames, net.ts, int(net.ts[0]))
    return Curve("gross", net.ts, net.level + costs / balance)


def shuffled_levels(
    band: ShuffledBand, span: TradingSpan, frames: OutcomeFrames
) -> tuple[Int64Array, Float64Array]:
    """Return the band of the shuffled signal after the strategy's own costs.

    Moved trades would have paid the same fees and slippage; funding is taken as it was.

    Returns
    -------
    ts : (n_marks,) int64
        UTC nanoseconds.
    levels : (3, n_marks) float64
        Multiples of equity at the start, by `research.market_view.BAND`.
    """
    balance, start = float(span.daily.equity[0]), int(span.daily.ts[0])
    costs = cumulated_costs(frames, band.ts, start)
    return band.ts, 1.0 + (band.gained - costs) / balance


@dataclass(frozen=True, slots=True)
class Activity:
    """How much was held and traded, day by day.

    Parameters
    ----------
    ts : (n_days,) int64
        End of each day, UTC nanoseconds.
    gross, net : (n_days,) float64
        Mean over the day's bar closes of gross (the leverage in use) and net exposure, as
        multiples of equity; NaN on days without a bar.
    most : (n_days,) float64
        Largest gross exposure of the day, multiple of equity.
    turnover : (n_days,) float64
        Traded value over equity at the day's start.
    """

    ts: Int64Array
    gross: Float64Array
    net: Float64Array
    most: Float64Array
    turnover: Float64Array

    @classmethod
    def of(cls, span: TradingSpan) -> Self:
        """Measure a span."""
        equity = span.frames.equity
        day = span.daily.day_of(equity["ts_init"].to_numpy(dtype=np.int64))
        level = equity["equity"].to_numpy(dtype=np.float64)
        level = np.where(level > 0.0, level, np.nan)
        n = len(span.daily.ts) - 1
        count = np.bincount(day, minlength=n).astype(np.float64)
        count[count == 0.0] = np.nan
        held = {
            name: equity[f"{name}_exposure"].to_numpy(dtype=np.float64) / level
            for name in ("gross", "net")
        }
        most = np.full(n, -np.inf)
        known = ~np.isnan(held["gross"])
        np.maximum.at(most, day[known], held["gross"][known])
        fills = span.frames.fills
        traded = span.daily_sum(
            fills.assign(value=fills["quantity"] * fills["price"]), "ts_event", "value"
        )
        before = np.where(span.daily.equity[:-1] > 0.0, span.daily.equity[:-1], np.nan)
        return cls(
            span.daily.ts[1:],
            np.bincount(day, held["gross"], n) / count,
            np.bincount(day, held["net"], n) / count,
            np.where(np.isfinite(most), most, np.nan),
            traded / before,
        )


def entries(positions: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return positions beside what was known when each was opened.

    Parameters
    ----------
    positions : DataFrame
        See `research.performance.TradingFrames`.
    predictions : DataFrame
        ts_init, instrument_id and optionally regime, ``weight_NAME`` and ``expert_NAME``.

    Returns
    -------
    DataFrame
        The positions in order of their opening, with the columns of the last prediction of their
        instrument before (NaN where there was none), and ``hour``: that of the opening, UTC.
    """
    import pandas as pd

    kept = [
        name
        for name in predictions.columns
        if name == "regime" or name.startswith(("weight_", "expert_"))
    ]
    known = predictions[["ts_init", "instrument_id", *kept]].sort_values("ts_init", kind="stable")
    opened = positions.sort_values("ts_opened", kind="stable")
    if len(opened) == 0:
        # Columns of an empty frame have no types that could be matched.
        return opened.assign(hour=np.empty(0, dtype=np.int64))
    found = pd.merge_asof(
        opened,
        known.astype({"instrument_id": opened["instrument_id"].dtype}),
        left_on="ts_opened",
        right_on="ts_init",
        by="instrument_id",
    )
    hour = found["ts_opened"].to_numpy(dtype=np.int64) // NS_PER_HOUR % 24
    return found.assign(hour=hour, side=np.where(found["side"] > 0, "long", "short"))


_HOURS = 4


def attribution(entered: pd.DataFrame) -> dict[str, tuple[GroupRow, ...]]:
    """Return the results of trades by what they have in common, by title.

    Parameters
    ----------
    entered : DataFrame
        As `entries` gives it.
    """
    if len(entered) == 0:
        return {}
    first = entered["hour"] // _HOURS * _HOURS
    named = entered.assign(hours=[f"{at:02d} to {at + _HOURS:02d} h" for at in first])
    columns = {
        "instrument_id": "Instrument",
        "side": "Side",
        "reason": "Reason of the exit",
        "regime": "Regime at the entry",
        "hours": "Hour of the entry (UTC)",
    }
    return {
        title: trade_groups(named, column)
        for column, title in columns.items()
        # Runs without regimes have an empty one at every row.
        if column in named.columns and (named[column].astype(str) != "").any()
    }


def net_by_hour(entered: pd.DataFrame) -> Float64Array:
    """Return the net result of the trades opened in each hour of the day (UTC), (24,), USDT."""
    net, _ = trade_results(entered)
    return np.bincount(entered["hour"].to_numpy(dtype=np.int64), net, 24).astype(np.float64)


class ExpertShare(NamedTuple):
    """What an expert had to do with the result.

    `weight` is its mean weight at the entries; `net` the sum over the trades of result times
    weight; `agreed` and `disagreed` count the trades whose side it would have taken or not by
    itself, with their net results. Money in USDT.
    """

    name: str
    weight: float
    net: float
    agreed: int
    agreed_net: float
    disagreed: int
    disagreed_net: float


def expert_shares(entered: pd.DataFrame) -> tuple[ExpertShare, ...]:
    """Attribute the trades' results to experts by their weights in the fusion at the entry.

    An expert without an answer has no weight. The shares add up to the whole where the weights
    add up to one; a fusion that is no weighted mean leaves a rest.
    """
    if len(entered) == 0:
        return ()
    net, _ = trade_results(entered)
    long = (entered["side"] == "long").to_numpy()
    found = []
    for column in entered.columns:
        name = column.removeprefix("expert_")
        if name == column or f"weight_{name}" not in entered:
            continue
        said = entered[column].to_numpy(dtype=np.float64)
        weight = np.nan_to_num(entered[f"weight_{name}"].to_numpy(dtype=np.float64))
        same = np.where(long, said > 0.5, said < 0.5)
        other = np.where(long, said < 0.5, said > 0.5)
        found.append(
            ExpertShare(
                name,
                float(weight.mean()),
                math.fsum(net * weight),
                int(same.sum()),
                math.fsum(net[same]),
                int(other.sum()),
                math.fsum(net[other]),
            )
        )
    return tuple(found)


class Luck(NamedTuple):
    """How much of a result may be luck; None where it is not known.

    Parameters
    ----------
    trials : float, optional
        How often these data were asked (the ledger's count).
    dsr : float, optional
        Deflated Sharpe ratio: chance that the true Sharpe ratio is above the best that luck gives.
    pbo : float, optional
        Probability of backtest overfitting.
    spa_p : float, optional
        p-value of Hansen's test that no variant is better than doing nothing.
    paths : Estimate, optional
        Mean net Sharpe ratio a year over the paths of combinatorial cross-validation, with the
        least and the largest in place of an interval.
    null_p, null_skill_p : float, optional
        p-values of the null test: of the net Sharpe ratio, and of the log-loss skill.
    null_runs : float, optional
        Runs on null markets.
    shuffled_p : float, optional
        Share of rotations of the trades through time that earned as much.
    """

    trials: float | None = None
    dsr: float | None = None
    pbo: float | None = None
    spa_p: float | None = None
    paths: Estimate | None = None
    null_p: float | None = None
    null_skill_p: float | None = None
    null_runs: float | None = None
    shuffled_p: float | None = None

    @classmethod
    def of(
        cls,
        metrics: Mapping[str, Any],
        validation: Mapping[str, Any] | None,
        band: ShuffledBand | None,
    ) -> Self:
        """Collect what is known.

        Parameters
        ----------
        metrics : mapping
            As metrics.json; ``trials`` holds count and dsr of the ledger when the run was made.
        validation : mapping, optional
            As validation.json: its ``trials`` are newer than those of the metrics; ``cpcv``,
            ``variants`` and ``null`` where they were made.
        band : ShuffledBand, optional
            The shuffled signal.
        """
        judged = validation or {}
        trials = judged.get("trials") or metrics.get("trials")
        tables = _under(judged, "variants", "tables")
        null = judged.get("null")
        spread = _under(judged, "cpcv", "spread")
        path = [_number(spread, f"sharpe_{name}") for name in ("mean", "least", "largest")]
        known = [value for value in path if value is not None]
        return cls(
            trials=_number(trials, "count"),
            dsr=_number(trials, "dsr"),
            pbo=_number(tables, "pbo", "value"),
            spa_p=_number(tables, "spa_nothing", "consistent"),
            paths=Estimate(*known) if len(known) == len(path) else None,
            null_p=_number(null, "p_values", "net_sharpe"),
            null_skill_p=_number(null, "p_values", "log_loss_skill"),
            null_runs=_number(null, "config", "runs"),
            shuffled_p=None if band is None else _known(band.p),
        )


def _under(found: Any, *keys: str) -> Any:
    """Return what lies under these keys, or None where one is missing."""
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _number(found: Any, *keys: str) -> float | None:
    """Return the number that lies under these keys, or None where there is none."""
    value = _under(found, *keys)
    return _known(value) if isinstance(value, int | float) else None


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


class Difference(NamedTuple):
    """A run less the first one, over the days that both cover, with paired intervals.

    `net_return` is the sum of the differences of daily returns, fraction; `sharpe` the difference
    of the annual Sharpe ratios.
    """

    days: int
    net_return: Estimate
    sharpe: Estimate


def difference(
    first: TradingSpan, other: TradingSpan, *, seed: int = 7, samples: int = 1000,
    mean_block_days: float = 7.0,
) -> Difference | None:  # fmt: skip
    """Compare two runs on the same draws of the same days; None where they share fewer than two."""
    days, mine, theirs = np.intersect1d(first.daily.ts[1:], other.daily.ts[1:], return_indices=True)
    base, ours = first.daily.returns[mine], other.daily.returns[theirs]
    if len(days) < 2 or not (np.isfinite(base).all() and np.isfinite(ours).all()):
        return None
    draws = block_bootstrap_rows(len(days), samples=samples, mean_block=mean_block_days, seed=seed)
    gap = ours - base
    return Difference(
        len(days),
        estimate_of(float(gap.sum()), gap[draws].sum(axis=1)),
        estimate_of(
            sharpe(ours) - sharpe(base), sharpe_rows(ours[draws]) - sharpe_rows(base[draws])
        ),
    )


def same_days(spans: Sequence[TradingSpan]) -> bool:
    """Return whether all runs cover the same days."""
    return len({(int(one.daily.ts[0]), int(one.daily.ts[-1])) for one in spans}) <= 1

"""What a tearsheet says, before anything is drawn: curves, tables and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY
from research.comparisons import MIN_DAYS
from research.estimates import Estimate, interval_digits
from research.overfitting import CONFIDENCE
from research.performance import DailyEquity, Waterfall
from research.trading_details import trade_results

if TYPE_CHECKING:
    import pandas as pd

MAX_POINTS = 1_500
"""A curve is thinned to about this many points: more cannot be seen and makes the page heavy."""
SUSPICIOUS_AUC = 0.60
"""No honest model on real bars of this kind reaches it; a leak does."""


@dataclass(frozen=True, slots=True)
class FoldMark:
    """A tested span ``(start, end]`` to draw behind a curve, UTC nanoseconds."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Equity over time as a multiple of its start.

    Parameters
    ----------
    name : str
        For the legend.
    ts : (n,) int64
        UTC nanoseconds.
    level : (n,) float64
        1 at the start.
    """

    name: str
    ts: Int64Array
    level: Float64Array

    @property
    def last_return(self) -> float:
        """Return over the whole curve, fraction."""
        return float(self.level[-1]) - 1.0

    def drawdown(self) -> Curve:
        """Return the fall from the peak so far, never positive; the start counts as a peak."""
        peak = np.maximum(np.maximum.accumulate(self.level), 1.0)
        return Curve("drawdown", self.ts, self.level / peak - 1.0)

    def thinned(self) -> tuple[Int64Array, Float64Array]:
        """Return at most about `MAX_POINTS` points: the first, the last and every extreme.

        Of each stretch the lowest and the highest point are kept, so that no drawdown vanishes.
        """
        if len(self.ts) <= MAX_POINTS:
            return self.ts, self.level
        kept = {0, len(self.ts) - 1}
        edges = np.linspace(0, len(self.ts), MAX_POINTS // 2 + 1).astype(np.int64).tolist()
        for first, last in pairwise(edges):
            part = self.level[first:last]
            kept |= {int(first + part.argmin()), int(first + part.argmax())}
        rows = np.array(sorted(kept))
        return self.ts[rows], self.level[rows]


def curve_of(
    name: str, equity: pd.DataFrame, *, start: int, end: int, starting_balance: float
) -> Curve:
    """Return the curve of a frame with ts_init and equity over ``(start, end]``.

    Raises
    ------
    DataError
        If the frame has no row in the span, or equity at its start is not positive.
    """
    ts = equity["ts_init"].to_numpy(dtype=np.int64)
    level = equity["equity"].to_numpy(dtype=np.float64)
    first, last = np.searchsorted(ts, [start, end], side="right").tolist()
    base = float(level[first - 1]) if first else starting_balance
    if first == last or not base > 0.0:
        raise DataError(
            f"the curve {name!r} must have rows in the span and a positive start, had "
            f"{last - first} rows and started at {base}"
        )
    return Curve(name, np.append(start, ts[first:last]), np.append(1.0, level[first:last] / base))


class MonthRow(NamedTuple):
    """Returns of a year's months (12, NaN outside the span) and of the year, fractions."""

    year: int
    months: tuple[float, ...]
    total: float


def monthly_returns(daily: DailyEquity) -> tuple[MonthRow, ...]:
    """Return the change of equity over each calendar month and year (UTC) of the span.

    NaN where equity was zero or below when the month or year began.
    """
    days = ((daily.ts[1:] - 1) // NS_PER_DAY).astype("datetime64[D]")
    month_of = days.astype("datetime64[M]").astype(np.int64)
    year_of = month_of // 12
    rows = []
    for year in np.unique(year_of).tolist():
        months = [_change(daily, month_of == 12 * year + offset) for offset in range(12)]
        rows.append(MonthRow(1970 + year, tuple(months), _change(daily, year_of == year)))
    return tuple(rows)


def _change(daily: DailyEquity, days: NDArray[np.bool_]) -> float:
    """Return the change of equity over the days that are marked, which follow one another."""
    inside = np.flatnonzero(days)
    if len(inside) == 0 or not daily.equity[inside[0]] > 0.0:
        return math.nan
    return float(daily.equity[inside[-1] + 1] / daily.equity[inside[0]]) - 1.0


class GroupRow(NamedTuple):
    """Trades that have something in common. Money in USDT, `net` after costs."""

    name: str
    trades: int
    win_rate: float
    mean_bps: float
    realized: float
    fees: float
    funding: float
    net: float


def trade_groups(positions: pd.DataFrame, column: str) -> tuple[GroupRow, ...]:
    """Summarise positions by the values of a column, and all together, in the column's order."""
    names = positions[column].astype(str).to_numpy()
    groups = [(name, names == name) for name in sorted(set(names))]
    if len(groups) != 1:
        groups.append(("all", np.ones(len(names), dtype=bool)))
    return tuple(_group(name, positions.loc[rows]) for name, rows in groups if rows.any())


def _group(name: str, positions: pd.DataFrame) -> GroupRow:
    net, bps = trade_results(positions)
    return GroupRow(
        name=name,
        trades=len(net),
        win_rate=float((net > 0.0).mean()),
        mean_bps=float(bps.mean()),
        realized=math.fsum(positions["realized_pnl"]),
        fees=math.fsum(positions["commission"]),
        funding=math.fsum(positions["funding"]),
        net=math.fsum(net),
    )


def estimate_of(found: Mapping[str, float | None]) -> Estimate:
    """Return the estimate that ``{value, low, high}`` of metrics.json stands for."""
    values = (found[name] for name in Estimate._fields)
    return Estimate(*(math.nan if value is None else float(value) for value in values))


def number_text(found: Estimate, *, percent: bool = False) -> tuple[str, str]:
    """Return a value and its interval as text, with no more digits than the interval supports."""
    if math.isnan(found.value):
        return "n/a", ""
    scale, unit = (100.0, " %") if percent else (1.0, "")
    value, low, high = (scale * part for part in found)
    if math.isnan(low) or math.isnan(high):
        whole = value == round(value)
        return f"{value:,.0f}{unit}" if whole else f"{value:,.4g}{unit}", ""
    digits = 0 if high - low >= 10.0 or low == high == round(low) else interval_digits(high - low)
    # Adding zero turns a negative zero, which would print as -0, into zero.
    value, low, high = (round(part, digits) + 0.0 for part in (value, low, high))
    return f"{value:,.{digits}f}{unit}", f"{low:,.{digits}f} to {high:,.{digits}f}{unit}"


class Sentence(NamedTuple):
    """One sentence of the verdict; `mood` is good, bad or neutral."""

    text: str
    mood: str


def verdict(
    metrics: Mapping[str, Any], waterfall: Waterfall | None, benchmarks: Mapping[str, float]
) -> tuple[Sentence, ...]:
    """Say in plain words what the numbers allow one to say.

    Parameters
    ----------
    metrics : mapping
        As in metrics.json: ``prediction`` and, if the predictions were traded, ``trading``.
    waterfall : Waterfall, optional
        From gross to net; None if nothing was traded.
    benchmarks : mapping of str to float
        Return of each benchmark over the same span, fractions.
    """
    days = _days(metrics)
    few = days is not None and days < MIN_DAYS
    read = _without_interval if few else estimate_of
    prediction = {name: read(found) for name, found in metrics["prediction"].items()}
    sentences = [_about_auc(prediction["auc"]), _about_skill(prediction)]
    if prediction["auc"].value > SUSPICIOUS_AUC and not metrics["provenance"]["synthetic"]:
        sentences.append(
            Sentence(
                f"An AUC above {SUSPICIOUS_AUC:.2f} on real bars is too good to be true: look for "
                "a leak before believing anything below.",
                "bad",
            )
        )
    if waterfall is not None:
        trading = {name: read(found) for name, found in metrics["trading"].items()}
        sentences.append(_about_result(trading, waterfall, metrics.get("trials") or {}))
        sentences += [_about_benchmark(name, value) for name, value in benchmarks.items()]
    if few:
        sentences.append(
            Sentence(
                f"It is a record of {days:.3g} days: with fewer than {MIN_DAYS} no interval means "
                "anything, and nothing is claimed.",
                "bad",
            )
        )
    sentences.append(
        Sentence(
            "One history, one path: the intervals know nothing of other regimes, nor of how many "
            "ideas were tried on the same data before this one.",
            "neutral",
        )
    )
    return tuple(sentences)


def _days(metrics: Mapping[str, Any]) -> float | None:
    """Return the length of the tested span; None of runs that did not say it."""
    span = metrics.get("span")
    return None if span is None else (int(span["end"]) - int(span["start"])) / NS_PER_DAY


def _without_interval(found: Mapping[str, float | None]) -> Estimate:
    return estimate_of(found)._replace(low=math.nan, high=math.nan)


def _with_interval(found: Estimate, *, percent: bool = False) -> str:
    value, interval = number_text(found, percent=percent)
    return f"{value} [{interval}]" if interval else value


def _about_auc(auc: Estimate) -> Sentence:
    text = _with_interval(auc)
    if auc.low > 0.5:
        return Sentence(f"The predictions order rises and falls better than chance: AUC {text}.",
                        "good")  # fmt: skip
    if auc.high < 0.5:
        return Sentence(f"The predictions are worse than chance: AUC {text}.", "bad")
    return Sentence(f"The predictions cannot be told from chance: AUC {text}.", "bad")


def _about_skill(prediction: Mapping[str, Estimate]) -> Sentence:
    skill, ece = prediction["log_loss_skill"], prediction["ece"]
    off = f"they are off by {100.0 * ece.value:.1f} percentage points on average"
    text = _with_interval(skill, percent=True)
    if skill.low > 0.0:
        return Sentence(
            f"The probabilities say more than the base rate does (skill {text}), and {off}.", "good"
        )
    if skill.high < 0.0:
        return Sentence(
            f"Taken at their word, the probabilities are worse than the base rate (skill {text}); "
            f"{off}.",
            "bad",
        )
    return Sentence(
        f"The probabilities cannot be shown to say more than the base rate (skill {text}); {off}.",
        "neutral",
    )


def _about_result(
    trading: Mapping[str, Estimate], waterfall: Waterfall, trials: Mapping[str, Any]
) -> Sentence:
    if trading["trades"].value == 0.0:
        return Sentence("The strategy never traded: no prediction passed its thresholds.",
                        "neutral")  # fmt: skip
    net = trading["net_return"]
    text = _with_interval(net, percent=True)
    costs = waterfall.fees + waterfall.slippage
    chance, count = trials.get("dsr"), trials.get("count") or 1
    if net.low > 0.0 and count > 1 and chance is not None and chance < CONFIDENCE:
        return Sentence(
            f"After all costs the strategy earned {text}: more than the luck of the days explains, "
            f"but not more than that of {count:,.0f} trials (deflated Sharpe ratio "
            f"{100.0 * chance:.0f} %).",
            "neutral",
        )
    if net.low > 0.0:
        return Sentence(
            f"After all costs the strategy earned {text}: more than the luck of the days explains.",
            "good",
        )
    if net.value > 0.0:
        why = "" if math.isnan(net.low) else " but the interval includes losses:"
        return Sentence(
            f"After all costs the strategy earned {text},{why or ' and'} this may be luck.",
            "neutral",
        )
    if waterfall.gross > 0.0:
        return Sentence(
            f"After all costs the strategy lost: {text}. Before costs it earned "
            f"{waterfall.gross:,.0f} USDT; fees and slippage took {costs:,.0f}.",
            "bad",
        )
    return Sentence(f"The strategy lost, before costs as well: {text} net.", "bad")


def _about_benchmark(name: str, value: float) -> Sentence:
    verb = "gained" if value >= 0.0 else "lost"
    return Sentence(f"Over the same span {name} {verb} {abs(100.0 * value):.1f} %.", "neutral")

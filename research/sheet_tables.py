"""The tables of a tearsheet as text, one column of numbers for each run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from catalog.errors import DataError, RunFailedError
from catalog.timestamps import format_time
from research.estimates import Estimate
from research.metrics import PREDICTION_METRICS
from research.performance import TRADING_METRICS, TradingSpan, Waterfall, undefined_reasons
from research.report import GroupRow, MonthRow, estimate_of, number_text
from research.run_sheet import RunSheet, TradedSheet
from research.sheet_numbers import ExpertShare, difference
from research.trading_details import trading_details

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

SHORT = (
    *("Rows", "AUC", "Accuracy", "Top-tenth accuracy", "Skill", "Brier", "ECE"),
    "Top-hundredth accuracy",
)
"""Heads of the columns by fold, in the order of `PREDICTION_METRICS`."""

# key: (label, unit, whether the value is a fraction to print in percent)
_LABELS: Mapping[str, tuple[str, str, bool]] = {
    "n": ("Predictions with a known outcome", "rows", False),
    "auc": ("AUC", "0.5 is chance", False),
    "accuracy": ("Accuracy", "", True),
    "accuracy_at_10pct": ("Accuracy of the most confident tenth", "", True),
    "log_loss_skill": ("Log-loss skill against the base rate", "0 is no skill", True),
    "brier": ("Brier score", "0.25 is a coin", False),
    "ece": ("Expected calibration error", "", True),
    "accuracy_at_1pct": ("Accuracy of the most confident hundredth", "", True),
    "net_return": ("Net return", "over the span", True),
    "net_sharpe": ("Sharpe ratio, net", "per year of 365 days", False),
    "max_drawdown": ("Largest drawdown", "between days", True),
    "trades": ("Trades", "positions", False),
    "fees": ("Fees paid", "USDT", False),
    "slippage": ("Slippage paid", "USDT", False),
    "funding": ("Funding received", "USDT", False),
}

# field of Luck: (label, unit, whether the value is a fraction to print in percent)
_LUCK: Mapping[str, tuple[str, str, bool]] = {
    "trials": ("Trials on these data", "in the ledger", False),
    "dsr": ("Deflated Sharpe ratio", "chance to be above the luck of so many trials", True),
    "pbo": ("Probability of backtest overfitting", "0.5 is a coin", False),
    "spa_p": ("Hansen's test, all variants", "p-value against doing nothing", False),
    "paths": ("Paths of cross-validation", "Sharpe ratio, mean, least to largest", False),
    "null_p": ("Null test of the Sharpe ratio", "p-value on markets without an edge", False),
    "null_skill_p": ("Null test of the skill", "p-value on markets without an edge", False),
    "shuffled_p": ("Same trades at other times", "share that earned as much", False),
}
_UNKNOWN: Mapping[str, str] = {
    "trials": "before the ledger", "dsr": "no trials known",
    "shuffled_p": "bars not kept",
}  # fmt: skip
"""What is said where there is no number; everything else comes from `levibot validate`."""


class Cell(NamedTuple):
    """A number as text, its interval, and why it is missing where it is."""

    value: str
    interval: str = ""
    reason: str = ""


class Row(NamedTuple):
    """One metric of every run."""

    label: str
    unit: str
    cells: tuple[Cell, ...]


def prediction_rows(sheets: Sequence[RunSheet]) -> list[Row]:
    """Return the pooled prediction metrics of each run."""
    return [
        Row(*_LABELS[key][:2], tuple(_cell(key, one.data.metrics["prediction"]) for one in sheets))
        for key in PREDICTION_METRICS
    ]


def trading_rows(sheets: Sequence[RunSheet]) -> list[Row]:
    """Return the trading metrics of each run; those that replayed nothing have none."""
    reasons = [{} if one.trading is None else undefined_reasons(one.trading.span) for one in sheets]
    rows = []
    for key in TRADING_METRICS:
        cells = tuple(
            Cell("n/a", "", "not traded")
            if one.trading is None
            else _cell(key, one.data.metrics["trading"], why.get(key, ""))
            for one, why in zip(sheets, reasons, strict=True)
        )
        rows.append(Row(*_LABELS[key][:2], cells))
    return rows


def _cell(key: str, metrics: Mapping[str, Any], reason: str = "") -> Cell:
    # A run older than a metric does not have it.
    if key not in metrics:
        return Cell("n/a", "", "not measured then")
    return Cell(*number_text(estimate_of(metrics[key]), percent=_LABELS[key][2]), reason)


def luck_rows(sheets: Sequence[RunSheet]) -> list[Row]:
    """Return how much of each result may be luck."""
    rows = []
    for key, (label, unit, percent) in _LUCK.items():
        cells = tuple(_luck_cell(one, key, percent) for one in sheets)
        rows.append(Row(label, unit, cells))
    return rows


def _luck_cell(sheet: RunSheet, key: str, percent: bool) -> Cell:
    luck = sheet.luck
    value = getattr(luck, key)
    if value is None:
        return Cell("n/a", "", _why_unknown(sheet, key))
    if key == "trials":
        # Later trials take from the ratio, which this page does not know of.
        then = "run" if sheet.data.validation is None else "validated"
        return Cell(f"{value:,.0f}", f"when it was {then}")
    if percent:
        return Cell(f"{100.0 * value:.1f} %")
    if isinstance(value, Estimate):
        return Cell(f"{value.value:.2f}", f"{value.low:.2f} to {value.high:.2f}")
    runs = luck.null_runs if key.startswith("null") else None
    return Cell(f"{value:.3f}", "" if runs is None else f"{runs:,.0f} runs")


def _why_unknown(sheet: RunSheet, key: str) -> str:
    """Return why a number is missing; what `levibot validate` makes has no key in `_UNKNOWN`."""
    if key == "dsr" and sheet.luck.trials is not None:
        return "no Sharpe ratio"
    traded = sheet.trading
    if key == "shuffled_p" and traded is not None and len(traded.span.frames.positions) == 0:
        return "no trades"
    made = "not validated" if sheet.data.validation is None else "not to be had"
    return _UNKNOWN.get(key, made)


def difference_rows(sheets: Sequence[RunSheet]) -> list[tuple[str, str, Cell, Cell]]:
    """Return each run less the first: name, days, sum of daily returns, Sharpe ratio."""
    first = sheets[0].trading
    rows = []
    for one in sheets[1:]:
        if first is None or one.trading is None:
            continue
        found = difference(first.span, one.trading.span, **one.data.bootstrap.model_dump())
        if found is not None:
            rows.append(
                (
                    one.name,
                    f"{found.days:,}",
                    Cell(*number_text(found.net_return, percent=True)),
                    Cell(*number_text(found.sharpe)),
                )
            )
    return rows


def fold_rows(sheet: RunSheet) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return for each fold and all together: name, span, and the metrics with their intervals."""
    data = sheet.data
    rows = [
        (mark.name, f"{format_time(mark.start)[:10]} to {format_time(mark.end)[:10]}", fold)
        for mark, fold in zip(data.folds, data.metrics["folds"], strict=True)
    ]
    rows.append(("pooled", "", data.metrics))
    return [
        (name, span, [_cell(key, found["prediction"])[:2] for key in PREDICTION_METRICS])
        for name, span, found in rows
    ]


def reference_rows(sheet: RunSheet) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the metrics of simpler predictors, by name."""
    return [
        (
            name,
            [
                number_text(found[key], percent=_LABELS[key][2]) if key in found else ("n/a", "")
                for key in PREDICTION_METRICS
            ],
        )
        for name, found in sheet.data.references.items()
    ]


def waterfall_rows(waterfall: Waterfall, balance: float) -> list[tuple[str, str, str, str]]:
    """Return for each step: name, USDT, percent of the starting equity, bps of traded value."""
    steps = (
        ("Gross result at prices before slippage", waterfall.gross),
        ("Fees", -waterfall.fees),
        ("Slippage", -waterfall.slippage),
        ("Funding", waterfall.funding),
        ("Net result", waterfall.net),
    )
    traded = waterfall.traded_value
    return [
        (
            name,
            f"{amount:+,.2f}",
            f"{100.0 * amount / balance:+.2f} %",
            f"{1e4 * amount / traded:+.2f}" if traded else "n/a",
        )
        for name, amount in steps
    ]


def stress_rows(stress: Mapping[str, Any] | None) -> list[tuple[str, str, str, str, str]]:
    """Return for each assumption about costs: name, return and Sharpe ratio with intervals."""
    if stress is None:
        return []
    rows = [
        (
            row["name"],
            *number_text(estimate_of(row["net_return"]), percent=True),
            *number_text(estimate_of(row["net_sharpe"]), percent=False),
        )
        for row in stress["rows"]
    ]
    even = stress["break_even"]
    told = "n/a" if even is None else f"costs x {even:.2f}"
    return [*rows, ("break-even", told, "", "", "")]


def execution_rows(rows: Sequence[Mapping[str, Any]] | None) -> list[list[str]]:
    """Return for each way in which orders were sent how they fared, what is unknown left out."""
    found = []
    for row in rows or ():
        shares = (row[name] for name in ("filled_frac", "missed_frac", "maker_frac"))
        costs = (row[name] for name in ("fee_bps", "slippage_bps", "shortfall_bps"))
        found.append(
            [
                str(row["style"]),
                f"{row['orders']:,}",
                *("" if share is None else f"{100.0 * share:.0f} %" for share in shares),
                *("" if cost is None else f"{cost:.2f}" for cost in costs),
            ]
        )
    return found


def unexplained(waterfall: Waterfall, balance: float) -> str:
    """Return what is wrong with the books, or nothing."""
    try:
        waterfall.check(balance)
    except RunFailedError as error:
        return str(error)
    return ""


def monthly_cells(rows: tuple[MonthRow, ...]) -> list[tuple[int, list[tuple[str, str]]]]:
    """Return for each year the text and the background of its months and of its total."""
    # The strongest month gets the full colour, but one of less than a percent is no strong month.
    sizes = [abs(value) for row in rows for value in row.months if not math.isnan(value)]
    largest = max([0.01, *sizes])
    return [
        (row.year, [_tinted(value, largest) for value in (*row.months, row.total)]) for row in rows
    ]


def _tinted(value: float, largest: float) -> tuple[str, str]:
    """Return a return as text and a background: orange for losses, blue for gains."""
    if math.isnan(value):
        return "", "transparent"
    strength = 0.5 * min(1.0, abs(value) / largest)
    tone = "0, 114, 178" if value > 0.0 else "213, 94, 0"
    return f"{round(100.0 * value, 1) + 0.0:+.1f}", f"rgba({tone}, {strength:.3f})"


def group_cells(groups: Mapping[str, tuple[GroupRow, ...]]) -> list[tuple[str, list[list[str]]]]:
    """Return the tables of trades by what they have in common."""
    return [
        (
            title,
            [
                [
                    row.name.replace("_", " "),
                    f"{row.trades:,}",
                    f"{100.0 * row.win_rate:.1f}",
                    f"{row.mean_bps:+.1f}",
                    f"{row.realized:+,.0f}",
                    f"{-row.fees:+,.0f}",
                    f"{row.funding:+,.1f}",
                    f"{row.net:+,.0f}",
                ]
                for row in rows
            ],
        )
        for title, rows in groups.items()
    ]


def expert_cells(experts: Sequence[ExpertShare]) -> list[list[str]]:
    """Return the table of results by expert."""
    return [
        [
            one.name,
            f"{100.0 * one.weight:.1f}",
            f"{one.net:+,.0f}",
            f"{one.agreed:,}",
            f"{one.agreed_net:+,.0f}",
            f"{one.disagreed:,}",
            f"{one.disagreed_net:+,.0f}",
        ]
        for one in experts
    ]


def detail_rows(traded: Sequence[TradedSheet]) -> list[tuple[str, str, list[str]]]:
    """Return what stands behind the headline numbers: label, unit, and each run's value."""
    tables = [trading_details(one.span) for one in traded]
    rows = []
    for details in zip(*tables, strict=True):
        first = details[0]
        percent = first.unit.startswith("fraction")
        unit = first.unit.removeprefix("fraction").strip()
        cells = [
            f"n/a ({one.reason})"
            if one.reason
            else (f"{100.0 * one.value:,.2f} %" if percent else f"{one.value:,.2f}")
            for one in details
        ]
        rows.append((first.label, unit, cells))
    return rows


def quantstats_cells(
    spans: Sequence[TradingSpan],
) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Return quantstats' rows with each run's value, and the reasons of runs that have none."""
    from research.quantstats_tables import quantstats_rows

    tables, reasons = [], []
    for span in spans:
        try:
            tables.append(quantstats_rows(span.daily))
        except DataError as error:
            tables.append(())
            reasons.append(str(error))
    longest = max(tables, key=len)
    rows = []
    for at, row in enumerate(longest):
        rows.append((row.label, [_quantstats_cell(table, at) for table in tables]))
    return rows, reasons


def _quantstats_cell(table: Sequence[Any], at: int) -> str:
    if at >= len(table) or math.isnan(table[at].value):
        return "n/a"
    row = table[at]
    return f"{100.0 * row.value:.2f} %" if row.is_fraction else f"{row.value:.3f}"


def seconds_rows(seconds: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Return for each stage its name, seconds, and the width of its bar in percent."""
    longest = max([value for name, value in seconds.items() if name != "total"], default=0.0)
    return [
        (
            name,
            f"{value:.2f}",
            f"{100.0 * value / longest:.1f}" if name != "total" and longest > 0.0 else "0",
        )
        for name, value in seconds.items()
    ]

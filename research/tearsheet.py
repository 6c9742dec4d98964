"""The page that says what a run is worth: one HTML file that needs no network to be read.

Everything on it was computed before it is drawn; `TearsheetData` holds the numbers, `plots`
draws, the template orders. Equal data give equal bytes.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from catalog.errors import DataError, RunFailedError
from catalog.timestamps import format_time
from research.estimates import Estimate
from research.metrics import PREDICTION_METRICS, ReliabilityCurve
from research.performance import (
    TRADING_METRICS,
    OutcomeFrames,
    TradingSpan,
    Waterfall,
    cost_waterfall,
    undefined_reasons,
)
from research.report import (
    Curve,
    FoldMark,
    MonthRow,
    curve_of,
    estimate_of,
    monthly_returns,
    number_text,
    trade_groups,
    verdict,
)
from research.trading_details import Detail, trading_details

if TYPE_CHECKING:
    import pandas as pd

TEARSHEET_FILE = "tearsheet.html"
QUANTSTATS_FILE = "quantstats.html"
_TEMPLATES = Path(__file__).with_name("templates")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_SHORT = (
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


@dataclass(frozen=True, slots=True)
class TearsheetData:
    """Everything that the page shows.

    Parameters
    ----------
    title : str
        Name of the run.
    metrics : mapping
        As in metrics.json: prediction, trading (absent when nothing was replayed), folds (each
        with prediction and trading), provenance, seconds, peak_memory_mb.
    predictions : DataFrame
        prob_up (and label) of every out-of-sample row.
    reliability : ReliabilityCurve
        Of these predictions.
    start, end : int
        The tested span ``(start, end]``, UTC nanoseconds.
    folds : tuple of FoldMark
        Tested spans, in the order of ``metrics["folds"]``; empty if there are none.
    frames : OutcomeFrames, optional
        What the replay left behind; None when nothing was replayed.
    starting_balance : float
        Equity before the replay, USDT.
    benchmarks : mapping of str to DataFrame
        ts_init and equity of what the strategy is held against, by name, such as
        ``{"buy and hold": buy_and_hold(...)}``; each starts with `starting_balance`.
    references : mapping of str to mapping of str to Estimate
        Prediction metrics of simpler predictors, by name.
    settings : mapping of str to str
        What the replay assumed (fees, latency, slippage, thresholds), in words, for the reader.
    """

    title: str
    metrics: Mapping[str, Any]
    predictions: pd.DataFrame
    reliability: ReliabilityCurve
    start: int
    end: int
    folds: tuple[FoldMark, ...] = ()
    frames: OutcomeFrames | None = None
    starting_balance: float = math.nan
    benchmarks: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    references: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


class _Row(NamedTuple):
    label: str
    value: str
    interval: str
    note: str


def render_tearsheet(data: TearsheetData, *, quantstats: bool = True) -> str:
    """Return the page.

    Parameters
    ----------
    data : TearsheetData
        The numbers.
    quantstats : bool
        Whether to add quantstats' own table, whose import alone takes some seconds.

    Raises
    ------
    DataError
        If a key of metrics.json is missing, or a frame has no rows in the span.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    _check(data)
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    trading = None if data.frames is None else _trading_part(data, data.frames, quantstats)
    waterfall = None if trading is None else trading["waterfall"]
    curves: tuple[Curve, ...] = () if trading is None else trading["curves"]
    context = {
        "title": data.title,
        "span": f"{format_time(data.start)[:16]} to {format_time(data.end)[:16]} UTC",
        "synthetic": bool(data.metrics["provenance"]["synthetic"]),
        "verdict": verdict(
            data.metrics, waterfall, {curve.name: curve.last_return for curve in curves[1:]}
        ),
        "critic": data.metrics.get("critic"),
        "prediction": _headline(data.metrics["prediction"], PREDICTION_METRICS, {}),
        "fold_heads": _SHORT,
        "fold_rows": _fold_rows(data),
        "references": _reference_rows(data.references),
        "trading": trading,
        "pictures": _prediction_pictures(data),
        "provenance": [(key, str(value)) for key, value in data.metrics["provenance"].items()],
        "settings": list(data.settings.items()),
        "seconds": _seconds_rows(data.metrics["seconds"]),
        "memory": f"{float(data.metrics['peak_memory_mb']):,.0f} MB",
    }
    return environment.get_template("tearsheet.html.j2").render(context)


def write_tearsheet(
    data: TearsheetData, folder: Path, *, quantstats: bool = True, full: bool = False
) -> list[Path]:
    """Write the page into a folder, and on request quantstats' full report beside it.

    Parameters
    ----------
    data : TearsheetData
        The numbers.
    folder : Path
        Where; must exist.
    quantstats : bool
        Whether the page holds quantstats' table.
    full : bool
        Whether to write `QUANTSTATS_FILE` as well, which takes several seconds.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    DataError
        As `render_tearsheet`; also if the full report is asked for without a replay.
    """
    page = folder / TEARSHEET_FILE
    text = render_tearsheet(data, quantstats=quantstats)
    with _partial(page) as partial:
        partial.write_text(text, encoding="utf-8")
    if not full:
        return [page]
    if data.frames is None:
        raise DataError("the full quantstats report needs a replay, and this run has none")
    from research.quantstats_tables import write_quantstats_report

    report = folder / QUANTSTATS_FILE
    daily = _span(data, data.frames).daily
    with _partial(report) as partial:
        write_quantstats_report(daily, partial, title=data.title)
    return [page, report]


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` at the end, or vanishes if anything fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check(data: TearsheetData) -> None:
    wanted = ["prediction", "folds", "provenance", "seconds", "peak_memory_mb"]
    if data.frames is not None:
        wanted.append("trading")
    missing = [key for key in wanted if key not in data.metrics]
    if missing:
        raise DataError(f"metrics must have the keys {missing}, had {sorted(data.metrics)}")
    if len(data.folds) != len(data.metrics["folds"]):
        raise DataError(
            f"folds must be those of the metrics, were {len(data.folds)} against "
            f"{len(data.metrics['folds'])}"
        )


def _span(data: TearsheetData, frames: OutcomeFrames) -> TradingSpan:
    return TradingSpan.cut(
        frames, start=data.start, end=data.end, starting_balance=data.starting_balance
    )


def _headline(
    metrics: Mapping[str, Any], keys: tuple[str, ...], reasons: Mapping[str, str]
) -> list[_Row]:
    rows = []
    for key in keys:
        label, unit, percent = _LABELS[key]
        value, interval = number_text(estimate_of(metrics[key]), percent=percent)
        rows.append(_Row(label, value, interval, reasons.get(key, unit)))
    return rows


def _fold_rows(data: TearsheetData) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return for each fold and all together: name, span, and the metrics with their intervals."""
    keys = PREDICTION_METRICS
    rows = [
        (mark.name, f"{format_time(mark.start)[:10]} to {format_time(mark.end)[:10]}", fold)
        for mark, fold in zip(data.folds, data.metrics["folds"], strict=True)
    ]
    rows.append(("pooled", "", data.metrics))
    return [
        (
            name,
            span,
            [
                number_text(estimate_of(found["prediction"][key]), percent=_LABELS[key][2])
                for key in keys
            ],
        )
        for name, span, found in rows
    ]


def _reference_rows(
    references: Mapping[str, Mapping[str, Estimate]],
) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (name, [number_text(found[key], percent=_LABELS[key][2]) for key in PREDICTION_METRICS])
        for name, found in references.items()
    ]


def _prediction_pictures(data: TearsheetData) -> dict[str, str]:
    from research import plots

    probabilities = data.predictions["prob_up"].to_numpy(dtype=np.float64)
    pictures = {
        "reliability": plots.svg_uri(plots.reliability_figure(data.reliability, probabilities))
    }
    if data.folds:
        named = list(zip(data.folds, data.metrics["folds"], strict=True))
        auc = {mark.name: estimate_of(fold["prediction"]["auc"]) for mark, fold in named}
        auc["pooled"] = estimate_of(data.metrics["prediction"]["auc"])
        top = {
            mark.name: estimate_of(fold["prediction"]["accuracy_at_10pct"]) for mark, fold in named
        }
        top["pooled"] = estimate_of(data.metrics["prediction"]["accuracy_at_10pct"])
        pictures["folds"] = plots.svg_uri(plots.folds_figure(auc, top))
    return pictures


def _trading_part(data: TearsheetData, frames: OutcomeFrames, quantstats: bool) -> dict[str, Any]:
    """Return what the template shows of the replay."""
    from research import plots

    span = _span(data, frames)
    waterfall = cost_waterfall(span)
    balance = float(span.daily.equity[0])
    curves = tuple(
        curve_of(
            name,
            frame,
            start=data.start,
            end=data.end,
            starting_balance=data.starting_balance,
        )
        for name, frame in {"strategy": frames.equity, **data.benchmarks}.items()
    )
    return {
        "headline": _headline(data.metrics["trading"], TRADING_METRICS, undefined_reasons(span)),
        "curves": curves,
        "waterfall": waterfall,
        "waterfall_rows": _waterfall_rows(waterfall, balance),
        "unexplained": _unexplained(waterfall, balance),
        "stress_rows": _stress_rows(data.metrics.get("stress")),
        "ambiguous": data.metrics.get("ambiguous_bars"),
        "equity_picture": plots.svg_uri(plots.equity_figure(curves, data.folds)),
        "waterfall_picture": plots.svg_uri(plots.waterfall_figure(waterfall)),
        "months": _MONTHS,
        "monthly": _monthly_cells(monthly_returns(span.daily)),
        "groups": _groups(span),
        "details": [_detail_row(row) for row in trading_details(span)],
        "quantstats": _quantstats(span) if quantstats else ([], ""),
    }


def _waterfall_rows(waterfall: Waterfall, balance: float) -> list[tuple[str, str, str, str]]:
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


def _stress_rows(stress: Mapping[str, Any] | None) -> list[tuple[str, str, str, str, str]]:
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


def _unexplained(waterfall: Waterfall, balance: float) -> str:
    """Return what is wrong with the books, or nothing."""
    try:
        waterfall.check(balance)
    except RunFailedError as error:
        return str(error)
    return ""


def _monthly_cells(rows: tuple[MonthRow, ...]) -> list[tuple[int, list[tuple[str, str]]]]:
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


def _groups(span: TradingSpan) -> list[tuple[str, list[list[str]]]]:
    """Return the tables of trades by instrument, side and reason of the exit."""
    positions = span.frames.positions
    if len(positions) == 0:
        return []
    named = positions.assign(side=np.where(positions["side"] > 0, "long", "short"))
    columns = {"instrument_id": "Instrument", "side": "Side", "reason": "Reason of the exit"}
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
                for row in trade_groups(named, column)
            ],
        )
        for column, title in columns.items()
        if column in named.columns
    ]


def _detail_row(row: Detail) -> tuple[str, str, str]:
    """Return label, value and unit, or the reason why there is no value."""
    if row.reason:
        return row.label, "n/a", row.reason
    if row.unit.startswith("fraction"):
        return row.label, f"{100.0 * row.value:,.2f} %", row.unit.removeprefix("fraction").strip()
    return row.label, f"{row.value:,.2f}", row.unit


def _quantstats(span: TradingSpan) -> tuple[list[tuple[str, str]], str]:
    """Return quantstats' rows, or the reason why there are none."""
    from research.quantstats_tables import quantstats_rows

    try:
        rows = quantstats_rows(span.daily)
    except DataError as error:
        return [], str(error)
    return [
        (row.label, "n/a" if math.isnan(row.value) else
         f"{100.0 * row.value:.2f} %" if row.is_fraction else f"{row.value:.3f}")
        for row in rows
    ], ""  # fmt: skip


def _seconds_rows(seconds: Mapping[str, float]) -> list[tuple[str, str, str]]:
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

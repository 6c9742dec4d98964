"""The pictures of the tearsheet: each function draws numbers that somebody else has computed.

Figures are made without pyplot, so that drawing here changes nothing for anybody else, and are
written as SVG without dates and with fixed identifiers: the same numbers give the same bytes.
Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.dates as mdates
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from catalog.arrays import Float64Array, Int64Array
from catalog.timestamps import NS_PER_DAY
from research.estimates import Estimate
from research.metrics import ReliabilityCurve
from research.performance import Waterfall
from research.report import Curve, FoldMark

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6b7280"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", RED, "#F0E442", "#000000")
"""Of curves, experts and bands, those most apart first."""
_CURVE_COLOURS = COLOURS[:5]
_DPI = 110
STYLE: Any = {
    "svg.hashsalt": "levibot",
    "svg.fonttype": "path",
    "font.size": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "timezone": "UTC",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}
"""What every picture is drawn in, and written in: ``matplotlib.rc_context(STYLE)``."""


def svg_uri(figure: Figure) -> str:
    """Return a figure as a data address for an image tag; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, which makes room for its labels by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def date_numbers(ts: Int64Array) -> Float64Array:
    """Return times as matplotlib's dates: days since 1970.

    Parameters
    ----------
    ts : (n,) int64
        UTC nanoseconds.
    """
    return np.asarray(ts / NS_PER_DAY)


def equity_figure(curves: Sequence[Curve], folds: Sequence[FoldMark]) -> Figure:
    """Draw equity (the first curve is the strategy) above the strategy's drawdown."""
    with mpl.rc_context(STYLE):
        figure = new_figure(10.0, 4.9)
        grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
        top = figure.add_subplot(grid[0])
        bottom = figure.add_subplot(grid[1], sharex=top)
        _shade_folds(top, folds, named=True)
        _shade_folds(bottom, folds, named=False)
        for number, curve in enumerate(curves):
            ts, level = curve.thinned()
            top.plot(
                date_numbers(ts),
                level - 1.0,
                color=_CURVE_COLOURS[number % len(_CURVE_COLOURS)],
                label=curve.name,
                linewidth=1.8 if number == 0 else 1.1,
                zorder=3 if number == 0 else 2,
            )
        top.axhline(0.0, color=GREY, linewidth=1.0, linestyle="--", label="flat", zorder=1)
        top.set_ylabel("return since start [%]")
        top.legend(loc="upper left", ncols=len(curves) + 1)
        top.tick_params(labelbottom=False)
        fall_ts, fall = curves[0].drawdown().thinned()
        bottom.fill_between(date_numbers(fall_ts), fall, 0.0, color=RED, alpha=0.35, linewidth=0.0)
        bottom.plot(date_numbers(fall_ts), fall, color=RED, linewidth=0.8)
        bottom.set_ylabel("drawdown [%]")
        bottom.set_xlabel("time (UTC)")
        time_axis(bottom)
        for axes in (top, bottom):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        top.margins(x=0.005)
    return figure


def time_axis(axes: Axes) -> None:
    """Label the horizontal axis, which holds `date_numbers`, with few and short dates."""
    locator = mdates.AutoDateLocator(minticks=4, maxticks=10)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = mdates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)


def _shade_folds(axes: Axes, folds: Sequence[FoldMark], *, named: bool) -> None:
    """Shade every other fold and draw its borders; write its name above."""
    for number, fold in enumerate(folds):
        start, end = fold.start / NS_PER_DAY, fold.end / NS_PER_DAY
        if number % 2 == 0:
            axes.axvspan(start, end, color="#f3f4f6", linewidth=0.0, zorder=0)
        axes.axvline(start, color="#9ca3af", linewidth=0.7, linestyle=":", zorder=1)
        if named:
            axes.text(
                start + (end - start) / 2,
                1.01,
                fold.name,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                color=GREY,
                fontsize=7.0,
            )


def reliability_figure(curve: ReliabilityCurve, probabilities: Float64Array) -> Figure:
    """Draw what happened against what was said, above a histogram of what was said."""
    with mpl.rc_context(STYLE):
        figure = new_figure(4.9, 4.4)
        grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
        top = figure.add_subplot(grid[0])
        bottom = figure.add_subplot(grid[1], sharex=top)
        said = curve.mean_probability
        seen = np.array([bin_.value for bin_ in curve.observed])
        low = np.array([bin_.low for bin_ in curve.observed])
        high = np.array([bin_.high for bin_ in curve.observed])
        ends = np.array([min(said.min(), 0.49), max(said.max(), 0.51)])
        top.plot(ends, ends, color=GREY, linestyle="--", linewidth=1.0, label="perfect calibration")
        bars = np.nan_to_num(np.vstack([seen - low, high - seen]))
        top.errorbar(
            said,
            seen,
            yerr=np.maximum(bars, 0.0),
            fmt="o",
            markersize=4.5,
            color=BLUE,
            elinewidth=1.0,
            capsize=2.0,
            label="equally filled bins, 95 %",
        )
        top.axhline(0.5, color="#d1d5db", linewidth=0.8)
        top.set_ylabel("share that rose [fraction]")
        top.legend(loc="upper left")
        top.tick_params(labelbottom=False)
        bottom.hist(probabilities, bins=60, color=BLUE, alpha=0.55, linewidth=0.0)
        bottom.set_yticks([])
        bottom.set_ylabel("rows")
        bottom.set_xlabel("predicted probability of a rise [fraction]")
        top.set_xlim(*_padded(np.append(np.quantile(probabilities, [0.0005, 0.9995]), ends)))
    return figure


def _padded(values: Float64Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.03 * (high - low)
    return low - margin, high + margin


def folds_figure(auc: Mapping[str, Estimate], top_accuracy: Mapping[str, Estimate]) -> Figure:
    """Draw two numbers of each fold and of all, with their intervals, against no skill."""
    with mpl.rc_context(STYLE):
        figure = new_figure(4.9, 4.4)
        grid = figure.add_gridspec(2, 1)
        top = figure.add_subplot(grid[0])
        bottom = figure.add_subplot(grid[1], sharex=top)
        for axes, values in ((top, auc), (bottom, top_accuracy)):
            _dots(axes, values)
        top.set_ylabel("AUC [fraction]")
        bottom.set_ylabel("accuracy, most\nconfident tenth [%]")
        bottom.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        bottom.set_xlabel("tested fold")
        top.tick_params(labelbottom=False)
    return figure


def _dots(axes: Axes, values: Mapping[str, Estimate]) -> None:
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1.0)
    for number, (name, found) in enumerate(values.items()):
        colour = ORANGE if name == "pooled" else BLUE
        if found.low == found.low and found.high == found.high:
            axes.plot([number, number], [found.low, found.high], color=colour, linewidth=1.6)
        axes.plot([number], [found.value], "o", color=colour, markersize=5.0)
    axes.set_xticks(range(len(values)), list(values))
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.08)


def waterfall_figure(waterfall: Waterfall) -> Figure:
    """Draw the way from gross to net, in USDT."""
    steps = (
        ("gross", waterfall.gross),
        ("fees", -waterfall.fees),
        ("slippage", -waterfall.slippage),
        ("funding", waterfall.funding),
    )
    with mpl.rc_context(STYLE):
        figure = new_figure(4.9, 3.1)
        axes = figure.add_subplot()
        level = 0.0
        for number, (_, change) in enumerate(steps):
            colour = BLUE if number == 0 else (GREEN if change > 0.0 else RED)
            axes.bar(number, change, bottom=level, color=colour, width=0.62, zorder=2)
            axes.plot([number - 0.31, number + 1.31], [level + change] * 2, color=GREY, lw=0.8)
            _amount(axes, number, level, level + change, change)
            level += change
        axes.bar(len(steps), waterfall.net, color=BLUE, width=0.62, zorder=2)
        _amount(axes, len(steps), 0.0, waterfall.net, waterfall.net)
        axes.axhline(0.0, color="#374151", linewidth=0.9)
        axes.set_xticks(range(len(steps) + 1), [*(name for name, _ in steps), "net"])
        axes.set_ylabel("result [USDT]")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.16)
    return figure


def _amount(axes: Axes, x: float, start: float, end: float, change: float) -> None:
    """Write a step's amount outside of its bar."""
    up = end >= start
    axes.annotate(
        f"{round(change) + 0.0:+,.0f}",
        (x, end),
        xytext=(0, 3 if up else -3),
        textcoords="offset points",
        ha="center",
        va="bottom" if up else "top",
        fontsize=7.5,
        color="#111827",
    )

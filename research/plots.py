"""The pictures of the tearsheet: each function draws numbers that somebody else has computed.

Figures are made without pyplot, so that drawing here changes nothing for anybody else, and are
written as SVG without dates and with fixed identifiers: the same numbers give the same bytes.
Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.dates as mdates
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from catalog.arrays import Float64Array, Int64Array
from catalog.timestamps import NS_PER_DAY
from research.performance import Waterfall
from research.report import FoldMark

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6b7280"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", RED, "#F0E442", "#000000")
"""Of curves, experts and bands, those most apart first."""
_DPI = 110
_OWN = ("axes", "errorbar", "figure", "font", "grid", "hatch", "hist", "image", "legend", "lines",
        "markers", "patch", "path", "pdf", "savefig", "scatter", "svg", "text", "xtick",
        "ytick")  # fmt: skip
STYLE: Any = {
    # Whoever else is in the process may have changed the defaults: quantstats does on import.
    **{key: mpl.rcParamsDefault[key] for key in mpl.rcParamsDefault if key.split(".")[0] in _OWN},
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
        # The resolution counts where many marks are drawn as a picture inside.
        figure.savefig(buffer, format="svg", dpi=2 * _DPI, metadata={"Date": None, "Creator": None})
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


def time_axis(axes: Axes) -> None:
    """Label the horizontal axis, which holds `date_numbers`, with few and short dates."""
    locator = mdates.AutoDateLocator(minticks=4, maxticks=10)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = mdates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)


def shade_folds(axes: Axes, folds: Sequence[FoldMark], *, named: bool) -> None:
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


def draw_waterfall(axes: Axes, waterfall: Waterfall) -> None:
    """Draw the way from gross to net, in USDT."""
    steps = (
        ("gross", waterfall.gross),
        ("fees", -waterfall.fees),
        ("slippage", -waterfall.slippage),
        ("funding", waterfall.funding),
    )
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
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
        zorder=4,
    )

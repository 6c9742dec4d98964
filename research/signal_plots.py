"""The pictures of a signal's quality: see `research.plots`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from research.estimates import Estimate
from research.plots import BLUE, COLOURS, GREY, ORANGE, STYLE, new_figure, png_bytes
from research.signal_results import (
    CROSS_SECTION,
    POOLED,
    InformationRow,
    MonthRow,
    QuantileRow,
    SignalQuality,
    TurnoverRow,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLACK = "#111827"


def signal_pictures(quality: SignalQuality) -> dict[str, bytes]:
    """Return the pictures as PNG, by name: horizons, delays, quantiles, turnover, months."""
    horizon = quality.config.horizon_bars
    figures = {
        "horizons": information_figure(quality.information, "horizon_bars"),
        "delays": information_figure(quality.delays, "delay_bars"),
        "quantiles": quantiles_figure(quality.quantiles, horizon),
        "turnover": turnover_figure(quality.turnover),
        "months": months_figure(quality.months),
    }
    return {name: png_bytes(figure) for name, figure in figures.items()}


def information_figure(rows: Sequence[InformationRow], along: str) -> Figure:
    """Draw information coefficients with their intervals.

    Parameters
    ----------
    rows : sequence of InformationRow
        Of any scopes.
    along : {"horizon_bars", "delay_bars"}
        What they are drawn over.
    """
    scopes = list(dict.fromkeys(row.scope for row in rows))
    steps = sorted({getattr(row, along) for row in rows})
    with mpl.rc_context(STYLE):
        figure = new_figure(7.4, 3.6)
        axes = figure.add_subplot()
        axes.axhline(0.0, color=GREY, linewidth=1.0, linestyle="--")
        offsets = np.linspace(-0.24, 0.24, len(scopes)) if len(scopes) > 1 else np.zeros(1)
        for scope, offset, colour in zip(scopes, offsets, _colours(scopes), strict=True):
            own = [row for row in rows if row.scope == scope]
            place = np.array([steps.index(getattr(row, along)) for row in own]) + offset
            _points(axes, place, [row.ic for row in own], colour, scope)
        axes.set_xticks(range(len(steps)), [str(step) for step in steps])
        axes.set_ylabel("rank information coefficient")
        kind = "held over [bars]" if along == "horizon_bars" else "entered late by [bars]"
        axes.set_xlabel(f"{kind}; lines: 95 % of the bootstrap over days")
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside upper center", ncols=min(len(scopes), 3))
    return figure


def _colours(scopes: Sequence[str]) -> list[str]:
    """Return black for the pooled rows, grey for the cross-section, one colour each for others."""
    fixed = {POOLED: _BLACK, CROSS_SECTION: GREY}
    others = [scope for scope in scopes if scope not in fixed]
    palette = COLOURS[:-1]
    named = {scope: palette[at % len(palette)] for at, scope in enumerate(others)}
    return [(fixed | named)[scope] for scope in scopes]


def _points(
    axes: Axes, place: np.ndarray, values: Sequence[Estimate], colour: str, name: str
) -> None:
    value, low, high = np.array(values).T
    bars = np.maximum(np.nan_to_num(np.vstack([value - low, high - value])), 0.0)
    strong = name in (POOLED, CROSS_SECTION)
    axes.errorbar(
        place,
        value,
        yerr=bars,
        fmt="D" if strong else "o",
        markersize=5.0 if strong else 4.0,
        color=colour,
        elinewidth=1.6 if strong else 1.0,
        label=name,
    )


def quantiles_figure(rows: Sequence[QuantileRow], horizon_bars: int) -> Figure:
    """Draw the mean return of each quantile: pooled as bars, instruments as points."""
    scopes = list(dict.fromkeys(row.scope for row in rows))
    with mpl.rc_context(STYLE):
        figure = new_figure(7.4, 3.4)
        axes = figure.add_subplot()
        axes.axhline(0.0, color=_BLACK, linewidth=0.9)
        pooled = [row for row in rows if row.scope == POOLED]
        place = np.array([row.quantile for row in pooled])
        value, low, high = np.array([row.mean_bps for row in pooled]).T
        colours = [BLUE if one > 0.0 else ORANGE for one in value]
        axes.bar(place, np.nan_to_num(value), 0.62, color=colours, alpha=0.45, zorder=2)
        bars = np.maximum(np.nan_to_num(np.vstack([value - low, high - value])), 0.0)
        axes.errorbar(
            place, value, yerr=bars, fmt="none", color=_BLACK, elinewidth=1.4, zorder=3
        )  # fmt: skip
        others = [scope for scope in scopes if scope != POOLED]
        offsets = np.linspace(-0.2, 0.2, len(others)) if len(others) > 1 else np.zeros(1)
        for scope, offset, colour in zip(others, offsets, _colours(others), strict=False):
            own = [row for row in rows if row.scope == scope]
            axes.plot(
                [row.quantile + offset for row in own],
                [row.mean_bps.value for row in own],
                "o",
                markersize=4.0,
                color=colour,
                label=scope,
                zorder=4,
            )
        axes.set_xticks(place, [str(one) for one in place])
        axes.set_xlabel("quantile of the signal; bars: all instruments, lines: 95 %")
        axes.set_ylabel(f"mean return over {horizon_bars} bars [bps]")
        axes.grid(visible=False, axis="x")
        if others:
            figure.legend(loc="outside upper center", ncols=min(len(others), 3))
    return figure


def turnover_figure(rows: Sequence[TurnoverRow]) -> Figure:
    """Draw how much of the signal stays: rank autocorrelation, and quantiles left, over lags."""
    own = [row for row in rows if row.scope == POOLED]
    place = range(len(own))
    with mpl.rc_context(STYLE):
        figure = new_figure(7.4, 3.0)
        axes = figure.add_subplot()
        axes.axhline(0.0, color=GREY, linewidth=1.0, linestyle="--")
        lines = (
            ("rank autocorrelation", [row.autocorrelation for row in own], _BLACK, "-"),
            ("new in the highest quantile", [row.top for row in own], BLUE, "--"),
            ("new in the lowest quantile", [row.bottom for row in own], ORANGE, ":"),
        )
        for name, values, colour, style in lines:
            axes.plot(place, values, style, marker="o", markersize=4.0, color=colour, label=name)
        axes.set_xticks(place, [str(row.lag_bars) for row in own])
        axes.set_xlabel("lag [bars]")
        axes.set_ylabel("fraction")
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside upper center", ncols=3)
    return figure


def months_figure(rows: Sequence[MonthRow]) -> Figure:
    """Draw the pooled coefficient of each month, and its mean."""
    place = range(len(rows))
    value = np.array([row.ic for row in rows])
    count = np.array([row.n for row in rows], dtype=np.float64)
    with mpl.rc_context(STYLE):
        figure = new_figure(7.4, 2.8)
        axes = figure.add_subplot()
        colours = [BLUE if one > 0.0 else ORANGE for one in value]
        axes.bar(place, value, 0.7, color=colours, zorder=2)
        axes.axhline(0.0, color=_BLACK, linewidth=0.9)
        mean = float(np.average(value, weights=count)) if len(rows) else 0.0
        axes.axhline(mean, color=GREY, linewidth=1.0, linestyle="--", label="all months")
        step = max(1, -(-len(rows) // 9))
        axes.set_xticks(list(place)[::step], [row.month for row in rows][::step])
        axes.set_ylabel("rank information\ncoefficient")
        axes.set_xlabel("month (UTC)")
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper right")
    return figure

"""The pictures of a validation: see `research.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.dates as mdates
import numpy as np
from matplotlib.ticker import PercentFormatter

from catalog.arrays import Float64Array, Int64Array
from research.plots import BLUE, COLOURS, GREY, ORANGE, STYLE, date_numbers, new_figure, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {
    "log_loss_skill": "log-loss skill",
    "net_sharpe": "Sharpe ratio a year, net",
    "gross_sharpe": "Sharpe ratio a year, before costs",
}


def paths_figure(days: Int64Array, paths: Sequence[Float64Array]) -> Figure:
    """Draw what each path of a cross-validation earned.

    Parameters
    ----------
    days : (n_days + 1,) int64
        Start, midnights and end, UTC nanoseconds.
    paths : sequence of (n_days,) float64
        Daily net returns.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(7.4, 3.4)
        axes = figure.add_subplot()
        axes.axhline(0.0, color=GREY, linewidth=1.0, linestyle="--")
        for number, returns in enumerate(paths):
            level = np.append(1.0, np.cumprod(1.0 + np.nan_to_num(returns))) - 1.0
            colour = COLOURS[number % len(COLOURS)]
            label = f"path {number}"
            axes.plot(date_numbers(days), level, color=colour, linewidth=1.2, label=label)
        locator = mdates.AutoDateLocator(minticks=4, maxticks=10)  # type: ignore[no-untyped-call]
        formatter = mdates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(formatter)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        axes.set_ylabel("net return [%]")
        figure.legend(loc="outside upper center", ncols=min(len(paths), 6))
    return figure


def overfitting_figure(points: Mapping[str, Any]) -> Figure:
    """Draw the logits of the chosen variant's rank, and what it was worth on the other half.

    Parameters
    ----------
    points : mapping
        logits, in_sample, out_of_sample (n_combinations,), slope, intercept.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(7.4, 3.2)
        left, right = figure.subplots(1, 2)
        logits = np.asarray(points["logits"])
        left.hist(logits, bins=40, color=BLUE, alpha=0.7, linewidth=0.0)
        left.axvline(0.0, color=ORANGE, linewidth=1.6)
        share = float(np.mean(logits <= 0.0))
        left.set_xlabel(f"logit of the rank on the other half; {share:.0%} at or below the median")
        left.set_ylabel("choices of half of the days")
        year = float(np.sqrt(365.0))
        inside, outside = (np.asarray(points[name]) for name in ("in_sample", "out_of_sample"))
        shown = slice(None, None, max(1, len(inside) // 1_500))
        right.plot(inside[shown] * year, outside[shown] * year, ".", color=BLUE, ms=2.0, alpha=0.4)
        ends = np.array([inside.min(), inside.max()])
        line = points["intercept"] + points["slope"] * ends
        if np.isfinite(line).all():
            right.plot(ends * year, line * year, color=ORANGE)
        right.axhline(0.0, color=GREY, linewidth=1.0, linestyle="--")
        right.set_xlabel("Sharpe ratio a year where it was chosen")
        right.set_ylabel("on the other half")
    return figure


def null_figure(
    null: Mapping[str, Sequence[float]],
    observed: Mapping[str, float],
    p_values: Mapping[str, float],
) -> Figure:
    """Draw the results on null markets and the real one among them, for each statistic."""
    with mpl.rc_context(STYLE):
        figure = new_figure(7.4, 2.8)
        for axes, (name, values) in zip(
            np.atleast_1d(figure.subplots(1, len(null))), null.items(), strict=True
        ):
            _null_panel(axes, np.asarray(values), float(observed[name]))
            axes.set_xlabel(f"{_TITLES.get(name, name)}\np = {p_values[name]:.3f}")
        figure.get_axes()[0].set_ylabel("null markets")
    return figure


def _null_panel(axes: Axes, values: Float64Array, observed: float) -> None:
    low, high = min(values.min(), observed), max(values.max(), observed)
    if high == low:
        low, high = low - 0.5, high + 0.5
    axes.hist(values, bins=25, range=(low, high), color=GREY, alpha=0.6, linewidth=0.0)
    axes.axvline(observed, color=ORANGE, linewidth=2.0)


def validation_pictures(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Return figures as PNG by name."""
    return {name: png_bytes(figure) for name, figure in figures.items()}


def claims_figure(rows: Sequence[Mapping[str, Any]], significant: float) -> Figure:
    """Draw the deflated Sharpe ratio of each market by its edge.

    Parameters
    ----------
    rows : sequence of mapping
        Each with ``edge`` and ``dsr`` (None, nothing traded, is drawn at 0).
    significant : float
        Above it there is a claim.
    """
    edges = sorted({float(row["edge"]) for row in rows})
    with mpl.rc_context(STYLE):
        figure = new_figure(7.4, 2.6)
        axes = figure.add_subplot()
        axes.axvline(significant, color=ORANGE, linewidth=1.6)
        for place, edge in enumerate(edges):
            own = sorted(float(row["dsr"] or 0.0) for row in rows if float(row["edge"]) == edge)
            heights = place + np.linspace(-0.3, 0.3, len(own)) if len(own) > 1 else [place]
            axes.plot(own, heights, "o", color=COLOURS[2 * place % len(COLOURS)], markersize=4.0)
        axes.set_yticks(range(len(edges)), [f"edge {edge:g}" for edge in edges])
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("deflated Sharpe ratio; to the right of the line is a claim")
        axes.grid(visible=False, axis="y")
    return figure

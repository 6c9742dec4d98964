"""The pictures of the experts: each function draws numbers that somebody else has computed.

They are drawn as those of the tearsheet are, see `research.plots`: without pyplot, the same
numbers giving the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import DataError
from research.metrics import ReliabilityCurve
from research.plots import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    STYLE,
    date_numbers,
    new_figure,
    time_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

_REST = "#d1d5db"
_REGIMES = {1: (BLUE, "trend"), 0: ("#e5e7eb", "neutral"), -1: (ORANGE, "mean-reverting")}
_MOST_PERIODS = 400  # more bands than this are thinner than a pixel


def reliability_grid(
    curves: Mapping[str, ReliabilityCurve], *, columns: int = 3, reach: float | None = None
) -> Figure:
    """Draw what happened against what was said, one panel for each expert, all on one scale.

    Parameters
    ----------
    curves : Mapping of str to ReliabilityCurve
        By the expert's name.
    columns : int
        Panels in a row.
    reach : float, optional
        Distance from a half to which both axes go; that of the farthest point or end of an
        interval if absent.
    """
    _demand(len(curves) > 0, "curves must hold at least one expert, held none")
    farthest = max(float(np.abs(_points(curve) - 0.5).max()) for curve in curves.values())
    reach = 1.08 * farthest if reach is None else reach
    rows = -(-len(curves) // columns)
    with mpl.rc_context(STYLE):
        figure = new_figure(3.1 * min(columns, len(curves)), 2.9 * rows)
        for number, (name, curve) in enumerate(curves.items()):
            axes = figure.add_subplot(rows, columns, number + 1)
            _reliability(axes, curve, COLOURS[number % len(COLOURS)])
            axes.set(xlim=(0.5 - reach, 0.5 + reach), ylim=(0.5 - reach, 0.5 + reach), title=name)
            axes.set_aspect("equal")
            if number % columns == 0:
                axes.set_ylabel("share that rose [fraction]")
            if number + columns >= len(curves):
                axes.set_xlabel("predicted probability [fraction]")
    return figure


def _points(curve: ReliabilityCurve) -> Float64Array:
    seen = np.array(curve.observed).ravel()
    return np.concatenate([curve.mean_probability, seen[~np.isnan(seen)]])


def _reliability(axes: Axes, curve: ReliabilityCurve, colour: str) -> None:
    seen, low, high = np.array([(bin_.value, bin_.low, bin_.high) for bin_ in curve.observed]).T
    bars = np.maximum(np.nan_to_num(np.vstack([seen - low, high - seen])), 0.0)
    axes.axline((0.5, 0.5), slope=1.0, color=GREY, linestyle="--", linewidth=1.0)
    axes.errorbar(
        curve.mean_probability,
        seen,
        yerr=bars,
        fmt="o",
        markersize=4.0,
        color=colour,
        elinewidth=1.0,
        capsize=2.0,
    )


def variable_weights_figure(
    ts_init: Int64Array,
    weights: Float64Array,
    names: Sequence[str],
    *,
    period_ns: int,
    most: int = 7,
) -> Figure:
    """Draw the mean weights of a TFT's variables over time, one above the other.

    Parameters
    ----------
    ts_init : (n_rows,) int64
        When each row was known, in any order.
    weights : (n_rows, n_variables) float
        NaN where there was no answer; such rows are left out.
    names : sequence of str
        Of the variables.
    period_ns : int
        Rows of so many nanoseconds are taken together; one at a border belongs to what ends there.
    most : int
        Variables drawn, those with the largest weights; the legend says what the others have.

    Raises
    ------
    DataError
        If shapes do not fit or no row has an answer.
    """
    _demand(
        weights.shape == (len(ts_init), len(names)),
        f"weights must have shape {(len(ts_init), len(names))}, had {weights.shape}",
    )
    period, mean = _means(ts_init, weights, period_ns)
    order = np.argsort(-mean.mean(axis=0), kind="stable")
    shown, rest = order[:most], order[most:]
    labels = [names[place] for place in shown]
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(shown))]
    title = f"{len(rest)} others: {mean[:, rest].sum(axis=1).mean():.0%}" if len(rest) else None
    with mpl.rc_context(STYLE):
        figure = new_figure(8.0, 3.6)
        axes = figure.add_subplot()
        bands = mean[:, shown].T
        axes.stackplot(date_numbers(period), *bands, labels=labels, colors=colours, linewidth=0.0)
        axes.set_ylim(bottom=0.0)
        axes.margins(x=0.0)
        axes.set_ylabel("mean weight [fraction]")
        axes.set_xlabel("time (UTC)")
        time_axis(axes)
        handles, texts = axes.get_legend_handles_labels()
        # As the bands lie: the topmost first.
        axes.legend(
            handles[::-1],
            texts[::-1],
            title=title,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
        )
    return figure


def _means(
    ts_init: Int64Array, values: Float64Array, period_ns: int
) -> tuple[Int64Array, Float64Array]:
    """Return the middles of the periods that hold answers, and the means within each."""
    known = ~np.isnan(values).any(axis=1)
    _demand(bool(known.any()), "at least one row must have an answer, none had")
    number, place = np.unique((ts_init[known] - 1) // period_ns, return_inverse=True)
    _demand(
        len(number) <= _MOST_PERIODS,
        f"period_ns must leave at most {_MOST_PERIODS} periods, left {len(number)}; "
        "take a longer one",
    )
    sums = np.zeros((len(number), values.shape[1]))
    np.add.at(sums, place, values[known])
    return number * period_ns + period_ns // 2, sums / np.bincount(place)[:, None]


def attention_figure(attention: Float64Array, *, interval_minutes: float) -> Figure:
    """Draw how far back a TFT looks: its mean attention by lag, and its spread over the rows.

    Rows whose state is younger see fewer tokens and give each more. The line "evenly" is drawn for
    the same rows as the mean at each lag, so that the two may be compared there.

    Parameters
    ----------
    attention : (n_rows, n_lags) float
        Weight of the token so many before each row's own, from 0; NaN where a row sees none.
    interval_minutes : float
        Length of a bar.

    Raises
    ------
    DataError
        If no row has an answer.
    """
    answered = attention[~np.isnan(attention[:, 0])]
    _demand(len(answered) > 0, "at least one row must have an answer, none had")
    # Far lags only some rows see; with few of them a mean says nothing.
    seen = (~np.isnan(answered)).mean(axis=0)
    lags = np.flatnonzero(seen >= 0.05)
    low, middle, high = np.nanquantile(answered[:, lags], (0.1, 0.5, 0.9), axis=0)
    mean = np.nanmean(answered[:, lags], axis=0)
    share = 1.0 / (~np.isnan(answered)).sum(axis=1, keepdims=True)
    even = np.nanmean(np.where(np.isnan(answered), np.nan, share)[:, lags], axis=0)
    with mpl.rc_context(STYLE):
        figure = new_figure(8.0, 3.0)
        axes = figure.add_subplot()
        axes.fill_between(
            lags, low, high, color=BLUE, alpha=0.2, linewidth=0.0, label="80 % of rows"
        )
        axes.plot(lags, middle, color=BLUE, linewidth=0.9, linestyle=":", label="median")
        axes.plot(lags, mean, color=BLUE, label="mean")
        axes.plot(lags, even, color=GREY, linestyle="--", linewidth=1.0, label="evenly")
        axes.set_ylim(bottom=0.0)
        axes.margins(x=0.01)
        axes.set_ylabel("attention [fraction]")
        axes.set_xlabel(f"bars before the current one ({interval_minutes:g} minutes each)")
        axes.legend(loc="upper right")
    return figure


def contributions_figure(
    contributions: Float64Array, values: Float64Array, names: Sequence[str], *, most: int = 15
) -> Figure:
    """Draw SHAP values (Lundberg et al., 2020): how much each feature moved each answer.

    Parameters
    ----------
    contributions : (n_rows, n_features) float64
        In log-odds, without the constant.
    values : (n_rows, n_features) float64
        The features; a point's colour is its place among its feature's. NaN is grey.
    names : sequence of str
        Of the features.
    most : int
        Features drawn, those with the largest mean absolute contribution.

    Raises
    ------
    DataError
        If shapes do not fit.
    """
    _demand(
        contributions.shape == values.shape == (len(values), len(names)),
        f"contributions and values must have shape {(len(values), len(names))}, "
        f"had {contributions.shape} and {values.shape}",
    )
    strength = np.abs(contributions).mean(axis=0)
    shown = np.argsort(-strength, kind="stable")[:most][::-1]
    random = np.random.default_rng(0)  # only to keep points apart
    with mpl.rc_context(STYLE):
        figure = new_figure(8.0, 0.6 + 0.27 * len(shown))
        axes = figure.add_subplot()
        axes.axvline(0.0, color=GREY, linewidth=0.8)
        points = None
        for height, column in enumerate(shown):
            points = _swarm(axes, height, contributions[:, column], values[:, column], random)
        axes.set_yticks(range(len(shown)), [names[column] for column in shown])
        axes.grid(visible=False, axis="y")
        axes.margins(y=0.02)
        axes.set_xlabel("moves the log-odds of a rise by")
        if points is not None:
            bar = figure.colorbar(points, ax=axes, ticks=[0.0, 1.0], aspect=30, pad=0.01)
            bar.ax.set_yticklabels(["low", "high"])
            bar.set_label("value of the feature", labelpad=-8)
    return figure


def _swarm(
    axes: Axes,
    height: int,
    contribution: Float64Array,
    value: Float64Array,
    random: np.random.Generator,
) -> PathCollection:
    """Draw one feature's points around a height, the denser the farther apart."""
    count, edges = np.histogram(contribution, bins=60)
    share = count.astype(np.float64) / max(int(count.max()), 1)
    density = share[np.clip(np.searchsorted(edges, contribution) - 1, 0, 59)]
    heights = height + 0.38 * density * random.uniform(-1.0, 1.0, len(contribution))
    known = ~np.isnan(value)
    place = np.full(len(value), np.nan)
    order = np.argsort(np.argsort(value[known], kind="stable"), kind="stable")
    place[known] = order / max(known.sum() - 1, 1)
    style: Any = {"s": 3.0, "linewidths": 0.0, "rasterized": True}
    axes.scatter(contribution[~known], heights[~known], color=_REST, **style)
    return axes.scatter(
        contribution[known],
        heights[known],
        c=place[known],
        cmap="cividis",
        vmin=0.0,
        vmax=1.0,
        **style,
    )


def regime_figure(ts_init: Int64Array, price: Float64Array, regime: Float64Array) -> Figure:
    """Draw a price with the regime of each bar behind it.

    Parameters
    ----------
    ts_init : (n_bars,) int64
        Ascending.
    price : (n_bars,) float64
        Close of each bar, in the quote currency.
    regime : (n_bars,) float64
        1 trend, 0 neutral, -1 mean-reverting, NaN unknown.

    Raises
    ------
    DataError
        If lengths differ, there are fewer than two bars, or a regime is none of those.
    """
    _demand(
        len(ts_init) == len(price) == len(regime) and len(price) > 1,
        "ts_init, price and regime must be of one length of at least 2, "
        f"had {len(ts_init)}, {len(price)} and {len(regime)}",
    )
    other = set(regime[~np.isnan(regime)].tolist()) - set(_REGIMES)
    _demand(not other, f"regimes must be -1, 0, 1 or NaN, were also {sorted(other)}")
    dates = date_numbers(ts_init)
    with mpl.rc_context(STYLE):
        figure = new_figure(8.0, 3.4)
        axes = figure.add_subplot()
        for value, (colour, name) in _REGIMES.items():
            axes.broken_barh(
                _stretches(dates, regime == value),
                (0.0, 1.0),
                transform=axes.get_xaxis_transform(),
                color=colour,
                alpha=0.4,
                linewidth=0.0,
                label=f"{name} ({(regime == value).mean():.0%})",
            )
        axes.plot(dates, price, color="#111827", linewidth=0.9)
        axes.set_ylabel("close [quote currency]")
        axes.set_xlabel("time (UTC)")
        axes.margins(x=0.0)
        time_axis(axes)
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3)
    return figure


def _stretches(dates: Float64Array, inside: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Return beginning and length of each stretch of bars; a bar begins where the last ended."""
    begins = np.concatenate([[2.0 * dates[0] - dates[1]], dates[:-1]])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]])))
    return [
        (float(begins[first]), float(dates[end - 1] - begins[first]))
        for first, end in zip(edges[::2], edges[1::2], strict=True)
    ]


def _demand(holds: bool, text: str) -> None:
    if not holds:
        raise DataError(text)

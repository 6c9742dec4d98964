"""The pictures of a tearsheet, of one run or of several in the same axes.

Each function draws into a panel: a figure of its own on the page, a part of a sheet on paper.
Runs are told apart by colour and by shape, for those who print in grey.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FuncFormatter, PercentFormatter

from catalog.arrays import Float64Array
from catalog.errors import ConfigError
from research.estimates import Estimate
from research.performance import Waterfall
from research.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    STYLE,
    date_numbers,
    draw_waterfall,
    new_figure,
    shade_folds,
    time_axis,
)
from research.report import Curve
from research.run_sheet import RunSheet, TradedSheet
from research.sheet_numbers import SHARES
from research.trading_details import trade_results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

type Panel = Callable[[FigureBase, Sequence[RunSheet]], None]

SKY, PINK, INK = "#56B4E9", "#CC79A7", "#111827"
_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, INK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MAX_RUNS = len(_COLOURS)
"""More runs than this cannot be told apart in one picture."""
_MANY_TRADES = 150
_BAND_LABEL = "shuffled signal, same costs (90 %)"


def check_count(runs: int) -> None:
    """Refuse more runs than can be told apart, and none.

    Raises
    ------
    ConfigError
        If so.
    """
    if not 1 <= runs <= MAX_RUNS:
        raise ConfigError(
            f"the runs of one tearsheet must be 1 to {MAX_RUNS}, were {runs}; more cannot be told "
            "apart, so draw several pages"
        )


def drawn(panel: Panel, sheets: Sequence[RunSheet], width: float, height: float) -> Figure:
    """Return a panel as a figure of its own, of so many inches."""
    with mpl.rc_context(STYLE):
        figure = new_figure(width, height)
        panel(figure, sheets)
    return figure


def _traded(sheets: Sequence[RunSheet]) -> list[tuple[int, RunSheet, TradedSheet]]:
    return [(at, one, one.trading) for at, one in enumerate(sheets) if one.trading is not None]


def _percent(axes: Axes, decimals: int | None = None) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="", decimals=decimals))


# -- equity ---------------------------------------------------------------------------------------


def equity_panel(panel: FigureBase, sheets: Sequence[RunSheet]) -> None:
    """Draw equity after and before costs, what it is held against, and drawdowns below."""
    top, bottom = panel.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    traded = _traded(sheets)
    folds = sheets[0].data.folds if len({one.data.folds for one in sheets}) == 1 else ()
    shade_folds(top, folds, named=True)
    shade_folds(bottom, folds, named=False)
    if len(traded) == 1:
        _one_equity(top, traded[0][2])
    else:
        _many_equities(top, traded)
    for at, _, found in traded:
        colour = RED if len(traded) == 1 else _COLOURS[at]
        ts, fall = found.net.drawdown().thinned()
        if len(traded) == 1:
            bottom.fill_between(date_numbers(ts), fall, 0.0, color=colour, alpha=0.3, lw=0.0)
        bottom.plot(date_numbers(ts), fall, color=colour, linewidth=0.9)
    top.axhline(0.0, color=GREY, linewidth=1.0, linestyle="--", label="flat", zorder=1)
    top.set_ylabel("return since start [%]")
    top.legend(loc="upper left", fontsize=7.5, ncols=3)
    bottom.set_ylabel("drawdown [%]")
    bottom.set_xlabel("time (UTC)")
    time_axis(bottom)
    for axes in (top, bottom):
        _percent(axes)
    top.margins(x=0.005)
    low, high = top.get_ylim()
    top.set_ylim(low, high + 0.16 * (high - low))


def _line(axes: Axes, curve: Curve, **style: Any) -> None:
    ts, level = curve.thinned()
    axes.plot(date_numbers(ts), level - 1.0, **style)


def _one_equity(axes: Axes, found: TradedSheet) -> None:
    if found.band is not None:
        ts, levels = found.band
        low, middle, high = levels - 1.0
        axes.fill_between(
            date_numbers(ts), low, high, color="#9ca3af", alpha=0.3, linewidth=0.0,
            label=_BAND_LABEL, zorder=1,
        )  # fmt: skip
        axes.plot(date_numbers(ts), middle, color="#9ca3af", linewidth=0.9, zorder=1)
    for number, curve in enumerate(found.held):
        _line(axes, curve, color=(ORANGE, GREEN, PINK)[number % 3], lw=1.1, label=curve.name)
    _line(axes, found.gross, color=SKY, lw=1.2, ls="--", label="strategy, before costs", zorder=3)
    _line(axes, found.net, color=BLUE, lw=1.8, label="strategy, after all costs", zorder=4)


def _many_equities(axes: Axes, traded: Sequence[tuple[int, RunSheet, TradedSheet]]) -> None:
    """Draw each run's net in full and gross in dashes; benchmarks once where they are the same."""
    seen: set[tuple[str, float]] = set()
    for at, one, found in traded:
        colour = _COLOURS[at]
        _line(axes, found.net, color=colour, lw=1.7, label=one.name, zorder=4)
        _line(axes, found.gross, color=colour, lw=0.9, ls="--", alpha=0.8, zorder=3)
        for curve in found.held:
            key = (curve.name, round(curve.last_return, 3))
            if key in seen:
                continue
            of = "" if len(seen) == 0 else f", {one.name}"
            seen.add(key)
            _line(axes, curve, color=GREY, lw=0.9, ls=":", label=f"{curve.name}{of}", zorder=2)
    axes.plot([], [], color=INK, lw=0.9, ls="--", label="before costs")
    bands = [(at, found.band) for at, _, found in traded if found.band is not None]
    if not bands:
        return
    last = max(float(date_numbers(ts)[-1]) for _, (ts, _) in bands)
    first = min(float(date_numbers(ts)[0]) for _, (ts, _) in bands)
    for at, (_, levels) in bands:
        place = last + (0.012 + 0.011 * at) * (last - first)
        low, middle, high = levels[:, -1] - 1.0
        axes.plot([place, place], [low, high], color=_COLOURS[at], lw=3.0, alpha=0.55)
        axes.plot([place], [middle], "_", color=INK, markersize=5.0)
    axes.plot([], [], color=GREY, lw=3.0, alpha=0.55, label="shuffled signal at the end (90 %)")


# -- predictions ----------------------------------------------------------------------------------


def reliability_panel(panel: FigureBase, sheets: Sequence[RunSheet]) -> None:
    """Draw what happened against what was said, above how often what was said."""
    top, bottom = panel.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges: list[float] = []
    for at, one in enumerate(sheets):
        curve, said = one.data.reliability, one.data.reliability.mean_probability
        _interval_points(top, said, curve.observed, at, one.name)
        probabilities = one.probabilities
        edges += [float(said.min()), float(said.max())]
        edges += np.quantile(probabilities, [0.0005, 0.9995]).tolist()
        bottom.hist(
            probabilities, bins=60, density=True, histtype="stepfilled" if at == 0 else "step",
            color=_COLOURS[at], alpha=0.5 if at == 0 else 1.0, linewidth=1.1,
        )  # fmt: skip
    ends = np.array([min(*edges, 0.49), max(*edges, 0.51)])
    top.plot(ends, ends, color=GREY, ls="--", lw=1.0, label="perfect calibration", zorder=1)
    top.axhline(0.5, color="#d1d5db", linewidth=0.8)
    top.set_ylabel("share that rose [fraction]")
    top.legend(loc="upper left", fontsize=7.5)
    bottom.set_yticks([])
    bottom.set_ylabel("rows")
    bottom.set_xlabel("predicted probability of a rise [fraction]; bins equally filled, 95 %")
    margin = 0.03 * float(ends[1] - ends[0])
    top.set_xlim(float(ends[0]) - margin, float(ends[1]) + margin)


def _interval_points(
    axes: Axes, place: Float64Array, values: Sequence[Estimate], at: int, name: str
) -> None:
    value, low, high = np.array(values, dtype=np.float64).reshape(-1, 3).T
    bars = np.maximum(np.nan_to_num(np.vstack([value - low, high - value])), 0.0)
    axes.errorbar(
        place, value, yerr=bars, fmt=_MARKERS[at], markersize=4.2, color=_COLOURS[at],
        elinewidth=1.1, capsize=2.0, label=name, zorder=3,
    )  # fmt: skip


def coverage_panel(panel: FigureBase, sheets: Sequence[RunSheet]) -> None:
    """Draw the accuracy over the most confident rows against how many these are."""
    axes = panel.subplots()
    share = 100.0 * np.array(SHARES)
    for at, one in enumerate(sheets):
        value, low, high = np.array(one.coverage, dtype=np.float64).T
        axes.fill_between(share, low, high, color=_COLOURS[at], alpha=0.15, linewidth=0.0)
        axes.plot(share, value, marker=_MARKERS[at], ms=4.0, color=_COLOURS[at], label=one.name)
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1.0)
    axes.set_xscale("log")
    ticks = [0.2, 1.0, 5.0, 20.0, 100.0]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("coverage: the most confident rows [% of all]; shade: 95 %")
    axes.set_ylabel("accuracy [%]")
    _percent(axes)
    axes.legend(loc="upper right", fontsize=7.5)


def information_panel(panel: FigureBase, sheets: Sequence[RunSheet]) -> None:
    """Draw the rank information coefficient against how long a return is held."""
    axes = panel.subplots()
    known = [(at, one, one.data.view) for at, one in enumerate(sheets) if one.data.view is not None]
    steps = sorted({row.horizon_bars for _, _, view in known for row in view.information})
    offsets = np.linspace(-0.2, 0.2, len(known)) if len(known) > 1 else np.zeros(1)
    for (at, one, view), offset in zip(known, offsets, strict=False):
        place = np.array([steps.index(row.horizon_bars) for row in view.information]) + offset
        told = f"{one.name} (model: {view.horizon_bars})" if len(known) > 1 else one.name
        _interval_points(axes, place, [row.ic for row in view.information], at, told)
        axes.plot(
            place, [row.ic.value for row in view.information], color=_COLOURS[at], lw=0.8, alpha=0.6
        )
        if view.horizon_bars in steps and len(known) == 1:
            axes.axvline(steps.index(view.horizon_bars), color=GREY, lw=1.0, ls=":")
    axes.axhline(0.0, color=GREY, linestyle="--", linewidth=1.0)
    axes.set_xticks(range(len(steps)), [str(step) for step in steps])
    axes.set_xlabel("held for [bars] from the next open; lines: 95 %")
    axes.set_ylabel("rank information coefficient")
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper right", fontsize=7.5)


_FOLD_ROWS = (
    ("prediction", "auc", "AUC [fraction]", 0.5),
    ("prediction", "accuracy_at_10pct", "accuracy, most\nconfident tenth [%]", 0.5),
    ("trading", "net_sharpe", "Sharpe ratio,\nnet, annual", 0.0),
)


def folds_panel(panel: FigureBase, sheets: Sequence[RunSheet]) -> None:
    """Draw numbers of each fold and of all, with their intervals, against none."""
    rows = [
        (values, label, level)
        for part, key, label, level in _FOLD_ROWS
        if any(values := [one.by_fold(part, key) for one in sheets])
    ]
    all_axes = np.atleast_1d(panel.subplots(len(rows), 1, sharex=True))
    names = list(dict.fromkeys(name for values, _, _ in rows for one in values for name in one))
    # Pooled stands last, also where one run has more folds than another.
    names = [*(name for name in names if name != "pooled"), "pooled"]
    offsets = np.linspace(-0.2, 0.2, len(sheets)) if len(sheets) > 1 else np.zeros(1)
    for axes, (values, label, level) in zip(all_axes, rows, strict=True):
        axes.axhline(level, color=GREY, linestyle="--", linewidth=1.0)
        axes.axvspan(len(names) - 1.5, len(names) - 0.5, color="#f3f4f6", lw=0.0, zorder=0)
        for at, (one, offset) in enumerate(zip(sheets, offsets, strict=True)):
            found = values[at]
            place = np.array([names.index(name) for name in found]) + offset
            _interval_points(axes, place, list(found.values()), at, one.name)
        axes.set_ylabel(label)
        axes.grid(visible=False, axis="x")
        if "%" in label:
            _percent(axes)
    short = [name.removeprefix("fold ") for name in names]
    all_axes[-1].set_xticks(range(len(names)), short)
    all_axes[-1].set_xlabel("tested fold; lines: 95 %")
    if len(sheets) > 1:
        all_axes[0].legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), fontsize=7.5, ncols=3)


# -- trading --------------------------------------------------------------------------------------


def waterfall_panel(panel: FigureBase, sheets: Sequence[RunSheet]) -> None:
    """Draw the way from gross to net of each run, on one scale."""
    traded = _traded(sheets)
    all_axes = np.atleast_1d(panel.subplots(1, len(traded), sharey=True))
    for axes, (_, one, found) in zip(all_axes, traded, strict=True):
        draw_waterfall(axes, found.waterfall)
        if len(traded) > 1:
            axes.set_title(one.name, fontsize=8.0)
            axes.set_ylabel("result [USDT]" if axes is all_axes[0] else "")
            axes.tick_params(axis="x", labelsize=6.5 if len(traded) > 2 else 7.5)
    ends = [end for _, _, found in traded for end in _steps(found.waterfall)]
    room = 0.12 * (max(ends) - min(ends)) or 1.0
    all_axes[0].set_ylim(min(ends) - room, max(ends) + room)


def _steps(waterfall: Waterfall) -> list[float]:
    """Return where the bars of a waterfall begin and end."""
    changes = (waterfall.gross, -waterfall.fees, -waterfall.slippage, waterfall.funding)
    return [0.0, *np.cumsum(changes).tolist()]


def activity_panel(panel: FigureBase, sheets: Sequence[RunSheet]) -> None:
    """Draw leverage in use, net exposure and turnover by day."""
    gross, net, turnover = panel.subplots(3, 1, sharex=True)
    traded = _traded(sheets)
    for at, one, found in traded:
        days = date_numbers(found.activity.ts)
        colour = _COLOURS[at]
        if len(traded) == 1:
            gross.fill_between(
                days, found.activity.most, 0.0, color=SKY, alpha=0.35, lw=0.0, step="pre",
                label="largest of the day",
            )  # fmt: skip
        gross.plot(days, found.activity.gross, color=colour, lw=1.0,
                   label="mean of the day" if len(traded) == 1 else one.name)  # fmt: skip
        net.plot(days, found.activity.net, color=colour, lw=1.0)
        turnover.plot(days, _weekly(found.activity.turnover), color=colour, lw=1.2)
    net.axhline(0.0, color=GREY, linestyle="--", linewidth=1.0)
    gross.set_ylabel("gross exposure\n(leverage) [x equity]")
    net.set_ylabel("net exposure\n[x equity]")
    turnover.set_ylabel("turnover, mean of\n7 days [x equity/day]")
    turnover.set_ylim(bottom=0.0)
    gross.set_ylim(bottom=0.0)
    gross.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), fontsize=7.5, ncols=3)
    turnover.set_xlabel("time (UTC)")
    time_axis(turnover)
    turnover.margins(x=0.005)


def _weekly(values: Float64Array) -> Float64Array:
    """Return the mean of each day and the six before, as far as there are any."""
    total = np.cumsum(np.append(0.0, np.nan_to_num(values)))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - 7, 0)
    return np.asarray((total[last] - total[first]) / (last - first))


def attribution_panel(panel: FigureBase, sheets: Sequence[RunSheet]) -> None:
    """Draw where the net result comes from: a column of bars for each run, on one scale."""
    traded = _traded(sheets)
    rows: dict[tuple[str, str], None] = {}
    tables = [_sources(found) for _, _, found in traded]
    for title in dict.fromkeys(key[0] for table in tables for key in table):
        rows |= dict.fromkeys(key for table in tables for key in table if key[0] == title)
    place: dict[tuple[str, str], float] = {}
    at, last = 0.0, ""
    for key in rows:
        at += 1.0 if key[0] == last else 2.0
        place[key], last = at, key[0]
    all_axes = np.atleast_1d(panel.subplots(1, len(traded), sharey=True, sharex=True))
    for axes, (_, one, _), table in zip(all_axes, traded, tables, strict=True):
        _bars(axes, place, table)
        if len(traded) > 1:
            axes.set_title(one.name, fontsize=8.0)
        axes.set_xlabel("net [USDT]" if len(traded) > 1 else "net result [USDT]; trades beside")
    first = all_axes[0]
    first.set_yticks(list(place.values()), [_short(key[1]) for key in place])
    for title in dict.fromkeys(key[0] for key in rows):
        top = min(value for key, value in place.items() if key[0] == title)
        first.annotate(
            title, (0.0, top - 0.95), xycoords=("axes fraction", "data"), xytext=(-4, 0),
            textcoords="offset points", ha="right", va="center", fontsize=7.0, color=GREY,
            annotation_clip=False, style="italic",
        )  # fmt: skip
    first.set_ylim(at + 0.8, 0.2)


def _short(name: str) -> str:
    return textwrap.shorten(name.split(".")[0].replace("_", " "), 24, placeholder="...")


def _sources(found: TradedSheet) -> dict[tuple[str, str], tuple[float, int | None]]:
    """Return net result and number of trades by title and name."""
    table: dict[tuple[str, str], tuple[float, int | None]] = {
        (title, row.name): (row.net, row.trades)
        for title, group in found.groups.items()
        for row in group
        if row.name != "all"
    }
    return table | {("Expert, by its weight", one.name): (one.net, None) for one in found.experts}


def _bars(
    axes: Axes,
    place: Mapping[tuple[str, str], float],
    table: Mapping[tuple[str, str], tuple[float, int | None]],
) -> None:
    for key, (net, trades) in table.items():
        axes.barh(place[key], net, 0.7, color=BLUE if net > 0.0 else RED, zorder=2)
        if trades is not None:
            axes.annotate(
                f"{trades:,}", (net, place[key]), xytext=(3 if net >= 0.0 else -3, 0),
                textcoords="offset points", ha="left" if net >= 0.0 else "right", va="center",
                fontsize=6.5, color=GREY,
            )  # fmt: skip
    axes.axvline(0.0, color="#374151", linewidth=0.9)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(axis="x", labelrotation=30.0)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.16)


def trades_panel(panel: FigureBase, sheets: Sequence[RunSheet]) -> None:
    """Draw a run's entries and exits on the prices of its instruments; of the first run given."""
    sheet = sheets[0]
    prices = {} if sheet.data.view is None else sheet.data.view.prices
    all_axes = np.atleast_1d(panel.subplots(max(len(prices), 1), 1, sharex=True))
    entered = None if sheet.trading is None else sheet.trading.entered
    for axes, (name, curve) in zip(all_axes, prices.items(), strict=True):
        axes.plot(date_numbers(curve.ts), curve.level, color="#9ca3af", lw=0.8, zorder=1)
        if entered is not None:
            own = entered[entered["instrument_id"].astype(str) == name]
            _marks(axes, own)
        axes.set_ylabel(f"{name.split('.')[0]}\n[USDT]")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    for at, label in ((BLUE, "long from its entry to its exit"), (RED, "short")):
        all_axes[0].plot([], [], color=at, marker="^" if at == BLUE else "v", ms=4.0, label=label)
    all_axes[0].plot([], [], "x", color=INK, ms=4.0, label="exit at a loss after costs")
    all_axes[0].legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), fontsize=7.5, ncols=3)
    all_axes[-1].set_xlabel("time (UTC)")
    time_axis(all_axes[-1])
    all_axes[-1].margins(x=0.005)


def _marks(axes: Axes, own: pd.DataFrame) -> None:
    """Draw trades: a line from entry to exit, a mark at the entry, a cross where it lost."""
    from matplotlib.collections import LineCollection

    # Thousands of marks as shapes make a page of many megabytes.
    dense = len(own) > _MANY_TRADES
    size, alpha = (max(2.5, 1500.0 / len(own)), 0.45) if dense else (22.0, 0.95)
    style: dict[str, Any] = {"alpha": alpha, "rasterized": dense}
    net, _ = trade_results(own)
    for side, colour, shape in (("long", BLUE, "^"), ("short", RED, "v")):
        rows = (own["side"] == side).to_numpy()
        opened = date_numbers(own["ts_opened"].to_numpy(dtype=np.int64)[rows])
        closed = date_numbers(own["ts_closed"].to_numpy(dtype=np.int64)[rows])
        start, end = (own[name].to_numpy()[rows] for name in ("average_open", "average_close"))
        ways = np.stack([opened, start, closed, end], axis=1).reshape(-1, 2, 2)
        axes.add_collection(LineCollection(list(ways), colors=colour, linewidths=0.8, **style))
        axes.scatter(opened, start, size, color=colour, marker=shape, lw=0.0, zorder=3, **style)
        lost = net[rows] < 0.0
        axes.scatter(
            closed[lost], end[lost], 0.6 * size, color=INK, marker="x", lw=0.7, zorder=4, **style
        )

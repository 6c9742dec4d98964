"""The pictures of a tuning: see `research.plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import NullLocator

from research.plots import BLUE, COLOURS, GREY, ORANGE, RED, STYLE, new_figure, png_bytes
from research.tuning_report import TITLES, best_until

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from research.tuning_space import ParameterRange, SearchSpace

_COLUMNS = 3
_RANK = "mean rank over the objectives [0 to 1]"
_BLACK = "#111827"


def tuning_pictures(record: Mapping[str, Any], space: SearchSpace) -> dict[str, bytes]:
    """Return the pictures as PNG, by the kinds of `research.tuning_report.PICTURES`.

    Parameters
    ----------
    record : mapping
        From `tuning_record`.
    space : SearchSpace
        The parameters.
    """
    figures = {
        "history": history_figure(record),
        "importance": importance_figure(record),
        "slices": slices_figure(record, space),
        "plateau": plateau_figure(record),
    }
    return {name: png_bytes(figure) for name, figure in figures.items()}


def _score_title(record: Mapping[str, Any]) -> str:
    objectives = record["objectives"]
    return TITLES[objectives[0]] if len(objectives) == 1 else _RANK


def history_figure(record: Mapping[str, Any]) -> Figure:
    """Draw every trial's score in order, the best until then, and where the chosen one stands."""
    rows, scores = record["history"], record["choice"]["scores"]
    value = np.array([scores[str(one["number"])] for one in rows])
    whole = np.array([one["whole"] and one["feasible"] for one in rows])
    at = np.arange(len(rows))
    with mpl.rc_context(STYLE):
        figure = new_figure(8.2, 3.4)
        axes = figure.add_subplot()
        axes.plot(at[~whole], value[~whole], "x", color=GREY, label="given up, or too few trades")
        axes.plot(at[whole], value[whole], "o", color=BLUE, markersize=4.0, label="judged")
        axes.plot(at, best_until(record), color=ORANGE, drawstyle="steps-post", label="best so far")
        place = next(
            place for place, one in enumerate(rows) if one["number"] == record["choice"]["chosen"]
        )
        axes.plot(place, value[place], "D", color=RED, markersize=7.0, label="chosen")
        _robust(axes, value, value[whole])
        axes.set_xlabel("trial")
        axes.set_ylabel(_score_title(record))
        figure.legend(loc="outside upper center", ncols=4)
    return figure


def _robust(axes: Axes, value: Any, kept: Any) -> None:
    """Show all that was judged; what lies far below it is cut off at the border."""
    low, high = float(kept.min()), float(value.max())
    spread = max(high - low, 1e-9)
    axes.set_ylim(max(float(value.min()), low - spread) - 0.06 * spread, high + 0.08 * spread)


def importance_figure(record: Mapping[str, Any]) -> Figure:
    """Draw the share of the variance that each parameter explains, for each objective."""
    found = {name: one for name, one in record["importance"].items() if one}
    largest = {
        key: max((one.get(key, 0.0) for one in found.values()), default=0.0)
        for key in record["space"]
    }
    keys = sorted(largest, key=lambda key: largest[key])
    with mpl.rc_context(STYLE):
        figure = new_figure(7.4, 0.9 + 0.28 * len(keys))
        axes = figure.add_subplot()
        height = 0.8 / max(len(found), 1)
        for number, (name, one) in enumerate(found.items()):
            place = np.arange(len(keys)) + (number - (len(found) - 1) / 2.0) * height
            share = [one.get(key, 0.0) for key in keys]
            axes.barh(place, share, height, color=COLOURS[number], label=TITLES[name])
        axes.set_yticks(range(len(keys)), keys)
        axes.set_xlabel("share of the variance explained [fraction]")
        axes.grid(visible=False, axis="y")
        if found:
            figure.legend(loc="outside upper center", ncols=2)
        else:
            axes.set_title("too few trials to tell", fontsize=8.0)
    return figure


def slices_figure(record: Mapping[str, Any], space: SearchSpace) -> Figure:
    """Draw results along each parameter, one panel each."""
    lines = math.ceil(len(space.parameters) / _COLUMNS)
    with mpl.rc_context(STYLE):
        figure = new_figure(9.4, 2.3 * lines)
        panels = figure.subplots(lines, _COLUMNS, sharey=True, squeeze=False).ravel()
        for axes, (key, one) in zip(panels, space.parameters.items(), strict=False):
            _slice(axes, record, key, one)
        for axes in panels[len(space.parameters) :]:
            axes.set_axis_off()
        for axes in panels[::_COLUMNS]:
            axes.set_ylabel("rank" if len(record["objectives"]) > 1 else record["objectives"][0])
    return figure


def _slice(axes: Axes, record: Mapping[str, Any], key: str, one: ParameterRange) -> None:
    scores, plateau = record["choice"]["scores"], set(record["choice"]["plateau"])
    rows = [row for row in record["history"] if row["whole"] and row["feasible"]]
    found = [row["params"][key] for row in rows]
    at = np.array([one.position(value) if one.choices is not None else value for value in found])
    value = np.array([scores[str(row["number"])] for row in rows])
    best = np.array([row["number"] in plateau for row in rows])
    if one.choices is not None:
        # Beside one another, not on top: spread evenly over a part of the place.
        at = at + np.linspace(-0.18, 0.18, len(at)) if len(at) > 1 else at
        axes.set_xticks(range(len(one.choices)), [str(choice) for choice in one.choices])
        axes.set_xlim(-0.5, len(one.choices) - 0.5)
    elif one.log:
        low, high = one.ends
        ticks = [low, math.sqrt(low * high), high]
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{float(f'{tick:.2g}'):g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        margin = (high / low) ** 0.04
        axes.set_xlim(low / margin, high * margin)
    else:
        low, high = one.ends
        axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    axes.plot(at[~best], value[~best], "o", mfc="none", color=GREY, markersize=3.5, mew=0.8)
    axes.plot(at[best], value[best], "o", color=BLUE, markersize=4.5)
    chosen = [row["number"] == record["choice"]["chosen"] for row in rows]
    axes.plot(at[chosen], value[chosen], "D", color=RED, markersize=6.5)
    axes.set_xlabel(key if len(key) < 34 else f"…{key[-32:]}")


def plateau_figure(record: Mapping[str, Any]) -> Figure:
    """Draw what trials are worth by themselves against the mean of their neighbourhoods."""
    choice = record["choice"]
    means, scores = choice["neighbourhood_means"], choice["scores"]
    names = list(means)
    alone, around = (np.array([one[name] for name in names]) for one in (scores, means))
    with mpl.rc_context(STYLE):
        figure = new_figure(4.9, 4.4)
        axes = figure.add_subplot()
        ends = [float(min(alone.min(), around.min())), float(max(alone.max(), around.max()))]
        axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1.0)
        axes.plot(alone, around, "o", mfc="none", color=GREY, markersize=4.0, label="judged")
        for numbers, marker, colour, label in (
            (choice["plateau"], "o", BLUE, "best tenth of neighbourhoods"),
            ([choice["chosen"]], "D", RED, "chosen"),
            ([choice["best"]], "+", _BLACK, "single best"),
        ):
            places = [names.index(str(number)) for number in numbers]
            axes.plot(
                alone[places], around[places], marker, color=colour, ls="", ms=7.0, label=label
            )
        title = _score_title(record)
        axes.set_xlabel(f"by itself: {title}")
        axes.set_ylabel(f"mean of {choice['neighbours']} neighbours")
        figure.legend(loc="outside upper center", ncols=2)
    return figure

"""The pictures of a study, drawn from its record: see `research.plots`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from catalog.arrays import Float64Array
from research.estimates import Estimate
from research.expert_plots import reliability_grid
from research.metrics import ReliabilityCurve
from research.plots import COLOURS, GREY, STYLE, new_figure, png_bytes
from research.study_tables import CHOSEN, Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLACK = "#111827"


def study_pictures(found: Record) -> dict[str, bytes]:
    """Return the pictures of one horizon as PNG, by kind: reliability, folds, weights.

    Weights are drawn where there are several experts, curves where somebody answered.

    Parameters
    ----------
    found : dict
        From `research.study.horizon_record`.
    """
    figures = {"folds": skill_figure(found["folds"])}
    if found["reliability"]:
        figures["reliability"] = reliability_grid(_curves(found["reliability"]))
    if len(found["weights"]["by_fold"][0]["weights"]) > 1:
        figures["weights"] = weights_figure(found["weights"]["by_fold"])
    return {kind: png_bytes(figure) for kind, figure in figures.items()}


def _curves(record: Mapping[str, Record]) -> dict[str, ReliabilityCurve]:
    return {
        name: ReliabilityCurve(
            np.array(curve["mean"]),
            tuple(Estimate(*_ends(one)) for one in curve["observed"]),
            np.array(curve["count"], dtype=np.int64),
        )
        for name, curve in record.items()
    }


def _ends(record: Mapping[str, float | None]) -> Float64Array:
    """Return value, low and high, NaN where there is none."""
    values = [record[key] for key in ("value", "low", "high")]
    return np.array([np.nan if value is None else value for value in values])


def _colours(names: list[str]) -> dict[str, str]:
    """Return one colour for each expert, by place, and black for the fusion."""
    experts = [name for name in names if name != CHOSEN]
    found = {name: COLOURS[at % (len(COLOURS) - 1)] for at, name in enumerate(experts)}
    return {**found, CHOSEN: _BLACK}


def skill_figure(folds: list[Record]) -> Figure:
    """Draw the log-loss skill of experts and fusion in each fold, with intervals.

    Parameters
    ----------
    folds : list of dict
        From `research.study_tables.skill_by_fold`.
    """
    names = list(folds[0]["skill"])
    colours = _colours(names)
    with mpl.rc_context(STYLE):
        figure = new_figure(8.2, 3.6)
        axes = figure.add_subplot()
        axes.axhline(0.0, color=GREY, linewidth=1.0, linestyle="--")
        offsets = np.linspace(-0.3, 0.3, len(names)) if len(names) > 1 else np.zeros(1)
        for name, offset in zip(names, offsets, strict=True):
            value, low, high = np.array([_ends(fold["skill"][name]) for fold in folds]).T
            bars = np.maximum(np.nan_to_num(np.vstack([value - low, high - value])), 0.0)
            axes.errorbar(
                np.arange(len(folds)) + offset,
                value,
                yerr=bars,
                fmt="D" if name == CHOSEN else "o",
                markersize=4.5,
                color=colours[name],
                elinewidth=1.1,
                capsize=0.0,
                label=name,
            )
        axes.set_xticks(range(len(folds)), [_fold_label(fold) for fold in folds])
        axes.set_ylabel("log-loss skill [fraction]")
        axes.set_xlabel("tested fold; bars: 95 % of the bootstrap over days")
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside upper center", ncols=min(len(names), 7))
    return figure


def _fold_label(fold: Mapping[str, Any]) -> str:
    return f"{fold['fold']}\n{fold['from']}\n{fold['to']}"


def weights_figure(groups: list[Record]) -> Figure:
    """Draw the mean weights of the experts in each fold, one above the other.

    Parameters
    ----------
    groups : list of dict
        ``by_fold`` of `research.study_tables.mean_weights`.
    """
    names = list(groups[0]["weights"])
    colours = _colours(names)
    with mpl.rc_context(STYLE):
        figure = new_figure(8.2, 3.0)
        axes = figure.add_subplot()
        bottom = np.zeros(len(groups))
        for name in names:
            height = np.array([group["weights"][name] for group in groups])
            axes.bar(
                range(len(groups)), height, 0.62, bottom, color=colours[name], label=name, zorder=2
            )
            _write_shares(axes, height, bottom)
            bottom += height
        axes.set_xticks(range(len(groups)), [group["group"] for group in groups])
        axes.set_ylabel("mean weight [fraction]")
        axes.set_xlabel("tested fold")
        axes.set_ylim(0.0, 1.0)
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside upper center", ncols=min(len(names), 7))
    return figure


def _write_shares(axes: Any, height: Float64Array, bottom: Float64Array) -> None:
    """Write shares into their bars, where there is room."""
    for at, (share, start) in enumerate(zip(height.tolist(), bottom.tolist(), strict=True)):
        if share >= 0.06:
            axes.text(
                at,
                start + share / 2.0,
                f"{share:.2f}",
                ha="center",
                va="center",
                fontsize=7.0,
                color="white",
            )

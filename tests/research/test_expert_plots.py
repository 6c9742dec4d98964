"""The experts' pictures show the numbers that they were given, and say why they cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR
from research.estimates import Estimate
from research.expert_plots import (
    attention_figure,
    contributions_figure,
    regime_figure,
    reliability_grid,
    variable_weights_figure,
)
from research.metrics import ReliabilityCurve
from research.plots import svg_uri

NAN = float("nan")
START = 1_700_000_000_000_000_000 // NS_PER_DAY * NS_PER_DAY


def curve(shift: float = 0.0) -> ReliabilityCurve:
    said = np.array([0.45, 0.5, 0.56])
    observed = tuple(Estimate(p + shift, p + shift - 0.01, p + shift + 0.01) for p in said)
    return ReliabilityCurve(said, observed, np.array([10, 10, 10]))


def weights(days: int = 10, variables: int = 9) -> tuple[np.ndarray, np.ndarray, list[str]]:
    random = np.random.default_rng(1)
    # The last bar of a day closes at midnight.
    ts_init = START + np.arange(1, days * 24 + 1) * NS_PER_HOUR
    found = random.dirichlet(np.arange(1.0, variables + 1.0), size=len(ts_init))
    found[:5] = np.nan
    return ts_init, found, [f"variable_{place}" for place in range(variables)]


def regimes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ts_init = START + np.arange(1, 9) * NS_PER_HOUR
    regime = np.array([NAN, 1.0, 1.0, 0.0, -1.0, -1.0, 1.0, 0.0])
    return ts_init, np.linspace(100.0, 107.0, 8), regime


def only_axes(figure: Figure) -> Any:
    (axes,) = figure.axes
    return axes


def test_every_expert_has_a_panel_and_all_have_one_scale() -> None:
    figure = reliability_grid(
        {"lightgbm": curve(), "tft": curve(0.02), "lstm": curve(-0.05)}, columns=2
    )
    assert [axes.get_title() for axes in figure.axes] == ["lightgbm", "tft", "lstm"]
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}
    assert len(limits) == 1
    low, high = limits.pop()[0]
    assert low < 0.39 < 0.59 < high  # with the intervals' ends
    panel: Any = figure.axes[1]
    points = panel.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[0.45, 0.47], [0.5, 0.52], [0.56, 0.58]])


def test_bands_of_weights_are_the_means_of_periods() -> None:
    ts_init, found, names = weights()
    order = np.random.default_rng(0).permutation(len(ts_init))
    figure = variable_weights_figure(
        ts_init[order], found[order], names, period_ns=NS_PER_DAY, most=3
    )
    axes = only_axes(figure)
    legend = axes.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    mean = np.nanmean(found, axis=0)
    strongest = [names[place] for place in np.argsort(-mean)[:3]]
    assert texts == strongest[::-1]
    others = 1.0 - np.sort(mean)[-3:].sum()
    assert legend.get_title().get_text() == f"6 others: {others:.0%}"
    top = axes.collections[0].get_paths()[0].vertices
    first_day = np.nanmean(found[:24, names.index(strongest[0])])
    middle = START / NS_PER_DAY + 0.5
    heights = top[np.isclose(top[:, 0], middle), 1]
    assert heights.max() == pytest.approx(first_day)
    assert len(axes.collections) == 3


def test_attention_is_drawn_where_enough_rows_see() -> None:
    attention = np.full((100, 8), np.nan)
    attention[:90, :4] = [0.4, 0.3, 0.2, 0.1]
    attention[0, 4:6] = 0.0  # one row alone sees so far
    axes = only_axes(attention_figure(attention, interval_minutes=15.0))
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    np.testing.assert_allclose(lines["mean"], np.column_stack([range(4), [0.4, 0.3, 0.2, 0.1]]))
    np.testing.assert_allclose(lines["evenly"][:, 1], (89 * 0.25 + 1.0 / 6.0) / 90)
    assert "15 minutes" in axes.get_xlabel()


def test_looking_evenly_is_drawn_for_the_rows_that_see_so_far() -> None:
    attention = np.full((100, 4), np.nan)
    attention[:50] = 0.25
    attention[50:, :2] = 0.5
    axes = only_axes(attention_figure(attention, interval_minutes=15.0))
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_allclose(lines["evenly"], [0.375, 0.375, 0.25, 0.25])
    np.testing.assert_allclose(lines["mean"], lines["evenly"])


def test_features_stand_in_the_order_of_their_contributions() -> None:
    random = np.random.default_rng(3)
    values = random.normal(size=(200, 4))
    values[:20, 2] = np.nan
    contributions = random.normal(size=(200, 4)) * [0.1, 3.0, 1.0, 0.5]
    figure = contributions_figure(contributions, values, ["a", "b", "c", "d"], most=3)
    axes: Any = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["d", "c", "b"]
    drawn = sum(len(points.get_offsets()) for points in axes.collections)
    assert drawn == 3 * 200
    highest = np.concatenate([np.asarray(points.get_offsets()) for points in axes.collections[-2:]])
    np.testing.assert_allclose(np.sort(highest[:, 0]), np.sort(contributions[:, 1]))
    assert (np.abs(highest[:, 1] - 2.0) < 0.5).all()


def test_regimes_cover_the_bars_that_they_are_of() -> None:
    ts_init, price, regime = regimes()
    axes = only_axes(regime_figure(ts_init, price, regime))
    hours = {}
    for collection in axes.collections:
        spans = [path.vertices[:, 0] for path in collection.get_paths()]
        ends = [
            (span.min() - START / NS_PER_DAY, span.max() - START / NS_PER_DAY) for span in spans
        ]
        hours[collection.get_label()] = np.round(np.array(ends) * 24.0, 6).tolist()
    assert hours == {
        "trend (38%)": [[1.0, 3.0], [6.0, 7.0]],
        "neutral (25%)": [[3.0, 4.0], [7.0, 8.0]],
        "mean-reverting (25%)": [[4.0, 6.0]],
    }


@pytest.mark.parametrize(
    "draw",
    [
        lambda: reliability_grid({"tft": curve()}),
        lambda: variable_weights_figure(*weights(), period_ns=NS_PER_DAY),
        lambda: attention_figure(np.full((5, 3), 1 / 3), interval_minutes=15.0),
        lambda: contributions_figure(np.eye(3), np.eye(3), ["a", "b", "c"]),
        lambda: regime_figure(*regimes()),
    ],
)
def test_the_same_numbers_give_the_same_bytes(draw: Callable[[], Figure]) -> None:
    assert svg_uri(draw()) == svg_uri(draw())


def test_what_cannot_be_drawn_is_refused() -> None:
    ts_init, found, names = weights()
    with pytest.raises(DataError, match="at least one expert"):
        reliability_grid({})
    with pytest.raises(DataError, match=r"weights must have shape \(240, 8\), had \(240, 9\)"):
        variable_weights_figure(ts_init, found, names[:8], period_ns=NS_PER_DAY)
    with pytest.raises(DataError, match="at least one row must have an answer"):
        variable_weights_figure(ts_init, found * np.nan, names, period_ns=NS_PER_DAY)
    many = START + np.arange(401) * NS_PER_DAY
    with pytest.raises(DataError, match="at most 400 periods, left 401"):
        variable_weights_figure(many, np.ones((401, 1)), ["a"], period_ns=NS_PER_DAY)
    with pytest.raises(DataError, match="at least one row must have an answer"):
        attention_figure(np.full((5, 3), NAN), interval_minutes=15.0)
    with pytest.raises(DataError, match=r"must have shape \(3, 2\), had \(3, 3\) and \(3, 3\)"):
        contributions_figure(np.eye(3), np.eye(3), ["a", "b"])
    ts, price, regime = regimes()
    with pytest.raises(DataError, match="one length of at least 2, had 8, 8 and 7"):
        regime_figure(ts, price, regime[1:])
    with pytest.raises(DataError, match=r"must be -1, 0, 1 or NaN, were also \[3.0\]"):
        regime_figure(ts, price, np.where(regime == 0.0, 3.0, regime))

"""The pictures of a validation show what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from catalog.timestamps import parse_time
from research.validation_plots import claims_figure, null_figure, paths_figure


def test_paths_are_dated_and_compounded() -> None:
    days = np.linspace(parse_time("2023-01-01"), parse_time("2025-05-17"), 868).astype(np.int64)
    figure = paths_figure(days, [np.full(867, 0.001), np.append(np.zeros(866), np.nan)])
    axes = figure.get_axes()[0]
    figure.draw_without_rendering()  # ticks are made while drawing
    shown = " ".join(label.get_text() for label in axes.get_xticklabels())
    assert "2024" in shown
    assert "2025" in shown
    up, flat = (line.get_ydata() for line in axes.get_lines()[1:])
    assert np.asarray(up)[-1] == pytest.approx(1.001**867 - 1.0)
    assert not np.asarray(flat).any()


def test_the_real_result_is_drawn_among_the_null_results() -> None:
    figure = null_figure({"net_sharpe": [0.0, 1.0]}, {"net_sharpe": 3.0}, {"net_sharpe": 0.25})
    axes = figure.get_axes()[0]
    assert list(axes.get_lines()[0].get_xdata()) == [3.0, 3.0]
    assert sum(bar.get_height() for bar in axes.patches) == 2
    assert "p = 0.250" in axes.get_xlabel()


def test_claims_are_drawn_by_edge() -> None:
    rows = [{"edge": 0.0, "dsr": None}, {"edge": 0.0, "dsr": 0.4}, {"edge": 1.0, "dsr": 0.99}]
    axes = claims_figure(rows, 0.95).get_axes()[0]
    line, none, planted = axes.get_lines()
    assert list(line.get_xdata()) == [0.95, 0.95]
    assert list(none.get_xdata()) == [0.0, 0.4]
    assert list(planted.get_xdata()) == [0.99]

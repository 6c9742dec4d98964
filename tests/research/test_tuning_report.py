"""The page and the pictures of a tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research.plots import png_bytes
from research.tuning import TunedTrial, choose
from research.tuning_plots import (
    history_figure,
    plateau_figure,
    slices_figure,
    tuning_pictures,
)
from research.tuning_report import PICTURES, best_until, tuning_markdown, tuning_record
from research.tuning_space import ParameterRange, SearchSpace

SPACE = SearchSpace(
    parameters={
        "experts.lightgbm.num_leaves": ParameterRange(low=7, high=63, log=True),
        "experts.lightgbm.learning_rate": ParameterRange(low=0.02, high=0.2, log=True),
        "label.horizon_bars": ParameterRange(choices=(1, 4, 16)),
        "strategy.entry_threshold": ParameterRange(low=0.51, high=0.64, step=0.005),
        "strategy.position_frac": ParameterRange(low=0.05, high=0.4),
    }
)
OBJECTIVES = ("sharpe", "skill")


def made_up(count: int = 60, seed: int = 1) -> list[TunedTrial]:
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        leaves, horizon = int(rng.integers(7, 64)), int(rng.choice([1, 4, 16]))
        entry = round(float(rng.integers(0, 27)) * 0.005 + 0.51, 3)
        params: dict[str, Any] = {
            "experts.lightgbm.num_leaves": leaves,
            "experts.lightgbm.learning_rate": float(np.exp(rng.uniform(np.log(0.02), np.log(0.2)))),
            "label.horizon_bars": horizon,
            "strategy.entry_threshold": entry,
            "strategy.position_frac": float(rng.uniform(0.05, 0.4)),
        }
        hill = 2.0 * np.exp(-(((entry - 0.56) / 0.03) ** 2)) - (horizon == 1)
        values = (float(hill + 0.4 * rng.normal()), float(0.01 - 0.0001 * leaves))
        facts = {
            "trades": int(rng.integers(0, 300)),
            "net_return": 0.01 * values[0],
            "seconds": {"fit": 1.0, "replay": 2.0},
        }
        whole = bool(rng.random() < 0.8)
        fit = f"{leaves}"
        trials.append(
            TunedTrial(number, params, whole, facts["trades"] > 30, values, (values,), fit, facts)
        )
    return trials


def made_record(trials: list[TunedTrial], objectives: tuple[str, ...] = OBJECTIVES) -> Any:
    choice = choose(trials, SPACE)
    found = tuning_record(trials, choice, SPACE, objectives=objectives, seed=7)
    return found | {
        "profile": "made-up",
        "market": {
            **{"tested_from": "2023-07-02 00:00:00", "to": "2024-01-01 00:00:00"},
            "folds": 3,
        },
        "synthetic": True,
        "counts": {
            **{"trials": len(trials) + 1, "whole": 48, "given_up": 12, "refused": 1},
            **{"too_few_trades": 5, "min_trades": 30, "fits": 15},
        },
        "baseline": {"running": [[0.1, 0.2]], "trades": 0, "net_return": None},
        "trials": {"dsr": 0.12, "count": 61, "threshold_annual": 1.9},
        "provenance": {"version": "0", "data": "d" * 64, "seed": 7, "question": "q" * 64},
        "resources": {
            **{"seconds": {"total": 3.0}, "workers": 2, "trial_seconds": 4.0},
            "peak_memory_mb": 500.0,
        },
    }


@pytest.fixture(scope="module")
def record() -> Any:
    return made_record(made_up())


def test_the_page_says_what_was_chosen_and_that_it_proves_nothing(record: Any) -> None:
    page = tuning_markdown(record)
    for key, value in record["chosen"]["params"].items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        assert f"| `{key}` | {shown} |" in page
    assert "made up" in page
    assert "say nothing about what it will earn" in page
    assert "probability 0.120 (deflated Sharpe ratio)" in page
    assert f"stands on a {record['choice']['verdict']}" in page
    assert page.count("](tuning-") == len(PICTURES)
    assert "did no worse" not in page
    better = record["baseline"] | {"running": [[9.9, 9.9]]}
    assert "did no worse than what was chosen" in tuning_markdown(record | {"baseline": better})
    spike = record | {"choice": record["choice"] | {"verdict": "unknown", "firmness": None}}
    assert "neighbours keep an unknown part of its lead" in tuning_markdown(spike)


def test_the_importance_of_the_page_is_that_of_what_decides(record: Any) -> None:
    assert next(iter(record["importance"]["sharpe"])) == "strategy.entry_threshold"
    assert next(iter(record["importance"]["skill"])) == "experts.lightgbm.num_leaves"
    page = tuning_markdown(record)
    table = page[page.index("## Importance") :]
    # The first row is the parameter that explains most of anything.
    assert table.splitlines()[4].startswith("| `experts.lightgbm.num_leaves` |")


def test_trials_are_listed_best_first_without_those_that_do_not_count(record: Any) -> None:
    page = tuning_markdown(record)
    rows = page[page.index("## Trials, best first") :].splitlines()[4:]
    numbers = [int(row.split("|")[1]) for row in rows if row.startswith("| ")]
    scores = [record["choice"]["scores"][str(number)] for number in numbers]
    assert scores == sorted(scores, reverse=True)
    assert set(numbers) <= {int(number) for number in record["choice"]["neighbourhood_means"]}
    assert numbers[0] == record["choice"]["best"]


def test_the_best_so_far_never_falls_and_counts_only_what_counts(record: Any) -> None:
    best = np.array(best_until(record))
    known = best[np.isfinite(best)]
    assert (np.diff(known) >= 0.0).all()
    assert best[-1] == record["choice"]["scores"][str(record["choice"]["best"])]


def test_pictures_show_the_numbers(record: Any) -> None:
    (axes,) = history_figure(record).axes
    drawn = sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() in "xo")
    assert drawn == len(record["history"])
    (axes,) = plateau_figure(record).axes
    means = record["choice"]["neighbourhood_means"]
    assert len(axes.lines[1].get_xdata()) == len(means)
    panels = [one for one in slices_figure(record, SPACE).axes if one.axison]
    assert len(panels) == len(SPACE.parameters)


@pytest.mark.slow
def test_pictures_are_the_same_bytes_and_few_trials_can_be_drawn(
    record: Any, tmp_path: Path
) -> None:
    pictures = tuning_pictures(record, SPACE)
    assert list(pictures) == list(PICTURES)
    assert pictures["plateau"] == png_bytes(plateau_figure(record))
    few = [one for one in made_up() if one.whole and one.feasible][:1]
    assert all(tuning_pictures(made_record(few), SPACE).values())
    for name, picture in pictures.items():
        (tmp_path / f"{name}.png").write_bytes(picture)

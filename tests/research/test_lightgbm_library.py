"""LightGBM's shared library says what the package says, and refuses what would crash it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from catalog.errors import ConfigError, DataError, IntegrityError
from research.models import lightgbm_library
from research.models.lightgbm_expert import BinnedRows, LabelSpans, LightGBMConfig, LightGBMExpert
from research.models.lightgbm_library import LightGBMLibrary, TreeModel, find_library, library

ROOT = Path(__file__).resolve().parents[2]
NAMES = tuple(f"feature_{number}" for number in range(5))
CONFIG = LightGBMConfig(n_trees=80, min_rows_in_leaf=20, learning_rate=0.3)


def rows(count: int = 3_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, len(NAMES)))
    values[::9, 2] = np.nan
    truth = 1.0 / (1.0 + np.exp(-values[:, 0] + 0.5 * values[:, 1]))
    return values, (random.random(count) < truth).astype(np.float64)


def binned(config: LightGBMConfig = CONFIG, ahead: int = 5) -> BinnedRows:
    values, label = rows()
    times = np.arange(len(label), dtype=np.int64) // 3  # three instruments at a time
    spans = LabelSpans(times, times + ahead)
    every = np.arange(len(label))
    return BinnedRows(values, every, label, np.ones(len(label)), NAMES, config, spans)


def fitted(**settings: object) -> LightGBMExpert:
    return binned(CONFIG.model_copy(update=settings)).fit()


def test_the_library_says_what_the_package_says() -> None:
    text, values = fitted().to_text(), rows(seed=1)[0]
    model, booster = TreeModel(text), lightgbm.Booster(model_str=text)
    np.testing.assert_array_equal(model.predict(values), booster.predict(values))
    alone = np.concatenate([model.predict(values[row : row + 1]) for row in range(50)])
    np.testing.assert_array_equal(alone, model.predict(values)[:50])
    explained = booster.predict(values[:100], pred_contrib=True)
    np.testing.assert_array_equal(model.contributions(values[:100]), explained)
    np.testing.assert_array_equal(model.gains(), booster.feature_importance("gain"))
    assert model.dump()["tree_info"] == booster.dump_model()["tree_info"]
    assert model.names == tuple(booster.feature_name()) == NAMES
    assert model.rounds == booster.num_trees()
    assert len(model.predict(values[:0])) == 0


def test_columns_that_are_not_side_by_side_are_read_rightly() -> None:
    model, values = TreeModel(fitted().to_text()), rows(200, seed=2)[0]
    np.testing.assert_array_equal(
        model.predict(np.asfortranarray(values)[::2]), model.predict(values)[::2]
    )


def test_contributions_add_up_to_the_log_odds() -> None:
    expert, values = fitted(), rows(300, seed=3)[0]
    probability = expert.score(values)
    np.testing.assert_allclose(
        expert.contributions(values).sum(axis=1),
        np.log(probability / (1.0 - probability)),
        atol=1e-9,
    )


def test_importances_name_what_matters() -> None:
    expert, values = fitted(), rows(500, seed=4)[0]
    assert list(expert.importances().index[:2]) == ["feature_0", "feature_1"]
    frame = expert.importances(values)
    assert list(frame.columns) == ["gain", "shap"]
    assert list(frame.index[:2]) == ["feature_0", "feature_1"]
    assert frame["gain"].sum() == pytest.approx(1.0)
    assert frame["shap"].is_monotonic_decreasing


def test_a_text_that_would_end_the_process_is_refused() -> None:
    text = fitted().to_text()
    third = text.index("Tree=3\n")
    shifted = text.replace("Tree=2\n", "Tree=2\n\n", 1)
    for bad, message in (
        ("", "began with ''"),
        ("{}", r"began with '\{\}' instead of 'tree'"),
        ("tree\nversion=v4\n", "had no list of trees"),
        (text[: len(text) // 2], "had no list of trees"),
        (text[:third] + text[third + 300 :], "had no tree 3 at its place"),
        (shifted, "had no tree 3 at its place"),
        (text.replace("end of trees", "more\nend of trees"), "had trees up to byte"),
    ):
        with pytest.raises(IntegrityError, match=f"model text must be LightGBM's, {message}"):
            TreeModel(bad)
    no_class = re.sub(r"^num_class=1\n", "", text, flags=re.MULTILINE)
    with pytest.raises(IntegrityError, match=r"LightGBM refused: .*number of classes"):
        TreeModel(no_class)


def test_wrong_widths_are_refused() -> None:
    model = TreeModel(fitted().to_text())
    for bad in (np.zeros((3, 4)), np.zeros(5)):
        with pytest.raises(DataError, match=r"shape \(n_rows, 5\), had"):
            model.predict(bad)


def test_an_absent_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lightgbm_library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="it is not installed; install it with: make setup"):
        find_library()
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})()
    monkeypatch.setattr(lightgbm_library.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match=r"lib_lightgbm.so.* none was found under"):
        find_library()
    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin" / "lib_lightgbm.dylib"
    broken.write_bytes(b"nothing")
    assert find_library() == broken
    with pytest.raises(ConfigError, match=r"lib_lightgbm.dylib must be loadable, was not"):
        LightGBMLibrary(broken)


def test_the_library_costs_little_memory() -> None:
    script = """
import sys, numpy, psutil
before = psutil.Process().memory_info().rss
from research.models.lightgbm_library import library
library()
print((psutil.Process().memory_info().rss - before) / 1e6, "lightgbm" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    megabytes, imported = done.stdout.split()
    assert imported == "False"
    assert float(megabytes) < 40.0  # the package takes some 165
    assert library() is library()


def test_early_stopping_cuts_the_last_rows_off_and_purges() -> None:
    times = np.repeat(np.arange(10, dtype=np.int64), 2)
    head, tail = LabelSpans(times, times + 3).split(np.arange(20), 0.3)
    assert tail.tolist() == list(range(14, 20))  # times 7, 8, 9
    assert head.tolist() == list(range(10))  # labels up to time 7: rows of 0 to 4
    with pytest.raises(DataError, match=r"rows to fit on before its last 0\.9"):
        LabelSpans(times, times + 3).split(np.arange(20), 0.9)


@pytest.mark.parametrize("refit", [True, False])
def test_early_stopping_ends_before_it_overfits(refit: bool) -> None:
    expert = fitted(patience=5, refit=refit)
    report = expert.report
    assert report.ended_by == "early stopping"
    assert 1 < report.rounds < CONFIG.n_trees
    assert report.validation_rows == 600
    assert TreeModel(expert.to_text()).rounds == report.rounds
    values, label = rows(4_000, seed=7)

    def loss(one: LightGBMExpert) -> float:
        found = one.score(values)
        return float(-np.mean(label * np.log(found) + (1 - label) * np.log1p(-found)))

    assert loss(expert) < loss(fitted())
    assert fitted(patience=5, refit=refit).to_text() == expert.to_text()


def test_without_a_refit_the_inner_span_is_never_fitted() -> None:
    values, label = rows()
    times = np.arange(len(label), dtype=np.int64)
    other = label.copy()
    looking = slice(2_400 - 4, 2_400)  # whose labels look into it
    other[looking] = 1.0 - other[looking]

    def text(labels: np.ndarray) -> str:
        config = CONFIG.model_copy(update={"patience": 80, "refit": False})
        spans = LabelSpans(times, times + 5)
        every = np.arange(len(labels))
        one = BinnedRows(values, every, labels, np.ones(len(labels)), NAMES, config, spans)
        return one.fit().to_text()

    assert text(label) == text(other)


def test_the_best_trees_are_found_on_the_rows_of_an_inner_fit() -> None:
    one = binned(CONFIG.model_copy(update={"patience": 5}))
    inner = one.fit(np.arange(0, 2_000))
    assert inner.report.validation_rows == 401  # times are cut whole: three rows each


def test_a_time_budget_that_bites_is_reported() -> None:
    cut = fitted(n_trees=100_000, time_budget_secs=0.05)
    assert cut.report.ended_by == "time budget"
    assert 1 <= cut.report.rounds < 100_000
    assert TreeModel(cut.to_text()).rounds == cut.report.rounds
    ample = fitted(time_budget_secs=600.0)
    assert ample.report.ended_by == "all trees"
    assert (
        ample.to_text().partition("\nparameters:")[0]
        == (fitted().to_text().partition("\nparameters:")[0])
    )
    both = fitted(n_trees=100_000, patience=90_000, time_budget_secs=0.05)
    assert both.report.ended_by == "time budget"


def test_early_stopping_needs_to_know_the_spans() -> None:
    values, label = rows(200)
    with pytest.raises(ConfigError, match="must be given the spans of the labels"):
        BinnedRows(
            values,
            np.arange(200),
            label,
            np.ones(200),
            NAMES,
            CONFIG.model_copy(update={"patience": 5}),
        )

"""Boosted trees: repeatable, row by row, and readable as text."""

from __future__ import annotations

import re

import lightgbm
import numpy as np
import pytest

from catalog.errors import DataError, IntegrityError
from research.models.lightgbm_expert import BinnedRows, LightGBMConfig, LightGBMExpert
from research.models.logistic import LogisticReference
from research.models.packed_trees import PackedTrees

NAMES = tuple(f"feature_{number}" for number in range(6))
CONFIG = LightGBMConfig(n_trees=20, min_rows_in_leaf=20)


def rows(n_rows: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    values = random.normal(size=(n_rows, len(NAMES)))
    truth = 1.0 / (1.0 + np.exp(-values[:, 0] + 0.5 * values[:, 1]))
    label = (random.random(n_rows) < truth).astype(np.float64)
    return values, label, random.uniform(0.5, 1.5, n_rows)


def binned(
    values: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray,
    names: tuple[str, ...],
    config: LightGBMConfig,
) -> BinnedRows:
    return BinnedRows(values, np.arange(len(values)), label, weight, names, config)


def fitted(config: LightGBMConfig = CONFIG) -> LightGBMExpert:
    values, label, weight = rows()
    return binned(values, label, weight, NAMES, config).fit()


def trees(expert: LightGBMExpert) -> str:
    """Return the model's text without the list of settings."""
    return re.split(r"\nparameters:", expert.to_text())[0]


def booster(expert: LightGBMExpert) -> lightgbm.Booster:
    """Return the model as the lightgbm package reads it."""
    return lightgbm.Booster(model_str=expert.to_text())


def test_learns_what_is_there() -> None:
    values, label, _ = rows(seed=1)
    found = fitted().score(values)
    assert found[label == 1.0].mean() > found[label == 0.0].mean() + 0.05


def test_a_second_fit_has_the_same_text() -> None:
    assert fitted().to_text() == fitted().to_text()


def test_every_setting_is_part_of_the_identity() -> None:
    for name, value in {"seed": 8, "n_trees": 21, "l2": 1.0, "random_thresholds": False}.items():
        assert CONFIG.model_copy(update={name: value}).identity_hash() != CONFIG.identity_hash()


def test_each_row_is_answered_alone() -> None:
    expert, values = fitted(), rows(5000, seed=3)[0]
    together = expert.score(values)
    alone = np.concatenate([expert.score(values[row : row + 1]) for row in range(0, 5000, 97)])
    np.testing.assert_array_equal(alone, together[::97])


@pytest.mark.parametrize("undefined_in_training", [True, False])
@pytest.mark.parametrize("leaves", [2, 31, 64, 200])
def test_many_rows_are_answered_as_lightgbm_does(leaves: int, undefined_in_training: bool) -> None:
    values, label, weight = rows(8000, seed=5)
    values[:, 1] = np.round(values[:, 1], 1)
    values[:, 4] = 3.0
    if undefined_in_training:
        values[::5, 0] = np.nan
        values[::3, 1] = np.nan
    config = CONFIG.model_copy(
        update={"num_leaves": leaves, "min_rows_in_leaf": 5, "random_thresholds": False}
    )
    expert = binned(values, label, weight, NAMES, config).fit()
    asked = np.concatenate([values, rows(2000, seed=6)[0]])
    asked[7::11, 2] = np.nan
    asked[5::13, 0] = np.nan
    asked[::17] = 0.0
    asked[1::19, 3], asked[2::19, 3] = np.inf, -np.inf
    chosen = np.random.default_rng(0).permutation(len(asked))[:7001]
    found = expert.score(asked, chosen)
    wanted = booster(expert).predict(asked[chosen], num_threads=1)
    np.testing.assert_array_equal(found, wanted)
    largest = max(tree["num_leaves"] for tree in booster(expert).dump_model()["tree_info"])
    assert (largest > 64) == (leaves == 200)
    assert (expert._packed is None) == (leaves == 200)


def test_splits_of_another_kind_are_left_to_lightgbm() -> None:
    model = booster(fitted()).dump_model()
    assert PackedTrees.of_model(model) is not None
    model["tree_info"][3]["tree_structure"]["decision_type"] = "=="
    assert PackedTrees.of_model(model) is None


def test_text_keeps_every_bit() -> None:
    expert, values = fitted(), rows(seed=4)[0]
    again = LightGBMExpert.from_text(expert.to_text(), NAMES)
    np.testing.assert_array_equal(again.score(values), expert.score(values))


def test_undefined_features_are_answered() -> None:
    values, label, weight = rows()
    values[::7, 2] = np.nan
    expert = binned(values, label, weight, NAMES, CONFIG).fit()
    assert np.isfinite(expert.score(np.full((1, len(NAMES)), np.nan))).all()


def test_an_inner_fit_looks_at_its_rows_only() -> None:
    values, label, weight = rows()
    inside = np.arange(0, 4000, 2)
    other = label.copy()
    other[1::2] = 1.0 - other[1::2]
    one = binned(values, label, weight, NAMES, CONFIG).fit(inside)
    two = binned(values, other, weight, NAMES, CONFIG).fit(inside)
    assert one.to_text() == two.to_text()


def test_rows_outside_the_training_span_are_never_read() -> None:
    values, label, weight = rows()
    inside = np.arange(1000, 3000)
    other = values.copy()
    other[:1000], other[3000:] = np.inf, np.nan
    one = BinnedRows(values, inside, label[inside], weight[inside], NAMES, CONFIG).fit()
    two = BinnedRows(other, inside, label[inside], weight[inside], NAMES, CONFIG).fit()
    assert one.to_text() == two.to_text()


def test_unusable_rows_are_refused() -> None:
    values, label, weight = rows(200)
    with pytest.raises(DataError, match="labels of training rows must be 0 or 1"):
        binned(values, np.full(200, np.nan), weight, NAMES, CONFIG)
    with pytest.raises(DataError, match="must be finite or NaN"):
        binned(np.where(values > 0, np.inf, values), label, weight, NAMES, CONFIG)
    with pytest.raises(DataError, match="must hold ups and downs, all 200 were 1"):
        binned(values, np.ones(200), weight, NAMES, CONFIG).fit()
    with pytest.raises(DataError, match=r"shape \(n_rows, 6\), had \(3, 5\)"):
        fitted().score(np.zeros((3, 5)))


def test_other_text_is_refused() -> None:
    with pytest.raises(IntegrityError, match="model text must be LightGBM's"):
        LightGBMExpert.from_text("nothing", NAMES)
    with pytest.raises(IntegrityError, match="model's features must be the manifest's"):
        LightGBMExpert.from_text(fitted().to_text(), NAMES[::-1])


def test_logistic_reference_equals_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    values, label, _ = rows(20_000)
    values = values * np.arange(1, 7) + 5.0
    found = LogisticReference.fit(values, np.arange(len(values)), label, l2=2.0)
    standard = (values - values.mean(axis=0)) / values.std(axis=0)
    reference = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(standard, label)
    np.testing.assert_allclose(found.coefficient[:-1], reference.coef_[0], atol=1e-6)
    np.testing.assert_allclose(
        found.predict(values), reference.predict_proba(standard)[:, 1], atol=1e-6
    )


def test_logistic_reference_takes_undefined_for_the_mean() -> None:
    values, label, _ = rows(500)
    found = LogisticReference.fit(values, np.arange(len(values)), label)
    holes = values[:1].copy()
    holes[0, 3] = np.nan
    filled = values[:1].copy()
    filled[0, 3] = values[:, 3].mean()
    np.testing.assert_allclose(found.predict(holes), found.predict(filled), rtol=1e-12)

"""Scaling, specification, mixture and settings: what serving needs without torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from catalog.errors import DataError, IntegrityError
from research.models.deep.config import LSTMConfig, TFTConfig, TransformerConfig
from research.models.deep.mixture import combine
from research.models.deep.scaling import FeatureScaler
from research.models.deep.sequences import Memory
from research.models.deep.spec import SequenceSpec

NAMES = ("level", "flag", "holes", "nothing", "still", "instrument_code")
ALL = np.arange(400)


def table(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = np.empty((400, 6))
    values[:, 0] = random.normal(50.0, 4.0, 400)
    values[:, 1] = ALL % 250 == 0  # set so seldom that without its tails it would not vary
    values[:, 2] = np.where(random.random(400) < 0.3, np.nan, random.normal(size=400))
    values[:, 3] = np.nan
    values[:, 4] = 7.0
    values[:, 5] = random.integers(0, 3, 400)
    return values


def fitted(values: np.ndarray | None = None) -> FeatureScaler:
    return FeatureScaler.fit(NAMES, table() if values is None else values, ALL, 5.0)


def spec() -> SequenceSpec:
    return SequenceSpec(
        kind="transformer",
        scaler=fitted(),
        n_instruments=3,
        interval_ns=900,
        memory=Memory(phases=1, reach=6),
        quantiles=(0.1, 0.9),
        state_shapes=((2, 3), ()),
        state_types=("float32", "int64"),
        masks=(np.ones((4, 2), dtype=np.float32), np.zeros((4, 3), dtype=np.float32)),
        n_parameters=11,
        identity="abc",
    )


def test_inputs_are_scaled_and_gaps_are_flagged() -> None:
    scaler = fitted()
    assert scaler.input_names == (*NAMES[:5], "missing_holes", "missing_nothing")
    inputs = scaler(table())
    assert inputs.dtype == np.float32
    assert inputs.shape == (400, scaler.n_inputs)
    assert abs(inputs[:, 0].mean()) < 0.05
    assert inputs[:, 0].std() == pytest.approx(1.0, abs=0.1)
    gaps = np.isnan(table()[:, 2])
    assert (inputs[gaps, 2] == 0.0).all()
    assert (inputs[:, 5] == gaps).all()
    assert (inputs[:, 3] == 0.0).all()
    assert (inputs[:, 6] == 1.0).all()
    assert (inputs[:, 4] == 0.0).all()
    assert len(np.unique(inputs[:, 1])) == 2  # the flag is still seen


def test_what_was_never_missing_has_no_flag_and_becomes_the_mean() -> None:
    row = table()[:1]
    row[0, 0] = np.nan
    assert fitted()(row)[0, 0] == 0.0


def test_far_values_are_cut_off() -> None:
    row = np.array([[1e9, 0.0, -np.inf, 0.0, 0.0, 0.0]])
    assert fitted()(row)[0, [0, 2]].tolist() == [5.0, -5.0]


@settings(deadline=None, max_examples=30)
@given(
    arrays(np.float64, (7, 6), elements=st.floats(-1e6, 1e6) | st.just(np.nan)), st.integers(0, 6)
)
def test_a_row_depends_on_itself_alone(values: np.ndarray, place: int) -> None:
    scaler = fitted()
    alone = scaler(values[place : place + 1])[0]
    np.testing.assert_array_equal(scaler(values)[place], alone)
    np.testing.assert_array_equal(scaler.of_rows(values, np.array([place]))[0], alone)


def test_only_the_training_rows_are_looked_at() -> None:
    values = table()
    before = FeatureScaler.fit(NAMES, values, ALL[:200], 5.0)
    values[200:] = 1e9
    after = FeatureScaler.fit(NAMES, values, ALL[:200], 5.0)
    np.testing.assert_array_equal(before.center, after.center)
    np.testing.assert_array_equal(before.scale, after.scale)


def test_a_scaler_refuses_what_it_cannot_use() -> None:
    values = table()
    with pytest.raises(DataError, match="at least one row, had none"):
        FeatureScaler.fit(NAMES, values, ALL[:0], 5.0)
    values[3, 2] = np.inf
    with pytest.raises(DataError, match="feature holes of training rows must be finite or NaN"):
        FeatureScaler.fit(NAMES, values, ALL, 5.0)
    with pytest.raises(DataError, match=r"shape \(n_rows, 6\), was \(2, 5\)"):
        fitted()(np.zeros((2, 5)))


def test_a_specification_comes_back_as_it_was(tmp_path: Path) -> None:
    one = spec()
    one.save(tmp_path)
    other = SequenceSpec.load(tmp_path, "transformer", NAMES)
    np.testing.assert_array_equal(one.scaler(table()), other.scaler(table()))
    for mine, theirs in zip(one.masks, other.masks, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    plain = replace(one, scaler=other.scaler, masks=other.masks)
    assert all(
        getattr(plain, name) == getattr(other, name)
        for name in plain.__slots__
        if name not in ("scaler", "masks")
    )
    assert (other.n_samples, other.n_outputs) == (4, 6)


def test_a_damaged_or_foreign_specification_is_refused(tmp_path: Path) -> None:
    spec().save(tmp_path)
    with pytest.raises(DataError, match="features of the expert transformer must be the 6"):
        SequenceSpec.load(tmp_path, "transformer", NAMES[::-1])
    with pytest.raises(IntegrityError, match=r"the expert lstm in .* cannot be read"):
        SequenceSpec.load(tmp_path, "lstm", NAMES)
    path = tmp_path / "transformer.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match="cannot be read"):
        SequenceSpec.load(tmp_path, "transformer", NAMES)
    text = (tmp_path / "transformer.json").read_text().replace('"schema": 2', '"schema": 3')
    spec().save(tmp_path)
    (tmp_path / "transformer.json").write_text(text)
    with pytest.raises(IntegrityError, match="schema 2, was transformer and 3"):
        SequenceSpec.load(tmp_path, "transformer", NAMES)


def test_a_mixture_keeps_the_two_parts_of_the_uncertainty_apart() -> None:
    outputs = np.zeros((2, 1, 4))
    outputs[:, 0, 0] = [-1.0, 2.0]  # logits
    outputs[:, 0, 1] = [0.5, 1.5]  # locations, whose spread is not part of sigma
    outputs[:, 0, 2] = np.log([1.0, 2.0])
    outputs[:, 0, 3] = np.log(4.0)
    found = combine(outputs)
    chances = 1.0 / (1.0 + np.exp([1.0, -2.0]))
    assert found.prob_up[0] == pytest.approx(chances.mean())
    assert found.epistemic[0] == pytest.approx(chances.std())
    assert found.mu[0] == pytest.approx(1.0)
    variances = [stats.t(4, scale=scale).var() for scale in (1.0, 2.0)]
    assert found.sigma[0] == pytest.approx(np.sqrt(np.mean(variances)))
    assert np.isnan(combine(outputs[:1]).epistemic[0])
    with pytest.raises(DataError, match=r"must have shape .*, was \(2, 4\)"):
        combine(outputs[:, 0])


def test_settings_are_checked_and_count() -> None:
    with pytest.raises(ValueError, match=r"heads must divide d_model \(128\), was 3"):
        TransformerConfig(heads=3)
    with pytest.raises(ValueError, match=r"reach_bars must be above .* \(3\), was 3"):
        TransformerConfig(reach_bars=3)
    with pytest.raises(ValueError, match="quantiles must ascend"):
        TFTConfig(quantiles=(0.5, 0.1))
    with pytest.raises(ValueError, match="dropout"):
        LSTMConfig(dropout=1.0)
    assert TransformerConfig().window == 43
    assert TransformerConfig().identity_hash() != TransformerConfig(seed=8).identity_hash()

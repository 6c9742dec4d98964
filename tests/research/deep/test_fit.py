"""Fits: they find what is planted, give the same again, go on after an interruption."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from catalog.errors import ConfigError, DataError, IntegrityError, RunFailedError
from research.experts import FitContext
from research.models.deep.config import DeepConfig, LSTMConfig, TransformerConfig
from research.models.deep.fit import (
    DeepExpert,
    fit,
    load_fitted,
    scaled_returns,
    split_rows,
)
from research.models.deep.mixture import combine
from research.models.deep.sequences import RunClock
from tests.research.deep.tables import INSTRUMENTS, NAMES, VOL, planted_table, trainable_rows

if TYPE_CHECKING:
    from research.training_table import TrainingTable

SMALL = {
    "chunk_bars": 32,
    "batch_bars": 128,
    "epochs": 6,
    "samples": 3,
    "learning_rate": 1e-2,
    "warmup_frac": 0.2,
}
TRANSFORMER = TransformerConfig(
    d_model=16, heads=2, layers=2, reach_bars=16, feedforward=16, **SMALL
)
LSTM = LSTMConfig(d_model=16, period_bars=16, **SMALL)
CONFIGS = (TRANSFORMER, LSTM)


class Interrupted(Exception):
    pass


class Watcher:
    """A progress that remembers, and can stop the work after some calls."""

    def __init__(self, stop_after: int = 1_000_000) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self.stop_after = stop_after

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.calls.append((stage, done, total))
        if len(self.calls) >= self.stop_after:
            raise Interrupted

    def note(self, stage: str, text: str) -> None:
        self.notes.append(text)


@cache
def table() -> TrainingTable:
    return planted_table(missing=0.02, hole=(1_200, 70))


@cache
def fitted(config: DeepConfig) -> DeepExpert:
    return fit(table(), trainable_rows(table(), 0.7), config, FitContext())


def later_rows() -> np.ndarray:
    last = trainable_rows(table(), 0.7).max()
    rows = trainable_rows(table())
    return rows[table().matrix.ts_init[rows] > table().matrix.ts_init[last]]


def same_weights(first: DeepExpert, second: DeepExpert) -> bool:
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_planted_edge_is_found(config: DeepConfig) -> None:
    expert, rows = fitted(config), later_rows()
    found = expert.predict(table().matrix, rows)
    known = ~np.isnan(found.prob_up)
    assert known.mean() > 0.8
    assert roc_auc_score(table().labels.value[rows][known], found.prob_up[known]) > 0.62
    scaled = scaled_returns(table(), rows)
    assert np.corrcoef(found.mu[known], scaled[known])[0, 1] > 0.25
    left = (scaled - found.mu)[known].std()
    assert np.median(found.sigma[known]) == pytest.approx(left, rel=0.25)
    assert (found.epistemic[known] > 0.0).all()


@pytest.mark.parametrize("config", CONFIGS)
def test_the_same_seed_gives_the_same_expert(config: DeepConfig) -> None:
    rows = trainable_rows(table(), 0.7)
    torch.manual_seed(123)
    again = fit(table(), rows, config, FitContext())
    assert same_weights(fitted(config), again)
    for ours, theirs in zip(fitted(config).spec.masks, again.spec.masks, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = fit(table(), rows, config.model_copy(update={"seed": 8}), FitContext())
    assert not same_weights(fitted(config), other)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("start", [0, 1_150])
def test_a_literal_stream_of_steps_is_the_batch(config: DeepConfig, start: int) -> None:
    """With one state for each instrument and phase, kept in a dictionary."""
    expert, matrix = fitted(config), table().matrix
    spec, slots = expert.spec, table().matrix.ts_init // table().interval_ns
    slots = slots - slots.min()
    batch = expert.predict(matrix, np.arange(len(slots)))
    clock = RunClock(len(INSTRUMENTS), spec.memory)
    masks = [torch.from_numpy(mask) for mask in spec.masks]
    states: dict[tuple[int, int], tuple[torch.Tensor, ...]] = {}
    answered = np.full(len(slots), np.nan)
    end = start + 160  # the second stretch holds the hole
    for slot in np.unique(slots[(slots >= start) & (slots < end)]).tolist():
        rows = np.flatnonzero(slots == slot)
        turn = clock.advance(int(matrix.ts_init[rows[0]] // table().interval_ns), _codes(rows))
        inputs = torch.from_numpy(spec.scaler(matrix.values[rows]))
        for place, row in enumerate(rows.tolist()):
            code = matrix.instrument[row : row + 1].repeat(spec.n_samples)
            for phase in range(spec.memory.phases):
                key = phase, int(code[0])
                if turn.empty[phase, place]:
                    states[key] = expert.model.initial_state(spec.n_samples)
                with torch.inference_mode():
                    found, *state = expert.model.step(
                        inputs[place].expand(spec.n_samples, -1),
                        torch.from_numpy(code),
                        masks,
                        *states[key],
                    )
                states[key] = tuple(state)
                if phase == turn.answering[place] and turn.ready[place]:
                    answered[row] = combine(found[:, None].numpy()).prob_up[0]
    known = ~np.isnan(answered)
    np.testing.assert_allclose(answered[known], batch.prob_up[known], atol=1e-5)
    # Bars are missing, so that so many tokens take longer; one that starts first misses nothing.
    room = start + expert.reach_bars + 5 if start else 0
    wanted = (slots >= room) & (slots < end) & ~np.isnan(batch.prob_up)
    assert known[wanted].all()
    assert wanted.sum() > 30


def _codes(rows: np.ndarray) -> np.ndarray:
    return table().matrix.instrument[rows]


@pytest.mark.parametrize("config", CONFIGS)
def test_answers_do_not_depend_on_what_else_is_asked(config: DeepConfig) -> None:
    expert, matrix = fitted(config), table().matrix
    whole = expert.predict(matrix, np.arange(len(matrix.ts_init)))
    rows = np.array([700, 300, 301, 2_000, 5])
    some = expert.predict(matrix, rows)
    np.testing.assert_allclose(some.prob_up, whole.prob_up[rows], atol=1e-6)
    np.testing.assert_allclose(some.sigma, whole.sigma[rows], rtol=1e-5)
    assert len(expert.predict(matrix, rows[:0])) == 0


@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_later_changes_an_answer(config: DeepConfig) -> None:
    expert, matrix = fitted(config), table().matrix
    cut = 1_000
    values = matrix.values.copy()
    values[matrix.ts_init > matrix.ts_init[cut]] = 3.0
    rows = np.flatnonzero(matrix.ts_init <= matrix.ts_init[cut])
    before = expert.predict(matrix, rows)
    after = expert.predict(replace(matrix, values=values), rows)
    np.testing.assert_array_equal(before.prob_up, after.prob_up)


def test_a_fit_reads_no_label_and_no_row_beyond_its_own() -> None:
    rows = trainable_rows(table(), 0.7)
    outside = np.setdiff1d(np.arange(len(table().matrix.ts_init)), rows)
    changed = planted_table(missing=0.02, hole=(1_200, 70))
    changed.labels.value[outside] = np.nan
    changed.labels.forward_return[outside] = np.nan
    later = changed.matrix.ts_init > changed.matrix.ts_init[rows].max()
    changed.matrix.values[later] = 1e6
    assert same_weights(fitted(LSTM), fit(changed, rows, LSTM, FitContext()))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("stop_after", [3, 40])
def test_an_interrupted_fit_goes_on_as_if_it_had_not_been(
    config: DeepConfig, stop_after: int, tmp_path: Path
) -> None:
    rows = trainable_rows(table(), 0.7)
    with pytest.raises(Interrupted):
        fit(table(), rows, config, FitContext(Watcher(stop_after), 1, tmp_path))
    watcher = Watcher()
    resumed = fit(table(), rows, config, FitContext(watcher, 1, tmp_path))
    whole = Watcher()
    uninterrupted = fit(table(), rows, config, FitContext(whole, 1))
    assert same_weights(uninterrupted, resumed)
    assert uninterrupted.report == resumed.report
    # An epoch that was done is not done again.
    assert (len(watcher.calls) < len(whole.calls)) == (stop_after == 40)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    rows = trainable_rows(table(), 0.7)
    with pytest.raises(Interrupted):
        fit(table(), rows, LSTM, FitContext(Watcher(40), 1, tmp_path))
    with pytest.raises(ConfigError, match=r"checkpoint .* must be of this fit"):
        fit(table(), rows[:-100], LSTM, FitContext(checkpoint=tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(IntegrityError, match=r"checkpoint .* cannot be read .* begin anew"):
        fit(table(), rows, LSTM, FitContext(checkpoint=tmp_path))


def test_early_stopping_restores_the_best_weights() -> None:
    """On noise and at too high a rate: the first epochs are the best."""
    noise = planted_table(700, edge=0.0)
    rows = trainable_rows(noise)
    changes = {"epochs": 12, "patience": 2, "dropout": 0.0, "warmup_frac": 0.0}
    config = LSTM.model_copy(update=changes)
    whole = fit(noise, rows, config, FitContext())
    losses = [record.validation_loss for record in whole.report.epochs]
    best = whole.report.best_epoch
    assert whole.report.ended_by == "no better"
    assert len(losses) == best + 1 + config.patience
    assert losses[best] == min(losses)
    # The rows of early stopping give that loss again, to the model that was kept.
    _, validated = split_rows(noise, rows, config.validation_frac)
    found = replace(whole, spec=_mean_network(whole)).predict(noise.matrix, validated)
    known = ~np.isnan(found.prob_up)
    chance = np.where(noise.labels.value[validated] == 1, found.prob_up, 1.0 - found.prob_up)
    log_loss = whole.report.epochs[best].validation_log_loss
    assert -np.log(chance[known]).mean() == pytest.approx(log_loss, abs=1e-5)


def _mean_network(expert: DeepExpert):  # type: ignore[no-untyped-def]
    masks = tuple(np.ones((1, mask.shape[1]), dtype=np.float32) for mask in expert.spec.masks)
    return replace(expert.spec, masks=masks)


def test_without_a_validation_span_all_epochs_and_rows_are_used() -> None:
    config = LSTM.model_copy(update={"validation_frac": 0.0, "epochs": 2})
    report = fit(table(), trainable_rows(table(), 0.3), config, FitContext()).report
    assert (len(report.epochs), report.best_epoch, report.ended_by) == (2, 1, "all epochs")
    assert np.isnan(report.epochs[0].validation_loss)


def test_a_time_budget_ends_the_fit_with_what_there_is() -> None:
    config = LSTM.model_copy(update={"max_seconds": 1e-9})
    report = fit(table(), trainable_rows(table(), 0.3), config, FitContext()).report
    assert (len(report.epochs), report.ended_by) == (1, "time budget")


def test_validation_rows_are_the_last_and_no_label_looks_into_them() -> None:
    far = planted_table(400, horizon=10)
    rows = trainable_rows(far)
    trained, validated = split_rows(far, rows, 0.25)
    ts_init, ts_end = far.matrix.ts_init, far.labels.ts_end
    assert ts_init[trained].max() < ts_init[validated].min()
    assert ts_end[trained].max() < ts_init[validated].min()
    left_out = np.setdiff1d(rows, np.concatenate([trained, validated]))
    assert len(left_out) == len(INSTRUMENTS) * 10  # labels look 10 bars ahead
    assert len(validated) / len(rows) == pytest.approx(0.25, abs=0.01)


def test_returns_are_scaled_by_volatility_and_horizon() -> None:
    far = planted_table(300, horizon=4)
    rows = trainable_rows(far)
    wanted = np.log1p(far.labels.forward_return[rows]) / (VOL * 2.0)
    np.testing.assert_allclose(scaled_returns(far, rows), wanted)
    far.matrix.values[rows[3], NAMES.index("volatility_ratio")] = np.nan
    assert np.isnan(scaled_returns(far, rows)[3])


def test_a_warm_start_begins_with_the_weights_before() -> None:
    rows = trainable_rows(table(), 0.8)
    config = LSTM.model_copy(update={"warm_start": True, "epochs": 1})
    before = fitted(LSTM)
    warm, cold = (
        fit(table(), rows, config, FitContext(previous=previous)) for previous in (before, None)
    )
    assert warm.report.epochs[0].train_loss < cold.report.epochs[0].train_loss
    assert warm.spec.scaler is before.spec.scaler
    ignored = fit(
        table(), rows, config.model_copy(update={"warm_start": False}), FitContext(previous=before)
    )
    assert same_weights(ignored, cold)
    for other, message in (
        (fitted(TRANSFORMER), "a warm start of lstm must be from one, was from transformer"),
        (replace(before, spec=_other_names(before)), "the same features and instruments"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(table(), rows, config, FitContext(previous=other))
    wider = config.model_copy(update={"d_model": 8})
    with pytest.raises(ConfigError, match="of the same size"):
        fit(table(), rows, wider, FitContext(previous=before))


def _other_names(expert: DeepExpert):  # type: ignore[no-untyped-def]
    scaler = replace(expert.spec.scaler, names=("other", *NAMES[1:]))
    return replace(expert.spec, scaler=scaler)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_saved_expert_streams_and_comes_back(config: DeepConfig, tmp_path: Path) -> None:
    """The stream is the exported step; `tests/contracts` holds it to more."""
    expert, matrix = fitted(config), table().matrix
    expert.save(tmp_path)
    again = load_fitted(tmp_path, config.kind, NAMES)
    assert same_weights(expert, again)
    assert again.config == config
    rows = np.arange(100)
    batch = expert.predict(matrix, rows)
    np.testing.assert_array_equal(again.predict(matrix, rows).prob_up, batch.prob_up)
    stream = expert.stream(len(INSTRUMENTS))
    for row in rows.tolist():
        slot = int(matrix.ts_init[row] // table().interval_ns)
        one = slice(row, row + 1)
        found = stream.update(slot, matrix.instrument[one], matrix.values[one])
        np.testing.assert_allclose(found.prob_up, batch.prob_up[one], atol=1e-5)
    (tmp_path / f"{config.kind}.weights.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"weights .* cannot be read"):
        load_fitted(tmp_path, config.kind, NAMES)


def test_progress_hears_of_the_epochs() -> None:
    watcher = Watcher()
    fit(table(), trainable_rows(table(), 0.3), LSTM, FitContext(watcher))
    stages, done, total = zip(*watcher.calls, strict=True)
    assert set(stages) == {"fit lstm"}
    assert all(0 <= d <= t for d, t in zip(done, total, strict=True))
    assert list(done) == sorted(done)
    assert watcher.calls[-1][1] == watcher.calls[-1][2]
    assert len(watcher.notes) == LSTM.epochs
    assert watcher.notes[0].startswith("loss 0.")
    assert "validation" in watcher.notes[0]


def test_rows_that_cannot_be_fitted_are_refused() -> None:
    rows = trainable_rows(table(), 0.7)
    with pytest.raises(DataError, match="at least one row, had none"):
        fit(table(), rows[:0], LSTM, FitContext())
    with pytest.raises(DataError, match="must leave some on both sides"):
        fit(table(), rows[:1], LSTM, FitContext())
    one_class = planted_table(300)
    one_class.labels.value[:] = 1.0
    with pytest.raises(DataError, match=r"must hold ups and downs, all .* were 1"):
        fit(one_class, trainable_rows(one_class, 0.9), LSTM, FitContext())
    without = replace(table().matrix, names=("volatility_19", *NAMES[1:]))
    changed = planted_table(300)
    changed.matrix = without  # type: ignore[misc]
    with pytest.raises(DataError, match="must include volatility_20"):
        scaled_returns(changed, rows[:3])
    with pytest.raises(DataError, match="fitted"):
        fitted(LSTM).predict(without, rows)


def test_a_loss_that_is_no_number_ends_the_fit() -> None:
    config = LSTM.model_copy(update={"return_weight": 1e38})
    with pytest.raises(RunFailedError, match=r"fit lstm: the training loss of epoch 0 .* lower"):
        fit(table(), trainable_rows(table(), 0.3), config, FitContext())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    config = LSTM.model_copy(update={"device": "cuda"})
    with pytest.raises(ConfigError, match="device must be cpu on a machine without CUDA"):
        fit(table(), trainable_rows(table(), 0.3), config, FitContext())

"""Walk-forward: nothing of a test block reaches its model, and failures show themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.errors import ConfigError, DataError, RunFailedError
from research import fold_runs, walkforward
from research.fitted import predict_rows
from research.fitting import fit_rows
from research.labels import compute_labels
from research.metrics import PREDICTION_METRICS
from research.panel import Panel
from research.predictions import PREDICTION_COLUMNS, SPEC_KEY
from research.settings import WalkForwardConfig
from research.training import train_until
from research.training_table import build_table
from research.walkforward import evaluate, usable_folds, walk_forward
from tests.research.experiments import (
    config,
    model,
    panel,
    result,
    same_numbers,
    texts,
    time_at,
)
from tests.research.markets import take


def test_every_usable_row_of_the_tested_span_is_predicted_once() -> None:
    frame = result().predictions
    table = build_table(panel(), config())
    ts = table.matrix.ts_init
    wanted = table.matrix.valid & (ts > time_at(0.6))
    assert len(frame) == wanted.sum()
    assert not frame.duplicated(["ts_init", "instrument_id"]).any()
    assert set(PREDICTION_COLUMNS) <= set(frame.columns)
    assert frame["ts_init"].is_monotonic_increasing
    assert sorted(frame["fold"].unique()) == [0, 1, 2]
    assert frame["prob_up"].between(0.0, 1.0, inclusive="neither").all()
    assert frame.attrs[SPEC_KEY]["spec_hash"] == result().spec.spec_hash


def test_instruments_of_a_time_stand_in_the_panels_order() -> None:
    rank = {name: place for place, name in enumerate(panel().instruments())}
    frame = result().predictions
    place = frame["instrument_id"].map(rank)
    assert (frame.assign(place=place).groupby("ts_init")["place"].diff().dropna() > 0).all()


def test_labels_are_those_of_the_label_module() -> None:
    labels = compute_labels(panel(), config().label)
    table = build_table(panel(), config())
    names = np.array(panel().instruments(), dtype=object)[table.matrix.instrument]
    truth = pd.Series(labels.forward_return, index=[names, table.matrix.ts_init])
    frame = result().predictions
    wanted = truth.loc[list(zip(frame["instrument_id"], frame["ts_init"], strict=True))]
    np.testing.assert_array_equal(frame["forward_return"], wanted.to_numpy())


def test_a_second_run_has_the_same_bits() -> None:
    again = walk_forward(panel(), config())
    pd.testing.assert_frame_equal(again.predictions, result().predictions, check_exact=True)
    assert [texts(f.model) for f in again.folds] == [texts(f.model) for f in result().folds]
    assert repr(again.metrics) == repr(result().metrics)


def test_folds_beside_one_another_have_the_same_bits() -> None:
    threaded = walk_forward(panel(), config(threads=3))
    pd.testing.assert_frame_equal(threaded.predictions, result().predictions, check_exact=True)
    assert [texts(f.model) for f in threaded.folds] == [texts(f.model) for f in result().folds]
    assert threaded.folds[0].model.config == config(threads=3)


def test_training_until_a_fold_gives_the_folds_own_model() -> None:
    for fold in result().folds:
        alone = train_until(panel(), config(), fold.test_start)
        assert texts(alone) == texts(fold.model)
        assert alone.train_end == fold.train_end
        assert alone.train_end <= fold.test_start - 4 * panel().interval_ns


def changed_after(market: Panel, ts: int) -> Panel:
    """Shuffle the bars after `ts` among themselves, and with them their labels."""
    random = np.random.default_rng(1)
    bars = []
    for one in market.bars:
        after = int(np.searchsorted(one.ts_init, ts, side="right"))
        order = np.concatenate([np.arange(after), after + random.permutation(len(one) - after)])
        bars.append(replace(take(one, order), ts_init=one.ts_init))
    return replace(market, bars=tuple(bars))


def test_what_happens_in_and_after_a_test_block_changes_nothing_in_its_model() -> None:
    first = result().folds[1]
    other = walk_forward(changed_after(panel(), first.test_start), config())
    for before, after in zip(result().folds[:2], other.folds[:2], strict=True):
        assert texts(before.model) == texts(after.model)
    assert texts(result().folds[2].model) != texts(other.folds[2].model)
    one, two = result().predictions, other.predictions
    same_numbers(one[one["fold"] == 0], two[two["fold"] == 0], ("raw_prob", "prob_up"))


def test_shuffled_test_labels_change_no_prediction_of_that_fold() -> None:
    table, settings = build_table(panel(), config()), config()
    fold = usable_folds(table, settings)[1]
    value = table.labels.value.copy()
    later = table.labels.ts_end > fold.test_start - 4 * table.interval_ns
    value[later] = np.random.default_rng(0).permutation(value[later])
    shuffled = replace(table, labels=replace(table.labels, value=value))
    one = fit_rows(table, fold.train, settings, fold.test_start)
    two = fit_rows(shuffled, fold.train, settings, fold.test_start)
    assert texts(one) == texts(two)
    columns = ("raw_prob", "prob_up", "base_prob", "last_sign_prob", "logistic_prob")
    same_numbers(
        predict_rows(table, fold.test, one, 1), predict_rows(shuffled, fold.test, two, 1), columns
    )


def test_one_training_label_more_or_less_does_change_the_model() -> None:
    """The proofs above could pass on a model that looks at nothing."""
    table, settings = build_table(panel(), config()), config()
    fold = usable_folds(table, settings)[0]
    value = table.labels.value.copy()
    value[fold.train] = np.random.default_rng(0).permutation(value[fold.train])
    shuffled = replace(table, labels=replace(table.labels, value=value))
    one = fit_rows(table, fold.train, settings, fold.test_start)
    two = fit_rows(shuffled, fold.train, settings, fold.test_start)
    assert texts(one) != texts(two)


def test_an_unpredictable_market_shows_no_skill() -> None:
    found = result().metrics
    assert found["auc"].low < 0.5 < found["auc"].high
    assert found["log_loss_skill"].value < 0.01


def test_a_rolling_fold_starts_train_bars_before_its_test_block() -> None:
    settings = config(scheme="rolling", train_bars=500)
    for fold in walk_forward(panel(), settings).folds:
        assert fold.test_start - fold.train_start < 500 * panel().interval_ns


def test_a_longer_horizon_purges_more() -> None:
    def last_trained(horizon: int) -> list[int]:
        table = build_table(panel(missing=0.0), config(horizon=horizon))
        folds = usable_folds(table, config(horizon=horizon))
        return [fold.test_start - table.matrix.ts_init[fold.train].max() for fold in folds]

    bar = panel().interval_ns
    assert max(last_trained(2)) <= (2 + 4 + 1) * bar
    assert min(last_trained(16)) >= (16 + 4) * bar


def test_results_by_fold_pooled_and_beside_references() -> None:
    found = result()
    for metrics in (*(fold.metrics for fold in found.folds), *found.references.values()):
        assert tuple(metrics) == PREDICTION_METRICS
    assert found.metrics["n"].value == sum(fold.metrics["n"].value for fold in found.folds)
    assert set(found.references) == {"base rate", "last sign", "logistic regression"}
    assert found.references["base rate"]["log_loss_skill"].value == pytest.approx(0.0, abs=1e-12)
    assert set(found.seconds) == {"features", "fit", "metrics"}
    text = str(found)
    assert text.startswith("SYNTHETIC DATA")
    assert all(f"fold {index}" in text for index in range(3))
    assert "logistic regression" in text


def test_a_fit_that_its_time_budget_ended_says_so() -> None:
    assert result().cut_short == {}
    hasty = {"n_trees": 100_000, "time_budget_secs": 0.01, "min_rows_in_leaf": 30}
    settings = config(n_folds=1).model_dump() | {"experts": {"lightgbm": hasty}}
    found = walk_forward(panel(), WalkForwardConfig.model_validate(settings))
    assert found.cut_short == {"lightgbm": 1}
    assert found.folds[0].model.reports.cut_short == ("lightgbm",)


def test_progress_tells_every_stage_to_its_end() -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    walk_forward(
        panel(),
        config(),
        progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
    )
    assert {"features", "folds", "metrics"} <= set(seen)
    for stages in seen.values():
        assert stages[-1][0] == stages[-1][1]
        assert all(0 <= done <= total for done, total in stages)


def test_a_failing_fold_shows_its_name_span_and_real_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = fold_runs.submit_fit
    wanted = result().folds[1].test_start

    def planted(*arguments: Any, **named: Any) -> Any:
        if arguments[4] == wanted:
            raise ZeroDivisionError("planted")
        return fit(*arguments, **named)

    monkeypatch.setattr(fold_runs, "submit_fit", planted)
    with pytest.raises(
        RunFailedError, match=r"fold 1 \(20.* to 20.*ZeroDivisionError: planted"
    ) as e:
        walk_forward(panel(), config())
    assert isinstance(e.value.__cause__, ZeroDivisionError)


def test_a_fold_that_data_cannot_fill_keeps_its_kind_of_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def planted(*_: Any, **__: Any) -> Any:
        raise DataError("labels are all alike")

    monkeypatch.setattr(fold_runs, "submit_fit", planted)
    with pytest.raises(DataError, match=r"fold \d \(.*failed: labels are all alike") as e:
        walk_forward(panel(), config())
    assert isinstance(e.value.__cause__, DataError)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"test_start": time_at(0.2)}, ConfigError, "test_start must lie within the usable rows"),
        ({"test_start": time_at(0.4)}, DataError, r"fold 0 .* at least 500 training rows, had \d+"),
        ({"test_end": time_at(1.0) + 10**15}, ConfigError, "test_end must not be after"),
        ({"n_folds": 1000, "test_start": time_at(0.9)}, ConfigError, "n_folds must be at most"),
        ({"scheme": "rolling", "train_bars": 2000}, ConfigError, "train_bars must fit"),
    ],
)
def test_a_span_that_does_not_fit_is_refused_and_never_moved(
    changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        walk_forward(panel(), config(**changes))


def test_less_history_than_the_warm_up_is_refused() -> None:
    short = panel().truncated(time_at(0.2))
    with pytest.raises(DataError, match=r"more bars than the warm-up of \d+, had at most \d+"):
        walk_forward(short, config(test_start=time_at(0.1)))


def test_training_until_after_the_data_or_too_early_is_refused() -> None:
    with pytest.raises(ConfigError, match="until must not be after the last bar"):
        train_until(panel(), config(), time_at(1.0) + 1)
    with pytest.raises(DataError, match="must have at least 500 rows, had"):
        train_until(panel(), config(), time_at(0.41))


def test_evaluation_equals_the_folds_own_predictions() -> None:
    fold = result().folds[0]
    found = evaluate(panel(), model(), fold.test_start, fold.test_end)
    wanted = result().predictions
    wanted = wanted[wanted["fold"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(found.predictions, wanted, check_exact=True)
    assert repr(found.metrics) == repr(fold.metrics)


@pytest.mark.parametrize(("trained", "judged"), [(True, False), (False, True), (False, False)])
def test_what_is_made_up_in_the_model_or_in_the_data_marks_the_result(
    trained: bool, judged: bool
) -> None:
    span = (time_at(0.6), time_at(0.7))
    market, fitted = replace(panel(), synthetic=judged), replace(model(), synthetic=trained)
    found = evaluate(market, fitted, *span)
    assert found.synthetic is (trained or judged)
    assert str(found).startswith("SYNTHETIC DATA") is (trained or judged)


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        (0.5, 0.7, "has seen part of it"),
        (0.59, 0.9, "has seen part of it"),
        (0.1, 0.2, "has seen part of it"),
        (0.8, 0.7, "must end after its start"),
    ],
)
def test_a_seen_span_is_refused(start: float, end: float, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        evaluate(panel(), model(), time_at(start), time_at(end))


def test_the_first_span_that_may_be_judged_begins_after_labels_and_embargo() -> None:
    earliest = model().train_end + 4 * panel().interval_ns
    assert earliest <= model().until
    walkforward.check_unseen(model(), earliest, earliest + 1)
    with pytest.raises(ConfigError, match="has seen part of it"):
        walkforward.check_unseen(model(), earliest - 1, earliest + 1)


def test_a_span_beyond_the_data_is_refused_and_never_shortened() -> None:
    with pytest.raises(ConfigError, match="must lie within the usable rows"):
        evaluate(panel(), model(), time_at(0.7), time_at(1.0) + 10**15)


def test_another_market_is_refused() -> None:
    fewer = replace(panel(), bars=panel().bars[:2], funding={})
    with pytest.raises(ConfigError, match="must hold the model's instruments"):
        evaluate(fewer, model(), time_at(0.7), time_at(0.9))

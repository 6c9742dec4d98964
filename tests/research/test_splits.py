"""Folds: written out by hand, and as properties of every layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from catalog.errors import ConfigError, DataError
from research.splits import (
    ValidationConfig,
    check_fold,
    inner_blocks,
    training_rows,
    walk_forward_splits,
)

BAR = 60_000_000_000


def times(n_bars: int, first: int = 1) -> np.ndarray:
    return np.arange(first, first + n_bars, dtype=np.int64) * BAR


def config(**changes: object) -> ValidationConfig:
    settings_ = {
        "n_folds": 2,
        "test_start": 12 * BAR,
        "embargo_bars": 0,
        "min_train_rows": 10,
        **changes,
    }
    return ValidationConfig(**settings_)


def test_expanding_folds_written_out() -> None:
    ts = times(20)  # 1 .. 20
    folds = walk_forward_splits(ts, ts + BAR, config(), BAR)
    assert len(folds) == 2
    first, second = folds
    assert (first.test_start // BAR, first.test_end // BAR) == (12, 16)
    assert (second.test_start // BAR, second.test_end // BAR) == (16, 20)
    np.testing.assert_array_equal(ts[first.test] // BAR, [13, 14, 15, 16])
    np.testing.assert_array_equal(ts[second.test] // BAR, [17, 18, 19, 20])
    # A label one bar long: row 11 looks at (11, 12] and may train, row 12 may not.
    np.testing.assert_array_equal(ts[first.train] // BAR, np.arange(1, 12))
    np.testing.assert_array_equal(ts[second.train] // BAR, np.arange(1, 16))


def test_purge_follows_the_label_span_and_the_embargo() -> None:
    ts = times(40)
    horizon, embargo = 4, 3
    settings_ = config(n_folds=1, test_start=30 * BAR, embargo_bars=embargo)
    (fold,) = walk_forward_splits(ts, ts + horizon * BAR, settings_, BAR)
    assert ts[fold.train].max() // BAR == 30 - horizon - embargo


def test_rolling_folds_keep_train_bars_less_purge() -> None:
    ts = times(40)
    settings_ = config(scheme="rolling", train_bars=15, test_start=20 * BAR, n_folds=2)
    first, second = walk_forward_splits(ts, ts + BAR, settings_, BAR)
    np.testing.assert_array_equal(ts[first.train] // BAR, np.arange(6, 20))
    np.testing.assert_array_equal(ts[second.train] // BAR, np.arange(16, 30))


def test_rows_of_several_instruments_share_the_folds() -> None:
    one = times(30)
    ts = np.concatenate([one, one[5:], one[::-1]])
    (fold,) = walk_forward_splits(ts, ts + BAR, config(n_folds=1, test_start=20 * BAR), BAR)
    assert (ts[fold.test] > 20 * BAR).all()
    assert (ts[fold.train] < 20 * BAR).all()
    assert len(fold.test) == 30


@settings(max_examples=60, deadline=None)
@given(
    n_bars=st.integers(60, 300),
    horizon=st.integers(1, 20),
    embargo=st.integers(0, 20),
    n_folds=st.integers(1, 6),
    rolling=st.booleans(),
)
def test_no_training_label_reaches_a_test_block(
    n_bars: int, horizon: int, embargo: int, n_folds: int, rolling: bool
) -> None:
    ts = times(n_bars)
    ts_end = ts + horizon * BAR
    settings_ = config(
        n_folds=n_folds,
        test_start=52 * BAR,
        embargo_bars=embargo,
        scheme="rolling" if rolling else "expanding",
        train_bars=52 if rolling else None,
    )
    folds = walk_forward_splits(ts, ts_end, settings_, BAR)
    assert len(folds) == n_folds
    np.testing.assert_array_equal(
        np.concatenate([fold.test for fold in folds]), np.flatnonzero(ts > 52 * BAR)
    )
    for fold in folds:
        assert ts_end[fold.train].max() <= fold.test_start - embargo * BAR
        assert ts[fold.test].min() > fold.test_start
        assert not set(fold.train) & set(fold.test)
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=60, deadline=None)
@given(
    n_bars=st.integers(200, 400),
    horizon=st.integers(1, 10),
    embargo=st.integers(0, 10),
    n_blocks=st.integers(2, 5),
    instruments=st.integers(1, 3),
)
def test_inner_blocks_are_purged_on_both_sides(
    n_bars: int, horizon: int, embargo: int, n_blocks: int, instruments: int
) -> None:
    ts = np.tile(times(n_bars), instruments)
    ts_end = ts + horizon * BAR
    blocks = inner_blocks(ts, ts_end, n_blocks, embargo * BAR)
    assert len(blocks) == n_blocks
    held = np.concatenate([held_out for _, held_out in blocks])
    np.testing.assert_array_equal(np.sort(held), np.arange(len(ts)))
    for train, held_out in blocks:
        start, end = ts[held_out].min(), ts_end[held_out].max()
        before, after = ts_end[train] <= start - embargo * BAR, ts[train] >= end + embargo * BAR
        assert (before | after).all()
        gap = embargo * BAR
        allowed = (ts_end <= start - gap) | (ts >= end + gap)
        assert len(train) == allowed.sum()  # and nothing more than that is lost


def test_every_row_of_a_time_falls_into_the_same_inner_block() -> None:
    ts = np.repeat(times(30), 3)
    for _, held_out in inner_blocks(ts, ts + BAR, 4, 0):
        inside = set(ts[held_out].tolist())
        assert not inside & set(np.delete(ts, held_out).tolist())


def test_training_rows_of_a_fold_are_those_of_its_start() -> None:
    ts = times(60)
    settings_ = config(test_start=30 * BAR, n_folds=3, embargo_bars=2)
    for fold in walk_forward_splits(ts, ts + BAR, settings_, BAR):
        rows = training_rows(ts, ts + BAR, settings_, BAR, fold.test_start)
        np.testing.assert_array_equal(np.flatnonzero(rows), fold.train)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"test_start": 0}, ConfigError, "test_start must lie within the usable rows"),
        ({"test_start": 20 * BAR}, ConfigError, "test_start must lie within the usable rows"),
        ({"test_end": 25 * BAR}, ConfigError, "test_end must not be after the last row"),
        ({"n_folds": 9}, ConfigError, r"n_folds must be at most the number of bars .* \(8\)"),
        ({"test_start": 5 * BAR}, DataError, r"fold 0 .* at least 10 training rows, had 4"),
        ({"embargo_bars": 3}, DataError, "at least 10 training rows, had 8"),
        (
            {"scheme": "rolling", "train_bars": 13},
            ConfigError,
            "train_bars must fit .* at most 12, was 13",
        ),
    ],
)
def test_nothing_is_moved_to_make_it_fit(
    changes: dict[str, object], error: type[Exception], text: str
) -> None:
    ts = times(20)
    with pytest.raises(error, match=text):
        walk_forward_splits(ts, ts + BAR, config(**changes), BAR)


def refusal(folds_of: ValidationConfig, horizon: int, unlabelled: int = 0) -> str:
    """Return why the first fold of 100 bars has too few training rows."""
    ts = times(100)

    def divide() -> None:
        (fold,) = walk_forward_splits(ts, ts + horizon * BAR, folds_of, BAR)
        check_fold(replace(fold, train=fold.train[unlabelled:]), folds_of, unlabelled=unlabelled)

    with pytest.raises(DataError) as caught:
        divide()
    return str(caught.value)


def test_purged_rows_are_told_apart_from_rows_without_a_label() -> None:
    one = config(n_folds=1, test_start=50 * BAR, min_train_rows=40, embargo_bars=2)
    text = refusal(one, 49)
    assert "had 0 of 50 before it: 50 are purged, because their labels' horizon" in text
    assert "and 0 have no label; shorten label.horizon_bars or validation.embargo_bars," in text
    text = refusal(one, 1, 30)
    # With a label of one bar and two bars of embargo, 48, 49 and 50 are too late.
    assert "had 17 of 50 before it: 3 are purged" in text
    assert "and 30 have no label; narrow the label's dead zone or its barriers," in text


def test_where_there_is_too_little_history_nothing_else_is_advised() -> None:
    text = refusal(config(n_folds=1, test_start=50 * BAR, min_train_rows=60), 30, 5)
    assert "have no label; start the test later or load more history" in text


def test_purged_rows_of_a_rolling_fold_are_those_of_its_own_span() -> None:
    ts = times(100)
    settings_ = config(
        n_folds=1, test_start=50 * BAR, scheme="rolling", train_bars=20, embargo_bars=3
    )
    (fold,) = walk_forward_splits(ts, ts + 2 * BAR, settings_, BAR)
    assert (len(fold.train), fold.purged) == (15, 5)  # 46 to 50 are too late


def test_a_hole_as_long_as_a_test_block_is_refused() -> None:
    ts = np.concatenate([times(14), times(8, first=33)])
    with pytest.raises(DataError, match=r"fold 0 .* must have test rows, had none"):
        walk_forward_splits(ts, ts + BAR, config(n_folds=4, test_start=14 * BAR), BAR)


def test_no_rows_are_refused() -> None:
    nothing = np.empty(0, dtype=np.int64)
    with pytest.raises(DataError, match="must have rows"):
        walk_forward_splits(nothing, nothing, config(), BAR)


def test_inner_blocks_that_leave_nothing_are_refused() -> None:
    ts = times(20)
    hours = "labels look up to 10 hours ahead .*horizon_bars.* embargo is 9 hours.* within 19 hours"
    with pytest.raises(DataError, match=f"must leave rows to train on.*{hours}"):
        inner_blocks(ts * 60, ts * 60 + 600 * BAR, 2, 540 * BAR)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scheme": "rolling"}, "train_bars must be given for the rolling scheme"),
        ({"train_bars": 10}, "train_bars must be given for the rolling scheme"),
        ({"test_end": 1 * BAR}, "test_end must be after test_start"),
        ({"test_start": "soon"}, "time must be a date"),
        ({"n_folds": 0}, "greater than or equal to 1"),
        ({"folds": 3}, "Extra inputs"),
    ],
)
def test_contradictory_settings_are_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        config(**changes)


def test_dates_are_read_as_utc() -> None:
    assert config(test_start="2024-01-01").test_start == 1_704_067_200_000_000_000

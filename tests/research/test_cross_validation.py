"""Splitters: against scikit-learn's, skfolio's, purgedcv's and ours, and slow literal versions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import purgedcv
import pytest
import skfolio.model_selection as skfolio_cv
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score

from catalog.errors import ConfigError, DataError
from research.cross_validation import (
    CombinatorialPurged,
    LabelSpans,
    PurgedWalkForward,
    Window,
)
from research.splits import ValidationConfig, inner_blocks, walk_forward_splits

BAR = 60_000_000_000
DAY = pd.Timedelta(days=1)
Split = tuple[np.ndarray, np.ndarray]


def days(n_rows: int, horizon: int) -> dict[str, pd.Series]:
    """Return times of rows and ends of their labels, for purgedcv."""
    known = pd.Series(pd.date_range("2024-01-01", periods=n_rows, freq="D"))
    return {"prediction_times": known, "evaluation_times": known + horizon * DAY}


def same(ours: list[Split], theirs: list[Split], count: int) -> None:
    assert len(ours) == len(theirs) == count
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


@st.composite
def labelled(draw: st.DrawFn) -> LabelSpans:
    """Draw rows of several instruments, in any order, each with a label of its own length."""
    n_times, n_instruments = draw(st.integers(30, 60)), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    ts_init = np.repeat(np.cumsum(random.integers(1, 4, n_times)), n_instruments)
    ts_init = random.permutation(ts_init.astype(np.int64))
    return LabelSpans(ts_init, ts_init + random.integers(0, 6, len(ts_init)))


# -- walk-forward --------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("embargo", [0, 2])
@pytest.mark.parametrize(("n_rows", "n_splits"), [(60, 5), (61, 4), (47, 2)])
def test_expanding_is_scikit_learns_split_with_a_gap(
    horizon: int, embargo: int, n_rows: int, n_splits: int
) -> None:
    spans = LabelSpans.of_rows(n_rows, horizon)
    ours = PurgedWalkForward(n_splits, embargo=embargo, spans=spans)
    theirs = TimeSeriesSplit(n_splits, gap=horizon + embargo)
    rows = np.zeros((n_rows, 1))
    same(list(ours.split(rows)), list(theirs.split(rows)), n_splits)


@pytest.mark.parametrize("expand", [True, False])
def test_windows_are_skfolios_with_purged_rows(expand: bool) -> None:
    train, test, horizon, n_splits = 20, 7, 3, 4
    n_rows = train + horizon + n_splits * test
    theirs = skfolio_cv.WalkForward(
        test_size=test, train_size=train, expand_train=expand, purged_size=horizon
    )
    window = Window() if expand else Window("rolling", length=train + horizon)
    ours = PurgedWalkForward(
        n_splits, window, test_times=test, spans=LabelSpans.of_rows(n_rows, horizon)
    )
    rows = np.zeros((n_rows, 2))
    same(list(ours.split(rows)), list(theirs.split(rows)), n_splits)


def test_expanding_is_purgedcvs_with_one_row_more() -> None:
    n_rows, horizon, n_splits, test = 50, 4, 3, 8
    rows = np.zeros((n_rows, 1))
    ours = PurgedWalkForward(
        n_splits, test_times=test, spans=LabelSpans.of_rows(n_rows, horizon), embargo=2
    )
    theirs = purgedcv.WalkForwardSplit(
        n_splits=n_splits, test_size=test, purge_horizon=(2 + 1) * DAY, **days(n_rows, horizon)
    )
    same(list(ours.split(rows)), list(theirs.split(rows)), n_splits)
    # Where they differ: its label may end at the very time of the first test row.
    plain = purgedcv.WalkForwardSplit(
        n_splits=n_splits, test_size=test, purge_horizon=2 * DAY, **days(n_rows, horizon)
    )
    for (one, _), (other, _) in zip(ours.split(rows), plain.split(rows), strict=True):
        np.testing.assert_array_equal(one, other[:-1])


@pytest.mark.parametrize("scheme", ["expanding", "rolling"])
def test_splits_are_those_of_a_run(scheme: str) -> None:
    one = np.arange(1, 121, dtype=np.int64) * BAR
    ts_init = np.concatenate([one, one])
    ts_end = ts_init + np.tile([2, 5], 120) * BAR
    rolling = scheme == "rolling"
    config = ValidationConfig(
        scheme=scheme,
        n_folds=4,
        test_start=60 * BAR,
        embargo_bars=3,
        min_train_rows=10,
        train_bars=50 if rolling else None,
    )
    folds = walk_forward_splits(ts_init, ts_end, config, BAR)
    ours = PurgedWalkForward(
        4,
        Window("rolling", length=50 * BAR) if rolling else Window(),
        test_times=15,
        embargo=3 * BAR,
        spans=LabelSpans(ts_init, ts_end),
    )
    same(list(ours.split()), [(fold.train, fold.test) for fold in folds], 4)


def test_an_anchored_window_begins_where_it_is_told() -> None:
    spans = LabelSpans.of_rows(40)
    anchored = PurgedWalkForward(3, Window("anchored", start=7), spans=spans)
    everything = PurgedWalkForward(3, spans=spans)
    found = list(anchored.split())
    assert len(found) == 3
    for one, other in zip(found, everything.split(), strict=True):
        np.testing.assert_array_equal(one[0], other[0][other[0] >= 7])
        np.testing.assert_array_equal(one[1], other[1])


def test_a_walk_forward_written_out() -> None:
    spans = LabelSpans(np.array([0, 1, 2, 3, 4, 5, 6, 7]), np.array([1, 6, 3, 4, 5, 6, 7, 8]))
    (first, second) = PurgedWalkForward(2, test_times=2, spans=spans).split()
    # Row 1 looks until 6: it trains neither block, whose edges are 3 and 5.
    assert [part.tolist() for part in first] == [[0, 2], [4, 5]]
    assert [part.tolist() for part in second] == [[0, 2, 3, 4], [6, 7]]


@settings(max_examples=60, deadline=None)
@given(labelled(), st.integers(1, 4), st.integers(0, 4), st.sampled_from(["expanding", "rolling"]))
def test_no_label_of_the_past_reaches_a_test_block(
    spans: LabelSpans, n_splits: int, embargo: int, scheme: str
) -> None:
    window = Window("rolling", length=40) if scheme == "rolling" else Window()
    cv = PurgedWalkForward(n_splits, window, test_times=4, embargo=embargo, spans=spans)
    found = list(cv.split())
    assert len(found) == n_splits == cv.get_n_splits()
    times = np.unique(spans.ts_init)
    tested = np.concatenate([test for _, test in found])
    np.testing.assert_array_equal(
        np.sort(tested), np.flatnonzero(spans.ts_init > times[-4 * n_splits - 1])
    )
    for train, test in found:
        edge = times[np.searchsorted(times, spans.ts_init[test].min()) - 1]
        literal = [
            row
            for row in range(len(spans))
            if spans.ts_end[row] <= edge - embargo
            and (scheme == "expanding" or spans.ts_init[row] > edge - 40)
        ]
        assert train.tolist() == literal


# -- combinatorial -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_groups", "n_test"), [(6, 2), (5, 3), (4, 2)])
@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_combinations_are_skfolios_with_purged_rows(
    n_groups: int, n_test: int, horizon: int
) -> None:
    rows = np.zeros((n_groups * 12, 1))
    theirs = skfolio_cv.CombinatorialPurgedCV(
        n_folds=n_groups, n_test_folds=n_test, purged_size=horizon - 1
    )
    ours = CombinatorialPurged(n_groups, n_test, spans=LabelSpans.of_rows(len(rows), horizon))
    split = [(train, np.sort(np.concatenate(tests))) for train, tests in theirs.split(rows)]
    same(list(ours.split(rows)), split, theirs.n_splits)
    assert ours.n_paths == theirs.n_test_paths
    np.testing.assert_array_equal(ours.path_splits, theirs.recombined_paths.T)


def test_skfolios_embargo_is_after_a_block_only() -> None:
    rows, embargo = np.zeros((60, 1)), 3
    theirs = skfolio_cv.CombinatorialPurgedCV(
        n_folds=6, n_test_folds=2, purged_size=1, embargo_size=embargo
    )
    ours = CombinatorialPurged(6, 2, embargo=embargo, spans=LabelSpans.of_rows(60, 2))
    differing = 0
    for (one, _), (other, tests) in zip(ours.split(rows), theirs.split(rows), strict=True):
        assert set(one) <= set(other)
        more = sorted(set(other) - set(one))
        starts = {int(test[0]) for test in tests}
        assert all(any(start - 1 - embargo <= row < start for start in starts) for row in more)
        differing += len(more)
    assert differing > 0


@pytest.mark.parametrize(("n_rows", "n_groups", "n_test"), [(60, 6, 2), (71, 5, 2), (44, 4, 1)])
@pytest.mark.parametrize("embargo", [0, 3])
def test_combinations_are_purgedcvs(n_rows: int, n_groups: int, n_test: int, embargo: int) -> None:
    rows, horizon = np.zeros((n_rows, 1)), 3
    theirs = purgedcv.CombinatorialPurgedCV(
        n_splits=n_groups,
        n_test_groups=n_test,
        purge_horizon=embargo * DAY,
        **days(n_rows, horizon),
    )
    ours = CombinatorialPurged(
        n_groups, n_test, embargo=embargo, spans=LabelSpans.of_rows(n_rows, horizon)
    )
    same(list(ours.split(rows)), list(theirs.split(rows)), ours.get_n_splits())
    random = np.random.default_rng(0)
    answers = [random.normal(size=len(test)) for _, test in ours.split(rows)]
    np.testing.assert_array_equal(ours.paths(answers), theirs.reconstruct_paths(answers))


def test_labels_of_their_own_length_are_purged_as_purgedcv_does() -> None:
    random = np.random.default_rng(3)
    known = pd.Series(pd.date_range("2024-01-01", periods=90, freq="D"))
    ends = known + pd.to_timedelta(random.integers(1, 9, 90), unit="D")
    theirs = purgedcv.CombinatorialPurgedCV(
        n_splits=6, n_test_groups=2, prediction_times=known, evaluation_times=ends
    )
    ours = CombinatorialPurged(6, 2, spans=LabelSpans.of_series(pd.Series(ends.array, index=known)))
    rows = np.zeros((90, 1))
    same(list(ours.split(rows)), list(theirs.split(rows)), 15)


def overlaps(spans: LabelSpans, row: int, block: np.ndarray, embargo: int) -> bool:
    """Say in plain words whether a row's span, widened on both sides, meets that of a block."""
    begin, end = spans.ts_init[block].min() - embargo, spans.ts_end[block].max() + embargo
    return bool(spans.ts_end[row] > begin and spans.ts_init[row] < end)


@settings(max_examples=40, deadline=None)
@given(labelled(), st.integers(3, 6), st.integers(1, 2), st.integers(0, 3))
def test_combinations_are_the_literal_ones(
    spans: LabelSpans, n_groups: int, n_test: int, embargo: int
) -> None:
    cv = CombinatorialPurged(n_groups, n_test, embargo=embargo, spans=spans)
    groups = cv.groups_of(spans)
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(len(spans)))
    for group in groups:  # no time is divided
        outside = np.setdiff1d(np.arange(len(spans)), group)
        assert not set(spans.ts_init[group]) & set(spans.ts_init[outside])
    try:
        found = list(cv.split())
    except DataError:
        return
    assert len(found) == cv.get_n_splits()
    for chosen, (train, test) in zip(combinations(range(n_groups), n_test), found, strict=True):
        np.testing.assert_array_equal(test, np.sort(np.concatenate([groups[g] for g in chosen])))
        literal = [
            row
            for row in np.setdiff1d(np.arange(len(spans)), test)
            if not any(overlaps(spans, row, groups[group], embargo) for group in chosen)
        ]
        assert train.tolist() == literal


def test_one_test_group_is_the_purged_k_fold_of_a_fit() -> None:
    ts = np.arange(60, dtype=np.int64)
    cv = CombinatorialPurged(4, 1, embargo=2, spans=LabelSpans(ts, ts + 3))
    same(list(cv.split()), inner_blocks(ts, ts + 3, 4, 2), 4)
    assert cv.n_paths == 1


def test_the_paths_of_the_book() -> None:
    """Figure 12.1: 6 groups of which 2 are tested, 15 splits, 5 paths."""
    cv = CombinatorialPurged(6, 2)
    assert (cv.get_n_splits(), cv.n_paths) == (15, 5)
    np.testing.assert_array_equal(
        cv.path_splits.T,
        [
            [0, 1, 2, 3, 4],
            [0, 5, 6, 7, 8],
            [1, 5, 9, 10, 11],
            [2, 6, 9, 12, 13],
            [3, 7, 10, 12, 14],
            [4, 8, 11, 13, 14],
        ],
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), st.data())
def test_every_split_serves_each_of_its_groups_in_one_path(
    n_groups: int, data: st.DataObject
) -> None:
    cv = CombinatorialPurged(n_groups, data.draw(st.integers(1, n_groups - 1)))
    used = [(int(split), group) for path in cv.path_splits for group, split in enumerate(path)]
    tested = [(split, group) for split, groups in enumerate(cv.test_groups) for group in groups]
    assert sorted(used) == sorted(tested)
    assert cv.path_splits.shape == (cv.n_paths, n_groups)


# -- with scikit-learn ---------------------------------------------------------------------------


@pytest.mark.parametrize("cv", [PurgedWalkForward(3), CombinatorialPurged(4, 2)])
def test_scikit_learn_takes_them(cv: PurgedWalkForward | CombinatorialPurged) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(120, 3))
    label = (rows[:, 0] + random.normal(size=120) > 0).astype(int)
    scores = cross_val_score(LogisticRegression(), rows, label, cv=cv)
    assert len(scores) == cv.get_n_splits(rows, label)
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=cv).fit(rows, label)
    assert search.best_score_ > 0.6
    times = pd.date_range("2024-01-01", periods=120, freq="h")
    ends = pd.Series(times + pd.Timedelta(hours=5), index=times)
    given_later = list(cv.split(rows, spans=LabelSpans.of_series(ends)))
    assert len(given_later[-1][0]) < len(list(cv.split(rows))[-1][0])


def test_a_series_with_and_without_a_zone_is_the_same() -> None:
    times = pd.date_range("2024-01-01", periods=5, freq="h")
    plain = LabelSpans.of_series(pd.Series(times + DAY, index=times))
    zoned = LabelSpans.of_series(
        pd.Series(times.tz_localize("UTC") + DAY, index=times.tz_localize("UTC"))
    )
    np.testing.assert_array_equal(plain.ts_init, zoned.ts_init)
    np.testing.assert_array_equal(plain.ts_end, zoned.ts_end)
    assert plain.ts_init[0] == 1_704_067_200 * 10**9
    assert plain.ts_end[0] == plain.ts_init[0] + 86_400 * 10**9


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: PurgedWalkForward(0), "n_splits must be at least 1, was 0"),
        (lambda: PurgedWalkForward(2, test_times=0), "test_times must be at least 1, was 0"),
        (lambda: PurgedWalkForward(2, embargo=-1), "embargo must not be negative, was -1"),
        (lambda: Window("rolling"), "length must be given for the rolling window"),
        (lambda: Window("expanding", start=3), "start must be given for the anchored window"),
        (lambda: Window("anchored", length=1, start=1), "length must be given for the rolling"),
        (lambda: Window("rolling", length=0), "length must be at least 1, was 0"),
        (lambda: Window("sideways"), "scheme must be expanding, rolling or anchored"),  # type: ignore[arg-type]
        (lambda: CombinatorialPurged(4, 4), "n_test_groups must be at least 1 and less than"),
        (lambda: CombinatorialPurged(4, 0), "n_test_groups must be at least 1 and less than"),
        (lambda: CombinatorialPurged(20, 10), "at most 1000 splits, made 184756"),
        (lambda: CombinatorialPurged(9).groups_of(LabelSpans.of_rows(8)), "number of times .8., w"),
        (lambda: list(PurgedWalkForward(9).split(np.zeros(9))), "must leave some before them"),
    ],
)
def test_settings_that_cannot_be(make: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: LabelSpans(np.arange(3), np.arange(2)), "must be of one shape"),
        (lambda: LabelSpans(np.arange(0), np.arange(0)), "must be of one shape .* with rows"),
        (lambda: LabelSpans(np.arange(3), np.array([0, 0, 2])), "was 0 for 1 in row 1"),
        (lambda: list(PurgedWalkForward(2).split()), "must be given rows or their labels' spans"),
        (
            lambda: list(PurgedWalkForward(2, spans=LabelSpans.of_rows(9)).split(np.zeros(8))),
            "X must have a row for each label span, had 8 for 9",
        ),
        (
            lambda: list(PurgedWalkForward(2, spans=LabelSpans.of_rows(9, 9)).split()),
            "must have rows to train on, had none",
        ),
        (
            lambda: list(CombinatorialPurged(3, spans=LabelSpans.of_rows(9, 9)).split()),
            "split 0 .groups .0, 1.. must have rows to train on",
        ),
        (
            lambda: CombinatorialPurged(3, spans=LabelSpans.of_rows(9)).paths([np.zeros(6)]),
            "answers must be those of 3 splits, were of 1",
        ),
        (
            lambda: CombinatorialPurged(3, spans=LabelSpans.of_rows(9)).paths([np.zeros(5)] * 3),
            "split 0 must have an answer for each of its 6 test rows",
        ),
        (
            lambda: LabelSpans.of_series(
                pd.Series([pd.NaT], index=pd.DatetimeIndex(["2024-01-01"]))
            ),
            "t1 must have an end for every row, had none for 1 of 1",
        ),
    ],
)
def test_data_that_cannot_be_split(make: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        make()  # type: ignore[operator]

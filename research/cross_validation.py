"""Splitters for scikit-learn whose training rows know nothing of their test rows.

A row is known at `ts_init` and its label looks at ``(ts_init, ts_end]``. Both are integers of one
unit: nanoseconds, or simply the numbers of the rows. Several rows may be known at one time (one
for each instrument); no split divides them.

================================  ============================================================
`PurgedWalkForward`               test blocks one after the other, trained on what was before
`CombinatorialPurged`             all ways to test some of the groups that a span is divided
                                  into, and the backtest paths that they make (CPCV)
================================  ============================================================

Where they agree with others', and where not (each shown by a test). With regular bars and labels
of `h` bars:

- ``sklearn.model_selection.TimeSeriesSplit(gap=g)`` and ``skfolio.model_selection.WalkForward(
  purged_size=g)`` count rows. `PurgedWalkForward` leaves out ``h + embargo`` rows, so they agree
  for that `g` and for one row a time; labels of differing length they cannot see.
- ``skfolio.model_selection.CombinatorialPurgedCV(purged_size=p, embargo_size=e)`` counts rows, too,
  and has its embargo after a test block only. It agrees for ``p = h - 1 + embargo`` and ``e = 0``.
  It puts the rows that are left over by the division into the last group, here they go to the
  first groups, one each. Its paths are the same.
- ``purgedcv.CombinatorialPurgedCV(purge_horizon=embargo)`` compares labels' spans as is done here
  and agrees wherever the labels of a test group leave no gap between them; its `embargo` is that
  of the book, after a block only. ``purgedcv.WalkForwardSplit`` lets a label end at the very time
  of the first test row; here it must have ended a row before, since a model takes time to fit.
  Its sliding window counts the rows that are left after the purge, ours the time before it.

The embargo is on both sides of a block, where López de Prado (2018, section 7.4.2) has it after
the block only: features have memory, and the first test rows share most of it with the last
training rows (see `research.splits`, which divides runs the same way).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

MAX_SPLITS = 1_000
"""More combinations than this are a slip: each is a fit."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelSpans:
    """When each row is known and until when its label looks.

    Parameters
    ----------
    ts_init : (n_rows,) int64
        When each row is known; in any order, several rows may share a time.
    ts_end : (n_rows,) int64
        End of the span that its label looks at, in the same unit; not before `ts_init`.

    Raises
    ------
    DataError
        If the two do not fit together, or there are none.
    """

    ts_init: Int64Array
    ts_end: Int64Array

    def __post_init__(self) -> None:
        shapes = self.ts_init.shape, self.ts_end.shape
        if shapes[0] != shapes[1] or len(shapes[0]) != 1 or not shapes[0][0]:
            raise DataError(
                f"ts_init and ts_end must be of one shape (n_rows,) with rows, were {shapes[0]} "
                f"and {shapes[1]}"
            )
        early = np.flatnonzero(self.ts_end < self.ts_init)
        if len(early):
            row = int(early[0])
            raise DataError(
                f"ts_end must not be before ts_init, was {self.ts_end[row]} for "
                f"{self.ts_init[row]} in row {row}; give the end of each label's span"
            )

    @classmethod
    def of_rows(cls, n_rows: int, horizon: int = 1) -> Self:
        """Return spans in numbers of rows: one row a time, each label `horizon` rows long."""
        ts_init = np.arange(n_rows, dtype=np.int64)
        return cls(ts_init, ts_init + horizon)

    @classmethod
    def of_series(cls, t1: pd.Series[Any]) -> Self:
        """Return the spans of a series of label ends, indexed by when each row is known.

        Parameters
        ----------
        t1 : Series of datetime64
            As in López de Prado (2018, section 4.3). Times without a zone are taken for UTC.

        Raises
        ------
        DataError
            If an end is missing.
        """
        import pandas as pd

        missing = t1.isna().to_numpy()
        if missing.any():
            raise DataError(
                f"t1 must have an end for every row, had none for {int(missing.sum())} of "
                f"{len(t1)}; leave rows without a label out, or give the end of the data"
            )
        known, ends = (
            pd.DatetimeIndex(pd.to_datetime(times, utc=True)).as_unit("ns").asi8
            for times in (t1.index, t1.array)
        )
        return cls(known, ends)

    def __len__(self) -> int:
        return len(self.ts_init)

    def clear_of(self, block: Int64Array, embargo: int) -> NDArray[np.bool_]:
        """Return which rows share nothing with a block of rows that lies between them.

        Parameters
        ----------
        block : (n_block,) int64
            Rows that are contiguous in time.
        embargo : int
            What is left out on both sides of it, beyond the labels' own spans.

        Returns
        -------
        (n_rows,) bool
            True where the label ends at or before the block's first `ts_init` less the embargo,
            or the row is known at or after the block's last `ts_end` plus the embargo.
        """
        first, last = int(self.ts_init[block].min()), int(self.ts_end[block].max())
        clear: NDArray[np.bool_] = self.ts_end <= first - embargo
        clear |= self.ts_init >= last + embargo
        clear[block] = False
        return clear


@dataclass(frozen=True, slots=True)
class Window:
    """Which of the past a walk-forward trains on.

    Parameters
    ----------
    scheme : {"expanding", "rolling", "anchored"}
        All of it, the last `length` only, or all from `start` on. Purge and embargo are taken
        from the window, they do not move it.
    length : int, optional
        In the unit of the times: rows known in ``(edge - length, edge]`` may train, where the edge
        is the last time before the test block. For rolling only.
    start : int, optional
        First time that may train. For anchored only.
    """

    scheme: Literal["expanding", "rolling", "anchored"] = "expanding"
    length: int | None = None
    start: int | None = None

    def __post_init__(self) -> None:
        needs = {"rolling": "length", "anchored": "start"}
        if self.scheme not in ("expanding", *needs):
            raise ConfigError(f"scheme must be expanding, rolling or anchored, was {self.scheme!r}")
        for scheme, name in needs.items():
            value = getattr(self, name)
            if (self.scheme == scheme) != (value is not None):
                raise ConfigError(
                    f"{name} must be given for the {scheme} window and only for it, was {value} "
                    f"with {self.scheme!r}"
                )
        if self.length is not None and self.length < 1:
            raise ConfigError(f"length must be at least 1, was {self.length}")

    def holds(self, ts_init: Int64Array, edge: int) -> NDArray[np.bool_]:
        """Return which rows lie in the window before a test block, (n_rows,)."""
        inside: NDArray[np.bool_] = ts_init <= edge
        if self.length is not None:
            inside &= ts_init > edge - self.length
        if self.start is not None:
            inside &= ts_init >= self.start
        return inside


EXPANDING = Window()


class _Splitter(ABC):
    """What scikit-learn asks of a splitter, and where the labels' spans come from."""

    def __init__(self, embargo: int, spans: LabelSpans | None) -> None:
        if embargo < 0:
            raise ConfigError(f"embargo must not be negative, was {embargo}")
        self.embargo = embargo
        self.spans = spans

    def split(
        self,
        X: Any = None,
        y: Any = None,
        groups: Any = None,
        *,
        spans: LabelSpans | None = None,
    ) -> Iterator[tuple[Int64Array, Int64Array]]:
        """Yield rows to train on and rows to test on, split by split.

        Parameters
        ----------
        X : (n_rows, ...) array-like, optional
            Only its length counts; it must be that of the spans.
        y, groups : object
            Ignored, as scikit-learn's splitters of time do.
        spans : LabelSpans, optional
            In place of those given at construction. Where there are neither, rows are taken to
            follow one another in time, each with a label one row long.

        Yields
        ------
        train, test : (n_train,), (n_test,) int64
            Row numbers, ascending.

        Raises
        ------
        DataError
            If `X` does not fit the spans, or a split would have nothing to train on.
        ConfigError
            If there are fewer times than the splits need.
        """
        return self._splits(self._spans_of(X, spans))

    @abstractmethod
    def _splits(self, spans: LabelSpans) -> Iterator[tuple[Int64Array, Int64Array]]:
        """Yield rows to train on and rows to test on."""

    def _spans_of(self, rows: Any, spans: LabelSpans | None) -> LabelSpans:
        found = self.spans if spans is None else spans
        if found is None:
            if rows is None:
                raise DataError("split must be given rows or their labels' spans, had neither")
            return LabelSpans.of_rows(_count(rows))
        if rows is not None and _count(rows) != len(found):
            raise DataError(
                f"X must have a row for each label span, had {_count(rows)} for {len(found)}"
            )
        return found


class PurgedWalkForward(_Splitter):
    """Test blocks of equally many times, one after the other at the end of the data.

    Each is trained on rows whose labels had ended a time before its first row, less the embargo:
    a model that is fitted on everything known at a close is used from the next close on. What is
    fitted is therefore usable for every row of its test block.

    Parameters
    ----------
    n_splits : int
        Number of test blocks.
    window : Window
        Expanding, rolling or anchored.
    test_times : int, optional
        Distinct times in a test block; by default ``n_times // (n_splits + 1)``, as
        `sklearn.model_selection.TimeSeriesSplit` has it.
    embargo : int
        Left out before a block beyond the labels' spans, in the unit of the times.
    spans : LabelSpans, optional
        Of the rows' labels; may be given to `split` as well.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """

    def __init__(
        self,
        n_splits: int = 5,
        window: Window = EXPANDING,
        *,
        test_times: int | None = None,
        embargo: int = 0,
        spans: LabelSpans | None = None,
    ) -> None:
        super().__init__(embargo, spans)
        for name, value in (("n_splits", n_splits), ("test_times", test_times)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, was {value}")
        self.n_splits = n_splits
        self.window = window
        self.test_times = test_times

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits; nothing that is given counts."""
        return self.n_splits

    def _splits(self, spans: LabelSpans) -> Iterator[tuple[Int64Array, Int64Array]]:
        times = np.unique(spans.ts_init)
        size = self.test_times or len(times) // (self.n_splits + 1)
        first = len(times) - size * self.n_splits
        if size < 1 or first < 1:
            raise ConfigError(
                f"n_splits={self.n_splits} blocks of {max(size, 1)} times must leave some before "
                f"them, but there are {len(times)} times; test fewer or shorter blocks"
            )
        for start in range(first, len(times), size):
            edge, last = int(times[start - 1]), int(times[start + size - 1])
            train = self.window.holds(spans.ts_init, edge) & (spans.ts_end <= edge - self.embargo)
            if not train.any():
                raise DataError(
                    f"the test block from {times[start]} to {last} must have rows to train on, had "
                    "none: the window, the labels' spans and the embargo leave nothing before it; "
                    "test later, or shorten them"
                )
            test = (spans.ts_init > edge) & (spans.ts_init <= last)
            yield np.flatnonzero(train), np.flatnonzero(test)


class CombinatorialPurged(_Splitter):
    """Combinatorial purged cross-validation and its backtest paths (López de Prado, 2018, ch. 12).

    The times are divided into `n_groups` of them, as equal as can be. Each split tests another
    `n_test_groups` of the groups and trains on the rows of all others, before and after, whose
    labels and the embargo reach into none of them. Every group is tested ``n_paths`` times, each
    time by a model that has not seen it, which gives as many paths over all times.

    A model here is trained on what came after its test rows, too: what a path shows is how well
    the method does on data that it has not seen, not what could have been earned.

    Parameters
    ----------
    n_groups : int
        At least 2.
    n_test_groups : int
        Groups that each split tests; fewer than `n_groups`. With 1 this is a purged k-fold.
    embargo : int
        Left out on both sides of a tested group, in the unit of the times.
    spans : LabelSpans, optional
        Of the rows' labels; may be given to `split` as well.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """

    def __init__(
        self,
        n_groups: int = 6,
        n_test_groups: int = 2,
        *,
        embargo: int = 0,
        spans: LabelSpans | None = None,
    ) -> None:
        super().__init__(embargo, spans)
        if not 1 <= n_test_groups < n_groups:
            raise ConfigError(
                f"n_test_groups must be at least 1 and less than n_groups={n_groups}, was "
                f"{n_test_groups}"
            )
        if comb(n_groups, n_test_groups) > MAX_SPLITS:
            raise ConfigError(
                f"n_groups={n_groups} with n_test_groups={n_test_groups} must make at most "
                f"{MAX_SPLITS} splits, made {comb(n_groups, n_test_groups)}; choose fewer groups"
            )
        self.n_groups = n_groups
        self.n_test_groups = n_test_groups

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits, ``C(n_groups, n_test_groups)``."""
        return comb(self.n_groups, self.n_test_groups)

    @property
    def n_paths(self) -> int:
        """Number of backtest paths, ``C(n_groups - 1, n_test_groups - 1)``."""
        return comb(self.n_groups - 1, self.n_test_groups - 1)

    @property
    def test_groups(self) -> tuple[tuple[int, ...], ...]:
        """The groups that each split tests, in the splits' order, which is lexicographic."""
        return tuple(combinations(range(self.n_groups), self.n_test_groups))

    @property
    def path_splits(self) -> Int64Array:
        """Which split tests each group of each path, (n_paths, n_groups).

        Path `p` takes for each group the p-th of the splits that test it (the book's figure 12.1).
        """
        tested = self.test_groups
        found = [
            [split for split, groups in enumerate(tested) if group in groups]
            for group in range(self.n_groups)
        ]
        return np.array(found, dtype=np.int64).T

    def groups_of(self, spans: LabelSpans) -> list[Int64Array]:
        """Return the rows of each group, ascending.

        Raises
        ------
        ConfigError
            If there are fewer times than groups.
        """
        times, position = np.unique(spans.ts_init, return_inverse=True)
        if len(times) < self.n_groups:
            raise ConfigError(
                f"n_groups must be at most the number of times ({len(times)}), was {self.n_groups}"
            )
        each, more = divmod(len(times), self.n_groups)
        sizes = [each + (group < more) for group in range(self.n_groups)]
        of_time = np.repeat(np.arange(self.n_groups), sizes)
        return [np.flatnonzero(of_time[position] == group) for group in range(self.n_groups)]

    def _splits(self, spans: LabelSpans) -> Iterator[tuple[Int64Array, Int64Array]]:
        groups = self.groups_of(spans)
        clear = [spans.clear_of(group, self.embargo) for group in groups]
        for number, tested in enumerate(self.test_groups):
            train = np.logical_and.reduce([clear[group] for group in tested])
            if not train.any():
                raise DataError(
                    f"split {number} (groups {tested}) must have rows to train on, had none: the "
                    "labels' spans and the embargo leave nothing of the other groups; shorten "
                    "them or divide into fewer groups"
                )
            test = np.sort(np.concatenate([groups[group] for group in tested]))
            yield np.flatnonzero(train), test

    def paths(
        self, answers: Sequence[Float64Array], *, spans: LabelSpans | None = None
    ) -> Float64Array:
        """Put the answers of all splits together as paths.

        Parameters
        ----------
        answers : sequence of (n_test,) float64
            For each split the answers to its test rows, in their order.
        spans : LabelSpans, optional
            As given to `split`.

        Returns
        -------
        (n_paths, n_rows) float64

        Raises
        ------
        DataError
            If they are not those of these splits.
        """
        spans = self._spans_of(None, spans)
        groups = self.groups_of(spans)
        count = self.get_n_splits()
        if len(answers) != count:
            raise DataError(f"answers must be those of {count} splits, were of {len(answers)}")
        by_split = np.full((count, len(spans)), np.nan)
        for number, (tested, found) in enumerate(zip(self.test_groups, answers, strict=True)):
            rows = np.sort(np.concatenate([groups[group] for group in tested]))
            if np.shape(found) != rows.shape:
                raise DataError(
                    f"split {number} must have an answer for each of its {len(rows)} test rows, "
                    f"had the shape {np.shape(found)}"
                )
            by_split[number, rows] = found
        paths = np.empty((self.n_paths, len(spans)))
        for path, splits in enumerate(self.path_splits):
            for rows, split in zip(groups, splits, strict=True):
                paths[path, rows] = by_split[split, rows]
        return paths


def _count(rows: Any) -> int:
    """Return how many rows scikit-learn's `X` has; sparse matrices have no length."""
    shape = getattr(rows, "shape", None)
    return int(shape[0]) if shape else len(rows)

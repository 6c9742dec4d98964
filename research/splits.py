"""Walk-forward folds whose training rows know nothing of their test rows.

Times are UTC nanoseconds. A row is known at `ts_init` and its label looks at ``(ts_init, ts_end]``.

Purge and embargo (López de Prado, 2018, chapter 7): a row may train a fold only if the span that
its label looks at ends at or before the start of the test block less the embargo, or if the row
became known at or after the end of the last test label plus the embargo. The embargo is applied
on both sides, where the book has it after the block only: features have memory, and the first
test rows share most of it with the last training rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from catalog.arrays import Int64Array
from catalog.config import Config
from catalog.errors import ConfigError, DataError
from catalog.timestamps import NS_PER_HOUR, format_time, parse_time


def _parse(value: str | date | datetime | int) -> int:
    try:
        return parse_time(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error  # so that pydantic names the key


type Time = Annotated[int, BeforeValidator(_parse)]
"""UTC nanoseconds, written in a profile as a date or an ISO 8601 time."""


class ValidationConfig(Config):
    """How a span is divided into folds.

    Parameters
    ----------
    scheme : {"expanding", "rolling"}
        Train on everything before a test block, or on the last `train_bars` only.
    n_folds : int
        Number of test blocks of equal length that follow one another.
    test_start, test_end : time
        The tested span ``(test_start, test_end]`` on ts_init; without an end, to the last row.
    train_bars : int, optional
        Bars of training history of a rolling fold, counted back from the test block's start;
        rolling needs it, expanding refuses it.
    embargo_bars : int
        Bars left out between training and test rows, beyond the label's own span.
    min_train_rows : int
        Fewest training rows (all instruments together) that a fold is fitted on.
    """

    scheme: Literal["expanding", "rolling"] = "expanding"
    n_folds: int = Field(ge=1, le=1000)
    test_start: Time
    test_end: Time | None = None
    train_bars: int | None = Field(default=None, ge=1)
    embargo_bars: int = Field(default=16, ge=0)
    min_train_rows: int = Field(default=1000, ge=10)

    @model_validator(mode="after")
    def _check(self) -> ValidationConfig:
        if (self.scheme == "rolling") != (self.train_bars is not None):
            raise ValueError(
                f"train_bars must be given for the rolling scheme and only for it, "
                f"was {self.train_bars} with scheme {self.scheme!r}"
            )
        if self.test_end is not None and self.test_end <= self.test_start:
            raise ValueError(
                f"test_end must be after test_start ({format_time(self.test_start)}), "
                f"was {format_time(self.test_end)}"
            )
        return self


@dataclass(frozen=True, slots=True)
class Fold:
    """One test block and the rows that may train for it.

    Parameters
    ----------
    index : int
        0 for the first.
    test_start, test_end : int
        The block ``(test_start, test_end]`` on ts_init, UTC nanoseconds.
    train, test : (n_train,), (n_test,) int64
        Row numbers, ascending.
    purged : int
        Rows known by `test_start` (of a rolling fold: among its train_bars) that may not train,
        because what their labels look at, or the embargo after it, reaches into the block.
    """

    index: int
    test_start: int
    test_end: int
    train: Int64Array
    test: Int64Array
    purged: int = 0

    @property
    def name(self) -> str:
        """Such as ``fold 2 (2024-03-25 00:00:00 to 2024-06-17 00:00:00]``."""
        return f"fold {self.index} ({format_time(self.test_start)} to {format_time(self.test_end)}]"


def training_rows(
    ts_init: Int64Array, ts_end: Int64Array, config: ValidationConfig, interval_ns: int, until: int
) -> NDArray[np.bool_]:
    """Return which rows may train a model that is first used after `until`.

    Parameters
    ----------
    ts_init, ts_end : (n_rows,) int64
        When each row became known and the end of the span that its label looks at, UTC ns.
    config : ValidationConfig
        Its scheme, train_bars and embargo_bars count.
    interval_ns : int
        Length of a bar.
    until : int
        Start of the test block: rows known after it are tested.

    Returns
    -------
    (n_rows,) bool
        True where ``ts_end <= until - embargo`` and, rolling, the row lies within train_bars.
    """
    rows = ts_end <= until - config.embargo_bars * interval_ns
    if config.train_bars is not None:
        rows &= ts_init > until - config.train_bars * interval_ns
    return rows


def block_edges(start: int, end: int, n_blocks: int, interval_ns: int) -> list[int]:
    """Divide ``(start, end]`` into blocks of whole bars, as equal as can be; n_blocks + 1 edges.

    Raises
    ------
    ConfigError
        If the span holds fewer bars than blocks.
    """
    n_bars = (end - start) // interval_ns
    if n_bars < n_blocks:
        raise ConfigError(
            f"n_folds must be at most the number of bars from {format_time(start)} to "
            f"{format_time(end)} ({max(n_bars, 0)}), was {n_blocks}"
        )
    edges = [start + interval_ns * (n_bars * block // n_blocks) for block in range(n_blocks)]
    return [*edges, end]


def walk_forward_splits(
    ts_init: Int64Array, ts_end: Int64Array, config: ValidationConfig, interval_ns: int
) -> list[Fold]:
    """Divide rows into walk-forward folds, purged by label span and with an embargo.

    Parameters
    ----------
    ts_init : (n_rows,) int64
        When each row became known, UTC ns; in any order, several rows (instruments) per time.
    ts_end : (n_rows,) int64
        End of the span that each row's label looks at, UTC ns.
    config : ValidationConfig
        The scheme.
    interval_ns : int
        Length of a bar.

    Returns
    -------
    list of Fold
        `config.n_folds` of them, in time order; their test blocks follow one another without
        gap. Training rows are every row that `training_rows` allows: the caller removes those
        without label or still warming up, from training and test alike.

    Raises
    ------
    ConfigError
        If the tested span does not lie within the rows, a fold would have no history, or there
        are fewer bars than folds. Nothing is ever moved to make it fit.
    DataError
        If a test block holds no row or a training set fewer than min_train_rows.
    """
    start, end = _tested_span(ts_init, config, interval_ns)
    edges = block_edges(start, end, config.n_folds, interval_ns)
    folds = []
    for index in range(config.n_folds):
        first, last = edges[index], edges[index + 1]
        train = training_rows(ts_init, ts_end, config, interval_ns, first)
        test = (ts_init > first) & (ts_init <= last)
        oldest = first - (config.train_bars or 0) * interval_ns
        known = (ts_init <= first) & ((config.train_bars is None) | (ts_init > oldest))
        purged = int(known.sum() - train.sum())
        fold = Fold(index, first, last, np.flatnonzero(train), np.flatnonzero(test), purged)
        check_fold(fold, config)
        folds.append(fold)
    return folds


def check_fold(fold: Fold, config: ValidationConfig, *, unlabelled: int = 0) -> None:
    """Refuse a fold without test rows or with too few training rows.

    Parameters
    ----------
    fold : Fold
        The fold.
    config : ValidationConfig
        Its min_train_rows counts.
    unlabelled : int
        Rows that were taken from `fold.train` because they have no label.

    Raises
    ------
    DataError
        Naming the fold, its span, its numbers of rows, and where the others went.
    """
    if len(fold.test) == 0:
        raise DataError(
            f"{fold.name} must have test rows, had none; the data has a hole there: "
            "choose fewer folds or another test span"
        )
    if len(fold.train) < config.min_train_rows:
        raise DataError(
            f"{fold.name} must have at least {config.min_train_rows} training rows, had "
            f"{len(fold.train)}{_where_rows_went(fold, unlabelled, config.min_train_rows)}"
        )


def _where_rows_went(fold: Fold, unlabelled: int, wanted: int) -> str:
    """Return what became of the other rows before a test block, and what to do about the most."""
    before = len(fold.train) + unlabelled + fold.purged
    advice = "start the test later or load more history"
    if unlabelled + fold.purged == 0:
        return f"; {advice}"
    if unlabelled > fold.purged and before >= wanted:
        advice = f"narrow the label's dead zone or its barriers, {advice}"
    elif before >= wanted:
        advice = f"shorten label.horizon_bars or validation.embargo_bars, {advice}"
    return (
        f" of {before} before it: {fold.purged} are purged, because their labels' horizon and the "
        f"embargo reach into the test block, and {unlabelled} have no label; {advice}"
    )


def _tested_span(
    ts_init: Int64Array, config: ValidationConfig, interval_ns: int
) -> tuple[int, int]:
    if len(ts_init) == 0:
        raise DataError("walk-forward must have rows to divide, had none")
    first, last = int(ts_init.min()), int(ts_init.max())
    end = last if config.test_end is None else config.test_end
    if not first <= config.test_start < last:
        raise ConfigError(
            f"test_start must lie within the usable rows ({format_time(first)} to "
            f"{format_time(last)}), was {format_time(config.test_start)}; "
            "load more history or test another span"
        )
    if end > last:
        raise ConfigError(
            f"test_end must not be after the last row ({format_time(last)}), was {format_time(end)}"
        )
    if config.train_bars is not None:
        earliest = first - interval_ns
        needed = config.test_start - config.train_bars * interval_ns
        if needed < earliest:
            raise ConfigError(
                f"train_bars must fit between the first usable row ({format_time(first)}) and "
                f"test_start ({format_time(config.test_start)}), that is at most "
                f"{(config.test_start - earliest) // interval_ns}, was {config.train_bars}; "
                "load more history, test later or train on fewer bars"
            )
    return config.test_start, end


def inner_blocks(
    ts_init: Int64Array, ts_end: Int64Array, n_blocks: int, embargo_ns: int
) -> list[tuple[Int64Array, Int64Array]]:
    """Divide training rows into contiguous blocks, each predicted from the purged others.

    For out-of-fold predictions inside a training span. Unlike walk-forward, a block may be
    predicted from rows after it, which is what purge and embargo on that side are for.

    Parameters
    ----------
    ts_init, ts_end : (n_rows,) int64
        When each row became known and the end of its label's span, UTC ns; in any order.
    n_blocks : int
        At least 2. Blocks are cut by time so that each has about equally many rows.
    embargo_ns : int
        Nanoseconds left out on both sides of a block, beyond the labels' spans.

    Returns
    -------
    list of (train, held_out)
        Row numbers, ascending; every row is held out exactly once.

    Raises
    ------
    DataError
        If a block or what trains for it would be empty.
    """
    times = np.sort(ts_init)
    cuts = [int(times[len(times) * block // n_blocks]) for block in range(1, n_blocks)]
    block_of = np.searchsorted(np.array(cuts, dtype=np.int64), ts_init, side="right")
    blocks = []
    for block in range(n_blocks):
        held_out = np.flatnonzero(block_of == block)
        if len(held_out) == 0:
            raise DataError(f"inner block {block} of {n_blocks} must have rows, had none")
        before = ts_end <= int(ts_init[held_out].min()) - embargo_ns
        after = ts_init >= int(ts_end[held_out].max()) + embargo_ns
        train = np.flatnonzero((before | after) & (block_of != block))
        if len(train) == 0:
            hours = (ts_end - ts_init).max() / NS_PER_HOUR
            raise DataError(
                f"inner block {block} of {n_blocks} must leave rows to train on, left none of "
                f"{len(ts_init)}: labels look up to {hours:g} hours ahead (label.horizon_bars) and "
                f"the embargo is {embargo_ns / NS_PER_HOUR:g} hours, on both sides of a block, but "
                f"all rows lie within {(times[-1] - times[0]) / NS_PER_HOUR:g} hours; shorten "
                "them, divide into fewer blocks or load more history"
            )
        blocks.append((train, held_out))
    return blocks

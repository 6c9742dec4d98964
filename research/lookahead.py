"""Prove that nothing looks ahead: change what came after a time, demand that nothing before moves.

The proof is a sweep over cuts. For each cut t the future after t is replaced by several others,
and every row known at t must keep its bits. One kind of change is not enough: an output may be
saturated (the sign of the next return does not notice that the return doubled), may look at one
bar only, or may look at whether there is a bar at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import AuditFailedError, DataError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from research.features import FeatureConfig, FeatureMatrix, compute_features, feature_table
from research.labels import LabelConfig, compute_labels
from research.panel import Panel
from research.perturbations import PERTURBATIONS, perturbed


class Columns(NamedTuple):
    """What an audited function returns; rows in any order that does not depend on the future.

    Parameters
    ----------
    ts_init : (n_rows,) int64
        When each row claims to be known, UTC nanoseconds.
    instrument : (n_rows,) int64
        Instrument codes.
    values : (n_rows, n_columns) float64
        What is audited.
    names : tuple of str
        Column names; column numbers are shown where it is empty.
    """

    ts_init: Int64Array
    instrument: Int64Array
    values: Float64Array
    names: tuple[str, ...] = ()


type Compute = Callable[[Panel], Columns]


@dataclass(frozen=True, slots=True)
class Violation:
    """A value which changed although only what came after it did.

    Parameters
    ----------
    name : str
        Column, or ``rows`` if rows appeared or vanished.
    cut : int
        Everything after this time was changed, UTC nanoseconds.
    perturbation : str
        How it was changed.
    instrument : str
        Whose row it is.
    ts_init : int
        Time of the first row that moved, UTC nanoseconds.
    before, after : float
        Its value with the true future and with the changed one.
    rows : int
        How many rows moved.
    """

    name: str
    cut: int
    perturbation: str
    instrument: str
    ts_init: int
    before: float
    after: float
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.name} looks ahead: with everything after {format_time(self.cut)} "
            f"{self.perturbation}, its value for {self.instrument} at "
            f"{format_time(self.ts_init)} went from {self.before!r} to {self.after!r} "
            f"({self.rows} rows moved)"
        )


def audit_function(
    compute: Compute,
    panel: Panel,
    cuts: Sequence[int],
    *,
    allowed_ahead_ns: int = 0,
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[Violation]:
    """Change everything after each cut; report what moved although it was known by then.

    Parameters
    ----------
    compute : callable
        From a panel to `Columns` (any tuple of that shape).
    panel : Panel
        True data.
    cuts : sequence of int
        UTC nanoseconds; see `choose_cuts`.
    allowed_ahead_ns : int
        How far after its own time a row may look: 0 for features, the horizon for labels.
    seed : int
        Of the random perturbations.
    progress : Progress
        Told the perturbed computations done, under the stage ``look-ahead``.

    Returns
    -------
    list of Violation
        The first row that moved, for each column, cut and perturbation; empty if none did.

    Raises
    ------
    DataError
        If there is nothing to compare before or nothing to change after a cut.
    """
    baseline = Columns(*compute(panel))
    violations: list[Violation] = []
    total = len(cuts) * len(PERTURBATIONS)
    if not total:
        raise DataError("cuts must hold at least one time, were none")
    for number, cut in enumerate(cuts):
        _check_cut(baseline, panel, cut, allowed_ahead_ns)
        for place, (perturbation, changed) in enumerate(perturbed(panel, cut, seed)):
            outcome = Columns(*compute(changed))
            found = _compare(baseline, outcome, cut - allowed_ahead_ns)
            violations += [
                Violation(
                    name=name,
                    cut=cut,
                    perturbation=perturbation,
                    instrument=panel.instruments()[code],
                    ts_init=ts_init,
                    before=before,
                    after=after,
                    rows=rows,
                )
                for name, code, ts_init, before, after, rows in found
            ]
            progress("look-ahead", number * len(PERTURBATIONS) + place + 1, total)
    return violations


def audit_features(
    panel: Panel,
    config: FeatureConfig,
    cuts: Sequence[int] | None = None,
    *,
    compute: Callable[[Panel, FeatureConfig], FeatureMatrix] = compute_features,
    progress: Progress = no_progress,
) -> list[Violation]:
    """Sweep over the feature table.

    Parameters
    ----------
    panel, config : Panel, FeatureConfig
        What to audit on.
    cuts : sequence of int, optional
        UTC nanoseconds; None takes those of `choose_cuts` that lie after the warm-up.
    compute : callable
        What computes the features.
    progress : Progress
        Told the perturbed computations done.

    Raises
    ------
    AuditFailedError
        If a column is not in the feature table, or never had a value that could be compared:
        of such a column the sweep proves nothing.
    """
    matrix = compute(panel, config)
    registered = tuple(feature.name for feature in feature_table(config))
    strangers = [name for name in matrix.names if name not in registered]
    if strangers:
        raise AuditFailedError(
            f"features must be in the feature table, these are not: {', '.join(strangers)}; "
            "declare them in research/feature_table.py"
        )
    if cuts is None:
        cuts = choose_cuts(panel, after=int(matrix.ts_init[matrix.valid].min(initial=_FAR)))
    compared = matrix.valid & (matrix.ts_init <= max(cuts, default=0))
    never = [
        name
        for column, name in enumerate(matrix.names)
        if not np.isfinite(matrix.values[compared, column]).any()
    ]
    if never:
        raise AuditFailedError(
            f"features must have values before the last cut to be audited, these have none: "
            f"{', '.join(never)}; audit on more data, or leave them out"
        )

    def columns(changed: Panel) -> Columns:
        result = compute(changed, config)
        return Columns(result.ts_init, result.instrument, result.values, result.names)

    return audit_function(columns, panel, cuts, progress=progress)


def audit_labels(
    panel: Panel,
    config: LabelConfig,
    cuts: Sequence[int] | None = None,
    *,
    progress: Progress = no_progress,
) -> list[Violation]:
    """Check that labels and weights look no further ahead than the span that they declare.

    A row counts as known at its own ``ts_end``: a label that looks past it moves a row that claims
    to be known, and a span that is understated is found as well as one that is overrun. Barriers
    decide earlier: all but the forward return counts as known at the row's own ``ts_decided``.
    """

    def outcome(changed: Panel) -> Columns:
        labels = compute_labels(changed, config)
        return Columns(labels.ts_end, _codes(changed), labels.forward_return, ("forward_return",))

    def label(changed: Panel) -> Columns:
        labels = compute_labels(changed, config)
        known = labels.ts_end if labels.ts_decided is None else labels.ts_decided
        found = {"label": labels.value, "weight": labels.weight}
        if labels.barrier_return is not None:
            found["barrier_return"] = labels.barrier_return
        return Columns(known, _codes(changed), np.column_stack([*found.values()]), tuple(found))

    ahead = config.horizon_bars * panel.interval_ns
    if cuts is None:
        first = min(int(bars.ts_init[0]) for bars in panel.bars if len(bars))
        cuts = choose_cuts(panel, after=first + ahead)
    return [
        violation
        for columns in (label, outcome)
        for violation in audit_function(columns, panel, cuts, progress=progress)
    ]


def _codes(panel: Panel) -> Int64Array:
    """Return the number of each row's instrument."""
    return np.repeat(np.arange(len(panel.bars)), [len(bars) for bars in panel.bars])


_FAR = np.iinfo(np.int64).max


def choose_cuts(panel: Panel, *, after: int, count: int = 4) -> list[int]:
    """Choose times to cut at: spread over the span, and directly before things happen.

    Parameters
    ----------
    panel : Panel
        The data.
    after : int
        No cut before this time, UTC nanoseconds: the end of the warm-up.
    count : int
        How many cuts of each sort: evenly spread, before the largest moves, before settlements,
        before records of slow series, before gaps (as far as there are any).

    Raises
    ------
    DataError
        If no bar lies between `after` and the last one.
    """
    times = np.unique(np.concatenate([bars.ts_init for bars in panel.bars]))
    usable = times[(times >= after) & (times < times[-1])] if len(times) else times
    if not len(usable):
        raise DataError(
            f"panel must have bars after {format_time(min(after, 2**62))} to cut at, has none; "
            "audit a longer span"
        )
    chosen = set(usable[np.linspace(0, len(usable) - 1, count).astype(int)].tolist())
    for bars in panel.bars:
        moves = np.abs(np.diff(np.log(bars.close)))
        gaps = np.diff(bars.ts_init)
        inside = (bars.ts_init[:-1] >= after) & (bars.ts_init[:-1] < times[-1])
        per_instrument = max(1, count // len(panel.bars))
        for size in (moves, np.where(gaps > panel.interval_ns, gaps, 0.0)):
            ranked = np.where(inside, size, 0.0)
            largest = np.argsort(ranked, kind="stable")[::-1][:per_instrument]
            chosen |= {int(bars.ts_init[row]) for row in largest if ranked[row] > 0.0}
    slow = list(panel.series.values())
    spread = [slow[place * len(slow) // count] for place in range(count)] if slow else []
    stamps = [one.ts_init for one in list(panel.funding.values())[:count]]
    for known in (*stamps, *(one.ts_init for one in spread)):
        due = known[(known > after) & (known <= times[-1])]
        if len(due):
            # One nanosecond earlier the record was not known, and the bar of that time neither.
            chosen.add(int(due[len(due) // 2]) - 1)
    return sorted(chosen)


def _check_cut(baseline: Columns, panel: Panel, cut: int, allowed_ahead_ns: int) -> None:
    """Refuse a cut that would pass without proving anything."""
    rows = baseline.ts_init <= cut - allowed_ahead_ns
    if not np.isfinite(np.asarray(baseline.values)[rows]).any():
        raise DataError(
            f"cut must have values before it to compare, at {format_time(cut)} there are none; "
            "cut after the warm-up"
        )
    if not any(len(bars.between(cut, None)) for bars in panel.bars):
        raise DataError(
            f"cut must have bars after it to change, at {format_time(cut)} there are none; cut "
            "before the last bar"
        )


type Found = tuple[str, int, int, float, float, int]


def _compare(baseline: Columns, outcome: Columns, until: int) -> list[Found]:
    """Return column, instrument code, time, both values and the number of rows that moved."""
    old, new = _rows_until(baseline, until), _rows_until(outcome, until)
    if len(old.ts_init) != len(new.ts_init) or not (
        np.array_equal(old.ts_init, new.ts_init) and np.array_equal(old.instrument, new.instrument)
    ):
        return [_different_rows(old, new)]
    same = (old.values.view(np.int64) == new.values.view(np.int64)) | (
        np.isnan(old.values) & np.isnan(new.values)
    )
    found: list[Found] = []
    for column in np.flatnonzero(~same.all(axis=0)).tolist():
        moved = np.flatnonzero(~same[:, column])
        row = moved[np.argmin(old.ts_init[moved])]
        name = baseline.names[column] if baseline.names else f"column {column}"
        before, after = float(old.values[row, column]), float(new.values[row, column])
        code, ts_init = int(old.instrument[row]), int(old.ts_init[row])
        found.append((name, code, ts_init, before, after, len(moved)))
    return found


def _rows_until(columns: Columns, until: int) -> Columns:
    rows = np.flatnonzero(columns.ts_init <= until)
    values = np.asarray(columns.values, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, np.newaxis]
    return columns._replace(
        ts_init=columns.ts_init[rows],
        instrument=columns.instrument[rows],
        values=np.ascontiguousarray(values[rows]),
    )


def _different_rows(old: Columns, new: Columns) -> Found:
    """Describe the first row that is in one result only."""
    old_keys = set(zip(old.ts_init.tolist(), old.instrument.tolist(), strict=True))
    new_keys = set(zip(new.ts_init.tolist(), new.instrument.tolist(), strict=True))
    apart = sorted(old_keys ^ new_keys)
    if not apart:
        # The same rows in another order.
        return ("rows", int(old.instrument[0]), int(old.ts_init[0]), np.nan, np.nan, len(old_keys))
    ts_init, code = apart[0]
    before = 1.0 if (ts_init, code) in old_keys else 0.0
    return ("rows", code, ts_init, before, 1.0 - before, len(apart))

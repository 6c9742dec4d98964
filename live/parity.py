"""Backtest against live: every number of two runs over the same data, compared bit for bit.

The same strategy classes ran once in the backtest engine and once in a live node. Wherever they
differ, one of the two does not show what would have happened.

One thing may differ in the last digits: an expert that reads sequences adds up its 32-bit numbers
in another order when it answers a whole span at once. Its predictions are compared with a
tolerance, and the largest difference is told; what is decided, ordered and filled is not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from catalog.errors import AuditFailedError
from catalog.timestamps import format_time
from strategies.outcome import RunFrames

SEQUENCE_TOLERANCE = 1e-5
"""Of a probability, where experts that read sequences are in use."""


class _Kind(NamedTuple):
    """One line of the report: which columns of which frame it compares.

    `columns` None stands for all. `leeway` turns the tolerance of a probability into that of these
    columns; 0 where they must be equal. `extras` begin the names of further columns.
    """

    name: str
    frame: str
    time: str
    identity: tuple[str, ...]
    columns: tuple[str, ...] | None
    leeway: float = 0.0
    extras: tuple[str, ...] = ()


# Causes stand before their effects: of several differences at one time the cause is named.
_KINDS = (
    _Kind(
        "experts",
        "predictions",
        "ts_init",
        ("instrument_id",),
        (),
        leeway=1.0,
        extras=("expert_", "weight_"),
    ),
    _Kind("predictions", "predictions", "ts_init", ("instrument_id",), ("prob_up",), leeway=1.0),
    _Kind("epistemic", "predictions", "ts_init", ("instrument_id",), ("epistemic",), leeway=1.0),
    # A bar's return is about a hundredth: what a probability is to one, this is to a hundredth.
    _Kind(
        "returns",
        "predictions",
        "ts_init",
        ("instrument_id",),
        ("mu", "sigma", "volatility"),
        leeway=0.01,
    ),
    _Kind(
        "limits",
        "predictions",
        "ts_init",
        ("instrument_id",),
        ("prob_low", "prob_high"),
        leeway=1.0,
    ),
    _Kind(
        "stances",
        "predictions",
        "ts_init",
        ("instrument_id",),
        ("side", "regime", "degraded", "entry_threshold"),
    ),
    _Kind("guard", "guard", "ts", ("kind", "reason"), None),
    _Kind("decisions", "decisions", "ts_init", ("instrument_id",), ("prob_up",), leeway=1.0),
    _Kind("sides", "decisions", "ts_init", ("instrument_id",), ("side",)),
    # A weight follows the probability, at most as many times as `position_frac` may be large.
    _Kind(
        "target weights",
        "decisions",
        "ts_init",
        ("instrument_id",),
        ("target_weight",),
        leeway=10.0,
    ),
    _Kind("reasons", "decisions", "ts_init", ("instrument_id",), ("reason",)),
    _Kind(
        "quantities", "decisions", "ts_init", ("instrument_id",), ("quantity", "client_order_id")
    ),
    _Kind("orders", "orders", "ts_init", ("instrument_id", "client_order_id"), None),
    _Kind("fills", "fills", "ts_event", ("instrument_id", "client_order_id"), None),
    _Kind("settlements", "funding", "ts_event", ("instrument_id",), None),
    _Kind("positions", "positions", "ts_closed", ("instrument_id", "ts_opened"), None),
    _Kind("equity", "equity", "ts_init", (), None),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where two runs differ.

    Parameters
    ----------
    kind : str
        Which line of the report.
    ts : int
        When, UTC nanoseconds.
    text : str
        What, in words.
    """

    kind: str
    ts: int
    text: str


@dataclass(frozen=True, slots=True)
class ParityReport:
    """How much was compared, and the first difference if there is one.

    Parameters
    ----------
    compared : mapping of kind to int
        Rows of the backtest that were compared.
    differing : mapping of kind to int
        Rows that differ or exist on one side only.
    first : Difference or None
        The earliest difference; of several at one time, the cause rather than its effects.
    tolerance : float
        By how much a probability was allowed to differ.
    largest : mapping of kind to float
        The largest difference of the numbers that were compared with a tolerance.
    """

    compared: Mapping[str, int]
    differing: Mapping[str, int]
    first: Difference | None
    tolerance: float = 0.0
    largest: Mapping[str, float] = field(default_factory=dict)

    @property
    def identical(self) -> bool:
        """Whether nothing differs by more than is allowed."""
        return self.first is None

    def to_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "identical": self.identical,
            "compared": dict(self.compared),
            "differing": dict(self.differing),
            "tolerance": self.tolerance,
            "largest_difference": dict(self.largest),
            "first_difference": None
            if self.first is None
            else {"kind": self.first.kind, "ts": self.first.ts, "text": self.first.text},
        }

    def __str__(self) -> str:
        lines = [f"{'':16}{'compared':>10}{'different':>11}"]
        lines += [
            f"{name:16}{count:>10,}{self.differing[name]:>11,}"
            for name, count in self.compared.items()
        ]
        lines += [
            f"{name} differ by {size:.1e} at most (a probability may by {self.tolerance:.0e})"
            for name, size in self.largest.items()
            if size > 0.0
        ]
        end = "identical" if not any(self.largest.values()) else "no other difference"
        if self.first is not None:
            end = f"first difference: {self.first.text}"
        return "\n".join([*lines, end])

    def require_identical(self) -> None:
        """Raise if anything differs.

        Raises
        ------
        AuditFailedError
            With the first difference in words.
        """
        if self.first is not None:
            raise AuditFailedError(
                f"backtest and live replay must be identical, but differ in "
                f"{sum(self.differing.values()):,} rows; first difference: {self.first.text}"
            )


def compare(
    backtest: RunFrames,
    live: RunFrames,
    *,
    tolerance: float = 0.0,
    unknown: Collection[str] = (),
) -> ParityReport:
    """Compare two runs over the same data, row by row and bit by bit (NaN equals NaN).

    Parameters
    ----------
    backtest, live : RunFrames
        The frames of `strategies.backtest.run_backtest` and `live.live_replay.run_live_replay`.
    tolerance : float
        By how much a probability may differ (`SEQUENCE_TOLERANCE` where experts read sequences),
        and in proportion the weight that follows from it and what else was predicted. Sides,
        reasons, quantities, orders, fills, positions and equity are equal or differ.
    unknown : collection of str
        Columns that one of the two cannot know, which are left out.

    Raises
    ------
    AuditFailedError
        If a frame has other columns on one side: then the two cannot be compared at all.
    """
    compared: dict[str, int] = {}
    differing: dict[str, int] = {}
    largest: dict[str, float] = {}
    first: list[Difference] = []
    for kind in _KINDS:
        left = _without(getattr(backtest, kind.frame), unknown)
        right = _without(getattr(live, kind.frame), unknown)
        columns = _compared_columns(kind, left, right)
        if not columns:
            continue
        allowed = kind.leeway * tolerance
        rows, size = _differing_rows(columns, left, right, allowed)
        compared[kind.name] = len(left)
        differing[kind.name] = len(rows)
        if allowed > 0.0:
            largest[kind.name] = size
        if len(rows):
            first.append(_describe(kind, int(rows[0]), left, right, allowed))
    earliest = min(first, key=lambda difference: difference.ts, default=None)
    return ParityReport(compared, differing, earliest, tolerance, largest)


def _without(frame: pd.DataFrame, unknown: Collection[str]) -> pd.DataFrame:
    """Leave out what is unknown, and ages of inputs: predictions of a batch do not carry them."""
    named = (name for name in frame.columns if name not in unknown)
    kept = [name for name in named if not str(name).startswith("age_")]
    return frame[kept].reset_index(drop=True)


def _compared_columns(kind: _Kind, left: pd.DataFrame, right: pd.DataFrame) -> list[str]:
    """Return the columns that a line compares; none where neither side has what it is about."""
    if sorted(left.columns) != sorted(right.columns):
        raise AuditFailedError(
            f"columns of {kind.frame} must be the same in backtest and live replay, were "
            f"{list(left.columns)} and {list(right.columns)}"
        )
    if kind.columns is None:
        return list(left.columns)
    extras = [name for name in left.columns if str(name).startswith(kind.extras)]
    own = [*kind.columns, *(extras if kind.extras else ())]
    return [kind.time, *kind.identity, *own] if own else []


def _differing_rows(
    columns: list[str], left: pd.DataFrame, right: pd.DataFrame, allowed: float
) -> tuple[np.ndarray[Any, Any], float]:
    """Return the rows that differ, those that one side lacks included, and the largest difference.

    Only numbers with a fraction may differ, by `allowed`; the largest difference is theirs.
    """
    common = min(len(left), len(right))
    same = np.ones(common, dtype=bool)
    largest = 0.0
    for column in columns:
        one, other = left[column].to_numpy()[:common], right[column].to_numpy()[:common]
        equal = _equal(one, other)
        if allowed > 0.0 and one.dtype.kind == other.dtype.kind == "f":
            apart = np.abs(one - other)
            largest = max(largest, float(np.max(apart[np.isfinite(apart)], initial=0.0)))
            equal |= apart <= allowed
        same &= equal
    missing = np.arange(common, max(len(left), len(right)))
    return np.concatenate([np.flatnonzero(~same), missing]), largest


def _equal(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    equal: np.ndarray[Any, Any] = np.asarray(left == right, dtype=bool)
    if left.dtype.kind == "f" and right.dtype.kind == "f":
        equal |= np.isnan(left) & np.isnan(right)
    return equal


def _describe(
    kind: _Kind, row: int, left: pd.DataFrame, right: pd.DataFrame, allowed: float
) -> Difference:
    one = left.iloc[row] if row < len(left) else None
    other = right.iloc[row] if row < len(right) else None
    if one is None or other is None:
        have = other if one is None else one
        side = "live" if one is None else "backtest"
        return _difference(kind, have, row, f"exists only in the {side} run")
    identity = (kind.time, *kind.identity)
    if any(one[column] != other[column] for column in identity):
        text = f"is {_identity(kind, one)} in the backtest and {_identity(kind, other)} live"
        earlier = one if one[kind.time] <= other[kind.time] else other
        return _difference(kind, earlier, row, text)
    parts = [
        f"{column} is {_shown(one[column])} in the backtest and {_shown(other[column])} live"
        for column in _compared_columns(kind, left, right)
        if not _same(one[column], other[column], allowed)
    ]
    return _difference(kind, one, row, ", ".join(parts))


def _difference(kind: _Kind, have: Any, row: int, text: str) -> Difference:
    where = f"{kind.name}, row {row}, {_identity(kind, have)}: {text}"
    return Difference(kind.name, int(have[kind.time]), where)


def _identity(kind: _Kind, row: Any) -> str:
    rest = " ".join(str(row[column]) for column in kind.identity)
    return f"{format_time(int(row[kind.time]))} {rest}".strip()


def _same(one: Any, other: Any, allowed: float) -> bool:
    if not (isinstance(one, float) and isinstance(other, float)):
        return bool(one == other)
    both_nan = math.isnan(one) and math.isnan(other)
    return both_nan or one == other or abs(one - other) <= allowed


def _shown(value: Any) -> str:
    # repr keeps every bit of a float: a difference in the last one must be seen.
    return repr(float(value)) if isinstance(value, float | np.floating) else repr(str(value))

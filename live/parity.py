"""Backtest against live: every number of two runs over the same data, compared bit for bit.

The same strategy classes ran once in the backtest engine and once in a live node. Wherever they
differ, one of the two does not show what would have happened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from catalog.errors import AuditFailedError
from catalog.timestamps import format_time
from strategies.outcome import RunFrames


class _Kind(NamedTuple):
    """One line of the report: which columns of which frame it compares."""

    name: str
    frame: str
    time: str
    identity: tuple[str, ...]
    columns: tuple[str, ...] | None


# Causes stand before their effects: of several differences at one time the cause is named.
_KINDS = (
    _Kind("predictions", "decisions", "ts_init", ("instrument_id",), ("prob_up",)),
    _Kind("sides", "decisions", "ts_init", ("instrument_id",), ("side",)),
    _Kind("target weights", "decisions", "ts_init", ("instrument_id",), ("target_weight",)),
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
    """

    compared: Mapping[str, int]
    differing: Mapping[str, int]
    first: Difference | None

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return self.first is None

    def to_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "identical": self.identical,
            "compared": dict(self.compared),
            "differing": dict(self.differing),
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
        end = "identical" if self.first is None else f"first difference: {self.first.text}"
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


def compare(backtest: RunFrames, live: RunFrames) -> ParityReport:
    """Compare two runs over the same data, row by row and bit by bit (NaN equals NaN).

    Parameters
    ----------
    backtest, live : RunFrames
        The frames of `strategies.backtest.run_backtest` and `live.live_replay.run_live_replay`.

    Raises
    ------
    AuditFailedError
        If a frame has other columns on one side: then the two cannot be compared at all.
    """
    compared: dict[str, int] = {}
    differing: dict[str, int] = {}
    first: list[Difference] = []
    for kind in _KINDS:
        left = getattr(backtest, kind.frame).reset_index(drop=True)
        right = getattr(live, kind.frame).reset_index(drop=True)
        rows = _differing_rows(kind, left, right)
        compared[kind.name] = len(left)
        differing[kind.name] = len(rows)
        if len(rows):
            first.append(_describe(kind, int(rows[0]), left, right))
    earliest = min(first, key=lambda difference: difference.ts, default=None)
    return ParityReport(compared, differing, earliest)


def _compared_columns(kind: _Kind, left: pd.DataFrame, right: pd.DataFrame) -> list[str]:
    if list(left.columns) != list(right.columns):
        raise AuditFailedError(
            f"columns of {kind.frame} must be the same in backtest and live replay, were "
            f"{list(left.columns)} and {list(right.columns)}"
        )
    if kind.columns is None:
        return list(left.columns)
    return [kind.time, *kind.identity, *kind.columns]


def _differing_rows(kind: _Kind, left: pd.DataFrame, right: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Return the numbers of the rows that differ, those that one side lacks included."""
    columns = _compared_columns(kind, left, right)
    common = min(len(left), len(right))
    same = np.ones(common, dtype=bool)
    for column in columns:
        same &= _equal(left[column].to_numpy()[:common], right[column].to_numpy()[:common])
    missing = np.arange(common, max(len(left), len(right)))
    return np.concatenate([np.flatnonzero(~same), missing])


def _equal(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    equal: np.ndarray[Any, Any] = np.asarray(left == right, dtype=bool)
    if left.dtype.kind == "f" and right.dtype.kind == "f":
        equal |= np.isnan(left) & np.isnan(right)
    return equal


def _describe(kind: _Kind, row: int, left: pd.DataFrame, right: pd.DataFrame) -> Difference:
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
        if not _same(one[column], other[column])
    ]
    return _difference(kind, one, row, ", ".join(parts))


def _difference(kind: _Kind, have: Any, row: int, text: str) -> Difference:
    where = f"{kind.name}, row {row}, {_identity(kind, have)}: {text}"
    return Difference(kind.name, int(have[kind.time]), where)


def _identity(kind: _Kind, row: Any) -> str:
    rest = " ".join(str(row[column]) for column in kind.identity)
    return f"{format_time(int(row[kind.time]))} {rest}".strip()


def _same(one: Any, other: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one)
    return bool(one == other) or (both_nan and math.isnan(other))


def _shown(value: Any) -> str:
    # repr keeps every bit of a float: a difference in the last one must be seen.
    return repr(float(value)) if isinstance(value, float | np.floating) else repr(str(value))

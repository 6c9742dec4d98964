"""What is asked of a signal and what comes of it; `research.signal_quality` measures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from catalog.config import Config
from research.estimates import Estimate
from research.metrics import BootstrapConfig

POOLED, CROSS_SECTION = "pooled", "cross-section"
"""Scopes beside the instruments."""
TABLES = ("information", "delays", "spreads", "quantiles", "turnover", "months")
"""Tables of `SignalQuality`."""


class SignalConfig(Config):
    """What is measured of a signal.

    Parameters
    ----------
    horizon_bars : int
        Bars that the model looks ahead: at it, quantiles, delays and turnover are measured.
    horizons_bars : tuple of int
        Bars that a return is held, ascending.
    delays_bars : tuple of int
        Bars by which one is late, ascending; 0 is the next open.
    quantiles : int
        Into how many parts, about equally large, an instrument's signals are divided.
    bootstrap : BootstrapConfig
        How intervals are made; blocks are longer where returns are.
    """

    horizon_bars: int = Field(ge=1, le=10_000)
    horizons_bars: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 96)
    delays_bars: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    quantiles: int = Field(default=5, ge=2, le=100)
    bootstrap: BootstrapConfig = BootstrapConfig()

    @field_validator("horizons_bars")
    @classmethod
    def _positive(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not values or list(values) != sorted(set(values)) or values[0] < 1:
            raise ValueError(f"horizons_bars must ascend from 1 on, were {values}")
        return values

    @field_validator("delays_bars")
    @classmethod
    def _from_zero(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not values or list(values) != sorted(set(values)) or values[0] != 0:
            raise ValueError(f"delays_bars must ascend and begin with 0, were {values}")
        return values


class InformationRow(NamedTuple):
    """The rank information coefficient of one scope at one horizon and delay.

    `scope` is an instrument, ``pooled`` or ``cross-section``; `p` is two-sided, NaN with fewer than
    8 days; `p_holm` is corrected for the scope's horizons (or delays).
    """

    scope: str
    horizon_bars: int
    delay_bars: int
    n: int
    ic: Estimate
    p: float
    p_holm: float


class SpreadRow(NamedTuple):
    """Mean return of the highest quantile less that of the lowest, bps over the horizon.

    A trade of one side earns about half of it before costs. `monotony` is the rank correlation of
    the quantiles' numbers with their mean returns.
    """

    scope: str
    horizon_bars: int
    spread_bps: Estimate
    monotony: float


class QuantileRow(NamedTuple):
    """Mean return over the horizon in one quantile of the signal, 1 being the lowest, in bps."""

    scope: str
    quantile: int
    n: int
    mean_bps: Estimate


class TurnoverRow(NamedTuple):
    """How much of a signal is still there `lag_bars` later.

    `autocorrelation` is that of ranks; `top` and `bottom` are the shares of the rows of the highest
    and the lowest quantile that were not in it `lag_bars` before.
    """

    scope: str
    lag_bars: int
    autocorrelation: float
    top: float
    bottom: float


class MonthRow(NamedTuple):
    """The pooled information coefficient of one month (``2024-01``) at the model's horizon."""

    month: str
    n: int
    ic: float


@dataclass(frozen=True, slots=True)
class SignalQuality:
    """What was measured; see the rows' own classes.

    Parameters
    ----------
    column : str
        The signal.
    interval_ns : int
        Length of a bar.
    config : SignalConfig
        What was asked.
    information : tuple of InformationRow
        By scope and horizon, at once.
    delays : tuple of InformationRow
        By scope and delay, at the model's horizon.
    spreads : tuple of SpreadRow
        By scope and horizon.
    quantiles : tuple of QuantileRow
        By scope, at the model's horizon.
    turnover : tuple of TurnoverRow
        By scope and lag.
    months : tuple of MonthRow
        In time order.
    """

    column: str
    interval_ns: int
    config: SignalConfig
    information: tuple[InformationRow, ...]
    delays: tuple[InformationRow, ...]
    spreads: tuple[SpreadRow, ...]
    quantiles: tuple[QuantileRow, ...]
    turnover: tuple[TurnoverRow, ...]
    months: tuple[MonthRow, ...]

    @property
    def half_life_bars(self) -> float:
        """Delay at which half of the pooled coefficient is gone, linear between delays.

        NaN where there is none to lose; infinite where more than half is left at the last delay.
        """
        rows = [row for row in self.delays if row.scope == POOLED]
        level = np.array([row.ic.value for row in rows])
        delay = np.array([row.delay_bars for row in rows], dtype=np.float64)
        if not level[0] > 0.0:
            return math.nan
        below = np.flatnonzero(level <= level[0] / 2.0)
        if len(below) == 0:
            return math.inf
        last = int(below[0])
        share = (level[last - 1] - level[0] / 2.0) / (level[last - 1] - level[last])
        return float(delay[last - 1] + share * (delay[last] - delay[last - 1]))

    def to_json(self) -> dict[str, Any]:
        """Return everything for JSON; what is not finite as None."""
        half_life = self.half_life_bars
        return {
            "column": self.column,
            "interval_ns": self.interval_ns,
            "settings": self.config.model_dump(mode="json"),
            "half_life_bars": half_life if math.isfinite(half_life) else None,
            **{name: [_row_dict(row) for row in getattr(self, name)] for name in TABLES},
        }


def _row_dict(row: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row._asdict().items():
        if isinstance(value, Estimate):
            found[name] = value.as_dict()
        else:
            found[name] = None if isinstance(value, float) and not math.isfinite(value) else value
    return found

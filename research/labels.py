"""What the models learn to foretell, the span it looks at, and how much each example counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from catalog.arrays import BarArrays, Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import ConfigError, DataError
from research.label_kernels import BOTH, LOWER, NEITHER, UPPER
from research.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Callable

type LabelKind = Literal["forward_sign", "volatility_scaled", "triple_barrier", "meta"]

_SETTINGS: dict[LabelKind, tuple[str, ...]] = {
    "forward_sign": (),
    "volatility_scaled": ("volatility_bars", "dead_zone"),
    "triple_barrier": ("volatility_bars", "barrier_multiple", "at_timeout"),
    "meta": ("volatility_bars", "barrier_multiple", "at_timeout"),
}
"""Which settings each kind has beside its horizon."""


class LabelConfig(Config):
    """What to foretell.

    ``vol`` is the root mean square of the last `volatility_bars` one-bar log returns up to the
    row's own bar. The unit of the widths below is ``vol * sqrt(horizon_bars)``, on the log price.

    Parameters
    ----------
    kind : {"forward_sign", "volatility_scaled", "triple_barrier", "meta"}
        ``forward_sign``: whether the close `horizon_bars` later is higher (1) or lower (0).
        ``volatility_scaled``: the same, unknown where the move stays inside the dead zone.
        ``triple_barrier``: whether the upper (1) or the lower (0) barrier is touched first
        (López de Prado, 2018, chapter 3). ``meta``: whether a trade on a given primary side would
        have won (1) or lost (0) under the same barriers (section 3.6).
    horizon_bars : int
        How far ahead, in bars of the panel's interval; with barriers, when time is out.
    volatility_bars : int
        Bars that ``vol`` looks back over, for the kinds that use it.
    dead_zone : float
        Half width of the dead zone of ``volatility_scaled``; a move of exactly that much counts.
    barrier_multiple : float
        Distance of both barriers from the close, for ``triple_barrier`` and ``meta``.
    at_timeout : {"sign", "unknown"}
        What a label is if no barrier is touched in time: by the sign of the return, or unknown.
    """

    kind: LabelKind = "forward_sign"
    horizon_bars: int = Field(ge=1, le=10_000)
    volatility_bars: int = Field(default=96, ge=2, le=1_000)
    dead_zone: float = Field(default=0.25, ge=0.0, le=10.0)
    barrier_multiple: float = Field(default=1.0, gt=0.0, le=100.0)
    at_timeout: Literal["sign", "unknown"] = "sign"

    @model_validator(mode="after")
    def _check_settings(self) -> LabelConfig:
        for name in sorted(self._without_use()):
            default = type(self).model_fields[name].default
            if getattr(self, name) != default:
                used_by = ", ".join(kind for kind, names in _SETTINGS.items() if name in names)
                raise ValueError(
                    f"{name} must be left at {default} for the label {self.kind}, which does not "
                    f"use it, was {getattr(self, name)}; it is for {used_by}"
                )
        return self

    def _without_use(self) -> set[str]:
        return set().union(*_SETTINGS.values()) - set(_SETTINGS[self.kind])

    @model_serializer(mode="wrap")
    def _without_unused(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what the kind does not use, so that it is in no hash either."""
        settings: dict[str, Any] = serialise(self)
        return {name: settings[name] for name in settings if name not in self._without_use()}


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of a panel, row by row as in `research.features.FeatureMatrix`.

    A row may be used for fitting only where its whole span, up to `ts_end`, lies in the past.

    Parameters
    ----------
    value : (n_rows,) float64
        1 up (or won), 0 down (or lost); NaN where there is no answer: see `compute_labels`.
    forward_return : (n_rows,) float64
        ``close(ts_init + horizon) / close(ts_init) - 1`` (fraction) for every kind; NaN where
        that bar is missing.
    ts_end : (n_rows,) int64
        End of the span that any number of the row looks at, UTC nanoseconds, also where the label
        is NaN: ``ts_init + horizon``, since the forward return looks that far. Purging uses it.
    weight : (n_rows,) float64
        Average uniqueness in (0, 1] of the span up to `ts_decided`: 1 where no other label of the
        instrument looks at the same time, about 1 / horizon where every bar has one as long.
    ts_decided : (n_rows,) int64, optional
        End of the span that `value`, `weight` and `barrier_return` look at, at most `ts_end`: the
        close of the bar that touched a barrier. None for kinds without barriers: `ts_end`.
    barrier_return : (n_rows,) float64, optional
        Return (fraction, of the price and not of a side) from the close to where the barriers or
        the time-out end the trade; NaN where that is not known. None for kinds without barriers.
    """

    value: Float64Array
    forward_return: Float64Array
    ts_end: Int64Array
    weight: Float64Array
    ts_decided: Int64Array | None = None
    barrier_return: Float64Array | None = None


def compute_labels(
    panel: Panel, config: LabelConfig, *, side: Float64Array | Int64Array | None = None
) -> Labels:
    """Label every bar of a panel.

    The horizon is a length of time, not a count of rows: the bar at exactly
    ``ts_init + horizon_bars * interval`` must exist, else the forward return is NaN. Bars missing
    in between change nothing. A row may change with what happens until its `ts_end` and not
    after; with barriers, all but its forward return not after its `ts_decided`.

    Parameters
    ----------
    panel : Panel
        Bars of all instruments.
    config : LabelConfig
        What to foretell.
    side : (n_rows,) float64 or int64, optional
        What a primary model would do, row by row: 1 buy, -1 sell, 0 nothing. For the kind
        ``meta``, and only for it. It must be known at each row's own `ts_init`.

    Returns
    -------
    Labels
        The value is NaN where the forward return decides and is zero or NaN; where the bars that
        ``vol`` needs do not exist or nothing moved in them (all kinds but ``forward_sign``); and:

        - ``volatility_scaled``: where the move stays inside the dead zone;
        - ``triple_barrier``: where one bar reaches both barriers from between them, since the
          order within a bar is not known; at time-out, if `at_timeout` says so;
        - ``meta``: where the side is 0, and at time-out alike. A bar that reaches both barriers
          has lost: the worse is assumed.

    Raises
    ------
    ConfigError
        If the kind is ``meta`` and there is no side.
    DataError
        If there is a side for another kind, or it does not fit the rows.
    """
    _check_side(panel, config, side)
    ahead = config.horizon_bars * panel.interval_ns
    forward_return = np.concatenate([_forward_return(bars, ahead) for bars in panel.bars])
    ts_end = np.concatenate([bars.ts_init for bars in panel.bars]) + ahead
    if config.kind in ("triple_barrier", "meta"):
        return _barrier_labels(panel, config, forward_return, ts_end, side)
    value = _signs(forward_return)
    if config.kind == "volatility_scaled":
        unit = np.concatenate([_unit(bars, config) for bars in panel.bars])
        # NaN compares as false: without a volatility a move is not known to be large.
        value[~((unit > 0.0) & (np.abs(np.log1p(forward_return)) >= config.dead_zone * unit))] = (
            np.nan
        )
    weight = np.concatenate([average_uniqueness(bars.ts_init, ahead) for bars in panel.bars])
    return Labels(value, forward_return, ts_end, weight)


def _check_side(panel: Panel, config: LabelConfig, side: Float64Array | Int64Array | None) -> None:
    if config.kind != "meta":
        if side is not None:
            raise DataError(f"side must be given for the label meta only, was for {config.kind}")
        return
    if side is None:
        raise ConfigError(
            "the label meta must be given the side of a primary model, row by row, was given none; "
            "pass side to compute_labels, or choose the label triple_barrier"
        )
    n_rows = sum(len(bars) for bars in panel.bars)
    if side.shape != (n_rows,):
        raise DataError(f"side must have the shape ({n_rows},) of the rows, was {side.shape}")
    strange = np.flatnonzero(~np.isin(side, (-1, 0, 1)))
    if len(strange):
        raise DataError(
            f"side must be -1, 0 or 1, was {side[strange[0]]} in row {strange[0]} and "
            f"{len(strange) - 1} more; give 0 where the primary model does nothing"
        )


def _signs(returns: Float64Array) -> Float64Array:
    """Return 1 for a rise, 0 for a fall and NaN for neither."""
    value = np.where(returns > 0.0, 1.0, 0.0)
    value[np.isnan(returns) | (returns == 0.0)] = np.nan
    return value


@cache
def _compiled() -> dict[str, Callable[..., None]]:
    """Return the entry points of `research.label_kernels`; numba is imported when they are."""
    from research import label_kernels
    from research.kernel_cache import compile_entry_points

    return compile_entry_points(label_kernels)


def _unit(bars: BarArrays, config: LabelConfig) -> Float64Array:
    """Return ``vol * sqrt(horizon)`` at each bar from the bars up to it; NaN while not known."""
    result = np.empty(len(bars))
    slots, ring = bars.ts_init // bars.interval_ns, np.empty(config.volatility_bars)
    _compiled()["trailing_volatility"](slots, bars.close, ring, result)
    return result * math.sqrt(config.horizon_bars)


@dataclass(frozen=True, slots=True, eq=False)
class _Touches:
    """What the barriers saw, bar by bar of one instrument; see `label_kernels.first_touch`."""

    width: Float64Array
    touched: Int64Array
    exit_return: Float64Array
    ts_decided: Int64Array

    @classmethod
    def of(cls, bars: BarArrays, config: LabelConfig) -> _Touches:
        """Follow every bar of an instrument until a barrier or the time-out; NaN if neither."""
        count = len(bars)
        width = config.barrier_multiple * _unit(bars, config)
        touched, row_of = np.empty(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        exits = np.full(count, np.nan)
        _compiled()["first_touch"](
            bars.ts_init // bars.interval_ns,
            (bars.open, bars.high, bars.low, bars.close),
            width,
            config.horizon_bars,
            touched,
            row_of,
            exits,
        )
        in_time = (touched == UPPER) | (touched == LOWER) | (touched == BOTH)
        ts_end = bars.ts_init + config.horizon_bars * bars.interval_ns
        ts_decided = np.where(in_time, bars.ts_init[row_of], ts_end) if count else ts_end
        return cls(width, touched, exits / bars.close - 1.0, ts_decided)


def _barrier_labels(
    panel: Panel,
    config: LabelConfig,
    forward_return: Float64Array,
    ts_end: Int64Array,
    side: Float64Array | Int64Array | None,
) -> Labels:
    """Label by the barrier touched first; there is a side for meta labels only."""
    parts = [_Touches.of(bars, config) for bars in panel.bars]
    touched = np.concatenate([part.touched for part in parts])
    barrier_return = np.concatenate([part.exit_return for part in parts])
    out_of_time = touched == NEITHER
    barrier_return[out_of_time] = forward_return[out_of_time]
    outcome = barrier_return.copy()
    if config.at_timeout == "unknown":
        outcome[out_of_time] = np.nan
    value = _signs(outcome if side is None else side * outcome)
    if side is not None:
        # The worse of two barriers reached within one bar: the trade has lost, at the stop.
        width = np.concatenate([part.width for part in parts])
        lost = (touched == BOTH) & (side != 0)
        value[lost] = 0.0
        barrier_return[lost] = np.expm1(-side[lost] * width[lost])
    weights = [
        average_uniqueness(bars.ts_init, part.ts_decided - bars.ts_init)
        for bars, part in zip(panel.bars, parts, strict=True)
    ]
    ts_decided = np.concatenate([part.ts_decided for part in parts])
    return Labels(
        value, forward_return, ts_end, np.concatenate(weights), ts_decided, barrier_return
    )


def _forward_return(bars: BarArrays, ahead: int) -> Float64Array:
    """Return the simple return to the bar `ahead` nanoseconds later, NaN where there is none."""
    result = np.full(len(bars), np.nan)
    later = np.searchsorted(bars.ts_init, bars.ts_init + ahead)
    inside = np.flatnonzero(later < len(bars))
    rows = inside[bars.ts_init[later[inside]] == bars.ts_init[inside] + ahead]
    result[rows] = bars.close[later[rows]] / bars.close[rows] - 1.0
    return result


def average_uniqueness(ts_init: Int64Array, ahead: int | Int64Array) -> Float64Array:
    """Return how much of its span each label has to itself.

    Parameters
    ----------
    ts_init : (n_bars,) int64
        Times of one instrument's bars, sorted; every bar has a span ``(ts_init, ts_init + ahead]``.
    ahead : int or (n_bars,) int64
        Length of every span, or of each, in nanoseconds; above zero.

    Returns
    -------
    (n_bars,) float64
        Mean over the span of one by the number of spans that cover the moment.

    Notes
    -----
    López de Prado (2018), "Advances in Financial Machine Learning", sections 4.3 and 4.4.
    Deviations: moments are weighted by time, so a gap costs no work; and every bar's span counts,
    whether or not its label turns out to be known, so that a weight depends on nothing after the
    end of its own span.
    """
    if not len(ts_init):
        return np.empty(0)
    ends = ts_init + ahead
    edges = np.unique(np.concatenate([ts_init, ends]))
    started = np.searchsorted(ts_init, edges[:-1], side="right")
    ended = np.searchsorted(np.sort(ends), edges[:-1], side="right")
    covering = started - ended
    lengths = np.diff(edges)
    share = np.divide(lengths, covering, out=np.zeros(len(lengths)), where=covering > 0)
    total = np.concatenate([[0.0], np.cumsum(share)])
    first = np.searchsorted(edges, ts_init)
    last = np.searchsorted(edges, ends)
    # A difference of running sums may exceed the span by a rounding error.
    weight: Float64Array = np.minimum((total[last] - total[first]) / ahead, 1.0)
    return weight

"""Slow series as features see them, and how a stretch of time is cut from what is no bar."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from catalog.arrays import Float64Array, Int64Array, span_slice

if TYPE_CHECKING:
    from catalog.store import FlowArrays


@dataclass(frozen=True, slots=True)
class EventArrays:
    """A slow series as features see it, sorted by when its records became known.

    Parameters
    ----------
    name : str
        See `research.panel.Panel.series`.
    ts_init : (n_records,) int64
        When each record could be known, UTC nanoseconds.
    value : (n_records,) float64
        Its value; for news the score in [-1, 1], NaN where there is none.
    extra : (n_records,) float64, optional
        For news the novelty of the headline in [0, 1], see `research.novelty`.
    """

    name: str
    ts_init: Int64Array
    value: Float64Array
    extra: Float64Array | None = None

    def __len__(self) -> int:
        return len(self.ts_init)

    def between(self, start: int | None, end: int | None) -> Self:
        """Return the records with ``start < ts_init <= end`` (views, not copies)."""
        rows = span_slice(self.ts_init, start, end)
        extra = None if self.extra is None else self.extra[rows]
        return replace(self, ts_init=self.ts_init[rows], value=self.value[rows], extra=extra)


def flow_between(flow: FlowArrays, start: int | None, end: int | None) -> FlowArrays:
    """Return the order flow with ``start < ts_init <= end`` (views, not copies)."""
    rows = span_slice(flow.ts_init, start, end)
    return replace(
        flow,
        ts_init=flow.ts_init[rows],
        quote_volume=flow.quote_volume[rows],
        trade_count=flow.trade_count[rows],
        taker_buy_volume=flow.taker_buy_volume[rows],
        taker_buy_quote_volume=flow.taker_buy_quote_volume[rows],
    )

"""What a strategy is held against: doing nothing, and buying everything once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from catalog.arrays import BarArrays, Float64Array, Int64Array, SeriesArrays
from catalog.errors import DataError
from catalog.timestamps import format_time

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class HoldingCosts:
    """What buying and selling costs, in basis points of the traded value, and with how much.

    Parameters
    ----------
    starting_balance : float
        USDT.
    fee_bps, slippage_bps : float
        Of each purchase and sale.
    """

    starting_balance: float
    fee_bps: float
    slippage_bps: float


def buy_and_hold(
    bars: Sequence[BarArrays],
    funding: Mapping[str, SeriesArrays],
    costs: HoldingCosts,
    *,
    start: int,
    end: int,
) -> pd.DataFrame:
    """Buy equal values of all instruments at the first open after `start`, sell at the last close.

    Whoever holds a perpetual pays its funding: settlements are booked at the last close known.
    There is no rebalancing. An instrument whose first bar is later is bought then.

    Parameters
    ----------
    bars : sequence of BarArrays
        One for each instrument.
    funding : mapping of str to SeriesArrays
        Rates by instrument id, fractions; an instrument that is missing here (spot) pays none.
    costs : HoldingCosts
        Balance, fees and slippage.
    start, end : int
        The span ``(start, end]``, UTC nanoseconds.

    Returns
    -------
    DataFrame
        ts_init (int64 UTC ns) and equity (USDT), a row for each bar close; the costs of selling
        are in the last one.

    Raises
    ------
    DataError
        If an instrument has no bar in the span.
    """
    import pandas as pd

    own = [part.between(start, end) for part in bars]
    for part in own:
        if len(part) == 0:
            raise DataError(
                f"{part.instrument_id} must have bars after {format_time(start)} and no later "
                f"than {format_time(end)}, had none"
            )
    ts = np.unique(np.concatenate([part.ts_init for part in own]))
    equity = np.zeros(len(ts))
    for part in own:
        rates = funding.get(part.instrument_id)
        share = costs.starting_balance / len(own)
        equity += _hold(part, None if rates is None else rates.between(start, end), share, costs)(
            ts
        )
    return pd.DataFrame({"ts_init": ts, "equity": equity})


@dataclass(frozen=True, slots=True)
class _Holding:
    """One instrument's share of the benchmark, evaluated at any times."""

    bars: BarArrays
    quantity: float
    share: float
    paid_ts: Int64Array
    paid: Float64Array
    selling_cost: float

    def __call__(self, ts: Int64Array) -> Float64Array:
        row = np.searchsorted(self.bars.ts_init, ts, side="right") - 1
        value = self.quantity * self.bars.close[np.maximum(row, 0)]
        funding = np.append(0.0, np.cumsum(self.paid))[
            np.searchsorted(self.paid_ts, ts, side="right")
        ]
        value = np.where(row >= 0, value - funding, self.share)
        value[-1] -= self.selling_cost
        return value


def _hold(
    bars: BarArrays, rates: SeriesArrays | None, share: float, costs: HoldingCosts
) -> _Holding:
    fee, slip = costs.fee_bps / 1e4, costs.slippage_bps / 1e4
    quantity = share / (float(bars.open[0]) * (1.0 + slip) * (1.0 + fee))
    last = float(bars.close[-1])
    selling_cost = quantity * last * (1.0 - (1.0 - slip) * (1.0 - fee))
    paid_ts, paid = np.empty(0, dtype=np.int64), np.empty(0)
    if rates is not None:
        # A settlement at the very open is due before the purchase.
        later = rates.ts_init > int(bars.ts_init[0]) - bars.interval_ns
        paid_ts = rates.ts_init[later]
        row = np.searchsorted(bars.ts_init, paid_ts, side="right") - 1
        mark = np.where(row >= 0, bars.close[np.maximum(row, 0)], bars.open[0])
        paid = quantity * mark * rates.value[later]
    return _Holding(bars, quantity, share, paid_ts, paid, selling_cost)

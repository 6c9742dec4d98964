"""What policy, sizing and risk guard see of the world: plain tuples, made by whoever calls them.

No engine, no clock, no account: the caller reads these from its ledger and its market data at the
close of a bar, so the same numbers reach the same arithmetic in replay, paper and live.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from strategies.fees import NO_FEES, FeeTier


class MarketView(NamedTuple):
    """One instrument at the close of a bar. Usable from that close on.

    Parameters
    ----------
    price : float
        Last close, quote units.
    volatility : float
        Root mean square of the one-bar log returns of the last 96 bars, a fraction; NaN unknown.
    volume : float
        Base units traded in the last completed bar; NaN unknown.
    funding_rate : float
        Last settled rate for one interval, a fraction (longs pay a positive one); 0 if none.
    next_funding_bars : float
        Bars from this close to the next settlement; NaN if there is none.
    """

    price: float
    volatility: float
    volume: float
    funding_rate: float
    next_funding_bars: float


class AccountView(NamedTuple):
    """The account at the last marks.

    Parameters
    ----------
    equity : float
        USDT, open positions included.
    gross : float
        Sum of the sizes of all positions but that of the instrument at hand, USDT, at least 0.
    net : float
        The same sum with signs (long positive), USDT.
    """

    equity: float
    gross: float
    net: float


class TradeCosts(NamedTuple):
    """What a trade is expected to cost, made once for a run.

    Parameters
    ----------
    round_trip_frac : float
        Fees and slippage of entry and exit together, a fraction of the traded value; see
        `strategies.edge.round_trip_cost_frac`. `strategies.edge.with_impact` adds what a size
        moves the price.
    funding_interval_bars : float
        Bars from one funding settlement to the next (32 for eight hours of 15-minute bars); NaN
        if there are none.
    impact_bps, impact_cap_bps : float
        Of `strategies.execution.ExecutionConfig`.
    max_participation : float
        Of the same; infinite for no limit.
    fees : FeeTier
        Of the same, of a fill whose fee was charged in another coin (`strategies.paid_fees`).
    """

    round_trip_frac: float
    funding_interval_bars: float
    impact_bps: float = 0.0
    impact_cap_bps: float = 0.0
    max_participation: float = math.inf
    fees: FeeTier = NO_FEES


NO_COSTS = TradeCosts(round_trip_frac=0.0, funding_interval_bars=math.nan)
"""What is still to be paid for a position that is held and has to be closed some time anyway."""

"""What a trade is expected to earn and to cost: fractions of the traded value, pure functions."""

from __future__ import annotations

import math

from strategies.impact import impact_bps
from strategies.intent import MarketView, TradeCosts

MEAN_ABSOLUTE_NORMAL = math.sqrt(2.0 / math.pi)
"""Mean of the absolute value of a standard normal variable, 0.798."""
_BPS = 10_000.0


def horizon_sigma(sigma: float, volatility: float, horizon_bars: int) -> float:
    """Return the scale of the log return over the horizon: the model's own, or the market's.

    Parameters
    ----------
    sigma : float
        The prediction's scale over the horizon, a fraction; NaN if the model gives none.
    volatility : float
        Root mean square of recent one-bar log returns, a fraction; NaN if unknown. Taken to grow
        with the square root of time where `sigma` is unknown.
    horizon_bars : int
        Bars that the prediction looks ahead.

    Returns
    -------
    float
        A fraction above 0, or NaN where neither is known (0, infinite or negative is unknown:
        a price that did not move for 96 bars says nothing about the next ones).
    """
    if 0.0 < sigma < math.inf:
        return sigma
    if 0.0 < volatility < math.inf:
        return volatility * math.sqrt(horizon_bars)
    return math.nan


def expected_move(sigma_h: float) -> float:
    """Return the mean absolute log return over the horizon, a fraction; NaN if unknown."""
    return MEAN_ABSOLUTE_NORMAL * sigma_h


def expected_return(prob_up: float, sigma_h: float) -> float:
    """Return the expected log return over the horizon, a fraction; NaN if `sigma_h` is.

    ``(2p - 1) sqrt(2 / pi) sigma_h``: the return's sign is up with probability p, its size is that
    of a centred normal variable, and the two are taken to be independent.

    Parameters
    ----------
    prob_up : float
        Probability of a rise over the horizon.
    sigma_h : float
        Scale of the return over the horizon, a fraction; see `horizon_sigma`.
    """
    return (2.0 * prob_up - 1.0) * (MEAN_ABSOLUTE_NORMAL * sigma_h)


def round_trip_cost_frac(fee_bps: float, slippage_bps: float) -> float:
    """Return what entry and exit cost together, a fraction of the traded value.

    Both sides are taken to have the same value and the same fee and slippage (basis points each).
    """
    return 2.0 * (fee_bps + slippage_bps) / _BPS


def with_impact(costs: TradeCosts, value: float, market: MarketView) -> TradeCosts:
    """Return the costs with what a size moves the price, at entry and exit, in the round trip.

    A rule that asks whether a trade pays is asked before its size is known, and a size must not
    depend on a cost that depends on the size. So both are told of the largest size that may be
    held: a smaller one costs less, and is never larger for having been told so.

    Parameters
    ----------
    costs : TradeCosts
        Of the smallest trade.
    value : float
        Largest worth that may be held, USDT. Nothing is added where there is none.
    market : MarketView
        Price, and the volume that participation is measured against: that of the last completed
        bar, as for the fill itself. Where nothing traded, or nothing is known, the impact is the
        cap. The exit is taken to meet the same volume.
    """
    if costs.impact_bps == 0.0 or not value > 0.0:
        return costs
    volume = market.volume
    quantity = value / market.price if market.price > 0.0 else math.inf
    if volume > 0.0:
        # What is beyond the limit does not fill, and the next bar's part pays as much again.
        quantity = min(quantity, costs.max_participation * volume)
    moved = impact_bps(quantity, volume, costs.impact_bps, costs.impact_cap_bps)
    return costs._replace(round_trip_frac=costs.round_trip_frac + 2.0 * moved / _BPS)


def settlements_until(
    next_funding_bars: float, funding_interval_bars: float, horizon_bars: float
) -> int:
    """Return how many settlements a position opened now and held over the horizon meets.

    A settlement at this very close is not met (the order fills after it); one at the very end of
    the horizon is (the exit fills after it).

    Parameters
    ----------
    next_funding_bars : float
        Bars to the next settlement, at least 0; NaN if there is none.
    funding_interval_bars : float
        Bars between settlements; NaN (or not above 0) counts the next one only.
    horizon_bars : float
        Bars that the position is held.
    """
    if not 0.0 <= next_funding_bars < math.inf:
        return 0
    repeats = 0.0 < funding_interval_bars < math.inf
    first = next_funding_bars
    if first == 0.0:
        if not repeats:
            return 0
        first = funding_interval_bars
    if first > horizon_bars:
        return 0
    if not repeats:
        return 1
    return 1 + int((horizon_bars - first) // funding_interval_bars)


def funding_cost_frac(
    side: int,
    rate: float,
    next_funding_bars: float,
    funding_interval_bars: float,
    horizon_bars: float,
) -> float:
    """Return the funding to be paid until the horizon, a fraction; negative if it is received.

    The last settled rate is taken to stand until then.

    Parameters
    ----------
    side : {-1, 1}
        Of the position: a long pays a positive rate, a short receives it.
    rate : float
        Per settlement, a fraction; 0 if none.
    next_funding_bars, funding_interval_bars, horizon_bars : float
        See `settlements_until`.
    """
    count = settlements_until(next_funding_bars, funding_interval_bars, horizon_bars)
    return side * rate * count if count else 0.0


def trade_cost_frac(side: int, market: MarketView, costs: TradeCosts, horizon_bars: int) -> float:
    """Return what a trade held over the horizon costs in all, a fraction, at least 0.

    Funding received lowers the cost, but never below zero: costs alone make no edge, for the rate
    may turn before the horizon. NaN where a part of it is unknown.
    """
    funding = funding_cost_frac(
        side,
        market.funding_rate,
        market.next_funding_bars,
        costs.funding_interval_bars,
        horizon_bars,
    )
    total = costs.round_trip_frac + funding
    # Not max(0.0, total): that would turn an unknown cost into none.
    return 0.0 if total < 0.0 else total

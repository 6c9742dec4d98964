"""How much to hold: pure functions, no engine.

`size` goes from a prediction to an order's quantity in three steps: the method says what fraction
of equity is wanted, the caps take from it, the exchange's rules round it DOWN. It names the rule
that decided, which is recorded with the order.

`confidence`, `target_fraction` and `order_quantity` are the rule of policies without a sizing
method.
"""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal
from functools import lru_cache
from typing import NamedTuple

from strategies.execution import InstrumentTerms, Side, exact_decimal
from strategies.intent import AccountView, MarketView, TradeCosts
from strategies.risk_policy import RiskPolicy
from strategies.sizing_config import BOUND_BY, Method, SizingConfig, SizingSignal
from strategies.sizing_methods import Case, make_case, shrunk_edge, wanted_fraction

__all__ = [
    "BOUND_BY",
    "Method",
    "Size",
    "SizingConfig",
    "SizingSignal",
    "confidence",
    "largest_value",
    "order_quantity",
    "shrunk_edge",
    "size",
    "target_fraction",
]


class Size(NamedTuple):
    """How much to order.

    Parameters
    ----------
    quantity : float
        Base units, a multiple of the step; 0 for no order.
    fraction : float
        What that is worth at the last close, of equity.
    method : str
        Of the configuration.
    bound_by : str
        What decided: one of `BOUND_BY`.
    """

    quantity: float
    fraction: float
    method: str
    bound_by: str


def size(
    config: SizingConfig,
    signal: SizingSignal,
    side: Side,
    market: MarketView,
    account: AccountView,
    terms: InstrumentTerms,
    stop_frac: float,
    costs: TradeCosts,
    *,
    weight: float = math.nan,
) -> Size:
    """Return how much to hold on one side of an instrument, and what decided it.

    Unknown or impossible numbers give no position, with the reason; nothing is raised for them.

    Parameters
    ----------
    config : SizingConfig
        Method and caps.
    signal : SizingSignal
        The prediction.
    side : {-1, 1}
        What the policy decided.
    market : MarketView
        The instrument at the close of the bar.
    account : AccountView
        Equity, and the exposure in the other instruments.
    terms : InstrumentTerms
        The exchange's rules.
    stop_frac : float
        Distance of the stop from the entry price, a fraction of it; NaN for no stop.
    costs : TradeCosts
        What the trade is expected to cost.
    weight : float, optional
        For ``kelly_multi``: what `strategies.kelly.kelly_weights` gave this instrument, signed.

    Returns
    -------
    Size
        Never beyond a cap: quantities are computed in decimals and rounded down.
    """
    assert side in (-1, 1), side
    case = make_case(config, signal, side, market, stop_frac, costs)
    wanted, reason = 0.0, _fault(case, account)
    if not reason:
        wanted, reason = wanted_fraction(case, weight)
    if not wanted > 0.0:
        return Size(0.0, 0.0, config.method, reason)
    return _ordered(case, account, terms, wanted)


def _fault(case: Case, account: AccountView) -> str:
    """Return what forbids any position, or nothing."""
    if not 0.0 < case.market.price < math.inf:
        return "price_invalid"
    if not 0.0 < account.equity < math.inf:
        return "equity_invalid"
    if not (0.0 <= account.gross < math.inf and math.isfinite(account.net)):
        return "account_invalid"
    if not 0.0 <= case.signal.prob_up <= 1.0:
        return "probability_unknown"
    if not case.cost < math.inf:
        return "costs_unknown"
    if not (math.isnan(case.stop_frac) or 0.0 < case.stop_frac < math.inf):
        return "stop_unknown"
    return ""


def _ordered(case: Case, account: AccountView, terms: InstrumentTerms, wanted: float) -> Size:
    """Return the order: the least of what is wanted and every cap, rounded down to the step."""
    config, method = case.config, case.config.method
    equity, price = exact_decimal(account.equity), exact_decimal(case.market.price)
    value, bound = equity * exact_decimal(wanted), str(method)
    for name, cap in _caps(case, account, equity):
        if cap < value:
            value, bound = cap, name
    if value <= 0:
        return Size(0.0, 0.0, method, bound)
    largest = _largest_quantity(terms)
    raw = value / price
    if 0 < largest < raw:
        raw, bound = largest, "max_quantity"
    quantity = _rounded_down(raw, terms)
    worth = quantity * price
    if quantity < terms.min_quantity or worth < terms.min_notional or quantity == 0:
        return Size(0.0, 0.0, method, "below_minimum")
    if config.min_notional is not None and worth < _exact(config.min_notional):
        return Size(0.0, 0.0, method, "min_notional")
    return Size(float(quantity), float(worth / equity), method, bound)


def _caps(case: Case, account: AccountView, equity: Decimal) -> list[tuple[str, Decimal]]:
    """Return every cap as the largest value in USDT; what is already held may leave none."""
    config = case.config
    net = case.side * exact_decimal(account.net)
    caps = [
        ("max_position", _exact(config.max_position) * equity),
        ("max_gross", _exact(config.max_gross) * equity - exact_decimal(account.gross)),
        ("max_net", _exact(config.max_net) * equity - net),
    ]
    if not math.isnan(case.stop_frac):
        at_stop = _exact(config.risk_per_trade) * equity / exact_decimal(case.stop_frac)
        caps.insert(0, ("risk_per_trade", at_stop))
    if config.max_notional is not None:
        caps.append(("max_notional", _exact(config.max_notional)))
    return caps


def _largest_quantity(terms: InstrumentTerms) -> Decimal:
    """Return the exchange's largest order in base units; 0 where it is not known."""
    return Decimal(getattr(terms, "max_quantity", 0))


@lru_cache(maxsize=256)
def _exact(value: float) -> Decimal:
    return exact_decimal(value)


def _rounded_down(quantity: Decimal, terms: InstrumentTerms) -> Decimal:
    return (quantity / terms.step).to_integral_value(ROUND_FLOOR) * terms.step


def largest_value(
    equity: float, position_frac: float, sizing: SizingConfig | None, risk: RiskPolicy | None
) -> float:
    """Return the largest worth that a position may have, USDT.

    Parameters
    ----------
    equity : float
        USDT.
    position_frac : float
        What counts where there is no sizing, of equity.
    sizing : SizingConfig or None
        Its `max_position` and `max_notional`.
    risk : RiskPolicy or None
        Its `max_symbol_share` and `max_position_usd`.
    """
    largest = equity * (position_frac if sizing is None else sizing.max_position)
    if sizing is not None and sizing.max_notional is not None:
        largest = min(largest, sizing.max_notional)
    if risk is not None:
        largest = min(largest, equity * risk.max_symbol_share, risk.max_position_usd)
    return largest


def confidence(prob_up: float) -> float:
    """Return how far a probability is from a coin's: ``|2p - 1|``, in [0, 1]."""
    return abs(2.0 * prob_up - 1.0)


def target_fraction(position_frac: float, confidence_: float) -> float:
    """Return the fraction of equity to hold: half of `position_frac` without confidence, all at 1.

    ``position_frac x (0.5 + 0.5 x confidence)``.
    """
    return position_frac * (0.5 + 0.5 * confidence_)


def order_quantity(equity: float, fraction: float, price: float, terms: InstrumentTerms) -> float:
    """Return the size worth `fraction` of `equity` at `price`, rounded DOWN to the step.

    Parameters
    ----------
    equity : float
        USDT; nothing is bought with none, nor with what is not a number.
    fraction : float
        Of equity, at least 0.
    price : float
        Last close, quote units; nothing is bought at one that is not finite and positive.
    terms : InstrumentTerms
        Step and minima.

    Returns
    -------
    float
        Base units, at most the exchange's largest order; 0 where the result would break the
        smallest quantity or value.
    """
    if not (0.0 < equity < math.inf and fraction > 0.0 and 0.0 < price < math.inf):
        return 0.0
    raw = exact_decimal(equity) * exact_decimal(fraction) / exact_decimal(price)
    largest = _largest_quantity(terms)
    quantity = _rounded_down(min(raw, largest) if largest > 0 else raw, terms)
    too_small = quantity < terms.min_quantity
    if too_small or quantity * exact_decimal(price) < terms.min_notional:
        return 0.0
    return float(quantity)

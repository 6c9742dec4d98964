"""How much to hold: pure functions on floats, no engine."""

from __future__ import annotations

from decimal import ROUND_FLOOR

from strategies.execution import InstrumentTerms, exact_decimal


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
        USDT; nothing is bought with none.
    fraction : float
        Of equity, at least 0.
    price : float
        Last close, quote units.
    terms : InstrumentTerms
        Step and minima.

    Returns
    -------
    float
        Base units; 0 where the result would break the smallest quantity or value.
    """
    if equity <= 0.0 or fraction <= 0.0:
        return 0.0
    raw = exact_decimal(equity) * exact_decimal(fraction) / exact_decimal(price)
    quantity = (raw / terms.step).to_integral_value(ROUND_FLOOR) * terms.step
    too_small = quantity < terms.min_quantity
    if too_small or quantity * exact_decimal(price) < terms.min_notional:
        return 0.0
    return float(quantity)

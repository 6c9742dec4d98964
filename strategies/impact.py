"""What the size of an order adds to its price, and how much of it the market takes: pure functions.

Size is measured against the volume of the last COMPLETED bar: that of the bar in which an order
fills is not known when it is sent. A bar in which nothing traded, or none at all, says nothing, and
counts as the thinnest market there can be: the impact is the cap, the fill the smallest lot.

The impact is the square-root law ``c sqrt(participation)``. Almgren, Thum, Hauptmann and Li,
"Direct estimation of equity market impact" (2005), find a temporary impact that grows with the
power 3/5 of participation and with volatility, and a permanent one that grows with participation
itself. What deviates here: the power is 1/2, as later and larger samples have it (Tóth and others,
2011); volatility is not a factor but part of the constant, so the constant must be chosen for the
market that is traded; there is no permanent part, because the recorded prices do not know of our
order; participation is that of one bar and not of the order's own duration, which is a moment.
The prefactor of volatility in the law is of order one, whatever the period over which both
volatility and volume are taken: an order as large as a bar's volume costs about a bar's volatility.
"""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal

from strategies.execution import ExecutionConfig, exact_decimal


def participation(quantity: float, volume: float) -> float:
    """Return an order's size in multiples of a bar's volume; infinite where nothing traded.

    Parameters
    ----------
    quantity : float
        Base units, positive.
    volume : float
        Base units traded in the last completed bar; 0 or NaN where there is none.
    """
    return quantity / volume if volume > 0.0 else math.inf


def impact_bps(quantity: float, volume: float, coefficient_bps: float, cap_bps: float) -> float:
    """Return how much worse an order fills for its size, basis points.

    Parameters
    ----------
    quantity, volume : float
        As for `participation`.
    coefficient_bps : float
        Impact of an order as large as the bar's volume, basis points; 0 for none.
    cap_bps : float
        Largest impact, basis points.
    """
    if coefficient_bps == 0.0:
        return 0.0
    return min(cap_bps, coefficient_bps * math.sqrt(participation(quantity, volume)))


def fill_slippage_bps(execution: ExecutionConfig, quantity: float, volume: float) -> float:
    """Return how much worse than its reference price a market or stop order fills, basis points.

    Parameters
    ----------
    execution : ExecutionConfig
        Half spread, cost of the latency's spread, impact.
    quantity, volume : float
        What fills, and the volume of the last completed bar; as for `participation`.
    """
    moved = impact_bps(quantity, volume, execution.impact_bps, execution.impact_cap_bps)
    return execution.base_slippage_bps + moved


def takes(quantity: float, volume: float, max_participation: float | None, step: Decimal) -> float:
    """Return how much of an order fills at once, base units, a multiple of the step.

    Parameters
    ----------
    quantity : float
        What is asked for, base units, a multiple of the step.
    volume : float
        Base units traded in the last completed bar; 0 or NaN where there is none.
    max_participation : float or None
        Largest part of that volume that an order may be; None for no limit.
    step : Decimal
        Size increment. One step is always taken: an order that is filled by nothing at all would
        be rejected, not cancelled.

    Returns
    -------
    float
        At most `quantity`; rounded down.
    """
    if max_participation is None:
        return quantity
    most = Decimal(0)
    if volume > 0.0:
        most = exact_decimal(volume) * exact_decimal(max_participation)
    steps = max((most / step).to_integral_value(ROUND_FLOOR), Decimal(1))
    return float(min(exact_decimal(quantity), steps * step))


def latency_spread_bps(spread_ms: float, volatility: float, interval_ms: float) -> float:
    """Return what a delay that varies costs on average, basis points, for `latency_slippage_bps`.

    The engine knows only a constant latency. A delay that is longer by a random amount with this
    standard deviation meets a price that has moved by ``volatility sqrt(spread / interval)``, half
    of the time against us; an order that always pays the move errs on the safe side by a factor of
    two and a half (the mean of the part against us of a centred normal is 0.4 of its scale).

    Parameters
    ----------
    spread_ms : float
        Standard deviation of the latency, milliseconds.
    volatility : float
        Root mean square of one-bar log returns, a fraction.
    interval_ms : float
        Length of a bar, milliseconds.
    """
    return 10_000.0 * volatility * math.sqrt(spread_ms / interval_ms)

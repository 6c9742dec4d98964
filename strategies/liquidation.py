"""When an exchange takes positions away: pure functions of a cross-margined account.

An account is liquidated when its equity (cash and unrealised result at the last marks) has fallen
to what its positions need as maintenance margin. Binance has steps of rising rates by position
size; here one rate holds for all sizes, which is the first step's where positions are small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


def maintenance_margin(values: Iterable[float], maintenance_frac: float) -> float:
    """Return what positions need, USDT.

    Parameters
    ----------
    values : iterable of float
        Position values at the marks, USDT, signed or not.
    maintenance_frac : float
        Maintenance margin as a fraction of a position's value.
    """
    return maintenance_frac * math.fsum(abs(value) for value in values)


def is_liquidated(equity: float, maintenance: float) -> bool:
    """Return whether an account with positions loses them: its equity no longer covers them."""
    return maintenance > 0.0 and not equity > maintenance


def liquidation_price(
    quantity: float, average_open: float, cash: float, maintenance_frac: float
) -> float:
    """Return the mark at which an account with one position is liquidated, quote units.

    Solves ``cash + q (x - open) = m |q| x``. A long that cannot be liquidated above zero, because
    its cash covers the whole position, gives 0.

    Parameters
    ----------
    quantity : float
        Signed base units, not 0.
    average_open : float
        Average entry price, quote units.
    cash : float
        Account without the unrealised result, USDT.
    maintenance_frac : float
        As for `maintenance_margin`.
    """
    price = (quantity * average_open - cash) / (quantity - maintenance_frac * abs(quantity))
    return max(price, 0.0)

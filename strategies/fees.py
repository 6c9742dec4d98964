"""What exchanges charge, by the tier of an account.

Binance USDT-margined perpetuals, standard rates without the discount for paying in BNB, as
published on the exchange's page "Futures trading fees" and as its announcements of 2026-02-02
(TradFi perpetuals, half of the standard taker fee) imply. Promotions are not in the table.
"""

from __future__ import annotations

from typing import NamedTuple


class FeeTier(NamedTuple):
    """What a fill costs, basis points of the traded value."""

    maker_bps: float
    taker_bps: float


NO_FEES = FeeTier(0.0, 0.0)
EXPLICIT = "explicit"
"""The tier of fees that a profile states without saying whose they are."""

FEE_TIERS = {
    "binance-usdm-regular": FeeTier(2.0, 5.0),
    "binance-usdm-vip1": FeeTier(1.6, 4.0),
    "binance-usdm-vip2": FeeTier(1.4, 3.5),
    "binance-usdm-vip3": FeeTier(1.2, 3.2),
    "binance-usdm-vip4": FeeTier(1.0, 3.0),
    "binance-usdm-vip5": FeeTier(0.8, 2.7),
    "binance-usdm-vip6": FeeTier(0.6, 2.5),
    "binance-usdm-vip7": FeeTier(0.4, 2.2),
    "binance-usdm-vip8": FeeTier(0.2, 2.0),
    "binance-usdm-vip9": FeeTier(0.0, 1.7),
}
"""Standard fees by venue and tier."""


def fee_fault(tier: str, maker_bps: float, taker_bps: float) -> str | None:
    """Return in words what is wrong with fees that are said to be those of a tier, or None."""
    if tier == EXPLICIT:
        return None
    known = FEE_TIERS.get(tier)
    if known is None:
        return f"fee_tier must be {EXPLICIT} or one of {', '.join(FEE_TIERS)}, was {tier!r}"
    if (maker_bps, taker_bps) != known:
        return (
            f"fees of {tier} must be {known.maker_bps:g} bp to make and {known.taker_bps:g} bp to "
            f"take, were {maker_bps:g} and {taker_bps:g}: correct them, or state fee_tier: "
            f"{EXPLICIT}"
        )
    return None

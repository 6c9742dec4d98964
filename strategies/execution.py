"""What an order costs and where it fills: pure functions, shared by replay and paper trading.

Nothing here knows the engine. The replay's fill and fee models and the live paper client call
the same functions with the same numbers, so a fill has the same price in both.

When things happen, for a decision at the close ``t`` of a bar (``interval`` long):

============================  ======================================================
``t``                         decision; market orders are submitted
``t + latency``               the open of the next bar is quoted; stops and targets that it has
                              passed fill at it; then what was sent at ``t`` arrives, the new stop
                              of a trailing one first (refused if the open has passed it), and
                              market orders fill (an exit is refused if its stop was first)
``t + 2 latency``             stop and target of a position opened at ``t + latency`` become live;
                              a stop that was replaced at ``t`` is gone
``t + interval``              the next bar is complete; stops that its range reached fill at
                              ``min(trigger, open)`` (sells) or ``max(trigger, open)`` (buys),
                              targets at the trigger, stamped ``t + interval``, before the decision
                              at that time. Its path is open, high, low, close: of a long's stop
                              and target the target comes first, of a short's the stop. Whatever
                              closes a position ends its other exits in the same moment
============================  ======================================================

A stop is live within its entry bar from that bar's open on: the two latencies are milliseconds.
Where the instrument's next bar is missing, its market orders wait for the first open that it has,
whatever other instruments do; an order with no open to come never fills.
Prices are floats that are the nearest to a decimal on the instrument's tick; the arithmetic that
decides a tick is done in `decimal`, so it does not depend on binary rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from catalog.config import Config
from strategies.fees import fee_fault

type Side = Literal[-1, 1]
"""The direction of an order: +1 buys, -1 sells."""

BUY: Side = 1
SELL: Side = -1
MONEY_DECIMALS = 8
"""Decimals of a USDT amount: every booking is rounded to them, as the engine's account does."""
_BPS = Decimal(10_000)
_WITHOUT_LIMITS = {"limit_offset_bps": 0.0, "limit_timeout_bars": 1, "post_only": False}
"""What the settings of limits must say where there are none."""


class ExecutionConfig(Config):
    """What trading costs. Every field must be stated: a default would be an unnoticed claim.

    Parameters
    ----------
    fee_tier : str
        Whose fees they are, a name in `strategies.fees.FEE_TIERS`: the fees must then be those of
        the tier. ``explicit`` for fees that belong to none.
    maker_fee_bps, taker_fee_bps : float
        Fee in basis points of the traded value. Market and stop orders take.
    latency_ms : int
        Time from decision to arrival at the exchange, milliseconds, at least 1: without a delay
        the engine would fill at the very close on which the decision was made.
    latency_slippage_bps : float
        What the spread of the latency costs on average, basis points: the engine knows only a
        constant one. `strategies.impact.latency_spread_bps` works it out.
    slippage_bps : float
        How much worse than the reference price the smallest market or stop order fills, basis
        points: half of the spread.
    impact_bps : float
        How much worse still an order fills that is as large as the volume of the last completed
        bar, basis points; a smaller one by the square root of its part (`strategies.impact`). 0
        for none. By the rule of thumb of the literature it is the volatility of one bar.
    impact_cap_bps : float
        Largest impact, basis points. With the rest of the slippage it is rounded to the tick
        against us.
    max_participation : float or None
        Largest part of the last completed bar's volume that an order takes; what is left of it is
        cancelled (immediate or cancel), and the next bar's decision starts from what is held.
        Orders that must get out (stops, the risk guard's) take all that they need. None for no
        limit.
    funding : {"recorded", "none"}
        Whether the recorded settlements are booked. ``recorded`` without records fails the run.
    starting_balance : float
        USDT.
    leverage : float
        Largest gross exposure in multiples of equity.
    liquidation : bool
        Whether the exchange takes all positions away once the equity at an open is no more than
        their maintenance margin. What happens between two opens is not looked at.
    order_style : {"market", "limit"}
        How entries and exits by decision are sent (`strategies.limit_desk`). Forced exits, stops
        and targets are never limits.
    limit_offset_bps : float
        How far on our side of the last close a limit waits, basis points; 0 for market orders.
    limit_timeout_bars : int
        Closes after which a limit that is not complete is cancelled, at least 1; 1 for market
        orders.
    post_only : bool
        Whether the exchange refuses a limit that would take; false for market orders.
    """

    fee_tier: str
    maker_fee_bps: float = Field(ge=-10, le=100)
    taker_fee_bps: float = Field(ge=-10, le=100)
    latency_ms: int = Field(ge=1, le=60_000)
    latency_slippage_bps: float = Field(ge=0, le=1_000)
    slippage_bps: float = Field(ge=0, le=1_000)
    impact_bps: float = Field(ge=0, le=10_000)
    impact_cap_bps: float = Field(ge=0, le=1_000)
    max_participation: float | None = Field(gt=0, le=1)
    funding: Literal["recorded", "none"]
    starting_balance: float = Field(gt=0)
    leverage: float = Field(gt=0, le=125)
    liquidation: bool
    order_style: Literal["market", "limit"]
    limit_offset_bps: float = Field(ge=0, le=1_000)
    limit_timeout_bars: int = Field(ge=1, le=10_000)
    post_only: bool

    @field_validator("starting_balance")
    @classmethod
    def _whole_cents(cls, value: float) -> float:
        return round(value, MONEY_DECIMALS)

    @model_validator(mode="after")
    def _check_fees(self) -> Self:
        fault = fee_fault(self.fee_tier, self.maker_fee_bps, self.taker_fee_bps)
        if fault is not None:
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _check_order_style(self) -> Self:
        if self.order_style == "limit":
            return self
        for name, plain in _WITHOUT_LIMITS.items():
            value = getattr(self, name)
            if value != plain:
                raise ValueError(
                    f"{name} must be {_word(plain)} where order_style is market, was "
                    f"{_word(value)}: it would have no effect; set order_style: limit or {name}: "
                    f"{_word(plain)}"
                )
        return self

    @property
    def uses_limits(self) -> bool:
        """Whether entries and exits by decision are limit orders."""
        return self.order_style == "limit"

    @property
    def latency_ns(self) -> int:
        """Latency in nanoseconds."""
        return self.latency_ms * 1_000_000

    @property
    def base_slippage_bps(self) -> float:
        """Slippage of an order that is too small to move the market, basis points."""
        return self.slippage_bps + self.latency_slippage_bps

    @property
    def worst_slippage_bps(self) -> float:
        """Largest slippage of any order, basis points."""
        return self.base_slippage_bps + (self.impact_cap_bps if self.impact_bps else 0.0)


@dataclass(frozen=True, slots=True)
class InstrumentTerms:
    """The rules of an instrument that sizing and execution need.

    Parameters
    ----------
    instrument_id : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    tick : Decimal
        Price increment, quote units.
    step : Decimal
        Size increment, base units.
    min_quantity : Decimal
        Smallest order, base units; 0 where there is no rule.
    min_notional : Decimal
        Smallest order value, quote units; 0 where there is no rule.
    maintenance_frac : Decimal
        Maintenance margin, a fraction of a position's value at its entry; 0 where there is none.
    max_quantity : Decimal
        Largest order, base units; 0 where there is no rule.
    """

    instrument_id: str
    tick: Decimal
    step: Decimal
    min_quantity: Decimal
    min_notional: Decimal
    maintenance_frac: Decimal = Decimal(0)
    max_quantity: Decimal = Decimal(0)

    @property
    def price_decimals(self) -> int:
        """Decimals of a price on the tick."""
        exponent = self.tick.as_tuple().exponent
        assert isinstance(exponent, int)
        return max(0, -exponent)

    @classmethod
    def of(cls, instrument: Any) -> Self:
        """Read the terms of a Nautilus instrument."""
        minimum, notional = instrument.min_quantity, instrument.min_notional
        maximum = instrument.max_quantity
        return cls(
            instrument_id=str(instrument.id),
            tick=instrument.price_increment.as_decimal(),
            step=instrument.size_increment.as_decimal(),
            min_quantity=Decimal(0) if minimum is None else minimum.as_decimal(),
            min_notional=Decimal(0) if notional is None else notional.as_decimal(),
            maintenance_frac=instrument.margin_maint,
            max_quantity=Decimal(0) if maximum is None else maximum.as_decimal(),
        )


def slipped_price(side: Side, reference: float, slippage_bps: float, tick: Decimal) -> float:
    """Return the fill price: the reference moved against us and rounded to the tick against us.

    Parameters
    ----------
    side : {-1, 1}
        Direction of the order.
    reference : float
        Price before slippage, quote units: the bar's open, or `stop_reference`.
    slippage_bps : float
        Basis points, at least 0.
    tick : Decimal
        Price increment; the result is a positive multiple of it.
    """
    exact = exact_decimal(reference) * _moved(side, slippage_bps)
    rounding = ROUND_CEILING if side == BUY else ROUND_FLOOR
    ticks = max((exact / tick).to_integral_value(rounding), Decimal(1))
    return float(ticks * tick)


def stop_trigger(side: Side, entry_price: float, stop_loss_frac: float, tick: Decimal) -> float:
    """Return the trigger of the stop that closes a position, rounded towards the entry price.

    `side` is that of the stop order: a long's stop sells (-1) below the entry.
    """
    exact = exact_decimal(entry_price) * (1 + side * exact_decimal(stop_loss_frac))
    rounding = ROUND_FLOOR if side == BUY else ROUND_CEILING
    return float(max((exact / tick).to_integral_value(rounding), Decimal(1)) * tick)


def stop_reference(side: Side, trigger: float, open_price: float) -> float:
    """Return the price before slippage of a triggered stop: a gap fills at the open, not at it."""
    return max(trigger, open_price) if side == BUY else min(trigger, open_price)


def target_reference(side: Side, trigger: float, open_price: float) -> float:
    """Return the price before slippage of a touched target: a gap fills at the better open."""
    return min(trigger, open_price) if side == BUY else max(trigger, open_price)


def stop_is_triggered(side: Side, trigger: float, high: float, low: float) -> bool:
    """Return whether a price range (a bar's, or open = high = low) reaches the trigger."""
    return high >= trigger if side == BUY else low <= trigger


def commission(quantity: float, price: float, fee_bps: float) -> float:
    """Return the fee of a fill in USDT, rounded to 8 decimals; a cost is positive."""
    exact = exact_decimal(quantity) * exact_decimal(price) * _constant(fee_bps) / _BPS
    return float(round(exact, MONEY_DECIMALS))


def slippage_cost(side: Side, quantity: float, price: float, reference: float) -> float:
    """Return what a fill cost against its reference price, in USDT; a cost is positive."""
    exact = side * exact_decimal(quantity) * (exact_decimal(price) - exact_decimal(reference))
    return float(round(exact, MONEY_DECIMALS))


def funding_payment(quantity: float, mark_price: float, rate: float) -> float:
    """Return the funding received (positive) or paid (negative) at a settlement, in USDT.

    `quantity` is signed (long positive), `rate` a fraction: longs pay a positive rate.
    """
    exact = -exact_decimal(quantity) * exact_decimal(mark_price) * exact_decimal(rate)
    return float(round(exact, MONEY_DECIMALS))


def _word(value: float | bool) -> str:
    """Return a setting as a profile has it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


@lru_cache(maxsize=64)
def _moved(side: Side, bps: float) -> Decimal:
    return 1 + side * exact_decimal(bps) / _BPS


@lru_cache(maxsize=64)
def _constant(value: float) -> Decimal:
    return exact_decimal(value)


def exact_decimal(value: float) -> Decimal:
    """Return the decimal that people read for a float: 0.1 becomes 0.1, not 0.1000…0055."""
    return Decimal(repr(float(value)))

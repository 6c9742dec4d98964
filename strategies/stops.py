"""Where a position's stop and target stand: pure functions, no engine and no clock.

Distances are fractions of the entry price and follow the volatility that was known when the entry
was decided: ``multiple x volatility x sqrt(horizon)``, the scale of the move over the horizon for
independent returns. They are fixed at the entry, so that the size which was made from a distance
keeps the risk that it was made for; a trailing stop moves its price, never its distance.

When things are known: `best_price` takes the extremes of a completed bar, so a trailing stop that
is moved at a bar's close protects from the next bar on. Inside one bar nobody knows which of two
prices was met first; `ambiguous` says where that matters and `AmbiguousBars` what it is worth.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from catalog.arrays import Ohlcv
from catalog.config import Config
from strategies.execution import (
    BUY,
    MONEY_DECIMALS,
    SELL,
    Side,
    exact_decimal,
    stop_is_triggered,
    stop_trigger,
)


class ExitRules(NamedTuple):
    """What a policy says about the exits of its positions.

    Parameters
    ----------
    least, largest : float
        Bounds of a stop's distance, fractions of the entry price.
    payoff_ratio : float or None
        A target's distance in multiples of the stop's; None for no target.
    trailing : bool
        Whether the stop follows the best price.
    """

    least: float
    largest: float
    payoff_ratio: float | None = None
    trailing: bool = False


class StopConfig(Config):
    """How far stop and target are from the entry.

    Parameters
    ----------
    stop_vol_multiple : float
        Distance of the stop in multiples of the volatility over the horizon.
    target_vol_multiple : float or None
        The same for the target; None for no target. Where the bounds below change the stop's
        distance they change the target's in proportion, so that the payoff ratio that sizing
        counts on stays what the two multiples say.
    min_frac, max_frac : float
        Bounds of the stop's distance, fractions of the entry price. `min_frac` must be wider than
        the slippage of an entry, or the stop would be on the wrong side of the market at once.
    trailing : bool
        Whether the stop follows the best price since the entry, at the same distance: at the close
        of each bar it is replaced by a tighter one.
    """

    stop_vol_multiple: float = Field(gt=0.0, le=100.0)
    target_vol_multiple: float | None = Field(default=None, gt=0.0, le=100.0)
    min_frac: float = Field(default=0.002, gt=0.0, lt=1.0)
    max_frac: float = Field(default=0.2, gt=0.0, lt=1.0)
    trailing: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_frac < self.min_frac:
            raise ValueError(
                f"max_frac must be at least min_frac ({self.min_frac:g}), was {self.max_frac:g}"
            )
        ratio = self.payoff_ratio
        if ratio is not None and ratio * self.max_frac >= 1.0:
            raise ValueError(
                f"max_frac x target_vol_multiple / stop_vol_multiple must be less than 1, was "
                f"{ratio * self.max_frac:g}: the target of a short would be at or below zero; "
                f"lower max_frac or target_vol_multiple"
            )
        return self

    @property
    def payoff_ratio(self) -> float | None:
        """What a hit target wins for each unit that a hit stop loses; None without a target."""
        if self.target_vol_multiple is None:
            return None
        return self.target_vol_multiple / self.stop_vol_multiple

    @property
    def rules(self) -> ExitRules:
        """What holds for the exits of every position."""
        return ExitRules(self.min_frac, self.max_frac, self.payoff_ratio, self.trailing)


class Levels(NamedTuple):
    """The prices at which a position is closed: `stop`, and `target` (NaN for none)."""

    stop: float
    target: float


class AmbiguousBars(NamedTuple):
    """What the unknown order of events inside bars is worth.

    Parameters
    ----------
    exits : int
        How many ended in a bar that held both stop and target.
    as_filled : float
        What these exits brought against their entries, USDT before fees.
    other_order : float
        What they would have brought in the other order of events.
    """

    exits: int = 0
    as_filled: float = 0.0
    other_order: float = 0.0

    def add(self, quantity: float, entry: float, filled: float, other: float) -> AmbiguousBars:
        """Return the count with one more exit.

        Parameters
        ----------
        quantity : float
            What was closed, base units, signed (long positive).
        entry, filled : float
            Average prices of entry and exit, quote units.
        other : float
            The price of the exit that was not taken.
        """
        return AmbiguousBars(
            self.exits + 1,
            round(self.as_filled + quantity * (filled - entry), MONEY_DECIMALS),
            round(self.other_order + quantity * (other - entry), MONEY_DECIMALS),
        )

    @property
    def difference(self) -> float:
        """What the other order of events would have added to the result, USDT before fees."""
        return round(self.other_order - self.as_filled, MONEY_DECIMALS)

    def __str__(self) -> str:
        if self.exits == 0:
            return "no exit in a bar that held both stop and target"
        return (
            f"exits in bars that held both stop and target: {self.exits:,}, worth "
            f"{self.as_filled:+,.2f} USDT before fees; in the other order of events "
            f"{self.other_order:+,.2f}, a difference of {self.difference:+,.2f}"
        )

    def to_json(self) -> dict[str, float | str]:
        """Return the count for programs, and in words."""
        return {
            "exits": self.exits,
            "as_filled": self.as_filled,
            "other_order": self.other_order,
            "difference": self.difference,
            "text": str(self),
        }


NO_AMBIGUOUS_BARS = AmbiguousBars()


def stop_fraction(config: StopConfig, volatility: float, horizon_bars: int) -> float:
    """Return the distance of the stop, a fraction of the entry price.

    Parameters
    ----------
    config : StopConfig
        Multiple and bounds.
    volatility : float
        Root mean square of one-bar log returns, a fraction. Unknown (NaN) or infinite gives the
        widest stop: a position is never left without one, and a size made from the stop's
        distance is smallest there.
    horizon_bars : int
        Bars that the prediction looks ahead.
    """
    if not math.isfinite(volatility):
        return config.max_frac
    wanted = config.stop_vol_multiple * volatility * math.sqrt(horizon_bars)
    return min(max(wanted, config.min_frac), config.max_frac)


def target_fraction_(config: StopConfig, volatility: float, horizon_bars: int) -> float | None:
    """Return the distance of the target, a fraction of the entry price; None for no target.

    Parameters are those of `stop_fraction`.
    """
    ratio = config.payoff_ratio
    return None if ratio is None else ratio * stop_fraction(config, volatility, horizon_bars)


def target_trigger(side: Side, entry_price: float, fraction: float, tick: Decimal) -> float:
    """Return the price of the order that takes a position's profit, rounded towards the entry.

    Where rounding would leave no profit, because the distance is less than a tick, it is the
    first tick beyond the entry.

    Parameters
    ----------
    side : {-1, 1}
        Direction of the target order: a long's target sells (-1) above the entry.
    entry_price : float
        Average price of the entry, quote units.
    fraction : float
        Distance, a fraction of the entry price.
    tick : Decimal
        Price increment, quote units.
    """
    entry = exact_decimal(entry_price)
    exact = entry * (1 - side * exact_decimal(fraction))
    if side == SELL:
        ticks = (exact / tick).to_integral_value(ROUND_FLOOR)
        beyond = (entry / tick).to_integral_value(ROUND_FLOOR) + 1
        return float(max(ticks, beyond) * tick)
    ticks = (exact / tick).to_integral_value(ROUND_CEILING)
    beyond = (entry / tick).to_integral_value(ROUND_CEILING) - 1
    return float(max(min(ticks, beyond), Decimal(1)) * tick)


def best_price(side: Side, best: float, high: float, low: float) -> float:
    """Return the best price since the entry, after a completed bar.

    Parameters
    ----------
    side : {-1, 1}
        Direction of the stop order: a long's stop sells (-1).
    best : float
        The best so far; at first the price of the entry.
    high, low : float
        Extremes of the bar, quote units.
    """
    return min(best, low) if side == BUY else max(best, high)


def trailing_trigger(side: Side, best: float, fraction: float, tick: Decimal) -> float:
    """Return the trigger of a trailing stop: `fraction` away from the best price.

    It only ever tightens, because the best price only ever improves and rounding keeps order. It
    may lie beyond the last close, where an exchange refuses it: `already_passed` tells, and the
    position is then closed at the market.

    Parameters
    ----------
    side : {-1, 1}
        Direction of the stop order: a long's stop sells (-1).
    best : float
        `best_price`, quote units.
    fraction : float
        The distance that was fixed at the entry.
    tick : Decimal
        Price increment, quote units.
    """
    return stop_trigger(side, best, fraction, tick)


def tightened(side: Side, current: float, proposed: float) -> float:
    """Return the tighter of two triggers, for those who change distance or best price by hand."""
    return min(current, proposed) if side == BUY else max(current, proposed)


def already_passed(side: Side, trigger: float, last_price: float) -> bool:
    """Return whether a stop would trigger the moment it arrives."""
    return stop_is_triggered(side, trigger, last_price, last_price)


def target_is_reached(side: Side, target: float, high: float, low: float) -> bool:
    """Return whether a price range touches the target.

    A touch is enough, because it triggers a market order: what that fills at is another question.
    `side` is that of the target order: a long's target sells (-1). A target of NaN is never
    reached.
    """
    return low <= target if side == BUY else high >= target


def ambiguous(side: Side, levels: Levels, bar: Ohlcv) -> bool:
    """Return whether a bar reaches both stop and target and its open does not say which was first.

    A bar that opens beyond either level fills that one at the open, before anything else.

    Parameters
    ----------
    side : {-1, 1}
        Direction of both orders: those of a long sell (-1).
    levels : Levels
        Stop and target.
    bar : Ohlcv
        The bar; a bar whose open filled the entry counts as any other.
    """
    if not (
        stop_is_triggered(side, levels.stop, bar.high, bar.low)
        and target_is_reached(side, levels.target, bar.high, bar.low)
    ):
        return False
    return not (
        stop_is_triggered(side, levels.stop, bar.open, bar.open)
        or target_is_reached(side, levels.target, bar.open, bar.open)
    )

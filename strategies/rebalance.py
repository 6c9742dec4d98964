"""Bring the weights of open positions back to their targets: when, to what, by which orders.

Pure functions. A rebalancing never opens, reverses or judges a position: that is the policy's. It
changes how large the positions are that the policy holds, to risk parity or Kelly, and only where
the weight has drifted out of a band. Each such position takes one order, no other takes any, which
is the least there can be: weights are fractions of equity, and no sale has to pay for a purchase.

How far an order goes inside the band weighs its cost against the drift that it leaves. Until the
next rebalancing, a time T away, a weight off by d costs the growth ``a s^2 T d^2 / 2`` (s: annual
volatility, a: risk aversion; Thorp 2006, section 7, for ``a = 1``), and trading costs c of what is
traded: the drift that is best left is ``c / (a s^2 T)``, at most the band. With proportional costs
it is right to stop short of the target (Davis and Norman 1990, "Portfolio selection with
transaction costs"). Deviation: drifts are weighed one by one, without their correlations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, field_validator

from catalog.config import Config
from catalog.errors import ConfigError
from catalog.timestamps import DAYS_PER_YEAR, NS_PER_DAY
from strategies.execution import InstrumentTerms
from strategies.kelly import WeightCaps, kelly_weights
from strategies.rebalance_orders import Line, Move, Plan, to_move
from strategies.risk_parity import FloatArray, equal_risk_weights
from strategies.schedule import MONDAY_MORNING, check_schedule, is_due, next_time

_WEEK_NS = 7 * NS_PER_DAY
# A weight is a quotient of floats: this far beyond the band is still in it.
_TOLERANCE = 1e-12


class RebalanceConfig(Config):
    """When and how positions are brought back to their weights.

    Parameters
    ----------
    schedule : str or None
        Cron expression in UTC (`strategies.schedule`); None never rebalances.
    method : {"risk_parity", "kelly"}
        What the targets are: equal contributions to risk, or the fastest growth of wealth.
    drift_frac : float
        How far a weight may be from its target, a fraction of equity.
    gross : float or None
        Exposure that risk parity distributes, in multiples of equity; None: what is held now.
    kelly_fraction : float
        Of full Kelly, in (0, 1].
    risk_aversion : float
        What variance costs; 1 for the growth of wealth itself, 2 for half Kelly.
    max_position : float
        Largest weight of one instrument, a multiple of equity.
    max_gross : float
        Largest sum of absolute weights, a multiple of equity.
    max_net : float
        Largest absolute sum of the targets, a multiple of equity.
    lookback_bars : int
        Bars that the caller estimates the covariance from.
    """

    schedule: str | None = MONDAY_MORNING
    method: Literal["risk_parity", "kelly"] = "risk_parity"
    drift_frac: float = Field(default=0.05, ge=0.0, le=1.0)
    gross: float | None = Field(default=None, ge=0.0, le=125.0)
    kelly_fraction: float = Field(default=0.5, gt=0.0, le=1.0)
    risk_aversion: float = Field(default=2.0, gt=0.0, le=100.0)
    max_position: float = Field(default=0.20, gt=0.0, le=125.0)
    max_gross: float = Field(default=1.0, gt=0.0, le=125.0)
    max_net: float = Field(default=1.0, gt=0.0, le=125.0)
    lookback_bars: int = Field(default=2_880, ge=2, le=1_000_000)

    @field_validator("schedule")
    @classmethod
    def _is_a_schedule(cls, value: str | None) -> str | None:
        try:
            return None if value is None else check_schedule(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    def within(self, max_position: float, max_gross: float, max_net: float) -> Self:
        """Return the settings with limits that are at most these."""
        changed = {
            "max_position": min(self.max_position, max_position),
            "max_gross": min(self.max_gross, max_gross),
            "max_net": min(self.max_net, max_net),
        }
        return self.model_copy(update=changed)


class Holding(NamedTuple):
    """One open position at a close.

    Parameters
    ----------
    terms : InstrumentTerms
        Name, step and minima.
    quantity : float
        Base units, signed (long positive), not 0.
    price : float
        Last close, quote units.
    annual_volatility : float
        Root mean square of log returns, a fraction per square root of a year of 365 days; NaN if
        unknown: then no more is traded than the band asks for.
    cost_frac : float
        What a trade costs in fee and slippage, a fraction of its value, one way.
    """

    terms: InstrumentTerms
    quantity: float
    price: float
    annual_volatility: float
    cost_frac: float


class Book(NamedTuple):
    """All open positions at one close (UTC nanoseconds), and the equity in USDT."""

    ts_ns: int
    equity: float
    holdings: tuple[Holding, ...]


def due(config: RebalanceConfig, ts_ns: int, last_ns: int) -> bool:
    """Return whether to rebalance at `ts_ns`, having last done so at `last_ns` (or at the start).

    Missed times count once; see `strategies.schedule.is_due`.
    """
    return config.schedule is not None and is_due(config.schedule, ts_ns, last_ns)


def target_weights(
    config: RebalanceConfig, book: Book, covariance: FloatArray, mu: FloatArray | None = None
) -> dict[str, float]:
    """Return the weight that each position should have, by instrument, a multiple of equity.

    A weight has the side of its position, or is 0: Kelly closes what is no longer expected to pay.

    Parameters
    ----------
    config : RebalanceConfig
        Method and limits.
    book : Book
        The positions; its equity and prices must be usable (`fault` says whether).
    covariance : ndarray of shape (n_holdings, n_holdings)
        Of returns, in the order of the holdings (`strategies.risk_parity.risk_covariance`); for
        Kelly, over the same span as `mu`.
    mu : ndarray of shape (n_holdings,) or None
        Expected log returns after costs, signed; Kelly only.

    Raises
    ------
    ConfigError
        If Kelly is asked for without expected returns.
    DataError, ValueError
        If the covariance is not positive definite.
    """
    quantities = np.array([holding.quantity for holding in book.holdings], dtype=np.float64)
    sides = np.sign(quantities)
    if not book.holdings:
        return {}
    if config.method == "kelly":
        weights = _kelly(config, sides, covariance, mu)
    else:
        held = [abs(holding.quantity * holding.price) / book.equity for holding in book.holdings]
        gross = min(sum(held) if config.gross is None else config.gross, config.max_gross)
        weights = equal_risk_weights(
            covariance, [int(side) for side in sides], gross, config.max_position
        )
        net = abs(float(weights.sum()))
        if net > config.max_net:
            weights *= config.max_net / net
    names = (holding.terms.instrument_id for holding in book.holdings)
    return dict(zip(names, weights.tolist(), strict=True))


def _kelly(
    config: RebalanceConfig, sides: FloatArray, covariance: FloatArray, mu: FloatArray | None
) -> FloatArray:
    if mu is None:
        raise ConfigError(
            "mu must be given for method 'kelly', was None: use method 'risk_parity' where there "
            "is no expected return"
        )
    caps = WeightCaps(config.max_position, config.max_gross, config.max_net)
    expected = np.where(np.sign(mu) == sides, mu, 0.0)
    return kelly_weights(expected, covariance, config.kelly_fraction, caps)


def fault(book: Book) -> str:
    """Return why nothing can be planned for a book, or an empty text."""
    if not 0.0 < book.equity < math.inf:
        return f"equity must be above 0 and finite, was {book.equity}"
    for holding in book.holdings:
        name = holding.terms.instrument_id
        if not 0.0 < holding.price < math.inf:
            return f"price of {name} must be above 0 and finite, was {holding.price}"
        if not math.isfinite(holding.quantity):
            return f"quantity of {name} must be finite, was {holding.quantity}"
        if not 0.0 <= holding.cost_frac < math.inf:
            return f"cost of {name} must be at least 0 and finite, was {holding.cost_frac}"
    return ""


def plan(config: RebalanceConfig, book: Book, targets: Mapping[str, float]) -> Plan:
    """Return the fewest orders that bring every weight into the band around its target.

    An order larger than the exchange takes is cut to what it takes, and counted on with no more.
    Positions rounded by the exchange's step are rounded towards zero. Where exposure would still
    exceed `max_gross`, orders go deeper inside the band first, then the positions furthest above
    their targets are reduced as well, and at last increases are given up.

    Parameters
    ----------
    config : RebalanceConfig
        Band, risk aversion, largest exposure, and the schedule that says how long drift will last.
    book : Book
        The positions now. With an unusable number in it, nothing is planned and the plan says why.
    targets : mapping of instrument to float
        Weights wanted (`target_weights`); a position without one is left alone, and the plan
        says so.
    """
    following = None if config.schedule is None else next_time(config.schedule, book.ts_ns)
    refused = fault(book) or _target_fault(targets)
    if refused:
        return Plan(book.ts_ns, following, book.equity, (), refused)
    span_ns = _WEEK_NS if following is None else following - book.ts_ns
    lines = [
        _line(config, book, holding, targets.get(holding.terms.instrument_id), span_ns)
        for holding in book.holdings
    ]
    _keep_gross(config, lines)
    moves = [to_move(line, book.equity, config.drift_frac + _TOLERANCE) for line in lines]
    moves.sort(key=_sending_order)
    return Plan(book.ts_ns, following, book.equity, tuple(moves), "")


def _sending_order(move: Move) -> tuple[int, float, str]:
    """Reductions first, for they make room for the others; the largest first of each kind."""
    kind = 2 if move.trade is None else int(not move.trade.reduce_only)
    return kind, -move.value, move.instrument


def _target_fault(targets: Mapping[str, float]) -> str:
    for name, target in targets.items():
        if not math.isfinite(target):
            return f"target of {name} must be finite, was {target}"
    return ""


def _line(
    config: RebalanceConfig, book: Book, holding: Holding, target: float | None, span_ns: int
) -> Line:
    """Return where one weight is and where it should go, before rounding and exposure limits."""
    before = holding.quantity * holding.price / book.equity
    line = Line(holding.terms, holding.quantity, holding.price, holding.cost_frac, before)
    if target is None:
        line.note = "no_target"
        return line
    line.target = target
    drift = target - before
    if abs(drift) <= config.drift_frac + _TOLERANCE:
        line.least = _smallest(before, target)
    elif target == 0.0:
        line.reason, line.after, line.least = "close", 0.0, 0.0
    else:
        line.reason = "drift"
        line.after = target - math.copysign(_drift_left(config, holding, span_ns), drift)
        line.least = _smallest(target - math.copysign(config.drift_frac, drift), target)
    if holding.terms.max_quantity > 0:
        reach = float(holding.terms.max_quantity) * holding.price / book.equity
        if abs(line.after - before) > reach:
            line.after = before + math.copysign(reach, line.after - before)
            line.note = "max_quantity"
        line.least = min(max(line.least, before - reach), before + reach)
    return line


def _drift_left(config: RebalanceConfig, holding: Holding, span_ns: int) -> float:
    """Return the drift whose removal would cost as much as it saves until the next time."""
    years = span_ns / (DAYS_PER_YEAR * NS_PER_DAY)
    saved = config.risk_aversion * holding.annual_volatility**2 * years
    if not 0.0 < saved < math.inf:
        return config.drift_frac
    return min(config.drift_frac, holding.cost_frac / saved)


def _smallest(one: float, other: float) -> float:
    """Return the number nearest to 0 between two."""
    if one * other <= 0.0:
        return 0.0
    return one if abs(one) < abs(other) else other


def _keep_gross(config: RebalanceConfig, lines: list[Line]) -> None:
    """Lower `after` until exposure keeps its limit, with as few further orders as can be."""
    excess = sum(abs(line.after) for line in lines) - config.max_gross
    ordered = [line for line in lines if line.reason]
    excess -= _lower(ordered, [abs(line.after) - abs(line.least) for line in ordered], excess)
    others = [line for line in lines if not line.reason]
    for line in sorted(others, key=lambda line: abs(line.least) - abs(line.after)):
        if excess <= _TOLERANCE or abs(line.least) >= abs(line.after):
            break
        line.reason = "max_gross"
        excess -= _lower([line], [abs(line.after) - abs(line.least)], excess)
    growing = [line for line in ordered if abs(line.after) > abs(line.before)]
    _lower(growing, [abs(line.after) - abs(line.before) for line in growing], excess)


def _lower(lines: list[Line], room: list[float], excess: float) -> float:
    """Take `excess` from the weights in proportion to their room; return how much was taken."""
    total = sum(room)
    if excess <= _TOLERANCE or total <= 0.0:
        return 0.0
    share = min(1.0, excess / total)
    for line, size in zip(lines, room, strict=True):
        line.after = math.copysign(abs(line.after) - share * size, line.after)
    return share * total

"""How much the strategy holds on a side: what sizing is told, from policy, account and market."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from strategies.edge import with_impact
from strategies.execution import BUY, SELL
from strategies.intent import MarketView, TradeCosts
from strategies.order_desk import OrderDesk
from strategies.policy_config import FusionPolicy
from strategies.portfolio_desk import PortfolioDesk
from strategies.recorder import RunRecorder
from strategies.sizing import (
    Size,
    confidence,
    largest_value,
    order_quantity,
    size,
    target_fraction,
)
from strategies.stops import stop_fraction

type _Record = Any
"""A `FusionPrediction`, whose decorator hides `ts_init` from the type checker."""


class Wanted(NamedTuple):
    """A position to be opened: signed base units, what that is of equity, and its stop."""

    quantity: float
    fraction: float
    bound_by: str
    stop_frac: float


NOTHING = Wanted(0.0, 0.0, "", math.nan)


class PositionSizer:
    """Sizes the positions of one strategy.

    Parameters
    ----------
    policy : FusionPolicy
        Sizing, stops and limits.
    costs : TradeCosts
        What the smallest trade is expected to cost.
    desk : OrderDesk
        What is held and under way.
    recorder : RunRecorder
        Holds the ledger.
    portfolio : PortfolioDesk or None
        Who weighs positions together, where the policy wants that.
    """

    def __init__(
        self,
        policy: FusionPolicy,
        costs: TradeCosts,
        desk: OrderDesk,
        recorder: RunRecorder,
        portfolio: PortfolioDesk | None,
    ) -> None:
        self._costs = costs
        self._desk = desk
        self._recorder = recorder
        self._portfolio = portfolio
        self.moves_prices = costs.impact_bps > 0.0
        self.adopt(policy)

    def adopt(self, policy: FusionPolicy) -> None:
        """Let a policy count from now on."""
        self._policy, self.sizing = policy, policy.position_sizing

    def costs(self, market: MarketView) -> TradeCosts:
        """Return what a trade is expected to cost, at the largest size that may be held."""
        if not self.moves_prices:
            return self._costs
        policy, equity = self._policy, self._recorder.ledger.equity()
        largest = largest_value(equity, policy.position_frac, self.sizing, policy.risk)
        return with_impact(self._costs, largest, market)

    def wanted(self, prediction: _Record, side: int, market: MarketView) -> Wanted:
        """Return how much to hold on a side, by the policy's sizing or by its confidence."""
        policy = self._policy
        terms = self._desk.states[prediction.instrument_id].terms
        fixed = policy.stop_loss_frac
        stop_frac = math.nan if fixed is None else fixed
        if policy.stops is not None:
            stop_frac = stop_fraction(policy.stops, prediction.volatility, prediction.horizon_bars)
        if self.sizing is not None:
            direction = BUY if side > 0 else SELL
            weight, costs = math.nan, self.costs(market)
            if self._portfolio is not None:
                weight = self._portfolio.weight(prediction, direction, market, costs)
            account = self._desk.account(prediction.instrument_id)
            found = size(
                self.sizing,
                prediction,
                direction,
                market,
                account,
                terms,
                stop_frac,
                costs,
                weight=weight,
            )
        else:
            fraction = target_fraction(policy.position_frac, confidence(prediction.prob_up))
            equity = self._recorder.ledger.equity()
            quantity = order_quantity(equity, fraction, market.price, terms)
            found = Size(quantity, fraction if quantity else 0.0, "", "position_frac")
        return Wanted(side * found.quantity, found.fraction, found.bound_by, stop_frac)

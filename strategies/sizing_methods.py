"""What fraction of equity each sizing method wants, before caps: pure functions.

Kelly methods size by the edge after costs, shrunk by what is not known about it. The others take
the edge as given and only ask whether there is one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from strategies.edge import expected_move, expected_return, horizon_sigma, trade_cost_frac
from strategies.execution import Side
from strategies.intent import MarketView, TradeCosts
from strategies.kelly import binary_edge, binary_fraction, continuous_fraction, uncertainty_factor
from strategies.sizing_config import SizingConfig, SizingSignal

DAYS_PER_YEAR = 365
"""Crypto trades every day."""


class Case(NamedTuple):
    """One instrument and the side wanted, with what follows from them."""

    config: SizingConfig
    signal: SizingSignal
    side: Side
    market: MarketView
    stop_frac: float
    cost: float
    sigma: float

    @property
    def prob(self) -> float:
        """Probability that the price goes to the side wanted."""
        return self.signal.prob_up if self.side > 0 else 1.0 - self.signal.prob_up

    @property
    def cautious_prob(self) -> float:
        """The same, or the end of the calibration interval that is worse for the side.

        It is the end nearest to one half wherever that interval leaves one half out; else it is
        beyond one half, and nothing is staked on even odds.
        """
        low, high = self.signal.prob_low, self.signal.prob_high
        worse = low if self.side > 0 else 1.0 - high
        # In this order the minimum with NaN, an unknown interval, is the probability.
        return min(self.prob, worse) if self.config.shrink_by_interval else self.prob

    @property
    def prob_error(self) -> float:
        """Standard error of the probability; 0 where it is unknown or not asked for."""
        error = self.signal.epistemic
        return error if self.config.shrink_by_epistemic and error > 0.0 else 0.0


def make_case(
    config: SizingConfig,
    signal: SizingSignal,
    side: Side,
    market: MarketView,
    stop_frac: float,
    costs: TradeCosts,
) -> Case:
    """Return the case with the cost and the scale of the return until the horizon worked out."""
    horizon = signal.horizon_bars
    cost = trade_cost_frac(side, market, costs, horizon)
    sigma = horizon_sigma(signal.sigma, market.volatility, horizon)
    return Case(config, signal, side, market, stop_frac, cost, sigma)


def shrunk_edge(
    config: SizingConfig,
    signal: SizingSignal,
    side: Side,
    market: MarketView,
    costs: TradeCosts,
) -> float:
    """Return the expected return over the horizon after costs, shrunk and signed by `side`.

    What `strategies.kelly.kelly_weights` takes as an instrument's `mu`. 0 where nothing is left
    after costs or a number is unknown.
    """
    if not 0.0 <= signal.prob_up <= 1.0:
        return 0.0
    edge = _continuous_edge(make_case(config, signal, side, market, math.nan, costs))
    return side * edge if edge > 0.0 else 0.0


def wanted_fraction(case: Case, weight: float) -> tuple[float, str]:
    """Return the fraction of equity that the method wants, and its name or why it is 0."""
    method = case.config.method
    if method == "kelly_multi":
        if not math.isfinite(weight):
            return 0.0, "weight_unknown"
        fraction, reason = case.side * weight, ""
    elif method == "kelly":
        fraction, reason = _kelly_binary(case)
    elif method == "kelly_continuous":
        fraction, reason = _kelly_continuous(case)
    else:
        fraction, reason = _without_edge(case)
    if reason:
        return 0.0, reason
    return (fraction, method) if fraction > 0.0 else (0.0, "no_edge")


def _kelly_binary(case: Case) -> tuple[float, str]:
    """Size a bet that wins or loses one distance, less costs.

    The expected move stands for both outcomes. Two points at the mean of the absolute return have
    the right mean, but 2 / pi of its variance: full size is up to pi / 2 times that of
    ``kelly_continuous`` for the same probability, which half Kelly more than takes back.
    """
    config = case.config
    if config.loss_at == "stop":
        distance = case.stop_frac
        if math.isnan(distance):
            return 0.0, "stop_unknown"
    else:
        distance = expected_move(case.sigma)
        if math.isnan(distance):
            return 0.0, "volatility_unknown"
    gain = config.payoff_ratio * distance - case.cost
    loss = distance + case.cost
    prob = case.cautious_prob
    edge = binary_edge(prob, gain, loss)
    factor = uncertainty_factor(edge, case.prob_error * (gain + loss))
    return config.fraction * factor * binary_fraction(prob, gain, loss), ""


def _kelly_continuous(case: Case) -> tuple[float, str]:
    if math.isnan(case.sigma):
        return 0.0, "volatility_unknown"
    return case.config.fraction * continuous_fraction(_continuous_edge(case), case.sigma), ""


def _continuous_edge(case: Case) -> float:
    """Return the side's expected return after costs, shrunk; NaN where it is unknown.

    The model's own expectation where it has one, else that of its probability. The calibration
    interval and the standard error are of the probability, and reach the return by
    `expected_return`. Log returns stand for simple ones: their half variance (5e-5 for a move of
    1 %) is left out, for it would hold a long without any edge.
    """
    prob, move = case.prob, expected_move(case.sigma)
    model = case.side * case.signal.mu
    raw = model if math.isfinite(model) else expected_return(prob, case.sigma)
    edge = raw - 2.0 * (prob - case.cautious_prob) * move - case.cost
    return edge * uncertainty_factor(edge, 2.0 * case.prob_error * move)


def _without_edge(case: Case) -> tuple[float, str]:
    """Size by the methods that take the edge as given."""
    ramp, reason = _ramp(case)
    if reason:
        return 0.0, reason
    config = case.config
    if config.method == "fixed":
        return ramp * config.fixed_frac, ""
    if config.method == "fixed_fractional":
        if math.isnan(case.stop_frac):
            return 0.0, "stop_unknown"
        return ramp * config.risk_frac / case.stop_frac, ""
    volatility = case.market.volatility
    if not 0.0 < volatility < math.inf:
        return 0.0, "volatility_unknown"
    assert config.bars_per_day is not None
    annual = volatility * math.sqrt(DAYS_PER_YEAR * config.bars_per_day)
    return ramp * config.annual_volatility / annual, ""


def _ramp(case: Case) -> tuple[float, str]:
    """Return the share of full size, in [0, 1]: how much of `edge_ramp` the edge reaches."""
    edge = 2.0 * case.prob - 1.0
    if case.config.edge_after_costs and case.cost > 0.0:
        move = expected_move(case.sigma)
        if math.isnan(move):
            return 0.0, "volatility_unknown"
        edge -= case.cost / move
    return min(max(edge / case.config.edge_ramp, 0.0), 1.0), ""

"""Kelly sizes of instruments that are held together: what each adds counts, not what it is alone.

The arithmetic is `strategies.kelly.kelly_weights`; here the predictions and the recent returns
become its expected returns and its covariance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from catalog.errors import DataError
from strategies.edge import horizon_sigma
from strategies.execution import Side
from strategies.intent import MarketView, TradeCosts
from strategies.kelly import WeightCaps, kelly_weights, rescaled_covariance
from strategies.risk_parity import risk_covariance
from strategies.sizing_config import LEAST_BARS, SizingConfig, SizingSignal
from strategies.sizing_methods import shrunk_edge

type FloatArray = NDArray[np.float64]


class Candidate(NamedTuple):
    """One instrument that is held, or is to be.

    Parameters
    ----------
    name : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    side : {-1, 1}
        Of the position.
    signal : SizingSignal
        Its latest prediction.
    market : MarketView
        The instrument at the close of the bar.
    costs : TradeCosts
        What is still to be paid: that of the round trip for a new position, none for one that is
        held, which has to be closed some time in any case.
    """

    name: str
    side: Side
    signal: SizingSignal
    market: MarketView
    costs: TradeCosts


def expected_returns(config: SizingConfig, candidates: Sequence[Candidate]) -> FloatArray:
    """Return the expected returns over the horizon, (n_candidates,), signed by their sides.

    After costs and shrinkage; 0 where nothing is left or a number is unknown.
    """
    found = [shrunk_edge(config, one.signal, one.side, one.market, one.costs) for one in candidates]
    # What is unknown is not wanted.
    return np.array([mu if math.isfinite(mu) else 0.0 for mu in found])


def horizon_covariance(candidates: Sequence[Candidate], returns: FloatArray) -> FloatArray | None:
    """Return the covariance over the horizon, (n_candidates, n_candidates); None if unknown.

    Correlations are those of the returns, shrunk; scales are those of the predictions.

    Parameters
    ----------
    candidates : sequence of Candidate
        In the order of the columns.
    returns : (n_bars, n_candidates)
        One-bar log returns that all of them have, known at the last close.
    """
    if len(returns) < LEAST_BARS:
        return None
    sigmas = np.array(
        [
            horizon_sigma(one.signal.sigma, one.market.volatility, one.signal.horizon_bars)
            for one in candidates
        ]
    )
    if not np.isfinite(sigmas).all():
        return None
    try:
        covariance = risk_covariance(returns, [one.name for one in candidates])
    except DataError:
        # A price that stood still: its risk is unknown, as `LEAST_BARS` says of too few bars.
        return None
    return rescaled_covariance(covariance, sigmas)


def joint_weight(
    config: SizingConfig, candidates: Sequence[Candidate], returns: FloatArray
) -> float:
    """Return the Kelly weight of the LAST candidate beside the others, signed; NaN if unknown.

    Parameters
    ----------
    config : SizingConfig
        Fraction of Kelly, shrinkage and caps.
    candidates : sequence of Candidate
        What is held, then what is to be sized.
    returns : (n_bars, n_candidates)
        One-bar log returns that all of them have.
    """
    covariance = horizon_covariance(candidates, returns)
    if covariance is None:
        return math.nan
    caps = WeightCaps(config.max_position, config.max_gross, config.max_net)
    mu = expected_returns(config, candidates)
    try:
        return float(kelly_weights(mu, covariance, config.fraction, caps)[-1])
    except ValueError:
        # Instruments too alike to be told apart: unknown, and what is unknown is not traded.
        return math.nan

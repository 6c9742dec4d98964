"""What a rebalancing would do to a book at some close: a dry run that sends nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from catalog.arrays import BarArrays, Float64Array
from catalog.errors import ConfigError, DataError
from catalog.store import Catalog
from catalog.strict_yaml import explain
from catalog.timestamps import DAYS_PER_YEAR, NS_PER_DAY, format_time, interval_ns
from live.profile import Profile
from strategies.edge import round_trip_cost_frac
from strategies.execution import InstrumentTerms
from strategies.rebalance import Book, Holding, RebalanceConfig, fault, plan, target_weights
from strategies.rebalance_orders import Plan
from strategies.risk_parity import risk_covariance
from strategies.risk_policy import RiskPolicy


def plan_to_json(found: Plan) -> dict[str, Any]:
    """Return a plan for programs."""
    return {
        "at": format_time(found.ts_ns),
        "equity": found.equity,
        "refused": found.refused,
        "cost": found.cost,
        "turnover": found.turnover,
        "trades": [trade._asdict() for trade in found.trades],
    }


def settings_of(profile: Profile, drift_frac: float, lookback_bars: int) -> RebalanceConfig:
    """Return how to rebalance: schedule and largest share by the risk policy, where there is one.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """
    risk = profile.strategy.risk or RiskPolicy()
    try:
        return RebalanceConfig(
            schedule=risk.rebalance,
            drift_frac=drift_frac,
            max_position=risk.max_symbol_share,
            lookback_bars=lookback_bars,
        )
    except ValidationError as error:
        faults = "; ".join(explain(one, RebalanceConfig, "rebalancing") for one in error.errors())
        raise ConfigError(f"the rebalancing's options are wrong: {faults}") from None


def read_holdings(path: Path) -> dict[str, float]:
    """Return signed quantities (base units) by instrument from a JSON object.

    Raises
    ------
    ConfigError
        If it cannot be read, or is anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        held = {str(name): float(quantity) for name, quantity in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"holdings must be a JSON object of quantities by instrument, {path} was not: {error}"
        ) from error
    wrong = sorted(name for name, one in held.items() if not math.isfinite(one) or one == 0.0)
    if wrong or not held:
        raise ConfigError(
            f"holdings must be finite quantities other than 0, were not for "
            f"{', '.join(wrong) or 'any instrument'}: leave out what is not held"
        )
    return held


def plan_rebalance(
    profile: Profile,
    catalog: Path,
    holdings: Mapping[str, float],
    equity: float,
    at: int,
    config: RebalanceConfig,
) -> Plan:
    """Plan the rebalancing of a book at a close.

    Parameters
    ----------
    profile : Profile
        Bars and costs.
    catalog : Path
        Data, of which only what was known at `at` is read.
    holdings : mapping of str to float
        Signed quantities, base units.
    equity : float
        USDT.
    at : int
        A time, UTC nanoseconds; prices are those of the last closes not after it.
    config : RebalanceConfig
        Method, band and limits.

    Raises
    ------
    ConfigError
        If the book cannot be planned with, saying why.
    DataError
        If the bars of the window are not all there.
    """
    if config.method != "risk_parity":
        raise ConfigError(
            f"method must be risk_parity for a dry run, was {config.method}: Kelly needs what the "
            "predictions expect"
        )
    store, length = Catalog.open(catalog), interval_ns(profile.data.interval)
    start = at - (config.lookback_bars + 1) * length
    bars = {name: store.bars(name, profile.data.interval, start=start, end=at) for name in holdings}
    returns = _aligned_returns(bars, config.lookback_bars)
    per_year = DAYS_PER_YEAR * NS_PER_DAY / length
    execution = profile.execution
    cost = 0.5 * round_trip_cost_frac(execution.taker_fee_bps, execution.base_slippage_bps)
    lines = tuple(
        Holding(
            terms=InstrumentTerms.of(store.instrument(name)),
            quantity=quantity,
            price=float(bars[name].close[-1]),
            annual_volatility=float(np.sqrt(np.mean(returns[:, place] ** 2) * per_year)),
            cost_frac=cost,
        )
        for place, (name, quantity) in enumerate(holdings.items())
    )
    ts = max(int(one.ts_init[-1]) for one in bars.values())
    book = Book(ts, equity, lines)
    wrong = fault(book)
    if wrong:
        raise ConfigError(f"the book must be one that can be planned with, was not: {wrong}")
    covariance = per_year * risk_covariance(returns, tuple(holdings))
    return plan(config, book, target_weights(config, book, covariance))


def _aligned_returns(bars: Mapping[str, BarArrays], count: int) -> Float64Array:
    """Return log returns of the bars that all have, (n_bars, n_instruments)."""
    times = [one.ts_init for one in bars.values()]
    shared = times[0]
    for other in times[1:]:
        shared = np.intersect1d(shared, other)
    if len(shared) < count:
        raise DataError(
            f"bars of {', '.join(bars)} must be there for {count} closes in a row, were for "
            f"{len(shared)}: choose a later time or fewer bars"
        )
    closes = [one.close[np.searchsorted(one.ts_init, shared)] for one in bars.values()]
    found: Float64Array = np.diff(np.log(np.column_stack(closes)), axis=0)
    return found

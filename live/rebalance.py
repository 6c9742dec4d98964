"""What a rebalancing would do to a book at some close: a dry run that sends nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from catalog.arrays import BarArrays, Float64Array, Ohlcv
from catalog.errors import ConfigError, DataError
from catalog.store import Catalog
from catalog.strict_yaml import explain
from catalog.timestamps import DAYS_PER_YEAR, NS_PER_DAY, format_time, interval_ns
from live.profile import Profile
from live.runs import PREDICTIONS_FILE
from research.predictions import PrecomputedPredictions, read_predictions
from research.settings import predictor_spec
from strategies.edge import round_trip_cost_frac
from strategies.execution import BUY, SELL, InstrumentTerms
from strategies.intent import NO_COSTS, MarketView
from strategies.joint_kelly import Candidate, expected_returns, horizon_covariance
from strategies.rebalance import Book, Holding, RebalanceConfig, fault, plan, target_weights
from strategies.rebalance_orders import Plan
from strategies.risk_parity import risk_covariance
from strategies.schedule import MONDAY_MORNING
from strategies.sizing_config import LEAST_BARS, SizingConfig


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


def settings_of(
    profile: Profile, drift_frac: float | None, lookback_bars: int | None
) -> RebalanceConfig:
    """Return how the profile rebalances, or would by default, with what is asked for instead.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """
    strategy = profile.strategy
    settings = strategy.rebalancing
    if settings is None:
        # The dry run shows what a schedule would do before there is one.
        risk = strategy.risk and strategy.risk.model_copy(update={"rebalance": MONDAY_MORNING})
        asked = {"risk": risk, "rebalance": strategy.rebalance or RebalanceConfig()}
        settings = strategy.model_copy(update=asked).rebalancing
    assert settings is not None
    changed = {"drift_frac": drift_frac, "lookback_bars": lookback_bars}
    given = {name: value for name, value in changed.items() if value is not None}
    try:
        return RebalanceConfig.model_validate({**settings.model_dump(), **given})
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


@dataclass(frozen=True, slots=True)
class BookAt:
    """A book at a close.

    Parameters
    ----------
    holdings : mapping of str to float
        Signed quantities, base units, by instrument.
    equity : float
        USDT.
    at : int
        A time, UTC nanoseconds; prices are those of the last closes not after it.
    """

    holdings: Mapping[str, float]
    equity: float
    at: int


def plan_rebalance(
    profile: Profile,
    catalog: Path,
    held: BookAt,
    config: RebalanceConfig,
    predictions: Path | None = None,
) -> Plan:
    """Plan the rebalancing of a book at a close.

    Parameters
    ----------
    profile : Profile
        Bars and costs.
    catalog : Path
        Data, of which only what was known at the time is read.
    held : BookAt
        What is held.
    config : RebalanceConfig
        Method, band and limits.
    predictions : Path, optional
        Run whose predictions Kelly goes by.

    Raises
    ------
    ConfigError
        If the book cannot be planned with, saying why, or Kelly has no predictions.
    DataError
        If the bars of the window are not all there.
    """
    if config.method == "kelly" and predictions is None:
        raise ConfigError(
            "method must be risk_parity where no predictions are given, was kelly: name a run with "
            "--predictions"
        )
    names = tuple(held.holdings)
    store, length = Catalog.open(catalog), interval_ns(profile.data.interval)
    start = held.at - (config.lookback_bars + 1) * length
    interval = profile.data.interval
    bars = {name: store.bars(name, interval, start=start, end=held.at) for name in names}
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
        for place, (name, quantity) in enumerate(held.holdings.items())
    )
    ts = max(int(one.ts_init[-1]) for one in bars.values())
    book = Book(ts, held.equity, lines)
    wrong = fault(book)
    if wrong:
        raise ConfigError(f"the book must be one that can be planned with, was not: {wrong}")
    if config.method == "risk_parity":
        covariance = per_year * risk_covariance(returns, names)
        return plan(config, book, target_weights(config, book, covariance))
    assert predictions is not None
    candidates = _candidates(profile, predictions, book)
    scaled = horizon_covariance(candidates, returns)
    if scaled is None:
        raise DataError(
            f"the risk of {', '.join(names)} must be known for Kelly, was not: predictions must "
            f"know a volatility, and returns vary over at least {LEAST_BARS} bars"
        )
    mu = expected_returns(profile.strategy.position_sizing or SizingConfig(), candidates)
    return plan(config, book, target_weights(config, book, scaled, mu))


def _candidates(profile: Profile, run: Path, book: Book) -> list[Candidate]:
    """Return what a run predicts of each position at the time of the book."""
    length = interval_ns(profile.data.interval)
    spec = predictor_spec(profile.walk_forward_config(), profile.data.instruments, length)
    frame = read_predictions(run / PREDICTIONS_FILE, spec, None)
    stamp = frame.attrs
    frame = frame[frame["ts_init"] == book.ts_ns]
    frame.attrs = stamp
    names = [one.terms.instrument_id for one in book.holdings]
    asked = dict.fromkeys(names, Ohlcv(math.nan, math.nan, math.nan, math.nan, math.nan))
    found = PrecomputedPredictions.from_frame(frame, spec).update(book.ts_ns, asked)
    known = {one.instrument_id: one for one in found}
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(
            f"predictions of {run} must cover {', '.join(missing)} at {format_time(book.ts_ns)}, "
            "did not: choose a time within the run"
        )
    return [
        Candidate(
            one.terms.instrument_id,
            BUY if one.quantity > 0.0 else SELL,
            known[one.terms.instrument_id],
            MarketView(
                one.price, known[one.terms.instrument_id].volatility, math.nan, 0.0, math.nan
            ),
            NO_COSTS,
        )
        for one in book.holdings
    ]


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

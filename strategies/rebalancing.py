"""The rebalancing at a strategy's side: keeps the returns, and says when and what to trade.

A rebalancing that is due waits for a close at which every instrument has been decided on, so that
it never contradicts a decision of the same bar; positions whose orders are under way are left
alone. What it asks for travels as any other order does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from catalog.errors import DataError
from catalog.timestamps import DAYS_PER_YEAR, NS_PER_DAY
from strategies.execution import InstrumentTerms
from strategies.joint_kelly import Candidate, expected_returns, horizon_covariance
from strategies.rebalance import Book, Holding, RebalanceConfig, due, fault, plan, target_weights
from strategies.rebalance_orders import Plan
from strategies.returns_window import ReturnsWindow
from strategies.risk_parity import risk_covariance
from strategies.sizing_config import LEAST_BARS, SizingConfig
from strategies.snapshots import WindowSnapshot


class Position(NamedTuple):
    """One position at a close.

    Parameters
    ----------
    terms : InstrumentTerms
        Name, step and minima.
    quantity : float
        Base units, signed.
    price : float
        Last close, quote units.
    candidate : Candidate or None
        Its latest prediction, for Kelly; None if there is none.
    """

    terms: InstrumentTerms
    quantity: float
    price: float
    candidate: Candidate | None


class Rebalancer:
    """When to rebalance, and by which trades.

    Parameters
    ----------
    config : RebalanceConfig
        Schedule, method, band and limits.
    sizing : SizingConfig or None
        How Kelly shrinks expected returns; None: its defaults.
    names : sequence of str
        Instruments.
    interval_ns : int
        Length of a bar, nanoseconds.
    cost_frac : float
        What a trade costs in fee and slippage, a fraction of its value, one way.
    """

    def __init__(
        self,
        config: RebalanceConfig,
        sizing: SizingConfig | None,
        names: Sequence[str],
        interval_ns: int,
        cost_frac: float,
    ) -> None:
        self.config = config
        self._cost_frac = cost_frac
        self._sizing = sizing or SizingConfig()
        self._window = ReturnsWindow(names, config.lookback_bars)
        self._bars_per_year = DAYS_PER_YEAR * NS_PER_DAY / interval_ns
        self._last: int | None = None

    def follow(self, before: Rebalancer) -> None:
        """Go on with the returns that another has seen, and with when it last was due."""
        self._window = before._window.resized(len(self._window))
        self._last = before._last

    def snapshot(self) -> tuple[WindowSnapshot, int | None]:
        """Return the returns, and when a rebalancing last was due."""
        return self._window.snapshot(), self._last

    def restore(self, window: WindowSnapshot, last: int | None) -> None:
        """Go on with what an earlier process has seen."""
        self._window.restore(window)
        self._last = last

    def clear(self) -> None:
        """Forget the returns."""
        self._window.clear()

    def show(self, closes: Mapping[str, float]) -> None:
        """Take the closes of a bar of before the start: the schedule does not count from it."""
        self._window.update(closes)

    def update(self, ts: int, closes: Mapping[str, float]) -> None:
        """Take the closes of one bar (UTC nanoseconds of its close), each time once, in order."""
        self._window.update(closes)
        if self._last is None:
            # The schedule counts from the first bar on.
            self._last = ts

    def is_due(self, ts: int) -> bool:
        """Return whether a rebalancing is due at a close."""
        return self._last is not None and due(self.config, ts, self._last)

    def plan(self, ts: int, equity: float, positions: Sequence[Position]) -> Plan | None:
        """Return the plan for some positions, and take the schedule's time as done.

        None where too few returns are known to tell the risk: it is then due at the next close.
        With Kelly, a position without a prediction is left alone.

        Parameters
        ----------
        ts : int
            Close of the bar, UTC nanoseconds.
        equity : float
            USDT.
        positions : sequence of Position
            Those that may be traded.
        """
        held = [self._holding(one) for one in positions]
        book = Book(ts, equity, tuple(held))
        aimed = [
            one
            for one in positions
            if self.config.method == "risk_parity" or one.candidate is not None
        ]
        targets: dict[str, float] = {}
        if aimed and not fault(book):
            found = self._targets(ts, equity, aimed)
            if found is None:
                return None
            targets = found
        self._last = ts
        return plan(self.config, book, targets)

    def _holding(self, one: Position) -> Holding:
        returns = self._window.complete([one.terms.instrument_id])
        volatility = math.nan
        if len(returns) >= LEAST_BARS:
            volatility = float(np.sqrt(np.mean(returns**2) * self._bars_per_year))
        return Holding(one.terms, one.quantity, one.price, volatility, self._cost_frac)

    def _targets(
        self, ts: int, equity: float, positions: Sequence[Position]
    ) -> dict[str, float] | None:
        names = [one.terms.instrument_id for one in positions]
        returns = self._window.complete(names)
        if len(returns) < LEAST_BARS:
            return None
        book = Book(ts, equity, tuple(self._holding(one) for one in positions))
        try:
            if self.config.method == "risk_parity":
                covariance = self._bars_per_year * risk_covariance(returns, names)
                return target_weights(self.config, book, covariance)
            candidates = [one.candidate for one in positions if one.candidate is not None]
            scaled = horizon_covariance(candidates, returns)
            if scaled is None:
                return None
            mu = expected_returns(self._sizing, candidates)
            return target_weights(self.config, book, scaled, mu)
        except (DataError, ValueError):
            # A price that stood still, or instruments too alike: the risk is unknown.
            return None

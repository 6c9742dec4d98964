"""What sizing is told: its settings, what it needs of a prediction, the words of its answers."""

from __future__ import annotations

from typing import Literal, Protocol, Self

from pydantic import Field, model_validator

from catalog.config import Config

type Method = Literal[
    "fixed",
    "fixed_fractional",
    "volatility_target",
    "kelly",
    "kelly_continuous",
    "kelly_multi",
]

LEAST_BARS = 96
"""With fewer returns that instruments share, nobody knows how they move together."""
BOUND_BY = (
    "fixed",
    "fixed_fractional",
    "volatility_target",
    "kelly",
    "kelly_continuous",
    "kelly_multi",
    "risk_per_trade",
    "max_position",
    "max_gross",
    "max_net",
    "max_notional",
    "max_quantity",
    "min_notional",
    "below_minimum",
    "no_edge",
    "probability_unknown",
    "volatility_unknown",
    "stop_unknown",
    "costs_unknown",
    "weight_unknown",
    "price_invalid",
    "equity_invalid",
    "account_invalid",
)
"""Every rule that can decide a size, append only: the method, a cap, or why there is none."""


class SizingConfig(Config):
    """How much to hold, and never more than.

    Parameters
    ----------
    method : str
        - ``fixed``: `fixed_frac` of equity.
        - ``fixed_fractional``: as much as loses `risk_frac` of equity at the stop.
        - ``volatility_target``: as much as gives `annual_volatility` at the market's volatility.
        - ``kelly``: binary bet, wins or loses the expected move or the stop's distance.
        - ``kelly_continuous``: mu / sigma^2.
        - ``kelly_multi``: as `strategies.kelly.kelly_weights` weighted the instruments together.
    fraction : float
        Of full Kelly.
    payoff_ratio : float
        ``kelly``: what a win brings in multiples of what a loss takes, before costs. With
        `loss_at` ``stop`` and a target in the strategy, that of the target counts instead.
    loss_at : {"move", "stop"}
        ``kelly``: whether a loss is the expected move over the horizon or the stop's distance
        (for a probability that says which of target and stop is touched first).
    shrink_by_epistemic, shrink_by_interval : bool
        Kelly methods: whether the standard error of the probability shrinks the size
        (`strategies.kelly.uncertainty_factor`), and whether the end of the calibration interval
        that is worse for the side stands for the probability. A prediction that does not know
        its own uncertainty is not shrunk.
    fixed_frac, risk_frac, annual_volatility : float
        Of equity; see `method`. Annual means 365 days.
    bars_per_day : float or None
        For ``volatility_target``, which turns one-bar volatility into annual.
    edge_ramp : float
        The first three methods, which do not grow with the edge, reach their full size where the
        edge, in multiples of the expected move, is this large, and grow linearly up to it: so
        that size stays continuous where the edge vanishes.
    edge_after_costs : bool
        The first three methods: whether that edge is after costs.
    risk_per_trade : float
        Largest loss at the stop, of equity. Binds only where there is a stop.
    max_position : float
        Largest size in one instrument, of equity.
    max_gross, max_net : float
        Largest sum of the sizes of all positions, and of the size of their signed sum, in
        multiples of equity.
    min_notional, max_notional : float or None
        Smallest and largest order, USDT.
    lookback_bars : int
        ``kelly_multi``: bars that the covariance is estimated from. With fewer than `LEAST_BARS`
        that all instruments at hand share there is none, and nothing is opened.
    """

    method: Method = "kelly"
    fraction: float = Field(default=0.5, gt=0.0, le=1.0)
    payoff_ratio: float = Field(default=1.0, gt=0.0, le=100.0)
    loss_at: Literal["move", "stop"] = "move"
    shrink_by_epistemic: bool = True
    shrink_by_interval: bool = True
    fixed_frac: float = Field(default=0.10, gt=0.0, le=10.0)
    risk_frac: float = Field(default=0.01, gt=0.0, lt=1.0)
    annual_volatility: float = Field(default=0.20, gt=0.0, le=10.0)
    bars_per_day: float | None = Field(default=None, gt=0.0, le=86_400.0)
    edge_ramp: float = Field(default=0.01, gt=0.0, le=1.0)
    edge_after_costs: bool = True
    risk_per_trade: float = Field(default=0.02, gt=0.0, le=1.0)
    max_position: float = Field(default=0.20, gt=0.0, le=10.0)
    max_gross: float = Field(default=2.0, gt=0.0, le=125.0)
    max_net: float = Field(default=1.0, gt=0.0, le=125.0)
    min_notional: float | None = Field(default=None, gt=0.0)
    max_notional: float | None = Field(default=None, gt=0.0)
    lookback_bars: int = Field(default=2_880, ge=LEAST_BARS, le=1_000_000)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.method == "volatility_target" and self.bars_per_day is None:
            raise ValueError(
                "bars_per_day must be stated for method volatility_target, was left out: "
                "96 for 15-minute bars"
            )
        if self.max_net > self.max_gross:
            raise ValueError(
                f"max_net must be at most max_gross ({self.max_gross}), was {self.max_net}: "
                "it could never bind"
            )
        smallest, largest = self.min_notional, self.max_notional
        if smallest is not None and largest is not None and smallest > largest:
            raise ValueError(
                f"min_notional must be at most max_notional ({largest}), was {smallest}: "
                "no order could satisfy both"
            )
        return self


class SizingSignal(Protocol):
    """What sizing needs of a prediction; NaN where a number is unknown."""

    @property
    def prob_up(self) -> float:
        """Probability of a rise."""

    @property
    def horizon_bars(self) -> int:
        """Bars that it looks ahead."""

    @property
    def mu(self) -> float:
        """Expected log return over the horizon, a fraction."""

    @property
    def sigma(self) -> float:
        """Scale of that return, a fraction."""

    @property
    def epistemic(self) -> float:
        """Standard error of `prob_up`."""

    @property
    def prob_low(self) -> float:
        """Lower end of the calibration interval of `prob_up`."""

    @property
    def prob_high(self) -> float:
        """Upper end of it."""

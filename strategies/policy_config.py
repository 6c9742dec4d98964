"""The settings of a strategy: when to enter, how much, and when to leave."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from catalog.config import Config
from catalog.errors import ConfigError
from strategies.rebalance import RebalanceConfig
from strategies.risk_policy import RiskPolicy
from strategies.sizing_config import SizingConfig
from strategies.stops import ExitRules, StopConfig

type Probability = Annotated[float, Field(gt=0.5, lt=1.0)]
"""A threshold for a side: above a coin's, below certainty."""


class FusionPolicy(Config):
    """When to enter, how much, and when to leave.

    Both thresholds are for the base volatility and a neutral market. They move together, so the
    gap between them, which keeps a probability that trembles from trading, never closes.

    Parameters
    ----------
    entry_threshold : float or "swept"
        Go long at ``prob_up >= entry_threshold``, short at ``prob_up <= 1 - entry_threshold``.
        ``swept``: the prediction's own, found inside the training span of its model; where a
        prediction has none, nothing is opened.
    exit_threshold : float
        Leave a long when ``prob_up < exit_threshold``, a short when
        ``prob_up > 1 - exit_threshold``; at most `entry_threshold` less `hysteresis`.
    position_frac : float
        Fraction of equity in one instrument at full confidence; half of it at none.
    allow_short : bool
        Whether a position may be short.
    stop_loss_frac : float or None
        Distance of a stop from the entry price, as a fraction of it; None for no stop.
    min_holding_bars : int or None
        Bars that a position is kept whatever the exit threshold says; only the opposite entry
        signal (or the stop) ends it earlier. None: the prediction's own horizon.
    exit_after_horizon : bool
        Leave once the prediction's horizon has passed, unless the same entry signal stands
        again, which starts the horizon anew and saves a round trip.
    hysteresis : float
        Least gap between the two thresholds; a swept threshold lowers the exit's where needed.
    regime_shift : float
        How much lower both thresholds are in a trend, and higher in a mean-reverting market: 0.02
        turns 0.55 into 0.53 and 0.57. In a trend at most half of the entry's distance from 0.5.
    volatility_exponent : float
        The thresholds' distance from 0.5 is multiplied by ``(volatility / base_volatility) **
        volatility_exponent``. -1 keeps the expected return at the threshold the same in calm and
        wild markets, because it is proportional to both (see `edge.expected_return`); positive
        values are more careful in wild ones; 0 does not scale. Where the volatility is unknown,
        nothing is opened and the exit's threshold is that of the base.
    base_volatility : float or None
        Root mean square of one-bar log returns at which the thresholds stand as written, a
        fraction. Must be stated where `volatility_exponent` is not 0.
    max_volatility_scale : float
        Bound of that factor, which stays in ``[1 / max_volatility_scale, max_volatility_scale]``.
    cooldown_bars : int
        Bars after a stop during which nothing is opened: 1 leaves out the bar that stopped.
    max_degraded_bars : int or None
        Leave, whatever the minimum holding says, when more than this many predictions in a row
        were degraded; None: hold on. A degraded prediction opens nothing in any case.
    max_epistemic : float or None
        Open nothing where the standard deviation of `prob_up` is above it, or unknown: a limit
        that cannot be checked is not kept. None: no limit.
    input_period_bars : dict of float
        Bars between two values of a slow input in the ordinary course, by its name among the
        prediction's `input_ages`, such as ``onchain_flows: 96`` for a daily one and bars of 15
        minutes. Only inputs named here are watched: a quiet hour without news is not an outage.
    max_input_age_bars : float
        Open nothing when a watched input is overdue by more than this, has no value yet, or is
        not among the prediction's inputs at all.
    edge_margin_bps : float or None
        Open nothing unless the expected log return over the horizon, less fees and slippage of the
        round trip and funding, is above this many basis points. Where neither the prediction nor
        the market has a volatility there is no expected return, and nothing is opened. Holding on
        beyond the horizon costs no round trip and need not earn one. None: no such rule.
    stops : StopConfig or None
        A stop whose distance follows the volatility, instead of `stop_loss_frac`.
    sizing : SizingConfig or None
        How much to hold. None: what `risk` says of it, or else `position_frac` by the prediction's
        confidence.
    risk : RiskPolicy or None
        Limits that every order is checked against. None: no risk guard.
    rebalance : RebalanceConfig or None
        How open positions are brought back to their weights. A risk policy with a schedule
        rebalances, with these settings or their defaults, by its own schedule; one without does
        not. Without either there is no rebalancing. The limits of sizing and risk policy count
        here as well.
    """

    entry_threshold: Probability | Literal["swept"]
    exit_threshold: float = Field(gt=0.0, lt=1.0)
    position_frac: float = Field(gt=0.0, le=10.0)
    allow_short: bool = True
    stop_loss_frac: float | None = Field(default=None, gt=0.0, lt=1.0)
    min_holding_bars: int | None = Field(default=None, ge=0)
    exit_after_horizon: bool = False
    hysteresis: float = Field(default=0.0, ge=0.0, lt=0.5)
    regime_shift: float = Field(default=0.0, ge=0.0, lt=0.5)
    volatility_exponent: float = Field(default=0.0, ge=-2.0, le=2.0)
    base_volatility: float | None = Field(default=None, gt=0.0, lt=1.0)
    max_volatility_scale: float = Field(default=2.0, ge=1.0, le=10.0)
    cooldown_bars: int = Field(default=0, ge=0)
    max_degraded_bars: int | None = Field(default=None, ge=0)
    max_epistemic: float | None = Field(default=None, gt=0.0, le=0.5)
    input_period_bars: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    max_input_age_bars: float = Field(default=2.0, ge=0.0)
    edge_margin_bps: float | None = Field(default=None, ge=0.0, le=1_000.0)
    stops: StopConfig | None = None
    sizing: SizingConfig | None = None
    risk: RiskPolicy | None = None
    rebalance: RebalanceConfig | None = None

    @property
    def rebalancing(self) -> RebalanceConfig | None:
        """How positions are brought back to their weights, None if they are not."""
        risk, settings = self.risk, self.rebalance
        if risk is not None:
            if risk.rebalance is None:
                return None
            settings = settings or RebalanceConfig()
            settings = settings.model_copy(update={"schedule": risk.rebalance})
        if settings is None:
            return None
        return settings.within(self._largest_position, *self._largest_exposure)

    @property
    def _largest_position(self) -> float:
        """Largest weight of one instrument that sizing and risk policy allow."""
        sizing, risk = self.position_sizing, self.risk
        return min(
            math.inf if sizing is None else sizing.max_position,
            math.inf if risk is None else risk.max_symbol_share,
        )

    @property
    def _largest_exposure(self) -> tuple[float, float]:
        """Largest gross and net exposure that sizing allows, multiples of equity."""
        sizing = self.position_sizing
        return (math.inf, math.inf) if sizing is None else (sizing.max_gross, sizing.max_net)

    def with_risk(self, risk: RiskPolicy) -> Self:
        """Return these settings with another risk policy.

        Raises
        ------
        ConfigError
            If the two do not fit.
        """
        parts = {name: getattr(self, name) for name in type(self).model_fields}
        try:
            return type(self).model_validate({**parts, "risk": risk})
        except ValidationError as error:
            faults = "; ".join(_explained(fault) for fault in error.errors())
            raise ConfigError(f"the risk policy does not fit the strategy: {faults}") from None

    @property
    def position_sizing(self) -> SizingConfig | None:
        """How much to hold: `sizing`, else what the risk policy says; None for `position_frac`."""
        sizing = self.sizing
        if sizing is None and self.risk is not None and self.risk.sizing:
            sizing = SizingConfig.model_validate(self.risk.sizing)
        ratio = None if self.stops is None else self.stops.payoff_ratio
        if sizing is None or ratio is None or sizing.loss_at != "stop":
            return sizing
        # What a bet between stop and target wins is what the target says.
        return sizing.model_copy(update={"payoff_ratio": ratio})

    @property
    def exit_rules(self) -> ExitRules | None:
        """What holds for stops and targets; None for no stop."""
        if self.stops is not None:
            return self.stops.rules
        fraction = self.stop_loss_frac
        return None if fraction is None else ExitRules(fraction, fraction)

    @model_validator(mode="after")
    def _exit_below_entry(self) -> Self:
        entry = self.entry_threshold
        if isinstance(entry, float) and self.exit_threshold > entry - self.hysteresis:
            gap = f" less hysteresis ({self.hysteresis})" if self.hysteresis else ""
            raise ValueError(
                f"exit_threshold must be at most entry_threshold ({entry}){gap}, "
                f"was {self.exit_threshold}: a position would be left the moment it is entered"
            )
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.stops is not None and self.stop_loss_frac is not None:
            raise ValueError(
                f"stop_loss_frac must be left out where stops are given, was "
                f"{self.stop_loss_frac}: a position has one stop"
            )
        # The risk policy's own sizing is checked where it is read.
        _ = self.position_sizing
        return self

    @model_validator(mode="after")
    def _volatility_has_a_base(self) -> Self:
        if self.volatility_exponent != 0.0 and self.base_volatility is None:
            raise ValueError(
                f"base_volatility must be stated where volatility_exponent is not 0 (was "
                f"{self.volatility_exponent:g}): the one-bar volatility at which the thresholds "
                f"stand as written"
            )
        return self


def _explained(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}, was {fault['input']!r}" if where else str(fault["msg"])

"""What to do with a prediction: a pure function from a probability and a position to a decision.

No engine, no clock, no account: `decide` sees what is held and since when, the market at the close
of the bar and what trading costs, and answers with the side that is wanted and a reason from a
fixed vocabulary.

A signal that something speaks against (a degraded prediction, a predictor that stays flat, too
much uncertainty, stale inputs, an edge that does not pay) opens nothing and turns nothing. It may
still end a position: the opposite signal ends one whatever its quality, for holding on against it
has less to say for itself than being flat.
"""

from __future__ import annotations

import json
import math
from typing import NamedTuple, Protocol

from catalog.errors import ConfigError
from strategies.edge import expected_return, horizon_sigma, trade_cost_frac
from strategies.intent import MarketView, TradeCosts
from strategies.policy_config import FusionPolicy

REASONS = (
    "enter_long",
    "enter_short",
    "reverse_to_long",
    "reverse_to_short",
    "exit_threshold",
    "exit_opposite",
    "exit_horizon",
    "hold",
    "hold_minimum",
    "no_signal",
    "short_not_allowed",
    "degraded",
    "predictor_flat",
    "below_minimum",
    "order_pending",
    "exit_degraded",
    "no_prediction",
    "no_threshold",
    "no_volatility",
    "cooldown",
    "uncertain",
    "stale_input",
    "edge_too_small",
    "already_decided",
    "risk_guard",
    "take_profit",
    "trailing_stop",
    "limit_withdrawn",
)
"""Every reason a decision can carry. Codes are places here and are stored: only ever append."""
LIMIT_WITHDRAWN = "limit_withdrawn"
"""The reason of a decision that takes an entry back which still waited at its limit."""
STOP_LOSS = "stop_loss"
"""The reason of a stop that stands where the entry put it."""
TRAILING_STOP = "trailing_stop"
"""The reason of a stop that was moved, and of an exit where the market had passed it already."""
TAKE_PROFIT = "take_profit"
"""The reason of a target, and of an exit where the market had passed it already."""
RISK_GUARD = "risk_guard"
"""The reason of an exit that the risk guard asked for, and of an entry that it did not let pass."""
STOP_REFUSED = "stop_refused"
"""The reason of an exit whose position could not be protected."""
REBALANCE = "rebalance"
"""The reason of an order that only brings a position back to its weight."""
REOPENED = "reopened"
"""The reason of an exit from what a rebalancing opened: the position itself was just stopped."""
LIQUIDATED = "liquidation"
"""The reason of a fill by which the exchange took a position away."""
STOP_REASONS = frozenset({STOP_LOSS, TRAILING_STOP})
"""Reasons of fills after which nothing is opened for a while."""
FORCED_REASONS = frozenset({*STOP_REASONS, TAKE_PROFIT, RISK_GUARD, STOP_REFUSED, REOPENED})
"""Reasons of orders that must get out at once and whole, however thin the market is."""
OPEN_AT_END = "open_at_end"
"""The reason of a position that the end of the data found open."""
NEVER = 1 << 62
"""Bars since what never happened."""
_BPS = 10_000.0
_RATIO_FLOOR = 1e-9
_ROUNDING = 1e-12
"""What binary sums may be off: 0.55 and 0.02 make more than 0.57, which must still be enough."""


class Signal(Protocol):
    """What `decide` needs of a prediction."""

    @property
    def prob_up(self) -> float:
        """Probability of a rise."""

    @property
    def horizon_bars(self) -> int:
        """Bars that it looks ahead."""

    @property
    def degraded(self) -> bool:
        """Whether inputs were missing."""

    @property
    def side(self) -> int:
        """What the predictor itself says: 1 long, -1 short, 0 flat (also: inputs too old)."""

    @property
    def sigma(self) -> float:
        """Scale of the log return over the horizon, a fraction; NaN if unknown."""

    @property
    def epistemic(self) -> float:
        """Standard deviation of `prob_up` over an ensemble; NaN if unknown."""

    @property
    def regime(self) -> str:
        """``trend``, ``neutral``, ``mean_reverting``, or empty if unknown."""

    @property
    def entry_threshold(self) -> float:
        """The threshold found inside the training span; NaN if none was."""

    @property
    def input_ages(self) -> str | tuple[tuple[str, float], ...]:
        """Ages of slow inputs in bars: pairs, or a JSON object of them as custom data hold it."""


class Held(NamedTuple):
    """What is held of an instrument.

    Parameters
    ----------
    side : {-1, 0, 1}
        Short, nothing or long.
    bars : int
        Since the entry (or its renewal) was decided.
    bars_since_stop : int
        Since the close of the bar in which a stop last filled: 0 at that close.
    degraded_bars : int
        Predictions in a row, this one included, that were degraded.
    """

    side: int
    bars: int
    bars_since_stop: int = NEVER
    degraded_bars: int = 0


class Thresholds(NamedTuple):
    """The probabilities of a side at which it is entered and left; `entry` is NaN for never."""

    entry: float
    exit: float


class Verdict(NamedTuple):
    """The side wanted (-1, 0, 1), why, and whether the holding clock starts anew."""

    side: int
    reason: str
    renew: bool = False


class DecidedBars:
    """Which bars were decided on: one decision for each instrument and bar, whatever comes again.

    Parameters
    ----------
    interval_ns : int
        Length of a bar, nanoseconds.
    """

    __slots__ = ("_interval_ns", "_slots")

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._slots: dict[str, int] = {}

    def slot(self, instrument_id: str) -> int:
        """Return the number of the last bar that was decided on, -1 for none."""
        return self._slots.get(instrument_id, -1)

    def restore(self, instrument_id: str, slot: int) -> None:
        """Take over what an earlier process decided on."""
        if slot >= 0:
            self._slots[instrument_id] = slot

    def first(self, instrument_id: str, ts_init: int) -> bool:
        """Return whether a prediction is the first of its bar, and note that it was decided on.

        Parameters
        ----------
        instrument_id : str
            Whose bar.
        ts_init : int
            Stamp of the prediction, UTC nanoseconds; one from before the last bar is not new.
        """
        slot = ts_init // self._interval_ns
        if slot <= self._slots.get(instrument_id, -1):
            return False
        self._slots[instrument_id] = slot
        return True


def entry_side(threshold: float, prob_up: float) -> int:
    """Return the side of the entry signal: 1, -1 or 0, whether or not shorts are allowed."""
    if prob_up >= threshold:
        return 1
    # 1 - threshold in this form mirrors the long side exactly: short at p as long at 1 - p.
    return -1 if 1.0 - prob_up >= threshold else 0


def thresholds(
    policy: FusionPolicy, signal: Signal, market: MarketView | None = None
) -> Thresholds:
    """Return the thresholds that hold for a prediction in its market.

    Raises
    ------
    ConfigError
        If the policy scales by volatility and no market is given.
    """
    leave = policy.exit_threshold
    base = policy.entry_threshold
    entry = signal.entry_threshold if isinstance(base, str) else base
    known = 0.5 < entry < 1.0
    shift = policy.regime_shift
    if shift != 0.0:
        regime = signal.regime
        if regime == "mean_reverting":
            entry, leave = entry + shift, leave + shift
        elif regime == "trend":
            half = 0.5 * (entry - 0.5)
            shift = half if known and half < shift else shift
            entry, leave = entry - shift, leave - shift
    if policy.volatility_exponent != 0.0:
        scale = _volatility_scale(policy, market)
        if scale == scale:
            entry, leave = 0.5 + (entry - 0.5) * scale, 0.5 + (leave - 0.5) * scale
        else:
            known = False
    if not known:
        return Thresholds(math.nan, leave)
    highest = entry - policy.hysteresis
    return Thresholds(entry, highest if leave > highest else leave)


def _volatility_scale(policy: FusionPolicy, market: MarketView | None) -> float:
    """Return the factor of the thresholds' distance from one half; NaN if unknown."""
    base = policy.base_volatility
    if market is None or base is None:
        market = _needed(market, "market", "volatility_exponent")
        base = _needed(base, "base_volatility", "volatility_exponent")
    volatility = market.volatility
    if not 0.0 < volatility < math.inf:
        return math.nan
    highest = policy.max_volatility_scale
    ratio = volatility / base
    # The power of a ratio that is far out would not be a number that a machine holds.
    ratio = _RATIO_FLOOR if ratio < _RATIO_FLOOR else ratio
    scale: float = ratio**policy.volatility_exponent
    if scale > highest:
        return highest
    return scale if scale * highest > 1.0 else 1.0 / highest


def _needed[T](value: T | None, name: str, rule: str) -> T:
    if value is None:
        raise ConfigError(
            f"{name} must be given to a policy with {rule}, was None: without it the rule could "
            f"not be kept; pass it or leave the rule out"
        )
    return value


_NO_SIGNAL = Verdict(0, "no_signal")
_NO_PREDICTION = Verdict(0, "no_prediction")
_NO_THRESHOLD = Verdict(0, "no_threshold")
_NO_VOLATILITY = Verdict(0, "no_volatility")
_DEGRADED = Verdict(0, "degraded")
_PREDICTOR_FLAT = Verdict(0, "predictor_flat")
_NO_SHORTS = Verdict(0, "short_not_allowed")
_COOLDOWN = Verdict(0, "cooldown")
_UNCERTAIN = Verdict(0, "uncertain")
_STALE_INPUT = Verdict(0, "stale_input")
_EDGE_TOO_SMALL = Verdict(0, "edge_too_small")
_EXIT_DEGRADED = Verdict(0, "exit_degraded")
_EXIT_OPPOSITE = Verdict(0, "exit_opposite")
_EXIT_THRESHOLD = Verdict(0, "exit_threshold")
_EXIT_HORIZON = Verdict(0, "exit_horizon")
# By side; made once, for they are most of a run's decisions.
_ENTER = {1: Verdict(1, "enter_long", renew=True), -1: Verdict(-1, "enter_short", renew=True)}
_REVERSE = {
    1: Verdict(1, "reverse_to_long", renew=True),
    -1: Verdict(-1, "reverse_to_short", renew=True),
}
_HOLD_MINIMUM = {side: Verdict(side, "hold_minimum") for side in (-1, 1)}
_HOLD = {side: Verdict(side, "hold") for side in (-1, 1)}
_HOLD_ON = {side: Verdict(side, "hold", renew=True) for side in (-1, 1)}


def decide(
    policy: FusionPolicy,
    signal: Signal,
    held: Held,
    market: MarketView | None = None,
    costs: TradeCosts | None = None,
) -> Verdict:
    """Return what side is wanted, and why.

    A degraded prediction may only reduce, and so may one whose predictor does not stand on the
    side of the entry signal (it says flat where it knows too little, whatever its probability),
    one that is too uncertain or rests on stale inputs, and one that would not pay for its costs.
    A probability that is not a number opens nothing, and ends a position after its minimum; one
    outside [0, 1] opens nothing either.

    Parameters
    ----------
    policy : FusionPolicy
        The rules.
    signal : Signal
        The prediction. Of its properties only those are read that a rule of the policy needs.
    held : Held
        What is held, and since when.
    market : MarketView, optional
        The market at the close of the bar; needed by `volatility_exponent` and `edge_margin_bps`.
    costs : TradeCosts, optional
        What a trade costs; needed by `edge_margin_bps`.

    Raises
    ------
    ConfigError
        If a rule of the policy needs market or costs and they are not given.
    """
    entry = policy.entry_threshold
    leave = policy.exit_threshold
    if entry == "swept" or policy.regime_shift != 0.0 or policy.volatility_exponent != 0.0:
        entry, leave = thresholds(policy, signal, market)
        entry, leave = entry - _ROUNDING, leave - _ROUNDING
    wanted = entry_side(entry, signal.prob_up)
    if held.side == 0:
        if wanted == 0:
            return _no_signal(policy, signal, entry)
        if held.bars_since_stop < policy.cooldown_bars:
            return _COOLDOWN
        return _refusal(policy, signal, wanted, market, costs) or _ENTER[wanted]
    if wanted == -held.side:
        refused = _refusal(policy, signal, wanted, market, costs)
        return _REVERSE[wanted] if refused is None else _EXIT_OPPOSITE
    limit = policy.max_degraded_bars
    if limit is not None and held.degraded_bars > limit:
        return _EXIT_DEGRADED
    found = _decide_held(policy, signal, held, leave)
    if found is not None:
        return found
    if wanted == 0:
        return _EXIT_HORIZON
    # What continues has paid for its entry, and will pay for its exit whenever it comes.
    free = None if costs is None else costs._replace(round_trip_frac=0.0)
    refused = _refusal(policy, signal, wanted, market, free)
    return _HOLD_ON[wanted] if refused is None else _EXIT_HORIZON


def _no_signal(policy: FusionPolicy, signal: Signal, entry: float) -> Verdict:
    """Return which kind of no signal it is."""
    if signal.prob_up != signal.prob_up:
        return _NO_PREDICTION
    if entry == entry:
        return _NO_SIGNAL
    swept = policy.entry_threshold == "swept" and not 0.5 < signal.entry_threshold < 1.0
    return _NO_THRESHOLD if swept else _NO_VOLATILITY


def _decide_held(policy: FusionPolicy, signal: Signal, held: Held, leave: float) -> Verdict | None:
    """Return whether to hold or to leave; None where the horizon is over and must be renewed."""
    minimum = policy.min_holding_bars
    if held.bars < (signal.horizon_bars if minimum is None else minimum):
        return _HOLD_MINIMUM[held.side]
    toward = signal.prob_up if held.side > 0 else 1.0 - signal.prob_up
    # In this form a probability that is not a number leaves.
    if not toward >= leave:
        return _EXIT_THRESHOLD
    if policy.exit_after_horizon and held.bars >= signal.horizon_bars:
        return None
    return _HOLD[held.side]


def _refusal(
    policy: FusionPolicy,
    signal: Signal,
    wanted: int,
    market: MarketView | None,
    costs: TradeCosts | None,
) -> Verdict | None:
    """Return what speaks against a position on the side of the signal; None if nothing does."""
    # Beyond certainty there is no probability, and a size made from one would be beyond its cap.
    if not 0.0 <= signal.prob_up <= 1.0:
        return _NO_PREDICTION
    if signal.degraded:
        return _DEGRADED
    if signal.side != wanted:
        return _PREDICTOR_FLAT
    if wanted < 0 and not policy.allow_short:
        return _NO_SHORTS
    limit = policy.max_epistemic
    if limit is not None and not signal.epistemic <= limit:
        return _UNCERTAIN
    if policy.edge_margin_bps is not None:
        market = _needed(market, "market", "edge_margin_bps")
        costs = _needed(costs, "costs", "edge_margin_bps")
        if not expected_edge(signal, wanted, market, costs) * _BPS > policy.edge_margin_bps:
            return _EDGE_TOO_SMALL
    # Last, because ages may be text that must be read.
    if policy.input_period_bars and _is_stale(policy, signal.input_ages):
        return _STALE_INPUT
    return None


def expected_edge(signal: Signal, side: int, market: MarketView, costs: TradeCosts) -> float:
    """Return what a position is expected to earn over the horizon after costs.

    Parameters
    ----------
    signal : Signal
        The prediction.
    side : {-1, 1}
        Of the position.
    market : MarketView
        Volatility and funding.
    costs : TradeCosts
        Of the round trip.

    Returns
    -------
    float
        A fraction of the traded value; NaN where no volatility is known.
    """
    horizon = signal.horizon_bars
    scale = horizon_sigma(signal.sigma, market.volatility, horizon)
    gross = side * expected_return(signal.prob_up, scale)
    return gross - trade_cost_frac(side, market, costs, horizon)


def _is_stale(policy: FusionPolicy, input_ages: str | tuple[tuple[str, float], ...]) -> bool:
    if isinstance(input_ages, str):
        ages = json.loads(input_ages) if input_ages else {}
    else:
        ages = dict(input_ages)
    for name, period in policy.input_period_bars.items():
        age = ages.get(name)
        # An age that is not a number says that nothing is known yet; JSON writes it as null.
        if age is None or not age - period <= policy.max_input_age_bars:
            return True
    return False

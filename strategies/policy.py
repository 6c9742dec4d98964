"""What to do with a prediction: a pure function from a probability and a position to a decision.

No engine, no clock, no account: `decide` sees what is held and since when, and answers with the
side that is wanted and a reason from a fixed vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

from pydantic import Field, model_validator

from catalog.config import Config

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
)
"""Every reason a decision can carry."""
STOP_LOSS = "stop_loss"
"""The reason of a fill that no decision caused."""
OPEN_AT_END = "open_at_end"
"""The reason of a position that the end of the data found open."""


class FusionPolicy(Config):
    """When to enter, how much, and when to leave.

    Parameters
    ----------
    entry_threshold : float
        Go long at ``prob_up >= entry_threshold``, short at ``prob_up <= 1 - entry_threshold``.
    exit_threshold : float
        Leave a long when ``prob_up < exit_threshold``, a short when
        ``prob_up > 1 - exit_threshold``; at most `entry_threshold`.
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
    """

    entry_threshold: float = Field(gt=0.5, lt=1.0)
    exit_threshold: float = Field(gt=0.0, lt=1.0)
    position_frac: float = Field(gt=0.0, le=10.0)
    allow_short: bool = True
    stop_loss_frac: float | None = Field(default=None, gt=0.0, lt=1.0)
    min_holding_bars: int | None = Field(default=None, ge=0)
    exit_after_horizon: bool = False

    @model_validator(mode="after")
    def _exit_below_entry(self) -> Self:
        if self.exit_threshold > self.entry_threshold:
            raise ValueError(
                f"exit_threshold must be at most entry_threshold ({self.entry_threshold}), "
                f"was {self.exit_threshold}: a position would be left the moment it is entered"
            )
        return self


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


class Verdict(NamedTuple):
    """The side wanted (-1, 0, 1), why, and whether the holding clock starts anew."""

    side: int
    reason: str
    renew: bool = False


def entry_side(policy: FusionPolicy, prob_up: float) -> int:
    """Return the side of the entry signal: 1, -1 or 0, whether or not shorts are allowed."""
    if prob_up >= policy.entry_threshold:
        return 1
    # 1 - threshold in this form mirrors the long side exactly: short at p as long at 1 - p.
    return -1 if 1.0 - prob_up >= policy.entry_threshold else 0


_NO_SIGNAL = Verdict(0, "no_signal")
_DEGRADED = Verdict(0, "degraded")
_PREDICTOR_FLAT = Verdict(0, "predictor_flat")
_NO_SHORTS = Verdict(0, "short_not_allowed")
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


def decide(policy: FusionPolicy, signal: Signal, side: int, bars: int) -> Verdict:
    """Return what side is wanted, and why.

    A degraded prediction may only reduce, and so may one whose predictor does not stand on the
    side of the entry signal: it says flat where it knows too little, whatever its probability.

    Parameters
    ----------
    policy : FusionPolicy
        The rules.
    signal : Signal
        The prediction.
    side : {-1, 0, 1}
        What is held.
    bars : int
        Since the entry (or its renewal) was decided.
    """
    wanted = entry_side(policy, signal.prob_up)
    if side == 0:
        return _decide_flat(policy, signal, wanted)
    return _decide_held(policy, signal, side, bars, wanted)


def _decide_flat(policy: FusionPolicy, signal: Signal, wanted: int) -> Verdict:
    if wanted == 0:
        return _NO_SIGNAL
    if signal.degraded:
        return _DEGRADED
    if signal.side != wanted:
        return _PREDICTOR_FLAT
    if wanted < 0 and not policy.allow_short:
        return _NO_SHORTS
    return _ENTER[wanted]


def _decide_held(
    policy: FusionPolicy, signal: Signal, side: int, bars: int, wanted: int
) -> Verdict:
    if wanted == -side:
        if _only_reduces(signal, wanted) or (wanted < 0 and not policy.allow_short):
            return _EXIT_OPPOSITE
        return _REVERSE[wanted]
    minimum = policy.min_holding_bars
    if bars < (signal.horizon_bars if minimum is None else minimum):
        return _HOLD_MINIMUM[side]
    toward = signal.prob_up if side > 0 else 1.0 - signal.prob_up
    if toward < policy.exit_threshold:
        return _EXIT_THRESHOLD
    if policy.exit_after_horizon and bars >= signal.horizon_bars:
        if wanted == side and not _only_reduces(signal, wanted):
            return _HOLD_ON[side]
        return _EXIT_HORIZON
    return _HOLD[side]


def _only_reduces(signal: Signal, wanted: int) -> bool:
    return signal.degraded or signal.side != wanted

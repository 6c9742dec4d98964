"""What the risk guard remembers, and its words: plain data that survives a restart.

A *hold* is one reason not to trade. As long as there is any, the guard is ``reducing`` (cancelling
and flattening) and then, once nothing is open, ``halted``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import ConfigDict

type Level = Literal["normal", "reducing", "halted"]
"""normal: orders pass; reducing: only what reduces, until flat; halted: flat, and stays so."""

type EventKind = Literal["hold", "release", "flat", "clock", "policy", "refused"]
"""What an event is about. Append only."""

NEXT_DAY = "next_day"
PERSON = "person"

HOLDS = {
    "daily_loss": NEXT_DAY,
    "consecutive_losses": NEXT_DAY,
    "order_rate": NEXT_DAY,
    "rejected_orders": NEXT_DAY,
    "stale_data": NEXT_DAY,
    "drawdown": PERSON,
    "kill_switch": PERSON,
    "manual": PERSON,
    "bad_equity": PERSON,
    "bad_price": PERSON,
    "bad_fill": PERSON,
    "guard_failure": PERSON,
    "state_damaged": PERSON,
    "state_unsaved": PERSON,
}
"""Every reason of a hold, and what releases it: the next UTC day (and always a person), or only a
person. Append only."""

MAX_HISTORY = 200
"""Events that are remembered."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One reason not to trade: since when (UTC nanoseconds), and what was seen."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    reason: str
    ts: int
    detail: str


@dataclass(frozen=True, slots=True)
class GuardEvent:
    """Something that people should know: a hold, its release, being flat, a clock going back.

    Of kind ``refused`` is what was asked for and not done; `reason` names it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    ts: int
    kind: EventKind
    level: Level
    reason: str
    detail: str


@dataclass(slots=True)
class GuardState:
    """Everything that a restart must not lose. A fresh one has seen nothing.

    Parameters
    ----------
    ts : int
        Newest time seen, UTC nanoseconds.
    day, start_day : int or None
        The UTC day (days since 1970) of `ts`; the day whose first mark was `day_start_equity`.
    equity, day_start_equity, peak_equity : float or None
        USDT; None before the first mark. The peak is that since the last release by a person.
    daily_loss_day : int or None
        The day of the last hold for its loss.
    holds : dict of str to Hold
        By reason.
    exposed : bool
        Whether something is open, or may be: it is not known before the first `on_positions`.
    kill_switch : bool
        Whether the kill-switch file was there at the last look.
    consecutive_losses : int
        In a row, up to now.
    rejections, orders : list of int
        When, UTC nanoseconds, orders were rejected in the last hour and sent in the last minute.
    history : list of GuardEvent
        The newest, at most `MAX_HISTORY`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    ts: int = 0
    day: int | None = None
    start_day: int | None = None
    equity: float | None = None
    day_start_equity: float | None = None
    peak_equity: float | None = None
    daily_loss_day: int | None = None
    holds: dict[str, Hold] = field(default_factory=dict)
    exposed: bool = True
    kill_switch: bool = False
    consecutive_losses: int = 0
    rejections: list[int] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)
    history: list[GuardEvent] = field(default_factory=list)

    def level(self) -> Level:
        """Return what may be done now."""
        if not self.holds:
            return "normal"
        return "reducing" if self.exposed else "halted"


class CancelAll(NamedTuple):
    """Take back every order that may open something, and those that only reduce. `why`: reasons."""

    why: str


class FlattenAll(NamedTuple):
    """Close every position at the market, reduce-only."""

    why: str


class Block(NamedTuple):
    """Let nothing that adds risk leave; `check` refuses it anyway."""

    why: str


type Action = CancelAll | FlattenAll | Block

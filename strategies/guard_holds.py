"""Time and holds of the risk guard: when a day begins, what a new day releases, what is told.

Kept apart from the limits (`strategies.guard`), because this is where the order of things matters:
nothing returns to normal before it was flat, and time never goes back.
"""

from __future__ import annotations

from catalog.timestamps import NS_PER_DAY, format_time
from strategies.guard_state import (
    HOLDS,
    MAX_HISTORY,
    NEXT_DAY,
    EventKind,
    GuardEvent,
    GuardState,
    Hold,
    Level,
)


class Holds:
    """Reasons not to trade, over a state that is changed in place.

    Parameters
    ----------
    state : GuardState
        What is remembered.

    Attributes
    ----------
    failed : str
        Why the guard itself cannot judge; "" while it can. Kept outside the state, so that a
        state that is broken still blocks.
    asked : int or None
        When flattening was last asked for, UTC nanoseconds.
    newest_data : int or None
        When the newest record came, UTC nanoseconds; None before the first one in this process.
    """

    def __init__(self, state: GuardState) -> None:
        self.state = state
        self.failed = ""
        self.asked: int | None = None
        self.newest_data: int | None = None
        self._news: list[GuardEvent] = []
        self._behind = False

    @property
    def level(self) -> Level:
        """What may be done now."""
        if self.failed:
            return "halted" if self.state.exposed is False else "reducing"
        return self.state.level()

    @property
    def reasons(self) -> str:
        """The holds in force, with blanks between them; "" if there are none."""
        names = set(self.state.holds)
        if self.failed:
            names.add("guard_failure")
        return " ".join(sorted(names))

    def news(self) -> tuple[GuardEvent, ...]:
        """Return the events since the last call."""
        told, self._news = tuple(self._news), []
        return told

    def advance(self, ts: int, lag_ns: int, max_age_ns: int) -> int:
        """Let time pass up to `ts`, and return the time: never an earlier one than before."""
        state = self.state
        if ts < state.ts:
            if ts < state.ts - lag_ns and not self._behind:
                # Told once, not at every event until the time has caught up.
                self._behind = True
                self.tell("clock", "", f"refused to go back to {format_time(ts)}")
            return state.ts
        self._behind = False
        state.ts = ts
        state.day = ts // NS_PER_DAY
        if state.holds:
            self.reopen(max_age_ns)
        return ts

    def hold(self, reason: str, detail: str) -> None:
        """Add a reason not to trade; one that is there already stays as it was."""
        state = self.state
        if reason in state.holds:
            return
        if not state.holds:
            # Orders may be under way that nobody has told of: ask for the flattening once anyway.
            self.asked = None
        state.holds[reason] = Hold(reason, state.ts, detail)
        self.tell("hold", reason, detail)

    def fail(self, detail: str) -> None:
        """Block because the guard itself has failed. Never raises."""
        # First what cannot go wrong: `level` looks at it.
        self.failed = self.failed or detail
        try:
            self.hold("guard_failure", detail)
        except Exception as error:
            # The state itself is broken; trading is blocked already.
            self.failed = f"{self.failed}; {error!r}"

    def ask(self, ts: int, retry_ns: int) -> bool:
        """Return whether to ask for the flattening now, and remember that it was asked for."""
        now = max(ts, self.state.ts)
        due = self.asked is None or (self.state.exposed and now - self.asked >= retry_ns)
        if due:
            self.asked = now
        return due

    def reopen(self, max_age_ns: int) -> None:
        """Release the holds of earlier days that a new day ends, once everything is flat."""
        state = self.state
        if state.exposed or state.day is None:
            return
        for reason, hold in list(state.holds.items()):
            past = hold.ts // NS_PER_DAY < state.day
            if HOLDS[reason] != NEXT_DAY or not past:
                continue
            if reason == "stale_data" and not self._fresh(max_age_ns):
                continue
            del state.holds[reason]
            self._forget(reason)
            self.tell("release", reason, "a new UTC day")

    def clear(self, ts: int) -> None:
        """Release everything; losses and the clock count anew from `ts` on."""
        state = self.state
        state.holds.clear()
        self.failed = ""
        state.ts, state.day = ts, ts // NS_PER_DAY
        state.start_day = state.day if state.equity is not None else None
        state.day_start_equity = state.peak_equity = state.equity
        state.daily_loss_day = None
        state.consecutive_losses = 0
        state.rejections.clear()
        state.orders.clear()
        self.newest_data = ts
        self.asked = None

    def tell(self, kind: EventKind, reason: str, detail: str) -> None:
        """Note an event, for people."""
        event = GuardEvent(self.state.ts, kind, self.level, reason, detail)
        self._news.append(event)
        history = self.state.history
        history.append(event)
        del history[:-MAX_HISTORY]

    def _fresh(self, max_age_ns: int) -> bool:
        return self.newest_data is not None and self.state.ts - self.newest_data <= max_age_ns

    def _forget(self, reason: str) -> None:
        if reason == "consecutive_losses":
            self.state.consecutive_losses = 0
        elif reason == "rejected_orders":
            self.state.rejections.clear()
        elif reason == "order_rate":
            self.state.orders.clear()

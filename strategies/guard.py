"""The risk guard: a pure state machine that stands between a decision and its order.

It knows no engine, clock or file: it is told what happens and when, and is asked. An actor
forwards events, asks `check` before each order leaves, and does what `actions` says.

=====================  ==================================  =====================================
what happens           limit of `RiskPolicy`               trading ends until
=====================  ==================================  =====================================
loss of the day        max_daily_loss                      the next UTC day
losses in a row        max_consecutive_losses              the next UTC day
too many orders        max_orders_per_second, _minute      the next UTC day
too many rejected      max_rejected_orders                 the next UTC day
no data                max_data_age_secs                   the next UTC day, and data are there
loss since the peak    max_drawdown                        a person releases
kill switch, `halt`    kill_switch_file                    a person releases, the file is gone
price, equity, fill    must be finite and positive         a person releases
state not stored       it must be                          a person releases
anything raised here   nothing may                         a person releases
=====================  ==================================  =====================================

Each of them is a hold. With a hold the guard is ``reducing``: orders are to be cancelled and
positions flattened, again after `flatten_retry_secs` if something is still open. Once flat it is
``halted``. Nothing returns to ``normal`` before it was flat. A reduce-only order is never refused,
counted or delayed.

A UTC day starts with its first mark. That mark also closes the day before: a loss in the bar that
ends at midnight breaks the limit of the day that it belongs to, and ends trading for the new one.

Time never goes back: an event stamped earlier than one before it counts as of the latest, and an
order stamped more than `max_clock_lag_secs` earlier is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import update_wrapper
from typing import Concatenate, Literal

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND
from strategies.guard_holds import Holds
from strategies.guard_losses import mark
from strategies.guard_orders import (
    Allowed,
    Book,
    OrderIntent,
    Refused,
    Ruling,
    faulty,
    fit,
    outdated,
    stale,
    too_many,
    unusable,
)
from strategies.guard_state import (
    HOLDS,
    Action,
    Block,
    CancelAll,
    FlattenAll,
    GuardEvent,
    GuardState,
    Level,
)
from strategies.risk_policy import RiskPolicy


def _fails_safe[**P](
    method: Callable[Concatenate[Guard, P], None],
) -> Callable[Concatenate[Guard, P], None]:
    """Turn whatever an event raises into a hold: a guard that cannot judge blocks."""

    def safe(self: Guard, /, *arguments: P.args, **keywords: P.kwargs) -> None:
        try:
            method(self, *arguments, **keywords)
        except Exception as error:
            self._holds.fail(f"{method.__name__}: {error!r}")

    update_wrapper(safe, method)
    return safe


class Guard:
    """Limits in force, and what has happened.

    Parameters
    ----------
    policy : RiskPolicy
        The limits.
    state : GuardState, optional
        What an earlier process remembered; it is changed in place. A fresh one if not given.

    Attributes
    ----------
    policy : RiskPolicy
        See `adopt`.
    state : GuardState
        To be stored, read only.
    pace : float
        Seconds of data that pass in a second of the clock, where recorded data play fast: clocks
        and what they stamp are then so much further apart.
    """

    def __init__(self, policy: RiskPolicy, state: GuardState | None = None) -> None:
        self.state = GuardState() if state is None else state
        # What was open when the process before this one ended is for the account to say.
        self.state.exposed = True
        self._found: tuple[frozenset[str], ...] = ()
        # By instrument; "" for a record that speaks for all of them.
        self._data: dict[str, int] = {}
        self._holds = Holds(self.state)
        self.pace = 1.0
        self._take(policy)

    @property
    def level(self) -> Level:
        """What may be done now."""
        return self._holds.level

    @property
    def reasons(self) -> str:
        """The holds in force, with blanks between them; "" if there are none."""
        return self._holds.reasons

    def news(self) -> tuple[GuardEvent, ...]:
        """Return the events since the last call, for whoever tells people."""
        return self._holds.news()

    def next_look_ns(self) -> int | None:
        """Return by when `on_clock` must be called though nothing happens; None before any event.

        That is the end of the UTC day, or the moment at which data become too old.
        """
        state = self.state
        if state.day is None:
            return None
        day_end = (state.day + 1) * NS_PER_DAY
        if self._holds.newest_data is None or "stale_data" in state.holds:
            return day_end
        return min(day_end, self._holds.newest_data + self._age_ns + 1)

    # ---- what happens

    @_fails_safe
    def on_clock(self, ts: int) -> None:
        """Take note of the time: a new day may begin, data may be too old."""
        now = self._advance(ts)
        if self._holds.newest_data is None:
            # Nothing has come yet: what is waited for counts from now.
            self._holds.newest_data = now
        age = now - self._holds.newest_data
        if age > self._age_ns and "stale_data" not in self.state.holds:
            self._holds.hold(
                "stale_data",
                f"data must be at most {self.policy.max_data_age_secs:g} s old, "
                f"the newest were {age / NS_PER_SECOND:.0f} s old",
            )

    @_fails_safe
    def on_data(self, ts: int, instrument_id: str = "", price: float | None = None) -> None:
        """Take note of a record, and of its price where it has one.

        Without an instrument it speaks for all of them.
        """
        now = self._advance(ts)
        self._holds.newest_data = self._data[instrument_id] = now
        if "stale_data" in self.state.holds:
            self._holds.reopen(self._age_ns)
        if price is not None and unusable(price):
            self._holds.hold(
                "bad_price", f"price of {instrument_id} must be finite and positive, was {price}"
            )

    @_fails_safe
    def on_equity(self, ts: int, equity: float, peak: float | None = None) -> None:
        """Mark the account.

        Parameters
        ----------
        ts : int
            UTC nanoseconds.
        equity : float
            USDT, open positions at their latest marks.
        peak : float, optional
            The highest equity since the last call, if it was higher than `equity`.
        """
        self._advance(ts)
        if unusable(equity) or (peak is not None and unusable(peak)):
            self._holds.hold("bad_equity", f"equity must be finite and positive, was {equity}")
            return
        highest = equity if peak is None else max(peak, equity)
        mark(self.policy, self._holds, equity, highest)

    @_fails_safe
    def on_fill(self, ts: int, instrument_id: str, quantity: float, price: float) -> None:
        """Take note of a fill; one without a finite positive price and size ends trading."""
        self._advance(ts)
        if unusable(quantity) or unusable(price):
            self._holds.hold(
                "bad_fill",
                f"a fill of {instrument_id} must have a finite positive size and price, "
                f"were {quantity} and {price}",
            )

    @_fails_safe
    def on_closed(self, ts: int, pnl: float) -> None:
        """Take note of a closed position and its result after costs, USDT.

        What is closed because trading has ended says nothing about the next trade: not counted.
        """
        self._advance(ts)
        if pnl - pnl != 0.0:
            self._holds.hold("bad_fill", f"the result of a position must be finite, was {pnl}")
            return
        if self.level != "normal" or pnl == 0.0:
            return
        state = self.state
        state.consecutive_losses = state.consecutive_losses + 1 if pnl < 0.0 else 0
        if state.consecutive_losses >= self.policy.max_consecutive_losses:
            self._holds.hold(
                "consecutive_losses",
                f"losses in a row must be fewer than {self.policy.max_consecutive_losses}, "
                f"were {state.consecutive_losses}",
            )

    @_fails_safe
    def on_reject(self, ts: int, why: str = "") -> None:
        """Take note of an order that the exchange (not this guard) refused."""
        now = self._advance(ts)
        state = self.state
        state.rejections = [one for one in state.rejections if one > now - NS_PER_HOUR]
        state.rejections.append(now)
        if len(state.rejections) >= self.policy.max_rejected_orders:
            self._holds.hold(
                "rejected_orders",
                f"rejected orders must be fewer than {self.policy.max_rejected_orders} an hour, "
                f"were {len(state.rejections)}; the last because of {why or 'nothing stated'}",
            )

    @_fails_safe
    def on_positions(self, ts: int, n_positions: int, n_orders: int = 0) -> None:
        """Take note of how many positions are open and how many orders under way."""
        self._advance(ts)
        state = self.state
        exposed = n_positions != 0 or n_orders != 0
        if exposed and not state.exposed:
            # Something was filled after all: flatten at once, not after the retry time.
            self._holds.asked = None
        became_flat = state.exposed and not exposed
        state.exposed = exposed
        if became_flat and state.holds:
            self._holds.tell("flat", self.reasons, "nothing is open any more")
            self._holds.reopen(self._age_ns)

    @_fails_safe
    def on_kill_switch(self, ts: int, present: bool = True, detail: str = "") -> None:
        """Take note of whether the kill-switch file is there; that it goes releases nothing."""
        self._advance(ts)
        self.state.kill_switch = present
        if present:
            self._holds.hold("kill_switch", detail or f"{self.policy.kill_switch_file} is there")

    @_fails_safe
    def halt(self, ts: int, detail: str, reason: str = "manual") -> None:
        """End trading: a person wants it, or something around the guard has failed.

        `reason` is one of `HOLDS`, such as ``state_damaged``.
        """
        self._advance(ts)
        if reason not in HOLDS:
            raise ValueError(f"reason must be one of {', '.join(HOLDS)}, was {reason!r}")
        self._holds.hold(reason, detail)

    def fail(self, ts: int, detail: str) -> None:
        """End trading because what surrounds the guard cannot judge. Never raises."""
        with contextlib.suppress(Exception):
            self._advance(ts)
        self._holds.fail(detail)

    @_fails_safe
    def adopt(self, ts: int, policy: RiskPolicy) -> None:
        """Let another policy count from now on; holds stay."""
        self._advance(ts)
        self._take(policy)
        self._holds.tell("policy", "", f"policy {policy.content_hash()[:12]} counts from now on")

    @_fails_safe
    def refuse(self, ts: int, what: Literal["policy", "release"], detail: str) -> None:
        """Tell that another policy, or a release, was refused: all stays as it is."""
        self._advance(ts)
        self._holds.tell("refused", what, detail)

    @property
    def found_groups(self) -> tuple[frozenset[str], ...]:
        """The groups found from correlation."""
        return self._found

    @property
    def newest_data(self) -> dict[str, int]:
        """When the newest record of each instrument came, UTC nanoseconds."""
        return dict(self._data)

    def remember_data(self, newest: Mapping[str, int]) -> None:
        """Take over which data an earlier process has seen; that it was away is no hold."""
        self._data = dict(newest)

    def set_found_groups(self, groups: Iterable[frozenset[str]]) -> None:
        """Replace the groups found from correlation; the named ones of the policy stay."""
        self._found = tuple(groups)

    # ---- what is asked

    def check(self, intent: OrderIntent, book: Book) -> Ruling:
        """Return whether an order may leave. Never raises: a failure refuses it and all others."""
        if intent.reduce_only:
            return Allowed(intent.quantity)
        try:
            ruling = self._ruling(intent, book)
            if not isinstance(ruling, Refused):
                self.state.orders.append(self.state.ts)
                self.state.exposed = True
        except Exception as error:
            self._holds.fail(f"check: {error!r}")
            return Refused("guard_failure", self._holds.failed)
        return ruling

    def actions(self, ts: int) -> tuple[Action, ...]:
        """Return what is to be done now; () while trading is normal.

        Cancelling and flattening are asked for at once, and again after `flatten_retry_secs` for
        as long as something is open.
        """
        try:
            if self.level == "normal":
                return ()
            retry_ns = int(self.policy.flatten_retry_secs * NS_PER_SECOND)
            why, due = self.reasons, self._holds.ask(ts, retry_ns)
        except Exception as error:
            self._holds.fail(f"actions: {error!r}")
            why, due = "guard_failure", True
        return (CancelAll(why), FlattenAll(why), Block(why)) if due else (Block(why),)

    def release(self, ts: int, who: str) -> str:
        """Let a person end every hold, and return their reasons.

        Losses count anew from here: the day's start and the peak become the present equity.

        Raises
        ------
        ConfigError
            If something is open, or the kill-switch file is there.
        """
        state = self.state
        if state.exposed:
            raise ConfigError(
                "trading must be flat before a release, was not: close positions and orders first"
            )
        if state.kill_switch:
            raise ConfigError(
                f"the kill-switch file {self.policy.kill_switch_file} must be gone before a "
                f"release: remove it first"
            )
        reasons = self.reasons
        # A person's word about the time as well: the clock may have been a day ahead.
        self._holds.clear(ts)
        self._data = {name: min(seen, ts) for name, seen in self._data.items()}
        self._holds.tell("release", reasons, f"released by {who}")
        return reasons

    # ---- how

    def _ruling(self, intent: OrderIntent, book: Book) -> Ruling:
        if self.level != "normal":
            return Refused("halted", f"trading has ended: {self.reasons}")
        late = outdated(intent, self.state.ts, self.policy.max_clock_lag_secs * self.pace)
        if late is not None:
            return late
        now = self._advance(max(intent.ts, self.state.ts))
        wrong = faulty(intent, book)
        if wrong is not None:
            return self._refused_for_good(wrong)
        # The account may have lost since it was last marked.
        mark(self.policy, self._holds, book.equity, book.equity)
        if self.state.holds:
            return Refused("halted", f"trading has ended: {self.reasons}")
        # An instrument of which nothing has come yet is as stale as can be.
        seen = max(self._data.get(intent.instrument_id, 0), self._data.get("", 0))
        old = stale(self.policy, intent, seen, now)
        if old is not None:
            return old
        ruling = fit(self.policy, intent, book, (*self._named, *self._found))
        if isinstance(ruling, Refused):
            return ruling
        state = self.state
        state.orders = [one for one in state.orders if one > now - NS_PER_MINUTE]
        wild = too_many(self.policy, state.orders, now)
        return ruling if wild is None else self._refused_for_good(wild)

    def _refused_for_good(self, refused: Refused) -> Refused:
        """Let a refusal that tells of more than this one order end trading."""
        if refused.why in HOLDS:
            self._holds.hold(refused.why, refused.detail)
        return refused

    def _take(self, policy: RiskPolicy) -> None:
        # All of it, or nothing if the policy is none.
        named = tuple(frozenset(names) for names in policy.correlation_groups.values())
        age_ns = int(policy.max_data_age_secs * NS_PER_SECOND)
        self.policy, self._named, self._age_ns = policy, named, age_ns

    def _advance(self, ts: int) -> int:
        lag_ns = int(self.policy.max_clock_lag_secs * self.pace * NS_PER_SECOND)
        return self._holds.advance(ts, lag_ns, self._age_ns)

"""Keep a failing expert out of the fusion for a while, and stale inputs from having a say.

A breaker stands before each expert in serving (Nygard, 2018, "Release It!", section 5.3):

    closed      the expert is asked; a failure opens the breaker
    open        it is not asked, for a number of bars that doubles with each trip, up to a cap
    half-open   the time is over: the next call is a trial; it closes the breaker or opens it again

A failure is an exception, an answer that came too late, or one that cannot be: not one answer for
each row, NaN where an answer is due, a probability outside (0, 1). A failed call gives no answer,
and the fusion goes on without. An expert that has too little history yet has not failed.

Time is counted in slots (bars), so that a replay trips where live did; only how long a call took
is measured, by a clock that is handed in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from catalog.arrays import Float64Array
from catalog.config import Config
from research.experts import ExpertOutput

logger = logging.getLogger(__name__)

type Status = Literal["closed", "open", "half-open"]


class BreakerConfig(Config):
    """When an expert is taken out, and for how long.

    Parameters
    ----------
    timeout_ms : float, optional
        An answer that took longer is a failure. The time is looked at once the answer is there:
        a call that hangs holds up its bar. None = no limit, which replays need: what they decide
        must not depend on how busy the machine is.
    first_bars : int
        Bars that the first trip keeps the expert out.
    max_bars : int
        Most bars that it is kept out, however often it has tripped.
    log_bars : int
        At most one trip of an expert is logged in this many bars; the next message tells how
        many there were since.
    """

    timeout_ms: float | None = Field(default=None, gt=0.0)
    first_bars: int = Field(default=4, ge=1)
    max_bars: int = Field(default=256, ge=1)
    log_bars: int = Field(default=96, ge=1)

    @model_validator(mode="after")
    def _check(self) -> BreakerConfig:
        if self.max_bars < self.first_bars:
            raise ValueError(
                f"max_bars must be at least first_bars ({self.first_bars}), was {self.max_bars}"
            )
        return self


@dataclass(frozen=True, slots=True)
class BreakerState:
    """What a breaker can be asked about.

    Parameters
    ----------
    name : str
        The expert.
    status : {"closed", "open", "half-open"}
        See the module.
    calls, failures, trips, refusals : int
        Calls made; how many failed; how often the breaker opened; calls that it held back.
    wait_bars : int
        How long the next trip will keep the expert out.
    retry_slot : int, optional
        First slot at which it is tried again, while open or half-open.
    reason : str
        Of the last trip; empty if there was none.
    """

    name: str
    status: Status
    calls: int
    failures: int
    trips: int
    refusals: int
    wait_bars: int
    retry_slot: int | None
    reason: str


class CircuitBreaker:
    """A breaker before one expert. See the module.

    Parameters
    ----------
    name : str
        The expert, for messages.
    config : BreakerConfig
        Settings.
    clock : callable
        Returns nanoseconds that only rise; its differences are how long calls took.
    """

    def __init__(
        self,
        name: str,
        config: BreakerConfig,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.name = name
        self._config = config
        self._clock = clock
        self._calls = self._failures = self._trips = self._refusals = 0
        self._wait = config.first_bars
        self._retry_slot: int | None = None
        self._closed_since: int | None = None
        self._half_open = False
        self._reason = ""
        self._logged_slot: int | None = None
        self._unlogged = 0

    @property
    def state(self) -> BreakerState:
        """What it is and has done, as a copy."""
        status: Status = "closed"
        if self._retry_slot is not None:
            status = "half-open" if self._half_open else "open"
        return BreakerState(
            self.name,
            status,
            self._calls,
            self._failures,
            self._trips,
            self._refusals,
            self._wait,
            self._retry_slot,
            self._reason,
        )

    def call(
        self, slot: int, due: NDArray[np.bool_], ask: Callable[[], ExpertOutput]
    ) -> ExpertOutput | None:
        """Ask the expert, unless it is out.

        Parameters
        ----------
        slot : int
            ``ts_init // interval_ns``; never before that of the last call.
        due : (k,) bool
            For which rows an answer is due: where the expert has enough history and its inputs.
        ask : callable
            Returns the expert's k answers.

        Returns
        -------
        ExpertOutput or None
            Its answers; None if it is out or has failed, for whatever reason short of an
            interrupt.
        """
        if self._retry_slot is not None:
            self._half_open = slot >= self._retry_slot
            if not self._half_open:
                self._refusals += 1
                return None
        self._calls += 1
        begun = self._clock()
        try:
            answer = ask()
            elapsed_ms = (self._clock() - begun) / 1e6
            reason = answer_fault(answer, due) or self._lateness(elapsed_ms)
        except Exception as error:
            # A model may fail in ways that nobody listed; the others still have a decision to make.
            self._fail(slot, f"raised {type(error).__name__}: {error}")
            return None
        if reason:
            self._fail(slot, reason)
            return None
        self._succeed(slot)
        return answer

    def _lateness(self, elapsed_ms: float) -> str:
        limit = self._config.timeout_ms
        if limit is None or elapsed_ms <= limit:
            return ""
        return f"took {elapsed_ms:.1f} ms, more than {limit:g} ms"

    def _succeed(self, slot: int) -> None:
        if self._retry_slot is not None:
            self._retry_slot, self._half_open, self._closed_since = None, False, slot
        elif self._closed_since is not None and slot - self._closed_since >= self._wait:
            # It has behaved for as long as the next trip would last: old trips are forgiven.
            self._wait, self._closed_since = self._config.first_bars, None

    def _fail(self, slot: int, reason: str) -> None:
        self._failures += 1
        self._trips += 1
        self._reason = reason
        self._retry_slot, self._half_open = slot + self._wait, False
        self._log(slot)
        self._wait = min(2 * self._wait, self._config.max_bars)

    def _log(self, slot: int) -> None:
        if self._logged_slot is not None and slot - self._logged_slot < self._config.log_bars:
            self._unlogged += 1
            return
        logger.warning(
            "expert %s %s; left out for %d bars (trip %d, %d not logged since the last message)",
            self.name,
            self._reason,
            self._wait,
            self._trips,
            self._unlogged,
        )
        self._logged_slot, self._unlogged = slot, 0


def answer_fault(answer: ExpertOutput, due: NDArray[np.bool_]) -> str:
    """Return why answers cannot be; empty if nothing speaks against them.

    Parameters
    ----------
    answer : ExpertOutput
        k answers.
    due : (k,) bool
        Where NaN is no answer. Elsewhere it is one: too little history, no input.
    """
    for name in ("prob_up", "mu", "sigma", "epistemic"):
        shape = getattr(answer, name).shape
        if shape != due.shape:
            return f"gave {name} of shape {shape} for {due.shape} rows"
    probability = answer.prob_up
    absent = np.isnan(probability)
    if (absent & due).any():
        return f"gave NaN for {int((absent & due).sum())} of {len(due)} rows"
    outside = ~absent & ~((probability > 0.0) & (probability < 1.0))
    if outside.any():
        return f"gave a probability of {probability[outside][0]}, outside (0, 1)"
    for name, lowest in (("mu", -np.inf), ("sigma", 0.0), ("epistemic", 0.0)):
        values = getattr(answer, name)
        wrong = np.isinf(values) | (values < lowest)
        if wrong.any():
            return f"gave {name} of {values[wrong][0]}"
    return ""


def freshness(age_bars: Float64Array, fresh_bars: float, stale_bars: float) -> Float64Array:
    """Return 1 up to `fresh_bars`, 0 from `stale_bars` on, linear in between.

    Parameters
    ----------
    age_bars : (...) float64
        Bars since each input became known; NaN = never, which counts 0.
    fresh_bars, stale_bars : float
        The first is less than the second.
    """
    left = np.clip((stale_bars - age_bars) / (stale_bars - fresh_bars), 0.0, 1.0)
    return np.where(np.isnan(left), 0.0, left)


def flat_reason(ages_bars: Mapping[str, float], flat_bars: Mapping[str, float]) -> str:
    """Return why a prediction must be flat; empty if it need not be.

    Parameters
    ----------
    ages_bars : mapping of float
        Age in bars of each input by name; NaN, or no entry, for one that was never seen.
    flat_bars : mapping of float
        Greatest age of each essential input by name; others are never too old.
    """
    reasons = []
    for name, limit in flat_bars.items():
        age = ages_bars.get(name, float("nan"))
        if age != age:
            reasons.append(f"{name} was never seen")
        elif age > limit:
            reasons.append(f"{name} is {age:g} bars old, more than {limit:g}")
    return "; ".join(reasons)

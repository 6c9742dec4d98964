"""Questions to an exchange that is not well for a while, before anything has been started."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from adapters.errors import AdapterError, RefusedError, RetryableError, TooManyRequestsError
from live.engine_process import ENGINE_OF_VARIABLE

PATIENCE_SECS = 90.0
"""How long a supervised engine waits; its supervisor gives it two minutes for its start. So long
anybody waits whom the exchange tells to: the minute's request weight may be used up by engines that
have just started, and is granted anew with the next."""
_FIRST_SECS, _MOST_SECS = 0.5, 10.0


def patient[T](
    ask: Callable[[], T],
    told: Callable[[str], None],
    patience_secs: float | None = None,
) -> T:
    """Ask until there is an answer, or the patience is over.

    A process that ends at once while an exchange is down, or counts too many requests, is started
    again at once, five times, and then never more. Who is told how long to wait does not ask
    earlier: that would shut the address out.

    Parameters
    ----------
    ask : callable
        Raises `AdapterError` where there is no answer, `RefusedError` where there never will be.
    told : callable
        Told each failure in words.
    patience_secs : float, optional
        Seconds; else `PATIENCE_SECS` under a supervisor and, where the exchange names no time to
        wait, none without: a person sees the error.

    Raises
    ------
    AdapterError
        The last one.
    """
    asked_at = time.monotonic()
    wait = _FIRST_SECS
    while True:
        try:
            return ask()
        except RefusedError:
            raise
        except AdapterError as error:
            asked = _asked_to_wait(error)
            pause = max(wait, asked or 0.0)
            if time.monotonic() + pause > asked_at + _patience(patience_secs, asked):
                raise
            told(f"the exchange is asked again in {pause:.1f} s: {error}")
            time.sleep(pause)
            wait = min(2.0 * wait, _MOST_SECS)


def _asked_to_wait(error: AdapterError) -> float | None:
    """Return how long an exchange tells us to wait, seconds; None where it does not."""
    for one in (error, error.__cause__):
        if isinstance(one, RetryableError | TooManyRequestsError) and one.retry_after_secs:
            return one.retry_after_secs
    return None


def _patience(given: float | None, asked: float | None) -> float:
    if given is not None:
        return given
    supervised = ENGINE_OF_VARIABLE in os.environ
    return PATIENCE_SECS if supervised or asked is not None else 0.0

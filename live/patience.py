"""Questions to an exchange that is not well for a while, before anything has been started."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from itertools import repeat

from adapters.errors import AdapterError, RefusedError, RetryableError, TooManyRequestsError
from live.engine_process import ENGINE_OF_VARIABLE

PATIENCE_SECS = 90.0
"""How long a supervised engine waits before it ends and is started anew. So long anybody waits whom
the exchange tells to: the minute's request weight may be used up by engines that have just started,
and is granted anew with the next."""
_FIRST_SECS, _MOST_SECS = 0.5, 10.0
_SIGN_SECS = 60.0
"""Between two signs of life, seconds: a supervisor misses them after two minutes."""


def patient[T](
    ask: Callable[[], T],
    told: Callable[[str], None],
    patience_secs: float | None = None,
    *,
    lives: Callable[[], None] = lambda: None,
) -> T:
    """Ask until there is an answer, or the patience is over.

    An exchange that is away for some seconds is answered by the same process, which is there at
    once when it is back. Who is told how long to wait does not ask earlier: that would shut the
    address out for longer. A supervised engine waits as long as that takes: another process would
    ask before it is over.

    Parameters
    ----------
    ask : callable
        Raises `AdapterError` where there is no answer, `RefusedError` where there never will be.
    told : callable
        Told each failure in words.
    patience_secs : float, optional
        Seconds; else `PATIENCE_SECS` under a supervisor, or as long as the exchange says; without
        one `PATIENCE_SECS` where the exchange names a time to wait, and none where it does not: a
        person sees the error.
    lives : callable
        Called at least once a minute while this waits.

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
            _sleep(pause, lives)
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
    if ENGINE_OF_VARIABLE in os.environ:
        return PATIENCE_SECS if asked is None else math.inf
    return 0.0 if asked is None else PATIENCE_SECS


def _sleep(secs: float, lives: Callable[[], None]) -> None:
    for part in (*repeat(_SIGN_SECS, int(secs // _SIGN_SECS)), secs % _SIGN_SECS):
        time.sleep(part)
        lives()

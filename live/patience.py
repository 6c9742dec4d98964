"""Questions to an exchange that is not well for a while, before anything has been started."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from adapters.errors import AdapterError, RefusedError, RetryableError
from live.engine_process import ENGINE_OF_VARIABLE

PATIENCE_SECS = 90.0
"""How long a supervised engine waits; its supervisor gives it two minutes for its start."""
_FIRST_SECS, _MOST_SECS = 0.5, 10.0


def patient[T](
    ask: Callable[[], T],
    told: Callable[[str], None],
    patience_secs: float | None = None,
) -> T:
    """Ask until there is an answer, or the patience is over.

    A process that ends at once while an exchange is down, or counts too many requests, is started
    again at once, five times, and then never more.

    Parameters
    ----------
    ask : callable
        Raises `AdapterError` where there is no answer, `RefusedError` where there never will be.
    told : callable
        Told each failure in words.
    patience_secs : float, optional
        Seconds; else `PATIENCE_SECS` under a supervisor and none without: a person sees the error.

    Raises
    ------
    AdapterError
        The last one.
    """
    if patience_secs is None:
        patience_secs = PATIENCE_SECS if ENGINE_OF_VARIABLE in os.environ else 0.0
    end, wait = time.monotonic() + patience_secs, _FIRST_SECS
    while True:
        try:
            return ask()
        except RefusedError:
            raise
        except AdapterError as error:
            asked = error.retry_after_secs if isinstance(error, RetryableError) else None
            pause = max(wait, min(asked or 0.0, _MOST_SECS))
            if time.monotonic() + pause > end:
                raise
            told(f"the exchange is asked again in {pause:.1f} s: {error}")
            time.sleep(pause)
            wait = min(2.0 * wait, _MOST_SECS)

"""What an answer of an exchange other than 200 means for whoever asked."""

from __future__ import annotations

import requests

from adapters.errors import AdapterError, RefusedError, RetryableError, TooManyRequestsError

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_TOO_MANY, _BANNED = 429, 418


def refusal(response: requests.Response, text: str) -> AdapterError:
    """Return the error for an answer: one that may pass, a ban, or one for good.

    Parameters
    ----------
    response : requests.Response
        Other than 200.
    text : str
        What the error says.

    Returns
    -------
    AdapterError
        `RetryableError` where it may pass; `TooManyRequestsError` for an address that is banned,
        which must not be asked again at once, or the ban is prolonged; else `RefusedError`.
    """
    status, waits = response.status_code, response.headers.get("Retry-After", "")
    secs = float(waits) if waits.isdecimal() else None
    if status in _PASSING:
        return RetryableError(text, secs, too_many=status == _TOO_MANY)
    return TooManyRequestsError(text, secs) if status == _BANNED else RefusedError(text)

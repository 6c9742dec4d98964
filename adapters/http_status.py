"""What an answer of an exchange other than 200 means for whoever asked."""

from __future__ import annotations

import requests

from adapters.errors import AdapterError, RefusedError, RetryableError

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_BANNED = 418


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
        `RetryableError` where it may pass; a plain one for an address that is banned, which must
        not be asked again at once, or the ban is prolonged; else `RefusedError`.
    """
    if response.status_code in _PASSING:
        waits = response.headers.get("Retry-After", "")
        return RetryableError(text, float(waits) if waits.isdecimal() else None)
    return (AdapterError if response.status_code == _BANNED else RefusedError)(text)

"""Errors of the outside world, grouped by what the caller does next.

AdapterError             (a DataError: exit code 3)
├── RetryableError       try the same request again later
├── NotFoundError        skip: the thing is not there (yet)
└── RefusedError         stop: trying again would give the same answer
"""

from __future__ import annotations

from catalog.errors import DataError


class AdapterError(DataError):
    """Something outside did not give what was asked."""


class RetryableError(AdapterError):
    """A request failed in a way that may pass: a dropped connection, a busy server, a short body.

    Parameters
    ----------
    message : str
        What happened, with the address.
    retry_after_secs : float or None
        How long the server asked us to wait, if it did.
    """

    def __init__(self, message: str, retry_after_secs: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_secs = retry_after_secs


class NotFoundError(AdapterError):
    """The server says that there is no such thing (404)."""


class RefusedError(AdapterError):
    """The request or the answer is wrong, and repeating it would not help."""

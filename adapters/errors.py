"""Errors of the outside world, grouped by what the caller does next.

AdapterError             (a DataError: exit code 3)
├── RetryableError       try the same request again later
├── TooManyRequestsError ask less, and not before the time that was named
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
    too_many : bool
        Whether it failed because we ask too often (429).
    """

    def __init__(
        self, message: str, retry_after_secs: float | None = None, *, too_many: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_secs = retry_after_secs
        self.too_many = too_many


class TooManyRequestsError(AdapterError):
    """We ask too often (429), or are shut out for it (418): asking on prolongs it.

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

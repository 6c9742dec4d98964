"""What the exchange refuses, in the venue's own codes."""

from __future__ import annotations

from typing import Any


class ExchangeError(Exception):
    """A request that is refused.

    Parameters
    ----------
    code : int
        The venue's code, such as -2011.
    message : str
        The venue's words.
    status : int
        HTTP status, 400 for what the client did wrong.
    retry_after : int, optional
        Seconds after which the client may ask again.
    """

    def __init__(
        self, code: int, message: str, *, status: int = 400, retry_after: int | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return the error as the venue's REST interface words it."""
        return {"code": self.code, "msg": self.message}


def unknown_order() -> ExchangeError:
    """Return the refusal of a cancel for which there is no open order."""
    return ExchangeError(-2011, "Unknown order sent.")


def no_such_order() -> ExchangeError:
    """Return the answer to a question about an order that was never sent."""
    return ExchangeError(-2013, "Order does not exist.")


def mandatory(name: str) -> ExchangeError:
    """Return the refusal of a request without a parameter that it must have."""
    return ExchangeError(
        -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
    )

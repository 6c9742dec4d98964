"""Who sends a request, and whether it is signed as the venue demands."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from tests.exchange.account import Account
from tests.exchange.errors import ExchangeError, mandatory

_MAX_WINDOW_MS = 60_000
_WINDOW_MS = 5_000
_AHEAD_MS = 1_000


def account_of(accounts: Mapping[str, Account], key: str | None) -> Account:
    """Return the account that a key opens.

    Raises
    ------
    ExchangeError
        -2014 or -2015 for a key that is missing or unknown.
    """
    if not key:
        raise ExchangeError(-2014, "API-key format invalid.", status=401)
    account = accounts.get(key)
    if account is None:
        raise ExchangeError(-2015, "Invalid API-key, IP, or permissions for action.", status=401)
    return account


def check_time(params: Mapping[str, Any], now_ms: int) -> None:
    """Refuse a request whose time is not the exchange's, within its own window.

    Raises
    ------
    ExchangeError
        -1102 without a time, -1021 outside of the window, -1131 for too long a window.
    """
    if not params.get("timestamp"):
        raise mandatory("timestamp")
    try:
        stamp, window = int(params["timestamp"]), int(params.get("recvWindow") or _WINDOW_MS)
    except ValueError:
        raise ExchangeError(-1100, "Illegal characters found in parameter 'timestamp'.") from None
    if window > _MAX_WINDOW_MS:
        raise ExchangeError(-1131, "recvWindow must be less than 60000")
    if stamp >= now_ms + _AHEAD_MS:
        raise ExchangeError(
            -1021, "Timestamp for this request was 1000ms ahead of the server's time."
        )
    if now_ms - stamp > window:
        raise ExchangeError(-1021, "Timestamp for this request is outside of the recvWindow.")


def signature(secret: str, payload: str) -> str:
    """Return the HMAC-SHA256 of a payload, hexadecimal."""
    return hmac.new(secret.encode(), payload.encode(), hashlib.sha256).hexdigest()


def check_signature(secret: str, payload: str, given: str | None) -> None:
    """Refuse what is not signed with the account's secret.

    Raises
    ------
    ExchangeError
        -1102 without a signature, -1022 for a wrong one.
    """
    if not given:
        raise mandatory("signature")
    if not hmac.compare_digest(signature(secret, payload), str(given)):
        raise ExchangeError(-1022, "Signature for this request is not valid.")


def unsigned(query: str) -> str:
    """Return a query string without its signature, in the client's own order and encoding."""
    return "&".join(one for one in query.split("&") if one and not one.startswith("signature="))


def sorted_payload(params: Mapping[str, Any]) -> str:
    """Return what is signed over the WebSocket API: all but the signature, in order of the name."""
    return "&".join(f"{key}={_text(params[key])}" for key in sorted(params) if key != "signature")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

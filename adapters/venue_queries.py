"""What is asked of an exchange before a node runs: how it defines its instruments, what time it is.

Without keys. Only Binance is asked so far; of other venues the catalog's definitions are taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import requests

from adapters.asked import Asked
from adapters.connections import Connection
from adapters.errors import AdapterError
from adapters.http_status import refusal
from adapters.venues import BINANCE, Venue
from catalog.instruments import symbol_of

_TIMEOUT_SECS, _DEFINITIONS_SECS = 10.0, 45.0
_BINANCE_URLS = {"live": "https://fapi.binance.com", "testnet": "https://testnet.binancefuture.com"}
_NS_PER_MS = 1_000_000


def load_definitions(
    venue: Venue, connection: Connection, names: Sequence[str]
) -> tuple[Any, ...] | None:
    """Return the exchange's own definitions of instruments, in the order of `names`.

    None for a venue that is not asked. An instrument that the exchange does not have is left out.

    Raises
    ------
    AdapterError
        If the exchange does not answer.
    """
    if venue.name != BINANCE.name:
        return None
    from nautilus_trader.adapters.binance import load_binance_instruments

    config = venue.data(connection).config

    # On a thread: its repetitions at a silent server take minutes, and cannot be ended.
    asked: Asked[list[Any]] = Asked(lambda: list(asyncio.run(load_binance_instruments(config))))
    asked.join(_DEFINITIONS_SECS)
    if asked.answer is None:
        error = asked.error or TimeoutError(f"no answer within {_DEFINITIONS_SECS:g} s")
        where = connection.http or venue.title
        raise AdapterError(
            f"{where} must say which instruments it has, did not ({type(error).__name__}: "
            f"{str(error)[:200]}): check the address and the network, then start again"
        ) from error
    known = {str(one.id): one for one in asked.answer}
    return tuple(known[name] for name in names if name in known)


def market_time_ns(venue: Venue, connection: Connection, instrument_id: str) -> int | None:
    """Return the stamp of an exchange's newest mark price, UTC nanoseconds.

    On a real exchange that is now, to a second or three; one that plays recorded data is in the
    past. None for a venue that is not asked.

    Raises
    ------
    AdapterError
        If the exchange does not answer.
    """
    if venue.name != BINANCE.name:
        return None
    url = connection.http or _BINANCE_URLS[connection.environment]
    symbol = symbol_of(instrument_id)
    address = f"{url}/fapi/v1/premiumIndex"
    try:
        answer = requests.get(address, params={"symbol": symbol}, timeout=_TIMEOUT_SECS)
        if answer.status_code != requests.codes.ok:
            text = f"{address} must answer for {symbol}, answered {answer.status_code}"
            raise refusal(answer, f"{text}: {answer.text[:200]}")
        content = answer.json()
        found = content[0] if isinstance(content, list) else content
        return int(found["time"]) * _NS_PER_MS
    except (requests.RequestException, ValueError, LookupError, TypeError) as error:
        raise AdapterError(
            f"{url} must say what time its market has, did not ({type(error).__name__}): check "
            "the address and the network, then start again"
        ) from error

"""An exchange that answers with a page, or with nothing: that may pass, and is no error of ours."""

from __future__ import annotations

import socket
import time

import pytest

from adapters import venue_queries
from adapters.accounts import BinanceAccount
from adapters.connections import Connection, Keys
from adapters.errors import AdapterError, RetryableError, TooManyRequestsError
from adapters.venue_queries import load_definitions, market_time_ns
from adapters.venues import BINANCE
from tests.adapters.one_answer import answering

BTC = "BTCUSDT-PERP.BINANCE"
PAGE = b"<html>key: we are back soon</html>"


def test_a_page_instead_of_an_account_may_pass() -> None:
    with answering(200, PAGE) as url:
        account = BinanceAccount(Connection("testnet", url, Keys(("key", "secret"))), attempts=2)
        with pytest.raises(AdapterError, match="did not in 2 attempts") as caught:
            account.server_ns()
        account.close()
    assert isinstance(caught.value.__cause__, RetryableError)
    assert "must answer with JSON" in str(caught.value)
    assert "key" not in str(caught.value)


@pytest.mark.parametrize("body", [PAGE, b"[]", b"{}", b"null", b'{"time": "soon"}'])
def test_a_page_instead_of_a_market_may_pass(body: bytes) -> None:
    with answering(200, body) as url, pytest.raises(AdapterError, match="did not") as caught:
        market_time_ns(BINANCE, Connection("live", url), BTC)
    assert type(caught.value) is AdapterError


def test_who_is_shut_out_with_a_page_is_told_for_how_long() -> None:
    with (
        answering(418, PAGE, Retry_After="120") as url,
        pytest.raises(TooManyRequestsError) as caught,
    ):
        market_time_ns(BINANCE, Connection("live", url), BTC)
    assert caught.value.retry_after_secs == 120.0


def test_a_server_that_says_nothing_is_not_waited_for_for_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(venue_queries, "_DEFINITIONS_SECS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(AdapterError, match="TimeoutError"):
            load_definitions(BINANCE, Connection("live", url), [BTC])
        assert time.monotonic() - began < 10.0

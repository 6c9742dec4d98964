"""Who is told to wait by an exchange waits: asking on is what turns a limit into a ban."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from adapters.accounts import BinanceAccount
from adapters.connections import Connection, Keys
from adapters.errors import AdapterError, TooManyRequestsError


@contextmanager
def refusing(retry_after: str, asked: list[float], status: int = 429) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(time.monotonic())
            self.send_response(status)
            self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(url: str) -> None:
    account = BinanceAccount(Connection("testnet", url, Keys(("key", "secret"))), attempts=2)
    try:
        with pytest.raises(AdapterError, match="did not in"):
            account.server_ns()
    finally:
        account.close()


def test_a_long_wait_ends_the_question_and_a_short_one_is_kept() -> None:
    asked: list[float] = []
    with refusing("120", asked) as url:
        began = time.monotonic()
        ask(url)
    assert len(asked) == 1
    assert time.monotonic() - began < 5.0
    asked.clear()
    with refusing("1", asked) as url:
        ask(url)
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 0.9


@pytest.mark.parametrize(
    ("status", "retry_after", "too_many", "secs"),
    [
        (429, "120", True, 120.0),
        (418, "300", True, 300.0),
        (418, "", True, None),
        (503, "", False, None),
        (502, "30", False, None),
        (401, "", False, None),
    ],
)
def test_who_asks_too_often_is_told_so_and_for_how_long(
    status: int, retry_after: str, too_many: bool, secs: float | None
) -> None:
    with refusing(retry_after, [], status) as url:
        account = BinanceAccount(Connection("testnet", url, Keys(("key", "secret"))), attempts=1)
        with pytest.raises(AdapterError) as caught:
            account.server_ns()
        account.close()
    assert isinstance(caught.value, TooManyRequestsError) is too_many
    assert getattr(caught.value, "retry_after_secs", None) == secs

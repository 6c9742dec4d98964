"""Who is told to wait by an exchange waits: asking on is what turns a limit into a ban."""

from __future__ import annotations

import time

import pytest

from adapters.accounts import BinanceAccount
from adapters.connections import Connection, Keys
from adapters.errors import AdapterError, TooManyRequestsError
from tests.adapters.one_answer import answering


def ask(url: str) -> None:
    account = BinanceAccount(Connection("testnet", url, Keys(("key", "secret"))), attempts=2)
    try:
        with pytest.raises(AdapterError, match="did not in"):
            account.server_ns()
    finally:
        account.close()


def test_a_long_wait_ends_the_question_and_a_short_one_is_kept() -> None:
    asked: list[float] = []
    with answering(429, asked=asked, Retry_After="120") as url:
        began = time.monotonic()
        ask(url)
    assert len(asked) == 1
    assert time.monotonic() - began < 5.0
    asked.clear()
    with answering(429, asked=asked, Retry_After="1") as url:
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
    with answering(status, Retry_After=retry_after) as url:
        account = BinanceAccount(Connection("testnet", url, Keys(("key", "secret"))), attempts=1)
        with pytest.raises(AdapterError) as caught:
            account.server_ns()
        account.close()
    assert isinstance(caught.value, TooManyRequestsError) is too_many
    assert getattr(caught.value, "retry_after_secs", None) == secs

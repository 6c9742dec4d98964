"""The account is asked again and again, but less and less often where it does not answer."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import AdapterError
from live import account_watch
from live.account_watch import LEAST_PAUSE_SECS, MOST_PAUSE_SECS, AccountWatch


def until(what: Any) -> None:
    deadline = time.monotonic() + 10.0
    while not what() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert what()


def test_an_account_that_does_not_answer_is_asked_with_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1_000.0]
    monkeypatch.setattr(account_watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def refuse(*_: object) -> None:
        raise AdapterError("banned")

    told: list[str] = []
    parts: Any = SimpleNamespace(
        store=SimpleNamespace(read=lambda section: None),
        recorder=SimpleNamespace(fills=[], orders={}),
        strategy=SimpleNamespace(alive=list),
        request=SimpleNamespace(traded=()),
    )
    teller = SimpleNamespace(event=lambda kind, text: told.append(text))
    watch = AccountWatch(parts, SimpleNamespace(state=refuse), lambda: 0, teller)  # type: ignore[arg-type]
    watch.start()
    pauses = []
    try:
        for count in range(1, 9):
            while watch.failures < count:
                clock[0] += 1.0
                # A fill asks at once, but not of one who has just refused.
                parts.recorder.fills.append(object())
                watch.look(0)
                if clock[0] >= watch._ask_at - 1.0 or count == 1:
                    time.sleep(0.02)
            until(lambda count=count: len(told) == count)
            pauses.append(watch._pause)
    finally:
        watch.close()
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]
    assert (pauses[0], pauses[-1]) == (LEAST_PAUSE_SECS, MOST_PAUSE_SECS)
    assert clock[0] - 1_000.0 >= sum(pauses[:-1])

"""A start waits for an exchange that is not well, and for no other."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import AdapterError, RefusedError, RetryableError, TooManyRequestsError
from live import patience
from live.engine_process import ENGINE_OF_VARIABLE
from live.patience import PATIENCE_SECS, patient


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(patience, "time", clock)
    return pauses


def failing(times: int, error: AdapterError) -> Callable[[], str]:
    left = [error] * times

    def ask() -> str:
        if left:
            raise left.pop()
        return "answered"

    return ask


def test_it_waits_longer_and_longer_or_as_long_as_it_was_told_to(slept: list[float]) -> None:
    told: list[str] = []
    assert patient(failing(3, AdapterError("down")), told.append, 60.0) == "answered"
    assert slept == [0.5, 1.0, 2.0]
    assert told[0] == "the exchange is asked again in 0.5 s: down"
    slept.clear()
    patient(failing(1, RetryableError("429", 7.0)), told.append, 60.0)
    assert slept == [7.0]


def test_it_waits_no_longer_than_its_patience(slept: list[float]) -> None:
    with pytest.raises(AdapterError, match="down"):
        patient(failing(100, AdapterError("down")), lambda _: None, 60.0)
    assert 45.0 < sum(slept) <= 60.0


def test_a_refusal_is_final(slept: list[float]) -> None:
    with pytest.raises(RefusedError):
        patient(failing(1, RefusedError("key")), lambda _: None, 60.0)
    assert slept == []


def test_only_a_supervised_engine_waits(
    monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    monkeypatch.delenv(ENGINE_OF_VARIABLE, raising=False)
    with pytest.raises(AdapterError):
        patient(failing(1, AdapterError("down")), lambda _: None)
    monkeypatch.setenv(ENGINE_OF_VARIABLE, "state:A")
    assert patient(failing(1, AdapterError("down")), lambda _: None) == "answered"


def test_a_supervised_engine_waits_as_long_as_it_is_told_to_and_says_that_it_lives(
    monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    monkeypatch.setenv(ENGINE_OF_VARIABLE, "state:A")
    lives: list[float] = []
    shut_out = TooManyRequestsError("418", 7_230.0)
    answer = patient(failing(1, shut_out), lambda _: None, lives=lambda: lives.append(sum(slept)))
    # Its next process would ask before that is over.
    assert answer == "answered"
    assert sum(slept) == 7_230.0
    assert max(slept) <= 60.0
    assert len(lives) == len(slept)
    with pytest.raises(AdapterError):
        patient(failing(100, AdapterError("down")), lambda _: None)
    assert sum(slept) <= 7_230.0 + PATIENCE_SECS


@pytest.mark.parametrize("kind", [RetryableError, TooManyRequestsError])
def test_anybody_waits_as_long_as_the_exchange_says(
    monkeypatch: pytest.MonkeyPatch, slept: list[float], kind: Any
) -> None:
    monkeypatch.delenv(ENGINE_OF_VARIABLE, raising=False)
    assert patient(failing(1, kind("429", 41.0)), lambda _: None) == "answered"
    # Asking any earlier would only prolong it.
    assert slept == [41.0]
    slept.clear()
    wrapped = AdapterError("did not answer in 4 attempts")
    wrapped.__cause__ = kind("429", 30.0)
    assert patient(failing(1, wrapped), lambda _: None) == "answered"
    assert slept == [30.0]
    slept.clear()
    with pytest.raises(kind):
        patient(failing(1, kind("418", 7_200.0)), lambda _: None)
    assert slept == []

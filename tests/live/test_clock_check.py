"""Engines on a machine whose clock is not the exchange's."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import AdapterError
from live import clock_check
from live.clock_check import ClockCheck, clock_fault, require_clock
from strategies.guard_orders import REFUSALS
from tests.live.engine_world import EngineMarket, EngineProcess
from tests.live.test_book_owner import Told
from tests.live.test_engine import on


def off(secs: float) -> Any:
    """Return an account of an exchange whose clock our own is so far ahead of."""
    return SimpleNamespace(server_ns=lambda: time.time_ns() - round(secs * 1e9))


@pytest.mark.parametrize(
    ("secs", "words"),
    [(0.0, ""), (0.8, ""), (-3.9, ""), (1.0, "is 1.0 s ahead"), (-10.0, "is 10.0 s behind")],
)
def test_a_clock_may_be_off_by_less_than_the_exchange_takes(secs: float, words: str) -> None:
    fault = clock_fault(off(secs))
    assert words in fault
    assert bool(words) == bool(fault)
    if words:
        with pytest.raises(AdapterError, match=words):
            require_clock(off(secs))


def test_an_answer_that_took_long_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter((10.0, 11.5))
    monkeypatch.setattr(clock_check.time, "monotonic", lambda: next(moments))
    assert clock_fault(off(-10.0)) == ""


def test_nothing_is_opened_while_the_clock_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(clock_check.time, "monotonic", lambda: now[0])
    account, told = off(0.0), Told()
    check = ClockCheck(account, told)
    check._thread = lambda target, **_: SimpleNamespace(start=target)  # type: ignore[assignment]
    account.server_ns = off(-10.0).server_ns
    check.look(0)
    assert check.refused() is None, "it is not time yet"
    now[0] += 61.0
    check.look(0)
    refused = check.refused()
    assert refused is not None
    assert refused.why in REFUSALS
    account.server_ns = off(0.0).server_ns
    now[0] += 6.0
    check.look(0)
    assert check.refused() is None
    assert [text.partition(":")[0] for text in told.texts] == ["clock", "clock"]


@pytest.mark.slow
@pytest.mark.parametrize("skew_ms", [10_000, -10_000])
def test_an_engine_does_not_start_with_a_clock_that_is_off(
    tmp_path: Path, skew_ms: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    market = EngineMarket.make(tmp_path_factory.mktemp("clock"))
    with market.exchange() as exchange:
        exchange.remote.fault("clock_skew", skew_ms=skew_ms, seconds=600.0)
        with EngineProcess(market, tmp_path, on(exchange)) as engine:
            code, text = engine.wait()
        words = " ".join(text.split())
        assert code not in (0, 5), text
        assert "is 10.0 s " + ("behind" if skew_ms > 0 else "ahead") in words
        assert "set it by NTP" in words
        assert not (tmp_path / "engines" / "synthetic" / "engine.db").exists()

"""An engine that stops is asked to, or it has failed: the two look alike to the node."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from live.engine import DONE, FAILED, Engine
from live.stop_signals import StopSignals


def ended(*, asked: bool) -> Any:
    told: list[tuple[str, str]] = []
    quiet = SimpleNamespace(offer=lambda status: None, close=lambda failure="": None, failed=0)
    guard = SimpleNamespace(
        watch=SimpleNamespace(save=lambda: None), store=SimpleNamespace(give_up=lambda: None)
    )
    engine = Engine.__new__(Engine)
    engine.parts = SimpleNamespace(guard=guard)  # type: ignore[assignment]
    engine.view = SimpleNamespace(state="stopping", last_error="")  # type: ignore[assignment]
    engine.view.status = lambda: engine.view.state  # type: ignore[assignment, method-assign, return-value]
    engine.teller = SimpleNamespace(event=lambda kind, text: told.append((kind, text)))
    engine._published = engine._alerts = quiet  # type: ignore[assignment]
    engine._tap = SimpleNamespace(look=lambda: None)  # type: ignore[assignment]
    engine._gate, engine._reason = None, ""
    engine.asked = lambda: asked
    return engine.ended(), told


def test_a_node_that_ends_unasked_has_failed_so_that_a_supervisor_starts_it_again() -> None:
    outcome, told = ended(asked=False)
    assert (outcome.code, outcome.status) == (FAILED, "failed")
    assert told == [("end", outcome.reason)]
    assert "nobody had asked it to" in outcome.reason
    outcome, _ = ended(asked=True)
    assert (outcome.code, outcome.reason) == (DONE, "stopped in order")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_heard_also_where_the_node_has_put_its_own_handler(number: int) -> None:
    heard: list[int] = []
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert not signals.seen
        signal.signal(number, lambda number, frame: heard.append(number))
        os.kill(os.getpid(), number)
        assert signals.seen
    assert signals.seen
    assert heard == [number]
    assert signal.getsignal(number) == before
    with StopSignals() as again:
        assert not again.seen

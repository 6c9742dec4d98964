"""An order that the engine does not know is no reason to fail."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from strategies.order_desk import OrderDesk


@pytest.mark.parametrize(
    ("live", "known", "cancelled"), [(True, True, 1), (True, False, 0), (False, False, 1)]
)
def test_only_what_the_engine_knows_is_cancelled_there(
    live: bool, known: bool, cancelled: int
) -> None:
    asked: list[str] = []
    cache = SimpleNamespace(order=lambda identity: object() if known else None)
    desk: Any = OrderDesk.__new__(OrderDesk)
    desk._strategy = SimpleNamespace(
        cache=cache, cancel_order=lambda identity: asked.append(str(identity))
    )
    desk.outbox = object() if live else None
    desk.recall("T-S1")
    assert asked == ["T-S1"] * cancelled

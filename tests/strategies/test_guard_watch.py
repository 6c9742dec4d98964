"""When what a guard remembers reaches the disk."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from strategies import guard_watch
from strategies.guard_store import GuardStore
from strategies.guard_watch import GuardWatch
from tests.strategies.guards import START, make

SECOND = 1_000_000_000


@pytest.fixture
def watched(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(guard_watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    guard = make()
    guard.on_equity(START, 100_000.0)
    guard.on_positions(START, 1)
    watch = GuardWatch(guard, GuardStore(tmp_path / "guard.json"))
    watch.save()

    def stored():
        return json.loads((tmp_path / "guard.json").read_text())["state"]

    return guard, watch, stored, clock


def test_time_and_equity_alone_wait_five_seconds(watched):
    guard, watch, stored, clock = watched
    guard.on_equity(START + SECOND, 99_990.0)
    watch.save()
    assert stored()["equity"] == 100_000.0
    clock[0] += 5.0
    watch.save()
    assert (stored()["equity"], stored()["ts"]) == (99_990.0, START + SECOND)


@pytest.mark.parametrize(
    ("happens", "key"),
    [
        (lambda guard: guard.on_equity(START + 1, 100_001.0), "peak_equity"),
        (lambda guard: guard.on_equity(START + 1, 50_000.0), "holds"),
        (lambda guard: guard.halt(START + 1, "anna"), "holds"),
        (lambda guard: guard.on_closed(START + 1, -1.0), "consecutive_losses"),
        (lambda guard: guard.on_reject(START + 1, "x"), "rejections"),
        (lambda guard: guard.on_positions(START + 1, 0), "exposed"),
        (lambda guard: guard.refuse(START + 1, "policy", "x"), "history"),
        (lambda guard: guard.on_clock(START + 86_400 * SECOND), "day"),
    ],
)
def test_what_a_restart_must_know_is_stored_at_once(watched, happens, key):
    guard, watch, stored, _ = watched
    before = stored()[key]
    happens(guard)
    watch.save()
    assert stored()[key] != before


def test_a_disk_that_fails_is_tried_again_at_the_next_look(watched, monkeypatch):
    guard, watch, _, _ = watched
    tries = []

    def fails(state):
        tries.append(state)
        raise OSError("full")

    monkeypatch.setattr(watch._store, "save", fails)
    guard.halt(START + 1, "anna")
    watch.save()
    watch.save()
    assert len(tries) == 2
    assert "guard_failure" in guard.reasons

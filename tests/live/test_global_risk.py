"""Limits over all engines of an account: also at the same moment, and with one of them dead."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR
from live import global_risk
from live.alerts import Alert
from live.engine_status import EngineStatus, PositionStatus
from live.global_risk import BY_GLOBAL_RISK, GlobalGate, GlobalRisk, measure, release_places
from live.kill_switch import lift_kill, read_kill
from live.registry import Registry
from live.shared_book import DayStart, Place, SharedBook
from live.state_folder import StateFolder
from strategies.execution import InstrumentTerms
from strategies.guard_orders import OrderIntent
from strategies.risk_policy import RiskPolicy

ROOT = Path(__file__).parents[2]
NOW = 20_000 * NS_PER_DAY + 5 * NS_PER_HOUR
POLICY = RiskPolicy(
    max_positions=3,
    max_correlated=1,
    correlation_groups={"majors": ("BTC.X", "ETH.X")},
)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[SharedBook]:
    found = SharedBook(tmp_path / "book.db")
    yield found
    found.close()


def intent(instrument: str, side: int = 1) -> OrderIntent:
    terms = InstrumentTerms(instrument, Decimal(1), Decimal(1), Decimal(0), Decimal(0))
    return OrderIntent(NOW, instrument, side, 1.0, 100.0, terms)  # type: ignore[arg-type]


def place(engine: str, instrument: str, side: int = 1) -> Place:
    return Place(engine, instrument, side > 0, side < 0)


def test_places_are_counted_over_all_engines(book: SharedBook) -> None:
    for name in ("A", "B", "C"):
        assert book.take(POLICY, place(name, f"{name}.X")) is None
    refused = book.take(POLICY, place("D", "D.X"))
    assert refused is not None
    assert refused.why == "global_positions"
    assert "at most 3, D.X would be number 4" in refused.detail
    # What has a place already may be added to.
    assert book.take(POLICY, place("A", "A.X", -1)) is None
    assert book.places()[0] == Place("A", "A.X", True, True)
    book.hold("B", {})
    assert book.take(POLICY, place("D", "D.X")) is None


def test_groups_are_counted_over_all_engines(book: SharedBook) -> None:
    assert book.take(POLICY, place("BTC", "BTC.X")) is None
    refused = book.take(POLICY, place("ETH", "ETH.X", -1))
    assert refused is not None
    assert refused.why == "global_correlated"
    one_sided = POLICY.model_copy(update={"correlated_count": "same_side"})
    assert book.take(one_sided, place("ETH", "ETH.X", -1)) is None
    refused = book.take(one_sided, place("ETH", "ETH.X", 1))
    assert refused is not None


TAKE = """
import sys, time
sys.path.insert(0, {root!r})
from live.shared_book import Place, SharedBook
from strategies.risk_policy import RiskPolicy
book, policy = SharedBook({path!r}, busy_timeout_secs=20.0), RiskPolicy(max_positions=3)
print("ready", flush=True)
sys.stdin.readline()
taken = sum(book.take(policy, Place({name!r}, {name!r} + str(n), True, False)) is None
            for n in range(5))
print(taken, flush=True)
sys.stdin.readline()
"""


def test_engines_that_decide_at_the_same_moment_cannot_take_the_last_place_twice(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "book.db")
    engines = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE.format(root=str(ROOT), path=path, name=name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ABC"
    ]
    try:
        for one in engines:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in engines:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        taken = [int(one.stdout.readline()) for one in engines if one.stdout is not None]
        assert sum(taken) == 3
    finally:
        for one in engines:
            one.kill()
            one.communicate()
    # They are dead now, and what they hold is not free.
    gate = GlobalGate(StateFolder(tmp_path), "D")
    refused = gate.admit(RiskPolicy(max_positions=3), intent("D.X"))
    assert refused is not None
    assert refused.why == "global_positions"
    for name in "ABC":
        release_places(tmp_path, name)
    assert gate.admit(RiskPolicy(max_positions=3), intent("D.X")) is None
    gate.close()


def test_a_gate_gives_back_what_it_took_and_refuses_what_it_cannot_ask(tmp_path: Path) -> None:
    gate = GlobalGate(StateFolder(tmp_path), "A")
    book = SharedBook(tmp_path / "book.db")
    assert gate.admit(POLICY, intent("A.X")) is None
    assert [one.instrument for one in book.places()] == ["A.X"]
    gate.hold({"A.X": (True, False)})
    gate.hold({})
    assert book.places() == ()
    # Taken, but its order was never sent.
    assert gate.admit(POLICY, intent("A.X")) is None
    gate.hold({})
    assert book.places() == ()
    # What is in the way of a write is in the way of an order.
    book._connection.execute("BEGIN IMMEDIATE")
    refused = gate.admit(POLICY, intent("A.X"))
    assert refused is not None
    assert refused.why == "global_unknown"
    gate.hold({"A.X": (True, False)})
    assert gate.failures == 2
    book._connection.execute("ROLLBACK")
    gate.hold({"A.X": (True, False)})
    assert len(book.places()) == 1
    gate.close()
    book.close()
    (tmp_path / "bad.db").write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match=r"book of all engines .*bad\.db"):
        SharedBook(tmp_path / "bad.db")


def engine(name: str, equity: float, **fields: object) -> EngineStatus:
    given = {"last_bar_ns": NOW, "heartbeat_ns": NOW, "state": "trading", **fields}
    return EngineStatus(engine=name, equity=equity, **given)  # type: ignore[arg-type]


def test_losses_are_added_up_over_engines_and_begin_with_the_day(book: SharedBook) -> None:
    first = {"A": engine("A", 1000.0), "B": engine("B", 1000.0)}
    assert measure(first, book, NOW).loss_frac == 0.0
    later = {"A": engine("A", 900.0), "B": engine("B", 1040.0)}
    found = measure(later, book, NOW)
    assert (found.start, found.equity) == (2000.0, 1940.0)
    assert found.loss_frac == pytest.approx(0.03)
    tomorrow = {
        name: engine(name, one.equity or 0.0, last_bar_ns=NOW + NS_PER_DAY)
        for name, one in later.items()
    }
    assert measure(tomorrow, book, NOW + NS_PER_DAY).loss_frac == 0.0


def test_a_dead_engine_counts_at_its_stops(book: SharedBook) -> None:
    held = {
        "A.X": PositionStatus(2.0, 100.0, 110.0, 100.0),
        "B.X": PositionStatus(-1.0, 100.0, 90.0, None),
        "C.X": PositionStatus(-1.0, 100.0, 90.0, 95.0),
    }
    alive = {"A": engine("A", 1000.0, positions=held)}
    assert measure(alive, book, NOW).equity == 1000.0
    dead = {"A": engine("A", 1000.0, positions=held, heartbeat_ns=NOW - 61 * 10**9)}
    found = measure(dead, book, NOW)
    # 2 x (110 - 100), a tenth of 90, and 95 - 90.
    assert found.equity == pytest.approx(1000.0 - 20.0 - 9.0 - 5.0)
    assert found.dead == ("A",)
    assert measure(dead, book, NOW, alive=lambda one: True).equity == 1000.0
    # One that starts, and for long asks an exchange that is away, lives and knows nothing.
    for secs, equity in ((59, 1000.0), (61, 966.0)):
        asks = engine("A", 1000.0, positions=held, state="starting", started_ns=NOW - secs * 10**9)
        assert measure({"A": asks}, book, NOW).equity == pytest.approx(equity)


def test_what_is_paid_in_or_taken_out_is_neither_loss_nor_gain(book: SharedBook) -> None:
    measure({"A": engine("A", 1000.0), "B": engine("B", 1000.0)}, book, NOW)
    # 20 of 1,000 were lost, then half of the rest was taken out.
    taken = {"A": engine("A", 490.0, transfer_scale=0.5), "B": engine("B", 1000.0)}
    found = measure(taken, book, NOW)
    assert (found.start, found.equity) == (1500.0, 1490.0)
    paid = {"A": engine("A", 490.0, transfer_scale=0.5), "B": engine("B", 1e4, transfer_scale=10.0)}
    assert measure(paid, book, NOW).loss_frac == pytest.approx(10.0 / 10_500.0)


def test_a_book_that_is_removed_is_made_again_with_what_all_engines_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    folder = StateFolder(tmp_path)
    registry = Registry(folder.registry)
    held = {"B.X": PositionStatus(-1.0, 100.0, 100.0, 110.0)}
    told = {"last_bar_ns": now, "heartbeat_ns": now, "day_start_equity": 1000.0}
    registry.publish(engine("A", 1000.0, **told))
    registry.publish(engine("B", 985.0, positions=held, **told))
    policy = RiskPolicy(max_positions=2, max_daily_loss=0.05)
    one, two = GlobalGate(folder, "A"), GlobalGate(folder, "C")
    one.hold({"A.X": (True, False)})
    for part in ("", "-wal", "-shm"):
        folder.shared_book.with_name(f"book.db{part}").unlink(missing_ok=True)
    refused = two.admit(policy, intent("C.X"))
    assert refused is not None
    assert refused.why == "global_unknown"
    assert "was removed or replaced" in refused.detail
    # It says again what it has said before: the file does not know it.
    one.hold({"A.X": (True, False)})
    book = SharedBook(folder.shared_book)
    assert book.places() == (Place("A", "A.X", True, False), Place("B", "B.X", False, True))
    assert book.day_starts(now // NS_PER_DAY, {})["B"].equity == 1000.0
    monkeypatch.setattr(global_risk.time, "monotonic", lambda: 1e12)
    refused = two.admit(policy, intent("C.X"))
    assert refused is not None
    assert refused.why == "global_positions"
    # Only the file itself, while others still use what lies beside it.
    folder.shared_book.unlink()
    one.hold({})
    two.hold({"C.X": (True, False)})
    assert {place.engine for place in SharedBook(folder.shared_book).places()} == {"B", "C"}
    one.close()
    assert {place.engine for place in SharedBook(folder.shared_book).places()} == {"B", "C"}
    folder.shared_book.unlink()
    folder.shared_book.mkdir()
    refused = two.admit(policy, intent("C.X"))
    assert refused is not None
    assert refused.why == "global_unknown"
    two.close()
    book.close()
    registry.close()


def test_who_trades_on_recorded_data_is_left_out(book: SharedBook) -> None:
    found = measure({"A": engine("A", 10.0, last_bar_ns=5)}, book, NOW)
    assert (found.start, found.loss_frac) == (0.0, 0.0)


def test_the_daily_loss_of_all_sets_the_kill_switch_until_a_person_lifts_it(tmp_path: Path) -> None:
    alerts: list[Alert] = []
    risk = GlobalRisk(StateFolder(tmp_path), lambda: 0.03, alerts.append, lambda: NOW)
    risk.on_look({"A": engine("A", 1000.0), "B": engine("B", 1000.0)}, {})
    risk.on_look({"A": engine("A", 1000.0), "B": engine("B", 941.0)}, {})
    assert read_kill(tmp_path) is None
    worse = {"A": engine("A", 1000.0), "B": engine("B", 940.0)}
    risk.on_look(worse, {})
    switch = read_kill(tmp_path)
    assert switch is not None
    assert switch.who == BY_GLOBAL_RISK
    assert "lost 3.00% of 2000.00 USDT" in switch.why
    assert [one.kind for one in alerts] == ["global_risk"]
    risk.on_look(worse, {})
    assert len(alerts) == 1
    lift_kill(tmp_path)
    for _ in range(3):
        risk.on_look(worse, {})
    assert read_kill(tmp_path) is None, "counts anew"
    risk.on_look({"A": engine("A", 1000.0), "B": engine("B", 881.0)}, {})
    assert read_kill(tmp_path) is not None


def test_nothing_is_opened_after_the_loss_of_all_also_without_a_supervisor(tmp_path: Path) -> None:
    now = time.time_ns()
    registry = Registry(tmp_path / "registry.db")
    book = SharedBook(tmp_path / "book.db")
    book.day_starts(now // NS_PER_DAY, {"A": DayStart(1000.0, None), "B": DayStart(1000.0, None)})
    for name, equity in (("A", 1000.0), ("B", 930.0)):
        registry.publish(engine(name, equity, last_bar_ns=now, heartbeat_ns=now))
    gate = GlobalGate(StateFolder(tmp_path), "A")
    refused = gate.admit(POLICY, intent("A.X"))
    assert refused is not None
    assert refused.why == "global_loss"
    assert book.places() == ()
    for one in (gate, registry, book):
        one.close()

"""What people are told by an engine that was started alone, and that it costs trading nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import live.own_alerts
from live.alerts import ALERT_URLS, Alert, AlertLimits, AlertSender, Severity
from live.engine_process import SUPERVISOR_VARIABLE
from live.engine_status import EngineCounters, EngineStatus, GuardLevel
from live.fleet_observers import AlertsThatFail
from live.kill_switch import set_kill
from live.metrics import render
from live.overview import Reading, RegistryReader
from live.own_alerts import (
    OwnAlerts,
    SupervisorWatch,
    is_supervised,
    own_alerts,
    tell_failed_start,
)
from live.processes import ProcessId
from tests.live.engine_world import EngineMarket, EngineProcess
from tests.live.fleet import make_fleet
from tests.live.test_alerts import Phone
from tests.live.test_engine import on, protected, signed


class Pigeon:
    """A channel that keeps what it was given, or fails."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.told: list[tuple[str, str]] = []

    def send(self, title: str, body: str, severity: Severity) -> bool:
        if self.fails:
            raise RuntimeError("with a secret in it")
        self.told.append((title.partition(": ")[2], body))
        return True


def until(what: Callable[[], Any], secs: float = 20.0) -> None:
    deadline = time.monotonic() + secs
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def status(**fields: Any) -> EngineStatus:
    return EngineStatus(engine="A", pid=1, state="trading", last_bar_ns=5, **fields)


def test_what_an_engine_says_reaches_a_person_also_where_it_stands_still(tmp_path: Path) -> None:
    pigeon = Pigeon()
    alerts = OwnAlerts("A", tmp_path, lambda: AlertSender((pigeon,)), stale_secs=1.5)
    alerts.start()
    held = GuardLevel("halted", ("daily_loss",))
    alerts.offer(status(guard=held, counters=EngineCounters(naked_alarms=1)))
    until(lambda: len(pigeon.told) == 2)
    set_kill(tmp_path, "anna", "the news")
    # Nothing more is offered: its thread hangs.
    until(lambda: len(pigeon.told) == 4)
    alerts.close("a callback raised KeyError")
    assert [kind for kind, _ in pigeon.told[:2]] == ["guard", "naked position"]
    assert {kind for kind, _ in pigeon.told[2:4]} == {"kill switch", "stale data"}
    assert pigeon.told[4:] == [("crash", "a callback raised KeyError")]


def test_an_end_in_order_is_no_alert_and_what_came_last_is_told(tmp_path: Path) -> None:
    pigeon = Pigeon()
    alerts = OwnAlerts("A", tmp_path, lambda: AlertSender((pigeon,)), stale_secs=60.0)
    alerts.start()
    alerts.offer(status(counters=EngineCounters(naked_alarms=1)))
    alerts.close()
    assert [kind for kind, _ in pigeon.told] == ["naked position"]


def test_channels_that_fail_are_counted(tmp_path: Path) -> None:
    sender = AlertSender((Pigeon(fails=True),), AlertLimits(retry_secs=()))
    alerts = OwnAlerts("A", tmp_path, lambda: sender, stale_secs=60.0)
    alerts.start()
    alerts.offer(status(counters=EngineCounters(naked_alarms=1)))
    until(lambda: alerts.failed == 1)
    alerts.close()


def test_who_is_supervised_or_replays_a_recording_tells_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = SimpleNamespace(name="A", state=tmp_path, speed=1.0, replay=None)
    phone = Phone()
    thread = threading.Thread(target=phone.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv(ALERT_URLS, phone.url())
    assert not is_supervised()
    tell_failed_start(alone, ValueError("no"))  # type: ignore[arg-type]
    told = [one["message"] for one in phone.messages]
    tell_failed_start(SimpleNamespace(**{**vars(alone), "replay": ()}), ValueError())  # type: ignore[arg-type]
    monkeypatch.setenv(SUPERVISOR_VARIABLE, ProcessId.own().text())
    assert is_supervised()
    tell_failed_start(alone, ValueError("no"))  # type: ignore[arg-type]
    own_alerts(alone, 900.0).close("no")  # type: ignore[arg-type]
    phone.shutdown()
    thread.join()
    phone.server_close()
    assert told == ["it could not start: ValueError: no"]
    assert [one["message"] for one in phone.messages] == told


@pytest.mark.parametrize(
    ("sender", "why"),
    [
        (lambda _: AlertSender((Pigeon(fails=True),)), "a channel did not take it"),
        (lambda _: {}["a secret"], "KeyError"),
    ],
)
def test_where_nobody_can_be_told_of_a_failed_start_its_terminal_is(
    monkeypatch: pytest.MonkeyPatch, sender: Any, why: str
) -> None:
    said: list[str] = []
    monkeypatch.delenv(SUPERVISOR_VARIABLE, raising=False)
    monkeypatch.setattr(live.own_alerts, "_sender", sender)
    monkeypatch.setattr(live.own_alerts, "tell", said.append)
    tell_failed_start(SimpleNamespace(name="A", replay=None), ValueError("no"))  # type: ignore[arg-type]
    assert said == [f"the alert to the failed start of A did not arrive: {why}"]


ENGINE = """
import sys, time
from pathlib import Path
from live.alerts import AlertSender
from live.engine_status import EngineCounters, EngineStatus
from live.own_alerts import OwnAlerts, SupervisorWatch, tell_failed_start

class Paper:
    def send(self, title, body, severity):
        print(f"{title}: {body}", file=out, flush=True)
        return True

state, out = Path(sys.argv[1]), Path(sys.argv[2]).open("a")
alerts = OwnAlerts("A", state, lambda: AlertSender((Paper(),)), 60.0, SupervisorWatch(state))
alerts.start()
counters = EngineCounters(naked_alarms=1)
alerts.offer(EngineStatus(engine="A", pid=1, state="trading", counters=counters))
print("runs", file=out, flush=True)
for _ in range(600):
    time.sleep(0.1)
    if (state / "fail").exists():
        alerts.close("a callback raised KeyError")
        break
"""
SUPERVISOR = """
import sys
from pathlib import Path
from live.engine_plan import plan_of
from live.state_folder import StateFolder
from live.supervisor import Supervisor
command = (sys.executable, "-c", *sys.argv[2:])
Supervisor(StateFolder(Path(sys.argv[1])), plan_of(["A"]), lambda *_: command).run()
"""


def test_an_engine_speaks_for_itself_as_soon_as_its_supervisor_was_killed(tmp_path: Path) -> None:
    state, out = tmp_path / "state", tmp_path / "out"
    command = [sys.executable, "-c", SUPERVISOR, str(state), ENGINE, str(state), str(out)]
    supervisor = subprocess.Popen(command)
    try:
        until(lambda: out.exists() and "runs" in out.read_text(), 60.0)
        # It looks once a second, and leaves the telling to its supervisor.
        time.sleep(2.0)
        assert out.read_text() == "runs\n"
    finally:
        supervisor.kill()
        supervisor.wait()
    # What happened a moment ago is told too: the supervisor may have been dead by then.
    until(lambda: "naked position" in out.read_text(), 60.0)
    (state / "fail").touch()
    until(lambda: "crash" in out.read_text(), 60.0)
    _, gone, naked, crash = out.read_text().splitlines()
    assert gone.startswith("LeviBot A: supervisor: its supervisor has ended: the engine trades on")
    assert naked == "LeviBot A: naked position: a position without its stop is closed"
    assert crash == "LeviBot A: crash: a callback raised KeyError"


def test_a_supervisor_that_hangs_is_gone_until_it_speaks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SUPERVISOR_VARIABLE, ProcessId.own().text())
    registry = make_fleet(tmp_path)
    monkeypatch.setattr("live.own_alerts.SILENT_SECS", 0.3)
    watch = SupervisorWatch(tmp_path)
    assert watch.gone() == ""
    pigeon = Pigeon()
    alerts = OwnAlerts("A", tmp_path, lambda: AlertSender((pigeon,)), 60.0, watch)
    alerts.offer(status())
    alerts._look()
    time.sleep(0.4)
    alerts._look()
    until(lambda: [kind for kind, _ in pigeon.told] == ["supervisor"])
    assert "has said nothing for 0 s" in pigeon.told[0][1]
    registry.set_fact("supervisor", "another word")
    alerts._look()
    alerts.offer(status(counters=EngineCounters(naked_alarms=1)))
    alerts._look()
    # Nobody can say who has removed what it says; its process is there.
    registry.close()
    (tmp_path / "registry.db").unlink()
    time.sleep(0.4)
    alerts._look()
    alerts.close("no")
    assert len(pigeon.told) == 1


def test_alerts_of_a_supervisor_that_fail_are_a_metric(tmp_path: Path) -> None:
    sender = AlertSender((Pigeon(fails=True),), AlertLimits(retry_secs=()))
    make_fleet(tmp_path).close()
    observer = AlertsThatFail(tmp_path / "registry.db", sender)
    sender.tell(Alert("crash", "A", "it fell"))
    until(lambda: sender.failed == 1)
    observer.on_look({}, {})
    with closing(RegistryReader(tmp_path)) as reader:
        text = render(Reading.of(reader)).decode()
    assert "levibot_supervisor_alerts_failed_total 1.0" in text
    sender.close()


@pytest.fixture
def phone() -> Iterator[Phone]:
    found = Phone()
    thread = threading.Thread(target=found.serve_forever, args=(0.02,))
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


ENDING = """
import sys
from pathlib import Path
from live.engine_plan import plan_of
from live.engine_process import EngineEvent
from live.fleet_observers import close_observers, observers_of
observers = observers_of(Path(sys.argv[1]), plan_of(["A"], profile="perps-swing"))
for one in observers:
    for number in range(3):
        one.on_event(EngineEvent("A", "crashed", f"failure {number}"))
close_observers(observers)
"""


def test_a_supervisor_that_ends_tells_what_it_has_held_back(phone: Phone, tmp_path: Path) -> None:
    told = {**os.environ, ALERT_URLS: phone.url()}
    command = [sys.executable, "-c", ENDING, str(tmp_path)]
    subprocess.run(command, env=told, check=True, timeout=60)
    last = phone.messages[-1]["message"]
    assert last.startswith("failure 2 (")
    (log,) = (tmp_path / "logs").iterdir()
    assert "A: failure 2" in log.read_text()


@pytest.mark.slow
def test_an_engine_alone_tells_what_happens_to_it_and_goes_on_where_nobody_answers(
    phone: Phone, tmp_path: Path
) -> None:
    market = EngineMarket.make(tmp_path / "market")
    state = tmp_path / "state"
    with socket.create_server(("127.0.0.1", 0)) as deaf, market.exchange() as exchange:
        # Takes connections and never says a word.
        urls = f"json://127.0.0.1:{deaf.getsockname()[1]}/ {phone.url()}"
        alone = {ALERT_URLS: urls}
        with EngineProcess(market, state, on(exchange), alone) as engine:
            engine.until(protected, "positions with their stops")
            assert phone.messages == []
            orders = exchange.remote.accounts()["main"]["orders"]
            name = next(key for key, one in orders.items() if one["algo"] and one["open"])
            signed(exchange.url, "DELETE", "/fapi/v1/algoOrder", clientAlgoId=name)
            engine.until(lambda one: one.counters.naked_alarms == 1, "the alarm")
            until(lambda: _kinds(phone) == ["naked position"], 60.0)
            set_kill(state, "anna", "drill")
            until(lambda: {"kill switch", "guard"} <= set(_kinds(phone)), 60.0)
            until(lambda: _said(engine).counters.alerts_failed >= 1, 60.0)
            bars = _said(engine).counters.bars
            engine.until(lambda one: one.counters.bars >= bars + 5, "bars while nobody answers")
            # Its terminal is closed.
            assert engine.stop(signal.SIGHUP) == 0
        assert "crash" not in _kinds(phone)
        # Its books are those of the testnet's account.
        with EngineProcess(market, state, on(exchange, "paper"), alone) as engine:
            code, text = engine.wait()
            assert code == 2, text
        assert _kinds(phone)[-1] == "crash"
        assert "it could not start: ConfigError" in phone.messages[-1]["message"]
    assert "geheim" not in "".join(path.read_text() for path in state.rglob("*.jsonl"))


def _kinds(phone: Phone) -> list[str]:
    return [one["title"].rpartition(": ")[2] for one in phone.messages]


def _said(engine: EngineProcess) -> EngineStatus:
    found = engine.status()
    assert found is not None
    return found

"""Alerts through apprise to real local servers, some of which do not answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from live import fleet_alerts
from live.alerts import (
    ALERT_URLS,
    Alert,
    AlertGate,
    AlertLimits,
    AlertSender,
    Severity,
    channels_from,
)
from live.engine_process import EngineEvent
from live.engine_status import EngineCounters, EngineStatus, GuardLevel
from live.fleet_alerts import FleetAlerts
from live.kill_switch import lift_kill, set_kill


class Phone(ThreadingHTTPServer):
    """Takes messages; answers the first `fail` with an error."""

    def __init__(self, fail: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Ring)
        self.fail = fail
        self.tried = 0
        self.messages: list[dict[str, str]] = []

    def url(self) -> str:
        return f"json://anna:geheim-geheim@127.0.0.1:{self.server_address[1]}/"


class Ring(BaseHTTPRequestHandler):
    server: Phone

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tried += 1
        failed = self.server.tried <= self.server.fail
        if not failed:
            self.server.messages.append(json.loads(body))
        self.send_response(500 if failed else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def phones() -> Iterator[list[Phone]]:
    found = [Phone(), Phone(fail=1), Phone(fail=99)]
    threads = [threading.Thread(target=one.serve_forever, args=(0.02,)) for one in found]
    for thread in threads:
        thread.start()
    yield found
    for one, thread in zip(found, threads, strict=True):
        one.shutdown()
        thread.join()
        one.server_close()


def test_a_channel_that_fails_is_tried_again_and_holds_up_nobody(phones: list[Phone]) -> None:
    urls = " ".join([*(one.url() for one in phones), "json://127.0.0.1:9/"])
    channels = channels_from({ALERT_URLS: urls})
    assert "geheim" not in repr(channels)
    sender = AlertSender(channels, AlertLimits(retry_secs=(0.01, 0.01)), "host")
    started = time.perf_counter()
    sender.tell(Alert("crash", "BTCUSDT", "it fell"))
    assert time.perf_counter() - started < 0.05
    deadline = time.monotonic() + 20.0
    while sender.sent + sender.failed < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (sender.sent, sender.failed) == (2, 2)
    assert [len(one.messages) for one in phones] == [1, 1, 0]
    assert phones[2].tried == 3
    # What has not arrived is tried once more at the end.
    sender.close()
    assert [one.tried for one in phones] == [1, 2, 4]
    message = phones[0].messages[0]
    assert message["title"] == "LeviBot host BTCUSDT: crash"
    assert (message["message"], message["type"]) == ("it fell", "failure")


def test_a_message_too_long_for_a_messenger_is_split_and_not_refused() -> None:
    (channel,) = channels_from({ALERT_URLS: "discord://12345678901234567/" + "a" * 30})
    (server,) = channel._apprise
    assert len(server._apply_overflow("line\n" * 1_000, "title")) > 1


def test_an_address_that_means_nothing_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="address 2 of LEVIBOT_ALERT_URLS") as caught:
        channels_from({ALERT_URLS: "json://localhost nothing-geheim://x"})
    assert "geheim" not in str(caught.value)
    assert channels_from({}) == ()


def test_without_channels_nothing_is_done() -> None:
    sender = AlertSender(())
    sender.tell(Alert("crash", "A", "x"))
    sender.close()
    assert (sender.sent, sender.failed) == (0, 0)


class Stuck:
    """A channel that hangs until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.said = ""

    def send(self, title: str, body: str, severity: Severity) -> bool:
        self.go.wait(20.0)
        self.said += f"{title}\n{body}\n"
        raise RuntimeError("with a secret in it")


def test_a_channel_that_hangs_costs_nobody_time_and_loses_nothing() -> None:
    channel = Stuck()
    sender = AlertSender((channel,), AlertLimits(retry_secs=()))
    started = time.perf_counter()
    for number in range(1_000):
        sender.tell(Alert("guard", f"E{number:03}", "x"))
    assert time.perf_counter() - started < 1.0
    channel.go.set()
    sender.close()
    assert all(f"E{number:03}: guard" in channel.said for number in range(1_000))


def test_a_channel_that_hangs_holds_up_no_other(phones: list[Phone]) -> None:
    channel = Stuck()
    sender = AlertSender((channel, *channels_from({ALERT_URLS: phones[0].url()})))
    for number in range(3):
        sender.tell(Alert("naked_position", f"E{number}", "x"))
    deadline = time.monotonic() + 10.0
    while len(phones[0].messages) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    channel.go.set()
    sender.close()
    # The first was tried until the end, the others once.
    assert (sender.sent, sender.failed) == (3, 3)


def told(gate: AlertGate, now: float) -> list[str]:
    """Send what is to be sent at a time; it arrives."""
    found = []
    while (message := gate.message(now)) is not None:
        gate.arrived(message, now)
        found.append(message.body)
    return found


def test_what_repeats_is_told_once_and_again_with_its_number_when_its_time_has_come() -> None:
    gate = AlertGate(AlertLimits(repeat_secs=120.0))
    gate.take(Alert("kill_switch", "all", "set"), 0.0)
    assert told(gate, 0.0) == ["set"]
    gate.take(Alert("kill_switch", "all", "lifted"), 1.0)
    gate.take(Alert("kill_switch", "all", "set again"), 2.0)
    assert told(gate, 119.0) == []
    # Nothing else has come: the last word is not lost.
    text = "set again (1 more of this kind since the last message) (2 min ago)"
    assert told(gate, 120.0) == [text]
    assert told(gate, 1_000.0) == []


def test_a_storm_holds_back_nothing_grave_and_what_it_held_back_is_told_later() -> None:
    gate = AlertGate(AlertLimits(most=30, within_secs=600.0))
    for number in range(15):
        for kind in ("crash", "restart"):
            gate.take(Alert(kind, f"E{number}", "x"), float(number))  # type: ignore[arg-type]
            assert told(gate, float(number)) == ["x"]
    gate.take(Alert("stale_data", "E3", "no bar"), 20.0)
    gate.take(Alert("blocked", "E4", "short"), 20.0)
    assert told(gate, 20.0) == []
    grave = ("naked_position", "kill_switch", "global_risk", "permanent_stop", "guard")
    for kind in grave:
        gate.take(Alert(kind, "E1", kind), 300.0)  # type: ignore[arg-type]
    assert told(gate, 300.0) == list(grave)
    assert told(gate, 599.0) == []
    assert told(gate, 620.0) == ["no bar (10 min ago)", "short (10 min ago)"]


def test_many_that_wait_are_told_in_one_message_the_grave_ones_first() -> None:
    gate = AlertGate()
    for number in range(25):
        gate.take(Alert("restart", f"E{number:02}", "again"), 0.0)
    gate.take(Alert("permanent_stop", "E07", "x" * 5_000), 0.0)
    first = gate.message(0.0)
    assert first is not None
    assert (first.title, first.severity) == ("20 alerts", "failure")
    lines = first.body.splitlines()
    assert lines[0].startswith("E07: permanent stop: xxx")
    assert lines[0].endswith("x …")
    assert lines[1] == "E00: restart: again"
    assert max(map(len, lines)) < 250
    gate.arrived(first, 0.0)
    second = gate.message(0.0)
    assert second is not None
    assert (second.title, second.severity) == ("6 alerts", "info")
    assert gate.message(0.0) is None


def test_what_did_not_arrive_is_tried_until_it_does_and_holds_up_nothing_new() -> None:
    gate = AlertGate(AlertLimits(pause_secs=60.0))
    gate.take(Alert("permanent_stop", "A", "for good"), 0.0)
    first = gate.message(0.0)
    assert first is not None
    gate.take(Alert("permanent_stop", "A", "for good, too"), 1.0)
    gate.failed(first, 5.0)
    gate.take(Alert("restart", "B", "again"), 6.0)
    assert told(gate, 64.0) == []
    # A message that no server takes is not in the way of another.
    text = "for good, too (1 more of this kind since the last message) (1 min ago)"
    assert told(gate, 65.0) == ["again", text]
    for now in (1_000.0, 1_060.0):
        gate.take(Alert("crash", "A", "it fell"), 900.0)
        message = gate.message(now)
        assert message is not None
        gate.failed(message, now)
    last = gate.message(0.0, ending=True)
    assert last is not None
    assert last.body.startswith("it fell")


def test_a_sender_tells_what_was_held_back_when_its_time_has_come_and_at_its_end() -> None:
    bodies: list[str] = []

    class Bird:
        def send(self, title: str, body: str, severity: Severity) -> bool:
            bodies.append(body)
            return True

    sender = AlertSender((Bird(),), AlertLimits(repeat_secs=0.5))
    for text in ("first", "second"):
        sender.tell(Alert("crash", "A", text))
        time.sleep(0.05)
    deadline = time.monotonic() + 20.0
    while len(bodies) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    sender.tell(Alert("crash", "A", "third"))
    sender.close()
    assert bodies == ["first", "second", "third"]


def test_a_person_is_told_what_matters_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Alert] = []
    alerts = FleetAlerts(tmp_path, told.append, stale_secs=0.05)
    for kind in ("started", "crashed", "restarting", "given_up", "stopped", "killed"):
        alerts.on_event(EngineEvent("A", kind, "why"))
    assert [one.kind for one in told] == ["crash", "restart", "permanent_stop"]
    told.clear()

    def look(**fields: object) -> list[tuple[str, str]]:
        given = {"engine": "A", "pid": 1, "state": "trading", "last_bar_ns": 5, **fields}
        alerts.on_look({"A": EngineStatus(**given)}, {})  # type: ignore[arg-type]
        found = [(one.kind, one.text) for one in told]
        told.clear()
        return found

    assert look() == []
    held = GuardLevel("reducing", ("daily_loss",))
    assert look(guard=held) == [("guard", "the risk guard ended trading: daily_loss")]
    assert look(guard=GuardLevel("halted", ("daily_loss",))) == []
    assert look() == []
    assert look(guard=held) != []
    naked = EngineCounters(naked_alarms=1)
    assert [one for one, _ in look(counters=naked)] == ["naked_position"]
    assert look(counters=naked) == []
    # Another process counts anew.
    assert [one for one, _ in look(counters=naked, pid=2)] == ["naked_position"]
    time.sleep(0.1)
    assert [one for one, _ in look(pid=2, counters=naked)] == ["stale_data"]
    assert look(pid=2, counters=naked) == []
    assert look(pid=2, counters=naked, last_bar_ns=6) == []
    short = {"pid": 2, "counters": naked, "last_bar_ns": 6, "blocked": "too little"}
    assert look(**short) == []
    monkeypatch.setattr(fleet_alerts, "BLOCKED_SECS", 0.0)
    assert look(**short) == [("blocked", "nothing new is opened: too little")]
    assert look(**short) == []
    set_kill(tmp_path, "anna", "the news")
    ((kind, text),) = look(pid=2, counters=naked, last_bar_ns=7)
    assert kind == "kill_switch"
    assert "set by anna" in text
    assert look(pid=2, counters=naked, last_bar_ns=8) == []
    lift_kill(tmp_path)
    assert [one for one, _ in look(pid=2, counters=naked, last_bar_ns=9)] == ["kill_switch"]

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
    masked,
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
    sender.close()
    assert (sender.sent, sender.failed) == (2, 2)
    assert [len(one.messages) for one in phones] == [1, 1, 0]
    assert phones[2].tried == 3
    message = phones[0].messages[0]
    assert message["title"] == "LeviBot host BTCUSDT: crash"
    assert (message["message"], message["type"]) == ("it fell", "failure")


def test_an_address_that_means_nothing_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="address 2 of LEVIBOT_ALERT_URLS") as caught:
        channels_from({ALERT_URLS: "json://localhost nothing-geheim://x"})
    assert "geheim" not in str(caught.value)
    assert channels_from({}) == ()


def test_without_channels_nothing_is_done() -> None:
    sender = AlertSender(())
    sender.tell(Alert("crash", "A", "x"))
    sender.close()
    assert (sender.sent, sender.failed, sender.dropped) == (0, 0, 0)


class Stuck:
    """A channel that hangs until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def send(self, title: str, body: str, severity: Severity) -> bool:
        self.go.wait(20.0)
        raise RuntimeError("with a secret in it")


def test_a_channel_that_hangs_costs_alerts_and_nothing_else() -> None:
    channel = Stuck()
    sender = AlertSender((channel,), AlertLimits(retry_secs=()))
    started = time.perf_counter()
    for number in range(1_000):
        sender.tell(Alert("guard", f"E{number}", "x"))
    assert time.perf_counter() - started < 1.0
    assert sender.dropped > 400
    channel.go.set()
    sender.close(0.1)


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


def test_what_repeats_is_told_once_with_its_number_and_all_together_have_a_limit() -> None:
    gate = AlertGate(AlertLimits(repeat_secs=10.0, most=3, within_secs=100.0))
    crash = Alert("crash", "A", "fell")
    assert gate.passes(crash, 0.0) == "fell"
    assert gate.passes(crash, 1.0) is None
    assert gate.passes(crash, 9.0) is None
    assert gate.passes(Alert("crash", "B", "fell"), 9.0) == "fell"
    assert gate.passes(crash, 10.0) == "fell (2 more of this kind since the last message)"
    assert gate.passes(Alert("guard", "A", "held"), 11.0) is None
    assert gate.passes(Alert("guard", "B", "held"), 12.0) is None
    assert gate.passes(Alert("guard", "A", "held"), 101.0) == (
        "held (2 other alert(s) were held back: too many)"
    )


def test_secrets_of_the_environment_are_masked() -> None:
    variables = {"BINANCE_API_KEY": "k" * 20, "API_TOKEN": "short", "HOME": "/somewhere/long"}
    text = f"refused {'k' * 20} short /somewhere/long"
    assert masked(text, variables) == "refused *** short /somewhere/long"


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

"""The control service over HTTP: every route, what it refuses, and that others do not need it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from catalog.errors import ConfigError, DataError
from live.api_door import TOKEN_VARIABLE, DoorConfig
from live.api_server import ServerConfig, door_from_environment, listen
from live.engine_status import EngineStatus, GuardLevel
from live.kill_switch import kill_file, read_kill, set_kill
from live.metrics import CONTENT_TYPE
from live.registry import Registry
from tests.live.control_service import RIGHT, TOKEN, control_service
from tests.live.fleet import BTC, NS, make_fleet, supervise, trading
from tests.live.test_guard_live import write_policy
from tests.live.test_metrics import parse, sample
from tests.live.wall_clock import World, play


class Fleet:
    """A state folder, its registry, and a client of its control service."""

    def __init__(self, state: Path, registry: Registry, http: httpx.Client) -> None:
        self.state, self.registry, self.http = state, registry, http

    def audited(self) -> list[tuple[str, str, str, str]]:
        return [(one.who, one.command, one.target, one.outcome) for one in self.registry.audited()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, httpx.Client]]:
    state = tmp_path_factory.mktemp("state")
    with control_service(state) as http:
        yield state, http


@pytest.fixture
def fleet(served: tuple[Path, httpx.Client]) -> Iterator[Fleet]:
    """A new registry under a service that stays: it notices."""
    state, http = served
    for path in state.iterdir():
        path.unlink()
    with closing(make_fleet(state)) as registry:
        yield Fleet(state, registry, http)


def test_health_is_that_of_everything_that_is_wanted(fleet: Fleet) -> None:
    answer = fleet.http.get("/healthz")
    found = answer.json()
    assert (answer.status_code, found["status"]) == (503, "degraded")
    assert found["supervised"] is True
    btc, eth = found["engines"]["BTCUSDT"], found["engines"]["ETHUSDT"]
    assert btc["healthy"] is True
    assert list(btc["feature_age_s"]) == ["funding"]
    assert 120 < btc["feature_age_s"]["funding"] < 130
    assert btc["model"]["metrics"] == {"auc": 0.53}
    assert eth["problems"] == ["risk guard halted: daily_loss"]
    make_fleet(fleet.state, healthy=True).close()
    answer = fleet.http.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    set_kill(fleet.state, "anna", "drill")
    answer = fleet.http.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
    assert answer.json()["kill_switch"]["who"] == "anna"


def test_engines_are_listed_and_told_of(fleet: Fleet) -> None:
    names = [(one["engine"], one["state"]) for one in fleet.http.get("/engines").json()]
    assert names == [("BTCUSDT", "trading"), ("ETHUSDT", "halted")]
    btc = fleet.http.get("/engines/status").json()[0]
    assert btc["status"]["positions"][BTC]["stop"] == 95_500.0
    assert btc["process"]["restarts"] == 4
    assert 7_500 <= btc["uptime_s"] < 7_510
    assert btc["drawdown_ratio"] == pytest.approx(0.0075)


@pytest.mark.parametrize("command", ["start", "stop", "restart"])
def test_a_command_is_passed_on_audited_and_followed(fleet: Fleet, command: str) -> None:
    answer = fleet.http.post(f"/engines/BTCUSDT/{command}")
    assert answer.status_code == 202
    number = answer.json()["number"]
    assert [(one.id, one.command, one.engine) for one in fleet.registry.pending()] == [
        (number, command, "BTCUSDT")
    ]
    assert fleet.http.get(f"/commands/{number}").json()["outcome"] is None
    fleet.registry.answered(number, "done")
    assert fleet.http.get(f"/commands/{number}").json()["outcome"] == "done"
    assert fleet.audited() == [("api 127.0.0.1", command, "BTCUSDT", "asked")]


def test_all_engines_are_one_command(fleet: Fleet) -> None:
    for command in ("start", "stop"):
        assert fleet.http.post(f"/automation/{command}").status_code == 202
    assert [(one.command, one.engine) for one in fleet.registry.pending()] == [
        ("start", "*"),
        ("stop", "*"),
    ]
    found = fleet.http.get("/automation/status").json()
    assert found["pending_commands"] == 2
    assert (found["running"], found["wanted"], found["engines"]) == (2, 2, 2)
    assert found["states"] == {"trading": 1, "halted": 1}


def test_commands_that_nobody_would_do_are_refused_and_audited(fleet: Fleet) -> None:
    answer = fleet.http.post("/engines/NONE/stop")
    assert answer.status_code == 404
    assert "BTCUSDT, ETHUSDT" in answer.json()["detail"]
    supervise(fleet.registry, pid=0)
    assert fleet.http.post("/engines/BTCUSDT/stop").status_code == 409
    assert fleet.http.post("/automation/stop").status_code == 409
    assert fleet.http.post("/engines/no%20name/stop").status_code == 422
    assert fleet.registry.pending() == ()
    assert [one[2:] for one in fleet.audited()] == [
        ("*", "refused: no supervisor"),
        ("BTCUSDT", "refused: no supervisor"),
        ("NONE", "refused: no such engine"),
    ]


def test_commands_without_the_token_are_audited(fleet: Fleet) -> None:
    answer = fleet.http.post("/engines/BTCUSDT/stop", headers={"authorization": "Bearer x"})
    assert answer.status_code == 401
    [line] = fleet.http.get("/audit").json()
    assert line["command"] == "POST /engines/BTCUSDT/stop"
    assert line["outcome"].startswith("refused: the bearer token must be")
    assert fleet.registry.pending() == ()


def test_predictions_and_models(fleet: Fleet) -> None:
    for symbol in ("BTCUSDT", BTC):
        [one] = fleet.http.get("/ml/predict", params={"symbol": symbol}).json()["predictions"]
        assert (one["engine"], one["prob_up"], one["confidence"]) == ("BTCUSDT", 0.561, 0.4)
        assert 400 < one["age_s"] < 410
    answer = fleet.http.get("/ml/predict", params={"symbol": "DOGEUSDT"})
    assert answer.status_code == 404
    assert BTC in answer.json()["detail"]
    assert [one["engine"] for one in fleet.http.get("/automation/predictions").json()] == [
        "BTCUSDT",
        "ETHUSDT",
    ]
    btc, eth = fleet.http.get("/ml/model/status").json()
    assert btc["model"]["digest"] == "abc123"
    assert btc["experts"]["lstm"]["state"] == "open"
    assert eth["degraded"] == ["ETHUSDT-PERP.BINANCE"]


def test_metrics_are_those_of_engines_and_service(fleet: Fleet) -> None:
    before = fleet.http.get("/metrics")
    fleet.http.get("/engines")
    answer = fleet.http.get("/metrics")
    assert answer.headers["content-type"] == CONTENT_TYPE
    found = parse(answer.content)
    assert sample(found, "levibot_engine_up", engine="BTCUSDT") == 1.0
    asked = ("GET", "/engines", "200")
    counted = [
        {
            tuple(one.labels.values()): one.value
            for one in parse(text)
            if one.name == "levibot_api_requests_total"
        }
        for text in (before.content, answer.content)
    ]
    assert counted[1][asked] == counted[0].get(asked, 0.0) + 1.0


def test_the_kill_switch_is_set_and_lifted(fleet: Fleet) -> None:
    for name in ("BTCUSDT", "ETHUSDT"):
        fleet.registry.publish(killed(name))
    answer = fleet.http.post("/ml/kill", params={"enabled": "true", "why": "drill"})
    assert answer.json() | {"ts_ns": 0} == {
        "enabled": True,
        "who": "api 127.0.0.1",
        "ts_ns": 0,
        "why": "drill",
        "audited": True,
        "note": "every engine cancels its orders, closes its positions and opens nothing",
        "not_flat": {},
    }
    assert read_kill(fleet.state) is not None
    answer = fleet.http.post("/ml/kill", params={"enabled": "false"})
    assert "levibot guard release" in answer.json()["note"]
    assert read_kill(fleet.state) is None
    assert [one[1] for one in fleet.audited()] == ["kill off", "kill on"]


def killed(name: str) -> EngineStatus:
    """An engine that has obeyed."""
    guard = GuardLevel("halted", ("kill_switch",))
    return trading(time.time_ns(), engine=name, positions={}, state="halted", guard=guard)


def test_the_answer_names_who_is_not_flat_once_the_others_are(fleet: Fleet) -> None:
    def obey() -> None:
        while read_kill(fleet.state) is None:
            time.sleep(0.01)
        fleet.registry.publish(killed("BTCUSDT"))

    hung = trading(time.time_ns() - 60 * NS, engine="ETHUSDT", mode="live")
    fleet.registry.publish(hung)
    thread = threading.Thread(target=obey)
    thread.start()
    answer = fleet.http.post("/ml/kill?enabled=true").json()
    thread.join()
    assert [*answer["not_flat"]] == ["ETHUSDT"]
    assert "holds +0.05 BTCUSDT-PERP.BINANCE" in answer["not_flat"]["ETHUSDT"]
    assert "engines in not_flat are not" in answer["note"]


def test_a_reason_that_is_too_long_is_cut_and_refuses_nothing(fleet: Fleet) -> None:
    answer = fleet.http.post("/ml/kill", params={"enabled": "true", "why": "because " * 500})
    assert answer.status_code == 200
    assert answer.json()["why"] == ("because " * 25)
    assert fleet.audited()[0][1] == "kill on"
    answer = fleet.http.post("/ml/kill", params={"enabled": "false", "why": "x" * 500})
    assert answer.status_code == 200
    assert len(fleet.audited()[0][3]) <= 200


@pytest.mark.parametrize("query", ["", "enabled=", "enabled=perhaps", "enable=true"])
def test_a_kill_switch_that_is_not_clearly_asked_for_is_not_touched(
    fleet: Fleet, query: str
) -> None:
    assert fleet.http.post(f"/ml/kill?{query}").status_code == 422
    assert read_kill(fleet.state) is None
    assert fleet.http.get("/audit?limit=5&lines=3").status_code == 422


def test_without_a_registry_only_the_kill_switch_can_be_set(tmp_path: Path) -> None:
    with control_service(tmp_path) as http:
        answer = http.get("/healthz")
        assert (answer.status_code, answer.json()["status"]) == (503, "down")
        for path in ("/engines", "/automation/status", "/audit"):
            assert http.get(path).status_code == 503
        assert http.post("/automation/stop").status_code == 503
        assert http.get("/metrics").status_code == 200
        answer = http.post("/ml/kill?enabled=true")
        assert (answer.status_code, answer.json()["audited"]) == (200, False)
        assert kill_file(tmp_path).exists()
        # A lifting that cannot be written down does not happen.
        assert http.post("/ml/kill?enabled=false").status_code == 503
        assert kill_file(tmp_path).exists()


def test_a_damaged_registry_does_not_keep_the_kill_switch_from_being_set(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database" * 100)
    with control_service(tmp_path) as http:
        assert http.get("/engines").status_code == 503
        assert "move it away" in http.get("/healthz").json()["problem"]
        assert http.post("/ml/kill?enabled=true").status_code == 200
        assert kill_file(tmp_path).exists()


def test_no_folder_is_told(tmp_path: Path) -> None:
    with control_service(tmp_path / "sate") as http:
        answer = http.post("/ml/kill?enabled=true")
        assert answer.status_code == 503
        assert "check --state" in answer.json()["detail"]


def test_who_is_on_this_machine_needs_no_token_where_there_is_none(tmp_path: Path) -> None:
    make_fleet(tmp_path).close()
    with control_service(tmp_path, token=None) as http:
        assert http.get("/engines").status_code == 200
        assert http.get("/engines", headers={"host": "evil.example"}).status_code == 403


def test_where_it_may_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "::", "example.com"):
        with pytest.raises(ConfigError, match=TOKEN_VARIABLE):
            ServerConfig(tmp_path, host)
        ServerConfig(tmp_path, host, door=DoorConfig(token=TOKEN))
    with pytest.raises(ConfigError, match="must come together"):
        ServerConfig(tmp_path, tls_cert=tmp_path)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(DataError, match="must be free"),
    ):
        listen(ServerConfig(tmp_path, port=taken.getsockname()[1]))
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    assert door_from_environment().token is None
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert door_from_environment().token == TOKEN


def test_headers_and_garbage_do_not_end_the_service(fleet: Fleet) -> None:
    url = fleet.http.base_url
    for request in (
        b"\x00\xff" * 100,
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"b" * 40_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /ml/kill HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999\r\n\r\n",
    ):
        with socket.create_connection((url.host, url.port or 0), timeout=5.0) as raw:
            raw.sendall(request)
            told = raw.recv(100)
            assert told[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.1 413"), told
    assert fleet.http.get("/engines").status_code == 200


def test_reading_does_not_hold_up_who_writes(fleet: Fleet) -> None:
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set():
            httpx.get(f"{fleet.http.base_url}/metrics", headers=RIGHT)

    readers = [threading.Thread(target=scrape) for _ in range(2)]
    for one in readers:
        one.start()
    slowest = 0.0
    for _ in range(50):
        begun = time.perf_counter()
        supervise(fleet.registry)
        slowest = max(slowest, time.perf_counter() - begun)
    done.set()
    for one in readers:
        one.join()
    assert slowest < 1.0


# ---- the kill switch, of real processes


def test_a_node_is_flat_within_a_second_of_the_request(tmp_path: Path) -> None:
    write_policy(tmp_path, kill_switch_file=str(kill_file(tmp_path)))
    seconds: list[float] = []

    async def script(world: World) -> None:
        await world.open_position()
        with control_service(tmp_path) as http:
            thread = threading.Thread(target=lambda: http.post("/ml/kill?enabled=true"))
            thread.start()
            await world.until(world.flat, "flat", 5.0)
            seconds.append(world.seconds["flat"])
            thread.join()

    world = play(tmp_path, script, look_interval_ms=30_000)
    assert seconds[0] < 1.0
    assert world.guard.reasons == "kill_switch"


def test_the_command_serves_until_it_is_told_to_end_and_the_switch_outlives_it(
    tmp_path: Path,
) -> None:
    make_fleet(tmp_path).close()
    command = [sys.executable, "-m", "live.cli", "live", "serve", "--state", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, TOKEN_VARIABLE: TOKEN},
    )
    assert process.stderr is not None
    told = process.stderr.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", told)
    assert found is not None, told
    assert TOKEN not in told
    url = found[0]
    assert httpx.get(f"{url}/engines").status_code == 401
    assert httpx.post(f"{url}/ml/kill?enabled=true", headers=RIGHT).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(60.0) in (0, -signal.SIGTERM)
    process.stderr.close()
    assert read_kill(tmp_path) is not None
    # With the service dead the command line does the same.
    with closing(make_fleet(tmp_path)) as registry:
        # Heard for a while yet, however long a command takes to begin on a busy machine.
        registry.publish(trading(time.time_ns() + 300 * NS))
    command = [sys.executable, "-m", "live.cli", "live", "kill", "--state", str(tmp_path)]
    done = subprocess.run([*command, "--json", "--wait", "0.5"], capture_output=True, text=True)
    assert json.loads(done.stdout)["who"] == "api 127.0.0.1"
    assert done.returncode == 3
    assert "BTCUSDT" in " ".join(done.stderr.split())

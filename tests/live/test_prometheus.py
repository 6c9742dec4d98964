"""A real Prometheus against the control service: it takes the metrics, and its rules fire."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from live.kill_switch import lift_kill, set_kill
from tests.live.control_service import TOKEN, control_service
from tests.live.fleet import make_fleet, supervise, trading
from tests.live.test_metrics import MONITORING, metric_names, queries, rules

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def configure(folder: Path, target: str) -> Path:
    """Our configuration, with the service's address of now and once a second."""
    content = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    content["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    content["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "levibot_api_token").write_text(TOKEN, encoding="utf-8")
    shutil.copy(MONITORING / "alerts.yml", folder)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[httpx.Client]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("Prometheus is not installed (Debian package prometheus)")
    port = free_port()
    command = [
        binary,
        f"--config.file={configure(folder, target)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=5.0) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20.0)


def until(what: Callable[[], Any], name: str, within_secs: float = 30.0) -> Any:
    deadline = time.monotonic() + within_secs
    while time.monotonic() < deadline:
        try:
            found = what()
        except httpx.TransportError:
            found = None
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{name} did not come true within {within_secs} s")


def ask(client: httpx.Client, query: str) -> list[Any]:
    answer = client.get("/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    return list(answer["data"]["result"])


@contextmanager
def alive(state: Path) -> Iterator[None]:
    """Two engines and a supervisor that say every half second that they are there."""
    done = threading.Event()
    registry = make_fleet(state, healthy=True)

    def run() -> None:
        while not done.wait(0.5):
            now = time.time_ns()
            registry.publish(trading(now))
            registry.publish(trading(now, engine="ETHUSDT"))
            supervise(registry)

    thread = threading.Thread(target=run)
    with closing(registry):
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def test_prometheus_takes_the_metrics_and_its_rules_fire(tmp_path: Path) -> None:
    state, folder = tmp_path / "state", tmp_path / "prometheus"
    folder.mkdir()
    with alive(state), control_service(state) as http:
        target = f"127.0.0.1:{http.base_url.port}"
        with prometheus(folder, target) as client:
            until(lambda: ask(client, 'levibot_engine_up{engine="BTCUSDT"} == 1'), "a sample")
            loaded = client.get("/rules").json()["data"]["groups"]
            names = {one["name"] for group in loaded for one in group["rules"]}
            assert names == {one["alert"] for one in rules()}
            until(
                lambda: all(
                    one["health"] == "ok"
                    for group in client.get("/rules").json()["data"]["groups"]
                    for one in group["rules"]
                ),
                "every rule evaluated",
            )
            _ask_all_of_the_dashboard(client)
            firing = 'ALERTS{alertname="LeviBotKillSwitchSet",alertstate="firing"}'
            assert not ask(client, firing)
            set_kill(state, "anna", "drill")
            until(lambda: ask(client, firing), "the kill switch fires")
            lift_kill(state)
            until(lambda: not ask(client, firing), "it is over")


def _ask_all_of_the_dashboard(client: httpx.Client) -> None:
    """Every query is one that Prometheus understands, and its metrics are stored."""
    for title, expression, _ in queries():
        if expression.startswith("label_values"):
            continue
        filled = expression.replace("$__rate_interval", "1m").replace("$engine", ".*")
        ask(client, filled)
        for name in metric_names(expression) - {"levibot_guard_hold"}:
            # The service counts a request once it is answered: the second scrape has the first.
            until(lambda name=name: ask(client, name), f"{title}: {name}")

"""A real Prometheus against the control service: it takes the metrics, and its rules fire.

Once beside a whole fleet that is made up, so that every metric has a sample, and once beside an
engine that trades: `levibot live run` on paper with the test exchange's feed, `levibot live serve`
and `levibot live kill`, each in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from live.api_door import TOKEN_VARIABLE
from live.kill_switch import lift_kill, set_kill
from tests.live.control_service import RIGHT, TOKEN, control_service
from tests.live.engine_world import ENGINE, EngineMarket, EngineProcess
from tests.live.fleet import make_fleet, supervise, trading
from tests.live.test_metrics import MONITORING, metric_names, promtool, queries, rules

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
        own = f"http://127.0.0.1:{port}"
        until(lambda: httpx.get(f"{own}/-/ready").is_success, "Prometheus is ready")
        with httpx.Client(base_url=f"{own}/api/v1", timeout=5.0) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20.0)


def until(what: Callable[[], Any], name: str, within_secs: float = 60.0) -> Any:
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


# ---- beside an engine that trades

OWN = f'{{engine="{ENGINE}"}}'
ANSWERING = (
    "levibot_bars_total",
    "levibot_predictions_total",
    "levibot_orders_total",
    "levibot_fills_total",
    "levibot_decision_latency_seconds_count",
    "levibot_equity_usdt",
    "levibot_slippage_ratio_count",
    "levibot_prediction_confidence_ratio",
    "levibot_open_positions",
)
"""What is above zero of an engine that has traded."""


@contextmanager
def served(state: Path) -> Iterator[str]:
    """`levibot live serve` on a free port, by its address."""
    command = [sys.executable, "-m", "live.cli", "live", "serve", "--state", str(state)]
    process = subprocess.Popen(
        [*command, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, TOKEN_VARIABLE: TOKEN},
    )
    try:
        assert process.stderr is not None
        told = process.stderr.readline()
        found = re.search(r"127\.0\.0\.1:\d+", told)
        assert found is not None, told + process.stderr.read()
        yield found[0]
    finally:
        process.terminate()
        process.communicate(timeout=20)


def value(client: httpx.Client, query: str) -> float | None:
    """Return what Prometheus has of one series; None if it has nothing."""
    found = ask(client, query)
    assert len(found) <= 1, found
    return float(found[0]["value"][1]) if found else None


def fires(client: httpx.Client, alert: str, state: str = "firing") -> bool:
    return bool(ask(client, f'ALERTS{{alertname="{alert}",alertstate="{state}"}}'))


def kill(state: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "live.cli", "live", "kill", "--state", str(state), "--json"]
    done = subprocess.run(
        [*command, "--who", "anna", "--wait", "20"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_prometheus_watches_an_engine_trade_and_its_rules_fire_when_it_is_killed(
    tmp_path: Path,
) -> None:
    state, folder = tmp_path / "state", tmp_path / "prometheus"
    folder.mkdir()
    market = EngineMarket.make(tmp_path / "market")
    with (
        # Two bars a second, for ten minutes.
        market.exchange(speed="1800") as exchange,
        EngineProcess(market, state, ("--exchange", exchange.url, "--speed", "1800")) as engine,
        served(state) as target,
        prometheus(folder, target) as client,
    ):
        engine.until(lambda one: one.positions and one.counters.fills, "a position")
        for name in ANSWERING:
            until(lambda name=name: (value(client, f"max({name}{OWN})") or 0.0) > 0.0, name)
        until(lambda: value(client, f"rate(levibot_predictions_total{OWN}[5s])"), "a rate")
        level = f'levibot_guard_state{{engine="{ENGINE}",level="%s"}}'
        assert value(client, level % "normal") == 1.0
        assert not fires(client, "LeviBotGuardFired")
        _require_promtool_accepts(target)

        assert kill(state)["engines"] == {ENGINE: "halted"}
        until(lambda: fires(client, "LeviBotKillSwitchSet"), "the kill switch fires")
        until(lambda: fires(client, "LeviBotGuardFired"), "the risk guard fires")
        # The alarm begins while it still closes; the next scrape is of one that is flat.
        until(lambda: value(client, level % "halted") == 1.0, "it is halted")
        held = f'levibot_guard_hold{{engine="{ENGINE}",reason="kill_switch"}}'
        assert value(client, held) == 1.0
        assert value(client, "levibot_open_positions" + OWN) == 0.0
        status = engine.status()
        assert status is not None
        assert status.positions == {}
        # Flat: equity is cash, and stays where it is.
        assert value(client, "levibot_equity_usdt" + OWN) == pytest.approx(status.cash)

        engine.kill()
        until(lambda: value(client, "levibot_engine_up" + OWN) == 0.0, "it is missed")
        until(lambda: fires(client, "LeviBotEngineDown", "pending"), "its rule waits 30 s")


def _require_promtool_accepts(target: str) -> None:
    text = httpx.get(f"http://{target}/metrics", headers=RIGHT).content
    done = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()

"""The metrics, and the files that query them: rules, their unit tests, dashboard, configuration."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from live.api_door import RequestMetrics
from live.kill_switch import set_kill
from live.metrics import BREAKER_STATES, COUNTERS, DROPPED_BARS, GUARD_LEVELS, STATES, render
from live.overview import EngineView, Overview, Reading, RegistryReader
from strategies.guard_state import HOLDS
from tests.live.fleet import BTC, ETH, NS, halted, make_fleet, record, trading

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "live" / "monitoring"
DOCUMENT = ROOT / "docs" / "live" / "control.md"
NOW = 1_800_000_000 * NS


class Series(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


def parse(text: bytes) -> list[Series]:
    return [
        Series(one.name, one.labels, one.value)
        for family in text_string_to_metric_families(text.decode())
        for one in family.samples
    ]


def sample(found: list[Series], name: str, **labels: str) -> float:
    values = [one.value for one in found if one.name == name and one.labels == labels]
    assert len(values) == 1, (name, labels, values)
    return values[0]


@pytest.fixture(scope="module")
def found() -> list[Series]:
    views = tuple(
        EngineView(status, record(status.engine), NOW) for status in (trading(NOW), halted(NOW))
    )
    requests = RequestMetrics()
    requests.add({"type": "http", "method": "GET"}, 200, 0.01)
    return parse(render(Reading(Overview(NOW, views, supervised=True)), requests.registry))


def test_values_have_base_units(found: list[Series]) -> None:
    assert sample(found, "levibot_engine_up", engine="BTCUSDT") == 1.0
    assert sample(found, "levibot_last_bar_timestamp_seconds", engine="BTCUSDT") == 1_799_999_600
    assert sample(found, "levibot_bar_interval_seconds", engine="BTCUSDT") == 900.0
    assert sample(found, "levibot_equity_usdt", engine="ETHUSDT") == 9_700.0
    assert sample(found, "levibot_predictions_total", engine="BTCUSDT") == 280.0
    assert sample(found, "levibot_bars_dropped_total", engine="BTCUSDT", reason="late") == 2.0
    assert sample(found, "levibot_engine_restarts_total", engine="BTCUSDT") == 4.0
    assert sample(found, "levibot_engine_resident_memory_bytes", engine="BTCUSDT") == 330 * 2**20
    assert sample(found, "levibot_feature_age_seconds", engine="BTCUSDT", input="funding") == 120.5
    position = {"engine": "BTCUSDT", "instrument": BTC}
    assert sample(found, "levibot_position_unrealized_pnl_usdt", **position) == pytest.approx(20.0)
    assert sample(found, "levibot_position_stop_present", **position) == 1.0
    degraded = {"engine": "ETHUSDT", "instrument": ETH}
    assert sample(found, "levibot_prediction_degraded", **degraded) == 1.0


def test_what_is_not_known_has_no_sample(found: list[Series]) -> None:
    inputs = {one.labels["input"] for one in found if one.name == "levibot_feature_age_seconds"}
    assert inputs == {"funding"}
    empty = EngineView(trading(NOW, equity=None, last_bar_ns=0, positions={}), None, NOW)
    names = {one.name for one in parse(render(Reading(Overview(NOW, (empty,)))))}
    for name in ("equity_usdt", "drawdown_ratio", "last_bar_timestamp_seconds", "engine_given_up"):
        assert f"levibot_{name}" not in names


def test_states_are_one_of_several(found: list[Series]) -> None:
    for name, label, values, state in (
        ("levibot_engine_state", "state", STATES, "halted"),
        ("levibot_guard_state", "level", GUARD_LEVELS, "halted"),
    ):
        said = {
            one.labels[label]: one.value
            for one in found
            if one.name == name and one.labels["engine"] == "ETHUSDT"
        }
        assert tuple(said) == values
        assert {key for key, value in said.items() if value} == {state}
    breaker = {
        one.labels["state"]: one.value
        for one in found
        if one.name == "levibot_expert_breaker_state"
        and one.labels["engine"] == "BTCUSDT"
        and one.labels["expert"] == "lstm"
    }
    assert breaker == {"closed": 0.0, "open": 1.0, "half_open": 0.0}
    assert sample(found, "levibot_guard_hold", engine="ETHUSDT", reason="daily_loss") == 1.0


def test_states_are_those_that_engines_can_have() -> None:
    from typing import get_args

    from live.engine_status import State
    from research.circuit_breaker import Status
    from strategies.guard_state import Level

    assert set(STATES) == set(get_args(State.__value__))
    assert set(GUARD_LEVELS) == set(get_args(Level.__value__))
    assert set(BREAKER_STATES) == {one.replace("-", "_") for one in get_args(Status.__value__)}
    assert "kill_switch" in HOLDS


def test_every_counter_of_an_engine_is_a_metric() -> None:
    from live.engine_status import EngineCounters

    covered = {*(one.field for one in COUNTERS), *DROPPED_BARS}
    assert covered == set(EngineCounters.__dataclass_fields__)


def test_latency_is_a_cumulative_histogram_in_seconds(found: list[Series]) -> None:
    name = "levibot_decision_latency_seconds"
    buckets = [
        (one.labels["le"], one.value)
        for one in found
        if one.name == f"{name}_bucket" and one.labels["engine"] == "BTCUSDT"
    ]
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert dict(buckets)["0.005"] == 5.0
    assert dict(buckets)["0.05"] == 9.0
    assert buckets[-1] == ("+Inf", 10.0)
    assert sample(found, f"{name}_sum", engine="BTCUSDT") == pytest.approx(6.05)
    assert sample(found, f"{name}_count", engine="BTCUSDT") == 10.0


def test_slippage_is_a_ratio_that_may_be_negative(found: list[Series]) -> None:
    assert sample(found, "levibot_slippage_ratio_sum", engine="BTCUSDT") == pytest.approx(-13.5e-4)
    assert sample(found, "levibot_slippage_mean_ratio", engine="BTCUSDT") == pytest.approx(-1.5e-4)


def test_a_registry_that_cannot_be_read_is_a_metric_itself(tmp_path: Path) -> None:
    set_kill(tmp_path, "anna", "")
    values = {one.name: one.value for one in parse(render(Reading.of(RegistryReader(tmp_path))))}
    assert values == {"levibot_registry_up": 0.0, "levibot_kill_switch": 1.0}


def test_fifteen_engines_are_rendered_quickly(tmp_path: Path) -> None:
    registry = make_fleet(tmp_path)
    for number in range(15):
        registry.publish(trading(time.time_ns(), engine=f"E{number}"))
    with closing(RegistryReader(tmp_path)) as reader:
        render(Reading.of(reader))
        begun = time.process_time()
        render(Reading.of(reader))
        assert time.process_time() - begun < 0.25
    registry.close()


# ---- the files that query them


def metric_names(expression: str) -> set[str]:
    return set(re.findall(r"\blevibot_[a-z0-9_]+", expression))


def labels_of(found: list[Series], name: str) -> set[str]:
    return {"le", *(label for one in found if one.name == name for label in one.labels)}


def rules() -> Iterator[dict[str, Any]]:
    content = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))
    for group in content["groups"]:
        yield from group["rules"]


def queries() -> Iterator[tuple[str, str, str]]:
    """Title, query and legend of everything on the dashboard."""
    board = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"], ""


def test_every_query_names_a_metric_that_exists(found: list[Series]) -> None:
    names = {one.name for one in found}
    asked = [(rule["alert"], rule["expr"]) for rule in rules()]
    asked += [(title, expression) for title, expression, _ in queries()]
    assert len(asked) > 60
    for title, expression in asked:
        used = metric_names(expression)
        assert used <= names, (title, used - names)
        assert used or "up{" in expression, title


def test_every_label_in_a_query_exists(found: list[Series]) -> None:
    own = {"engine", "job", "severity"}
    asked = [(one["alert"], one["expr"], str(one["annotations"])) for one in rules()]
    for title, expression, legend in [*queries(), *asked]:
        known = set().union(*(labels_of(found, name) for name in metric_names(expression)), own)
        matched = re.findall(r"(\w+)=~?\"", expression)
        grouped = re.findall(r"by \(([^)]*)\)", expression)
        shown = re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", legend)
        used = {*matched, *shown, *(one.strip() for part in grouped for one in part.split(","))}
        assert used <= known, (title, used - known)


def test_the_dashboard_is_whole(found: list[Series]) -> None:
    board = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        taken = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, panel["title"]
        cells |= taken
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert len({one["refId"] for one in panel["targets"]}) == len(panel["targets"])
    assert [one["name"] for one in board["templating"]["list"]] == ["datasource", "engine"]


def test_what_the_issue_names_is_on_the_dashboard() -> None:
    asked = " ".join(expression for _, expression, _ in queries())
    for name in (
        *("predictions_total", "prediction_confidence_ratio", "prediction_uncertainty_ratio"),
        *("expert_breaker_state", "feature_age_seconds", "decision_latency_seconds_bucket"),
        *("orders_total", "fills_total", "slippage_mean_ratio", "equity_usdt", "drawdown_ratio"),
        *("guard_state", "engine_restarts_total", "reconnects_total", "kill_switch"),
    ):
        assert f"levibot_{name}" in asked


def test_rules_say_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 20
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["annotations"]["description"].endswith(".")


def test_every_rule_has_a_case_in_the_unit_tests() -> None:
    cases = (ROOT / "tests" / "live" / "alerts_test.yml").read_text(encoding="utf-8")
    for rule in rules():
        assert f'{{alertname="{rule["alert"]}"}}' in cases, rule["alert"]


def test_the_documentation_lists_the_metrics_that_there_are(found: list[Series]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(levibot_\w+)`", text, flags=re.MULTILINE))
    families = {re.sub(r"_(bucket|sum|count|created)$", "", one.name) for one in found}
    assert documented == families


# ---- what Prometheus itself says


def promtool() -> str:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    return tool


@pytest.mark.slow
def test_promtool_accepts_the_rules_and_their_unit_tests() -> None:
    tool = promtool()
    rules_file = str(MONITORING / "alerts.yml")
    subprocess.run([tool, "check", "rules", rules_file], check=True, capture_output=True)
    cases = str(ROOT / "tests" / "live" / "alerts_test.yml")
    done = subprocess.run([tool, "test", "rules", cases], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    # It checks rules only: each query becomes one.
    filled = [
        (title, one.replace("$__rate_interval", "1m").replace("$engine", ".*"))
        for title, one, _ in queries()
        if not one.startswith("label_values")
    ]
    assert len(filled) > 40
    assert not [title for title, one in filled if "$" in one]
    written = [{"record": f"panel:{n}", "expr": one} for n, (_, one) in enumerate(filled)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": written}]}))
    done = subprocess.run([promtool(), "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(filled)} rules found" in done.stdout


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    tool = promtool()
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(MONITORING / name, tmp_path)
    (tmp_path / "levibot_api_token").write_text("x" * 32, encoding="utf-8")
    command = [tool, "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_to_complain_about_in_the_metrics(found: list[Series]) -> None:
    tool = promtool()
    views = (EngineView(trading(NOW), record("BTCUSDT"), NOW),)
    text = render(Reading(Overview(NOW, views)), RequestMetrics().registry)
    done = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import ConfigError
from live.engine_health import HealthLimits, HealthWatch
from live.engine_plan import check_profiles, load_plan, plan_of
from live.engine_status import EngineStatus
from live.processes import ProcessId
from live.restarts import RestartPolicy
from live.supervise_command import SuperviseRequest, fleet_of, run_command, supervisor_config

PROCESS = ProcessId(7, 8, "boot")


def test_options_give_one_engine_for_each_symbol_with_equal_shares() -> None:
    plan = plan_of(["BTCUSDT", "ETHUSDT"], profile="perps-swing", equity=1000.0)
    assert plan.symbols_of("ETHUSDT") == ("ETHUSDT",)
    assert plan.equity_of("BTCUSDT") == 500.0
    with pytest.raises(ConfigError, match="distinct, were A, A"):
        plan_of(["A", "A"])


def test_a_file_says_more(tmp_path: Path) -> None:
    path = tmp_path / "engines.yaml"
    path.write_text(
        "equity: 900\nengines:\n  BTCUSDT: {share: 2, set: [strategy.entry_threshold=0.57]}\n"
        "  alts: {symbols: [SOLUSDT, XRPUSDT], profile: perps-15m, bundle: other}\n"
    )
    plan = load_plan(path, profile="perps-swing", bundle="swing", equity=None)
    assert [plan.equity_of(one) for one in plan.engines] == [600.0, 300.0]
    command = run_command(tmp_path, ("--catalog", "c"))("BTCUSDT", plan)
    assert command[1:6] == ("-m", "live.cli", "live", "run", "--name")
    assert " ".join(command[6:]) == (
        f"BTCUSDT --profile perps-swing --bundle swing --mode paper --symbols BTCUSDT --state "
        f"{tmp_path} --equity 600.00000000 --set strategy.entry_threshold=0.57 --catalog c"
    )
    alts = run_command(tmp_path)("alts", plan)
    assert alts[alts.index("--symbols") + 1] == "SOLUSDT,XRPUSDT"
    assert alts[alts.index("--bundle") + 1] == "other"
    check_profiles(plan)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=15))
def test_the_shares_of_all_engines_are_the_whole(weights: list[float]) -> None:
    plan = plan_of([f"S{number}" for number in range(len(weights))], equity=1.0)
    engines = {
        name: one.model_copy(update={"share": weight})
        for (name, one), weight in zip(plan.engines.items(), weights, strict=True)
    }
    changed = plan.model_copy(update={"engines": engines})
    assert sum(changed.equity_of(one) or 0.0 for one in engines) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engines: {}", "at least 1"),
        ("engines: {A: {symbols: [X]}, B: {symbols: [X]}}", "given to several: X"),
        ("engines: {A: {shares: 1}}", "did you mean 'share'"),
        ("engines: {A: {share: 0}}", "greater than 0"),
        ("engines: {a/b: {}}", "1 to 32 letters"),
        ("mode: live\nengines: {A: {}, B: {}}", "equity must be given where 2 engines"),
    ],
)
def test_a_plan_with_a_fault_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "engines.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_plan(path)


def test_no_engine_starts_where_one_profile_is_wrong(tmp_path: Path) -> None:
    request = SuperviseRequest(state=tmp_path, symbols="BTCUSDT", profile="perps-swung", bundle="b")
    with pytest.raises(ConfigError, match="perps-swung") as caught:
        fleet_of(request)
    assert caught.value.__notes__ == ["it is the profile of engine BTCUSDT; no engine was touched"]
    with pytest.raises(ConfigError, match="not named at all"):
        fleet_of(SuperviseRequest(state=tmp_path, profile="perps-swing"))
    with pytest.raises(ConfigError, match="must have a bundle"):
        fleet_of(SuperviseRequest(state=tmp_path, symbols="BTCUSDT", profile="perps-swing"))


def test_bars_of_an_engine_may_be_late_by_two_of_its_own(tmp_path: Path) -> None:
    request = SuperviseRequest(
        state=tmp_path, symbols="BTCUSDT", profile="perps-swing", bundle="b", healthy_secs=5.0
    )
    config = supervisor_config(request, fleet_of(request))
    assert config.rules.health.data_age_secs == 2 * 900 + 90
    assert config.rules.restarts.healthy_secs == 5.0


@given(st.integers(1, 10_000), st.integers(0, 1_000))
def test_delays_grow_to_a_limit_and_are_never_none(failures: int, seed: int) -> None:
    policy = RestartPolicy(first_secs=0.5, most_secs=60.0, jitter=0.5)
    full = min(0.5 * 2.0 ** (min(failures, 30) - 1), 60.0)
    assert 0.5 * full <= policy.delay_secs(failures, Random(seed)) <= full
    assert policy.gives_up(failures) == (failures >= 5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"first_secs": 0.0}, "first_secs must be positive"),
        ({"jitter": 1.5}, "jitter must be 0 to 1"),
        ({"max_failures": 0}, "at least 1"),
        ({"healthy_secs": 0.0}, "healthy_secs must be positive"),
    ],
)
def test_rules_of_restarts_that_cannot_be_meant(changed: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RestartPolicy(**changed)  # type: ignore[arg-type]


def said(state: str, heartbeat: int, bar: int, pid: int = 7) -> EngineStatus:
    return EngineStatus(
        engine="A",
        pid=pid,
        process_start_ns=8,
        state=state,  # type: ignore[arg-type]
        heartbeat_ns=heartbeat,
        last_bar_ns=bar,
    )


def test_health_is_judged_by_what_changes_not_by_clocks() -> None:
    limits = HealthLimits(start_secs=60.0, heartbeat_secs=5.0, data_age_secs=100.0)
    watch = HealthWatch(PROCESS, limits, 0.0)
    assert watch.look(None, None, 59.0).ailment == ""
    assert watch.look(None, None, 61.0).ailment == "silent"
    # Another process's status, with a heartbeat of the far future.
    watch = HealthWatch(PROCESS, limits, 0.0)
    assert watch.look(said("trading", 10**18, 1, pid=6), None, 61.0).ailment == "silent"
    # Of its own, from 1970: it is new all the same.
    watch = HealthWatch(PROCESS, limits, 0.0)
    assert watch.look(said("warming", 1, 0), None, 50.0).ailment == ""
    assert not watch.started
    assert watch.look(said("warming", 1, 0), None, 100.0).ailment == ""
    assert watch.look(said("trading", 2, 1), None, 105.0).ailment == ""
    assert watch.started
    assert watch.look(said("trading", 2, 1), None, 110.5).ailment == "silent"
    watch.pause(110.5)
    assert watch.look(said("trading", 2, 1), None, 111.0).ailment == ""
    assert watch.look(said("trading", 3, 1), None, 211.0).ailment == "stale"
    # It knows that bars are missing and works on it.
    assert watch.look(said("waiting", 4, 1), None, 212.0).ailment == ""
    assert watch.look(said("waiting", 5, 1), 2 * limits.max_rss_bytes, 213.0).ailment == "leaking"


@pytest.mark.parametrize(("bar_secs", "allowed"), [(60.0, 210.0), (0.0, 2_000.0), (9e4, 2_000.0)])
def test_bars_are_missed_by_the_length_of_the_engines_own(bar_secs: float, allowed: float) -> None:
    # One with bars of a minute beside one whose bars allow for half an hour.
    watch = HealthWatch(PROCESS, HealthLimits(data_age_secs=2_000.0), 0.0)
    watch.look(replace(said("trading", 1, 1), bar_interval_s=bar_secs), None, 0.0)
    for now, ailment in ((allowed, ""), (allowed + 1.0, "stale")):
        status = replace(said("trading", int(now), 1), bar_interval_s=bar_secs)
        assert watch.look(status, None, now).ailment == ailment

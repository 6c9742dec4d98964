"""The supervisor judges by what its engines follow: overrides, changed files, what they refuse."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.errors import ConfigError, DataError
from live.alerts import Alert
from live.engine_plan import FleetPlan, plan_of
from live.engine_process import EngineEvent
from live.engine_request import EngineRequest, ReplaySpan, chosen_instruments
from live.fleet_observers import observers_of
from live.fleet_profiles import FleetProfiles, PlanFile
from live.global_risk import GlobalRisk
from live.kill_switch import read_kill
from live.profile import PROFILE_FOLDER, load_profile
from live.state_folder import StateFolder
from live.supervise_command import SuperviseRequest, fleet_of, supervise, supervisor_config
from tests.live.test_global_risk import NOW, engine
from tests.live.test_profile_watch import change

type Told = list[tuple[str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(PROFILE_FOLDER / "perps-swing.yaml", tmp_path / "p.yaml")
    for name in ("risk_policy.yaml", "strict.yaml"):
        shutil.copy(PROFILE_FOLDER.parent / "risk_policy.yaml", tmp_path / name)
    change(tmp_path / "strict.yaml", max_daily_loss=0.01)
    return tmp_path


def plan(folder: Path, **engines: Any) -> FleetPlan:
    path = folder / "engines.yaml"
    path.write_text(yaml.safe_dump({"profile": str(folder / "p.yaml"), "engines": engines}))
    return fleet_of(SuperviseRequest(state=folder, plan=path, bundle="b"))


def followed(folder: Path, told: Told, **engines: Any) -> FleetProfiles:
    return FleetProfiles(plan(folder, **engines), lambda *one: told.append(one))


STRICT = {"set": ["strategy.risk=strict.yaml"]}


def test_the_limit_of_all_is_the_strictest_that_an_override_sets(folder: Path) -> None:
    assert followed(folder, [], BTCUSDT={}).max_daily_loss == 0.03
    assert followed(folder, [], BTCUSDT={}, ETHUSDT=STRICT).max_daily_loss == 0.01


def test_a_policy_may_come_by_overrides_alone(folder: Path) -> None:
    change(folder / "p.yaml", strategy__risk=None)
    with pytest.raises(ConfigError, match="must have a risk policy, no profile has one"):
        followed(folder, [], BTCUSDT={})
    assert followed(folder, [], BTCUSDT=STRICT).max_daily_loss == 0.01
    found = observers_of(folder, plan(folder, BTCUSDT=STRICT), folder / "engines.yaml")
    assert isinstance(found[-1], PlanFile)


def test_an_override_for_all_engines_counts_as_theirs(folder: Path) -> None:
    for options in (
        ("--catalog=c", "--set=strategy.risk=strict.yaml"),
        ("--set", "strategy.risk=strict.yaml", "--speed", "max"),
    ):
        request = SuperviseRequest(
            state=folder,
            symbols="BTCUSDT",
            profile=str(folder / "p.yaml"),
            bundle="b",
            options=options,
        )
        assert FleetProfiles(fleet_of(request), print).max_daily_loss == 0.01


def test_bars_are_as_long_as_overrides_say(folder: Path) -> None:
    longer = ["data.interval=1h"]
    request = SuperviseRequest(state=folder, symbols="BTCUSDT", bundle="b")
    settings = {"profile": str(folder / "p.yaml"), "bundle": "b"}
    found = plan_of(["BTCUSDT"], **settings)
    one = found.engines["BTCUSDT"].model_copy(update={"set": tuple(longer)})
    found = found.model_copy(update={"engines": {"BTCUSDT": one}})
    config = supervisor_config(request, found)
    assert config.rules.health.data_age_secs == 2 * 3_600 + 90
    assert FleetProfiles(found, print).stale_secs == 2 * 3_600 + 90


def test_a_changed_file_counts_as_it_does_for_the_engines(folder: Path) -> None:
    told: Told = []
    profiles = followed(folder, told, BTCUSDT={}, ETHUSDT=STRICT)
    change(folder / "strict.yaml", max_daily_loss=0.005)
    profiles.on_look({}, {})
    assert profiles.max_daily_loss == 0.005
    assert told == [("profile", "all engines together may lose 0.50% a day, was 1.00%")]
    # Refused by the engines, as a key that needs a restart changes with it.
    change(folder / "strict.yaml", max_daily_loss=0.02)
    change(folder / "p.yaml", label__horizon_bars=8)
    profiles.on_look({}, {})
    assert profiles.max_daily_loss == 0.005
    (folder / "strict.yaml").write_text("half wri")
    profiles.on_look({}, {})
    assert profiles.max_daily_loss == 0.005
    assert len(told) == 1


def test_an_engine_that_starts_has_what_its_files_say_then(folder: Path) -> None:
    profiles = followed(folder, [], BTCUSDT=STRICT)
    change(folder / "p.yaml", label__horizon_bars=8)
    change(folder / "strict.yaml", max_daily_loss=0.02)
    profiles.on_look({}, {})
    assert profiles.max_daily_loss == 0.01
    profiles.on_event(EngineEvent("BTCUSDT", "started", "process 7"))
    assert profiles.max_daily_loss == 0.02
    (folder / "p.yaml").write_text("half wri")
    profiles.on_event(EngineEvent("BTCUSDT", "started", "process 8"))
    assert profiles.max_daily_loss == 0.02


def test_the_kill_switch_is_set_at_the_limit_that_counts_now(folder: Path) -> None:
    profiles, alerts = followed(folder, [], A=STRICT), list[Alert]()
    risk = GlobalRisk(
        StateFolder(folder), lambda: profiles.max_daily_loss, alerts.append, lambda: NOW
    )
    risk.on_look({"A": engine("A", 1000.0)}, {})
    risk.on_look({"A": engine("A", 994.0)}, {})
    assert read_kill(folder) is None
    change(folder / "strict.yaml", max_daily_loss=0.005)
    profiles.on_look({}, {})
    risk.on_look({"A": engine("A", 994.0)}, {})
    switch = read_kill(folder)
    assert switch is not None
    assert "less than 0.50% a day" in switch.why


def test_a_plan_that_changes_is_told_of_and_does_not_count(folder: Path) -> None:
    told: Told = []
    plan(folder, BTCUSDT={})
    watched = PlanFile(folder / "engines.yaml", lambda *one: told.append(one))
    watched.on_look({}, {})
    assert told == []
    plan(folder, BTCUSDT={}, ETHUSDT={})
    for _ in range(2):
        watched.on_look({}, {})
    assert len(told) == 1
    assert "engines.yaml has changed: it is read when the supervisor starts" in told[0][1]


# ---- what is risked


@pytest.mark.parametrize(
    ("mode", "variables", "message"),
    [
        ("live", {}, "LEVIBOT_ALLOW_LIVE must be yes"),
        ("live", {"LEVIBOT_ALLOW_LIVE": "yes"}, "BINANCE_API_KEY"),
        ("testnet", {}, "BINANCE_TESTNET_API_KEY"),
    ],
)
def test_without_leave_and_keys_nothing_is_begun(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    variables: dict[str, str],
    message: str,
) -> None:
    for name in ("LEVIBOT_ALLOW_LIVE", "BINANCE_API_KEY", "BINANCE_TESTNET_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    request = SuperviseRequest(
        state=folder / "state", symbols="BTCUSDT", profile="perps-swing", bundle="b", mode=mode
    )
    with pytest.raises(ConfigError, match=message):
        supervise(request)
    assert not (folder / "state").exists()


def test_what_is_risked_is_printed_before_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEVIBOT_ALLOW_LIVE", "yes")
    for name in ("BINANCE_API_KEY", "BINANCE_API_SECRET"):
        monkeypatch.setenv(name, "a-secret-key")
    told: list[str] = []
    monkeypatch.setattr("live.supervise_command.tell", told.append)

    def begin(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("live.supervise_command.Supervisor", begin)
    monkeypatch.setattr("live.supervise_command.require_bundles", lambda plan: None)
    request = SuperviseRequest(
        state=folder / "state",
        symbols="BTCUSDT,ETHUSDT",
        profile=str(folder / "p.yaml"),
        bundle="b",
        mode="live",
        equity=1_000.0,
        options=("--exchange", "http://127.0.0.1:1", "--set=strategy.risk=strict.yaml"),
    )
    with pytest.raises(KeyboardInterrupt):
        supervise(request)
    btc, eth, together = told
    assert "live: engine BTCUSDT trades BTCUSDT-PERP.BINANCE on http://127.0.0.1:1" in btc
    assert "500.00 USDT; a day may lose 1.0%" in btc
    assert "engine ETHUSDT trades" in eth
    assert together == ("all engines together: at a loss of 1.0% in a day the kill switch is set")
    assert "a-secret-key" not in "".join(told)


def test_no_engine_is_begun_without_its_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("live.supervise_command.Supervisor", lambda *_: pytest.fail("it begins"))
    path = folder / "p.yaml"
    request = SuperviseRequest(
        state=folder / "state", symbols="BTCUSDT", profile=str(path), bundle=str(folder / "none")
    )
    with pytest.raises(DataError, match="none must be a bundle folder with a manifest"):
        supervise(request)
    assert not (folder / "state").exists()


def test_no_engine_is_begun_on_a_venue_where_none_runs(folder: Path) -> None:
    path = folder / "p.yaml"
    path.write_text(path.read_text().replace("BINANCE", "BYBIT"))
    for mode, options in (("paper", ()), ("live", ()), ("paper", ("--catalog", "c"))):
        request = SuperviseRequest(
            state=folder / "state",
            symbols="BTCUSDT",
            profile=str(path),
            bundle="b",
            mode=mode,
            options=options,
        )
        with pytest.raises(ConfigError, match=r"so far, on paper as well, was Bybit.*not transl"):
            supervise(request)
        with pytest.raises(ConfigError, match="so far, on paper as well, was Bybit"):
            bybit_engine(path, mode=mode)
    # Recorded data need no client of the venue.
    fleet_of(replace(request, options=("--replay=2025-01-01..2025-01-02",)))
    bybit_engine(path, replay=ReplaySpan(1, 2), catalog=folder)


def bybit_engine(path: Path, **changes: Any) -> EngineRequest:
    profile = load_profile(str(path))
    traded = chosen_instruments(profile, "BTCUSDT")
    folder = path.parent
    return EngineRequest(
        profile=profile, bundle=folder, state=folder, traded=traded, name="BTCUSDT", **changes
    )

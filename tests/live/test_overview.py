from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import DataError, RunFailedError
from catalog.instruments import symbol_of
from live.engine_status import EngineStatus, GuardLevel
from live.kill_switch import set_kill
from live.overview import (
    SILENT_AFTER_SECS,
    EngineView,
    Overview,
    Reading,
    RegistryReader,
)
from live.registry import EngineRecord, Registry
from live.supervise_command import ask_engine
from tests.live.fleet import BTC, ETH, NS, make_fleet, record, supervise, trading

NOW = 1_800_000_000 * NS


def view(status: EngineStatus, known: EngineRecord | None = None) -> EngineView:
    return EngineView(status, known, NOW)


def read(state: Path) -> Overview:
    with closing(RegistryReader(state)) as reader:
        return reader.overview()


def test_an_engine_that_says_nothing_any_more_does_not_run() -> None:
    limit = int(SILENT_AFTER_SECS * NS)
    fresh = view(trading(NOW - limit))
    silent = view(trading(NOW - limit - NS))
    assert fresh.running
    assert fresh.problems == ()
    assert not silent.running
    assert silent.problems == ("no heartbeat for 11 s",)
    never = view(EngineStatus(engine="A", state="starting"))
    assert never.problems == ("never a heartbeat",)
    assert never.heartbeat_age_secs is None


@pytest.mark.parametrize(
    ("status", "known", "problems"),
    [
        (trading(NOW, state="waiting"), None, ("waits for data, without new entries",)),
        (trading(NOW, state="failed", last_error="no keys"), None, ("failed: no keys",)),
        (trading(NOW, state="stopped"), None, ()),
        (trading(NOW, state="stopped"), record("A", wanted=False, stage="stopped"), ()),
        (
            trading(NOW),
            record("A", stage="given_up", failures_in_row=5, last_error="exit code 3"),
            ("given up after 5 failures: exit code 3",),
        ),
        (
            trading(NOW),
            record("A", stage="backoff", last_error="killed"),
            ("no process (backoff): killed",),
        ),
        (
            trading(NOW, guard=GuardLevel("reducing", ("drawdown", "manual"))),
            None,
            ("risk guard reducing: drawdown, manual",),
        ),
        (trading(NOW, blocked="too little"), None, ("opens nothing new: too little",)),
        (trading(NOW, state="stopped", blocked="too little"), None, ()),
    ],
)
def test_problems_are_named(
    status: EngineStatus, known: EngineRecord | None, problems: tuple[str, ...]
) -> None:
    assert view(status, known).problems == problems


def test_losses_are_fractions_of_what_was_there() -> None:
    one = view(trading(NOW, equity=90.0, peak_equity=120.0, day_start_equity=100.0))
    assert one.drawdown_frac == pytest.approx(0.25)
    assert one.day_loss_frac == pytest.approx(0.1)
    for peak in (None, 0.0, -5.0):
        assert view(trading(NOW, peak_equity=peak)).drawdown_frac is None


def test_inputs_grow_old_with_an_engine_that_is_silent() -> None:
    ages = view(trading(NOW - 100 * NS)).input_ages_secs()
    assert ages == {"funding": 220.5, "fear_greed": None}


def test_symbols_are_those_of_the_exchange() -> None:
    assert symbol_of(BTC) == "BTCUSDT"
    assert symbol_of("BTC-USDT-SWAP.OKX") == "BTC-USDT-SWAP"


def test_a_folder_is_read_with_all_that_is_known(tmp_path: Path) -> None:
    registry = make_fleet(tmp_path)
    registry.record(record("ADAUSDT", stage="backoff", last_error="exit code 2"))
    registry.ask("stop", "BTCUSDT", "anna")
    set_kill(tmp_path, "anna", "drill")
    reader = RegistryReader(tmp_path)
    found = reader.overview()
    assert [one.name for one in found.engines] == ["ADAUSDT", "BTCUSDT", "ETHUSDT"]
    assert found.states == {"stopped": 1, "trading": 1, "halted": 1}
    assert found.pending == 1
    assert found.supervised
    assert found.kill is not None
    assert found.problems == {
        "ADAUSDT": ("no process (backoff): exit code 2",),
        "ETHUSDT": ("risk guard halted: daily_loss",),
    }
    assert [one.instrument for one in found.predictions()] == [BTC, ETH]
    assert [one.engine for one in found.predictions("ETHUSDT")] == ["ETHUSDT"]
    assert [one.engine for one in found.predictions(BTC)] == ["BTCUSDT"]
    assert found.predictions("ETH") == []
    reader.close()
    registry.close()


@pytest.mark.parametrize("said", ['{"pid": 0}', "nonsense", "[]", None])
def test_a_supervisor_that_has_gone_or_never_was_supervises_nothing(
    tmp_path: Path, said: str | None
) -> None:
    registry = make_fleet(tmp_path)
    if said is None:
        registry._write("DELETE FROM facts", ())
    else:
        registry.set_fact("supervisor", said)
    assert not read(tmp_path).supervised
    # A person who asks for something is told at once, not after a minute.
    with pytest.raises(RunFailedError, match="must run to stop an engine, none does"):
        ask_engine(tmp_path, "stop", "BTCUSDT", "anna")
    assert not registry.pending()
    registry.close()


def test_a_fact_that_is_old_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = make_fleet(tmp_path)
    supervise(registry)
    later = time.time_ns() + 11 * NS
    monkeypatch.setattr("live.overview.time.time_ns", lambda: later)
    assert not read(tmp_path).supervised
    registry.close()


def test_a_registry_that_was_replaced_is_opened_again(tmp_path: Path) -> None:
    make_fleet(tmp_path).close()
    reader = RegistryReader(tmp_path)
    assert len(reader.overview().engines) == 2
    for path in tmp_path.glob("registry.db*"):
        path.unlink()
    with pytest.raises(DataError, match="check --state"):
        reader.overview()
    Registry(tmp_path / "registry.db").close()
    assert reader.overview().engines == ()
    reader.close()


def test_without_a_registry_the_kill_switch_is_known(tmp_path: Path) -> None:
    set_kill(tmp_path, "anna", "")
    found = Reading.of(RegistryReader(tmp_path))
    assert "must be there" in found.problem
    assert found.overview.kill is not None
    assert replace(found.overview, kill=None).engines == ()

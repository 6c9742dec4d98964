"""Backtest, paper node, and an engine on the test exchange: one comparison over the same bars."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from adapters.importing import import_path
from catalog.errors import AuditFailedError, ConfigError, RunFailedError
from catalog.store import Catalog
from catalog.timestamps import NS_PER_HOUR, NS_PER_SECOND, parse_time
from live import exchange_way, three_ways
from live.cli import app
from live.exchange_way import ExchangeRun, Interruptions, interruptions
from live.journal_frames import ToldRows
from live.parity import compare
from live.profile import load_profile
from live.three_ways import ThreeWayReport, audit_three_ways
from strategies.slow_data import SlowInputs
from tests.live.engine_world import EngineMarket
from tests.live.test_parity import outcome

BAR = 900 * NS_PER_SECOND
RESTLESS = (
    "strategy.exit_threshold=0.525",
    "strategy.min_holding_bars=2",
    "strategy.stop_loss_frac=0.004",
)
MONTH = (parse_time("2025-04-01"), parse_time("2025-05-01"))
RECENT = ("data.start=2024-12-01", "validation.test_start=2025-03-01")
BOLDER = (
    # As it is, the profile finds nothing worth its costs in most fortnights.
    "strategy.entry_threshold=0.56",
    "strategy.edge_margin_bps=null",
    "strategy.sizing={method: fixed, fixed_frac: 0.1}",
)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> EngineMarket:
    return EngineMarket.make(tmp_path_factory.mktemp("ways"))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_an_engine_that_was_cut_off_and_killed_equals_the_backtest(market: EngineMarket) -> None:
    span = (parse_time("2024-01-26"), parse_time("2024-01-26T11:00"))
    profile = load_profile(str(market.profile), RESTLESS)
    report = audit_three_ways(profile, market.market.catalog, span=span, interrupted=True)
    assert report.identical, str(report)
    report.require_identical()
    assert report.exchange.compared["predictions"] == report.paper.compared["predictions"] > 0
    assert report.exchange.compared["fills"] > 4
    assert report.run.facts["lives"] == 2
    assert report.run.facts["reconnects"] >= 1
    assert report.run.facts["backfilled"] >= 2
    assert set(report.to_json()["exchange"]["cash"]) == {"exchange", "engine", "booked anew"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_month_of_three_real_symbols_is_the_same_three_ways(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "catalog"
    for part in ("bars/perp", "funding"):
        assert import_path(shared_data / part, Catalog.open(folder, create=True)).ok
    profile = load_profile("perps-swing", (*RECENT, *BOLDER))
    report = audit_three_ways(profile, folder, span=MONTH, interrupted=True)
    assert report.identical, str(report)
    assert report.exchange.compared["predictions"] == 3 * 30 * 96
    assert report.exchange.compared["fills"] > 10
    assert report.exchange.compared["settlements"] > 10


# ---- the comparison can fail


def told(frames: Any, **cash: float) -> ExchangeRun:
    return ExchangeRun(frames, {"lives": 1}, {"exchange": 1.0, "engine": 1.0, **cash})


def test_a_difference_on_the_exchange_is_named_and_fails() -> None:
    backtest, other = outcome(), outcome()
    other.decisions.loc[3, "side"] = 7
    same, differs = compare(backtest, outcome()), compare(backtest, other)
    report = ThreeWayReport(same, differs, told(other), Interruptions())
    assert not report.identical
    assert "sides, row 3" in str(report)
    with pytest.raises(AuditFailedError, match="first difference: sides, row 3"):
        report.require_identical()
    apart = ThreeWayReport(same, same, told(other, booked=1.00000001), Interruptions())
    assert not apart.identical
    with pytest.raises(AuditFailedError, match="cash at the exchange, in the engine"):
        apart.require_identical()


def test_what_no_exchange_tells_is_left_out() -> None:
    backtest, other = outcome(), outcome()
    for one, price in ((backtest, 1.0), (other, np.nan)):
        one.fills["reference_price"] = price
    assert not compare(backtest, other).identical
    assert compare(backtest, other, unknown=("reference_price",)).identical


def test_the_command_ends_with_the_code_of_a_failed_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    backtest, other = outcome(), outcome()
    other.equity.iloc[2, 1] += 1e-8
    found = ThreeWayReport(
        compare(backtest, backtest), compare(backtest, other), told(other), Interruptions(BAR, BAR)
    )
    monkeypatch.setattr(three_ways, "audit_three_ways", lambda *_, **__: found)
    audit = ["audit", "parity", "-p", "synthetic", "-c", "none", "--exchange", "--interrupted"]
    done = CliRunner().invoke(app, [*audit, "--json"])
    assert done.exit_code == AuditFailedError.exit_code
    shown = json.loads(done.stdout)
    assert shown["paper"]["identical"]
    assert not shown["exchange"]["identical"]
    assert shown["exchange"]["first_difference"]["kind"] == "equity"
    done = CliRunner().invoke(app, audit)
    assert "engine on the test exchange" in done.stdout
    assert "sockets cut before 1970-01-01 00:15:00" in done.stdout


# ---- what cannot be run


def test_without_a_checkout_it_says_where_the_exchange_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(exchange_way, "_ROOT", tmp_path)
    done = CliRunner().invoke(app, ["audit", "parity", "-p", "synthetic", "-c", "x", "--exchange"])
    assert done.exit_code == ConfigError.exit_code
    assert "must run in a checkout of the project" in " ".join(done.stderr.split())


def test_an_interruption_needs_an_exchange() -> None:
    arguments = ["audit", "parity", "-p", "synthetic", "-c", "x", "--interrupted"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == ConfigError.exit_code
    assert "--interrupted must come with --exchange" in " ".join(done.stderr.split())


def decided(closes: tuple[Any, ...], fills: Any) -> Any:
    ts = np.repeat(np.sort(np.concatenate(closes)), 2)
    names = ["", "F1-E1"] * (len(ts) // 2)
    decisions = pd.DataFrame({"ts_init": ts, "client_order_id": names})
    return SimpleNamespace(decisions=decisions, fills=pd.DataFrame({"ts_event": fills}))


def test_breaks_lie_where_orders_are_sent_and_no_settlement_is_near() -> None:
    day = 24 * NS_PER_HOUR
    span = (10 * day, 13 * day)
    calm = span[0] + np.array([2, 22, 30, 46, 60]) * NS_PER_HOUR
    settled = span[0] + np.array([24, 48]) * NS_PER_HOUR
    stopped = span[0] + np.array([23, 47]) * NS_PER_HOUR + NS_PER_HOUR // 2
    found = interruptions(decided((calm, settled, stopped), stopped), span)
    assert found.kill_at == span[0] + 22 * NS_PER_HOUR
    assert found.drop_at == span[0] + 46 * NS_PER_HOUR
    with pytest.raises(ConfigError, match="must order something at two closes or more"):
        interruptions(decided((settled, stopped), stopped), span)


def test_an_interruption_that_did_not_happen_is_no_proof() -> None:
    facts = {"lives": 1, "outages": 1, "reconnects": 0, "backfilled": 3}
    with pytest.raises(RunFailedError, match="must show reconnects, lives"):
        exchange_way._require_broken(Interruptions(BAR, BAR), facts)
    exchange_way._require_broken(Interruptions(), facts)


def test_rows_of_two_lives_are_one_and_half_a_line_is_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = '["funding", [5, "A", 0.1, 2.0, 1.0, -0.2]]\n'
    order = '["order", ["F1-E1", "fixed", NaN]]\n'
    path.write_text(row + order + row + row.replace("0.1", "0.3") + '["funding", [6')
    found = ToldRows.read(path)
    assert [one.rate for one in found.funding] == [0.1, 0.3]
    assert found.sizes["F1-E1"][0] == "fixed"


def test_a_profile_without_a_risk_policy_or_with_slow_inputs_is_refused() -> None:
    profile = load_profile("synthetic")
    way = exchange_way.ExchangeWay(profile, Path("x"), None, None, (0, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must have a risk policy"):
        way.run()
    swing = load_profile("perps-swing")

    inputs: Any = SimpleNamespace(slow=SlowInputs(series={"index.dvol": Any}))  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"the profile's features also need index\.dvol"):
        replace(way, profile=swing, inputs=inputs).run()

"""A live strategy that dies, at any moment and more than once, does what one that lives does."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import ConfigError, DataError
from catalog.timestamps import NS_PER_SECOND
from live.recovery import RecoveryConfig
from live.state_store import StateStore
from strategies.backtest import run_backtest
from strategies.fusion import StrategySettings
from strategies.guard import Guard
from strategies.kept import LOST, KeptStrategy
from strategies.order_reports import OrderReport, TradeReport
from strategies.policy_config import FusionPolicy
from strategies.rebalance import RebalanceConfig
from strategies.recorder import RunRecorder
from strategies.returns_window import ReturnsWindow
from strategies.risk_policy import FoundGroups, RiskPolicy
from strategies.sizing_config import SizingConfig
from strategies.snapshots import StrategySnapshot
from tests.live import kept_node
from tests.live.kept_world import (
    BookExchange,
    Killed,
    Life,
    Setting,
    Story,
    live_through,
    records_of,
    story,
)
from tests.strategies.markets import (
    BTC,
    ETH,
    START,
    close_time,
    flat_bars,
    make_funding,
    make_inputs,
    make_predictor,
    wild,
)
from tests.strategies.settings import plain_execution, trailing_policy

NAMES = (BTC, ETH)
HOUR = 3_600 * 10**9
PAUSED = {"cooldown_bars": 2}
VARIANTS = ("stops", "limits", "funding", "rebalance", "kelly", "guard")


def patient(**changes: Any) -> FusionPolicy:
    wide = {"stops": None, "stop_loss_frac": 0.1, "exit_threshold": 0.35}
    return trailing_policy(**wide, **changes)


def watched() -> RiskPolicy:
    groups = FoundGroups(window_bars=96, limit=0.5, min_bars=20)
    return RiskPolicy(
        max_consecutive_losses=3,
        max_data_age_secs=3_600.0,
        found_groups=groups,
        sizing={"method": "fixed", "fixed_frac": 0.15},
    )


@cache
def setting(variant: str) -> Setting:
    long = variant in ("rebalance", "kelly")
    inputs, signals = wild(8, 180) if long else wild(7, 90)
    policy, execution = (
        trailing_policy(**PAUSED),
        plain_execution(slippage_bps=1.0, max_participation=0.5),
    )
    config = RebalanceConfig(
        schedule="0 * * * *", drift_frac=0.02, max_position=0.4, lookback_bars=120
    )
    if variant == "limits":
        style = {"order_style": "limit", "limit_offset_bps": 5.0, "limit_timeout_bars": 2}
        execution = plain_execution(max_participation=0.5, **style)
    elif variant == "funding":
        rates = {START + hour * HOUR: 0.0003 * (-1) ** hour for hour in range(1, 22)}
        funding = {name: make_funding(rates, name) for name in NAMES}
        inputs, execution = replace(inputs, funding=funding), plain_execution(funding="recorded")
    elif variant == "rebalance":
        policy = patient(rebalance=config)
    elif variant == "kelly":
        sizing = SizingConfig(
            method="kelly_multi", max_position=0.5, edge_after_costs=False, lookback_bars=120
        )
        policy = patient(rebalance=config, sizing=sizing)
    elif variant == "guard":
        policy = trailing_policy(**PAUSED, risk=watched())
    return Setting(
        inputs, lambda: make_predictor(signals, NAMES, volatility=0.01), policy, execution
    )


def lived(variant: str, deaths: list[int]) -> tuple[Story, BookExchange]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as at:
        told, exchange, _ = live_through(setting(variant), Path(at), deaths)
    return told, exchange


@cache
def undisturbed(variant: str) -> tuple[Story, BookExchange]:
    return lived(variant, [])


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_market_trades_what_it_is_there_for(variant: str) -> None:
    told, exchange = undisturbed(variant)
    reasons = {one[6] for one in told.orders}
    assert {"stop_loss"} <= reasons
    assert len(told.fills) > 7
    assert told.cash == exchange.book.ledger.cash
    assert {one[4] for one in told.orders} >= ({"LIMIT"} if variant == "limits" else set())
    if variant == "rebalance":
        assert "rebalance" in reasons
    if variant == "funding":
        assert len(exchange.book.ledger.settlements) >= 3
    if variant == "guard":
        assert "risk_guard" in {one[6] for one in told.decisions}


@pytest.mark.parametrize(
    ("variant", "death"),
    [
        # Each of them tells when a part of the state is forgotten.
        *(("stops", 50), ("stops", 200), ("limits", 34), ("limits", 146), ("funding", 34)),
        # A target is refused, then an exit fills, and the process dies before it hears of either.
        ("limits", 199),
        *(("funding", 134), ("guard", 29), ("guard", 47), ("rebalance", 101), ("kelly", 101)),
    ],
)
def test_a_death_where_it_hurts_changes_nothing(variant: str, death: int) -> None:
    told, exchange = lived(variant, [death])
    assert not exchange.twice
    assert told == undisturbed(variant)[0]


@pytest.mark.parametrize("command", ["cancel", "submit", "sending"])
def test_a_death_between_commit_and_command_is_made_up_for(command: str, tmp_path: Path) -> None:
    market, path = setting("stops"), tmp_path / "engine.db"
    records = records_of(market)
    exchange = BookExchange(market, records)
    first = Life(market, records, exchange, path)
    held = first.store if command == "sending" else exchange
    does, calls = getattr(held, command), iter(range(100))

    def dies(argument: Any) -> None:
        # A cancel of what the exchange has ended by itself is not missed.
        report = exchange.lookup(argument) if command == "cancel" else None
        counts = command != "cancel" or (report is not None and report.status == "ACCEPTED")
        if counts and next(calls) == 2:
            raise Killed
        does(argument)

    setattr(held, command, dies)
    with pytest.raises(Killed):
        first.run()
    closed = first.recorder.ledger.closed
    first.close()
    setattr(held, command, does)
    life = Life(market, records, exchange, path)
    life.run()
    assert life.found.strays if command == "cancel" else life.found.again
    assert story(life, exchange, closed + life.recorder.ledger.closed) == undisturbed("stops")[0]
    assert not exchange.twice
    life.close()


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(VARIANTS), st.lists(st.integers(0, 700), min_size=1, max_size=3))
def test_deaths_between_callbacks_change_nothing(variant: str, deaths: list[int]) -> None:
    told, exchange = lived(variant, deaths)
    assert not exchange.twice
    assert told == undisturbed(variant)[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=80, deadline=None)
@given(st.sampled_from(VARIANTS), st.lists(st.integers(0, 900), min_size=1, max_size=5))
def test_many_deaths_change_nothing(variant: str, deaths: list[int]) -> None:
    told, exchange = lived(variant, deaths)
    assert not exchange.twice
    assert told == undisturbed(variant)[0]


def killed(points: int, seed: int) -> dict[str, Any]:
    arguments = [sys.executable, "-m", "tests.live.kill_points", str(points), str(seed)]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        arguments, cwd=root, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_sigkill_at_any_statement_loses_and_repeats_nothing() -> None:
    found = killed(4, seed=4)
    assert found["wrong"] == {}
    assert found["trades"] > 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigkill_at_many_statements_loses_and_repeats_nothing() -> None:
    found = killed(40, seed=5)
    assert found["wrong"] == {}


# ---- snapshots


@settings(deadline=None)
@given(st.floats(), st.floats(), st.floats())
def test_floats_come_back_bit_for_bit(one: float, two: float, three: float) -> None:
    story_of = _snapshot()
    ledger = replace(story_of.ledger, marks={"a": one, "b": two}, cash=three)
    found = StrategySnapshot.from_json(replace(story_of, ledger=ledger).to_json()).ledger
    for was, came in ((one, found.marks["a"]), (two, found.marks["b"]), (three, found.cash)):
        assert came.hex() == was.hex() or (math.isnan(was) and math.isnan(came))


@cache
def _snapshot() -> StrategySnapshot:
    with tempfile.TemporaryDirectory() as at:
        live_through(setting("stops"), Path(at), [])
        store = StateStore(Path(at) / "engine.db")
        found = store.snapshot()
        store.close()
    assert found is not None
    return found


def test_a_snapshot_that_is_damaged_or_of_another_schema_is_refused() -> None:
    text = _snapshot().to_json()
    with pytest.raises(DataError, match="must be readable"):
        StrategySnapshot.from_json(text[: len(text) // 2])
    with pytest.raises(DataError, match="schema of a strategy's snapshot must be 1, was 7"):
        StrategySnapshot.from_json(text.replace('"schema":1', '"schema":7'))


def test_a_window_comes_back_though_it_is_shorter_or_knows_another_instrument() -> None:
    window = ReturnsWindow(("a", "b"), 5)
    for step in range(1, 9):
        window.update({"a": 100.0 + step, "b": 50.0 - step})
    other = ReturnsWindow(("b", "c"), 3)
    other.restore(window.snapshot())
    assert other.returns()[:, 0].tolist() == window.returns()[-3:, 1].tolist()
    assert all(math.isnan(one) for one in other.returns()[:, 1])
    same = ReturnsWindow(("a", "b"), 5)
    same.restore(window.snapshot())
    for one in (window, same):
        one.update({"a": 110.0, "b": 40.0})
    assert same.returns().tobytes() == window.returns().tobytes()


# ---- single situations


class Bench:
    """One instrument, one entry with a stop, and whatever the exchange says then."""

    def __init__(self, folder: Path, **policy: Any) -> None:
        bars = flat_bars(8)
        self.market = Setting(
            make_inputs(bars),
            lambda: make_predictor(dict.fromkeys(range(7), 0.9), volatility=0.01),
            FusionPolicy(
                entry_threshold=0.6,
                exit_threshold=0.5,
                position_frac=0.5,
                stop_loss_frac=0.1,
                **policy,
            ),
            plain_execution(),
        )
        self.folder = folder
        self.records = records_of(self.market)
        self.exchange = BookExchange(self.market, self.records)

    def life(self, calls: int = -1) -> Life:
        return Life(self.market, self.records, self.exchange, self.folder / "engine.db", calls)


def die(life: Life) -> None:
    with pytest.raises(Killed):
        life.run()
    life.close()


def test_a_stop_that_never_arrived_is_sent_anew_under_another_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    take = bench.exchange.submit
    bench.exchange.submit = lambda order: None if order["trigger"] else take(order)  # type: ignore[method-assign]
    die(bench.life(calls=4))
    bench.exchange.submit = take  # type: ignore[method-assign]
    life = bench.life()
    life.run(RecoveryConfig(in_flight_secs=0.001))
    (lost,) = life.found.lost
    order = life.store.order(lost)
    assert order is not None
    assert (order.state, order.type, order.detail) == ("lost", "STOP_MARKET", LOST)
    stops = [one for one in bench.exchange.book.open_orders() if one.trigger is not None]
    assert [one.quantity for one in stops] == [life.recorder.ledger.quantity(BTC)]
    assert lost not in bench.exchange.reports
    life.close()


def test_an_order_on_its_way_is_waited_for_and_an_old_entry_is_given_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.exchange.submit = lambda order: None  # type: ignore[method-assign]
    die(bench.life(calls=2))
    life = bench.life()
    asked: list[str] = []

    def lookup(name: str) -> None:
        asked.append(name)

    bench.exchange.lookup = lookup  # type: ignore[method-assign]
    life.run(RecoveryConfig(in_flight_secs=0.5))
    assert len(asked) >= 2
    assert life.found.lost == asked[:1]
    # The decision is made: the next bar may decide again, under another name.
    assert not life.found.again
    life.close()


def test_a_clock_that_was_set_back_keeps_no_engine_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    bench.exchange.submit = lambda order: None  # type: ignore[method-assign]
    die(bench.life(calls=2))
    life = bench.life()
    bench.exchange.lookup = lambda name: None  # type: ignore[method-assign]
    # The order was sent an hour from now: it is over as soon as a young one would be.
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3_600 * NS_PER_SECOND)
    began = time.monotonic()
    life.run(RecoveryConfig(in_flight_secs=0.5))
    assert 0.5 < time.monotonic() - began < 30.0
    assert len(life.found.lost) == 1
    life.close()


def test_what_reduces_leaves_though_nothing_can_be_written_and_trading_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path, risk=watched())
    life = bench.life()
    commit = life.store.commit

    def fails(entry: Any) -> None:
        if life.recorder.ledger.positions:
            raise DataError("the disk is full")
        commit(entry)

    life.store.commit = fails  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        life.run()
    assert any("the disk is full" in one for one in life.recorder.errors)
    assert not life.recorder.ledger.positions
    assert life.strategy.guard is not None
    assert "state_unsaved" in life.strategy.guard.guard.state.holds
    kinds = [one[6] for one in bench.exchange.truth if one[0] == "order"]
    assert kinds.count(False) == 1
    life.close()


def test_trades_are_booked_once_and_late_news_bring_nothing_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    life = bench.life(calls=4)
    die(life)
    life = bench.life()
    life.run()
    (entry,) = [one for one in life.store.orders() if not one.reduce_only]
    cash = life.recorder.ledger.cash
    report = bench.exchange.lookup(entry.client_order_id)
    assert report is not None
    life.strategy.recovered(report)
    life.strategy.recovered(replace(report, status="ACCEPTED"))
    assert life.recorder.ledger.cash == cash
    assert life.recorder.orders[entry.client_order_id].status == "FILLED"
    late = TradeReport("late", close_time(7), 0.001, 30_000.0, 0.0)
    life.strategy.recovered(OrderReport(entry.client_order_id, "FILLED", (late,)))
    assert life.recorder.orders[entry.client_order_id].status == "FILLED"
    assert life.recorder.ledger.quantity(BTC) == round(entry.quantity + 0.001, 9)
    life.close()


def test_books_follow_the_exchange_where_nothing_of_ours_explains_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    life = bench.life()
    life.run()
    strategy, ledger = life.strategy, life.recorder.ledger
    held = ledger.quantity(BTC)
    assert strategy.reconciled(BTC, held, 30_000.0, close_time(9)) == ""
    name = strategy.reconciled(BTC, 0.0, 29_000.0, close_time(9))
    assert name
    assert len(name) <= 24
    assert not ledger.positions
    assert not strategy.protection.wanted()
    assert ledger.closed[-1].reason == "reconciled"
    life.close()


def test_a_state_belongs_to_one_process_and_one_strategy(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    life = bench.life()
    life.run()
    with pytest.raises(ConfigError, match="must belong to one process"):
        StateStore(tmp_path / "engine.db")
    snapshot = life.strategy.snapshot()
    recorder = RunRecorder((BTC,), 1.0)
    other = StrategySettings(bench.market.inputs.instruments, 900 * 10**9, tag="F2")
    stranger = KeptStrategy(bench.market.policy, other, recorder, None, life.store)
    with pytest.raises(ConfigError, match="tag and interval of a snapshot"):
        stranger.restore(snapshot)
    elsewhere = StrategySettings(setting("stops").inputs.instruments[1:], 900 * 10**9)
    stranger = KeptStrategy(
        bench.market.policy, elsewhere, RunRecorder((ETH,), 1.0), None, life.store
    )
    with pytest.raises(ConfigError, match=f"must be traded, {BTC} are not any more"):
        stranger.restore(snapshot)
    with pytest.raises(ConfigError, match="must have a journal"):
        KeptStrategy(bench.market.policy, other, recorder, None, None)
    life.close()


def test_a_release_counts_more_than_what_was_kept_before_it() -> None:
    policy = FusionPolicy(
        entry_threshold=0.6, exit_threshold=0.5, position_frac=0.1, risk=watched()
    )
    instruments = make_inputs(flat_bars(2)).instruments
    settings_ = StrategySettings(instruments, 900 * 10**9)

    class Nowhere:
        def commit(self, entry: Any) -> None: ...
        def sending(self, client_order_id: str) -> None: ...

    def strategy(guard: Guard) -> KeptStrategy:
        return KeptStrategy(policy, settings_, RunRecorder((BTC,), 1.0), guard, Nowhere())

    guard = Guard(watched())
    before = strategy(guard)
    guard.on_clock(1_000)
    guard.halt(1_000, "the news")
    kept = before.snapshot()
    again = Guard(watched())
    strategy(again).restore(kept)
    assert "manual" in again.state.holds
    released = Guard(watched())
    released.on_clock(2_000)
    strategy(released).restore(kept)
    assert not released.state.holds


def test_what_ended_long_ago_leaves_memory_and_stays_in_the_journal(tmp_path: Path) -> None:
    told, _ = undisturbed("stops")
    with tempfile.TemporaryDirectory() as at:
        records = records_of(setting("stops"))
        exchange = BookExchange(setting("stops"), records)
        life = Life(setting("stops"), records, exchange, Path(at) / "engine.db")
        life.run()
        life.strategy._trim(close_time(80))
        kept = life.recorder.orders
        assert len(kept) < len(told.orders) / 4
        assert {row.client_order_id for row in life.strategy.alive()} <= set(kept)
        assert len(list(life.store.orders())) == len(told.orders)
        assert life.store.prune(close_time(40)) > 0
        assert len(list(life.store.orders())) < len(told.orders)
        life.close()


# ---- in a node


@pytest.mark.slow
def test_a_node_that_is_killed_trades_as_the_backtest_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.live.kept_node", str(tmp_path)]
    root = Path(__file__).parents[2]
    # What is on its way to the exchange then is a stop that the next bar trails.
    died = subprocess.run([*command, "3"], cwd=root, stderr=subprocess.DEVNULL, check=False)
    assert died.returncode == -signal.SIGKILL
    draw, deaths = random.Random(6), 0
    while not (tmp_path / "done.json").exists():
        (tmp_path / "trading").unlink(missing_ok=True)
        node = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
        assert node.stderr is not None
        with node.stderr:
            if deaths < 2:
                while not (tmp_path / "trading").exists():
                    assert node.poll() is None, node.stderr.read()
                    time.sleep(0.005)
                time.sleep(0.5 * draw.random())
                node.kill()
                node.wait()
                deaths += 1
            else:
                _, told = node.communicate(timeout=120)
                assert node.returncode == 0, told
    found = json.loads((tmp_path / "done.json").read_text())
    inputs, signals = wild(7, kept_node.BARS)
    execution = plain_execution(slippage_bps=1.0, max_participation=0.5)
    expected = run_backtest(inputs, make_predictor(signals, NAMES), trailing_policy(), execution)
    assert len(expected.fills) > 400
    assert found["cash"] == [expected.equity.cash.iloc[-1]] * 2
    _same(expected.orders, kept_node.ORDERS, found["orders"])
    _same(expected.fills, kept_node.FILLS, found["fills"])
    _same(expected.decisions, kept_node.DECISIONS, found["decisions"])
    assert found["open"] == found["alive"]
    assert found["foreign"] == 0


def _same(frame: Any, columns: tuple[str, ...], rows: list[list[Any]]) -> None:
    assert [list(one) for one in frame[list(columns)].itertuples(index=False)] == rows

"""What an engine decides without a node: its request, naked positions, differences, clocks."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.accounts import AccountFill, AccountOrder, AccountState, HeldPosition
from adapters.connections import Connection
from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_SECOND
from live import start_books
from live.engine import Engine
from live.engine_parts import Prepared
from live.engine_request import (
    EngineRequest,
    ReplaySpan,
    chosen_instruments,
    engine_name,
    engine_tag,
    parse_replay,
    parse_speed,
)
from live.engine_watch import EngineWatch, WatchHooks
from live.foreign_gate import ForeignGate
from live.market_clock import SAME_TIME_NS, MarketClock, clock_for, wall_clock
from live.naked_watch import NakedWatch, Stop, covered
from live.profile import load_profile
from live.reconcile import Books, Resting, compare_books
from live.start_books import UNLISTED_SECS, Start, follow, under_way
from strategies.guard_orders import REFUSALS
from strategies.ledger import Ledger, LedgerFill
from strategies.order_desk import OrderDesk

BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"
PROFILE = load_profile("perps-swing")


def request(**changes: Any) -> EngineRequest:
    settings: dict[str, Any] = {
        "profile": PROFILE,
        "bundle": Path("bundle"),
        "state": Path("state"),
        "traded": (BTC,),
        "name": "BTCUSDT",
    }
    return EngineRequest(**(settings | changes))


def test_symbols_are_named_shortly_and_come_in_the_order_of_the_profile() -> None:
    assert chosen_instruments(PROFILE, None) == PROFILE.data.instruments
    assert chosen_instruments(PROFILE, "ETHUSDT, BTCUSDT-PERP") == (BTC, ETH)
    assert engine_name((BTC,), PROFILE) == "BTCUSDT"
    assert engine_name((BTC, ETH), PROFILE) == "perps-swing"
    with pytest.raises(ConfigError, match=r"must name instruments of the profile .* had 'XRPUSDT'"):
        chosen_instruments(PROFILE, "XRPUSDT")
    with pytest.raises(ConfigError, match="--symbols must be distinct"):
        chosen_instruments(PROFILE, "BTCUSDT,BTCUSDT")


def test_tags_of_engines_fit_into_an_order_identifier_and_differ() -> None:
    tags = {engine_tag(name) for name in ("BTCUSDT", "ETHUSDT", "SOLUSDT", "perps-swing")}
    assert len(tags) == 4
    assert all(len(tag) == 5 and tag.isalnum() for tag in tags)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a/b"}, "an engine's name must be 1 to 32"),
        ({"equity": 0.0}, "--equity must be positive"),
        ({"mode": "live", "replay": ReplaySpan(1, 2)}, "--replay must come with --mode paper"),
        ({"replay": ReplaySpan(1, 2)}, "--replay must come with --catalog"),
        (
            {"replay": ReplaySpan(2, 1), "catalog": Path("c")},
            "--replay must end after it begins",
        ),
        (
            {"replay": ReplaySpan(1, 2), "catalog": Path("c"), "exchange": "http://127.0.0.1:1"},
            "--replay must come without --exchange",
        ),
        ({"profile": load_profile("synthetic")}, "a live process must have a risk policy"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        request(**changes)


def test_spans_and_speeds() -> None:
    assert parse_replay("2025-01-01..2025-01-02", "60").speed == 60.0
    assert parse_speed("max") is None
    for text in ("0", "-1", "fast", "nan"):
        with pytest.raises(ConfigError, match="--speed must be a positive number or max"):
            parse_speed(text)
    with pytest.raises(ConfigError, match=r"--replay must look like 2025-01-01\.\.2025-02-01"):
        parse_replay("2025-01-01", "max")


def test_money_is_risked_only_with_the_word_and_the_keys() -> None:
    keys = {"BINANCE_API_KEY": "k" * 8, "BINANCE_API_SECRET": "s" * 8}
    live = request(mode="live")
    with pytest.raises(ConfigError, match=r"LEVIBOT_ALLOW_LIVE must be yes .* was not set"):
        live.order_connection(keys)
    with pytest.raises(ConfigError, match=r"LEVIBOT_ALLOW_LIVE must be yes .* was true"):
        live.order_connection({**keys, "LEVIBOT_ALLOW_LIVE": "true"})
    with pytest.raises(ConfigError, match="BINANCE_API_SECRET was not set"):
        live.order_connection({"BINANCE_API_KEY": "k" * 8, "LEVIBOT_ALLOW_LIVE": "yes"})
    found = live.order_connection({**keys, "LEVIBOT_ALLOW_LIVE": "yes"})
    assert found.environment == "live"
    assert "s" * 8 not in repr(found)
    with pytest.raises(ConfigError, match="a paper engine sends no orders"):
        request().order_connection(keys)
    assert "a day may lose 3.0%, all of it 10.0%" in live.at_risk()
    part = request(mode="live", equity=1_000.0).at_risk()
    assert "with 1,000.00 USDT; a day may lose 3.0% (30.00 USDT), all of it 10.0% (100.00" in part


def test_a_paper_engine_takes_the_real_feed_and_a_testnet_one_its_own() -> None:
    assert request().data_connection() == Connection("live")
    assert request(mode="testnet").data_connection() == Connection("testnet")


def test_a_position_is_naked_after_two_seconds_without_a_stop_and_told_once() -> None:
    watch, second = NakedWatch(), NS_PER_SECOND
    assert watch.look(0, {BTC: 1.0}, ()) == ()
    assert watch.look(2 * second, {BTC: 1.0}, ()) == ()
    (found,) = watch.look(2 * second + 1, {BTC: 1.0}, ())
    assert (found.instrument_id, found.quantity) == (BTC, 1.0)
    # A way out that is refused is no reason for another at each look.
    assert watch.look(3 * second, {BTC: 1.0}, ()) == ()
    assert watch.look(3 * second + 1, {BTC: 1.0}, ())
    assert watch.alarms == 1
    # A stop that is there again, or a position that is gone, begins anew.
    assert watch.look(4 * second, {BTC: 1.0}, (BTC,)) == ()
    assert watch.look(5 * second, {BTC: 1.0}, ()) == ()
    assert watch.look(8 * second, {BTC: 1.0}, ())
    assert watch.alarms == 2
    assert watch.look(9 * second, {BTC: 0.0}, ()) == ()


def test_each_of_several_naked_positions_is_told() -> None:
    held = {name: SimpleNamespace(quantity=1.0) for name in (BTC, ETH)}
    step = SimpleNamespace(terms=SimpleNamespace(step=0.001))
    leaving = SimpleNamespace(is_leaving=lambda name: True, states=dict.fromkeys(held, step))
    parts: Any = SimpleNamespace(
        prepared=SimpleNamespace(policy=PROFILE.strategy),
        recorder=SimpleNamespace(ledger=SimpleNamespace(positions=held), orders={}, errors=[]),
        strategy=SimpleNamespace(desk=leaving, protection=SimpleNamespace(wanted=tuple)),
    )
    view: Any = SimpleNamespace(naked_alarms=0, status=lambda: None)
    told: list[str] = []
    hooks = WatchHooks(naked=lambda one: told.append(one.instrument_id))
    watch = EngineWatch(parts, view, lambda: 0, hooks)
    for second in range(5):
        watch.look(0, second * NS_PER_SECOND)
    assert (told, view.naked_alarms) == ([BTC, ETH], 2)


@pytest.mark.parametrize(
    ("held", "stops", "whole"),
    [
        (1.0, [(-1, 1.0)], True),
        (1.0, [(-1, 0.6), (-1, 0.4)], True),  # an older one and the one for what was added
        (1.0, [(-1, 0.6)], False),  # a fill in parts, of which only the first is covered
        (1.0, [(-1, 0.6), (1, 0.4)], False),  # that would add to it
        (-1.0, [(1, 1.5)], True),
        (-1.0, [(-1, 1.0)], False),
        (0.3, [(-1, 0.1), (-1, 0.2)], True),  # 0.30000000000000004
        (0.3, [(-1, 0.299)], False),  # one step is missing
        (0.3, [(-1, 0.2996)], True),  # less than half of one
        (1.0, [], False),
    ],
)
def test_stops_must_cover_all_of_a_position(
    held: float, stops: list[tuple[int, float]], whole: bool
) -> None:
    resting = [Stop(BTC, side, quantity) for side, quantity in stops]
    others = [Stop(ETH, -1, 50.0)]
    found = covered({BTC: held}, [*resting, *others], {BTC: 0.001, ETH: 0.01})
    assert found == ({BTC} if whole else set())


def test_differences_say_whose_they_are() -> None:
    stop = Resting("L1-S1", BTC, -1, 1.0)
    ours = Books({BTC: 1.0}, (stop,))
    assert compare_books(ours, ours, (BTC,), "L1-") == ()
    theirs = Books(
        {BTC: 0.4, ETH: 2.0}, (Resting("L1-S9", BTC, -1, 1.0), Resting("web_7", BTC, 1, 3.0))
    )
    found = compare_books(ours, theirs, (BTC,), "L1-")
    assert [(one.kind, one.what) for one in found] == [
        ("position", BTC),
        ("foreign_position", ETH),
        ("lost_order", "L1-S1"),
        ("unknown_order", "L1-S9"),
        ("foreign_order", "web_7"),
    ]
    assert "our books say 1, the exchange 0.4" in str(found[0])
    assert "left alone" in str(found[1])
    assert compare_books(Books({BTC: 0.1 + 0.2}), Books({BTC: 0.3}), (BTC,), "L1-") == ()


@pytest.mark.parametrize(
    ("under_way", "silent", "free"),
    [
        ((), (), True),
        (("entry",), (), False),
        (("entry",), ("entry",), True),  # the exchange does not know it: it keeps no exit back
        (("entry", "exit"), ("entry",), False),
        (("limit",), (), True),  # taken back on the way
    ],
)
def test_an_exit_waits_for_what_is_under_way_but_not_for_what_is_lost(
    under_way: tuple[str, ...], silent: tuple[str, ...], free: bool
) -> None:
    withdrawn: list[str] = []
    rows = {
        name: SimpleNamespace(client_order_id=name, type="LIMIT" if name == "limit" else "MARKET")
        for name in ("entry", "exit", "limit")
    }
    desk: Any = SimpleNamespace(
        states={BTC: SimpleNamespace(under_way={*under_way})},
        silent={*silent},
        _recorder=SimpleNamespace(orders=rows),
        withdraw=lambda name, ts: withdrawn.append(name),
    )
    assert OrderDesk.make_way(desk, BTC, 1) is free
    assert withdrawn == [one for one in under_way if one == "limit"]


class _Strategy:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.booked: list[tuple[str, float, float, int]] = []

    def reconciled(self, name: str, quantity: float, price: float, ts: int) -> str:
        self.booked.append((name, quantity, price, ts))
        return "L"


def books(held: float, *, claims: bool = False) -> Any:
    ledger = Ledger(1_000.0)
    if held:
        side = 1 if held > 0.0 else -1
        ledger.apply_fill(LedgerFill(1, BTC, side, abs(held), 100.0, 0.0, "enter"))  # type: ignore[arg-type]
    return SimpleNamespace(
        request=SimpleNamespace(traded=(BTC,), claims=claims),
        recorder=SimpleNamespace(ledger=ledger),
        strategy=_Strategy(ledger),
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "foreign", "mine", "left"),
    [
        (0.0, 5.0, 0.0, None, 5.0),  # a person's position: left alone
        (1.0, 6.0, 5.0, None, 5.0),  # nothing has changed
        (1.0, 5.4, 5.0, None, 4.4),  # no order of ours tells why: a person sold the person's
        (1.0, 0.4, 0.0, 0.4, 0.0),  # part of ours is gone
        (1.0, 0.0, 0.0, 0.0, 0.0),  # ours is gone: a liquidation
        (-1.0, -0.3, 0.0, -0.3, 0.0),
        (1.0, 9.0, 5.0, None, 8.0),  # a person bought more
        (1.0, -2.0, 0.0, 0.0, -2.0),  # somebody sold through ours
        (1.0, 1.0, 5.0, None, 0.0),  # a person closed what was the person's
        (-1.0, -1.0, -1.0, None, 0.0),  # ours was taken for a person's before its fill was told
        (1.0, -3.0, -5.0, None, -4.0),  # a person bought back a part of the other side
    ],
)
def test_our_books_follow_the_exchange_and_leave_the_rest_alone(
    ours: float, theirs: float, foreign: float, mine: float | None, left: float
) -> None:
    parts, others = books(ours), {BTC: foreign}
    state = AccountState(1_000.0, (HeldPosition(BTC, theirs, 90.0),) if theirs else (), ())
    follow(parts, others, state, 7)
    booked = [one[1] for one in parts.strategy.booked]
    assert booked == ([] if mine is None else [mine])
    assert others[BTC] == pytest.approx(left)


@pytest.mark.parametrize(
    ("type_", "status", "unsure"),
    [
        ("MARKET", "SUBMITTED", True),
        ("MARKET", "ACCEPTED", True),
        ("LIMIT", "SUBMITTED", True),
        ("LIMIT", "ACCEPTED", False),
        ("STOP_MARKET", "ACCEPTED", False),
    ],
)
def test_what_an_order_of_ours_may_have_traded_is_nobody_elses(
    type_: str, status: str, unsure: bool
) -> None:
    row = SimpleNamespace(instrument_id=BTC, type=type_, status=status)
    parts, others = books(0.0), dict[str, float]()
    parts.strategy.alive = lambda: [row]
    state = AccountState(1_000.0, (HeldPosition(BTC, 5.0, 90.0),), ())
    follow(parts, others, state, 7, under_way(parts))
    assert others == ({} if unsure else {BTC: 5.0})


def test_nothing_is_opened_beside_a_position_of_somebody_else() -> None:
    asked: list[str] = []

    class Then:
        def admit(self, policy: Any, intent: Any) -> None:
            asked.append(intent.instrument_id)

        def hold(self, occupied: Any) -> None:
            asked.append("hold")

    gate = ForeignGate(lambda: {BTC: -0.5, ETH: 0.0}, Then())
    btc, eth = SimpleNamespace(instrument_id=BTC), SimpleNamespace(instrument_id=ETH)
    refused = gate.admit(PROFILE.strategy.risk, btc)  # type: ignore[arg-type]
    assert refused is not None
    assert refused.why in REFUSALS
    assert "-0.5 of BTCUSDT-PERP.BINANCE are not ours" in refused.detail
    assert gate.admit(PROFILE.strategy.risk, eth) is None  # type: ignore[arg-type]
    gate.hold({})
    assert asked == [ETH, "hold"]


def test_a_profile_that_claims_takes_a_position_over() -> None:
    parts, others = books(0.0, claims=True), dict[str, float]()
    follow(parts, others, AccountState(1_000.0, (HeldPosition(BTC, 5.0, 90.0),), ()), 7)
    assert parts.strategy.booked == [(BTC, 5.0, 90.0, 7)]
    assert others[BTC] == 0.0


def test_an_engine_tells_what_was_measured_of_its_model() -> None:
    auc = {"value": 0.54, "low": 0.53, "high": 0.55}
    metrics = {"n": {"value": 9.0, "low": None, "high": None}, "auc": auc, "ece": None}
    manifest = {"digest": "abc", "training": {"until": 7}, "metrics": metrics}
    bundle: Any = SimpleNamespace(path=Path("bundle"), manifest=manifest)
    nothing: Any = None
    found = Prepared(request(), bundle, nothing, nothing, nothing).model_status()
    assert found.metrics == {"n": 9.0, "auc": 0.54, "ece": None}


def test_the_clock_of_a_recording_never_goes_back_and_runs_on_without_data() -> None:
    ticks = [0]
    clock = MarketClock(1_000, 60.0, lambda: ticks[0])
    assert clock() == 1_000
    ticks[0] = 10
    assert clock() == 1_600
    clock.seen(1_300)
    assert clock() == 1_600
    assert clock.newest() == 1_300
    ticks[0] = 20
    assert clock() == 1_900
    clock.seen(5_000)
    assert clock() == 5_000
    still = MarketClock(1_000, None, lambda: ticks[0])
    ticks[0] = 10**9
    assert still() == 1_000


def test_a_market_that_lives_now_has_the_wall_clock() -> None:
    assert clock_for(wall_clock() - 5 * NS_PER_SECOND, 1.0) is None
    assert clock_for(wall_clock() - 2 * SAME_TIME_NS, 1.0) is not None


@pytest.mark.parametrize(("asked", "code", "state"), [(False, 5, "failed"), (True, 0, "stopped")])
def test_a_node_that_ends_by_itself_has_failed(asked: bool, code: int, state: str) -> None:
    calls: list[str] = []

    def anything() -> Any:
        return SimpleNamespace(
            close=lambda *_: None, save=lambda: None, give_up=lambda: None, look=lambda: None
        )

    view = SimpleNamespace(state="trading", last_error="", status=lambda: None)
    engine: Any = SimpleNamespace(
        _reason="",
        asked=lambda: asked,
        view=view,
        parts=SimpleNamespace(guard=SimpleNamespace(watch=anything(), store=anything())),
        teller=SimpleNamespace(event=lambda kind, text: calls.append(text)),
        _offer=lambda status: None,
        _published=anything(),
        _tap=anything(),
        _gate=None,
        _alerts=anything(),
    )
    # Its node has returned without an error, as it does where a part of the engine gives up.
    outcome = Engine.ended(engine)
    assert (outcome.code, view.state) == (code, state)
    assert ("nobody had asked it to" in outcome.reason) == (not asked)
    assert calls == [outcome.reason]


class _LateAccount:
    """An account that has filled an order, and lists its trade from the third question on."""

    def __init__(self, listed_after: float) -> None:
        self.listed_after = listed_after
        self.asked = 0

    def lookup(self, name: str, instrument_id: str) -> AccountOrder:
        return AccountOrder(name, "7", instrument_id, 1, 2.0, 2.0, 9.0, "MARKET", "FILLED")

    def fills(self, order: AccountOrder) -> tuple[AccountFill, ...]:
        self.asked += 1
        late = AccountFill("2", "7", order.instrument_id, 1, 0.5, 9.0, 0.0, False, 6)
        early = AccountFill("1", "7", order.instrument_id, 1, 1.5, 9.0, 0.0, False, 5)
        return (early, late) if self.asked > self.listed_after else (early,)


@pytest.mark.parametrize(("listed_after", "found"), [(0, 2.0), (2, 2.0), (math.inf, 1.5)])
def test_a_start_waits_for_trades_that_are_not_listed_yet(
    monkeypatch: pytest.MonkeyPatch, listed_after: float, found: float
) -> None:
    clock = [0.0]
    monkeypatch.setattr(start_books.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(start_books.time, "sleep", lambda secs: clock.append(clock.pop() + secs))
    account: Any = _LateAccount(listed_after)
    parts: Any = SimpleNamespace(
        recorder=SimpleNamespace(orders={"A": SimpleNamespace(instrument_id=BTC)})
    )
    report = Start(account, AccountState(1.0, 1.0, (), ())).lookup(parts)("A")
    assert report is not None
    assert sum(one.quantity for one in report.trades) == found
    assert clock[0] <= UNLISTED_SECS + 0.5

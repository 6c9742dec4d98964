"""What can go wrong in a market, in the real engine and in paper trading, which must agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from catalog.errors import DataError
from catalog.instruments import InstrumentSpec, definition
from live.live_replay import run_live_replay
from live.parity import compare
from research.prediction_types import Prediction
from strategies import replay_data
from strategies.backtest import BacktestOutcome, ReplayInputs, run_backtest
from strategies.execution import ExecutionConfig
from strategies.fusion import FusionPolicy
from strategies.risk_policy import RiskPolicy
from strategies.sizing import largest_value
from strategies.sizing_config import SizingConfig
from tests.strategies.markets import (
    BTC,
    ETH,
    SOL,
    START,
    close_time,
    make_bars,
    make_funding,
    make_inputs,
    make_predictor,
    make_spec,
)
from tests.strategies.settings import plain_execution

DAY_BARS = 96
LATENCY = 50_000_000
BASES = (
    *("ADA", "ARB", "ATOM", "AVAX", "BNB", "BTC", "DOGE", "DOT"),
    *("ETH", "INJ", "LINK", "LTC", "NEAR", "OP", "SOL", "XRP"),
)
SIXTEEN = tuple(f"{base}USDT-PERP.BINANCE" for base in BASES)
LIMITS = {"found_groups": None, "sizing": {}, "max_symbol_share": 10.0}

type Row = tuple[float, float, float, float]


def policy(**changes: Any) -> FusionPolicy:
    usual = {"entry_threshold": 0.6, "exit_threshold": 0.5, "min_holding_bars": 0}
    return FusionPolicy(**{**usual, "position_frac": 0.5, **changes})


def risk(**changes: Any) -> RiskPolicy:
    return RiskPolicy(**{**LIMITS, **changes})


def flat(price: float) -> Row:
    return (price,) * 4


def small_coins(names: Sequence[str], count: int) -> ReplayInputs:
    """Return instruments that all cost 100 and do not move."""
    specs = [InstrumentSpec(name, name.split("USDT")[0], "USDT", 2, 3) for name in names]
    bars = tuple(make_bars([flat(100.0)] * count, name) for name in names)
    return ReplayInputs(tuple(definition(spec) for spec in specs), bars)


def both(
    inputs: ReplayInputs,
    predictor: Callable[[], Any],
    rules: FusionPolicy,
    execution: ExecutionConfig | None = None,
) -> BacktestOutcome:
    """Return the replay's outcome, after paper trading has shown the same."""
    costs = plain_execution() if execution is None else execution
    out = run_backtest(inputs, predictor(), rules, costs)
    compare(out, run_live_replay(inputs, predictor, rules, costs)).require_identical()
    return out


# ---- prices


def test_a_gap_beyond_the_stop_fills_at_the_open_and_ends_the_day() -> None:
    rows = [flat(30_000)] * 4 + [flat(28_000)] * DAY_BARS
    always = dict.fromkeys(range(len(rows) - 1), 0.9)
    out = both(
        make_inputs(make_bars(rows)),
        lambda: make_predictor(always),
        policy(stop_loss_frac=0.02, risk=risk()),
        plain_execution(slippage_bps=10.0),
    )
    entry, stopped = out.fills.iloc[0], out.fills.iloc[1]
    assert stopped.reason == "stop_loss"
    # The stop at 2 % was passed at an open 6.7 % lower: no better price was to be had.
    assert stopped.ts_event == close_time(3) + LATENCY
    assert (stopped.reference_price, stopped.price) == (28_000.0, 27_972.0)
    assert stopped.quantity == entry.quantity
    # Half of the equity lost 6.7 %: more than a day's 3 %.
    hold = out.guard[out.guard.kind == "hold"].iloc[0]
    assert (hold.reason, hold.ts) == ("daily_loss", close_time(4))
    later = out.orders[out.orders.ts_init > close_time(3)]
    assert (later.ts_init >= close_time(DAY_BARS - 1)).all()
    assert len(later) > 0


def crash(names: Sequence[str], missing: Sequence[int]) -> ReplayInputs:
    """BTC loses a tenth in the fifth bar, ETH stands still, SOL has no bars for a while."""
    total = 2 * DAY_BARS + 10
    fall = [flat(30_000)] * 4 + [(30_000, 30_000, 27_000, 27_000)]
    by_name = {
        BTC: fall + [flat(27_000)] * (total - len(fall)),
        ETH: [flat(2_000)] * total,
        SOL: [flat(100)] * total,
    }
    absent = {SOL: missing}
    return make_inputs(
        *(make_bars(by_name[name], name, missing=absent.get(name, ())) for name in names)
    )


@pytest.mark.parametrize("back_at", [9, None])
def test_after_a_crash_through_the_daily_limit_nothing_is_sent_until_the_next_day(
    back_at: int | None,
) -> None:
    # SOL's entry, decided with its bar 2, waits for an open that comes after the crash or never;
    # ETH wants in at the very close of the crash, and stands still until then.
    names = (BTC, ETH, SOL)
    total = 2 * DAY_BARS + 10
    inputs = crash(names, missing=range(3, total if back_at is None else back_at))
    signals = {
        index: {
            BTC: 0.9,
            **({ETH: 0.9} if index >= 4 else {}),
            **({SOL: 0.9} if index >= 2 else {}),
        }
        for index in range(total - 1)
    }
    guarded = policy(risk=risk(max_drawdown=0.5))
    out = both(inputs, lambda: make_predictor(signals, names), guarded)
    halted = close_time(4)
    hold = out.guard[out.guard.kind == "hold"].iloc[0]
    assert (hold.reason, hold.ts) == ("daily_loss", halted)
    # Flat within one bar, and what waited is taken back.
    forced = out.fills[out.fills.reason == "risk_guard"]
    assert forced.instrument_id.tolist() == [BTC]
    assert forced.ts_event.tolist() == [halted + LATENCY]
    waiting = out.orders[(out.orders.instrument_id == SOL) & (out.orders.ts_init < halted)]
    assert waiting[["status", "filled_quantity"]].to_numpy().tolist() == [["CANCELED", 0.0]]
    # No order of any kind until the next day; then all again, but where bars are missing to the
    # end, which makes every prediction a degraded one.
    sent = out.orders[out.orders.ts_init > halted]
    next_day = close_time(DAY_BARS - 1)
    assert (sent.ts_init >= next_day).all()
    assert set(sent.instrument_id) == (set() if back_at is None else set(names))
    between = out.equity[(out.equity.ts_init > halted) & (out.equity.ts_init <= next_day)]
    assert (between.gross_exposure == 0.0).all()


def test_a_negative_price_is_refused_before_anything_is_replayed() -> None:
    rows = [flat(100)] * 2 + [(100, 100, -1, 50)] + [flat(50)] * 2
    with pytest.raises(DataError, match="low of BTCUSDT-PERP"):
        make_inputs(make_bars(rows))


# ---- funding


@pytest.mark.parametrize(("prob", "paid"), [(0.1, True), (0.9, False)])
def test_extreme_negative_funding_is_paid_by_shorts_to_longs(prob: float, paid: bool) -> None:
    rows = [flat(30_000)] * 40
    rates = {START: 0.0, START + 32 * 900 * 10**9: -0.0075}
    funding = {BTC: make_funding(rates)}
    out = both(
        make_inputs(make_bars(rows), funding=funding),
        lambda: make_predictor(dict.fromkeys(range(39), prob)),
        policy(),
        plain_execution(funding="recorded"),
    )
    (settled,) = out.funding.itertuples()
    worth = abs(settled.quantity) * 30_000
    assert settled.payment == pytest.approx(-0.0075 * worth if paid else 0.0075 * worth)
    books = out.reconciliation
    assert books.ledger_cash == books.engine_cash
    assert books.settlements_due == books.settlements_booked == 1


@pytest.mark.parametrize(
    ("prob", "margin", "reason"),
    [
        (0.1, 0.0, "edge_too_small"),
        (0.1, None, "enter_short"),
        (0.9, 0.0, "enter_long"),
    ],
)
def test_the_edge_rule_stays_out_of_the_side_that_would_pay(
    prob: float, margin: float | None, reason: str
) -> None:
    # Known at the decision: a rate of -0.75 %, due again within the horizon. A move of 0.9 %
    # is expected.
    rates = {START: 0.0, START + 32 * 900 * 10**9: -0.0075}
    inputs = make_inputs(make_bars([flat(30_000)] * 40), funding={BTC: make_funding(rates)})
    out = both(
        inputs,
        lambda: make_predictor({33: prob}, horizon=32, volatility=0.002),
        policy(edge_margin_bps=margin),
        plain_execution(funding="recorded"),
    )
    assert out.decisions.reason.tolist() == [reason]


# ---- how many


def test_of_six_correlated_longs_the_sixth_is_refused() -> None:
    names = SIXTEEN[:6]
    guarded = policy(position_frac=0.1, risk=risk(correlation_groups={"coins": names}))
    out = both(
        small_coins(names, 6),
        lambda: make_predictor({0: dict.fromkeys(names, 0.9), 2: {names[5]: 0.9}}, names),
        guarded,
    )
    assert out.fills.instrument_id.tolist() == list(names[:5])
    refused = out.decisions[out.decisions.instrument_id == names[5]]
    assert refused.reason.tolist() == ["risk_guard"] * 2
    assert (refused.quantity == 0.0).all()


def test_a_sixth_that_moves_against_five_longs_is_let_in_where_the_policy_says_so() -> None:
    names = SIXTEEN[:6]
    limits = risk(correlation_groups={"coins": names}, correlated_count="same_side")
    probs = {**dict.fromkeys(names[:5], 0.9), names[5]: 0.1}
    out = both(
        small_coins(names, 4),
        lambda: make_predictor({0: probs}, names),
        policy(position_frac=0.1, risk=limits),
    )
    assert out.fills.side.tolist() == [1] * 5 + [-1]


def test_of_sixteen_positions_the_sixteenth_is_refused_until_one_is_closed() -> None:
    probs = {
        0: dict.fromkeys(SIXTEEN, 0.9),
        2: {SIXTEEN[3]: 0.45},
        3: {SIXTEEN[15]: 0.9},
        4: {SIXTEEN[15]: 0.9},
    }
    out = both(
        small_coins(SIXTEEN, 7),
        lambda: make_predictor(probs, SIXTEEN),
        policy(position_frac=0.1, risk=risk()),
    )
    first = out.decisions[out.decisions.ts_init == close_time(0)]
    assert first.reason.tolist() == ["enter_long"] * 15 + ["risk_guard"]
    last = out.decisions[out.decisions.instrument_id == SIXTEEN[15]]
    assert last.reason.tolist() == ["risk_guard", "enter_long", "hold"]
    assert out.equity.ts_init.iloc[-1] == close_time(6)


# ---- the clock


def after_a_gap(price: float, back_at: int, total: int) -> ReplayInputs:
    """Return BTC with no bars from the 41st on until `back_at`, where it opens at a price."""
    rows = [flat(30_000)] * 40 + [flat(price)] * (total - 40)
    rates = {START + count * 32 * 900 * 10**9: 0.0001 for count in range(total // 32 + 1)}
    bars = make_bars(rows, missing=range(40, back_at))
    return make_inputs(bars, funding={BTC: make_funding(rates)})


@pytest.mark.parametrize(("price", "held_by"), [(30_000, set()), (27_900, {"daily_loss"})])
def test_a_clock_that_jumps_a_day_ends_trading_until_the_next_one(
    price: float, held_by: set[str]
) -> None:
    back = 40 + DAY_BARS
    always = dict.fromkeys(range(220), 0.9)
    out = both(
        after_a_gap(price, back, 221),
        lambda: make_predictor(always),
        policy(risk=risk()),
        plain_execution(funding="recorded"),
    )
    # What fell due in between is paid at the last price known.
    paid = out.funding[out.funding.ts_event < close_time(back)]
    assert paid.ts_event.tolist() == [close_time(index) for index in (31, 63, 95, 127)]
    assert (paid.mark_price == 30_000).all()
    # The first bar after the gap tells that nothing is known of a day, which ends this one too:
    # its loss counts, although midnight has passed since.
    holds = out.guard[out.guard.kind == "hold"]
    assert set(holds.reason) == {"stale_data", *held_by}
    assert set(holds.ts) == {close_time(back)}
    (forced,) = out.fills[out.fills.reason == "risk_guard"].itertuples()
    assert forced.ts_event == close_time(back) + LATENCY
    next_day = close_time(2 * DAY_BARS - 1)
    later = out.orders[out.orders.ts_init > forced.ts_event]
    assert later.ts_init.tolist() == [next_day]
    assert later.reason.tolist() == ["enter_long"]


def test_what_is_counted_in_bars_is_counted_by_the_clock() -> None:
    # The stop of bar 39 fills; ten bars of cool-down pass while there are no bars.
    rows = [flat(30_000)] * 39 + [(30_000, 30_000, 29_000, 30_000)] + [flat(30_000)] * 20
    cooled = policy(stop_loss_frac=0.02, cooldown_bars=10)
    for back_at, reasons in ((45, ["cooldown"] * 4 + ["enter_long"]), (52, ["enter_long"])):
        out = both(
            make_inputs(make_bars(rows, missing=range(40, back_at))),
            lambda: make_predictor(dict.fromkeys(range(59), 0.9)),
            cooled,
        )
        assert "stop_loss" in set(out.fills.reason)
        later = out.decisions[out.decisions.ts_init >= close_time(back_at)]
        assert later.reason.tolist()[: len(reasons)] == reasons


# ---- numbers that are none


class Says:
    """A predictor that says what it is told to, whether or not that is a probability."""

    def __init__(self, probs: Mapping[int, float]) -> None:
        self.spec = make_spec()
        self._probs = {close_time(index): prob for index, prob in probs.items()}

    def update_funding(self, instrument_id: str, rate: float, ts_init: int) -> None:
        raise AssertionError("not asked for")

    def update(self, ts_init: int, bars: Mapping[str, Any]) -> list[Prediction]:
        return [
            Prediction(name, ts_init, self._probs.get(ts_init, 0.5), 1, "says") for name in bars
        ]


@pytest.mark.parametrize("wrong", [math.nan, 1.5, -0.5, math.inf, -math.inf])
@pytest.mark.parametrize("guard", [None, risk()])
def test_what_is_no_probability_opens_nothing_and_turns_nothing(
    wrong: float, guard: RiskPolicy | None
) -> None:
    probs = {1: wrong, 3: 0.9, 5: wrong, 7: 0.1, 9: wrong}
    inputs = make_inputs(make_bars([flat(30_000)] * 12))
    out = both(inputs, lambda: Says(probs), policy(risk=guard))
    decided = out.decisions.set_index("ts_init")
    assert decided.reason[close_time(1)] == "no_prediction"
    # A long meets it at bar 5 and a short at bar 9: either is kept or left, never turned or grown.
    for index, side in ((5, 1), (9, -1)):
        row = decided.loc[close_time(index)]
        assert row.side in (0, side)
        assert row.reason in ("hold", "exit_threshold", "exit_opposite")
    largest = 0.5 * 100_000 / 30_000
    assert (out.fills.quantity <= largest).all()
    assert (decided.quantity != 0.0).sum() >= 2


def test_stored_predictions_must_be_probabilities() -> None:
    with pytest.raises(DataError, match="prob_up must be inside"):
        make_predictor({0: 0.9, 1: math.nan})


def test_an_account_that_is_ruined_sends_nothing_but_its_exit() -> None:
    # A short that is asked for later would be no size of nothing.
    rows = [flat(30_000)] * 3 + [flat(20_000)] * 6
    signals = {**dict.fromkeys(range(4), 0.9), **dict.fromkeys(range(4, 8), 0.1)}
    patient = risk(max_daily_loss=0.9, max_drawdown=0.9)
    found = {}
    for guard in (None, patient):
        out = both(
            make_inputs(make_bars(rows)),
            lambda: make_predictor(signals),
            policy(position_frac=4.0, risk=guard),
        )
        assert out.equity.equity.iloc[-1] < 0.0
        assert not (out.fills.reason == "enter_short").any()
        found[guard is None] = out
    assert found[True].fills.reason.tolist() == ["enter_long", "exit_opposite"]
    assert found[False].fills.reason.tolist() == ["enter_long", "risk_guard"]
    (hold,) = found[False].guard[found[False].guard.kind == "hold"].itertuples()
    assert (hold.reason, hold.ts) == ("bad_equity", close_time(3))


def test_a_price_of_nothing_is_refused_and_where_it_comes_live_ends_trading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [flat(30_000)] * 3 + [(30_000, 30_000, 0, 0)] + [flat(0)] * 2 + [flat(30_000)] * 3
    with pytest.raises(DataError, match="must be above 0, was 0 at"):
        make_inputs(make_bars(rows))
    # A live exchange asks nobody whether its prices are any good.
    monkeypatch.setattr(replay_data, "exact_bars", lambda bars, instrument: bars)
    inputs = make_inputs(make_bars(rows))
    for first, fills in ((0, ["enter_long", "risk_guard"]), (3, [])):
        signals = dict.fromkeys(range(first, 8), 0.9)
        out = both(inputs, lambda signals=signals: make_predictor(signals), policy(risk=risk()))
        assert out.fills.reason.tolist() == fills
        assert "bad_price" in set(out.guard.reason)
        assert out.decisions.reason.iloc[-1] == "risk_guard"
    # Without a guard there is at least no size to be had for it.
    out = both(inputs, lambda: make_predictor({4: 0.9, 6: 0.9}), policy())
    assert out.decisions.reason.tolist() == ["below_minimum", "enter_long"]


# ---- thin markets


COSTLY = {"impact_bps": 35.0, "impact_cap_bps": 50.0}


def in_a_market_of(volume: float, rules: FusionPolicy, **costs: Any) -> BacktestOutcome:
    """Return what comes of a long signal of 0.65 that expects a move of 1.6 %."""
    bars = make_bars([flat(30_000)] * 4, volumes=[volume] * 4)
    return both(
        make_inputs(bars),
        lambda: make_predictor({1: 0.65}, volatility=0.02),
        rules,
        plain_execution(**{**COSTLY, **costs}),
    )


@pytest.mark.parametrize(
    ("volume", "costs", "reason"),
    [
        (1_000.0, {}, "enter_long"),
        (1.0, {}, "edge_too_small"),
        (0.0, {}, "edge_too_small"),
        (1.0, {"impact_bps": 0.0}, "enter_long"),
        (1.0, {"max_participation": 0.01}, "enter_long"),
    ],
)
def test_an_edge_that_the_own_impact_eats_is_left_alone(
    volume: float, costs: Mapping[str, Any], reason: str
) -> None:
    # 48 basis points are expected, 10 go to fees: 1.7 coins of a bar's one cost 90 more.
    out = in_a_market_of(volume, policy(edge_margin_bps=0.0), **costs)
    assert out.decisions.reason.tolist() == [reason]


def test_kelly_holds_less_where_the_market_is_thin() -> None:
    kelly = policy(sizing=SizingConfig(method="kelly", fraction=0.02, max_position=0.9))
    sizes = {}
    for volume in (1e9, 100.0, 10.0):
        fills = in_a_market_of(volume, kelly).fills
        sizes[volume] = fills.quantity.sum()
    assert sizes[1e9] > sizes[100.0] > sizes[10.0] >= 0.0
    free = in_a_market_of(10.0, kelly, impact_bps=0.0).fills.quantity.sum()
    assert free == pytest.approx(sizes[1e9], rel=0.01)


def test_the_largest_position_that_is_counted_on_obeys_every_cap() -> None:
    sized = SizingConfig(method="fixed", max_position=0.3, max_notional=9_000.0)
    assert largest_value(1e5, 0.5, None, None) == 50_000.0
    assert largest_value(1e5, 0.5, sized, None) == 9_000.0
    assert largest_value(1e4, 0.5, sized, None) == 3_000.0
    limits = risk(max_symbol_share=0.2, max_position_usd=15_000.0)
    assert largest_value(1e5, 0.5, None, limits) == 15_000.0
    assert largest_value(1e4, 0.5, None, limits) == 2_000.0

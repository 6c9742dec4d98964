import math
from decimal import Decimal

import pytest

import strategies.guard as guard_module
from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND
from strategies.execution import InstrumentTerms
from strategies.guard import Guard
from strategies.guard_orders import REFUSALS, Allowed, Book, OrderIntent, Reduced, Refused
from strategies.guard_state import HOLDS, MAX_HISTORY, NEXT_DAY, Block, CancelAll, FlattenAll
from strategies.risk_policy import RiskPolicy

START = 19_723 * NS_PER_DAY  # 2024-01-01
NAMES = tuple(f"COIN{number}USDT-PERP.BINANCE" for number in range(20))
BTC = NAMES[0]
DRAWDOWN_OFF = {"max_drawdown": 0.999}


def terms(name=BTC, step="0.001", min_quantity="0.001", min_notional="5"):
    return InstrumentTerms(
        name, Decimal("0.1"), Decimal(step), Decimal(min_quantity), Decimal(min_notional)
    )


def policy(**changes):
    return RiskPolicy(**{"found_groups": None, "max_data_age_secs": 1e7, **changes})


def make(**changes):
    """A guard that is normal and flat at 100,000 USDT, at the start of a day."""
    guard = Guard(policy(**changes))
    guard.on_positions(START, 0)
    guard.on_equity(START, 100_000.0)
    guard.on_data(START)
    return guard


def intent(name=BTC, quantity=1.0, side=1, ts=START, price=100.0, reduce_only=False, **keywords):
    return OrderIntent(ts, name, side, quantity, price, terms(name, **keywords), reduce_only)


def book(held=None, equity=100_000.0, buying=None, selling=None):
    return Book(equity, held or {}, buying or {}, selling or {})


def kinds(actions):
    return tuple(type(action) for action in actions)


EVERYTHING = (CancelAll, FlattenAll, Block)


# ---- what is held


def test_an_order_within_every_limit_passes_as_it_is():
    assert make().check(intent(), book()) == Allowed(1.0)


@pytest.mark.parametrize("side", [1, -1])
def test_an_order_beyond_the_share_is_made_smaller_and_rounded_down(side):
    found = make().check(intent(quantity=500.0, side=side, price=77.7), book())
    assert isinstance(found, Reduced)
    assert (found.quantity, found.why) == (257.4, "max_symbol_share")
    assert found.quantity * 77.7 <= 20_000 < (found.quantity + 0.001) * 77.7
    assert "must be worth at most 20000.00 USDT, was to be 38850.00" in found.detail


def test_the_largest_position_in_usd_counts_where_it_is_smaller():
    guard = make(max_position_usd=1_000.0)
    assert guard.check(intent(quantity=50.0), book())[:2] == (10.0, "max_position_usd")


def test_what_is_held_and_under_way_leaves_less_room():
    guard = make()
    known = book({BTC: 150.0}, buying={BTC: 30.0})
    assert guard.check(intent(quantity=50.0), known)[:2] == (20.0, "max_symbol_share")
    full = book({BTC: 150.0}, buying={BTC: 50.0})
    assert guard.check(intent(quantity=1.0), full).why == "max_symbol_share"


def test_a_position_of_the_other_side_is_no_room():
    # Its stop may fill before the order does.
    assert make().check(intent(quantity=300.0, side=-1), book({BTC: 100.0})).quantity == 200.0


def test_a_position_that_would_be_too_small_is_refused():
    guard = make(min_position_usd=50.0)
    assert guard.check(intent(quantity=0.4), book()).why == "min_position_usd"
    assert guard.check(intent(quantity=0.4), book({BTC: 1.0})) == Allowed(0.4)


def test_what_is_left_of_an_order_must_be_enough_for_the_exchange():
    guard = make()
    nearly = book({BTC: 199.98})
    assert guard.check(intent(quantity=1.0), nearly).why == "below_minimum"
    assert guard.check(intent(quantity=1.0, min_quantity="0.05"), nearly).why == "below_minimum"
    assert guard.check(intent(quantity=1.0, min_notional="2"), nearly).quantity == 0.02


def test_fifteen_positions_refuse_the_sixteenth_but_not_more_of_one():
    guard = make()
    held = dict.fromkeys(NAMES[:15], 1.0)
    found = guard.check(intent(NAMES[15]), book(held))
    assert found.why == "max_positions"
    assert "must be at most 15" in found.detail
    assert guard.check(intent(NAMES[3]), book(held)) == Allowed(1.0)


def test_an_order_under_way_is_a_position_to_come():
    held = dict.fromkeys(NAMES[:13], -1.0)
    known = book(held, buying={NAMES[13]: 1.0}, selling={NAMES[14]: 1.0})
    assert make().check(intent(NAMES[15]), known).why == "max_positions"
    gone = book(held, buying={NAMES[13]: 0.0}, selling={NAMES[14]: 1.0})
    assert make().check(intent(NAMES[15]), gone) == Allowed(1.0)


@pytest.mark.parametrize("found", [False, True])
def test_five_correlated_longs_refuse_the_sixth(found):
    guard = make(correlation_groups={} if found else {"coins": NAMES[:8]})
    if found:
        guard.set_found_groups([frozenset(NAMES[:8])])
    held = dict.fromkeys(NAMES[:5], 1.0)
    refused = guard.check(intent(NAMES[5]), book(held))
    assert refused.why == "max_correlated"
    assert f"{NAMES[5]} moves with {NAMES[0]}" in refused.detail
    assert guard.check(intent(NAMES[4]), book(held)) == Allowed(1.0)
    assert guard.check(intent(NAMES[9]), book(held)) == Allowed(1.0)


def test_only_the_same_side_of_a_group_counts_where_the_policy_says_so():
    groups = {"coins": NAMES[:8]}
    held = dict.fromkeys(NAMES[:5], 1.0)
    short = intent(NAMES[5], side=-1)
    assert make(correlation_groups=groups).check(short, book(held)).why == "max_correlated"
    lenient = make(correlation_groups=groups, correlated_count="same_side")
    assert lenient.check(short, book(held)) == Allowed(1.0)
    assert lenient.check(intent(NAMES[5]), book(held)).why == "max_correlated"


# ---- losses


def test_at_the_daily_limit_everything_is_cancelled_flattened_and_blocked():
    guard = make()
    guard.on_positions(START, 3)
    guard.on_equity(START + NS_PER_HOUR, 97_000.01)
    assert guard.level == "normal"
    assert guard.actions(START + NS_PER_HOUR) == ()
    now = START + 2 * NS_PER_HOUR
    guard.on_equity(now, 97_000.0)
    assert (guard.level, guard.reasons) == ("reducing", "daily_loss")
    assert kinds(guard.actions(now)) == EVERYTHING
    assert guard.check(intent(ts=now), book(equity=97_000.0)).why == "halted"
    guard.on_positions(now + NS_PER_SECOND, 0)
    assert guard.level == "halted"
    assert kinds(guard.actions(now + NS_PER_HOUR)) == (Block,)


def test_the_next_utc_day_ends_a_halt_for_the_daily_loss():
    guard = make()
    guard.on_equity(START + NS_PER_HOUR, 96_000.0)
    guard.on_positions(START + NS_PER_HOUR, 0)
    last = START + NS_PER_DAY - 1
    guard.on_clock(last)
    assert guard.check(intent(ts=last), book(equity=96_000.0)).why == "halted"
    guard.on_data(START + NS_PER_DAY)
    assert guard.level == "normal"
    guard.on_equity(START + NS_PER_DAY, 96_000.0)
    assert guard.level == "normal"
    assert guard.state.day_start_equity == 96_000.0
    known = book(equity=96_000.0)
    assert guard.check(intent(ts=START + NS_PER_DAY), known) == Allowed(1.0)


def test_a_new_day_does_not_reopen_before_everything_is_flat():
    guard = make()
    guard.on_positions(START, 1)
    guard.on_equity(START + NS_PER_HOUR, 96_000.0)
    guard.on_clock(START + NS_PER_DAY)
    assert (guard.level, guard.reasons) == ("reducing", "daily_loss")
    guard.on_positions(START + NS_PER_DAY + 1, 0)
    assert guard.level == "normal"


def test_the_mark_at_midnight_closes_the_day_and_ends_trading_for_the_new_one():
    guard = make(**DRAWDOWN_OFF)
    guard.on_equity(START + NS_PER_DAY, 96_000.0)
    assert guard.reasons == "daily_loss"
    guard.on_positions(START + NS_PER_DAY, 0)
    guard.on_clock(START + 2 * NS_PER_DAY - 1)
    assert guard.level == "halted"
    guard.on_data(START + 2 * NS_PER_DAY)
    guard.on_equity(START + 2 * NS_PER_DAY, 96_000.0)
    assert "daily_loss" not in guard.reasons


def test_the_day_starts_with_its_first_mark():
    guard = make(**DRAWDOWN_OFF)
    guard.on_equity(START + NS_PER_DAY + NS_PER_HOUR, 110_000.0)
    guard.on_equity(START + NS_PER_DAY + 2 * NS_PER_HOUR, 106_800.0)
    assert guard.level == "normal"
    guard.on_equity(START + NS_PER_DAY + 2 * NS_PER_HOUR, 106_700.0)
    assert guard.reasons == "daily_loss"


def test_a_drawdown_outlasts_the_day_and_needs_a_person():
    guard = make(max_daily_loss=0.05, max_drawdown=0.1)
    for day, equity in enumerate((100_000.0, 96_000.0, 93_000.0, 90_000.0)):
        assert guard.level == "normal"
        guard.on_equity(START + day * NS_PER_DAY, equity)
    assert guard.reasons == "drawdown"
    now = START + 9 * NS_PER_DAY
    guard.on_positions(now, 0)
    guard.on_data(now)
    guard.on_equity(now, 99_000.0)
    assert guard.level == "halted"
    assert guard.release(now, "Ada") == "drawdown"
    # Losses count anew from here.
    guard.on_equity(now + 1, 95_000.0)
    assert guard.level == "normal"
    assert guard.state.peak_equity == 99_000.0


def test_the_peak_between_two_marks_counts():
    guard = make()
    guard.on_equity(START + 1, 99_000.0, peak=110_001.0)
    assert guard.reasons == "drawdown"


def test_a_loss_since_the_last_mark_is_seen_at_the_order():
    guard = make()
    assert guard.check(intent(), book(equity=96_999.0)).why == "halted"
    assert guard.reasons == "daily_loss"


def test_losses_in_a_row_end_the_day_and_a_gain_breaks_the_row():
    guard = make(max_consecutive_losses=3)
    for pnl in (-1.0, -1.0, 0.5, -1.0, -1.0, 0.0):
        guard.on_closed(START, pnl)
    assert guard.level == "normal"
    guard.on_closed(START, -0.01)
    assert guard.reasons == "consecutive_losses"
    # What the flattening closes is not counted.
    guard.on_closed(START, -5.0)
    assert guard.state.consecutive_losses == 3
    guard.on_positions(START, 0)
    guard.on_clock(START + NS_PER_DAY)
    assert (guard.level, guard.state.consecutive_losses) == ("normal", 0)


# ---- what says that something is broken


def test_rejections_within_an_hour_end_the_day():
    guard = make(max_rejected_orders=3)
    for minutes in (0, 50, 70, 115):
        guard.on_reject(START + minutes * NS_PER_MINUTE, "margin")
    assert guard.level == "normal"
    guard.on_reject(START + 120 * NS_PER_MINUTE, "margin")
    assert guard.reasons == "rejected_orders"
    assert "the last because of margin" in guard.state.holds["rejected_orders"].detail


@pytest.mark.parametrize(
    ("limits", "spacing"),
    [
        ({"max_orders_per_second": 3}, 0),
        ({"max_orders_per_second": 3, "max_orders_per_minute": 3}, 10 * NS_PER_SECOND),
    ],
)
def test_one_order_too_many_is_refused_and_ends_the_day(limits, spacing):
    guard = make(**limits)
    for number in range(3):
        assert guard.check(intent(NAMES[number], ts=START + number * spacing), book()).quantity
    refused = guard.check(intent(NAMES[3], ts=START + 3 * spacing), book())
    assert refused.why == "order_rate"
    assert guard.reasons == "order_rate"
    assert guard.check(intent(ts=START + NS_PER_HOUR), book()).why == "halted"


def test_orders_at_the_rate_pass_and_refused_ones_do_not_count():
    guard = make(max_orders_per_second=1, max_orders_per_minute=1)
    for number in range(5):
        now = START + number * NS_PER_MINUTE
        assert guard.check(intent(quantity=math.inf, ts=now), book()).why == "bad_quantity"
        assert guard.check(intent(ts=now), book()) == Allowed(1.0)


def test_what_only_reduces_is_never_refused_counted_or_made_smaller():
    guard = make(max_orders_per_second=1)
    closing = intent(quantity=1e9, reduce_only=True)
    for _ in range(1000):
        assert guard.check(closing, book()) == Allowed(1e9)
    assert guard.level == "normal"
    guard.halt(START, "stop")
    guard._holds.fail("broken")
    late = intent(quantity=3.0, price=math.nan, ts=0, reduce_only=True)
    assert guard.check(late, book(equity=-1.0)) == Allowed(3.0)


def test_without_data_the_day_ends_and_does_not_reopen_without_them():
    guard = make(max_data_age_secs=3_600.0)
    guard.on_positions(START, 0)
    assert guard.next_look_ns() == START + NS_PER_HOUR + 1
    guard.on_clock(START + NS_PER_HOUR)
    assert guard.level == "normal"
    guard.on_clock(guard.next_look_ns())
    assert guard.reasons == "stale_data"
    assert guard.next_look_ns() == START + NS_PER_DAY
    guard.on_clock(START + NS_PER_DAY)
    assert guard.level == "halted"
    guard.on_data(START + NS_PER_DAY + 1)
    assert guard.level == "normal"


def test_nothing_is_opened_in_an_instrument_whose_data_are_old_or_never_came():
    guard = make(max_data_age_secs=60.0)
    now = START + NS_PER_HOUR
    guard.on_data(now, NAMES[1], 100.0)
    assert guard.check(intent(NAMES[1], ts=now), book()) == Allowed(1.0)
    found = guard.check(intent(NAMES[2], ts=now), book())
    assert found.why == "stale_data"
    assert f"data of {NAMES[2]} must be at most 60 s old" in found.detail
    assert guard.level == "normal"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_a_price_or_an_equity_that_cannot_be_halts_until_a_person_releases(value):
    for tell, reason in (
        (lambda guard: guard.on_equity(START, value), "bad_equity"),
        (lambda guard: guard.on_equity(START, 100_000.0, value), "bad_equity"),
        (lambda guard: guard.on_data(START, BTC, value), "bad_price"),
        (lambda guard: guard.check(intent(price=value), book()), "bad_price"),
        (lambda guard: guard.check(intent(), book(equity=value)), "bad_equity"),
        (lambda guard: guard.on_fill(START, BTC, 1.0, value), "bad_fill"),
        (lambda guard: guard.on_fill(START, BTC, value, 1.0), "bad_fill"),
    ):
        guard = make()
        answer = tell(guard)
        assert guard.reasons == reason
        assert answer is None or answer.why == reason
        assert guard.check(intent(), book()).why == "halted"
        guard.on_positions(START, 0)
        guard.on_clock(START + 5 * NS_PER_DAY)
        assert reason in guard.reasons


def test_a_result_must_be_finite_and_a_quantity_usable():
    guard = make()
    assert guard.check(intent(quantity=math.nan), book()).why == "bad_quantity"
    assert guard.check(intent(quantity=0.0), book()).why == "bad_quantity"
    assert guard.level == "normal"
    guard.on_closed(START, math.nan)
    assert guard.reasons == "bad_fill"


# ---- kill switch, people


def test_the_kill_switch_holds_until_it_is_gone_and_a_person_releases():
    guard = make()
    guard.on_kill_switch(START)
    assert guard.reasons == "kill_switch"
    assert kinds(guard.actions(START)) == EVERYTHING
    guard.on_positions(START, 0)
    with pytest.raises(ConfigError, match="kill-switch file KILL_SWITCH must be gone before"):
        guard.release(START, "Ada")
    guard.on_kill_switch(START, present=False)
    guard.on_clock(START + 3 * NS_PER_DAY)
    assert guard.level == "halted"
    assert guard.release(START + 3 * NS_PER_DAY, "Ada") == "kill_switch"
    assert guard.level == "normal"


def test_a_person_halts_and_releases_only_when_flat():
    guard = make()
    guard.on_positions(START, 2)
    guard.halt(START, "Ada wants to look")
    with pytest.raises(ConfigError, match="must be flat before a release"):
        guard.release(START, "Ada")
    guard.on_positions(START, 0)
    guard.on_clock(START + NS_PER_DAY)
    assert guard.reasons == "manual"
    guard.release(START + NS_PER_DAY, "Ada")
    assert guard.level == "normal"


def test_an_unknown_reason_of_a_halt_still_halts():
    guard = make()
    guard.halt(START, "?", reason="mood")
    assert guard.reasons == "guard_failure"
    assert "reason must be one of daily_loss" in guard.state.holds["guard_failure"].detail


# ---- flattening


def test_flattening_is_asked_for_again_while_something_is_open():
    guard = make(flatten_retry_secs=2.0)
    guard.on_positions(START, 1)
    guard.halt(START, "now")
    assert kinds(guard.actions(START)) == EVERYTHING
    assert kinds(guard.actions(START + NS_PER_SECOND)) == (Block,)
    assert kinds(guard.actions(START + 2 * NS_PER_SECOND)) == EVERYTHING
    guard.on_positions(START + 3 * NS_PER_SECOND, 0)
    assert kinds(guard.actions(START + 9 * NS_PER_SECOND)) == (Block,)
    # An order that was under way has been filled after all.
    guard.on_positions(START + 10 * NS_PER_SECOND, 1)
    assert guard.level == "reducing"
    assert kinds(guard.actions(START + 10 * NS_PER_SECOND)) == EVERYTHING


def test_an_order_under_way_keeps_it_from_being_flat():
    guard = make()
    guard.on_positions(START, 0, n_orders=1)
    guard.halt(START, "now")
    assert guard.level == "reducing"
    guard.on_positions(START, 0, n_orders=0)
    assert guard.level == "halted"


def test_flat_or_not_the_flattening_is_asked_for_once():
    guard = make()
    guard.halt(START, "now")
    assert guard.level == "halted"
    assert kinds(guard.actions(START)) == EVERYTHING
    assert kinds(guard.actions(START)) == (Block,)


def test_an_order_that_was_let_pass_counts_as_open():
    guard = make()
    guard.check(intent(), book())
    guard.halt(START, "now")
    assert guard.level == "reducing"


# ---- time


def test_a_clock_that_jumps_back_is_refused():
    guard = make(max_clock_lag_secs=5.0)
    now = START + NS_PER_HOUR
    guard.on_data(now)
    guard.news()
    for back in (NS_PER_MINUTE, NS_PER_DAY):
        guard.on_clock(now - back)
    assert guard.state.ts == now
    assert [event.kind for event in guard.news()] == ["clock"]
    late = guard.check(intent(ts=now - 6 * NS_PER_SECOND), book())
    assert late.why == "clock"
    assert "must not be stamped more than 5 s before 2024-01-01 01:00:00" in late.detail
    assert guard.check(intent(ts=now - 5 * NS_PER_SECOND), book()) == Allowed(1.0)


def test_a_clock_that_goes_back_over_midnight_does_not_reopen_the_day_again():
    guard = make(**DRAWDOWN_OFF)
    guard.on_equity(START + NS_PER_DAY, 100_000.0)
    guard.on_equity(START + NS_PER_DAY - NS_PER_HOUR, 96_000.0)
    guard.on_positions(START + NS_PER_DAY, 0)
    guard.on_clock(START + NS_PER_DAY)
    assert guard.level == "halted"


def test_a_clock_that_jumps_a_day_rolls_it():
    guard = make(**DRAWDOWN_OFF)
    guard.on_equity(START + NS_PER_HOUR, 96_000.0)
    guard.on_positions(START + NS_PER_HOUR, 0)
    guard.on_clock(START + NS_PER_HOUR + NS_PER_DAY)
    assert guard.level == "normal"
    assert guard.state.day == START // NS_PER_DAY + 1


def test_a_person_may_set_back_a_clock_that_ran_ahead():
    guard = make(max_data_age_secs=3_600.0)
    guard.on_data(START + 400 * NS_PER_DAY)
    assert guard.check(intent(), book()).why == "clock"
    guard.on_positions(START, 0)
    guard.release(START, "Ada")
    assert guard.check(intent(), book()) == Allowed(1.0)
    guard.on_clock(START + 2 * NS_PER_HOUR)
    assert guard.reasons == "stale_data"


def test_the_end_of_the_day_is_looked_at():
    guard = Guard(policy())
    assert guard.next_look_ns() is None
    guard.on_equity(START + NS_PER_HOUR, 1.0)
    assert guard.next_look_ns() == START + NS_PER_DAY


# ---- another policy


def test_another_policy_counts_from_then_on_and_releases_nothing():
    guard = make()
    guard.adopt(START, policy(max_symbol_share=0.1))
    assert guard.check(intent(quantity=500.0), book()).quantity == 100.0
    guard.adopt(START, policy(max_daily_loss=0.01))
    guard.on_equity(START, 98_900.0)
    assert guard.reasons == "daily_loss"
    guard.adopt(START, policy(max_daily_loss=0.05))
    guard.on_equity(START, 98_900.0)
    assert guard.reasons == "daily_loss"
    guard.adopt(START, policy(correlation_groups={"a": NAMES[:2]}, max_correlated=1))
    assert guard.policy.max_correlated == 1


# ---- it fails safe


def test_an_exception_inside_check_blocks_trading(monkeypatch):
    guard = make()

    def broken(*_):
        raise ZeroDivisionError("broken on purpose")

    monkeypatch.setattr(guard_module, "fit", broken)
    found = guard.check(intent(), book())
    assert found.why == "guard_failure"
    assert "broken on purpose" in found.detail
    monkeypatch.undo()
    assert guard.check(intent(), book()).why == "halted"
    assert guard.reasons == "guard_failure"
    assert kinds(guard.actions(START)) == EVERYTHING
    assert guard.check(intent(reduce_only=True), book()) == Allowed(1.0)
    guard.on_positions(START, 0)
    guard.on_data(START + NS_PER_DAY)
    assert guard.reasons == "guard_failure"
    guard.release(START + NS_PER_DAY, "Ada")
    assert guard.check(intent(ts=START + NS_PER_DAY), book()) == Allowed(1.0)


@pytest.mark.parametrize(
    "event",
    [
        lambda guard: guard.on_equity(START, None),
        lambda guard: guard.on_equity(None, 1.0),
        lambda guard: guard.on_data(START, BTC, "100"),
        lambda guard: guard.on_clock("now"),
        lambda guard: guard.on_closed(START, None),
        lambda guard: guard.on_fill(START, BTC, None, 1.0),
        lambda guard: guard.on_reject(None),
        lambda guard: guard.on_positions(None, 1),
        lambda guard: guard.on_kill_switch(None),
        lambda guard: guard.adopt(START, None),
        lambda guard: guard.halt(None, "x"),
        lambda guard: guard.check(intent(price=None), book()),
        lambda guard: guard.check(intent(), None),
        lambda guard: guard.check(intent(ts=None), book()),
        lambda guard: guard.set_found_groups([None]) or guard.check(intent(), book()),
    ],
)
def test_an_event_that_makes_no_sense_blocks_trading_and_raises_nothing(event):
    guard = make()
    event(guard)
    assert guard.reasons == "guard_failure"
    assert guard.check(intent(), book()).why == "halted"
    assert guard.actions(START) != ()


def test_a_state_that_is_broken_still_blocks():
    guard = make()
    guard.state.holds = None
    guard.on_equity(START, 96_000.0)
    assert guard._holds.failed
    assert guard.check(intent(), book()).why in ("guard_failure", "halted")
    assert kinds(guard.actions(START)) == EVERYTHING
    assert guard.check(intent(reduce_only=True), book()) == Allowed(1.0)


# ---- what is told


def test_what_happened_is_told_once_and_remembered():
    guard = make()
    guard.on_equity(START + NS_PER_HOUR, 96_000.0)
    guard.on_equity(START + NS_PER_HOUR, 95_000.0)
    (told,) = guard.news()
    assert (told.ts, told.kind, told.reason) == (START + NS_PER_HOUR, "hold", "daily_loss")
    assert told.level == "halted"
    assert told.detail == (
        "equity must stay above 97.00% of the day's start 100000.00 USDT, was 96000.00"
    )
    assert guard.news() == ()
    guard.on_data(START + NS_PER_DAY)
    assert [event.kind for event in guard.news()] == ["release"]
    assert [event.kind for event in guard.state.history] == ["hold", "release"]


def test_the_history_does_not_grow_without_end():
    guard = make()
    for _ in range(MAX_HISTORY + 50):
        guard.adopt(START, policy())
    assert len(guard.state.history) == MAX_HISTORY


def test_the_words_are_those_of_the_rules():
    daily = {reason for reason, release in HOLDS.items() if release == NEXT_DAY}
    assert daily == {
        "daily_loss",
        "consecutive_losses",
        "order_rate",
        "rejected_orders",
        "stale_data",
    }
    assert len(set(REFUSALS)) == len(REFUSALS) < 127
    assert isinstance(make().check(intent(quantity=-1.0), book()), Refused)
